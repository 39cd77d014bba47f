//! A file with ApiKeys, changed document by document.
//!
//! Called by `transept key`. Documents that are not changed stay as they are, byte for byte; one that is changed is written anew, without its
//! comments. A change is on the disk, whole, before anybody is told that it is done: the text goes into a new file that takes the
//! place of the old one. Two commands at a time take turns.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use transept_model::SourceText;
use transept_model::load::DEFAULT_NAMESPACE;
use transept_model::value::{Budget, read};

use super::book::Stored;

/// A file that nobody else changes while this lives.
pub(super) struct KeyFile {
    path: PathBuf,
    documents: Vec<String>,
    /// The directory, which is locked.
    directory: File,
}

impl KeyFile {
    /// Reads the file, or begins an empty one.
    pub(super) fn open(path: &Path) -> Result<KeyFile> {
        // A link is changed where it leads to.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = File::open(parent).with_context(|| format!("cannot open {}", parent.display()))?;
        directory.lock().with_context(|| format!("cannot lock {}", parent.display()))?;
        let mut text = String::new();
        match File::open(&path) {
            Ok(mut file) => {
                file.read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(anyhow!(error).context(format!("cannot read {}", path.display()))),
        }
        let source = SourceText::new(path.display().to_string(), text.as_str());
        if let Some(problem) = read(&source, &Budget::default()).1.first() {
            bail!("{problem}");
        }
        Ok(KeyFile { documents: split(&text), path, directory })
    }

    /// Every ApiKey in it.
    pub(super) fn keys(&self) -> Vec<Stored> {
        let object = |document: &String| {
            let (values, _) = read(&SourceText::new("key", document.as_str()), &Budget::default());
            // What this does not take apart is not changed either.
            let [value] = &*values else { return None };
            let mut object = value.to_json();
            (object["kind"] == "ApiKey").then(|| {
                if object["metadata"]["namespace"].is_null() {
                    object["metadata"]["namespace"] = DEFAULT_NAMESPACE.into();
                }
                object
            })
        };
        let all = self.documents.iter().enumerate();
        all.filter_map(|(index, document)| Some(Stored { index, object: object(document)? })).collect()
    }

    /// Adds a key.
    pub(super) fn add(&mut self, object: &Value) -> Result<()> {
        self.documents.push(write(object)?);
        Ok(())
    }

    /// Writes a key anew.
    pub(super) fn replace(&mut self, stored: &Stored) -> Result<()> {
        let text = write(&stored.object)?;
        if let Some(document) = self.documents.get_mut(stored.index) {
            *document = text;
        }
        Ok(())
    }

    /// Brings the changes to the disk.
    pub(super) fn save(self) -> Result<()> {
        let text = self.documents.join("---\n");
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let new = self.path.with_file_name(format!(".{name}.new"));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
            if let Ok(old) = self.path.metadata() {
                file.set_permissions(old.permissions())?;
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            self.directory.sync_all()
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The documents of a text. Each ends with a line end; the lines between them are not among them.
fn split(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line.trim_end() == "---" {
            documents.push(String::new());
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    documents.retain(|document| !document.trim().is_empty());
    documents
}

/// An object as YAML, its fields in the order in which people read them.
pub(super) fn write(object: &Value) -> Result<String> {
    let mut ordered = json!({});
    for field in ["apiVersion", "kind", "metadata", "spec"] {
        ordered[field] = object[field].clone();
    }
    Ok(serde_saphyr::to_string(&ordered)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Value {
        json!({"apiVersion": "transept.dev/v1alpha1", "kind": "ApiKey", "metadata": {"name": name, "namespace": "default"},
            "spec": {"consumer": "mobile", "hash": format!("sha256:{}", "0".repeat(64)), "scopes": ["a"]}})
    }

    #[test]
    fn what_is_not_changed_stays_as_it_is() {
        let directory = std::env::temp_dir().join(format!("transept-key-file-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("keys.yaml");
        let consumer =
            "# ours\n{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: mobile}, spec: {}}\n";
        std::fs::write(&path, format!("{consumer}---\n\n")).expect("a file");
        let mut file = KeyFile::open(&path).expect("a file");
        file.add(&key("one")).expect("YAML");
        file.add(&key("two")).expect("YAML");
        file.save().expect("written");
        let mut file = KeyFile::open(&path).expect("a file");
        let mut one = file.keys().into_iter().next().expect("a key");
        one.object["spec"]["disabled"] = true.into();
        file.replace(&one).expect("YAML");
        file.save().expect("written");
        let text = std::fs::read_to_string(&path).expect("a file");
        assert!(text.starts_with(&format!("{consumer}---\n")), "{text}");
        let loaded = transept_model::load(&[SourceText::new("keys.yaml", &*text)], &[]);
        assert!(loaded.invalid.is_empty(), "{:?}", loaded.invalid);
        let disabled: Vec<bool> = loaded.world.api_keys().iter().map(|key| key.spec.disabled).collect();
        assert_eq!(disabled, [true, false]);
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
