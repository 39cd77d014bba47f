//! The mesh cases (section 7 of the suite's description): every pod is a host of its own, a network namespace on a bridge, with an
//! echo server and a capturing sidecar; so is the control plane. A client calls from inside a pod, by the names that it finds there.
//!
//! Called by `main` after all other cases. The scene is set once; each case changes the files of the control plane, and begins when
//! every sidecar holds exactly its routes. `host` and `orders` lead into the namespaces, `inside` and `calls` are what runs there.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use self::orders::{Call, Counts, Order, Saw, Spread};
use self::scene::Scene;
use crate::case::{Case, MeshCalls, MeshDistribution, MeshRequest, NumberedStep, Step, Via};
use crate::compare::mesh::compare;
use crate::compare::shares::{self, Shares};
use crate::converge::{Attempt, converge};
use crate::namespace::Network;
use crate::report::{CaseReport, Outcome, StepReport};
use crate::run::Run;
use crate::world::text;

mod calls;
mod host;
pub(crate) mod inside;
pub(crate) mod orders;
mod scene;

/// How often sidecars are asked for their status.
const POLL: Duration = Duration::from_millis(20);
/// All files of a case other than the one that all share are applied under this name.
const OWN_FILE: &str = "50-case.yaml";

/// Runs cases one after the other, and hands over each report.
///
/// # Errors
/// A report cannot be handed over, or something did not end in order.
pub(crate) async fn run_all(
    run: &Run<'_>,
    network: Network,
    cases: Vec<(&Case, Vec<NumberedStep>)>,
    mut report: impl FnMut(CaseReport) -> Result<()>,
) -> Result<()> {
    let refuse = |case: &Case, outcome, why: &str| {
        let mut report = CaseReport::new(case);
        (report.outcome, report.reason) = (outcome, Some(why.to_owned()));
        report
    };
    let possible = match network {
        Network::Own => host::probe().await,
        Network::Machine => Err(anyhow::anyhow!("the network is that of the machine")),
    };
    if let Err(why) = possible {
        let required = std::env::var_os("TRANSEPT_REQUIRE_ALL").is_some_and(|value| value == "1");
        let (word, outcome) = if required { ("fail", Outcome::Failed) } else { ("are skipped", Outcome::NotInScope) };
        writeln!(std::io::stdout(), "the mesh cases {word}: {why:#}")?;
        let why = "no network namespaces";
        return cases.iter().try_for_each(|(case, _)| report(refuse(case, outcome, why)));
    }
    let mut mesh = match Scene::set(run).await {
        Ok(scene) => Mesh { scene, patience: run.patience },
        Err(why) => {
            let why = format!("the scene cannot be set: {why:#}");
            return cases.iter().try_for_each(|(case, _)| report(refuse(case, Outcome::Failed, &why)));
        }
    };
    for (case, steps) in cases {
        report(mesh.case(case, &steps).await)?;
    }
    mesh.scene.stop().await
}

/// The scene with cases to be played on it.
#[derive(Debug)]
struct Mesh<'a> {
    scene: Scene<'a>,
    /// How long something may take to become right.
    patience: Duration,
}

impl Mesh<'_> {
    async fn case(&mut self, case: &Case, steps: &[NumberedStep]) -> CaseReport {
        let start = Instant::now();
        let mut report = CaseReport::new(case);
        let changed = self.change_to(case).await;
        if let Err(why) = &changed {
            report.outcome = Outcome::Failed;
            report.reason = Some(format!("the routes do not get to the sidecars: {why:#}"));
        }
        for step in steps.iter().filter(|_| changed.is_ok()) {
            let start = Instant::now();
            let complaints = self.step(&step.step).await.err().unwrap_or_default();
            let outcome = if complaints.is_empty() { Outcome::Passed } else { Outcome::Failed };
            let seconds = start.elapsed().as_secs_f64();
            report.steps.push(StepReport {
                number: step.number,
                kind: step.kind.clone(),
                outcome,
                seconds,
                complaints,
            });
            if outcome == Outcome::Failed {
                report.outcome = Outcome::Failed;
                break;
            }
        }
        if report.outcome == Outcome::Failed {
            report.log = self.scene.logs().await;
        }
        report.seconds = start.elapsed().as_secs_f64();
        report
    }

    /// Takes away what the case before has applied, and applies what belongs to this one. Cases use the same names, so in between
    /// no sidecar may have a route.
    async fn change_to(&mut self, case: &Case) -> Result<()> {
        self.scene.world.clear(OWN_FILE);
        self.scene.world.write()?;
        self.settle().await?;
        for manifest in case.manifests.iter().filter(|manifest| **manifest != scene::MANIFEST) {
            let objects = self.scene.manifest(manifest)?;
            self.scene.world.add(OWN_FILE, objects);
        }
        self.scene.world.write()?;
        self.settle().await
    }

    /// Waits until every sidecar has exactly the routes of the world.
    async fn settle(&self) -> Result<()> {
        let wanted: BTreeSet<String> = self.scene.world.objects().filter_map(name_of_route).collect();
        let deadline = Instant::now() + self.patience;
        for pod in &self.scene.pods {
            loop {
                let status: Value = pod.host.tell(&Order::Status).await?;
                let objects = status["objects"].as_array().map_or(&[][..], Vec::as_slice);
                let has: BTreeSet<String> = objects.iter().filter_map(name_of_route).collect();
                if has == wanted {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("{} has {has:?} instead of {wanted:?}", pod.name);
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    async fn step(&self, step: &Step) -> Result<(), Vec<String>> {
        match step {
            Step::MeshHttp(step) => self.calls(Via::Http, step).await,
            Step::MeshGrpc(step) => self.calls(Via::Grpc, step).await,
            Step::MeshDistribution(step) => self.distribution(step).await.map_err(|why| vec![format!("{why:#}")]),
            _ => Err(vec!["this step is for gateways".to_owned()]),
        }
    }

    async fn calls(&self, via: Via, step: &MeshCalls) -> Result<(), Vec<String>> {
        let from = self.scene.pod(&step.from).map_err(|why| vec![format!("{why:#}")])?;
        let mut complaints = Vec::new();
        for case in &step.cases {
            let outcome = match self.call(via, &case.request) {
                Ok(call) => {
                    converge(self.patience, async || match from.host.tell::<Saw>(&Order::Call(call.clone())).await {
                        Ok(saw) => {
                            let mut complaints = compare(case, &call, &saw);
                            complaints.extend(from.miss_tunnel(via, &saw));
                            Attempt::from_complaints(complaints)
                        }
                        Err(why) => Attempt::Retry(format!("{why:#}")),
                    })
                    .await
                }
                Err(why) => Err(format!("{why:#}")),
            };
            complaints.extend(outcome.err().map(|why| format!("{}: {why}", case.name)));
        }
        if complaints.is_empty() { Ok(()) } else { Err(complaints) }
    }

    async fn distribution(&self, step: &MeshDistribution) -> Result<()> {
        let from = self.scene.pod(&step.from)?;
        let call = self.call(step.via, &step.request)?;
        let order = Order::Spread(Spread { call, requests: step.requests, concurrency: step.concurrency });
        let shares = Shares { requests: step.requests, weights: &step.weights, tolerance: step.tolerance };
        let mut last = None;
        for _ in 0..step.max_tries {
            let counted = from.host.tell::<Counts>(&order).await;
            let compared = counted.and_then(|counts| {
                let counts = shares::count(counts.iter().map(|(pod, count)| (pod.as_str(), *count)));
                shares.compare(&counts).map_err(anyhow::Error::msg)
            });
            match compared {
                Ok(()) => return Ok(()),
                Err(why) => last = Some(why),
            }
        }
        Err(last.context("no try at all")?)
    }

    /// The request as the client in the pod sends it (section 2.5).
    fn call(&self, via: Via, request: &MeshRequest) -> Result<Call> {
        let to = match (&request.host, &request.pod) {
            (Some(host), None) => host.clone(),
            (None, Some(pod)) => self.scene.pod(pod)?.host.address.to_string(),
            _ => bail!("a request names either a host or a pod"),
        };
        Ok(prepare(via, to, request))
    }
}

fn prepare(via: Via, to: String, request: &MeshRequest) -> Call {
    let mut headers = request.headers.clone();
    let usual = match (via, request.port) {
        (Via::Http, 80) => to.clone(),
        (_, port) => format!("{to}:{port}"),
    };
    let authority = headers.remove("Host").unwrap_or(usual);
    let path = if request.path.is_empty() { "/".to_owned() } else { request.path.clone() };
    Call { via, to, port: request.port, authority, path, headers: headers.into_iter().collect() }
}

/// Kind, namespace and name of a route.
fn name_of_route(object: &Value) -> Option<String> {
    let kind = text(object, "/kind");
    let name = || format!("{kind} {}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    kind.ends_with("Route").then(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prepared(via: Via, request: Value) -> Call {
        prepare(via, "echo".to_owned(), &serde_json::from_value(request).expect("a request"))
    }

    #[test]
    fn the_host_is_the_name_with_an_unusual_port_unless_a_header_says_another() {
        let plain = prepared(Via::Http, json!({"host": "echo", "port": 80, "path": ""}));
        assert_eq!((plain.authority.as_str(), plain.path.as_str()), ("echo", "/"));
        assert_eq!(prepared(Via::Http, json!({"host": "echo", "port": 8080})).authority, "echo:8080");
        assert_eq!(prepared(Via::Grpc, json!({"host": "echo", "port": 80})).authority, "echo:80");
        let other = prepared(Via::Http, json!({"host": "echo", "port": 80, "headers": {"Host": "cart", "A": "1"}}));
        assert_eq!((other.authority.as_str(), other.headers.len()), ("cart", 1));
    }

    #[test]
    fn only_routes_are_waited_for() {
        let object = |kind: &str| json!({"kind": kind, "metadata": {"namespace": "n", "name": "a"}});
        assert_eq!(name_of_route(&object("GRPCRoute")).as_deref(), Some("GRPCRoute n/a"));
        assert_eq!(name_of_route(&object("Service")), None);
    }
}
