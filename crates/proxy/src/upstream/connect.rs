//! The verb *connect*: a pooled connection of this worker, or a new one.
//!
//! Called by `attempt.rs` for every try, and by `mirror.rs`. Which endpoint is tried, and whether another one follows, is
//! decided elsewhere; opening a connection is `dial.rs`.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use transept_engine::pick::Chosen;
use transept_engine::snapshot::{Backend, UpstreamProtocol};
use transept_engine::traffic::{Ledger, Permit};
use transept_model::certificate::KeyPair;
use transept_wire::h2::head::{Connect, HeadLimits, Underscore};
use transept_wire::h2::{self, Config, Growth};

use super::dial::dial;
use super::hbone;
use super::pool::{Dialling, PoolKey};
use super::room::{Room, find_room, wait_for_room};
use super::secure::{TlsChoice, choose_tls};
use super::{Age, H1Upstream, Upstream};
use crate::buffer::Inbound;
use crate::deadline::SWEEP;
use crate::failure::Failure;
use crate::h2::{Driver, Link, Patience};
use crate::io::Io;
use crate::worker::Worker;

/// Bytes that a backend may send on one stream before we have taken them. It is the only limit: a connection is shared
/// by many clients, and one that does not read must not take the window of the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How long a backend may take nothing that is sent to it. The windows see to it that a backend which is only slow can always
/// take a frame.
const STALL: Duration = Duration::from_secs(15);

/// What a response head may take before it is looked at: as much as any listener can be configured to let pass. The limit
/// of the listener comes after.
const LARGEST_HEAD: HeadLimits =
    HeadLimits { bytes: 1024 * 1024, fields: 10_000, connect: Connect::Refused, underscore: Underscore::Drop };

/// Whether a try may use a connection that is open already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooled {
    /// Any that is good.
    Welcome,
    /// One that others use as well and that was made after this one of the pool, by [`Pool::youngest`]: an older one has just failed.
    Younger(u64),
    /// None: the connection will not come back.
    Unwanted,
}

/// Where a try goes and how.
pub(crate) struct Destination<'d> {
    pub backend: &'d Backend,
    pub endpoint: &'d Chosen,
    pub pooled: Pooled,
    pub protocol: UpstreamProtocol,
    /// The certificate of the Gateway, for backends that bring none of their own.
    pub identity: Option<&'d Arc<KeyPair>>,
    /// For a tunnel that carries one client's connection: whose.
    pub client: Option<IpAddr>,
    /// Set while the try waits for room that a limit of ours does not leave it.
    pub queued: Option<&'d Cell<bool>>,
}

/// A connection of its own to an endpoint, for bytes that are not looked at, with the permit that counts it.
///
/// # Errors
/// A failure with `Repeat::Safe`: no byte has been sent. One with `Repeat::Never` when there are too many connections already.
pub(crate) async fn connect_stream(
    worker: &Rc<Worker>,
    destination: &Destination<'_>,
) -> Result<(Io, Option<Permit>), Failure> {
    let tls = match &destination.backend.tls {
        Some(tls) if destination.endpoint.tunnel.is_none() => Some(choose_tls(worker, tls, destination)?),
        _ => None,
    };
    let permit = find_room(worker, destination.backend)?;
    Ok((dial(worker, destination, tls.as_deref()).await?.0, permit))
}

/// Gets a connection to an endpoint.
///
/// # Errors
/// A failure with `Repeat::Safe`: no byte of the request has been sent.
pub(crate) async fn connect(worker: &Rc<Worker>, destination: &Destination<'_>) -> Result<Upstream, Failure> {
    let tls = match &destination.backend.tls {
        // What goes through a tunnel is protected by it.
        Some(tls) if destination.endpoint.tunnel.is_none() => Some(choose_tls(worker, tls, destination)?),
        _ => None,
    };
    let passage = destination.endpoint.tunnel.as_ref().map_or((0, 0), |passage| hbone::key_of(worker, passage));
    let key = PoolKey {
        address: destination.endpoint.address,
        tls: tls.as_ref().map_or(passage, |tls| tls.key()),
        h2: destination.protocol == UpstreamProtocol::Http2,
    };
    let settled = destination.protocol == UpstreamProtocol::Http1
        || (destination.protocol == UpstreamProtocol::Auto && tls.is_none());
    if !settled {
        return Box::pin(share_or_dial(worker, destination, tls.as_deref(), key)).await;
    }
    let mut due = None;
    loop {
        if destination.pooled == Pooled::Welcome
            && let Some((io, permit)) = worker.pool.take(&key, destination.counted())
        {
            return Ok(h1(io, key, Age::Reused, permit));
        }
        let room = match find_room(worker, destination.backend) {
            Ok(permit) => Room::New(permit),
            Err(_) => Box::pin(wait_for_room(worker, destination, key, &mut due)).await?,
        };
        if let Room::New(permit) = room {
            let (io, _) = Box::pin(dial(worker, destination, tls.as_deref())).await?;
            return Ok(h1(io, key, Age::Fresh, permit));
        }
    }
}

impl Destination<'_> {
    /// The ledger by which connections are counted, where they are limited: only those that it counts may be used again.
    fn counted(&self) -> Option<&Arc<Ledger>> {
        let limited = self.backend.traffic.as_ref().is_some_and(|traffic| traffic.limits.connections.is_some());
        limited.then_some(&self.backend.ledger)
    }
}

/// For protocols that may turn out to be HTTP/2: one connection serves many streams, so only one of those that wait
/// dials, unless HTTP/1.1 is what it finds. What it learns, they learn: a backend that cannot be reached is not tried
/// by each of them in turn.
async fn share_or_dial(
    worker: &Rc<Worker>,
    destination: &Destination<'_>,
    tls: Option<&TlsChoice>,
    key: PoolKey,
) -> Result<Upstream, Failure> {
    // Without open connections in play, nobody else's attempt matters either.
    let older = match destination.pooled {
        Pooled::Welcome => Some(0),
        Pooled::Younger(than) => Some(than),
        Pooled::Unwanted => None,
    };
    let mut due = None;
    loop {
        if let Some(older) = older {
            if let Some(lease) = worker.pool.share(&key, destination.counted(), older) {
                return Ok(Upstream::H2(lease));
            }
            if destination.pooled == Pooled::Welcome
                && let Some((io, permit)) = worker.pool.take(&key, destination.counted())
            {
                return Ok(h1(io, key, Age::Reused, permit));
            }
            if let Some(waiting) = worker.pool.await_dialled(key) {
                waiting.outcome().await?;
                continue;
            }
        }
        // Given up half-way, this tells those who wait to try for themselves.
        let attempt = older.map(|_| Dialling::new(&worker.pool, key));
        let room = match find_room(worker, destination.backend) {
            Ok(permit) => Ok(Room::New(permit)),
            Err(_) => Box::pin(wait_for_room(worker, destination, key, &mut due)).await,
        };
        let outcome = match room {
            Ok(Room::New(permit)) => dial_shared(worker, destination, tls, key, permit).await,
            Ok(Room::Look) => continue,
            Err(failure) => Err(failure),
        };
        if let (Some(attempt), Err(failure)) = (attempt, &outcome) {
            attempt.failed(failure);
        }
        return outcome;
    }
}

async fn dial_shared(
    worker: &Rc<Worker>,
    destination: &Destination<'_>,
    tls: Option<&TlsChoice>,
    key: PoolKey,
    permit: Option<Permit>,
) -> Result<Upstream, Failure> {
    let (io, agreed) = dial(worker, destination, tls).await?;
    if agreed != UpstreamProtocol::Http2 {
        worker.pool.agreed_on_h1(key);
        return Ok(h1(io, key, Age::Fresh, permit));
    }
    let config = Config {
        stream_window: STREAM_WINDOW,
        growth: Growth::NONE,
        connection_window: CONNECTION_WINDOW,
        data_frame: h2::LARGEST_FRAME,
        max_streams: 0,
        heads: LARGEST_HEAD,
    };
    let link = Link::inside(h2::Connection::client(config), io.carrier());
    let patience = Patience { head: Some(destination.backend.connect_timeout + SWEEP), stall: Some(STALL), idle: None };
    let mut driver = Driver::new(link.clone(), io, Inbound::default(), worker.watches.add(), patience);
    let lease = worker.pool.add(key, link, permit);
    tokio::task::spawn_local(async move {
        // A backend opens no streams.
        let over = std::future::poll_fn(|cx| driver.poll_turn(cx, &mut |_| {})).await;
        tracing::debug!(why = %over.0, "an upstream HTTP/2 connection ended");
        driver.close(over).await;
    });
    Ok(Upstream::H2(lease))
}

fn h1(io: Io, key: PoolKey, age: Age, permit: Option<Permit>) -> Upstream {
    Upstream::H1(H1Upstream { io, inbound: Inbound::default(), age, key, permit })
}
