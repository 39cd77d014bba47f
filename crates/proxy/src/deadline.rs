//! Deadlines that cost a store to set: a connection has one watch, and the worker's sweep looks at all of them a few
//! times a second.
//!
//! For the limits that every connection has (handshake, head, idle, stalled body), where a quarter of a second more or
//! less does not matter. Timeouts that a route sets are exact and use the runtime's timer. Nothing here decides what
//! an expired deadline means.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How often a worker looks at its watches.
pub(crate) const SWEEP: Duration = Duration::from_millis(250);

/// Why a wait ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The deadline passed.
    TimedOut,
    /// The worker drains and the connection was idle.
    Draining,
}

#[derive(Default)]
struct State {
    /// Milliseconds on the worker's clock; 0 is "no deadline".
    due: Cell<u64>,
    /// Milliseconds after which a wait expires, counted anew from every wait; 0 is a deadline that stands.
    period: Cell<u64>,
    idle: Cell<bool>,
    /// Which drains it belongs to: those of this kind and wider ones.
    whose: Cell<Whose>,
    expired: Cell<Option<Expired>>,
    /// When whoever waits is woken without a reason, in milliseconds; 0 is never.
    nudged: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

impl State {
    fn expire(&self, why: Expired) {
        self.expired.set(Some(why));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// All watches of one worker.
#[derive(Default)]
pub(crate) struct Watches {
    now: Cell<u64>,
    /// Which connections drain by now.
    drained: Cell<Option<Whose>>,
    slots: RefCell<Vec<Option<Rc<State>>>>,
    free: RefCell<Vec<usize>>,
}

impl Watches {
    /// A watch for one connection; it goes when the [`Watch`] is dropped.
    pub(crate) fn add(self: &Rc<Self>) -> Watch {
        let state = Rc::new(State::default());
        let slot = match self.free.borrow_mut().pop() {
            Some(slot) => slot,
            None => {
                self.slots.borrow_mut().push(None);
                self.slots.borrow().len() - 1
            }
        };
        self.slots.borrow_mut()[slot] = Some(state.clone());
        Watch { state, slot, all: self.clone() }
    }

    /// The time of the last sweep: good enough for what is counted in seconds, and free.
    pub(crate) fn last_sweep(&self) -> Duration {
        Duration::from_millis(self.now.get())
    }

    /// Advances the clock to `now` (milliseconds) and wakes everything that is due.
    pub(crate) fn sweep(&self, now: u64) {
        self.now.set(now);
        for state in self.slots.borrow().iter().flatten() {
            let due = state.due.get();
            if due != 0 && due <= now && state.expired.get().is_none() {
                state.expire(Expired::TimedOut);
            }
            let nudged = state.nudged.get();
            if nudged != 0 && nudged <= now {
                state.nudged.set(0);
                if let Some(waker) = state.waker.borrow_mut().take() {
                    waker.wake();
                }
            }
        }
    }

    /// Ends every idle wait, now and from now on: of all connections, or of those on the way into a workload.
    pub(crate) fn drain(&self, whose: Whose) {
        self.drained.set(Some(self.drained.get().map_or(whose, |before| before.max(whose))));
        for state in self.slots.borrow().iter().flatten().filter(|state| state.whose.get() <= whose) {
            if state.idle.get() && state.expired.get().is_none() {
                state.expire(Expired::Draining);
            } else if let Some(waker) = state.waker.borrow_mut().take() {
                // Not over, but whoever carries several exchanges on one connection wants to say goodbye early.
                waker.wake();
            }
        }
    }
}

/// Which connections a drain is about. One that is about all is also about those of the way in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    /// Those on the way into a workload.
    WayIn,
    #[default]
    All,
}

/// The one deadline of a connection.
pub(crate) struct Watch {
    state: Rc<State>,
    slot: usize,
    all: Rc<Watches>,
}

impl Watch {
    /// Sets the deadline, from the last sweep on; it replaces the previous one. None is no deadline.
    pub(crate) fn set(&self, after: Option<Duration>) {
        self.clear();
        if let Some(after) = after {
            self.state.due.set(self.all.now.get().saturating_add(millis(after)).max(1));
        }
    }

    /// Lets every wait from now on expire after `period` without progress, whichever side waits.
    pub(crate) fn set_stall(&self, period: Option<Duration>) {
        self.set(period);
        self.state.period.set(period.map_or(0, millis));
    }

    /// As [`Watch::set`], for a connection between two requests: a drain ends this wait at once.
    pub(crate) fn set_idle(&self, after: Option<Duration>) {
        self.set(after);
        self.state.idle.set(true);
        if self.all.drained.get().is_some_and(|whose| self.state.whose.get() <= whose) {
            self.state.expired.set(Some(Expired::Draining));
        }
    }

    /// The connection is one on the way into a workload.
    pub(crate) fn belong_to_the_way_in(&self) {
        self.state.whose.set(Whose::WayIn);
    }

    /// Takes the deadline away.
    pub(crate) fn clear(&self) {
        self.state.idle.set(false);
        self.state.expired.set(None);
        self.state.period.set(0);
        self.state.due.set(0);
    }

    /// Waits for `poll`, or for the deadline.
    pub(crate) async fn wait<T>(&self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Result<T, Expired> {
        self.renew();
        std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = poll(cx) {
                return Poll::Ready(Ok(outcome));
            }
            if let Some(why) = self.state.expired.get() {
                return Poll::Ready(Err(why));
            }
            self.register(cx);
            Poll::Pending
        })
        .await
    }

    /// For waits that are not futures: ready when the deadline has passed, or a drain ended an idle wait.
    pub(crate) fn poll_expired(&self, cx: &Context<'_>) -> Poll<Expired> {
        if let Some(why) = self.state.expired.get() {
            return Poll::Ready(why);
        }
        self.register(cx);
        Poll::Pending
    }

    /// The time of the last sweep.
    pub(crate) fn last_sweep(&self) -> Duration {
        self.all.last_sweep()
    }

    /// Has whoever polls this woken at a time, measured by the sweeps, whatever else it waits for. Deadlines are not touched by it. None: not
    /// any more.
    pub(crate) fn nudge(&self, at: Option<Duration>) {
        self.state.nudged.set(at.map_or(0, |at| millis(at).max(1)));
    }

    /// Lets whoever polls this be woken by a nudge.
    pub(crate) fn listen(&self, cx: &Context<'_>) {
        self.register(cx);
    }

    /// With a period, counts it from now.
    fn renew(&self) {
        let period = self.state.period.get();
        if period != 0 {
            self.state.due.set(self.all.now.get().saturating_add(period));
            if self.state.expired.get() == Some(Expired::TimedOut) {
                self.state.expired.set(None);
            }
        }
    }

    fn register(&self, cx: &Context<'_>) {
        let mut waker = self.state.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.all.slots.borrow_mut()[self.slot] = None;
        self.all.free.borrow_mut().push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
        pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn expires_only_when_due() {
        let watches = Rc::new(Watches::default());
        watches.sweep(1_000);
        let watch = watches.add();
        watch.set(Some(Duration::from_millis(500)));
        watches.sweep(1_400);
        assert!(poll_once(watch.wait(|_| Poll::<()>::Pending)).is_pending());
        watches.sweep(1_500);
        assert_eq!(poll_once(watch.wait(|_| Poll::<()>::Pending)), Poll::Ready(Err(Expired::TimedOut)));
        watch.clear();
        assert!(poll_once(watch.wait(|_| Poll::<()>::Pending)).is_pending());
    }

    #[test]
    fn a_drain_ends_idle_waits_only() {
        let watches = Rc::new(Watches::default());
        let (busy, idle) = (watches.add(), watches.add());
        busy.set(Some(Duration::from_secs(1)));
        idle.set_idle(Some(Duration::from_secs(1)));
        watches.drain(Whose::All);
        assert!(poll_once(busy.wait(|_| Poll::<()>::Pending)).is_pending());
        assert_eq!(poll_once(idle.wait(|_| Poll::<()>::Pending)), Poll::Ready(Err(Expired::Draining)));
        busy.set_idle(Some(Duration::from_secs(1)));
        assert_eq!(poll_once(busy.wait(|_| Poll::<()>::Pending)), Poll::Ready(Err(Expired::Draining)));
    }

    #[test]
    fn a_stall_counts_from_the_last_wait() {
        let watches = Rc::new(Watches::default());
        let watch = watches.add();
        watch.set_stall(Some(Duration::from_millis(100)));
        watches.sweep(90);
        assert_eq!(poll_once(watch.wait(|_| Poll::Ready(()))), Poll::Ready(Ok(())));
        watches.sweep(150);
        assert!(poll_once(watch.wait(|_| Poll::<()>::Pending)).is_pending());
        watches.sweep(250);
        // The waiting future is gone; the state tells.
        assert_eq!(watch.state.expired.get(), Some(Expired::TimedOut));
    }

    #[test]
    fn a_nudge_wakes_and_ends_nothing() {
        let watches = Rc::new(Watches::default());
        let watch = watches.add();
        watch.nudge(Some(Duration::from_millis(500)));
        let woken = std::sync::Arc::new(Woken::default());
        watch.listen(&Context::from_waker(&Waker::from(woken.clone())));
        watches.sweep(499);
        assert!(!woken.0.load(std::sync::atomic::Ordering::Relaxed));
        watches.sweep(500);
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed));
        assert!(poll_once(watch.wait(|_| Poll::<()>::Pending)).is_pending());
    }

    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn slots_are_reused() {
        let watches = Rc::new(Watches::default());
        drop(watches.add());
        let _one = watches.add();
        assert_eq!(watches.slots.borrow().len(), 1);
    }
}
