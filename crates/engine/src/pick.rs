//! The tenth verb of the road: a backend by weight, then an endpoint.
//!
//! Called by the proxy after `screen`, and again for the endpoint on a retry: retries stay with the backend that was chosen first, so
//! that a split by weight means the same with and without failures. Between the two steps the backendRef's own filters run, because a
//! redirect needs no endpoint. Connecting is the proxy's.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use transept_wire::head::Request;

use crate::balance::{Turns, hash_connection, hash_request};
use crate::exchange::{Exchange, Now};
use crate::reason::Reason;
use crate::role::Tunnel;
use crate::rule::{Rule, WeightedBackend};
use crate::snapshot::{Backend, Endpoint, EndpointSource};
use crate::verdict::{Reply, Verdict};

/// Endpoints without a tunnel that a reply names in the log.
const NAMED: usize = 3;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Where to connect.
    pub address: SocketAddr,
    /// The host name behind the address, when it came from DNS.
    pub host: Option<Arc<str>>,
    /// The tunnel that leads there, for a member of the mesh.
    pub tunnel: Option<Arc<Tunnel>>,
    /// Whether the request finds out if an ejected endpoint is well again.
    pub probe: Probe,
    /// Whether it is one that is silent, chosen because nobody else is left.
    pub silent: bool,
}

impl Chosen {
    pub(crate) fn of(endpoint: &Endpoint, probe: Probe) -> Chosen {
        let (host, tunnel) = (endpoint.host.clone(), endpoint.tunnel.clone());
        Chosen { address: endpoint.address, host, tunnel, probe, silent: false }
    }
}

/// Whether a request finds out if an ejected endpoint is well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It is like any other.
    No,
    /// It does. Its outcome must be noted, or the probe given up: until then the endpoint gets no other request.
    Yes,
}

/// What the choice of an endpoint depends on besides the backend.
#[derive(Clone, Copy, Debug)]
pub struct Call<'c> {
    /// When it is made.
    pub now: Now,
    /// Fresh random bits.
    pub random: u64,
    /// What [`hash`] made of the request.
    pub hash: Option<u64>,
    /// Endpoints that were tried already.
    pub tried: &'c [SocketAddr],
    /// Whether one of these has answered that is not silent: so somebody is there, whatever the answer.
    pub answered: bool,
}

/// The hash by which a backend's balancer finds the endpoint of a request; none when it does not go by a hash, or the request has
/// nothing of what it hashes.
pub fn hash(backend: &Backend, request: &Request, client: IpAddr) -> Option<u64> {
    hash_request(backend.traffic.as_ref()?.hash_keys(), request, client)
}

/// The same for a connection that is not looked at.
pub fn hash_stream(backend: &Backend, client: IpAddr) -> Option<u64> {
    hash_connection(backend.traffic.as_ref()?.hash_keys(), client)
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
    backend.target.as_ref().map_err(|broken| Box::new(Reply::new(broken.reason).because(&*broken.why)))
}

/// Chooses an endpoint as the backend's balancer does, by default of two drawn by weight the one with fewer requests outstanding.
/// None of those that were tried, if possible, and none that is ejected or unwell; where none is left but such, one that is silent, unless somebody
/// else has answered.
///
/// # Errors
/// A reply when no endpoint can be used.
pub fn pick_endpoint(backend: &Backend, turns: &mut Turns, call: &Call<'_>) -> Result<Chosen, Box<Reply>> {
    turns.next_endpoint(backend, call).ok_or_else(|| Box::new(nobody(backend)))
}

/// The reply when none of a backend's endpoints can be used.
fn nobody(backend: &Backend) -> Reply {
    let set = backend.endpoints.load();
    if !set.endpoints().is_empty() {
        return Reply::new(Reason::NoEndpoints);
    }
    if matches!(backend.source, EndpointSource::Dns { .. }) {
        return Reply::new(Reason::UpstreamDns);
    }
    match &backend.tunnel_only {
        Some(policy) if !set.left_out().is_empty() => {
            let named = set.left_out().iter().take(NAMED).map(|one| &**one).collect::<Vec<_>>().join(", ");
            let more = set.left_out().len().saturating_sub(NAMED);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            Reply::new(Reason::MeshNoTunnel).because(format!("{policy}: no tunnel leads to {named}{more}"))
        }
        _ => Reply::new(Reason::NoEndpoints),
    }
}

/// How many endpoints of a backend have not been tried. Those that are silent count as long as nobody else has answered.
pub fn alternatives(backend: &Backend, tried: &[SocketAddr], answered: bool) -> usize {
    let set = backend.endpoints.load();
    let silent = set.silent().filter(|_| !answered).map_or(&[][..], |silent| silent.endpoints());
    let all = set.endpoints().iter().chain(silent);
    all.filter(|endpoint| !tried.contains(&endpoint.address)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::Filters;
    use crate::rule::BrokenRef;
    use crate::snapshot::EndpointSet;
    use std::time::Duration;

    const CALL: Call<'_> = Call {
        now: Now { monotonic: Duration::ZERO, unix: Duration::ZERO },
        random: 3,
        hash: None,
        tried: &[],
        answered: false,
    };

    fn backend(endpoints: &[u8]) -> Arc<Backend> {
        let endpoints = endpoints.iter().map(|last| Endpoint::at(([10, 0, 0, *last], 80).into()));
        Arc::new(Backend::for_tests(EndpointSet::new(endpoints.collect()), None))
    }

    fn share(weight: u32, target: Result<Arc<Backend>, BrokenRef>) -> WeightedBackend {
        WeightedBackend { weight, filters: Filters::none(), target }
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
            assert_eq!(alternatives(&backend, &tried, false), left);
            let chosen =
                pick_endpoint(&backend, &mut Turns::new(), &Call { tried: &tried, ..CALL }).expect("an endpoint");
            assert!(!tried.contains(&chosen.address));
            tried.push(chosen.address);
        }
        assert_eq!(alternatives(&backend, &tried, false), 0);
        // Then in turns, not to the one that has just failed.
        for _ in 0..4 {
            let call = Call { random: tried.len() as u64, tried: &tried, ..CALL };
            let chosen = pick_endpoint(&backend, &mut Turns::new(), &call).expect("an endpoint");
            assert_ne!(Some(&chosen.address), tried.last());
            tried.push(chosen.address);
        }
    }

    #[test]
    fn nobody_ready_is_503() {
        let reply = pick_endpoint(&backend(&[]), &mut Turns::new(), &CALL).expect_err("nobody");
        assert_eq!(reply.status, 503);
    }
}
