//! The thirteenth verb of the road: after a try, deliver what there is, or try again.
//!
//! Called by the proxy after every try that failed or whose response head has arrived, before anything reaches the client. Pure: the
//! waiting, the deadline of the whole request and the retry on a stale pooled connection are the proxy's.
//!
//! A rule's `retry` stanza (GEP-1731) replaces the defaults: its codes are retried, connection errors and timeouts of one try always
//! are. What the backend may have acted on is only sent twice when that is harmless (RFC 9110 section 9.2.2): an idempotent method,
//! or an `Idempotency-Key`. Without a stanza only a connection that was never established is tried again, on another endpoint.

use std::time::Duration;

use transept_wire::head::Request;

use crate::balance::Turns;
use crate::exchange::{Now, below, draw};
use crate::rule::Rule;

/// What became of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response head with this status code.
    Status(u16),
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

/// Keeps the draw of the jitter apart from those that other parts take from the same random number.
const FIRST_DRAW: u64 = 256;

/// Counts a request towards the retry budget. Call it once per request whose rule has a retry stanza.
pub fn begin(rule: &Rule, turns: &mut Turns, now: Now) {
    if rule.retry.is_some() {
        turns.count_request(rule.key, now);
    }
}

/// Decides what follows a try.
pub fn judge(rule: &Rule, attempt: &Attempt, turns: &mut Turns, now: Now, random: u64) -> Judgement {
    if attempt.resend == Resend::Impossible {
        return Judgement::Deliver;
    }
    let Some(retry) = &rule.retry else {
        let elsewhere = attempt.outcome == Outcome::Unreachable && attempt.alternatives > 0 && attempt.tries <= UNASKED;
        return if elsewhere { Judgement::Retry { after: Duration::ZERO } } else { Judgement::Deliver };
    };
    let wanted = match attempt.outcome {
        Outcome::Unreachable => true,
        Outcome::Reset | Outcome::TimedOut => attempt.repeat == Repeat::Harmless,
        Outcome::Status(code) => attempt.repeat == Repeat::Harmless && retry.codes.contains(&code),
    };
    if !wanted || attempt.tries > retry.attempts || !turns.take_retry(rule.key, now) {
        return Judgement::Deliver;
    }
    Judgement::Retry { after: backoff(retry.backoff, attempt.tries, random) }
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
    use super::*;
    use crate::rule::Retry;

    const NOW: Now = Now { monotonic: Duration::ZERO, unix: Duration::ZERO };

    fn rule(retry: Option<Retry>) -> Rule {
        Rule { retry, ..Rule::for_tests("shop/cart/0") }
    }

    fn stanza(codes: &[u16], attempts: u32) -> Option<Retry> {
        Some(Retry { codes: codes.into(), attempts, backoff: Duration::from_millis(25) })
    }

    fn attempt(tries: u32, outcome: Outcome) -> Attempt {
        Attempt { tries, outcome, repeat: Repeat::Harmless, resend: Resend::Possible, alternatives: 0 }
    }

    fn retries(rule: &Rule, attempt: Attempt) -> bool {
        judge(rule, &attempt, &mut Turns::new(), NOW, 1) != Judgement::Deliver
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
}
