//! What a running proxy sees of the mesh, for who reports it: a handle that does not keep the proxy alive.
//!
//! Given by [`crate::Proxy::sight`]; used by `feed/member/report.rs`. Asks the workers and waits for their answers; what is told to whom is
//! not decided here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

use crate::condition::{Absent, BackendState, add_absent, describe, heard_inside};
use crate::edges::{Graph, add_all};
use crate::tap::Order;
use crate::worker::{Command, Shared};

/// What a proxy sees, as long as it runs.
#[derive(Clone)]
pub struct Sight {
    shared: Arc<Shared>,
    workers: Arc<[mpsc::WeakUnboundedSender<Command>]>,
    epoch: u64,
}

impl std::fmt::Debug for Sight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sight").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Sight {
    pub(crate) fn new(shared: Arc<Shared>, workers: Vec<mpsc::WeakUnboundedSender<Command>>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { shared, workers: workers.into(), epoch: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }

    /// When counting began: milliseconds since 1970.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The generation of the configuration in force.
    pub(crate) fn generation(&self) -> u64 {
        self.shared.snapshot.load().generation
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The edges of all workers together, and the backends with a `TrafficPolicy`. None when the proxy has ended, because counts of
    /// a part of the workers would look as if time went back.
    pub(crate) async fn observe(&self) -> Option<(Graph, Vec<BackendState>)> {
        let mut edges = Vec::new();
        let mut absent = Absent::new();
        for worker in &*self.workers {
            let (reply, observed) = oneshot::channel();
            worker.upgrade()?.send(Command::Observe(reply)).ok()?;
            let observed = observed.await.ok()?;
            edges.extend(observed.edges);
            for (backend, endpoints) in observed.absent {
                add_absent(&mut absent, &backend, endpoints);
            }
        }
        let backends = describe(&self.shared.snapshot.load(), &absent);
        Some((add_all(edges), backends))
    }

    /// What the ports of the program have spoken whose protocol nobody declared, by their numbers.
    pub(crate) fn learned(&self) -> BTreeMap<u16, &'static str> {
        heard_inside(&self.shared.snapshot.load(), self.shared.origin.elapsed())
    }

    /// Waits until another protocol is heard on one of them.
    pub(crate) async fn hears(&self) {
        self.shared.heard.notified().await;
    }

    /// Has all workers tell of the requests that an order names, and no longer of others.
    pub(crate) fn tap(&self, order: Option<&Arc<Order>>) {
        for worker in self.workers.iter().filter_map(mpsc::WeakUnboundedSender::upgrade) {
            // A worker that has ended has nothing to tell.
            let _ = worker.send(Command::Tap(order.cloned()));
        }
    }
}
