//! The one form of a path and of an authority: what is matched is what is sent.
//!
//! Called by the codecs (to refuse what is no authority), by the engine (on configuration and on requests) and by the
//! proxy between reading a head and deciding on it. Pure functions over bytes; what may be allowed is said by
//! [`PathRules`], which a listener's settings supply.

mod authority;
mod path;

pub use authority::{Authority, BadAuthority, authority, host_lower};
pub use path::{BadPath, Controls, Encoding, Form, MergeSlashes, Normal, PathRules, Slashes, path, query};
