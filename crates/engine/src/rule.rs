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
    /// `namespace/route/rule`, the same for every listener: the label in metrics and logs. Shared with the name.
    pub metric_label: Arc<str>,
    /// The rule's own filters.
    pub filters: Arc<Filters>,
    /// Every policy in force, of the Gateway, the listener, the route and the rule, in the order of phases.
    pub chain: Chain,
    /// Where requests go.
    pub backends: Arc<[WeightedBackend]>,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// The rule's own retry stanza.
    pub retry: Option<Box<Retry>>,
    /// Identifies the rule in worker-local memory, across generations.
    pub key: u64,
}

impl Rule {
    /// Whether policies or filters may change a request that it takes.
    pub fn touches_request(&self) -> bool {
        !self.chain.is_empty() || self.filters.touches_request()
    }
}

/// The name of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// The kind of the route.
    pub kind: RouteKind,
    /// Position in the route, from zero.
    pub index: u32,
    /// Where it is written.
    pub place: Site,
    /// `namespace/route/rule`; none of the parts can hold a slash.
    label: Arc<str>,
    /// Whether the last part of the label is `rules[].name` rather than the position.
    named: bool,
}

impl RuleName {
    /// The name of the rule at `index` of a route; `name` is its `rules[].name`, if given.
    pub fn new(kind: RouteKind, namespace: &str, route: &str, index: u32, name: Option<&str>, place: Site) -> RuleName {
        let label = match name {
            Some(name) => format!("{namespace}/{route}/{name}"),
            None => format!("{namespace}/{route}/{index}"),
        };
        RuleName { kind, index, place, label: label.into(), named: name.is_some() }
    }

    /// Namespace of the route.
    pub fn namespace(&self) -> &str {
        self.part(0)
    }

    /// Name of the route.
    pub fn route(&self) -> &str {
        self.part(1)
    }

    /// `rules[].name`, if given.
    pub fn name(&self) -> Option<&str> {
        self.named.then(|| self.part(2))
    }

    /// `namespace/route/rule`, with the position of the rule when it has no name.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    fn part(&self, at: usize) -> &str {
        self.label.splitn(3, '/').nth(at).unwrap_or_default()
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.label)
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
    /// TCPRoute.
    Tcp,
    /// No route: a Service as it is called in the mesh, or a port of a program behind its proxy.
    Service,
}

impl RouteKind {
    /// The kind's name in resources.
    pub const fn as_str(self) -> &'static str {
        match self {
            RouteKind::Http => "HTTPRoute",
            RouteKind::Grpc => "GRPCRoute",
            RouteKind::Tcp => "TCPRoute",
            RouteKind::Service => "Service",
        }
    }
}

/// One backendRef of a rule.
#[derive(Debug)]
pub struct WeightedBackend {
    /// Its share of the rule's requests; zero takes none.
    pub weight: u32,
    /// Filters for requests that go here, after the rule's own.
    pub filters: Arc<Filters>,
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
        let (namespace, route, index) = (part(), part(), part().parse().unwrap_or_default());
        let place = Site { file: "test.yaml".into(), line: 1 };
        let name = Arc::new(RuleName::new(RouteKind::Http, namespace, route, index, None, place));
        Rule {
            metric_label: Arc::clone(name.label()),
            name,
            filters: Arc::default(),
            chain: Chain::default(),
            backends: Arc::default(),
            timeouts: Timeouts::default(),
            retry: None,
            key: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_label_in_parts() {
        let place = Site { file: "a.yaml".into(), line: 3 };
        let name = |rule| RuleName::new(RouteKind::Http, "shop", "cart", 2, rule, place.clone());
        assert_eq!((name(None).namespace(), name(None).route(), name(None).name()), ("shop", "cart", None));
        assert_eq!(name(None).to_string(), "shop/cart/2");
        assert_eq!(name(Some("pay")).name(), Some("pay"));
        assert_eq!(&**name(Some("pay")).label(), "shop/cart/pay");
    }

    #[test]
    fn thousands_of_rules_stay_small() {
        // With the two counters of an `Arc` the first is 128 bytes, a size class of the allocator, and the second 64.
        assert!(size_of::<Rule>() <= 112, "{}", size_of::<Rule>());
        assert!(size_of::<RuleName>() <= 48, "{}", size_of::<RuleName>());
    }
}
