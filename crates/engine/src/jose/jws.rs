//! One token: taken apart, and its signature verified.
//!
//! The signature is verified before the payload is read. What the header says beyond `alg`, `kid` and `typ` is either harmless and ignored
//! (`x5t`, `jku`, `jwk`: no key is ever taken from a token, and no URL in it is asked) or a reason to refuse.

use serde_json::{Map, Value};

use super::jwk::{Key, KeySet};
use super::{Algorithm, Algorithms, Refusal, base64url, json};

/// The largest token that is read, in bytes.
pub const MOST_TOKEN: usize = 16 * 1024;

/// The longest name of a key, in bytes.
const MOST_KID: usize = 256;

/// Keys that are tried for a token that names none.
const MOST_TRIES: usize = 8;

/// A token that has been taken apart. Nothing in it is to be believed before [`Token::verify`].
#[derive(Debug)]
pub struct Token<'t> {
    algorithm: Algorithm,
    kid: Option<Box<str>>,
    kind: Option<Box<str>>,
    signed: &'t [u8],
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'t> Token<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// When it is no JWS in compact form whose header can be understood.
    pub fn parse(text: &'t [u8]) -> Result<Token<'t>, Refusal> {
        Token::parse_with_header(text).map(|(token, _)| token)
    }

    /// The same, with its header.
    pub(super) fn parse_with_header(text: &'t [u8]) -> Result<(Token<'t>, Map<String, Value>), Refusal> {
        let malformed = |why: &'static str| Refusal::Malformed(why.into());
        if text.len() > MOST_TOKEN {
            return Err(malformed("the token is larger than 16 KiB"));
        }
        let mut parts = text.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("the token does not have three parts"));
        };
        match parts.count() {
            0 => {}
            2 => return Err(malformed("the token is encrypted, and such tokens are not read")),
            _ => return Err(malformed("the token does not have three parts")),
        }
        let signed = text.get(..header.len() + 1 + payload.len()).unwrap_or_default();
        let not_base64url = || malformed("a part of the token is not base64url without padding");
        let header = base64url(header).ok_or_else(not_base64url)?;
        let payload = base64url(payload).ok_or_else(not_base64url)?;
        let signature = base64url(signature).ok_or_else(not_base64url)?;
        let header = json::parse(&header).map_err(|why| Refusal::Malformed(format!("the header: {why}").into()))?;
        let Value::Object(header) = header else {
            return Err(malformed("the header of the token is no object"));
        };
        let (algorithm, kid, kind) = read_header(&header)?;
        Ok((Token { algorithm, kid, kind, signed, payload, signature }, header))
    }

    /// The algorithm that the token names.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key that it names.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// What kind of token it says it is: the media type in `typ`, in lower case and without `application/`.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// What it says, unverified: for explanations, which have no keys.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Verifies the signature by a key of the issuer, with an algorithm that the issuer uses.
    ///
    /// # Errors
    /// When it is none of the issuer's signatures.
    pub fn verify(&self, keys: &KeySet, allowed: Algorithms) -> Result<&[u8], Refusal> {
        self.verify_with(keys, allowed).map(|(payload, _)| payload)
    }

    /// The same, with the key that it is by.
    ///
    /// # Errors
    /// When it is none of the issuer's signatures.
    pub fn verify_with<'k>(&self, keys: &'k KeySet, allowed: Algorithms) -> Result<(&[u8], &'k Key), Refusal> {
        if !allowed.contains(self.algorithm) {
            return Err(Refusal::Algorithm);
        }
        let mut named = keys.named(self.kid.as_deref()).peekable();
        if named.peek().is_none() {
            return Err(if self.kid.is_some() { Refusal::UnknownKey } else { Refusal::NoKey });
        }
        let mut fitting = named.filter(|key| key.fits(self.algorithm)).take(MOST_TRIES).peekable();
        if fitting.peek().is_none() {
            return Err(Refusal::NoKey);
        }
        match fitting.find(|key| key.verifies(self.algorithm, self.signed, &self.signature)) {
            Some(key) => Ok((&self.payload, key)),
            None => Err(Refusal::Signature),
        }
    }

    /// Verifies the signature by this one key.
    pub(super) fn verify_by(&self, key: &Key) -> Result<&[u8], Refusal> {
        if key.verifies(self.algorithm, self.signed, &self.signature) {
            Ok(&self.payload)
        } else {
            Err(Refusal::Signature)
        }
    }

    /// What the token says, after its signature was found good.
    ///
    /// # Errors
    /// When the payload is not an object.
    pub fn claims(payload: &[u8]) -> Result<Map<String, Value>, Refusal> {
        match json::parse(payload) {
            Ok(Value::Object(claims)) => Ok(claims),
            Ok(_) => Err(Refusal::Malformed("the claims of the token are no object".into())),
            Err(why) => Err(Refusal::Malformed(format!("the claims: {why}").into())),
        }
    }

    /// Who the token says has made it, when nothing has been verified: good for choosing whose keys to try, and for nothing else.
    pub fn unverified_issuer(&self) -> Option<String> {
        match Token::claims(&self.payload).ok()?.remove("iss") {
            Some(Value::String(issuer)) => Some(issuer),
            _ => None,
        }
    }
}

type Header = (Algorithm, Option<Box<str>>, Option<Box<str>>);

fn read_header(header: &Map<String, Value>) -> Result<Header, Refusal> {
    let malformed = |why: &'static str| Refusal::Malformed(why.into());
    let Some(Value::String(algorithm)) = header.get("alg") else {
        return Err(malformed("the header of the token names no algorithm"));
    };
    // An unknown name, of whatever spelling, is no algorithm that anybody allowed.
    let algorithm = Algorithm::from_name(algorithm).ok_or(Refusal::Algorithm)?;
    // RFC 7515 section 4.1.11: extensions that are not understood; `b64` (RFC 7797) changes what is signed.
    for (name, why) in [
        ("crit", "the token demands an extension that is not understood"),
        ("b64", "the token demands an extension that is not understood"),
        ("enc", "the token is encrypted, and such tokens are not read"),
        ("zip", "the token is compressed, and such tokens are not read"),
    ] {
        if header.contains_key(name) {
            return Err(malformed(why));
        }
    }
    if header.contains_key("cty") {
        return Err(malformed("the token holds another token, and such tokens are not read"));
    }
    let kid = text_of(header, "kid", MOST_KID)?;
    let kind = text_of(header, "typ", MOST_KID)?.map(|kind| {
        let kind = kind.to_ascii_lowercase();
        Box::from(kind.strip_prefix("application/").unwrap_or(&kind))
    });
    Ok((algorithm, kid, kind))
}

fn text_of(header: &Map<String, Value>, name: &str, most: usize) -> Result<Option<Box<str>>, Refusal> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= most => Ok(Some(text.as_str().into())),
        Some(_) => Err(Refusal::Malformed(format!("`{name}` in the header of the token is no short text").into())),
    }
}
