//! Documents of identity providers: their keys, and where what is, known ahead of the requests that need them.
//!
//! A policy holds an `Arc<Document>` and reads what was fetched last; it never fetches. The proxy keeps documents fresh in the background
//! (`proxy/src/documents.rs`), and at once when a policy asks for it ([`Callout::Refresh`](crate::callout::Callout)). *When* is decided here,
//! *how* there. A document outlives reloads and is shared by all policies that name the same URL; where it is fetched follows the
//! configuration that is in force.
//!
//! - Refreshed after `max-age` of its answer, at least a minute and at most a day, else ten minutes.
//! - A fetch at a time. Fetches that fail are tried again after 5 s, doubling up to 5 min.
//! - A token that names an unknown key causes one fetch, at least 30 s after the one before that was so caused; a name that was not found then
//!   causes none until the document changes, or ten minutes are over. A token whose signature is wrong does, too, with the same pause, where it or
//!   a key has no name. Until the pause is over nobody can tell whether there is a new key ([`Sought::Later`]): names that come meanwhile are noted, and
//!   are not there once a fetch that has begun since has not brought them.
//! - What was good stays in use for 24 h after it should have been refreshed. Then nobody can tell whether a key still is one.

mod fetch;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::jose::{Key, KeySet};
use crate::keep::Keep;
use crate::limit::key::hash;
use crate::policies::{Origin, Url};

use fetch::reached;
pub use fetch::{Fetch, Step};

/// How long a document is good when its answer does not say.
const USUALLY: Duration = Duration::from_secs(600);
const SOONEST: Duration = Duration::from_secs(60);
const LATEST: Duration = Duration::from_secs(86_400);
/// How long what was good is used while fetches fail, from when the first of them was due.
const STALE: Duration = Duration::from_secs(86_400);
/// Between two fetches for the sake of unknown keys.
const GAP: Duration = Duration::from_secs(30);
/// How long the name of a key that was not found is remembered.
const ABSENT: Duration = Duration::from_secs(600);
/// So many names of keys that were not found, or could not be looked for, are remembered: only many clients together can make up more in that time.
const MOST_NAMES: usize = 4096;
/// After the first failed fetch.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A document that is kept fresh.
#[derive(Debug)]
pub struct Document {
    /// Its URL, for logs, metrics and people.
    pub label: Box<str>,
    source: ArcSwap<Source>,
    content: ArcSwapOption<Content>,
    flying: AtomicBool,
    state: Mutex<State>,
    /// Held, so that the list lives as long as anything on it.
    listed: Arc<Documents>,
}

/// Where a document comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The document.
    pub url: Url,
    /// What it is.
    pub kind: SourceKind,
}

/// What a document is.
#[derive(Clone, Debug)]
pub enum SourceKind {
    /// A set of keys.
    Keys,
    /// The description of an OpenID provider (OpenID Connect Discovery 1.0), which says where its keys are.
    Provider {
        /// The issuer that it must be about.
        issuer: Box<str>,
        /// The servers that it may send us to: a document chooses no others.
        origins: Vec<(Origin, Url)>,
    },
}

/// What was fetched.
#[derive(Debug)]
pub struct Content {
    /// The keys.
    pub keys: KeySet,
    /// Where what is, when the document describes a provider.
    pub endpoints: Endpoints,
    /// Part of a digest of it, never zero: another content has another one, also in another document of the same name, after nobody has used it
    /// for a while.
    pub version: u64,
    /// When it was fetched, on the monotonic clock.
    fetched: Duration,
    /// When the next fetch was due then.
    due: Duration,
}

/// The places that a provider names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Where browsers log in.
    pub authorization: Option<Box<str>>,
    /// Where codes become tokens.
    pub token: Option<Box<str>>,
    /// Where browsers log out.
    pub end_session: Option<Box<str>>,
    /// Where tokens are taken back (RFC 7009).
    pub revocation: Option<Box<str>>,
    /// Where opaque tokens are looked up (RFC 8414).
    pub introspection: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct State {
    /// When the next fetch is due; zero before the first.
    due: Duration,
    /// When a fetch was last caused by an unknown key.
    sought: Option<Duration>,
    failures_in_a_row: u32,
    fetched: u64,
    failed: u64,
    error: Option<Box<str>>,
    /// When the fetch has begun that is under way, or was last.
    begun: Duration,
    /// When the last one that went well had begun.
    good_since: Option<Duration>,
    absent: Names,
    /// Names of keys that were asked for while no fetch could be caused.
    awaited: Names,
    /// Names of keys that the last change has taken out.
    gone: Vec<Box<str>>,
    digest: Option<[u8; 32]>,
    remarks: Vec<String>,
}

/// Why a policy wants a document to be fetched now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Its time has come, or there is none yet.
    Due,
    /// A token names this key.
    UnknownKey(Box<str>),
    /// No key fits a token, and either it or a key has no name by which that could be told for certain.
    NamelessKey,
}

/// What can be said of a key that is not among those that are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// A fetch may bring it, and is worth waiting for.
    Fetch,
    /// It is not there: that was looked up since somebody has asked for it.
    Absent,
    /// The last fetch failed, for this reason.
    Failed(Box<str>),
    /// Nobody can tell for so long.
    Later {
        /// Until a fetch may be caused again.
        wait: Duration,
        /// Whether it was asked for before, by its name, so that this is no guess at another one.
        is_awaited: bool,
    },
}

/// How a document is, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentState {
    /// Its URL.
    pub label: Box<str>,
    /// How long ago it was fetched; none when it never was.
    pub age: Option<Duration>,
    /// Its keys that can be used.
    pub keys: usize,
    /// Fetches that went well.
    pub fetched: u64,
    /// Fetches that did not.
    pub failed: u64,
    /// Why the last fetch failed, if it did.
    pub error: Option<Box<str>>,
    /// What is wrong with some of its keys.
    pub remarks: Vec<String>,
}

impl Document {
    fn new(label: &str, source: Source, listed: Arc<Documents>) -> Document {
        Document {
            label: label.into(),
            source: ArcSwap::from_pointee(source),
            content: ArcSwapOption::empty(),
            flying: AtomicBool::new(false),
            state: Mutex::default(),
            listed,
        }
    }

    /// The document of this name. One that is in use is fetched from where it was until [`Document::go_live`].
    pub fn of(keep: &Keep, part: &str, label: &str, source: &Source) -> Arc<Document> {
        let documents = Documents::of(keep);
        let make = || Document::new(label, source.clone(), documents);
        keep.of(&format!("document {part}"), make)
    }

    /// Made known to who keeps it fresh, and fetched from here from now on: the configuration that says so is in force.
    pub fn go_live(self: &Arc<Self>, source: Source) {
        self.source.store(Arc::new(source));
        self.listed.add(self);
    }

    /// Has everything judged again that was let in by what this provider has said: it, or a browser, has taken something back.
    pub fn judge_again(&self) {
        self.listed.changes.fetch_add(1, Ordering::Release);
    }

    /// A place that the provider has named, to be asked.
    ///
    /// # Errors
    /// Why it is not asked: a document chooses no servers but those that the configuration names.
    pub fn place(&self, url: &str) -> Result<Url, String> {
        let source = self.source.load();
        let SourceKind::Provider { origins, .. } = &source.kind else {
            return Err("it describes no provider".into());
        };
        reached(url, origins)
    }

    /// What was fetched last, unless it should have been fetched again too long ago.
    pub fn content(&self, now: Duration) -> Option<Arc<Content>> {
        self.content.load_full().filter(|content| now.saturating_sub(content.due) < STALE)
    }

    /// Whether a fetch now may help a policy that has met `occasion`. Then it is worth asking for it and waiting.
    pub fn may_help(&self, occasion: &Occasion, now: Duration) -> bool {
        let state = self.state();
        match occasion {
            // Who has just failed is not asked again for every request.
            Occasion::Due => self.is_flying() || state.failures_in_a_row == 0 || state.due <= now,
            Occasion::UnknownKey(kid) => !state.is_absent(kid, now) && (self.is_flying() || state.may_seek(now)),
            Occasion::NamelessKey => self.is_flying() || state.may_seek(now),
        }
    }

    /// What can be said of a key that a policy has met `occasion` with, and for which it has had a fetch at `asked`. Its name is remembered.
    pub fn seek(&self, occasion: &Occasion, asked: Option<Duration>, now: Duration) -> Sought {
        let sought = self.look(occasion, asked, now);
        if let (Sought::Later { is_awaited: false, .. }, Occasion::UnknownKey(kid)) = (&sought, occasion) {
            note(&mut self.state().awaited, name_of(kid), now);
        }
        sought
    }

    /// The same where anybody may have made the name up at no risk, so that it is not remembered.
    pub fn look(&self, occasion: &Occasion, asked: Option<Duration>, now: Duration) -> Sought {
        if asked.is_none() && self.may_help(occasion, now) {
            return Sought::Fetch;
        }
        let mut state = self.state();
        if let Some(why) = &state.error {
            return Sought::Failed(why.clone());
        }
        let kid = match occasion {
            Occasion::UnknownKey(kid) => Some(kid),
            Occasion::Due | Occasion::NamelessKey => None,
        };
        // A fetch that was under way already when it was asked for may have missed it.
        let was_looked_up = asked.is_some_and(|asked| state.good_since >= Some(asked));
        if let Some(kid) = kid.filter(|_| was_looked_up) {
            note(&mut state.absent, name_of(kid), now);
        }
        if was_looked_up || kid.is_some_and(|kid| state.is_absent(kid, now) || state.gone.contains(kid)) {
            return Sought::Absent;
        }
        let over = state.sought.map_or(now, |sought| sought + GAP);
        let is_awaited = kid.is_some_and(|kid| state.awaited.iter().any(|(one, _)| *one == name_of(kid)));
        Sought::Later { wait: over.saturating_sub(now), is_awaited }
    }

    /// Begins a fetch, unless one is under way or there is no reason for one.
    pub fn begin(self: &Arc<Self>, occasion: &Occasion, now: Duration) -> Option<Fetch> {
        let mut state = self.state();
        let is_due = match occasion {
            Occasion::Due => state.due <= now,
            Occasion::UnknownKey(_) | Occasion::NamelessKey => state.may_seek(now),
        };
        if !is_due || self.flying.swap(true, Ordering::AcqRel) {
            return None;
        }
        state.begun = now;
        if *occasion != Occasion::Due {
            state.sought = Some(now);
        }
        drop(state);
        Some(Fetch::new(Arc::clone(self), self.source.load_full(), now))
    }

    /// Whether a fetch is under way.
    pub fn is_flying(&self) -> bool {
        self.flying.load(Ordering::Acquire)
    }

    /// When the next fetch is due, on the monotonic clock.
    pub fn due(&self) -> Duration {
        self.state().due
    }

    /// Why the last fetch failed.
    pub fn error(&self) -> Option<Box<str>> {
        self.state().error.clone()
    }

    /// How it is.
    pub fn describe(&self, now: Duration) -> DocumentState {
        let content = self.content.load_full();
        let state = self.state();
        DocumentState {
            label: self.label.clone(),
            age: content.as_ref().map(|content| now.saturating_sub(content.fetched)),
            keys: content.as_ref().map_or(0, |content| content.keys.keys().len()),
            fetched: state.fetched,
            failed: state.failed,
            error: state.error.clone(),
            remarks: state.remarks.clone(),
        }
    }

    /// A fetch went well.
    fn put(&self, digest: [u8; 32], keys: KeySet, endpoints: Endpoints, good_for: Option<Duration>, now: Duration) {
        let mut state = self.state();
        let before = self.content.load_full();
        let changed = state.digest != Some(digest);
        let [a, b, c, d, e, f, g, h, ..] = digest;
        let version = u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1);
        let is_there = |kid: &str| keys.keys().iter().any(|key| key.kid() == Some(kid));
        if changed {
            state.absent.clear();
            let known = before.iter().flat_map(|before| before.keys.keys()).filter_map(Key::kid);
            state.gone = known.filter(|kid| !is_there(kid)).map(Box::from).collect();
        }
        let begun = state.begun;
        state.good_since = Some(begun);
        let known: HashSet<u64> = keys.keys().iter().filter_map(Key::kid).map(name_of).collect();
        for (name, since) in std::mem::take(&mut state.awaited) {
            if since > begun {
                state.awaited.push_back((name, since));
            } else if !known.contains(&name) {
                note(&mut state.absent, name, now);
            }
        }
        state.digest = Some(digest);
        state.remarks.clone_from(&keys.remarks);
        state.fetched += 1;
        state.failures_in_a_row = 0;
        state.error = None;
        let due = now + good_for.unwrap_or(USUALLY).clamp(SOONEST, LATEST);
        state.due = due;
        self.content.store(Some(Arc::new(Content { keys, endpoints, version, fetched: now, due })));
        if changed {
            self.judge_again();
        }
        self.flying.store(false, Ordering::Release);
    }

    /// A fetch did not go well.
    fn fail(&self, why: &str, now: Duration) {
        let mut state = self.state();
        let pause = FIRST_PAUSE.saturating_mul(1 << state.failures_in_a_row.min(6)).min(LONGEST_PAUSE);
        state.failures_in_a_row = state.failures_in_a_row.saturating_add(1);
        state.failed += 1;
        let was_failing = state.error.replace(why.into()).is_some();
        if !was_failing && self.content.load().is_none() {
            self.judge_again();
        }
        state.due = now + pause;
        self.flying.store(false, Ordering::Release);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Names of keys, as [`name_of`] makes them, and since when.
type Names = VecDeque<(u64, Duration)>;

/// What stands for the name of a key, which a client may have made long.
fn name_of(kid: &str) -> u64 {
    hash(0, kid.as_bytes())
}

/// Notes the name of a key, in the place of the oldest where there are too many.
fn note(names: &mut Names, name: u64, now: Duration) {
    names.retain(|(one, since)| *one != name && now.saturating_sub(*since) < ABSENT);
    if names.len() >= MOST_NAMES {
        names.pop_front();
    }
    names.push_back((name, now));
}

impl State {
    fn is_absent(&self, kid: &str, now: Duration) -> bool {
        let name = name_of(kid);
        self.absent.iter().any(|(one, since)| *one == name && now.saturating_sub(*since) < ABSENT)
    }

    fn may_seek(&self, now: Duration) -> bool {
        self.sought.is_none_or(|sought| now.saturating_sub(sought) >= GAP)
    }
}

/// All documents that somebody uses.
#[derive(Debug, Default)]
pub struct Documents {
    list: Mutex<Vec<Weak<Document>>>,
    /// How often what is known of some document has become something else.
    changes: AtomicU64,
}

impl Documents {
    /// Those of one process.
    pub fn of(keep: &Keep) -> Arc<Documents> {
        keep.of("documents", Documents::default)
    }

    /// A number that is another one when some document has changed, or could not be fetched at first: what was let in by it is to be
    /// judged again.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn add(&self, document: &Arc<Document>) {
        let mut list = lock(&self.list);
        list.retain(|known| known.strong_count() > 0);
        if !list.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(document))) {
            list.push(Arc::downgrade(document));
        }
    }

    /// Those in use, in the order of their URLs.
    pub fn all(&self) -> Vec<Arc<Document>> {
        let mut all: Vec<Arc<Document>> = lock(&self.list).iter().filter_map(Weak::upgrade).collect();
        all.sort_by(|a, b| a.label.cmp(&b.label));
        all
    }
}

/// The values stay whole even if a thread panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
