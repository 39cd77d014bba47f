//! A store of limits that several proxies share: what is asked of it, and how it is known whether it answers.
//!
//! Nothing is sent from here. Limits leave orders for tokens; `proxy/src/stores.rs` carries them to the server, all that are waiting
//! in one go, and brings back what was granted. A store is known by its address, and lives as long as some policy uses it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::lease::{Leases, Ticket};
use crate::snapshot::UpstreamTls;

/// The name of the list of stores in the memory of policies.
pub const STORES: &str = "stores of limits";

/// Where a store is, and how it is spoken to.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreAddress {
    /// A DNS name or an address.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// The number of the database.
    pub database: u32,
    /// TLS, if it is spoken.
    pub tls: Option<Arc<UpstreamTls>>,
    /// The user.
    pub username: Option<Box<str>>,
    /// The password. Never shown.
    pub password: Option<Box<str>>,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl std::fmt::Debug for StoreAddress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{self}")
    }
}

impl std::fmt::Display for StoreAddress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        write!(out, "{scheme}://{}:{}/{}", self.host, self.port, self.database)
    }
}

/// All stores of a process.
#[derive(Debug, Default)]
pub struct Stores {
    list: Mutex<Vec<Weak<Store>>>,
}

/// One store.
pub struct Store {
    /// Where it is.
    pub address: StoreAddress,
    /// Held so that the list lives as long as what is in it.
    _stores: Arc<Stores>,
    state: AtomicU8,
    orders: Mutex<Vec<Order>>,
    /// Who waits, by the key that he waits for. Two keys of one hash are woken together, and look for themselves.
    waiting: Mutex<HashMap<u64, HashMap<u64, Waker>>>,
    /// How many have begun to wait: each has a number of his own.
    begun: AtomicU64,
    bell: Mutex<Option<Bell>>,
}

type Bell = Box<dyn Fn() + Send + Sync>;

const CONNECTING: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

/// Something to ask of a store: tokens of one bucket.
#[derive(Debug)]
pub struct Order {
    /// The bucket in the store.
    pub key: String,
    /// The time of one token, in microseconds.
    pub interval: f64,
    /// Tokens in a full bucket.
    pub burst: u32,
    /// How many are wanted; none, to see how many there are.
    pub want: u32,
    /// How many it must be at least; none takes all that are wanted in any case, and leaves less than nothing if it must.
    pub least: Option<u32>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) hash: u64,
    /// Whether somebody waits for what comes of it.
    pub(crate) is_open: AtomicBool,
}

/// What a store says to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Tokens that are ours now.
    pub tokens: u32,
    /// When as many as were wanted at least are there; zero when some were granted.
    pub wait: Duration,
    /// How many are left in the store.
    pub left: i64,
    /// When its bucket is full.
    pub full_in: Duration,
}

impl Stores {
    /// The store with this address.
    pub(crate) fn open(self: &Arc<Self>, address: &StoreAddress) -> Arc<Store> {
        let mut list = lock(&self.list);
        list.retain(|store| store.strong_count() > 0);
        if let Some(known) = list.iter().filter_map(Weak::upgrade).find(|store| store.address == *address) {
            return known;
        }
        let store = Arc::new(Store {
            address: address.clone(),
            _stores: Arc::clone(self),
            state: AtomicU8::new(CONNECTING),
            orders: Mutex::default(),
            waiting: Mutex::default(),
            begun: AtomicU64::new(0),
            bell: Mutex::default(),
        });
        list.push(Arc::downgrade(&store));
        store
    }

    /// Those that some policy uses.
    pub fn living(&self) -> Vec<Arc<Store>> {
        lock(&self.list).iter().filter_map(Weak::upgrade).collect()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Store").field(&self.address).finish()
    }
}

impl Store {
    /// From now on `bell` is rung when there are orders.
    pub fn attend(&self, bell: Bell) {
        *lock(&self.bell) = Some(bell);
    }

    /// Takes the orders that are waiting.
    pub fn take_orders(&self) -> Vec<Order> {
        std::mem::take(&mut *lock(&self.orders))
    }

    /// Says whether the store answers. Orders that were taken and not answered are lost; who waits for them is let go on.
    pub fn note_health(&self, is_up: bool) {
        self.state.store(if is_up { UP } else { DOWN }, Ordering::Release);
        if !is_up {
            drop(self.take_orders());
            let all = std::mem::take(&mut *lock(&self.waiting));
            all.into_values().flat_map(HashMap::into_values).for_each(Waker::wake);
        }
    }

    /// Whether it answers; none before that is known.
    pub fn answers(&self) -> Option<bool> {
        match self.state.load(Ordering::Acquire) {
            CONNECTING => None,
            state => Some(state == UP),
        }
    }

    /// Lets those go on who wait for these orders, which are answered.
    pub fn wake_for<'o>(&self, orders: impl Iterator<Item = &'o Order>) {
        orders.for_each(|order| self.wake(order.hash));
    }

    /// Lets those go on who wait for this key.
    pub(crate) fn wake(&self, hash: u64) {
        let woken = lock(&self.waiting).remove(&hash);
        woken.into_iter().flat_map(HashMap::into_values).for_each(Waker::wake);
    }

    /// Whether the store has answered last.
    pub(crate) fn is_down(&self) -> bool {
        self.state.load(Ordering::Acquire) == DOWN
    }

    pub(crate) fn order(&self, order: Order) {
        let mut orders = lock(&self.orders);
        orders.push(order);
        drop(orders);
        if let Some(bell) = &*lock(&self.bell) {
            bell();
        }
    }

    /// Waits until the order that a ticket is for is answered, or will not be, or is to be made.
    pub(crate) fn answered(
        self: &Arc<Self>,
        leases: &Arc<Leases>,
        ticket: Ticket,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        Box::pin(Answered { store: Arc::clone(self), leases: Arc::clone(leases), ticket, number, is_over: false })
    }
}

impl Order {
    /// Hands over what the store says. `now` is in nanoseconds of the clock of the requests.
    pub fn deliver(&self, grant: Grant, now: u64) {
        self.is_open.store(false, Ordering::Relaxed);
        // Of one that got something the store does not say when there is a token again.
        let first = Duration::from_secs_f64(self.interval * (f64::from(self.burst) - 1.0).max(0.0) / 1e6);
        let wait = if grant.tokens > 0 { grant.full_in.saturating_sub(first) } else { grant.wait };
        self.leases.deliver(self.hash, self.least, Grant { wait, ..grant }, now);
    }

    /// Says that nothing will come.
    pub fn give_up(&self) {
        if self.is_open.swap(false, Ordering::Relaxed) {
            self.leases.give_up(self.hash);
        }
    }

    /// Says that the store cannot say anything about this key, which says nothing about others. `now` as for [`Order::deliver`].
    pub fn silence(&self, now: u64) {
        self.is_open.store(false, Ordering::Relaxed);
        self.leases.silence(self.hash, now);
    }
}

impl Drop for Order {
    /// One that is lost on its way, such as with a store that no policy uses any more, is given up: its key would wait for ever.
    fn drop(&mut self) {
        self.give_up();
    }
}

struct Answered {
    store: Arc<Store>,
    leases: Arc<Leases>,
    ticket: Ticket,
    number: u64,
    is_over: bool,
}

impl Future for Answered {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        lock(&self.store.waiting).entry(self.ticket.hash).or_default().insert(self.number, cx.waker().clone());
        // Only now is it sure that an answer wakes us.
        let is_over = !self.leases.awaits(self.ticket) || self.store.is_down();
        if is_over {
            self.is_over = true;
            self.leave();
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Answered {
    /// Has nobody wake it any more.
    fn leave(&self) {
        let mut waiting = lock(&self.store.waiting);
        if let Some(here) = waiting.get_mut(&self.ticket.hash) {
            here.remove(&self.number);
            if here.is_empty() {
                waiting.remove(&self.ticket.hash);
            }
        }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.leave();
        if !self.is_over {
            self.leases.leave(self.ticket);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::lease::Drawn;

    fn order(leases: &Arc<Leases>, least: Option<u32>) -> Order {
        let (key, leases) = ("a".to_owned(), Arc::clone(leases));
        Order {
            key,
            interval: 1.0,
            burst: 9,
            want: 1,
            least,
            leases,
            hash: 7,
            is_open: AtomicBool::new(least.is_some()),
        }
    }

    #[test]
    fn an_order_that_is_lost_on_its_way_keeps_nobody_waiting() {
        let leases = Arc::new(Leases::new(9, 1_000));
        let Drawn::None(Some(_), ticket) = leases.draw(7, 1, 1, None) else { panic!("there is none") };
        let (lost, debit) = (order(&leases, Some(1)), order(&leases, None));
        drop(debit);
        assert!(leases.awaits(ticket), "what a response has cost is no order for requests");
        drop(lost);
        assert!(!leases.awaits(ticket));
        // One that was answered says nothing of the next.
        let first = order(&leases, Some(1));
        first.give_up();
        let Drawn::None(Some(_), ticket) = leases.draw(7, 1, 2, None) else { panic!("there is none") };
        drop(first);
        assert!(leases.awaits(ticket));
    }

    #[test]
    fn who_waits_for_no_more_than_his_own_order_leaves_nothing_behind() {
        let leases = Arc::new(Leases::new(9, 1_000));
        let address = StoreAddress {
            host: "store.test".into(),
            port: 1,
            database: 0,
            tls: None,
            username: None,
            password: None,
            timeout: Duration::from_secs(1),
        };
        let store = Arc::new(Stores::default()).open(&address);
        store.note_health(true);
        let mut cx = Context::from_waker(Waker::noop());
        let grant = Grant { tokens: 1, wait: Duration::ZERO, left: 5, full_in: Duration::from_secs(1) };
        let Drawn::None(Some(1), first) = leases.draw(7, 1, 1, None) else { panic!("there is none") };
        let Drawn::None(None, second) = leases.draw(7, 1, 1, None) else { panic!("it is ordered") };
        let mut waits = [first, second, second].map(|ticket| store.answered(&leases, ticket));
        assert!(waits.iter_mut().all(|wait| wait.as_mut().poll(&mut cx).is_pending()));
        leases.deliver(7, Some(1), grant, 2);
        store.wake(7);
        // Before the first comes to its token somebody else has made the next order.
        assert!(matches!(leases.draw(7, 1, 2, Some(second)), Drawn::None(Some(_), _)));
        let [own, next, gone] = &mut waits;
        assert!(own.as_mut().poll(&mut cx).is_ready());
        assert!(matches!(leases.draw(7, 1, 2, Some(first)), Drawn::Taken(..)));
        assert!(next.as_mut().poll(&mut cx).is_pending() && gone.as_mut().poll(&mut cx).is_pending());
        *gone = Box::pin(std::future::ready(()));
        leases.deliver(7, Some(1), grant, 3);
        store.wake(7);
        assert!(next.as_mut().poll(&mut cx).is_ready());
        assert!(lock(&store.waiting).is_empty());
    }
}
