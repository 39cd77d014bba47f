//! Test only: certificates of every kind, right and wrong, made with the same library but without our rules.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SignatureAlgorithm,
};
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::bundle::{Bundle, Bundles};
use crate::key::PrivateKey;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::svid::{Svid, moment};

/// The moment at which the tests take place.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const HOUR: u64 = 3600;

pub(crate) fn now() -> UnixTime {
    moment(NOW)
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(crate) fn bundles<'a>(all: impl IntoIterator<Item = (&'a str, &'a Ca)>) -> Bundles {
    all.into_iter().map(|(name, ca)| Bundle::new(domain(name), [ca.certificate.clone()]).unwrap()).collect()
}

/// A signing certificate with its key.
pub(crate) struct Ca {
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A leaf with its key.
pub(crate) struct Forged {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKey,
}

impl Forged {
    /// The leaf as an SVID to show, with these certificates behind it.
    pub(crate) fn svid(&self, above: &[&Ca]) -> Svid {
        let chain = std::iter::once(&self.certificate).chain(above.iter().map(|ca| &ca.certificate)).cloned().collect();
        Svid::new(chain, self.key.clone(), &aws_lc_rs::default_provider()).unwrap()
    }
}

impl Ca {
    /// A root for `trust_domain`, named `name`.
    pub(crate) fn root(trust_domain: &str, name: &str) -> Self {
        Self::root_with(&PKCS_ECDSA_P256_SHA256, &ca_params(trust_domain, name))
    }

    pub(crate) fn root_with(algorithm: &'static SignatureAlgorithm, params: &CertificateParams) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = CertificateDer::from(params.self_signed(&key).unwrap());
        let issuer = Issuer::from_ca_cert_der(&certificate, key).unwrap();
        Self { certificate, issuer }
    }

    /// A certificate with these parameters, signed by this one, with a key of its own.
    pub(crate) fn below(&self, params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateDer::from(params.signed_by(&key, &self.issuer).unwrap());
        let issuer = Issuer::from_ca_cert_der(&certificate, key).unwrap();
        Self { certificate, issuer }
    }

    /// A right leaf for `id`.
    pub(crate) fn leaf(&self, id: &str) -> Forged {
        self.sign(&leaf_params(id))
    }

    /// A leaf for `id` that something was done to.
    pub(crate) fn changed(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Forged {
        let mut params = leaf_params(id);
        change(&mut params);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Forged {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().into();
        Forged { certificate, key: PrivateKey::from(PrivateKeyDer::from(key)) }
    }
}

pub(crate) fn ca_params(trust_domain: &str, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, NOW - 100 * HOUR, NOW + 100 * HOUR);
    params
}

pub(crate) fn leaf_params(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    set_validity(&mut params, NOW - HOUR, NOW + HOUR);
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn set_validity(params: &mut CertificateParams, begin: u64, end: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(begin);
    params.not_after = epoch + Duration::from_secs(end);
}

/// Subject alternative names byte by byte: each a tag number and its content.
pub(crate) fn raw_names(names: &[(u8, &[u8])], critical: bool) -> CustomExtension {
    let mut content = Vec::new();
    for (tag, bytes) in names {
        content.extend([0x80 | tag, u8::try_from(bytes.len()).unwrap()]);
        content.extend_from_slice(bytes);
    }
    let mut der = vec![0x30, u8::try_from(content.len()).unwrap()];
    der.extend(content);
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], der);
    extension.set_criticality(critical);
    extension
}

/// Key usage with only digitalSignature, not critical.
pub(crate) fn lax_key_usage() -> CustomExtension {
    CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![0x03, 0x02, 0x07, 0x80])
}
