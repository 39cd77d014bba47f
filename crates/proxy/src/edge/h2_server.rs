//! The verb *read* for HTTP/2: every stream of a connection is a request of its own.
//!
//! Called by `accept.rs` when the protocol is known. Framing, flow control and stream states are the `h2` crate's; its
//! guards against floods are set here.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use transept_engine::exchange::Connection;
use transept_engine::reason::Reason;
use transept_engine::settings::Settings;
use transept_wire::h1::Body;

use super::Replier;
use super::h2_head::{self, Refused};
use super::replier::H2Replier;
use crate::body::{H2Source, Source};
use crate::buffer::Inbound;
use crate::failure::Side;
use crate::io::{Adapter, Io};
use crate::path::{Arrival, travel};
use crate::worker::Worker;

/// What one stream may send before we must have taken it, and what the whole connection may.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Bytes that wait in one stream for the client to take them.
const SEND_BUFFER: usize = 256 * 1024;

/// Streams reset by the client whose work may not have stopped yet, before the connection is given up (rapid reset,
/// CVE-2023-44487), and streams that the client makes us reset (CVE-2025-8671).
const RESETS: usize = 100;

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, io: Io, inbound: Inbound, connection: Connection, bound: SocketAddr) {
    let snapshot = worker.snapshot();
    let Some(settings) = snapshot.bind(&bound).map(|bind| bind.settings.clone()) else {
        return;
    };
    drop(snapshot);
    let handshake = builder(&settings).handshake::<_, Bytes>(Adapter::new(io, inbound));
    let patience = settings.timeouts.head.unwrap_or(Duration::MAX);
    let Ok(Ok(mut h2)) = tokio::time::timeout(patience, handshake).await else {
        return;
    };
    let connection = Rc::new(connection);
    let streams = Rc::new(Streams::default());
    let mut draining = worker.draining.subscribe();
    let mut leaving = *draining.borrow_and_update();
    if leaving {
        h2.graceful_shutdown();
    }
    loop {
        let idle = settings.timeouts.idle.filter(|_| streams.open.get() == 0).unwrap_or(Duration::from_secs(86_400));
        tokio::select! {
            accepted = h2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let stream = Stream::new(streams.clone());
                    tokio::task::spawn_local(exchange(worker.clone(), connection.clone(), bound, request, respond, stream));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 connection ended");
                    return;
                }
                None => return,
            },
            _ = draining.changed(), if !leaving => {
                leaving = true;
                h2.graceful_shutdown();
            }
            () = streams.changed.notified() => {}
            () = tokio::time::sleep(idle), if streams.open.get() == 0 && !leaving => {
                leaving = true;
                h2.graceful_shutdown();
            }
        }
    }
}

fn builder(settings: &Settings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
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
    open: std::cell::Cell<usize>,
    changed: tokio::sync::Notify,
}

/// One stream, counted while it lives.
struct Stream(Rc<Streams>);

impl Stream {
    fn new(all: Rc<Streams>) -> Self {
        all.open.set(all.open.get() + 1);
        Self(all)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            // The connection is idle from now on, and its idle time begins.
            self.0.changed.notify_one();
        }
    }
}

/// One request and its response.
async fn exchange(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    bound: SocketAddr,
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    _stream: Stream,
) {
    let mut trip = worker.take_trip();
    trip.started = worker.clock.now();
    trip.random = worker.random();
    let (head, stream) = request.into_parts();
    let fields = worker.snapshot().bind(&bound).map_or(100, |bind| bind.settings.limits.header_count);
    let length = match h2_head::request_in(&head, fields, &mut trip.request) {
        Ok(length) => length,
        Err(refused) => {
            refuse(&refused, &mut respond);
            worker.give_back(trip);
            return;
        }
    };
    // Whatever the client calls it: the scheme is that of the connection.
    trip.request.set_scheme(connection.scheme().as_bytes()).ok();
    let watch = worker.watches.add();
    let framing = match length {
        _ if stream.is_end_stream() => Body::None,
        Some(length) => Body::Length(length),
        None => Body::Chunked,
    };
    let body = match framing {
        Body::None => Source::Empty,
        _ => Source::H2(H2Source::new(stream, &watch, Side::Downstream)),
    };
    let expects_continue = head.headers.get(http::header::EXPECT).is_some_and(|value| value == "100-continue");
    let mut replier = Replier::H2(H2Replier { respond, watch: &watch, method: trip.request.method, begun: false });
    let arrival = Arrival { connection: &connection, bound, watch: &watch, body, framing, expects_continue };
    {
        let travelling = travel(&worker, arrival, &mut trip, &mut replier);
        travelling.await;
    }
    worker.give_back(trip);
}

/// A malformed request is a stream error (RFC 9113 section 8.1.1), after a response that tells why where one can be sent.
fn refuse(refused: &Refused, respond: &mut h2::server::SendResponse<Bytes>) {
    let reason = match refused {
        Refused::TooManyFields => Reason::HeadersTooLarge,
        Refused::Malformed(why) => {
            tracing::debug!(%why, "a malformed HTTP/2 request");
            Reason::RequestMalformed
        }
    };
    let status = http::StatusCode::from_u16(reason.status()).unwrap_or(http::StatusCode::BAD_REQUEST);
    let mut response = http::Response::new(());
    *response.status_mut() = status;
    // The stream may be gone already.
    let _ = respond.send_response(response, true);
    respond.send_reset(h2::Reason::PROTOCOL_ERROR);
}
