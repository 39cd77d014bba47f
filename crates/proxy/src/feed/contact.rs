//! Reaches a control plane: TLS with the right identity at the other end, HTTP/2, and gRPC calls over it.
//!
//! Called by `member`. At the first contact there is no bundle yet, only the fingerprint of the root that came with the token;
//! from then on the control plane is whoever shows its identity in our trust domain. Waiting and trying again are left to the caller.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request};
use prost::Message;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::DefaultTimeProvider;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage, OtherError,
    SignatureScheme,
};
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use transept_identity::handshake::client_config;
use transept_identity::{
    Accept, Bundle, Fingerprint, LiveBundles, LiveSvid, PeerVerifier, SpiffeId, Ticket, TrustDomain,
};
use transept_xds::grpc::{CONTENT_TYPE, Code, Failed, Frames, decode_message, frame};
use transept_xds::mesh::CONTROL_PATH;

use crate::capture;

/// How long it may take to reach a control plane.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the other side may be silent before it is asked for a sign of life, and how long it has to give one.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a connection may take from the address that is registered, before the system chooses where it comes from.
const FROM_HERE: Duration = Duration::from_secs(2);
/// The longest message that is taken in, in bytes.
const LONGEST: usize = 64 << 20;

/// Why a control plane is not reached. Displays as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// Nobody is there, or the way is blocked; later it may be different.
    Away(String),
    /// Who is there is not the control plane, as far as our roots say.
    Stranger(String),
    /// It does not take our certificate.
    Distrusted(String),
    /// It answers, and refuses.
    Refused(Failed),
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(why) | Self::Stranger(why) | Self::Distrusted(why) => f.write_str(why),
            Self::Refused(failed) => fmt::Display::fmt(failed, f),
        }
    }
}

impl std::error::Error for Unreached {}

impl From<Failed> for Unreached {
    fn from(failed: Failed) -> Self {
        match failed.code {
            Code::Unavailable => Self::Away(failed.message),
            _ => Self::Refused(failed),
        }
    }
}

/// The identity of the control plane of a trust domain.
pub(super) fn control_id(domain: &TrustDomain) -> Result<SpiffeId, String> {
    SpiffeId::parse(&format!("{}{CONTROL_PATH}", domain.id())).map_err(|error| error.to_string())
}

/// TLS for a proxy with an identity.
pub(super) fn member_tls(
    svid: Arc<LiveSvid>,
    bundles: LiveBundles,
    provider: Arc<CryptoProvider>,
) -> Result<TlsConnector, String> {
    let control = control_id(&svid.load().id().trust_domain())?;
    let peers = PeerVerifier::new(bundles, Accept::only(control), provider);
    let config =
        client_config(Some(svid), peers, &[b"h2"], Arc::new(DefaultTimeProvider)).map_err(|e| e.to_string())?;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// TLS for the first contact.
pub(super) fn first_tls(ticket: &Ticket, provider: Arc<CryptoProvider>) -> Result<TlsConnector, String> {
    let verifier = FirstContact {
        root: ticket.root,
        domain: ticket.id.trust_domain(),
        control: control_id(&ticket.id.trust_domain())?,
        provider: provider.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Believes whoever shows the control plane's identity under the one root that the token names.
#[derive(Debug)]
struct FirstContact {
    root: Fingerprint,
    domain: TrustDomain,
    control: SpiffeId,
    provider: Arc<CryptoProvider>,
}

/// The root that the token names is not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "no certificate that the control plane shows has the fingerprint {0}, which the join token names: it is another control plane, or its root \
     was replaced since the token was made; make a new one with `transept token create`"
)]
struct OtherRoot(Fingerprint);

impl FirstContact {
    fn peers(&self, chain: &[CertificateDer<'_>]) -> Result<PeerVerifier, Error> {
        let other = |error: Arc<dyn std::error::Error + Send + Sync>| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(error)))
        };
        let root = chain.iter().find(|der| Fingerprint::of(der) == self.root);
        let root = root.ok_or_else(|| other(Arc::new(OtherRoot(self.root))))?.clone().into_owned();
        let bundle = Bundle::new(self.domain.clone(), [root]).map_err(|error| other(Arc::new(error)))?;
        let bundles = LiveBundles::new([bundle].into_iter().collect());
        Ok(PeerVerifier::new(bundles, Accept::only(self.control.clone()), self.provider.clone()))
    }
}

impl ServerCertVerifier for FirstContact {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.peers(above)?.verify_server_cert(leaf, above, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Connects to the first of the addresses of a `host:port` that takes it, from `here` where that can be: what calls from the address that it registers
/// shows that it is there. Rules that capture leave it alone.
#[expect(clippy::disallowed_methods, reason = "asked anew for each connection, so that nothing has to be kept")]
async fn connect(address: &str, here: Option<IpAddr>) -> io::Result<TcpStream> {
    let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for found in tokio::net::lookup_host(address).await? {
        if let Some(here) = here
            && let Ok(Ok(stream)) = tokio::time::timeout(FROM_HERE, capture::connect_from(here, found)).await
        {
            return Ok(stream);
        }
        outcome = capture::connect(found).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Whether the other side has ended a handshake because of our certificate (RFC 8446, section 6.2).
fn distrusts(error: &io::Error) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRevoked, CertificateUnknown, UnknownCA,
        UnsupportedCertificate,
    };
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(
        cause,
        Some(Error::AlertReceived(
            AccessDenied
                | BadCertificate
                | CertificateExpired
                | CertificateRevoked
                | CertificateUnknown
                | UnknownCA
                | UnsupportedCertificate
        ))
    )
}

/// An open connection; it ends when the last copy and the last call are dropped.
#[derive(Clone)]
pub(super) struct Connection(SendRequest<Bytes>);

impl Connection {
    /// Dials `address`, `host:port`.
    pub(super) async fn open(address: &str, tls: &TlsConnector) -> Result<Self, Unreached> {
        Self::open_from(None, address, tls).await
    }

    /// The same from an address of this machine, as long as that comes to something.
    pub(super) async fn open_from(here: Option<IpAddr>, address: &str, tls: &TlsConnector) -> Result<Self, Unreached> {
        let opened = tokio::time::timeout(PATIENCE, Self::dial(here, address, tls)).await;
        opened.unwrap_or_else(|_| Err(Unreached::Away(format!("{address}: no answer within {PATIENCE:?}"))))
    }

    async fn dial(here: Option<IpAddr>, address: &str, tls: &TlsConnector) -> Result<Self, Unreached> {
        let away = |error: &dyn fmt::Display| Unreached::Away(format!("{address}: {error}"));
        let stream = connect(address, here).await.map_err(|error| away(&error))?;
        // Small messages in both directions: waiting to fill packets only adds delay.
        let _ = stream.set_nodelay(true);
        // No name is sent or checked: the identity in the certificate counts.
        let name = ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into());
        let mut stream = tls.connect(name, stream).await.map_err(|error| {
            let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
            match cause {
                Some(Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => {
                    Unreached::Stranger(format!("{address}: {why}"))
                }
                Some(Error::InvalidCertificate(_)) => Unreached::Stranger(format!("{address}: {error}")),
                Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Unreached::Away(format!(
                    "{address}: who answers there does not speak TLS; is it the address at which the control plane takes proxies (port 9909 \
                     unless its --listen says otherwise)?"
                )),
                _ => away(&error),
            }
        })?;
        // In TLS 1.3 we are through before the other side has looked at our certificate, and an alert is lost to whoever writes on. It speaks
        // first when it takes it.
        match stream.fill_buf().await {
            Ok([]) => return Err(Unreached::Away(format!("{address}: the connection was closed at once"))),
            Ok(_) => {}
            Err(error) if distrusts(&error) => {
                return Err(Unreached::Distrusted(format!("{address} refuses the certificate of this proxy")));
            }
            Err(error) => return Err(away(&error)),
        }
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(4 << 20).initial_connection_window_size(16 << 20).enable_push(false);
        let (calls, mut connection) = builder.handshake::<_, Bytes>(stream).await.map_err(|error| away(&error))?;
        let pings = connection.ping_pong();
        tokio::spawn(async move {
            let alive = async {
                let Some(mut pings) = pings else { return std::future::pending().await };
                loop {
                    tokio::time::sleep(SILENCE).await;
                    match tokio::time::timeout(SILENCE, pings.ping(h2::Ping::opaque())).await {
                        Ok(Ok(_)) => {}
                        _ => return,
                    }
                }
            };
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "the connection to the control plane broke");
                },
                () = alive => tracing::warn!("the control plane has fallen silent"),
            }
        });
        Ok(Self(calls))
    }

    /// Begins a call with messages in both directions.
    pub(super) async fn call(&self, path: &str) -> Result<(Sender, Messages), Unreached> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://control{path}"))
            .header(http::header::CONTENT_TYPE, CONTENT_TYPE)
            .header(http::header::TE, "trailers")
            .body(())
            .map_err(|error| Unreached::Away(error.to_string()))?;
        let mut calls = self.0.clone().ready().await.map_err(broken)?;
        let (response, send) = calls.send_request(request, false).map_err(broken)?;
        Ok((Sender(send), Messages { state: Waiting::Head(response), frames: Frames::new(LONGEST) }))
    }

    /// A call with one message in each direction.
    pub(super) async fn ask<M: Message + Default>(&self, path: &str, message: &impl Message) -> Result<M, Unreached> {
        let exchange = async {
            let (mut send, mut messages) = self.call(path).await?;
            // A call that is refused at once is over before it has said anything; the answer tells why.
            let _ = send.send(message);
            send.end();
            let answer = messages.next().await?;
            answer.ok_or_else(|| Unreached::Away("the control plane answers nothing".to_owned()))
        };
        let asked = tokio::time::timeout(PATIENCE, exchange).await;
        asked.unwrap_or_else(|_| Err(Unreached::Away(format!("no answer within {PATIENCE:?}"))))
    }
}

/// The messages that we send in a call.
pub(super) struct Sender(SendStream<Bytes>);

impl Sender {
    /// Sends a message.
    pub(super) fn send(&mut self, message: &impl Message) -> Result<(), Unreached> {
        self.0.send_data(frame(message), false).map_err(broken)
    }

    /// Says that no more follow.
    pub(super) fn end(&mut self) {
        // The stream is gone: the answer tells.
        let _ = self.0.send_data(Bytes::new(), true);
    }
}

/// The messages that we get in a call.
pub(super) struct Messages {
    state: Waiting,
    frames: Frames,
}

enum Waiting {
    Head(h2::client::ResponseFuture),
    Body(RecvStream),
}

impl Messages {
    /// The next message; `None` at a good end.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Unreached> {
        loop {
            let message = self.frames.take();
            if let Some(message) = message.map_err(|bad| Unreached::Away(bad.to_string()))? {
                return Ok(Some(message));
            }
            let body = match &mut self.state {
                Waiting::Body(body) => body,
                Waiting::Head(response) => {
                    let (head, body) = response.await.map_err(broken)?.into_parts();
                    if head.status != http::StatusCode::OK {
                        return Err(Unreached::Away(format!("the control plane answers {}", head.status)));
                    }
                    settle(&head.headers)?;
                    self.state = Waiting::Body(body);
                    continue;
                }
            };
            match body.data().await {
                Some(data) => {
                    let data = data.map_err(broken)?;
                    self.frames.push(&data);
                    body.flow_control().release_capacity(data.len()).map_err(broken)?;
                }
                None => {
                    let trailers = body.trailers().await.map_err(broken)?.unwrap_or_default();
                    settle(&trailers)?;
                    return Ok(None);
                }
            }
        }
    }
}

/// Reads how a call ended.
fn settle(fields: &HeaderMap) -> Result<(), Unreached> {
    let text = |name: &str| fields.get(name).map(HeaderValue::to_str).and_then(Result::ok);
    let code = text("grpc-status").map_or(Code::Ok, |code| Code::of(code.parse().unwrap_or(13)));
    if code == Code::Ok {
        return Ok(());
    }
    let message = text("grpc-message").map(decode_message).unwrap_or_default();
    Err(Failed::new(code, message).into())
}

fn broken(error: h2::Error) -> Unreached {
    let why = match error.get_io().map(std::io::Error::kind) {
        // The library's own words lead to its manual.
        Some(std::io::ErrorKind::UnexpectedEof) => "it ended without a word, as of one that was killed".to_owned(),
        _ => error.to_string(),
    };
    Unreached::Away(format!("the connection to the control plane broke: {why}"))
}
