//! Connections of one worker to the endpoints: idle HTTP/1.1 ones, and HTTP/2 ones that streams share.
//!
//! Called by `dial.rs` before it dials and by the road when an exchange is complete. Nothing is shared between workers,
//! so taking and returning a connection needs no lock.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use tokio::sync::Notify;

use super::Age;
use crate::io::Io;

/// Idle HTTP/1.1 connections kept for one key.
const IDLE_PER_KEY: usize = 256;

/// How long a connection may idle. Below the keep-alive timeouts that common servers have, so that it is we who close.
const IDLE_TIME: Duration = Duration::from_secs(55);

/// What makes two connections interchangeable: where they lead, and what was verified and shown on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub address: SocketAddr,
    /// The number of the TLS configuration (see [`crate::tls::UpstreamClient`]) and the hash of the server name; zeros
    /// in clear text.
    pub tls: (u64, u64),
    pub h2: bool,
}

/// All upstream connections of a worker.
#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<PoolKey, Vec<Idle>>>,
    shared: RefCell<HashMap<PoolKey, Vec<Rc<Shared>>>>,
    dialling: RefCell<HashMap<PoolKey, Rc<Notify>>>,
    /// Keys whose servers chose HTTP/1.1 by ALPN: there every request dials for itself.
    only_h1: RefCell<HashSet<PoolKey>>,
}

struct Idle {
    io: Io,
    since: Duration,
}

/// One HTTP/2 connection.
struct Shared {
    sender: RefCell<h2::client::SendRequest<Bytes>>,
    streams: Cell<usize>,
    served: Cell<u64>,
    idle_since: Cell<Duration>,
    closed: Cell<bool>,
}

impl Pool {
    /// The connection that was used last, if it is still good.
    pub(crate) fn take(&self, key: &PoolKey) -> Option<Io> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(key)?;
        while let Some(entry) = list.pop() {
            if !entry.io.is_stale() {
                return Some(entry.io);
            }
        }
        None
    }

    pub(crate) fn put_back(&self, key: PoolKey, io: Io, now: Duration) {
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(key).or_default();
        if list.len() < IDLE_PER_KEY {
            list.push(Idle { io, since: now });
        }
    }

    /// A stream on a connection that has room.
    pub(crate) fn share(&self, key: &PoolKey) -> Option<H2Lease> {
        let mut shared = self.shared.borrow_mut();
        let list = shared.get_mut(key)?;
        list.retain(|connection| !connection.closed.get());
        let connection = list.iter().find(|connection| connection.has_room())?;
        Some(H2Lease::on(connection, Age::Reused))
    }

    /// Adds a connection and takes its first stream.
    pub(crate) fn add(&self, key: PoolKey, sender: h2::client::SendRequest<Bytes>) -> (H2Lease, Closing) {
        let connection = Rc::new(Shared {
            sender: RefCell::new(sender),
            streams: Cell::new(0),
            served: Cell::new(0),
            idle_since: Cell::new(Duration::MAX),
            closed: Cell::new(false),
        });
        let lease = H2Lease::on(&connection, Age::Fresh);
        self.shared.borrow_mut().entry(key).or_default().push(connection.clone());
        (lease, Closing(connection))
    }

    /// Whether somebody dials this key already: then the notification to wait for. Else the caller dials, and
    /// [`Pool::dialled`] follows.
    pub(crate) fn begin_dialling(&self, key: PoolKey) -> Option<Rc<Notify>> {
        if self.only_h1.borrow().contains(&key) {
            return None;
        }
        let mut dialling = self.dialling.borrow_mut();
        if let Some(notify) = dialling.get(&key) {
            return Some(notify.clone());
        }
        dialling.insert(key, Rc::new(Notify::new()));
        None
    }

    /// Remembers that the server speaks HTTP/1.1 only.
    pub(crate) fn agreed_on_h1(&self, key: PoolKey) {
        self.only_h1.borrow_mut().insert(key);
    }

    pub(crate) fn dialled(&self, key: &PoolKey) {
        if let Some(notify) = self.dialling.borrow_mut().remove(key) {
            notify.notify_waiters();
        }
    }

    /// Closes what has idled too long; called by the worker's sweep.
    pub(crate) fn expire(&self, now: Duration) {
        let too_long = |since: Duration| now.saturating_sub(since) >= IDLE_TIME;
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|entry| !too_long(entry.since));
            !list.is_empty()
        });
        self.shared.borrow_mut().retain(|_, list| {
            list.retain(|connection| {
                if connection.streams.get() == 0 && connection.idle_since.get() == Duration::MAX {
                    connection.idle_since.set(now);
                }
                let idle = connection.streams.get() == 0 && too_long(connection.idle_since.get());
                !connection.closed.get() && !idle
            });
            !list.is_empty()
        });
    }

    /// Idle HTTP/1.1 connections and HTTP/2 connections that are open.
    pub(crate) fn open(&self) -> (usize, usize) {
        let idle = self.idle.borrow().values().map(Vec::len).sum();
        let shared = self.shared.borrow().values().map(Vec::len).sum();
        (idle, shared)
    }
}

impl Shared {
    fn has_room(&self) -> bool {
        self.streams.get() < self.sender.borrow().current_max_send_streams()
    }
}

/// Tells the pool that a connection has ended; dropped by the task that drives the connection.
pub(crate) struct Closing(Rc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closed.set(true);
    }
}

/// One stream's place on a shared connection.
pub(crate) struct H2Lease {
    connection: Rc<Shared>,
    sender: h2::client::SendRequest<Bytes>,
    age: Age,
}

impl H2Lease {
    fn on(connection: &Rc<Shared>, age: Age) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.served.set(connection.served.get() + 1);
        connection.idle_since.set(Duration::MAX);
        Self { connection: connection.clone(), sender: connection.sender.borrow().clone(), age }
    }

    pub(crate) fn age(&self) -> Age {
        self.age
    }

    pub(crate) fn sender(&mut self) -> &mut h2::client::SendRequest<Bytes> {
        &mut self.sender
    }

    /// Waits until the peer allows one more stream.
    pub(crate) async fn ready(&mut self) -> Result<(), h2::Error> {
        std::future::poll_fn(|cx| self.sender.poll_ready(cx)).await
    }
}

impl Drop for H2Lease {
    fn drop(&mut self) {
        self.connection.streams.set(self.connection.streams.get() - 1);
    }
}
