//! A world into a snapshot.

pub(crate) mod filters;
