//! A world with everything attached, into a snapshot: pure, and the same for `check`, admission and the proxy.
//!
//! What has not changed keeps its pointer (backends, server TLS, settings), so that pools and TLS configurations that hang on it live on;
//! endpoints that changed are handed out besides, because a backend in use is changed in place and only when the snapshot is really
//! installed. What is wrong stays on its own target and is reported.

mod backends;
pub(crate) mod filters;
mod keys;
pub mod mesh;
mod policies;
mod ports;
mod reach;
mod routes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

pub use backends::EndpointChange;
pub use reach::{LeftOut, find_left_out};
use transept_model::attach::{Attached, AttachedGateway, AttachedListener, AttachedRoute, PolicyTarget, RouteRef};
use transept_model::hostname::Hostname;
use transept_model::kinds::{FrontendValidationMode, Protocol};
use transept_model::place::{Invalid, Note, ObjectName};
use transept_model::schema::Text;
use transept_model::status::{Condition, Status, Truth};
use transept_model::world::World;

use self::backends::Backends;
use self::policies::{Clients, Effective, Policies};
use self::routes::{CompiledRoute, RouteCompiler, page_matches};
use crate::learned::Known;
use crate::policies::Chain;
use crate::route::RouteTable;
use crate::route::hosts::Hosts;
use crate::route::table::Entry;
use crate::rule::Rule;
use crate::settings::Settings;
use crate::snapshot::{
    Bind, ClientValidation, ClientValidationMode, Listener, ListenerName, Role, Secure, ServerTls, Snapshot, Speaks,
};

/// What a compile gives.
#[derive(Debug)]
pub struct Compiled {
    snapshot: Arc<Snapshot>,
    changes: Vec<EndpointChange>,
    /// What is wrong, each with its place. Nothing here keeps the snapshot from being used.
    pub problems: Vec<Invalid>,
    /// What the owners of policies should know although nothing is wrong.
    pub notes: Vec<Note>,
    conditions: Vec<(ObjectName, Condition)>,
    /// Routes none of whose matches could be compiled.
    nothing_left: HashSet<ObjectName>,
}

impl Compiled {
    /// The snapshot, to look at. Before it serves traffic, [`Compiled::install`] it.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Puts the new endpoints into the backends that go on, and gives the snapshot to be served.
    pub fn install(self) -> Arc<Snapshot> {
        for (backend, endpoints) in self.changes {
            backend.endpoints.store(endpoints);
        }
        self.snapshot
    }

    /// Adds what only the compile can know to the status of routes and policies.
    pub fn report(&self, status: &mut Status) {
        for (name, condition) in &self.conditions {
            if let Some(policy) = status.policy_mut(&name.kind, &name.namespace, &name.name) {
                policy.set_everywhere(condition);
            }
        }
        for problem in &self.problems {
            let Some(name) = &problem.object else {
                continue;
            };
            if let Some(route) = status.route_mut(&name.kind, &name.namespace, &name.name) {
                let condition = self.condition_of(name, &problem.why);
                for parent in &mut route.parents {
                    parent.conditions.set(condition.clone());
                }
            }
        }
    }

    /// What a problem means for its route: part of it is not served, or nothing is left (GEP-1364).
    fn condition_of(&self, route: &ObjectName, why: &str) -> Condition {
        if self.nothing_left.contains(route) {
            Condition::new("Accepted", Truth::False, "UnsupportedValue", why)
        } else {
            Condition::new("PartiallyInvalid", Truth::True, "UnsupportedValue", why)
        }
    }
}

/// Compiles a world. `previous` is the snapshot that is in use, `generation` the number of the new one.
pub fn compile(world: &World, attached: &Attached, previous: Option<&Snapshot>, generation: u64) -> Compiled {
    let mut problems = Vec::new();
    let keep = previous.map(|snapshot| Arc::clone(&snapshot.keep)).unwrap_or_default();
    let policies = Policies::new(&attached.policies, world, &keep, BTreeMap::new());
    let mut backends = Backends::new(world, previous, &policies, &attached.locale);
    let unresolved = backends.settle_wanted(&policies.needs.wanted, &mut problems);
    let routes = compile_routes(attached, &mut backends, &mut problems);
    let mut nothing_left = find_nothing_left(&routes);
    nothing_left.extend(judge_mesh_routes(world, attached, &policies, &routes, &mut problems));
    let (backends, changes) = backends.finish();
    let mut listeners = Listeners::new(&routes, &policies, previous);
    let mut drafts: BTreeMap<SocketAddr, BindDraft> = BTreeMap::new();
    for gateway in &attached.gateways {
        for listener in gateway.listeners.iter().filter(|listener| listener.serving) {
            let Some(secure) = security(&listener.protocol) else {
                continue;
            };
            let made = listeners.make(gateway, listener);
            for address in &gateway.addresses {
                let address = SocketAddr::new(*address, listener.port);
                let draft =
                    drafts.entry(address).or_insert_with(|| BindDraft::new(secure, made.gateway_settings.clone()));
                draft.add(secure, &made.listener);
            }
        }
    }
    let mut conditions = policies::tell_where_they_stand(world, &attached.policies);
    conditions.extend(policies.conditions());
    conditions.extend(unresolved);
    let mut notes = policies.notes();
    let idle = policies.idle_memories(world, &keep);
    notes.extend(ports::notes(world, &attached.policies, &policies));
    notes.extend(mesh::protocol::ports_of_requests_only(world, attached));
    notes.extend(mesh::keyless::keyless_schemes(attached));
    problems.extend(policies.problems);
    keys::judge(world, &mut problems);
    let binds = drafts.into_iter().map(|(address, draft)| Arc::new(draft.finish(address))).collect();
    for problem in &mut problems {
        world.complete(problem);
    }
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
        notes,
        conditions,
        nothing_left,
    }
}

/// What is wrong with routes that only Services take. They are compiled where they are used, at the clients; `check` and the status
/// know it from here.
fn judge_mesh_routes(
    world: &World,
    attached: &Attached,
    policies: &Policies<'_>,
    known: &HashMap<RouteKey<'_>, CompiledRoute>,
    problems: &mut Vec<Invalid>,
) -> HashSet<ObjectName> {
    let mut here = attached.services.iter().flat_map(|service| &service.routes).peekable();
    if here.peek().is_none() {
        return HashSet::new();
    }
    let mut backends = Backends::new(world, None, policies, &attached.locale);
    let mut compiler = RouteCompiler { backends: &mut backends, problems, single: HashMap::new() };
    let mut routes = HashMap::new();
    for route in here.filter(|route| !known.contains_key(&key_of(&route.route))) {
        routes.entry(key_of(&route.route)).or_insert_with(|| compiler.compile(&route.route));
    }
    find_nothing_left(&routes)
}

/// The routes none of whose matches could be compiled. Those for connections have none.
fn find_nothing_left(routes: &HashMap<RouteKey<'_>, CompiledRoute>) -> HashSet<ObjectName> {
    routes
        .iter()
        .filter(|(key, _)| key.0 != "TCPRoute")
        .filter(|(_, route)| !route.rules.is_empty() && route.rules.iter().all(|rule| rule.matches.is_empty()))
        .map(|((kind, namespace, name), _)| ObjectName {
            kind: (*kind).into(),
            namespace: (*namespace).into(),
            name: (*name).into(),
        })
        .collect()
}

/// Each route once, whatever number of listeners it is attached to.
fn compile_routes<'w>(
    attached: &'w Attached,
    backends: &mut Backends<'w>,
    problems: &mut Vec<Invalid>,
) -> HashMap<RouteKey<'w>, CompiledRoute> {
    let mut compiler = RouteCompiler { backends, problems, single: HashMap::new() };
    let mut routes = HashMap::new();
    let listeners = attached.gateways.iter().flat_map(|gateway| &gateway.listeners);
    for route in listeners.flat_map(|listener| &listener.routes) {
        routes.entry(key_of(&route.route)).or_insert_with(|| compiler.compile(&route.route));
    }
    routes
}

type RouteKey<'w> = (&'static str, &'w str, &'w str);

fn key_of(route: &RouteRef) -> RouteKey<'_> {
    let meta = route.meta();
    (route.kind(), &meta.namespace, &meta.name)
}

fn security(protocol: &Protocol) -> Option<Secure> {
    match protocol {
        Protocol::Http | Protocol::Tcp => Some(Secure::Plain),
        Protocol::Https => Some(Secure::Tls),
        _ => None,
    }
}

/// Makes listeners.
struct Listeners<'c, 'w> {
    routes: &'c HashMap<RouteKey<'w>, CompiledRoute>,
    policies: &'c Policies<'w>,
    settings: Vec<Arc<Settings>>,
    server_tls: HashMap<&'c ListenerName, &'c Arc<ServerTls>>,
}

struct MadeListener {
    listener: Arc<Listener>,
    gateway_settings: Arc<Settings>,
}

impl<'c, 'w> Listeners<'c, 'w> {
    fn new(
        routes: &'c HashMap<RouteKey<'w>, CompiledRoute>,
        policies: &'c Policies<'w>,
        previous: Option<&'c Snapshot>,
    ) -> Listeners<'c, 'w> {
        let before = previous.into_iter().flat_map(|snapshot| &snapshot.binds).flat_map(|bind| &bind.listeners);
        let mut settings: Vec<Arc<Settings>> = Vec::new();
        let mut server_tls = HashMap::new();
        for listener in before {
            if !settings.contains(&listener.settings) {
                settings.push(Arc::clone(&listener.settings));
            }
            if let Some(tls) = &listener.tls {
                server_tls.insert(&listener.name, tls);
            }
        }
        Listeners { routes, policies, settings, server_tls }
    }

    fn make(&mut self, gateway: &AttachedGateway, attached: &'w AttachedListener) -> MadeListener {
        let meta = &gateway.gateway.meta;
        let of_gateway = self.policies.lay_over(
            &Effective::default(),
            &PolicyTarget::Gateway { namespace: meta.namespace.clone(), name: meta.name.clone() },
        );
        let of_listener = self.policies.lay_over(
            &of_gateway,
            &PolicyTarget::Listener {
                namespace: meta.namespace.clone(),
                gateway: meta.name.clone(),
                name: Text::from(attached.name.as_str()),
            },
        );
        let of_listener = of_listener.for_clients(clients_of(attached));
        let name = ListenerName {
            namespace: (&*meta.namespace).into(),
            gateway: (&*meta.name).into(),
            section: attached.name.as_str().into(),
        };
        let (settings, settled_by) = self.policies.settle(Settings::default(), &of_listener);
        let (gateway_settings, _) = self.policies.settle(Settings::default(), &of_gateway);
        let chain = self.policies.chain(&of_listener);
        let listener = Arc::new(Listener {
            metric_label: name.to_string().into(),
            hostname: attached.hostname.as_ref().map(|hostname| hostname.as_str().into()),
            port: attached.port,
            tls: self.server_tls(&name, attached),
            speaks: if attached.protocol == Protocol::Tcp { Speaks::Opaque } else { Speaks::Http },
            learned: None,
            hint: Known::Nothing,
            stream: self.stream(attached, &of_listener),
            routes: self.table(attached, &of_listener, &chain),
            chain,
            settings: self.shared(settings),
            settled_by,
            client_identity: gateway.client_identity.clone(),
            name,
        });
        MadeListener { listener, gateway_settings: self.shared(gateway_settings) }
    }

    /// The rule for the connections of a TCP listener: of several routes the oldest has them all.
    fn stream(&self, attached: &'w AttachedListener, of_listener: &Effective) -> Option<Arc<Rule>> {
        let oldest = attached.routes.iter().find(|route| matches!(route.route, RouteRef::Tcp(_)))?;
        stream_rule(self.policies, self.routes, &oldest.route, of_listener)
    }

    fn shared(&mut self, settings: Settings) -> Arc<Settings> {
        if let Some(known) = self.settings.iter().find(|known| ***known == settings) {
            return Arc::clone(known);
        }
        let settings = Arc::new(settings);
        self.settings.push(Arc::clone(&settings));
        settings
    }

    fn server_tls(&self, name: &ListenerName, attached: &AttachedListener) -> Option<Arc<ServerTls>> {
        let tls = attached.tls.as_ref()?;
        let new = ServerTls {
            certificates: tls.certificates.clone(),
            client_validation: tls.client_validation.as_ref().map(|validation| ClientValidation {
                roots: validation.roots.clone(),
                mode: match validation.mode {
                    FrontendValidationMode::AllowValidOnly => ClientValidationMode::AllowValidOnly,
                    FrontendValidationMode::AllowInsecureFallback => ClientValidationMode::AllowInsecureFallback,
                },
            }),
        };
        Some(match self.server_tls.get(name) {
            Some(old) if ***old == new => Arc::clone(old),
            _ => Arc::new(new),
        })
    }

    /// About how many entries the table of a listener has; exact when every route has one hostname.
    fn count(&self, attached: &AttachedListener) -> usize {
        let compiled = attached.routes.iter().filter_map(|route| self.routes.get(&key_of(&route.route)));
        compiled.flat_map(|route| &route.rules).map(|rule| rule.matches.len()).sum()
    }

    fn table(&self, attached: &'w AttachedListener, of_listener: &Effective, chain: &Chain) -> RouteTable {
        let mut entries = Vec::with_capacity(self.count(attached));
        for route in &attached.routes {
            let key = key_of(&route.route);
            let Some(compiled) = self.routes.get(&key) else {
                continue;
            };
            let hostnames = own_hostnames(route, attached.hostname.as_ref());
            // What the listener's own policies answer needs no rule.
            let mut pages: Vec<&str> = chain.pages().collect();
            let shared = compiled.rules.iter().map(|rule| rule_on(self.policies, key, &rule.rule, of_listener));
            let shared: Vec<Arc<Rule>> = shared.collect();
            for (rule, shared) in compiled.rules.iter().zip(&shared) {
                let new = shared.chain.pages().filter(|page| !pages.contains(page)).collect::<Vec<&str>>();
                let of_pages = page_matches(&new, rule.matches.len());
                pages.extend(new);
                for one in rule.matches.iter().chain(&of_pages) {
                    for hostname in &hostnames {
                        entries.push(Entry {
                            hostname: Arc::clone(hostname),
                            path: one.path.clone(),
                            specificity: one.specificity,
                            predicates: Arc::clone(&one.predicates),
                            rule: Arc::clone(shared),
                            order: route.order,
                            index: one.index,
                        });
                    }
                }
            }
        }
        RouteTable::new(entries)
    }
}

/// Whether clients of a listener prove who they are.
fn clients_of(attached: &AttachedListener) -> Clients {
    let validation = attached.tls.as_ref().and_then(|tls| tls.client_validation.as_ref());
    match validation.map(|validation| validation.mode) {
        Some(FrontendValidationMode::AllowValidOnly) => Clients::Proven,
        Some(FrontendValidationMode::AllowInsecureFallback) | None => Clients::Unproven,
    }
}

/// A rule with the policies in force for it under a listener.
fn rule_on<'w>(policies: &Policies<'w>, key: RouteKey<'w>, rule: &Arc<Rule>, of_listener: &Effective) -> Arc<Rule> {
    let mut chain = Chain::default();
    if !policies.is_empty() {
        let (kind, namespace, route) = (key.0, Text::from(key.1), Text::from(key.2));
        let on_route = PolicyTarget::Route { kind, namespace: namespace.clone(), name: route.clone() };
        let mut effective = policies.lay_over(of_listener, &on_route);
        if let Some(name) = rule.name.name() {
            let name = Text::from(name);
            let on_rule = PolicyTarget::Rule { kind, namespace, route, name };
            if policies.touches(&on_rule) {
                effective = policies.lay_over(&effective, &on_rule);
            }
        }
        if kind == "TCPRoute" {
            policies.meet_connections(&effective);
        } else {
            policies.meet(&effective);
        }
        chain = policies.chain(&effective);
    }
    let chain = chain.with(rule.filters.external_auth.as_ref());
    if chain.is_empty() {
        return Arc::clone(rule);
    }
    Arc::new(Rule { chain, ..Rule::clone(rule) })
}

/// The rule of a route for connections, with the policies in force for it under a listener.
fn stream_rule<'w>(
    policies: &Policies<'w>,
    routes: &HashMap<RouteKey<'w>, CompiledRoute>,
    route: &'w RouteRef,
    of_listener: &Effective,
) -> Option<Arc<Rule>> {
    let key = key_of(route);
    let rule = routes.get(&key)?.rules.first()?;
    Some(rule_on(policies, key, &rule.rule, of_listener))
}

/// The hostname patterns of a route that a listener can meet. The route's own, not what they have in common with the listener's: the
/// standard ranks routes by what they say themselves, and the listener has taken the request by its host already.
fn own_hostnames(route: &AttachedRoute, listener: Option<&Hostname>) -> Vec<Arc<str>> {
    let written = match &route.route {
        RouteRef::Http(route) => &route.spec.hostnames,
        RouteRef::Grpc(route) => &route.spec.hostnames,
        RouteRef::Tcp(_) => return Vec::new(),
    };
    if written.is_empty() {
        return vec!["".into()];
    }
    written
        .iter()
        .filter_map(|hostname| Hostname::parse(hostname).ok())
        .filter(|hostname| listener.is_none_or(|listener| listener.intersection(hostname).is_some()))
        .map(|hostname| hostname.as_str().into())
        .collect()
}

/// A bind on its way.
struct BindDraft {
    secure: Secure,
    listeners: Vec<Arc<Listener>>,
    hosts: Hosts,
    gateway_settings: Arc<Settings>,
}

impl BindDraft {
    fn new(secure: Secure, gateway_settings: Arc<Settings>) -> BindDraft {
        BindDraft { secure, listeners: Vec::new(), hosts: Hosts::default(), gateway_settings }
    }

    /// Adds a listener; `attach` has seen to it that those of one port speak one protocol and differ in their hostnames.
    fn add(&mut self, secure: Secure, listener: &Arc<Listener>) {
        if secure != self.secure {
            return;
        }
        let id = self.listeners.len() as u32;
        if self.hosts.insert(listener.hostname.as_deref().unwrap_or(""), id) == id {
            self.listeners.push(Arc::clone(listener));
        }
    }

    fn finish(self, address: SocketAddr) -> Bind {
        let settings = match self.listeners.first() {
            Some(first) if self.listeners.iter().all(|other| other.settings == first.settings) => {
                Arc::clone(&first.settings)
            }
            _ => self.gateway_settings,
        };
        Bind {
            address,
            role: Role::Gateway,
            secure: self.secure,
            listeners: self.listeners,
            settings,
            hosts: self.hosts,
            destinations: Arc::default(),
        }
    }
}

#[cfg(test)]
mod note_tests;
#[cfg(test)]
mod secrecy_tests;
#[cfg(test)]
mod tests;
