//! `RateLimitPolicy`: how often a request may be made, by whatever it is counted by.
//!
//! All policies of the kind at one place hold together, and their limits are charged together: all of them or none. A policy counts the
//! same wherever it is attached, so two routes that one policy is attached to share its limits; `from: Route` in the key keeps them apart.
//! What is counted survives changes of the configuration. The arithmetic is in `limit/`.

use std::sync::Arc;
use std::time::Duration;

use transept_model::place::{ObjectName, Spot};
use transept_model::policy::{Merge, Target};
use transept_model::schema::{Decoder, HEADER_NAME, Rule, Schema, Text};
use transept_model::value::{Value, ticked};
use transept_model::{choice, object};
use transept_wire::head::Response;

use super::{Age, Caution, CompileCx, Known, Phase, Policy, PolicyName};
use crate::callout::{Callout, CalloutResult};
use crate::exchange::Exchange;
use crate::expression::{NumberExpression, ResponseExpression};
use crate::limit::body_cost::{BodyCostSpec, bill};
use crate::limit::bucket::Bucket;
use crate::limit::charge::{Count, Limit, Partition, Refused, Statuses, admit};
use crate::limit::cost::{CostFields, CostSpec, Costs};
use crate::limit::fields::{Label, LimitHeaders, refusal, show};
use crate::limit::key::{Key, KeyPartSpec, Missing, cautions};
use crate::limit::plans::Plans;
use crate::limit::shared::{StoreSpec, Waited, share};
use crate::limit::store::Store;
use crate::limit::table::Table;
use crate::limit::touched::{Touch, address};
use crate::limit::unreached::{self, Order, Outline, Written};
use crate::limit::window::Window;
use crate::limit::{Algorithm, Stage, kept_as};
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

object! {
    /// How often a request may be made. All limits must have room for it, else it is refused with 429 and costs nothing.
    pub struct RateLimitPolicySpec {
        /// When the limits are looked at.
        stage: Stage = Stage::AfterAuthorization;
        /// Where the limits are counted for all proxies together. Without it each proxy counts by itself.
        store: Option<StoreSpec>;
        /// Without a store, how much of the limits each proxy has.
        per_proxy: PerProxy = PerProxy::Whole;
        /// The limits, all of which hold.
        limits: Vec<LimitSpec> => Rule::MinItems(1), Rule::MaxItems(16), Rule::UniqueBy("name");
    }
    check check_spec;
}

choice! {
    /// How much of a limit one of several proxies has.
    pub enum PerProxy {
        /// All of it: with three proxies, three times as much passes.
        Whole = "Whole",
        /// An equal share: as much as passes by all proxies that hold the policy together. Their number comes from the control plane;
        /// without one, from the annotation `transept.dev/proxies` of the policy.
        Share = "Share",
    }
}

object! {
    /// One limit.
    pub struct LimitSpec {
        /// Its name, which clients are told in `RateLimit` and in refusals.
        name: Text => Rule::Length(1, 64);
        /// How many requests, or how much cost, in each `per`.
        requests: u32 => Rule::Range(1, 1_000_000_000);
        /// The time that they are counted over, from 1s to 24h. For days and months there is QuotaPolicy.
        per: Duration;
        /// How many at once, for a token bucket (as many as `requests`).
        burst: Option<u32> => Rule::Range(1, 1_000_000_000);
        /// How it is counted.
        algorithm: AlgorithmSpec = AlgorithmSpec::TokenBucket;
        /// What is counted by, in parts that together are the key. An empty list is one limit that everybody shares.
        key: Option<Vec<KeyPartSpec>> => Rule::MaxItems(8);
        /// What becomes of a request that lacks a part of the key. Must be written when one may be lacking.
        missing: Option<Missing>;
        /// Only for principals on one of these plans (all requests).
        plans: Vec<Text> => Rule::MaxItems(64), Rule::Length(1, 253);
        /// What a request costs.
        cost: u32 = 1 => Rule::Range(1, 1_000_000);
        /// What some operations cost instead; the first that fits counts.
        costs: Vec<CostSpec> => Rule::MaxItems(256);
        /// What all other requests cost instead of `cost`, as an expression: `has(request.query.deep) ? 10 : 1`. A request for which it
        /// has no value, or one that is below zero or above what is ever there, is refused with 400.
        cost_expression: Option<NumberExpression>;
        /// Which requests count.
        count: Count = Count::Attempts;
        /// With `count: Answers`, the status codes that count: `"401"`, or `5xx` for a class.
        statuses: Vec<Text> => Rule::MaxItems(32);
        /// A field of the backend's response that says what the request has cost besides; a number, taken after the response, and even
        /// when there is less left.
        response_cost: Option<Text> => Rule::Is(&HEADER_NAME);
        /// The same as an expression about the backend's response: `int(response.headers["x-tokens"]) / 1000`. No value, and one below
        /// zero, costs nothing.
        response_cost_expression: Option<ResponseExpression>;
        /// What the bodies say, instead: a number in the JSON of the response, or bytes. Taken when the response is over.
        response_cost_body: Option<BodyCostSpec>;
        /// Which fields of responses tell of it.
        headers: LimitHeaders = LimitHeaders::Ietf;
        /// Whether those fields hold a hash of the key (`pk`), by which a client with several keys can tell them apart. It is the same at all
        /// gateways with the same limit.
        partition_key: bool = false;
        /// How many keys are remembered. Beyond it those are forgotten that have used least; never one that has used more
        /// than half of its limit.
        max_keys: u32 = 1_000_000 => Rule::Range(1_000, 100_000_000);
    }
    check check_limit;
}

choice! {
    /// How a limit counts.
    pub enum AlgorithmSpec {
        /// A token bucket (GCRA): `burst` at once, and then one each time the rate brings one.
        TokenBucket = "TokenBucket",
        /// A sliding window: what was counted in the window before weighs as much as of it is still within `per`.
        SlidingWindow = "SlidingWindow",
    }
}

fn check_limit(limit: &LimitSpec, _: &Value, cx: &mut Decoder) {
    if limit.per < Duration::from_secs(1) {
        let rate = "write the rate for 1s, and how many may come at once as `burst`";
        cx.refuse(limit.at, "`per` is shorter than a second").remedy(rate);
    } else if limit.per > Duration::from_secs(86_400) {
        cx.refuse(limit.at, "`per` is longer than a day").remedy("use a QuotaPolicy");
    }
    if limit.algorithm == AlgorithmSpec::SlidingWindow && limit.burst.is_some() {
        cx.refuse(limit.at, "a sliding window has no `burst`")
            .remedy("leave it out, or write `algorithm: TokenBucket`");
    }
    limit.cost_fields().check(limit.at, limit.burst.unwrap_or(limit.requests), cx);
    if !limit.name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        cx.refuse(limit.at, "the name is told in a header field, which has room for printable ASCII only")
            .remedy("use letters, digits and dashes");
    }
    match (limit.count, limit.statuses.is_empty()) {
        (Count::Answers, true) => {
            cx.refuse(limit.at, "which answers count is not said")
                .remedy("write `statuses`, such as `[\"401\", \"403\"]`");
        }
        (Count::Attempts | Count::Forwarded, false) => {
            cx.refuse(limit.at, format!("`statuses` means nothing with `count: {}`", limit.count))
                .remedy("write `count: Answers`");
        }
        _ => {}
    }
    for status in limit.statuses.iter().filter(|status| Statuses::parse(status).is_none()) {
        cx.refuse(limit.at, format!("{} is not a status code", ticked(status)))
            .remedy("write `\"401\"`, or `4xx` for a class");
    }
}

impl LimitSpec {
    fn cost_fields(&self) -> CostFields<'_> {
        CostFields {
            cost: self.cost,
            costs: &self.costs,
            expression: self.cost_expression.as_ref(),
            response_field: self.response_cost.as_ref(),
            response_expression: self.response_cost_expression.as_ref(),
            response_body: self.response_cost_body.as_ref(),
        }
    }
}

fn check_spec(spec: &RateLimitPolicySpec, _: &Value, cx: &mut Decoder) {
    if spec.per_proxy == PerProxy::Share && spec.store.is_some() {
        cx.refuse(spec.at, "what a store counts for all proxies together cannot be divided among them as well")
            .remedy("leave out `perProxy`, or `store`");
    }
    if spec.per_proxy == PerProxy::Whole {
        unreached::refuse(&spec.limits, cx);
    }
}

impl Written for LimitSpec {
    const WORD: &'static str = "limit";

    fn outline(&self) -> Outline<'_> {
        Outline::new(self.at, &self.name, self.key.as_ref(), self.missing, &self.plans)
    }

    fn is_tighter(&self, other: &LimitSpec, order: Order) -> bool {
        let rate = |limit: &LimitSpec| (u128::from(limit.requests), limit.per.as_nanos().max(1));
        let ((requests, per), (other_requests, other_per)) = (rate(self), rate(other));
        let is_less = match self.algorithm {
            AlgorithmSpec::TokenBucket => {
                requests * other_per <= other_requests * per
                    && self.burst.unwrap_or(self.requests) <= other.burst.unwrap_or(other.requests)
            }
            // The windows of one key in one policy go together where they are of one length.
            AlgorithmSpec::SlidingWindow
                if per == other_per && order != Order::Apart && self.outline().counts_like(&other.outline()) =>
            {
                requests <= other_requests
            }
            // A window begins with the first request of its key, so that parts of one more are within the other one.
            AlgorithmSpec::SlidingWindow => requests * (other_per.div_ceil(per) + 1) <= other_requests,
        };
        // It knows all keys still that the other one knows.
        is_less && self.costs_like(other) && self.max_keys >= other.max_keys
    }
}

impl LimitSpec {
    /// Whether a request takes as much of it as of the other one, in the same way.
    fn costs_like(&self, other: &LimitSpec) -> bool {
        self.count == other.count
            && self.cost_fields() == other.cost_fields()
            && self.statuses == other.statuses
            && self.algorithm == other.algorithm
    }
}

/// One or several compiled `RateLimitPolicy` objects.
#[derive(Debug)]
pub(crate) struct RateLimitPolicy {
    stage: Stage,
    limits: Vec<Arc<Limit>>,
    /// The policies that they belong to, once they are joined.
    owners: Vec<Arc<PolicyName>>,
    /// Positions of `limits` in the order of locking.
    order: Vec<usize>,
    /// It as it is written, before it is joined.
    written: Option<Box<RateLimitPolicySpec>>,
}

impl RateLimitPolicy {
    fn new(stage: Stage, limits: Vec<Arc<Limit>>, owners: Vec<Arc<PolicyName>>) -> RateLimitPolicy {
        let mut order: Vec<usize> = (0..limits.len()).collect();
        // One order for all requests, whatever the order of their chains: else two could wait for each other.
        order.sort_by_key(|index| limits.get(*index).map(|limit| Arc::as_ptr(&limit.table)));
        RateLimitPolicy { stage, limits, owners, order, written: None }
    }

    fn refuse(&self, refused: Refused, x: &mut Exchange<'_>) -> Verdict {
        let at = |index: usize| self.limits.get(index);
        let first_index;
        let mut why = String::new();
        let reply = match refused {
            Refused::Lacks(index, part) => {
                let detail = format!("Requests are counted by {part}, and this one has none.");
                (first_index, why) = (index, ", missing: Reject".to_owned());
                Reply::new(Reason::LimitKeyMissing).with_detail(detail)
            }
            Refused::Unpriced(index, unpriced) => {
                (first_index, why) = (index, format!(", {unpriced}"));
                unpriced.reply()
            }
            Refused::Unavailable(index) => {
                first_index = index;
                Reply::new(Reason::LimitUnavailable)
            }
            Refused::Wait(wait) => return Callout::Wait(wait).into(),
            Refused::Limits(violated, wait) => {
                let names: Vec<&str> = violated.iter().filter_map(|index| Some(&*at(*index)?.label.name)).collect();
                let seconds = crate::limit::seconds(wait).max(1);
                let detail = format!("There is room again in {seconds} s.");
                first_index = violated.first().copied().unwrap_or_default();
                refusal(Reason::RateLimited, &names, wait, detail.into())
            }
        };
        let Some(limit) = at(first_index) else { return reply.into() };
        x.notes.answered_by = self.owners.get(first_index).map(Arc::clone);
        reply.because(format!("{}, limit {}{why}", limit.policy, limit.label.name)).into()
    }
}

impl Policy for RateLimitPolicy {
    const KIND: &'static str = "RateLimitPolicy";
    const ABOUT: &'static str = "Says how often a request may be made, by principal, address, header and more.";
    const PHASE: Phase = Phase::Limit;
    const MERGE: Merge = Merge::Together;
    const TARGETS: &'static [Target] = &[Target::Gateway, Target::Listener, Target::Route, Target::Rule];
    type Spec = RateLimitPolicySpec;

    fn compile(spec: &RateLimitPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let phase = spec.stage.phase();
        // All of them, so that all that is wrong is said at once.
        let store = match &spec.store {
            Some(store) => Some((store, store.open(cx)?)),
            None => None,
        };
        let store = store.as_ref().map(|(spec, store)| (*spec, store));
        let proxies = match spec.per_proxy {
            PerProxy::Whole => 1,
            PerProxy::Share => cx.proxies(spec.at)?,
        };
        let limits: Vec<Option<Arc<Limit>>> =
            spec.limits.iter().map(|limit| compile_limit(limit, phase, store, proxies, cx).map(Arc::new)).collect();
        let limits = limits.into_iter().collect::<Option<Vec<_>>>()?;
        let written = Some(Box::new(spec.clone()));
        Some(RateLimitPolicy { written, ..RateLimitPolicy::new(spec.stage, limits, Vec::new()) })
    }

    fn phase(&self) -> Phase {
        self.stage.phase()
    }

    fn secrets(spec: &RateLimitPolicySpec) -> Vec<Text> {
        spec.store.iter().filter_map(|store| store.password_secret.clone()).collect()
    }

    fn join(all: &[(&Arc<PolicyName>, &Self)]) -> Option<Self> {
        let stage = all.first()?.1.stage;
        let (mut limits, mut owners) = (Vec::new(), Vec::new());
        for (name, policy) in all {
            limits.extend(policy.limits.iter().map(Arc::clone));
            owners.extend(policy.limits.iter().map(|_| Arc::clone(name)));
        }
        Some(RateLimitPolicy::new(stage, limits, owners))
    }

    fn cautions(&self, known: Known) -> Vec<Caution> {
        let mut all = cautions(self.limits.iter().map(|one| (&*one.label.name, &one.key, &one.plans)), known);
        let whole = self.written.iter().filter(|written| written.per_proxy == PerProxy::Whole);
        all.extend(whole.flat_map(|written| unreached::tell(&written.limits)));
        all
    }

    fn beside(&self, other: &Self, name: &ObjectName, age: Age) -> Vec<Caution> {
        let (Some(own), Some(other)) = (&self.written, &other.written) else { return Vec::new() };
        let is_whole = own.per_proxy == PerProxy::Whole && other.per_proxy == PerProxy::Whole;
        if own.stage != other.stage || own.store != other.store || !is_whole {
            return Vec::new();
        }
        unreached::tell_beside(&own.limits, &other.limits, name, age)
    }

    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        if x.notes.again {
            return Verdict::Continue;
        }
        let begin = x.notes.touched.limits.len();
        let mut outcome = admit(&self.limits, &self.order, address(self), x);
        if let Err(Refused::Wait(wait)) = &mut outcome {
            match x.may_wait(wait.timeout) {
                Some(left) => wait.timeout = left,
                None => {
                    x.notes.touched.limits.truncate(begin);
                    x.notes.between = Some(Box::new(Waited::InVain));
                    outcome = admit(&self.limits, &self.order, address(self), x);
                }
            }
        }
        for index in begin..x.notes.touched.limits.len() {
            let touch = x.notes.touched.limits[index];
            if let Some(limit) = self.limits.get(usize::from(touch.limit)) {
                limit.tell(&touch, x);
                if let Some(body) = limit.costs.of_bodies() {
                    body.prepare(x);
                }
            }
        }
        match outcome {
            Ok(()) => Verdict::Continue,
            Err(Refused::Wait(wait)) => {
                x.notes.touched.limits.truncate(begin);
                Callout::Wait(wait).into()
            }
            Err(refused) => self.refuse(refused, x),
        }
    }

    fn on_callout(&self, x: &mut Exchange<'_>, result: CalloutResult) -> Verdict {
        x.has_waited();
        match result {
            CalloutResult::Waited => {}
            CalloutResult::Assumed => x.notes.between = Some(Box::new(Waited::Explained)),
            _ => x.notes.between = Some(Box::new(Waited::InVain)),
        }
        self.on_request(x)
    }

    fn on_response(&self, x: &mut Exchange<'_>, response: &mut Response) {
        let mut touched = std::mem::take(&mut x.notes.touched);
        let own = address(self);
        for touch in touched.limits.iter_mut().filter(|touch| touch.policy == own) {
            if let Some(limit) = self.limits.get(usize::from(touch.limit)) {
                limit.settle(touch, self.stage, x, response);
                bill_bodies(limit, touch, x, response);
            }
        }
        let limits = touched.copied();
        let shown = limits
            .iter()
            .filter(|touch| touch.policy == own)
            .filter_map(|touch| Some(self.limits.get(usize::from(touch.limit))?.show(touch)));
        show(shown, &mut touched, response);
        x.notes.touched = touched;
    }
}

/// Notes that the bodies of an exchange will cost something, and at which key.
fn bill_bodies(limit: &Arc<Limit>, touch: &Touch, x: &mut Exchange<'_>, response: &Response) {
    let Some(body) = limit.costs.of_bodies().filter(|_| x.notes.replied.is_none()) else { return };
    let (limit, hash, at_store) = (Arc::clone(limit), touch.hash, touch.name);
    bill(body, x, response, move |cost, now| limit.debit(hash, at_store, cost, now));
}

/// How is counted.
pub(super) fn compile_algorithm(
    algorithm: AlgorithmSpec,
    requests: u32,
    per: Duration,
    burst: Option<u32>,
    at: Spot,
    cx: &mut CompileCx<'_>,
) -> Option<Algorithm> {
    Some(match algorithm {
        AlgorithmSpec::TokenBucket => {
            let Some(bucket) = Bucket::new(requests, per, burst.unwrap_or(requests)) else {
                cx.refuse(at, "an empty bucket takes more than three days to fill")
                    .remedy("lower `burst`, or use a QuotaPolicy");
                return None;
            };
            Algorithm::Bucket(bucket)
        }
        AlgorithmSpec::SlidingWindow => Algorithm::Window(Window::new(requests, per)),
    })
}

fn compile_limit(
    spec: &LimitSpec,
    phase: Phase,
    store: Option<(&StoreSpec, &Arc<Store>)>,
    proxies: u32,
    cx: &mut CompileCx<'_>,
) -> Option<Limit> {
    let key = Key::compile(spec.key.as_ref(), spec.missing, spec.at, phase, cx)?;
    let algorithm = compile_algorithm(spec.algorithm, spec.requests, spec.per, spec.burst, spec.at, cx)?;
    let most = algorithm.capacity();
    let algorithm = algorithm.divided(proxies);
    if store.is_some() && (spec.algorithm != AlgorithmSpec::TokenBucket || spec.count == Count::Answers) {
        cx.refuse(spec.at, "only token buckets that count requests as they come can be shared").remedy(
            "write `algorithm: TokenBucket` and leave out `count: Answers`, or put it into a policy without `store`",
        );
        return None;
    }
    let keys = spec.max_keys as usize;
    let part = (&*spec.name, keys);
    let shared = store.and_then(|(store_spec, store)| share(store, store_spec, &algorithm, part, cx));
    let (quota, window) = match spec.algorithm {
        AlgorithmSpec::TokenBucket => (algorithm.capacity(), algorithm.period()),
        AlgorithmSpec::SlidingWindow => (algorithm.capacity(), spec.per),
    };
    let policy = format!("{} {}/{}", cx.name.kind, cx.name.namespace, cx.name.name);
    let costs = Costs::compile(&spec.cost_fields(), cx);
    let table = cx.keep(&kept_as(&spec.name), Table::new);
    Some(Limit {
        label: Label::new(&spec.name, quota, Some(window), costs.unit(), spec.headers),
        terms: table.terms(algorithm, keys),
        most,
        key,
        plans: Plans::compile(&spec.plans, cx),
        costs,
        count: spec.count,
        statuses: spec.statuses.iter().filter_map(|status| Statuses::parse(status)).collect(),
        partition: spec.partition_key.then(|| Partition::new(&policy, &spec.encode().to_string())),
        table,
        shared,
        policy: policy.into(),
    })
}

#[cfg(test)]
mod tests;
