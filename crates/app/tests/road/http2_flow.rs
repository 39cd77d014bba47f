//! HTTP/2 as a connection that many share: windows, limits of streams, goodbyes and silence (RFC 9113 sections 5 and 6).

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::stage::frames::{END_HEADERS, END_STREAM, Frames, Verdict, block, continuation, data, frame, get, headers};
use crate::stage::{Ask, Backend, Call, Caller, Down, Framed, Gateway, Served, Setup, Up, soon};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const ACK: u8 = 1;

async fn stage(up: Up) -> (Gateway, Backend) {
    let backend = Backend::start(up).await;
    (Setup::before(&backend).start().await, backend)
}

/// A gateway before a backend that the test plays frame by frame.
async fn scripted() -> (Gateway, TcpListener) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    (Setup::of(&[address], Up::H2c).start().await, listener)
}

fn settings(number: u16, value: u32) -> Vec<u8> {
    frame(4, 0, 0, &[&number.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn window_update(stream: u32, more: u32) -> Vec<u8> {
    frame(8, 0, stream, &more.to_be_bytes())
}

fn goaway(last: u32) -> Vec<u8> {
    frame(7, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())
}

fn ok() -> Vec<u8> {
    block(&[(":status", "200")])
}

const INITIAL_WINDOW_SIZE: u16 = 4;

/// One stream of a client whose window is used up; the others go on.
#[tokio::test]
async fn a_stream_without_window_stalls_alone() {
    for up in [Up::Http1, Up::H2c] {
        let (gateway, mut backend) = stage(up).await;
        let mut client = Frames::connect(gateway.address).await;
        client.send(&[settings(INITIAL_WINDOW_SIZE, 1000), window_update(0, 1 << 30)].concat()).await;
        client.send(&headers(1, END_HEADERS | END_STREAM, &get("/stalled", &[]))).await;
        let mut stalled = backend.next().await;
        stalled.begin(200, Framed::Length(100_000), &[]).await;
        stalled.send(&[1; 50_000]).await;
        assert_eq!(client.next(DATA).await.2, [1; 1000], "{up:?}");
        for number in 1..20 {
            let stream = 2 * number + 1;
            let burst = [headers(stream, END_HEADERS | END_STREAM, &get("/", &[])), window_update(stream, 1 << 20)];
            client.send(&burst.concat()).await;
            backend.next().await.answer(200, &"x".repeat(60_000)).await;
            let mut received = 0;
            loop {
                let (flags, of, payload) = client.next(DATA).await;
                assert_eq!(of, stream, "{up:?}");
                received += payload.len();
                if flags & END_STREAM != 0 {
                    break;
                }
            }
            assert_eq!(received, 60_000, "{up:?}");
        }
        // It was not forgotten.
        client.send(&window_update(1, 1 << 20)).await;
        stalled.send(&[1; 50_000]).await;
        let mut received = 1000;
        while received < 100_000 {
            let (_, of, payload) = client.next(DATA).await;
            assert_eq!((of, payload.iter().all(|byte| *byte == 1)), (1, true), "{up:?}");
            received += payload.len();
        }
        assert_eq!(received, 100_000, "{up:?}");
    }
}

/// SETTINGS that take a window back under way: nothing more comes until there is room again (section 6.9.2).
#[tokio::test]
async fn a_window_that_shrinks_is_kept() {
    let (gateway, mut backend) = stage(Up::Http1).await;
    let mut client = Frames::connect(gateway.address).await;
    client.send(&headers(1, END_HEADERS | END_STREAM, &get("/", &[]))).await;
    let mut served = backend.next().await;
    served.begin(200, Framed::Length(20_000), &[]).await;
    served.send(&[1; 10_000]).await;
    let mut received = 0;
    while received < 10_000 {
        received += client.next(DATA).await.2.len();
    }
    // Of the 65,535 that were, 10,000 are used; of these 100 they have been 9,900 too many.
    client.send(&settings(INITIAL_WINDOW_SIZE, 100)).await;
    client.send(&frame(PING, 0, 0, b"are we..")).await;
    client.next(PING).await;
    served.send(&[2; 10_000]).await;
    client.send(&window_update(1, 9_901)).await;
    assert_eq!(client.next(DATA).await.2, [2]);
    client.send(&window_update(1, 9_999)).await;
    assert_eq!(client.next(DATA).await.2, [2; 9_999]);
}

/// A client with large windows that reads nothing is given up, and its backend let go.
#[tokio::test]
async fn a_client_that_never_reads_is_given_up() {
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).policy("timeouts: {streamIdle: 500ms}").start().await;
    let mut backend = backend;
    let mut client = Frames::connect(gateway.address).await;
    let windows = [settings(INITIAL_WINDOW_SIZE, (1 << 31) - 1), window_update(0, 1 << 30)].concat();
    client.send(&[windows, headers(1, END_HEADERS | END_STREAM, &get("/", &[]))].concat()).await;
    let mut served = backend.next().await;
    served.begin(200, Framed::Open, &[]).await;
    let flood = async { while served.try_send(&[0; 65_536]).await.is_ok() {} };
    soon(flood).await;
    client.sees_the_end().await;
}

/// A backend that goes silent under a request is asked, and its request answered by another try or by an error.
#[tokio::test]
async fn a_silent_backend_is_asked_for_a_sign_of_life() {
    let (gateway, listener) = scripted().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut backend = Frames::accept(&listener).await;
    let (_, stream, _) = backend.next(HEADERS).await;
    let (flags, _, payload) = backend.next(PING).await;
    assert_eq!(flags, 0);
    // It was only slow.
    let answer =
        [frame(PING, ACK, 0, &payload), headers(stream, END_HEADERS, &ok()), data(stream, END_STREAM, b"slow")];
    backend.send(&answer.concat()).await;
    assert_eq!(call.answer().await, (200, "slow".to_owned()));
}

/// A server that takes connections and says nothing is no reason to wait for those who have another one.
#[tokio::test]
async fn who_waits_for_a_mute_backend_goes_elsewhere_with_the_first() {
    let mute = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let backend = Backend::start(Up::H2c).await;
    let endpoints = [mute.local_addr().expect("bound"), backend.address];
    let setup = Setup::of(&endpoints, Up::H2c).backend("connectTimeout: 1s");
    let gateway = setup.start().await;
    let answering = backend.answer_all();
    let mut clients = tokio::task::JoinSet::new();
    let first = Caller::connect(&Down::H2c, gateway.address).await;
    for mut caller in (0..20).map(|_| first.beside()) {
        clients.spawn(async move { caller.get("/").await.0 });
    }
    let mut failed = 0;
    while let Some(status) = soon(clients.join_next()).await {
        failed += usize::from(status.expect("answered") != 200);
    }
    // One has sent its request there before anything was said.
    assert!(failed <= 1, "{failed}");
    assert!(answering.heard().len() >= 19);
}

/// A stream that was refused just before its connection ends: the next one is opened elsewhere.
#[tokio::test]
async fn a_refused_stream_on_a_connection_that_ends_is_sent_again() {
    let (gateway, listener) = scripted().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut backend = Frames::accept(&listener).await;
    let answer = |stream| [headers(stream, END_HEADERS, &ok()), data(stream, END_STREAM, b"fine")].concat();
    let (_, stream, _) = backend.next(HEADERS).await;
    backend.send(&answer(stream)).await;
    assert_eq!(call.answer().await.0, 200);
    drop(call);
    let mut call = caller.ask(Ask::post("/", Framed::Not)).await;
    let (_, stream, _) = backend.next(HEADERS).await;
    backend.send(&frame(RST_STREAM, 0, stream, &7_u32.to_be_bytes())).await;
    drop(backend);
    let mut another = Frames::accept(&listener).await;
    let (_, stream, _) = another.next(HEADERS).await;
    another.send(&answer(stream)).await;
    assert_eq!(call.answer().await, (200, "fine".to_owned()));
}

/// A goodbye that leaves requests out: they are sent again, whatever they are, for nobody has looked at them.
#[tokio::test]
async fn what_a_goodbye_leaves_out_is_sent_again() {
    let (gateway, listener) = scripted().await;
    let mut callers = Vec::new();
    for _ in 0..5 {
        callers.push(Caller::http11(gateway.address).await);
    }
    let mut calls: Vec<Call<'_>> = Vec::new();
    let mut callers = callers.iter_mut();
    calls.push(callers.next().expect("one").ask(Ask::post("/0", Framed::Not)).await);
    let mut backend = Frames::accept(&listener).await;
    assert_eq!(backend.next(HEADERS).await.1, 1);
    for (number, caller) in callers.enumerate() {
        calls.push(caller.ask(Ask::post(&format!("/{}", number + 1), Framed::Not)).await);
        backend.next(HEADERS).await;
    }
    // Streams 1 and 3 were looked at, 5 to 9 were not.
    backend.send(&goaway(3)).await;
    let serving = tokio::spawn(async move {
        let answer = |stream| [headers(stream, END_HEADERS, &ok()), data(stream, END_STREAM, b"second")].concat();
        // They may share a connection or not.
        let mut answering = Vec::new();
        for _ in 0..3 {
            let mut again = Frames::accept(&listener).await;
            answering.push(tokio::spawn(async move {
                loop {
                    let (_, stream, _) = again.next(HEADERS).await;
                    again.send(&answer(stream)).await;
                }
            }));
        }
        for one in answering {
            let _ended = one.await;
        }
    });
    for stream in [1, 3] {
        backend.send(&[headers(stream, END_HEADERS, &ok()), data(stream, END_STREAM, b"first")].concat()).await;
    }
    for (number, mut call) in calls.into_iter().enumerate() {
        let expected = if number < 2 { "first" } else { "second" };
        assert_eq!(call.answer().await, (200, expected.to_owned()), "{number}");
    }
    serving.abort();
}

/// Goodbyes in the middle of it all lose no request.
#[tokio::test]
async fn goodbyes_under_load_cost_nothing() {
    let (gateway, backend) = stage(Up::H2c).await;
    let answering = Arc::new(backend.answer_all());
    let mut clients = tokio::task::JoinSet::new();
    let (h2, h1) = (Caller::connect(&Down::H2c, gateway.address).await, Caller::http11(gateway.address).await);
    let more = Caller::http11(gateway.address).await;
    for mut caller in [h2.beside(), h2.beside(), h2.beside(), h1, more] {
        clients.spawn(async move {
            for number in 0..60 {
                let (status, body) = caller.get(&format!("/{number}")).await;
                assert_eq!((status, body), (200, format!("GET /{number}").into_bytes()));
            }
        });
    }
    let goodbyes = tokio::spawn({
        let answering = Arc::clone(&answering);
        async move {
            let mut pace = tokio::time::interval(Duration::from_millis(15));
            loop {
                pace.tick().await;
                answering.say_goodbye();
            }
        }
    });
    while let Some(done) = soon(clients.join_next()).await {
        done.expect("every request is answered");
    }
    goodbyes.abort();
}

/// A backend that takes one stream at a time, and clients that do not wait for each other.
#[tokio::test]
async fn one_stream_at_a_time_is_enough() {
    let backend = Backend::with_streams(Up::H2c, 1).await;
    let gateway = Setup::before(&backend).start().await;
    let _answering = backend.answer_all();
    let first = Caller::connect(&Down::H2c, gateway.address).await;
    let mut clients = tokio::task::JoinSet::new();
    for mut caller in (0..8).map(|_| first.beside()) {
        clients.spawn(async move {
            for number in 0..20 {
                assert_eq!(caller.get(&format!("/{number}")).await.0, 200);
            }
        });
    }
    while let Some(done) = soon(clients.join_next()).await {
        done.expect("every request is answered");
    }
}

/// The same for what cannot be sent twice: bodies that stream, all at once, before the backend has said what it takes.
#[tokio::test]
async fn uploads_do_not_outrun_the_first_settings() {
    for _ in 0..5 {
        let backend = Backend::with_streams(Up::H2c, 1).await;
        let gateway = Setup::before(&backend).start().await;
        let _answering = backend.answer_all();
        let first = Caller::connect(&Down::H2c, gateway.address).await;
        let mut clients = tokio::task::JoinSet::new();
        for mut caller in (0..8).map(|_| first.beside()) {
            clients.spawn(async move {
                let mut call = caller.ask(Ask::post("/", Framed::Open)).await;
                call.send(b"once").await;
                call.end(&[]).await;
                assert_eq!(call.answer().await, (200, "POST /".to_owned()));
            });
        }
        while let Some(done) = soon(clients.join_next()).await {
            done.expect("every upload is answered");
        }
    }
}

/// Heads in many parts, from a client and from a backend.
#[tokio::test]
async fn heads_may_come_in_many_parts() {
    let (gateway, listener) = scripted().await;
    let fields: Vec<(String, String)> = (0..40).map(|n| (format!("x-{n}"), "v".repeat(1000))).collect();
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let in_parts = |stream, flags, whole: &[u8]| {
        let mut parts: Vec<&[u8]> = whole.chunks(1200).collect();
        let (first, last) = (parts.remove(0), parts.pop().expect("several"));
        let mut bytes = headers(stream, flags, first);
        parts.iter().for_each(|part| bytes.extend(continuation(stream, 0, part)));
        bytes.extend(continuation(stream, END_HEADERS, last));
        bytes
    };
    let mut client = Frames::connect(gateway.address).await;
    client.send(&in_parts(1, END_STREAM, &get("/", &fields))).await;
    let mut backend = Frames::accept(&listener).await;
    let (flags, stream, payload) = backend.next(HEADERS).await;
    assert_eq!((flags, payload.len()), (END_STREAM, 16_384));
    let rest = [backend.next(9).await, backend.next(9).await];
    assert_eq!(rest.each_ref().map(|part| part.0), [0, END_HEADERS]);
    assert!(payload.len() + rest[0].2.len() + rest[1].2.len() > 40_000);
    let answer = [&[(":status", "200")], &fields[..]].concat();
    backend.send(&in_parts(stream, END_STREAM, &block(&answer))).await;
    let (flags, _, _) = client.next(HEADERS).await;
    assert_eq!(flags & END_HEADERS, 0);
    while client.next(9).await.0 & END_HEADERS == 0 {}
    // The connections are as good as before.
    client.send(&headers(3, END_HEADERS | END_STREAM, &get("/", &[]))).await;
    let (_, stream, _) = backend.next(HEADERS).await;
    backend.send(&headers(stream, END_HEADERS | END_STREAM, &ok())).await;
    assert!(matches!(client.verdict(3).await, Verdict::Response(_)));
}

/// A body in frames of a byte each, both ways.
#[tokio::test]
async fn many_small_frames_are_one_body() {
    let (gateway, listener) = scripted().await;
    let mut client = Frames::connect(gateway.address).await;
    let head = block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]);
    let bytes: Vec<u8> = (0..5000_u32).map(|n| (n % 251) as u8).collect();
    let frames = |stream| bytes.iter().flat_map(move |byte| data(stream, 0, &[*byte])).collect::<Vec<u8>>();
    client.send(&headers(1, END_HEADERS, &head)).await;
    let mut backend = Frames::accept(&listener).await;
    let (_, stream, _) = backend.next(HEADERS).await;
    client.send(&[frames(1), data(1, END_STREAM, b"")].concat()).await;
    let mut heard = Vec::new();
    loop {
        let (flags, _, payload) = backend.next(DATA).await;
        heard.extend(payload);
        if flags & END_STREAM != 0 {
            break;
        }
    }
    assert!(heard == bytes);
    backend.send(&[headers(stream, END_HEADERS, &ok()), frames(stream), data(stream, END_STREAM, b"")].concat()).await;
    let mut heard = Vec::new();
    loop {
        let (flags, _, payload) = client.next(DATA).await;
        heard.extend(payload);
        if flags & END_STREAM != 0 {
            break;
        }
    }
    assert!(heard == bytes);
}

/// Sends what comes back as it comes.
async fn echo(mut served: Served) {
    served.begin(200, Framed::Open, &[]).await;
    while let Some(piece) = served.piece().await.expect("reads") {
        served.send(&piece).await;
    }
    served.end(&[]).await;
}

/// Large bodies both ways over streams that share their connections.
async fn large_echoes(down: Down) {
    const PIECES: u8 = 64;
    let (gateway, backend) = stage(Up::H2c).await;
    let _answering = backend.answer_with(echo);
    let first = Caller::connect(&down, gateway.address).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..4_u8 {
        let mut caller = match down {
            Down::H2c => first.beside(),
            _ => Caller::connect(&down, gateway.address).await,
        };
        clients.spawn(async move {
            let mut call = caller.ask(Ask::post("/", Framed::Open)).await;
            call.head().await;
            // What is on the way is less than any window, so nobody waits for himself.
            for piece in 0..PIECES {
                let sent = vec![piece ^ number; 65_536];
                call.send(&sent).await;
                let mut heard = 0;
                while heard < sent.len() {
                    let more = call.piece().await.expect("reads").expect("not the end");
                    assert!(more.iter().all(|byte| *byte == piece ^ number), "{number}: {piece}");
                    heard += more.len();
                }
            }
            call.end(&[]).await;
            assert_eq!(call.whole().await.content, b"");
        });
    }
    while let Some(done) = soon(clients.join_next()).await {
        done.expect("all of it comes back");
    }
}

#[tokio::test]
async fn large_echoes_over_http2() {
    large_echoes(Down::H2c).await;
}

#[tokio::test]
async fn large_echoes_from_http1() {
    large_echoes(Down::Http11).await;
}

/// 16 MiB each way at once, four streams of one connection, at whatever speed.
#[tokio::test]
async fn large_bodies_share_a_connection() {
    const SIZE: usize = 4 << 20;
    let (gateway, backend) = stage(Up::H2c).await;
    let _answering = backend.answer_with(|mut served| async move {
        let whole = served.whole().await.content;
        assert_eq!(whole.len(), SIZE);
        served.begin(200, Framed::Length(SIZE), &[]).await;
        served.send(&whole).await;
        served.end(&[]).await;
    });
    let first = Caller::connect(&Down::H2c, gateway.address).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..4_u8 {
        let mut caller = first.beside();
        clients.spawn(async move {
            let mut call = caller.ask(Ask::post("/", Framed::Length(SIZE))).await;
            call.send(&vec![number; SIZE]).await;
            call.end(&[]).await;
            call.head().await;
            let whole = call.whole().await.content;
            assert!(whole.len() == SIZE && whole.iter().all(|byte| *byte == number));
        });
    }
    while let Some(done) = soon(clients.join_next()).await {
        done.expect("all of it comes back");
    }
}

/// One connection from the gateway to a scripted backend, on which one request was answered and so many more are under way, and the client that
/// has sent them; the number of the stream that was answered.
async fn under_way(gateway: &Gateway, listener: &TcpListener, count: u32) -> (Frames, Frames, u32) {
    let mut client = Frames::connect(gateway.address).await;
    let ask = |number: u32| headers(2 * number + 1, END_HEADERS | END_STREAM, &get("/", &[]));
    client.send(&ask(0)).await;
    let mut backend = Frames::accept(listener).await;
    let (_, answered, _) = backend.next(HEADERS).await;
    backend.send(&headers(answered, END_HEADERS | END_STREAM, &ok())).await;
    client.next(HEADERS).await;
    for number in 1..=count {
        client.send(&ask(number)).await;
        backend.next(HEADERS).await;
    }
    (client, backend, answered)
}

/// A connection that ends under many requests is replaced by one.
#[tokio::test]
async fn those_whose_connection_has_ended_share_the_next_one() {
    let (gateway, listener) = scripted().await;
    let (mut client, first, _) = under_way(&gateway, &listener, 20).await;
    drop(first);
    let mut second = Frames::accept(&listener).await;
    for _ in 0..20 {
        let (_, stream, _) = soon(second.next(HEADERS)).await;
        second.send(&headers(stream, END_HEADERS | END_STREAM, &ok())).await;
        client.next(HEADERS).await;
    }
}

/// A connection that takes one request, and says so: the others get one each, because the next that they share may do the same.
#[tokio::test]
async fn who_is_refused_on_the_shared_connection_too_has_one_of_his_own() {
    let (gateway, listener) = scripted().await;
    let (mut client, mut first, answered) = under_way(&gateway, &listener, 3).await;
    first.send(&goaway(answered)).await;
    let mut second = Frames::accept(&listener).await;
    let (_, stream, _) = soon(second.next(HEADERS)).await;
    for _ in 0..2 {
        soon(second.next(HEADERS)).await;
    }
    second.send(&headers(stream, END_HEADERS | END_STREAM, &ok())).await;
    second.send(&goaway(stream)).await;
    client.next(HEADERS).await;
    let mut own = Vec::new();
    for _ in 0..2 {
        let mut one = Frames::accept(&listener).await;
        let (_, stream, _) = soon(one.next(HEADERS)).await;
        one.send(&headers(stream, END_HEADERS | END_STREAM, &ok())).await;
        own.push(one);
        client.next(HEADERS).await;
    }
}

/// Streams are reset before a connection ends: it was stale all the same.
#[tokio::test]
async fn a_reset_before_the_end_of_a_connection_is_no_answer() {
    let (gateway, listener) = scripted().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut first = Frames::accept(&listener).await;
    let (_, stream, _) = first.next(HEADERS).await;
    first.send(&headers(stream, END_HEADERS | END_STREAM, &ok())).await;
    call.head().await;
    assert_eq!(call.status, 200);
    drop(call);
    let mut call = caller.ask(Ask::get("/")).await;
    let (_, stream, _) = first.next(HEADERS).await;
    first.send(&frame(RST_STREAM, 0, stream, &[0; 4])).await;
    drop(first);
    let mut second = Frames::accept(&listener).await;
    let (_, stream, _) = soon(second.next(HEADERS)).await;
    second.send(&headers(stream, END_HEADERS | END_STREAM, &ok())).await;
    call.head().await;
    assert_eq!(call.status, 200);
}

/// An error on a stream was meant, whatever becomes of the connection: nothing is sent twice for it.
#[tokio::test]
async fn a_reset_because_of_an_error_is_the_answer() {
    let (gateway, listener) = scripted().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut first = Frames::accept(&listener).await;
    let (_, stream, _) = first.next(HEADERS).await;
    first.send(&headers(stream, END_HEADERS | END_STREAM, &ok())).await;
    call.head().await;
    drop(call);
    let mut call = caller.ask(Ask::new("DELETE", "/")).await;
    let (_, stream, _) = first.next(HEADERS).await;
    first.send(&[frame(RST_STREAM, 0, stream, &[0, 0, 0, 2]), goaway(stream)].concat()).await;
    call.head().await;
    assert_eq!(call.status, 503);
}

/// Letting go of a response half-way says so to the backend, and costs nobody else anything.
#[tokio::test]
async fn a_client_that_leaves_is_told_to_the_backend() {
    let (gateway, listener) = scripted().await;
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    let mut backend = None;
    for round in 0..20 {
        let call = caller.ask(Ask::get("/")).await;
        if backend.is_none() {
            backend = Some(Frames::accept(&listener).await);
        }
        let backend = backend.as_mut().expect("connected");
        let (_, stream, _) = backend.next(HEADERS).await;
        assert_eq!(stream, 2 * round + 1);
        backend.send(&headers(stream, END_HEADERS, &ok())).await;
        backend.send(&data(stream, 0, &[7; 10_000])).await;
        call.cancel();
        assert_eq!(backend.next(RST_STREAM).await.1, stream);
        // What was on the way by then is no fault.
        backend.send(&data(stream, 0, &[7; 10_000])).await;
    }
}
