//! The feed of a process with a control plane: the files that are in force go to the plane, and what registers is loaded beside them: all of
//! it for a gateway in the same process, else the Services alone, because the status of objects in the files speaks of them.
//!
//! Held by `follow`. The texts of the files that are in force are kept (and by the loader what the files held that Secrets name), so that a
//! registration waits for no file that is being written and reads none, and so that a file with a mistake holds up no registration.

use std::collections::BTreeMap;
use std::sync::Arc;

use transept_model::SourceText;

use crate::load::Loaded;
use crate::plane::Plane;
use crate::plane::files::Files;
use crate::sources::Reading;

/// What of the registrations is loaded as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registrations {
    /// Everything, for a gateway that lives in the process.
    All,
    /// The Services that nothing else mentions. They change seldom; of instances only proxies hear.
    Services,
}

/// A plane, and what of it is in force.
#[derive(Debug)]
pub(crate) struct Joined {
    plane: Arc<Plane>,
    registrations: Registrations,
    in_force: Draft,
}

/// Files that are about to be loaded, and which registrations go with them.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    texts: Vec<SourceText>,
    /// None when the texts are not known to be good yet, and nobody has to know before what is in them.
    files: Option<Arc<Files>>,
    /// The number of the latest change of the registrations.
    registrations: u64,
    /// What of them was loaded.
    registered: Vec<SourceText>,
}

impl Joined {
    /// Nothing is in force yet.
    pub(crate) fn new(plane: Arc<Plane>, registrations: Registrations) -> Self {
        Self { plane, registrations, in_force: Draft::default() }
    }

    /// The plane.
    pub(crate) fn plane(&self) -> &Plane {
        &self.plane
    }

    /// Adds what is wanted of the registrations to what the files hold.
    pub(crate) fn draft(&self, reading: &mut Reading) -> Draft {
        let texts = reading.texts.clone();
        let files = Arc::new(self.plane.read_files(&texts));
        let (registrations, registered) = self.plane.registered_beside(&files, self.registrations);
        reading.texts.extend(registered.iter().cloned());
        if self.registrations == Registrations::All {
            reading.proxies = self.plane.sharers(&files);
        }
        Draft { texts, files: Some(files), registrations, registered }
    }

    /// Notes what is in force, and gives the files to the proxies.
    pub(crate) fn hold(&mut self, draft: Draft, loaded: Arc<Loaded>) {
        self.plane.note_loaded(loaded);
        let files = draft.files.clone().unwrap_or_else(|| Arc::new(self.plane.read_files(&draft.texts)));
        self.plane.take_files(files);
        self.in_force = draft;
    }

    /// The files that are in force with the registrations of now; nothing when what is wanted of those is loaded already.
    pub(crate) fn news(&mut self) -> Option<Reading> {
        if self.plane.registrations() == self.in_force.registrations {
            return None;
        }
        let files = self.in_force.files.as_deref()?;
        let (number, registered) = self.plane.registered_beside(files, self.registrations);
        self.in_force.registrations = number;
        let proxies = match self.registrations {
            Registrations::All => self.plane.sharers(files),
            Registrations::Services if are_same(&registered, &self.in_force.registered) => return None,
            Registrations::Services => BTreeMap::new(),
        };
        let texts = self.in_force.texts.iter().chain(&registered).cloned().collect();
        self.in_force.registered = registered;
        Some(Reading { texts, proxies, ..Reading::default() })
    }
}

fn are_same(some: &[SourceText], others: &[SourceText]) -> bool {
    some.len() == others.len()
        && some.iter().zip(others).all(|(one, other)| one.name == other.name && one.text == other.text)
}
