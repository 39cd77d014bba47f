//! The eighth verb of the road: one rule for a request.
//!
//! Called by the proxy after `admit`, by `explain` and by the cases. Matching is on the normalised path, the very bytes that are
//! forwarded. Building the index is left to `table`, the meaning of conditions to `predicates`, host names to `hosts`.

pub mod hosts;
pub mod predicates;
pub mod table;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use transept_wire::head::Request;

pub use table::RouteTable;

use crate::explain::{Silent, Trace};
use crate::rule::Rule;
use crate::snapshot::Listener;

/// The rule that was found for a request, and how.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'s> {
    /// The rule. Cloning the `Arc` is how it outlives the snapshot's borrow, in a log record for example.
    pub rule: &'s Arc<Rule>,
    /// Bytes of the path that the match covered, without a trailing slash; the whole path for exact and pattern matches. What
    /// `ReplacePrefixMatch` replaces.
    pub matched_prefix: usize,
    /// The hostname pattern under which the rule was found; empty for any.
    pub hostname: &'s str,
    /// Position of the match in the rule.
    pub match_index: u16,
}

/// Finds the rule for a request on a listener. `host` is lower-case, without port and trailing dot. None is a 404.
pub fn route<'s>(listener: &'s Listener, request: &Request, host: &str) -> Option<Routed<'s>> {
    route_traced(listener, request, host, &mut Silent)
}

/// The same, telling `trace` about every candidate that was tried.
pub fn route_traced<'s, T: Trace>(
    listener: &'s Listener,
    request: &Request,
    host: &str,
    trace: &mut T,
) -> Option<Routed<'s>> {
    listener.routes.find(request, host, trace)
}
