//! Transept's engine crate.
