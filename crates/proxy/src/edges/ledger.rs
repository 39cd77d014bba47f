//! Which edges a process keeps apart, for all of its workers together, and which of them go when there is no more room.
//!
//! Asked by a worker when it meets an edge for the first time, never for a request on an edge that it knows. A worker counts for
//! itself; what is here are names, and a mark on each that says when any worker last used it. An edge that was forgotten begins at
//! zero when it returns, on all workers at once, so that a sum over workers never shrinks while it has a name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::EdgeName;

/// Edges that a process keeps apart; as many as a control plane takes of one proxy.
pub(super) const MOST_EDGES: usize = 4096;
/// Seconds without use after which an edge may be forgotten. By then its last counts have long been reported and scraped.
pub(super) const IDLE: u32 = 60;
/// Edges that go at once: looking through all of them pays for many new ones.
const BATCH: usize = MOST_EDGES / 16;

/// What the workers know in common of an edge.
#[derive(Debug)]
pub(crate) struct Mark {
    /// Counts the edges of the process, from 1. A name that returns has another number.
    born: u64,
    /// The second of its last use.
    used: AtomicU32,
    forgotten: AtomicBool,
}

impl Mark {
    pub(crate) fn born(&self) -> u64 {
        self.born
    }

    /// Whether the edge has been forgotten; then it never returns under this mark.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Notes a use.
    pub(super) fn touch(&self, second: u32) {
        // The line is shared by all workers, so it is written once in a second.
        if self.used.load(Ordering::Relaxed) < second {
            self.used.store(second, Ordering::Relaxed);
        }
    }
}

/// The edges of a process.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    known: Mutex<Known>,
    /// Edges that had to go.
    forgotten: AtomicU64,
    /// What was counted without an edge of its own.
    overflow: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    marks: HashMap<EdgeName, Arc<Mark>>,
    born: u64,
}

impl Ledger {
    /// The mark of an edge, known or new; `None` when there is no room and every edge was used of late.
    pub(super) fn enter(&self, name: &EdgeName, second: u32) -> Option<Arc<Mark>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mark) = known.marks.get(name) {
            mark.touch(second);
            return Some(mark.clone());
        }
        if known.marks.len() >= MOST_EDGES {
            self.make_room(&mut known, second);
        }
        if known.marks.len() >= MOST_EDGES {
            return None;
        }
        known.born += 1;
        let mark = Mark { born: known.born, used: AtomicU32::new(second), forgotten: AtomicBool::new(false) };
        let mark = Arc::new(mark);
        known.marks.insert(name.clone(), mark.clone());
        Some(mark)
    }

    /// Forgets the edges that have idled longest.
    fn make_room(&self, known: &mut Known, second: u32) {
        let used = |mark: &Mark| mark.used.load(Ordering::Relaxed);
        let idle = known.marks.iter().filter(|(_, mark)| used(mark).saturating_add(IDLE) <= second);
        let mut idle: Vec<(u32, u64, EdgeName)> =
            idle.map(|(name, mark)| (used(mark), mark.born, name.clone())).collect();
        idle.sort_unstable_by_key(|(used, born, _)| (*used, *born));
        for (_, _, name) in idle.into_iter().take(BATCH) {
            if let Some(mark) = known.marks.remove(&name) {
                mark.forgotten.store(true, Ordering::Release);
                self.forgotten.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Notes something that was counted without an edge of its own.
    pub(super) fn overflow(&self) {
        self.overflow.fetch_add(1, Ordering::Relaxed);
    }

    /// Edges that had to go so far.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Requests, tries and ejections so far that were counted without an edge of their own.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reporter;
    use super::*;

    fn name(number: usize) -> EdgeName {
        EdgeName {
            reporter: Reporter::Destination,
            source: number.to_string().into(),
            destination: "default/web".into(),
            workload: "web-1".into(),
        }
    }

    #[test]
    fn those_that_have_idled_longest_go_first_and_those_in_use_stay() {
        let ledger = Ledger::default();
        let marks: Vec<_> = (0..MOST_EDGES).filter_map(|number| ledger.enter(&name(number), 0)).collect();
        assert_eq!(marks.len(), MOST_EDGES);
        assert!(ledger.enter(&name(MOST_EDGES), IDLE - 1).is_none(), "all of them were used of late");
        assert!(ledger.enter(&name(7), IDLE - 1).is_some(), "what is known finds its place");
        // The second half is used, and of the first half the later ones.
        marks[MOST_EDGES / 2..].iter().for_each(|mark| mark.touch(IDLE));
        marks[..BATCH].iter().for_each(|mark| mark.touch(2));
        assert!(ledger.enter(&name(MOST_EDGES), IDLE + 1).is_some());
        assert_eq!(ledger.forgotten(), BATCH as u64);
        assert!(marks[..BATCH].iter().chain(&marks[MOST_EDGES / 2..]).all(|mark| !mark.is_forgotten()));
        assert!(marks[BATCH..2 * BATCH].iter().all(|mark| mark.is_forgotten()));
    }

    #[test]
    fn an_edge_that_returns_is_another_one() {
        let ledger = Ledger::default();
        let first = ledger.enter(&name(0), 0).expect("room");
        (1..MOST_EDGES).for_each(|number| assert!(ledger.enter(&name(number), 1).is_some()));
        assert!(ledger.enter(&name(MOST_EDGES), IDLE).is_some());
        assert!(first.is_forgotten());
        let again = ledger.enter(&name(0), IDLE + 1).expect("room");
        assert!(again.born() > first.born() && !again.is_forgotten());
    }
}
