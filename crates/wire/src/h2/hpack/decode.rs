//! Blocks of the peer (RFC 7541 section 6) and the state that they change.
//!
//! Called by [`crate::h2::head`] with whole blocks, in the order in which they came. What the lines mean, and how many of
//! them a message may have, is decided there; here every block is read to its end, whatever becomes of its message, because
//! the table must stay what the peer thinks it is.

use super::line::{Kind, Line};
use super::table::{Name, Table};
use super::{DEFAULT_TABLE_SIZE, huffman, integer, static_table};
use crate::head::Indexing;

/// The block cannot be decoded, and the table is of no further use: a connection error COMPRESSION_ERROR (RFC 9113 section
/// 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a field block cannot be decoded")]
pub struct BadBlock;

/// A buffer that a single large field made this long is not kept.
const KEPT: usize = 4096;

/// Decompresses the field blocks of one direction of a connection.
pub struct Decoder {
    table: Table,
    /// What the peer may raise the table to.
    limit: usize,
    /// What we announced. It holds once the peer has acknowledged it.
    announced: usize,
    /// The next block must begin with a change of the size (RFC 9113 section 4.3.1).
    change_due: bool,
    names: Vec<u8>,
    values: Vec<u8>,
    /// Where the head joins cookies.
    pub(in crate::h2) crumbs: Vec<u8>,
}

impl Decoder {
    /// A decoder for a peer to which we announce, as SETTINGS_HEADER_TABLE_SIZE, so many bytes.
    ///
    /// Until the peer has acknowledged the setting it may go by the default of 4096 bytes: see
    /// [`Decoder::settings_acknowledged`].
    pub fn new(table_size: usize) -> Decoder {
        let announced = table_size.min(u32::MAX as usize / 4);
        Decoder {
            table: Table::new(),
            limit: announced.max(DEFAULT_TABLE_SIZE),
            announced,
            change_due: false,
            names: Vec::new(),
            values: Vec::new(),
            crumbs: Vec::new(),
        }
    }

    /// The peer has acknowledged our settings: a table that was announced smaller than the default is that small from the
    /// next block on, which must begin by saying so. Without this call it stays at the default.
    pub fn settings_acknowledged(&mut self) {
        self.limit = self.announced;
        self.change_due = self.table.max() > self.limit;
    }

    /// Reads a block, giving each line to the function.
    ///
    /// # Errors
    /// [`BadBlock`]: some lines may have been given already.
    pub fn decode(&mut self, block: &[u8], mut take: impl FnMut(&Line<'_>)) -> Result<(), BadBlock> {
        let mut rest = self.change_size(block).ok_or(BadBlock)?;
        while let Some(&first) = rest.first() {
            rest = if first & 0x80 != 0 {
                self.take_indexed(rest, &mut take)
            } else {
                self.take_literal(first, rest, &mut take)
            }
            .ok_or(BadBlock)?;
        }
        for buffer in [&mut self.names, &mut self.values, &mut self.crumbs] {
            if buffer.capacity() > KEPT {
                *buffer = Vec::new();
            }
        }
        Ok(())
    }

    /// Changes of the size stand at the beginning of a block only (RFC 7541 section 4.2).
    fn change_size<'b>(&mut self, block: &'b [u8]) -> Option<&'b [u8]> {
        let mut rest = block;
        while let Some(0x20..=0x3f) = rest.first() {
            let (size, after) = integer::read(rest, 5)?;
            if size > self.limit {
                return None;
            }
            self.table.set_max(size);
            self.change_due = false;
            rest = after;
        }
        if self.change_due && !rest.is_empty() { None } else { Some(rest) }
    }

    #[inline]
    fn take_indexed<'b>(&self, block: &'b [u8], take: &mut impl FnMut(&Line<'_>)) -> Option<&'b [u8]> {
        let (index, rest) = integer::read(block, 7)?;
        match static_table::entry(index) {
            Some(line) => take(line),
            // Number 0 is no entry; the place of it lies beyond any table.
            None => take(&self.table.line(index.wrapping_sub(static_table::LENGTH + 1))?),
        }
        Some(rest)
    }

    fn take_literal<'b>(&mut self, first: u8, block: &'b [u8], take: &mut impl FnMut(&Line<'_>)) -> Option<&'b [u8]> {
        let kept = first & 0x40 != 0;
        // What begins with 001 is a change of the size in a wrong place.
        if !kept && first & 0x20 != 0 {
            return None;
        }
        let (index, mut rest) = integer::read(block, if kept { 6 } else { 4 })?;
        let named = match index {
            0 => {
                let name;
                (name, rest) = take_string(rest, &mut self.names)?;
                Named { kind: Kind::of(name), name: Name::Bytes(name) }
            }
            _ => named(&self.table, index)?,
        };
        let (value, rest) = take_string(rest, &mut self.values)?;
        if kept && self.table.has_room(named.name, value) {
            self.table.insert(named.name, value, named.kind);
            take(&self.table.line(0)?);
            return Some(rest);
        }
        let name = match named.name {
            Name::Bytes(name) => name,
            Name::Entry(place) => self.table.line(place)?.name,
        };
        let indexing = if first & 0x50 == 0x10 { Indexing::Never } else { Indexing::Allowed };
        let fault = named.kind.fault(value);
        take(&Line { name, value, whole: &[], kind: named.kind, fault, indexing });
        if kept {
            // What is larger than the table empties it (RFC 7541 section 4.4).
            self.table.clear();
        }
        Some(rest)
    }
}

/// The name of a line that is not indexed.
struct Named<'a> {
    kind: Kind,
    name: Name<'a>,
}

/// The name that an entry of a table has.
#[inline]
fn named(table: &Table, index: usize) -> Option<Named<'static>> {
    if let Some(entry) = static_table::entry(index) {
        return Some(Named { kind: entry.kind, name: Name::Bytes(entry.name) });
    }
    let place = index.checked_sub(static_table::LENGTH + 1)?;
    Some(Named { kind: table.line(place)?.kind, name: Name::Entry(place) })
}

/// Reads a string: its bytes, which lie in the block or in the buffer, and what follows it.
#[inline]
fn take_string<'b: 's, 's>(block: &'b [u8], buffer: &'s mut Vec<u8>) -> Option<(&'s [u8], &'b [u8])> {
    let coded = block.first()? & 0x80 != 0;
    let (length, rest) = integer::read(block, 7)?;
    let (string, rest) = rest.split_at_checked(length)?;
    if !coded {
        return Some((string, rest));
    }
    let length = huffman::decode(string, buffer).ok()?;
    Some((buffer.get(..length)?, rest))
}
