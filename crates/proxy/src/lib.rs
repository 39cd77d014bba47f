//! Transept's proxy crate.
