//! Certificates made in memory, in the form that the conformance suite makes them.
//!
//! Called by road tests and by the conformance runner. All authorities share one subject and one serial, all leaves share one
//! subject: only the keys tell them apart, so a test that passes by matching names does not pass here. Nothing is written to disk.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The kind of key, and with it the form of its PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with 2048 bits, PEM block `RSA PRIVATE KEY` (PKCS#1).
    Rsa,
    /// ECDSA on P-256, PEM block `PRIVATE KEY` (PKCS#8).
    Ecdsa,
}

/// What a leaf may be used for (RFC 5280, section 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// TLS server authentication.
    Server,
    /// TLS client authentication.
    Client,
}

/// A leaf certificate with its key.
#[derive(Debug)]
pub struct Identity {
    /// PEM of the certificate.
    pub certificate_pem: String,
    /// PEM of the private key.
    pub key_pem: String,
}

impl Identity {
    /// The certificate as DER.
    ///
    /// # Errors
    /// The PEM does not hold a certificate.
    pub fn certificate(&self) -> io::Result<CertificateDer<'static>> {
        certificate_from_pem(&self.certificate_pem)
    }

    /// The key as DER, PKCS#1 or PKCS#8.
    ///
    /// # Errors
    /// The PEM does not hold a key.
    pub fn key(&self) -> io::Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(io::Error::other)
    }

    /// A leaf that signed itself and is not an authority.
    ///
    /// # Errors
    /// A name has characters that no certificate can hold, or the key cannot be made.
    pub fn self_signed(kind: KeyKind, usage: Usage, names: &[&str]) -> io::Result<Identity> {
        let key = new_key(kind)?;
        let certificate = leaf(usage, names)?.self_signed(&key).map_err(io::Error::other)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key_pem(kind, &key)? })
    }
}

/// A certificate authority that signs leaves.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    kind: KeyKind,
}

impl Authority {
    /// A new root.
    ///
    /// # Errors
    /// The key cannot be made.
    pub fn new(kind: KeyKind) -> io::Result<Authority> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&[
            (DnType::CountryName, "US"),
            (DnType::OrganizationName, "Kubernetes Gateway API"),
            (DnType::CommonName, "gatewayapi"),
        ]);
        params.serial_number = Some(SerialNumber::from(2024_u64));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        limit_validity(&mut params)?;
        let issuer = CertifiedIssuer::self_signed(params, new_key(kind)?).map_err(io::Error::other)?;
        Ok(Authority { issuer, kind })
    }

    /// PEM of the certificate of the root.
    pub fn certificate_pem(&self) -> String {
        self.issuer.pem()
    }

    /// The certificate of the root as DER.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A leaf signed by this root, with a key of the same kind.
    ///
    /// # Errors
    /// A name has characters that no certificate can hold, or the key cannot be made.
    pub fn issue(&self, usage: Usage, names: &[&str]) -> io::Result<Identity> {
        let key = new_key(self.kind)?;
        let certificate = leaf(usage, names)?.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key_pem(self.kind, &key)? })
    }

    /// The same, good for so long from now on, to the second.
    ///
    /// # Errors
    /// As of [`Authority::issue`].
    pub fn issue_for(&self, usage: Usage, names: &[&str], life: Duration) -> io::Result<Identity> {
        let key = new_key(self.kind)?;
        let mut params = leaf(usage, names)?;
        params.not_after = params.not_before + SKEW + life;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key_pem(self.kind, &key)? })
    }
}

/// The first certificate in a PEM text.
///
/// # Errors
/// There is none.
pub fn certificate_from_pem(pem: &str) -> io::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(io::Error::other)
}

/// A PEM block with lines of 64 characters (RFC 7468).
pub fn pem_block(label: &str, der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn leaf(usage: Usage, names: &[&str]) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&[(DnType::OrganizationName, "Acme Co"), (DnType::CommonName, "default")]);
    params.subject_alt_names = names.iter().map(|name| subject_alt_name(name)).collect::<io::Result<_>>()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![match usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    limit_validity(&mut params)?;
    Ok(params)
}

/// An IP address becomes an IP name, a valid DNS name (also below `*.`) a DNS name, anything else a URI name.
fn subject_alt_name(name: &str) -> io::Result<SanType> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let is_label = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        plain && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.strip_prefix("*.").unwrap_or(name).split('.').all(is_label) {
        return name.try_into().map(SanType::DnsName).map_err(io::Error::other);
    }
    name.try_into().map(SanType::URI).map_err(io::Error::other)
}

fn subject(parts: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (kind, value) in parts {
        name.push(kind.clone(), *value);
    }
    name
}

/// How long certificates are good already when they are made.
const SKEW: Duration = Duration::from_secs(60);

fn limit_validity(params: &mut CertificateParams) -> io::Result<()> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    // The validity is in whole seconds, and a peer's clock may be read a moment earlier than ours.
    let now =
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_epoch.as_secs().saturating_sub(SKEW.as_secs()));
    params.not_before = now;
    params.not_after = now + YEAR;
    Ok(())
}

fn new_key(kind: KeyKind) -> io::Result<KeyPair> {
    match kind {
        KeyKind::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        KeyKind::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
    }
    .map_err(io::Error::other)
}

fn key_pem(kind: KeyKind, key: &KeyPair) -> io::Result<String> {
    match kind {
        KeyKind::Ecdsa => Ok(key.serialize_pem()),
        KeyKind::Rsa => pkcs1_of(&key.serialize_der())
            .map(|der| pem_block("RSA PRIVATE KEY", der))
            .ok_or_else(|| io::Error::other("the generated key is not PKCS#8")),
    }
}

/// PKCS#8 is `SEQUENCE { version, algorithm, OCTET STRING { PKCS#1 } }` (RFC 5208, section 5).
fn pkcs1_of(pkcs8: &[u8]) -> Option<&[u8]> {
    let (outer, _) = der_content(pkcs8)?;
    let (_, after_version) = der_content(outer)?;
    let (_, after_algorithm) = der_content(after_version)?;
    der_content(after_algorithm).map(|(content, _)| content)
}

fn der_content(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, start) = match *der.get(1)? {
        short @ 0..0x80 => (usize::from(short), 2),
        long => {
            let digits = der.get(2..2 + usize::from(long & 0x7f))?;
            let length = digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            (length, 2 + digits.len())
        }
    };
    der.get(start..)?.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rsa_identity_is_pkcs1_and_signs() {
        let authority = Authority::new(KeyKind::Rsa).expect("makes an authority");
        let leaf = authority.issue(Usage::Server, &["abc.example.com", "*"]).expect("issues");
        assert!(leaf.key_pem.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
        let key = leaf.key().expect("a key");
        assert!(matches!(key, PrivateKeyDer::Pkcs1(_)));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.key_provider.load_private_key(key).expect("rustls takes the key");
    }

    #[test]
    fn names_become_the_kind_that_their_form_says() {
        let kind = |name| subject_alt_name(name).expect("a name");
        assert!(matches!(kind("10.0.0.1"), SanType::IpAddress(_)));
        assert!(matches!(kind("*.wildcard.org"), SanType::DnsName(_)));
        assert!(matches!(kind("*"), SanType::URI(_)));
        assert!(matches!(kind("spiffe://abc.example.com/x"), SanType::URI(_)));
    }
}
