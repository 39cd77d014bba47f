//! Sealing what a browser keeps for us: it can neither read nor change it, nor show it where it was not meant.
//!
//! AES-256-GCM-SIV (RFC 8452) under keys that are derived from the secret of the policy (HKDF, RFC 5869), one for each purpose and each
//! context: an issuer, a client, a cookie. So the state of a login is no session, and a session with another client is none with this one, also
//! when both have the same secret. Policies that agree in all of that share their sessions. The nonce is random; with SIV, one that came twice would only tell that the same thing was sealed twice.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};

/// The length of a nonce, in bytes.
pub(crate) const NONCE: usize = 12;

/// The first byte of what is sealed, so that another form can be told from this one.
const FORM: u8 = 1;

/// What a sealed text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A browser that is logged in.
    Session,
    /// A browser that is on its way through the provider.
    Flow,
}

/// The keys of one policy. Never shown.
pub(crate) struct Seals {
    /// For sessions and for flows, by the newest secret first. The newest seals, all open.
    keys: Vec<[LessSafeKey; 2]>,
}

impl Seals {
    /// Keys from secrets, the newest first, for one `context`.
    pub(crate) fn new(secrets: &[&[u8]], context: &str) -> Option<Seals> {
        let of = |secret: &&[u8]| Some([derive(secret, context, b"session")?, derive(secret, context, b"flow")?]);
        Some(Seals { keys: secrets.iter().map(of).collect::<Option<_>>()? })
    }

    /// Keys of no policy.
    pub(crate) fn for_tests() -> Seals {
        Seals::new(&[b"0123456789abcdef0123456789abcdef"], "test").unwrap_or(Seals { keys: Vec::new() })
    }

    /// Seals bytes into text that may stand in a cookie. None when there is no key.
    pub(crate) fn seal(&self, purpose: Purpose, nonce: [u8; NONCE], bytes: &[u8]) -> Option<String> {
        let key = self.keys.first()?.get(purpose as usize)?;
        let mut sealed = Vec::with_capacity(1 + NONCE + bytes.len() + 16);
        sealed.push(FORM);
        sealed.extend(nonce);
        let mut content = bytes.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from([FORM]), &mut content).ok()?;
        sealed.extend(content);
        Some(data_encoding::BASE64URL_NOPAD.encode(&sealed))
    }

    /// Opens what was sealed for this purpose by one of the secrets; none for anything else.
    pub(crate) fn open(&self, purpose: Purpose, text: &[u8]) -> Option<Vec<u8>> {
        let sealed = data_encoding::BASE64URL_NOPAD.decode(text).ok()?;
        let (&FORM, rest) = sealed.split_first()? else { return None };
        let (nonce, content) = rest.split_first_chunk::<NONCE>()?;
        self.keys.iter().find_map(|keys| {
            let mut content = content.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = keys.get(purpose as usize)?.open_in_place(nonce, Aad::from([FORM]), &mut content).ok()?;
            Some(opened.to_vec())
        })
    }
}

fn derive(secret: &[u8], context: &str, purpose: &[u8]) -> Option<LessSafeKey> {
    let secret = Salt::new(HKDF_SHA256, b"transept login").extract(secret);
    // The purpose has no zero byte, so no two pairs run together.
    let info = [purpose, b"\0", context.as_bytes()];
    let key = UnboundKey::from(secret.expand(&info, &AES_256_GCM_SIV).ok()?);
    Some(LessSafeKey::new(key))
}

impl fmt::Debug for Seals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Seals").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    #[test]
    fn what_was_sealed_is_opened_for_its_purpose_and_context_only() {
        let seals = Seals::new(&[SECRET], "shop").expect("keys");
        let text = seals.seal(Purpose::Session, [7; NONCE], b"who it is").expect("sealed");
        assert_eq!(seals.open(Purpose::Session, text.as_bytes()).as_deref(), Some(&b"who it is"[..]));
        assert_eq!(seals.open(Purpose::Flow, text.as_bytes()), None);
        let other = Seals::new(&[SECRET], "bank").expect("keys");
        assert_eq!(other.open(Purpose::Session, text.as_bytes()), None);
        assert!(!text.contains("who"), "{text}");
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let seals = Seals::for_tests();
        let text = seals.seal(Purpose::Flow, [9; NONCE], b"state").expect("sealed");
        let sealed = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).expect("base64url");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = data_encoding::BASE64URL_NOPAD.encode(&changed);
            assert_eq!(seals.open(Purpose::Flow, changed.as_bytes()), None, "bit {bit}");
        }
        for cut in 0..text.len() {
            assert_eq!(seals.open(Purpose::Flow, &text.as_bytes()[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn an_older_secret_opens_and_does_not_seal() {
        let old = Seals::new(&[SECRET], "shop").expect("keys");
        let both = Seals::new(&[b"fedcba9876543210fedcba9876543210", SECRET], "shop").expect("keys");
        let text = old.seal(Purpose::Session, [1; NONCE], b"x").expect("sealed");
        assert!(both.open(Purpose::Session, text.as_bytes()).is_some());
        let text = both.seal(Purpose::Session, [2; NONCE], b"x").expect("sealed");
        assert!(old.open(Purpose::Session, text.as_bytes()).is_none());
    }
}
