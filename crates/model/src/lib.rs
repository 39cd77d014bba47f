//! Transept's model crate.
