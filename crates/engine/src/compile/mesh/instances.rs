//! Instances that are called by their own address: one listener for each of their ports, and no choice of endpoints.
//!
//! Part of the way out. Routes and the traffic policies of Services say nothing about such a call; who is meant is settled already. The
//! policies of the side that is called apply as to any other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use transept_model::kinds::workload::find_learned;
use transept_model::kinds::{Object, WorkloadPort, WorkloadSpec};

use super::{AppProtocol, Sides, whole_rule};
use crate::learned::Known;
use crate::role::{Destinations, Role, Tunnel};
use crate::snapshot::{BackendId, Endpoint, Listener, ListenerName};

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
        for workload in world.workloads() {
            let Some(address) = workload.spec.ip().filter(|address| located.contains(address)) else { continue };
            let mut others = Vec::new();
            for port in &workload.spec.ports {
                let Some(listener) = self.instance_listener(workload, port, address) else { continue };
                let id = u32::try_from(listeners.len()).unwrap_or(u32::MAX);
                listeners.push(listener);
                destinations.add_address(SocketAddr::new(address, port.target()), id);
                others.push((SocketAddr::new(address, port.port), id));
            }
            // A port of the program comes before one of a Service that has the same number.
            for (destination, id) in others {
                destinations.add_address(destination, id);
            }
        }
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
        let protocol = AppProtocol::of(port.app_protocol.as_deref());
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
                self.backends.fixed(id, protocol.upstream(), endpoint)
            }
            None => {
                let policy = self.tunnel_only(workload, port)?;
                self.backends.shut(id, protocol.upstream(), at, policy)
            }
        };
        let rule = Arc::new(whole_rule(namespace, service, target, self.site(namespace, service), Ok(backend)));
        let listener = self.listener(namespace, service, target, rule, None, Role::Outbound);
        let name = ListenerName { section: format!("outbound-{name}-{target}").into(), ..listener.name.clone() };
        let speaks = protocol.speaks();
        let learned = self.learned(speaks, &name);
        let hint = find_learned(&workload.meta, port.port).map(Known::of_word).unwrap_or_default();
        Some(Arc::new(Listener { metric_label: name.to_string().into(), name, speaks, learned, hint, ..listener }))
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
