//! Mutual TLS between workloads: our SVID on one side, the verification of the peer on the other, for both directions.
//!
//! Called by `proxy` for tunnels and by `control` for the connections of proxies. SVID and bundles are read anew in every
//! handshake, so a renewal or a rotation applies at once and no configuration is rebuilt. TLS 1.3 only, without server
//! names and without resumption: a resumed session would skip the verification. There is no way to fall back to the roots
//! of the operating system.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::bundle::LiveBundles;
use crate::cache::Cache;
use crate::fingerprint::Fingerprint;
use crate::svid::{Leaf, Svid};
use crate::verify::{Accept, Peer, Purpose, Refusal, admit, find_retiring, prove};

/// The SVID that we show: replaced at renewal, read in every handshake. Share it in an `Arc`.
pub struct LiveSvid(ArcSwap<Svid>);

impl LiveSvid {
    /// Begins with this one.
    pub fn new(svid: Svid) -> Self {
        Self(ArcSwap::from_pointee(svid))
    }

    /// The SVID in force.
    pub fn load(&self) -> Arc<Svid> {
        self.0.load_full()
    }

    /// Shows another SVID from the next handshake on; chain and key change together.
    pub fn store(&self, svid: Svid) {
        self.0.store(Arc::new(svid));
    }
}

impl fmt::Debug for LiveSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.load(), f)
    }
}

impl ResolvesServerCert for LiveSvid {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().certified().clone())
    }
}

impl ResolvesClientCert for LiveSvid {
    fn resolve(&self, _roots: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let certified = self.0.load().certified().clone();
        certified.key.choose_scheme(schemes).is_some().then_some(certified)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whether a server insists on a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Every client proves who it is: the rule between workloads.
    Required,
    /// A client may come without a certificate, as a workload does that is about to join; one that shows a certificate is
    /// verified all the same. Who came without one must be refused everything but joining.
    Optional,
}

/// Verifies peers in handshakes, as client and as server. Cloning it copies pointers.
#[derive(Clone)]
pub struct PeerVerifier {
    bundles: LiveBundles,
    accept: Arc<Accept>,
    provider: Arc<CryptoProvider>,
    cache: Arc<Cache>,
    client_auth: ClientAuth,
}

impl PeerVerifier {
    /// Verifies with these bundles and lets in whom `accept` names.
    pub fn new(bundles: LiveBundles, accept: Accept, provider: Arc<CryptoProvider>) -> Self {
        Self { bundles, accept: Arc::new(accept), provider, cache: Arc::default(), client_auth: ClientAuth::Required }
    }

    /// The same with another set of accepted identities; bundles and proofs are shared.
    pub fn accepting(&self, accept: Accept) -> Self {
        Self { accept: Arc::new(accept), ..self.clone() }
    }

    /// Verifies the certificates of a peer, leaf first. After a handshake this finds the proof that the handshake made,
    /// and on a live connection it tells whether the peer would still be accepted.
    ///
    /// # Errors
    /// The reason to refuse the peer.
    pub fn peer(&self, chain: &[CertificateDer<'_>], purpose: Purpose, now: UnixTime) -> Result<Peer, Refusal> {
        let (leaf, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
        admit(self.prove(leaf, intermediates, purpose, now)?, &self.accept)
    }

    /// The retiring root that vouched for a peer on a connection that is open: it may stay for as long as that root counts. `at` is
    /// when the certificates are looked at, `now` whether the root counts still. Nothing is remembered: no handshake can find this
    /// proof.
    pub fn retiring(
        &self,
        chain: &[CertificateDer<'_>],
        purpose: Purpose,
        at: UnixTime,
        now: UnixTime,
    ) -> Option<Fingerprint> {
        let (leaf, intermediates) = chain.split_first()?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let (leaf, root) = find_retiring(leaf, intermediates, &self.bundles.load(), purpose, algorithms, (at, now))?;
        admit(leaf, &self.accept).ok().map(|_| root)
    }

    fn prove(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<Arc<Leaf>, Refusal> {
        let bundles = self.bundles.load();
        if let Some(known) = self.cache.find(Fingerprint::of(leaf), purpose, &bundles, now) {
            return Ok(known);
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        let proof = prove(leaf, intermediates, &bundles, purpose, algorithms, now)?;
        let leaf = proof.leaf.clone();
        self.cache.remember(purpose, &bundles, proof);
        Ok(leaf)
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), Error> {
        self.prove(leaf, intermediates, purpose, now)
            .and_then(|leaf| admit(leaf, &self.accept).map(drop))
            .map_err(|refusal| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal)))))
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }
}

/// The reason why a handshake refused the peer, if it failed for that.
pub fn refusal(error: &Error) -> Option<&Refusal> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => cause.downcast_ref(),
        _ => None,
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("accept", &self.accept).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    /// No hints: the roots may change before the answer comes, and there is only one certificate to choose.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf, intermediates, Purpose::Client, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, intermediates, Purpose::Server, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The server side: shows `svid`, asks for a certificate and verifies it with `peers`.
///
/// # Errors
/// When the crypto provider of `peers` knows no TLS 1.3.
pub fn server_config(
    svid: Arc<LiveSvid>,
    peers: PeerVerifier,
    client_auth: ClientAuth,
    alpn: &[&[u8]],
    clock: Arc<dyn TimeProvider>,
) -> Result<ServerConfig, Error> {
    let peers = PeerVerifier { client_auth, ..peers };
    let mut config = ServerConfig::builder_with_details(peers.provider.clone(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(peers))
        .with_cert_resolver(svid);
    config.alpn_protocols = alpn.iter().map(|id| id.to_vec()).collect();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// The client side: shows `svid` and verifies the server with `peers`, whatever name is dialled. A workload that is about
/// to join has none to show yet; it verifies the server all the same.
///
/// # Errors
/// When the crypto provider of `peers` knows no TLS 1.3.
pub fn client_config(
    svid: Option<Arc<LiveSvid>>,
    peers: PeerVerifier,
    alpn: &[&[u8]],
    clock: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_details(peers.provider.clone(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(peers));
    let mut config = match svid {
        Some(svid) => builder.with_client_cert_resolver(svid),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|id| id.to_vec()).collect();
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests;
