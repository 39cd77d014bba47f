//! What kinds there are and what they look like: for JSON Schema, the reference pages and completion.
//!
//! Read by the command line and by whoever writes documentation. Everything in it comes from the types themselves.

use serde_json::{Value as Json, json};

use crate::kinds::backend_tls_policy::PolicyTargetReference;
use crate::kinds::{
    ApiKeySpec, BackendSpec, BackendTlsPolicySpec, Body, ConfigMapBody, ConsumerSpec, EndpointSliceBody,
    GatewayClassSpec, GatewaySpec, GrpcRouteSpec, HttpRouteSpec, Kind, NamespaceBody, ReferenceGrantSpec, Scope,
    SecretBody, ServiceSpec, TRANSEPT_GROUP, TcpRouteSpec, WorkloadSpec,
};
use crate::policy::{Merge, PolicyKind, TARGET_RULES, Target};
use crate::schema::{FieldShape, Schema, Shape};

/// A kind, described.
#[derive(Clone, Debug)]
pub struct KindDescription {
    /// Its name.
    pub kind: &'static str,
    /// Its group; empty for the core group.
    pub group: &'static str,
    /// Its versions, the preferred one first.
    pub versions: &'static [&'static str],
    /// What it is for.
    pub about: String,
    /// Where its contents stand.
    pub body: Body,
    /// Whether it lives in namespaces.
    pub scope: Scope,
    /// What it can be attached to, when it is a policy.
    pub targets: &'static [Target],
    /// How it merges, when it is a policy.
    pub merge: Option<Merge>,
    /// Its contents.
    pub shape: Shape,
}

impl KindDescription {
    fn of<K: Kind>() -> Self {
        Self {
            kind: K::KIND,
            group: K::GROUP,
            versions: K::VERSIONS,
            about: K::ABOUT.to_owned(),
            body: K::BODY,
            scope: K::SCOPE,
            targets: &[],
            merge: None,
            shape: K::shape(),
        }
    }

    fn of_policy(policy: &PolicyKind) -> Self {
        let mut shape = (policy.shape)();
        if let Shape::Object(object) = &mut shape {
            let targets = FieldShape {
                name: "targetRefs",
                doc: "What the policy is attached to, in its own namespace.",
                shape: <Vec<PolicyTargetReference>>::shape(),
                required: true,
                default: None,
                rules: TARGET_RULES,
            };
            object.fields.insert(0, targets);
        }
        Self {
            kind: policy.kind,
            group: TRANSEPT_GROUP,
            versions: &["v1alpha1"],
            about: policy.about.to_owned(),
            body: Body::Spec,
            scope: Scope::Namespaced,
            targets: policy.targets,
            merge: Some(policy.merge),
            shape,
        }
    }

    /// The values that `apiVersion` may have, the preferred one first.
    pub fn api_versions(&self) -> Vec<String> {
        let full = |version: &&str| match self.group {
            "" => (*version).to_owned(),
            group => format!("{group}/{version}"),
        };
        self.versions.iter().map(full).collect()
    }

    /// JSON Schema of a whole object of this kind.
    pub fn json_schema(&self) -> Json {
        let contents = self.shape.to_json_schema(&[]);
        let mut properties = json!({
            "apiVersion": {"enum": self.api_versions()},
            "kind": {"const": self.kind},
            "metadata": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 253},
                    "namespace": {"type": "string", "minLength": 1, "maxLength": 63},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
                },
                "required": ["name"],
            },
            "status": {},
        });
        let mut required = vec![json!("apiVersion"), json!("kind"), json!("metadata")];
        match self.body {
            Body::Spec => {
                properties["spec"] = contents;
                required.push(json!("spec"));
            }
            Body::Inline => {
                if let Some(fields) = contents["properties"].as_object() {
                    for (name, schema) in fields {
                        properties[name.as_str()] = schema.clone();
                    }
                }
                let needed = contents["required"].as_array();
                required.extend(needed.into_iter().flatten().cloned());
            }
        }
        json!({
            "title": self.kind,
            "description": self.about,
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    }
}

/// Every kind that is served, with `policies` at the end.
pub fn catalogue(policies: &[PolicyKind]) -> Vec<KindDescription> {
    let mut kinds = vec![
        KindDescription::of::<GatewaySpec>(),
        KindDescription::of::<HttpRouteSpec>(),
        KindDescription::of::<GrpcRouteSpec>(),
        KindDescription::of::<TcpRouteSpec>(),
        KindDescription::of::<BackendSpec>(),
        KindDescription::of::<WorkloadSpec>(),
        KindDescription::of::<ConsumerSpec>(),
        KindDescription::of::<ApiKeySpec>(),
        KindDescription::of::<BackendTlsPolicySpec>(),
        KindDescription::of::<ReferenceGrantSpec>(),
        KindDescription::of::<GatewayClassSpec>(),
        KindDescription::of::<ServiceSpec>(),
        KindDescription::of::<EndpointSliceBody>(),
        KindDescription::of::<SecretBody>(),
        KindDescription::of::<ConfigMapBody>(),
        KindDescription::of::<NamespaceBody>(),
    ];
    kinds.extend(policies.iter().map(KindDescription::of_policy));
    kinds
}

/// One JSON Schema (draft 2020-12) for every document that a file may hold. Editors use it by kind.
pub fn json_schema(policies: &[PolicyKind]) -> Json {
    let kinds = catalogue(policies);
    let names: Vec<&str> = kinds.iter().map(|kind| kind.kind).collect();
    // `if/then` by kind gives an editor the errors of the one kind that is meant; `oneOf` gives those of all.
    let rules: Vec<Json> = kinds
        .iter()
        .map(|kind| {
            json!({
                "if": {
                    "properties": {"kind": {"const": kind.kind}, "apiVersion": {"enum": kind.api_versions()}},
                    "required": ["kind", "apiVersion"],
                },
                "then": {"$ref": format!("#/$defs/{}", kind.kind)},
            })
        })
        .collect();
    let definitions: serde_json::Map<String, Json> =
        kinds.iter().map(|kind| (kind.kind.to_owned(), kind.json_schema())).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Transept configuration",
        "type": "object",
        "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string", "examples": names}},
        "required": ["apiVersion", "kind"],
        "allOf": rules,
        "$defs": definitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::ObjectShape;

    /// Every object and union inside a shape, with the path that leads there.
    fn walk(shape: &Shape, path: &str, seen: &mut Vec<(String, ObjectShape)>) {
        match shape {
            Shape::List(inner) | Shape::Map(inner) => walk(inner, &format!("{path}[]"), seen),
            Shape::Object(object) => {
                seen.push((path.to_owned(), object.clone()));
                for field in &object.fields {
                    walk(&field.shape, &format!("{path}.{}", field.name), seen);
                }
            }
            Shape::Union(union) => {
                for variant in &union.variants {
                    walk(&variant.shape, &format!("{path}.{}", variant.field), seen);
                }
            }
            _ => {}
        }
    }

    fn default_of(kind: &str, field: &str) -> Option<Json> {
        let kinds = catalogue(&[]);
        let kind = kinds.iter().find(|one| one.kind == kind)?;
        let mut objects = Vec::new();
        walk(&kind.shape, "", &mut objects);
        objects.into_iter().find_map(|(path, object)| {
            object.fields.into_iter().find(|one| format!("{path}.{}", one.name) == field)?.default
        })
    }

    #[test]
    fn everything_is_documented() {
        for kind in catalogue(&[]) {
            assert!(kind.about.ends_with('.'), "{}", kind.kind);
            let mut objects = Vec::new();
            walk(&kind.shape, kind.kind, &mut objects);
            for (path, object) in objects {
                assert!(!object.doc.trim().is_empty(), "{path}");
                for field in &object.fields {
                    assert!(field.doc.trim().ends_with('.'), "{path}.{}", field.name);
                    assert!(!field.name.contains('_'), "{path}.{}", field.name);
                }
            }
        }
    }

    #[test]
    fn defaults_are_those_of_the_crds() {
        let expected = [
            ("HTTPRoute", ".parentRefs[].group", json!("gateway.networking.k8s.io")),
            ("HTTPRoute", ".parentRefs[].kind", json!("Gateway")),
            ("HTTPRoute", ".rules[].matches[].path.type", json!("PathPrefix")),
            ("HTTPRoute", ".rules[].matches[].path.value", json!("/")),
            ("HTTPRoute", ".rules[].matches[].headers[].type", json!("Exact")),
            ("HTTPRoute", ".rules[].matches[].queryParams[].type", json!("Exact")),
            ("HTTPRoute", ".rules[].backendRefs[].group", json!("")),
            ("HTTPRoute", ".rules[].backendRefs[].kind", json!("Service")),
            ("HTTPRoute", ".rules[].backendRefs[].weight", json!(1)),
            ("HTTPRoute", ".rules[].filters[].requestRedirect.statusCode", json!(302)),
            ("HTTPRoute", ".rules[].filters[].cors.maxAge", json!(5)),
            ("HTTPRoute", ".rules[].filters[].requestMirror.fraction.denominator", json!(100)),
            ("HTTPRoute", ".rules[].sessionPersistence.type", json!("Cookie")),
            ("GRPCRoute", ".rules[].matches[].method.type", json!("Exact")),
            ("GRPCRoute", ".rules[].backendRefs[].weight", json!(1)),
            ("TCPRoute", ".parentRefs[].kind", json!("Gateway")),
            ("TCPRoute", ".rules[].backendRefs[].weight", json!(1)),
            ("Gateway", ".addresses[].type", json!("IPAddress")),
            ("Gateway", ".allowedListeners.namespaces.from", json!("None")),
            ("Gateway", ".listeners[].allowedRoutes.namespaces.from", json!("Same")),
            ("Gateway", ".listeners[].allowedRoutes.kinds[].group", json!("gateway.networking.k8s.io")),
            ("Gateway", ".listeners[].tls.mode", json!("Terminate")),
            ("Gateway", ".listeners[].tls.certificateRefs[].kind", json!("Secret")),
            ("Gateway", ".tls.frontend.default.validation.mode", json!("AllowValidOnly")),
        ];
        for (kind, field, default) in expected {
            assert_eq!(default_of(kind, field), Some(default), "{kind} {field}");
        }
    }

    #[test]
    fn the_json_schema_names_every_kind_and_is_closed() {
        let schema = json_schema(&[]);
        let kinds = schema["$defs"].as_object().unwrap();
        assert_eq!(kinds.len(), catalogue(&[]).len());
        let route = &kinds["HTTPRoute"];
        assert_eq!(route["additionalProperties"], json!(false));
        let spec = &route["properties"]["spec"];
        assert_eq!(spec["properties"]["hostnames"]["maxItems"], json!(16));
        assert_eq!(spec["properties"]["hostnames"]["items"]["maxLength"], json!(253));
        let filters = &spec["properties"]["rules"]["items"]["properties"]["filters"];
        assert_eq!(filters["items"]["oneOf"].as_array().unwrap().len(), 8);
        assert_eq!(kinds["Backend"]["properties"]["spec"]["required"], json!(["endpoints"]));
        assert_eq!(kinds["EndpointSlice"]["properties"]["addressType"]["enum"][0], json!("IPv4"));
    }
}
