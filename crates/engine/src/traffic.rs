//! How one backend is used: the compiled form of a `TrafficPolicy`, and what all workers know together about a backend.
//!
//! Made by `policies/traffic.rs` and `compile/backends.rs`, read by `pick`, `judge`, `balance` and the health checks. Plain values
//! here are immutable; [`Ledger`] is the one place of the engine with shared counters. It is keyed by the backend's identity, outlives
//! every snapshot, and is only touched where a limit or a health check asks for it.

mod queue;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
pub use queue::Place;
use transept_wire::head::FieldName;

use self::queue::Queue;
use crate::health::Check;
use crate::reason::Reason;
use crate::verdict::Reply;

/// How requests to one backend are spread, retried, limited and watched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// The policy that says so, such as `TrafficPolicy shop/cart`.
    pub policy: Arc<str>,
    /// Who is next.
    pub balancer: Balancer,
    /// How long an endpoint that is new takes to get its full share; zero is no time at all.
    pub slow_start: Duration,
    /// Below this share of healthy endpoints, in percent, all of them are used (panic).
    pub panic_threshold: u32,
    /// When an endpoint that fails is left alone; none is never.
    pub outliers: Option<Outliers>,
    /// How much at a time.
    pub limits: Limits,
    /// What is tried again when the rule has no retry stanza; none is what holds without a policy.
    pub retries: Option<Retries>,
    /// Which zones come first; none is that zones do not matter.
    pub locality: Option<Locality>,
    /// How endpoints are asked whether they are well; none is not at all.
    pub check: Option<Arc<Check>>,
    /// How long connecting may take, when the policy says so.
    pub connect_timeout: Option<Duration>,
}

/// Who is next among the endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Balancer {
    /// Of two drawn by weight, the one with fewer requests outstanding.
    #[default]
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// Drawn by weight.
    Random,
    /// The next one on a ring of hashes.
    RingHash {
        /// What is hashed.
        keys: Vec<HashKey>,
        /// The least number of points on the ring.
        points: u32,
        /// How much more than its share an endpoint may get, in percent of the share; zero is no bound.
        bound: u32,
    },
    /// A look into a table of hashes.
    Maglev {
        /// What is hashed.
        keys: Vec<HashKey>,
        /// As for the ring.
        bound: u32,
    },
}

/// A part of a request that is hashed, so that the same part finds the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of a header field.
    Header(FieldName),
    /// The value of a cookie.
    Cookie(Box<str>),
    /// The value of a parameter in the query.
    Query(Box<str>),
    /// The path, without the query.
    Path,
    /// The client's address.
    Address,
}

/// When an endpoint that fails is left alone (passive health).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// Failures in a row, of any kind; zero does not count them.
    pub consecutive_errors: u32,
    /// 502, 503, 504 and failures without a response in a row; zero does not count them.
    pub consecutive_gateway_errors: u32,
    /// How long the first ejection lasts; each one that follows soon lasts twice as long.
    pub base: Duration,
    /// The longest ejection.
    pub most: Duration,
    /// The share of endpoints that may be ejected at a time, in percent. One always may, the last never.
    pub share: u32,
    /// Ejects by the share of successes.
    pub success: Option<SuccessRate>,
}

/// Ejects by the share of successes within the last ten seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// The least share of successes, in percent.
    pub least: u32,
    /// Requests without which nothing is concluded.
    pub requests: u32,
}

/// How much at a time; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections to the endpoints.
    pub connections: Option<u32>,
    /// Requests under way.
    pub requests: Option<u32>,
    /// Requests that wait for a connection.
    pub pending: Option<u32>,
}

/// What is tried again, when the rule says nothing about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Tries after the first.
    pub attempts: u32,
    /// Status codes that are tried again when the request is repeatable.
    pub codes: Box<[u16]>,
    /// How long one try may take.
    pub per_try: Option<Duration>,
    /// The bounds of the wait before a try.
    pub backoff: (Duration, Duration),
    /// Whether every request is repeatable, whatever its method.
    pub repeatable: Repeatable,
    /// How many retries there may be.
    pub budget: Allowance,
}

/// Which requests may reach a backend twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repeatable {
    /// Those with an idempotent method or an `Idempotency-Key` (RFC 9110 section 9.2.2).
    #[default]
    ByMethod,
    /// All of them.
    Always,
}

/// How many retries there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Retries per hundred requests.
    pub percent: u32,
    /// Retries a second that each worker may make in any case.
    pub per_second: u32,
}

impl Allowance {
    /// There may be no retries.
    pub const NONE: Allowance = Allowance { percent: 0, per_second: 0 };
}

impl Default for Allowance {
    /// A fifth, and three a second.
    fn default() -> Self {
        Allowance { percent: 20, per_second: 3 }
    }
}

/// Which zones come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locality {
    /// The zone that this proxy is in; none when nobody said.
    pub here: Option<Arc<str>>,
    /// Where requests go next, in order; the zones that are not named come after them.
    pub failover: Vec<Arc<str>>,
    /// The other zones of the region; those that are left come behind them.
    pub near: Vec<Arc<str>>,
    /// How much less than all endpoints of a zone must be healthy for it to carry everything, in percent of what is needed.
    pub overprovisioning: u32,
}

impl Locality {
    /// The rank of a zone: 0 is here.
    pub(crate) fn rank(&self, zone: Option<&Arc<str>>) -> usize {
        let Some(here) = &self.here else {
            return 0;
        };
        let unnamed = 1 + self.failover.len();
        let Some(zone) = zone else { return unnamed + usize::from(!self.near.is_empty()) };
        match self.failover.iter().position(|one| one == zone) {
            _ if zone == here => 0,
            Some(position) => 1 + position,
            None => unnamed + usize::from(!self.near.is_empty() && !self.near.contains(zone)),
        }
    }
}

impl Traffic {
    /// The parts of a request to hash, in the order of preference; none when nothing is hashed.
    pub fn hash_keys(&self) -> &[HashKey] {
        match &self.balancer {
            Balancer::RingHash { keys, .. } | Balancer::Maglev { keys, .. } => keys,
            _ => &[],
        }
    }
}

/// What all workers know together about one backend.
#[derive(Debug, Default)]
pub struct Ledger {
    connections: AtomicU32,
    requests: AtomicU32,
    pending: AtomicU32,
    queue: Queue,
    /// What the health checks found; none while nobody checks.
    pub health: ArcSwapOption<Verdicts>,
}

/// Whether each endpoint is well, as the health checks found it. An endpoint that is not here has not been heard of yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// By address.
    pub by_address: HashMap<SocketAddr, Wellness, RandomState>,
}

/// What a health check says of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wellness {
    /// It answers as it should.
    Well,
    /// It does not, for this reason.
    Unwell(Arc<str>),
}

impl Verdicts {
    /// Whether requests may go to this endpoint. Nobody vouches for one that has not been heard of.
    pub fn is_well(&self, address: &SocketAddr) -> bool {
        self.by_address.get(address) == Some(&Wellness::Well)
    }
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A connection to an endpoint, in use or idle.
    Connection,
    /// A request under way.
    Request,
    /// A request that waits for a connection.
    Pending,
}

impl Resource {
    /// Every resource.
    pub const ALL: [Resource; 3] = [Resource::Connection, Resource::Request, Resource::Pending];

    /// The word for metrics and explanations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Resource::Connection => "connections",
            Resource::Request => "requests",
            Resource::Pending => "pending",
        }
    }
}

impl Limits {
    /// The limit of a resource.
    pub fn of(&self, resource: Resource) -> Option<u32> {
        match resource {
            Resource::Connection => self.connections,
            Resource::Request => self.requests,
            Resource::Pending => self.pending,
        }
    }
}

impl Ledger {
    fn counter(&self, resource: Resource) -> &AtomicU32 {
        match resource {
            Resource::Connection => &self.connections,
            Resource::Request => &self.requests,
            Resource::Pending => &self.pending,
        }
    }

    /// How many wait for a connection, in all workers.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How many are taken. Zero as long as there is no limit, because nobody counts then.
    pub fn taken(&self, resource: Resource) -> u32 {
        self.counter(resource).load(Ordering::Relaxed)
    }

    /// Takes one of a limited resource; the permit gives it back. None when there is no limit.
    ///
    /// # Errors
    /// The reply for a request that would pass the limit. It is no fault of any endpoint, and another try would meet it again.
    pub fn take(self: &Arc<Self>, limits: &Limits, resource: Resource) -> Result<Option<Permit>, Box<Reply>> {
        let Some(most) = limits.of(resource) else {
            return Ok(None);
        };
        let counter = self.counter(resource);
        let taken = counter.try_update(Ordering::SeqCst, Ordering::SeqCst, |taken| (taken < most).then_some(taken + 1));
        match taken {
            Ok(_) => Ok(Some(Permit { ledger: Arc::clone(self), resource })),
            Err(_) => Err(Box::new(Reply::new(Reason::BackendOverflow))),
        }
    }
}

/// One taken out of a limited number, given back when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    ledger: Arc<Ledger>,
    resource: Resource,
}

impl Permit {
    /// The ledger that it is from.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Whoever lines up after this sees the room, and whoever has lined up before is woken.
        self.ledger.counter(self.resource).fetch_sub(1, Ordering::SeqCst);
        if self.resource == Resource::Connection {
            self.ledger.queue.wake_next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_exact_and_given_back() {
        let ledger = Arc::new(Ledger::default());
        let limits = Limits { requests: Some(2), ..Limits::default() };
        let held: Vec<_> = (0..2).map(|_| ledger.take(&limits, Resource::Request).expect("room")).collect();
        let refused = ledger.take(&limits, Resource::Request).expect_err("full");
        assert_eq!((refused.status, refused.reason), (503, Reason::BackendOverflow));
        assert_eq!(ledger.taken(Resource::Request), 2);
        drop(held);
        assert_eq!(ledger.taken(Resource::Request), 0);
        assert!(ledger.take(&limits, Resource::Request).is_ok());
    }

    #[test]
    fn a_limit_is_exact_across_threads() {
        let ledger = Arc::new(Ledger::default());
        let limits = Limits { requests: Some(7), ..Limits::default() };
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let permits: Vec<_> =
                            (0..100).filter_map(|_| ledger.take(&limits, Resource::Request).ok()).collect();
                        let count = permits.len();
                        // Kept, so that nobody takes what another gave back.
                        permits.into_iter().for_each(std::mem::forget);
                        count
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread")).sum()
        });
        assert_eq!(taken, 7);
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let ledger = Arc::new(Ledger::default());
        let permit = ledger.take(&Limits::default(), Resource::Request).expect("no limit");
        assert!(permit.is_none());
        assert_eq!(ledger.taken(Resource::Request), 0);
    }

    #[test]
    fn zones_rank_as_they_are_named() {
        let zone = |name: &str| -> Arc<str> { name.into() };
        let locality =
            Locality { here: Some(zone("a")), failover: vec![zone("c")], near: Vec::new(), overprovisioning: 140 };
        let rank = |name: &str| locality.rank(Some(&zone(name)));
        assert_eq!((rank("a"), rank("c"), rank("b"), locality.rank(None)), (0, 1, 2, 2));
        assert_eq!(Locality { here: None, ..locality.clone() }.rank(Some(&zone("c"))), 0);
        let regional = Locality { near: vec![zone("b"), zone("c")], ..locality.clone() };
        let rank = |name: &str| regional.rank(Some(&zone(name)));
        assert_eq!((rank("a"), rank("c"), rank("b"), rank("d"), regional.rank(None)), (0, 1, 2, 3, 3));
    }
}
