//! Where a body comes from.
//!
//! Called by [`super::carry`] for the whole body, and by `attempt.rs` when a small request body is held for a retry.

use std::rc::Rc;

use transept_wire::h1::Decoder;
use transept_wire::head::Fields;

use super::remembered::Remembered;
use crate::buffer::{self, Inbound};
use crate::deadline::Watch;
use crate::failure::{Failure, Side};
use crate::h2::{More, Stream};
use crate::io::{Farewell, Io};

/// A body that is still to be read.
pub(crate) enum Source<'c> {
    /// There is none, or it has been read.
    Empty,
    /// From an HTTP/1.1 connection.
    H1(H1Source<'c>),
    /// From an HTTP/2 stream.
    H2(H2Source<'c>),
    /// From memory that somebody else holds, to be sent again on a retry.
    Held(&'c [u8]),
    /// From memory that is shared with copies of the request; the second part is how much has been consumed.
    Kept(Rc<[u8]>, usize),
    /// What somebody has read ahead, how much of that has been consumed, and where the rest comes from.
    Begun(Vec<u8>, usize, Box<Source<'c>>),
    /// One that can be begun again.
    Remembered(Box<Remembered<'c>>),
}

/// A body framed by HTTP/1.1 (RFC 9112 section 6).
pub(crate) struct H1Source<'c> {
    io: &'c Io,
    inbound: &'c mut Inbound,
    watch: &'c Watch,
    decoder: Decoder,
    side: Side,
    /// Decoded bytes, as a range of `inbound`.
    start: usize,
    end: usize,
    /// Bytes of `inbound` that the decoder has dealt with; they go when the range is used up.
    digested: usize,
}

/// A body framed by HTTP/2 DATA frames (RFC 9113 section 6.1).
pub(crate) struct H2Source<'c> {
    stream: &'c Stream,
    watch: &'c Watch,
    side: Side,
    /// What has come, and how much of it has been used.
    piece: Vec<u8>,
    used: usize,
    trailers: Option<Fields>,
    done: bool,
}

impl<'c> Source<'c> {
    /// Bytes that are here.
    pub(crate) fn data(&self) -> &[u8] {
        match self {
            Source::Empty => &[],
            Source::H1(source) => &source.inbound.data()[source.start..source.end],
            Source::H2(source) => &source.piece[source.used..],
            Source::Held(bytes) => bytes,
            Source::Kept(bytes, consumed) => &bytes[*consumed..],
            Source::Begun(bytes, consumed, rest) if *consumed == bytes.len() => rest.data(),
            Source::Begun(bytes, consumed, _) => &bytes[*consumed..],
            Source::Remembered(body) => body.data(),
        }
    }

    /// Drops the first `count` bytes of [`Source::data`].
    pub(crate) fn consume(&mut self, count: usize) {
        match self {
            Source::Empty => {}
            Source::H1(source) => source.start += count,
            Source::H2(source) => source.used += count,
            Source::Held(bytes) => *bytes = &bytes[count..],
            Source::Kept(_, consumed) => *consumed += count,
            Source::Begun(bytes, consumed, rest) if *consumed == bytes.len() => rest.consume(count),
            Source::Begun(_, consumed, _) => *consumed += count,
            Source::Remembered(body) => body.consume(count),
        }
    }

    /// Decodes what has been received already; false when there is nothing more to decode.
    pub(crate) fn advance(&mut self) -> Result<bool, Failure> {
        match self {
            Source::H1(source) => source.advance(),
            Source::Begun(bytes, consumed, rest) if *consumed == bytes.len() => rest.advance(),
            Source::Begun(..) => Ok(true),
            Source::Remembered(body) if body.serves_again() => Ok(true),
            Source::Remembered(body) => body.rest_mut().advance(),
            Source::H2(_) | Source::Empty | Source::Held(_) | Source::Kept(..) => Ok(false),
        }
    }

    /// Whether the last byte has been taken.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Source::Empty => true,
            Source::H1(source) => source.start == source.end && source.decoder.is_done(),
            Source::H2(source) => source.done && source.used == source.piece.len(),
            Source::Held(bytes) => bytes.is_empty(),
            Source::Kept(bytes, consumed) => *consumed == bytes.len(),
            Source::Begun(bytes, consumed, rest) => *consumed == bytes.len() && rest.is_done(),
            Source::Remembered(body) => !body.serves_again() && body.rest().is_done(),
        }
    }

    /// Waits for more from the network. Meant for when [`Source::data`] is empty and the body is not done.
    pub(crate) async fn fill(&mut self) -> Result<(), Failure> {
        match self.innermost() {
            Source::H1(source) => source.fill().await,
            Source::H2(source) => source.fill().await,
            _ => Ok(()),
        }
    }

    /// Where bytes come from that are not here yet: what is read ahead or remembered is read from the network, not from memory.
    fn innermost(&mut self) -> &mut Source<'c> {
        match self {
            Source::Begun(_, _, rest) => rest.innermost(),
            Source::Remembered(body) => body.rest_mut().innermost(),
            source => source,
        }
    }

    /// From now on remembers what is taken, up to so many bytes, so that the body can be begun again.
    pub(crate) fn remember(&mut self, most: usize) {
        if !matches!(self, Source::Remembered(_)) {
            let rest = std::mem::replace(self, Source::Empty);
            *self = Source::Remembered(Box::new(Remembered::new(rest, most)));
        }
    }

    /// Whether [`Source::begin_again`] gives the whole body once more.
    pub(crate) fn can_begin_again(&self) -> bool {
        matches!(self, Source::Remembered(body) if body.can_begin_again())
    }

    /// How many more bytes can be taken so that [`Source::begin_again`] still gives all of them; none when that does not matter.
    pub(crate) fn room(&self) -> Option<usize> {
        match self {
            Source::Remembered(body) => body.room(),
            _ => None,
        }
    }

    /// The body need not be begun again.
    pub(crate) fn forget(&mut self) {
        if let Source::Remembered(body) = self {
            body.forget();
        }
    }

    /// The next byte is the first again, of a body that is remembered.
    pub(crate) fn begin_again(&mut self) {
        if let Source::Remembered(body) = self {
            body.begin_again();
        }
    }

    /// Reads to the end. The caller has made sure that the announced length is small.
    pub(crate) async fn read_all(&mut self) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        loop {
            let data = self.data();
            let count = data.len();
            bytes.extend_from_slice(data);
            self.consume(count);
            if self.advance()? {
                continue;
            }
            if self.is_done() {
                return Ok(bytes);
            }
            self.fill().await?;
        }
    }

    /// Reads ahead until more than `most` bytes are here, or the end. What is read is served again, before the rest; what was read ahead
    /// before counts. Gives how many bytes there are.
    pub(crate) async fn read_ahead(&mut self, most: usize) -> Result<usize, Failure> {
        if !matches!(self, Source::Begun(_, 0, _)) {
            // Before anything is awaited: whoever gives up in the middle must still find the rest here, and not take it for the next request.
            let rest = std::mem::replace(self, Source::Empty);
            *self = Source::Begun(Vec::new(), 0, Box::new(rest));
        }
        let Source::Begun(bytes, _, rest) = self else { return Ok(0) };
        loop {
            let data = rest.data();
            let count = data.len();
            bytes.extend_from_slice(data);
            rest.consume(count);
            if bytes.len() > most {
                return Ok(bytes.len());
            }
            if rest.advance()? {
                continue;
            }
            if rest.is_done() {
                return Ok(bytes.len());
            }
            match &mut **rest {
                Source::H1(source) => source.fill().await?,
                Source::H2(source) => source.fill().await?,
                _ => {}
            }
        }
    }

    /// The trailers, once the body is done.
    pub(crate) fn trailers(&mut self) -> Option<&Fields> {
        match self {
            Source::Empty | Source::Held(_) | Source::Kept(..) => None,
            Source::H1(source) => source.decoder.trailers().map(|trailers| &*trailers),
            Source::H2(source) => source.trailers.as_ref(),
            Source::Begun(_, _, rest) => rest.trailers(),
            Source::Remembered(body) => body.rest_mut().trailers(),
        }
    }
}

impl<'c> H1Source<'c> {
    /// A body whose first bytes may be in `inbound` already.
    pub(crate) fn new(io: &'c Io, inbound: &'c mut Inbound, watch: &'c Watch, decoder: Decoder, side: Side) -> Self {
        Self { io, inbound, watch, decoder, side, start: 0, end: 0, digested: 0 }
    }

    fn advance(&mut self) -> Result<bool, Failure> {
        if self.start < self.end {
            return Ok(true);
        }
        if self.digested > 0 {
            self.inbound.consume(self.digested);
            (self.start, self.end, self.digested) = (0, 0, 0);
        }
        if self.decoder.is_done() || self.inbound.is_empty() {
            return Ok(false);
        }
        let decoded =
            self.decoder.decode(self.inbound.data()).map_err(|malformed| Failure::malformed(self.side, &malformed))?;
        (self.start, self.end, self.digested) = (decoded.data.start, decoded.data.end, decoded.consumed);
        if self.start == self.end && self.digested > 0 {
            self.inbound.consume(self.digested);
            (self.start, self.end, self.digested) = (0, 0, 0);
            return Ok(!self.decoder.is_done());
        }
        Ok(self.start < self.end)
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        let count = self
            .watch
            .wait(|cx| self.io.poll_fill(cx, self.inbound))
            .await
            .map_err(|expired| Failure::stalled(self.side, expired))?
            .or_else(|error| match Farewell::of(&error) {
                // The other end of the tunnel had nothing to do: for bytes an end like any other.
                Some(Farewell::Unread) => Ok(0),
                _ => Err(Failure::body_cut(self.side, &error)),
            })?;
        if count == 0 {
            return self.decoder.finish_eof().map_err(|malformed| Failure::malformed(self.side, &malformed));
        }
        Ok(())
    }
}

impl Drop for H1Source<'_> {
    fn drop(&mut self) {
        // The next message of the connection starts behind what the decoder has digested.
        self.inbound.consume(self.digested);
    }
}

impl<'c> H2Source<'c> {
    pub(crate) fn new(stream: &'c Stream, watch: &'c Watch, side: Side) -> Self {
        Self { stream, watch, side, piece: Vec::new(), used: 0, trailers: None, done: false }
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        let Self { stream, watch, side, piece, .. } = self;
        let more = watch
            .wait(|cx| stream.poll_body(cx, piece))
            .await
            .map_err(|expired| Failure::stalled(*side, expired))?
            .map_err(|cut| Failure::h2_body(*side, &cut))?;
        match more {
            More::Data => self.used = 0,
            More::End => {
                self.trailers = self.stream.take_trailers();
                self.done = true;
            }
        }
        Ok(())
    }
}

impl Drop for H2Source<'_> {
    fn drop(&mut self) {
        buffer::give_back_vec(std::mem::take(&mut self.piece));
    }
}
