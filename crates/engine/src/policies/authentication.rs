//! `AuthenticationPolicy`: who calls, by credentials.
//!
//! The schemes are in files of their own, one each; here is what they have in common. `require` is OpenAPI's `security`: a list of which
//! one must hold, each a mapping of schemes that must all hold. What was left out is strict: one of the schemes must. For each request:
//!
//! 1. Fields in which we tell the backend who calls are removed: nobody else may fill them in.
//! 2. A client that has failed too often waits (`failures`), whatever it shows but a session that is known to be good.
//! 3. A page that belongs to a scheme is answered by it. Else the alternatives of `require` are tried in order; each scheme looks at its credentials once. The first that holds decides.
//! 4. Credentials that are no good refuse the request, also where it would have been let in without any (`{}`).
//! 5. The principal is noted for later policies and the log, credentials are removed, and the backend is told.
//!
//! Where several schemes hold together, the first that is named says who calls and what it is good for; the others add the claims that it does
//! not have, and the credential that ends first ends all. Whether a connection that lives on is still let in is asked again (`recheck`).

use std::sync::Arc;

use transept_model::object;
use transept_model::policy::Target;
use transept_model::schema::{Decoder, Rule, Text};
use transept_model::value::{Value, ticked};
use transept_wire::head::{FieldId, FieldName, Response};

use super::{Caution, CompileCx, Known, Phase, Policy};
use crate::callout::CalloutResult;
use crate::exchange::Exchange;
use crate::forwarded;
use crate::login::Written;
use crate::redact::CredentialPlaces;
use crate::verdict::Verdict;

mod api_key;
mod basic;
mod cautions;
mod challenges;
mod claims;
mod client;
mod client_certificate;
mod consumer;
mod content;
mod decide;
mod exhibits;
mod failures;
mod flights;
mod forward;
mod gate;
mod hmac;
mod introspection;
mod judgement;
mod jwt;
mod login;
mod nonces;
mod probe;
mod published;
mod recheck;
mod requirement;
mod resource;
mod scheme;
mod secret;
mod sender;
mod signature;
mod verified;

#[doc(hidden)]
pub use probe::probe_credentials;

use decide::{Outcomes, Waiting, keep_spent, limited};
use failures::{FailureLimit, Failures};
use forward::{ClaimField, Forward, IdentityField};
use login::LoginSpec;
use nonces::Uses;
use requirement::{Alternative, Requirement};
use resource::{Metadata, ProtectedResource};
use scheme::{AnyScheme, Proof, SchemeSpec};

object! {
    /// Who may come in, by credentials. Later policies, the log and the backend learn who it is.
    pub struct AuthenticationPolicySpec {
        /// The ways to say who one is.
        schemes: Vec<SchemeSpec> => Rule::MaxItems(16), Rule::UniqueBy("name");
        /// What is required: one of these. Each names schemes that must hold together, with the scopes that are needed:
        /// `[{key: [orders.read]}, {token: []}]`. `{}` lets in who shows no credentials. Without it, any one of the schemes.
        require: Option<Vec<Requirement>> => Rule::MaxItems(32);
        /// What clients are told they log in to.
        realm: Text = "transept".into() => Rule::Length(1, 128);
        /// What the backend is told of the principal, in `x-auth-kind`, `x-auth-id` and so on.
        forward: Vec<IdentityField> = forward::usual() => Rule::Unique;
        /// Claims that the backend is told, too, in `x-auth-claim-NAME`.
        forward_claims: Vec<ClaimField> => Rule::MaxItems(32), Rule::UniqueBy("name");
        /// True when the backend gets the credentials, too.
        keep_credentials: bool = false;
        /// What OAuth clients are told about the API, at `/.well-known/oauth-protected-resource` and in challenges (RFC 9728).
        resource: Option<ProtectedResource>;
        /// How often a client may fail to say who it is.
        failures: FailureLimit = FailureLimit::default();
    }
    check check_spec;
}

fn check_spec(spec: &AuthenticationPolicySpec, value: &Value, cx: &mut Decoder) {
    if spec.schemes.is_empty() {
        cx.refuse_field(value, "schemes", "the policy names no scheme, so nobody could come in")
            .remedy("write one, such as `schemes: [{name: key, apiKey: {}}]`");
        return;
    }
    if !spec.realm.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        cx.refuse_field(value, "realm", "the realm cannot be sent").remedy("use ASCII without `\"` and `\\`");
    }
    check_pages(spec, cx);
    requirement::check(spec, value, cx);
}

/// Pages of the site that belong to a scheme can belong to no other.
fn check_pages(spec: &AuthenticationPolicySpec, cx: &mut Decoder) {
    let mut taken: Vec<(String, &Text)> = Vec::new();
    for scheme in &spec.schemes {
        for page in scheme.login.iter().flat_map(LoginSpec::pages) {
            match taken.iter().find(|(path, _)| *path == page) {
                Some((_, other)) => {
                    let why = format!("{} belongs to the scheme `{}` already", ticked(&page), &***other);
                    cx.refuse(scheme.at, why)
                        .remedy("give each scheme a `redirectUrl`, `logoutPath` and `loginPath` of its own");
                }
                None => taken.push((page, &scheme.name)),
            }
        }
    }
}

/// A compiled `AuthenticationPolicy`.
#[derive(Debug)]
pub(crate) struct AuthenticationPolicy {
    schemes: Vec<Named>,
    /// What is required, without `{}`.
    alternatives: Vec<Alternative>,
    /// Whether `{}` is among them.
    anonymous: Anonymous,
    realm: Box<str>,
    forward: Forward,
    credentials: Credentials,
    limit: FailureLimit,
    failures: Arc<Failures>,
    metadata: Option<Metadata>,
}

#[derive(Debug)]
struct Named {
    name: Box<str>,
    scheme: AnyScheme,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anonymous {
    Allowed,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credentials {
    Removed,
    Kept,
}

impl Policy for AuthenticationPolicy {
    const KIND: &'static str = "AuthenticationPolicy";
    const ABOUT: &'static str = "Finds out who calls, by credentials, and refuses who cannot say it.";
    const PHASE: Phase = Phase::Authenticate;
    const TARGETS: &'static [Target] = &[Target::Gateway, Target::Listener, Target::Route, Target::Rule];
    type Spec = AuthenticationPolicySpec;

    fn compile(spec: &AuthenticationPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let mut schemes = Vec::with_capacity(spec.schemes.len());
        for scheme in &spec.schemes {
            if let Some(compiled) = AnyScheme::compile(scheme, cx) {
                schemes.push(Named { name: (&*scheme.name).into(), scheme: compiled });
            }
        }
        if schemes.len() < spec.schemes.len() {
            return None;
        }
        // A key is shown to no scheme that may ask somebody about it.
        let of_keys: Vec<FieldName> = schemes.iter().flat_map(|named| named.scheme.key_fields()).collect();
        schemes.iter_mut().for_each(|named| named.scheme.leave_keys(&of_keys));
        let (alternatives, without) = requirement::compile(spec);
        Some(AuthenticationPolicy {
            schemes,
            alternatives,
            anonymous: if without { Anonymous::Allowed } else { Anonymous::Refused },
            realm: (&*spec.realm).into(),
            forward: Forward::compile(&spec.forward, &spec.forward_claims),
            credentials: if spec.keep_credentials { Credentials::Kept } else { Credentials::Removed },
            limit: spec.failures.clone(),
            failures: cx.keep("failures", Failures::default),
            metadata: spec.resource.as_ref().and_then(Metadata::compile),
        })
    }

    fn secrets(spec: &AuthenticationPolicySpec) -> Vec<Text> {
        spec.schemes.iter().flat_map(SchemeSpec::secrets).collect()
    }

    fn credential_places(&self, places: &mut CredentialPlaces) {
        self.schemes.iter().for_each(|named| named.scheme.places(places));
    }

    fn cautions(&self, known: Known) -> Vec<Caution> {
        cautions::find(&self.schemes, &self.alternatives, known)
    }

    fn page(&self) -> Option<&str> {
        self.metadata.as_ref().map(Metadata::path)
    }

    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        forwarded::drop_principal(&mut x.request.fields);
        if let Some(reply) = self.metadata.as_ref().and_then(|metadata| metadata.answer(x.request)) {
            x.tell(|| "authentication: the metadata of the API are for everybody".to_owned());
            return reply.into();
        }
        if !self.schemes.iter().any(|named| named.scheme.presents(x)) {
            if self.anonymous == Anonymous::Allowed {
                x.tell(|| "authentication: no credentials, and none are required".to_owned());
                return self.let_in_without(x);
            }
            x.tell(|| "authentication: no credentials".to_owned());
        } else if !self.shows_only_what_is_known(x)
            && let Some(wait) = self.failures.wait(&self.limit, x.client, x.now.monotonic)
        {
            return limited(wait);
        } else if self.is_ambiguous(x.request) {
            return self.refuse_ambiguous(x);
        }
        let outcomes = Outcomes::from_elem(None, self.schemes.len());
        match self.schemes.iter().enumerate().find(|(_, named)| named.scheme.has_page(x)) {
            // Its own page is answered by the scheme, whatever else the request shows.
            Some((index, named)) => {
                let proof = named.scheme.authenticate(x);
                match self.settle(index, proof, None, outcomes, x) {
                    Ok(outcomes) => self.decide(outcomes, Uses::new(), x),
                    Err(verdict) => verdict,
                }
            }
            None => self.decide(outcomes, Uses::new(), x),
        }
    }

    fn on_callout(&self, x: &mut Exchange<'_>, result: CalloutResult) -> Verdict {
        let waiting = x.notes.between.take().and_then(|between| between.downcast::<Waiting>().ok());
        let Some(waiting) = waiting else { return self.on_request(x) };
        let Waiting { outcomes, scheme, between, hold, spent } = *waiting;
        let Some(named) = self.schemes.get(scheme) else { return self.on_request(x) };
        let proof = named.scheme.resume(x, between, result);
        let hold = hold.filter(|hold| {
            let is_failure = matches!(proof, Proof::Invalid(_) | Proof::Refused(_));
            if !is_failure {
                self.failures.release(hold, x.client, x.now.monotonic);
            }
            is_failure
        });
        match self.settle(scheme, proof, hold, outcomes, x) {
            Ok(outcomes) => self.decide(outcomes, spent, x),
            Err(verdict) => {
                keep_spent(&verdict, spent, x);
                verdict
            }
        }
    }

    fn on_response(&self, x: &mut Exchange<'_>, response: &mut Response) {
        if let Some(scope) = x.notes.lacking.take() {
            self.name_lacking(&scope, x, response);
        }
        if x.notes.cookies.is_empty() {
            return;
        }
        for Written(cookie) in std::mem::take(&mut x.notes.cookies) {
            // Made of characters that fields may have.
            let _ = response.fields.push(&FieldName::known(FieldId::SET_COOKIE), &cookie);
        }
        // Else a cache on the way would give this session to others.
        let _ = response.fields.set(&FieldName::known(FieldId::CACHE_CONTROL), b"no-store");
    }

    fn on_recheck(&self, x: &mut Exchange<'_>) -> Verdict {
        self.recheck(x)
    }
}

#[cfg(test)]
mod issuer_tests;
#[cfg(test)]
mod open_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod token_tests;
