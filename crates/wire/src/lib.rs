//! Bytes to messages and back: the part of Transept that speaks protocols.
//!
//! `head` is the message type that the rest of the house sees, `h1` the HTTP/1.1 codec (RFC 9112), `h2` the HTTP/2 codec
//! (RFC 9113), `normalize` the one form of a path and of an authority on which every decision is taken and which is
//! forwarded. Everything here is sans-IO: bytes come in as slices and go out into buffers that the caller owns.
//!
//! Deliberately absent: sockets, timers, TLS, and any knowledge that routes or policies exist.

pub mod h1;
pub mod h2;
pub mod head;
pub mod normalize;

mod grammar;
