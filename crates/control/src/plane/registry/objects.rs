//! The objects that stand for registrations: a `Workload` for each, and `Service`s that no file has.
//!
//! Made by `registry`, and shown by the API.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use transept_engine::learned::Known;
use transept_model::kinds::workload::LEARNED;
use transept_xds::mesh::{Condition, Port, Workload};

use super::super::members::Members;
use super::Entry;

/// The most Services of a `Workload` object.
pub(super) const MOST_SERVICES: usize = 16;

/// Adds to the Services of a Workload those that have its address in their slices, as many as an object may have.
pub(super) fn join(object: &mut Value, workload: &Workload, members: &Members) {
    let Some(services) = object["spec"]["services"].as_array_mut() else {
        return;
    };
    let others = members.services_of(workload).filter(|service| !workload.services.iter().any(|own| own == service));
    services.extend(others.map(Value::from));
    services.truncate(MOST_SERVICES);
}

/// The object of the kind `Workload` that stands for a registration.
pub(in crate::plane) fn workload_object(entry: &Entry) -> Value {
    let workload = &entry.workload;
    let health = match workload.condition() {
        _ if entry.lapsed => Condition::Unhealthy,
        said => said,
    };
    let mut spec = json!({
        "services": workload.services,
        "serviceAccount": workload.service_account,
        "trustDomain": entry.identity.trim_start_matches("spiffe://").split('/').next().unwrap_or_default(),
        "address": workload.address,
        "ports": workload.ports.iter().map(|port| port_object(port, PortOf::Workload)).collect::<Vec<_>>(),
        "weight": workload.weight.max(1),
        "health": health.as_str(),
    });
    if workload.tunnel_port != 0 {
        spec["tunnel"] = json!({"protocol": "HBONE", "port": workload.tunnel_port});
    }
    for (field, value) in [("zone", &workload.zone), ("region", &workload.region)] {
        if !value.is_empty() {
            spec[field] = value.as_str().into();
        }
    }
    let mut metadata = json!({"name": workload.name, "namespace": workload.namespace});
    let learned = learned(workload);
    if !learned.is_empty() {
        let words: Vec<String> = learned.iter().map(|(port, word)| format!("{port}={word}")).collect();
        metadata["annotations"] = json!({LEARNED: words.join(",")});
    }
    json!({"apiVersion": "transept.dev/v1alpha1", "kind": "Workload", "metadata": metadata, "spec": spec})
}

/// What the ports of a workload have been heard to speak whose protocol nobody declared, by the port of the Service. Words that this
/// version does not know are left out.
pub(in crate::plane) fn learned(workload: &Workload) -> BTreeMap<u32, &'static str> {
    let undeclared = workload.ports.iter().filter(|port| port.app_protocol.is_empty());
    undeclared.filter_map(|port| Some((port.port, Known::of_word(&port.learned).as_str()?))).collect()
}

/// The object of the kind `Service` that stands for what its instances say of its ports.
pub(super) fn service_object(namespace: &str, name: &str, ports: &BTreeMap<u32, &Port>) -> Value {
    let several = ports.len() > 1;
    let ports = ports.values().map(|port| {
        let mut object = port_object(port, PortOf::Service);
        // Kubernetes wants a name as soon as there are two.
        if several && port.name.is_empty() {
            object["name"] = format!("port-{}", port.port).into();
        }
        object
    });
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": ports.collect::<Vec<_>>()},
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PortOf {
    Workload,
    Service,
}

fn port_object(port: &Port, of: PortOf) -> Value {
    let mut object = json!({"port": port.port});
    if port.target_port != 0 && of == PortOf::Workload {
        object["targetPort"] = port.target_port.into();
    }
    for (field, value) in [("name", &port.name), ("appProtocol", &port.app_protocol)] {
        if !value.is_empty() {
            object[field] = value.as_str().into();
        }
    }
    object
}
