//! Transept's wire crate.
