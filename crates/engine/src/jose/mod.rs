//! Signed tokens: JWS (RFC 7515), JWK (RFC 7517) and the claims of JWT (RFC 7519), as strict as RFC 8725 asks for.
//!
//! Used by the schemes of `AuthenticationPolicy` that read tokens. Nothing in a token chooses how it is verified: keys come from the
//! configuration (the proofs of `proof`, which go with a token that names their key, hold theirs), each knows what it may be used for, and the algorithm must be on the issuer's list *and* fit the key. `none` has no
//! representation here, so no spelling of it can be let through. Only the compact form is read; what is ambiguous is refused: padding,
//! bits that stand for nothing, members that occur twice, extensions that nobody here understands. Encrypted tokens are not read.

mod claims;
mod json;
mod jwk;
mod jws;
mod proof;
#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;
use std::fmt;

pub use claims::{Claims, Expectations, Expiry, Validity, WantedClaim, names};
pub use json::parse as parse_json;
pub use jwk::{Key, KeySet, MOST_KEYS, SetError};
pub use jws::{MOST_TOKEN, Token};
pub use proof::PossessionProof;

/// An algorithm of RFC 7518 section 3.1 or RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "their names are the registry's")]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
    HS256,
    HS384,
    HS512,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Algorithm; 13] = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::ES512,
        Algorithm::EdDSA,
        Algorithm::HS256,
        Algorithm::HS384,
        Algorithm::HS512,
    ];

    /// Its name in the registry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::RS256 => "RS256",
            Algorithm::RS384 => "RS384",
            Algorithm::RS512 => "RS512",
            Algorithm::PS256 => "PS256",
            Algorithm::PS384 => "PS384",
            Algorithm::PS512 => "PS512",
            Algorithm::ES256 => "ES256",
            Algorithm::ES384 => "ES384",
            Algorithm::ES512 => "ES512",
            Algorithm::EdDSA => "EdDSA",
            Algorithm::HS256 => "HS256",
            Algorithm::HS384 => "HS384",
            Algorithm::HS512 => "HS512",
        }
    }

    /// The algorithm with exactly this name.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|one| one.as_str() == name)
    }

    /// Whether signer and verifier share one secret.
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
    }
}

/// A set of algorithms.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Algorithms(u16);

impl Algorithms {
    /// None at all.
    pub const NONE: Algorithms = Algorithms(0);

    /// Every algorithm with a public key.
    pub fn asymmetric() -> Algorithms {
        Algorithm::ALL.into_iter().filter(|one| !one.is_symmetric()).collect()
    }

    /// Whether `algorithm` is among them.
    pub const fn contains(self, algorithm: Algorithm) -> bool {
        self.0 & (1 << algorithm as u16) != 0
    }

    /// Those that are among them.
    pub fn iter(self) -> impl Iterator<Item = Algorithm> {
        Algorithm::ALL.into_iter().filter(move |one| self.contains(*one))
    }
}

impl FromIterator<Algorithm> for Algorithms {
    fn from_iter<I: IntoIterator<Item = Algorithm>>(all: I) -> Self {
        Algorithms(all.into_iter().fold(0, |bits, one| bits | 1 << one as u16))
    }
}

impl fmt::Debug for Algorithms {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.iter()).finish()
    }
}

/// Why a token is refused. Says nothing that is in the token, so that it may be logged and told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no token, or an ambiguous one.
    Malformed(Cow<'static, str>),
    /// Its algorithm is not one that its issuer uses.
    Algorithm,
    /// No key of the issuer is named as the token says. There may be a newer set of keys.
    UnknownKey,
    /// No key of the issuer fits its algorithm.
    NoKey,
    /// The signature is not one of the issuer's.
    Signature,
    /// It is genuine, and not for us, or not now.
    Claims(Cow<'static, str>),
    /// It is genuine, and has expired.
    Expired,
}

impl Refusal {
    /// The sentence for callers, logs and explanations.
    pub fn why(&self) -> Cow<'static, str> {
        match self {
            Refusal::Malformed(why) | Refusal::Claims(why) => why.clone(),
            Refusal::Expired => "the token has expired (`exp`)".into(),
            Refusal::Algorithm => "the token is signed by an algorithm that is not allowed".into(),
            Refusal::UnknownKey => "the token is signed by an unknown key".into(),
            Refusal::NoKey => "no key of the issuer fits the algorithm of the token".into(),
            Refusal::Signature => "the signature of the token is wrong".into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.why())
    }
}

/// Strict base64url (RFC 7515 section 2): no padding, no other characters, no bits that stand for nothing.
fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    data_encoding::BASE64URL_NOPAD.decode(text).ok()
}
