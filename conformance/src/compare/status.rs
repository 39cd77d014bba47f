//! Rules for the status of objects (sections 2.1 and 3.4).

use serde_json::Value;

use crate::case::{Address, Condition, GatewayStatus, Listener, ParentConditions};
use crate::certificates::split;
use crate::suite::CONTROLLER_NAME;
use crate::world::text;

/// Why a status is not as expected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// It may become right.
    NotYet(String),
    /// It is wrong for good.
    Never(String),
}

/// A check: nothing to say, or the first complaint.
pub(crate) type Check = Result<(), Complaint>;

fn not_yet<T>(why: impl Into<String>) -> Result<T, Complaint> {
    Err(Complaint::NotYet(why.into()))
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn generation(object: &Value) -> Option<i64> {
    object.pointer("/metadata/generation").and_then(Value::as_i64)
}

/// Whether a condition was computed for an older generation than the object has now; unknown counts as new.
fn is_stale(condition: &Value, generation: Option<i64>) -> bool {
    let observed = condition.get("observedGeneration").and_then(Value::as_i64);
    matches!((observed, generation), (Some(observed), Some(generation)) if observed < generation)
}

/// All wanted conditions are in the list.
///
/// # Errors
/// The first one that is not.
pub(crate) fn conditions(holder: &str, present: &[Value], wanted: &[Condition]) -> Check {
    for want in wanted {
        let Some(found) = present.iter().find(|condition| text(condition, "/type") == want.kind) else {
            return not_yet(format!("{holder} has no condition {}", want.kind));
        };
        let (status, reason) = (text(found, "/status"), text(found, "/reason"));
        let right = (want.status == "any" || status == want.status)
            && want.reason.as_deref().is_none_or(|wanted| reason == wanted);
        if !right {
            let wanted_reason = want.reason.as_deref().unwrap_or("any reason");
            return not_yet(format!(
                "{holder}: {} is {status} ({reason}: {}) instead of {} ({wanted_reason})",
                want.kind,
                text(found, "/message"),
                want.status,
            ));
        }
    }
    Ok(())
}

/// At least one condition exists, and none is of an older generation.
///
/// # Errors
/// There is none, or one is stale.
pub(crate) fn latest_generation(object: &Value, conditions: &[Value]) -> Check {
    if conditions.is_empty() {
        return not_yet("no conditions");
    }
    fresh(object, conditions)
}

fn fresh(object: &Value, conditions: &[Value]) -> Check {
    let generation = generation(object);
    match conditions.iter().find(|condition| is_stale(condition, generation)) {
        Some(stale) => not_yet(format!("condition {} is of an older generation", text(stale, "/type"))),
        None => Ok(()),
    }
}

fn is_true(kind: &str) -> Condition {
    Condition { kind: kind.to_owned(), status: "True".to_owned(), reason: None }
}

/// A Gateway is Accepted and Programmed at its newest generation.
///
/// # Errors
/// It is not.
pub(crate) fn gateway_ready(gateway: &Value) -> Check {
    let present = list(gateway, "/status/conditions");
    fresh(gateway, present)?;
    let holder = format!("Gateway {}", text(gateway, "/metadata/name"));
    conditions(&holder, present, &[is_true("Accepted"), is_true("Programmed")])
}

/// The first address in the status of a Gateway.
///
/// # Errors
/// There is none.
pub(crate) fn first_address(gateway: &Value) -> Result<&str, Complaint> {
    match list(gateway, "/status/addresses").first().map(|address| text(address, "/value")) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => not_yet(format!("Gateway {} has no address", text(gateway, "/metadata/name"))),
    }
}

/// Every listener of a Gateway has resolved references and is accepted and programmed.
///
/// # Errors
/// One has not or is not.
pub(crate) fn listeners_ready(gateway: &Value) -> Check {
    for listener in list(gateway, "/status/listeners") {
        let holder = format!("listener {}", text(listener, "/name"));
        let wanted = [is_true("ResolvedRefs"), is_true("Accepted"), is_true("Programmed")];
        conditions(&holder, list(listener, "/conditions"), &wanted)?;
    }
    Ok(())
}

/// The whole of a `gateway_status` step.
///
/// # Errors
/// The first thing that is not as expected.
pub(crate) fn gateway(step: &GatewayStatus, object: &Value) -> Check {
    let present = list(object, "/status/conditions");
    if !step.conditions.is_empty()
        && let Err(Complaint::NotYet(why)) = fresh(object, present)
    {
        return Err(Complaint::Never(why));
    }
    conditions(&step.gateway, present, &step.conditions)?;
    if step.latest_generation {
        latest_generation(object, present)?;
    }
    let actual = list(object, "/status/listeners");
    if let Some(wanted) = &step.listeners {
        listeners(wanted, actual)?;
    }
    for group in &step.listener_conditions {
        for name in &group.listeners {
            let Some(listener) = actual.iter().find(|listener| text(listener, "/name") == name) else {
                return not_yet(format!("no listener {name} in status"));
            };
            conditions(&format!("listener {name}"), list(listener, "/conditions"), &group.conditions)?;
        }
    }
    if step.zero_routes {
        let attached: Vec<i64> = actual.iter().map(attached_routes).collect();
        if !matches!(attached.as_slice(), [] | [0]) {
            return not_yet(format!("attached routes of the listeners are {attached:?} instead of one 0"));
        }
    }
    if let Some(wanted) = step.attached_listener_sets {
        let got = object.pointer("/status/attachedListenerSets").and_then(Value::as_u64).unwrap_or(0);
        if got != wanted {
            return not_yet(format!("{got} attached ListenerSets instead of {wanted}"));
        }
    }
    match &step.addresses {
        Some(wanted) => addresses(wanted, list(object, "/status/addresses")),
        None => Ok(()),
    }
}

fn attached_routes(listener: &Value) -> i64 {
    listener.get("attachedRoutes").and_then(Value::as_i64).unwrap_or(0)
}

fn listeners(wanted: &[Listener], actual: &[Value]) -> Check {
    if wanted.len() != actual.len() {
        return not_yet(format!("{} listeners in status instead of {}", actual.len(), wanted.len()));
    }
    for want in wanted {
        let holder = format!("listener {}", want.name);
        let Some(listener) = actual.iter().find(|listener| text(listener, "/name") == want.name) else {
            return not_yet(format!("no {holder} in status"));
        };
        let attached = attached_routes(listener);
        if u64::try_from(attached) != Ok(want.attached_routes) {
            return not_yet(format!("{holder} has {attached} attached routes instead of {}", want.attached_routes));
        }
        let kinds: Vec<&str> = list(listener, "/supportedKinds")
            .iter()
            .filter(|kind| text(kind, "/group") == "gateway.networking.k8s.io")
            .map(|kind| text(kind, "/kind"))
            .collect();
        let missing = want.supported_kinds.iter().find(|kind| !kinds.contains(&kind.as_str()));
        if let Some(kind) = missing {
            return not_yet(format!("{holder} does not support {kind}, only {kinds:?}"));
        }
        if want.supported_kinds.is_empty() && !list(listener, "/supportedKinds").is_empty() {
            return not_yet(format!("{holder} supports {kinds:?} instead of nothing"));
        }
        conditions(&holder, list(listener, "/conditions"), &want.conditions)?;
    }
    Ok(())
}

fn addresses(wanted: &[Address], actual: &[Value]) -> Check {
    let got: Vec<(&str, &str)> = actual.iter().map(|a| (text(a, "/type"), text(a, "/value"))).collect();
    let want: Vec<(&str, &str)> = wanted.iter().map(|a| (a.kind.as_str(), a.value.as_str())).collect();
    if got == want { Ok(()) } else { not_yet(format!("addresses are {got:?} instead of {want:?}")) }
}

/// Whether a reference has the name and the namespace, or no namespace at all.
fn names(reference: &Value, wanted: &str) -> bool {
    let Ok((namespace, name)) = split(wanted) else {
        return false;
    };
    let own = text(reference, "/namespace");
    text(reference, "/name") == name && (own == namespace || own.is_empty())
}

/// Some entry of `list` refers to `holder` and has the conditions; all entries are of the newest generation.
fn some_entry(object: &Value, pointer: &str, reference: &str, holder: &str, wanted: &[Condition]) -> Check {
    let entries = list(object, pointer);
    for entry in entries {
        fresh(object, list(entry, "/conditions"))?;
    }
    let mut complaint = format!("{} has no status for {holder}", text(object, "/metadata/name"));
    for entry in entries {
        if entry.get(reference).is_some_and(|reference| names(reference, holder)) {
            match conditions(text(object, "/metadata/name"), list(entry, "/conditions"), wanted) {
                Ok(()) => return Ok(()),
                Err(Complaint::NotYet(why) | Complaint::Never(why)) => complaint = why,
            }
        }
    }
    not_yet(complaint)
}

/// A route has the conditions for a parent.
///
/// # Errors
/// It has not.
pub(crate) fn route(object: &Value, parent: &str, wanted: &[Condition]) -> Check {
    some_entry(object, "/status/parents", "parentRef", parent, wanted)
}

/// A policy has the conditions for an ancestor.
///
/// # Errors
/// It has not.
pub(crate) fn policy(object: &Value, ancestor: &str, wanted: &[Condition]) -> Check {
    some_entry(object, "/status/ancestors", "ancestorRef", ancestor, wanted)
}

/// All conditions of all parents of a route, or of all ancestors of a policy, carry the newest
/// generation. `entries` is the JSON pointer to either list.
///
/// # Errors
/// One does not.
pub(crate) fn entries_latest_generation(object: &Value, entries: &str) -> Check {
    let entries = list(object, entries);
    let conditions = entries.iter().flat_map(|entry| list(entry, "/conditions"));
    latest_generation(object, &conditions.cloned().collect::<Vec<_>>())
}

/// The parents of a route in status, each with its group and kind written out.
///
/// # Errors
/// One is missing or has other conditions.
pub(crate) fn parents(object: &Value, wanted: &[ParentConditions], namespace: NamespaceRule) -> Check {
    for want in wanted {
        let Ok((parent_namespace, parent_name)) = split(&want.reference) else {
            return Err(Complaint::Never(format!("not namespace/name: {}", want.reference)));
        };
        let same_namespace = text(object, "/metadata/namespace") == parent_namespace;
        let required = match namespace {
            NamespaceRule::Always => true,
            NamespaceRule::WhenItDiffers => !same_namespace,
        };
        let entry = list(object, "/status/parents").iter().find(|entry| {
            let reference = |key: &str| text(entry, &format!("/parentRef/{key}"));
            let own = reference("namespace");
            text(entry, "/controllerName") == CONTROLLER_NAME
                && reference("group") == "gateway.networking.k8s.io"
                && reference("kind") == want.kind
                && reference("name") == parent_name
                && (own == parent_namespace || (own.is_empty() && same_namespace && !required))
        });
        let Some(entry) = entry else {
            let name = text(object, "/metadata/name");
            return not_yet(format!("{name} has no entry for {} {} in status.parents", want.kind, want.reference));
        };
        let present = list(entry, "/conditions");
        fresh(object, present)?;
        conditions(text(object, "/metadata/name"), present, &want.conditions)?;
    }
    Ok(())
}

/// When a parent in status must name its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamespaceRule {
    /// Always.
    Always,
    /// When the route lives in another one.
    WhenItDiffers,
}

/// How often a route without any parents must be seen before it counts; `Ok(true)` when it is settled at once.
///
/// # Errors
/// A parent accepted it, or there are several.
pub(crate) fn no_accepted_parents(object: &Value) -> Result<bool, Complaint> {
    match list(object, "/status/parents") {
        [] => Ok(false),
        [parent] => {
            let refused = Condition { kind: "Accepted".to_owned(), status: "False".to_owned(), reason: None };
            conditions(text(object, "/metadata/name"), list(parent, "/conditions"), &[refused]).map(|()| true)
        }
        several => not_yet(format!("{} parents in status", several.len())),
    }
}

#[cfg(test)]
mod tests;
