//! Which objects belong together, read from their trees: what an object leads to, and whom it comes along with.
//!
//! Asked by the control plane, which sends together what belongs together, and by a proxy that keeps an older version of an object and
//! needs what that one leads to. Whether a reference is allowed, and what it means, is not asked here.

use serde_json::Value as Json;

use crate::load::DEFAULT_NAMESPACE;

/// The label with which an EndpointSlice names its Service.
pub const SLICE_LABEL: &str = "kubernetes.io/service-name";

/// The object that a reference names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Named {
    /// The API group; empty for core kinds.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Named {
    fn new(group: &str, kind: &str, namespace: &str, name: &Json) -> Option<Named> {
        let name = name.as_str().filter(|name| !name.is_empty())?;
        Some(Named { group: group.into(), kind: kind.into(), namespace: namespace.into(), name: name.into() })
    }
}

/// Whom an object comes along with: the Services that it is an endpoint of, a route's parents, a policy's targets.
pub fn joins(object: &Json) -> Vec<Named> {
    let namespace = namespace_of(object);
    let own = |group: &str, kind: &str, name: &Json| Named::new(group, kind, namespace, name);
    let mut found = Vec::new();
    match object["kind"].as_str() {
        Some("EndpointSlice") => found.extend(own("", "Service", &object["metadata"]["labels"][SLICE_LABEL])),
        Some("Workload") => {
            found.extend(list(&object["spec"]["services"]).iter().filter_map(|name| own("", "Service", name)));
        }
        _ => {}
    }
    for parent in list(&object["spec"]["parentRefs"]) {
        let group = parent["group"].as_str().unwrap_or("gateway.networking.k8s.io");
        let kind = parent["kind"].as_str().unwrap_or("Gateway");
        let namespace = parent["namespace"].as_str().unwrap_or(namespace);
        found.extend(Named::new(group, kind, namespace, &parent["name"]));
    }
    for target in list(&object["spec"]["targetRefs"]) {
        let (group, kind) = (target["group"].as_str().unwrap_or(""), target["kind"].as_str().unwrap_or(""));
        found.extend(own(group, kind, &target["name"]));
    }
    found
}

/// What comes along with an object: what its references lead to, wherever in it they stand. In no order, and maybe repeated.
pub fn brings(object: &Json) -> Vec<Named> {
    let mut found = Vec::new();
    let mut waiting = vec![&object["spec"]];
    while let Some(value) = waiting.pop() {
        match value {
            Json::Array(items) => waiting.extend(items),
            Json::Object(fields) => {
                for (field, inner) in fields {
                    if matches!(field.as_str(), "backendRef" | "backendRefs" | "caCertificateRefs") {
                        let one = std::slice::from_ref(inner);
                        let references = inner.as_array().map_or(one, Vec::as_slice);
                        found.extend(references.iter().filter_map(|to| backend(to, namespace_of(object))));
                    }
                    waiting.push(inner);
                }
            }
            _ => {}
        }
    }
    found
}

/// The namespace of an object.
pub fn namespace_of(object: &Json) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or(DEFAULT_NAMESPACE)
}

fn backend(reference: &Json, namespace: &str) -> Option<Named> {
    let (group, kind) = (reference["group"].as_str().unwrap_or(""), reference["kind"].as_str().unwrap_or("Service"));
    Named::new(group, kind, reference["namespace"].as_str().unwrap_or(namespace), &reference["name"])
}

fn list(value: &Json) -> &[Json] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_wherever_they_stand_and_with_their_defaults() {
        let route = serde_json::json!({
            "kind": "HTTPRoute", "metadata": {"name": "shop", "namespace": "shop"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "cart", "namespace": "till"}, {"name": "web"}],
                "rules": [{
                    "backendRefs": [{"name": "bank"}],
                    "filters": [{"requestMirror": {"backendRef": {"group": "transept.dev", "kind": "Backend", "name": "copy"}}}],
                }],
            },
        });
        let text = |named: Vec<Named>| {
            let mut all: Vec<_> =
                named.iter().map(|one| format!("{} {}/{}", one.kind, one.namespace, one.name)).collect();
            all.sort();
            all
        };
        assert_eq!(text(joins(&route)), ["Gateway shop/web", "Service till/cart"]);
        assert_eq!(text(brings(&route)), ["Backend shop/copy", "Service shop/bank"]);
    }
}
