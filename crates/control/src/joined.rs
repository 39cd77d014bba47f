//! The feed of a process with a control plane: the files that are in force go to the plane, and for a gateway in the same process
//! what registers is loaded beside them.
//!
//! Held by `follow`. The texts of the files that are in force are kept for a gateway, so that a registration never reads a file that is being
//! written, and so that a file with a mistake holds up no registration.

use std::sync::Arc;

use transept_model::SourceText;

use crate::load::Loaded;
use crate::plane::Plane;
use crate::plane::files::Files;
use crate::sources::Reading;

/// Whether what registers is loaded as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registrations {
    /// For a gateway that lives in the process.
    Loaded,
    /// Only proxies hear of it.
    Apart,
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

    /// Adds the registrations to what the files hold, when they are wanted.
    pub(crate) fn draft(&self, reading: &mut Reading) -> Draft {
        let texts = reading.texts.clone();
        if self.registrations == Registrations::Apart {
            return Draft { texts, ..Draft::default() };
        }
        let files = Arc::new(self.plane.read_files(&texts));
        let (registrations, mut registered) = self.plane.registered_beside(&files);
        reading.texts.append(&mut registered);
        reading.proxies = self.plane.sharers(&files);
        Draft { texts, files: Some(files), registrations }
    }

    /// Notes what is in force, and gives the files to the proxies.
    pub(crate) fn hold(&mut self, draft: Draft, loaded: Arc<Loaded>) {
        self.plane.note_loaded(loaded);
        let files = draft.files.clone().unwrap_or_else(|| Arc::new(self.plane.read_files(&draft.texts)));
        self.plane.take_files(files);
        if self.registrations == Registrations::Loaded {
            self.in_force = draft;
        }
    }

    /// The files that are in force with the registrations of now; nothing when they are not loaded, or are already.
    pub(crate) fn news(&mut self) -> Option<Reading> {
        if self.plane.registrations() == self.in_force.registrations {
            return None;
        }
        let files = self.in_force.files.as_deref()?;
        let (number, mut registered) = self.plane.registered_beside(files);
        let proxies = self.plane.sharers(files);
        self.in_force.registrations = number;
        let mut texts = self.in_force.texts.clone();
        texts.append(&mut registered);
        Some(Reading { texts, unreadable: Vec::new(), proxies, digest: 0 })
    }
}
