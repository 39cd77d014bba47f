//! What the keys of one quota have used: as many keys as the quota may have, and no key of another.
//!
//! Part of the book of all quotas (`limit/book.rs`). Where there is no room for a new key, one of those gives way that have used the smallest
//! share of the quota in the present period: those of a flood push out each other, and one that has used much keeps its count. A shelf
//! draws up the eighth of its keys that has used least, and sends them away one after another: that costs a new key no more than looking at
//! eight others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::book::Count;

const SHELVES: usize = 16;

/// How long what is over is remembered, in seconds: clocks are set back.
const LATER: u64 = 86_400;

/// What the keys of one quota have used.
#[derive(Debug)]
pub(crate) struct Ledger {
    shelves: Box<[Mutex<Shelf>]>,
    /// How many keys there may be, and how many there are.
    most: AtomicUsize,
    keys: AtomicUsize,
    /// How many keys with something used in their period have given way, and whether that was told.
    forgotten: AtomicU64,
    told: AtomicBool,
    /// `month of QuotaPolicy shop/gold`; none while only the file knows of it.
    name: OnceLock<Box<str>>,
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

/// Some of the keys.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    entries: HashMap<u64, Entry>,
    /// Those that give way next, the last one first, as long as they have not used more than `line`.
    next: Vec<u64>,
    line: u64,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            shelves: (0..SHELVES).map(|_| Mutex::default()).collect(),
            most: AtomicUsize::new(usize::MAX),
            keys: AtomicUsize::new(0),
            forgotten: AtomicU64::new(0),
            told: AtomicBool::new(false),
            name: OnceLock::new(),
        }
    }
}

impl Ledger {
    /// Names it, and says how many keys there may be. What is too much goes when new ones come.
    pub(crate) fn name(&self, name: &str, most: usize) {
        self.name.get_or_init(|| name.into());
        self.most.store(most, Ordering::Relaxed);
    }

    /// The shelf of a key.
    pub(crate) fn shelf(&self, key: u64) -> MutexGuard<'_, Shelf> {
        self.shelves[(key >> 60) as usize % SHELVES].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a new key on its shelf. Gives the keys that have given way and are on the disk.
    pub(crate) fn put(&self, shelf: &mut Shelf, key: u64, entry: Entry, now: u64) -> Vec<u64> {
        let mut gone = Vec::new();
        let over = (self.keys.fetch_add(1, Ordering::Relaxed) + 1).saturating_sub(self.most.load(Ordering::Relaxed));
        // Where there are too many for long, because there may be fewer than before, they become fewer with each new one.
        for _ in 0..over.min(2) {
            let Some((key, entry)) = shelf.send_away(now) else { break };
            self.keys.fetch_sub(1, Ordering::Relaxed);
            self.forgotten.fetch_add(u64::from(entry.used(now) > 0), Ordering::Relaxed);
            gone.extend(entry.kept.then_some(key));
        }
        shelf.entries.insert(key, entry);
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

    /// Its name, the first time that keys have given way before their time.
    pub(crate) fn news(&self) -> Option<&str> {
        let (name, forgotten) = self.forgotten()?;
        (forgotten > 0 && !self.told.swap(true, Ordering::Relaxed)).then_some(name)
    }
}

impl Shelf {
    pub(crate) fn entry(&self, key: u64) -> Option<&Entry> {
        self.entries.get(&key)
    }

    pub(crate) fn entry_mut(&mut self, key: u64) -> Option<&mut Entry> {
        self.entries.get_mut(&key)
    }

    /// Takes out the key that has used least.
    fn send_away(&mut self, now: u64) -> Option<(u64, Entry)> {
        loop {
            while let Some(key) = self.next.pop() {
                if self.entries.get(&key).is_some_and(|entry| entry.used(now) <= self.line) {
                    return Some((key, self.entries.remove(&key)?));
                }
            }
            if self.entries.is_empty() {
                return None;
            }
            self.draw_up(now);
        }
    }

    /// Finds those that have used least.
    fn draw_up(&mut self, now: u64) {
        let mut all: Vec<(u64, u64)> = self.entries.iter().map(|(key, entry)| (entry.used(now), *key)).collect();
        let count = all.len().div_ceil(8);
        all.select_nth_unstable(count - 1);
        all.truncate(count);
        all.sort_unstable_by(|one, other| other.cmp(one));
        self.line = all.first().map_or(0, |(used, _)| *used);
        self.next = all.into_iter().map(|(_, key)| key).collect();
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
