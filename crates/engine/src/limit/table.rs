//! The memory of a limit: one cell per key, bounded, shared by all workers.
//!
//! Keys are known by 64 bits of a hash with a secret seed. The table is cut into shards, each behind its own lock, and a shard into groups
//! of eight places; a key belongs to one group. A group that is full makes the shard grow until it has its most; from then on a new
//! key takes the place of one that may be forgotten, or else of the one that has used the smallest share. **A key that has used more than half of
//! its limit is never forgotten**, whatever the new one asks, so a flood of other keys cannot reset it: who has just found no room for one more
//! like those before has used more than half, whatever they cost. Where all eight places of a group are of that kind, new keys share the one
//! spare cell of the shard until a place is free. To fill a group so, somebody must have used more than half of eight limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Algorithm, Cell, WHOLE};

const SHARDS: usize = 64;
const PLACES: usize = 8;

/// The cells of all keys of one limit.
pub(crate) struct Table {
    shards: Box<[Shard]>,
    seed: OnceLock<u64>,
    forgotten: AtomicU64,
    /// Those of the newest configuration, which need not have come into force.
    terms: Mutex<Option<Terms>>,
}

/// Alone on its cache lines, so that the locks of neighbours do not slow each other down.
#[repr(align(128))]
struct Shard(Mutex<Groups>);

#[derive(Default)]
struct Groups {
    groups: Vec<Group>,
    /// New keys since the shard was last looked through.
    arrived: usize,
    spare: Cell,
    /// How its cells are counted, once there are any.
    terms: Option<Terms>,
}

/// How cells are counted, and how many there may be. A limit brings them with each charge, so that a configuration that is refused changes nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) algorithm: Algorithm,
    /// The most groups of a shard.
    most: usize,
    /// Which in turn these are: what is newer holds.
    edition: u64,
}

#[derive(Clone, Copy, Default)]
struct Group {
    /// The hashes; zero is a free place.
    keys: [u64; PLACES],
    cells: [Cell; PLACES],
}

/// A key with its shard locked.
pub(crate) struct Held<'t> {
    shard: MutexGuard<'t, Groups>,
    table: &'t Table,
    hash: u64,
    place: Place,
    /// How it is counted: as the newest configuration says that has counted here.
    pub(crate) algorithm: Algorithm,
    most: usize,
    now: u64,
}

#[derive(Clone, Copy)]
enum Place {
    Known(usize, usize),
    /// A place that is free, or whose key may be forgotten.
    Free(usize, usize),
    /// The group is full and the shard may grow.
    Grow,
    /// The spare cell.
    Spare,
}

impl Table {
    /// An empty table.
    pub(crate) fn new() -> Table {
        let shards = (0..SHARDS).map(|_| Shard(Mutex::default())).collect();
        Table { shards, seed: OnceLock::new(), forgotten: AtomicU64::new(0), terms: Mutex::default() }
    }

    /// The terms of a configuration: how it counts, and about how many keys it has at most. From its first charge on, what other configurations
    /// have counted is put into these terms, shard by shard when one is next used. A table that is larger already stays so until it empties.
    pub(crate) fn terms(&self, algorithm: Algorithm, keys: usize) -> Terms {
        let most = keys.div_ceil(SHARDS * PLACES).next_power_of_two();
        let mut terms = self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        let edition = match *terms {
            Some(known) if known.algorithm == algorithm && known.most == most => return known,
            known => known.map_or(1, |known| known.edition + 1),
        };
        *terms.insert(Terms { algorithm, most, edition })
    }

    /// The seed of the hashes: the first random number that is offered.
    pub(crate) fn seed(&self, random: u64) -> u64 {
        *self.seed.get_or_init(|| random)
    }

    /// The hash of a key. None before there was a request.
    pub(crate) fn hash_of(&self, key: &[u8]) -> Option<u64> {
        self.seed.get().map(|seed| super::key::hash(*seed, key))
    }

    /// Locks the shard of a key. Several keys at once are locked in the order of their tables' addresses.
    pub(crate) fn hold(&self, hash: u64, terms: &Terms, now: u64) -> Held<'_> {
        let hash = hash.max(1);
        let mut shard = self.shard(hash);
        let Terms { algorithm, most, .. } = shard.agree(terms, now);
        let place = shard.find(hash, &algorithm, now, most);
        Held { shard, table: self, hash, place, algorithm, most, now }
    }

    /// What is remembered of a key and how it is counted, for who changes nothing. Where nothing is remembered yet, it is counted as it would be.
    pub(crate) fn look(&self, key: &[u8], now: u64) -> Option<(Cell, Algorithm)> {
        let newest = (*self.terms.lock().unwrap_or_else(PoisonError::into_inner))?.algorithm;
        let Some(hash) = self.hash_of(key) else { return Some((Cell::default(), newest)) };
        let hash = hash.max(1);
        let shard = self.shard(hash);
        let cell = shard.groups.len().checked_sub(1).and_then(|mask| {
            let group = &shard.groups[hash as usize & mask];
            let place = group.keys.iter().position(|one| *one == hash)?;
            let terms = shard.terms.as_ref()?;
            Some(newest.take_over(group.cells[place], &terms.algorithm, now))
        });
        Some((cell.unwrap_or_default(), newest))
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Groups> {
        self.shards[(hash >> 58) as usize % SHARDS].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys that were forgotten for others before their time.
    #[cfg(test)]
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Keys that are remembered, and the bytes that they take.
    #[cfg(test)]
    pub(crate) fn size(&self) -> (usize, usize) {
        let mut sum = (0, 0);
        for shard in &self.shards {
            let shard = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
            sum.0 += shard.groups.iter().flat_map(|group| group.keys).filter(|key| *key != 0).count();
            sum.1 += shard.groups.capacity() * size_of::<Group>();
        }
        sum
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Table").finish_non_exhaustive()
    }
}

impl Held<'_> {
    /// What is remembered of the key.
    pub(crate) fn cell(&self) -> Cell {
        match self.place {
            Place::Known(group, place) => self.shard.groups[group].cells[place],
            Place::Free(..) | Place::Grow => Cell::default(),
            Place::Spare => self.shard.spare,
        }
    }

    /// Remembers a cell for the key.
    pub(crate) fn put(&mut self, cell: Cell) {
        let (algorithm, most, now) = (self.algorithm, self.most, self.now);
        while matches!(self.place, Place::Grow) {
            let groups = (self.shard.groups.len() * 2).clamp(1, most);
            self.shard.rebuild(groups, &algorithm, now);
            self.place = self.shard.find(self.hash, &algorithm, now, most);
        }
        match self.place {
            Place::Known(group, place) => self.shard.groups[group].cells[place] = cell,
            Place::Free(group, place) => {
                let shard = &mut *self.shard;
                let free = &mut shard.groups[group];
                if free.keys[place] != 0 && algorithm.share(free.cells[place], now) > 0 {
                    self.table.forgotten.fetch_add(1, Ordering::Relaxed);
                }
                free.keys[place] = self.hash;
                free.cells[place] = cell;
                self.place = Place::Known(group, place);
                shard.arrived += 1;
                if shard.arrived > shard.groups.len() {
                    shard.look_through(&algorithm, now);
                    self.place = shard.find(self.hash, &algorithm, now, most);
                }
            }
            Place::Grow | Place::Spare => self.shard.spare = cell,
        }
    }
}

impl Groups {
    /// The terms that hold here, after what is here was put into these if they are newer.
    fn agree(&mut self, terms: &Terms, now: u64) -> Terms {
        match self.terms {
            Some(known) if known.edition >= terms.edition => return known,
            Some(Terms { algorithm, .. }) => {
                let cells = self.groups.iter_mut().flat_map(|group| group.cells.iter_mut());
                for cell in cells.chain(std::iter::once(&mut self.spare)) {
                    *cell = terms.algorithm.take_over(*cell, &algorithm, now);
                }
            }
            None => {}
        }
        *self.terms.insert(*terms)
    }

    fn find(&self, hash: u64, algorithm: &Algorithm, now: u64, most: usize) -> Place {
        let Some(mask) = self.groups.len().checked_sub(1) else {
            return Place::Grow;
        };
        let index = hash as usize & mask;
        let group = &self.groups[index];
        if let Some(place) = group.keys.iter().position(|key| *key == hash) {
            return Place::Known(index, place);
        }
        if let Some(place) = group.keys.iter().position(|key| *key == 0) {
            return Place::Free(index, place);
        }
        let shares = (0..PLACES).map(|place| (algorithm.share(group.cells[place], now), place));
        match shares.min() {
            Some((0, place)) => Place::Free(index, place),
            _ if self.groups.len() < most => Place::Grow,
            Some((share, place)) if share <= WHOLE / 2 => Place::Free(index, place),
            _ => Place::Spare,
        }
    }

    /// Moves what is worth remembering to that many groups, a power of two. Fewer groups may be too few: nothing changes then.
    fn rebuild(&mut self, count: usize, algorithm: &Algorithm, now: u64) {
        let mut groups = vec![Group::default(); count];
        for group in &self.groups {
            for (key, cell) in group.keys.iter().zip(&group.cells) {
                if *key == 0 || algorithm.share(*cell, now) == 0 {
                    continue;
                }
                let target = &mut groups[*key as usize & (count - 1)];
                let Some(place) = target.keys.iter().position(|key| *key == 0) else {
                    return;
                };
                target.keys[place] = *key;
                target.cells[place] = *cell;
            }
        }
        self.groups = groups;
    }

    /// Forgets what may be forgotten, and gives memory back when little is left.
    fn look_through(&mut self, algorithm: &Algorithm, now: u64) {
        self.arrived = 0;
        let mut kept = 0;
        for group in &mut self.groups {
            for (key, cell) in group.keys.iter_mut().zip(&group.cells) {
                if *key != 0 && algorithm.share(*cell, now) == 0 {
                    *key = 0;
                }
                kept += usize::from(*key != 0);
            }
        }
        let wanted = (kept * 4).div_ceil(PLACES).next_power_of_two();
        if wanted < self.groups.len() {
            self.rebuild(wanted, algorithm, now);
        }
    }
}

#[cfg(test)]
mod tests;
