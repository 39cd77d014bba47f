//! A client of HTTP/2 that writes its frames by hand (RFC 9113), for what no library would send.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::soon;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

pub(crate) const PROTOCOL_ERROR: u32 = 0x1;
pub(crate) const CANCEL: u32 = 0x8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;

/// The preface of a client, with empty settings.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How the gateway ended a stream, or the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A response began; the payload of its HEADERS.
    Response(Vec<u8>),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    /// The connection is closed.
    Closed,
}

/// A connection.
pub(crate) struct Frames {
    tcp: TcpStream,
    /// Read but not looked at, so that a wait that is given up loses nothing.
    ahead: BytesMut,
}

/// A frame (RFC 9113 section 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("small").to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A HEADERS frame.
pub(crate) fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(1, flags, stream, block)
}

pub(crate) fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(0, flags, stream, bytes)
}

pub(crate) fn continuation(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(9, flags, stream, block)
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(3, 0, stream, &code.to_be_bytes())
}

/// A field as a literal that is not indexed (RFC 7541 section 6.2.2), whatever its bytes are.
pub(crate) fn literal(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = vec![0];
    put_string(&mut out, name.as_ref());
    put_string(&mut out, value.as_ref());
    out
}

/// A field as a literal that enters the table (RFC 7541 section 6.2.1), as its newest entry: index 62.
pub(crate) fn indexed_literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0x40];
    put_string(&mut out, name.as_bytes());
    put_string(&mut out, value.as_bytes());
    out
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    // A length with a prefix of seven bits (RFC 7541 section 5.1).
    match text.len() {
        short @ 0..127 => out.push(u8::try_from(short).expect("seven bits")),
        long => {
            out.push(127);
            let mut left = long - 127;
            while left >= 128 {
                out.push(u8::try_from(left % 128 + 128).expect("eight bits"));
                left /= 128;
            }
            out.push(u8::try_from(left).expect("seven bits"));
        }
    }
    out.extend(text);
}

/// The block of a GET for this path, followed by other fields.
pub(crate) fn get(path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "site.test"), (":path", path)];
    block(&[&pseudo[..], fields].concat())
}

/// A block of these fields.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

impl Frames {
    /// Connects and says nothing.
    pub(crate) async fn silent(address: SocketAddr) -> Frames {
        let tcp = soon(TcpStream::connect(address)).await.expect("connected");
        tcp.set_nodelay(true).expect("set");
        Frames { tcp, ahead: BytesMut::new() }
    }

    /// Connects and says the preface and empty settings.
    pub(crate) async fn connect(address: SocketAddr) -> Frames {
        let mut client = Frames::silent(address).await;
        client.send(PREFACE).await;
        client
    }

    /// Sends bytes; a gateway that has seen enough may have gone.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _gone = soon(self.tcp.write_all(bytes)).await;
    }

    /// Sends a frame over and over, so many bytes in all, or until the gateway takes no more.
    pub(crate) async fn flood(&mut self, frame: &[u8], bytes: usize) {
        let burst = frame.repeat(65_536 / frame.len());
        for _ in 0..bytes / burst.len() {
            let sending = self.tcp.write_all(&burst);
            match tokio::time::timeout(Duration::from_millis(500), sending).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }

    /// What becomes of a stream, or of all of them.
    pub(crate) async fn verdict(&mut self, stream: u32) -> Verdict {
        loop {
            let Ok((kind, _, of, payload)) = soon(self.read_frame()).await else {
                return Verdict::Closed;
            };
            let code = |at: usize| {
                let bytes = payload.get(at..at + 4).and_then(|code| code.try_into().ok());
                u32::from_be_bytes(bytes.expect("a code"))
            };
            match kind {
                1 if of == stream => return Verdict::Response(payload),
                3 if of == stream => return Verdict::Reset(code(0)),
                7 => return Verdict::GoAway(code(4)),
                _ => {}
            }
        }
    }

    /// Takes the next connection of the gateway, as a backend, and reads its preface. Says empty settings.
    pub(crate) async fn accept(listener: &TcpListener) -> Frames {
        let (tcp, _) = soon(listener.accept()).await.expect("a connection");
        tcp.set_nodelay(true).expect("set");
        let mut backend = Frames { tcp, ahead: BytesMut::new() };
        soon(backend.tcp.read_exact(&mut [0; 24])).await.expect("the preface");
        backend.send(&frame(4, 0, 0, &[])).await;
        backend
    }

    /// The next frame of this type: its flags, stream and payload.
    pub(crate) async fn next(&mut self, wanted: u8) -> (u8, u32, Vec<u8>) {
        loop {
            let (kind, flags, stream, payload) = soon(self.read_frame()).await.expect("not the end");
            if kind == wanted {
                return (flags, stream, payload);
            }
        }
    }

    /// Whether nothing comes any more but the end; what comes before it is dropped.
    pub(crate) async fn sees_the_end(&mut self) {
        while soon(self.read_frame()).await.is_ok() {}
    }

    async fn read_frame(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let Some(head) = self.ahead.first_chunk::<9>() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let (kind, flags, end) = (head[3], head[4], 9 + usize::try_from(length).map_err(io::Error::other)?);
                if self.ahead.len() >= end {
                    return Ok((kind, flags, stream, self.ahead.split_to(end)[9..].to_vec()));
                }
            }
            if self.tcp.read_buf(&mut self.ahead).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
