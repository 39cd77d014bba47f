//! The task of a connection: reads the socket, sends what the streams have written, and watches the clock.
//!
//! Polled by `edge/h2_server.rs` for clients and by `upstream/` for backends.

use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use transept_wire::h2::head::{Refused, RequestHead};
use transept_wire::h2::{Code, Role};

use super::link::{Cut, Link, Opened};
use super::stream::Stream;
use crate::buffer::{Inbound, Outbound};
use crate::deadline::{Expired, SWEEP, Watch};
use crate::edge::linger;
use crate::io::{Farewell, Io};

/// Reads, and bytes, in one turn before other tasks have theirs: what has come is passed on while it is in the cache of the core.
const READS: usize = 4;
const PLENTY: usize = 128 * 1024;

/// How long a connection keeps its memory at hand after its last stream.
const LULL: Duration = Duration::from_millis(500);

/// For how long a client may keep a connection that has been told to end and carries nothing.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a backend may be silent under open streams before it is asked for a sign of life, and how long it may take to
/// give one.
const SILENCE: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);

/// The limits of a connection's own.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// For the preface, SETTINGS and a header block.
    pub head: Option<Duration>,
    /// For a peer that takes nothing.
    pub stall: Option<Duration>,
    /// Without streams.
    pub idle: Option<Duration>,
}

/// A stream that the peer has opened.
pub(crate) enum Arrival {
    /// With a request; [`Link::swap_request`] has its head.
    Request { stream: Stream, head: RequestHead, end: bool },
    /// With a head that is refused.
    Refused { stream: Stream, why: Refused },
}

/// The connection is over; the sentence tells why.
pub(crate) struct Over(pub Rc<str>);

/// What the watch of the connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    Nothing,
    /// The rest of something that was begun.
    Rest,
    /// The peer takes nothing.
    Write,
    /// There are no streams: first for a moment, then for longer.
    Lull,
    Idle,
    Farewell,
    /// The peer is silent, and then has been asked.
    Sound,
    Answer,
}

/// The owner of the socket.
pub(crate) struct Driver {
    link: Rc<Link>,
    io: Io,
    inbound: Inbound,
    out: Outbound,
    watch: Watch,
    awaiting: Awaiting,
    patience: Patience,
    role: Role,
    /// Whether a peer that is silent while there are streams is asked whether it is there.
    asks: bool,
    /// The sweep at which the peer was last forgiven what it cost.
    forgiven: Duration,
    /// The highest stream when there was last one.
    newest: u32,
    /// Sending was put off in the last turn, for the streams to write first. Then something had been heard.
    put_off: bool,
    /// The peer's first SETTINGS have come.
    greeted: bool,
    leaving: bool,
    /// The other end of the tunnel that it is in has closed that without a look at what was sent.
    unread: bool,
}

impl Driver {
    /// `inbound` holds what was read before the protocol was known.
    pub(crate) fn new(link: Rc<Link>, io: Io, inbound: Inbound, watch: Watch, patience: Patience) -> Driver {
        let role = link.inner.borrow().wire.role();
        Driver {
            link,
            io,
            inbound,
            out: Outbound::default(),
            watch,
            awaiting: Awaiting::Nothing,
            patience,
            role,
            asks: role == Role::Client,
            forgiven: Duration::ZERO,
            newest: 0,
            put_off: false,
            greeted: false,
            leaving: false,
            unread: false,
        }
    }

    /// Has a client that is silent while it has streams open asked whether it is there, as servers are always: one that has vanished would hold them for ever.
    pub(crate) fn ask_client(&mut self) {
        self.asks = true;
    }

    /// Begins a graceful end.
    pub(crate) fn shut_down(&mut self) {
        self.leaving = true;
        self.link.inner.borrow_mut().wire.shut_down();
    }

    /// Has whoever polls this woken when that time is over, at the sweep after it, whatever it waits for.
    pub(crate) fn nudge(&self, after: Duration) {
        self.watch.nudge(Some(self.watch.last_sweep().saturating_add(after).saturating_add(SWEEP)));
    }

    /// Ends the connection with a code, as far as the peer still listens.
    pub(crate) fn give_up(&mut self, code: Code, why: &'static str) -> Over {
        let fault = self.link.inner.borrow_mut().wire.give_up(code, why);
        Over(fault.to_string().into())
    }

    /// Does what can be done now. `arrive` gets every stream that the peer has opened.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>, arrive: &mut dyn FnMut(Arrival)) -> Poll<Over> {
        self.link.meet_driver(cx);
        let deaf = self.is_deaf();
        let heard = match deaf {
            true => false,
            false => match self.read(cx, arrive) {
                Ok(heard) => heard,
                Err(over) => return Poll::Ready(over),
            },
        };
        if heard {
            self.forgive();
            if !self.greeted {
                self.greeted = self.link.note_greeting();
            }
            self.link.note_close();
        }
        let put_off = std::mem::take(&mut self.put_off);
        if heard && !put_off && self.link.inner.borrow().wire.pending() > 0 {
            // The streams that have just been woken write first; then all of it leaves at once. A peer that never pauses
            // does not put it off again.
            self.put_off = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let heard = heard || put_off;
        if let Err(over) = self.flush(cx) {
            return Poll::Ready(over);
        }
        if deaf && !self.is_deaf() {
            cx.waker().wake_by_ref();
        }
        {
            let inner = &mut *self.link.inner.borrow_mut();
            if inner.serve_line() {
                cx.waker().wake_by_ref();
            }
            let unused = self.link.is_retired() && inner.wire.unreleased() == 0;
            if unused {
                inner.wire.shut_down();
            }
            if unused || (inner.wire.is_finished() && inner.wire.pending() == 0 && self.out.is_empty()) {
                return Poll::Ready(Over("the connection has come to its end".into()));
            }
        }
        self.attend(heard);
        self.poll_clock(cx)
    }

    /// Whether the client is not listened to, because it does not listen: its requests would be answered into memory. A
    /// backend is always heard, since it may be waiting for that; it gets no new requests instead.
    fn is_deaf(&self) -> bool {
        self.role == Role::Server && !self.out.is_empty() && self.link.inner.borrow().is_clogged()
    }

    /// Reads what is there; whether it was anything.
    fn read(&mut self, cx: &mut Context<'_>, arrive: &mut dyn FnMut(Arrival)) -> Result<bool, Over> {
        // What was read while the protocol was found out.
        self.digest(arrive)?;
        let mut read = 0;
        for turn in 0..READS {
            match self.io.poll_fill(cx, &mut self.inbound) {
                Poll::Pending => return Ok(turn > 0),
                Poll::Ready(Ok(0)) => return Err(Over("the peer closed the connection".into())),
                Poll::Ready(Ok(count)) => {
                    self.digest(arrive)?;
                    read += count;
                    if read >= PLENTY {
                        break;
                    }
                }
                Poll::Ready(Err(error)) => return Err(self.broken(&error)),
            }
        }
        cx.waker().wake_by_ref();
        Ok(true)
    }

    fn broken(&mut self, error: &std::io::Error) -> Over {
        self.unread = !self.greeted && Farewell::of(error) == Some(Farewell::Unread);
        Over(error.to_string().into())
    }

    /// What the peer's frames cost is counted by the second.
    fn forgive(&mut self) {
        let now = self.watch.last_sweep();
        if now.saturating_sub(self.forgiven) >= Duration::from_secs(1) {
            self.forgiven = now;
            self.link.inner.borrow_mut().wire.forgive();
        }
    }

    /// Deals with what has been read.
    fn digest(&mut self, arrive: &mut dyn FnMut(Arrival)) -> Result<(), Over> {
        loop {
            let opened = {
                let inner = &mut *self.link.inner.borrow_mut();
                loop {
                    let (consumed, opened) =
                        inner.step(self.inbound.data()).map_err(|fault| Over(fault.to_string().into()))?;
                    self.inbound.consume(consumed);
                    match opened {
                        Some(opened) => break opened,
                        None if consumed == 0 => return Ok(()),
                        None => {}
                    }
                }
            };
            // Outside the borrow, because a stream that nobody takes is dropped at once.
            arrive(match opened {
                Opened::Request { stream, head, end } => {
                    Arrival::Request { stream: Stream::accepted(self.link.clone(), stream), head, end }
                }
                Opened::Refused { stream, why } => {
                    Arrival::Refused { stream: Stream::accepted(self.link.clone(), stream), why }
                }
            });
        }
    }

    /// Sends what waits to be sent, as far as the socket takes it.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        loop {
            if self.out.is_empty() {
                self.link.take_pending(&mut self.out);
                if self.out.is_empty() {
                    break;
                }
            }
            match self.io.poll_write(cx, &[IoSlice::new(self.out.pending())]) {
                Poll::Ready(Ok(0)) => return Err(Over("the connection takes no more bytes".into())),
                Poll::Ready(Ok(count)) => {
                    self.out.advance(count);
                    self.progressed();
                }
                Poll::Ready(Err(error)) => return Err(self.broken(&error)),
                Poll::Pending => return Ok(()),
            }
        }
        match self.io.poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(self.broken(&error)),
            _ => Ok(()),
        }
    }

    /// Something was sent: a peer that takes nothing is given its time anew.
    fn progressed(&mut self) {
        if self.awaiting == Awaiting::Write {
            self.awaiting = Awaiting::Nothing;
        }
    }

    /// Sets the watch for what is awaited now.
    fn attend(&mut self, heard: bool) {
        let inner = self.link.inner.borrow();
        let idle = inner.wire.unreleased() == 0;
        // A stream may have come and gone within one turn. Frames without a stream do not prolong anything.
        let newest = inner.wire.newest_stream();
        let renewed = newest != self.newest;
        self.newest = newest;
        let wanted = match self.role {
            _ if !self.out.is_empty() => Awaiting::Write,
            Role::Server if inner.wire.is_awaiting() => Awaiting::Rest,
            Role::Server if idle && self.leaving => Awaiting::Farewell,
            // A part of a frame, and nothing else under way.
            Role::Server if idle && !self.inbound.is_empty() => Awaiting::Rest,
            Role::Client if !self.greeted && self.patience.head.is_some() => Awaiting::Rest,
            _ if !idle && self.asks && inner.wire.answered() => Awaiting::Sound,
            _ if !idle && self.asks => Awaiting::Answer,
            _ if !idle => Awaiting::Nothing,
            _ if self.awaiting == Awaiting::Idle && !renewed => Awaiting::Idle,
            _ => Awaiting::Lull,
        };
        drop(inner);
        let anew = match wanted {
            Awaiting::Sound | Awaiting::Answer => heard,
            Awaiting::Lull => renewed,
            _ => false,
        };
        if wanted == self.awaiting && !anew {
            return;
        }
        self.awaiting = wanted;
        match wanted {
            Awaiting::Nothing => self.watch.clear(),
            Awaiting::Rest => self.watch.set(self.patience.head),
            Awaiting::Write => self.watch.set(self.patience.stall),
            Awaiting::Lull => self.idle_for(Some(self.patience.idle.map_or(LULL, |idle| idle.min(LULL)))),
            Awaiting::Idle => self.idle_for(self.patience.idle.map(|idle| idle.saturating_sub(LULL))),
            Awaiting::Farewell => self.watch.set(Some(FAREWELL)),
            Awaiting::Sound => self.watch.set(Some(match self.role {
                Role::Client => SILENCE,
                // A proxy has asked before, so that the two do not both.
                Role::Server => SILENCE * 2,
            })),
            Awaiting::Answer => self.watch.set(Some(ANSWER)),
        }
    }

    /// Sets the watch of a connection without streams. A drain wakes up those of clients; those to backends end when nobody
    /// needs them any more.
    fn idle_for(&self, time: Option<Duration>) {
        match self.role {
            Role::Server => self.watch.set_idle(time),
            Role::Client => self.watch.set(time),
        }
    }

    /// Waits for the watch, and does what it asks for.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        let Poll::Ready(expired) = self.watch.poll_expired(cx) else { return Poll::Pending };
        if expired == Expired::Draining {
            // The caller sees that the worker drains.
            self.watch.clear();
            self.awaiting = Awaiting::Nothing;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.awaiting {
            Awaiting::Lull => {
                self.link.inner.borrow_mut().rest();
                self.out = Outbound::default();
                self.awaiting = Awaiting::Idle;
                self.idle_for(self.patience.idle.map(|idle| idle.saturating_sub(LULL)));
            }
            Awaiting::Idle => self.shut_down(),
            Awaiting::Sound => self.link.inner.borrow_mut().wire.ping(),
            Awaiting::Rest => {
                if self.role == Role::Client && !self.greeted {
                    self.link.note_mute();
                }
                return Poll::Ready(Over("the peer did not finish what it began in time".into()));
            }
            Awaiting::Write => return Poll::Ready(Over("the peer took nothing for too long".into())),
            Awaiting::Answer => return Poll::Ready(Over("the peer gave no sign of life".into())),
            Awaiting::Farewell => return Poll::Ready(Over("the peer kept a connection that was to end".into())),
            Awaiting::Nothing => {}
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Says the last words to the peer and to the streams.
    pub(crate) async fn close(mut self, over: Over) {
        self.link.end(if self.unread { Cut::Unprocessed } else { Cut::Lost(over.0) });
        self.watch.set(Some(FAREWELL));
        self.link.take_pending(&mut self.out);
        let Driver { io, inbound, out, watch, .. } = &mut self;
        let mut sending = std::pin::pin!(io.send(out, &[]));
        // A peer that does not take the last words has chosen not to know.
        if let Ok(Ok(())) = watch.wait(|cx| sending.as_mut().poll(cx)).await {
            linger(io, inbound, watch).await;
        }
    }
}
