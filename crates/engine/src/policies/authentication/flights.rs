//! One question at a time about one token, over all workers: who comes while it is asked waits for what comes of it.
//!
//! Who may ask gets a [`Flight`]; dropping it, whatever became of the request that held it, wakes those who wait. They look into the
//! memory of answers then, and one of them asks if there is none.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hashbrown::HashMap;

use super::verified::Hash;

/// The questions that are asked at present.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flying: Mutex<HashMap<Hash, Vec<Waker>>>,
}

/// The right to ask.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Arc<Flights>,
    key: Hash,
}

/// Ends when nobody asks any more.
struct Landing {
    flights: Arc<Flights>,
    key: Hash,
}

impl Flights {
    /// The right to ask, or else what there is to wait for.
    pub(super) fn begin(self: &Arc<Self>, key: Hash) -> Result<Flight, Pin<Box<dyn Future<Output = ()> + Send>>> {
        let mut flying = self.lock();
        if flying.contains_key(&key) {
            return Err(Box::pin(Landing { flights: Arc::clone(self), key }));
        }
        flying.insert(key, Vec::new());
        Ok(Flight { flights: Arc::clone(self), key })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Hash, Vec<Waker>>> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let waiting = self.flights.lock().remove(&self.key);
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Future for Landing {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.flights.lock().get_mut(&self.key) {
            None => Poll::Ready(()),
            Some(waiting) => {
                if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_asks_and_the_others_are_woken_when_it_is_over() {
        let flights = Arc::new(Flights::default());
        let flight = flights.begin([1; 32]).ok().expect("the first may ask");
        assert!(flights.begin([2; 32]).is_ok(), "another token is another question");
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let Err(mut landing) = flights.begin([1; 32]) else { panic!("two ask") };
        assert!(landing.as_mut().poll(&mut cx).is_pending());
        assert!(landing.as_mut().poll(&mut cx).is_pending());
        drop(flight);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(landing.as_mut().poll(&mut cx).is_ready());
        assert!(flights.begin([1; 32]).is_ok());
    }
}
