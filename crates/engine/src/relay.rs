//! The response side of the fourteenth verb: filters and policies on a response head, in reverse order of the request side.
//!
//! Called by the proxy once per final response, the backend's or our own, before its head is written. Moving the body is the
//! proxy's. Replies of the gateway pass here too: a 401 without CORS fields is a network error to a browser.

use crate::exchange::Exchange;
use crate::rule::{Rule, WeightedBackend};
use crate::snapshot::Listener;
use transept_wire::head::Response;

/// Whether what [`relay`] does depends on the time.
pub fn asks_time(listener: &Listener, rule: Option<&Rule>) -> bool {
    !rule.map_or(&listener.chain, |rule| &rule.chain).is_empty()
}

/// Applies what the configuration says about responses. `rule` and `backend` are what the request got as far as.
pub fn relay(
    listener: &Listener,
    rule: Option<&Rule>,
    backend: Option<&WeightedBackend>,
    x: &mut Exchange<'_>,
    response: &mut Response,
) {
    if let Some(backend) = backend {
        backend.filters.apply_to_response(response);
    }
    let chain = match rule {
        Some(rule) => {
            rule.filters.apply_to_response(response);
            &rule.chain
        }
        None => &listener.chain,
    };
    chain.relay(x, response);
    let cors = backend
        .and_then(|backend| backend.filters.cors.as_deref())
        .or_else(|| rule.and_then(|rule| rule.filters.cors.as_deref()));
    if let Some(cors) = cors {
        cors.mark(&x.notes.cors, response);
    }
}
