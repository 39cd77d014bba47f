//! Inside a workload's door: a connection that was let in and has a connection to the program, from the protocol to its last byte.
//!
//! Called by `hbone.rs` for what comes out of tunnels, and by `plaintext.rs` for what came without one. The two ends are listened to;
//! HTTP goes the road request by request, everything else is spliced, and judged again whenever policies change.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use transept_engine::admit::admit_stream;
use transept_engine::exchange::Connection;
use transept_engine::rule::Rule;
use transept_engine::snapshot::{Listener, Speaks};

use super::h1_server::{self, H1Connection};
use super::h2_server::{self, Facts};
use crate::accept::Guest;
use crate::buffer::Inbound;
use crate::deadline::Watch;
use crate::io::Io;
use crate::race::{self, First, Patience, Spoken};
use crate::recheck::Ground;
use crate::splice::{self, Landing, Passenger};
use crate::upstream::PoolKey;
use crate::worker::Worker;

/// A connection to a port of the program.
pub(super) struct Entry {
    pub io: Io,
    pub connection: Connection,
    /// The address that the worker listens on.
    pub bound: SocketAddr,
    /// The port that it wants to.
    pub port: u16,
    pub guest: Guest,
}

/// Counts a connection into the workload while it is open, so that draining can wait for it.
pub(super) struct Visitor(Rc<Worker>);

impl Visitor {
    pub(super) fn new(worker: Rc<Worker>) -> Self {
        worker.visitors.set(worker.visitors.get() + 1);
        Self(worker)
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.0.visitors.set(self.0.visitors.get() - 1);
    }
}

/// What is in force now for a port behind a bind: its listener, the rule for connections, and since which generation.
pub(super) fn find_listener(worker: &Worker, bound: SocketAddr, port: u16) -> Option<(Arc<Listener>, Arc<Rule>, u64)> {
    let snapshot = worker.snapshot();
    let listener = snapshot.bind(&bound)?.listener_for_port(port)?.clone();
    let rule = listener.stream.clone()?;
    Some((listener, rule, snapshot.generation))
}

/// Carries a connection that was let in to its end.
pub(super) async fn carry(worker: Rc<Worker>, entry: Entry, mut landing: Landing) {
    let Some((listener, ..)) = find_listener(&worker, entry.bound, entry.port) else {
        return entry.io.abort_on_drop();
    };
    let watch = worker.watches.add();
    watch.belong_to_the_way_in();
    let mut inbound = Inbound::default();
    let patience = Patience::inside(race::recall(&worker, &listener), listener.settings.timeouts.stream_idle);
    let spoken = match listener.speaks {
        Speaks::Opaque => Spoken::Bytes(First::Nobody),
        Speaks::Http => match race::listen(&entry.io, &mut inbound, None, &watch, &patience).await {
            // Whoever says that it is HTTP wants what is wrong with it refused in words.
            Spoken::Bytes(_) => Spoken::Http1,
            spoken => spoken,
        },
        Speaks::Detect => {
            let program = Some((&landing.io, &mut landing.said));
            let heard = race::listen(&entry.io, &mut inbound, program, &watch, &patience).await;
            race::remember(&worker, &listener, heard);
            match heard {
                // A request line that is held back is none that may pass unread.
                Spoken::Bytes(First::Nobody) => Spoken::Http1,
                spoken => spoken,
            }
        }
    };
    match spoken {
        // A first request may be on its way.
        Spoken::Gone => entry.io.close_idle(),
        Spoken::Ended => {}
        Spoken::Bytes(_) => pass(worker, entry, inbound, landing, watch).await,
        spoken => speak(worker, entry, spoken, inbound, landing, watch).await,
    }
}

/// Bytes: spliced to the program.
async fn pass(worker: Rc<Worker>, entry: Entry, mut inbound: Inbound, landing: Landing, watch: Watch) {
    let Entry { io, connection, bound, port, guest } = entry;
    // Since the connection was let in, other policies may have come into force.
    let Some((listener, rule, generation)) = find_listener(&worker, bound, port) else {
        return io.abort_on_drop();
    };
    if listener.speaks == Speaks::Http {
        return splice::turn_away(&worker, &connection, &listener, generation, &io);
    }
    let passenger = Passenger { connection: &connection, listener: &listener, rule: &rule, generation };
    // What is said to each request has to be said to the connection when there are none.
    let landing = admit_stream(&listener, &connection).is_ok().then_some(landing);
    let ground = Ground::Admission { connection: Box::new(connection.clone()), bound, port };
    let standing = worker.standings.add(ground);
    splice::travel(&worker, &passenger, &io, &mut inbound, landing, &watch, Some(&standing)).await;
    drop(guest);
}

/// HTTP: its requests go the road like any others, to the program.
async fn speak(worker: Rc<Worker>, entry: Entry, spoken: Spoken, inbound: Inbound, landing: Landing, watch: Watch) {
    let Entry { io, connection, bound, guest, .. } = entry;
    if spoken == Spoken::Http2 {
        drop(landing);
        let facts = Facts { connection, handshake: None, bound, _guest: guest };
        return h2_server::serve(worker, io, inbound, facts).await;
    }
    // The connection that proved that the program is there carries the first request, unless something was said on it.
    if landing.said.is_empty() {
        let key = PoolKey { address: landing.endpoint, tls: (0, 0), h2: false };
        worker.pool.put_back(key, landing.io, landing.permit, worker.clock.now().monotonic);
    }
    let it = H1Connection { io, inbound, connection, handshake: None, bound, watch, served: 0, _guest: guest };
    h1_server::serve(worker, Box::new(it)).await;
}
