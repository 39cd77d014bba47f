//! What the keys of one quota have used: as many keys as the quota may have, and no key of another.
//!
//! Part of the book of all quotas (`limit/book.rs`). Where there is no room for a new key, one of those gives way that have used the smallest
//! share of the quota in the present period: those of a flood push out each other, and one that has used more than half keeps its count. Where all who
//! would give way have, new keys share one count for as long as that is so: nobody gets a quota back that he has spent by inventing others. A shelf
//! draws up the eighth of its keys that has used least, takes those among them that come meanwhile, and sends them away one after another: that costs
//! a new key no more than looking at eight others. A shelf looks at its own keys only, a sixteenth of all.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::book::Count;
use super::repeats::Repeats;

const SHELVES: usize = 16;

/// The lower half of a [`Room`], and the room where nobody has said how much there is.
const NO_BOUND: u64 = u32::MAX as u64;

/// How long what is over is remembered, in seconds: clocks are set back.
const LATER: u64 = 86_400;

/// What the keys of one quota have used.
#[derive(Debug)]
pub(crate) struct Ledger {
    shelves: Box<[Mutex<Shelf>]>,
    /// The [`Room`] that holds, and the one that was given out last.
    room: AtomicU64,
    newest: AtomicU64,
    /// How many keys there are.
    keys: AtomicUsize,
    /// How many keys with something used in their period have given way, and whether that was told.
    forgotten: AtomicU64,
    told: AtomicBool,
    /// Whether new keys have had to share a count.
    shared: AtomicBool,
    /// What has been counted and may come again.
    pub(crate) repeats: Repeats,
    /// `month of QuotaPolicy shop/gold`; none while only the file knows of it.
    name: OnceLock<Box<str>>,
}

/// How many keys a quota may have, by one configuration: the lower half, below which in turn it is. What is newer holds, from the first new key
/// on that brings it, so that a configuration that is refused changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room(u64);

/// Where the keys of a quota are counted, by one configuration.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) room: Room,
    /// A key that has used more than this gives way to nobody.
    pub(crate) keeps: u64,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) count: Count,
    /// What is on the disk, of the same period.
    pub(crate) written: u64,
    /// Whether it is in the list of what has changed.
    pub(crate) listed: bool,
    /// Whether it is on the disk, or on its way there.
    pub(crate) kept: bool,
}

/// A key that has given way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone {
    pub(crate) key: u64,
    /// Whether it is on the disk, or on its way there.
    pub(crate) kept: bool,
}

/// Some of the keys.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    entries: HashMap<u64, Entry>,
    /// Those that give way next, who has used least first, and of several who came first: what they had used, their turn, and which they are.
    next: BinaryHeap<Reverse<(u64, u64, u64)>>,
    /// What they have used at most: nobody else had used less when they were drawn up.
    line: u64,
    /// How many more keys may come and go until they are drawn up anew.
    left: usize,
    /// Whose turn is last.
    turn: u64,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            shelves: (0..SHELVES).map(|_| Mutex::default()).collect(),
            room: AtomicU64::new(NO_BOUND),
            newest: AtomicU64::new(NO_BOUND),
            keys: AtomicUsize::new(0),
            forgotten: AtomicU64::new(0),
            told: AtomicBool::new(false),
            shared: AtomicBool::new(false),
            repeats: Repeats::default(),
            name: OnceLock::new(),
        }
    }
}

impl Ledger {
    /// Names it, and says how many keys a configuration lets it have. What is too much goes when new ones come.
    pub(crate) fn name(&self, name: &str, most: u32) -> Room {
        self.name.get_or_init(|| name.into());
        let next = |last: u64| match last & NO_BOUND == u64::from(most) {
            true => last,
            false => ((last >> 32) + 1) << 32 | u64::from(most),
        };
        let last = self.newest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        let room = next(last.unwrap_or_else(|last| last));
        // The first one: no other is in force.
        if room >> 32 == 1 {
            self.room.fetch_max(room, Ordering::Relaxed);
        }
        Room(room)
    }

    /// The shelf of a key.
    pub(crate) fn shelf(&self, key: u64) -> MutexGuard<'_, Shelf> {
        self.shelves[(key >> 60) as usize % SHELVES].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are as many keys as there may be.
    pub(crate) fn is_full(&self) -> bool {
        let most = self.room.load(Ordering::Relaxed) & NO_BOUND;
        self.keys.load(Ordering::Relaxed) >= usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// Whether there is no room for a new key, and nobody on its shelf who would give way.
    pub(crate) fn is_taken(&self, shelf: &mut Shelf, room: Room, keeps: u64, now: u64) -> bool {
        let most = self.room.load(Ordering::Relaxed).max(room.0) & NO_BOUND;
        let keys = self.keys.load(Ordering::Relaxed);
        let is_taken = keys >= usize::try_from(most).unwrap_or(usize::MAX) && shelf.is_kept(keeps, now);
        if is_taken {
            self.shared.store(true, Ordering::Relaxed);
        }
        is_taken
    }

    /// Puts a new key on its shelf. Gives the keys that have given way.
    pub(crate) fn put(&self, shelf: &mut Shelf, key: u64, entry: Entry, room: Room, keeps: u64, now: u64) -> Vec<Gone> {
        let mut gone = Vec::new();
        let most = self.room.fetch_max(room.0, Ordering::Relaxed).max(room.0) & NO_BOUND;
        let keys = self.keys.fetch_add(1, Ordering::Relaxed) + 1;
        let over = keys.saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
        // Where there are too many for long, because there may be fewer than before, they become fewer with each new one.
        for _ in 0..over.min(2) {
            let Some((key, entry)) = shelf.send_away(keeps, now) else { break };
            self.keys.fetch_sub(1, Ordering::Relaxed);
            self.forgotten.fetch_add(u64::from(entry.used(now) > 0), Ordering::Relaxed);
            gone.push(Gone { key, kept: entry.kept });
        }
        shelf.insert(key, entry, now);
        gone
    }

    /// Forgets a key that has used nothing after all and is not on the disk.
    pub(crate) fn take_out(&self, shelf: &mut Shelf, key: u64) {
        if shelf.entries.remove(&key).is_some() {
            self.keys.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets what is over, as the file does. Whether nothing is left.
    pub(crate) fn clean(&self, now: u64) -> bool {
        for shelf in &self.shelves {
            let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
            let before = shelf.entries.len();
            shelf.entries.retain(|_, entry| entry.count.period.end.saturating_add(LATER) > now);
            self.keys.fetch_sub(before - shelf.entries.len(), Ordering::Relaxed);
            if shelf.entries.len() < before {
                shelf.entries.shrink_to_fit();
            }
        }
        self.keys.load(Ordering::Relaxed) == 0
    }

    /// Its name, and how many keys have given way before their time.
    pub(crate) fn forgotten(&self) -> Option<(&str, u64)> {
        Some((self.name.get()?, self.forgotten.load(Ordering::Relaxed)))
    }

    /// Its name, the first time that keys have given way before their time, or had to share a count.
    pub(crate) fn news(&self) -> Option<&str> {
        let (name, forgotten) = self.forgotten()?;
        let is_full = forgotten > 0 || self.shared.load(Ordering::Relaxed);
        (is_full && !self.told.swap(true, Ordering::Relaxed)).then_some(name)
    }
}

impl Shelf {
    pub(crate) fn entry(&self, key: u64) -> Option<&Entry> {
        self.entries.get(&key)
    }

    pub(crate) fn entry_mut(&mut self, key: u64) -> Option<&mut Entry> {
        self.entries.get_mut(&key)
    }

    fn insert(&mut self, key: u64, entry: Entry, now: u64) {
        let used = entry.used(now);
        if self.left > 0 && used <= self.line {
            self.left -= 1;
            self.turn += 1;
            self.next.push(Reverse((used, self.turn, key)));
        }
        self.entries.insert(key, entry);
    }

    /// Takes out the key that has used least, unless that is more than this.
    fn send_away(&mut self, keeps: u64, now: u64) -> Option<(u64, Entry)> {
        let (used, turn, key) = self.find_least(now)?;
        if used > keeps {
            self.next.push(Reverse((used, turn, key)));
            return None;
        }
        self.left = self.left.saturating_sub(1);
        Some((key, self.entries.remove(&key)?))
    }

    /// Whether there are keys, and all have used more than this.
    fn is_kept(&mut self, keeps: u64, now: u64) -> bool {
        let Some(least) = self.find_least(now) else { return false };
        self.next.push(Reverse(least));
        least.0 > keeps
    }

    /// Takes the key that has used least out of those that give way next: what it has used, its turn, and which it is.
    fn find_least(&mut self, now: u64) -> Option<(u64, u64, u64)> {
        while !self.entries.is_empty() {
            if self.left == 0 {
                self.draw_up(now);
            }
            while let Some(Reverse((used_then, turn, key))) = self.next.pop() {
                let Some(used) = self.entries.get(&key).map(|entry| entry.used(now)) else { continue };
                if used <= used_then {
                    return Some((used, turn, key));
                }
                if used <= self.line {
                    self.next.push(Reverse((used, turn, key)));
                }
            }
            self.left = 0;
        }
        None
    }

    /// Finds those that have used least.
    fn draw_up(&mut self, now: u64) {
        let mut all: Vec<_> = self.entries.iter().map(|(key, entry)| Reverse((entry.used(now), 0, *key))).collect();
        let count = all.len().div_ceil(8);
        // Those that have used least are the greatest in this order.
        all.select_nth_unstable_by(count - 1, |one, other| other.cmp(one));
        all.truncate(count);
        self.line = all.last().map_or(0, |Reverse((used, ..))| *used);
        (self.left, self.turn) = (count * 2, 0);
        self.next = all.into();
    }
}

impl Entry {
    /// What is on the disk.
    pub(crate) fn kept(count: Count) -> Entry {
        Entry { count, written: count.used, listed: false, kept: true }
    }

    /// What counts now: nothing once the period is over.
    fn used(&self, now: u64) -> u64 {
        if self.count.period.end > now { self.count.used } else { 0 }
    }
}
