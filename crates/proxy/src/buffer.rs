//! Byte buffers that a connection borrows while it has something to read, and gives back while it idles.
//!
//! Called by everything that reads a socket. Each worker thread keeps a free list of its own, so taking and returning
//! a buffer is a push and a pop. This module knows nothing of HTTP.

use std::cell::RefCell;

/// Size in bytes of a fresh buffer: one large read per system call, and room for the largest head that the default
/// limits allow.
pub(crate) const SIZE: usize = 64 * 1024;

/// Buffers that a worker keeps for reuse; more than this are freed when they come back.
const KEPT: usize = 128;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static FREE_OUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn take() -> Box<[u8]> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    if buffer.len() != SIZE {
        return;
    }
    // The list is gone while the thread winds down; then the buffer is simply freed.
    let _ = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        if free.len() < KEPT {
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
    if store.capacity() == 0 || store.capacity() > SIZE {
        return;
    }
    store.clear();
    // The list is gone while the thread winds down; then the vector is simply freed.
    let _ = FREE_OUT.try_with(|free| {
        let mut free = free.borrow_mut();
        if free.len() < KEPT {
            free.push(store);
        }
    });
}

/// Bytes received and not yet consumed. Owns no memory while empty.
#[derive(Default)]
pub(crate) struct Inbound {
    store: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Inbound {
    /// The received bytes.
    pub(crate) fn data(&self) -> &[u8] {
        match &self.store {
            Some(store) => &store[self.start..self.end],
            None => &[],
        }
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
        let store = self.store.get_or_insert_with(take);
        if self.end == store.len() {
            if self.start > 0 {
                store.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                let mut larger = vec![0; store.len() * 2].into_boxed_slice();
                larger[..self.end].copy_from_slice(&store[..self.end]);
                give_back(std::mem::replace(store, larger));
            }
        }
        &mut store[self.end..]
    }

    /// Marks `count` bytes of [`Inbound::spare`] as received.
    pub(crate) fn received(&mut self, count: usize) {
        let room = self.store.as_ref().map_or(0, |store| store.len());
        self.end = (self.end + count).min(room);
    }

    /// Returns the memory when nothing is left in it.
    pub(crate) fn release(&mut self) {
        if self.is_empty()
            && let Some(store) = self.store.take()
        {
            give_back(store);
        }
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            give_back(store);
        }
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
        assert!(inbound.store.is_none());
        inbound.spare()[..3].copy_from_slice(b"abc");
        inbound.received(3);
        inbound.consume(3);
        inbound.release();
        assert!(inbound.store.is_none());
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
    fn grows_without_losing_bytes() {
        let mut inbound = Inbound::default();
        inbound.spare()[..4].copy_from_slice(b"head");
        inbound.received(SIZE);
        assert_eq!(inbound.spare().len(), SIZE);
        assert_eq!(&inbound.data()[..4], b"head");
    }
}
