//! A control plane: the registry, the files as far as it has followed them, the store that comes of both, and a session for each
//! connection. What `core` and `serve` do behind their lock and their sockets is done here in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use serde_json::Value;
use transept_control::plane::members::Members;
use transept_control::plane::registry::{self, Entry, Name, Registry, name_of};
use transept_control::plane::source::Kinds;
use transept_identity::SpiffeId;
use transept_xds::mesh::{Answer, Beat};
use transept_xds::messages::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use transept_xds::server::{Fact, Settings};
use transept_xds::source::Scope;
use transept_xds::{Key, Resource, Session, Store, TypeUrl};

use crate::leases::Leases;
use crate::objects::{GATEWAY, Meaning, NAMESPACE, Spec, gateway_type, service_key, service_type};
use crate::truth::{Archive, Op, Truth};

const SWEEP: Duration = Duration::from_secs(1);

/// Who looks: a gateway sees no other Gateway than its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Viewer {
    Sidecar,
    Gateway,
}

pub(crate) struct Sight;

impl Scope for Sight {
    type Viewer = Viewer;

    fn sees(&self, viewer: &Viewer, resource: &Resource) -> bool {
        sees(*viewer, resource.key())
    }
}

pub(crate) fn sees(viewer: Viewer, key: &Key) -> bool {
    let other = key.type_url == gateway_type() && *key.name != *format!("{NAMESPACE}/{GATEWAY}");
    viewer == Viewer::Sidecar || !other
}

/// One connection.
pub(crate) struct Seat {
    pub(crate) session: Option<Session<Viewer>>,
    who: SpiffeId,
    from: IpAddr,
    registered: Option<(Name, Vec<u8>)>,
    /// Something has changed since it was polled.
    pub(crate) due: bool,
}

pub(crate) struct Plane {
    pub(crate) clock: Duration,
    pub(crate) store: Store,
    pub(crate) published: BTreeMap<Key, Rc<Spec>>,
    /// Since when each key has been as it is now.
    pub(crate) since: BTreeMap<Key, Duration>,
    pub(crate) applied: usize,
    pub(crate) seats: BTreeMap<u64, Seat>,
    pub(crate) registry: Registry,
    pub(crate) refused: BTreeMap<Key, BTreeSet<u64>>,
    files: BTreeMap<Key, Rc<Spec>>,
    /// What survives its end.
    disk: BTreeMap<Name, Vec<u8>>,
    leases: Leases,
    next_sweep: Duration,
    stale: bool,
    settings: Arc<Settings>,
    /// What has happened.
    pub(crate) saw: BTreeSet<&'static str>,
}

impl Plane {
    pub(crate) fn new(kinds: &Kinds, response_bytes: usize) -> Self {
        let settings = Settings { order: kinds.order(), response_bytes, ..Settings::default() };
        Self {
            clock: Duration::ZERO,
            store: Store::new(),
            published: BTreeMap::new(),
            since: BTreeMap::new(),
            applied: 0,
            seats: BTreeMap::new(),
            registry: Registry::default(),
            refused: BTreeMap::new(),
            files: BTreeMap::new(),
            disk: BTreeMap::new(),
            leases: Leases::default(),
            next_sweep: SWEEP,
            stale: true,
            settings: Arc::new(settings),
            saw: BTreeSet::new(),
        }
    }

    /// A new process with the state on its disk; it has read the files as far as the one before.
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        let entries = self.disk.values().map(|bytes| Entry::decode(bytes.as_slice()).map_err(|why| why.to_string()));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        self.clock = Duration::ZERO;
        self.next_sweep = SWEEP;
        self.registry = Registry::restore(entries, self.clock);
        self.leases.restart(self.clock);
        self.leases.agree(&self.registry).map_err(|why| format!("after a restart {why}"))?;
        self.store = Store::new();
        self.published.clear();
        self.seats.clear();
        self.refused.clear();
        self.stale = true;
        Ok(())
    }

    /// Follows the log of the files up to `to`.
    pub(crate) fn follow(&mut self, truth: &Truth, to: usize) {
        for op in &truth.ops[self.applied..to] {
            match op {
                Op::Put(spec) => self.files.insert(spec.key.clone(), spec.clone()),
                Op::Remove(key) => self.files.remove(key),
            };
        }
        self.applied = to;
        self.stale = true;
    }

    /// Puts what is known into the store of resources.
    pub(crate) fn publish(&mut self, now: Duration, kinds: &Kinds, archive: &mut Archive) -> Result<(), String> {
        if !std::mem::take(&mut self.stale) {
            return Ok(());
        }
        let services = self.files.keys().filter(|key| key.type_url == service_type());
        let known = services.filter_map(|key| key.name.split_once('/'));
        let known = known.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).collect();
        // No slice of the simulation has the address of an instance.
        let registered = self.registry.objects(&known, &Members::default());
        for (name, entry) in self.registry.iter() {
            let is_it = |object: &&Value| object["kind"] == "Workload" && object["metadata"]["name"] == *name.1;
            let object = registered.iter().find(is_it).ok_or_else(|| format!("{name:?} is not published"))?;
            let is_healthy = object["spec"]["health"] == "Healthy";
            if entry.lapsed && is_healthy {
                return Err(format!("{name:?} is silent, and is published as well"));
            }
            // Whoever was well when he was heard last is there for when nobody else is, whatever happens next, and nobody else is.
            if self.leases.is_well(name) != (is_healthy || is_silent(object)) {
                return Err(format!("{name:?} is published as {object}, and says otherwise himself"));
            }
        }
        let mut next: BTreeMap<Key, Rc<Spec>> = registered
            .iter()
            .filter_map(|object| Some(archive.add(of_registration(object, kinds.resource(object)?))))
            .map(|spec| (spec.key.clone(), spec))
            .collect();
        next.extend(self.files.iter().map(|(key, spec)| (key.clone(), spec.clone())));
        let gone: Vec<Key> = self.published.keys().filter(|key| !next.contains_key(*key)).cloned().collect();
        for (key, spec) in &next {
            if self.published.get(key).is_none_or(|before| before.version != spec.version) {
                self.since.insert(key.clone(), now);
                self.store.put(spec.resource.clone());
            }
        }
        for key in gone {
            self.since.insert(key.clone(), now);
            self.store.remove(&key);
            self.refused.remove(&key);
        }
        self.published = next;
        self.seats.values_mut().for_each(|seat| seat.due = true);
        Ok(())
    }

    pub(crate) fn accept(&mut self, link: u64, viewer: Option<Viewer>, who: SpiffeId, from: IpAddr) {
        let session = viewer.map(|viewer| Session::new(viewer, self.settings.clone()));
        self.seats.insert(link, Seat { session, who, from, registered: None, due: false });
    }

    pub(crate) fn depart(&mut self, link: u64) {
        self.seats.remove(&link);
        self.refused.retain(|_, links| {
            links.remove(&link);
            !links.is_empty()
        });
    }

    /// Takes a message of discovery in.
    pub(crate) fn hear(&mut self, link: u64, bytes: &[u8]) -> Result<(), String> {
        let request = DeltaDiscoveryRequest::decode(bytes).map_err(|error| error.to_string())?;
        let Some(seat) = self.seats.get_mut(&link) else { return Ok(()) };
        let Some(session) = &mut seat.session else { return Ok(()) };
        seat.due = true;
        let facts = session.receive(self.clock, request, &self.store).map_err(|breach| breach.to_string())?;
        for fact in facts {
            match fact {
                Fact::Refused { key, .. } => {
                    self.refused.entry(key).or_default().insert(link);
                }
                Fact::Accepted { key, .. } | Fact::Removed { key } => {
                    if let Some(links) = self.refused.get_mut(&key) {
                        links.remove(&link);
                    }
                }
            }
        }
        Ok(())
    }

    /// What a session sends now, checked against what the store holds.
    pub(crate) fn poll(&mut self, link: u64) -> Result<Vec<Vec<u8>>, String> {
        let Some(seat) = self.seats.get_mut(&link) else { return Ok(Vec::new()) };
        let Some(session) = &mut seat.session else { return Ok(Vec::new()) };
        if !std::mem::take(&mut seat.due) && session.wake_at().is_none_or(|at| at > self.clock) {
            return Ok(Vec::new());
        }
        let mut frames = Vec::new();
        for response in session.poll(self.clock, &self.store, &Sight) {
            let bytes = response.encode_to_vec();
            let read = DeltaDiscoveryResponse::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
            let type_url = TypeUrl::from(read.type_url.as_str());
            for resource in &read.resources {
                let key = Key::new(&type_url, &resource.name);
                let right = self.published.get(&key).is_some_and(|spec| spec.version == resource.version);
                if !right || !sees(*session.viewer(), &key) {
                    return Err(format!("sent {key}, which is not published in this version, or not for everybody"));
                }
            }
            frames.push(bytes);
        }
        Ok(frames)
    }

    /// Takes a sign of life in, as `core` does.
    pub(crate) fn beat(&mut self, link: u64, bytes: &[u8]) -> Result<Option<Answer>, String> {
        let now = self.clock;
        let mut beat = Beat::decode(bytes).map_err(|error| error.to_string())?;
        let Some(seat) = self.seats.get_mut(&link) else { return Ok(None) };
        let mut refused = String::new();
        let mut changed = None;
        if let Some(workload) = beat.workload.take() {
            let (name, said) = (name_of(&workload), workload.clone());
            let rightful =
                *seat.who.path() == *format!("/ns/{}/sa/{}", workload.namespace, workload.services.join(","));
            let done = registry::check_place(&workload, seat.from);
            let done = done.and_then(|origin| self.registry.register(workload, &seat.who, &beat.nonce, origin, now));
            if rightful {
                self.leases.registered(&said, &beat.nonce, done.is_ok(), now)?;
            } else if done.is_ok() {
                return Err(format!("{} registers {name:?}, which is not its own", seat.who));
            }
            match done {
                Ok(new) => {
                    changed = new.then(|| name.clone());
                    seat.registered = Some((name, beat.nonce.to_vec()));
                }
                Err(why) => refused = why.to_string(),
            }
        } else if let Some((name, nonce)) = &seat.registered {
            let known = self.registry.beat(name, nonce, now);
            self.leases.beat(name, nonce, known.is_some(), now)?;
            match known {
                Some(lapsed) => changed = lapsed.then(|| name.clone()),
                None => refused = "register again".to_owned(),
            }
        }
        if let (true, Some((name, nonce))) = (beat.leaves, &seat.registered) {
            if self.registry.leave(name, nonce, now) {
                changed = Some(name.clone());
            }
            self.leases.left(name, nonce);
        }
        self.save(changed);
        self.leases.agree(&self.registry).map_err(|why| format!("after a beat {why}"))?;
        Ok(Some(Answer { interval_ms: 10_000, refused, ..Answer::default() }))
    }

    /// When it looks after leases next.
    pub(crate) fn next_sweep(&self) -> Duration {
        self.next_sweep
    }

    /// Looks after leases, when it is time.
    pub(crate) fn sweep(&mut self) -> Result<(), String> {
        if self.clock < self.next_sweep {
            return Ok(());
        }
        self.next_sweep = self.clock + SWEEP;
        let count = self.registry.iter().count();
        let changed = self.registry.sweep(self.clock, &Members::default());
        self.registry.forget_left(self.clock, &Members::default());
        self.leases.swept(self.clock);
        if self.registry.is_frozen() {
            self.saw.insert("a freeze");
        }
        if !changed.is_empty() {
            self.saw.insert(if self.registry.iter().count() < count { "a removal" } else { "a lapse" });
        }
        self.save(changed);
        self.leases.agree(&self.registry).map_err(|why| format!("after a sweep at {:?} {why}", self.clock))
    }

    fn save(&mut self, changed: impl IntoIterator<Item = Name>) {
        for name in changed {
            self.stale = true;
            match self.registry.entry(&name) {
                Some(entry) => self.disk.insert(name, entry.encode_to_vec()),
                None => self.disk.remove(&name),
            };
        }
    }
}

/// Whether an instance is published as one that is silent, for all its services.
fn is_silent(object: &Value) -> bool {
    let services: Vec<&str> =
        object["spec"]["services"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    object["metadata"]["annotations"]["transept.dev/silent"] == services.join(",")
}

/// What a registration means: an instance takes requests while it is well, and while it is silent where nobody else does.
fn of_registration(object: &Value, resource: Resource) -> Spec {
    let services: Vec<&str> =
        object["spec"]["services"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let address = object["spec"]["address"].as_str().and_then(|address| address.parse::<IpAddr>().ok());
    let places = services.iter().filter_map(|name| Some((format!("Service/{name}"), address?))).collect();
    let meaning = match object["spec"]["health"].as_str() {
        _ if is_silent(object) => Meaning::Silent(places),
        Some("Healthy") => Meaning::Endpoints(places),
        _ => Meaning::Endpoints(Vec::new()),
    };
    let joins = services.iter().map(|name| service_key(name)).collect();
    Spec::new(resource, false, (joins, Vec::new()), meaning)
}
