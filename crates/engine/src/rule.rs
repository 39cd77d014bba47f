//! One compiled rule of a route: what happens to the requests that match it.
//!
//! Made by `compile/routes.rs`, found by `route`, carried out by `screen`, `pick`, `judge` and `relay`. Which requests match is not
//! here but in `route/`, because one rule may stand in the tables of many listeners.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::filters::Filters;
use crate::policies::Chain;
use crate::reason::Reason;
use crate::snapshot::Backend;

/// One rule of one route as one listener sees it. Copies differ in their chain only and share the rest.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which rule it is.
    pub name: Arc<RuleName>,
    /// `namespace/route/rule`, the same for every listener: the label in metrics and logs.
    pub metric_label: Arc<str>,
    /// The kind of its route.
    pub kind: RouteKind,
    /// The rule's own filters.
    pub filters: Arc<Filters>,
    /// Every policy in force, of the Gateway, the listener, the route and the rule, in the order of phases.
    pub chain: Chain,
    /// Where requests go.
    pub backends: Arc<[WeightedBackend]>,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// The rule's own retry stanza.
    pub retry: Option<Retry>,
    /// Identifies the rule in worker-local memory, across generations.
    pub key: u64,
}

/// The name of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// The kind of the route.
    pub kind: RouteKind,
    /// Namespace of the route.
    pub namespace: Box<str>,
    /// Name of the route.
    pub route: Box<str>,
    /// Position in the route, from zero.
    pub index: usize,
    /// `rules[].name`, if given.
    pub name: Option<Box<str>>,
    /// Where it is written.
    pub place: Site,
}

impl fmt::Display for RuleName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/", self.namespace, self.route)?;
        match &self.name {
            Some(name) => out.write_str(name),
            None => write!(out, "{}", self.index),
        }
    }
}

/// A line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// The file's name.
    pub file: Arc<str>,
    /// The line, from one; zero when unknown.
    pub line: u32,
}

impl fmt::Display for Site {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file, self.line)
    }
}

/// The kind of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
}

impl RouteKind {
    /// The kind's name in resources.
    pub const fn as_str(self) -> &'static str {
        match self {
            RouteKind::Http => "HTTPRoute",
            RouteKind::Grpc => "GRPCRoute",
        }
    }
}

/// One backendRef of a rule.
#[derive(Debug)]
pub struct WeightedBackend {
    /// Its share of the rule's requests; zero takes none.
    pub weight: u32,
    /// Filters for requests that go here, after the rule's own.
    pub filters: Filters,
    /// The backend, or why requests that fall to it are answered with an error.
    pub target: Result<Arc<Backend>, BrokenRef>,
}

/// A reference that does not lead to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenRef {
    /// What the caller is told.
    pub reason: Reason,
    /// What the operator is told: the message of the status condition.
    pub why: Arc<str>,
}

/// The timeouts of a rule (GEP-1742).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// The whole exchange with all retries, from the complete request head to the last byte of the response.
    pub request: Bound,
    /// One try: from the request sent to the response head.
    pub backend_request: Bound,
}

/// A timeout that may be set, switched off, or left to a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Bound {
    /// Not stated.
    #[default]
    Unset,
    /// `0s`: no timeout.
    Off,
    /// This long.
    After(Duration),
}

impl Bound {
    /// The time to wait, given what holds when nothing is stated.
    pub fn or(self, default: Option<Duration>) -> Option<Duration> {
        match self {
            Bound::Unset => default,
            Bound::Off => None,
            Bound::After(time) => Some(time),
        }
    }
}

/// The retry stanza of a rule (GEP-1731).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Status codes that are retried.
    pub codes: Box<[u16]>,
    /// Retries after the first try.
    pub attempts: u32,
    /// The least time between two tries.
    pub backoff: Duration,
}

#[cfg(test)]
impl Rule {
    /// A rule that does nothing, named `namespace/route/index`.
    pub(crate) fn for_tests(name: &str) -> Rule {
        let mut parts = name.split('/');
        let mut part = || parts.next().unwrap_or_default();
        let (namespace, route, index) = (part().into(), part().into(), part().parse().unwrap_or_default());
        Rule {
            name: Arc::new(RuleName {
                kind: RouteKind::Http,
                namespace,
                route,
                index,
                name: None,
                place: Site { file: "test.yaml".into(), line: 1 },
            }),
            metric_label: name.into(),
            kind: RouteKind::Http,
            filters: Arc::default(),
            chain: Chain::default(),
            backends: Arc::default(),
            timeouts: Timeouts::default(),
            retry: None,
            key: 0,
        }
    }
}
