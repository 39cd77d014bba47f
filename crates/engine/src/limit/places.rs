//! Places among those that may be under way at a time, by key, and who waits for one.
//!
//! A place is given back when it is dropped, whatever has become of its request. It goes to who has waited longest, and not to whoever comes
//! just then. Keys with nothing under way are not remembered, so the memory is bounded by the number of requests under way and waiting.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use hashbrown::HashMap;

const SHARDS: usize = 64;

/// Who has how many places.
pub(crate) struct Places {
    shards: Box<[Mutex<HashMap<u64, Entry>>]>,
    seed: OnceLock<u64>,
}

/// One key.
#[derive(Default)]
struct Entry {
    taken: u32,
    waiting: VecDeque<Arc<Waiter>>,
}

/// One place.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    hash: u64,
}

/// A request's turn among those that wait for a place. It is given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    places: Arc<Places>,
    hash: u64,
    waiter: Arc<Waiter>,
}

/// What became of a request for a place.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It has one, and so many have one then.
    Place(Place, u32),
    /// It may wait, and so many others wait before it.
    Waits(Turn, usize),
    /// There is no room.
    Full,
}

#[derive(Debug)]
struct Waiter {
    /// How many places there were in all when it came.
    most: u32,
    /// Locked after the shard, never before.
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Waits(Option<Waker>),
    Granted(Place),
    Over,
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

    /// A place for a key of which at most `most` may have one, or a turn where at most `queue` wait.
    pub(crate) fn take(self: &Arc<Self>, hash: u64, most: u32, queue: u32) -> Taken {
        let mut shard = self.shard(hash);
        let entry = shard.entry(hash).or_default();
        // There is room beside those who wait only when a change of the configuration has made it.
        while entry.taken < most && self.hand_on(hash, entry) {
            entry.taken += 1;
        }
        if entry.taken < most {
            entry.taken += 1;
            return Taken::Place(Place { places: Arc::clone(self), hash }, entry.taken);
        }
        let before = entry.waiting.len();
        if before >= queue as usize {
            return Taken::Full;
        }
        let waiter = Arc::new(Waiter { most, state: Mutex::new(State::Waits(None)) });
        entry.waiting.push_back(Arc::clone(&waiter));
        Taken::Waits(Turn { places: Arc::clone(self), hash, waiter }, before)
    }

    /// Gives a place to who has waited longest; false when nobody waits.
    fn hand_on(self: &Arc<Self>, hash: u64, entry: &mut Entry) -> bool {
        let Some(waiter) = entry.waiting.pop_front() else { return false };
        let place = Place { places: Arc::clone(self), hash };
        let before = std::mem::replace(&mut *lock(&waiter.state), State::Granted(place));
        if let State::Waits(Some(waker)) = before {
            waker.wake();
        }
        true
    }

    /// How many places of a key are taken, for who takes none.
    pub(crate) fn look(&self, key: &[u8]) -> u32 {
        let Some(seed) = self.seed.get() else { return 0 };
        let hash = super::key::hash(*seed, key);
        self.shard(hash).get(&hash).map_or(0, |entry| entry.taken)
    }

    /// How many places are taken in all.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> u32 {
        self.shards.iter().flat_map(|shard| lock(shard).values().map(|entry| entry.taken).collect::<Vec<_>>()).sum()
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashMap<u64, Entry>> {
        lock(&self.shards[(hash >> 58) as usize % SHARDS])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shard = self.places.shard(self.hash);
        let Some(entry) = shard.get_mut(&self.hash) else { return };
        // Fewer may be under way since a change of the configuration.
        let is_wanted = entry.waiting.front().is_some_and(|waiter| entry.taken <= waiter.most);
        if is_wanted && self.places.hand_on(self.hash, entry) {
            return;
        }
        entry.taken -= 1;
        if entry.taken == 0 && entry.waiting.is_empty() {
            shard.remove(&self.hash);
        }
    }
}

impl Turn {
    /// Ready when there is a place.
    pub(crate) fn comes(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(Comes(Arc::clone(&self.waiter)))
    }

    /// The place, when the turn has come.
    pub(crate) fn place(self) -> Option<Place> {
        match std::mem::replace(&mut *lock(&self.waiter.state), State::Over) {
            State::Granted(place) => Some(place),
            State::Waits(_) | State::Over => None,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut shard = self.places.shard(self.hash);
        if let Some(entry) = shard.get_mut(&self.hash) {
            entry.waiting.retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
            if entry.taken == 0 && entry.waiting.is_empty() {
                shard.remove(&self.hash);
            }
        }
        let left = std::mem::replace(&mut *lock(&self.waiter.state), State::Over);
        // A place that came too late goes to the next; it locks the shard itself.
        drop(shard);
        drop(left);
    }
}

struct Comes(Arc<Waiter>);

impl Future for Comes {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *lock(&self.0.state) {
            State::Waits(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Granted(_) | State::Over => Poll::Ready(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(taken: Taken) -> Place {
        match taken {
            Taken::Place(place, _) => place,
            other => panic!("{other:?}"),
        }
    }

    fn turn(taken: Taken) -> Turn {
        match taken {
            Taken::Waits(turn, _) => turn,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_place_is_given_back_when_it_is_dropped() {
        let places = Arc::new(Places::default());
        let held = [place(places.take(7, 2, 0)), place(places.take(7, 2, 0))];
        assert!(matches!(places.take(7, 2, 0), Taken::Full));
        assert!(matches!(places.take(8, 2, 0), Taken::Place(..)));
        drop(held);
        assert_eq!(places.taken(), 0);
        assert!(matches!(places.take(7, 2, 0), Taken::Place(_, 1)));
    }

    #[test]
    fn who_has_waited_longest_is_next_and_nobody_comes_before_him() {
        let places = Arc::new(Places::default());
        let held = place(places.take(7, 1, 2));
        let (first, second) = (turn(places.take(7, 1, 2)), turn(places.take(7, 1, 2)));
        assert!(matches!(places.take(7, 1, 2), Taken::Full));
        drop(held);
        assert!(matches!(places.take(7, 1, 2), Taken::Waits(_, 1)), "the place is the first one's");
        let first = first.place().expect("its turn has come");
        assert_eq!(places.taken(), 1);
        drop(first);
        drop(second.place().expect("its turn has come"));
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn who_leaves_takes_no_place_with_him() {
        let places = Arc::new(Places::default());
        let held = place(places.take(7, 1, 9));
        let (first, second, third) =
            (turn(places.take(7, 1, 9)), turn(places.take(7, 1, 9)), turn(places.take(7, 1, 9)));
        drop(first);
        drop(held);
        // The second's turn has come, and he leaves without having noticed.
        drop(second);
        drop(third.place().expect("its turn has come"));
        assert!(turn_is_over(&places));
        let held = place(places.take(7, 1, 9));
        assert!(turn(places.take(7, 1, 9)).place().is_none(), "its turn has not come");
        drop(held);
        assert!(turn_is_over(&places));
    }

    fn turn_is_over(places: &Places) -> bool {
        places.taken() == 0 && places.shard(7).is_empty()
    }

    #[test]
    fn more_and_fewer_places_are_there_after_a_change() {
        let places = Arc::new(Places::default());
        let held = [place(places.take(7, 2, 9)), place(places.take(7, 2, 9))];
        let waits = turn(places.take(7, 2, 9));
        // Three may be under way now: one for who waits, none for who comes.
        assert!(matches!(places.take(7, 3, 9), Taken::Waits(_, 0)));
        let place = waits.place().expect("its turn has come");
        let waits = turn(places.take(7, 1, 9));
        drop(held);
        assert_eq!(places.taken(), 1, "one too many before, and none is handed on");
        drop(place);
        assert!(waits.place().is_some());
    }
}
