//! What the user named on the command line, and how it is read: files, directories and texts.
//!
//! Called by `follow` at start and after every change. It reads bytes and nothing more: what they mean is the job of `model`.
//! A directory stands for its own `*.yaml`, `*.yml` and `*.json`, sorted by name; hidden files (editors leave some) do not count.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use transept_model::{Invalid, ObjectName, Place, SourceText};

use crate::trace::Interest;

/// One thing that configuration is read from.
#[derive(Debug, Clone)]
enum Source {
    /// A file or a directory; which of them is asked each time.
    Path(PathBuf),
    /// A text that never changes: standard input, a pipe, or made by the program itself.
    Text(SourceText),
}

/// Everything that configuration is read from, in order: the order decides which object is older.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    sources: Vec<Source>,
}

/// What reading the sources gave.
#[derive(Debug, Default)]
pub struct Reading {
    /// The texts, in order.
    pub texts: Vec<SourceText>,
    /// What could not be read; not empty means that the whole reading is refused.
    pub unreadable: Vec<Invalid>,
    /// The files that were read, and whether there was nothing in them.
    pub(crate) files: BTreeMap<PathBuf, bool>,
    /// Among how many proxies the limits of policies are divided, as far as a control plane in this process knows.
    pub(crate) proxies: BTreeMap<ObjectName, u32>,
    /// A hash of all names and contents: equal digests mean that nothing changed.
    pub(crate) digest: u64,
}

impl Sources {
    /// No source yet.
    #[must_use]
    pub fn new() -> Self {
        Sources::default()
    }

    /// Adds a file or a directory. What is neither (a pipe, as in `run <(generate)`) can be read only once, so it is read here.
    ///
    /// # Errors
    /// A pipe breaks or holds no UTF-8. Files and directories that cannot be read are reported by [`Sources::read`].
    pub fn add_path(&mut self, path: impl Into<PathBuf>) -> Result<(), Box<Invalid>> {
        let path = path.into();
        let once = path.metadata().is_ok_and(|meta| !meta.is_file() && !meta.is_dir());
        if once {
            let bytes = std::fs::read(&path).map_err(|error| Box::new(unreadable(&path, &error)))?;
            let text = SourceText::from_bytes(path.to_string_lossy(), bytes)?;
            self.sources.push(Source::Text(text));
        } else {
            self.sources.push(Source::Path(path));
        }
        Ok(())
    }

    /// Adds a text under a name that messages show.
    pub fn add_text(&mut self, text: SourceText) {
        self.sources.push(Source::Text(text));
    }

    /// Reads everything. Blocks on the file system.
    #[must_use]
    pub fn read(&self) -> Reading {
        let mut texts = Vec::new();
        let mut unreadable_files = Vec::new();
        let mut files_read = BTreeMap::new();
        let mut seen = HashSet::new();
        for source in &self.sources {
            match source {
                Source::Text(text) => texts.push(text.clone()),
                Source::Path(path) => match expand(path) {
                    Ok(files) => {
                        for file in files {
                            // A file inside a directory that is named as well is one file.
                            if !seen.insert(std::path::absolute(&file).unwrap_or(file.clone())) {
                                continue;
                            }
                            match read_file(&file) {
                                Ok(text) => {
                                    files_read.insert(file, text.text.is_empty());
                                    texts.push(text);
                                }
                                Err(invalid) => unreadable_files.push(*invalid),
                            }
                        }
                    }
                    Err(invalid) => unreadable_files.push(*invalid),
                },
            }
        }
        let digest = digest(&texts, &unreadable_files);
        Reading { texts, unreadable: unreadable_files, files: files_read, proxies: BTreeMap::new(), digest }
    }

    /// The files that there are now.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let path = |source: &Source| match source {
            Source::Path(path) => expand(path).unwrap_or_default(),
            Source::Text(_) => Vec::new(),
        };
        self.sources.iter().flat_map(path)
    }

    /// Adds what has to be watched to notice a change.
    pub(crate) fn trace(&self, interest: &mut Interest) {
        for source in &self.sources {
            let Source::Path(path) = source else { continue };
            if path.is_dir() {
                interest.add_directory(path);
                for file in expand(path).unwrap_or_default() {
                    interest.add_file(&file);
                }
            } else {
                interest.add_file(path);
            }
        }
    }

    /// Tells whether nothing can change: there is no file among the sources.
    pub(crate) fn are_fixed(&self) -> bool {
        self.sources.iter().all(|source| matches!(source, Source::Text(_)))
    }
}

/// Tells whether a file of this name inside a directory is configuration.
pub(crate) fn is_source_name(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// The files that a path stands for.
fn expand(path: &Path) -> Result<Vec<PathBuf>, Box<Invalid>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let file = entry?.path();
            if is_source_name(&file) && !file.is_dir() {
                files.push(file);
            }
        }
        files.sort();
        Ok(files)
    };
    let files = list().map_err(|error| Box::new(unreadable(path, &error)))?;
    if files.is_empty() {
        let mut invalid = Invalid::new(place(path), "the directory holds no *.yaml, *.yml or *.json file");
        invalid.remedy("directories inside it are not searched: name them too");
        return Err(Box::new(invalid));
    }
    Ok(files)
}

fn read_file(file: &Path) -> Result<SourceText, Box<Invalid>> {
    let bytes = std::fs::read(file).map_err(|error| Box::new(unreadable(file, &error)))?;
    SourceText::from_bytes(file.to_string_lossy(), bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> Invalid {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "no permission to read it".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    Invalid::new(place(path), why)
}

/// A file as a whole.
fn place(path: &Path) -> Place {
    Place { file: path.to_string_lossy().into(), line: 0, column: 0 }
}

fn digest(texts: &[SourceText], unreadable: &[Invalid]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for text in texts {
        text.name.hash(&mut hasher);
        text.text.hash(&mut hasher);
    }
    for invalid in unreadable {
        invalid.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(reading: &Reading, root: &Path) -> Vec<String> {
        reading
            .texts
            .iter()
            .map(|text| {
                Path::new(&*text.name)
                    .strip_prefix(root)
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_else(|_| text.name.to_string())
            })
            .collect()
    }

    #[test]
    fn a_directory_stands_for_its_visible_files_in_order() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let root = directory.path();
        for name in ["b.yaml", "a.yml", "c.json", ".hidden.yaml", "notes.txt"] {
            std::fs::write(root.join(name), name).expect("write");
        }
        std::fs::create_dir(root.join("deeper.yaml")).expect("create");
        let mut sources = Sources::new();
        sources.add_path(root).expect("a directory");
        sources.add_path(root.join("a.yml")).expect("a file");
        let reading = sources.read();
        assert_eq!(names(&reading, root), ["a.yml", "b.yaml", "c.json"]);
        assert!(reading.unreadable.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_reported_all_at_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut sources = Sources::new();
        sources.add_path(directory.path().join("no.yaml")).expect("named");
        sources.add_path(directory.path()).expect("named");
        let reading = sources.read();
        let why: Vec<&str> = reading.unreadable.iter().map(|invalid| invalid.why.as_str()).collect();
        assert_eq!(why, ["there is no such file", "the directory holds no *.yaml, *.yml or *.json file"]);
    }

    #[test]
    fn the_digest_follows_names_and_contents() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("a.yaml");
        std::fs::write(&file, "a: 1").expect("write");
        let mut sources = Sources::new();
        sources.add_path(directory.path()).expect("named");
        let first = sources.read().digest;
        assert_eq!(sources.read().digest, first);
        std::fs::write(&file, "a: 2").expect("write");
        let second = sources.read().digest;
        assert_ne!(second, first);
        std::fs::rename(&file, directory.path().join("b.yaml")).expect("rename");
        assert_ne!(sources.read().digest, second);
    }
}
