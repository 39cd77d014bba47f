//! YAML and JSON text as a tree in which every key and every value knows where it was written.
//!
//! Called by the loader once a file, and by the `schema` module, which turns trees into types. Reading is budgeted: size, depth, number
//! of nodes and what aliases may expand to are limited, so that a hostile file costs an error message and nothing else. It
//! deliberately knows no field and no kind; JSON needs nothing of its own, because it is YAML.

mod read;
mod scalar;
mod words;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::place::Spot;
use crate::secrecy;

pub(crate) use read::read_each;
pub use read::{Budget, read};
pub(crate) use words::Words;

/// A node of a document with its position.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Value {
    /// Where the node begins.
    pub at: Spot,
    /// What it is.
    pub node: Node,
}

/// What a node is, by the YAML 1.2 core schema.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// `null`, `~` or nothing at all.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number. Numbers beyond 64 bits are floats.
    Integer(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// Text, quoted or plain.
    Text(Arc<str>),
    /// A sequence.
    List(Vec<Value>),
    /// A mapping in the order it was written; keys are unique.
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// Where the key stands.
    pub at: Spot,
    /// Its value.
    pub value: Value,
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Node::Null => {}
            Node::Bool(value) => value.hash(state),
            Node::Integer(value) => value.hash(state),
            // Both zeros are equal, so they must hash alike.
            Node::Float(value) => (if *value == 0.0 { 0.0 } else { *value }).to_bits().hash(state),
            Node::Text(text) => text.hash(state),
            Node::List(items) => items.hash(state),
            Node::Map(entries) => entries.hash(state),
        }
    }
}

impl Value {
    /// The value of `key`, when this is a mapping that has it.
    pub fn field(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry of `key`, when this is a mapping that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| &*entry.key == key)
    }

    /// The entries of a mapping; none for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.node {
            Node::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a sequence; none for anything else.
    pub fn items(&self) -> &[Value] {
        match &self.node {
            Node::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a text node.
    pub fn text(&self) -> Option<&str> {
        match &self.node {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// True for `null` and for nothing.
    pub fn is_null(&self) -> bool {
        matches!(self.node, Node::Null)
    }

    /// Where the value of `key` stands, or where this node begins when there is no such key.
    pub fn spot_of(&self, key: &str) -> Spot {
        self.field(key).map_or(self.at, |value| value.at)
    }

    /// What the node is in words, for messages: `the text "x"`, `the number 5`, `a list`.
    pub fn describe(&self) -> String {
        match &self.node {
            Node::Null => "nothing".to_owned(),
            Node::Bool(value) => format!("`{value}`"),
            Node::Integer(value) => format!("the number {value}"),
            Node::Float(value) => format!("the number {value}"),
            Node::Text(text) if secrecy::may_be_credential(text) => "text".to_owned(),
            Node::Text(text) => format!("the text {}", quote(text)),
            Node::List(_) => "a list".to_owned(),
            Node::Map(_) => "a mapping".to_owned(),
        }
    }

    /// What kind of node it is in words, for messages that must not repeat it: `text`, `a number`, `a list`.
    pub fn kind(&self) -> &'static str {
        match &self.node {
            Node::Null => "nothing",
            Node::Bool(_) => "true or false",
            Node::Integer(_) | Node::Float(_) => "a number",
            Node::Text(_) => "text",
            Node::List(_) => "a list",
            Node::Map(_) => "a mapping",
        }
    }

    /// The same tree as JSON, without positions.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.node {
            Node::Null => serde_json::Value::Null,
            Node::Bool(value) => (*value).into(),
            Node::Integer(value) => (*value).into(),
            Node::Float(value) => (*value).into(),
            Node::Text(text) => serde_json::Value::from(&**text),
            Node::List(items) => items.iter().map(Value::to_json).collect(),
            Node::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.to_string(), entry.value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

/// `text` in quotes for a message, cut when it is long. What may be a credential is not repeated.
pub fn quote(text: &str) -> String {
    const LONGEST: usize = 60;
    if secrecy::may_be_credential(text) {
        return secrecy::HIDDEN.to_owned();
    }
    if text.chars().count() <= LONGEST {
        return format!("{text:?}");
    }
    let short: String = text.chars().take(LONGEST).collect();
    format!("{short:?}...")
}

/// `text` in backticks for a message, as everything that findings name is written, cut when it is long. What may be a credential is not repeated.
pub fn ticked(text: &str) -> String {
    const LONGEST: usize = 60;
    if secrecy::may_be_credential(text) {
        return secrecy::HIDDEN.to_owned();
    }
    let short: String = text.chars().take(LONGEST).filter(|char| !char.is_control()).collect();
    let more = if text.chars().nth(LONGEST).is_some() { "..." } else { "" };
    format!("`{short}{more}`")
}

#[cfg(test)]
mod tests;
