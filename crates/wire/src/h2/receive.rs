//! What the peer sends: frames are checked against the state of the connection and of their stream, and become events.
//!
//! Called by the proxy with the bytes that it received. DATA is dealt with in `receive_data.rs`, what concerns the
//! connection as a whole in `receive_control.rs`. A fault of a stream resets the stream, a fault of the connection
//! ends it (RFC 9113 section 5.4); in both cases the frame that says so has been written.

use std::ops::Range;

use super::connection::{Connection, Leaving, Role, Stage};
use super::frame::{self, FrameHead, HEAD, LARGEST, flag, kind, number_at};
use super::head::{self, Malformed, Refused, RequestHead, Unreadable};
use super::stream::{Asked, Key, Receiving, Stream};
use super::{Code, Fault};

/// What a client says first (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// CONTINUATION frames behind one HEADERS (CVE-2024-27316 and its kin).
const MOST_CONTINUATIONS: u32 = 64;

/// A compressed block may be so many times the size of the largest head before it is not even decoded. A head that is
/// too large is answered, a block that is absurd ends the connection.
const ABSURD: usize = 4;

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A request; its head is in [`Connection::request`].
    Request {
        /// Its stream.
        stream: Key,
        /// What the head says about the body.
        head: RequestHead,
        /// There is no body.
        end: bool,
    },
    /// A request whose head is refused. The stream is open for an answer (RFC 9113 section 8.1.1).
    Refused {
        /// Its stream.
        stream: Key,
        /// What is wrong.
        why: Refused,
    },
    /// A response head; it is in [`Connection::response`].
    Response {
        /// Its stream.
        stream: Key,
        /// The `Content-Length`.
        length: Option<u64>,
        /// There is no body.
        end: bool,
    },
    /// A piece of a body.
    Data {
        /// Its stream.
        stream: Key,
        /// Where it lies in the bytes that were passed.
        range: Range<usize>,
        /// It is the last one.
        end: bool,
    },
    /// The end of a body, with trailers; they are in [`Connection::trailers`].
    Trailers {
        /// Their stream.
        stream: Key,
    },
    /// The peer broke the stream off.
    Reset {
        /// The stream.
        stream: Key,
        /// The peer's reason.
        code: Code,
    },
    /// We broke the stream off, because of what the peer sent on it.
    Broken {
        /// The stream.
        stream: Key,
        /// What is wrong.
        why: Breach,
    },
    /// There is room to send.
    Room {
        /// On this stream; None: on the connection, and perhaps on all streams.
        stream: Option<Key>,
    },
    /// The peer takes no new streams; those above `last` were not processed (RFC 9113 section 6.8).
    GoAway {
        /// The last stream that was, or may have been, processed.
        last: u32,
        /// The peer's reason.
        code: Code,
    },
}

/// What became of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// So many of them are dealt with. With 0 and no event, more bytes are needed.
    pub consumed: usize,
    /// What happened, if it concerns the user.
    pub event: Option<Event>,
}

impl Step {
    pub(super) fn silent(consumed: usize) -> Step {
        Step { consumed, event: None }
    }
}

/// A header block of which more is to come.
#[derive(Debug)]
pub(super) struct Block {
    stream: u32,
    end: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

/// What a peer did on a stream that it must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// It sent a head, or trailers, that are refused.
    #[error(transparent)]
    Head(#[from] Refused),
    /// It broke a rule of RFC 9113 beyond heads; the sentence tells which.
    #[error("{0}")]
    Rule(&'static str),
}

/// A frame breaks a rule of its stream; the stream is reset with the code.
pub(super) struct StreamFault(pub Code, pub Breach);

impl Connection {
    /// Deals with the next part of what was received: at most one event. To be called again with what follows until
    /// nothing is consumed.
    ///
    /// # Errors
    /// [`Fault`] when the connection cannot go on.
    pub fn receive(&mut self, input: &[u8]) -> Result<Step, Fault> {
        if self.stage == Stage::Preface {
            return self.receive_preface(input);
        }
        if let Some(data) = self.data.take() {
            return Ok(self.receive_data_rest(data, input, 0));
        }
        let Some(head) = FrameHead::read(input) else { return Ok(Step::silent(0)) };
        let most = if head.kind == kind::DATA { LARGEST.max(self.config.data_frame as usize) } else { LARGEST };
        if head.length > most {
            return Err(self.give_up(Code::FRAME_SIZE_ERROR, "a frame is larger than we allow"));
        }
        if self.stage == Stage::Settings && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "the connection does not begin with SETTINGS"));
        }
        let follows = head.kind == kind::CONTINUATION;
        if self.block.as_ref().map(|block| block.stream) != follows.then_some(head.stream) {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "a header block is interrupted or was never begun"));
        }
        if head.kind == kind::DATA {
            return self.receive_data(head, input);
        }
        let Some(payload) = input.get(HEAD..HEAD + head.length) else { return Ok(Step::silent(0)) };
        let event = match head.kind {
            kind::HEADERS => self.receive_headers(head, payload)?,
            kind::CONTINUATION => self.receive_continuation(head, payload)?,
            kind::RST_STREAM => self.receive_reset(head, payload)?,
            kind::SETTINGS => self.receive_settings(head, payload)?,
            kind::PING => self.receive_ping(head, payload)?,
            kind::GOAWAY => self.receive_goaway(head, payload)?,
            kind::WINDOW_UPDATE => self.receive_window_update(head, payload)?,
            kind::PRIORITY => self.receive_priority(head)?,
            kind::PUSH_PROMISE => return Err(self.give_up(Code::PROTOCOL_ERROR, "PUSH_PROMISE is not allowed")),
            // Frames of unknown type are ignored (RFC 9113 section 5.5).
            _ => {
                self.count_useless()?;
                None
            }
        };
        Ok(Step { consumed: HEAD + head.length, event })
    }

    fn receive_preface(&mut self, input: &[u8]) -> Result<Step, Fault> {
        let seen = input.len().min(PREFACE.len());
        if input[..seen] != PREFACE[..seen] {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "the preface is not that of HTTP/2"));
        }
        if seen < PREFACE.len() {
            return Ok(Step::silent(0));
        }
        self.stage = Stage::Settings;
        Ok(Step::silent(seen))
    }

    /// Whether a stream was never opened.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        match self.role {
            // At the end of a connection there may be streams that the client has opened and that we do not look at.
            Role::Server => id.is_multiple_of(2) || (id > self.last_stream && self.leaving != Leaving::Settled),
            Role::Client => id.is_multiple_of(2) || id >= self.next_stream,
        }
    }

    /// A frame for a stream that has no place any more.
    pub(super) fn meet_stranger(&mut self, id: u32) -> Result<(), Fault> {
        if self.is_idle(id) {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "a frame belongs to a stream that was never opened"));
        }
        let unserved = self.role == Role::Server && id > self.last_stream;
        if !unserved && !self.was_reset_lately(id) {
            return Err(self.meet_closed());
        }
        self.count_useless()
    }

    /// A frame for a stream of which the peer has said, in whatever way, that nothing follows.
    pub(super) fn meet_closed(&mut self) -> Fault {
        self.give_up(Code::STREAM_CLOSED, "a frame belongs to a stream that has ended")
    }

    /// Resets a stream for what the peer sent on it.
    pub(super) fn break_stream(&mut self, stream: Key, StreamFault(code, why): StreamFault) -> Event {
        self.reset(stream, code);
        self.broken += 1;
        Event::Broken { stream, why }
    }

    fn receive_headers(&mut self, head: FrameHead, payload: &[u8]) -> Result<Option<Event>, Fault> {
        if head.stream == 0 {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "HEADERS belong to no stream"));
        }
        let mut fragment = payload;
        let mut padding = 0;
        if head.has(flag::PADDED) {
            match fragment.split_first() {
                Some((count, rest)) => (padding, fragment) = (usize::from(*count), rest),
                None => return Err(self.give_up(Code::FRAME_SIZE_ERROR, "HEADERS are too short")),
            }
        }
        if head.has(flag::PRIORITY) {
            match fragment.get(5..) {
                // Priorities of this kind are ignored (RFC 9113 section 5.3.2).
                Some(rest) => fragment = rest,
                None => return Err(self.give_up(Code::FRAME_SIZE_ERROR, "HEADERS are too short")),
            }
        }
        let Some(fragment) = fragment.len().checked_sub(padding).and_then(|length| fragment.get(..length)) else {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "the padding is longer than its frame"));
        };
        let end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.receive_block(head.stream, end, fragment);
        }
        let bytes = fragment.to_vec();
        self.block = Some(Block { stream: head.stream, end, bytes, continuations: 0 });
        Ok(None)
    }

    fn receive_continuation(&mut self, head: FrameHead, payload: &[u8]) -> Result<Option<Event>, Fault> {
        let Some(mut block) = self.block.take() else { return Ok(None) };
        block.continuations += 1;
        let most = self.config.heads.bytes.max(LARGEST).saturating_mul(ABSURD);
        if block.continuations > MOST_CONTINUATIONS || block.bytes.len() + payload.len() > most {
            return Err(self.give_up(Code::ENHANCE_YOUR_CALM, "a header block is absurdly large"));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.receive_block(block.stream, block.end, &block.bytes);
        }
        self.block = Some(block);
        Ok(None)
    }

    /// A complete header block. Whatever becomes of it, it is decoded, because the next one depends on it.
    fn receive_block(&mut self, id: u32, end: bool, block: &[u8]) -> Result<Option<Event>, Fault> {
        if let Some(key) = self.streams.key_of(id) {
            return match self.streams.find(key).map(|stream| (stream.receiving, stream.sending)) {
                Some((Receiving::Head, _)) => self.receive_response(key, end, block),
                Some((Receiving::Body, _)) => self.receive_trailers(key, end, block),
                Some((Receiving::Done, true)) => {
                    self.discard(block)?;
                    let why = Breach::Rule("there are HEADERS after the end");
                    Ok(Some(self.break_stream(key, StreamFault(Code::STREAM_CLOSED, why))))
                }
                Some((Receiving::Unwanted, _)) => {
                    self.count_useless()?;
                    self.discard(block)?;
                    Ok(None)
                }
                _ => Err(self.meet_closed()),
            };
        }
        if self.role == Role::Server && id % 2 == 1 && id > self.last_stream {
            return self.receive_request(id, end, block);
        }
        if self.role == Role::Server && !self.is_idle(id) && !self.was_opened(id) {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "the numbers of streams do not rise"));
        }
        self.meet_stranger(id)?;
        self.discard(block)?;
        Ok(None)
    }

    fn discard(&mut self, block: &[u8]) -> Result<(), Fault> {
        match head::discard(&mut self.decoder, block) {
            Ok(()) | Err(Unreadable::Refused(_)) => Ok(()),
            Err(Unreadable::Compression) => Err(self.lose_compression()),
        }
    }

    fn lose_compression(&mut self) -> Fault {
        self.give_up(Code::COMPRESSION_ERROR, "a header block cannot be decompressed")
    }

    fn receive_request(&mut self, id: u32, end: bool, block: &[u8]) -> Result<Option<Event>, Fault> {
        if self.leaving == Leaving::Settled {
            // The client will learn from GOAWAY that the stream was not processed.
            self.count_useless()?;
            self.discard(block)?;
            return Ok(None);
        }
        self.note_opened(id);
        // Streams that the client has cancelled count while our work for them goes on (CVE-2023-44487).
        let crowded = self.streams.len() as u64 >= u64::from(self.config.max_streams) * 2;
        if self.open >= self.config.max_streams || crowded {
            self.discard(block)?;
            self.remember_reset(id);
            frame::write_reset(&mut self.out, id, Code::REFUSED_STREAM);
            self.count_useless()?;
            return Ok(None);
        }
        self.useless = 0;
        let outcome = head::read_request(&mut self.decoder, block, &self.config.heads, &mut self.request);
        let (outcome, left) = match outcome {
            Ok(head) if end && head.length.is_some_and(|length| length > 0) => {
                (Err(Refused::Malformed(Malformed::BodyMissing)), None)
            }
            Ok(head) => {
                let length = head.length;
                (Ok(head), length)
            }
            Err(Unreadable::Refused(why)) => (Err(why), None),
            Err(Unreadable::Compression) => return Err(self.lose_compression()),
        };
        self.open += 1;
        let stream = self.streams.insert(Stream {
            id,
            receiving: if end { Receiving::Done } else { Receiving::Body },
            sending: true,
            send_window: self.peer.window,
            credit: self.first_credit(),
            owed: 0,
            grown: 0,
            counted: 0,
            awaited: 0,
            left,
            asked: Asked::Usual,
            last_data: None,
        });
        Ok(Some(match outcome {
            Ok(head) => Event::Request { stream, head, end },
            Err(why) => Event::Refused { stream, why },
        }))
    }

    fn receive_response(&mut self, key: Key, end: bool, block: &[u8]) -> Result<Option<Event>, Fault> {
        let read = head::read_response(&mut self.decoder, block, &self.config.heads, &mut self.response);
        let malformed = |why| StreamFault(Code::PROTOCOL_ERROR, Breach::Rule(why));
        let length = match read {
            Ok(length) => length,
            Err(Unreadable::Refused(why)) => {
                return Ok(Some(self.break_stream(key, StreamFault(Code::PROTOCOL_ERROR, why.into()))));
            }
            Err(Unreadable::Compression) => return Err(self.lose_compression()),
        };
        let status = self.response.status;
        if status < 200 {
            return Ok(Some(match end {
                true => self.break_stream(key, malformed("an interim response ends the stream")),
                false => Event::Response { stream: key, length: None, end: false },
            }));
        }
        let asked = self.streams.find(key).map_or(Asked::Usual, |stream| stream.asked);
        let length = if asked == Asked::Tunnel && status < 300 { None } else { length };
        let left = if asked == Asked::Head || matches!(status, 204 | 304) { Some(0) } else { length };
        if end && left.is_some_and(|left| left > 0) {
            return Ok(Some(self.break_stream(key, malformed("there is a Content-Length and no body"))));
        }
        self.change(key, |stream| {
            stream.left = left;
            stream.receiving = if end { Receiving::Done } else { Receiving::Body };
        });
        Ok(Some(Event::Response { stream: key, length, end }))
    }

    fn receive_trailers(&mut self, key: Key, end: bool, block: &[u8]) -> Result<Option<Event>, Fault> {
        let left = self.streams.find(key).and_then(|stream| stream.left);
        let why = match head::read_trailers(&mut self.decoder, block, &self.config.heads, &mut self.trailers) {
            Err(Unreadable::Compression) => return Err(self.lose_compression()),
            Err(Unreadable::Refused(why)) => Breach::Head(why),
            Ok(()) if !end => Breach::Rule("trailers do not end the stream"),
            Ok(()) if left.is_some_and(|left| left > 0) => Breach::Rule("the body is shorter than its Content-Length"),
            Ok(()) => {
                self.change(key, |stream| stream.receiving = Receiving::Done);
                return Ok(Some(Event::Trailers { stream: key }));
            }
        };
        Ok(Some(self.break_stream(key, StreamFault(Code::PROTOCOL_ERROR, why))))
    }

    fn receive_reset(&mut self, head: FrameHead, payload: &[u8]) -> Result<Option<Event>, Fault> {
        if payload.len() != 4 {
            return Err(self.give_up(Code::FRAME_SIZE_ERROR, "RST_STREAM does not have four bytes"));
        }
        if self.is_idle(head.stream) {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "RST_STREAM belongs to a stream that was never opened"));
        }
        let Some(key) = self.streams.key_of(head.stream) else {
            self.count_useless()?;
            return Ok(None);
        };
        if self.streams.find(key).is_none_or(Stream::is_closed) {
            self.count_useless()?;
            return Ok(None);
        }
        self.change(key, |stream| stream.cut(Receiving::Reset));
        Ok(Some(Event::Reset { stream: key, code: Code(number_at(payload, 0)) }))
    }
}
