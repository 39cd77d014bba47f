//! What proxies have reported: the totals of every edge, and how they moved in the latest windows of time.
//!
//! Kept by `seen`. Pure: time is an argument. A report is believed only about edges that begin or end at the identity that the reporter has
//! proven, and only if it is newer than what is known: totals only grow within an epoch, so that one that is lost, repeated or late changes nothing.
//! Memory is bounded for each reporter and for all together; what there is no room for is counted and told once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use transept_identity::SpiffeId;
use transept_xds::report::{EdgeName, End, EndpointHealth, Health, Report};

use super::REPORTS_PER_WINDOW;
use super::figures::Figures;

/// Edges and endpoints that one reporter may tell of.
const MOST_EACH: usize = 4096;
/// Edges of all reporters together.
const MOST_EDGES: usize = 200_000;
/// Reporters that are remembered.
const MOST_REPORTERS: usize = 20_000;
/// Bytes of a name.
const LONGEST: usize = 512;
/// Windows that figures for people are about.
pub(super) const RECENT: u64 = 3;
/// A reporter that has been away for so long is forgotten; until then it goes on where it was.
const FORGET: Duration = Duration::from_secs(600);

/// Who reports: the identity, what the proxy calls itself, and when it began to count.
type Who = (Arc<str>, String, u64);

/// Which edge, and which of its ends tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EdgeKey {
    pub(super) end: End,
    pub(super) source: Arc<str>,
    pub(super) service: Arc<str>,
    pub(super) workload: Arc<str>,
}

/// An edge as one reporter sees it.
#[derive(Debug, Default)]
struct Track {
    /// All that was counted, and what is open.
    total: Figures,
    /// What of it was counted before the proxy forgot the edge last.
    before: Option<Box<Figures>>,
    /// Which edge of its name the proxy counts now.
    born: u64,
    /// By number of the window, oldest first.
    recent: VecDeque<(u64, Figures)>,
    /// Since when it is known what it counts.
    since: Duration,
    /// When it was told of last.
    heard: Duration,
}

/// When a report comes.
#[derive(Clone, Copy)]
struct When {
    now: Duration,
    /// The number of the window.
    window: u64,
    /// How much time is between two reports.
    interval: Duration,
}

#[derive(Debug, Default)]
struct Reporter {
    /// The latest stream; an older one is not listened to any more.
    stream: u64,
    /// Whether everything was told once: from then on an edge that is new to us is new.
    settled: bool,
    edges: BTreeMap<EdgeKey, Track>,
    health: BTreeMap<(Arc<str>, Arc<str>), Health>,
    /// Since when its stream is over.
    away: Option<Duration>,
}

impl Reporter {
    /// Takes the totals of an edge in; false when there is no room for it.
    fn take_totals(&mut self, key: &EdgeKey, (latest, born): (Figures, u64), when: When, room: bool) -> bool {
        let When { now, window, interval } = when;
        if let Some(track) = self.edges.get_mut(key) {
            track.heard = now;
            track.take(latest, born, window);
            return true;
        }
        if self.edges.len() >= MOST_EACH {
            self.make_room(window);
        }
        if !room || self.edges.len() >= MOST_EACH {
            return false;
        }
        let mut track = Track { born, since: now, heard: now, ..Track::default() };
        match self.settled {
            true => {
                // It began after the report before this one.
                track.since = now.saturating_sub(interval);
                track.take(latest, born, window);
            }
            // What was counted before we were there did not happen now.
            false => track.total = latest,
        }
        self.edges.insert(key.clone(), track);
        true
    }

    /// Forgets edges that have not moved for long, those first that have not for longest: the proxy does the same.
    fn make_room(&mut self, window: u64) {
        let quiet = self.edges.iter().filter(|(_, track)| track.total.open == 0 && track.moved() + RECENT < window);
        let mut quiet: Vec<(u64, EdgeKey)> = quiet.map(|(key, track)| (track.moved(), key.clone())).collect();
        quiet.sort_unstable();
        for (_, key) in quiet.iter().take(MOST_EACH / 16) {
            self.edges.remove(key);
        }
    }

    /// Takes in how an endpoint is; false when there is no room for it.
    fn take_health(&mut self, endpoint: &EndpointHealth) -> bool {
        let place = (Arc::from(endpoint.service.as_str()), Arc::from(endpoint.workload.as_str()));
        if endpoint.health() == Health::Unknown {
            self.health.remove(&place);
            return true;
        }
        let short = endpoint.service.len() <= LONGEST && endpoint.workload.len() <= LONGEST;
        let fits = short && (self.health.len() < MOST_EACH || self.health.contains_key(&place));
        if fits {
            self.health.insert(place, endpoint.health());
        }
        fits
    }
}

/// One stream of reports.
#[derive(Debug)]
pub(super) struct Stream {
    number: u64,
    identity: Arc<str>,
    /// `namespace/name` of the service that the identity stands for.
    own: Option<Arc<str>>,
    sequence: u64,
    proxy: String,
    who: Option<Who>,
    names: HashMap<u32, Option<EdgeKey>>,
    /// Whether it was told that something is not believed, or that there is no room.
    told: bool,
}

impl Stream {
    /// The service that the reporter is an instance of.
    pub(super) fn own_service(&self) -> Option<&str> {
        self.own.as_deref()
    }

    /// Whether the name of an edge is believed.
    fn believes(&self, name: &EdgeName) -> bool {
        // They are shown on terminals.
        let is_plain = |text: &&String| text.len() <= LONGEST && !text.contains(char::is_control);
        [&name.source, &name.service, &name.workload].iter().all(is_plain)
            && match name.end() {
                End::Source => *name.source == *self.identity,
                End::Destination => self.own.as_deref() == Some(&name.service),
            }
    }

    fn take_names(&mut self, names: &[EdgeName]) {
        for name in names {
            if self.names.len() >= MOST_EACH && !self.names.contains_key(&name.id) {
                return self.complain("it names too many edges");
            }
            let believed = self.believes(name);
            if !believed {
                self.complain("it tells of edges that neither begin nor end at the reporter");
            }
            let key = believed.then(|| EdgeKey {
                end: name.end(),
                source: name.source.as_str().into(),
                service: name.service.as_str().into(),
                workload: name.workload.as_str().into(),
            });
            self.names.insert(name.id, key);
        }
    }

    fn complain(&mut self, what: &str) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(identity = %self.identity, proxy = self.proxy, "a report is not taken in: {what}");
        }
    }
}

/// Everything that was reported.
#[derive(Debug)]
pub(super) struct Book {
    window: Duration,
    streams: u64,
    reporters: BTreeMap<Who, Reporter>,
    /// Edges of all reporters.
    edges: usize,
}

impl Book {
    /// An empty one, with windows of this length.
    pub(super) fn new(window: Duration) -> Self {
        Self { window: window.max(Duration::from_millis(1)), streams: 0, reporters: BTreeMap::new(), edges: 0 }
    }

    /// How long a window is.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// How much time is between two reports.
    fn interval(&self) -> Duration {
        self.window / REPORTS_PER_WINDOW
    }

    /// The number of the window of a moment.
    pub(super) fn window_at(&self, now: Duration) -> u64 {
        u64::try_from(now.as_millis() / self.window.as_millis().max(1)).unwrap_or(u64::MAX)
    }

    /// A stream of somebody with this proven identity begins.
    pub(super) fn open(&mut self, identity: &SpiffeId) -> Stream {
        self.streams += 1;
        let own = identity.workload().map(|own| format!("{}/{}", own.namespace(), own.service_account()));
        Stream {
            number: self.streams,
            identity: identity.as_str().into(),
            own: own.map(Arc::from),
            sequence: 0,
            proxy: String::new(),
            who: None,
            names: HashMap::new(),
            told: false,
        }
    }

    /// A stream has ended.
    pub(super) fn close(&mut self, stream: &Stream, now: Duration) {
        let reporter = stream.who.as_ref().and_then(|who| self.reporters.get_mut(who));
        if let Some(reporter) = reporter.filter(|reporter| reporter.stream == stream.number) {
            reporter.away = Some(now);
        }
    }

    /// Takes a report in; false when it is no news.
    pub(super) fn take(&mut self, stream: &mut Stream, report: &Report, now: Duration) -> bool {
        if report.sequence <= stream.sequence {
            return false;
        }
        stream.sequence = report.sequence;
        if stream.who.is_none() {
            stream.proxy = report.proxy.chars().take(LONGEST / 4).collect();
        }
        let who = (stream.identity.clone(), stream.proxy.clone(), report.epoch);
        if stream.who.as_ref() != Some(&who) {
            self.close(stream, now);
            stream.who = Some(who.clone());
        }
        if !self.reporters.contains_key(&who) && !self.make_room() {
            stream.complain("there are too many reporters");
            return false;
        }
        for edge in &report.forgotten {
            stream.names.remove(edge);
        }
        stream.take_names(&report.names);
        let when = When { now, window: self.window_at(now), interval: self.interval() };
        let reporter = self.reporters.entry(who).or_default();
        if reporter.stream > stream.number {
            return false;
        }
        reporter.stream = stream.number;
        reporter.away = None;
        let before = reporter.edges.len();
        let mut fits = true;
        for totals in &report.edges {
            if let Some(Some(key)) = stream.names.get(&totals.edge) {
                let room = self.edges + reporter.edges.len() < MOST_EDGES + before;
                fits &= reporter.take_totals(key, (Figures::of(totals), totals.born), when, room);
            }
        }
        // Some may have made room for others.
        self.edges = (self.edges + reporter.edges.len()).saturating_sub(before);
        for endpoint in &report.health {
            fits &= reporter.take_health(endpoint);
        }
        reporter.settled |= report.complete;
        if !fits {
            stream.complain("there is no room for more edges");
        }
        true
    }

    /// Whether there is room for one more reporter, after those that are away had to go.
    fn make_room(&mut self) -> bool {
        if self.reporters.len() >= MOST_REPORTERS {
            self.forget(|_| true);
        }
        self.reporters.len() < MOST_REPORTERS
    }

    /// Forgets who has been away for long.
    pub(super) fn sweep(&mut self, now: Duration) {
        self.forget(|away| now.saturating_sub(away) > FORGET);
    }

    fn forget(&mut self, is_over: impl Fn(Duration) -> bool) {
        self.reporters.retain(|_, reporter| !reporter.away.is_some_and(&is_over));
        self.edges = self.reporters.values().map(|reporter| reporter.edges.len()).sum();
    }

    /// Every edge with who tells of it, its totals, and what it counted in the windows `from..=until`. Reporters that are away are left
    /// out once they have missed a window.
    pub(super) fn edges(
        &self,
        from: u64,
        until: u64,
        now: Duration,
    ) -> impl Iterator<Item = (&EdgeKey, &Figures, Figures)> {
        let present = self.reporters.values().filter(move |reporter| self.is_present(reporter, now));
        present
            .flat_map(|reporter| &reporter.edges)
            .map(move |(key, track)| (key, &track.total, track.sum(from, until)))
    }

    /// The same for people, each with its requests per second: of the latest full windows, or, where an edge is not known for so long, of all the
    /// time since then.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(super) fn recent(&self, now: Duration) -> impl Iterator<Item = (&EdgeKey, &Figures, Figures, f64)> {
        let current = self.window_at(now);
        let whole = self.window * u32::try_from(RECENT).unwrap_or(1);
        let begin = self.window * u32::try_from(current).unwrap_or(u32::MAX);
        let present = self.reporters.values().filter(move |reporter| self.is_present(reporter, now));
        present.flat_map(|reporter| &reporter.edges).map(move |(key, track)| {
            // Whether the windows that are kept hold all of it.
            let is_new = track.since + self.interval() + whole >= begin;
            let last = if is_new { current } else { current.saturating_sub(1) };
            let sum = track.sum(current.saturating_sub(RECENT), last);
            // Nobody has told yet what came after the latest report.
            let told = track.heard.max(now.saturating_sub(self.interval()));
            let time = if is_new { told.saturating_sub(track.since) } else { whole };
            let rate = if time.is_zero() { 0.0 } else { sum.requests as f64 / time.as_secs_f64() };
            (key, &track.total, sum, rate)
        })
    }

    /// Endpoints that somebody leaves alone or finds unwell: service and workload.
    pub(super) fn shunned(&self, now: Duration) -> impl Iterator<Item = (&str, &str, Health)> {
        let present = self.reporters.values().filter(move |reporter| self.is_present(reporter, now));
        present.flat_map(|reporter| &reporter.health).filter_map(|((service, workload), health)| match health {
            Health::Failing | Health::Ejected => Some((&**service, &**workload, *health)),
            _ => None,
        })
    }

    /// How many proxies of a service report now.
    pub(super) fn proxies_of(&self, identity: &str) -> usize {
        self.reporters.iter().filter(|(who, reporter)| &*who.0 == identity && reporter.away.is_none()).count()
    }

    fn is_present(&self, reporter: &Reporter, now: Duration) -> bool {
        reporter.away.is_none_or(|away| now.saturating_sub(away) <= self.window)
    }
}

impl Track {
    /// The window in which it moved last.
    fn moved(&self) -> u64 {
        self.recent.back().map_or(0, |(window, _)| *window)
    }

    /// What it counted in the windows `from..=until`.
    fn sum(&self, from: u64, until: u64) -> Figures {
        let mut sum = Figures::default();
        let wanted = self.recent.iter().filter(|(window, _)| (from..=until).contains(window));
        wanted.for_each(|(_, figures)| sum.add(figures));
        sum
    }

    /// Takes totals in that were reported in this window.
    fn take(&mut self, latest: Figures, born: u64, window: u64) {
        if born < self.born {
            return;
        }
        if born > self.born {
            self.born = born;
            self.before = Some(Box::new(self.total.clone()));
        }
        let counted = self.before.as_ref().map(|before| self.total.since(before));
        let grown = latest.since(counted.as_ref().unwrap_or(&self.total));
        self.total.add(&grown);
        self.total.open = latest.open;
        if grown.is_empty() {
            return;
        }
        match self.recent.back_mut() {
            Some((last, figures)) if *last == window => figures.add(&grown),
            _ => self.recent.push_back((window, grown)),
        }
        // One more than the latest ones, for the window that is not over.
        while self.recent.front().is_some_and(|(oldest, _)| oldest + RECENT < window) {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
