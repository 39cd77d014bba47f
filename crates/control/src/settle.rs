//! Decides when a burst of file events is over, so that nobody reads a file while it is being written.
//!
//! Called by `follow` with the events that `watch` let through. Pure: the caller brings the time. An editor that renames a
//! finished file into place costs [`QUIET`]; one that truncates and writes is awaited until it closes the file, because an empty
//! file is a valid configuration and would take every route away for a moment.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long nothing may happen before the sources are read, when every file is closed.
pub(crate) const QUIET: Duration = Duration::from_millis(3);
/// The same after a change of a file that a Secret names: a certificate and its key are two files, and between them the pair
/// does not fit, which would close the listener.
pub(crate) const PAIR: Duration = Duration::from_millis(250);
/// How long to wait after a file has vanished: most editors put another in its place at once.
pub(crate) const VANISHED: Duration = Duration::from_millis(50);
/// How long to wait after a write to a file that its writer has not closed.
pub(crate) const WRITING: Duration = Duration::from_millis(250);
/// The longest that a steady stream of events may put off reading.
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
    writing: HashSet<PathBuf>,
    vanished: HashSet<PathBuf>,
    quiet: Duration,
    first: Option<Instant>,
    due: Option<Instant>,
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
                self.writing.insert(path);
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
        let wait = if !self.writing.is_empty() {
            WRITING.max(self.quiet)
        } else if !self.vanished.is_empty() {
            VANISHED.max(self.quiet)
        } else {
            self.quiet
        };
        let first = *self.first.get_or_insert(now);
        self.due = Some((now + wait).min(first + PATIENCE));
    }

    /// When the sources should be read, if anything happened.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
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
        assert_eq!(settle.due(), Some(now + WRITING));
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
    fn patience_ends_even_when_the_writing_does_not() {
        let start = Instant::now();
        let mut settle = Settle::default();
        for step in 0..100 {
            settle.note(Change::Writing(path()), QUIET, start + Duration::from_millis(20 * step));
        }
        assert_eq!(settle.due(), Some(start + PATIENCE));
        settle.clear();
        assert_eq!(settle.due(), None);
    }
}
