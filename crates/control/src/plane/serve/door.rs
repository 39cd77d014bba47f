//! The door of the control plane: places for those who have not shown who they are.
//!
//! Called by `serve` for every connection. Members have places of their own, so that whoever has no certificate takes none of theirs, and one
//! address has a part of those at the door only, so that it keeps nobody else out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::plane::places::{Place, Places};

/// How many connections may be greeting or joining at a time.
const GREETINGS: usize = 1024;
/// How many of them may be those of one address: a quarter.
const OF_ONE_ADDRESS: usize = 256;
/// How often the log tells of the same trouble.
const PAUSE: Duration = Duration::from_secs(60);

/// Who greets.
pub(super) struct Door {
    all: Arc<Semaphore>,
    of_one: Arc<Places>,
    full: Trouble,
    refused: Trouble,
}

/// A place at the door, given back when it is dropped.
pub(super) struct Greeting {
    _of_all: OwnedSemaphorePermit,
    _of_one: Place,
}

/// What a connection holds as long as it lives.
pub(super) enum Held {
    /// The place of somebody without a certificate.
    AtTheDoor(#[expect(dead_code, reason = "held until it is dropped")] Greeting),
    /// The place of a member.
    Inside(#[expect(dead_code, reason = "held until it is dropped")] OwnedSemaphorePermit),
}

impl Door {
    pub(super) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(GREETINGS)),
            of_one: Places::new(OF_ONE_ADDRESS),
            full: Trouble::default(),
            refused: Trouble::default(),
        }
    }

    /// Waits until there is a place; none at the end of the process.
    pub(super) async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.all.clone().try_acquire_owned() {
            return Some(place);
        }
        if self.full.note(Instant::now()).is_some() {
            tracing::warn!(
                places = GREETINGS,
                "every place for connections that have not shown a certificate is taken: proxies that join or connect again wait; \
                 keep strangers away from this port"
            );
        }
        self.all.clone().acquire_owned().await.ok()
    }

    /// Lets a connection in that has a place; none when its address has too many already.
    pub(super) fn let_in(&mut self, place: OwnedSemaphorePermit, from: IpAddr) -> Option<Greeting> {
        if let Some(of_one) = self.of_one.take(from) {
            return Some(Greeting { _of_all: place, _of_one: of_one });
        }
        if let Some(times) = self.refused.note(Instant::now()) {
            tracing::warn!(
                address = %from.to_canonical(),
                connections = OF_ONE_ADDRESS,
                refused = times,
                "an address has too many connections open that have not shown a certificate: further ones of it are closed at once; \
                 keep it away from this port if it is none of the mesh"
            );
        }
        None
    }
}

/// Trouble that comes again and again, and is told of once in a while.
#[derive(Debug, Default)]
struct Trouble {
    told: Option<Instant>,
    /// How often since then.
    times: u64,
}

impl Trouble {
    /// Notes it once more; how often it has come since it was last told of, when it is time to tell.
    fn note(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        if self.told.is_some_and(|told| now < told + PAUSE) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_for_others() {
        let mut door = Door::new();
        let [hostile, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let mut enter = |from| {
            let place = door.all.clone().try_acquire_owned().expect("a place");
            door.let_in(place, from)
        };
        let held: Vec<_> = (0..2 * GREETINGS).filter_map(|_| enter(hostile)).collect();
        assert_eq!(held.len(), OF_ONE_ADDRESS);
        assert!(enter(other).is_some());
        drop(held);
        assert!(enter(hostile).is_some(), "what ends makes room");
    }

    #[test]
    fn trouble_is_told_of_at_once_and_then_once_in_a_while() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert_eq!(trouble.note(now), Some(1));
        assert_eq!((trouble.note(now), trouble.note(now)), (None, None));
        assert_eq!(trouble.note(now + PAUSE), Some(3));
    }
}
