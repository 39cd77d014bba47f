//! What the registry must do, out of what a control plane has heard: told beside the registry, from the words of the documentation.
//!
//! Asked by `plane` around every call of the registry. `docs/mesh.md`, "Registration": 30 s of silence make an instance unhealthy, 60 s
//! more take it out; when more than half of all, and at least three, fall silent together, nobody ends for an hour, nor does anybody of a service
//! of which nobody is heard who is well; and when that is over, who has not come back yet has half a lease left. Whoever comes where a silent one of its
//! service was takes its place. Whoever comes to where another one is puts that out once it has missed a beat since, and not before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use transept_control::plane::registry::{Name, Registry, name_of};
use transept_xds::mesh::{Condition, Workload};

const LEASE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(60);
const MISSED: Duration = Duration::from_secs(15);
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
struct Lease {
    nonce: Vec<u8>,
    address: String,
    tunnel: u32,
    /// The other one that has come to where it is since it was heard.
    met: Option<Name>,
    /// Whether it has missed a beat since.
    out: bool,
    /// Whether it says that it is well.
    well: bool,
    heard: Duration,
    lapsed: bool,
    /// Silent for longer than a lease, when somebody looked last.
    overdue: bool,
    /// Nothing ended for it, when somebody looked last.
    kept: bool,
    /// Until when what was kept before does not end.
    until: Duration,
    /// Whether it has had that time in this silence.
    had: bool,
}

impl Lease {
    fn begin(nonce: &[u8], workload: &Workload, heard: Duration) -> Lease {
        let (nonce, address, tunnel) = (nonce.to_vec(), workload.address.clone(), workload.tunnel_port);
        let well = workload.condition() == Condition::Healthy;
        Lease {
            nonce,
            address,
            tunnel,
            met: None,
            out: false,
            well,
            heard,
            lapsed: false,
            overdue: false,
            kept: false,
            until: Duration::ZERO,
            had: false,
        }
    }
}

/// Names of instances here are those of their services with a number.
fn service_of(name: &Name) -> &str {
    name.1.rsplit_once('-').map_or("", |(service, _)| service)
}

/// The leases as they should be.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    all: BTreeMap<Name, Lease>,
    /// Whether most were silent when somebody looked last.
    mass: bool,
}

impl Leases {
    /// Whether an instance was well when it was heard last, and nobody is in its place.
    pub(crate) fn is_well(&self, name: &Name) -> bool {
        self.all.get(name).is_some_and(|lease| lease.well && !lease.out)
    }

    /// Every lease begins anew.
    pub(crate) fn restart(&mut self, now: Duration) {
        self.mass = false;
        for lease in self.all.values_mut() {
            (lease.heard, lease.overdue, lease.kept, lease.until) = (now, false, false, Duration::ZERO);
            (lease.had, lease.met, lease.out) = (false, None, false);
        }
    }

    /// What became of a registration by the right identity.
    pub(crate) fn registered(
        &mut self,
        workload: &Workload,
        nonce: &[u8],
        done: bool,
        now: Duration,
    ) -> Result<(), String> {
        let name = &name_of(workload);
        let taken = self.all.get(name).is_some_and(|lease| !(lease.lapsed || lease.overdue) && lease.nonce != nonce);
        if done == taken {
            let who = if taken { "takes the place of one that lives" } else { "is refused" };
            return Err(format!("a registration of {name:?} {who}"));
        }
        if done {
            let place = (&workload.address, workload.tunnel_port);
            let others = self.all.iter_mut().filter(|(other, _)| *other != name);
            for (_, other) in others.filter(|(_, other)| (&other.address, other.tunnel) == place) {
                other.met = Some(name.clone());
                other.out |= other.lapsed || now.saturating_sub(other.heard) > MISSED;
            }
            self.all.insert(name.clone(), Lease::begin(nonce, workload, now));
        }
        Ok(())
    }

    pub(crate) fn beat(&mut self, name: &Name, nonce: &[u8], known: bool, now: Duration) -> Result<(), String> {
        match self.all.get_mut(name).filter(|lease| lease.nonce == nonce) {
            Some(lease) if known => {
                (lease.heard, lease.lapsed, lease.overdue) = (now, false, false);
                (lease.kept, lease.until, lease.had) = (false, Duration::ZERO, false);
                (lease.met, lease.out) = (None, false);
            }
            None if !known => {}
            _ => return Err(format!("a beat of {name:?} is known: {known}")),
        }
        Ok(())
    }

    pub(crate) fn left(&mut self, name: &Name, nonce: &[u8]) {
        if self.all.get(name).is_some_and(|lease| lease.nonce == nonce) {
            self.all.remove(name);
        }
    }

    /// Time has passed, and the registry has looked who is silent.
    pub(crate) fn swept(&mut self, now: Duration) {
        let silence = |lease: &Lease| now.saturating_sub(lease.heard);
        let there: BTreeSet<Name> = self.all.keys().cloned().collect();
        for lease in self.all.values_mut() {
            lease.met.take_if(|rival| !there.contains(rival));
            lease.out = lease.met.is_some() && (lease.out || lease.lapsed || silence(lease) > MISSED);
        }
        let silent = self.all.values().filter(|lease| silence(lease) > MISSED).count();
        let mass = silent >= 3 && silent * 2 > self.all.len();
        let was_mass = std::mem::replace(&mut self.mass, mass);
        let heard = || self.all.iter().filter(|(_, lease)| silence(lease) <= LEASE && !lease.lapsed);
        let heard_of: BTreeSet<String> = heard()
            .filter(|(_, lease)| lease.well && !lease.out)
            .map(|(name, _)| service_of(name).to_owned())
            .collect();
        let heard_at: BTreeSet<(String, String)> =
            heard().map(|(name, lease)| (service_of(name).to_owned(), lease.address.clone())).collect();
        self.all.retain(|name, lease| {
            let silence = silence(lease);
            lease.overdue = silence > LEASE;
            let here = (service_of(name).to_owned(), lease.address.clone());
            if lease.overdue && (lease.out || heard_at.contains(&here)) {
                return false;
            }
            let is_last = lease.overdue && !heard_of.contains(service_of(name));
            let within_the_hour = silence <= HOUR;
            let was_kept = std::mem::replace(&mut lease.kept, within_the_hour && (mass || is_last));
            // An instance that comes and goes gives that time to the others of its service once.
            if was_kept && !lease.kept && (was_mass || !lease.had) {
                lease.had = within_the_hour && !lease.lapsed;
                lease.until = if lease.had { now + LEASE - MISSED } else { Duration::ZERO };
            } else if was_kept && !lease.kept && within_the_hour {
                // The next time they are unhealthy at once, and taken out no sooner than others.
                lease.until = now.saturating_sub(Duration::from_secs(1));
            }
            if lease.kept {
                lease.lapsed &= !is_last;
                return true;
            }
            // What was kept ends later, and all that follows.
            let late = lease.until.saturating_sub(lease.heard + LEASE);
            if silence <= LEASE + late {
                return true;
            }
            // Whoever is taken out was unhealthy before.
            let stays = !lease.lapsed || silence <= LEASE + GRACE + late;
            lease.lapsed = true;
            stays
        });
    }

    /// Whether the registry says the same.
    pub(crate) fn agree(&self, registry: &Registry) -> Result<(), String> {
        let said: BTreeMap<&Name, bool> = registry.iter().map(|(name, entry)| (name, entry.lapsed)).collect();
        for (name, lease) in &self.all {
            match said.get(name) {
                None => return Err(format!("{name:?} is not registered, heard at {:?}", lease.heard)),
                Some(lapsed) if *lapsed != lease.lapsed => {
                    return Err(format!("the lease of {name:?} has ended: {lapsed}, heard at {:?}", lease.heard));
                }
                Some(_) => {}
            }
        }
        match said.keys().find(|name| !self.all.contains_key(**name)) {
            Some(name) => Err(format!("{name:?} is still registered")),
            None => Ok(()),
        }
    }
}
