//! The verb *judge*: after a try, what the engine is asked and what only the data plane knows.
//!
//! Called by `attempt.rs` after a failure and by `forward.rs` when a response head has come. The decision is
//! [`transept_engine::judge`].

use std::time::Duration;

use transept_engine::exchange::Now;
use transept_engine::hops::was_retried;
use transept_engine::judge::{self as engine, Attempt, Judgement, Outcome, Resend};
use transept_engine::pick::alternatives;
use transept_engine::reason::Reason;

use crate::attempt::{Content, Crossing, Tries};
use crate::failure::{Failure, Repeat};
use crate::path::{Journey, out_of_time};

/// A pooled connection that the server had closed, seen only when it was used (RFC 9112 section 9.3.1).
pub(crate) fn may_be_stale(failure: &Failure, content: Content<'_>, journey: &Journey<'_, '_, '_>) -> bool {
    let resend = matches!(content, Content::Held(_)) || journey.arrival.body.can_begin_again();
    resend && is_stale(failure, engine::Repeat::of(&journey.trip.request))
}

/// Whether a failure on a pooled connection may only mean that the server had closed it, and the request may be sent again.
pub(crate) fn is_stale(failure: &Failure, repeat: engine::Repeat) -> bool {
    let early = matches!(failure.reason, Reason::UpstreamReset | Reason::UpstreamIncomplete);
    match failure.repeat {
        Repeat::Safe => early,
        Repeat::IfIdempotent => early && repeat == engine::Repeat::Harmless,
        Repeat::Never => false,
    }
}

/// Only a retry stanza, or a policy of the backend, makes a status a reason for another try.
pub(crate) fn judge_status(
    crossing: Crossing<'_>,
    tries: &Tries,
    journey: &Journey<'_, '_, '_>,
) -> Result<Option<Duration>, Failure> {
    // What a proxy behind has tried again for is its last word.
    if !crossing.terms.asks() || was_retried(&journey.trip.response) {
        return Ok(None);
    }
    let outcome = Outcome::Status(engine::effective_status(&journey.trip.response));
    match ask(crossing, tries, outcome, Resend::Possible, journey) {
        Judgement::Retry { after } => Ok(Some(after)),
        Judgement::Late => Err(out_of_time(crossing.rule, journey.trip)),
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
    ask(crossing, tries, outcome, resend, journey)
}

fn ask(
    crossing: Crossing<'_>,
    tries: &Tries,
    outcome: Outcome,
    resend: Resend,
    journey: &Journey<'_, '_, '_>,
) -> Judgement {
    let Crossing { backend, terms, .. } = crossing;
    let (trip, mut turns) = (&*journey.trip, journey.worker.turns.borrow_mut());
    let now: Now = journey.worker.clock.now().into();
    let attempt = Attempt {
        tries: trip.facts.tries,
        outcome,
        repeat: terms.repeat(&trip.request),
        resend,
        alternatives: alternatives(backend, &tries.endpoints),
        hope: outcome == Outcome::Unreachable && turns.has_hope(backend, &tries.endpoints, now),
        waits: tries.waits,
        left: crossing.due.map(|due| due.saturating_sub(now.monotonic)),
        usual: crossing.due.and_then(|_| turns.usual_time(backend, now)),
    };
    engine::judge(terms, &attempt, &mut turns, now, trip.random)
}
