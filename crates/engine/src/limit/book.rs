//! The book of all quotas: what each key has used in its period. Kept in memory; `proxy` writes it to the disk behind the requests.
//!
//! A request is counted here and let go; a moment later what has changed is written in one batch (`proxy/src/quotas.rs`). **How much a crash
//! can give back is bounded:** of no key may more be used than what is written plus its slack, a hundredth of the quota and at least one
//! request. A request beyond that waits for the next batch. So what was let go before a crash and is not remembered after it is at
//! most the slack of each key.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use twox_hash::XxHash3_128;

pub use super::period::Period;

const SHARDS: usize = 64;
/// Keys in one shard. Beyond it new keys share one, so that a flood of keys takes no memory without end.
const MOST: usize = 1 << 16;

/// The least time between two searches for what may be forgotten, in seconds.
const CLEAN: u64 = 60;

/// The name of the book in the memory of policies.
pub const BOOK: &str = "quotas";

/// What a key has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Its period.
    pub period: Period,
    /// What it has used in it.
    pub used: u64,
}

#[derive(Debug)]
struct Entry {
    count: Count,
    /// What is on the disk, of the same period.
    written: u64,
    /// Whether it is in the list of what has changed.
    listed: bool,
}

#[derive(Default)]
struct Shelf {
    entries: HashMap<u128, Entry>,
    /// When it was last looked through for what may be forgotten, in seconds since 1970.
    cleaned: u64,
}

/// Why the writer is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Something has changed.
    Changed,
    /// A request waits.
    Awaited,
}

/// Tells the writer that there is something to do. Never blocks.
pub type Bell = Box<dyn Fn(Call) + Send + Sync>;

/// All quotas.
pub struct Book {
    shards: Box<[Mutex<Shelf>]>,
    seed: OnceLock<u64>,
    state: AtomicU8,
    bell: Mutex<Option<Bell>>,
    changed: Mutex<Vec<u128>>,
    waiting: Mutex<Vec<Waker>>,
}

const MEMORY: u8 = 0;
const WRITTEN: u8 = 1;
const FAILED: u8 = 2;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is counted; so much is used now.
    Counted(u64),
    /// There is no room; so much is used.
    Full(u64),
    /// It has to wait until what is used is written.
    Wait,
    /// Nothing can be written.
    Unavailable,
}

/// What a key may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// None lets everything pass and counts it.
    pub(crate) most: Option<u64>,
    /// How much may be used that is not written. None does not ask whether anything is.
    pub(crate) slack: Option<u64>,
}

impl Default for Book {
    fn default() -> Book {
        Book {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            seed: OnceLock::new(),
            state: AtomicU8::new(MEMORY),
            bell: Mutex::default(),
            changed: Mutex::default(),
            waiting: Mutex::default(),
        }
    }
}

impl std::fmt::Debug for Book {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Book").finish_non_exhaustive()
    }
}

impl Book {
    /// Begins with what was written before, under the seed of that. From then on `bell` is rung when there is something to write.
    /// A later attachment, with the same seed, only changes the bell.
    pub fn attach(&self, seed: u64, counts: impl IntoIterator<Item = (u128, Count)>, bell: Bell) {
        if self.seed.set(seed).is_ok() {
            for (hash, count) in counts {
                let entry = Entry { count, written: count.used, listed: false };
                self.shard(hash).entries.insert(hash, entry);
            }
        } else if self.seed.get() != Some(&seed) {
            return;
        }
        *lock(&self.bell) = Some(bell);
        self.state.store(WRITTEN, Ordering::Release);
    }

    /// The seed of the hashes, once there is one.
    pub fn seed(&self) -> Option<u64> {
        self.seed.get().copied()
    }

    /// Says that nothing can be written, or that it can again.
    pub fn note_health(&self, can_write: bool) {
        self.state.store(if can_write { WRITTEN } else { FAILED }, Ordering::Release);
        if !can_write {
            self.wake();
        }
    }

    /// Takes the list of what has changed.
    pub fn take_changed(&self) -> Vec<(u128, Count)> {
        let changed = std::mem::take(&mut *lock(&self.changed));
        let read = |hash: u128| {
            let mut shard = self.shard(hash);
            let entry = shard.entries.get_mut(&hash)?;
            entry.listed = false;
            Some((hash, entry.count))
        };
        changed.into_iter().filter_map(read).collect()
    }

    /// Notes that these are on the disk, and lets those go on who wait.
    pub fn note_written(&self, counts: &[(u128, Count)]) {
        for (hash, count) in counts {
            if let Some(entry) = self.shard(*hash).entries.get_mut(hash)
                && entry.count.period.begin == count.period.begin
            {
                entry.written = count.used;
            }
        }
        self.wake();
    }

    /// Puts what could not be written back on the list.
    pub fn note_unwritten(&self, counts: &[(u128, Count)]) {
        for (hash, _) in counts {
            if let Some(entry) = self.shard(*hash).entries.get_mut(hash)
                && !entry.listed
            {
                entry.listed = true;
                lock(&self.changed).push(*hash);
            }
        }
    }

    /// What is known under a key.
    pub(crate) fn hash(&self, random: u64, key: &[u8]) -> u128 {
        // Those of a file that cannot be read yet are under its own seed.
        let seed = match self.state.load(Ordering::Acquire) {
            FAILED => self.seed.get().copied().unwrap_or(random),
            _ => *self.seed.get_or_init(|| random),
        };
        XxHash3_128::oneshot_with_seed(seed, key)
    }

    /// What is used under a key, and when its period began, for who uses nothing.
    pub(crate) fn look(&self, key: &[u8]) -> (u64, u64) {
        let Some(seed) = self.seed.get() else { return (0, 0) };
        let hash = XxHash3_128::oneshot_with_seed(*seed, key);
        self.shard(hash).entries.get(&hash).map_or((0, 0), |entry| (entry.count.used, entry.count.period.begin))
    }

    /// Counts a request, and says under which key: where there is no room for a new one it is a key that several share.
    pub(crate) fn take(&self, hash: u128, period: Period, now: u64, cost: u64, allowance: Allowance) -> (u128, Taken) {
        let state = self.state.load(Ordering::Acquire);
        if state == FAILED && allowance.slack.is_some() {
            return (hash, Taken::Unavailable);
        }
        let (hash, mut shard) = self.shard_with_room(hash, now);
        let new = Entry { count: Count { period, used: 0 }, written: 0, listed: false };
        let entry = shard.entries.entry(hash).or_insert(new);
        // A clock that was set back does not begin an old period anew.
        if entry.count.period.begin < period.begin {
            entry.count = Count { period, used: 0 };
            entry.written = 0;
        }
        let after = entry.count.used.saturating_add(cost);
        if allowance.most.is_some_and(|most| after > most) {
            return (hash, Taken::Full(entry.count.used));
        }
        if let (WRITTEN, Some(slack)) = (state, allowance.slack)
            && after > entry.written.saturating_add(slack.max(cost))
        {
            return (hash, Taken::Wait);
        }
        entry.count.used = after;
        let list = !entry.listed && state == WRITTEN;
        entry.listed |= list;
        drop(shard);
        if list {
            self.list(hash);
        }
        (hash, Taken::Counted(after))
    }

    /// Takes a charge back from the key that [`Book::take`] has named.
    pub(crate) fn give_back(&self, hash: u128, period: Period, cost: u64) -> u64 {
        let mut shard = self.shard(hash);
        let Some(entry) = shard.entries.get_mut(&hash).filter(|entry| entry.count.period.begin == period.begin) else {
            return 0;
        };
        entry.count.used = entry.count.used.saturating_sub(cost);
        let used = entry.count.used;
        let list = !entry.listed && self.state.load(Ordering::Acquire) != MEMORY;
        entry.listed |= list;
        drop(shard);
        if list {
            self.list(hash);
        }
        used
    }

    /// Waits until a batch is written.
    pub(crate) fn written(self: &Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(Written { book: Arc::clone(self), waits: false })
    }

    fn list(&self, hash: u128) {
        let mut changed = lock(&self.changed);
        changed.push(hash);
        let first = changed.len() == 1;
        drop(changed);
        if first {
            self.ring(Call::Changed);
        }
    }

    fn ring(&self, call: Call) {
        if let Some(bell) = &*lock(&self.bell) {
            bell(call);
        }
    }

    fn wake(&self) {
        for waker in std::mem::take(&mut *lock(&self.waiting)) {
            waker.wake();
        }
    }

    fn shard(&self, hash: u128) -> MutexGuard<'_, Shelf> {
        lock(&self.shards[(hash >> 122) as usize % SHARDS])
    }

    /// The shard of a key, or the spare key of the shard where there is no room for a new one.
    fn shard_with_room(&self, hash: u128, now: u64) -> (u128, MutexGuard<'_, Shelf>) {
        let mut shard = self.shard(hash);
        if shard.entries.len() >= MOST && !shard.entries.contains_key(&hash) {
            // Looking for room again and again would cost each request of a flood what it costs to look through all.
            if shard.cleaned + CLEAN <= now {
                shard.cleaned = now;
                shard.entries.retain(|_, entry| entry.listed || entry.count.period.end > now);
            }
            if shard.entries.len() >= MOST {
                return (hash & !(u128::MAX >> 6), shard);
            }
        }
        (hash, shard)
    }
}

/// See [`Book::written`].
struct Written {
    book: Arc<Book>,
    waits: bool,
}

impl Future for Written {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.waits {
            return Poll::Ready(());
        }
        self.waits = true;
        lock(&self.book.waiting).push(cx.waker().clone());
        self.book.ring(Call::Awaited);
        Poll::Pending
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Period = Period { begin: 0, end: 1_000 };

    fn attached() -> Book {
        let book = Book::default();
        book.attach(3, [], Box::new(|_| {}));
        book
    }

    fn take(book: &Book, hash: u128, period: Period, now: u64, cost: u64, allowance: Allowance) -> Taken {
        book.take(hash, period, now, cost, allowance).1
    }

    fn ten(slack: u64) -> Allowance {
        Allowance { most: Some(10), slack: Some(slack) }
    }

    #[test]
    fn no_more_is_used_than_what_is_written_and_the_slack() {
        let book = attached();
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Counted(1));
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Counted(2));
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Wait);
        let changed = book.take_changed();
        assert_eq!(changed, [(1, Count { period: PERIOD, used: 2 })]);
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Wait, "it is not yet written");
        book.note_written(&changed);
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Counted(3));
        // What is dearer than the slack passes when everything before it is written.
        assert_eq!(take(&book, 1, PERIOD, 5, 5, ten(2)), Taken::Wait);
        book.note_written(&book.take_changed());
        assert_eq!(take(&book, 1, PERIOD, 5, 5, ten(2)), Taken::Counted(8));
        assert_eq!(take(&book, 1, PERIOD, 5, 3, ten(2)), Taken::Full(8));
    }

    #[test]
    fn a_period_begins_with_nothing_used_and_a_clock_that_goes_back_begins_none() {
        let book = attached();
        let next = Period { begin: 1_000, end: 2_000 };
        assert_eq!(take(&book, 1, PERIOD, 999, 10, ten(10)), Taken::Counted(10));
        assert_eq!(take(&book, 1, PERIOD, 999, 1, ten(10)), Taken::Full(10));
        assert_eq!(take(&book, 1, next, 1_000, 4, ten(10)), Taken::Counted(4));
        assert_eq!(take(&book, 1, PERIOD, 999, 1, ten(10)), Taken::Counted(5));
        assert_eq!(book.give_back(1, next, 5), 0);
    }

    #[test]
    fn what_cannot_be_written_is_not_let_go_unless_nobody_asks() {
        let book = attached();
        book.note_health(false);
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Unavailable);
        assert_eq!(take(&book, 1, PERIOD, 5, 1, Allowance { most: Some(10), slack: None }), Taken::Counted(1));
        book.note_health(true);
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Counted(2));
    }

    #[test]
    fn it_goes_on_with_what_was_written() {
        let book = Book::default();
        book.attach(3, [(7, Count { period: PERIOD, used: 9 })], Box::new(|_| {}));
        assert_eq!(take(&book, 7, PERIOD, 5, 1, ten(1)), Taken::Counted(10));
        assert_eq!(take(&book, 7, PERIOD, 5, 1, ten(1)), Taken::Full(10));
    }

    #[test]
    fn a_flood_of_keys_shares_one_when_there_is_no_room() {
        let book = attached();
        let free = Allowance { most: None, slack: None };
        for key in 0..MOST as u128 {
            take(&book, key + 1, PERIOD, 5, 1, free);
        }
        assert_eq!(take(&book, 1 << 100, PERIOD, 5, 1, free), Taken::Counted(1));
        assert_eq!(take(&book, 1 << 101, PERIOD, 5, 1, free), Taken::Counted(2));
        assert_eq!(take(&book, 1, PERIOD, 5, 1, free), Taken::Counted(2), "a known key keeps its own");
        let (key, taken) = book.take(1 << 102, PERIOD, 5, 3, free);
        assert_eq!(taken, Taken::Counted(5));
        assert_eq!(book.give_back(key, PERIOD, 3), 2, "what the shared key was charged is given back to it");
    }
}
