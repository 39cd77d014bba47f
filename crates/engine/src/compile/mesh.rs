//! The two sides of a workload in the mesh: the way into its program, and its way to the Services it calls.
//!
//! Called by a proxy that stands beside a program instead of before a network. Inbound, one listener stands for each port of the program,
//! guarded by the policies on the Services it belongs to. Outbound, one listener stands for each port of a Service, with the routes that
//! name this Service as their parent (GAMMA), or straight to its endpoints. Everything else is what `compile` does for Gateways.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use transept_model::attach::{Attached, PolicyAttachment, PolicyTarget, ServiceRoute};
use transept_model::kinds::{DEFAULT_TRUST_DOMAIN, HBONE_PORT, ServicePort, TargetPort};
use transept_model::policy::{Merge, Target};
use transept_model::references::{BackendTarget, Grant, Referrer};
use transept_model::schema::Text;
use transept_model::world::World;

pub use self::captured::{Captured, VirtualService};
pub use self::protocol::AppProtocol;
use super::backends::Backends;
use super::policies::{Effective, Policies};
use super::ports;
use super::routes::{CompiledRoute, RouteCompiler, bare_rule};
use super::{Compiled, RouteKey, find_nothing_left, key_of, rule_on, stream_rule};
use crate::filters::Filters;
use crate::learned::{Known, Learned};
use crate::policies::{Chain, Step};
use crate::role::Destinations;
use crate::route::RouteTable;
use crate::route::hosts::Hosts;
use crate::route::predicates::Predicates;
use crate::route::table::{Entry, PathKey};
use crate::rule::{BrokenRef, RouteKind, Rule, RuleName, Site, WeightedBackend};
use crate::settings::{Plaintext, Settings};
use crate::snapshot::{
    Backend, BackendId, Bind, Endpoint, Listener, ListenerName, Role, Secure, ServiceName, Snapshot, Speaks,
};

/// A proxy's place beside one instance of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Station {
    /// The namespace of the workload.
    pub namespace: String,
    /// The name of the instance.
    pub workload: String,
    /// The Services that it serves, the first of which names it in metrics.
    pub services: Vec<String>,
    /// Its own SPIFFE id.
    pub identity: String,
    /// Where it listens for tunnels.
    pub inbound: Vec<Inbound>,
    /// Where connections to the program are led that come without a tunnel.
    pub plaintext: Option<SocketAddr>,
    /// The ports of the program.
    pub app: Vec<AppPort>,
    /// Local ports that stand for Services.
    pub outbound: Vec<Outbound>,
    /// Where it listens for programs that were told of an HTTP proxy: the host name of a request says the Service.
    pub http_proxy: Option<SocketAddr>,
    /// Where it listens for connections that the program opened to somewhere else.
    pub captured: Option<Captured>,
    /// The Services of which all is known that there is to know, by namespace and name; none are all. The others are called by
    /// `http_proxy` and `captured` only after somebody has asked for them.
    pub awake: Option<BTreeSet<(String, String)>>,
}

impl Station {
    /// The place beside an instance of a Service, for explanations: its way in is asked on the ports of the Service, its way out by
    /// host names. None when there is no such Service.
    pub fn beside(world: &World, namespace: &str, service: &str) -> Option<Station> {
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let found = world.service(namespace, service)?;
        let workload = world.workloads_of(namespace, service).first();
        let app = found.spec.ports.iter().filter(|port| port.protocol == "TCP").map(|port| {
            let target = match (workload.and_then(|workload| workload.spec.port_for(port)), &port.target_port) {
                (Some(known), _) => known.target(),
                (None, Some(TargetPort::Number(number))) => *number,
                (None, _) => port.port,
            };
            AppPort { port: port.port, to: local(target), protocol: AppProtocol::of(port.app_protocol.as_deref()) }
        });
        // What is asked about comes first; policies on the others guard the instance too.
        let others = workload.into_iter().flat_map(|workload| &workload.spec.services);
        let others = others.filter(|other| ***other != *service).map(|other| other.to_string());
        Some(Station {
            namespace: namespace.to_owned(),
            workload: workload.map_or(service, |workload| &workload.meta.name).to_owned(),
            services: std::iter::once(service.to_owned()).chain(others).collect(),
            identity: match workload {
                Some(workload) => workload.spec.identity(&workload.meta),
                None => format!("spiffe://{DEFAULT_TRUST_DOMAIN}/ns/{namespace}/sa/{service}"),
            },
            inbound: vec![Inbound { listen: local(HBONE_PORT), announced: None }],
            plaintext: None,
            awake: None,
            app: app.collect(),
            outbound: Vec::new(),
            http_proxy: Some(local(0)),

            captured: None,
        })
    }

    /// The place beside a program that only calls, which needs no Service: its way out is asked by host names.
    pub fn of_caller(namespace: &str, service: &str) -> Station {
        Station {
            namespace: namespace.to_owned(),
            workload: service.to_owned(),
            services: vec![service.to_owned()],
            identity: format!("spiffe://{DEFAULT_TRUST_DOMAIN}/ns/{namespace}/sa/{service}"),
            inbound: Vec::new(),
            plaintext: None,
            awake: None,
            app: Vec::new(),
            outbound: Vec::new(),
            http_proxy: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            captured: None,
        }
    }
}

/// One address for tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// What to listen on.
    pub listen: SocketAddr,
    /// The address that others know it by, when that is another than those of this machine, as behind a translation of addresses.
    pub announced: Option<IpAddr>,
}

/// One port of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppPort {
    /// The port of the Service. The program's own is always known besides.
    pub port: u16,
    /// Where the program listens.
    pub to: SocketAddr,
    /// What it speaks.
    pub protocol: AppProtocol,
}

/// One local port that stands for a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// What to listen on.
    pub listen: SocketAddr,
    /// The name of the Service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// Its port.
    pub port: u16,
}

/// Compiles the binds of a station. `previous` is the snapshot that is in use, `generation` the number of the new one.
pub fn compile_station(
    world: &World,
    attached: &Attached,
    station: &Station,
    previous: Option<&Snapshot>,
    generation: u64,
) -> Compiled {
    let mut problems = Vec::new();
    let attachments = find_attachments(world, attached, station);
    let keep = previous.map(|snapshot| Arc::clone(&snapshot.keep)).unwrap_or_default();
    let policies = Policies::new(&attachments, world, &keep, ports::led_to(world, station));
    let mut backends = Backends::new(world, previous, &policies, &attached.locale);
    let mut conditions = backends.settle_wanted(&policies.needs.wanted, &mut problems);
    let mut compiler = RouteCompiler { backends: &mut backends, problems: &mut problems, single: HashMap::new() };
    let mut routes = HashMap::new();
    for route in attached.services.iter().flat_map(|service| &service.routes) {
        routes.entry(key_of(&route.route)).or_insert_with(|| compiler.compile(&route.route));
    }
    let mut sides = Sides {
        world,
        attached,
        station,
        policies: &policies,
        backends: &mut backends,
        routes: &routes,
        awake: station.awake.as_ref().map(|awake| awake.iter().map(|(of, name)| (&**of, &**name)).collect()),
        outbound: settings_of(Role::Outbound, previous),
        inbound: settings_of(Role::Inbound, previous),
        learned: learned_before(previous),
    };
    let mut binds = BTreeMap::new();
    sides.add_inbound(&mut binds);
    sides.add_outbound(&mut binds);
    let nothing_left = find_nothing_left(&routes);
    let (backends, changes) = backends.finish();
    conditions.extend(policies.conditions());
    let idle = policies.idle_memories(world, &keep);
    problems.extend(policies.problems);
    for problem in &mut problems {
        world.complete(problem);
    }
    let binds = binds.into_values().map(Arc::new).collect();
    Compiled {
        snapshot: Arc::new(Snapshot {
            generation,
            binds,
            backends,
            keep,
            credentials: policies.credentials,
            documents: policies.needs.documents,
            _idle: idle,
        }),
        changes,
        problems,
        notes: Vec::new(),
        conditions,
        nothing_left,
    }
}

/// The policies with their targets, among them those on own Services that are not there: a Service that only registrations mention
/// begins and ends with them, and what guards the program must not.
fn find_attachments(world: &World, attached: &Attached, station: &Station) -> Vec<PolicyAttachment> {
    let mut attachments = attached.policies.clone();
    for policy in world.policies() {
        let namespace = &policy.meta.namespace;
        if policy.merge != Merge::Together || **namespace != *station.namespace {
            continue;
        }
        for reference in policy.target_refs.iter().filter(|one| Target::of(one) == Some(Target::Service)) {
            let is_own = station.services.iter().any(|service| **service == *reference.name);
            if is_own && world.service(namespace, &reference.name).is_none() {
                let (namespace, name) = (namespace.clone(), reference.name.clone());
                let target = PolicyTarget::Service { namespace, name, port: reference.section_name.clone() };
                attachments.push(PolicyAttachment { policy: policy.clone(), target });
            }
        }
    }
    attachments
}

/// The settings of a side, the same pointer as long as they do not change.
fn settings_of(role: Role, previous: Option<&Snapshot>) -> Arc<Settings> {
    let settings = Settings::of_member(role);
    let known = previous.into_iter().flat_map(|snapshot| &snapshot.binds).map(|bind| &bind.settings);
    known.into_iter().find(|known| ***known == settings).map_or_else(|| Arc::new(settings.clone()), Arc::clone)
}

/// What the ports of listeners have spoken, by listener.
fn learned_before(previous: Option<&Snapshot>) -> HashMap<ListenerName, Arc<Learned>> {
    let listeners = previous.into_iter().flat_map(|snapshot| &snapshot.binds).flat_map(|bind| &bind.listeners);
    let learned =
        listeners.filter_map(|listener| Some((listener.name.clone(), Arc::clone(listener.learned.as_ref()?))));
    learned.collect()
}

/// Makes the listeners of both sides.
struct Sides<'c, 'w> {
    world: &'w World,
    attached: &'w Attached,
    station: &'w Station,
    policies: &'c Policies<'w>,
    backends: &'c mut Backends<'w>,
    routes: &'c HashMap<RouteKey<'w>, CompiledRoute>,
    awake: Option<HashSet<(&'w str, &'w str)>>,
    outbound: Arc<Settings>,
    inbound: Arc<Settings>,
    learned: HashMap<ListenerName, Arc<Learned>>,
}

/// A port of a Service that the program may call.
#[derive(Clone, Copy)]
struct Callee<'w> {
    namespace: &'w str,
    name: &'w str,
    port: u16,
}

impl<'w> Sides<'_, 'w> {
    fn add_inbound(&mut self, binds: &mut BTreeMap<SocketAddr, Bind>) {
        let mut listeners = Vec::with_capacity(self.station.app.len());
        let mut destinations = Destinations::default();
        for (id, app) in (0..).zip(&self.station.app) {
            listeners.push(self.inbound_listener(app));
            // Tunnels name the port of the program; who names that of the Service means the same.
            destinations.add_port(app.to.port(), id);
        }
        for (id, app) in (0..).zip(&self.station.app) {
            destinations.add_port(app.port, id);
        }
        for Inbound { listen, announced } in &self.station.inbound {
            let mut destinations = destinations.clone();
            destinations.announced = announced.map(|address| address.to_canonical());
            let bind = Bind {
                address: *listen,
                role: Role::Inbound,
                secure: Secure::Mesh,
                listeners: listeners.clone(),
                settings: Arc::clone(&self.inbound),
                hosts: Hosts::default(),
                destinations: Arc::new(destinations),
            };
            binds.entry(*listen).or_insert(bind);
        }
        if let Some(address) = self.station.plaintext {
            destinations.captured = true;
            let bind = Bind {
                address,
                role: Role::Inbound,
                secure: Secure::Plain,
                listeners,
                settings: Arc::clone(&self.inbound),
                hosts: Hosts::default(),
                destinations: Arc::new(destinations),
            };
            binds.entry(address).or_insert(bind);
        }
    }

    fn inbound_listener(&mut self, app: &AppPort) -> Arc<Listener> {
        let station = self.station;
        let service = station.services.first().unwrap_or(&station.workload);
        let id = BackendId {
            kind: "Workload",
            namespace: station.namespace.as_str().into(),
            name: station.workload.as_str().into(),
            port: Some(app.to.port()),
        };
        let backend = self.backends.fixed(id, protocol::upstream(app.protocol), Endpoint::at(app.to));
        let (chain, settings, settled_by) = self.guard(app);
        let rule =
            whole_rule(&station.namespace, service, app.port, self.site(&station.namespace, service), Ok(backend));
        let rule = Arc::new(Rule { chain: chain.clone(), ..rule });
        let listener = self.listener(&station.namespace, service, app.port, rule, None, Role::Inbound);
        let speaks = protocol::speaks(app.protocol);
        Arc::new(Listener {
            speaks,
            learned: self.learned(speaks, &listener.name),
            chain,
            settings,
            settled_by,
            // Policies name the port of the program; which one of the Service was called, a tunnel does not say.
            port: app.to.port(),
            ..listener
        })
    }

    /// The policies on the Services that a port of the program serves, and what they settle.
    fn guard(&self, app: &AppPort) -> (Chain, Arc<Settings>, Vec<Arc<Step>>) {
        let mut effective = self.policies.on_namespace(&Text::from(self.station.namespace.as_str()));
        let mut settled = Vec::new();
        for service in &self.station.services {
            let (namespace, name) = (Text::from(self.station.namespace.as_str()), Text::from(service.as_str()));
            let ports: Vec<Text> = match self.world.service(&namespace, &name) {
                Some(service) => {
                    let ports = service.spec.ports.iter().filter(|port| serves(port, app));
                    ports.filter_map(|port| port.name.clone()).collect()
                }
                // Which port is meant cannot be told; it may be this one.
                None => self.policies.ports_of(&namespace, &name),
            };
            let whole = PolicyTarget::Service { namespace: namespace.clone(), name: name.clone(), port: None };
            effective = self.policies.lay_over(&effective, &whole);
            let over_all = effective.clone();
            if ports.is_empty() {
                settled.push(over_all.clone());
            }
            // Several ports may lead to one of the program, where nobody can tell any more which one was called.
            for port in ports {
                let target =
                    PolicyTarget::Service { namespace: namespace.clone(), name: name.clone(), port: Some(port) };
                effective = self.policies.lay_over(&effective, &target);
                settled.push(self.policies.lay_over(&over_all, &target));
            }
        }
        let (settings, settled_by) = self.settle_strictly(&settled);
        (self.policies.guard(&effective), settings, settled_by)
    }

    /// What settles the way in, of the places that may have been called: the strictest.
    fn settle_strictly(&self, places: &[Effective]) -> (Arc<Settings>, Vec<Arc<Step>>) {
        let settled = places.iter().map(|place| self.policies.settle(Settings::clone(&self.inbound), place));
        let strictest = settled.min_by_key(|(settings, _)| settings.plaintext == Plaintext::Allowed);
        match strictest {
            Some((settings, settled_by)) if settings != *self.inbound => (Arc::new(settings), settled_by),
            Some((_, settled_by)) => (Arc::clone(&self.inbound), settled_by),
            None => (Arc::clone(&self.inbound), Vec::new()),
        }
    }

    fn add_outbound(&mut self, binds: &mut BTreeMap<SocketAddr, Bind>) {
        for outbound in &self.station.outbound {
            let callee = Callee { namespace: &outbound.namespace, name: &outbound.service, port: outbound.port };
            let mut hosts = Hosts::default();
            hosts.insert("", 0);
            let listeners = vec![self.outbound_listener(callee)];
            let bind = self.outbound_bind(outbound.listen, listeners, hosts);
            binds.entry(outbound.listen).or_insert(bind);
        }
        self.add_captured(binds);
        let Some(address) = self.station.http_proxy else {
            return;
        };
        let mut listeners = Vec::new();
        let mut destinations = Destinations::default();
        destinations.by_authority = true;
        destinations.asleep.from = self.station.namespace.as_str().into();
        for service in self.world.services() {
            let (namespace, name) = (service.meta.namespace.as_str(), service.meta.name.as_str());
            if !self.is_awake(namespace, name) {
                destinations.asleep.names.insert(ServiceName { namespace: namespace.into(), name: name.into() });
                continue;
            }
            for port in service.spec.ports.iter().filter(|port| port.protocol == "TCP") {
                let id = u32::try_from(listeners.len()).unwrap_or(u32::MAX);
                listeners.push(self.outbound_listener(Callee { namespace, name, port: port.port }));
                for host in names_of(namespace, name, &self.station.namespace) {
                    destinations.add_name(&host, port.port, id);
                }
            }
        }
        let bind = self.outbound_bind(address, listeners, Hosts::default());
        binds.entry(address).or_insert(Bind { destinations: Arc::new(destinations), ..bind });
    }

    /// Whether all is known about a Service that there is to know.
    fn is_awake(&self, namespace: &str, name: &str) -> bool {
        self.awake.as_ref().is_none_or(|awake| awake.contains(&(namespace, name)))
    }

    fn outbound_bind(&self, address: SocketAddr, listeners: Vec<Arc<Listener>>, hosts: Hosts) -> Bind {
        Bind {
            address,
            role: Role::Outbound,
            secure: Secure::Plain,
            listeners,
            settings: Arc::clone(&self.outbound),
            hosts,
            destinations: Arc::default(),
        }
    }

    fn outbound_listener(&mut self, callee: Callee<'w>) -> Arc<Listener> {
        let Callee { namespace, name, port } = callee;
        let target = BackendTarget {
            group: "",
            kind: "Service",
            namespace: Some(namespace),
            name,
            port: Some(port),
            grant: Grant::Implied,
        };
        let backend = self.backends.find(&Referrer::new("HTTPRoute", namespace), target);
        let rule = Arc::new(whole_rule(namespace, name, port, self.site(namespace, name), backend));
        let attached = self.attached.service(namespace, name);
        let routes = attached.map(|service| service.routes_for(port, &self.station.namespace)).unwrap_or_default();
        let table = (!routes.is_empty()).then(|| self.table(&routes));
        let stream = attached.and_then(|service| service.stream_route_for(port, &self.station.namespace));
        let stream = stream.and_then(|one| stream_rule(self.policies, self.routes, &one.route, &Effective::default()));
        let service = self.world.service(namespace, name);
        let written = service.and_then(|service| service.spec.ports.iter().find(|one| one.port == port));
        let declared = written.map(|port| port.speaks()).unwrap_or_default();
        let speaks = match (protocol::speaks(declared), stream.is_some()) {
            // Who routes connections and no requests wants them not looked at.
            (Speaks::Detect, true) if table.is_none() => Speaks::Opaque,
            // What is no request here may be one to the program, and would pass by the policies of the routes.
            (Speaks::Detect, false) if table.as_ref().is_some_and(protocol::judges) => Speaks::Http,
            (speaks, _) => speaks,
        };
        let listener = self.listener(namespace, name, port, rule, table, Role::Outbound);
        let learned = self.learned(speaks, &listener.name);
        let hint = written.filter(|_| learned.is_some()).map(|port| self.hint(namespace, name, port));
        let hint = hint.unwrap_or_default();
        Arc::new(Listener { speaks, learned, hint, stream: stream.or(listener.stream), ..listener })
    }

    /// What the port of a listener has spoken so far; none where it is declared. It is shared by all who stand for the same port.
    fn learned(&mut self, speaks: Speaks, name: &ListenerName) -> Option<Arc<Learned>> {
        (speaks == Speaks::Detect).then(|| Arc::clone(self.learned.entry(name.clone()).or_default()))
    }

    /// The rules of routes that name a Service. Their host names play no part: the call belongs to the Service already.
    fn table(&self, routes: &[&'w ServiceRoute]) -> RouteTable {
        let hostname: Arc<str> = "".into();
        let mut entries = Vec::new();
        for route in routes {
            let key = key_of(&route.route);
            for rule in self.routes.get(&key).into_iter().flat_map(|route| &route.rules) {
                let shared = rule_on(self.policies, key, &rule.rule, &Effective::default());
                entries.extend(rule.matches.iter().map(|one| Entry {
                    hostname: Arc::clone(&hostname),
                    path: one.path.clone(),
                    specificity: one.specificity,
                    predicates: Arc::clone(&one.predicates),
                    rule: Arc::clone(&shared),
                    order: route.order,
                    index: one.index,
                }));
            }
        }
        RouteTable::new(entries)
    }

    /// A listener that stands for a port of a Service. Without a table, everything goes by the one rule.
    fn listener(
        &self,
        namespace: &str,
        service: &str,
        port: u16,
        rule: Arc<Rule>,
        table: Option<RouteTable>,
        role: Role,
    ) -> Listener {
        let name = ListenerName {
            namespace: namespace.into(),
            gateway: service.into(),
            section: format!("{}-{port}", role.as_str()).into(),
        };
        let settings = if role == Role::Inbound { &self.inbound } else { &self.outbound };
        Listener {
            metric_label: name.to_string().into(),
            name,
            hostname: None,
            port,
            tls: None,
            speaks: Speaks::Detect,
            learned: None,
            hint: Known::Nothing,
            routes: table.unwrap_or_else(|| everything(&rule)),
            stream: Some(rule),
            chain: Chain::default(),
            settings: Arc::clone(settings),
            settled_by: Vec::new(),
            client_identity: None,
        }
    }

    /// Where a Service is written.
    fn site(&self, namespace: &str, service: &str) -> Site {
        match self.world.service(namespace, service) {
            Some(service) => Site { file: Arc::clone(&service.meta.at.file), line: service.meta.at.line },
            None => Site { file: "".into(), line: 0 },
        }
    }
}

/// Whether a port of a Service is the one that a port of the program serves.
pub(super) fn serves(port: &ServicePort, app: &AppPort) -> bool {
    port.port == app.port || matches!(port.target_port, Some(TargetPort::Number(number)) if number == app.to.port())
}

/// The rule for everything that goes to a port of a Service.
fn whole_rule(namespace: &str, service: &str, port: u16, site: Site, target: Result<Arc<Backend>, BrokenRef>) -> Rule {
    let name = RuleName::new(RouteKind::Service, namespace, service, 0, Some(&port.to_string()), site);
    Rule { backends: [WeightedBackend { weight: 1, filters: Filters::none(), target }].into(), ..bare_rule(name) }
}

/// A table in which everything goes by one rule.
fn everything(rule: &Arc<Rule>) -> RouteTable {
    RouteTable::new(vec![Entry {
        hostname: "".into(),
        path: PathKey::prefix(b"/"),
        specificity: (0, 0),
        predicates: Predicates::shared(Predicates::default()),
        rule: Arc::clone(rule),
        order: 0,
        index: 0,
    }])
}

/// The host names by which a client in `from` may call a Service.
fn names_of(namespace: &str, name: &str, from: &str) -> Vec<String> {
    let full = format!("{name}.{namespace}");
    let mut names: Vec<String> =
        ["", ".svc", ".svc.cluster.local", ".mesh"].iter().map(|suffix| format!("{full}{suffix}")).collect();
    if namespace == from {
        names.extend([name.to_owned(), format!("{name}.mesh")]);
    }
    names
}

mod captured;
mod instances;
pub(super) mod keyless;
pub(super) mod protocol;
#[cfg(test)]
mod tests;
