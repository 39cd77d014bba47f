//! Decides when a burst of file events is over, so that nobody reads a file while it is being written.
//!
//! Called by `follow` with the events that `watch` let through. Pure: the caller brings the time. An editor that renames a
//! finished file into place costs [`QUIET`]; one that truncates and writes is awaited until it closes the file, because an empty
//! file is a valid configuration and would take every route, and every policy, away for a moment. A writer that never closes its file is
//! awaited for [`STALLED`] after it has written last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long nothing may happen before the sources are read, when every file is closed.
pub(crate) const QUIET: Duration = Duration::from_millis(3);
/// The same after a change of a file that a Secret names: a certificate and its key are two files, and between them the pair
/// does not fit, which would close the listener.
pub(crate) const PAIR: Duration = Duration::from_millis(250);
/// How long to wait after a file has vanished: most editors put another in its place at once.
pub(crate) const VANISHED: Duration = Duration::from_millis(50);
/// How long to wait after the last write to a file that its writer does not close: what computes long before it writes has truncated its
/// file before.
pub(crate) const STALLED: Duration = Duration::from_secs(10);
/// The longest that files which are not closed may put off reading.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);
/// The longest that a steady stream of events may put off reading while every file is closed; who waits longer is told why.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// What happened to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Somebody is writing to it.
    Writing(PathBuf),
    /// It is complete: closed after writing, or renamed into place.
    Complete(PathBuf),
    /// It is gone: removed, or renamed away.
    Vanished(PathBuf),
}

/// The burst that is going on.
#[derive(Debug, Default)]
pub(crate) struct Settle {
    /// Files that are written to, and when each was last.
    writing: BTreeMap<PathBuf, Instant>,
    vanished: BTreeSet<PathBuf>,
    quiet: Duration,
    first: Option<Instant>,
    due: Option<Instant>,
    /// Whether it was told whose end is awaited.
    told: bool,
}

impl Change {
    /// The file.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Change::Writing(path) | Change::Complete(path) | Change::Vanished(path) => path,
        }
    }
}

impl Settle {
    /// Takes a change into account; `quiet` is [`QUIET`] or [`PAIR`].
    pub(crate) fn note(&mut self, change: Change, quiet: Duration, now: Instant) {
        self.quiet = self.quiet.max(quiet);
        match change {
            Change::Writing(path) => {
                self.vanished.remove(&path);
                self.writing.insert(path, now);
            }
            Change::Complete(path) => {
                self.vanished.remove(&path);
                self.writing.remove(&path);
            }
            Change::Vanished(path) => {
                self.writing.remove(&path);
                self.vanished.insert(path);
            }
        }
        let first = *self.first.get_or_insert(now);
        let quiet = if self.vanished.is_empty() { self.quiet } else { VANISHED.max(self.quiet) };
        let soon = (now + quiet).min(first + PATIENCE);
        // A file that rests is not awaited for longer because another one is written to.
        let stalled = self.writing.values().max().map(|latest| (*latest + STALLED).min(first + LONGEST));
        self.due = Some(stalled.map_or(soon, |stalled| stalled.max(soon)));
    }

    /// When the sources should be read, if anything happened.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// When it should be told whose end is awaited, if that takes long.
    pub(crate) fn tell_at(&self) -> Option<Instant> {
        let first = self.first.filter(|_| !self.told && !self.writing.is_empty())?;
        Some(first + PATIENCE)
    }

    /// The file whose end is awaited, when that is to be told: once in a burst.
    pub(crate) fn tell(&mut self, now: Instant) -> Option<&Path> {
        self.tell_at().filter(|at| *at <= now)?;
        self.told = true;
        self.open()
    }

    /// A file that somebody has written to and not closed.
    pub(crate) fn open(&self) -> Option<&Path> {
        self.writing.keys().next().map(PathBuf::as_path)
    }

    /// Forgets the burst: the sources are being read now.
    pub(crate) fn clear(&mut self) {
        *self = Settle::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> PathBuf {
        PathBuf::from("/etc/transept/shop.yaml")
    }

    #[test]
    fn a_rename_into_place_settles_at_once() {
        let now = Instant::now();
        let mut settle = Settle::default();
        assert_eq!(settle.due(), None);
        settle.note(Change::Complete(path()), QUIET, now);
        assert_eq!(settle.due(), Some(now + QUIET));
    }

    #[test]
    fn a_file_being_written_is_awaited_until_it_is_closed() {
        let now = Instant::now();
        let mut settle = Settle::default();
        settle.note(Change::Writing(path()), QUIET, now);
        assert_eq!(settle.due(), Some(now + STALLED));
        let later = now + Duration::from_millis(20);
        settle.note(Change::Complete(path()), QUIET, later);
        assert_eq!(settle.due(), Some(later + QUIET));
    }

    #[test]
    fn a_file_that_vanished_may_come_back() {
        let now = Instant::now();
        let mut settle = Settle::default();
        settle.note(Change::Vanished(path()), QUIET, now);
        assert_eq!(settle.due(), Some(now + VANISHED));
        settle.note(Change::Complete(path()), QUIET, now);
        assert_eq!(settle.due(), Some(now + QUIET));
    }

    #[test]
    fn a_key_waits_for_its_certificate() {
        let now = Instant::now();
        let mut settle = Settle::default();
        settle.note(Change::Complete(path()), PAIR, now);
        assert_eq!(settle.due(), Some(now + PAIR));
        let later = now + Duration::from_millis(20);
        settle.note(Change::Complete(path()), QUIET, later);
        assert_eq!(settle.due(), Some(later + PAIR));
    }

    #[test]
    fn patience_ends_even_when_the_changes_do_not() {
        let start = Instant::now();
        let mut settle = Settle::default();
        for step in 0..1000 {
            settle.note(Change::Complete(path()), QUIET, start + Duration::from_millis(2 * step));
        }
        assert_eq!(settle.due(), Some(start + PATIENCE));
        settle.clear();
        assert_eq!(settle.due(), None);
    }

    #[test]
    fn a_slow_writer_is_awaited_and_told_of_once() {
        let start = Instant::now();
        let mut settle = Settle::default();
        settle.note(Change::Writing(path()), QUIET, start);
        assert_eq!(settle.tell(start), None);
        let later = settle.tell_at().expect("somebody waits");
        assert_eq!(later, start + PATIENCE);
        // Others come and go meanwhile.
        settle.note(Change::Complete(PathBuf::from("/etc/transept/other.yaml")), QUIET, later);
        assert_eq!(settle.tell(later), Some(&*path()));
        assert_eq!((settle.tell_at(), settle.tell(later)), (None, None));
        let end = start + Duration::from_secs(9);
        assert!(settle.due().is_some_and(|due| due > end));
        settle.note(Change::Complete(path()), QUIET, end);
        assert!(settle.due().is_some_and(|due| due <= end + QUIET));
        assert_eq!(settle.open(), None);
    }

    #[test]
    fn a_file_that_rests_is_awaited_no_longer_for_what_others_do() {
        let start = Instant::now();
        let mut settle = Settle::default();
        settle.note(Change::Writing(path()), QUIET, start);
        for second in 1..=9 {
            let now = start + Duration::from_secs(second);
            settle.note(Change::Complete(PathBuf::from("/etc/transept/other.yaml")), QUIET, now);
        }
        assert_eq!(settle.due(), Some(start + STALLED));
    }

    #[test]
    fn who_never_closes_a_file_is_not_awaited_for_ever() {
        let start = Instant::now();
        let mut settle = Settle::default();
        settle.note(Change::Writing(path()), QUIET, start);
        assert_eq!(settle.due(), Some(start + STALLED));
        for second in 1..100 {
            settle.note(Change::Writing(path()), QUIET, start + Duration::from_secs(second));
        }
        assert_eq!((settle.due(), settle.open()), (Some(start + LONGEST), Some(&*path())));
    }
}
