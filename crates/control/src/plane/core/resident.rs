//! The gateway that runs in the process of the control plane: a member like any other, but for the wire between them.
//!
//! Moved in by the application when a gateway embeds the plane. Its certificate is issued and renewed here, its bundle is the
//! plane's own, and a rotation counts it among its holders. What of the registrations belongs into its configuration is asked for by
//! `joined`.

use std::sync::Arc;

use serde_json::{Value, json};
use transept_identity::rotation::Stage;
use transept_identity::{LiveBundles, LiveSvid, PrivateKey, Rotation, SpiffeId, Svid, WorkloadName, request};
use transept_model::SourceText;

use super::super::files::Files;
use super::super::kept::text_of;
use super::super::registry::Name;
use super::super::store::Write;
use super::{Inner, NotDone, Plane, now};
use crate::follow::Trigger;
use crate::joined::Registrations;

/// The name of the resident in a rotation. No SPIFFE id, as those of other members are; always the same one, because only
/// one process can have the state open.
pub(super) const RESIDENT: &str = "the gateway in this process";

impl Plane {
    /// Lets a gateway of this process live as `workload`. The identity is renewed for as long as [`Plane::attend`] runs.
    ///
    /// # Errors
    /// No certificate can be issued or noted.
    pub fn move_in(&self, workload: &WorkloadName) -> Result<Arc<LiveSvid>, NotDone> {
        let id = workload.id(self.trust_domain()).map_err(|error| NotDone::Wrong(error.to_string()))?;
        let mut inner = self.lock();
        let live = Arc::new(LiveSvid::new(self.issue_resident(&mut inner, &id)?));
        inner.resident = Some(live.clone());
        Ok(live)
    }

    /// The roots that are in force, now and always.
    pub fn bundles(&self) -> LiveBundles {
        self.bundles.clone()
    }

    /// The first Gateway of the files, by namespace and name.
    pub fn first_gateway(&self) -> Option<Name> {
        self.lock().files.secrets.gateways.keys().next().cloned()
    }

    /// How many proxies are connected, and how many workloads are registered.
    pub fn headcount(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.members.values().filter(|member| member.streams > 0).count(), inner.registry.iter().count())
    }

    /// Has a follower told of every change of the registrations.
    pub(crate) fn tell(&self, follower: Trigger) {
        self.lock().follower = Some(follower);
    }

    /// Counts the changes of the registrations.
    pub(crate) fn registrations(&self) -> u64 {
        self.lock().registrations
    }

    /// What is wanted of the registrations beside what the files hold, as texts, with the number of their latest change.
    pub(crate) fn registered_beside(&self, files: &Files, wanted: Registrations) -> (u64, Vec<SourceText>) {
        let (number, objects) = {
            let inner = self.lock();
            (inner.registrations, inner.beside_files(files))
        };
        let text = |object: &Value| {
            let key = self.kinds.key(object).filter(|key| !files.hold(key))?;
            Some(text_of(&key, object))
        };
        let objects = objects.iter().filter(|object| wanted == Registrations::All || object["kind"] == "Service");
        (number, objects.filter_map(text).collect())
    }

    /// Renews the certificate of the resident when it is time, and notes what it holds while that matters.
    pub(super) fn tend_resident(&self, inner: &mut Inner) -> Result<(), NotDone> {
        let Some(live) = inner.resident.clone() else { return Ok(()) };
        let held = live.load();
        let leaf = held.leaf();
        let signing = matches!(inner.rotation.stage(), Stage::Signing { .. });
        let outdated = signing && self.root_of(&inner.rotation, held.chain()) != Some(inner.rotation.signer());
        if outdated || self.is_due(leaf) {
            live.store(self.issue_resident(inner, held.id())?);
            tracing::debug!(id = %held.id(), "the certificate of the gateway in this process was renewed");
        }
        if matches!(inner.rotation.stage(), Stage::Steady { .. }) {
            return Ok(());
        }
        let held = live.load();
        let Some(root) = self.root_of(&inner.rotation, held.chain()) else { return Ok(()) };
        let mut rotation = inner.rotation.clone();
        // Its bundle is the plane's own, which is in force as soon as it is announced.
        rotation.note_report(RESIDENT, self.bundle_document().0, root, held.leaf().not_after);
        self.note(inner, rotation)
    }

    /// Gives the resident a certificate of the root that signs when the one that it has is of none that is trusted.
    pub(super) fn replace_distrusted_resident(&self, inner: &mut Inner) -> Result<(), NotDone> {
        let Some(live) = inner.resident.clone() else { return Ok(()) };
        let held = live.load();
        if self.root_of(&inner.rotation, held.chain()).is_none() {
            live.store(self.issue_resident(inner, held.id())?);
        }
        Ok(())
    }

    fn issue_resident(&self, inner: &mut Inner, id: &SpiffeId) -> Result<Svid, NotDone> {
        let wrong = |error: &dyn std::fmt::Display| NotDone::Wrong(error.to_string());
        let key = PrivateKey::generate().map_err(|error| wrong(&error))?;
        let asked = request::create(&key, id).map_err(|error| wrong(&error))?;
        let issued = self.ca.sign(&asked, id, now()).map_err(NotDone::Sign)?;
        if let Some(root) = issued.root {
            let mut rotation = inner.rotation.clone();
            rotation.note_issued(RESIDENT, root, issued.leaf.not_after);
            self.note(inner, rotation)?;
        }
        Svid::new(issued.chain, key, self.ca.provider()).map_err(|error| wrong(&error))
    }

    fn note(&self, inner: &mut Inner, rotation: Rotation) -> Result<(), NotDone> {
        if rotation != inner.rotation {
            self.store(&[Write::Rotation(&rotation)])?;
            inner.rotation = rotation;
        }
        Ok(())
    }
}

impl Inner {
    /// The resident in the list of proxies.
    pub(super) fn show_resident(&self) -> Option<Value> {
        let id = self.resident.as_ref()?.load().id().clone();
        Some(json!({"proxy": RESIDENT, "identity": id.as_str(), "address": null, "connected": true}))
    }
}
