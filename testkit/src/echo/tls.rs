//! What an echo server tells of its TLS connection. Called once per connection, after the handshake.

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::answer::EchoTls;
use crate::certificates::pem_block;

pub(super) fn seen(stream: &TlsStream<TcpStream>) -> EchoTls {
    let connection = stream.get_ref().1;
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    };
    let suite = connection.negotiated_cipher_suite();
    let certificates = connection.peer_certificates().unwrap_or_default();
    EchoTls {
        version: version.to_owned(),
        server_name: connection.server_name().unwrap_or_default().to_owned(),
        negotiated_protocol: connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        cipher_suite: suite.and_then(|suite| suite.suite().as_str()).unwrap_or_default().to_owned(),
        peer_certificates: certificates.iter().map(|der| pem_block("CERTIFICATE", der)).collect(),
    }
}
