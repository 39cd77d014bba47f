//! One check of one endpoint: a connection, a GET, or a call of `grpc.health.v1.Health/Check`.
//!
//! Called by `health`, which bounds it in time. Over HTTP/2 where requests to the backend are, and always for gRPC.

use std::fmt::Display;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transept_engine::health::{Check, Probe};
use transept_engine::snapshot::{Backend, Endpoint, UpstreamProtocol};
use transept_wire::h1::{self, Limits};
use transept_wire::head::{Method, Response};

use super::stream::{Stream, connect, secure};
use crate::worker::Shared;

/// Why a check did not pass.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No answer.
    Silent(String),
    /// An answer, and the wrong one.
    Wrong(String),
    /// It is us who could not ask.
    Ours(String),
}

impl Trouble {
    pub(super) fn silent(why: &impl Display) -> Trouble {
        Trouble::Silent(why.to_string())
    }
}

/// What to put into the head of an answer: more is no health check.
const MOST_HEAD: usize = 64 * 1024;

/// `grpc.health.v1.HealthCheckResponse` with `status: SERVING`.
const SERVING: u8 = 1;

/// Asks an endpoint.
pub(super) async fn ask(shared: &Shared, backend: &Backend, check: &Check, endpoint: &Endpoint) -> Result<(), Trouble> {
    let address = SocketAddr::new(endpoint.address.ip(), check.port.unwrap_or(endpoint.address.port()));
    let tcp = connect(address).await?;
    let protocol = match (&check.probe, backend.protocol) {
        (Probe::Grpc { .. }, _) | (_, UpstreamProtocol::Http2) => UpstreamProtocol::Http2,
        _ => UpstreamProtocol::Http1,
    };
    let host =
        || endpoint.host.as_ref().map_or_else(|| address.to_string(), |host| format!("{host}:{}", address.port()));
    match &check.probe {
        // Where connections begin with TLS, one without is not what was asked for.
        Probe::Tcp => secure(shared, backend, endpoint, protocol, tcp).await.map(drop),
        Probe::Http { path, host: stated, .. } => {
            let host = stated.as_ref().map_or_else(host, ToString::to_string);
            let stream = secure(shared, backend, endpoint, protocol, tcp).await?;
            let status = match protocol {
                UpstreamProtocol::Http2 => {
                    let request = request("GET", backend, &host, path)?;
                    request.send(stream, None).await?.status().as_u16()
                }
                _ => get(stream, &host, path).await?,
            };
            if check.expects(status) { Ok(()) } else { Err(Trouble::Wrong(format!("it answers {status}"))) }
        }
        Probe::Grpc { service } => {
            let stream = secure(shared, backend, endpoint, protocol, tcp).await?;
            call(stream, request("POST", backend, &host(), "/grpc.health.v1.Health/Check")?, service).await
        }
    }
}

/// A GET over HTTP/1.1; gives the status code.
async fn get(mut stream: Stream, host: &str, path: &str) -> Result<u16, Trouble> {
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: transept-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.map_err(|error| Trouble::silent(&error))?;
    stream.flush().await.map_err(|error| Trouble::silent(&error))?;
    let limits = Limits::default();
    let mut response = Response::new(200);
    let mut bytes = BytesMut::with_capacity(4096);
    loop {
        while let Some(meta) = h1::parse_response(&bytes, &Method::Get, &limits, &mut response)
            .map_err(|malformed| Trouble::silent(&malformed))?
        {
            if !response.is_interim() {
                return Ok(response.status);
            }
            let _interim = bytes.split_to(meta.head_len.min(bytes.len()));
        }
        if bytes.len() > MOST_HEAD {
            return Err(Trouble::Silent("the answer has no end".to_owned()));
        }
        let count = stream.read_buf(&mut bytes).await.map_err(|error| Trouble::silent(&error))?;
        if count == 0 {
            return Err(Trouble::Silent("the connection was closed before an answer".to_owned()));
        }
    }
}

/// A request over HTTP/2.
struct H2Request(http::Request<()>);

fn request(method: &str, backend: &Backend, host: &str, path: &str) -> Result<H2Request, Trouble> {
    let scheme = if backend.tls.is_some() { "https" } else { "http" };
    let built = http::Request::builder().method(method).uri(format!("{scheme}://{host}{path}"));
    let built = built.header("user-agent", "transept-health").body(());
    built.map(H2Request).map_err(|error| Trouble::Ours(error.to_string()))
}

impl H2Request {
    /// Sends it with a body over a connection of its own, and waits for the head of the response.
    async fn send(self, stream: Stream, body: Option<Bytes>) -> Result<http::Response<h2::RecvStream>, Trouble> {
        let silent = |error: h2::Error| Trouble::silent(&error);
        let (mut sender, connection) = h2::client::handshake(stream).await.map_err(silent)?;
        let driving = tokio::spawn(connection);
        // However this ends, also early, the connection goes with it.
        let _driving = Abort(driving.abort_handle());
        futures_util::future::poll_fn(|cx| sender.poll_ready(cx)).await.map_err(silent)?;
        let (response, mut sending) = sender.send_request(self.0, body.is_none()).map_err(silent)?;
        if let Some(body) = body {
            sending.send_data(body, true).map_err(silent)?;
        }
        let response = response.await.map_err(silent)?;
        let (head, mut content) = response.into_parts();
        // Read here, while the connection is driven.
        let mut read = BytesMut::new();
        while let Some(piece) = content.data().await {
            let piece = piece.map_err(silent)?;
            let _more = content.flow_control().release_capacity(piece.len());
            if read.len() + piece.len() > MOST_HEAD {
                break;
            }
            read.extend_from_slice(&piece);
        }
        let trailers = content.trailers().await.ok().flatten();
        let mut response = http::Response::from_parts(head, content);
        response.extensions_mut().insert(Content { bytes: read.freeze(), trailers });
        Ok(response)
    }
}

#[derive(Clone)]
struct Content {
    bytes: Bytes,
    trailers: Option<http::HeaderMap>,
}

struct Abort(tokio::task::AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `Health/Check` (grpc.health.v1).
async fn call(stream: Stream, request: H2Request, service: &str) -> Result<(), Trouble> {
    let H2Request(mut head) = request;
    let fields = head.headers_mut();
    fields.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    fields.insert("te", http::HeaderValue::from_static("trailers"));
    let response = H2Request(head).send(stream, Some(question(service))).await?;
    if response.status() != http::StatusCode::OK {
        return Err(Trouble::Wrong(format!("it answers {}", response.status().as_u16())));
    }
    let content = response.extensions().get::<Content>();
    let trailers = content.and_then(|content| content.trailers.as_ref());
    let status =
        trailers.and_then(|trailers| trailers.get("grpc-status")).or_else(|| response.headers().get("grpc-status"));
    match status.map(http::HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(code) => return Err(Trouble::Wrong(format!("gRPC status {}", code.escape_ascii()))),
        None => return Err(Trouble::Silent("the answer has no gRPC status".to_owned())),
    }
    match content.map(|content| serving_status(&content.bytes)) {
        Some(Some(SERVING)) => Ok(()),
        Some(Some(status)) => Err(Trouble::Wrong(format!("it is not serving (status {status})"))),
        _ => Err(Trouble::Silent("the answer is no HealthCheckResponse".to_owned())),
    }
}

/// A `HealthCheckRequest`, framed: field 1 is the service, and absent when empty. Names are shorter than 257 bytes.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// The status in a framed `HealthCheckResponse`: field 1, a small number; 0 (UNKNOWN) when absent. None for anything else.
fn serving_status(framed: &[u8]) -> Option<u8> {
    let (head, message) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes(head.get(1..)?.try_into().ok()?) as usize;
    if head.first() != Some(&0) || message.len() != length {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status @ 0..=0x7f] => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_framed_protobuf() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = question(&"x".repeat(200));
        assert_eq!(&long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn answers_are_read_or_refused() {
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
        for wrong in [&[][..], &[0, 0, 0, 0, 2, 8], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 2, 9, 1]] {
            assert_eq!(serving_status(wrong), None);
        }
    }
}
