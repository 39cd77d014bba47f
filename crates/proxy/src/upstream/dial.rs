//! Opening a connection to an endpoint, in clear text or under TLS.
//!
//! Called by `connect.rs` when no open connection serves. Bounded in time by the backend's connect timeout.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use transept_engine::reason::Reason;
use transept_engine::snapshot::UpstreamProtocol;

use super::connect::Destination;
use super::hbone::open_tunnel;
use super::secure::TlsChoice;
use crate::buffer::Inbound;
use crate::capture;
use crate::failure::{Failure, Repeat, Side};
use crate::io::{Io, TlsSession};
use crate::tls::in_words;
use crate::worker::Worker;

/// Silence after which the kernel asks whether the peer is still there. There is no limit on unacknowledged data beside
/// it: a backend may pause for as long as the listener's `streamIdle` allows.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Errors of the operating system that tell of our own limits: ENFILE, EMFILE, ENOMEM, ENOBUFS, EADDRNOTAVAIL.
const OUR_LIMITS: [i32; 5] = [23, 24, 12, 105, 99];

/// Opens a connection and settles the protocol.
pub(super) async fn dial(
    worker: &Rc<Worker>,
    destination: &Destination<'_>,
    tls: Option<&TlsChoice>,
) -> Result<(Io, UpstreamProtocol), Failure> {
    let began = worker.clock.now().monotonic;
    let dialling = async {
        let in_the_clear = match destination.protocol {
            UpstreamProtocol::Auto => UpstreamProtocol::Http1,
            settled => settled,
        };
        if let Some(passage) = &destination.endpoint.tunnel {
            let io = open_tunnel(worker, passage, destination).await?;
            return Ok((io, in_the_clear));
        }
        let tcp = open(destination.endpoint.address).await.map_err(|error| refused(&error))?;
        match tls {
            None => Ok((Io::plain(tcp), in_the_clear)),
            Some(tls) => secure(tcp, tls, destination.protocol).await,
        }
    };
    let outcome = match tokio::time::timeout(destination.backend.connect_timeout, dialling).await {
        Ok(outcome) => outcome,
        Err(_) => Err(failed(Reason::UpstreamConnectTimeout, "the connection was not established in time")),
    };
    let took = worker.clock.now().monotonic.saturating_sub(began);
    worker.meter.borrow_mut().dialled(&destination.backend.label, took, outcome.as_ref().err().map(|f| f.reason));
    outcome
}

/// Opens a plain connection.
pub(crate) async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = capture::connect(address).await?;
    tcp.set_nodelay(true)?;
    keep_alive(&tcp, &socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))?;
    Ok(tcp)
}

/// Has the kernel ask now and then whether the peer is still there.
pub(super) fn keep_alive(tcp: &TcpStream, keepalive: &socket2::TcpKeepalive) -> io::Result<()> {
    socket2::SockRef::from(tcp).set_tcp_keepalive(keepalive)
}

async fn secure(
    tcp: TcpStream,
    tls: &TlsChoice,
    protocol: UpstreamProtocol,
) -> Result<(Io, UpstreamProtocol), Failure> {
    let connection = rustls::ClientConnection::new(tls.client.config.clone(), tls.name.clone())
        .map_err(|error| failed(Reason::UpstreamTls, error.to_string()))?;
    let session = TlsSession::new(connection.into(), Inbound::default());
    session.shake_hands(&tcp).await.map_err(|error| handshake_failed(&error))?;
    let h2 = session.with(|connection| connection.alpn_protocol() == Some(b"h2"));
    let agreed = match (protocol, h2) {
        // A server without ALPN that was configured for HTTP/2 is taken at its word (gRPC servers may lack ALPN).
        (UpstreamProtocol::Http2, _) | (UpstreamProtocol::Auto, true) => UpstreamProtocol::Http2,
        _ => UpstreamProtocol::Http1,
    };
    Ok((Io::secured(tcp, Box::new(session)), agreed))
}

pub(super) fn handshake_failed(error: &io::Error) -> Failure {
    let certificate = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
    let reason = if certificate { Reason::UpstreamCertificate } else { Reason::UpstreamTls };
    failed(reason, in_words(error))
}

pub(super) fn refused(error: &io::Error) -> Failure {
    if error.raw_os_error().is_some_and(|code| OUR_LIMITS.contains(&code)) {
        // Another endpoint would fail alike, and none of them is to blame.
        return Failure::new(Side::Upstream, Reason::Overloaded, Repeat::Never, error.to_string());
    }
    let reason = match error.kind() {
        io::ErrorKind::TimedOut => Reason::UpstreamConnectTimeout,
        _ => Reason::UpstreamRefused,
    };
    failed(reason, error.to_string())
}

pub(super) fn failed(reason: Reason, detail: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::new(Side::Upstream, reason, Repeat::Safe, detail)
}
