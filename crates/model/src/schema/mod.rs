//! The one definition of every configuration type: decoding, JSON Schema and reference documentation from one place.
//!
//! Types are declared with [`object!`](crate::object), [`choice!`](crate::choice) and [`union!`](crate::union), by `kinds` and by
//! whoever owns a policy's spec. What they share is here: the [`Schema`] trait, the [`Decoder`] that collects every error of an object, the
//! [`Rule`]s a field can carry, and the [`Shape`] that describes a type. Rules between objects are not here: they are status.

mod decoder;
mod formats;
mod macros;
mod moment;
mod primitives;
mod rules;
mod shape;
mod structural;

pub use decoder::{Decoder, Presence, Step};
pub use formats::{
    ABSOLUTE_URI, ADDRESS_TYPE, ANNOTATION_KEY, CONTROLLER, CORS_ORIGIN, Format, GROUP, GRPC_METHOD, GRPC_SERVICE,
    HEADER_NAME, HEADER_VALUE, HOSTNAME, KIND, LABEL_VALUE, NAMESPACE, OBJECT_NAME, PATH_CHARACTERS, PRECISE_HOSTNAME,
    PROTOCOL, RESOURCE_NAME, SECTION_NAME, parse_duration, write_duration,
};
pub use macros::{camel, camel_length};
pub use moment::Moment;
pub use primitives::{Labels, Text};
pub use rules::Rule;
pub use shape::{FieldShape, ObjectShape, Shape, UnionShape, VariantShape};

use crate::value::Value;

/// A type that configuration is read into.
pub trait Schema: Sized {
    /// Reads `value`. Every error is written into `cx`; `None` means that there was at least one. A value may be returned
    /// although an error was written (a rule was broken that does not keep the rest from being read).
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self>;

    /// What the type is, for JSON Schema and the reference.
    fn shape() -> Shape;

    /// The value as JSON in wire form, with defaults filled in.
    fn encode(&self) -> serde_json::Value;

    /// What a field of this type is when nobody wrote it; none when it must be written.
    fn absent() -> Option<Self> {
        None
    }

    /// True when [`Schema::encode`] has nothing worth writing (an empty list, an option that is not set).
    fn is_absent(&self) -> bool {
        false
    }

    /// Whether the name of an entry of this type may be a secret itself, written in the wrong place, so that no message repeats it.
    fn hides(_name: &str) -> bool {
        false
    }

    /// JSON Schema (draft 2020-12) of the type.
    fn json_schema() -> serde_json::Value {
        Self::shape().to_json_schema(&[])
    }
}
