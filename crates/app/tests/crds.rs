//! The CustomResourceDefinitions that the binary prints are what an API server takes, and the objects of the examples are valid by them.

use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};

/// The keys that a structural schema may have here (apiextensions.k8s.io/v1, JSONSchemaProps).
const KEYWORDS: &[&str] = &[
    "type",
    "description",
    "properties",
    "additionalProperties",
    "items",
    "required",
    "enum",
    "default",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "anyOf",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
];

fn transept(arguments: &[&str]) -> (Option<i32>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_transept")).args(arguments).env_clear().output().expect("the binary starts");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn definitions() -> Vec<Value> {
    let (code, text) = transept(&["schema", "--crds"]);
    assert_eq!(code, Some(0));
    serde_saphyr::from_multiple(&text).expect("YAML")
}

fn schema_of(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

fn map(value: &Value) -> &Map<String, Value> {
    value.as_object().expect("an object")
}

/// Whether a schema leaves open what stands there.
fn is_open(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

/// Checks the rules of structural schemas at every place.
fn check_structure(schema: &Value, at: &str) {
    for key in map(schema).keys() {
        assert!(KEYWORDS.contains(&key.as_str()), "{at}: {key}");
    }
    let kind = schema["type"].as_str();
    let either = schema["x-kubernetes-int-or-string"] == true;
    assert!(kind.is_some() || either || is_open(schema), "{at}: no type");
    assert!(schema["anyOf"].is_null() || either, "{at}: anyOf");
    let closed = schema.get("properties").is_some();
    assert!(!(closed && schema.get("additionalProperties").is_some()), "{at}: properties and additionalProperties");
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        check_structure(inner, &format!("{at}.{name}"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(schema["properties"].get(name.as_str().expect("a name")).is_some(), "{at}: required {name}");
    }
    if let Some(inner) = schema.get("additionalProperties") {
        assert!(inner.is_object(), "{at}: additionalProperties must be a schema");
        check_structure(inner, &format!("{at}[]"));
    }
    assert_eq!(kind == Some("array"), schema.get("items").is_some(), "{at}: items");
    if let Some(items) = schema.get("items") {
        check_structure(items, &format!("{at}[]"));
        check_keys(schema, items, at);
    }
    if let Some(default) = schema.get("default") {
        assert_eq!(errors(default, schema), Vec::<String>::new(), "{at}: the default");
    }
}

/// A list of type `map` has keys that every item has; one of type `set` has plain items.
fn check_keys(schema: &Value, items: &Value, at: &str) {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => {
            for key in schema["x-kubernetes-list-map-keys"].as_array().expect("keys") {
                let required = items["required"].as_array().is_some_and(|required| required.contains(key));
                let field = &items["properties"][key.as_str().expect("a name")];
                assert!(required || field.get("default").is_some(), "{at}: the key {key} may be absent");
            }
        }
        Some("set") => assert!(!matches!(items["type"].as_str(), Some("object" | "array")), "{at}: a set of more"),
        other => assert_eq!(other, Some("atomic"), "{at}"),
    }
}

/// Everything that is wrong with a value by a schema, as an API server with strict field validation would say it.
fn errors(value: &Value, schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    validate(value, schema, "", &mut found);
    found
}

fn validate(value: &Value, schema: &Value, at: &str, found: &mut Vec<String>) {
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        _ if schema["x-kubernetes-int-or-string"] == true => value.is_i64() || value.is_string(),
        _ => true,
    };
    if !fits {
        found.push(format!("{at}: {value} is not of type {}", schema["type"]));
        return;
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        found.push(format!("{at}: {value} is none of {words:?}"));
    }
    let outside = |number: i64, least: &Value, most: &Value| {
        least.as_i64().is_some_and(|least| number < least) || most.as_i64().is_some_and(|most| number > most)
    };
    let count = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    let out_of_bounds = match value {
        Value::Number(number) => outside(number.as_i64().unwrap_or(0), &schema["minimum"], &schema["maximum"]),
        Value::String(text) => outside(count(text.chars().count()), &schema["minLength"], &schema["maxLength"]),
        Value::Array(items) => outside(count(items.len()), &schema["minItems"], &schema["maxItems"]),
        _ => false,
    };
    if out_of_bounds {
        found.push(format!("{at}: {value} is out of bounds"));
    }
    for item in value.as_array().into_iter().flatten() {
        validate(item, &schema["items"], &format!("{at}[]"), found);
    }
    if let Some(fields) = value.as_object() {
        validate_fields(fields, schema, at, found);
    }
}

fn validate_fields(fields: &Map<String, Value>, schema: &Value, at: &str, found: &mut Vec<String>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    // What the API server itself knows about metadata is not in the schema.
    if schema.get("properties").is_none() && schema.get("additionalProperties").is_none() {
        return;
    }
    for (name, value) in fields {
        let inner = schema["properties"].get(name).or(schema.get("additionalProperties"));
        match inner {
            Some(inner) => validate(value, inner, &format!("{at}.{name}"), found),
            None if is_open(schema) => {}
            None => found.push(format!("{at}: unknown field {name}")),
        }
    }
}

#[test]
fn every_definition_is_structural() {
    let definitions = definitions();
    assert!(definitions.len() >= 4, "{}", definitions.len());
    for definition in &definitions {
        let name = definition["metadata"]["name"].as_str().expect("a name");
        let spec = &definition["spec"];
        assert_eq!(definition["apiVersion"], "apiextensions.k8s.io/v1");
        assert_eq!(definition["kind"], "CustomResourceDefinition");
        assert_eq!(name, format!("{}.transept.dev", spec["names"]["plural"].as_str().expect("a plural")));
        assert_eq!(spec["names"]["categories"][0], "transept");
        let versions = spec["versions"].as_array().expect("versions");
        assert_eq!(versions.iter().filter(|version| version["storage"] == true).count(), 1, "{name}");
        for version in versions {
            assert_eq!(version["subresources"]["status"], Value::Object(Map::new()), "{name}");
            assert!(!version["additionalPrinterColumns"].as_array().expect("columns").is_empty(), "{name}");
            let schema = &version["schema"]["openAPIV3Schema"];
            assert_eq!(schema["type"], "object");
            check_structure(schema, name);
        }
        if name.contains("polic") {
            let how = &definition["metadata"]["labels"]["gateway.networking.k8s.io/policy"];
            assert!(how == "Direct" || how == "Inherited", "{name}: {how}");
        }
    }
}

/// All objects of our own kinds in the examples, and in the configuration of the demo.
fn own_objects() -> Vec<(String, Value)> {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![crate_root.join("src/commands/demo/shop.yaml")];
    let examples = std::fs::read_dir(crate_root.join("../../examples")).expect("examples/");
    files.extend(examples.map(|entry| entry.expect("an entry").path()));
    let mut objects = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "yaml")) {
        let text = fill_in_ports(&std::fs::read_to_string(file).expect("readable"));
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let own =
            |object: &Value| object["apiVersion"].as_str().is_some_and(|version| version.starts_with("transept.dev/"));
        objects.extend(documents.into_iter().filter(own).map(|object| (file.display().to_string(), object)));
    }
    objects
}

/// The demo's file has marks like `@PORT@` where its ports will be.
fn fill_in_ports(text: &str) -> String {
    let pieces = text.split('@').enumerate();
    pieces.map(|(index, piece)| if index % 2 == 1 { "1" } else { piece }).collect()
}

#[test]
fn every_example_is_valid_by_its_definition() {
    let definitions = definitions();
    let objects = own_objects();
    assert!(objects.len() >= 10, "{}", objects.len());
    for (file, object) in &objects {
        let definition = definitions.iter().find(|one| one["spec"]["names"]["kind"] == object["kind"]);
        let definition = definition.unwrap_or_else(|| panic!("{file}: no definition of {}", object["kind"]));
        assert_eq!(errors(object, schema_of(definition)), Vec::<String>::new(), "{file}: {object}");
    }
}

#[test]
fn what_is_wrong_is_not_valid() {
    let definitions = definitions();
    let backend = definitions.iter().find(|one| one["spec"]["names"]["kind"] == "Backend").expect("Backend");
    let judge = |spec: &str| {
        let object: Value = serde_saphyr::from_str(&format!("{{kind: Backend, spec: {spec}}}")).expect("YAML");
        errors(&object, schema_of(backend))
    };
    assert_eq!(judge("{endpoints: [{address: a.test, port: 80}]}"), Vec::<String>::new());
    for wrong in [
        "{}",
        "{endpoints: []}",
        "{endpoints: [{address: a.test}]}",
        "{endpoints: [{address: a.test, port: 0}]}",
        "{endpoints: [{address: a.test, port: 80}], protocol: SMTP}",
        "{endpoints: [{address: a.test, port: 80}], protokol: HTTP}",
    ] {
        assert_eq!(judge(wrong).len(), 1, "{wrong}");
    }
}

#[test]
fn one_kind_is_printed_alone_and_foreign_ones_are_not_ours() {
    let (code, text) = transept(&["schema", "--crds", "backend"]);
    assert_eq!(code, Some(0));
    let all: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    assert_eq!(all.len(), 1);
    assert_eq!(transept(&["schema", "--crds", "Gateway"]).0, Some(2));
}
