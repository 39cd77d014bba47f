//! Our own kinds as CustomResourceDefinitions, for a cluster that is to hold them.
//!
//! Called by the command line. Everything in them comes from the types: the schema, what is required, the defaults. Kinds of
//! Gateway API and of Kubernetes itself have definitions of their own, which are not ours to write.

use serde_json::{Value as Json, json};

use crate::catalogue::KindDescription;
use crate::kinds::{Body, Scope, TRANSEPT_GROUP};
use crate::policy::Merge;
use crate::schema::Shape;

/// The label by which Gateway API tells policies and how they attach (GEP-713).
const POLICY_LABEL: &str = "gateway.networking.k8s.io/policy";
/// `kubectl get transept` lists them all.
const CATEGORY: &str = "transept";

/// The definition of a kind; none when it is not one of ours.
pub fn definition(kind: &KindDescription) -> Option<Json> {
    if kind.group != TRANSEPT_GROUP {
        return None;
    }
    let singular = kind.kind.to_ascii_lowercase();
    let plural = pluralize(&singular);
    let mut metadata = json!({"name": format!("{plural}.{TRANSEPT_GROUP}")});
    if let Some(merge) = kind.merge {
        let attaches = match merge {
            Merge::None => "Direct",
            _ => "Inherited",
        };
        metadata["labels"] = json!({POLICY_LABEL: attaches});
    }
    let versions: Vec<Json> = kind
        .versions
        .iter()
        .enumerate()
        .map(|(index, version)| {
            json!({
                "name": version,
                "served": true,
                // The preferred version comes first, and one is stored.
                "storage": index == 0,
                "schema": {"openAPIV3Schema": schema(kind)},
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns(kind),
            })
        })
        .collect();
    Some(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": TRANSEPT_GROUP,
            "names": {
                "kind": kind.kind,
                "listKind": format!("{}List", kind.kind),
                "plural": plural,
                "singular": singular,
                "categories": [CATEGORY],
            },
            "scope": match kind.scope {
                Scope::Cluster => "Cluster",
                Scope::Namespaced => "Namespaced",
            },
            "versions": versions,
        },
    }))
}

fn pluralize(word: &str) -> String {
    match word.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ if word.ends_with('s') => format!("{word}es"),
        _ => format!("{word}s"),
    }
}

/// The schema of a whole object. `apiVersion`, `kind` and `metadata` are the API server's own business.
fn schema(kind: &KindDescription) -> Json {
    let contents = kind.shape.to_structural_schema(&[]);
    let mut schema = json!({
        "type": "object",
        "description": kind.about,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "status": status(kind),
        },
    });
    match kind.body {
        Body::Spec => {
            schema["properties"]["spec"] = contents;
            schema["required"] = json!(["spec"]);
        }
        Body::Inline => {
            for (name, field) in contents["properties"].as_object().into_iter().flatten() {
                schema["properties"][name.as_str()] = field.clone();
            }
            if !contents["required"].is_null() {
                schema["required"] = contents["required"].clone();
            }
        }
    }
    schema
}

/// What the controller writes: per ancestor for a policy (GEP-713), once for anything else.
fn status(kind: &KindDescription) -> Json {
    if kind.merge.is_none() {
        let about = "What became of the object.";
        return json!({"type": "object", "description": about, "properties": {"conditions": conditions()}});
    }
    let text = |most: u16| json!({"type": "string", "maxLength": most});
    let reference = json!({
        "type": "object",
        "description": "The Gateway or other object that the policy takes effect through.",
        "properties": {
            "group": text(253),
            "kind": text(63),
            "namespace": text(63),
            "name": text(253),
            "sectionName": text(253),
            "port": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535},
        },
        "required": ["name"],
    });
    json!({
        "type": "object",
        "description": "What became of the policy.",
        "properties": {
            "ancestors": {
                "type": "array",
                "description": "What became of it under each object that it takes effect through.",
                "maxItems": 16,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "properties": {
                        "ancestorRef": reference,
                        "controllerName": text(253),
                        "conditions": conditions(),
                    },
                    "required": ["ancestorRef", "controllerName"],
                },
            },
        },
    })
}

/// A list of conditions, as every Kubernetes object has them (`metav1.Condition`).
fn conditions() -> Json {
    json!({
        "type": "array",
        "description": "What holds, one by one.",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "properties": {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                "message": {"type": "string", "maxLength": 32768},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
            },
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        },
    })
}

/// What `kubectl get` shows.
fn columns(kind: &KindDescription) -> Vec<Json> {
    let text = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    let mut columns = Vec::new();
    if kind.merge.is_some() {
        columns.push(text("Target", ".spec.targetRefs[0].kind"));
        columns.push(text("Name", ".spec.targetRefs[0].name"));
        columns.push(text("Accepted", ".status.ancestors[0].conditions[?(@.type==\"Accepted\")].status"));
    } else if has_protocol(kind) {
        columns.push(text("Protocol", ".spec.protocol"));
    }
    columns.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    columns
}

/// Whether objects of a kind speak a protocol.
fn has_protocol(kind: &KindDescription) -> bool {
    match &kind.shape {
        Shape::Object(object) => object.fields.iter().any(|field| field.name == "protocol"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::catalogue;

    #[test]
    fn only_our_own_kinds_are_defined() {
        let names: Vec<String> = catalogue(&[])
            .iter()
            .filter_map(definition)
            .map(|one| one["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(
            names,
            ["backends.transept.dev", "workloads.transept.dev", "consumers.transept.dev", "apikeys.transept.dev"]
        );
    }

    #[test]
    fn a_definition_says_what_an_api_server_asks_for() {
        let kinds = catalogue(&[]);
        let backend = kinds.iter().find_map(definition).unwrap();
        let spec = &backend["spec"];
        assert_eq!(spec["names"]["listKind"], "BackendList");
        assert_eq!(spec["scope"], "Namespaced");
        let version = &spec["versions"][0];
        assert_eq!((&version["served"], &version["storage"]), (&json!(true), &json!(true)));
        let schema = &version["schema"]["openAPIV3Schema"];
        assert_eq!(schema["properties"]["spec"]["required"], json!(["endpoints"]));
        let endpoint = &schema["properties"]["spec"]["properties"]["endpoints"]["items"];
        assert_eq!(endpoint["properties"]["weight"]["default"], 1);
        assert_eq!(version["additionalPrinterColumns"][0]["jsonPath"], ".spec.protocol");
    }

    #[test]
    fn words_have_their_plural() {
        assert_eq!(pluralize("headerpolicy"), "headerpolicies");
        assert_eq!(pluralize("backend"), "backends");
        assert_eq!(pluralize("bus"), "buses");
    }
}
