//! The status as JSON, field by field what Kubernetes would store.
//!
//! Called by whoever prints or serves a status. It leaves `lastTransitionTime` out, which only a store of earlier statuses
//! can know.

use serde_json::{Map, Value, json};

use super::{Conditions, GatewayStatus, ListenerStatus, ObjectStatus, Status, StatusBody, StatusRef};
use crate::kinds::CONTROLLER_NAME;
use crate::place::ObjectName;

impl Status {
    /// A list of `{apiVersion, kind, metadata: {name, namespace, generation}, status}`, in the order of kind, namespace and
    /// name.
    pub fn to_json(&self) -> Value {
        self.iter().map(|(name, object)| object.to_json(name)).collect()
    }
}

impl ObjectStatus {
    /// The object with nothing but its names and its status.
    pub fn to_json(&self, name: &ObjectName) -> Value {
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), name.name.as_str().into());
        if !name.namespace.is_empty() {
            metadata.insert("namespace".to_owned(), name.namespace.as_str().into());
        }
        metadata.insert("generation".to_owned(), self.generation.into());
        json!({
            "apiVersion": self.api_version,
            "kind": name.kind.as_str(),
            "metadata": metadata,
            "status": self.body.to_json(),
        })
    }
}

impl StatusBody {
    /// The content of `status`.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Class(class) => json!({
                "conditions": class.conditions.to_json(),
                "supportedFeatures": class
                    .supported_features
                    .iter()
                    .map(|name| json!({ "name": name }))
                    .collect::<Value>(),
            }),
            Self::Gateway(gateway) => gateway.to_json(),
            Self::Plain(conditions) => json!({ "conditions": conditions.to_json() }),
            Self::Route(route) => {
                let parents = route.parents.iter().map(|parent| {
                    json!({
                        "parentRef": parent.parent_ref.to_json(),
                        "controllerName": CONTROLLER_NAME,
                        "conditions": parent.conditions.to_json(),
                    })
                });
                json!({ "parents": parents.collect::<Value>() })
            }
            Self::Policy(policy) => {
                let ancestors = policy.ancestors.iter().map(|ancestor| {
                    json!({
                        "ancestorRef": ancestor.ancestor_ref.to_json(),
                        "controllerName": CONTROLLER_NAME,
                        "conditions": ancestor.conditions.to_json(),
                    })
                });
                json!({ "ancestors": ancestors.collect::<Value>() })
            }
        }
    }
}

impl GatewayStatus {
    fn to_json(&self) -> Value {
        let addresses = self.addresses.iter().map(|address| json!({ "type": address.kind, "value": address.value }));
        json!({
            "addresses": addresses.collect::<Value>(),
            "conditions": self.conditions.to_json(),
            "listeners": self.listeners.iter().map(ListenerStatus::to_json).collect::<Value>(),
        })
    }
}

impl ListenerStatus {
    fn to_json(&self) -> Value {
        let kinds =
            self.supported_kinds.iter().map(|kind| json!({ "group": "gateway.networking.k8s.io", "kind": kind }));
        json!({
            "name": self.name,
            "supportedKinds": kinds.collect::<Value>(),
            "attachedRoutes": self.attached_routes,
            "conditions": self.conditions.to_json(),
        })
    }
}

impl StatusRef {
    fn to_json(&self) -> Value {
        let mut out = Map::new();
        out.insert("group".to_owned(), self.group.as_str().into());
        out.insert("kind".to_owned(), self.kind.as_str().into());
        if let Some(namespace) = &self.namespace {
            out.insert("namespace".to_owned(), namespace.as_str().into());
        }
        out.insert("name".to_owned(), self.name.as_str().into());
        if let Some(section) = &self.section_name {
            out.insert("sectionName".to_owned(), section.as_str().into());
        }
        if let Some(port) = self.port {
            out.insert("port".to_owned(), port.into());
        }
        Value::Object(out)
    }
}

impl Conditions {
    fn to_json(&self) -> Value {
        self.iter()
            .map(|condition| {
                json!({
                    "type": condition.kind,
                    "status": condition.status.as_str(),
                    "reason": condition.reason,
                    "message": condition.message.as_str(),
                    "observedGeneration": condition.observed_generation,
                })
            })
            .collect()
    }
}
