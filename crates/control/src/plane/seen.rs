//! What proxies see of the mesh, folded: figures per edge and service, a verdict on every service, and live requests for who watches.
//!
//! Fed by `serve/report.rs`, asked by `core/sight.rs`, which also tells what the registry knows. `book` keeps the reports, `verdict` judges,
//! `taps` hands on live requests, `show` writes it down. Nothing here is stored: after a restart proxies tell again.

mod book;
mod figures;
mod show;
mod taps;
mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use transept_identity::SpiffeId;
use transept_xds::report::{End, Report, Tap};

use self::book::{Book, EdgeKey, RECENT};
use self::figures::Figures;
use self::verdict::{Standing, Window};

pub(super) use self::taps::{Taps, Told, Watcher};
pub use self::verdict::Verdict;

/// Reports of a proxy that fall into one window, so that none is empty by chance.
const REPORTS_PER_WINDOW: u32 = 2;

/// What is known of services besides the reports, by `namespace/name`.
pub(super) type Known = BTreeMap<String, Vec<Instance>>;

/// A registered instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    /// Its name.
    pub(super) name: String,
    /// Its addresses with ports, as callers know it.
    pub(super) addresses: Vec<String>,
    /// How it is by its own word.
    pub(super) state: State,
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Well,
    /// It fails its checks.
    Unwell,
    /// It gives no sign of life.
    Silent,
    /// Nor does this one, and it is called all the same: most fell silent together, or nobody else is heard who serves what it serves.
    Kept,
    /// It ends.
    Draining,
}

/// One stream of reports.
#[derive(Debug)]
pub(super) struct Stream(book::Stream);

/// All that is seen.
#[derive(Debug)]
pub(super) struct Seen {
    interval: Duration,
    book: Book,
    standings: BTreeMap<String, Standing>,
    /// The first window that is not judged yet.
    judged: u64,
    pub(super) taps: Taps,
}

/// The edges by caller and service.
type Edges = BTreeMap<(Arc<str>, Arc<str>), Edge>;

/// An edge with all that tell of it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Edge {
    all: Sums,
    /// By workload: the same.
    workloads: BTreeMap<Arc<str>, Sums>,
}

/// What was counted together.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sums {
    total: Figures,
    recent: Figures,
    /// Requests per second.
    rate: f64,
}

impl Sums {
    fn add(&mut self, total: &Figures, recent: &Figures, rate: f64) {
        self.total.add(total);
        self.recent.add(recent);
        self.rate += rate;
    }
}

impl Seen {
    /// With so much time between two reports of a proxy.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            book: Book::new(interval * REPORTS_PER_WINDOW),
            standings: BTreeMap::new(),
            judged: 0,
            taps: Taps::default(),
        }
    }

    /// How much time to leave between reports.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Somebody with this proven identity begins to report.
    pub(super) fn open(&mut self, identity: &SpiffeId) -> Stream {
        Stream(self.book.open(identity))
    }

    /// Takes a report in.
    pub(super) fn take(&mut self, stream: &mut Stream, report: &Report, now: Duration) {
        let is_news = self.book.take(&mut stream.0, report, now);
        if is_news && let Some(service) = stream.0.own_service() {
            self.taps.hear(service, &report.tapped, report.left_out);
        }
    }

    /// How many proxies with this identity report now.
    pub(super) fn proxies_of(&self, identity: &str) -> usize {
        self.book.proxies_of(identity)
    }

    /// A stream has ended.
    pub(super) fn close(&mut self, stream: &Stream, now: Duration) {
        self.book.close(&stream.0, now);
    }

    /// The taps that the proxy at the other end of a stream is to hear.
    pub(super) fn wanted(&self, stream: &Stream) -> Vec<Tap> {
        stream.0.own_service().map(|service| self.taps.wanted(service)).unwrap_or_default()
    }

    /// Judges every window that has ended.
    pub(super) fn fold(&mut self, known: &Known, now: Duration) {
        self.book.sweep(now);
        let current = self.book.window_at(now);
        if self.judged >= current {
            return;
        }
        // What is longer ago than that is not held any more.
        for window in self.judged.max(current.saturating_sub(RECENT))..current {
            let mut seen = self.windows(known, window, now);
            // Who is seen no more falls silent by windows too.
            for service in self.standings.keys().filter(|service| !known.contains_key(*service)) {
                seen.entry(service.clone()).or_default();
            }
            for (service, window) in seen {
                let standing = self.standings.entry(service.clone()).or_default();
                if standing.note(window.verdict()) {
                    tell_change(&service, standing.verdict(), &window);
                }
            }
        }
        self.judged = current;
        let named = self.edges(now);
        self.standings.retain(|service, standing| {
            standing.verdict() != Verdict::Unknown
                || known.contains_key(service)
                || named.keys().any(|(_, called)| **called == **service)
        });
    }

    /// What one window shows of every service.
    fn windows(&self, known: &Known, window: u64, now: Duration) -> BTreeMap<String, Window> {
        let mut all: BTreeMap<String, Window> = BTreeMap::new();
        for ((_, service), edge) in self.edges_of(window, now) {
            let seen = all.entry(service.to_string()).or_default();
            seen.requests = seen.requests.saturating_add(edge.all.recent.requests);
            seen.errors = seen.errors.saturating_add(edge.all.recent.errors);
        }
        for (service, instances) in known {
            let seen = all.entry(service.clone()).or_default();
            let staying = instances.iter().filter(|instance| instance.state != State::Draining);
            seen.instances = staying.count();
            let well = || instances.iter().filter(|instance| matches!(instance.state, State::Well | State::Kept));
            seen.well = well().count();
            seen.kept = instances.iter().filter(|instance| instance.state == State::Kept).count();
            seen.shunned = well().filter(|instance| self.is_shunned(service, instance, now)).count();
        }
        all
    }

    /// Whether a caller leaves an instance alone.
    fn is_shunned(&self, service: &str, instance: &Instance, now: Duration) -> bool {
        let is_it = |workload: &str| instance.addresses.iter().any(|address| address == workload);
        self.book.shunned(now).any(|(of, workload, _)| of == service && is_it(workload))
    }

    /// The edges for people, about the latest time.
    fn edges(&self, now: Duration) -> Edges {
        join(self.book.recent(now))
    }

    /// The edges in one window; rates are not known.
    fn edges_of(&self, window: u64, now: Duration) -> Edges {
        join(self.book.edges(window, window, now).map(|(key, total, recent)| (key, total, recent, 0.0)))
    }

    fn verdict(&self, service: &str) -> Verdict {
        self.standings.get(service).map(Standing::verdict).unwrap_or_default()
    }
}

/// Edges by caller and service. Where both ends tell of one, the caller is believed: it knows what never arrived. What the called side has
/// refused is known there alone.
fn join<'b>(tracks: impl Iterator<Item = (&'b EdgeKey, &'b Figures, Figures, f64)>) -> Edges {
    let mut ends: [Edges; 2] = Default::default();
    for (key, total, recent, rate) in tracks {
        let EdgeKey { end, source, service, workload } = key;
        let [by_source, by_destination] = &mut ends;
        let side = match end {
            End::Source => by_source,
            End::Destination => by_destination,
        };
        let edge = side.entry((source.clone(), service.clone())).or_default();
        edge.all.add(total, &recent, rate);
        edge.workloads.entry(workload.clone()).or_default().add(total, &recent, rate);
    }
    let [by_source, mut edges] = ends;
    for (name, mut edge) in by_source {
        // What the called side refuses its caller takes for an answer like any other: so nothing is counted twice.
        if let Some(called) = edges.get(&name) {
            let (Sums { total, recent, .. }, called) = (&mut edge.all, &called.all);
            total.refusals = total.refusals.saturating_add(called.total.refusals);
            recent.refusals = recent.refusals.saturating_add(called.recent.refusals);
        }
        edges.insert(name, edge);
    }
    edges
}

fn tell_change(service: &str, verdict: Verdict, window: &Window) {
    let Window { requests, errors, instances, well, kept, shunned } = *window;
    let verdict_word = verdict.as_str();
    match verdict {
        Verdict::Healthy | Verdict::Unknown => tracing::info!(service, verdict = verdict_word, "a verdict has changed"),
        Verdict::Degraded | Verdict::Failing => {
            tracing::warn!(
                service,
                verdict = verdict_word,
                requests,
                errors,
                instances,
                well,
                kept,
                shunned,
                "a verdict has changed"
            );
        }
    }
}

#[cfg(test)]
mod tests;
