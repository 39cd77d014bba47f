//! HTTP/1.1 in front of the echo answers, with keep-alive and WebSocket. Called per connection; it decides nothing.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::Pod;
use super::answer::{EchoTls, Incoming, Outcome, Response, answer};
use crate::h1::{Framing, Head, Reader, Stream, head_bytes};
use crate::websocket::{CLOSE, accept_key, frame_bytes, read_frame};

/// A connection that can be cut off with a reset instead of an end of file.
pub(super) trait Resettable: Stream {
    fn cut_off(&self) -> io::Result<()>;
}

impl Resettable for TcpStream {
    fn cut_off(&self) -> io::Result<()> {
        self.set_zero_linger()
    }
}

impl Resettable for TlsStream<TcpStream> {
    fn cut_off(&self) -> io::Result<()> {
        self.get_ref().0.set_zero_linger()
    }
}

pub(super) async fn serve<S: Resettable>(stream: S, pod: Arc<Pod>, tls: Option<Arc<EchoTls>>) -> io::Result<()> {
    let mut reader = Reader::new(stream);
    while let Some(head) = reader.read_head().await? {
        if head.field("expect").is_some_and(|what| what.eq_ignore_ascii_case("100-continue")) {
            reader.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        reader.read_body(Framing::of_request(&head)).await?;
        let incoming = incoming_of(&head, tls.clone())?;
        match answer(&pod, &incoming).await {
            Outcome::Respond(response) => {
                let last = head.field("connection").is_some_and(|what| what.eq_ignore_ascii_case("close"));
                reader.send(&response_bytes(&response, &incoming.method, last)).await?;
                if last {
                    return Ok(());
                }
            }
            Outcome::Reset => {
                // Dropping the stream now sends a reset.
                return reader.stream().cut_off();
            }
            Outcome::WebSocket => return serve_websocket(reader, &head).await,
        }
    }
    Ok(())
}

/// Answers 400 to whoever did not speak HTTP/2 on a port for it.
pub(super) async fn refuse<S: Stream>(stream: S) -> io::Result<()> {
    let response = Response::plain(400, "this port speaks HTTP/2 with prior knowledge");
    Reader::new(stream).send(&response_bytes(&response, "GET", true)).await
}

fn incoming_of(head: &Head, tls: Option<Arc<EchoTls>>) -> io::Result<Incoming> {
    let mut parts = head.start_line.split(' ');
    let (Some(method), Some(target), Some(_version)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(io::Error::other("not a request line"));
    };
    let others = head.fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
    Ok(Incoming {
        method: method.to_owned(),
        target: target.to_owned(),
        host: head.field("host").unwrap_or_default().to_owned(),
        proto: "HTTP/1.1",
        fields: others.cloned().collect(),
        tls,
    })
}

fn response_bytes(response: &Response, method: &str, last: bool) -> Vec<u8> {
    let mut fields = response.fields.clone();
    let bodiless = matches!(response.status, 100..=199 | 204 | 304);
    if !bodiless {
        fields.push(("Content-Length".to_owned(), response.body.len().to_string()));
    }
    if last {
        fields.push(("Connection".to_owned(), "close".to_owned()));
    }
    let mut bytes = head_bytes(&format!("HTTP/1.1 {} Echo", response.status), &fields);
    if !bodiless && method != "HEAD" {
        bytes.extend_from_slice(&response.body);
    }
    bytes
}

async fn serve_websocket<S: Stream>(mut reader: Reader<S>, head: &Head) -> io::Result<()> {
    let Some(key) = head.field("sec-websocket-key") else {
        let response = Response::plain(400, "not a WebSocket handshake");
        return reader.send(&response_bytes(&response, "GET", true)).await;
    };
    let fields = [
        ("Upgrade".to_owned(), "websocket".to_owned()),
        ("Connection".to_owned(), "Upgrade".to_owned()),
        ("Sec-WebSocket-Accept".to_owned(), accept_key(key)),
    ];
    reader.send(&head_bytes("HTTP/1.1 101 Switching Protocols", &fields)).await?;
    while let Some(frame) = read_frame(&mut reader).await? {
        let last = frame.opcode == CLOSE;
        if let Some(echo) = frame.echoed() {
            reader.send(&frame_bytes(&echo, None)).await?;
        }
        if last {
            break;
        }
    }
    Ok(())
}
