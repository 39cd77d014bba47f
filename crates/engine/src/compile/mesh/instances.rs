//! Instances that are called by their own address: one listener for each of their ports, and no choice of endpoints.
//!
//! Part of the way out. Routes and the traffic policies of Services say nothing about such a call; who is meant is settled already. The
//! policies of the side that is called apply as to any other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use transept_model::kinds::cluster::SERVICE_NAME_LABEL;
use transept_model::kinds::workload::{find_learned, is_proven};
use transept_model::kinds::{Object, ServicePort, ServiceSpec, WorkloadHealth, WorkloadPort, WorkloadSpec};

use super::{AppProtocol, Sides, protocol, whole_rule};
use crate::learned::Known;
use crate::role::{Destinations, Role, Tunnel};
use crate::snapshot::{BackendId, Endpoint, Listener, ListenerName, Speaks};

impl<'w> Sides<'_, 'w> {
    /// Adds the instances that have tunnels among these addresses, under their own ports and those of their Services.
    pub(super) fn add_instances(
        &mut self,
        located: &BTreeSet<IpAddr>,
        listeners: &mut Vec<Arc<Listener>>,
        destinations: &mut Destinations,
    ) {
        destinations.located = Some(located.iter().copied().collect());
        let world = self.world;
        // Whoever only says that he is somewhere takes no calls from who is there. Who takes requests comes before who does not: that may be who was
        // there before.
        let proven = world.workloads().iter().filter(|workload| is_proven(workload));
        let (well, others): (Vec<_>, Vec<_>) =
            proven.partition(|workload| workload.spec.health == WorkloadHealth::Healthy);
        let mut of_services = Vec::new();
        for workload in well.into_iter().chain(others) {
            let address = workload.spec.ip().map(|address| address.to_canonical());
            let Some(address) = address.filter(|address| located.contains(address)) else { continue };
            for port in &workload.spec.ports {
                let Some(listener) = self.instance_listener(workload, port, address) else { continue };
                let id = u32::try_from(listeners.len()).unwrap_or(u32::MAX);
                listeners.push(listener);
                destinations.add_address(SocketAddr::new(address, port.target()), id);
                of_services.push((SocketAddr::new(address, port.port), id));
            }
        }
        // A port of a program comes before one of a Service that has the same number.
        for (destination, id) in of_services {
            destinations.add_address(destination, id);
        }
        self.shut_strangers(located, listeners, destinations);
    }

    /// Where a policy on a Service wants a tunnel, nobody is called at an address that an EndpointSlice names and from which nobody has
    /// registered.
    fn shut_strangers(
        &mut self,
        located: &BTreeSet<IpAddr>,
        listeners: &mut Vec<Arc<Listener>>,
        destinations: &mut Destinations,
    ) {
        let world = self.world;
        for slice in world.endpoint_slices() {
            let namespace = &slice.meta.namespace;
            let service = slice.meta.labels.get(SERVICE_NAME_LABEL);
            let Some(service) = service.and_then(|name| world.service(namespace, name)) else { continue };
            let addresses = slice.spec.endpoints.iter().filter_map(|endpoint| endpoint.addresses.first()?.parse().ok());
            let addresses = addresses.map(|address: IpAddr| address.to_canonical());
            let addresses: Vec<_> = addresses.filter(|address| located.contains(address)).collect();
            for port in slice.spec.ports.iter().filter(|port| port.protocol == "TCP" && !addresses.is_empty()) {
                let name = port.name.as_deref().unwrap_or_default();
                let wanted = service.spec.ports.iter().find(|one| one.name.as_deref().unwrap_or_default() == name);
                let effective = self.policies.on_service(
                    namespace,
                    &service.meta.name,
                    wanted.and_then(|wanted| wanted.name.clone()),
                );
                let Some(policy) = self.policies.tunnel_only(&effective) else { continue };
                let numbers: BTreeSet<u16> = port.port.into_iter().chain(wanted.map(|wanted| wanted.port)).collect();
                for (address, number) in addresses.iter().flat_map(|one| numbers.iter().map(|number| (*one, *number))) {
                    let at = SocketAddr::new(address, number);
                    if destinations.by_address(&at).is_none() {
                        let id = u32::try_from(listeners.len()).unwrap_or(u32::MAX);
                        listeners.push(self.shut_listener(service, at, &policy));
                        destinations.add_address(at, id);
                    }
                }
            }
        }
    }

    /// The listener that refuses calls of an address of a Service.
    fn shut_listener(&mut self, service: &Object<ServiceSpec>, at: SocketAddr, policy: &Arc<str>) -> Arc<Listener> {
        let (namespace, name) = (&*service.meta.namespace, &*service.meta.name);
        let id = BackendId {
            kind: "Instance",
            namespace: namespace.into(),
            name: format!("{name}/{}", at.ip()).into(),
            port: Some(at.port()),
        };
        let backend = self.backends.shut(id, protocol::upstream(AppProtocol::Unknown), at, Arc::clone(policy));
        let rule = Arc::new(whole_rule(namespace, name, at.port(), self.site(namespace, name), Ok(backend)));
        let listener = self.listener(namespace, name, at.port(), rule, None, Role::Outbound);
        let name = ListenerName { section: format!("outbound-{at}").into(), ..listener.name.clone() };
        let learned = self.learned(Speaks::Detect, &name);
        Arc::new(Listener { metric_label: name.to_string().into(), name, learned, ..listener })
    }

    /// The listener that stands for a port of an instance; none when it has no tunnel, and is reached as everybody reaches it. Where a policy
    /// wants a tunnel, nobody reaches it without one.
    fn instance_listener(
        &mut self,
        workload: &'w Object<WorkloadSpec>,
        port: &WorkloadPort,
        address: IpAddr,
    ) -> Option<Arc<Listener>> {
        let (namespace, name, target) = (&*workload.meta.namespace, &*workload.meta.name, port.target());
        let service = workload.spec.services.first().map_or(name, |service| &**service);
        let declared = AppProtocol::of(port.app_protocol.as_deref());
        let id = BackendId {
            kind: "Instance",
            namespace: namespace.into(),
            name: format!("{service}/{name}").into(),
            port: Some(target),
        };
        let at = SocketAddr::new(address, target);
        let backend = match &workload.spec.tunnel {
            Some(tunnel) => {
                let tunnel = Tunnel {
                    address: SocketAddr::new(address, tunnel.port),
                    identity: workload.spec.identity(&workload.meta).into(),
                };
                let endpoint = Endpoint { tunnel: Some(Arc::new(tunnel)), ..Endpoint::at(at) };
                self.backends.fixed(id, protocol::upstream(declared), endpoint)
            }
            None => {
                let policy = self.tunnel_only(workload, port)?;
                self.backends.shut(id, protocol::upstream(declared), at, policy)
            }
        };
        let rule = Arc::new(whole_rule(namespace, service, target, self.site(namespace, service), Ok(backend)));
        let listener = self.listener(namespace, service, target, rule, None, Role::Outbound);
        let name = ListenerName { section: format!("outbound-{name}-{target}").into(), ..listener.name.clone() };
        let speaks = protocol::speaks(declared);
        let learned = self.learned(speaks, &name);
        let hint = find_learned(&workload.meta, port.port).map(Known::of_word).unwrap_or_default();
        Some(Arc::new(Listener { metric_label: name.to_string().into(), name, speaks, learned, hint, ..listener }))
    }

    /// What the proxies of the instances of a Service have heard them speak on one of its ports.
    pub(super) fn hint(&self, namespace: &str, name: &str, port: &ServicePort) -> Known {
        let words = self.world.workloads_of(namespace, name).iter().filter_map(|workload| {
            let port = workload.spec.port_for(port)?;
            find_learned(&workload.meta, port.port).map(Known::of_word)
        });
        Known::agreed(words)
    }

    /// The policy on one of the Services of an instance that lets nobody call it without a tunnel.
    fn tunnel_only(&self, workload: &Object<WorkloadSpec>, port: &WorkloadPort) -> Option<Arc<str>> {
        let namespace = &workload.meta.namespace;
        workload.spec.services.iter().find_map(|service| {
            let known = self.world.service(namespace, service);
            let wanted = known.and_then(|known| known.spec.ports.iter().find(|one| one.port == port.port));
            let effective = self.policies.on_service(namespace, service, wanted.and_then(|one| one.name.clone()));
            self.policies.tunnel_only(&effective)
        })
    }
}
