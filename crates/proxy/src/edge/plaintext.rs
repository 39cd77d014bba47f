//! The way into a workload without a tunnel: connections of strangers to the program that were led here.
//!
//! Called by `accept.rs` when the original destination is known. Whether strangers are let in at all is a setting of the workload
//! (`MeshPolicy`), and then they are clients without an identity, to whom all policies apply.

use std::net::SocketAddr;
use std::rc::Rc;

use transept_engine::admit::admit_connection;
use transept_engine::exchange::Connection;

use super::entry::{self, Entry, Visitor};
use crate::accept::Guest;
use crate::io::Io;
use crate::path::Stop;
use crate::splice::{self, Passenger, Purpose};
use crate::worker::Worker;

/// Serves a connection to its end. One that is refused is closed without a word, and recorded.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    io: Io,
    connection: Connection,
    destination: SocketAddr,
    bound: SocketAddr,
    guest: Guest,
) {
    let port = destination.port();
    let _visitor = Visitor::new(worker.clone());
    let Some((listener, rule, generation)) = entry::find_listener(&worker, bound, port) else {
        tracing::debug!(%destination, peer = %connection.peer, "a captured connection wants to a port that is none of the program's");
        return io.abort_on_drop();
    };
    let passenger = Passenger { connection: &connection, listener: &listener, rule: &rule, generation };
    let mut trip = worker.take_trip();
    splice::board(&worker, &connection, &mut trip);
    let landed = match admit_connection(&listener, &connection) {
        Ok(()) => splice::land(&worker, &passenger, Purpose::Use, &mut trip).await,
        Err(reply) => Err(Stop::Answer(reply)),
    };
    match landed {
        Ok(landing) => {
            worker.give_back(trip);
            entry::carry(worker, Entry { io, connection, bound, port, guest }, landing).await;
        }
        Err(stop) => {
            splice::note(&stop, &mut trip);
            io.abort_on_drop();
            splice::finish(&worker, &passenger, &trip, None, None);
            worker.give_back(trip);
        }
    }
}
