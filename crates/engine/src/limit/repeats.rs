//! The requests that a quota has counted a moment ago, by the ids that trusted proxies gave them: one that comes again costs nothing.
//!
//! Used by `policies/quota.rs` for quotas that say `repeats: Free`. Each ledger has its own (`limit/ledger.rs`), so that they outlive a
//! configuration. Nothing of them is written: after a restart whoever comes again is counted again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use twox_hash::XxHash3_128;

use super::book::Taken;
use super::period::Period;
use crate::exchange::Exchange;
use transept_wire::head::FieldId;

/// How long a request is remembered at least, if no more than [`MOST`] others come meanwhile; at most twice as long.
const SPAN: Duration = Duration::from_mins(5);

/// How many requests fill a generation. There are two of them.
const MOST: usize = 32_768;

/// A request at one key of a quota, the same when it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Repeatable(u128);

/// What was taken for a request when it first came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paid {
    pub(crate) period: Period,
    pub(crate) cost: u32,
}

/// The requests of a quota that have been counted.
#[derive(Debug, Default)]
pub(crate) struct Repeats(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Repeatable, Counted>,
    old: HashMap<Repeatable, Counted>,
    /// When the young one began.
    since: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    paid: Paid,
    /// How many of its comings are under way.
    under_way: u32,
    /// Whether one of them has come to something that is not given back.
    stands: bool,
    /// Whether what its response has cost was taken.
    is_billed: bool,
}

impl Repeatable {
    /// What a request is called at the key with this hash. None for one that no trusted proxy has named: an id of the client's own choice would
    /// be a way round every quota. The same id on another request, as services pass it on to what they call in turn, is another name.
    pub(crate) fn of(x: &Exchange<'_>, key: u128) -> Option<Repeatable> {
        if !x.notes.is_named_by_proxy {
            return None;
        }
        let id = x.request.fields.first(FieldId::X_REQUEST_ID)?;
        let mut name = key.to_le_bytes().to_vec();
        for part in [id, x.request.method.as_bytes(), x.request.authority(), x.request.target()] {
            name.extend_from_slice(&part.len().to_le_bytes());
            name.extend_from_slice(part);
        }
        Some(Repeatable(XxHash3_128::oneshot(&name)))
    }
}

impl Repeats {
    /// Counts a request by `take` when it first comes. None for one that has been counted. Of several at once one is counted.
    pub(crate) fn begin(
        &self,
        request: Repeatable,
        paid: Paid,
        now: Duration,
        take: impl FnOnce() -> Taken,
    ) -> Option<Taken> {
        let mut all = self.lock();
        all.age(now);
        if let Some(counted) = all.find(request) {
            counted.under_way += 1;
            return None;
        }
        let taken = take();
        if matches!(taken, Taken::Counted(_)) {
            all.insert(request, Counted { paid, under_way: 1, stands: false, is_billed: false }, now);
        }
        Some(taken)
    }

    /// Notes that one coming of a request came to nothing for which anybody pays. Gives what is to be given back, once none is left that
    /// came or may come to something.
    pub(crate) fn fail(&self, request: Repeatable) -> Option<Paid> {
        let mut all = self.lock();
        let counted = all.find(request)?;
        counted.under_way = counted.under_way.saturating_sub(1);
        if counted.stands || counted.under_way > 0 {
            return None;
        }
        let paid = counted.paid;
        all.young.remove(&request);
        all.old.remove(&request);
        Some(paid)
    }

    /// Notes that one coming of a request came to something.
    pub(crate) fn stand(&self, request: Repeatable) {
        if let Some(counted) = self.lock().find(request) {
            counted.under_way = counted.under_way.saturating_sub(1);
            counted.stands = true;
        }
    }

    /// Whether what a response has cost is to be taken: the first time.
    pub(crate) fn bill(&self, request: Repeatable) -> bool {
        self.lock().find(request).is_none_or(|counted| !std::mem::replace(&mut counted.is_billed, true))
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn find(&mut self, request: Repeatable) -> Option<&mut Counted> {
        match self.young.get_mut(&request) {
            Some(counted) => Some(counted),
            None => self.old.get_mut(&request),
        }
    }

    fn insert(&mut self, request: Repeatable, counted: Counted, now: Duration) {
        if self.young.len() >= MOST {
            self.old = std::mem::take(&mut self.young);
            self.since = now;
        }
        self.young.insert(request, counted);
    }

    /// Forgets what is old, also where nothing new comes.
    fn age(&mut self, now: Duration) {
        let age = now.saturating_sub(self.since);
        if age >= SPAN {
            self.old = std::mem::take(&mut self.young);
            self.since = now;
        }
        if age >= SPAN * 2 {
            self.old.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAID: Paid = Paid { period: Period { begin: 0, end: 10 }, cost: 3 };

    /// Whether a request with this name is counted at a time.
    fn counts(repeats: &Repeats, name: u128, seconds: u64) -> bool {
        let taken = repeats.begin(Repeatable(name), PAID, Duration::from_secs(seconds), || Taken::Counted(3));
        taken.is_some()
    }

    #[test]
    fn what_comes_again_within_minutes_is_not_counted() {
        let repeats = Repeats::default();
        assert!(counts(&repeats, 1, 1_000) && counts(&repeats, 2, 1_000));
        assert!(!counts(&repeats, 1, 1_299));
        assert!(counts(&repeats, 3, 1_300), "a generation begins");
        assert!(!counts(&repeats, 1, 1_599));
        assert!(counts(&repeats, 4, 1_600) && counts(&repeats, 1, 1_600));
        // Also where nothing else comes.
        assert!(!counts(&repeats, 1, 1_899) && !counts(&repeats, 1, 2_000) && counts(&repeats, 1, 2_300));
        assert!(counts(&repeats, 1, 9_000));
    }

    #[test]
    fn no_more_is_remembered_than_two_generations() {
        let repeats = Repeats::default();
        assert!((0..100_000).all(|name| counts(&repeats, name, 5)));
        let all = repeats.lock();
        assert!(all.young.len() + all.old.len() <= 2 * MOST);
        drop(all);
        assert!(!counts(&repeats, 99_999 - MOST as u128, 5));
    }

    #[test]
    fn what_was_refused_is_not_remembered() {
        let repeats = Repeats::default();
        let refused = || repeats.begin(Repeatable(1), PAID, Duration::ZERO, || Taken::Full(9));
        assert_eq!((refused(), refused()), (Some(Taken::Full(9)), Some(Taken::Full(9))));
        assert!(counts(&repeats, 1, 0));
    }

    #[test]
    fn it_is_given_back_once_and_when_none_has_come_to_anything() {
        let repeats = Repeats::default();
        let one = Repeatable(1);
        assert!(counts(&repeats, 1, 0) && !counts(&repeats, 1, 0));
        assert_eq!(repeats.fail(one), None, "the other one is under way");
        assert_eq!((repeats.fail(one), repeats.fail(one)), (Some(PAID), None));
        assert!(counts(&repeats, 1, 0), "it was given back, and counts");
        repeats.stand(one);
        assert!(!counts(&repeats, 1, 0));
        assert_eq!(repeats.fail(one), None, "somebody was served");
        assert_eq!((repeats.bill(one), repeats.bill(one)), (true, false));
    }
}
