//! A connection inside a stream of an HTTP/2 connection (RFC 9113 section 8.5): DATA frames are its bytes.
//!
//! Called by [`super::Io`]; made where a CONNECT was answered, on either side of the mesh.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use transept_wire::h2::Code;

use crate::buffer::{self, Inbound};
use crate::h2::{Cut, Link, More, Stream};
use crate::upstream::H2Lease;

/// A tunnel.
pub(crate) struct Tunnel {
    stream: Stream,
    /// Bytes that have come and were not read, and how many of them were.
    piece: RefCell<Vec<u8>>,
    read: Cell<usize>,
    ended: Cell<bool>,
    /// The place on the connection around it, where we opened the stream. Dropped after the stream.
    _lease: Option<H2Lease>,
}

impl Tunnel {
    /// A tunnel that a client has opened.
    pub(crate) fn accepted(stream: Stream) -> Tunnel {
        Tunnel::new(stream, None)
    }

    /// A tunnel that we have opened.
    pub(crate) fn opened(stream: Stream, lease: H2Lease) -> Tunnel {
        Tunnel::new(stream, Some(lease))
    }

    fn new(stream: Stream, lease: Option<H2Lease>) -> Tunnel {
        let (piece, read) = (RefCell::default(), Cell::new(0));
        Tunnel { stream, piece, read, ended: Cell::new(false), _lease: lease }
    }

    /// Ready when there is something to read, or the end.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = self.piece.borrow_mut();
        if self.read.get() < piece.len() || self.ended.get() {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.stream.poll_body(cx, &mut piece)) {
            Ok(More::Data) => self.read.set(0),
            Ok(More::End) => self.ended.set(true),
            Err(cut) => return Poll::Ready(Err(broken(&cut))),
        }
        Poll::Ready(Ok(()))
    }

    /// The connection around it.
    pub(super) fn carrier(&self) -> Rc<Link> {
        self.stream.link().clone()
    }

    /// Whether the connection around it takes nothing new: what uses the tunnel should not begin anything either.
    pub(super) fn is_leaving(&self) -> bool {
        self.stream.is_leaving()
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(cx))?;
        let mut piece = self.piece.borrow_mut();
        let left = &piece[self.read.get().min(piece.len())..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.read.set(self.read.get() + count);
        if self.read.get() == piece.len() {
            // No memory while it waits.
            buffer::give_back_vec(std::mem::take(&mut piece));
            self.read.set(0);
        }
        Poll::Ready(Ok(count))
    }

    /// Reads into a buffer that holds nothing: its memory is exchanged for what came, so that no byte is copied.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>, inbound: &mut Inbound) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(cx))?;
        let mut piece = self.piece.borrow_mut();
        inbound.exchange(|store| std::mem::swap(store, &mut piece));
        // No memory while it waits.
        buffer::give_back_vec(std::mem::take(&mut piece));
        // A part of it may have been read while the protocol was found out.
        inbound.consume(self.read.replace(0));
        Poll::Ready(Ok(inbound.data().len()))
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Some(bytes) = slices.iter().find(|slice| !slice.is_empty()) else { return Poll::Ready(Ok(0)) };
        self.stream.poll_send(cx, bytes).map(|sent| sent.map_err(|cut| broken(&cut)))
    }

    pub(super) fn shut_down_writing(&self) {
        // A failure means that the peer is gone already.
        let _ = self.stream.end(None);
    }

    /// Breaks the tunnel off, so that its end is not taken for a regular one.
    pub(super) fn abort(&self) {
        self.stream.abort(Code::CANCEL);
    }

    /// Breaks the tunnel off because a policy does not allow it any more.
    pub(super) fn refuse(&self) {
        self.stream.abort(Code::NOT_ALLOWED);
    }

    /// Closes what waited for a request, and says that it has read none: one may be on its way.
    pub(super) fn close_idle(&self) {
        self.stream.abort(Code::UNREAD);
    }
}

/// What the proxy at the other end of a tunnel has said when it broke it off. It is inside the error, whose kinds the kernel gives to ordinary
/// connections, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// A policy does not allow it any more.
    Denied,
    /// It was idle, and nothing of what may be on its way was read.
    Unread,
}

impl Farewell {
    /// In an error of a tunnel.
    pub(crate) fn of(error: &io::Error) -> Option<Farewell> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Farewell::Denied => "a policy of the other end does not allow the connection any more",
            Farewell::Unread => "the other end has closed the connection, and read nothing of this",
        })
    }
}

impl std::error::Error for Farewell {}

fn broken(cut: &Cut) -> io::Error {
    let farewell = match cut {
        cut if cut.is_refusal() => Farewell::Denied,
        cut if cut.is_unread() => Farewell::Unread,
        _ => return io::Error::new(io::ErrorKind::ConnectionReset, cut.to_string()),
    };
    io::Error::new(io::ErrorKind::ConnectionReset, farewell)
}
