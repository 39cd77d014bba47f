//! The tenth verb of the road: a backend by weight, then an endpoint.
//!
//! Called by the proxy after `screen`, and again for the endpoint on a retry: retries stay with the backend that was chosen first, so
//! that a split by weight means the same with and without failures. Between the two steps the backendRef's own filters run, because a
//! redirect needs no endpoint. Connecting is the proxy's.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::balance::{Turns, least_loaded};
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::rule::{Rule, WeightedBackend};
use crate::snapshot::{Backend, EndpointSource};
use crate::verdict::{Reply, Verdict};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Where to connect.
    pub address: SocketAddr,
    /// The host name behind the address, when it came from DNS.
    pub host: Option<Arc<str>>,
}

/// Chooses the backendRef of a request by weight.
///
/// # Errors
/// A reply when the rule has no backendRef with a weight above zero. An invalid backendRef is chosen like any other and fails in
/// [`target`], so that exactly its share of the requests is answered with an error.
pub fn pick_backend<'s>(rule: &'s Rule, turns: &mut Turns) -> Result<&'s WeightedBackend, Box<Reply>> {
    turns
        .next_backend(rule.key, &rule.backends)
        .and_then(|index| rule.backends.get(index))
        .ok_or_else(|| Box::new(Reply::new(Reason::BackendMissing)))
}

/// Applies the filters of the chosen backendRef to the request. The caller keeps a copy of the head when it may have to retry.
pub fn apply_backend_filters(backend: &WeightedBackend, x: &mut Exchange<'_>) -> Verdict {
    if let Some(cors) = &backend.filters.cors
        && let Some(reply) = cors.meet(x)
    {
        return reply.into();
    }
    if !backend.filters.touches_request() {
        return Verdict::Continue;
    }
    let prefix = x.notes.matched_prefix;
    backend.filters.apply_to_request(x, prefix).0
}

/// The backend behind a backendRef.
///
/// # Errors
/// The reply for a reference that leads nowhere.
pub fn target(backend: &WeightedBackend) -> Result<&Arc<Backend>, Box<Reply>> {
    backend.target.as_ref().map_err(|broken| Box::new(Reply::new(broken.reason)))
}

/// Chooses an endpoint: of two drawn by weight the one with fewer requests outstanding, none of `tried` if possible.
///
/// # Errors
/// A reply when no endpoint is ready.
pub fn pick_endpoint(
    backend: &Backend,
    turns: &Turns,
    random: u64,
    tried: &[SocketAddr],
) -> Result<Chosen, Box<Reply>> {
    let set = backend.endpoints.load();
    match least_loaded(&set, turns, random, tried) {
        Some(endpoint) => Ok(Chosen { address: endpoint.address, host: endpoint.host.clone() }),
        None => {
            let named = matches!(backend.source, EndpointSource::Dns { .. });
            Err(Box::new(Reply::new(if named { Reason::UpstreamDns } else { Reason::NoEndpoints })))
        }
    }
}

/// How many endpoints of a backend have not been tried.
pub fn alternatives(backend: &Backend, tried: &[SocketAddr]) -> usize {
    let set = backend.endpoints.load();
    set.endpoints().iter().filter(|endpoint| !tried.contains(&endpoint.address)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::Filters;
    use crate::rule::BrokenRef;
    use crate::snapshot::{BackendId, Endpoint, EndpointSet, EndpointSource, UpstreamProtocol};
    use arc_swap::ArcSwap;
    use std::time::Duration;

    fn backend(endpoints: &[u8]) -> Arc<Backend> {
        let endpoints =
            endpoints.iter().map(|last| Endpoint { address: ([10, 0, 0, *last], 80).into(), weight: 1, host: None });
        Arc::new(Backend {
            id: BackendId { kind: "Service", namespace: "default".into(), name: "cart".into(), port: Some(80) },
            label: "default/cart:80".into(),
            protocol: UpstreamProtocol::Auto,
            tls: None,
            endpoints: ArcSwap::from_pointee(EndpointSet::new(endpoints.collect())),
            source: EndpointSource::Static,
            connect_timeout: Duration::from_secs(5),
        })
    }

    fn share(weight: u32, target: Result<Arc<Backend>, BrokenRef>) -> WeightedBackend {
        WeightedBackend { weight, filters: Filters::default(), target }
    }

    fn broken() -> BrokenRef {
        BrokenRef { reason: Reason::BackendInvalid, why: "there is no such Service".into() }
    }

    #[test]
    fn exactly_the_share_of_an_invalid_backend_fails() {
        let rule = Rule {
            backends: [share(9, Ok(backend(&[1]))), share(1, Err(broken()))].into(),
            ..Rule::for_tests("shop/cart/0")
        };
        let mut turns = Turns::new();
        let failures: Vec<u16> = (0..100)
            .filter_map(|_| target(pick_backend(&rule, &mut turns).expect("a backend")).err())
            .map(|reply| reply.status)
            .collect();
        assert_eq!(failures, [500; 10]);
    }

    #[test]
    fn no_weight_no_backend() {
        let rule = Rule { backends: [share(0, Ok(backend(&[1])))].into(), ..Rule::for_tests("shop/cart/0") };
        let reply = pick_backend(&rule, &mut Turns::new()).expect_err("no backend");
        assert_eq!(reply.reason, Reason::BackendMissing);
    }

    #[test]
    fn a_retry_goes_elsewhere_while_there_is_an_elsewhere() {
        let backend = backend(&[1, 2]);
        let mut tried = Vec::new();
        for left in [2, 1] {
            assert_eq!(alternatives(&backend, &tried), left);
            let chosen = pick_endpoint(&backend, &Turns::new(), 3, &tried).expect("an endpoint");
            assert!(!tried.contains(&chosen.address));
            tried.push(chosen.address);
        }
        assert_eq!(alternatives(&backend, &tried), 0);
        assert!(pick_endpoint(&backend, &Turns::new(), 3, &tried).is_ok());
    }

    #[test]
    fn nobody_ready_is_503() {
        let reply = pick_endpoint(&backend(&[]), &Turns::new(), 3, &[]).expect_err("nobody");
        assert_eq!(reply.status, 503);
    }
}
