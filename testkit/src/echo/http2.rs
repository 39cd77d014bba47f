//! HTTP/2 in front of the echo answers, on the `h2` crate; also carries the gRPC service. Called per connection.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use tokio::io::{AsyncReadExt, Join, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Pod;
use super::answer::{EchoTls, Incoming, Outcome, Response, answer};
use super::grpc;
use crate::client::http2::fields_of;
use crate::h1::Stream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What runs over the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Http,
    Grpc,
}

type Replayed = Join<tokio::io::Chain<io::Cursor<Vec<u8>>, ReadHalf<TcpStream>>, WriteHalf<TcpStream>>;

/// A connection by its first bytes, which can be read again.
pub(super) enum Detected {
    Http2(Replayed),
    Other(Replayed),
}

/// Reads until the bytes are the HTTP/2 preface or cannot become it.
pub(super) async fn detect(mut tcp: TcpStream) -> io::Result<Detected> {
    let mut seen = Vec::new();
    let preface = loop {
        if seen.len() >= PREFACE.len() {
            break true;
        }
        let mut byte = [0; 1];
        if tcp.read(&mut byte).await? == 0 {
            break false;
        }
        seen.push(byte[0]);
        if !PREFACE.starts_with(&seen) {
            break false;
        }
    };
    let (read, write) = tokio::io::split(tcp);
    let replayed = tokio::io::join(io::Cursor::new(seen).chain(read), write);
    Ok(if preface { Detected::Http2(replayed) } else { Detected::Other(replayed) })
}

pub(super) async fn serve<S: Stream>(
    stream: S,
    pod: Arc<Pod>,
    service: Service,
    tls: Option<Arc<EchoTls>>,
) -> io::Result<()> {
    let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
    let mut streams = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.map_err(io::Error::other)?;
        let (pod, tls) = (Arc::clone(&pod), tls.clone());
        while streams.try_join_next().is_some() {}
        streams.spawn(async move {
            // A stream that the peer reset needs no answer.
            let _reset = serve_stream(request, respond, &pod, service, tls).await;
        });
    }
    Ok(())
}

async fn serve_stream(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    pod: &Pod,
    service: Service,
    tls: Option<Arc<EchoTls>>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    while let Some(piece) = body.data().await {
        body.flow_control().release_capacity(piece?.len())?;
    }
    let target = head.uri.path_and_query().map_or("*", |target| target.as_str());
    let incoming = Incoming {
        method: head.method.as_str().to_owned(),
        target: target.to_owned(),
        host: head.uri.authority().map_or("", |authority| authority.as_str()).to_owned(),
        proto: "HTTP/2.0",
        fields: fields_of(&head.headers),
        tls,
    };
    if service == Service::Grpc {
        return grpc::answer(pod, &incoming, respond);
    }
    match answer(pod, &incoming).await {
        Outcome::Respond(response) => send(&response, &incoming.method, respond),
        Outcome::Reset | Outcome::WebSocket => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            Ok(())
        }
    }
}

fn send(response: &Response, method: &str, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut head = http::Response::builder().status(response.status);
    for (name, value) in &response.fields {
        head = head.header(name.to_ascii_lowercase(), value.as_str());
    }
    let Ok(head) = head.body(()) else {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return Ok(());
    };
    let empty = response.body.is_empty() || method == "HEAD";
    let mut body = respond.send_response(head, empty)?;
    if !empty {
        body.send_data(Bytes::copy_from_slice(&response.body), true)?;
    }
    Ok(())
}

/// Ends a gRPC answer: the trailers with their status.
pub(super) fn grpc_trailers(code: u32) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers
}
