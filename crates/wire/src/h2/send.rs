//! What we send: heads, DATA within the windows, trailers, resets.
//!
//! Called by the proxy for its streams. Every call writes whole frames into the connection's buffer; the caller bounds what
//! collects there by asking for [`Connection::room`] first.

use super::connection::{Connection, Role};
use super::frame::{self, HEAD, LARGEST, flag, kind};
use super::head;
use super::stream::{Asked, Key, Receiving, Stream};
use super::{Code, frame::LARGEST_WINDOW};
use crate::h1::Body;
use crate::head::{Fields, Method, Request, Response};

/// DATA collects up to about so many bytes before it has to be handed over.
pub(super) const ENOUGH: usize = 128 * 1024;

/// The stream, or the connection, takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// What limits a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// So many bytes may be sent now.
    Bytes(usize),
    /// The receiver of the stream has to take some first.
    Stream,
    /// The connection has to move first.
    Connection,
}

impl Connection {
    /// Opens a stream with a request. `end`: there is no body.
    ///
    /// # Errors
    /// [`Gone`] when the connection takes no more streams; nothing is written then.
    pub fn send_request(&mut self, request: &Request, body: &Body, end: bool) -> Result<Key, Gone> {
        if self.role != Role::Client || !self.takes_streams() || self.open >= self.peer.max_streams {
            return Err(Gone);
        }
        let id = self.next_stream;
        self.next_stream += 2;
        self.write_block(id, end, |encoder, out| head::write_request(encoder, request, body, out));
        self.open += 1;
        Ok(self.streams.insert(Stream {
            id,
            receiving: Receiving::Head,
            sending: !end,
            send_window: self.peer.window,
            credit: self.first_credit(),
            owed: 0,
            grown: 0,
            counted: 0,
            awaited: 0,
            left: None,
            asked: match request.method {
                Method::Head => Asked::Head,
                Method::Connect => Asked::Tunnel,
                _ => Asked::Usual,
            },
            last_data: None,
        }))
    }

    /// Sends a response head: an interim one, or the final one. `end`: there is no body.
    ///
    /// # Errors
    /// [`Gone`] when the stream takes nothing more.
    pub fn send_response(&mut self, key: Key, response: &Response, end: bool) -> Result<(), Gone> {
        self.sending(key)?;
        self.write_block(key.id(), end, |encoder, out| head::write_response(encoder, response, out));
        if end {
            self.change(key, |stream| stream.sending = false);
        }
        Ok(())
    }

    /// Ends the stream with trailers.
    ///
    /// # Errors
    /// [`Gone`] when the stream takes nothing more.
    pub fn send_trailers(&mut self, key: Key, trailers: &Fields) -> Result<(), Gone> {
        self.sending(key)?;
        self.write_block(key.id(), true, |encoder, out| head::write_trailers(encoder, trailers, out));
        self.change(key, |stream| stream.sending = false);
        Ok(())
    }

    /// How much of a body may be sent now.
    ///
    /// # Errors
    /// [`Gone`] when the stream takes nothing more.
    pub fn room(&self, key: Key) -> Result<Room, Gone> {
        let stream = self.sending(key)?;
        if stream.send_window <= 0 {
            return Ok(Room::Stream);
        }
        let held = ENOUGH.saturating_sub(self.out.len());
        let window = self.send_window.min(stream.send_window).clamp(0, LARGEST_WINDOW) as usize;
        Ok(if held == 0 || window == 0 { Room::Connection } else { Room::Bytes(window.min(held.max(LARGEST))) })
    }

    /// Sends the beginning of `bytes`, as much as there is [`Connection::room`] for, and tells how much that was.
    ///
    /// # Errors
    /// [`Gone`] when the stream takes nothing more.
    pub fn send_data(&mut self, key: Key, bytes: &[u8]) -> Result<usize, Gone> {
        let Room::Bytes(room) = self.room(key)? else { return Ok(0) };
        let now = &bytes[..bytes.len().min(room)];
        let mut last = None;
        for piece in now.chunks(LARGEST) {
            last = Some((self.taken, self.out.len()));
            frame::write_head(&mut self.out, piece.len(), kind::DATA, 0, key.id());
            self.out.extend_from_slice(piece);
        }
        self.send_window -= now.len() as i64;
        if let Some(stream) = self.streams.find_mut(key) {
            stream.send_window -= now.len() as i64;
            stream.last_data = last.or(stream.last_data);
        }
        Ok(now.len())
    }

    /// Ends our half of the stream. The last DATA frame gets the flag when it has not been handed over yet.
    ///
    /// # Errors
    /// [`Gone`] when the stream takes nothing more.
    pub fn end(&mut self, key: Key) -> Result<(), Gone> {
        let last = self.sending(key)?.last_data.filter(|(taken, _)| *taken == self.taken);
        match last.and_then(|(_, at)| self.out.get_mut(at + 4)) {
            Some(flags) => *flags |= flag::END_STREAM,
            None => frame::write_head(&mut self.out, 0, kind::DATA, flag::END_STREAM, key.id()),
        }
        self.change(key, |stream| stream.sending = false);
        Ok(())
    }

    /// Tells that the user has taken `count` bytes of the stream's body, so that the peer may send as much again; and whether he had to wait for them.
    pub fn took(&mut self, key: Key, count: usize, was_awaited: bool) {
        let Some(stream) = self.streams.find_mut(key) else { return };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        stream.owed = stream.owed.saturating_add(count);
        stream.awaited = stream.awaited.saturating_add(if was_awaited { count } else { 0 });
        let window = self.config.stream_window.saturating_add(stream.grown);
        if stream.receiving != Receiving::Body || stream.owed < window / 2 {
            return;
        }
        let growth = self.config.growth;
        let left = growth.together.saturating_sub(self.grown);
        let most = window.saturating_mul(2).min(growth.largest).min(window.max(growth.each).saturating_add(left));
        let more = match stream.awaited > stream.owed / 2 {
            true => most.saturating_sub(window),
            false => 0,
        };
        let given = stream.owed.saturating_add(more);
        frame::write_window_update(&mut self.out, key.id(), given);
        stream.credit += i64::from(given);
        stream.grown += more;
        (stream.owed, stream.awaited) = (0, 0);
        let counted = growth.beyond(window.saturating_add(more)).saturating_sub(growth.beyond(window));
        stream.counted += counted;
        self.grown += counted;
    }

    /// Breaks the stream off.
    pub fn reset(&mut self, key: Key, code: Code) {
        // Also the rest of a frame that has begun is not wanted.
        if let Some(data) = self.data.as_mut().filter(|data| data.stream == Some(key)) {
            data.stream = None;
        }
        if self.streams.find(key).is_some_and(|stream| !stream.is_closed()) {
            frame::write_reset(&mut self.out, key.id(), code);
            self.remember_reset(key.id());
            self.change(key, |stream| stream.cut(Receiving::Unwanted));
        }
    }

    /// The user is done with the stream. What is still open of it is broken off: with `NO_ERROR` when our half is
    /// complete and only the rest of the peer's is not wanted (RFC 9113 section 8.1), else with `CANCEL`.
    pub fn release(&mut self, key: Key) {
        let complete = self.role == Role::Server && self.streams.find(key).is_some_and(|stream| !stream.sending);
        self.reset(key, if complete { Code::NO_ERROR } else { Code::CANCEL });
        let gone = self.streams.remove(key);
        self.grown -= gone.map_or(0, |stream| stream.counted);
    }

    fn sending(&self, key: Key) -> Result<&Stream, Gone> {
        self.streams.find(key).filter(|stream| stream.sending).ok_or(Gone)
    }

    /// Writes HEADERS, and CONTINUATION when the block does not fit into one frame.
    fn write_block(&mut self, id: u32, end: bool, write: impl FnOnce(&mut super::hpack::Encoder, &mut Vec<u8>)) {
        let start = self.out.len();
        let end = if end { flag::END_STREAM } else { 0 };
        frame::write_head(&mut self.out, 0, kind::HEADERS, flag::END_HEADERS | end, id);
        write(&mut self.encoder, &mut self.out);
        let length = self.out.len() - start - HEAD;
        if length <= LARGEST {
            frame::set_length(&mut self.out, start, length);
            return;
        }
        let block = self.out.split_off(start + HEAD);
        self.out.truncate(start);
        let last = block.len().div_ceil(LARGEST) - 1;
        for (nth, piece) in block.chunks(LARGEST).enumerate() {
            let flags = if nth == last { flag::END_HEADERS } else { 0 };
            let (kind, flags) = if nth == 0 { (kind::HEADERS, flags | end) } else { (kind::CONTINUATION, flags) };
            frame::write_head(&mut self.out, piece.len(), kind, flags, id);
            self.out.extend_from_slice(piece);
        }
    }
}
