//! Leaves that were proven lately, so that a peer that connects often costs one look-up instead of a chain of signatures.
//!
//! Called by the verifiers in `handshake`. A proof counts only under the very set of bundles that it was made with and until
//! the first certificate involved ends; who is accepted is never remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::UnixTime;

use crate::bundle::Bundles;
use crate::fingerprint::Fingerprint;
use crate::svid::Leaf;
use crate::verify::{Proof, Purpose};

/// Proofs kept at most; when they are more, the cache begins anew.
const CAPACITY: usize = 4096;

/// Proofs by leaf and purpose.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<Proven>);

#[derive(Debug, Default)]
struct Proven {
    /// The bundles that the proofs were made with; held, so that its address is not given to another set.
    under: Option<Arc<Bundles>>,
    proofs: HashMap<(Fingerprint, Purpose), Proof>,
}

impl Cache {
    /// The leaf, if it was proven under these bundles and still is.
    pub(crate) fn find(
        &self,
        fingerprint: Fingerprint,
        purpose: Purpose,
        bundles: &Arc<Bundles>,
        now: UnixTime,
    ) -> Option<Arc<Leaf>> {
        let proven = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !proven.under.as_ref().is_some_and(|under| Arc::ptr_eq(under, bundles)) {
            return None;
        }
        let proof = proven.proofs.get(&(fingerprint, purpose))?;
        let lasts = (proof.from.as_secs()..=proof.until.as_secs()).contains(&now.as_secs());
        lasts.then(|| proof.leaf.clone())
    }

    /// Remembers a proof that was made with these bundles.
    pub(crate) fn remember(&self, purpose: Purpose, bundles: &Arc<Bundles>, proof: Proof) {
        let mut proven = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !proven.under.as_ref().is_some_and(|under| Arc::ptr_eq(under, bundles)) {
            proven.proofs.clear();
            proven.under = Some(bundles.clone());
        }
        if proven.proofs.len() >= CAPACITY {
            proven.proofs.clear();
        }
        proven.proofs.insert((proof.leaf.fingerprint, purpose), proof);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forge::{NOW, id, now};
    use crate::svid::moment;

    fn proof(number: usize) -> Proof {
        let leaf = Leaf {
            id: id("spiffe://shop.test/cart"),
            not_before: moment(0),
            not_after: moment(NOW + 10),
            fingerprint: Fingerprint::of(&number.to_be_bytes()),
            subject: String::new(),
            dns_names: Vec::new(),
        };
        Proof { leaf: Arc::new(leaf), from: now(), until: moment(NOW + 10) }
    }

    #[test]
    fn it_never_grows_beyond_its_capacity() {
        let (cache, bundles) = (Cache::default(), Arc::new(Bundles::default()));
        for number in 0..CAPACITY + 10 {
            cache.remember(Purpose::Client, &bundles, proof(number));
            assert!(cache.0.lock().unwrap().proofs.len() <= CAPACITY);
            assert!(cache.find(proof(number).leaf.fingerprint, Purpose::Client, &bundles, now()).is_some());
        }
    }

    #[test]
    fn it_forgets_with_the_bundles_and_with_time() {
        let (cache, bundles) = (Cache::default(), Arc::new(Bundles::default()));
        cache.remember(Purpose::Client, &bundles, proof(1));
        let found = |bundles, now| cache.find(proof(1).leaf.fingerprint, Purpose::Client, bundles, now).is_some();
        assert!(found(&bundles, now()) && found(&bundles, moment(NOW + 10)));
        assert!(!found(&bundles, moment(NOW + 11)) && !found(&bundles, moment(NOW - 1)));
        let others = Arc::new(Bundles::default());
        assert!(!found(&others, now()), "equal, but another set");
        cache.remember(Purpose::Client, &others, proof(2));
        assert!(!found(&bundles, now()), "what was proven under the old set is gone");
    }
}
