//! gRPC over HTTP/2: calls to the echo service, and its messages.
//!
//! Called by road tests and by the conformance runner as a client, and by the echo server, which answers with these messages.
//! Unary calls only; the service is `gateway_api_conformance.echo_basic.grpcecho.GrpcEcho`.

use std::io;

use crate::client::http2::Connection;
use crate::client::{Answer, Endpoint, Failure, Request, open};
use crate::h1;
use crate::protobuf;

/// Full name of the echo service.
pub const ECHO_SERVICE: &str = "gateway_api_conformance.echo_basic.grpcecho.GrpcEcho";

/// The gRPC code for success.
pub const OK: u32 = 0;
/// The gRPC code for an unknown method, also for an HTTP 404 without gRPC status.
pub const UNIMPLEMENTED: u32 = 12;
const UNKNOWN: u32 = 2;
const INTERNAL: u32 = 13;

/// What the echo server saw, as it tells it in its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assertions {
    /// `/package.Service/Method` as received.
    pub full_method: String,
    /// Every metadata pair, `:authority` included.
    pub metadata: Vec<(String, String)>,
    /// `:authority` as received.
    pub authority: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// TLS of the connection to the pod, if any.
    pub tls: Option<TlsAssertions>,
}

/// What the echo server knows of its TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsAssertions {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: String,
    /// ALPN result.
    pub negotiated_protocol: String,
    /// Server name indication.
    pub server_name: String,
    /// Name of the cipher suite.
    pub cipher_suite: String,
    /// PEM of the certificates that the peer showed.
    pub peer_certificates: Vec<String>,
}

impl Assertions {
    /// The message `EchoResponse`, framed for the wire.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut assertions = Vec::new();
        protobuf::put(&mut assertions, 1, self.full_method.as_bytes());
        for (name, value) in &self.metadata {
            let mut header = Vec::new();
            protobuf::put(&mut header, 1, name.as_bytes());
            protobuf::put(&mut header, 2, value.as_bytes());
            protobuf::put(&mut assertions, 2, &header);
        }
        protobuf::put(&mut assertions, 3, self.authority.as_bytes());
        let mut place = Vec::new();
        protobuf::put(&mut place, 1, self.namespace.as_bytes());
        protobuf::put(&mut place, 4, self.pod.as_bytes());
        protobuf::put(&mut assertions, 4, &place);
        if let Some(tls) = &self.tls {
            protobuf::put(&mut assertions, 5, &tls.encode());
        }
        let mut response = Vec::new();
        protobuf::put(&mut response, 1, &assertions);
        frame(&response)
    }

    fn decode(framed: &[u8]) -> Option<Assertions> {
        let response = protobuf::fields(framed.get(5..)?)?;
        let (_, assertions) = response.into_iter().find(|(number, _)| *number == 1)?;
        let mut seen = Assertions::default();
        for (number, content) in protobuf::fields(assertions)? {
            match number {
                1 => seen.full_method = text(content),
                2 => {
                    let header = protobuf::fields(content)?;
                    seen.metadata.push((string(&header, 1), string(&header, 2)));
                }
                3 => seen.authority = text(content),
                4 => {
                    let place = protobuf::fields(content)?;
                    seen.namespace = string(&place, 1);
                    seen.pod = string(&place, 4);
                }
                5 => seen.tls = Some(TlsAssertions::decode(content)?),
                _ => {}
            }
        }
        Some(seen)
    }
}

impl TlsAssertions {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        protobuf::put(&mut out, 1, self.version.as_bytes());
        protobuf::put(&mut out, 2, self.negotiated_protocol.as_bytes());
        protobuf::put(&mut out, 3, self.server_name.as_bytes());
        protobuf::put(&mut out, 4, self.cipher_suite.as_bytes());
        for certificate in &self.peer_certificates {
            protobuf::put(&mut out, 5, certificate.as_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<TlsAssertions> {
        let fields = protobuf::fields(bytes)?;
        let certificates = fields.iter().filter(|(number, _)| *number == 5);
        Some(TlsAssertions {
            version: string(&fields, 1),
            negotiated_protocol: string(&fields, 2),
            server_name: string(&fields, 3),
            cipher_suite: string(&fields, 4),
            peer_certificates: certificates.map(|(_, content)| text(content)).collect(),
        })
    }
}

fn text(content: &[u8]) -> String {
    String::from_utf8_lossy(content).into_owned()
}

fn string(fields: &[(u32, &[u8])], number: u32) -> String {
    let found = fields.iter().find(|(n, _)| *n == number);
    found.map(|(_, content)| text(content)).unwrap_or_default()
}

/// A message with its gRPC prefix: not compressed, four bytes of length.
fn frame(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// The outcome of a call that got as far as an HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// gRPC status code; derived from the HTTP status when the server sent none.
    pub code: u32,
    /// `grpc-message`, or a sentence about the HTTP answer.
    pub message: String,
    /// What the server saw, on success.
    pub seen: Option<Assertions>,
}

/// One HTTP/2 connection for calls.
#[derive(Debug)]
pub struct Channel {
    connection: Connection,
}

impl Channel {
    /// Connects.
    ///
    /// # Errors
    /// TCP, TLS or the HTTP/2 preface failed.
    pub async fn connect(endpoint: &Endpoint) -> Result<Channel, Failure> {
        let stream = open(endpoint).await?;
        let connection = Connection::start(stream, endpoint.scheme()).await.map_err(Failure::Exchange)?;
        Ok(Channel { connection })
    }

    /// Calls a method of the echo service with an empty message.
    ///
    /// # Errors
    /// The connection or the stream broke before an HTTP answer was complete.
    pub async fn echo(&self, method: &str, authority: &str, metadata: &[(String, String)]) -> Result<Reply, Failure> {
        let mut request = Request::get(authority, &format!("/{ECHO_SERVICE}/{method}"))
            .with("content-type", "application/grpc")
            .with("te", "trailers");
        request.method = "POST".to_owned();
        request.fields.extend(metadata.iter().cloned());
        request.body = frame(&[]);
        let answer = self.connection.exchange(&request).await.map_err(Failure::Exchange)?;
        Ok(reply_of(&answer))
    }
}

/// Reads the gRPC status of an HTTP answer (gRPC over HTTP/2, and its mapping of HTTP status codes).
fn reply_of(answer: &Answer) -> Reply {
    let status = h1::first(&answer.trailers, "grpc-status").or_else(|| answer.field("grpc-status"));
    let message = h1::first(&answer.trailers, "grpc-message").or_else(|| answer.field("grpc-message"));
    let code = match (answer.status, status) {
        (200, Some(status)) => status.parse().unwrap_or(UNKNOWN),
        (status, _) => code_of_http_status(status),
    };
    let message = match message {
        Some(message) => message.to_owned(),
        None => format!("HTTP status {}", answer.status),
    };
    match (code == OK).then(|| Assertions::decode(&answer.body)) {
        Some(Some(seen)) => Reply { code, message, seen: Some(seen) },
        Some(None) => Reply { code: INTERNAL, message: "the message is cut off".to_owned(), seen: None },
        None => Reply { code, message, seen: None },
    }
}

fn code_of_http_status(status: u16) -> u32 {
    match status {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => 14,
        _ => UNKNOWN,
    }
}

/// Reads a gRPC code by its name, such as `UNIMPLEMENTED`.
///
/// # Errors
/// The name is none of those that the conformance cases use.
pub fn code_named(name: &str) -> io::Result<u32> {
    match name {
        "OK" => Ok(OK),
        "UNIMPLEMENTED" => Ok(UNIMPLEMENTED),
        other => Err(io::Error::other(format!("unknown gRPC code {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertions_come_back_as_they_were_sent() {
        let sent = Assertions {
            full_method: format!("/{ECHO_SERVICE}/Echo"),
            metadata: vec![(":authority".to_owned(), "a:80".to_owned()), ("x".to_owned(), String::new())],
            authority: "a:80".to_owned(),
            namespace: "n".to_owned(),
            pod: "p".to_owned(),
            tls: Some(TlsAssertions { version: "TLSv1.3".to_owned(), ..TlsAssertions::default() }),
        };
        assert_eq!(Assertions::decode(&sent.encode()), Some(sent));
    }

    #[test]
    fn a_plain_404_reads_as_unimplemented() {
        let answer = Answer { status: 404, ..Answer::default() };
        assert_eq!(reply_of(&answer).code, UNIMPLEMENTED);
    }
}
