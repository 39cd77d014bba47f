//! The objects of one case as documents: read, changed by steps, and settled into a status.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use transept_model::attach::{Surroundings, attach};
use transept_model::load::load;
use transept_model::place::SourceText;
use transept_model::value::{Budget, read};

const CLASS: &str = "transept";
const CONTROLLER: &str = "transept.dev/gateway";
pub(crate) const UNUSABLE: &str = "203.0.113.77";
pub(crate) const USABLE: &str = "127.64.99.1";

/// Kind, namespace, name.
pub(crate) type Key = (String, String, String);

pub(crate) enum Change {
    Made,
    None,
}

/// What a settled world says: its documents and the status of each object, as JSON.
pub(crate) struct Settled {
    pub(crate) documents: Vec<Value>,
    pub(crate) status: BTreeMap<Key, Value>,
}

pub(crate) struct Stage {
    documents: Vec<Value>,
    clock: u32,
}

pub(crate) fn key(document: &Value) -> Key {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    (text(&document["kind"]), text(&document["metadata"]["namespace"]), text(&document["metadata"]["name"]))
}

pub(crate) fn read_documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .replace("{GATEWAY_CLASS_NAME}", CLASS)
        .replace("{GATEWAY_CONTROLLER_NAME}", CONTROLLER);
    let source = SourceText::new(path.display().to_string(), text);
    let (documents, invalid) = read(&source, &Budget::default());
    assert!(invalid.is_empty(), "{invalid:?}");
    documents.iter().map(|document| document.to_json()).collect()
}

impl Stage {
    pub(crate) fn new(base: Vec<Value>) -> Self {
        let mut stage = Self { documents: Vec::new(), clock: 0 };
        stage.add(vec![json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GatewayClass",
            "metadata": {"name": CLASS},
            "spec": {"controllerName": CONTROLLER},
        })]);
        stage.add(base);
        stage
    }

    pub(crate) fn add(&mut self, documents: Vec<Value>) {
        for mut document in documents {
            self.clock += 1;
            document["metadata"]["generation"] = 1.into();
            document["metadata"]["creationTimestamp"] =
                format!("2026-01-01T{:02}:{:02}:00Z", self.clock / 60, self.clock % 60).into();
            self.documents.push(document);
        }
    }

    /// Every Gateway without addresses gets one of its own; the placeholders of the static ones are filled.
    pub(crate) fn give_addresses(&mut self) {
        let mut number = 0;
        for document in &mut self.documents {
            if document["kind"] != "Gateway" {
                continue;
            }
            number += 1;
            let spec = &mut document["spec"];
            match spec["addresses"].as_array_mut() {
                None => {
                    let value = format!("127.64.0.{number}");
                    spec["addresses"] = json!([{"type": "IPAddress", "value": value}]);
                }
                Some(addresses) => {
                    for address in addresses {
                        let value = match address["value"].as_str() {
                            Some("PLACEHOLDER_UNUSABLE_ADDRS") => UNUSABLE,
                            Some("PLACEHOLDER_USABLE_ADDRS") => USABLE,
                            _ => continue,
                        };
                        *address = json!({"type": "IPAddress", "value": value});
                    }
                }
            }
        }
    }

    /// Makes the change that a step describes, if it describes one.
    pub(crate) fn change(&mut self, step: &Value) -> Change {
        if let Some(objects) = step["apply"]["objects"].as_array() {
            let objects = objects.iter().map(|object| self.fill(object)).collect();
            self.add(objects);
        } else if step["patch"].is_object() {
            let ops = self.fill(&step["patch"]["ops"]);
            let document = self.find(&step["patch"]["object"]);
            for op in ops.as_array().unwrap() {
                patch(document, op);
            }
            let generation = document["metadata"]["generation"].as_i64().unwrap();
            document["metadata"]["generation"] = (generation + 1).into();
        } else if step["delete"].is_object() {
            let wanted = wanted(&step["delete"]["object"]);
            self.documents.retain(|document| key(document) != wanted);
        } else {
            return Change::None;
        }
        Change::Made
    }

    fn find(&mut self, object: &Value) -> &mut Value {
        let wanted = wanted(object);
        self.documents
            .iter_mut()
            .find(|document| key(document) == wanted)
            .unwrap_or_else(|| panic!("{wanted:?} is not there"))
    }

    /// Replaces the placeholders in a value.
    fn fill(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.fill_text(text),
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| (name.clone(), self.fill(value)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }

    fn fill_text(&self, text: &str) -> Value {
        let placeholder = text.strip_prefix("${").and_then(|t| t.strip_suffix('}'));
        let Some(placeholder) = placeholder else {
            return text.into();
        };
        if let Some(filled) = fill_address(placeholder) {
            return filled.into();
        }
        let reference = placeholder.strip_prefix("configmap:").unwrap();
        let (object, entry) = reference.rsplit_once(':').unwrap();
        let (namespace, name) = object.split_once('/').unwrap();
        let wanted = ("ConfigMap".to_owned(), namespace.to_owned(), name.to_owned());
        let document = self.documents.iter().find(|d| key(d) == wanted).unwrap();
        document["data"][entry].clone()
    }

    /// Loads the documents and attaches everything.
    pub(crate) fn settle(&self) -> Settled {
        let files: Vec<_> = self
            .documents
            .iter()
            .enumerate()
            .map(|(number, document)| SourceText::new(format!("{number}.json"), document.to_string()))
            .collect();
        let loaded = load(&files, &[]);
        assert!(loaded.invalid.is_empty(), "{:#?}", loaded.invalid);
        let mut surroundings = Surroundings::default();
        surroundings.unusable.insert(UNUSABLE.parse().unwrap(), "it is not an address of this machine".to_owned());
        let attached = attach(&loaded.world, &surroundings);
        let status = attached.status.to_json();
        let status = status.as_array().unwrap().iter();
        Settled {
            documents: self.documents.clone(),
            status: status.map(|object| (key(object), object.clone())).collect(),
        }
    }
}

pub(crate) fn fill_address(placeholder: &str) -> Option<&'static str> {
    match placeholder {
        "usable_address" => Some(USABLE),
        "usable_address.type" | "unusable_address.type" => Some("IPAddress"),
        "unusable_address" => Some(UNUSABLE),
        _ => None,
    }
}

fn wanted(object: &Value) -> Key {
    let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    (text("kind"), text("namespace"), text("name"))
}

/// The operations of JSON Patch (RFC 6902) that the cases use.
fn patch(document: &mut Value, op: &Value) {
    let path = op["path"].as_str().unwrap();
    let (parent, last) = path.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    let value = op["value"].clone();
    match (op["op"].as_str().unwrap(), parent) {
        ("test", parent) => assert_eq!(value, *parent.pointer(&format!("/{last}")).unwrap()),
        ("add", Value::Array(items)) if last == "-" => items.push(value),
        ("remove", Value::Array(items)) => {
            items.remove(last.parse().unwrap());
        }
        ("add" | "replace", Value::Object(fields)) => {
            fields.insert(last.to_owned(), value);
        }
        ("replace", Value::Array(items)) => items[last.parse::<usize>().unwrap()] = value,
        (op, _) => panic!("patch operation {op} at {path} is not known here"),
    }
}
