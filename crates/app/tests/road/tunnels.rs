//! Upgrades: a tunnel opens after the backend agreed, and not before (RFC 9110 section 7.8, RFC 8441).

use std::sync::Arc;

use transept_testkit::certificates::{Identity, KeyKind, Usage};

use crate::stage::{Ask, Backend, Call, Caller, Down, Gateway, Served, Setup, Up};

async fn stage() -> (Gateway, Backend) {
    let backend = Backend::start(Up::Http1).await;
    (Setup::before(&backend).start().await, backend)
}

/// The handshake of RFC 6455.
pub(crate) fn websocket() -> Ask {
    Ask::get("/ws")
        .with("connection", "Upgrade")
        .with("upgrade", "websocket")
        .with("sec-websocket-version", "13")
        .with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

pub(crate) const AGREED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Both sides talk at will, and the end of either side arrives.
async fn converse(call: &mut Call<'_>, served: &mut Served) {
    call.send(b"from the client").await;
    assert_eq!(served.read_raw(15).await.expect("heard"), b"from the client");
    served.send_raw(b"from the backend").await;
    assert_eq!(call.piece().await.expect("reads").expect("heard"), b"from the backend");
    call.send(b"again").await;
    assert_eq!(served.read_raw(5).await.expect("heard"), b"again");
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways() {
    let (gateway, mut backend) = stage().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(websocket()).await;
    let mut served = backend.next().await;
    assert_eq!(served.field("upgrade"), Some("websocket"));
    assert_eq!(served.field("connection").map(str::to_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(served.field("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    // The first bytes come with the head.
    served.send_raw(&[AGREED, b"at once"].concat()).await;
    call.head().await;
    assert_eq!(call.status, 101);
    assert_eq!(call.field("upgrade"), Some("websocket"));
    assert_eq!(call.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(call.piece().await.expect("reads").expect("heard"), b"at once");
    converse(&mut call, &mut served).await;
    drop(served);
    assert_eq!(call.whole().await.content, b"");
}

#[tokio::test]
async fn the_end_of_the_client_reaches_the_backend() {
    let (gateway, mut backend) = stage().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(websocket()).await;
    let mut served = backend.next().await;
    served.send_raw(AGREED).await;
    call.head().await;
    converse(&mut call, &mut served).await;
    drop(call);
    drop(caller);
    served.sees_the_end().await;
}

#[tokio::test]
async fn a_stream_becomes_a_tunnel() {
    let identity = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["site.test"]);
    let identity = Arc::new(identity.expect("a certificate"));
    for down in [Down::H2c, Down::H2Tls(Arc::clone(&identity))] {
        let mut backend = Backend::start(Up::Http1).await;
        let setup = Setup::before(&backend);
        let setup = if let Down::H2c = down { setup } else { setup.tls(&identity) };
        let gateway = setup.start().await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        // The first exchange brings the settings that allow an extended CONNECT.
        let (asked, answered) = tokio::join!(caller.get("/"), async { backend.next().await.answer(200, "").await });
        assert_eq!((asked.0, answered), (200, ()));
        let ask = Ask::get("/ws").extended("websocket").with("sec-websocket-version", "13");
        let mut call = caller.ask(ask).await;
        let mut served = backend.next().await;
        assert_eq!((&*served.method, &*served.target), ("GET", "/ws"));
        assert_eq!(served.field("upgrade"), Some("websocket"));
        assert_eq!(served.field("sec-websocket-version"), Some("13"));
        assert_eq!(served.field("sec-websocket-key").map(str::len), Some(24));
        served.send_raw(AGREED).await;
        call.head().await;
        assert_eq!(call.status, 200);
        assert_eq!(call.field("sec-websocket-accept"), None);
        converse(&mut call, &mut served).await;
        // Another stream of the same connection is not disturbed; and the end arrives.
        call.end(&[]).await;
        served.sees_the_end().await;
    }
}

#[tokio::test]
async fn a_stream_that_is_refused_gets_the_refusal() {
    let (gateway, mut backend) = stage().await;
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    let (asked, ()) = tokio::join!(caller.get("/"), async { backend.next().await.answer(200, "").await });
    assert_eq!(asked.0, 200);
    let mut call = caller.ask(Ask::get("/ws").extended("websocket")).await;
    backend.next().await.answer(403, "no").await;
    assert_eq!(call.answer().await, (403, "no".to_owned()));
}

/// A backend that does not switch goes on with HTTP, and so does the client.
#[tokio::test]
async fn after_a_refusal_both_speak_http() {
    let (gateway, mut backend) = stage().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(websocket()).await;
    backend.next().await.answer(403, "no").await;
    assert_eq!(call.answer().await, (403, "no".to_owned()));
    assert_ne!(call.field("connection"), Some("close"));
    drop(call);
    let mut call = caller.ask(Ask::get("/next")).await;
    let served = backend.next().await;
    assert_eq!(served.target, "/next");
    served.answer(200, "next").await;
    assert_eq!(call.answer().await, (200, "next".to_owned()));
}

/// Bytes that the client sends before it knows are a request, under all rules for requests, and no tunnel.
#[tokio::test]
async fn bytes_before_a_refusal_are_requests() {
    let backend = Backend::start(Up::Http1).await;
    let deny = "matches: [{path: {value: /ws}}, {path: {value: /open}}]";
    let gateway = Setup::before(&backend).rule(deny).start().await;
    let mut backend = backend;
    let address = gateway.address;
    let asking = tokio::spawn(async move {
        let bytes = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\
            GET /secret HTTP/1.1\r\nHost: a\r\n\r\nGET /open HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        crate::stage::raw::to_the_end(address, bytes).await
    });
    let served = backend.next().await;
    assert_eq!(served.target, "/ws");
    served.answer(200, "").await;
    let open = backend.next().await;
    assert_eq!(open.target, "/open");
    open.answer(200, "").await;
    let answer = asking.await.expect("an answer");
    assert_eq!(crate::stage::raw::statuses(&answer), [200, 404, 200], "{answer}");
}

#[tokio::test]
async fn a_switch_to_something_else_is_a_bad_gateway() {
    let (gateway, mut backend) = stage().await;
    let evil: [&[u8]; 3] = [
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: evil\r\n\r\nevil",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nevil",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\nevil",
    ];
    for head in evil {
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(websocket()).await;
        let mut served = backend.next().await;
        served.send_raw(head).await;
        assert_eq!(call.answer().await.0, 502, "{}", String::from_utf8_lossy(head));
        served.sees_the_end().await;
    }
}

/// HTTP/2 in clear text is not reached by an upgrade (RFC 9113 section 3.1): the request stays HTTP/1.1.
#[tokio::test]
async fn an_upgrade_to_h2c_is_not_passed_on() {
    let (gateway, mut backend) = stage().await;
    let mut caller = Caller::http11(gateway.address).await;
    for upgrade in ["h2c", "H2C", "h2c, websocket"] {
        let ask = Ask::get("/")
            .with("connection", "Upgrade, HTTP2-Settings")
            .with("upgrade", upgrade)
            .with("http2-settings", "AAMAAABkAAQAAP__");
        let mut call = caller.ask(ask).await;
        let served = backend.next().await;
        assert!(served.field("upgrade").is_none_or(|value| !value.to_lowercase().contains("h2c")), "{upgrade}");
        assert_eq!(served.field("http2-settings"), None);
        served.answer(200, "http").await;
        assert_eq!(call.answer().await, (200, "http".to_owned()));
    }
}

/// A backend that speaks HTTP/2 cannot be upgraded: the client is told, and no byte goes on.
#[tokio::test]
async fn an_h2c_backend_is_no_tunnel() {
    let backend = Backend::start(Up::H2c).await;
    let gateway = Setup::before(&backend).start().await;
    let mut backend = backend;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(websocket()).await;
    call.head().await;
    assert_eq!(call.status, 502);
    assert!(backend.unheard().is_none());
}

/// Either side may break a tunnel off, and the other learns of it.
#[tokio::test]
async fn a_tunnel_that_breaks_is_broken_for_both() {
    let (gateway, mut backend) = stage().await;
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    assert_eq!(tokio::join!(caller.get("/"), async { backend.next().await.answer(200, "").await }).0.0, 200);
    let mut call = caller.ask(Ask::get("/ws").extended("websocket")).await;
    let mut served = backend.next().await;
    served.send_raw(AGREED).await;
    call.head().await;
    call.cancel();
    served.sees_the_end().await;
    for down in [Down::Http11, Down::H2c] {
        let mut caller = Caller::connect(&down, gateway.address).await;
        assert_eq!(tokio::join!(caller.get("/"), async { backend.next().await.answer(200, "").await }).0.0, 200);
        let ask = if let Down::H2c = down { Ask::get("/ws").extended("websocket") } else { websocket() };
        let mut call = caller.ask(ask).await;
        let mut served = backend.next().await;
        served.send_raw(AGREED).await;
        call.head().await;
        served.reset();
        // The end of a tunnel has no form of its own over HTTP/1.1: a cut and an end are alike.
        let rest = call.try_whole().await;
        assert!(rest.is_err() || matches!(down, Down::Http11), "{down:?}: {rest:?}");
    }
}

/// The time of a request is over when the tunnel opens; how long that stays open is nobody's business.
#[tokio::test]
async fn the_time_of_a_request_does_not_end_its_tunnel() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).rule("timeouts: {request: 400ms, backendRequest: 400ms}").start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(websocket()).await;
    let mut served = backend.next().await;
    served.send_raw(AGREED).await;
    call.head().await;
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(100));
    for _ in 0..8 {
        pace.tick().await;
        call.send(b"ping").await;
        assert_eq!(served.read_raw(4).await.expect("heard"), b"ping");
    }
    // A backend that does not answer is timed all the same.
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(websocket()).await;
    let mut served = backend.next().await;
    call.head().await;
    assert_eq!(call.status, 504);
    served.sees_the_end().await;
}

/// It is routed, judged and counted as what the backend gets: a GET.
#[tokio::test]
async fn a_stream_that_becomes_a_tunnel_is_judged_as_the_get_that_it_becomes() {
    let mut backend = Backend::start(Up::Http1).await;
    let policy = "apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: who}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}]
  deny: [{to: [{methods: [GET], paths: [/secret]}]}, {to: [{methods: [CONNECT]}]}]
";
    let gateway = Setup::before(&backend).document(policy).start().await;
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    let (asked, ()) = tokio::join!(caller.get("/"), async { backend.next().await.answer(200, "").await });
    assert_eq!(asked.0, 200);
    for protocol in ["websocket", "foo"] {
        let mut call = caller.ask(Ask::get("/secret").extended(protocol)).await;
        assert_eq!(call.answer().await.0, 403);
    }
    // A backend that answers as though it were a request like any other opens no tunnel.
    let mut call = caller.ask(Ask::get("/open").extended("websocket")).await;
    backend.next().await.answer(200, "page").await;
    assert_eq!(call.answer().await.0, 502);
    assert!(backend.unheard().is_none());
}
