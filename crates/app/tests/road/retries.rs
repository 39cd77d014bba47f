//! Requests that are sent more than once: again after a failure, and besides, to a mirror.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::stage::{Ask, Backend, Call, Caller, Down, Framed, Gateway, Nobody, Served, Setup, Up, soon};

async fn stage(rule: &str) -> (Gateway, Backend) {
    let backend = Backend::start(Up::Http1).await;
    (Setup::before(&backend).rule(rule).start().await, backend)
}

#[tokio::test]
async fn a_status_that_is_named_is_tried_again() {
    let (gateway, mut backend) = stage("retry: {codes: [503], attempts: 2, backoff: 1ms}").await;
    for down in [Down::Http11, Down::H2c] {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::new("PUT", "/").framed(Framed::Length(5))).await;
        call.send(b"hello").await;
        call.end(&[]).await;
        for status in [503, 503, 200] {
            let mut served = backend.next().await;
            assert_eq!(served.whole().await.content, b"hello");
            served.answer(status, "done").await;
        }
        assert_eq!(call.answer().await, (200, "done".to_owned()), "{down:?}");
    }
}

/// A body of unknown length, as every gRPC client sends it, is remembered while it streams, and begun again while more of it comes.
#[tokio::test]
async fn a_body_that_streams_is_sent_again() {
    let backend = Backend::start(Up::H2c).await;
    let setup = Setup::before(&backend).rule("retry: {codes: [503], attempts: 2, backoff: 1ms}");
    let (gateway, mut backend) = (setup.start().await, backend);
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    let ask = Ask::post("/shop.Cart/Add", Framed::Open).with("content-type", "application/grpc");
    let mut call = caller.ask(ask.with("idempotency-key", "\"1\"")).await;
    call.send(b"the first").await;
    let mut served = backend.next().await;
    assert_eq!(served.piece().await.expect("heard").as_deref(), Some(&b"the first"[..]));
    served.begin(200, Framed::Not, &[("content-type", "application/grpc"), ("grpc-status", "14")]).await;
    let mut served = backend.next().await;
    assert_eq!(served.piece().await.expect("heard").as_deref(), Some(&b"the first"[..]));
    call.send(b" and the last").await;
    call.end(&[]).await;
    assert_eq!(served.whole().await.content, b" and the last");
    served.answer(503, "").await;
    let mut served = backend.next().await;
    assert_eq!(served.whole().await.content, b"the first and the last");
    served.answer(200, "done").await;
    assert_eq!(call.answer().await, (200, "done".to_owned()));
}

/// Asks by every caller; the requests as they have come to each of two backends.
async fn ask_all<'c>(
    callers: &'c mut [Caller],
    one: &mut Backend,
    other: &mut Backend,
) -> (Vec<Call<'c>>, Vec<Served>, Vec<Served>) {
    let (mut calls, mut of_one, mut of_other) = (Vec::new(), Vec::new(), Vec::new());
    for caller in callers {
        calls.push(caller.ask(Ask::get("/")).await);
        tokio::select! {
            served = one.next() => of_one.push(served),
            served = other.next() => of_other.push(served),
        }
    }
    (calls, of_one, of_other)
}

/// What was under way at an endpoint that ends goes to another one, though its own is asked first whether it has only closed a connection.
#[tokio::test]
async fn an_endpoint_that_ends_costs_no_request() {
    let (mut ends, mut stays) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
    let setup = Setup::of(&[ends.address, stays.address], Up::Http1).rule("retry: {attempts: 1, backoff: 1ms}");
    let gateway = setup.start().await;
    let mut callers = Vec::new();
    for _ in 0..8 {
        callers.push(Caller::http11(gateway.address).await);
    }
    let (calls, of_one, of_other) = ask_all(&mut callers, &mut ends, &mut stays).await;
    for served in of_one.into_iter().chain(of_other) {
        served.answer(200, "").await;
    }
    for mut call in calls {
        assert_eq!(soon(call.answer()).await.0, 200);
    }
    let (calls, of_one, of_other) = ask_all(&mut callers, &mut ends, &mut stays).await;
    let lost = of_one.len();
    assert!(lost > 0, "both are used");
    // What connects while the listener is about to go has sent its request a second time, and is not tried again.
    let address = ends.address;
    drop(ends);
    soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    drop(of_one);
    for _ in 0..lost {
        stays.next().await.answer(200, "").await;
    }
    for served in of_other {
        served.answer(200, "").await;
    }
    for mut call in calls {
        assert_eq!(soon(call.answer()).await.0, 200);
    }
}

/// The only endpoint says when to come again, and is heeded from its first answer on.
#[tokio::test]
async fn a_server_that_says_when_is_asked_then() {
    let (gateway, mut backend) = stage("retry: {codes: [503], attempts: 2, backoff: 1ms}").await;
    let mut caller = Caller::http11(gateway.address).await;
    for (after, is_waited_for) in [("60", false), ("99999999999999999999", false), ("1", true)] {
        let began = Instant::now();
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.begin(503, Framed::Length(4), &[("retry-after", after)]).await;
        served.send(b"busy").await;
        served.end(&[]).await;
        if is_waited_for {
            backend.next().await.answer(200, "fine").await;
            assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
            assert_eq!(call.answer().await, (200, "fine".to_owned()));
        } else {
            assert_eq!(soon(call.answer()).await, (503, "busy".to_owned()), "{after}");
            assert_eq!(call.field("retry-after"), Some(after));
        }
    }
}

/// No attempts take nothing from what is done where no retries are asked for.
#[tokio::test]
async fn without_attempts_a_stale_connection_is_replaced_all_the_same() {
    let (gateway, mut backend) = stage("retry: {codes: [503], attempts: 0}").await;
    let mut caller = Caller::http11(gateway.address).await;
    caller.use_once(&mut backend).await;
    let mut call = caller.ask(Ask::get("/")).await;
    backend.next().await.reset();
    backend.next().await.answer(503, "once").await;
    assert_eq!(soon(call.answer()).await, (503, "once".to_owned()));
}

/// When all tries are spent the last answer is the answer, of the backend's own words.
#[tokio::test]
async fn the_last_answer_is_delivered() {
    let (gateway, mut backend) = stage("retry: {codes: [500], attempts: 1, backoff: 1ms}").await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    backend.next().await.answer(500, "first").await;
    backend.next().await.answer(500, "second").await;
    assert_eq!(call.answer().await, (500, "second".to_owned()));
    assert_eq!(call.field("proxy-status"), None);
}

#[tokio::test]
async fn what_cannot_be_repeated_is_not() {
    let (gateway, mut backend) = stage("retry: {codes: [503], attempts: 2, backoff: 1ms}").await;
    let mut caller = Caller::http11(gateway.address).await;
    // A method that is not idempotent.
    let mut call = caller.ask(Ask::post("/", Framed::Length(2))).await;
    call.send(b"me").await;
    let mut served = backend.next().await;
    served.whole().await;
    served.answer(503, "no").await;
    assert_eq!(call.answer().await, (503, "no".to_owned()));
    drop(call);
    // A body that is too large to be held.
    let mut call = caller.ask(Ask::new("PUT", "/").framed(Framed::Length(1 << 20))).await;
    call.send(&vec![7; 1 << 20]).await;
    let mut served = backend.next().await;
    served.whole().await;
    served.answer(503, "no").await;
    assert_eq!(call.answer().await, (503, "no".to_owned()));
    drop(call);
    assert!(backend.unheard().is_none());
    // A key makes any method idempotent.
    let ask = Ask::post("/", Framed::Length(2)).with("idempotency-key", "\"1\"");
    let mut call = caller.ask(ask).await;
    call.send(b"me").await;
    for status in [503, 200] {
        let mut served = backend.next().await;
        assert_eq!(served.whole().await.content, b"me");
        served.answer(status, "done").await;
    }
    assert_eq!(call.answer().await, (200, "done".to_owned()));
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_followed_by_another() {
    let backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).rule("retry: {attempts: 1, backoff: 1ms}");
    let gateway = setup.rule("timeouts: {request: 15s, backendRequest: 300ms}").start().await;
    let mut backend = backend;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut silent = backend.next().await;
    backend.next().await.answer(200, "second").await;
    assert_eq!(call.answer().await, (200, "second".to_owned()));
    silent.sees_the_end().await;
}

/// A gateway whose rule mirrors to another backend.
async fn mirrored(main: &Backend, mirror: std::net::SocketAddr) -> Gateway {
    let filter = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}]";
    let documents = format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: copy}}
spec: {{ports: [{{name: web, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: copy-1, labels: {{kubernetes.io/service-name: copy}}}}
addressType: IPv4
ports: [{{name: web, port: {}}}]
endpoints: [{{addresses: [{}]}}]",
        mirror.port(),
        mirror.ip()
    );
    Setup::before(main).rule(filter).document(&documents).start().await
}

#[tokio::test]
async fn a_mirror_hears_the_same() {
    for down in [Down::Http11, Down::H2c] {
        let (mut main, mut mirror) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
        let gateway = mirrored(&main, mirror.address).await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::post("/x?q=1", Framed::Length(5)).with("x-a", "1")).await;
        call.send(b"hello").await;
        call.end(&[]).await;
        let (mut served, mut copy) = (main.next().await, mirror.next().await);
        assert_eq!(served.whole().await.content, b"hello");
        assert_eq!(copy.whole().await.content, b"hello");
        assert_eq!((&*copy.method, &*copy.target, copy.field("x-a")), ("POST", "/x?q=1", Some("1")));
        copy.answer(500, "nobody hears this").await;
        served.answer(200, "fine").await;
        assert_eq!(call.answer().await, (200, "fine".to_owned()));
    }
}

/// Whatever becomes of a copy, the exchange goes its way.
#[tokio::test]
async fn a_mirror_disturbs_nobody() {
    let mut main = Backend::start(Up::Http1).await;
    // One that is gone, and one that says nothing.
    let nobody = Nobody::here();
    let mut silent = Backend::start(Up::Http1).await;
    for mirror in [nobody.address, silent.address] {
        let gateway = mirrored(&main, mirror).await;
        let mut caller = Caller::http11(gateway.address).await;
        for _ in 0..20 {
            let mut call = caller.ask(Ask::get("/")).await;
            main.next().await.answer(200, "fine").await;
            assert_eq!(call.answer().await, (200, "fine".to_owned()));
        }
    }
    assert!(silent.unheard().is_some());
}

/// A refused connection is tried elsewhere at once; the client does not wait for a backoff that nobody asked for.
#[tokio::test]
async fn another_endpoint_is_tried_without_delay() {
    let nobody = Nobody::here();
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::of(&[nobody.address, backend.address], Up::Http1).start().await;
    let began = std::time::Instant::now();
    for _ in 0..4 {
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        backend.next().await.answer(200, "").await;
        assert_eq!(soon(call.answer()).await.0, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// A body that is too large to be kept reaches the backend whole, whatever the mirror gets of it: all or nothing.
#[tokio::test]
async fn a_mirror_gets_a_large_body_whole_or_not() {
    for framed in [Framed::Length(1 << 20), Framed::Open] {
        let (mut main, mut mirror) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
        let gateway = mirrored(&main, mirror.address).await;
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::post("/", framed)).await;
        let body: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 253) as u8).collect();
        let client = async {
            call.send(&body).await;
            call.end(&[]).await;
            call.answer().await
        };
        let backend = async {
            let mut served = main.next().await;
            assert!(served.whole().await.content == body, "{framed:?}");
            served.answer(200, "fine").await;
        };
        let (answer, ()) = tokio::join!(client, backend);
        assert_eq!(answer, (200, "fine".to_owned()));
        if let Some(mut copy) = mirror.unheard()
            && let Ok(whole) = copy.try_whole().await
        {
            assert!(whole.content == body, "{framed:?}: a part passes for the whole");
        }
    }
}
