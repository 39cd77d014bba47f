//! What a port has spoken: remembered between its connections, so that the next one need not be guessed at.
//!
//! One word of memory for each listener whose protocol nobody declared; `compile` hands it on from one generation to the next, so
//! there are never more of them than such ports. The proxy notes what it heard and asks before it listens to the two ends of a
//! connection. What is known only says how long to wait for whom: the bytes of each connection decide what it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long what was learned is believed without being heard again.
const LASTING: Duration = Duration::from_secs(3600);
/// What is heard again is noted again after this time at the earliest, so that busy ports write nothing.
const RENEWAL: Duration = Duration::from_secs(60);
/// A port that was wrongly known this often speaks more than one protocol.
const MOST_CHANGES: u64 = 3;

/// What a connection turned out to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// HTTP of any version; the client spoke first.
    Http,
    /// Something else; the client spoke first.
    Bytes,
    /// Something else; the program spoke first.
    ServerFirst,
}

/// What is known about a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// Nothing, or nothing any more.
    #[default]
    Nothing,
    /// Its clients speak HTTP.
    Http,
    /// Its clients speak first, and not HTTP.
    Bytes,
    /// Its program speaks first, and not HTTP.
    ServerFirst,
    /// What was known was wrong too often: every connection is looked at as the first one is.
    Mixed,
}

impl Known {
    /// The word for status and metrics; none when nothing is known.
    pub const fn as_str(self) -> Option<&'static str> {
        match self {
            Known::Nothing => None,
            Known::Http => Some("http"),
            Known::Bytes => Some("tcp"),
            Known::ServerFirst => Some("tcp-server-first"),
            Known::Mixed => Some("mixed"),
        }
    }

    /// What such a word says. One that is none says nothing.
    pub fn of_word(word: &str) -> Known {
        let all = [Known::Http, Known::Bytes, Known::ServerFirst, Known::Mixed];
        all.into_iter().find(|known| known.as_str() == Some(word)).unwrap_or_default()
    }

    /// This, or what others say as long as nothing is known here.
    #[must_use]
    pub fn or(self, hint: Known) -> Known {
        if self == Known::Nothing { hint } else { self }
    }

    /// What several say together: the same, or nothing.
    pub fn agreed(words: impl IntoIterator<Item = Known>) -> Known {
        let mut words = words.into_iter().filter(|known| *known != Known::Nothing);
        let first = words.next().unwrap_or_default();
        if words.all(|known| known == first) { first } else { Known::Nothing }
    }
}

/// What is remembered of a port: in the lowest bits what it spoke, above them how often that was wrong, and above those the second in
/// which it was heard last. All workers share it.
#[derive(Debug, Default)]
pub struct Learned(AtomicU64);

/// The parts of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    known: Known,
    changes: u64,
    at: u64,
}

impl Memory {
    fn unpack(word: u64) -> Memory {
        let known = match word & 7 {
            1 => Known::Http,
            2 => Known::Bytes,
            3 => Known::ServerFirst,
            4 => Known::Mixed,
            _ => Known::Nothing,
        };
        Memory { known, changes: word >> 3 & 3, at: word >> 5 }
    }

    fn pack(self) -> u64 {
        let known = match self.known {
            Known::Nothing => 0,
            Known::Http => 1,
            Known::Bytes => 2,
            Known::ServerFirst => 3,
            Known::Mixed => 4,
        };
        self.at << 5 | self.changes << 3 | known
    }

    fn current(self, now: u64) -> Memory {
        if now.saturating_sub(self.at) < LASTING.as_secs() {
            self
        } else {
            Memory { known: Known::Nothing, changes: 0, at: now }
        }
    }

    fn after(self, heard: Heard, now: u64) -> Memory {
        let fresh = |known| Memory { known, at: now, ..self };
        match (self.known, heard) {
            // A port like this is asked again when the time is over.
            (Known::Mixed, _) => self,
            (Known::Nothing, Heard::Http) => fresh(Known::Http),
            (Known::Nothing | Known::Bytes, Heard::Bytes) => fresh(Known::Bytes),
            (Known::Nothing | Known::Bytes | Known::ServerFirst, Heard::ServerFirst) => fresh(Known::ServerFirst),
            // A client that does not wait for the greeting takes nothing back.
            (Known::ServerFirst, Heard::Bytes) => fresh(Known::ServerFirst),
            (Known::Http, Heard::Http) => fresh(Known::Http),
            (_, _) if self.changes + 1 >= MOST_CHANGES => Memory { known: Known::Mixed, changes: 0, at: now },
            (Known::Http, Heard::Bytes) => Memory { known: Known::Bytes, changes: self.changes + 1, at: now },
            (Known::Http, Heard::ServerFirst) => {
                Memory { known: Known::ServerFirst, changes: self.changes + 1, at: now }
            }
            (Known::Bytes | Known::ServerFirst, Heard::Http) => {
                Memory { known: Known::Http, changes: self.changes + 1, at: now }
            }
        }
    }
}

impl Learned {
    /// What is known at a time, on the same clock as that of [`Learned::note`].
    pub fn read(&self, now: Duration) -> Known {
        Memory::unpack(self.0.load(Ordering::Relaxed)).current(now.as_secs()).known
    }

    /// Notes what a connection turned out to carry, and tells what is known now when that is something else than before.
    pub fn note(&self, heard: Heard, now: Duration) -> Option<Known> {
        let now = now.as_secs();
        let word = self.0.load(Ordering::Relaxed);
        let stored = Memory::unpack(word);
        let before = stored.current(now);
        let after = before.after(heard, now);
        let is_news = after.known != before.known;
        if !is_news && now.saturating_sub(stored.at) < RENEWAL.as_secs() {
            return None;
        }
        // Of two workers that hear something at the same time one is enough.
        let stored = self.0.compare_exchange(word, after.pack(), Ordering::Relaxed, Ordering::Relaxed);
        (is_news && stored.is_ok()).then_some(after.known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_heard_is_known_for_an_hour_after_the_last_time() {
        let learned = Learned::default();
        assert_eq!(learned.read(at(10)), Known::Nothing);
        assert_eq!(learned.note(Heard::ServerFirst, at(10)), Some(Known::ServerFirst));
        assert_eq!(learned.note(Heard::ServerFirst, at(3000)), None);
        assert_eq!(learned.read(at(3000 + 3599)), Known::ServerFirst);
        assert_eq!(learned.read(at(3000 + 3600)), Known::Nothing);
        assert_eq!(learned.note(Heard::Http, at(3000 + 3600)), Some(Known::Http));
    }

    #[test]
    fn a_client_that_does_not_wait_for_the_greeting_takes_nothing_back() {
        let learned = Learned::default();
        assert_eq!(learned.note(Heard::Bytes, at(1)), Some(Known::Bytes));
        assert_eq!(learned.note(Heard::ServerFirst, at(2)), Some(Known::ServerFirst));
        assert_eq!(learned.note(Heard::Bytes, at(3)), None);
        assert_eq!(learned.read(at(4)), Known::ServerFirst);
    }

    #[test]
    fn what_is_wrong_is_corrected_at_once_and_given_up_when_it_is_wrong_again_and_again() {
        let learned = Learned::default();
        learned.note(Heard::Http, at(1));
        assert_eq!(learned.note(Heard::ServerFirst, at(2)), Some(Known::ServerFirst));
        assert_eq!(learned.note(Heard::Http, at(3)), Some(Known::Http));
        assert_eq!(learned.note(Heard::Bytes, at(4)), Some(Known::Mixed));
        assert_eq!(learned.note(Heard::Http, at(5)), None);
        assert_eq!(learned.read(at(3000)), Known::Mixed);
        // Later it begins anew, with no word of what was.
        assert_eq!(learned.note(Heard::Http, at(3605)), Some(Known::Http));
        assert_eq!(learned.note(Heard::Bytes, at(3606)), Some(Known::Bytes));
    }

    #[test]
    fn a_hint_counts_while_nothing_is_known_and_only_when_all_say_the_same() {
        for known in [Known::Nothing, Known::Http, Known::Bytes, Known::ServerFirst, Known::Mixed] {
            assert_eq!(Known::of_word(known.as_str().unwrap_or_default()), known);
            assert_eq!(Known::Nothing.or(known), known);
            assert_eq!(Known::Http.or(known), Known::Http);
        }
        assert_eq!(Known::of_word("a-word-of-a-later-version"), Known::Nothing);
        assert_eq!(Known::agreed([Known::Nothing, Known::ServerFirst, Known::ServerFirst]), Known::ServerFirst);
        assert_eq!(Known::agreed([Known::Http, Known::ServerFirst]), Known::Nothing);
        assert_eq!(Known::agreed([]), Known::Nothing);
    }

    #[test]
    fn a_busy_port_is_written_once_a_minute() {
        let learned = Learned::default();
        learned.note(Heard::Http, at(100));
        let word = learned.0.load(Ordering::Relaxed);
        learned.note(Heard::Http, at(159));
        assert_eq!(learned.0.load(Ordering::Relaxed), word);
        learned.note(Heard::Http, at(160));
        assert_ne!(learned.0.load(Ordering::Relaxed), word);
    }

    #[test]
    fn the_word_holds_all_that_was_put_in() {
        for known in [Known::Nothing, Known::Http, Known::Bytes, Known::ServerFirst, Known::Mixed] {
            for changes in 0..MOST_CHANGES {
                let memory = Memory { known, changes, at: 1 << 40 };
                assert_eq!(Memory::unpack(memory.pack()), memory);
            }
        }
    }
}
