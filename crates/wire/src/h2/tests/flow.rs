//! Windows: what may be sent, what is given back, and what happens when they change under way.

use super::frame::setting;
use super::send::ENOUGH;
use super::*;

/// A server with a request on stream 1 that waits for its answer, and the head of the answer sent.
fn answering(window: u32) -> (Connection, Key) {
    let mut end = server();
    feed(&mut end, &settings(&[(setting::INITIAL_WINDOW_SIZE, window)]));
    feed(&mut end, &headers(1, flag::END_HEADERS | flag::END_STREAM, &get()));
    let key = key_of(&end, 1);
    end.send_response(key, &Response::new(200), false).expect("a response");
    sent(&mut end);
    (end, key)
}

/// The content of DATA frames, and whether the last one ends the stream.
fn content(frames: &[Sent]) -> (Vec<u8>, bool) {
    let data: Vec<&Sent> = frames.iter().filter(|frame| frame.kind == kind::DATA).collect();
    let ended = data.last().is_some_and(|frame| frame.flags & flag::END_STREAM != 0);
    (data.iter().flat_map(|frame| frame.payload.clone()).collect(), ended)
}

fn updates(frames: &[Sent], stream: u32) -> u64 {
    let of = frames.iter().filter(|frame| frame.kind == kind::WINDOW_UPDATE && frame.stream == stream);
    of.map(|frame| u64::from(frame::number_at(&frame.payload, 0))).sum()
}

#[test]
fn a_body_waits_for_the_window_of_its_stream() {
    let (mut end, key) = answering(10);
    assert_eq!(end.room(key), Ok(Room::Bytes(10)));
    assert_eq!(end.send_data(key, b"more than ten bytes"), Ok(10));
    assert_eq!(end.room(key), Ok(Room::Stream));
    assert_eq!(end.send_data(key, b"x"), Ok(0));
    assert_eq!(feed(&mut end, &window_update(1, 3)), [Seen::Room]);
    assert_eq!(end.send_data(key, b"tenmore"), Ok(3));
    end.end(key).expect("an end");
    assert_eq!(content(&sent(&mut end)), (b"more than ten".to_vec(), true));
}

#[test]
fn a_body_waits_for_the_window_of_the_connection() {
    let (mut end, key) = answering(1 << 20);
    let mut left = 65_535;
    while left > 0 {
        left -= end.send_data(key, &vec![0; left]).expect("sent");
        sent(&mut end);
    }
    assert_eq!(end.room(key), Ok(Room::Connection));
    assert!(!end.has_room());
    assert_eq!(feed(&mut end, &window_update(0, 1)), [Seen::Room]);
    assert!(end.has_room());
    assert_eq!(end.send_data(key, b"ab"), Ok(1));
}

/// SETTINGS may take back what has been used already (RFC 9113 section 6.9.2).
#[test]
fn a_window_may_become_negative() {
    let (mut end, key) = answering(1000);
    assert_eq!(end.send_data(key, &[0; 600]), Ok(600));
    feed(&mut end, &settings(&[(setting::INITIAL_WINDOW_SIZE, 100)]));
    // 400 were left, 900 were taken away.
    assert_eq!(end.room(key), Ok(Room::Stream));
    feed(&mut end, &window_update(1, 500));
    assert_eq!(end.room(key), Ok(Room::Stream));
    feed(&mut end, &window_update(1, 1));
    assert_eq!(end.room(key), Ok(Room::Bytes(1)));
    feed(&mut end, &settings(&[(setting::INITIAL_WINDOW_SIZE, 1000)]));
    assert_eq!(end.room(key), Ok(Room::Bytes(901)));
}

/// Of several values in one frame the last one holds, for old streams as for new ones.
#[test]
fn the_last_of_several_settings_holds() {
    let (mut end, key) = answering(1000);
    let many: Vec<(u16, u32)> = (0..1000).map(|n| (setting::INITIAL_WINDOW_SIZE, n)).collect();
    feed(&mut end, &settings(&many));
    assert_eq!(end.room(key), Ok(Room::Bytes(999)));
    feed(&mut end, &headers(3, flag::END_HEADERS | flag::END_STREAM, &get()));
    let next = key_of(&end, 3);
    assert_eq!(end.room(next), Ok(Room::Bytes(999)));
}

/// What collects for a peer that does not read is bounded, whatever its windows are.
#[test]
fn data_collect_up_to_a_bound() {
    let (mut end, key) = answering(1 << 30);
    feed(&mut end, &window_update(0, 1 << 30));
    while end.send_data(key, &[0; 100_000]).expect("sent") > 0 {}
    assert_eq!(end.room(key), Ok(Room::Connection));
    assert!((ENOUGH..ENOUGH + 32 * 1024).contains(&end.pending()), "{}", end.pending());
    assert!(!end.has_room());
    sent(&mut end);
    assert!(end.has_room() && matches!(end.room(key), Ok(Room::Bytes(_))));
}

#[test]
fn what_was_taken_is_given_back_in_halves() {
    let mut end = server();
    feed(&mut end, &headers(1, flag::END_HEADERS, &post(&[])));
    let key = key_of(&end, 1);
    let mut given = 0;
    for round in 1..=20 {
        feed(&mut end, &data(1, 0, &[0; 10_000]));
        end.took(key, 10_000, false);
        given += updates(&sent(&mut end), 1);
        // The peer has always more than a part of the window.
        assert!(65_535 + given >= 10_000 * round + 32_767, "{round}: {given}");
        assert!(given <= 10_000 * round);
    }
    assert!(given > 0);
}

/// The window of a stream that is read grows until it is large, and that of one that is read slowly stays as it was.
#[test]
fn a_window_grows_as_it_is_read_and_not_far_where_others_have_grown() {
    let growth = Growth { largest: 8 * 65_536, each: 2 * 65_536, together: 7 * 65_536 };
    let mut end = server_with(Config { stream_window: 65_536, growth, ..CONFIG });
    for id in [1, 3, 5, 7] {
        feed(&mut end, &headers(id, flag::END_HEADERS, &post(&[])));
    }
    let keys = [1, 3, 5, 7].map(|id| key_of(&end, id));
    assert_eq!(window_of(&mut end, keys[0], true), 8 * 65_536);
    assert_eq!(window_of(&mut end, keys[1], true), 3 * 65_536, "all together have no more");
    assert_eq!(window_of(&mut end, keys[2], true), 2 * 65_536, "what each may have");
    assert_eq!(window_of(&mut end, keys[3], false), 65_536, "it is read slowly");
    assert_eq!(end.grown, 7 * 65_536);
    keys.into_iter().for_each(|key| end.release(key));
    assert_eq!(end.grown, 0);
}

/// How much of a stream may lie here when nobody reads any more, after a while in which it was read as it came, or when much of it lay here.
fn window_of(end: &mut Connection, key: Key, is_awaited: bool) -> i64 {
    let mut window = end.streams.find(key).expect("open").credit;
    for _ in 0..200 {
        let size = window.min(16_384);
        feed(end, &data(key.id(), 0, &vec![0; size as usize]));
        end.took(key, size as usize, is_awaited);
        window += updates(&sent(end), key.id()) as i64 - size;
    }
    window + i64::from(end.streams.find(key).expect("open").owed)
}

/// The window of the connection is given back whoever gets the bytes: nobody's stall is everybody's.
#[test]
fn the_connection_is_never_held_up() {
    let mut end = server_with(Config { connection_window: 65_535, ..CONFIG });
    feed(&mut end, &headers(1, flag::END_HEADERS, &post(&[])));
    let key = key_of(&end, 1);
    let mut window: i64 = 65_535;
    for round in 0..200 {
        // Three frames are not taken by anybody, the others are for a stream that is gone.
        if round == 3 {
            end.reset(key, Code::CANCEL);
        }
        if round == 100 {
            end.release(key);
        }
        feed(&mut end, &data(1, 0, &[0; 16_000]));
        window += updates(&sent(&mut end), 0) as i64 - 16_000;
        assert!(window >= 16_384, "{round}: {window}");
    }
}

/// DATA is handed over in the pieces in which it comes, however large its frame is; other frames have to be whole.
#[test]
fn frames_of_data_are_as_large_as_we_say() {
    let config = Config { stream_window: 1 << 20, data_frame: 1 << 20, ..CONFIG };
    let hello = frames(&{
        let mut out = Vec::new();
        Connection::server(config).take_pending(&mut out);
        out
    });
    assert!(hello[0].payload.windows(6).any(|entry| entry == [0, 5, 0, 16, 0, 0]), "{:?}", hello[0]);
    let mut end = server_with(config);
    feed(&mut end, &headers(1, flag::END_HEADERS, &post(&[])));
    let large = data(1, flag::END_STREAM, &[7; 100_000]);
    let received = large.chunks(30_000).flat_map(|piece| feed(&mut end, piece)).collect::<Vec<_>>();
    let bytes = received.iter().map(|seen| match seen {
        Seen::Data { bytes, .. } => bytes.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(bytes.sum::<usize>(), 100_000);
    let fault = |end: &mut Connection, bytes: &[u8]| end.receive(bytes).map_err(|fault| fault.code);
    assert_eq!(fault(&mut end, &headers(3, 0, &[0; 16_385])), Err(Code::FRAME_SIZE_ERROR));
    let mut end = server();
    assert_eq!(fault(&mut end, &data(1, 0, &[0; 16_385])), Err(Code::FRAME_SIZE_ERROR));
}

/// Padding uses the windows, and nobody takes it but we.
#[test]
fn padding_is_given_back() {
    let mut end = server();
    feed(&mut end, &headers(1, flag::END_HEADERS, &post(&[])));
    let key = key_of(&end, 1);
    let mut given = 0;
    for round in 1..=900_u64 {
        // One byte of content, so that it is no flood.
        feed(&mut end, &data(1, flag::PADDED, &[&[250, 1][..], &[0; 250]].concat()));
        end.took(key, 1, false);
        given += updates(&sent(&mut end), 1);
        assert!(65_535 + given > 252 * round, "{round}: {given}");
    }
    // The padding alone would have been more than the window.
    assert!(given > 900 * 251 - 65_535);
}

/// Padding without content gives the window back without anybody's doing.
#[test]
fn padding_alone_does_not_use_a_window_up() {
    let mut end = server();
    feed(&mut end, &headers(1, flag::END_HEADERS, &post(&[])));
    for _ in 0..800 {
        feed(&mut end, &data(1, flag::PADDED, &[&[255][..], &[0; 255]].concat()));
    }
    assert!(updates(&sent(&mut end), 1) > 100_000);
}

/// Until it knows better, the peer goes by the default window.
#[test]
fn a_small_window_holds_once_it_is_acknowledged() {
    let config = Config { stream_window: 1000, ..CONFIG };
    let mut end = Connection::server(config);
    feed(&mut end, &[PREFACE, &settings(&[]), &headers(1, flag::END_HEADERS, &post(&[]))].concat());
    assert_eq!(feed(&mut end, &data(1, 0, &[0; 5000])).len(), 1);
    feed(&mut end, &frame(kind::SETTINGS, flag::ACK, 0, &[]));
    // From now on the window is -4,000, and an empty frame needs none.
    assert_eq!(feed(&mut end, &data(1, 0, &[])), []);
    let key = key_of(&end, 1);
    end.took(key, 5000, false);
    sent(&mut end);
    assert_eq!(feed(&mut end, &data(1, 0, &[0; 1000])).len(), 1);
    assert_eq!(feed(&mut end, &data(1, 0, &[0; 1])), [Seen::Broken(1)]);
    let frames = sent(&mut end);
    assert_eq!((frames[0].kind, frames[0].code(0)), (kind::RST_STREAM, Code::FLOW_CONTROL_ERROR));
}

/// The flag goes onto the last DATA frame while it is still here, and onto an empty one when it is gone.
#[test]
fn the_end_is_part_of_the_last_frame() {
    let (mut end, key) = answering(1000);
    end.send_data(key, b"one").expect("sent");
    end.send_data(key, b"two").expect("sent");
    end.end(key).expect("an end");
    let frames = sent(&mut end);
    assert_eq!(frames.iter().map(|frame| (frame.flags, frame.payload.len())).collect::<Vec<_>>(), [(0, 3), (1, 3)]);

    let (mut end, key) = answering(1000);
    end.send_data(key, b"one").expect("sent");
    sent(&mut end);
    end.end(key).expect("an end");
    let frames = sent(&mut end);
    assert_eq!(frames.iter().map(|frame| (frame.flags, frame.payload.len())).collect::<Vec<_>>(), [(1, 0)]);
    assert_eq!(end.end(key), Err(Gone));
}

/// What other streams write in between, or what has been taken, does not get the flag.
#[test]
fn the_end_finds_its_own_frame() {
    let (mut end, key) = answering(1000);
    feed(&mut end, &headers(3, flag::END_HEADERS | flag::END_STREAM, &get()));
    let other = key_of(&end, 3);
    end.send_response(other, &Response::new(200), false).expect("a response");
    end.send_data(key, b"mine").expect("sent");
    end.send_data(other, b"other").expect("sent");
    feed(&mut end, &frame(kind::PING, 0, 0, &[0; 8]));
    end.end(key).expect("an end");
    let ends: Vec<(u32, u8)> = sent(&mut end)
        .iter()
        .filter(|frame| frame.kind == kind::DATA)
        .map(|frame| (frame.stream, frame.flags))
        .collect();
    assert_eq!(ends, [(1, 1), (3, 0)]);
    // The buffer is a new one, and its first bytes are not ours to change.
    feed(&mut end, &frame(kind::PING, 0, 0, &[0; 8]));
    end.end(other).expect("an end");
    let frames = sent(&mut end);
    assert_eq!(
        frames.iter().map(|frame| (frame.kind, frame.flags)).collect::<Vec<_>>(),
        [(kind::PING, 1), (kind::DATA, 1)]
    );
}

/// What stands in the place of a frame that has been handed over is something else.
#[test]
fn the_end_does_not_go_onto_what_is_not_its_own() {
    let (mut end, key) = answering(1000);
    end.send_data(key, b"first in its buffer").expect("sent");
    sent(&mut end);
    feed(&mut end, &frame(kind::PING, 0, 0, &[0; 8]));
    end.end(key).expect("an end");
    let frames = sent(&mut end);
    assert_eq!(frames.iter().map(|one| (one.kind, one.flags)).collect::<Vec<_>>(), [(kind::PING, 1), (kind::DATA, 1)]);
}

#[test]
fn large_heads_are_continued() {
    let (mut end, _) = answering(1000);
    feed(&mut end, &headers(3, flag::END_HEADERS | flag::END_STREAM, &get()));
    let key = key_of(&end, 3);
    let mut response = Response::new(200);
    for _ in 0..50 {
        response.fields.push_bytes(b"x-large", &[b'l'; 1000]).expect("a field");
    }
    end.send_response(key, &response, true).expect("a response");
    let frames = sent(&mut end);
    let shape: Vec<(u8, u8, usize)> = frames.iter().map(|one| (one.kind, one.flags, one.payload.len())).collect();
    assert_eq!(shape[0], (kind::HEADERS, flag::END_STREAM, 16_384));
    assert_eq!(shape[1], (kind::CONTINUATION, 0, 16_384));
    assert_eq!((shape[3].0, shape[3].1, shape.len()), (kind::CONTINUATION, flag::END_HEADERS, 4));
    // And a client reads it as one.
    let mut asking = client();
    asking.config.heads.bytes = 1 << 20;
    ask(&mut asking, "GET");
    let bytes: Vec<u8> = frames.iter().flat_map(|one| frame(one.kind, one.flags, 1, &one.payload)).collect();
    assert_eq!(feed(&mut asking, &bytes), [Seen::Response { stream: 1, status: 200, end: true }]);
    assert_eq!(asking.response.fields.len(), 50);
}
