//! Compares a settled world with what a status step demands, by the rules of the conformance data.

use serde_json::Value;

use crate::stage::{Settled, fill_address};
use crate::strings;

/// Compares one step with the world and writes down what does not hold.
type Comparison = fn(&Value, &Settled, &mut Vec<String>);

/// What does not hold; `checked` counts the steps that were looked at.
pub(crate) fn check(step: &Value, world: &Settled, checked: &mut usize) -> Vec<String> {
    let mut problems = Vec::new();
    let known: [(&str, Comparison); 7] = [
        ("ready", ready),
        ("wait_address", wait_address),
        ("routes_accepted", routes_accepted),
        ("gateway_status", gateway_status),
        ("route_status", route_status),
        ("policy_status", policy_status),
        ("gatewayclass_status", class_status),
    ];
    for (name, compare) in known {
        if step[name].is_object() {
            *checked += 1;
            let before = problems.len();
            compare(&step[name], world, &mut problems);
            for problem in &mut problems[before..] {
                *problem = format!("{name}: {problem}");
            }
        }
    }
    problems
}

fn split(reference: &Value) -> (&str, &str) {
    reference.as_str().unwrap().split_once('/').unwrap()
}

fn status<'a>(world: &'a Settled, kind: &str, reference: &Value) -> &'a Value {
    let (namespace, name) = split(reference);
    let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
    world.status.get(&key).unwrap_or(&Value::Null)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Each wanted condition is among `conditions`.
fn compare_conditions(what: &str, wanted: &Value, conditions: &Value, out: &mut Vec<String>) {
    for wanted in list(wanted) {
        let found = list(conditions).iter().find(|c| c["type"] == wanted["type"]);
        let right = found.is_some_and(|found| {
            (wanted["status"] == "any" || wanted["status"] == found["status"])
                && (wanted["reason"].is_null() || wanted["reason"] == found["reason"])
        });
        if !right {
            out.push(format!("{what} wants {wanted}, has {}", found.unwrap_or(&Value::Null)));
        }
    }
}

fn latest_generation(what: &str, object: &Value, conditions: &Value, out: &mut Vec<String>) {
    let generation = &object["metadata"]["generation"];
    if list(conditions).is_empty() {
        out.push(format!("{what} has no conditions"));
    }
    for condition in list(conditions) {
        if condition["observedGeneration"] != *generation {
            out.push(format!("{what} has a stale condition: {condition}, generation {generation}"));
        }
    }
}

fn is_true(conditions: &Value, kind: &str) -> bool {
    list(conditions).iter().any(|c| c["type"] == kind && c["status"] == "True")
}

fn ready(step: &Value, world: &Settled, out: &mut Vec<String>) {
    let namespaces = strings(&step["namespaces"]);
    for document in &world.documents {
        let metadata = &document["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or_default();
        if document["kind"] != "Gateway"
            || !namespaces.contains(&namespace)
            || metadata["annotations"]["gateway-api/skip-this-for-readiness"] == "true"
        {
            continue;
        }
        let name = metadata["name"].as_str().unwrap();
        let reference = format!("{namespace}/{name}").into();
        let conditions = &status(world, "Gateway", &reference)["status"]["conditions"];
        for kind in ["Accepted", "Programmed"] {
            if !is_true(conditions, kind) {
                out.push(format!("{name} is not {kind}: {conditions}"));
            }
        }
    }
}

fn wait_address(step: &Value, world: &Settled, out: &mut Vec<String>) {
    let gateway = status(world, "Gateway", &step["gateway"]);
    if list(&gateway["status"]["addresses"]).is_empty() {
        out.push(format!("{} has no address", step["gateway"]));
    }
}

fn routes_accepted(step: &Value, world: &Settled, out: &mut Vec<String>) {
    let parent = &step["parent"];
    let gateway = status(world, parent["kind"].as_str().unwrap(), &parent["ref"]);
    if list(&gateway["status"]["addresses"]).is_empty() {
        out.push(format!("{} has no address", parent["ref"]));
    }
    let kind = step["kind"].as_str().unwrap();
    for route in list(&step["routes"]) {
        let object = status(world, kind, route);
        let entries = parents_named(object, &parent["ref"]);
        let accepted = entries.iter().any(|entry| {
            let reference = &entry["parentRef"];
            reference["kind"] == parent["kind"]
                && reference["group"] == "gateway.networking.k8s.io"
                && entry["controllerName"] == "transept.dev/gateway"
                && list(&entry["conditions"])
                    .iter()
                    .any(|c| c["type"] == "Accepted" && c["status"] == "True" && c["reason"] == "Accepted")
        });
        if !accepted {
            out.push(format!("{route} is not accepted: {entries:?}"));
        }
    }
    if step["parent_listeners_ready"] == true {
        for listener in list(&gateway["status"]["listeners"]) {
            for kind in ["ResolvedRefs", "Accepted", "Programmed"] {
                if !is_true(&listener["conditions"], kind) {
                    out.push(format!("listener is not {kind}: {listener}"));
                }
            }
        }
    }
}

/// The parents of a route that name this Gateway (with its namespace, or none).
fn parents_named<'a>(object: &'a Value, reference: &Value) -> Vec<&'a Value> {
    let (namespace, name) = split(reference);
    list(&object["status"]["parents"])
        .iter()
        .filter(|entry| {
            let parent = &entry["parentRef"];
            parent["name"] == name && (parent["namespace"].is_null() || parent["namespace"] == namespace)
        })
        .collect()
}

fn gateway_status(step: &Value, world: &Settled, out: &mut Vec<String>) {
    let object = status(world, "Gateway", &step["gateway"]);
    let body = &object["status"];
    let name = step["gateway"].as_str().unwrap();
    compare_conditions(name, &step["conditions"], &body["conditions"], out);
    latest_generation(name, object, &body["conditions"], out);
    if step["listeners"].is_array() {
        compare_listeners(list(&step["listeners"]), list(&body["listeners"]), out);
    }
    for group in list(&step["listener_conditions"]) {
        for wanted in strings(&group["listeners"]) {
            let found = list(&body["listeners"]).iter().find(|l| l["name"] == wanted);
            let conditions = found.map_or(&Value::Null, |l| &l["conditions"]);
            compare_conditions(wanted, &group["conditions"], conditions, out);
        }
    }
    if step["zero_routes"] == true {
        match list(&body["listeners"]) {
            [] => {}
            [one] if one["attachedRoutes"] == 0 => {}
            more => out.push(format!("{name} must have no routes: {more:?}")),
        }
    }
    if step["addresses"].is_array() {
        let wanted: Vec<_> =
            list(&step["addresses"]).iter().map(|address| (fill(&address["type"]), fill(&address["value"]))).collect();
        let found: Vec<_> =
            list(&body["addresses"]).iter().map(|address| (fill(&address["type"]), fill(&address["value"]))).collect();
        if wanted != found {
            out.push(format!("{name} wants the addresses {wanted:?}, has {found:?}"));
        }
    }
}

fn fill(text: &Value) -> String {
    let text = text.as_str().unwrap_or_default();
    let placeholder = text.strip_prefix("${").and_then(|t| t.strip_suffix('}'));
    placeholder.and_then(fill_address).unwrap_or(text).to_owned()
}

fn compare_listeners(wanted: &[Value], found: &[Value], out: &mut Vec<String>) {
    if wanted.len() != found.len() {
        out.push(format!("wants {} listeners, has {}", wanted.len(), found.len()));
    }
    for wanted in wanted {
        let name = wanted["name"].as_str().unwrap();
        let Some(found) = found.iter().find(|l| l["name"] == name) else {
            out.push(format!("listener {name} is missing"));
            continue;
        };
        if wanted["attached_routes"] != found["attachedRoutes"] {
            out.push(format!(
                "listener {name} wants {} routes, has {}",
                wanted["attached_routes"], found["attachedRoutes"]
            ));
        }
        let kinds: Vec<_> = list(&found["supportedKinds"])
            .iter()
            .filter(|kind| kind["group"] == "gateway.networking.k8s.io")
            .filter_map(|kind| kind["kind"].as_str())
            .collect();
        let wanted_kinds = strings(&wanted["supported_kinds"]);
        let right = if wanted_kinds.is_empty() {
            kinds.is_empty()
        } else {
            wanted_kinds.iter().all(|kind| kinds.contains(kind))
        };
        if !right {
            out.push(format!("listener {name} wants kinds {wanted_kinds:?}, has {kinds:?}"));
        }
        compare_conditions(name, &wanted["conditions"], &found["conditions"], out);
    }
}

fn route_status(step: &Value, world: &Settled, out: &mut Vec<String>) {
    let object = status(world, step["kind"].as_str().unwrap(), &step["route"]);
    let name = step["route"].as_str().unwrap();
    let parents = list(&object["status"]["parents"]);
    for parent in parents {
        latest_generation(name, object, &parent["conditions"], out);
    }
    if step["parent"].is_string() {
        for wanted in list(&step["conditions"]) {
            let entries = parents_named(object, &step["parent"]);
            let found = entries.iter().any(|entry| {
                let mut problems = Vec::new();
                let one = Value::Array(vec![wanted.clone()]);
                compare_conditions(name, &one, &entry["conditions"], &mut problems);
                problems.is_empty()
            });
            if !found {
                out.push(format!("{name} wants {wanted}, has {entries:?}"));
            }
        }
    }
    if step["no_accepted_parents"] == true {
        match parents {
            [] => {}
            [one] if !is_true(&one["conditions"], "Accepted") => {}
            more => out.push(format!("{name} must not be accepted: {more:?}")),
        }
    }
}

fn policy_status(step: &Value, world: &Settled, out: &mut Vec<String>) {
    let object = status(world, "BackendTLSPolicy", &step["policy"]);
    let name = step["policy"].as_str().unwrap();
    let ancestors = list(&object["status"]["ancestors"]);
    if ancestors.is_empty() {
        out.push(format!("{name} has no ancestors"));
    }
    for ancestor in ancestors {
        latest_generation(name, object, &ancestor["conditions"], out);
    }
    if !step["ancestor"].is_string() {
        return;
    }
    let (namespace, gateway) = split(&step["ancestor"]);
    let entry = ancestors.iter().find(|entry| {
        let reference = &entry["ancestorRef"];
        reference["name"] == gateway && (reference["namespace"].is_null() || reference["namespace"] == namespace)
    });
    match entry {
        Some(entry) => compare_conditions(name, &step["conditions"], &entry["conditions"], out),
        None => out.push(format!("{name} has no ancestor {gateway}: {ancestors:?}")),
    }
}

fn class_status(step: &Value, world: &Settled, out: &mut Vec<String>) {
    let name = step["name"].as_str().unwrap();
    let key = ("GatewayClass".to_owned(), String::new(), name.to_owned());
    let object = world.status.get(&key).unwrap_or(&Value::Null);
    let conditions = &object["status"]["conditions"];
    compare_conditions(name, &step["conditions"], conditions, out);
    latest_generation(name, object, conditions, out);
}
