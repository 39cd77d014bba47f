//! The verb *detect*: which protocol a client speaks.
//!
//! Called by `accept.rs` when a connection is secured, or when it need not be. Starts the edge that serves it from then
//! on, as a task of its own.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use transept_engine::admit::admit_stream;
use transept_engine::exchange::Connection;
use transept_engine::learned::Known;
use transept_engine::snapshot::{Bind, Listener, Role, ServerTls, Speaks};
use transept_wire::h1::{Preface, is_h2_preface};

use crate::accept::Guest;
use crate::buffer::Inbound;
use crate::deadline::Watch;
use crate::edge::h1_server::{self, H1Connection};
use crate::edge::h2_server::{self, Facts};
use crate::io::Io;
use crate::race::{self, First, Patience, Spoken};
use crate::recheck::{Course, Ground};
use crate::splice::{self, Landing, Passenger, Purpose};
use crate::worker::Worker;

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
            let down = (io, Inbound::default());
            let course = (Course { bound: bind.address, asked: None }, bind.settings.timeouts.idle);
            tokio::task::spawn_local(leave(worker, down, connection, course, listener, watch, guest));
            return;
        }
        Taker::Stranger(destination) => {
            tokio::task::spawn_local(async move {
                watch.set_stall(bind.settings.timeouts.stream_idle);
                let standing = worker.standings.add_stranger(&worker, &connection, bind.address);
                splice::pass_through(&worker, &connection, destination, &io, &watch, &standing).await;
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

/// The Service that a program asked its proxy for a tunnel to, and in which words.
pub(crate) struct Called {
    pub listener: Arc<Listener>,
    /// Lower-case, without port and trailing dot.
    pub host: Box<str>,
    pub port: Option<u16>,
}

/// What follows on a connection of a program that asked its proxy for a tunnel to a Service: it may be anything.
pub(crate) fn enter_tunnel(worker: Rc<Worker>, it: H1Connection, called: Called) {
    let H1Connection { io, inbound, connection, bound, watch, _guest: guest, .. } = it;
    let Some(bind) = worker.snapshot().bind(&bound).cloned() else { return };
    let Called { listener, host, port } = called;
    let course = Course { bound, asked: Some((host, port)) };
    let idle = bind.settings.timeouts.idle;
    let future: Pin<Box<dyn Future<Output = ()>>> =
        Box::pin(leave(worker, (io, inbound), connection, (course, idle), listener, watch, guest));
    tokio::task::spawn_local(future);
}

/// On the way out of a workload: a connection to a Service, whatever it carries. On a TCP listener, and where bytes are declared,
/// nothing is looked at.
async fn leave(
    worker: Rc<Worker>,
    (io, mut inbound): (Io, Inbound),
    connection: Connection,
    (course, idle): (Course, Option<Duration>),
    listener: Arc<Listener>,
    watch: Watch,
    guest: Guest,
) {
    let bound = course.bound;
    let passage = || Ground::Passage { connection: Box::new(connection.clone()), course: course.clone() };
    let (mut standing, mut landing) = (None, None);
    let mut spoken = Spoken::Bytes(First::Nobody);
    let mut way = Way::now(&worker, listener);
    if way.listener.speaks == Speaks::Http {
        spoken = hear_requests(&io, &mut inbound, &watch, idle).await;
    } else if way.listener.speaks == Speaks::Detect {
        let known = race::recall(&worker, &way.listener);
        let patience = Patience::with(known, idle);
        let hesitation = race::listen(&io, &mut inbound, None, &watch, &patience);
        spoken = match tokio::time::timeout(patience.moment, hesitation).await {
            // Whoever has ended its side may still wait for a greeting. There is none on a port of HTTP.
            Ok(Spoken::Ended) if known == Known::Http => Spoken::Gone,
            Ok(spoken) if spoken != Spoken::Ended => spoken,
            _ => {
                way.look_again(&worker, &connection, &course);
                // Whom the route's policies keep out may still speak HTTP.
                if let Some(passenger) = way.passenger(&connection)
                    && admit_stream(&way.listener, &connection).is_ok()
                {
                    // However long the two are silent, what changes meanwhile counts.
                    standing = Some(worker.standings.add(passage()));
                    landing = land_early(&worker, &passenger).await;
                }
                let program = landing.as_mut().map(|landing| (&landing.io, &mut landing.said));
                race::listen(&io, &mut inbound, program, &watch, &patience).await
            }
        };
        race::remember(&worker, &way.listener, spoken);
    }
    match spoken {
        Spoken::Gone => {}
        Spoken::Bytes(_) | Spoken::Ended => {
            // One that is in the list already was judged whenever something changed.
            let standing = standing.unwrap_or_else(|| {
                way.look_again(&worker, &connection, &course);
                worker.standings.add(passage())
            });
            match way.passenger(&connection) {
                Some(passenger) => {
                    splice::travel(&worker, &passenger, &io, &mut inbound, landing, &watch, Some(&standing)).await;
                }
                None if spoken == Spoken::Ended => {}
                None => splice::turn_away(&worker, &connection, &way.listener, way.generation, &io),
            }
            drop(guest);
        }
        Spoken::Http2 => {
            drop((landing, standing));
            let facts = Facts { connection, handshake: None, bound, _guest: guest };
            h2_server::serve(worker, io, inbound, facts).await;
        }
        Spoken::Http1 => {
            drop((landing, standing));
            let it = H1Connection { io, inbound, connection, handshake: None, bound, watch, served: 0, _guest: guest };
            h1_server::serve(worker, Box::new(it)).await;
        }
    }
}

/// What comes where nothing but HTTP may: what is wrong with it is refused in words.
async fn hear_requests(io: &Io, inbound: &mut Inbound, watch: &Watch, idle: Option<Duration>) -> Spoken {
    match race::listen(io, inbound, None, watch, &Patience::with(Known::Http, idle)).await {
        Spoken::Bytes(_) => Spoken::Http1,
        Spoken::Ended => Spoken::Gone,
        spoken => spoken,
    }
}

/// What is in force for a connection on the way out of a workload.
struct Way {
    listener: Arc<Listener>,
    generation: u64,
}

impl Way {
    fn now(worker: &Worker, listener: Arc<Listener>) -> Way {
        Way { listener, generation: worker.snapshot().generation }
    }

    /// Looks up what is in force after a wait. Where there is no such listener any more, nobody forbids what was begun.
    fn look_again(&mut self, worker: &Worker, connection: &Connection, course: &Course) {
        let snapshot = worker.snapshot();
        if let Some(listener) = course.listener(&snapshot, connection) {
            *self = Way { listener: listener.clone(), generation: snapshot.generation };
        }
    }

    /// The connection with what is known about it; none where no route is for connections, or where only requests may come by now.
    fn passenger<'w>(&'w self, connection: &'w Connection) -> Option<Passenger<'w>> {
        let Way { listener, generation } = self;
        let rule = listener.stream.as_ref().filter(|_| listener.speaks != Speaks::Http)?;
        Some(Passenger { connection, listener, rule, generation: *generation })
    }
}

/// Connects a silent client to an endpoint, in case that the program speaks first. One that cannot be reached is told of when the
/// client has said what it wants.
async fn land_early(worker: &Rc<Worker>, passenger: &Passenger<'_>) -> Option<Landing> {
    let mut trip = worker.take_trip();
    trip.random = worker.random();
    let landed = splice::land(worker, passenger, Purpose::Case, &mut trip).await.ok();
    worker.give_back(trip);
    landed
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
