//! An HTTP/2 connection, as either end, against a hostile peer and a whimsical user: nothing panics, no frame makes us write
//! more than a few bytes, what is handed over stays within what was granted, and the packets in which bytes come change nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_wire::h1::Body;
use transept_wire::h2::head::{Connect, HeadLimits, Underscore};
use transept_wire::h2::{Code, Config, Connection, Event, Growth, Key, LARGEST_FRAME, Role};
use transept_wire::head::{Fields, Request, Response};

/// What one frame of the peer can make us write: an answer, updates of two windows, a reset or a goodbye.
const MOST_WRITTEN: usize = 64;

/// What happened, without the packets in which it did.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Data(u32, Vec<u8>, bool),
    Other(String),
}

/// One end, and how its bytes are cut.
struct End {
    connection: Connection,
    ahead: Vec<u8>,
    packet: usize,
    seen: Vec<Seen>,
    keys: Vec<Key>,
}

impl End {
    fn new(choice: u8, packet: usize) -> End {
        let config = Config {
            stream_window: if choice & 2 == 0 { 65_535 } else { 300 },
            growth: Growth { largest: if choice & 8 == 0 { 0 } else { 100_000 }, each: 80_000, together: 150_000 },
            connection_window: if choice & 4 == 0 { 1 << 20 } else { 65_535 },
            data_frame: if choice & 1 == 0 { LARGEST_FRAME } else { 1 << 20 },
            max_streams: 8,
            heads: HeadLimits {
                bytes: if choice & 8 == 0 { 4096 } else { 300 },
                fields: 20,
                connect: if choice & 16 == 0 { Connect::Refused } else { Connect::Taken },
                underscore: Underscore::Drop,
            },
        };
        let connection = if choice & 1 == 0 { Connection::server(config) } else { Connection::client(config) };
        End { connection, ahead: Vec::new(), packet, seen: Vec::new(), keys: Vec::new() }
    }

    /// The code when the connection is over.
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Code> {
        for packet in bytes.chunks(self.packet) {
            self.ahead.extend_from_slice(packet);
            loop {
                let before = self.connection.pending();
                let step = self.connection.receive(&self.ahead);
                assert!(self.connection.pending() <= before + MOST_WRITTEN);
                let step = match step {
                    Ok(step) => step,
                    Err(fault) => return Err(fault.code),
                };
                assert!(step.consumed <= self.ahead.len());
                let quiet = step.consumed == 0 && step.event.is_none();
                if let Some(event) = step.event {
                    self.note(event);
                }
                self.ahead.drain(..step.consumed);
                if quiet {
                    break;
                }
            }
            // A frame is at most this large, and DATA are not collected.
            assert!(self.ahead.len() < 9 + 16_384);
        }
        Ok(())
    }

    fn note(&mut self, event: Event) {
        let server = self.connection.role() == Role::Server;
        match event {
            Event::Request { stream, .. } | Event::Refused { stream, .. } => {
                assert!(server && !self.keys.contains(&stream) && self.keys.len() < 16);
                self.keys.push(stream);
            }
            Event::Response { stream, .. } => {
                assert!(!server && self.keys.contains(&stream));
                assert!((100..=999).contains(&self.connection.response.status));
            }
            Event::Data { stream, ref range, end } => {
                assert!(self.keys.contains(&stream) && range.end <= self.ahead.len());
                let bytes = &self.ahead[range.clone()];
                if let Some(Seen::Data(last, before, ended)) = self.seen.last_mut()
                    && *last == stream.id()
                    && !*ended
                {
                    before.extend_from_slice(bytes);
                    *ended = end;
                } else {
                    self.seen.push(Seen::Data(stream.id(), bytes.to_vec(), end));
                }
                return;
            }
            Event::Trailers { stream } | Event::Reset { stream, .. } | Event::Broken { stream, .. } => {
                assert!(self.keys.contains(&stream));
            }
            Event::Room { stream } => assert!(stream.is_none_or(|stream| self.keys.contains(&stream))),
            Event::GoAway { .. } => {}
        }
        self.seen.push(Seen::Other(format!("{event:?}")));
    }

    /// Something that the user does.
    fn act(&mut self, what: u8, which: u8, amount: usize) {
        let Self { connection, keys, .. } = self;
        if what == 0 {
            let request = Request::build(if which & 1 == 0 { "GET" } else { "HEAD" }, "http", "a.test", "/");
            let body = if which & 2 == 0 { Body::None } else { Body::Chunked };
            if let Ok(key) = connection.send_request(&request.expect("a request"), &body, body == Body::None) {
                keys.push(key);
            }
            return;
        }
        match what {
            1 => return connection.ping(),
            2 => return connection.forgive(),
            3 if which == 0 => return connection.shut_down(),
            _ if keys.is_empty() => return,
            _ => {}
        }
        let at = usize::from(which) % keys.len();
        let key = keys[at];
        // Whether the stream still takes it is not known here.
        match what {
            4 => {
                let response = Response::new(if amount & 1 == 0 { 200 } else { 103 });
                let _ = connection.send_response(key, &response, amount & 2 != 0);
            }
            5 => {
                let room = connection.room(key);
                let before = connection.pending();
                let sent = connection.send_data(key, &vec![7; amount]);
                assert_eq!(sent.is_err(), room.is_err());
                let sent = sent.unwrap_or(0);
                assert!(sent <= amount && connection.pending() <= before + sent + 9 * (sent / 16_384 + 1));
            }
            6 => {
                let _ = connection.end(key);
            }
            7 => {
                let mut trailers = Fields::new();
                trailers.push_bytes(b"x-sum", b"1").expect("a field");
                let _ = connection.send_trailers(key, &trailers);
            }
            8 => connection.reset(key, Code::CANCEL),
            9 => {
                connection.release(key);
                keys.swap_remove(at);
            }
            _ => connection.took(key, amount, amount % 2 == 1),
        }
    }
}

// A byte that says what follows, and that: bytes of the peer, a frame in a few bytes, or something the user does.
fuzz_target!(|input: &[u8]| {
    let Some((&choice, mut rest)) = input.split_first() else {
        return;
    };
    // The second end gets the same in other packets.
    let mut ends = [End::new(choice, usize::MAX), End::new(choice, 1 + usize::from(choice >> 5))];
    while let [what, which, size, after @ ..] = rest {
        rest = after;
        let mut bytes = Vec::new();
        match what % 16 {
            0 | 1 => {
                let (raw, after) = rest.split_at(usize::from(*size).min(rest.len()));
                rest = after;
                if what % 16 == 0 {
                    bytes.extend_from_slice(raw);
                } else {
                    // A frame: type and flags in one byte, the stream in another.
                    let payload = raw.get(1..).unwrap_or_default();
                    let flags = raw.first().copied().unwrap_or_default();
                    bytes.extend([0, 0, payload.len() as u8, which & 0xf, flags, 0, 0, 0, which >> 4]);
                    bytes.extend_from_slice(payload);
                }
            }
            2 => bytes.extend(frame_of(*which, usize::from(*size) * 80)),
            3 => {
                let mut taken = [Vec::new(), Vec::new()];
                for (end, taken) in ends.iter_mut().zip(&mut taken) {
                    end.connection.take_pending(taken);
                }
                assert_eq!(taken[0], taken[1]);
            }
            4 => ends.iter_mut().filter(|end| end.connection.unreleased() == 0).for_each(|end| end.connection.rest()),
            what => ends.iter_mut().for_each(|end| end.act(what - 5, *which, usize::from(*size) * 80)),
        }
        let outcomes = ends.each_mut().map(|end| end.receive(&bytes));
        assert_eq!(outcomes[0], outcomes[1]);
        assert_eq!(ends[0].seen, ends[1].seen);
        if outcomes[0].is_err() {
            return;
        }
        assert_eq!(ends[0].ahead, ends[1].ahead);
        for end in &mut ends {
            assert_eq!(end.connection.unreleased(), end.keys.len());
            end.seen.clear();
        }
        // A user that does not hand over what is written, and has more to say, has nobody to blame.
        if ends[0].connection.pending() > 1 << 20 {
            return;
        }
    }
});

/// DATA of some size.
fn frame_of(which: u8, size: usize) -> Vec<u8> {
    let length = (size.min(16_384) as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], 0, which & 0x9, 0, 0, 0, which >> 4];
    frame.resize(9 + size.min(16_384), 1);
    frame
}
