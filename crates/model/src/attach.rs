//! Which Gateways are ours, which listeners they serve, which routes hang on them, which policies reach where: decided purely
//! from the world, with a status for every object that takes part.
//!
//! Called by `check`, by the admission of a new configuration and by the proxy's loader, all with the same result. It refuses
//! nothing: what is wrong fails closed on its own target and is reported in [`Attached::status`] and, with its place in the
//! file, in [`Attached::problems`]. What a route's rules, filters and policies do is left to the engine's compile.

mod addresses;
mod backend_tls;
mod binds;
mod findings;
mod gateways;
mod listeners;
mod outcomes;
mod overlap;
mod parents;
mod policies;
mod routes;
mod services;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub use outcomes::Settled;
pub use policies::{PolicyAttachment, PolicyTarget};
use rustls_pki_types::CertificateDer;
pub use services::{AttachedService, ServiceRoute};

use crate::certificate::KeyPair;
use crate::hostname::Hostname;
use crate::kinds::{
    FrontendValidationMode, GatewaySpec, GrpcRouteSpec, HttpRouteSpec, Metadata, Object, Protocol, TcpRouteSpec,
};
use crate::load::is_implied;
use crate::place::Invalid;
use crate::references::References;
use crate::status::Status;
use crate::world::World;

/// Where a machine is, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locale {
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// The region of that zone; without it the Workloads of the zone may say it.
    pub region: Option<Arc<str>>,
}

impl Locale {
    /// A machine in this zone of this region.
    pub fn new(zone: Option<&str>, region: Option<&str>) -> Self {
        Self { zone: zone.map(Arc::from), region: region.map(Arc::from) }
    }
}

/// What the world cannot know about the machine it runs on.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Addresses that cannot be listened on, each with the reason as a clause.
    pub unusable: BTreeMap<IpAddr, String>,
    /// The address of a Gateway that asks for none.
    pub default_address: IpAddr,
    /// Where the machine is.
    pub locale: Locale,
    /// How much of what there is the world holds.
    pub extent: Extent,
    /// The only Gateway that is served here, by namespace and name, but for the one that nobody wrote; none is every one.
    pub gateway: Option<(Arc<str>, Arc<str>)>,
}

impl Surroundings {
    /// Whether a Gateway is served somewhere else.
    fn is_elsewhere(&self, gateway: &Metadata) -> bool {
        let Some((namespace, name)) = &self.gateway else { return false };
        let is_own = gateway.namespace.as_str() == &**namespace && gateway.name.as_str() == &**name;
        !is_own && !is_implied(gateway)
    }

    fn extent(&self) -> Extent {
        if self.gateway.is_some() && self.extent == Extent::Whole { Extent::OneGateway } else { self.extent }
    }
}

/// How much of what there is a world holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Extent {
    /// Everything: what is not in it is not there.
    #[default]
    Whole,
    /// Everything but the Gateways of others, and the routes that belong to nobody.
    OneGateway,
    /// What somebody asked for: the target of a policy, or a parent of a route, may well be elsewhere, and then it has nothing to do here.
    Part,
}

impl Default for Surroundings {
    /// Every address is usable; a Gateway that asks for none listens on all IPv4 addresses of the machine.
    fn default() -> Self {
        Self {
            unusable: BTreeMap::new(),
            default_address: Ipv4Addr::UNSPECIFIED.into(),
            locale: Locale::default(),
            extent: Extent::Whole,
            gateway: None,
        }
    }
}

/// The world with everything attached: what the engine compiles.
#[derive(Debug)]
pub struct Attached {
    /// Our Gateways, oldest first, also those that are not accepted (their listeners do not serve).
    pub gateways: Vec<AttachedGateway>,
    /// The Services with routes of their own in the mesh, in the order of namespaces and names.
    pub services: Vec<AttachedService>,
    /// Our own policies with the targets they reach, those of one target together, the established one first.
    pub policies: Vec<PolicyAttachment>,
    /// The status of every object.
    pub status: Status,
    /// Everything the status complains about, with its place: what `check` prints.
    pub problems: Vec<Invalid>,
    /// Where the machine is.
    pub locale: Locale,
}

impl Attached {
    /// The routes of a Service, when it has any.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&AttachedService> {
        let key = |one: &AttachedService| (one.namespace.as_str(), one.name.as_str()).cmp(&(namespace, name));
        self.services.binary_search_by(key).ok().and_then(|index| self.services.get(index))
    }

    /// The policies of one kind on one target, the established one (the oldest) first.
    pub fn policies_on(&self, kind: &str, target: &PolicyTarget) -> &[PolicyAttachment] {
        let wanted = (kind, target);
        let before = |one: &PolicyAttachment| (one.policy.kind, &one.target) < wanted;
        let start = self.policies.partition_point(before);
        let rest = self.policies.get(start..).unwrap_or_default();
        let same = |one: &PolicyAttachment| (one.policy.kind, &one.target) == wanted;
        let length = rest.partition_point(same);
        rest.get(..length).unwrap_or_default()
    }
}

/// A Gateway with its listeners.
#[derive(Debug)]
pub struct AttachedGateway {
    /// The Gateway.
    pub gateway: Arc<Object<GatewaySpec>>,
    /// The addresses it listens on. Empty when it is not accepted.
    pub addresses: Vec<IpAddr>,
    /// Its listeners, in the order of the spec.
    pub listeners: Vec<AttachedListener>,
    /// The certificate it presents to backends (`spec.tls.backend`). None as well when it is broken: backends that insist on
    /// one refuse the connection then.
    pub client_identity: Option<Arc<KeyPair>>,
}

/// A listener with its routes.
#[derive(Debug)]
pub struct AttachedListener {
    /// Its name, unique in the Gateway.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The hosts it serves; all of them without a name.
    pub hostname: Option<Hostname>,
    /// Its certificates, for HTTPS.
    pub tls: Option<ListenerTls>,
    /// The accepted routes, oldest first.
    pub routes: Vec<AttachedRoute>,
    /// Whether it may be opened: it and its Gateway are accepted, and it has what TLS needs.
    pub serving: bool,
}

/// TLS of a listener.
#[derive(Debug)]
pub struct ListenerTls {
    /// The certificates in the order of the spec; the first is the one for clients that name no host.
    pub certificates: Vec<Arc<KeyPair>>,
    /// Whether and how clients must show a certificate.
    pub client_validation: Option<ClientValidation>,
}

/// How clients are known by their certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientValidation {
    /// The certificates that client certificates must lead to.
    pub roots: Vec<CertificateDer<'static>>,
    /// What happens without a valid one.
    pub mode: FrontendValidationMode,
}

/// A route on a listener.
#[derive(Debug, Clone)]
pub struct AttachedRoute {
    /// The route.
    pub route: RouteRef,
    /// The hosts it serves on this listener: what its own names and the listener's have in common. Empty: every host.
    pub hostnames: Vec<Hostname>,
    /// Its rank by age among all routes, the oldest first: "the oldest wins".
    pub order: u32,
}

/// A route of one of the kinds that we serve.
#[derive(Debug, Clone)]
pub enum RouteRef {
    /// An HTTPRoute.
    Http(Arc<Object<HttpRouteSpec>>),
    /// A GRPCRoute.
    Grpc(Arc<Object<GrpcRouteSpec>>),
    /// A TCPRoute.
    Tcp(Arc<Object<TcpRouteSpec>>),
}

impl RouteRef {
    /// The name, age and place of the route.
    pub fn meta(&self) -> &Metadata {
        match self {
            Self::Http(route) => &route.meta,
            Self::Grpc(route) => &route.meta,
            Self::Tcp(route) => &route.meta,
        }
    }

    /// `HTTPRoute`, `GRPCRoute` or `TCPRoute`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "HTTPRoute",
            Self::Grpc(_) => "GRPCRoute",
            Self::Tcp(_) => "TCPRoute",
        }
    }
}

/// Attaches everything in `world` that can be attached. Pure: the same world and surroundings give the same result.
pub fn attach(world: &World, surroundings: &Surroundings) -> Attached {
    let references = References::new(world);
    let mut findings = findings::Findings::default();
    let mut status = Status::default();
    gateways::judge_classes(world, &mut status, &mut findings);
    let mut drafts = gateways::draft(world, &references, surroundings, &mut status, &mut findings);
    binds::keep_apart(&mut drafts, &mut findings);
    let part = (world, surroundings.extent());
    let (uses, services) = routes::attach_all(part, &references, &mut drafts, &mut status, &mut findings);
    backend_tls::judge(part, &references, &drafts, &uses, &mut status, &mut findings);
    let policies = policies::attach_all(part, &drafts, &uses, &mut status, &mut findings);
    let gateways = drafts.into_iter().map(|draft| draft.finish(&mut status)).collect();
    Attached {
        gateways,
        services,
        policies,
        status,
        problems: findings.into_problems(world),
        locale: surroundings.locale.clone(),
    }
}

#[cfg(test)]
mod tests;
