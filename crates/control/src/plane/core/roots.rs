//! The roots of the mesh while they change: who holds which bundle and which certificate, and what follows from that.
//!
//! Called by `core` for every certificate, every sign of life and every second. The stages and when one may be left are those of
//! `transept_identity::rotation`; here they meet the store, the authorities and the proxies.

use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use transept_identity::authority::Issued;
use transept_identity::rotation::{Advance, Stage};
use transept_identity::{Accept, Bundle, Fingerprint, LiveBundles, PeerVerifier, Purpose, Rotation, SpiffeId};
use transept_xds::mesh::{Answer, Beat};

use super::super::registry::HEARTBEAT;
use super::super::store::Write;
use super::{Inner, NotDone, Plane, now};

impl Plane {
    /// The rotation with a certificate that is about to be handed out.
    pub(super) fn note_issued(&self, inner: &Inner, id: &SpiffeId, nonce: &[u8], issued: &Issued) -> Rotation {
        let mut rotation = inner.rotation.clone();
        if let Some(root) = issued.root {
            rotation.note_issued(&instance(id, nonce), root, issued.leaf.not_after);
        }
        rotation
    }

    /// Notes what a proxy says that it holds, while that matters.
    pub(super) fn note_report(
        &self,
        inner: &mut Inner,
        id: &SpiffeId,
        beat: &Beat,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), NotDone> {
        if matches!(inner.rotation.stage(), Stage::Steady { .. }) {
            return Ok(());
        }
        let (Some(root), Some(leaf)) = (self.root_of(&inner.rotation, chain), chain.first()) else { return Ok(()) };
        let Ok(leaf) = transept_identity::Leaf::parse(leaf) else { return Ok(()) };
        let mut rotation = inner.rotation.clone();
        rotation.note_report(&instance(id, &beat.nonce), beat.bundle_sequence, root, leaf.not_after);
        if rotation != inner.rotation {
            self.store(&[Write::Rotation(&rotation)])?;
            inner.rotation = rotation;
        }
        Ok(())
    }

    /// What a proxy is to be told that holds the bundle with this sequence and shows this chain.
    pub(in crate::plane) fn news(&self, sequence: u64, chain: &[CertificateDer<'static>]) -> Answer {
        let (latest, document) = self.bundle_document();
        let signing = {
            let inner = self.lock();
            let signing = matches!(inner.rotation.stage(), Stage::Signing { .. });
            signing.then(|| inner.rotation.clone())
        };
        let renew = signing.is_some_and(|rotation| self.root_of(&rotation, chain) != Some(rotation.signer()));
        Answer {
            interval_ms: u32::try_from(HEARTBEAT.as_millis()).unwrap_or(u32::MAX),
            bundle: if sequence < latest { document } else { String::new() },
            renew,
            refused: String::new(),
            unasked: false,
        }
    }

    /// Begins to replace the root: a new one is made and announced to every proxy.
    pub(in crate::plane) fn rotate(&self) -> Result<Value, NotDone> {
        let mut inner = self.lock();
        let wrong = |why: String| NotDone::Wrong(why);
        if !matches!(inner.rotation.stage(), Stage::Steady { .. }) {
            return Err(wrong("a rotation is under way already; `transept certs` shows what it waits for".into()));
        }
        let root = self.ca.add_root(now()).map_err(|error| wrong(error.to_string()))?;
        let mut rotation = inner.rotation.clone();
        rotation.announce(root, now()).map_err(|error| wrong(error.to_string()))?;
        self.store(&[Write::Rotation(&rotation)])?;
        inner.rotation = rotation;
        tracing::info!(%root, "a new root is announced");
        self.hold_bundle(&inner.rotation);
        Ok(json!({"root": root.to_string()}))
    }

    /// Goes to the next stage of a rotation, if there is one and it may.
    pub(super) fn turn(&self, inner: &mut Inner) -> Result<(), NotDone> {
        if matches!(inner.rotation.stage(), Stage::Steady { .. }) {
            return Ok(());
        }
        let mut rotation = inner.rotation.clone();
        let advance = rotation.advance(now());
        let (Advance::Signs(_) | Advance::Retired(_)) = advance else { return Ok(()) };
        // What is stored comes first: after an end at any moment the next start goes on from there.
        self.store(&[Write::Rotation(&rotation)])?;
        inner.rotation = rotation;
        match advance {
            Advance::Signs(root) => tracing::info!(%root, "the new root signs"),
            Advance::Retired(root) => tracing::info!(%root, "the old root is retired"),
            _ => {}
        }
        if let Err(error) = self.ca.settle(inner.rotation.signer(), &inner.rotation.trusted()) {
            tracing::error!(%error, "the authorities do not follow the rotation");
            return Ok(());
        }
        self.replace_own();
        self.hold_bundle(&inner.rotation);
        Ok(())
    }

    /// Puts the bundle of a rotation in force and has the proxies told.
    fn hold_bundle(&self, rotation: &Rotation) {
        match self.ca.bundle(&rotation.trusted(), rotation.sequence()) {
            Ok(bundle) => self.bundles.store([bundle].into_iter().collect()),
            Err(error) => tracing::error!(%error, "the bundle cannot be made"),
        }
        self.turned.send_modify(|count| *count += 1);
    }

    /// The bundle as a document, with its sequence.
    pub(in crate::plane) fn bundle_document(&self) -> (u64, String) {
        let bundles = self.bundles.load();
        let bundle = bundles.of(self.trust_domain().as_str());
        bundle.map_or((0, String::new()), |bundle| (bundle.sequence.unwrap_or(0), bundle.to_jwks()))
    }

    /// Which of the trusted roots a chain leads to.
    pub(super) fn root_of(&self, rotation: &Rotation, chain: &[CertificateDer<'static>]) -> Option<Fingerprint> {
        let leads = |root: &Fingerprint| {
            let Ok(bundle): Result<Bundle, _> = self.ca.bundle(&[*root], 0) else { return false };
            let bundles = LiveBundles::new([bundle].into_iter().collect());
            let accept = Accept::TrustDomain(self.trust_domain().clone());
            PeerVerifier::new(bundles, accept, self.ca.provider().clone()).peer(chain, Purpose::Client, now()).is_ok()
        };
        rotation.trusted().into_iter().find(leads)
    }
}

/// The name of an instance in the rotation: several share an identity, and each has to hold the bundle.
fn instance(id: &SpiffeId, nonce: &[u8]) -> String {
    format!("{id} {}", Fingerprint::of(nonce).short())
}
