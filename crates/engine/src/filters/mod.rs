//! The filters of Gateway API, compiled: what a rule or a backendRef does to requests and responses.
//!
//! Called by `screen` (rule, request side), by `pick::apply_backend_filters` (backendRef, request side) and by `relay` (response side).
//! Compiled by `compile/filters.rs`. Sending mirrored copies is left to the proxy: here they are only chosen.

pub mod cors;
pub mod headers;
pub mod mirror;
pub mod redirect;
pub mod rewrite;

use std::sync::{Arc, LazyLock};

use transept_wire::head::Response;

pub use cors::Cors;
pub use headers::HeaderChanges;
pub use mirror::Mirror;
pub use redirect::Redirect;
pub use rewrite::{PathChange, Rewrite};

use crate::exchange::Exchange;
use crate::policies::Step;
use crate::rule::{BrokenRef, Site};
use crate::verdict::{Reply, Verdict};

/// The filters of one rule or one backendRef.
#[derive(Debug, Default)]
pub struct Filters {
    /// Cross-origin resource sharing: answers preflights, marks responses.
    pub cors: Option<Box<Cors>>,
    /// What happens to the request, in the order written.
    pub request: Box<[RequestFilter]>,
    /// What happens to the response, in the order written.
    pub response: Box<[HeaderChanges]>,
    /// Where copies go.
    pub mirrors: Box<[Mirror]>,
    /// Set when a filter is invalid or not supported: the standard wants requests to fail, not to skip the filter.
    pub broken: Option<BrokenRef>,
    /// `ExternalAuth`: a step in the chain of policies of the rule.
    pub external_auth: Option<Arc<Step>>,
    /// What is written where, for explanations.
    pub sites: Box<[FilterSite]>,
}

/// A filter that acts on the request.
#[derive(Clone, Debug)]
pub enum RequestFilter {
    /// `RequestHeaderModifier`.
    Headers(HeaderChanges),
    /// `URLRewrite`.
    Rewrite(Rewrite),
    /// `RequestRedirect`; later filters do not run.
    Redirect(Redirect),
}

/// The place of a filter in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSite {
    /// The filter's type as written, such as `URLRewrite`.
    pub name: Box<str>,
    /// Where it is written.
    pub place: Site,
}

/// What most rules have.
static NONE: LazyLock<Arc<Filters>> = LazyLock::new(Arc::default);

impl Filters {
    /// No filters, in memory that all rules without any share.
    pub(crate) fn none() -> Arc<Filters> {
        Arc::clone(&NONE)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.cors.is_none()
            && self.request.is_empty()
            && self.response.is_empty()
            && self.mirrors.is_empty()
            && self.broken.is_none()
            && self.external_auth.is_none()
    }

    /// Whether CORS preflights for the rule are answered here.
    pub fn answers_preflights(&self) -> bool {
        self.cors.is_some()
    }

    /// Whether the request side changes the request or answers it.
    pub fn touches_request(&self) -> bool {
        !self.request.is_empty() || self.broken.is_some()
    }

    /// Applies the request side, except for CORS, which `screen` asks before. `prefix` is how much of the path the match covered;
    /// gives the same for the new path.
    pub(crate) fn apply_to_request(&self, x: &mut Exchange<'_>, prefix: usize) -> (Verdict, usize) {
        let mut prefix = prefix;
        if let Some(broken) = &self.broken {
            return (Reply::new(broken.reason).into(), prefix);
        }
        for filter in &self.request {
            match filter {
                RequestFilter::Headers(changes) => changes.apply_to_request(x.request),
                RequestFilter::Rewrite(rewrite) => prefix = rewrite.apply(x.request, prefix),
                RequestFilter::Redirect(redirect) => {
                    return (redirect.reply(x, prefix).into(), prefix);
                }
            }
        }
        (Verdict::Continue, prefix)
    }

    /// Applies the response side, except for CORS, which comes last of all.
    pub(crate) fn apply_to_response(&self, response: &mut Response) {
        for changes in &self.response {
            changes.apply(&mut response.fields);
        }
    }
}
