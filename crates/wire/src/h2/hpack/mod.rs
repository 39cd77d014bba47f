//! HPACK, the field compression of HTTP/2 (RFC 7541), without IO.
//!
//! Called by [`super::head`], which gives lines their meaning. [`Decoder`] reads blocks of the peer and keeps its dynamic
//! table, [`Encoder`] writes ours and keeps none. What a peer repeats is judged once: an entry of the table remembers
//! which name it has and what is wrong with it, so that an indexed field costs a copy and no look at its bytes.
//!
//! Deliberately absent: limits on what a message may hold, and frames.

mod decode;
mod encode;
mod huffman;
mod integer;
mod line;
mod static_table;
mod table;

#[cfg(test)]
mod tests;

pub use decode::{BadBlock, Decoder};
pub use encode::Encoder;
pub use line::Line;

pub(super) use encode::{write_field, write_indexed, write_named};
pub(super) use line::{CONNECTION_SPECIFIC, Kind, Pseudo};
pub(super) use static_table::number;

/// The size of a dynamic table before a setting changes it, in bytes (RFC 9113 section 6.5.2).
const DEFAULT_TABLE_SIZE: usize = 4096;

/// What an entry of a table costs beyond its bytes (RFC 7541 section 4.1), and what a field of a list costs (RFC 9113
/// section 6.5.2).
pub(super) const OVERHEAD: usize = 32;
