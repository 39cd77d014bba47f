//! The feed of a gateway in the process of the control plane: files and registrations as one reading, for the loader of files.
//!
//! Held by `follow`. The texts of the files that are in force are kept, so that a registration never reads a file that is being
//! written, and so that a file with a mistake holds up no registration.

use std::sync::Arc;

use transept_model::SourceText;

use crate::load::Loaded;
use crate::plane::Plane;
use crate::plane::core::Known;
use crate::sources::Reading;

/// A plane, and what of it the gateway has.
#[derive(Debug)]
pub(crate) struct Joined {
    plane: Arc<Plane>,
    in_force: Draft,
}

/// Files that are about to be loaded, and which registrations go with them.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    texts: Vec<SourceText>,
    known: Known,
    /// The number of the latest change of the registrations.
    registrations: u64,
}

impl Joined {
    /// Nothing is in force yet.
    pub(crate) fn new(plane: Arc<Plane>) -> Self {
        Self { plane, in_force: Draft::default() }
    }

    /// The plane.
    pub(crate) fn plane(&self) -> &Plane {
        &self.plane
    }

    /// Adds the registrations to what the files hold.
    pub(crate) fn draft(&self, reading: &mut Reading) -> Draft {
        let texts = reading.texts.clone();
        let known = self.plane.known(&texts);
        let (registrations, mut registered) = self.plane.registered_beside(&known);
        reading.texts.append(&mut registered);
        Draft { texts, known, registrations }
    }

    /// Notes what is in force, and gives the files to the proxies.
    pub(crate) fn hold(&mut self, draft: Draft, loaded: Arc<Loaded>) {
        self.plane.note_loaded(loaded);
        let reading = Reading { texts: draft.texts.clone(), unreadable: Vec::new(), digest: 0 };
        if !self.plane.set_files(reading) {
            tracing::error!(
                "what was loaded cannot be loaded again for the proxies; they keep the configuration before"
            );
        }
        self.in_force = draft;
    }

    /// The files that are in force with the registrations of now; nothing when the gateway has those already.
    pub(crate) fn news(&mut self) -> Option<Reading> {
        if self.plane.registrations() == self.in_force.registrations {
            return None;
        }
        let (number, mut registered) = self.plane.registered_beside(&self.in_force.known);
        self.in_force.registrations = number;
        let mut texts = self.in_force.texts.clone();
        texts.append(&mut registered);
        Some(Reading { texts, unreadable: Vec::new(), digest: 0 })
    }
}
