//! Workload (transept.dev/v1alpha1): a running instance of a program with an identity in the mesh.
//!
//! Usually made by the control plane when an instance registers, and written by hand for a mesh without registrations. The endpoints
//! of a Service are those of its EndpointSlices and the healthy Workloads that name it.

use std::net::IpAddr;

use crate::kinds::cluster::ServicePort;
use crate::kinds::metadata::{Body, Kind, Metadata, Scope};
use crate::kinds::{Object, TRANSEPT_GROUP};
use crate::schema::{Decoder, NAMESPACE, PRECISE_HOSTNAME, Rule, Text};
use crate::value::{Value, quote};

/// The trust domain of a mesh that was not given another name.
pub const DEFAULT_TRUST_DOMAIN: &str = "transept.local";
/// The annotation that says what ports have been heard to speak whose protocol nobody declared: `80=http,25=tcp-server-first`, by the port of
/// the Service. An annotation and no field, so that who does not know of it takes the object all the same.
pub const LEARNED: &str = "transept.dev/learned";
/// The annotation that names the Services, with commas between them, for which a Workload takes requests only where nobody else does: it was well when
/// it was heard last, and is silent. An annotation and no field, so that who does not know of it takes the object all the same.
pub const SILENT: &str = "transept.dev/silent";
/// The annotation of a Workload that is not known to be at its address: it did not register from there, another one was there before and is alive, or another one
/// has come since and it has not been heard. Calls of its Services are led to it, since whoever answers must prove who it is; calls of the address are not, whose would it be. An annotation and no field, so that who does not know of it
/// takes the object all the same.
pub const UNPROVEN: &str = "transept.dev/unproven";
/// Where HBONE listens unless told otherwise.
pub const HBONE_PORT: u16 = 15008;

crate::object! {
    /// A Workload: one running instance, the Services it belongs to, where it is and who it is.
    pub struct WorkloadSpec {
        /// The Services of its namespace that it serves.
        services: Vec<Text> => Rule::MinItems(1), Rule::MaxItems(16), Rule::Unique, Rule::Is(&NAMESPACE);
        /// The last part of its identity, `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`. Without it, the first of its
        /// Services.
        service_account: Option<Text> => Rule::Is(&NAMESPACE);
        /// The trust domain of its identity.
        trust_domain: Text = DEFAULT_TRUST_DOMAIN.into() => Rule::Is(&PRECISE_HOSTNAME);
        /// Its address, IPv4 or IPv6.
        address: Text => Rule::Length(1, 45);
        /// Its ports.
        ports: Vec<WorkloadPort> => Rule::MinItems(1), Rule::MaxItems(64);
        /// How members of the mesh reach it. Without it, they reach it as everybody does: in clear text.
        tunnel: Option<WorkloadTunnel>;
        /// The zone it is in.
        zone: Option<Text> => Rule::Length(1, 63);
        /// The region it is in: of a TrafficPolicy with `locality`, zones of the caller's region come before those of others.
        region: Option<Text> => Rule::Length(1, 63);
        /// Its share of requests, in proportion to the other endpoints of a Service. 0 takes none.
        weight: u32 = 1 => Rule::Range(0, 1_000_000);
        /// Whether it takes requests.
        health: WorkloadHealth = WorkloadHealth::Healthy;
    }
    check check_workload;
}

impl Kind for WorkloadSpec {
    const KIND: &'static str = "Workload";
    const GROUP: &'static str = TRANSEPT_GROUP;
    const VERSIONS: &'static [&'static str] = &["v1alpha1"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str =
        "A running instance of a program: the Services it belongs to, its address and its identity.";
}

crate::object! {
    /// A port of a Workload.
    pub struct WorkloadPort {
        /// The name of the port of the Service, when it has one.
        name: Option<Text> => Rule::Length(1, 63);
        /// The port of the Service.
        port: u16 => Rule::Range(1, 65535);
        /// The port of the instance. Without it, the same as `port`.
        target_port: Option<u16> => Rule::Range(1, 65535);
        /// The protocol spoken: `http`, `kubernetes.io/h2c`, `tcp`, or another. Without it, the first bytes tell.
        app_protocol: Option<Text> => Rule::Length(1, 63);
    }
}

impl WorkloadPort {
    /// The port to connect to.
    pub fn target(&self) -> u16 {
        self.target_port.unwrap_or(self.port)
    }
}

crate::object! {
    /// The tunnel to a Workload.
    pub struct WorkloadTunnel {
        /// How the tunnel works.
        protocol: TunnelProtocol = TunnelProtocol::Hbone;
        /// The port where the proxy of the Workload listens for tunnels, at its address.
        port: u16 = HBONE_PORT => Rule::Range(1, 65535);
    }
}

crate::choice! {
    /// How a tunnel works.
    pub enum TunnelProtocol {
        /// HTTP/2 CONNECT over mutual TLS with the identities of the mesh.
        Hbone = "HBONE",
    }
}

crate::choice! {
    /// Whether a Workload takes requests.
    pub enum WorkloadHealth {
        /// It takes requests.
        Healthy = "Healthy",
        /// It takes none until it is well again.
        Unhealthy = "Unhealthy",
        /// It takes no new ones, because it is about to end.
        Draining = "Draining",
    }
}

impl WorkloadSpec {
    /// Its address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.parse().ok()
    }

    /// Its SPIFFE id. `meta` is that of the same object.
    pub fn identity(&self, meta: &Metadata) -> String {
        let account = self.service_account.as_ref().or(self.services.first()).map_or("default", |name| name.as_str());
        format!("spiffe://{}/ns/{}/sa/{account}", self.trust_domain, meta.namespace)
    }

    /// The port that serves a port of one of its Services: the one of that name, else of that number.
    pub fn port_for(&self, wanted: &ServicePort) -> Option<&WorkloadPort> {
        let name = wanted.name.as_deref().filter(|name| !name.is_empty());
        let named = name.and_then(|name| self.ports.iter().find(|port| port.name.as_deref() == Some(name)));
        named.or_else(|| self.ports.iter().find(|port| port.port == wanted.port))
    }
}

/// What a Workload takes as an instance of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Requests like any other.
    Requests,
    /// Requests that nobody else is left for: it is silent, and may live on.
    WhatIsLeft,
    /// None.
    Nothing,
}

/// What a Workload takes as an instance of a Service.
pub fn takes_for(workload: &Object<WorkloadSpec>, service: &str) -> Takes {
    let is_silent = |names: &String| names.split(',').any(|name| name.trim() == service);
    match workload.spec.health {
        _ if workload.meta.annotations.get(SILENT).is_some_and(is_silent) => Takes::WhatIsLeft,
        WorkloadHealth::Healthy => Takes::Requests,
        WorkloadHealth::Unhealthy | WorkloadHealth::Draining => Takes::Nothing,
    }
}

/// Whether a Workload is known to be at its address, so that calls of the address are for it.
pub fn is_proven(workload: &Object<WorkloadSpec>) -> bool {
    !workload.meta.annotations.contains_key(UNPROVEN)
}

/// What a port of a Workload has been heard to speak, by the port of its Service; a word of the annotation [`LEARNED`].
pub fn find_learned(meta: &Metadata, port: u16) -> Option<&str> {
    let pairs = meta.annotations.get(LEARNED)?.split(',').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(of, _)| of.trim().parse() == Ok(port)).map(|(_, word)| word.trim())
}

fn check_workload(workload: &WorkloadSpec, value: &Value, cx: &mut Decoder) {
    if workload.ip().is_none() {
        let why = format!("{} is not an IP address", quote(&workload.address));
        cx.refuse_field(value, "address", why).remedy("write the address that other members of the mesh reach");
    }
    cx.within("ports", |cx| {
        for (index, port) in workload.ports.iter().enumerate() {
            let twice = workload.ports.iter().take(index).find(|other| other.port == port.port);
            if let Some(other) = twice {
                let why = format!("the port on line {} has the same number", other.at.line);
                cx.within(index, |cx| {
                    cx.refuse(port.at, why).remedy("keep one of them");
                });
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use crate::{SourceText, load};

    fn problems(spec: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: transept.dev/v1alpha1\nkind: Workload\nmetadata: {{name: cart-1, namespace: shop}}\nspec: {spec}\n"
        );
        let loaded = load(&[SourceText { name: "w.yaml".into(), text: text.into() }], &[]);
        loaded.invalid.into_iter().map(|problem| problem.why).collect()
    }

    #[test]
    fn what_a_port_was_heard_to_speak_is_found_by_its_number() {
        let text = "apiVersion: transept.dev/v1alpha1\nkind: Workload\nmetadata: {name: cart-1, annotations: {transept.dev/learned: \
                    '80=http, 25=tcp-server-first,x=http,=,443'}}\nspec: {services: [cart], address: 10.0.0.7, ports: [{port: 80}]}\n";
        let loaded = load(&[SourceText { name: "w.yaml".into(), text: text.into() }], &[]);
        let workload = &loaded.world.workloads()[0];
        let found = [80, 25, 443, 0].map(|port| super::find_learned(&workload.meta, port));
        assert_eq!(found, [Some("http"), Some("tcp-server-first"), None, None]);
    }

    #[test]
    fn a_workload_needs_an_address_and_ports_of_its_own() {
        assert!(problems("{services: [cart], address: 10.0.0.7, ports: [{port: 80, targetPort: 8080}]}").is_empty());
        assert_eq!(
            problems("{services: [cart], address: cart, ports: [{port: 80}, {port: 80}]}"),
            ["\"cart\" is not an IP address", "the port on line 4 has the same number"]
        );
        assert_eq!(problems("{services: [cart], address: 10.0.0.7, ports: [{port: 80}], trustDomain: a b}").len(), 1);
    }
}
