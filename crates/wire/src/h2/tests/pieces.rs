//! The same bytes in other packets: the same events, and the same answers.

use super::*;

/// A connection with a bit of everything in it.
fn everything() -> Vec<u8> {
    let long = block(&[("x-a", &"a".repeat(100)), ("x-b", &"b".repeat(100))]);
    let head = [post(&[("content-length", "11")]), long].concat();
    [
        PREFACE.to_vec(),
        settings(&[(frame::setting::INITIAL_WINDOW_SIZE, 1000), (0x99, 1)]),
        frame(kind::SETTINGS, flag::ACK, 0, &[]),
        window_update(0, 5000),
        headers(1, flag::PADDED, &[&[3], &head[..100], &[0; 3]].concat()),
        frame(kind::CONTINUATION, 0, 1, &head[100..101]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, &head[101..]),
        data(1, flag::PADDED, &[&[4], &b"hello"[..], &[0; 4]].concat()),
        frame(kind::PING, 0, 0, b"12345678"),
        data(1, 0, b""),
        headers(3, flag::END_HEADERS, &post(&[])),
        data(1, flag::PADDED, &[7, 0, 0, 0, 0, 0, 0, 0]),
        data(3, 0, b"interleaved"),
        data(1, flag::END_STREAM | flag::PADDED, &[&[2], &b"worlds"[..], &[0; 2]].concat()),
        window_update(3, 9),
        headers(3, flag::END_HEADERS | flag::END_STREAM, &block(&[("x-sum", "1")])),
        headers(5, flag::END_HEADERS | flag::END_STREAM, &block(&[(":method", "GET")])),
        headers(7, flag::END_HEADERS, &post(&[("content-length", "3")])),
        data(7, 0, b"more than three"),
        data(7, flag::END_STREAM, b"late"),
        headers(9, flag::END_HEADERS | flag::END_STREAM, &get()),
        reset(9, Code::CANCEL),
        frame(0x77, 1, 2, b"unknown"),
        goaway(0, Code::NO_ERROR),
    ]
    .concat()
}

fn outcome<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> (Vec<Seen>, Vec<Sent>) {
    let mut end = Connection::server(CONFIG);
    let (mut ahead, mut seen) = (Vec::new(), Vec::new());
    for piece in pieces {
        receive(&mut end, &mut ahead, piece, &mut seen).expect("no fault");
    }
    assert!(ahead.is_empty());
    (seen, sent(&mut end))
}

#[test]
fn what_is_expected_happens() {
    let (seen, answers) = outcome([&everything()[..]].into_iter());
    let data = |stream, bytes: &[u8], end| Seen::Data { stream, bytes: bytes.to_vec(), end };
    let request = |stream, target: &str, end| Seen::Request { stream, target: target.to_owned(), end };
    assert_eq!(
        seen,
        [
            Seen::Room,
            Seen::Room,
            request(1, "/up", false),
            data(1, b"hello", false),
            request(3, "/up", false),
            data(3, b"interleaved", false),
            data(1, b"worlds", true),
            Seen::Room,
            Seen::Trailers { stream: 3, count: 1 },
            Seen::Refused(5),
            request(7, "/up", false),
            Seen::Broken(7),
            request(9, "/", true),
            Seen::Reset(9, Code::CANCEL),
            Seen::GoAway(0, Code::NO_ERROR),
        ]
    );
    let kinds: Vec<u8> = answers.iter().map(|frame| frame.kind).collect();
    let expected = [kind::SETTINGS, kind::WINDOW_UPDATE, kind::SETTINGS, kind::PING, kind::RST_STREAM];
    assert_eq!(kinds, expected);
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    let bytes = everything();
    let expected = outcome([&bytes[..]].into_iter());
    for at in 0..=bytes.len() {
        let (first, second) = bytes.split_at(at);
        assert_eq!(outcome([first, second].into_iter()), expected, "at {at}");
    }
}

#[test]
fn pieces_of_any_size_change_nothing() {
    let bytes = everything();
    let expected = outcome([&bytes[..]].into_iter());
    for size in 1..40 {
        assert_eq!(outcome(bytes.chunks(size)), expected, "by {size}");
    }
}

/// Content is handed over as it comes, not when its frame is whole.
#[test]
fn half_a_frame_of_data_is_data() {
    let mut end = server();
    feed(&mut end, &headers(1, flag::END_HEADERS, &post(&[])));
    let bytes = data(1, flag::END_STREAM, &[7; 1000]);
    let (mut ahead, mut seen) = (Vec::new(), Vec::new());
    receive(&mut end, &mut ahead, &bytes[..109], &mut seen).expect("no fault");
    assert_eq!(seen, [Seen::Data { stream: 1, bytes: vec![7; 100], end: false }]);
    receive(&mut end, &mut ahead, &bytes[109..], &mut seen).expect("no fault");
    assert_eq!(seen, [Seen::Data { stream: 1, bytes: vec![7; 1000], end: true }]);
}

/// A user that lets go in the middle of a frame does not see the rest of it.
#[test]
fn the_rest_of_a_frame_for_a_stream_that_is_gone_is_dropped() {
    for release in [false, true] {
        let mut end = server();
        feed(&mut end, &headers(1, flag::END_HEADERS, &post(&[])));
        let bytes = [data(1, 0, &[7; 1000]), frame(kind::PING, 0, 0, &[0; 8])].concat();
        let (mut ahead, mut seen) = (Vec::new(), Vec::new());
        receive(&mut end, &mut ahead, &bytes[..109], &mut seen).expect("no fault");
        let key = key_of(&end, 1);
        if release {
            end.release(key);
        } else {
            end.reset(key, Code::CANCEL);
        }
        seen.clear();
        receive(&mut end, &mut ahead, &bytes[109..], &mut seen).expect("no fault");
        assert!(seen.is_empty() && ahead.is_empty(), "{seen:?}");
        let kinds: Vec<u8> = sent(&mut end).iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds, [kind::RST_STREAM, kind::PING]);
    }
}
