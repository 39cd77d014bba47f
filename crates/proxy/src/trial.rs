//! One try as its endpoint's record sees it: counted while it lasts, and its outcome noted once.
//!
//! Made by `attempt.rs` for every try, and by `splice.rs` for every connection that is carried whole. What an outcome means for the endpoint is the engine's business; here it is settled which
//! failures are the endpoint's at all. Our own limits, clients that went away and pooled connections that had gone stale are not,
//! nor is a time that policies, earlier tries or a slow client have used up.
//! Also asks for room where a policy limits a backend.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use transept_engine::balance::Event;
use transept_engine::exchange::Now;
use transept_engine::judge::Outcome;
use transept_engine::pick::{Chosen, Probe};
use transept_engine::reason::Reason;
use transept_engine::reply::is_grpc;
use transept_engine::snapshot::Backend;
use transept_engine::traffic::{Permit, Resource};

use crate::attempt::Crossing;
use crate::failure::{self, Failure, Side};
use crate::path::Stop;
use crate::trip::Trip;
use crate::worker::Worker;

/// A try under way.
pub(crate) struct Trial<'t> {
    worker: Rc<Worker>,
    backend: &'t Backend,
    chosen: &'t Chosen,
    /// When the time of the whole exchange is over: a try that is dropped then has failed.
    due: Option<Duration>,
    /// How long the whole exchange may take, and how long the try.
    limits: (Option<Duration>, Option<Duration>),
    /// Since when nothing but the endpoint is waited for; none while the client owes a part of the request.
    turn: Cell<Option<Duration>>,
    /// How long that was before: one that reads slowly has many turns.
    had: Cell<Duration>,
    /// Whether both sides may speak in turns, as with gRPC.
    is_dialogue: bool,
    /// When it began, where its time is limited: how long it takes matters for others then.
    began: Option<Duration>,
    noted: Cell<bool>,
    /// A good head that has come, where it also counts that the response is whole, or as far as anybody wanted it.
    good: Cell<Option<Outcome>>,
    /// Whether it waits for room that a limit of ours does not leave it: the time that it loses is no fault of the endpoint's.
    queued: Cell<bool>,
}

impl<'t> Trial<'t> {
    pub(crate) fn new(worker: Rc<Worker>, crossing: Crossing<'t>, chosen: &'t Chosen, trip: &Trip, now: Now) -> Self {
        worker.turns.borrow_mut().begin(chosen.address);
        let limit = crossing.rule.timeouts.request.or(None);
        let due = limit.map(|limit| trip.started.monotonic.saturating_add(limit));
        let began = crossing.due.map(|_| now.monotonic);
        let (noted, good, queued) = (Cell::new(false), Cell::new(None), Cell::new(false));
        let limits = (limit, crossing.try_timeout());
        let (turn, had) = (Cell::new(Some(now.monotonic)), Cell::new(Duration::ZERO));
        let is_dialogue = is_grpc(&trip.request);
        Self {
            worker,
            backend: crossing.backend,
            chosen,
            due,
            limits,
            turn,
            had,
            is_dialogue,
            began,
            noted,
            good,
            queued,
        }
    }

    /// The client is waited for, which has sent so many bytes, and not the endpoint; but in a dialogue the next word may be the endpoint's.
    pub(crate) fn await_client(&self, sent: u64) {
        if self.limits == (None, None) {
            return;
        }
        let now = self.worker.clock.now().monotonic;
        if let Some(since) = self.turn.take() {
            self.had.set(self.had.get() + now.saturating_sub(since));
        }
        if self.is_dialogue && sent > 0 {
            self.turn.set(Some(now));
        }
    }

    /// The endpoint has again what it needs to go on.
    pub(crate) fn await_endpoint(&self) {
        if self.limits != (None, None) {
            self.turn.set(Some(self.worker.clock.now().monotonic));
        }
    }

    /// Whether the endpoint had a fair part of the time that is over, half of it. What policies, earlier tries or a slow client have used up is no
    /// fault of its.
    fn had_its_time(&self, limit: Option<Duration>) -> bool {
        let Some(limit) = limit else { return true };
        let now = self.worker.clock.now().monotonic;
        self.turn.get().is_some_and(|since| self.had.get() + now.saturating_sub(since) >= limit / 2)
    }

    /// A response head has come with this status. Who is back is back with a good one, however long the response goes on; that one may break
    /// off yet.
    pub(crate) fn heard(&self, status: u16) {
        let outcome = Outcome::Status(status);
        if status >= 500 {
            return self.note(outcome);
        }
        self.note_time();
        self.noted.set(true);
        if !teaches(&self.worker, self.backend, outcome) {
            return;
        }
        let now = self.worker.clock.now().into();
        let event = self.worker.turns.borrow_mut().note_head(self.backend, self.chosen, now);
        tell(&self.worker, self.backend, self.chosen, event);
        self.good.set(self.backend.outliers().map(|_| outcome));
    }

    /// What became of the try, as far as its endpoint is concerned. A response that breaks off later is told besides.
    pub(crate) fn note(&self, outcome: Outcome) {
        self.good.set(None);
        if matches!(outcome, Outcome::Status(_) | Outcome::TimedOut) {
            self.note_time();
        }
        self.teach(outcome);
    }

    /// How long it took until there was an answer, or none was waited for any longer.
    fn note_time(&self) {
        if let Some(began) = self.began {
            let now: Now = self.worker.clock.now().into();
            let took = now.monotonic.saturating_sub(began);
            self.worker.turns.borrow_mut().note_time(self.backend, took, now);
        }
    }

    fn teach(&self, outcome: Outcome) {
        if !teaches(&self.worker, self.backend, outcome) {
            return;
        }
        self.noted.set(true);
        note(&self.worker, self.backend, self.chosen, outcome);
    }

    /// Whether it waits for room; set by who waits.
    pub(crate) fn queued(&self) -> &Cell<bool> {
        &self.queued
    }

    /// The try failed.
    pub(crate) fn failed(&self, failure: &Failure) {
        let outcome = outcome_of(failure);
        // Without a limit of its own a try is over by the listener's, which begins when the endpoint has all of the request.
        if outcome == Some(Outcome::TimedOut) && !self.had_its_time(self.limits.1) {
            return;
        }
        if let Some(outcome) = outcome {
            self.note(outcome);
        } else if failure.side == Side::Upstream && failure.reason == Reason::UpstreamReset {
            let now = self.worker.clock.now().into();
            self.worker.turns.borrow_mut().note_refused(self.chosen, now);
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.worker.turns.borrow_mut().end(self.chosen.address);
        if let Some(good) = self.good.take() {
            let now = self.worker.clock.now().into();
            return self.worker.turns.borrow_mut().note_end(self.backend, self.chosen, good, now);
        }
        if self.noted.get() || self.backend.traffic.is_none() {
            return;
        }
        let now = self.worker.clock.now();
        let is_over = self.due.is_some_and(|due| due <= now.monotonic);
        if is_over && !self.queued.get() && self.had_its_time(self.limits.0) {
            self.note(Outcome::TimedOut);
        } else if self.chosen.probe == Probe::Yes {
            self.worker.turns.borrow_mut().give_up_probe(self.backend, self.chosen.address, now.monotonic + PAUSE);
        }
    }
}

/// How long nobody is sent to an endpoint that is left alone after a request that has found out nothing: what was so once may be so each time.
const PAUSE: Duration = Duration::from_secs(1);

/// A connection that is carried whole: it counts as one that its endpoint has not finished while this lives.
pub(crate) struct Carriage {
    worker: Rc<Worker>,
    endpoint: SocketAddr,
}

impl Carriage {
    pub(crate) fn new(worker: Rc<Worker>, endpoint: SocketAddr) -> Self {
        worker.turns.borrow_mut().begin(endpoint);
        Self { worker, endpoint }
    }

    /// What became of connecting.
    pub(crate) fn note(&self, backend: &Backend, chosen: &Chosen, failure: Option<&Failure>) {
        match failure.map_or(Some(Outcome::Connected), outcome_of) {
            Some(outcome) if teaches(&self.worker, backend, outcome) => {
                note(&self.worker, backend, chosen, outcome);
            }
            Some(_) => {}
            None => self.leave_open(backend, chosen),
        }
    }

    /// Nothing is known of the endpoint by this: somebody else may find out whether it is well.
    pub(crate) fn leave_open(&self, backend: &Backend, chosen: &Chosen) {
        if backend.traffic.is_some() && chosen.probe == Probe::Yes {
            let next = self.worker.clock.now().monotonic + PAUSE;
            self.worker.turns.borrow_mut().give_up_probe(backend, chosen.address, next);
        }
    }
}

impl Drop for Carriage {
    fn drop(&mut self) {
        self.worker.turns.borrow_mut().end(self.endpoint);
    }
}

/// Whether anything is learned from an outcome.
fn teaches(worker: &Worker, backend: &Backend, outcome: Outcome) -> bool {
    outcome == Outcome::Unreachable || worker.turns.borrow().awaits_success(backend)
}

fn note(worker: &Worker, backend: &Backend, chosen: &Chosen, outcome: Outcome) {
    let now = worker.clock.now().into();
    let event = worker.turns.borrow_mut().note(backend, chosen, outcome, now);
    tell(worker, backend, chosen, event);
}

/// Tells what has come of a result.
fn tell(worker: &Worker, backend: &Backend, chosen: &Chosen, event: Option<Event>) {
    let (label, endpoint) = (&backend.label, chosen.address);
    match event {
        None => {}
        Some(Event::Ejected(time)) => {
            worker.meter.borrow_mut().ejected(label);
            if let Some(edges) = &worker.edges {
                edges.borrow_mut().ejected(backend, endpoint);
            }
            tracing::warn!(backend = %label, %endpoint, seconds = time.as_secs(), "an endpoint fails and is left alone");
        }
        Some(Event::Unreachable(time)) => {
            let seconds = time.as_secs();
            tracing::warn!(backend = %label, %endpoint, seconds, "an endpoint cannot be reached: others are used where there are any");
        }
        Some(Event::Recovered) => tracing::info!(backend = %label, %endpoint, "an endpoint has recovered"),
    }
}

/// What a failure says about the endpoint; none when it is not to blame.
fn outcome_of(failure: &Failure) -> Option<Outcome> {
    if failure.side == Side::Downstream {
        return None;
    }
    match failure.reason {
        Reason::UpstreamRefused
        | Reason::UpstreamConnectTimeout
        | Reason::UpstreamTls
        | Reason::UpstreamCertificate => Some(Outcome::Unreachable),
        // The server says that it has not looked at the request: it closes politely, or is busy.
        Reason::UpstreamReset if failure.repeat == failure::Repeat::Safe => None,
        Reason::UpstreamReset
        | Reason::UpstreamMalformed
        | Reason::UpstreamHeadTooLarge
        | Reason::UpstreamIncomplete => Some(Outcome::Reset),
        Reason::UpstreamTimeout => Some(Outcome::TimedOut),
        _ => None,
    }
}

/// Asks for room for one request, where a policy limits the backend.
pub(crate) fn admit(backend: &Backend) -> Result<Option<Permit>, Stop> {
    match &backend.traffic {
        None => Ok(None),
        Some(traffic) => Ok(backend.ledger.take(&traffic.limits, Resource::Request)?),
    }
}

/// Counts a request as pending while it waits for a connection, where a policy limits the backend. One that gets its connection at
/// once was never waiting.
pub(crate) async fn within_pending<T>(
    backend: &Backend,
    mut connecting: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Result<T, Failure> {
    let Some(traffic) = backend.traffic.as_ref().filter(|traffic| traffic.limits.pending.is_some()) else {
        return connecting.await;
    };
    let mut permit = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = connecting.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        if permit.is_none() {
            match backend.ledger.take(&traffic.limits, Resource::Pending) {
                Ok(taken) => permit = taken,
                Err(reply) => return Poll::Ready(Err(full(reply.reason))),
            }
        }
        Poll::Pending
    })
    .await
}

fn full(reason: Reason) -> Failure {
    Failure::new(Side::Upstream, reason, failure::Repeat::Never, "too many requests wait for a connection")
}
