//! Who watches live requests of which service, and what is handed on to them.
//!
//! Kept by `seen`. A tap lives as long as its [`Watcher`]: who asked on the admin socket. What a watcher does not take is left out and counted, so
//! that nobody waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use transept_xds::report::{Tap, Tapped};

use super::super::core::Plane;

/// Taps at a time: each costs the proxies of its service something.
const MOST: usize = 32;
/// Requests that wait for a watcher.
const WAITING: usize = 256;

/// What a watcher is told.
#[derive(Debug)]
pub(in crate::plane) enum Told {
    /// A request.
    Request(Box<Tapped>),
    /// So many were left out.
    LeftOut(u64),
}

#[derive(Debug)]
struct Held {
    /// The service, `namespace/name`.
    service: String,
    tap: Tap,
    told: mpsc::Sender<Told>,
    left_out: u64,
}

/// All taps.
#[derive(Debug)]
pub(in crate::plane) struct Taps {
    latest: u64,
    all: BTreeMap<u64, Held>,
    /// Moves whenever a tap begins or ends.
    changed: watch::Sender<u64>,
}

impl Default for Taps {
    fn default() -> Self {
        Self { latest: 0, all: BTreeMap::new(), changed: watch::Sender::new(0) }
    }
}

impl Taps {
    /// Begins one; none when there are too many.
    pub(in crate::plane) fn begin(&mut self, service: String, tap: Tap) -> Option<(u64, mpsc::Receiver<Told>)> {
        if self.all.len() >= MOST {
            return None;
        }
        self.latest += 1;
        let (told, receiver) = mpsc::channel(WAITING);
        let tap = Tap { id: self.latest, ..tap };
        self.all.insert(self.latest, Held { service, tap, told, left_out: 0 });
        self.changed.send_modify(|count| *count += 1);
        Some((self.latest, receiver))
    }

    fn end(&mut self, id: u64) {
        if self.all.remove(&id).is_some() {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Tells whenever a tap begins or ends.
    pub(in crate::plane) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The taps that the proxies of a service are to hear.
    pub(super) fn wanted(&self, service: &str) -> Vec<Tap> {
        self.all.values().filter(|held| held.service == service).map(|held| held.tap.clone()).collect()
    }

    /// Hands on what a proxy of a service tells; it can tell of no other.
    pub(super) fn hear(&mut self, service: &str, tapped: &[Tapped], left_out: u64) {
        for held in self.all.values_mut().filter(|held| held.service == service) {
            held.left_out = held.left_out.saturating_add(left_out);
            for request in tapped.iter().filter(|request| request.taps.contains(&held.tap.id)) {
                let request = Box::new(Tapped { service: service.to_owned(), ..request.clone() });
                if held.told.try_send(Told::Request(request)).is_err() {
                    held.left_out = held.left_out.saturating_add(1);
                }
            }
            if held.left_out > 0 && held.told.try_send(Told::LeftOut(held.left_out)).is_ok() {
                held.left_out = 0;
            }
        }
    }
}

/// Who watches; the tap ends with it.
#[derive(Debug)]
pub(in crate::plane) struct Watcher {
    plane: Arc<Plane>,
    id: u64,
    receiver: mpsc::Receiver<Told>,
}

impl Watcher {
    pub(in crate::plane) fn new(plane: Arc<Plane>, (id, receiver): (u64, mpsc::Receiver<Told>)) -> Self {
        Self { plane, id, receiver }
    }

    /// The next that is told.
    pub(in crate::plane) async fn next(&mut self) -> Option<Told> {
        self.receiver.recv().await
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.plane.seen().taps.end(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(taps: &[u64]) -> Tapped {
        Tapped { taps: taps.to_vec(), service: "somebody/else".into(), ..Tapped::default() }
    }

    #[test]
    fn a_watcher_is_told_of_its_own_service_only() {
        let mut taps = Taps::default();
        let (cart, mut at_cart) = taps.begin("default/cart".into(), Tap::default()).expect("room");
        let (_, mut at_web) = taps.begin("default/web".into(), Tap::default()).expect("room");
        assert_eq!(taps.wanted("default/cart").iter().map(|tap| tap.id).collect::<Vec<_>>(), [cart]);
        // Web claims to have heard what cart's watcher wants.
        taps.hear("default/web", &[request(&[cart])], 0);
        assert!(at_cart.try_recv().is_err() && at_web.try_recv().is_err());
        taps.hear("default/cart", &[request(&[cart])], 0);
        match at_cart.try_recv() {
            Ok(Told::Request(request)) => assert_eq!(request.service, "default/cart"),
            other => panic!("{other:?}"),
        }
        taps.end(cart);
        assert!(taps.wanted("default/cart").is_empty());
    }

    #[test]
    fn what_a_watcher_does_not_take_is_counted_and_told() {
        let mut taps = Taps::default();
        let (id, mut receiver) = taps.begin("default/cart".into(), Tap::default()).expect("room");
        let all = vec![request(&[id]); WAITING + 5];
        taps.hear("default/cart", &all, 2);
        let mut requests = 0;
        while let Ok(Told::Request(_)) = receiver.try_recv() {
            requests += 1;
        }
        assert_eq!(requests, WAITING);
        taps.hear("default/cart", &[], 0);
        assert!(matches!(receiver.try_recv(), Ok(Told::LeftOut(7))));
    }

    #[test]
    fn there_are_so_many_taps_and_no_more() {
        let mut taps = Taps::default();
        let held: Vec<_> = (0..=MOST).map(|_| taps.begin("default/cart".into(), Tap::default())).collect();
        assert_eq!(held.iter().flatten().count(), MOST);
    }
}
