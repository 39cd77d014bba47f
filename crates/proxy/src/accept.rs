//! The verbs *accept* and *origin*: from a listening socket to a connection with two ends.
//!
//! One task per listening socket, one per connection until its protocol is known. `secure.rs` and `detect.rs` follow;
//! what happens to requests is the business of the edges.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use transept_engine::exchange::Connection;
use transept_engine::snapshot::{Bind, Role, Secure};
use transept_identity::Purpose;

use crate::capture::origin::LoopGuard;
use crate::demand;
use crate::detect::detect;
use crate::edge::{h1_server, hbone, plaintext};
use crate::io::Io;
use crate::limits::Place;
use crate::mesh::{Membership, identity_in};
use crate::recheck::Ground;
use crate::secure::{facts_of, secure, secure_member};
use crate::worker::Worker;

/// How long a worker waits when the process has no descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Accepts connections until told to stop. Open connections go on.
pub(crate) async fn accept_all(
    worker: Rc<Worker>,
    bound: SocketAddr,
    listener: std::net::TcpListener,
    mut stopped: oneshot::Receiver<()>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, %bound, "a listening socket could not be registered");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => break,
        };
        match accepted {
            Ok((tcp, peer)) => {
                tokio::task::spawn_local(converse(worker.clone(), tcp, peer, bound));
            }
            Err(error) => {
                // A connection that was reset while it waited is nobody's problem. Whatever else it is, it may not be over
                // at once, and the loop must not spin.
                let harmless = matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
                );
                if !harmless {
                    tracing::warn!(%error, %bound, "no connection can be accepted for the moment");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }
    // Clients that the kernel has already accepted for us are served, not reset.
    while let Some(Ok((tcp, peer))) = listener.accept().now_or_never() {
        tokio::task::spawn_local(converse(worker.clone(), tcp, peer, bound));
    }
}

/// A connection's place among all that are open; it is counted while this lives.
pub(crate) struct Guest {
    _open: Open,
    _place: Option<Place>,
}

/// Counts a connection as open on its worker.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        worker.meter.borrow_mut().plain().connections += 1;
        Self(worker)
    }
}

impl Guest {
    /// A connection inside a tunnel, which takes no place of its own at the door.
    pub(crate) fn inside(worker: &Rc<Worker>) -> Guest {
        Guest { _open: Open::new(worker.clone()), _place: None }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}

/// A connection until its protocol is known. What it needs from then on is a task of its own, because this one's memory
/// is not for the life of a connection.
async fn converse(worker: Rc<Worker>, tcp: TcpStream, peer: SocketAddr, bound: SocketAddr) {
    let open = Open::new(worker.clone());
    let snapshot = worker.snapshot();
    let local = local_address(&tcp, bound);
    let Some(bind) = snapshot.bind_for(&bound, local).cloned() else {
        return;
    };
    drop(snapshot);
    let Some(place) = worker.shared.open.enter(bound, peer.ip(), &bind.settings.limits) else {
        worker.meter.borrow_mut().plain().connections_refused += 1;
        if bind.secure == Secure::Plain && bind.listener_for_streams().is_none() {
            h1_server::turn_away(&worker, &tcp, peer, local);
        }
        return;
    };
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let guest = Guest { _open: open, _place: Some(place) };
    let watch = worker.watches.add();
    match bind.secure {
        Secure::Plain => {
            let Some(connection) = origin(&worker, &tcp, peer, local, &bind) else { return };
            if let (Role::Inbound, Some(destination)) = (bind.role, connection.destination) {
                let io = Io::plain(tcp);
                tokio::task::spawn_local(plaintext::serve(worker, io, connection, destination, bound, guest));
                return;
            }
            let Some(bind) = prepare(&worker, &connection, bind).await else { return };
            detect(worker, Io::plain(tcp), connection, None, bind, watch, guest).await;
        }
        Secure::Tls => {
            watch.set(bind.settings.timeouts.tls_handshake);
            let Some((session, tls)) = Box::pin(secure(&worker, &tcp, &bind, &watch)).await else {
                worker.meter.borrow_mut().plain().tls_failures += 1;
                return;
            };
            worker.meter.borrow_mut().plain().tls_handshakes += 1;
            let facts = facts_of(&session, &tls);
            // The CA of a listener vouches for its clients, not for members of the mesh.
            let foreign = |id: &Arc<str>| worker.shared.mesh.as_ref().is_none_or(|membership| !membership.owns(id));
            let identity = facts.client_certificate.as_ref().and_then(|shown| identity_in(&shown.leaf)).filter(foreign);
            let mut connection = Connection::new(peer, local, Some(facts));
            connection.identity = identity;
            detect(worker, Io::secured(tcp, session), connection, Some(tls), bind, watch, guest).await;
        }
        Secure::Mesh => {
            watch.set(bind.settings.timeouts.tls_handshake);
            let Some((session, member)) = Box::pin(secure_member(&worker, &tcp, &bind, &watch)).await else {
                worker.meter.borrow_mut().plain().tls_failures += 1;
                return;
            };
            worker.meter.borrow_mut().plain().tls_handshakes += 1;
            let mut connection = Connection::new(peer, local, None).with_identity(member.identity);
            connection.client_certificate = Some(member.forwarded);
            let io = Io::secured(tcp, session);
            let standing = worker.standings.add(Ground::Certificates(member.chain, Purpose::Client));
            tokio::task::spawn_local(hbone::serve(worker, io, connection, bound, standing, guest));
        }
    }
}

/// The bind of a connection, once it is known well enough where it was going. None when that takes too long.
async fn prepare(worker: &Worker, connection: &Connection, bind: Arc<Bind>) -> Option<Arc<Bind>> {
    let destination = connection.destination.filter(|to| demand::wanted_for(&bind, *to).is_some());
    let Some(destination) = destination else { return Some(bind) };
    match demand::await_destination(worker, bind.address, destination).await {
        Ok(()) => worker.snapshot().bind(&bind.address).cloned(),
        Err(reason) => {
            tracing::warn!(%destination, peer = %connection.peer, code = reason.slug(), "a captured connection is closed");
            None
        }
    }
}

/// The verb *origin* on a plain connection: where it was going when it was led here, and who it is of. None when it is to be closed.
fn origin(worker: &Worker, tcp: &TcpStream, peer: SocketAddr, local: SocketAddr, bind: &Bind) -> Option<Connection> {
    let mut connection = Connection::new(peer, local, None);
    if bind.is_captured() {
        let guard = LoopGuard::new(worker.snapshot().binds.iter().map(|bind| bind.address.port()));
        match guard.destination(tcp) {
            Ok(destination) => connection.destination = Some(destination),
            Err(why) => {
                tracing::debug!(%why, %peer, "a captured connection is closed");
                return None;
            }
        }
    }
    if bind.role == Role::Outbound {
        // Whoever reaches this bind is the workload itself.
        connection.identity = worker.shared.mesh.as_ref().map(Membership::own_identity);
    }
    Some(connection)
}

/// Our end of the socket. Only an unspecified address has to be asked for.
fn local_address(tcp: &TcpStream, bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() { tcp.local_addr().unwrap_or(bound) } else { bound }
}
