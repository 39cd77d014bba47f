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

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
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
use crate::principal::Principal;
use crate::reason::Reason;
use crate::redact::CredentialPlaces;
use crate::verdict::{Reply, Verdict};

mod api_key;
mod basic;
mod cautions;
mod challenges;
mod claims;
mod client;
mod client_certificate;
mod consumer;
mod content;
mod failures;
mod flights;
mod forward;
mod gate;
mod hmac;
mod introspection;
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

use failures::{FailureLimit, Failures, Hold};
use forward::{ClaimField, Forward, IdentityField};
use login::LoginSpec;
use requirement::{Alternative, Requirement};
use resource::{Metadata, ProtectedResource};
use scheme::{AnyScheme, Fault, Later, Proof, SchemeSpec};

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

/// What is known of each scheme of a request so far.
type Outcomes = SmallVec<[Option<Outcome>; 2]>;

/// What a scheme has found.
#[derive(Clone, Debug)]
enum Outcome {
    Absent,
    Invalid(Box<str>, Counted),
    Unavailable(Box<str>, Option<Later>),
    Valid(Arc<Principal>),
}

/// Whether a failure has been counted already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Yes,
    No,
}

/// What is remembered while a scheme waits for what it has asked for.
struct Waiting {
    outcomes: Outcomes,
    scheme: usize,
    between: Box<dyn Any + Send>,
    /// The failure that was counted ahead.
    hold: Option<Hold>,
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
        cautions::find(&self.schemes, known)
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
                self.strip(x);
                x.tell(|| "authentication: no credentials, and none are required".to_owned());
                self.forward.tell_backend(&Principal::default(), x.request);
                return Verdict::Continue;
            }
            x.tell(|| "authentication: no credentials".to_owned());
        } else if !self.shows_only_what_is_known(x)
            && let Some(wait) = self.failures.wait(&self.limit, x.client, x.now.monotonic)
        {
            return limited(wait);
        }
        let outcomes = Outcomes::from_elem(None, self.schemes.len());
        match self.schemes.iter().enumerate().find(|(_, named)| named.scheme.has_page(x)) {
            // Its own page is answered by the scheme, whatever else the request shows.
            Some((index, named)) => {
                let proof = named.scheme.authenticate(x);
                match self.settle(index, proof, Counted::No, outcomes, x) {
                    Ok(outcomes) => self.decide(outcomes, x),
                    Err(verdict) => verdict,
                }
            }
            None => self.decide(outcomes, x),
        }
    }

    fn on_callout(&self, x: &mut Exchange<'_>, result: CalloutResult) -> Verdict {
        let waiting = x.notes.between.take().and_then(|between| between.downcast::<Waiting>().ok());
        let Some(waiting) = waiting else { return self.on_request(x) };
        let Waiting { mut outcomes, scheme, between, hold } = *waiting;
        let Some(named) = self.schemes.get(scheme) else { return self.on_request(x) };
        let proof = named.scheme.resume(x, between, result);
        let counted = match (&proof, hold) {
            (_, None) => Counted::No,
            (Proof::Invalid(_) | Proof::Refused(_), Some(_)) => Counted::Yes,
            (_, Some(hold)) => {
                self.failures.release(&hold, x.client, x.now.monotonic);
                Counted::No
            }
        };
        match self.settle(scheme, proof, counted, outcomes, x) {
            Ok(settled) => outcomes = settled,
            Err(call) => return call,
        }
        self.decide(outcomes, x)
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

impl AuthenticationPolicy {
    /// Notes what a scheme has found; the verdict by which it asks for something is the error.
    fn settle(
        &self,
        index: usize,
        proof: Proof,
        counted: Counted,
        mut outcomes: Outcomes,
        x: &mut Exchange<'_>,
    ) -> Result<Outcomes, Verdict> {
        let name = self.schemes.get(index).map_or("", |named| &named.name);
        let outcome = match proof {
            Proof::Absent => Outcome::Absent,
            Proof::Invalid(why) => Outcome::Invalid(why, counted),
            Proof::Unavailable(why) => Outcome::Unavailable(why, None),
            Proof::Later(why, later) => Outcome::Unavailable(why, Some(later)),
            Proof::Valid(principal) => Outcome::Valid(principal),
            Proof::Answer(reply) => return Err(Verdict::Respond(reply)),
            Proof::Refused(reply) => {
                self.note_failure(counted, x);
                return Err(Verdict::Respond(reply));
            }
            Proof::Ask(callout, between) => {
                let is_try = self.schemes.get(index).is_some_and(|named| named.scheme.is_try(&callout, x));
                let hold = match is_try {
                    true => {
                        let hold = self.failures.hold(&self.limit, x.client, x.now.monotonic, x.random);
                        Some(hold.map_err(limited)?)
                    }
                    false => None,
                };
                x.notes.between = Some(Box::new(Waiting { outcomes, scheme: index, between, hold }));
                return Err(Verdict::Call(callout));
            }
        };
        x.tell(|| match &outcome {
            Outcome::Absent => format!("scheme {name}: no credentials"),
            Outcome::Invalid(why, _) => format!("scheme {name}: {why}"),
            Outcome::Unavailable(why, _) => format!("scheme {name}: cannot tell, {why}"),
            Outcome::Valid(principal) => format!("scheme {name}: {}", describe(principal)),
        });
        if let Some(place) = outcomes.get_mut(index) {
            *place = Some(outcome);
        }
        Ok(outcomes)
    }

    /// Whether all that a request shows is known to be good already.
    fn shows_only_what_is_known(&self, x: &Exchange<'_>) -> bool {
        let mut shown = self.schemes.iter().filter(|named| named.scheme.presents(x));
        shown.all(|named| named.scheme.is_known(x))
    }

    /// Tries the alternatives with what is known, and asks the schemes that have not been asked.
    fn decide(&self, mut outcomes: Outcomes, x: &mut Exchange<'_>) -> Verdict {
        let mut lacking: Option<(usize, &[Text])> = None;
        for alternative in &self.alternatives {
            let mut holds = true;
            for need in &alternative.needs {
                if outcomes.get(need.scheme).is_some_and(Option::is_none) {
                    let Some(named) = self.schemes.get(need.scheme) else { continue };
                    let proof = named.scheme.authenticate(x);
                    outcomes = match self.settle(need.scheme, proof, Counted::No, outcomes, x) {
                        Ok(outcomes) => outcomes,
                        Err(call) => return call,
                    };
                }
                let principal = match outcomes.get(need.scheme) {
                    Some(Some(Outcome::Valid(principal))) => principal,
                    _ => {
                        holds = false;
                        break;
                    }
                };
                if !need.scopes.iter().all(|scope| principal.has_scope(scope)) {
                    lacking.get_or_insert((need.scheme, &need.scopes));
                    holds = false;
                    break;
                }
            }
            if holds {
                let principals = alternative.needs.iter().filter_map(|need| valid(&outcomes, need.scheme));
                if let Some(principal) = combined(principals) {
                    // Else whoever has one good credential could try out as many others as he likes.
                    outcomes = match self.ask_the_rest(outcomes, |index| self.is_meant_for(index), x) {
                        Ok(outcomes) => outcomes,
                        Err(call) => return call,
                    };
                    let is_bad = |(index, outcome): (usize, &Option<Outcome>)| {
                        matches!(outcome, Some(Outcome::Invalid(..))) && self.is_meant_for(index)
                    };
                    if outcomes.iter().enumerate().any(is_bad) {
                        break;
                    }
                    return self.let_in(principal, x);
                }
            }
        }
        // Whoever shows credentials means them, also where none are required.
        match self.ask_the_rest(outcomes, |_| true, x) {
            Ok(outcomes) => self.without_alternative(&outcomes, lacking, x),
            Err(call) => call,
        }
    }

    /// Whether what a scheme finds can be meant for no other.
    fn is_meant_for(&self, index: usize) -> bool {
        let Some(named) = self.schemes.get(index) else { return false };
        let kind = std::mem::discriminant(&named.scheme);
        let of_the_kind = self.schemes.iter().filter(|other| std::mem::discriminant(&other.scheme) == kind);
        !named.scheme.is_shared() && of_the_kind.count() == 1
    }

    /// Asks schemes that have not been asked although the request shows a credential of theirs.
    fn ask_the_rest(
        &self,
        mut outcomes: Outcomes,
        counts: impl Fn(usize) -> bool,
        x: &mut Exchange<'_>,
    ) -> Result<Outcomes, Verdict> {
        for (index, named) in self.schemes.iter().enumerate() {
            if outcomes.get(index).is_some_and(Option::is_none) && counts(index) && named.scheme.presents(x) {
                let proof = named.scheme.authenticate(x);
                outcomes = self.settle(index, proof, Counted::No, outcomes, x)?;
            }
        }
        Ok(outcomes)
    }

    /// What becomes of a request for which no alternative holds.
    fn without_alternative(
        &self,
        outcomes: &Outcomes,
        lacking: Option<(usize, &[Text])>,
        x: &mut Exchange<'_>,
    ) -> Verdict {
        // A token that is no good for one scheme may be meant for another, which cannot tell.
        let is_shared = |index: usize| self.schemes.get(index).is_some_and(|named| named.scheme.is_shared());
        let cannot_tell = |(index, outcome): (usize, &Option<Outcome>)| {
            is_shared(index) && matches!(outcome, Some(Outcome::Unavailable(..)))
        };
        let is_doubtful = outcomes.iter().enumerate().any(cannot_tell);
        for (index, outcome) in outcomes.iter().enumerate() {
            let name = self.schemes.get(index).map_or("", |named| &named.name);
            match outcome {
                Some(Outcome::Invalid(..)) if is_doubtful && is_shared(index) => {}
                Some(Outcome::Invalid(why, counted)) => {
                    self.note_failure(*counted, x);
                    let reply = Reply::new(Reason::CredentialsInvalid).because(format!("scheme {name}: {why}"));
                    return self.refuse(reply, |other| if other == index { Fault::Invalid } else { Fault::Missing });
                }
                Some(Outcome::Unavailable(why, later)) => {
                    if later.is_some_and(|later| later.is_guess) {
                        self.note_failure(Counted::No, x);
                    }
                    return self.unavailable(index, why, *later);
                }
                _ => {}
            }
        }
        let known = (0..outcomes.len()).find_map(|index| valid(outcomes, index));
        match (self.anonymous, known, lacking) {
            (Anonymous::Allowed, Some(principal), _) => self.let_in(Arc::clone(principal), x),
            (Anonymous::Allowed, None, _) => {
                self.strip(x);
                self.forward.tell_backend(&Principal::default(), x.request);
                Verdict::Continue
            }
            (Anonymous::Refused, _, Some((scheme, scopes))) => {
                let words: Vec<&str> = scopes.iter().map(|scope| &**scope).collect();
                let who = known.map(|principal| principal.describe()).unwrap_or_default();
                let mut reply = Reply::new(Reason::ScopeInsufficient)
                    .because(format!("{who} needs the scopes {}", words.join(" ")));
                let challenge = self.schemes.get(scheme).map(|named| self.challenge(named, &Fault::Scopes(&words)));
                if let Some(challenge) = challenge {
                    reply = reply.with_field(FieldName::known(FieldId::WWW_AUTHENTICATE), challenge);
                }
                reply.into()
            }
            (Anonymous::Refused, _, None) => {
                if let Some(verdict) = self.invite(outcomes, x) {
                    return verdict;
                }
                if let Some(wait) = self.failures.wait(&self.limit, x.client, x.now.monotonic) {
                    return limited(wait);
                }
                // A page of somebody else can make a browser come without what it would show.
                if !self.schemes.iter().any(|named| named.scheme.is_ambient()) {
                    self.note_failure(Counted::No, x);
                }
                self.refuse(Reply::new(Reason::CredentialsMissing), |_| Fault::Missing)
            }
        }
    }

    /// What a scheme that is required does for a client that has shown nothing.
    fn invite(&self, outcomes: &Outcomes, x: &mut Exchange<'_>) -> Option<Verdict> {
        let mut needs = self.alternatives.iter().flat_map(|alternative| &alternative.needs);
        let (scheme, proof) = needs.find_map(|need| {
            let is_absent = matches!(outcomes.get(need.scheme), Some(None | Some(Outcome::Absent)));
            let named = self.schemes.get(need.scheme).filter(|_| is_absent)?;
            Some((need.scheme, named.scheme.invite(x)?))
        })?;
        match self.settle(scheme, proof, Counted::No, outcomes.clone(), x) {
            Ok(outcomes) => match outcomes.get(scheme) {
                Some(Some(Outcome::Unavailable(why, later))) => Some(self.unavailable(scheme, why, *later)),
                _ => None,
            },
            Err(verdict) => Some(verdict),
        }
    }

    fn unavailable(&self, scheme: usize, why: &str, later: Option<Later>) -> Verdict {
        let name = self.schemes.get(scheme).map_or("", |named| &named.name);
        let mut reply = Reply::new(Reason::AuthenticationUnavailable).because(format!("scheme {name}: {why}"));
        if let Some(later) = later {
            reply = reply.with_field(FieldName::known(FieldId::RETRY_AFTER), seconds(later.wait));
        }
        reply.into()
    }

    fn note_failure(&self, counted: Counted, x: &Exchange<'_>) {
        if counted == Counted::No {
            self.failures.count(&self.limit, x.client, x.now.monotonic, x.random);
        }
    }

    fn strip(&self, x: &mut Exchange<'_>) {
        if self.credentials == Credentials::Removed {
            for named in &self.schemes {
                named.scheme.strip(x.request);
            }
        }
    }

    fn let_in(&self, principal: Arc<Principal>, x: &mut Exchange<'_>) -> Verdict {
        self.strip(x);
        let together = principal.together.iter().map(|one| &one.scheme);
        for scheme in std::iter::once(&principal.scheme).chain(together) {
            if let Some(named) = self.schemes.iter().find(|named| named.name == *scheme) {
                named.scheme.hand_on(x);
            }
        }
        self.forward.tell_backend(&principal, x.request);
        x.notes.principal = Some(principal);
        Verdict::Continue
    }
}

fn valid(outcomes: &Outcomes, scheme: usize) -> Option<&Arc<Principal>> {
    match outcomes.get(scheme) {
        Some(Some(Outcome::Valid(principal))) => Some(principal),
        _ => None,
    }
}

/// Several principals as one: the first, with the claims of the others that it does not have, until the first of their ends.
fn combined<'p>(mut principals: impl Iterator<Item = &'p Arc<Principal>>) -> Option<Arc<Principal>> {
    let first = principals.next()?;
    let mut whole: Option<Principal> = None;
    for other in principals {
        let whole =
            whole.get_or_insert_with(|| Principal { together: vec![Arc::clone(first)], ..Principal::clone(first) });
        for (name, value) in &other.claims {
            whole.claims.entry(name).or_insert_with(|| value.clone());
        }
        whole.until = first_of(whole.until, other.until);
        whole.asked = first_of(whole.asked, other.asked);
        whole.together.push(Arc::clone(other));
    }
    Some(whole.map_or_else(|| Arc::clone(first), Arc::new))
}

fn first_of(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// `app default/mobile, credential mobile-1`.
fn describe(principal: &Principal) -> String {
    match &principal.credential {
        Some(credential) => format!("{}, credential {credential}", principal.describe()),
        None => principal.describe(),
    }
}

/// The client has failed too often.
fn limited(wait: Duration) -> Verdict {
    Reply::new(Reason::AuthenticationLimited).with_field(FieldName::known(FieldId::RETRY_AFTER), seconds(wait)).into()
}

/// RFC 9110 section 10.2.3: whole seconds, so that nobody is asked back too early.
fn seconds(wait: Duration) -> String {
    wait.as_millis().div_ceil(1000).max(1).to_string()
}

#[cfg(test)]
mod open_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod token_tests;
