//! Follows the sources: loads them again after every change and publishes what came of it.
//!
//! Started by the application after the first load. One thread of its own waits for file events, for [`Trigger::reload`] and,
//! every [`POLL`], for nothing at all, because an event can get lost; it reads, loads and publishes, so no data thread ever
//! waits for a parser. The feed always holds the last good configuration: a refused one is published beside it, never in its
//! place. What to do with an update (apply it, tell of it) is up to the receiver.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::joined::{Joined, Registrations};
use crate::load::{Loaded, Loader, Outcome, Refused};
use crate::plane::Plane;
use crate::settle::{Change, LONGEST, PAIR, PATIENCE, QUIET, STALLED, Settle};
use crate::sources::{Reading, Sources};
use crate::trace::Interest;
use crate::watch::{Watch, read_event};

/// How often the sources are looked at although nothing was reported.
const POLL: Duration = Duration::from_secs(30);
/// The same, when the operating system cannot report.
const POLL_UNWATCHED: Duration = Duration::from_secs(2);
/// How long an event is awaited that tells that somebody has begun to write, where a file looks like that: on a machine that is busy it may be late.
const BEGUN: Duration = Duration::from_millis(250);

/// The state of the configuration after an attempt to load it.
#[derive(Debug, Clone)]
pub struct Update {
    /// The configuration in force: the last one that was good.
    pub loaded: Arc<Loaded>,
    /// Why the latest attempt was refused; `None` when it succeeded.
    pub refused: Option<Arc<Refused>>,
    /// When the latest attempt ended.
    pub at: SystemTime,
    /// When the configuration in force was loaded.
    pub loaded_at: SystemTime,
    /// How long the latest attempt took, from reading to compiling.
    pub took: Duration,
    /// Attempts that succeeded since the start, the first included.
    pub succeeded: u64,
    /// Attempts that were refused since the start.
    pub failed: u64,
}

/// A first load that was refused: there is nothing to run with.
#[derive(Debug)]
pub enum StartError {
    /// The sources are wrong.
    Refused(Arc<Refused>),
    /// The thread cannot be started.
    Thread(io::Error),
}

/// Asks the follower to load again, whether anything changed or not. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trigger(mpsc::Sender<Nudge>);

impl Trigger {
    /// Loads again soon; the feed tells what came of it.
    pub fn reload(&self) {
        // The follower has ended: the process is about to end too.
        let _ = self.0.send(Nudge::Reload);
    }

    /// Says that there are other registrations than before.
    pub(crate) fn registrations_changed(&self) {
        let _ = self.0.send(Nudge::Registrations);
    }
}

/// Why the follower wakes up.
#[derive(Debug)]
enum Nudge {
    Event(notify::Event),
    Reload,
    Registrations,
}

/// Loads the sources and follows them from then on. Dropping every receiver of the feed ends the follower.
///
/// # Errors
/// The first load is refused, or no thread can be started.
pub fn follow(sources: Sources, loader: Loader) -> Result<(Trigger, watch::Receiver<Arc<Update>>), StartError> {
    begin(sources, loader, None)
}

/// The same for a gateway in the process of a control plane: what registers there is loaded beside the files, and the plane is
/// given the files that are in force.
///
/// # Errors
/// As for [`follow`].
pub fn follow_joined(
    sources: Sources,
    loader: Loader,
    plane: Arc<Plane>,
) -> Result<(Trigger, watch::Receiver<Arc<Update>>), StartError> {
    begin(sources, loader, Some(Joined::new(plane, Registrations::All)))
}

/// The same for a control plane on its own: it is given the files that are in force, and of what registers only the Services are loaded,
/// for the status of what the files say about them.
///
/// # Errors
/// As for [`follow`].
pub fn follow_apart(
    sources: Sources,
    loader: Loader,
    plane: Arc<Plane>,
) -> Result<(Trigger, watch::Receiver<Arc<Update>>), StartError> {
    begin(sources, loader, Some(Joined::new(plane, Registrations::Services)))
}

fn begin(
    sources: Sources,
    mut loader: Loader,
    mut joined: Option<Joined>,
) -> Result<(Trigger, watch::Receiver<Arc<Update>>), StartError> {
    let started = Instant::now();
    let reading = sources.read();
    let (digest, in_force) = (reading.digest, reading.files.clone());
    let loaded = match load(&mut loader, &mut joined, reading) {
        Outcome::Loaded(loaded) => loaded,
        Outcome::Refused(refused) => return Err(StartError::Refused(refused)),
    };
    let now = SystemTime::now();
    let update =
        Update { loaded, refused: None, at: now, loaded_at: now, took: started.elapsed(), succeeded: 1, failed: 0 };
    let (feed, receiver) = watch::channel(Arc::new(update));
    let (nudge, nudges) = mpsc::channel();
    if let Some(joined) = &joined {
        joined.plane().tell(Trigger(nudge.clone()));
    }
    let follower = Follower {
        sources,
        loader,
        joined,
        digest,
        in_force,
        feed,
        interest: Interest::default(),
        beside: Interest::default(),
        watch: None,
        settle: Settle::default(),
        asked: Asked::Nothing,
        in_vain: None,
    };
    let sink = nudge.clone();
    std::thread::Builder::new()
        .name("config".to_owned())
        .spawn(move || follower.run(&nudges, sink))
        .map_err(StartError::Thread)?;
    Ok((Trigger(nudge), receiver))
}

struct Follower {
    sources: Sources,
    loader: Loader,
    joined: Option<Joined>,
    digest: u64,
    /// The files that are in force, and whether there is nothing in them.
    in_force: BTreeMap<PathBuf, bool>,
    feed: watch::Sender<Arc<Update>>,
    interest: Interest,
    /// The part of it that Secrets name.
    beside: Interest,
    watch: Option<Watch>,
    settle: Settle,
    asked: Asked,
    /// Since when what was read has been thrown away, because it may have been half.
    in_vain: Option<Instant>,
}

/// What is to be done as soon as every file that somebody writes to is closed, though no file has changed by what is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    #[default]
    Nothing,
    /// To look at the files.
    Look,
    /// To load them, also when they are the same as before.
    Load,
}

impl Follower {
    fn run(mut self, nudges: &mpsc::Receiver<Nudge>, sink: mpsc::Sender<Nudge>) {
        if !self.sources.are_fixed() {
            self.watch = Watch::start(move |event| {
                let _ = sink.send(Nudge::Event(event));
            })
            .inspect_err(|error| {
                tracing::warn!(%error, "files cannot be watched; changes are found by polling");
            })
            .ok();
            self.watch_sources();
        }
        let mut looked = Instant::now();
        while !self.feed.is_closed() {
            let poll = match self.watch {
                Some(_) => POLL,
                None => POLL_UNWATCHED,
            };
            let now = Instant::now();
            let idle = if self.asked == Asked::Nothing { looked + poll } else { now };
            let due = self.settle.due().unwrap_or(idle);
            self.tell_whom_it_awaits(now);
            if due <= now {
                // First: registrations that come all the time must not keep files from being looked at.
                looked = now;
                if self.is_ready() {
                    self.look(nudges);
                }
                continue;
            }
            let wake = self.settle.tell_at().map_or(due, |at| at.min(due));
            match nudges.recv_timeout(wake - now) {
                Ok(nudge) => self.take(nudge),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, nudge: Nudge) {
        match nudge {
            Nudge::Event(event) => self.note(&event),
            Nudge::Reload => self.asked = Asked::Load,
            Nudge::Registrations => self.load_registrations(),
        }
    }

    /// Says why nothing is read for long.
    fn tell_whom_it_awaits(&mut self, now: Instant) {
        if let Some(file) = self.settle.tell(now) {
            tracing::info!(
                file = %file.display(),
                "somebody writes to a file: changes are read when it is closed, or when nothing was written for {STALLED:?}"
            );
        }
    }

    /// Takes a file event into account.
    fn note(&mut self, event: &notify::Event) {
        if event.need_rescan() {
            self.asked = self.asked.max(Asked::Look);
            return;
        }
        let changes = read_event(event, &self.interest);
        if changes.is_empty() {
            return;
        }
        if let Some(watch) = &mut self.watch {
            watch.forget(event);
        }
        // What is in a directory is watched as early as can be: somebody may be filling it.
        let is_way = |path: &Path| self.interest.watch.contains(path) || path.is_dir();
        let leads_on = changes.iter().any(|change| is_way(change.path()));
        let now = Instant::now();
        for change in changes {
            self.settle_on(change, now);
        }
        if leads_on {
            self.watch_sources();
        }
    }

    fn settle_on(&mut self, change: Change, now: Instant) {
        // What came back by another name for it, as behind a link, is told of by that.
        self.settle.find(Path::exists);
        let quiet = if self.beside.concerns(change.path()) { PAIR } else { QUIET };
        self.settle.note(change, quiet, now);
    }

    /// Whether the files can be read now that it is time by what has been reported. Not when there is something that was not known: a directory that
    /// was not watched, in which anything may be going on, or that a file is missing which is in force. Each is one more change of the burst.
    fn is_ready(&mut self) -> bool {
        self.watch_sources();
        let now = Instant::now();
        for file in self.in_force.keys().filter(|file| !file.exists()) {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            if !self.settle.misses(&file) {
                self.settle.note(Change::Vanished(file), QUIET, now);
            }
        }
        self.settle.due().is_none_or(|due| due <= now)
    }

    /// Reads the files, and loads them when they have changed or somebody has asked for it.
    fn look(&mut self, nudges: &mpsc::Receiver<Nudge>) {
        if let Some(file) = self.settle.open() {
            tracing::warn!(file = %file.display(), "a file was not closed by who has written to it; it is read as it is, whole or not");
        }
        let asked = std::mem::take(&mut self.asked);
        self.settle.clear();
        let reading = self.sources.read();
        if asked < Asked::Load && reading.digest == self.digest && !self.loader.surroundings_changed() {
            self.in_vain = None;
        } else if self.may_be_half(&reading, nudges) {
            self.asked = self.asked.max(asked);
        } else {
            self.load(reading);
        }
    }

    /// Whether somebody has begun to write to a file while it was read, so that what was read is not to be used: events of that are on their way for
    /// a moment. A file that has nothing in it any more is what a writer leaves that has just begun, so they are awaited for longer.
    fn may_be_half(&mut self, reading: &Reading, nudges: &mpsc::Receiver<Nudge>) -> bool {
        if self.watch.is_none() {
            return false;
        }
        let now = Instant::now();
        let looks_begun = reading.files.iter().any(|(file, is_empty)| *is_empty && !self.was_empty(file));
        let until = now + if looks_begun { BEGUN } else { QUIET };
        // What has been reported is looked at however late it is by then.
        while Instant::now() < until + PATIENCE
            && let Ok(nudge) = nudges.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            self.take(nudge);
        }
        if !self.settle.was_half() {
            self.in_vain = None;
            return false;
        }
        // Who never stops is not awaited for ever.
        let is_patient = now - *self.in_vain.get_or_insert(now) < LONGEST;
        self.in_vain = self.in_vain.filter(|_| is_patient);
        is_patient
    }

    fn load(&mut self, reading: Reading) {
        let started = Instant::now();
        self.digest = reading.digest;
        let files = reading.files.clone();
        let outcome = load(&mut self.loader, &mut self.joined, reading);
        if matches!(outcome, Outcome::Loaded(_)) {
            self.in_force = files;
        }
        self.watch_sources();
        let now = SystemTime::now();
        let mut update = Update::clone(&self.feed.borrow());
        update.at = now;
        update.took = started.elapsed();
        match outcome {
            Outcome::Loaded(loaded) => {
                update.loaded = loaded;
                update.loaded_at = now;
                update.refused = None;
                update.succeeded += 1;
            }
            Outcome::Refused(refused) => {
                update.refused = Some(refused);
                update.failed += 1;
            }
        }
        if let Some(joined) = &self.joined {
            joined.plane().note_reload(update.refused.clone().map(|refused| (refused, now)));
        }
        self.feed.send_replace(Arc::new(update));
    }

    /// Loads the files that are in force again as they were read, with the registrations of now; no file is read, so nothing is waited for. What the
    /// latest attempt to load files came to stays as it is: a mistake in a file holds up no registration, and no registration hides a mistake.
    fn load_registrations(&mut self) {
        let started = Instant::now();
        let Some(joined) = &mut self.joined else { return };
        let Some(reading) = joined.news() else { return };
        let mut update = Update::clone(&self.feed.borrow());
        match self.loader.load_again(reading) {
            Outcome::Loaded(loaded) => {
                joined.plane().note_loaded(loaded.clone());
                update.loaded = loaded;
                update.loaded_at = SystemTime::now();
                update.took = started.elapsed();
                update.succeeded += 1;
                self.feed.send_replace(Arc::new(update));
            }
            Outcome::Refused(refused) => {
                for invalid in &refused.invalid {
                    tracing::error!(at = %invalid.at, why = %invalid.why, "registrations do not fit the files; what was there before stays in force");
                }
            }
        }
    }

    /// Watches what the sources are made of now. A directory that was not watched before is a change of its own, and what is in it is taken as if it had
    /// just appeared: a file with nothing in it is one that somebody has begun to write.
    fn watch_sources(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let (mut interest, mut beside) = (Interest::default(), Interest::default());
        self.sources.trace(&mut interest);
        for file in self.loader.outside_files() {
            interest.add_file(&file);
            beside.add_file(&file);
        }
        let unseen = watch.follow(&interest);
        self.interest = interest;
        self.beside = beside;
        if unseen.is_empty() {
            return;
        }
        let now = Instant::now();
        let is_empty = |file: &PathBuf| file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == 0);
        let is_unseen = |file: &PathBuf| file.parent().is_some_and(|parent| unseen.contains(parent));
        let emptied = self.sources.files().filter(|file| is_empty(file) && !self.was_empty(file));
        let begun: Vec<PathBuf> = emptied.filter_map(|file| file.canonicalize().ok()).filter(is_unseen).collect();
        for change in unseen.into_iter().map(Change::Unseen).chain(begun.into_iter().map(Change::Writing)) {
            self.settle_on(change, now);
        }
    }

    /// Whether a file that is in force has nothing in it.
    fn was_empty(&self, file: &Path) -> bool {
        self.in_force.get(file) == Some(&true)
    }
}

/// Loads what was read, maybe with the registrations of a plane in the same process, which then hears of it.
fn load(loader: &mut Loader, joined: &mut Option<Joined>, mut reading: Reading) -> Outcome {
    let Some(joined) = joined else { return loader.load(reading) };
    let draft = joined.draft(&mut reading);
    let outcome = loader.load(reading);
    if let Outcome::Loaded(loaded) = &outcome {
        joined.hold(draft, loaded.clone());
    }
    outcome
}

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, AccessMode, DataChange, EventKind, ModifyKind};

    use super::*;
    use crate::plane::{KeyChange, Question, Setup};
    use crate::settle::VANISHED;

    const GATEWAY: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: edge}, spec: {gatewayClassName: transept, listeners: [{name: a, port: 8000, protocol: HTTP}]}}";

    fn follower(file: &Path) -> Follower {
        let mut sources = Sources::new();
        sources.add_path(file).expect("a path");
        let mut loader = Loader::for_checking();
        let reading = sources.read();
        let (digest, in_force) = (reading.digest, reading.files.clone());
        let Outcome::Loaded(loaded) = loader.load(reading) else { panic!("it is good") };
        let now = SystemTime::now();
        let update =
            Update { loaded, refused: None, at: now, loaded_at: now, took: Duration::ZERO, succeeded: 1, failed: 0 };
        let mut interest = Interest::default();
        interest.add_file(file);
        Follower {
            sources,
            loader,
            joined: None,
            digest,
            in_force,
            feed: watch::channel(Arc::new(update)).0,
            interest,
            beside: Interest::default(),
            watch: Some(Watch::start(|_| ()).expect("a watcher")),
            settle: Settle::default(),
            asked: Asked::Nothing,
            in_vain: None,
        }
    }

    /// Every event of these files, as if it had just been reported.
    fn closes(files: &[&Path]) -> Vec<Nudge> {
        let kind = EventKind::Access(AccessKind::Close(AccessMode::Write));
        files.iter().map(|file| Nudge::Event(notify::Event::new(kind).add_path(file.to_path_buf()))).collect()
    }

    #[test]
    fn a_registration_waits_for_no_file_and_reads_none() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let root = directory.path().canonicalize().expect("a real path");
        let (file, token) = (root.join("shop.yaml"), root.join("token.txt"));
        let secret = "{apiVersion: v1, kind: Secret, metadata: {name: key, annotations: {transept.dev/from-file: token=token.txt}}}";
        std::fs::write(&file, format!("{GATEWAY}\n---\n{secret}")).expect("written");
        std::fs::write(&token, "one").expect("written");
        let mut follower = follower(&file);
        let trust_domain = transept_identity::TrustDomain::new("shop.test").expect("a name");
        let setup = Setup { trust_domain, leaf_life: Duration::from_secs(3600) };
        let plane = Plane::open(&root.join("state"), setup).expect("a plane");
        let mut joined = Some(Joined::new(plane.clone(), Registrations::All));
        assert!(matches!(load(&mut follower.loader, &mut joined, follower.sources.read()), Outcome::Loaded(_)));
        follower.joined = joined;
        let register = |name: &str| {
            let object = serde_json::json!({"apiVersion": "transept.dev/v1alpha1", "kind": "Consumer", "metadata": {"name": name, "namespace": "default"},
                "spec": {}});
            plane.answer(&Question::PutKeys { changes: vec![KeyChange { before: None, object }] }).expect("kept");
        };

        // Somebody writes to both files.
        std::fs::write(&token, "").expect("written");
        follower.settle.note(Change::Writing(file.clone()), QUIET, Instant::now());
        register("one");
        follower.take(Nudge::Registrations);
        let loaded = follower.feed.borrow().loaded.clone();
        assert_eq!(follower.feed.borrow().succeeded, 2);
        let secret = loaded.past.secret("default", "key").expect("the Secret");
        assert_eq!(secret.spec.entry("token"), Some(&b"one"[..]));
        assert!(follower.loader.surroundings_changed(), "what a file holds is still to be read");

        // The end is a mistake.
        std::fs::write(&file, "kind: Gatewey").expect("written");
        let (_sink, nudges) = mpsc::channel();
        follower.look(&nudges);
        assert!(follower.feed.borrow().refused.is_some());
        register("two");
        follower.take(Nudge::Registrations);
        let update = follower.feed.borrow().clone();
        assert_eq!((update.succeeded, update.refused.is_some()), (3, true));
    }

    #[test]
    fn a_directory_that_is_made_anew_is_read_when_what_was_in_it_is_back() {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let root = scratch.path().canonicalize().expect("a real path");
        let conf = root.join("conf");
        let [edge, shop, more] = ["edge.yaml", "shop.yaml", "more.yaml"].map(|name| conf.join(name));
        std::fs::create_dir(&conf).expect("made");
        std::fs::write(&edge, GATEWAY).expect("written");
        std::fs::write(&shop, "# nothing yet").expect("written");
        let mut follower = follower(&conf);
        follower.watch_sources();
        follower.settle.clear();
        assert!(follower.is_ready());

        // What a watcher would tell of is not told of: one file is back, another has been opened.
        std::fs::rename(&conf, root.join("old")).expect("moved");
        std::fs::create_dir(&conf).expect("made");
        std::fs::write(&edge, GATEWAY.replace("8000", "8001")).expect("written");
        std::fs::write(&more, "").expect("written");
        assert!(!follower.is_ready());
        assert!(follower.settle.misses(&shop) && !follower.settle.misses(&edge));
        assert_eq!(follower.settle.open(), Some(&*more));

        std::fs::write(&shop, "# nothing yet").expect("written");
        closes(&[&more, &shop]).into_iter().for_each(|nudge| follower.take(nudge));
        assert!(!follower.settle.misses(&shop));
        assert!(follower.settle.due().is_some_and(|due| due <= Instant::now() + QUIET));
        let (_sink, nudges) = mpsc::channel();
        follower.look(&nudges);
        assert_eq!(follower.feed.borrow().succeeded, 2);

        // What does not come back is not awaited for ever.
        std::fs::remove_file(&shop).expect("removed");
        assert!(!follower.is_ready());
        let due = follower.settle.due().expect("it is looked at once more");
        assert!(due > Instant::now() + QUIET && due <= Instant::now() + VANISHED);
        let before = follower.settle.due();
        follower.is_ready();
        assert_eq!(follower.settle.due(), before);
    }

    #[test]
    fn what_was_read_while_a_file_was_opened_is_not_used() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().canonicalize().expect("a real path").join("shop.yaml");
        std::fs::write(&file, GATEWAY).expect("written");
        let mut follower = follower(&file);
        let (sink, nudges) = mpsc::channel();
        let event = |kind: EventKind| Nudge::Event(notify::Event::new(kind).add_path(file.clone()));
        let opens = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let closes = EventKind::Access(AccessKind::Close(AccessMode::Write));

        // It is truncated while it is read, which is reported a moment later; then somebody asks to load.
        std::fs::write(&file, "").expect("written");
        sink.send(event(opens)).expect("sent");
        sink.send(Nudge::Reload).expect("sent");
        follower.look(&nudges);
        assert_eq!(follower.feed.borrow().succeeded, 1);
        assert_eq!((follower.asked, follower.settle.open()), (Asked::Load, Some(&*file)));

        // Its end is one that counts.
        std::fs::write(&file, GATEWAY.replace("8000", "8001")).expect("written");
        follower.take(event(closes));
        assert!(follower.settle.due().is_some_and(|due| due <= Instant::now() + QUIET));
        follower.look(&nudges);
        let port = |follower: &Follower| follower.feed.borrow().loaded.snapshot.binds[0].address.port();
        assert_eq!((follower.feed.borrow().succeeded, port(&follower)), (2, 8001));

        // What is renamed into place was whole before and is after.
        std::fs::write(&file, GATEWAY.replace("8000", "8002")).expect("written");
        sink.send(event(closes)).expect("sent");
        follower.look(&nudges);
        assert_eq!(port(&follower), 8002);
        assert!(follower.settle.due().is_some(), "it is looked at once more");

        // Not for ever.
        std::fs::write(&file, GATEWAY.replace("8000", "8003")).expect("written");
        follower.in_vain = Instant::now().checked_sub(LONGEST);
        sink.send(event(opens)).expect("sent");
        follower.look(&nudges);
        assert_eq!(port(&follower), 8003);
    }
}
