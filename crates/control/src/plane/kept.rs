//! The ApiKeys and Consumers that a control plane keeps, for somebody who only wants to read them beside files.
//!
//! Called by `transept explain`. The control plane that runs with the state is asked, since its file is its own; where none runs, the file
//! is read. Nothing is made: a mistake in the directory is told, and is no new mesh.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use transept_model::SourceText;
use transept_xds::Key;

use super::admin::{Question, STARTING, ask};
use super::core::STATE;
use super::source::{Kinds, objects};
use super::store::{Store, StoreError};
use crate::outside::Shelf;

/// Why what is kept cannot be read. Displays as a sentence.
#[derive(Debug)]
pub enum KeptError {
    /// There is no state in the directory.
    Missing(PathBuf),
    /// The control plane that runs with it does not say.
    Silent(PathBuf, io::Error),
    /// Its file.
    Store(StoreError),
}

impl fmt::Display for KeptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(directory) => write!(
                f,
                "there is no control plane's state in {}; name the directory that `transept run --mesh` or `transept control` has as --state",
                directory.display()
            ),
            Self::Silent(directory, why) => write!(
                f,
                "the control plane with the state in {} does not say which keys it keeps ({why}); ask as the user that it runs as",
                directory.display()
            ),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for KeptError {}

/// The ApiKeys and Consumers in the state of `directory`.
///
/// # Errors
/// There is none, or it cannot be read.
pub async fn kept(directory: &Path) -> Result<Vec<Value>, KeptError> {
    let began = Instant::now();
    loop {
        match ask(directory, &Question::ListKeys).await {
            Ok(Value::Array(objects)) => return Ok(objects),
            Ok(_) => return Ok(Vec::new()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                let file = directory.join(STATE);
                if !file.exists() {
                    return Err(KeptError::Missing(directory.to_owned()));
                }
                match Store::open(&file).and_then(|store| store.load()) {
                    // It waits for a while itself.
                    Err(StoreError::Locked(_)) if began.elapsed() < STARTING => {}
                    state => return Ok(state.map_err(KeptError::Store)?.objects.into_values().collect()),
                }
            }
            Err(error) => return Err(KeptError::Silent(directory.to_owned(), error)),
        }
    }
}

/// What of it counts beside these files, as texts: what a file says comes before what is kept under the same name.
pub fn kept_beside(kept: &[Value], files: &[SourceText]) -> Vec<SourceText> {
    let kinds = Kinds::default();
    let said: Vec<Key> = objects(files, &Shelf::default()).iter().filter_map(|object| kinds.key(object)).collect();
    let texts = kept.iter().filter_map(|object| {
        let key = kinds.key(object).filter(|key| !said.contains(key))?;
        Some(text_of(&key, object))
    });
    texts.collect()
}

/// An object that is in no file, as a text that says in its name what it is.
pub(super) fn text_of(key: &Key, object: &Value) -> SourceText {
    SourceText::new(format!("registration of {key}"), object.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::store::Write;
    use super::*;

    fn key(name: &str, consumer: &str) -> Value {
        json!({"apiVersion": "transept.dev/v1alpha1", "kind": "ApiKey", "metadata": {"name": name, "namespace": "default"},
            "spec": {"consumer": consumer, "hash": format!("sha256:{}", "0".repeat(64))}})
    }

    #[tokio::test]
    async fn what_is_kept_is_read_where_nobody_runs_and_nothing_is_made() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = kept(directory.path()).await.expect_err("there is none");
        assert!(missing.to_string().contains("--state"), "{missing}");
        assert_eq!(directory.path().read_dir().expect("a directory").count(), 0);
        let store = Store::open(&directory.path().join(STATE)).expect("a store");
        store.commit(&[Write::Object("one", &key("one", "mobile"))]).expect("stored");
        drop(store);
        assert_eq!(kept(directory.path()).await.expect("read"), [key("one", "mobile")]);
    }

    #[test]
    fn what_files_say_comes_first() {
        let file = SourceText::new("keys.yaml", key("one", "web").to_string());
        let beside = kept_beside(&[key("one", "mobile"), key("two", "mobile")], &[file]);
        let names: Vec<&str> = beside.iter().map(|text| &*text.name).collect();
        assert_eq!(names, ["registration of transept.dev/v1alpha1/ApiKey default/two"]);
    }
}
