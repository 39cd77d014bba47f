//! The endpoints of a backend: addresses out of EndpointSlices and Workloads, or names to be asked in DNS.
//!
//! Called by `backends`, and by whoever replaces one backend's endpoints without compiling everything again. Balancing and
//! resolving are left to the engine and the proxy.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::kinds::cluster::AddressFamily;
use crate::kinds::workload::{Takes, takes_for};
use crate::kinds::{
    BackendSpec, Endpoint, EndpointSliceBody, Object, ServicePort, ServiceSpec, TargetPort, WorkloadSpec,
};
use crate::world::World;

/// Where a backend's endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSource {
    /// Addresses that are known. May be empty: then there is nobody to answer.
    Static(Vec<EndpointAddress>),
    /// Names that have to be resolved, again and again as their TTL says, beside addresses that are known.
    Dns {
        /// The names.
        names: Vec<DnsEndpoint>,
        /// The addresses.
        addresses: Vec<EndpointAddress>,
    },
}

impl EndpointSource {
    /// Leaves the endpoints that are meant for clients in `zone`, as kube-proxy does (KEP-2433): when every endpoint says for which zones
    /// it is, and one of them is for this one. Else they all stay.
    pub fn keep_hinted(&mut self, zone: &str) {
        let EndpointSource::Static(addresses) = self else {
            return;
        };
        let is_for = |address: &EndpointAddress| address.for_zones.iter().any(|one| **one == *zone);
        let mut heard = addresses.iter().filter(|address| !address.silent);
        let all_say = heard.clone().all(|address| !address.for_zones.is_empty());
        if all_say && heard.any(is_for) {
            addresses.retain(|address| address.silent || is_for(address));
        }
    }
}

/// One address of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointAddress {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// Its share among the endpoints; 1 unless a `Backend` says otherwise.
    pub weight: u32,
    /// The host name of the endpoint, if its slice has one.
    pub hostname: Option<Arc<str>>,
    /// The zone it lives in, if that is known.
    pub zone: Option<Arc<str>>,
    /// The zones whose clients should use it; none when nobody said.
    pub for_zones: Vec<Arc<str>>,
    /// The tunnel that leads there, for a member of the mesh.
    pub tunnel: Option<EndpointTunnel>,
    /// Whether it is for when none of the others is left: nothing has been heard of it for some time.
    pub silent: bool,
}

/// The tunnel to an endpoint that is a member of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointTunnel {
    /// Where the proxy of the endpoint listens for tunnels.
    pub address: SocketAddr,
    /// The SPIFFE id that its certificate must have.
    pub identity: String,
}

/// One name of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsEndpoint {
    /// The name to resolve.
    pub name: Arc<str>,
    /// The port of whatever it resolves to.
    pub port: u16,
    /// Its share among the endpoints of the backend; its addresses divide it.
    pub weight: u32,
    /// The zone it is in, if that is known.
    pub zone: Option<Arc<str>>,
}

/// The endpoints of one port of a Service, out of the EndpointSlices labelled with its name and the Workloads that name it.
///
/// A slice's port belongs to the Service's port of the same name (both without one are the same name). Ready endpoints are
/// used; when none is ready, those that are ending but still serve, as kube-proxy does (KEP-1669). Workloads that are silent come last: marked, while there are
/// others, and like others when there is nobody else. An address in several
/// slices counts once, and a Workload at the same address counts instead, because it tells more; but which of its ports is
/// meant, the slice says. A Service of type ExternalName is a DNS name.
pub fn find_endpoints(world: &World, service: &Object<ServiceSpec>, port: &ServicePort) -> EndpointSource {
    if service.spec.r#type == "ExternalName" {
        let names = service.spec.external_name.as_ref().map(|name| DnsEndpoint {
            name: name.shared(),
            port: port.port,
            weight: 1,
            zone: None,
        });
        return EndpointSource::Dns { names: names.into_iter().collect(), addresses: Vec::new() };
    }
    let mut ready = Found::default();
    let slices = world.endpoint_slices_of(&service.meta.namespace, &service.meta.name);
    let workloads = world.workloads_of(&service.meta.namespace, &service.meta.name);
    let said = if workloads.is_empty() { HashMap::new() } else { ports_in(slices, port) };
    // At one address whoever takes requests comes before one that does not, and that may be what was there before.
    for takes in [Takes::Requests, Takes::WhatIsLeft, Takes::Nothing] {
        for workload in workloads.iter().filter(|workload| takes_for(workload, &service.meta.name) == takes) {
            match workload.spec.ip().and_then(|ip| said.get(&ip)) {
                Some(numbers) => numbers.iter().for_each(|number| ready.add_workload(workload, *number, takes)),
                None => ready.add_workload_of(workload, port, takes),
            }
        }
    }
    // Where a Workload is, whatever it says of itself, nobody is called as if there were none.
    let mut ending = Found { seen: ready.seen.clone(), ..Found::default() };
    for slice in slices {
        let Some(number) = slice_port(&slice.spec, port) else {
            continue;
        };
        for endpoint in &slice.spec.endpoints {
            let conditions = &endpoint.conditions;
            if conditions.is_ready() {
                ready.add(&slice.spec, endpoint, number);
            } else if conditions.serving == Some(true) && conditions.terminating == Some(true) {
                ending.add(&slice.spec, endpoint, number);
            }
        }
    }
    match (ready.has_heard(), ending.has_heard()) {
        (true, _) => ready.finish(),
        (false, true) => {
            ending.addresses.append(&mut ready.addresses);
            ending.finish()
        }
        (false, false) => {
            ready.addresses.iter_mut().for_each(|address| address.silent = false);
            ready.finish()
        }
    }
}

/// The ports of a Service's port by address, where slices name a ready one.
fn ports_in(slices: &[Arc<Object<EndpointSliceBody>>], port: &ServicePort) -> HashMap<IpAddr, Vec<u16>> {
    let mut ports = HashMap::<IpAddr, Vec<u16>>::new();
    for slice in slices {
        let Some(number) = slice_port(&slice.spec, port) else {
            continue;
        };
        let ready = slice.spec.endpoints.iter().filter(|endpoint| endpoint.conditions.is_ready());
        for ip in ready.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok()) {
            ports.entry(ip).or_default().push(number);
        }
    }
    ports
}

fn slice_port(slice: &EndpointSliceBody, wanted: &ServicePort) -> Option<u16> {
    let name = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let wanted_name = name(wanted.name.as_deref());
    let found = slice.ports.iter().find(|p| name(p.name.as_deref()) == wanted_name && p.protocol == wanted.protocol)?;
    // A slice port without a number stands for every port: then the Service says which.
    found.port.or(match &wanted.target_port {
        Some(TargetPort::Number(number)) => Some(*number),
        Some(TargetPort::Name(_)) => None,
        None => Some(wanted.port),
    })
}

/// Endpoints found so far, each once.
#[derive(Default)]
struct Found {
    addresses: Vec<EndpointAddress>,
    names: Vec<DnsEndpoint>,
    seen: HashSet<(IpAddr, u16)>,
}

impl Found {
    fn add(&mut self, slice: &EndpointSliceBody, endpoint: &Endpoint, port: u16) {
        // The addresses of one endpoint are interchangeable; Kubernetes uses the first.
        let Some(text) = endpoint.addresses.first() else {
            return;
        };
        if slice.address_type == AddressFamily::Fqdn {
            let name = text.shared();
            if !self.names.iter().any(|n| n.name == name && n.port == port) {
                let zone = endpoint.zone.as_ref().map(|z| z.shared());
                self.names.push(DnsEndpoint { name, port, weight: 1, zone });
            }
        } else if let Ok(ip) = text.parse() {
            let hints = endpoint.hints.iter().flat_map(|hints| &hints.for_zones);
            let for_zones: Vec<Arc<str>> = hints.map(|zone| zone.name.shared()).collect();
            if !self.seen.insert((ip, port)) {
                // A Workload does not know what the slice says here.
                let is_it = |known: &&mut EndpointAddress| (known.ip, known.port) == (ip, port);
                if !for_zones.is_empty()
                    && let Some(known) = self.addresses.iter_mut().find(is_it)
                {
                    known.for_zones = for_zones;
                }
                return;
            }
            self.addresses.push(EndpointAddress {
                ip,
                port,
                weight: 1,
                hostname: endpoint.hostname.as_ref().map(|h| h.shared()),
                zone: endpoint.zone.as_ref().map(|z| z.shared()),
                for_zones,
                tunnel: None,
                silent: false,
            });
        }
    }

    /// A Workload under the port that it has for one of its Service.
    fn add_workload_of(&mut self, workload: &Object<WorkloadSpec>, port: &ServicePort, takes: Takes) {
        if let Some(port) = workload.spec.port_for(port) {
            self.add_workload(workload, port.target(), takes);
        }
    }

    /// A Workload under one of its own ports; it has nothing to do with others at its address.
    fn add_workload(&mut self, workload: &Object<WorkloadSpec>, number: u16, takes: Takes) {
        let spec = &workload.spec;
        let Some(ip) = spec.ip().filter(|_| spec.ports.iter().any(|port| port.target() == number)) else {
            return;
        };
        // One that takes no requests takes none through a slice either.
        if self.seen.insert((ip, number)) && takes != Takes::Nothing {
            self.addresses.push(EndpointAddress {
                ip,
                port: number,
                weight: spec.weight,
                hostname: None,
                zone: spec.zone.as_ref().map(|zone| zone.shared()),
                for_zones: Vec::new(),
                tunnel: spec.tunnel.as_ref().map(|tunnel| EndpointTunnel {
                    address: SocketAddr::new(ip, tunnel.port),
                    identity: spec.identity(&workload.meta),
                }),
                silent: takes == Takes::WhatIsLeft,
            });
        }
    }

    /// Whether there is one that is not silent.
    fn has_heard(&self) -> bool {
        !self.names.is_empty() || self.addresses.iter().any(|address| !address.silent)
    }

    fn finish(mut self) -> EndpointSource {
        if self.names.is_empty() {
            EndpointSource::Static(self.addresses)
        } else {
            // Whether anybody is left of those is known when their names have been asked for, and by nobody here.
            self.addresses.retain(|address| !address.silent);
            EndpointSource::Dns { names: self.names, addresses: self.addresses }
        }
    }
}

/// The endpoints of a `Backend`.
pub(super) fn backend_endpoints(backend: &BackendSpec) -> EndpointSource {
    let mut found = Found::default();
    for endpoint in &backend.endpoints {
        match endpoint.ip() {
            Some(ip) => found.addresses.push(EndpointAddress {
                ip,
                port: endpoint.port,
                weight: endpoint.weight,
                hostname: None,
                zone: endpoint.zone.as_ref().map(|z| z.shared()),
                for_zones: Vec::new(),
                tunnel: None,
                silent: false,
            }),
            None => found.names.push(DnsEndpoint {
                name: endpoint.address.shared(),
                port: endpoint.port,
                weight: endpoint.weight,
                zone: endpoint.zone.as_ref().map(|z| z.shared()),
            }),
        }
    }
    found.finish()
}
