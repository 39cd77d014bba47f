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
use transept_wire::h2::head::{Connect, HeadLimits, Refused};
use transept_wire::h2::{self, Config};
use transept_wire::head::{FieldId, Method, Request, Response};

use super::entry::{self, Entry, Visitor};
use crate::accept::Guest;
use crate::buffer::Inbound;
use crate::h2::{Arrival, Driver, Link, Patience, Stream};
use crate::io::{Io, Tunnel};
use crate::path::Stop;
use crate::recheck::{Ending, Standing};
use crate::splice::{self, Passenger, Purpose};
use crate::worker::Worker;

/// What the other end may send in one tunnel before we have taken it, and in all together.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Tunnels that one peer may have open on a connection.
const MOST_TUNNELS: u32 = 200;

/// What a CONNECT may take.
const HEADS: HeadLimits = HeadLimits { bytes: 16 * 1024, fields: 64, connect: Connect::Taken };

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
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        max_streams: MOST_TUNNELS,
        heads: HEADS,
    };
    let link = Link::new(h2::Connection::server(config));
    let patience = Patience { head: timeouts.head, stall: timeouts.stream_idle, idle: timeouts.idle };
    let watch = worker.watches.add();
    watch.belong_to_the_way_in();
    let _visitor = Visitor::new(worker.clone());
    let mut driver = Driver::new(link.clone(), io, Inbound::default(), watch, patience);
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
            Arrival::Refused { stream, why } => refuse_head(&stream, &why),
        })
    })
    .await;
    tracing::debug!(peer = %peer.connection.peer, why = %over.0, "a connection of the mesh ended");
    driver.close(over).await;
}

fn refuse_head(stream: &Stream, why: &Refused) {
    tracing::debug!(%why, "a tunnel was asked for in a way that is not understood");
    // The peer may be gone already, and then there is nobody to tell.
    let _ = stream.send_head(&Response::new(400), true);
}

/// One tunnel, from its CONNECT to its last byte.
async fn pass(worker: Rc<Worker>, peer: Rc<Peer>, stream: Stream, request: Request) {
    let Some(target) = target_of(&request, &peer.connection) else {
        let _ = stream.send_head(&Response::new(400), true);
        return;
    };
    let Some((listener, rule, generation)) = entry::find_listener(&worker, peer.bound, target.port()) else {
        let _ = stream.send_head(&Response::new(503), true);
        return;
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

/// Where a tunnel leads: an address that is ours, and a port. None when the request is not such a CONNECT.
fn target_of(request: &Request, connection: &Connection) -> Option<SocketAddr> {
    let target: SocketAddr = std::str::from_utf8(request.authority()).ok()?.parse().ok()?;
    let ours = target.ip().to_canonical() == connection.local.ip().to_canonical();
    (request.method == Method::Connect && request.protocol().is_none() && ours).then_some(target)
}

/// The connection inside a tunnel, as policies see it: with the identity of the peer, and from its address, or from that of the client
/// that it names when it is one who is believed.
fn inner(outer: &Connection, request: &Request, target: SocketAddr, listener: &Listener) -> Connection {
    let believed = listener.settings.believes_forwarder(outer.identity.as_deref());
    let client = request.fields.first(FieldId::FORWARDED).filter(|_| believed).and_then(client_of);
    // A program on the peer's own machine has no address that means anything here.
    let client = client.filter(|client| !client.to_canonical().is_loopback());
    let peer = client.map_or(outer.peer, |client| SocketAddr::new(client, 0));
    let mut connection = Connection::new(peer, outer.local, None).with_destination(target);
    connection.identity = outer.identity.clone();
    connection.client_certificate = outer.client_certificate.clone();
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
        Stop::Answer(reply) if reply.status == 403 => 401,
        Stop::Failed(failure) if failure.reason == Reason::MeshDenied => 401,
        _ => 503,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_of_a_tunnel_is_in_forwarded() {
        assert_eq!(client_of(b"for=10.0.0.7"), Some([10, 0, 0, 7].into()));
        assert_eq!(client_of(b"by=x;for=\"[2001:db8::1]\""), "2001:db8::1".parse().ok());
        assert_eq!(client_of(b"for=unknown"), None);
    }
}
