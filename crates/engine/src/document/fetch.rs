//! One fetch of a document, step by step: which call comes next, and what its answer means.
//!
//! The proxy performs the calls. A fetch that is dropped on its way has failed.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use serde_json::Value;
use transept_model::secrecy::ticked_url;
use transept_wire::head::Request;

use super::{Document, Endpoints, Source, SourceKind};
use crate::callout::{Answer, CalloutResult, HttpCall};
use crate::jose::{KeySet, parse_json};
use crate::judge::Repeat;
use crate::policies::{Origin, PlainHttp, Url, parse_url};

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest document that is read, in bytes.
const MOST: usize = 512 * 1024;

/// A fetch under way.
#[derive(Debug)]
pub struct Fetch {
    document: Arc<Document>,
    source: Arc<Source>,
    began: Duration,
    /// What the provider has said of itself, once it has.
    provider: Option<(Url, Endpoints)>,
    over: bool,
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// This call.
    Ask(Box<HttpCall>),
    /// Nothing. What came of it is in the document; the sentence is for the log.
    Over(Result<(), Box<str>>),
}

impl Fetch {
    pub(super) fn new(document: Arc<Document>, source: Arc<Source>, began: Duration) -> Fetch {
        Fetch { document, source, began, provider: None, over: false }
    }

    /// The document.
    pub fn document(&self) -> &Arc<Document> {
        &self.document
    }

    /// The first call.
    pub fn first(&mut self) -> Step {
        let source = Arc::clone(&self.source);
        self.ask(&source.url)
    }

    /// Goes on with what came of the last call.
    pub fn take(&mut self, result: CalloutResult, now: Duration) -> Step {
        let answer = match result {
            CalloutResult::Answered(answer) if answer.status == 200 => answer,
            CalloutResult::Answered(answer) => {
                return self.fail(format!("it answers with status {}", answer.status), now);
            }
            CalloutResult::Failed(why) => return self.fail(why, now),
            _ => return self.fail("nothing came of it", now),
        };
        match (&self.source.kind, &self.provider) {
            (SourceKind::Provider { .. }, None) => match self.read_provider(&answer) {
                Ok((url, endpoints)) => {
                    let step = self.ask(&url);
                    self.provider = Some((url, endpoints));
                    step
                }
                Err(why) => self.fail(why, now),
            },
            _ => self.read_keys(&answer, now),
        }
    }

    fn ask(&mut self, url: &Url) -> Step {
        match call(url) {
            Ok(call) => Step::Ask(Box::new(call)),
            Err(why) => self.fail(why, self.began),
        }
    }

    fn read_keys(&mut self, answer: &Answer, now: Duration) -> Step {
        let keys = match KeySet::parse(&answer.body) {
            Ok(keys) => keys,
            Err(why) => return self.fail(format!("it is no set of keys: {why}"), now),
        };
        let endpoints = self.provider.take().map(|(_, endpoints)| endpoints).unwrap_or_default();
        let mut bytes = answer.body.clone();
        bytes.extend(format!("{endpoints:?}").bytes());
        let hash = digest::digest(&digest::SHA256, &bytes);
        let hash = hash.as_ref().try_into().unwrap_or_default();
        self.over = true;
        self.document.put(hash, keys, endpoints, max_age(answer), now);
        Step::Over(Ok(()))
    }

    /// OpenID Connect Discovery 1.0 section 4.3: a description is about the issuer that was asked for, or it is no good.
    fn read_provider(&self, answer: &Answer) -> Result<(Url, Endpoints), String> {
        let SourceKind::Provider { issuer, origins } = &self.source.kind else {
            return Err("it describes no provider".into());
        };
        let members = match parse_json(&answer.body) {
            Ok(Value::Object(members)) => members,
            Ok(_) => return Err("it is no object".into()),
            Err(why) => return Err(why.into()),
        };
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        match text("issuer") {
            Some(said) if *said == **issuer => {}
            Some(said) if said.trim_end_matches('/') == issuer.trim_end_matches('/') => {
                return Err(format!(
                    "its `issuer` differs from {} in the slash at the end; write it as it is there",
                    ticked_url(issuer)
                ));
            }
            _ => return Err(format!("its `issuer` is not {}", ticked_url(issuer))),
        }
        let keys = text("jwks_uri").ok_or("it has no `jwks_uri`")?;
        let keys = reached(keys, origins).map_err(|why| format!("its `jwks_uri`: {why}"))?;
        let place = |name: &str| text(name).map(Box::from);
        let endpoints = Endpoints {
            authorization: place("authorization_endpoint"),
            token: place("token_endpoint"),
            end_session: place("end_session_endpoint"),
            revocation: place("revocation_endpoint"),
            introspection: place("introspection_endpoint"),
        };
        Ok((keys, endpoints))
    }

    fn fail(&mut self, why: impl Into<Box<str>>, now: Duration) -> Step {
        let why = why.into();
        self.over = true;
        self.document.fail(&why, now);
        Step::Over(Err(why))
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if !self.over {
            self.document.fail("the fetch was given up", self.began);
        }
    }
}

/// A URL of the description, on one of the servers that it may send us to.
pub(super) fn reached(url: &str, origins: &[(Origin, Url)]) -> Result<Url, String> {
    let (origin, authority, target) = parse_url(url, PlainHttp::OnLoopback).map_err(|(why, _)| why)?;
    let Some((_, at)) = origins.iter().find(|(known, _)| *known == origin) else {
        return Err(format!("it is on `{authority}`, which is not among the `origins` of the scheme"));
    };
    Ok(Url { authority: authority.into(), target: target.into(), ..at.clone() })
}

fn call(url: &Url) -> Result<HttpCall, String> {
    let backend = match url.callee.get() {
        Some(Ok(backend)) => Arc::clone(backend),
        Some(Err(broken)) => return Err(broken.why.to_string()),
        None => return Err("the configuration is not in force yet".into()),
    };
    let mut request = Request::build("GET", url.scheme, &url.authority, &url.target)
        .map_err(|why| format!("its URL cannot be asked for: {why}"))?;
    request
        .fields
        .push_bytes(b"accept", b"application/json, application/jwk-set+json")
        .map_err(|why| why.to_string())?;
    request.fields.push_bytes(b"user-agent", b"transept").map_err(|why| why.to_string())?;
    Ok(HttpCall { backend, request, body: Vec::new(), timeout: TIMEOUT, most: MOST, repeat: Repeat::Harmless })
}

/// What the answer says about how long it is good (RFC 9111 section 5.2.2.1).
fn max_age(answer: &Answer) -> Option<Duration> {
    let lines = answer.fields.iter().filter(|(name, _)| name.bytes.eq_ignore_ascii_case(b"cache-control"));
    lines.flat_map(|(_, value)| value.split(|byte| *byte == b',')).find_map(|directive| {
        let directive = std::str::from_utf8(directive).ok()?.trim().to_ascii_lowercase();
        let seconds = directive.strip_prefix("max-age=")?.trim_matches('"').parse().ok()?;
        Some(Duration::from_secs(seconds))
    })
}
