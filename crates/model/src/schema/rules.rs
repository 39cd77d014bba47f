//! The rules that a single field can carry: lengths, ranges, formats, uniqueness.
//!
//! Called by the decoder before a field is read, on the raw value, so that a rule is the same for every type, and by what writes schemas. Rules between
//! fields are functions beside the types they concern.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use crate::place::Spot;
use crate::schema::{Decoder, Format};
use crate::value::{Node, Value, quote};

/// A limit on what a field may hold. Rules for text and numbers also hold for every item of a list and every value of a
/// mapping. Values of another type are left to the decoder.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// A list has at least this many items.
    MinItems(usize),
    /// A list that is written has an item. For lists of which one must hold: without the field everything does, and a list that somebody else fills in
    /// must not come to mean that by being empty.
    NotEmpty,
    /// A list has at most this many items.
    MaxItems(usize),
    /// A mapping has at most this many entries.
    MaxEntries(usize),
    /// Text has at least the first and at most the second number of characters.
    Length(usize, usize),
    /// A whole number lies in this range, both ends included.
    Range(i64, i64),
    /// Text has this format.
    Is(&'static Format),
    /// The keys of a mapping have this format.
    Keys(&'static Format),
    /// No two items of a list of text are equal.
    Unique,
    /// No two items of a list of objects have the same text in this field.
    UniqueBy(&'static str),
}

/// What kind of schema a rule is written into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// JSON Schema.
    Json,
    /// The structural schemas of a CustomResourceDefinition.
    Structural,
}

impl Rule {
    /// True when the rule is broken by a field that is not written at all.
    pub(crate) fn needs_something(&self) -> bool {
        matches!(self, Rule::MinItems(1..))
    }

    /// Whether it is about a list or a mapping as a whole, and not about what is in it.
    pub(super) fn is_of_collection(&self) -> bool {
        matches!(
            self,
            Rule::MinItems(_)
                | Rule::NotEmpty
                | Rule::MaxItems(_)
                | Rule::MaxEntries(_)
                | Rule::Unique
                | Rule::UniqueBy(_)
                | Rule::Keys(_)
        )
    }

    /// Writes it into a schema, as far as a schema can say it; the decoder holds it in any case.
    pub(super) fn write(&self, dialect: Dialect, schema: &mut Json) {
        match self {
            Rule::MinItems(least) => schema["minItems"] = json!(least),
            Rule::NotEmpty => schema["minItems"] = json!(1),
            Rule::MaxItems(most) => schema["maxItems"] = json!(most),
            Rule::MaxEntries(most) => schema["maxProperties"] = json!(most),
            Rule::Length(least, most) => {
                schema["minLength"] = json!(least);
                schema["maxLength"] = json!(most);
            }
            Rule::Range(least, most) => {
                schema["minimum"] = json!(least);
                if *most != i64::MAX {
                    schema["maximum"] = json!(most);
                }
            }
            Rule::Is(format) => {
                if format.least > 0 {
                    schema["minLength"] = json!(format.least);
                }
                schema["maxLength"] = json!(format.most);
                // `(?i)` is not a JSON Schema regular expression.
                let is_known = dialect == Dialect::Structural || !format.pattern.contains("(?i)");
                if !format.pattern.is_empty() && is_known {
                    schema["pattern"] = json!(format.pattern);
                }
            }
            // In a CustomResourceDefinition lists tell it by their type; the keys of a mapping would cost a CEL rule per key.
            Rule::Unique if dialect == Dialect::Json => schema["uniqueItems"] = json!(true),
            Rule::Keys(format) if dialect == Dialect::Json => {
                schema["propertyNames"] = json!({"pattern": format.pattern})
            }
            Rule::Unique | Rule::Keys(_) | Rule::UniqueBy(_) => {}
        }
    }

    /// Writes into `cx` how `value` breaks the rule.
    pub(crate) fn check(&self, value: &Value, cx: &mut Decoder) {
        match (self, &value.node) {
            (Rule::MinItems(least), Node::List(items)) if items.len() < *least => {
                let why = format!("needs at least {}, has {}", count(*least), items.len());
                cx.refuse(value.at, why);
            }
            (Rule::NotEmpty, Node::List(items)) if items.is_empty() => {
                cx.refuse(value.at, "an empty list asks for nothing, as if the field were not there")
                    .remedy("leave the field out where anything will do, or write what will");
            }
            (Rule::MaxItems(most), Node::List(items)) if items.len() > *most => {
                let at = items.get(*most).map_or(value.at, |item| item.at);
                let why = format!("may have at most {}, has {}", count(*most), items.len());
                cx.refuse(at, why);
            }
            (Rule::MaxEntries(most), Node::Map(entries)) if entries.len() > *most => {
                let at = entries.get(*most).map_or(value.at, |entry| entry.at);
                cx.refuse(at, format!("may have at most {most} entries, has {}", entries.len()));
            }
            (Rule::Unique, Node::List(items)) => {
                unique(items.iter().map(|item| (item.text(), item.at)), cx);
            }
            (Rule::UniqueBy(field), Node::List(items)) => {
                let names = items.iter().map(|item| {
                    let text = item.field(field).and_then(Value::text);
                    (text, item.spot_of(field))
                });
                unique(names, cx);
            }
            (Rule::Keys(format), Node::Map(entries)) => {
                for entry in entries {
                    format.check(&entry.key, entry.at, cx);
                }
            }
            (Rule::Length(..) | Rule::Range(..) | Rule::Is(_), Node::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    cx.within(index, |cx| self.check_one(item, cx));
                }
            }
            (Rule::Length(..) | Rule::Range(..) | Rule::Is(_), Node::Map(entries)) => {
                for entry in entries {
                    let step = super::Step::Key(entry.key.clone());
                    cx.within(step, |cx| self.check_one(&entry.value, cx));
                }
            }
            _ => self.check_one(value, cx),
        }
    }

    fn check_one(&self, value: &Value, cx: &mut Decoder) {
        match (self, &value.node) {
            (Rule::Length(least, most), Node::Text(text)) => {
                length(text, *least, *most, value.at, cx);
            }
            (Rule::Range(least, most), Node::Integer(number)) if number < least || number > most => {
                let why = if *most == i64::MAX {
                    format!("must be at least {least}, is {number}")
                } else {
                    format!("must be between {least} and {most}, is {number}")
                };
                cx.refuse(value.at, why);
            }
            (Rule::Is(format), Node::Text(text)) => format.check(text, value.at, cx),
            _ => {}
        }
    }
}

/// Refuses text that is shorter or longer than allowed; false when it did.
pub(crate) fn length(text: &str, least: usize, most: usize, at: Spot, cx: &mut Decoder) -> bool {
    let characters = text.chars().count();
    if characters == 0 && least > 0 {
        cx.refuse(at, "must not be empty");
    } else if characters < least {
        let why = format!("must have at least {least} characters, has {characters}");
        cx.refuse(at, why);
    } else if characters > most {
        let why = format!("may have at most {most} characters, has {characters}");
        cx.refuse(at, why);
    } else {
        return true;
    }
    false
}

fn unique<'v>(names: impl Iterator<Item = (Option<&'v str>, Spot)>, cx: &mut Decoder) {
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for (name, at) in names {
        let Some(name) = name else { continue };
        if let Some(line) = seen.get(name) {
            let why = format!("{} stands in this list already (line {line})", quote(name));
            cx.refuse(at, why).remedy("each may stand there once");
        } else {
            seen.insert(name, at.line);
        }
    }
}

fn count(items: usize) -> String {
    match items {
        1 => "1 item".to_owned(),
        items => format!("{items} items"),
    }
}
