//! `RateLimitServerPolicy`: answers Envoy's `RateLimitService` (v3, gRPC) with limits of its own, for Envoys, other gateways, and programs.
//!
//! A call of `ShouldRateLimit` on its route is answered here and goes to no backend; whatever else comes that way goes on. What is counted, and for
//! how many, is what a descriptor says; how it is counted is what `RateLimitPolicy` counts by (`limit/`). All policies of the kind at one place
//! answer together, each for its domain.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use transept_model::policy::{Merge, Target};
use transept_model::schema::{Decoder, Rule, Text};
use transept_model::value::Value;
use transept_model::{choice, object};
use transept_wire::head::{FieldId, FieldName, Response, Version};

use super::rate_limit::{AlgorithmSpec, compile_algorithm};
use super::{CompileCx, Phase, Policy, PolicyName};
use crate::callout::{Callout, CalloutResult};
use crate::exchange::Exchange;
use crate::limit::fields::{Label, LimitHeaders, Shown, show};
use crate::limit::key::{KeyBytes, hash};
use crate::limit::table::{Table, Terms};
use crate::limit::touched::Touched;
use crate::limit::{Standing, kept_as, nanoseconds, seconds};
use crate::protobuf::{Garbled, Writer};
use crate::reason::Reason;
use crate::verdict::{Reply, ReplyBody, Verdict};

mod question;

use question::{Descriptor, Question};

object! {
    /// Answers a rate limit service's calls (Envoy's protocol, v3) with limits of its own.
    pub struct RateLimitServerPolicySpec {
        /// Who may ask.
        callers: Callers = Callers::Trusted;
        /// The domain that the limits belong to. Calls for a domain that no policy has are refused.
        domain: Text => Rule::Length(1, 253);
        /// The limits. For each descriptor the first that fits counts; one that none fits is let pass.
        limits: Vec<ServedLimitSpec> => Rule::MinItems(1), Rule::MaxItems(256), Rule::UniqueBy("name");
        /// Which fields callers are asked to add to their responses.
        headers: LimitHeaders = LimitHeaders::Off;
    }
    check check_spec;
}

choice! {
    /// Who may ask.
    pub enum Callers {
        /// Programs on this machine, and who shows a certificate that the listener or the mesh has verified.
        Trusted = "Trusted",
        /// Everybody who gets here; other policies say who does.
        Any = "Any",
    }
}

object! {
    /// A limit. Each set of values of its descriptor has its own count.
    pub struct ServedLimitSpec {
        /// Its name, which callers are told.
        name: Text => Rule::Length(1, 64);
        /// The entries that a descriptor has, all of them and in this order.
        descriptor: Vec<WantedEntrySpec> => Rule::MinItems(1), Rule::MaxItems(16);
        /// How many hits in each `per`.
        requests: u32 => Rule::Range(1, 1_000_000_000);
        /// The time that they are counted over, from 1s to 24h.
        per: Duration;
        /// How many at once, for a token bucket (as many as `requests`).
        burst: Option<u32> => Rule::Range(1, 1_000_000_000);
        /// How it is counted.
        algorithm: AlgorithmSpec = AlgorithmSpec::TokenBucket;
        /// Whether hits for which there is no room are taken all the same, so that less than nothing is left: for costs that are told after the
        /// response, as an Envoy does with `apply_on_stream_done`.
        overdraw: bool = false;
        /// How many sets of values are remembered. Beyond it those are forgotten that have used least; never one that has used more
        /// than half of its limit.
        max_keys: u32 = 1_000_000 => Rule::Range(1_000, 100_000_000);
    }
    check check_limit;
}

object! {
    /// An entry of a descriptor.
    pub struct WantedEntrySpec {
        /// Its key.
        key: Text => Rule::Length(1, 253);
        /// Only with this value. Without it each value counts for itself.
        value: Option<Text> => Rule::Length(1, 1_024);
    }
}

fn check_limit(limit: &ServedLimitSpec, _: &Value, cx: &mut Decoder) {
    if limit.per < Duration::from_secs(1) || limit.per > Duration::from_secs(86_400) {
        cx.refuse(limit.at, "`per` must be from 1s to 24h").remedy("write the rate for another time");
    }
    if limit.algorithm == AlgorithmSpec::SlidingWindow && limit.burst.is_some() {
        cx.refuse(limit.at, "a sliding window has no `burst`")
            .remedy("leave it out, or write `algorithm: TokenBucket`");
    }
    if !limit.name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        cx.refuse(limit.at, "the name is told in a header field, which has room for printable ASCII only")
            .remedy("use letters, digits and dashes");
    }
}

/// A limit that an earlier one hides.
fn check_spec(spec: &RateLimitServerPolicySpec, _: &Value, cx: &mut Decoder) {
    let covers = |wide: &WantedEntrySpec, narrow: &WantedEntrySpec| {
        wide.key == narrow.key && (wide.value.is_none() || wide.value == narrow.value)
    };
    for (index, limit) in spec.limits.iter().enumerate() {
        let hidden_by = spec.limits.iter().take(index).find(|earlier| {
            earlier.descriptor.len() == limit.descriptor.len()
                && earlier.descriptor.iter().zip(&limit.descriptor).all(|(wide, narrow)| covers(wide, narrow))
        });
        if let Some(earlier) = hidden_by {
            let (name, earlier) = (&*limit.name, &*earlier.name);
            cx.refuse(limit.at, format!("limit `{name}` is never reached, because `{earlier}` fits all that it fits"))
                .remedy("put the narrower one first");
        }
    }
}

/// The call that is answered.
const CALL: &[u8] = b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// The largest call that is read, in bytes.
const LARGEST: usize = 64 * 1024;

#[derive(Debug)]
struct Limit {
    label: Label,
    descriptor: Vec<(Box<str>, Option<Box<str>>)>,
    requests: u32,
    unit: u64,
    terms: Terms,
    overdraws: bool,
    table: Arc<Table>,
}

#[derive(Debug)]
struct Domain {
    name: Box<str>,
    callers: Callers,
    limits: Vec<Limit>,
    /// `RateLimitServerPolicy shop/limits`.
    policy: Box<str>,
}

/// One or several compiled `RateLimitServerPolicy` objects.
#[derive(Debug)]
pub(crate) struct RateLimitServerPolicy {
    domains: Vec<Arc<Domain>>,
    /// The policies that they belong to, once they are joined.
    owners: Vec<Arc<PolicyName>>,
}

/// What one descriptor comes to.
struct Status<'l> {
    limit: Option<&'l Limit>,
    key: u64,
    /// What was taken, and is given back if another descriptor is over its limit.
    taken: u32,
    standing: Standing,
    /// Until there is room, when there is none.
    wait: Option<Duration>,
}

impl Limit {
    fn fits(&self, descriptor: &Descriptor<'_>) -> bool {
        let fits = |(key, value): &(Box<str>, Option<Box<str>>), entry: &(&str, &str)| {
            **key == *entry.0 && value.as_ref().is_none_or(|value| **value == *entry.1)
        };
        self.descriptor.len() == descriptor.entries.len()
            && self.descriptor.iter().zip(&descriptor.entries).all(|(wanted, entry)| fits(wanted, entry))
    }

    /// Takes hits, if there is room or where the limit may be overdrawn.
    fn take(&self, key: u64, hits: u32, now: u64) -> Status<'_> {
        let mut held = self.table.hold(key, &self.terms, now);
        let algorithm = held.algorithm;
        // Who adds nothing asks whether there is anything left.
        let charged = algorithm.charge(held.cell(), now, hits.max(1));
        let (cell, taken) = match charged {
            Ok(_) if hits == 0 => (held.cell(), 0),
            Ok(cell) => (cell, hits),
            Err(_) if self.overdraws => (algorithm.debit(held.cell(), now, hits), hits),
            Err(_) => (held.cell(), 0),
        };
        if taken > 0 {
            held.put(cell);
        }
        let standing = algorithm.standing(cell, now);
        Status { limit: Some(self), key, taken, standing, wait: charged.err() }
    }
}

impl Status<'_> {
    fn give_back(&mut self, now: u64) {
        let Some(limit) = self.limit.filter(|limit| !limit.overdraws && self.taken > 0) else { return };
        let mut held = limit.table.hold(self.key, &limit.terms, now);
        let cell = held.algorithm.refund(held.cell(), now, self.taken);
        held.put(cell);
        self.standing = held.algorithm.standing(cell, now);
        self.taken = 0;
    }

    /// `DescriptorStatus`: `code` is 1, `current_limit` 2, `limit_remaining` 3, `duration_until_reset` 4.
    fn write(&self, out: &mut Writer) {
        out.number(1, if self.wait.is_some() { OVER_LIMIT } else { OK });
        let Some(limit) = self.limit else { return };
        out.message(2, |current| {
            current.number(1, u64::from(limit.requests));
            current.number(2, limit.unit);
            current.bytes(3, limit.label.name.as_bytes());
        });
        let left = if self.wait.is_some() { 0 } else { self.standing.left };
        out.number(3, u64::try_from(left).unwrap_or(0).min(u64::from(u32::MAX)));
        let reset = self.wait.map_or_else(|| seconds(self.standing.full_in), |wait| seconds(wait).max(1));
        out.message(4, |duration| duration.number(1, reset));
    }
}

const OK: u64 = 1;
const OVER_LIMIT: u64 = 2;

impl Domain {
    /// The message of an answer.
    fn answer(&self, question: &Question<'_>, x: &Exchange<'_>) -> Vec<u8> {
        let now = nanoseconds(x.now.monotonic);
        let mut all: SmallVec<[Status<'_>; 4]> = SmallVec::new();
        for descriptor in &question.descriptors {
            let hits = descriptor.hits.unwrap_or(question.hits);
            let Some(limit) = self.limits.iter().find(|limit| limit.fits(descriptor)) else {
                let standing = Standing { left: 0, full_in: Duration::ZERO };
                all.push(Status { limit: None, key: 0, taken: 0, standing, wait: None });
                continue;
            };
            let mut key = KeyBytes::new();
            for (_, value) in &descriptor.entries {
                key.extend_from_slice(&(value.len() as u64).to_le_bytes());
                key.extend_from_slice(value.as_bytes());
            }
            all.push(limit.take(hash(limit.table.seed(x.random), &key), hits, now));
        }
        let is_over = all.iter().any(|status| status.wait.is_some());
        if is_over {
            // What one limit refuses costs nothing at the others.
            all.iter_mut().for_each(|status| status.give_back(now));
        }
        let mut out = Writer::default();
        out.number(1, if is_over { OVER_LIMIT } else { OK });
        for status in &all {
            out.message(2, |message| status.write(message));
        }
        for (name, value) in headers(&all).fields.iter() {
            out.entry(3, name.bytes, value);
        }
        out.into_bytes()
    }
}

/// What callers are asked to tell their clients.
fn headers(all: &[Status<'_>]) -> Response {
    let mut response = Response::new(200);
    let shown = all.iter().filter_map(|status| {
        let label = &status.limit?.label;
        Some(Shown { label, standing: status.standing, wait: status.wait, partition: None, timed: true })
    });
    show(shown, &mut Touched::default(), &mut response);
    let told = all.iter().filter(|status| status.limit.is_some_and(|limit| limit.label.headers != LimitHeaders::Off));
    if let Some(wait) = told.filter_map(|status| status.wait).max() {
        let mut text = String::new();
        // A String takes every number, and digits are a value of a field.
        let _ = write!(text, "{}", seconds(wait).max(1));
        let _ = response.fields.set(&FieldName::known(FieldId::RETRY_AFTER), text.as_bytes());
    }
    response
}

impl RateLimitServerPolicy {
    fn answer(&self, call: &[u8], x: &mut Exchange<'_>) -> Verdict {
        let malformed = |detail: String| Reply::new(Reason::RequestMalformed).with_detail(detail).into();
        let question = match question::read(call) {
            Ok(question) => question,
            Err(Garbled) => return malformed("The call is not a RateLimitRequest.".to_owned()),
        };
        let found = self.domains.iter().position(|domain| *domain.name == *question.domain);
        let Some((index, domain)) = found.and_then(|index| Some((index, self.domains.get(index)?))) else {
            return malformed("No limits of this domain are here.".to_owned());
        };
        x.notes.answered_by = self.owners.get(index).map(Arc::clone);
        let message = domain.answer(&question, x);
        let reply = Reply { body: ReplyBody::Grpc(message), ..Reply::new(Reason::LimitAnswered) };
        reply.because(format!("{}, domain {}", domain.policy, domain.name)).into()
    }

    /// Whether whoever calls may ask at all: of several domains, one of them.
    fn trusts(&self, x: &Exchange<'_>) -> bool {
        let connection = x.connection;
        let is_verified = x.identity().is_some() || matches!(x.client_certificate(), Ok(Some(_)));
        connection.peer.ip().is_loopback()
            || is_verified
            || self.domains.iter().all(|domain| domain.callers == Callers::Any)
    }
}

impl Policy for RateLimitServerPolicy {
    const KIND: &'static str = "RateLimitServerPolicy";
    const ABOUT: &'static str = "Answers Envoy's rate limit protocol (v3) with limits of its own.";
    const PHASE: Phase = Phase::Limit;
    const MERGE: Merge = Merge::Together;
    const TARGETS: &'static [Target] = &[Target::Route, Target::Rule];
    type Spec = RateLimitServerPolicySpec;

    fn compile(spec: &RateLimitServerPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let limits: Vec<Option<Limit>> = spec.limits.iter().map(|limit| compile_limit(limit, spec, cx)).collect();
        let domain = Domain {
            name: (&*spec.domain).into(),
            callers: spec.callers,
            limits: limits.into_iter().collect::<Option<Vec<_>>>()?,
            policy: format!("{} {}/{}", cx.name.kind, cx.name.namespace, cx.name.name).into(),
        };
        Some(RateLimitServerPolicy { domains: vec![Arc::new(domain)], owners: Vec::new() })
    }

    fn join(all: &[(&Arc<PolicyName>, &Self)]) -> Option<Self> {
        let (mut domains, mut owners) = (Vec::new(), Vec::new());
        for (name, policy) in all {
            domains.extend(policy.domains.iter().map(Arc::clone));
            owners.extend(policy.domains.iter().map(|_| Arc::clone(name)));
        }
        Some(RateLimitServerPolicy { domains, owners })
    }

    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        if x.request.path() != CALL {
            return Verdict::Continue;
        }
        if !self.trusts(x) {
            let cause = "callers: Trusted, and the call is neither from this machine nor with a verified certificate";
            return Reply::new(Reason::AddressDenied).because(cause).into();
        }
        // Explanations are not asked over a connection.
        if x.request.version != Version::Http2 && !x.is_told() {
            let detail = "A rate limit service is spoken to over gRPC, that is HTTP/2.";
            return Reply::new(Reason::RequestMalformed).with_detail(detail).into();
        }
        Callout::Body { most: LARGEST }.into()
    }

    fn on_callout(&self, x: &mut Exchange<'_>, result: CalloutResult) -> Verdict {
        match result {
            CalloutResult::Body(call) => self.answer(&call, x),
            CalloutResult::Assumed => {
                let names: Vec<String> = self.domains.iter().map(|domain| domain.name.to_string()).collect();
                x.tell(|| format!("answers ShouldRateLimit for domain {}", names.join(", ")));
                Reply { body: ReplyBody::Grpc(Vec::new()), ..Reply::new(Reason::LimitAnswered) }.into()
            }
            CalloutResult::BodyTooLarge => Reply::new(Reason::BodyTooLarge).into(),
            _ => Reply::new(Reason::LimitUnavailable).into(),
        }
    }
}

/// Envoy's name of a time (`RateLimitResponse.RateLimit.Unit`); zero for those that have none.
fn unit(per: Duration) -> u64 {
    match per.as_secs() {
        1 => 1,
        60 => 2,
        3_600 => 3,
        86_400 => 4,
        _ => 0,
    }
}

fn compile_limit(limit: &ServedLimitSpec, spec: &RateLimitServerPolicySpec, cx: &mut CompileCx<'_>) -> Option<Limit> {
    let algorithm = compile_algorithm(limit.algorithm, limit.requests, limit.per, limit.burst, limit.at, cx)?;
    let (quota, window) = match limit.algorithm {
        AlgorithmSpec::TokenBucket => (algorithm.capacity(), algorithm.period()),
        AlgorithmSpec::SlidingWindow => (limit.requests, limit.per),
    };
    let keys = limit.max_keys as usize;
    let entry = |entry: &WantedEntrySpec| ((&*entry.key).into(), entry.value.as_ref().map(|value| (&**value).into()));
    let table = cx.keep(&format!("served {}", kept_as(&limit.name)), Table::new);
    Some(Limit {
        label: Label::new(&limit.name, quota, Some(window), None, spec.headers),
        descriptor: limit.descriptor.iter().map(entry).collect(),
        requests: limit.requests,
        unit: unit(limit.per),
        terms: table.terms(algorithm, keys),
        overdraws: limit.overdraw,
        table,
    })
}

#[cfg(test)]
mod tests;
