//! `ConcurrencyPolicy`: how many requests may be under way at a time, by whatever they are counted by.
//!
//! A request has its places until the end of its response is about to be sent, an upgraded connection until it ends. What finds no place is refused at once, or waits
//! in a queue that is bounded in number and in time. All policies of the kind at one place hold together.

use std::sync::Arc;
use std::time::Duration;

use transept_model::object;
use transept_model::place::ObjectName;
use transept_model::policy::{Merge, Target};
use transept_model::schema::{Decoder, Rule, Text};
use transept_model::value::Value;
use transept_wire::head::Response;

use super::{Age, Caution, CompileCx, Known, Phase, Policy, PolicyName};
use crate::callout::{Callout, CalloutResult, Wait};
use crate::exchange::Exchange;
use crate::limit::fields::{Label, LimitHeaders, Shown, refusal, show};
use crate::limit::inquiry::{Asked, Inquiry};
use crate::limit::key::{Found, Key, KeyBytes, KeyPartSpec, Missing, cautions, hash};
use crate::limit::places::{Places, Taken, Turn};
use crate::limit::plans::Plans;
use crate::limit::touched::{Touch, address};
use crate::limit::unreached::{self, Order, Outline, Written};
use crate::limit::{Stage, Standing};
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

object! {
    /// How many requests may be under way at a time. All limits must have a place for a request, else it is refused.
    pub struct ConcurrencyPolicySpec {
        /// When places are taken.
        stage: Stage = Stage::AfterAuthorization;
        /// The limits, all of which hold.
        limits: Vec<ConcurrencySpec> => Rule::MinItems(1), Rule::MaxItems(16), Rule::UniqueBy("name");
    }
    check check_spec;
}

object! {
    /// One limit.
    pub struct ConcurrencySpec {
        /// Its name, which clients are told in `RateLimit` and in refusals.
        name: Text => Rule::Length(1, 64);
        /// How many at a time.
        requests: u32 => Rule::Range(1, 10_000_000);
        /// What is counted by, in parts that together are the key. An empty list is one limit that everybody shares.
        key: Option<Vec<KeyPartSpec>> => Rule::MaxItems(8);
        /// What becomes of a request that lacks a part of the key. Must be written when one may be lacking.
        missing: Option<Missing>;
        /// Only for principals on one of these plans (all requests).
        plans: Vec<Text> => Rule::MaxItems(64), Rule::Length(1, 253);
        /// The status of a refusal: 503 when the service is full, 429 when its caller asks for too much.
        status: u16 = 503 => Rule::Range(429, 503);
        /// Where requests without a place wait for one. Without it they are refused at once.
        queue: Option<QueueSpec>;
        /// Which fields of responses tell of it.
        headers: LimitHeaders = LimitHeaders::Off;
    }
    check check_limit;
}

object! {
    /// Where requests wait for a place, each key in a queue of its own. Who has waited longest is next.
    pub struct QueueSpec {
        /// How many may wait.
        requests: u32 => Rule::Range(1, 1_000_000);
        /// How long one may wait, at most 60s. Then it is refused.
        wait: Duration = Duration::from_secs(1);
    }
    check check_queue;
}

fn check_queue(queue: &QueueSpec, _: &Value, cx: &mut Decoder) {
    if queue.wait.is_zero() || queue.wait > LONGEST_WAIT {
        cx.refuse(queue.at, "`wait` must be above 0s and at most 60s").remedy("leave `queue` out to refuse at once");
    }
}

/// The longest that a request may be made to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

fn check_spec(spec: &ConcurrencyPolicySpec, _: &Value, cx: &mut Decoder) {
    unreached::refuse(&spec.limits, cx);
}

impl Written for ConcurrencySpec {
    const WORD: &'static str = "limit";

    fn outline(&self) -> Outline<'_> {
        Outline::new(self.at, &self.name, self.key.as_ref(), self.missing, &self.plans)
    }

    fn is_tighter(&self, other: &ConcurrencySpec, order: Order) -> bool {
        // What waits for a place here has the places already of limits that are asked before.
        let waiting = self.queue.as_ref().filter(|_| order == Order::Later).map_or(0, |queue| queue.requests);
        u64::from(self.requests) + u64::from(waiting) <= u64::from(other.requests)
    }

    fn holds_up(&self) -> bool {
        self.queue.is_some()
    }
}

fn check_limit(limit: &ConcurrencySpec, _: &Value, cx: &mut Decoder) {
    if !matches!(limit.status, 429 | 503) {
        cx.refuse(limit.at, format!("a refusal cannot be {}", limit.status)).remedy("write 429 or 503");
    }
    if !limit.name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        cx.refuse(limit.at, "the name is told in a header field, which has room for printable ASCII only")
            .remedy("use letters, digits and dashes");
    }
}

#[derive(Debug)]
struct Limit {
    label: Label,
    most: u32,
    key: Key,
    plans: Plans,
    status: u16,
    /// How many may wait, and how long.
    queue: Option<(u32, Duration)>,
    places: Arc<Places>,
    /// `ConcurrencyPolicy shop/busy`.
    policy: Box<str>,
}

/// One or several compiled `ConcurrencyPolicy` objects.
#[derive(Debug)]
pub(crate) struct ConcurrencyPolicy {
    stage: Stage,
    limits: Vec<Arc<Limit>>,
    /// The policies that they belong to, once they are joined.
    owners: Vec<Arc<PolicyName>>,
    /// The limits as they are written, before they are joined.
    written: Vec<ConcurrencySpec>,
}

/// What is remembered while a request waits.
struct Waiting {
    index: usize,
    turn: Turn,
    /// How many things the request held before it came to this policy.
    before: usize,
    hash: u64,
}

impl ConcurrencyPolicy {
    /// Places in all limits from this one on.
    fn admit(&self, from: usize, before: usize, x: &mut Exchange<'_>) -> Verdict {
        for (index, limit) in self.limits.iter().enumerate().skip(from) {
            if !limit.plans.include(x) {
                continue;
            }
            let mut key = KeyBytes::new();
            match limit.key.write(x, &mut key) {
                Found::Whole => {}
                Found::Skipped => {
                    if x.is_told() {
                        let lacking = limit.key.lacking(x).unwrap_or_default();
                        let (name, policy) = (&limit.label.name, &limit.policy);
                        x.tell(|| format!("limit {name} of {policy} does not hold: no {lacking} (missing: Skip)"));
                    }
                    continue;
                }
                Found::Lacks(part) => {
                    let detail = format!("Requests are counted by {part}, and this one has none.");
                    let reply = Reply::new(Reason::LimitKeyMissing).with_detail(detail);
                    return self.refuse(index, before, reply, ", missing: Reject", x);
                }
            }
            let hash = hash(limit.places.seed(x.random), &key);
            let (queue, wait) = limit.queue.unwrap_or_default();
            match limit.places.take(hash, limit.most, queue) {
                Taken::Place(place, count) => {
                    self.note(index, limit, hash, Some(count), x);
                    x.notes.held.push(Box::new(place));
                }
                Taken::Waits(turn, ahead) => {
                    let Some(timeout) = x.may_wait(wait) else {
                        return self.refuse_full(index, limit, hash, before, x);
                    };
                    x.tell(|| format!("limit {}: waits for a place behind {ahead} others", limit.label.name));
                    let until = turn.comes();
                    x.notes.between = Some(Box::new(Waiting { index, turn, before, hash }));
                    return Callout::Wait(Wait { what: "a place among the requests under way", until, timeout }).into();
                }
                Taken::Full => return self.refuse_full(index, limit, hash, before, x),
            }
        }
        Verdict::Continue
    }

    /// Notes how a limit stands, for the response and for explanations. Without a count there is no room.
    fn note(&self, index: usize, limit: &Limit, hash: u64, count: Option<u32>, x: &mut Exchange<'_>) {
        let left = i64::from(limit.most - count.unwrap_or(limit.most).min(limit.most));
        if x.is_told() {
            let (name, policy, most) = (&limit.label.name, &limit.policy, limit.most);
            let key = limit.key.describe(x);
            let line = format!("limit {name} of {policy}, at a time, by {key}: {left} of {most} places left");
            x.tell(|| line);
            let mut bytes = KeyBytes::new();
            if let Found::Whole = limit.key.write(x, &mut bytes) {
                x.inquire(|| Inquiry::new(format!("{policy} {}", kept_as(name)), &bytes, Asked::Places(most)));
            }
        }
        x.notes.touched.limits.push(Touch {
            policy: address(self),
            limit: u16::try_from(index).unwrap_or(u16::MAX),
            charged: 1,
            cost: 1,
            hash,
            partition: None,
            is_shared: false,
            name: None,
            standing: Standing { left, full_in: Duration::ZERO },
            wait: count.is_none().then_some(Duration::from_secs(1)),
        });
    }

    fn refuse_full(&self, index: usize, limit: &Limit, hash: u64, before: usize, x: &mut Exchange<'_>) -> Verdict {
        self.note(index, limit, hash, None, x);
        let detail = "Too many requests are under way.";
        let wait = Duration::from_secs(1);
        let reply = refusal(Reason::ConcurrencyExceeded, &[&limit.label.name], wait, detail.into());
        self.refuse(index, before, reply.with_status(limit.status), "", x)
    }

    /// Refuses, and gives back the places that the request has already.
    fn refuse(&self, index: usize, before: usize, reply: Reply, why: &str, x: &mut Exchange<'_>) -> Verdict {
        x.notes.held.truncate(before);
        x.notes.answered_by = self.owners.get(index).map(Arc::clone);
        let Some(limit) = self.limits.get(index) else { return reply.into() };
        reply.because(format!("{}, limit {}{why}", limit.policy, limit.label.name)).into()
    }
}

/// The part of a name under which places are kept.
fn kept_as(limit: &str) -> String {
    format!("places of {limit}")
}

impl Policy for ConcurrencyPolicy {
    const KIND: &'static str = "ConcurrencyPolicy";
    const ABOUT: &'static str = "Says how many requests may be under way at a time.";
    const PHASE: Phase = Phase::Limit;
    const MERGE: Merge = Merge::Together;
    const TARGETS: &'static [Target] = &[Target::Gateway, Target::Listener, Target::Route, Target::Rule];
    type Spec = ConcurrencyPolicySpec;

    fn compile(spec: &ConcurrencyPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let compile = |limit: &ConcurrencySpec, cx: &mut CompileCx<'_>| {
            let key = Key::compile(limit.key.as_ref(), limit.missing, limit.at, spec.stage.phase(), cx)?;
            Some(Arc::new(Limit {
                label: Label::new(&limit.name, limit.requests, None, Some("concurrent-requests"), limit.headers),
                most: limit.requests,
                key,
                plans: Plans::compile(&limit.plans, cx),
                status: limit.status,
                queue: limit.queue.as_ref().map(|queue| (queue.requests, queue.wait)),
                places: cx.keep(&kept_as(&limit.name), Places::default),
                policy: format!("{} {}/{}", cx.name.kind, cx.name.namespace, cx.name.name).into(),
            }))
        };
        let limits: Vec<Option<Arc<Limit>>> = spec.limits.iter().map(|limit| compile(limit, cx)).collect();
        let limits = limits.into_iter().collect::<Option<Vec<_>>>()?;
        Some(ConcurrencyPolicy { stage: spec.stage, limits, owners: Vec::new(), written: spec.limits.clone() })
    }

    fn phase(&self) -> Phase {
        self.stage.phase()
    }

    fn join(all: &[(&Arc<PolicyName>, &Self)]) -> Option<Self> {
        let (mut limits, mut owners) = (Vec::new(), Vec::new());
        for (name, policy) in all {
            limits.extend(policy.limits.iter().map(Arc::clone));
            owners.extend(policy.limits.iter().map(|_| Arc::clone(name)));
        }
        Some(ConcurrencyPolicy { stage: all.first()?.1.stage, limits, owners, written: Vec::new() })
    }

    fn cautions(&self, known: Known) -> Vec<Caution> {
        let mut all = cautions(self.limits.iter().map(|one| (&*one.label.name, &one.key, &one.plans)), known);
        all.extend(unreached::tell(&self.written));
        all
    }

    fn beside(&self, other: &Self, name: &ObjectName, age: Age) -> Vec<Caution> {
        if self.stage != other.stage {
            return Vec::new();
        }
        unreached::tell_beside(&self.written, &other.written, name, age)
    }

    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        if x.notes.again {
            return Verdict::Continue;
        }
        self.admit(0, x.notes.held.len(), x)
    }

    fn on_callout(&self, x: &mut Exchange<'_>, _: CalloutResult) -> Verdict {
        x.has_waited();
        let waiting = x.notes.between.take().and_then(|between| between.downcast::<Waiting>().ok());
        // Nothing else was asked for.
        let Some(waiting) = waiting else { return self.on_request(x) };
        let Waiting { index, turn, before, hash } = *waiting;
        let Some(limit) = self.limits.get(index) else { return Verdict::Continue };
        match turn.place() {
            Some(place) => {
                self.note(index, limit, hash, Some(limit.most), x);
                x.notes.held.push(Box::new(place));
                self.admit(index + 1, before, x)
            }
            None => self.refuse_full(index, limit, hash, before, x),
        }
    }

    fn on_response(&self, x: &mut Exchange<'_>, response: &mut Response) {
        let own = address(self);
        let limits = x.notes.touched.copied();
        let shown = limits.iter().filter(|touch| touch.policy == own).filter_map(|touch| {
            let label = &self.limits.get(usize::from(touch.limit))?.label;
            Some(Shown { label, standing: touch.standing, wait: touch.wait, partition: None, timed: false })
        });
        show(shown, &mut x.notes.touched, response);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{compile, refusals};
    use super::*;
    use crate::exchange::{Connection, Notes, Now};
    use std::net::SocketAddr;
    use transept_wire::head::{FieldName, Request};

    #[test]
    fn a_limit_that_nobody_can_reach_is_refused() {
        for (limits, wrong) in [
            ("[{name: a, requests: 2, key: []}, {name: b, requests: 5, key: []}]", 1),
            ("[{name: a, requests: 2, key: []}, {name: b, requests: 2, key: []}]", 1),
            ("[{name: a, requests: 2, key: [{from: Address}]}, {name: b, requests: 5, key: []}]", 0),
            // Who waits for a place in one has a place in the one before.
            ("[{name: a, requests: 2, key: [], queue: {requests: 9}}, {name: b, requests: 5, key: []}]", 1),
            ("[{name: b, requests: 5, key: []}, {name: a, requests: 2, key: [], queue: {requests: 3}}]", 1),
            (
                "[{name: a, requests: 9, key: []}, {name: b, requests: 5, key: []}, {name: c, requests: 3, key: [{from: Address}]}]",
                1,
            ),
            // Those who wait in between have places of the first, and none of the last.
            (
                "[{name: a, requests: 9, key: []}, {name: c, requests: 3, key: [{from: Address}], queue: {requests: 99}}, {name: b, requests: 5, key: []}]",
                0,
            ),
            ("[{name: b, requests: 5, key: []}, {name: a, requests: 2, key: [], queue: {requests: 9}}]", 0),
        ] {
            assert_eq!(refusals::<ConcurrencyPolicy>(&format!("limits: {limits}\n")).len(), wrong, "{limits}");
        }
    }

    /// A request that is under way until its notes are dropped.
    fn begin(policy: &ConcurrencyPolicy, client: &str) -> (Verdict, Notes, Response) {
        let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
        let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        let (mut notes, mut response) = (Notes::new(), Response::new(200));
        let mut x = Exchange {
            now: Now { monotonic: Duration::ZERO, unix: Duration::ZERO },
            random: 7,
            connection: &Connection::new(address, address, None),
            client: client.parse().expect("an address"),
            listener_port: 80,
            request: &mut request,
            notes: &mut notes,
        };
        let verdict = policy.on_request(&mut x);
        policy.on_response(&mut x, &mut response);
        (verdict, notes, response)
    }

    #[test]
    fn a_request_has_its_place_until_it_is_over() {
        let policy =
            compile::<ConcurrencyPolicy>("limits: [{name: each, requests: 2, key: [{from: Address}], status: 429}]\n");
        let (first, first_notes, _) = begin(&policy, "192.0.2.1");
        let (second, _second_notes, _) = begin(&policy, "192.0.2.1");
        assert!(first.goes_on() && second.goes_on());
        let (third, ..) = begin(&policy, "192.0.2.1");
        let Verdict::Respond(reply) = third else { panic!("refused") };
        assert_eq!((reply.status, reply.reason), (429, Reason::ConcurrencyExceeded));
        assert!(begin(&policy, "192.0.2.2").0.goes_on());
        drop(first_notes);
        assert!(begin(&policy, "192.0.2.1").0.goes_on());
    }

    #[test]
    fn a_request_that_one_limit_refuses_keeps_no_place_in_the_others() {
        let policy = compile::<ConcurrencyPolicy>(
            "limits: [{name: all, requests: 2, key: []}, {name: each, requests: 1, key: [{from: Address}]}]\n",
        );
        let _one = begin(&policy, "192.0.2.1");
        let refused = begin(&policy, "192.0.2.1");
        assert!(!refused.0.goes_on());
        assert!(begin(&policy, "192.0.2.2").0.goes_on());
    }

    /// A request in the hands of the test, who says how its waits end.
    fn with<T>(notes: &mut Notes, at: u64, work: impl FnOnce(&mut Exchange<'_>) -> T) -> T {
        let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
        let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        work(&mut Exchange {
            now: Now { monotonic: Duration::from_millis(at), unix: Duration::ZERO },
            random: 7,
            connection: &Connection::new(address, address, None),
            client: address.ip(),
            listener_port: 80,
            request: &mut request,
            notes,
        })
    }

    fn wait(verdict: Verdict) -> Duration {
        match verdict {
            Verdict::Call(callout) => match *callout {
                Callout::Wait(wait) => wait.timeout,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_finds_no_place_waits_for_one_if_there_is_a_queue() {
        let policy = compile::<ConcurrencyPolicy>(
            "limits: [{name: all, requests: 1, key: [], queue: {requests: 1, wait: 300ms}}, {name: two, requests: 9, key: [{from: Address}]}]\n",
        );
        let (first, first_notes, _) = begin(&policy, "192.0.2.1");
        assert!(first.goes_on());
        let mut notes = Notes::new();
        assert_eq!(wait(with(&mut notes, 0, |x| policy.on_request(x))), Duration::from_millis(300));
        let (third, ..) = begin(&policy, "192.0.2.1");
        assert!(!third.goes_on(), "the queue is full");
        drop(first_notes);
        assert!(with(&mut notes, 100, |x| policy.on_callout(x, CalloutResult::Waited)).goes_on());
        assert_eq!(notes.held.len(), 2);
        // Whose wait ends in vain is refused, and keeps nothing.
        let mut late = Notes::new();
        wait(with(&mut late, 200, |x| policy.on_request(x)));
        let verdict = with(&mut late, 500, |x| policy.on_callout(x, CalloutResult::Failed("in vain".into())));
        let Verdict::Respond(reply) = verdict else { panic!("refused") };
        assert_eq!((reply.status, reply.reason), (503, Reason::ConcurrencyExceeded));
        assert!(late.held.is_empty());
        // Who leaves while he waits makes room in the queue.
        let mut gone = Notes::new();
        wait(with(&mut gone, 600, |x| policy.on_request(x)));
        gone.clear();
        wait(with(&mut gone, 700, |x| policy.on_request(x)));
    }

    #[test]
    fn places_are_told_without_a_time() {
        let policy = compile::<ConcurrencyPolicy>("limits: [{name: all, requests: 2, key: [], headers: Ietf}]\n");
        let (_, _notes, response) = begin(&policy, "192.0.2.1");
        let field = |name: &str| {
            let name = FieldName::new(name).expect("a name");
            response.fields.first_named(&name).map(|value| String::from_utf8_lossy(value).into_owned())
        };
        assert_eq!(field("ratelimit").as_deref(), Some(r#""all";r=1"#));
        assert_eq!(field("ratelimit-policy").as_deref(), Some(r#""all";q=2;qu="concurrent-requests""#));
    }

    #[test]
    fn mistakes_are_refused() {
        for yaml in [
            "limits: []",
            "limits: [{name: a, requests: 1}]",
            "limits: [{name: a, requests: 0, key: []}]",
            "limits: [{name: a, requests: 1, key: [], status: 500}]",
            "limits: [{name: a, requests: 1, key: [{header: X-A}]}]",
            "limits: [{name: a, requests: 1, key: [], queue: {requests: 0}}]",
            "limits: [{name: a, requests: 1, key: [], queue: {requests: 1, wait: 0s}}]",
            "limits: [{name: a, requests: 1, key: [], queue: {requests: 1, wait: 2m}}]",
        ] {
            assert!(!refusals::<ConcurrencyPolicy>(&format!("{yaml}\n")).is_empty(), "{yaml}");
        }
    }
}
