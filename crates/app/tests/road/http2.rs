//! HTTP/2 as no library would speak it: malformed requests do not reach a backend, floods end the connection (RFC 9113).

use crate::stage::frames::{
    CANCEL, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, PREFACE, PROTOCOL_ERROR, Verdict, block, continuation,
    data, frame, get, headers, indexed_literal, literal, reset,
};
use crate::stage::{Ask, Backend, Caller, Down, Framed, Gateway, Setup, Up};

/// The static entry of `:status: 400` (RFC 7541 appendix A).
const STATUS_400: u8 = 0x80 | 12;

async fn stage() -> (Gateway, Backend) {
    let backend = Backend::start(Up::Http1).await;
    (Setup::before(&backend).start().await, backend)
}

/// Whether a verdict refuses a malformed message: a stream error, a connection error, or 400.
fn refuses(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Reset(code) | Verdict::GoAway(code) => *code == PROTOCOL_ERROR,
        Verdict::Response(block) => block.first() == Some(&STATUS_400),
        Verdict::Closed => false,
    }
}

/// Each of these blocks, as a whole request, is refused and not heard of at the backend.
async fn are_refused(blocks: &[(&str, Vec<u8>)]) {
    let (gateway, mut backend) = stage().await;
    let mut wrong = Vec::new();
    for (what, block) in blocks {
        let mut client = Frames::connect(gateway.address).await;
        client.send(&headers(1, END_HEADERS | END_STREAM, block)).await;
        tokio::select! {
            verdict = client.verdict(1) => if !refuses(&verdict) {
                wrong.push(format!("{what}: {verdict:?}"));
            },
            served = backend.next() => wrong.push(format!("{what}: the backend hears {} {}", served.method, served.target)),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(backend.unheard().is_none());
}

#[tokio::test]
async fn fields_that_http1_would_misread_are_malformed() {
    let with = |name: &str, value: &str| get("/", &[(name, value)]);
    are_refused(&[
        ("connection", with("connection", "close")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("keep-alive", with("keep-alive", "timeout=5")),
        ("proxy-connection", with("proxy-connection", "close")),
        ("upgrade", with("upgrade", "websocket")),
        ("te that is not trailers", with("te", "gzip")),
        ("CR in a value", with("x-a", "1\rx-b: 2")),
        ("LF in a value", with("x-a", "1\nx-b: 2")),
        ("CRLF in a value", with("x-a", "1\r\ntransfer-encoding: chunked")),
        ("NUL in a value", with("x-a", "1\0")),
        ("CRLF in a name", with("x-a: 1\r\nx-b", "2")),
        ("a colon in a name", with("x:a", "1")),
        ("a space in a name", with("x a", "1")),
        ("an upper-case name", with("X-A", "1")),
        ("an empty name", with("", "1")),
        ("a length and no body", with("content-length", "5")),
        ("two lengths", get("/", &[("content-length", "0"), ("content-length", "1")])),
        ("a length that is none", with("content-length", "+0")),
        ("another host", with("host", "other.test")),
        ("two hosts", get("/", &[("host", "site.test"), ("host", "site.test")])),
    ])
    .await;
}

#[tokio::test]
async fn pseudo_fields_have_their_form() {
    let of = |method: &str, scheme: &str, authority: &str, path: &str| {
        block(&[(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)])
    };
    are_refused(&[
        ("no method", block(&[(":scheme", "http"), (":authority", "a"), (":path", "/")])),
        ("no scheme", block(&[(":method", "GET"), (":authority", "a"), (":path", "/")])),
        ("no path", block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a")])),
        ("no authority", block(&[(":method", "GET"), (":scheme", "http"), (":path", "/")])),
        ("two paths", get("/", &[(":path", "/hidden")])),
        ("an unknown one", get("/", &[(":evil", "1")])),
        ("that of a response", get("/", &[(":status", "200")])),
        (
            "one after a field",
            block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), ("x", "1"), (":path", "/")]),
        ),
        ("an empty path", of("GET", "http", "a", "")),
        ("a path without a slash", of("GET", "http", "a", "x")),
        ("a whole URL as path", of("GET", "http", "a", "http://b/")),
        ("an asterisk", of("GET", "http", "a", "*")),
        ("a space in the path", of("GET", "http", "a", "/a b")),
        ("CRLF in the path", of("GET", "http", "a", "/ HTTP/1.1\r\nx: y")),
        ("CRLF in the method", of("GET / HTTP/1.1\r\nx: y", "http", "a", "/")),
        ("an empty method", of("", "http", "a", "/")),
        ("userinfo", of("GET", "http", "user@a", "/")),
        ("CRLF in the authority", of("GET", "http", "a\r\nx: y", "/")),
        ("an empty authority", of("GET", "http", "", "/")),
        ("a path as authority", of("GET", "http", "a/b", "/")),
        ("a protocol without CONNECT", get("/", &[(":protocol", "websocket")])),
    ])
    .await;
}

#[tokio::test]
async fn connect_is_not_offered() {
    let (gateway, mut backend) = stage().await;
    let mut client = Frames::connect(gateway.address).await;
    let connect = block(&[(":method", "CONNECT"), (":authority", "site.test:443")]);
    client.send(&headers(1, END_HEADERS, &connect)).await;
    assert!(matches!(client.verdict(1).await, Verdict::Response(_) | Verdict::Reset(_)));
    assert!(backend.unheard().is_none());
}

/// A fragment is either refused or gone.
#[tokio::test]
async fn a_fragment_does_not_reach_a_backend() {
    let (gateway, mut backend) = stage().await;
    let mut client = Frames::connect(gateway.address).await;
    client.send(&headers(1, END_HEADERS | END_STREAM, &get("/a#b", &[]))).await;
    assert!(refuses(&client.verdict(1).await));
    assert!(backend.unheard().is_none());
}

/// A value's surrounding spaces are refused (RFC 9113 section 8.2.1).
#[tokio::test]
async fn edge_spaces_do_not_reach_a_backend() {
    let (gateway, mut backend) = stage().await;
    let mut client = Frames::connect(gateway.address).await;
    client.send(&headers(1, END_HEADERS | END_STREAM, &get("/", &[("x-a", " 1 ")]))).await;
    assert!(refuses(&client.verdict(1).await));
    assert!(backend.unheard().is_none());
}

/// A body that is not as long as it said is not heard to its end.
#[tokio::test]
async fn a_length_must_be_kept() {
    let (gateway, mut backend) = stage().await;
    for body in [&b"abc"[..], b"abcdefgh"] {
        let mut client = Frames::connect(gateway.address).await;
        let mut head = block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]);
        head.extend(literal("content-length", "5"));
        client.send(&headers(1, END_HEADERS, &head)).await;
        let mut served = backend.next().await;
        client.send(&data(1, END_STREAM, body)).await;
        assert!(refuses(&client.verdict(1).await), "{} bytes", body.len());
        assert!(served.try_whole().await.is_err(), "{} bytes", body.len());
    }
}

/// A pseudo-field in trailers makes the message malformed (RFC 9113 section 8.1).
#[tokio::test]
async fn trailers_bring_no_pseudo_fields() {
    let (gateway, mut backend) = stage().await;
    let mut client = Frames::connect(gateway.address).await;
    let head = block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]);
    client.send(&headers(1, END_HEADERS, &head)).await;
    let mut served = backend.next().await;
    client.send(&headers(1, END_HEADERS | END_STREAM, &block(&[(":path", "/hidden"), ("x-sum", "1")]))).await;
    assert!(refuses(&client.verdict(1).await));
    assert!(served.try_whole().await.is_err());
}

/// Whatever stands in trailers, it does not change the request.
#[tokio::test]
async fn trailers_bring_no_framing_and_no_host() {
    let (gateway, mut backend) = stage().await;
    let mut client = Frames::connect(gateway.address).await;
    let head = block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]);
    client.send(&headers(1, END_HEADERS, &head)).await;
    let mut served = backend.next().await;
    let trailers = block(&[
        ("host", "evil.test"),
        ("content-length", "5"),
        ("x-auth-id", "default/admin"),
        ("client-cert", ":MIIB:"),
        ("x-sum", "1"),
    ]);
    client.send(&headers(1, END_HEADERS | END_STREAM, &trailers)).await;
    let whole = served.try_whole().await.expect("the whole body");
    assert_eq!(whole.trailers, crate::stage::owned(&[("x-sum", "1")]));
}

/// Rapid reset (CVE-2023-44487), as fast as the network takes it.
#[tokio::test]
async fn a_burst_of_resets_ends_the_connection() {
    let (gateway, backend) = stage().await;
    let mut client = Frames::connect(gateway.address).await;
    let mut burst = Vec::new();
    for number in 0..2000 {
        let stream = 2 * number + 1;
        burst.extend(headers(stream, END_HEADERS | END_STREAM, &get("/", &[])));
        burst.extend(reset(stream, CANCEL));
    }
    client.send(&burst).await;
    assert_eq!(client.verdict(u32::MAX).await, Verdict::GoAway(ENHANCE_YOUR_CALM));
    assert!(backend.connections() <= 300, "{} connections", backend.connections());
}

/// Rapid reset at a pace at which every request reaches the backend first.
#[tokio::test]
async fn patient_resets_end_the_connection_too() {
    let (gateway, mut backend) = stage().await;
    let mut client = Frames::connect(gateway.address).await;
    let mut heard = 0;
    let verdict = loop {
        let stream = 2 * heard + 1;
        client.send(&headers(stream, END_HEADERS | END_STREAM, &get("/", &[]))).await;
        let mut served = tokio::select! {
            verdict = client.verdict(u32::MAX) => break verdict,
            served = backend.next() => served,
        };
        client.send(&reset(stream, CANCEL)).await;
        served.sees_the_end().await;
        heard += 1;
        assert!(heard < 1000, "every request is still served");
    };
    assert_eq!(verdict, Verdict::GoAway(ENHANCE_YOUR_CALM));
}

/// A proxy in front cancels for its clients, and the others among them would pay for it.
#[tokio::test]
async fn a_proxy_may_cancel_as_often_as_its_clients_do() {
    let mut backend = Backend::start(Up::Http1).await;
    let trusted = "clientAddress: {trustedProxies: [127.0.0.0/8]}";
    let gateway = Setup::before(&backend).policy(trusted).start().await;
    let mut client = Frames::connect(gateway.address).await;
    for number in 0..300 {
        let stream = 2 * number + 1;
        client.send(&headers(stream, END_HEADERS | END_STREAM, &get("/", &[]))).await;
        let mut served = backend.next().await;
        client.send(&reset(stream, CANCEL)).await;
        served.sees_the_end().await;
    }
    client.send(&headers(601, END_HEADERS | END_STREAM, &get("/", &[]))).await;
    backend.next().await.answer(200, "").await;
    assert!(matches!(client.verdict(601).await, Verdict::Response(_)));
}

/// Somebody who changes his mind now and then is no attacker.
#[tokio::test]
async fn a_few_cancelled_calls_are_no_attack() {
    let (gateway, mut backend) = stage().await;
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    for _ in 0..50 {
        let call = caller.ask(Ask::get("/long")).await;
        let mut served = backend.next().await;
        call.cancel();
        served.sees_the_end().await;
    }
    let mut call = caller.ask(Ask::get("/short")).await;
    backend.next().await.answer(200, "fine").await;
    assert_eq!(call.answer().await, (200, "fine".to_owned()));
}

/// MadeYouReset (CVE-2025-8671): the client makes the gateway reset.
#[tokio::test]
async fn resets_that_are_provoked_end_the_connection() {
    let (gateway, _backend) = stage().await;
    let mut client = Frames::connect(gateway.address).await;
    let mut burst = Vec::new();
    for number in 0..2000 {
        let stream = 2 * number + 1;
        burst.extend(headers(stream, END_HEADERS | END_STREAM, &get("/", &[])));
        // Nothing may follow the end of a stream; a window beyond 2^31 is an error of the stream.
        burst.extend(frame(8, 0, stream, &0_u32.to_be_bytes()));
    }
    client.send(&burst).await;
    assert!(matches!(client.verdict(u32::MAX).await, Verdict::GoAway(PROTOCOL_ERROR | ENHANCE_YOUR_CALM)));
}

#[tokio::test]
async fn endless_continuations_end_the_connection() {
    let (gateway, mut backend) = stage().await;
    for fragment in [&b""[..], &literal("x-a", "1")] {
        let mut client = Frames::connect(gateway.address).await;
        client.send(&headers(1, END_STREAM, &get("/", &[]))).await;
        let flood = continuation(1, 0, fragment).repeat(50_000);
        let sending = client.send(&flood);
        sending.await;
        assert!(matches!(client.verdict(1).await, Verdict::GoAway(_) | Verdict::Closed | Verdict::Reset(_)));
    }
    assert!(backend.unheard().is_none());
}

/// A few bytes on the wire that stand for a large head.
#[tokio::test]
async fn a_head_is_bounded_after_decompression() {
    let (gateway, mut backend) = stage().await;
    let mut client = Frames::connect(gateway.address).await;
    let mut head = get("/", &[]);
    head.extend(indexed_literal("x-bomb", &"b".repeat(3500)));
    head.extend([0x80 | 62].repeat(5000));
    client.send(&headers(1, END_HEADERS | END_STREAM, &head)).await;
    // 431, or an error; and nothing that the backend hears of.
    assert_ne!(client.verdict(1).await, Verdict::Closed);
    assert!(backend.unheard().is_none());
}

#[tokio::test]
async fn too_many_fields_are_too_large() {
    let (gateway, mut backend) = stage().await;
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    for name in ["x-a", "cookie"] {
        let mut ask = Ask::get("/");
        for _ in 0..150 {
            ask = ask.with(name, "1");
        }
        let mut call = caller.ask(ask).await;
        call.head().await;
        assert_eq!(call.status, 431, "{name}");
    }
    let mut call = caller.ask(Ask::get("/").with("x-large", &"l".repeat(70_000))).await;
    call.head().await;
    assert_eq!(call.status, 431);
    assert!(backend.unheard().is_none());
    // The connection is not to blame.
    let mut call = caller.ask(Ask::get("/small")).await;
    backend.next().await.answer(200, "fine").await;
    assert_eq!(call.answer().await, (200, "fine".to_owned()));
}

/// Crumbs of a cookie become one field again (RFC 9113 section 8.2.3).
#[tokio::test]
async fn cookies_are_joined_for_http1() {
    let (gateway, mut backend) = stage().await;
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    let mut call = caller.ask(Ask::get("/").with("cookie", "a=1").with("cookie", "b=2")).await;
    let served = backend.next().await;
    assert_eq!(served.field("cookie"), Some("a=1; b=2"));
    served.answer(200, "").await;
    assert_eq!(call.answer().await.0, 200);
}

/// A body that is broken off is a cut for the backend, on every framing.
#[tokio::test]
async fn a_cancelled_upload_is_cut_off_at_the_backend() {
    for up in [Up::Http1, Up::H2c] {
        for framed in [Framed::Length(100), Framed::Open] {
            let mut backend = Backend::start(up).await;
            let gateway = Setup::before(&backend).start().await;
            let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
            let mut call = caller.ask(Ask::post("/", framed)).await;
            call.send(b"the first part").await;
            let mut served = backend.next().await;
            assert_eq!(served.piece().await.expect("reads").expect("a piece"), b"the first part");
            call.cancel();
            assert!(served.try_whole().await.is_err(), "{up:?} {framed:?}");
        }
    }
}

/// Half a head, and silence.
#[tokio::test]
async fn half_a_head_times_out() {
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).policy("timeouts: {head: 400ms, idle: 400ms}").start().await;
    let mut client = Frames::connect(gateway.address).await;
    client.send(&headers(1, END_STREAM, &get("/", &[]))).await;
    assert!(matches!(client.verdict(1).await, Verdict::GoAway(_) | Verdict::Closed));
}

/// Half a frame, and silence.
#[tokio::test]
async fn half_a_frame_times_out() {
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).policy("timeouts: {head: 400ms, idle: 400ms}").start().await;
    let mut client = Frames::connect(gateway.address).await;
    client.send(&headers(1, END_STREAM | END_HEADERS, &get("/", &[]))[..20]).await;
    assert!(matches!(client.verdict(1).await, Verdict::GoAway(_) | Verdict::Closed));
}

/// Frames that ask for an answer, from a client that reads none: the gateway stops listening, it does not collect.
#[tokio::test]
async fn floods_of_control_frames_take_no_memory() {
    let kinds = [
        ("PING", frame(6, 0, 0, &[0; 8])),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("resets", [headers(1, END_HEADERS | END_STREAM, &get("/", &[])), reset(1, CANCEL)].concat()),
    ];
    for (what, one) in kinds {
        let (gateway, backend) = stage().await;
        let _answering = backend.answer_all();
        let mut client = Frames::connect(gateway.address).await;
        let before = gateway.running.resident().expect("a process");
        client.flood(&one, 32 << 20).await;
        let after = gateway.running.resident().expect("a process");
        assert!(after < before + (24 << 20), "{what}: {before} bytes have become {after}");
        // Everybody else is served.
        assert_eq!(Caller::http11(gateway.address).await.get("/").await.0, 200, "{what}");
    }
}

/// However the preface and the frames are cut, the same requests come out.
#[tokio::test]
async fn pauses_change_nothing() {
    let (gateway, mut backend) = stage().await;
    let mut client = Frames::silent(gateway.address).await;
    let request = headers(1, END_HEADERS | END_STREAM, &get("/slow", &[]));
    for byte in [PREFACE, &request].concat() {
        client.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    let served = backend.next().await;
    assert_eq!(served.target, "/slow");
    served.answer(200, "").await;
    assert!(matches!(client.verdict(1).await, Verdict::Response(_)));
}
