//! Hashes of passwords, in the form that `htpasswd -B` and `argon2` write: bcrypt and Argon2 only.
//!
//! Called by the scheme `basic` of AuthenticationPolicy. What is quick to compute is quick to try (MD5, SHA, crypt, plain text), so it is refused when
//! it is read. Verifying takes milliseconds: it belongs into [`Callout::Compute`](crate::callout::Callout::Compute).

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time;
use data_encoding::{BASE64_NOPAD, Specification};

/// The greatest cost of bcrypt: 2^16 rounds take seconds.
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=16;
/// bcrypt sees no more of a password than this, with the zero byte at its end.
const BCRYPT_LONGEST: usize = 72;
/// The most memory of Argon2, in KiB.
const ARGON2_MEMORY: u32 = 256 << 10;
/// The greatest number of passes of Argon2.
const ARGON2_PASSES: u32 = 32;

/// The hash of a password.
#[derive(Clone)]
pub struct PasswordHash {
    kind: Kind,
    salt: Vec<u8>,
    expected: Vec<u8>,
}

#[derive(Clone)]
enum Kind {
    Bcrypt { cost: u32 },
    Argon2 { algorithm: Algorithm, version: Version, params: Params },
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PasswordHash").finish_non_exhaustive()
    }
}

impl PasswordHash {
    /// Reads a hash: `$2y$10$...`, or `$argon2id$v=19$m=19456,t=2,p=1$...$...`.
    ///
    /// # Errors
    /// Why not, without anything of the hash.
    pub fn parse(text: &str) -> Result<PasswordHash, &'static str> {
        let mut parts = text.strip_prefix('$').ok_or("this is no bcrypt or Argon2 hash")?.split('$');
        match parts.next().unwrap_or_default() {
            "2a" | "2b" | "2y" => bcrypt_of(parts),
            "argon2id" => argon2_of(Algorithm::Argon2id, parts),
            "argon2i" => argon2_of(Algorithm::Argon2i, parts),
            "argon2d" => argon2_of(Algorithm::Argon2d, parts),
            _ => Err("this is no bcrypt or Argon2 hash"),
        }
    }

    /// Whether a password has this hash. Slow, on purpose.
    pub fn verify(&self, password: &[u8]) -> bool {
        let made = match &self.kind {
            Kind::Bcrypt { cost } => {
                let mut zeroed = Vec::with_capacity(BCRYPT_LONGEST);
                zeroed.extend(password.iter().take(BCRYPT_LONGEST));
                if zeroed.len() < BCRYPT_LONGEST {
                    zeroed.push(0);
                }
                let Ok(salt) = self.salt.as_slice().try_into() else { return false };
                bcrypt::bcrypt(*cost, salt, &zeroed).to_vec()
            }
            Kind::Argon2 { algorithm, version, params } => {
                let mut out = vec![0; self.expected.len()];
                let hasher = Argon2::new(*algorithm, *version, params.clone());
                if hasher.hash_password_into(password, &self.salt, &mut out).is_err() {
                    return false;
                }
                out
            }
        };
        // The text of bcrypt leaves out the last of 24 bytes.
        let made = made.get(..self.expected.len()).unwrap_or_default();
        constant_time::verify_slices_are_equal(made, &self.expected).is_ok()
    }
}

fn bcrypt_of<'t>(mut parts: impl Iterator<Item = &'t str>) -> Result<PasswordHash, &'static str> {
    let broken = "the bcrypt hash is incomplete";
    let cost: u32 = parts.next().and_then(|cost| cost.parse().ok()).ok_or(broken)?;
    if !BCRYPT_COSTS.contains(&cost) {
        return Err("the cost of the bcrypt hash is not between 4 and 16");
    }
    let rest = parts.next().filter(|rest| rest.len() == 53 && rest.is_ascii()).ok_or(broken)?;
    let (salt, hash) = rest.split_at(22);
    let mut letters = Specification::new();
    letters.symbols.push_str("./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789");
    letters.check_trailing_bits = false;
    let letters = letters.encoding().map_err(|_| broken)?;
    let bytes = |text: &str| letters.decode(text.as_bytes()).map_err(|_| broken);
    Ok(PasswordHash { kind: Kind::Bcrypt { cost }, salt: bytes(salt)?, expected: bytes(hash)? })
}

fn argon2_of<'t>(algorithm: Algorithm, mut parts: impl Iterator<Item = &'t str>) -> Result<PasswordHash, &'static str> {
    let broken = "the Argon2 hash is incomplete";
    let version = match parts.next() {
        Some("v=19") => Version::V0x13,
        Some("v=16") => Version::V0x10,
        _ => return Err(broken),
    };
    let (mut memory, mut passes, mut lanes) = (None, None, None);
    for pair in parts.next().ok_or(broken)?.split(',') {
        let (name, value) = pair.split_once('=').ok_or(broken)?;
        let place = match name {
            "m" => &mut memory,
            "t" => &mut passes,
            "p" => &mut lanes,
            _ => return Err("the Argon2 hash has parameters that are not known"),
        };
        *place = value.parse::<u32>().ok();
    }
    let (memory, passes, lanes) = (memory.ok_or(broken)?, passes.ok_or(broken)?, lanes.ok_or(broken)?);
    if memory > ARGON2_MEMORY || passes > ARGON2_PASSES {
        return Err("the Argon2 hash is too costly: more than 256 MiB, or more than 32 passes");
    }
    let mut bytes = || parts.next().and_then(|text| BASE64_NOPAD.decode(text.as_bytes()).ok()).ok_or(broken);
    let (salt, expected) = (bytes()?, bytes()?);
    if salt.len() < 8 || !(16..=64).contains(&expected.len()) {
        return Err("the Argon2 hash or its salt is too short");
    }
    let params = Params::new(memory, passes, lanes, Some(expected.len())).map_err(|_| broken)?;
    Ok(PasswordHash { kind: Kind::Argon2 { algorithm, version, params }, salt, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifies(hash: &str, password: &str) -> bool {
        PasswordHash::parse(hash).expect("a hash").verify(password.as_bytes())
    }

    #[test]
    fn bcrypt_hashes_of_others_verify() {
        // Published with jBCrypt.
        for (hash, password) in [
            ("$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.", ""),
            ("$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe", "a"),
            ("$2a$06$.rCVZVOThsIa97pEDOxvGuRRgzG64bvtJ0938xuqzv18d3ZpQhstC", "abcdefghijklmnopqrstuvwxyz"),
        ] {
            assert!(verifies(hash, password), "{password}");
            assert!(!verifies(hash, "other"));
        }
    }

    #[test]
    fn argon2_hashes_of_others_verify() {
        // From the test vectors of the reference implementation.
        let hash = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert!(verifies(hash, "password"));
        assert!(!verifies(hash, "Password"));
    }

    #[test]
    fn what_is_quick_to_try_or_too_costly_is_refused() {
        for wrong in [
            "secret",
            "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
            "$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00",
            "$2y$31$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.",
            "$2y$06$short",
            "$argon2id$v=19$m=9999999,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ",
            "$argon2id$v=19$m=256,t=2,p=1,x=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
            "",
        ] {
            let why = PasswordHash::parse(wrong).expect_err(wrong);
            assert!(wrong.is_empty() || !why.contains(wrong));
        }
    }
}
