//! Who is next: the memory and the arithmetic behind `pick` and `judge`.
//!
//! Every worker owns one [`Turns`] and shares it with nobody, so there is no lock. The memory is keyed by identity, never by position
//! in a snapshot, and so survives a change of the configuration. Backends without a `TrafficPolicy` need none but the count of
//! outstanding requests.

mod budget;
mod gate;
mod keyed;
mod least;
mod memory;
mod smooth;
mod table;
mod tiers;
mod view;

use std::net::SocketAddr;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};

pub(crate) use keyed::{hash_connection, hash_request};
pub use memory::{Absence, Event};
pub(crate) use table::Table;

use crate::exchange::Now;
use crate::judge::Outcome;
use crate::pick::{Call, Chosen, Probe};
use crate::rule::WeightedBackend;
use crate::snapshot::{Backend, Snapshot};
use crate::traffic::Allowance;
use least::{Field, Outstanding, least_loaded};
use memory::Memory;

/// What one worker remembers between requests in order to balance and to keep retries within bounds.
#[derive(Debug, Default)]
pub struct Turns {
    splits: HashMap<u64, smooth::Split, RandomState>,
    outstanding: Outstanding,
    budgets: HashMap<u64, budget::Budget, RandomState>,
    backends: HashMap<u64, Memory, RandomState>,
}

impl Turns {
    /// No memory yet.
    pub fn new() -> Turns {
        Turns::default()
    }

    /// A request to this endpoint begins. Follow it by one [`Turns::end`].
    pub fn begin(&mut self, endpoint: SocketAddr) {
        self.outstanding.begin(endpoint);
    }

    /// A request to this endpoint has ended, one way or the other.
    pub fn end(&mut self, endpoint: SocketAddr) {
        self.outstanding.end(endpoint);
    }

    /// Requests of this worker that this endpoint has not finished.
    pub fn outstanding(&self, endpoint: &SocketAddr) -> u32 {
        self.outstanding.of(endpoint)
    }

    /// Takes in what became of a request that was sent to an endpoint. Only what the endpoint is to blame for: our own limits and
    /// clients that went away are no outcome.
    pub fn note(&mut self, backend: &Backend, chosen: &Chosen, outcome: Outcome, now: Now) -> Option<Event> {
        let rules = backend.traffic.as_ref()?.outliers.as_ref()?;
        self.backends.get_mut(&backend.key)?.note(rules, chosen.address, outcome, chosen.probe, now)
    }

    /// A request that was sent as a probe ended without an outcome.
    pub fn give_up_probe(&mut self, backend: &Backend, endpoint: SocketAddr, now: Now) {
        if let Some(memory) = self.backends.get_mut(&backend.key) {
            memory.give_up_probe(endpoint, now);
        }
    }

    /// The endpoints of a backend that this worker leaves alone because they failed.
    pub fn ejected(&self, backend: &Backend) -> Vec<SocketAddr> {
        self.backends.get(&backend.key).map(|memory| memory.ejected().collect()).unwrap_or_default()
    }

    /// The endpoints of a backend that this worker has left alone because they failed, and has not tried again yet, at this time.
    pub fn absent(&self, backend: &Backend, now: Now) -> Vec<(SocketAddr, Absence)> {
        self.backends.get(&backend.key).map(|memory| memory.absent(now.monotonic).collect()).unwrap_or_default()
    }

    /// Forgets what belongs to rules and backends that the snapshot no longer has. Call it when a new snapshot is first used.
    pub fn prune(&mut self, snapshot: &Snapshot) {
        let backends = snapshot.backends.iter().filter(|backend| backend.traffic.is_some()).map(|backend| backend.key);
        let backends: HashSet<u64, RandomState> = backends.collect();
        let alive: HashSet<u64, RandomState> = snapshot
            .binds
            .iter()
            .flat_map(|bind| &bind.listeners)
            .flat_map(|listener| listener.routes.rules().chain(&listener.stream))
            .map(|rule| rule.key)
            .collect();
        self.splits.retain(|key, _| alive.contains(key));
        self.budgets.retain(|key, _| alive.contains(key) || backends.contains(key));
        self.backends.retain(|key, _| backends.contains(key));
    }

    /// The next backendRef of a rule, by smooth weighted round robin; none when no weight is above zero.
    pub(crate) fn next_backend(&mut self, rule: u64, backends: &[WeightedBackend]) -> Option<usize> {
        if let [only] = backends {
            return (only.weight > 0).then_some(0);
        }
        self.splits.entry(rule).or_default().next(backends.iter().map(|backend| backend.weight))
    }

    /// The next endpoint of a backend; none when there is none to use.
    pub(crate) fn next_endpoint(&mut self, backend: &Backend, call: &Call<'_>) -> Option<Chosen> {
        let set = backend.endpoints.load();
        let (position, probe) = match &backend.traffic {
            None => (least_loaded(&Field::Whole(&set), &self.outstanding, call.random, call.tried)?, Probe::No),
            Some(traffic) => {
                let memory = self.backends.entry(backend.key).or_insert_with(|| Memory::new(set.clone()));
                memory.choose(traffic, &backend.ledger, &set, &self.outstanding, call)?
            }
        };
        let endpoint = set.endpoints().get(position)?;
        Some(Chosen { address: endpoint.address, host: endpoint.host.clone(), tunnel: endpoint.tunnel.clone(), probe })
    }

    /// Counts a request towards the retry budget of a rule or backend.
    pub(crate) fn count_request(&mut self, of: u64, now: Now) {
        self.budgets.entry(of).or_default().count_request(now.monotonic);
    }

    /// Takes one retry out of the budget of a rule or backend, if there is one left.
    pub(crate) fn take_retry(&mut self, of: u64, allowance: Allowance, now: Now) -> bool {
        self.budgets.entry(of).or_default().take_retry(allowance, now.monotonic)
    }
}

#[cfg(test)]
mod tests;
