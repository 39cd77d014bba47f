//! A proxy's side of discovery: what it wants, what it holds, what it says to which control plane and when.
//!
//! The owner of the connection dials when [`Client::dial`] says where, hands over what arrives, sends what [`Client::next_request`]
//! returns, and tells of every end. Each response becomes a [`Batch`]: the owner decides which of its resources it can use and
//! settles the batch with what it refuses; the rest is held from then on. What was held stays held while no control plane is there.
//! It deliberately does not know what a resource means, nor how to store it on a disk.

mod interest;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::backoff::{Backoff, Pace};
use crate::messages::{ANNOUNCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use crate::refusal::{self, Reason, Refusal};
use crate::resource::{Key, TypeUrl};
use crate::server::Progress;
use interest::{Interest, Room};

pub use interest::Held;

/// What a client is told once.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What this proxy says of itself; its features are completed by the client.
    pub node: Node,
    /// The types that this proxy understands, in the order in which they are asked for. Nothing else is ever accepted.
    pub types: Vec<TypeUrl>,
    /// How many control planes there are; they are tried in turn.
    pub servers: usize,
    /// How long to wait between attempts.
    pub pace: Pace,
    /// How many resources this proxy holds at most.
    pub resources: usize,
    /// How many bytes of contents it holds at most.
    pub bytes: usize,
    /// Bytes of a name.
    pub name_bytes: usize,
}

impl Default for Settings {
    /// No types, one server, 200,000 resources, one gibibyte, 512 bytes.
    fn default() -> Self {
        Self {
            node: Node::default(),
            types: Vec::new(),
            servers: 1,
            pace: Pace::default(),
            resources: 200_000,
            bytes: 1 << 30,
            name_bytes: 512,
        }
    }
}

/// What a control plane may not do. The stream ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A response without a nonce, which nobody could answer.
    NoNonce,
    /// A second response of a type before the first was answered.
    Overrun,
    /// A name that is empty or longer than names may be.
    BadName,
    /// A response although no stream is open.
    NoStream,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNonce => "a response without a nonce",
            Self::Overrun => "a second response before the first was answered",
            Self::BadName => "a name that is empty or longer than names may be",
            Self::NoStream => "a response without a stream",
        })
    }
}

impl std::error::Error for Breach {}

/// The type is not one that this proxy said it understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownType(pub TypeUrl);

impl fmt::Display for UnknownType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a type that this proxy understands", self.0)
    }
}

impl std::error::Error for UnknownType {}

/// One change in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A resource is new or has other contents.
    Put {
        /// Its name.
        name: Arc<str>,
        /// Its version.
        version: Arc<str>,
        /// Its contents.
        payload: Bytes,
        /// How long it holds unless it is renewed.
        ttl: Option<Duration>,
    },
    /// A resource exists no more, or never did.
    Remove {
        /// Its name.
        name: Arc<str>,
    },
}

impl Change {
    /// The name of the resource.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Put { name, .. } | Self::Remove { name } => name,
        }
    }
}

/// A response that waits to be settled. Nothing of it is held before.
#[derive(Debug)]
pub struct Batch {
    type_url: TypeUrl,
    changes: Vec<Change>,
    /// What the client itself refuses.
    refusals: Vec<Refusal>,
    /// Names with a time to live that is renewed.
    beats: Vec<(Arc<str>, Duration)>,
    nonce: String,
    stream: u64,
    sequence: u64,
}

impl Batch {
    /// The type of everything in it.
    pub fn type_url(&self) -> &TypeUrl {
        &self.type_url
    }

    /// What is to change, without what was refused already.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// What was refused already, whatever it means.
    pub fn refused(&self) -> &[Refusal] {
        &self.refusals
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Its changes are held now, but for those that were refused.
    Held,
    /// Another stream has begun since, and tells everything anew: nothing of it is held, and nothing of it is to be put into force.
    Stale,
}

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down { dial_at: Duration },
    Dialing,
    Up { since: Duration },
}

/// The state of a proxy's discovery.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    interests: Vec<Interest>,
    link: Link,
    backoff: Backoff,
    server: usize,
    /// Counts streams, so that what belongs to an earlier one is known.
    stream: u64,
    outbox: VecDeque<DeltaDiscoveryRequest>,
    /// Counts the requests of this stream, as they enter the outbox.
    requests: u64,
    /// Counts the responses of this stream.
    sequence: u64,
    unsettled: BTreeSet<u64>,
    /// How far the responses went that are unsettled, or came after one that is.
    marks: VecDeque<(u64, Progress)>,
}

impl Client {
    /// A client that wants nothing yet, and dials at once.
    pub fn new(mut settings: Settings) -> Self {
        let features = settings.types.iter().map(|type_url| format!("{ANNOUNCES}{type_url}"));
        settings.node.client_features.extend(features);
        Self {
            interests: settings.types.iter().cloned().map(Interest::new).collect(),
            link: Link::Down { dial_at: Duration::ZERO },
            backoff: Backoff::default(),
            server: 0,
            stream: 0,
            outbox: VecDeque::new(),
            requests: 0,
            sequence: 0,
            unsettled: BTreeSet::new(),
            marks: VecDeque::new(),
            settings,
        }
    }

    /// Takes in what was held before a restart: the first control plane is told of it and sends only what changed.
    ///
    /// # Errors
    /// When the type is unknown.
    pub fn restore(&mut self, key: &Key, version: &str, payload: Bytes) -> Result<(), UnknownType> {
        self.interest(&key.type_url)?.restore(&key.name, version, payload);
        Ok(())
    }

    /// Takes in that a resource was refused before a restart: the first control plane tells of it again, or of its end.
    ///
    /// # Errors
    /// When the type is unknown.
    pub fn restore_refused(&mut self, key: &Key) -> Result<(), UnknownType> {
        self.interest(&key.type_url)?.refused.insert(key.name.clone());
        Ok(())
    }

    /// Asks for one resource, whether or not it exists.
    ///
    /// # Errors
    /// When the type is unknown.
    pub fn subscribe(&mut self, key: &Key) -> Result<(), UnknownType> {
        self.interest(&key.type_url)?.subscribe(&key.name);
        Ok(())
    }

    /// Asks no more for a resource. True when it was dropped with that; otherwise it is held because of something else, or never was.
    ///
    /// # Errors
    /// When the type is unknown.
    pub fn unsubscribe(&mut self, key: &Key) -> Result<bool, UnknownType> {
        Ok(self.interest(&key.type_url)?.unsubscribe(&key.name))
    }

    /// Asks for all resources of a type.
    ///
    /// # Errors
    /// When the type is unknown.
    pub fn subscribe_all(&mut self, type_url: &TypeUrl) -> Result<(), UnknownType> {
        self.interest(type_url)?.subscribe_all();
        Ok(())
    }

    /// Asks no more for all resources of a type, and names those that were dropped with that.
    ///
    /// # Errors
    /// When the type is unknown.
    pub fn unsubscribe_all(&mut self, type_url: &TypeUrl) -> Result<Vec<Arc<str>>, UnknownType> {
        Ok(self.interest(type_url)?.unsubscribe_all())
    }

    /// The number of the control plane to dial now. `None` while one is there, is being dialled, or must be waited for.
    pub fn dial(&mut self, now: Duration) -> Option<usize> {
        match self.link {
            Link::Down { dial_at } if dial_at <= now => {
                self.link = Link::Dialing;
                Some(self.server)
            }
            _ => None,
        }
    }

    /// The stream is open: everything is asked for anew, with what is held already.
    pub fn connected(&mut self, now: Duration) {
        self.link = Link::Up { since: now };
        self.stream += 1;
        self.forget_stream();
        let mut node = Some(self.settings.node.clone());
        for interest in &mut self.interests {
            self.requests += 1;
            self.outbox.push_back(DeltaDiscoveryRequest { node: node.take(), ..interest.announce(self.requests) });
        }
    }

    /// The stream is closed, or could not be opened. The next control plane is tried after a while.
    pub fn disconnected(&mut self, now: Duration, random: u64) {
        if let Link::Down { .. } = self.link {
            return;
        }
        let held = match self.link {
            Link::Up { since } => Some(now.saturating_sub(since)),
            _ => None,
        };
        let wait = self.backoff.failed(&self.settings.pace, self.settings.servers, held, random);
        self.link = Link::Down { dial_at: now.saturating_add(wait) };
        self.server = (self.server + 1) % self.settings.servers.max(1);
        self.forget_stream();
    }

    /// The stream is given up for another one to the same control plane, at once: nothing has failed.
    pub fn begin_anew(&mut self, now: Duration) {
        self.link = Link::Down { dial_at: now };
        self.forget_stream();
    }

    /// The next request to send.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        if !self.is_connected() {
            return None;
        }
        if self.outbox.is_empty()
            && let Some(interest) = self.interests.iter_mut().find(|interest| interest.has_changes())
        {
            self.requests += 1;
            return Some(interest.changes(self.requests));
        }
        self.outbox.pop_front()
    }

    /// Whether [`Client::next_request`] has something to send.
    pub fn has_requests(&self) -> bool {
        self.is_connected() && (!self.outbox.is_empty() || self.interests.iter().any(Interest::has_changes))
    }

    /// Whether a stream is open.
    pub fn is_connected(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    /// Takes in a response. `None` when there is nothing to settle, because the whole of it was refused, or is a repetition.
    ///
    /// # Errors
    /// When the control plane breaks the protocol; the stream is to be closed.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Result<Option<Batch>, Breach> {
        if !self.is_connected() {
            return Err(Breach::NoStream);
        }
        if response.nonce.is_empty() {
            return Err(Breach::NoNonce);
        }
        let limit = self.settings.name_bytes;
        let mut names = response.resources.iter().map(|resource| &resource.name).chain(&response.removed_resources);
        if response.nonce.len() > limit || names.any(|name| name.is_empty() || name.len() > limit) {
            return Err(Breach::BadName);
        }
        let room = self.room();
        let Some(interest) = self.interests.iter_mut().find(|interest| interest.type_url.as_str() == response.type_url)
        else {
            self.refuse_type(response);
            return Ok(None);
        };
        // A response that arrives twice says nothing new; what it brought may have been given up meanwhile.
        if !response.nonce.is_empty() && interest.latest.as_deref() == Some(response.nonce.as_str()) {
            return Ok(None);
        }
        if interest.unsettled {
            return Err(Breach::Overrun);
        }
        interest.latest = Some(response.nonce.as_str().into());
        let all = Progress { revision: 0, sent_to: u64::MAX, heard: u64::MAX };
        let progress = Progress::parse(&response.system_version_info).unwrap_or(all);
        self.sequence += 1;
        let mut batch = Batch {
            type_url: interest.type_url.clone(),
            changes: Vec::new(),
            refusals: Vec::new(),
            beats: Vec::new(),
            nonce: response.nonce,
            stream: self.stream,
            sequence: self.sequence,
        };
        interest.screen(response.resources, response.removed_resources, room, &mut batch);
        interest.unsettled = true;
        self.unsettled.insert(self.sequence);
        self.marks.push_back((self.sequence, progress));
        Ok(Some(batch))
    }

    /// Holds what a batch brought but for `refusals`, and answers the control plane. To be called before any of it is put into force,
    /// and for every batch: until then nothing more of its type is sent.
    pub fn settle(&mut self, now: Duration, batch: Batch, refusals: Vec<Refusal>) -> Settled {
        let live = batch.stream == self.stream && self.is_connected();
        if batch.stream != self.stream {
            return Settled::Stale;
        }
        let Some(interest) = self.interests.iter_mut().find(|interest| interest.type_url == batch.type_url) else {
            return Settled::Stale;
        };
        let refusals: Vec<Refusal> = batch.refusals.into_iter().chain(refusals).collect();
        let refused: BTreeSet<&str> = refusals.iter().map(|refusal| refusal.name.as_str()).collect();
        for change in batch.changes {
            if refused.contains(change.name().as_ref()) {
                interest.refuse(&change);
            } else {
                interest.apply(now, change);
            }
        }
        for (name, ttl) in batch.beats {
            interest.renew(now, &name, ttl);
        }
        interest.unsettled = false;
        if live {
            // What was asked for before must be heard before the answer: of this type, or the other side thinks that the answer came
            // later; of the others, because with the answer it may take away what nobody asks for.
            for interest in self.interests.iter_mut().filter(|interest| interest.has_changes()) {
                self.requests += 1;
                self.outbox.push_back(interest.changes(self.requests));
            }
            self.requests += 1;
            self.outbox.push_back(DeltaDiscoveryRequest {
                type_url: batch.type_url.as_str().to_owned(),
                response_nonce: batch.nonce,
                error_detail: refusal::to_status(refusals),
                ..DeltaDiscoveryRequest::default()
            });
            self.unsettled.remove(&batch.sequence);
            self.advance();
        }
        Settled::Held
    }

    /// Drops what has outlived its time, and names it.
    pub fn expire(&mut self, now: Duration) -> Vec<Key> {
        let expired = self.interests.iter_mut().flat_map(|interest| {
            let names = interest.expire(now);
            names.into_iter().map(|name| Key { type_url: interest.type_url.clone(), name })
        });
        expired.collect()
    }

    /// When to call [`Client::dial`] and [`Client::expire`] again although nothing happened.
    pub fn wake_at(&self) -> Option<Duration> {
        let dial_at = match self.link {
            Link::Down { dial_at } => Some(dial_at),
            _ => None,
        };
        self.interests.iter().filter_map(Interest::next_end).chain(dial_at).min()
    }

    /// A resource that is held.
    pub fn held(&self, key: &Key) -> Option<&Held> {
        self.interests.iter().find(|interest| interest.type_url == key.type_url)?.held.get(&key.name)
    }

    /// Whether a resource was refused when nothing of its name was held, and there is nothing newer.
    pub fn is_refused(&self, key: &Key) -> bool {
        self.interests.iter().any(|one| one.type_url == key.type_url && one.refused.contains(&key.name))
    }

    /// Everything that is held.
    pub fn holdings(&self) -> impl Iterator<Item = (Key, &Held)> {
        self.interests.iter().flat_map(|interest| {
            let key = |name: &Arc<str>| Key { type_url: interest.type_url.clone(), name: name.clone() };
            interest.held.iter().map(move |(name, held)| (key(name), held))
        })
    }

    /// Whether a resource that was asked for has been answered, with everything that comes along with it: it is held now, or it does
    /// not exist, or it was refused.
    pub fn is_answered(&self, key: &Key) -> bool {
        let interest = self.interests.iter().find(|interest| interest.type_url == key.type_url);
        interest.is_some_and(|interest| interest.is_answered(&key.name))
    }

    /// Whether everything that was asked for has been answered at least once, so that what is held is a whole.
    pub fn is_synced(&self) -> bool {
        self.interests.iter().all(Interest::is_synced)
    }

    fn interest(&mut self, type_url: &TypeUrl) -> Result<&mut Interest, UnknownType> {
        let found = self.interests.iter_mut().find(|interest| interest.type_url == *type_url);
        found.ok_or_else(|| UnknownType(type_url.clone()))
    }

    /// What may still be held.
    fn room(&self) -> Room {
        let held: usize = self.interests.iter().map(|interest| interest.held.len()).sum();
        let bytes: usize = self.interests.iter().map(|interest| interest.bytes).sum();
        Room {
            resources: self.settings.resources.saturating_sub(held),
            bytes: self.settings.bytes.saturating_sub(bytes),
        }
    }

    fn refuse_type(&mut self, response: DeltaDiscoveryResponse) {
        let refuse = |resource: &crate::messages::Resource| {
            let message = "this proxy does not know the type";
            Refusal::new(&resource.name, &resource.version, Reason::UnknownType, message)
        };
        let refusals = response.resources.iter().map(refuse).collect();
        self.requests += 1;
        self.outbox.push_back(DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail: refusal::to_status(refusals),
            ..DeltaDiscoveryRequest::default()
        });
    }

    fn forget_stream(&mut self) {
        self.outbox.clear();
        self.requests = 0;
        self.sequence = 0;
        self.unsettled.clear();
        self.marks.clear();
        for interest in &mut self.interests {
            interest.forget_stream();
        }
    }

    /// Tells the interests how far everything has come, as of the last response before the first unsettled one.
    fn advance(&mut self) {
        let open = self.unsettled.first().copied().unwrap_or(u64::MAX);
        while let Some((_, progress)) = self.marks.pop_front_if(|(sequence, _)| *sequence < open) {
            for interest in &mut self.interests {
                interest.advance(progress);
            }
        }
    }
}

#[cfg(test)]
mod tests;
