//! [`Io`] in the shape that the `h2` crate asks for.
//!
//! Called by the HTTP/2 edges only.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Io;
use crate::buffer::Inbound;
use crate::deadline::Watch;

/// An owned [`Io`] with the bytes that were read before the protocol was known.
pub(crate) struct Adapter {
    io: Io,
    early: Inbound,
    /// Expires while a write waits for a peer that does not read.
    stall: Option<Watch>,
}

impl Adapter {
    /// `early` is delivered before anything is read from the connection. With `stall`, a write that waits longer than the
    /// period of the watch ends the connection.
    pub(crate) fn new(io: Io, early: Inbound, stall: Option<Watch>) -> Self {
        Self { io, early, stall }
    }

    fn unless_stalled<T>(&self, cx: &Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &self.stall {
            Some(watch) if outcome.is_pending() => match watch.poll_stalled(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            },
            Some(watch) => {
                watch.moved();
                outcome
            }
            None => outcome,
        }
    }
}

impl AsyncRead for Adapter {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let count = this.early.data().len().min(buffer.remaining());
            buffer.put_slice(&this.early.data()[..count]);
            this.early.consume(count);
            this.early.release();
            return Poll::Ready(Ok(()));
        }
        let count = ready!(this.io.poll_read(cx, buffer.initialize_unfilled()))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Adapter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = self.io.poll_write(cx, &[IoSlice::new(bytes)]);
        self.unless_stalled(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = self.io.poll_write(cx, slices);
        self.unless_stalled(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = self.io.poll_flush(cx);
        self.unless_stalled(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.io.poll_flush(cx))?;
        self.io.shut_down_writing();
        Poll::Ready(Ok(()))
    }
}
