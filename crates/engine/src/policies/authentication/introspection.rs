//! The scheme `introspection`: tokens that only their issuer understands, looked up there (RFC 7662).
//!
//! An answer is remembered by the hash of the token: that it is active for as long as the policy says, a minute at most and never beyond its
//! end, so that a revocation is felt after that time; that it is not, or why it is no good here, for ten seconds, in a memory of its own, so that a
//! flood of junk pushes out nothing that is good. One question is asked at a time about one token, and whatever came of it is what those who have
//! waited get. When nobody answers the request is refused with 503: never let in, and not blamed on the client. About a
//! connection that is still open when an answer has ended the issuer is asked again, with the token that the request has shown; it ends where it
//! would not be let in.

use std::any::Any;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value as Json;
use transept_model::kinds::BackendObjectReference;
use transept_model::object;
use transept_model::place::Spot;
use transept_model::schema::{Decoder, HEADER_NAME, Rule, Text};
use transept_model::value::Value;
use transept_wire::head::{FieldName, Request};

use super::super::{CompileCx, PlainHttp, Url};
use super::api_key::is_alike;
use super::claims::{ClaimNames, TokenOwner, principal};
use super::client::{Ask, Client, ClientAuthentication};
use super::exhibits::Exhibit;
use super::flights::{Flight, Flights};
use super::jwt::{RequiredClaim, wanted};
use super::nonces::Uses;
use super::scheme::{Fault, Proof, Scheme, challenge};
use super::secret::SecretEntry;
use super::sender::{Sender, SenderConstraint, Word, ending};
use super::verified::{self, Hash, Verified};
use crate::callout::{Answer, Callout, CalloutResult, HttpCall, Wait};
use crate::exchange::Exchange;
use crate::jose::{Claims, Expectations, Expiry, MOST_TOKEN, parse_json};
use crate::judge::Repeat;
use crate::principal::{Principal, PrincipalKind, StoredMark};
use crate::redact::CredentialPlaces;
use crate::services::{AskedService, ServiceRole};

object! {
    /// Tokens that are looked up at their issuer (OAuth 2.0 token introspection).
    pub struct IntrospectionSpec {
        /// Where: the introspection endpoint.
        url: Text => Rule::Length(1, 2048);
        /// The Service or Backend that is asked, instead of the host in the URL.
        backend_ref: Option<BackendObjectReference>;
        /// As whom we ask.
        client_id: Text => Rule::Length(1, 1024);
        /// The secret of that client.
        client_secret: SecretEntry;
        /// How we say who we are.
        client_authentication: ClientAuthentication = ClientAuthentication::Basic;
        /// For whom tokens must be: one of these is in their `aud`.
        audiences: Vec<Text> => Rule::MaxItems(64), Rule::Length(1, 1024);
        /// True when tokens for anybody are taken: when the issuer answers only for tokens that are meant for this client.
        any_audience: bool = false;
        /// Who must have made the tokens, when the answer says it.
        issuer: Option<Text> => Rule::Length(1, 1024);
        /// What else the answer must say.
        required_claims: Vec<RequiredClaim> => Rule::MaxItems(32);
        /// The header field that holds the token: `Authorization` as `Bearer TOKEN`, others as it is.
        header: Text = "Authorization".into() => Rule::Is(&HEADER_NAME);
        /// Which claim says what.
        claims: ClaimNames = ClaimNames::default();
        /// Who shows such tokens.
        owner: TokenOwner = TokenOwner::Auto;
        /// Whether tokens are good only for those whom they were given to, by a proof (DPoP) or a certificate that goes with them, as the
        /// answer says (`cnf`).
        sender: SenderConstraint = SenderConstraint::WhenBound;
        /// By what nonces for proofs are made: an entry of a Secret with 32 random bytes or more, the same for all proxies (`openssl rand -hex 32`). With it,
        /// proofs must hold a nonce that was given out lately.
        proof_nonces: Option<SecretEntry>;
        /// How long an active token is not asked for again; so long may it be used after it was revoked. With 0s each request asks for itself.
        remember: Duration = Duration::from_secs(60);
        /// How long the issuer may take.
        timeout: Duration = Duration::from_secs(5);
    }
    check check_spec;
}

const LONGEST: Duration = Duration::from_secs(60);
/// How far clocks may be apart; the issuer has looked at its own.
const LEEWAY: Duration = Duration::from_secs(30);
const REFUSED: Duration = Duration::from_secs(10);
const MOST_ACTIVE: usize = 16_384;
const MOST_REFUSED: usize = 1024;
const MOST_ANSWER: usize = 64 * 1024;

fn check_spec(spec: &IntrospectionSpec, value: &Value, cx: &mut Decoder) {
    if spec.audiences.is_empty() != spec.any_audience {
        cx.refuse_field(value, "audiences", "the scheme must say for whom tokens are: some audiences or any").remedy(
            "write what your provider puts into `aud`, or `anyAudience: true` when it answers only for tokens that are meant for this client",
        );
    }
    if spec.proof_nonces.is_some() && matches!(spec.sender, SenderConstraint::Certificate | SenderConstraint::Anybody) {
        cx.refuse_field(value, "proofNonces", "no proofs are looked at here, so nonces for them mean nothing")
            .remedy("write `sender: Proof`, or remove it");
    }
    if spec.remember > LONGEST {
        cx.refuse_field(value, "remember", "revoked tokens would be good for more than 60s")
            .remedy("write 60s or less");
    }
    if spec.timeout.is_zero() || spec.timeout > LONGEST {
        cx.refuse_field(value, "timeout", "the time must be above 0s and at most 60s");
    }
}

/// What becomes of requests while nobody answers.
const AWAY: &str = "tokens that are not remembered get 503";

/// The compiled scheme.
#[derive(Debug)]
pub(super) struct IntrospectionScheme {
    name: Box<str>,
    url: Url,
    client: Client,
    expected: Expectations,
    pub(super) header: FieldName,
    claims: ClaimNames,
    owner: TokenOwner,
    remember: Duration,
    timeout: Duration,
    memory: Arc<Memory>,
    sender: Sender,
    /// Whom is asked, and as whom.
    vouches: StoredMark,
    asked: Arc<AskedService>,
    /// Whether what is spelled like an API key is a token like any other: there are no keys here that the issuer could learn.
    tells_keys: bool,
    /// Where it is written.
    pub(super) at: Spot,
}

#[derive(Debug)]
struct Memory {
    active: Verified<Principal>,
    /// Why tokens are no good.
    refused: Verified<Box<str>>,
    flights: Arc<Flights>,
}

/// What a request remembers meanwhile.
enum Asking {
    /// It asks, and holds the right to until its answer is noted; where no answer is remembered it asks for itself.
    Flying(Hash, Option<Flight>),
    /// It waits for another, which may fail.
    Waiting(Arc<OnceLock<Box<str>>>),
}

impl Scheme for IntrospectionScheme {
    type Spec = IntrospectionSpec;
    const ASKS_ISSUER: bool = true;

    fn compile(name: &Text, spec: &IntrospectionSpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let url = cx.url(spec.at, &spec.url, PlainHttp::OnLoopback)?;
        let url = match &spec.backend_ref {
            Some(reference) => Url { callee: cx.confidant(reference), ..url },
            None => url,
        };
        let secret = spec.client_secret.read_text(cx)?;
        let client = Client::new(&spec.client_id, Some(&secret), spec.client_authentication);
        // Whatever is expected differently has a memory of its own.
        let identity = verified::identity(name, spec).finish();
        let part = format!("introspection {}", data_encoding::HEXLOWER.encode(identity.as_ref()));
        let memory = cx.keep(&part, || Memory {
            active: Verified::new(MOST_ACTIVE),
            refused: Verified::new(MOST_REFUSED),
            flights: Arc::default(),
        });
        let boxed = |texts: &[Text]| texts.iter().map(|text| Box::from(&**text)).collect::<Vec<Box<str>>>();
        Some(IntrospectionScheme {
            name: (&**name).into(),
            url,
            client,
            expected: Expectations {
                issuer: spec.issuer.as_deref().map(Into::into),
                audiences: (!spec.any_audience).then(|| boxed(&spec.audiences)),
                parties: Vec::new(),
                kinds: Vec::new(),
                leeway: LEEWAY,
                max_age: None,
                expiry: Expiry::Optional,
                required: wanted(&spec.required_claims),
            },
            // The format of names has been checked when it was read.
            header: FieldName::new(spec.header.as_bytes()).ok()?,
            claims: spec.claims.clone(),
            owner: spec.owner,
            remember: spec.remember,
            timeout: spec.timeout,
            memory,
            sender: Sender::compile(spec.sender, spec.proof_nonces.as_ref(), cx)?,
            vouches: StoredMark::of(&[spec.url.as_bytes(), spec.client_id.as_bytes()]),
            asked: cx.service_of_scheme(ServiceRole::Introspection, name),
            tells_keys: true,
            at: spec.at,
        })
    }

    fn secrets(spec: &IntrospectionSpec) -> Vec<Text> {
        std::iter::once(&spec.client_secret).chain(&spec.proof_nonces).map(|entry| entry.name.clone()).collect()
    }

    fn places(&self, places: &mut CredentialPlaces) {
        places.fields.insert(self.header.as_str().to_ascii_lowercase().into());
        places.fields.insert("dpop".into());
    }

    fn presents(&self, x: &Exchange<'_>) -> bool {
        self.sender.shown(&self.header, x.request).next().is_some()
    }

    fn exhibits<'x>(&'x self, x: &'x Exchange<'_>, add: &mut dyn FnMut(Exhibit<'x>)) {
        self.sender.exhibits(&self.header, x.request, add);
    }

    fn leave_keys(&mut self, fields: &[FieldName]) {
        self.sender.leave_keys(fields.contains(&self.header));
        self.tells_keys = fields.is_empty();
    }

    fn authenticate(&self, x: &mut Exchange<'_>) -> Proof {
        let mut shown = self.sender.shown(&self.header, x.request);
        let (word, token) = match (shown.next(), shown.next()) {
            (None, _) => return Proof::Absent,
            (Some(one), None) => one,
            (Some(_), Some(_)) => return Proof::invalid("several tokens are shown"),
        };
        if token.len() > MOST_TOKEN || token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
            return Proof::invalid("what is shown is not spelled like a token");
        }
        if !self.tells_keys && is_alike(token) {
            return Proof::invalid("what is shown is spelled like an API key, of which the issuer is told nothing");
        }
        let hash = verified::hash(token);
        if let Some(principal) = self.memory.active.find(&hash, 0, x.now.unix) {
            return self.admit(principal, word, token, x);
        }
        if let Some(why) = self.memory.refused.find(&hash, 0, x.now.unix) {
            return Proof::Invalid((*why).clone());
        }
        // Where no answer is remembered, those who waited would ask one after another.
        let flight = match self.remember.is_zero() {
            true => Ok(None),
            false => self.memory.flights.begin(hash).map(Some),
        };
        match flight {
            Ok(flight) => match self.call(token) {
                Ok(call) => Proof::Ask(Box::new(Callout::Http(Box::new(call))), Box::new(Asking::Flying(hash, flight))),
                Err(why) => Proof::Unavailable(why),
            },
            Err(landing) => {
                let wait = Wait { what: "the answer about this token", until: landing.over, timeout: self.timeout };
                Proof::Ask(Box::new(Callout::Wait(wait)), Box::new(Asking::Waiting(landing.failure)))
            }
        }
    }

    fn resume(&self, x: &mut Exchange<'_>, between: Box<dyn Any + Send>, result: CalloutResult) -> Proof {
        let Ok(asking) = between.downcast::<Asking>() else { return Proof::Unavailable("it was not asked".into()) };
        let proof = match (result, &*asking) {
            (CalloutResult::Answered(answer), Asking::Flying(hash, _)) => {
                let judged = self.judge(&answer, *hash, x.now.unix);
                match &judged {
                    // What it says of one odd token says nothing of others.
                    Err(Proof::Unavailable(why)) if answer.status != 400 => self.asked.failed(why, AWAY, x),
                    _ => self.asked.answered(x),
                }
                let shown = self.sender.shown(&self.header, x.request).next();
                match (judged, shown) {
                    (Ok(principal), Some((word, token))) => self.admit(principal, word, token, x),
                    (Ok(_), None) => Proof::Absent,
                    (Err(proof), _) => proof,
                }
            }
            (CalloutResult::Failed(why), Asking::Flying(..)) => {
                self.asked.failed(&why, AWAY, x);
                Proof::Unavailable(why)
            }
            (CalloutResult::Failed(why), _) => Proof::Unavailable(why),
            (CalloutResult::Assumed, _) => {
                x.tell(|| format!("scheme {}: nobody is asked here, so the token is taken to be active", self.name));
                let somebody = Principal {
                    kind: PrincipalKind::User,
                    id: "somebody".into(),
                    scheme: (&*self.name).into(),
                    ..Principal::default()
                };
                Proof::Valid(Arc::new(somebody))
            }
            // Somebody else has asked; what was answered is remembered.
            (_, Asking::Waiting(failure)) => {
                return match failure.get() {
                    Some(why) => Proof::Unavailable(why.clone()),
                    None => self.authenticate(x),
                };
            }
            _ => return self.authenticate(x),
        };
        // Those who wait find the answer, or are told that there is none.
        if let (Asking::Flying(_, Some(flight)), Proof::Unavailable(why)) = (*asking, &proof) {
            flight.fail(why);
        }
        proof
    }

    fn strip(&self, request: &mut Request) {
        self.sender.strip(&self.header, request);
    }

    fn challenge(&self, realm: &str, fault: &Fault<'_>) -> String {
        self.sender.challenge(challenge("Bearer", realm, fault), realm, fault)
    }

    /// What the issuer has said of a token is held against what is expected today; it is not asked again.
    fn stands(&self, principal: &Arc<Principal>, x: &Exchange<'_>) -> Result<Arc<Principal>, Box<str>> {
        if principal.stored != Some(self.vouches) {
            return Err("another issuer is asked by now, or as another client".into());
        }
        let ends = self.sender.stands(&principal.claims, x)?;
        let claims = principal.claims.clone();
        self.expected.check(&claims, x.now.unix).map_err(|refusal| Box::from(refusal.why()))?;
        Ok(ending(Arc::new(self.principal(claims, principal.until)?), ends))
    }

    /// The issuer is asked anew, or was meanwhile for another request with the token.
    fn renew(&self, principal: &Arc<Principal>, x: &mut Exchange<'_>) -> Proof {
        match self.stands(principal, x) {
            Ok(_) => self.authenticate(x),
            Err(why) => Proof::Invalid(why),
        }
    }
}

impl IntrospectionScheme {
    fn call(&self, token: &[u8]) -> Result<HttpCall, Box<str>> {
        let backend = match self.url.callee.get() {
            Some(Ok(backend)) => Arc::clone(backend),
            Some(Err(broken)) => return Err(broken.why.to_string().into()),
            None => return Err("the configuration is not in force yet".into()),
        };
        let token = std::str::from_utf8(token).unwrap_or_default();
        let (timeout, repeat) = (self.timeout, Repeat::Harmless);
        let call = Ask { backend, url: &self.url, timeout, most: MOST_ANSWER, repeat };
        self.client
            .call(call, &[("token", token), ("token_type_hint", "access_token")])
            .ok_or_else(|| "the introspection endpoint cannot be asked".into())
    }

    /// An active token is good for whom it was given to, as he has proved when he came.
    fn admit(&self, principal: Arc<Principal>, word: Word, token: &[u8], x: &Exchange<'_>) -> Proof {
        let checked = match x.notes.again {
            true => self.sender.stands(&principal.claims, x).map(|ends| (ends, Uses::new())).map_err(Proof::invalid),
            false => self.sender.check(&principal.claims, word, token, x),
        };
        match checked {
            Ok((ends, uses)) => Proof::good(ending(principal, ends), uses),
            Err(proof) => proof,
        }
    }

    fn principal(&self, claims: Claims, ends: Option<Duration>) -> Result<Principal, Box<str>> {
        let found = principal(claims, &self.claims, self.owner, &self.name, ends)?;
        Ok(Principal { stored: Some(self.vouches), ..found })
    }

    /// Whom an answer is about, if the token is good here; whoever shows it.
    fn judge(&self, answer: &Answer, hash: Hash, now: Duration) -> Result<Arc<Principal>, Proof> {
        let unavailable = |why: &str| Err(Proof::Unavailable(why.into()));
        match answer.status {
            200 => {}
            401 => return unavailable("the issuer refuses our own client credentials"),
            status => return unavailable(&format!("the issuer answers with status {status}")),
        }
        let claims = match parse_json(&answer.body) {
            Ok(Json::Object(claims)) => claims,
            Ok(_) => return unavailable("the issuer's answer is no object"),
            Err(why) => return unavailable(&format!("the issuer's answer: {why}")),
        };
        match claims.get("active") {
            Some(Json::Bool(true)) => {}
            Some(Json::Bool(false)) => return Err(self.refuse("the token is not active", hash, now)),
            _ => return unavailable("the issuer does not say whether the token is active"),
        }
        let validity = match self.expected.check(&claims, now) {
            Ok(validity) => validity,
            Err(refusal) => return Err(self.refuse(&refusal.why(), hash, now)),
        };
        let ends = validity.until.map(|until| until.saturating_sub(LEEWAY));
        if ends.is_some_and(|ends| now >= ends) {
            return Err(self.refuse("the token has expired (`exp`)", hash, now));
        }
        let until = ends.map_or(now + self.remember, |ends| ends.min(now + self.remember));
        let principal = self.principal(claims, ends).map_err(|why| self.refuse(&why, hash, now))?;
        let principal = Arc::new(Principal { asked: Some(until), ..principal });
        self.memory.active.note(hash, Arc::clone(&principal), 0, until, now);
        Ok(principal)
    }

    /// The issuer has answered, and the token is no good here: that is remembered for a while.
    fn refuse(&self, why: &str, hash: Hash, now: Duration) -> Proof {
        self.memory.refused.note(hash, Arc::new(why.into()), 0, now + REFUSED, now);
        Proof::invalid(why)
    }
}
