//! Connections of one worker to the endpoints: idle HTTP/1.1 ones, and HTTP/2 ones that streams share.
//!
//! Called by `dial.rs` before it dials and by the road when an exchange is complete. Nothing is shared between workers,
//! so taking and returning a connection needs no lock.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use tokio::sync::Notify;

use transept_engine::reason::Reason;
use transept_engine::traffic::{Ledger, Permit};
use transept_wire::h1::Body;
use transept_wire::head::Request;

use super::Age;
use crate::failure::{Failure, Repeat, Side};
use crate::h2::{Cut, Link, Stream, Ungreeted};
use crate::io::Io;

/// Idle HTTP/1.1 connections kept for one key.
const IDLE_PER_KEY: usize = 256;

/// How long a connection may idle. Servers that close sooner are found out by [`Io::is_stale`].
const IDLE_TIME: Duration = Duration::from_secs(55);

/// The same for a connection between two proxies of the mesh that carries no tunnel any more.
const CARRIER_IDLE_TIME: Duration = Duration::from_secs(300);

/// Of so many connections that are handed to somebody who waits, one goes to the other workers when they wait too.
const TURN_OF_OTHERS: u32 = 8;

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
    wanted: RefCell<HashMap<PoolKey, Rc<Wanted>>>,
    /// Counts what was handed over, so that the other workers get their part.
    handed: Cell<u32>,
    /// Numbers the HTTP/2 connections, in the order in which they were made.
    made: Cell<u64>,
}

struct Idle {
    io: Io,
    since: Duration,
    permit: Option<Permit>,
}

/// Those of this worker who wait for a connection of one key, where connections are limited.
#[derive(Default)]
struct Wanted {
    count: Cell<usize>,
    free: Notify,
}

/// Somebody who would take a connection that becomes free.
pub(crate) struct Wish(Rc<Wanted>);

impl Wish {
    /// Ready when there may be one.
    pub(crate) async fn granted(&self) {
        self.0.free.notified().await;
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
    }
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
                return link.greeting().await.map_err(|ungreeted| ungreeted.failure());
            }
        };
        dial.over.notified().await;
        match &*dial.failure.borrow() {
            None => Ok(()),
            Some((reason, detail)) => Err(Failure::new(Side::Upstream, *reason, Repeat::Safe, detail.clone())),
        }
    }
}

impl Ungreeted {
    fn failure(self) -> Failure {
        let (reason, detail) = match self {
            Ungreeted::Mute => {
                (Reason::UpstreamConnectTimeout, "the backend has taken a connection and said nothing in time")
            }
            Ungreeted::Ended => {
                (Reason::UpstreamRefused, "the backend has taken a connection and ended it without a word of HTTP/2")
            }
        };
        Failure::new(Side::Upstream, reason, Repeat::Safe, detail)
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
    number: u64,
    streams: Cell<usize>,
    idle_since: Cell<Duration>,
    idle_time: Duration,
    /// Those who wait for a stream, where connections are limited.
    wanted: Option<Rc<Wanted>>,
    permit: Option<Permit>,
}

impl Pool {
    /// The connection that was used last, if it is still good. With a ledger, only one that it counts.
    pub(crate) fn take(&self, key: &PoolKey, counted: Option<&Arc<Ledger>>) -> Option<(Io, Option<Permit>)> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(key)?;
        while let Some(entry) = list.pop() {
            if !entry.io.is_stale() && counted.is_none_or(|ledger| is_of(entry.permit.as_ref(), ledger)) {
                return Some((entry.io, entry.permit));
            }
        }
        None
    }

    /// Keeps a connection for the next request. One that others wait for is theirs: those of this worker use it as it is, for those of
    /// the others it is closed, because what they need is room.
    pub(crate) fn put_back(&self, key: PoolKey, io: Io, permit: Option<Permit>, now: Duration) {
        let waiting = permit.as_ref().map_or(0, |permit| permit.ledger().waiting());
        let wanted = if waiting > 0 { self.wanted.borrow().get(&key).cloned() } else { None };
        let here = wanted.as_ref().map_or(0, |wanted| wanted.count.get());
        if waiting > here {
            let handed = self.handed.get().wrapping_add(1);
            self.handed.set(handed);
            if here == 0 || handed.is_multiple_of(TURN_OF_OTHERS) {
                return;
            }
        }
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(key).or_default();
        if list.len() < IDLE_PER_KEY {
            list.push(Idle { io, since: now, permit });
        }
        if let Some(wanted) = wanted.filter(|_| here > 0) {
            wanted.free.notify_one();
        }
    }

    /// Closes a connection that idles and is counted by this ledger, whatever endpoint it leads to.
    pub(crate) fn make_room(&self, ledger: &Arc<Ledger>) -> bool {
        for list in self.idle.borrow_mut().values_mut() {
            // The one that has idled longest comes first.
            if let Some(at) = list.iter().position(|entry| is_of(entry.permit.as_ref(), ledger)) {
                list.remove(at);
                return true;
            }
        }
        let can_go = |connection: &Rc<Shared>| connection.is_idle() && is_of(connection.permit.as_ref(), ledger);
        for list in self.shared.borrow_mut().values_mut() {
            if let Some(at) = list.iter().position(can_go) {
                list.remove(at);
                return true;
            }
        }
        false
    }

    /// Says that a connection of this key would be taken.
    pub(crate) fn wish(&self, key: PoolKey) -> Wish {
        let wanted = self.wanted.borrow_mut().entry(key).or_default().clone();
        wanted.count.set(wanted.count.get() + 1);
        Wish(wanted)
    }

    /// The number of the HTTP/2 connection that was made last.
    pub(crate) fn youngest(&self) -> u64 {
        self.made.get()
    }

    /// A stream on a connection that has room, and a higher number than `older`. With a ledger, only one that it counts.
    pub(crate) fn share(&self, key: &PoolKey, counted: Option<&Arc<Ledger>>, older: u64) -> Option<H2Lease> {
        let mut shared = self.shared.borrow_mut();
        let list = shared.get_mut(key)?;
        list.retain(|connection| !connection.link.is_closed() && !connection.is_useless());
        let fits = |connection: &&Rc<Shared>| {
            connection.number > older
                && connection.has_room()
                && counted.is_none_or(|ledger| is_of(connection.permit.as_ref(), ledger))
        };
        let connection = list.iter().find(fits)?;
        Some(H2Lease::on(connection, Age::Reused))
    }

    /// Adds a connection and takes its first stream.
    pub(crate) fn add(&self, key: PoolKey, link: Rc<Link>, permit: Option<Permit>) -> H2Lease {
        let wanted = permit.as_ref().map(|_| self.wanted.borrow_mut().entry(key).or_default().clone());
        self.begin(key, Shared::new(self.number(), link, IDLE_TIME, wanted, permit))
    }

    /// The same for a connection between two proxies of the mesh, whose streams are tunnels.
    pub(crate) fn add_carrier(&self, key: PoolKey, link: Rc<Link>) -> H2Lease {
        self.begin(key, Shared::new(self.number(), link, CARRIER_IDLE_TIME, None, None))
    }

    fn number(&self) -> u64 {
        self.made.set(self.made.get() + 1);
        self.made.get()
    }

    fn begin(&self, key: PoolKey, connection: Shared) -> H2Lease {
        let connection = Rc::new(connection);
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

    /// Closes what has idled too long, and what idles in a tunnel whose other end is about to go; called by the worker's sweep.
    pub(crate) fn expire(&self, now: Duration) {
        let too_long = |since: Duration, most: Duration| now.saturating_sub(since) >= most;
        // Another worker may need the room: who waits in this one has taken it already.
        let in_the_way = |permit: Option<&Permit>| permit.is_some_and(|permit| permit.ledger().waiting() > 0);
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|entry| {
                let is_over =
                    too_long(entry.since, IDLE_TIME) || entry.io.carrier().is_some_and(|carrier| carrier.is_closed());
                !is_over && !in_the_way(entry.permit.as_ref())
            });
            !list.is_empty()
        });
        self.shared.borrow_mut().retain(|_, list| {
            list.retain(|connection| {
                if connection.streams.get() == 0 && connection.idle_since.get() == Duration::MAX {
                    connection.idle_since.set(now);
                }
                let over = too_long(connection.idle_since.get(), connection.idle_time)
                    || in_the_way(connection.permit.as_ref());
                !(connection.link.is_closed() || connection.is_idle() && over)
            });
            !list.is_empty()
        });
        self.wanted.borrow_mut().retain(|_, wanted| Rc::strong_count(wanted) > 1);
    }

    /// Idle HTTP/1.1 connections and HTTP/2 connections that are open.
    pub(crate) fn open(&self) -> (usize, usize) {
        let idle = self.idle.borrow().values().map(Vec::len).sum();
        let shared = self.shared.borrow().values().map(Vec::len).sum();
        (idle, shared)
    }
}

/// Whether a connection is counted by this ledger.
fn is_of(permit: Option<&Permit>, ledger: &Arc<Ledger>) -> bool {
    permit.is_some_and(|permit| Arc::ptr_eq(permit.ledger(), ledger))
}

impl Shared {
    fn new(
        number: u64,
        link: Rc<Link>,
        idle_time: Duration,
        wanted: Option<Rc<Wanted>>,
        permit: Option<Permit>,
    ) -> Self {
        Self { link, number, streams: Cell::new(0), idle_since: Cell::new(Duration::MAX), idle_time, wanted, permit }
    }

    fn is_idle(&self) -> bool {
        self.streams.get() == 0
    }

    fn has_room(&self) -> bool {
        self.link.has_room(self.streams.get())
    }

    /// Whether its peer takes no stream at all, not even a first one.
    fn is_useless(&self) -> bool {
        self.is_idle() && self.link.takes_none()
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

    /// Whether the connection takes no more streams.
    pub(crate) fn is_over(&self) -> bool {
        self.connection.link.is_closed()
    }

    /// Whether the connection is in a tunnel.
    pub(crate) fn is_in_tunnel(&self) -> bool {
        self.connection.link.is_in_tunnel()
    }

    /// Waits for this time at most until it takes no more.
    pub(crate) async fn await_close(&self, most: Duration) {
        self.connection.link.await_close(most).await;
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
        if let Some(wanted) = self.connection.wanted.as_ref().filter(|wanted| wanted.count.get() > 0) {
            wanted.free.notify_one();
        }
    }
}
