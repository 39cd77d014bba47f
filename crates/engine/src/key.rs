//! API keys: how they are spelled, and how they are hashed.
//!
//! `BRAND_ENVIRONMENT_RANDOM_CHECKSUM`, such as `tr_live_7Xk2...9Qa_1ZkP0c`: at least 22 random characters of base 62 (131 bits), and six
//! that are the CRC-32 of all that stands before them. The checksum is no secret: it lets the edge refuse junk without a look-up, and
//! scanners of source code tell a leaked key by its form. Called by whoever makes keys and by the scheme `apiKey` of
//! AuthenticationPolicy; randomness is given by the caller.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use transept_model::kinds::{KeyHash, KeyHashing};

use crate::keep::Keep;

/// Characters of a key that are random.
const RANDOM: usize = 22;
/// Characters of the checksum.
const CHECK: usize = 6;
/// The longest key that is looked at, in bytes.
pub const LONGEST: usize = 256;
/// How many random characters the public prefix of a key shows.
const SHOWN: usize = 4;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why something is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKey {
    /// It does not have the form of one.
    Form,
    /// It has the form, but the checksum is wrong: mistyped or made up.
    Checksum,
}

/// Makes a key. `fill` gives random bytes, fit for secrets.
pub fn make(brand: &str, environment: &str, mut fill: impl FnMut(&mut [u8])) -> String {
    let mut key = format!("{brand}_{environment}_");
    let mut bytes = [0u8; 32];
    let mut wanted = RANDOM;
    while wanted > 0 {
        fill(&mut bytes);
        // 248 is the largest multiple of 62 in a byte: every character is as likely as any other.
        for byte in bytes.iter().filter(|byte| **byte < 248).take(wanted) {
            key.push(char::from(DIGITS[usize::from(*byte) % DIGITS.len()]));
            wanted -= 1;
        }
    }
    bytes.fill(0);
    let check = checksum(key.as_bytes());
    key.push('_');
    key.extend(check.iter().map(|byte| char::from(*byte)));
    key
}

/// Whether bytes are spelled like a key with the right checksum.
///
/// # Errors
/// What is wrong.
pub fn check(key: &[u8]) -> Result<(), NoKey> {
    if key.len() > LONGEST {
        return Err(NoKey::Form);
    }
    let mut parts = key.split(|byte| *byte == b'_');
    let (brand, environment, random, check) = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some(brand), Some(environment), Some(random), Some(check), None) =
        (brand, environment, random, check, parts.next())
    else {
        return Err(NoKey::Form);
    };
    let well_formed = is_word(brand)
        && is_word(environment)
        && random.len() >= RANDOM
        && check.len() == CHECK
        && random.iter().chain(check).all(u8::is_ascii_alphanumeric);
    if !well_formed {
        return Err(NoKey::Form);
    }
    let before = &key[..key.len() - CHECK - 1];
    if checksum(before) == check { Ok(()) } else { Err(NoKey::Checksum) }
}

/// Whether a word may be the brand or the environment of keys: lower-case letters and digits, at most 16.
pub fn is_word(word: &[u8]) -> bool {
    (1..=16).contains(&word.len()) && word.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The first characters of a key, by which people tell keys apart: brand, environment and a little of what is random.
pub fn prefix(key: &str) -> &str {
    let random = key.match_indices('_').nth(1).map_or(0, |(at, _)| at + 1);
    key.get(..random + SHOWN).unwrap_or_default()
}

/// The hash under which a key is stored: SHA-256, or HMAC under a pepper. A key has more random bits than can be tried, so a hash
/// that is slow to compute would protect nothing more.
pub fn hash(key: &[u8], pepper: Option<&hmac::Key>) -> KeyHash {
    let (by, made) = match pepper {
        None => (KeyHashing::Sha256, digest::digest(&digest::SHA256, key).as_ref().try_into()),
        Some(pepper) => (KeyHashing::HmacSha256, hmac::sign(pepper, key).as_ref().try_into()),
    };
    // Both are 32 bytes long.
    KeyHash { by, bytes: made.unwrap_or_default() }
}

/// A secret as a file or an entry of a Secret says it: text without one line end behind it. Bytes that are no text are taken as they are, for any of them may be a
/// part of the secret.
pub fn without_line_end(bytes: &[u8]) -> &[u8] {
    let line = bytes.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    line.filter(|line| std::str::from_utf8(line).is_ok()).unwrap_or(bytes)
}

/// A pepper as the key of an HMAC.
pub fn pepper(secret: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

/// When keys were last used, to the minute: shared by all workers, and by all generations of the configuration.
#[derive(Debug, Default)]
pub struct LastUses {
    by_name: Mutex<Uses>,
}

#[derive(Debug, Default)]
struct Uses {
    by_name: HashMap<(Box<str>, Box<str>), LastUse>,
    /// How many there were when those of keys that are gone were last taken out.
    swept: usize,
}

/// When one key was last used. Zero is never.
#[derive(Clone, Debug, Default)]
pub struct LastUse(Arc<AtomicU32>);

impl LastUses {
    /// Those of a process.
    pub fn kept(keep: &Keep) -> Arc<LastUses> {
        keep.of("last uses of keys", LastUses::default)
    }

    /// That of a key by namespace and name.
    pub fn of(&self, namespace: &str, name: &str) -> LastUse {
        let mut uses = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if uses.by_name.len() > 2 * uses.swept + 1024 {
            uses.by_name.retain(|_, last| Arc::strong_count(&last.0) > 1);
            uses.swept = uses.by_name.len();
        }
        uses.by_name.entry((namespace.into(), name.into())).or_default().clone()
    }

    /// All keys that have been used, by namespace and name, each with the minute since the Unix epoch in which it was.
    pub fn all(&self) -> Vec<(Box<str>, Box<str>, Duration)> {
        let uses = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let used = uses.by_name.iter().filter_map(|((namespace, name), last)| {
            let minute = last.0.load(Ordering::Relaxed);
            (minute > 0).then(|| (namespace.clone(), name.clone(), Duration::from_secs(u64::from(minute) * 60)))
        });
        let mut used: Vec<_> = used.collect();
        used.sort();
        used
    }
}

impl LastUse {
    /// The key is used now. Written at most once a minute, so that workers do not fight for it.
    pub fn note(&self, now: Duration) {
        let minute = u32::try_from(now.as_secs() / 60).unwrap_or(u32::MAX);
        if self.0.load(Ordering::Relaxed) < minute {
            self.0.store(minute, Ordering::Relaxed);
        }
    }
}

fn checksum(text: &[u8]) -> [u8; CHECK] {
    let mut rest = crc32(text);
    let mut out = [0; CHECK];
    for place in out.iter_mut().rev() {
        *place = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    out
}

/// CRC-32 as in zlib and PNG (RFC 1952 section 8).
fn crc32(text: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !text.iter().fold(!0, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> String {
        let mut next = 0u8;
        make("tr", "test", |bytes| {
            for byte in bytes {
                next = next.wrapping_mul(31).wrapping_add(7);
                *byte = next;
            }
        })
    }

    #[test]
    fn when_a_key_was_last_used_is_known_by_the_minute() {
        let uses = LastUses::default();
        let last = uses.of("shop", "one");
        assert!(uses.all().is_empty(), "it was never used");
        let minute = |seconds| vec![("shop".into(), "one".into(), Duration::from_secs(seconds))];
        for (at, known) in [(61, 60), (119, 60), (120, 120), (61, 120), (3_600, 3_600)] {
            last.note(Duration::from_secs(at));
            assert_eq!(uses.all(), minute(known), "used at {at}");
        }
    }

    #[test]
    fn one_line_end_behind_text_is_no_part_of_it() {
        for (entry, said) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), ("a ", "a "), ("\n", "")]
        {
            assert_eq!(without_line_end(entry.as_bytes()), said.as_bytes(), "{entry:?}");
        }
        assert_eq!(without_line_end(b"\xff\n"), b"\xff\n");
    }

    #[test]
    fn the_checksum_is_the_usual_crc() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(&checksum(b""), b"000000");
    }

    #[test]
    fn a_key_that_was_made_is_one() {
        let key = sample();
        assert_eq!(check(key.as_bytes()), Ok(()));
        assert_eq!(key.len(), "tr_test_".len() + RANDOM + 1 + CHECK);
        assert_eq!(prefix(&key), &key[..12]);
        assert_eq!(hash(key.as_bytes(), None), hash(key.as_bytes(), None));
        assert_ne!(hash(key.as_bytes(), None), hash(key.as_bytes(), Some(&pepper(b"salt"))));
    }

    #[test]
    fn every_character_that_changes_is_noticed() {
        let key = sample();
        for index in 0..key.len() {
            let mut other = key.clone().into_bytes();
            other[index] = if other[index] == b'a' { b'b' } else { b'a' };
            assert!(check(&other).is_err(), "{index}");
        }
    }

    #[test]
    fn junk_is_no_key() {
        let long = format!("{}{}", "a".repeat(300), sample());
        for junk in
            ["", "_", "___", "tr_live_x_000000", "tr_live_0123456789012345678901_0000000", &long, "a.b.c", "tr__x_y"]
        {
            assert_eq!(check(junk.as_bytes()), Err(NoKey::Form), "{junk}");
        }
        let mistyped = sample().replace("tr_test", "tr_live");
        assert_eq!(check(mistyped.as_bytes()), Err(NoKey::Checksum));
    }
}
