//! What was given up before its time: sessions by their browsers, and what the provider has told of (`back_channel`).
//!
//! Remembered for as long as it could still be shown, in a memory of a fixed size for each of those that share it, and beyond the process where it is
//! [written](crate::login::ended).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::super::super::CompileCx;
use super::super::verified::{Hash, Verified, hash};
use crate::login::ended::{ENDED, End, Ended, Ticket};

/// What is remembered under one name.
const MOST: usize = 65_536;

/// What was given up, by what it is about.
#[derive(Debug)]
pub(super) struct GivenUp {
    scope: Box<str>,
    here: Verified<End>,
    /// Whether there was any: nothing is looked up before.
    any: AtomicBool,
    /// The longest that a session of any of them lasts, in seconds; also of one that has another lifetime by now.
    longest: AtomicU64,
    stored: Arc<Ended>,
}

impl GivenUp {
    /// That of all policies that give it this name.
    pub(super) fn of(scope: &str, lifetime: Duration, cx: &CompileCx<'_>) -> Arc<GivenUp> {
        let stored = cx.keep_everywhere().of(ENDED, Ended::default);
        let (any, longest) = (AtomicBool::new(false), AtomicU64::new(0));
        let make = || GivenUp { scope: scope.into(), here: Verified::new(MOST), any, longest, stored };
        let found = cx.keep_for_all(scope, make);
        found.longest.fetch_max(lifetime.as_secs().saturating_add(1), Ordering::Relaxed);
        found
    }

    /// How long a session can last that has begun.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_secs(self.longest.load(Ordering::Relaxed))
    }

    /// What is written of it.
    pub(super) fn stored(&self) -> &Arc<Ended> {
        &self.stored
    }

    /// What is known of the end of something.
    pub(super) fn find(&self, subject: &Hash, now: Duration) -> Option<End> {
        let here = if self.any.load(Ordering::Acquire) { self.here.find(subject, 0, now) } else { None };
        match (here, self.stored.find(|| self.name(subject), now)) {
            (Some(here), Some(before)) => Some(here.and(before)),
            (here, before) => here.as_deref().copied().or(before),
        }
    }

    /// Remembers an end, and says what it waits for to be remembered after this process.
    pub(super) fn note(&self, subject: Hash, end: End, now: Duration) -> Option<Ticket> {
        // A message may come twice, the older one after the newer.
        let end = self.find(&subject, now).map_or(end, |before| before.and(end));
        self.here.note(subject, Arc::new(end), 0, end.until, now);
        self.any.store(true, Ordering::Release);
        self.stored.note(self.name(&subject), end)
    }

    /// Under what it is written.
    fn name(&self, subject: &Hash) -> Hash {
        hash(&[self.scope.as_bytes(), b"\0", subject].concat())
    }
}
