//! Byte buffers that a connection borrows while it has something to read, and gives back while it idles.
//!
//! Called by everything that reads a socket. Each worker thread keeps a free list of its own, so taking and returning
//! a buffer is a push and a pop. This module knows nothing of HTTP.

use std::cell::RefCell;

/// Size in bytes of a fresh buffer: one large read per system call, and room for the largest head that the default
/// limits allow.
pub(crate) const SIZE: usize = 64 * 1024;

/// The same on a connection whose reads fill that: fewer system calls, and all copies still fit into the cache of a core.
const LARGE: usize = 2 * SIZE;

/// Buffers that a worker keeps for reuse; more than this are freed when they come back.
const KEPT: usize = 128;

/// The same for large ones.
const KEPT_LARGE: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static FREE_LARGE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static FREE_OUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn take(size: usize) -> Vec<u8> {
    let free = if size == LARGE { &FREE_LARGE } else { &FREE };
    free.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; size])
}

#[inline]
fn give_back(buffer: Vec<u8>) {
    // Most of what is given back is the place of a buffer that has gone already.
    if buffer.capacity() > 0 {
        keep(buffer);
    }
}

fn keep(buffer: Vec<u8>) {
    let (free, kept) = match buffer.len() {
        SIZE => (&FREE, KEPT),
        LARGE => (&FREE_LARGE, KEPT_LARGE),
        _ => return give_back_vec(buffer),
    };
    // The list is gone while the thread winds down; then the buffer is simply freed.
    let _ = free.try_with(|free| {
        let mut free = free.borrow_mut();
        if free.len() < kept {
            free.push(buffer);
        }
    });
}

/// Takes an empty vector of this worker, to collect bytes in.
pub(crate) fn take_vec() -> Vec<u8> {
    FREE_OUT.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(4096))
}

/// Returns a vector for the next use.
pub(crate) fn give_back_vec(mut store: Vec<u8>) {
    if store.capacity() == 0 || store.capacity() > 2 * LARGE {
        return;
    }
    let kept = if store.capacity() > SIZE { KEPT_LARGE } else { KEPT };
    store.clear();
    // The list is gone while the thread winds down; then the vector is simply freed.
    let _ = FREE_OUT.try_with(|free| {
        let mut free = free.borrow_mut();
        if free.len() < kept {
            free.push(store);
        }
    });
}

/// Bytes received and not yet consumed. Owns no memory while empty.
#[derive(Default)]
pub(crate) struct Inbound {
    /// Initialised to its end; empty when there is none.
    store: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled the buffer, so that the next one gets a larger one.
    is_bulk: bool,
}

impl Inbound {
    /// The received bytes.
    pub(crate) fn data(&self) -> &[u8] {
        &self.store[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room for more bytes, never empty: a buffer is borrowed, compacted or enlarged as needed. Enlarging is bounded by
    /// the caller, who stops reading at its own limits.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        let wanted = if self.is_bulk { LARGE } else { SIZE };
        if self.is_empty() && self.store.len() < wanted {
            give_back(std::mem::replace(&mut self.store, take(wanted)));
        } else if self.end == self.store.len() {
            if self.start > 0 {
                self.store.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                let mut larger = vec![0; self.store.len() * 2];
                larger[..self.end].copy_from_slice(&self.store[..self.end]);
                give_back(std::mem::replace(&mut self.store, larger));
            }
        }
        &mut self.store[self.end..]
    }

    /// Marks `count` bytes of [`Inbound::spare`] as received.
    pub(crate) fn received(&mut self, count: usize) {
        self.end = (self.end + count).min(self.store.len());
        self.is_bulk = if self.is_bulk { count >= SIZE / 2 } else { self.end == self.store.len() };
    }

    /// Exchanges the memory, in which nothing is left, for that of `fill`, all of which is data then. Tells what `fill` said.
    pub(crate) fn exchange<R>(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        debug_assert!(self.is_empty());
        self.store.clear();
        let said = fill(&mut self.store);
        (self.start, self.end) = (0, self.store.len());
        said
    }

    /// Returns the memory when nothing is left in it.
    pub(crate) fn release(&mut self) {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
            give_back(std::mem::take(&mut self.store));
        }
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.store));
    }
}

/// Bytes to be sent, collected so that one system call carries a head and the start of its body.
#[derive(Default)]
pub(crate) struct Outbound {
    store: Vec<u8>,
    sent: usize,
}

impl Outbound {
    /// Takes a buffer of this worker.
    pub(crate) fn take() -> Self {
        Self { store: take_vec(), sent: 0 }
    }

    /// Where writers append.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.store
    }

    /// What is still to be sent.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.store[self.sent..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.store.len()
    }

    /// Marks `count` bytes as sent.
    pub(crate) fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.store.len() {
            self.store.clear();
            self.sent = 0;
        }
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        give_back_vec(std::mem::take(&mut self.store));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_no_memory_while_empty() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.store.capacity(), 0);
        inbound.spare()[..3].copy_from_slice(b"abc");
        inbound.received(3);
        inbound.consume(3);
        inbound.release();
        assert_eq!(inbound.store.capacity(), 0);
    }

    #[test]
    fn compacts_before_it_grows() {
        let mut inbound = Inbound::default();
        let room = inbound.spare().len();
        inbound.spare()[0] = b'x';
        inbound.received(room);
        inbound.consume(room - 1);
        assert_eq!(inbound.spare().len(), SIZE - 1);
        assert_eq!(inbound.data().len(), 1);
    }

    #[test]
    fn who_fills_a_buffer_gets_a_larger_one_until_it_does_not() {
        let mut inbound = Inbound::default();
        let mut read = |count: usize| {
            let room = inbound.spare().len();
            inbound.received(count.min(room));
            inbound.consume(count);
            inbound.release();
            room
        };
        assert_eq!([SIZE, LARGE, LARGE, 10].map(&mut read), [SIZE, LARGE, LARGE, LARGE]);
        assert_eq!(read(10), SIZE);
    }

    #[test]
    fn memory_of_others_is_taken_over_and_given_up() {
        let mut inbound = Inbound::default();
        let mut theirs = b"theirs".to_vec();
        assert_eq!(inbound.exchange(|store| std::mem::replace(store, std::mem::take(&mut theirs))).len(), 0);
        assert_eq!(inbound.data(), b"theirs");
        inbound.consume(6);
        inbound.exchange(|_| ());
        assert!(inbound.is_empty());
        assert_eq!(inbound.spare().len(), SIZE, "what was cleared is no room");
    }

    #[test]
    fn grows_without_losing_bytes() {
        let mut inbound = Inbound::default();
        inbound.spare()[..4].copy_from_slice(b"head");
        inbound.received(SIZE);
        assert_eq!(inbound.spare().len(), SIZE);
        assert_eq!(&inbound.data()[..4], b"head");
    }
}
