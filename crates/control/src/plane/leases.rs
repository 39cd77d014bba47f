//! The leases of instances that registered over HTTP: the hash of each secret, and whose it is.
//!
//! Held by `core` beside the registry, whose nonce of such an instance is the same hash. A lease outlives its registration for [`KEPT`],
//! so that an instance that was silent for too long, or was started again, needs no other token. Pure: time is an argument, in seconds
//! of the wall clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use transept_identity::lease::LeaseHash;
use transept_identity::token::RETRY;

use super::registry::{MOST_INSTANCES, Name};

/// How long a lease is kept after its registration has ended.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);

/// What is stored about a lease.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Lease {
    /// The hash of its secret.
    pub hash: LeaseHash,
    /// The identity of the token that it was made for.
    pub identity: String,
    /// Which first registration led to it.
    pub claim: LeaseHash,
    /// When it was made.
    pub made: u64,
    /// When its registration ended; `None` while it is there.
    pub ended: Option<u64>,
}

/// All leases, by the name of their instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leases {
    held: BTreeMap<Name, Lease>,
    /// Those that changed since they were stored last.
    unsaved: BTreeSet<Name>,
}

impl Leases {
    /// Takes in what was stored.
    pub fn restore(leases: impl IntoIterator<Item = (Name, Lease)>) -> Self {
        Self { held: leases.into_iter().collect(), unsaved: BTreeSet::new() }
    }

    /// What is known of the lease of an instance.
    pub fn find(&self, name: &Name) -> Option<&Lease> {
        self.held.get(name)
    }

    /// The lease of this instance with this secret. Costs one look-up, and takes the same time wherever the secret is wrong.
    pub fn recognize(&self, name: &Name, hash: &LeaseHash) -> Option<&Lease> {
        self.held.get(name).filter(|lease| lease.hash.is(hash))
    }

    /// The lease that a repeated first registration may replace: the answer to it may have been lost.
    pub fn repeated(&self, name: &Name, claim: &LeaseHash, now: u64) -> Option<&Lease> {
        let lease = self.held.get(name).filter(|lease| lease.claim.is(claim))?;
        (now <= lease.made.saturating_add(RETRY.as_secs())).then_some(lease)
    }

    /// Takes in a lease that has been stored. An identity that has too many loses the one that ended first.
    pub fn put(&mut self, name: Name, lease: Lease) {
        let of_same = self.held.iter().filter(|(_, held)| held.identity == lease.identity);
        if of_same.clone().count() >= MOST_INSTANCES {
            let ended = of_same.filter_map(|(name, held)| held.ended.map(|ended| (ended, name.clone())));
            if let Some((_, oldest)) = ended.min() {
                self.drop_lease(oldest);
            }
        }
        self.unsaved.remove(&name);
        self.held.insert(name, lease);
    }

    /// Notes that the registration of an instance has ended.
    pub fn end(&mut self, name: &Name, now: u64) {
        if let Some(lease) = self.held.get_mut(name)
            && lease.ended.is_none()
        {
            lease.ended = Some(now);
            self.unsaved.insert(name.clone());
        }
    }

    /// Notes that an instance is registered again.
    pub fn resume(&mut self, name: &Name) {
        if let Some(lease) = self.held.get_mut(name)
            && lease.ended.take().is_some()
        {
            self.unsaved.insert(name.clone());
        }
    }

    /// Forgets leases whose registration ended long ago.
    pub fn forget(&mut self, now: u64) {
        let over = |lease: &Lease| lease.ended.is_some_and(|ended| now > ended.saturating_add(KEPT.as_secs()));
        let gone: Vec<Name> = self.held.iter().filter(|(_, lease)| over(lease)).map(|(name, _)| name.clone()).collect();
        gone.into_iter().for_each(|name| self.drop_lease(name));
    }

    /// What is to be stored: `None` is gone.
    pub fn unsaved(&self) -> impl Iterator<Item = (&Name, Option<&Lease>)> {
        self.unsaved.iter().map(|name| (name, self.held.get(name)))
    }

    /// Notes that it has been stored.
    pub fn saved(&mut self) {
        self.unsaved.clear();
    }

    fn drop_lease(&mut self, name: Name) {
        self.held.remove(&name);
        self.unsaved.insert(name);
    }
}

#[cfg(test)]
mod tests {
    use transept_identity::lease::{self, SECRET};

    use super::*;

    fn name(name: &str) -> Name {
        ("shop".into(), name.into())
    }

    fn hash(seed: u8) -> LeaseHash {
        lease::write(&[seed; SECRET], "shop", "cart").1
    }

    fn lease(seed: u8, claim: &[u8]) -> Lease {
        let claim = LeaseHash::of_claim("token", "shop", "cart", claim);
        Lease { hash: hash(seed), identity: "spiffe://a/b".into(), claim, made: 1000, ended: None }
    }

    fn to_store(leases: &Leases) -> Vec<(&str, bool)> {
        leases.unsaved().map(|(name, lease)| (name.1.as_str(), lease.is_some())).collect()
    }

    #[test]
    fn a_lease_is_good_for_its_instance_alone() {
        let mut leases = Leases::default();
        leases.put(name("cart"), lease(1, b"a"));
        assert!(leases.recognize(&name("cart"), &hash(1)).is_some());
        assert!(leases.recognize(&name("cart"), &hash(2)).is_none());
        assert!(leases.recognize(&name("bank"), &hash(1)).is_none());
    }

    #[test]
    fn a_first_registration_may_be_repeated_for_a_while() {
        let mut leases = Leases::default();
        leases.put(name("cart"), lease(1, b"a"));
        let claim = |key: &[u8]| LeaseHash::of_claim("token", "shop", "cart", key);
        let end = 1000 + RETRY.as_secs();
        assert_eq!(leases.repeated(&name("cart"), &claim(b"a"), end), Some(&lease(1, b"a")));
        assert_eq!(leases.repeated(&name("cart"), &claim(b"a"), end + 1), None);
        assert_eq!(leases.repeated(&name("cart"), &claim(b"b"), 1000), None);
        assert_eq!(leases.repeated(&name("bank"), &claim(b"a"), 1000), None);
    }

    #[test]
    fn a_lease_outlives_its_registration_for_a_day() {
        let mut leases = Leases::restore([(name("cart"), lease(1, b"a"))]);
        leases.forget(u64::MAX);
        assert!(to_store(&leases).is_empty());
        leases.end(&name("cart"), 2000);
        leases.end(&name("cart"), 3000);
        assert_eq!(leases.find(&name("cart")).and_then(|lease| lease.ended), Some(2000));
        assert_eq!(to_store(&leases), [("cart", true)]);
        leases.saved();
        leases.forget(2000 + KEPT.as_secs());
        assert!(to_store(&leases).is_empty());
        leases.resume(&name("cart"));
        leases.forget(u64::MAX);
        assert_eq!(to_store(&leases), [("cart", true)]);
        leases.end(&name("cart"), 2000);
        leases.forget(2001 + KEPT.as_secs());
        assert_eq!(to_store(&leases), [("cart", false)]);
        assert!(leases.recognize(&name("cart"), &hash(1)).is_none());
    }

    #[test]
    fn an_identity_cannot_fill_the_table() {
        let mut leases = Leases::default();
        for number in 0..MOST_INSTANCES {
            leases.put(name(&format!("cart-{number}")), lease(1, b"a"));
        }
        leases.end(&name("cart-7"), 3000);
        leases.end(&name("cart-5"), 4000);
        leases.put(name("one-more"), lease(1, b"a"));
        assert!(leases.find(&name("cart-7")).is_none() && leases.find(&name("cart-5")).is_some());
        assert_eq!(to_store(&leases), [("cart-5", true), ("cart-7", false)]);
    }
}
