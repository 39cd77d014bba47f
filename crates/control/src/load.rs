//! One attempt: from what the sources hold to a compiled world, or to everything that is wrong with them.
//!
//! Called by `follow` for every change and by `check` once. All the work is `model`'s and `engine`'s; here it is put in order, the
//! generation is counted, and the machine is asked which addresses it has, which neither of them can know.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use transept_engine::Snapshot;
use transept_engine::compile::{Compiled, compile};
use transept_engine::policies;
use transept_model::attach::{Attached, Locale, Settled, Surroundings, attach};
use transept_model::kinds::{ApiKeySpec, Object};
use transept_model::load::{Cache, Past};
use transept_model::schema::Moment;
use transept_model::status::Status;
use transept_model::{Invalid, Note, Place, World};

use crate::outside::Shelf;
use crate::sources::Reading;

/// A configuration that can be served.
#[derive(Debug)]
pub struct Loaded {
    /// Counts the configurations that were good, from 1.
    pub generation: u64,
    /// What to serve.
    pub snapshot: Arc<Snapshot>,
    /// The status of every object as far as it does not depend on sockets; with those, [`Settled::status_after`].
    pub settled: Settled,
    /// What the next change needs to know of this one. The objects themselves are not kept: what of them is in force is in the
    /// snapshot.
    pub past: Past,
    /// What does not work, with its place; it fails closed on its own target.
    pub problems: Vec<Invalid>,
    /// What is worth knowing.
    pub notes: Vec<Note>,
}

/// A configuration that is not served because it holds something that is not a valid object.
#[derive(Debug)]
pub struct Refused {
    /// Why it is refused; never empty.
    pub invalid: Vec<Invalid>,
    /// What else would not work, as far as it can be told; some of it may come from what is invalid.
    pub problems: Vec<Invalid>,
    /// What is worth knowing.
    pub notes: Vec<Note>,
    /// The status that the objects would get that could be read.
    pub status: Status,
}

/// What came of an attempt.
#[derive(Debug)]
pub enum Outcome {
    /// It can be served.
    Loaded(Arc<Loaded>),
    /// It cannot.
    Refused(Arc<Refused>),
}

/// What is loaded for: whether the addresses of this machine matter, and whether the files are those of one gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Serve,
    Check,
    Distribute,
}

/// What is wrong when there are Gateways, and not the one that is served here.
fn without_gateway(world: &World, (namespace, name): &(Arc<str>, Arc<str>)) -> Option<Invalid> {
    if world.gateways().is_empty() || world.has_implied_gateway() || world.gateway(namespace, name).is_some() {
        return None;
    }
    let at = Place { file: "identity of this gateway".into(), line: 0, column: 0 };
    let mut problem = Invalid::new(at, format!("there is no Gateway {namespace}/{name}, and it serves no other one"));
    problem.remedy("add that Gateway, or start it with a token of one that is there: `transept token create --service NAME-OF-GATEWAY`");
    Some(problem)
}

/// A world with everything that was found out about it.
struct Weighed {
    attached: Attached,
    compiled: Compiled,
    problems: Vec<Invalid>,
    generation: u64,
}

/// Loads again and again, each time on the ground of what was good before.
#[derive(Debug)]
pub struct Loader {
    purpose: Purpose,
    previous: Option<Arc<Loaded>>,
    /// What the latest attempt read of files outside the sources, and what the latest good one did.
    shelf: Shelf,
    in_force: Shelf,
    /// The addresses that Gateways ask for, and those of them that this machine does not have.
    wished: Vec<IpAddr>,
    unusable: BTreeMap<IpAddr, String>,
    locale: Locale,
    /// The only Gateway that is served.
    gateway: Option<(Arc<str>, Arc<str>)>,
    /// What the files hold, where it is kept.
    cache: Option<Cache>,
}

impl Loader {
    /// For serving on this machine: addresses that it does not have are found out.
    #[must_use]
    pub fn for_serving() -> Self {
        Loader::new(Purpose::Serve)
    }

    /// For checking, maybe for another machine: every address counts as usable.
    #[must_use]
    pub fn for_checking() -> Self {
        Loader::new(Purpose::Check)
    }

    /// For proxies elsewhere, which a control plane gives each its part: every address counts as usable, and nobody but a route asks for the
    /// Gateway that there is when none is written.
    #[must_use]
    pub fn for_distributing() -> Self {
        Loader::new(Purpose::Distribute)
    }

    fn new(purpose: Purpose) -> Self {
        let (wished, unusable) = (Vec::new(), BTreeMap::new());
        let (shelf, in_force) = (Shelf::default(), Shelf::default());
        let (locale, gateway, cache) = (Locale::default(), None, None);
        Loader { purpose, previous: None, shelf, in_force, wished, unusable, locale, gateway, cache }
    }

    /// The same for a machine that is there.
    #[must_use]
    pub fn at(mut self, locale: Locale) -> Self {
        self.locale = locale;
        self
    }

    /// The same for one of the Gateways, by namespace and name: the others are served elsewhere.
    #[must_use]
    pub fn of_gateway(mut self, gateway: Option<(&str, &str)>) -> Self {
        self.gateway = gateway.map(|(namespace, name)| (namespace.into(), name.into()));
        self
    }

    /// The same, but objects are kept in memory, so that a change of one file is the reading of one.
    #[must_use]
    pub fn keeping_objects(mut self) -> Self {
        self.cache = Some(Cache::default());
        self
    }

    /// Parses, attaches and compiles.
    pub fn load(&mut self, reading: Reading) -> Outcome {
        let shelf = Shelf::default();
        let outcome = self.load_with(reading, &shelf);
        if matches!(outcome, Outcome::Loaded(_)) {
            self.in_force = shelf.clone();
        }
        self.shelf = shelf;
        outcome
    }

    /// The same for files that are in force already, beside which something else is new: those that Secrets name are taken as they were read with
    /// them, because somebody may be writing to them.
    pub(crate) fn load_again(&mut self, reading: Reading) -> Outcome {
        let in_force = self.in_force.clone();
        self.load_with(reading, &in_force)
    }

    fn load_with(&mut self, reading: Reading, shelf: &Shelf) -> Outcome {
        let mut loader = transept_model::Loader::new(policies::MODEL_KINDS).outside(shelf);
        if self.purpose != Purpose::Distribute {
            loader = loader.for_one_gateway();
        }
        if let Some(previous) = &self.previous {
            loader = loader.after(&previous.past);
        }
        if let Some(cache) = &self.cache {
            loader = loader.reusing(cache);
        }
        let transept_model::Loaded { mut world, invalid: mut unreadable, mut notes } = loader.load(&reading.texts);
        world.tell_proxies(&reading.proxies);
        if self.purpose != Purpose::Serve {
            notes.extend(ended_keys(&world));
        }
        let Weighed { attached, compiled, problems, generation } = self.weigh(&world);
        if self.purpose != Purpose::Serve {
            notes.extend(compiled.notes.iter().cloned());
        }
        let mut invalid = reading.unreadable;
        invalid.append(&mut unreadable);
        if !invalid.is_empty() {
            return Outcome::Refused(Arc::new(Refused { invalid, problems, notes, status: attached.status }));
        }
        let (past, settled) = (world.past(), attached.into());
        let loaded = Arc::new(Loaded { generation, snapshot: compiled.install(), settled, past, problems, notes });
        self.previous = Some(loaded.clone());
        Outcome::Loaded(loaded)
    }

    /// Attaches and compiles a world that was put together elsewhere and is whole: what a control plane sent.
    pub fn take(&mut self, world: &World) -> Arc<Loaded> {
        let Weighed { attached, compiled, problems, generation } = self.weigh(world);
        let (past, settled, snapshot) = (world.past(), attached.into(), compiled.install());
        let loaded = Arc::new(Loaded { generation, snapshot, settled, past, problems, notes: Vec::new() });
        self.previous = Some(loaded.clone());
        loaded
    }

    /// Attaches and compiles; nothing is in force yet.
    fn weigh(&mut self, world: &World) -> Weighed {
        self.wished = wished(world);
        self.unusable = self.find_unusable();
        let surroundings = Surroundings {
            unusable: self.unusable.clone(),
            locale: self.locale.clone(),
            gateway: self.gateway.clone(),
            ..Surroundings::default()
        };
        let mut attached = attach(world, &surroundings);
        let generation = self.previous.as_ref().map_or(1, |previous| previous.generation + 1);
        let before = self.previous.as_ref().map(|previous| &*previous.snapshot);
        let compiled = compile(world, &attached, before, generation);
        compiled.report(&mut attached.status);
        let mut problems = std::mem::take(&mut attached.problems);
        problems.extend(compiled.problems.iter().cloned());
        for problem in &mut problems {
            world.complete(problem);
        }
        problems.extend(self.gateway.as_ref().and_then(|own| without_gateway(world, own)));
        problems.sort_by(|a, b| {
            let place = |one: &Invalid| (one.at.file.clone(), one.at.line, one.at.column);
            place(a).cmp(&place(b))
        });
        Weighed { attached, compiled, problems, generation }
    }

    /// The files outside the sources that the latest attempt read.
    pub(crate) fn outside_files(&self) -> Vec<PathBuf> {
        self.shelf.files()
    }

    /// Tells whether the same sources would now load differently: a file outside them has changed, or the machine has lost or
    /// won an address.
    pub(crate) fn surroundings_changed(&self) -> bool {
        self.find_unusable() != self.unusable || self.shelf.has_changed()
    }

    /// The addresses that Gateways ask for and this machine does not have.
    fn find_unusable(&self) -> BTreeMap<IpAddr, String> {
        if self.purpose != Purpose::Serve {
            return BTreeMap::new();
        }
        let foreign = self.wished.iter().filter(|ip| is_foreign(**ip));
        foreign.map(|ip| (*ip, "this machine does not have it".to_owned())).collect()
    }
}

/// The keys that have ended. They do no harm, and their owners may not know.
fn ended_keys(world: &World) -> Vec<Note> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ended =
        world.api_keys().iter().filter_map(|key| Some((key, key.spec.expires.filter(|end| now >= end.unix())?)));
    let note = |(key, end): (&Arc<Object<ApiKeySpec>>, Moment)| Note {
        at: Place::new(key.meta.at.file.clone(), key.spec.at),
        object: Some(key.meta.object_name()),
        what: format!("the key has expired on {end}; make another with `transept key create`, or remove it"),
    };
    ended.map(note).collect()
}

/// The addresses that Gateways ask for.
fn wished(world: &World) -> Vec<IpAddr> {
    let addresses = world.gateways().iter().flat_map(|gateway| &gateway.spec.addresses);
    addresses.filter_map(|address| address.value.as_deref()?.parse().ok()).collect()
}

/// Whether the system refuses to bind the address; a UDP socket on any port takes nothing away from anybody.
fn is_foreign(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}
