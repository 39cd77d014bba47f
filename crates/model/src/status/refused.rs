//! What the proxies of a mesh made of objects, told to the status: the condition `Programmed` of an object that some of them refuse.
//!
//! Called by the control plane, which hears it. A proxy that refuses an object serves the version before it, or nothing; others may
//! be fine with it, so the message names those that are not. A refusal is told where the proxy serves the object: at the
//! Gateway that the proxy is, or at the Services whose callers it stands beside.

use std::collections::BTreeMap;

use super::{Condition, Conditions, ObjectStatus, Status, StatusBody, StatusRef, Truth};
use crate::place::ObjectName;

/// Proxies that a message names; of more it says how many there are.
const NAMED: usize = 5;

/// One proxy that refuses an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedBy {
    /// What the proxy is called.
    pub proxy: String,
    /// Namespace and name of the Gateway that it is; none of a sidecar.
    pub gateway: Option<(String, String)>,
    /// What it says is wrong.
    pub why: String,
    /// Whether that is about the object as it is now. If not, the proxy has not answered to that yet.
    pub current: bool,
}

impl RefusedBy {
    /// Whether the proxy serves an object of `namespace` for this parent or ancestor.
    fn serves(&self, reference: &StatusRef, namespace: &str) -> bool {
        let (kind, name) = (&*reference.kind, &*reference.name);
        let namespace = reference.namespace.as_deref().unwrap_or(namespace);
        match &self.gateway {
            Some((own_namespace, own)) => kind == "Gateway" && namespace == own_namespace && name == own,
            None => kind != "Gateway",
        }
    }
}

/// The objects that are refused, by name, each with its `apiVersion` and by whom.
pub type RefusedObjects = BTreeMap<ObjectName, (String, Vec<RefusedBy>)>;

impl Status {
    /// Sets `Programmed` where proxies refuse an object, and where none does although it is accepted and nothing else is said
    /// about it. An object of a kind that has no other status is listed only while it is refused.
    pub fn tell_refused(&mut self, refused: &RefusedObjects) {
        for (name, object) in &mut self.objects {
            let by = refused.get(name).map_or(&[][..], |(_, by)| by);
            object.tell_refused(&name.namespace, by);
        }
        for (name, (api_version, by)) in refused {
            if !self.objects.contains_key(name) {
                let mut conditions = Conditions::default();
                refuse(&mut conditions, by.iter());
                let body = StatusBody::Plain(conditions);
                let status = ObjectStatus { api_version: api_version.clone().into(), generation: 0, body };
                self.objects.insert(name.clone(), status);
            }
        }
    }
}

impl ObjectStatus {
    fn tell_refused(&mut self, namespace: &str, by: &[RefusedBy]) {
        let places: Vec<(Option<StatusRef>, &mut Conditions)> = match &mut self.body {
            StatusBody::Class(class) => vec![(None, &mut class.conditions)],
            StatusBody::Gateway(gateway) => vec![(None, &mut gateway.conditions)],
            StatusBody::Plain(conditions) => vec![(None, conditions)],
            StatusBody::Route(route) => {
                route.parents.iter_mut().map(|one| (Some(one.parent_ref.clone()), &mut one.conditions)).collect()
            }
            StatusBody::Policy(policy) => {
                policy.ancestors.iter_mut().map(|one| (Some(one.ancestor_ref.clone()), &mut one.conditions)).collect()
            }
        };
        let serves = |one: &RefusedBy, place: &Option<StatusRef>| {
            place.as_ref().is_none_or(|reference| one.serves(reference, namespace))
        };
        // Who serves none of them holds the object all the same, and what it says must stand somewhere.
        let stray: Vec<bool> = by.iter().map(|one| !places.iter().any(|(place, _)| serves(one, place))).collect();
        for (place, conditions) in places {
            let here = by.iter().zip(&stray).filter(|(one, stray)| **stray || serves(one, &place));
            let here: Vec<&RefusedBy> = here.map(|(one, _)| one).collect();
            if !here.is_empty() {
                refuse(conditions, here.into_iter());
            } else if place.is_some() && conditions.find("Programmed").is_none() && conditions.holds("Accepted") {
                let message = "No proxy that is connected refuses it.";
                conditions.set(Condition::new("Programmed", Truth::True, "Programmed", message));
            }
        }
    }
}

fn refuse<'r>(conditions: &mut Conditions, by: impl Iterator<Item = &'r RefusedBy> + Clone) {
    let count = by.clone().count();
    let named: Vec<String> = by.clone().take(NAMED).map(|one| format!("{} ({})", one.proxy, one.why)).collect();
    let mut message = format!("Refused by {}", named.join(", "));
    if count > NAMED {
        message.push_str(&format!(" and {} more", count - NAMED));
    }
    message.push_str(". They go on with the version before it, if they have one.");
    let condition = Condition::new("Programmed", Truth::False, "Refused", message);
    let current = by.clone().any(|one| one.current);
    conditions.set(condition);
    if !current {
        // What they refused is what was there before: to this generation they have not answered.
        conditions.back_date("Programmed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{AncestorStatus, ParentStatus, PolicyStatus, RouteStatus};

    fn reference(kind: &str, name: &str) -> StatusRef {
        let group = if kind == "Gateway" { "gateway.networking.k8s.io" } else { "" };
        StatusRef {
            group: group.into(),
            kind: kind.into(),
            namespace: None,
            name: name.into(),
            section_name: None,
            port: None,
        }
    }

    fn accepted(generation: i64) -> Conditions {
        let mut conditions = Conditions::new(generation);
        conditions.set(Condition::new("Accepted", Truth::True, "Accepted", "It is accepted."));
        conditions
    }

    fn name(kind: &str) -> ObjectName {
        ObjectName { kind: kind.into(), namespace: "shop".into(), name: "it".into() }
    }

    fn by(proxy: &str, gateway: Option<&str>) -> RefusedBy {
        let gateway = gateway.map(|name| ("shop".to_owned(), name.to_owned()));
        RefusedBy { proxy: proxy.into(), gateway, why: "unknown field `x`".into(), current: true }
    }

    /// A route of generation 3 at the Gateway `web` and the Service `cart`, and a policy of generation 2 at the same.
    fn status() -> Status {
        let places = [reference("Gateway", "web"), reference("Service", "cart")];
        let parents = places.clone().map(|parent_ref| ParentStatus { parent_ref, conditions: accepted(3) });
        let ancestors = places.map(|ancestor_ref| AncestorStatus { ancestor_ref, conditions: accepted(2) });
        let mut status = Status::default();
        let mut insert = |kind, generation, body| {
            status.insert(name(kind), ObjectStatus { api_version: "v1".into(), generation, body });
        };
        insert("HTTPRoute", 3, StatusBody::Route(RouteStatus { parents: parents.into() }));
        insert("TrafficPolicy", 2, StatusBody::Policy(PolicyStatus { ancestors: ancestors.into() }));
        status
    }

    /// `Programmed` at the Gateway and at the Service, after what these say of objects of this kind.
    fn told(kind: &str, by: Vec<RefusedBy>) -> [Condition; 2] {
        let mut status = status();
        status.tell_refused(&RefusedObjects::from([(name(kind), ("v1".to_owned(), by))]));
        let conditions: Vec<&Conditions> = match &status.find(&name(kind)).expect("a status").body {
            StatusBody::Route(route) => route.parents.iter().map(|one| &one.conditions).collect(),
            StatusBody::Policy(policy) => policy.ancestors.iter().map(|one| &one.conditions).collect(),
            _ => Vec::new(),
        };
        [0, 1].map(|at| conditions[at].find("Programmed").expect("a condition").clone())
    }

    #[test]
    fn a_refusal_stands_where_the_proxy_serves_the_object() {
        for (kind, generation) in [("HTTPRoute", 3), ("TrafficPolicy", 2)] {
            let [gateway, service] = told(kind, vec![by("shop/cart/a", None)]);
            assert_eq!((gateway.status, &*gateway.reason), (Truth::True, "Programmed"), "{kind}");
            assert_eq!((service.status, &*service.reason), (Truth::False, "Refused"), "{kind}");
            assert_eq!(service.observed_generation, generation);
            assert!(service.message.contains("shop/cart/a (unknown field `x`)"), "{}", service.message);
            let [gateway, service] = told(kind, vec![by("shop/web/a", Some("web"))]);
            assert_eq!((gateway.status, service.status), (Truth::False, Truth::True), "{kind}");
        }
    }

    #[test]
    fn a_proxy_that_serves_none_of_the_places_is_told_of_at_all_of_them() {
        let [gateway, service] = told("HTTPRoute", vec![by("shop/other/a", Some("other"))]);
        assert_eq!((gateway.status, service.status), (Truth::False, Truth::False));
    }

    #[test]
    fn what_nobody_refuses_is_programmed_where_it_is_accepted() {
        let mut status = status();
        let route = status.route_mut("HTTPRoute", "shop", "it").expect("a route");
        route.parents[0].conditions.set(Condition::new("Accepted", Truth::False, "NotAllowed", "No."));
        status.tell_refused(&RefusedObjects::new());
        let route = status.route("HTTPRoute", "shop", "it").expect("a route");
        assert_eq!(route.parents[0].conditions.find("Programmed"), None);
        assert!(route.parents[1].conditions.holds("Programmed"));
    }

    #[test]
    fn a_refusal_of_what_was_there_before_is_of_an_older_generation() {
        let older = RefusedBy { current: false, ..by("shop/cart/a", None) };
        let [_, service] = told("HTTPRoute", vec![older]);
        assert_eq!((service.status, service.observed_generation), (Truth::False, 2));
    }

    #[test]
    fn a_kind_without_a_status_has_one_while_it_is_refused_and_many_proxies_are_counted() {
        let mut status = Status::default();
        let all: Vec<RefusedBy> = (0..7).map(|number| by(&format!("shop/cart/{number}"), None)).collect();
        status.tell_refused(&RefusedObjects::from([(name("Service"), ("v1".to_owned(), all))]));
        let json = status.to_json();
        assert_eq!(json[0]["status"]["conditions"][0]["type"], "Programmed");
        let message = json[0]["status"]["conditions"][0]["message"].as_str().expect("text");
        assert!(message.contains("shop/cart/4 (") && message.contains("and 2 more"), "{message}");
    }
}
