//! Reports that are honest, late, repeated, too large, or lies.

use transept_xds::report::EdgeTotals;

use super::*;

const WINDOW: Duration = Duration::from_secs(10);
const WEB: &str = "spiffe://transept.local/ns/default/sa/web";

fn id(service: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://transept.local/ns/default/sa/{service}")).expect("an id")
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn name(id: u32, end: End, source: &str, service: &str, workload: &str) -> EdgeName {
    EdgeName { id, source: source.into(), service: service.into(), workload: workload.into(), end: end.into() }
}

fn totals(edge: u32, requests: u64) -> EdgeTotals {
    EdgeTotals { edge, requests, ..EdgeTotals::default() }
}

fn report(sequence: u64, names: Vec<EdgeName>, edges: Vec<EdgeTotals>) -> Report {
    Report { sequence, epoch: 1, proxy: "web-1".into(), complete: true, names, edges, ..Report::default() }
}

/// What all edges counted so far, and in the windows around `now`.
fn counted(book: &Book, now: Duration) -> (u64, u64) {
    let window = book.window_at(now);
    book.edges(window.saturating_sub(RECENT), window, now)
        .fold((0, 0), |(total, recent), (_, all, some)| (total + all.requests, recent + some.requests))
}

/// A book with one stream of web, which has told that nothing has happened yet.
fn begun() -> (Book, Stream) {
    let mut book = Book::new(WINDOW);
    let mut stream = book.open(&id("web"));
    assert!(book.take(&mut stream, &report(1, vec![], vec![]), at(0)));
    (book, stream)
}

#[test]
fn totals_grow_and_windows_hold_what_came() {
    let (mut book, mut stream) = begun();
    let names = vec![name(0, End::Source, WEB, "default/cart", "10.0.0.1:80")];
    book.take(&mut stream, &report(2, names, vec![totals(0, 5)]), at(5));
    assert_eq!(counted(&book, at(5)), (5, 5));
    book.take(&mut stream, &report(3, vec![], vec![totals(0, 7)]), at(15));
    assert_eq!(counted(&book, at(15)), (7, 7));
    let in_first: u64 = book.edges(0, 0, at(15)).map(|(_, _, figures)| figures.requests).sum();
    assert_eq!(in_first, 5);
    // The windows pass, the total stays.
    book.take(&mut stream, &report(4, vec![], vec![totals(0, 8)]), at(95));
    assert_eq!(counted(&book, at(95)), (8, 1));
}

#[test]
fn repeated_late_and_lost_reports_change_nothing() {
    let (mut book, mut stream) = begun();
    let names = vec![name(0, End::Source, WEB, "default/cart", "")];
    let second = report(2, names, vec![totals(0, 5)]);
    assert!(book.take(&mut stream, &second, at(1)));
    assert!(!book.take(&mut stream, &second, at(2)), "repeated");
    // The third is lost, the fourth says it all, and then the third comes after all.
    assert!(book.take(&mut stream, &report(4, vec![], vec![totals(0, 9)]), at(3)));
    assert!(!book.take(&mut stream, &report(3, vec![], vec![totals(0, 7)]), at(4)), "late");
    assert_eq!(counted(&book, at(4)), (9, 9));
    // Totals do not fall within an epoch.
    assert!(book.take(&mut stream, &report(5, vec![], vec![totals(0, 2)]), at(5)));
    assert_eq!(counted(&book, at(5)), (9, 9));
}

#[test]
fn another_stream_of_the_same_proxy_goes_on_and_the_old_one_is_not_heard() {
    let (mut book, mut old) = begun();
    let names = || vec![name(3, End::Source, WEB, "default/cart", "")];
    book.take(&mut old, &report(2, names(), vec![totals(3, 5)]), at(1));
    let mut new = book.open(&id("web"));
    book.take(&mut new, &report(1, names(), vec![totals(3, 6)]), at(2));
    assert!(!book.take(&mut old, &report(3, vec![], vec![totals(3, 50)]), at(3)));
    book.close(&old, at(3));
    assert_eq!(counted(&book, at(100)), (6, 0), "it is still there");
    book.close(&new, at(100));
    assert_eq!(counted(&book, at(110)), (6, 0), "it may come back");
    assert_eq!(counted(&book, at(111)), (0, 0), "it is away");
    let mut third = book.open(&id("web"));
    book.take(&mut third, &report(1, names(), vec![totals(3, 8)]), at(112));
    assert_eq!(counted(&book, at(112)), (8, 2), "it has come back");
    book.close(&third, at(120));
    book.sweep(at(120) + FORGET + at(1));
    assert_eq!((book.reporters.len(), book.edges), (0, 0));
}

#[test]
fn what_was_counted_before_anybody_asked_did_not_happen_now() {
    let mut book = Book::new(WINDOW);
    let mut stream = book.open(&id("web"));
    let names = vec![name(0, End::Source, WEB, "default/cart", "a"), name(1, End::Source, WEB, "default/cart", "b")];
    // Two reports until everything is told.
    let first = Report { complete: false, ..report(1, names, vec![totals(0, 1_000_000)]) };
    book.take(&mut stream, &first, at(1));
    book.take(&mut stream, &report(2, vec![], vec![totals(0, 1_000_001), totals(1, 500)]), at(2));
    assert_eq!(counted(&book, at(2)), (1_000_501, 1));
    // From then on what is new to us is new.
    let names = vec![name(2, End::Source, WEB, "default/cart", "c")];
    book.take(&mut stream, &report(3, names, vec![totals(2, 4)]), at(3));
    assert_eq!(counted(&book, at(3)), (1_000_505, 5));
}

#[test]
fn nobody_tells_of_edges_of_others() {
    let (mut book, mut stream) = begun();
    let bank = "spiffe://transept.local/ns/default/sa/bank";
    let names = vec![
        name(0, End::Source, bank, "default/cart", ""),
        name(1, End::Destination, bank, "default/cart", ""),
        name(2, End::Destination, WEB, "default/cart", ""),
        name(3, End::Source, WEB, "default/cart", &"x".repeat(LONGEST + 1)),
        name(4, End::Destination, bank, "default/web", "web-1"),
        name(5, End::Source, WEB, "default/cart", ""),
    ];
    let edges = (0..=6).map(|edge| totals(edge, 1)).collect();
    book.take(&mut stream, &report(2, names, edges), at(1));
    let told: Vec<_> = book.edges(0, 9, at(1)).map(|(key, ..)| (key.end, key.service.to_string())).collect();
    assert_eq!(told, [(End::Source, "default/cart".to_owned()), (End::Destination, "default/web".to_owned())]);
}

#[test]
fn a_reporter_has_room_for_so_many_edges_and_no_more() {
    let (mut book, mut stream) = begun();
    for round in 0..6_u32 {
        let numbers = round * 1000..(round + 1) * 1000;
        let names = numbers.clone().map(|id| name(id, End::Source, WEB, "default/cart", &id.to_string())).collect();
        let edges = numbers.map(|id| totals(id, 1)).collect();
        book.take(&mut stream, &report(u64::from(round) + 2, names, edges), at(1));
    }
    assert_eq!((book.edges, stream.names.len(), stream.told), (MOST_EACH, MOST_EACH, true));
}

#[test]
fn endpoints_that_are_shunned_are_known_while_their_reporter_is_there() {
    let (mut book, mut stream) = begun();
    let health = |workload: &str, health: Health| EndpointHealth {
        service: "default/cart".into(),
        workload: workload.into(),
        health: health.into(),
        why: String::new(),
    };
    let all = vec![health("a", Health::Ejected), health("b", Health::Healthy), health("c", Health::Failing)];
    book.take(&mut stream, &Report { health: all, ..report(2, vec![], vec![]) }, at(1));
    let shunned = |book: &Book, now| book.shunned(now).map(|(_, workload, _)| workload.to_owned()).collect::<Vec<_>>();
    assert_eq!(shunned(&book, at(1)), ["a", "c"]);
    let gone = vec![health("a", Health::Unknown), health("c", Health::Healthy)];
    book.take(&mut stream, &Report { health: gone, ..report(3, vec![], vec![]) }, at(2));
    assert!(shunned(&book, at(2)).is_empty());
    let again = vec![health("b", Health::Ejected)];
    book.take(&mut stream, &Report { health: again, ..report(4, vec![], vec![]) }, at(3));
    book.close(&stream, at(3));
    assert_eq!(shunned(&book, at(4)), ["b"]);
    assert!(shunned(&book, at(30)).is_empty());
}

#[test]
fn an_edge_that_the_proxy_has_forgotten_goes_on_where_it_was() {
    let (mut book, mut stream) = begun();
    let named = |id| vec![name(id, End::Source, WEB, "default/cart", "10.0.0.1:80")];
    let of = |edge, requests, born| EdgeTotals { born, ..totals(edge, requests) };
    book.take(&mut stream, &report(2, named(0), vec![of(0, 5, 1)]), at(1));
    book.take(&mut stream, &Report { forgotten: vec![0], ..report(3, vec![], vec![]) }, at(2));
    book.take(&mut stream, &report(4, named(1), vec![of(1, 2, 9)]), at(3));
    assert_eq!(counted(&book, at(3)), (7, 7));
    book.take(&mut stream, &report(5, vec![], vec![of(1, 4, 9)]), at(4));
    assert_eq!(counted(&book, at(4)), (9, 9));
    // A number that was forgotten means nothing, and an edge of before says nothing new.
    book.take(&mut stream, &report(6, vec![], vec![of(0, 50, 9), of(1, 40, 1)]), at(5));
    assert_eq!(counted(&book, at(5)), (9, 9));
    // Another stream of the same process knows what was counted before.
    let mut again = book.open(&id("web"));
    book.take(&mut again, &report(1, named(0), vec![of(0, 6, 9)]), at(6));
    assert_eq!(counted(&book, at(6)), (11, 11));
}

#[test]
fn what_is_open_is_what_was_told_last() {
    let (mut book, mut stream) = begun();
    let names = vec![name(0, End::Source, WEB, "default/cart", "10.0.0.1:80")];
    let of = |open, bytes_sent| EdgeTotals { open, bytes_sent, ..totals(0, 0) };
    let mut told = |sequence, names: &[EdgeName], totals, seconds| {
        book.take(&mut stream, &report(sequence, names.to_vec(), vec![totals]), at(seconds));
        let (_, total, recent) = book.edges(0, 9, at(seconds)).next().expect("an edge");
        (total.open, total.bytes_sent, recent.open, recent.bytes_sent)
    };
    assert_eq!(told(2, &names, of(2, 10), 1), (2, 10, 0, 10));
    assert_eq!(told(3, &[], of(1, 15), 2), (1, 15, 0, 15));
    assert_eq!(told(4, &[], of(0, 15), 3), (0, 15, 0, 15));
}

#[test]
fn a_reporter_with_too_many_edges_loses_those_that_have_been_quiet_for_longest() {
    let (mut book, mut stream) = begun();
    let workload = |number: usize| format!("10.0.{}.{}:80", number / 256, number % 256);
    let mut sequence = 1;
    let mut tell = |book: &mut Book, numbers: std::ops::Range<usize>, forgotten: Vec<u32>, seconds| {
        sequence += 1;
        let ids = numbers.map(|number| (u32::try_from(number).expect("small"), number));
        let names = ids.clone().map(|(id, number)| name(id, End::Source, WEB, "default/cart", &workload(number)));
        let edges = ids.map(|(id, _)| totals(id, 1)).collect();
        let report = Report { forgotten, ..report(sequence, names.collect(), edges) };
        assert!(book.take(&mut stream, &report, at(seconds)));
    };
    tell(&mut book, 0..10, vec![], 0);
    tell(&mut book, 10..MOST_EACH, vec![], 20);
    assert_eq!(counted(&book, at(20)).0, MOST_EACH as u64);
    // Too early: all of them are in the figures that are shown.
    let forgotten = (0..5).collect();
    tell(&mut book, MOST_EACH..MOST_EACH + 5, forgotten, 25);
    assert_eq!(counted(&book, at(25)).0, MOST_EACH as u64);
    tell(&mut book, MOST_EACH..MOST_EACH + 5, vec![], 60);
    let known = |number: usize| book.edges(0, 9, at(60)).any(|(key, ..)| *key.workload == workload(number));
    assert!((MOST_EACH..MOST_EACH + 5).all(known) && !(0..10).any(known));
    assert_eq!(book.edges, book.reporters.values().map(|reporter| reporter.edges.len()).sum::<usize>());
}
