//! Who talks to whom: what a worker of a member of the mesh counts for each edge, from a source identity to a workload of a destination.
//!
//! Called by `record.rs` at the end of every exchange, by `attempt.rs` and `splice.rs` for repeated tries and by `trial.rs` for ejections;
//! read at a scrape (`exposition/edges.rs`) and for reports to the control plane (`feed/member/report.rs`). A proxy outside a mesh has none
//! of this. Plain numbers of one thread, found by one lookup; names are made once per edge, and which of them there is room for is
//! decided by the [`Ledger`] of the process. A connection that is not HTTP is counted while it is open, by its [`Ride`].

pub(crate) mod ledger;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use transept_engine::exchange::Connection;
use transept_engine::judge::effective_status;
use transept_engine::reason::Reason;
use transept_engine::snapshot::{Backend, EndpointSource, Listener, Role};
use transept_xds::report::bucket_of;

use self::ledger::{Ledger, Mark};
use crate::path::Marks;
use crate::trip::Trip;

/// Buckets of latency: up to 2^27 microseconds, a little over two minutes. What takes longer is in the last one.
pub(crate) const BUCKETS: usize = 105;

/// What an exchange was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Carried {
    /// A request with its response.
    #[default]
    Request,
    /// A connection that was not looked into.
    Connection,
}

/// Which end of an edge counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reporter {
    /// The side that calls.
    Source,
    /// The side that is called.
    Destination,
}

impl Reporter {
    /// The word for metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
        }
    }
}

/// What an edge is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EdgeName {
    pub reporter: Reporter,
    /// The identity of the caller.
    pub source: Arc<str>,
    /// `namespace/name` of the Service or Backend.
    pub destination: Arc<str>,
    /// The address of the endpoint, as the source knows it; the name of the instance, as the destination does. Empty when none was reached,
    /// or when endpoints come and go by DNS.
    pub workload: Arc<str>,
}

impl EdgeName {
    /// Whether it stands for all edges that there was no room for.
    pub(crate) fn is_other(&self) -> bool {
        &*self.source == OTHER
    }
}

/// The name of everything that there was no room for; no identity is like it.
const OTHER: &str = "other";

/// Sums of one edge.
#[derive(Clone, Debug)]
pub(crate) struct EdgeTotals {
    /// Requests by the first digit of their status; at 0 connections, and requests that got none.
    pub classes: [u64; 6],
    /// Those that failed by the destination's fault.
    pub errors: u64,
    /// Those that a policy or a limit refused.
    pub refusals: u64,
    /// Tries that failed here and were repeated.
    pub retries: u64,
    /// Times that the workload was ejected.
    pub ejections: u64,
    /// Bytes of bodies towards the destination.
    pub bytes_sent: u64,
    /// Bytes of bodies from it.
    pub bytes_received: u64,
    /// The sum of all latencies in microseconds.
    pub micros: u64,
    /// Latencies by `bucket_of`.
    pub latency: [u64; BUCKETS],
    /// Connections that are not HTTP and are open now.
    pub open: u64,
    /// Which of the edges of this name it is: it began to count at zero when this number was given.
    pub born: u64,
}

impl Default for EdgeTotals {
    fn default() -> Self {
        Self {
            classes: [0; 6],
            errors: 0,
            refusals: 0,
            retries: 0,
            ejections: 0,
            bytes_sent: 0,
            bytes_received: 0,
            micros: 0,
            latency: [0; BUCKETS],
            open: 0,
            born: 0,
        }
    }
}

impl EdgeTotals {
    /// All that ended.
    pub(crate) fn requests(&self) -> u64 {
        self.classes.iter().sum()
    }

    pub(crate) fn add(&mut self, other: &EdgeTotals) {
        let arrays = self.classes.iter_mut().zip(&other.classes).chain(self.latency.iter_mut().zip(&other.latency));
        arrays.for_each(|(sum, count)| *sum += count);
        self.errors += other.errors;
        self.refusals += other.refusals;
        self.retries += other.retries;
        self.ejections += other.ejections;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.micros = self.micros.saturating_add(other.micros);
        self.open += other.open;
        self.born = self.born.max(other.born);
    }

    fn ended(&mut self, class: usize, blame: Blame, took: Duration, (sent, received): (u64, u64)) {
        self.classes[class] += 1;
        match blame {
            Blame::Nobody => {}
            Blame::Destination => self.errors += 1,
            Blame::Refusal => self.refusals += 1,
        }
        self.bytes_sent += sent;
        self.bytes_received += received;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros = self.micros.saturating_add(micros);
        let bucket = usize::try_from(bucket_of(micros)).unwrap_or(BUCKETS).min(BUCKETS - 1);
        self.latency[bucket] += 1;
    }
}

/// All edges of a process, summed over its workers.
pub(crate) type Graph = BTreeMap<EdgeName, EdgeTotals>;

/// An edge as one worker has counted it.
#[derive(Clone)]
pub(crate) struct Counted {
    name: EdgeName,
    totals: EdgeTotals,
    /// None for `other`.
    mark: Option<Arc<Mark>>,
}

/// The sums over all workers. An edge that was forgotten while they were asked is left out: some may have told of it and others not.
pub(crate) fn add_all(edges: Vec<Counted>) -> Graph {
    let mut graph = Graph::new();
    for edge in edges {
        if !edge.mark.is_some_and(|mark| mark.is_forgotten()) {
            graph.entry(edge.name).or_default().add(&edge.totals);
        }
    }
    graph
}

/// A connection that is not HTTP, on an edge. It is open until this is dropped.
pub(crate) struct Ride {
    /// The number of its edge; none when there was no room for it.
    edge: Option<usize>,
    /// Bytes moved so far, towards the destination and from it.
    moved: Cell<(u64, u64)>,
    /// Those that the edge has counted.
    counted: Cell<(u64, u64)>,
}

impl Ride {
    /// Notes how many bytes have moved since the beginning.
    pub(crate) fn note(&self, sent: u64, received: u64) {
        self.moved.set((sent, received));
    }

    /// The bytes that are not counted yet, and now are.
    fn take(&self) -> (u64, u64) {
        let (moved, counted) = (self.moved.get(), self.counted.get());
        self.counted.set(moved);
        (moved.0.saturating_sub(counted.0), moved.1.saturating_sub(counted.1))
    }
}

/// The edges of one worker.
pub(crate) struct Edges {
    own: Arc<str>,
    ledger: Arc<Ledger>,
    /// Numbers of edges that begin here, by the key of the backend and the endpoint.
    called: HashMap<(u64, Option<SocketAddr>), usize, RandomState>,
    /// Numbers of edges that end here, by the identity of the caller.
    callers: HashMap<Arc<str>, usize, RandomState>,
    /// By number. A place is empty when its edge has been forgotten.
    all: Vec<Option<Counted>>,
    empty: Vec<usize>,
    other: EdgeTotals,
    /// Connections that are counted while they are open.
    rides: Vec<Weak<Ride>>,
    /// The second in which it is, on the clock of all workers.
    second: u32,
    /// In this second there was no room for another edge.
    full: bool,
    /// How many edges had been forgotten when this worker last emptied their places.
    forgotten: u64,
}

impl Edges {
    /// `own` is the identity of this process.
    pub(crate) fn new(own: Arc<str>, ledger: Arc<Ledger>) -> Self {
        Self {
            own,
            ledger,
            called: HashMap::default(),
            callers: HashMap::default(),
            all: Vec::new(),
            empty: Vec::new(),
            other: EdgeTotals::default(),
            rides: Vec::new(),
            second: 0,
            full: false,
            forgotten: 0,
        }
    }

    /// Once in a second: counts what open connections have moved, and empties the places of edges that were forgotten.
    pub(crate) fn tidy(&mut self, now: Duration) {
        let second = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        if second == self.second {
            return;
        }
        (self.second, self.full) = (second, false);
        self.weigh();
        let forgotten = self.ledger.forgotten();
        if forgotten != std::mem::replace(&mut self.forgotten, forgotten) {
            let Self { all, called, callers, empty, .. } = self;
            let is_there =
                |number: &usize| all.get(*number).is_some_and(|edge| edge.as_ref().is_some_and(Counted::counts));
            called.retain(|_, number| is_there(number));
            callers.retain(|_, number| is_there(number));
            for (number, place) in all.iter_mut().enumerate() {
                if place.take_if(|edge| !edge.counts()).is_some() {
                    empty.push(number);
                }
            }
        }
    }

    /// Begins to count a connection that is not HTTP; it has been let in and connected.
    pub(crate) fn begin(
        &mut self,
        listener: &Listener,
        connection: &Connection,
        backend: &Backend,
        endpoint: SocketAddr,
    ) -> Rc<Ride> {
        let edge = match listener.settings.role {
            Role::Inbound => self.find_inbound(connection.identity.as_ref(), listener),
            _ => self.find_outbound(backend, Some(endpoint)),
        };
        let ride = Rc::new(Ride { edge, moved: Cell::default(), counted: Cell::default() });
        if self.rides.len() == self.rides.capacity() {
            self.rides.retain(|ride| ride.strong_count() > 0);
        }
        self.rides.push(Rc::downgrade(&ride));
        ride
    }

    /// Counts what open connections have moved. Their edges are in use, however quiet they are.
    fn weigh(&mut self) {
        let Self { rides, all, other, second, .. } = self;
        rides.retain(|ride| ride.strong_count() > 0);
        for ride in rides.iter().filter_map(Weak::upgrade) {
            let (sent, received) = ride.take();
            let edge = ride.edge.and_then(|number| all.get_mut(number)?.as_mut());
            let totals = match edge {
                Some(edge) => {
                    edge.touch(*second);
                    &mut edge.totals
                }
                None => &mut *other,
            };
            totals.bytes_sent += sent;
            totals.bytes_received += received;
        }
    }

    /// Counts an exchange that has ended. One that belongs to no edge, such as a request for which there is no route, is not counted.
    pub(crate) fn ended(&mut self, trip: &Trip, marks: &Marks<'_>, connection: &Connection, took: Duration) {
        let Some(listener) = marks.listener else { return };
        let facts = &trip.facts;
        let (class, status) = match marks.carried {
            Carried::Connection => (0, facts.status),
            Carried::Request => {
                let status = if facts.error.is_none() { effective_status(&trip.response) } else { facts.status };
                (usize::from(facts.status / 100).min(5), status)
            }
        };
        let blame = blame(status, facts.error);
        let number = match (marks.ride, listener.settings.role, marks.backend) {
            (Some(ride), ..) => ride.edge,
            (None, Role::Inbound, _) => self.find_inbound(connection.identity.as_ref(), listener),
            (None, _, Some(backend)) => self.find_outbound(backend, marks.endpoint),
            (None, _, None) => return,
        };
        let bytes = match marks.ride {
            Some(ride) => {
                ride.note(facts.bytes_in, facts.bytes_out);
                ride.take()
            }
            None => (facts.bytes_in, facts.bytes_out),
        };
        self.at(number).ended(class, blame, took, bytes);
    }

    /// Counts a try that failed at an endpoint and is repeated.
    pub(crate) fn retried(&mut self, backend: &Backend, endpoint: SocketAddr) {
        let number = self.find_outbound(backend, Some(endpoint));
        self.at(number).retries += 1;
    }

    /// Counts an endpoint that is left alone because it fails.
    pub(crate) fn ejected(&mut self, backend: &Backend, endpoint: SocketAddr) {
        let number = self.find_outbound(backend, Some(endpoint));
        self.at(number).ejections += 1;
    }

    /// Everything counted so far. A name may stand there more than once.
    pub(crate) fn all(&mut self) -> Vec<Counted> {
        self.weigh();
        let mut all = self.all.clone();
        let mut other = Counted { name: other(), totals: self.other.clone(), mark: None };
        for ride in self.rides.iter().filter_map(Weak::upgrade) {
            let edge = ride.edge.and_then(|number| all.get_mut(number)?.as_mut());
            edge.unwrap_or(&mut other).totals.open += 1;
        }
        let counts = other.totals.requests() + other.totals.retries + other.totals.ejections + other.totals.open;
        let mut all: Vec<Counted> = all.into_iter().flatten().collect();
        all.extend(Some(other).filter(|_| counts > 0));
        all
    }

    fn find_outbound(&mut self, backend: &Backend, endpoint: Option<SocketAddr>) -> Option<usize> {
        // Addresses behind a name come and go, and say nothing about an instance.
        let endpoint = endpoint.filter(|_| backend.source == EndpointSource::Static);
        let key = (backend.key, endpoint);
        let known = self.called.get(&key).copied().filter(|number| self.is_known(*number));
        if known.is_some() || self.full {
            return known;
        }
        let name = EdgeName {
            reporter: Reporter::Source,
            source: self.own.clone(),
            destination: format!("{}/{}", backend.id.namespace, backend.service()).into(),
            workload: endpoint.map_or_else(String::new, |endpoint| endpoint.to_string()).into(),
        };
        let number = self.add(name)?;
        self.called.insert(key, number);
        Some(number)
    }

    fn find_inbound(&mut self, source: Option<&Arc<str>>, listener: &Listener) -> Option<usize> {
        let source = source.map_or("", |source| source);
        let known = self.callers.get(source).copied().filter(|number| self.is_known(*number));
        if known.is_some() || self.full {
            return known;
        }
        let instance = listener.stream.as_ref().and_then(|rule| rule.backends.first());
        let instance = instance.and_then(|backend| backend.target.as_ref().ok());
        let name = EdgeName {
            reporter: Reporter::Destination,
            source: source.into(),
            destination: format!("{}/{}", listener.name.namespace, listener.name.gateway).into(),
            workload: instance.map_or_else(|| "".into(), |backend| backend.id.name.clone()),
        };
        let source = name.source.clone();
        let number = self.add(name)?;
        self.callers.insert(source, number);
        Some(number)
    }

    /// Whether an edge has not been forgotten.
    fn is_known(&self, number: usize) -> bool {
        self.all.get(number).is_some_and(|edge| edge.as_ref().is_some_and(Counted::counts))
    }

    /// A new edge, if there is room.
    fn add(&mut self, name: EdgeName) -> Option<usize> {
        let Some(mark) = self.ledger.enter(&name, self.second) else {
            // In this second nobody asks again.
            self.full = true;
            return None;
        };
        let totals = EdgeTotals { born: mark.born(), ..EdgeTotals::default() };
        let edge = Some(Counted { name, totals, mark: Some(mark) });
        match self.empty.pop() {
            Some(number) => {
                self.all[number] = edge;
                Some(number)
            }
            None => {
                self.all.push(edge);
                Some(self.all.len() - 1)
            }
        }
    }

    /// The sums of an edge that is used now.
    fn at(&mut self, number: Option<usize>) -> &mut EdgeTotals {
        match number.and_then(|number| self.all.get_mut(number)?.as_mut()) {
            Some(edge) => {
                edge.touch(self.second);
                &mut edge.totals
            }
            None => {
                self.ledger.overflow();
                &mut self.other
            }
        }
    }
}

impl Counted {
    /// Whether it has not been forgotten.
    fn counts(&self) -> bool {
        !self.mark.as_ref().is_some_and(|mark| mark.is_forgotten())
    }

    fn touch(&self, second: u32) {
        if let Some(mark) = &self.mark {
            mark.touch(second);
        }
    }
}

/// The name of all edges that there was no room for.
fn other() -> EdgeName {
    let word: Arc<str> = Arc::from(OTHER);
    EdgeName { reporter: Reporter::Source, source: word.clone(), destination: word.clone(), workload: word }
}

/// Whose fault it is that an exchange ended as it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// It went well, or by the fault of the caller or of the configuration.
    Nobody,
    Destination,
    /// A policy or a limit, ours or that of the other side, did not let it pass.
    Refusal,
}

fn blame(status: u16, error: Option<Reason>) -> Blame {
    let Some(reason) = error else {
        return if status >= 500 { Blame::Destination } else { Blame::Nobody };
    };
    match reason {
        Reason::NoEndpoints
        | Reason::MeshNoTunnel
        | Reason::UpstreamDns
        | Reason::UpstreamRefused
        | Reason::UpstreamConnectTimeout
        | Reason::UpstreamReset
        | Reason::UpstreamTls
        | Reason::UpstreamCertificate
        | Reason::UpstreamMalformed
        | Reason::UpstreamHeadTooLarge
        | Reason::UpstreamIncomplete
        | Reason::UpstreamUpgrade
        | Reason::UpstreamTimeout
        | Reason::RequestTimeout => Blame::Destination,
        Reason::AddressDenied
        | Reason::MeshDenied
        | Reason::MeshPlaintext
        | Reason::NotAuthorized
        | Reason::CorsOriginDenied
        | Reason::ConnectionLimit
        | Reason::Overloaded
        | Reason::BackendOverflow => Blame::Refusal,
        _ => Blame::Nobody,
    }
}

#[cfg(test)]
mod tests;
