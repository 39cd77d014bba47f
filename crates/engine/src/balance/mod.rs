//! Who is next: the memory and the arithmetic behind `pick` and `judge`.
//!
//! Every worker owns one [`Turns`] and shares it with nobody, so there is no lock. The memory is keyed by identity, never by position
//! in a snapshot, and so survives a change of the configuration. Backends without a `TrafficPolicy` need none but the count of
//! outstanding requests, and of endpoints that could not be reached.

mod budget;
mod gate;
mod keyed;
mod least;
mod memory;
mod pace;
mod shunned;
mod smooth;
mod table;
mod tiers;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};

pub(crate) use budget::Budget;
pub(crate) use keyed::{hash_connection, hash_request};
pub use memory::{Absence, Event};
pub(crate) use table::Table;

use crate::exchange::Now;
use crate::judge::Outcome;
use crate::pick::{Call, Chosen, Probe};
use crate::rule::WeightedBackend;
use crate::snapshot::{Backend, EndpointSet, Snapshot};
use least::{Field, Outstanding, least_loaded};
use memory::{Memory, Probing};
use shunned::Shunned;
use smallvec::SmallVec;

/// What one worker remembers between requests in order to balance and to keep retries within bounds.
#[derive(Debug)]
pub struct Turns {
    splits: HashMap<u64, smooth::Split, RandomState>,
    outstanding: Outstanding,
    budgets: HashMap<u64, Budget, RandomState>,
    /// The budget of requests to which neither a rule's stanza nor a policy applies.
    unasked: Budget,
    backends: HashMap<u64, Memory, RandomState>,
    paces: HashMap<u64, pace::Pace, RandomState>,
    shunned: Shunned,
    busy: Shunned,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            splits: HashMap::default(),
            outstanding: Outstanding::default(),
            budgets: HashMap::default(),
            unasked: Budget::default(),
            backends: HashMap::default(),
            paces: HashMap::default(),
            shunned: Shunned::away(),
            busy: Shunned::busy(),
        }
    }
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
        if matches!(outcome, Outcome::Status(_)) {
            self.busy.note_reached(&chosen.address);
        }
        if let Some(rules) = backend.outliers().filter(|_| !chosen.silent) {
            return self.backends.get_mut(&backend.key)?.note(rules, chosen.address, outcome, chosen.probe, now);
        }
        match outcome {
            Outcome::Unreachable => self.shunned.note_vain(chosen.address, now.monotonic).map(Event::Unreachable),
            Outcome::Connected | Outcome::Status(_) => self.reached(chosen),
            // What breaks may be older than the time alone, and perhaps it was connecting that took too long.
            Outcome::Reset | Outcome::TimedOut => None,
        }
    }

    /// A good response head has come from an endpoint: it can be reached, and answers. Whether the response will be whole is told by
    /// [`Turns::note_end`], or by [`Turns::note`] if it is not.
    pub fn note_head(&mut self, backend: &Backend, chosen: &Chosen, now: Now) -> Option<Event> {
        self.busy.note_reached(&chosen.address);
        match backend.outliers().filter(|_| !chosen.silent) {
            Some(_) => self.backends.get_mut(&backend.key)?.note_head(chosen.address, chosen.probe, now),
            None => self.reached(chosen),
        }
    }

    /// A response with this good head is whole, or as long as anybody wanted it.
    pub fn note_end(&mut self, backend: &Backend, chosen: &Chosen, head: Outcome, now: Now) {
        if let Some(rules) = backend.outliers().filter(|_| !chosen.silent)
            && let Some(memory) = self.backends.get_mut(&backend.key)
        {
            memory.note_end(rules, chosen.address, head, now);
        }
    }

    /// An endpoint has refused a stream on a connection that goes on: it is busy, which is no failure, and for a moment others are asked.
    pub fn note_refused(&mut self, chosen: &Chosen, now: Now) {
        self.busy.note_vain(chosen.address, now.monotonic);
    }

    fn reached(&mut self, chosen: &Chosen) -> Option<Event> {
        self.shunned.note_reached(&chosen.address).then_some(Event::Recovered)
    }

    /// Whether anything is learned from requests to a backend that end well.
    pub fn awaits_success(&self, backend: &Backend) -> bool {
        backend.outliers().is_some() || !self.shunned.is_empty() || !self.busy.is_empty()
    }

    /// Takes in how long a try of a request with limited time has taken, to its response head or to the end of its time.
    pub fn note_time(&mut self, backend: &Backend, took: Duration, now: Now) {
        self.paces.entry(backend.key).or_default().note(took, now.monotonic);
    }

    /// The time that half of the tries of such requests take; none while too few are known.
    pub fn usual_time(&self, backend: &Backend, now: Now) -> Option<Duration> {
        self.paces.get(&backend.key)?.median(now.monotonic)
    }

    /// A request that was sent as a probe ended without an outcome. The next one goes no sooner than `not_before`.
    pub fn give_up_probe(&mut self, backend: &Backend, endpoint: SocketAddr, not_before: Duration) {
        if let Some(memory) = self.backends.get_mut(&backend.key) {
            memory.give_up_probe(endpoint, not_before);
        }
    }

    /// The endpoints of a backend that this worker leaves alone because they failed.
    pub fn ejected(&self, backend: &Backend) -> Vec<SocketAddr> {
        self.backends.get(&backend.key).map(|memory| memory.ejected().collect()).unwrap_or_default()
    }

    /// The endpoints of a backend that this worker has left alone because they failed, and has not tried again yet, at this time.
    pub fn absent(&self, backend: &Backend, now: Now) -> Vec<(SocketAddr, Absence)> {
        let memory = self.backends.get(&backend.key);
        let mut absent: Vec<_> = memory.map(|memory| memory.absent(now.monotonic).collect()).unwrap_or_default();
        if !self.shunned.is_empty() {
            let set = backend.endpoints.load();
            // Those that are silent are never ejected.
            let ruled = if backend.outliers().is_some() { set.endpoints().len() } else { 0 };
            let shunned = set.all().skip(ruled).filter(|one| self.shunned.has(&one.address, now.monotonic));
            absent.extend(shunned.map(|one| (one.address, Absence::Unreachable)));
        }
        absent
    }

    /// Whether an endpoint that was not tried is left that this worker does not leave alone.
    pub fn has_hope(&self, backend: &Backend, tried: &[SocketAddr], now: Now) -> bool {
        let absent = self.absent(backend, now);
        let is_absent = |address: &SocketAddr| absent.iter().any(|(one, _)| one == address);
        let set = backend.endpoints.load();
        set.all().any(|one| !tried.contains(&one.address) && !is_absent(&one.address))
    }

    /// Forgets what belongs to rules and backends that the snapshot no longer has. Call it when a new snapshot is first used.
    pub fn prune(&mut self, snapshot: &Snapshot) {
        let all: HashSet<u64, RandomState> = snapshot.backends.iter().map(|backend| backend.key).collect();
        self.paces.retain(|key, _| all.contains(key));
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
        if !self.shunned.is_empty() || !self.busy.is_empty() {
            let known: HashSet<SocketAddr, RandomState> = snapshot.backends.iter().flat_map(addresses).collect();
            self.shunned.retain(|endpoint| known.contains(endpoint));
            self.busy.retain(|endpoint| known.contains(endpoint));
        }
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
        // With rules about failures those say who cannot be used.
        let is_ruled = backend.outliers().is_some();
        let chosen = self.choose(backend, &set, call);
        if let Some(silent) = set.silent().filter(|_| !call.answered)
            && chosen.as_ref().is_none_or(|chosen| self.is_vain(backend, &set, call, chosen))
            && let Some(other) = self.draw_silent(silent, call)
        {
            return Some(other);
        }
        let chosen = chosen?;
        if self.busy.is_empty() && (is_ruled || self.shunned.is_empty()) || chosen.probe == Probe::Yes {
            return Some(chosen);
        }
        let now = call.now.monotonic;
        let is_alone = self.busy.has(&chosen.address, now) || !is_ruled && self.shunned.has(&chosen.address, now);
        let chosen = match is_alone {
            true => self.beside(backend, &set, call, is_ruled).unwrap_or(chosen),
            false => chosen,
        };
        self.busy.begin_probe(&chosen.address, now);
        if !is_ruled {
            self.shunned.begin_probe(&chosen.address, now);
        }
        Some(chosen)
    }

    /// Whether a choice says that nobody is left: it was tried already, or cannot be reached, and so it is with all others.
    fn is_vain(&mut self, backend: &Backend, set: &Arc<EndpointSet>, call: &Call<'_>, chosen: &Chosen) -> bool {
        if chosen.probe == Probe::Yes {
            return false;
        }
        let is_ruled = backend.outliers().is_some();
        let is_away = !is_ruled && self.shunned.has(&chosen.address, call.now.monotonic);
        call.tried.contains(&chosen.address) || is_away && self.beside(backend, set, call, is_ruled).is_none()
    }

    /// One of those that are silent, which was not tried and can be reached as far as is known.
    fn draw_silent(&mut self, silent: &EndpointSet, call: &Call<'_>) -> Option<Chosen> {
        let now = call.now.monotonic;
        let avoided: SmallVec<[SocketAddr; 8]> = call.tried.iter().copied().chain(self.shunned.all(now)).collect();
        let position = least_loaded(&Field::Whole(silent), &self.outstanding, call.random, &avoided)?;
        let endpoint = silent.endpoints().get(position).filter(|one| !avoided.contains(&one.address))?;
        self.shunned.begin_probe(&endpoint.address, now);
        Some(Chosen { silent: true, ..Chosen::of(endpoint, Probe::No) })
    }

    /// One that was not tried and is not left alone. Where there is none, one that may be well again is better than one that this request has tried.
    fn beside(&mut self, backend: &Backend, set: &Arc<EndpointSet>, call: &Call<'_>, is_ruled: bool) -> Option<Chosen> {
        let now = call.now.monotonic;
        let mut avoided: SmallVec<[SocketAddr; 8]> = call.tried.iter().copied().chain(self.busy.all(now)).collect();
        if !is_ruled {
            avoided.extend(self.shunned.all(now));
        }
        let call = Call { tried: &avoided, ..*call };
        self.draw(backend, set, &call, Probing::No).filter(|other| !avoided.contains(&other.address))
    }

    /// Draws one; where all were tried, the one whose turn is longest ago, and not the one that has just failed. Where endpoints are
    /// ejected, those that were tried stay tried: else an ejected one would be taken for new.
    fn choose(&mut self, backend: &Backend, set: &Arc<EndpointSet>, call: &Call<'_>) -> Option<Chosen> {
        let mut call = *call;
        loop {
            let chosen = self.draw(backend, set, &call, Probing::Yes)?;
            match call.tried.split_first() {
                Some((_, later))
                    if !later.is_empty() && call.tried.contains(&chosen.address) && backend.outliers().is_none() =>
                {
                    call.tried = later;
                }
                _ => return Some(chosen),
            }
        }
    }

    fn draw(&mut self, backend: &Backend, set: &Arc<EndpointSet>, call: &Call<'_>, probing: Probing) -> Option<Chosen> {
        let (position, probe) = match &backend.traffic {
            None => (least_loaded(&Field::Whole(set), &self.outstanding, call.random, call.tried)?, Probe::No),
            Some(traffic) => {
                let memory = self.backends.entry(backend.key).or_insert_with(|| Memory::new(set.clone()));
                memory.choose(traffic, &backend.ledger, set, &self.outstanding, call, probing)?
            }
        };
        let endpoint = set.endpoints().get(position)?;
        Some(Chosen::of(endpoint, probe))
    }

    /// The retry budget of a rule or backend.
    pub(crate) fn budget(&mut self, of: u64) -> &mut Budget {
        self.budgets.entry(of).or_default()
    }

    /// That of requests of which neither a rule nor a policy says what is tried again.
    pub(crate) fn unasked_budget(&mut self) -> &mut Budget {
        &mut self.unasked
    }
}

fn addresses(backend: &Arc<Backend>) -> Vec<SocketAddr> {
    backend.endpoints.load().all().map(|endpoint| endpoint.address).collect()
}

#[cfg(test)]
mod tests;
