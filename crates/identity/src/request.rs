//! Certificate signing requests (PKCS #10, RFC 2986): made by a workload, read by the authority.
//!
//! A workload makes one with its own key and the id that it has been granted. The authority reads it against the id that
//! the token or the identity of the connection allows; a [`Request`] exists only when the requester holds the key and asks
//! for exactly that id. Issuing is left to `authority`.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, IsCa, KeyUsagePurpose, SanType, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateSigningRequestDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use crate::key::{BadKey, PrivateKey};
use crate::spiffe::{BadId, SpiffeId};

/// The longest request that is read, in bytes: an RSA key of 8192 bits and the longest id fit.
pub const MAX_REQUEST: usize = 8 * 1024;

/// Signature algorithms that prove possession: SHA-2 with RSA, with ECDSA, and Ed25519. SHA-1 is not among them.
const PROOFS: &[&str] = &[
    "1.2.840.113549.1.1.11",
    "1.2.840.113549.1.1.12",
    "1.2.840.113549.1.1.13",
    "1.2.840.10045.4.3.2",
    "1.2.840.10045.4.3.3",
    "1.3.101.112",
];

const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const ED25519: &str = "1.3.101.112";
/// The smallest RSA key, in bits.
const MIN_RSA: usize = 2048;
/// The largest RSA key, in bits: verification would otherwise cost the authority what the requester likes.
const MAX_RSA: usize = 8192;

/// Why a request is not granted. Displays as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Longer than [`MAX_REQUEST`].
    #[error("the request has more than {MAX_REQUEST} bytes")]
    TooLarge,
    /// Not a request (RFC 2986).
    #[error("the request does not parse: {0}")]
    Malformed(String),
    /// The kind of key is not accepted.
    #[error(
        "the key of the request is not accepted: {0}; use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits"
    )]
    Key(String),
    /// The signature is of a kind that is not accepted, or not by the key in the request (RFC 2986, section 3).
    #[error("the request does not prove that its sender holds the key")]
    NotProven,
    /// There is no URI among the names that are asked for.
    #[error("the request names no SPIFFE id")]
    NoId,
    /// There is more than one name (X509-SVID, section 2 allows one URI; no other kind of name is issued).
    #[error("the request asks for other names than one SPIFFE id")]
    OtherNames,
    /// The URI is no SPIFFE id.
    #[error("the request names no valid SPIFFE id: {0}")]
    BadId(#[from] BadId),
    /// The request is for a signing certificate.
    #[error("the request is for a CA certificate")]
    WantsCa,
    /// The id is not the one that is allowed.
    #[error("the request is for `{asked}`, and only `{allowed}` is allowed")]
    NotAllowed {
        /// What the request names.
        asked: SpiffeId,
        /// What the token or the identity of the connection allows.
        allowed: SpiffeId,
    },
}

impl BadRequest {
    /// A stable short name for logs and metrics.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::TooLarge => "request.too_large",
            Self::Malformed(_) => "request.malformed",
            Self::Key(_) => "request.key",
            Self::NotProven => "request.not_proven",
            Self::NoId => "request.no_id",
            Self::OtherNames => "request.other_names",
            Self::BadId(_) => "request.bad_id",
            Self::WantsCa => "request.wants_ca",
            Self::NotAllowed { .. } => "request.not_allowed",
        }
    }
}

/// Makes a request for `id`, signed with `key` to prove possession. The answer is in DER.
///
/// # Errors
/// When the key cannot sign.
pub fn create(key: &PrivateKey, id: &SpiffeId) -> Result<CertificateSigningRequestDer<'static>, BadKey> {
    let unusable = |error: rcgen::Error| BadKey::Unusable(error.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id).map_err(unusable)?];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::NoCa;
    Ok(params.serialize_request(&key.signer()?).map_err(unusable)?.into())
}

/// The id as a subject alternative name.
pub(crate) fn uri(id: &SpiffeId) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(id.as_str().try_into()?))
}

/// A request that may be granted: its sender holds the key and asks for the id that it may have.
pub struct Request {
    id: SpiffeId,
    key: SubjectPublicKeyInfo,
}

impl Request {
    /// Reads a request in DER and checks it against the one id that its sender may have.
    ///
    /// # Errors
    /// The first reason not to grant it.
    pub fn read(der: &[u8], allowed: &SpiffeId) -> Result<Self, BadRequest> {
        if der.len() > MAX_REQUEST {
            return Err(BadRequest::TooLarge);
        }
        let request = match X509CertificationRequest::from_der(der) {
            Ok(([], request)) => request,
            Ok(_) => return Err(BadRequest::Malformed("there is something behind it".into())),
            Err(error) => return Err(BadRequest::Malformed(error.to_string())),
        };
        let key = read_key(&request)?;
        if !PROOFS.contains(&request.signature_algorithm.algorithm.to_id_string().as_str()) {
            return Err(BadRequest::NotProven);
        }
        request.verify_signature().map_err(|_| BadRequest::NotProven)?;
        let id = read_id(&request)?;
        if id != *allowed {
            return Err(BadRequest::NotAllowed { asked: id, allowed: allowed.clone() });
        }
        Ok(Self { id, key })
    }

    /// The id that is asked for, and allowed.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The key that the certificate will be for.
    pub(crate) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("id", &self.id).finish_non_exhaustive()
    }
}

fn read_key(request: &X509CertificationRequest<'_>) -> Result<SubjectPublicKeyInfo, BadRequest> {
    let info = &request.certification_request_info.subject_pki;
    let refuse = |why: &str| BadRequest::Key(why.into());
    match info.parsed().map_err(|_| refuse("it does not parse"))? {
        PublicKey::RSA(rsa) => match rsa.key_size() {
            MIN_RSA..=MAX_RSA => {}
            size => return Err(BadRequest::Key(format!("RSA of {size} bits"))),
        },
        PublicKey::EC(_) => {
            let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            if !curve.is_some_and(|curve| [P256, P384].contains(&curve.to_id_string().as_str())) {
                return Err(refuse("another curve than P-256 and P-384"));
            }
        }
        _ if info.algorithm.algorithm.to_id_string() == ED25519 => {}
        _ => return Err(refuse("its kind is not known")),
    }
    // The key goes into the certificate by its own algorithm, never by the one that signed the request.
    SubjectPublicKeyInfo::from_der(info.raw).map_err(|error| BadRequest::Key(error.to_string()))
}

fn read_id(request: &X509CertificationRequest<'_>) -> Result<SpiffeId, BadRequest> {
    let mut names = Vec::new();
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else {
            continue;
        };
        for extension in &requested.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(extension) => names.extend(&extension.general_names),
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => return Err(BadRequest::WantsCa),
                ParsedExtension::ParseError { error } => return Err(BadRequest::Malformed(error.to_string())),
                // What a leaf is good for is the authority's to say, whatever is asked for.
                _ => {}
            }
        }
    }
    match names.as_slice() {
        [] => Err(BadRequest::NoId),
        [GeneralName::URI(uri)] => Ok(SpiffeId::parse(uri)?),
        _ => Err(BadRequest::OtherNames),
    }
}

#[cfg(test)]
mod tests;
