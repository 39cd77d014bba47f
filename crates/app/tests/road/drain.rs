//! The end of a gateway that others still send traffic to: not ready at once, closed later, gone at a second signal.

use rustix::process::Signal;

use crate::stage::{Backend, Caller, Gateway, Setup, Up, soon};

/// A gateway that would take connections for a minute after it was asked to end.
async fn stage() -> (Gateway, Backend) {
    let backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).argument("--drain=60s").argument("--drain-delay=60s");
    (setup.start().await, backend)
}

#[tokio::test]
async fn a_gateway_that_ends_takes_connections_until_the_word_is_out() {
    let (mut gateway, backend) = stage().await;
    let _answering = backend.answer_all();
    let mut kept = Caller::http11(gateway.address).await;
    assert_eq!(kept.get("/before").await.0, 200);
    gateway.running.signal(Signal::TERM).expect("sent");
    soon(gateway.running.log_line_with("draining")).await;
    let ready = gateway.running.ask("/readyz").await.expect("an answer");
    assert_eq!((ready.status, &*ready.body), (503, &b"draining\n"[..]));
    assert_eq!(gateway.running.ask("/livez").await.expect("an answer").status, 200);
    // Who has not heard of it is served, on connections old and new.
    assert_eq!(kept.get("/after").await.0, 200);
    assert_eq!(Caller::http11(gateway.address).await.get("/after").await.0, 200);

    gateway.running.signal(Signal::TERM).expect("sent");
    let ended = soon(gateway.running.ended()).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
    assert!(gateway.running.log().contains("a second signal"), "{}", gateway.running.log());
}

#[tokio::test]
async fn the_delay_ends_by_itself() {
    let backend = Backend::start(Up::Http1).await;
    let mut gateway = Setup::before(&backend).argument("--drain-delay=300ms").start().await;
    let _answering = backend.answer_all();
    let mut kept = Caller::http11(gateway.address).await;
    assert_eq!(kept.get("/").await.0, 200);
    gateway.running.signal(Signal::TERM).expect("sent");
    // The idle connection is closed, and only that lets the gateway end so soon.
    assert!(kept.sees_the_end().await);
    let ended = soon(gateway.running.ended()).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
    assert!(gateway.running.log().contains("\"drained\""), "{}", gateway.running.log());
}

#[tokio::test]
async fn a_person_at_a_terminal_does_not_wait() {
    let (mut gateway, _backend) = stage().await;
    gateway.running.signal(Signal::INT).expect("sent");
    let ended = soon(gateway.running.ended()).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
    assert!(gateway.running.log().contains("\"drained\""), "{}", gateway.running.log());
}
