//! What one proxy wants, holds and is owed of one type.
//!
//! Owned by `Session`, which orders the types among each other. A name is *dirty* when something about it may have changed; it is
//! judged when a response can be sent, against what the proxy holds then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Asked, Fact, is_asked};
use crate::messages::Status;
use crate::refusal::{self, Reason, Refusal};
use crate::resource::{Key, Resource, TypeUrl, Version};
use crate::source::{Scope, Store};

/// What a ledger is judged against.
pub(super) struct View<'a, S: Scope> {
    pub(super) store: &'a Store,
    pub(super) scope: &'a S,
    pub(super) viewer: &'a S::Viewer,
    pub(super) asked: &'a Asked,
    /// Bytes of resources in one response.
    pub(super) limit: usize,
}

/// What of a dirty name is to be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Recheck {
    /// Its contents.
    Contents,
    /// Also whether it comes along with something that was asked for.
    Company,
}

/// A response before it has a nonce.
#[derive(Debug, Default)]
pub(super) struct Draft {
    resources: Vec<Bytes>,
    removed: Vec<String>,
    items: Vec<Item>,
    adds: bool,
    /// The revision that the ledger has reached when this is accepted.
    covers: Option<u64>,
}

/// One name in a response.
#[derive(Debug)]
enum Item {
    Sent { name: Arc<str>, version: Version, ttl: Option<Duration> },
    Beat { name: Arc<str>, version: Version, ttl: Duration },
    Gone { name: Arc<str> },
    Absent,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    items: Vec<Item>,
    adds: bool,
    covers: Option<u64>,
    since: Duration,
}

#[derive(Debug)]
pub(super) struct Ledger {
    type_url: TypeUrl,
    /// Whether all names are wanted.
    all: bool,
    /// Names that come along with what was asked for, as of when they were last judged.
    brought: BTreeSet<Arc<str>>,
    /// What the proxy holds; `None` for a version that is not one of ours.
    held: BTreeMap<Arc<str>, Option<Version>>,
    /// How much it announced that it holds.
    announced: usize,
    /// What of that was not there since it came.
    carried: BTreeSet<Arc<str>>,
    refused: BTreeMap<Arc<str>, Version>,
    dirty: BTreeMap<Arc<str>, Recheck>,
    /// The order in which names became dirty; those that no longer are may linger.
    queue: VecDeque<Arc<str>>,
    /// Names that are answered even when nothing changed.
    forced: BTreeSet<Arc<str>>,
    /// Whether a response is owed even when it is empty.
    owes: bool,
    /// Removals that wait, with the revision of which all additions must be in force before.
    removals: BTreeMap<Arc<str>, u64>,
    /// When the next heartbeat of a name is due.
    beats: BTreeMap<Arc<str>, Duration>,
    in_flight: Option<InFlight>,
    /// Changes of the store up to this revision have been taken in,
    cursor: u64,
    /// up to this one have been sent,
    sent_to: u64,
    /// and up to this one are in force at the proxy.
    settled_to: u64,
}

impl Ledger {
    pub(super) fn new(type_url: TypeUrl, store: &Store) -> Self {
        Self {
            type_url,
            all: false,
            brought: BTreeSet::new(),
            held: BTreeMap::new(),
            announced: 0,
            carried: BTreeSet::new(),
            refused: BTreeMap::new(),
            dirty: BTreeMap::new(),
            queue: VecDeque::new(),
            forced: BTreeSet::new(),
            owes: true,
            removals: BTreeMap::new(),
            beats: BTreeMap::new(),
            in_flight: None,
            cursor: store.revision(),
            sent_to: store.revision().saturating_sub(1),
            settled_to: store.revision().saturating_sub(1),
        }
    }

    pub(super) fn type_url(&self) -> &TypeUrl {
        &self.type_url
    }

    pub(super) fn has_all(&self) -> bool {
        self.all
    }

    pub(super) fn announced(&self) -> usize {
        self.announced
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.dirty.is_empty() || self.owes
    }

    pub(super) fn in_flight_since(&self) -> Option<Duration> {
        self.in_flight.as_ref().map(|sent| sent.since)
    }

    pub(super) fn holdings(&self) -> impl Iterator<Item = (Key, Option<Version>)> {
        self.held.iter().map(|(name, version)| (self.key(name), *version))
    }

    pub(super) fn refused(&self) -> impl Iterator<Item = (Key, Version)> {
        self.refused.iter().map(|(name, version)| (self.key(name), *version))
    }

    /// The revision up to which everything was sent.
    pub(super) fn sent_to(&self) -> u64 {
        if self.has_unsent() { self.sent_to } else { self.cursor }
    }

    /// The revision up to which all additions are in force.
    pub(super) fn settled_to(&self) -> u64 {
        let outstanding = self.has_unsent() || self.in_flight.as_ref().is_some_and(|sent| sent.adds);
        if outstanding { self.settled_to } else { self.cursor }
    }

    /// The revision of the oldest removal that waits, but for those that are held back.
    pub(super) fn first_removal(&self, spares: bool) -> u64 {
        let waiting = self.removals.iter().filter(|(name, _)| !(spares && self.carried.contains(*name)));
        waiting.map(|(_, noted)| *noted).min().unwrap_or(u64::MAX)
    }

    /// Whether there is something to take away that the proxy has brought along.
    pub(super) fn is_sparing(&self) -> bool {
        self.removals.keys().any(|name| self.carried.contains(name))
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        if self.in_flight.is_some() { None } else { self.beats.values().copied().min() }
    }

    /// Has a name judged before the next response, because the proxy said something.
    pub(super) fn mark(&mut self, name: &Arc<str>, recheck: Recheck) {
        self.reopen();
        self.note(name, recheck);
    }

    /// All names are wanted from now on.
    pub(super) fn cover(&mut self, store: &Store) {
        self.reopen();
        self.all = true;
        self.owes = true;
        for resource in store.resources(&self.type_url) {
            self.note(&resource.key().name, Recheck::Contents);
        }
    }

    /// Not all names are wanted any more. The proxy drops what it did not ask for by name.
    pub(super) fn uncover(&mut self, store: &Store, asked: Option<&BTreeSet<Arc<str>>>) {
        self.all = false;
        self.held.retain(|name, _| asked.is_some_and(|names| names.contains(name)));
        self.removals.retain(|name, _| asked.is_some_and(|names| names.contains(name)));
        self.reconsider(store, asked);
    }

    /// A name was asked for; `answer` unless the proxy said which version of it it holds.
    pub(super) fn ask(&mut self, name: &Arc<str>, answer: bool) {
        if answer {
            self.forced.insert(name.clone());
        }
        self.mark(name, Recheck::Company);
    }

    /// A name was asked for no more. The proxy dropped it, unless it has asked for all; then it waits for an answer.
    pub(super) fn leave(&mut self, name: &Arc<str>, was_asked: bool) {
        if self.all {
            self.forced.insert(name.clone());
        } else if was_asked {
            self.held.remove(name);
            self.forced.remove(name);
            self.removals.remove(name);
            self.refused.remove(name);
            self.beats.remove(name);
        }
        self.mark(name, Recheck::Company);
    }

    /// The proxy says that it holds a name in a version.
    pub(super) fn announce(&mut self, name: &Arc<str>, version: Option<Version>) {
        self.announced += 1;
        self.held.insert(name.clone(), version);
        self.carried.insert(name.clone());
        self.mark(name, Recheck::Company);
    }

    /// Has every name judged that exists, is held or was asked for, because who may see what has changed.
    pub(super) fn reconsider(&mut self, store: &Store, asked: Option<&BTreeSet<Arc<str>>>) {
        self.reopen();
        self.compare_all(store, asked);
    }

    /// Takes in what changed in the store.
    pub(super) fn absorb(&mut self, store: &Store, asked: Option<&BTreeSet<Arc<str>>>) {
        (self.sent_to, self.settled_to) = (self.sent_to(), self.settled_to());
        let before = std::mem::replace(&mut self.cursor, store.revision());
        let Some(changes) = store.changes_since(&self.type_url, before) else {
            return self.compare_all(store, asked);
        };
        for change in changes {
            let name = &change.name;
            let concerns = self.all
                || change.reshaped
                || self.brought.contains(name)
                || self.held.contains_key(name)
                || asked.is_some_and(|names| names.contains(name));
            if concerns {
                let recheck = if change.reshaped { Recheck::Company } else { Recheck::Contents };
                self.note(name, recheck);
            }
        }
    }

    /// The next response with additions, answers and heartbeats, when one is due and none is on its way.
    pub(super) fn draft_additions<S: Scope>(&mut self, now: Duration, view: &View<'_, S>) -> Option<Draft> {
        if self.in_flight.is_some() {
            return None;
        }
        let mut draft = Draft { adds: true, ..Draft::default() };
        let mut bytes = 0;
        while let Some(name) = self.queue.pop_front() {
            let Some(recheck) = self.dirty.remove(&name) else { continue };
            match self.judge(&name, recheck, now, view) {
                Step::Nothing => {}
                Step::Send(resource) => {
                    let size = resource.encoded().len();
                    if bytes > 0 && bytes + size > view.limit {
                        self.dirty.insert(name.clone(), Recheck::Contents);
                        self.queue.push_front(name);
                        break;
                    }
                    bytes += size;
                    self.forced.remove(&name);
                    draft.resources.push(resource.encoded().clone());
                    let (name, version, ttl) = (resource.key().name.clone(), resource.version(), resource.ttl());
                    draft.items.push(Item::Sent { name, version, ttl });
                }
                Step::Absent => {
                    if bytes > 0 && bytes + name.len() > view.limit {
                        self.dirty.insert(name.clone(), Recheck::Contents);
                        self.queue.push_front(name);
                        break;
                    }
                    bytes += name.len();
                    self.forced.remove(&name);
                    draft.removed.push(name.as_ref().to_owned());
                    draft.items.push(Item::Absent);
                }
            }
        }
        self.beat(now, view, &mut draft);
        if draft.items.is_empty() && !self.owes {
            return None;
        }
        self.owes = false;
        draft.covers = self.dirty.is_empty().then_some(self.cursor);
        Some(draft)
    }

    /// A response that says nothing but how far everything has come.
    pub(super) fn draft_nothing(&self) -> Option<Draft> {
        self.in_flight.is_none().then(Draft::default)
    }

    /// The next response with removals: those up to the revision `settled` and older than `before`, the oldest removal that still
    /// waits in a type that may point at this one. With `spares`, nothing that the proxy has brought along.
    pub(super) fn draft_removals<S: Scope>(
        &mut self,
        (settled, before): (u64, u64),
        spares: bool,
        view: &View<'_, S>,
    ) -> Option<Draft> {
        if self.in_flight.is_some() {
            return None;
        }
        let mut draft = Draft::default();
        let mut bytes = 0;
        let due = self
            .removals
            .iter()
            .filter(|(name, noted)| **noted <= settled && **noted < before && !self.dirty.contains_key(*name))
            .filter(|(name, _)| !(spares && self.carried.contains(*name)));
        let due: Vec<Arc<str>> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            if bytes > 0 && bytes + name.len() > view.limit {
                break;
            }
            bytes += name.len();
            self.removals.remove(&name);
            self.carried.remove(&name);
            draft.removed.push(name.as_ref().to_owned());
            draft.items.push(Item::Gone { name });
        }
        (!draft.items.is_empty()).then_some(draft)
    }

    /// Puts a draft on its way.
    pub(super) fn dispatch(&mut self, draft: Draft, nonce: String, since: Duration) -> (Vec<Bytes>, Vec<String>) {
        let Draft { resources, removed, items, adds, covers } = draft;
        self.in_flight = Some(InFlight { nonce, items, adds, covers, since });
        (resources, removed)
    }

    /// The proxy answered a response. An answer to any but the latest tells nothing.
    pub(super) fn answered(&mut self, now: Duration, nonce: &str, error: Option<&Status>) -> Vec<Fact> {
        if self.in_flight.as_ref().is_none_or(|sent| sent.nonce != nonce) {
            return Vec::new();
        }
        let Some(sent) = self.in_flight.take() else { return Vec::new() };
        if let Some(covers) = sent.covers {
            self.settled_to = self.settled_to.max(covers);
        }
        let verdict = Verdict::new(error);
        sent.items.into_iter().filter_map(|item| self.conclude(now, item, &verdict)).collect()
    }

    fn key(&self, name: &Arc<str>) -> Key {
        Key { type_url: self.type_url.clone(), name: name.clone() }
    }

    /// What was complete is not any more, although the store is the same.
    fn reopen(&mut self) {
        if !self.has_unsent() {
            self.settled_to = self.settled_to().min(self.cursor.saturating_sub(1));
            self.sent_to = self.cursor.saturating_sub(1);
        }
    }

    fn compare_all(&mut self, store: &Store, asked: Option<&BTreeSet<Arc<str>>>) {
        let stored = store.resources(&self.type_url).map(|resource| resource.key().name.clone());
        let sent = self.in_flight.iter().flat_map(|sent| sent.items.iter().filter_map(Item::name)).cloned();
        let mut names: BTreeSet<Arc<str>> = stored.chain(sent).collect();
        names.extend(self.held.keys().cloned());
        names.extend(asked.into_iter().flatten().cloned());
        for name in names {
            self.note(&name, Recheck::Company);
        }
    }

    /// Has a name judged before the next response.
    fn note(&mut self, name: &Arc<str>, recheck: Recheck) {
        match self.dirty.get_mut(name) {
            Some(known) => *known = recheck.max(*known),
            None => {
                self.dirty.insert(name.clone(), recheck);
                self.queue.push_back(name.clone());
            }
        }
    }

    /// What to do about a name, given what the proxy holds and what there is.
    fn judge<S: Scope>(&mut self, name: &Arc<str>, recheck: Recheck, now: Duration, view: &View<'_, S>) -> Step {
        let key = self.key(name);
        // While all is wanted, company does not matter; once it is not, every name is looked at again.
        if recheck == Recheck::Company && !self.all {
            if view.store.bundles().is_brought(&key, |other| is_asked(view.asked, other)) {
                self.brought.insert(name.clone());
            } else {
                self.brought.remove(name);
            }
        }
        let wanted = self.all || self.brought.contains(name) || is_asked(view.asked, &key);
        let current = if wanted { view.store.resource(&self.type_url, name) } else { None };
        let Some(current) = current.filter(|resource| view.scope.sees(view.viewer, resource)) else {
            // Who refused it may have kept something in its place.
            let refused = self.refused.remove(name).is_some();
            self.beats.remove(name);
            if self.held.contains_key(name) || refused {
                self.forced.remove(name);
                self.removals.insert(name.clone(), view.store.revision());
                return Step::Nothing;
            }
            return if self.forced.contains(name) { Step::Absent } else { Step::Nothing };
        };
        self.removals.remove(name);
        self.carried.remove(name);
        let version = Some(current.version());
        let holds = self.held.get(name).copied().flatten() == version;
        // What was refused is given up: the proxy is asked to say that it holds what it should, since its word on the other one stands.
        let takes_back = holds && self.refused.remove(name).is_some();
        if holds && current.ttl().is_some() {
            self.beats.entry(current.key().name.clone()).or_insert(now);
        }
        let settled = holds && !takes_back || self.refused.get(name).copied() == version;
        if settled && !self.forced.contains(name) { Step::Nothing } else { Step::Send(current.clone()) }
    }

    /// Adds the heartbeats that are due.
    fn beat<S: Scope>(&mut self, now: Duration, view: &View<'_, S>, draft: &mut Draft) {
        let due: Vec<Arc<str>> =
            self.beats.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.beats.remove(&name);
            let Some(current) = view.store.resource(&self.type_url, &name) else { continue };
            let holds = self.held.get(&name).copied().flatten() == Some(current.version());
            let sent = draft.items.iter().any(|item| item.name() == Some(&name));
            if holds
                && !sent
                && let Some(ttl) = current.ttl()
            {
                draft.resources.push(current.heartbeat());
                draft.items.push(Item::Beat { name, version: current.version(), ttl });
            }
        }
    }

    /// What an answer says about one name of the response.
    fn conclude(&mut self, now: Duration, item: Item, verdict: &Verdict) -> Option<Fact> {
        match item {
            Item::Sent { name, version, ttl } => {
                let key = self.key(&name);
                if let Some(refusal) = verdict.on(&name, version) {
                    self.refused.insert(name, version);
                    return Some(Fact::Refused { key, version, refusal });
                }
                self.refused.remove(&name);
                self.beats.remove(&name);
                if let Some(ttl) = ttl {
                    self.beats.insert(name.clone(), now.saturating_add(ttl / 3));
                }
                self.held.insert(name, Some(version));
                Some(Fact::Accepted { key, version })
            }
            Item::Beat { name, version, ttl } => {
                if verdict.on(&name, version).is_some_and(|refusal| refusal.reason() == Reason::NotHeld) {
                    self.held.remove(&name);
                    self.mark(&name, Recheck::Contents);
                } else {
                    self.beats.insert(name, now.saturating_add(ttl / 3));
                }
                None
            }
            Item::Gone { name } => {
                self.held.remove(&name);
                Some(Fact::Removed { key: self.key(&name) })
            }
            Item::Absent => None,
        }
    }
}

/// What is done about a dirty name.
enum Step {
    Nothing,
    Send(Arc<Resource>),
    Absent,
}

impl Item {
    fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Sent { name, .. } | Self::Beat { name, .. } | Self::Gone { name } => Some(name),
            Self::Absent => None,
        }
    }
}

/// An answer, taken apart.
enum Verdict {
    Accepted,
    /// Of another program, for everything.
    RefusedAll(String),
    Refused(BTreeMap<String, Refusal>),
}

impl Verdict {
    fn new(error: Option<&Status>) -> Self {
        let Some(error) = error else { return Self::Accepted };
        match refusal::from_status(error) {
            Some(refusals) => {
                Self::Refused(refusals.into_iter().map(|refusal| (refusal.name.clone(), refusal)).collect())
            }
            None => {
                let mut message = error.message.clone();
                refusal::tame(&mut message, refusal::REASON);
                Self::RefusedAll(message)
            }
        }
    }

    fn on(&self, name: &str, version: Version) -> Option<Refusal> {
        match self {
            Self::Accepted => None,
            Self::RefusedAll(message) => {
                Some(Refusal::new(name, &version.to_string(), Reason::Unspecified, message.clone()))
            }
            Self::Refused(refusals) => refusals.get(name).cloned(),
        }
    }
}
