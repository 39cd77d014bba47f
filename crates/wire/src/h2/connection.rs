//! One end of an HTTP/2 connection: its state, its beginning and its end.
//!
//! Made by the proxy for every connection. What the peer sends is dealt with in `receive.rs`, what we send in `send.rs`.

use std::collections::VecDeque;

use super::frame::{self, FIRST_WINDOW, LARGEST_WINDOW, setting};
use super::head::HeadLimits;
use super::hpack::{Decoder, Encoder};
use super::receive::Block;
use super::receive_data::InData;
use super::stream::{Key, Stream, Streams};
use super::{Code, Fault, LARGEST_FRAME};
use crate::head::{Fields, Request, Response};

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes requests.
    Server,
    /// Sends requests.
    Client,
}

/// What we announce to the peer and hold it to.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes that the peer may send on a stream before they are taken. A window of less than 65,535 holds from the moment
    /// at which the peer has acknowledged it.
    pub stream_window: u32,
    /// How windows of streams grow whose bytes are taken as they come.
    pub growth: Growth,
    /// Bytes that the peer may send on all streams together. They are given back as they arrive: what is held is bounded by the
    /// windows of the streams.
    pub connection_window: u32,
    /// Bytes of a DATA frame that the peer may send, at most 16,777,215; what is less than [`LARGEST_FRAME`](super::LARGEST_FRAME) means that.
    /// Other frames have at most so many whatever it is: they are read when they are whole.
    pub data_frame: u32,
    /// Streams that a client may have open. Unused by clients.
    pub max_streams: u32,
    /// How large a head may be.
    pub heads: HeadLimits,
}

/// How far windows of streams may grow. Each time half a window was taken, and most of that was waited for by who took it, it is made twice as large: so a
/// stream that is read as fast as it comes is as fast as with a large window from the beginning, and one that is read slowly, or not at all, holds a small
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The largest that one comes to, in bytes.
    pub largest: u32,
    /// To how much each may grow, whatever others have.
    pub each: u32,
    /// Bytes by which all that are open may have grown beyond that together.
    pub together: u32,
}

impl Growth {
    /// Windows stay as they are.
    pub const NONE: Growth = Growth { largest: 0, each: 0, together: 0 };

    /// How much of a window counts for what they have together.
    pub(super) fn beyond(&self, window: u32) -> u32 {
        if self.largest == 0 { 0 } else { window.saturating_sub(self.each) }
    }
}

/// The header table that we announce: the default (RFC 9113 section 6.5.2).
const HEADER_TABLE: usize = 4096;

/// Streams that a client opens before the server has said how many it takes.
const STREAMS_AT_FIRST: u32 = 100;

/// Streams that we have reset lately, whose late frames are no error (RFC 9113 section 5.1).
const REMEMBERED: usize = 256;

/// Frames without any use, one after the other, until it is enough.
const MOST_USELESS: u32 = 1000;

/// Acknowledgements that wait for a peer that sends and does not read (CVE-2019-9512, CVE-2019-9515).
const MOST_ACKS: u32 = 1000;

/// The payload of the PING behind the first GOAWAY of a graceful end.
pub(super) const FAREWELL: [u8; 8] = *b"farewell";

/// The payload of the PING that asks whether the peer is there.
pub(super) const ALIVE: [u8; 8] = *b"alive?\0\0";

/// How far a graceful end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// The peer knows, and may have opened streams before it knew.
    Announced,
    /// Later streams are not served.
    Settled,
}

/// What the peer announced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub window: i64,
    pub max_streams: u32,
}

/// One end of a connection.
pub struct Connection {
    pub(super) role: Role,
    pub(super) config: Config,
    pub(super) peer: Peer,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) streams: Streams,
    /// Streams that are open as far as the protocol goes.
    pub(super) open: u32,
    /// The highest stream that the peer opened, for servers; the next that we open, for clients.
    pub(super) last_stream: u32,
    pub(super) next_stream: u32,
    pub(super) send_window: i64,
    pub(super) credit: i64,
    /// Bytes by which windows of the streams have grown beyond what each may.
    pub(super) grown: u32,
    /// Received bytes of the connection's window that the peer has not been told about.
    pub(super) owed: u32,
    pub(super) stage: Stage,
    /// Whether the peer has acknowledged our SETTINGS.
    pub(super) acknowledged: bool,
    pub(super) block: Option<Block>,
    pub(super) data: Option<InData>,
    pub(super) leaving: Leaving,
    /// The last stream that the peer will process, once it has said so.
    pub(super) goaway: Option<u32>,
    /// Which of the 64 numbers up to `last_stream` were opened, the lowest bit for the highest number.
    pub(super) opened: u64,
    /// Streams that we have reset lately, and the highest number of those that are not remembered any more.
    pub(super) reset_lately: VecDeque<u32>,
    pub(super) forgotten: u32,
    pub(super) useless: u32,
    pub(super) broken: u64,
    pub(super) acks: u32,
    pub(super) pinged: bool,
    pub(super) out: Vec<u8>,
    /// Counts how often `out` was taken, so that a place in it is known to be gone.
    pub(super) taken: u64,
    /// The head of the request that came last; swap it for another one.
    pub request: Request,
    /// The head of the response that came last; swap it for another one.
    pub response: Response,
    /// The trailers that came last.
    pub trailers: Fields,
}

/// What the peer must send next at the beginning (RFC 9113 section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Preface,
    Settings,
    Running,
}

impl Connection {
    /// The server's end. Its SETTINGS are written at once.
    pub fn server(config: Config) -> Connection {
        let mut it = Connection::new(Role::Server, config);
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, config.max_streams),
            (setting::INITIAL_WINDOW_SIZE, config.stream_window),
            (setting::MAX_HEADER_LIST_SIZE, u32::try_from(config.heads.bytes).unwrap_or(u32::MAX)),
            (setting::ENABLE_CONNECT_PROTOCOL, 1),
        ];
        it.greet(&settings);
        it
    }

    /// The client's end. The preface and its SETTINGS are written at once.
    pub fn client(config: Config) -> Connection {
        let mut it = Connection::new(Role::Client, config);
        it.out.extend_from_slice(super::receive::PREFACE);
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, config.stream_window),
            (setting::MAX_HEADER_LIST_SIZE, u32::try_from(config.heads.bytes).unwrap_or(u32::MAX)),
        ];
        it.greet(&settings);
        it
    }

    fn greet(&mut self, settings: &[(u16, u32)]) {
        let mut settings = settings.to_vec();
        if self.config.data_frame > LARGEST_FRAME {
            settings.push((setting::MAX_FRAME_SIZE, self.config.data_frame));
        }
        frame::write_settings(&mut self.out, &settings);
        let more = i64::from(self.config.connection_window).min(LARGEST_WINDOW) - FIRST_WINDOW;
        if more > 0 {
            frame::write_window_update(&mut self.out, 0, more as u32);
            self.credit += more;
        }
    }

    fn new(role: Role, config: Config) -> Connection {
        Connection {
            role,
            config,
            peer: Peer { window: FIRST_WINDOW, max_streams: STREAMS_AT_FIRST },
            decoder: Decoder::new(HEADER_TABLE),
            encoder: Encoder::new(),
            streams: Streams::default(),
            open: 0,
            last_stream: 0,
            next_stream: 1,
            send_window: FIRST_WINDOW,
            credit: FIRST_WINDOW,
            grown: 0,
            owed: 0,
            stage: if role == Role::Server { Stage::Preface } else { Stage::Settings },
            acknowledged: false,
            block: None,
            data: None,
            leaving: Leaving::No,
            goaway: None,
            opened: 0,
            reset_lately: VecDeque::new(),
            forgotten: 0,
            useless: 0,
            broken: 0,
            acks: 0,
            pinged: false,
            out: Vec::new(),
            taken: 0,
            request: Request::new(),
            response: Response::new(200),
            trailers: Fields::new(),
        }
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether a body could be sent on some stream, as far as the connection goes.
    pub fn has_room(&self) -> bool {
        self.send_window > 0 && self.out.len() < super::send::ENOUGH
    }

    /// Streams that have not been released.
    pub fn unreleased(&self) -> usize {
        self.streams.len()
    }

    /// Streams of our own that the peer takes at the same time, as far as it has said.
    pub fn most_streams(&self) -> usize {
        self.peer.max_streams as usize
    }

    /// Whether new streams can be opened: neither end has said goodbye, and there are numbers left.
    pub fn takes_streams(&self) -> bool {
        self.goaway.is_none() && self.leaving == Leaving::No && self.next_stream < 1 << 31
    }

    /// Whether the peer's first SETTINGS have come, which say how many streams it takes.
    pub fn is_greeted(&self) -> bool {
        self.stage == Stage::Running
    }

    /// Whether the peer has begun something that it has to finish soon: the preface, its SETTINGS, or a header block.
    pub fn is_awaiting(&self) -> bool {
        self.stage != Stage::Running || self.block.is_some()
    }

    /// Whether a graceful end is complete: the peer knows which streams were taken, and all of them are released.
    pub fn is_finished(&self) -> bool {
        self.leaving == Leaving::Settled && self.streams.len() == 0
    }

    /// Streams that we had to break off because of what the peer sent on them.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// What waits to be sent.
    pub fn pending(&self) -> usize {
        self.out.len()
    }

    /// Takes what waits to be sent, in exchange for an empty buffer.
    pub fn take_pending(&mut self, buffer: &mut Vec<u8>) {
        std::mem::swap(&mut self.out, buffer);
        self.out.clear();
        self.taken += 1;
        self.acks = 0;
    }

    /// Gives memory back while nothing happens.
    pub fn rest(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        self.request = Request::new();
        self.response = Response::new(200);
        self.trailers = Fields::new();
        self.streams.shrink();
        self.reset_lately.shrink_to_fit();
    }

    /// Begins a graceful end: no new streams, those that are open go on (RFC 9113 section 6.8). The server tells twice,
    /// because the client may have opened streams meanwhile.
    pub fn shut_down(&mut self) {
        if self.leaving != Leaving::No {
            return;
        }
        if self.role == Role::Client {
            self.settle();
            return;
        }
        self.leaving = Leaving::Announced;
        frame::write_goaway(&mut self.out, LARGEST_WINDOW as u32, Code::NO_ERROR);
        frame::write_ping(&mut self.out, 0, FAREWELL);
    }

    /// The second half of a graceful end.
    pub(super) fn settle(&mut self) {
        self.leaving = Leaving::Settled;
        frame::write_goaway(&mut self.out, self.last_stream, Code::NO_ERROR);
    }

    /// Ends the connection at once, with a code.
    pub fn give_up(&mut self, code: Code, why: &'static str) -> Fault {
        self.leaving = Leaving::Settled;
        frame::write_goaway(&mut self.out, self.last_stream, code);
        Fault { code, why }
    }

    /// Asks the peer for a sign of life. [`Connection::answered`] tells when it came.
    pub fn ping(&mut self) {
        self.pinged = true;
        frame::write_ping(&mut self.out, 0, ALIVE);
    }

    /// Whether the last [`Connection::ping`] was answered.
    pub fn answered(&self) -> bool {
        !self.pinged
    }

    /// Forgets what was counted against the peer; called about once a second, which makes the bounds rates.
    pub fn forgive(&mut self) {
        self.useless = 0;
    }

    /// Counts a frame that was of no use.
    pub(super) fn count_useless(&mut self) -> Result<(), Fault> {
        self.useless += 1;
        if self.useless > MOST_USELESS {
            return Err(self.give_up(Code::ENHANCE_YOUR_CALM, "there are too many frames without use"));
        }
        Ok(())
    }

    /// Counts an acknowledgement that the peer made us write.
    pub(super) fn count_ack(&mut self) -> Result<(), Fault> {
        self.acks += 1;
        if self.acks > MOST_ACKS {
            return Err(self.give_up(Code::ENHANCE_YOUR_CALM, "acknowledgements are asked for and not read"));
        }
        Ok(())
    }

    /// Keeps count of open streams after `change` was made to one.
    pub(super) fn change(&mut self, key: Key, change: impl FnOnce(&mut Stream)) {
        if let Some(stream) = self.streams.find_mut(key) {
            let was_closed = stream.is_closed();
            change(stream);
            if !was_closed && stream.is_closed() {
                self.open = self.open.saturating_sub(1);
            }
        }
    }

    pub(super) fn remember_reset(&mut self, id: u32) {
        if self.reset_lately.len() >= REMEMBERED
            && let Some(oldest) = self.reset_lately.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.reset_lately.push_back(id);
    }

    /// Whether late frames of a stream without a place in the table are no error.
    pub(super) fn was_reset_lately(&self, id: u32) -> bool {
        id <= self.forgotten || self.reset_lately.contains(&id)
    }

    /// What the peer may send on a new stream. What we announced holds for the peer only once it knows of it (RFC 9113
    /// section 6.5.3).
    pub(super) fn first_credit(&self) -> i64 {
        let announced = i64::from(self.config.stream_window);
        if self.acknowledged { announced } else { announced.max(FIRST_WINDOW) }
    }

    /// The highest number of a stream that the peer has opened. It rises with every one.
    pub fn newest_stream(&self) -> u32 {
        self.last_stream
    }

    /// Notes that the peer has opened a stream, whose number is higher than all before.
    pub(super) fn note_opened(&mut self, id: u32) {
        self.opened = self.opened.checked_shl((id - self.last_stream) / 2).unwrap_or(0) | 1;
        self.last_stream = id;
    }

    /// Whether the client has used this number, which is not higher than its last one, as far as that is remembered.
    pub(super) fn was_opened(&self, id: u32) -> bool {
        self.opened.checked_shr(self.last_stream.saturating_sub(id) / 2).is_none_or(|bits| bits & 1 == 1)
    }
}
