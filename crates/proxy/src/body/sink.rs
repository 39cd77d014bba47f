//! Where a body goes.
//!
//! Called by [`super::carry`]. A sink of HTTP/1.1 starts with the head that was written before it, so that a head and
//! a short body leave in one system call.

use std::task::{Context, Poll};

use bytes::Bytes;
use transept_wire::h1::{self, Body};
use transept_wire::head::Fields;

use crate::buffer::Outbound;
use crate::deadline::Watch;
use crate::edge::h2_head;
use crate::failure::{Failure, Side};
use crate::io::Io;

/// Pieces up to this size are copied behind what is waiting; larger ones are written from where they lie.
const COPIED: usize = 8 * 1024;

/// A last piece up to this size is handed over without waiting for the receiver's window. The exchange is over then, and
/// what waits is bounded by the number of streams.
const UNRESERVED: usize = 16 * 1024;

/// The receiving end of a body.
pub(crate) enum Sink<'c> {
    /// Takes and forgets: the answer to HEAD, or a body that the message may not have.
    Nowhere,
    /// To an HTTP/1.1 connection.
    H1(H1Sink<'c>),
    /// To an HTTP/2 stream.
    H2(H2Sink<'c>),
}

/// A body framed by HTTP/1.1.
pub(crate) struct H1Sink<'c> {
    io: &'c Io,
    watch: &'c Watch,
    side: Side,
    framing: Body,
    left: u64,
    out: Outbound,
}

/// A body framed by HTTP/2 DATA frames.
pub(crate) struct H2Sink<'c> {
    stream: h2::SendStream<Bytes>,
    watch: &'c Watch,
    side: Side,
    held: Bytes,
}

impl Sink<'_> {
    /// Takes `data`; small pieces may wait for [`Sink::flush`].
    pub(crate) async fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        match self {
            Sink::Nowhere => Ok(()),
            Sink::H1(sink) => sink.write(data).await,
            Sink::H2(sink) => sink.hold(Bytes::copy_from_slice(data)).await,
        }
    }

    /// As [`Sink::write`], for memory that can be kept without a copy.
    pub(crate) async fn write_shared(&mut self, data: Bytes) -> Result<(), Failure> {
        match self {
            Sink::Nowhere => Ok(()),
            Sink::H1(sink) => sink.write(&data).await,
            Sink::H2(sink) => sink.hold(data).await,
        }
    }

    /// Hands everything to the network.
    pub(crate) async fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Sink::H1(sink) => sink.flush(&[]).await,
            Sink::H2(sink) => sink.send_held(End::Open).await,
            Sink::Nowhere => Ok(()),
        }
    }

    /// Ready when the receiver has cancelled the stream. Over HTTP/1.1 only a write tells, since a client may close its
    /// sending half and go on reading.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        match self {
            Sink::Nowhere | Sink::H1(_) => Poll::Pending,
            Sink::H2(sink) => sink.stream.poll_reset(cx).map(|_| Failure::h2_send(sink.side, None)),
        }
    }

    /// Ends the body, with `trailers` where the framing has them, and flushes.
    pub(crate) async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Failure> {
        match self {
            Sink::Nowhere => Ok(()),
            Sink::H1(sink) => sink.finish(trailers).await,
            Sink::H2(sink) => sink.finish(trailers).await,
        }
    }
}

impl<'c> H1Sink<'c> {
    /// `out` holds the head that precedes the body.
    pub(crate) fn new(io: &'c Io, watch: &'c Watch, side: Side, framing: Body, out: Outbound) -> Self {
        let left = if let Body::Length(length) = framing { length } else { 0 };
        Self { io, watch, side, framing, left, out }
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        match self.framing {
            Body::None => return Ok(()),
            Body::Length(_) => {
                let length = data.len() as u64;
                if length > self.left {
                    return Err(Failure::body_length(self.side));
                }
                self.left -= length;
            }
            Body::Chunked => h1::write_chunk_start(self.out.tail(), data.len()),
            Body::UntilClose => {}
        }
        if data.len() <= COPIED {
            self.out.tail().extend_from_slice(data);
        } else {
            self.flush(data).await?;
        }
        if let Body::Chunked = self.framing {
            h1::write_chunk_end(self.out.tail());
        }
        Ok(())
    }

    async fn flush(&mut self, more: &[u8]) -> Result<(), Failure> {
        if self.out.is_empty() && more.is_empty() {
            return Ok(());
        }
        let mut sending = std::pin::pin!(self.io.send(&mut self.out, more));
        self.watch
            .wait(|cx| sending.as_mut().poll(cx))
            .await
            .map_err(|expired| Failure::stalled(self.side, expired))?
            .map_err(|error| Failure::send(self.side, &error))
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Failure> {
        match self.framing {
            Body::Length(_) if self.left > 0 => return Err(Failure::body_length(self.side)),
            Body::Chunked => h1::write_last_chunk(self.out.tail(), trailers),
            _ => {}
        }
        self.flush(&[]).await
    }
}

impl<'c> H2Sink<'c> {
    pub(crate) fn new(stream: h2::SendStream<Bytes>, watch: &'c Watch, side: Side) -> Self {
        Self { stream, watch, side, held: Bytes::new() }
    }

    /// Keeps `data` until it is known whether it is the last piece, which then ends the stream without a frame of its own.
    async fn hold(&mut self, data: Bytes) -> Result<(), Failure> {
        self.send_held(End::Open).await?;
        self.held = data;
        Ok(())
    }

    async fn send_held(&mut self, end: End) -> Result<(), Failure> {
        let mut data = std::mem::take(&mut self.held);
        if end == End::Stream && data.len() <= UNRESERVED {
            return self.send_data(data, true);
        }
        while !data.is_empty() {
            self.stream.reserve_capacity(data.len());
            let room = self
                .watch
                .wait(|cx| match self.stream.capacity() {
                    0 => self.stream.poll_capacity(cx),
                    room => Poll::Ready(Some(Ok(room))),
                })
                .await
                .map_err(|expired| Failure::stalled(self.side, expired))?
                .ok_or_else(|| Failure::h2_send(self.side, None))?
                .map_err(|error| Failure::h2_send(self.side, Some(&error)))?;
            let piece = data.split_to(room.min(data.len()));
            self.send_data(piece, end == End::Stream && data.is_empty())?;
        }
        Ok(())
    }

    fn send_data(&mut self, piece: Bytes, last: bool) -> Result<(), Failure> {
        self.stream.send_data(piece, last).map_err(|error| Failure::h2_send(self.side, Some(&error)))
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Failure> {
        match trailers {
            Some(trailers) if !trailers.is_empty() => {
                self.send_held(End::Open).await?;
                let sent = self.stream.send_trailers(h2_head::fields_out(trailers));
                sent.map_err(|error| Failure::h2_send(self.side, Some(&error)))
            }
            _ => self.send_held(End::Stream).await,
        }
    }
}

/// Whether a piece ends its stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Stream,
}
