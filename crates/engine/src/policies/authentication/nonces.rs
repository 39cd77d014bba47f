//! Nonces of signatures that were seen, so that none is good twice.
//!
//! Kept for each key of a scheme by itself, so that nobody who signs with one key can use up the room of another. Asked by the scheme when it looks at a
//! signature, told ([`Use`]) when the request is let in: who sends somebody else's head with another content spends nothing, and what is refused for
//! another reason may come again. Proofs and tokens that are good once are remembered in the same way.
//!
//! A nonce is remembered until nobody takes its signature any more: those who take it say for how long ([`Taken`]). What may
//! have been forgotten is refused, also where a configuration takes it for longer than the one before. What has ended is forgotten a little at a time, in the order of the ends,
//! by those who come with new ones, so that nobody waits for a sweep.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use smallvec::SmallVec;

use super::scheme::Proof;
use crate::principal::StoredMark;

/// What is remembered of a nonce: half of its SHA-256. Who finds two alike has spent one of his own.
type Hash = [u8; 16];

/// The nonces of all keys of a scheme together.
const OF_ALL: usize = 2_000_000;
/// The nonces of one key.
const OF_ONE: usize = 100_000;
/// How many that have ended are forgotten at a time: more than one, so that they become fewer.
const AT_A_TIME: usize = 8;

/// The name under which what was made with a key is remembered: two schemes that have the same key see what the other one has seen.
pub(super) fn remembered_as(what: &str, key: &[&[u8]]) -> String {
    let mut made = digest::Context::new(&digest::SHA256);
    for part in key {
        made.update(&(part.len() as u64).to_le_bytes());
        made.update(part);
    }
    format!("{what} by {}", HEXLOWER.encode(made.finish().as_ref()))
}

/// How many nonces each of so many keys may have under way.
pub(super) fn share(keys: usize) -> usize {
    (OF_ALL / keys.max(1)).min(OF_ONE)
}

/// The nonces of one key.
#[derive(Debug, Default)]
pub(super) struct Nonces {
    seen: Mutex<Seen>,
    takers: Arc<Takers>,
}

#[derive(Debug, Default)]
struct Seen {
    hashes: HashMap<Hash, Life>,
    /// When each may be forgotten, in seconds since the Unix epoch, the first first.
    ends: BinaryHeap<Reverse<(u64, Hash)>>,
    /// For how many seconds what is remembered was taken when the ends were reckoned.
    longest: Option<u64>,
    forgotten: Forgotten,
}

/// What may have been forgotten, in seconds since the Unix epoch. Somebody may still take it: who has begun to show it before it had ended, or has a
/// clock that is behind; and all whose configuration takes it for longer than those before did.
#[derive(Clone, Copy, Debug, Default)]
struct Forgotten {
    /// What was made in this second or before.
    made: Option<u64>,
    /// What could be good until this second at all.
    last: Option<u64>,
}

/// For how long what is remembered is taken.
#[derive(Debug, Default)]
pub(super) struct Takers {
    /// In seconds, and by how many it is for so long.
    times: Mutex<BTreeMap<u64, usize>>,
    /// The longest, or zero.
    longest: AtomicU64,
}

impl Takers {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<u64, usize>)) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut times);
        self.longest.store(times.last_key_value().map_or(0, |(time, _)| *time), Ordering::Relaxed);
    }

    fn longest(&self) -> Option<u64> {
        Some(self.longest.load(Ordering::Relaxed)).filter(|longest| *longest != 0)
    }
}

/// What has takers.
pub(super) trait Remembers {
    fn takers(&self) -> &Takers;
}

impl Remembers for Nonces {
    fn takers(&self) -> &Takers {
        &self.takers
    }
}

/// What is good once by many keys, each of which has a memory of its own: nobody who has another key uses up the room of one, and two who count alike do
/// not meet.
#[derive(Debug, Default)]
pub(super) struct ByKey {
    memories: Mutex<Memories>,
    takers: Arc<Takers>,
}

#[derive(Debug, Default)]
struct Memories {
    by_key: HashMap<StoredMark, Arc<Nonces>>,
    /// Of those that are gone: any that is made may be one of them.
    forgotten: Forgotten,
}

impl Remembers for ByKey {
    fn takers(&self) -> &Takers {
        &self.takers
    }
}

impl ByKey {
    /// The memory of a key. Those in which nothing is left are forgotten when there is a new one.
    pub(super) fn of(&self, key: StoredMark, now: Duration) -> Arc<Nonces> {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let Memories { by_key, forgotten } = &mut *memories;
        if let Some(known) = by_key.get(&key) {
            return Arc::clone(known);
        }
        by_key.retain(|_, memory| match memory.when_over(now) {
            Some(over) if Arc::strong_count(memory) == 1 => {
                forgotten.add(over);
                false
            }
            _ => true,
        });
        forgotten.forget_another_clock(now);
        let seen = Mutex::new(Seen { forgotten: *forgotten, ..Seen::default() });
        let made = Arc::new(Nonces { seen, takers: Arc::clone(&self.takers) });
        by_key.insert(key, Arc::clone(&made));
        made
    }
}

/// When something was made and until when it can be good at all, in seconds since the Unix epoch: the time for which it is taken, by whoever takes it for
/// the longest, is counted from the one and ends with the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    made: u64,
    last: u64,
}

impl Life {
    /// Of what was made then; it may say itself until when it is good.
    pub(super) fn new(made: Duration, last: Option<Duration>) -> Life {
        Life { made: made.as_secs(), last: last.map_or(u64::MAX, |last| last.as_secs()) }
    }

    /// Of what everybody takes until the same time.
    pub(super) fn until(last: Duration) -> Life {
        Life { made: u64::MAX, last: last.as_secs() }
    }

    /// Until when it is good for one who takes it for so long.
    pub(super) fn taken_for(self, time: Duration) -> Duration {
        Duration::from_secs(self.made).saturating_add(time).min(Duration::from_secs(self.last))
    }

    /// The second from which on it may be forgotten. Rounded up: rather a second too long than too short.
    fn end(self, longest: Option<u64>) -> u64 {
        let taken = longest.map_or(u64::MAX, |longest| self.made.saturating_add(longest));
        taken.min(self.last).saturating_add(1)
    }
}

/// That somebody takes what is remembered for so long after it was made: held while he does, so that a time that was made shorter is forgotten with the
/// configuration that said it.
#[derive(Debug)]
pub(super) struct Taken<M: Remembers = Nonces> {
    memory: Arc<M>,
    seconds: u64,
}

impl<M: Remembers> Taken<M> {
    /// By whoever looks at it in this way, from now on.
    pub(super) fn from(memory: Arc<M>, time: Duration) -> Taken<M> {
        let seconds = time.as_secs().saturating_add(1);
        memory.takers().change(|times| *times.entry(seconds).or_default() += 1);
        Taken { memory, seconds }
    }

    pub(super) fn memory(&self) -> &Arc<M> {
        &self.memory
    }
}

impl<M: Remembers> Drop for Taken<M> {
    fn drop(&mut self) {
        self.memory.takers().change(|times| {
            if let Some(takers) = times.get_mut(&self.seconds) {
                *takers -= 1;
                if *takers == 0 {
                    times.remove(&self.seconds);
                }
            }
        });
    }
}

/// Why a nonce is not noted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It was seen before.
    Seen,
    /// It may have been: it is older than what is remembered.
    Forgotten,
    /// Its key has too many that are still good.
    Crowded,
}

impl Nonces {
    /// What is remembered, by the times for which it is taken now.
    fn seen(&self, now: Duration) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.reckon(self.takers.longest());
        seen.forgotten.forget_another_clock(now);
        seen
    }

    /// Whether a nonce was seen, and its signature is still good.
    pub(super) fn knows(&self, nonce: &str, now: Duration) -> bool {
        self.seen(now).knows(&hash(nonce), now)
    }

    /// Whether a nonce could be noted now, among `most`.
    pub(super) fn check(&self, nonce: &str, life: Life, now: Duration, most: usize) -> Result<(), Refused> {
        let mut seen = self.seen(now);
        seen.forget(now);
        seen.check(&hash(nonce), life, now, most)
    }

    /// Notes a nonce, among `most`.
    pub(super) fn spend(&self, nonce: &str, life: Life, now: Duration, most: usize) -> Result<(), Refused> {
        let mut seen = self.seen(now);
        seen.forget(now);
        let hash = hash(nonce);
        seen.check(&hash, life, now, most)?;
        let end = life.end(seen.longest);
        seen.hashes.insert(hash, life);
        seen.ends.push(Reverse((end, hash)));
        Ok(())
    }

    /// What may have been forgotten with all of it, where all that is remembered has ended.
    fn when_over(&self, now: Duration) -> Option<Forgotten> {
        let seen = self.seen(now);
        let mut forgotten = seen.forgotten;
        if let Some(end) = seen.hashes.values().map(|life| life.end(seen.longest)).max() {
            forgotten.note(end, seen.longest);
            return (end <= now.as_secs()).then_some(forgotten);
        }
        Some(forgotten)
    }
}

/// What is used up when a request is let in.
#[derive(Debug)]
pub(super) struct Use {
    pub(super) memory: Arc<Nonces>,
    pub(super) id: Box<str>,
    /// Until when it would be good, since the Unix epoch.
    pub(super) end: Duration,
    /// By which it is remembered: others may take it for longer.
    pub(super) life: Life,
    /// How many the memory takes.
    pub(super) most: usize,
    /// What is said of one that was used before, and where there is no room.
    pub(super) seen: &'static str,
    pub(super) crowded: &'static str,
}

/// All that a credential uses up.
pub(super) type Uses = SmallVec<[Arc<Use>; 1]>;

impl Use {
    /// Whether it can be used up. Those in `spent` were used by the same request, for another scheme that was shown the same.
    ///
    /// # Errors
    /// What the credential is worth after all.
    pub(super) fn check(&self, spent: &Uses, now: Duration) -> Result<(), Proof> {
        if self.is_among(spent) {
            return Ok(());
        }
        // It was good when it was looked at; meanwhile somebody was waited for, and the memory may have let it go.
        if now >= self.end {
            return Err(Proof::invalid("it has ended meanwhile"));
        }
        self.memory.check(&self.id, self.life, now, self.most).map_err(|why| self.refusal(&why))
    }

    /// Uses it up, and notes that in `spent`.
    ///
    /// # Errors
    /// As for [`Use::check`].
    pub(super) fn spend(self: &Arc<Self>, spent: &mut Uses, now: Duration) -> Result<(), Proof> {
        self.check(spent, now)?;
        if !self.is_among(spent) {
            self.memory.spend(&self.id, self.life, now, self.most).map_err(|why| self.refusal(&why))?;
            spent.push(Arc::clone(self));
        }
        Ok(())
    }

    fn is_among(&self, spent: &Uses) -> bool {
        spent.iter().any(|other| Arc::ptr_eq(&other.memory, &self.memory) && other.id == self.id)
    }

    fn refusal(&self, why: &Refused) -> Proof {
        match why {
            Refused::Seen => Proof::invalid(self.seen),
            Refused::Forgotten => {
                Proof::invalid("it is older than what is remembered, so it may have been used before")
            }
            Refused::Crowded => Proof::Unavailable(self.crowded.into()),
        }
    }
}

/// What a proof is worth once it has been used up.
#[cfg(test)]
pub(super) fn spent(proof: Proof, now: Duration) -> Proof {
    let Proof::Once(principal, uses) = proof else { return proof };
    let mut spent = Uses::new();
    let refused = uses.iter().find_map(|one| one.spend(&mut spent, now).err());
    refused.unwrap_or(Proof::Valid(principal))
}

impl Seen {
    /// Reckons the ends anew where what is remembered is taken for another time than before; where nobody takes it, it is as it was.
    fn reckon(&mut self, longest: Option<u64>) {
        if longest.is_some() && longest != self.longest {
            self.longest = longest;
            self.ends = self.hashes.iter().map(|(hash, life)| Reverse((life.end(longest), *hash))).collect();
        }
    }

    fn knows(&self, hash: &Hash, now: Duration) -> bool {
        self.hashes.get(hash).is_some_and(|life| life.end(self.longest) > now.as_secs())
    }

    fn check(&self, hash: &Hash, life: Life, now: Duration, most: usize) -> Result<(), Refused> {
        match self.knows(hash, now) {
            true => Err(Refused::Seen),
            false if self.forgotten.has(life) => Err(Refused::Forgotten),
            false if self.hashes.len() >= most => Err(Refused::Crowded),
            false => Ok(()),
        }
    }

    fn forget(&mut self, now: Duration) {
        for _ in 0..AT_A_TIME {
            match self.ends.peek() {
                Some(Reverse((end, hash))) if *end <= now.as_secs() => {
                    // It may have been spent again meanwhile.
                    if self.hashes.get(hash).is_some_and(|life| life.end(self.longest) == *end) {
                        self.forgotten.note(*end, self.longest);
                        self.hashes.remove(hash);
                    }
                    self.ends.pop();
                }
                _ => return,
            }
        }
    }
}

/// What is forgotten by a clock that is so much ahead is forgotten by another clock, which was set back since: by that one it can be anything.
const ANOTHER_CLOCK: u64 = 60;

impl Forgotten {
    /// Everything that had an end up to this one, where it is taken for so long at most, may have been forgotten.
    fn note(&mut self, end: u64, longest: Option<u64>) {
        let before = end.saturating_sub(1);
        self.last = self.last.max(Some(before));
        self.made = self.made.max(longest.and_then(|longest| before.checked_sub(longest)));
    }

    fn add(&mut self, other: Forgotten) {
        self.last = self.last.max(other.last);
        self.made = self.made.max(other.made);
    }

    fn has(&self, life: Life) -> bool {
        self.made.is_some_and(|made| life.made <= made) || self.last.is_some_and(|last| life.last <= last)
    }

    fn forget_another_clock(&mut self, now: Duration) {
        if self.last.is_some_and(|last| last > now.as_secs().saturating_add(ANOTHER_CLOCK)) {
            *self = Forgotten::default();
        }
    }
}

fn hash(nonce: &str) -> Hash {
    let whole = digest::digest(&digest::SHA256, nonce.as_bytes());
    // It is 32 bytes long.
    whole.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{below, draw};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn until(seconds: u64) -> Life {
        Life::until(at(seconds))
    }

    #[test]
    fn a_nonce_is_remembered_until_its_signature_has_ended() {
        let nonces = Nonces::default();
        assert_eq!(nonces.spend("a", until(300), at(0), 10), Ok(()));
        assert_eq!(nonces.spend("a", until(900), at(299), 10), Err(Refused::Seen));
        assert!(nonces.knows("a", at(300)) && !nonces.knows("b", at(300)));
        assert!(!nonces.knows("a", at(301)));
        assert_eq!(nonces.spend("a", until(900), at(301), 10), Ok(()));
    }

    #[test]
    fn the_room_is_that_of_what_is_still_good() {
        let nonces = Nonces::default();
        for number in 0..10u64 {
            assert_eq!(nonces.spend(&number.to_string(), until(300 - number), at(0), 10), Ok(()));
        }
        assert_eq!(nonces.spend("more", until(300), at(290), 10), Err(Refused::Crowded));
        // The one that ends first makes room for one.
        assert_eq!(nonces.spend("more", until(300), at(292), 10), Ok(()));
        assert_eq!(nonces.spend("yet more", until(300), at(292), 10), Err(Refused::Crowded));
    }

    #[test]
    fn what_has_ended_is_forgotten_a_little_at_a_time() {
        let nonces = Nonces::default();
        for number in 0..1000u64 {
            assert_eq!(nonces.spend(&number.to_string(), until(300), at(0), 1000), Ok(()));
        }
        // One that was seen before is free again, whether it was forgotten already or not.
        for number in (0..1000u64).rev() {
            assert_eq!(nonces.spend(&number.to_string(), until(900), at(301), 1000), Ok(()), "{number}");
            assert!(nonces.knows(&number.to_string(), at(301)));
        }
        let seen = nonces.seen(at(301));
        assert_eq!((seen.hashes.len(), seen.ends.len()), (1000, 1000));
    }

    #[test]
    fn the_room_is_that_of_the_longest_time_for_which_it_is_taken_today() {
        let nonces: Arc<Nonces> = Arc::default();
        let made = |seconds: u64| Life::new(at(seconds), None);
        let short = Taken::from(Arc::clone(&nonces), at(10));
        let long = Taken::from(Arc::clone(&nonces), at(300));
        for number in 0..10u64 {
            assert_eq!(nonces.spend(&number.to_string(), made(0), at(0), 10), Ok(()));
        }
        assert!(nonces.knows("0", at(300)));
        assert_eq!(nonces.spend("more", made(100), at(100), 10), Err(Refused::Crowded));
        let longer = Taken::from(Arc::clone(&nonces), at(300));
        drop(long);
        assert_eq!(nonces.spend("more", made(100), at(100), 10), Err(Refused::Crowded));
        drop(longer);
        assert_eq!(nonces.spend("more", made(100), at(100), 10), Ok(()));
        assert!(!nonces.knows("0", at(100)) && nonces.knows("more", at(100)));
        // Where nobody takes it at present, nothing is forgotten the earlier.
        drop(short);
        assert!(nonces.knows("more", at(111)) && !nonces.knows("more", at(112)));
    }

    #[test]
    fn what_may_have_been_forgotten_is_not_taken_for_longer() {
        for raised in 1..40 {
            let nonces: Arc<Nonces> = Arc::default();
            let life = |made: u64| Life::new(at(made), Some(at(made + 1000)));
            let short = Taken::from(Arc::clone(&nonces), at(10));
            for made in 0..raised {
                assert_eq!(nonces.spend(&made.to_string(), life(made), at(made), 100), Ok(()));
            }
            let long = Taken::from(Arc::clone(&nonces), at(300));
            drop(short);
            let mut forgotten = 0;
            for now in [raised, raised + 20, raised + 250] {
                for made in 0..raised {
                    let refused =
                        nonces.spend(&made.to_string(), life(made), at(now), 100).expect_err("no second time");
                    forgotten += u64::from(refused == Refused::Forgotten);
                }
            }
            // Those that were remembered then are known.
            assert_eq!(forgotten, 3 * raised.saturating_sub(12), "{raised}");
            assert_eq!(nonces.spend("another", life(raised), at(raised + 250), 100), Ok(()));
            drop(long);
        }
    }

    #[test]
    fn what_was_forgotten_is_good_for_nobody_whose_clock_is_behind() {
        let nonces: Arc<Nonces> = Arc::default();
        let _taken = Taken::from(Arc::clone(&nonces), at(300));
        let life = |made: u64| Life::new(at(made), None);
        assert_eq!(nonces.spend("a", life(1000), at(1001), 10), Ok(()));
        assert_eq!(nonces.spend("b", life(1300), at(1303), 10), Ok(()));
        // Who has begun to show it before it ended.
        assert_eq!(nonces.spend("a", life(1000), at(1299), 10), Err(Refused::Forgotten));
        assert_eq!(nonces.spend("c", life(1002), at(1299), 10), Ok(()), "it was not forgotten");
        // A clock that was an hour ahead and is set back.
        assert_eq!(nonces.spend("d", life(4900), at(4900), 10), Ok(()));
        assert_eq!(nonces.spend("e", life(1305), at(1305), 10), Ok(()));
        // What says itself until when it is good.
        let proofs = Nonces::default();
        assert_eq!(proofs.spend("a", until(60), at(1), 10), Ok(()));
        assert_eq!(proofs.spend("b", until(121), at(62), 10), Ok(()));
        assert_eq!(proofs.spend("a", until(60), at(59), 10), Err(Refused::Forgotten));
        assert_eq!(proofs.spend("c", until(61), at(59), 10), Ok(()));
    }

    #[test]
    fn nothing_is_taken_twice_and_nothing_new_is_refused() {
        let (mut taken, mut again, mut forgotten) = (0, 0, 0);
        for seed in 0..400u64 {
            let mut step = 0;
            let mut pick = |most: u64| {
                step += 1;
                below(draw(seed, step), most)
            };
            let (is_steady, nonces) = (seed % 2 == 0, Arc::<Nonces>::default());
            let taking = |time: u64| (time, Taken::from(Arc::clone(&nonces), at(time)));
            let mut takers = vec![taking(5 + pick(60))];
            let mut made: Vec<(u64, Option<u64>, bool)> = Vec::new();
            let mut now = 1000;
            for _ in 0..400 {
                now += pick(3);
                if !is_steady && pick(20) == 0 {
                    takers.push(taking(5 + pick(300)));
                    if pick(3) > 0 {
                        takers.remove(0);
                    }
                }
                // Somebody's clock may be behind, or his head come slowly.
                let clock = if is_steady { now } else { now - pick(15) };
                let index = match pick(2) {
                    0 => {
                        made.push((now + pick(5) - pick(30), (pick(3) == 0).then(|| now + pick(40)), false));
                        made.len() - 1
                    }
                    _ => pick(made.len().max(1) as u64) as usize,
                };
                let Some((moment, last, is_spent)) = made.get_mut(index) else { continue };
                let life = Life::new(at(*moment), last.map(at));
                let (age, _) = takers[pick(takers.len() as u64) as usize];
                if at(clock) >= life.taken_for(at(age)) {
                    continue;
                }
                match nonces.spend(&index.to_string(), life, at(clock), 10_000) {
                    Ok(()) => {
                        assert!(!*is_spent, "{seed}: {index} twice at {now}");
                        (*is_spent, taken) = (true, taken + 1);
                    }
                    Err(Refused::Seen) => {
                        assert!(*is_spent, "{seed}: {index} at {now}");
                        again += 1;
                    }
                    Err(Refused::Forgotten) => {
                        assert!(!is_steady, "{seed}: {index} at {now}");
                        forgotten += 1;
                    }
                    Err(Refused::Crowded) => panic!("there is room"),
                }
            }
        }
        assert!(taken > 10_000 && again > 10_000 && forgotten > 100, "{taken} {again} {forgotten}");
    }

    #[test]
    fn nobody_uses_up_the_room_of_another_key_and_empty_memories_go() {
        let keys: Arc<ByKey> = Arc::default();
        let taken = Taken::from(Arc::clone(&keys), at(60));
        let mark = |number: u8| StoredMark::of(&[&[number]]);
        let spend = |key: u8, id: &str, now: u64| {
            taken.memory().of(mark(key), at(now)).spend(id, Life::new(at(now), None), at(now), 1)
        };
        assert_eq!((spend(1, "a", 10), spend(2, "a", 10)), (Ok(()), Ok(())));
        assert_eq!((spend(1, "b", 10), spend(1, "a", 20)), (Err(Refused::Crowded), Err(Refused::Seen)));
        assert_eq!((spend(3, "a", 71), keys.memories.lock().expect("a lock").by_key.len()), (Ok(()), 3));
        assert_eq!((spend(4, "a", 72), keys.memories.lock().expect("a lock").by_key.len()), (Ok(()), 2));
    }

    #[test]
    fn what_may_have_been_forgotten_is_not_forgotten_with_the_memory_of_its_key() {
        let keys: Arc<ByKey> = Arc::default();
        let short = Taken::from(Arc::clone(&keys), at(60));
        let spend = |key: u8, id: &str, made: u64, now: u64| {
            let life = Life::new(at(made), Some(at(10_000)));
            keys.of(StoredMark::of(&[&[key]]), at(now)).spend(id, life, at(now), 10)
        };
        assert_eq!((spend(1, "a", 10, 10), spend(1, "b", 20, 20)), (Ok(()), Ok(())));
        // By another key, when nothing of the first one is good any more.
        assert_eq!((spend(2, "a", 81, 82), keys.memories.lock().expect("a lock").by_key.len()), (Ok(()), 1));
        let _long = Taken::from(Arc::clone(&keys), at(3600));
        drop(short);
        for (made, refused) in [(10, Err(Refused::Forgotten)), (20, Err(Refused::Forgotten)), (50, Ok(()))] {
            assert_eq!(spend(1, &made.to_string(), made, 90), refused, "{made}");
        }
    }

    #[test]
    fn shares_of_many_keys_are_smaller() {
        assert_eq!((share(1), share(20), share(256)), (100_000, 100_000, 7_812));
    }

    #[test]
    fn what_has_ended_is_used_by_nobody_though_it_was_forgotten() {
        let memory: Arc<Nonces> = Arc::default();
        let one = |id: &str| {
            let id = id.into();
            Arc::new(Use {
                memory: Arc::clone(&memory),
                id,
                end: at(60),
                life: until(60),
                most: 2,
                seen: "seen",
                crowded: "crowded",
            })
        };
        let why = |one: &Arc<Use>, spent: &mut Uses, now| match one.spend(spent, at(now)) {
            Ok(()) => String::new(),
            Err(Proof::Invalid(why) | Proof::Unavailable(why)) => why.into(),
            Err(other) => panic!("{other:?}"),
        };
        let (mut spent, mut others) = (Uses::new(), Uses::new());
        assert_eq!(why(&one("a"), &mut spent, 58), "");
        assert_eq!(why(&one("a"), &mut spent, 58), "", "by the same request");
        assert_eq!(why(&one("a"), &mut others, 58), "seen");
        assert_eq!(why(&one("b"), &mut others, 59), "");
        assert_eq!(why(&one("c"), &mut others, 59), "crowded");
        // Who has waited until it was forgotten.
        for now in [60, 61, 63] {
            assert_eq!(why(&one("a"), &mut Uses::new(), now), "it has ended meanwhile");
        }
    }
}
