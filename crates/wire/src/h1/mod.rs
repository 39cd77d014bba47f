//! HTTP/1.1 on the wire (RFC 9112), without IO and without mercy.
//!
//! The proxy calls it in this order: [`parse_request`] until a head is complete, [`Decoder`] for the body,
//! [`write_request`] towards the backend, [`parse_response`], [`Decoder`] again, [`write_response`] towards the client;
//! [`strip_hop_by_hop`] between reading a head and passing it on.
//!
//! Everything ambiguous is refused, never repaired, and what is written comes from typed heads that have passed the
//! grammar, with a framing that is an argument: two receivers of one message cannot disagree about where it ends.
//! Timeouts, counting of interim responses and what to do with a connection after an error are the caller's.

mod body;
mod framing;
mod hop;
mod malformed;
mod request;
mod response;
mod scan;
mod section;
mod write;

#[cfg(test)]
mod tests;

pub use body::{Decoded, Decoder, may_trail};
pub use hop::{Protocol, Stripped, strip_hop_by_hop};
pub use malformed::Malformed;
pub use request::{RequestMeta, TargetForm, parse_request};
pub use response::{ResponseMeta, parse_response};
pub use scan::{Preface, Scan, begins_with_request_line, is_h2_preface, is_h2_settings};
pub use write::{Connection, write_chunk_end, write_chunk_start, write_last_chunk, write_request, write_response};

use crate::head::{FieldId, Version};

/// What a peer may send before it is refused. The same limits serve requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request line or status line, without its CRLF. More is 414.
    pub request_line: usize,
    /// Bytes of a whole head, first line included. More is 431.
    pub head_bytes: usize,
    /// Field lines of a head. More is 431.
    pub fields: usize,
    /// Bytes of a line with a chunk size and its extensions.
    pub chunk_line: usize,
    /// Bytes of a trailer section. More is 431.
    pub trailer_bytes: usize,
    /// Field lines of a trailer section. More is 431.
    pub trailer_fields: usize,
    /// Request fields with `_` in their name. Responses keep theirs.
    pub underscore: Underscore,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            request_line: 8 * 1024,
            head_bytes: 64 * 1024,
            fields: 100,
            chunk_line: 4 * 1024,
            trailer_bytes: 16 * 1024,
            trailer_fields: 32,
            underscore: Underscore::Drop,
        }
    }
}

/// What happens to a field with `_` in its name, which CGI-style servers take for one with `-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscore {
    /// The message is refused.
    Refuse,
    /// The field is left out, as if it had not been sent. Its bytes count towards the limits.
    #[default]
    Drop,
    /// The field is kept, unless with `-` it would be one that is known here: another spelling of `Content-Length` is always left out.
    KeepUnknown,
    /// The field is kept.
    Keep,
}

impl Underscore {
    /// Whether a field with this name, which has a `_`, is kept.
    ///
    /// # Errors
    /// [`Malformed::UnderscoreInName`] where the whole message is refused.
    pub fn keeps(self, name: &[u8]) -> Result<bool, Malformed> {
        match self {
            Underscore::Refuse => Err(Malformed::UnderscoreInName),
            Underscore::Drop => Ok(false),
            Underscore::KeepUnknown => Ok(!is_respelled(name)),
            Underscore::Keep => Ok(true),
        }
    }
}

/// Whether a name with `_` is another spelling of one that is known.
fn is_respelled(name: &[u8]) -> bool {
    let mut dashed = [0; LONGEST_KNOWN];
    let Some(dashed) = dashed.get_mut(..name.len()) else { return false };
    for (to, from) in dashed.iter_mut().zip(name) {
        *to = if *from == b'_' { b'-' } else { *from };
    }
    FieldId::from_bytes(dashed) != FieldId::OTHER
}

/// No known name is longer.
const LONGEST_KNOWN: usize = 64;

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Body {
    /// There is none, and nothing in the head says how long it is.
    None,
    /// After so many bytes.
    Length(u64),
    /// With a last chunk.
    Chunked,
    /// With the connection; only in responses.
    UntilClose,
}

impl Body {
    /// Whether there is no byte of content.
    pub const fn is_empty(&self) -> bool {
        matches!(self, Body::None | Body::Length(0))
    }

    /// The framing of the same response towards a peer of the version: HTTP/1.0 knows no chunks.
    pub const fn toward(self, version: Version) -> Body {
        match (self, version) {
            (Body::Chunked, Version::Http10) => Body::UntilClose,
            (body, _) => body,
        }
    }
}

/// Why a parser stopped before the end.
#[derive(Debug)]
enum Halt {
    /// The bytes end before the message part does.
    Incomplete,
    Malformed(Malformed),
}

impl From<Malformed> for Halt {
    fn from(malformed: Malformed) -> Halt {
        Halt::Malformed(malformed)
    }
}

impl Halt {
    /// The error when the bytes ended because of a limit, not because there are no more yet.
    fn at_limit(self, bytes: &[u8], limit: usize, too_long: Malformed) -> Halt {
        match self {
            Halt::Incomplete if bytes.len() >= limit => Halt::Malformed(too_long),
            halt => halt,
        }
    }
}

/// At most so many of the bytes: a limit is a window, so that what lies beyond it cannot change the answer.
fn window(bytes: &[u8], limit: usize) -> &[u8] {
    bytes.get(..limit).unwrap_or(bytes)
}
