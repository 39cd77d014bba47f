//! Who talks to whom: what a worker of a member of the mesh counts for each edge, from a source identity to a workload of a destination.
//!
//! Called by `record.rs` at the end of every exchange, by `attempt.rs` and `splice.rs` for repeated tries and by `trial.rs` for ejections;
//! read at a scrape (`exposition/edges.rs`) and for reports to the control plane (`feed/member/report.rs`). A proxy outside a mesh has none
//! of this. Plain numbers of one thread, found by one lookup; names are made once per edge.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use transept_engine::exchange::Connection;
use transept_engine::judge::effective_status;
use transept_engine::reason::Reason;
use transept_engine::snapshot::{Backend, EndpointSource, Listener, Role};
use transept_xds::report::bucket_of;

use crate::path::Marks;
use crate::trip::Trip;

/// Edges that a worker keeps apart; what comes later is counted as one edge `other`.
const MOST_EDGES: usize = 4096;

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

/// Adds the edges of a worker.
pub(crate) fn add_all(graph: &mut Graph, edges: Vec<(EdgeName, EdgeTotals)>) {
    for (name, totals) in edges {
        graph.entry(name).or_default().add(&totals);
    }
}

/// The edges of one worker.
pub(crate) struct Edges {
    own: Arc<str>,
    /// Numbers of edges that begin here, by the key of the backend and the endpoint.
    called: HashMap<(u64, Option<SocketAddr>), usize, RandomState>,
    /// Numbers of edges that end here, by the identity of the caller.
    callers: HashMap<Arc<str>, usize, RandomState>,
    all: Vec<(EdgeName, EdgeTotals)>,
    other: EdgeTotals,
}

impl Edges {
    /// `own` is the identity of this process.
    pub(crate) fn new(own: Arc<str>) -> Self {
        Self {
            own,
            called: HashMap::default(),
            callers: HashMap::default(),
            all: Vec::new(),
            other: EdgeTotals::default(),
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
        let edge = match (listener.settings.role, marks.backend) {
            (Role::Inbound, _) => self.inbound(connection.identity.as_ref(), listener),
            (_, Some(backend)) => self.outbound(backend, marks.endpoint),
            (_, None) => return,
        };
        edge.ended(class, blame, took, (facts.bytes_in, facts.bytes_out));
    }

    /// Counts a try that failed at an endpoint and is repeated.
    pub(crate) fn retried(&mut self, backend: &Backend, endpoint: SocketAddr) {
        self.outbound(backend, Some(endpoint)).retries += 1;
    }

    /// Counts an endpoint that is left alone because it fails.
    pub(crate) fn ejected(&mut self, backend: &Backend, endpoint: SocketAddr) {
        self.outbound(backend, Some(endpoint)).ejections += 1;
    }

    /// Everything counted so far. A name may stand there more than once.
    pub(crate) fn all(&self) -> Vec<(EdgeName, EdgeTotals)> {
        let mut all = Vec::with_capacity(self.all.len() + 1);
        all.extend_from_slice(&self.all);
        if self.other.requests() + self.other.retries + self.other.ejections > 0 {
            all.push((other(), self.other.clone()));
        }
        all
    }

    fn outbound(&mut self, backend: &Backend, endpoint: Option<SocketAddr>) -> &mut EdgeTotals {
        // Addresses behind a name come and go, and say nothing about an instance.
        let endpoint = endpoint.filter(|_| backend.source == EndpointSource::Static);
        let key = (backend.key, endpoint);
        let number = match self.called.get(&key) {
            Some(number) => *number,
            None => {
                let name = EdgeName {
                    reporter: Reporter::Source,
                    source: self.own.clone(),
                    destination: format!("{}/{}", backend.id.namespace, backend.id.name).into(),
                    workload: endpoint.map_or_else(String::new, |endpoint| endpoint.to_string()).into(),
                };
                let Some(number) = self.begin(name) else { return &mut self.other };
                self.called.insert(key, number);
                number
            }
        };
        self.at(number)
    }

    fn inbound(&mut self, source: Option<&Arc<str>>, listener: &Listener) -> &mut EdgeTotals {
        let source = source.map_or("", |source| source);
        let number = match self.callers.get(source) {
            Some(number) => *number,
            None => {
                let instance = listener.stream.as_ref().and_then(|rule| rule.backends.first());
                let instance = instance.and_then(|backend| backend.target.as_ref().ok());
                let name = EdgeName {
                    reporter: Reporter::Destination,
                    source: source.into(),
                    destination: format!("{}/{}", listener.name.namespace, listener.name.gateway).into(),
                    workload: instance.map_or_else(|| "".into(), |backend| backend.id.name.clone()),
                };
                let source = name.source.clone();
                let Some(number) = self.begin(name) else { return &mut self.other };
                self.callers.insert(source, number);
                number
            }
        };
        self.at(number)
    }

    /// A new edge, while there is room.
    fn begin(&mut self, name: EdgeName) -> Option<usize> {
        if self.all.len() >= MOST_EDGES {
            return None;
        }
        self.all.push((name, EdgeTotals::default()));
        Some(self.all.len() - 1)
    }

    fn at(&mut self, number: usize) -> &mut EdgeTotals {
        self.all.get_mut(number).map_or(&mut self.other, |(_, totals)| totals)
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
mod tests {
    use transept_xds::report::bucket_floor;

    use super::*;

    #[test]
    fn our_own_overflow_and_refusals_are_not_the_fault_of_the_destination() {
        assert_eq!(blame(200, None), Blame::Nobody);
        assert_eq!(blame(404, None), Blame::Nobody);
        assert_eq!(blame(503, None), Blame::Destination);
        assert_eq!(blame(503, Some(Reason::UpstreamRefused)), Blame::Destination);
        assert_eq!(blame(504, Some(Reason::RequestTimeout)), Blame::Destination);
        assert_eq!(blame(503, Some(Reason::BackendOverflow)), Blame::Refusal);
        assert_eq!(blame(403, Some(Reason::NotAuthorized)), Blame::Refusal);
        assert_eq!(blame(499, Some(Reason::DownstreamClosed)), Blame::Nobody);
        assert_eq!(blame(500, Some(Reason::BackendInvalid)), Blame::Nobody);
    }

    #[test]
    fn the_last_bucket_begins_at_two_minutes() {
        let last = u32::try_from(BUCKETS - 1).expect("small");
        assert_eq!(bucket_floor(last), 1 << 27);
        let mut totals = EdgeTotals::default();
        totals.ended(2, Blame::Nobody, Duration::from_secs(3600), (1, 2));
        assert_eq!((totals.latency[BUCKETS - 1], totals.classes[2]), (1, 1));
    }

    #[test]
    fn edges_beyond_the_most_are_one() {
        let mut edges = Edges::new("spiffe://transept.local/ns/default/sa/web".into());
        let name = |number: usize| EdgeName {
            reporter: Reporter::Destination,
            source: number.to_string().into(),
            destination: "default/web".into(),
            workload: "web-1".into(),
        };
        let numbers: Vec<_> = (0..MOST_EDGES + 2).map(|number| edges.begin(name(number))).collect();
        assert_eq!(numbers.iter().flatten().count(), MOST_EDGES);
        edges.at(MOST_EDGES + 1).ended(5, Blame::Destination, Duration::ZERO, (0, 0));
        let mut graph = Graph::new();
        add_all(&mut graph, edges.all());
        add_all(&mut graph, edges.all());
        assert_eq!(graph.len(), MOST_EDGES + 1);
        let folded = graph.get(&other()).expect("the rest");
        assert_eq!((folded.requests(), folded.errors), (2, 2), "two workers are summed");
    }
}
