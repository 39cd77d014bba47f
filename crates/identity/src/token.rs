//! Join tokens: how a workload that has no identity yet shows which one it may ask for.
//!
//! A token is made for one workload, is good once or until it ends, and is stored only as a hash. `control` keeps the table,
//! stores it after every change and before it answers. What is issued for a redeemed token is left to `authority`; how
//! often somebody may guess, to the caller.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use rustls_pki_types::UnixTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::fingerprint::sha256;
use crate::spiffe::WorkloadName;

/// What every token begins with, so that people and secret scanners know one when they see it.
pub const PREFIX: &str = "transept_join_";
/// Random bytes in a token: 160 bits.
pub const SECRET: usize = 20;
/// Bytes of the checksum: a mistyped token, or junk, is refused without a look-up.
const CHECKSUM: usize = 5;
/// How long after the first use the same instance may ask again, because the answer may have been lost.
pub const RETRY: Duration = Duration::from_secs(600);
/// The longest that a token may live.
pub const MAX_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The most tokens that are kept.
pub const MAX_TOKENS: usize = 10_000;
/// The longest nonce of an instance, in bytes.
pub const MAX_NONCE: usize = 128;

/// How often a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uses {
    /// For one instance.
    Once,
    /// For any number of instances, until the token ends.
    Many,
}

/// Why a token is not made. Displays as a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotMade {
    /// The life that is asked for is nothing, or longer than [`MAX_LIFE`].
    #[error("a token lives between 1 s and {} days", MAX_LIFE.as_secs() / 86_400)]
    Life,
    /// There are [`MAX_TOKENS`] that have not ended.
    #[error("there are {MAX_TOKENS} tokens already; revoke some")]
    TooMany,
    /// The random bytes are all the same, so they are not random; or they were used before.
    #[error("the random bytes for the token are not random")]
    NotRandom,
}

/// Why a token is not good. Displays as a sentence that is safe to send back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Not of the form of a token, or mistyped: no look-up was made.
    #[error("this is no join token: it begins with `{PREFIX}` and must be copied whole")]
    Malformed,
    /// No such token: never made, revoked, or ended long ago.
    #[error("the join token is not known; it was revoked, has ended, or is for another mesh")]
    Unknown,
    /// It has ended.
    #[error("the join token has ended; create another one")]
    Ended,
    /// It was good once, and another instance has used it.
    #[error("the join token has been used; create another one")]
    Used,
    /// The nonce of the instance is empty or too long.
    #[error("the nonce of the instance has between 1 and {MAX_NONCE} bytes")]
    Nonce,
}

impl BadToken {
    /// A stable short name for logs and metrics.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Malformed => "token.malformed",
            Self::Unknown => "token.unknown",
            Self::Ended => "token.ended",
            Self::Used => "token.used",
            Self::Nonce => "token.nonce",
        }
    }
}

/// A token as it is shown once, to whoever made it. `Debug` does not show it; its text is wiped when it is dropped.
pub struct Token(Zeroizing<String>);

impl Token {
    /// The text to hand on.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The name of a token for people: the beginning of its hash, which tells nothing about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(String);

impl TokenId {
    /// Twelve hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for TokenId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// SHA-256 of a token's secret. The secret has 160 random bits, so a fast hash is enough.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hash([u8; 32]);

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        bytes.try_into().map(Self).map_err(|_| serde::de::Error::custom("a hash has 32 bytes"))
    }
}

/// What is stored about a token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    hash: Hash,
    workload: WorkloadName,
    uses: Uses,
    created: u64,
    ends: u64,
    /// Uses, retries of a single one not counted.
    used: u64,
    /// The first use of a token that is good once.
    redeemed: Option<Redeemed>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Redeemed {
    /// Hash of the instance's nonce.
    nonce: Hash,
    at: u64,
}

/// A token as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its name for people.
    pub id: TokenId,
    /// Whom it is for.
    pub workload: WorkloadName,
    /// How often it is good.
    pub uses: Uses,
    /// When it was made.
    pub created: UnixTime,
    /// When it ends.
    pub ends: UnixTime,
    /// How often it was used, retries of a single use not counted.
    pub used: u64,
}

/// What a redeemed token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The workload whose identity may be asked for, and no other.
    pub workload: WorkloadName,
    /// Which token it was, for the audit log.
    pub token: TokenId,
    /// Whether this is a first use or the retry of one.
    pub first: bool,
}

/// The table of all tokens.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    tokens: BTreeMap<TokenId, Record>,
}

impl Tokens {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a token can be made that lives for so long.
    pub fn may_live(life: Duration) -> bool {
        life >= Duration::from_secs(1) && life <= MAX_LIFE
    }

    /// Makes a token for a workload. `secret` is random bytes from the crypto library; the text is shown once and cannot be
    /// had again.
    ///
    /// # Errors
    /// When the life is out of bounds, the table is full, or the bytes are not random.
    pub fn create(
        &mut self,
        workload: WorkloadName,
        uses: Uses,
        life: Duration,
        now: UnixTime,
        secret: Zeroizing<[u8; SECRET]>,
    ) -> Result<(TokenId, Token), NotMade> {
        if !Self::may_live(life) {
            return Err(NotMade::Life);
        }
        if self.tokens.len() >= MAX_TOKENS {
            self.forget_ended(now);
        }
        if self.tokens.len() >= MAX_TOKENS {
            return Err(NotMade::TooMany);
        }
        let hash = hash_secret(&*secret);
        let id = name(&hash);
        if secret.iter().all(|byte| *byte == secret[0]) || self.tokens.contains_key(&id) {
            return Err(NotMade::NotRandom);
        }
        let created = now.as_secs();
        let ends = created.saturating_add(life.as_secs());
        self.tokens.insert(id.clone(), Record { hash, workload, uses, created, ends, used: 0, redeemed: None });
        Ok((id, write(&secret)))
    }

    /// For whom there is such a token, whatever it is good for. Ask before a table is copied to redeem it: who guesses costs no
    /// more than this.
    ///
    /// # Errors
    /// It is none, or not one of these.
    pub fn recognize(&self, token: &str) -> Result<&WorkloadName, BadToken> {
        self.find(token).map(|record| &record.workload)
    }

    /// For whom a token could be redeemed now, without doing so.
    ///
    /// # Errors
    /// Why it is not good.
    pub fn vouch(&self, token: &str, now: UnixTime) -> Result<&WorkloadName, BadToken> {
        let record = self.find(token)?;
        match &record.redeemed {
            Some(_) => Err(BadToken::Used),
            None if now.as_secs() >= record.ends => Err(BadToken::Ended),
            None => Ok(&record.workload),
        }
    }

    fn find(&self, token: &str) -> Result<&Record, BadToken> {
        let hash = hash_secret(&*read(token).ok_or(BadToken::Malformed)?);
        let record = self.tokens.get(&name(&hash)).ok_or(BadToken::Unknown)?;
        // The name is only the beginning of the hash; the rest is compared in constant time.
        verify_slices_are_equal(&record.hash.0, &hash.0).map_err(|_| BadToken::Unknown)?;
        Ok(record)
    }

    /// Redeems a token for the instance that has chosen `nonce`. The same instance may ask again within [`RETRY`], since
    /// the answer to its first try may have been lost; another instance may not, if the token is good once. Store the
    /// table before answering.
    ///
    /// # Errors
    /// Why the token is not good.
    pub fn redeem(&mut self, token: &str, nonce: &[u8], now: UnixTime) -> Result<Grant, BadToken> {
        let hash = hash_secret(&*read(token).ok_or(BadToken::Malformed)?);
        if nonce.is_empty() || nonce.len() > MAX_NONCE {
            return Err(BadToken::Nonce);
        }
        let id = name(&hash);
        let record = self.tokens.get_mut(&id).ok_or(BadToken::Unknown)?;
        // The name is only the beginning of the hash; the rest is compared in constant time.
        if verify_slices_are_equal(&record.hash.0, &hash.0).is_err() {
            return Err(BadToken::Unknown);
        }
        let now = now.as_secs();
        let nonce = Hash(sha256(&[b"transept instance nonce", nonce]));
        if let Some(redeemed) = &record.redeemed {
            let same = verify_slices_are_equal(&redeemed.nonce.0, &nonce.0).is_ok();
            if !same || now > redeemed.at.saturating_add(RETRY.as_secs()) {
                return Err(BadToken::Used);
            }
            return Ok(Grant { workload: record.workload.clone(), token: id, first: false });
        }
        if now >= record.ends {
            return Err(BadToken::Ended);
        }
        if record.uses == Uses::Once {
            record.redeemed = Some(Redeemed { nonce, at: now });
        }
        record.used += 1;
        Ok(Grant { workload: record.workload.clone(), token: id, first: true })
    }

    /// Takes a token back. What it was already redeemed for stays valid until its leaf ends. `false` when there is no such
    /// token.
    pub fn revoke(&mut self, id: &TokenId) -> bool {
        self.tokens.remove(id).is_some()
    }

    /// All tokens, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = TokenInfo> + '_ {
        self.tokens.iter().map(|(id, record)| TokenInfo {
            id: id.clone(),
            workload: record.workload.clone(),
            uses: record.uses,
            created: crate::svid::moment(record.created),
            ends: crate::svid::moment(record.ends),
            used: record.used,
        })
    }

    /// Drops tokens that ended longer ago than a retry may take; they would be refused anyway.
    pub fn forget_ended(&mut self, now: UnixTime) {
        let kept = |end: u64| end.saturating_add(RETRY.as_secs()) >= now.as_secs();
        self.tokens.retain(|_, record| kept(record.ends.max(record.redeemed.as_ref().map_or(0, |use_| use_.at))));
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

fn hash_secret(secret: &[u8]) -> Hash {
    Hash(sha256(&[b"transept join token", secret]))
}

fn name(hash: &Hash) -> TokenId {
    TokenId(HEXLOWER.encode(&hash.0[..6]))
}

fn checksum(secret: &[u8]) -> [u8; CHECKSUM] {
    let mut out = [0; CHECKSUM];
    out.copy_from_slice(&sha256(&[b"transept join token checksum", secret])[..CHECKSUM]);
    out
}

fn write(secret: &[u8; SECRET]) -> Token {
    let bytes = Zeroizing::new([secret.as_slice(), &checksum(secret)].concat());
    let digits = Zeroizing::new(BASE32_NOPAD.encode(&bytes));
    Token(Zeroizing::new(format!("{PREFIX}{}", digits.to_ascii_lowercase())))
}

/// The secret of a token that is whole.
fn read(token: &str) -> Option<Zeroizing<[u8; SECRET]>> {
    let digits = token.strip_prefix(PREFIX)?;
    if digits.len() != (SECRET + CHECKSUM) * 8 / 5 || digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let upper = Zeroizing::new(digits.to_ascii_uppercase());
    let bytes = Zeroizing::new(BASE32_NOPAD.decode(upper.as_bytes()).ok()?);
    let (secret, sum) = bytes.split_first_chunk::<SECRET>()?;
    (checksum(secret) == sum).then(|| Zeroizing::new(*secret))
}

#[cfg(test)]
mod tests;
