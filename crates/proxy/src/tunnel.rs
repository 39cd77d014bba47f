//! Upgrades: a request that asks for another protocol, and the bytes of that protocol afterwards.
//!
//! Called by `attempt.rs` for requests with `Upgrade` and for extended CONNECT (RFC 8441). The bytes are not looked at.
//! A tunnel opens only after the backend agreed to just what was asked (RFC 9110 section 7.8); until then both sides
//! speak HTTP. A connection that other policies forbid is cut, also in the middle.

use std::cell::Cell;
use std::pin::pin;
use std::task::Poll;

use transept_engine::reason::Reason;
use transept_wire::h1::{Body, Connection, Decoder, Protocol, strip_hop_by_hop};
use transept_wire::head::{FieldId, FieldName, Response};

use crate::attempt::{Crossing, Exchanged, within, within_try};
use crate::body::{H1Sink, H1Source, Sink, Source, carry};
use crate::buffer::Outbound;
use crate::edge::Replier;
use crate::failure::{Failure, Repeat, Side};
use crate::normalize::codec_limits;
use crate::path::{Journey, timed_out};
use crate::recheck::Entrance;
use crate::relay::{self, Delivery, Departure, await_final};
use crate::upstream::{Inlet, Upstream};

/// Asks the backend to switch; tunnels when it does, and delivers its answer when it does not.
pub(crate) async fn open(
    crossing: Crossing<'_>,
    upstream: &mut Upstream,
    journey: &mut Journey<'_, '_, '_>,
) -> Result<Exchanged, Failure> {
    let Some(asked) = journey.trip.upgrade else {
        return Err(refused("no protocol was asked for"));
    };
    if matches!(upstream, Upstream::H2(_)) {
        return Err(refused("the backend speaks HTTP/2, where a connection cannot be upgraded"));
    }
    let watch = journey.arrival.watch;
    let limits = codec_limits(&crossing.listener.settings);
    let extended = journey.trip.request.protocol().is_some();
    if extended {
        as_handshake(journey)?;
    }
    let (mut sink, mut inlet) =
        upstream.begin(&journey.trip.request, &Body::None, Connection::Upgrade(asked), watch)?;
    let (stated, rest) = {
        let heading = pin!(async {
            sink.finish(None).await?;
            relay::expect_response(crossing, watch);
            await_final(&mut inlet, &limits, watch, journey.trip, journey.replier, None, None).await
        });
        let heading = pin!(within_try(crossing, heading));
        within(crossing.rule.timeouts.request.or(None), heading).await.ok_or_else(timed_out)??
    };
    crossing.heard(&journey.trip.response);
    watch.set_stall(crossing.listener.settings.timeouts.stream_idle);
    if extended && (200..300).contains(&journey.trip.response.status) {
        // To the client that would mean that the tunnel is open.
        return Err(refused("the backend answered a handshake as though it were a request like any other"));
    }
    if journey.trip.response.status != 101 {
        // What the client sends now is no tunnel but its next request.
        journey.arrival.body = Source::Empty;
        let mut source = inlet.into_source(rest, &limits, watch);
        let Journey { worker, arrival, marks, trip, replier } = journey;
        let delivery = Delivery { listener: crossing.listener, entrance: arrival.entrance(worker, marks.generation) };
        let Departure { mut sink, let_in, bytes_out } = relay::begin(delivery, marks, trip, replier, stated)?;
        let carrying = pin!(carry(&mut source, &mut sink, bytes_out));
        delivery.entrance.while_it_stands(watch, let_in, carrying).await?;
        return Ok(Exchanged::delivered(false));
    }
    let agreed = strip_hop_by_hop(&mut journey.trip.response.fields).upgrade;
    if !agreed.is_some_and(|agreed| agreed.matches(&asked)) {
        return Err(refused("the backend switched to a protocol that was not asked for"));
    }
    if extended {
        as_acceptance(&mut journey.trip.response);
    }
    let entrance = journey.arrival.entrance(journey.worker, journey.marks.generation);
    relay::finish_head(crossing.listener, entrance, journey.marks, journey.trip);
    journey.trip.facts.status = journey.trip.response.status;
    pump(inlet, asked, journey).await?;
    Ok(Exchanged::delivered(false))
}

/// Moves bytes both ways until both directions have ended or one breaks.
async fn pump(inlet: Inlet<'_>, asked: Protocol, journey: &mut Journey<'_, '_, '_>) -> Result<(), Failure> {
    let Inlet::H1 { io, inbound } = inlet else {
        return Err(refused("a tunnel needs a connection of its own"));
    };
    let (let_in, _) = journey.trip.let_in();
    let in_clear_to = journey.marks.backend.filter(|_| !io.is_tunnel()).map(|backend| &**backend);
    let entrance = Entrance { in_clear_to, ..journey.arrival.entrance(journey.worker, journey.marks.generation) };
    let standing = entrance.stand(let_in);
    let Journey { arrival, trip, replier, .. } = journey;
    let watch = arrival.watch;
    let limits = transept_wire::h1::Limits::default();
    let switched = replier.switch(&trip.response, asked).await?;
    let mut down = match (switched, &**replier) {
        (Some(sink), _) => sink,
        (None, Replier::H1(replier)) => {
            Sink::H1(H1Sink::new(replier.io, watch, Side::Downstream, Body::UntilClose, Outbound::take()))
        }
        (None, Replier::H2(_)) => return Err(refused("the stream did not open")),
    };
    let mut up = Sink::H1(H1Sink::new(io, watch, Side::Upstream, Body::UntilClose, Outbound::take()));
    let decoder = Decoder::new(Body::UntilClose, &limits);
    let mut from_backend = Source::H1(H1Source::new(io, inbound, watch, decoder, Side::Upstream));
    let facts = &mut trip.facts;
    let is_sent = Cell::new(false);
    let upload = pin!(async {
        carry(&mut arrival.body, &mut up, Cell::from_mut(&mut facts.bytes_in)).await?;
        io.shut_down_writing();
        is_sent.set(true);
        Ok(())
    });
    let download = pin!(async {
        carry(&mut from_backend, &mut down, Cell::from_mut(&mut facts.bytes_out)).await?;
        if let Replier::H1(replier) = &**replier {
            replier.io.shut_down_writing();
        }
        Ok(())
    });
    let mut carried = pin!(join(upload, download));
    let ended = std::future::poll_fn(|cx| match standing.poll_ended(cx) {
        Poll::Ready(()) => Poll::Ready(Err(standing.failure())),
        Poll::Pending => carried.as_mut().poll(cx),
    })
    .await;
    if ended.is_err() && !is_sent.get() {
        // The backend must not take the part that it got for the whole. What is whole may still be on its way.
        io.abort_on_drop();
    }
    ended
}

/// Both futures to their ends, or the first failure.
pub(crate) async fn join(
    mut first: std::pin::Pin<&mut impl Future<Output = Result<(), Failure>>>,
    mut second: std::pin::Pin<&mut impl Future<Output = Result<(), Failure>>>,
) -> Result<(), Failure> {
    let (mut first_done, mut second_done) = (false, false);
    std::future::poll_fn(|cx| {
        if !first_done && let Poll::Ready(outcome) = first.as_mut().poll(cx) {
            outcome?;
            first_done = true;
        }
        if !second_done && let Poll::Ready(outcome) = second.as_mut().poll(cx) {
            outcome?;
            second_done = true;
        }
        if first_done && second_done { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// An extended CONNECT, which is a GET since it was normalised, gets the key of RFC 6455 section 4.1, which only has to be there.
fn as_handshake(journey: &mut Journey<'_, '_, '_>) -> Result<(), Failure> {
    let broken = |_| refused("the handshake cannot be written");
    let mut key = [0; 16];
    for half in key.chunks_mut(8) {
        half.copy_from_slice(&journey.worker.random().to_ne_bytes());
    }
    let request = &mut journey.trip.request;
    let key_name = FieldName::new("sec-websocket-key").map_err(|_| refused("no field name"))?;
    request.fields.set(&key_name, base64(&key).as_bytes()).map_err(broken)
}

/// A 101 becomes the 200 that accepts an extended CONNECT; the key's answer means nothing there.
fn as_acceptance(response: &mut Response) {
    response.status = 200;
    response.fields.retain(|name, _| !name.bytes.eq_ignore_ascii_case(b"sec-websocket-accept"));
    response.fields.remove_id(FieldId::CONTENT_LENGTH);
}

/// Base64 of 16 bytes (RFC 4648 section 4).
fn base64(bytes: &[u8; 16]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(24);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { digit as char } else { '=' });
        }
    }
    text
}

fn refused(detail: &'static str) -> Failure {
    Failure::new(Side::Upstream, Reason::UpstreamUpgrade, Repeat::Never, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_base64() {
        assert_eq!(base64(b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(base64(&[0xff; 16]), "/////////////////////w==");
    }
}
