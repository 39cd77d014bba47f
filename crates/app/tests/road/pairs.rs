//! Every scene over every pair of protocols: what a client of one version says to a backend of another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use transept_testkit::certificates::{Identity, KeyKind, Usage};

use crate::stage::{Ask, Backend, Call, Caller, Down, Framed, Gateway, Served, Setup, Up, owned};

/// The three of a scene, connected.
struct Pair {
    gateway: Gateway,
    down: Down,
    caller: Caller,
    backend: Backend,
}

async fn pair(down: Down, up: Up) -> Pair {
    let backend = Backend::start(up).await;
    let setup = match &down {
        Down::Http11Tls(identity) | Down::H2Tls(identity) => Setup::before(&backend).tls(identity),
        _ => Setup::before(&backend),
    };
    let gateway = setup.start().await;
    let caller = Caller::connect(&down, gateway.address).await;
    Pair { gateway, down, caller, backend }
}

fn over_tls(down: impl Fn(Arc<Identity>) -> Down) -> Down {
    let identity = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["site.test"]);
    down(Arc::new(identity.expect("a certificate")))
}

macro_rules! over {
    ($scene:ident: $($name:ident $down:expr, $up:ident;)*) => {
        mod $scene {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                super::$scene(pair($down, Up::$up).await).await;
            })*
        }
    };
}

macro_rules! over_every_pair {
    ($($scene:ident)*) => { $(over! { $scene:
        http10_to_http1 Down::Http10, Http1;
        http10_to_h2c Down::Http10, H2c;
        http11_to_http1 Down::Http11, Http1;
        http11_to_h2c Down::Http11, H2c;
        http11_tls_to_http1 over_tls(Down::Http11Tls), Http1;
        http11_tls_to_h2c over_tls(Down::Http11Tls), H2c;
        h2c_to_http1 Down::H2c, Http1;
        h2c_to_h2c Down::H2c, H2c;
        h2_to_http1 over_tls(Down::H2Tls), Http1;
        h2_to_h2c over_tls(Down::H2Tls), H2c;
    })* };
}

/// For what HTTP/1.0 does not know.
macro_rules! over_modern_pairs {
    ($($scene:ident)*) => { $(over! { $scene:
        http11_to_http1 Down::Http11, Http1;
        http11_to_h2c Down::Http11, H2c;
        http11_tls_to_http1 over_tls(Down::Http11Tls), Http1;
        http11_tls_to_h2c over_tls(Down::Http11Tls), H2c;
        h2c_to_http1 Down::H2c, Http1;
        h2c_to_h2c Down::H2c, H2c;
        h2_to_http1 over_tls(Down::H2Tls), Http1;
        h2_to_h2c over_tls(Down::H2Tls), H2c;
    })* };
}

over_every_pair! {
    a_get a_post_with_a_length an_answer_to_head no_content not_modified
    large_bodies_both_ways events_come_one_by_one a_body_of_unknown_length
    an_upload_is_heard_as_it_comes an_answer_before_the_upload_ends
    a_slow_reader_slows_the_backend large_heads_both_ways
}

over_modern_pairs! {
    a_post_of_unknown_length_with_trailers a_call_with_a_status_in_its_trailers
    a_slow_backend_slows_the_client one_connection_for_many_requests
}

async fn a_get(mut pair: Pair) {
    let mut call = pair.caller.ask(Ask::get("/shop?q=1").with("x-a", "1")).await;
    let served = pair.backend.next().await;
    assert_eq!((&*served.method, &*served.target), ("GET", "/shop?q=1"));
    assert_eq!(served.field("x-a"), Some("1"));
    served.answer(200, "hello").await;
    assert_eq!(call.answer().await, (200, "hello".to_owned()));
}

async fn a_post_with_a_length(mut pair: Pair) {
    let mut call = pair.caller.ask(Ask::post("/", Framed::Length(5))).await;
    call.send(b"hello").await;
    call.end(&[]).await;
    let mut served = pair.backend.next().await;
    assert_eq!(served.field("content-length"), Some("5"));
    assert_eq!(served.whole().await.content, b"hello");
    served.answer(201, "made").await;
    assert_eq!(call.answer().await, (201, "made".to_owned()));
}

async fn an_answer_to_head(mut pair: Pair) {
    let mut call = pair.caller.ask(Ask::new("HEAD", "/")).await;
    let mut served = pair.backend.next().await;
    served.begin(200, Framed::Not, &[("content-length", "5")]).await;
    served.end(&[]).await;
    assert_eq!(call.answer().await, (200, String::new()));
    assert_eq!(call.field("content-length"), Some("5"));
    next_is_served(pair).await;
}

async fn no_content(mut pair: Pair) {
    let mut call = pair.caller.ask(Ask::new("DELETE", "/it")).await;
    let mut served = pair.backend.next().await;
    served.begin(204, Framed::Not, &[]).await;
    served.end(&[]).await;
    assert_eq!(call.answer().await, (204, String::new()));
    assert_eq!(call.field("content-length"), None);
    assert_eq!(call.field("transfer-encoding"), None);
    next_is_served(pair).await;
}

async fn not_modified(mut pair: Pair) {
    let mut call = pair.caller.ask(Ask::get("/").with("if-none-match", "\"1\"")).await;
    let mut served = pair.backend.next().await;
    served.begin(304, Framed::Not, &[("etag", "\"1\""), ("content-length", "500")]).await;
    served.end(&[]).await;
    assert_eq!(call.answer().await, (304, String::new()));
    assert_eq!(call.field("etag"), Some("\"1\""));
    next_is_served(pair).await;
}

/// The connections are still good: another request goes the same way.
async fn next_is_served(mut pair: Pair) {
    if let Down::Http10 = pair.down {
        pair.caller = Caller::connect(&pair.down, pair.gateway.address).await;
    }
    let mut call = pair.caller.ask(Ask::get("/next")).await;
    pair.backend.next().await.answer(200, "next").await;
    assert_eq!(call.answer().await, (200, "next".to_owned()));
    assert_eq!(pair.backend.connections(), 1);
}

async fn large_bodies_both_ways(mut pair: Pair) {
    let upload: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let download: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 241) as u8).collect();
    let mut call = pair.caller.ask(Ask::post("/", Framed::Length(upload.len()))).await;
    let client = async {
        call.send(&upload).await;
        call.end(&[]).await;
        call.head().await;
        assert!(call.whole().await.content == download);
    };
    let backend = async {
        let mut served = pair.backend.next().await;
        assert!(served.whole().await.content == upload);
        served.begin(200, Framed::Length(download.len()), &[]).await;
        served.send(&download).await;
        served.end(&[]).await;
    };
    tokio::join!(client, backend);
}

async fn large_heads_both_ways(mut pair: Pair) {
    let (up, down) = ("u".repeat(40_000), "d".repeat(40_000));
    let mut call = pair.caller.ask(Ask::get("/").with("x-large", &up)).await;
    let mut served = pair.backend.next().await;
    assert!(served.field("x-large") == Some(&up));
    served.begin(200, Framed::Length(0), &[("x-large", &down)]).await;
    served.end(&[]).await;
    call.head().await;
    assert!(call.field("x-large") == Some(&down));
}

async fn events_come_one_by_one(mut pair: Pair) {
    let mut call = pair.caller.ask(Ask::get("/events")).await;
    let mut served = pair.backend.next().await;
    let kind = [("content-type", "text/event-stream")];
    served.begin(200, Framed::Open, &kind).await;
    call.head().await;
    for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
        served.send(event.as_bytes()).await;
        let heard = call.piece().await.expect("reads").expect("an event");
        assert_eq!(String::from_utf8_lossy(&heard), event);
    }
    served.end(&[]).await;
    assert_eq!(call.whole().await.content, b"");
}

async fn a_body_of_unknown_length(mut pair: Pair) {
    let mut call = pair.caller.ask(Ask::get("/")).await;
    let mut served = pair.backend.next().await;
    served.begin(200, Framed::Close, &[]).await;
    served.send(b"until the end").await;
    served.end(&[]).await;
    assert_eq!(call.answer().await, (200, "until the end".to_owned()));
}

async fn an_upload_is_heard_as_it_comes(mut pair: Pair) {
    let mut call = pair.caller.ask(Ask::post("/", Framed::Length(6))).await;
    let mut served = pair.backend.next().await;
    for piece in [b"one", b"two"] {
        call.send(piece).await;
        assert_eq!(heard(&mut served, 3).await, piece);
    }
    call.end(&[]).await;
    assert_eq!(served.whole().await.content, b"");
    served.answer(200, "").await;
    assert_eq!(call.answer().await.0, 200);
}

async fn heard(served: &mut Served, count: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < count {
        heard.extend(served.piece().await.expect("reads").expect("more"));
    }
    heard
}

async fn an_answer_before_the_upload_ends(mut pair: Pair) {
    let mut call = pair.caller.ask(Ask::post("/", Framed::Length(100_000))).await;
    call.send(b"the first of many").await;
    let served = pair.backend.next().await;
    served.answer(413, "too much").await;
    assert_eq!(call.answer().await, (413, "too much".to_owned()));
    drop(call);
    // What was left of the body is nobody's request, and the backend's connection is not used again with it.
    let mut caller = Caller::connect(&pair.down, pair.gateway.address).await;
    let mut call = caller.ask(Ask::get("/next")).await;
    let served = pair.backend.next().await;
    assert_eq!(served.target, "/next");
    served.answer(200, "next").await;
    assert_eq!(call.answer().await, (200, "next".to_owned()));
}

async fn a_post_of_unknown_length_with_trailers(mut pair: Pair) {
    let ask = Ask::post("/", Framed::Open).with("te", "trailers").with("trailer", "x-sum");
    let mut call = pair.caller.ask(ask).await;
    call.send(b"hello ").await;
    call.send(b"world").await;
    call.end(&[("x-sum", "11")]).await;
    let mut served = pair.backend.next().await;
    let whole = served.whole().await;
    assert_eq!(whole.content, b"hello world");
    assert_eq!(whole.trailers, owned(&[("x-sum", "11")]));
    served.begin(200, Framed::Open, &[("trailer", "x-took")]).await;
    served.send(b"done").await;
    served.end(&[("x-took", "3ms")]).await;
    call.head().await;
    let whole = call.whole().await;
    assert_eq!(whole.content, b"done");
    assert_eq!(whole.trailers, owned(&[("x-took", "3ms")]));
}

async fn a_call_with_a_status_in_its_trailers(mut pair: Pair) {
    let ask = Ask::post("/shop.Cart/Add", Framed::Open).with("content-type", "application/grpc").with("te", "trailers");
    let mut call = pair.caller.ask(ask).await;
    call.send(b"\0\0\0\0\x01x").await;
    let mut served = pair.backend.next().await;
    assert_eq!(served.field("te"), Some("trailers"));
    assert_eq!(heard(&mut served, 6).await, b"\0\0\0\0\x01x");
    let kind = [("content-type", "application/grpc")];
    served.begin(200, Framed::Open, &kind).await;
    served.send(b"\0\0\0\0\x01y").await;
    call.head().await;
    assert_eq!(call.piece().await.expect("reads").expect("a message"), b"\0\0\0\0\x01y");
    call.end(&[]).await;
    assert_eq!(served.whole().await.content, b"");
    let status = [("grpc-status", "5"), ("grpc-message", "no such cart")];
    served.end(&status).await;
    assert_eq!(call.whole().await.trailers, owned(&status));
}

async fn one_connection_for_many_requests(mut pair: Pair) {
    for number in 0..5 {
        let target = format!("/{number}");
        let mut call = pair.caller.ask(Ask::get(&target)).await;
        let served = pair.backend.next().await;
        assert_eq!(served.target, target);
        served.answer(200, &target).await;
        assert_eq!(call.answer().await, (200, target));
    }
    assert_eq!(pair.backend.connections(), 1);
}

/// More than the buffers of four sockets and of the gateway may hold.
const FLOOD: usize = 48 << 20;
const MOST_UNDER_WAY: usize = 24 << 20;

async fn a_slow_reader_slows_the_backend(mut pair: Pair) {
    let mut call = pair.caller.ask(Ask::get("/flood")).await;
    let mut served = pair.backend.next().await;
    served.begin(200, Framed::Length(FLOOD), &[]).await;
    call.head().await;
    let sent = AtomicUsize::new(0);
    let backend = async {
        let piece = vec![7; 64 << 10];
        while sent.load(Ordering::SeqCst) < FLOOD {
            served.send(&piece).await;
            sent.fetch_add(piece.len(), Ordering::SeqCst);
        }
        served.end(&[]).await;
    };
    let client = async {
        stalled(&sent).await;
        let under_way = sent.load(Ordering::SeqCst);
        assert!(under_way < MOST_UNDER_WAY, "{under_way} bytes are buffered");
        count(&mut call).await
    };
    let ((), received) = tokio::join!(backend, client);
    assert_eq!(received, FLOOD);
}

async fn count(call: &mut Call<'_>) -> usize {
    let mut received = 0;
    while let Some(piece) = call.piece().await.expect("reads") {
        received += piece.len();
    }
    received
}

async fn a_slow_backend_slows_the_client(mut pair: Pair) {
    let mut call = pair.caller.ask(Ask::post("/flood", Framed::Length(FLOOD))).await;
    let mut served = pair.backend.next().await;
    let sent = AtomicUsize::new(0);
    let client = async {
        let piece = vec![7; 64 << 10];
        while sent.load(Ordering::SeqCst) < FLOOD {
            call.send(&piece).await;
            sent.fetch_add(piece.len(), Ordering::SeqCst);
        }
        call.end(&[]).await;
        call.answer().await
    };
    let backend = async {
        stalled(&sent).await;
        let under_way = sent.load(Ordering::SeqCst);
        assert!(under_way < MOST_UNDER_WAY, "{under_way} bytes are buffered");
        let mut received = 0;
        while let Some(piece) = served.piece().await.expect("reads") {
            received += piece.len();
        }
        served.answer(200, &received.to_string()).await;
    };
    let (answer, ()) = tokio::join!(client, backend);
    assert_eq!(answer, (200, FLOOD.to_string()));
}

/// Waits until the sender makes no progress. A hasty verdict only makes the test weaker, never wrong.
async fn stalled(sent: &AtomicUsize) {
    let mut before = usize::MAX;
    while before != sent.load(Ordering::SeqCst) {
        before = sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
