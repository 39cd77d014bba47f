//! Live requests for somebody who watches: what a worker tells of a request that a tap wants, and how many.
//!
//! Ordered by the control plane through `feed/member/report.rs`; asked by `record.rs`, which costs one look at a cell as long as nobody watches.
//! Only the called side tells. Nothing of a request's fields, query or content is told, and no more than [`MOST_PER_SECOND`].

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use transept_engine::exchange::Connection;
use transept_engine::reason::Reason;
use transept_engine::snapshot::Role;
use transept_xds::report::{Tap, Tapped};

use crate::path::Marks;
use crate::trip::Trip;

/// Requests that one proxy tells of in a second.
pub(crate) const MOST_PER_SECOND: u64 = 100;

/// The longest path or detail that is told, in bytes.
const LONGEST: usize = 1024;

/// What is wanted of all workers.
pub(crate) struct Order {
    taps: Vec<Tap>,
    /// Requests that one worker tells of in a second.
    most: u64,
    told: mpsc::Sender<Tapped>,
    /// Requests that were wanted and not told.
    left_out: AtomicU64,
}

impl Order {
    /// An order to `workers` workers; what they tell comes out of the other end of `told`.
    pub(crate) fn new(taps: Vec<Tap>, workers: usize, told: mpsc::Sender<Tapped>) -> Self {
        let workers = u64::try_from(workers).unwrap_or(1).max(1);
        Self { taps, most: (MOST_PER_SECOND / workers).max(1), told, left_out: AtomicU64::new(0) }
    }

    /// What is wanted.
    pub(crate) fn taps(&self) -> &[Tap] {
        &self.taps
    }

    /// How many were left out since the last time that somebody asked.
    pub(crate) fn take_left_out(&self) -> u64 {
        self.left_out.swap(0, Ordering::Relaxed)
    }
}

/// The ear of one worker.
#[derive(Default)]
pub(crate) struct Ear {
    listens: Cell<bool>,
    order: RefCell<Option<Arc<Order>>>,
    /// A second since the origin of the clock, and how many were told in it.
    second: Cell<(u64, u64)>,
}

impl Ear {
    /// Takes another order, or none.
    pub(crate) fn follow(&self, order: Option<Arc<Order>>) {
        self.listens.set(order.is_some());
        self.order.replace(order);
    }

    /// Whether somebody watches.
    pub(crate) fn listens(&self) -> bool {
        self.listens.get()
    }

    /// Tells of an exchange that has ended, if it is wanted and there is room. `now` is the worker's time.
    pub(crate) fn hear(&self, trip: &Trip, marks: &Marks<'_>, connection: &Connection, took: Duration, now: Duration) {
        let order = self.order.borrow();
        let Some(order) = order.as_ref() else { return };
        let Some(listener) = marks.listener.filter(|listener| listener.settings.role == Role::Inbound) else { return };
        let source = connection.identity.as_deref().unwrap_or_default();
        let (method, path, status) = (trip.request.method.as_bytes(), trip.request.path(), trip.facts.status);
        let wanting = order.taps.iter().filter(|tap| tap.wants(method, path, status, source));
        let taps: Vec<u64> = wanting.map(|tap| tap.id).collect();
        if taps.is_empty() {
            return;
        }
        let told = self.count(now, order.most) && {
            let instance = listener.stream.as_ref().and_then(|rule| rule.backends.first()?.target.as_ref().ok());
            order
                .told
                .try_send(Tapped {
                    taps,
                    time: u64::try_from(trip.started.unix.as_micros()).unwrap_or(u64::MAX),
                    source: source.to_owned(),
                    service: format!("{}/{}", listener.name.namespace, listener.name.gateway),
                    workload: instance.map(|backend| backend.id.name.to_string()).unwrap_or_default(),
                    method: text(method),
                    path: text(path),
                    status: status.into(),
                    micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                    bytes_sent: trip.facts.bytes_in,
                    bytes_received: trip.facts.bytes_out,
                    error: trip.facts.error.map_or("", Reason::slug).to_owned(),
                    detail: text(trip.facts.detail.as_bytes()),
                    trace: trip.facts.span.as_ref().map(|span| text(&span.trace)).unwrap_or_default(),
                })
                .is_ok()
        };
        if !told {
            order.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether one more may be told in this second.
    fn count(&self, now: Duration, most: u64) -> bool {
        let (second, told) = self.second.get();
        let told = if second == now.as_secs() { told } else { 0 };
        self.second.set((now.as_secs(), told + 1));
        told < most
    }
}

/// The beginning of what may be no text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_told_in_a_second_than_the_most() {
        let ear = Ear::default();
        let at = Duration::from_millis;
        assert_eq!(
            [1, 2, 3, 999, 1000, 1001, 1999].map(|ms| ear.count(at(ms), 2)),
            [true, true, false, false, true, true, false]
        );
    }

    #[test]
    fn workers_share_what_a_proxy_may_tell() {
        let (told, _heard) = mpsc::channel(1);
        assert_eq!(Order::new(Vec::new(), 4, told.clone()).most, 25);
        assert_eq!(Order::new(Vec::new(), 1000, told).most, 1);
    }
}
