//! The repository's text files, read once.
//!
//! Called by `tidy::check`; rules look at a `Tree` and never at the disk, so that tests hand them bad trees from memory.
//! Decides what belongs to the tree (build output, fuzz corpora and version control do not), not what is right.

use std::path::Path;

use anyhow::Context as _;

use super::rust::Source;

/// Directories that are never looked into.
const SKIPPED_DIRECTORIES: &[&str] = &[".git", "target", "corpus", "artifacts", "node_modules", "__pycache__"];

/// One text file.
#[derive(Debug)]
pub(crate) struct File {
    /// Relative to the root, with forward slashes.
    pub(crate) path: String,
    /// The whole text.
    pub(crate) text: String,
    /// The text as Rust, when the name ends in `.rs`.
    pub(crate) rust: Option<Source>,
}

impl File {
    fn new(path: String, text: String) -> Self {
        let rust = path.ends_with(".rs").then(|| Source::new(&path, &text));
        Self { path, text, rust }
    }

    /// The last component of the path.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// The crate's directory the file belongs to: `crates/engine`, `xtask`, or empty for files at the root.
    pub(crate) fn home(&self) -> &str {
        let mut slashes = self.path.match_indices('/').map(|(at, _)| at);
        let first = slashes.next();
        let end = if self.path.starts_with("crates/") { slashes.next() } else { first };
        end.map_or("", |end| &self.path[..end])
    }
}

/// All files of the repository.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Sorted by path.
    pub(crate) files: Vec<File>,
    /// Every path that exists, directories and binary files too, for links.
    pub(crate) paths: Vec<String>,
}

impl Tree {
    /// Reads the tree under `root`.
    ///
    /// # Errors
    /// When a file or directory cannot be read.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut tree = Self::default();
        tree.walk(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    /// A tree from memory.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.paths.push((*path).to_owned());
            tree.files.push(File::new((*path).to_owned(), (*text).to_owned()));
        }
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        tree
    }

    /// The file at `path`.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The Rust files with their source.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&File, &Source)> {
        self.files.iter().filter_map(|file| file.rust.as_ref().map(|source| (file, source)))
    }

    fn walk(&mut self, directory: &Path, prefix: &str) -> anyhow::Result<()> {
        let entries = std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
            let kind = entry.file_type().with_context(|| format!("cannot look at {path}"))?;
            if kind.is_dir() {
                if !SKIPPED_DIRECTORIES.contains(&name.as_str()) {
                    self.paths.push(path.clone());
                    self.walk(&entry.path(), &path)?;
                }
                continue;
            }
            self.paths.push(path.clone());
            // A file may vanish between the listing and the read: an editor's temporary file, another build.
            let Ok(bytes) = std::fs::read(entry.path()) else {
                continue;
            };
            if let Ok(text) = String::from_utf8(bytes)
                && !text.contains('\0')
            {
                self.files.push(File::new(path, text));
            }
        }
        Ok(())
    }
}
