//! The streams of one connection: their halves, their windows, and the table that finds them by number.
//!
//! Called by the connection. A stream has a place in the table from its first frame until its user releases it, also
//! when the protocol is done with it earlier: work that goes on counts.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Names a stream of one connection. It stays valid until the stream is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    slot: u32,
    id: u32,
}

impl Key {
    /// A small number that no other unreleased stream of the connection has: the index for a table of the user's own.
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    /// The number of the stream on the wire.
    pub fn id(self) -> u32 {
        self.id
    }
}

/// What the peer may still send on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// A response head, possibly after interim ones.
    Head,
    /// DATA, and trailers at the end.
    Body,
    /// Nothing: it has said that this was all.
    Done,
    /// Nothing: it has reset the stream.
    Reset,
    /// Whatever is on its way. We have reset the stream, and nobody looks at it.
    Unwanted,
}

/// What kind of answer a request of ours gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// One that says itself how long it is.
    Usual,
    /// To HEAD: one without a body, whatever its fields say.
    Head,
    /// To CONNECT: with 2xx a tunnel, whose length no field states (RFC 9110 section 9.3.6).
    Tunnel,
}

/// One stream (RFC 9113 section 5).
#[derive(Debug)]
pub(super) struct Stream {
    pub id: u32,
    pub receiving: Receiving,
    /// Whether our half is open.
    pub sending: bool,
    /// Bytes that we may send. Negative after the peer has made its windows smaller.
    pub send_window: i64,
    /// Bytes that the peer may send.
    pub credit: i64,
    /// Bytes that were taken from us and that the peer has not been told about.
    pub owed: u32,
    /// Bytes by which its window has grown.
    pub grown: u32,
    /// As many of them as count for what all windows have together.
    pub counted: u32,
    /// Bytes among those owed that were waited for by who took them.
    pub awaited: u32,
    /// Bytes that `Content-Length` promises and that have not come.
    pub left: Option<u64>,
    pub asked: Asked,
    /// Where the head of our last DATA frame stands, while it has not been handed over.
    pub last_data: Option<(u64, usize)>,
}

impl Stream {
    pub(super) fn is_closed(&self) -> bool {
        !self.sending && !self.is_receiving()
    }

    /// Whether something that is wanted may still come.
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self.receiving, Receiving::Head | Receiving::Body)
    }

    /// The stream ends here, without a word more of either side.
    pub(super) fn cut(&mut self, receiving: Receiving) {
        self.receiving = receiving;
        self.sending = false;
    }
}

/// Hashes the number of a stream. Numbers rise and few are in the table at a time, so nobody gains by choosing them.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// All streams that have not been released.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<u32>,
    by_id: HashMap<u32, u32, BuildHasherDefault<IdHasher>>,
}

impl Streams {
    pub(super) fn insert(&mut self, stream: Stream) -> Key {
        let id = stream.id;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(stream);
                slot
            }
            None => {
                self.slots.push(Some(stream));
                (self.slots.len() - 1) as u32
            }
        };
        self.by_id.insert(id, slot);
        Key { slot, id }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Stream> {
        self.find(key)?;
        self.by_id.remove(&key.id);
        self.free.push(key.slot);
        self.slots.get_mut(key.slot())?.take()
    }

    pub(super) fn key_of(&self, id: u32) -> Option<Key> {
        self.by_id.get(&id).map(|slot| Key { slot: *slot, id })
    }

    pub(super) fn find(&self, key: Key) -> Option<&Stream> {
        self.slots.get(key.slot())?.as_ref().filter(|stream| stream.id == key.id)
    }

    pub(super) fn find_mut(&mut self, key: Key) -> Option<&mut Stream> {
        self.slots.get_mut(key.slot())?.as_mut().filter(|stream| stream.id == key.id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Gives the memory back when nothing is in the table.
    pub(super) fn shrink(&mut self) {
        if self.by_id.is_empty() && self.slots.capacity() > 8 {
            *self = Streams::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: u32) -> Stream {
        Stream {
            id,
            receiving: Receiving::Body,
            sending: true,
            send_window: 0,
            credit: 0,
            owed: 0,
            grown: 0,
            counted: 0,
            awaited: 0,
            left: None,
            asked: Asked::Usual,
            last_data: None,
        }
    }

    #[test]
    fn a_released_place_does_not_answer_to_its_old_name() {
        let mut streams = Streams::default();
        let first = streams.insert(stream(1));
        assert!(streams.remove(first).is_some());
        let second = streams.insert(stream(3));
        assert_eq!(first.slot(), second.slot());
        assert!(streams.find(first).is_none() && streams.remove(first).is_none());
        assert_eq!(streams.key_of(3), Some(second));
        assert_eq!(streams.len(), 1);
    }
}
