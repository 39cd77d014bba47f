//! Services that are called for the first time: their callers wait until what belongs to them is here.
//!
//! A workload that may call every Service knows of most only that they exist (`Station::awake`). Who calls such a one is held up here,
//! the owner of the proxy is told of it ([`crate::Options::demand`]) and asks for the rest, and the configuration with it lets the
//! caller go on. Called by `accept.rs` for captured connections and by `path.rs` for requests that say where they go.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use transept_engine::reason::Reason;
use transept_engine::snapshot::{Bind, ServiceName, Snapshot};
use transept_wire::head::Request;
use transept_wire::normalize;

use crate::worker::Worker;

/// Takes the names of Services that are called for the first time.
pub type Demand = mpsc::UnboundedSender<ServiceName>;

/// How long a caller waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until the Service that a captured connection was going to is awake.
///
/// # Errors
/// It did not come to that in time.
pub(crate) async fn await_destination(worker: &Worker, bound: SocketAddr, to: SocketAddr) -> Result<(), Reason> {
    until_awake(worker, bound, |bind| bind.asleep_by_destination(to)).await
}

/// Waits until the Service that a request names is awake.
///
/// # Errors
/// It did not come to that in time.
pub(crate) async fn await_authority(worker: &Worker, bound: SocketAddr, request: &Request) -> Result<(), Reason> {
    let mut lower = Vec::new();
    let host = normalize::authority(request.authority()).map(|parts| parts.host).unwrap_or_default();
    let host = normalize::host_lower(host, &mut lower);
    until_awake(worker, bound, |bind| bind.asleep_by_authority(host)).await
}

async fn until_awake(
    worker: &Worker,
    bound: SocketAddr,
    asleep: impl Fn(&Bind) -> Option<&ServiceName>,
) -> Result<(), Reason> {
    let find = |snapshot: &Snapshot| snapshot.bind(&bound).and_then(|bind| asleep(bind).cloned());
    let Some(service) = find(&worker.snapshot()) else { return Ok(()) };
    if let Some(demand) = &worker.shared.demand {
        // Nobody asks any more when the process ends.
        let _ = demand.send(service);
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
