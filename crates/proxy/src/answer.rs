//! Replies of our own: what the configuration answers, and what is left to say after a failure.
//!
//! Called by `path.rs` when the road ended early, and by the HTTP/1.1 edge for requests that could not be read. What a
//! reply looks like is [`transept_engine::reply`]; it passes the response side of the configuration like any other.

use std::cell::Cell;
use std::time::{Duration, UNIX_EPOCH};

use transept_engine::hops;
use transept_engine::reason::Reason;
use transept_engine::reply::{Audience, render, trailers};
use transept_engine::snapshot::Role;
use transept_engine::verdict::Reply;
use transept_wire::h1::Body;
use transept_wire::head::{FieldId, FieldName, Fields, Method};

use crate::body::{Source, carry};
use crate::failure::Failure;
use crate::path::Journey;
use crate::relay::finish_head;
use crate::trip::Trip;

static DATE: FieldName = FieldName::known(FieldId::DATE);
static REQUEST_ID: FieldName = FieldName::known(FieldId::X_REQUEST_ID);

/// Sends a reply.
pub(crate) async fn answer(reply: &Reply, journey: &mut Journey<'_, '_, '_>) {
    if reply.reason.is_fault() {
        journey.trip.facts.error = Some(reply.reason);
    }
    if let Some(cause) = &reply.cause {
        journey.trip.facts.detail = cause.to_string().into();
    }
    let mut body = Vec::new();
    write_head(reply, journey.trip, &mut body);
    journey.trip.notes.replied = Some(reply.into());
    if let Some(listener) = journey.marks.listener {
        let entrance = journey.arrival.entrance(journey.worker, journey.marks.generation);
        finish_head(listener, entrance, journey.marks, journey.trip);
        let unreached = matches!(reply.reason, Reason::UpstreamRefused | Reason::UpstreamConnectTimeout);
        if unreached && listener.settings.role == Role::Inbound && journey.trip.relayed {
            hops::tell_unreached(&mut journey.trip.response);
        }
        // Beside a program it is the word of one instance, and another one may do better. Of a try that broke off, the number of tries says
        // whether it is left to a proxy in front.
        let is_last = reply.status == 503 && reply.reason != Reason::UpstreamReset;
        if is_last && listener.settings.role == Role::Gateway && journey.trip.relayed {
            hops::tell_last_word(&mut journey.trip.response);
            if matches!(reply.reason, Reason::BackendOverflow | Reason::Overloaded) {
                hops::tell_overload(&mut journey.trip.response.fields);
            }
        }
    }
    journey.trip.facts.status = journey.trip.response.status;
    if !take_what_is_here(&mut journey.arrival.body) || is_for_a_tunnel(journey.trip) {
        // The client may still be sending: what follows on the connection could not be told from a request.
        journey.replier.forbid_keep_alive();
    }
    if let Err(failure) = send(&body, trailers(reply), journey).await {
        note(&failure, journey.trip);
        journey.replier.abort();
    }
}

/// Says what can still be said after a failure.
pub(crate) async fn fail(failure: Failure, journey: &mut Journey<'_, '_, '_>) {
    note(&failure, journey.trip);
    if journey.replier.begun() {
        let is_refused = failure.reply.is_some() || failure.reason == Reason::NotAuthorized;
        if is_refused && journey.arrival.connection.identity.is_some() {
            journey.replier.refuse();
        }
        journey.replier.abort();
        return;
    }
    journey.replier.forbid_keep_alive();
    if failure.reason == Reason::DownstreamClosed {
        journey.trip.facts.status = failure.reason.status();
        return;
    }
    let reply = failure.reply.map_or_else(|| Reply::new(failure.reason), |reply| *reply);
    answer(&reply, journey).await;
    journey.trip.facts.detail = failure.detail;
}

/// Writes the head of a reply into the trip's response and its content into `body`.
pub(crate) fn write_head(reply: &Reply, trip: &mut Trip, body: &mut Vec<u8>) {
    let audience = Audience::of(&trip.request);
    let id = Some(trip.facts.request_id.as_slice()).filter(|id| !id.is_empty());
    render(reply, audience, id, &mut trip.response, body);
    let fields = &mut trip.response.fields;
    // A date and an id that came through the grammar are valid values.
    let _ = fields.set(&DATE, http_date(trip.started.unix).as_bytes());
    if let Some(id) = id {
        let _ = fields.set(&REQUEST_ID, id);
    }
}

async fn send(body: &[u8], trailers: Option<Fields>, journey: &mut Journey<'_, '_, '_>) -> Result<(), Failure> {
    let status = journey.trip.response.status;
    if let Some(trailers) = trailers {
        let mut sink = journey.replier.begin(&journey.trip.response, Body::Chunked)?;
        sink.give_back_at_end(&mut journey.trip.notes.held);
        sink.write(body).await?;
        journey.trip.facts.bytes_out = body.len() as u64;
        return sink.finish(Some(&trailers)).await;
    }
    let framing = if matches!(status, 204 | 304) { Body::None } else { Body::Length(body.len() as u64) };
    let mut sink = journey.replier.begin(&journey.trip.response, framing)?;
    sink.give_back_at_end(&mut journey.trip.notes.held);
    carry(&mut Source::Held(body), &mut sink, Cell::from_mut(&mut journey.trip.facts.bytes_out)).await
}

/// Whether what follows the head is no body.
fn is_for_a_tunnel(trip: &Trip) -> bool {
    trip.request.method == Method::Connect || trip.request.protocol().is_some()
}

/// Drops the part of a request body that has arrived; false when more is to come.
fn take_what_is_here(body: &mut Source<'_>) -> bool {
    loop {
        body.consume(body.data().len());
        match body.advance() {
            Ok(true) => {}
            Ok(false) => return body.is_done(),
            Err(_) => return false,
        }
    }
}

fn note(failure: &Failure, trip: &mut Trip) {
    trip.facts.error = Some(failure.reason);
    trip.facts.detail = failure.detail.clone();
}

/// An HTTP-date (RFC 9110 section 5.6.7).
fn http_date(unix: Duration) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + unix)
}
