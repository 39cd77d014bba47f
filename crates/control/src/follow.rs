//! Follows the sources: loads them again after every change and publishes what came of it.
//!
//! Started by the application after the first load. One thread of its own waits for file events, for [`Trigger::reload`] and,
//! every [`POLL`], for nothing at all, because an event can get lost; it reads, loads and publishes, so no data thread ever
//! waits for a parser. The feed always holds the last good configuration: a refused one is published beside it, never in its
//! place. What to do with an update (apply it, tell of it) is up to the receiver.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::joined::{Joined, Registrations};
use crate::load::{Loaded, Loader, Outcome, Refused};
use crate::plane::Plane;
use crate::settle::{PAIR, QUIET, STALLED, Settle};
use crate::sources::{Reading, Sources};
use crate::trace::Interest;
use crate::watch::{Watch, read_event};

/// How often the sources are looked at although nothing was reported.
const POLL: Duration = Duration::from_secs(30);
/// The same, when the operating system cannot report.
const POLL_UNWATCHED: Duration = Duration::from_secs(2);

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
    let digest = reading.digest;
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
        feed,
        interest: Interest::default(),
        beside: Interest::default(),
        watch: None,
        settle: Settle::default(),
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
    feed: watch::Sender<Arc<Update>>,
    interest: Interest,
    /// The part of it that Secrets name.
    beside: Interest,
    watch: Option<Watch>,
    settle: Settle,
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
            // What changed between the first load and the first watch was reported to nobody.
            self.load_if_changed();
        }
        let mut looked = Instant::now();
        while !self.feed.is_closed() {
            let poll = match self.watch {
                Some(_) => POLL,
                None => POLL_UNWATCHED,
            };
            let due = self.settle.due().unwrap_or(looked + poll);
            let now = Instant::now();
            self.tell_whom_it_awaits(now);
            if due <= now {
                // First: registrations that come all the time must not keep files from being looked at.
                looked = now;
                self.load_if_changed();
                continue;
            }
            let wake = self.settle.tell_at().map_or(due, |at| at.min(due));
            match nudges.recv_timeout(wake - now) {
                Ok(Nudge::Event(event)) => self.note(&event),
                Ok(Nudge::Reload) => {
                    let reading = self.sources.read();
                    self.load(reading);
                }
                Ok(Nudge::Registrations) => self.load_registrations(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Says why nothing is read for long, and why something is read that its writer has not closed.
    fn tell_whom_it_awaits(&mut self, now: Instant) {
        if let Some(file) = self.settle.tell(now) {
            tracing::info!(
                file = %file.display(),
                "somebody writes to a file: changes are read when it is closed, or when nothing was written for {STALLED:?}"
            );
        }
        if let Some(file) = self.settle.open().filter(|_| self.settle.due().is_some_and(|due| due <= now)) {
            tracing::warn!(file = %file.display(), "a file was not closed by who has written to it; it is read as it is, whole or not");
        }
    }

    /// Takes a file event into account.
    fn note(&mut self, event: &notify::Event) {
        if event.need_rescan() {
            self.load_if_changed();
            return;
        }
        let changes = read_event(event, &self.interest);
        if changes.is_empty() {
            return;
        }
        if let Some(watch) = &mut self.watch {
            watch.forget(event);
        }
        let now = Instant::now();
        for change in changes {
            let quiet = if self.beside.concerns(change.path()) { PAIR } else { QUIET };
            self.settle.note(change, quiet, now);
        }
    }

    fn load_if_changed(&mut self) {
        self.settle.clear();
        let reading = self.sources.read();
        if reading.digest != self.digest || self.loader.surroundings_changed() {
            self.load(reading);
        } else {
            self.watch_sources();
        }
    }

    fn load(&mut self, reading: Reading) {
        let started = Instant::now();
        self.settle.clear();
        self.digest = reading.digest;
        let outcome = load(&mut self.loader, &mut self.joined, reading);
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

    /// Loads the files that are in force again, with the registrations of now. What the latest attempt to load files came to stays
    /// as it is: a mistake in a file holds up no registration, and no registration hides a mistake.
    fn load_registrations(&mut self) {
        let started = Instant::now();
        let Some(joined) = &mut self.joined else { return };
        let Some(reading) = joined.news() else { return };
        let mut update = Update::clone(&self.feed.borrow());
        match self.loader.load(reading) {
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

    /// Watches what the sources are made of now.
    fn watch_sources(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let (mut interest, mut beside) = (Interest::default(), Interest::default());
        self.sources.trace(&mut interest);
        for file in self.loader.outside_files() {
            interest.add_file(&file);
            beside.add_file(&file);
        }
        watch.follow(&interest);
        self.interest = interest;
        self.beside = beside;
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
