//! Transept's control crate.
