//! The verb *relay*: a response from its head to the end of its body.
//!
//! Called by `attempt.rs` with the backend's response. Filters and policies of the response side are the engine's;
//! framing towards the client is the replier's.

use std::cell::Cell;
use std::pin::Pin;
use std::task::Poll;
use std::time::UNIX_EPOCH;

use transept_engine::hops;
use transept_engine::reason::Reason;
use transept_engine::redact::CredentialPlaces;
use transept_engine::relay as engine;
use transept_engine::rule::Bound;
use transept_engine::snapshot::Listener;
use transept_wire::h1::{self, Body, strip_hop_by_hop};
use transept_wire::head::{FieldId, FieldName, Method, Response};

use crate::attempt::Crossing;
use crate::body::{Sink, Source, drop_claims, fill_unless_gone};
use crate::deadline::Watch;
use crate::edge::Replier;
use crate::failure::{Failure, Repeat, Side};
use crate::gate::{Gate, UNASKED};
use crate::path::Marks;
use crate::recheck::Entrance;
use crate::trial::Trial;
use crate::trip::{LetIn, Trip};
use crate::upstream::{Inlet, Received, Rest};

static DATE: FieldName = FieldName::known(FieldId::DATE);

/// Interim responses that one exchange may have. An endless row of them would hold the client for ever.
const MOST_INTERIM: usize = 16;

/// Sets how long the response head may take once the request has been sent: what the rule says is timed exactly by the
/// caller; the listener's `response` timeout holds when the rule says nothing.
pub(crate) fn expect_response(crossing: Crossing<'_>, watch: &Watch) {
    match (crossing.rule.timeouts.backend_request, crossing.try_timeout()) {
        (Bound::Unset, None) => watch.set(crossing.listener.settings.timeouts.response),
        _ => watch.clear(),
    }
}

/// Waits for the final response head and passes interim ones on. Gives the framing that its fields state and what
/// follows it. With an entrance, for as long as the request would be let in.
pub(crate) async fn await_final(
    inlet: &mut Inlet<'_>,
    limits: &h1::Limits,
    watch: &Watch,
    trip: &mut Trip,
    replier: &mut Replier<'_>,
    gate: Option<&Gate>,
    entrance: Option<Entrance<'_>>,
) -> Result<(Body, Rest), Failure> {
    let method = trip.request.method;
    for _ in 0..MOST_INTERIM {
        let received = {
            let (let_in, response) = trip.awaiting();
            let heading = std::pin::pin!(await_head(inlet, &method, limits, watch, response, replier, gate));
            match &entrance {
                Some(entrance) => entrance.while_it_stands(watch, let_in, heading).await?,
                None => heading.await?,
            }
        };
        match received {
            Received::Interim => {
                if let Some(gate) = gate.filter(|_| trip.response.status == 100) {
                    gate.hear();
                }
                pass_on(trip, replier, gate).await?;
            }
            Received::Final { stated, rest } => {
                if inlet.is_in_tunnel() && hops::is_unreached(&trip.response) {
                    return Err(unreached());
                }
                return Ok((stated, rest));
            }
        }
    }
    Err(Failure::new(Side::Upstream, Reason::UpstreamMalformed, Repeat::Never, "too many interim responses"))
}

fn unreached() -> Failure {
    let detail = "the proxy of the endpoint cannot connect to its program";
    Failure::new(Side::Upstream, Reason::UpstreamRefused, Repeat::Safe, detail)
}

/// Waits for one head. A backend that does not ask for a body that the client holds back gets it after a while all the
/// same.
async fn await_head(
    inlet: &mut Inlet<'_>,
    method: &Method,
    limits: &h1::Limits,
    watch: &Watch,
    response: &mut Response,
    replier: &mut Replier<'_>,
    gate: Option<&Gate>,
) -> Result<Received, Failure> {
    let mut receiving = std::pin::pin!(inlet.receive(method, limits, watch, response));
    if let Some(gate) = gate.filter(|gate| !gate.wanted.is_given()) {
        if let Ok(received) = tokio::time::timeout(UNASKED, receiving.as_mut()).await {
            return received;
        }
        replier.interim(&Response::new(100)).await?;
        gate.wanted.give();
    }
    if let Some(gate) = gate.filter(|gate| !gate.is_told()) {
        let first = std::future::poll_fn(|cx| match (receiving.as_mut().poll(cx), gate.passed.poll(cx)) {
            (Poll::Ready(received), _) => Poll::Ready(received.map(Some)),
            (Poll::Pending, Poll::Ready(())) => Poll::Ready(Ok(None)),
            (Poll::Pending, Poll::Pending) => replier.poll_gone(cx).map(Err),
        });
        if let Some(received) = first.await? {
            return Ok(received);
        }
        // The proxy in front has the rest of the body, and waits to hear that there is somebody to take it.
        gate.note_told();
        replier.interim(&Response::new(100)).await?;
    }
    unless_gone(receiving, replier).await
}

/// Waits for something of the backend's, and gives up when the client has gone meanwhile.
pub(crate) async fn unless_gone<T>(
    mut waiting: Pin<&mut impl Future<Output = Result<T, Failure>>>,
    replier: &mut Replier<'_>,
) -> Result<T, Failure> {
    // What is there is taken first: asking for the client is only worth its price while there is something to wait for.
    std::future::poll_fn(|cx| match waiting.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(outcome),
        Poll::Pending => replier.poll_gone(cx).map(Err),
    })
    .await
}

async fn pass_on(trip: &mut Trip, replier: &mut Replier<'_>, gate: Option<&Gate>) -> Result<(), Failure> {
    if trip.response.status == 100 {
        // Only a client that waits for it is told; for everybody else we have gone on already.
        let Some(gate) = gate.filter(|gate| !gate.wanted.is_given()) else {
            return Ok(());
        };
        gate.wanted.give();
    }
    strip_hop_by_hop(&mut trip.response.fields);
    replier.interim(&trip.response).await
}

/// Who delivers a response.
#[derive(Clone, Copy)]
pub(crate) struct Delivery<'d> {
    pub listener: &'d Listener,
    /// Where the request came in.
    pub entrance: Entrance<'d>,
}

/// A response whose head is on its way.
pub(crate) struct Departure<'t, 'r> {
    /// Where its body goes.
    pub sink: Sink<'r>,
    /// The request that it answers.
    pub let_in: LetIn<'t>,
    /// How much of the body has been delivered.
    pub bytes_out: &'t Cell<u64>,
}

/// Begins to deliver the response whose head is in `trip`. Its body is carried by the caller, for as long as the request would be let in: a
/// future of its own around that would be moved about with each response.
pub(crate) fn begin<'t, 'r>(
    delivery: Delivery<'_>,
    marks: &Marks<'_>,
    trip: &'t mut Trip,
    replier: &mut Replier<'r>,
    stated: Body,
) -> Result<Departure<'t, 'r>, Failure> {
    if trip.response.status == 101 {
        let detail = "the backend switched protocols without being asked";
        return Err(Failure::new(Side::Upstream, Reason::UpstreamMalformed, Repeat::Never, detail));
    }
    finish_head(delivery.listener, delivery.entrance, marks, trip);
    trip.facts.status = trip.response.status;
    let mut sink = replier.begin(&trip.response, stated)?;
    sink.give_back_at_end(&mut trip.notes.held);
    if let Some(meter) = trip.notes.meter() {
        sink.show_to(meter);
    }
    let (let_in, facts) = trip.let_in();
    Ok(Departure { sink, let_in, bytes_out: Cell::from_mut(&mut facts.bytes_out) })
}

/// The response side of the configuration, after the fields of the upstream hop are gone.
pub(crate) fn finish_head(listener: &Listener, entrance: Entrance<'_>, marks: &Marks<'_>, trip: &mut Trip) {
    strip_hop_by_hop(&mut trip.response.fields);
    hops::drop_unreached(&mut trip.response);
    hops::pass_on_attempt(&mut trip.response, trip.facts.attempt, trip.relayed);
    let clock = &entrance.worker.clock;
    let (mut exchange, response) = trip.exchange(entrance.connection, listener.port);
    let rule = marks.rule.map(|rule| &**rule);
    if engine::asks_time(listener, rule) {
        // What limits and sessions make of a response, they make of it now, however long the backend has taken.
        exchange.now = clock.now().into();
    }
    engine::relay(listener, rule, marks.backend_ref, &mut exchange, response);
    // A response that has no date gets one (RFC 9110 section 6.6.1).
    if response.status >= 200 && !response.fields.contains(FieldId::DATE) {
        let now = httpdate::fmt_http_date(UNIX_EPOCH + clock.now().unix);
        // A date is a valid value.
        let _ = response.fields.set(&DATE, now.as_bytes());
    }
}

/// As [`carry`](crate::body::carry), for the body of a request: refuses one of more than `most` bytes, leaves credentials in trailers out, and holds back what
/// could not be sent once more while it may have to be.
pub(crate) async fn carry_upstream(
    source: &mut Source<'_>,
    sink: &mut Sink<'_>,
    moved: &mut u64,
    most: Option<u64>,
    credentials: &CredentialPlaces,
    gate: &Gate,
    trial: Option<&Trial<'_>>,
) -> Result<(), Failure> {
    loop {
        let room = gate.room(source);
        let data = source.data();
        if !data.is_empty() && room == Some(0) {
            gate.settle(source, sink).await?;
        } else if !data.is_empty() {
            let data = room.and_then(|room| data.get(..room)).unwrap_or(data);
            let length = data.len();
            *moved += length as u64;
            gate.note(*moved);
            if most.is_some_and(|most| *moved > most) {
                let detail = "the body is larger than the listener's limit";
                return Err(Failure::new(Side::Downstream, Reason::BodyTooLarge, Repeat::Never, detail));
            }
            sink.write(data).await?;
            source.consume(length);
        } else if !source.advance()? {
            if source.is_done() {
                let trailers = source.trailers();
                let kept = trailers.and_then(|trailers| drop_claims(trailers, sink, Some(credentials)));
                return sink.finish(kept.as_deref().or(trailers)).await;
            }
            sink.flush().await?;
            trial.inspect(|trial| trial.await_client(*moved));
            fill_unless_gone(source, sink).await?;
            trial.inspect(|trial| trial.await_endpoint());
        }
    }
}
