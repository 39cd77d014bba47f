//! The certificate authority: a root or an intermediate that signs the leaves of one trust domain.
//!
//! Called by `control`, which keeps the key in a file that only it reads. An authority signs what a [`Request`] has proven
//! and nothing else. Which authority signs while roots change is left to `rotation`, and who may ask to tokens and
//! identities.

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, UnixTime};
use zeroize::Zeroizing;

use crate::bundle::may_sign;
use crate::fingerprint::Fingerprint;
use crate::key::{BadKey, PrivateKey};
use crate::pem;
use crate::request::{self, Request};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::svid::{self, Leaf, NotSvid};

/// How long a new root lives.
pub const ROOT_LIFE: Duration = Duration::from_secs(3650 * DAY);
/// How long a new intermediate lives, unless its issuer ends earlier.
pub const INTERMEDIATE_LIFE: Duration = Duration::from_secs(365 * DAY);
/// How long a leaf lives unless told otherwise.
pub const LEAF_LIFE: Duration = Duration::from_secs(DAY);
/// The longest that a leaf may live.
pub const MAX_LEAF_LIFE: Duration = Duration::from_secs(90 * DAY);
/// How far a certificate is dated back, for clocks that are behind; a leaf that lives shortly at most by a tenth of its life, so that half of
/// its life is not over when it is issued.
pub const BACKDATING: Duration = Duration::from_secs(60);

const DAY: u64 = 24 * 60 * 60;
/// The label of a sign that one authority has left for another.
const VOUCHER: &str = "TRANSEPT VOUCHER";
/// A moment in the year 9999; X.509 cannot write a later one (RFC 5280, section 4.1.2.5).
const END_OF_TIME: u64 = 253_370_764_800;

/// Why there is no authority. Displays as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// The PEM text is damaged, or there is no certificate.
    #[error("the PEM text of the authority's certificate is damaged or empty: {0}")]
    Pem(String),
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] BadKey),
    /// A certificate does not parse, or its names are not right.
    #[error("the authority's certificate cannot be used: {0}")]
    Certificate(#[from] NotSvid),
    /// A certificate of the chain is no signing certificate (X509-SVID, section 3.2).
    #[error("certificate {0} of the authority's chain is no CA certificate that may sign certificates")]
    NotCa(usize),
    /// The certificate is for another trust domain (X509-SVID, section 3.2).
    #[error("the authority's certificate is for `{found}` and not for the trust domain `{expected}`")]
    Foreign {
        /// The id that it carries.
        found: SpiffeId,
        /// The trust domain that was asked for.
        expected: TrustDomain,
    },
    /// The key is not the key of the first certificate.
    #[error("the private key does not belong to the authority's certificate")]
    KeyMismatch,
    /// The certificates do not follow each other.
    #[error("certificate {0} of the authority's chain was not issued by the next one")]
    BrokenChain(usize),
    /// The crypto library refused to sign.
    #[error("the certificate could not be signed: {0}")]
    NotSigned(String),
}

/// Why a leaf is not issued. Displays as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotIssued {
    /// The request is for another trust domain.
    #[error("`{id}` is not of the trust domain `{trust_domain}`")]
    Foreign {
        /// What the request is for.
        id: SpiffeId,
        /// Whose authority this is.
        trust_domain: TrustDomain,
    },
    /// The authority's own certificate, or one above it, has ended.
    #[error(
        "the authority's certificate has expired, so it issues nothing, and nobody trusts what it has issued; start with another --state \
         directory, which makes a new authority, and give every member a new token"
    )]
    Expired,
    /// The authority's own certificate is not valid yet.
    #[error("the authority's certificate is not valid yet; is the clock right?")]
    NotYetValid,
    /// The life that is asked for is nothing, or longer than [`MAX_LEAF_LIFE`].
    #[error("a leaf lives between 1 s and {} days, not {} s", MAX_LEAF_LIFE.as_secs() / DAY, .0.as_secs())]
    Life(Duration),
    /// The crypto library refused to sign.
    #[error("the certificate could not be signed: {0}")]
    NotSigned(String),
}

/// An issued leaf with the chain to show.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first, then intermediates; the root is left out.
    pub chain: Vec<CertificateDer<'static>>,
    /// What the leaf says.
    pub leaf: Leaf,
    /// The root that vouches for it, when the authority knows it.
    pub root: Option<Fingerprint>,
}

/// A signing certificate with its key. `Debug` never shows the key.
pub struct Authority {
    trust_domain: TrustDomain,
    /// The signing certificate, then those above it up to a root, if the root is known.
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    issuer: Issuer<'static, KeyPair>,
    not_before: UnixTime,
    /// The earliest end in the chain.
    not_after: UnixTime,
    root: Option<Fingerprint>,
}

impl Authority {
    /// Makes a self-signed root that lives for [`ROOT_LIFE`]. `serial` is 16 random bytes.
    ///
    /// # Errors
    /// When the crypto library makes no key, or does not sign.
    pub fn create_root(trust_domain: &TrustDomain, now: UnixTime, serial: [u8; 16]) -> Result<Self, BadAuthority> {
        let key = PrivateKey::generate()?;
        let end = now.as_secs().saturating_add(ROOT_LIFE.as_secs());
        let params = signing_params(trust_domain, "root", now, end, serial)?;
        let certificate = params.self_signed(&key.signer()?).map_err(not_signed)?;
        Self::new(trust_domain, vec![certificate.into()], key)
    }

    /// Makes an intermediate that this authority vouches for, with a key of its own. It lives for [`INTERMEDIATE_LIFE`],
    /// or until this authority ends. `serial` is 16 random bytes.
    ///
    /// # Errors
    /// As for a root.
    pub fn create_intermediate(&self, now: UnixTime, serial: [u8; 16]) -> Result<Self, BadAuthority> {
        let key = PrivateKey::generate()?;
        let end = now.as_secs().saturating_add(INTERMEDIATE_LIFE.as_secs()).min(self.not_after.as_secs());
        let mut params = signing_params(&self.trust_domain, "intermediate", now, end, serial)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key.signer()?, &self.issuer).map_err(not_signed)?;
        let mut chain = vec![CertificateDer::from(certificate)];
        chain.extend_from_slice(&self.chain);
        Self::new(&self.trust_domain, chain, key)
    }

    /// Reads an authority from PEM: its certificate, then those above it, if any, each issued by the next.
    ///
    /// # Errors
    /// When they do not fit each other, the key, or the trust domain. Validity in time is judged when it issues.
    pub fn from_pem(trust_domain: &TrustDomain, chain: &str, key: &str) -> Result<Self, BadAuthority> {
        let chain = pem::read_certificates(chain).map_err(BadAuthority::Pem)?;
        Self::new(trust_domain, chain, PrivateKey::from_pem(key)?)
    }

    fn new(
        trust_domain: &TrustDomain,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKey,
    ) -> Result<Self, BadAuthority> {
        let first = chain.first().ok_or_else(|| BadAuthority::Pem("there is no certificate".into()))?;
        let validity = check_chain(trust_domain, &chain)?;
        check_key(first, &key)?;
        let issuer = Issuer::from_ca_cert_der(first, key.signer()?).map_err(not_signed)?;
        let root = chain.last().filter(|last| is_self_signed(last)).map(|root| Fingerprint::of(root));
        let trust_domain = trust_domain.clone();
        Ok(Self { trust_domain, key, issuer, not_before: validity.0, not_after: validity.1, root, chain })
    }

    /// Issues a leaf for a request. It lives for `life` and never longer than the authority itself. `serial` is 16 random
    /// bytes.
    ///
    /// # Errors
    /// When the authority may not, or cannot, issue it.
    pub fn issue(
        &self,
        request: &Request,
        life: Duration,
        now: UnixTime,
        serial: [u8; 16],
    ) -> Result<Issued, NotIssued> {
        let id = request.id();
        if id.trust_domain_name() != self.trust_domain.as_str() {
            return Err(NotIssued::Foreign { id: id.clone(), trust_domain: self.trust_domain.clone() });
        }
        if life < Duration::from_secs(1) || life > MAX_LEAF_LIFE {
            return Err(NotIssued::Life(life));
        }
        if now.as_secs() >= self.not_after.as_secs() {
            return Err(NotIssued::Expired);
        }
        if now.as_secs() < self.not_before.as_secs() {
            return Err(NotIssued::NotYetValid);
        }
        let failed = |error: rcgen::Error| NotIssued::NotSigned(error.to_string());
        let mut params = CertificateParams::default();
        // Without a subject the alternative name is critical, and nobody takes a common name for an identity.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![request::uri(id).map_err(failed)?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let begin = now.as_secs().saturating_sub(BACKDATING.min(life / 10).as_secs()).max(self.not_before.as_secs());
        let end = now.as_secs().saturating_add(life.as_secs()).min(self.not_after.as_secs());
        set_validity(&mut params, begin, end);
        let leaf = CertificateDer::from(params.signed_by(request.key(), &self.issuer).map_err(failed)?);
        let read = Leaf::parse(&leaf).map_err(|error| NotIssued::NotSigned(error.to_string()))?;
        let above = self.chain.len() - usize::from(self.root.is_some());
        let chain = std::iter::once(leaf).chain(self.chain[..above].iter().cloned()).collect();
        Ok(Issued { chain, leaf: read, root: self.root })
    }

    /// A sign that this authority has seen a root come after it: PEM text for beside the root's certificate. It proves nothing to anybody
    /// but [`Authority::has_vouched_for`]: what it is made of may sign nothing and names no identity. `serial` is 16 random bytes.
    ///
    /// # Errors
    /// When the crypto library refuses to sign.
    pub fn vouch_for(&self, root: &Authority, now: UnixTime, serial: [u8; 16]) -> Result<String, BadAuthority> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        set_validity(&mut params, now.as_secs(), now.as_secs());
        let voucher = params.signed_by(&root.key.signer()?, &self.issuer).map_err(not_signed)?;
        Ok(pem::write(VOUCHER, voucher.der()))
    }

    /// Whether a text holds the sign that [`Authority::vouch_for`] has made for this root.
    pub fn has_vouched_for(&self, root: &Authority, text: &str) -> bool {
        let (Some(own), Some(new)) = (self.chain.first(), root.root()) else { return false };
        let Some(voucher) = pem::read_other(VOUCHER, text) else { return false };
        let (Ok(own), Ok(new), Ok(voucher)) = (svid::read(own), svid::read(new), svid::read(&voucher)) else {
            return false;
        };
        voucher.public_key().raw == new.public_key().raw && voucher.verify_signature(Some(own.public_key())).is_ok()
    }

    /// Whose authority this is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The signing certificate, then those above it.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        pem::write_certificates(&self.chain)
    }

    /// The key as PEM, for a file that only its owner reads.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// The root at the end of the chain; nothing for an intermediate whose root is kept elsewhere.
    pub fn root(&self) -> Option<&CertificateDer<'static>> {
        self.root.and_then(|_| self.chain.last())
    }

    /// The first moment at which every certificate of the chain is valid.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// The earliest end in the chain: nothing is issued beyond it.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .field("certificates", &self.chain.len())
            .field("root", &self.root)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What roots and intermediates have in common (X509-SVID, sections 3.2, 4.1 and 4.3).
fn signing_params(
    trust_domain: &TrustDomain,
    role: &str,
    now: UnixTime,
    end: u64,
    serial: [u8; 16],
) -> Result<CertificateParams, BadAuthority> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Transept");
    // A name of its own for every root: people and chain building tell them apart while roots change.
    let number = data_encoding::HEXLOWER.encode(&serial[..4]);
    params.distinguished_name.push(DnType::CommonName, common_name(trust_domain, role, &number));
    params.subject_alt_names = vec![request::uri(&trust_domain.id()).map_err(not_signed)?];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    set_validity(&mut params, now.as_secs().saturating_sub(BACKDATING.as_secs()), end);
    Ok(params)
}

/// A common name has at most 64 characters (RFC 5280, appendix A.1, ub-common-name).
fn common_name(trust_domain: &TrustDomain, role: &str, number: &str) -> String {
    let tail = format!(" {role} {number}");
    let room = 64 - tail.len();
    let name = trust_domain.as_str();
    format!("{}{tail}", &name[..name.len().min(room)])
}

fn set_validity(params: &mut CertificateParams, begin: u64, end: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(begin.min(END_OF_TIME));
    params.not_after = epoch + Duration::from_secs(end.min(END_OF_TIME));
}

/// Every certificate may sign, is of the trust domain and follows from the next; the answer is when all are valid.
fn check_chain(
    trust_domain: &TrustDomain,
    chain: &[CertificateDer<'static>],
) -> Result<(UnixTime, UnixTime), BadAuthority> {
    let (mut begin, mut end) = (0, u64::MAX);
    for (index, der) in chain.iter().enumerate() {
        let certificate = svid::read(der)?;
        if !may_sign(&certificate) {
            return Err(BadAuthority::NotCa(index + 1));
        }
        if let Some(found) = svid::read_names(&certificate)?.0
            && found != trust_domain.id()
        {
            return Err(BadAuthority::Foreign { found, expected: trust_domain.clone() });
        }
        if let Some(next) = chain.get(index + 1) {
            let next = svid::read(next)?;
            let follows =
                certificate.issuer() == next.subject() && certificate.verify_signature(Some(next.public_key())).is_ok();
            if !follows {
                return Err(BadAuthority::BrokenChain(index + 1));
            }
        }
        let (not_before, not_after) = svid::read_validity(&certificate)?;
        begin = begin.max(not_before.as_secs());
        end = end.min(not_after.as_secs());
    }
    Ok((svid::moment(begin), svid::moment(end)))
}

fn check_key(certificate: &CertificateDer<'static>, key: &PrivateKey) -> Result<(), BadAuthority> {
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(key.der())
        .map_err(|error| BadKey::Unusable(error.to_string()))?;
    let pair = CertifiedKey::new(vec![certificate.clone()], signing);
    pair.keys_match().map_err(|_| BadAuthority::KeyMismatch)
}

fn is_self_signed(der: &CertificateDer<'_>) -> bool {
    svid::read(der).is_ok_and(|certificate| {
        certificate.issuer() == certificate.subject() && certificate.verify_signature(None).is_ok()
    })
}

fn not_signed(error: rcgen::Error) -> BadAuthority {
    BadAuthority::NotSigned(error.to_string())
}

#[cfg(test)]
mod tests;
