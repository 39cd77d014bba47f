//! Where the keys of an issuer come from: the configuration, or a document that is kept fresh.

use std::sync::Arc;

use aws_lc_rs::digest;
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use transept_model::kinds::BackendObjectReference;
use transept_model::place::Spot;
use transept_model::schema::Text;

use super::super::super::{CompileCx, Origin, PlainHttp, Url, parse_url};
use super::{JwtSpec, KeysSpec};
use crate::document::{Document, Source, SourceKind};
use crate::jose::KeySet;

#[derive(Debug)]
pub(super) enum Keys {
    Fixed(KeySet),
    Fetched(Arc<Document>),
}

pub(super) fn compile_keys(spec: &JwtSpec, identity: &mut digest::Context, cx: &mut CompileCx<'_>) -> Option<Keys> {
    let Some(keys) = &spec.keys else {
        return discovered(spec, None, cx);
    };
    if let Some(text) = &keys.inline {
        return fixed(keys.at, text.as_bytes(), cx);
    }
    if let Some(entry) = &keys.config_map {
        let map = cx.config_map(entry.at, &entry.name)?;
        let Some(bytes) = map.spec.entry(&entry.key) else {
            let why = format!("the ConfigMap {} has no entry {}", &*entry.name, &*entry.key);
            cx.refuse(entry.at, why).remedy("add it, or mend the name");
            return None;
        };
        identity.update(bytes);
        return fixed(entry.at, bytes, cx);
    }
    if let Some(entry) = &keys.shared_secret {
        let secret = entry.read(cx)?;
        identity.update(&secret);
        return shared(entry.at, &secret, cx);
    }
    let Some(text) = &keys.url else {
        return discovered(spec, Some(keys), cx);
    };
    let url = reached(keys, cx.url(keys.at, text, PlainHttp::OnLoopback)?, cx);
    let part = format!("keys {text} {}", asked(Some(keys), cx));
    Some(Keys::Fetched(cx.document(&part, label(text), Source { url, kind: SourceKind::Keys })))
}

/// A URL as people are told of it: what is in its query may be a secret.
fn label(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// Who is asked instead of the host in a URL. The same name in another namespace is somebody else.
fn asked(keys: Option<&KeysSpec>, cx: &CompileCx<'_>) -> String {
    keys.and_then(|keys| keys.backend_ref.as_ref()).map_or_else(String::new, |reference| {
        let namespace = reference.namespace.as_deref().unwrap_or(&cx.name.namespace);
        let BackendObjectReference { group, kind, name, port, .. } = reference;
        format!("{group}/{kind} {namespace}/{name} {port:?}")
    })
}

/// The URL, asked of the backend that is named instead of its host, if one is.
fn reached(keys: &KeysSpec, url: Url, cx: &mut CompileCx<'_>) -> Url {
    match &keys.backend_ref {
        Some(reference) => Url { callee: cx.backend(reference), ..url },
        None => url,
    }
}

fn fixed(at: Spot, bytes: &[u8], cx: &mut CompileCx<'_>) -> Option<Keys> {
    match KeySet::parse(bytes) {
        Ok(keys) => Some(Keys::Fixed(keys)),
        Err(why) => {
            let remedy = if why.0.contains("shared secret") {
                "with it everybody who reads this could sign: put it into a Secret and name that as `sharedSecret`"
            } else if why.0.contains("private half") {
                "take `d`, `p`, `q`, `dp`, `dq` and `qi` out of it, and use a new key: this one is known now"
            } else {
                "write a JWK set: `{\"keys\": [...]}`"
            };
            cx.refuse(at, format!("these keys cannot be used: {why}")).remedy(remedy);
            None
        }
    }
}

fn shared(at: Spot, secret: &[u8], cx: &mut CompileCx<'_>) -> Option<Keys> {
    if is_key_of_a_pair(secret) {
        cx.refuse(at, "the shared secret is a key in PEM or JSON, or in DER, which somebody else may know")
            .remedy("with a public key use `keys.inline` and RS256 or ES256; a shared secret is random bytes");
        return None;
    }
    let keys = KeySet::shared(secret);
    if keys.keys().is_empty() {
        cx.refuse(at, "the shared secret has fewer than 32 bytes, and could be guessed")
            .remedy("make one with `openssl rand -hex 32` (RFC 7518 section 3.2)");
        return None;
    }
    Some(Keys::Fixed(keys))
}

/// What stands in keys that are written as text: in PEM, also behind other lines; in what `openssl` prints; in a JWK; in keys of SSH.
const WORDS: &[&str] =
    &["-----BEGIN", "-----END", "Public-Key:", "Modulus", "\"kty\"", "ssh-rsa ", "ssh-ed25519 ", "ecdsa-sha2-"];

/// Whether a secret is what others publish: whoever has it could sign (RFC 8725 section 2.1). In PEM, as a JWK, or as DER (SubjectPublicKeyInfo, RFC 5280 section
/// 4.1; certificates; PKCS #1), also where only the lines around it are missing.
pub(in super::super) fn is_key_of_a_pair(secret: &[u8]) -> bool {
    let holds = |text: &[u8], word: &[u8]| text.windows(word.len()).any(|at| at == word);
    let is_text = |text: &[u8]| WORDS.iter().any(|word| holds(text, word.as_bytes()));
    let begin = secret.strip_prefix(b"\xef\xbb\xbf").unwrap_or(secret).trim_ascii_start();
    if is_text(secret) || begin.starts_with(b"{") || is_der(secret) {
        return true;
    }
    let text: Vec<u8> = secret.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digits =
        text.trim_ascii_end().strip_suffix(b"=").map_or(&*text, |rest| rest.strip_suffix(b"=").unwrap_or(rest));
    let forms = [&HEXLOWER_PERMISSIVE, &BASE64_NOPAD, &BASE64URL_NOPAD];
    forms.iter().any(|form| form.decode(digits).is_ok_and(|bytes| is_der(&bytes) || is_text(&bytes)))
}

/// Whether bytes are one SEQUENCE that begins with another one or a number, and nothing else. Random bytes are so once in many millions.
fn is_der(bytes: &[u8]) -> bool {
    let Some((&[0x30, length], rest)) = bytes.split_first_chunk() else { return false };
    let (length, content) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => match rest.split_first() {
            Some((length, content)) => (usize::from(*length), content),
            None => return false,
        },
        0x82 => match rest.split_first_chunk() {
            Some((length, content)) => (usize::from(u16::from_be_bytes(*length)), content),
            None => return false,
        },
        _ => return false,
    };
    content.len() == length && matches!(content.first(), Some(0x30 | 0x02))
}

/// Keys where the provider says they are.
fn discovered(spec: &JwtSpec, keys: Option<&KeysSpec>, cx: &mut CompileCx<'_>) -> Option<Keys> {
    let at = keys.map_or(spec.at, |keys| keys.at);
    provider(at, &spec.issuer, keys, cx).map(Keys::Fetched)
}

/// The description of an OpenID provider, kept fresh.
pub(in super::super) fn provider(
    at: Spot,
    issuer: &Text,
    keys: Option<&KeysSpec>,
    cx: &mut CompileCx<'_>,
) -> Option<Arc<Document>> {
    let usual = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let text = keys.and_then(|keys| keys.discovery.as_deref()).unwrap_or(&usual).to_owned();
    let url = cx.url(at, &text, PlainHttp::OnLoopback)?;
    let url = keys.map_or(url.clone(), |keys| reached(keys, url, cx));
    // The server of the description is one that it may name; others are those that the configuration names.
    let (origin, _, _) = parse_url(&text, PlainHttp::OnLoopback).ok()?;
    let mut origins = vec![(origin, url.clone())];
    for text in keys.map_or(&[][..], |keys| &keys.origins) {
        let other = cx.url(at, text, PlainHttp::OnLoopback)?;
        let (origin, _, _) = parse_url(text, PlainHttp::OnLoopback).ok()?;
        origins.push((origin, other));
    }
    let listed: Vec<&Origin> = origins.iter().map(|(origin, _)| origin).collect();
    let part = format!("provider {issuer} {text} {} {listed:?}", asked(keys, cx));
    let kind = SourceKind::Provider { issuer: (&**issuer).into(), origins };
    Some(cx.document(&part, label(&text), Source { url, kind }))
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, BASE64_MIME, HEXLOWER};

    use super::*;

    #[test]
    fn a_public_key_is_no_shared_secret_in_any_form() {
        let head = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        let key = [&head[..], &[7; 32]].concat();
        // An RSA key of 2,048 bits, by its lengths.
        let rsa = [&[0x30, 0x82, 0x01, 0x22, 0x30, 0x0d][..], &[1; 0x120]].concat();
        for key in [key, rsa] {
            let (plain, url) = (BASE64.encode(&key), BASE64URL_NOPAD.encode(&key));
            let lines = format!("{}\n", BASE64_MIME.encode(&key));
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{plain}\n-----END PUBLIC KEY-----\n");
            let around = format!("# the key of the issuer\n{pem}");
            let encoded = BASE64.encode(pem.as_bytes());
            for form in [plain, url, lines, format!("\u{feff}{pem}"), pem, around, encoded, HEXLOWER.encode(&key)] {
                assert!(is_key_of_a_pair(form.as_bytes()), "{form}");
            }
            assert!(is_key_of_a_pair(&key));
        }
        for secret in [&b"0123456789abcdef0123456789abcdef0123456789abcdef"[..], b"MCowBQYDK2VwAyEA", &[0x30; 64], b""]
        {
            assert!(!is_key_of_a_pair(secret), "{secret:?}");
        }
    }
}
