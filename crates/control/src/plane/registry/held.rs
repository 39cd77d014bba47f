//! One instance of the registry: whether it lives, where it is, what it is an instance of, and the object that stands for it.
//!
//! Owned by `registry`, which decides what becomes of it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use transept_model::kinds::workload::{SILENT, UNPROVEN};
use transept_xds::mesh::{Condition, Workload};

use super::objects::{join, workload_object};
use super::{Entry, LEASE, Name, SILENCE};
use crate::plane::members::{Members, target_of};

/// An instance that is registered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    pub(super) entry: Entry,
    pub(super) seen: Duration,
    /// Silent for longer than a lease, as of the last sweep: another instance of the identity may take the name.
    pub(super) overdue: bool,
    /// Nothing ends for it, as of the last sweep.
    pub(super) kept: bool,
    /// The one that has registered from where it is, since it was heard last.
    pub(super) rival: Option<Name>,
    /// It has missed a beat since there is a rival, which is in its place by that.
    pub(super) displaced: bool,
    /// Since when it is not kept any more, of those whose lease had not ended until then.
    pub(super) spared: Option<Duration>,
    /// The Services that others serve, while it is kept for one that nobody else does.
    pub(super) silent_for: BTreeSet<String>,
    /// Whether slices of its own Service have named it.
    pub(super) was_named: bool,
}

impl Held {
    pub(super) fn new(entry: Entry, seen: Duration) -> Held {
        let silent_for = BTreeSet::new();
        Held {
            entry,
            seen,
            overdue: false,
            kept: false,
            rival: None,
            displaced: false,
            spared: None,
            silent_for,
            was_named: false,
        }
    }

    /// Has it called again as long as nobody else serves what it serves, but for Services that others do. While everything stays as it is, it is called for
    /// no fewer of them than before. True when that is news.
    pub(super) fn keep_but_for(&mut self, mut others: BTreeSet<String>, is_frozen: bool) -> bool {
        if is_frozen {
            others.retain(|service| self.silent_for.contains(service));
        }
        let differs = self.silent_for != others;
        self.silent_for = others;
        std::mem::take(&mut self.entry.lapsed) || differs
    }

    /// Nothing keeps it any more: it may be on its way. It has that time once, unless it is a network that comes back: another instance that comes and
    /// goes does not keep it for ever. After that it is unhealthy at once, and still there for whom it is the last one next time.
    pub(super) fn spare(&mut self, now: Duration, is_patient: bool, was_frozen: bool) {
        if was_frozen || self.spared.is_none() {
            self.spared = (is_patient && !self.entry.lapsed).then_some(now);
        } else if is_patient {
            let over = LEASE - SILENCE + Duration::from_secs(1);
            self.spared = Some(now.saturating_sub(over));
        }
    }

    /// For how long nothing was heard of it.
    pub(super) fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(self.seen)
    }

    /// The silence that counts against it. Those who were cut off together come back one after the other: who has not been heard yet
    /// when nothing is kept any more is on his way.
    pub(super) fn counted(&self, now: Duration) -> Duration {
        let silence = self.silence(now);
        self.spared.map_or(silence, |spared| silence.min(now.saturating_sub(spared) + SILENCE))
    }

    /// Whether it has missed no beat: it is alive, and nobody may put it out.
    pub(super) fn is_alive(&self, now: Duration) -> bool {
        self.silence(now) <= SILENCE && !self.entry.lapsed
    }

    /// Another one has registered from where it is. It has a beat to say that it lives.
    pub(super) fn meet(&mut self, rival: &Name, now: Duration) {
        self.rival = Some(rival.clone());
        self.displaced |= !self.is_alive(now);
    }

    /// Whether it is heard.
    pub(super) fn lives(&self, now: Duration) -> bool {
        self.silence(now) <= LEASE && !self.entry.lapsed
    }

    /// The Services that it is an instance of: those that it registered for, and those whose slices name it.
    pub(super) fn services<'h>(&'h self, members: &'h Members) -> impl Iterator<Item = (&'h str, &'h str)> {
        let namespace = self.entry.workload.namespace.as_str();
        self.own_services().chain(self.sliced(members).map(move |service| (namespace, service)))
    }

    /// Those that it registered for.
    pub(super) fn own_services(&self) -> impl Iterator<Item = (&str, &str)> {
        let workload = &self.entry.workload;
        workload.services.iter().map(|service| (workload.namespace.as_str(), service.as_str()))
    }

    /// The Services whose slices name it, and of which it is an instance for that: those of others only where it proves that it is there. They
    /// would go on to name its address if it were taken out.
    pub(super) fn sliced<'h>(&'h self, members: &'h Members) -> impl Iterator<Item = &'h str> {
        members.services_of(&self.entry.workload).filter(|service| self.entry.is_proven() || self.is_own(service))
    }

    /// Whether it registered for a Service.
    pub(super) fn is_own(&self, service: &str) -> bool {
        self.entry.workload.services.iter().any(|own| own == service)
    }

    /// Whether slices of a Service that it registered for name it.
    pub(super) fn is_named(&self, members: &Members) -> bool {
        members.services_of(&self.entry.workload).any(|service| self.is_own(service))
    }

    /// Where it is: one that is there has taken the place of whoever was there before. Only what one identity says of itself is compared. Ports
    /// behind tunnels may be alike at one address, as of containers.
    pub(super) fn places(&self) -> impl Iterator<Item = (&str, &str, u32)> {
        let workload = &self.entry.workload;
        let open = workload.ports.iter().map(target_of).filter(|_| workload.tunnel_port == 0);
        let ports = open.chain([workload.tunnel_port]).filter(|port| *port != 0);
        ports.map(|port| (self.entry.identity.as_str(), workload.address.as_str(), port))
    }
}

impl Held {
    /// Whether it is where another one at its address was: with the same tunnel, or without any at a port of the same program, which it says for
    /// its own address alone.
    pub(super) fn replaces(&self, other: &Held) -> bool {
        let (own, before) = (&self.entry.workload, &other.entry.workload);
        match own.tunnel_port {
            0 => share_a_program(own, before),
            tunnel => tunnel == before.tunnel_port && self.entry.identity == other.entry.identity,
        }
    }

    /// Whether it is called, as far as is known.
    pub(super) fn is_well(&self) -> bool {
        self.entry.workload.condition() == Condition::Healthy && !self.displaced
    }

    /// The object that stands for it.
    pub(super) fn object(&self, members: &Members) -> Value {
        let workload = &self.entry.workload;
        let mut object = workload_object(&self.entry);
        if self.entry.is_proven() {
            join(&mut object, workload, members);
        }
        if self.displaced {
            object["spec"]["health"] = Condition::Unhealthy.as_str().into();
        } else if self.entry.lapsed && self.is_well() {
            let services = object["spec"]["services"].as_array().into_iter().flatten();
            let names: Vec<&str> = services.filter_map(Value::as_str).collect();
            object["metadata"]["annotations"][SILENT] = names.join(",").into();
        } else if !self.silent_for.is_empty() {
            let names: Vec<&str> = self.silent_for.iter().map(String::as_str).collect();
            object["metadata"]["annotations"][SILENT] = names.join(",").into();
        }
        if self.displaced || !(self.entry.is_proven() || self.is_named(members)) {
            object["metadata"]["annotations"][UNPROVEN] = "true".into();
        }
        object
    }
}

/// Whether two workloads have a port of their programs in common.
fn share_a_program(one: &Workload, other: &Workload) -> bool {
    one.ports.iter().any(|port| other.ports.iter().any(|another| target_of(another) == target_of(port)))
}

/// Whether one that registers comes to where another one is that is registered: one of them is not there any more, or they are one program that serves several
/// services. A program behind a tunnel may have the same port as one beside it, as in a container: it is the same place once the other is silent for longer
/// than a lease.
pub(super) fn comes_to(entry: &Entry, other: &Held) -> bool {
    let (own, before) = (&entry.workload, &other.entry.workload);
    let is_there = || match (own.tunnel_port, before.tunnel_port) {
        (0, 0) => share_a_program(own, before),
        (0, _) | (_, 0) => (other.overdue || other.entry.lapsed) && share_a_program(own, before),
        (tunnel, other) => tunnel == other,
    };
    let is_another = (&own.namespace, &own.name) != (&before.namespace, &before.name);
    entry.at_home && own.address == before.address && is_another && is_there()
}
