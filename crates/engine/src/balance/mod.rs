//! Who is next: the memory and the arithmetic behind `pick` and `judge`.
//!
//! Every worker owns one [`Turns`] and shares it with nobody, so there is no lock. The memory is keyed by identity, never by position
//! in a snapshot, and so survives a change of the configuration.

mod budget;
mod least;
mod smooth;

use std::net::SocketAddr;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};

pub(crate) use least::least_loaded;

use crate::exchange::Now;
use crate::rule::WeightedBackend;
use crate::snapshot::Snapshot;

/// What one worker remembers between requests in order to balance and to keep retries within bounds.
#[derive(Debug, Default)]
pub struct Turns {
    splits: HashMap<u64, smooth::Split, RandomState>,
    outstanding: HashMap<SocketAddr, u32, RandomState>,
    budgets: HashMap<u64, budget::Budget, RandomState>,
}

impl Turns {
    /// No memory yet.
    pub fn new() -> Turns {
        Turns::default()
    }

    /// A request to this endpoint begins. Follow it by one [`Turns::end`].
    pub fn begin(&mut self, endpoint: SocketAddr) {
        *self.outstanding.entry(endpoint).or_insert(0) += 1;
    }

    /// A request to this endpoint has ended, one way or the other.
    pub fn end(&mut self, endpoint: SocketAddr) {
        if let Some(count) = self.outstanding.get_mut(&endpoint) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.outstanding.remove(&endpoint);
            }
        }
    }

    /// Requests of this worker that this endpoint has not finished.
    pub fn outstanding(&self, endpoint: &SocketAddr) -> u32 {
        self.outstanding.get(endpoint).copied().unwrap_or(0)
    }

    /// Forgets what belongs to rules that the snapshot no longer has. Call it when a new snapshot is first used.
    pub fn prune(&mut self, snapshot: &Snapshot) {
        let alive: HashSet<u64, RandomState> = snapshot
            .binds
            .iter()
            .flat_map(|bind| &bind.listeners)
            .flat_map(|listener| listener.routes.rules())
            .map(|rule| rule.key)
            .collect();
        self.splits.retain(|key, _| alive.contains(key));
        self.budgets.retain(|key, _| alive.contains(key));
    }

    /// The next backendRef of a rule, by smooth weighted round robin; none when no weight is above zero.
    pub(crate) fn next_backend(&mut self, rule: u64, backends: &[WeightedBackend]) -> Option<usize> {
        if let [only] = backends {
            return (only.weight > 0).then_some(0);
        }
        self.splits.entry(rule).or_default().next(backends.iter().map(|backend| backend.weight))
    }

    /// Counts a request towards the retry budget of its rule.
    pub(crate) fn count_request(&mut self, rule: u64, now: Now) {
        self.budgets.entry(rule).or_default().count_request(now.monotonic);
    }

    /// Takes one retry out of the budget of a rule, if there is one left.
    pub(crate) fn take_retry(&mut self, rule: u64, now: Now) -> bool {
        self.budgets.entry(rule).or_default().take_retry(now.monotonic)
    }
}
