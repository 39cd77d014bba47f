//! The verb *forward*: one request over one connection, and its response back.
//!
//! Called by `attempt.rs` for every try. What is sent has been decided; whether a failure is followed by another try is
//! `judge.rs`, delivery of the response `relay.rs`.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::task::Poll;

use transept_engine::role::Role;
use transept_wire::h1::{Body, Connection};

use crate::attempt::{Crossing, Exchanged, Tries, within_try};
use crate::body::{Source, carry};
use crate::failure::{Failure, Side};
use crate::gate::{Again, Gate, Listens};
use crate::judge::judge_status;
use crate::normalize::codec_limits;
use crate::path::Journey;
use crate::recheck::{Ends, Entrance};
use crate::relay::{self, Delivery, Departure};
use crate::upstream::Upstream;

/// Sends a request whose body is here, waits for the response head, and delivers it unless it is to be tried again.
pub(crate) async fn forward_held(
    crossing: Crossing<'_>,
    tries: &Tries,
    bytes: &[u8],
    upstream: &mut Upstream,
    journey: &mut Journey<'_, '_, '_>,
) -> Result<Exchanged, Failure> {
    let watch = journey.arrival.watch;
    let limits = codec_limits(&crossing.listener.settings);
    let framing = if bytes.is_empty() { journey.arrival.framing } else { Body::Length(bytes.len() as u64) };
    let (mut sink, mut inlet) = upstream.begin(&journey.trip.request, &framing, Connection::KeepAlive, watch)?;
    let mut source = if bytes.is_empty() { Source::Empty } else { Source::Held(bytes) };
    let in_clear_to = inlet.in_clear_to(crossing.backend);
    let entrance = Entrance { in_clear_to, ..journey.arrival.entrance(journey.worker, journey.marks.generation) };
    // All of it is with the backend: that a credential ends while that works does not undo it, and the client would take it for not done.
    let waiting = Entrance { ends: Ends::WithPolicy, ..entrance };
    let (stated, rest, taken) = {
        let heading = pin!(async {
            let sent = carry(&mut source, &mut sink, &Cell::new(0)).await;
            if let Err(failure) = &sent
                && failure.side == Side::Downstream
            {
                return Err(Failure::new(failure.side, failure.reason, failure.repeat, failure.detail.clone()));
            }
            relay::expect_response(crossing, watch);
            let (trip, replier, standing) = (&mut *journey.trip, &mut *journey.replier, Some(waiting));
            let received = relay::await_final(&mut inlet, &limits, watch, trip, replier, None, standing).await;
            watch.set_stall(crossing.listener.settings.timeouts.stream_idle);
            match (sent, received) {
                (Ok(()), received) => received.map(|(stated, rest)| (stated, rest, true)),
                // A backend may answer before it has read everything, and close.
                (Err(_), Ok((stated, rest))) => Ok((stated, rest, false)),
                // A policy has ended it meanwhile.
                (Err(_), Err(failure)) if failure.side == Side::Downstream => Err(failure),
                (Err(failure), Err(_)) => Err(failure),
            }
        });
        within_try(crossing, heading).await?
    };
    crossing.heard(&journey.trip.response);
    if let Some(after) = judge_status(crossing, tries, journey.worker, journey.trip)? {
        return Ok(Exchanged::again(after));
    }
    let keep_alive = rest.keeps_alive() && taken;
    let mut source = inlet.into_source(rest, &limits, watch);
    let delivery = Delivery { listener: crossing.listener, entrance };
    let Departure { mut sink, let_in, bytes_out } =
        relay::begin(delivery, journey.marks, journey.trip, journey.replier, stated)?;
    {
        let carrying = pin!(carry(&mut source, &mut sink, bytes_out));
        entrance.while_it_stands(watch, let_in, carrying).await?;
    }
    Ok(Exchanged::delivered(keep_alive && source.is_done()))
}

/// Sends a request while its body arrives, and delivers the response as it comes, possibly before the body has ended, unless the request is to
/// be tried again and what has been sent of the body is remembered.
pub(crate) async fn forward_streaming(
    crossing: Crossing<'_>,
    tries: &Tries,
    upstream: &mut Upstream,
    journey: &mut Journey<'_, '_, '_>,
) -> Result<Exchanged, Failure> {
    let Journey { worker, arrival, trip, marks, replier } = journey;
    let watch = arrival.watch;
    let limits = codec_limits(&crossing.listener.settings);
    let (mut sink, mut inlet) = upstream.begin(&trip.request, &arrival.framing, Connection::KeepAlive, watch)?;
    let beside_program = crossing.listener.settings.role == Role::Inbound;
    let listens = if beside_program && trip.relayed && !arrival.expects_continue { Listens::Yes } else { Listens::No };
    let again = if crossing.may_repeat(&trip.request) { Again::Possible } else { Again::Never };
    let gate = Gate::new(arrival.expects_continue, listens, inlet.in_tunnel(), again);
    let most = crossing.listener.settings.limits.body_bytes;
    let mut sent = 0;
    let answered = Cell::new(false);
    let in_clear_to = inlet.in_clear_to(crossing.backend);
    let whole = Cell::new(false);
    let entrance = Entrance::new(worker, arrival.connection, arrival.bound, marks.generation);
    let entrance = Entrance { in_clear_to, ..entrance };
    let delivery = Delivery { listener: crossing.listener, entrance };
    let snapshot = worker.snapshot();
    let outcome = {
        let upload = pin!(async {
            sink.flush().await?;
            gate.wanted.wait().await;
            let credentials = &snapshot.credentials;
            let (body, trial) = (&mut arrival.body, crossing.trial);
            relay::carry_upstream(body, &mut sink, &mut sent, most, credentials, &gate, trial).await?;
            whole.set(true);
            if !answered.get() {
                relay::expect_response(crossing, watch);
            }
            Ok(())
        });
        let download = pin!(async {
            let (stated, rest) = {
                let (gate, entrance) = (Some(&gate), Some(Entrance { whole: Some(&whole), ..entrance }));
                let heading = pin!(relay::await_final(&mut inlet, &limits, watch, trip, replier, gate, entrance));
                within_try(crossing, heading).await?
            };
            crossing.heard(&trip.response);
            if gate.can_send_again()
                && let Some(after) = judge_status(crossing, tries, worker, trip)?
            {
                return Ok(Exchanged::again(after));
            }
            answered.set(true);
            gate.commit();
            watch.set_stall(crossing.listener.settings.timeouts.stream_idle);
            let keep_alive = rest.keeps_alive();
            if !gate.wanted.is_given() {
                // The client was never told to go on: what it does with its body now is anybody's guess.
                replier.forbid_keep_alive();
            }
            let mut source = inlet.into_source(rest, &limits, watch);
            let Departure { mut sink, let_in, bytes_out } = relay::begin(delivery, marks, trip, replier, stated)?;
            {
                let carrying = pin!(carry(&mut source, &mut sink, bytes_out));
                entrance.while_it_stands(watch, let_in, carrying).await?;
            }
            Ok(Exchanged::delivered(keep_alive && source.is_done()))
        });
        both(upload, download).await
    };
    trip.facts.bytes_in = sent;
    // Once told, the client sends its body, whoever gets it.
    arrival.expects_continue &= !gate.wanted.is_given();
    let (uploaded, downloaded) = outcome?;
    // Asked first: a response that failed is a failure, whatever became of the request's body.
    Ok(downloaded?.with_upload(uploaded))
}

/// Runs both directions. The response ends the exchange; a request body that breaks on the client's side ends it too,
/// while one that the backend does not want leaves the backend its say.
async fn both(
    mut upload: Pin<&mut impl Future<Output = Result<(), Failure>>>,
    mut download: Pin<&mut impl Future<Output = Result<Exchanged, Failure>>>,
) -> Result<(bool, Result<Exchanged, Failure>), Failure> {
    let mut uploaded: Option<Result<(), Failure>> = None;
    std::future::poll_fn(|cx| {
        if uploaded.is_none()
            && let Poll::Ready(outcome) = upload.as_mut().poll(cx)
        {
            match outcome {
                Err(failure) if failure.side == Side::Downstream => {
                    return Poll::Ready(Err(failure));
                }
                outcome => uploaded = Some(outcome),
            }
        }
        match download.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Ok((matches!(uploaded, Some(Ok(()))), outcome))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
