//! Those who wait for a connection to a backend whose connections are limited, in the order in which they came.
//!
//! Part of a backend's [`Ledger`]: a permit that is given back wakes the next. Nothing here waits by itself; the proxy polls.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Ledger, Limits, Permit, Resource};

/// The row of those who wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    row: Mutex<Row>,
    /// How many stand in it, to be read without the lock.
    length: AtomicUsize,
}

#[derive(Debug, Default)]
struct Row {
    next: u64,
    waiting: VecDeque<(u64, Waker)>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        // The counter of connections is what decides; a waiter looks at it again after it has lined up.
        self.length.load(Ordering::SeqCst)
    }

    /// Wakes the first of the row and takes it out.
    pub(super) fn wake_next(&self) {
        if self.len() == 0 {
            return;
        }
        let next = self.change(|row| row.waiting.pop_front());
        if let Some((_, waker)) = next {
            waker.wake();
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Row) -> T) -> T {
        let mut row = self.row.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = change(&mut row);
        self.length.store(row.waiting.len(), Ordering::SeqCst);
        outcome
    }
}

/// Somebody who wants a connection. When this is dropped, it no longer waits.
#[derive(Debug)]
pub struct Place {
    ledger: Arc<Ledger>,
    /// Its number, from its first wait on.
    number: Option<u64>,
}

impl Place {
    /// Somebody who has not waited yet.
    pub fn new(ledger: &Arc<Ledger>) -> Place {
        Place { ledger: Arc::clone(ledger), number: None }
    }

    /// A permit for a connection, as soon as there is one; none when there is no limit.
    pub fn poll_take(&mut self, limits: &Limits, cx: &Context<'_>) -> Poll<Option<Permit>> {
        // The second look sees what was given back before this one stood in the row.
        for look in 0..2 {
            if let Ok(permit) = self.ledger.take(limits, Resource::Connection) {
                self.leave();
                return Poll::Ready(permit);
            }
            if look == 0 {
                self.line_up(cx.waker());
            }
        }
        Poll::Pending
    }

    fn line_up(&mut self, waker: &Waker) {
        let known = self.number;
        self.number = Some(self.ledger.queue.change(|row| {
            if let Some(place) = row.waiting.iter_mut().find(|(number, _)| Some(*number) == known) {
                place.1.clone_from(waker);
                return place.0;
            }
            let number = row.next;
            row.next += 1;
            row.waiting.push_back((number, waker.clone()));
            number
        }));
    }

    /// Leaves the row; tells whether it still stood there.
    fn leave(&mut self) -> bool {
        let Some(mine) = self.number.take() else { return true };
        self.ledger.queue.change(|row| {
            let at = row.waiting.iter().position(|(number, _)| *number == mine);
            at.is_some_and(|at| row.waiting.remove(at).is_some())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Who was woken and goes away hands the call on.
        if !self.leave() {
            self.ledger.queue.wake_next();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Calls(AtomicU32);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Somebody who waits, and how often he was called.
    struct Guest {
        place: Place,
        calls: Arc<Calls>,
    }

    impl Guest {
        fn new(ledger: &Arc<Ledger>) -> Guest {
            Guest { place: Place::new(ledger), calls: Arc::default() }
        }

        fn ask(&mut self) -> Option<Permit> {
            let waker = Waker::from(Arc::clone(&self.calls));
            match self.place.poll_take(&ONE, &Context::from_waker(&waker)) {
                Poll::Ready(permit) => permit,
                Poll::Pending => None,
            }
        }

        fn calls(&self) -> u32 {
            self.calls.0.load(Ordering::SeqCst)
        }
    }

    const ONE: Limits = Limits { connections: Some(1), requests: None, pending: None };

    #[test]
    fn who_waits_is_called_in_turn() {
        let ledger = Arc::new(Ledger::default());
        let (mut first, mut second, mut third) = (Guest::new(&ledger), Guest::new(&ledger), Guest::new(&ledger));
        let held = first.ask().expect("room");
        assert!(second.ask().is_none() && third.ask().is_none() && second.ask().is_none());
        assert_eq!(ledger.waiting(), 2);
        drop(held);
        assert_eq!((second.calls(), third.calls(), ledger.waiting()), (1, 0, 1));
        let held = second.ask().expect("room");
        assert!(third.ask().is_none());
        drop(held);
        assert_eq!(third.calls(), 1);
        assert!(third.ask().is_some());
        assert_eq!((ledger.waiting(), ledger.taken(Resource::Connection)), (0, 0));
    }

    #[test]
    fn who_is_called_and_has_gone_hands_the_call_on() {
        let ledger = Arc::new(Ledger::default());
        let (mut first, mut second, mut third) = (Guest::new(&ledger), Guest::new(&ledger), Guest::new(&ledger));
        let held = first.ask().expect("room");
        assert!(second.ask().is_none() && third.ask().is_none());
        drop(held);
        drop(second.place);
        assert_eq!(third.calls(), 1);
        assert!(third.ask().is_some());
    }

    #[test]
    fn who_has_gone_is_not_called() {
        let ledger = Arc::new(Ledger::default());
        let (mut first, mut second, mut third) = (Guest::new(&ledger), Guest::new(&ledger), Guest::new(&ledger));
        let held = first.ask().expect("room");
        assert!(second.ask().is_none() && third.ask().is_none());
        drop(second.place);
        drop(held);
        assert_eq!((second.calls.0.load(Ordering::SeqCst), third.calls()), (0, 1));
    }
}
