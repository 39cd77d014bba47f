//! Server side of TLS: the rustls configuration of a listener.
//!
//! Called by the cache in [`super`] when a listener's TLS settings are new. Verification of client certificates is
//! decided here and nowhere else.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
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
    if tls.client_validation.is_some() {
        // Nobody looks at the certificate of a session that is resumed: it would be good beyond its end, and when its CA is not trusted any more.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
    } else {
        // One ticket key per listener.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?;
        config.send_tls13_tickets = 2;
    }
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

#[cfg(test)]
mod tests {
    use rustls::client::{ClientConnection, Resumption};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ClientConfig, HandshakeKind, ServerConnection, SupportedProtocolVersion, version};
    use transept_model::certificate::KeyPair;
    use transept_testkit::certificates::{Authority, Identity, KeyKind, Usage};

    use super::*;

    /// How two connections of one client after the other begin.
    fn kinds(
        server: &Arc<ServerConfig>,
        versions: &[&'static SupportedProtocolVersion],
        site: &Identity,
        own: &Identity,
    ) -> [Option<HandshakeKind>; 2] {
        let mut roots = RootCertStore::empty();
        roots.add(site.certificate().expect("DER")).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).expect("a key");
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![own.certificate().expect("DER")], key)
            .expect("a client");
        client.resumption = Resumption::in_memory_sessions(8);
        let client = Arc::new(client);
        [(); 2].map(|()| {
            let name = "site.test".try_into().expect("a name");
            let mut client = ClientConnection::new(Arc::clone(&client), name).expect("a client");
            let mut server = ServerConnection::new(Arc::clone(server)).expect("a server");
            for _ in 0..6 {
                let mut wire = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut wire).expect("written");
                }
                pass(&wire, |bytes| server.read_tls(bytes));
                server.process_new_packets().expect("a client");
                wire.clear();
                while server.wants_write() {
                    server.write_tls(&mut wire).expect("written");
                }
                pass(&wire, |bytes| client.read_tls(bytes));
                client.process_new_packets().expect("a server");
            }
            server.handshake_kind()
        })
    }

    fn pass(mut wire: &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
        while !wire.is_empty() {
            read(&mut wire).expect("read");
        }
    }

    #[test]
    fn who_shows_a_certificate_shows_it_on_every_connection() {
        let site = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["site.test"]).expect("a certificate");
        let clients = Authority::new(KeyKind::Ecdsa).expect("an authority");
        let own = clients.issue(Usage::Client, &["mobile.test"]).expect("a certificate");
        let pair = KeyPair::from_pem(site.certificate_pem.as_bytes(), site.key_pem.as_bytes()).expect("a pair");
        let mut tls = ServerTls { certificates: vec![Arc::new(pair)], client_validation: None };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        for (mode, second) in [
            (None, HandshakeKind::Resumed),
            (Some(ClientValidationMode::AllowValidOnly), HandshakeKind::Full),
            (Some(ClientValidationMode::AllowInsecureFallback), HandshakeKind::Full),
        ] {
            tls.client_validation = mode.map(|mode| ClientValidation { roots: vec![clients.certificate()], mode });
            let server = Arc::new(build(&tls, &provider).expect("a configuration"));
            for versions in [&[&version::TLS13], &[&version::TLS12]] {
                let found = kinds(&server, versions, &site, &own);
                assert_eq!(found, [Some(HandshakeKind::Full), Some(second)], "{mode:?} {versions:?}");
            }
        }
    }
}
