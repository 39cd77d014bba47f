//! HTTP/2 on the wire (RFC 9113), without IO: framing, header compression, message heads, flow control, stream states.
//!
//! Called by the proxy's HTTP/2 sides. [`Connection`] is one end of one connection: bytes that were received go in, events
//! come out, and what is to be sent collects in a buffer that the caller takes. Everything malformed is refused, never
//! repaired. Sockets, timers and the question what a request means are the caller's.

mod connection;
mod frame;
pub mod head;
pub mod hpack;
mod receive;
mod receive_control;
mod receive_data;
mod send;
mod stream;

pub use connection::{Config, Connection, Growth, Role};
pub use receive::{Breach, Event, Step};
pub use send::{Gone, Room};
pub use stream::Key;

/// The largest payload of a frame that every endpoint takes without being asked (RFC 9113 section 4.2).
pub const LARGEST_FRAME: u32 = frame::LARGEST as u32;

/// An error code (RFC 9113 section 7). Unknown numbers are possible and mean nothing special.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    /// No error: a graceful end.
    pub const NO_ERROR: Code = Code(0x0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Code = Code(0x1);
    /// An error of our own.
    pub const INTERNAL_ERROR: Code = Code(0x2);
    /// More bytes than the window allows.
    pub const FLOW_CONTROL_ERROR: Code = Code(0x3);
    /// A frame for a stream that is closed.
    pub const STREAM_CLOSED: Code = Code(0x5);
    /// A frame of a size that is not allowed.
    pub const FRAME_SIZE_ERROR: Code = Code(0x6);
    /// The stream was not processed at all.
    pub const REFUSED_STREAM: Code = Code(0x7);
    /// The stream is not wanted any more.
    pub const CANCEL: Code = Code(0x8);
    /// The state of header compression is lost.
    pub const COMPRESSION_ERROR: Code = Code(0x9);
    /// The connection behind a CONNECT broke.
    pub const CONNECT_ERROR: Code = Code(0xa);
    /// The peer makes work and no use of it.
    pub const ENHANCE_YOUR_CALM: Code = Code(0xb);
    /// The request needs HTTP/1.1.
    pub const HTTP_1_1_REQUIRED: Code = Code(0xd);
    /// Our own, between members of a mesh: what was let in is not allowed any more. Others take it for an error like any that they do not know.
    pub const NOT_ALLOWED: Code = Code(0x7472_6e73);
    /// Our own as well: an idle connection in a tunnel is closed, and nothing of what may be on its way was read.
    pub const UNREAD: Code = Code(0x7472_6e74);
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.0 {
            0x0 => "NO_ERROR",
            0x1 => "PROTOCOL_ERROR",
            0x2 => "INTERNAL_ERROR",
            0x3 => "FLOW_CONTROL_ERROR",
            0x4 => "SETTINGS_TIMEOUT",
            0x5 => "STREAM_CLOSED",
            0x6 => "FRAME_SIZE_ERROR",
            0x7 => "REFUSED_STREAM",
            0x8 => "CANCEL",
            0x7472_6e73 => "NOT_ALLOWED",
            0x7472_6e74 => "UNREAD",
            0x9 => "COMPRESSION_ERROR",
            0xa => "CONNECT_ERROR",
            0xb => "ENHANCE_YOUR_CALM",
            0xc => "INADEQUATE_SECURITY",
            0xd => "HTTP_1_1_REQUIRED",
            other => return write!(f, "error code {other:#x}"),
        };
        f.write_str(name)
    }
}

/// The connection cannot go on (RFC 9113 section 5.4.1). A GOAWAY with the code has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why} ({code})")]
pub struct Fault {
    /// What the peer is told.
    pub code: Code,
    /// A sentence about what the peer did.
    pub why: &'static str,
}

#[cfg(test)]
mod tests;
