//! The verb *judge*: after a try, what the engine is asked and what only the data plane knows.
//!
//! Called by `attempt.rs` after a failure and by `forward.rs` when a response head has come. The decision is
//! [`transept_engine::judge`].

use std::time::Duration;

use transept_engine::judge::{self as engine, Attempt, Judgement, Outcome, Resend, Terms};
use transept_engine::pick::alternatives;
use transept_engine::reason::Reason;

use crate::attempt::{Content, Crossing, Tries};
use crate::failure::{Failure, Repeat};
use crate::path::Journey;

/// A pooled connection that the server had closed, seen only when it was used (RFC 9112 section 9.3.1).
pub(crate) fn may_be_stale(failure: &Failure, content: Content<'_>, journey: &Journey<'_, '_, '_>) -> bool {
    let resend = matches!(content, Content::Held(_)) || journey.arrival.body.can_begin_again();
    let harmless = engine::Repeat::of(&journey.trip.request) == engine::Repeat::Harmless;
    let early = matches!(failure.reason, Reason::UpstreamReset | Reason::UpstreamIncomplete);
    match failure.repeat {
        Repeat::Safe => early && resend,
        Repeat::IfIdempotent => early && resend && harmless,
        Repeat::Never => false,
    }
}

/// Only a retry stanza, or a policy of the backend, makes a status a reason for another try.
pub(crate) fn judge_status(crossing: Crossing<'_>, tries: &Tries, journey: &Journey<'_, '_, '_>) -> Option<Duration> {
    let terms = Terms::of(crossing.rule, crossing.backend);
    if !terms.asks() {
        return None;
    }
    let attempt = Attempt {
        tries: journey.trip.facts.tries,
        outcome: Outcome::Status(engine::effective_status(&journey.trip.response)),
        repeat: terms.repeat(&journey.trip.request),
        resend: Resend::Possible,
        alternatives: alternatives(crossing.backend, &tries.endpoints),
    };
    match ask(terms, &attempt, journey) {
        Judgement::Retry { after } => Some(after),
        Judgement::Deliver => None,
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
    let terms = Terms::of(crossing.rule, crossing.backend);
    let attempt = Attempt {
        tries: journey.trip.facts.tries,
        outcome,
        repeat: terms.repeat(&journey.trip.request),
        resend,
        alternatives: alternatives(crossing.backend, &tries.endpoints),
    };
    ask(terms, &attempt, journey)
}

fn ask(terms: Terms<'_>, attempt: &Attempt, journey: &Journey<'_, '_, '_>) -> Judgement {
    let now = journey.worker.clock.now().into();
    engine::judge(terms, attempt, &mut journey.worker.turns.borrow_mut(), now, journey.trip.random)
}
