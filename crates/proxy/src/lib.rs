//! Transept's data plane: moves bytes as the engine decides.
//!
//! Start at [`path`](crate) (`path.rs`): the road of a request as one list of verbs. [`Proxy`] is the door for `app`: it
//! starts the workers, puts snapshots in force, and drains. A worker is a thread with everything of its own (`worker.rs`);
//! the only things that all share are the snapshot and the TLS configurations made from it.
//!
//! Deliberately absent: where configuration comes from, what it means, and every decision about a request.

mod accept;
mod access_log;
mod answer;
mod attempt;
mod body;
mod buffer;
mod callout;
pub mod capture;
mod clock;
mod condition;
mod deadline;
mod demand;
mod detect;
mod documents;
mod edge;
mod edges;
mod exposition;
mod failure;
pub mod feed;
mod forward;
mod gate;
mod h2;
mod health;
mod io;
mod judge;
mod limits;
mod mesh;
mod meter;
mod mirror;
pub mod names;
mod normalize;
mod outside;
mod path;
mod quotas;
mod race;
mod recheck;
mod record;
mod relay;
mod resolve;
mod secure;
mod sight;
mod sockets;
mod spans;
mod splice;
mod stores;
mod tap;
mod tls;
mod trial;
mod trip;
mod tunnel;
mod upstream;
mod worker;

pub use access_log::{AccessLog, LogFormat, LogTarget};
pub use condition::{BackendState, EndpointState, HeardBy, LearnedPort, Reading};
pub use demand::{Demand, Wanted};
pub use mesh::Mesh;
pub use resolve::ResolvedName;
pub use sight::Sight;
pub use sockets::raise_descriptor_limit;
pub use spans::SpanTarget;

use std::collections::BTreeSet;
use std::io as stdio;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};
use transept_engine::document::{DocumentState, Documents};
use transept_engine::limit::book::{BOOK, Book};
use transept_engine::limit::inquiry::{self, Asking};
use transept_engine::limit::store::{STORES, Stores};
use transept_engine::login::ended::{ENDED, Ended};
use transept_engine::services::{SERVICES, ServiceStanding, Services};
use transept_engine::snapshot::{Backend, Snapshot};

use access_log::Sink;
use health::Watching;
use limits::OpenConnections;
use mesh::Membership;
use meter::Report;
use quotas::Quotas;
use resolve::Resolving;
use stores::Carrying;
use tls::TlsConfigs;
use worker::{Command, Duty, Shared};

/// How long the last spans are waited for when a proxy ends.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// How long stores are waited for that somebody asks how much is left of limits: less than whoever asks waits.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// How a proxy runs, whatever its configuration says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Number of worker threads; none is one per available core.
    pub workers: Option<NonZeroUsize>,
    /// Where requests are logged; none is nowhere.
    pub access_log: Option<AccessLog>,
    /// Where spans are sent; none is nowhere.
    pub spans: Option<SpanTarget>,
    /// The name servers that are asked for the names of backends; none are those of `/etc/resolv.conf`.
    pub name_servers: Vec<SocketAddr>,
    /// The file in which quotas and logouts are kept; made when a configuration first has some. None keeps them in memory only.
    pub quotas: Option<PathBuf>,
    /// What makes the proxy a member of the mesh; without it binds of the mesh take nobody in, and endpoints in the mesh cannot be
    /// reached.
    pub mesh: Option<Mesh>,
    /// Who is told of Services and addresses that are called and not known well enough yet.
    pub demand: Option<Demand>,
}

/// An address, and a socket for each worker.
type Opened = (SocketAddr, Vec<std::net::TcpListener>);

/// What became of one address of a configuration.
#[derive(Debug)]
pub struct BindOutcome {
    /// The address and port that listeners of the configuration need.
    pub address: SocketAddr,
    /// The error of the operating system when it could not be listened on. Tried again with every configuration, and by
    /// [`Proxy::retry`].
    pub bound: Result<(), stdio::Error>,
}

/// A running data plane. Dropping it ends the workers at once; [`Proxy::drain`] ends them politely.
pub struct Proxy {
    shared: Arc<Shared>,
    workers: Vec<WorkerThread>,
    bound: Mutex<BTreeSet<SocketAddr>>,
    resolving: Mutex<Resolving>,
    watching: Mutex<Watching>,
    quotas: Mutex<Quotas>,
    carrying: Mutex<Carrying>,
    background: tokio::runtime::Runtime,
    sight: Sight,
}

struct WorkerThread {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts the workers. They have nothing to do until a snapshot is applied.
    ///
    /// # Errors
    /// When the access log cannot be opened or a thread cannot be started.
    pub fn start(options: &Options) -> stdio::Result<Proxy> {
        let descriptors = sockets::raise_descriptor_limit();
        tracing::debug!(descriptors, "descriptor limit");
        let log = options.access_log.as_ref().map(Sink::start).transpose()?;
        let mesh = options.mesh.as_ref().map(Membership::new).transpose().map_err(stdio::Error::other)?;
        let own = mesh.as_ref().map(Membership::own_identity);
        let (spans, exporting) = options.spans.clone().map(|to| spans::Sink::new(to, own.as_deref())).unzip();
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            epoch: AtomicU64::new(0),
            tls: TlsConfigs::new(),
            mesh,
            log,
            spans,
            demand: options.demand.clone(),
            open: OpenConnections::default(),
            named: Arc::default(),
            fetched: Notify::new(),
            heard: Notify::new(),
            ledger: Arc::default(),
            origin: Instant::now(),
        });
        let count = options.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let workers = (0..count)
            .map(|number| {
                let (commands, inbox) = mpsc::unbounded_channel();
                let shared = shared.clone();
                let duty = if number == 0 { Duty::TrafficAndDocuments } else { Duty::Traffic };
                let thread = std::thread::Builder::new()
                    .name(format!("worker-{number}"))
                    .spawn(move || worker::run(shared, duty, inbox))?;
                Ok(WorkerThread { commands, thread: Some(thread) })
            })
            .collect::<stdio::Result<Vec<_>>>()?;
        let background = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("background")
            .enable_all()
            .build()?;
        let resolving = Mutex::new(Resolving::new(options.name_servers.clone(), shared.named.clone()));
        let weak = workers.iter().map(|worker| worker.commands.downgrade()).collect();
        let sight = Sight::new(shared.clone(), weak);
        let (bound, watching) = (Mutex::default(), Mutex::default());
        let quotas = Mutex::new(Quotas::new(options.quotas.clone()));
        let carrying = Mutex::default();
        if let Some(exporting) = exporting {
            background.spawn(exporting);
        }
        Ok(Proxy { shared, workers, bound, resolving, watching, quotas, carrying, background, sight })
    }

    /// Puts a snapshot in force: the next request is decided by it. Opens the addresses it needs and closes those it does
    /// not, without touching connections that are open.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Vec<BindOutcome> {
        lock(&self.resolving).follow(&snapshot, self.background.handle());
        lock(&self.watching).follow(&snapshot, &self.shared, self.background.handle());
        lock(&self.quotas).follow(&snapshot);
        lock(&self.carrying).follow(&snapshot, &self.shared, self.background.handle());
        let wanted: BTreeSet<SocketAddr> = snapshot.binds.iter().map(|bind| bind.address).collect();
        let mut bound = lock(&self.bound);
        // What connects before the workers have them waits.
        let (outcomes, opened) = self.open(&wanted, &mut bound);
        snapshot.go_live();
        self.shared.snapshot.store(snapshot);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        self.tell(|| Command::Refresh);
        self.hand_over(opened);
        for &address in bound.difference(&wanted) {
            self.tell(|| Command::Close(address));
        }
        bound.retain(|address| wanted.contains(address));
        self.shared.tls.forget_unused();
        outcomes
    }

    /// Tries again to open the addresses of the snapshot in force that are not open, and tells of all of them.
    pub fn retry(&self) -> Vec<BindOutcome> {
        // The lock comes first: the snapshot of a change that is being applied must not be overtaken.
        let mut bound = lock(&self.bound);
        let wanted = self.shared.snapshot.load().binds.iter().map(|bind| bind.address).collect();
        let (outcomes, opened) = self.open(&wanted, &mut bound);
        self.hand_over(opened);
        outcomes
    }

    /// Opens what is wanted and not yet open.
    fn open(&self, wanted: &BTreeSet<SocketAddr>, bound: &mut BTreeSet<SocketAddr>) -> (Vec<BindOutcome>, Vec<Opened>) {
        let mut opened = Vec::new();
        let mut open_one = |&address: &SocketAddr| {
            if bound.contains(&address) {
                return BindOutcome { address, bound: Ok(()) };
            }
            let listened = sockets::listen(address, self.workers.len(), bound);
            let outcome = listened.map(|listeners| {
                bound.insert(address);
                opened.push((address, listeners));
            });
            BindOutcome { address, bound: outcome }
        };
        let outcomes = wanted.iter().map(&mut open_one).collect();
        (outcomes, opened)
    }

    /// Gives each worker its socket of every address.
    fn hand_over(&self, opened: Vec<Opened>) {
        for (address, listeners) in opened {
            for (worker, listener) in self.workers.iter().zip(listeners) {
                // A worker that is gone is found by `is_sound`.
                let _ = worker.commands.send(Command::Listen(address, listener));
            }
        }
    }

    /// Whether every worker lives.
    pub fn is_sound(&self) -> bool {
        self.workers.iter().all(|worker| !worker.commands.is_closed())
    }

    /// The counts of all workers together.
    async fn report(&self) -> Report {
        let mut sum = Report::default();
        for worker in &self.workers {
            let (reply, report) = oneshot::channel();
            if worker.commands.send(Command::Report(reply)).is_ok()
                && let Ok(report) = report.await
            {
                sum.add(&report);
            }
        }
        sum
    }

    /// Writes the counts of all workers in the Prometheus text format.
    pub async fn write_metrics(&self, out: &mut String) {
        let sum = self.report().await;
        if let Some(spans) = &self.shared.spans {
            exposition::write_spans(spans.exported(), spans.dropped(), out);
        }
        let dropped = self.shared.log.as_ref().map_or(0, |log| log.dropped());
        exposition::write(&sum, dropped, out);
        if let Some((graph, _)) = self.sight.observe().await {
            exposition::edges::write(&graph, &self.shared.ledger, out);
        }
        exposition::write_backends(&self.backends_of(&sum), &sum.ejections, out);
        exposition::write_learned(&self.learned(), out);
        let (names, lookups) = {
            let resolving = lock(&self.resolving);
            (resolving.names(), resolving.lookups.read())
        };
        resolve::write_metrics(&names, lookups, out);
        documents::write_metrics(&self.documents(), out);
        stores::write_metrics(&self.stores(), out);
        exposition::write_services(&self.services(), out);
        let book = self.shared.snapshot.load().keep.known::<Book>(BOOK);
        if let Some(book) = book {
            quotas::write_metrics(&book.forgotten(), !book.is_failing(), out);
        }
    }

    /// The stores of shared limits, without passwords, and whether they answer; none before that is known.
    pub fn stores(&self) -> Vec<(String, Option<bool>)> {
        let stores = self.shared.snapshot.load().keep.known::<Stores>(STORES);
        let living = stores.iter().flat_map(|stores| stores.living());
        let mut all: Vec<_> = living.map(|store| (store.address.to_string(), store.answers())).collect();
        // Two that differ in the password are one to whoever reads this, and the worse of both is told.
        all.sort();
        all.dedup_by(|next, one| next.0 == one.0);
        all
    }

    /// The services that policies have asked about requests, and whether they answer.
    pub fn services(&self) -> Vec<ServiceStanding> {
        let services = self.shared.snapshot.load().keep.known::<Services>(SERVICES);
        services.map(|services| services.standing()).unwrap_or_default()
    }

    /// Whether what is used of quotas cannot be written: who has not been counted before is not let in, or not counted, as each policy says.
    pub fn loses_quotas(&self) -> bool {
        self.shared.snapshot.load().keep.known::<Book>(BOOK).is_some_and(|book| book.is_failing())
    }

    /// Whether nobody knows which sessions have ended, because the file that says so cannot be read: those of before count as ended.
    pub fn misses_logouts(&self) -> bool {
        let ended = self.shared.snapshot.load().keep.known::<Ended>(ENDED);
        ended.is_some_and(|ended| ended.unread_since().is_some())
    }

    /// The documents of identity providers, and how they are.
    pub fn documents(&self) -> Vec<DocumentState> {
        let now = self.shared.origin.elapsed();
        let documents = Documents::of(&self.shared.snapshot.load().keep);
        documents.all().iter().map(|document| document.describe(now)).collect()
    }

    /// How much is left of limits that somebody asks about, an answer for each ([`transept_engine::limit::inquiry::ask`]). Stores that have not
    /// answered after [`LONGEST_LOOK`] are not waited for.
    pub async fn limits(&self, questions: &serde_json::Value) -> serde_json::Value {
        let begin = tokio::time::Instant::now();
        let mut asked = inquiry::ask(&self.shared.snapshot.load().keep, questions, self.shared.origin.elapsed());
        for wait in asked.iter_mut().filter_map(Asking::wait) {
            // Without an answer in time the question says so itself.
            let _ = tokio::time::timeout_at(begin + wait.timeout.min(LONGEST_LOOK), wait.until).await;
        }
        let now = self.shared.origin.elapsed();
        asked.into_iter().map(|one| one.answer(now)).collect()
    }

    /// The backends that have no endpoint at all, by label. Beside a program those belong to them that nothing is known of until it calls.
    pub fn deserted(&self) -> Vec<Arc<str>> {
        let snapshot = self.shared.snapshot.load();
        let is_deserted = |backend: &&Arc<Backend>| backend.endpoints.load().all().next().is_none();
        let labels: BTreeSet<Arc<str>> =
            snapshot.backends.iter().filter(is_deserted).map(|one| one.label.clone()).collect();
        labels.into_iter().collect()
    }

    /// The endpoints of every backend with a `TrafficPolicy`, and how they are.
    pub async fn backends(&self) -> Vec<BackendState> {
        let sum = self.report().await;
        self.backends_of(&sum)
    }

    fn backends_of(&self, report: &Report) -> Vec<BackendState> {
        let snapshot = self.shared.snapshot.load();
        condition::describe(&snapshot, &report.absent)
    }

    /// What the ports of the mesh have spoken whose protocol nobody declared.
    pub fn learned(&self) -> Vec<LearnedPort> {
        condition::recount(&self.shared.snapshot.load(), self.shared.origin.elapsed())
    }

    /// What is reported to a control plane ([`feed::Feed::report`]).
    pub fn sight(&self) -> Sight {
        self.sight.clone()
    }

    /// Tells the endpoints that take traffic, of all backends of the configuration in force. Holds nothing up that the proxy ends.
    pub fn endpoints(&self) -> impl Fn() -> BTreeSet<SocketAddr> + Send + Sync + use<> {
        let shared = self.shared.clone();
        move || {
            let snapshot = shared.snapshot.load();
            let sets = snapshot.backends.iter().map(|backend| backend.endpoints.load());
            sets.flat_map(|set| set.endpoints().iter().map(|one| one.address).collect::<Vec<_>>()).collect()
        }
    }

    /// What the names of backends resolve to now.
    pub fn names(&self) -> Vec<ResolvedName> {
        lock(&self.resolving).names()
    }

    /// Opens the access log again under its name, after it was moved away.
    pub fn reopen_logs(&self) {
        if let Some(log) = &self.shared.log {
            log.reopen();
        }
    }

    /// Begins what [`Proxy::drain`] completes, and returns when every worker has begun: from then on no response promises
    /// that its connection goes on.
    pub async fn begin_drain(&self) {
        self.await_all(Command::Leave, Duration::from_secs(10)).await;
    }

    /// As [`Proxy::drain`], for the connections of other members of the mesh into this workload. What the workload itself asks for
    /// goes on.
    pub async fn drain_inbound(&self, limit: Duration) -> bool {
        self.await_all(Command::DrainWayIn, limit).await
    }

    /// Stops accepting, ends idle connections, tells the others to leave after what they are doing, and returns when the
    /// last one is gone or `limit` is over. True when all were gone.
    pub async fn drain(&self, limit: Duration) -> bool {
        let complete = self.await_all(Command::Drain, limit).await;
        if let Some(spans) = &self.shared.spans {
            // A collector that is away holds nobody up for long.
            let _ = tokio::time::timeout(LAST_SPANS, spans.flush()).await;
        }
        if let Some(log) = self.shared.log.clone() {
            let _ = tokio::task::spawn_blocking(move || log.flush()).await;
        }
        complete
    }

    /// Gives every worker a command, and waits until all of them have done it, or `limit` is over.
    async fn await_all(&self, command: impl Fn(oneshot::Sender<()>) -> Command, limit: Duration) -> bool {
        let waiting: Vec<_> = self
            .workers
            .iter()
            .filter_map(|worker| {
                let (done, wait) = oneshot::channel();
                worker.commands.send(command(done)).ok().map(|()| wait)
            })
            .collect();
        let all = async {
            for wait in waiting {
                // A worker that ended has no connection left either.
                let _ = wait.await;
            }
        };
        tokio::time::timeout(limit, all).await.is_ok()
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            let _ = worker.commands.send(command());
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let (gone, _) = mpsc::unbounded_channel();
            // Without a sender the worker's loop ends, and its runtime drops what is still running.
            worker.commands = gone;
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
        // Last: nobody counts any more, so that all is written.
        lock(&self.quotas).close();
    }
}

/// The values stay whole even if a thread panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
