//! The verbs *accept*, *origin*, *secure* and *detect*: from a socket to a connection whose protocol is known.
//!
//! One task per listening socket, one per connection. What happens to requests is the business of the edges.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use transept_engine::exchange::{Connection, TlsFacts};
use transept_engine::snapshot::{Bind, ClientValidationMode, Secure, ServerTls};
use transept_wire::h1::{Preface, is_h2_preface};

use crate::buffer::Inbound;
use crate::deadline::Watch;
use crate::edge::h1_server::{self, H1Connection};
use crate::edge::h2_server::{self, Facts};
use crate::io::{Io, TlsSession, accept_hello};
use crate::limits::Place;
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
    _place: Place,
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
    let Some(bind) = snapshot.bind(&bound).cloned() else {
        return;
    };
    drop(snapshot);
    let Some(place) = worker.shared.open.enter(bound, peer.ip(), &bind.settings.limits) else {
        worker.meter.borrow_mut().plain().connections_refused += 1;
        if bind.secure == Secure::Plain {
            h1_server::turn_away(&worker, &tcp, peer, local_address(&tcp, bound));
        }
        return;
    };
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let guest = Guest { _open: open, _place: place };
    let local = local_address(&tcp, bound);
    let watch = worker.watches.add();
    match bind.secure {
        Secure::Plain => {
            let connection = Connection::new(peer, local, None);
            detect(worker, Io::plain(tcp), connection, None, bind, watch, guest).await;
        }
        Secure::Tls => {
            watch.set(bind.settings.timeouts.tls_handshake);
            let Some((session, tls)) = Box::pin(secure(&worker, &tcp, &bind, &watch)).await else {
                worker.meter.borrow_mut().plain().tls_failures += 1;
                return;
            };
            worker.meter.borrow_mut().plain().tls_handshakes += 1;
            let connection = Connection::new(peer, local, Some(facts_of(&session, &tls)));
            detect(worker, Io::secured(tcp, session), connection, Some(tls), bind, watch, guest).await;
        }
    }
}

/// Our end of the socket. Only an unspecified address has to be asked for.
fn local_address(tcp: &TcpStream, bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() { tcp.local_addr().unwrap_or(bound) } else { bound }
}

/// The TLS handshake with the configuration of the listener that the server name chooses.
async fn secure(
    worker: &Worker,
    tcp: &TcpStream,
    bind: &Bind,
    watch: &Watch,
) -> Option<(Box<TlsSession>, Arc<ServerTls>)> {
    let handshake = async {
        let hello = accept_hello(tcp).await.map_err(|error| error.to_string())?;
        let name = hello.server_name();
        let listener =
            bind.listener_for_sni(name.as_deref()).ok_or_else(|| "no listener serves this name".to_owned())?;
        let tls = listener.tls.as_ref().ok_or_else(|| "the listener has no certificate".to_owned())?;
        let config = worker.shared.tls.server(tls).map_err(|why| why.to_string())?;
        let session = hello.proceed(tcp, config).await.map_err(|error| error.to_string())?;
        Ok::<_, String>((Box::new(session), tls.clone()))
    };
    let mut handshake = std::pin::pin!(handshake);
    match watch.wait(|cx| handshake.as_mut().poll(cx)).await {
        Ok(Ok(secured)) => Some(secured),
        Ok(Err(why)) => {
            tracing::debug!(%why, address = %bind.address, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(address = %bind.address, "a TLS handshake took too long");
            None
        }
    }
}

/// A certificate that was only asked for, and not verified, is no fact.
fn facts_of(session: &TlsSession, tls: &ServerTls) -> TlsFacts {
    let verified = tls
        .client_validation
        .as_ref()
        .is_some_and(|validation| validation.mode == ClientValidationMode::AllowValidOnly);
    session.with(|rustls| TlsFacts {
        server_name: match rustls {
            rustls::Connection::Server(server) => {
                server.server_name().map(|name| name.to_ascii_lowercase().into_boxed_str())
            }
            rustls::Connection::Client(_) => None,
        },
        alpn: rustls.alpn_protocol().map(Into::into),
        client_certificate: rustls
            .peer_certificates()
            .and_then(|chain| chain.first())
            .filter(|_| verified)
            .map(|leaf| leaf.clone().into_owned()),
    })
}

/// HTTP/2 by ALPN or by its preface (RFC 9113 section 3.3), else HTTP/1.1.
async fn detect(
    worker: Rc<Worker>,
    io: Io,
    connection: Connection,
    handshake: Option<Arc<ServerTls>>,
    bind: Arc<Bind>,
    watch: Watch,
    guest: Guest,
) {
    let mut inbound = Inbound::default();
    let by_alpn = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref()).map(|alpn| alpn == b"h2");
    let h2 = match by_alpn {
        Some(h2) => h2,
        None => {
            watch.set_idle(bind.settings.timeouts.idle);
            let mut begun = false;
            loop {
                match watch.wait(|cx| io.poll_fill(cx, &mut inbound)).await {
                    Ok(Ok(count)) if count > 0 => {}
                    _ => return,
                }
                match is_h2_preface(inbound.data()) {
                    Preface::Yes => break true,
                    Preface::No => break false,
                    // From here on the head's deadline counts: a client may not hold a part of a preface for ever.
                    Preface::Partial if !begun => {
                        begun = true;
                        watch.set(bind.settings.timeouts.head);
                    }
                    Preface::Partial => {}
                }
            }
        }
    };
    let bound = bind.address;
    drop(bind);
    if h2 {
        drop(watch);
        let facts = Facts { connection, handshake, bound, _guest: guest };
        tokio::task::spawn_local(h2_server::serve(worker, io, inbound, facts));
    } else {
        let it = H1Connection { io, inbound, connection, handshake, bound, watch, served: 0, _guest: guest };
        tokio::task::spawn_local(h1_server::serve(worker, Box::new(it)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Every idle client costs the future of its connection and what the connection keeps; an exchange's memory is not
    /// among it.
    #[test]
    fn an_idle_connection_is_small() {
        let future = size_of_future(h1_server::serve);
        assert!((64..=256).contains(&future), "{future} bytes");
        let kept = size_of::<H1Connection>();
        assert!((256..=512).contains(&kept), "{kept} bytes");
    }
}
