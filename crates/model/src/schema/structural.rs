//! Types as structural schemas: what a Kubernetes API server takes as the schema of a custom resource.
//!
//! Called for CustomResourceDefinitions. A structural schema (apiextensions.k8s.io/v1) says the type of everything, knows no
//! references and no closed objects (what is unknown is pruned), and writes rules between fields in CEL. Rules that it cannot
//! carry, or only at a cost that an API server refuses, are left out here: the decoder holds them.

use serde_json::{Map, Value as Json, json};

use crate::schema::rules::Dialect;
use crate::schema::shape::tidy;
use crate::schema::{ObjectShape, Rule, Shape, UnionShape};

impl Shape {
    /// The structural schema of the type, with the rules of the field that holds it.
    pub fn to_structural_schema(&self, rules: &[Rule]) -> Json {
        let mut schema = match self {
            Shape::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Integer(least, most) => integer(*least, *most),
            Shape::IntegerOrText => {
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})
            }
            Shape::Text | Shape::Open(_) => json!({"type": "string"}),
            Shape::Base64 => json!({"type": "string", "format": "byte"}),
            Shape::Duration => json!({"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}),
            Shape::Choice(_, words) => {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                json!({"type": "string", "enum": words})
            }
            Shape::Numbers(numbers) => json!({"type": "integer", "format": "int64", "enum": numbers}),
            Shape::List(item) => return list(item, rules),
            Shape::Map(item) => {
                let (own, inner): (Vec<Rule>, Vec<Rule>) = rules.iter().copied().partition(Rule::is_of_collection);
                let mut schema = json!({"type": "object", "additionalProperties": item.to_structural_schema(&inner)});
                apply(&own, &mut schema);
                return schema;
            }
            Shape::Object(object) => object_schema(object),
            Shape::Union(union) => union_schema(union),
        };
        apply(rules, &mut schema);
        schema
    }
}

fn integer(least: i64, most: i64) -> Json {
    let mut schema = json!({"type": "integer", "format": "int64"});
    if least != i64::MIN {
        schema["minimum"] = json!(least);
    }
    if most != i64::MAX {
        schema["maximum"] = json!(most);
    }
    schema
}

/// A list, and by what its items are told apart when two people apply parts of it.
fn list(item: &Shape, rules: &[Rule]) -> Json {
    let (own, inner): (Vec<Rule>, Vec<Rule>) = rules.iter().copied().partition(Rule::is_of_collection);
    let mut schema = json!({"type": "array", "items": item.to_structural_schema(&inner)});
    apply(&own, &mut schema);
    let key = own.iter().find_map(|rule| match rule {
        Rule::UniqueBy(field) => Some(*field),
        _ => None,
    });
    match key.filter(|key| is_key(item, key)) {
        Some(key) => {
            schema["x-kubernetes-list-type"] = json!("map");
            schema["x-kubernetes-list-map-keys"] = json!([key]);
        }
        None if own.iter().any(|rule| matches!(rule, Rule::Unique)) => schema["x-kubernetes-list-type"] = json!("set"),
        None => schema["x-kubernetes-list-type"] = json!("atomic"),
    }
    schema
}

/// Whether every item has this field: the key of a list must be required or have a default.
fn is_key(item: &Shape, key: &str) -> bool {
    match item {
        Shape::Object(object) => object
            .fields
            .iter()
            .any(|field| field.name == key && (field.required || default_of(&field.default).is_some())),
        _ => false,
    }
}

fn object_schema(object: &ObjectShape) -> Json {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in &object.fields {
        let mut schema = field.shape.to_structural_schema(field.rules);
        describe(&mut schema, field.doc);
        if let Some(default) = default_of(&field.default) {
            schema["default"] = default.clone();
        }
        properties.insert(field.name.to_owned(), schema);
        if field.required {
            required.push(field.name);
        }
    }
    for name in object.ignored.iter().filter(|name| **name != "*") {
        properties.insert((*name).to_owned(), json!({"x-kubernetes-preserve-unknown-fields": true}));
    }
    let mut schema = json!({"type": "object", "properties": properties});
    describe(&mut schema, object.doc);
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if object.open {
        schema["x-kubernetes-preserve-unknown-fields"] = json!(true);
    }
    schema
}

/// One field names the variant, and CEL rules say that just the variant's own field is there.
fn union_schema(union: &UnionShape) -> Json {
    let words: Vec<&str> = union.variants.iter().map(|variant| variant.word).collect();
    let tag_doc = "Which of the other fields is there.";
    let mut properties = Map::new();
    properties.insert(union.tag.to_owned(), json!({"type": "string", "enum": words, "description": tag_doc}));
    let mut validations = Vec::new();
    for variant in &union.variants {
        let mut schema = variant.shape.to_structural_schema(variant.rules);
        describe(&mut schema, variant.doc);
        properties.insert(variant.field.to_owned(), schema);
        let (tag, word, field) = (union.tag, variant.word, variant.field);
        validations.push(json!({
            "rule": format!("(self.{tag} == '{word}') == has(self.{field})"),
            "message": format!("{field} stands there when, and only when, {tag} is {word}"),
        }));
    }
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "required": [union.tag],
        "x-kubernetes-validations": validations,
    });
    describe(&mut schema, union.doc);
    schema
}

fn describe(schema: &mut Json, doc: &str) {
    let doc = tidy(doc);
    if !doc.is_empty() {
        schema["description"] = doc.into();
    }
}

/// A default that says something: nothing and empty collections are what an absent field is anyway.
fn default_of(default: &Option<Json>) -> Option<&Json> {
    default.as_ref().filter(|value| match value {
        Json::Null => false,
        Json::Array(items) => !items.is_empty(),
        Json::Object(fields) => !fields.is_empty(),
        _ => true,
    })
}

fn apply(rules: &[Rule], schema: &mut Json) {
    rules.iter().for_each(|rule| rule.write(Dialect::Structural, schema));
}

// The macro makes what it declares public.
#[cfg(test)]
#[allow(unreachable_pub)]
mod tests {
    use super::*;
    use crate::schema::Schema;

    crate::object! {
        /// A stall.
        pub struct Stall {
            /// Its name.
            name: String => Rule::Length(1, 9);
            /// Its size.
            size: u16 = 3 => Rule::Range(1, 4);
            /// Its words.
            words: Vec<String> => Rule::Unique, Rule::MaxItems(2);
        }
    }

    crate::object! {
        /// A market.
        pub struct Market {
            /// Its stalls.
            stalls: Vec<Stall> => Rule::UniqueBy("name");
            /// Whether it is open.
            open: Option<bool>;
        }
    }

    #[test]
    fn lists_are_maps_by_their_keys_and_sets_by_their_items() {
        let schema = Market::shape().to_structural_schema(&[]);
        let stalls = &schema["properties"]["stalls"];
        assert_eq!(stalls["x-kubernetes-list-type"], "map");
        assert_eq!(stalls["x-kubernetes-list-map-keys"], json!(["name"]));
        let stall = &stalls["items"];
        assert_eq!(stall["required"], json!(["name"]));
        assert_eq!(stall["properties"]["size"]["default"], 3);
        assert_eq!(stall["properties"]["words"]["x-kubernetes-list-type"], "set");
        assert_eq!(stall["properties"]["words"]["maxItems"], 2);
        assert_eq!(stall["additionalProperties"], Json::Null);
        assert_eq!(schema["properties"]["open"]["type"], "boolean");
    }
}
