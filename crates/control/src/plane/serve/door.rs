//! The door of the control plane: places for those who have not shown who they are, and behind it those of members.
//!
//! Called by `serve` for every connection. Members have places of their own, so that whoever has no certificate takes none of theirs. One
//! address has a part of those at the door only. One identity has a part of those behind it, and may go beyond it while there is enough for others.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use transept_identity::SpiffeId;
use transept_xds::grpc::{Code, Failed};

use crate::plane::places::{Capacity, Place, Places, whose};

/// The part of all places that one address may take at the door, and one identity behind it when no more than that part is free.
const OF_ONE: usize = 4;
/// How often the log tells of the same trouble.
const PAUSE: Duration = Duration::from_secs(60);

/// Who greets.
pub(super) struct Door {
    /// How many may greet or join at a time.
    greetings: usize,
    all: Arc<Semaphore>,
    of_one: Arc<Places<IpAddr>>,
    full: Trouble,
    refused: Trouble,
}

/// A place at the door, given back when it is dropped.
pub(super) struct Greeting {
    _of_all: OwnedSemaphorePermit,
    _of_one: Place<IpAddr>,
}

/// Where members are.
pub(super) struct Inside {
    /// How many at a time.
    members: usize,
    all: Arc<Semaphore>,
    of_one: Arc<Places<SpiffeId>>,
    full: Mutex<Trouble>,
    refused: Mutex<Trouble>,
}

/// The place of a member, given back when it is dropped.
pub(super) struct Membership {
    _of_all: OwnedSemaphorePermit,
    _of_one: Place<SpiffeId>,
}

/// Why a member has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// All are taken.
    Full,
    /// Its identity has its part of them, and what is free is for others.
    OfOne,
}

impl NoPlace {
    /// What its calls are answered.
    pub(super) fn failed(self) -> Failed {
        let why = match self {
            Self::Full => "the control plane has no place for another member now: it tries again",
            Self::OfOne => {
                "the control plane has places left for members of other identities only; it serves more where more descriptors are allowed \
                 (`ulimit -Hn`, LimitNOFILE=)"
            }
        };
        Failed::new(Code::ResourceExhausted, why)
    }
}

/// What a connection holds as long as it lives.
pub(super) enum Held {
    /// The place of somebody without a certificate.
    AtTheDoor(#[expect(dead_code, reason = "held until it is dropped")] Greeting),
    /// The place of a member.
    Inside(#[expect(dead_code, reason = "held until it is dropped")] Membership),
}

impl Door {
    pub(super) fn new(capacity: Capacity) -> Self {
        let greetings = capacity.greetings;
        Self {
            greetings,
            all: Arc::new(Semaphore::new(greetings)),
            of_one: Places::new(greetings.div_ceil(OF_ONE)),
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
                places = self.greetings,
                "every place for connections that are not a member's yet is taken: proxies that join or connect again wait; \
                 keep strangers away from this port"
            );
        }
        self.all.clone().acquire_owned().await.ok()
    }

    /// Lets a connection in that has a place; none when its address has too many already.
    pub(super) fn let_in(&mut self, place: OwnedSemaphorePermit, from: IpAddr) -> Option<Greeting> {
        if let Some(of_one) = self.of_one.take(whose(from)) {
            return Some(Greeting { _of_all: place, _of_one: of_one });
        }
        if let Some(times) = self.refused.note(Instant::now()) {
            tracing::warn!(
                address = %from.to_canonical(),
                connections = self.greetings.div_ceil(OF_ONE),
                refused = times,
                "an address has too many connections open that are not a member's yet: further ones of it are closed at once; \
                 keep it away from this port if it is none of the mesh"
            );
        }
        None
    }
}

impl Inside {
    pub(super) fn new(capacity: Capacity) -> Self {
        let members = capacity.members;
        Self {
            members,
            all: Arc::new(Semaphore::new(members)),
            of_one: Places::new(members.div_ceil(OF_ONE)),
            full: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// A place for a member.
    ///
    /// # Errors
    /// All are taken, or so many of them, by this identity too, that the rest is for others: waiting would take a place at the door.
    pub(super) fn take(&self, id: &SpiffeId) -> Result<Membership, NoPlace> {
        let note =
            |trouble: &Mutex<Trouble>| trouble.lock().unwrap_or_else(PoisonError::into_inner).note(Instant::now());
        let Ok(of_all) = self.all.clone().try_acquire_owned() else {
            if let Some(times) = note(&self.full) {
                tracing::warn!(
                    places = self.members,
                    refused = times,
                    "every place for members is taken: further ones are sent away, and try again; raise the limit of descriptors if it is low"
                );
            }
            return Err(NoPlace::Full);
        };
        let part = self.members.div_ceil(OF_ONE);
        let Some(of_one) = self.of_one.take_where(id.clone(), || self.all.available_permits() >= part) else {
            if let Some(times) = note(&self.refused) {
                tracing::warn!(
                    %id,
                    part,
                    places = self.members,
                    refused = times,
                    "an identity has more connections open than its part, and the places that are free are for others: further ones of it are \
                     sent away; raise the limit of descriptors if it has that many instances, otherwise a certificate of it is in wrong hands"
                );
            }
            return Err(NoPlace::OfOne);
        };
        Ok(Membership { _of_all: of_all, _of_one: of_one })
    }
}

/// Trouble that comes again and again, and is told of once in a while.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    told: Option<Instant>,
    /// How often since then.
    times: u64,
}

impl Trouble {
    /// Notes it once more; how often it has come since it was last told of, when it is time to tell.
    pub(super) fn note(&mut self, now: Instant) -> Option<u64> {
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
        let mut door = Door::new(Capacity::WHOLE);
        let [hostile, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let mut enter = |from| {
            let place = door.all.clone().try_acquire_owned().expect("a place");
            door.let_in(place, from)
        };
        let door_places = Capacity::WHOLE.greetings;
        let held: Vec<_> = (0..2 * door_places).filter_map(|_| enter(hostile)).collect();
        assert_eq!(held.len(), door_places / OF_ONE);
        assert!(enter(other).is_some());
        drop(held);
        assert!(enter(hostile).is_some(), "what ends makes room");
    }

    #[test]
    fn one_identity_leaves_places_for_others_and_nobody_waits() {
        let inside = Inside::new(Capacity { members: 8, ..Capacity::WHOLE });
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://shop.test/ns/default/sa/{name}")).expect("an id");
        let take = |name: &str| inside.take(&id(name));
        let mut held: Vec<_> = (0..8).filter_map(|_| take("many").ok()).collect();
        assert_eq!(held.len(), 6, "beyond its part while others have theirs");
        assert_eq!(take("many").err(), Some(NoPlace::OfOne));
        held.extend([take("a"), take("b")].into_iter().flatten());
        assert_eq!(held.len(), 8);
        assert_eq!(take("late").err(), Some(NoPlace::Full));
        held.pop();
        assert!(take("late").is_ok(), "what ends makes room");
    }

    #[test]
    fn an_identity_has_its_part_when_places_are_short() {
        let inside = Inside::new(Capacity { members: 8, ..Capacity::WHOLE });
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://shop.test/ns/default/sa/{name}")).expect("an id");
        let others: Vec<_> = ["a", "b", "c", "d", "e"].iter().filter_map(|name| inside.take(&id(name)).ok()).collect();
        let own: Vec<_> = (0..3).map(|_| inside.take(&id("cart")).map(drop)).collect();
        assert_eq!((others.len(), own), (5, vec![Ok(()); 3]));
        let own: Vec<_> = (0..3).filter_map(|_| inside.take(&id("cart")).ok()).collect();
        assert_eq!(own.len(), 2);
        assert!(inside.take(&id("f")).is_ok());
    }

    #[test]
    fn trouble_is_told_of_at_once_and_then_once_in_a_while() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert_eq!(trouble.note(now), Some(1));
        assert_eq!((trouble.note(now), trouble.note(now)), (None, None));
        assert_eq!(trouble.note(now + PAUSE), Some(3));
    }
}
