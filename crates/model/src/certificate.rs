//! Certificates and keys out of PEM text: server and client key pairs, and bundles of trusted certificates.
//!
//! Called by `references` when it resolves Secrets and ConfigMaps, so that a broken certificate becomes a status condition
//! and never reaches a listener. This is the only module of the crate that knows rustls. Building TLS configurations and
//! verifying peers is left to the proxy; system roots are loaded there too, since this crate does no IO.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore, SignatureAlgorithm};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A certificate chain with its private key: parsed, and known to belong together.
pub struct KeyPair {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the leaf: PKCS#1, PKCS#8 or SEC1.
    pub key: PrivateKeyDer<'static>,
    /// The end of the leaf's validity, in seconds since the Unix epoch.
    pub not_after: i64,
    /// The DNS names of the leaf, in lower case, wildcards included.
    pub dns_names: Vec<String>,
    /// The kind of key, for choosing among several certificates.
    pub algorithm: KeyAlgorithm,
    certified: Arc<CertifiedKey>,
}

/// The kind of key that signs handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// RSA.
    Rsa,
    /// ECDSA on one of the NIST curves.
    Ecdsa,
    /// Ed25519.
    Ed25519,
    /// Anything else that the TLS library can sign with.
    Other,
}

/// What is wrong with a certificate, key or bundle. Displays as a sentence with the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateProblem {
    /// The text holds no PEM block `CERTIFICATE`.
    NoCertificate,
    /// The text holds no private key in a form that is known.
    NoKey,
    /// The private key is encrypted with a passphrase.
    EncryptedKey,
    /// A PEM block is damaged.
    BadPem(String),
    /// The DER inside a certificate block is damaged; the number counts blocks from 1.
    BadCertificate(usize, String),
    /// The key is of no known type, or damaged.
    BadKey(String),
    /// The key is not the key of the first certificate.
    KeyMismatch,
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => {
                f.write_str("there is no PEM block \"BEGIN CERTIFICATE\"; put the certificate there, leaf first")
            }
            Self::NoKey => f.write_str(
                "there is no private key; put one there as PEM (PKCS#8 \"PRIVATE KEY\", \"RSA PRIVATE KEY\" or \"EC PRIVATE KEY\")",
            ),
            Self::EncryptedKey => f.write_str(
                "the private key is encrypted with a passphrase; store it decrypted (openssl pkey -in key.pem -out plain.pem)",
            ),
            Self::BadPem(why) => write!(f, "the PEM text is damaged ({why}); copy the file again as it is"),
            Self::BadCertificate(number, why) => {
                write!(f, "certificate {number} of the text does not parse ({why}); replace it")
            }
            Self::BadKey(why) => write!(
                f,
                "the private key cannot be used ({why}); use RSA of at least 2048 bits, ECDSA P-256, P-384 or P-521, or Ed25519"
            ),
            Self::KeyMismatch => f.write_str(
                "the private key does not belong to the first certificate; put the leaf first and use the key it was issued for",
            ),
        }
    }
}

impl std::error::Error for CertificateProblem {}

impl KeyPair {
    /// Reads a chain (leaf first) and its key from PEM, and checks that both parse, that the key can sign, and that it is the
    /// key of the leaf. Self-signed leaves and leaves with unusual names are as good as any other; validity in time is
    /// not judged here.
    ///
    /// # Errors
    /// The first [`CertificateProblem`] found.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateProblem> {
        let chain = read_certificates(chain)?;
        let key = read_key(key)?;
        let (not_after, dns_names) = read_leaf(&chain)?;
        let signing = aws_lc_rs::default_provider()
            .key_provider
            .load_private_key(key.clone_key())
            .map_err(|e| CertificateProblem::BadKey(e.to_string()))?;
        let algorithm = match signing.algorithm() {
            SignatureAlgorithm::RSA => KeyAlgorithm::Rsa,
            SignatureAlgorithm::ECDSA => KeyAlgorithm::Ecdsa,
            SignatureAlgorithm::ED25519 => KeyAlgorithm::Ed25519,
            _ => KeyAlgorithm::Other,
        };
        let certified = CertifiedKey::new(chain.clone(), signing);
        match certified.keys_match() {
            Ok(()) => {}
            Err(Error::InconsistentKeys(_)) => return Err(CertificateProblem::KeyMismatch),
            Err(e) => return Err(CertificateProblem::BadCertificate(1, e.to_string())),
        }
        Ok(Self { chain, key, not_after, dns_names, algorithm, certified: Arc::new(certified) })
    }

    /// The pair in the form that rustls signs with.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl PartialEq for KeyPair {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key == other.key
    }
}

impl Eq for KeyPair {}

// Written by hand so that the key can never reach a log.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("certificates", &self.chain.len())
            .field("dns_names", &self.dns_names)
            .field("algorithm", &self.algorithm)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Reads a bundle of certificates to be trusted. Each must parse; a self-signed leaf that is no CA is accepted, since it can
/// vouch for itself.
///
/// # Errors
/// The first [`CertificateProblem`] found; an empty text is [`CertificateProblem::NoCertificate`].
pub fn read_bundle(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateProblem> {
    let certificates = read_certificates(pem)?;
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|e| CertificateProblem::BadCertificate(index + 1, e.to_string()))?;
    }
    Ok(certificates)
}

fn read_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateProblem> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| CertificateProblem::BadPem(e.to_string()))?;
    if certificates.is_empty() {
        return Err(CertificateProblem::NoCertificate);
    }
    Ok(certificates)
}

fn read_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateProblem> {
    use rustls_pki_types::pem::Error as PemError;
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(PemError::NoItemsFound) => {
            let text = String::from_utf8_lossy(pem);
            if text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
                Err(CertificateProblem::EncryptedKey)
            } else {
                Err(CertificateProblem::NoKey)
            }
        }
        Err(e) => Err(CertificateProblem::BadPem(e.to_string())),
    }
}

fn read_leaf(chain: &[CertificateDer<'static>]) -> Result<(i64, Vec<String>), CertificateProblem> {
    let mut leaf = None;
    for (index, der) in chain.iter().enumerate() {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|e| CertificateProblem::BadCertificate(index + 1, e.to_string()))?;
        if index == 0 {
            leaf = Some(certificate);
        }
    }
    let Some(leaf) = leaf else {
        return Err(CertificateProblem::NoCertificate);
    };
    let mut names = Vec::new();
    if let Ok(Some(extension)) = leaf.subject_alternative_name() {
        for name in &extension.value.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push(name.to_ascii_lowercase());
            }
        }
    }
    Ok((leaf.validity().not_after.timestamp(), names))
}

/// From when on a certificate is no good any more, since the Unix epoch; none when it cannot be read. It is good to the end of the second that it
/// names (RFC 5280 section 4.1.2.5).
pub fn read_end(leaf: &[u8]) -> Option<Duration> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let last = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Some(Duration::from_secs(last.saturating_add(1)))
}

/// The names in a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The common names of the subject, in order.
    pub common: Vec<String>,
    /// The DNS names of `subjectAltName`, in lower case.
    pub dns: Vec<String>,
    /// The URIs of `subjectAltName`.
    pub uris: Vec<String>,
    /// The mail addresses of `subjectAltName`.
    pub emails: Vec<String>,
}

/// Reads the names of a certificate; none when it cannot be read, or holds a name that is not printable ASCII: such a one could look like another.
pub fn read_names(leaf: &[u8]) -> Option<Names> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let printable = |name: &str| {
        (!name.is_empty() && name.bytes().all(|byte| matches!(byte, b' '..=b'~'))).then(|| name.to_owned())
    };
    let mut names = Names::default();
    for name in certificate.subject().iter_common_name() {
        names.common.push(printable(name.as_str().ok()?)?);
    }
    if let Some(extension) = certificate.subject_alternative_name().ok()? {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.dns.push(printable(name)?.to_ascii_lowercase()),
                GeneralName::URI(uri) => names.uris.push(printable(uri)?),
                GeneralName::RFC822Name(mail) => names.emails.push(printable(mail)?),
                _ => {}
            }
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests;
