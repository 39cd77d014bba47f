//! Limits of a listener: each has a default, each can be set, each breach has its status.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::raw::{statuses, to_the_end};
use crate::stage::{Ask, Backend, Caller, Down, Framed, Gateway, Setup, Up, soon};

/// A gateway with this policy on its listener.
async fn stage(policy: &str) -> (Gateway, Backend) {
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).policy(policy).start().await;
    (gateway, backend)
}

/// Just this status, and the backend has heard nothing.
async fn is_refused(policy: &str, status: u16, request: String) {
    let (gateway, mut backend) = stage(policy).await;
    let answer = to_the_end(gateway.address, &request).await;
    assert_eq!(statuses(&answer), [status], "{policy}");
    assert!(backend.unheard().is_none());
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[tokio::test]
async fn heads_are_bounded_by_default() {
    let none = "limits: {}";
    is_refused(none, 414, get(&format!("/{}", "a".repeat(8192)), "")).await;
    is_refused(none, 431, get("/", &format!("X-A: {}\r\n", "a".repeat(65_536)))).await;
    is_refused(none, 431, get("/", &"X-A: 1\r\n".repeat(101))).await;
}

#[tokio::test]
async fn heads_are_bounded_as_configured() {
    is_refused("limits: {requestLineBytes: 300}", 414, get(&format!("/{}", "a".repeat(300)), "")).await;
    is_refused("limits: {headerBytes: 8192}", 431, get("/", &format!("X-A: {}\r\n", "a".repeat(8192)))).await;
    is_refused("limits: {headerCount: 5}", 431, get("/", &"X-A: 1\r\n".repeat(5))).await;
}

/// A line without an end is refused at the limit, not at its end.
#[tokio::test]
async fn endless_heads_are_refused_early() {
    is_refused("limits: {}", 414, format!("GET /{}", "a".repeat(20_000))).await;
    is_refused("limits: {}", 431, format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}", "a".repeat(100_000))).await;
    is_refused("limits: {}", 501, "A".repeat(20_000)).await;
}

#[tokio::test]
async fn bodies_are_bounded_when_configured() {
    for (down, framed) in [
        (Down::Http11, Framed::Length(20)),
        (Down::Http11, Framed::Open),
        (Down::H2c, Framed::Length(20)),
        (Down::H2c, Framed::Open),
    ] {
        for method in ["POST", "PUT"] {
            let (gateway, mut backend) = stage("limits: {bodyBytes: 10}").await;
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(Ask::new(method, "/").framed(framed)).await;
            // The refusal may come before all is said.
            let _early = call.try_send(b"0123456789abcdefghij").await;
            call.head().await;
            assert_eq!(call.status, 413, "{down:?} {framed:?}");
            if let Some(mut served) = backend.unheard() {
                assert!(served.try_whole().await.is_err(), "{down:?} {framed:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_slow_head_times_out() {
    let (gateway, mut backend) = stage("timeouts: {head: 400ms}").await;
    let answer = to_the_end(gateway.address, "GET / HTTP/1.1\r\nHost: a\r\n").await;
    assert_eq!(statuses(&answer), [408]);
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert!(backend.unheard().is_none());
}

/// One byte now and then does not buy more time.
#[tokio::test]
async fn a_dripping_head_times_out() {
    let (gateway, _backend) = stage("timeouts: {head: 400ms}").await;
    let mut tcp = TcpStream::connect(gateway.address).await.expect("connected");
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ").await.expect("sent");
    let (mut reading, mut writing) = tcp.split();
    let dripping = async {
        while writing.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::future::pending().await
    };
    let mut answer = [0; 12];
    let read = tokio::select! {
        read = soon(reading.read_exact(&mut answer)) => read,
        () = dripping => unreachable!("it drips for ever"),
    };
    read.expect("an answer");
    assert_eq!(answer, *b"HTTP/1.1 408");
}

#[tokio::test]
async fn half_a_preface_times_out() {
    let (gateway, _backend) = stage("timeouts: {head: 400ms}").await;
    let answer = to_the_end(gateway.address, "PRI * HTTP/2.0\r\n").await;
    assert!(matches!(*statuses(&answer), [] | [408]), "{answer}");
}

#[tokio::test]
async fn a_body_that_stops_times_out() {
    for (down, framed) in [(Down::Http11, Framed::Length(20)), (Down::H2c, Framed::Open)] {
        let (gateway, mut backend) = stage("timeouts: {streamIdle: 400ms}").await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::post("/", framed)).await;
        call.send(b"0123").await;
        let mut served = backend.next().await;
        call.head().await;
        assert_eq!(call.status, 408, "{down:?}");
        assert!(served.try_whole().await.is_err(), "{down:?}");
    }
}

#[tokio::test]
async fn a_response_that_stops_is_cut_off() {
    for down in [Down::Http11, Down::H2c] {
        let (gateway, mut backend) = stage("timeouts: {streamIdle: 400ms}").await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.begin(200, Framed::Open, &[]).await;
        served.send(b"a part").await;
        call.head().await;
        assert!(call.try_whole().await.is_err(), "{down:?}");
        served.sees_the_end().await;
    }
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let (gateway, mut backend) = stage("timeouts: {idle: 400ms}").await;
    for down in [Down::Http11, Down::H2c] {
        let mut silent = Caller::connect(&down, gateway.address).await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        backend.next().await.answer(200, "").await;
        assert_eq!(call.answer().await.0, 200);
        drop(call);
        assert!(caller.sees_the_end().await, "{down:?}");
        assert!(silent.sees_the_end().await, "{down:?}");
    }
}

#[tokio::test]
async fn connections_are_bounded() {
    for policy in ["limits: {maxConnections: 2}", "limits: {maxConnectionsPerAddress: 2}"] {
        let (gateway, mut backend) = stage(policy).await;
        let mut open = Vec::new();
        for _ in 0..2 {
            let mut caller = Caller::http11(gateway.address).await;
            let mut call = caller.ask(Ask::get("/")).await;
            backend.next().await.answer(200, "").await;
            assert_eq!(call.answer().await.0, 200);
            drop(call);
            open.push(caller);
        }
        let answer = to_the_end(gateway.address, get("/", "")).await;
        assert_eq!(statuses(&answer), [503], "{policy}");
        assert!(answer.contains("gateway.connection_limit"), "{answer}");
        // One goes, and one may come; the gateway notices the end when it can.
        drop(open.pop());
        let admitted = async {
            loop {
                let asking = to_the_end(gateway.address, get("/", "Connection: close\r\n"));
                tokio::select! {
                    served = backend.next() => return served.answer(200, "").await,
                    _refused = asking => {}
                }
            }
        };
        soon(admitted).await;
    }
}

#[tokio::test]
async fn a_connection_carries_so_many_requests() {
    let (gateway, mut backend) = stage("limits: {maxRequestsPerConnection: 2}").await;
    let mut caller = Caller::http11(gateway.address).await;
    for (target, close) in [("/one", None), ("/two", Some("close"))] {
        let mut call = caller.ask(Ask::get(target)).await;
        backend.next().await.answer(200, "").await;
        assert_eq!(call.answer().await.0, 200);
        assert_eq!(call.field("connection"), close);
    }
    assert!(caller.sees_the_end().await);
}

#[tokio::test]
async fn streams_are_bounded() {
    let (gateway, mut backend) = stage("limits: {maxConcurrentStreams: 2}").await;
    let tcp = TcpStream::connect(gateway.address).await.expect("connected");
    let (mut requests, connection) = h2::client::handshake(tcp).await.expect("a connection");
    tokio::spawn(connection);
    let head = || http::Request::get("http://site.test/").body(()).expect("a head");
    let (first, _) = requests.send_request(head(), true).expect("sent");
    backend.next().await.answer(200, "").await;
    assert_eq!(soon(first).await.expect("an answer").status(), 200);
    assert_eq!(requests.current_max_send_streams(), 2);
}

/// A client that asks and does not read: neither memory nor the backend waits for it for ever.
#[tokio::test]
async fn a_reader_that_stops_is_left() {
    for down in [Down::Http11, Down::H2c] {
        let (gateway, mut backend) = stage("timeouts: {streamIdle: 400ms}").await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.begin(200, Framed::Open, &[]).await;
        call.head().await;
        let flooding = async { while served.try_send(&[7; 65_536]).await.is_ok() {} };
        soon(flooding).await;
    }
}
