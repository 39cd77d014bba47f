//! Registrations of programs that have no proxy: by a join token the first time, and from then on by the lease that it was answered with.
//!
//! Called by `api`, off the threads that wait for sockets. What may be registered is decided by `registry`, which tokens are good by
//! `transept_identity`; here the two meet, and nothing is confirmed before it is on the disk. Whoever guesses tokens or leases costs one
//! look-up.

use std::net::IpAddr;

use serde_json::Value;
use transept_identity::lease::{self, LeaseClaim, LeaseHash};
use transept_identity::token::BadToken;
use transept_identity::{SpiffeId, WorkloadName};
use transept_xds::mesh::Workload;
use zeroize::Zeroizing;

use super::{Inner, Plane, now};
use crate::plane::ca::random;
use crate::plane::leases::Lease;
use crate::plane::registry::{Entry, Name, Refused, check_place, name_of, workload_object};
use crate::plane::store::Write;

/// What somebody shows who asks for something. It is not for logs, so it cannot be printed.
pub(in crate::plane) enum Credential {
    /// The secret part of a join token.
    Token(Zeroizing<String>),
    /// A lease that is whole.
    Lease(LeaseClaim),
}

/// Why something is not done. What it says is safe to send back.
#[derive(Debug)]
pub(in crate::plane) enum Denied {
    /// The token is not good.
    Token(BadToken),
    /// There is no such lease.
    Lease,
    /// The registry does not take it.
    Refused(Refused),
    /// The lease is good, and its registration has ended.
    Ended,
    /// It cannot be stored now; the details are in the log.
    Store,
    /// The crypto library has no randomness.
    Random,
}

/// A registration that is on the disk. Neither can this be printed.
pub(in crate::plane) struct Registered {
    /// What is registered.
    pub(in crate::plane) entry: Entry,
    /// Whether there was none of this name before.
    pub(in crate::plane) is_new: bool,
    /// The text of the lease, when it was made just now.
    pub(in crate::plane) lease: Option<Zeroizing<String>>,
}

impl Plane {
    /// For whom somebody may register. A token may be used up: whether this is the instance that used it is seen later.
    pub(in crate::plane) fn holder(&self, shown: &Credential) -> Result<WorkloadName, Denied> {
        let inner = self.lock();
        match shown {
            Credential::Token(token) => inner.tokens.recognize(token).cloned().map_err(Denied::Token),
            Credential::Lease(claim) => recognized(&inner, claim)?.1.workload().ok_or(Denied::Lease),
        }
    }

    /// Whether somebody may look at what is registered in a namespace: any lease of it will do, and any token that is good.
    pub(in crate::plane) fn may_look(&self, shown: &Credential, namespace: &str) -> Result<bool, Denied> {
        let inner = self.lock();
        match shown {
            Credential::Token(token) => {
                Ok(inner.tokens.vouch(token, now()).map_err(Denied::Token)?.namespace() == namespace)
            }
            Credential::Lease(claim) => recognized(&inner, claim).map(|((own, _), _)| own == namespace),
        }
    }

    /// The objects of the instances in a namespace, or of one of them.
    pub(in crate::plane) fn registered(&self, namespace: &str, only: Option<&str>) -> Vec<Value> {
        let inner = self.lock();
        if let Some(only) = only {
            let name = (namespace.to_owned(), only.to_owned());
            return inner.registry.entry(&name).map(workload_object).into_iter().collect();
        }
        let all = inner.registry.iter().filter(|((own, _), _)| own == namespace);
        all.map(|(_, entry)| workload_object(entry)).collect()
    }

    /// Redeems a token for the registration of an instance, and makes its lease. The instance that has chosen `key` may ask again when
    /// the answer was lost: its lease is replaced. Without a key there is no second time.
    pub(in crate::plane) fn enrol(
        &self,
        token: &str,
        key: Option<&[u8]>,
        workload: Workload,
        from: IpAddr,
    ) -> Result<Registered, Denied> {
        let origin = check_place(&workload, from).map_err(Denied::Refused)?;
        let chance = || random::<{ lease::SECRET }>(self.ca.provider()).map(Zeroizing::new).ok_or(Denied::Random);
        let (secret, unique) = (chance()?, chance()?);
        let now = now();
        let name = name_of(&workload);
        let mut inner = self.lock();
        inner.tokens.recognize(token).map_err(Denied::Token)?;
        let claim = LeaseHash::of_claim(token, &name.0, &name.1, key.unwrap_or(unique.as_slice()));
        let mut tokens = inner.tokens.clone();
        let grant = tokens.redeem(token, claim.as_bytes(), now).map_err(Denied::Token)?;
        let wrong = |why: String| Denied::Refused(Refused::Wrong(why));
        let id = grant.workload.id(self.trust_domain()).map_err(|error| wrong(error.to_string()))?;
        let (text, hash) = lease::write(&secret, &name.0, &name.1);
        let repeated = inner.leases.repeated(&name, &claim, now.as_secs());
        let (before, made) = repeated.map_or((hash, now.as_secs()), |lease| (lease.hash, lease.made));
        // What cannot be registered leaves the token as it is.
        let nonces = (hash.as_bytes().as_slice(), before.as_bytes().as_slice());
        let moment = self.began.elapsed();
        let entry = inner.registry.admit(workload, &id, nonces, origin, moment).map_err(Denied::Refused)?;
        let is_new = inner.registry.entry(&name).is_none();
        let lease = Lease { hash, identity: id.as_str().to_owned(), claim, made, ended: None };
        let writes = [Write::Tokens(&tokens), Write::Workload(&name, Some(&entry)), Write::Lease(&name, Some(&lease))];
        self.store(&writes).map_err(|_| Denied::Store)?;
        inner.tokens = tokens;
        inner.unsaved.remove(&name);
        inner.registry.insert(entry.clone(), moment);
        inner.leases.put(name, lease);
        self.note_registrations(&mut inner);
        tracing::info!(%id, token = %grant.token, first = grant.first, instance = entry.workload.name, "a workload has registered itself");
        Ok(Registered { entry, is_new, lease: Some(text) })
    }

    /// Changes what an instance registered, or registers it again after its registration has ended.
    pub(in crate::plane) fn change(
        &self,
        claim: &LeaseClaim,
        workload: Workload,
        from: IpAddr,
    ) -> Result<Registered, Denied> {
        let origin = check_place(&workload, from).map_err(Denied::Refused)?;
        let mut inner = self.lock();
        let (name, id) = recognized(&inner, claim)?;
        // The lease is of this instance alone.
        if name_of(&workload) != name {
            return Err(Denied::Lease);
        }
        let is_new = inner.registry.entry(&name).is_none();
        let (nonce, moment) = (claim.hash.as_bytes().as_slice(), self.began.elapsed());
        let entry = inner.registry.admit(workload, &id, (nonce, nonce), origin, moment).map_err(Denied::Refused)?;
        if inner.registry.is_news(&entry, moment) {
            inner.unsaved.insert(name.clone());
        }
        inner.registry.insert(entry.clone(), moment);
        inner.leases.resume(&name);
        self.save(&mut inner).map_err(|_| Denied::Store)?;
        Ok(Registered { entry, is_new, lease: None })
    }

    /// Takes in a sign of life of an instance.
    pub(in crate::plane) fn touch(&self, claim: &LeaseClaim) -> Result<(), Denied> {
        let mut inner = self.lock();
        let (name, _) = recognized(&inner, claim)?;
        let had_ended = inner.registry.beat(&name, claim.hash.as_bytes(), self.began.elapsed()).ok_or(Denied::Ended)?;
        if had_ended {
            inner.unsaved.insert(name);
        }
        self.save(&mut inner).map_err(|_| Denied::Store)
    }

    /// Takes an instance out that says that it ends. It may say so again.
    pub(in crate::plane) fn remove(&self, claim: &LeaseClaim) -> Result<(), Denied> {
        let mut inner = self.lock();
        let (name, id) = recognized(&inner, claim)?;
        if inner.registry.leave(&name, claim.hash.as_bytes(), self.began.elapsed()) {
            tracing::info!(%id, instance = name.1, "a workload has taken itself out");
            inner.unsaved.insert(name.clone());
        }
        inner.leases.end(&name, now().as_secs());
        self.save(&mut inner).map_err(|_| Denied::Store)
    }
}

/// The instance of a lease, and its identity.
fn recognized(inner: &Inner, claim: &LeaseClaim) -> Result<(Name, SpiffeId), Denied> {
    let name = (claim.namespace.clone(), claim.name.clone());
    let lease = inner.leases.recognize(&name, &claim.hash).ok_or(Denied::Lease)?;
    let id = SpiffeId::parse(&lease.identity).map_err(|_| Denied::Lease)?;
    Ok((name, id))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls_pki_types::UnixTime;
    use transept_identity::TrustDomain;
    use transept_identity::token::Uses;
    use transept_xds::mesh::Port;

    use super::*;
    use crate::plane::registry::{LEASE, PATIENCE};
    use crate::plane::{Plane, Setup};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn open(directory: &std::path::Path) -> Arc<Plane> {
        let trust_domain = TrustDomain::new("transept.local").expect("a name");
        let setup = Setup { trust_domain, leaf_life: Duration::from_secs(3600) };
        Plane::open(directory, setup).expect("a plane")
    }

    fn workload() -> Workload {
        Workload {
            namespace: "default".into(),
            name: "cart-1".into(),
            services: vec!["cart".into()],
            service_account: "cart".into(),
            address: "127.0.0.1".into(),
            ports: vec![Port { port: 80, ..Port::default() }],
            weight: 1,
            ..Workload::default()
        }
    }

    fn enrol(plane: &Plane) -> LeaseClaim {
        let made = plane.create_token("default", "cart", Uses::Once, Duration::from_secs(60)).expect("a token");
        let token = made["token"].as_str().and_then(|text| text.split('.').next()).expect("a text").to_owned();
        let registered = plane.enrol(&token, None, workload(), HERE).expect("registered");
        LeaseClaim::read(&registered.lease.expect("a lease")).expect("a whole lease")
    }

    #[test]
    fn who_was_silent_for_too_long_is_unhealthy_then_out_and_returns_with_its_lease() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let claim = enrol(&plane);
        let health = |plane: &Plane| plane.registered("default", None).first().map(|one| one["spec"]["health"].clone());
        plane.touch(&claim).expect("alive");
        assert_eq!(health(&plane), Some("Healthy".into()));
        // A test takes less than that. It is the only one, and kept.
        let late = plane.began.elapsed() + LEASE + Duration::from_secs(1);
        plane.sweep(late);
        assert_eq!(health(&plane), Some("Healthy".into()));
        let late = late + PATIENCE;
        plane.sweep(late);
        assert_eq!(health(&plane), Some("Unhealthy".into()));
        plane.touch(&claim).expect("it returns");
        assert_eq!(health(&plane), Some("Healthy".into()));

        let gone = late + PATIENCE;
        plane.sweep(gone);
        plane.sweep(gone);
        assert_eq!(health(&plane), None);
        assert!(matches!(plane.touch(&claim), Err(Denied::Ended)));
        // The lease is kept, also by the disk.
        drop(plane);
        let plane = open(directory.path());
        assert!(matches!(plane.touch(&claim), Err(Denied::Ended)));
        assert!(plane.change(&claim, workload(), HERE).expect("registered again").is_new);
        plane.touch(&claim).expect("alive");
        plane.remove(&claim).expect("removed");
        plane.remove(&claim).expect("removed before");
        assert_eq!(health(&plane), None);
    }

    #[test]
    fn a_clock_that_has_jumped_ends_no_lease() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let claim = enrol(&plane);
        plane.remove(&claim).expect("removed");
        let days_ago = |days: u64| UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - days * 86_400));
        {
            // As if it were ten days later by the clock, all at once.
            let mut inner = plane.lock();
            let name = (claim.namespace.clone(), claim.name.clone());
            inner.leases.resume(&name);
            inner.leases.end(&name, days_ago(10).as_secs());
            plane.clock.lock().expect("sound").has_jumped(days_ago(10), plane.began.elapsed());
        }
        plane.sweep(plane.began.elapsed());
        assert!(matches!(plane.touch(&claim), Err(Denied::Ended)));
        // A clock of which nothing is wrong.
        *plane.clock.lock().expect("sound") = super::super::clock::Clock::new(false);
        plane.sweep(plane.began.elapsed());
        assert!(matches!(plane.touch(&claim), Err(Denied::Lease)));
    }

    #[test]
    fn what_is_refused_uses_no_token_up() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let made = plane.create_token("default", "cart", Uses::Once, Duration::from_secs(60)).expect("a token");
        let token = made["token"].as_str().and_then(|text| text.split('.').next()).expect("a text").to_owned();
        let foreign = Workload { services: vec!["bank".into()], ..workload() };
        assert!(matches!(plane.enrol(&token, None, foreign, HERE), Err(Denied::Refused(Refused::NotAllowed(_)))));
        assert!(plane.may_look(&Credential::Token(Zeroizing::new(token.clone())), "default").expect("a good token"));
        plane.enrol(&token, None, workload(), HERE).expect("registered");
        assert!(matches!(plane.enrol(&token, None, workload(), HERE), Err(Denied::Token(BadToken::Used))));
        assert!(plane.may_look(&Credential::Token(Zeroizing::new(token)), "default").is_err());
    }
}
