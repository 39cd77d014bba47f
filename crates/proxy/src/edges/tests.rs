//! Tests of `edges`: whose fault something is, room for edges, and connections that are open.

use transept_xds::report::bucket_floor;

use super::ledger::{IDLE, MOST_EDGES};
use super::*;

#[test]
fn our_own_overflow_and_refusals_are_not_the_fault_of_the_destination() {
    assert_eq!(blame(200, None), Blame::Nobody);
    assert_eq!(blame(404, None), Blame::Nobody);
    assert_eq!(blame(503, None), Blame::Destination);
    assert_eq!(blame(503, Some(Reason::UpstreamRefused)), Blame::Destination);
    assert_eq!(blame(504, Some(Reason::RequestTimeout)), Blame::Destination);
    assert_eq!(blame(504, Some(Reason::RequestDeadline)), Blame::Nobody);
    assert_eq!(blame(503, Some(Reason::BackendOverflow)), Blame::Refusal);
    assert_eq!(blame(403, Some(Reason::NotAuthorized)), Blame::Refusal);
    assert_eq!(blame(499, Some(Reason::DownstreamClosed)), Blame::Nobody);
    assert_eq!(blame(500, Some(Reason::BackendInvalid)), Blame::Nobody);
}

#[test]
fn the_last_bucket_begins_at_two_minutes() {
    let last = u32::try_from(BUCKETS - 1).expect("small");
    assert_eq!(bucket_floor(last), 1 << 27);
    let mut totals = EdgeTotals::default();
    totals.ended(2, Blame::Nobody, Duration::from_secs(3600), (1, 2));
    assert_eq!((totals.latency[BUCKETS - 1], totals.classes[2]), (1, 1));
}

fn web(ledger: &Arc<Ledger>) -> Edges {
    Edges::new("spiffe://transept.local/ns/default/sa/web".into(), ledger.clone())
}

fn name(number: usize) -> EdgeName {
    EdgeName {
        reporter: Reporter::Destination,
        source: number.to_string().into(),
        destination: "default/web".into(),
        workload: "web-1".into(),
    }
}

fn at(second: u32) -> Duration {
    Duration::from_secs(second.into())
}

#[test]
fn edges_that_there_is_no_room_for_are_one_and_are_told_of() {
    let ledger = Arc::new(Ledger::default());
    let mut workers = [web(&ledger), web(&ledger)];
    for edges in &mut workers {
        let numbers: Vec<_> = (0..MOST_EDGES + 2).map(|number| edges.add(name(number))).collect();
        assert_eq!(numbers.iter().flatten().count(), MOST_EDGES, "both workers mean the same ones");
        edges.at(None).ended(5, Blame::Destination, Duration::ZERO, (0, 0));
    }
    let graph = add_all(workers.iter_mut().flat_map(Edges::all).collect());
    assert_eq!(graph.len(), MOST_EDGES + 1);
    let folded = graph.get(&other()).expect("the rest");
    assert_eq!((folded.requests(), folded.errors), (2, 2), "two workers are summed");
    assert_eq!((ledger.overflowed(), ledger.forgotten()), (2, 0));
}

#[test]
fn an_edge_that_was_forgotten_leaves_all_workers_and_begins_at_zero() {
    let ledger = Arc::new(Ledger::default());
    let (mut one, mut two) = (web(&ledger), web(&ledger));
    for edges in [&mut one, &mut two] {
        let number = edges.add(name(0));
        edges.at(number).retries += 5;
    }
    (1..MOST_EDGES).for_each(|number| assert!(one.add(name(number)).is_some()));
    let before = one.all();
    assert_eq!(add_all(before.iter().cloned().chain(two.all()).collect())[&name(0)].retries, 10);
    // Another edge takes the place of the first, which only the other worker knows to be gone yet.
    one.tidy(at(IDLE));
    assert!(one.add(name(MOST_EDGES)).is_some());
    let graph = add_all(before.into_iter().chain(two.all()).collect());
    assert!(!graph.contains_key(&name(0)), "what was told of it before counts no more");
    let number = two.add(name(0));
    two.at(number).retries += 1;
    for edges in [&mut one, &mut two] {
        edges.tidy(at(IDLE + 1));
    }
    let graph = add_all([one.all(), two.all()].concat());
    assert_eq!(graph[&name(0)].retries, 1);
    assert!(graph[&name(0)].born > graph[&name(MOST_EDGES)].born);
}

#[test]
fn a_connection_is_counted_while_it_is_open_and_keeps_its_edge() {
    let ledger = Arc::new(Ledger::default());
    let mut edges = web(&ledger);
    let edge = edges.add(name(0));
    let ride = Rc::new(Ride { edge, moved: Cell::default(), counted: Cell::default() });
    edges.rides.push(Rc::downgrade(&ride));
    let counted = |edges: &mut Edges| {
        let graph = add_all(edges.all());
        let totals = &graph[&name(0)];
        (totals.open, totals.bytes_sent, totals.bytes_received, totals.requests())
    };
    ride.note(3, 4);
    assert_eq!(counted(&mut edges), (1, 3, 4, 0));
    assert_eq!(counted(&mut edges), (1, 3, 4, 0), "once");
    ride.note(5, 4);
    edges.tidy(at(10 * IDLE));
    assert_eq!(counted(&mut edges), (1, 5, 4, 0));
    (1..MOST_EDGES).for_each(|number| assert!(edges.add(name(number)).is_some()));
    edges.tidy(at(10 * IDLE + IDLE - 1));
    assert!(edges.add(name(MOST_EDGES)).is_none(), "an open connection is a use");
    drop(ride);
    assert_eq!(counted(&mut edges).0, 0);
}
