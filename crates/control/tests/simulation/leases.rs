//! What the registry must do, out of what a control plane has heard: told beside the registry, from the words of the documentation.
//!
//! Asked by `plane` around every call of the registry. `docs/mesh.md`, "Registration": 30 s of silence make an instance unhealthy, 60 s
//! more take it out; when more than half of all, and at least three, fall silent together, nobody ends for an hour, nor does who is left last
//! of a service; and when that is over, who has not come back yet has half a lease left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use transept_control::plane::registry::{Name, Registry};

const LEASE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(60);
const MISSED: Duration = Duration::from_secs(15);
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
struct Lease {
    nonce: Vec<u8>,
    heard: Duration,
    lapsed: bool,
    /// Silent for longer than a lease, when somebody looked last.
    overdue: bool,
    /// Nothing ended for it, when somebody looked last.
    kept: bool,
}

impl Lease {
    fn begin(nonce: &[u8], heard: Duration) -> Lease {
        Lease { nonce: nonce.to_vec(), heard, lapsed: false, overdue: false, kept: false }
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
}

impl Leases {
    /// Every lease begins anew.
    pub(crate) fn restart(&mut self, now: Duration) {
        for lease in self.all.values_mut() {
            (lease.heard, lease.overdue, lease.kept) = (now, false, false);
        }
    }

    /// What became of a registration by the right identity.
    pub(crate) fn registered(&mut self, name: &Name, nonce: &[u8], done: bool, now: Duration) -> Result<(), String> {
        let taken = self.all.get(name).is_some_and(|lease| !(lease.lapsed || lease.overdue) && lease.nonce != nonce);
        if done == taken {
            let who = if taken { "takes the place of one that lives" } else { "is refused" };
            return Err(format!("a registration of {name:?} {who}"));
        }
        if done {
            self.all.insert(name.clone(), Lease::begin(nonce, now));
        }
        Ok(())
    }

    pub(crate) fn beat(&mut self, name: &Name, nonce: &[u8], known: bool, now: Duration) -> Result<(), String> {
        match self.all.get_mut(name).filter(|lease| lease.nonce == nonce) {
            Some(lease) if known => (lease.heard, lease.lapsed, lease.overdue) = (now, false, false),
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
        let silent = self.all.values().filter(|lease| silence(lease) > MISSED).count();
        let mass = silent >= 3 && silent * 2 > self.all.len();
        let heard_of: BTreeSet<String> = self
            .all
            .iter()
            .filter(|(_, lease)| silence(lease) <= LEASE && !lease.lapsed)
            .map(|(name, _)| service_of(name).to_owned())
            .collect();
        self.all.retain(|name, lease| {
            let is_last = silence(lease) > LEASE && !lease.lapsed && !heard_of.contains(service_of(name));
            let within_the_hour = silence(lease) <= HOUR;
            let was_kept = std::mem::replace(&mut lease.kept, within_the_hour && (mass || is_last));
            if was_kept && !lease.kept && within_the_hour && !lease.lapsed {
                lease.heard = lease.heard.max(now.saturating_sub(MISSED));
            }
            let silence = silence(lease);
            lease.overdue = silence > LEASE;
            if lease.kept || silence <= LEASE {
                return true;
            }
            // Whoever is taken out was unhealthy before.
            let stays = !lease.lapsed || silence <= LEASE + GRACE;
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
