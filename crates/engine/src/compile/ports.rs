//! The ports that policies name, at a program behind Services: which of the program's a port of a Service leads to, and names that nothing has.
//!
//! Called by `compile` for its notes, and by `mesh`. Beside a program a call is seen on the program's port, while whoever writes a policy
//! may have nothing before him but the Service. What a rule on ports then matches is decided by the policy.

use std::collections::{BTreeMap, BTreeSet};

use transept_model::attach::{PolicyAttachment, PolicyTarget};
use transept_model::kinds::TargetPort;
use transept_model::place::{Note, Place};
use transept_model::world::World;

use super::mesh::{Station, serves};
use super::policies::Policies;

/// The ports of the program that the ports of its Services lead to.
pub(super) fn led_to(world: &World, station: &Station) -> BTreeMap<u16, BTreeSet<u16>> {
    let mut all: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
    let services = station.services.iter().filter_map(|service| world.service(&station.namespace, service));
    let services: Vec<_> = services.collect();
    for app in &station.app {
        let served = services.iter().flat_map(|service| &service.spec.ports).filter(|port| serves(port, app));
        for port in served.map(|port| port.port).chain([app.port]).filter(|port| *port != app.to.port()) {
            all.entry(port).or_default().insert(app.to.port());
        }
    }
    all
}

/// What the owners of policies should know about ports that nothing under them has: no listener of a Gateway,
/// neither a Service nor, as far as is known, its programs.
pub(super) fn notes(world: &World, attachments: &[PolicyAttachment], policies: &Policies<'_>) -> Vec<Note> {
    let mut notes: BTreeMap<(usize, u16), Note> = BTreeMap::new();
    let mut had = BTreeSet::new();
    for (index, attachment) in attachments.iter().enumerate() {
        let (known, whose) = match &attachment.target {
            PolicyTarget::Service { namespace, name, .. } => (
                known_ports(world, namespace, name),
                format!("neither Service {namespace}/{name} nor, as far as these files say, its programs have"),
            ),
            PolicyTarget::Gateway { namespace, name } => {
                (ports_of(world, namespace, name), format!("no listener of Gateway {namespace}/{name} has"))
            }
            _ => continue,
        };
        let Some(known) = known else { continue };
        let policy = attachment.policy.meta.object_name();
        for (port, spot) in policies.ports_named_by(&policy) {
            if known.contains(&port) {
                had.insert((policy.clone(), port));
                continue;
            }
            let all: Vec<_> = known.iter().map(u16::to_string).collect();
            let what = format!(
                "a rule names port {port}, which {whose}: it matches nothing there; they have {}",
                all.join(", ")
            );
            let at = Place::new(attachment.policy.meta.at.file.clone(), spot);
            notes.insert((index, port), Note { at, object: Some(policy.clone()), what });
        }
    }
    // One policy may stand on several targets, each with ports of its own.
    notes.retain(|(index, port), _| {
        attachments.get(*index).is_none_or(|one| !had.contains(&(one.policy.meta.object_name(), *port)))
    });
    notes.into_values().collect()
}

/// The ports of the listeners of a Gateway.
fn ports_of(world: &World, namespace: &str, name: &str) -> Option<BTreeSet<u16>> {
    let gateway = world.gateway(namespace, name)?;
    Some(gateway.spec.listeners.iter().map(|listener| listener.port).collect())
}

/// The ports of a Service and of its programs; none where some of them cannot be known.
fn known_ports(world: &World, namespace: &str, name: &str) -> Option<BTreeSet<u16>> {
    let service = world.service(namespace, name)?;
    let mut known = BTreeSet::new();
    for port in &service.spec.ports {
        known.insert(port.port);
        match &port.target_port {
            Some(TargetPort::Number(number)) => known.extend([*number]),
            Some(_) => return None,
            None => {}
        }
    }
    let workloads = world.workloads_of(namespace, name).iter().flat_map(|workload| &workload.spec.ports);
    known.extend(workloads.flat_map(|port| [port.port, port.target()]));
    Some(known)
}
