//! References to backends: each backend once, and the one that traffic already uses when it has not changed.
//!
//! Called by `routes` and `filters`. A backend that stays the same but for its endpoints keeps its identity (its pools hang on it), and
//! the new endpoints are handed to whoever installs the snapshot. A name that DNS resolves keeps what was resolved.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::fast::FixedState;
use transept_model::attach::{Locale, PolicyTarget};
use transept_model::kinds::{BackendObjectReference, TRANSEPT_GROUP};
use transept_model::place::{Invalid, ObjectName};
use transept_model::references::{
    self, AppProtocol, BackendTarget, BackendTls, EndpointAddress, RefProblem, References, Referrer, ResolvedBackend,
};
use transept_model::schema::Text;
use transept_model::status::{Condition, Truth};
use transept_model::world::World;

use super::policies::{Effective, Policies};
use crate::policies::{Origin, Wanted, WantedBackend};
use crate::reason::Reason;
use crate::rule::BrokenRef;
use crate::snapshot::{
    Backend, BackendId, DnsName, Endpoint, EndpointSet, EndpointSource, Roots, Snapshot, SubjectAltName, Tunnel,
    UpstreamProtocol, UpstreamTls,
};
use crate::traffic::{Ledger, Traffic};

/// The kind of a backend that is the server of a URL.
const ORIGIN: &str = "URL";

/// How long connecting may take when the backend does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Endpoints that are to be installed in a backend that is in use.
pub type EndpointChange = (Arc<Backend>, Arc<EndpointSet>);

/// What a backend is made of.
struct Draft {
    tls: Option<Arc<UpstreamTls>>,
    traffic: Option<Arc<Traffic>>,
    /// The policy that wants a tunnel.
    tunnel_only: Option<Arc<str>>,
    source: EndpointSource,
    endpoints: EndpointSet,
    connect_timeout: Duration,
}

/// All backends of one compile.
pub(super) struct Backends<'w> {
    references: References<'w>,
    known: HashMap<(&'w str, &'w str, BackendTarget<'w>), Result<Arc<Backend>, BrokenRef>>,
    made: HashMap<(BackendId, UpstreamProtocol), Arc<Backend>>,
    previous: HashMap<(&'w BackendId, UpstreamProtocol), &'w Arc<Backend>>,
    tls: HashMap<*const BackendTls, Arc<UpstreamTls>>,
    changes: Vec<EndpointChange>,
    world: &'w World,
    policies: &'w Policies<'w>,
    zone: Option<&'w Arc<str>>,
    /// The other zones of its region.
    near: Vec<Arc<str>>,
    /// What workers know together, kept for as long as the backend is there.
    ledger: HashMap<BackendId, Arc<Ledger>>,
}

impl<'w> Backends<'w> {
    pub(super) fn new(
        world: &'w World,
        previous: Option<&'w Snapshot>,
        policies: &'w Policies<'w>,
        locale: &'w Locale,
    ) -> Backends<'w> {
        let (zone, region) = (locale.zone.as_ref(), locale.region.as_deref());
        let near = zone.map(|zone| world.zones_near(zone, region).into_iter().map(Arc::from).collect());
        let previous = previous.map_or(&[][..], |snapshot| &snapshot.backends);
        Backends {
            references: References::new(world),
            known: HashMap::new(),
            made: HashMap::new(),
            previous: previous.iter().map(|backend| ((&backend.id, backend.protocol), backend)).collect(),
            tls: HashMap::new(),
            changes: Vec::new(),
            world,
            policies,
            zone,
            near: near.unwrap_or_default(),
            ledger: previous.iter().map(|backend| (backend.id.clone(), Arc::clone(&backend.ledger))).collect(),
        }
    }

    /// The backend that a reference leads to, or what requests for it are answered with.
    pub(super) fn find(&mut self, from: &Referrer<'w>, target: BackendTarget<'w>) -> Result<Arc<Backend>, BrokenRef> {
        let key = (from.kind, from.namespace, target);
        if let Some(found) = self.known.get(&key) {
            return found.clone();
        }
        let found = match self.references.resolve_backend(from, &target) {
            Ok(resolved) => self.make(resolved),
            Err(problem) => Err(broken(Reason::BackendInvalid, &problem)),
        };
        self.known.insert(key, found.clone());
        found
    }

    fn make(&mut self, resolved: ResolvedBackend) -> Result<Arc<Backend>, BrokenRef> {
        let protocol = match resolved.protocol {
            AppProtocol::Http => UpstreamProtocol::Auto,
            AppProtocol::Http11 | AppProtocol::WebSocket => UpstreamProtocol::Http1,
            AppProtocol::Http2 => UpstreamProtocol::Http2,
        };
        let key = (resolved.id, protocol);
        if let Some(made) = self.made.get(&key) {
            return Ok(Arc::clone(made));
        }
        let before = self.previous.get(&(&key.0, protocol)).copied();
        let tls = match resolved.tls {
            None => None,
            Some(Ok(tls)) => Some(self.upstream_tls(&tls, before)),
            Some(Err(problem)) => return Err(broken(Reason::BackendTlsInvalid, &problem)),
        };
        let effective = self.effective(&key.0);
        let traffic = self.traffic(&effective, before)?;
        let tunnel_only = self.policies.tunnel_only(&effective);
        let mut endpoints = resolved.endpoints;
        let has_locality = traffic.as_ref().is_some_and(|traffic| traffic.locality.is_some());
        if let Some(zone) = self.zone.filter(|_| !has_locality) {
            endpoints.keep_hinted(zone);
        }
        let (source, endpoints) = source_of(endpoints, tunnel_only.is_some());
        let stated = traffic.as_ref().and_then(|traffic| traffic.connect_timeout);
        let connect_timeout = stated.or(resolved.connect_timeout).unwrap_or(CONNECT_TIMEOUT);
        let backend = self.renew(key.clone(), Draft { tls, traffic, tunnel_only, source, endpoints, connect_timeout });
        self.made.insert(key, Arc::clone(&backend));
        Ok(backend)
    }

    /// The backend as it was, with new endpoints perhaps, or a new one when more has changed.
    fn renew(&mut self, key: (BackendId, UpstreamProtocol), draft: Draft) -> Arc<Backend> {
        let Draft { tls, traffic, tunnel_only, source, endpoints, connect_timeout } = draft;
        let protocol = key.1;
        let before = self.previous.get(&(&key.0, protocol)).copied();
        match before {
            Some(before)
                if before.source == source
                    && before.tls == tls
                    && before.connect_timeout == connect_timeout
                    && before.traffic == traffic
                    && before.tunnel_only == tunnel_only =>
            {
                if source == EndpointSource::Static && **before.endpoints.load() != endpoints {
                    self.changes.push((Arc::clone(before), Arc::new(before.equip(endpoints))));
                }
                Arc::clone(before)
            }
            _ => {
                let resolved_before = before
                    .filter(|before| source != EndpointSource::Static && before.source != EndpointSource::Static)
                    .map(|before| EndpointSet::clone(&before.endpoints.load()))
                    .filter(|known| !known.endpoints().is_empty());
                let endpoints = match (resolved_before, &source) {
                    (Some(known), _) => known,
                    (None, EndpointSource::Static) => endpoints,
                    (None, EndpointSource::Dns { .. }) => endpoints.before_names(),
                };
                let endpoints = endpoints.with_table(traffic.as_deref());
                Arc::new(Backend {
                    id: key.0.clone(),
                    label: label(&key.0).into(),
                    protocol,
                    tls,
                    endpoints: ArcSwap::from_pointee(endpoints),
                    source,
                    connect_timeout,
                    traffic,
                    tunnel_only,
                    ledger: Arc::clone(self.ledger.entry(key.0.clone()).or_default()),
                    // Fixed, so that the key of a backend is the same in every generation.
                    key: FixedState::default().hash_one((&key.0, protocol)),
                })
            }
        }
    }

    /// Settles the backends that policies want to ask. Those that lead nowhere are told of, in the status of their policy too.
    pub(super) fn settle_wanted(
        &mut self,
        wanted: &'w [Wanted],
        problems: &mut Vec<Invalid>,
    ) -> Vec<(ObjectName, Condition)> {
        let mut conditions = Vec::new();
        for one in wanted {
            let found = match &one.to {
                WantedBackend::Reference(reference) => self.find_wanted(one, reference),
                WantedBackend::Confidant(reference) => {
                    self.find_wanted(one, reference).and_then(|backend| self.in_confidence(backend))
                }
                WantedBackend::Origin(origin) => Ok(self.origin(origin)),
            };
            if let Err(broken) = &found {
                let mut invalid = Invalid::new(one.place.clone(), &*broken.why);
                invalid.object = Some(one.by.clone());
                problems.push(invalid);
                let message = format!("{} Until it is mended, the policy lets nothing through.", broken.why);
                let reason =
                    if broken.reason == Reason::BackendTlsInvalid { "InvalidBackend" } else { "BackendNotFound" };
                let condition = Condition::new("ResolvedRefs", Truth::False, reason, message);
                conditions.push((one.by.clone(), condition));
            }
            // Each is settled once.
            let _ = one.callee.set(found);
        }
        conditions
    }

    fn find_wanted(
        &mut self,
        wanted: &'w Wanted,
        reference: &'w BackendObjectReference,
    ) -> Result<Arc<Backend>, BrokenRef> {
        let from = Referrer { group: TRANSEPT_GROUP, kind: &wanted.by.kind, namespace: &wanted.by.namespace };
        self.find(&from, BackendTarget::from(reference))
    }

    /// A backend that may be told secrets and is believed: nobody on the way reads them, or answers instead of it.
    fn in_confidence(&self, backend: Arc<Backend>) -> Result<Arc<Backend>, BrokenRef> {
        let is_open =
            |endpoint: &Endpoint| endpoint.tunnel.is_none() && !endpoint.address.ip().to_canonical().is_loopback();
        let is_away = |name: &DnsName| &*name.name != "localhost" && !name.name.ends_with(".localhost");
        // Endpoints that are new are not installed yet.
        let new = self.changes.iter().find(|(one, _)| Arc::ptr_eq(one, &backend)).map(|(_, set)| Arc::clone(set));
        let endpoints = new.unwrap_or_else(|| backend.endpoints.load_full());
        let in_clear_text = backend.tls.is_none()
            && backend.tunnel_only.is_none()
            && match &backend.source {
                EndpointSource::Static => endpoints.endpoints().iter().any(is_open),
                EndpointSource::Dns { names, fixed } => names.iter().any(is_away) || fixed.iter().any(is_open),
            };
        match in_clear_text {
            true => Err(BrokenRef {
                reason: Reason::BackendTlsInvalid,
                why: format!(
                    "{} would be asked in clear text, where anybody on the way could read along or answer; attach a BackendTLSPolicy, or leave \
                     `backendRef` out.",
                    backend.label
                )
                .into(),
            }),
            false => Ok(backend),
        }
    }

    /// The server of a URL.
    fn origin(&mut self, origin: &Origin) -> Arc<Backend> {
        let Origin { tls, host, port } = origin;
        let scheme = if *tls { "https" } else { "http" };
        let name = format!("{scheme}://{host}").into();
        let id = BackendId { kind: ORIGIN, namespace: "".into(), name, port: Some(*port) };
        let key = (id, UpstreamProtocol::Auto);
        if let Some(made) = self.made.get(&key) {
            return Arc::clone(made);
        }
        let host: Arc<str> = (&**host).into();
        let (source, endpoints) = match host.parse::<IpAddr>() {
            Ok(ip) => (EndpointSource::Static, EndpointSet::new(vec![Endpoint::at(SocketAddr::new(ip, *port))])),
            Err(_) => {
                let name = DnsName { name: Arc::clone(&host), port: *port, weight: 1, zone: None };
                (EndpointSource::Dns { names: vec![name], fixed: Vec::new() }, EndpointSet::default())
            }
        };
        let tls = tls.then(|| UpstreamTls {
            server_name: Some(host),
            roots: Roots::System,
            subject_alt_names: Vec::new(),
            client_identity: None,
        });
        let before = self.previous.get(&(&key.0, key.1)).and_then(|before| before.tls.clone());
        let tls = tls.map(|new| before.filter(|old| **old == new).unwrap_or_else(|| Arc::new(new)));
        let draft =
            Draft { tls, traffic: None, tunnel_only: None, source, endpoints, connect_timeout: CONNECT_TIMEOUT };
        let backend = self.renew(key.clone(), draft);
        self.made.insert(key, Arc::clone(&backend));
        backend
    }

    /// A backend that is one endpoint, with nothing said about its traffic: a port of the program behind its own proxy, or of an instance
    /// that is called by its own address.
    pub(super) fn fixed(&mut self, id: BackendId, protocol: UpstreamProtocol, endpoint: Endpoint) -> Arc<Backend> {
        self.only(id, protocol, EndpointSet::new(vec![endpoint]), None)
    }

    /// A backend whose only endpoint has no tunnel, where this policy wants one: nobody is there to be called.
    pub(super) fn shut(
        &mut self,
        id: BackendId,
        protocol: UpstreamProtocol,
        endpoint: SocketAddr,
        policy: Arc<str>,
    ) -> Arc<Backend> {
        let endpoints = EndpointSet::default().leaving_out(vec![endpoint.to_string().into()]);
        self.only(id, protocol, endpoints, Some(policy))
    }

    fn only(
        &mut self,
        id: BackendId,
        protocol: UpstreamProtocol,
        endpoints: EndpointSet,
        tunnel_only: Option<Arc<str>>,
    ) -> Arc<Backend> {
        let key = (id, protocol);
        if let Some(made) = self.made.get(&key) {
            return Arc::clone(made);
        }
        let before = self.previous.get(&(&key.0, protocol)).copied();
        let backend = match before.filter(|before| before.tunnel_only == tunnel_only) {
            Some(before) => {
                if **before.endpoints.load() != endpoints {
                    self.changes.push((Arc::clone(before), Arc::new(endpoints)));
                }
                Arc::clone(before)
            }
            None => Arc::new(Backend {
                id: key.0.clone(),
                label: label(&key.0).into(),
                protocol,
                tls: None,
                endpoints: ArcSwap::from_pointee(endpoints),
                source: EndpointSource::Static,
                connect_timeout: CONNECT_TIMEOUT,
                traffic: None,
                tunnel_only,
                ledger: Arc::clone(self.ledger.entry(key.0.clone()).or_default()),
                key: FixedState::default().hash_one((&key.0, protocol)),
            }),
        };
        self.made.insert(key, Arc::clone(&backend));
        backend
    }

    /// The policies in force on a backend.
    fn effective(&self, id: &BackendId) -> Effective {
        if self.policies.is_empty() {
            return Effective::default();
        }
        let (namespace, name) = (Text::from(&*id.namespace), Text::from(&*id.name));
        if id.kind == "Backend" {
            return self.policies.lay_over(&Effective::default(), &PolicyTarget::Backend { namespace, name });
        }
        let ports = self.world.service(&namespace, &name).map(|service| &service.spec.ports);
        let port = ports.and_then(|ports| ports.iter().find(|port| Some(port.port) == id.port)?.name.clone());
        self.policies.on_service(&namespace, &name, port)
    }

    /// What they say about its traffic, the same pointer for the same content.
    fn traffic(&self, effective: &Effective, before: Option<&Arc<Backend>>) -> Result<Option<Arc<Traffic>>, BrokenRef> {
        let found = self.policies.traffic(effective, self.zone).map_err(|policy| BrokenRef {
            reason: Reason::PolicyInvalid,
            why: format!("{policy} is invalid").into(),
        })?;
        let Some(mut traffic) = found else {
            return Ok(None);
        };
        if let Some(locality) = &mut traffic.locality {
            locality.near = self.near.clone();
        }
        Ok(Some(match before.and_then(|before| before.traffic.as_ref()) {
            Some(old) if **old == traffic => Arc::clone(old),
            _ => Arc::new(traffic),
        }))
    }

    /// TLS settings, the same pointer for the same content.
    fn upstream_tls(&mut self, tls: &Arc<BackendTls>, before: Option<&Arc<Backend>>) -> Arc<UpstreamTls> {
        if let Some(made) = self.tls.get(&Arc::as_ptr(tls)) {
            return Arc::clone(made);
        }
        let new = UpstreamTls {
            server_name: tls.server_name.clone(),
            roots: match &tls.roots {
                references::Roots::System => Roots::System,
                references::Roots::Bundle(bundle) => Roots::Bundle(bundle.to_vec()),
            },
            subject_alt_names: tls
                .sans
                .iter()
                .map(|san| match san {
                    references::San::Dns(name) => SubjectAltName::Hostname((&**name).into()),
                    references::San::Uri(uri) => SubjectAltName::Uri((&**uri).into()),
                })
                .collect(),
            client_identity: tls.client_identity.clone(),
        };
        let made = match before.and_then(|before| before.tls.as_ref()) {
            Some(old) if **old == new => Arc::clone(old),
            _ => Arc::new(new),
        };
        self.tls.insert(Arc::as_ptr(tls), Arc::clone(&made));
        made
    }

    /// Every backend that was asked for, in the order of identities, and the endpoints to install.
    pub(super) fn finish(self) -> (Vec<Arc<Backend>>, Vec<EndpointChange>) {
        let mut backends: Vec<_> = self.made.into_values().collect();
        backends.sort_by(|a, b| (&a.id, a.protocol).cmp(&(&b.id, b.protocol)));
        (backends, self.changes)
    }
}

fn broken(reason: Reason, problem: &RefProblem) -> BrokenRef {
    BrokenRef { reason, why: problem.to_string().into() }
}

/// `namespace/name:port`.
fn label(id: &BackendId) -> String {
    match id.port {
        Some(port) if id.kind == ORIGIN => format!("{}:{port}", id.name),
        Some(port) => format!("{}/{}:{port}", id.namespace, id.name),
        None => format!("{}/{}", id.namespace, id.name),
    }
}

/// The endpoints as the snapshot holds them. With `tunnel_only`, those without a tunnel are left out; names never have one.
pub(super) fn source_of(endpoints: references::EndpointSource, tunnel_only: bool) -> (EndpointSource, EndpointSet) {
    let plain = |endpoint: EndpointAddress| Endpoint {
        address: SocketAddr::new(endpoint.ip, endpoint.port),
        weight: endpoint.weight,
        host: endpoint.hostname,
        zone: endpoint.zone,
        tunnel: endpoint
            .tunnel
            .map(|tunnel| Arc::new(Tunnel { address: tunnel.address, identity: tunnel.identity.into() })),
    };
    let (names, addresses) = match endpoints {
        references::EndpointSource::Static(addresses) => (Vec::new(), addresses),
        references::EndpointSource::Dns { names, addresses } if !tunnel_only => {
            let fixed: Vec<Endpoint> = addresses.into_iter().map(plain).collect();
            let names = names
                .into_iter()
                .map(|name| DnsName { name: name.name, port: name.port, weight: name.weight, zone: name.zone })
                .collect();
            let known = EndpointSet::new(fixed.clone());
            return (EndpointSource::Dns { names, fixed }, known);
        }
        references::EndpointSource::Dns { names, addresses } => (names, addresses),
    };
    let (may, may_not): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|endpoint| !tunnel_only || endpoint.tunnel.is_some());
    let left_out = may_not.iter().map(|endpoint| SocketAddr::new(endpoint.ip, endpoint.port).to_string());
    let left_out = left_out.chain(names.iter().map(|name| format!("{}:{}", name.name, name.port)));
    let left_out = left_out.map(String::into_boxed_str).collect();
    let (silent, heard): (Vec<_>, Vec<_>) = may.into_iter().partition(|endpoint| endpoint.silent);
    // Nobody is called in clear text only because the others are silent; but where those alone are left, they are all there are.
    let [mut heard, mut silent] = [heard, silent].map(|all| all.into_iter().map(plain).collect::<Vec<_>>());
    if heard.is_empty() {
        heard = std::mem::take(&mut silent);
    }
    (EndpointSource::Static, EndpointSet::new(heard).leaving_out(left_out).before_silent(silent))
}
