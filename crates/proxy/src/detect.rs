//! The verb *detect*: which protocol a client speaks.
//!
//! Called by `accept.rs` when a connection is secured, or when it need not be. Starts the edge that serves it from then
//! on, as a task of its own.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use transept_engine::admit::admit_stream;
use transept_engine::exchange::Connection;
use transept_engine::snapshot::{Bind, Listener, Role, ServerTls, Speaks};
use transept_wire::h1::{Preface, is_h2_preface};

use crate::accept::Guest;
use crate::buffer::Inbound;
use crate::deadline::Watch;
use crate::edge::h1_server::{self, H1Connection};
use crate::edge::h2_server::{self, Facts};
use crate::io::Io;
use crate::recheck::Ground;
use crate::splice::{self, Passenger};
use crate::worker::Worker;

/// How long a program that speaks first is waited for when the client says nothing either. After it, bytes are bytes.
const UNDECIDED: Duration = Duration::from_secs(10);

/// How long a client may be silent before the program is connected, in case it speaks first.
const MOMENT: Duration = Duration::from_millis(20);

/// Who takes a connection before anything is known of what it carries.
enum Taker {
    /// Nobody: it carries requests, and each of them finds its listener.
    Requests,
    /// A Service whose clients may speak something else than HTTP, or a TCP listener.
    Service(Arc<Listener>),
    /// Nobody in the mesh: it goes on to where it was going.
    Stranger(SocketAddr),
}

fn taker(bind: &Bind, connection: &Connection) -> Taker {
    if let Some(listener) = bind.listener_for_streams() {
        return Taker::Service(listener.clone());
    }
    if bind.role != Role::Outbound || bind.is_found_by_authority() {
        return Taker::Requests;
    }
    match (bind.callee(connection.destination), connection.destination) {
        (None, Some(destination)) if bind.is_captured() => Taker::Stranger(destination),
        (Some(listener), _) if listener.speaks != Speaks::Http => Taker::Service(listener.clone()),
        _ => Taker::Requests,
    }
}

/// HTTP/2 by ALPN or by its preface (RFC 9113 section 3.3), else HTTP/1.1.
pub(crate) async fn detect(
    worker: Rc<Worker>,
    io: Io,
    connection: Connection,
    handshake: Option<Arc<ServerTls>>,
    bind: Arc<Bind>,
    watch: Watch,
    guest: Guest,
) {
    match taker(&bind, &connection) {
        Taker::Requests => {}
        Taker::Service(listener) => {
            tokio::task::spawn_local(leave(worker, io, connection, bind, listener, watch, guest));
            return;
        }
        Taker::Stranger(destination) => {
            tokio::task::spawn_local(async move {
                watch.set_stall(bind.settings.timeouts.stream_idle);
                splice::pass_through(&worker, &connection, destination, &io, &watch).await;
                drop(guest);
            });
            return;
        }
    }
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

/// What the two ends of a connection speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
    /// Something else, or nothing that could be told in time.
    Bytes,
    /// The client has left without a word.
    Gone,
}

/// Listens to both ends: whoever speaks first decides. A program that speaks first does not speak HTTP.
pub(crate) async fn listen(io: &Io, inbound: &mut Inbound, program: Option<&Io>, watch: &Watch) -> Spoken {
    watch.set(Some(UNDECIDED));
    loop {
        let heard = watch
            .wait(|cx| {
                if let Poll::Ready(read) = io.poll_fill(cx, inbound) {
                    return Poll::Ready(Some(read));
                }
                program.map_or(Poll::Pending, |program| program.poll_readable(cx).map(|_| None))
            })
            .await;
        match heard {
            Ok(Some(Ok(0))) | Ok(Some(Err(_))) if inbound.is_empty() => return Spoken::Gone,
            Ok(Some(Ok(count))) if count > 0 => {}
            _ => return Spoken::Bytes,
        }
        match is_h2_preface(inbound.data()) {
            Preface::Yes => return Spoken::Http2,
            Preface::Partial => continue,
            Preface::No => {}
        }
        match begins_like_http1(inbound.data()) {
            Some(true) => return Spoken::Http1,
            Some(false) => return Spoken::Bytes,
            None => {}
        }
    }
}

/// Whether bytes begin with a method and a space (RFC 9112 section 3); none when there are too few to tell.
fn begins_like_http1(bytes: &[u8]) -> Option<bool> {
    const LONGEST_METHOD: usize = 24;
    for (index, byte) in bytes.iter().enumerate().take(LONGEST_METHOD + 1) {
        match byte {
            b' ' => return Some(index > 0 && bytes.get(index + 1).is_none_or(|next| next.is_ascii_graphic())),
            b'A'..=b'Z' | b'-' | b'_' => {}
            _ => return Some(false),
        }
    }
    if bytes.len() > LONGEST_METHOD { Some(false) } else { None }
}

/// On the way out of a workload: a connection to a Service, whatever it carries. A client that is silent may wait for the program to
/// speak first, so after a moment the program is connected, and both are listened to. On a TCP listener nothing is looked at.
async fn leave(
    worker: Rc<Worker>,
    io: Io,
    connection: Connection,
    bind: Arc<Bind>,
    listener: Arc<Listener>,
    watch: Watch,
    guest: Guest,
) {
    let mut inbound = Inbound::default();
    let mut spoken = Spoken::Bytes;
    let mut landing = None;
    let rule = listener.stream.clone();
    let generation = worker.snapshot().generation;
    if listener.speaks != Speaks::Opaque {
        let first = tokio::time::timeout(MOMENT, listen(&io, &mut inbound, None, &watch)).await;
        spoken = match (first, &rule) {
            (Ok(spoken), _) => spoken,
            (Err(_), None) => listen(&io, &mut inbound, None, &watch).await,
            // Whom the route's policies keep out may still speak HTTP.
            (Err(_), Some(_)) if admit_stream(&listener, &connection).is_err() => {
                listen(&io, &mut inbound, None, &watch).await
            }
            (Err(_), Some(rule)) => {
                let passenger = Passenger { connection: &connection, listener: &listener, rule, generation };
                let mut trip = worker.take_trip();
                trip.random = worker.random();
                // An endpoint that cannot be reached is told of when the client has said what it wants.
                landing = splice::land(&worker, &passenger, &mut trip).await.ok();
                worker.give_back(trip);
                listen(&io, &mut inbound, landing.as_ref().map(|landing| &landing.io), &watch).await
            }
        };
    }
    let bound = bind.address;
    drop(bind);
    match (spoken, rule) {
        (Spoken::Gone, _) => {}
        (Spoken::Bytes, None) => splice::turn_away(&worker, &connection, &listener, generation, &io),
        (Spoken::Bytes, Some(rule)) => {
            let passenger = Passenger { connection: &connection, listener: &listener, rule: &rule, generation };
            let ground = Ground::Passage { connection: Box::new(connection.clone()), bound };
            let standing = worker.standings.add(ground);
            splice::travel(&worker, &passenger, &io, &mut inbound, landing, &watch, Some(&standing)).await;
            drop(guest);
        }
        (Spoken::Http2, _) => {
            let facts = Facts { connection, handshake: None, bound, _guest: guest };
            h2_server::serve(worker, io, inbound, facts).await;
        }
        (Spoken::Http1, _) => {
            let it = H1Connection { io, inbound, connection, handshake: None, bound, watch, served: 0, _guest: guest };
            h1_server::serve(worker, Box::new(it)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_told_from_other_bytes() {
        assert_eq!(begins_like_http1(b"GET / HTTP/1.1\r\n"), Some(true));
        assert_eq!(begins_like_http1(b"M-SEARCH * HTTP"), Some(true));
        assert_eq!(begins_like_http1(b"GE"), None);
        assert_eq!(begins_like_http1(b""), None);
        for bytes in [&b" GET /"[..], b"\x16\x03\x01", b"*1\r\n$4\r\nPING", b"GET  /", b"SSH-2.0-x\r\n", b"get / "] {
            assert_eq!(begins_like_http1(bytes), Some(false), "{}", bytes.escape_ascii());
        }
        assert_eq!(begins_like_http1(&[b'A'; 40]), Some(false));
    }

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
