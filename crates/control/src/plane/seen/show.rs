//! Figures, verdicts and edges as JSON, for people and scripts.
//!
//! Asked by `core/sight.rs`. Figures are about the latest full windows, of edges that are newer about all the time since they began; totals about the time since the proxies that report now began to count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use transept_identity::{SpiffeId, TrustDomain};

use super::{Instance, Known, RECENT, Seen, State, Sums};

impl Seen {
    /// Every edge with its figures, and the verdict on its destination.
    pub(in crate::plane) fn graph(&self, known: &Known, domain: &TrustDomain, now: Duration) -> Value {
        let edges = self.edges(now);
        let shown = edges.iter().map(|((source, service), edge)| {
            let instances = known.get(&**service).map_or(&[][..], Vec::as_slice);
            let workloads: Vec<Value> = by_instance(&edge.workloads, instances)
                .into_iter()
                .map(|((workload, address), sums)| {
                    let mut shown = figures(&sums);
                    shown["workload"] = workload.into();
                    shown["address"] = address.into();
                    shown
                })
                .collect();
            let mut shown = figures(&edge.all);
            shown["source"] = short_name(source, domain).into();
            shown["sourceIdentity"] = (**source).into();
            shown["destination"] = (**service).into();
            shown["verdict"] = self.verdict(service).as_str().into();
            shown["workloads"] = workloads.into();
            shown
        });
        json!({"seconds": self.seconds(), "edges": shown.collect::<Vec<_>>(), "services": self.services(known, now)})
    }

    /// Every service with its verdict, its instances and what its callers see.
    pub(in crate::plane) fn services(&self, known: &Known, now: Duration) -> Vec<Value> {
        let mut sums: BTreeMap<String, Sums> = BTreeMap::new();
        for ((_, service), edge) in self.edges(now) {
            let Sums { total, recent, rate } = edge.all;
            sums.entry(service.to_string()).or_default().add(&total, &recent, rate);
        }
        let names: BTreeSet<&String> = known.keys().chain(sums.keys()).chain(self.standings.keys()).collect();
        let nothing = Sums::default();
        let shown = names.into_iter().map(|service| {
            let instances = known.get(service).map_or(&[][..], Vec::as_slice);
            let state = |instance: &Instance| match instance.state {
                State::Well if self.is_shunned(service, instance, now) => "shunned",
                State::Well => "healthy",
                State::Unwell => "unhealthy",
                State::Silent | State::Kept => "silent",
                State::Draining => "draining",
            };
            let instances: Vec<Value> =
                instances.iter().map(|instance| json!({"name": instance.name, "state": state(instance)})).collect();
            let mut shown = figures(sums.get(service).unwrap_or(&nothing));
            shown["service"] = service.as_str().into();
            shown["verdict"] = self.verdict(service).as_str().into();
            shown["instances"] = instances.into();
            shown
        });
        shown.collect()
    }

    /// How long the latest full windows are together.
    fn seconds(&self) -> f64 {
        (self.book.window() * u32::try_from(RECENT).unwrap_or(1)).as_secs_f64()
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn figures(Sums { total, recent, rate }: &Sums) -> Value {
    let millis = |percent: u64| recent.percentile(percent).map(|micros| micros as f64 / 1000.0);
    json!({
        "requests": total.requests,
        "errors": total.errors,
        "refusals": total.refusals,
        "retries": total.retries,
        "ejections": total.ejections,
        "bytesSent": total.bytes_sent,
        "bytesReceived": total.bytes_received,
        "open": total.open,
        "recentRequests": recent.requests,
        "recentRefusals": recent.refusals,
        "recentRetries": recent.retries,
        "recentEjections": recent.ejections,
        "requestsPerSecond": rate,
        "errorRate": recent.error_rate(),
        "p50Ms": millis(50),
        "p99Ms": millis(99),
    })
}

/// The workloads of an edge, those that are registered by their names: a workload and where it is.
fn by_instance(
    workloads: &BTreeMap<Arc<str>, Sums>,
    instances: &[Instance],
) -> BTreeMap<(Option<String>, Option<String>), Sums> {
    let mut all: BTreeMap<_, Sums> = BTreeMap::new();
    for (workload, Sums { total, recent, rate }) in workloads {
        let found = |instance: &&Instance| instance.addresses.iter().any(|address| **address == **workload);
        let is_address = workload.parse::<std::net::SocketAddr>().is_ok();
        let name = match instances.iter().find(found) {
            Some(instance) => Some(instance.name.clone()),
            None => Some(workload.to_string()).filter(|name| !name.is_empty() && !is_address),
        };
        let address = Some(workload.to_string()).filter(|_| is_address);
        all.entry((name, address)).or_default().add(total, recent, *rate);
    }
    all
}

/// `namespace/service` for an identity of our own mesh, else the whole of it.
pub(super) fn short_name(identity: &str, domain: &TrustDomain) -> String {
    let Ok(id) = SpiffeId::parse(identity) else {
        return if identity.is_empty() { "unknown".to_owned() } else { identity.to_owned() };
    };
    match id.workload().filter(|_| id.trust_domain_name() == domain.as_str()) {
        Some(workload) => format!("{}/{}", workload.namespace(), workload.service_account()),
        None => identity.to_owned(),
    }
}
