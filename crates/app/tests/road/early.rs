//! Responses before the final one, and requests whose body waits for them (RFC 9110 sections 10.1.1 and 15.2).

use crate::stage::raw::statuses;
use crate::stage::{Ask, Backend, Caller, Down, Framed, Gateway, Setup, Up, owned};

async fn stage(up: Up) -> (Gateway, Backend) {
    let backend = Backend::start(up).await;
    (Setup::before(&backend).start().await, backend)
}

/// A POST that waits for 100.
fn expecting() -> Ask {
    Ask::post("/", Framed::Length(5)).with("expect", "100-continue")
}

#[tokio::test]
async fn the_backend_lets_the_body_come() {
    for up in [Up::Http1, Up::H2c] {
        let (gateway, mut backend) = stage(up).await;
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(expecting()).await;
        let mut served = backend.next().await;
        assert_eq!(served.field("expect"), Some("100-continue"), "{up:?}");
        served.interim(100, &[]).await;
        assert_eq!(call.interim().await, 100, "{up:?}");
        call.send(b"hello").await;
        assert_eq!(served.whole().await.content, b"hello");
        served.answer(200, "heard").await;
        assert_eq!(call.answer().await, (200, "heard".to_owned()));
        // The connection goes on.
        drop(call);
        let mut call = caller.ask(Ask::get("/next")).await;
        backend.next().await.answer(200, "next").await;
        assert_eq!(call.answer().await, (200, "next".to_owned()), "{up:?}");
    }
}

/// Not every backend knows 100: after a while the body goes to it all the same.
#[tokio::test]
async fn the_gateway_lets_the_body_come() {
    let (gateway, mut backend) = stage(Up::Http1).await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(expecting()).await;
    let mut served = backend.next().await;
    assert_eq!(call.interim().await, 100);
    call.send(b"hello").await;
    assert_eq!(served.whole().await.content, b"hello");
    served.answer(200, "heard").await;
    assert_eq!(call.answer().await, (200, "heard".to_owned()));
}

/// A final status instead of 100: the body never comes, and what comes next on the connection is not taken for it.
#[tokio::test]
async fn the_backend_does_not_want_the_body() {
    for up in [Up::Http1, Up::H2c] {
        let (gateway, mut backend) = stage(up).await;
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(expecting()).await;
        let served = backend.next().await;
        served.answer(403, "no").await;
        assert_eq!(call.answer().await, (403, "no".to_owned()));
        assert_eq!(call.field("connection"), Some("close"), "{up:?}");
        drop(call);
        assert!(caller.sees_the_end().await);
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::get("/next")).await;
        let served = backend.next().await;
        assert_eq!(served.target, "/next");
        served.answer(200, "next").await;
        assert_eq!(call.answer().await, (200, "next".to_owned()));
    }
}

/// A request that is refused by the gateway itself does not invite its body.
#[tokio::test]
async fn a_refusal_does_not_invite_the_body() {
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).rule("matches: [{path: {value: /known}}]").start().await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let answer = crate::stage::raw::to_the_end(gateway.address, request).await;
    assert_eq!(statuses(&answer), [404]);
}

#[tokio::test]
async fn early_hints_are_passed_on() {
    for down in [Down::Http11, Down::H2c] {
        for up in [Up::Http1, Up::H2c] {
            let (gateway, mut backend) = stage(up).await;
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(Ask::get("/")).await;
            let mut served = backend.next().await;
            let link = [("link", "</a.css>; rel=preload")];
            served.interim(103, &link).await;
            served.interim(103, &link).await;
            served.answer(200, "done").await;
            assert_eq!(call.answer().await, (200, "done".to_owned()), "{down:?} {up:?}");
            let hint = (103, owned(&link));
            assert_eq!(call.interim, [hint.clone(), hint], "{down:?} {up:?}");
        }
    }
}

/// HTTP/1.0 does not know interim responses.
#[tokio::test]
async fn early_hints_are_not_for_http10() {
    let (gateway, mut backend) = stage(Up::Http1).await;
    let mut caller = Caller::connect(&Down::Http10, gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut served = backend.next().await;
    served.interim(103, &[("link", "</a.css>; rel=preload")]).await;
    served.answer(200, "done").await;
    assert_eq!(call.answer().await, (200, "done".to_owned()));
    assert_eq!(call.interim, []);
}

#[tokio::test]
async fn endless_hints_are_a_bad_gateway() {
    for up in [Up::Http1, Up::H2c] {
        let (gateway, mut backend) = stage(up).await;
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        // Far more than anybody needs, or until the gateway has had enough.
        for _ in 0..50 {
            if served.try_interim(103, &[]).await.is_err() {
                break;
            }
        }
        call.head().await;
        assert_eq!(call.status, 502, "{up:?}");
        served.sees_the_end().await;
    }
}

/// Over HTTP/2 nobody has to wait, but whoever asks is told.
#[tokio::test]
async fn a_stream_is_told_to_go_on() {
    for up in [Up::Http1, Up::H2c] {
        let (gateway, mut backend) = stage(up).await;
        let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
        let mut call = caller.ask(expecting()).await;
        let mut served = backend.next().await;
        served.interim(100, &[]).await;
        call.send(b"hello").await;
        call.end(&[]).await;
        assert_eq!(served.whole().await.content, b"hello");
        served.answer(200, "heard").await;
        assert_eq!(call.answer().await, (200, "heard".to_owned()));
        assert_eq!(call.interim, [(100, Vec::new())], "{up:?}");
    }
}

/// An expectation without a body is met at once.
#[tokio::test]
async fn nothing_to_wait_for_is_not_waited_for() {
    for down in [Down::Http11, Down::H2c] {
        let (gateway, mut backend) = stage(Up::Http1).await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/").with("expect", "100-continue")).await;
        backend.next().await.answer(200, "fine").await;
        assert_eq!(call.answer().await, (200, "fine".to_owned()), "{down:?}");
        drop(call);
        assert_eq!(
            tokio::join!(caller.get("/next"), async { backend.next().await.answer(200, "next").await }).0.0,
            200
        );
    }
}

/// HTTP/1.0 does not know the expectation: the body is on its way, whatever the field says.
#[tokio::test]
async fn expectations_of_http10_are_ignored() {
    let (gateway, mut backend) = stage(Up::Http1).await;
    let mut caller = Caller::connect(&Down::Http10, gateway.address).await;
    let mut call = caller.ask(expecting()).await;
    call.send(b"hello").await;
    let mut served = backend.next().await;
    assert_eq!(served.whole().await.content, b"hello");
    served.answer(200, "heard").await;
    assert_eq!(call.answer().await, (200, "heard".to_owned()));
    assert_eq!(call.interim, []);
}

/// A backend that says 100 to nobody is not quoted.
#[tokio::test]
async fn an_unasked_100_is_not_passed_on() {
    for down in [Down::Http11, Down::H2c] {
        let (gateway, mut backend) = stage(Up::Http1).await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.interim(100, &[]).await;
        served.answer(200, "fine").await;
        assert_eq!(call.answer().await, (200, "fine".to_owned()));
        assert_eq!(call.interim, [], "{down:?}");
    }
}
