//! Places among those that may be under way at a time, by key.
//!
//! A place is given back when it is dropped, whatever has become of its request. Keys with nothing under way are not remembered, so the
//! memory is bounded by the number of requests under way.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hashbrown::HashMap;

const SHARDS: usize = 64;

/// Who has how many places.
pub(crate) struct Places {
    shards: Box<[Mutex<HashMap<u64, u32>>]>,
    seed: OnceLock<u64>,
}

/// One place.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    hash: u64,
}

impl Default for Places {
    fn default() -> Places {
        Places { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), seed: OnceLock::new() }
    }
}

impl std::fmt::Debug for Places {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Places").finish_non_exhaustive()
    }
}

impl Places {
    /// The seed of the hashes: the first random number that is offered.
    pub(crate) fn seed(&self, random: u64) -> u64 {
        *self.seed.get_or_init(|| random)
    }

    /// A place for a key of which at most `most` may have one, and how many then have; none when there is no room.
    pub(crate) fn take(self: &Arc<Self>, hash: u64, most: u32) -> Option<(Place, u32)> {
        let mut shard = self.shard(hash);
        let count = shard.entry(hash).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        let now = *count;
        Some((Place { places: Arc::clone(self), hash }, now))
    }

    /// How many places are taken in all.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> u32 {
        self.shards.iter().flat_map(|shard| shard.lock().expect("whole").values().copied().collect::<Vec<_>>()).sum()
    }

    fn shard(&self, hash: u64) -> std::sync::MutexGuard<'_, HashMap<u64, u32>> {
        self.shards[(hash >> 58) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shard = self.places.shard(self.hash);
        if let Some(count) = shard.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_when_it_is_dropped() {
        let places = Arc::new(Places::default());
        let held: Vec<_> = (0..3).map_while(|_| places.take(7, 2)).collect();
        assert_eq!(held.len(), 2);
        assert!(places.take(8, 2).is_some());
        drop(held);
        assert_eq!(places.taken(), 0);
        assert_eq!(places.take(7, 2).map(|(_, count)| count), Some(1));
    }
}
