//! [`Io`] in the shape that the `h2` crate asks for.
//!
//! Called by the HTTP/2 edges only.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Io;
use crate::buffer::Inbound;

/// An owned [`Io`] with the bytes that were read before the protocol was known.
pub(crate) struct Adapter {
    io: Io,
    early: Inbound,
}

impl Adapter {
    /// `early` is delivered before anything is read from the connection.
    pub(crate) fn new(io: Io, early: Inbound) -> Self {
        Self { io, early }
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
        self.io.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io.poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.io.poll_flush(cx))?;
        self.io.shut_down_writing();
        Poll::Ready(Ok(()))
    }
}
