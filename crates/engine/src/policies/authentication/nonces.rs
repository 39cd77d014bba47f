//! Nonces of signatures that were seen, so that none is good twice.
//!
//! Kept for each key of a scheme by itself, so that nobody who signs with one key can use up the room of another. Asked by the scheme when it looks at a
//! signature, told ([`Use`]) when the request is let in: who sends somebody else's head with another content spends nothing, and what is refused for
//! another reason may come again. Proofs and tokens that are good once are remembered in the same way.
//!
//! A nonce is remembered until nobody takes its signature any more. What has ended is forgotten a little at a time, in the order of the ends, by those who
//! come with new ones, so that nobody waits for a sweep.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use smallvec::SmallVec;

use super::scheme::Proof;

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
    /// The longest time, in seconds, for which somebody takes what is remembered here.
    longest: AtomicU64,
}

#[derive(Debug, Default)]
struct Seen {
    /// Each with the second from which on it may be forgotten, since the Unix epoch.
    hashes: HashMap<Hash, u64>,
    /// The same in the order of these.
    ends: BinaryHeap<Reverse<(u64, Hash)>>,
}

/// Why a nonce is not noted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It was seen before.
    Seen,
    /// Its key has too many that are still good.
    Crowded,
}

impl Nonces {
    /// Somebody takes what is remembered here for so long after it was made, or after its end.
    pub(super) fn is_taken_for(&self, time: Duration) {
        self.longest.fetch_max(time.as_secs() + 1, Ordering::Relaxed);
    }

    /// How much longer others take what is taken here for so long.
    pub(super) fn longer_than(&self, time: Duration) -> Duration {
        Duration::from_secs(self.longest.load(Ordering::Relaxed)).saturating_sub(time)
    }

    /// Whether a nonce was seen, and its signature is still good.
    pub(super) fn knows(&self, nonce: &str, now: Duration) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).knows(&hash(nonce), now)
    }

    /// Whether a nonce could be noted now, among `most`.
    pub(super) fn check(&self, nonce: &str, now: Duration, most: usize) -> Result<(), Refused> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget(now);
        seen.check(&hash(nonce), now, most)
    }

    /// Notes a nonce of a signature that is good until `end`, among `most`.
    pub(super) fn spend(&self, nonce: &str, end: Duration, now: Duration, most: usize) -> Result<(), Refused> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget(now);
        let hash = hash(nonce);
        seen.check(&hash, now, most)?;
        // Rounded up: rather a second too long than too short.
        let end = end.as_secs().saturating_add(1);
        seen.hashes.insert(hash, end);
        seen.ends.push(Reverse((end, hash)));
        Ok(())
    }
}

/// What is used up when a request is let in.
#[derive(Debug)]
pub(super) struct Use {
    pub(super) memory: Arc<Nonces>,
    pub(super) id: Box<str>,
    /// Until when it would be good, since the Unix epoch.
    pub(super) end: Duration,
    /// Until when it is remembered: others may take it for longer.
    pub(super) kept: Duration,
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
        self.memory.check(&self.id, now, self.most).map_err(|why| self.refusal(&why))
    }

    /// Uses it up, and notes that in `spent`.
    ///
    /// # Errors
    /// As for [`Use::check`].
    pub(super) fn spend(self: &Arc<Self>, spent: &mut Uses, now: Duration) -> Result<(), Proof> {
        self.check(spent, now)?;
        if !self.is_among(spent) {
            self.memory.spend(&self.id, self.end.max(self.kept), now, self.most).map_err(|why| self.refusal(&why))?;
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
    fn knows(&self, hash: &Hash, now: Duration) -> bool {
        self.hashes.get(hash).is_some_and(|end| *end > now.as_secs())
    }

    fn check(&self, hash: &Hash, now: Duration, most: usize) -> Result<(), Refused> {
        match self.knows(hash, now) {
            true => Err(Refused::Seen),
            false if self.hashes.len() >= most => Err(Refused::Crowded),
            false => Ok(()),
        }
    }

    fn forget(&mut self, now: Duration) {
        for _ in 0..AT_A_TIME {
            match self.ends.peek() {
                Some(Reverse((end, hash))) if *end <= now.as_secs() => {
                    // It may have been spent again meanwhile.
                    if self.hashes.get(hash) == Some(end) {
                        self.hashes.remove(hash);
                    }
                    self.ends.pop();
                }
                _ => return,
            }
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

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_nonce_is_remembered_until_its_signature_has_ended() {
        let nonces = Nonces::default();
        assert_eq!(nonces.spend("a", at(300), at(0), 10), Ok(()));
        assert_eq!(nonces.spend("a", at(900), at(299), 10), Err(Refused::Seen));
        assert!(nonces.knows("a", at(300)) && !nonces.knows("b", at(300)));
        assert!(!nonces.knows("a", at(301)));
        assert_eq!(nonces.spend("a", at(900), at(301), 10), Ok(()));
    }

    #[test]
    fn the_room_is_that_of_what_is_still_good() {
        let nonces = Nonces::default();
        for number in 0..10u64 {
            assert_eq!(nonces.spend(&number.to_string(), at(300 - number), at(0), 10), Ok(()));
        }
        assert_eq!(nonces.spend("more", at(300), at(290), 10), Err(Refused::Crowded));
        // The one that ends first makes room for one.
        assert_eq!(nonces.spend("more", at(300), at(292), 10), Ok(()));
        assert_eq!(nonces.spend("yet more", at(300), at(292), 10), Err(Refused::Crowded));
    }

    #[test]
    fn what_has_ended_is_forgotten_a_little_at_a_time() {
        let nonces = Nonces::default();
        for number in 0..1000u64 {
            assert_eq!(nonces.spend(&number.to_string(), at(300), at(0), 1000), Ok(()));
        }
        // One that was seen before is free again, whether it was forgotten already or not.
        for number in (0..1000u64).rev() {
            assert_eq!(nonces.spend(&number.to_string(), at(900), at(301), 1000), Ok(()), "{number}");
            assert!(nonces.knows(&number.to_string(), at(301)));
        }
        let seen = nonces.seen.lock().expect("a lock");
        assert_eq!((seen.hashes.len(), seen.ends.len()), (1000, 1000));
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
                kept: at(60),
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
