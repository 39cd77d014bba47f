//! Services and addresses that are called for the first time: their callers wait until what belongs to them is here.
//!
//! A workload that may call every Service knows of most only that they exist (`Station::awake`). Who calls such a one is held up here,
//! the owner of the proxy is told of it ([`crate::Options::demand`]) and asks for the rest, and the configuration with it lets the
//! caller go on. So it is with an address that is no Service's: it may be that of an instance, or of nobody in the mesh. Called by `accept.rs` for captured connections and by `path.rs` for requests that say where they go.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::mpsc;
use transept_engine::reason::Reason;
use transept_engine::snapshot::{Bind, ServiceName, Snapshot};
use transept_wire::head::Request;
use transept_wire::normalize;

use crate::worker::Worker;

/// What is called for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A Service.
    Service(ServiceName),
    /// An address, of an instance or of somebody outside the mesh.
    Address(IpAddr),
}

/// Takes what is called for the first time.
pub type Demand = mpsc::UnboundedSender<Wanted>;

/// How long a caller waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until it is known whose the destination of a captured connection is, and all about the Service if it is one's.
///
/// # Errors
/// It did not come to that in time.
pub(crate) async fn await_destination(worker: &Worker, bound: SocketAddr, to: SocketAddr) -> Result<(), Reason> {
    until_known(worker, bound, |bind| wanted_for(bind, to)).await
}

/// Waits until the Service that a request names is awake.
///
/// # Errors
/// It did not come to that in time.
pub(crate) async fn await_authority(worker: &Worker, bound: SocketAddr, request: &Request) -> Result<(), Reason> {
    let mut lower = Vec::new();
    let host = normalize::authority(request.authority()).map(|parts| parts.host).unwrap_or_default();
    let host = normalize::host_lower(host, &mut lower);
    until_known(worker, bound, |bind| bind.asleep_by_authority(host).cloned().map(Wanted::Service)).await
}

/// What has to be asked before a captured connection can go on to its destination.
pub(crate) fn wanted_for(bind: &Bind, to: SocketAddr) -> Option<Wanted> {
    match bind.asleep_by_destination(to) {
        Some(service) => Some(Wanted::Service(service.clone())),
        None => bind.is_unlocated(to).then_some(Wanted::Address(to.ip())),
    }
}

async fn until_known(
    worker: &Worker,
    bound: SocketAddr,
    wanted: impl Fn(&Bind) -> Option<Wanted>,
) -> Result<(), Reason> {
    let find = |snapshot: &Snapshot| snapshot.bind(&bound).and_then(|bind| wanted(bind));
    let Some(first) = find(&worker.snapshot()) else { return Ok(()) };
    if let Some(demand) = &worker.shared.demand {
        // Nobody asks any more when the process ends.
        let _ = demand.send(first);
    }
    let woken = async {
        loop {
            let refreshed = worker.refreshed.notified();
            if find(&worker.snapshot()).is_none() {
                return;
            }
            refreshed.await;
        }
    };
    tokio::time::timeout(PATIENCE, woken).await.map_err(|_| Reason::MeshNotReady)
}
