//! The rules for status, one test each, on objects written out by hand.

use serde_json::json;

use super::*;

fn condition(kind: &str, status: &str, reason: &str, generation: i64) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "observedGeneration": generation})
}

fn a_gateway() -> Value {
    json!({
        "metadata": {"name": "g", "namespace": "n", "generation": 2},
        "status": {
            "addresses": [{"type": "IPAddress", "value": "127.64.0.1"}],
            "conditions": [condition("Accepted", "True", "Accepted", 2), condition("Programmed", "True", "Programmed", 2)],
            "listeners": [{
                "name": "http",
                "attachedRoutes": 1,
                "supportedKinds": [
                    {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"},
                    {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute"},
                ],
                "conditions": [
                    condition("Accepted", "True", "Accepted", 2),
                    condition("ResolvedRefs", "True", "ResolvedRefs", 2),
                    condition("Programmed", "True", "Programmed", 2),
                ],
            }],
        },
    })
}

fn step(value: Value) -> GatewayStatus {
    let mut object = value;
    object["gateway"] = json!("n/g");
    serde_json::from_value(object).expect("a step")
}

fn listener(kinds: Value, routes: u64) -> GatewayStatus {
    step(
        json!({"listeners": [{"name": "http", "supported_kinds": kinds, "attached_routes": routes, "conditions": []}]}),
    )
}

#[test]
fn supported_kinds_are_a_subset_but_nothing_means_nothing() {
    assert_eq!(gateway(&listener(json!(["HTTPRoute"]), 1), &a_gateway()), Ok(()));
    assert!(gateway(&listener(json!(["TLSRoute"]), 1), &a_gateway()).is_err());
    assert!(gateway(&listener(json!([]), 1), &a_gateway()).is_err());
    assert!(gateway(&listener(json!(["HTTPRoute"]), 0), &a_gateway()).is_err());
}

#[test]
fn the_number_of_listeners_is_exact() {
    assert!(gateway(&step(json!({"listeners": []})), &a_gateway()).is_err());
}

#[test]
fn a_stale_condition_fails_a_gateway_for_good() {
    let mut object = a_gateway();
    object["metadata"]["generation"] = json!(3);
    let conditions = step(json!({"conditions": [{"type": "Accepted", "status": "True"}]}));
    assert!(matches!(gateway(&conditions, &object), Err(Complaint::Never(_))));
    let latest = step(json!({"latest_generation": true}));
    assert!(matches!(gateway(&latest, &object), Err(Complaint::NotYet(_))));
    assert!(gateway_ready(&object).is_err());
    assert_eq!(gateway_ready(&a_gateway()), Ok(()));
}

#[test]
fn any_status_and_any_reason_are_right_when_told() {
    let check = |status: &str, reason: Option<&str>| {
        let wanted = step(json!({"conditions": [{"type": "Accepted", "status": status, "reason": reason}]}));
        gateway(&wanted, &a_gateway()).is_ok()
    };
    assert!(check("any", None));
    assert!(check("True", Some("Accepted")));
    assert!(!check("True", Some("Other")));
    assert!(!check("False", None));
}

#[test]
fn zero_routes_means_no_listener_or_one_without_routes() {
    let wanted = step(json!({"zero_routes": true}));
    let mut object = a_gateway();
    assert!(gateway(&wanted, &object).is_err());
    object["status"]["listeners"][0]["attachedRoutes"] = json!(0);
    assert_eq!(gateway(&wanted, &object), Ok(()));
    let twice = object["status"]["listeners"][0].clone();
    object["status"]["listeners"] = json!([twice.clone(), twice]);
    assert!(gateway(&wanted, &object).is_err());
}

fn a_route(parent_ref: Value, accepted: &str) -> Value {
    json!({
        "metadata": {"name": "r", "namespace": "n", "generation": 1},
        "status": {"parents": [{
            "controllerName": CONTROLLER_NAME,
            "parentRef": parent_ref,
            "conditions": [condition("Accepted", accepted, "Accepted", 1)],
        }]},
    })
}

fn parent(reference: &str) -> Vec<ParentConditions> {
    let wanted = json!([{"kind": "Gateway", "ref": reference, "conditions": [{"type": "Accepted", "status": "True"}]}]);
    serde_json::from_value(wanted).expect("parents")
}

#[test]
fn a_parent_writes_group_and_kind_out_and_its_namespace_when_it_differs() {
    let full = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"});
    let check =
        |reference: &Value, wanted: &str, rule| parents(&a_route(reference.clone(), "True"), &parent(wanted), rule);
    assert_eq!(check(&full, "n/g", NamespaceRule::WhenItDiffers), Ok(()));
    assert!(check(&full, "n/g", NamespaceRule::Always).is_err());
    assert!(check(&full, "other/g", NamespaceRule::WhenItDiffers).is_err());
    let bare = json!({"name": "g"});
    assert!(check(&bare, "n/g", NamespaceRule::WhenItDiffers).is_err());
}

#[test]
fn a_route_condition_needs_the_name_of_its_parent_only() {
    let wanted = [Condition { kind: "Accepted".to_owned(), status: "True".to_owned(), reason: None }];
    let object = a_route(json!({"name": "g", "namespace": "m"}), "True");
    assert_eq!(route(&object, "m/g", &wanted), Ok(()));
    assert!(route(&object, "n/g", &wanted).is_err());
    assert!(route(&object, "m/h", &wanted).is_err());
}

#[test]
fn a_refused_route_has_no_parents_or_one_that_refuses() {
    let reference = json!({"name": "g"});
    assert_eq!(no_accepted_parents(&a_route(reference.clone(), "False")), Ok(true));
    assert!(no_accepted_parents(&a_route(reference, "True")).is_err());
    let mut object = a_route(json!({"name": "g"}), "False");
    object["status"]["parents"] = json!([]);
    assert_eq!(no_accepted_parents(&object), Ok(false));
}
