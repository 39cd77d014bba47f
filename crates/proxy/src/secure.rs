//! The verb *secure*: the TLS handshake of a client, and what it settles about the peer.
//!
//! Called by `accept.rs` for connections of a TLS listener. Records are `io/tls.rs`, configurations and verification
//! `tls/`.

use std::sync::Arc;

use tokio::net::TcpStream;
use transept_engine::exchange::{ClientCertificate, TlsFacts};
use transept_engine::snapshot::{Bind, ClientValidationMode, ServerTls};

use crate::deadline::Watch;
use crate::io::{TlsSession, accept_hello};
use crate::mesh::Member;
use crate::tls::in_words;
use crate::worker::Worker;

/// The TLS handshake with the configuration of the listener that the server name chooses.
pub(crate) async fn secure(
    worker: &Worker,
    tcp: &TcpStream,
    bind: &Bind,
    watch: &Watch,
) -> Option<(Box<TlsSession>, Arc<ServerTls>)> {
    let handshake = async {
        let hello = accept_hello(tcp).await.map_err(|error| in_words(&error))?;
        let name = hello.server_name();
        let listener =
            bind.listener_for_sni(name.as_deref()).ok_or_else(|| "no listener serves this name".to_owned())?;
        let tls = listener.tls.as_ref().ok_or_else(|| "the listener has no certificate".to_owned())?;
        let config = worker.shared.tls.server(tls).map_err(|why| why.to_string())?;
        let session = hello.proceed(tcp, config).await.map_err(|error| in_words(&error))?;
        Ok::<_, String>((Box::new(session), tls.clone()))
    };
    let mut handshake = std::pin::pin!(handshake);
    match watch.wait(|cx| handshake.as_mut().poll(cx)).await {
        Ok(Ok(secured)) => Some(secured),
        Ok(Err(why)) => {
            tracing::debug!(%why, address = %bind.address, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(address = %bind.address, "a TLS handshake took too long");
            None
        }
    }
}

/// The TLS handshake of the mesh, and who the peer is.
pub(crate) async fn secure_member(
    worker: &Worker,
    tcp: &TcpStream,
    bind: &Bind,
    watch: &Watch,
) -> Option<(Box<TlsSession>, Member)> {
    let handshake = async {
        let membership = worker.shared.mesh.as_ref().ok_or_else(|| Unproven::of("this proxy is not in the mesh"))?;
        let hello = accept_hello(tcp).await.map_err(|error| Unproven::told(&error))?;
        let session = hello.proceed(tcp, membership.server()).await.map_err(|error| Unproven::told(&error))?;
        if session.with(|rustls| rustls.alpn_protocol() != Some(b"h2")) {
            return Err(Unproven::of(
                "the peer does not say that it speaks HTTP/2 (ALPN h2), and tunnels speak nothing else",
            ));
        }
        let now = worker.clock.now().unix;
        let member = session.with(|rustls| membership.member(rustls, now));
        let member = member.ok_or_else(|| Unproven::of("the peer has shown no identity that is accepted"))?;
        Ok::<_, Unproven>((Box::new(session), member))
    };
    let mut handshake = std::pin::pin!(handshake);
    let unproven = match watch.wait(|cx| handshake.as_mut().poll(cx)).await {
        Ok(Ok(secured)) => return Some(secured),
        Ok(Err(unproven)) => unproven,
        Err(_) => Unproven::of("it took too long"),
    };
    let Unproven { refusal, why } = unproven;
    let peer = tcp.peer_addr().ok().map(tracing::field::display);
    match refusal {
        Some(reason) => tracing::info!(reason, %why, peer, address = %bind.address, "a peer is refused"),
        None => tracing::debug!(%why, peer, address = %bind.address, "a handshake of the mesh failed"),
    }
    None
}

/// Why somebody is not known to be a member.
struct Unproven {
    /// The stable name of what is wrong with the identity, when one was shown and refused.
    refusal: Option<&'static str>,
    /// One sentence.
    why: String,
}

impl Unproven {
    fn of(why: &str) -> Self {
        Self { refusal: None, why: why.to_owned() }
    }

    /// From the failure of a handshake, in which a refusal of ours is deep inside.
    fn told(error: &std::io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner.and_then(transept_identity::handshake::refusal) {
            Some(refusal) => Self { refusal: Some(refusal.slug()), why: refusal.to_string() },
            None => Self { refusal: None, why: in_words(error) },
        }
    }
}

/// A certificate that was only asked for, and not verified, is no fact, and neither is one of which nobody can tell when it ends.
pub(crate) fn facts_of(session: &TlsSession, tls: &ServerTls) -> TlsFacts {
    let verified = tls
        .client_validation
        .as_ref()
        .is_some_and(|validation| validation.mode == ClientValidationMode::AllowValidOnly);
    session.with(|rustls| TlsFacts {
        server_name: match rustls {
            rustls::Connection::Server(server) => {
                server.server_name().map(|name| name.to_ascii_lowercase().into_boxed_str())
            }
            rustls::Connection::Client(_) => None,
        },
        alpn: rustls.alpn_protocol().map(Into::into),
        client_certificate: rustls
            .peer_certificates()
            .and_then(|chain| chain.first())
            .filter(|_| verified)
            .and_then(ClientCertificate::read),
    })
}
