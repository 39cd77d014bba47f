//! How streams and connections end: resets, GOAWAY from both sides, limits that shrink, memory that is given back.

use super::frame::setting;
use super::*;

const GET_WHOLE: u8 = flag::END_HEADERS | flag::END_STREAM;

fn kinds(frames: &[Sent]) -> Vec<(u8, u32)> {
    frames.iter().map(|frame| (frame.kind, frame.stream)).collect()
}

/// The client learns of the end before it is held to it (RFC 9113 section 6.8).
#[test]
fn a_server_says_goodbye_twice() {
    let mut end = server();
    feed(&mut end, &headers(1, GET_WHOLE, &get()));
    end.shut_down();
    end.shut_down();
    let frames = sent(&mut end);
    assert_eq!(kinds(&frames), [(kind::GOAWAY, 0), (kind::PING, 0)]);
    assert_eq!(frame::number_at(&frames[0].payload, 0), (1 << 31) - 1);
    // What was on its way is served.
    assert_eq!(feed(&mut end, &headers(3, GET_WHOLE, &get())).len(), 1);
    assert!(!end.is_finished());
    feed(&mut end, &frame(kind::PING, flag::ACK, 0, &frames[1].payload));
    let frames = sent(&mut end);
    assert_eq!((frame::number_at(&frames[0].payload, 0), frames[0].code(4)), (3, Code::NO_ERROR));
    for stream in [1, 3] {
        assert!(!end.is_finished());
        let key = key_of(&end, stream);
        end.send_response(key, &Response::new(204), true).expect("a response");
        end.release(key);
    }
    assert!(end.is_finished());
}

/// A client that was too late has not broken a rule, and its other streams go on.
#[test]
fn streams_after_the_last_one_are_overlooked() {
    let mut end = server();
    feed(&mut end, &headers(1, GET_WHOLE, &get()));
    end.shut_down();
    let ping = sent(&mut end)[1].payload.clone();
    feed(&mut end, &frame(kind::PING, flag::ACK, 0, &ping));
    sent(&mut end);
    let late = [
        headers(3, flag::END_HEADERS, &post(&[])),
        data(3, 0, b"body"),
        window_update(3, 10),
        headers(3, GET_WHOLE, &block(&[("x-sum", "1")])),
        headers(5, flag::END_HEADERS, &post(&[])),
        reset(5, Code::CANCEL),
    ];
    assert_eq!(feed(&mut end, &late.concat()), []);
    let key = key_of(&end, 1);
    end.send_response(key, &Response::new(204), true).expect("a response");
    assert_eq!(kinds(&sent(&mut end)), [(kind::HEADERS, 1)]);
    end.release(key);
    assert!(end.is_finished());
}

/// Streams that the server has not looked at may be asked for elsewhere; those that it has go on.
#[test]
fn a_goodbye_tells_what_was_not_processed() {
    let mut end = client();
    let keys = [ask(&mut end, "GET"), ask(&mut end, "POST"), ask(&mut end, "POST")];
    sent(&mut end);
    assert_eq!(feed(&mut end, &goaway(3, Code::NO_ERROR)), [Seen::GoAway(3, Code::NO_ERROR)]);
    assert!(!end.takes_streams());
    assert_eq!(end.open, 2);
    let request = Request::build("GET", "http", "a.test", "/").expect("a request");
    assert_eq!(end.send_request(&request, &Body::None, true), Err(Gone));
    assert_eq!(end.send_data(keys[2], b"x"), Err(Gone));
    assert!(end.send_data(keys[1], b"x").is_ok());
    // Whatever the server sends on it all the same is overlooked, and nothing more is said about it.
    sent(&mut end);
    assert_eq!(feed(&mut end, &headers(5, GET_WHOLE, &ok(&[]))), []);
    end.release(keys[2]);
    assert_eq!(feed(&mut end, &headers(5, GET_WHOLE, &ok(&[]))), []);
    assert_eq!(kinds(&sent(&mut end)), []);
    let answered = [Seen::Response { stream: 1, status: 200, end: true }];
    assert_eq!(feed(&mut end, &headers(1, GET_WHOLE, &ok(&[]))), answered);
    // The second one may be lower, never higher.
    assert_eq!(feed(&mut end, &goaway(9, Code::NO_ERROR)), [Seen::GoAway(3, Code::NO_ERROR)]);
    assert_eq!(feed(&mut end, &goaway(1, Code::NO_ERROR)), [Seen::GoAway(1, Code::NO_ERROR)]);
    assert_eq!(end.open, 0);
    end.release(keys[0]);
    end.release(keys[1]);
    assert_eq!(end.unreleased(), 0);
}

#[test]
fn a_client_leaves_at_once() {
    let mut end = client();
    let key = ask(&mut end, "GET");
    sent(&mut end);
    end.shut_down();
    assert_eq!(kinds(&sent(&mut end)), [(kind::GOAWAY, 0)]);
    assert!(!end.takes_streams() && !end.is_finished());
    feed(&mut end, &headers(1, GET_WHOLE, &ok(&[])));
    end.release(key);
    assert!(end.is_finished());
    assert_eq!(kinds(&sent(&mut end)), []);
}

/// MAX_CONCURRENT_STREAMS holds from the moment it comes, also when it is less than what is open.
#[test]
fn the_number_of_streams_may_shrink() {
    let mut end = client_of(&[(setting::MAX_CONCURRENT_STREAMS, 3)]);
    let keys: Vec<Key> = (0..3).map(|_| ask(&mut end, "GET")).collect();
    feed(&mut end, &settings(&[(setting::MAX_CONCURRENT_STREAMS, 1)]));
    let request = Request::build("GET", "http", "a.test", "/").expect("a request");
    for (nth, key) in keys.iter().enumerate() {
        assert_eq!(end.send_request(&request, &Body::None, true), Err(Gone), "{nth}");
        feed(&mut end, &headers(key.id(), GET_WHOLE, &ok(&[])));
        end.release(*key);
    }
    let next = end.send_request(&request, &Body::None, true).expect("room");
    assert_eq!(next.id(), 7);
    assert_eq!(end.open, 1);
}

/// Before the server has said a word there is a usual number, and none when it does not speak of it.
#[test]
fn the_number_of_streams_before_it_is_known() {
    let mut end = Connection::client(CONFIG);
    assert_eq!(end.most_streams(), 100);
    feed(&mut end, &settings(&[]));
    assert_eq!(end.most_streams(), u32::MAX as usize);
    feed(&mut end, &settings(&[(setting::MAX_CONCURRENT_STREAMS, 7)]));
    feed(&mut end, &settings(&[]));
    assert_eq!(end.most_streams(), 7);
}

/// A response may be complete before its request is; what is left of that is not wanted, and no error.
#[test]
fn an_early_answer_ends_the_upload() {
    let mut end = server();
    feed(&mut end, &headers(1, flag::END_HEADERS, &post(&[])));
    let key = key_of(&end, 1);
    end.send_response(key, &Response::new(413), true).expect("a response");
    end.release(key);
    let frames = sent(&mut end);
    assert_eq!(kinds(&frames), [(kind::HEADERS, 1), (kind::RST_STREAM, 1)]);
    assert_eq!(frames[1].code(0), Code::NO_ERROR);
    assert_eq!(feed(&mut end, &data(1, flag::END_STREAM, b"late")), []);
    // On the client's side the answer stays what it was.
    let mut end = client();
    ask(&mut end, "POST");
    let answer = [headers(1, GET_WHOLE, &ok(&[])), reset(1, Code::NO_ERROR)].concat();
    let expected = [Seen::Response { stream: 1, status: 200, end: true }, Seen::Reset(1, Code::NO_ERROR)];
    assert_eq!(feed(&mut end, &answer), expected);
    assert_eq!(end.open, 0);
}

/// Letting go of what is not finished breaks it off, once.
#[test]
fn a_release_breaks_off() {
    let mut end = client();
    let key = ask(&mut end, "POST");
    sent(&mut end);
    end.release(key);
    end.release(key);
    let frames = sent(&mut end);
    assert_eq!((kinds(&frames), frames[0].code(0)), (vec![(kind::RST_STREAM, 1)], Code::CANCEL));
    assert_eq!((end.open, end.unreleased()), (0, 0));
    assert_eq!((end.send_data(key, b"x"), end.end(key)), (Err(Gone), Err(Gone)));
    // What the server had sent by then is overlooked.
    let late = [headers(1, flag::END_HEADERS, &ok(&[])), data(1, flag::END_STREAM, b"late")].concat();
    assert_eq!(feed(&mut end, &late), []);
}

/// What is sent on a stream that we have reset is neither handed over nor kept.
#[test]
fn nothing_comes_on_a_stream_that_is_broken() {
    let mut end = server();
    feed(&mut end, &headers(1, flag::END_HEADERS, &post(&[("content-length", "3")])));
    assert_eq!(feed(&mut end, &data(1, 0, b"1234")), [Seen::Broken(1)]);
    assert_eq!(end.broken(), 1);
    // Its user has not let go of it.
    for _ in 0..100 {
        assert_eq!(feed(&mut end, &data(1, 0, &[0; 10_000])), []);
    }
    assert_eq!(end.broken(), 1);
}

/// Streams that are cancelled count for as long as there is work for them (CVE-2023-44487).
#[test]
fn cancelled_streams_count_until_they_are_released() {
    let mut end = server();
    for nth in 0..20 {
        let stream = 2 * nth + 1;
        assert_eq!(feed(&mut end, &headers(stream, GET_WHOLE, &get())).len(), 1, "{nth}");
        feed(&mut end, &reset(stream, Code::CANCEL));
    }
    assert_eq!((end.open, end.unreleased()), (0, 20));
    assert_eq!(feed(&mut end, &headers(41, GET_WHOLE, &get())), []);
    assert_eq!(kinds(&sent(&mut end)).last(), Some(&(kind::RST_STREAM, 41)));
    let key = key_of(&end, 1);
    end.release(key);
    assert_eq!(feed(&mut end, &headers(43, GET_WHOLE, &get())).len(), 1);
}

/// Late frames of the streams that were reset last are overlooked, of those before too; of others they are not.
#[test]
fn resets_are_remembered() {
    let mut end = server();
    let mut next = 1;
    let mut one = |end: &mut Connection, reset: bool| {
        feed(end, &headers(next, flag::END_HEADERS, &post(&[])));
        let key = key_of(end, next);
        if reset {
            end.reset(key, Code::CANCEL);
        } else {
            feed(end, &data(next, flag::END_STREAM, b"x"));
            end.send_response(key, &Response::new(204), true).expect("a response");
        }
        end.release(key);
        sent(end);
        next += 2;
        next - 2
    };
    let first = one(&mut end, true);
    for _ in 0..300 {
        one(&mut end, true);
    }
    let whole = one(&mut end, false);
    let last = one(&mut end, true);
    for stream in [first, last] {
        assert_eq!(feed(&mut end, &data(stream, 0, b"late")), []);
    }
    assert_eq!(fault(&mut end, &data(whole, 0, b"late")), Code::STREAM_CLOSED);
}

/// 2xx to CONNECT begins a tunnel, whatever length its fields state (RFC 9110 section 9.3.6).
#[test]
fn a_tunnel_has_no_length() {
    let mut end = client();
    ask(&mut end, "CONNECT");
    let bytes = [headers(1, flag::END_HEADERS, &ok(&[("content-length", "0")])), data(1, 0, b"through")].concat();
    let through = Seen::Data { stream: 1, bytes: b"through".to_vec(), end: false };
    assert_eq!(feed(&mut end, &bytes), [Seen::Response { stream: 1, status: 200, end: false }, through]);
}

#[test]
fn a_ping_is_answered_or_not() {
    let mut end = client();
    assert!(end.answered());
    end.ping();
    assert!(!end.answered());
    let ping = sent(&mut end);
    feed(&mut end, &frame(kind::PING, flag::ACK, 0, b"another!"));
    assert!(!end.answered());
    feed(&mut end, &frame(kind::PING, flag::ACK, 0, &ping[0].payload));
    assert!(end.answered());
}

/// Acknowledgements do not collect for somebody who does not read them, and are free for somebody who does.
#[test]
fn acknowledgements_are_bounded() {
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    let mut end = server();
    for _ in 0..20 {
        feed(&mut end, &ping.repeat(500));
        sent(&mut end);
        end.forgive();
    }
    for _ in 0..2 {
        feed(&mut end, &ping.repeat(500));
        end.forgive();
    }
    assert_eq!(fault(&mut end, &ping), Code::ENHANCE_YOUR_CALM);
}

/// A connection at rest keeps the tables of header compression and nothing else.
#[test]
fn rest_gives_memory_back() {
    let mut end = server();
    for nth in 0..9 {
        feed(&mut end, &headers(2 * nth + 1, GET_WHOLE, &get()));
    }
    for nth in 0..9 {
        let key = key_of(&end, 2 * nth + 1);
        end.send_response(key, &Response::new(204), true).expect("a response");
        end.release(key);
    }
    sent(&mut end);
    end.rest();
    assert_eq!(end.out.capacity(), 0);
    // And goes on as if nothing had been.
    assert_eq!(feed(&mut end, &headers(101, GET_WHOLE, &get())).len(), 1);
    let key = key_of(&end, 101);
    assert_eq!(key.slot(), 0);
    end.send_response(key, &Response::new(204), true).expect("a response");
    assert_eq!(kinds(&sent(&mut end)), [(kind::HEADERS, 101)]);
}
