//! Where a body goes.
//!
//! Called by [`super::carry`]. A sink of HTTP/1.1 starts with the head that was written before it, so that a head and
//! a short body leave in one system call.

use std::task::{Context, Poll};

use transept_engine::exchange::Held;
use transept_engine::limit::body_cost::Meter;
use transept_wire::h1::{self, Body};
use transept_wire::head::Fields;

use crate::buffer::Outbound;
use crate::deadline::Watch;
use crate::failure::{Failure, Side};
use crate::h2::Stream;
use crate::io::Io;

/// Pieces up to this size are copied behind what is waiting; larger ones are written from where they lie.
const COPIED: usize = 8 * 1024;

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
    meter: Option<Meter>,
    held: Held,
}

/// A body framed by HTTP/2 DATA frames.
pub(crate) struct H2Sink<'c> {
    stream: &'c Stream,
    watch: &'c Watch,
    side: Side,
    meter: Option<Meter>,
    held: Held,
}

impl Sink<'_> {
    /// Drops this before the last byte is sent: whoever has a whole response and comes again must not find a place taken that he had himself.
    pub(crate) fn give_back_at_end(&mut self, held: &mut Held) {
        if held.is_empty() {
            return;
        }
        let held = std::mem::take(held);
        match self {
            // All of it is on its way.
            Sink::Nowhere => drop(held),
            Sink::H1(sink) => sink.held = held,
            Sink::H2(sink) => sink.held = held,
        }
    }

    /// Shows from now on what it takes to somebody who reads it on its way.
    pub(crate) fn show_to(&mut self, meter: Meter) {
        match self {
            Sink::Nowhere => {}
            Sink::H1(sink) => sink.meter = Some(meter),
            Sink::H2(sink) => sink.meter = Some(meter),
        }
    }

    /// Takes `data`; small pieces may wait for [`Sink::flush`].
    pub(crate) async fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        match self {
            Sink::Nowhere => Ok(()),
            Sink::H1(sink) => sink.write(data).await,
            Sink::H2(sink) => sink.write(data).await,
        }
    }

    /// Hands everything to the network.
    pub(crate) async fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Sink::H1(sink) => sink.flush(&[]).await,
            // The connection's driver does it when it has its turn.
            Sink::H2(_) | Sink::Nowhere => Ok(()),
        }
    }

    /// Ready when the receiver has cancelled the stream. Over HTTP/1.1 only a write tells, since a client may close its
    /// sending half and go on reading.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        match self {
            Sink::Nowhere | Sink::H1(_) => Poll::Pending,
            Sink::H2(sink) => sink.stream.poll_cut(cx).map(|cut| Failure::h2_send(sink.side, &cut)),
        }
    }

    /// Whether the body goes to a backend.
    pub(crate) fn leads_upstream(&self) -> bool {
        match self {
            Sink::Nowhere => false,
            Sink::H1(sink) => sink.side == Side::Upstream,
            Sink::H2(sink) => sink.side == Side::Upstream,
        }
    }

    /// Ends the body, with `trailers` where the framing has them, and flushes.
    pub(crate) async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Failure> {
        match self {
            Sink::Nowhere => Ok(()),
            Sink::H1(sink) => sink.finish(trailers).await,
            Sink::H2(sink) => sink.finish(trailers),
        }
    }
}

impl<'c> H1Sink<'c> {
    /// `out` holds the head that precedes the body.
    pub(crate) fn new(io: &'c Io, watch: &'c Watch, side: Side, framing: Body, out: Outbound) -> Self {
        let left = if let Body::Length(length) = framing { length } else { 0 };
        Self { io, watch, side, framing, left, out, meter: None, held: Held::new() }
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
        if let Some(meter) = &self.meter {
            meter.read(data);
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

    /// Whether the message has ended with what was written, as its head has it: the receiver waits for nothing more, though its sender may say so later.
    fn is_whole(&self) -> bool {
        match self.framing {
            Body::None => true,
            Body::Length(_) => self.left == 0,
            Body::Chunked | Body::UntilClose => false,
        }
    }

    async fn flush(&mut self, more: &[u8]) -> Result<(), Failure> {
        if self.out.is_empty() && more.is_empty() {
            return Ok(());
        }
        if self.is_whole() {
            self.held = Held::new();
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
        self.held = Held::new();
        self.flush(&[]).await
    }
}

impl<'c> H2Sink<'c> {
    pub(crate) fn new(stream: &'c Stream, watch: &'c Watch, side: Side) -> Self {
        Self { stream, watch, side, meter: None, held: Held::new() }
    }

    async fn write(&mut self, mut data: &[u8]) -> Result<(), Failure> {
        if let Some(meter) = &self.meter {
            meter.read(data);
        }
        while !data.is_empty() {
            let sent = self
                .watch
                .wait(|cx| self.stream.poll_send(cx, data))
                .await
                .map_err(|expired| Failure::stalled(self.side, expired))?
                .map_err(|cut| Failure::h2_send(self.side, &cut))?;
            data = &data[sent..];
        }
        Ok(())
    }

    fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Failure> {
        self.held = Held::new();
        self.stream.end(trailers).map_err(|cut| Failure::h2_send(self.side, &cut))
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::deadline::Watches;

    /// What takes no bytes at present, and its other end.
    async fn full() -> (Io, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let far = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let near = listener.accept().await.expect("accepted").0;
        near.writable().await.expect("writable");
        while near.try_write(&[0; 65_536]).is_ok() {}
        (Io::plain(near), far)
    }

    #[tokio::test]
    async fn what_is_held_is_given_back_before_the_last_byte_is_sent_and_not_before_that() {
        let (io, _far) = full().await;
        let watch = Rc::new(Watches::default()).add();
        let (small, large) = ([0; 5], [0; COPIED + 1]);
        for (framing, pieces, given_back_by) in [
            (Body::Length(5), vec![&small[..]], "the end"),
            (Body::Chunked, vec![&small[..], &small[..]], "the end"),
            (Body::UntilClose, vec![], "the end"),
            (Body::Length(5 + large.len() as u64), vec![&small[..], &large[..]], "a piece"),
            (Body::Length(6 + large.len() as u64), vec![&small[..], &large[..]], "nothing"),
            (Body::Chunked, vec![&large[..]], "nothing"),
        ] {
            let place = Arc::new(());
            let mut held: Held = vec![Box::new(Arc::clone(&place))];
            let mut out = Outbound::take();
            out.tail().push(0);
            let mut sink = Sink::H1(H1Sink::new(&io, &watch, Side::Downstream, framing, out));
            sink.give_back_at_end(&mut held);
            let mut blocked = None;
            for piece in pieces {
                assert_eq!(Arc::strong_count(&place), 2);
                let mut writing = std::pin::pin!(sink.write(piece));
                if futures_util::poll!(writing.as_mut()).is_pending() {
                    blocked = Some("a piece");
                }
            }
            if blocked.is_none() {
                assert_eq!(Arc::strong_count(&place), 2);
                let mut finishing = std::pin::pin!(sink.finish(None));
                assert!(futures_util::poll!(finishing.as_mut()).is_pending());
                blocked = Some("the end");
            }
            let given_back = blocked.filter(|_| Arc::strong_count(&place) == 1);
            assert_eq!(given_back.unwrap_or("nothing"), given_back_by);
        }
    }

    #[tokio::test]
    async fn what_is_held_is_given_back_also_where_the_sender_ends_later_than_its_length() {
        let (io, _far) = full().await;
        let watch = Rc::new(Watches::default()).add();
        for (framing, references) in [(Body::Length(5), 1), (Body::Length(6), 2), (Body::Chunked, 2)] {
            let place = Arc::new(());
            let mut sink = Sink::H1(H1Sink::new(&io, &watch, Side::Downstream, framing, Outbound::take()));
            sink.give_back_at_end(&mut vec![Box::new(Arc::clone(&place))]);
            sink.write(&[0; 5]).await.expect("it is copied");
            let mut flushing = std::pin::pin!(sink.flush());
            assert!(futures_util::poll!(flushing.as_mut()).is_pending());
            assert_eq!(Arc::strong_count(&place), references, "{framing:?}");
        }
    }
}
