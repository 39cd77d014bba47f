//! The gRPC framing of messages: length-prefixed frames, status codes, and the text of an error in a trailer.
//!
//! Used by both ends of the control connection, which own the HTTP/2 stream. No compression is offered, so none is accepted
//! (gRPC over HTTP2, "Length-Prefixed-Message").

use std::fmt;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;

/// The media type of requests and responses.
pub const CONTENT_TYPE: &str = "application/grpc";
/// Flag and length before every message.
const PREFIX: usize = 5;

/// A status code of gRPC, as far as the control connection uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// Everything went well.
    Ok = 0,
    /// The request makes no sense.
    InvalidArgument = 3,
    /// The caller is known and may not.
    PermissionDenied = 7,
    /// There is too much of something.
    ResourceExhausted = 8,
    /// No such method.
    Unimplemented = 12,
    /// The server failed.
    Internal = 13,
    /// The server cannot now; try again.
    Unavailable = 14,
    /// The caller has to prove who it is.
    Unauthenticated = 16,
}

impl Code {
    /// The code behind a number; what is unknown counts as internal.
    pub fn of(number: u32) -> Self {
        match number {
            0 => Self::Ok,
            3 => Self::InvalidArgument,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            12 => Self::Unimplemented,
            14 => Self::Unavailable,
            16 => Self::Unauthenticated,
            _ => Self::Internal,
        }
    }
}

/// How a call ended, when it did not end well. Displays as the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What kind of failure.
    pub code: Code,
    /// A sentence for people.
    pub message: String,
}

impl Failed {
    /// A failure with this sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

/// A message in its frame.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A BytesMut grows, so there is room in any case.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// Why frames cannot be read. The stream ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// The message is compressed, which nobody offered.
    Compressed,
    /// The message is longer than messages may be.
    TooLong,
    /// The bytes are not the message that is expected.
    Malformed,
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Compressed => "a compressed message, which was not offered",
            Self::TooLong => "a message longer than messages may be",
            Self::Malformed => "bytes that are not the message that is expected",
        })
    }
}

impl std::error::Error for BadFrame {}

/// Cuts what arrives into messages.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    longest: usize,
}

impl Frames {
    /// For messages of at most `longest` bytes.
    pub fn new(longest: usize) -> Self {
        Self { buffer: BytesMut::new(), longest }
    }

    /// Takes in what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// The frame or the message in it is not allowed.
    pub fn take<M: Message + Default>(&mut self) -> Result<Option<M>, BadFrame> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let [flag, a, b, c, d] = *prefix;
        if flag != 0 {
            return Err(BadFrame::Compressed);
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > self.longest {
            return Err(BadFrame::TooLong);
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(length).freeze();
        M::decode(message).map(Some).map_err(|_| BadFrame::Malformed)
    }
}

/// The text of the trailer `grpc-message`: everything but printable ASCII without `%` is percent-encoded.
pub fn encode_message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Reads the text of the trailer `grpc-message`; what is not encoded rightly stays as it is.
pub fn decode_message(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = text.get(at + 1..at + 3).filter(|_| *byte == b'%');
        if let Some(value) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            out.push(value);
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::ProtoDuration;

    #[test]
    fn messages_are_cut_out_of_any_pieces() {
        let sent = [ProtoDuration { seconds: 300, nanos: 1 }, ProtoDuration::default()];
        let bytes: Vec<u8> = sent.iter().flat_map(|message| frame(message).to_vec()).collect();
        for size in 1..bytes.len() {
            let mut frames = Frames::new(100);
            let mut read = Vec::new();
            for piece in bytes.chunks(size) {
                frames.push(piece);
                while let Some(message) = frames.take::<ProtoDuration>().expect("good frames") {
                    read.push(message);
                }
            }
            assert_eq!(read, sent, "in pieces of {size}");
        }
    }

    #[test]
    fn what_was_not_agreed_upon_is_refused() {
        for (bytes, bad) in [
            (&[1, 0, 0, 0, 0][..], BadFrame::Compressed),
            (&[0, 0, 0, 0, 11], BadFrame::TooLong),
            (&[0, 255, 255, 255, 255], BadFrame::TooLong),
            (&[0, 0, 0, 0, 1, 0xff], BadFrame::Malformed),
        ] {
            let mut frames = Frames::new(10);
            frames.push(bytes);
            assert_eq!(frames.take::<ProtoDuration>(), Err(bad));
        }
    }

    #[test]
    fn a_sentence_survives_the_trailer() {
        for text in ["", "100 % `é`\n", "%zz %4", "plain"] {
            assert_eq!(decode_message(&encode_message(text)), text);
            assert!(encode_message(text).bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
        assert_eq!(decode_message("%zz%4é"), "%zz%4é");
        assert_eq!(Code::of(16), Code::Unauthenticated);
        assert_eq!(Code::of(99), Code::Internal);
    }
}
