//! What a proxy wants and holds of one type.
//!
//! Owned by `Client`, which orders the types and speaks to the control plane.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Batch, Change};
use crate::messages::{self, DeltaDiscoveryRequest, ProtoDuration};
use crate::refusal::{Reason, Refusal};
use crate::resource::TypeUrl;
use crate::server::Progress;

/// The version under which a proxy announces what it refused: none that a control plane has.
const REFUSED: &str = "refused";

/// A resource that a proxy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its version, opaque.
    pub version: Arc<str>,
    /// Its contents.
    pub payload: Bytes,
    /// When it is dropped unless it is renewed.
    pub ends: Option<Duration>,
}

/// What may still be held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) resources: usize,
    pub(super) bytes: usize,
}

/// How far an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The control plane was not asked yet.
    Untold,
    /// It was, with this request of the stream.
    Told(u64),
    /// It has heard; the answer and what comes along with it are here once everything up to this revision was sent.
    Until(u64),
}

#[derive(Debug)]
pub(super) struct Interest {
    pub(super) type_url: TypeUrl,
    all: bool,
    names: BTreeSet<Arc<str>>,
    pub(super) held: BTreeMap<Arc<str>, Held>,
    /// Names of what was refused when nothing of that name was held, and is refused still.
    pub(super) refused: BTreeSet<Arc<str>>,
    /// Bytes of what is held.
    pub(super) bytes: usize,
    /// Whether a batch of this type is not settled.
    pub(super) unsettled: bool,
    /// The nonce of the latest response of the stream.
    pub(super) latest: Option<Arc<str>>,
    /// Names without a whole answer.
    waiting: BTreeMap<Arc<str>, Wait>,
    /// The same for all of them.
    waiting_all: Option<Wait>,
    /// What the control plane was not told yet; `*` is all.
    subscribe: BTreeSet<Arc<str>>,
    unsubscribe: BTreeSet<Arc<str>>,
}

impl Interest {
    pub(super) fn new(type_url: TypeUrl) -> Self {
        Self {
            type_url,
            all: false,
            names: BTreeSet::new(),
            held: BTreeMap::new(),
            refused: BTreeSet::new(),
            bytes: 0,
            unsettled: false,
            latest: None,
            waiting: BTreeMap::new(),
            waiting_all: None,
            subscribe: BTreeSet::new(),
            unsubscribe: BTreeSet::new(),
        }
    }

    pub(super) fn restore(&mut self, name: &Arc<str>, version: &str, payload: Bytes) {
        self.hold(name.clone(), Held { version: version.into(), payload, ends: None });
    }

    pub(super) fn subscribe(&mut self, name: &Arc<str>) {
        if self.names.insert(name.clone()) {
            self.waiting.insert(name.clone(), Wait::Untold);
            self.tell(name, true);
        }
    }

    pub(super) fn unsubscribe(&mut self, name: &Arc<str>) -> bool {
        if !self.names.remove(name) {
            return false;
        }
        self.waiting.remove(name);
        self.tell(name, false);
        if !self.all {
            self.refused.remove(name);
        }
        !self.all && self.drop_held(name)
    }

    pub(super) fn subscribe_all(&mut self) {
        if !self.all {
            self.all = true;
            self.waiting_all = Some(Wait::Untold);
            self.tell(&"*".into(), true);
        }
    }

    pub(super) fn unsubscribe_all(&mut self) -> Vec<Arc<str>> {
        if !self.all {
            return Vec::new();
        }
        self.all = false;
        self.waiting_all = None;
        self.tell(&"*".into(), false);
        let dropped: Vec<_> = self.held.keys().filter(|name| !self.names.contains(*name)).cloned().collect();
        for name in &dropped {
            self.drop_held(name);
        }
        self.refused.retain(|name| self.names.contains(name));
        dropped
    }

    /// The first request of a stream, which is its `number`th.
    pub(super) fn announce(&mut self, number: u64) -> DeltaDiscoveryRequest {
        self.told(number);
        let mut subscribe: Vec<String> = self.names.iter().map(|name| name.as_ref().to_owned()).collect();
        let mut unsubscribe = Vec::new();
        if self.all {
            subscribe.push("*".to_owned());
        } else if subscribe.is_empty() {
            // No name at all would mean all of them.
            subscribe.push("*".to_owned());
            unsubscribe.push("*".to_owned());
        }
        let versions =
            self.held.iter().map(|(name, held)| (name.as_ref().to_owned(), held.version.as_ref().to_owned()));
        // So that it is told of their end, and of them again.
        let refused = self.refused.iter().map(|name| (name.as_ref().to_owned(), REFUSED.to_owned()));
        DeltaDiscoveryRequest {
            type_url: self.type_url.as_str().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions: versions.chain(refused).collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    pub(super) fn has_changes(&self) -> bool {
        !self.subscribe.is_empty() || !self.unsubscribe.is_empty()
    }

    /// The request that tells what changed since the last one, the `number`th of the stream.
    pub(super) fn changes(&mut self, number: u64) -> DeltaDiscoveryRequest {
        self.told(number);
        let take = |names: &mut BTreeSet<Arc<str>>| {
            std::mem::take(names).iter().map(|name| name.as_ref().to_owned()).collect()
        };
        DeltaDiscoveryRequest {
            type_url: self.type_url.as_str().to_owned(),
            resource_names_subscribe: take(&mut self.subscribe),
            resource_names_unsubscribe: take(&mut self.unsubscribe),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Sorts a response into what can be offered and what cannot be accepted whatever it means.
    pub(super) fn screen(
        &self,
        resources: Vec<messages::Resource>,
        removed: Vec<String>,
        mut room: Room,
        batch: &mut Batch,
    ) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for name in resources.iter().map(|resource| resource.name.as_str()).chain(removed.iter().map(String::as_str)) {
            *seen.entry(name).or_default() += 1;
        }
        let twice: BTreeSet<String> =
            seen.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name.to_owned()).collect();
        for name in &twice {
            batch.refusals.push(Refusal::new(name, "", Reason::Duplicate, "the response names it more than once"));
        }
        for resource in resources.into_iter().filter(|resource| !twice.contains(&resource.name)) {
            self.screen_resource(resource, &mut room, batch);
        }
        let removed = removed.into_iter().filter(|name| !twice.contains(name));
        batch.changes.extend(removed.map(|name| Change::Remove { name: name.into() }));
    }

    fn screen_resource(&self, resource: messages::Resource, room: &mut Room, batch: &mut Batch) {
        let ttl = resource.ttl.and_then(ProtoDuration::to_std);
        let held = self.held.get(resource.name.as_str());
        let mut refuse = |reason, message: &str| {
            batch.refusals.push(Refusal::new(&resource.name, &resource.version, reason, message));
        };
        let Some(contents) = resource.resource else {
            match (held, ttl) {
                (Some(held), Some(ttl)) if *held.version == *resource.version => {
                    batch.beats.push((resource.name.into(), ttl));
                }
                _ => refuse(Reason::NotHeld, "a heartbeat for what this proxy does not hold"),
            }
            return;
        };
        if contents.type_url != self.type_url.as_str() {
            return refuse(Reason::Invalid, "the contents are of another type than the response");
        }
        let (before, size) = (held.map_or(0, |held| held.payload.len()), contents.value.len());
        if (held.is_none() && room.resources == 0) || size > room.bytes + before {
            return refuse(Reason::Limit, "this proxy holds as much as it may");
        }
        room.resources -= usize::from(held.is_none());
        room.bytes = room.bytes + before - size;
        batch.changes.push(Change::Put {
            name: resource.name.into(),
            version: resource.version.into(),
            payload: contents.value,
            ttl,
        });
    }

    /// Holds or drops what a settled batch said.
    pub(super) fn apply(&mut self, now: Duration, change: Change) {
        self.refused.remove(change.name());
        match change {
            Change::Put { name, version, payload, ttl } => {
                let ends = ttl.map(|ttl| now.saturating_add(ttl));
                self.hold(name, Held { version, payload, ends });
            }
            Change::Remove { name } => {
                self.drop_held(&name);
            }
        }
    }

    /// Notes that a settled batch brought what cannot be used.
    pub(super) fn refuse(&mut self, change: &Change) {
        if let (Change::Put { name, .. }, false) = (change, self.held.contains_key(change.name())) {
            self.refused.insert(name.clone());
        }
    }

    /// A response that went this far was settled, and so were all before it.
    pub(super) fn advance(&mut self, progress: Progress) {
        for wait in self.waits() {
            if matches!(*wait, Wait::Told(number) if number <= progress.heard) {
                *wait = Wait::Until(progress.revision);
            }
        }
        let done = |wait: &Wait| matches!(wait, Wait::Until(needed) if *needed <= progress.sent_to);
        self.waiting.retain(|_, wait| !done(wait));
        self.waiting_all = self.waiting_all.filter(|wait| !done(wait));
    }

    pub(super) fn renew(&mut self, now: Duration, name: &Arc<str>, ttl: Duration) {
        if let Some(held) = self.held.get_mut(name) {
            held.ends = Some(now.saturating_add(ttl));
        }
    }

    pub(super) fn expire(&mut self, now: Duration) -> Vec<Arc<str>> {
        let over = self.held.iter().filter(|(_, held)| held.ends.is_some_and(|ends| ends <= now));
        let names: Vec<_> = over.map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.drop_held(name);
        }
        names
    }

    pub(super) fn next_end(&self) -> Option<Duration> {
        self.held.values().filter_map(|held| held.ends).min()
    }

    pub(super) fn is_answered(&self, name: &Arc<str>) -> bool {
        let asked = self.names.contains(name) || self.all;
        asked && !self.waiting.contains_key(name) && (self.names.contains(name) || self.waiting_all.is_none())
    }

    pub(super) fn is_synced(&self) -> bool {
        self.waiting.is_empty() && self.waiting_all.is_none()
    }

    /// The stream is gone: revisions mean nothing to the next one, and it is told everything at its beginning.
    pub(super) fn forget_stream(&mut self) {
        self.subscribe.clear();
        self.unsubscribe.clear();
        self.unsettled = false;
        self.latest = None;
        for wait in self.waits() {
            *wait = Wait::Untold;
        }
    }

    /// A request is on its way that tells everything.
    fn told(&mut self, number: u64) {
        for wait in self.waits().filter(|wait| **wait == Wait::Untold) {
            *wait = Wait::Told(number);
        }
    }

    fn waits(&mut self) -> impl Iterator<Item = &mut Wait> {
        self.waiting.values_mut().chain(&mut self.waiting_all)
    }

    fn tell(&mut self, name: &Arc<str>, wanted: bool) {
        let (to, from) = if wanted {
            (&mut self.subscribe, &mut self.unsubscribe)
        } else {
            (&mut self.unsubscribe, &mut self.subscribe)
        };
        from.remove(name);
        to.insert(name.clone());
    }

    fn hold(&mut self, name: Arc<str>, held: Held) {
        self.bytes += held.payload.len();
        if let Some(before) = self.held.insert(name, held) {
            self.bytes -= before.payload.len();
        }
    }

    fn drop_held(&mut self, name: &Arc<str>) -> bool {
        let dropped = self.held.remove(name);
        self.bytes -= dropped.as_ref().map_or(0, |held| held.payload.len());
        dropped.is_some()
    }
}
