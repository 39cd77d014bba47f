//! Answers about tokens that are remembered: tokens that were found good, and what somebody else has said of them.
//!
//! Kept by the SHA-256 of the token, never by the token, for as long as the answer holds and never beyond the end of the token. Bounded:
//! a shard that is full forgets what was not asked for since it was last looked through. Only what costs somebody a good token gets in
//! here, so strangers can push nothing out; answers that cost nothing (a token that is not active) are kept in a memory of their own.

use std::collections::VecDeque;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use transept_model::schema::Schema;

const SHARDS: usize = 16;

/// The SHA-256 of a token.
pub(super) type Hash = [u8; 32];

/// The hash by which a token is remembered.
pub(super) fn hash(token: &[u8]) -> Hash {
    digest::digest(&digest::SHA256, token).as_ref().try_into().unwrap_or_default()
}

/// What tells the memories of differently written schemes apart: all that is written, and not where it stands in its file. With the name, which principals
/// bear and rules go by.
pub(super) fn identity(name: &str, spec: &impl Schema) -> digest::Context {
    let mut made = digest::Context::new(&digest::SHA256);
    made.update(name.as_bytes());
    made.update(b"\0");
    made.update(spec.encode().to_string().as_bytes());
    made
}

/// Answers by the hash of the token.
pub(super) struct Verified<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
    /// Per shard.
    most: usize,
    choose: RandomState,
}

struct Shard<T> {
    known: HashMap<Hash, Entry<T>>,
    /// In the order in which they are looked through when there is no room.
    order: VecDeque<Hash>,
}

struct Entry<T> {
    answer: Arc<T>,
    /// Since the Unix epoch.
    until: Duration,
    /// Of the keys by which it was found good.
    version: u64,
    asked: bool,
}

impl<T> Verified<T> {
    /// Room for about so many answers. No memory is taken before they come.
    pub(super) fn new(most: usize) -> Verified<T> {
        let shard = || Mutex::new(Shard { known: HashMap::new(), order: VecDeque::new() });
        Verified {
            shards: std::array::from_fn(|_| shard()),
            most: most.div_ceil(SHARDS),
            choose: RandomState::default(),
        }
    }

    /// The answer, when it still holds: it has not ended, and was found with these very keys. So a token is verified again when
    /// the keys have changed, and one by a key that was taken out is refused at once.
    pub(super) fn find(&self, hash: &Hash, version: u64, now: Duration) -> Option<Arc<T>> {
        let mut shard = self.shard(hash);
        let entry = shard.known.get_mut(hash)?;
        if entry.version != version || now >= entry.until {
            return None;
        }
        entry.asked = true;
        Some(Arc::clone(&entry.answer))
    }

    /// Remembers an answer.
    pub(super) fn note(&self, hash: Hash, answer: Arc<T>, version: u64, until: Duration, now: Duration) {
        let mut shard = self.shard(&hash);
        if let Some(entry) = shard.known.get_mut(&hash) {
            *entry = Entry { answer, until, version, asked: false };
            return;
        }
        if shard.known.len() >= self.most {
            shard.make_room(now);
        }
        shard.known.insert(hash, Entry { answer, until, version, asked: false });
        shard.order.push_back(hash);
    }

    /// Forgets an answer that was used up.
    pub(super) fn forget(&self, hash: &Hash) {
        let mut shard = self.shard(hash);
        if shard.known.remove(hash).is_some() {
            // A shard is small.
            shard.order.retain(|one| one != hash);
        }
    }

    fn shard(&self, hash: &Hash) -> std::sync::MutexGuard<'_, Shard<T>> {
        let index = usize::try_from(self.choose.hash_one(hash)).unwrap_or(0) % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Shard<T> {
    /// Forgets one: the first in order that has ended or was not asked for since the last time (second chance).
    fn make_room(&mut self, now: Duration) {
        for _ in 0..=self.order.len() {
            let Some(hash) = self.order.pop_front() else { return };
            match self.known.get_mut(&hash) {
                Some(entry) if entry.asked && now < entry.until => {
                    entry.asked = false;
                    self.order.push_back(hash);
                }
                _ => {
                    self.known.remove(&hash);
                    return;
                }
            }
        }
    }
}

impl<T> fmt::Debug for Verified<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Verified").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_answer_holds_until_its_end_and_for_the_keys_it_was_found_with() {
        let verified = Verified::new(100);
        let token = hash(b"token");
        verified.note(token, Arc::new(7), 1, at(50), at(0));
        assert_eq!(verified.find(&token, 1, at(49)).as_deref(), Some(&7));
        assert!(verified.find(&token, 1, at(50)).is_none());
        assert!(verified.find(&token, 2, at(49)).is_none());
        assert!(verified.find(&hash(b"other"), 1, at(1)).is_none());
        verified.note(token, Arc::new(8), 2, at(90), at(50));
        assert_eq!(verified.find(&token, 2, at(60)).as_deref(), Some(&8));
    }

    #[test]
    fn memory_is_bounded_and_what_is_asked_for_stays() {
        let verified = Verified::new(160);
        let busy = hash(b"busy");
        verified.note(busy, Arc::new(0), 1, at(1000), at(0));
        for number in 0..10_000u32 {
            assert!(verified.find(&busy, 1, at(1)).is_some(), "{number}");
            verified.note(hash(&number.to_be_bytes()), Arc::new(number), 1, at(1000), at(1));
        }
        let count: usize = verified.shards.iter().map(|shard| shard.lock().expect("a shard").known.len()).sum();
        assert!(count <= 160, "{count}");
        for shard in &verified.shards {
            let shard = shard.lock().expect("a shard");
            assert_eq!(shard.known.len(), shard.order.len());
        }
    }
}
