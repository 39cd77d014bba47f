//! Connections by opaque tokens: their issuer, played by a backend, is asked again while they last.

use crate::stage::{Ask, Backend, Call, Caller, Framed, Gateway, Served, Setup, Up, soon};

const ACTIVE: &str = r#"{"active": true, "sub": "7"}"#;

/// A gateway that asks this issuer about tokens, every second.
async fn stage(issuer: &Backend, backend: &Backend) -> Gateway {
    let policy = format!(
        "\
apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {{name: guard}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}}]
  schemes: [{{name: token, introspection: {{url: 'http://{}/look', clientId: gate, clientSecret: {{name: gate, key: secret}}, anyAudience: true,
    remember: 1s}}}}]
---
{{apiVersion: v1, kind: Secret, metadata: {{name: gate}}, stringData: {{secret: planted}}}}
",
        issuer.address
    );
    Setup::before(backend).document(&policy).start().await
}

async fn say(issuer: &mut Backend, status: u16, answer: &str) {
    let asked = soon(issuer.next()).await;
    assert_eq!(asked.target, "/look");
    asked.answer(status, answer).await;
}

async fn has_ended(served: &mut Served, call: &mut Call<'_>) {
    assert!(soon(served.read_raw(1)).await.is_err(), "the backend hears of it");
    assert!(!matches!(soon(call.piece()).await, Ok(Some(_))));
}

/// A WebSocket by a token that the issuer calls active.
async fn open_tunnel<'c>(caller: &'c mut Caller, issuer: &mut Backend, backend: &mut Backend) -> (Call<'c>, Served) {
    let ask = Ask::get("/").with("authorization", "Bearer opaque");
    let mut call = caller.ask(ask.with("connection", "Upgrade").with("upgrade", "websocket")).await;
    say(issuer, 200, ACTIVE).await;
    let mut served = backend.next().await;
    served.send_raw(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    call.head().await;
    assert_eq!(call.status, 101);
    (call, served)
}

async fn passes(call: &mut Call<'_>, served: &mut Served) {
    call.send(b"ping").await;
    assert_eq!(served.read_raw(4).await.expect("heard"), b"ping");
}

#[tokio::test]
async fn a_tunnel_ends_when_its_token_is_not_active_any_more() {
    let (mut issuer, mut backend) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
    let gateway = stage(&issuer, &backend).await;
    let mut caller = Caller::http11(gateway.address).await;
    let (mut call, mut served) = open_tunnel(&mut caller, &mut issuer, &mut backend).await;
    for _ in 0..2 {
        say(&mut issuer, 200, ACTIVE).await;
        passes(&mut call, &mut served).await;
    }
    say(&mut issuer, 200, r#"{"active": false}"#).await;
    has_ended(&mut served, &mut call).await;
}

#[tokio::test]
async fn a_stream_ends_when_nobody_vouches_for_its_token_any_more() {
    let (mut issuer, mut backend) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
    let gateway = stage(&issuer, &backend).await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/").with("authorization", "Bearer opaque")).await;
    say(&mut issuer, 200, ACTIVE).await;
    let mut served = backend.next().await;
    served.begin(200, Framed::Open, &[("content-type", "text/event-stream")]).await;
    served.send(b"data: 1\n\n").await;
    call.head().await;
    assert_eq!(call.piece().await.expect("heard").as_deref(), Some(&b"data: 1\n\n"[..]));
    say(&mut issuer, 200, ACTIVE).await;
    say(&mut issuer, 500, "").await;
    has_ended(&mut served, &mut call).await;
}

/// An issuer that closes a connection that nobody uses is asked on another one, and no tunnel ends for it.
#[tokio::test]
async fn a_connection_to_the_issuer_that_has_ended_is_replaced() {
    let (mut issuer, mut backend) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
    let gateway = stage(&issuer, &backend).await;
    let mut caller = Caller::http11(gateway.address).await;
    let (mut call, mut served) = open_tunnel(&mut caller, &mut issuer, &mut backend).await;
    for _ in 0..2 {
        soon(issuer.next()).await.reset();
        say(&mut issuer, 200, ACTIVE).await;
        passes(&mut call, &mut served).await;
    }
    // A new one that fails as well is an answer.
    soon(issuer.next()).await.reset();
    soon(issuer.next()).await.reset();
    has_ended(&mut served, &mut call).await;
}

/// An issuer that starts anew cuts nobody off, if it is back within the time that it has for an answer.
#[tokio::test]
async fn a_question_that_nobody_has_heard_is_asked_again() {
    let (mut issuer, mut backend) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
    let gateway = stage(&issuer, &backend).await;
    let mut caller = Caller::http11(gateway.address).await;
    let (mut call, mut served) = open_tunnel(&mut caller, &mut issuer, &mut backend).await;
    let address = issuer.address;
    drop(issuer);
    gateway.tells("reason=\"upstream.connection_refused\"} 1\n").await;
    let mut issuer = Backend::after(address, Up::Http1).await;
    say(&mut issuer, 200, ACTIVE).await;
    passes(&mut call, &mut served).await;
}

/// An upload to which nothing has been said yet: who cannot be vouched for now may come again, who is revoked needs another token.
#[tokio::test]
async fn an_upload_that_is_cut_is_told_why() {
    let (mut issuer, mut backend) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
    let gateway = stage(&issuer, &backend).await;
    for (status, answer, told, challenge) in [
        (500, "", 503, None),
        (200, r#"{"active": false}"#, 401, Some("Bearer realm=\"transept\", error=\"invalid_token\"")),
    ] {
        let mut caller = Caller::http11(gateway.address).await;
        let ask = Ask::post("/", Framed::Open).with("authorization", &format!("Bearer opaque{status}"));
        let mut call = caller.ask(ask).await;
        say(&mut issuer, 200, ACTIVE).await;
        let served = backend.next().await;
        call.send(b"a piece").await;
        say(&mut issuer, status, answer).await;
        soon(call.head()).await;
        assert_eq!(call.status, told);
        assert_eq!(call.field("www-authenticate"), challenge);
        drop(served);
    }
}

/// An upload that the backend has whole: what is said of the token while it works does not undo its answer.
#[tokio::test]
async fn what_a_backend_works_on_is_not_undone() {
    let (mut issuer, mut backend) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
    let gateway = stage(&issuer, &backend).await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::post("/", Framed::Open).with("authorization", "Bearer opaque")).await;
    say(&mut issuer, 200, ACTIVE).await;
    let mut served = backend.next().await;
    call.send(b"a piece").await;
    say(&mut issuer, 200, ACTIVE).await;
    call.end(&[]).await;
    assert_eq!(served.whole().await.content, b"a piece");
    say(&mut issuer, 500, "").await;
    gateway.tells("transept_introspection_up{policy=\"AuthenticationPolicy default/guard, scheme token\"} 0\n").await;
    served.answer(200, "done").await;
    assert_eq!(soon(call.answer()).await, (200, "done".to_owned()));
}
