//! Transept's model: every object as one Rust type, parsed with positions, validated, indexed in a `World`.
//!
//! Everything above reads configuration through this crate. It does no IO, knows no wire format and no policy's inside: of a
//! policy it reads the envelope, and keeps the rest as a [`Value`] until `engine` parses it.

pub mod kinds;
pub mod place;
pub mod schema;
pub mod suggest;
pub mod value;

pub use place::{Invalid, Note, ObjectName, Place, SourceText, Spot};
pub use schema::Schema;
pub use value::Value;
