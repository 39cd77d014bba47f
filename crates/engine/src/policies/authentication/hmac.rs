//! The scheme `hmac`: requests that are signed by HMAC in `Authorization`, as clients of many products do it. The form is read by `signature::hmac`;
//! secrets, memory of what was seen, and the content are those of the scheme `signature`, which is the better one for new clients.
//!
//! Stricter than most who take this form. A time is signed in any case, method and target and host unless the configuration says otherwise; only what is signed
//! is looked at: a `Date` beside the signature says nothing. The content must be signed by its digest, and SHA-1 does not exist here.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use transept_model::schema::{Decoder, RESOURCE_NAME, Rule, Text};
use transept_model::value::{Value, ticked};
use transept_model::{choice, object};
use transept_wire::head::{FieldId, FieldName, NameRef, Request};

use super::super::CompileCx;
use super::consumer::Owned;
use super::content::Coverage;
use super::exhibits::{Exhibit, add_lines};
use super::nonces::{Life, Nonces, Taken, Use, Uses, remembered_as, share};
use super::scheme::{Fault, Proof, Scheme};
use super::secret::SecretEntry;
use super::signature::{lines, shared_secret};
use crate::callout::CalloutResult;
use crate::date;
use crate::exchange::Exchange;
use crate::principal::{Principal, StoredMark};
use crate::signature::hmac::{Shown, is_digest_of, parameters};
use crate::signature::is_digest_of as is_content_digest_of;

choice! {
    /// A hash for HMAC. SHA-1 is not among them.
    pub enum HmacAlgorithm {
        /// SHA-256.
        Sha256 = "hmac-sha256",
        /// SHA-384.
        Sha384 = "hmac-sha384",
        /// SHA-512.
        Sha512 = "hmac-sha512",
    }
}

object! {
    /// Requests that are signed by HMAC in `Authorization`: `hmac username="...", algorithm="hmac-sha256", headers="...", signature="..."`.
    pub struct HmacSchemeSpec {
        /// The keys.
        keys: Vec<HmacKey> => Rule::MinItems(1), Rule::MaxItems(256), Rule::UniqueBy("username");
        /// The algorithms that are taken. They all go with any secret.
        algorithms: Vec<HmacAlgorithm> = all() => Rule::MinItems(1), Rule::Unique;
        /// What must be signed beside the time (`date` or `x-date`): `@request-target` or `request-line`, and names of fields.
        required: Vec<Text> = usual() => Rule::NotEmpty, Rule::MaxItems(32), Rule::Length(1, 128), Rule::Unique;
        /// How far the time that is signed may be from ours, before and after.
        clock_skew: Duration = Duration::from_secs(300);
        /// True when a signature is good once. Then a client must not send the same request twice in a second.
        once: bool = false;
        /// True when the content need not be signed. Otherwise a request with content must have `digest` or `content-digest` covered.
        unsigned_content: bool = false;
        /// The largest content whose digest is computed, in bytes.
        max_content: u32 = 1048576 => Rule::Range(1, 67108864);
    }
    check check_hmac;
}

object! {
    /// A secret for HMAC, and whose it is.
    pub struct HmacKey {
        /// What the parameter `username` (or `keyId`) says.
        username: Text => Rule::Length(1, 256);
        /// The secret: 16 bytes or more, from a random generator.
        secret: SecretEntry;
        /// The Consumer that signs with it.
        consumer: Text => Rule::Is(&RESOURCE_NAME);
    }
}

fn all() -> Vec<HmacAlgorithm> {
    vec![HmacAlgorithm::Sha256, HmacAlgorithm::Sha384, HmacAlgorithm::Sha512]
}

fn usual() -> Vec<Text> {
    ["@request-target", "host"].into_iter().map(Text::from).collect()
}

/// The farthest that clocks may be apart.
const FARTHEST: Duration = Duration::from_secs(24 * 3600);
/// The fields that may hold the time; browsers let no script write the first.
const TIMES: [&str; 2] = ["date", "x-date"];
const SEEN: &str = "the signature was seen before";

fn check_hmac(spec: &HmacSchemeSpec, value: &Value, cx: &mut Decoder) {
    if spec.clock_skew.is_zero() || spec.clock_skew > FARTHEST {
        cx.refuse_field(value, "clockSkew", "clocks may be a second to a day apart").remedy("write `clockSkew: 5m`");
    }
    for name in &spec.required {
        let is_target = name.eq_ignore_ascii_case("@request-target") || name.eq_ignore_ascii_case("(request-target)");
        if !is_target && FieldName::new(&**name).is_err() {
            let why = format!("{} is no name of a field, so no signature covers it", ticked(name));
            cx.refuse_field(value, "required", why)
                .remedy("write `@request-target` for method, path and query, and names of fields such as `host`");
        }
    }
}

/// The compiled scheme.
#[derive(Debug)]
pub(super) struct HmacScheme {
    keys: HashMap<Box<str>, Known>,
    algorithms: Vec<HmacAlgorithm>,
    required: Vec<Box<str>>,
    clock_skew: Duration,
    unsigned_content: bool,
    max_content: usize,
    /// How many signatures of each key are remembered.
    most: usize,
    digest: FieldName,
    content_digest: FieldName,
}

struct Known {
    sha256: hmac::Key,
    sha384: hmac::Key,
    sha512: hmac::Key,
    owned: Owned,
    /// Signatures that were seen, where each is good once.
    seen: Option<Taken>,
}

impl fmt::Debug for Known {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Known").field("owned", &self.owned).finish_non_exhaustive()
    }
}

/// A signature that is good, as far as can be told without the content.
struct Signed {
    shown: Shown,
    /// Until when it is good.
    end: Duration,
    coverage: Coverage,
}

impl Scheme for HmacScheme {
    type Spec = HmacSchemeSpec;

    fn compile(name: &Text, spec: &HmacSchemeSpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let mut keys: HashMap<Box<str>, Known> = HashMap::new();
        for key in &spec.keys {
            let known = compile_key(name, key, spec.once.then_some(spec.clock_skew), cx)?;
            // The name is not signed: what one has signed could be shown under the other's.
            if let Some((twin, _)) = keys.iter().find(|(_, other)| other.owned.is_stored_like(&known.owned)) {
                let why = format!("the keys {twin} and {} have the same secret", &*key.username);
                cx.refuse(key.at, why).remedy("give each key a secret of its own, or one of them up");
                return None;
            }
            keys.insert(Box::from(&*key.username), known);
        }
        Some(HmacScheme {
            keys,
            algorithms: spec.algorithms.clone(),
            required: spec.required.iter().map(|name| (&**name).into()).collect(),
            clock_skew: spec.clock_skew,
            unsigned_content: spec.unsigned_content,
            max_content: spec.max_content as usize,
            most: share(spec.keys.len()),
            digest: FieldName::new("digest").ok()?,
            content_digest: FieldName::new("content-digest").ok()?,
        })
    }

    fn secrets(spec: &HmacSchemeSpec) -> Vec<Text> {
        spec.keys.iter().map(|key| key.secret.name.clone()).collect()
    }

    fn presents(&self, x: &Exchange<'_>) -> bool {
        shown(x.request).next().is_some()
    }

    fn exhibits<'x>(&'x self, x: &'x Exchange<'_>, add: &mut dyn FnMut(Exhibit<'x>)) {
        let is_one = |name: NameRef<'_>, value: &[u8]| name.id == FieldId::AUTHORIZATION && parameters(value).is_some();
        add_lines(x.request, is_one, add);
    }

    fn authenticate(&self, x: &mut Exchange<'_>) -> Proof {
        let mut all = shown(x.request);
        let parameters = match (all.next(), all.next()) {
            (None, _) => return Proof::Absent,
            (Some(one), None) => one,
            (Some(_), Some(_)) => return Proof::invalid("several signatures are shown"),
        };
        match self.verify(parameters, x) {
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
            let is = |field: &FieldName, check: fn(&[u8], &[u8]) -> bool| {
                !signed.shown.covers(field.as_str()) || check(&lines(x.request, field), content)
            };
            is(&self.digest, is_digest_of) && is(&self.content_digest, is_content_digest_of)
        };
        match signed.coverage.judge("digest", &result, is_signed) {
            Ok(()) => self.accept(&signed),
            Err(proof) => proof,
        }
    }

    fn strip(&self, request: &mut Request) {
        request.fields.retain(|name, value| name.id != FieldId::AUTHORIZATION || parameters(value).is_none());
    }

    fn challenge(&self, realm: &str, _: &Fault<'_>) -> String {
        let algorithm = self.algorithms.first().map_or("", |one| one.as_str());
        let mut headers = self.required.join(" ");
        if !self.required.iter().any(|name| TIMES.iter().any(|time| name.eq_ignore_ascii_case(time))) {
            headers.push_str(" date");
        }
        format!("hmac realm=\"{realm}\", algorithm=\"{algorithm}\", headers=\"{}\"", headers.trim_ascii_start())
    }

    fn stands(&self, principal: &Arc<Principal>, _: &Exchange<'_>) -> Result<Arc<Principal>, Box<str>> {
        let name = principal.credential.as_deref().unwrap_or_default();
        Owned::stands(self.keys.get(name).map(|known| &known.owned), principal)
    }
}

/// What is shown in this form.
fn shown(request: &Request) -> impl Iterator<Item = &[u8]> {
    request.fields.all(FieldId::AUTHORIZATION).filter_map(parameters)
}

fn compile_key(scheme: &Text, spec: &HmacKey, once: Option<Duration>, cx: &mut CompileCx<'_>) -> Option<Known> {
    let entry = spec.secret.read(cx)?;
    let secret = match shared_secret(&entry) {
        Ok(secret) => secret,
        Err((why, remedy)) => {
            cx.refuse(spec.at, format!("the key {}: {why}", &*spec.username)).remedy(remedy);
            return None;
        }
    };
    let stored = StoredMark::of(&[secret]);
    let owned = Owned::compile(spec.at, &spec.consumer, scheme, &spec.username, Some(stored), cx)?;
    let memory = || cx.keep(&remembered_as("signatures", &[secret]), Nonces::default);
    let seen = once.map(|skew| Taken::from(memory(), skew));
    Some(Known {
        sha256: hmac::Key::new(hmac::HMAC_SHA256, secret),
        sha384: hmac::Key::new(hmac::HMAC_SHA384, secret),
        sha512: hmac::Key::new(hmac::HMAC_SHA512, secret),
        owned,
        seen,
    })
}

impl Known {
    /// The signature is compared in constant time.
    fn is_good(&self, algorithm: HmacAlgorithm, base: &[u8], signature: &[u8]) -> bool {
        let key = match algorithm {
            HmacAlgorithm::Sha256 => &self.sha256,
            HmacAlgorithm::Sha384 => &self.sha384,
            HmacAlgorithm::Sha512 => &self.sha512,
        };
        hmac::verify(key, base, signature).is_ok()
    }
}

impl HmacScheme {
    /// What is shown, if it is good. The sentences hold nothing of it.
    fn verify(&self, parameters: &[u8], x: &Exchange<'_>) -> Result<Signed, String> {
        let shown = Shown::read(parameters)?;
        let known = self.keys.get(&*shown.key).ok_or("the key is not known")?;
        known.owned.principal().map_err(|why| format!("the key {why}"))?;
        let algorithm = self.algorithms.iter().find(|one| one.as_str() == shown.algorithm);
        let algorithm = algorithm.ok_or("it names an algorithm that is not taken here")?;
        let signature = shown.bytes().ok_or("the signature is not base64")?;
        if let Some(missing) = self.required.iter().find(|name| !shown.covers(name)) {
            return Err(format!("it does not cover {missing}"));
        }
        let base = shown.base(x.request)?;
        if !known.is_good(*algorithm, &base, &signature) {
            return Err("the signature is wrong".to_owned());
        }
        let end = self.end(&shown, x)?;
        // Before the content is read in vain.
        if known.seen.as_ref().is_some_and(|seen| seen.memory().knows(&shown.signature, x.now.unix)) {
            return Err(SEEN.to_owned());
        }
        let covers_content = shown.covers("digest") || shown.covers("content-digest");
        let coverage = if covers_content { Coverage::Signed } else { Coverage::Unsigned };
        Ok(Signed { shown, end, coverage })
    }

    /// Until when it is good, by the times that are signed: each must be near enough.
    fn end(&self, shown: &Shown, x: &Exchange<'_>) -> Result<Duration, String> {
        let mut end = None;
        for name in TIMES.into_iter().filter(|name| shown.covers(name)) {
            let field = FieldName::new(name).map_err(|why| why.to_string())?;
            let time = date::read(&lines(x.request, &field)).ok_or_else(|| format!("`{name}` is no HTTP date"))?;
            if time > x.now.unix + self.clock_skew {
                return Err("it was made in the future".to_owned());
            }
            let own = time + self.clock_skew;
            if own < x.now.unix {
                return Err("it has ended".to_owned());
            }
            end = Some(end.map_or(own, |other: Duration| other.min(own)));
        }
        end.ok_or_else(|| "it does not cover `date` or `x-date`".to_owned())
    }

    /// Who has signed. The signature is used up when he is let in, when nothing else can be wrong with the request.
    fn accept(&self, signed: &Signed) -> Proof {
        // A configuration that has come into force meanwhile may know the key no more.
        let Some(known) = self.keys.get(&*signed.shown.key) else { return Proof::invalid("the key is not known") };
        let principal = match known.owned.principal() {
            Ok(principal) => Arc::clone(principal),
            Err(why) => return Proof::invalid(format!("the key {why}")),
        };
        let used = |seen: &Taken| Use {
            memory: Arc::clone(seen.memory()),
            id: signed.shown.signature.as_str().into(),
            end: signed.end,
            life: Life::new(signed.end.saturating_sub(self.clock_skew), None),
            most: self.most,
            seen: SEEN,
            crowded: "too many signatures of this key are remembered",
        };
        let uses: Uses = known.seen.iter().map(|seen| Arc::new(used(seen))).collect();
        Proof::good(principal, uses)
    }
}

#[cfg(test)]
mod tests;
