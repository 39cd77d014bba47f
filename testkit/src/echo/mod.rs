//! Echo servers: they answer with what they saw, as the echo programs of the Gateway API conformance suite do.
//!
//! Called by road tests (one server on a free port) and by the conformance runner (many pods in one process, each on an
//! address of its own). One [`Pod`] may serve several ports; its retry counters and its log are shared by them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Identity;

mod answer;
mod grpc;
mod http1;
mod http2;
mod log;
mod tcp;
mod tls;

pub use answer::{Echo, EchoTls};
pub use log::RequestLog;
pub use tcp::GREETING;

/// Who answers.
#[derive(Debug)]
pub struct Pod {
    /// Name, such as `infra-backend-v1-7d4b9c-x1`.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Where the targets of the requests are noted; may be shared with other pods.
    pub log: RequestLog,
    /// Attempts per uuid. One lock per pod, held while an attempt is handled, as in the official echo server.
    attempts: Mutex<HashMap<String, u64>>,
}

impl Pod {
    /// A pod that has seen nothing yet.
    pub fn new(name: &str, namespace: &str, log: RequestLog) -> Arc<Pod> {
        Arc::new(Pod {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            log,
            attempts: Mutex::new(HashMap::new()),
        })
    }
}

/// What a port speaks.
#[derive(Clone, Debug)]
pub enum Port {
    /// HTTP/1.1 in clear text, with WebSocket on `/ws`.
    Http1,
    /// HTTP/2 with prior knowledge; anything else gets 400.
    H2c,
    /// HTTP/1.1 or HTTP/2 over TLS, by ALPN.
    Https(Arc<ServerConfig>),
    /// gRPC with prior knowledge in clear text.
    Grpc,
    /// gRPC over TLS.
    GrpcTls(Arc<ServerConfig>),
    /// Lines in clear text, after a greeting.
    Tcp,
}

/// The TLS side of an echo port: a client certificate is asked for only if `client_authority` is given, then verified if one is
/// shown, and never required.
///
/// # Errors
/// The certificate, the key or the authority is unusable.
pub fn server_tls(
    identity: &Identity,
    client_authority: Option<&CertificateDer<'static>>,
    alpn: &[&str],
) -> io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match client_authority {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.clone()).map_err(io::Error::other)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(io::Error::other)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(vec![identity.certificate()?], identity.key()?).map_err(io::Error::other)?;
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// A port that is being served; it closes, with all its connections, when this is dropped.
#[derive(Debug)]
pub struct Serving {
    /// The address that was bound.
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Binds an address (port 0 for any) and serves it.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(address: SocketAddr, port: Port, pod: &Arc<Pod>) -> io::Result<Serving> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let pod = Arc::clone(pod);
    let accepting = tokio::spawn(async move {
        // Dropping the set ends its connections, so ending this task ends everything.
        let mut connections = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            while connections.try_join_next().is_some() {}
            let (port, pod) = (port.clone(), Arc::clone(&pod));
            connections.spawn(async move {
                // A peer that breaks off is what many tests want; nobody is to be told.
                let _broken = serve_connection(tcp, port, pod).await;
            });
        }
    });
    Ok(Serving { address, accepting })
}

async fn serve_connection(tcp: TcpStream, port: Port, pod: Arc<Pod>) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    match port {
        Port::Http1 => http1::serve(tcp, pod, None).await,
        Port::H2c => match http2::detect(tcp).await? {
            http2::Detected::Http2(stream) => http2::serve(stream, pod, http2::Service::Http, None).await,
            http2::Detected::Other(stream) => http1::refuse(stream).await,
        },
        Port::Tcp => tcp::serve(tcp, pod).await,
        Port::Grpc => http2::serve(tcp, pod, http2::Service::Grpc, None).await,
        Port::Https(config) => {
            let stream = TlsAcceptor::from(config).accept(tcp).await?;
            let seen = Arc::new(tls::seen(&stream));
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => http2::serve(stream, pod, http2::Service::Http, Some(seen)).await,
                _ => http1::serve(stream, pod, Some(seen)).await,
            }
        }
        Port::GrpcTls(config) => {
            let stream = TlsAcceptor::from(config).accept(tcp).await?;
            let seen = Arc::new(tls::seen(&stream));
            http2::serve(stream, pod, http2::Service::Grpc, Some(seen)).await
        }
    }
}

#[cfg(test)]
mod tests;
