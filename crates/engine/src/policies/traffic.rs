//! `TrafficPolicy`: how requests to a Service or a Backend are spread over its endpoints, retried, limited and watched.
//!
//! The same policy at the gateway and in the mesh. It says nothing about single requests: it changes the
//! [`Traffic`](crate::traffic::Traffic) of the backends under its target, which `pick`, `judge` and the health checks read. A rule's
//! own `retry` stanza and timeouts win over what is said here.

use std::time::Duration;

use transept_model::policy::Target;
use transept_model::schema::{Decoder, HEADER_NAME, Rule, Text};
use transept_model::value::Value;
use transept_model::{choice, object};
use transept_wire::head::FieldName;

use super::{CompileCx, Phase, Policy};
use crate::traffic::{
    Allowance, Balancer, HashKey, Limits, Locality, Outliers, Repeatable, Retries, SuccessRate, Traffic,
};

mod check;

use check::HealthCheckSpec;

object! {
    /// How requests are spread over the endpoints of a Service or Backend, retried, limited, and how endpoints are watched.
    pub struct TrafficPolicySpec {
        /// Which endpoint is next.
        balancer: Option<BalancerSpec>;
        /// Which zones come first, and where requests go when they fail.
        locality: Option<LocalitySpec>;
        /// Leaves endpoints alone that answer with errors or not at all, and tries them again with one request after a while. On
        /// when it is written, also as `{}`, and when `locality` is.
        outlier_detection: Option<OutlierSpec>;
        /// Asks endpoints whether they are well.
        health_check: Option<HealthCheckSpec>;
        /// How much at a time. What is beyond is answered with 503 at once, is not tried again, and is no fault of an endpoint.
        limits: Option<TrafficLimitSpec>;
        /// What is tried again. A route's own `retry` wins over it.
        retries: Option<RetrySpec>;
        /// How long connecting to an endpoint may take, TLS included (5s, or what the Backend says).
        connect_timeout: Option<Duration>;
    }
    check check_spec;
}

object! {
    /// Which endpoint is next.
    pub struct BalancerSpec {
        /// How it is chosen.
        algorithm: Algorithm = Algorithm::LeastRequest;
        /// What RingHash and Maglev hash: of these the first that a request has (the client's address). A request that has none of
        /// them goes anywhere.
        hash_on: Vec<HashKeySpec> => Rule::MaxItems(8);
        /// The least number of points on the ring of RingHash.
        minimum_ring_size: u32 = 1024 => Rule::Range(1, 8_388_608);
        /// With RingHash and Maglev, how much of its share an endpoint may get at most, in percent, before requests go to the next
        /// one (no bound).
        load_bound: Option<u32> => Rule::Range(100, 10_000);
        /// How long a new endpoint takes to get its full share (no time). For LeastRequest, RoundRobin and Random.
        slow_start: Duration = Duration::ZERO;
        /// When less than this share of the endpoints is healthy, in percent, all of them are used: the checks may be wrong. 0 never
        /// does so.
        panic_threshold: u32 = 10 => Rule::Range(0, 100);
    }
}

choice! {
    /// How an endpoint is chosen.
    pub enum Algorithm {
        /// Of two drawn by weight, the one with fewer requests outstanding.
        LeastRequest = "LeastRequest",
        /// In turn, by weight.
        RoundRobin = "RoundRobin",
        /// Drawn by weight.
        Random = "Random",
        /// By a hash of the request, on a ring (ketama): few requests move when endpoints come and go.
        RingHash = "RingHash",
        /// By a hash of the request, in a table (Maglev): evenly spread, a few more requests move.
        Maglev = "Maglev",
    }
}

object! {
    /// A part of a request. One of the fields.
    pub struct HashKeySpec {
        /// The value of this header field.
        header: Option<Text> => Rule::Is(&HEADER_NAME);
        /// The value of this cookie.
        cookie: Option<Text> => Rule::Length(1, 256);
        /// The value of this parameter in the query.
        query: Option<Text> => Rule::Length(1, 256);
        /// Something that every request has.
        from: Option<HashSource>;
    }
    check check_hash_key;
}

choice! {
    /// What every request has.
    pub enum HashSource {
        /// The client's address.
        Address = "Address",
        /// The path, without the query.
        Path = "Path",
    }
}

object! {
    /// Which zones come first. Zones are those of the EndpointSlices, or `zone` of a Backend's endpoints; the zone of the proxy
    /// itself is given when it is started.
    pub struct LocalitySpec {
        /// The zones that requests go to, in this order, as endpoints nearby fail. Zones that are not named come last: first those
        /// of the same region, as Workloads tell of it, then all others alike.
        failover: Vec<Text> => Rule::MaxItems(32), Rule::Unique;
        /// How much healthy capacity a zone is assumed to have beyond what it needs, in percent of it: with 140, a zone keeps
        /// everything until less than 72 percent of its endpoints are healthy.
        overprovisioning: u32 = 140 => Rule::Range(100, 1_000);
    }
}

object! {
    /// When an endpoint is left alone.
    pub struct OutlierSpec {
        /// Failures in a row: status codes from 500, connections that fail or break, tries that take too long. 0 does not count.
        consecutive_errors: u32 = 5 => Rule::Range(0, 10_000);
        /// The same, for 502, 503, 504 and failures without a response only. 0 does not count.
        consecutive_gateway_errors: u32 = 0 => Rule::Range(0, 10_000);
        /// How long an endpoint is left alone the first time; each time that follows soon lasts twice as long.
        base_ejection_time: Duration = Duration::from_secs(30);
        /// How long at most.
        max_ejection_time: Duration = Duration::from_secs(300);
        /// How many endpoints may be left alone at a time, in percent. One may in any case, unless this is 0, which leaves nobody alone, and
        /// the last never is. When more fail, it is rarely they who are ill.
        max_ejection_percent: u32 = 50 => Rule::Range(0, 100);
        /// Leaves endpoints alone also for a low share of successes.
        success_rate: Option<SuccessRateSpec>;
    }
    check check_outliers;
}

object! {
    /// The share of successes among the requests of the last ten seconds.
    pub struct SuccessRateSpec {
        /// The least share, in percent.
        minimum: u32 = 80 => Rule::Range(1, 100);
        /// Fewer requests than this say nothing.
        requests: u32 = 20 => Rule::Range(1, 1_000_000);
    }
}

object! {
    /// How much at a time, for all workers of a proxy together. What is not written has no limit.
    pub struct TrafficLimitSpec {
        /// Connections to the endpoints, those that idle included, whatever they carry. A request that finds none waits for one that
        /// becomes free, for as long as connecting may take; a connection that is not looked at is closed at once.
        connections: Option<u32> => Rule::Range(1, 10_000_000);
        /// Requests under way, upgraded connections included.
        requests: Option<u32> => Rule::Range(1, 10_000_000);
        /// Requests that wait for a connection to be opened, or to become free.
        pending: Option<u32> => Rule::Range(1, 10_000_000);
    }
    check check_limits;
}

object! {
    /// What is tried again. A connection that could not be opened, and a stream that was refused, always; what may have reached
    /// the backend only when the request is repeatable.
    pub struct RetrySpec {
        /// Tries after the first. 0 tries nothing again.
        attempts: u32 = 2 => Rule::Range(0, 10);
        /// Status codes of the backend that are tried again.
        codes: Vec<u16> = vec![502, 503, 504] => Rule::MaxItems(32), Rule::Range(400, 599);
        /// How long one try may take (no limit). A route's `timeouts.backendRequest` wins over it.
        per_try_timeout: Option<Duration>;
        /// The wait before a try.
        backoff: Option<BackoffSpec>;
        /// Whether every request may be sent twice. Without it those with an idempotent method or an `Idempotency-Key`.
        idempotent: bool = false;
        /// How many retries there may be.
        budget: Option<BudgetSpec>;
    }
}

object! {
    /// The wait before a try: a random time up to a bound, which is the base at first, then three, seven, fifteen times as much, and so on up to `max`.
    pub struct BackoffSpec {
        /// The bound before the first retry.
        base: Duration = Duration::from_millis(25);
        /// The largest bound (ten times the base).
        max: Option<Duration>;
    }
}

object! {
    /// How many retries there may be. They are counted when they are decided.
    pub struct BudgetSpec {
        /// In percent of the requests.
        percent: u32 = 20 => Rule::Range(0, 100);
        /// For each second and worker, in any case.
        per_second: u32 = 3 => Rule::Range(0, 10_000);
    }
}

fn check_spec(spec: &TrafficPolicySpec, value: &Value, cx: &mut Decoder) {
    let says = spec.balancer.is_some()
        || spec.locality.is_some()
        || spec.outlier_detection.is_some()
        || spec.health_check.is_some()
        || spec.limits.is_some()
        || spec.retries.is_some()
        || spec.connect_timeout.is_some();
    if !says {
        cx.refuse(spec.at, "the policy says nothing")
            .remedy("write `balancer`, `outlierDetection`, `limits` or another part");
    }
    if spec.connect_timeout.is_some_and(|time| time.is_zero()) {
        cx.refuse(spec.at, "a connect timeout of 0s lets no connection be opened").remedy("write how long it may take");
    }
    if let (Some(balancer), Some(value)) = (&spec.balancer, value.field("balancer")) {
        cx.within("balancer", |cx| check_balancer(balancer, value, cx));
    }
}

fn check_limits(spec: &TrafficLimitSpec, _: &Value, cx: &mut Decoder) {
    if spec.connections.is_none() && spec.requests.is_none() && spec.pending.is_none() {
        cx.refuse(spec.at, "the limits say nothing").remedy("write `connections`, `requests` or `pending`");
    }
}

fn check_balancer(balancer: &BalancerSpec, value: &Value, cx: &mut Decoder) {
    let hashes = matches!(balancer.algorithm, Algorithm::RingHash | Algorithm::Maglev);
    if !hashes && let Some(key) = balancer.hash_on.first() {
        cx.refuse(key.at, format!("{} hashes nothing", balancer.algorithm))
            .remedy("write `algorithm: RingHash` or `Maglev`");
    }
    if !hashes && balancer.load_bound.is_some() {
        cx.refuse(balancer.at, format!("{} has no `loadBound`", balancer.algorithm))
            .remedy("write `algorithm: RingHash` or `Maglev`");
    }
    if balancer.algorithm != Algorithm::RingHash && value.field("minimumRingSize").is_some() {
        cx.refuse_field(value, "minimumRingSize", format!("{} has no ring", balancer.algorithm))
            .remedy("remove it, or write `algorithm: RingHash`");
    }
    if hashes && !balancer.slow_start.is_zero() {
        cx.refuse(balancer.at, format!("{} cannot start slowly: a request has its endpoint", balancer.algorithm))
            .remedy("remove `slowStart`");
    }
}

fn check_hash_key(key: &HashKeySpec, _: &Value, cx: &mut Decoder) {
    let written = [key.header.is_some(), key.cookie.is_some(), key.query.is_some(), key.from.is_some()];
    if written.iter().filter(|written| **written).count() != 1 {
        cx.refuse(key.at, "one of `header`, `cookie`, `query` and `from` is needed")
            .remedy("write one; several keys are several items of the list");
    }
}

fn check_outliers(spec: &OutlierSpec, _: &Value, cx: &mut Decoder) {
    if spec.base_ejection_time.is_zero() || spec.max_ejection_time < spec.base_ejection_time {
        cx.refuse(spec.at, "`baseEjectionTime` must be above 0s and at most `maxEjectionTime`");
    }
    if spec.consecutive_errors == 0 && spec.consecutive_gateway_errors == 0 && spec.success_rate.is_none() {
        cx.refuse(spec.at, "nothing is counted, so that nothing is ever left alone")
            .remedy("set `consecutiveErrors`, `consecutiveGatewayErrors` or `successRate`");
    }
}

/// A compiled `TrafficPolicy`.
#[derive(Debug)]
pub(crate) struct TrafficPolicy {
    traffic: Traffic,
}

impl Policy for TrafficPolicy {
    const KIND: &'static str = "TrafficPolicy";
    const ABOUT: &'static str =
        "Spreads requests over the endpoints of a backend, retries and limits them, and watches the endpoints.";
    const PHASE: Phase = Phase::Pick;
    const TARGETS: &'static [Target] = &[Target::Service, Target::Backend, Target::Namespace];
    type Spec = TrafficPolicySpec;

    fn compile(spec: &TrafficPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let balancer = match &spec.balancer {
            Some(balancer) => cx.within("balancer", |cx| compile_balancer(balancer, cx))?,
            None => Balancer::LeastRequest,
        };
        let outliers = match (&spec.outlier_detection, &spec.locality) {
            (Some(written), _) => Some(compile_outliers(written)),
            (None, Some(_)) => Some(Outliers::default()),
            (None, None) => None,
        };
        let traffic = Traffic {
            policy: "".into(),
            balancer,
            slow_start: spec.balancer.as_ref().map_or(Duration::ZERO, |balancer| balancer.slow_start),
            panic_threshold: spec.balancer.as_ref().map_or(PANIC, |balancer| balancer.panic_threshold),
            outliers,
            limits: spec.limits.as_ref().map(compile_limits).unwrap_or_default(),
            retries: spec.retries.as_ref().map(compile_retries),
            locality: spec.locality.as_ref().map(|locality| Locality {
                here: None,
                failover: locality.failover.iter().map(Text::shared).collect(),
                near: Vec::new(),
                overprovisioning: locality.overprovisioning,
            }),
            check: spec.health_check.as_ref().map(|check| check.compile().into()),
            connect_timeout: spec.connect_timeout,
        };
        Some(TrafficPolicy { traffic })
    }

    fn traffic(&self) -> Option<&Traffic> {
        Some(&self.traffic)
    }
}

/// The panic threshold when no balancer is written.
const PANIC: u32 = 10;

impl Default for Outliers {
    fn default() -> Self {
        Outliers {
            consecutive_errors: 5,
            consecutive_gateway_errors: 0,
            base: Duration::from_secs(30),
            most: Duration::from_secs(300),
            share: 50,
            success: None,
        }
    }
}

fn compile_balancer(spec: &BalancerSpec, cx: &mut Decoder) -> Option<Balancer> {
    let bound = spec.load_bound.unwrap_or(0);
    Some(match spec.algorithm {
        Algorithm::LeastRequest => Balancer::LeastRequest,
        Algorithm::RoundRobin => Balancer::RoundRobin,
        Algorithm::Random => Balancer::Random,
        Algorithm::RingHash => {
            Balancer::RingHash { keys: compile_keys(&spec.hash_on, cx)?, points: spec.minimum_ring_size, bound }
        }
        Algorithm::Maglev => Balancer::Maglev { keys: compile_keys(&spec.hash_on, cx)?, bound },
    })
}

fn compile_keys(specs: &[HashKeySpec], cx: &mut Decoder) -> Option<Vec<HashKey>> {
    if specs.is_empty() {
        return Some(vec![HashKey::Address]);
    }
    specs.iter().map(|spec| compile_key(spec, cx)).collect()
}

fn compile_key(spec: &HashKeySpec, cx: &mut Decoder) -> Option<HashKey> {
    if let Some(header) = &spec.header {
        return match FieldName::new(header.as_str()) {
            Ok(name) => Some(HashKey::Header(name)),
            Err(why) => {
                cx.refuse(spec.at, why.to_string());
                None
            }
        };
    }
    let cookie = spec.cookie.as_ref().map(|name| HashKey::Cookie((&**name).into()));
    let query = || spec.query.as_ref().map(|name| HashKey::Query((&**name).into()));
    let from = || {
        spec.from.map(|from| match from {
            HashSource::Address => HashKey::Address,
            HashSource::Path => HashKey::Path,
        })
    };
    cookie.or_else(query).or_else(from)
}

fn compile_outliers(spec: &OutlierSpec) -> Outliers {
    Outliers {
        consecutive_errors: spec.consecutive_errors,
        consecutive_gateway_errors: spec.consecutive_gateway_errors,
        base: spec.base_ejection_time,
        most: spec.max_ejection_time,
        share: spec.max_ejection_percent,
        success: spec
            .success_rate
            .as_ref()
            .map(|success| SuccessRate { least: success.minimum, requests: success.requests }),
    }
}

fn compile_limits(spec: &TrafficLimitSpec) -> Limits {
    Limits { connections: spec.connections, requests: spec.requests, pending: spec.pending }
}

fn compile_retries(spec: &RetrySpec) -> Retries {
    let base = spec.backoff.as_ref().map_or(Duration::from_millis(25), |backoff| backoff.base);
    let most = spec.backoff.as_ref().and_then(|backoff| backoff.max).unwrap_or(base.saturating_mul(10));
    Retries {
        attempts: spec.attempts,
        codes: spec.codes.iter().copied().collect(),
        per_try: spec.per_try_timeout.filter(|time| !time.is_zero()),
        backoff: (base, most.max(base)),
        repeatable: if spec.idempotent { Repeatable::Always } else { Repeatable::ByMethod },
        budget: spec.budget.as_ref().map_or_else(Allowance::default, |budget| Allowance {
            percent: budget.percent,
            per_second: budget.per_second,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{compile, refusals};
    use super::*;

    fn traffic(yaml: &str) -> Traffic {
        compile::<TrafficPolicy>(yaml).traffic
    }

    #[test]
    fn what_is_written_switches_on_what_it_needs() {
        assert_eq!(traffic("limits: {requests: 7}\n").outliers, None);
        assert_eq!(traffic("outlierDetection: {}\n").outliers, Some(Outliers::default()));
        let nearby = traffic("locality: {failover: [b]}\n");
        assert_eq!(nearby.outliers, Some(Outliers::default()));
        assert_eq!(nearby.locality.map(|locality| locality.overprovisioning), Some(140));
    }

    #[test]
    fn a_hash_without_keys_takes_the_address() {
        let keys = |yaml: &str| traffic(yaml).hash_keys().to_vec();
        assert_eq!(keys("balancer: {algorithm: Maglev}\n"), [HashKey::Address]);
        let named = keys("balancer: {algorithm: RingHash, hashOn: [{cookie: sid}, {from: Path}]}\n");
        assert_eq!(named, [HashKey::Cookie("sid".into()), HashKey::Path]);
    }

    #[test]
    fn the_bounds_of_the_backoff_belong_together() {
        let retries = |yaml: &str| traffic(yaml).retries.expect("retries");
        let millis = Duration::from_millis;
        assert_eq!(retries("retries: {}\n").backoff, (millis(25), millis(250)));
        assert_eq!(retries("retries: {backoff: {base: 1s, max: 500ms}}\n").backoff, (millis(1000), millis(1000)));
        assert_eq!(*retries("retries: {}\n").codes, [502, 503, 504]);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for yaml in [
            "{}\n",
            "connectTimeout: 0s\n",
            "balancer: {hashOn: [{from: Path}]}\n",
            "balancer: {loadBound: 120}\n",
            "balancer: {algorithm: RoundRobin, minimumRingSize: 64}\n",
            "balancer: {algorithm: Maglev, minimumRingSize: 1024}\n",
            "limits: {}\n",
            "balancer: {algorithm: Maglev, slowStart: 5s}\n",
            "balancer: {algorithm: Maglev, hashOn: [{header: a, cookie: b}]}\n",
            "balancer: {algorithm: Maglev, hashOn: [{}]}\n",
            "outlierDetection: {baseEjectionTime: 10s, maxEjectionTime: 5s}\n",
            "outlierDetection: {consecutiveErrors: 0}\n",
        ] {
            assert_eq!(refusals::<TrafficPolicy>(yaml).len(), 1, "{yaml}");
        }
    }
}
