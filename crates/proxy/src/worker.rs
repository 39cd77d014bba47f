//! One worker: a thread with a runtime of its own, its listening sockets, its pools and its counters.
//!
//! Started by [`crate::Proxy`], which talks to it by commands. Connections stay on the worker that accepted them, so
//! nothing here is shared but what [`Shared`] holds, and that is read, not written, while traffic flows.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use transept_engine::balance::Turns;
use transept_engine::snapshot::{Role, Snapshot};

use crate::access_log::{LogBuffer, Sink};
use crate::clock::Clock;
use crate::condition::{Absent, add_absent};
use crate::deadline::{SWEEP, Watches, Whose};
use crate::demand::Demand;
use crate::edge::StreamTasks;
use crate::edges::ledger::Ledger;
use crate::edges::{Counted, Edges};
use crate::limits::OpenConnections;
use crate::mesh::Membership;
use crate::meter::{Meter, Report};
use crate::recheck::{Standings, recheck, recheck_documents, recheck_roots};
use crate::spans::{self, SpanBuffer};
use crate::tap::{Ear, Order};
use crate::tls::TlsConfigs;
use crate::trip::Trip;
use crate::upstream::{Pool, TlsChoices};
use crate::{accept, documents};

/// Trips kept for reuse; a trip holds the heads of one exchange.
const KEPT_TRIPS: usize = 256;

/// What all workers read.
pub(crate) struct Shared {
    pub snapshot: ArcSwap<Snapshot>,
    /// Raised after `snapshot` is stored, so that a worker knows with one load that it holds the newest.
    pub epoch: AtomicU64,
    pub tls: TlsConfigs,
    /// What makes us a member of the mesh, if we are one.
    pub mesh: Option<Membership>,
    pub log: Option<Arc<Sink>>,
    /// Where spans go, if they go anywhere.
    pub spans: Option<Arc<spans::Sink>>,
    pub demand: Option<Demand>,
    pub open: OpenConnections,
    /// Raised after each answer about the names of backends.
    pub named: Arc<Notify>,
    /// Raised after each fetch of a document.
    pub fetched: Notify,
    /// Raised when another protocol was heard on a port of the program, for who tells the control plane.
    pub heard: Notify,
    /// Which edges there is room for.
    pub ledger: Arc<Ledger>,
    /// Where every worker's clock begins.
    pub origin: Instant,
}

/// The snapshot as one worker holds it: counting its users costs no shared memory.
pub(crate) struct Held(Arc<Snapshot>);

impl std::ops::Deref for Held {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// It carries traffic.
    Traffic,
    /// It keeps documents fresh, too; one worker does.
    TrafficAndDocuments,
}

/// What a worker is told.
pub(crate) enum Command {
    /// Accept connections here.
    Listen(SocketAddr, TcpListener),
    /// Stop accepting connections there. Open ones go on.
    Close(SocketAddr),
    /// A new snapshot is in force.
    Refresh,
    /// Tell the counts.
    Report(oneshot::Sender<Report>),
    /// Tell who talks to whom, and what is left alone.
    Observe(oneshot::Sender<Observed>),
    /// Tell of live requests, or no longer.
    Tap(Option<Arc<Order>>),
    /// Stop accepting, end idle connections, and say so when the others know.
    Leave(oneshot::Sender<()>),
    /// The same, and say so when the others have finished.
    Drain(oneshot::Sender<()>),
    /// The same for the way into the workload only.
    DrainWayIn(oneshot::Sender<()>),
}

/// What a worker sees of the mesh.
pub(crate) struct Observed {
    /// Summed by who asks, so that no request waits for it.
    pub edges: Vec<Counted>,
    pub absent: Absent,
}

/// The state of one worker thread.
pub(crate) struct Worker {
    pub shared: Arc<Shared>,
    pub clock: Clock,
    pub pool: Pool,
    pub stream_tasks: StreamTasks,
    pub standings: Standings,
    pub tls_choices: RefCell<TlsChoices>,
    pub meter: RefCell<Meter>,
    /// Who talks to whom; none outside a mesh.
    pub edges: Option<RefCell<Edges>>,
    /// Who watches live requests.
    pub ear: Ear,
    pub log: Option<RefCell<LogBuffer>>,
    pub spans: Option<RefCell<SpanBuffer>>,
    pub watches: Rc<Watches>,
    pub turns: RefCell<Turns>,
    pub hasher: foldhash::fast::RandomState,
    /// Whether the worker drains.
    pub draining: Cell<bool>,
    /// Whether the way into the workload drains; it does when the worker does.
    pub way_in_drains: Cell<bool>,
    /// Open connections into the workload: of other members of the mesh, and captured ones.
    pub visitors: Cell<u64>,
    /// Open downstream connections.
    pub connections: Cell<u64>,
    /// Exchanges on the road.
    pub exchanges: Cell<u64>,
    /// Tells of every new snapshot.
    pub refreshed: Notify,
    /// Mirrored copies under way.
    pub copies: Cell<usize>,
    current: RefCell<(u64, Rc<Held>)>,
    /// What random numbers are made of, and how many there were.
    keys: RandomState,
    drawn: Cell<u64>,
    #[expect(clippy::vec_box, reason = "trips move between tasks and this list, and are large")]
    trips: RefCell<Vec<Box<Trip>>>,
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Rc<Self> {
        let epoch = shared.epoch.load(Ordering::Acquire);
        let snapshot = Rc::new(Held(shared.snapshot.load_full()));
        Rc::new(Self {
            clock: Clock::since(shared.origin),
            edges: shared
                .mesh
                .as_ref()
                .map(|mesh| RefCell::new(Edges::new(mesh.own_identity(), shared.ledger.clone()))),
            log: shared.log.as_ref().map(|sink| RefCell::new(LogBuffer::new(sink.clone()))),
            spans: shared.spans.as_ref().map(|sink| RefCell::new(SpanBuffer::new(sink.clone()))),
            shared,
            pool: Pool::default(),
            stream_tasks: StreamTasks::default(),
            ear: Ear::default(),
            standings: Standings::default(),
            tls_choices: RefCell::default(),
            meter: RefCell::default(),
            watches: Rc::default(),
            turns: RefCell::default(),
            hasher: foldhash::fast::RandomState::default(),
            draining: Cell::new(false),
            way_in_drains: Cell::new(false),
            visitors: Cell::new(0),
            connections: Cell::new(0),
            exchanges: Cell::new(0),
            refreshed: Notify::new(),
            copies: Cell::new(0),
            current: RefCell::new((epoch, snapshot)),
            keys: RandomState::new(),
            drawn: Cell::new(0),
            trips: RefCell::default(),
        })
    }

    /// The snapshot in force. One exchange asks once and keeps what it got.
    pub(crate) fn snapshot(&self) -> Rc<Held> {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        let mut current = self.current.borrow_mut();
        if current.0 != epoch {
            self.meter.borrow_mut().settle();
            self.tls_choices.borrow_mut().clear();
            *current = (epoch, Rc::new(Held(self.shared.snapshot.load_full())));
        }
        current.1.clone()
    }

    /// Fresh random bits: a keyed hash (SipHash, by keys that the operating system gave) of how many there were before, so that nobody concludes from some
    /// on others. For choices and the seeds of tables, not for what is kept secret for long.
    pub(crate) fn random(&self) -> u64 {
        let count = self.drawn.get().wrapping_add(1);
        self.drawn.set(count);
        self.keys.hash_one(count)
    }

    /// Room for the heads of one exchange.
    pub(crate) fn take_trip(&self) -> Box<Trip> {
        self.trips.borrow_mut().pop().unwrap_or_default()
    }

    /// Returns a trip for the next exchange.
    pub(crate) fn give_back(&self, mut trip: Box<Trip>) {
        let mut trips = self.trips.borrow_mut();
        if trips.len() < KEPT_TRIPS {
            trip.clear();
            trips.push(trip);
        }
    }

    /// Begins to drain. To do it again changes nothing.
    fn leave(&self, listening: &mut HashMap<SocketAddr, oneshot::Sender<()>>) {
        listening.clear();
        self.draining.set(true);
        self.way_in_drains.set(true);
        self.watches.drain(Whose::All);
    }

    /// Hands over the lines and spans that have gathered.
    fn hand_over(&self) {
        if let Some(log) = &self.log {
            log.borrow_mut().hand_over();
        }
        if let Some(spans) = &self.spans {
            spans.borrow_mut().hand_over();
        }
    }

    fn report(&self) -> Report {
        let mut report = self.meter.borrow_mut().report();
        report.connections_open = self.connections.get();
        report.requests_active = self.exchanges.get();
        let (idle, shared) = self.pool.open();
        report.upstream_idle = idle as u64;
        report.upstream_shared = shared as u64;
        report.absent = self.absent();
        report
    }

    fn observe(&self) -> Observed {
        let edges = self.edges.as_ref().map(|edges| edges.borrow_mut().all()).unwrap_or_default();
        Observed { edges, absent: self.absent() }
    }

    fn absent(&self) -> Absent {
        let mut all = Absent::new();
        let (turns, now) = (self.turns.borrow(), self.clock.now());
        for backend in &self.snapshot().0.backends {
            let absent = turns.absent(backend, now.into());
            if !absent.is_empty() {
                add_absent(&mut all, &backend.label, absent);
            }
        }
        all
    }
}

/// Runs a worker on the calling thread until its proxy is dropped.
pub(crate) fn run(shared: Arc<Shared>, duty: Duty, commands: mpsc::UnboundedReceiver<Command>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    match runtime {
        Ok(runtime) => runtime.block_on(serve(Worker::new(shared), duty, commands)),
        Err(error) => tracing::error!(%error, "a worker could not start its runtime"),
    }
}

async fn serve(worker: Rc<Worker>, duty: Duty, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut listening: HashMap<SocketAddr, oneshot::Sender<()>> = HashMap::new();
    let sweep = tokio::task::spawn_local(sweep(worker.clone()));
    if duty == Duty::TrafficAndDocuments {
        tokio::task::spawn_local(documents::keep_fresh(worker.clone()));
    }
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listen(address, listener) => {
                let (stop, stopped) = oneshot::channel();
                listening.insert(address, stop);
                tokio::task::spawn_local(accept::accept_all(worker.clone(), address, listener, stopped));
            }
            Command::Close(address) => {
                listening.remove(&address);
            }
            Command::Refresh => {
                let snapshot = worker.snapshot();
                worker.turns.borrow_mut().prune(&snapshot);
                worker.refreshed.notify_waiters();
                recheck(&worker);
            }
            Command::Report(reply) => {
                // The asker may have given up.
                let _ = reply.send(worker.report());
            }
            Command::Observe(reply) => {
                let _ = reply.send(worker.observe());
            }
            Command::Tap(order) => worker.ear.follow(order),
            Command::DrainWayIn(done) => {
                let snapshot = worker.snapshot();
                let is_way_in =
                    |address: &SocketAddr| snapshot.bind(address).is_some_and(|bind| bind.role == Role::Inbound);
                listening.retain(|address, _| !is_way_in(address));
                worker.way_in_drains.set(true);
                worker.watches.drain(Whose::WayIn);
                tokio::task::spawn_local(finish_way_in(worker.clone(), done));
            }
            Command::Leave(done) => {
                worker.leave(&mut listening);
                let _ = done.send(());
            }
            Command::Drain(done) => {
                worker.leave(&mut listening);
                tokio::task::spawn_local(finish(worker.clone(), done));
            }
        }
    }
    sweep.abort();
}

/// Waits until the last connection is gone.
async fn finish(worker: Rc<Worker>, done: oneshot::Sender<()>) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while worker.connections.get() > 0 {
        tick.tick().await;
    }
    worker.hand_over();
    let _ = done.send(());
}

/// Waits until the last connection into the workload is gone.
async fn finish_way_in(worker: Rc<Worker>, done: oneshot::Sender<()>) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while worker.visitors.get() > 0 {
        tick.tick().await;
    }
    let _ = done.send(());
}

/// The worker's housekeeping, a few times a second.
async fn sweep(worker: Rc<Worker>) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        worker.clock.resync();
        let now = worker.clock.now().monotonic;
        worker.watches.sweep(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        worker.pool.expire(now);
        recheck_roots(&worker);
        recheck_documents(&worker);
        if let Some(edges) = &worker.edges {
            edges.borrow_mut().tidy(now);
        }
        worker.hand_over();
    }
}
