//! A gateway with the control plane of a mesh in the same process: one feed, and no wire between the two.
//!
//! Called by `run --mesh` and by the demo. The gateway is a member of the mesh like every sidecar, by a certificate of the plane; what
//! registers becomes part of its configuration by the loader that reads files. The plane has a runtime of its own, so that
//! many proxies hold up neither the admin server nor a reload.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::time::MissedTickBehavior;
use transept_control::plane::{self, Capacity, Plane, Reporting, Setup, say_farewell};
use transept_control::{Loader, Sources, follow_joined};
use transept_identity::{LiveSvid, WorkloadName};
use transept_proxy::feed::Teller;
use transept_proxy::{Mesh, Options, Proxy, raise_descriptor_limit};

use super::{Gateway, ServeArgs, begun};
use crate::commands::Exit;
use crate::commands::control::ApiArgs;
use crate::logging::{self, Format};

/// Namespace and name of the Gateway that stands for files without one.
const UNNAMED: (&str, &str) = ("default", "default");
/// What the gateway calls itself among those that report.
const NAME: &str = "gateway";

/// How the control plane in a gateway is set up.
#[derive(Debug)]
pub(crate) struct MeshPlan {
    /// Where proxies come.
    pub(crate) listen: SocketAddr,
    /// The directory of its state.
    pub(crate) directory: PathBuf,
    /// Whose it is, and how long its certificates live.
    pub(crate) setup: Setup,
    /// Whose identity the gateway has; none is that of the first Gateway in the files.
    pub(crate) identity: Option<WorkloadName>,
    /// How often proxies report what they see.
    pub(crate) report_interval: Duration,
    /// Where programs without a proxy register.
    pub(crate) api: Option<ApiArgs>,
    /// Whether SIGHUP ends the gateway.
    pub(crate) ends_with_terminal: bool,
}

/// What is open when traffic is taken.
pub(crate) struct Opened {
    /// The admin server of the gateway.
    pub(crate) admin: Option<SocketAddr>,
    /// Where proxies come.
    pub(crate) control: SocketAddr,
    /// The plane itself.
    pub(crate) plane: Arc<Plane>,
    /// Tells the endpoints that the gateway knows.
    pub(crate) endpoints: Box<dyn Fn() -> BTreeSet<SocketAddr> + Send + Sync>,
}

/// Serves `sources` and their mesh until a signal ends it; `opened` is called once, when traffic is taken.
///
/// # Errors
/// The state cannot be used, or the control plane, the admin server or the proxy cannot start.
pub(crate) fn serve_with_mesh(
    sources: Sources,
    plan: &MeshPlan,
    args: &ServeArgs,
    opened: impl FnOnce(Opened),
) -> Result<Exit> {
    let plane = Plane::open(&plan.directory, plan.setup.clone())?;
    plane.report_every(plan.report_interval);
    let format = args.log.log.settle();
    let loader = Loader::for_serving().at(args.locale());
    let Some((trigger, feed)) = begun(follow_joined(sources, loader, plane.clone()), format)? else {
        return Ok(Exit::Findings);
    };
    let svid = plane.move_in(&identity(plan, &plane)?).context("the identity of the gateway")?;
    let control = Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build()?;
    let address = control.block_on(open(plan, &plane, format))?;
    let mesh = Mesh::new(svid.clone(), plane.bundles()).at(args.locale());
    let options = Options { mesh: Some(mesh), ..args.options() };
    let proxy = Arc::new(Proxy::start(&options).context("the data plane cannot start")?);
    tracing::info!(
        identity = %svid.load().id(),
        %address,
        state = %plan.directory.display(),
        root = %plane.ca().root(),
        "control plane ready; the gateway is a member of its mesh"
    );
    control.spawn(report(Reporting::begin(&plane, svid.load().id()), Teller::new(proxy.sight(), NAME)));
    let member = describe(plane.clone(), svid, address);
    let endpoints = Box::new(proxy.endpoints());
    let gateway = Gateway {
        trigger: Some(trigger),
        member: Some(Box::new(member)),
        plane: Some(plane.clone()),
        ends_with_terminal: plan.ends_with_terminal,
        ..Gateway::new(proxy, feed, args, format)
    };
    let exit = gateway.run(|admin| opened(Opened { admin, control: address, plane: plane.clone(), endpoints }));
    control.block_on(say_farewell(&plane));
    shut_down(control);
    exit
}

/// Who the gateway is in the mesh. It stays so for as long as the process runs: policies name it.
fn identity(plan: &MeshPlan, plane: &Plane) -> Result<WorkloadName> {
    if let Some(identity) = &plan.identity {
        return Ok(identity.clone());
    }
    let (namespace, name) = plane.first_gateway().unwrap_or_else(|| (UNNAMED.0.to_owned(), UNNAMED.1.to_owned()));
    Ok(WorkloadName::new(&namespace, &name)?)
}

/// Opens the doors for proxies and for people, and gives the address for proxies.
async fn open(plan: &MeshPlan, plane: &Arc<Plane>, format: Format) -> Result<SocketAddr> {
    let listener = TcpListener::bind(plan.listen).await.with_context(|| {
        format!("cannot listen for sidecars on {} (choose another with --mesh-listen ADDR)", plan.listen)
    })?;
    let address = listener.local_addr()?;
    let admin = plane::Admin::bind(&plan.directory)
        .with_context(|| format!("the admin socket in {}", plan.directory.display()))?;
    tokio::spawn(plane.clone().attend());
    tokio::spawn(admin.serve(plane.clone()));
    // The other half is for the traffic of the gateway.
    let capacity = Capacity::within(raise_descriptor_limit().map(|descriptors| descriptors / 2));
    if let Some(api) = &plan.api
        && let Some(api) = api.bind(format).await?
    {
        tokio::spawn(api.serve(plane.clone(), capacity));
    }
    let serving = plane::serve(plane.clone(), listener, capacity);
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "sidecars cannot be served; the gateway goes on");
        }
    });
    logging::say_place(format, &format!("control plane listening on {address}"));
    Ok(address)
}

/// Has the plane hear what the gateway sees, until the gateway ends.
async fn report(mut reporting: Reporting, mut teller: Teller) {
    let mut pace = tokio::time::interval(reporting.interval());
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let Some(report) = teller.tell().await else { return };
        reporting.take(&report);
    }
}

fn shut_down(control: Runtime) {
    control.shutdown_timeout(Duration::from_secs(1));
}

/// What `/status` says about the membership.
fn describe(plane: Arc<Plane>, svid: Arc<LiveSvid>, address: SocketAddr) -> impl Fn() -> Value + Send + Sync {
    move || {
        let (proxies, workloads) = plane.headcount();
        let held = svid.load();
        let ends = i64::try_from(held.leaf().not_after.as_secs()).unwrap_or(i64::MAX);
        json!({
            "identity": held.id().as_str(),
            "certificateEnds": jiff::Timestamp::from_second(ends).ok().map(|at| at.to_string()),
            "control": {
                "address": address.to_string(),
                "trustDomain": plane.trust_domain().as_str(),
                "root": plane.ca().root().to_string(),
                "proxies": proxies,
                "workloads": workloads,
            },
        })
    }
}
