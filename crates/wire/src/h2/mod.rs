//! HTTP/2 on the wire (RFC 9113), without IO: header compression and message heads.
//!
//! Called by the proxy's HTTP/2 sides. Everything malformed is refused, never repaired.

pub mod head;
pub mod hpack;
