//! Server side of TLS: the rustls configuration of a listener.
//!
//! Called by the cache in [`super`] when a listener's TLS settings are new. Verification of client certificates is
//! decided here and nowhere else.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use transept_engine::snapshot::{ClientValidation, ClientValidationMode, ServerTls};

/// Builds the configuration.
///
/// # Errors
/// A sentence that says what cannot be used: a client CA, or the provider itself.
pub(super) fn build(tls: &ServerTls, provider: &Arc<CryptoProvider>) -> Result<ServerConfig, String> {
    let keys = tls.certificates.iter().map(|pair| pair.certified().clone()).collect();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &tls.client_validation {
        None => builder.with_no_client_auth(),
        Some(validation) => builder.with_client_cert_verifier(client_verifier(validation, provider)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates(keys)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // One ticket key per listener: a session that one listener's client validation admitted means nothing to another.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?;
    config.send_tls13_tickets = 2;
    Ok(config)
}

fn client_verifier(
    validation: &ClientValidation,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    match validation.mode {
        ClientValidationMode::AllowValidOnly => {
            let mut roots = RootCertStore::empty();
            for root in &validation.roots {
                roots.add(root.clone()).map_err(|error| format!("a client CA cannot be used: {error}"))?;
            }
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
                .map_err(|error| error.to_string())
        }
        ClientValidationMode::AllowInsecureFallback => Ok(Arc::new(AskOnly(provider.clone()))),
    }
}

/// The certificates of a listener; the client's signature schemes choose among them.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = |key: &&Arc<CertifiedKey>| match hello.server_name() {
            Some(name) => super::names::covers(key, name),
            None => true,
        };
        let signs = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let best = self.0.iter().find(|key| named(key) && signs(key));
        best.or_else(|| self.0.iter().find(signs)).or(self.0.first()).cloned()
    }
}

/// Asks for a certificate and takes what comes; the certificate proves nothing then.
#[derive(Debug)]
struct AskOnly(Arc<CryptoProvider>);

impl ClientCertVerifier for AskOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
