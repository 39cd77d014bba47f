//! Decides when a burst of file events is over, so that nobody reads a file while it is being written.
//!
//! Called by `follow` with the events that `watch` let through. Pure: the caller brings the time. An editor that renames a
//! finished file into place costs [`QUIET`]; one that truncates and writes is awaited until it closes the file, because an empty
//! file is a valid configuration and would take every route, and every policy, away for a moment. A writer that never closes its file is
//! awaited for [`STALLED`] after it has written last. Files that are written one after the other are one burst: whatever its age, no file is
//! read within [`QUIET`] of the close of another, and what was read while one was opened is read again. While something is missing, as in a
//! directory that is made anew, nothing may happen for [`VANISHED`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long nothing may happen before the sources are read, when every file is closed.
pub(crate) const QUIET: Duration = Duration::from_millis(3);
/// The same after a change of a file that a Secret names: a certificate and its key are two files, and between them the pair
/// does not fit, which would close the listener.
pub(crate) const PAIR: Duration = Duration::from_millis(250);
/// How long nothing may happen while something is missing that is in force: most editors put another file in the place of one that has vanished at
/// once, and a directory that is made anew is filled file by file.
pub(crate) const VANISHED: Duration = Duration::from_millis(250);
/// How long to wait after the last write to a file that its writer does not close: what computes long before it writes has truncated its
/// file before.
pub(crate) const STALLED: Duration = Duration::from_secs(10);
/// The longest that files which are not closed may put off reading, or a steady stream of events while something is missing of a directory that was
/// made anew, and that it is repeated because of them.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);
/// The longest that a steady stream of events may put off reading while files are missing of a directory that is the same and nobody writes to one.
const MISSING: Duration = Duration::from_secs(2);
/// So many missing files are looked for at each event.
const FEW: usize = 16;
/// The longest that a steady stream of events may put off reading while every file is there and closed; who waits longer is told why.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// What happened to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Somebody is writing to it.
    Writing(PathBuf),
    /// It is complete: closed after writing, or renamed into place.
    Complete(PathBuf),
    /// It is gone: removed, or renamed away. So is what was in it.
    Vanished(PathBuf),
    /// A directory that is watched from now on: what has happened in it before was reported to nobody.
    Unseen(PathBuf),
    /// Its rights, owner or times have changed, which says nothing of whether it is complete.
    Touched(PathBuf),
}

/// The burst that is going on.
#[derive(Debug, Default)]
pub(crate) struct Settle {
    /// Files that are written to, and when each was last.
    writing: BTreeMap<PathBuf, Instant>,
    vanished: BTreeSet<PathBuf>,
    /// Since when something has been missing while nobody wrote, for how long it was before, and whether a directory was made anew.
    missing: Option<Instant>,
    missed: Duration,
    anew: bool,
    quiet: Duration,
    first: Option<Instant>,
    /// Since when there has been no moment at which every file was there and closed.
    busy: Option<Instant>,
    /// Since when every file has been there and closed, and for how long they were before.
    calm: Option<Instant>,
    waited: Duration,
    due: Option<Instant>,
    /// Whether there was a moment in the burst at which something was not whole.
    half: bool,
    /// Whether it was told whose end is awaited.
    told: bool,
}

impl Change {
    /// The file.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Change::Writing(path)
            | Change::Complete(path)
            | Change::Vanished(path)
            | Change::Unseen(path)
            | Change::Touched(path) => path,
        }
    }
}

impl Settle {
    /// Takes a change into account; `quiet` is [`QUIET`] or [`PAIR`].
    pub(crate) fn note(&mut self, change: Change, quiet: Duration, now: Instant) {
        let change = match change {
            // Whoever writes to it may have done so himself.
            Change::Touched(path) if self.writing.contains_key(&path) => return,
            Change::Touched(path) => Change::Complete(path),
            other => other,
        };
        self.quiet = self.quiet.max(quiet);
        self.half |= quiet > QUIET || !matches!(change, Change::Complete(_));
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
                self.writing.retain(|file, _| !file.starts_with(&path));
                self.vanished.insert(path);
            }
            // Those that were open in one of the same name before are no longer here.
            Change::Unseen(path) => {
                self.writing.retain(|file, _| file.parent() != Some(&*path));
                self.anew = true;
            }
            // Taken for something else above.
            Change::Touched(_) => {}
        }
        self.first.get_or_insert(now);
        self.due = Some(self.count(now));
    }

    /// When the sources should be read, by what is known at this moment. Only time in which every file is there and closed counts as waiting for them.
    fn count(&mut self, now: Instant) -> Instant {
        if self.vanished.is_empty() {
            (self.missing, self.missed) = (None, Duration::ZERO);
        } else if !self.writing.is_empty() {
            // What is missing is awaited afterwards, too.
            self.missed += self.missing.take().map_or(Duration::ZERO, |missing| now - missing);
        }
        self.waited += self.calm.take().map_or(Duration::ZERO, |calm| now - calm);
        if self.writing.is_empty() && self.vanished.is_empty() {
            (self.busy, self.calm) = (None, Some(now));
            return now + self.quiet.min(PATIENCE.saturating_sub(self.waited));
        }
        let busy = *self.busy.get_or_insert(now);
        let longest = match self.writing.is_empty() {
            true if !self.anew => *self.missing.get_or_insert(now) + MISSING.saturating_sub(self.missed),
            _ => busy + LONGEST,
        };
        let soon = now + if self.vanished.is_empty() { self.quiet } else { VANISHED.max(self.quiet) };
        // A file that rests is not awaited for longer because another one is written to.
        self.writing.values().max().map_or(soon, |latest| (*latest + STALLED).max(soon)).min(longest)
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

    /// Forgets those that were missing and are there.
    pub(crate) fn find(&mut self, is_there: impl Fn(&Path) -> bool) {
        // Of many that come back one after the other each is told of.
        if self.vanished.len() <= FEW {
            self.vanished.retain(|path| !is_there(path));
        }
    }

    /// Whether it is known that this is missing.
    pub(crate) fn misses(&self, path: &Path) -> bool {
        self.vanished.contains(path)
    }

    /// Whether there was a moment in the burst at which who reads could have met a file, or a pair of them, that was not whole.
    pub(crate) fn was_half(&self) -> bool {
        self.half
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
    fn other_rights_close_no_file() {
        let now = Instant::now();
        let mut settle = Settle::default();
        settle.note(Change::Writing(path()), QUIET, now);
        settle.note(Change::Touched(path()), QUIET, now);
        assert_eq!((settle.due(), settle.open()), (Some(now + STALLED), Some(&*path())));
        settle.clear();
        settle.note(Change::Touched(path()), QUIET, now);
        assert_eq!((settle.due(), settle.open()), (Some(now + QUIET), None));
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
    fn a_file_that_vanished_is_awaited_after_another_one_was_written() {
        let start = Instant::now();
        let mut settle = Settle::default();
        settle.note(Change::Vanished(path()), QUIET, start);
        settle.note(Change::Writing(PathBuf::from("/etc/transept/b.yaml")), QUIET, start + QUIET);
        let closed = start + Duration::from_secs(3);
        settle.note(Change::Complete(PathBuf::from("/etc/transept/b.yaml")), QUIET, closed);
        assert_eq!(settle.due(), Some(closed + VANISHED));
        // One that is written to again and again holds nothing up for longer than that.
        let mut now = closed;
        while settle.due().is_some_and(|due| due > now) {
            now += Duration::from_millis(190);
            settle.note(Change::Writing(PathBuf::from("/etc/transept/b.yaml")), QUIET, now);
            now += Duration::from_millis(10);
            settle.note(Change::Complete(PathBuf::from("/etc/transept/b.yaml")), QUIET, now);
        }
        assert!(now - closed < MISSING + Duration::from_millis(400), "{:?}", now - closed);
    }

    #[test]
    fn files_that_come_back_one_after_the_other_are_awaited_each() {
        let start = Instant::now();
        let file = |number: u64| PathBuf::from(format!("/etc/transept/{number}.yaml"));
        let mut settle = Settle::default();
        settle.note(Change::Unseen(PathBuf::from("/etc/transept")), QUIET, start);
        (0..=200).for_each(|number| settle.note(Change::Vanished(file(number)), QUIET, start));
        let mut now = start;
        for number in 0..200 {
            now += Duration::from_millis(100);
            assert!(settle.due().is_some_and(|due| due > now), "after {:?}", now - start);
            settle.note(Change::Complete(file(number)), QUIET, now);
        }
        assert_eq!((settle.misses(&file(199)), settle.misses(&file(200))), (false, true));
        assert_eq!(settle.due(), Some(now + VANISHED));
        settle.note(Change::Complete(file(200)), QUIET, now);
        assert_eq!(settle.due(), Some(now + QUIET));
    }

    #[test]
    fn one_file_that_was_removed_holds_nobody_up_for_long() {
        let start = Instant::now();
        let (other, removed) = (PathBuf::from("/etc/transept/other.yaml"), path());
        let mut settle = Settle::default();
        settle.note(Change::Vanished(removed.clone()), QUIET, start);
        let mut now = start;
        while now < start + 2 * MISSING {
            now += VANISHED / 2;
            settle.note(Change::Complete(other.clone()), QUIET, now);
        }
        assert_eq!(settle.due(), Some(start + MISSING));
        // Nor one that is back, whatever it was told of by.
        settle.find(|path| path == removed);
        settle.note(Change::Complete(other), QUIET, now);
        assert_eq!(settle.due(), Some(now + QUIET));
    }

    #[test]
    fn what_was_open_in_a_directory_goes_with_it() {
        let now = Instant::now();
        let directory = PathBuf::from("/etc/transept");
        for change in [Change::Vanished(directory.clone()), Change::Unseen(directory)] {
            let mut settle = Settle::default();
            settle.note(Change::Writing(path()), QUIET, now);
            settle.note(change, QUIET, now);
            assert_eq!(settle.open(), None);
            assert!(settle.was_half() && settle.due().is_some_and(|due| due <= now + VANISHED));
        }
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
        for step in 0..500 {
            settle.note(Change::Complete(path()), QUIET, start + Duration::from_millis(2 * step));
        }
        assert_eq!(settle.due(), Some(start + PATIENCE));
        settle.clear();
        assert_eq!(settle.due(), None);
    }

    #[test]
    fn files_that_are_written_one_after_the_other_are_awaited_each() {
        let start = Instant::now();
        let mut settle = Settle::default();
        let mut now = start;
        for file in 0..200 {
            let file = PathBuf::from(format!("/etc/transept/{file}.yaml"));
            settle.note(Change::Writing(file.clone()), QUIET, now);
            now += Duration::from_millis(400);
            assert!(settle.due().is_some_and(|due| due > now), "after {:?}", now - start);
            settle.note(Change::Complete(file), QUIET, now);
            assert_eq!(settle.due(), Some(now + QUIET), "after {:?}", now - start);
            now += Duration::from_millis(2);
        }
        // Those that follow each other all the time are not awaited for ever.
        settle.note(Change::Complete(path()), QUIET, now + PATIENCE);
        assert_eq!(settle.due(), Some(now + PATIENCE));
    }

    #[test]
    fn what_is_complete_at_once_was_never_half() {
        let now = Instant::now();
        for (change, quiet, half) in [
            (Change::Complete(path()), QUIET, false),
            (Change::Complete(path()), PAIR, true),
            (Change::Vanished(path()), QUIET, true),
            (Change::Writing(path()), QUIET, true),
        ] {
            let mut settle = Settle::default();
            settle.note(change, quiet, now);
            settle.note(Change::Complete(path()), QUIET, now);
            assert_eq!(settle.was_half(), half);
        }
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
