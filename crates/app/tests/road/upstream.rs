//! The gateway as a client of backends that are particular about their connections.

use crate::stage::{Ask, Backend, Caller, Down, Framed, Gateway, Setup, Up, soon};

async fn stage(up: Up) -> (Gateway, Backend) {
    let backend = Backend::start(up).await;
    (Setup::before(&backend).start().await, backend)
}

/// GOAWAY: what is under way ends well, and what comes next goes over another connection.
#[tokio::test]
async fn a_backend_that_says_goodbye_costs_nothing() {
    let (gateway, mut backend) = stage(Up::H2c).await;
    let mut early = Caller::http11(gateway.address).await;
    let mut under_way = early.ask(Ask::get("/early")).await;
    let mut served = backend.next().await;
    served.begin(200, Framed::Open, &[]).await;
    under_way.head().await;
    backend.say_goodbye();
    // Whenever the goodbye arrives, no request is lost: not even one that cannot be repeated.
    let mut late = Caller::http11(gateway.address).await;
    for number in 0..20 {
        let mut call = late.ask(Ask::post("/late", Framed::Not)).await;
        backend.next().await.answer(200, "fine").await;
        assert_eq!(call.answer().await, (200, "fine".to_owned()), "{number}");
    }
    served.send(b"the end").await;
    served.end(&[]).await;
    assert_eq!(under_way.whole().await.content, b"the end");
    assert_eq!(backend.connections(), 2);
}

/// REFUSED_STREAM: nothing was done, so any request may be sent again.
#[tokio::test]
async fn a_refused_stream_is_tried_again() {
    let (gateway, mut backend) = stage(Up::H2c).await;
    let mut caller = Caller::http11(gateway.address).await;
    caller.use_once(&mut backend).await;
    let mut call = caller.ask(Ask::post("/", Framed::Not)).await;
    backend.next().await.refuse();
    backend.next().await.answer(200, "fine").await;
    assert_eq!(call.answer().await, (200, "fine".to_owned()));
    assert_eq!(backend.connections(), 1, "nothing is wrong with it");
}

/// Who refuses streams at once is always the one with the fewest under way: it is passed over for a moment, and not asked by everybody.
#[tokio::test]
async fn who_refuses_streams_is_not_asked_by_everybody() {
    let (busy, idle) = (Backend::start(Up::H2c).await, Backend::start(Up::H2c).await);
    let gateway = Setup::of(&[busy.address, idle.address], Up::H2c).start().await;
    let (busy, _idle) = (busy.answer_with(|served| async move { served.refuse() }), idle.answer_all());
    let mut caller = Caller::http11(gateway.address).await;
    for _ in 0..60 {
        let mut call = caller.ask(Ask::post("/", Framed::Not)).await;
        assert_eq!(soon(call.answer()).await.0, 200);
    }
    // The first try on a new connection is repeated there.
    assert!((1..10).contains(&busy.heard().len()), "{:?}", busy.heard());
}

/// A body of unknown length that the next request on a connection has, which the server has closed.
#[tokio::test]
async fn a_body_that_streams_outlives_a_connection_that_had_gone_stale() {
    let (gateway, mut backend) = stage(Up::Http1).await;
    let mut caller = Caller::http11(gateway.address).await;
    caller.use_once(&mut backend).await;
    let mut call = caller.ask(Ask::new("PUT", "/").framed(Framed::Open)).await;
    call.send(b"piece").await;
    call.end(&[]).await;
    backend.next().await.reset();
    let mut served = backend.next().await;
    assert_eq!(served.whole().await.content, b"piece");
    served.answer(200, "fine").await;
    assert_eq!(call.answer().await, (200, "fine".to_owned()));
}

/// A stream that is reset on a connection that goes on was meant: that is no connection that had gone stale.
#[tokio::test]
async fn a_stream_that_is_reset_is_the_answer() {
    let (gateway, mut backend) = stage(Up::H2c).await;
    let mut caller = Caller::http11(gateway.address).await;
    caller.use_once(&mut backend).await;
    for _ in 0..3 {
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        backend.next().await.reset();
        assert_eq!(soon(call.answer()).await.0, 503);
        assert!(backend.unheard().is_none());
    }
    assert_eq!(backend.connections(), 1);
}

/// More requests at once than one connection may carry.
#[tokio::test]
async fn a_full_connection_is_not_the_end() {
    let mut backend = Backend::with_streams(Up::H2c, 1).await;
    let gateway = Setup::before(&backend).start().await;
    let mut callers = Vec::new();
    for _ in 0..5 {
        callers.push(Caller::http11(gateway.address).await);
    }
    let mut calls = Vec::new();
    for caller in &mut callers {
        calls.push(caller.ask(Ask::get("/")).await);
    }
    for _ in &calls {
        backend.next().await.answer(200, "fine").await;
    }
    for mut call in calls {
        assert_eq!(call.answer().await, (200, "fine".to_owned()));
    }
}

/// One stream whose client does not read takes nothing from the others.
#[tokio::test]
async fn a_stalled_stream_does_not_stall_its_neighbours() {
    let (gateway, mut backend) = stage(Up::H2c).await;
    let mut lazy = Caller::http11(gateway.address).await;
    let mut unread = lazy.ask(Ask::get("/flood")).await;
    let mut flooding = backend.next().await;
    flooding.begin(200, Framed::Open, &[]).await;
    unread.head().await;
    let flood = tokio::spawn(async move { while flooding.try_send(&[7; 65_536]).await.is_ok() {} });
    let mut caller = Caller::http11(gateway.address).await;
    for _ in 0..20 {
        let mut call = caller.ask(Ask::get("/")).await;
        backend.next().await.answer(200, &"x".repeat(100_000)).await;
        assert_eq!(call.answer().await.1.len(), 100_000);
    }
    assert_eq!(backend.connections(), 1);
    flood.abort();
}

/// HTTP/1.0 backends end their answers with their connections.
#[tokio::test]
async fn a_backend_may_speak_http10() {
    let (gateway, mut backend) = stage(Up::Http1).await;
    for down in [Down::Http10, Down::Http11, Down::H2c] {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.send_raw(b"HTTP/1.0 200 OK\r\nserver: old\r\n\r\nuntil the end").await;
        drop(served);
        assert_eq!(call.answer().await, (200, "until the end".to_owned()), "{down:?}");
        // A length alone does not keep the connection alive in HTTP/1.0.
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.send_raw(b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\ngood").await;
        assert_eq!(call.answer().await, (200, "good".to_owned()), "{down:?}");
        served.sees_the_end().await;
    }
}

/// A backend that announces the end of its connection is believed.
#[tokio::test]
async fn a_connection_that_closes_is_not_pooled() {
    let (gateway, mut backend) = stage(Up::Http1).await;
    let mut caller = Caller::http11(gateway.address).await;
    for number in 1..4 {
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.begin(200, Framed::Length(4), &[("connection", "close")]).await;
        served.send(b"good").await;
        assert_eq!(call.answer().await, (200, "good".to_owned()));
        assert_ne!(call.field("connection"), Some("close"));
        served.sees_the_end().await;
        assert_eq!(backend.connections(), number);
    }
}

/// An HTTP/1.0 client may ask to go on.
#[tokio::test]
async fn http10_is_kept_alive_when_asked() {
    let (gateway, mut backend) = stage(Up::Http1).await;
    let mut caller = Caller::connect(&Down::Http10, gateway.address).await;
    let mut call = caller.ask(Ask::get("/").with("connection", "keep-alive")).await;
    backend.next().await.answer(200, "one").await;
    assert_eq!(call.answer().await, (200, "one".to_owned()));
    let kept = call.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive"));
    drop(call);
    if kept {
        let mut call = caller.ask(Ask::get("/").with("connection", "keep-alive")).await;
        backend.next().await.answer(200, "two").await;
        assert_eq!(call.answer().await, (200, "two".to_owned()));
    } else {
        assert!(caller.sees_the_end().await);
    }
}

/// Many at once, over every pair, and each gets its own answer.
#[tokio::test]
async fn answers_are_not_mixed_up() {
    for up in [Up::Http1, Up::H2c] {
        let backend = Backend::start(up).await;
        let gateway = Setup::before(&backend).start().await;
        let _answering = backend.answer_all();
        let mut clients = Vec::new();
        for client in 0..12 {
            let address = gateway.address;
            clients.push(tokio::spawn(async move {
                let down = if client % 2 == 0 { Down::Http11 } else { Down::H2c };
                let mut caller = Caller::connect(&down, address).await;
                for number in 0..30 {
                    let target = format!("/{client}/{number}");
                    let (status, body) = caller.get(&target).await;
                    assert_eq!((status, String::from_utf8_lossy(&body).into_owned()), (200, format!("GET {target}")));
                }
            }));
        }
        for client in clients {
            soon(client).await.expect("its own answers");
        }
    }
}

/// A backend that does not speak what the configuration says.
#[tokio::test]
async fn a_misunderstanding_is_told() {
    for (configured, speaks) in [(Up::H2c, Up::Http1), (Up::Http1, Up::H2c)] {
        let backend = Backend::start(speaks).await;
        let gateway = Setup::of(&[backend.address], configured).policy("timeouts: {response: 2s}").start().await;
        for down in [Down::Http11, Down::H2c] {
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(Ask::get("/")).await;
            call.head().await;
            assert!((502..=504).contains(&call.status), "{configured:?}: {}", call.status);
        }
    }
}

/// A response without a date gets one (RFC 9110 section 6.6.1); one that has it keeps it.
#[tokio::test]
async fn responses_have_a_date() {
    for up in [Up::Http1, Up::H2c] {
        let (gateway, mut backend) = stage(up).await;
        for down in [Down::Http11, Down::H2c] {
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(Ask::get("/")).await;
            backend.next().await.answer(200, "").await;
            assert_eq!(call.answer().await.0, 200);
            assert!(call.field("date").is_some_and(|date| date.ends_with(" GMT")), "{down:?} {up:?}");
            drop(call);
            let mut call = caller.ask(Ask::get("/")).await;
            let mut served = backend.next().await;
            served.begin(200, Framed::Length(0), &[("date", "Tue, 15 Nov 1994 08:12:31 GMT")]).await;
            served.end(&[]).await;
            assert_eq!(call.answer().await.0, 200);
            let dates: Vec<_> = call.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("date")).collect();
            assert_eq!(dates.len(), 1);
            assert_eq!(dates[0].1, "Tue, 15 Nov 1994 08:12:31 GMT");
        }
    }
}
