//! What a worker counts. Plain numbers of one thread: counting is an addition, and only a scrape sums over workers.
//!
//! Called by `record.rs` at the end of every exchange and by the verbs accept, secure and connect. The text format is
//! written in `exposition.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use transept_engine::reason::Reason;
use transept_wire::head::{Method, Version};

use crate::condition::{Absent, add_absent};

/// Upper bounds in seconds, those of the OpenTelemetry HTTP conventions.
pub(crate) const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The same bounds in microseconds, for counting.
const BUCKET_MICROS: [u64; 14] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000,
    7_500_000, 10_000_000,
];

/// Label sets a worker keeps; the names come from the configuration, so this is far away unless it is huge. What comes
/// later is counted under `other`.
const MOST_SERIES: usize = 20_000;

/// Counts with the names that they are exported under, summed over workers by [`Totals::add`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub requests: BTreeMap<Labels, Totals>,
    pub dials: BTreeMap<Arc<str>, Dials>,
    pub tls_handshakes: u64,
    pub tls_failures: u64,
    pub connections: u64,
    pub connections_refused: u64,
    pub connections_open: u64,
    pub requests_active: u64,
    pub upstream_idle: u64,
    pub upstream_shared: u64,
    pub retries: u64,
    /// Ejections of endpoints, by backend.
    pub ejections: BTreeMap<Arc<str>, u64>,
    /// Endpoints that a worker leaves alone now, by backend.
    pub absent: Absent,
}

/// What a request is counted under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Labels {
    pub listener: Arc<str>,
    pub route: Arc<str>,
    pub backend: Arc<str>,
    pub method: &'static str,
    pub status: u16,
    pub version: &'static str,
    pub scheme: &'static str,
    pub error: &'static str,
}

/// Sums of one label set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub duration: Histogram,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Counts of attempts to connect to one backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dials {
    pub duration: Histogram,
    pub failures: BTreeMap<&'static str, u64>,
}

/// Durations by bucket; the last bucket has no bound.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    pub buckets: [u64; 15],
    pub micros: u64,
}

/// One finished request.
pub(crate) struct Finished<'r> {
    pub listener: Option<&'r Arc<str>>,
    pub route: Option<&'r Arc<str>>,
    pub backend: Option<&'r Arc<str>>,
    pub method: &'r Method,
    pub status: u16,
    pub version: Version,
    pub scheme: &'static str,
    pub error: Option<Reason>,
    pub took: Duration,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// The counters of one worker.
#[derive(Default)]
pub(crate) struct Meter {
    live: HashMap<Key, Series, foldhash::fast::RandomState>,
    report: Report,
    unnamed: Option<Arc<str>>,
}

/// Label sets by the address of their names: names live as long as the snapshot, and [`Meter::settle`] is called before
/// a snapshot goes.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    names: [usize; 3],
    status: u16,
    method: u8,
    version: Version,
    secure: bool,
    error: Option<Reason>,
}

struct Series {
    labels: Labels,
    totals: Totals,
}

impl Meter {
    /// Counts a request.
    pub(crate) fn finished(&mut self, request: &Finished<'_>) {
        let address = |name: Option<&Arc<str>>| name.map_or(0, |name| name.as_ptr() as usize);
        let key = Key {
            names: [address(request.listener), address(request.route), address(request.backend)],
            status: request.status,
            method: method_number(request.method),
            version: request.version,
            secure: request.scheme == "https",
            error: request.error,
        };
        let unnamed = self.unnamed.get_or_insert_with(|| Arc::from(""));
        let series = self.live.entry(key).or_insert_with(|| Series {
            labels: Labels {
                listener: request.listener.unwrap_or(unnamed).clone(),
                route: request.route.unwrap_or(unnamed).clone(),
                backend: request.backend.unwrap_or(unnamed).clone(),
                method: method_label(request.method),
                status: request.status,
                version: version_label(request.version),
                scheme: request.scheme,
                error: request.error.map_or("", Reason::slug),
            },
            totals: Totals::default(),
        });
        series.totals.duration.observe(request.took);
        series.totals.bytes_in += request.bytes_in;
        series.totals.bytes_out += request.bytes_out;
    }

    /// Counts an attempt to connect.
    pub(crate) fn dialled(&mut self, backend: &Arc<str>, took: Duration, failure: Option<Reason>) {
        if !self.report.dials.contains_key(backend) {
            self.report.dials.insert(backend.clone(), Dials::default());
        }
        if let Some(dials) = self.report.dials.get_mut(backend) {
            match failure {
                None => dials.duration.observe(took),
                Some(reason) => *dials.failures.entry(reason.slug()).or_default() += 1,
            }
        }
    }

    /// Counts an endpoint that is left alone because it fails.
    pub(crate) fn ejected(&mut self, backend: &Arc<str>) {
        *self.report.ejections.entry(backend.clone()).or_default() += 1;
    }

    /// The counts that have no labels, to be added to.
    pub(crate) fn plain(&mut self) -> &mut Report {
        &mut self.report
    }

    /// Moves all counts to names that outlive the snapshot.
    pub(crate) fn settle(&mut self) {
        for (_, series) in self.live.drain() {
            let mut labels = series.labels;
            if self.report.requests.len() >= MOST_SERIES && !self.report.requests.contains_key(&labels) {
                let other: Arc<str> = Arc::from("other");
                (labels.listener, labels.route, labels.backend) = (other.clone(), other.clone(), other);
            }
            self.report.requests.entry(labels).or_default().add(&series.totals);
        }
    }

    /// Everything counted so far.
    pub(crate) fn report(&mut self) -> Report {
        self.settle();
        self.report.clone()
    }
}

impl Report {
    /// Adds the counts of another worker.
    pub(crate) fn add(&mut self, other: &Report) {
        for (labels, totals) in &other.requests {
            self.requests.entry(labels.clone()).or_default().add(totals);
        }
        for (backend, dials) in &other.dials {
            let sum = self.dials.entry(backend.clone()).or_default();
            sum.duration.add(&dials.duration);
            for (reason, count) in &dials.failures {
                *sum.failures.entry(reason).or_default() += count;
            }
        }
        self.tls_handshakes += other.tls_handshakes;
        self.tls_failures += other.tls_failures;
        self.connections += other.connections;
        self.connections_refused += other.connections_refused;
        self.connections_open += other.connections_open;
        self.requests_active += other.requests_active;
        self.upstream_idle += other.upstream_idle;
        self.upstream_shared += other.upstream_shared;
        self.retries += other.retries;
        for (backend, count) in &other.ejections {
            *self.ejections.entry(backend.clone()).or_default() += count;
        }
        for (backend, endpoints) in &other.absent {
            add_absent(&mut self.absent, backend, endpoints.iter().map(|(address, absence)| (*address, *absence)));
        }
    }
}

impl Totals {
    fn add(&mut self, other: &Totals) {
        self.duration.add(&other.duration);
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

impl Histogram {
    pub(crate) fn observe(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKET_MICROS.iter().position(|bound| micros <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket] += 1;
        self.micros = self.micros.saturating_add(micros);
    }

    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    fn add(&mut self, other: &Histogram) {
        for (sum, count) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += count;
        }
        self.micros = self.micros.saturating_add(other.micros);
    }
}

/// Methods that nobody has registered share one label, since a client could invent any number.
fn method_label(method: &Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(_) => "_OTHER",
    }
}

fn method_number(method: &Method) -> u8 {
    match method {
        Method::Get => 0,
        Method::Head => 1,
        Method::Post => 2,
        Method::Put => 3,
        Method::Delete => 4,
        Method::Connect => 5,
        Method::Options => 6,
        Method::Trace => 7,
        Method::Patch => 8,
        Method::Other(_) => 9,
    }
}

pub(crate) fn version_label(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
        Version::Http2 => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished<'r>(route: &'r Arc<str>, method: &'r Method) -> Finished<'r> {
        Finished {
            listener: None,
            route: Some(route),
            backend: None,
            method,
            status: 200,
            version: Version::Http11,
            scheme: "http",
            error: None,
            took: Duration::from_millis(7),
            bytes_in: 1,
            bytes_out: 2,
        }
    }

    #[test]
    fn counts_survive_the_names_they_were_counted_under() {
        let mut meter = Meter::default();
        for _ in 0..2 {
            // The same name at another address, as after a compile.
            let route: Arc<str> = Arc::from("shop/cart/0");
            meter.finished(&finished(&route, &Method::Get));
            meter.settle();
        }
        let report = meter.report();
        assert_eq!(report.requests.len(), 1);
        let totals = report.requests.values().next().unwrap();
        assert_eq!((totals.duration.count(), totals.bytes_in, totals.bytes_out), (2, 2, 4));
        assert_eq!(totals.duration.buckets[1], 2);
    }

    #[test]
    fn workers_are_summed() {
        let route: Arc<str> = Arc::from("r");
        let mut sum = Report::default();
        for _ in 0..3 {
            let mut meter = Meter::default();
            meter.finished(&finished(&route, &Method::Get));
            meter.plain().retries += 1;
            sum.add(&meter.report());
        }
        assert_eq!(sum.requests.values().next().unwrap().duration.count(), 3);
        assert_eq!(sum.retries, 3);
    }
}
