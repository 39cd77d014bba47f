//! Sets the scene of all mesh cases: the control plane with its files, and a host for every pod.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use transept_testkit::dns::NameServer;
use transept_testkit::h1;

use super::POLL;
use super::host::{GATEWAY, Host, PREFIX, address_of, make_bridge};
use super::orders::{Call, Echoes, Order, Place, Saw, Start};
use crate::case::{PodLabels, Via};
use crate::run::{Run, last_lines};
use crate::scene::{endpoint_slice, endpoints};
use crate::suite::Suite;
use crate::topology::{Service, Workload};
use crate::world::{World, text};

/// The manifest that all mesh cases share.
pub(super) const MANIFEST: &str = "mesh/manifests.yaml";
/// The control plane is the first host on the bridge.
const CONTROL: u8 = 2;
const CONTROL_PORT: u16 = 9909;
/// Ports of echo pods that cases call, by what they speak; nobody calls 8443 and 9090.
const HTTP_PORT: u16 = 8080;
/// The port of every Service for that.
const HTTP_SERVICE: u16 = 80;
const GRPC_PORT: u16 = 7070;

/// A running mesh.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    /// The objects, as files of the control plane.
    pub(super) world: World,
    /// All pods.
    pub(super) pods: Vec<Pod>,
    run: &'a Run<'a>,
    /// Where everything is written.
    directory: PathBuf,
    control: Host,
    /// Who is asked for the names that the mesh does not know: it knows none.
    _names: NameServer,
}

/// A pod: a host with a sidecar.
#[derive(Debug)]
pub(super) struct Pod {
    /// Name.
    pub(super) name: String,
    /// Where it is.
    pub(super) host: Host,
    labels: PodLabels,
    /// Its SPIFFE id.
    identity: String,
}

impl Pod {
    /// What is wrong when a call was answered, but did not reach its pod through the mesh with the identity of this one. No rule of the
    /// suite, but what the mesh is for, whether a Service was called or the pod's own address. Calls of other protocols than HTTP/1.1 do not
    /// tell what the pod was told.
    pub(super) fn miss_tunnel(&self, via: Via, saw: &Saw) -> Option<String> {
        if via != Via::Http || saw.pod.is_empty() {
            return None;
        }
        let told = h1::joined(&saw.seen, "x-forwarded-client-cert").unwrap_or_default();
        let wanted = format!("URI={}", self.identity);
        (!told.split([';', ',']).any(|part| part == wanted)).then(|| format!("the pod was told {told:?} of its caller"))
    }
}

impl<'a> Scene<'a> {
    /// Makes the hosts, and starts the control plane, the echo servers and the sidecars.
    ///
    /// # Errors
    /// A host cannot be made, or somebody does not become ready.
    pub(super) async fn set(run: &'a Run<'a>) -> Result<Scene<'a>> {
        let directory = std::path::absolute(run.directory.join("mesh"))?;
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        make_bridge().await?;
        let names = NameServer::start_at(SocketAddr::from((GATEWAY, 53))).await.context("name server")?;
        let workloads: Vec<&Workload> = of_mesh(&run.suite.topology.workloads, |one| &one.manifest).collect();
        let labels = labels(&run.suite.manifest(MANIFEST)?);
        let mut world = World::new(&directory.join("world"));
        world.add("10-mesh.yaml", run.suite.manifest(MANIFEST)?);
        let numbers = (CONTROL + 1..).zip(&workloads);
        let addresses: BTreeMap<String, Ipv4Addr> =
            numbers.map(|(number, one)| (format!("{}/{}", one.namespace, one.name), address_of(number))).collect();
        world.add("20-endpoints.yaml", slices(run.suite, &addresses));
        // As an API server would.
        let mut number = 0;
        world.each_of_kind("Service", |service| {
            number += 1;
            service["spec"]["clusterIP"] = json!(Ipv4Addr::new(10, 96, 0, number));
        });
        world.write()?;
        let control = Host::make(CONTROL).await?;
        let mut scene = Scene { world, pods: Vec::new(), run, directory, control, _names: names };
        scene.start_control().await?;
        let pods = (CONTROL + 1..).zip(&workloads).map(|(number, one)| scene.start_pod(number, one, &labels));
        scene.pods = try_join_all(pods).await?;
        scene.meet().await?;
        Ok(scene)
    }

    /// Every pod calls every Service once, whatever comes of it: a sidecar asks for the routes of a Service when that is called for the
    /// first time, and the cases wait for routes.
    async fn meet(&self) -> Result<()> {
        let services = self.world.objects().filter(|object| text(object, "/kind") == "Service");
        let names = services.map(|service| {
            let (name, namespace) = (text(service, "/metadata/name"), text(service, "/metadata/namespace"));
            format!("{name}.{namespace}.svc.cluster.local")
        });
        let names: Vec<String> = names.collect();
        let call = |name: &String| Call {
            via: Via::Http,
            to: name.clone(),
            port: HTTP_SERVICE,
            authority: name.clone(),
            path: "/".to_owned(),
            headers: Vec::new(),
        };
        let meetings = self.pods.iter().flat_map(|pod| names.iter().map(move |name| (pod, name)));
        let deadline = Instant::now() + self.run.patience;
        let calls = meetings.map(|(pod, name)| async move {
            loop {
                match pod.host.tell::<Saw>(&Order::Call(call(name))).await {
                    Ok(_) => return Ok(()),
                    Err(why) if Instant::now() > deadline => {
                        return Err(why).with_context(|| format!("{} does not meet {name}", pod.name));
                    }
                    Err(_) => sleep(POLL).await,
                }
            }
        });
        try_join_all(calls).await.map(drop)
    }

    async fn start_control(&self) -> Result<()> {
        settle(&self.control, Vec::new()).await?;
        let arguments = [
            "control".to_owned(),
            self.world.directory().display().to_string(),
            format!("--listen={}:{CONTROL_PORT}", self.control.address),
            format!("--state={}", self.path("control")),
        ];
        let start = Start { binary: self.run.binary.clone(), arguments: arguments.into() };
        self.control.tell(&Order::Control(start)).await.context("control plane")
    }

    async fn start_pod(&self, number: u8, workload: &Workload, labels: &Labels) -> Result<Pod> {
        let Workload { namespace, name, .. } = workload;
        let known = labels.get(&(namespace.clone(), name.clone()));
        let (app, version) = known.cloned().with_context(|| format!("no Deployment {namespace}/{name}"))?;
        let labels = PodLabels { namespace: namespace.clone(), app, version };
        let host = Host::make(number).await?;
        let identity = format!("spiffe://transept.local/ns/{namespace}/sa/{name}");
        let pod = Pod { name: pod_name(name), host, labels, identity };
        self.equip(&pod, workload).await.with_context(|| format!("pod {namespace}/{}", pod.name))?;
        Ok(pod)
    }

    /// Gives a pod what it has inside: names, an echo server, a sidecar.
    async fn equip(&self, pod: &Pod, workload: &Workload) -> Result<()> {
        let Workload { namespace, name, ports, .. } = workload;
        settle(&pod.host, self.files(namespace)?).await?;
        let only = |wanted: u16| ports.iter().copied().filter(|port| *port == wanted).collect();
        let echoes = Echoes {
            namespace: namespace.clone(),
            pod: pod.name.clone(),
            http: only(HTTP_PORT),
            grpc: only(GRPC_PORT),
        };
        pod.host.tell::<()>(&Order::Serve(echoes)).await?;
        let token = self.token(namespace, name).await?;
        let mut arguments = vec!["sidecar".to_owned(), "--transparent".to_owned()];
        arguments.extend([
            format!("--service={name}"),
            format!("--namespace={namespace}"),
            format!("--name={}", pod.name),
            format!("--control={}:{CONTROL_PORT}", self.control.address),
            format!("--token-file={}", token.display()),
            format!("--state={}", self.path(&format!("{namespace}.{}", pod.name))),
            format!("--workers={}", self.run.workers),
            "--health-interval=200ms".to_owned(),
            "--access-log=off".to_owned(),
        ]);
        let is_own = |service: &&Service| service.namespace == *namespace && service.name == *name;
        let service = of_mesh(&self.run.suite.topology.services, |one| &one.manifest).find(is_own);
        for port in service.into_iter().flat_map(|service| &service.ports) {
            let protocol = port.app_protocol.as_deref().map(|protocol| format!("/{protocol}")).unwrap_or_default();
            arguments.push(format!("--port={}:{}{protocol}", port.port, port.target_port));
        }
        let start = Start { binary: self.run.binary.clone(), arguments };
        pod.host.tell(&Order::Sidecar(start)).await.context("sidecar")
    }

    /// The files of a container that say how names are found, as in a cluster.
    fn files(&self, namespace: &str) -> Result<Vec<(PathBuf, PathBuf)>> {
        let names = format!(
            "search {namespace}.svc.cluster.local svc.cluster.local cluster.local\nnameserver {GATEWAY}\noptions ndots:5\n"
        );
        let resolv = self.directory.join(format!("{namespace}.resolv.conf"));
        std::fs::write(&resolv, names)?;
        let switch = self.directory.join("nsswitch.conf");
        std::fs::write(&switch, "hosts: files dns\n")?;
        Ok(vec![("/etc/resolv.conf".into(), resolv), ("/etc/nsswitch.conf".into(), switch)])
    }

    /// The file of a join token.
    async fn token(&self, namespace: &str, service: &str) -> Result<PathBuf> {
        let output = Command::new(&self.run.binary)
            .args(["token", "create", "--service", service, "--namespace", namespace, "--state"])
            .arg(self.path("control"))
            .output()
            .await?;
        if !output.status.success() {
            bail!("no token: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let file = self.directory.join(format!("{namespace}.{service}.token"));
        std::fs::write(&file, output.stdout)?;
        Ok(file)
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// The objects of a manifest of the suite.
    pub(super) fn manifest(&self, name: &str) -> Result<Vec<Value>> {
        self.run.suite.manifest(name)
    }

    /// The first pod with these labels.
    pub(super) fn pod(&self, labels: &PodLabels) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.labels == *labels).with_context(|| format!("there is no pod {labels:?}"))
    }

    /// The last lines of the control plane and of all sidecars.
    pub(super) async fn logs(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let pods = self.pods.iter().map(|pod| (pod.name.as_str(), &pod.host));
        for (name, host) in std::iter::once(("control plane", &self.control)).chain(pods) {
            let log = host.tell::<String>(&Order::Log).await.unwrap_or_else(|why| format!("{why:#}"));
            lines.push(format!("{name}:"));
            lines.extend(last_lines(&log));
        }
        lines
    }

    /// Ends the sidecars in order; everything else ends with the hosts.
    ///
    /// # Errors
    /// One did not end well.
    pub(super) async fn stop(&self) -> Result<()> {
        for pod in &self.pods {
            pod.host.tell::<()>(&Order::Stop).await.with_context(|| pod.name.clone())?;
        }
        Ok(())
    }
}

/// `app` and `version` by namespace and name of a Deployment.
type Labels = BTreeMap<(String, String), (String, String)>;

/// The labels of the pods of all Deployments.
fn labels(objects: &[Value]) -> Labels {
    let deployments = objects.iter().filter(|object| text(object, "/kind") == "Deployment");
    let owned = |object: &Value, pointer: &str| text(object, pointer).to_owned();
    let one = |object: &Value| {
        let name = (owned(object, "/metadata/namespace"), owned(object, "/metadata/name"));
        let label = |label: &str| owned(object, &format!("/spec/template/metadata/labels/{label}"));
        (name, (label("app"), label("version")))
    };
    deployments.map(one).collect()
}

/// One EndpointSlice for each Service.
fn slices(suite: &Suite, addresses: &BTreeMap<String, Ipv4Addr>) -> Vec<Value> {
    let services = of_mesh(&suite.topology.services, |one| &one.manifest);
    services
        .map(|service| {
            let workloads = service.endpoints.as_array().into_iter().flatten().filter_map(Value::as_str);
            let members = workloads.filter_map(|workload| {
                let name = workload.split_once('/').map_or(workload, |(_, name)| name);
                Some((pod_name(name), *addresses.get(workload)?))
            });
            let members: Vec<_> = members.collect();
            endpoint_slice(service, endpoints(&service.namespace, &members))
        })
        .collect()
}

/// What of the topology comes with the mesh.
fn of_mesh<T>(all: &[T], manifest: impl Fn(&T) -> &String) -> impl Iterator<Item = &T> {
    all.iter().filter(move |one| manifest(one) == MANIFEST)
}

/// The name of the only pod of a Deployment: two parts without a dash are added.
fn pod_name(deployment: &str) -> String {
    format!("{deployment}-6d5f7c9b8-p1")
}

/// Settles a host on the bridge.
async fn settle(host: &Host, files: Vec<(PathBuf, PathBuf)>) -> Result<()> {
    host.tell(&Order::Settle(Place { address: host.address, prefix: PREFIX, gateway: GATEWAY, files })).await
}
