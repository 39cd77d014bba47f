//! What the sidecar makes of the resources that it was sent: a world, compiled for its place, as an update like that of files.
//!
//! Called by `sidecar` at every change of the feed. Pure but for the clock that tells how long it took. What is wrong with a
//! resource was refused by the feed; what does not fit the others is reported, and fails closed on its own target.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use transept_control::{Loaded, Update};
use transept_engine::compile::mesh::{self, AppProtocol, Inbound, Outbound, Station, compile_station};
use transept_model::attach::{Extent, Locale, Surroundings, attach};
use transept_model::{Invalid, World, place, suggest};
use transept_proxy::feed::ServiceName;

use super::places::{AppPort, Upstream};

/// The port that a service is called on when nobody says another.
const USUAL: u16 = 80;

/// The place of a sidecar, as its command line says it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The namespace of the workload.
    pub(crate) namespace: String,
    /// The name of the instance.
    pub(crate) workload: String,
    /// The service.
    pub(crate) service: String,
    /// Where others are told that they reach this instance, when that was said.
    pub(crate) announced: Option<IpAddr>,
    /// Where tunnels come in; none when the program has no port.
    pub(crate) inbound: Option<SocketAddr>,
    /// The ports of the program.
    pub(crate) ports: Vec<AppPort>,
    /// Local ports that stand for services, port 0 settled.
    pub(crate) upstreams: Vec<Upstream>,
    /// Where programs with an HTTP proxy come, port 0 settled.
    pub(crate) http_proxy: Option<SocketAddr>,
    /// Where this machine is.
    pub(crate) locale: Locale,
}

impl Place {
    /// Warns of ports by which other machines could call as this workload.
    pub(super) fn warn_of_strangers(&self) {
        let upstreams = self.upstreams.iter().map(|upstream| ("--upstream", upstream.local));
        let proxy = self.http_proxy.map(|address| ("--http-proxy", address));
        for (flag, address) in upstreams.chain(proxy).filter(|(_, address)| !address.ip().is_loopback()) {
            tracing::warn!(%address, "{flag} is reachable from other machines, which call with the identity of this workload there");
        }
    }

    /// The station in a world, which says what the ports of services are.
    fn station(&self, world: &World, identity: &str) -> Station {
        let app = self.ports.iter().map(|port| mesh::AppPort {
            port: port.service,
            to: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.target),
            protocol: AppProtocol::of(port.protocol.as_deref()),
        });
        let outbound = self.upstreams.iter().map(|upstream| {
            let namespace = upstream.namespace.as_deref().unwrap_or(&self.namespace);
            Outbound {
                listen: upstream.local,
                service: upstream.service.clone(),
                namespace: namespace.to_owned(),
                port: upstream.port.unwrap_or_else(|| usual_port(world, namespace, &upstream.service)),
            }
        });
        Station {
            namespace: self.namespace.clone(),
            workload: self.workload.clone(),
            services: self.services(world),
            identity: identity.to_owned(),
            inbound: self.inbound.map(|listen| Inbound { listen, announced: self.announced }).into_iter().collect(),
            app: app.collect(),
            outbound: outbound.collect(),
            http_proxy: self.http_proxy,
            captured: None,
            plaintext: None,
            awake: None,
        }
    }
}

impl Place {
    /// The services that the workload is an instance of: its own, and those that the control plane adds because an EndpointSlice
    /// names its address. Policies on any of them guard it.
    pub(crate) fn services(&self, world: &World) -> Vec<String> {
        let mut services = vec![self.service.clone()];
        let registered = world.workload(&self.namespace, &self.workload);
        let others = registered.into_iter().flat_map(|workload| &workload.spec.services);
        services.extend(others.filter(|service| ***service != *self.service).map(|service| service.to_string()));
        services
    }
}

impl Place {
    /// The local ports that stand for nothing: a service, or a port of one, that is not there.
    fn missing(&self, world: &World) -> Vec<Invalid> {
        let find = |upstream: &Upstream| {
            let (name, namespace) = (&upstream.service, upstream.namespace.as_deref().unwrap_or(&self.namespace));
            let (why, remedy) = match world.service(namespace, name) {
                None => {
                    let near = world.services().iter().filter(|one| *one.meta.namespace == *namespace);
                    let near = suggest::nearest(name, near.map(|one| &*one.meta.name));
                    let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                    let remedy = format!(
                        "correct the name{near}, or start an instance of it (transept sidecar --service {name} --port ...), or give the \
                         control plane a Service"
                    );
                    (format!("there is no service {namespace}/{name}"), remedy)
                }
                Some(service) => {
                    let port = upstream.port.unwrap_or_else(|| usual_port(world, namespace, name));
                    let ports: Vec<u16> = service.spec.ports.iter().map(|port| port.port).collect();
                    if ports.contains(&port) {
                        return None;
                    }
                    let named: Vec<String> = ports.iter().map(u16::to_string).collect();
                    let why = format!("the service {namespace}/{name} has no port {port}");
                    (
                        why,
                        format!(
                            "its ports are: {}; say one of them as {name}:PORT={}",
                            named.join(", "),
                            upstream.local
                        ),
                    )
                }
            };
            let at = place::Place { file: format!("--upstream {name}={}", upstream.local).into(), line: 0, column: 0 };
            Some(Invalid { remedy: Some(remedy), ..Invalid::new(at, why) })
        };
        self.upstreams.iter().filter_map(find).collect()
    }
}

/// The port of a service that has one, else that of HTTP.
fn usual_port(world: &World, namespace: &str, name: &str) -> u16 {
    let ports = world.service(namespace, name).map_or(&[][..], |service| &service.spec.ports);
    match ports {
        [only] => only.port,
        _ => USUAL,
    }
}

/// Makes one update after the other, each on the ground of the one before.
#[derive(Debug)]
pub(crate) struct Stationing {
    place: Place,
    identity: String,
    captured: Option<mesh::Captured>,
    plaintext: Option<SocketAddr>,
    awake: Option<BTreeSet<ServiceName>>,
    previous: Option<Arc<Loaded>>,
}

impl Stationing {
    /// For this place and this SPIFFE id; nothing is in force yet.
    pub(crate) fn new(place: Place, identity: String) -> Stationing {
        Stationing { place, identity, captured: None, plaintext: None, awake: None, previous: None }
    }

    /// Takes connections to the program that come without a tunnel, on this address, in all updates from now on.
    pub(crate) fn take_plaintext(&mut self, listen: Option<SocketAddr>) {
        self.plaintext = listen;
    }

    /// Takes captured connections in the next update.
    pub(crate) fn take_captured(&mut self, captured: Option<mesh::Captured>) {
        self.captured = captured;
    }

    /// Takes all Services but these for asleep in the next update; none takes none.
    pub(crate) fn take_awake(&mut self, awake: Option<BTreeSet<ServiceName>>) {
        self.awake = awake;
    }

    /// The update that this world leads to.
    pub(crate) fn take(&mut self, world: &World) -> Arc<Update> {
        let started = Instant::now();
        // A sidecar holds the Services that it talks to, and policies that are for others too.
        let surroundings =
            Surroundings { locale: self.place.locale.clone(), extent: Extent::Part, ..Surroundings::default() };
        let mut attached = attach(world, &surroundings);
        let generation = self.previous.as_ref().map_or(1, |previous| previous.generation + 1);
        let before = self.previous.as_ref().map(|previous| &*previous.snapshot);
        let station = Station {
            captured: self.captured.clone(),
            plaintext: self.plaintext,
            awake: self.awake.clone(),
            ..self.place.station(world, &self.identity)
        };
        let compiled = compile_station(world, &attached, &station, before, generation);
        compiled.report(&mut attached.status);
        let mut problems = std::mem::take(&mut attached.problems);
        problems.extend(compiled.problems.iter().cloned());
        problems.extend(self.place.missing(world));
        for problem in &mut problems {
            world.complete(problem);
        }
        let (past, settled) = (world.past(), attached.into());
        let snapshot = compiled.install();
        let loaded = Arc::new(Loaded { generation, snapshot, settled, past, problems, notes: Vec::new() });
        self.previous = Some(loaded.clone());
        let now = SystemTime::now();
        Arc::new(Update {
            loaded,
            refused: None,
            at: now,
            loaded_at: now,
            took: started.elapsed(),
            succeeded: generation,
            failed: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use transept_engine::policies::MODEL_KINDS;
    use transept_engine::snapshot::Role;
    use transept_model::{Loader, SourceText};

    use super::*;

    const WORLD: &str = "\
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {ports: [{port: 9000}]}
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {name: catalog-1, namespace: shop}
spec: {services: [catalog], address: 10.0.0.9, ports: [{port: 9000, targetPort: 8080}], tunnel: {}}
";

    fn place() -> Place {
        Place {
            namespace: "shop".to_owned(),
            workload: "cart-1".to_owned(),
            service: "cart".to_owned(),
            announced: None,
            inbound: Some(SocketAddr::from(([10, 0, 0, 8], 15008))),
            ports: vec!["80:8080".parse().expect("a port")],
            upstreams: vec!["catalog=9001".parse().expect("an upstream")],
            http_proxy: None,
            locale: Locale::default(),
        }
    }

    fn world(text: &str) -> World {
        let loaded = Loader::new(MODEL_KINDS).load(&[SourceText::new("world", text)]);
        assert!(loaded.invalid.is_empty(), "{:?}", loaded.invalid);
        loaded.world
    }

    #[test]
    fn policies_of_every_service_of_the_instance_guard_it() {
        let text = "\
apiVersion: v1
kind: Service
metadata: {name: all, namespace: shop}
spec: {ports: [{port: 8000, targetPort: 8080}]}
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop}
spec: {services: [cart, all], address: 10.0.0.8, ports: [{port: 80, targetPort: 8080}], tunnel: {}}
---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec: {targetRefs: [{group: '', kind: Service, name: all}], allow: [{from: [{identities: [shop/web]}]}]}
";
        let guarded = |world: &World| {
            let mut stationing = Stationing::new(place(), "spiffe://transept.local/ns/shop/sa/cart".to_owned());
            let update = stationing.take(world);
            let snapshot = &update.loaded.snapshot;
            let inbound = snapshot.binds.iter().find(|bind| bind.role == Role::Inbound).expect("a way in");
            !inbound.listeners[0].chain.is_empty()
        };
        assert!(guarded(&world(text)));
        assert!(!guarded(&world(&text.replace("[cart, all]", "[cart]"))));
    }

    #[test]
    fn a_policy_for_a_service_that_is_not_held_here_is_no_problem() {
        let policy = |name: &str, section: &str| {
            format!(
                "---
apiVersion: transept.dev/v1alpha1
kind: MeshPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {{targetRefs: [{{group: '', kind: Service, name: {name}{section}}}], mode: Strict}}
"
            )
        };
        let problems = |policies: &str| {
            let mut stationing = Stationing::new(place(), "spiffe://transept.local/ns/shop/sa/cart".to_owned());
            let update = stationing.take(&world(&format!("{WORLD}{policies}")));
            let problems = &update.loaded.problems;
            (problems.iter().map(|one| one.why.clone()).collect::<Vec<_>>(), update.loaded.settled.status.to_json())
        };
        let (found, status) = problems(&policy("bank", ""));
        assert_eq!(found, [""; 0], "who calls it knows it");
        assert!(!status.to_string().contains("MeshPolicy"), "{status}");
        // Of what is held everything is known.
        let (found, _) = problems(&policy("catalog", ", sectionName: admin"));
        assert!(found.len() == 1 && found[0].contains("with a part named admin"), "{found:?}");
    }

    #[test]
    fn a_service_with_one_port_is_called_on_it_and_through_its_tunnel() {
        let mut stationing = Stationing::new(place(), "spiffe://transept.local/ns/shop/sa/cart".to_owned());
        let empty = stationing.take(&world(""));
        assert_eq!(empty.loaded.generation, 1);
        let problem = &empty.loaded.problems[0];
        assert_eq!(
            (&*problem.why, &*problem.at.file),
            ("there is no service shop/catalog", "--upstream catalog=127.0.0.1:9001")
        );
        let near = stationing.take(&world(&WORLD.replace("catalog", "catalogs")));
        let remedy = near.loaded.problems[0].remedy.as_deref().unwrap_or_default();
        assert!(remedy.contains("did you mean catalogs?"), "{remedy}");
        let update = stationing.take(&world(WORLD));
        let loaded = &update.loaded;
        assert_eq!((loaded.generation, loaded.problems.len()), (3, 0), "{:?}", loaded.problems);
        let roles: Vec<Role> = loaded.snapshot.binds.iter().map(|bind| bind.role).collect();
        assert_eq!(roles.len(), 2);
        assert!(roles.contains(&Role::Inbound) && roles.contains(&Role::Outbound));
        let endpoints: Vec<_> =
            loaded.snapshot.backends.iter().flat_map(|backend| backend.endpoints.load().endpoints().to_vec()).collect();
        let tunnel = endpoints.iter().find_map(|endpoint| endpoint.tunnel.clone()).expect("an endpoint in the mesh");
        assert_eq!(tunnel.address, SocketAddr::from(([10, 0, 0, 9], 15008)));
        assert_eq!(&*tunnel.identity, "spiffe://transept.local/ns/shop/sa/catalog");
    }
}
