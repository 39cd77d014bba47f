//! How the endpoints of backends are, for people and metrics: what the health checks found, what workers have ejected, and how much
//! room is left under the limits; and what the ports of the mesh have spoken whose protocol nobody declared.
//!
//! Called by [`crate::Proxy`] for `/status` and for a scrape. Backends without a `TrafficPolicy` have nothing to tell, unless an
//! endpoint of theirs could not be reached.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use transept_engine::balance::Absence;
use transept_engine::learned::Known;
use transept_engine::snapshot::{Backend, Role, Snapshot};
use transept_engine::traffic::{Resource, Wellness};

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendState {
    /// `namespace/name:port`.
    pub label: Arc<str>,
    /// The policy that says how it is used, where there is one.
    pub policy: Option<Arc<str>>,
    /// Its endpoints, by address.
    pub endpoints: BTreeMap<SocketAddr, EndpointState>,
    /// Each limit with what is taken of it.
    pub limits: Vec<Reading>,
}

/// What a port has spoken whose protocol nobody declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedPort {
    /// `namespace/service/side-port`, as in the other metrics.
    pub listener: Arc<str>,
    /// `http`, `tcp`, `tcp-server-first`, or `mixed` for a port that spoke now this, now that.
    pub protocol: &'static str,
    /// Who has heard it.
    pub by: HeardBy,
}

/// Who has heard what a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeardBy {
    /// This proxy.
    Here,
    /// Those beside its instances, and nothing is known here.
    Instances,
}

impl HeardBy {
    /// The word for status.
    pub const fn as_str(self) -> &'static str {
        match self {
            HeardBy::Here => "here",
            HeardBy::Instances => "instances",
        }
    }
}

/// What ports have spoken, by listener; `now` is on the clock of the workers.
pub(crate) fn recount(snapshot: &Snapshot, now: Duration) -> Vec<LearnedPort> {
    let listeners = snapshot.binds.iter().flat_map(|bind| &bind.listeners);
    // Several binds may have a listener for the same port of a Service.
    let protocols: BTreeMap<_, _> = listeners
        .filter_map(|listener| {
            let known = listener.learned.as_ref()?.read(now);
            let by = if known == Known::Nothing { HeardBy::Instances } else { HeardBy::Here };
            Some((listener.metric_label.clone(), (known.or(listener.hint).as_str()?, by)))
        })
        .collect();
    protocols.into_iter().map(|(listener, (protocol, by))| LearnedPort { listener, protocol, by }).collect()
}

/// What the ports of the program beside a proxy have spoken, by their own numbers.
pub(crate) fn heard_inside(snapshot: &Snapshot, now: Duration) -> BTreeMap<u16, &'static str> {
    let inside = snapshot.binds.iter().filter(|bind| bind.role == Role::Inbound).flat_map(|bind| &bind.listeners);
    let heard = inside.filter_map(|listener| Some((listener.port, listener.learned.as_ref()?.read(now).as_str()?)));
    heard.collect()
}

/// What is limited, how much of it is taken, and how much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// `requests` or `pending`.
    pub resource: &'static str,
    /// So much is taken.
    pub taken: u32,
    /// So much there is.
    pub limit: u32,
}

/// How an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointState {
    /// It takes requests.
    Serving,
    /// Its time alone is over for every worker; the next request to it decides.
    Probation,
    /// At least one worker could not reach it, and uses others.
    Unreachable,
    /// At least one worker leaves it alone, because it failed.
    Ejected,
    /// The health checks find it unwell, for this reason.
    Unwell(Arc<str>),
}

impl EndpointState {
    /// The word for status and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            EndpointState::Serving => "serving",
            EndpointState::Probation => "probation",
            EndpointState::Unreachable => "unreachable",
            EndpointState::Ejected => "ejected",
            EndpointState::Unwell(_) => "unwell",
        }
    }
}

/// Endpoints that were left alone and have not proven themselves since, by backend.
pub(crate) type Absent = BTreeMap<Arc<str>, BTreeMap<SocketAddr, Absence>>;

/// Adds what another worker says: of two views of one endpoint the worse one counts.
pub(crate) fn add_absent(
    all: &mut Absent,
    backend: &Arc<str>,
    others: impl IntoIterator<Item = (SocketAddr, Absence)>,
) {
    let mine = all.entry(backend.clone()).or_default();
    for (address, absence) in others {
        let known = mine.entry(address).or_insert(absence);
        *known = absence.max(*known);
    }
}

/// Every backend with a policy, or with an endpoint that could not be reached, by label. A Service port that several kinds of routes use is one.
pub(crate) fn describe(snapshot: &Snapshot, absent: &Absent) -> Vec<BackendState> {
    let mut all: BTreeMap<&str, BackendState> = BTreeMap::new();
    for backend in &snapshot.backends {
        let traffic = backend.traffic.as_ref();
        if traffic.is_none() && !absent.contains_key(&backend.label) {
            continue;
        }
        let state = all.entry(&backend.label).or_insert_with(|| BackendState {
            label: backend.label.clone(),
            policy: traffic.map(|traffic| traffic.policy.clone()),
            endpoints: BTreeMap::new(),
            limits: Vec::new(),
        });
        if state.limits.is_empty() {
            state.limits = readings(backend);
        }
        let check = traffic.and_then(|traffic| traffic.check.as_ref());
        let health = check.and_then(|_| backend.ledger.health.load_full());
        for endpoint in backend.endpoints.load().endpoints() {
            let address = endpoint.address;
            let unwell = health.as_ref().and_then(|health| match health.by_address.get(&address) {
                Some(Wellness::Well) => None,
                Some(Wellness::Unwell(why)) => Some(why.clone()),
                None => Some("not checked yet".into()),
            });
            let absence = absent.get(&backend.label).and_then(|absent| absent.get(&address));
            let now = match (unwell, absence) {
                (Some(why), _) => EndpointState::Unwell(why),
                (None, Some(Absence::Ejected)) => EndpointState::Ejected,
                (None, Some(Absence::Unreachable)) => EndpointState::Unreachable,
                (None, Some(Absence::Probation)) => EndpointState::Probation,
                (None, None) => EndpointState::Serving,
            };
            // Of two views of one endpoint the worse one counts.
            let known = state.endpoints.entry(address).or_insert(EndpointState::Serving);
            *known = now.max(known.clone());
        }
    }
    all.into_values().collect()
}

fn readings(backend: &Backend) -> Vec<Reading> {
    let limits = backend.traffic.as_ref().map(|traffic| traffic.limits).unwrap_or_default();
    let reading = |resource: Resource| {
        let limit = limits.of(resource)?;
        Some(Reading { resource: resource.as_str(), taken: backend.ledger.taken(resource), limit })
    };
    Resource::ALL.into_iter().filter_map(reading).collect()
}
