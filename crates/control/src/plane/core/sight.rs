//! The plane and what proxies see: the registry is told to `seen`, and what comes of it to people.
//!
//! Called by `serve/report.rs` for proxies and by `admin` for people. The lock of what is seen is its own and is taken last, so that a flood of
//! reports keeps nobody from registering.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use transept_identity::{SpiffeId, WorkloadName};
use transept_xds::mesh::{Condition, Workload};
use transept_xds::report::Tap;

use super::{Inner, NotDone, Plane};
use crate::plane::admin::TapFilter;
use crate::plane::registry::Entry;
use crate::plane::seen::{Instance, Known, Seen, State, Watcher};

impl Plane {
    /// Has proxies report so often. Call it before proxies are served: windows of verdicts follow from it.
    pub fn report_every(&self, interval: Duration) {
        *self.seen() = Seen::new(interval);
    }

    /// What is seen.
    pub(in crate::plane) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long this plane has run.
    pub(in crate::plane) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Judges what has been seen since the last time.
    pub(super) fn judge(&self) {
        let known = known(&self.lock(), self.elapsed());
        self.seen().fold(&known, self.elapsed());
    }

    /// Who calls whom, and how that goes.
    pub(in crate::plane) fn graph(&self) -> Value {
        let known = known(&self.lock(), self.elapsed());
        self.seen().graph(&known, self.trust_domain(), self.elapsed())
    }

    /// Every service with its verdict.
    pub(super) fn services(&self, inner: &Inner) -> Vec<Value> {
        let known = known(inner, self.elapsed());
        self.seen().services(&known, self.elapsed())
    }

    /// Begins to listen to the requests of a service; the first value says who is listened to.
    pub(in crate::plane) fn tap(self: &Arc<Self>, filter: &TapFilter) -> Result<(Value, Watcher), NotDone> {
        let wrong = |error: String| NotDone::Wrong(error);
        let workload =
            WorkloadName::new(&filter.namespace, &filter.service).map_err(|error| wrong(error.to_string()))?;
        let identity = workload.id(self.trust_domain()).map_err(|error| wrong(error.to_string()))?;
        let service = format!("{}/{}", filter.namespace, filter.service);
        if !known(&self.lock(), self.elapsed()).contains_key(&service) {
            return Err(wrong(format!("there is no service {service}; `transept mesh status` shows all")));
        }
        let source =
            filter.from.as_deref().map_or(Ok(String::new()), |from| self.identity_of(from, &filter.namespace))?;
        let (status_from, status_to) = filter.status.unwrap_or_default();
        let tap = Tap {
            id: 0,
            method: filter.method.clone().unwrap_or_default().to_ascii_uppercase(),
            path: filter.path.clone().unwrap_or_default(),
            status_from: status_from.into(),
            status_to: status_to.into(),
            source,
        };
        let mut seen = self.seen();
        let proxies = seen.proxies_of(identity.as_str());
        let begun = seen.taps.begin(service.clone(), tap);
        drop(seen);
        let begun =
            begun.ok_or_else(|| wrong("too many are listening already; wait until one has ended".to_owned()))?;
        Ok((json!({"service": service, "proxies": proxies}), Watcher::new(self.clone(), begun)))
    }

    /// The SPIFFE id that somebody means by `web`, `shop/web` or the id itself.
    fn identity_of(&self, text: &str, namespace: &str) -> Result<String, NotDone> {
        let wrong = |error: String| NotDone::Wrong(format!("`{text}` is no identity: {error}"));
        if text.starts_with("spiffe://") {
            return SpiffeId::parse(text).map(|id| id.as_str().to_owned()).map_err(|error| wrong(error.to_string()));
        }
        let (namespace, service) = text.split_once('/').unwrap_or((namespace, text));
        let workload = WorkloadName::new(namespace, service).map_err(|error| wrong(error.to_string()))?;
        let id = workload.id(self.trust_domain()).map_err(|error| wrong(error.to_string()))?;
        Ok(id.as_str().to_owned())
    }
}

/// The services of files and registrations, with their registered instances.
fn known(inner: &Inner, now: Duration) -> Known {
    let named = inner.files.services.iter().map(|(namespace, name)| (format!("{namespace}/{name}"), Vec::new()));
    let mut known: Known = named.collect();
    for (place, entry) in inner.registry.iter() {
        let namespace = &place.0;
        let instance = instance(entry, inner.registry.kept_silence(place, now));
        let own = &entry.workload.services;
        // As in the object that stands for the registration.
        let others = inner.files.members.services_of(&entry.workload).filter(|_| entry.is_proven());
        let others = others.filter(|service| !own.iter().any(|one| one == service)).map(|service| service.to_string());
        for service in own.iter().cloned().chain(others) {
            let mut instance = instance.clone();
            if inner.registry.is_silent_for(place, &service) {
                instance.state = State::Silent;
            }
            known.entry(format!("{namespace}/{service}")).or_default().push(instance);
        }
    }
    known
}

/// An instance that may have been kept in spite of a silence.
fn instance(entry: &Entry, kept: Option<Duration>) -> Instance {
    let Workload { name, address, ports, .. } = &entry.workload;
    let state = match entry.workload.condition() {
        _ if entry.lapsed => State::Silent,
        Condition::Healthy if kept.is_some() => State::Kept,
        Condition::Healthy => State::Well,
        Condition::Unhealthy => State::Unwell,
        Condition::Draining => State::Draining,
    };
    let at = |port: u32| {
        let (ip, port) = (address.parse::<IpAddr>().ok()?, u16::try_from(port).ok()?);
        Some(SocketAddr::new(ip, port).to_string())
    };
    let ports = ports.iter().map(|port| if port.target_port == 0 { port.port } else { port.target_port });
    Instance { name: name.clone(), addresses: ports.filter_map(at).collect(), state }
}
