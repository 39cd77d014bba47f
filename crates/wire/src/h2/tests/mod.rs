//! Tests of the connection: the rules of RFC 9113 one by one, flow control, ends, and a simulation of two ends.

mod ending;
mod flow;
mod pieces;
mod rules;
mod simulation;

use super::frame::{FrameHead, HEAD, flag, kind, write_head};
use super::head::{Connect, HeadLimits, Underscore};
use super::receive::PREFACE;
use super::*;
use crate::h1::Body;
use crate::head::{Request, Response};

const CONFIG: Config = Config {
    stream_window: 65_535,
    growth: Growth::NONE,
    connection_window: 1 << 20,
    data_frame: LARGEST_FRAME,
    max_streams: 10,
    heads: HeadLimits { bytes: 16 * 1024, fields: 50, connect: Connect::Refused, underscore: Underscore::Drop },
};

/// What happened, with everything that is needed to compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Request { stream: u32, target: String, end: bool },
    Refused(u32),
    Response { stream: u32, status: u16, end: bool },
    Data { stream: u32, bytes: Vec<u8>, end: bool },
    Trailers { stream: u32, count: usize },
    Reset(u32, Code),
    Broken(u32),
    Room,
    GoAway(u32, Code),
}

/// A frame that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Sent {
    fn code(&self, at: usize) -> Code {
        Code(frame::number_at(&self.payload, at))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_head(&mut out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
    out
}

fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, block)
}

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_settings(&mut out, entries);
    out
}

fn window_update(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

fn reset(stream: u32, code: Code) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

fn goaway(last: u32, code: Code) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), code.0.to_be_bytes()].concat())
}

/// A block of short literals that no table keeps.
fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in lines {
        out.push(0);
        for string in [name, value] {
            assert!(string.len() < 127);
            out.push(string.len() as u8);
            out.extend_from_slice(string.as_bytes());
        }
    }
    out
}

fn get() -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")])
}

fn post(more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/up")];
    block(&[&usual[..], more].concat())
}

fn ok(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&[(":status", "200")], more].concat())
}

/// Deals with bytes as a driver does: what is not consumed is kept in `ahead` for the next call.
fn receive(end: &mut Connection, ahead: &mut Vec<u8>, bytes: &[u8], seen: &mut Vec<Seen>) -> Result<(), Fault> {
    ahead.extend_from_slice(bytes);
    loop {
        let step = end.receive(ahead)?;
        let quiet = step.consumed == 0 && step.event.is_none();
        if let Some(event) = step.event {
            note(end, ahead, event, seen);
        }
        ahead.drain(..step.consumed);
        if quiet {
            return Ok(());
        }
    }
}

fn note(end: &Connection, input: &[u8], event: Event, seen: &mut Vec<Seen>) {
    let next = match event {
        Event::Request { stream, end: ended, .. } => {
            let target = String::from_utf8_lossy(end.request.target()).into_owned();
            Seen::Request { stream: stream.id(), target, end: ended }
        }
        Event::Refused { stream, .. } => Seen::Refused(stream.id()),
        Event::Response { stream, end: ended, .. } => {
            Seen::Response { stream: stream.id(), status: end.response.status, end: ended }
        }
        Event::Data { stream, range, end: ended } => {
            // However a body comes in pieces, it is the same body.
            if let Some(Seen::Data { stream: last, bytes, end }) = seen.last_mut()
                && *last == stream.id()
                && !*end
            {
                bytes.extend_from_slice(&input[range]);
                *end = ended;
                return;
            }
            Seen::Data { stream: stream.id(), bytes: input[range].to_vec(), end: ended }
        }
        Event::Trailers { stream } => Seen::Trailers { stream: stream.id(), count: end.trailers.len() },
        Event::Reset { stream, code } => Seen::Reset(stream.id(), code),
        Event::Broken { stream, .. } => Seen::Broken(stream.id()),
        Event::Room { .. } => Seen::Room,
        Event::GoAway { last, code } => Seen::GoAway(last, code),
    };
    seen.push(next);
}

/// What these bytes make happen; they are whole frames.
#[track_caller]
fn feed(end: &mut Connection, bytes: &[u8]) -> Vec<Seen> {
    let (mut ahead, mut seen) = (Vec::new(), Vec::new());
    receive(end, &mut ahead, bytes, &mut seen).expect("no fault");
    assert!(ahead.is_empty(), "{} bytes are left", ahead.len());
    seen
}

/// The fault that these bytes are.
#[track_caller]
fn fault(end: &mut Connection, bytes: &[u8]) -> Code {
    receive(end, &mut Vec::new(), bytes, &mut Vec::new()).expect_err("a fault").code
}

/// Takes what the end has written, as frames.
fn sent(end: &mut Connection) -> Vec<Sent> {
    let mut bytes = Vec::new();
    end.take_pending(&mut bytes);
    frames(&bytes)
}

fn frames(bytes: &[u8]) -> Vec<Sent> {
    let mut rest = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let mut frames = Vec::new();
    while let Some(head) = FrameHead::read(rest) {
        let end = HEAD + head.length;
        let payload = rest[HEAD..end].to_vec();
        frames.push(Sent { kind: head.kind, flags: head.flags, stream: head.stream, payload });
        rest = &rest[end..];
    }
    assert!(rest.is_empty());
    frames
}

/// A server whose client has said hello and knows our settings.
fn server_with(config: Config) -> Connection {
    let mut end = Connection::server(config);
    let hello = [PREFACE, &settings(&[]), &frame(kind::SETTINGS, flag::ACK, 0, &[])].concat();
    assert_eq!(feed(&mut end, &hello), [Seen::Room]);
    sent(&mut end);
    end
}

fn server() -> Connection {
    server_with(CONFIG)
}

/// A client whose server has said hello with these settings.
fn client_of(entries: &[(u16, u32)]) -> Connection {
    let mut end = Connection::client(CONFIG);
    let hello = [settings(entries), frame(kind::SETTINGS, flag::ACK, 0, &[])].concat();
    assert_eq!(feed(&mut end, &hello), [Seen::Room]);
    sent(&mut end);
    end
}

fn client() -> Connection {
    client_of(&[])
}

/// Sends a request: GET without a body, anything else with one that follows.
#[track_caller]
fn ask(end: &mut Connection, method: &str) -> Key {
    let request = Request::build(method, "http", "a.test", "/").expect("a request");
    let bodiless = matches!(method, "GET" | "HEAD");
    let body = if bodiless { Body::None } else { Body::Chunked };
    end.send_request(&request, &body, bodiless).expect("room for a stream")
}

/// The key of a stream that the peer has opened.
#[track_caller]
fn key_of(end: &Connection, stream: u32) -> Key {
    end.streams.key_of(stream).expect("an unreleased stream")
}
