//! Sessions that were given up, kept beyond the process: their cookies outlive a restart, and so must what has taken them back.
//!
//! Noted by the scheme `login`; `proxy` brings it to the disk (`proxy/src/quotas.rs`) and begins with what was there. Nothing of a session is
//! stored but a hash. What is looked up while a process runs is in the memory of the policies; here is what they begin with, and what
//! is still to be written. Both are bounded.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::limit::book::{Bell, Call};

/// The name of the list in the memory of policies.
pub const ENDED: &str = "ended sessions";
/// How many are kept on the disk, and wait for it at most. Where there are more, those that end first are forgotten.
pub const MOST_KEPT: usize = 131_072;

/// Of what something was given up: a SHA-256.
pub type Subject = [u8; 32];

/// What was given up, and for how long that must be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When, since the Unix epoch, to the second: what was begun no later has ended.
    pub at: Duration,
    /// When the last of it would have ended by itself, since the Unix epoch.
    pub until: Duration,
}

impl End {
    /// Two of one thing: neither takes anything of the other back.
    #[must_use]
    pub fn and(self, other: End) -> End {
        End { at: self.at.max(other.at), until: self.until.max(other.until) }
    }
}

/// What is to be written.
#[derive(Debug)]
pub struct Batch {
    /// By what they are about.
    pub ends: Vec<(Subject, End)>,
    last: u64,
}

/// All that was given up and is written.
#[derive(Default)]
pub struct Ended {
    before: OnceLock<HashMap<Subject, End>>,
    /// Since when what was written before cannot be read, in seconds since 1970; zero where it can.
    unread: AtomicU64,
    wanted: AtomicBool,
    state: AtomicU8,
    journal: Mutex<Journal>,
}

#[derive(Default)]
struct Journal {
    bell: Option<Bell>,
    unwritten: HashMap<Subject, End>,
    noted: u64,
    written: u64,
    waiting: Vec<Waker>,
}

const MEMORY: u8 = 0;
const WRITTEN: u8 = 1;
const FAILED: u8 = 2;

/// The place of an end in the order of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl std::fmt::Debug for Ended {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Ended").finish_non_exhaustive()
    }
}

impl Ended {
    /// Some policy is told of logouts by others than the browser, and must not forget them.
    pub(crate) fn want(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    /// Whether somebody needs it to be written.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Begins with what was written before; a later attachment only changes who is called when there is something to write.
    pub fn attach(&self, before: HashMap<Subject, End>, bell: Bell) {
        // What was noted since is in the memory of the policies.
        let _ = self.before.set(before);
        self.unread.store(0, Ordering::Release);
        self.journal().bell = Some(bell);
        self.state.store(WRITTEN, Ordering::Release);
    }

    /// Says that what was written before cannot be read, unless it has been. Until it can, what was begun by `now` counts as given up: it
    /// may have been.
    pub fn note_unread(&self, now: Duration) {
        if self.before.get().is_none() {
            self.unread.store(now.as_secs().max(1), Ordering::Release);
        }
    }

    /// What was begun by then counts as given up, because nobody knows; none where it is known.
    pub fn unread_since(&self) -> Option<Duration> {
        match self.unread.load(Ordering::Acquire) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds)),
        }
    }

    /// Says that nothing can be written, or that it can again.
    pub fn note_health(&self, can_write: bool) {
        self.state.store(if can_write { WRITTEN } else { FAILED }, Ordering::Release);
        if !can_write {
            wake(&mut self.journal());
        }
    }

    /// Takes what is to be written.
    pub fn take_unwritten(&self) -> Batch {
        let mut journal = self.journal();
        Batch { ends: std::mem::take(&mut journal.unwritten).into_iter().collect(), last: journal.noted }
    }

    /// Notes that it is on the disk, and lets those go on who wait.
    pub fn note_written(&self, batch: &Batch) {
        let mut journal = self.journal();
        journal.written = journal.written.max(batch.last);
        wake(&mut journal);
    }

    /// Puts back what could not be written.
    pub fn note_unwritten(&self, batch: Batch) {
        let mut journal = self.journal();
        for (subject, end) in batch.ends {
            journal.unwritten.entry(subject).and_modify(|newer| *newer = newer.and(end)).or_insert(end);
        }
    }

    /// What was written about it before this process began.
    pub(crate) fn find(&self, subject: impl FnOnce() -> Subject, now: Duration) -> Option<End> {
        let before = self.before.get().filter(|before| !before.is_empty())?;
        before.get(&subject()).filter(|end| now < end.until).copied()
    }

    /// Notes an end. None when nothing is written here; otherwise it is remembered after a sudden end of the process from the moment on in which it
    /// [is stored](Ended::is_stored).
    pub(crate) fn note(&self, subject: Subject, end: End) -> Option<Ticket> {
        if self.state.load(Ordering::Acquire) == MEMORY {
            return None;
        }
        let mut journal = self.journal();
        let is_known = journal.unwritten.contains_key(&subject);
        if !is_known && journal.unwritten.len() >= MOST_KEPT {
            return Some(Ticket(u64::MAX));
        }
        journal.unwritten.entry(subject).and_modify(|known| *known = known.and(end)).or_insert(end);
        journal.noted += 1;
        let ticket = Ticket(journal.noted);
        if journal.unwritten.len() == 1
            && let Some(bell) = &journal.bell
        {
            bell(Call::Changed);
        }
        Some(ticket)
    }

    /// Whether it is on the disk.
    pub(crate) fn is_stored(&self, ticket: Ticket) -> bool {
        self.journal().written >= ticket.0
    }

    /// Waits until it is on the disk, or nothing can be written.
    pub(crate) fn stored(self: &Arc<Self>, ticket: Ticket) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(Storing { ended: Arc::clone(self), ticket })
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Ended::stored`].
struct Storing {
    ended: Arc<Ended>,
    ticket: Ticket,
}

impl Future for Storing {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut journal = self.ended.journal();
        if journal.written >= self.ticket.0 || self.ended.state.load(Ordering::Acquire) == FAILED {
            return Poll::Ready(());
        }
        if !journal.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            journal.waiting.push(cx.waker().clone());
        }
        if let Some(bell) = &journal.bell {
            bell(Call::Awaited);
        }
        Poll::Pending
    }
}

fn wake(journal: &mut Journal) {
    for waker in journal.waiting.drain(..) {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn end(at: u64, until: u64) -> End {
        End { at: Duration::from_secs(at), until: Duration::from_secs(until) }
    }

    fn is_over(storing: &mut Pin<Box<dyn Future<Output = ()> + Send>>) -> bool {
        storing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn what_is_noted_is_stored_when_a_batch_that_holds_it_is() {
        let ended = Arc::new(Ended::default());
        assert_eq!(ended.note([1; 32], end(5, 50)), None, "nothing is written here");
        ended.attach(HashMap::from([([9; 32], end(1, 40))]), Box::new(|_| {}));
        assert_eq!(ended.find(|| [9; 32], Duration::from_secs(39)), Some(end(1, 40)));
        assert_eq!(ended.find(|| [9; 32], Duration::from_secs(40)), None, "it is over by itself");
        let ticket = ended.note([1; 32], end(5, 50)).expect("it is to be written");
        let mut storing = ended.stored(ticket);
        assert!(!is_over(&mut storing) && !ended.is_stored(ticket));
        let batch = ended.take_unwritten();
        let later = ended.note([1; 32], end(7, 40)).expect("it is to be written");
        ended.note_unwritten(batch);
        let batch = ended.take_unwritten();
        assert_eq!(batch.ends, [([1; 32], end(7, 50))], "neither takes anything of the other back");
        ended.note_written(&batch);
        assert!(is_over(&mut storing) && ended.is_stored(ticket) && ended.is_stored(later));
    }

    #[test]
    fn who_waits_is_told_when_nothing_can_be_written() {
        let ended = Arc::new(Ended::default());
        ended.attach(HashMap::new(), Box::new(|_| {}));
        let ticket = ended.note([1; 32], end(5, 50)).expect("it is to be written");
        let mut storing = ended.stored(ticket);
        assert!(!is_over(&mut storing));
        ended.note_health(false);
        assert!(is_over(&mut storing) && !ended.is_stored(ticket));
    }
}
