//! A connection for one check: clear text, or under the TLS settings of the backend.
//!
//! Called by `ask`. Unlike the data path these connections are rare and short, so they are plain runtime streams.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use transept_engine::snapshot::{Backend, Endpoint, UpstreamProtocol};

use super::ask::Trouble;
use crate::capture;
use crate::worker::Shared;

/// Errors of the operating system that tell of our own limits: ENFILE, EMFILE, ENOMEM, ENOBUFS, EADDRNOTAVAIL.
const OUR_LIMITS: [i32; 5] = [23, 24, 12, 105, 99];

/// A connection.
pub(super) enum Stream {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

/// Opens a connection in clear text.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, Trouble> {
    let tcp = capture::connect(address).await.map_err(|error| {
        if error.raw_os_error().is_some_and(|code| OUR_LIMITS.contains(&code)) {
            return Trouble::Ours(error.to_string());
        }
        Trouble::silent(&error)
    })?;
    tcp.set_nodelay(true).map_err(|error| Trouble::silent(&error))?;
    Ok(tcp)
}

/// Speaks TLS as with requests, if the backend wants it.
pub(super) async fn secure(
    shared: &Shared,
    backend: &Backend,
    endpoint: &Endpoint,
    protocol: UpstreamProtocol,
    tcp: TcpStream,
) -> Result<Stream, Trouble> {
    let Some(tls) = &backend.tls else {
        return Ok(Stream::Plain(tcp));
    };
    let client = shared.tls.client(tls, protocol, tls.client_identity.as_ref());
    let client = client.map_err(|why| Trouble::Ours(why.to_string()))?;
    let name = match tls.server_name.as_ref().or(endpoint.host.as_ref()) {
        Some(host) => {
            ServerName::try_from(host.to_string()).map_err(|_| Trouble::Ours(format!("{host} is not a server name")))?
        }
        None => ServerName::IpAddress(endpoint.address.ip().into()),
    };
    let session = TlsConnector::from(client.config).connect(name, tcp).await;
    Ok(Stream::Secured(Box::new(session.map_err(|error| Trouble::silent(&error))?)))
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Secured(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Stream::Secured(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Secured(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Secured(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
