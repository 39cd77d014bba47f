//! Connections that were led to us on their way to somewhere else: what stands for which Service, and whose addresses are known.
//!
//! Part of the way out. Instances that are called by their own address are in `instances`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Callee, Sides};
use crate::role::Destinations;
use crate::route::hosts::Hosts;
use crate::snapshot::{Bind, ServiceName};

/// Connections that are led to us, whatever they were going to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// What to listen on, once for each family of addresses.
    pub listen: Vec<SocketAddr>,
    /// The virtual addresses of Services.
    pub services: Vec<VirtualService>,
    /// The addresses of which is known whose they are, because somebody has asked. Those of instances are reached through their tunnels,
    /// the others as ever. None: nobody is to be asked.
    pub located: Option<BTreeSet<IpAddr>>,
}

/// The address that stands for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// The address.
    pub address: IpAddr,
    /// The namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub service: String,
}

impl Sides<'_, '_> {
    /// Adds the binds that take captured connections.
    pub(super) fn add_captured(&mut self, binds: &mut BTreeMap<SocketAddr, Bind>) {
        let Some(captured) = &self.station.captured else {
            return;
        };
        let mut listeners = Vec::new();
        let mut destinations = Destinations::default();
        destinations.captured = true;
        for VirtualService { address, namespace, service } in &captured.services {
            if !self.is_awake(namespace, service) {
                let service = ServiceName { namespace: namespace.as_str().into(), name: service.as_str().into() };
                destinations.asleep.addresses.insert(*address, service);
                continue;
            }
            let ports = self.world.service(namespace, service).map_or(&[][..], |service| &service.spec.ports);
            for port in ports.iter().filter(|port| port.protocol == "TCP") {
                let id = u32::try_from(listeners.len()).unwrap_or(u32::MAX);
                listeners.push(self.outbound_listener(Callee { namespace, name: service, port: port.port }));
                destinations.add_address(SocketAddr::new(*address, port.port), id);
            }
        }
        if let Some(located) = &captured.located {
            self.add_instances(located, &mut listeners, &mut destinations);
        }
        let destinations = Arc::new(destinations);
        for listen in &captured.listen {
            let bind = self.outbound_bind(*listen, listeners.clone(), Hosts::default());
            binds.entry(*listen).or_insert(Bind { destinations: Arc::clone(&destinations), ..bind });
        }
    }
}
