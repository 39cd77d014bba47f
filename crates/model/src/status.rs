//! What the world answers to its objects: conditions, listeners, parents and ancestors in Kubernetes' own shape.
//!
//! Filled by `attach`; the engine's compile adds what only it can know (a policy that is invalid or overridden), whoever
//! binds sockets adds what became of them, and a control plane what proxies refuse. Printed by `check`, served by the admin API and written back by sources that
//! have a status. `lastTransitionTime` is left to them, since this crate has no clock.

mod features;
mod json;
mod refused;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub use features::SUPPORTED_FEATURES;
pub use refused::{RefusedBy, RefusedObjects};

use crate::place::ObjectName;
use crate::schema::Text;

/// The value of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody has decided it.
    Unknown,
}

impl Truth {
    /// `True`, `False` or `Unknown`, as Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// One condition of an object, a listener, a parent or an ancestor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The type, for example `Accepted`.
    pub kind: Cow<'static, str>,
    /// Whether it holds.
    pub status: Truth,
    /// The reason in one CamelCase word, from Gateway API where it has one.
    pub reason: Cow<'static, str>,
    /// A sentence: what is the case and, when that is bad, the remedy.
    pub message: Text,
    /// The `metadata.generation` of the object that was judged.
    pub observed_generation: i64,
}

impl Condition {
    /// A condition of generation 0; [`Conditions::set`] stamps the right one.
    pub fn new(
        kind: impl Into<Cow<'static, str>>,
        status: Truth,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<Text>,
    ) -> Self {
        Self { kind: kind.into(), status, reason: reason.into(), message: message.into(), observed_generation: 0 }
    }

    /// Whether it tells of trouble. `Conflicted`, `PartiallyInvalid` and `InsecureFrontendValidationMode` are bad when
    /// true, `Overridden` policies are not trouble, and everything else is bad unless true.
    pub fn is_trouble(&self) -> bool {
        match &*self.kind {
            "Conflicted" | "PartiallyInvalid" | "OverlappingTLSConfig" => self.status == Truth::True,
            "InsecureFrontendValidationMode" => false,
            "Programmed" if self.reason == "Overridden" => false,
            _ => self.status != Truth::True,
        }
    }
}

/// The conditions of one thing: one per type, in the order they were first set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conditions {
    generation: i64,
    list: Vec<Condition>,
}

impl Conditions {
    /// No conditions yet, for an object of this generation.
    pub fn new(generation: i64) -> Self {
        Self { generation, list: Vec::new() }
    }

    /// Adds a condition, or replaces the one of the same type, and stamps it with the object's generation.
    pub fn set(&mut self, mut condition: Condition) {
        condition.observed_generation = self.generation;
        match self.list.iter_mut().find(|c| c.kind == condition.kind) {
            Some(old) => *old = condition,
            None => {
                // There are thousands of these lists, and they hardly grow.
                self.list.reserve_exact(1);
                self.list.push(condition);
            }
        }
    }

    /// Marks the condition of this type as one of the generation before.
    fn back_date(&mut self, kind: &str) {
        if let Some(found) = self.list.iter_mut().find(|c| c.kind == kind) {
            found.observed_generation = self.generation.saturating_sub(1).max(0);
        }
    }

    /// The condition of this type.
    pub fn find(&self, kind: &str) -> Option<&Condition> {
        self.list.iter().find(|c| c.kind == kind)
    }

    /// Whether the condition of this type is there and true.
    pub fn holds(&self, kind: &str) -> bool {
        self.find(kind).is_some_and(|c| c.status == Truth::True)
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Condition> {
        self.list.iter()
    }
}

impl<'a> IntoIterator for &'a Conditions {
    type Item = &'a Condition;
    type IntoIter = std::slice::Iter<'a, Condition>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

/// A reference inside a status, with group and kind always known (`parentRef`, `ancestorRef`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StatusRef {
    /// The API group; empty for core kinds.
    pub group: Text,
    /// The kind.
    pub kind: Text,
    /// The namespace, if it was written or is not that of the object with this status.
    pub namespace: Option<Text>,
    /// The name.
    pub name: Text,
    /// The section, if it was written.
    pub section_name: Option<Text>,
    /// The port, if it was written.
    pub port: Option<u16>,
}

/// The status of a GatewayClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassStatus {
    /// `Accepted` and `SupportedVersion`.
    pub conditions: Conditions,
    /// The names of the features that this build supports, sorted.
    pub supported_features: &'static [&'static str],
}

/// One entry of `status.addresses` of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusAddress {
    /// `IPAddress` or `Hostname`.
    pub kind: &'static str,
    /// The address or name.
    pub value: String,
}

/// The status of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayStatus {
    /// Where it can be reached.
    pub addresses: Vec<StatusAddress>,
    /// `Accepted`, `Programmed` and, where it matters, `ResolvedRefs` and `InsecureFrontendValidationMode`.
    pub conditions: Conditions,
    /// One entry per listener, in the order of the spec.
    pub listeners: Vec<ListenerStatus>,
}

impl GatewayStatus {
    /// The status of the listener with this name.
    pub fn listener(&self, name: &str) -> Option<&ListenerStatus> {
        self.listeners.iter().find(|l| l.name == name)
    }

    /// The same, to change it.
    pub fn listener_mut(&mut self, name: &str) -> Option<&mut ListenerStatus> {
        self.listeners.iter_mut().find(|l| l.name == name)
    }
}

/// The status of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    /// The name of the listener.
    pub name: String,
    /// The kinds of routes that may attach, all of group `gateway.networking.k8s.io`.
    pub supported_kinds: Vec<&'static str>,
    /// How many accepted routes are attached.
    pub attached_routes: u32,
    /// `Accepted`, `Programmed`, `ResolvedRefs`, `Conflicted`.
    pub conditions: Conditions,
}

/// The status of a route: one entry per parentRef.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteStatus {
    /// The parents, in the order of the spec.
    pub parents: Vec<ParentStatus>,
}

/// What one parent says of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus {
    /// The parentRef as it was written, with its defaults.
    pub parent_ref: StatusRef,
    /// `Accepted` and `ResolvedRefs`.
    pub conditions: Conditions,
}

/// The status of a policy: one entry per ancestor it has an effect on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyStatus {
    /// The ancestors; usually Gateways, or the target itself when it is not found.
    pub ancestors: Vec<AncestorStatus>,
}

impl PolicyStatus {
    /// Sets a condition on every ancestor: what the engine says of the policy itself holds wherever it is used.
    pub fn set_everywhere(&mut self, condition: &Condition) {
        for ancestor in &mut self.ancestors {
            ancestor.conditions.set(condition.clone());
        }
    }
}

/// What one ancestor says of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AncestorStatus {
    /// The ancestor.
    pub ancestor_ref: StatusRef,
    /// `Accepted` and, per kind, `ResolvedRefs` and `Programmed`.
    pub conditions: Conditions,
}

/// The status of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStatus {
    /// The `apiVersion` of the object.
    pub api_version: Cow<'static, str>,
    /// The `metadata.generation` of the object.
    pub generation: i64,
    /// The status itself, by the kind of object.
    pub body: StatusBody,
}

/// The shapes that a status has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusBody {
    /// Of a GatewayClass.
    Class(ClassStatus),
    /// Of a Gateway.
    Gateway(GatewayStatus),
    /// Of an HTTPRoute, GRPCRoute or TCPRoute.
    Route(RouteStatus),
    /// Of a BackendTLSPolicy or one of our own policies.
    Policy(PolicyStatus),
    /// Of any other kind, while a proxy refuses the object: `Programmed`.
    Plain(Conditions),
}

/// The status of every object that has one, in the order of kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    objects: BTreeMap<ObjectName, ObjectStatus>,
}

impl Status {
    /// Adds or replaces the status of an object.
    pub fn insert(&mut self, name: ObjectName, status: ObjectStatus) {
        self.objects.insert(name, status);
    }

    /// The status of an object.
    pub fn find(&self, name: &ObjectName) -> Option<&ObjectStatus> {
        self.objects.get(name)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectName, &ObjectStatus)> {
        self.objects.iter()
    }

    /// The status of a Gateway.
    pub fn gateway(&self, namespace: &str, name: &str) -> Option<&GatewayStatus> {
        match &self.objects.get(&named("Gateway", namespace, name))?.body {
            StatusBody::Gateway(status) => Some(status),
            _ => None,
        }
    }

    /// The same, to change it.
    pub fn gateway_mut(&mut self, namespace: &str, name: &str) -> Option<&mut GatewayStatus> {
        let object = self.objects.get_mut(&named("Gateway", namespace, name))?;
        match &mut object.body {
            StatusBody::Gateway(status) => Some(status),
            _ => None,
        }
    }

    /// The status of a route of this kind.
    pub fn route(&self, kind: &str, namespace: &str, name: &str) -> Option<&RouteStatus> {
        match &self.objects.get(&named(kind, namespace, name))?.body {
            StatusBody::Route(status) => Some(status),
            _ => None,
        }
    }

    /// The same, to change it.
    pub fn route_mut(&mut self, kind: &str, namespace: &str, name: &str) -> Option<&mut RouteStatus> {
        match &mut self.objects.get_mut(&named(kind, namespace, name))?.body {
            StatusBody::Route(status) => Some(status),
            _ => None,
        }
    }

    /// The status of a policy of this kind.
    pub fn policy(&self, kind: &str, namespace: &str, name: &str) -> Option<&PolicyStatus> {
        match &self.objects.get(&named(kind, namespace, name))?.body {
            StatusBody::Policy(status) => Some(status),
            _ => None,
        }
    }

    /// The same, to change it.
    pub fn policy_mut(&mut self, kind: &str, namespace: &str, name: &str) -> Option<&mut PolicyStatus> {
        match &mut self.objects.get_mut(&named(kind, namespace, name))?.body {
            StatusBody::Policy(status) => Some(status),
            _ => None,
        }
    }

    /// Marks a listener as not programmed, because its socket could not be opened or its settings could not be used. When none
    /// of the listeners of the Gateway is left, the Gateway is not programmed either.
    pub fn refuse_listener(
        &mut self,
        (namespace, gateway): (&str, &str),
        listener: &str,
        reason: &'static str,
        message: &str,
    ) {
        let Some(status) = self.gateway_mut(namespace, gateway) else {
            return;
        };
        let Some(found) = status.listener_mut(listener) else {
            return;
        };
        let condition = Condition::new("Programmed", Truth::False, reason, message);
        found.conditions.set(condition.clone());
        let all_refused = !status.listeners.iter().any(|l| l.conditions.holds("Programmed"));
        if all_refused && status.conditions.holds("Programmed") {
            status.conditions.set(condition);
        }
    }
}

fn named(kind: &str, namespace: &str, name: &str) -> ObjectName {
    ObjectName { kind: kind.into(), namespace: namespace.into(), name: name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str) -> ListenerStatus {
        let mut conditions = Conditions::new(3);
        conditions.set(Condition::new("Programmed", Truth::True, "Programmed", "It is served."));
        ListenerStatus { name: name.to_owned(), supported_kinds: vec!["HTTPRoute"], attached_routes: 1, conditions }
    }

    fn status() -> Status {
        let mut conditions = Conditions::new(3);
        conditions.set(Condition::new("Accepted", Truth::True, "Accepted", "It is accepted."));
        conditions.set(Condition::new("Programmed", Truth::True, "Programmed", "It is served."));
        let body = StatusBody::Gateway(GatewayStatus {
            addresses: vec![StatusAddress { kind: "IPAddress", value: "127.0.0.1".to_owned() }],
            conditions,
            listeners: vec![listener("a"), listener("b")],
        });
        let mut status = Status::default();
        status.insert(
            named("Gateway", "shop", "web"),
            ObjectStatus { api_version: "gateway.networking.k8s.io/v1".into(), generation: 3, body },
        );
        status
    }

    #[test]
    fn a_gateway_stays_programmed_while_one_listener_is() {
        let mut status = status();
        status.refuse_listener(("shop", "web"), "a", "PortUnavailable", "The port is taken.");
        let gateway = status.gateway("shop", "web").unwrap();
        assert!(!gateway.listener("a").unwrap().conditions.holds("Programmed"));
        assert!(gateway.conditions.holds("Programmed"));
        status.refuse_listener(("shop", "web"), "b", "PortUnavailable", "The port is taken.");
        let gateway = status.gateway("shop", "web").unwrap();
        let programmed = gateway.conditions.find("Programmed").unwrap();
        assert_eq!(programmed.reason, "PortUnavailable");
        assert_eq!(programmed.observed_generation, 3);
    }

    #[test]
    fn the_shape_is_that_of_kubernetes() {
        let json = status().to_json();
        assert_eq!(json[0]["kind"], "Gateway");
        assert_eq!(json[0]["metadata"]["generation"], 3);
        let status = &json[0]["status"];
        assert_eq!(status["addresses"][0]["type"], "IPAddress");
        assert_eq!(status["listeners"][0]["attachedRoutes"], 1);
        assert_eq!(
            status["listeners"][0]["supportedKinds"][0],
            serde_json::json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"})
        );
        assert_eq!(status["conditions"][0]["observedGeneration"], 3);
        assert_eq!(status["conditions"][0]["status"], "True");
    }
}
