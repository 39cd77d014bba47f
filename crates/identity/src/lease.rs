//! Lease secrets: how an instance that registered itself without a certificate shows later that it is the one that did.
//!
//! Made and checked by `control`, which stores them only as hashes. The text names the instance, so that whoever guesses costs one
//! look-up. How long a lease is good, and what it allows, is left to `control`.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::fingerprint::sha256;

/// What every lease begins with, so that people and secret scanners know one when they see it.
pub const PREFIX: &str = "transept_lease_";
/// Random bytes in a lease: 256 bits.
pub const SECRET: usize = 32;
/// Bytes of the checksum: a mistyped lease, or junk, is refused without a look-up.
const CHECKSUM: usize = 3;
/// The longest name of an instance with its namespace.
const LONGEST_NAME: usize = 512;

/// SHA-256 of a secret. The secret is random and long, so a fast hash is enough. `==` is for tests and tables; what somebody claims
/// is compared with [`LeaseHash::is`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LeaseHash([u8; 32]);

impl LeaseHash {
    /// The hash of what tells a first registration from every other one: which token it was made with, under which name, and with which
    /// key of the instance's choice.
    pub fn of_claim(token: &str, namespace: &str, name: &str, key: &[u8]) -> Self {
        // The parts before the key hold no zero, so that no two claims run together.
        let parts = [token, "\0", namespace, "\0", name, "\0"].map(str::as_bytes);
        Self(sha256(&[&[b"transept registration claim".as_slice()], parts.as_slice(), &[key]].concat()))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether two are the same, in a time that does not tell where they differ.
    pub fn is(&self, other: &LeaseHash) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for LeaseHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseHash(..)")
    }
}

impl Serialize for LeaseHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for LeaseHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        bytes.try_into().map(Self).map_err(|_| serde::de::Error::custom("a hash has 32 bytes"))
    }
}

/// What a lease says: whose it is, and the hash of its secret. Whether it is good is known to the control plane only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseClaim {
    /// The namespace of the instance.
    pub namespace: String,
    /// The name of the instance.
    pub name: String,
    /// The hash of the secret.
    pub hash: LeaseHash,
}

impl LeaseClaim {
    /// Reads the text of a lease; `None` when it is not a whole one.
    pub fn read(text: &str) -> Option<Self> {
        let (digits, name) = text.strip_prefix(PREFIX)?.split_once('.')?;
        let (namespace, name) = name.split_once('/')?;
        if namespace.is_empty() || name.is_empty() || namespace.len() + name.len() > LONGEST_NAME {
            return None;
        }
        if digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let upper = Zeroizing::new(digits.to_ascii_uppercase());
        let bytes = Zeroizing::new(BASE32_NOPAD.decode(upper.as_bytes()).ok()?);
        let (secret, sum) = bytes.split_first_chunk::<SECRET>()?;
        (checksum(secret) == sum).then(|| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            hash: hash_secret(secret),
        })
    }
}

/// The text of a lease for whoever registered, and what to store. `secret` is random bytes from the crypto library; the text is shown
/// once and cannot be had again.
pub fn write(secret: &[u8; SECRET], namespace: &str, name: &str) -> (Zeroizing<String>, LeaseHash) {
    let bytes = Zeroizing::new([secret.as_slice(), &checksum(secret)].concat());
    let digits = Zeroizing::new(BASE32_NOPAD.encode(&bytes));
    let text = format!("{PREFIX}{}.{namespace}/{name}", *Zeroizing::new(digits.to_ascii_lowercase()));
    (Zeroizing::new(text), hash_secret(secret))
}

fn hash_secret(secret: &[u8; SECRET]) -> LeaseHash {
    LeaseHash(sha256(&[b"transept lease", secret]))
}

fn checksum(secret: &[u8; SECRET]) -> [u8; CHECKSUM] {
    let mut out = [0; CHECKSUM];
    out.copy_from_slice(&sha256(&[b"transept lease checksum", secret])[..CHECKSUM]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret() -> [u8; SECRET] {
        std::array::from_fn(|at| u8::try_from(at).unwrap())
    }

    #[test]
    fn a_lease_is_read_back_and_its_hash_tells_nothing() {
        let (text, hash) = write(&secret(), "shop", "cart-1.a");
        assert!(text.starts_with(PREFIX) && text.ends_with(".shop/cart-1.a"), "{}", &*text);
        let claim = LeaseClaim::read(&text).unwrap();
        assert_eq!((claim.namespace.as_str(), claim.name.as_str()), ("shop", "cart-1.a"));
        assert!(claim.hash.is(&hash));
        let stored = serde_json::to_string(&hash).unwrap();
        assert_eq!(serde_json::from_str::<LeaseHash>(&stored).unwrap(), hash);
        let other = write(&[7; SECRET], "shop", "cart-1.a").1;
        assert!(!claim.hash.is(&other));
        assert_eq!(format!("{hash:?}"), "LeaseHash(..)");
    }

    #[test]
    fn a_lease_that_is_not_whole_is_none() {
        let (text, _) = write(&secret(), "shop", "cart-1");
        let digits = &text[PREFIX.len()..text.find('.').unwrap()];
        for bad in [
            String::new(),
            PREFIX.to_owned(),
            format!("{PREFIX}{digits}"),
            format!("{PREFIX}{digits}.shop"),
            format!("{PREFIX}{digits}.shop/"),
            format!("{PREFIX}{digits}./cart-1"),
            format!("{PREFIX}{}.shop/cart-1", digits.to_ascii_uppercase()),
            format!("{PREFIX}{}.shop/cart-1", &digits[1..]),
            format!("{PREFIX}b{}.shop/cart-1", &digits[1..]),
            format!("transept_join_{digits}.shop/cart-1"),
            format!("{PREFIX}{digits}.shop/{}", "a".repeat(LONGEST_NAME)),
        ] {
            assert_eq!(LeaseClaim::read(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_claim_is_of_one_token_one_name_and_one_key() {
        let claim = LeaseHash::of_claim("token", "shop", "cart", b"key");
        assert_eq!(claim, LeaseHash::of_claim("token", "shop", "cart", b"key"));
        for other in [
            LeaseHash::of_claim("token2", "shop", "cart", b"key"),
            LeaseHash::of_claim("token", "shopcart", "", b"key"),
            LeaseHash::of_claim("token", "shop", "cartk", b"ey"),
            LeaseHash::of_claim("token", "shop", "cart", b""),
        ] {
            assert_ne!(claim, other);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fail(text in "(transept_lease_)?[a-z2-7./A-Z0-9ä]{0,80}") {
            LeaseClaim::read(&text);
        }
    }
}
