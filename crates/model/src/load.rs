//! Reads files into a `World`, and tells everything that is wrong with them at once.
//!
//! Called by `control` and the command line for every change. Files and environment variables are read by the caller; references
//! between objects are not looked at: a reference that leads nowhere is status, not an error of the file.

mod admit;
mod cache;
mod draft;
mod kept;
mod outside;
mod past;
mod recognise;
mod standalone;

use self::draft::Draft;
use crate::place::{Invalid, Note, SourceText};
use crate::policy::PolicyKind;
use crate::secrecy::Hidden;
use crate::value::{Budget, Words};
use crate::world::{World, complete};

pub use cache::Cache;
pub use outside::{FROM_ENV, FROM_FILE, Outside, ValueFrom, Wanted};
pub use past::Past;
pub(crate) use standalone::is_implied;
pub use standalone::{DEFAULT_GATEWAY, DEFAULT_NAMESPACE, DEFAULT_PORT};

/// What loading gives.
#[derive(Debug)]
pub struct Loaded {
    /// The objects that could be read. When `invalid` is not empty it is not complete and must not be used to serve traffic.
    pub world: World,
    /// What is not a valid object, in the order of the files.
    pub invalid: Vec<Invalid>,
    /// What there is to know beside that.
    pub notes: Vec<Note>,
}

/// What becomes of a policy that is not valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broken {
    /// It is an error, as with every other object.
    #[default]
    Refused,
    /// It is kept as a broken one on the targets that it tells, so that it fails closed there, and what is wrong becomes a note. A
    /// BackendTLSPolicy is one too. For who gets objects that somebody else has found good.
    Kept,
}

/// Who goes by the files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    /// Proxies of several kinds, of which each takes its part.
    Anybody,
    /// One gateway, for which they are everything.
    OneGateway,
}

/// How to load.
#[derive(Clone, Copy)]
pub struct Loader<'a> {
    kinds: &'a [PolicyKind],
    outside: Option<&'a dyn Outside>,
    previous: Option<&'a Past>,
    budget: Budget,
    broken: Broken,
    cache: Option<&'a Cache>,
    readers: Readers,
}

impl<'a> Loader<'a> {
    /// A loader that knows these policies.
    pub fn new(kinds: &'a [PolicyKind]) -> Self {
        Self {
            kinds,
            outside: None,
            previous: None,
            budget: Budget::default(),
            broken: Broken::default(),
            cache: None,
            readers: Readers::Anybody,
        }
    }

    /// Where the values of Secrets come from that are not in the files.
    pub fn outside(mut self, outside: &'a dyn Outside) -> Self {
        self.outside = Some(outside);
        self
    }

    /// The configuration before this change. An object keeps its generation when its contents are the same, and gets the next one
    /// when they are not. A Secret whose key pair fits no longer keeps the one it had ([`World::kept_pair`]).
    pub fn after(mut self, previous: &'a Past) -> Self {
        self.previous = Some(previous);
        self
    }

    /// What becomes of policies that are not valid.
    pub fn broken_policies(mut self, broken: Broken) -> Self {
        self.broken = broken;
        self
    }

    /// Keeps what the files hold until the next load with the same cache, which reads only those that have changed.
    pub fn reusing(mut self, cache: &'a Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// The files are all that one gateway has: without a Gateway in them there is the default one, whether a route counts on it or not,
    /// unless the routes belong to others.
    pub fn for_one_gateway(mut self) -> Self {
        self.readers = Readers::OneGateway;
        self
    }

    /// What reading one file may cost.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Reads `files`. Their order is the order of age of the objects that do not say when they were created.
    pub fn load(&self, files: &[SourceText]) -> Loaded {
        let mut draft = Draft::new(self.kinds, self.outside, self.broken);
        let mut words = Words::default();
        let mut reading = self.cache.map(Cache::begin);
        for (file, source) in (0..).zip(files) {
            match &mut reading {
                None => draft.read_file(file, source, &self.budget, &mut words),
                Some(reading) => {
                    let fragment = reading.find(source, || {
                        let mut draft = Draft::of_one_file(self.kinds, self.outside, self.broken);
                        draft.read_file(file, source, &self.budget, &mut words);
                        draft.into_fragment()
                    });
                    draft.add_fragment(file, &fragment);
                }
            }
        }
        drop((words, reading));
        standalone::complete(&mut draft, self.readers);
        let (mut world, mut invalid, notes) = draft.finish(self.previous);
        let hidden = Hidden::of(files, &invalid);
        complete(files, &hidden, &mut invalid);
        // Syntax errors are found before the errors of objects; people read a file from top to bottom.
        let order = |file: &str| files.iter().position(|source| &*source.name == file);
        invalid.sort_by_key(|one| (order(&one.at.file), one.at.line, one.at.column));
        world.index(files.to_vec(), hidden);
        if let Some(previous) = self.previous {
            kept::keep_pairs(&mut world, previous);
        }
        Loaded { world, invalid, notes }
    }
}

/// Reads `files`, without values from outside and without a world before.
pub fn load(files: &[SourceText], kinds: &[PolicyKind]) -> Loaded {
    Loader::new(kinds).load(files)
}

#[cfg(test)]
mod tests;
