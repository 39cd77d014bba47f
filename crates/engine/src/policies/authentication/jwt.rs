//! The scheme `jwt`: signed tokens of one issuer (RFC 7519, RFC 8725, RFC 9068).
//!
//! What is expected stands in the configuration; of the token only its `kid` matters before its signature is good, and its `iss`, by which a
//! token of somebody else is put aside without looking for its key. Keys are inline, in a ConfigMap, behind a URL, or where the
//! provider says (OpenID Connect Discovery), and then kept fresh by `document`. Tokens that were good are remembered by their hash
//! (`verified`), under the version of the keys, so that nothing is good by a key that is gone. Whether a token is shown by whom it was given
//! to (`sender`), and for the first time where that matters, is looked at for each request.
//!
//! Nobody can tell without keys: then the request gets 503, not 401, because the client is not to blame and may come again. So it does while the
//! provider was asked a moment ago and is not asked again yet; who shows one unknown key after the other fails all the same, and is limited. A key that
//! the provider does not have even when it is asked again is the token's fault: 401.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde_json::Value as Json;
use transept_model::kinds::BackendObjectReference;
use transept_model::schema::{Decoder, HEADER_NAME, RESOURCE_NAME, Rule, Text};
use transept_model::value::Value;
use transept_model::{choice, object};
use transept_wire::head::{FieldName, Request};

use super::super::CompileCx;
use super::claims::{ClaimNames, TokenOwner, principal};
use super::exhibits::Exhibit;
use super::nonces::{ByKey, Life, Taken, Use};
use super::scheme::{Fault, Later, Proof, Scheme, challenge};
use super::secret::SecretEntry;
use super::sender::{Sender, SenderConstraint, Word, ending};
use super::verified::{self, Verified};
use crate::callout::{Callout, CalloutResult};
use crate::document::{Document, Occasion, Sought};
use crate::exchange::Exchange;
use crate::jose::{Algorithm, Algorithms, Claims, Expectations, Expiry, Key, KeySet, Refusal, Token, WantedClaim};
use crate::principal::{Principal, StoredMark};
use crate::redact::CredentialPlaces;

mod keys;

pub(super) use keys::provider;
use keys::{Keys, compile_keys};

object! {
    /// Signed tokens (JWT) of one issuer, as bearer tokens.
    pub struct JwtSpec {
        /// Who makes the tokens: their `iss`, byte for byte.
        issuer: Text => Rule::Length(1, 1024);
        /// For whom they must be: one of these is in their `aud`.
        audiences: Vec<Text> => Rule::MaxItems(64), Rule::Length(1, 1024);
        /// True when tokens for anybody are taken. Then whoever gets a token from you can show it here as its own.
        any_audience: bool = false;
        /// Where the keys are. Without it, where the issuer says: at ISSUER`/.well-known/openid-configuration`.
        keys: Option<KeysSpec>;
        /// The algorithms that the issuer signs by. Without it all with a public key; with `sharedSecret`, HS256.
        algorithms: Vec<AlgorithmName> => Rule::NotEmpty, Rule::MaxItems(16), Rule::Unique;
        /// How far clocks may be apart.
        leeway: Duration = Duration::from_secs(30);
        /// How long ago a token may have been issued (its `iat`; any time).
        max_age: Option<Duration>;
        /// False when tokens without an end (`exp`) are taken, too.
        expiry: bool = true;
        /// The kinds of token that are taken, by the `typ` of their header, such as `at+jwt`. Without it `JWT`, `at+jwt`, and those that
        /// say nothing.
        types: Vec<Text> => Rule::NotEmpty, Rule::MaxItems(8), Rule::Length(1, 128);
        /// The clients that the tokens must have been issued to: one of these is in their `azp`.
        authorized_parties: Vec<Text> => Rule::NotEmpty, Rule::MaxItems(64), Rule::Length(1, 1024);
        /// What else tokens must say.
        required_claims: Vec<RequiredClaim> => Rule::MaxItems(32);
        /// The header field that holds the token: `Authorization` as `Bearer TOKEN`, others as it is.
        header: Text = "Authorization".into() => Rule::Is(&HEADER_NAME);
        /// Which claim says what.
        claims: ClaimNames = ClaimNames::default();
        /// Who shows such tokens.
        owner: TokenOwner = TokenOwner::Auto;
        /// Whether tokens are good only for those whom they were given to, by a proof (DPoP) or a certificate that goes with them.
        sender: SenderConstraint = SenderConstraint::WhenBound;
        /// By what nonces for proofs are made: an entry of a Secret with 32 random bytes or more, the same for all proxies (`openssl rand -hex 32`). With it,
        /// proofs must hold a nonce that was given out lately.
        proof_nonces: Option<SecretEntry>;
        /// True when a token is good once, by its `jti`, which it must have then.
        once: bool = false;
    }
    check check_spec;
}

object! {
    /// Where keys are: one of `url`, `inline`, `configMap` and `sharedSecret`, or `discovery`, which is the same as no `keys` at all.
    pub struct KeysSpec {
        /// A set of keys (JWKS) behind a URL. It is kept fresh.
        url: Option<Text> => Rule::Length(1, 2048);
        /// The description of the provider behind another URL than the usual one.
        discovery: Option<Text> => Rule::Length(1, 2048);
        /// A set of keys (JWKS), as JSON.
        inline: Option<Text> => Rule::Length(1, 262_144);
        /// A set of keys (JWKS) in a ConfigMap in the namespace of the policy.
        config_map: Option<ConfigMapEntry>;
        /// A secret that the issuer signs by, too (HS256, HS384, HS512), in a Secret: 32, 48 or 64 random bytes at least.
        shared_secret: Option<SecretEntry>;
        /// The Service or Backend that is asked for `url` and the description, instead of the host in the URL.
        backend_ref: Option<BackendObjectReference>;
        /// Other servers where the keys may be, when the provider says so: `https://keys.login.test`.
        origins: Vec<Text> => Rule::MaxItems(8);
    }
}

object! {
    /// An entry of a ConfigMap in the namespace of the policy.
    pub struct ConfigMapEntry {
        /// The name of the ConfigMap.
        name: Text => Rule::Is(&RESOURCE_NAME);
        /// The entry.
        key: Text => Rule::Length(1, 253);
    }
}

object! {
    /// A claim that tokens must have.
    pub struct RequiredClaim {
        /// Its name; inside another it is written with a dot.
        name: Text => Rule::Length(1, 256);
        /// It, or an item of it, must be one of these. Without them it must be there.
        values: Vec<Text> => Rule::NotEmpty, Rule::MaxItems(256);
    }
}

choice! {
    /// A signature algorithm.
    pub enum AlgorithmName {
        /// RSA (PKCS #1) with SHA-256.
        RS256 = "RS256",
        /// RSA (PKCS #1) with SHA-384.
        RS384 = "RS384",
        /// RSA (PKCS #1) with SHA-512.
        RS512 = "RS512",
        /// RSA (PSS) with SHA-256.
        PS256 = "PS256",
        /// RSA (PSS) with SHA-384.
        PS384 = "PS384",
        /// RSA (PSS) with SHA-512.
        PS512 = "PS512",
        /// ECDSA on P-256.
        ES256 = "ES256",
        /// ECDSA on P-384.
        ES384 = "ES384",
        /// ECDSA on P-521.
        ES512 = "ES512",
        /// Ed25519.
        EdDSA = "EdDSA",
        /// HMAC with SHA-256; only with `sharedSecret`.
        HS256 = "HS256",
        /// HMAC with SHA-384; only with `sharedSecret`.
        HS384 = "HS384",
        /// HMAC with SHA-512; only with `sharedSecret`.
        HS512 = "HS512",
    }
}

/// The longest leeway: more than clocks that are kept at all are apart.
const MOST_LEEWAY: Duration = Duration::from_secs(300);

fn check_spec(spec: &JwtSpec, value: &Value, cx: &mut Decoder) {
    if spec.audiences.is_empty() && !spec.any_audience {
        cx.refuse_field(value, "audiences", "the scheme names no audience, so a token for anybody would do").remedy(
            "write what your provider puts into `aud`, such as `audiences: [https://api.shop.test]`, or `anyAudience: true`",
        );
    }
    if !spec.audiences.is_empty() && spec.any_audience {
        cx.refuse_field(value, "anyAudience", "either some audiences or any").remedy("remove one of the two");
    }
    if spec.leeway > MOST_LEEWAY {
        cx.refuse_field(value, "leeway", "the leeway is above 300s").remedy("set the clocks right instead");
    }
    if spec.proof_nonces.is_some() && matches!(spec.sender, SenderConstraint::Certificate | SenderConstraint::Anybody) {
        cx.refuse_field(value, "proofNonces", "no proofs are looked at here, so nonces for them mean nothing")
            .remedy("write `sender: Proof`, or remove it");
    }
    if spec.once && !spec.expiry {
        cx.refuse_field(value, "once", "a token without an end would have to be remembered for ever")
            .remedy("remove `expiry: false`");
    }
    let shared = spec.keys.as_ref().is_some_and(|keys| keys.shared_secret.is_some());
    for name in &spec.algorithms {
        if name.algorithm().is_symmetric() != shared {
            let why = format!("{} does not go with keys of this kind", name.as_str());
            let remedy = if shared {
                "with `sharedSecret`, write HS256, HS384 or HS512"
            } else {
                "with HS algorithms a public key would be the secret, and everybody could sign: use `keys.sharedSecret`, or another algorithm"
            };
            cx.refuse_field(value, "algorithms", why).remedy(remedy);
        }
    }
    if let Some(keys) = &spec.keys {
        check_keys(keys, cx);
    }
}

fn check_keys(keys: &KeysSpec, cx: &mut Decoder) {
    let written = [
        keys.url.is_some(),
        keys.discovery.is_some(),
        keys.inline.is_some(),
        keys.config_map.is_some(),
        keys.shared_secret.is_some(),
    ];
    let count = written.into_iter().filter(|written| *written).count();
    if count > 1 {
        cx.refuse(keys.at, "the keys are in several places").remedy("write one; several issuers are several schemes");
    }
    let fetched = count == 0 || keys.url.is_some() || keys.discovery.is_some();
    if keys.backend_ref.is_some() && !fetched {
        cx.refuse(keys.at, "these keys are not fetched, so nobody is asked").remedy("remove `backendRef`");
    }
}

impl AlgorithmName {
    fn algorithm(self) -> Algorithm {
        // The words are the same.
        Algorithm::from_name(self.as_str()).unwrap_or(Algorithm::RS256)
    }
}

/// The compiled scheme.
#[derive(Debug)]
pub(super) struct JwtScheme {
    name: Box<str>,
    keys: Keys,
    allowed: Algorithms,
    expected: Expectations,
    pub(super) header: FieldName,
    claims: ClaimNames,
    owner: TokenOwner,
    verified: Arc<Verified<Principal>>,
    sender: Sender,
    /// Tokens that were seen, by their key and their `jti`, where each is good once: shared by all who call the issuer so.
    seen: Option<Taken<ByKey>>,
}

/// Tokens of one scheme that are remembered; with claims of usual length, some megabytes.
const MOST_VERIFIED: usize = 4096;

/// Tokens of one key that are remembered because they are good once.
const MOST_SEEN: usize = 400_000;

/// The keys were asked for, for the sake of a request.
struct Asked {
    /// When, on the monotonic clock.
    at: Duration,
}

impl Scheme for JwtScheme {
    type Spec = JwtSpec;

    fn compile(name: &Text, spec: &JwtSpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let before = cx.count();
        // Whatever is expected differently has a memory of its own.
        let mut identity = verified::identity(name, spec);
        let keys = compile_keys(spec, &mut identity, cx)?;
        let allowed = if spec.algorithms.is_empty() {
            match &spec.keys {
                Some(keys) if keys.shared_secret.is_some() => [Algorithm::HS256].into_iter().collect(),
                _ => Algorithms::asymmetric(),
            }
        } else {
            spec.algorithms.iter().map(|name| name.algorithm()).collect()
        };
        if let Keys::Fixed(set) = &keys
            && !set.keys().iter().any(|key| key.algorithms().any(|one| allowed.contains(one)))
        {
            cx.refuse(spec.at, "none of the keys fits one of the algorithms").remedy("name the algorithms of the keys");
        }
        let identity = HEXLOWER.encode(identity.finish().as_ref());
        let verified = cx.keep(&format!("tokens {identity}"), || Verified::new(MOST_VERIFIED));
        let scheme = JwtScheme {
            name: (&**name).into(),
            keys,
            allowed,
            expected: expectations(spec),
            // The format of names has been checked when it was read.
            header: FieldName::new(spec.header.as_bytes()).ok()?,
            claims: spec.claims.clone(),
            owner: spec.owner,
            verified,
            sender: Sender::compile(spec.sender, spec.proof_nonces.as_ref(), cx)?,
            seen: spec.once.then(|| {
                let seen = cx.keep_for_all(&format!("jti {}", &*spec.issuer), ByKey::default);
                Taken::from(seen, spec.max_age.unwrap_or(Duration::MAX))
            }),
        };
        (cx.count() == before).then_some(scheme)
    }

    fn secrets(spec: &JwtSpec) -> Vec<Text> {
        let shared = spec.keys.as_ref().and_then(|keys| keys.shared_secret.as_ref());
        shared.into_iter().chain(&spec.proof_nonces).map(|entry| entry.name.clone()).collect()
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
    }

    fn authenticate(&self, x: &mut Exchange<'_>) -> Proof {
        self.judge(x, None)
    }

    fn resume(&self, x: &mut Exchange<'_>, between: Box<dyn Any + Send>, result: CalloutResult) -> Proof {
        if matches!(result, CalloutResult::Assumed) {
            return self.assume(x);
        }
        self.judge(x, between.downcast_ref::<Asked>())
    }

    fn strip(&self, request: &mut Request) {
        self.sender.strip(&self.header, request);
    }

    fn challenge(&self, realm: &str, fault: &Fault<'_>) -> String {
        self.sender.challenge(challenge("Bearer", realm, fault), realm, fault)
    }

    /// What a token says is held against what is expected today, and the key that has vouched for it must be one of the issuer's today.
    fn stands(&self, principal: &Arc<Principal>, x: &Exchange<'_>) -> Result<Arc<Principal>, Box<str>> {
        let ends = self.sender.stands(&principal.claims, x)?;
        let today = self.principal(principal.claims.clone(), x.now.unix).map_err(|refusal| Box::from(refusal.why()))?;
        let is_known = |keys: &KeySet| keys.keys().iter().any(|key| self.has_vouched(key, principal));
        let stands = match &self.keys {
            Keys::Fixed(keys) => is_known(keys),
            Keys::Fetched(source) => match source.content(x.now.monotonic) {
                Some(content) => is_known(&content.keys),
                // It is judged again when they have come, or have not.
                None if source.error().is_none() => true,
                None => return Err("the keys of the issuer are not known any more".into()),
            },
        };
        if !stands {
            return Err("the key that has signed the token is not one of the issuer's any more".into());
        }
        Ok(ending(Arc::new(Principal { stored: principal.stored, ..today }), ends))
    }
}

impl JwtScheme {
    /// Whether both have one memory.
    #[cfg(test)]
    pub(super) fn remembers_with(&self, other: &JwtScheme) -> bool {
        Arc::ptr_eq(&self.verified, &other.verified)
    }

    /// Judges the token of a request. `asked` says that its keys were asked for already: it is not done twice.
    fn judge(&self, x: &mut Exchange<'_>, asked: Option<&Asked>) -> Proof {
        let (word, token) = {
            let mut shown = self.sender.shown(&self.header, x.request);
            match (shown.next(), shown.next()) {
                (None, _) => return Proof::Absent,
                (Some(one), None) => one,
                (Some(_), Some(_)) => return Proof::invalid("several tokens are shown"),
            }
        };
        let document;
        let (keys, version) = match &self.keys {
            Keys::Fixed(keys) => (keys, 0),
            Keys::Fetched(source) => match source.content(x.now.monotonic) {
                Some(content) => {
                    document = content;
                    (&document.keys, document.version)
                }
                None => {
                    let proof = self.without_keys(source, token, x.now.monotonic, asked);
                    return self.unless_newer(source, 0, proof, x, asked);
                }
            },
        };
        let hash = verified::hash(token);
        if let Some(principal) = self.verified.find(&hash, version, x.now.unix) {
            return self.admit(principal, word, token, x);
        }
        match self.verify(token, keys, x.now.unix) {
            Ok(principal) => {
                let until = principal.until.unwrap_or(x.now.unix + Duration::from_secs(600));
                self.verified.note(hash, Arc::clone(&principal), version, until, x.now.unix);
                self.admit(principal, word, token, x)
            }
            Err((refusal, Some(occasion))) => match &self.keys {
                Keys::Fixed(_) => Proof::invalid(refusal.why()),
                Keys::Fetched(document) => {
                    let proof = seek(document, &refusal, occasion, x.now.monotonic, asked);
                    self.unless_newer(document, version, proof, x, asked)
                }
            },
            Err((Refusal::Expired, None)) => Proof::Over(Refusal::Expired.why().into()),
            Err((refusal, None)) => Proof::invalid(refusal.why()),
        }
    }

    /// What was found by keys of this version (zero for none), unless there are others by now: a fetch for somebody else may have come to its end between the
    /// look at the keys and the question whether one would help.
    fn unless_newer(
        &self,
        document: &Document,
        version: u64,
        proof: Proof,
        x: &mut Exchange<'_>,
        asked: Option<&Asked>,
    ) -> Proof {
        let is_newer = document.content(x.now.monotonic).is_some_and(|content| content.version != version);
        if is_newer && !matches!(proof, Proof::Ask(..)) { self.judge(x, asked) } else { proof }
    }

    /// A genuine token is good for whom it was given to, and once where that is said.
    fn admit(&self, principal: Arc<Principal>, word: Word, token: &[u8], x: &Exchange<'_>) -> Proof {
        let (ends, mut uses) = match self.sender.check(&principal.claims, word, token, x) {
            Ok(checked) => checked,
            Err(proof) => return proof,
        };
        if let Some(seen) = &self.seen {
            let (Some(id), Some(end)) = (principal.claims.get("jti").and_then(Json::as_str), principal.until) else {
                return Proof::invalid("the token has no `jti` by which it could be good once");
            };
            // As long as any scheme for the issuer may take it, whatever its leeway.
            let time = |claim: &str| {
                let seconds = principal.claims.get(claim).and_then(Json::as_f64)?;
                Duration::try_from_secs_f64(seconds).ok()
            };
            let with_leeway = |time: Option<Duration>| time.map(|time| time.saturating_add(MOST_LEEWAY));
            let life = Life::new(with_leeway(time("iat")).unwrap_or(Duration::MAX), with_leeway(time("exp")));
            // An explanation knows no key.
            let key = principal.stored.unwrap_or_else(|| StoredMark::of(&[]));
            uses.push(Arc::new(Use {
                memory: seen.memory().of(key, x.now.unix),
                id: id.into(),
                end,
                life,
                most: MOST_SEEN,
                seen: "the token was seen before",
                crowded: "too many tokens of this key are remembered",
            }));
        }
        Proof::good(ending(principal, ends), uses)
    }

    /// Nobody has told us the keys yet, or for too long.
    fn without_keys(&self, document: &Arc<Document>, token: &[u8], now: Duration, asked: Option<&Asked>) -> Proof {
        // What is no token of this issuer needs no keys to be refused.
        if let Err(refusal) = self.glance(token) {
            return Proof::invalid(refusal.why());
        }
        if asked.is_none() && document.may_help(&Occasion::Due, now) {
            return ask(document, Occasion::Due, now);
        }
        let why = document.error().unwrap_or_else(|| "they have not come yet".into());
        Proof::Unavailable(format!("the keys at {}: {why}", document.label).into())
    }

    /// What can be seen of a token without keys.
    fn glance<'t>(&self, token: &'t [u8]) -> Result<Token<'t>, Refusal> {
        let token = Token::parse(token)?;
        if !self.allowed.contains(token.algorithm()) {
            return Err(Refusal::Algorithm);
        }
        self.expected.check_kind(token.kind())?;
        if token.unverified_issuer().as_deref() != self.expected.issuer.as_deref() {
            return Err(Refusal::Claims("the token is by another issuer (`iss`)".into()));
        }
        Ok(token)
    }

    fn verify(
        &self,
        token: &[u8],
        keys: &KeySet,
        now: Duration,
    ) -> Result<Arc<Principal>, (Refusal, Option<Occasion>)> {
        let token = self.glance(token).map_err(|refusal| (refusal, None))?;
        let is_nameless = || token.kid().is_none() || keys.keys().iter().any(|key| key.kid().is_none());
        // Whether newer keys of the issuer may help.
        let occasion = |refusal: &Refusal| match (refusal, token.kid()) {
            (Refusal::UnknownKey, Some(kid)) => Some(Occasion::UnknownKey(kid.into())),
            (Refusal::Signature | Refusal::NoKey, _) if is_nameless() => Some(Occasion::NamelessKey),
            _ => None,
        };
        let (payload, key) = token.verify_with(keys, self.allowed).map_err(|refusal| {
            let occasion = occasion(&refusal);
            (refusal, occasion)
        })?;
        let stored = Some(mark(token.algorithm(), key));
        let accepted = Token::claims(payload).and_then(|claims| self.principal(claims, now));
        accepted.map(|principal| Arc::new(Principal { stored, ..principal })).map_err(|refusal| (refusal, None))
    }

    /// The principal of claims that are believed.
    fn principal(&self, claims: Claims, now: Duration) -> Result<Principal, Refusal> {
        let validity = self.expected.check(&claims, now)?;
        principal(claims, &self.claims, self.owner, &self.name, validity.until)
            .map_err(|why| Refusal::Claims(String::from(why).into()))
    }

    /// Whether a principal's token was signed by this key, with an algorithm that is allowed.
    fn has_vouched(&self, key: &Key, principal: &Principal) -> bool {
        let mut algorithms = key.algorithms().filter(|algorithm| self.allowed.contains(*algorithm));
        algorithms.any(|algorithm| principal.stored == Some(mark(algorithm, key)))
    }

    /// In an explanation nothing is fetched: the token is believed, and that is said.
    fn assume(&self, x: &mut Exchange<'_>) -> Proof {
        let Some((word, token)) = self.sender.shown(&self.header, x.request).next() else { return Proof::Absent };
        let claims = self.glance(token).and_then(|token| Token::claims(token.payload()));
        let proof = match claims.and_then(|claims| self.principal(claims, x.now.unix)) {
            Ok(principal) => self.admit(Arc::new(principal), word, token, x),
            Err(refusal) => Proof::invalid(refusal.why()),
        };
        x.tell(|| format!("scheme {}: its keys are not known here, so the signature is taken to be good", self.name));
        proof
    }
}

/// What stands for the key that a token is signed by.
fn mark(algorithm: Algorithm, key: &Key) -> StoredMark {
    StoredMark::of(&[algorithm.as_str().as_bytes(), key.print()])
}

fn ask(document: &Arc<Document>, occasion: Occasion, now: Duration) -> Proof {
    let callout = Callout::Refresh { document: Arc::clone(document), occasion };
    Proof::Ask(Box::new(callout), Box::new(Asked { at: now }))
}

/// Why nobody can tell whether a key is a new one.
pub(super) fn not_yet(refusal: &Refusal, document: &Document, wait: Duration) -> String {
    format!("{}, and {} is asked again in {wait:?} at the soonest", refusal.why(), document.label)
}

/// The key is not among those that are known, as far as can be told: perhaps the issuer has new ones.
fn seek(
    document: &Arc<Document>,
    refusal: &Refusal,
    occasion: Occasion,
    now: Duration,
    asked: Option<&Asked>,
) -> Proof {
    match document.seek(&occasion, asked.map(|asked| asked.at), now) {
        Sought::Fetch => ask(document, occasion, now),
        Sought::Absent => Proof::invalid(refusal.why()),
        // Nobody can tell whether it is a new one.
        Sought::Failed(why) => Proof::Unavailable(format!("newer keys at {}: {why}", document.label).into()),
        Sought::Later { wait, is_awaited } => {
            Proof::Later(not_yet(refusal, document, wait).into(), Later { wait, is_guess: !is_awaited })
        }
    }
}

fn expectations(spec: &JwtSpec) -> Expectations {
    let boxed = |texts: &[Text]| texts.iter().map(|text| Box::from(&**text)).collect::<Vec<Box<str>>>();
    let kind = |text: &Text| {
        let text = text.to_ascii_lowercase();
        Box::from(text.strip_prefix("application/").unwrap_or(&text))
    };
    Expectations {
        issuer: Some((&*spec.issuer).into()),
        audiences: (!spec.any_audience).then(|| boxed(&spec.audiences)),
        parties: boxed(&spec.authorized_parties),
        kinds: spec.types.iter().map(kind).collect(),
        leeway: spec.leeway,
        max_age: spec.max_age,
        expiry: if spec.expiry { Expiry::Required } else { Expiry::Optional },
        required: wanted(&spec.required_claims),
    }
}

/// Required claims, compiled.
pub(super) fn wanted(claims: &[RequiredClaim]) -> Vec<WantedClaim> {
    let one = |claim: &RequiredClaim| WantedClaim {
        path: (&*claim.name).into(),
        values: claim.values.iter().map(|value| Box::from(&**value)).collect(),
    };
    claims.iter().map(one).collect()
}
