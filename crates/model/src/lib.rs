//! Transept's model: every object as one Rust type, parsed with positions, validated, indexed in a [`World`].
//!
//! Everything above reads configuration through this crate. It does no IO, knows no wire format and no policy's inside: of a
//! policy it reads the envelope, and keeps the rest as a [`Value`] until `engine` parses it.

pub mod attach;
pub mod catalogue;
pub mod certificate;
pub mod company;
pub mod crd;
pub mod hostname;
pub mod kinds;
pub mod load;
pub mod place;
pub mod policy;
pub mod references;
pub mod schema;
pub mod secrecy;
pub mod status;
pub mod suggest;
pub mod value;
pub mod world;

pub use load::{Loaded, Loader, Outside, load};
pub use place::{Invalid, Note, ObjectName, Place, SourceText, Spot};
pub use policy::{Merge, Policy, PolicyKind, Target};
pub use schema::Schema;
pub use value::Value;
pub use world::World;
