//! The book of all quotas: what each key has used in its period. Kept in memory; `proxy` writes it to the disk behind the requests.
//!
//! A request is counted here and let go; a moment later what has changed is written in one batch (`proxy/src/quotas.rs`). **How much a crash
//! can give back is bounded:** of no key may more be used than what is written plus its slack, a hundredth of the quota and at least one
//! request. A request beyond that waits for the next batch. So what was let go before a crash and is not remembered after it is at
//! most the slack of each key.
//!
//! Each quota has a ledger of its own (`limit/ledger.rs`) with as many keys as it may have: a flood of keys at one takes no room from another. What
//! gives way there leaves the file with the next batch.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use twox_hash::XxHash3_128;

use super::ledger::{Account, Entry, Gone, Ledger, Room, Shelf};
pub use super::period::Period;

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
    /// By the first half of the names of their keys.
    ledgers: Mutex<HashMap<u64, Arc<Ledger>>>,
    seed: OnceLock<u64>,
    /// That of what is counted while the file cannot be read and its own seed is not known.
    makeshift: OnceLock<u64>,
    state: AtomicU8,
    bell: Mutex<Option<Bell>>,
    /// What is to be written, or taken from the disk; nothing else, so that it is bounded however long a write takes.
    changed: Mutex<HashSet<u128>>,
    waiting: Mutex<Vec<Waker>>,
    /// What keys have used of periods that are still to come, as it seems since the clock was set back.
    left: Mutex<HashMap<u128, Count>>,
}

const MEMORY: u8 = 0;
const WRITTEN: u8 = 1;
const FAILED: u8 = 2;

/// Of so many keys it is remembered what they have used of a period to come.
const MOST_LEFT: usize = 1 << 16;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is counted; so much is used now.
    Counted(u64),
    /// The same, together with others that have no room of their own, under this name.
    Together(u64, u128),
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
            ledgers: Mutex::default(),
            seed: OnceLock::new(),
            makeshift: OnceLock::new(),
            state: AtomicU8::new(MEMORY),
            bell: Mutex::default(),
            changed: Mutex::default(),
            waiting: Mutex::default(),
            left: Mutex::default(),
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
    /// A later attachment, with the same seed, only changes the bell. `now` is in seconds since 1970.
    pub fn attach(&self, seed: u64, counts: impl IntoIterator<Item = (u128, Count)>, now: u64, bell: Bell) {
        if self.seed.set(seed).is_ok() {
            for (hash, count) in counts {
                let ledger = self.ledger(hash);
                let mut shelf = ledger.shelf(key(hash));
                let gone = ledger.put(&mut shelf, key(hash), Entry::kept(count), Room::default(), u64::MAX, now);
                self.list_gone(hash, &gone);
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

    /// Whether nothing can be written.
    pub fn is_failing(&self) -> bool {
        self.state.load(Ordering::Acquire) == FAILED
    }

    /// Takes the list of what has changed; with no count what has given way.
    pub fn take_changed(&self) -> Vec<(u128, Option<Count>)> {
        let changed = std::mem::take(&mut *lock(&self.changed));
        let read = |hash: u128| {
            let ledger = self.ledger(hash);
            let mut shelf = ledger.shelf(key(hash));
            let count = shelf.entry_mut(key(hash)).map(|entry| {
                (entry.listed, entry.kept) = (false, true);
                entry.count
            });
            (hash, count)
        };
        changed.into_iter().map(read).collect()
    }

    /// Notes that these are on the disk, and lets those go on who wait.
    pub fn note_written(&self, counts: &[(u128, Option<Count>)]) {
        for (hash, count) in counts.iter().filter_map(|(hash, count)| Some((*hash, (*count)?))) {
            if let Some(entry) = self.ledger(hash).shelf(key(hash)).entry_mut(key(hash))
                && entry.count.period.begin == count.period.begin
            {
                entry.written = count.used;
            }
        }
        self.wake();
    }

    /// Puts what could not be written back on the list.
    pub fn note_unwritten(&self, counts: &[(u128, Option<Count>)]) {
        for (hash, _) in counts {
            let ledger = self.ledger(*hash);
            let mut shelf = ledger.shelf(key(*hash));
            if let Some(entry) = shelf.entry_mut(key(*hash)) {
                (entry.listed, entry.kept) = (true, true);
            }
            // Also what has given way, which is still to be taken from the disk.
            lock(&self.changed).insert(*hash);
        }
    }

    /// Forgets what has been over for a day.
    pub fn clean(&self, now: u64) {
        lock(&self.left).retain(|_, count| count.period.end > now);
        lock(&self.ledgers).retain(|_, ledger| !ledger.clean(now) || Arc::strong_count(ledger) > 1);
    }

    /// The quotas at which keys have given way before their time, each once.
    pub fn news(&self) -> Vec<String> {
        lock(&self.ledgers).values().filter_map(|ledger| ledger.news().map(str::to_owned)).collect()
    }

    /// The names of all quotas, and how many keys of each have given way before their time.
    pub fn forgotten(&self) -> Vec<(String, u64)> {
        let ledgers = lock(&self.ledgers);
        let mut all: Vec<_> = ledgers
            .values()
            .filter_map(|ledger| ledger.forgotten().map(|(name, number)| (name.to_owned(), number)))
            .collect();
        all.sort_unstable();
        all
    }

    /// Where a quota is counted whose keys begin with `prefix`: under this name, for so many keys, of which those give way to nobody that have used more
    /// than `keeps`.
    pub(crate) fn open(&self, prefix: &[u8; 16], name: &str, most: u32, keeps: u64) -> Account {
        let ledger = self.ledger(name_of(0, prefix));
        let room = ledger.name(name, most);
        Account { ledger, room, keeps }
    }

    /// What is known under a key.
    pub(crate) fn hash(&self, random: u64, key: &[u8]) -> u128 {
        // Those of a file that cannot be read yet are under its own seed.
        let seed = match self.state.load(Ordering::Acquire) {
            FAILED => self.seed.get().copied().unwrap_or_else(|| *self.makeshift.get_or_init(|| random)),
            _ => *self.seed.get_or_init(|| random),
        };
        name_of(seed, key)
    }

    /// What is used under a key, and when its period began, for who uses nothing.
    pub(crate) fn look(&self, name: &[u8]) -> (u64, u64) {
        let Some(seed) = self.seed.get() else { return (0, 0) };
        let hash = name_of(*seed, name);
        let known = lock(&self.ledgers).get(&quota(hash)).map(Arc::clone);
        let used = known.and_then(|ledger| {
            let shelf = ledger.shelf(key(hash));
            // Who has no room of his own is counted with the others.
            let together = || shelf.entry(key(name_for_all(hash))).filter(|_| ledger.is_full());
            let entry = shelf.entry(key(hash)).or_else(together);
            entry.map(|entry| (entry.count.used, entry.count.period.begin))
        });
        used.unwrap_or_default()
    }

    /// Counts a request under a key of this quota.
    pub(crate) fn take(
        &self,
        account: &Account,
        hash: u128,
        period: Period,
        now: u64,
        cost: u64,
        allowance: Allowance,
    ) -> Taken {
        let state = self.state.load(Ordering::Acquire);
        if state == FAILED && allowance.slack.is_some() {
            return Taken::Unavailable;
        }
        let mut shelf = account.ledger.shelf(key(hash));
        let is_new = cost > 0 && shelf.entry(key(hash)).is_none();
        if is_new && account.ledger.is_taken(&mut shelf, account.room, account.keeps, now) {
            let name = name_for_all(hash);
            return match self.take_from(&mut shelf, (account, name), state, (period, now), (cost, allowance)) {
                Taken::Counted(used) => Taken::Together(used, name),
                other => other,
            };
        }
        self.take_from(&mut shelf, (account, hash), state, (period, now), (cost, allowance))
    }

    /// Counts it under a name of this shelf.
    fn take_from(
        &self,
        shelf: &mut Shelf,
        (account, hash): (&Account, u128),
        state: u8,
        (period, now): (Period, u64),
        (cost, allowance): (u64, Allowance),
    ) -> Taken {
        let Account { ledger, room, keeps } = account;
        let Some(entry) = shelf.entry_mut(key(hash)) else {
            if allowance.most.is_some_and(|most| cost > most) {
                return Taken::Full(0);
            }
            // What is free takes nobody's place.
            if cost > 0 {
                let listed = self.is_to_be_written(state);
                // What has given way a moment ago may still be on the disk.
                let kept = lock(&self.changed).contains(&hash);
                let entry = Entry { count: Count { period, used: cost }, written: 0, listed, kept };
                let gone = ledger.put(shelf, key(hash), entry, *room, *keeps, now);
                self.list_gone(hash, &gone);
                if listed {
                    self.list(hash);
                }
            }
            return Taken::Counted(cost);
        };
        if entry.count.period.begin < period.begin {
            entry.count = Count { period, used: self.used_before(hash, period) };
            entry.written = 0;
        } else if entry.count.period.begin > now {
            // A clock that was set back does not begin an old period anew, and one that was ahead for a moment locks nobody out until then: what was
            // counted in a period to come counts in this one, and is what is used of that one when it comes.
            self.leave(hash, entry.count);
            entry.count.period = period;
        }
        let after = entry.count.used.saturating_add(cost);
        if allowance.most.is_some_and(|most| after > most) {
            return Taken::Full(entry.count.used);
        }
        if let (WRITTEN, Some(slack)) = (state, allowance.slack)
            && after > entry.written.saturating_add(slack.max(cost))
        {
            // Whatever the next batch would hold without it: it is what is waited for.
            if !std::mem::replace(&mut entry.listed, true) {
                self.list(hash);
            }
            return Taken::Wait;
        }
        entry.count.used = after;
        if self.is_to_be_written(state) && !std::mem::replace(&mut entry.listed, true) {
            self.list(hash);
        }
        Taken::Counted(after)
    }

    /// Notes what a key has used of a period that is still to come, as it seems.
    fn leave(&self, hash: u128, count: Count) {
        let mut left = lock(&self.left);
        if left.len() < MOST_LEFT || left.contains_key(&hash) {
            left.insert(hash, count);
        }
    }

    /// What a key has used of a period that begins: nothing, unless a clock has been there before. It is asked once.
    fn used_before(&self, hash: u128, period: Period) -> u64 {
        let mut left = lock(&self.left);
        let Some(before) = left.get(&hash).copied().filter(|before| before.period.begin <= period.begin) else {
            return 0;
        };
        left.remove(&hash);
        if before.period.begin == period.begin { before.used } else { 0 }
    }

    /// Takes a charge back from a key of this quota.
    pub(crate) fn give_back(&self, account: &Account, hash: u128, period: Period, cost: u64) -> u64 {
        let mut shelf = account.ledger.shelf(key(hash));
        let Some(entry) = shelf.entry_mut(key(hash)).filter(|entry| entry.count.period.begin == period.begin) else {
            return 0;
        };
        entry.count.used = entry.count.used.saturating_sub(cost);
        let used = entry.count.used;
        if used == 0 && !entry.kept {
            account.ledger.take_out(&mut shelf, key(hash));
            lock(&self.changed).remove(&hash);
            return 0;
        }
        if self.is_to_be_written(self.state.load(Ordering::Acquire)) && !std::mem::replace(&mut entry.listed, true) {
            self.list(hash);
        }
        used
    }

    /// Whether what is counted goes into the file, now or once it can be written again. What is counted before the seed of the file is known is under
    /// no name that it has.
    fn is_to_be_written(&self, state: u8) -> bool {
        match state {
            MEMORY => false,
            WRITTEN => true,
            _ => self.seed.get().is_some(),
        }
    }

    /// Waits until a batch is written.
    pub(crate) fn written(self: &Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(Written { book: Arc::clone(self), waits: false })
    }

    /// Called with the shelf of the key locked, so that it says what is on the shelf.
    fn list(&self, hash: u128) {
        let mut changed = lock(&self.changed);
        let first = changed.is_empty();
        changed.insert(hash);
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

    /// The ledger of a key, made where there is none: that of a quota which only the file knows.
    fn ledger(&self, hash: u128) -> Arc<Ledger> {
        Arc::clone(lock(&self.ledgers).entry(quota(hash)).or_default())
    }

    /// Lists keys of the same quota as this one that are to be taken from the disk. What has not come there need not be written any more.
    fn list_gone(&self, hash: u128, gone: &[Gone]) {
        for one in gone {
            let name = u128::from(quota(hash)) << 64 | u128::from(one.key);
            if one.kept {
                self.list(name);
            } else {
                lock(&self.changed).remove(&name);
            }
        }
    }
}

/// The name of a key: half of it is the beginning of what its quota puts before its keys, half is a hash.
fn name_of(seed: u64, key: &[u8]) -> u128 {
    let quota = key.first_chunk().copied().map_or(0, u64::from_be_bytes);
    u128::from(quota) << 64 | XxHash3_128::oneshot_with_seed(seed, key) & u128::from(u64::MAX)
}

/// What those are counted under together who would be on the same shelf, where that has no room for them.
fn name_for_all(hash: u128) -> u128 {
    hash & !u128::from(u64::MAX >> 4)
}

/// The half of a name that is its quota.
fn quota(hash: u128) -> u64 {
    (hash >> 64) as u64
}

/// The half of a name by which its quota knows it.
#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
fn key(hash: u128) -> u64 {
    hash as u64
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
        book.attach(3, [], 0, Box::new(|_| {}));
        book
    }

    fn take(book: &Book, hash: u128, period: Period, now: u64, cost: u64, allowance: Allowance) -> Taken {
        book.take(&account(book, hash), hash, period, now, cost, allowance)
    }

    /// Where a key of a quota is counted that has room for all.
    fn account(book: &Book, hash: u128) -> Account {
        Account { ledger: book.ledger(hash), room: Room::default(), keeps: 5 }
    }

    fn ten(slack: u64) -> Allowance {
        Allowance { most: Some(10), slack: Some(slack) }
    }

    #[test]
    fn what_is_counted_while_nothing_can_be_written_is_written_later() {
        let book = attached();
        let uncounted = Allowance { most: Some(10), slack: None };
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Counted(1));
        let changed = book.take_changed();
        book.note_health(false);
        book.note_unwritten(&changed);
        // What a response has cost is counted in any case, and so is who needs no file.
        assert_eq!(take(&book, 1, PERIOD, 5, 4, uncounted), Taken::Counted(5));
        assert_eq!(take(&book, 2, PERIOD, 5, 4, uncounted), Taken::Counted(4));
        assert_eq!(take(&book, 2, PERIOD, 5, 1, ten(2)), Taken::Unavailable);
        book.note_health(true);
        let mut changed = book.take_changed();
        changed.sort_by_key(|(hash, _)| *hash);
        let used = |used| Some(Count { period: PERIOD, used });
        assert_eq!(changed, [(1, used(5)), (2, used(4))]);
        book.note_written(&changed);
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Counted(6));
    }

    #[test]
    fn what_waits_is_in_the_next_batch() {
        let book = attached();
        assert_eq!(take(&book, 1, PERIOD, 5, 2, ten(2)), Taken::Counted(2));
        // A batch that was taken and is not written yet.
        let first = book.take_changed();
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(1)), Taken::Wait);
        assert_eq!(book.take_changed(), first);
        book.note_written(&first);
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(1)), Taken::Counted(3));
    }

    #[test]
    fn no_more_is_used_than_what_is_written_and_the_slack() {
        let book = attached();
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Counted(1));
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Counted(2));
        assert_eq!(take(&book, 1, PERIOD, 5, 1, ten(2)), Taken::Wait);
        let changed = book.take_changed();
        assert_eq!(changed, [(1, Some(Count { period: PERIOD, used: 2 }))]);
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
        assert_eq!(take(&book, 1, PERIOD, 999, 6, ten(10)), Taken::Full(5));
        // The clock is right again: it is the same period.
        assert_eq!(take(&book, 1, next, 1_000, 7, ten(10)), Taken::Full(4));
        assert_eq!(take(&book, 1, PERIOD, 999, 7, ten(10)), Taken::Full(4));
        assert_eq!(take(&book, 1, next, 1_000, 6, ten(10)), Taken::Counted(10));
        assert_eq!(take(&book, 1, PERIOD, 999, 1, ten(10)), Taken::Full(10));
        assert_eq!(book.give_back(&account(&book, 1), 1, next, 5), 0);
        // One that was ahead for a moment locks nobody out, neither now nor then.
        let far = Period { begin: 90_000, end: 91_000 };
        assert_eq!(take(&book, 2, far, 90_001, 4, ten(10)), Taken::Counted(4));
        assert_eq!(take(&book, 2, PERIOD, 999, 1, ten(10)), Taken::Counted(5));
        assert_eq!(take(&book, 2, PERIOD, 999, 5, ten(10)), Taken::Counted(10));
        assert_eq!(take(&book, 2, next, 1_000, 1, ten(10)), Taken::Counted(1));
        assert_eq!(take(&book, 2, far, 90_001, 1, ten(10)), Taken::Counted(5), "what was used of it before");
        assert_eq!(take(&book, 2, next, 1_000, 0, ten(10)), Taken::Counted(5));
        book.clean(91_000);
        assert!(lock(&book.left).is_empty());
        let far = Period { begin: 95_000, end: 96_000 };
        assert_eq!(take(&book, 2, far, 95_001, 1, ten(10)), Taken::Counted(1));
        assert_eq!(take(&book, 2, next, 1_000, 0, ten(10)), Taken::Counted(1));
        // What a response has cost that began in the period before is no clock that goes back.
        assert_eq!(take(&book, 2, PERIOD, 1_001, 1, ten(10)), Taken::Counted(2));
        assert_eq!(take(&book, 2, next, 1_002, 1, ten(10)), Taken::Counted(3));
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
        book.attach(3, [(7, Count { period: PERIOD, used: 9 })], 0, Box::new(|_| {}));
        assert_eq!(take(&book, 7, PERIOD, 5, 1, ten(1)), Taken::Counted(10));
        assert_eq!(take(&book, 7, PERIOD, 5, 1, ten(1)), Taken::Full(10));
    }

    /// A quota's prefix, and the name of one of its keys.
    fn named(quota: u8, key: u64) -> ([u8; 16], u128) {
        let prefix = [quota; 16];
        (prefix, name_of(7, &[&prefix[..], &key.to_be_bytes()].concat()))
    }

    #[test]
    fn a_flood_at_one_quota_pushes_out_its_own_and_no_key_of_another() {
        let book = attached();
        let [flooded, other] = [1, 2].map(|quota| book.open(&named(quota, 0).0, "a quota", 1_000, 5));
        let once = |quota: u8, key: u64, account: &Account| {
            book.take(account, named(quota, key).1, PERIOD, 5, 1, Allowance { most: Some(10), slack: None })
        };
        for key in 0..1_000 {
            once(1, key % 100, &flooded);
            once(2, key, &other);
        }
        for key in 1_000..50_000 {
            assert_eq!(once(1, key, &flooded), Taken::Counted(1), "a new key is let in");
        }
        for key in 0..100 {
            assert_eq!(once(1, key, &flooded), Taken::Full(10), "what has used much keeps its count");
        }
        assert!((0..1_000).all(|key| once(2, key, &other) == Taken::Counted(2)), "nothing gives way at another quota");
        assert_eq!(book.forgotten(), [("a quota".to_owned(), 0), ("a quota".to_owned(), 48_100)]);
        assert_eq!((book.news(), book.news()), (vec!["a quota".to_owned()], Vec::new()), "told once");
        assert_eq!(once(2, 2_000, &other), Taken::Counted(1));
    }

    #[test]
    fn the_disk_has_what_is_remembered_and_no_more() {
        let book = attached();
        let ledger = book.open(&named(1, 0).0, "a quota", 1_000, 5);
        let mut disk = HashMap::new();
        for key in 0..20_000 {
            book.take(&ledger, named(1, key).1, PERIOD, 5, 1 + key / 19_900, Allowance { most: None, slack: None });
            if key % 700 == 0 || key == 19_999 {
                let changed = book.take_changed();
                // Every other batch fails and comes again.
                if key % 1_400 == 0 {
                    book.note_unwritten(&changed);
                    continue;
                }
                write(&mut disk, &changed);
                book.note_written(&changed);
            }
        }
        assert_eq!(disk.len(), 1_000);
        // A book that begins with it knows what was used most; with room for less, the rest gives way there and on the disk.
        let again = Book::default();
        let ledger = again.open(&named(1, 0).0, "a quota", 500, 1);
        again.attach(3, disk, 5, Box::new(|_| {}));
        let gone = again.take_changed();
        assert!(gone.len() == 500 && gone.iter().all(|(_, count)| count.is_none()));
        let two = Allowance { most: Some(2), slack: None };
        for key in 19_900..20_000 {
            assert_eq!(again.take(&ledger, named(1, key).1, PERIOD, 5, 1, two), Taken::Full(2));
        }
    }

    #[test]
    fn a_configuration_that_counts_nothing_takes_nothing_away() {
        let book = attached();
        let once = |key: u64, account: &Account| {
            book.take(account, named(1, key).1, PERIOD, 5, 4, Allowance { most: Some(4), slack: None })
        };
        let running = book.open(&named(1, 0).0, "a quota", 100_000, 5);
        assert!((0..3_000).all(|key| once(key, &running) == Taken::Counted(4)));
        // One that is refused.
        let small = book.open(&named(1, 0).0, "a quota", 1_000, 5);
        assert!((3_000..4_500).all(|key| once(key, &running) == Taken::Counted(4)));
        assert!((0..4_500).all(|key| once(key, &running) == Taken::Full(4)));
        assert_eq!(book.forgotten()[0].1, 0);
        // In force it holds, whatever requests of the one before still bring, until there is another.
        assert!((4_500..9_000).all(|key| once(key, if key % 2 == 0 { &small } else { &running }) == Taken::Counted(4)));
        assert_eq!(book.forgotten()[0].1, 8_000);
        let large = book.open(&named(1, 0).0, "a quota", 100_000, 5);
        assert!((10_000..12_000).all(|key| once(key, &large) == Taken::Counted(4)));
        assert_eq!(book.forgotten()[0].1, 8_000);
    }

    #[test]
    fn who_has_used_all_keeps_his_count_however_few_others_there_are() {
        let book = attached();
        let account = book.open(&named(1, 0).0, "a quota", 1_000, 5);
        let take = |key: u64, cost: u64| {
            book.take(&account, named(1, key).1, PERIOD, 5, cost, Allowance { most: Some(10), slack: None })
        };
        assert!((0..960).all(|key| take(key, 10) == Taken::Counted(10)));
        // A sixteenth of all may have nobody who has used less: there new keys share what there is for one.
        let counted = (1_000..20_000).filter(|key| take(*key, 1) == Taken::Counted(1)).count();
        assert!(counted > 18_000, "{counted}");
        assert!((0..960).all(|key| take(key, 1) == Taken::Full(10)));
    }

    #[test]
    fn where_everything_is_spent_new_keys_share_what_there_is_for_one_and_nobody_begins_anew() {
        let book = attached();
        let account = book.open(&named(1, 0).0, "a quota", 1_000, 0);
        let one = Allowance { most: Some(1), slack: None };
        let once = |key: u64, now: u64| book.take(&account, named(1, key).1, period_at(now), now, 1, one);
        let taken: Vec<Taken> = (0..20_000).map(|key| once(key, 5)).collect();
        let together: Vec<u128> = taken
            .iter()
            .filter_map(|taken| if let Taken::Together(1, name) = taken { Some(*name) } else { None })
            .collect();
        assert_eq!((taken.iter().filter(|taken| **taken == Taken::Counted(1)).count(), together.len()), (1_000, 16));
        let passed = 1_016;
        assert!((0..20_000).all(|key| once(key, 5) == Taken::Full(1)));
        // What comes to nothing is given back to those who count together, and is there for the next of them.
        for name in &together {
            assert_eq!(book.give_back(&account, *name, PERIOD, 1), 0);
        }
        assert_eq!((20_000..30_000).filter(|key| matches!(once(*key, 5), Taken::Together(1, _))).count(), 16);
        // What a response has cost takes nobody's place either.
        let anyway = Allowance { most: None, slack: None };
        (30_000..31_000).for_each(|key| _ = book.take(&account, named(1, key).1, PERIOD, 5, 1, anyway));
        assert!((0..20_000).all(|key| matches!(once(key, 5), Taken::Full(_))));
        assert_eq!((book.forgotten()[0].1, book.news()), (0, vec!["a quota".to_owned()]));
        // On the disk they are as many, and in the next period there is room again.
        assert_eq!(book.take_changed().len(), passed);
        let passed = (40_000..41_000).filter(|key| once(*key, 1_005) == Taken::Counted(1)).count();
        assert!(passed > 850, "{passed}");
    }

    fn period_at(now: u64) -> Period {
        Period { begin: now / 1_000 * 1_000, end: now / 1_000 * 1_000 + 1_000 }
    }

    #[test]
    fn what_is_to_be_written_is_bounded_and_the_disk_has_no_more_than_is_remembered() {
        let book = attached();
        let account = book.open(&named(1, 0).0, "a quota", 1_000, 5);
        let take = |key: u64| {
            book.take(&account, named(1, key).1, PERIOD, 5, 1, Allowance { most: None, slack: None });
        };
        for key in 0..20_000 {
            take(key);
            take(30_000 + key);
            book.give_back(&account, named(1, 30_000 + key).1, PERIOD, 1);
        }
        assert!(lock(&book.changed).len() <= 1_000, "what has given way meanwhile need not be written");
        let (mut disk, mut batches) = (HashMap::new(), Vec::new());
        for round in 0..4_000u64 {
            // Keys that come back soon after they have given way, and some of them give way again at once.
            (0..5).for_each(|n| take(crate::exchange::draw(4, round * 5 + n) % 1_500));
            if round % 7 == 0 {
                batches.push(book.take_changed());
            }
            if round % 7 == 3 {
                for batch in std::mem::take(&mut batches) {
                    if round % 2 == 0 {
                        book.note_unwritten(&batch);
                        continue;
                    }
                    write(&mut disk, &batch);
                    book.note_written(&batch);
                }
            }
            assert!(lock(&book.changed).len() <= 2_500, "the keys, and those on the disk that have given way");
        }
        batches.iter().for_each(|batch| book.note_unwritten(batch));
        write(&mut disk, &book.take_changed());
        let on_disk = disk.keys().all(|hash| account.ledger.shelf(key(*hash)).entry(key(*hash)).is_some());
        assert!(on_disk && disk.len() == 1_000, "{}", disk.len());
    }

    /// What a batch makes of the disk.
    fn write(disk: &mut HashMap<u128, Count>, batch: &[(u128, Option<Count>)]) {
        for (hash, count) in batch {
            match count {
                Some(count) => disk.insert(*hash, *count),
                None => disk.remove(hash),
            };
        }
    }

    #[test]
    fn what_is_free_or_given_back_takes_nobodys_place_and_what_is_over_goes_first() {
        let book = attached();
        let ledger = book.open(&named(1, 0).0, "a quota", 1_000, 5);
        let free = Allowance { most: None, slack: None };
        let next = Period { begin: 1_000, end: 2_000 };
        for key in 0..500 {
            book.take(&ledger, named(1, key).1, PERIOD, 5, 9, free);
            book.take(&ledger, named(1, 500 + key).1, next, 1_000, 1, free);
        }
        assert_eq!(book.take(&ledger, named(1, 5_000).1, next, 1_000, 0, free), Taken::Counted(0));
        assert_eq!(book.look(&[&[1; 16][..], &5_000u64.to_be_bytes()].concat()), (0, 0));
        for key in 2_000..2_300 {
            book.take(&ledger, named(1, key).1, next, 1_000, 1, free);
            assert_eq!(book.give_back(&ledger, named(1, key).1, next, 1), 0);
            book.take(&ledger, named(1, key).1, next, 1_000, 1, free);
        }
        assert_eq!(book.forgotten()[0].1, 0, "only those have gone whose period is over");
        assert!(
            (500..1_000).all(|key| { book.take(&ledger, named(1, key).1, next, 1_000, 1, free) == Taken::Counted(2) })
        );
        book.clean(1_000 + 86_400);
        assert_eq!(book.take(&ledger, named(1, 600).1, next, 1_001, 1, free), Taken::Counted(3));
        drop(ledger);
        book.clean(2_000 + 86_400);
        assert!(lock(&book.ledgers).is_empty());
    }
}
