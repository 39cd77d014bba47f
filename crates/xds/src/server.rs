//! One proxy's stream, seen from the control plane: what it asked for, what it holds, what it is to be sent next.
//!
//! The owner of the stream hands every request to [`Session::receive`] and sends what [`Session::poll`] returns, after each request,
//! after each change of the store and at [`Session::wake_at`]. Of each type one response is on its way at a time; what changes
//! meanwhile waits, and only its latest state is sent. Who the proxy is was proved by the transport before a session exists.

mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::messages::{ANNOUNCES, ControlPlane, DeltaDiscoveryRequest, Node, SharedResponse};
use crate::refusal::Refusal;
use crate::resource::{Key, TypeUrl, Version};
use crate::source::{Scope, Store};
use ledger::{Draft, Ledger, Recheck, View};

/// What all sessions of a control plane have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of this control plane.
    pub identifier: String,
    /// The types in the order in which they are added: what is pointed at before what points at it. Removals go the other way. Types
    /// that are not listed come last.
    pub order: Vec<TypeUrl>,
    /// Bytes of resources in one response. A larger resource travels alone.
    pub response_bytes: usize,
    /// Types that one proxy may ask for.
    pub types: usize,
    /// Names that one proxy may ask for, over all types.
    pub names: usize,
    /// Resources that one proxy may say it holds, over all types.
    pub held: usize,
    /// Bytes of a name or of a type.
    pub name_bytes: usize,
}

impl Default for Settings {
    /// One mebibyte, 64 types, 10,000 names, 200,000 held, 512 bytes.
    fn default() -> Self {
        Self {
            identifier: String::new(),
            order: Vec::new(),
            response_bytes: 1 << 20,
            types: 64,
            names: 10_000,
            held: 200_000,
            name_bytes: 512,
        }
    }
}

/// What a proxy may not do. The stream ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// It asks for more types than it may.
    TooManyTypes,
    /// It asks for more names than it may.
    TooManyNames,
    /// It says that it holds more than it may.
    TooManyHeld,
    /// A name or type is longer than it may be.
    LongName,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyTypes => "more types asked for than one proxy may",
            Self::TooManyNames => "more names asked for than one proxy may",
            Self::TooManyHeld => "more resources held than one proxy may",
            Self::LongName => "a name longer than names may be",
        })
    }
}

impl std::error::Error for Breach {}

/// What was learned about a resource at this proxy, for the status of the object behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The proxy holds it in this version.
    Accepted {
        /// Which resource.
        key: Key,
        /// In which version.
        version: Version,
    },
    /// The proxy refused this version and goes on with the one before, if there was one.
    Refused {
        /// Which resource.
        key: Key,
        /// In which version.
        version: Version,
        /// Why.
        refusal: Refusal,
    },
    /// The proxy holds it no more.
    Removed {
        /// Which resource.
        key: Key,
    },
}

/// The state of one stream. `V` is who stands at its other end.
#[derive(Debug)]
pub struct Session<V> {
    viewer: V,
    settings: Arc<Settings>,
    node: Option<Node>,
    /// By the order of types.
    ledgers: Vec<Ledger>,
    /// Names that were asked for one by one.
    asked: Asked,
    /// Types of which the proxy said that a first request will follow.
    expected: BTreeSet<TypeUrl>,
    /// Types that the proxy said it understands; none when it did not say so.
    announced: BTreeSet<TypeUrl>,
    nonces: u64,
    /// Until when nothing of some types is taken from a proxy that it has brought along.
    spared: Option<(Duration, Arc<[TypeUrl]>)>,
    /// How many requests were heard.
    heard: u64,
    /// Whether the latest response said that more follows.
    incomplete: bool,
}

/// Names by type.
pub(crate) type Asked = BTreeMap<TypeUrl, BTreeSet<Arc<str>>>;

fn is_asked(asked: &Asked, key: &Key) -> bool {
    asked.get(&key.type_url).is_some_and(|names| names.contains(&key.name))
}

impl<V> Session<V> {
    /// A session with `viewer`, of whom nothing was heard yet.
    pub fn new(viewer: V, settings: Arc<Settings>) -> Self {
        Self {
            viewer,
            settings,
            node: None,
            ledgers: Vec::new(),
            asked: Asked::new(),
            expected: BTreeSet::new(),
            announced: BTreeSet::new(),
            nonces: 0,
            spared: None,
            heard: 0,
            incomplete: false,
        }
    }

    /// Until then nothing of these types is taken from the proxy that it brought along and that was not there since: this server may know less than the one
    /// before it, and whoever knows better is on his way.
    pub fn spare(&mut self, until: Duration, types: Arc<[TypeUrl]>) {
        self.spared = Some((until, types));
    }

    /// Who stands at the other end, as the transport proved it.
    pub fn viewer(&self) -> &V {
        &self.viewer
    }

    /// What the proxy says of itself.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Takes in a request at `now` and says what it tells about resources.
    ///
    /// # Errors
    /// When the proxy goes beyond a limit; the stream is to be closed.
    pub fn receive(
        &mut self,
        now: Duration,
        request: DeltaDiscoveryRequest,
        store: &Store,
    ) -> Result<Vec<Fact>, Breach> {
        self.check(&request)?;
        self.heard += 1;
        if self.node.is_none() {
            self.greet(request.node.unwrap_or_default());
        }
        let type_url = TypeUrl::from(request.type_url.as_str());
        let (at, first) = self.open_ledger(&type_url, store)?;
        let ledger = &mut self.ledgers[at];
        let mut facts = Vec::new();
        if !first && !request.response_nonce.is_empty() {
            facts = ledger.answered(now, &request.response_nonce, request.error_detail.as_ref());
        }
        let names_none = request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty();
        if first && names_none && request.response_nonce.is_empty() {
            ledger.cover(store);
        }
        let had_all = ledger.has_all();
        // All asked for and given up in one breath is how to ask for nothing at all.
        let lists = |names: &[String]| names.iter().any(|name| name == "*");
        let nothing =
            !had_all && lists(&request.resource_names_subscribe) && lists(&request.resource_names_unsubscribe);
        let mut moved = Vec::new();
        for name in &request.resource_names_subscribe {
            if name == "*" {
                if !nothing {
                    ledger.cover(store);
                }
                continue;
            }
            let key = intern(store, &type_url, name);
            self.asked.entry(type_url.clone()).or_default().insert(key.name.clone());
            let known = first && request.initial_resource_versions.contains_key(name);
            ledger.ask(&key.name, !known);
            moved.push(key);
        }
        for name in &request.resource_names_unsubscribe {
            if name == "*" {
                if had_all {
                    ledger.uncover(store, self.asked.get(&type_url));
                }
                continue;
            }
            let key = intern(store, &type_url, name);
            let was_asked = self.asked.get_mut(&type_url).is_some_and(|names| names.remove(&key.name));
            ledger.leave(&key.name, was_asked);
            moved.push(key);
        }
        if first {
            for (name, version) in &request.initial_resource_versions {
                ledger.announce(&intern(store, &type_url, name).name, Version::parse(version));
            }
            self.expected.remove(&type_url);
            // A proxy may begin with the type that comes along: only now is it known what came along with what was asked.
            if self.expected.is_empty() {
                moved = self.asked_keys().collect();
            }
        }
        self.recheck(moved, store);
        Ok(facts)
    }

    /// What is to be sent now, in this order.
    pub fn poll<S: Scope<Viewer = V>>(&mut self, now: Duration, store: &Store, scope: &S) -> Vec<SharedResponse> {
        if !self.expected.is_empty() {
            return Vec::new();
        }
        for ledger in &mut self.ledgers {
            ledger.absorb(store, self.asked.get(ledger.type_url()));
        }
        let view = View { store, scope, viewer: &self.viewer, asked: &self.asked, limit: self.settings.response_bytes };
        let (settings, heard, revision) = (&*self.settings, self.heard, store.revision());
        let incomplete = self.incomplete;
        let mut post = Post { settings, heard, revision, now, nonces: &mut self.nonces, incomplete, out: Vec::new() };
        // Additions: what is pointed at before what points at it.
        let mut blocked = false;
        for at in 0..self.ledgers.len() {
            if !blocked && let Some(draft) = self.ledgers[at].draft_additions(now, &view) {
                post.send(&mut self.ledgers, at, draft);
            }
            blocked |= self.ledgers[at].has_unsent();
        }
        // Removals: the other way round, and only once all additions up to then are in force.
        let settled = self.ledgers.iter().map(|ledger| ledger.settled_to()).min().unwrap_or(0);
        let spared = self.spared.as_ref().filter(|(until, _)| now < *until);
        let mut before = u64::MAX;
        for at in (0..self.ledgers.len()).rev() {
            let spares = spared.is_some_and(|(_, types)| types.contains(self.ledgers[at].type_url()));
            if let Some(draft) = self.ledgers[at].draft_removals((settled, before), spares, &view) {
                post.send(&mut self.ledgers, at, draft);
            }
            before = before.min(self.ledgers[at].first_removal(spares));
        }
        if spared.is_none() {
            self.spared = None;
        }
        // What was left open before turned out to be nothing: the proxy still waits to hear that it has everything.
        if post.out.is_empty() && post.incomplete && sent_to(&self.ledgers) == revision {
            let free = self.ledgers.iter().enumerate().find_map(|(at, ledger)| Some((at, ledger.draft_nothing()?)));
            if let Some((at, draft)) = free {
                post.send(&mut self.ledgers, at, draft);
            }
        }
        self.incomplete = post.incomplete;
        post.out
    }

    /// When to poll again although nothing changed and nothing was received.
    pub fn wake_at(&self) -> Option<Duration> {
        // Behind a type that waits for its answer nothing can be sent before that answer.
        let beats = self.ledgers.iter().take_while(|ledger| !ledger.has_unsent()).filter_map(Ledger::wake_at);
        let spared = self.spared.as_ref().map(|(until, _)| *until);
        beats.chain(spared.filter(|_| self.ledgers.iter().any(Ledger::is_sparing))).min()
    }

    /// The rules of what this viewer sees changed: everything is compared again at the next poll.
    pub fn reconsider(&mut self, store: &Store) {
        for ledger in &mut self.ledgers {
            ledger.reconsider(store, self.asked.get(ledger.type_url()));
        }
    }

    /// Since when the oldest response without an answer is on its way.
    pub fn unanswered_since(&self) -> Option<Duration> {
        self.ledgers.iter().filter_map(Ledger::in_flight_since).min()
    }

    /// What the proxy holds, as far as it said so. `None` for a version that is not one of ours.
    pub fn holdings(&self) -> impl Iterator<Item = (Key, Option<Version>)> {
        self.ledgers.iter().flat_map(Ledger::holdings)
    }

    /// Whether the proxy asked for this resource by name or for all of its type. What comes along with others is not asked for.
    pub fn is_asked(&self, key: &Key) -> bool {
        let all = self.ledgers.iter().any(|ledger| *ledger.type_url() == key.type_url && ledger.has_all());
        all || is_asked(&self.asked, key)
    }

    /// The names of a type that the proxy asked for one by one.
    pub fn asked(&self, type_url: &TypeUrl) -> impl Iterator<Item = &str> {
        self.asked.get(type_url.as_str()).into_iter().flatten().map(|name| &**name)
    }

    /// What the proxy refused and was not sent in another version since.
    pub fn refused(&self) -> impl Iterator<Item = (Key, Version)> {
        self.ledgers.iter().flat_map(Ledger::refused)
    }

    /// The types that the proxy asked for, by the order of types. What it did not ask for it is never sent.
    pub fn types(&self) -> impl Iterator<Item = &TypeUrl> {
        self.ledgers.iter().map(Ledger::type_url)
    }

    /// The types that the proxy said it understands, with its first request. None when it said nothing about that: then it may
    /// understand any.
    pub fn announced(&self) -> &BTreeSet<TypeUrl> {
        &self.announced
    }

    fn check(&self, request: &DeltaDiscoveryRequest) -> Result<(), Breach> {
        let settings = &self.settings;
        let names = request.resource_names_subscribe.iter().chain(&request.resource_names_unsubscribe);
        let mut all = names.chain(request.initial_resource_versions.keys()).chain([&request.type_url]);
        if all.any(|name| name.len() > settings.name_bytes) {
            return Err(Breach::LongName);
        }
        let asked: usize = self.asked.values().map(BTreeSet::len).sum();
        let known = self.asked.get(request.type_url.as_str());
        let is_new = |name: &&String| known.is_none_or(|names| !names.contains(name.as_str()));
        if asked + request.resource_names_subscribe.iter().filter(is_new).count() > settings.names {
            return Err(Breach::TooManyNames);
        }
        let held: usize = self.ledgers.iter().map(Ledger::announced).sum();
        if held + request.initial_resource_versions.len() > settings.held {
            return Err(Breach::TooManyHeld);
        }
        Ok(())
    }

    fn greet(&mut self, mut node: Node) {
        node.client_features.truncate(4 * self.settings.types);
        let announced = node.client_features.iter().filter_map(|feature| feature.strip_prefix(ANNOUNCES));
        self.expected = announced.take(self.settings.types).map(TypeUrl::from).collect();
        self.announced = self.expected.clone();
        self.node = Some(node);
    }

    /// The place of the ledger of a type, and whether it was opened only now.
    fn open_ledger(&mut self, type_url: &TypeUrl, store: &Store) -> Result<(usize, bool), Breach> {
        if let Some(at) = self.ledgers.iter().position(|ledger| ledger.type_url() == type_url) {
            return Ok((at, false));
        }
        if self.ledgers.len() >= self.settings.types {
            return Err(Breach::TooManyTypes);
        }
        let rank =
            |type_url: &TypeUrl| self.settings.order.iter().position(|other| other == type_url).unwrap_or(usize::MAX);
        let own = (rank(type_url), type_url);
        let at = self.ledgers.partition_point(|ledger| (rank(ledger.type_url()), ledger.type_url()) < own);
        self.ledgers.insert(at, Ledger::new(type_url.clone(), store));
        Ok((at, true))
    }

    fn asked_keys(&self) -> impl Iterator<Item = Key> {
        let pairs = self.asked.iter().flat_map(|(type_url, names)| names.iter().map(move |name| (type_url, name)));
        pairs.map(|(type_url, name)| Key { type_url: type_url.clone(), name: name.clone() })
    }

    /// Has everything that comes along with `keys` looked at again.
    fn recheck(&mut self, keys: Vec<Key>, store: &Store) {
        for key in store.bundles().follow(keys) {
            if let Some(ledger) = self.ledgers.iter_mut().find(|ledger| *ledger.type_url() == key.type_url) {
                ledger.mark(&key.name, Recheck::Company);
            }
        }
    }
}

/// Where the responses of one poll are addressed.
struct Post<'a> {
    settings: &'a Settings,
    heard: u64,
    revision: u64,
    now: Duration,
    nonces: &'a mut u64,
    /// Whether the latest response said that more follows.
    incomplete: bool,
    out: Vec<SharedResponse>,
}

impl Post<'_> {
    /// Puts a draft of the ledger at `at` on its way.
    fn send(&mut self, ledgers: &mut [Ledger], at: usize, draft: Draft) {
        *self.nonces += 1;
        let nonce = format!("{:x}", self.nonces);
        let progress = Progress { revision: self.revision, sent_to: sent_to(ledgers), heard: self.heard };
        self.incomplete = !progress.is_whole();
        let (resources, removed_resources) = ledgers[at].dispatch(draft, nonce.clone(), self.now);
        self.out.push(SharedResponse {
            system_version_info: progress.to_string(),
            resources,
            type_url: ledgers[at].type_url().as_str().to_owned(),
            nonce,
            removed_resources,
            control_plane: Some(ControlPlane { identifier: self.settings.identifier.clone() }),
        });
    }
}

/// The revision up to which everything of every type was sent.
fn sent_to(ledgers: &[Ledger]) -> u64 {
    ledgers.iter().map(Ledger::sent_to).min().unwrap_or(0)
}

/// How far a response goes, as `system_version_info` says it: `revision@heard`, or `revision+sent_to@heard` when more follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The revision of the store that the response shows.
    pub(crate) revision: u64,
    /// The revision up to which, with this response, everything of every type has been sent.
    pub(crate) sent_to: u64,
    /// How many requests of the stream it takes into account.
    pub(crate) heard: u64,
}

impl Progress {
    /// Reads what another control plane may have written quite differently.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (revisions, heard) = text.split_once('@')?;
        let (revision, sent_to) = revisions.split_once('+').unwrap_or((revisions, revisions));
        Some(Self { revision: revision.parse().ok()?, sent_to: sent_to.parse().ok()?, heard: heard.parse().ok()? })
    }

    /// Whether nothing follows.
    pub(crate) fn is_whole(self) -> bool {
        self.sent_to >= self.revision
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole() {
            write!(f, "{}@{}", self.revision, self.heard)
        } else {
            write!(f, "{}+{}@{}", self.revision, self.sent_to, self.heard)
        }
    }
}

/// The key of `name`, with the store's own copy of the name when it has one.
fn intern(store: &Store, type_url: &TypeUrl, name: &str) -> Key {
    match store.resource(type_url, name) {
        Some(resource) => resource.key().clone(),
        None => Key::new(type_url, name),
    }
}

#[cfg(test)]
mod tests;
