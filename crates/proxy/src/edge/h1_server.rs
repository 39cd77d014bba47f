//! The verb *read* for HTTP/1.1 and 1.0: one request after the other on a connection, until one side has enough.
//!
//! Called by `accept.rs` when the protocol is known. While it waits for a request it holds no buffer and no heads.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use transept_engine::exchange::Connection;
use transept_engine::reason::Reason;
use transept_engine::settings::Settings;
use transept_engine::snapshot::{Bind, Role, ServerTls};
use transept_engine::verdict::Reply;
use transept_wire::h1::{self, Body, Decoder, Malformed, RequestMeta};
use transept_wire::head::{Method, Version};
use transept_wire::normalize;

use super::Replier;
use super::replier::{H1Replier, LINGER, linger};
use crate::accept::Guest;
use crate::body::{H1Source, Source};
use crate::buffer::{Inbound, Outbound};
use crate::deadline::{Expired, Watch};
use crate::detect::Called;
use crate::failure::{Side, reason_of};
use crate::io::Io;
use crate::normalize::codec_limits;
use crate::outside::{self, Client, Outside};
use crate::path::{Arrival, Marks, travel};
use crate::record::record;
use crate::trip::Trip;
use crate::worker::Worker;
use crate::{answer, demand, detect};

/// Why a connection has no further request.
enum NoRequest {
    /// The client left.
    Gone,
    /// The worker drains, and nothing has come.
    Draining,
    /// The head did not come in time, or nothing did.
    TooSlow,
    /// What came is not HTTP.
    Malformed(Malformed),
}

/// What becomes of a connection after an exchange.
enum After {
    /// It carries the next one.
    NextRequest,
    /// It ends, after the client had a chance to read everything.
    Close,
    /// It breaks, so that a part of a response is not taken for the whole.
    Cut,
    /// It is a tunnel to a Service from here on.
    Tunnel(Box<Called>),
}

/// One connection with what it keeps between requests.
pub(crate) struct H1Connection {
    pub io: Io,
    pub inbound: Inbound,
    pub connection: Connection,
    pub handshake: Option<Arc<ServerTls>>,
    /// The address that the worker listens on.
    pub bound: SocketAddr,
    pub watch: Watch,
    /// Requests so far.
    pub served: u64,
    pub _guest: Guest,
}

/// How long a connection keeps the memory of its last exchange at hand. One that waits longer gives it back.
const LULL: Duration = Duration::from_millis(500);

/// Serves a connection to its end. What an exchange needs is allocated for a burst of requests: an idle connection is
/// this small future and nothing else.
pub(crate) async fn serve(worker: Rc<Worker>, mut it: Box<H1Connection>) {
    loop {
        let Some(idle) =
            worker.snapshot().bind_for(&it.bound, it.connection.local).map(|bind| bind.settings.timeouts.idle)
        else {
            break;
        };
        // The client is to come again with its new certificate, and not to send on this what would be refused.
        let left = it.connection.tls.as_ref().and_then(|tls| tls.certificate_left(worker.clock.now().unix));
        match it.wait_for_bytes(idle.into_iter().chain(left).min()).await {
            Ok(()) => {}
            Err(NoRequest::TooSlow | NoRequest::Draining) => return it.io.close_idle(),
            Err(_) => break,
        }
        match Box::pin(serve_burst(&worker, &mut it)).await {
            Burst::Lull => {}
            Burst::Ended => return,
            Burst::Tunnel(called) => return detect::enter_tunnel(worker, *it, *called),
        }
    }
    it.io.shut_down_writing();
}

/// What follows a burst of requests.
enum Burst {
    /// Silence, for now.
    Lull,
    /// The end of the connection.
    Ended,
    /// A tunnel to a Service.
    Tunnel(Box<Called>),
}

/// Serves requests as long as one follows the other.
async fn serve_burst(worker: &Rc<Worker>, it: &mut H1Connection) -> Burst {
    loop {
        let snapshot = worker.snapshot();
        let Some(bind) = snapshot.bind_for(&it.bound, it.connection.local) else { return Burst::Ended };
        let settings = &*bind.settings;
        it.served += 1;
        let mut trip = worker.take_trip();
        let after = exchange(worker, it, bind, &mut trip).await;
        worker.give_back(trip);
        match after {
            After::NextRequest => {}
            After::Close => {
                it.watch.set(Some(LINGER));
                linger(&it.io, &mut it.inbound, &it.watch).await;
                return Burst::Ended;
            }
            After::Cut => {
                it.io.abort_on_drop();
                return Burst::Ended;
            }
            After::Tunnel(called) => return Burst::Tunnel(called),
        }
        let patience = settings.timeouts.idle.map_or(LULL, |idle| idle.min(LULL));
        match it.wait_for_bytes(Some(patience)).await {
            Ok(()) => {}
            Err(NoRequest::TooSlow) => return Burst::Lull,
            Err(NoRequest::Draining) => {
                it.io.close_idle();
                return Burst::Ended;
            }
            Err(_) => {
                it.io.shut_down_writing();
                return Burst::Ended;
            }
        }
    }
}

impl H1Connection {
    /// Waits between requests. `TooSlow` when nothing came in time.
    async fn wait_for_bytes(&mut self, patience: Option<Duration>) -> Result<(), NoRequest> {
        let Self { io, inbound, watch, .. } = self;
        if !inbound.is_empty() {
            return Ok(());
        }
        inbound.release();
        watch.set_idle(patience);
        match watch.wait(|cx| io.poll_fill(cx, inbound)).await {
            Ok(Ok(count)) if count > 0 => Ok(()),
            Err(Expired::TimedOut) => Err(NoRequest::TooSlow),
            Err(Expired::Draining) => Err(NoRequest::Draining),
            Ok(_) => Err(NoRequest::Gone),
        }
    }
}

/// One request and its response.
async fn exchange(worker: &Rc<Worker>, it: &mut H1Connection, bind: &Bind, trip: &mut Trip) -> After {
    let settings = &*bind.settings;
    let H1Connection { io, inbound, connection, handshake, bound, watch, served, .. } = it;
    let last = settings.limits.max_requests_per_connection.is_some_and(|most| *served >= most);
    trip.started = worker.clock.now();
    trip.random = worker.random();
    let limits = codec_limits(settings);
    let meta = match read_head(worker, (io, inbound, watch), settings, &limits, trip).await {
        Ok(meta) => meta,
        Err(NoRequest::Gone | NoRequest::Draining) => return After::Cut,
        Err(NoRequest::TooSlow) => {
            refuse(worker, io, connection, trip, Reply::new(Reason::HeadTimeout)).await;
            return After::Close;
        }
        Err(NoRequest::Malformed(malformed)) => {
            let reply = Reply::new(reason_of(&malformed)).with_status(malformed.status());
            refuse(worker, io, connection, trip, reply.with_detail(malformed.to_string())).await;
            return After::Close;
        }
    };
    watch.set_stall(settings.timeouts.stream_idle);
    trip.request.set_scheme(connection.scheme().as_bytes()).ok();
    if bind.is_found_by_authority() {
        let client = Client { io, inbound, watch, connection, body: meta.body };
        if let Some(to) = outside::find(bind, connection, &trip.request, meta.form) {
            return Box::pin(go_outside(worker, to, client, trip)).await;
        }
        if trip.request.method == Method::Connect {
            return Box::pin(open_tunnel(worker, *bound, client, trip)).await;
        }
    }
    let tunnels = meta.upgrade;
    let body = match meta.body {
        Body::None if tunnels => source(io, inbound, watch, Body::UntilClose, &limits),
        Body::None | Body::Length(0) => Source::Empty,
        body => source(io, inbound, watch, body, &limits),
    };
    let mut replier = Replier::H1(H1Replier {
        io,
        watch,
        version: trip.request.version,
        method: trip.request.method,
        keep_alive: meta.keep_alive && !last,
        draining: if settings.role == Role::Inbound { &worker.way_in_drains } else { &worker.draining },
        begun: false,
        cut: false,
    });
    let arrival = Arrival {
        connection,
        handshake: handshake.as_ref(),
        bound: *bound,
        watch,
        body,
        framing: meta.body,
        expects_continue: meta.expect_continue,
    };
    travel(worker, arrival, trip, &mut replier).await;
    match replier {
        Replier::H1(replier) if replier.cut || !replier.begun => After::Cut,
        Replier::H1(replier) if replier.keep_alive => After::NextRequest,
        _ => After::Close,
    }
}

/// A request for somebody outside the mesh. Its connection ends with it.
async fn go_outside(worker: &Rc<Worker>, to: Outside, client: Client<'_>, trip: &mut Trip) -> After {
    let (io, connection) = (client.io, client.connection);
    if let Err(reply) = outside::pass(worker, to, client, trip).await {
        refuse(worker, io, connection, trip, *reply).await;
    }
    After::Close
}

/// A CONNECT to a Service: what follows on the connection is for the Service, whatever it is.
async fn open_tunnel(worker: &Rc<Worker>, bound: SocketAddr, client: Client<'_>, trip: &mut Trip) -> After {
    let found = match demand::await_authority(worker, bound, &trip.request).await {
        Ok(()) => {
            let snapshot = worker.snapshot();
            let mut lower = Vec::new();
            let authority = normalize::authority(trip.request.authority()).ok();
            let called = authority.zip(snapshot.bind(&bound)).and_then(|(authority, bind)| {
                let (host, port) = (normalize::host_lower(authority.host, &mut lower), authority.port);
                let listener = bind.listener_for_authority(host, port)?.clone();
                Some(Box::new(Called { listener, host: host.into(), port }))
            });
            called.ok_or(Reason::ListenerNotFound)
        }
        Err(reason) => Err(reason),
    };
    let called = match found {
        Ok(called) => called,
        Err(reason) => {
            refuse(worker, client.io, client.connection, trip, Reply::new(reason)).await;
            return After::Close;
        }
    };
    let mut out = Outbound::take();
    out.tail().extend_from_slice(outside::CONNECTED);
    match client.io.send(&mut out, &[]).await {
        Ok(()) => After::Tunnel(called),
        Err(_) => After::Cut,
    }
}

fn source<'c>(io: &'c Io, inbound: &'c mut Inbound, watch: &'c Watch, body: Body, limits: &h1::Limits) -> Source<'c> {
    Source::H1(H1Source::new(io, inbound, watch, Decoder::new(body, limits), Side::Downstream))
}

/// Reads until the head is complete.
async fn read_head(
    worker: &Worker,
    (io, inbound, watch): (&Io, &mut Inbound, &Watch),
    settings: &Settings,
    limits: &h1::Limits,
    trip: &mut Trip,
) -> Result<RequestMeta, NoRequest> {
    let mut scan = h1::Scan::new();
    let mut waiting = false;
    loop {
        if scan.is_worth_parsing(inbound.data(), limits) {
            match h1::parse_request(inbound.data(), limits, &mut trip.request) {
                Ok(Some(meta)) => {
                    inbound.consume(meta.head_len);
                    if waiting {
                        trip.heading = worker.clock.now().monotonic.saturating_sub(trip.started.monotonic);
                    }
                    return Ok(meta);
                }
                Ok(None) => {}
                Err(malformed) => return Err(NoRequest::Malformed(malformed)),
            }
        }
        if !waiting {
            // Counted from the first byte of the head, so that one byte now and then does not hold a connection.
            watch.set(settings.timeouts.head);
            waiting = true;
        }
        match watch.wait(|cx| io.poll_fill(cx, inbound)).await {
            Ok(Ok(count)) if count > 0 => {}
            Ok(_) => return Err(NoRequest::Gone),
            Err(_) => return Err(NoRequest::TooSlow),
        }
    }
}

/// Tells a client that there is no room for its connection, and records it. Nothing is waited for: a reply that does not
/// fit into the socket at once is left out.
pub(crate) fn turn_away(worker: &Worker, tcp: &TcpStream, peer: SocketAddr, local: SocketAddr) {
    let connection = Connection::new(peer, local, None);
    let mut trip = worker.take_trip();
    trip.started = worker.clock.now();
    let mut out = Outbound::take();
    write_refusal(&connection, &mut trip, &Reply::new(Reason::ConnectionLimit), &mut out);
    // Not through the runtime, which does not know yet that a new socket takes bytes.
    let _ = socket2::SockRef::from(tcp).send(out.pending());
    record(worker, &trip, &Marks::default(), &connection);
    worker.give_back(trip);
}

/// Answers what could not be read, and records it.
async fn refuse(worker: &Worker, io: &Io, connection: &Connection, trip: &mut Trip, reply: Reply) {
    let mut out = Outbound::take();
    write_refusal(connection, trip, &reply, &mut out);
    // A client that does not even read the refusal has chosen not to know.
    let _ = io.send(&mut out, &[]).await;
    record(worker, trip, &Marks::default(), connection);
}

fn write_refusal(connection: &Connection, trip: &mut Trip, reply: &Reply, out: &mut Outbound) {
    // What was parsed of the request is not to be relied on: the reply is for a program that asked for nothing.
    trip.request.clear();
    trip.client = connection.peer.ip();
    let mut body = Vec::new();
    answer::write_head(reply, trip, &mut body);
    trip.facts.status = reply.status;
    trip.facts.error = Some(reply.reason);
    trip.facts.detail = reply.detail.clone();
    trip.facts.bytes_out = body.len() as u64;
    let framing = Body::Length(body.len() as u64);
    h1::write_response(out.tail(), &trip.response, &framing, h1::Connection::Close, Version::Http11);
    out.tail().extend_from_slice(&body);
}
