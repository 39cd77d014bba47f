//! The rules of comparison (section 3 of the suite's description), as functions over what was expected and what came.
//!
//! Called by `steps` and `mesh`. Nothing here waits or sends: every function returns what it complains about.

pub(crate) mod http;
pub(crate) mod mesh;
pub(crate) mod shares;
pub(crate) mod status;
