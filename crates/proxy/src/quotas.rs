//! Keeps quotas on the disk: what each key has used, in one file, written in batches behind the requests.
//!
//! Started by [`crate::Proxy::apply`] when a configuration first has a quota, before that comes into force; a thread of its own, because
//! a disk may take its time. The counting, and how much may be used that is not yet written, is the engine's [`Book`]. A file that cannot
//! be used is told in the log, and policies then do as their `onUnavailable` says.

use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use transept_engine::limit::book::{BOOK, Book, Call, Count, Period};
use transept_engine::snapshot::Snapshot;

/// What a key has used: the hash of the key; the beginning and the end of its period, and what it has used in it.
const USED: TableDefinition<'_, u128, (u64, u64, u64)> = TableDefinition::new("used-1");
/// Numbers by name.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers-1");
/// The seed of the hashes.
const SEED: &str = "seed";

/// The least time between two batches that nobody waits for.
const PACE: Duration = Duration::from_millis(50);
/// How soon a write that has failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often what belongs to periods that are over is thrown away.
const CLEAN: Duration = Duration::from_secs(3600);
/// Memory for pages of the file.
const CACHE: usize = 16 << 20;

/// The file, once some configuration needs it.
pub(crate) struct Quotas {
    path: Option<PathBuf>,
    keeping: Option<Keeping>,
}

struct Keeping {
    calls: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
    book: Arc<Book>,
}

enum Message {
    Call(Call),
    End,
}

impl Quotas {
    /// Keeps quotas in this file; without one they are kept in memory.
    pub(crate) fn new(path: Option<PathBuf>) -> Quotas {
        Quotas { path, keeping: None }
    }

    /// Begins to keep the quotas of a configuration, if it is the first that has any.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot) {
        let Some(book) = snapshot.keep.known::<Book>(BOOK) else {
            return;
        };
        if self.keeping.as_ref().is_some_and(|keeping| Arc::ptr_eq(&keeping.book, &book)) {
            return;
        }
        self.close();
        let Some(path) = &self.path else {
            return;
        };
        let (calls, inbox) = sync_channel(64);
        let mut keeper = Keeper {
            path: path.clone(),
            file: None,
            seed: None,
            calls: calls.clone(),
            book: Arc::clone(&book),
            inbox,
            can_write: true,
            cleaned: Instant::now(),
        };
        match keeper.open() {
            Ok(keys) => tracing::info!(file = %path.display(), keys, "quotas are kept"),
            Err(error) => {
                tracing::error!(file = %path.display(), %error, remedy = remedy(&error), "quotas cannot be kept");
                keeper.can_write = false;
                book.note_health(false);
            }
        }
        match std::thread::Builder::new().name("quotas".into()).spawn(move || keeper.keep()) {
            Ok(thread) => self.keeping = Some(Keeping { calls, thread: Some(thread), book }),
            Err(error) => {
                tracing::error!(%error, "quotas cannot be kept");
                book.note_health(false);
            }
        }
    }

    /// Writes what is left and closes the file.
    pub(crate) fn close(&mut self) {
        if let Some(mut keeping) = self.keeping.take() {
            // Blocks at most until the thread has read what is before it.
            let _ = keeping.calls.send(Message::End);
            if let Some(thread) = keeping.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// The open file, the seed in it, and what is still counted.
type Opened = (File, u64, Vec<(u128, Count)>);

/// The open file.
struct File {
    database: Database,
}

/// What to do about a file that cannot be opened.
fn remedy(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::DatabaseAlreadyOpen => {
            "another process has the file: give this one a file of its own with --quotas FILE"
        }
        _ => "see that the directory is there and can be written to, or name another file with --quotas FILE",
    }
}

impl File {
    /// Opens the file or makes it, readable for its owner only: the seed, and what is still counted. A seed that is in use already is the
    /// one of the file from now on.
    fn open(path: &Path, seed: Option<u64>) -> Result<Opened, Box<redb::Error>> {
        let wrong = |error: redb::Error| Box::new(error);
        if let Some(directory) = path.parent() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(|error| wrong(error.into()))?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|error| wrong(error.into()))?;
        let database =
            redb::Builder::new().set_cache_size(CACHE).create_file(file).map_err(|error| wrong(error.into()))?;
        let file = File { database };
        let (seed, counts) = file.begin(seed).map_err(wrong)?;
        Ok((file, seed, counts))
    }

    fn begin(&self, seed: Option<u64>) -> Result<(u64, Vec<(u128, Count)>), redb::Error> {
        let write = self.database.begin_write()?;
        let seed = {
            let mut numbers = write.open_table(NUMBERS)?;
            let known = numbers.get(SEED)?.map(|seed| seed.value());
            let seed = seed.or(known).unwrap_or_else(|| RandomState::new().hash_one(SEED));
            if known != Some(seed) {
                numbers.insert(SEED, seed)?;
            }
            seed
        };
        write.open_table(USED)?;
        write.commit()?;
        self.clean()?;
        let mut counts = Vec::new();
        for row in self.database.begin_read()?.open_table(USED)?.iter()? {
            let (hash, row) = row?;
            let (begin, end, used) = row.value();
            counts.push((hash.value(), Count { period: Period { begin, end }, used }));
        }
        Ok((seed, counts))
    }

    /// Writes all or nothing, and returns when it is on the disk.
    fn write(&self, counts: &[(u128, Count)]) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut used = write.open_table(USED)?;
            for (hash, count) in counts {
                used.insert(hash, (count.period.begin, count.period.end, count.used))?;
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Throws away what belongs to periods that are over. A day later, because clocks are set back.
    fn clean(&self) -> Result<(), redb::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let write = self.database.begin_write()?;
        write.open_table(USED)?.retain(|_, (_, end, _)| end + 86_400 > now)?;
        write.commit()?;
        Ok(())
    }
}

/// The thread that writes.
struct Keeper {
    path: PathBuf,
    /// None while it cannot be opened, and after an error: a database that has failed once answers nothing any more.
    file: Option<File>,
    /// That of the hashes in the book, once it has one.
    seed: Option<u64>,
    calls: SyncSender<Message>,
    book: Arc<Book>,
    inbox: Receiver<Message>,
    can_write: bool,
    cleaned: Instant,
}

impl Keeper {
    fn keep(mut self) {
        let mut last = Instant::now();
        loop {
            let message = if self.can_write {
                self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.inbox.recv_timeout(AGAIN)
            };
            let (goes_on, awaited) = match message {
                Ok(Message::Call(call)) => (true, call == Call::Awaited),
                Err(RecvTimeoutError::Timeout) => (true, true),
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => (false, true),
            };
            let pause = if self.can_write { PACE } else { AGAIN };
            let goes_on = goes_on && self.gather(last + pause, awaited && self.can_write);
            self.write();
            last = Instant::now();
            if !goes_on {
                return;
            }
        }
    }

    /// Waits until there is a batch: until `due`, or until somebody waits for it. False when it is the last.
    fn gather(&self, due: Instant, mut awaited: bool) -> bool {
        while !awaited {
            match self.inbox.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(Message::Call(call)) => awaited = call == Call::Awaited && self.can_write,
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => return true,
            }
        }
        true
    }

    /// Opens the file, and tells how many keys are in it. The first time the book begins with them.
    fn open(&mut self) -> Result<usize, Box<redb::Error>> {
        let (file, seed, counts) = File::open(&self.path, self.seed)?;
        let keys = counts.len();
        if self.seed.is_none() {
            let calls = self.calls.clone();
            // A full channel is one that will be read: nothing is lost.
            let bell = Box::new(move |call| drop(calls.try_send(Message::Call(call))));
            self.book.attach(seed, counts, bell);
            self.seed = Some(seed);
        }
        self.file = Some(file);
        Ok(keys)
    }

    fn write(&mut self) {
        if self.file.is_none()
            && let Err(error) = self.open()
        {
            self.note_failure(&error);
            return;
        }
        let Some(file) = &self.file else { return };
        let counts = self.book.take_changed();
        // Also with nothing to write, when nothing could be written before.
        let mut written = file.write(&counts);
        match &written {
            Ok(()) => self.book.note_written(&counts),
            Err(_) => self.book.note_unwritten(&counts),
        }
        if written.is_ok() && self.cleaned.elapsed() > CLEAN {
            self.cleaned = Instant::now();
            written = file.clean();
        }
        match written {
            Ok(()) if !std::mem::replace(&mut self.can_write, true) => {
                tracing::info!("quotas can be written again");
                self.book.note_health(true);
            }
            Ok(()) => {}
            Err(error) => {
                self.file = None;
                self.note_failure(&error);
            }
        }
    }

    fn note_failure(&mut self, error: &redb::Error) {
        if std::mem::replace(&mut self.can_write, false) {
            tracing::error!(%error, "quotas cannot be written");
        }
        self.book.note_health(false);
    }
}
