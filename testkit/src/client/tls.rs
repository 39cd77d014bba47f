//! TLS on the client side, with trust rules that a library would not offer: a bare leaf can be the only thing that is trusted,
//! and the handshake tells whether the server asked for a certificate. Called by the client alone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::Protocol;
use crate::certificates::Identity;

/// What the client believes.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Exactly this certificate, if its names fit and its time has not passed.
    Leaf(CertificateDer<'static>),
    /// Whatever this authority signed.
    Authority(CertificateDer<'static>),
}

/// The TLS side of an endpoint.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Server name indication, and the name that is verified.
    pub server_name: String,
    /// What is believed.
    pub trust: Trust,
    /// The certificate to show when asked.
    pub identity: Option<Arc<Identity>>,
}

pub(super) async fn secure(
    tcp: TcpStream,
    options: &Tls,
    protocol: Protocol,
    requested: &Arc<AtomicBool>,
) -> io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = verifier(&options.trust, &provider)?;
    let key = match &options.identity {
        None => None,
        Some(identity) => {
            let signer = provider.key_provider.load_private_key(identity.key()?).map_err(io::Error::other)?;
            Some(Arc::new(CertifiedKey::new(vec![identity.certificate()?], signer)))
        }
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(Noting { key, requested: Arc::clone(requested) }));
    if protocol == Protocol::Http2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    let name = ServerName::try_from(options.server_name.clone()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    if protocol == Protocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::other("the server did not choose h2"));
    }
    Ok(stream)
}

fn verifier(trust: &Trust, provider: &Arc<CryptoProvider>) -> io::Result<Arc<dyn ServerCertVerifier>> {
    match trust {
        Trust::Leaf(leaf) => Ok(Arc::new(ExactLeaf { leaf: leaf.clone(), provider: Arc::clone(provider) })),
        Trust::Authority(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.clone()).map_err(io::Error::other)?;
            let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
            built.map(|verifier| verifier as Arc<dyn ServerCertVerifier>).map_err(io::Error::other)
        }
    }
}

/// Shows the certificate, if there is one, and notes that it was asked for.
#[derive(Debug)]
struct Noting {
    key: Option<Arc<CertifiedKey>>,
    requested: Arc<AtomicBool>,
}

impl ResolvesClientCert for Noting {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.requested.store(true, Ordering::SeqCst);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        // Without this rustls would not ask the resolver, and the request would go unseen.
        true
    }
}

/// Believes one certificate, authority or not.
#[derive(Debug)]
struct ExactLeaf {
    leaf: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ExactLeaf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if end_entity.as_ref() != self.leaf.as_ref() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let (_, parsed) = parse_x509_certificate(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = parsed.validity();
        if validity.not_after.timestamp() < seconds || validity.not_before.timestamp() > seconds {
            return Err(CertificateError::Expired.into());
        }
        if !certificate_names_host(end_entity, &server_name.to_str()) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a DNS name of the certificate covers `host`. Unlike webpki it lets `*.org` stand for `example.org`, as Go does.
pub fn certificate_names_host(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok((_, parsed)) = parse_x509_certificate(certificate) else {
        return false;
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return false;
    };
    names.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(pattern) => name_covers(pattern, host),
        _ => false,
    })
}

fn name_covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent))
        }
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        assert!(name_covers("*.org", "example.ORG"));
        assert!(name_covers("*.wildcard.org", "third-example.wildcard.org"));
        assert!(!name_covers("*.org", "a.example.org"));
        assert!(!name_covers("*.org", "org"));
    }
}
