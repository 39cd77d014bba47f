//! Names in certificates: DNS names against a server name, URIs against a list.
//!
//! Called by the server side to choose among certificates and by the client side to verify subject alternative names.

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use transept_engine::snapshot::SubjectAltName;
use webpki::EndEntityCert;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Whether the certificate of `key` is for `server_name` (RFC 6125, DNS names only).
pub(super) fn covers(key: &CertifiedKey, server_name: &str) -> bool {
    key.cert.first().is_some_and(|certificate| is_for(certificate, server_name))
}

/// Whether `certificate` carries at least one of `names` (GEP-1897: any of them is enough).
pub(super) fn carries_any(certificate: &CertificateDer<'_>, names: &[SubjectAltName]) -> bool {
    names.iter().any(|name| match name {
        SubjectAltName::Hostname(host) => is_for(certificate, host),
        SubjectAltName::Uri(uri) => carries_uri(certificate, uri),
    })
}

fn is_for(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let (Ok(certificate), Ok(name)) = (EndEntityCert::try_from(certificate), ServerName::try_from(host)) else {
        return false;
    };
    certificate.verify_is_valid_for_subject_name(&name).is_ok()
}

/// The whole value is compared byte by byte, so no encoding trick makes two identities one.
fn carries_uri(certificate: &CertificateDer<'_>, uri: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    names.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(found) if *found == uri))
}
