//! The dynamic table (RFC 7541 sections 2.3.2 and 4).
//!
//! Called by the decoder. The bytes of the entries follow each other in one buffer, oldest first, each as the line that
//! HTTP/1.1 would write; what is evicted stays in front until it is half of the buffer. A table that nothing was put in has
//! no memory.

use std::collections::VecDeque;

use super::line::{Kind, Line};
use super::{DEFAULT_TABLE_SIZE, OVERHEAD};
use crate::h2::head::Malformed;
use crate::head::Indexing;

/// Bytes of a line beyond name and value: `": "` and CRLF.
const DELIMITERS: usize = 4;

pub(super) struct Table {
    bytes: Vec<u8>,
    /// Bytes at the beginning of the buffer that no entry uses.
    dead: usize,
    /// Bytes that have ever been taken from the beginning of the buffer, modulo 2^32: entries count from there, so that
    /// taking some away changes none of them.
    taken: u32,
    /// Newest first.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

/// What is known of an entry. The lengths are below the size of the table, which is below 4 GiB.
#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    name: u32,
    value: u32,
    kind: Kind,
    fault: Option<Malformed>,
}

/// Where the name of a new entry comes from.
#[derive(Clone, Copy)]
pub(super) enum Name<'a> {
    Bytes(&'a [u8]),
    /// That of the entry with this place, counted from the newest.
    Entry(usize),
}

impl Entry {
    fn size(&self) -> usize {
        self.name as usize + self.value as usize + OVERHEAD
    }

    fn length(&self) -> usize {
        self.name as usize + self.value as usize + DELIMITERS
    }
}

impl Table {
    pub(super) fn new() -> Table {
        Table { bytes: Vec::new(), dead: 0, taken: 0, entries: VecDeque::new(), size: 0, max: DEFAULT_TABLE_SIZE }
    }

    /// The bytes that the entries may count together.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Changes what the entries may count together; those that are too much go.
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
        self.evict();
    }

    /// The entry with the place, counted from the newest, which has 0.
    #[inline]
    pub(super) fn line(&self, place: usize) -> Option<Line<'_>> {
        let entry = self.entries.get(place)?;
        let start = self.offset(entry);
        let whole = self.bytes.get(start..start + entry.length())?;
        let name = whole.get(..entry.name as usize)?;
        let value = whole.get(entry.name as usize + 2..whole.len() - 2)?;
        Some(Line { name, value, whole, kind: entry.kind, fault: entry.fault, indexing: Indexing::Allowed })
    }

    /// Whether the table could hold an entry when it held nothing else.
    pub(super) fn has_room(&self, name: Name<'_>, value: &[u8]) -> bool {
        self.name_length(name) + value.len() + OVERHEAD <= self.max
    }

    /// Puts in an entry that the table has room for. The oldest ones go when they are too much together.
    pub(super) fn insert(&mut self, name: Name<'_>, value: &[u8], kind: Kind) {
        let name_length = self.name_length(name);
        self.make_room(name_length + value.len() + DELIMITERS);
        let start = self.bytes.len();
        match name {
            Name::Bytes(name) => self.bytes.extend_from_slice(name),
            // The entry may be one that has to go, so it is copied first.
            Name::Entry(place) => {
                let from = self.entries.get(place).map_or(0, |entry| self.offset(entry));
                self.bytes.extend_from_within(from..from + name_length);
            }
        }
        for part in [b": ", value, b"\r\n"] {
            self.bytes.extend_from_slice(part);
        }
        let entry = Entry {
            start: self.taken.wrapping_add(start as u32),
            name: name_length as u32,
            value: value.len() as u32,
            kind,
            fault: kind.fault(value),
        };
        self.size += entry.size();
        self.entries.push_front(entry);
        self.evict();
    }

    fn name_length(&self, name: Name<'_>) -> usize {
        match name {
            Name::Bytes(name) => name.len(),
            Name::Entry(place) => self.entries.get(place).map_or(0, |entry| entry.name as usize),
        }
    }

    fn offset(&self, entry: &Entry) -> usize {
        entry.start.wrapping_sub(self.taken) as usize
    }

    fn evict(&mut self) {
        while self.size > self.max {
            let Some(entry) = self.entries.pop_back() else {
                return;
            };
            self.size -= entry.size();
            self.dead += entry.length();
        }
    }

    /// Forgets every entry.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        self.dead = 0;
        self.size = 0;
    }

    /// Makes the buffer end with room for so many bytes, which are fewer than the table may hold.
    fn make_room(&mut self, more: usize) {
        let length = self.bytes.len();
        if length + more <= self.bytes.capacity() {
            return;
        }
        // Moving what lives costs no more than what has been put in since the last time.
        if self.dead * 2 >= length {
            self.bytes.drain(..self.dead);
            self.taken = self.taken.wrapping_add(self.dead as u32);
            self.dead = 0;
        }
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let roomy = (self.bytes.capacity() * 2).clamp(256, (2 * self.max).max(256));
            self.bytes.reserve_exact(needed.max(roomy) - self.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lines of the table, newest first.
    fn shown(table: &Table) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..).map_while(|place| table.line(place)).map(|line| (line.name.to_vec(), line.value.to_vec())).collect()
    }

    proptest! {
        #[test]
        fn is_what_a_list_would_be(
            steps in prop::collection::vec((0usize..40, 0usize..90, 0usize..12, 0usize..300), 1..200),
        ) {
            let mut table = Table::new();
            let mut list: VecDeque<(Vec<u8>, Vec<u8>)> = VecDeque::new();
            table.set_max(200);
            let mut max = 200;
            let evict = |list: &mut VecDeque<(Vec<u8>, Vec<u8>)>, max| {
                while list.iter().map(|(name, value)| name.len() + value.len() + OVERHEAD).sum::<usize>() > max {
                    list.pop_back();
                }
            };
            for (nth, (name, value, place, new_max)) in steps.into_iter().enumerate() {
                let value = vec![b'a' + (nth % 26) as u8; value];
                if new_max < 20 {
                    max = new_max * 20;
                    table.set_max(max);
                    evict(&mut list, max);
                }
                // Half of the names are those of entries.
                let (name, of_entry) = match list.get(place) {
                    Some((name, _)) => (name.clone(), true),
                    None => (vec![b'A' + (nth % 26) as u8; name], false),
                };
                let by = if of_entry { Name::Entry(place) } else { Name::Bytes(&name) };
                prop_assert_eq!(table.has_room(by, &value), name.len() + value.len() + OVERHEAD <= max);
                if table.has_room(by, &value) {
                    table.insert(by, &value, Kind::Underscored);
                } else {
                    table.clear();
                }
                list.push_front((name.clone(), value));
                evict(&mut list, max);
                prop_assert_eq!(shown(&table), Vec::from(list.clone()));
                prop_assert!(table.bytes.capacity() <= 2 * 400 + 256);
            }
        }
    }

    #[test]
    fn an_entry_remembers_what_is_wrong_with_it() {
        let mut table = Table::new();
        let kind = Kind::of(b"x-a");
        table.insert(Name::Bytes(b"x-a"), b"fine", kind);
        table.insert(Name::Entry(0), b"not\r\nfine", kind);
        assert_eq!(table.line(0).and_then(|line| line.fault), Some(Malformed::ControlByte));
        assert_eq!(table.line(1).and_then(|line| line.fault), None);
        assert_eq!(table.line(1).map(|line| line.whole), Some(&b"x-a: fine\r\n"[..]));
    }
}
