//! Values of Secrets that stand outside the configuration: environment variables and files.
//!
//! Asked by the loader of `model` while it reads a Secret with the annotation `transept.dev/from-env` or `transept.dev/from-file`.
//! It remembers the files that were asked for with what they held, so that they are watched too, a renewed certificate is loaded at once, and
//! what is in force can be loaded again without a look at files.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use transept_model::load::{Outside, ValueFrom, Wanted};

/// Larger files are no secrets.
const LARGEST: u64 = 1024 * 1024;

/// What a file held, or why it could not be read.
type Read = Result<Vec<u8>, String>;

/// Reads values from outside: a file once, when it is asked for first.
#[derive(Clone, Default)]
pub(crate) struct Shelf {
    /// Every file that was asked for.
    files: RefCell<BTreeMap<PathBuf, Arc<Read>>>,
}

impl Shelf {
    /// The files that were asked for.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().keys().cloned().collect()
    }

    /// Tells whether a file now holds something else than when it was asked for.
    pub(crate) fn has_changed(&self) -> bool {
        self.files.borrow().iter().any(|(path, before)| read_file(path) != **before)
    }
}

/// Without what the files hold.
impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shelf").field(&self.files()).finish()
    }
}

impl Outside for Shelf {
    fn read(&self, wanted: &Wanted) -> Result<Vec<u8>, String> {
        match &wanted.from {
            ValueFrom::Env(name) => match std::env::var_os(name) {
                Some(value) => Ok(value.into_encoded_bytes()),
                None => Err("it is not set".to_owned()),
            },
            ValueFrom::File(file) => {
                let beside = Path::new(&*wanted.at.file).parent();
                let path = beside.unwrap_or(Path::new("")).join(file);
                let mut files = self.files.borrow_mut();
                let read = files.entry(path).or_insert_with_key(|path| Arc::new(read_file(path)));
                Read::clone(read)
            }
        }
    }
}

fn read_file(path: &Path) -> Read {
    let explain = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "no permission to read it".to_owned(),
        _ => error.to_string(),
    };
    let meta = std::fs::metadata(path).map_err(explain)?;
    if !meta.is_file() {
        return Err("it is not a file".to_owned());
    }
    if meta.len() > LARGEST {
        return Err("it is larger than 1 MiB".to_owned());
    }
    std::fs::read(path).map_err(explain)
}

#[cfg(test)]
mod tests {
    use transept_model::{ObjectName, Place};

    use super::*;

    fn wanted(file: &Path, from: ValueFrom) -> Wanted {
        Wanted {
            at: Place { file: file.to_string_lossy().into(), line: 1, column: 1 },
            secret: ObjectName { kind: "Secret".into(), namespace: "default".into(), name: "shop".into() },
            key: "tls.key".to_owned(),
            from,
        }
    }

    #[test]
    fn files_are_found_beside_the_secret_and_remembered() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let secret = directory.path().join("shop.yaml");
        let key = directory.path().join("shop.key");
        let shelf = Shelf::default();
        let want = wanted(&secret, ValueFrom::File("shop.key".to_owned()));
        assert_eq!(shelf.read(&want), Err("there is no such file".to_owned()));
        assert_eq!(shelf.files().as_slice(), std::slice::from_ref(&key));
        assert!(!shelf.has_changed());
        std::fs::write(&key, "one").expect("written");
        assert!(shelf.has_changed());
        assert!(shelf.read(&want).is_err(), "what was read is what there is until another load");
        let shelf = Shelf::default();
        assert_eq!(shelf.read(&want), Ok(b"one".to_vec()));
        assert!(!shelf.has_changed());
        assert!(!format!("{shelf:?}").contains("one"));
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let want = wanted(Path::new("shop.yaml"), ValueFrom::Env("TRANSEPT_TEST_NOT_SET".to_owned()));
        assert!(Shelf::default().read(&want).is_err_and(|why| why.contains("not set")));
    }
}
