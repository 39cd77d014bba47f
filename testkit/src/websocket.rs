//! WebSocket (RFC 6455): handshake, whole frames, no extensions.
//!
//! Called as a client by road tests and the conformance runner; the echo server uses the frames and the accept key.

use std::io;

use data_encoding::BASE64;

use crate::client::{Endpoint, Failure, open};
use crate::h1::{self, Reader, Stream};
use crate::sha1;

/// Frame of text.
pub const TEXT: u8 = 1;
/// Frame of bytes.
pub const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The largest payload that is read, in bytes.
const PAYLOAD_LIMIT: u64 = 64 << 20;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Opcode (RFC 6455, section 5.2).
    pub opcode: u8,
    /// Payload, unmasked.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The answer that an echoing server owes for this frame, and nothing for a pong.
    pub(crate) fn echoed(self) -> Option<Frame> {
        match self.opcode {
            PONG => None,
            PING => Some(Frame { opcode: PONG, ..self }),
            _ => Some(self),
        }
    }
}

/// The value of `Sec-WebSocket-Accept` for a key (RFC 6455, section 4.2.2).
pub(crate) fn accept_key(key: &str) -> String {
    let salted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(&sha1::digest(salted.as_bytes()))
}

/// Reads one frame; `None` when the stream ended between frames.
pub(crate) async fn read_frame<S: Stream>(reader: &mut Reader<S>) -> io::Result<Option<Frame>> {
    let start = match reader.read_exact(2).await {
        Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = match start[1] & 0x7f {
        126 => u64::from(u16::from_be_bytes(number(reader).await?)),
        127 => u64::from_be_bytes(number(reader).await?),
        short => u64::from(short),
    };
    if length > PAYLOAD_LIMIT {
        return Err(io::Error::other("WebSocket frame is too long"));
    }
    let mask: [u8; 4] = if start[1] & 0x80 != 0 { number(reader).await? } else { [0; 4] };
    let mut payload = reader.read_exact(usize::try_from(length).map_err(io::Error::other)?).await?;
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    Ok(Some(Frame { opcode: start[0] & 0x0f, payload }))
}

async fn number<const N: usize, S: Stream>(reader: &mut Reader<S>) -> io::Result<[u8; N]> {
    let bytes = reader.read_exact(N).await?;
    bytes.try_into().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The bytes of a final frame; clients must mask (RFC 6455, section 5.3).
pub(crate) fn frame_bytes(frame: &Frame, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = vec![0x80 | frame.opcode];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match frame.payload.len() {
        short @ 0..126 => out.push(masked | short as u8),
        middle @ 126..0x1_0000 => {
            out.push(masked | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(masked | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    let key = mask.unwrap_or_default();
    out.extend(mask.iter().flatten());
    out.extend(frame.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// The client end of an open WebSocket.
pub struct WebSocket {
    reader: Reader<Box<dyn Stream>>,
}

impl WebSocket {
    /// Connects and shakes hands over HTTP/1.1.
    ///
    /// # Errors
    /// No connection, another status than 101, or a wrong accept key.
    pub async fn connect(endpoint: &Endpoint, host: &str, target: &str, origin: &str) -> Result<WebSocket, Failure> {
        let stream = open(endpoint).await?;
        WebSocket::shake_hands(stream, host, target, origin).await.map_err(Failure::Exchange)
    }

    async fn shake_hands(stream: Box<dyn Stream>, host: &str, target: &str, origin: &str) -> io::Result<WebSocket> {
        let key = BASE64.encode(b"transept-testkit");
        let fields = [
            ("Host", host),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", &key),
            ("Origin", origin),
            ("Sec-WebSocket-Version", "13"),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut reader = Reader::new(stream);
        reader.send(&h1::head_bytes(&format!("GET {target} HTTP/1.1"), &fields)).await?;
        let head = reader.read_head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if head.status() != Some(101) {
            return Err(io::Error::other(format!("no upgrade: {}", head.start_line)));
        }
        if head.field("sec-websocket-accept") != Some(accept_key(&key).as_str()) {
            return Err(io::Error::other("wrong Sec-WebSocket-Accept"));
        }
        Ok(WebSocket { reader })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        // A fixed mask: hiding from broken intermediaries is no concern of a test.
        self.reader.send(&frame_bytes(frame, Some([0x5a, 0x11, 0xc3, 0x07]))).await
    }

    /// Receives a frame; `None` at the end of the connection.
    ///
    /// # Errors
    /// The connection broke inside a frame.
    pub async fn receive(&mut self) -> io::Result<Option<Frame>> {
        read_frame(&mut self.reader).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_gives_the_answer_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn frames_of_every_length_form_come_back() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let (near, far) = tokio::io::duplex(1 << 20);
            let frame = Frame { opcode: BINARY, payload: vec![7; length] };
            Reader::new(near).send(&frame_bytes(&frame, Some([1, 2, 3, 4]))).await.expect("fits");
            let got = read_frame(&mut Reader::new(far)).await.expect("reads");
            assert_eq!(got, Some(frame));
        }
    }
}
