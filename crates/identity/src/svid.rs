//! X.509-SVIDs: what a leaf certificate must be to name a workload, and a leaf with its chain and key.
//!
//! Called for our own certificates when they are issued or loaded, and by `verify` for a peer's. The rules here are about
//! the certificate alone; who signed it is left to `verify`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::fingerprint::Fingerprint;
use crate::key::{BadKey, PrivateKey};
use crate::spiffe::{BadId, SpiffeId};
use crate::{pem, subject};

/// The tag of `uniformResourceIdentifier` among general names (RFC 5280, section 4.2.1.6).
const URI_TAG: u32 = 6;

/// Why a certificate is no X.509-SVID for authentication. Displays as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSvid {
    /// Not a certificate, or with damaged or repeated extensions (RFC 5280).
    #[error("the certificate does not parse: {0}")]
    Malformed(String),
    /// No URI among the subject alternative names (X509-SVID, section 2).
    #[error("the certificate carries no URI, so it names no workload")]
    NoUri,
    /// More than one URI among the subject alternative names (X509-SVID, section 2).
    #[error("the certificate carries {0} URIs, and an SVID carries exactly one")]
    ManyUris(usize),
    /// The URI has a NUL or a byte beyond ASCII, which no IA5String has (RFC 5280, section 4.2.1.6).
    #[error("the URI of the certificate has a byte that no URI has")]
    NotIa5,
    /// The URI is no SPIFFE id (X509-SVID, section 5.2).
    #[error("the URI of the certificate is no SPIFFE id: {0}")]
    BadUri(#[from] BadId),
    /// The id has no path, as only a signing certificate's has (X509-SVID, section 3.1).
    #[error("`{0}` names a trust domain and not a workload")]
    RootPath(SpiffeId),
    /// A signing certificate (X509-SVID, section 4.1).
    #[error("the certificate is a CA certificate, which never serves to authenticate")]
    IsCa,
    /// No key usage (X509-SVID, section 4.3).
    #[error("the certificate has no key usage extension")]
    NoKeyUsage,
    /// The key usage is not critical (X509-SVID, section 4.3).
    #[error("the key usage of the certificate is not marked critical")]
    KeyUsageNotCritical,
    /// `digitalSignature` is missing (X509-SVID, section 4.3).
    #[error("the key usage of the certificate lacks digitalSignature")]
    NoDigitalSignature,
    /// `keyCertSign` or `cRLSign` is set (X509-SVID, section 4.3).
    #[error("the key usage of the certificate allows signing certificates or revocation lists")]
    MaySign,
    /// There is an extended key usage without serverAuth or without clientAuth (X509-SVID, section 4.4).
    #[error("the extended key usage of the certificate lacks serverAuth or clientAuth")]
    ExtendedKeyUsage,
    /// The subject is empty and the alternative names are not critical (X509-SVID, section 3.1).
    #[error("the certificate has no subject, and its subject alternative name is not marked critical")]
    NamesNotCritical,
}

impl NotSvid {
    /// A stable short name for logs and metrics.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "svid.malformed",
            Self::NoUri => "svid.no_uri",
            Self::ManyUris(_) => "svid.many_uris",
            Self::NotIa5 => "svid.not_ia5",
            Self::BadUri(_) => "svid.bad_uri",
            Self::RootPath(_) => "svid.root_path",
            Self::IsCa => "svid.is_ca",
            Self::NoKeyUsage => "svid.no_key_usage",
            Self::KeyUsageNotCritical => "svid.key_usage_not_critical",
            Self::NoDigitalSignature => "svid.no_digital_signature",
            Self::MaySign => "svid.may_sign",
            Self::ExtendedKeyUsage => "svid.extended_key_usage",
            Self::NamesNotCritical => "svid.names_not_critical",
        }
    }
}

/// What a leaf certificate says, read by the rules of X509-SVID. It is a claim until [`crate::verify`] has proven it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The one URI among the subject alternative names.
    pub id: SpiffeId,
    /// The first moment of validity.
    pub not_before: UnixTime,
    /// The last moment of validity.
    pub not_after: UnixTime,
    /// The SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// The subject (RFC 4514), usually empty; never an identity.
    pub subject: String,
    /// The DNS names among the subject alternative names, as written; never an identity.
    pub dns_names: Vec<String>,
}

impl Leaf {
    /// Reads a certificate that is to authenticate a workload.
    ///
    /// # Errors
    /// The first rule of X509-SVID that it breaks.
    pub fn parse(der: &[u8]) -> Result<Self, NotSvid> {
        let certificate = read(der)?;
        let (uri, dns_names) = read_names(&certificate)?;
        let id = uri.ok_or(NotSvid::NoUri)?;
        if certificate.basic_constraints().map_err(malformed)?.is_some_and(|extension| extension.value.ca) {
            return Err(NotSvid::IsCa);
        }
        check_usage(&certificate)?;
        if id.path().is_empty() {
            return Err(NotSvid::RootPath(id));
        }
        let (not_before, not_after) = read_validity(&certificate)?;
        Ok(Self {
            id,
            not_before,
            not_after,
            fingerprint: Fingerprint::of(der),
            subject: subject::write(certificate.subject()),
            dns_names,
        })
    }

    /// From the first to the last moment of validity.
    pub fn life(&self) -> Duration {
        Duration::from_secs(self.not_after.as_secs().saturating_sub(self.not_before.as_secs()))
    }
}

/// Reads a certificate and nothing behind it.
pub(crate) fn read(der: &[u8]) -> Result<X509Certificate<'_>, NotSvid> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(NotSvid::Malformed("there is something behind it".into())),
        Err(error) => Err(NotSvid::Malformed(error.to_string())),
    }
}

/// The SPIFFE id, if there is a URI, and the DNS names.
///
/// # Errors
/// When there are several URIs, or the one is no SPIFFE id, or the extension is not as RFC 5280 has it.
pub(crate) fn read_names(certificate: &X509Certificate<'_>) -> Result<(Option<SpiffeId>, Vec<String>), NotSvid> {
    let mut uris = Vec::new();
    let mut dns_names = Vec::new();
    let Some(extension) = certificate.subject_alternative_name().map_err(malformed)? else {
        return Ok((None, dns_names));
    };
    for name in &extension.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(Some(*uri)),
            // A URI that is not even UTF-8 is still a URI when they are counted.
            GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => uris.push(None),
            GeneralName::Invalid(..) => return Err(NotSvid::Malformed("a subject alternative name is damaged".into())),
            GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
            _ => {}
        }
    }
    let id = match uris.as_slice() {
        [] => None,
        [Some(uri)] if uri.is_ascii() && !uri.contains('\0') => Some(SpiffeId::parse(uri)?),
        [_] => return Err(NotSvid::NotIa5),
        many => return Err(NotSvid::ManyUris(many.len())),
    };
    if certificate.subject().iter_rdn().next().is_none() && !extension.critical {
        return Err(NotSvid::NamesNotCritical);
    }
    Ok((id, dns_names))
}

/// The key usage and extended key usage of a leaf (X509-SVID, sections 4.3 and 4.4).
fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), NotSvid> {
    let usage = certificate.key_usage().map_err(malformed)?.ok_or(NotSvid::NoKeyUsage)?;
    if !usage.critical {
        return Err(NotSvid::KeyUsageNotCritical);
    }
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(NotSvid::MaySign);
    }
    if !usage.value.digital_signature() {
        return Err(NotSvid::NoDigitalSignature);
    }
    match certificate.extended_key_usage().map_err(malformed)? {
        Some(extended) if !(extended.value.server_auth && extended.value.client_auth) => Err(NotSvid::ExtendedKeyUsage),
        _ => Ok(()),
    }
}

/// The validity in seconds since the Unix epoch; a moment before 1970 counts as 1970.
pub(crate) fn read_validity(certificate: &X509Certificate<'_>) -> Result<(UnixTime, UnixTime), NotSvid> {
    let validity = certificate.validity();
    let moment = |seconds: i64| moment(u64::try_from(seconds).unwrap_or(0));
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if not_after < not_before {
        return Err(NotSvid::Malformed("its validity ends before it begins".into()));
    }
    Ok((moment(not_before), moment(not_after)))
}

/// A moment in seconds since the Unix epoch.
pub(crate) fn moment(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn malformed(error: impl fmt::Display) -> NotSvid {
    NotSvid::Malformed(error.to_string())
}

/// Why a chain and a key are no SVID to show. Displays as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSvid {
    /// There is no certificate.
    #[error("there is no certificate in the chain")]
    Empty,
    /// The PEM text of the chain is damaged.
    #[error("the PEM text of the chain is damaged: {0}")]
    Pem(String),
    /// The first certificate is no X.509-SVID.
    #[error(transparent)]
    Leaf(#[from] NotSvid),
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] BadKey),
    /// The key is not the key of the first certificate.
    #[error("the private key does not belong to the first certificate of the chain")]
    KeyMismatch,
}

/// A leaf with the chain that leads to a root, and its key: what a workload shows in a handshake.
///
/// `Debug` shows the leaf and never the key.
#[derive(Clone)]
pub struct Svid {
    leaf: Leaf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    certified: Arc<CertifiedKey>,
}

impl Svid {
    /// Joins a chain (leaf first, root left out) and the key of its leaf.
    ///
    /// # Errors
    /// When the leaf breaks a rule of X509-SVID, or the key is not its key.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKey,
        provider: &CryptoProvider,
    ) -> Result<Self, BadSvid> {
        let leaf = Leaf::parse(chain.first().ok_or(BadSvid::Empty)?)?;
        let signing = provider
            .key_provider
            .load_private_key(key.der().clone_key())
            .map_err(|error| BadKey::Unusable(error.to_string()))?;
        let certified = CertifiedKey::new(chain.clone(), signing);
        certified.keys_match().map_err(|_| BadSvid::KeyMismatch)?;
        Ok(Self { leaf, chain, key, certified: Arc::new(certified) })
    }

    /// Reads a chain and a key from PEM.
    ///
    /// # Errors
    /// As [`Svid::new`], or when the PEM is damaged.
    pub fn from_pem(chain: &str, key: &str, provider: &CryptoProvider) -> Result<Self, BadSvid> {
        let chain = pem::read_certificates(chain).map_err(BadSvid::Pem)?;
        Self::new(chain, PrivateKey::from_pem(key)?, provider)
    }

    /// The leaf.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// Who this is.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        pem::write_certificates(&self.chain)
    }

    /// The key of the leaf.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Chain and key in the form that rustls signs with.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("leaf", &self.leaf)
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
