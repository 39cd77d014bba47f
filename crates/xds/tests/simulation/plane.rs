//! A control plane: a store that follows the log, and a session for each connection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use transept_xds::messages::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use transept_xds::server::{Fact, Settings};
use transept_xds::source::Scope;
use transept_xds::{Key, Resource, Session, Store, TypeUrl};

use crate::dice::Dice;
use crate::truth::{Op, Truth, types};

pub(crate) struct Plane {
    pub(crate) store: Store,
    pub(crate) sight: Sight,
    /// How much of the log it has followed.
    pub(crate) applied: usize,
    pub(crate) sessions: BTreeMap<u64, Session<usize>>,
    /// What was learned from each proxy: its status.
    pub(crate) facts: BTreeMap<(usize, Key), Fact>,
    settings: Arc<Settings>,
}

/// What is hidden from whom.
#[derive(Clone, Default)]
pub(crate) struct Sight {
    hidden: BTreeSet<(usize, Key)>,
}

impl Scope for Sight {
    type Viewer = usize;

    fn sees(&self, viewer: &usize, resource: &Resource) -> bool {
        !self.hidden.contains(&(*viewer, resource.key().clone()))
    }
}

impl Plane {
    pub(crate) fn new(name: &str, response_bytes: usize) -> Self {
        let settings = Settings { identifier: name.into(), order: types(), response_bytes, ..Settings::default() };
        Self {
            store: Store::new(),
            sight: Sight::default(),
            applied: 0,
            sessions: BTreeMap::new(),
            facts: BTreeMap::new(),
            settings: Arc::new(settings),
        }
    }

    /// Follows the log up to `to`.
    pub(crate) fn follow(&mut self, truth: &Truth, to: usize) {
        for op in &truth.ops[self.applied..to] {
            match op {
                Op::Put(spec) => {
                    self.store.put(spec.resource.clone());
                }
                Op::Remove(key) => {
                    self.store.remove(key);
                }
                Op::Hide(viewer, key) => {
                    self.sight.hidden.insert((*viewer, key.clone()));
                    self.reconsider(*viewer);
                }
                Op::Show(viewer, key) => {
                    self.sight.hidden.remove(&(*viewer, key.clone()));
                    self.reconsider(*viewer);
                }
            }
        }
        self.applied = to;
    }

    fn reconsider(&mut self, viewer: usize) {
        for session in self.sessions.values_mut().filter(|session| *session.viewer() == viewer) {
            session.reconsider(&self.store);
        }
    }

    /// Starts again from the log, with revisions that begin anew.
    pub(crate) fn restart(&mut self, dice: &mut Dice, truth: &Truth) {
        let applied = self.applied;
        *self = Self { settings: self.settings.clone(), ..Self::new("", 0) };
        let mut past = Truth::default();
        for op in &truth.ops[..applied] {
            past.push(op.clone());
        }
        let mut specs: Vec<_> = past.live.into_values().collect();
        while !specs.is_empty() {
            let spec = specs.swap_remove(dice.below(specs.len()));
            self.store.put(spec.resource.clone());
        }
        self.sight.hidden = past.hidden;
        self.applied = applied;
    }

    pub(crate) fn accept(&mut self, id: u64, viewer: usize) {
        self.sessions.insert(id, Session::new(viewer, self.settings.clone()));
    }

    pub(crate) fn receive(&mut self, now: Duration, id: u64, bytes: &[u8]) -> Result<(), String> {
        let request = DeltaDiscoveryRequest::decode(bytes).map_err(|error| error.to_string())?;
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let facts = session.receive(now, request, &self.store).map_err(|breach| breach.to_string())?;
        for fact in facts {
            let (Fact::Accepted { key, .. } | Fact::Refused { key, .. } | Fact::Removed { key }) = &fact;
            self.facts.insert((*session.viewer(), key.clone()), fact);
        }
        Ok(())
    }

    /// What a session sends now, checked against what the store holds.
    pub(crate) fn poll(&mut self, now: Duration, id: u64) -> Result<Vec<Vec<u8>>, String> {
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(Vec::new()) };
        let mut frames = Vec::new();
        for response in session.poll(now, &self.store, &self.sight) {
            let bytes = response.encode_to_vec();
            let read = DeltaDiscoveryResponse::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
            let type_url = TypeUrl::from(read.type_url.as_str());
            for resource in &read.resources {
                let stored = self.store.resource(&type_url, &resource.name);
                let stored = stored.filter(|stored| self.sight.sees(session.viewer(), stored));
                if stored.is_none_or(|stored| stored.version().to_string() != resource.version) {
                    return Err(format!("sent {type_url} {} in a version that the store does not have", resource.name));
                }
            }
            for name in &read.removed_resources {
                let stored = self.store.resource(&type_url, name);
                let stored = stored.filter(|stored| self.sight.sees(session.viewer(), stored));
                if let Some(stored) = stored.filter(|stored| session.is_asked(stored.key())) {
                    return Err(format!("sent the removal of {}, which exists and was asked for", stored.key()));
                }
            }
            frames.push(bytes);
        }
        Ok(frames)
    }
}
