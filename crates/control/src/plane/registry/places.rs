//! Whose an address is of several instances that say that they are there: the one's that came first, for as long as it is heard.
//!
//! Asked by `registry` at each registration and each sweep. Who only came second is a guest, and no slice that names the address leads to it.

use std::collections::HashMap;
use std::time::Duration;

use super::held::{Held, comes_to};
use super::{Entry, Name, Registry, name_of};

impl Registry {
    /// Whether an instance would come to where another one is known to be that is alive, and that did not come to it; and how many are there before it.
    pub(super) fn turn(&self, entry: &Entry, before: &[u8], now: Duration) -> (bool, u32) {
        let is_host = |held: &Held| held.entry.is_proven() && held.is_alive(now) && !held.displaced;
        let own = self.held.get(&name_of(&entry.workload)).filter(|own| own.entry.identity == entry.identity);
        let own = own.filter(|own| is_host(own) || own.entry.at_home && own.entry.nonce == before);
        let was_there = |other: &Held| {
            own.is_some_and(|own| comes_to(&own.entry, other) && (is_host(own) || own.entry.turn < other.entry.turn))
        };
        let hosts = self.held.values().filter(|other| is_host(other) && comes_to(entry, other));
        let last = hosts.filter(|host| !was_there(host)).map(|host| host.entry.turn).max();
        let own = own.filter(|own| own.entry.workload.address == entry.workload.address).map(|own| own.entry.turn);
        (last.is_some(), last.map(|last| last.saturating_add(1)).max(own).unwrap_or(0))
    }

    /// Puts out who has missed a beat since another one came to his place, and gives a place to whoever came there first of those that are heard. Names
    /// whom that changes.
    pub(super) fn settle_places(&mut self, now: Duration) -> Vec<Name> {
        let mut changed = self.forget_rivals();
        for (name, held) in &mut self.held {
            if held.rival.is_some() && !held.displaced && !held.is_alive(now) {
                held.displaced = true;
                changed.push(name.clone());
            }
        }
        if self.held.values().all(|held| !held.entry.guest && held.entry.turn == 0) {
            return changed;
        }
        // Who was heard beside a guest keeps the place for as long as others keep theirs.
        let mut here: HashMap<&str, Vec<&Held>> = HashMap::new();
        for held in self.held.values().filter(|held| held.entry.at_home && held.lives(now) && !held.displaced) {
            here.entry(held.entry.workload.address.as_str()).or_default().push(held);
        }
        let has_host = |guest: &Entry| {
            let mut others = here.get(guest.workload.address.as_str()).into_iter().flatten();
            others.any(|host| host.entry.turn < guest.turn && comes_to(guest, host))
        };
        let others = self.held.iter().filter(|(_, held)| held.entry.guest != has_host(&held.entry));
        let others: Vec<Name> = others.map(|(name, _)| name.clone()).collect();
        for name in others {
            if let Some(held) = self.held.get_mut(&name) {
                held.entry.guest = !held.entry.guest;
            }
            changed.push(name);
        }
        changed
    }

    /// Nobody is put out by one that is not registered any more itself. Names whom that changes.
    fn forget_rivals(&mut self) -> Vec<Name> {
        let rivals = self.held.iter().filter_map(|(name, held)| Some((name, held.rival.as_ref()?)));
        let freed = rivals.filter(|(_, rival)| !self.held.contains_key(*rival)).map(|(name, _)| name.clone());
        let freed: Vec<Name> = freed.collect();
        let mut changed = Vec::new();
        for name in freed {
            if let Some(held) = self.held.get_mut(&name) {
                held.rival = None;
                if std::mem::take(&mut held.displaced) {
                    changed.push(name);
                }
            }
        }
        changed
    }
}
