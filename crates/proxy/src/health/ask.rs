//! One check of one endpoint: a connection, a GET, or a call of `grpc.health.v1.Health/Check`.
//!
//! Called by `health`, which bounds it in time. Over HTTP/2 where requests to the backend are, and always for gRPC.

use std::fmt::Display;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transept_engine::health::{Check, Outcome, Probe};
use transept_engine::snapshot::{Backend, Endpoint, UpstreamProtocol};
use transept_wire::h1::{self, Limits};
use transept_wire::head::{FieldId, Method, Request, Response};

use super::h2::exchange;
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
                UpstreamProtocol::Http2 => exchange(stream, &request("GET", backend, &host, path)?, &[]).await?.status,
                _ => get(stream, &host, path).await?,
            };
            match check.read(status) {
                Outcome::Passed => Ok(()),
                Outcome::Silent => Err(Trouble::Silent(format!("it answers {status}"))),
                Outcome::Wrong => Err(Trouble::Wrong(format!("it answers {status}"))),
            }
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
    let mut bytes = Vec::with_capacity(4096);
    loop {
        while let Some(meta) = h1::parse_response(&bytes, &Method::Get, &limits, &mut response)
            .map_err(|malformed| Trouble::silent(&malformed))?
        {
            if !response.is_interim() {
                return Ok(response.status);
            }
            bytes.drain(..meta.head_len.min(bytes.len()));
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

/// The head of a request over HTTP/2.
fn request(method: &str, backend: &Backend, host: &str, path: &str) -> Result<Request, Trouble> {
    let scheme = if backend.tls.is_some() { "https" } else { "http" };
    let mut request = Request::build(method, scheme, host, path).map_err(|why| Trouble::Ours(why.to_string()))?;
    add(&mut request, "user-agent", "transept-health")?;
    Ok(request)
}

fn add(request: &mut Request, name: &str, value: &str) -> Result<(), Trouble> {
    let added = request.fields.push_bytes(name.as_bytes(), value.as_bytes());
    added.map_err(|why| Trouble::Ours(why.to_string()))
}

/// `Health/Check` (grpc.health.v1).
async fn call(stream: Stream, mut request: Request, service: &str) -> Result<(), Trouble> {
    add(&mut request, "content-type", "application/grpc")?;
    add(&mut request, "te", "trailers")?;
    let answer = exchange(stream, &request, &question(service)).await?;
    if answer.status != 200 {
        return Err(Trouble::Wrong(format!("it answers {}", answer.status)));
    }
    let status = answer.trailers.first(FieldId::GRPC_STATUS).or_else(|| answer.fields.first(FieldId::GRPC_STATUS));
    match status {
        Some(b"0") => {}
        Some(code) => return Err(Trouble::Wrong(format!("gRPC status {}", code.escape_ascii()))),
        None => return Err(Trouble::Silent("the answer has no gRPC status".to_owned())),
    }
    match serving_status(&answer.content) {
        Some(SERVING) => Ok(()),
        Some(status) => Err(Trouble::Wrong(format!("it is not serving (status {status})"))),
        None => Err(Trouble::Silent("the answer is no HealthCheckResponse".to_owned())),
    }
}

/// A `HealthCheckRequest`, framed: field 1 is the service, and absent when empty. Names are shorter than 257 bytes.
fn question(service: &str) -> Vec<u8> {
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
    framed
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
