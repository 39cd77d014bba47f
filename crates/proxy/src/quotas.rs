//! Keeps on the disk what policies must not forget in a restart: what each key has used of its quotas, and which sessions were given up. In one
//! file, written in batches behind the requests.
//!
//! Started by [`crate::Proxy::apply`] when a configuration first has a quota, or a login whose provider tells of logouts, before that comes into
//! force; a thread of its own, because a disk may take its time. The counting, and how much may be used that is not yet written, is the
//! engine's [`Book`]; who waits for a logout to be written is the business of [`Ended`]. A file that cannot be used is told in the log: policies
//! then do as their `onUnavailable` says, providers are told that a logout cannot be taken, and where it could not be read since the start,
//! sessions of before count as ended.

mod file;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use transept_engine::limit::book::{BOOK, Bell, Book, Call};
use transept_engine::login::ended::{ENDED, Ended};
use transept_engine::snapshot::Snapshot;

use crate::documents::escape;

use self::file::{Contents, File, Version, is_damaged, remedy};

/// The least time between two batches that nobody waits for.
const PACE: Duration = Duration::from_millis(50);
/// How soon a write that has failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often what belongs to periods that are over is thrown away.
const CLEAN: Duration = Duration::from_secs(3600);

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
            damaged: None,
            seed: what.book.as_ref().and_then(|book| book.seed()),
            is_attached: false,
            calls: calls.clone(),
            what: what.clone(),
            inbox,
            can_write: true,
            told: None,
            cleaned: Instant::now(),
        };
        match keeper.open() {
            Ok(keys) => tracing::info!(file = %path.display(), keys, "{} are kept", what.name()),
            Err(error) => {
                tracing::error!(file = %path.display(), %error, remedy = remedy(&error), "{} cannot be kept", what.name());
                keeper.can_write = false;
                keeper.told = Some(remedy(&error));
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

/// The thread that writes.
struct Keeper {
    path: PathBuf,
    /// None while it cannot be opened, and after an error: a database that has failed once answers nothing any more.
    file: Option<File>,
    /// The file that was found damaged, which is not read again until it is another one.
    damaged: Option<Version>,
    /// That of the hashes in the book, once it has one.
    seed: Option<u64>,
    /// Whether what was in the file has been taken in.
    is_attached: bool,
    calls: SyncSender<Message>,
    what: What,
    inbox: Receiver<Message>,
    can_write: bool,
    /// What the log last said is to be done, so that it tells when that is something else.
    told: Option<&'static str>,
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
        if self.damaged.is_some() && self.damaged == Version::of(&self.path) {
            return Err(Box::new(redb::Error::Corrupted("it has not changed since".to_owned())));
        }
        let opened = File::open(&self.path, self.seed);
        let is_damaged = opened.as_ref().is_err_and(|error| is_damaged(error));
        self.damaged = if is_damaged { Version::of(&self.path) } else { None };
        let (file, Contents { seed, counts, ended }) = opened?;
        let keys = counts.len() + ended.len();
        if !std::mem::replace(&mut self.is_attached, true) {
            if let Some(book) = &self.what.book {
                book.attach(seed, counts, seconds_now(), self.bell());
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
            if let Some(book) = &self.what.book {
                book.clean(seconds_now());
            }
        }
        self.tell_news();
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

    /// Says once of each quota that it has more keys than it remembers.
    fn tell_news(&self) {
        for quota in self.what.book.iter().flat_map(|book| book.news()) {
            let remedy = "raise its `maxKeys`, or count by what a client cannot invent";
            tracing::warn!(
                quota,
                remedy,
                "there are more keys than are remembered: those that have used least are forgotten, and where all have used more than half, new ones share \
                 one count"
            );
        }
    }

    fn note_failure(&mut self, error: &redb::Error) {
        let remedy = remedy(error);
        let is_other = self.told.replace(remedy) != Some(remedy);
        if std::mem::replace(&mut self.can_write, false) || is_other {
            tracing::error!(file = %self.path.display(), %error, remedy, "{} cannot be written", self.what.name());
        }
        self.what.note_health(false);
    }
}

/// Seconds since 1970.
fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Appends how many keys of quotas were forgotten, in the Prometheus text format.
pub(crate) fn write_metrics(forgotten: &[(String, u64)], is_written: bool, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "# HELP transept_quotas_written Whether what is used of quotas can be written to the disk.\n\
         # TYPE transept_quotas_written gauge\ntransept_quotas_written {}\n",
        u8::from(is_written)
    );
    if forgotten.is_empty() {
        return;
    }
    out.push_str(
        "# HELP transept_quota_keys_forgotten_total Keys that have given way to others because a quota has more than `maxKeys`.\n\
         # TYPE transept_quota_keys_forgotten_total counter\n",
    );
    for (quota, number) in forgotten {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "transept_quota_keys_forgotten_total{{quota=\"{}\"}} {number}", escape(quota));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_emptied_is_unread_until_there_is_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("quotas.redb");
        std::fs::write(&path, "").expect("written");
        let (calls, inbox) = sync_channel(64);
        let ended = Arc::new(Ended::default());
        let mut keeper = Keeper {
            path: path.clone(),
            file: None,
            damaged: None,
            seed: None,
            is_attached: false,
            calls,
            what: What { book: None, ended: Some(ended.clone()) },
            inbox,
            can_write: false,
            told: None,
            cleaned: Instant::now(),
        };
        assert!(keeper.open().is_err());
        ended.note_unread(Duration::from_secs(5));
        keeper.write();
        assert_eq!((ended.unread_since(), keeper.can_write), (Some(Duration::from_secs(5)), false));
        assert!(keeper.told.is_some_and(|told| told.contains("damaged")));
        std::fs::remove_file(&path).expect("removed");
        drop(File::open(&path, None).expect("a file"));
        keeper.write();
        assert_eq!((ended.unread_since(), keeper.can_write), (None, true));
    }
}
