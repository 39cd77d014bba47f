//! The service registry: which instances of services have registered, and which of them still give a sign of life.
//!
//! Held by `plane`, which stores what changes before it confirms it. Pure: time arrives as an argument, counted from any moment,
//! and starts anew with the process, so that a clock that jumps ends no lease. An instance that is silent for [`LEASE`] is
//! unhealthy, and after [`GRACE`] more it is removed. When most instances fall silent at once, it is the control plane or the
//! network that failed and not all of them, so nothing ends until they return or [`PATIENCE`] is over. Nor does a silence empty a service: while
//! nobody who is heard serves it, whoever fell silent is kept as long, since callers find out for themselves whether he answers. Who may
//! register what is decided here as well; that the identity is proven is the transport's work.

mod check;
mod held;
mod objects;
mod places;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use transept_identity::SpiffeId;
use transept_xds::mesh::{Port, Workload};

use self::check::{check, check_object};
use self::held::{Held, comes_to};
use self::objects::{MOST_SERVICES, service_object};
pub(super) use self::objects::{learned, workload_object};
use super::members::Members;

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
    /// Whether it came to where another one was and is alive: the place is the other one's.
    #[prost(bool, tag = "7")]
    pub guest: bool,
    /// How many came there before it, one after the other. Whoever came sooner has the place again when he is heard again.
    #[prost(uint32, tag = "8")]
    pub turn: u32,
}

impl Entry {
    /// Whether it is known to be at the address that it registered.
    pub fn is_proven(&self) -> bool {
        self.at_home && !self.guest
    }
}

/// Where a registration came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The address that is registered.
    Home,
    /// Another one, as through a translation of addresses.
    Elsewhere,
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
        let entry = self.admit(workload, identity, (nonce, nonce), origin, now)?;
        let changed = self.is_news(&entry, now);
        self.insert(entry, now);
        Ok(changed)
    }

    /// Whether what was admitted changes anything that others are told.
    pub fn is_news(&self, entry: &Entry, now: Duration) -> bool {
        let held = self.held.get(&name_of(&entry.workload));
        held.is_none_or(|held| held.entry != *entry || !held.silent_for.is_empty() || held.displaced)
            || self.held.values().any(|other| !other.displaced && !other.is_alive(now) && comes_to(entry, other))
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
        now: Duration,
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
            let has_ended = held.entry.lapsed || held.overdue;
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
        let mut entry = Entry {
            workload,
            identity: identity.as_str().to_owned(),
            nonce: nonce.to_vec(),
            lapsed: false,
            at_home: origin == Origin::Home,
            left: false,
            guest: false,
            turn: 0,
        };
        (entry.guest, entry.turn) = self.turn(&entry, before, now);
        check_object(&entry)?;
        Ok(entry)
    }

    /// Takes in what was admitted.
    pub fn insert(&mut self, entry: Entry, now: Duration) {
        let name = name_of(&entry.workload);
        self.left.remove(&name);
        self.names.remove(&name);
        self.held.values_mut().filter(|other| comes_to(&entry, other)).for_each(|other| other.meet(&name, now));
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
        held.rival = None;
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
        let mut changed = self.settle_places(now);
        let mut endings = self.endings(now, members);
        let mut gone = Vec::new();
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

    /// Who is at the place of an instance that has missed a beat since.
    pub fn replaced_by(&self, name: &Name) -> Option<&Name> {
        self.held.get(name).filter(|held| held.displaced)?.rival.as_ref()
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
