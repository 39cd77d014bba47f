//! Tests of `QuotaPolicy`.

use std::net::SocketAddr;

use transept_wire::head::{FieldName, Request};

use super::super::tests::{compile, refusals};
use super::*;
use crate::exchange::{Connection, Notes, Now};

/// 2026-11-28T12:00:00Z.
const NOON: u64 = 1_795_867_200;

/// One request at a moment, and what becomes of it when the gateway answers for this reason.
fn visit(policy: &QuotaPolicy, unix: u64, replied: Option<Reason>) -> (Verdict, String) {
    let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
    exchange(policy, unix, replied, &mut request, &mut Notes::new(), &mut Response::new(200))
}

/// What becomes of a request with this id that a trusted proxy, or else the client, has given it: whether it passes, and what is left.
fn visit_as(policy: &QuotaPolicy, id: &str, by_proxy: bool, path: &str, replied: Option<Reason>) -> (bool, String) {
    let mut request = Request::build("GET", "http", "a.test", path).expect("a request");
    request.fields.push_bytes(b"x-request-id", id.as_bytes()).expect("a field");
    let mut notes = Notes::new();
    notes.is_named_by_proxy = by_proxy;
    let mut response = Response::new(200);
    response.fields.push_bytes(b"x-cost", b"3").expect("a field");
    let (verdict, told) = exchange(policy, NOON, replied, &mut request, &mut notes, &mut response);
    (verdict.goes_on(), told)
}

/// Both sides of the road, and what clients are told.
fn exchange(
    policy: &QuotaPolicy,
    unix: u64,
    replied: Option<Reason>,
    request: &mut Request,
    notes: &mut Notes,
    response: &mut Response,
) -> (Verdict, String) {
    let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
    let mut x = Exchange {
        now: Now { monotonic: Duration::ZERO, unix: Duration::from_secs(unix) },
        random: 7,
        connection: &Connection::new(address, address, None),
        client: address.ip(),
        listener_port: 80,
        request,
        notes,
    };
    let verdict = policy.on_request(&mut x);
    if let Verdict::Respond(reply) = &verdict {
        x.notes.replied = Some((&**reply).into());
    }
    x.notes.replied = x.notes.replied.or(replied.map(|reason| (&Reply::new(reason)).into()));
    policy.on_response(&mut x, response);
    let name = FieldName::new("RateLimit").expect("a name");
    let told = response.fields.first_named(&name).map(|value| String::from_utf8_lossy(value).into_owned());
    (verdict, told.unwrap_or_default())
}

fn passing(policy: &QuotaPolicy, unix: u64, replied: Option<Reason>) -> usize {
    (0..20).filter(|_| visit(policy, unix, replied).0.goes_on()).count()
}

#[test]
fn a_day_has_its_quota_and_the_next_one_has_it_again() {
    let policy = compile::<QuotaPolicy>("quotas: [{name: day, requests: 5, per: Day, key: []}]\n");
    assert_eq!(visit(&policy, NOON, None).1, r#""day";r=4;t=43200"#);
    assert_eq!(passing(&policy, NOON, None), 4);
    let (refused, told) = visit(&policy, NOON, None);
    let Verdict::Respond(reply) = refused else { panic!("refused") };
    assert_eq!((reply.status, reply.reason), (429, Reason::QuotaExceeded));
    assert_eq!(reply.fields[0].1, b"43200");
    assert_eq!(told, r#""day";r=0;t=43200"#);
    assert_eq!(passing(&policy, NOON + 43_199, None), 0);
    assert_eq!(passing(&policy, NOON + 43_200, None), 5);
}

#[test]
fn midnight_is_that_of_the_time_zone() {
    let policy =
        compile::<QuotaPolicy>("quotas: [{name: day, requests: 5, per: Day, timeZone: Asia/Tokyo, key: []}]\n");
    assert_eq!(visit(&policy, NOON, None).1, r#""day";r=4;t=10800"#);
}

#[test]
fn a_soft_quota_counts_and_lets_pass() {
    let policy = compile::<QuotaPolicy>("quotas: [{name: day, requests: 5, per: Day, key: [], soft: true}]\n");
    assert_eq!(passing(&policy, NOON, None), 20);
    assert_eq!(visit(&policy, NOON, None).1, r#""day";r=0;t=43200"#);
}

#[test]
fn what_was_refused_or_failed_is_not_used() {
    let policy = compile::<QuotaPolicy>(
        "quotas: [{name: month, requests: 10, per: Month, key: []}, {name: day, requests: 2, per: Day, key: []}]\n",
    );
    assert_eq!(passing(&policy, NOON, Some(Reason::NoEndpoints)), 20);
    assert_eq!(passing(&policy, NOON, Some(Reason::RateLimited)), 20);
    assert_eq!(passing(&policy, NOON, None), 2);
    let (_, told) = visit(&policy, NOON + 86_400, None);
    assert!(told.starts_with(r#""month";r=7;"#), "{told}");
}

#[test]
fn while_nothing_can_be_written_the_spec_decides() {
    for (unavailable, passes) in [("Deny", false), ("Allow", true)] {
        let yaml = format!("quotas: [{{name: day, requests: 5, per: Day, key: []}}]\nonUnavailable: {unavailable}\n");
        let policy = compile::<QuotaPolicy>(&yaml);
        let book = &policy.quotas[0].book;
        book.attach(1, [], 0, Box::new(|_| {}));
        book.note_health(false);
        let (verdict, _) = visit(&policy, NOON, None);
        assert_eq!(verdict.goes_on(), passes, "{unavailable}");
        if let Verdict::Respond(reply) = verdict {
            assert_eq!((reply.status, reply.reason), (503, Reason::LimitUnavailable));
        }
    }
}

#[test]
fn a_request_waits_when_too_much_is_not_written() {
    let policy = compile::<QuotaPolicy>("quotas: [{name: day, requests: 5, per: Day, key: []}]\n");
    policy.quotas[0].book.attach(1, [], 0, Box::new(|_| {}));
    assert!(visit(&policy, NOON, None).0.goes_on());
    assert!(matches!(visit(&policy, NOON, None).0, Verdict::Call(_)));
    let changed = policy.quotas[0].book.take_changed();
    policy.quotas[0].book.note_written(&changed);
    assert!(visit(&policy, NOON, None).0.goes_on());
}

#[test]
fn mistakes_are_refused_with_a_remedy() {
    for (yaml, part) in [
        ("quotas: [{name: a, requests: 5, per: Day, timeZone: Mars/Base, key: []}]", "no time zone"),
        ("quotas: [{name: a, requests: 5, per: Month, start: 31.1.2026, key: []}]", "not a day"),
        ("quotas: [{name: a, requests: 5, per: Day, start: 2026-01-31, key: []}]", "midnight"),
        ("quotas: [{name: a, requests: 5, per: Day, cost: 6, key: []}]", "can never pass"),
        ("quotas: [{name: a, requests: 5, per: Day}]", "what is counted by"),
        ("quotas: [{name: a, requests: 5, per: Year, key: []}]", ""),
    ] {
        let problems = refusals::<QuotaPolicy>(&format!("{yaml}\n"));
        assert!(problems.iter().any(|problem| problem.why.contains(part)), "{yaml}: {problems:?}");
    }
}

#[test]
fn a_quota_that_nobody_can_reach_is_refused() {
    for (quotas, wrong) in [
        ("[{name: a, requests: 100, per: Month, key: []}, {name: b, requests: 1000, per: Day, key: []}]", 1),
        ("[{name: a, requests: 100, per: Day, key: []}, {name: b, requests: 100, per: Day, key: []}]", 1),
        // A week may be in two months.
        ("[{name: a, requests: 100, per: Month, key: []}, {name: b, requests: 150, per: Week, key: []}]", 0),
        ("[{name: a, requests: 1000, per: Month, key: []}, {name: b, requests: 100, per: Day, key: []}]", 0),
        // No month has more than 31 days, nor parts of more than six weeks, and no week more than seven days.
        ("[{name: a, requests: 10, per: Day, key: []}, {name: b, requests: 310, per: Month, key: []}]", 1),
        ("[{name: a, requests: 10, per: Day, key: []}, {name: b, requests: 309, per: Month, key: []}]", 0),
        ("[{name: a, requests: 10, per: Day, key: []}, {name: b, requests: 70, per: Week, key: []}]", 1),
        ("[{name: a, requests: 10, per: Week, key: []}, {name: b, requests: 60, per: Month, key: []}]", 1),
        ("[{name: a, requests: 10, per: Week, key: []}, {name: b, requests: 59, per: Month, key: []}]", 0),
        // Of what responses cost more may be used than there is.
        (
            "[{name: a, requests: 10, per: Day, responseCost: X-Cost, key: []}, \
             {name: b, requests: 1000, per: Month, responseCost: X-Cost, key: []}]",
            0,
        ),
        (
            "[{name: a, requests: 100, per: Month, soft: true, key: []}, {name: b, requests: 1000, per: Day, key: []}]",
            0,
        ),
        ("[{name: a, requests: 1, per: Month, key: [{from: Address}]}, {name: b, requests: 9, per: Day, key: []}]", 0),
    ] {
        assert_eq!(refusals::<QuotaPolicy>(&format!("quotas: {quotas}\n")).len(), wrong, "{quotas}");
    }
}

/// One request that the backend answers with a field, and what is told of the quota.
fn answered(policy: &QuotaPolicy, target: &str, cost: &str) -> (Option<Reason>, String) {
    let mut request = Request::build("GET", "http", "a.test", target).expect("a request");
    let (mut notes, mut response) = (Notes::new(), Response::new(200));
    response.fields.push_bytes(b"X-Cost", cost.as_bytes()).expect("a field");
    let (_, told) = exchange(policy, NOON, None, &mut request, &mut notes, &mut response);
    (notes.replied.map(|replied| replied.reason), told)
}

#[test]
fn requests_and_responses_say_what_they_cost() {
    let policy = compile::<QuotaPolicy>(
        "quotas: [{name: day, requests: 10, per: Day, key: [], costExpression: 'int(request.query.n)', \
         responseCost: X-Cost}]\n",
    );
    assert_eq!(answered(&policy, "/?n=2", "1"), (None, r#""day";r=7;t=43200"#.to_owned()));
    assert_eq!(answered(&policy, "/", "1"), (Some(Reason::LimitCostUnknown), String::new()));
    assert_eq!(answered(&policy, "/?n=11", "1"), (Some(Reason::LimitCostUnknown), String::new()));
    // What a response costs is used, whatever is left.
    assert_eq!(answered(&policy, "/?n=1", "500").1, r#""day";r=0;t=43200"#);
    assert_eq!(answered(&policy, "/?n=1", "0").0, Some(Reason::QuotaExceeded));
    let policy = compile::<QuotaPolicy>(
        "quotas: [{name: day, requests: 10, per: Day, key: [], \
         responseCostExpression: 'int(response.headers[\"x-cost\"]) * 2'}]\n",
    );
    assert_eq!(answered(&policy, "/", "3").1, r#""day";r=3;t=43200"#);
    assert_eq!(answered(&policy, "/", "x").1, r#""day";r=2;t=43200"#);
}

#[test]
fn what_a_trusted_proxy_tries_again_is_counted_once() {
    let policy = compile::<QuotaPolicy>(
        "quotas: [{name: day, requests: 10, per: Day, key: [], repeats: Free, responseCost: x-cost}]\n",
    );
    let left = |id, by_proxy, path| visit_as(&policy, id, by_proxy, path, None).1;
    assert_eq!(left("a", true, "/"), r#""day";r=6;t=43200"#, "one, and three for the response");
    assert_eq!(left("a", true, "/"), r#""day";r=6;t=43200"#, "it comes again, and so does its response");
    // The id of a request that is passed on to others, and one that a client invents, spare nobody anything.
    assert_eq!(left("a", true, "/other"), r#""day";r=2;t=43200"#);
    assert_eq!(left("a", false, "/"), r#""day";r=0;t=43200"#);
    assert_eq!(visit_as(&policy, "b", true, "/", None), (false, r#""day";r=0;t=43200"#.to_owned()));
    assert!(visit_as(&policy, "a", true, "/", None).0, "it was let in before");
    assert!(!visit_as(&policy, "a", false, "/", None).0);
}

#[test]
fn a_request_that_first_fails_and_comes_again_is_counted_once() {
    let policy = compile::<QuotaPolicy>("quotas: [{name: day, requests: 5, per: Day, key: [], repeats: Free}]\n");
    let left = |replied| visit_as(&policy, "a", true, "/", replied).1;
    assert_eq!(left(Some(Reason::NoEndpoints)), r#""day";r=5;t=43200"#, "it never got to a backend");
    assert_eq!(left(Some(Reason::UpstreamTimeout)), r#""day";r=4;t=43200"#);
    assert_eq!(left(Some(Reason::NoEndpoints)), r#""day";r=4;t=43200"#, "a backend has worked for it");
    assert_eq!(left(None), r#""day";r=4;t=43200"#);
}

#[test]
fn what_one_of_several_quotas_refuses_is_no_repeat_at_the_others() {
    let policy = compile::<QuotaPolicy>(
        "quotas: [{name: month, requests: 10, per: Month, key: [], repeats: Free}, {name: day, requests: 1, per: Day, key: []}]\n",
    );
    assert!(visit_as(&policy, "a", true, "/", None).0);
    assert!(!visit_as(&policy, "b", true, "/", None).0);
    assert!(!visit_as(&policy, "b", true, "/", None).0);
    let (_, told) = visit(&policy, NOON + 86_400, None);
    assert!(told.starts_with(r#""month";r=8;"#), "{told}");
}
