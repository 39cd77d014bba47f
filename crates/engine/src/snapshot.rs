//! The compiled configuration: immutable, one per generation, read by every worker.
//!
//! Made by `compile`; loaded once per request by the proxy. Holds plain, ready-to-use values: no resource of the configuration is
//! reachable from here except names and certificate material. What changes without a compile (endpoints) sits behind one atomic
//! pointer; what counts or remembers (turns, ejections) is not here at all.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use transept_model::certificate::KeyPair;
pub use transept_model::references::BackendId;

use crate::balance::Table;
use crate::document::{Document, Source};
use crate::keep::{Idle, Keep};
use crate::learned::{Known, Learned};
use crate::policies::{Chain, Step};
use crate::redact::CredentialPlaces;
use crate::role::Destinations;
pub use crate::role::{Role, ServiceName, Speaks, Tunnel};
use crate::route::RouteTable;
use crate::route::hosts::Hosts;
use crate::rule::Rule;
use crate::settings::Settings;
use crate::traffic::{Ledger, Outliers, Traffic};

/// One generation of the configuration.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts compiles; every log line can name the generation that decided it.
    pub generation: u64,
    /// The addresses to listen on, sorted.
    pub binds: Vec<Arc<Bind>>,
    /// Every backend that a rule or a mirror uses, in the order of their identities.
    pub backends: Vec<Arc<Backend>>,
    /// What policies remember, the same in every generation.
    pub keep: Arc<Keep>,
    /// Where requests may hold credentials.
    pub credentials: CredentialPlaces,
    /// The documents that policies read, each with where it is fetched.
    pub(crate) documents: Vec<(Arc<Document>, Source)>,
    /// Held and not used: what policies remember that cannot be used in this configuration.
    pub(crate) _idle: Idle,
}

impl Snapshot {
    /// Lets the documents that its policies read be fetched from where it says. Called when it is put in force: a configuration that is only
    /// looked at changes nothing.
    pub fn go_live(&self) {
        for (document, source) in &self.documents {
            document.go_live(source.clone());
        }
    }

    /// The bind of an address that a worker listens on.
    pub fn bind(&self, address: &SocketAddr) -> Option<&Arc<Bind>> {
        self.binds.binary_search_by(|bind| bind.address.cmp(address)).ok().and_then(|index| self.binds.get(index))
    }

    /// The bind of a connection that came in at such an address, and whose own end is `local`. Where there is none any more, because the addresses of the Gateway have changed,
    /// the one at which it would come in today.
    pub fn bind_for(&self, bound: &SocketAddr, local: SocketAddr) -> Option<&Arc<Bind>> {
        self.bind(bound).or_else(|| {
            let everywhere: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            let ips = [local.ip().to_canonical()].into_iter().chain(everywhere);
            let today = ips.filter_map(|ip| self.bind(&SocketAddr::new(ip, local.port()))).next();
            today.filter(|bind| bind.role == Role::Gateway && bind.address.port() == bound.port())
        })
    }
}

/// One address and port with every listener that shares it.
#[derive(Debug)]
pub struct Bind {
    /// What a worker binds its socket to.
    pub address: SocketAddr,
    /// What it is for.
    pub role: Role,
    /// Whether connections begin with TLS.
    pub secure: Secure,
    /// The listeners in the order of their Gateways; index order is the order of `hosts`.
    pub listeners: Vec<Arc<Listener>>,
    /// What holds before the listener is known. The listener's own settings when they all agree, else those of the Gateway.
    pub settings: Arc<Settings>,
    pub(crate) hosts: Hosts,
    pub(crate) destinations: Arc<Destinations>,
}

/// Whether a bind speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// Clear text: HTTP/1.1, or HTTP/2 with prior knowledge.
    Plain,
    /// TLS, terminated here.
    Tls,
    /// HBONE: mutual TLS with the identities of the mesh, and in it tunnels made by HTTP/2 CONNECT.
    Mesh,
}

impl Bind {
    /// The listener whose hostname fits the TLS server name best: exact, then the wildcard with most labels, then the one
    /// without a hostname. `server_name` is lower-case.
    pub fn listener_for_sni(&self, server_name: Option<&str>) -> Option<&Arc<Listener>> {
        self.listener_for_host(server_name.unwrap_or(""))
    }

    /// The listener whose hostname fits `host` best. `host` is lower-case and has no port and no trailing dot.
    pub fn listener_for_host(&self, host: &str) -> Option<&Arc<Listener>> {
        let index = self.hosts.best(host)?;
        self.listeners.get(index as usize)
    }

    /// Whether others know an inbound bind by this address, whatever the socket says: a translation of addresses may be between.
    pub fn is_announced_at(&self, address: IpAddr) -> bool {
        self.destinations.announced == Some(address.to_canonical())
    }

    /// The listener of a port of the program behind an inbound bind.
    pub fn listener_for_port(&self, port: u16) -> Option<&Arc<Listener>> {
        let index = self.destinations.by_port(port)?;
        self.listeners.get(index as usize)
    }

    /// The listener that stands for a Service on an outbound bind that serves them all, by the name and port that a client says.
    /// `host` is lower-case and has no port and no trailing dot; without a port, that of HTTP is meant.
    pub fn listener_for_authority(&self, host: &str, port: Option<u16>) -> Option<&Arc<Listener>> {
        let index = self.destinations.by_name(host, port)?;
        self.listeners.get(index as usize)
    }

    /// The listener that stands for the Service that a captured connection was going to; none when it was going elsewhere.
    pub fn listener_for_destination(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        let index = self.destinations.by_address(&destination)?;
        self.listeners.get(index as usize)
    }

    /// The listener that has every connection of this bind, because nothing is looked at that could tell them apart: on a TCP listener
    /// of a Gateway.
    pub fn listener_for_streams(&self) -> Option<&Arc<Listener>> {
        self.listeners.first().filter(|first| self.role == Role::Gateway && first.speaks == Speaks::Opaque)
    }

    /// The listener that stands for the Service that a connection on an outbound bind is for; none on other binds, and where only
    /// requests tell.
    pub fn callee(&self, destination: Option<SocketAddr>) -> Option<&Arc<Listener>> {
        if self.role != Role::Outbound || self.is_found_by_authority() {
            return None;
        }
        match destination.filter(|_| self.is_captured()) {
            None => self.listeners.first(),
            Some(destination) => self.listener_for_destination(destination),
        }
    }

    /// Whether the connections of this bind were on their way to somewhere else when they were led here.
    pub fn is_captured(&self) -> bool {
        self.destinations.captured
    }

    /// Whether listeners are found by the host name and the port of a request, as on the bind for clients that were told of a proxy.
    pub fn is_found_by_authority(&self) -> bool {
        self.destinations.by_authority
    }

    /// Whether a host name is one of the mesh, on the bind for clients that were told of a proxy. `host` as above.
    pub fn is_name_in_mesh(&self, host: &str) -> bool {
        self.destinations.has_name(host) || self.destinations.asleep.by_host(host).is_some() || host.ends_with(".mesh")
    }

    /// The Service that a client means by this host, when nothing is known about it yet but that it exists. `host` as above.
    pub fn asleep_by_authority(&self, host: &str) -> Option<&ServiceName> {
        self.destinations.asleep.by_host(host)
    }

    /// The same for where a captured connection was going.
    pub fn asleep_by_destination(&self, destination: SocketAddr) -> Option<&ServiceName> {
        self.destinations.asleep.addresses.get(&destination.ip())
    }

    /// Whether a captured connection was going to an address about which has to be asked first whether it is that of an instance.
    pub fn is_unlocated(&self, destination: SocketAddr) -> bool {
        self.destinations.is_unlocated(&destination)
    }
}

/// One listener of one Gateway.
#[derive(Debug)]
pub struct Listener {
    /// Which listener it is.
    pub name: ListenerName,
    /// `namespace/gateway/section` for metrics and logs.
    pub metric_label: Arc<str>,
    /// The hostname, lower-case, possibly `*.suffix`; none is any.
    pub hostname: Option<Box<str>>,
    /// The port as configured; redirects name it.
    pub port: u16,
    /// Server certificates and client validation, on a TLS listener. The same pointer as long as the content is the same.
    pub tls: Option<Arc<ServerTls>>,
    /// What its clients speak.
    pub speaks: Speaks,
    /// What they have spoken so far, where nobody said it. The same pointer as long as there is such a listener.
    pub learned: Option<Arc<Learned>>,
    /// What the proxies of its instances have heard it speak. It counts as long as nothing is known here, and binds nobody.
    pub hint: Known,
    /// Where a connection goes that is not HTTP; none is nowhere.
    pub stream: Option<Arc<Rule>>,
    /// The rules of all attached routes.
    pub routes: RouteTable,
    /// The policies of the Gateway and the listener, for requests that reach no rule.
    pub chain: Chain,
    /// Limits, timeouts, trust.
    pub settings: Arc<Settings>,
    /// The policies that made the settings, for explanations.
    pub settled_by: Vec<Arc<Step>>,
    /// The certificate shown to backends that ask for one (`spec.tls.backend.clientCertificateRef` of the Gateway).
    pub client_identity: Option<Arc<KeyPair>>,
}

/// The name of a listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerName {
    /// Namespace of the Gateway.
    pub namespace: Box<str>,
    /// Name of the Gateway.
    pub gateway: Box<str>,
    /// Name of the listener in the Gateway.
    pub section: Box<str>,
}

impl fmt::Display for ListenerName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/{}", self.namespace, self.gateway, self.section)
    }
}

/// What a TLS listener shows and demands.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Certificates with their keys; the first is the default, the others serve other key types or names.
    pub certificates: Vec<Arc<KeyPair>>,
    /// Whether and how client certificates are checked.
    pub client_validation: Option<ClientValidation>,
}

/// How client certificates are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientValidation {
    /// Trust anchors.
    pub roots: Vec<CertificateDer<'static>>,
    /// What happens to clients without a valid certificate.
    pub mode: ClientValidationMode,
}

/// What happens to clients without a valid certificate (Gateway API `FrontendValidationModeType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientValidationMode {
    /// The handshake fails.
    AllowValidOnly,
    /// The connection goes on; the certificate is asked for and not believed.
    AllowInsecureFallback,
}

/// Where requests may go: one Service port or one `Backend`, as one kind of route sees it.
#[derive(Debug)]
pub struct Backend {
    /// Which resource it is.
    pub id: BackendId,
    /// `namespace/name:port` for metrics and logs.
    pub label: Arc<str>,
    /// What is spoken to its endpoints.
    pub protocol: UpstreamProtocol,
    /// TLS towards its endpoints. The same pointer as long as the content is the same.
    pub tls: Option<Arc<UpstreamTls>>,
    /// The endpoints that are ready. Swapped without a compile when they change.
    pub endpoints: ArcSwap<EndpointSet>,
    /// Who fills `endpoints`.
    pub source: EndpointSource,
    /// How long a connection may take to be established.
    pub connect_timeout: Duration,
    /// How its endpoints are used, when a `TrafficPolicy` says so.
    pub traffic: Option<Arc<Traffic>>,
    /// The policy that lets nobody call its endpoints without a tunnel. Those that have none are not in `endpoints`.
    pub tunnel_only: Option<Arc<str>>,
    /// What all workers know together about it; the same pointer as long as the backend is in the configuration.
    pub ledger: Arc<Ledger>,
    /// Identifies the backend in worker-local memory, across generations.
    pub key: u64,
}

impl Backend {
    /// The Service that it is counted for: of an instance that is called by its own address, the one that it is an instance of.
    pub fn service(&self) -> &str {
        self.id.name.split_once('/').map_or(&*self.id.name, |(service, _)| service)
    }

    /// When its endpoints are left alone because they failed; none where no policy says so.
    pub fn outliers(&self) -> Option<&Outliers> {
        self.traffic.as_ref()?.outliers.as_ref()
    }

    /// Whether it has no endpoint yet because nobody has heard what its names resolve to.
    pub fn awaits_names(&self) -> bool {
        matches!(self.source, EndpointSource::Dns { .. }) && {
            let set = self.endpoints.load();
            set.unasked && set.endpoints.is_empty()
        }
    }

    /// A set of endpoints with the table that the balancer of this backend needs.
    pub fn equip(&self, set: EndpointSet) -> EndpointSet {
        set.with_table(self.traffic.as_deref())
    }
}

/// What is spoken to the endpoints of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1; over TLS offered by ALPN.
    Http1,
    /// HTTP/2: prior knowledge in clear text, ALPN over TLS.
    Http2,
    /// HTTP/1.1 in clear text; over TLS what ALPN settles, `h2` preferred.
    Auto,
    /// Bytes that are not looked at; over TLS without ALPN. No backend is for nothing else: this is how one connection is used.
    Opaque,
}

/// How TLS towards a backend is spoken and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The server name sent, and verified unless `subject_alt_names` says otherwise. None: the name of the endpoint.
    pub server_name: Option<Arc<str>>,
    /// Who is trusted to sign.
    pub roots: Roots,
    /// When not empty, one of these must be in the certificate, and `server_name` is only sent (GEP-1897).
    pub subject_alt_names: Vec<SubjectAltName>,
    /// What is presented to this backend instead of the listener's `client_identity`.
    pub client_identity: Option<Arc<KeyPair>>,
}

/// Who is trusted to sign a backend's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// The trust store of the operating system.
    System,
    /// These certificates.
    Bundle(Vec<CertificateDer<'static>>),
}

/// A name that a backend's certificate may carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectAltName {
    /// A DNS name.
    Hostname(Box<str>),
    /// A URI, such as a SPIFFE ID; compared byte by byte.
    Uri(Box<str>),
}

/// Who fills the endpoints of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointSource {
    /// The configuration itself.
    Static,
    /// DNS: the proxy resolves the names and swaps the endpoints; see [`EndpointSource::assemble`].
    Dns {
        /// The names to resolve.
        names: Vec<DnsName>,
        /// Endpoints that are known besides.
        fixed: Vec<Endpoint>,
    },
}

/// A name to resolve into endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsName {
    /// The host name.
    pub name: Arc<str>,
    /// The port of every address found.
    pub port: u16,
    /// The weight that the addresses found share.
    pub weight: u32,
    /// The zone that they are in, if it is known.
    pub zone: Option<Arc<str>>,
}

/// The weight of a name is divided among its addresses; this keeps fractions of it.
const SHARES: u32 = 1000;

impl EndpointSource {
    /// The endpoints that follow from what the names resolved to, in the order of `names`.
    pub fn assemble(&self, resolved: &[Vec<IpAddr>]) -> EndpointSet {
        let EndpointSource::Dns { names, fixed } = self else {
            return EndpointSet::default();
        };
        let mut endpoints: Vec<Endpoint> = fixed.clone();
        for endpoint in &mut endpoints {
            endpoint.weight = endpoint.weight.saturating_mul(SHARES);
        }
        for (name, addresses) in names.iter().zip(resolved) {
            let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
            let share = name.weight.saturating_mul(SHARES) / count;
            endpoints.extend(addresses.iter().map(|address| Endpoint {
                weight: if name.weight == 0 { 0 } else { share.max(1) },
                host: Some(Arc::clone(&name.name)),
                zone: name.zone.clone(),
                ..Endpoint::at(SocketAddr::new(*address, name.port))
            }));
        }
        EndpointSet::new(endpoints)
    }
}

/// The ready endpoints of a backend at one moment.
#[derive(Clone, Debug, Default)]
pub struct EndpointSet {
    endpoints: Box<[Endpoint]>,
    /// Running sums of the weights, for a draw by weight in logarithmic time.
    sums: Box<[u64]>,
    /// Whether all weigh the same.
    even: bool,
    /// What would be an endpoint, had it a tunnel: addresses, and names with their ports.
    left_out: Box<[Box<str>]>,
    /// Whether it stands for names that nobody has asked for yet.
    unasked: bool,
    /// Those of which nothing has been heard for some time: for when none of the endpoints is left.
    silent: Option<Box<EndpointSet>>,
    /// Follows from the endpoints and the balancer.
    table: Option<Table>,
}

impl PartialEq for EndpointSet {
    fn eq(&self, other: &EndpointSet) -> bool {
        self.endpoints == other.endpoints
            && self.left_out == other.left_out
            && self.unasked == other.unasked
            && self.silent == other.silent
    }
}

impl Eq for EndpointSet {}

impl EndpointSet {
    /// A set of endpoints. Weight zero takes no traffic.
    pub fn new(endpoints: Vec<Endpoint>) -> EndpointSet {
        let endpoints: Box<[Endpoint]> = endpoints.into_iter().filter(|endpoint| endpoint.weight > 0).collect();
        let sums = endpoints
            .iter()
            .scan(0u64, |sum, endpoint| {
                *sum += u64::from(endpoint.weight);
                Some(*sum)
            })
            .collect();
        let even = endpoints.windows(2).all(|pair| matches!(pair, [one, other] if one.weight == other.weight));
        EndpointSet { endpoints, sums, even, left_out: Box::default(), unasked: false, silent: None, table: None }
    }

    /// The same set before these, of which nothing has been heard for some time.
    pub fn before_silent(mut self, silent: Vec<Endpoint>) -> EndpointSet {
        self.silent = (!silent.is_empty()).then(|| Box::new(EndpointSet::new(silent)));
        self
    }

    /// The same set beside these, which may not be called without a tunnel and have none.
    pub fn leaving_out(mut self, left_out: Vec<Box<str>>) -> EndpointSet {
        self.left_out = left_out.into();
        self
    }

    /// The same set, until the names beside it were asked for.
    pub(crate) fn before_names(mut self) -> EndpointSet {
        self.unasked = true;
        self
    }

    /// What is left out, because it has no tunnel and a policy wants one.
    pub fn left_out(&self) -> &[Box<str>] {
        &self.left_out
    }

    /// The same set with the table that these rules for its traffic need.
    pub fn with_table(mut self, traffic: Option<&Traffic>) -> EndpointSet {
        self.table = traffic.and_then(|traffic| Table::build(&traffic.balancer, &self.endpoints));
        self
    }

    /// The table, when the balancer needs one.
    pub(crate) fn table(&self) -> Option<&Table> {
        self.table.as_ref()
    }

    /// Whether all endpoints weigh the same.
    pub(crate) fn is_even(&self) -> bool {
        self.even
    }

    /// The endpoints that take traffic.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Those that take traffic when none of the endpoints is left.
    pub(crate) fn silent(&self) -> Option<&EndpointSet> {
        self.silent.as_deref()
    }

    /// The endpoints, and those for when none of them is left.
    pub fn all(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().chain(self.silent.iter().flat_map(|silent| &silent.endpoints))
    }

    /// Chooses an endpoint by weight from random bits, and tells its position.
    pub(crate) fn by_weight(&self, random: u64) -> Option<(usize, &Endpoint)> {
        let total = *self.sums.last()?;
        let point = crate::exchange::below(random, total);
        let position = self.sums.partition_point(|sum| *sum <= point);
        self.endpoints.get(position).map(|endpoint| (position, endpoint))
    }
}

/// One address that serves a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Its share among the endpoints of the set.
    pub weight: u32,
    /// The host name behind the address, when it came from DNS.
    pub host: Option<Arc<str>>,
    /// The zone it is in, if that is known.
    pub zone: Option<Arc<str>>,
    /// The tunnel that leads there, for a member of the mesh. Inside it, TLS of the backend is not spoken.
    pub tunnel: Option<Arc<Tunnel>>,
}

impl Endpoint {
    /// An endpoint of which nothing is known but its address; its weight is 1.
    pub fn at(address: SocketAddr) -> Endpoint {
        Endpoint { address, weight: 1, host: None, zone: None, tunnel: None }
    }
}

#[cfg(test)]
impl Backend {
    /// The Service `default/cart:80` with these endpoints.
    pub(crate) fn for_tests(endpoints: EndpointSet, traffic: Option<Traffic>) -> Backend {
        let backend = Backend {
            id: BackendId { kind: "Service", namespace: "default".into(), name: "cart".into(), port: Some(80) },
            label: "default/cart:80".into(),
            protocol: UpstreamProtocol::Auto,
            tls: None,
            endpoints: ArcSwap::default(),
            source: EndpointSource::Static,
            connect_timeout: Duration::from_secs(5),
            traffic: traffic.map(Arc::new),
            tunnel_only: None,
            ledger: Arc::default(),
            key: 7,
        };
        backend.endpoints.store(Arc::new(backend.equip(endpoints)));
        backend
    }
}

#[cfg(test)]
impl Bind {
    /// A bind with one bare listener per hostname; the section is the hostname.
    pub(crate) fn for_tests(secure: Secure, hostnames: &[&str]) -> Bind {
        let mut hosts = Hosts::default();
        let mut listeners = Vec::new();
        for (id, hostname) in hostnames.iter().enumerate() {
            hosts.insert(hostname, id as u32);
            listeners.push(Arc::new(Listener {
                name: ListenerName {
                    namespace: "default".into(),
                    gateway: "front".into(),
                    section: (*hostname).into(),
                },
                metric_label: "default/front".into(),
                hostname: (!hostname.is_empty()).then(|| (*hostname).into()),
                port: 443,
                tls: None,
                speaks: Speaks::Http,
                learned: None,
                hint: Known::Nothing,
                stream: None,
                routes: RouteTable::default(),
                chain: Chain::default(),
                settings: Arc::default(),
                settled_by: Vec::new(),
                client_identity: None,
            }));
        }
        Bind {
            address: ([127, 0, 0, 1], 443).into(),
            role: Role::Gateway,
            secure,
            listeners,
            settings: Arc::default(),
            hosts,
            destinations: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_a_name_share_its_weight() {
        let source = EndpointSource::Dns {
            names: vec![DnsName { name: "a.test".into(), port: 80, weight: 2, zone: None }],
            fixed: vec![Endpoint::at(([10, 0, 0, 1], 81).into())],
        };
        let addresses = vec![IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 3])];
        let set = source.assemble(&[addresses]);
        let weights: Vec<_> =
            set.endpoints().iter().map(|endpoint| (endpoint.address.port(), endpoint.weight)).collect();
        assert_eq!(weights, [(81, 1000), (80, 1000), (80, 1000)]);
        assert_eq!(source.assemble(&[vec![]]).endpoints().len(), 1);
    }
}
