//! The thirteenth verb of the road: after a try, deliver what there is, or try again.
//!
//! Called by the proxy after every try that failed or whose response head has arrived, before anything reaches the client. Pure: the
//! waiting, the deadline of the whole request and the retry on a stale pooled connection are the proxy's.
//!
//! A rule's `retry` stanza (GEP-1731), or else the `retries` of the backend's `TrafficPolicy`, replace the defaults: their codes are
//! retried, connection errors and timeouts of one try always are. What the backend may have acted on is only sent twice when that is
//! harmless (RFC 9110 section 9.2.2): an idempotent method, or an `Idempotency-Key`. Without either only a connection that was never
//! established, or a stream that was refused, is tried again, on another endpoint.
//!
//! Every retry is counted against a budget when it is decided. What an endpoint has answered is delivered where the budget has no room; what nobody
//! has seen yet waits for room, as long as somebody is left who may take it. A `Retry-After` is heeded where no other endpoint is left.

use std::time::Duration;

use transept_wire::head::{FieldId, Request, Response};

use crate::balance::{Budget, Turns};
use crate::date;
use crate::exchange::{Now, below, draw};
use crate::hops;
use crate::rule::{Retry, Rule};
use crate::snapshot::Backend;
use crate::traffic::{Allowance, Repeatable, Retries};

/// What became of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response head with this status code.
    Status(u16),
    /// A connection that is not looked at was established.
    Connected,
    /// No connection was established: refused, unreachable, timed out, or TLS failed. The backend saw nothing of the request.
    Unreachable,
    /// The connection ended after the request was sent (in part, perhaps) and before a response head.
    Reset,
    /// The try exceeded its time.
    TimedOut,
}

/// Whether the backend may see a request twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Twice is the same as once.
    Harmless,
    /// Twice may be one time too many.
    Harmful,
}

/// Whether the content of the request can be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// There is none, or all of it is still here.
    Possible,
    /// Some of it is gone.
    Impossible,
}

/// One try with what matters for the next.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Tries so far, this one included.
    pub tries: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether the backend may see the request twice.
    pub repeat: Repeat,
    /// Whether the content can be sent again.
    pub resend: Resend,
    /// Endpoints of the backend that were not tried yet.
    pub alternatives: usize,
    /// Whether one of these is not known to be away.
    pub hope: bool,
    /// How often it has waited for room in the budget since the try.
    pub waits: u32,
    /// What is left of the time for the whole exchange, where there is a limit.
    pub left: Option<Duration>,
    /// The time that half of the tries take, as far as that is known.
    pub usual: Option<Duration>,
    /// How long the server that has answered wants to be left alone (RFC 9110 section 10.2.3).
    pub wished: Option<Duration>,
}

/// What to do after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Deliver the response, or the failure.
    Deliver,
    /// Try again.
    Retry {
        /// After this time.
        after: Duration,
    },
    /// It would be tried again, and there is no time for that: the exchange ends as one whose time is over (GEP-1742).
    Late,
    /// Ask again: the budget has no room.
    Wait {
        /// After this time.
        after: Duration,
    },
}

impl Repeat {
    /// Looks at the method, and for an `Idempotency-Key`.
    pub fn of(request: &Request) -> Repeat {
        if request.method.is_idempotent() || has_idempotency_key(request) { Repeat::Harmless } else { Repeat::Harmful }
    }
}

fn has_idempotency_key(request: &Request) -> bool {
    let mut fields = request.fields.iter();
    fields.any(|(name, _)| name.bytes.eq_ignore_ascii_case(b"idempotency-key"))
}

/// Tries on other endpoints, without a stanza, when no connection could be established.
const UNASKED: u32 = 2;

/// Backoff grows up to so many times its base.
const MOST_BACKOFF: u32 = 10;

/// The bounds of a wait for room in a budget.
const WAIT: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));

/// So often a request waits for room: on average that is as long as the budget looks back.
const MOST_WAITS: u32 = 80;

/// A server that wants to be left alone for longer than this is not waited for: the client is told so.
const MOST_WISHED: Duration = Duration::from_secs(5);

/// Keeps the draw of the wait that a server wishes for apart from those of the backoff.
const WISH_DRAW: u64 = 2048;

/// Keeps the draws of these waits apart from those of the backoff.
const WAIT_DRAW: u64 = 1024;

/// Keeps the draw of the jitter apart from those that other parts take from the same random number.
const FIRST_DRAW: u64 = 256;

/// What holds for the retries of a request: the rule's own stanza, else the backend's policy, else nothing but another endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Terms<'t> {
    /// The rule's `retry` stanza, counted by rule.
    Stanza(u64, &'t Retry),
    /// The `retries` of the backend's policy, counted by backend.
    Policy(u64, &'t Retries),
    /// Neither.
    Unasked,
}

impl<'t> Terms<'t> {
    /// The terms for a request of a rule that goes to a backend.
    pub fn of(rule: &'t Rule, backend: &'t Backend) -> Terms<'t> {
        match (&rule.retry, backend.traffic.as_ref().and_then(|traffic| traffic.retries.as_ref())) {
            // What a backend may have seen is not tried again; what nobody has seen is, as without a stanza.
            (Some(stanza), _) if stanza.attempts == 0 => Terms::Unasked,
            (Some(stanza), _) => Terms::Stanza(rule.key, stanza),
            (None, Some(policy)) => Terms::Policy(backend.key, policy),
            (None, None) => Terms::Unasked,
        }
    }

    /// What remains of them for a request that a proxy in front has sent again already: whatever has been answered is that one's to try again.
    pub fn behind_others(self, request: &Request) -> Terms<'t> {
        if hops::attempt(request) > 1 { Terms::Unasked } else { self }
    }

    /// Whether somebody asked for retries, so that it pays to keep what is needed for one.
    pub fn asks(&self) -> bool {
        match self {
            Terms::Stanza(..) => true,
            Terms::Policy(_, policy) => policy.attempts > 0,
            Terms::Unasked => false,
        }
    }

    /// Whether the backend may see this request twice.
    pub fn repeat(&self, request: &Request) -> Repeat {
        match self {
            Terms::Policy(_, policy) if policy.repeatable == Repeatable::Always => Repeat::Harmless,
            _ => Repeat::of(request),
        }
    }

    /// Whether a backend may see the request once more, after so many tries that it may have seen: a stanza says how often (GEP-1731).
    pub fn allows_another(&self, tries: u32) -> bool {
        match self {
            Terms::Stanza(_, stanza) => tries <= stanza.attempts,
            Terms::Policy(..) | Terms::Unasked => true,
        }
    }

    fn attempts(&self) -> u32 {
        match self {
            Terms::Stanza(_, stanza) => stanza.attempts,
            Terms::Policy(_, policy) => policy.attempts,
            Terms::Unasked => UNASKED,
        }
    }

    fn codes(&self) -> &'t [u16] {
        match self {
            Terms::Stanza(_, stanza) => &stanza.codes,
            Terms::Policy(_, policy) => &policy.codes,
            Terms::Unasked => &[],
        }
    }

    /// How many retries there may be.
    fn allowance(&self) -> Allowance {
        match self {
            Terms::Policy(_, policy) => policy.budget,
            Terms::Stanza(..) | Terms::Unasked => Allowance::default(),
        }
    }

    /// How long to wait before another try.
    fn backoff(&self, tries: u32, random: u64) -> Duration {
        match self {
            Terms::Stanza(_, stanza) => backoff(stanza.backoff, tries, random),
            Terms::Policy(_, policy) => jittered(policy.backoff, tries, random, FIRST_DRAW),
            // It goes where the request has not been, in place of a try that nobody saw.
            Terms::Unasked => Duration::ZERO,
        }
    }

    /// What its retries are counted against.
    fn budget<'b>(&self, turns: &'b mut Turns) -> &'b mut Budget {
        match self {
            Terms::Stanza(key, _) | Terms::Policy(key, _) => turns.budget(*key),
            Terms::Unasked => turns.unasked_budget(),
        }
    }
}

/// How long one try may take: what the rule says, else what the backend's policy says.
pub fn try_timeout(rule: &Rule, backend: &Backend) -> Option<Duration> {
    let policy = backend.traffic.as_ref().and_then(|traffic| traffic.retries.as_ref());
    rule.timeouts.backend_request.or(policy.and_then(|policy| policy.per_try))
}

/// Counts a request towards the retry budget. Call it once per request.
pub fn begin(terms: Terms<'_>, turns: &mut Turns, now: Now) {
    terms.budget(turns).count_request(now.monotonic);
}

/// Decides what follows a try.
pub fn judge(terms: Terms<'_>, attempt: &Attempt, turns: &mut Turns, now: Now, random: u64) -> Judgement {
    if attempt.resend == Resend::Impossible || attempt.tries > terms.attempts() {
        return Judgement::Deliver;
    }
    let wanted = match (terms, attempt.outcome) {
        (Terms::Unasked, outcome) => outcome == Outcome::Unreachable && attempt.alternatives > 0,
        (_, Outcome::Connected) => false,
        (_, Outcome::Unreachable) => true,
        (_, Outcome::Reset | Outcome::TimedOut) => attempt.repeat == Repeat::Harmless,
        (_, Outcome::Status(code)) => attempt.repeat == Repeat::Harmless && terms.codes().contains(&code),
    };
    if !wanted {
        return Judgement::Deliver;
    }
    // Of a server that says when to come again; another one has said nothing.
    let wished = attempt.wished.filter(|_| attempt.alternatives == 0);
    if wished.is_some_and(|wished| wished > MOST_WISHED) {
        return Judgement::Deliver;
    }
    let after =
        terms.backoff(attempt.tries, random).max(wished.map_or(Duration::ZERO, |wished| spread(wished, random)));
    let needed = after.saturating_add(attempt.usual.unwrap_or_default());
    let is_late = attempt.left.is_some_and(|left| left <= needed);
    match terms.budget(turns).has_room(terms.allowance(), now.monotonic) {
        // The answer says more than that the time is over.
        true if is_late && wished.is_some() => return Judgement::Deliver,
        true if is_late => return Judgement::Late,
        true => {
            terms.budget(turns).count_retry(now.monotonic);
            return Judgement::Retry { after };
        }
        false => {}
    }
    let may_wait = attempt.outcome == Outcome::Unreachable && attempt.hope && attempt.waits < MOST_WAITS;
    if may_wait && !is_late && terms.allowance() != Allowance::NONE {
        let after = jittered(WAIT, attempt.waits.saturating_add(1), random, WAIT_DRAW);
        return Judgement::Wait { after };
    }
    Judgement::Deliver
}

/// How long a server wants to be left alone (RFC 9110 section 10.2.3): so many seconds, or until a date, which is measured by the server's own clock
/// if the response says what that shows.
pub fn wish(response: &Response, now: Now) -> Option<Duration> {
    let text = response.fields.first(FieldId::RETRY_AFTER)?.trim_ascii();
    if !text.is_empty() && text.iter().all(u8::is_ascii_digit) {
        // More than can be counted is too long in any case.
        return Some(Duration::from_secs(std::str::from_utf8(text).ok()?.parse().unwrap_or(u64::MAX)));
    }
    let until = date::read(text)?;
    let clock = response.fields.first(FieldId::DATE).and_then(date::read);
    Some(until.saturating_sub(clock.unwrap_or(now.unix)))
}

/// Up to half longer, so that those who were told the same do not come back together.
fn spread(wished: Duration, random: u64) -> Duration {
    let most = u64::try_from(wished.as_micros() / 2).unwrap_or(u64::MAX);
    wished.saturating_add(Duration::from_micros(below(draw(random, WISH_DRAW), most)))
}

/// The status code that a response stands for: of a gRPC response that is an error and nothing else, the one that HTTP has for it.
pub fn effective_status(response: &Response) -> u16 {
    match response.fields.first(FieldId::GRPC_STATUS) {
        // UNAVAILABLE; then UNKNOWN, INTERNAL and DATA_LOSS.
        Some(b"14") => 503,
        Some(b"2" | b"13" | b"15") => 500,
        _ => response.status,
    }
}

/// A random wait up to a bound that a little more than doubles with every try.
fn jittered((base, most): (Duration, Duration), tries: u32, random: u64, first: u64) -> Duration {
    let factor = 1u32.checked_shl(tries).unwrap_or(u32::MAX).saturating_sub(1);
    let bound = u64::try_from(base.saturating_mul(factor).min(most).as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(below(draw(random, first + u64::from(tries)), bound))
}

/// The stated backoff is the least: it doubles with every try, and up to half of it is added by chance, so that clients that failed
/// together do not come back together.
fn backoff(base: Duration, tries: u32, random: u64) -> Duration {
    let factor = 1u32.checked_shl(tries.saturating_sub(1)).unwrap_or(MOST_BACKOFF).clamp(1, MOST_BACKOFF);
    let least = base.saturating_mul(factor);
    let most_jitter = u64::try_from(least.as_micros() / 2).unwrap_or(u64::MAX);
    let jitter = Duration::from_micros(below(draw(random, FIRST_DRAW + u64::from(tries)), most_jitter));
    least.saturating_add(jitter)
}

#[cfg(test)]
mod tests {
    use transept_wire::head::FieldName;

    use super::*;
    use crate::snapshot::EndpointSet;
    use crate::traffic::Traffic;

    const NOW: Now = Now { monotonic: Duration::ZERO, unix: Duration::ZERO };

    fn rule(retry: Option<Retry>) -> Rule {
        Rule { retry: retry.map(Box::new), ..Rule::for_tests("shop/cart/0") }
    }

    fn stanza(codes: &[u16], attempts: u32) -> Option<Retry> {
        Some(Retry { codes: codes.into(), attempts, backoff: Duration::from_millis(25) })
    }

    fn attempt(tries: u32, outcome: Outcome) -> Attempt {
        let (repeat, resend, hope) = (Repeat::Harmless, Resend::Possible, false);
        let (left, usual, wished) = (None, None, None);
        Attempt { tries, outcome, repeat, resend, alternatives: 0, hope, waits: 0, left, usual, wished }
    }

    fn judged(rule: &Rule, attempt: Attempt) -> Judgement {
        let backend = Backend::for_tests(EndpointSet::default(), None);
        judge(Terms::of(rule, &backend), &attempt, &mut Turns::new(), NOW, 1)
    }

    fn retries(rule: &Rule, attempt: Attempt) -> bool {
        judged(rule, attempt) != Judgement::Deliver
    }

    #[test]
    fn a_server_that_says_when_is_asked_then() {
        let mut response = Response::new(503);
        assert_eq!(wish(&response, NOW), None);
        // The clock of the server is a few years behind ours, until it does not tell.
        let ours = Now { unix: Duration::from_secs(784_111_774), ..NOW };
        response.fields.set(&FieldName::known(FieldId::DATE), b"Sun, 06 Nov 1994 08:49:35 GMT").expect("a value");
        let huge = "99999999999999999999";
        for (text, seconds) in [
            ("2", Some(2)),
            ("soon", None),
            ("-1", None),
            ("", None),
            (huge, Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(2)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(0)),
        ] {
            response.fields.set(&FieldName::known(FieldId::RETRY_AFTER), text.as_bytes()).expect("a value");
            assert_eq!(wish(&response, NOW), seconds.map(Duration::from_secs), "{text}");
        }
        response.fields.remove_id(FieldId::DATE);
        response
            .fields
            .set(&FieldName::known(FieldId::RETRY_AFTER), b"Sun, 06 Nov 1994 08:49:37 GMT")
            .expect("a value");
        assert_eq!(wish(&response, ours), Some(Duration::from_secs(3)));
        let rule = rule(stanza(&[503], 3));
        let told = |seconds| Attempt { wished: Some(Duration::from_secs(seconds)), ..attempt(1, Outcome::Status(503)) };
        assert_eq!(judged(&rule, told(u64::MAX)), Judgement::Deliver);
        let Judgement::Retry { after } = judged(&rule, told(2)) else { panic!("it is tried again") };
        assert!((2000..3000).contains(&after.as_millis()), "{after:?}");
        // Longer than anybody waits, or than there is time: the client hears what the server has said.
        assert_eq!(judged(&rule, told(6)), Judgement::Deliver);
        assert_eq!(judged(&rule, Attempt { left: Some(Duration::from_secs(1)), ..told(2) }), Judgement::Deliver);
        // Another server has said nothing.
        let Judgement::Retry { after } = judged(&rule, Attempt { alternatives: 1, ..told(60) }) else {
            panic!("it is tried elsewhere")
        };
        assert!(after < Duration::from_millis(50), "{after:?}");
    }

    fn policy() -> Retries {
        Retries {
            attempts: 2,
            codes: [503].into(),
            per_try: Some(Duration::from_secs(1)),
            backoff: (Duration::from_millis(25), Duration::from_millis(250)),
            repeatable: Repeatable::ByMethod,
            budget: Allowance::default(),
        }
    }

    fn with(retries: Retries) -> Backend {
        Backend::for_tests(EndpointSet::default(), Some(Traffic { retries: Some(retries), ..Traffic::default() }))
    }

    #[test]
    fn attempts_are_retries_after_the_first_try() {
        let rule = rule(stanza(&[500], 3));
        assert!(retries(&rule, attempt(3, Outcome::Status(500))));
        assert!(!retries(&rule, attempt(4, Outcome::Status(500))));
        assert!(!retries(&rule, attempt(1, Outcome::Status(503))));
    }

    #[test]
    fn a_stanza_without_codes_covers_connection_errors_and_timeouts() {
        let rule = rule(stanza(&[], 2));
        assert!(retries(&rule, attempt(1, Outcome::Reset)));
        assert!(retries(&rule, attempt(2, Outcome::TimedOut)));
        assert!(retries(&rule, attempt(1, Outcome::Unreachable)));
    }

    #[test]
    fn what_may_have_been_done_is_not_done_twice() {
        let rule = rule(stanza(&[500], 3));
        let harmful = |outcome| Attempt { repeat: Repeat::Harmful, ..attempt(1, outcome) };
        assert!(!retries(&rule, harmful(Outcome::Status(500))));
        assert!(!retries(&rule, harmful(Outcome::Reset)));
        assert!(retries(&rule, harmful(Outcome::Unreachable)));
        let gone = Attempt { resend: Resend::Impossible, ..attempt(1, Outcome::Unreachable) };
        assert!(!retries(&rule, gone));
    }

    #[test]
    fn without_a_stanza_only_another_endpoint_is_tried() {
        let rule = rule(None);
        assert!(!retries(&rule, attempt(1, Outcome::Unreachable)));
        assert!(retries(&rule, Attempt { alternatives: 1, ..attempt(1, Outcome::Unreachable) }));
        assert!(!retries(&rule, Attempt { alternatives: 1, ..attempt(1, Outcome::Status(503)) }));
    }

    #[test]
    fn a_stanza_without_attempts_leaves_what_nobody_has_seen() {
        let rule = rule(stanza(&[503], 0));
        assert!(!retries(&rule, Attempt { alternatives: 1, ..attempt(1, Outcome::Status(503)) }));
        assert!(retries(&rule, Attempt { alternatives: 1, ..attempt(1, Outcome::Unreachable) }));
        // The policy of the backend does not take its place.
        let backend = with(policy());
        assert!(matches!(Terms::of(&rule, &backend), Terms::Unasked) && Terms::of(&rule, &backend).allows_another(1));
    }

    #[test]
    fn the_default_has_a_budget_and_what_nobody_saw_waits_for_room() {
        let (rule, backend) = (rule(None), Backend::for_tests(EndpointSet::default(), None));
        let terms = Terms::of(&rule, &backend);
        let mut turns = Turns::new();
        let unseen = Attempt { alternatives: 1, hope: true, ..attempt(1, Outcome::Unreachable) };
        for _ in 0..30 {
            begin(terms, &mut turns, NOW);
            assert_eq!(judge(terms, &unseen, &mut turns, NOW, 1), Judgement::Retry { after: Duration::ZERO });
        }
        let mut judged = |attempt: &Attempt, random| judge(terms, attempt, &mut turns, NOW, random);
        for waits in 0..MOST_WAITS {
            let Judgement::Wait { after } = judged(&Attempt { waits, ..unseen }, u64::from(waits)) else {
                panic!("the budget has room after {waits} waits");
            };
            assert!(after <= WAIT.1);
        }
        assert_eq!(judged(&Attempt { waits: MOST_WAITS, ..unseen }, 1), Judgement::Deliver);
        assert_eq!(judged(&Attempt { hope: false, ..unseen }, 1), Judgement::Deliver);
        // A fifth of all requests.
        for _ in 0..125 {
            begin(terms, &mut turns, NOW);
        }
        assert_eq!(judge(terms, &unseen, &mut turns, NOW, 1), Judgement::Retry { after: Duration::ZERO });
        assert!(matches!(judge(terms, &unseen, &mut turns, NOW, 1), Judgement::Wait { .. }));
    }

    #[test]
    fn an_answer_does_not_wait_for_room_and_nothing_waits_where_there_is_none() {
        let budget = Allowance { percent: 0, per_second: 1 };
        let unseen = Attempt { hope: true, ..attempt(1, Outcome::Unreachable) };
        let spend = |budget, last: &Attempt| {
            let (silent, backend) = (rule(None), with(Retries { budget, ..policy() }));
            let (terms, mut turns) = (Terms::of(&silent, &backend), Turns::new());
            for _ in 0..10 {
                judge(terms, &attempt(1, Outcome::Reset), &mut turns, NOW, 1);
            }
            judge(terms, last, &mut turns, NOW, 1)
        };
        assert!(matches!(spend(budget, &unseen), Judgement::Wait { .. }));
        assert_eq!(spend(budget, &Attempt { hope: true, ..attempt(1, Outcome::Status(503)) }), Judgement::Deliver);
        assert_eq!(spend(Allowance::NONE, &unseen), Judgement::Deliver);
    }

    #[test]
    fn no_try_begins_that_half_of_all_would_not_finish() {
        let rule = rule(stanza(&[500], 3));
        let millis = |millis| Some(Duration::from_millis(millis));
        let failed = attempt(1, Outcome::Status(500));
        let is_late = |attempt| judged(&rule, attempt) == Judgement::Late;
        assert!(!is_late(Attempt { left: millis(200), usual: millis(100), ..failed }));
        assert!(is_late(Attempt { left: millis(110), usual: millis(100), ..failed }));
        assert!(is_late(Attempt { left: millis(20), ..failed }));
        assert!(!is_late(Attempt { usual: millis(100_000), ..failed }));
        // Where the budget has no room nothing would follow, late or not.
        let spent = Retries { budget: Allowance::NONE, ..policy() };
        let backend = Backend::for_tests(EndpointSet::default(), None);
        let late = Attempt { left: millis(1), ..attempt(1, Outcome::Status(503)) };
        for (retries, expected) in [(policy(), Judgement::Late), (spent, Judgement::Deliver)] {
            let terms = Terms::Policy(backend.key, &retries);
            assert_eq!(judge(terms, &late, &mut Turns::new(), NOW, 1), expected);
        }
        // What is not tried again anyway is delivered, however late it is.
        assert!(!is_late(Attempt { left: millis(1), ..attempt(1, Outcome::Status(404)) }));
    }

    #[test]
    fn backoff_is_a_minimum_and_grows() {
        let base = Duration::from_millis(25);
        for random in 0..100 {
            let first = backoff(base, 1, random);
            assert!(first >= base && first <= base * 3 / 2, "{first:?}");
            let third = backoff(base, 3, random);
            assert!(third >= base * 4 && third <= base * 6, "{third:?}");
            assert!(backoff(base, 40, random) <= base * 15);
        }
    }

    #[test]
    fn an_idempotency_key_makes_a_post_repeatable() {
        let mut request = Request::build("POST", "http", "a.test", "/").expect("a request");
        assert_eq!(Repeat::of(&request), Repeat::Harmful);
        request.fields.push_bytes(b"Idempotency-Key", b"1").expect("a field");
        assert_eq!(Repeat::of(&request), Repeat::Harmless);
    }

    #[test]
    fn a_policy_of_the_backend_holds_where_the_rule_is_silent() {
        let backend = with(policy());
        let silent = rule(None);
        let terms = Terms::of(&silent, &backend);
        let mut turns = Turns::new();
        let mut judged = |attempt| judge(terms, &attempt, &mut turns, NOW, 1);
        assert_ne!(judged(attempt(2, Outcome::Status(503))), Judgement::Deliver);
        assert_eq!(judged(attempt(3, Outcome::Status(503))), Judgement::Deliver);
        assert_eq!(judged(attempt(1, Outcome::Status(500))), Judgement::Deliver);
        let harmful = Attempt { repeat: Repeat::Harmful, ..attempt(1, Outcome::Status(503)) };
        assert_eq!(judged(harmful), Judgement::Deliver);
        let own = rule(stanza(&[500], 1));
        assert!(matches!(Terms::of(&own, &backend), Terms::Stanza(..)));
        assert_eq!(try_timeout(&own, &backend), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_policy_may_call_every_request_repeatable() {
        let request = Request::build("POST", "http", "a.test", "/").expect("a request");
        let (careful, bold) = (with(policy()), with(Retries { repeatable: Repeatable::Always, ..policy() }));
        let silent = rule(None);
        assert_eq!(Terms::of(&silent, &careful).repeat(&request), Repeat::Harmful);
        assert_eq!(Terms::of(&silent, &bold).repeat(&request), Repeat::Harmless);
        assert_eq!(Terms::of(&rule(stanza(&[], 1)), &bold).repeat(&request), Repeat::Harmful);
    }

    #[test]
    fn the_budget_of_a_policy_is_its_own() {
        let backend = with(Retries { budget: Allowance { percent: 0, per_second: 1 }, ..policy() });
        let silent = rule(None);
        let terms = Terms::of(&silent, &backend);
        let mut turns = Turns::new();
        let mut granted = 0;
        for _ in 0..100 {
            begin(terms, &mut turns, NOW);
            granted += usize::from(judge(terms, &attempt(1, Outcome::Reset), &mut turns, NOW, 1) != Judgement::Deliver);
        }
        assert_eq!(granted, 10);
    }

    #[test]
    fn a_wait_is_anything_up_to_a_bound_that_doubles() {
        let bounds = (Duration::from_millis(25), Duration::from_millis(250));
        let longest = |tries| (0..500).map(|random| jittered(bounds, tries, random, FIRST_DRAW)).max().expect("some");
        for (tries, bound) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250)] {
            let longest = longest(tries);
            assert!(longest <= Duration::from_millis(bound) && longest > Duration::from_millis(bound * 9 / 10));
        }
    }

    #[test]
    fn a_grpc_error_without_content_stands_for_its_status() {
        let mut response = Response::new(200);
        assert_eq!(effective_status(&response), 200);
        response.fields.push_bytes(b"grpc-status", b"14").expect("a field");
        assert_eq!(effective_status(&response), 503);
    }
}
