//! Where ApiKeys are kept: in a file, or in the state of a control plane.
//!
//! Called by `transept key`. What is changed counts once [`Book::save`] says so, and is on the disk then.

use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use transept_control::plane::{KeyChange, Question};

use super::super::control::StateArgs;
use super::super::token;
use super::file::KeyFile;
use super::place::Place;

/// ApiKeys that can be changed.
pub(super) enum Book<'p> {
    /// Those of a file.
    File(KeyFile),
    /// Those of a control plane, with what is to be changed.
    Plane { state: &'p StateArgs, keys: Vec<Value>, changed: Vec<KeyChange> },
}

/// What has become of changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Saved {
    /// They count, and are on the disk.
    Done,
    /// Somebody else has changed or made one of the keys since they were read. Nothing was changed.
    Overtaken,
}

/// An ApiKey.
pub(super) struct Stored {
    /// Where it is in the book.
    pub(super) index: usize,
    /// The whole object.
    pub(super) object: Value,
}

impl<'p> Book<'p> {
    /// Opens a book that keys have been made in.
    pub(super) fn existing(place: &'p Place) -> Result<Book<'p>> {
        if let Some(file) = place.file.as_ref().filter(|file| !file.exists()) {
            bail!("there is no file {}; `transept key create --consumer NAME --file {0}` makes it", file.display());
        }
        Book::open(place)
    }

    /// Opens the book at a place; a file that is not there is begun.
    pub(super) fn open(place: &'p Place) -> Result<Book<'p>> {
        if let Some(file) = &place.file {
            return KeyFile::open(file).map(Book::File);
        }
        let directory = place.state.directory();
        if !directory.exists() {
            bail!(
                "there is no control plane's state at {}: name the file that a gateway is started with (--file keys.yaml), or the \
                 directory of the control plane's state (--state DIR)",
                directory.display()
            );
        }
        let kept = token::put(&place.state, &Question::ListKeys)?;
        let keys = kept.as_array().into_iter().flatten().filter(|object| object["kind"] == "ApiKey");
        Ok(Book::Plane { state: &place.state, keys: keys.cloned().collect(), changed: Vec::new() })
    }

    /// Every ApiKey in it.
    pub(super) fn keys(&self) -> Vec<Stored> {
        match self {
            Book::File(file) => file.keys(),
            Book::Plane { keys, .. } => {
                keys.iter().enumerate().map(|(index, object)| Stored { index, object: object.clone() }).collect()
            }
        }
    }

    /// The names of a namespace that keys have: of a control plane that runs those of its files as well.
    pub(super) fn names(&self, namespace: &str) -> Result<Vec<String>> {
        if let Book::Plane { state, .. } = self {
            let names = token::put(state, &Question::KeyNames { namespace: namespace.to_owned() })?;
            return Ok(names.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect());
        }
        let keys = self.keys();
        let of_namespace = keys.iter().filter(|key| key.object["metadata"]["namespace"] == namespace);
        Ok(of_namespace.filter_map(|key| key.object["metadata"]["name"].as_str()).map(str::to_owned).collect())
    }

    /// One by name.
    pub(super) fn find(&self, namespace: &str, name: &str) -> Result<Stored> {
        let named = |stored: &Stored| {
            let metadata = &stored.object["metadata"];
            metadata["name"] == name && metadata["namespace"] == namespace
        };
        let found = self.keys().into_iter().find(named);
        found.ok_or_else(|| anyhow!("there is no ApiKey {namespace}/{name} here (see `transept key list`)"))
    }

    /// Adds a key.
    pub(super) fn add(&mut self, object: &Value) -> Result<()> {
        match self {
            Book::File(file) => file.add(object)?,
            Book::Plane { changed, .. } => changed.push(KeyChange { before: None, object: object.clone() }),
        }
        Ok(())
    }

    /// Puts a key in the place of the one that it was before.
    pub(super) fn replace(&mut self, stored: &Stored) -> Result<()> {
        match self {
            Book::File(file) => file.replace(stored)?,
            Book::Plane { keys, changed, .. } => {
                changed.push(KeyChange { before: keys.get(stored.index).cloned(), object: stored.object.clone() });
            }
        }
        Ok(())
    }

    /// Brings the changes to the disk, all or none. A file is nobody else's meanwhile; a control plane is asked by others too.
    pub(super) fn save(self) -> Result<Saved> {
        match self {
            Book::File(file) => file.save().map(|()| Saved::Done),
            Book::Plane { state, changed, .. } => {
                let answer = token::put(state, &Question::PutKeys { changes: changed })?;
                Ok(if answer["overtaken"].is_null() { Saved::Done } else { Saved::Overtaken })
            }
        }
    }
}
