//! What one worker remembers of one backend that has a `TrafficPolicy`: gates, turns, and the view of its endpoints.
//!
//! Called by `Turns`. Lives as long as the backend is in the configuration, whatever else changes there; it is kept by the backend's
//! identity. The rules (thresholds, algorithm) come with every call, from the snapshot.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};

use super::gate::{Finding, Gate, State};
use super::least::{Field, Outstanding, least_loaded};
use super::smooth::Split;
use super::view::{NOWHERE, Standing, View};
use crate::exchange::{Now, below, draw};
use crate::judge::Outcome;
use crate::pick::{Call, Probe};
use crate::snapshot::{Endpoint, EndpointSet};
use crate::traffic::{Balancer, Ledger, Outliers, Traffic, Verdicts};

/// Keep the draws here apart from those that other parts take from the same random number.
const RANK_DRAW: u64 = 512;
const SEED_DRAW: u64 = 513;
const MEMBER_DRAW: u64 = 514;

/// How often the weights of endpoints that start slowly are brought up to date, as a part of the slow start.
const STEPS: u32 = 20;

/// The memory of one backend.
#[derive(Debug)]
pub(super) struct Memory {
    set: Arc<EndpointSet>,
    health: Option<Arc<Verdicts>>,
    /// Endpoints that there is something to remember of.
    gates: HashMap<SocketAddr, Gate, RandomState>,
    /// Since when an endpoint is usable, while it starts slowly.
    young: HashMap<SocketAddr, Duration, RandomState>,
    view: View,
    /// The view is out of date.
    stale: bool,
    /// The view has to be made anew then, whatever happens.
    refresh: Option<Duration>,
    /// The earliest end of an ejection.
    probe_at: Option<Duration>,
    rotations: Vec<Rotation>,
}

/// Whether a request may find out something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probing {
    Yes,
    /// Only those in use are wanted.
    No,
}

/// Whose turn it is within one rank.
#[derive(Debug)]
struct Rotation {
    next: u64,
    split: Split,
}

/// How an endpoint is not in use like the others. The worse comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Absence {
    /// Its time alone is over: the next request to it decides.
    Probation,
    /// It is left alone, because it could not be reached.
    Unreachable,
    /// It is left alone.
    Ejected,
}

/// What came of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The endpoint is left alone for this long.
    Ejected(Duration),
    /// The endpoint could not be reached, and is left alone for this long where there are others.
    Unreachable(Duration),
    /// The endpoint takes requests again.
    Recovered,
}

impl Memory {
    pub(super) fn new(set: Arc<EndpointSet>) -> Memory {
        Memory {
            set,
            health: None,
            gates: HashMap::default(),
            young: HashMap::default(),
            view: View::Whole,
            stale: true,
            refresh: None,
            probe_at: None,
            rotations: Vec::new(),
        }
    }

    /// The position of the next endpoint in the set, and whether this request is a probe. None when nobody may be used.
    pub(super) fn choose(
        &mut self,
        traffic: &Traffic,
        ledger: &Ledger,
        set: &Arc<EndpointSet>,
        outstanding: &Outstanding,
        call: &Call<'_>,
        probing: Probing,
    ) -> Option<(usize, Probe)> {
        self.follow(traffic, ledger, set, call.now);
        let hashed = set.table().is_some();
        // A probe of its own, unless the hash decides: there it is the request that belongs to the endpoint.
        if probing == Probing::Yes
            && !hashed
            && call.tried.is_empty()
            && self.probe_at.is_some_and(|at| at <= call.now.monotonic)
            && let Some(position) = self.due(call.now)
        {
            self.begin_probe(set, position, call.now);
            return Some((position, Probe::Yes));
        }
        let position = match call.hash {
            Some(hash) if hashed => self.by_hash(traffic, hash, outstanding, call.tried),
            _ => self.in_turn(traffic, outstanding, call),
        }?;
        let address = set.endpoints().get(position)?.address;
        // Those in use have all been tried in vain: somebody who is left alone may be well by now.
        if probing == Probing::Yes
            && call.tried.contains(&address)
            && let Some((other, probe)) = self.last_resort(call)
        {
            if probe == Probe::Yes {
                self.begin_probe(set, other, call.now);
            }
            return Some((other, probe));
        }
        match self.gates.get(&address) {
            Some(gate) if probing == Probing::Yes && hashed && gate.is_due(call.now.monotonic) => {
                self.begin_probe(set, position, call.now);
                Some((position, Probe::Yes))
            }
            // Who is drawn beside another one is no probe.
            Some(gate) if probing == Probing::No && !gate.is_open() => None,
            _ => Some((position, Probe::No)),
        }
    }

    /// Takes the result of a request in.
    pub(super) fn note(
        &mut self,
        rules: &Outliers,
        endpoint: SocketAddr,
        outcome: Outcome,
        probe: Probe,
        now: Now,
    ) -> Option<Event> {
        let counts_all = rules.success.is_some();
        if !counts_all && !super::gate::is_failure(outcome) && !self.gates.contains_key(&endpoint) {
            return None;
        }
        let gate = self.gates.entry(endpoint).or_default();
        let finding = gate.note(rules, outcome, probe == Probe::Yes, now.monotonic);
        match finding {
            Finding::Steady => None,
            Finding::TooEarly => {
                self.changed();
                None
            }
            Finding::Recovered => Some(self.welcome_back(endpoint, now)),
            Finding::Failing if !self.may_eject(rules, endpoint) => None,
            Finding::Failing | Finding::StillFailing => {
                let time = self.gates.get_mut(&endpoint)?.shut(rules, now.monotonic);
                self.changed();
                Some(Event::Ejected(time))
            }
        }
    }

    /// A good response head has come.
    pub(super) fn note_head(&mut self, endpoint: SocketAddr, probe: Probe, now: Now) -> Option<Event> {
        let finding = self.gates.get_mut(&endpoint)?.note_head(probe == Probe::Yes, now.monotonic);
        (finding == Finding::Recovered).then(|| self.welcome_back(endpoint, now))
    }

    /// A response with this good head has come to its end. It is no success after failures where nothing but failures has begun since: it may be
    /// much older than they are.
    pub(super) fn note_end(&mut self, rules: &Outliers, endpoint: SocketAddr, head: Outcome, now: Now) {
        if !self.gates.get(&endpoint).is_some_and(Gate::only_fails) {
            self.note(rules, endpoint, head, Probe::No, now);
        }
    }

    fn welcome_back(&mut self, endpoint: SocketAddr, now: Now) -> Event {
        self.young.insert(endpoint, now.monotonic);
        self.changed();
        Event::Recovered
    }

    /// A probe ended without a result: another one may go.
    pub(super) fn give_up_probe(&mut self, endpoint: SocketAddr, not_before: Duration) {
        if self.gates.get_mut(&endpoint).is_some_and(|gate| gate.give_up_probe(not_before)) {
            self.changed();
        }
    }

    /// The endpoints that are left alone.
    pub(super) fn ejected(&self) -> impl Iterator<Item = SocketAddr> {
        self.gates.iter().filter(|(_, gate)| gate.state != State::Open).map(|(address, _)| *address)
    }

    /// The endpoints that are not quite in use, and how that is at this time.
    pub(super) fn absent(&self, now: Duration) -> impl Iterator<Item = (SocketAddr, Absence)> {
        self.gates.iter().filter_map(move |(address, gate)| match gate.state {
            State::Open => None,
            State::Shut { until } if until > now => Some((*address, Absence::Ejected)),
            State::Shut { .. } | State::Probing { .. } => Some((*address, Absence::Probation)),
        })
    }

    fn changed(&mut self) {
        self.stale = true;
        self.probe_at = self.gates.values().filter_map(Gate::probe_at).min();
    }

    /// Whether one more endpoint may be left alone: not too many, and never the last.
    fn may_eject(&self, rules: &Outliers, endpoint: SocketAddr) -> bool {
        let all = self.set.endpoints().len();
        let gone = self.ejected().count();
        let most = (all * rules.share as usize / 100).max(usize::from(rules.share > 0));
        let others = self.set.endpoints().iter().filter(|other| other.address != endpoint);
        gone < most && others.into_iter().any(|other| self.is_open(other) && self.is_well(other))
    }

    fn is_open(&self, endpoint: &Endpoint) -> bool {
        self.gates.get(&endpoint.address).is_none_or(|gate| gate.state == State::Open)
    }

    fn is_well(&self, endpoint: &Endpoint) -> bool {
        self.health.as_ref().is_none_or(|health| health.is_well(&endpoint.address))
    }

    /// Brings the view up to date.
    fn follow(&mut self, traffic: &Traffic, ledger: &Ledger, set: &Arc<EndpointSet>, now: Now) {
        let health = traffic.check.as_ref().map(|_| ledger.health.load());
        let health = health.as_ref().and_then(|health| health.as_ref());
        let same = match (&self.health, health) {
            (None, None) => true,
            (Some(known), Some(now)) => Arc::ptr_eq(known, now),
            _ => false,
        };
        let due = self.refresh.is_some_and(|at| at <= now.monotonic);
        if same && !due && !self.stale && Arc::ptr_eq(&self.set, set) {
            return;
        }
        let health = health.cloned();
        self.welcome(traffic, set, health.as_ref(), now);
        (self.health, self.set) = (health, Arc::clone(set));
        if traffic.outliers.is_none() {
            self.gates.clear();
        }
        if !self.gates.is_empty() {
            let here = addresses(set);
            self.gates.retain(|address, gate| !gate.is_blank() && here.contains(address));
        }
        self.changed();
        self.rebuild(traffic, now);
    }

    /// Notes which endpoints have become usable, so that they start slowly.
    fn welcome(&mut self, traffic: &Traffic, set: &Arc<EndpointSet>, health: Option<&Arc<Verdicts>>, now: Now) {
        if traffic.slow_start.is_zero() {
            self.young.clear();
            return;
        }
        let window = traffic.slow_start;
        self.young.retain(|_, since| now.monotonic.saturating_sub(*since) < window);
        // When all are new, nobody is.
        if self.set.endpoints().is_empty() {
            return;
        }
        let before = (!Arc::ptr_eq(&self.set, set)).then(|| addresses(&self.set));
        for endpoint in set.endpoints() {
            let known = before.as_ref().is_none_or(|before| before.contains(&endpoint.address));
            let well = health.is_none_or(|health| health.is_well(&endpoint.address));
            if well && !(known && self.is_well(endpoint)) {
                self.young.insert(endpoint.address, now.monotonic);
            }
        }
    }

    fn rebuild(&mut self, traffic: &Traffic, now: Now) {
        let hashed = self.set.table().is_some();
        let passes = |gate: &Gate| gate.state == State::Open || hashed && gate.is_due(now.monotonic);
        let view = View::build(&self.set, traffic, |endpoint| Standing {
            usable: self.is_well(endpoint) && self.gates.get(&endpoint.address).is_none_or(passes),
            young: self.young.get(&endpoint.address).map(|since| now.monotonic.saturating_sub(*since)),
        });
        self.view = view;
        self.stale = false;
        let warmer = (!self.young.is_empty()).then(|| now.monotonic + traffic.slow_start / STEPS);
        let probe = self.probe_at.filter(|at| hashed && *at > now.monotonic);
        self.refresh = [warmer, probe].into_iter().flatten().min();
    }

    /// An endpoint whose ejection is over.
    fn due(&self, now: Now) -> Option<usize> {
        self.set.endpoints().iter().position(|endpoint| {
            self.gates.get(&endpoint.address).is_some_and(|gate| gate.is_due(now.monotonic)) && self.is_well(endpoint)
        })
    }

    /// Of the endpoints that are left alone, are well as far as is known, and were not tried, the one that will be for the shortest time. Also whether the
    /// request finds out how it is.
    fn last_resort(&self, call: &Call<'_>) -> Option<(usize, Probe)> {
        let untried = self.set.endpoints().iter().enumerate().filter(|(_, one)| !call.tried.contains(&one.address));
        let admitted = untried.filter_map(|(position, one)| {
            let gate = self.gates.get(&one.address).filter(|_| self.is_well(one))?;
            Some((gate.ends(), position, gate.admit_early(call.now.monotonic)?))
        });
        admitted.min_by_key(|(ends, ..)| *ends).map(|(_, position, probe)| (position, probe))
    }

    fn begin_probe(&mut self, set: &EndpointSet, position: usize, now: Now) {
        if let Some(endpoint) = set.endpoints().get(position)
            && let Some(gate) = self.gates.get_mut(&endpoint.address)
        {
            gate.begin_probe(now.monotonic);
            self.changed();
        }
    }

    fn by_hash(&self, traffic: &Traffic, hash: u64, outstanding: &Outstanding, tried: &[SocketAddr]) -> Option<usize> {
        let (table, endpoints) = (self.set.table()?, self.set.endpoints());
        let rank = self.view.draw_rank(draw(hash, RANK_DRAW));
        let here = |position: usize| match &self.view {
            View::Whole => true,
            View::Ranked { rank_of, .. } => rank_of.get(position).is_some_and(|of| usize::from(*of) == rank),
        };
        let anywhere = |position: usize| match &self.view {
            View::Whole => true,
            View::Ranked { rank_of, .. } => rank_of.get(position).is_some_and(|of| *of != NOWHERE),
        };
        let bound = match &traffic.balancer {
            Balancer::RingHash { bound, .. } | Balancer::Maglev { bound, .. } => *bound,
            _ => 0,
        };
        let fits = |endpoint: &Endpoint| bound == 0 || within_bound(endpoint, endpoints, outstanding, bound);
        let fresh = |endpoint: &Endpoint| !tried.contains(&endpoint.address);
        table
            .find(hash, endpoints, |position, endpoint| here(position) && fresh(endpoint) && fits(endpoint))
            .or_else(|| table.find(hash, endpoints, |position, endpoint| anywhere(position) && fresh(endpoint)))
            .or_else(|| table.find(hash, endpoints, |position, _| anywhere(position)))
    }

    fn in_turn(&mut self, traffic: &Traffic, outstanding: &Outstanding, call: &Call<'_>) -> Option<usize> {
        let rank = self.view.draw_rank(draw(call.random, RANK_DRAW));
        let set = Arc::clone(&self.set);
        let fresh = |field: &Field<'_>| field.members().any(|(endpoint, _)| !call.tried.contains(&endpoint.address));
        // The rank that is drawn, unless all of it was tried and another one has somebody left.
        let chosen = match &self.view {
            View::Whole => 0,
            View::Ranked { ranks, .. } => {
                let has_fresh = |index: &usize| ranks.get(*index).is_some_and(|rank| fresh(&Field::Rank(&set, rank)));
                let others = 0..ranks.len();
                std::iter::once(rank).chain(others).find(has_fresh).unwrap_or(rank)
            }
        };
        let field = match &self.view {
            View::Whole => Field::Whole(&set),
            View::Ranked { ranks, .. } => Field::Rank(&set, ranks.get(chosen)?),
        };
        match traffic.balancer {
            Balancer::Random => draw_one(&field, call),
            Balancer::RoundRobin => {
                self.rotations.resize_with(self.rotations.len().max(chosen + 1), || Rotation::new(call.random));
                self.rotations.get_mut(chosen)?.next(&field, call)
            }
            Balancer::LeastRequest | Balancer::RingHash { .. } | Balancer::Maglev { .. } => {
                least_loaded(&field, outstanding, call.random, call.tried)
            }
        }
    }
}

fn addresses(set: &EndpointSet) -> HashSet<SocketAddr, RandomState> {
    set.endpoints().iter().map(|endpoint| endpoint.address).collect()
}

/// Whether one more request keeps an endpoint within so many percent of its share of what is under way.
fn within_bound(endpoint: &Endpoint, all: &[Endpoint], outstanding: &Outstanding, bound: u32) -> bool {
    let own = outstanding.of(&endpoint.address);
    if own == 0 {
        return true;
    }
    let (under_way, weights) = all.iter().fold((1u64, 0u64), |(under_way, weights), one| {
        (under_way + u64::from(outstanding.of(&one.address)), weights + u64::from(one.weight))
    });
    let allowed = u128::from(under_way) * u128::from(endpoint.weight) * u128::from(bound);
    // Shares are rounded up to whole requests.
    let allowed = allowed.div_ceil(u128::from(weights.max(1)) * 100);
    u128::from(own) < allowed
}

/// A draw by weight, not one of those that were tried if that can be.
fn draw_one(field: &Field<'_>, call: &Call<'_>) -> Option<usize> {
    const DRAWS: u64 = 4;
    let fresh = |endpoint: &Endpoint| !call.tried.contains(&endpoint.address);
    let first = MEMBER_DRAW + call.tried.len() as u64 * DRAWS;
    (first..first + DRAWS)
        .filter_map(|n| field.by_weight(draw(call.random, n)))
        .find(|drawn| fresh(drawn.endpoint))
        .map(|drawn| drawn.position)
        .or_else(|| field.members().find(|(endpoint, _)| fresh(endpoint)).map(|(_, position)| position))
        .or_else(|| field.by_weight(call.random).map(|drawn| drawn.position))
}

impl Rotation {
    /// Begins anywhere, so that proxies that start together do not march in step.
    fn new(random: u64) -> Rotation {
        Rotation { next: draw(random, SEED_DRAW) >> 32, split: Split::default() }
    }

    fn next(&mut self, field: &Field<'_>, call: &Call<'_>) -> Option<usize> {
        let count = field.len();
        let mut last = None;
        for _ in 0..count {
            let index = match field.is_even() {
                true => {
                    self.next = self.next.wrapping_add(1);
                    (self.next % count as u64) as usize
                }
                false => {
                    let weights = || (0..count).map(|index| u32::try_from(field.weight(index)).unwrap_or(u32::MAX));
                    if self.split.is_new() {
                        for _ in 0..below(self.next << 32, count as u64) {
                            self.split.next(weights());
                        }
                    }
                    self.split.next(weights())?
                }
            };
            let (endpoint, position) = field.at(index)?;
            if !call.tried.contains(&endpoint.address) {
                return Some(position);
            }
            last = Some(position);
        }
        // By weight it may be the turn of the same one several times.
        let fresh = field.members().find(|(endpoint, _)| !call.tried.contains(&endpoint.address));
        fresh.map(|(_, position)| position).or(last)
    }
}
