//! Bundles: the roots of one trust domain each, and the set of all that are known.
//!
//! Written by `control`, held by every proxy, read by `verify`. A root vouches for its own trust domain only; there is no
//! way to ask for the roots of all domains together. Fetching foreign bundles is left to the shells.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde_json::{Map, Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use crate::fingerprint::Fingerprint;
use crate::pem;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::svid::{self, NotSvid};

/// The most roots that one trust domain may have; more is a mistake, or an attack on memory.
pub const MAX_ROOTS: usize = 64;
/// The longest bundle document that is read, in bytes.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// The value of `use` that marks a root for X.509-SVIDs (X509-SVID, section 6.1).
const USE: &str = "x509-svid";
/// The value of `use` that marks a retiring root. Whoever does not know it passes the entry over (Trust Domain and Bundle, section
/// 4.2.1), and believes nobody by it.
const RETIRING: &str = "transept-retiring";
/// Until when a retiring root counts, in seconds since the Unix epoch.
const UNTIL: &str = "transept_until";

/// Why roots or a document make no bundle. Displays as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBundle {
    /// The document is no JSON object with an array `keys` (Trust Domain and Bundle, section 4.1).
    #[error("the bundle is no JWK set: {0}")]
    Document(String),
    /// The document or the number of roots is beyond the limit.
    #[error("the bundle is too large: at most {MAX_ROOTS} roots and {MAX_DOCUMENT} bytes")]
    TooLarge,
    /// The PEM text is damaged.
    #[error("the PEM text of the bundle is damaged: {0}")]
    Pem(String),
    /// A root does not parse; the number counts from 1.
    #[error("root {0} cannot be used: {1}")]
    Root(usize, String),
    /// A root is no signing certificate (X509-SVID, section 3.2).
    #[error("root {0} is no CA certificate that may sign certificates")]
    NotCa(usize),
    /// A root carries the SPIFFE id of another trust domain, or one with a path (X509-SVID, section 3.2).
    #[error("root {number} is for `{found}` and not for the trust domain `{expected}`")]
    Foreign {
        /// Which root, from 1.
        number: usize,
        /// The id that it carries.
        found: SpiffeId,
        /// The trust domain of the bundle.
        expected: TrustDomain,
    },
}

/// One root.
#[derive(Clone, PartialEq, Eq)]
pub struct Root {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// Its SHA-256.
    pub fingerprint: Fingerprint,
    /// The first moment of validity.
    pub not_before: UnixTime,
    /// The last moment of validity.
    pub not_after: UnixTime,
    anchor: TrustAnchor<'static>,
}

impl Root {
    fn read(number: usize, der: CertificateDer<'static>, trust_domain: &TrustDomain) -> Result<Self, BadBundle> {
        let broken = |error: NotSvid| BadBundle::Root(number, error.to_string());
        let certificate = svid::read(&der).map_err(broken)?;
        if !may_sign(&certificate) {
            return Err(BadBundle::NotCa(number));
        }
        if let Some(found) = svid::read_names(&certificate).map_err(broken)?.0
            && found != trust_domain.id()
        {
            return Err(BadBundle::Foreign { number, found, expected: trust_domain.clone() });
        }
        let (not_before, not_after) = svid::read_validity(&certificate).map_err(broken)?;
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|error| BadBundle::Root(number, error.to_string()))?
            .to_owned();
        let fingerprint = Fingerprint::of(&der);
        Ok(Self { fingerprint, not_before, not_after, anchor, der })
    }

    /// The root as a trust anchor.
    pub(crate) fn anchor(&self) -> TrustAnchor<'static> {
        self.anchor.clone()
    }

    /// Whether the root is valid at this moment.
    pub fn is_valid(&self, now: UnixTime) -> bool {
        (self.not_before.as_secs()..=self.not_after.as_secs()).contains(&now.as_secs())
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({})", self.fingerprint.short())
    }
}

/// Whether a certificate may sign others: `cA` is true, and `keyCertSign` is set (X509-SVID, sections 4.1 and 4.3). An old
/// root without key usage is taken as it is.
pub(crate) fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    certificate.is_ca()
        && certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()))
}

/// A root that was replaced in order. It vouches for nobody who comes now, only for connections that were made under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retiring {
    /// The root.
    pub root: Root,
    /// The last moment at which it counts, in whole seconds.
    pub until: UnixTime,
}

/// The roots of one trust domain (Trust Domain and Bundle, section 3). An empty bundle is allowed and proves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
    retiring: Vec<Retiring>,
    /// `spiffe_sequence` (Trust Domain and Bundle, section 4.1.1).
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint` (Trust Domain and Bundle, section 4.1.2).
    pub refresh_hint: Option<Duration>,
}

impl Bundle {
    /// Makes a bundle; a root that is given twice counts once.
    ///
    /// # Errors
    /// When a root cannot be one, is for another trust domain, or there are more than [`MAX_ROOTS`].
    pub fn new(
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, BadBundle> {
        let mut bundle =
            Self { trust_domain, roots: Vec::new(), retiring: Vec::new(), sequence: None, refresh_hint: None };
        for (index, der) in roots.into_iter().enumerate() {
            let root = Root::read(index + 1, der, &bundle.trust_domain)?;
            if bundle.root(&root.fingerprint).is_some() {
                continue;
            }
            if bundle.roots.len() == MAX_ROOTS {
                return Err(BadBundle::TooLarge);
            }
            bundle.roots.push(root);
        }
        Ok(bundle)
    }

    /// Adds a root that counts until `until` for what is open, and for nothing else. One that is trusted stays just that.
    ///
    /// # Errors
    /// When it cannot be a root of this trust domain, or there are more than [`MAX_ROOTS`].
    pub fn retire(&mut self, der: CertificateDer<'static>, until: UnixTime) -> Result<(), BadBundle> {
        let number = self.roots.len() + self.retiring.len() + 1;
        let root = Root::read(number, der, &self.trust_domain)?;
        let known = self.retiring.iter().any(|one| one.root.fingerprint == root.fingerprint);
        if known || self.root(&root.fingerprint).is_some() {
            return Ok(());
        }
        if self.retiring.len() == MAX_ROOTS {
            return Err(BadBundle::TooLarge);
        }
        self.retiring.push(Retiring { root, until });
        Ok(())
    }

    /// Reads a bundle from PEM.
    ///
    /// # Errors
    /// As [`Bundle::new`], or when the PEM is damaged.
    pub fn from_pem(trust_domain: TrustDomain, text: &str) -> Result<Self, BadBundle> {
        Self::new(trust_domain, pem::read_certificates(text).map_err(BadBundle::Pem)?)
    }

    /// The trusted roots as PEM.
    pub fn to_pem(&self) -> String {
        pem::write_certificates(self.roots.iter().map(|root| &root.der))
    }

    /// Reads a SPIFFE bundle document (Trust Domain and Bundle, section 4; X509-SVID, section 6.2). The document does not
    /// say for which trust domain it is: that is known from where it came.
    ///
    /// Entries of another use or of an unknown key type, and entries without `x5c`, are passed over, as the
    /// specification demands; of several certificates in `x5c` the first counts.
    ///
    /// # Errors
    /// When the document is no JWK set, or one of its roots cannot be a root of this trust domain.
    pub fn from_jwks(trust_domain: TrustDomain, text: &str) -> Result<Self, BadBundle> {
        if text.len() > MAX_DOCUMENT {
            return Err(BadBundle::TooLarge);
        }
        let document: Value = serde_json::from_str(text).map_err(|error| BadBundle::Document(error.to_string()))?;
        let keys = document
            .get("keys")
            .and_then(Value::as_array)
            .ok_or_else(|| BadBundle::Document("there is no array `keys`".into()))?;
        let (mut roots, mut retiring) = (Vec::new(), Vec::new());
        for key in keys.iter().filter(|key| ["EC", "RSA", "OKP"].iter().any(|kind| key["kty"] == *kind)) {
            let goes = key["use"] == RETIRING;
            let Some(encoded) = key["x5c"].get(0).and_then(Value::as_str).filter(|_| goes || key["use"] == USE) else {
                continue;
            };
            let number = roots.len() + retiring.len() + 1;
            let der = BASE64
                .decode(encoded.as_bytes())
                .map_err(|error| BadBundle::Root(number, format!("`x5c` is no base64: {error}")))?;
            let der = CertificateDer::from(der);
            match goes {
                true => retiring.push((der, read_number(key, UNTIL)?)),
                false => roots.push(der),
            }
        }
        let mut bundle = Self::new(trust_domain, roots)?;
        for (der, until) in retiring {
            // Without an end it would never go.
            let until = until.ok_or_else(|| BadBundle::Document(format!("a retiring root has no `{UNTIL}`")))?;
            bundle.retire(der, svid::moment(until))?;
        }
        bundle.sequence = read_number(&document, "spiffe_sequence")?;
        bundle.refresh_hint = read_number(&document, "spiffe_refresh_hint")?.map(Duration::from_secs);
        Ok(bundle)
    }

    /// The bundle as a SPIFFE bundle document (Trust Domain and Bundle, section 4; X509-SVID, section 6.1).
    pub fn to_jwks(&self) -> String {
        let mut document = Map::new();
        let trusted = self.roots.iter().filter_map(|root| write_jwk(&root.der));
        let retiring = self.retiring.iter().filter_map(|retiring| {
            let mut jwk = write_jwk(&retiring.root.der)?;
            jwk["use"] = RETIRING.into();
            jwk[UNTIL] = retiring.until.as_secs().into();
            Some(jwk)
        });
        document.insert("keys".into(), trusted.chain(retiring).collect());
        if let Some(sequence) = self.sequence {
            document.insert("spiffe_sequence".into(), sequence.into());
        }
        if let Some(hint) = self.refresh_hint {
            document.insert("spiffe_refresh_hint".into(), hint.as_secs().into());
        }
        Value::Object(document).to_string()
    }

    /// Whose roots these are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots that are retiring, the ones whose time is over among them.
    pub fn retiring(&self) -> &[Retiring] {
        &self.retiring
    }

    /// The trusted roots, in the order given.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The trusted root with this fingerprint.
    pub fn root(&self, fingerprint: &Fingerprint) -> Option<&Root> {
        self.roots.iter().find(|root| root.fingerprint == *fingerprint)
    }

    /// The roots that are valid at this moment, as trust anchors. An expired root proves nothing, although path
    /// validation (RFC 5280, section 6.1) would not look.
    pub(crate) fn anchors(&self, now: UnixTime) -> Vec<TrustAnchor<'static>> {
        self.roots.iter().filter(|root| root.is_valid(now)).map(Root::anchor).collect()
    }
}

fn read_number(document: &Value, name: &str) -> Result<Option<u64>, BadBundle> {
    match document.get(name) {
        None => Ok(None),
        Some(value) => value
            .as_u64()
            .map(Some)
            .ok_or_else(|| BadBundle::Document(format!("`{name}` is no integer of at most 64 bits"))),
    }
}

/// A root as a JWK (RFC 7517, RFC 7518 section 6, RFC 8037). A key of a kind that JWK does not know is left out: readers
/// would have to ignore it.
fn write_jwk(der: &[u8]) -> Option<Value> {
    let certificate = svid::read(der).ok()?;
    let key = certificate.public_key();
    let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let mut jwk = match key.parsed().ok()? {
        PublicKey::RSA(rsa) => {
            json!({"kty": "RSA", "n": encode(trim(rsa.modulus)), "e": encode(trim(rsa.exponent))})
        }
        PublicKey::EC(point) => {
            let (crv, size) = match key.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string().as_str() {
                "1.2.840.10045.3.1.7" => ("P-256", 32),
                "1.3.132.0.34" => ("P-384", 48),
                "1.3.132.0.35" => ("P-521", 66),
                _ => return None,
            };
            let coordinates = point.data().strip_prefix(&[4])?;
            let (x, y) = coordinates.split_at_checked(size)?;
            json!({"kty": "EC", "crv": crv, "x": encode(x), "y": encode(y)})
        }
        _ if key.algorithm.algorithm.to_id_string() == "1.3.101.112" => {
            json!({"kty": "OKP", "crv": "Ed25519", "x": encode(&key.subject_public_key.data)})
        }
        _ => return None,
    };
    jwk["use"] = USE.into();
    jwk["x5c"] = json!([BASE64.encode(der)]);
    Some(jwk)
}

/// An unsigned integer without leading zeros (RFC 7518, section 2).
fn trim(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len())..]
}

/// The bundles of all trust domains that are known, our own and federated ones. Empty means that nobody is trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundles(BTreeMap<TrustDomain, Arc<Bundle>>);

impl Bundles {
    /// The bundle of one trust domain, by name.
    pub fn of(&self, trust_domain: &str) -> Option<&Arc<Bundle>> {
        self.0.get(trust_domain)
    }

    /// Puts a bundle in the place of the one that its trust domain had.
    pub fn insert(&mut self, bundle: Bundle) {
        self.0.insert(bundle.trust_domain.clone(), Arc::new(bundle));
    }

    /// Forgets a trust domain: nobody of it is trusted any more.
    pub fn remove(&mut self, trust_domain: &str) {
        self.0.remove(trust_domain);
    }

    /// The roots of all trust domains that are retiring at this moment.
    pub fn retiring(&self, now: UnixTime) -> impl Iterator<Item = &Retiring> {
        self.iter().flat_map(|bundle| bundle.retiring()).filter(move |one| now.as_secs() <= one.until.as_secs())
    }

    /// Whether a root counts at this moment, for everybody or for what is open.
    pub fn holds(&self, root: &Fingerprint, now: UnixTime) -> bool {
        let is_trusted = self.iter().any(|bundle| bundle.root(root).is_some_and(|root| root.is_valid(now)));
        is_trusted || self.retiring(now).any(|one| one.root.fingerprint == *root)
    }

    /// All bundles, ordered by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.0.values()
    }
}

impl FromIterator<Bundle> for Bundles {
    fn from_iter<I: IntoIterator<Item = Bundle>>(bundles: I) -> Self {
        let mut all = Self::default();
        bundles.into_iter().for_each(|bundle| all.insert(bundle));
        all
    }
}

/// The bundles in force, shared by everyone who verifies: a new set applies to the next handshake. Cloning it copies a
/// pointer to the same place.
#[derive(Debug, Clone, Default)]
pub struct LiveBundles(Arc<ArcSwap<Bundles>>);

impl LiveBundles {
    /// Begins with these.
    pub fn new(bundles: Bundles) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(bundles)))
    }

    /// The set in force.
    pub fn load(&self) -> Arc<Bundles> {
        self.0.load_full()
    }

    /// Puts a new set in force.
    pub fn store(&self, bundles: Bundles) {
        self.0.store(Arc::new(bundles));
    }
}

#[cfg(test)]
mod tests;
