//! Steps that wait for a status (section 2.1 of the suite's description).

use serde::Deserialize;

/// Every Gateway of these namespaces is programmed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ready {
    pub namespaces: Vec<String>,
}

/// The Gateway has an address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitAddress {
    pub gateway: String,
    #[serde(rename = "listener")]
    _listener: Option<String>,
}

/// An object by kind and `namespace/name`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parent {
    pub kind: String,
    #[serde(rename = "ref")]
    pub reference: String,
}

/// Routes are accepted by a parent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoutesAccepted {
    pub parent: Parent,
    pub kind: String,
    pub routes: Vec<String>,
    #[serde(default)]
    pub parent_listeners_ready: bool,
    /// Not compared, by the rules.
    #[serde(rename = "sections")]
    _sections: Option<Vec<String>>,
}

/// A condition that must be there; `any` stands for every status, and no reason for every reason.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatewayStatus {
    pub gateway: String,
    #[serde(default)]
    pub conditions: Vec<Condition>,
    #[serde(default)]
    pub latest_generation: bool,
    pub listeners: Option<Vec<Listener>>,
    #[serde(default)]
    pub listener_conditions: Vec<ListenerConditions>,
    #[serde(default)]
    pub zero_routes: bool,
    pub attached_listener_sets: Option<u64>,
    pub addresses: Option<Vec<Address>>,
}

/// A listener in status, completely.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    pub name: String,
    pub supported_kinds: Vec<String>,
    pub attached_routes: u64,
    pub conditions: Vec<Condition>,
}

/// Conditions of some listeners; the others do not matter.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenerConditions {
    pub listeners: Vec<String>,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Address {
    pub value: String,
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteStatus {
    pub kind: String,
    pub route: String,
    pub parent: Option<String>,
    #[serde(default)]
    pub conditions: Vec<Condition>,
    pub parents: Option<Vec<ParentConditions>>,
    #[serde(default)]
    pub parent_namespace_required: bool,
    #[serde(default)]
    pub no_accepted_parents: bool,
    #[serde(default)]
    pub latest_generation: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParentConditions {
    pub kind: String,
    #[serde(rename = "ref")]
    pub reference: String,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyStatus {
    pub policy: String,
    /// Absent when only the generation matters.
    pub ancestor: Option<String>,
    #[serde(default)]
    pub conditions: Vec<Condition>,
    #[serde(default)]
    pub immediate: bool,
    #[serde(default)]
    pub latest_generation: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatewayclassStatus {
    pub name: String,
    #[serde(default)]
    pub conditions: Vec<Condition>,
    #[serde(default)]
    pub latest_generation: bool,
}

/// Notes a generation, or compares it with a noted one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Generation {
    pub kind: String,
    #[serde(rename = "ref")]
    pub reference: String,
    pub remember: Option<String>,
    pub differs_from: Option<String>,
}
