//! The scheme `signature`: requests that are signed by HTTP Message Signatures (RFC 9421).
//!
//! The algorithm is the one of the key, never the one that a message names. A signature is good for a while after it was made, covers at
//! least what the configuration asks for, and the content by its digest (RFC 9530). What is signed is compared with the request as it
//! is routed: a path that had to be normalised was signed in another form and is refused.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA512, VerificationAlgorithm,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use transept_model::schema::{Decoder, RESOURCE_NAME, Rule, Text};
use transept_model::value::{Value, ticked};
use transept_model::{choice, object};
use transept_wire::head::{FieldName, Request};

use super::super::CompileCx;
use super::consumer::Owned;
use super::content::Coverage;
use super::scheme::{Fault, Proof, Scheme};
use super::secret::SecretEntry;
use crate::callout::CalloutResult;
use crate::exchange::Exchange;
use crate::principal::{Principal, StoredMark};
use crate::redact::CredentialPlaces;
use crate::signature::structured::{Bare, Item, Member, Parameters, dictionary};
use crate::signature::{base, covers, is_digest_of};

use super::exhibits::Exhibit;
use super::nonces::{Life, Nonces, Taken, Use, Uses, remembered_as, share};
use super::published::is_key_of_a_pair;

choice! {
    /// An algorithm of RFC 9421 section 3.3.
    pub enum SignatureAlgorithm {
        /// HMAC with SHA-256 and a secret that both sides know.
        HmacSha256 = "hmac-sha256",
        /// Ed25519.
        Ed25519 = "ed25519",
        /// ECDSA on P-256 with SHA-256.
        EcdsaP256 = "ecdsa-p256-sha256",
        /// ECDSA on P-384 with SHA-384.
        EcdsaP384 = "ecdsa-p384-sha384",
        /// RSASSA-PSS with SHA-512.
        RsaPss = "rsa-pss-sha512",
        /// RSASSA-PKCS1-v1_5 with SHA-256.
        RsaPkcs1 = "rsa-v1_5-sha256",
    }
}

object! {
    /// Requests that are signed (RFC 9421).
    pub struct SignatureSchemeSpec {
        /// The keys.
        keys: Vec<SignatureKey> => Rule::MinItems(1), Rule::MaxItems(256), Rule::UniqueBy("id");
        /// What a signature must cover, by names of components. `@target-uri` covers `@authority`, `@path` and `@query`, too.
        required: Vec<Text> = usual() => Rule::NotEmpty, Rule::MaxItems(32), Rule::Unique;
        /// How long a signature is good after it was made.
        max_age: Duration = Duration::from_secs(300);
        /// The `tag` that a signature must have, for applications that tell signatures apart by it.
        tag: Option<Text> => Rule::Length(1, 128);
        /// True when a signature must have a `nonce`. One that has been seen is refused in any case.
        require_nonce: bool = false;
        /// True when the content need not be signed. Otherwise a request with content must have `content-digest` covered.
        unsigned_content: bool = false;
        /// The largest content whose digest is computed, in bytes.
        max_content: u32 = 1048576 => Rule::Range(1, 67108864);
    }
    check check_signature;
}

object! {
    /// A key for signatures, and whose it is.
    pub struct SignatureKey {
        /// What the parameter `keyid` says.
        id: Text => Rule::Length(1, 256);
        /// The algorithm of the key.
        algorithm: SignatureAlgorithm;
        /// The secret (`hmac-sha256`), or the public key in PEM.
        key: SecretEntry;
        /// The Consumer that signs with it.
        consumer: Text => Rule::Is(&RESOURCE_NAME);
    }
}

fn usual() -> Vec<Text> {
    ["@method", "@authority", "@path", "@query"].into_iter().map(Text::from).collect()
}

/// The shortest secret, in bytes.
const SHORTEST_SECRET: usize = 16;
const SEEN: &str = "its nonce was seen before";
/// How far the clock of a client may be ahead.
const AHEAD: Duration = Duration::from_secs(30);
/// The longest that a signature may be good.
const LONGEST_AGE: Duration = Duration::from_secs(24 * 3600);

fn check_signature(spec: &SignatureSchemeSpec, value: &Value, cx: &mut Decoder) {
    if spec.max_age.is_zero() || spec.max_age > LONGEST_AGE {
        cx.refuse_field(value, "maxAge", "a signature is good for a second to a day").remedy("write `maxAge: 5m`");
    }
    if let Some(upper) = spec.required.iter().find(|name| name.bytes().any(|byte| byte.is_ascii_uppercase())) {
        cx.refuse_field(
            value,
            "required",
            format!("{} is not in lower case, so no signature covers it", ticked(upper)),
        )
        .remedy("write names of fields in lower case");
    }
}

/// The compiled scheme.
#[derive(Debug)]
pub(super) struct SignatureScheme {
    keys: HashMap<Box<str>, Known>,
    required: Vec<Box<str>>,
    max_age: Duration,
    tag: Option<Box<str>>,
    require_nonce: bool,
    unsigned_content: bool,
    max_content: usize,
    /// How many nonces each key may have under way.
    nonces: usize,
    input: FieldName,
    signature: FieldName,
    digest: FieldName,
}

struct Known {
    key: Verifier,
    algorithm: SignatureAlgorithm,
    owned: Owned,
    nonces: Taken,
}

impl fmt::Debug for Known {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Known").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

enum Verifier {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

/// A signature that is good, as far as can be told without the content.
struct Signed {
    /// The key.
    id: Box<str>,
    nonce: Option<Box<str>>,
    /// Its own end is in it.
    life: Life,
    coverage: Coverage,
}

impl Scheme for SignatureScheme {
    type Spec = SignatureSchemeSpec;

    fn compile(name: &Text, spec: &SignatureSchemeSpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let mut keys: HashMap<Box<str>, Known> = HashMap::new();
        for key in &spec.keys {
            let known = compile_key(name, key, spec.max_age, cx)?;
            let is_shared = |other: &Owned| other.is_stored_like(&known.owned) && !other.is_of_consumer(&known.owned);
            if let Some((twin, _)) = keys.iter().find(|(_, other)| is_shared(&other.owned)) {
                let why = format!("the keys {twin} and {} are the same key of two Consumers", &*key.id);
                cx.refuse(key.at, why).remedy("give each Consumer a key of its own: whoever has it could be either");
                return None;
            }
            keys.insert(Box::from(&*key.id), known);
        }
        Some(SignatureScheme {
            keys,
            required: spec.required.iter().map(|name| (&**name).into()).collect(),
            max_age: spec.max_age,
            tag: spec.tag.as_deref().map(Into::into),
            require_nonce: spec.require_nonce,
            unsigned_content: spec.unsigned_content,
            max_content: spec.max_content as usize,
            nonces: share(spec.keys.len()),
            input: FieldName::new("signature-input").ok()?,
            signature: FieldName::new("signature").ok()?,
            digest: FieldName::new("content-digest").ok()?,
        })
    }

    fn secrets(spec: &SignatureSchemeSpec) -> Vec<Text> {
        spec.keys.iter().map(|key| key.key.name.clone()).collect()
    }

    fn places(&self, places: &mut CredentialPlaces) {
        places.fields.insert("signature".into());
    }

    fn presents(&self, x: &Exchange<'_>) -> bool {
        x.request.fields.first_named(&self.input).is_some()
    }

    fn exhibits<'x>(&'x self, x: &'x Exchange<'_>, add: &mut dyn FnMut(Exhibit<'x>)) {
        if !self.presents(x) {
            return;
        }
        // One that no scheme chooses is meant for somebody else.
        add(Exhibit::Signature(None));
        let inputs = dictionary(&lines(x.request, &self.input)).unwrap_or_default();
        if let Some((chosen, ..)) = self.choose(&inputs) {
            add(Exhibit::Signature(inputs.iter().position(|(label, _)| label == chosen)));
        }
    }

    fn authenticate(&self, x: &mut Exchange<'_>) -> Proof {
        if !self.presents(x) {
            return Proof::Absent;
        }
        match self.verify(x) {
            Err(why) => Proof::invalid(why),
            Ok(signed) if self.unsigned_content && signed.coverage == Coverage::Unsigned => self.accept(&signed),
            Ok(signed) => signed.coverage.ask(self.max_content, Box::new(signed)),
        }
    }

    fn resume(&self, x: &mut Exchange<'_>, between: Box<dyn Any + Send>, result: CalloutResult) -> Proof {
        let Ok(signed) = between.downcast::<Signed>() else {
            return Proof::Unavailable("what was signed is not known any more".into());
        };
        let is_signed = |content: &[u8]| {
            let lines: Vec<&[u8]> = x.request.fields.all_named(&self.digest).collect();
            is_digest_of(&lines.join(&b", "[..]), content)
        };
        match signed.coverage.judge("content-digest", &result, is_signed) {
            Ok(()) => self.accept(&signed),
            Err(proof) => proof,
        }
    }

    fn strip(&self, request: &mut Request) {
        request.fields.remove(&self.input);
        request.fields.remove(&self.signature);
    }

    fn challenge(&self, realm: &str, _: &Fault<'_>) -> String {
        format!("Signature realm=\"{realm}\"")
    }

    fn stands(&self, principal: &Arc<Principal>, _: &Exchange<'_>) -> Result<Arc<Principal>, Box<str>> {
        let name = principal.credential.as_deref().unwrap_or_default();
        Owned::stands(self.keys.get(name).map(|known| &known.owned), principal)
    }
}

/// Why a signature is no good.
type Refusal = String;

fn compile_key(scheme: &Text, spec: &SignatureKey, max_age: Duration, cx: &mut CompileCx<'_>) -> Option<Known> {
    let entry = spec.key.read(cx)?;
    let key = match verifier(spec.algorithm, &entry) {
        Ok(key) => key,
        Err((why, remedy)) => {
            cx.refuse(spec.at, format!("the key {}: {why}", &*spec.id)).remedy(remedy);
            return None;
        }
    };
    // The key itself, whatever stands around it in the file.
    let der = SubjectPublicKeyInfoDer::from_pem_slice(&entry);
    let material = der.as_ref().map_or(&*entry, |der| der.as_ref());
    let stored = StoredMark::of(&[spec.algorithm.as_str().as_bytes(), material]);
    let owned = Owned::compile(spec.at, &spec.consumer, scheme, &spec.id, Some(stored), cx)?;
    let made_by = [spec.id.as_bytes(), spec.algorithm.as_str().as_bytes(), material];
    let nonces = Taken::from(cx.keep(&remembered_as("nonces", &made_by), Nonces::default), max_age);
    Some(Known { key, algorithm: spec.algorithm, owned, nonces })
}

/// Why the entry of a Secret is no key, and the remedy.
type BadKey = (&'static str, &'static str);

/// The bytes of a secret for HMAC, as it stands in an entry of a Secret.
pub(super) fn shared_secret(secret: &[u8]) -> Result<&[u8], BadKey> {
    if is_key_of_a_pair(secret) {
        return Err((
            "a key of a pair, or a certificate, is no secret for HMAC: whoever knows it could sign",
            "name the algorithm of the key, or write a secret from a random generator",
        ));
    }
    if secret.len() < SHORTEST_SECRET {
        return Err(("the secret is shorter than 16 bytes", "write a longer one, from a random generator"));
    }
    Ok(secret)
}

fn verifier(algorithm: SignatureAlgorithm, entry: &[u8]) -> Result<Verifier, BadKey> {
    let by: &'static dyn VerificationAlgorithm = match algorithm {
        SignatureAlgorithm::HmacSha256 => {
            let secret = shared_secret(entry)?;
            return Ok(Verifier::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))));
        }
        SignatureAlgorithm::Ed25519 => &ED25519,
        SignatureAlgorithm::EcdsaP256 => &ECDSA_P256_SHA256_FIXED,
        SignatureAlgorithm::EcdsaP384 => &ECDSA_P384_SHA384_FIXED,
        SignatureAlgorithm::RsaPss => &RSA_PSS_2048_8192_SHA512,
        SignatureAlgorithm::RsaPkcs1 => &RSA_PKCS1_2048_8192_SHA256,
    };
    let der = SubjectPublicKeyInfoDer::from_pem_slice(entry).map_err(|_| {
        ("this is no public key in PEM", "write the block PUBLIC KEY, as `openssl pkey -pubout` prints it")
    })?;
    match ParsedPublicKey::new(by, der.as_ref()) {
        Ok(key) => Ok(Verifier::Public(key)),
        Err(_) => Err(("the key is not one for its algorithm", "name the algorithm of the key")),
    }
}

impl Verifier {
    fn is_good(&self, base: &[u8], signature: &[u8]) -> bool {
        match self {
            Verifier::Secret(key) => hmac::verify(key, base, signature).is_ok(),
            Verifier::Public(key) => key.verify_sig(base, signature).is_ok(),
        }
    }
}

/// All lines of a field as one.
pub(super) fn lines(request: &Request, field: &FieldName) -> Vec<u8> {
    request.fields.all_named(field).collect::<Vec<_>>().join(&b", "[..])
}

/// A parameter of a signature.
fn parameter<'p>(parameters: &'p Parameters, name: &str) -> Option<&'p Bare> {
    parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

fn text<'p>(parameters: &'p Parameters, name: &str) -> Result<Option<&'p str>, Refusal> {
    match parameter(parameters, name) {
        None => Ok(None),
        Some(Bare::Text(text)) => Ok(Some(text)),
        Some(_) => Err(format!("its parameter {name} is not text")),
    }
}

fn seconds(parameters: &Parameters, name: &str) -> Result<Option<Duration>, Refusal> {
    match parameter(parameters, name) {
        None => Ok(None),
        Some(Bare::Integer(seconds)) if *seconds >= 0 => Ok(Some(Duration::from_secs(seconds.unsigned_abs()))),
        Some(_) => Err(format!("its parameter {name} is not a time")),
    }
}

impl SignatureScheme {
    fn verify(&self, x: &Exchange<'_>) -> Result<Signed, Refusal> {
        let inputs = dictionary(&lines(x.request, &self.input)).ok_or("Signature-Input is not well-formed")?;
        let signatures = dictionary(&lines(x.request, &self.signature)).ok_or("Signature is not well-formed")?;
        let (label, items, parameters) = self.choose(&inputs).ok_or("no signature has a key that is known here")?;
        let signature = signatures.iter().find(|(name, _)| name == label);
        let Some((_, Member::Item(Item { bare: Bare::Bytes(signature), .. }))) = signature else {
            return Err("there is no signature to its input".into());
        };
        let id = text(parameters, "keyid")?.unwrap_or_default();
        let known = self.keys.get(id).ok_or("the key is not known")?;
        known.owned.principal().map_err(|why| format!("the key {why}"))?;
        if text(parameters, "alg")?.is_some_and(|named| named != known.algorithm.as_str()) {
            return Err("it names another algorithm than that of its key".into());
        }
        let life = self.life(parameters, x.now.unix)?;
        if let Some(missing) = self.required.iter().find(|name| !covers(items, name)) {
            return Err(format!("it does not cover {missing}"));
        }
        let base = base(x.request, x.scheme(), items, parameters)?;
        if !known.key.is_good(&base, signature) {
            return Err("the signature is wrong".into());
        }
        let nonce = text(parameters, "nonce")?;
        match nonce {
            None if self.require_nonce => return Err("it has no nonce".into()),
            // Before the content is read in vain.
            Some(nonce) if known.nonces.memory().knows(nonce, x.now.unix) => return Err(SEEN.into()),
            _ => {}
        }
        let coverage = if covers(items, "content-digest") { Coverage::Signed } else { Coverage::Unsigned };
        Ok(Signed { id: id.into(), nonce: nonce.map(Into::into), life, coverage })
    }

    /// Who has signed. The nonce is used up when he is let in, when nothing else can be wrong with the request.
    fn accept(&self, signed: &Signed) -> Proof {
        // A configuration that has come into force meanwhile may know the key no more.
        let Some(known) = self.keys.get(&signed.id) else { return Proof::invalid("the key is not known") };
        let principal = match known.owned.principal() {
            Ok(principal) => Arc::clone(principal),
            Err(why) => return Proof::invalid(format!("the key {why}")),
        };
        let used = |nonce: &str| Use {
            memory: Arc::clone(known.nonces.memory()),
            id: nonce.into(),
            end: signed.life.taken_for(self.max_age),
            life: signed.life,
            most: self.nonces,
            seen: SEEN,
            crowded: "too many nonces of this key are remembered",
        };
        let uses: Uses = signed.nonce.iter().map(|nonce| Arc::new(used(nonce))).collect();
        Proof::good(principal, uses)
    }

    /// The first signature with the tag that is wanted and a key that is known.
    fn choose<'s>(&self, inputs: &'s [(String, Member)]) -> Option<(&'s str, &'s [Item], &'s Parameters)> {
        inputs.iter().find_map(|(label, member)| {
            let Member::List(items, parameters) = member else { return None };
            let is = |name, wanted: &dyn Fn(&str) -> bool| {
                matches!(parameter(parameters, name), Some(Bare::Text(text)) if wanted(text))
            };
            let tagged = self.tag.as_deref().is_none_or(|tag| is("tag", &|text| text == tag));
            (tagged && is("keyid", &|id| self.keys.contains_key(id))).then_some((&**label, &**items, parameters))
        })
    }

    /// When it was made and when it ends by what it says itself.
    fn life(&self, parameters: &Parameters, now: Duration) -> Result<Life, Refusal> {
        let made = seconds(parameters, "created")?.ok_or("it does not say when it was made")?;
        if made > now + AHEAD {
            return Err("it was made in the future".into());
        }
        let life = Life::new(made, seconds(parameters, "expires")?);
        if now >= life.taken_for(self.max_age) { Err("it has ended".into()) } else { Ok(life) }
    }
}

#[cfg(test)]
mod tests;
