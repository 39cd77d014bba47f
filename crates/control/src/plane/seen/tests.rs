//! Reports of several proxies and what is made of them: edges, figures, verdicts.

use serde_json::Value;
use transept_identity::TrustDomain;
use transept_xds::report::{Bucket, EdgeName, EdgeTotals, EndpointHealth, Health, bucket_of};

use super::*;

const INTERVAL: Duration = Duration::from_secs(5);

/// One proxy of a service.
struct Proxy {
    stream: Stream,
    identity: SpiffeId,
    sequence: u64,
    totals: EdgeTotals,
}

/// The control plane's side with a clock of its own.
struct Stage {
    seen: Seen,
    now: Duration,
    known: Known,
}

impl Stage {
    fn new(instances: &[(&str, State)]) -> Stage {
        let instances = instances.iter().zip(1..).map(|((name, state), number)| Instance {
            name: (*name).to_owned(),
            addresses: vec![format!("10.0.0.{number}:80")],
            state: *state,
        });
        let known = [("default/cart".to_owned(), instances.collect())].into_iter().collect();
        Stage { seen: Seen::new(INTERVAL), now: Duration::ZERO, known }
    }

    fn proxy(&mut self, service: &str) -> Proxy {
        let identity = SpiffeId::parse(&format!("spiffe://transept.local/ns/default/sa/{service}")).expect("an id");
        let mut proxy =
            Proxy { stream: self.seen.open(&identity), identity, sequence: 0, totals: EdgeTotals::default() };
        self.tell(&mut proxy, Report::default());
        proxy
    }

    fn tell(&mut self, proxy: &mut Proxy, report: Report) {
        proxy.sequence += 1;
        let report = Report { sequence: proxy.sequence, epoch: 1, proxy: "one".into(), complete: true, ..report };
        self.seen.take(&mut proxy.stream, &report, self.now);
    }

    /// Counts requests of `web` to `cart-1`, as the end `end` sees them.
    fn count(&mut self, proxy: &mut Proxy, end: End, requests: u64, errors: u64) {
        proxy.totals.requests += requests;
        proxy.totals.errors += errors;
        let latency = proxy.totals.requests;
        proxy.totals.latency = vec![Bucket { index: bucket_of(2000), count: latency }];
        let workload = if end == End::Source { "10.0.0.1:80" } else { "cart-1" };
        let name = EdgeName {
            id: 0,
            source: "spiffe://transept.local/ns/default/sa/web".into(),
            service: "default/cart".into(),
            workload: workload.into(),
            end: end.into(),
        };
        let edges = vec![proxy.totals.clone()];
        self.tell(proxy, Report { names: vec![name], edges, ..Report::default() });
    }

    /// A window passes.
    fn pass(&mut self) {
        self.now += INTERVAL * REPORTS_PER_WINDOW;
        self.seen.fold(&self.known, self.now);
    }

    fn verdict(&self) -> Verdict {
        self.seen.verdict("default/cart")
    }

    fn graph(&self) -> Value {
        let domain = TrustDomain::new("transept.local").expect("a name");
        self.seen.graph(&self.known, &domain, self.now)
    }
}

#[test]
fn an_edge_is_shown_once_with_the_figures_of_the_caller() {
    let mut stage = Stage::new(&[("cart-1", State::Well)]);
    let (mut web, mut cart) = (stage.proxy("web"), stage.proxy("cart"));
    stage.count(&mut cart, End::Destination, 10, 0);
    stage.pass();
    // Only the called side has told so far.
    assert_eq!(stage.graph()["edges"][0]["requests"], 10);
    stage.count(&mut web, End::Source, 12, 3);
    stage.pass();
    let graph = stage.graph();
    assert_eq!(graph["edges"].as_array().map(Vec::len), Some(1), "{graph}");
    let edge = &graph["edges"][0];
    assert_eq!((&edge["source"], &edge["destination"]), (&"default/web".into(), &"default/cart".into()));
    assert_eq!((&edge["requests"], &edge["errors"], &edge["errorRate"]), (&12.into(), &3.into(), &0.25.into()));
    assert_eq!(edge["requestsPerSecond"], 1.2, "of the ten seconds since it began");
    let p50 = edge["p50Ms"].as_f64().expect("a latency");
    assert!((1.6..=2.4).contains(&p50), "{p50}");
    // The instance has its name, and where it is.
    assert_eq!(edge["workloads"][0]["workload"], "cart-1");
    assert_eq!(edge["workloads"][0]["address"], "10.0.0.1:80");
    // What the called side refused is shown, though its caller took it for an answer.
    assert_eq!(edge["refusals"], 0);
    cart.totals.refusals = 7;
    stage.count(&mut cart, End::Destination, 7, 0);
    web.totals.refusals = 1;
    stage.count(&mut web, End::Source, 7, 0);
    stage.pass();
    let edge = &stage.graph()["edges"][0];
    assert_eq!((&edge["requests"], &edge["refusals"], &edge["recentRefusals"]), (&19.into(), &8.into(), &8.into()));
    // The caller goes away: what the called side tells is left.
    stage.seen.close(&web.stream, stage.now);
    stage.pass();
    stage.pass();
    assert_eq!(stage.graph()["edges"][0]["requests"], 17);
    assert_eq!(web.identity.as_str(), "spiffe://transept.local/ns/default/sa/web");
}

#[test]
fn the_rate_of_a_new_caller_is_true_from_its_first_report_on() {
    let mut stage = Stage::new(&[("cart-1", State::Well)]);
    let mut web = stage.proxy("web");
    for report in 1..20 {
        stage.now += INTERVAL;
        stage.count(&mut web, End::Source, 15, 0);
        stage.seen.fold(&stage.known, stage.now);
        // Somebody looks when half of the time until the next report is over.
        stage.now += INTERVAL / 2;
        let graph = stage.graph();
        let rate = graph["edges"][0]["requestsPerSecond"].as_f64().expect("a rate");
        assert!((2.9..=3.1).contains(&rate), "{rate} after {report} reports");
        assert_eq!(graph["services"][0]["requestsPerSecond"], rate);
        stage.now -= INTERVAL / 2;
    }
    // It falls silent: the average of the time that figures are about goes down to nothing.
    stage.now += INTERVAL * 9;
    assert_eq!(stage.graph()["edges"][0]["requestsPerSecond"], 0.0);
}

#[test]
fn errors_of_callers_make_a_service_fail_and_success_makes_it_well_again() {
    let mut stage = Stage::new(&[("cart-1", State::Well)]);
    let mut web = stage.proxy("web");
    stage.pass();
    assert_eq!(stage.verdict(), Verdict::Healthy);
    let mut course = Vec::new();
    for errors in [20, 20, 20, 0, 0, 0] {
        stage.count(&mut web, End::Source, 20, errors);
        stage.pass();
        course.push(stage.verdict().as_str());
    }
    assert_eq!(course, ["healthy", "failing", "failing", "failing", "failing", "healthy"]);
    assert_eq!(stage.graph()["services"][0]["verdict"], "healthy");
}

#[test]
fn an_instance_that_is_unwell_or_shunned_makes_its_service_degraded_and_none_that_is_well_failing() {
    let mut stage = Stage::new(&[("cart-1", State::Well), ("cart-2", State::Draining)]);
    let mut web = stage.proxy("web");
    stage.pass();
    assert_eq!(stage.verdict(), Verdict::Healthy, "one that ends is missed by nobody");
    let shun = |health: Health| EndpointHealth {
        service: "default/cart".into(),
        workload: "10.0.0.1:80".into(),
        health: health.into(),
        why: String::new(),
    };
    stage.tell(&mut web, Report { health: vec![shun(Health::Ejected)], ..Report::default() });
    stage.pass();
    stage.pass();
    assert_eq!(stage.verdict(), Verdict::Degraded);
    assert_eq!(stage.graph()["services"][0]["instances"][0]["state"], "shunned");
    stage.tell(&mut web, Report { health: vec![shun(Health::Healthy)], ..Report::default() });
    (0..3).for_each(|_| stage.pass());
    assert_eq!(stage.verdict(), Verdict::Healthy);
    stage.known = Stage::new(&[("cart-1", State::Unwell), ("cart-2", State::Silent)]).known;
    stage.pass();
    stage.pass();
    assert_eq!(stage.verdict(), Verdict::Failing);
}

#[test]
fn a_service_that_is_neither_registered_nor_called_is_forgotten() {
    let mut stage = Stage::new(&[("cart-1", State::Well)]);
    stage.pass();
    stage.known.clear();
    stage.pass();
    stage.pass();
    assert_eq!(stage.verdict(), Verdict::Healthy);
    stage.pass();
    assert!(stage.seen.standings.is_empty());
    assert_eq!(stage.graph()["services"], Value::Array(Vec::new()));
}

#[test]
fn identities_of_other_meshes_keep_their_whole_name() {
    let domain = TrustDomain::new("transept.local").expect("a name");
    let name = |identity: &str| show::short_name(identity, &domain);
    assert_eq!(name("spiffe://transept.local/ns/shop/sa/web"), "shop/web");
    assert_eq!(name("spiffe://other.test/ns/shop/sa/web"), "spiffe://other.test/ns/shop/sa/web");
    assert_eq!(name(""), "unknown");
}
