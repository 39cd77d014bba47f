//! Where the keys of an issuer come from: the configuration, or a document that is kept fresh.

use std::sync::Arc;

use aws_lc_rs::digest;
use transept_model::kinds::BackendObjectReference;
use transept_model::place::Spot;
use transept_model::schema::Text;

use super::super::super::{CompileCx, Origin, PlainHttp, Url, parse_url};
use super::super::published::is_key_of_a_pair;
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
        Some(reference) => Url { callee: cx.confidant(reference), ..url },
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
        cx.refuse(at, "the shared secret is a key of a pair, or a certificate, which somebody else may know")
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
