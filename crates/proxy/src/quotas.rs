//! Keeps on the disk what policies must not forget in a restart: what each key has used of its quotas, and which sessions were given up. In one
//! file, written in batches behind the requests.
//!
//! Started by [`crate::Proxy::apply`] when a configuration first has a quota, or a login whose provider tells of logouts, before that comes into
//! force; a thread of its own, because a disk may take its time. The counting, and how much may be used that is not yet written, is the
//! engine's [`Book`]; who waits for a logout to be written is the business of [`Ended`]. A file that cannot be used is told in the log: policies
//! then do as their `onUnavailable` says, providers are told that a logout cannot be taken, and where it could not be read since the start,
//! sessions of before count as ended.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use transept_engine::limit::book::{BOOK, Bell, Book, Call, Count, Period};
use transept_engine::login::ended::{ENDED, End, Ended, MOST_KEPT, Subject};
use transept_engine::snapshot::Snapshot;

/// What a key has used: the hash of the key; the beginning and the end of its period, and what it has used in it.
const USED: TableDefinition<'_, u128, (u64, u64, u64)> = TableDefinition::new("used-1");
/// Numbers by name.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers-1");
/// What was given up: the hash of what it is about; when, and until when that must be known, in seconds since 1970.
const GIVEN_UP: TableDefinition<'_, &Subject, (u64, u64)> = TableDefinition::new("given-up-1");
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
    what: What,
}

/// What is kept.
#[derive(Clone, Default)]
struct What {
    book: Option<Arc<Book>>,
    ended: Option<Arc<Ended>>,
}

impl What {
    /// What a configuration wants to be kept, and what is kept already.
    fn wanted(snapshot: &Snapshot, kept: Option<&What>) -> What {
        let kept = kept.cloned().unwrap_or_default();
        let ended = snapshot.keep.known::<Ended>(ENDED).filter(|ended| ended.is_wanted());
        What { book: snapshot.keep.known::<Book>(BOOK).or(kept.book), ended: ended.or(kept.ended) }
    }

    fn is(&self, other: &What) -> bool {
        let pointers = |what: &What| (what.book.as_ref().map(Arc::as_ptr), what.ended.as_ref().map(Arc::as_ptr));
        pointers(self) == pointers(other)
    }

    /// In a word, for logs.
    fn name(&self) -> &'static str {
        match (&self.book, &self.ended) {
            (_, None) => "quotas",
            (None, Some(_)) => "logouts",
            (Some(_), Some(_)) => "quotas and logouts",
        }
    }

    fn note_health(&self, can_write: bool) {
        if let Some(book) = &self.book {
            book.note_health(can_write);
        }
        if let Some(ended) = &self.ended {
            ended.note_health(can_write);
        }
    }
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

    /// Begins to keep what a configuration wants to be kept, if it is the first that does.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot) {
        let kept = self.keeping.as_ref().map(|keeping| &keeping.what);
        let what = What::wanted(snapshot, kept);
        if kept.is_some_and(|kept| what.is(kept)) || what.is(&What::default()) {
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
            seed: what.book.as_ref().and_then(|book| book.seed()),
            is_attached: false,
            calls: calls.clone(),
            what: what.clone(),
            inbox,
            can_write: true,
            cleaned: Instant::now(),
        };
        match keeper.open() {
            Ok(keys) => tracing::info!(file = %path.display(), keys, "{} are kept", what.name()),
            Err(error) => {
                tracing::error!(file = %path.display(), %error, remedy = remedy(&error), "{} cannot be kept", what.name());
                keeper.can_write = false;
                what.note_health(false);
                if let Some(ended) = &what.ended {
                    ended.note_unread(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
                    if ended.unread_since().is_some() {
                        tracing::warn!(
                            file = %path.display(),
                            "which sessions have ended cannot be read: who is logged in has to log in again until it can"
                        );
                    }
                }
            }
        }
        match std::thread::Builder::new().name("quotas".into()).spawn(move || keeper.keep()) {
            Ok(thread) => self.keeping = Some(Keeping { calls, thread: Some(thread), what }),
            Err(error) => {
                tracing::error!(%error, "{} cannot be kept", what.name());
                what.note_health(false);
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

/// What is in the file.
struct Contents {
    seed: u64,
    /// What is still counted.
    counts: Vec<(u128, Count)>,
    /// What was given up and is not over by itself.
    ended: HashMap<Subject, End>,
}

/// The open file.
struct File {
    database: Database,
}

/// What to do about a file that nobody can read any more.
const DAMAGED: &str = "the file is damaged: put a copy of it in its place, or move it away to begin a new one, which knows of no quota that was \
                       used and of no session that has ended";

/// What to do about a file that cannot be opened.
fn remedy(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::DatabaseAlreadyOpen => {
            "another process has the file: give this one a file of its own with --quotas FILE"
        }
        redb::Error::Corrupted(_) | redb::Error::RepairAborted | redb::Error::UpgradeRequired(_) => DAMAGED,
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => DAMAGED,
        _ => "see that the directory is there and can be written to, or name another file with --quotas FILE",
    }
}

impl File {
    /// Opens the file or makes it, readable for its owner only. A seed that is in use already is the one of the file from now on.
    fn open(path: &Path, seed: Option<u64>) -> Result<(File, Contents), Box<redb::Error>> {
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
        let contents = file.begin(seed).map_err(wrong)?;
        Ok((file, contents))
    }

    fn begin(&self, seed: Option<u64>) -> Result<Contents, redb::Error> {
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
        write.open_table(GIVEN_UP)?;
        write.commit()?;
        self.clean()?;
        let (mut counts, mut ended) = (Vec::new(), HashMap::new());
        let read = self.database.begin_read()?;
        for row in read.open_table(USED)?.iter()? {
            let (hash, row) = row?;
            let (begin, end, used) = row.value();
            counts.push((hash.value(), Count { period: Period { begin, end }, used }));
        }
        for row in read.open_table(GIVEN_UP)?.iter()? {
            let (subject, row) = row?;
            let (at, until) = row.value();
            ended.insert(*subject.value(), End { at: Duration::from_secs(at), until: Duration::from_secs(until) });
        }
        Ok(Contents { seed, counts, ended })
    }

    /// Writes all or nothing, and returns when it is on the disk.
    fn write(&self, counts: &[(u128, Count)], ended: &[(Subject, End)]) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut used = write.open_table(USED)?;
            for (hash, count) in counts {
                used.insert(hash, (count.period.begin, count.period.end, count.used))?;
            }
            let mut given_up = write.open_table(GIVEN_UP)?;
            for (subject, end) in ended {
                // A part of a second counts whole: what is known too long does no harm.
                given_up.insert(subject, (end.at.as_secs(), end.until.as_secs().saturating_add(1)))?;
            }
            make_room(&mut given_up, MOST_KEPT)?;
        }
        write.commit()?;
        Ok(())
    }

    /// Throws away what belongs to periods that are over. A day later, because clocks are set back.
    fn clean(&self) -> Result<(), redb::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let write = self.database.begin_write()?;
        write.open_table(USED)?.retain(|_, (_, end, _)| end + 86_400 > now)?;
        write.open_table(GIVEN_UP)?.retain(|_, (_, until)| until.saturating_add(86_400) > now)?;
        write.commit()?;
        Ok(())
    }
}

/// Forgets what ends first where there is more than this, and some more, so that this is not done for each.
fn make_room(given_up: &mut redb::Table<'_, &Subject, (u64, u64)>, most: usize) -> Result<(), redb::Error> {
    if given_up.len()? <= most as u64 {
        return Ok(());
    }
    let mut ends = Vec::with_capacity(most);
    for row in given_up.iter()? {
        ends.push(row?.1.value().1);
    }
    let stay = most - most / 8;
    let over = ends.len().saturating_sub(stay + 1);
    let (_, last, _) = ends.select_nth_unstable(over);
    let last = *last;
    given_up.retain(|_, (_, until)| until > last)?;
    Ok(())
}

/// The thread that writes.
struct Keeper {
    path: PathBuf,
    /// None while it cannot be opened, and after an error: a database that has failed once answers nothing any more.
    file: Option<File>,
    /// That of the hashes in the book, once it has one.
    seed: Option<u64>,
    /// Whether what was in the file has been taken in.
    is_attached: bool,
    calls: SyncSender<Message>,
    what: What,
    inbox: Receiver<Message>,
    can_write: bool,
    cleaned: Instant,
}

impl Keeper {
    fn keep(mut self) {
        // Of what has changed while nobody was called.
        self.write();
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

    /// Opens the file, and tells how many keys are in it. The first time what is kept begins with them.
    fn open(&mut self) -> Result<usize, Box<redb::Error>> {
        let (file, Contents { seed, counts, ended }) = File::open(&self.path, self.seed)?;
        let keys = counts.len() + ended.len();
        if !std::mem::replace(&mut self.is_attached, true) {
            if let Some(book) = &self.what.book {
                book.attach(seed, counts, self.bell());
            }
            if let Some(list) = &self.what.ended {
                list.attach(ended, self.bell());
            }
            self.seed = Some(seed);
        }
        self.file = Some(file);
        Ok(keys)
    }

    fn bell(&self) -> Bell {
        let calls = self.calls.clone();
        // A full channel is one that will be read: nothing is lost.
        Box::new(move |call| drop(calls.try_send(Message::Call(call))))
    }

    fn write(&mut self) {
        if self.file.is_none()
            && let Err(error) = self.open()
        {
            self.note_failure(&error);
            return;
        }
        let Some(file) = &self.file else { return };
        let counts = self.what.book.as_ref().map(|book| book.take_changed()).unwrap_or_default();
        let ended = self.what.ended.as_ref().map(|ended| ended.take_unwritten());
        // Also with nothing to write, when nothing could be written before.
        let mut written = file.write(&counts, ended.as_ref().map_or(&[][..], |batch| &batch.ends));
        if let Some(book) = &self.what.book {
            match &written {
                Ok(()) => book.note_written(&counts),
                Err(_) => book.note_unwritten(&counts),
            }
        }
        if let (Some(list), Some(batch)) = (&self.what.ended, ended) {
            match &written {
                Ok(()) => list.note_written(&batch),
                Err(_) => list.note_unwritten(batch),
            }
        }
        if written.is_ok() && self.cleaned.elapsed() > CLEAN {
            self.cleaned = Instant::now();
            written = file.clean();
        }
        match written {
            Ok(()) if !std::mem::replace(&mut self.can_write, true) => {
                tracing::info!("{} can be written again", self.what.name());
                self.what.note_health(true);
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
            tracing::error!(%error, "{} cannot be written", self.what.name());
        }
        self.what.note_health(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_room_what_ends_first_is_forgotten() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, _) = File::open(&directory.path().join("quotas.redb"), None).expect("a file");
        let write = file.database.begin_write().expect("a transaction");
        let mut table = write.open_table(GIVEN_UP).expect("a table");
        for number in 0..17 {
            table.insert(&[number; 32], (0, 100 - u64::from(number))).expect("inserted");
        }
        make_room(&mut table, 16).expect("made");
        let ends: Vec<u64> = table.iter().expect("rows").map(|row| row.expect("a row").1.value().1).collect();
        assert_eq!(ends, (87..=100).rev().collect::<Vec<u64>>());
    }

    #[test]
    fn a_damaged_file_and_one_of_another_process_have_their_own_remedies() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("quotas.redb");
        let held = File::open(&path, None).expect("a file");
        let remedy_of = || remedy(&File::open(&path, None).err().expect("it cannot be used"));
        assert!(remedy_of().contains("another process"));
        drop(held);
        std::fs::write(&path, "this is no database, and long enough to look like one".repeat(1000)).expect("written");
        assert!(remedy_of().contains("damaged"), "{}", remedy_of());
    }
}
