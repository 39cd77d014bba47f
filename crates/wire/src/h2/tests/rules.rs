//! Every rule of RFC 9113 whose breach has a code: what the peer does, and what it is told.

use super::*;

/// How far things have come before the peer breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// A server that has heard nothing.
    Nothing,
    /// A server that has heard the preface.
    Preface,
    /// A server and no stream.
    Running,
    /// Stream 1 sends a body.
    Open,
    /// Stream 1 has sent everything and waits for its answer.
    HalfClosed,
    /// Stream 1 has its answer and its user has not let go.
    Complete,
    /// Stream 1 is over and done.
    Released,
    /// The client has reset stream 1, whose user has not let go.
    Reset,
    /// We have reset stream 1.
    Unwanted,
    /// A client whose server has said nothing.
    ClientStart,
    /// A client with a request on stream 1.
    Asked,
    /// A client that asked with HEAD.
    AskedHead,
    /// A client in the middle of the response on stream 1, whose length is 5.
    Answered,
    /// A client that has the whole response on stream 1.
    AnsweredWhole,
}

/// What the peer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// GOAWAY.
    Connection(Code),
    /// RST_STREAM on this stream.
    Stream(u32, Code),
    /// Nothing of that kind.
    Fine,
}

use At::*;
use Told::{Connection as Goes, Fine, Stream as Breaks};

const END: u8 = flag::END_STREAM;
const WHOLE: u8 = flag::END_HEADERS;
const PADDED: u8 = flag::PADDED;
const PRIORITY: u8 = flag::PRIORITY;
const PROTOCOL: Told = Goes(Code::PROTOCOL_ERROR);
const SIZE: Told = Goes(Code::FRAME_SIZE_ERROR);
const FLOW: Told = Goes(Code::FLOW_CONTROL_ERROR);
const CLOSED: Told = Goes(Code::STREAM_CLOSED);

fn end_at(at: At) -> Connection {
    let mut end = match at {
        Nothing => return Connection::server(CONFIG),
        Preface => {
            let mut end = Connection::server(CONFIG);
            feed(&mut end, PREFACE);
            end
        }
        Running | Open | HalfClosed | Complete | Released | Reset | Unwanted => server(),
        ClientStart => Connection::client(CONFIG),
        Asked | AskedHead | Answered | AnsweredWhole => client(),
    };
    match at {
        Open | Reset | Unwanted => drop(feed(&mut end, &headers(1, WHOLE, &post(&[])))),
        HalfClosed | Complete | Released => drop(feed(&mut end, &headers(1, WHOLE | END, &get()))),
        Asked | Answered | AnsweredWhole => drop(ask(&mut end, "GET")),
        AskedHead => drop(ask(&mut end, "HEAD")),
        _ => {}
    }
    match at {
        Complete | Released => {
            let key = key_of(&end, 1);
            end.send_response(key, &Response::new(204), true).expect("a response");
            if at == Released {
                end.release(key);
            }
        }
        Reset => drop(feed(&mut end, &reset(1, Code::CANCEL))),
        Unwanted => {
            let key = key_of(&end, 1);
            end.reset(key, Code::CANCEL);
        }
        Answered => drop(feed(&mut end, &headers(1, WHOLE, &ok(&[("content-length", "5")])))),
        AnsweredWhole => drop(feed(&mut end, &headers(1, WHOLE | END, &ok(&[])))),
        _ => {}
    }
    sent(&mut end);
    end
}

/// What the peer is told when it sends this in pieces of that size.
fn told(at: At, bytes: &[u8], size: usize) -> (Told, Vec<Seen>) {
    let mut end = end_at(at);
    let (mut ahead, mut seen) = (Vec::new(), Vec::new());
    let mut failed = None;
    for piece in bytes.chunks(size) {
        if let Err(fault) = receive(&mut end, &mut ahead, piece, &mut seen) {
            failed = Some(fault.code);
            break;
        }
    }
    let frames = sent(&mut end);
    let goaway = frames.iter().find(|frame| frame.kind == kind::GOAWAY).map(|frame| frame.code(4));
    assert_eq!(failed, goaway, "a fault is told to the peer");
    let reset = frames.iter().find(|frame| frame.kind == kind::RST_STREAM);
    let told = match (failed, reset) {
        (Some(code), _) => Goes(code),
        (None, Some(frame)) => Breaks(frame.stream, frame.code(0)),
        (None, None) => Fine,
    };
    (told, seen)
}

/// Section, what the peer does, when, with which bytes, and what it is told.
type Rule = (&'static str, &'static str, At, Vec<u8>, Told);

#[track_caller]
fn hold(rules: Vec<Rule>) {
    let mut wrong = Vec::new();
    for (section, what, at, bytes, expected) in rules {
        let (whole, seen) = told(at, &bytes, bytes.len().max(1));
        if whole != expected {
            wrong.push(format!("{section} {what}: {whole:?} instead of {expected:?}"));
        }
        // The packets in which it comes change nothing.
        for size in [1, 2, 3, 7, 10] {
            let (told, again) = told(at, &bytes, size);
            if (told, &again) != (whole, &seen) {
                wrong.push(format!("{section} {what}, by {size}: {told:?} {again:?} instead of {whole:?} {seen:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn beginnings() {
    let hello = [PREFACE, &settings(&[])].concat();
    hold(vec![
        ("3.4", "a preface", Nothing, hello.clone(), Fine),
        ("3.4", "HTTP/1.1", Nothing, b"GET / HTTP/1.1\r\n\r\n".to_vec(), PROTOCOL),
        ("3.4", "a preface with a mistake at its end", Nothing, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX".to_vec(), PROTOCOL),
        ("3.4", "no SETTINGS first", Preface, frame(kind::PING, 0, 0, &[0; 8]), PROTOCOL),
        ("3.4", "an acknowledgement first", Preface, frame(kind::SETTINGS, flag::ACK, 0, &[]), PROTOCOL),
        ("3.4", "a request first", Preface, headers(1, WHOLE | END, &get()), PROTOCOL),
        ("3.4", "an unknown frame first", Preface, frame(0x42, 0, 0, &[]), PROTOCOL),
        ("3.4", "a server that begins with PING", ClientStart, frame(kind::PING, 0, 0, &[0; 8]), PROTOCOL),
        ("3.4", "a server that says GOAWAY first", ClientStart, goaway(0, Code::NO_ERROR), PROTOCOL),
        ("3.4", "a server that speaks HTTP/1.1", ClientStart, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), SIZE),
        ("3.4", "a server's SETTINGS", ClientStart, settings(&[]), Fine),
    ]);
}

#[test]
fn frames_and_their_sizes() {
    let large = vec![0; 16_385];
    hold(vec![
        ("4.1", "an unknown type", Running, frame(0x42, 0xff, 0, b"whatever"), Fine),
        ("4.1", "an unknown type on an idle stream", Running, frame(0xff, 0, 99, &[]), Fine),
        ("4.1", "unknown flags", Running, frame(kind::PING, 0xfe, 0, &[0; 8]), Fine),
        ("4.1", "the reserved bit", Running, frame(kind::PING, 0, 1 << 31, &[0; 8]), Fine),
        ("4.2", "DATA that are too large", Open, data(1, 0, &large), SIZE),
        ("4.2", "HEADERS that are too large", Running, headers(1, WHOLE, &large), SIZE),
        ("4.2", "an unknown type that is too large", Running, frame(0x42, 0, 0, &large), SIZE),
        ("4.2", "DATA of the largest size", Open, data(1, 0, &large[1..]), Fine),
        ("4.3", "a block that cannot be decoded", Running, headers(1, WHOLE, &[0x80]), Goes(Code::COMPRESSION_ERROR)),
        (
            "4.3",
            "a block in CONTINUATION that cannot be decoded",
            Running,
            [headers(1, 0, &get()), frame(kind::CONTINUATION, WHOLE, 1, &[0xff])].concat(),
            Goes(Code::COMPRESSION_ERROR),
        ),
        ("4.3", "the same where nobody looks", Unwanted, headers(1, WHOLE, &[0x80]), Goes(Code::COMPRESSION_ERROR)),
    ]);
}

/// Between HEADERS and their last CONTINUATION nothing may come.
#[test]
fn header_blocks_are_not_interrupted() {
    let begun = headers(1, END, &get()[..20]);
    let then = |next: Vec<u8>| [begun.clone(), next].concat();
    let rest = |flags, stream| frame(kind::CONTINUATION, flags, stream, &get()[20..]);
    let split: Vec<u8> =
        get().chunks(5).map(|piece| frame(kind::CONTINUATION, 0, 1, piece)).collect::<Vec<_>>().concat();
    hold(vec![
        ("6.10", "two parts", Running, then(rest(WHOLE, 1)), Fine),
        (
            "6.10",
            "many parts",
            Running,
            [headers(1, END, &[]), split, frame(kind::CONTINUATION, WHOLE, 1, &[])].concat(),
            Fine,
        ),
        ("6.10", "on another stream", Running, then(rest(WHOLE, 3)), PROTOCOL),
        ("6.10", "on no stream", Running, frame(kind::CONTINUATION, WHOLE, 0, &[]), PROTOCOL),
        ("6.10", "without HEADERS", Running, rest(WHOLE, 1), PROTOCOL),
        ("6.10", "after the last", Running, [then(rest(WHOLE, 1)), rest(WHOLE, 1)].concat(), PROTOCOL),
        ("6.10", "behind DATA", Open, [data(1, 0, b"x"), rest(WHOLE, 1)].concat(), PROTOCOL),
        ("6.2", "other HEADERS", Running, then(headers(3, WHOLE | END, &get())), PROTOCOL),
        ("6.2", "HEADERS again", Running, then(headers(1, WHOLE | END, &get())), PROTOCOL),
        ("6.2", "DATA", Running, then(data(1, 0, b"x")), PROTOCOL),
        ("6.2", "PRIORITY", Running, then(frame(kind::PRIORITY, 0, 1, &[0; 5])), PROTOCOL),
        ("6.2", "RST_STREAM", Running, then(reset(1, Code::CANCEL)), PROTOCOL),
        ("6.2", "SETTINGS", Running, then(settings(&[])), PROTOCOL),
        ("6.2", "PING", Running, then(frame(kind::PING, 0, 0, &[0; 8])), PROTOCOL),
        ("6.2", "GOAWAY", Running, then(goaway(0, Code::NO_ERROR)), PROTOCOL),
        ("6.2", "WINDOW_UPDATE", Running, then(window_update(0, 1)), PROTOCOL),
        ("5.5", "an unknown frame", Running, then(frame(0x42, 0, 0, &[])), PROTOCOL),
        (
            "10.5.1",
            "parts without end",
            Running,
            [headers(1, 0, &[]), frame(kind::CONTINUATION, 0, 1, &[]).repeat(65)].concat(),
            Goes(Code::ENHANCE_YOUR_CALM),
        ),
        (
            "10.5.1",
            "a block without end",
            Running,
            [headers(1, 0, &[]), frame(kind::CONTINUATION, 0, 1, &[0; 16_384]).repeat(5)].concat(),
            Goes(Code::ENHANCE_YOUR_CALM),
        ),
    ]);
}

/// A body may end and a stream be closed in several ways; what comes then is told by the way.
#[test]
fn states_of_streams() {
    let trailers = block(&[("x-sum", "1")]);
    hold(vec![
        ("5.1", "DATA while idle", Running, data(1, END, b"x"), PROTOCOL),
        ("5.1", "RST_STREAM while idle", Running, reset(1, Code::CANCEL), PROTOCOL),
        ("5.1", "WINDOW_UPDATE while idle", Running, window_update(1, 1), PROTOCOL),
        ("5.1", "CONTINUATION while idle", Running, frame(kind::CONTINUATION, WHOLE, 1, &[]), PROTOCOL),
        ("5.1", "PRIORITY while idle", Running, frame(kind::PRIORITY, 0, 7, &[0; 5]), Fine),
        ("5.1", "DATA after the end", HalfClosed, data(1, 0, b"x"), Breaks(1, Code::STREAM_CLOSED)),
        (
            "5.1",
            "HEADERS after the end",
            HalfClosed,
            headers(1, WHOLE | END, &trailers),
            Breaks(1, Code::STREAM_CLOSED),
        ),
        ("5.1", "WINDOW_UPDATE after the end", HalfClosed, window_update(1, 9), Fine),
        ("5.1", "PRIORITY after the end", HalfClosed, frame(kind::PRIORITY, 0, 1, &[0; 5]), Fine),
        ("5.1", "RST_STREAM after the end", HalfClosed, reset(1, Code::CANCEL), Fine),
        ("5.1", "DATA when both have ended", Complete, data(1, 0, b"x"), CLOSED),
        ("5.1", "HEADERS when both have ended", Complete, headers(1, WHOLE | END, &trailers), CLOSED),
        ("5.1", "WINDOW_UPDATE when both have ended", Complete, window_update(1, 9), Fine),
        ("5.1", "RST_STREAM when both have ended", Complete, reset(1, Code::NO_ERROR), Fine),
        ("5.1", "DATA when it is over", Released, data(1, 0, b"x"), CLOSED),
        ("5.1", "HEADERS when it is over", Released, headers(1, WHOLE | END, &get()), CLOSED),
        ("5.1", "WINDOW_UPDATE when it is over", Released, window_update(1, 9), Fine),
        ("5.1", "RST_STREAM when it is over", Released, reset(1, Code::NO_ERROR), Fine),
        ("5.1", "PRIORITY when it is over", Released, frame(kind::PRIORITY, 0, 1, &[0; 5]), Fine),
        ("5.1", "DATA after its RST_STREAM", Reset, data(1, 0, b"x"), CLOSED),
        ("5.1", "HEADERS after its RST_STREAM", Reset, headers(1, WHOLE | END, &trailers), CLOSED),
        ("5.1", "RST_STREAM twice", Reset, reset(1, Code::CANCEL), Fine),
        ("5.1", "DATA after ours", Unwanted, data(1, 0, b"x"), Fine),
        ("5.1", "HEADERS after ours", Unwanted, headers(1, WHOLE | END, &trailers), Fine),
        ("5.1", "WINDOW_UPDATE after ours", Unwanted, window_update(1, 9), Fine),
        ("5.1", "RST_STREAM after ours", Unwanted, reset(1, Code::CANCEL), Fine),
        ("5.1.1", "an even number", Running, headers(2, WHOLE | END, &get()), PROTOCOL),
        (
            "5.1.1",
            "a number that was left out",
            Running,
            [headers(5, WHOLE | END, &get()), headers(3, WHOLE | END, &get())].concat(),
            PROTOCOL,
        ),
        (
            "5.1.1",
            "numbers that are left out",
            Running,
            [headers(5, WHOLE | END, &get()), headers(1001, WHOLE | END, &get())].concat(),
            Fine,
        ),
        ("5.1.1", "the largest number", Running, headers((1 << 31) - 1, WHOLE | END, &get()), Fine),
        (
            "5.1.2",
            "one stream too many",
            Running,
            (0..11).flat_map(|n| headers(2 * n + 1, WHOLE | END, &get())).collect(),
            Breaks(21, Code::REFUSED_STREAM),
        ),
        ("5.1", "a server's DATA on an idle stream", Asked, data(3, 0, b"x"), PROTOCOL),
        ("5.1", "a server's HEADERS on an idle stream", Asked, headers(3, WHOLE, &ok(&[])), PROTOCOL),
        ("5.1", "a server's HEADERS on a stream of its own", Asked, headers(2, WHOLE, &ok(&[])), PROTOCOL),
        ("5.1", "a server's DATA when it is over", AnsweredWhole, data(1, 0, b"x"), CLOSED),
        ("5.1", "a server's HEADERS when it is over", AnsweredWhole, headers(1, WHOLE, &ok(&[])), CLOSED),
    ]);
}

#[test]
fn data_and_headers() {
    let padded = |count: u8, content: &[u8], padding: usize| [&[count], content, &vec![0; padding]].concat();
    let priority = [&[0; 5], &get()[..]].concat();
    hold(vec![
        ("6.1", "DATA on no stream", Open, data(0, 0, b"x"), PROTOCOL),
        ("6.1", "padding", Open, data(1, PADDED, &padded(3, b"x", 3)), Fine),
        ("6.1", "nothing but padding", Open, data(1, PADDED | END, &padded(3, b"", 3)), Fine),
        ("6.1", "padding that fills the frame", Open, data(1, PADDED, &padded(5, b"abcd", 0)), PROTOCOL),
        ("6.1", "padding without a length", Open, data(1, PADDED, &[]).into_iter().chain([0]).collect(), PROTOCOL),
        ("6.2", "HEADERS on no stream", Running, headers(0, WHOLE | END, &get()), PROTOCOL),
        ("6.2", "padding", Running, headers(1, WHOLE | END | PADDED, &padded(4, &get(), 4)), Fine),
        ("6.2", "too much padding", Running, headers(1, WHOLE | PADDED, &padded(200, &get(), 0)), PROTOCOL),
        ("6.2", "padding without a length", Running, headers(1, WHOLE | PADDED, &[]), SIZE),
        ("6.2", "a priority", Running, headers(1, WHOLE | END | PRIORITY, &priority), Fine),
        ("6.2", "half a priority", Running, headers(1, WHOLE | END | PRIORITY, &[0; 4]), SIZE),
        (
            "6.2",
            "padding over a priority",
            Running,
            headers(1, WHOLE | PADDED | PRIORITY, &[6, 0, 0, 0, 0, 0]),
            PROTOCOL,
        ),
        ("6.3", "PRIORITY of no stream", Running, frame(kind::PRIORITY, 0, 0, &[0; 5]), PROTOCOL),
        ("6.3", "PRIORITY of four bytes", Running, frame(kind::PRIORITY, 0, 1, &[0; 4]), SIZE),
        ("6.4", "RST_STREAM of no stream", Running, reset(0, Code::CANCEL), PROTOCOL),
        ("6.4", "RST_STREAM of three bytes", Open, frame(kind::RST_STREAM, 0, 1, &[0; 3]), SIZE),
        ("6.4", "RST_STREAM of five bytes", Open, frame(kind::RST_STREAM, 0, 1, &[0; 5]), SIZE),
        ("6.4", "RST_STREAM with an unknown code", Open, reset(1, Code(0xdead_beef)), Fine),
        ("8.4", "PUSH_PROMISE from a client", Open, frame(kind::PUSH_PROMISE, WHOLE, 1, &[0, 0, 0, 2]), PROTOCOL),
        ("8.4", "PUSH_PROMISE unasked", Asked, frame(kind::PUSH_PROMISE, WHOLE, 1, &[0, 0, 0, 2]), PROTOCOL),
    ]);
}

#[test]
fn control_frames() {
    use frame::setting::*;
    let one = |number, value| settings(&[(number, value)]);
    hold(vec![
        ("6.5", "SETTINGS of a stream", Running, frame(kind::SETTINGS, 0, 1, &[]), PROTOCOL),
        ("6.5", "SETTINGS of five bytes", Running, frame(kind::SETTINGS, 0, 0, &[0; 5]), SIZE),
        ("6.5", "an acknowledgement with a payload", Running, frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]), SIZE),
        ("6.5", "an acknowledgement more", Running, frame(kind::SETTINGS, flag::ACK, 0, &[]), Fine),
        ("6.5.2", "an unknown setting", Running, one(0x4242, u32::MAX), Fine),
        (
            "6.5.2",
            "every allowed value",
            Running,
            settings(&[
                (HEADER_TABLE_SIZE, 0),
                (ENABLE_PUSH, 0),
                (ENABLE_PUSH, 1),
                (MAX_CONCURRENT_STREAMS, 0),
                (INITIAL_WINDOW_SIZE, 0),
                (INITIAL_WINDOW_SIZE, (1 << 31) - 1),
                (MAX_FRAME_SIZE, 16_384),
                (MAX_FRAME_SIZE, (1 << 24) - 1),
                (MAX_HEADER_LIST_SIZE, 0),
                (ENABLE_CONNECT_PROTOCOL, 0),
            ]),
            Fine,
        ),
        ("6.5.2", "ENABLE_PUSH 2", Running, one(ENABLE_PUSH, 2), PROTOCOL),
        ("6.5.2", "a server with ENABLE_PUSH 1", Asked, one(ENABLE_PUSH, 1), PROTOCOL),
        ("6.5.2", "a server with ENABLE_PUSH 0", Asked, one(ENABLE_PUSH, 0), Fine),
        ("6.5.2", "INITIAL_WINDOW_SIZE 2^31", Running, one(INITIAL_WINDOW_SIZE, 1 << 31), FLOW),
        ("6.5.2", "MAX_FRAME_SIZE 16,383", Running, one(MAX_FRAME_SIZE, 16_383), PROTOCOL),
        ("6.5.2", "MAX_FRAME_SIZE 2^24", Running, one(MAX_FRAME_SIZE, 1 << 24), PROTOCOL),
        ("8441 3", "ENABLE_CONNECT_PROTOCOL 2", Asked, one(ENABLE_CONNECT_PROTOCOL, 2), PROTOCOL),
        ("6.7", "PING of a stream", Running, frame(kind::PING, 0, 1, &[0; 8]), PROTOCOL),
        ("6.7", "PING of six bytes", Running, frame(kind::PING, 0, 0, &[0; 6]), SIZE),
        ("6.7", "PING of nine bytes", Running, frame(kind::PING, 0, 0, &[0; 9]), SIZE),
        ("6.7", "an answer to no PING", Running, frame(kind::PING, flag::ACK, 0, &[7; 8]), Fine),
        ("6.8", "GOAWAY of a stream", Running, frame(kind::GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        ("6.8", "GOAWAY of seven bytes", Running, frame(kind::GOAWAY, 0, 0, &[0; 7]), SIZE),
        ("6.8", "GOAWAY with words", Running, frame(kind::GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0good-bye"), Fine),
        ("6.9", "WINDOW_UPDATE of three bytes", Running, frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]), SIZE),
        ("6.9", "WINDOW_UPDATE by 0", Running, window_update(0, 0), PROTOCOL),
        ("6.9", "WINDOW_UPDATE by 0 and the reserved bit", Running, window_update(0, 1 << 31), PROTOCOL),
        ("6.9", "WINDOW_UPDATE by 0 of a stream", HalfClosed, window_update(1, 0), Breaks(1, Code::PROTOCOL_ERROR)),
        ("6.9.1", "a window that is too large", Running, window_update(0, (1 << 31) - 1), FLOW),
        (
            "6.9.1",
            "the window of a stream that is too large",
            HalfClosed,
            window_update(1, (1 << 31) - 1),
            Breaks(1, Code::FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.2",
            "settings that make a window too large",
            HalfClosed,
            [window_update(1, 1), one(INITIAL_WINDOW_SIZE, (1 << 31) - 1)].concat(),
            FLOW,
        ),
        ("6.9.1", "DATA within the window", Open, data(1, 0, &[0; 16_383]).repeat(4), Fine),
        (
            "6.9.1",
            "DATA beyond the window",
            Open,
            data(1, 0, &[0; 16_384]).repeat(4),
            Breaks(1, Code::FLOW_CONTROL_ERROR),
        ),
    ]);
}

#[test]
fn messages() {
    let reset = Breaks(1, Code::PROTOCOL_ERROR);
    let five = |pieces: &[(&[u8], u8)]| {
        let head = headers(1, WHOLE, &post(&[("content-length", "5")]));
        let pieces = pieces.iter().flat_map(|(bytes, flags)| data(1, *flags, bytes));
        head.into_iter().chain(pieces).collect::<Vec<u8>>()
    };
    let trailers = headers(1, WHOLE | END, &block(&[("x-sum", "1")]));
    hold(vec![
        ("8.1", "trailers", Open, trailers.clone(), Fine),
        ("8.1", "trailers that do not end the stream", Open, headers(1, WHOLE, &block(&[("x-sum", "1")])), reset),
        ("8.1", "a pseudo-field in trailers", Open, headers(1, WHOLE | END, &block(&[(":path", "/")])), reset),
        ("8.1.1", "a body of the length", Running, five(&[(b"12", 0), (b"345", END)]), Fine),
        ("8.1.1", "a body of the length, and an empty frame", Running, five(&[(b"12345", 0), (b"", END)]), Fine),
        ("8.1.1", "a body that is too long", Running, five(&[(b"12", 0), (b"3456", 0)]), reset),
        ("8.1.1", "a body that is too short", Running, five(&[(b"1234", END)]), reset),
        ("8.1.1", "no body", Running, five(&[(b"", END)]), reset),
        ("8.1.1", "a body cut short by trailers", Running, [five(&[(b"1234", 0)]), trailers.clone()].concat(), reset),
        ("8.1.1", "a body before trailers", Running, [five(&[(b"12345", 0)]), trailers].concat(), Fine),
        // Malformed requests are answered, so they are no breach of the stream.
        ("8.1.1", "a length and no body", Running, headers(1, WHOLE | END, &post(&[("content-length", "5")])), Fine),
        ("8.3", "a head without a method", Running, headers(1, WHOLE | END, &block(&[(":path", "/")])), Fine),
        ("8.1", "DATA before the response", Asked, data(1, 0, b"x"), reset),
        ("8.1", "an interim response that ends", Asked, headers(1, WHOLE | END, &block(&[(":status", "103")])), reset),
        ("8.6", "101", Asked, headers(1, WHOLE, &block(&[(":status", "101")])), reset),
        ("8.3.2", "no status", Asked, headers(1, WHOLE, &block(&[("x-a", "1")])), reset),
        ("8.3.2", "two heads", Answered, headers(1, WHOLE, &ok(&[])), reset),
        ("8.1.1", "an answer that is too long", Answered, data(1, 0, b"123456"), reset),
        ("8.1.1", "an answer that is too short", Answered, data(1, END, b"1234"), reset),
        ("8.1.1", "an answer of its length", Answered, data(1, END, b"12345"), Fine),
        ("8.1.1", "a length and no answer", Asked, headers(1, WHOLE | END, &ok(&[("content-length", "5")])), reset),
        ("8.1.1", "an answer to HEAD", AskedHead, headers(1, WHOLE | END, &ok(&[("content-length", "5")])), Fine),
        (
            "8.1.1",
            "an answer to HEAD with an empty frame",
            AskedHead,
            [headers(1, WHOLE, &ok(&[("content-length", "5")])), data(1, END, b"")].concat(),
            Fine,
        ),
        (
            "8.1.1",
            "an answer to HEAD with a body",
            AskedHead,
            [headers(1, WHOLE, &ok(&[])), data(1, END, b"x")].concat(),
            reset,
        ),
        (
            "8.1.1",
            "304 with a length",
            Asked,
            headers(1, WHOLE | END, &block(&[(":status", "304"), ("content-length", "5")])),
            Fine,
        ),
        (
            "8.1.1",
            "204 with a body",
            Asked,
            [headers(1, WHOLE, &block(&[(":status", "204")])), data(1, END, b"x")].concat(),
            reset,
        ),
    ]);
}

/// Frames that make work and have no use.
#[test]
fn floods() {
    let calm = Goes(Code::ENHANCE_YOUR_CALM);
    hold(vec![
        ("10.5", "PING", Running, frame(kind::PING, 0, 0, &[0; 8]).repeat(1001), calm),
        ("10.5", "SETTINGS", Running, settings(&[]).repeat(1001), calm),
        ("10.5", "PRIORITY", Running, frame(kind::PRIORITY, 0, 1, &[0; 5]).repeat(1001), calm),
        ("10.5", "unknown frames", Running, frame(0x42, 0, 0, &[]).repeat(1001), calm),
        ("10.5", "empty DATA", Open, data(1, 0, &[]).repeat(1001), calm),
        ("10.5", "GOAWAY", Running, goaway(0, Code::NO_ERROR).repeat(1002), calm),
        ("10.5", "RST_STREAM", Reset, reset(1, Code::CANCEL).repeat(1001), calm),
        (
            "10.5",
            "trailers that nobody wants",
            Unwanted,
            headers(1, WHOLE | END, &block(&[("x", "1")])).repeat(1001),
            calm,
        ),
        (
            "10.5",
            "streams beyond the limit",
            Running,
            (0..1011).flat_map(|n| headers(2 * n + 1, WHOLE | END, &get())).collect(),
            calm,
        ),
    ]);
}
