//! What the driver of a connection and the tasks of its streams share.
//!
//! One worker owns all of it, so a borrow never waits. Nothing that runs under a borrow calls out: wakers are the only
//! thing that leaves, and they only put tasks into a queue.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use transept_wire::h2::head::{Refused, RequestHead};
use transept_wire::h2::{Breach, Code, Connection, Event, Fault, Gone, Key, Role};
use transept_wire::head::{Fields, Request, Response};

use crate::buffer::{self, Outbound};

/// Response heads of one stream that wait to be taken: more interim ones than anybody sends.
const MOST_HEADS: usize = 32;

/// Bytes in line behind those that the socket does not take, from which on a connection is not given more to do: heads are
/// bounded by no window.
const CLOGGED: usize = 256 * 1024;

/// Writers that are told at once that there is room; each takes about a frame and stands in line again.
const AT_ONCE: usize = 16;

/// Why a stream ended before its time.
#[derive(Clone, Debug)]
pub(crate) enum Cut {
    /// The peer broke it off.
    Reset(Code),
    /// The peer says that it did not process any of it.
    Unprocessed,
    /// The peer sent what is not allowed, and we broke it off.
    Breach(Breach),
    /// The connection ended or broke; the sentence tells how.
    Lost(Rc<str>),
}

impl Cut {
    /// Whether the peer says that a policy does not allow the stream any more.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Cut::Reset(Code::NOT_ALLOWED))
    }

    /// Whether the peer says that it has closed an idle connection in a tunnel, without a look at what was sent meanwhile.
    pub(crate) fn is_unread(&self) -> bool {
        matches!(self, Cut::Reset(Code::UNREAD))
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cut::Reset(code) => write!(f, "the stream was reset ({code})"),
            Cut::Unprocessed => f.write_str("the stream was not processed"),
            Cut::Breach(why) => write!(f, "{why}"),
            Cut::Lost(how) => f.write_str(how),
        }
    }
}

/// A request head that has just been read.
pub(super) enum Opened {
    Request { stream: Key, head: RequestHead, end: bool },
    Refused { stream: Key, why: Refused },
}

/// A response head that waits to be taken.
pub(super) struct WaitingHead {
    pub response: Box<Response>,
    pub length: Option<u64>,
    pub end: bool,
}

/// What is kept for one stream.
#[derive(Default)]
pub(super) struct Seat {
    /// Body bytes that have come and have not been taken.
    pub inbox: Vec<u8>,
    /// Bytes that were handed over, and of which the peer is told when more are asked for: then they are used up.
    pub handed: usize,
    /// Whether those had to be waited for, and whether somebody waits now.
    pub was_awaited: bool,
    pub waits: bool,
    pub heads: VecDeque<WaitingHead>,
    pub trailers: Option<Fields>,
    /// The peer's half is complete.
    pub ended: bool,
    pub cut: Option<Cut>,
    waker: Option<Waker>,
    wants_room: bool,
    in_line: bool,
    key: Option<Key>,
}

impl Seat {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Wakes this task when something happens to the stream.
    pub(super) fn meet(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

/// Why a peer has not said how many streams it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ungreeted {
    /// It has taken the connection and said nothing in time.
    Mute,
    /// The connection has ended before that.
    Ended,
}

/// The shared part of a connection.
pub(crate) struct Link {
    pub(super) inner: RefCell<Inner>,
    driver: RefCell<Option<Waker>>,
    /// Nobody will open a stream any more.
    retired: Cell<bool>,
    greeted: Notify,
    /// It has become of no more use for new streams.
    closed: Notify,
    /// The connection whose tunnel it is in, if it is in one.
    carrier: Option<Rc<Link>>,
    /// Whoever serves it is to end it, gracefully.
    dismissed: Cell<bool>,
    /// The peer does not say when it has passed on a part of a body.
    silent: Cell<bool>,
    /// Why the peer will not say any more how many streams it takes.
    ungreeted: Cell<Option<Ungreeted>>,
    /// How many streams there may be, whatever the peer says.
    most: Cell<usize>,
}

pub(super) struct Inner {
    pub wire: Connection,
    pub seats: Vec<Seat>,
    /// Streams that wait for the connection's window or for room in the buffer, in the order in which they came.
    line: VecDeque<Key>,
    over: Option<Cut>,
    #[expect(clippy::vec_box, reason = "responses move between seats and this list, and are large")]
    spare: Vec<Box<Response>>,
}

impl Link {
    pub(crate) fn new(wire: Connection) -> Rc<Link> {
        Link::inside(wire, None)
    }

    /// One that may be in a tunnel of another.
    pub(crate) fn inside(wire: Connection, carrier: Option<Rc<Link>>) -> Rc<Link> {
        let inner = Inner { wire, seats: Vec::new(), line: VecDeque::new(), over: None, spare: Vec::new() };
        Rc::new(Link {
            inner: RefCell::new(inner),
            driver: RefCell::default(),
            retired: Cell::new(false),
            greeted: Notify::new(),
            closed: Notify::new(),
            carrier,
            dismissed: Cell::new(false),
            silent: Cell::new(false),
            ungreeted: Cell::new(None),
            most: Cell::new(usize::MAX),
        })
    }

    /// Whether it is in a tunnel of another connection.
    pub(crate) fn is_in_tunnel(&self) -> bool {
        self.carrier.is_some()
    }

    /// Whether the peer was seen not to say that it has passed on a part of a body.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.get()
    }

    /// Allows so many streams at most.
    pub(crate) fn limit_streams(&self, most: usize) {
        self.most.set(most);
    }

    /// Notes whether the peer says so.
    pub(crate) fn note_silent(&self, silent: bool) {
        self.silent.set(silent);
    }

    /// Puts the request that came last into `request`, and takes what was there to be used again.
    pub(crate) fn swap_request(&self, request: &mut Request) {
        std::mem::swap(&mut self.inner.borrow_mut().wire.request, request);
    }

    /// Whether one more stream can be opened beside `open` others. Before the peer has said how many it takes there is only
    /// one: what it refuses then could perhaps not be sent again.
    pub(crate) fn has_room(&self, open: usize) -> bool {
        let inner = self.inner.borrow();
        let most = if inner.wire.is_greeted() { inner.wire.most_streams().min(self.most.get()) } else { 1 };
        inner.over.is_none() && inner.wire.takes_streams() && open < most && !inner.is_clogged()
    }

    /// Whether the peer has said that it takes no stream.
    pub(crate) fn takes_none(&self) -> bool {
        let inner = self.inner.borrow();
        inner.wire.is_greeted() && inner.wire.most_streams() == 0
    }

    /// Whether the peer has not said yet how many streams it takes, and may still do so.
    pub(crate) fn is_new(&self) -> bool {
        !self.is_closed() && !self.inner.borrow().wire.is_greeted()
    }

    /// Waits until the peer has said how many streams it takes, or the connection is over. Whether it was waited for in vain; a connection that
    /// nobody wanted any more tells nothing.
    pub(crate) async fn greeting(&self) -> Result<(), Ungreeted> {
        if self.is_new() {
            self.greeted.notified().await;
        }
        self.ungreeted.get().map_or(Ok(()), Err)
    }

    /// The peer has said nothing in time.
    pub(super) fn note_mute(&self) {
        self.ungreeted.set(Some(Ungreeted::Mute));
    }

    /// Tells those who wait for it that the peer's SETTINGS are here, if they are.
    pub(super) fn note_greeting(&self) -> bool {
        let is_here = self.inner.borrow().wire.is_greeted();
        if is_here {
            self.greeted.notify_waiters();
        }
        is_here
    }

    /// Whether the connection, or the one that carries it, is of no more use for new streams.
    pub(crate) fn is_closed(&self) -> bool {
        let inner = self.inner.borrow();
        let carrier_is = || self.carrier.as_ref().is_some_and(|carrier| carrier.is_closed());
        inner.over.is_some() || !inner.wire.takes_streams() || carrier_is()
    }

    /// Waits for this time at most until the connection is of no more use for new streams.
    pub(crate) async fn await_close(&self, most: Duration) {
        if !self.is_closed() {
            let _ = tokio::time::timeout(most, self.closed.notified()).await;
        }
    }

    /// Tells those who wait for it that the peer wants no more streams, if so.
    pub(super) fn note_close(&self) {
        if !self.inner.borrow().wire.takes_streams() {
            self.closed.notify_waiters();
        }
    }

    /// Streams that we had to break off because of what the peer sent on them.
    pub(crate) fn broken(&self) -> u64 {
        self.inner.borrow().wire.broken()
    }

    /// Lets the connection end when its last stream does.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.kick();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Has whoever serves the connection end it, once what it carries is done.
    pub(crate) fn dismiss(&self) {
        self.dismissed.set(true);
        self.kick();
    }

    /// Whether it is to end.
    pub(crate) fn is_dismissed(&self) -> bool {
        self.dismissed.get()
    }

    /// Has the driver look after the connection.
    pub(crate) fn kick(&self) {
        if let Some(waker) = self.driver.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn meet_driver(&self, cx: &Context<'_>) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *driver = Some(cx.waker().clone());
        }
    }

    /// Takes what waits to be sent; it goes behind what `out` holds.
    pub(super) fn take_pending(&self, out: &mut Outbound) {
        let mut inner = self.inner.borrow_mut();
        if inner.wire.pending() == 0 {
            return;
        }
        if out.is_empty() {
            inner.wire.take_pending(out.tail());
        } else {
            let mut more = Vec::new();
            inner.wire.take_pending(&mut more);
            out.tail().extend_from_slice(&more);
        }
    }

    /// The connection is over: every stream learns why.
    pub(super) fn end(&self, cut: Cut) {
        let mut inner = self.inner.borrow_mut();
        for seat in &mut inner.seats {
            if seat.key.is_some() {
                seat.cut.get_or_insert_with(|| cut.clone());
                seat.wake();
            }
        }
        inner.over = Some(cut);
        if self.ungreeted.get().is_none() && !inner.wire.is_greeted() && !self.retired.get() {
            self.ungreeted.set(Some(Ungreeted::Ended));
        }
        self.greeted.notify_waiters();
        self.closed.notify_waiters();
    }
}

impl Inner {
    /// Prepares the place of a new stream.
    pub(super) fn seat_for(&mut self, key: Key) {
        if self.seats.len() <= key.slot() {
            self.seats.resize_with(key.slot() + 1, Seat::default);
        }
        self.seats[key.slot()].key = Some(key);
    }

    pub(super) fn seat(&mut self, key: Key) -> Option<&mut Seat> {
        self.seats.get_mut(key.slot()).filter(|seat| seat.key == Some(key))
    }

    /// Why nothing more can be sent on a stream.
    pub(super) fn cut_of(&mut self, key: Key, _: Gone) -> Cut {
        let over = self.over.clone();
        let cut = self.seat(key).and_then(|seat| seat.cut.clone());
        cut.or(over).unwrap_or_else(|| Cut::Lost("the stream has ended".into()))
    }

    /// Gives memory back while there are no streams.
    pub(super) fn rest(&mut self) {
        self.wire.rest();
        self.seats = Vec::new();
        self.spare = Vec::new();
        self.line = VecDeque::new();
    }

    pub(super) fn lost(&self) -> Cut {
        self.over.clone().unwrap_or(Cut::Unprocessed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Frees the place of a stream.
    pub(super) fn leave(&mut self, key: Key) {
        self.wire.release(key);
        let Some(seat) = self.seat(key) else { return };
        let mut left = std::mem::take(seat);
        if left.in_line {
            self.line.retain(|waiting| *waiting != key);
        }
        buffer::give_back_vec(std::mem::take(&mut left.inbox));
        while let Some(head) = left.heads.pop_front() {
            self.keep(head.response);
        }
    }

    /// Keeps a response for the next head.
    pub(super) fn keep(&mut self, response: Box<Response>) {
        if self.spare.len() < 4 {
            self.spare.push(response);
        }
    }

    /// Puts a stream that wants to send into the line.
    pub(super) fn line_up(&mut self, key: Key) {
        if let Some(seat) = self.seat(key)
            && !seat.in_line
        {
            seat.in_line = true;
            self.line.push_back(key);
        }
    }

    /// A stream waits until its receiver has taken something.
    pub(super) fn await_room(&mut self, key: Key) {
        if let Some(seat) = self.seat(key) {
            seat.wants_room = true;
        }
    }

    pub(super) fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// Whether the peer takes so little that nothing more should be begun.
    pub(super) fn is_clogged(&self) -> bool {
        self.wire.pending() > CLOGGED
    }

    /// Tells the first in the line that there is room, if there is. Whether others should be told after them: those who are
    /// told may have changed their minds, and nobody else would tell.
    pub(super) fn serve_line(&mut self) -> bool {
        for _ in 0..AT_ONCE {
            if !self.wire.has_room() {
                return false;
            }
            let Some(key) = self.line.pop_front() else { return false };
            if let Some(seat) = self.seat(key) {
                seat.in_line = false;
                seat.wake();
            }
        }
        self.has_line()
    }

    /// Deals with the next part of `input`. What happened to open streams is noted; a new one is given to the caller.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<(usize, Option<Opened>), Fault> {
        let step = self.wire.receive(input)?;
        let opened = match step.event {
            Some(Event::Request { stream, head, end }) => {
                self.seat_for(stream);
                self.seats[stream.slot()].ended = end;
                Some(Opened::Request { stream, head, end })
            }
            Some(Event::Refused { stream, why }) => {
                self.seat_for(stream);
                Some(Opened::Refused { stream, why })
            }
            Some(event) => {
                self.note(event, input);
                None
            }
            None => None,
        };
        Ok((step.consumed, opened))
    }

    fn note(&mut self, event: Event, input: &[u8]) {
        match event {
            Event::Request { .. } | Event::Refused { .. } => {}
            Event::Data { stream, range, end } => {
                if let Some(seat) = self.seat(stream) {
                    if seat.inbox.capacity() == 0 && !range.is_empty() {
                        seat.inbox = buffer::take_vec();
                    }
                    seat.inbox.extend_from_slice(&input[range]);
                    seat.ended = end;
                    seat.wake();
                }
            }
            Event::Trailers { stream } => {
                let trailers = std::mem::take(&mut self.wire.trailers);
                if let Some(seat) = self.seat(stream) {
                    seat.trailers = Some(trailers);
                    seat.ended = true;
                    seat.wake();
                }
            }
            Event::Response { stream, length, end } => self.note_response(stream, length, end),
            Event::Reset { stream, code } => {
                let untouched = code == Code::REFUSED_STREAM && self.wire.role() == Role::Client;
                self.cut(stream, if untouched { Cut::Unprocessed } else { Cut::Reset(code) });
            }
            Event::Broken { stream, why } => self.cut(stream, Cut::Breach(why)),
            Event::Room { stream: Some(key) } => {
                if let Some(seat) = self.seat(key)
                    && seat.wants_room
                {
                    seat.wants_room = false;
                    seat.wake();
                }
            }
            Event::Room { stream: None } => self.open_windows(),
            Event::GoAway { last, code } => {
                tracing::debug!(last, %code, "the peer takes no more streams");
                if self.wire.role() == Role::Client {
                    for seat in &mut self.seats {
                        if seat.key.is_some_and(|key| key.id() > last) {
                            seat.cut.get_or_insert(Cut::Unprocessed);
                            seat.wake();
                        }
                    }
                }
            }
        }
    }

    /// New SETTINGS may have opened the window of every stream.
    fn open_windows(&mut self) {
        for seat in &mut self.seats {
            if std::mem::take(&mut seat.wants_room) {
                seat.wake();
            }
        }
    }

    fn note_response(&mut self, stream: Key, length: Option<u64>, end: bool) {
        let mut response = self.spare.pop().unwrap_or_else(|| Box::new(Response::new(200)));
        std::mem::swap(&mut *response, &mut self.wire.response);
        match self.seat(stream) {
            Some(seat) if seat.heads.len() < MOST_HEADS => {
                seat.heads.push_back(WaitingHead { response, length, end });
                seat.ended = end;
                seat.wake();
            }
            Some(_) => {
                self.wire.reset(stream, Code::ENHANCE_YOUR_CALM);
                self.cut(stream, Cut::Breach(Breach::Rule("there are too many interim responses")));
            }
            None => self.keep(response),
        }
    }

    fn cut(&mut self, stream: Key, cut: Cut) {
        if let Some(seat) = self.seat(stream) {
            seat.cut.get_or_insert(cut);
            seat.wake();
        }
    }
}
