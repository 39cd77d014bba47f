//! One stream, as the exchange that it carries sees it.
//!
//! Called by the bodies, the way back to the client and the upstream side. Dropping a stream gives it up: what is still
//! open of it is broken off.

use std::rc::Rc;
use std::task::{Context, Poll};

use transept_wire::h1::Body;
use transept_wire::h2::{Code, Key, Room};
use transept_wire::head::{Fields, Request, Response};

use super::link::{Cut, Link};
use crate::buffer;

/// A stream of an HTTP/2 connection.
pub(crate) struct Stream {
    link: Rc<Link>,
    key: Key,
}

/// What a response head says about what follows.
pub(crate) struct Head {
    /// The `Content-Length`.
    pub length: Option<u64>,
    /// There is no body.
    pub end: bool,
}

/// What follows in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    /// A piece was put into the buffer.
    Data,
    /// Nothing.
    End,
}

impl Stream {
    /// A stream that the peer has opened.
    pub(super) fn accepted(link: Rc<Link>, key: Key) -> Stream {
        Stream { link, key }
    }

    /// Whether its connection is in a tunnel of another.
    pub(crate) fn is_in_tunnel(&self) -> bool {
        self.link.is_in_tunnel()
    }

    /// Opens a stream with a request.
    ///
    /// # Errors
    /// [`Cut::Unprocessed`] when the connection takes no more streams.
    pub(crate) fn open(link: &Rc<Link>, request: &Request, body: &Body) -> Result<Stream, Cut> {
        let key = {
            let mut inner = link.inner.borrow_mut();
            if inner.is_over() {
                return Err(inner.lost());
            }
            let key = inner.wire.send_request(request, body, body.is_empty()).map_err(|_| Cut::Unprocessed)?;
            inner.seat_for(key);
            key
        };
        link.kick();
        Ok(Stream { link: link.clone(), key })
    }

    /// Waits for the next response head and puts it into `into`.
    pub(crate) fn poll_head(&self, cx: &Context<'_>, into: &mut Response) -> Poll<Result<Head, Cut>> {
        let mut inner = self.link.inner.borrow_mut();
        let Some(seat) = inner.seat(self.key) else { return Poll::Ready(Err(inner.lost())) };
        let Some(mut waiting) = seat.heads.pop_front() else {
            return match &seat.cut {
                Some(cut) => Poll::Ready(Err(cut.clone())),
                None => {
                    seat.meet(cx);
                    Poll::Pending
                }
            };
        };
        std::mem::swap(&mut *waiting.response, into);
        inner.keep(waiting.response);
        Poll::Ready(Ok(Head { length: waiting.length, end: waiting.end }))
    }

    /// Waits for more of the body, and exchanges `buffer`, which has been used up, for what came.
    pub(crate) fn poll_body(&self, cx: &Context<'_>, buffer: &mut Vec<u8>) -> Poll<Result<More, Cut>> {
        let mut inner = self.link.inner.borrow_mut();
        let Some(seat) = inner.seat(self.key) else { return Poll::Ready(Err(inner.lost())) };
        let (handed, was_awaited) = (std::mem::take(&mut seat.handed), seat.was_awaited);
        if handed > 0 {
            let before = inner.wire.pending();
            inner.wire.took(self.key, handed, was_awaited);
            if inner.wire.pending() > before {
                self.link.kick();
            }
        }
        let Some(seat) = inner.seat(self.key) else { return Poll::Ready(Err(inner.lost())) };
        if seat.inbox.is_empty() {
            return match &seat.cut {
                _ if seat.ended => Poll::Ready(Ok(More::End)),
                Some(cut) => Poll::Ready(Err(cut.clone())),
                None => {
                    seat.waits = true;
                    seat.meet(cx);
                    Poll::Pending
                }
            };
        }
        buffer.clear();
        std::mem::swap(&mut seat.inbox, buffer);
        if seat.ended {
            buffer::give_back_vec(std::mem::take(&mut seat.inbox));
        }
        (seat.handed, seat.was_awaited) = (buffer.len(), std::mem::take(&mut seat.waits));
        Poll::Ready(Ok(More::Data))
    }

    /// The trailers, once the body has ended.
    pub(crate) fn take_trailers(&self) -> Option<Fields> {
        self.link.inner.borrow_mut().seat(self.key)?.trailers.take()
    }

    /// Sends a response head. `end`: there is no body.
    ///
    /// # Errors
    /// The reason why the stream takes nothing more.
    pub(crate) fn send_head(&self, response: &Response, end: bool) -> Result<(), Cut> {
        let mut inner = self.link.inner.borrow_mut();
        let sent = inner.wire.send_response(self.key, response, end);
        let outcome = sent.map_err(|gone| inner.cut_of(self.key, gone));
        drop(inner);
        self.link.kick();
        outcome
    }

    /// Sends the beginning of `data`, as soon as there is room, and tells how much that was. A stream that has more than a
    /// frame stands in line again behind the others.
    pub(crate) fn poll_send(&self, cx: &Context<'_>, data: &[u8]) -> Poll<Result<usize, Cut>> {
        let mut inner = self.link.inner.borrow_mut();
        if let Some(cut) = inner.seat(self.key).and_then(|seat| seat.cut.clone()) {
            return Poll::Ready(Err(cut));
        }
        match inner.wire.room(self.key) {
            Err(gone) => return Poll::Ready(Err(inner.cut_of(self.key, gone))),
            Ok(Room::Bytes(_)) => {}
            Ok(wait) => {
                match wait {
                    Room::Stream => inner.await_room(self.key),
                    _ => inner.line_up(self.key),
                }
                if let Some(seat) = inner.seat(self.key) {
                    seat.meet(cx);
                }
                return Poll::Pending;
            }
        }
        let now = if inner.has_line() { &data[..data.len().min(FRAME)] } else { data };
        let sent = inner.wire.send_data(self.key, now);
        let outcome = sent.map_err(|gone| inner.cut_of(self.key, gone));
        drop(inner);
        self.link.kick();
        Poll::Ready(outcome)
    }

    /// Sends `data` as far as there is room now.
    ///
    /// # Errors
    /// The reason why the stream takes nothing more.
    pub(crate) fn send_now(&self, data: &[u8]) -> Result<(), Cut> {
        let mut inner = self.link.inner.borrow_mut();
        let sent = inner.wire.send_data(self.key, data);
        let outcome = sent.map_err(|gone| inner.cut_of(self.key, gone));
        drop(inner);
        self.link.kick();
        outcome.map(|_| ())
    }

    /// Ends our half, with trailers if there are any.
    ///
    /// # Errors
    /// The reason why the stream takes nothing more.
    pub(crate) fn end(&self, trailers: Option<&Fields>) -> Result<(), Cut> {
        let mut inner = self.link.inner.borrow_mut();
        let sent = match trailers {
            Some(trailers) if !trailers.is_empty() => inner.wire.send_trailers(self.key, trailers),
            _ => inner.wire.end(self.key),
        };
        let outcome = sent.map_err(|gone| inner.cut_of(self.key, gone));
        drop(inner);
        self.link.kick();
        outcome
    }

    /// Whether the connection takes no new streams any more.
    pub(crate) fn is_leaving(&self) -> bool {
        self.link.is_closed()
    }

    /// The connection that it is on.
    pub(crate) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// Ready when the stream has been cut.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> Poll<Cut> {
        let mut inner = self.link.inner.borrow_mut();
        let Some(seat) = inner.seat(self.key) else { return Poll::Ready(inner.lost()) };
        match &seat.cut {
            Some(cut) => Poll::Ready(cut.clone()),
            None => {
                seat.meet(cx);
                Poll::Pending
            }
        }
    }

    /// Breaks the stream off.
    pub(crate) fn abort(&self, code: Code) {
        self.link.inner.borrow_mut().wire.reset(self.key, code);
        self.link.kick();
    }
}

/// What a stream sends in one go while others wait.
const FRAME: usize = 16 * 1024;

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.link.inner.borrow_mut();
        let before = inner.wire.pending();
        inner.leave(self.key);
        // The driver may wait for this: to send what was written, for the next in line, or for the last stream.
        let matters = inner.wire.pending() > before || inner.has_line() || inner.wire.unreleased() == 0;
        drop(inner);
        if matters {
            self.link.kick();
        }
    }
}
