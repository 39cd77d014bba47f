//! Tests of `RateLimitPolicy`: the rows of its semantics, one by one.

use std::net::SocketAddr;

use serde_json::Value as Json;
use transept_wire::head::{FieldName, Request};

use super::super::Identified;
use super::super::tests::{compile, refusals};
use super::*;
use crate::exchange::{Connection, Notes, Now};
use crate::principal::{Principal, PrincipalKind};

/// One request through a policy and back.
struct Visit {
    client: &'static str,
    random: u64,
    at: Duration,
    method: &'static str,
    path: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    principal: Option<Principal>,
    /// What the backend answers.
    answer: (u16, Vec<(&'static str, &'static str)>),
    /// Or why the gateway does.
    replied: Option<Reason>,
}

impl Default for Visit {
    fn default() -> Visit {
        Visit {
            client: "192.0.2.1",
            random: 7,
            at: Duration::from_secs(1),
            method: "GET",
            path: "/",
            fields: Vec::new(),
            principal: None,
            answer: (200, Vec::new()),
            replied: None,
        }
    }
}

/// The reply of the policy, if it refused, and the response that the client gets.
fn visit(policy: &RateLimitPolicy, visit: Visit) -> (Option<Box<Reply>>, Response) {
    let mut request = Request::build(visit.method, "http", "a.test", visit.path).expect("a request");
    for (name, value) in &visit.fields {
        request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
    }
    let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
    let mut notes = Notes { principal: visit.principal.map(Arc::new), ..Notes::new() };
    let connection = Connection::new(address, address, None);
    let mut x = Exchange {
        now: Now { monotonic: visit.at, unix: visit.at },
        random: visit.random,
        connection: &connection,
        client: visit.client.parse().expect("an address"),
        listener_port: 80,
        request: &mut request,
        notes: &mut notes,
    };
    let refused = match policy.on_request(&mut x) {
        Verdict::Respond(reply) => Some(reply),
        _ => None,
    };
    let mut response = Response::new(refused.as_ref().map_or(visit.answer.0, |reply| reply.status));
    let answered = refused.as_deref().cloned().or(visit.replied.map(Reply::new));
    x.notes.replied = answered.as_ref().map(Into::into);
    for (name, value) in &visit.answer.1 {
        response.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
    }
    policy.on_response(&mut x, &mut response);
    (refused, response)
}

fn passes(policy: &RateLimitPolicy, one: Visit) -> bool {
    visit(policy, one).0.is_none()
}

fn count(policy: &RateLimitPolicy, most: usize, mut one: impl FnMut() -> Visit) -> usize {
    (0..most).filter(|_| passes(policy, one())).count()
}

fn field(response: &Response, name: &str) -> String {
    let name = FieldName::new(name).expect("a name");
    let lines: Vec<_> =
        response.fields.all_named(&name).map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    lines.join(", ")
}

#[test]
fn each_address_has_its_own_bucket_and_a_network_of_ipv6_is_one() {
    let policy = compile::<RateLimitPolicy>("limits: [{name: a, requests: 3, per: 1m, key: [{from: Address}]}]\n");
    assert_eq!(count(&policy, 9, Visit::default), 3);
    assert_eq!(count(&policy, 9, || Visit { client: "192.0.2.2", ..Visit::default() }), 3);
    assert_eq!(count(&policy, 9, || Visit { client: "2001:db8::1", ..Visit::default() }), 3);
    assert_eq!(count(&policy, 9, || Visit { client: "2001:db8::2", ..Visit::default() }), 0);
}

#[test]
fn the_second_limit_refuses_and_the_first_is_not_charged() {
    let policy = compile::<RateLimitPolicy>(
        "limits: [{name: all, requests: 10, per: 1m, key: []}, {name: each, requests: 1, per: 1m, key: [{from: Address}]}]\n",
    );
    assert_eq!(count(&policy, 50, Visit::default), 1);
    let (_, response) = visit(&policy, Visit { client: "192.0.2.2", ..Visit::default() });
    assert_eq!(field(&response, "ratelimit"), r#""all";r=8;t=12, "each";r=0;t=60"#);
}

#[test]
fn a_refusal_says_which_limit_and_when_to_come_again() {
    let policy = compile::<RateLimitPolicy>("limits: [{name: burst, requests: 10, per: 1s, key: []}]\n");
    count(&policy, 10, Visit::default);
    let (reply, response) = visit(&policy, Visit::default());
    let reply = reply.expect("a refusal");
    assert_eq!((reply.status, reply.reason), (429, Reason::RateLimited));
    assert_eq!(reply.fields, [(FieldName::new("Retry-After").expect("a name"), b"1".to_vec())]);
    let problem = reply.problem.expect("a problem of its own");
    assert_eq!(problem.members, [("violated-policies", Json::from(vec!["burst"]))]);
    assert_eq!(field(&response, "ratelimit"), r#""burst";r=0;t=1"#);
    assert_eq!(field(&response, "ratelimit-policy"), r#""burst";q=10;w=1"#);
    assert_eq!(reply.cause.as_deref(), Some("RateLimitPolicy default/test, limit burst"));
}

#[test]
fn what_lacks_the_key_is_refused_or_shares_or_is_let_go() {
    let yaml = |missing| {
        format!("limits: [{{name: a, requests: 2, per: 1m, key: [{{header: X-Tenant}}], missing: {missing}}}]\n")
    };
    let with = |value| Visit { fields: vec![("X-Tenant", value)], ..Visit::default() };
    let reject = compile::<RateLimitPolicy>(&yaml("Reject"));
    let (reply, _) = visit(&reject, Visit::default());
    assert_eq!(reply.map(|reply| (reply.status, reply.reason)), Some((400, Reason::LimitKeyMissing)));
    assert_eq!((count(&reject, 5, || with("a")), count(&reject, 5, || with("b"))), (2, 2));
    let share = compile::<RateLimitPolicy>(&yaml("Share"));
    assert_eq!((count(&share, 5, Visit::default), count(&share, 5, || with("a"))), (2, 2));
    let skip = compile::<RateLimitPolicy>(&yaml("Skip"));
    assert_eq!((count(&skip, 5, Visit::default), count(&skip, 5, || with("a"))), (5, 2));
}

#[test]
fn a_rate_that_does_not_divide_evenly_has_the_window_that_was_written() {
    for (requests, per, window) in [(7, "1m", 60), (300, "7s", 7), (3, "10s", 10), (1, "1s", 1), (999_983, "1h", 3600)]
    {
        let spec = format!("limits: [{{name: one, requests: {requests}, per: {per}, key: []}}]");
        let (_, response) = visit(&compile::<RateLimitPolicy>(&spec), Visit::default());
        let told = field(&response, "ratelimit-policy");
        assert_eq!(told, format!(r#""one";q={requests};w={window}"#));
    }
}

#[test]
fn principals_and_plans_are_told_apart() {
    let who = |kind, id: &str, plan: Option<&str>| {
        Some(Principal { kind, id: id.into(), plan: plan.map(Into::into), ..Principal::default() })
    };
    let policy = compile::<RateLimitPolicy>(
        "limits: [{name: gold, requests: 2, per: 1m, key: [{from: Principal}], missing: Skip, plans: [gold]}]\n",
    );
    let gold = |id| Visit { principal: who(PrincipalKind::App, id, Some("gold")), ..Visit::default() };
    assert_eq!(count(&policy, 5, || gold("a")), 2);
    assert_eq!(count(&policy, 5, || gold("b")), 2);
    // A user of the same name is somebody else.
    let user = || Visit { principal: who(PrincipalKind::User, "a", Some("gold")), ..Visit::default() };
    assert_eq!(count(&policy, 5, user), 2);
    let free = || Visit { principal: who(PrincipalKind::App, "a", None), ..Visit::default() };
    assert_eq!(count(&policy, 5, free), 5);
}

#[test]
fn who_proves_an_identity_is_a_principal_and_on_no_plan() {
    let said = |limit: &str, proven: Identified| {
        let policy = compile::<RateLimitPolicy>(&format!("limits: [{{name: a, requests: 5, per: 1m, {limit}}}]\n"));
        let found = policy.cautions(Known {
            identified: Identified::Nowhere,
            proven,
            named: proven,
            forwarded: Identified::Nowhere,
        });
        found.into_iter().map(|caution| caution.what).collect::<Vec<_>>().join("; ")
    };
    let by_principal = "key: [{from: Principal}], missing: Skip";
    assert_eq!(said(by_principal, Identified::Everywhere), "");
    let partly = said(by_principal, Identified::Partly);
    assert!(
        partly.contains("where no AuthenticationPolicy stands and clients prove no identity: limit `a`"),
        "{partly}"
    );
    assert!(said(by_principal, Identified::Nowhere).contains("here, because no AuthenticationPolicy stands"));
    assert!(said("key: [], plans: [gold]", Identified::Everywhere).contains("is for some plans only"));
}

#[test]
fn operations_cost_what_is_written() {
    let policy = compile::<RateLimitPolicy>(
        "limits: [{name: a, requests: 10, per: 1m, key: [], costs: [{methods: [GET], paths: [/search/*], cost: 5}, {paths: [/ping], cost: 0}]}]\n",
    );
    let at = |path| move || Visit { path, ..Visit::default() };
    assert_eq!(count(&policy, 20, at("/ping")), 20);
    assert_eq!(count(&policy, 1, at("/search/a")), 1);
    assert_eq!(count(&policy, 9, at("/")), 5);
    // Some backends take `get` for GET, so that it costs the same.
    let policy = compile::<RateLimitPolicy>(
        "limits: [{name: a, requests: 10, per: 1m, key: [], costs: [{methods: [GET], cost: 5}]}]\n",
    );
    let in_small_letters = || Visit { method: "get", ..Visit::default() };
    assert_eq!(count(&policy, 5, in_small_letters), 2);
    let refused = refusals::<RateLimitPolicy>(
        "limits: [{name: a, requests: 10, per: 1m, key: [], costs: [{methods: [post], cost: 5}]}]\n",
    );
    assert!(refused.len() == 1 && refused[0].why.contains("`post` is no method that a request has"), "{refused:?}");
}

#[test]
fn a_response_may_cost_more_than_there_is() {
    let policy =
        compile::<RateLimitPolicy>("limits: [{name: a, requests: 10, per: 10s, key: [], responseCost: X-Cost}]\n");
    let (_, response) = visit(&policy, Visit { answer: (200, vec![("X-Cost", "14")]), ..Visit::default() });
    assert_eq!(field(&response, "ratelimit"), r#""a";r=0;t=15"#);
    // Fifteen were taken of ten: after five seconds the debt is paid, after six there is one.
    let at = |seconds: u64| Visit { at: Duration::from_secs(1 + seconds), ..Visit::default() };
    assert!(!passes(&policy, at(5)));
    assert!(passes(&policy, at(6)));
}

#[test]
fn only_failed_attempts_count_where_answers_are_counted() {
    let policy = compile::<RateLimitPolicy>(
        "stage: BeforeAuthentication\nlimits: [{name: a, requests: 3, per: 1m, key: [{from: Address}], count: Answers, statuses: ['401']}]\n",
    );
    assert_eq!(policy.phase(), Phase::Guard);
    assert_eq!(count(&policy, 20, Visit::default), 20);
    let failed = || Visit { answer: (401, Vec::new()), ..Visit::default() };
    assert_eq!(count(&policy, 20, failed), 3);
    assert!(!passes(&policy, Visit::default()), "nor do good ones pass now");
}

#[test]
fn what_the_gateway_failed_to_deliver_is_given_back() {
    let policy = compile::<RateLimitPolicy>("limits: [{name: a, requests: 3, per: 1m, key: []}]\n");
    let failed = |replied| move || Visit { replied: Some(replied), answer: (503, Vec::new()), ..Visit::default() };
    assert_eq!(count(&policy, 20, failed(Reason::NoEndpoints)), 20);
    assert_eq!(count(&policy, 20, failed(Reason::QuotaExceeded)), 20);
    assert_eq!(count(&policy, 20, failed(Reason::UpstreamTimeout)), 3, "the backend has worked on these");
    let policy = compile::<RateLimitPolicy>("limits: [{name: a, requests: 3, per: 1m, key: [], count: Forwarded}]\n");
    assert_eq!(count(&policy, 20, failed(Reason::UpstreamTimeout)), 20);
    assert_eq!(count(&policy, 20, Visit::default), 3);
}

#[test]
fn a_request_that_is_judged_again_is_not_counted_again() {
    let policy = compile::<RateLimitPolicy>("limits: [{name: a, requests: 1, per: 1m, key: []}]\n");
    assert!(passes(&policy, Visit::default()));
    let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
    let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
    let mut notes = Notes { again: true, ..Notes::new() };
    let mut x = Exchange {
        now: Now { monotonic: Duration::from_secs(1), unix: Duration::ZERO },
        random: 7,
        connection: &Connection::new(address, address, None),
        client: address.ip(),
        listener_port: 80,
        request: &mut request,
        notes: &mut notes,
    };
    assert!(policy.on_request(&mut x).goes_on());
}

#[test]
fn common_mistakes_are_refused_with_a_remedy() {
    for (yaml, part) in [
        ("limits: []", "needs at least 1"),
        ("limits: [{name: a, requests: 1, per: 1s}]", "what is counted by is not said"),
        ("limits: [{name: a, requests: 1, per: 10ms, key: []}]", "shorter than a second"),
        ("limits: [{name: a, requests: 1, per: 30d, key: []}]", ""),
        ("limits: [{name: a, requests: 1, per: 48h, key: []}]", "longer than a day"),
        ("limits: [{name: a, requests: 5, per: 1s, cost: 6, key: []}]", "can never pass"),
        ("limits: [{name: a, requests: 5, per: 1s, burst: 0, key: []}]", ""),
        ("limits: [{name: a, requests: 1, per: 24h, burst: 9, key: []}]", "three days"),
        ("limits: [{name: a, requests: 5, per: 1s, key: [{header: X-A}]}]", "lack a part of the key"),
        (
            "limits: [{name: a, requests: 5, per: 1s, key: [{claim: sub}], missing: Skip}]",
            "no policy that authenticates",
        ),
        (
            "stage: BeforeAuthentication\nlimits: [{name: a, requests: 5, per: 1s, key: [{from: Principal}], missing: Skip}]",
            "before authentication",
        ),
        (
            "limits: [{name: a, requests: 5, per: 1s, key: [{from: Route, ipv6Prefix: 48}]}]",
            "only an address has a prefix",
        ),
        ("limits: [{name: a, requests: 5, per: 1s, key: [], count: Answers}]", "which answers count"),
        ("limits: [{name: a, requests: 5, per: 1s, key: [], statuses: ['401']}]", "means nothing"),
        ("limits: [{name: ä, requests: 5, per: 1s, key: []}]", "printable ASCII"),
        (
            "limits: [{name: a, requests: 5, per: 1s, key: []}, {name: b, requests: 600, per: 1m, burst: 600, key: []}]",
            "never reached",
        ),
    ] {
        let problems = refusals::<RateLimitPolicy>(&format!("{yaml}\n"));
        assert!(!problems.is_empty(), "{yaml}");
        assert!(problems.iter().any(|problem| problem.why.contains(part)), "{yaml}: {problems:?}");
    }
}

#[test]
fn limits_of_different_lengths_stand_side_by_side() {
    compile::<RateLimitPolicy>(
        "limits: [{name: second, requests: 10, per: 1s, key: []}, {name: hour, requests: 1000, per: 1h, key: []}]\n",
    );
    // Up to three windows of 30s have a part in one of 60s, as each begins with the first request after the one before.
    let windows = |requests: u32, per: u32, more: &str| {
        let one = |name: &str, requests: u32, per: u32| {
            format!("{{name: {name}, algorithm: SlidingWindow, requests: {requests}, per: {per}s, key: []}}")
        };
        let yaml = format!("{more}limits: [{}, {}]\n", one("a", requests, per), one("b", 30, 60));
        refusals::<RateLimitPolicy>(&yaml).len()
    };
    assert_eq!((windows(11, 30, ""), windows(10, 30, ""), windows(10, 50, ""), windows(11, 50, "")), (0, 1, 1, 0));
    assert_eq!((windows(30, 60, ""), windows(31, 60, "")), (1, 1));
    assert_eq!(windows(30, 60, "perProxy: Share\n"), 0, "of both each proxy has some other part");
}

/// A policy whose limits are in a store that never answers, or has not yet.
fn shared(unavailable: &str, more: &str) -> RateLimitPolicy {
    compile(&format!(
        "store: {{url: 'redis://store.test', onUnavailable: {unavailable}}}\n\
         limits: [{{name: a, requests: 3, per: 1m, key: []{more}}}]\n"
    ))
}

#[test]
fn a_shared_limit_waits_for_tokens_and_counts_what_is_granted() {
    let policy = shared("Deny", ", responseCostExpression: '2'");
    let crate::limit::shared::Shared { store, leases, .. } = policy.limits[0].shared.as_deref().expect("shared");
    store.note_health(true);
    let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
    let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
    let mut notes = Notes::new();
    let connection = Connection::new(address, address, None);
    let mut x = Exchange {
        now: Now { monotonic: Duration::from_secs(1), unix: Duration::ZERO },
        random: 7,
        connection: &connection,
        client: address.ip(),
        listener_port: 80,
        request: &mut request,
        notes: &mut notes,
    };
    assert!(matches!(policy.on_request(&mut x), Verdict::Call(_)));
    let orders = store.take_orders();
    assert_eq!((orders.len(), orders[0].want, orders[0].least), (1, 1, Some(1)));
    assert!(orders[0].key.starts_with("transept:RateLimitPolicy:default/test:a:"), "{}", orders[0].key);
    let grant =
        crate::limit::store::Grant { tokens: 1, wait: Duration::ZERO, left: 2, full_in: Duration::from_secs(20) };
    orders[0].deliver(grant, 1_000_000_000);
    assert!(policy.on_callout(&mut x, CalloutResult::Waited).goes_on());
    // Other keys, so many that this one is forgotten.
    let part = x.notes.touched.limits[0].hash & !(u64::MAX >> 6);
    for other in 0..20_000 {
        leases.draw(part | other, 1, 2_000_000_000, None);
    }
    let mut response = Response::new(200);
    policy.on_response(&mut x, &mut response);
    assert_eq!(field(&response, "ratelimit"), r#""a";r=0;t=20"#);
    let debits = store.take_orders();
    assert_eq!((debits.len(), debits[0].want, debits[0].least), (1, 2, None), "what the response has cost is taken");
    assert_eq!(debits[0].key, orders[0].key);
}

#[test]
fn while_a_store_does_not_answer_the_spec_decides() {
    for (unavailable, passing) in [("Local", 3), ("Allow", 9), ("Deny", 0)] {
        let policy = shared(unavailable, "");
        policy.limits[0].shared.as_ref().expect("shared").store.note_health(false);
        assert_eq!(count(&policy, 9, Visit::default), passing, "{unavailable}");
    }
}

#[test]
fn mistakes_about_stores_are_refused() {
    for (store, part) in [
        ("{url: 'http://store.test'}", "not the URL of a store"),
        ("{url: 'redis://u:hunter2@store.test'}", "not the URL of a store"),
        ("{url: 'redis://store.test', caConfigMap: ca}", "without TLS"),
        ("{url: 'redis://store.test', username: u}", "a user has a password"),
        ("{url: 'redis://store.test', passwordSecret: gone}", "no Secret"),
        ("{url: 'redis://store.test', timeout: 0s}", "above 0s"),
    ] {
        let yaml = format!("store: {store}\nlimits: [{{name: a, requests: 3, per: 1m, key: []}}]\n");
        let problems = refusals::<RateLimitPolicy>(&yaml);
        assert!(problems.iter().any(|problem| problem.why.contains(part)), "{store}: {problems:?}");
        assert!(problems.iter().all(|problem| !problem.to_string().contains("hunter2")), "{problems:?}");
    }
    let divided =
        "store: {url: 'redis://store.test'}\nperProxy: Share\nlimits: [{name: a, requests: 3, per: 1m, key: []}]\n";
    assert!(refusals::<RateLimitPolicy>(divided).iter().any(|problem| problem.why.contains("cannot be divided")));
    let window = "store: {url: 'redis://store.test'}\nlimits: [{name: a, algorithm: SlidingWindow, requests: 3, per: 1m, key: []}]\n";
    assert!(refusals::<RateLimitPolicy>(window).iter().any(|problem| problem.why.contains("only token buckets")));
}

#[test]
fn an_expression_is_a_key_and_what_it_makes_of_nobody_is_none() {
    let policy = compile::<RateLimitPolicy>(
        "limits: [{name: a, requests: 2, per: 1m, key: [{expression: 'principal.id'}], missing: Skip}]\n",
    );
    let ann = || Visit { principal: Some(Principal { id: "ann".into(), ..Principal::default() }), ..Visit::default() };
    assert_eq!((count(&policy, 5, ann), count(&policy, 5, Visit::default)), (2, 5));
    let policy = compile::<RateLimitPolicy>(
        "limits: [{name: a, requests: 2, per: 1m, key: [{expression: 'request.path.split(\"/\")[2]'}], missing: Reject}]\n",
    );
    let at = |path| move || Visit { path, ..Visit::default() };
    assert_eq!((count(&policy, 5, at("/shop/7/cart")), count(&policy, 5, at("/shop/7/items"))), (2, 0));
    assert_eq!(count(&policy, 5, at("/shop/8")), 2);
    let (reply, _) = visit(&policy, Visit { path: "/shop", ..Visit::default() });
    let reply = reply.expect("a refusal");
    assert_eq!((reply.status, reply.reason), (400, Reason::LimitKeyMissing));
    assert_eq!(reply.cause.as_deref(), Some("RateLimitPolicy default/test, limit a, missing: Reject"));
}

#[test]
fn an_expression_says_what_a_request_costs() {
    let policy = compile::<RateLimitPolicy>(
        "limits: [{name: a, requests: 10, per: 1m, key: [], costs: [{paths: [/free], cost: 0}], \
         costExpression: '\"n\" in request.query ? int(request.query.n) : 1'}]\n",
    );
    let at = |path| Visit { path, ..Visit::default() };
    assert_eq!(field(&visit(&policy, at("/?n=4")).1, "ratelimit"), r#""a";r=6;t=24"#);
    assert_eq!(field(&visit(&policy, at("/")).1, "ratelimit"), r#""a";r=5;t=30"#);
    assert_eq!(field(&visit(&policy, at("/free?n=4")).1, "ratelimit"), r#""a";r=5;t=30"#);
    assert_eq!(visit(&policy, at("/?n=6")).0.map(|reply| reply.status), Some(429));
    // Nobody chooses a price by an expression that has no value.
    for (path, cause) in [
        ("/?n=1&n=1", "costExpression has no value: the query has the name more than once, at character 28"),
        ("/?n=x", "costExpression has no value: this text is no whole number, at character 24"),
        ("/?n=-3", "costExpression is below zero"),
        ("/?n=11", "costExpression is 11, above the 10 that are there"),
        ("/?n=5000000000", "costExpression is 5000000000, above the 10 that are there"),
    ] {
        let (reply, response) = visit(&policy, at(path));
        let reply = reply.expect(path);
        assert_eq!((reply.status, reply.reason), (400, Reason::LimitCostUnknown), "{path}");
        let cause = format!("RateLimitPolicy default/test, limit a, {cause}");
        assert_eq!(reply.cause.as_deref(), Some(&*cause), "{path}");
        assert_eq!(field(&response, "ratelimit"), "", "{path}");
    }
    assert_eq!(field(&visit(&policy, at("/")).1, "ratelimit"), r#""a";r=4;t=36"#);
}

#[test]
fn an_expression_says_what_a_response_has_cost() {
    let policy = compile::<RateLimitPolicy>(
        "limits: [{name: a, requests: 10, per: 1m, key: [], \
         responseCostExpression: 'response.status == 200 ? int(response.headers[\"x-tokens\"]) / 1000 : 0'}]\n",
    );
    let answer = |status, tokens| Visit { answer: (status, vec![("X-Tokens", tokens)]), ..Visit::default() };
    assert_eq!(field(&visit(&policy, answer(200, "4200")).1, "ratelimit"), r#""a";r=5;t=30"#);
    assert_eq!(field(&visit(&policy, answer(500, "4200")).1, "ratelimit"), r#""a";r=4;t=36"#);
    assert_eq!(field(&visit(&policy, answer(200, "-9000")).1, "ratelimit"), r#""a";r=3;t=42"#);
    assert_eq!(field(&visit(&policy, answer(200, "many")).1, "ratelimit"), r#""a";r=2;t=48"#);
    // It is taken when it is not there any more.
    assert_eq!(field(&visit(&policy, answer(200, "99000")).1, "ratelimit"), r#""a";r=0;t=648"#);
}

#[test]
fn expressions_are_checked_with_the_policy() {
    for (wrong, why) in [
        ("key: [{expression: 'size(request.path)'}], missing: Skip", "is a whole number, not text"),
        ("key: [{expression: 'request.path'}]", "may lack a part of the key"),
        ("key: [{expression: 'request.path', header: X-A}], missing: Skip", "one of `from`"),
        ("key: [{expression: 'request.pth'}], missing: Skip", "has no field `pth`"),
        ("key: [], costExpression: 'request.path'", "is text, not a whole number"),
        ("key: [], costExpression: 'response.status'", "there is no response yet"),
        ("key: [], cost: 2, costExpression: '3'", "both say what a request costs"),
        ("key: [], responseCost: X-Cost, responseCostExpression: '3'", "both say what a response has cost"),
        ("key: [], responseCostExpression: 'size(request.path)'", "filters have changed the request"),
        (
            "key: [], costExpression: 'principal.claims.a.exists(x, principal.claims.b.exists(y, \
             principal.claims.c.exists(z, x == y))) ? 1 : 2'",
            "steps for lists of 50 items",
        ),
    ] {
        let found = refusals::<RateLimitPolicy>(&format!("limits: [{{name: a, requests: 5, per: 1m, {wrong}}}]\n"));
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
        assert!(format!("{found:?}").contains(why), "{wrong}: {found:?}");
    }
    let early = "stage: BeforeAuthentication\nlimits: [{name: a, requests: 5, per: 1m, missing: Skip, \
                 key: [{expression: principal.id}]}]\n";
    assert!(
        format!("{:?}", refusals::<RateLimitPolicy>(early))
            .contains("before authentication nobody knows the principal")
    );
}

#[test]
fn what_a_body_costs_is_settled_even_when_its_exchange_is_dropped() {
    let spec = "limits: [{name: a, requests: 10, per: 10s, key: [], responseCostBody: {json: n, otherwise: 30}}]\n";
    let policy = compile::<RateLimitPolicy>(spec);
    let gzip = ("accept-encoding", "gzip");
    assert!(passes(&policy, Visit { fields: vec![gzip], answer: (500, Vec::new()), ..Visit::default() }));
    assert!(passes(&policy, Visit { replied: Some(Reason::UpstreamTimeout), ..Visit::default() }));
    assert!(passes(&policy, Visit { answer: (204, Vec::new()), ..Visit::default() }));
    assert!(passes(&policy, Visit { fields: vec![gzip], ..Visit::default() }));
    let later = |seconds| Visit { at: Duration::from_secs(seconds), ..Visit::default() };
    assert!(!passes(&policy, later(2)), "nothing could be read, and it costs what is written for that");
    assert!(!passes(&policy, later(25)), "the debt is paid first");
    assert!(passes(&policy, later(27)));
}

#[test]
fn a_limit_of_bytes_says_so() {
    for (body, unit) in
        [("{bytes: Both}", ";qu=\"content-bytes\""), ("{bytes: Both, per: 1000}", ""), ("{json: n}", "")]
    {
        let spec = format!("limits: [{{name: a, requests: 10, per: 10s, key: [], responseCostBody: {body}}}]\n");
        let (_, response) = visit(&compile::<RateLimitPolicy>(&spec), Visit::default());
        assert_eq!(field(&response, "ratelimit-policy"), format!("\"a\";q=10;w=10{unit}"), "{body}");
    }
}

#[test]
fn costs_of_bodies_are_checked_with_the_policy() {
    for (wrong, why) in [
        ("{}", "what a body costs is not said"),
        ("{json: a, bytes: Both}", "both say what a body costs"),
        ("{json: 'usage..n'}", "is not a path"),
        ("{json: 'choices[0].n'}", "elements of lists"),
        ("{bytes: Response, otherwise: 1}", "which can always be counted"),
        ("{json: a}, responseCost: X-Cost", "its head says it too"),
    ] {
        let limit = format!("limits: [{{name: a, requests: 5, per: 1m, key: [], responseCostBody: {wrong}}}]\n");
        let found = refusals::<RateLimitPolicy>(&limit);
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
        assert!(format!("{found:?}").contains(why), "{wrong}: {found:?}");
    }
}

#[test]
fn all_waits_of_a_request_together_have_one_bound() {
    let policy = compile::<RateLimitPolicy>(
        "store: {url: 'redis://store.test', timeout: 200ms, onUnavailable: Deny}\n\
         limits: [{name: a, requests: 10, per: 1m, key: []}, {name: b, requests: 9, per: 1m, key: [{from: Address}]}]\n",
    );
    let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
    let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
    let mut notes = Notes::new();
    let connection = Connection::new(address, address, None);
    let mut x = Exchange {
        now: Now { monotonic: Duration::from_secs(1), unix: Duration::ZERO },
        random: 7,
        connection: &connection,
        client: address.ip(),
        listener_port: 80,
        request: &mut request,
        notes: &mut notes,
    };
    let wait = |verdict: Verdict| match verdict {
        Verdict::Call(callout) => match *callout {
            Callout::Wait(wait) => Some(wait.timeout.as_millis()),
            other => panic!("{other:?}"),
        },
        Verdict::Respond(reply) => {
            assert_eq!(reply.reason, Reason::LimitUnavailable);
            None
        }
        Verdict::Continue => panic!("it is not counted"),
    };
    assert_eq!(wait(policy.on_request(&mut x)), Some(400));
    // Somebody else was faster each time.
    x.now.monotonic += Duration::from_millis(300);
    assert_eq!(wait(policy.on_callout(&mut x, CalloutResult::Waited)), Some(100));
    x.now.monotonic += Duration::from_millis(99);
    assert_eq!(wait(policy.on_callout(&mut x, CalloutResult::Waited)), Some(1));
    x.now.monotonic += Duration::from_millis(1);
    assert_eq!(wait(policy.on_callout(&mut x, CalloutResult::Waited)), None);
}

#[test]
fn a_key_has_one_name_at_all_gateways_and_none_that_could_be_guessed() {
    let spec = "limits: [{name: a, requests: 5, per: 1m, key: [{from: Address}], partitionKey: true}]";
    let named = |spec: &str, client, random| {
        let (_, response) = visit(&compile(spec), Visit { client, random, ..Visit::default() });
        let told = field(&response, "ratelimit");
        told.split_once(";pk=").unwrap_or_else(|| panic!("{told}")).1.to_owned()
    };
    let here = named(spec, "192.0.2.1", 7);
    assert_eq!(here, named(spec, "192.0.2.1", 8), "another process has another seed");
    assert_ne!(here, named(spec, "192.0.2.2", 7));
    assert_ne!(here, named(&spec.replace("requests: 5", "requests: 6"), "192.0.2.1", 7), "who guesses knows the limit");
}
