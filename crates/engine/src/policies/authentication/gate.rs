//! How many passwords are computed at a time, in the whole process and for one client: each may take hundreds of MiB.
//!
//! Entered by the scheme `basic` before it asks for a computation. Who finds no room is not kept waiting.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::failures::network;

/// Passwords that are computed at a time.
const AT_A_TIME: u32 = 4;
/// Those and the ones that wait for their turn.
const MOST: u32 = 64;
/// As many of these may be of one client: an IPv4 address, or an IPv6 network of 64 bits.
const OF_ONE: u32 = 8;

/// The way to the computations, for all policies.
#[derive(Debug, Default)]
pub(super) struct Gate {
    under_way: Mutex<UnderWay>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct UnderWay {
    computed: u32,
    all: u32,
    by_client: HashMap<IpAddr, u32>,
}

/// A place among those that are computed or wait for it, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    client: IpAddr,
}

impl Gate {
    /// A place for a computation on behalf of a client, when there is one.
    pub(super) fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let client = network(client);
        let mut under_way = self.lock();
        let own = under_way.by_client.get(&client).copied().unwrap_or(0);
        if under_way.all >= MOST || own >= OF_ONE {
            return None;
        }
        under_way.all += 1;
        under_way.by_client.insert(client, own + 1);
        Some(Place { gate: Arc::clone(self), client })
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Computes when it is its turn. Blocks the thread until then.
    pub(super) fn compute<T>(self, compute: impl FnOnce() -> T) -> T {
        let mut under_way = self.gate.lock();
        while under_way.computed >= AT_A_TIME {
            under_way = self.gate.free.wait(under_way).unwrap_or_else(PoisonError::into_inner);
        }
        under_way.computed += 1;
        drop(under_way);
        let _turn = Turn(&self.gate);
        compute()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.gate.lock();
        under_way.all -= 1;
        match under_way.by_client.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                under_way.by_client.remove(&self.client);
            }
        }
    }
}

/// The turn of a computation, over however it ends.
struct Turn<'g>(&'g Gate);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().computed -= 1;
        self.0.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn client(number: u32) -> IpAddr {
        (0xc000_0200 + number).to_be_bytes().into()
    }

    #[test]
    fn one_client_does_not_fill_the_gate() {
        let gate = Arc::new(Gate::default());
        let enter = |number| gate.enter(client(number));
        let own: Vec<Option<Place>> = (0..20).map(|_| enter(1)).collect();
        assert_eq!(own.iter().flatten().count(), 8);
        let many: Vec<Option<Place>> = (0..100).map(|number| enter(2 + number)).collect();
        assert_eq!(many.iter().flatten().count(), 56);
        drop(own);
        assert!(enter(1).is_some());
        drop(many);
        let under_way = gate.lock();
        assert_eq!((under_way.all, under_way.computed, under_way.by_client.len()), (0, 0, 0));
    }

    #[test]
    fn a_client_of_ipv6_is_a_network() {
        let gate = Arc::new(Gate::default());
        let own: Vec<Option<Place>> =
            (0..20).map(|number| gate.enter(format!("2001:db8:0:1::{number}").parse().expect("an address"))).collect();
        assert_eq!(own.iter().flatten().count(), 8);
        assert!(gate.enter("2001:db8:0:2::1".parse().expect("an address")).is_some());
    }

    #[test]
    fn a_place_and_a_turn_are_given_back_however_a_computation_ends() {
        let gate = Arc::new(Gate::default());
        for number in 0..AT_A_TIME * 2 {
            let place = gate.enter(client(number)).expect("a place");
            let ended = catch_unwind(AssertUnwindSafe(|| place.compute(|| panic!("of no use"))));
            assert!(ended.is_err());
        }
        assert_eq!(gate.enter(client(1)).expect("a place").compute(|| 7), 7);
        let under_way = gate.lock();
        assert_eq!((under_way.all, under_way.computed), (0, 0));
    }
}
