//! Values of Secrets that are not in the files: environment variables and other files.
//!
//! The loader says what is wanted, the caller reads it. Nothing is read here.

use crate::kinds::{Object, SecretBody};
use crate::place::{Note, ObjectName, Place};
use crate::secrecy::{HIDDEN, may_be_credential};

/// Annotation of a Secret: entries from environment variables, `key=VARIABLE`, separated by commas.
pub const FROM_ENV: &str = "transept.dev/from-env";
/// Annotation of a Secret: entries from files, `key=path`, separated by commas.
pub const FROM_FILE: &str = "transept.dev/from-file";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValueFrom {
    /// The environment variable of this name.
    Env(String),
    /// The file at this path, relative to the file in which the Secret stands.
    File(String),
}

/// An entry of a Secret that comes from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where the Secret stands.
    pub at: Place,
    /// The Secret.
    pub secret: ObjectName,
    /// The entry.
    pub key: String,
    /// Where its value comes from.
    pub from: ValueFrom,
}

/// Reads values that are not in the configuration. Implemented by the shell that may do IO.
pub trait Outside {
    /// The bytes of a value, or in a few words why they cannot be had. A value that cannot be had leaves the entry out of
    /// its Secret: what needs it fails closed and says so in its status.
    fn read(&self, wanted: &Wanted) -> Result<Vec<u8>, String>;
}

/// Fetches what the annotations of `secret` ask for.
pub(super) fn fetch(secret: &mut Object<SecretBody>, outside: Option<&dyn Outside>, notes: &mut Vec<Note>) {
    for wanted in wishes(secret) {
        let read = match outside {
            Some(outside) => outside.read(&wanted),
            None => Err("values from outside are not read here".to_owned()),
        };
        match read {
            Ok(bytes) => {
                secret.spec.data.insert(wanted.key, bytes.into());
            }
            Err(why) => {
                let source = match &wanted.from {
                    ValueFrom::Env(name) => format!("environment variable {}", shown(name)),
                    ValueFrom::File(path) => format!("file {}", shown(path)),
                };
                notes.push(Note {
                    at: wanted.at,
                    object: Some(wanted.secret),
                    what: format!("the entry `{}` is left out: {source}: {why}", wanted.key),
                });
            }
        }
    }
}

/// The name of a source. Somebody may have written the value itself in its place.
fn shown(name: &str) -> &str {
    if may_be_credential(name) { HIDDEN } else { name }
}

fn wishes(secret: &Object<SecretBody>) -> Vec<Wanted> {
    let mut wishes = Vec::new();
    for annotation in [FROM_ENV, FROM_FILE] {
        let Some(list) = secret.meta.annotations.get(annotation) else {
            continue;
        };
        for item in list.split(',') {
            // Items without `=` were refused when the object was read.
            if let Some((key, source)) = item.split_once('=') {
                wishes.push(Wanted {
                    at: secret.meta.at.clone(),
                    secret: secret.meta.object_name(),
                    key: key.trim().to_owned(),
                    from: match annotation {
                        FROM_ENV => ValueFrom::Env(source.trim().to_owned()),
                        _ => ValueFrom::File(source.trim().to_owned()),
                    },
                });
            }
        }
    }
    wishes
}
