//! What an instance says of itself, from JSON in the shape of the `spec` of a `Workload`.
//!
//! Called by `routes`. The rules are those of the kind `Workload` in `model`, so that a field is named, checked and corrected here as in
//! a file. What the credential says already, and what only a proxy has, may not be said.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use transept_engine::policies::MODEL_KINDS;
use transept_identity::WorkloadName;
use transept_model::kinds::{WorkloadHealth, WorkloadSpec};
use transept_model::schema::Text;
use transept_model::{Invalid, SourceText};
use transept_xds::mesh::{Condition, Port, Workload};

use super::answer::Problem;

/// Fields of the kind that are not said here, and why.
const NOT_HERE: &[(&str, &str)] = &[
    ("serviceAccount", "the identity is that of the join token"),
    ("trustDomain", "the identity is that of the join token"),
    ("tunnel", "a program without a proxy has no tunnel; `transept sidecar` registers one"),
];

/// Reads the workload `name` of `holder`, who calls from `from`.
pub(super) fn read(content: &[u8], holder: &WorkloadName, name: &str, from: IpAddr) -> Result<Workload, Problem> {
    let parsed = serde_json::from_slice::<Value>(content).map_err(|error| Problem::no_json(error.to_string()))?;
    let Value::Object(mut spec) = parsed else {
        return Err(Problem::no_json("it is JSON of another kind; write {\"ports\": [{\"port\": 80}]}, for example"));
    };
    let mut errors = foreign(&spec);
    complete(&mut spec, holder, from);
    let object = json!({
        "apiVersion": "transept.dev/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": holder.namespace()},
        "spec": spec,
    });
    let text = SourceText::new("registration", object.to_string());
    let loaded = transept_model::Loader::new(MODEL_KINDS).load(&[text]);
    errors.extend(loaded.invalid.iter().map(error));
    let service = loaded.world.workloads_of(holder.namespace(), first_service(&object));
    match service.first() {
        Some(workload) if errors.is_empty() => Ok(workload_of(&workload.spec, holder, name)),
        _ if errors.is_empty() => Err(Problem::failed()),
        _ => Err(Problem::invalid(errors)),
    }
}

fn foreign(spec: &Map<String, Value>) -> Vec<Value> {
    let mut errors = Vec::new();
    for (field, why) in NOT_HERE.iter().filter(|(field, _)| spec.contains_key(*field)) {
        errors.push(json!({"field": field, "why": why, "remedy": "leave it out"}));
    }
    if spec.get("weight").and_then(Value::as_u64) == Some(0) {
        let remedy = "to take no new requests, say \"health\": \"Draining\"";
        errors.push(json!({"field": "weight", "why": "an instance has a weight of 1 or more", "remedy": remedy}));
    }
    errors
}

/// What need not be said: the service is that of the identity, and the address the one that the call comes from.
fn complete(spec: &mut Map<String, Value>, holder: &WorkloadName, from: IpAddr) {
    let is_empty = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    if is_empty(spec.get("services")) {
        spec.insert("services".into(), json!([holder.service_account()]));
    }
    if is_empty(spec.get("address")) {
        spec.insert("address".into(), from.to_string().into());
    }
}

fn first_service(object: &Value) -> &str {
    object["spec"]["services"][0].as_str().unwrap_or_default()
}

fn error(invalid: &Invalid) -> Value {
    let field = invalid.field.strip_prefix("spec.").or(invalid.field.strip_prefix("metadata."));
    let mut error = json!({"field": field.unwrap_or_default(), "why": invalid.why});
    if let Some(remedy) = &invalid.remedy {
        error["remedy"] = remedy.as_str().into();
    }
    error
}

fn workload_of(spec: &WorkloadSpec, holder: &WorkloadName, name: &str) -> Workload {
    let text = |text: &Option<Text>| text.as_deref().unwrap_or_default().to_owned();
    let condition = match spec.health {
        WorkloadHealth::Healthy => Condition::Healthy,
        WorkloadHealth::Unhealthy => Condition::Unhealthy,
        WorkloadHealth::Draining => Condition::Draining,
    };
    let ports = spec.ports.iter().map(|port| Port {
        name: text(&port.name),
        port: port.port.into(),
        target_port: port.target_port.unwrap_or_default().into(),
        app_protocol: text(&port.app_protocol),
        // Nobody stands beside it who hears it.
        learned: String::new(),
    });
    Workload {
        namespace: holder.namespace().to_owned(),
        name: name.to_owned(),
        services: spec.services.iter().map(|service| service.to_string()).collect(),
        service_account: holder.service_account().to_owned(),
        address: spec.address.to_string(),
        ports: ports.collect(),
        tunnel_port: 0,
        zone: text(&spec.zone),
        region: text(&spec.region),
        weight: spec.weight,
        condition: condition.into(),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    fn holder() -> WorkloadName {
        WorkloadName::new("shop", "cart").expect("a name")
    }

    fn taken(content: &str) -> Workload {
        read(content.as_bytes(), &holder(), "cart-1", FROM).expect("a workload")
    }

    async fn refused(content: &[u8]) -> (u16, Value) {
        let answer = read(content, &holder(), "cart-1", FROM).expect_err("refused").answer();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    #[test]
    fn what_is_not_said_follows_from_the_caller() {
        let workload = taken(r#"{"ports": [{"port": 80}]}"#);
        assert_eq!((workload.namespace.as_str(), workload.service_account.as_str()), ("shop", "cart"));
        assert_eq!(
            (workload.services.as_slice(), workload.address.as_str()),
            (["cart".to_owned()].as_slice(), "10.0.0.7")
        );
        assert_eq!((workload.weight, workload.tunnel_port, workload.condition()), (1, 0, Condition::Healthy));
        assert_eq!(taken(r#"{"services": [], "address": "", "ports": [{"port": 80}]}"#), workload);
    }

    #[test]
    fn everything_that_can_be_said_arrives() {
        let workload = taken(
            r#"{"services": ["cart"], "address": "10.0.0.9", "zone": "a", "region": "r", "weight": 5, "health": "Draining",
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}]}"#,
        );
        let port =
            Port { name: "http".into(), port: 80, target_port: 8080, app_protocol: "http".into(), ..Port::default() };
        assert_eq!(workload.ports, [port]);
        assert_eq!((workload.zone.as_str(), workload.region.as_str(), workload.weight), ("a", "r", 5));
        assert_eq!((workload.address.as_str(), workload.condition()), ("10.0.0.9", Condition::Draining));
    }

    #[tokio::test]
    async fn a_wrong_field_is_named_and_corrected() {
        let (status, problem) = refused(br#"{"ports": [{"prot": 80, "port": 80}], "wieght": 5}"#).await;
        assert_eq!((status, problem["code"].as_str()), (422, Some("registration.invalid")), "{problem}");
        let errors = problem["errors"].as_array().expect("a list");
        let shown = |field: &str| {
            let one = errors.iter().find(|one| one["field"].as_str() == Some(field));
            one.and_then(|one| one["remedy"].as_str()).unwrap_or_else(|| panic!("{field}: {problem}"))
        };
        assert!(shown("ports[0]").contains("`port`"), "{problem}");
        assert!(shown("").contains("`weight`"), "{problem}");
        for (content, field) in [
            (r#"{"ports": [{"port": 80}], "tunnel": {"port": 1}}"#, "tunnel"),
            (r#"{"ports": [{"port": 80}], "trustDomain": "a"}"#, "trustDomain"),
            (r#"{"ports": [{"port": 80}], "weight": 0}"#, "weight"),
            (r#"{"ports": [{"port": 99999}]}"#, "ports[0].port"),
            (r#"{"ports": [{"port": 80}], "address": "cart"}"#, "address"),
            (r#"{"ports": [{"port": 80}], "services": "cart"}"#, "services"),
            (r#"{"ports": [{"port": 80}], "health": "Fine"}"#, "health"),
        ] {
            let (status, problem) = refused(content.as_bytes()).await;
            assert_eq!((status, problem["errors"][0]["field"].as_str()), (422, Some(field)), "{problem}");
        }
        assert_eq!(refused(b"{}").await.0, 422);
    }

    #[tokio::test]
    async fn what_is_no_json_is_refused_as_that() {
        let deep = "[".repeat(30_000);
        let nested = format!("{{\"ports\": {}1{}}}", "[".repeat(5000), "]".repeat(5000));
        for content in
            [b"".as_slice(), b"ports: []", b"[]", b"80", b"{\"ports\"", b"\xff\xfe", deep.as_bytes(), nested.as_bytes()]
        {
            let (status, problem) = refused(content).await;
            assert_eq!((status, problem["code"].as_str()), (400, Some("registration.body_malformed")), "{problem}");
        }
        // Deep, and yet JSON that is read: its own rule refuses it.
        let nested = format!("{{\"ports\": {}1{}}}", "[".repeat(100), "]".repeat(100));
        assert_eq!(refused(nested.as_bytes()).await.0, 422);
    }
}
