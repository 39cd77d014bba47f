//! Watches the directories that hold the sources and turns the operating system's events into [`Change`]s.
//!
//! Called by `follow`. Directories are watched, never files: a file that is replaced takes its watch away with it. What may
//! be watched at all is the job of `trace`; when a burst is over is the job of `settle`; a change that no event tells of (a
//! network file system, an exhausted inotify budget) is found by the poll in `follow`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use crate::settle::Change;
use crate::trace::Interest;

/// The watches that are set now.
pub(crate) struct Watch {
    watcher: RecommendedWatcher,
    /// With what tells each from another that comes to its name: a watch goes along with a directory that is moved, and nothing tells of it when one
    /// further up was.
    directories: BTreeMap<PathBuf, Option<Identity>>,
}

/// The device and the number of a directory on it.
type Identity = (u64, u64);

impl Watch {
    /// Starts a watcher that hands every event to `sink`; nothing is watched yet.
    ///
    /// # Errors
    /// The operating system offers no watcher now, for example because the user's inotify instances are used up.
    pub(crate) fn start(sink: impl Fn(notify::Event) + Send + 'static) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
            Ok(event) => sink(event),
            Err(error) => tracing::debug!(%error, "the file watcher reports an error"),
        })?;
        Ok(Watch { watcher, directories: BTreeMap::new() })
    }

    /// Watches what `interest` asks for and nothing else. Answers which directories were not watched before: what has happened in them until now
    /// was reported to nobody.
    pub(crate) fn follow(&mut self, interest: &Interest) -> BTreeSet<PathBuf> {
        let watcher = &mut self.watcher;
        self.directories.retain(|directory, identity| {
            let stays = interest.watch.contains(directory) && identify(directory) == *identity;
            if !stays {
                // A directory that was removed took its watch along; there is nothing to do about the error.
                let _ = watcher.unwatch(directory);
            }
            stays
        });
        let mut unseen = BTreeSet::new();
        for wanted in &interest.watch {
            if self.directories.contains_key(wanted) {
                continue;
            }
            // First: one that comes to the name only now is noticed the next time.
            let identity = identify(wanted);
            match self.watcher.watch(wanted, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.directories.insert(wanted.clone(), identity);
                    unseen.insert(wanted.clone());
                }
                Err(error) => {
                    tracing::warn!(directory = %wanted.display(), %error, "cannot watch; changes are found by polling");
                }
            }
        }
        unseen
    }

    /// Forgets directories that were removed, so that a new one of the same name is watched again.
    pub(crate) fn forget(&mut self, event: &notify::Event) {
        let lost = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        if lost {
            for path in &event.paths {
                if self.directories.remove(path).is_some() {
                    let _ = self.watcher.unwatch(path);
                }
            }
        }
    }
}

fn identify(directory: &Path) -> Option<Identity> {
    directory.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

/// What an event means for the files in `interest`; empty when it is none of our business.
pub(crate) fn read_event(event: &notify::Event, interest: &Interest) -> Vec<Change> {
    let change: fn(PathBuf) -> Change = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Change::Complete,
        EventKind::Access(_) => return Vec::new(),
        EventKind::Create(CreateKind::File) => appear,
        EventKind::Modify(ModifyKind::Data(_)) => begin_writing,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Change::Vanished,
        // A rename as a whole (`Both`) names the old path too; `From` and `To` have told of each end already.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return Vec::new(),
        EventKind::Modify(ModifyKind::Metadata(_)) => Change::Touched,
        _ => Change::Complete,
    };
    event.paths.iter().filter(|path| interest.concerns(path)).map(|path| change(path.clone())).collect()
}

/// A file that appears with something in it was linked into place, which nobody closes: whoever writes it instead has been told of by a change of
/// its own, next to this one.
fn appear(path: PathBuf) -> Change {
    let has_content = path.metadata().is_ok_and(|file| file.len() > 0);
    if has_content { Change::Complete(path) } else { begin_writing(path) }
}

/// A file that changes is being written. A link is complete from its first moment, and nobody writes to a directory: its times have changed.
fn begin_writing(path: PathBuf) -> Change {
    if path.is_symlink() || path.is_dir() { Change::Complete(path) } else { Change::Writing(path) }
}

#[cfg(test)]
mod tests {
    use notify::event::DataChange;

    use super::*;

    fn event(kind: EventKind, path: &Path) -> notify::Event {
        notify::Event::new(kind).add_path(path.to_path_buf())
    }

    #[test]
    fn a_directory_that_went_away_with_the_one_above_it_is_watched_anew() {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let root = scratch.path().canonicalize().expect("real path");
        let conf = root.join("app/conf");
        std::fs::create_dir_all(&conf).expect("made");
        std::fs::create_dir_all(root.join("new/conf")).expect("made");
        let (sink, events) = std::sync::mpsc::channel();
        let mut watch = Watch::start(move |event| drop(sink.send(event))).expect("a watcher");
        let mut interest = Interest::default();
        interest.add_file(&conf.join("shop.yaml"));
        assert_eq!(watch.follow(&interest), BTreeSet::from([conf.clone()]));
        assert_eq!(watch.follow(&interest), BTreeSet::new());

        std::fs::rename(root.join("app"), root.join("old")).expect("moved");
        std::fs::rename(root.join("new"), root.join("app")).expect("moved");
        assert_eq!(watch.follow(&interest), BTreeSet::from([conf.clone()]));
        assert_eq!(watch.follow(&interest), BTreeSet::new());
        std::fs::write(conf.join("shop.yaml"), "").expect("written");
        let told = events.recv_timeout(std::time::Duration::from_secs(60)).expect("an event in time");
        assert_eq!(told.paths, [conf.join("shop.yaml")]);
    }

    #[test]
    fn a_write_is_awaited_and_its_end_is_seen() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().canonicalize().expect("real path").join("shop.yaml");
        std::fs::write(&file, "").expect("write");
        let mut interest = Interest::default();
        interest.add_file(&file);

        let written = event(EventKind::Modify(ModifyKind::Data(DataChange::Any)), &file);
        assert_eq!(read_event(&written, &interest), [Change::Writing(file.clone())]);
        let closed = event(EventKind::Access(AccessKind::Close(AccessMode::Write)), &file);
        assert_eq!(read_event(&closed, &interest), [Change::Complete(file.clone())]);
        let opened = event(EventKind::Access(AccessKind::Open(AccessMode::Any)), &file);
        assert_eq!(read_event(&opened, &interest), []);
        let created = event(EventKind::Create(CreateKind::File), &file);
        assert_eq!(read_event(&created, &interest), [Change::Writing(file.clone())]);
        // A hard link.
        std::fs::write(&file, "kind: Service").expect("write");
        assert_eq!(read_event(&created, &interest), [Change::Complete(file.clone())]);
        // The times of a directory, as tar sets them.
        let conf = file.with_file_name("conf");
        std::fs::create_dir(&conf).expect("made");
        interest.add_directory(&conf);
        let touched = event(EventKind::Modify(ModifyKind::Data(DataChange::Any)), &conf);
        assert_eq!(read_event(&touched, &interest), [Change::Complete(conf)]);
        let neighbour =
            event(EventKind::Access(AccessKind::Close(AccessMode::Write)), &file.with_file_name("notes.txt"));
        assert_eq!(read_event(&neighbour, &interest), []);
    }
}
