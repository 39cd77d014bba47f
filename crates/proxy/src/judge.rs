//! The verb *judge*: after a try, what the engine is asked and what only the data plane knows.
//!
//! Called by `attempt.rs` after a failure and by `forward.rs` when a response head has come. The decision is
//! [`transept_engine::judge`].

use std::time::Duration;

use transept_engine::exchange::Now;
use transept_engine::hops::was_retried;
use transept_engine::judge::{self as engine, Attempt, Judgement, Outcome, Resend, Terms};
use transept_engine::pick::alternatives;
use transept_engine::reason::Reason;

use crate::attempt::{Content, Crossing, Tries};
use crate::failure::{Failure, Repeat};
use crate::path::{Journey, no_time_to_retry};
use crate::trip::Trip;
use crate::upstream::{Age, Used};
use crate::worker::Worker;

/// A pooled connection that the server had closed, seen only when it was used (RFC 9112 section 9.3.1).
pub(crate) fn may_be_stale(
    used: Used,
    failure: &Failure,
    content: Content<'_>,
    terms: Terms<'_>,
    journey: &Journey<'_, '_, '_>,
) -> bool {
    let resend = matches!(content, Content::Held(_)) || journey.arrival.body.can_begin_again();
    let may_be_seen = failure.repeat == Repeat::Safe || terms.allows_another(journey.trip.facts.tries);
    resend && may_be_seen && is_stale(used, failure, engine::Repeat::of(&journey.trip.request))
}

/// Whether a failure may only mean that the server had closed a pooled connection, or wanted no more on it, and the request may be sent
/// again. A stream that was reset on a connection that goes on was meant, and so was one that was reset because of an error. What a server says that it
/// has not looked at is sent again in any case.
pub(crate) fn is_stale(used: Used, failure: &Failure, repeat: engine::Repeat) -> bool {
    let early = matches!(failure.reason, Reason::UpstreamReset | Reason::UpstreamIncomplete);
    let may_repeat = match failure.repeat {
        Repeat::Safe => true,
        Repeat::IfIdempotent => used.is_over && repeat == engine::Repeat::Harmless,
        Repeat::Never => false,
    };
    let was_refused = failure.repeat == Repeat::Safe && used.age == Age::Fresh;
    early && (was_refused || used.age == Age::Reused && !failure.is_meant) && may_repeat
}

/// Only a retry stanza, or a policy of the backend, makes a status a reason for another try.
pub(crate) fn judge_status(
    crossing: Crossing<'_>,
    tries: &Tries,
    worker: &Worker,
    trip: &Trip,
) -> Result<Option<Duration>, Failure> {
    // What a proxy behind has tried again for is its last word.
    if !crossing.terms.asks() || was_retried(&trip.response) {
        return Ok(None);
    }
    let outcome = Outcome::Status(engine::effective_status(&trip.response));
    match ask(crossing, tries, outcome, Resend::Possible, worker, trip) {
        Judgement::Retry { after } => Ok(Some(after)),
        Judgement::Late => Err(no_time_to_retry(crossing.rule, trip)),
        Judgement::Deliver | Judgement::Wait { .. } => Ok(None),
    }
}

/// What follows a failed try. `resend` tells whether the request can be sent again at all.
pub(crate) fn judge_failure(
    crossing: Crossing<'_>,
    tries: &Tries,
    resend: Resend,
    failure: &Failure,
    journey: &Journey<'_, '_, '_>,
) -> Judgement {
    let outcome = match (failure.repeat, failure.reason) {
        (Repeat::Never, _) => return Judgement::Deliver,
        (Repeat::Safe, _) => Outcome::Unreachable,
        (Repeat::IfIdempotent, Reason::UpstreamTimeout) => Outcome::TimedOut,
        (Repeat::IfIdempotent, _) => Outcome::Reset,
    };
    ask(crossing, tries, outcome, resend, journey.worker, journey.trip)
}

fn ask(
    crossing: Crossing<'_>,
    tries: &Tries,
    outcome: Outcome,
    resend: Resend,
    worker: &Worker,
    trip: &Trip,
) -> Judgement {
    let Crossing { backend, terms, .. } = crossing;
    let mut turns = worker.turns.borrow_mut();
    let now: Now = worker.clock.now().into();
    // A rule's stanza says how often a backend may see a request (GEP-1731). What nobody has seen is no reason to count what was replaced.
    let counts_all = matches!(terms, Terms::Stanza(..)) && outcome != Outcome::Unreachable;
    let uncounted = if counts_all { 0 } else { tries.replacing.count };
    let attempt = Attempt {
        tries: trip.facts.tries.saturating_sub(uncounted),
        outcome,
        repeat: terms.repeat(&trip.request),
        resend,
        alternatives: alternatives(backend, &tries.endpoints, tries.is_answered(outcome)),
        hope: outcome == Outcome::Unreachable && turns.has_hope(backend, &tries.endpoints, now),
        waits: tries.waits,
        left: crossing.due.map(|due| due.saturating_sub(now.monotonic)),
        wished: matches!(outcome, Outcome::Status(_)).then(|| engine::wish(&trip.response, now)).flatten(),
        usual: crossing.due.and_then(|_| turns.usual_time(backend, now)),
    };
    engine::judge(terms, &attempt, &mut turns, now, trip.random)
}
