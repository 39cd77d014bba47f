//! Whether a token is shown by whom it was given to: bound to a certificate (RFC 8705) or to a key that the client proves to have for each request
//! (DPoP, RFC 9449), as its claim `cnf` says. For the schemes `jwt` and `introspection`, once the token itself was found good.
//!
//! A proof is for one request: its method and URL, this very token, and a minute. It is good once; what was seen is remembered in many memories of a
//! fixed size, by the key, so that one client cannot use up the room of all. A binding that is not understood binds all the same: such a token is refused.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use transept_model::choice;
use transept_wire::head::{FieldId, FieldName, NameRef, Request};
use transept_wire::normalize::{self, Form, Normal, PathRules};

use super::super::{CompileCx, PlainHttp, parse_url};
use super::api_key::{bearer_token, is_alike};
use super::exhibits::{Exhibit, add_lines};
use super::nonces::{Life, Nonces, Use, Uses};
use super::scheme::{Fault, Proof, after_word, challenge};
use super::secret::SecretEntry;
use crate::exchange::{CertificateEnded, Exchange};
use crate::jose::{Claims, PossessionProof};
use crate::principal::Principal;

mod nonce;

use nonce::ProofNonces;

choice! {
    /// Whom tokens are good for.
    pub enum SenderConstraint {
        /// A token that is bound (`cnf`) for whom it is bound to, any other for whoever shows it.
        WhenBound = "WhenBound",
        /// Tokens must be bound, to a certificate or to a key.
        Required = "Required",
        /// Tokens must be bound to the client's certificate (RFC 8705).
        Certificate = "Certificate",
        /// Tokens must be bound to a key that the client proves to have (DPoP, RFC 9449).
        Proof = "Proof",
        /// Whoever shows it, also where the token says that it is bound.
        Anybody = "Anybody",
    }
}

/// How a token is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Bearer,
    Dpop,
    /// In a field of its own.
    None,
}

/// To what a token is bound.
struct Bound<'c> {
    /// The digest of a certificate.
    certificate: Option<&'c str>,
    /// The thumbprint of a key.
    key: Option<&'c str>,
}

/// How long ago a proof may have been made.
const OLDEST: Duration = Duration::from_secs(60);
/// How far the clock of a client may be ahead.
const AHEAD: Duration = Duration::from_secs(30);
const MEMORIES: usize = 64;
/// Proofs that one memory holds: those of a client that makes 700 requests a second.
const MOST: usize = 65_536;

/// Proofs that were seen.
#[derive(Debug)]
pub(super) struct Proofs {
    by_key: [Arc<Nonces>; MEMORIES],
    /// Nobody outside can choose a key that is remembered where another one is.
    seed: RandomState,
}

impl Proofs {
    fn of(&self, thumbprint: &str) -> Option<&Arc<Nonces>> {
        let place = self.seed.hash_one(thumbprint) % MEMORIES as u64;
        self.by_key.get(usize::try_from(place).unwrap_or_default())
    }
}

impl Default for Proofs {
    fn default() -> Proofs {
        Proofs { by_key: std::array::from_fn(|_| Arc::default()), seed: RandomState::new() }
    }
}

/// The compiled constraint.
#[derive(Debug)]
pub(super) struct Sender {
    constraint: SenderConstraint,
    proofs: Arc<Proofs>,
    field: FieldName,
    /// What proofs must hold, besides.
    nonces: Option<ProofNonces>,
    /// Whether what is spelled like an API key is for another scheme.
    leaves_keys: bool,
}

impl Sender {
    /// `nonces` is the secret by which nonces for proofs are made, if they must hold one.
    pub(super) fn compile(
        constraint: SenderConstraint,
        nonces: Option<&SecretEntry>,
        cx: &mut CompileCx<'_>,
    ) -> Option<Sender> {
        let nonces = match nonces {
            Some(entry) => Some(ProofNonces::compile(entry, cx)?),
            None => None,
        };
        Some(Sender {
            constraint,
            proofs: cx.keep("proofs", Proofs::default),
            field: FieldName::new("dpop").ok()?,
            nonces,
            leaves_keys: false,
        })
    }

    /// What is spelled like an API key is for another scheme, or is not.
    pub(super) fn leave_keys(&mut self, leaves: bool) {
        self.leaves_keys = leaves;
    }

    /// Tokens in a request, each with the word that says how it is shown.
    pub(super) fn shown<'r>(
        &'r self,
        header: &'r FieldName,
        request: &'r Request,
    ) -> impl Iterator<Item = (Word, &'r [u8])> {
        request.fields.iter().filter_map(|(name, value)| self.token_in(header, name, value))
    }

    /// The lines that they stand in.
    pub(super) fn exhibits<'x>(&self, header: &FieldName, request: &Request, add: &mut dyn FnMut(Exhibit<'x>)) {
        add_lines(request, |name, value| self.token_in(header, name, value).is_some(), add);
    }

    fn token_in<'v>(&self, header: &FieldName, name: NameRef<'_>, value: &'v [u8]) -> Option<(Word, &'v [u8])> {
        if !name.is(header) {
            return None;
        }
        let (word, token) = match name.id {
            FieldId::AUTHORIZATION => {
                let proven = || (self.constraint != SenderConstraint::Anybody).then(|| dpop_token(value)).flatten();
                let bearer = bearer_token(value).map(|token| (Word::Bearer, token));
                bearer.or_else(|| proven().map(|token| (Word::Dpop, token)))?
            }
            _ => (Word::None, value),
        };
        let is_key = self.leaves_keys && word != Word::Dpop && is_alike(token);
        (!is_key).then_some((word, token))
    }

    /// Removes them, and proofs.
    pub(super) fn strip(&self, header: &FieldName, request: &mut Request) {
        if self.shown(header, request).next().is_some() {
            request.fields.retain(|name, value| self.token_in(header, name, value).is_none());
        }
        if self.constraint != SenderConstraint::Anybody {
            request.fields.remove(&self.field);
        }
    }

    /// The challenge (RFC 9449 section 7.1), where proofs are expected.
    pub(super) fn challenge(&self, bearer: String, realm: &str, fault: &Fault<'_>) -> String {
        let proof = || format!("{}, algs=\"{}\"", challenge("DPoP", realm, fault), PossessionProof::algorithms());
        match self.constraint {
            SenderConstraint::Proof => proof(),
            SenderConstraint::Required => format!("{bearer}, {}", proof()),
            _ => bearer,
        }
    }

    /// Whether a genuine token with these claims is shown by whom it was given to: the end of the certificate that it is bound to, if it is to one, and
    /// the proof that is used up by it.
    ///
    /// # Errors
    /// The proof that it is not.
    pub(super) fn check(
        &self,
        claims: &Claims,
        word: Word,
        token: &[u8],
        x: &Exchange<'_>,
    ) -> Result<(Option<Duration>, Uses), Proof> {
        let mut uses = Uses::new();
        if self.constraint == SenderConstraint::Anybody {
            return Ok((None, uses));
        }
        let invalid = |why: &str| Err(Proof::invalid(why));
        let Bound { certificate, key } = self.bound(claims).map_err(Proof::invalid)?;
        match (key, word) {
            // RFC 9449 section 7.1: such a token is no bearer token, and no other is shown so.
            (Some(_), Word::Bearer) => return invalid("the token is bound to a key and is shown as a bearer token"),
            (None, Word::Dpop) => return invalid("the token is shown with DPoP and is not bound to a key"),
            _ => {}
        }
        let ends = certificate.map(|expected| check_certificate(expected, x)).transpose().map_err(Proof::invalid)?;
        if let Some(expected) = key {
            uses.push(Arc::new(self.check_proof(expected, token, x)?));
        }
        Ok((ends, uses))
    }

    /// Whether a token with these claims, which was let in before, is good for whom it was given to today: the end of the certificate that it is
    /// bound to. What was proved then is not proved again.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn stands(&self, claims: &Claims, x: &Exchange<'_>) -> Result<Option<Duration>, &'static str> {
        if self.constraint == SenderConstraint::Anybody {
            return Ok(None);
        }
        self.bound(claims)?.certificate.map(|expected| check_certificate(expected, x)).transpose()
    }

    /// To what a token is bound, if that is enough here.
    fn bound<'c>(&self, claims: &'c Claims) -> Result<Bound<'c>, &'static str> {
        let bound = match claims.get("cnf") {
            None => Bound { certificate: None, key: None },
            Some(Value::Object(bound)) => {
                let known = ["x5t#S256", "jkt"];
                if bound.is_empty() || bound.keys().any(|name| !known.contains(&name.as_str())) {
                    return Err("the token is bound in a way that is not understood (`cnf`)");
                }
                if bound.values().any(|value| !value.is_string()) {
                    return Err("the token is bound to what is no text (`cnf`)");
                }
                let text = |name: &str| bound.get(name).and_then(Value::as_str);
                Bound { certificate: text("x5t#S256"), key: text("jkt") }
            }
            Some(_) => return Err("the token is bound in a way that is not understood (`cnf`)"),
        };
        let is_enough = match self.constraint {
            SenderConstraint::Required => bound.certificate.is_some() || bound.key.is_some(),
            SenderConstraint::Certificate => bound.certificate.is_some(),
            SenderConstraint::Proof => bound.key.is_some(),
            SenderConstraint::WhenBound | SenderConstraint::Anybody => true,
        };
        if is_enough { Ok(bound) } else { Err("the token is not bound to who shows it (`cnf`)") }
    }

    fn check_proof(&self, expected: &str, token: &[u8], x: &Exchange<'_>) -> Result<Use, Proof> {
        let mut shown = x.request.fields.all_named(&self.field);
        let (Some(text), None) = (shown.next(), shown.next()) else {
            return Err(Proof::invalid(
                "the token is bound to a key, and there is not exactly one proof of it (`DPoP`)",
            ));
        };
        let (proof, end) =
            read_proof(text, expected, token, x).map_err(|why| Proof::invalid(format!("the proof: {why}")))?;
        if let Some(nonces) = &self.nonces
            && !proof.text("nonce").is_ok_and(|nonce| nonces.know(nonce, x.now.unix))
        {
            return Err(nonces.ask(x.now.unix));
        }
        let crowded = "too many proofs are remembered";
        let memory = self.proofs.of(&proof.thumbprint).ok_or_else(|| Proof::Unavailable(crowded.into()))?;
        let id = format!("{} {}", proof.thumbprint, proof.text("jti").unwrap_or_default()).into();
        Ok(Use {
            memory: Arc::clone(memory),
            id,
            end,
            life: Life::until(end),
            most: MOST,
            seen: "the proof was seen before",
            crowded,
        })
    }
}

fn dpop_token(value: &[u8]) -> Option<&[u8]> {
    after_word(value, "dpop")
}

/// RFC 8705 section 3. When the certificate ends.
fn check_certificate(expected: &str, x: &Exchange<'_>) -> Result<Duration, &'static str> {
    let shown = match x.client_certificate() {
        Ok(Some(shown)) => shown,
        Ok(None) => return Err("the token is bound to a certificate, and the client has shown none"),
        Err(CertificateEnded) => return Err("the token is bound to a certificate, and the client's has ended"),
    };
    let print = BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, &shown.leaf).as_ref());
    if print == expected { Ok(shown.until) } else { Err("the token is bound to another certificate") }
}

/// Who has shown a token that is bound to a certificate, which may end first.
pub(super) fn ending(principal: Arc<Principal>, ends: Option<Duration>) -> Arc<Principal> {
    match ends {
        Some(ends) if principal.until.is_none_or(|until| ends < until) => {
            Arc::new(Principal { until: Some(ends), ..Principal::clone(&principal) })
        }
        _ => principal,
    }
}

/// A proof that is good for this request, and until when it is (RFC 9449 section 4.3). The sentences hold nothing of it.
fn read_proof(
    text: &[u8],
    expected: &str,
    token: &[u8],
    x: &Exchange<'_>,
) -> Result<(PossessionProof, Duration), String> {
    let proof = PossessionProof::read(text).map_err(|refusal| refusal.why().into_owned())?;
    if proof.thumbprint != expected {
        return Err("it is by another key than the one that the token is bound to".to_owned());
    }
    if proof.text("jti")?.len() > 256 {
        return Err("its `jti` is longer than 256 bytes".to_owned());
    }
    if proof.text("htm")?.as_bytes() != x.request.method.as_bytes() {
        return Err("it is for another method (`htm`)".to_owned());
    }
    if !is_of(proof.text("htu")?, x) {
        return Err("it is for another URL (`htu`)".to_owned());
    }
    let hash = BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, token).as_ref());
    if proof.text("ath")? != hash {
        return Err("it is for another token (`ath`)".to_owned());
    }
    let made = proof.made()?;
    if made > x.now.unix + AHEAD {
        return Err("it was made in the future (`iat`)".to_owned());
    }
    let end = made.saturating_add(OLDEST);
    if x.now.unix >= end {
        return Err("it was made too long ago (`iat`)".to_owned());
    }
    Ok((proof, end))
}

/// Whether a URL is that of the request, without query and fragment.
fn is_of(url: &str, x: &Exchange<'_>) -> bool {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Ok((origin, _, target)) = parse_url(url, PlainHttp::Anywhere) else { return false };
    let Ok(ours) = normalize::authority(x.request.authority()) else { return false };
    let tls = x.scheme() == "https";
    let port = ours.port.unwrap_or(if tls { 443 } else { 80 });
    let host = String::from_utf8_lossy(ours.host).to_ascii_lowercase();
    let path = if x.request.path().is_empty() { b"/" } else { x.request.path() };
    let same_server = origin.tls == tls && origin.port == port && *origin.host == *host.trim_matches(['[', ']']);
    same_server && (target.as_bytes() == path || is_spelling_of(target.as_bytes(), path, x.notes.paths))
}

/// Whether the path of a request, which is in the form that its listener gives to paths, came from such a spelling (RFC 9449 section 4.3: RFC 3986 section 6).
fn is_spelling_of(spelling: &[u8], path: &[u8], rules: PathRules) -> bool {
    let mut normal = Vec::new();
    rules.form == Form::Normalize
        && normalize::path(spelling, &rules, &mut normal) == Ok(Normal::Rewritten)
        && normal == path
}

#[cfg(test)]
mod tests;
