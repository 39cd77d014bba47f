//! The verb *read* for HTTP/2: every stream of a connection is a request of its own.
//!
//! Called by `accept.rs` when the protocol is known. Framing, flow control and stream states are the `h2` crate's; its
//! guards against floods are set here.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use transept_engine::exchange::Connection;
use transept_engine::reason::Reason;
use transept_engine::settings::Settings;
use transept_engine::snapshot::ServerTls;
use transept_engine::verdict::Reply;
use transept_wire::h1::Body;
use transept_wire::head::Version;

use super::Replier;
use super::h2_head::{self, Refused};
use super::replier::H2Replier;
use super::stream_tasks;
use crate::accept::Guest;
use crate::answer;
use crate::body::{H2Source, Source};
use crate::buffer::Inbound;
use crate::failure::Side;
use crate::io::{Adapter, Io};
use crate::path::{Arrival, Marks, travel};
use crate::record::record;
use crate::trip::Trip;
use crate::worker::Worker;

/// What one stream may send before we must have taken it. The window of the connection has room for all streams, so that
/// one that stalls does not hold up the others.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes that wait in one stream for the client to take them.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that a client may cancel before its connection is given up, beside one in ten of those that it lets finish
/// (rapid reset, CVE-2023-44487).
const CANCELLED: u64 = 100;

/// Streams that the client makes us reset (CVE-2025-8671), and resets that wait to be looked at.
const RESETS: usize = 100;

/// For how long a client may keep a connection that has been told to end and carries nothing.
const FAREWELL: Duration = Duration::from_secs(5);

/// What all streams of a connection share.
pub(crate) struct Facts {
    pub connection: Connection,
    pub handshake: Option<Arc<ServerTls>>,
    /// The address that the worker listens on.
    pub bound: SocketAddr,
    pub _guest: Guest,
}

/// A stream that has just begun.
pub(super) struct Job {
    facts: Rc<Facts>,
    request: http::Request<h2::RecvStream>,
    respond: h2::server::SendResponse<Bytes>,
    stream: Stream,
}

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, io: Io, inbound: Inbound, facts: Facts) {
    let Facts { bound, .. } = facts;
    let snapshot = worker.snapshot();
    let Some(settings) = snapshot.bind(&bound).map(|bind| bind.settings.clone()) else {
        return;
    };
    drop(snapshot);
    let stall = worker.watches.add();
    stall.set_stall(settings.timeouts.stream_idle);
    stall.moved();
    let handshake = builder(&settings).handshake::<_, Bytes>(Adapter::new(io, inbound, Some(stall)));
    let patience = settings.timeouts.head.unwrap_or(FOREVER);
    let Ok(Ok(mut h2)) = tokio::time::timeout(patience, handshake).await else {
        return;
    };
    let facts = Rc::new(facts);
    let streams = Rc::new(Streams::default());
    let mut drain = std::pin::pin!(worker.drain.notified());
    drain.as_mut().enable();
    let mut leaving = worker.draining.get();
    if leaving {
        h2.graceful_shutdown();
    }
    loop {
        if streams.is_abusive(settings.limits.max_streams) {
            tracing::debug!(client = %facts.connection.peer, "a client cancels too many requests");
            h2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
        }
        let silence = if leaving { FAREWELL } else { settings.timeouts.idle.unwrap_or(FOREVER) };
        tokio::select! {
            accepted = h2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let stream = Stream::new(streams.clone());
                    stream_tasks::run(&worker, Job { facts: facts.clone(), request, respond, stream });
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 connection ended");
                    return;
                }
                None => return,
            },
            () = &mut drain, if !leaving => {
                leaving = true;
                h2.graceful_shutdown();
            }
            () = streams.changed.notified() => {}
            () = tokio::time::sleep(silence), if streams.open.get() == 0 => {
                if leaving {
                    return;
                }
                leaving = true;
                h2.graceful_shutdown();
            }
        }
    }
}

/// A limit that is none.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

fn builder(settings: &Settings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(
            settings.limits.max_streams.saturating_mul(STREAM_WINDOW).clamp(STREAM_WINDOW, (1 << 31) - 1),
        )
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(settings.limits.max_streams)
        .max_header_list_size(u32::try_from(settings.limits.head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(RESETS))
        .enable_connect_protocol();
    builder
}

/// The streams of one connection.
#[derive(Default)]
struct Streams {
    /// Those whose work goes on here, cancelled by the client or not.
    open: Cell<u32>,
    finished: Cell<u64>,
    cancelled: Cell<u64>,
    changed: tokio::sync::Notify,
}

impl Streams {
    /// Whether the client cancels more than a client would.
    fn is_abusive(&self, max_streams: u32) -> bool {
        self.cancelled.get() > CANCELLED + self.finished.get() / 10 || self.open.get() > max_streams.saturating_mul(2)
    }
}

/// One stream, counted while its work goes on.
struct Stream(Rc<Streams>);

impl Stream {
    fn new(all: Rc<Streams>) -> Self {
        all.open.set(all.open.get() + 1);
        Self(all)
    }

    fn ended(&self, error: Option<Reason>) {
        let count = if error == Some(Reason::DownstreamClosed) { &self.0.cancelled } else { &self.0.finished };
        count.set(count.get() + 1);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        // When the last one ends, the connection is idle and its idle time begins; a cancelled one is looked at.
        if self.0.open.get() == 0 || self.0.cancelled.get() > CANCELLED {
            self.0.changed.notify_one();
        }
    }
}

/// One request and its response.
pub(super) async fn exchange(worker: &Rc<Worker>, job: Job) {
    let Job { facts, request, mut respond, stream: counted } = job;
    let Facts { connection, handshake, bound, .. } = &*facts;
    let mut trip = worker.take_trip();
    trip.started = worker.clock.now();
    trip.random = worker.random();
    let (head, stream) = request.into_parts();
    let fields = worker.snapshot().bind(bound).map_or(100, |bind| bind.settings.limits.header_count);
    let length = match h2_head::request_in(&head, fields, &mut trip.request) {
        Ok(length) => length,
        Err(refused) => {
            refuse(worker, &refused, &mut respond, &mut trip, connection);
            counted.ended(None);
            worker.give_back(trip);
            return;
        }
    };
    // Whatever the client calls it: the scheme is that of the connection.
    trip.request.set_scheme(connection.scheme().as_bytes()).ok();
    let watch = trip.watch.take().unwrap_or_else(|| worker.watches.add());
    let framing = match length {
        _ if stream.is_end_stream() => Body::None,
        Some(length) => Body::Length(length),
        None => Body::Chunked,
    };
    let body = match framing {
        Body::None => Source::Empty,
        _ => Source::H2(H2Source::new(stream, &watch, Side::Downstream)),
    };
    let expects_continue = head
        .headers
        .get(http::header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let mut replier = Replier::H2(H2Replier { respond, watch: &watch, method: trip.request.method, begun: false });
    let arrival = Arrival {
        connection,
        handshake: handshake.as_ref(),
        bound: *bound,
        watch: &watch,
        body,
        framing,
        expects_continue,
    };
    travel(worker, arrival, &mut trip, &mut replier).await;
    counted.ended(trip.facts.error);
    drop(replier);
    trip.watch = Some(watch);
    worker.give_back(trip);
}

/// Answers a malformed request (RFC 9113 section 8.1.1) and records it.
fn refuse(
    worker: &Worker,
    refused: &Refused,
    respond: &mut h2::server::SendResponse<Bytes>,
    trip: &mut Trip,
    connection: &Connection,
) {
    let (reason, detail) = match refused {
        Refused::TooManyFields => (Reason::HeadersTooLarge, "too many fields"),
        Refused::Malformed(why) => (Reason::RequestMalformed, *why),
    };
    trip.request.clear();
    trip.request.version = Version::Http2;
    trip.client = connection.peer.ip();
    trip.facts.status = reason.status();
    trip.facts.error = Some(reason);
    trip.facts.detail = detail.into();
    let mut body = Vec::new();
    answer::write_head(&Reply::new(reason).with_detail(detail), trip, &mut body);
    // The stream may be gone already, and then there is nobody to tell.
    if let Ok(mut stream) = respond.send_response(h2_head::response_out(&trip.response), false) {
        let _ = stream.send_data(body.into(), true);
    }
    record(worker, trip, &Marks::default(), connection);
}
