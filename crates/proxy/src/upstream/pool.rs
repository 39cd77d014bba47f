//! Connections of one worker to the endpoints: idle HTTP/1.1 ones, and HTTP/2 ones that streams share.
//!
//! Called by `dial.rs` before it dials and by the road when an exchange is complete. Nothing is shared between workers,
//! so taking and returning a connection needs no lock.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use tokio::sync::Notify;

use transept_engine::reason::Reason;
use transept_wire::h1::Body;
use transept_wire::head::Request;

use super::Age;
use crate::failure::{Failure, Repeat, Side};
use crate::h2::{Cut, Link, Stream};
use crate::io::Io;

/// Idle HTTP/1.1 connections kept for one key.
const IDLE_PER_KEY: usize = 256;

/// How long a connection may idle. Servers that close sooner are found out by [`Io::is_stale`].
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
    dialling: RefCell<HashMap<PoolKey, Rc<Dial>>>,
    /// Keys whose servers chose HTTP/1.1 by ALPN: there every request dials for itself.
    only_h1: RefCell<HashSet<PoolKey>>,
}

struct Idle {
    io: Io,
    since: Duration,
}

/// A connection attempt that others wait for.
#[derive(Default)]
pub(crate) struct Dial {
    over: Notify,
    failure: RefCell<Option<(Reason, Cow<'static, str>)>>,
}

/// A place in the row of those who wait for a connection.
pub(crate) enum Waiting {
    /// For it to be made.
    Dial(Rc<Dial>),
    /// For the backend to say how many streams it takes.
    Greeting(Rc<Link>),
}

impl Waiting {
    /// Waits for the attempt; its failure is everybody's.
    pub(crate) async fn outcome(&self) -> Result<(), Failure> {
        let dial = match self {
            Waiting::Dial(dial) => dial,
            Waiting::Greeting(link) => {
                link.greeting().await;
                return Ok(());
            }
        };
        dial.over.notified().await;
        match &*dial.failure.borrow() {
            None => Ok(()),
            Some((reason, detail)) => Err(Failure::new(Side::Upstream, *reason, Repeat::Safe, detail.clone())),
        }
    }
}

/// An attempt of our own. When it is dropped, those who wait go on.
pub(crate) struct Dialling<'p> {
    pool: &'p Pool,
    key: PoolKey,
}

impl<'p> Dialling<'p> {
    pub(crate) fn new(pool: &'p Pool, key: PoolKey) -> Self {
        Self { pool, key }
    }

    /// Ends the attempt with a failure that is everybody's.
    pub(crate) fn failed(self, failure: &Failure) {
        if let Some(dial) = self.pool.dialling.borrow().get(&self.key) {
            *dial.failure.borrow_mut() = Some((failure.reason, failure.detail.clone()));
        }
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        if let Some(dial) = self.pool.dialling.borrow_mut().remove(&self.key) {
            dial.over.notify_waiters();
        }
    }
}

/// One HTTP/2 connection.
struct Shared {
    link: Rc<Link>,
    streams: Cell<usize>,
    idle_since: Cell<Duration>,
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
        list.retain(|connection| !connection.link.is_closed());
        let connection = list.iter().find(|connection| connection.has_room())?;
        Some(H2Lease::on(connection, Age::Reused))
    }

    /// Adds a connection and takes its first stream.
    pub(crate) fn add(&self, key: PoolKey, link: Rc<Link>) -> H2Lease {
        let connection = Rc::new(Shared { link, streams: Cell::new(0), idle_since: Cell::new(Duration::MAX) });
        let lease = H2Lease::on(&connection, Age::Fresh);
        self.shared.borrow_mut().entry(key).or_default().push(connection);
        lease
    }

    /// The connection attempt of somebody else, to wait for. None: the caller dials, under a [`Dialling`].
    pub(crate) fn await_dialled(&self, key: PoolKey) -> Option<Waiting> {
        if self.only_h1.borrow().contains(&key) {
            return None;
        }
        let mut dialling = self.dialling.borrow_mut();
        if let Some(dial) = dialling.get(&key) {
            return Some(Waiting::Dial(dial.clone()));
        }
        if let Some(new) = self.shared.borrow().get(&key).and_then(|list| list.iter().find(|one| one.link.is_new())) {
            return Some(Waiting::Greeting(new.link.clone()));
        }
        dialling.insert(key, Rc::default());
        None
    }

    /// Remembers that the server speaks HTTP/1.1 only.
    pub(crate) fn agreed_on_h1(&self, key: PoolKey) {
        self.only_h1.borrow_mut().insert(key);
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
                !connection.link.is_closed() && !idle
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
        self.link.has_room(self.streams.get())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.link.retire();
    }
}

/// One stream's place on a shared connection.
pub(crate) struct H2Lease {
    // Dropped before the connection may be.
    stream: Option<Stream>,
    connection: Rc<Shared>,
    age: Age,
}

impl H2Lease {
    fn on(connection: &Rc<Shared>, age: Age) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.idle_since.set(Duration::MAX);
        Self { stream: None, connection: connection.clone(), age }
    }

    pub(crate) fn age(&self) -> Age {
        self.age
    }

    /// Opens the stream with a request.
    ///
    /// # Errors
    /// When the connection takes no more streams.
    pub(crate) fn open(&mut self, request: &Request, body: &Body) -> Result<&Stream, Cut> {
        let stream = Stream::open(&self.connection.link, request, body)?;
        Ok(self.stream.insert(stream))
    }

    /// Takes the stream out of the lease, for a use that outlives one exchange. The lease keeps its place.
    pub(crate) fn take_stream(&mut self) -> Option<Stream> {
        self.stream.take()
    }
}

impl Drop for H2Lease {
    fn drop(&mut self) {
        self.connection.streams.set(self.connection.streams.get() - 1);
    }
}
