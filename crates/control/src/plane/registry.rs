//! The service registry: which instances of services have registered, and which of them still give a sign of life.
//!
//! Held by `plane`, which stores what changes before it confirms it. Pure: time arrives as an argument, counted from any moment,
//! and starts anew with the process, so that a clock that jumps ends no lease. An instance that is silent for [`LEASE`] is
//! unhealthy, and after [`GRACE`] more it is removed. When most instances fall silent at once, it is the control plane or the
//! network that failed and not all of them, so nothing ends until they return or [`PATIENCE`] is over. Nor does a silence empty a service: while
//! nobody who is heard serves it, whoever fell silent is kept as long, since callers find out for themselves whether he answers. Who may
//! register what is decided here as well; that the identity is proven is the transport's work.

mod check;
mod objects;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use transept_identity::SpiffeId;
use transept_model::kinds::workload::{SILENT, UNPROVEN};
use transept_xds::mesh::{Condition, Port, Workload};

use self::check::{check, check_object};
use self::objects::{MOST_SERVICES, join, service_object};
pub(super) use self::objects::{learned, workload_object};
use super::members::{Members, target_of};

/// How long an instance counts as alive after a sign of life.
pub const LEASE: Duration = Duration::from_secs(30);
/// How often an instance gives one.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long an instance that lost its lease is kept as unhealthy.
pub const GRACE: Duration = Duration::from_secs(60);
/// How long expiries stay frozen at most, counted from the last sign of life of an instance.
pub const PATIENCE: Duration = Duration::from_secs(3600);
/// Silent for this long is missing a beat. Whoever was cut off with the one whose lease ends first is silent for longer by then: a lease
/// is three beats, and between two of them lies one beat and what delays it.
const SILENCE: Duration = Duration::from_secs(15);
/// Fewer silent instances than this are no mass lapse.
const MASS: usize = 3;
/// The most ports and services that a workload may have.
const MOST: usize = 64;
/// The longest word for what a port speaks, in bytes.
const MOST_LEARNED: usize = 32;
/// The most instances that one identity may register: a workload that runs wild must not fill everybody's memory.
pub const MOST_INSTANCES: usize = 4096;

/// `namespace/name` of an instance.
pub type Name = (String, String);

/// Why a workload is not registered. Displays as a sentence that is safe to send back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Another instance of that name is alive.
    Taken,
    /// One of another identity has that name, and is silent.
    Kept,
    /// One of another identity had that name, and has ended.
    Left,
    /// The identity is not the one that may say this.
    NotAllowed(String),
    /// A field makes no sense.
    Wrong(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str("another instance of this name is registered and alive; choose another name, or wait until its lease ends"),
            Self::Kept => f.write_str("an instance of another service has this name; it is silent, and may live on; choose another name"),
            Self::Left => f.write_str("an instance of another service had this name, which is kept for that service for an hour after its end; choose another name"),
            Self::NotAllowed(why) | Self::Wrong(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refused {}

/// What is stored about an instance.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// What it registered.
    #[prost(message, required, tag = "1")]
    pub workload: Workload,
    /// The identity that did.
    #[prost(string, tag = "2")]
    pub identity: String,
    /// What tells this instance from another one of the same name.
    #[prost(bytes = "vec", tag = "3")]
    pub nonce: Vec<u8>,
    /// Whether its lease has ended.
    #[prost(bool, tag = "4")]
    pub lapsed: bool,
    /// Whether it called from the address that it registered.
    #[prost(bool, tag = "5")]
    pub at_home: bool,
    /// Whether it has said that it ends.
    #[prost(bool, tag = "6")]
    pub left: bool,
}

/// Where a registration came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The address that is registered.
    Home,
    /// Another one, as through a translation of addresses.
    Elsewhere,
}

#[derive(Debug, Clone, PartialEq)]
struct Held {
    entry: Entry,
    seen: Duration,
    /// Silent for longer than a lease, as of the last sweep: another instance of the identity may take the name.
    overdue: bool,
    /// Nothing ends for it, as of the last sweep.
    kept: bool,
    /// Another one has registered from where it is, and it has not been heard since.
    displaced: bool,
    /// Since when it is not kept any more, of those whose lease had not ended until then.
    spared: Option<Duration>,
    /// The Services that others serve, while it is kept for one that nobody else does.
    silent_for: BTreeSet<String>,
    /// Whether slices of its own Service have named it.
    was_named: bool,
}

impl Held {
    fn new(entry: Entry, seen: Duration) -> Held {
        let silent_for = BTreeSet::new();
        Held { entry, seen, overdue: false, kept: false, displaced: false, spared: None, silent_for, was_named: false }
    }

    /// Has it called again as long as nobody else serves what it serves, but for Services that others do. While everything stays as it is, it is called for
    /// no fewer of them than before. True when that is news.
    fn keep_but_for(&mut self, mut others: BTreeSet<String>, is_frozen: bool) -> bool {
        if is_frozen {
            others.retain(|service| self.silent_for.contains(service));
        }
        let differs = self.silent_for != others;
        self.silent_for = others;
        std::mem::take(&mut self.entry.lapsed) || differs
    }

    /// Nothing keeps it any more: it may be on its way. It has that time once, unless it is a network that comes back: another instance that comes and
    /// goes does not keep it for ever. After that it is unhealthy at once, and still there for whom it is the last one next time.
    fn spare(&mut self, now: Duration, is_patient: bool, was_frozen: bool) {
        if was_frozen || self.spared.is_none() {
            self.spared = (is_patient && !self.entry.lapsed).then_some(now);
        } else if is_patient {
            let over = LEASE - SILENCE + Duration::from_secs(1);
            self.spared = Some(now.saturating_sub(over));
        }
    }

    /// For how long nothing was heard of it.
    fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(self.seen)
    }

    /// The silence that counts against it. Those who were cut off together come back one after the other: who has not been heard yet
    /// when nothing is kept any more is on his way.
    fn counted(&self, now: Duration) -> Duration {
        let silence = self.silence(now);
        self.spared.map_or(silence, |spared| silence.min(now.saturating_sub(spared) + SILENCE))
    }

    /// Whether it is heard.
    fn lives(&self, now: Duration) -> bool {
        self.silence(now) <= LEASE && !self.entry.lapsed
    }

    /// The Services that it is an instance of: those that it registered for, and those whose slices name it.
    fn services<'h>(&'h self, members: &'h Members) -> impl Iterator<Item = (&'h str, &'h str)> {
        let namespace = self.entry.workload.namespace.as_str();
        self.own_services().chain(self.sliced(members).map(move |service| (namespace, service)))
    }

    /// Those that it registered for.
    fn own_services(&self) -> impl Iterator<Item = (&str, &str)> {
        let workload = &self.entry.workload;
        workload.services.iter().map(|service| (workload.namespace.as_str(), service.as_str()))
    }

    /// The Services whose slices name it, and of which it is an instance for that: those of others only where it proves that it is there. They
    /// would go on to name its address if it were taken out.
    fn sliced<'h>(&'h self, members: &'h Members) -> impl Iterator<Item = &'h str> {
        members.services_of(&self.entry.workload).filter(|service| self.entry.at_home || self.is_own(service))
    }

    /// Whether it registered for a Service.
    fn is_own(&self, service: &str) -> bool {
        self.entry.workload.services.iter().any(|own| own == service)
    }

    /// Whether slices of a Service that it registered for name it.
    fn is_named(&self, members: &Members) -> bool {
        members.services_of(&self.entry.workload).any(|service| self.is_own(service))
    }

    /// Where it is: one that is there has taken the place of whoever was there before. Only what one identity says of itself is compared. Ports
    /// behind tunnels may be alike at one address, as of containers.
    fn places(&self) -> impl Iterator<Item = (&str, &str, u32)> {
        let workload = &self.entry.workload;
        let open = workload.ports.iter().map(target_of).filter(|_| workload.tunnel_port == 0);
        let ports = open.chain([workload.tunnel_port]).filter(|port| *port != 0);
        ports.map(|port| (self.entry.identity.as_str(), workload.address.as_str(), port))
    }
}

impl Held {
    /// Whether it is where another one at its address was: with the same tunnel, or without any at a port of the same program, which it says for
    /// its own address alone.
    fn replaces(&self, other: &Held) -> bool {
        let (own, before) = (&self.entry.workload, &other.entry.workload);
        match own.tunnel_port {
            0 => share_a_program(own, before),
            tunnel => tunnel == before.tunnel_port && self.entry.identity == other.entry.identity,
        }
    }

    /// Whether it is called, as far as is known.
    fn is_well(&self) -> bool {
        self.entry.workload.condition() == Condition::Healthy && !self.displaced
    }

    /// The object that stands for it.
    fn object(&self, members: &Members) -> Value {
        let workload = &self.entry.workload;
        let mut object = workload_object(&self.entry);
        if self.entry.at_home {
            join(&mut object, workload, members);
        }
        if self.displaced {
            object["spec"]["health"] = Condition::Unhealthy.as_str().into();
        } else if self.entry.lapsed && self.is_well() {
            let services = object["spec"]["services"].as_array().into_iter().flatten();
            let names: Vec<&str> = services.filter_map(Value::as_str).collect();
            object["metadata"]["annotations"][SILENT] = names.join(",").into();
        } else if !self.silent_for.is_empty() {
            let names: Vec<&str> = self.silent_for.iter().map(String::as_str).collect();
            object["metadata"]["annotations"][SILENT] = names.join(",").into();
        }
        if self.displaced || !(self.entry.at_home || self.is_named(members)) {
            object["metadata"]["annotations"][UNPROVEN] = "true".into();
        }
        object
    }
}

/// Whether two workloads have a port of their programs in common.
fn share_a_program(one: &Workload, other: &Workload) -> bool {
    one.ports.iter().any(|port| other.ports.iter().any(|another| target_of(another) == target_of(port)))
}

/// For whom a name is kept whose instance has ended.
#[derive(Debug, Clone, PartialEq)]
struct Kin {
    identity: String,
    address: String,
    since: Duration,
}

/// How one that is silent ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    /// In its time.
    Ordinary,
    /// As unhealthy, but not taken out: a slice names its address, and who calls that would find no tunnel, and no door in the way.
    Sliced,
    /// Not yet: nobody else who is heard and well serves what it serves, but for these Services.
    Last(BTreeSet<String>),
    /// At once: another one of its identity is where it was.
    Replaced,
}

/// All registered instances.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Registry {
    held: BTreeMap<Name, Held>,
    /// Those with tunnels that have said that they end, while slices name them: the program may live on, and nobody calls it in clear text.
    left: BTreeMap<Name, Held>,
    /// Names of those that have ended: who comes back, or in the place of one, finds its name free. Not stored.
    names: BTreeMap<Name, Kin>,
    frozen: bool,
}

impl Registry {
    /// Takes in what was stored. Nobody could give a sign of life meanwhile, so every lease begins anew.
    pub fn restore(entries: impl IntoIterator<Item = Entry>, now: Duration) -> Self {
        let all = entries.into_iter().map(|entry| (name_of(&entry.workload), Held::new(entry, now)));
        let (left, held) = all.partition(|(_, held)| held.entry.left);
        Self { held, left, ..Self::default() }
    }

    /// Registers an instance, or changes what it registered. The answer says whether there is something to store. An instance
    /// with another nonce takes the place of the first one only when that has lost its lease.
    ///
    /// # Errors
    /// Why it may not.
    pub fn register(
        &mut self,
        workload: Workload,
        identity: &SpiffeId,
        nonce: &[u8],
        origin: Origin,
        now: Duration,
    ) -> Result<bool, Refused> {
        let entry = self.admit(workload, identity, (nonce, nonce), origin)?;
        let changed = self.is_news(&entry);
        self.insert(entry, now);
        Ok(changed)
    }

    /// Whether what was admitted changes anything that others are told.
    pub fn is_news(&self, entry: &Entry) -> bool {
        let held = self.held.get(&name_of(&entry.workload));
        held.is_none_or(|held| held.entry != *entry || !held.silent_for.is_empty() || held.displaced)
            || self.held.values().any(|other| !other.displaced && displaces(entry, other))
    }

    /// What would be stored about an instance with the first nonce, which may take the place of one with the second.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit(
        &self,
        mut workload: Workload,
        identity: &SpiffeId,
        (nonce, before): (&[u8], &[u8]),
        origin: Origin,
    ) -> Result<Entry, Refused> {
        check(&workload, identity)?;
        if nonce.is_empty() || nonce.len() > 128 {
            return Err(Refused::Wrong("the nonce of the instance has between 1 and 128 bytes".into()));
        }
        if let Ok(address) = workload.address.parse::<IpAddr>() {
            workload.address = address.to_canonical().to_string();
        }
        let name = name_of(&workload);
        // One that is silent may well live, and who has ended may come back. Its own kind may know better, and so does who is where it was.
        let is_heir = |of: &str, at: &str| of == identity.as_str() || origin == Origin::Home && at == workload.address;
        let is_heir_of = |entry: &Entry| is_heir(&entry.identity, &entry.workload.address);
        if let Some(held) = self.held.get(&name) {
            let is_it = held.entry.identity == identity.as_str() && held.entry.nonce == before;
            let has_ended = held.entry.lapsed || held.overdue || held.displaced;
            if !(is_it || has_ended && is_heir_of(&held.entry)) {
                return Err(if has_ended { Refused::Kept } else { Refused::Taken });
            }
        }
        let is_foreign = self.left.get(&name).is_some_and(|left| !is_heir_of(&left.entry))
            || self.names.get(&name).is_some_and(|kin| !is_heir(&kin.identity, &kin.address));
        if is_foreign {
            return Err(Refused::Left);
        }
        let all = self.held.values().chain(self.left.values());
        let own = || all.clone().filter(|held| held.entry.identity == identity.as_str());
        if !self.held.contains_key(&name) && own().count() >= MOST_INSTANCES {
            return Err(Refused::NotAllowed(format!("`{identity}` has registered {MOST_INSTANCES} instances already")));
        }
        let entry = Entry {
            workload,
            identity: identity.as_str().to_owned(),
            nonce: nonce.to_vec(),
            lapsed: false,
            at_home: origin == Origin::Home,
            left: false,
        };
        check_object(&entry)?;
        Ok(entry)
    }

    /// Takes in what was admitted.
    pub fn insert(&mut self, entry: Entry, now: Duration) {
        let name = name_of(&entry.workload);
        self.left.remove(&name);
        self.names.remove(&name);
        for other in self.held.values_mut() {
            other.displaced |= displaces(&entry, other);
        }
        let is_same =
            |before: &Entry| before.identity == entry.identity && before.workload.address == entry.workload.address;
        let was_named = self.held.get(&name).is_some_and(|before| before.was_named && is_same(&before.entry));
        self.held.insert(name, Held { was_named, ..Held::new(entry, now) });
    }

    /// Notes a sign of life of the instance with this nonce. `None` when it is not registered; else whether its lease had ended,
    /// so that there is something to store.
    pub fn beat(&mut self, name: &Name, nonce: &[u8], now: Duration) -> Option<bool> {
        let held = self.held.get_mut(name).filter(|held| held.entry.nonce == nonce)?;
        (held.seen, held.overdue, held.kept, held.spared) = (now, false, false, None);
        let was_silent = !std::mem::take(&mut held.silent_for).is_empty();
        let was_displaced = std::mem::take(&mut held.displaced);
        Some(std::mem::take(&mut held.entry.lapsed) || was_silent || was_displaced)
    }

    /// Takes an instance out that says that it ends. False when it is not registered.
    pub fn leave(&mut self, name: &Name, nonce: &[u8], now: Duration) -> bool {
        if self.held.get(name).is_none_or(|held| held.entry.nonce != nonce) {
            return false;
        }
        let Some(mut held) = self.held.remove(name) else { return false };
        self.keep_name(name, &held.entry, now);
        if held.entry.workload.tunnel_port != 0 {
            (held.entry.lapsed, held.entry.left) = (true, true);
            self.left.insert(name.clone(), held);
        }
        true
    }

    /// Keeps a name for the service of the one that had it. An identity that has had too many loses the first of them.
    fn keep_name(&mut self, name: &Name, entry: &Entry, since: Duration) {
        let own = || self.names.iter().filter(|(_, kin)| kin.identity == entry.identity);
        if own().count() >= MOST_INSTANCES
            && let Some(first) = own().min_by_key(|(_, kin)| kin.since).map(|(name, _)| name.clone())
        {
            self.names.remove(&first);
        }
        let kin = Kin { identity: entry.identity.clone(), address: entry.workload.address.clone(), since };
        self.names.insert(name.clone(), kin);
    }

    /// Forgets those that have left whose addresses no slice names any more, or where another one is now, or that left long ago, and names them.
    pub fn forget_left(&mut self, now: Duration, members: &Members) -> Vec<Name> {
        let mut at_address: HashMap<&str, Vec<&Held>> = HashMap::new();
        if !self.left.is_empty() {
            for held in self.held.values() {
                at_address.entry(held.entry.workload.address.as_str()).or_default().push(held);
            }
        }
        let is_over = |left: &Held| {
            let here = at_address.get(left.entry.workload.address.as_str());
            let is_replaced = here.is_some_and(|here| here.iter().any(|one| one.replaces(left)));
            is_replaced || left.silence(now) > PATIENCE || left.sliced(members).next().is_none()
        };
        let over = self.left.iter().filter(|(_, left)| is_over(left)).map(|(name, _)| name.clone());
        let over: Vec<Name> = over.collect();
        self.left.retain(|name, _| !over.contains(name));
        over
    }

    /// Looks who has fallen silent, and names of whom there is something to store: whose lease has ended, or counts after all, or who is
    /// removed. `members` says who is in which slices.
    pub fn sweep(&mut self, now: Duration, members: &Members) -> Vec<Name> {
        self.names.retain(|_, kin| now.saturating_sub(kin.since) <= PATIENCE);
        let silent = self.held.values().filter(|held| held.silence(now) > SILENCE).count();
        let was_frozen = std::mem::replace(&mut self.frozen, silent >= MASS && silent * 2 > self.held.len());
        self.held.values_mut().for_each(|held| held.was_named = held.was_named || held.is_named(members));
        let mut endings = self.endings(now, members);
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        self.held.retain(|name, held| {
            held.overdue = held.silence(now) > LEASE;
            let ending = if held.overdue { endings.remove(name) } else { None };
            let is_last = matches!(ending, Some(Ending::Last(_)));
            let is_patient = held.silence(now) <= PATIENCE;
            let stays_as_it_is = ending != Some(Ending::Replaced) && (self.frozen || is_last);
            let was_kept = std::mem::replace(&mut held.kept, is_patient && stays_as_it_is);
            if was_kept && !held.kept {
                held.spare(now, is_patient, was_frozen);
            }
            if held.kept {
                if let Some(Ending::Last(others)) = ending
                    && held.keep_but_for(others, self.frozen)
                {
                    changed.push(name.clone());
                }
                return true;
            }
            let silence = held.counted(now);
            let stays = (is_patient && ending == Some(Ending::Sliced)) || silence <= LEASE + GRACE;
            if ending == Some(Ending::Replaced) || (held.entry.lapsed && !stays) {
                changed.push(name.clone());
                gone.push((name.clone(), held.entry.clone()));
                return false;
            }
            if silence > LEASE && !held.entry.lapsed {
                held.entry.lapsed = true;
                held.silent_for.clear();
                changed.push(name.clone());
            }
            true
        });
        gone.iter().for_each(|(name, entry)| self.keep_name(name, entry, now));
        changed
    }

    /// What there is to consider about those who were silent for longer than a lease.
    fn endings(&self, now: Duration, members: &Members) -> BTreeMap<Name, Ending> {
        let overdue = || self.held.iter().filter(|(_, held)| held.silence(now) > LEASE);
        if overdue().next().is_none() {
            return BTreeMap::new();
        }
        let living = || self.held.values().filter(|held| held.lives(now));
        let well = living().filter(|held| held.is_well());
        let served: HashSet<(&str, &str)> = well.flat_map(|held| held.services(members)).collect();
        let places: HashSet<(&str, &str, u32)> = overdue().flat_map(|(_, held)| held.places()).collect();
        let taken: HashSet<(&str, &str, u32)> =
            living().flat_map(Held::places).filter(|place| places.contains(place)).collect();
        let sliced: HashSet<(&str, &str)> = members.services().collect();
        let ending = |held: &Held| {
            // Slices of its own Service that have named it, and name it no more, tell that its address is somebody else's.
            let is_dropped = held.was_named && !held.is_named(members);
            let is_elsewhere = is_dropped && held.own_services().any(|service| sliced.contains(&service));
            let has_others =
                |service: &(&str, &str)| served.contains(service) || (is_elsewhere && held.is_own(service.1));
            let (others, alone): (Vec<_>, Vec<_>) = held.services(members).partition(has_others);
            if held.displaced || held.places().any(|place| taken.contains(&place)) {
                Ending::Replaced
            } else if !alone.is_empty() {
                Ending::Last(others.into_iter().map(|(_, service)| service.to_owned()).collect())
            } else if held.entry.workload.tunnel_port != 0 && held.sliced(members).next().is_some() {
                Ending::Sliced
            } else {
                Ending::Ordinary
            }
        };
        overdue().map(|(name, held)| (name.clone(), ending(held))).collect()
    }

    /// Whether expiries are frozen, because most instances fell silent at once.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// For how long an instance has been silent that would have lost its lease, were it not kept.
    pub fn kept_silence(&self, name: &Name, now: Duration) -> Option<Duration> {
        let held = self.held.get(name).filter(|held| held.kept && !held.entry.lapsed)?;
        Some(now.saturating_sub(held.seen)).filter(|silence| *silence > LEASE)
    }

    /// Whether an instance is kept, and not for this Service, which others serve; or whether another one has come to where it is.
    pub fn is_silent_for(&self, name: &Name, service: &str) -> bool {
        self.held.get(name).is_some_and(|held| held.displaced || held.silent_for.contains(service))
    }

    /// What is to be stored under a name: an instance, or one that has left.
    pub fn stored(&self, name: &Name) -> Option<&Entry> {
        self.held.get(name).or_else(|| self.left.get(name)).map(|held| &held.entry)
    }

    /// What is known about an instance.
    pub fn entry(&self, name: &Name) -> Option<&Entry> {
        self.held.get(name).map(|held| &held.entry)
    }

    /// Those that have left, whose addresses are not called in clear text yet, ordered by name.
    pub fn left(&self) -> impl Iterator<Item = (&Name, &Entry)> {
        self.left.iter().map(|(name, held)| (name, &held.entry))
    }

    /// All instances, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Entry)> {
        self.held.iter().map(|(name, held)| (name, &held.entry))
    }

    /// The objects that stand for the registrations: a `Workload` for each, and a `Service` for every service that none of
    /// `known` is. Who registered from his own address is an instance of what `members` says, too.
    pub fn objects(&self, known: &BTreeSet<Name>, members: &Members) -> Vec<Value> {
        let mut services: BTreeMap<Name, BTreeMap<u32, &Port>> = BTreeMap::new();
        let mut objects = Vec::new();
        for held in self.held.values() {
            let workload = &held.entry.workload;
            for service in &workload.services {
                let name = (workload.namespace.clone(), service.clone());
                if !known.contains(&name) {
                    let ports = services.entry(name).or_default();
                    workload.ports.iter().for_each(|port| {
                        ports.entry(port.port).or_insert(port);
                    });
                }
            }
            objects.push(held.object(members));
        }
        // Of those that have left, what keeps their addresses from being called.
        for left in self.left.values() {
            let sliced: Vec<&str> = left.sliced(members).take(MOST_SERVICES).collect();
            if !sliced.is_empty() {
                let mut object = workload_object(&left.entry);
                object["spec"]["services"] = sliced.into();
                objects.push(object);
            }
        }
        objects.extend(services.iter().map(|((namespace, name), ports)| service_object(namespace, name, ports)));
        objects
    }
}

/// The name under which a workload is registered.
pub fn name_of(workload: &Workload) -> Name {
    (workload.namespace.clone(), workload.name.clone())
}

/// Whether one that registers has come where another one is that is registered: it is there, and so the other one is not any more, unless it is heard again.
/// A program behind a tunnel may have the same port as one beside it, as in a container: there it is silent for longer than a lease, too.
fn displaces(entry: &Entry, other: &Held) -> bool {
    let (own, before) = (&entry.workload, &other.entry.workload);
    let is_there = || match (own.tunnel_port, before.tunnel_port) {
        (0, 0) => share_a_program(own, before),
        (0, _) | (_, 0) => (other.overdue || other.entry.lapsed) && share_a_program(own, before),
        (tunnel, other) => tunnel == other,
    };
    let is_another = (&own.namespace, &own.name) != (&before.namespace, &before.name);
    entry.at_home && own.address == before.address && is_another && is_there()
}

/// Whether a workload may be at the address that it names when it calls from `from`, and whether that is the same. With a tunnel it may be anywhere, since
/// whoever answers must prove who it is; without one it would lead the callers of its service to whomever it likes.
///
/// # Errors
/// Why not. An address that is none is left to the registration.
pub fn check_place(workload: &Workload, from: IpAddr) -> Result<Origin, Refused> {
    let (Ok(address), from) = (workload.address.parse::<IpAddr>(), from.to_canonical()) else {
        return Ok(Origin::Elsewhere);
    };
    let address = address.to_canonical();
    if address.is_loopback() && !from.is_loopback() {
        return Err(Refused::Wrong(format!("`{address}` means another machine to everybody else")));
    }
    if workload.tunnel_port == 0 && address != from {
        let why = format!("a workload without a tunnel is registered at its own address, {from}, and not at {address}");
        return Err(Refused::NotAllowed(why));
    }
    Ok(if address == from { Origin::Home } else { Origin::Elsewhere })
}

#[cfg(test)]
mod tests;
