//! The verb *connect*: a pooled connection of this worker, or a new one in clear text or under TLS.
//!
//! Called by the road for every try. Which endpoint is tried, and whether another one follows, is decided elsewhere.

use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use transept_engine::pick::Chosen;
use transept_engine::reason::Reason;
use transept_engine::snapshot::{Backend, UpstreamProtocol, UpstreamTls};
use transept_model::certificate::KeyPair;

use super::pool::PoolKey;
use super::{Age, H1Upstream, Upstream};
use crate::buffer::Inbound;
use crate::failure::{Failure, Repeat, Side};
use crate::io::{Adapter, Io, TlsSession};
use crate::tls::UpstreamClient;
use crate::worker::Worker;

/// What one stream may receive before we must have taken it, and what the whole connection may.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Seconds of silence after which the kernel asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Whether a try may use a connection that is open already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooled {
    /// Any that is good.
    Welcome,
    /// A new one: an open one has just failed.
    Unwanted,
}

/// Where a try goes and how.
pub(crate) struct Destination<'d> {
    pub backend: &'d Backend,
    pub endpoint: &'d Chosen,
    /// A connection that had carried a request may be used.
    pub pooled: Pooled,
    pub protocol: UpstreamProtocol,
    pub identity: Option<&'d Arc<KeyPair>>,
}

/// Gets a connection to an endpoint.
///
/// # Errors
/// A failure with `Repeat::Safe`: no byte of the request has been sent.
pub(crate) async fn connect(worker: &Rc<Worker>, destination: &Destination<'_>) -> Result<Upstream, Failure> {
    let tls = match &destination.backend.tls {
        None => None,
        Some(tls) => Some(choose_tls(worker, tls, destination)?),
    };
    let key = PoolKey {
        address: destination.endpoint.address,
        tls: tls.as_ref().map_or((0, 0), |tls| (tls.client.number, tls.name_hash)),
        h2: destination.protocol == UpstreamProtocol::Http2,
    };
    let settled = destination.protocol == UpstreamProtocol::Http1
        || (destination.protocol == UpstreamProtocol::Auto && tls.is_none());
    if settled {
        if destination.pooled == Pooled::Welcome
            && let Some(io) = worker.pool.take(&key)
        {
            return Ok(h1(io, key, Age::Reused));
        }
        let (io, _) = Box::pin(dial(worker, destination, tls.as_ref())).await?;
        return Ok(h1(io, key, Age::Fresh));
    }
    Box::pin(share_or_dial(worker, destination, tls.as_ref(), key)).await
}

/// For protocols that may turn out to be HTTP/2: one connection serves many streams, so only one of those that wait
/// dials, unless HTTP/1.1 is what it finds.
async fn share_or_dial(
    worker: &Rc<Worker>,
    destination: &Destination<'_>,
    tls: Option<&Tls>,
    key: PoolKey,
) -> Result<Upstream, Failure> {
    loop {
        if let Some(mut lease) = worker.pool.share(&key) {
            if lease.ready().await.is_ok() {
                return Ok(Upstream::H2(lease));
            }
            continue;
        }
        if let Some(io) = worker.pool.take(&key) {
            return Ok(h1(io, key, Age::Reused));
        }
        let Some(dialled) = worker.pool.begin_dialling(key) else {
            break;
        };
        dialled.notified().await;
    }
    let dialling = Dialling { worker, key };
    let (io, agreed) = dial(worker, destination, tls).await?;
    if agreed != UpstreamProtocol::Http2 {
        worker.pool.agreed_on_h1(key);
        return Ok(h1(io, key, Age::Fresh));
    }
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_push(false)
        .handshake(Adapter::new(io, Inbound::default()))
        .await
        .map_err(|error| failed(Reason::UpstreamReset, error.to_string()))?;
    let (mut lease, closing) = worker.pool.add(key, sender);
    tokio::task::spawn_local(async move {
        let _closing = closing;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an upstream HTTP/2 connection ended");
        }
    });
    drop(dialling);
    lease.ready().await.map_err(|error| Failure::h2_response(&error))?;
    Ok(Upstream::H2(lease))
}

/// Wakes those who wait for the same connection, whatever the outcome.
struct Dialling<'w> {
    worker: &'w Worker,
    key: PoolKey,
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        self.worker.pool.dialled(&self.key);
    }
}

fn h1(io: Io, key: PoolKey, age: Age) -> Upstream {
    Upstream::H1(H1Upstream { io, inbound: Inbound::default(), age, key })
}

struct Tls {
    client: UpstreamClient,
    name: ServerName<'static>,
    name_hash: u64,
}

fn choose_tls(worker: &Worker, tls: &Arc<UpstreamTls>, destination: &Destination<'_>) -> Result<Tls, Failure> {
    let client = worker
        .shared
        .tls
        .client(tls, destination.protocol, destination.identity)
        .map_err(|why| failed(Reason::BackendTlsInvalid, why.to_string()))?;
    let host = tls.server_name.as_deref().or(destination.endpoint.host.as_deref());
    let name = match host {
        Some(host) => ServerName::try_from(host.to_owned())
            .map_err(|_| failed(Reason::BackendTlsInvalid, format!("{host} is not a server name")))?,
        None => ServerName::IpAddress(destination.endpoint.address.ip().into()),
    };
    let name_hash = worker.hasher.hash_one(&name);
    Ok(Tls { client, name, name_hash })
}

/// Opens a connection and settles the protocol.
async fn dial(
    worker: &Worker,
    destination: &Destination<'_>,
    tls: Option<&Tls>,
) -> Result<(Io, UpstreamProtocol), Failure> {
    let began = worker.clock.now().monotonic;
    let dialling = async {
        let tcp = open(destination.endpoint.address).await.map_err(|error| refused(&error))?;
        match tls {
            None => {
                let agreed = match destination.protocol {
                    UpstreamProtocol::Auto => UpstreamProtocol::Http1,
                    settled => settled,
                };
                Ok((Io::plain(tcp), agreed))
            }
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

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
    let socket = socket2::SockRef::from(&tcp);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(KEEPALIVE))?;
    Ok(tcp)
}

async fn secure(tcp: TcpStream, tls: &Tls, protocol: UpstreamProtocol) -> Result<(Io, UpstreamProtocol), Failure> {
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

fn handshake_failed(error: &io::Error) -> Failure {
    let certificate = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
    let reason = if certificate { Reason::UpstreamCertificate } else { Reason::UpstreamTls };
    failed(reason, error.to_string())
}

fn refused(error: &io::Error) -> Failure {
    let reason = match error.kind() {
        io::ErrorKind::TimedOut => Reason::UpstreamConnectTimeout,
        _ => Reason::UpstreamRefused,
    };
    failed(reason, error.to_string())
}

fn failed(reason: Reason, detail: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::new(Side::Upstream, reason, Repeat::Safe, detail)
}
