//! Endpoints that nobody calls, because they have no tunnel and a policy wants one.
//!
//! Asked by `core` when people ask how the mesh is; who calls decides it again for itself (`compile_station`, `compile`), by the same rules. Of
//! the files only what matters here is kept: policies that may say so, the Services and Namespaces that they are on, and the endpoints of those.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use transept_engine::compile::find_left_out;
use transept_engine::policies::{self, MODEL_KINDS, Phase};
use transept_model::SourceText;
use transept_model::attach::{Surroundings, attach};
use transept_model::company::{SLICE_LABEL, namespace_of};
use transept_model::load::{Broken, Loader};

use super::registry::Name;
use super::source::name_of_object;

/// The part of the files that says who may be called.
#[derive(Debug, Clone, Default)]
pub(super) struct Strict {
    services: BTreeSet<Name>,
    /// Namespaces that a policy is on, with every Service in them.
    namespaces: BTreeSet<String>,
    texts: Vec<SourceText>,
}

impl Strict {
    /// Finds it among objects.
    pub(super) fn of(objects: &[Value]) -> Self {
        let mut strict = Self::default();
        for object in objects {
            let kind = object["kind"].as_str().and_then(policies::kind);
            if kind.is_none_or(|kind| kind.phase != Phase::Settle) {
                continue;
            }
            let services: BTreeSet<Name> = targets(object, "Service").collect();
            let namespaces: BTreeSet<String> = targets(object, "Namespace").map(|(_, name)| name).collect();
            if !services.is_empty() || !namespaces.is_empty() {
                strict.services.extend(services);
                strict.namespaces.extend(namespaces);
                strict.add(object);
            }
        }
        for object in objects {
            let is_theirs = match object["kind"].as_str() {
                Some("Service") => name_of_object(object).is_some_and(|name| strict.has_service(&name)),
                Some("EndpointSlice") => strict.is_of(object, &object["metadata"]["labels"][SLICE_LABEL]),
                Some("Workload") => strict.has_workload(object),
                _ => false,
            };
            if is_theirs {
                strict.add(object);
            }
        }
        strict
    }

    /// Every port of a Service of which endpoints are left out; `registered` are the objects of registrations.
    pub(super) fn show(&self, registered: &[Value]) -> Vec<Value> {
        if self.texts.is_empty() {
            return Vec::new();
        }
        let mut texts = self.texts.clone();
        let known: BTreeSet<String> = texts.iter().map(|text| text.name.to_string()).collect();
        let theirs = registered.iter().filter(|object| match object["kind"].as_str() {
            Some("Service") => name_of_object(object).is_some_and(|name| self.has_service(&name)),
            _ => self.has_workload(object),
        });
        texts.extend(theirs.map(text_of).filter(|text| !known.contains(&*text.name)));
        let world = Loader::new(MODEL_KINDS).broken_policies(Broken::Kept).load(&texts).world;
        let show = |one: transept_engine::compile::LeftOut| {
            json!({
                "service": format!("{}/{}", one.namespace, one.service),
                "port": one.port,
                "policy": one.policy,
                "endpoints": one.endpoints,
                "called": one.called,
            })
        };
        find_left_out(&world, &attach(&world, &Surroundings::default())).into_iter().map(show).collect()
    }

    fn add(&mut self, object: &Value) {
        self.texts.push(text_of(object));
    }

    fn has_workload(&self, object: &Value) -> bool {
        object["kind"] == "Workload"
            && object["spec"]["services"].as_array().into_iter().flatten().any(|name| self.is_of(object, name))
    }

    fn is_of(&self, object: &Value, service: &Value) -> bool {
        let name = |service: &str| (namespace_of(object).to_owned(), service.to_owned());
        service.as_str().is_some_and(|service| self.has_service(&name(service)))
    }

    fn has_service(&self, name: &Name) -> bool {
        self.services.contains(name) || self.namespaces.contains(&name.0)
    }
}

/// The objects of a kind that a policy is on.
fn targets(policy: &Value, kind: &str) -> impl Iterator<Item = Name> {
    let all = policy["spec"]["targetRefs"].as_array().into_iter().flatten();
    let named = all.filter(move |target| target["kind"] == kind);
    named.filter_map(|target| Some((namespace_of(policy).to_owned(), target["name"].as_str()?.to_owned())))
}

/// Named by the object, so that a registration does not repeat what a file says.
fn text_of(object: &Value) -> SourceText {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let kind = object["kind"].as_str().unwrap_or_default();
    SourceText::new(format!("{kind} {}/{name}", namespace_of(object)), object.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outside::Shelf;
    use crate::plane::source::objects;

    const FILES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: bank}, spec: {ports: [{port: 80, targetPort: 8080}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.0.7]}]
---
apiVersion: transept.dev/v1alpha1
kind: MeshPolicy
metadata: {name: cart}
spec: {targetRefs: [{group: '', kind: Service, name: cart}]}
";

    #[test]
    fn an_endpoint_is_told_of_until_it_has_registered() {
        let objects = |text: &str| objects(&[SourceText::new("test.yaml", text)], &Shelf::default());
        let strict = Strict::of(&objects(FILES));
        assert_eq!(strict.texts.len(), 3, "what has nothing to do with the policy is not kept");
        let shown = strict.show(&[]);
        let expected = json!([{
            "service": "default/cart", "port": 80, "policy": "MeshPolicy default/cart", "endpoints": ["10.0.0.7:8080"], "called": 0,
        }]);
        assert_eq!(json!(shown), expected);
        let member = "{apiVersion: transept.dev/v1alpha1, kind: Workload, metadata: {name: cart-1}, spec: {services: [cart], address: \
                      10.0.0.7, ports: [{port: 80, targetPort: 8080}], tunnel: {}}}";
        assert_eq!(strict.show(&objects(member)), [json!(null); 0]);
        let everywhere = FILES.replace("kind: Service, name: cart}]}", "kind: Namespace, name: default}]}");
        let everywhere = Strict::of(&objects(&everywhere));
        assert_eq!(everywhere.texts.len(), 4, "both Services are in the namespace");
        assert_eq!(json!(everywhere.show(&[])), expected);
        let open = Strict::of(&objects(&FILES.replace("name: cart}]}", "name: cart}], mode: Permissive}")));
        assert_eq!(open.show(&[]), [json!(null); 0]);
    }
}
