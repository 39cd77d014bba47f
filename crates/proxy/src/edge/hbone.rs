//! The way into a workload: tunnels of the mesh (HBONE).
//!
//! Called by `accept.rs` for binds of the mesh when the handshake has proven who the peer is. A tunnel is a request whose body is
//! a connection: it is let in or not, it is connected, and what comes out of it goes the road again from *detect* on, in `entry.rs`.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::Poll;

use transept_engine::admit::admit_connection;
use transept_engine::exchange::Connection;
use transept_engine::reason::Reason;
use transept_engine::snapshot::Listener;
use transept_wire::h2::head::{Connect, HeadLimits, Underscore};
use transept_wire::h2::{self, Config};
use transept_wire::head::{FieldId, Method, Request, Response};

use super::entry::{self, Entry, Visitor};
use crate::accept::Guest;
use crate::buffer::Inbound;
use crate::h2::{Arrival, Driver, Link, Patience, Stream, TUNNEL_GROWTH, TUNNEL_WINDOW};
use crate::io::{Io, Tunnel};
use crate::path::{Marks, Stop};
use crate::recheck::{Ending, Standing};
use crate::record::record;
use crate::splice::{self, Passenger, Purpose};
use crate::worker::Worker;

/// What the other end may send in all tunnels together before it has heard that it came.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// The largest frame of them.
const DATA_FRAME: u32 = 1024 * 1024;

/// Tunnels that one peer may have open on a connection.
const MOST_TUNNELS: u32 = 200;

/// What a CONNECT may take.
const HEADS: HeadLimits =
    HeadLimits { bytes: 16 * 1024, fields: 64, connect: Connect::Taken, underscore: Underscore::Drop };

/// What all tunnels of a connection share.
struct Peer {
    connection: Connection,
    /// The address that the worker listens on.
    bound: SocketAddr,
    _guest: Guest,
}

/// Serves a connection of a proxy of the mesh to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    io: Io,
    connection: Connection,
    bound: SocketAddr,
    standing: Rc<Standing>,
    guest: Guest,
) {
    let snapshot = worker.snapshot();
    let Some(timeouts) = snapshot.bind(&bound).map(|bind| bind.settings.timeouts.clone()) else { return };
    drop(snapshot);
    let config = Config {
        stream_window: TUNNEL_WINDOW,
        growth: TUNNEL_GROWTH,
        connection_window: CONNECTION_WINDOW,
        data_frame: DATA_FRAME,
        max_streams: MOST_TUNNELS,
        heads: HEADS,
    };
    let link = Link::new(h2::Connection::server(config));
    let patience = Patience { head: timeouts.head, stall: timeouts.stream_idle, idle: timeouts.idle };
    let watch = worker.watches.add();
    watch.belong_to_the_way_in();
    let _visitor = Visitor::new(worker.clone());
    let mut driver = Driver::new(link.clone(), io, Inbound::default(), watch, patience);
    driver.ask_client();
    let peer = Rc::new(Peer { connection, bound, _guest: guest });
    let (mut leaving, mut ending) = (false, Ending::default());
    let over = std::future::poll_fn(|cx| {
        if worker.way_in_drains.get() && !leaving {
            leaving = true;
            driver.shut_down();
        }
        if let Poll::Ready(over) = ending.poll(&standing, &mut driver, cx) {
            return Poll::Ready(over);
        }
        driver.poll_turn(cx, &mut |arrival| match arrival {
            Arrival::Request { stream, .. } => {
                let mut request = Request::new();
                link.swap_request(&mut request);
                tokio::task::spawn_local(pass(worker.clone(), peer.clone(), stream, request));
            }
            Arrival::Refused { stream, why } => {
                let detail = format!("a tunnel was asked for in a way that is not understood: {why}");
                refuse(
                    &worker,
                    &peer,
                    &stream,
                    None,
                    Refusal { status: 400, reason: Reason::RequestMalformed, detail },
                );
            }
        })
    })
    .await;
    tracing::debug!(peer = %peer.connection.peer, why = %over.0, "a connection of the mesh ended");
    driver.close(over).await;
}

/// Why there is no tunnel, before anybody was asked whether the peer may have one.
struct Refusal {
    /// What the peer is answered.
    status: u16,
    /// What the access log calls it.
    reason: Reason,
    /// What is wrong.
    detail: String,
}

/// Answers a request for a tunnel that leads nowhere, and records it.
fn refuse(worker: &Worker, peer: &Peer, stream: &Stream, request: Option<&Request>, refusal: Refusal) {
    // The peer may be gone already, and then there is nobody to tell.
    let _ = stream.send_head(&Response::new(refusal.status), true);
    let mut trip = worker.take_trip();
    splice::board(worker, &peer.connection, &mut trip);
    if let Some(request) = request {
        trip.request.method = request.method;
        trip.host = String::from_utf8_lossy(request.authority()).into_owned();
    }
    trip.facts.status = refusal.status;
    trip.facts.error = Some(refusal.reason);
    trip.facts.detail = refusal.detail.into();
    let generation = worker.snapshot().generation;
    record(worker, &trip, &Marks { generation, ..Marks::default() }, &peer.connection);
    worker.give_back(trip);
}

/// One tunnel, from its CONNECT to its last byte.
async fn pass(worker: Rc<Worker>, peer: Rc<Peer>, stream: Stream, request: Request) {
    let announced_at = |address| worker.snapshot().bind(&peer.bound).is_some_and(|bind| bind.is_announced_at(address));
    let target = match target_of(&request, peer.connection.local.ip(), announced_at) {
        Ok(target) => target,
        Err(refusal) => return refuse(&worker, &peer, &stream, Some(&request), refusal),
    };
    let Some((listener, rule, generation)) = entry::find_listener(&worker, peer.bound, target.port()) else {
        let detail = format!("port {} is none of the program's, nor of its Services", target.port());
        let refusal = Refusal { status: 503, reason: Reason::ListenerNotFound, detail };
        return refuse(&worker, &peer, &stream, Some(&request), refusal);
    };
    let connection = inner(&peer.connection, &request, target, &listener);
    let passenger = Passenger { connection: &connection, listener: &listener, rule: &rule, generation };
    let mut trip = worker.take_trip();
    splice::board(&worker, &connection, &mut trip);
    let landed = match admit_connection(&listener, &connection) {
        Ok(()) => splice::land(&worker, &passenger, Purpose::Use, &mut trip).await,
        Err(reply) => Err(Stop::Answer(reply)),
    };
    let landing = match landed {
        Ok(landing) => landing,
        Err(stop) => {
            splice::note(&stop, &mut trip);
            let _ = stream.send_head(&Response::new(status_of(&stop)), true);
            splice::finish(&worker, &passenger, &trip, None, None);
            worker.give_back(trip);
            return;
        }
    };
    worker.give_back(trip);
    if stream.send_head(&Response::new(200), false).is_err() {
        return;
    }
    let io = Io::Tunnel(Box::new(Tunnel::accepted(stream)));
    let guest = Guest::inside(&worker);
    entry::carry(worker, Entry { io, connection, bound: peer.bound, port: target.port(), guest }, landing).await;
}

/// Where a tunnel leads: an address that is ours, because the connection came there or because others know us by it, and a port.
///
/// # Errors
/// The request is not such a CONNECT.
fn target_of(request: &Request, local: IpAddr, announced_at: impl Fn(IpAddr) -> bool) -> Result<SocketAddr, Refusal> {
    let refusal = |reason, detail| Refusal { status: 400, reason, detail };
    if request.method != Method::Connect || request.protocol().is_some() {
        return Err(refusal(Reason::RequestMalformed, "only CONNECT asks for a tunnel".to_owned()));
    }
    let authority = String::from_utf8_lossy(request.authority());
    let Ok(target) = authority.parse::<SocketAddr>() else {
        return Err(refusal(Reason::AuthorityInvalid, "a tunnel leads to an IP address and a port".to_owned()));
    };
    let (wanted, local) = (target.ip().to_canonical(), local.to_canonical());
    if wanted != local && !announced_at(wanted) {
        let detail = format!(
            "{wanted} is no address of this workload, whom the connection reached at {local}; if others know it by that address, say so \
             with --address"
        );
        return Err(refusal(Reason::AuthorityInvalid, detail));
    }
    Ok(target)
}

/// The connection inside a tunnel, as policies see it: with the identity of the peer, and from its address, or from that of the client
/// that it names when it is one who is believed.
fn inner(outer: &Connection, request: &Request, target: SocketAddr, listener: &Listener) -> Connection {
    let believed = listener.settings.believes_forwarder(outer.identity.as_deref());
    let named = request.fields.first(FieldId::FORWARDED).filter(|_| believed).and_then(client_of);
    // A program on the peer's own machine has no address that means anything here: that of the machine counts.
    let client = named.filter(|client| !client.to_canonical().is_loopback());
    let peer = client.map_or(outer.peer, |client| SocketAddr::new(client, 0));
    let mut connection = Connection::new(peer, outer.local, None).with_destination(target);
    connection.identity = outer.identity.clone();
    connection.client_certificate = outer.client_certificate.clone();
    connection.is_shared = believed && named.is_none();
    connection
}

/// The address in `for=` (RFC 7239 section 4).
fn client_of(forwarded: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(forwarded).ok()?;
    let value = text.split([';', ',']).map(str::trim).find_map(|pair| pair.strip_prefix("for="))?;
    value.trim_matches('"').trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn status_of(stop: &Stop) -> u16 {
    match stop {
        // A policy that cannot be used refuses like one that says so.
        Stop::Answer(reply) if reply.status == 403 || reply.reason == Reason::PolicyInvalid => 401,
        Stop::Failed(failure) if failure.reason == Reason::MeshDenied => 401,
        _ => 503,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_leads_to_an_address_of_the_workload_and_to_none_else() {
        let asked = |method: Method, authority: &str| {
            let mut request = Request::new();
            request.method = method;
            request.set_authority(authority.as_bytes()).expect("an authority");
            let public = IpAddr::from([203, 0, 113, 7]);
            target_of(&request, IpAddr::from([10, 0, 0, 7]), |address| address == public)
                .map(|target| target.to_string())
                .map_err(|refusal| (refusal.status, refusal.reason))
        };
        for ours in ["10.0.0.7:80", "203.0.113.7:80", "[::ffff:10.0.0.7]:80"] {
            assert_eq!(asked(Method::Connect, ours), Ok(ours.to_owned()));
        }
        for foreign in ["10.0.0.8:80", "127.0.0.1:80", "cart:80", "10.0.0.7"] {
            assert_eq!(asked(Method::Connect, foreign), Err((400, Reason::AuthorityInvalid)), "{foreign}");
        }
        assert_eq!(asked(Method::Get, "10.0.0.7:80"), Err((400, Reason::RequestMalformed)));
    }

    #[test]
    fn the_client_of_a_tunnel_is_in_forwarded() {
        assert_eq!(client_of(b"for=10.0.0.7"), Some([10, 0, 0, 7].into()));
        assert_eq!(client_of(b"by=x;for=\"[2001:db8::1]\""), "2001:db8::1".parse().ok());
        assert_eq!(client_of(b"for=unknown"), None);
    }
}
