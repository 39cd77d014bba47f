//! Transparent: the program calls services by their names, and knows nothing of the mesh.
//!
//! Called by `sidecar`. Its questions for names are led to a name server of ours, which gives every service a virtual address;
//! connections to those, and to the addresses that services have in a cluster, are led to the proxy. So are connections to where instances
//! may be, which may be called by their own address, and to every address that a name is answered with. Everything else the program does is left alone. Connections of others to the program's ports are led to the proxy too, when they do not come by the tunnel: a door
//! beside it would be no door. The addresses are kept in the state directory, because a program may hold on to one for longer than
//! we live.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::watch;
use transept_engine::compile::mesh::{Captured, VirtualService};
use transept_model::World;
use transept_model::kinds::workload::{Takes, is_proven, takes_for};
use transept_model::kinds::{Object, ServiceSpec};
use transept_proxy::capture::{self, DnsPlan, InboundPlan, IpNet, Liveness, OutboundPlan, Owner, Scope, ServicePort};
use transept_proxy::names::{self, Assigned, Instance, Meaning, MeshService, NameServer, Realm, Resolvers, Table};

use super::free_ports::FreePorts;
use super::station::Place;

/// Where the system says which name servers there are.
const SYSTEM: &str = "/etc/resolv.conf";
/// Where the kernel lists the IPv4 routes of our network namespace.
const ROUTES: &str = "/proc/thread-self/net/route";
/// The file with the addresses, in the state directory.
const KEPT: &str = "addresses.json";
/// Name servers whose questions are captured; of those that are named no more, the ones that were named first are left out first.
const SERVERS: usize = 16;

/// What cannot be done where no port is free.
const NO_PORT: &str = "no port for captured connections";

/// Names, addresses and rules of one program.
#[derive(Debug)]
pub(crate) struct Transparent {
    names: NameServer,
    kept: PathBuf,
    /// Where the proxy takes what is captured: the same port of both loopback addresses, as far as there are both.
    listen: Vec<SocketAddr>,
    /// Where it takes connections of others to the program that come without a tunnel.
    plaintext: Option<SocketAddr>,
    plan: capture::Plan,
    /// Where instances may be that are called by their own address.
    instances_in: Vec<IpNet>,
    /// Dropping them captures no longer.
    rules: Option<capture::Captured>,
}

impl Transparent {
    /// Removes the rules of a sidecar that was killed. To be called before anything else: they would hold us up too.
    ///
    /// # Errors
    /// The privilege is missing, or this workload or another one has a sidecar here that lives.
    pub(crate) fn clear(workload: &str) -> Result<()> {
        tell_removed(&capture::remove_leftovers(workload)?);
        refuse_company(workload)
    }

    /// The same for a sidecar that captures nothing: they would lead its own connections to nobody. What it may not remove it tells of,
    /// as far as it may see it.
    pub(crate) fn clear_for_others(workload: &str) {
        let found = capture::clear(workload).unwrap_or_else(|error| {
            tracing::debug!(%error, "whether a sidecar that was killed has left rules here is not known");
            capture::Leftovers::default()
        });
        tell_removed(&found.removed);
        for other in &found.unseen {
            tracing::warn!(
                workload = other.workload,
                pid = other.pid,
                "a process that cannot be seen from here captures calls in this network namespace; if it is gone, the rules that it left \
                 hold up this sidecar, and `nft delete table inet transept_{}` removes them",
                other.workload
            );
        }
    }

    /// Starts the name server on the runtime of the caller. Nothing is captured yet. Connections to `instances_in` will be, with those to
    /// services.
    ///
    /// # Errors
    /// Nothing can be listened on.
    pub(crate) fn prepare(
        place: &Place,
        state: &Path,
        instances_in: &[IpNet],
        free: &mut FreePorts,
    ) -> Result<Transparent> {
        let realm = Realm::new(&place.namespace);
        let range = realm.range;
        let kept = state.join(KEPT);
        let table = Table::build(realm, &read(&kept), []);
        let resolvers = match fs::exists(SYSTEM) {
            Ok(true) => Resolvers::File(SYSTEM.into()),
            _ => Resolvers::These { servers: Vec::new(), search: Vec::new() },
        };
        let servers: Vec<IpAddr> = resolvers.servers().context(SYSTEM)?.iter().map(SocketAddr::ip).collect();
        warn_of_surroundings(&servers);
        let listen = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()].to_vec();
        let names = NameServer::start(&names::Options { listen, resolvers, mark: Some(capture::MARK) }, table)
            .context("no names can be answered")?;
        let port = names.addresses().first().map_or(0, SocketAddr::port);
        let listen = free.loopback().context(NO_PORT)?;
        let inbound = match place.inbound.filter(|_| !place.ports.is_empty()) {
            None => None,
            // The kernel redirects to the address that a connection came to.
            Some(tunnels) => Some((free.everywhere().context(NO_PORT)?, tunnels.port())),
        };
        let plan = capture::Plan {
            workload: place.workload.clone(),
            mark: capture::MARK,
            proxy_user: None,
            program_user: None,
            services: Vec::new(),
            inbound: inbound.map(|(listen, tunnel_port)| InboundPlan {
                port: listen.port(),
                tunnel_port,
                only_ports: place.ports.iter().map(|port| port.target).collect(),
                exclude_ports: Vec::new(),
            }),
            outbound: outbound(&listen, instances_in, &BTreeSet::new()),
            dns: Some(DnsPlan { port, servers }),
            virtual_range: range,
        };
        let plaintext = inbound.map(|(listen, _)| listen);
        let instances_in = instances_in.to_vec();
        Ok(Transparent { names, kept, listen, plaintext, plan, instances_in, rules: None })
    }

    /// Where the proxy is to take connections of others to the program that come without a tunnel; nowhere, when nobody calls it.
    pub(crate) fn plaintext(&self) -> Option<SocketAddr> {
        self.plaintext
    }

    /// Gives the services of a world their addresses, and answers for them from now on. What is returned belongs into the station
    /// that is compiled for the same world.
    pub(crate) fn follow(&mut self, world: &World) -> Captured {
        let before = self.names.table();
        let services = world.services().iter().filter_map(|service| {
            let tcp = service.spec.ports.iter().filter(|port| port.protocol == "TCP");
            let ports: Vec<u16> = tcp.map(|port| port.port).collect();
            let (namespace, name) = (service.meta.namespace.to_string(), service.meta.name.to_string());
            (!ports.is_empty()).then_some(MeshService { namespace, name, ports })
        });
        let mut table = Table::build(before.realm().clone(), before.assigned(), services);
        let headless = headless(world).map(|service| {
            let (namespace, name) = (&*service.meta.namespace, &*service.meta.name);
            (namespace, name, instances_of(world, namespace, name))
        });
        let headless: Vec<_> = headless.collect();
        let given = headless.iter().flat_map(|(.., instances)| instances.iter().map(|one| one.address)).collect();
        let outbound = outbound(&self.listen, &self.instances_in, &given);
        // Before anybody can be told of them.
        if table.assigned() != before.assigned()
            && let Err(error) = keep(&self.kept, table.assigned())
        {
            tracing::warn!(%error, path = %self.kept.display(), "virtual addresses cannot be kept for the next start");
        }
        let services = table.services().iter().filter_map(|service| match table.resolve(&table.full_name(service)) {
            Meaning::Service(address) => Some(VirtualService {
                address: address.into(),
                namespace: service.namespace.clone(),
                service: service.name.clone(),
            }),
            _ => None,
        });
        let located = outbound.as_ref().map(|_| BTreeSet::new());
        let mut captured = Captured { listen: self.listen.clone(), services: services.collect(), located };
        captured.services.extend(table.services().iter().flat_map(|service| cluster_addresses(world, service)));
        let ports_of: HashMap<(&str, &str), &[u16]> =
            table.services().iter().map(|one| ((&*one.namespace, &*one.name), &*one.ports)).collect();
        let listener = self.listen.first().map_or(0, SocketAddr::port);
        let ports = captured.services.iter().flat_map(|at| {
            let address = at.address;
            let ports = ports_of.get(&(&*at.namespace, &*at.service)).copied().unwrap_or_default();
            ports.iter().map(move |&port| ServicePort { address, port, listener })
        });
        // Before anybody can be told of an address of an instance. One that is not captured would be called in clear text: then the names of
        // headless services stand for virtual addresses like others.
        if self.lead(ports.collect(), outbound) {
            for (namespace, name, instances) in headless {
                table = table.with_instances(namespace, name, instances);
            }
        }
        self.names.update(table);
        captured
    }

    /// The name servers that the system names, now and whenever others are named.
    pub(crate) fn servers(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.names.servers()
    }

    /// Answers the questions to these name servers, too. Programs that have read of others before go on asking those.
    pub(crate) fn follow_servers(&mut self, servers: &[SocketAddr]) {
        let Some(dns) = self.plan.dns.as_mut().filter(|dns| !dns.servers.is_empty()) else { return };
        let mut all: Vec<IpAddr> = servers.iter().map(SocketAddr::ip).collect();
        all.extend(dns.servers.iter().filter(|known| servers.iter().all(|server| server.ip() != **known)));
        all.truncate(SERVERS);
        if all == dns.servers {
            return;
        }
        dns.servers = all;
        if let Some(Err(error)) = self.rules.as_mut().map(|rules| rules.replace(&self.plan)) {
            tracing::error!(%error, "questions to other name servers are not captured");
        }
    }

    /// Leads these ports to the proxy, and connections of this plan; other ports of virtual addresses are refused. Tells whether that came to
    /// pass: if not, it is as it was, and tried again at the next change.
    fn lead(&mut self, services: Vec<ServicePort>, outbound: Option<OutboundPlan>) -> bool {
        if self.plan.services == services && self.plan.outbound == outbound {
            return true;
        }
        let plan = capture::Plan { services, outbound, ..self.plan.clone() };
        if let Some(Err(error)) = self.rules.as_mut().map(|rules| rules.replace(&plan)) {
            tracing::error!(%error, "calls of new services are not captured; it is tried again at the next change");
            return false;
        }
        self.plan = plan;
        true
    }

    /// Captures from now on; the proxy listens.
    ///
    /// # Errors
    /// The privilege is missing, the kernel lacks something, or another sidecar has begun here.
    pub(crate) fn begin(&mut self) -> Result<()> {
        refuse_company(&self.plan.workload)?;
        let rules = capture::capture(&self.plan)?;
        tracing::info!(means = %rules.means(), range = %self.plan.virtual_range, "calls of services by name are captured");
        if let Some(inbound) = &self.plan.inbound {
            tracing::info!(ports = ?inbound.only_ports, "calls of the program that come without a tunnel are captured");
        }
        self.rules = Some(rules);
        Ok(())
    }
}

/// Says what of the network namespace keeps calls from being captured: the kernel refuses what has no route before any rule sees it.
fn warn_of_surroundings(servers: &[IpAddr]) {
    if fs::read_to_string(ROUTES).is_ok_and(|routes| lead_nowhere(&routes)) {
        tracing::warn!(
            "this network namespace has no IPv4 route but over loopback: the program's calls of services by name will not be answered; give it an \
             interface with an address and a route"
        );
        return;
    }
    for server in servers {
        let here: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // Connecting a UDP socket asks for a route and sends nothing.
        if let Err(error) = UdpSocket::bind((here, 0)).and_then(|socket| socket.connect((*server, 53))) {
            tracing::warn!(%server, %error, "no route leads to a name server of {SYSTEM}: what the program asks it will not be answered; add a route");
        }
    }
}

/// Whether no route leads beyond loopback, by the list of the kernel: a line of titles, then one for each route that begins with its interface.
fn lead_nowhere(routes: &str) -> bool {
    let mut interfaces = routes.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    interfaces.all(|name| name == "lo")
}

/// Which connections are led to the proxy that do not go to services: those to where instances may be, and to addresses that were given out
/// for names.
fn outbound(listen: &[SocketAddr], instances_in: &[IpNet], given: &BTreeSet<IpAddr>) -> Option<OutboundPlan> {
    let others = given.iter().filter(|address| !instances_in.iter().any(|range| range.contains(*address)));
    let only: Vec<IpNet> = instances_in.iter().copied().chain(others.copied().map(IpNet::from)).collect();
    // Without any, all would be captured.
    (!only.is_empty()).then(|| OutboundPlan {
        port: listen.first().map_or(0, SocketAddr::port),
        scope: Scope::Everything,
        only,
        ..OutboundPlan::default()
    })
}

/// Tells whose rules were removed.
fn tell_removed(removed: &[Owner]) {
    for owner in removed {
        tracing::warn!(workload = owner.workload, pid = owner.pid, "removed the rules of a sidecar that was killed");
    }
}

/// Refuses to capture beside a sidecar of another workload: nobody could tell whose program a call is of, and one would call as the other.
fn refuse_company(workload: &str) -> Result<()> {
    let Some(other) = capture::others(workload)?.into_iter().next() else { return Ok(()) };
    let who = match other.liveness() {
        Liveness::Unknown => "a process that cannot be seen from here",
        _ => "another sidecar",
    };
    anyhow::bail!(
        "{who} (workload {name}, pid {pid}) captures calls in this network namespace already, and the calls of one program would go out with \
         the identity of the other; give each program a network namespace of its own (a container, PrivateNetwork= of systemd, ip netns), or \
         start this one with --upstream or --http-proxy instead of --transparent. If that process is gone, \
         `nft delete table inet transept_{name}` removes what it left",
        name = other.workload,
        pid = other.pid,
    )
}

/// The addresses that a Service has in a cluster, where programs may know it by them. One that everybody has for himself stands for
/// nobody else.
fn cluster_addresses(world: &World, service: &MeshService) -> Vec<VirtualService> {
    let Some(written) = world.service(&service.namespace, &service.name) else {
        return Vec::new();
    };
    let written = written.spec.cluster_ip.iter().chain(&written.spec.cluster_ips);
    // `None` is what a Service without one says.
    let addresses = written.filter_map(|text| text.parse::<IpAddr>().ok());
    let addresses: BTreeSet<IpAddr> =
        addresses.filter(|one| !one.is_loopback() && !one.is_unspecified() && !one.is_multicast()).collect();
    let stands = |address: IpAddr| VirtualService {
        address,
        namespace: service.namespace.clone(),
        service: service.name.clone(),
    };
    addresses.into_iter().map(stands).collect()
}

/// The Services that have no address of their own, and whose names stand for their instances.
pub(super) fn headless(world: &World) -> impl Iterator<Item = &Arc<Object<ServiceSpec>>> {
    world.services().iter().filter(|service| service.spec.cluster_ip.as_deref() == Some("None"))
}

/// The instances of a Service, those with a tunnel and others, by their addresses. Of several at one address, one that takes requests; those that are not
/// known to be at theirs are not called by it.
fn instances_of(world: &World, namespace: &str, service: &str) -> Vec<Instance> {
    let mut found: BTreeMap<IpAddr, Instance> = BTreeMap::new();
    let mut silent = BTreeSet::new();
    let workloads = || world.workloads_of(namespace, service).iter().filter(|workload| is_proven(workload));
    for takes in [Takes::Requests, Takes::WhatIsLeft, Takes::Nothing] {
        for workload in workloads().filter(|workload| takes_for(workload, service) == takes) {
            let Some(address) = workload.spec.ip() else { continue };
            let address = address.to_canonical();
            let name = Some(workload.meta.name.to_string());
            if !found.contains_key(&address) && takes == Takes::WhatIsLeft {
                silent.insert(address);
            }
            found.entry(address).or_insert(Instance { name, address, ready: takes == Takes::Requests });
        }
    }
    for slice in world.endpoint_slices_of(namespace, service) {
        for endpoint in &slice.spec.endpoints {
            let Some(address) = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()) else {
                continue;
            };
            // The kernel connects to one of IPv4 that is written as one of IPv6 by IPv4, and so it is captured.
            let address = address.to_canonical();
            let hostname = endpoint.hostname.as_ref().map(|name| name.to_string());
            let ready = endpoint.conditions.is_ready();
            let instance = found.entry(address).or_insert(Instance { name: None, address, ready });
            if hostname.is_some() {
                instance.name = hostname;
            }
        }
    }
    if !found.values().any(|instance| instance.ready) {
        found.values_mut().for_each(|instance| instance.ready = silent.contains(&instance.address));
    }
    found.into_values().collect()
}

/// What was kept; nothing, when it is not there or no longer what it was.
fn read(path: &Path) -> Assigned {
    let Ok(text) = fs::read(path) else {
        return Assigned::new();
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "virtual addresses from before are not readable; services get new ones");
        Assigned::new()
    })
}

/// Whole or not at all.
fn keep(path: &Path, addresses: &Assigned) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, serde_json::to_vec_pretty(addresses)?)?;
    fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use transept_engine::policies::MODEL_KINDS;
    use transept_model::attach::Locale;
    use transept_model::{Loader, SourceText};

    use super::*;

    fn world(names: &[&str]) -> World {
        let service = |name: &&str| {
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n"
            )
        };
        let text: String = names.iter().map(service).collect();
        Loader::new(MODEL_KINDS).load(&[SourceText::new("world", &*text)]).world
    }

    fn place() -> Place {
        Place {
            namespace: "shop".to_owned(),
            workload: "web-1".to_owned(),
            service: "web".to_owned(),
            announced: None,
            inbound: None,
            ports: Vec::new(),
            upstreams: Vec::new(),
            http_proxy: None,
            locale: Locale::default(),
        }
    }

    #[tokio::test]
    async fn a_service_is_captured_at_its_addresses_in_the_cluster_too() {
        let text = "\
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7, 'fd00::7'], ports: [{port: 80}, {port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: local, namespace: shop}
spec: {clusterIP: 127.0.0.1, ports: [{port: 80}]}
";
        let world = Loader::new(MODEL_KINDS).load(&[SourceText::new("world", text)]).world;
        let state = tempfile::tempdir().expect("a directory");
        let mut transparent =
            Transparent::prepare(&place(), state.path(), &[], &mut FreePorts::default()).expect("prepared");
        let captured = transparent.follow(&world);
        let outside = |address: &IpAddr| !transparent.names.table().is_virtual(*address);
        let cluster: Vec<_> = captured.services.iter().filter(|one| outside(&one.address)).collect();
        let (v4, v6): (IpAddr, IpAddr) = ("10.96.0.7".parse().expect("one"), "fd00::7".parse().expect("one"));
        let known: Vec<_> = cluster.iter().map(|one| (one.address, &*one.service)).collect();
        assert_eq!(known, [(v4, "cart"), (v6, "cart")]);
        for address in [v4, v6] {
            let led = transparent.plan.services.iter().filter(|one| one.address == address);
            assert_eq!(led.map(|one| one.port).collect::<Vec<_>>(), [80, 81]);
        }
    }

    #[tokio::test]
    async fn every_address_that_a_name_is_answered_with_is_captured() {
        let text = "\
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
endpoints: [{addresses: [203.0.113.7]}, {addresses: [10.0.0.7]}]
ports: [{port: 80}]
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop}
spec: {services: [cart], address: '2001:db8::7', ports: [{port: 80}], tunnel: {}, health: Unhealthy}
";
        let full = Loader::new(MODEL_KINDS).load(&[SourceText::new("world", text)]).world;
        let state = tempfile::tempdir().expect("a directory");
        let private: IpNet = "10.0.0.0/8".parse().expect("a range");
        let only = |transparent: &Transparent| {
            let outbound = transparent.plan.outbound.as_ref();
            outbound.map(|outbound| outbound.only.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let mut transparent =
            Transparent::prepare(&place(), state.path(), &[private], &mut FreePorts::default()).expect("prepared");
        assert!(transparent.follow(&full).located.is_some());
        let expected = ["10.0.0.0/8", "203.0.113.7/32", "2001:db8::7/128"].map(str::to_owned);
        assert_eq!(only(&transparent), Some(expected.to_vec()));
        let answered: Vec<IpAddr> = transparent.names.table().instances("cart.shop");
        assert_eq!(answered.len(), 2, "the instance that is not well is named below it alone");

        let mut transparent =
            Transparent::prepare(&place(), state.path(), &[], &mut FreePorts::default()).expect("prepared");
        assert_eq!(only(&transparent), None, "none of all addresses, not all of them");
        assert!(transparent.follow(&world(&["cart"])).located.is_none());
        assert!(transparent.follow(&full).located.is_some());
        assert_eq!(only(&transparent).map(|only| only.len()), Some(3));
        transparent.follow(&world(&["cart"]));
        assert_eq!(only(&transparent), None);
    }

    #[test]
    fn the_name_of_a_headless_service_means_who_is_well_at_an_address_else_who_is_silent() {
        let instance = |name: &str, last: u8, annotation: &str, health: &str| {
            format!(
                "---\napiVersion: transept.dev/v1alpha1\nkind: Workload\n\
                 metadata: {{name: {name}, namespace: shop, annotations: {{{annotation}}}}}\n\
                 spec: {{services: [cart], address: 10.0.0.{last}, ports: [{{port: 80}}], tunnel: {{}}, health: {health}}}\n"
            )
        };
        let found = |instances: &[String]| {
            let text = instances.concat();
            let world = Loader::new(MODEL_KINDS).load(&[SourceText::new("world", &*text)]).world;
            let found = instances_of(&world, "shop", "cart").into_iter();
            found.map(|one| (one.name.unwrap_or_default(), one.ready)).collect::<Vec<_>>()
        };
        let is = |name: &str, ready: bool| (name.to_owned(), ready);
        let silent = || "transept.dev/silent: cart";
        let well = instance("cart-1", 7, "", "Healthy");
        // The one that was there before comes later by its name.
        let before = instance("cart-2", 7, "", "Unhealthy");
        assert_eq!(found(&[well.clone(), before.clone()]), [is("cart-1", true)]);
        let lapsed = instance("cart-3", 8, silent(), "Unhealthy");
        assert_eq!(found(&[well.clone(), lapsed.clone()]), [is("cart-1", true), is("cart-3", false)]);
        assert_eq!(found(&[before, lapsed]), [is("cart-2", false), is("cart-3", true)]);
        // Nobody is called by an address at which he is not known to be.
        let claimed = instance("cart-4", 9, "transept.dev/unproven: 'true'", "Healthy");
        assert_eq!(found(std::slice::from_ref(&claimed)), []);
        assert_eq!(found(&[well, claimed]), [is("cart-1", true)]);
    }

    #[tokio::test]
    async fn questions_to_name_servers_of_now_and_of_before_are_captured() {
        let state = tempfile::tempdir().expect("a directory");
        let mut transparent =
            Transparent::prepare(&place(), state.path(), &[], &mut FreePorts::default()).expect("prepared");
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let captured = |transparent: &Transparent| transparent.plan.dns.clone().expect("a plan").servers;
        transparent.plan.dns.as_mut().expect("a plan").servers = vec![address(1)];
        transparent.follow_servers(&[(address(2), 53).into()]);
        assert_eq!(captured(&transparent), [address(2), address(1)]);
        transparent.follow_servers(&[(address(1), 53).into()]);
        assert_eq!(captured(&transparent), [address(1), address(2)]);
        for last in 3..100 {
            transparent.follow_servers(&[(address(last), 53).into()]);
        }
        assert_eq!((captured(&transparent).len(), captured(&transparent)[0]), (SERVERS, address(99)));
        // None are all, and stay so.
        transparent.plan.dns.as_mut().expect("a plan").servers.clear();
        transparent.follow_servers(&[(address(2), 53).into()]);
        assert!(captured(&transparent).is_empty());
    }

    #[tokio::test]
    async fn services_have_addresses_that_last() {
        let state = tempfile::tempdir().expect("a directory");
        let mut transparent =
            Transparent::prepare(&place(), state.path(), &[], &mut FreePorts::default()).expect("prepared");
        let first = transparent.follow(&world(&["cart", "catalog"]));
        assert_eq!(first.services.len(), 2);
        assert!(first.services.iter().all(|service| transparent.names.table().is_virtual(service.address)));
        assert_eq!(transparent.plan.services.len(), 2);
        assert_eq!(transparent.follow(&world(&["catalog"])).services, first.services[1..]);
        drop(transparent);
        let mut again = Transparent::prepare(&place(), state.path(), &[], &mut FreePorts::default()).expect("prepared");
        assert_eq!(again.follow(&world(&["cart", "catalog"])).services, first.services);
        fs::write(state.path().join(KEPT), "{").expect("written");
        assert_eq!(read(&state.path().join(KEPT)), Assigned::new());
    }
}
