//! Why a request is decided as it is: the engine's own functions, watched.
//!
//! Called by `transept explain` and by the cases. Traffic runs the same code with [`Silent`], which costs nothing.

use std::sync::Arc;

use crate::route::predicates::Lost;
use crate::rule::Rule;

/// Watches a route lookup.
pub trait Trace {
    /// Whether anybody looks. When not, no argument is computed.
    const ON: bool;

    /// A match was tried, and won when nothing was lost.
    fn candidate(
        &mut self,
        rule: &Arc<Rule>,
        match_index: u16,
        hostname: &str,
        lost: Option<Lost<'_>>,
    );
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Trace for Silent {
    const ON: bool = false;

    fn candidate(&mut self, _: &Arc<Rule>, _: u16, _: &str, _: Option<Lost<'_>>) {}
}
