//! Finds which directory entries decide what a path means: the file itself and every symbolic link on the way to it.
//!
//! Called by `watch` to know what to watch and which events matter. A Kubernetes ConfigMap changes by one rename of the link
//! `..data`, a release directory by one rename of `current`: both are entries on the way, seen here without special cases.
//! It reads links only; file contents are the job of `sources`.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use crate::sources::is_source_name;

/// More links than this on one path is a loop, as for the kernel (`ELOOP`).
const MOST_LINKS: u32 = 40;

/// What has to be watched for a set of sources.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    /// Directories to put under watch, without links in their path.
    pub(crate) watch: BTreeSet<PathBuf>,
    /// Entries of those directories whose change matters.
    entries: HashSet<PathBuf>,
    /// Directories that are sources themselves: any configuration file in them matters, also one that is not there yet.
    directories: HashSet<PathBuf>,
}

impl Interest {
    /// Adds every entry that decides what `file` holds.
    pub(crate) fn add_file(&mut self, file: &Path) {
        self.walk(file);
    }

    /// Adds a directory whose configuration files are sources.
    pub(crate) fn add_directory(&mut self, directory: &Path) {
        if let Some(real) = self.walk(directory) {
            self.watch.insert(real.clone());
            self.directories.insert(real);
        }
    }

    /// Tells whether a change of `path`, as reported by the watcher, can change what the sources hold.
    pub(crate) fn concerns(&self, path: &Path) -> bool {
        self.entries.contains(path)
            || self.watch.contains(path)
            || (is_source_name(path) && path.parent().is_some_and(|parent| self.directories.contains(parent)))
    }

    /// Resolves `path` link by link, noting each entry, and watching for each link and the last entry; `None` when the way ends before the path does.
    fn walk(&mut self, path: &Path) -> Option<PathBuf> {
        let absolute = std::path::absolute(path).ok()?;
        let mut at = PathBuf::new();
        let mut ahead = steps(&absolute);
        let mut links = 0;
        while let Some(step) = ahead.pop() {
            match step {
                Step::Root(root) => at = root,
                Step::Up => {
                    at.pop();
                }
                Step::Into(name) => {
                    let next = at.join(name);
                    let target = std::fs::read_link(&next).ok();
                    // A directory on the way matters as well, but only where its own is watched anyway: those further up are busy with other things.
                    self.entries.insert(next.clone());
                    if target.is_some() || ahead.is_empty() || !next.exists() {
                        self.watch.insert(at.clone());
                    }
                    match target {
                        Some(_) if links == MOST_LINKS => return None,
                        Some(target) => {
                            links += 1;
                            ahead.extend(steps(&target));
                        }
                        None if next.exists() => at = next,
                        None => return None,
                    }
                }
            }
        }
        Some(at)
    }
}

/// One component of a path that is still ahead.
enum Step {
    Root(PathBuf),
    Up,
    Into(OsString),
}

/// The components of a path as a stack: the first is on top.
fn steps(path: &Path) -> Vec<Step> {
    let mut root = PathBuf::new();
    let mut steps = Vec::new();
    for component in path.components() {
        match component {
            Component::Prefix(_) | Component::RootDir => root.push(component),
            Component::CurDir => {}
            Component::ParentDir => steps.push(Step::Up),
            Component::Normal(name) => steps.push(Step::Into(name.to_owned())),
        }
    }
    if !root.as_os_str().is_empty() {
        steps.insert(0, Step::Root(root));
    }
    steps.reverse();
    steps
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A temporary directory, its path without links.
    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let real = directory.path().canonicalize().expect("real path");
        (directory, real)
    }

    #[test]
    fn a_config_map_is_watched_through_its_data_link() {
        let (_keep, root) = scratch();
        std::fs::create_dir(root.join("..2026_1")).expect("create");
        std::fs::write(root.join("..2026_1/shop.yaml"), "").expect("write");
        symlink("..2026_1", root.join("..data")).expect("link");
        symlink("..data/shop.yaml", root.join("shop.yaml")).expect("link");

        let mut interest = Interest::default();
        interest.add_file(&root.join("shop.yaml"));

        assert!(interest.concerns(&root.join("shop.yaml")));
        assert!(interest.concerns(&root.join("..data")));
        assert!(interest.concerns(&root.join("..2026_1/shop.yaml")));
        assert!(!interest.concerns(&root.join("other.yaml")));
        assert!(interest.watch.contains(&root));
        assert!(interest.watch.contains(&root.join("..2026_1")));
    }

    #[test]
    fn a_directory_that_is_a_link_is_watched_on_both_ends() {
        let (_keep, root) = scratch();
        std::fs::create_dir(root.join("release-1")).expect("create");
        symlink(root.join("release-1"), root.join("current")).expect("link");

        let mut interest = Interest::default();
        interest.add_directory(&root.join("current"));

        assert!(interest.concerns(&root.join("current")));
        assert!(interest.concerns(&root.join("release-1/new.yaml")));
        assert!(!interest.concerns(&root.join("release-1/notes.txt")));
        assert!(!interest.concerns(&root.join("release-1/.new.yaml.swp")));
    }

    #[test]
    fn a_directory_on_the_way_matters_where_its_own_is_watched() {
        let (_keep, root) = scratch();
        std::fs::create_dir_all(root.join("releases/1/conf")).expect("create");
        symlink("releases/1", root.join("current")).expect("link");
        let mut interest = Interest::default();
        interest.add_directory(&root.join("current/conf"));
        assert!(interest.concerns(&root.join("releases")));
        assert!(!interest.watch.contains(&root.join("releases")));
    }

    #[test]
    fn a_missing_file_is_awaited_where_its_way_ends() {
        let (_keep, root) = scratch();
        let mut interest = Interest::default();
        interest.add_file(&root.join("later/shop.yaml"));
        assert!(interest.concerns(&root.join("later")));
        assert_eq!(interest.watch, BTreeSet::from([root]));
    }

    #[test]
    fn a_loop_of_links_ends() {
        let (_keep, root) = scratch();
        symlink("b", root.join("a")).expect("link");
        symlink("a", root.join("b")).expect("link");
        let mut interest = Interest::default();
        interest.add_file(&root.join("a"));
        assert!(interest.concerns(&root.join("b")));
    }
}
