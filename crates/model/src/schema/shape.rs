//! What a type looks like from outside, for JSON Schema, the reference pages and completion.
//!
//! Made by the schema macros, read by the catalogue and by whoever documents. It says nothing about decoding.

use serde_json::{Map, Value as Json, json};

use crate::schema::Rule;
use crate::schema::rules::Dialect;

/// The description of a type.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Anything.
    Any,
    /// `true` or `false`.
    Bool,
    /// A whole number in a range, both ends included.
    Integer(i64, i64),
    /// A whole number or text (a port by number or by name).
    IntegerOrText,
    /// Text.
    Text,
    /// Base64 text.
    Base64,
    /// A GEP-2257 duration.
    Duration,
    /// Text out of an open list: these words, and others that have their own meaning elsewhere.
    Open(Vec<(&'static str, &'static str)>),
    /// One word of a closed list, each with what it means.
    Choice(&'static str, Vec<(&'static str, &'static str)>),
    /// One whole number of a closed list.
    Numbers(Vec<i64>),
    /// A list.
    List(Box<Shape>),
    /// A mapping with free keys.
    Map(Box<Shape>),
    /// An object with known fields.
    Object(ObjectShape),
    /// A tagged union.
    Union(UnionShape),
}

/// An object with known fields.
#[derive(Clone, Debug)]
pub struct ObjectShape {
    /// The Rust name of the type, used as its heading.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// Its fields in order.
    pub fields: Vec<FieldShape>,
    /// True when keys that are not among the fields are let pass.
    pub open: bool,
    /// Fields that are accepted and ignored.
    pub ignored: &'static [&'static str],
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct FieldShape {
    /// Its name on the wire.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// Its type.
    pub shape: Shape,
    /// True when it must be written.
    pub required: bool,
    /// The value it has when it is not written, if that is one.
    pub default: Option<Json>,
    /// Its rules.
    pub rules: &'static [Rule],
}

/// A union whose variant is named by one field and described by the field of that variant.
#[derive(Clone, Debug)]
pub struct UnionShape {
    /// The Rust name of the type.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// The field that names the variant.
    pub tag: &'static str,
    /// The variants.
    pub variants: Vec<VariantShape>,
}

/// A variant of a union.
#[derive(Clone, Debug)]
pub struct VariantShape {
    /// The word in the tag field.
    pub word: &'static str,
    /// The field that describes it.
    pub field: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// The type of the field.
    pub shape: Shape,
    /// The field's rules.
    pub rules: &'static [Rule],
}

impl Shape {
    /// JSON Schema (draft 2020-12), with the rules of the field that holds it.
    pub fn to_json_schema(&self, rules: &[Rule]) -> Json {
        let mut schema = match self {
            Shape::Any => json!({}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Integer(least, most) => {
                let mut schema = json!({"type": "integer"});
                if *least != i64::MIN {
                    schema["minimum"] = json!(least);
                }
                if *most != i64::MAX {
                    schema["maximum"] = json!(most);
                }
                schema
            }
            Shape::IntegerOrText => json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}),
            Shape::Text => json!({"type": "string"}),
            Shape::Base64 => json!({"type": "string", "contentEncoding": "base64"}),
            Shape::Duration => {
                json!({"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"})
            }
            Shape::Open(words) => {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                json!({"type": "string", "examples": words})
            }
            Shape::Choice(_, words) => {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                json!({"type": "string", "enum": words})
            }
            Shape::Numbers(numbers) => json!({"type": "integer", "enum": numbers}),
            Shape::List(item) => {
                let (own, inner): (Vec<Rule>, Vec<Rule>) = rules.iter().copied().partition(Rule::is_of_collection);
                let mut schema = json!({"type": "array", "items": item.to_json_schema(&inner)});
                apply(&own, &mut schema);
                return schema;
            }
            Shape::Map(item) => {
                let (own, inner): (Vec<Rule>, Vec<Rule>) = rules.iter().copied().partition(Rule::is_of_collection);
                let mut schema = json!({"type": "object", "additionalProperties": item.to_json_schema(&inner)});
                apply(&own, &mut schema);
                return schema;
            }
            Shape::Object(object) => object.to_json_schema(),
            Shape::Union(union) => union.to_json_schema(),
        };
        apply(rules, &mut schema);
        schema
    }
}

impl ObjectShape {
    fn to_json_schema(&self) -> Json {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in &self.fields {
            let mut schema = field.shape.to_json_schema(field.rules);
            if let Json::Object(map) = &mut schema {
                map.insert("description".to_owned(), tidy(field.doc).into());
                if let Some(default) = &field.default {
                    map.insert("default".to_owned(), default.clone());
                }
            }
            properties.insert(field.name.to_owned(), schema);
            if field.required {
                required.push(field.name);
            }
        }
        for name in self.ignored.iter().filter(|name| **name != "*") {
            properties.insert((*name).to_owned(), json!({}));
        }
        let mut schema = json!({
            "type": "object",
            "description": tidy(self.doc),
            "properties": properties,
        });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        if !self.open {
            schema["additionalProperties"] = json!(false);
        }
        schema
    }
}

impl UnionShape {
    fn to_json_schema(&self) -> Json {
        let variants: Vec<Json> = self
            .variants
            .iter()
            .map(|variant| {
                let mut inner = variant.shape.to_json_schema(variant.rules);
                if let Json::Object(map) = &mut inner {
                    map.insert("description".to_owned(), tidy(variant.doc).into());
                }
                json!({
                    "type": "object",
                    "properties": {self.tag: {"const": variant.word}, variant.field: inner},
                    "required": [self.tag, variant.field],
                    "additionalProperties": false,
                })
            })
            .collect();
        json!({"description": tidy(self.doc), "oneOf": variants})
    }
}

fn apply(rules: &[Rule], schema: &mut Json) {
    rules.iter().for_each(|rule| rule.write(Dialect::Json, schema));
}

/// Documentation without the blanks that its lines begin with.
pub(crate) fn tidy(doc: &str) -> String {
    let lines: Vec<&str> = doc.lines().map(str::trim).collect();
    lines.join("\n").trim().to_owned()
}
