//! Which Services an address belongs to, as the EndpointSlices of the files say.
//!
//! Read by `core` with the files, asked by `registry` for each instance: a workload registers for one Service, and an operator may
//! have put its address into others. Nobody can register himself into those.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;
use transept_model::company::SLICE_LABEL;
use transept_model::load::DEFAULT_NAMESPACE;
use transept_xds::mesh::Workload;

/// The Services by namespace and address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members(BTreeMap<String, BTreeMap<IpAddr, Services>>);

/// Services by the ports that their slices name; no port is every port.
type Services = BTreeMap<Option<u16>, BTreeSet<String>>;

impl Members {
    /// Those of the EndpointSlices among objects.
    pub fn of(objects: &[Value]) -> Members {
        let mut members = Members::default();
        for slice in objects.iter().filter(|object| object["kind"] == "EndpointSlice") {
            let namespace = slice["metadata"]["namespace"].as_str().unwrap_or(DEFAULT_NAMESPACE);
            let Some(service) = slice["metadata"]["labels"][SLICE_LABEL].as_str() else {
                continue;
            };
            let ports: Vec<Option<u16>> = items(&slice["ports"]).iter().map(port_of).collect();
            // The first address of an endpoint counts, as for those who call it.
            let addresses = items(&slice["endpoints"]).iter().filter_map(|one| one["addresses"][0].as_str());
            for address in addresses.filter_map(|text| text.parse::<IpAddr>().ok()) {
                let here =
                    members.0.entry(namespace.to_owned()).or_default().entry(address.to_canonical()).or_default();
                for port in &ports {
                    here.entry(*port).or_default().insert(service.to_owned());
                }
            }
        }
        members
    }

    /// Adds those of other objects.
    pub fn add(&mut self, other: &Members) {
        for (namespace, addresses) in &other.0 {
            let own = self.0.entry(namespace.clone()).or_default();
            for (address, ports) in addresses {
                let here = own.entry(*address).or_default();
                for (port, services) in ports {
                    here.entry(*port).or_default().extend(services.iter().cloned());
                }
            }
        }
    }

    /// All Services that have slices, by namespace and name; one may come several times.
    pub fn services(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(namespace, addresses)| {
            let services = addresses.values().flat_map(BTreeMap::values).flatten();
            services.map(|service| (namespace.as_str(), service.as_str()))
        })
    }

    /// The Services that have one of the workload's ports at its address, in order.
    pub fn services_of(&self, workload: &Workload) -> impl Iterator<Item = &str> {
        let here = self.0.get(&workload.namespace).filter(|addresses| !addresses.is_empty());
        let here = here.and_then(|addresses| addresses.get(&workload.address.parse::<IpAddr>().ok()?.to_canonical()));
        let ports = workload.ports.iter().filter_map(|port| u16::try_from(target_of(port)).ok());
        let ports = ports.map(Some).chain([None]);
        let services = here.into_iter().flat_map(|here| ports.clone().filter_map(|port| here.get(&port)).flatten());
        // Several ports may be of one Service.
        services.map(String::as_str).collect::<BTreeSet<&str>>().into_iter()
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn port_of(port: &Value) -> Option<u16> {
    port["port"].as_u64().and_then(|port| u16::try_from(port).ok())
}

/// The port of the program; 0 means the same as that of the Service.
pub(super) fn target_of(port: &transept_xds::mesh::Port) -> u32 {
    if port.target_port == 0 { port.port } else { port.target_port }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use transept_xds::mesh::Port;

    use super::*;

    fn slice(service: &str, address: &str, ports: Value) -> Value {
        json!({
            "kind": "EndpointSlice",
            "metadata": {"name": format!("{service}-1"), "namespace": "shop", "labels": {SLICE_LABEL: service}},
            "ports": ports,
            "endpoints": [{"addresses": [address]}, {"addresses": []}],
        })
    }

    fn workload(namespace: &str, address: &str) -> Workload {
        Workload {
            namespace: namespace.to_owned(),
            address: address.to_owned(),
            ports: vec![Port { port: 80, target_port: 8080, ..Port::default() }],
            ..Workload::default()
        }
    }

    #[test]
    fn an_address_and_a_port_belong_to_the_services_whose_slices_name_them() {
        let members = Members::of(&[
            slice("all", "10.0.0.7", json!([{"name": "http", "port": 8080}])),
            slice("any", "10.0.0.7", json!([{}])),
            slice("other-port", "10.0.0.7", json!([{"port": 9090}])),
            slice("other-address", "10.0.0.8", json!([{"port": 8080}])),
            slice("nameless", "cart.example", json!([{"port": 8080}])),
        ]);
        let of = |workload: &Workload| members.services_of(workload).map(str::to_owned).collect::<Vec<_>>();
        let mut together = Members::of(&[slice("late", "10.0.0.7", json!([{"port": 8080}]))]);
        together.add(&members);
        let here = workload("shop", "10.0.0.7");
        let all: Vec<&str> = together.services_of(&here).collect();
        assert_eq!(all, ["all", "any", "late"], "those of two texts");
        assert_eq!(of(&workload("shop", "10.0.0.7")), ["all", "any"]);
        assert_eq!(of(&workload("else", "10.0.0.7")), [""; 0]);
        assert_eq!(of(&workload("shop", "10.0.0.9")), [""; 0]);
    }
}
