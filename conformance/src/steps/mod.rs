//! Runs the steps of one case against its binary. Called by `run`; what is right is decided by `compare`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use transept_testkit::launch::Running;

use crate::case::{NumberedStep, Step};
use crate::certificates::CertificateStore;
use crate::scene::Scene;

mod changes;
mod distribution;
mod grpc;
mod http;
mod mirror;
mod objects;
mod status;
mod tcp;
mod websocket;

/// Everything that the steps of one case act on.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// The objects and the pods.
    pub scene: Scene,
    /// The binary.
    pub gateway: Running,
    /// The certificates of the run.
    pub certificates: &'a CertificateStore,
    /// How long something may take to become right.
    pub patience: Duration,
    /// Generations that `generation` steps have noted.
    pub generations: HashMap<String, i64>,
}

impl Stage<'_> {
    /// Runs one step.
    ///
    /// # Errors
    /// A sentence for every complaint.
    pub(crate) async fn run(&mut self, step: &NumberedStep) -> Result<(), Vec<String>> {
        match &step.step {
            Step::Http(step) => self.http(step).await,
            Step::Grpc(step) => self.grpc(step).await,
            other => self.run_single(other).await.map_err(|why| vec![why]),
        }
    }

    async fn run_single(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Ready(step) => self.ready(step).await,
            Step::WaitAddress(step) => self.address(&step.gateway).await.map(drop),
            Step::RoutesAccepted(step) => self.routes_accepted(step).await,
            Step::GatewayStatus(step) => self.gateway_status(step).await,
            Step::RouteStatus(step) => self.route_status(step).await,
            Step::PolicyStatus(step) => self.policy_status(step).await,
            Step::GatewayclassStatus(step) => self.gatewayclass_status(step).await,
            Step::Generation(step) => self.generation(step).await,
            Step::Apply(step) => self.apply(step).await,
            Step::Patch(step) => self.patch(step).await,
            Step::Delete(step) => self.delete(step).await,
            Step::Endpoints(step) => self.endpoints(step).await,
            Step::Sleep(step) => {
                tokio::time::sleep(Duration::from_secs_f64(step.seconds)).await;
                Ok(())
            }
            Step::Websocket(step) => self.websocket(step).await,
            Step::Tcp(step) => self.tcp(step).await,
            Step::TcpSamples(step) => self.tcp_samples(step).await,
            Step::PodMatchesHeader(step) => self.pod_matches_header(step).await,
            Step::Distribution(step) => self.distribution(step).await,
            Step::MirrorDistribution(step) => self.mirror_distribution(step).await,
            Step::Http(_) | Step::Grpc(_) => Ok(()),
            Step::MeshHttp(_) | Step::MeshGrpc(_) | Step::MeshDistribution(_) => {
                Err("this step is for the mesh".to_owned())
            }
        }
    }

    /// The first address of a Gateway with a port, once it has one.
    async fn dial(&self, gateway: &str, port: u16) -> Result<SocketAddr, String> {
        Ok(SocketAddr::new(self.address(gateway).await?, port))
    }

    async fn address(&self, gateway: &str) -> Result<IpAddr, String> {
        let mut address = String::new();
        self.wait_for(async |objects| {
            let gateway = objects.named("Gateway", gateway)?;
            address = crate::compare::status::first_address(gateway)?.to_owned();
            Ok(())
        })
        .await?;
        address.parse().map_err(|_| format!("{gateway}: {address:?} is not an IP address"))
    }
}

/// A request or a call that is numbered with a uuid of its own.
fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}
