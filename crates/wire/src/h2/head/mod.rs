//! Message heads of HTTP/2 (RFC 9113 section 8): field blocks to [`Request`] and [`Response`], and back.
//!
//! Called by the connection with whole blocks. Refuses whatever section 8 calls malformed, never repairs; and what is written
//! comes from typed heads, so that nothing malformed can leave. A block of a message that is refused is read to its end all
//! the same: the next one needs the table.
//!
//! Left to the caller: whether a body is as long as announced, how many interim responses there may be, and the scheme, which
//! is what the connection is and not what the client calls it.
//!
//! [`Request`]: crate::head::Request
//! [`Response`]: crate::head::Response

mod malformed;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use crate::h1::Underscore;
pub use malformed::Malformed;
pub use read::{RequestHead, discard, read_request, read_response, read_trailers};
pub use write::{write_request, write_response, write_trailers};

/// What a peer may send in one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of a field section as RFC 9113 section 6.5.2 counts them: name, value and 32 for each line, pseudo-fields
    /// included.
    pub bytes: usize,
    /// Field lines, without pseudo-fields. Each part of a split `Cookie` is one.
    pub fields: usize,
    /// Whether tunnels are offered.
    pub connect: Connect,
    /// Request fields with `_` in their name. Responses and trailers keep theirs.
    pub underscore: Underscore,
}

/// What becomes of a CONNECT to a host (RFC 9113 section 8.5). The extended one (RFC 8441) is always taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connect {
    /// It is malformed.
    Refused,
    /// It is a request with an authority, and without scheme and path.
    Taken,
}

/// Why a block did not become a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The block cannot be decoded: a connection error COMPRESSION_ERROR (RFC 9113 section 4.3).
    #[error("a field block cannot be decoded")]
    Compression,
    /// The message is refused. The block was decoded to its end, so the connection can go on.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// More bytes than [`HeadLimits::bytes`]: 431.
    #[error("the head is too large")]
    TooLarge,
    /// More lines than [`HeadLimits::fields`]: 431.
    #[error("there are too many fields")]
    TooManyFields,
    /// Malformed (RFC 9113 section 8.1.1).
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<super::hpack::BadBlock> for Unreadable {
    fn from(_: super::hpack::BadBlock) -> Unreadable {
        Unreadable::Compression
    }
}
