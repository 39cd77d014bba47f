//! One question at a time about one token, over all workers: who comes while it is asked waits for what comes of it.
//!
//! Who may ask gets a [`Flight`]; dropping it, whatever became of the request that held it, wakes those who wait. They look into the
//! memory of answers then. When the question could not be answered they are told why ([`Landing::failure`]), so that they do not ask the
//! same one after another; when nobody has waited for an answer, one of them asks.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use hashbrown::HashMap;

use super::verified::Hash;

/// The questions that are asked at present.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flying: Mutex<HashMap<Hash, Flying>>,
}

#[derive(Debug, Default)]
struct Flying {
    waiting: Vec<Waker>,
    failure: Arc<OnceLock<Box<str>>>,
}

/// The right to ask.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Arc<Flights>,
    key: Hash,
    failure: Arc<OnceLock<Box<str>>>,
}

/// What others wait for.
pub(super) struct Landing {
    /// Why there was no answer, when it is over and there was none.
    pub(super) failure: Arc<OnceLock<Box<str>>>,
    /// Ends when nobody asks any more.
    pub(super) over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

struct Over {
    flights: Arc<Flights>,
    key: Hash,
    /// Tells this flight from a later one about the same token.
    failure: Arc<OnceLock<Box<str>>>,
}

impl Flights {
    /// The right to ask, or else what there is to wait for.
    pub(super) fn begin(self: &Arc<Self>, key: Hash) -> Result<Flight, Landing> {
        let mut flying = self.lock();
        if let Some(one) = flying.get(&key) {
            let failure = Arc::clone(&one.failure);
            let over = Over { flights: Arc::clone(self), key, failure: Arc::clone(&failure) };
            return Err(Landing { failure, over: Box::pin(over) });
        }
        let one = Flying::default();
        let failure = Arc::clone(&one.failure);
        flying.insert(key, one);
        Ok(Flight { flights: Arc::clone(self), key, failure })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Hash, Flying>> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Tells those who wait that there is no answer.
    pub(super) fn fail(self, why: &str) {
        // Nobody else has told them.
        let _ = self.failure.set(why.into());
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let flown = self.flights.lock().remove(&self.key);
        flown.into_iter().flat_map(|flown| flown.waiting).for_each(Waker::wake);
    }
}

impl Future for Over {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.flights.lock().get_mut(&self.key) {
            Some(flying) if Arc::ptr_eq(&flying.failure, &self.failure) => {
                if !flying.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    flying.waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
            _ => Poll::Ready(()),
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
        assert!(landing.over.as_mut().poll(&mut cx).is_pending());
        assert!(landing.over.as_mut().poll(&mut cx).is_pending());
        drop(flight);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(landing.over.as_mut().poll(&mut cx).is_ready() && landing.failure.get().is_none());
        // Another flight about the same token is not waited for.
        let again = flights.begin([1; 32]).ok().expect("it is over");
        assert!(landing.over.as_mut().poll(&mut cx).is_ready());
        let Err(mut other) = flights.begin([1; 32]) else { panic!("two ask") };
        again.fail("no answer");
        assert!(other.over.as_mut().poll(&mut cx).is_ready());
        assert_eq!(other.failure.get().map(|why| &**why), Some("no answer"));
    }
}
