//! Keys (RFC 7517, RFC 7518 section 6, RFC 8037) and sets of them.
//!
//! A key knows which algorithms it may verify: those that its type and curve can, and of these only its `alg`, when it has one. A
//! shared secret comes from a Secret and never from a set, so an algorithm with a shared secret never meets a public key. Keys of a set that
//! cannot be used are left out and remarked upon, as RFC 7517 section 5 asks; a set in which two keys have one name is refused.

use std::fmt;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm};
use aws_lc_rs::{digest, hmac};
use serde_json::{Map, Value};

use super::{Algorithm, base64url, json};

/// The most keys that a set may have.
pub const MOST_KEYS: usize = 100;

/// One key that signatures are verified by.
pub struct Key {
    kid: Option<Box<str>>,
    /// A digest of what it is, whatever its name.
    print: [u8; 32],
    /// How to verify, by algorithm. Short: no type of key has more than six.
    verifiers: Vec<(Algorithm, Verifier)>,
}

enum Verifier {
    Public(Box<ParsedPublicKey>),
    Shared(Box<hmac::Key>),
}

/// The keys of an issuer.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Why some keys of it cannot be used; for people.
    pub remarks: Vec<String>,
}

/// Why a set cannot be used at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetError(pub String);

impl fmt::Display for SetError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl KeySet {
    /// Reads a JWK set (RFC 7517 section 5).
    ///
    /// # Errors
    /// When it is none, when two of its keys have one name, or when no key in it can be used.
    pub fn parse(text: &[u8]) -> Result<KeySet, SetError> {
        let refused = |why: String| Err(SetError(why));
        let set = match json::parse(text) {
            Ok(Value::Object(set)) => set,
            Ok(_) => return refused("it is no object".into()),
            Err(why) => return refused(why.into()),
        };
        let Some(Value::Array(all)) = set.get("keys") else {
            return refused("it has no list `keys`".into());
        };
        if all.len() > MOST_KEYS {
            return refused(format!("it has more than {MOST_KEYS} keys"));
        }
        let mut found = KeySet::default();
        for (index, key) in all.iter().enumerate() {
            let label = match key.get("kid") {
                Some(Value::String(kid)) if kid.len() <= 64 => format!("keys[{index}] ({})", kid.escape_debug()),
                _ => format!("keys[{index}]"),
            };
            let key = match key {
                Value::Object(members) => Key::parse(members),
                _ => Err("it is no object".into()),
            };
            match key {
                Ok(key) => found.keys.push(key),
                Err(why) => found.remarks.push(format!("{label} is not used: {why}")),
            }
        }
        for (index, key) in found.keys.iter().enumerate() {
            let twin = |other: &Key| other.kid.is_some() && other.kid == key.kid && other.resembles(key);
            if found.keys.iter().take(index).any(twin) {
                return refused("two keys have the same `kid`".into());
            }
        }
        if found.keys.is_empty() {
            let why = found.remarks.first().map_or_else(|| "it is empty".to_owned(), Clone::clone);
            return refused(format!("it has no key that can be used: {why}"));
        }
        Ok(found)
    }

    /// A secret that is shared with the issuer, for those algorithms that it is long enough for (RFC 7518 section 3.2).
    pub fn shared(secret: &[u8]) -> KeySet {
        KeySet { keys: Key::shared(secret, None).into_iter().collect(), remarks: Vec::new() }
    }

    /// The keys that a token with this `kid` may mean: those of the name, and those without one. Of a token without, all.
    pub(super) fn named<'k>(&'k self, kid: Option<&str>) -> impl Iterator<Item = &'k Key> {
        self.keys.iter().filter(move |key| match (kid, &key.kid) {
            (Some(wanted), Some(kid)) => **kid == *wanted,
            _ => true,
        })
    }

    #[cfg(test)]
    pub(super) fn of(keys: Vec<Key>) -> KeySet {
        KeySet { keys, remarks: Vec::new() }
    }

    /// The keys.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }
}

impl Key {
    /// Its name.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The algorithms that it verifies.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.verifiers.iter().map(|(algorithm, _)| *algorithm)
    }

    /// Whether it may verify this algorithm.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithms().any(|one| one == algorithm)
    }

    /// What tells it from every other key, by whatever name it goes. It is compared, and never shown.
    pub fn print(&self) -> &[u8; 32] {
        &self.print
    }

    /// Whether a signature is by this key.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.verifiers.iter().filter(|(one, _)| *one == algorithm).any(|(_, verifier)| match verifier {
            Verifier::Public(key) => key.verify_sig(message, signature).is_ok(),
            Verifier::Shared(key) => hmac::verify(key, message, signature).is_ok(),
        })
    }

    /// Whether a token could mean either.
    fn resembles(&self, other: &Key) -> bool {
        self.algorithms().any(|algorithm| other.fits(algorithm))
    }

    /// Reads one JWK.
    pub(super) fn parse(members: &Map<String, Value>) -> Result<Key, String> {
        const PRIVATE: [&str; 6] = ["d", "p", "q", "dp", "dq", "qi"];
        let kty = text_of(members, "kty")?.ok_or("it has no `kty`")?;
        if kty == "oct" {
            return Err("it is a shared secret, which belongs into a Secret".into());
        }
        if PRIVATE.iter().any(|name| members.contains_key(*name)) {
            return Err("it holds its private half, which nobody but the issuer should have".into());
        }
        check_use(members)?;
        let alg = match text_of(members, "alg")? {
            None => None,
            Some(name) => Some(Algorithm::from_name(name).ok_or("its `alg` is not one that is understood")?),
        };
        let kid = text_of(members, "kid")?.map(Box::from);
        let mut verifiers = match kty {
            "RSA" => rsa(members)?,
            "EC" => elliptic(members)?,
            "OKP" => edwards(members)?,
            _ => return Err("its `kty` is not one that is understood".into()),
        };
        if let Some(alg) = alg {
            verifiers.retain(|(algorithm, _)| *algorithm == alg);
        }
        if verifiers.is_empty() {
            return Err("its `alg` does not fit its type".into());
        }
        Ok(Key { kid, print: print(thumbprint(&in_one_spelling(members)).as_bytes()), verifiers })
    }

    pub(super) fn shared(secret: &[u8], kid: Option<&str>) -> Option<Key> {
        let sizes = [
            (Algorithm::HS256, hmac::HMAC_SHA256, 32),
            (Algorithm::HS384, hmac::HMAC_SHA384, 48),
            (Algorithm::HS512, hmac::HMAC_SHA512, 64),
        ];
        let verifiers: Vec<_> = sizes
            .into_iter()
            .filter(|(_, _, least)| secret.len() >= *least)
            .map(|(algorithm, hash, _)| (algorithm, Verifier::Shared(Box::new(hmac::Key::new(hash, secret)))))
            .collect();
        (!verifiers.is_empty()).then(|| Key { kid: kid.map(Box::from), print: print(secret), verifiers })
    }
}

fn print(what: &[u8]) -> [u8; 32] {
    // It is 32 bytes long.
    digest::digest(&digest::SHA256, what).as_ref().try_into().unwrap_or_default()
}

/// The thumbprint of a JWK that was read (RFC 7638, with SHA-256), in base64url.
pub(super) fn thumbprint(members: &Map<String, Value>) -> String {
    let names: &[&str] = match members.get("kty").and_then(Value::as_str) {
        Some("RSA") => &["e", "kty", "n"],
        Some("EC") => &["crv", "kty", "x", "y"],
        _ => &["crv", "kty", "x"],
    };
    let member = |name: &&str| {
        let value = members.get(*name).cloned().unwrap_or_default();
        format!("\"{name}\":{value}")
    };
    let text = format!("{{{}}}", names.iter().map(member).collect::<Vec<_>>().join(","));
    data_encoding::BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms: Vec<_> = self.algorithms().collect();
        out.debug_struct("Key").field("kid", &self.kid).field("algorithms", &algorithms).finish_non_exhaustive()
    }
}

/// The numbers of a key as RFC 7518 has them, so that one key has one print however its issuer spells it.
fn in_one_spelling(members: &Map<String, Value>) -> Map<String, Value> {
    let mut members = members.clone();
    let is_rsa = members.get("kty").is_some_and(|kty| kty == "RSA");
    for name in if is_rsa { ["n", "e"] } else { ["x", "y"] } {
        if let Ok(bytes) = bytes_of(&members, name) {
            let zeros = if is_rsa { bytes.iter().take_while(|byte| **byte == 0).count() } else { 0 };
            let text = data_encoding::BASE64URL_NOPAD.encode(bytes.get(zeros..).unwrap_or_default());
            members.insert(name.to_owned(), text.into());
        }
    }
    members
}

fn text_of<'v>(members: &'v Map<String, Value>, name: &str) -> Result<Option<&'v str>, String> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("its `{name}` is no text")),
    }
}

/// RFC 7517 sections 4.2 and 4.3: a key that is for something else verifies nothing.
fn check_use(members: &Map<String, Value>) -> Result<(), String> {
    match text_of(members, "use")? {
        None | Some("sig") => {}
        Some(_) => return Err("its `use` is not `sig`".into()),
    }
    match members.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(all)) if all.iter().any(|one| one == "verify") => Ok(()),
        Some(_) => Err("its `key_ops` does not have `verify`".into()),
    }
}

fn bytes_of(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = text_of(members, name)?.ok_or_else(|| format!("it has no `{name}`"))?;
    base64url(text.as_bytes()).ok_or_else(|| format!("its `{name}` is not base64url without padding"))
}

fn rsa(members: &Map<String, Value>) -> Result<Vec<(Algorithm, Verifier)>, String> {
    // Some issuers write the sign octet, against RFC 7518 section 2; that changes no value.
    let number = |name: &str| bytes_of(members, name).map(|bytes| bytes.into_iter().skip_while(|b| *b == 0).collect());
    let (n, e): (Vec<u8>, Vec<u8>) = (number("n")?, number("e")?);
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err(format!("its modulus has {bits} bits, and 2048 to 8192 are used"));
    }
    // RFC 8017 section 3.1; with 1 anybody could sign.
    let is_good = |e: &[u8]| e.len() <= 8 && e != [1] && e.last().is_some_and(|last| last % 2 == 1);
    if !is_good(&e) {
        return Err("its exponent is none".into());
    }
    let parameters: [(Algorithm, &'static RsaParameters); 6] = [
        (Algorithm::RS256, &signature::RSA_PKCS1_2048_8192_SHA256),
        (Algorithm::RS384, &signature::RSA_PKCS1_2048_8192_SHA384),
        (Algorithm::RS512, &signature::RSA_PKCS1_2048_8192_SHA512),
        (Algorithm::PS256, &signature::RSA_PSS_2048_8192_SHA256),
        (Algorithm::PS384, &signature::RSA_PSS_2048_8192_SHA384),
        (Algorithm::PS512, &signature::RSA_PSS_2048_8192_SHA512),
    ];
    let components = RsaPublicKeyComponents { n, e };
    let verifier = |(algorithm, parameters): (Algorithm, &'static RsaParameters)| {
        let key = components.to_parsed_public_key(parameters).map_err(|_| "it is no RSA key".to_owned())?;
        Ok((algorithm, Verifier::Public(Box::new(key))))
    };
    parameters.into_iter().map(verifier).collect()
}

fn elliptic(members: &Map<String, Value>) -> Result<Vec<(Algorithm, Verifier)>, String> {
    let (algorithm, parameters, size): (_, &'static dyn VerificationAlgorithm, usize) = match text_of(members, "crv")? {
        Some("P-256") => (Algorithm::ES256, &signature::ECDSA_P256_SHA256_FIXED, 32),
        Some("P-384") => (Algorithm::ES384, &signature::ECDSA_P384_SHA384_FIXED, 48),
        Some("P-521") => (Algorithm::ES512, &signature::ECDSA_P521_SHA512_FIXED, 66),
        _ => return Err("its `crv` is not one that is understood".into()),
    };
    let (x, y) = (bytes_of(members, "x")?, bytes_of(members, "y")?);
    if x.len() != size || y.len() != size {
        return Err("its coordinates do not have the length of its curve".into());
    }
    let point = [&[4][..], &x, &y].concat();
    let key = ParsedPublicKey::new(parameters, point).map_err(|_| "it is no point of its curve")?;
    Ok(vec![(algorithm, Verifier::Public(Box::new(key)))])
}

fn edwards(members: &Map<String, Value>) -> Result<Vec<(Algorithm, Verifier)>, String> {
    if text_of(members, "crv")? != Some("Ed25519") {
        return Err("its `crv` is not one that is understood".into());
    }
    let x = bytes_of(members, "x")?;
    if x.len() != 32 {
        return Err("its `x` does not have 32 bytes".into());
    }
    let key = ParsedPublicKey::new(&signature::ED25519, x).map_err(|_| "it is no Ed25519 key")?;
    Ok(vec![(Algorithm::EdDSA, Verifier::Public(Box::new(key)))])
}
