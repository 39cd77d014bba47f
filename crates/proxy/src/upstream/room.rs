//! Room for one more connection to a backend, where a policy limits them.
//!
//! Called by `connect.rs` before it dials. The limit is that of all workers together; connections belong to one worker each. So who
//! finds no room first closes one of its own that idles, then waits: for a connection of its worker that is given back (`pool.rs`
//! calls), or for a permit that anybody gives back (the engine's queue calls).

use std::pin::pin;
use std::task::Poll;

use tokio::time::Instant;
use transept_engine::reason::Reason;
use transept_engine::snapshot::Backend;
use transept_engine::traffic::{Permit, Place, Resource};

use super::connect::Destination;
use super::pool::PoolKey;
use crate::failure::{Failure, Repeat, Side};
use crate::worker::Worker;

/// What came of the wait.
pub(super) enum Room {
    /// A connection may be opened, and is counted while the permit lives. None without a limit.
    New(Option<Permit>),
    /// An open connection may have become free.
    Look,
}

/// Room, if there is some or some can be made.
///
/// # Errors
/// A failure of ours, which is no fault of any endpoint, when there is none. It may be waited for.
pub(super) fn find_room(worker: &Worker, backend: &Backend) -> Result<Option<Permit>, Failure> {
    let Some(traffic) = backend.traffic.as_ref().filter(|traffic| traffic.limits.connections.is_some()) else {
        return Ok(None);
    };
    loop {
        if let Ok(permit) = backend.ledger.take(&traffic.limits, Resource::Connection) {
            return Ok(permit);
        }
        if !worker.pool.make_room(&backend.ledger) {
            return Err(no_room("there are as many connections as there may be"));
        }
    }
}

/// Waits for room, over all waits of one request for as long as connecting may take; `due` remembers until when that is.
///
/// # Errors
/// As [`find_room`], when there is none in time.
pub(super) async fn wait_for_room(
    worker: &Worker,
    destination: &Destination<'_>,
    key: PoolKey,
    due: &mut Option<Instant>,
) -> Result<Room, Failure> {
    let backend = destination.backend;
    let due = *due.get_or_insert_with(|| Instant::now() + backend.connect_timeout);
    let waiting = pin!(wait(worker, backend, key));
    let say = |queued| destination.queued.is_none_or(|flag| flag.replace(queued));
    say(true);
    // Given up while it waits, it stays said.
    let outcome = tokio::time::timeout_at(due, waiting).await;
    say(false);
    outcome.map_err(|_| no_room("no connection became free in time"))
}

async fn wait(worker: &Worker, backend: &Backend, key: PoolKey) -> Room {
    let limits = backend.traffic.as_ref().map(|traffic| traffic.limits).unwrap_or_default();
    let mut place = Place::new(&backend.ledger);
    let wish = worker.pool.wish(key);
    let mut granted = pin!(wish.granted());
    std::future::poll_fn(|cx| match place.poll_take(&limits, cx) {
        Poll::Ready(permit) => Poll::Ready(Room::New(permit)),
        Poll::Pending => granted.as_mut().poll(cx).map(|()| Room::Look),
    })
    .await
}

/// A limit of ours leaves no room.
pub(crate) fn no_room(detail: &'static str) -> Failure {
    Failure::new(Side::Upstream, Reason::BackendOverflow, Repeat::Never, detail)
}
