//! Balancing with a policy: turns, hashes, ejections, probes, zones, health.

use std::collections::{BTreeMap, HashMap as Map};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::exchange::draw;
use crate::pick::pick_endpoint;
use crate::snapshot::{Endpoint, EndpointSet};
use crate::traffic::{Balancer, Locality, Outliers, Traffic, Verdicts, Wellness};

const BAD: Outcome = Outcome::Status(500);
const GOOD: Outcome = Outcome::Status(200);

fn address(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 80).into()
}

fn set(weights: &[u32]) -> EndpointSet {
    let all = weights.iter().enumerate();
    EndpointSet::new(all.map(|(n, weight)| Endpoint { weight: *weight, ..Endpoint::at(address(n as u8)) }).collect())
}

fn backend(weights: &[u32], traffic: Traffic) -> Backend {
    Backend::for_tests(set(weights), Some(Traffic { panic_threshold: 10, ..traffic }))
}

fn watched() -> Traffic {
    Traffic { outliers: Some(Outliers::default()), ..Traffic::default() }
}

/// A worker that sends requests by a clock of its own.
struct Stage {
    backend: Backend,
    turns: Turns,
    seconds: u64,
    requests: u64,
}

impl Stage {
    fn new(backend: Backend) -> Stage {
        Stage { backend, turns: Turns::new(), seconds: 1000, requests: 0 }
    }

    fn now(&self) -> Now {
        let now = Duration::from_secs(self.seconds);
        Now { monotonic: now, unix: now }
    }

    fn pick(&mut self, hash: Option<u64>, tried: &[SocketAddr]) -> Chosen {
        self.pick_after(hash, tried, false)
    }

    fn pick_after(&mut self, hash: Option<u64>, tried: &[SocketAddr], answered: bool) -> Chosen {
        self.requests += 1;
        let call = Call { now: self.now(), random: draw(11, self.requests), hash, tried, answered };
        pick_endpoint(&self.backend, &mut self.turns, &call).expect("an endpoint")
    }

    fn note(&mut self, chosen: &Chosen, outcome: Outcome) -> Option<Event> {
        let now = self.now();
        self.turns.note(&self.backend, chosen, outcome, now)
    }

    /// Requests to an endpoint that all end so.
    fn send_to(&mut self, last: u8, outcome: Outcome, count: usize) -> Vec<Event> {
        let chosen = Chosen { address: address(last), host: None, tunnel: None, probe: Probe::No, silent: false };
        (0..count).filter_map(|_| self.note(&chosen, outcome)).collect()
    }

    /// Where so many requests go.
    fn spread(&mut self, count: usize) -> BTreeMap<SocketAddr, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..count {
            *counts.entry(self.pick(None, &[]).address).or_insert(0) += 1;
        }
        counts
    }
}

#[test]
fn turns_are_even_and_weights_are_kept() {
    let mut even = Stage::new(backend(&[1, 1, 1], Traffic { balancer: Balancer::RoundRobin, ..Traffic::default() }));
    assert_eq!(even.spread(30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    let mut weighted = Stage::new(backend(&[3, 1], Traffic { balancer: Balancer::RoundRobin, ..Traffic::default() }));
    weighted.spread(3);
    assert_eq!(weighted.spread(40).into_values().collect::<Vec<_>>(), [30, 10]);
}

#[test]
fn turns_begin_anywhere() {
    let starts: std::collections::BTreeSet<SocketAddr> = (0..50)
        .map(|seed| {
            let traffic = Traffic { balancer: Balancer::RoundRobin, ..Traffic::default() };
            let mut stage = Stage::new(backend(&[1, 1, 1], traffic));
            stage.requests = seed * 1000;
            stage.pick(None, &[]).address
        })
        .collect();
    assert_eq!(starts.len(), 3);
}

#[test]
fn a_draw_keeps_weights_and_a_retry_goes_elsewhere() {
    for balancer in [Balancer::Random, Balancer::RoundRobin, Balancer::LeastRequest] {
        let mut stage = Stage::new(backend(&[3, 1], Traffic { balancer: balancer.clone(), ..Traffic::default() }));
        let counts = stage.spread(4000);
        assert!((2800..3200).contains(&counts[&address(0)]), "{balancer:?}: {counts:?}");
        for _ in 0..50 {
            assert_eq!(stage.pick(None, &[address(0)]).address, address(1), "{balancer:?}");
        }
        stage.pick(None, &[address(0), address(1)]);
    }
}

fn hashing() -> [Traffic; 2] {
    let ring = Balancer::RingHash { keys: Vec::new(), points: 1024, bound: 0 };
    let maglev = Balancer::Maglev { keys: Vec::new(), bound: 0 };
    [ring, maglev].map(|balancer| Traffic { balancer, ..watched() })
}

#[test]
fn the_same_hash_finds_the_same_endpoint_and_an_ejection_moves_only_its_own() {
    for traffic in hashing() {
        let mut stage = Stage::new(backend(&[1; 4], traffic));
        let keys: Vec<u64> = (0..200).map(|n| draw(5, n)).collect();
        let before: Vec<SocketAddr> = keys.iter().map(|key| stage.pick(Some(*key), &[]).address).collect();
        let again: Vec<SocketAddr> = keys.iter().map(|key| stage.pick(Some(*key), &[]).address).collect();
        assert_eq!(before, again);
        assert_eq!(stage.send_to(2, BAD, 5).len(), 1);
        for (key, place) in keys.iter().zip(&before) {
            let now = stage.pick(Some(*key), &[]).address;
            assert!(now != address(2) && (now == *place || *place == address(2)));
        }
        // The probe is a request that belongs there; its success brings the others back.
        stage.seconds += 31;
        let own = keys.iter().zip(&before).find(|(_, place)| **place == address(2)).map(|(key, _)| *key);
        let probe = stage.pick(own, &[]);
        assert_eq!((probe.address, probe.probe), (address(2), Probe::Yes));
        assert_ne!(stage.pick(own, &[]).address, address(2));
        assert_eq!(stage.note(&probe, GOOD), Some(Event::Recovered));
        let after: Vec<SocketAddr> = keys.iter().map(|key| stage.pick(Some(*key), &[]).address).collect();
        assert_eq!(before, after);
    }
}

#[test]
fn a_bound_on_the_load_moves_what_is_too_much() {
    let balancer = Balancer::RingHash { keys: Vec::new(), points: 1024, bound: 125 };
    let mut stage = Stage::new(backend(&[1; 4], Traffic { balancer, ..Traffic::default() }));
    let mut counts: Map<SocketAddr, u32> = Map::new();
    // One key for everything.
    for _ in 0..80 {
        let chosen = stage.pick(Some(42), &[]);
        stage.turns.begin(chosen.address);
        *counts.entry(chosen.address).or_default() += 1;
    }
    assert!(counts.values().all(|count| *count <= 25), "{counts:?}");
    assert_eq!(counts.len(), 4);
}

#[test]
fn five_failures_eject_and_one_probe_decides() {
    let mut stage = Stage::new(backend(&[1, 1], watched()));
    stage.spread(1);
    assert_eq!(stage.send_to(0, BAD, 5), [Event::Ejected(Duration::from_secs(30))]);
    assert_eq!(stage.turns.ejected(&stage.backend), [address(0)]);
    assert_eq!(stage.spread(50).into_keys().collect::<Vec<_>>(), [address(1)]);
    let absent = |stage: &Stage| stage.turns.absent(&stage.backend, stage.now());
    stage.seconds += 29;
    assert_eq!(absent(&stage), [(address(0), Absence::Ejected)]);
    // Time is over, whether requests come or not: one request tries, and only one.
    stage.seconds += 1;
    assert_eq!(absent(&stage), [(address(0), Absence::Probation)]);
    let probe = stage.pick(None, &[]);
    assert_eq!((probe.address, probe.probe), (address(0), Probe::Yes));
    assert_eq!(stage.spread(50).into_keys().collect::<Vec<_>>(), [address(1)]);
    assert_eq!(stage.note(&probe, Outcome::Unreachable), Some(Event::Ejected(Duration::from_secs(60))));
    stage.seconds += 59;
    assert_eq!(stage.spread(50).into_keys().collect::<Vec<_>>(), [address(1)]);
    stage.seconds += 1;
    let probe = stage.pick(None, &[]);
    let now = stage.now();
    assert_eq!(stage.turns.note_head(&stage.backend, &probe, now), Some(Event::Recovered));
    assert_eq!(stage.spread(50).len(), 2);
    assert!(absent(&stage).is_empty());
    assert!(stage.turns.ejected(&stage.backend).is_empty());
}

/// Connections that are not looked at have no status; that they came about is all that is known.
#[test]
fn a_connection_that_was_made_breaks_a_row_of_failures_and_ends_an_ejection() {
    let mut stage = Stage::new(backend(&[1, 1], watched()));
    stage.spread(1);
    stage.send_to(0, Outcome::Unreachable, 4);
    stage.send_to(0, Outcome::Connected, 1);
    assert_eq!(stage.send_to(0, Outcome::Unreachable, 4), []);
    assert_eq!(stage.send_to(0, Outcome::Unreachable, 1), [Event::Ejected(Duration::from_secs(30))]);
    stage.seconds += 30;
    let probe = stage.pick(None, &[]);
    assert_eq!(stage.note(&probe, Outcome::Connected), Some(Event::Recovered));
}

#[test]
fn a_probe_without_an_outcome_is_followed_by_another_and_a_retry_is_none() {
    let mut stage = Stage::new(backend(&[1, 1, 1], watched()));
    stage.spread(1);
    stage.send_to(0, BAD, 5);
    stage.seconds += 30;
    assert_eq!(stage.pick(None, &[address(1)]).address, address(2));
    let probe = stage.pick(None, &[]);
    assert_eq!(probe.probe, Probe::Yes);
    let later = stage.now().monotonic + Duration::from_secs(1);
    stage.turns.give_up_probe(&stage.backend, probe.address, later);
    // Not at once: what ends without an outcome may end so each time.
    assert_eq!(stage.pick(None, &[]).probe, Probe::No);
    stage.seconds += 1;
    assert_eq!(stage.pick(None, &[]).probe, Probe::Yes);
}

#[test]
fn small_sets_lose_one_and_never_the_last() {
    // So many that the share is not passed; one in any case, but never the last.
    let cases =
        [(1, 50, 0), (2, 50, 1), (3, 50, 1), (4, 50, 2), (3, 10, 1), (10, 10, 1), (20, 10, 2), (2, 100, 1), (4, 0, 0)];
    for (endpoints, share, most) in cases {
        let outliers = Outliers { share, ..Outliers::default() };
        let mut stage =
            Stage::new(backend(&vec![1; endpoints], Traffic { outliers: Some(outliers), ..Traffic::default() }));
        stage.spread(1);
        let ejected: usize = (0..endpoints).map(|last| stage.send_to(last as u8, BAD, 5).len()).sum();
        assert_eq!(ejected, most, "{endpoints} endpoints, {share} percent");
    }
}

/// A rolling restart of two: the first was ejected and is back, when the second goes.
#[test]
fn who_is_left_alone_is_asked_where_all_others_were_tried() {
    let mut stage = Stage::new(backend(&[1, 1], watched()));
    stage.spread(1);
    assert_eq!(stage.send_to(0, BAD, 5).len(), 1);
    assert_eq!(stage.pick(None, &[]).address, address(1));
    let probe = stage.pick(None, &[address(1)]);
    assert_eq!((probe.address, probe.probe), (address(0), Probe::Yes));
    // One who has found out nothing changes nothing.
    let now = stage.now().monotonic;
    stage.turns.give_up_probe(&stage.backend, probe.address, now);
    assert_eq!(stage.pick(None, &[]).address, address(1));
    let probe = stage.pick(None, &[address(1)]);
    assert_eq!((probe.address, probe.probe), (address(0), Probe::Yes));
    // Others who have tried the second one do not wait for what comes of it.
    let beside = stage.pick(None, &[address(1)]);
    assert_eq!((beside.address, beside.probe), (address(0), Probe::No));
    assert_eq!(stage.note(&probe, GOOD), Some(Event::Recovered));
    assert_eq!(stage.spread(100).len(), 2);
}

/// An outage of all of them: who was ejected before is asked now and then, and left alone as long as ever for that.
#[test]
fn who_is_asked_before_the_time_in_vain_is_left_alone_as_before() {
    let mut stage = Stage::new(backend(&[1, 1, 1], watched()));
    stage.spread(1);
    assert_eq!(stage.send_to(0, BAD, 5).len(), 1);
    let tried = [address(1), address(2)];
    let mut asked = Vec::new();
    for _ in 0..10 {
        stage.seconds += 1;
        let probe = stage.pick(None, &tried);
        asked.push((probe.address, probe.probe));
        assert_eq!(stage.note(&probe, Outcome::Unreachable), None);
        // Not all of those who come now.
        assert_ne!(stage.pick(None, &tried).address, address(0));
    }
    assert_eq!(asked, [(address(0), Probe::Yes); 10]);
    stage.seconds += 19;
    assert_eq!(stage.spread(10).get(&address(0)), None);
    stage.seconds += 1;
    let probe = stage.pick(None, &[]);
    assert_eq!((probe.address, probe.probe), (address(0), Probe::Yes));
    assert_eq!(stage.note(&probe, BAD), Some(Event::Ejected(Duration::from_secs(60))));
}

/// Of several that are left alone the one is asked whose time is over first, and only for a moment by all who have nobody else.
#[test]
fn who_has_nobody_else_asks_the_one_that_is_left_alone_for_the_shortest_time() {
    let outliers = Outliers { share: 70, ..Outliers::default() };
    let mut stage = Stage::new(backend(&[1, 1, 1], Traffic { outliers: Some(outliers), ..Traffic::default() }));
    stage.spread(1);
    for last in [1, 0] {
        assert_eq!(stage.send_to(last, BAD, 5).len(), 1);
        stage.seconds += 1;
    }
    let ask = |stage: &mut Stage| {
        let chosen = stage.pick(None, &[address(2)]);
        (chosen.address, chosen.probe)
    };
    assert_eq!(ask(&mut stage), (address(1), Probe::Yes));
    assert_eq!(ask(&mut stage), (address(1), Probe::No));
    // It keeps its client waiting: the other one is asked.
    stage.seconds += 1;
    assert_eq!(ask(&mut stage), (address(0), Probe::Yes));
    stage.seconds += 1;
    assert_eq!(ask(&mut stage), (address(2), Probe::No));
}

#[test]
fn a_probe_that_never_ends_is_followed_by_another() {
    let mut stage = Stage::new(backend(&[1, 1], watched()));
    stage.spread(1);
    stage.send_to(0, BAD, 5);
    stage.seconds += 30;
    let endless = stage.pick(None, &[]);
    assert_eq!(endless.probe, Probe::Yes);
    stage.seconds += 9;
    assert_eq!(stage.spread(50).get(&address(0)), None);
    stage.seconds += 1;
    let second = stage.pick(None, &[]);
    assert_eq!((second.address, second.probe), (address(0), Probe::Yes));
    assert_eq!(stage.spread(50).get(&address(0)), None);
    // The first comes to its end after all: the word of the second holds.
    assert_eq!(stage.note(&endless, Outcome::TimedOut), Some(Event::Ejected(Duration::from_secs(60))));
    assert_eq!(stage.note(&second, GOOD), Some(Event::Recovered));
    assert_eq!(stage.spread(50).len(), 2);
}

#[test]
fn an_ejection_survives_another_set_and_is_forgotten_with_its_endpoint() {
    let mut stage = Stage::new(backend(&[1, 1], watched()));
    stage.spread(1);
    stage.send_to(0, BAD, 5);
    stage.backend.endpoints.store(Arc::new(set(&[1, 1, 1])));
    let left = stage.spread(50);
    assert_eq!(left.into_keys().collect::<Vec<_>>(), [address(1), address(2)]);
    stage.backend.endpoints.store(Arc::new(EndpointSet::new(vec![Endpoint::at(address(1))])));
    stage.spread(1);
    assert!(stage.turns.ejected(&stage.backend).is_empty());
}

#[test]
fn what_the_checks_found_unwell_gets_nothing_until_nobody_is_well() {
    let check = crate::policies::check_for_tests();
    let mut stage = Stage::new(backend(&[1, 1], Traffic { check: Some(check), ..Traffic::default() }));
    assert_eq!(stage.spread(50).len(), 2);
    let say = |stage: &Stage, words: [Wellness; 2]| {
        let by_address = words.into_iter().enumerate().map(|(n, word)| (address(n as u8), word)).collect();
        stage.backend.ledger.health.store(Some(Arc::new(Verdicts { by_address })));
    };
    let unwell = || Wellness::Unwell("it answers 500".into());
    say(&stage, [unwell(), Wellness::Well]);
    assert_eq!(stage.spread(50).into_keys().collect::<Vec<_>>(), [address(1)]);
    // The last that is well is not ejected.
    assert!(stage.send_to(1, BAD, 20).is_empty());
    say(&stage, [unwell(), unwell()]);
    assert_eq!(stage.spread(50).len(), 2);
    say(&stage, [Wellness::Well, unwell()]);
    assert_eq!(stage.spread(50).into_keys().collect::<Vec<_>>(), [address(0)]);
}

#[test]
fn without_panic_nobody_well_is_nobody() {
    let check = crate::policies::check_for_tests();
    let traffic = Traffic { check: Some(check), panic_threshold: 0, ..Traffic::default() };
    let backend = Backend::for_tests(set(&[1, 1]), Some(traffic));
    backend.ledger.health.store(Some(Arc::default()));
    let now = Now { monotonic: Duration::ZERO, unix: Duration::ZERO };
    let call = Call { now, random: 1, hash: None, tried: &[], answered: false };
    let reply = pick_endpoint(&backend, &mut Turns::new(), &call).expect_err("nobody");
    assert_eq!(reply.status, 503);
}

#[test]
fn who_is_near_gets_everything_until_half_of_it_fails() {
    let zones = ["a", "a", "b", "b"];
    let endpoint =
        |(n, zone): (usize, &&str)| Endpoint { zone: Some((*zone).into()), ..Endpoint::at(address(n as u8)) };
    let set = EndpointSet::new(zones.iter().enumerate().map(endpoint).collect());
    let locality = Locality { here: Some("a".into()), failover: Vec::new(), near: Vec::new(), overprovisioning: 140 };
    let mut stage = Stage::new(Backend::for_tests(set, Some(Traffic { locality: Some(locality), ..watched() })));
    assert_eq!(stage.spread(100).into_keys().collect::<Vec<_>>(), [address(0), address(1)]);
    // A retry leaves the zone when there is nobody else in it.
    assert!([address(2), address(3)].contains(&stage.pick(None, &[address(0), address(1)]).address));
    stage.send_to(0, BAD, 5);
    let counts = stage.spread(4000);
    assert!((2650..2950).contains(&counts[&address(1)]), "{counts:?}");
    assert!(!counts.contains_key(&address(0)));
}

#[test]
fn a_new_endpoint_starts_slowly() {
    let traffic = Traffic { balancer: Balancer::Random, slow_start: Duration::from_secs(100), ..Traffic::default() };
    let mut stage = Stage::new(backend(&[1], traffic));
    stage.spread(1);
    stage.backend.endpoints.store(Arc::new(set(&[1, 1])));
    let share = |stage: &mut Stage| stage.spread(2000).get(&address(1)).copied().unwrap_or_default();
    let first = share(&mut stage);
    assert!((100..280).contains(&first), "{first}");
    stage.seconds += 50;
    let half = share(&mut stage);
    assert!((560..780).contains(&half), "{half}");
    stage.seconds += 60;
    let whole = share(&mut stage);
    assert!((900..1100).contains(&whole), "{whole}");
}

#[test]
fn memory_goes_with_the_backend() {
    let mut stage = Stage::new(backend(&[1, 1], watched()));
    stage.spread(1);
    stage.send_to(0, BAD, 5);
    stage.turns.prune(&Snapshot::default());
    assert!(stage.turns.ejected(&stage.backend).is_empty());
}

/// Without a policy, and with one that says nothing of failures.
fn heedless() -> [Stage; 2] {
    let policy = backend(&[1, 1, 1], Traffic { balancer: Balancer::RoundRobin, ..Traffic::default() });
    [Backend::for_tests(set(&[1, 1, 1]), None), policy].map(Stage::new)
}

#[test]
fn who_is_silent_is_asked_when_nobody_else_is_left() {
    let ruled = || Traffic { panic_threshold: 10, ..watched() };
    for traffic in [None, Some(Traffic { panic_threshold: 10, ..Traffic::default() }), Some(ruled())] {
        let silent = [8, 9].map(|last| Endpoint::at(address(last))).to_vec();
        let is_ruled = traffic.as_ref().is_some_and(|traffic| traffic.outliers.is_some());
        let backend = || Backend::for_tests(set(&[1, 1]).before_silent(silent.clone()), traffic.clone());
        let mut stage = Stage::new(backend());
        assert_eq!(stage.spread(100).keys().copied().collect::<Vec<_>>(), [address(0), address(1)]);
        // A request that has tried all others in vain goes on to them, one after the other.
        let mut tried = vec![address(0), address(1)];
        assert_eq!(crate::pick::alternatives(&stage.backend, &tried, false), 2);
        // An answer of somebody who is there is one, and none of them has a better one.
        assert_eq!(crate::pick::alternatives(&stage.backend, &tried, true), 0);
        for _ in 0..10 {
            let chosen = stage.pick_after(None, &tried, true);
            assert!(tried.contains(&chosen.address) && !chosen.silent, "{chosen:?}");
        }
        for _ in 0..2 {
            let chosen = stage.pick(None, &tried).address;
            assert!([address(8), address(9)].contains(&chosen) && !tried.contains(&chosen), "{chosen}");
            tried.push(chosen);
        }
        assert!(tried.contains(&stage.pick(None, &tried).address), "then it begins anew");
        // One of them that cannot be reached is left alone like any other, whatever rules there are about failures.
        let mut dark = Stage::new(backend());
        let first = dark.pick(None, &tried[..2]);
        assert!(first.silent && dark.note(&first, Outcome::Unreachable).is_some());
        let others: Vec<SocketAddr> = (0..20).map(|_| dark.pick(None, &tried[..2]).address).collect();
        assert!(!others.contains(&first.address), "{first:?}");
        let now = dark.now();
        assert_eq!(dark.turns.absent(&dark.backend, now), [(first.address, Absence::Unreachable)]);
        dark.seconds += 1;
        let others: Vec<SocketAddr> = (0..50).map(|_| dark.pick(None, &tried[..2]).address).collect();
        assert_eq!(others.iter().filter(|one| **one == first.address).count(), 1, "one request finds out");
        assert_eq!(dark.note(&first, Outcome::Status(200)), Some(Event::Recovered));
        // Where nobody can be reached others need not find out for themselves.
        if !is_ruled {
            stage.send_to(0, Outcome::Unreachable, 1);
            assert_eq!(stage.spread(10), BTreeMap::from([(address(1), 10)]));
            stage.send_to(1, Outcome::Unreachable, 1);
            stage.send_to(8, Outcome::Unreachable, 1);
            assert_eq!(stage.spread(10), BTreeMap::from([(address(9), 10)]));
            let now = stage.now();
            assert!(stage.turns.has_hope(&stage.backend, &[], now));
        }
    }
}

#[test]
fn who_cannot_be_reached_is_passed_over_and_asked_by_one_request() {
    for mut stage in heedless() {
        assert_eq!(stage.send_to(0, Outcome::Unreachable, 3), [Event::Unreachable(Duration::from_secs(1))]);
        let now = stage.now();
        assert_eq!(stage.turns.absent(&stage.backend, now), [(address(0), Absence::Unreachable)]);
        assert_eq!(stage.spread(100).get(&address(0)), None);
        // A second later one request finds out, and until it has the others go elsewhere.
        stage.seconds += 1;
        assert_eq!(stage.spread(100).get(&address(0)), Some(&1));
        assert_eq!(stage.send_to(0, Outcome::Unreachable, 1), []);
        stage.seconds += 1;
        assert_eq!(stage.spread(100).get(&address(0)), None);
        stage.seconds += 1;
        assert_eq!(stage.spread(100).get(&address(0)), Some(&1));
        assert_eq!(stage.send_to(0, Outcome::Status(500), 1), [Event::Recovered]);
        assert!(stage.spread(100)[&address(0)] > 10);
    }
}

/// A stream may last for hours: that it has begun is what is known, and its end tells nothing of who can be reached by then.
#[test]
fn who_could_not_be_reached_is_back_with_the_head_of_a_response_and_not_with_its_end() {
    for mut stage in heedless() {
        assert_eq!(stage.send_to(0, Outcome::Unreachable, 1).len(), 1);
        let old = Chosen { address: address(0), host: None, tunnel: None, probe: Probe::No, silent: false };
        let now = stage.now();
        stage.turns.note_end(&stage.backend, &old, GOOD, now);
        assert_eq!(stage.note(&old, Outcome::Reset), None);
        assert_eq!(stage.spread(100).get(&address(0)), None);
        assert_eq!(stage.turns.note_head(&stage.backend, &old, now), Some(Event::Recovered));
        assert_eq!(stage.turns.note_head(&stage.backend, &old, now), None);
        assert!(stage.spread(100)[&address(0)] > 10);
    }
}

/// Streams from better days end, one after the other, at an endpoint that fails whatever is new.
#[test]
fn the_end_of_what_began_before_the_failures_is_no_success_after_them() {
    let mut stage = Stage::new(backend(&[1, 1], watched()));
    stage.spread(1);
    let (old, now) =
        (Chosen { address: address(0), host: None, tunnel: None, probe: Probe::No, silent: false }, stage.now());
    let mut rows = Vec::new();
    for has_begun in [true, false] {
        stage.send_to(0, GOOD, 1);
        stage.turns.note_head(&stage.backend, &old, now);
        for _ in 0..4 {
            rows.extend(stage.send_to(0, BAD, 1));
            if has_begun {
                assert_eq!(stage.turns.note_head(&stage.backend, &old, now), None);
            }
            stage.turns.note_end(&stage.backend, &old, GOOD, now);
        }
        rows.extend(stage.send_to(0, BAD, 1));
    }
    // In the first row others had begun well in between.
    assert_eq!(rows, [Event::Ejected(Duration::from_secs(30))]);
}

/// Who refuses at once has the fewest requests under way, and would get them all.
#[test]
fn who_has_refused_a_stream_is_passed_over_for_a_moment_and_asked_by_one_request() {
    for mut stage in heedless().into_iter().chain([Stage::new(backend(&[1, 1, 1], watched()))]) {
        let busy = Chosen { address: address(0), host: None, tunnel: None, probe: Probe::No, silent: false };
        let now = stage.now();
        stage.turns.note_refused(&busy, now);
        assert_eq!(stage.spread(100).get(&address(0)), None);
        // It is not away, and where there is nobody else it is asked.
        assert!(stage.turns.absent(&stage.backend, now).is_empty());
        assert_eq!(stage.pick(None, &[address(1), address(2)]).address, address(0));
        stage.seconds += 1;
        assert_eq!(stage.spread(100).get(&address(0)), Some(&1));
        let now = stage.now();
        assert_eq!(stage.turns.note_head(&stage.backend, &busy, now), None);
        assert!(stage.spread(100)[&address(0)] > 10);
    }
}

/// Of two that are left alone the time of one is over: one request finds out, also where the other was drawn first.
#[test]
fn who_is_passed_over_makes_nobody_else_be_asked_by_more_than_one() {
    for mut stage in heedless() {
        stage.send_to(0, Outcome::Unreachable, 1);
        stage.seconds += 1;
        stage.send_to(1, Outcome::Unreachable, 1);
        let counts = stage.spread(100);
        assert_eq!((counts.get(&address(0)), counts.get(&address(1)), counts[&address(2)]), (Some(&1), None, 99));
    }
}

#[test]
fn where_nobody_can_be_reached_everybody_is_used() {
    for mut stage in heedless() {
        for last in 0..3 {
            stage.send_to(last, Outcome::Unreachable, 1);
        }
        assert_eq!(stage.spread(100).len(), 3);
        // Those that the request has not tried come first all the same.
        for _ in 0..20 {
            assert_eq!(stage.pick(None, &[address(0), address(2)]).address, address(1));
        }
        let now = stage.now();
        assert!(!stage.turns.has_hope(&stage.backend, &[], now));
        stage.send_to(1, GOOD, 1);
        assert!(stage.turns.has_hope(&stage.backend, &[], now));
        assert!(!stage.turns.has_hope(&stage.backend, &[address(1)], now));
    }
}

#[test]
fn with_outlier_detection_a_single_failure_is_no_reason() {
    let mut stage = Stage::new(backend(&[1, 1], watched()));
    assert_eq!(stage.send_to(0, Outcome::Unreachable, 1), []);
    assert!(stage.spread(100)[&address(0)] > 10);
}
