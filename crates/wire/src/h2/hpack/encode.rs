//! Blocks of ours (RFC 7541 section 6).
//!
//! Called by [`crate::h2::head`]. What the static table has whole is written as its number, everything else as a literal
//! that no table keeps and without Huffman coding. So there is no state to keep per connection, nothing to search and nothing
//! to hash per field; no secret shares a compression state with what an attacker sends; and a receiver has no table of ours
//! to pay for. The price is bytes on links inside a data centre, where they cost less than finding them.

use super::{DEFAULT_TABLE_SIZE, integer, static_table};
use crate::head::{FieldId, Indexing};

/// Compresses the field blocks of one direction of a connection.
pub struct Encoder {
    /// What the peer allows the table to be.
    allowed: usize,
    /// The next block begins by saying that the table is empty and stays so.
    change_due: bool,
}

/// Fields that no table on their way may hold (RFC 7541 section 7.1.3).
const SECRET: u128 = FieldId::AUTHORIZATION.bit()
    | FieldId::PROXY_AUTHORIZATION.bit()
    | FieldId::COOKIE.bit()
    | FieldId::SET_COOKIE.bit();

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder::new()
    }
}

impl Encoder {
    /// An encoder for a peer that has sent no settings.
    pub fn new() -> Encoder {
        Encoder { allowed: DEFAULT_TABLE_SIZE, change_due: false }
    }

    /// The peer has set SETTINGS_HEADER_TABLE_SIZE. When it is smaller than before, the next block says so (RFC 9113
    /// section 4.3.1): it may go out after the setting has been acknowledged, not before.
    pub fn set_peer_table_size(&mut self, size: usize) {
        self.change_due |= size < self.allowed;
        self.allowed = size;
    }

    /// Begins a block.
    #[inline]
    pub(in crate::h2) fn begin(&mut self, out: &mut Vec<u8>) {
        if self.change_due {
            self.change_due = false;
            out.push(0x20);
        }
    }
}

/// Appends a field of which the static table has name and value.
#[inline]
pub(in crate::h2) fn write_indexed(out: &mut Vec<u8>, number: usize) {
    integer::write(out, 0x80, 7, number);
}

/// Appends a field of which the static table has the name.
#[inline]
pub(in crate::h2) fn write_named(out: &mut Vec<u8>, number: usize, value: &[u8], indexing: Indexing) {
    integer::write(out, kind_of(indexing), 4, number);
    write_string(out, value);
}

/// Appends a field of a message. The name is written in lower case.
#[inline]
pub(in crate::h2) fn write_field(out: &mut Vec<u8>, id: FieldId, name: &[u8], value: &[u8], indexing: Indexing) {
    let indexing = if SECRET & id.bit() != 0 { Indexing::Never } else { indexing };
    let number = static_table::number_of(id);
    if number != 0 {
        return match static_table::entry(number) {
            Some(entry) if entry.value() == value && indexing == Indexing::Allowed => write_indexed(out, number),
            _ => write_named(out, number, value, indexing),
        };
    }
    out.push(kind_of(indexing));
    if id.is_other() {
        integer::write(out, 0, 7, name.len());
        let start = out.len();
        out.extend_from_slice(name);
        if let Some(written) = out.get_mut(start..) {
            written.make_ascii_lowercase();
        }
    } else {
        write_string(out, id.as_str().as_bytes());
    }
    write_string(out, value);
}

#[inline]
fn kind_of(indexing: Indexing) -> u8 {
    match indexing {
        Indexing::Allowed => 0,
        Indexing::Never => 0x10,
    }
}

#[inline]
fn write_string(out: &mut Vec<u8>, string: &[u8]) {
    integer::write(out, 0, 7, string.len());
    out.extend_from_slice(string);
}
