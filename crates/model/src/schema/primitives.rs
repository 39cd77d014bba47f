//! How plain Rust types are read: numbers, text, flags, durations, lists, options, mappings.
//!
//! Called through the `Schema` trait only. Rules on top of them (lengths, formats) are in `rules`.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::Value as Json;

use crate::kinds::GATEWAY_GROUP;
use crate::schema::{Decoder, Schema, Shape, Step, parse_duration, write_duration};
use crate::value::{Node, Value};

/// Labels, annotations and other free mappings from text to text, in the order of their keys.
pub type Labels = BTreeMap<String, String>;

impl Schema for bool {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        match value.node {
            Node::Bool(flag) => Some(flag),
            _ => {
                cx.expected(value, "true or false");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Bool
    }

    fn encode(&self) -> Json {
        (*self).into()
    }
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Schema for $type {
            fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
                let Node::Integer(number) = value.node else {
                    cx.expected(value, "a whole number");
                    return None;
                };
                let read = <$type>::try_from(number).ok();
                if read.is_none() {
                    let (least, most) = bounds::<$type>();
                    // A field with a tighter rule of its own has said so already.
                    if !cx.has_refused(value.at) {
                        cx.refuse(value.at, format!("must be between {least} and {most}, is {number}"));
                    }
                }
                read
            }

            fn shape() -> Shape {
                let (least, most) = bounds::<$type>();
                Shape::Integer(least, most)
            }

            fn encode(&self) -> Json {
                (*self).into()
            }
        }
    )*};
}

integers!(u8 u16 u32 u64 i32 i64);

fn bounds<T: TryInto<i64> + Bounded>() -> (i64, i64) {
    (T::LEAST.try_into().unwrap_or(i64::MIN), T::MOST.try_into().unwrap_or(i64::MAX))
}

trait Bounded: Sized {
    const LEAST: Self;
    const MOST: Self;
}

macro_rules! bounded {
    ($($type:ty)*) => {$(
        impl Bounded for $type {
            const LEAST: Self = <$type>::MIN;
            const MOST: Self = <$type>::MAX;
        }
    )*};
}

bounded!(u8 u16 u32 u64 i32 i64);

impl Schema for String {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        match &value.node {
            Node::Text(text) => Some(text.to_string()),
            _ => {
                cx.expected(value, "text");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Text
    }

    fn encode(&self) -> Json {
        self.as_str().into()
    }
}

/// Shared text: cloning it costs no memory. Used for names that the compiled configuration keeps.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(Arc<str>);

impl Text {
    /// The text itself, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands in most objects without being written, as a default of their fields.
static USUAL: LazyLock<[Text; 9]> = LazyLock::new(|| {
    ["", "/", "default", "Service", "Gateway", "HTTPRoute", "GRPCRoute", "Secret", GATEWAY_GROUP]
        .map(|text| Text(text.into()))
});

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        USUAL.iter().find(|usual| *usual == text).cloned().unwrap_or_else(|| Self(text.into()))
    }
}

impl From<Arc<str>> for Text {
    fn from(text: Arc<str>) -> Self {
        Self(text)
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl Schema for Text {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        match &value.node {
            Node::Text(text) => Some(Self(text.clone())),
            _ => {
                cx.expected(value, "text");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Text
    }

    fn encode(&self) -> Json {
        Json::from(&*self.0)
    }
}

impl Schema for Duration {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        let Some(text) = value.text() else {
            cx.expected(value, "a duration");
            if let Node::Integer(number) = value.node {
                cx.amend(format!("write the unit: {number}s or {number}ms"));
            }
            return None;
        };
        let duration = parse_duration(text);
        if duration.is_none() {
            cx.refuse(value.at, format!("{} is not a duration", crate::value::quote(text)))
                .remedy("whole numbers with h, m, s or ms: 1m30s, 500ms");
        }
        duration
    }

    fn shape() -> Shape {
        Shape::Duration
    }

    fn encode(&self) -> Json {
        write_duration(*self).into()
    }
}

impl<T: Schema> Schema for Option<T> {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        T::decode(value, cx).map(Some)
    }

    fn shape() -> Shape {
        T::shape()
    }

    fn encode(&self) -> Json {
        self.as_ref().map_or(Json::Null, Schema::encode)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Schema> Schema for Box<T> {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        T::decode(value, cx).map(Box::new)
    }

    fn shape() -> Shape {
        T::shape()
    }

    fn encode(&self) -> Json {
        T::encode(self)
    }
}

impl<T: Schema> Schema for Vec<T> {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        let Node::List(items) = &value.node else {
            cx.expected(value, "a list");
            return None;
        };
        let mut whole = true;
        let mut read = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match cx.within(index, |cx| T::decode(item, cx)) {
                Some(item) => read.push(item),
                None => whole = false,
            }
        }
        whole.then_some(read)
    }

    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }

    fn encode(&self) -> Json {
        self.iter().map(Schema::encode).collect()
    }

    fn absent() -> Option<Self> {
        Some(Vec::new())
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl<T: Schema> Schema for BTreeMap<String, T> {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        let Node::Map(entries) = &value.node else {
            cx.expected(value, "a mapping");
            return None;
        };
        let mut whole = true;
        let mut read = BTreeMap::new();
        for entry in entries {
            let step = Step::Key(if T::hides(&entry.key) { "…".into() } else { entry.key.clone() });
            match cx.within(step, |cx| T::decode(&entry.value, cx)) {
                Some(item) => {
                    read.insert(entry.key.to_string(), item);
                }
                None => whole = false,
            }
        }
        whole.then_some(read)
    }

    fn shape() -> Shape {
        Shape::Map(Box::new(T::shape()))
    }

    fn encode(&self) -> Json {
        self.iter().map(|(key, value)| (key.clone(), value.encode())).collect::<serde_json::Map<_, _>>().into()
    }

    fn absent() -> Option<Self> {
        Some(BTreeMap::new())
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

/// Anything at all, kept as it was written. Used where another party defines the content.
impl Schema for Value {
    fn decode(value: &Value, _: &mut Decoder) -> Option<Self> {
        Some(value.clone())
    }

    fn shape() -> Shape {
        Shape::Any
    }

    fn encode(&self) -> Json {
        self.to_json()
    }
}
