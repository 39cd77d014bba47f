//! Bodies: where the content is in the bytes of a connection (RFC 9112 6 and 7).
//!
//! Called by the relay for each buffer it reads. Copies nothing but trailers: it says which range of the input is
//! content. Decoding of content codings and limits on the size of a body are others' business.

use std::ops::Range;

use super::{Body, Halt, Limits, Malformed, section};
use crate::grammar;
use crate::head::{FieldId, Fields};

/// Finds the content of one message.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    limits: Limits,
    /// Bytes of chunk extensions that content has not paid for.
    extension_debt: u64,
    trailer_text: Vec<u8>,
    trailers: Fields,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length { left: u64 },
    UntilClose,
    ChunkSize { size: u64, digits: u8 },
    ChunkExtension { size: u64, length: usize },
    ChunkSizeLf { size: u64 },
    ChunkData { left: u64 },
    ChunkDataCr,
    ChunkDataLf,
    Trailers { line: usize },
    Done,
}

/// What one call of [`Decoder::decode`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that belong to this body and need not be shown again.
    pub consumed: usize,
    /// Where the content is in the input; empty when there was only framing.
    pub data: Range<usize>,
    /// The body is complete. What follows in the input belongs to the next message.
    pub done: bool,
}

/// Extensions that a body may send without content to go with them.
const FREE_EXTENSIONS: u64 = 16 * 1024;

/// A chunk size of more digits than `u64` has is refused, whatever its value.
const MOST_DIGITS: u8 = 16;

impl Decoder {
    /// For a body of the given framing. Does not allocate.
    pub fn new(body: Body, limits: &Limits) -> Decoder {
        let mut decoder = Decoder {
            state: State::Done,
            limits: *limits,
            extension_debt: 0,
            trailer_text: Vec::new(),
            trailers: Fields::new(),
        };
        decoder.reset(body, limits);
        decoder
    }

    /// Begins another body and keeps the memory.
    pub fn reset(&mut self, body: Body, limits: &Limits) {
        self.limits = *limits;
        self.extension_debt = 0;
        self.trailer_text.clear();
        self.trailers.clear();
        self.state = match body {
            Body::None | Body::Length(0) => State::Done,
            Body::Length(left) => State::Length { left },
            Body::Chunked => State::ChunkSize { size: 0, digits: 0 },
            Body::UntilClose => State::UntilClose,
        };
    }

    /// Whether the body is complete. A body that ends with its connection is complete after [`Decoder::finish_eof`].
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of content that are known to follow; `None` when the framing does not say. For a chunked body, those of the
    /// current chunk.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length { left } | State::ChunkData { left } => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Finds the next piece of content in the input, which follows what earlier calls have consumed.
    ///
    /// Call it again with the rest of the input while `consumed` is less than its length and the body is not done; each
    /// call gives one piece. Once done, it consumes nothing.
    ///
    /// # Errors
    /// [`Malformed`]: the message is broken off, and its connection with it. The decoder stays where it was.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, Malformed> {
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            match self.state {
                State::Done => break,
                State::UntilClose => return Ok(self.piece(at..input.len())),
                State::Length { left } => {
                    let length = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let left = left - length as u64;
                    self.state = if left == 0 { State::Done } else { State::Length { left } };
                    return Ok(self.piece(at..at + length));
                }
                State::ChunkData { left } => {
                    let length = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let left = left - length as u64;
                    self.extension_debt = self.extension_debt.saturating_sub(length as u64);
                    self.state = if left == 0 { State::ChunkDataCr } else { State::ChunkData { left } };
                    return Ok(self.piece(at..at + length));
                }
                _ => at += self.step(rest)?,
            }
        }
        Ok(self.piece(at..at))
    }

    fn piece(&self, data: Range<usize>) -> Decoded {
        Decoded { consumed: data.end, data, done: self.is_done() }
    }

    /// Takes framing of a chunked body; how many bytes, of which there is at least one in the input.
    fn step(&mut self, rest: &[u8]) -> Result<usize, Malformed> {
        let byte = rest.first().copied().unwrap_or_default();
        self.state = match self.state {
            State::ChunkSize { size, digits } => self.chunk_size(byte, size, digits)?,
            State::ChunkExtension { size, length } => {
                return self.chunk_extension(rest, size, length);
            }
            State::ChunkSizeLf { .. } if byte != b'\n' => return Err(Malformed::BareCr),
            State::ChunkSizeLf { size: 0 } => State::Trailers { line: 0 },
            State::ChunkSizeLf { size } => State::ChunkData { left: size },
            State::ChunkDataCr if byte == b'\r' => State::ChunkDataLf,
            State::ChunkDataLf if byte == b'\n' => State::ChunkSize { size: 0, digits: 0 },
            State::ChunkDataCr | State::ChunkDataLf => return Err(Malformed::ChunkTerminator),
            State::Trailers { line } => return self.trailer_bytes(rest, line),
            unchanged => unchanged,
        };
        Ok(1)
    }

    fn chunk_size(&self, byte: u8, size: u64, digits: u8) -> Result<State, Malformed> {
        if let Some(value) = char::from(byte).to_digit(16) {
            if digits == MOST_DIGITS {
                return Err(Malformed::ChunkSize);
            }
            return Ok(State::ChunkSize { size: size << 4 | u64::from(value), digits: digits + 1 });
        }
        match byte {
            _ if digits == 0 => Err(Malformed::ChunkSize),
            b'\r' => Ok(State::ChunkSizeLf { size }),
            b';' => Ok(State::ChunkExtension { size, length: usize::from(digits) + 1 }),
            b'\n' => Err(Malformed::BareLf),
            _ => Err(Malformed::ChunkSize),
        }
    }

    fn chunk_extension(&mut self, rest: &[u8], size: u64, length: usize) -> Result<usize, Malformed> {
        let end = grammar::find_control(rest);
        let taken = end.unwrap_or(rest.len());
        let length = length.saturating_add(taken);
        self.extension_debt = self.extension_debt.saturating_add(taken as u64);
        if length > self.limits.chunk_line || self.extension_debt > FREE_EXTENSIONS {
            return Err(Malformed::ChunkExtensionsTooLarge);
        }
        match end.and_then(|end| rest.get(end)) {
            None => {
                self.state = State::ChunkExtension { size, length };
                Ok(taken)
            }
            Some(b'\r') => {
                self.state = State::ChunkSizeLf { size };
                Ok(taken + 1)
            }
            Some(b'\n') => Err(Malformed::BareLf),
            Some(0) => Err(Malformed::Nul),
            Some(_) => Err(Malformed::ChunkExtension),
        }
    }

    /// Gathers the trailer section line by line; `line` is the length of the line so far.
    fn trailer_bytes(&mut self, rest: &[u8], line: usize) -> Result<usize, Malformed> {
        // The common end: no trailers, in one piece.
        if line == 0 && self.trailer_text.is_empty() && rest.starts_with(b"\r\n") {
            self.state = State::Done;
            return Ok(2);
        }
        let line_end = memchr::memchr(b'\n', rest);
        let piece = rest.get(..line_end.map_or(rest.len(), |end| end + 1)).unwrap_or(rest);
        if self.trailer_text.len() + piece.len() > self.limits.trailer_bytes {
            return Err(Malformed::TrailersTooLarge);
        }
        self.trailer_text.extend_from_slice(piece);
        let line = line + piece.len();
        if line_end.is_none() {
            self.state = State::Trailers { line };
            return Ok(piece.len());
        }
        if !self.trailer_text.ends_with(b"\r\n") {
            return Err(Malformed::BareLf);
        }
        if line == 2 {
            self.parse_trailers()?;
            self.state = State::Done;
        } else {
            self.state = State::Trailers { line: 0 };
        }
        Ok(piece.len())
    }

    fn parse_trailers(&mut self) -> Result<(), Malformed> {
        let rules = section::Rules {
            fields: self.limits.trailer_fields,
            too_many: Malformed::TrailersTooLarge,
            underscore: self.limits.underscore,
        };
        match section::parse(&self.trailer_text, 0, &rules, &mut self.trailers) {
            Ok(_) => {}
            // The section ends with an empty line, so nothing can be missing.
            Err(Halt::Incomplete) => return Err(Malformed::FieldName),
            Err(Halt::Malformed(malformed)) => return Err(malformed),
        }
        self.trailers.remove_ids(!ALLOWED_TRAILERS);
        Ok(())
    }

    /// The trailers of a complete body, when it had any that may be passed on. Editable: a gateway removes from them
    /// what it removes from heads.
    pub fn trailers(&mut self) -> Option<&mut Fields> {
        (self.is_done() && !self.trailers.is_empty()).then_some(&mut self.trailers)
    }

    /// Tells the decoder that the connection has ended in good order.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when the body has not: the receiver must not see a clean end.
    pub fn finish_eof(&mut self) -> Result<(), Malformed> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(Malformed::Truncated),
        }
    }
}

/// Whether a field may be passed on in a trailer section, whichever protocol carried it.
pub const fn may_trail(id: FieldId) -> bool {
    ALLOWED_TRAILERS & id.bit() != 0
}

/// Trailers with names that we do not know are passed on. Of those that we know, these few; the others are framing,
/// routing, authentication, or change how a message is read (RFC 9110 6.5.1).
const ALLOWED_TRAILERS: u128 = FieldId::OTHER.bit()
    | FieldId::GRPC_STATUS.bit()
    | FieldId::GRPC_MESSAGE.bit()
    | FieldId::ETAG.bit()
    | FieldId::PROXY_STATUS.bit();
