//! TLS on either side of the road: what is trusted, what is refused, and that a cut is not an end.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use transept_testkit::certificates::{Authority, Identity, KeyKind, Usage};
use transept_testkit::client::open;
use transept_testkit::echo::server_tls;
use transept_testkit::h1::Reader;

use crate::stage::raw::{statuses, to_the_end};
use crate::stage::{Ask, Backend, Caller, Down, Gateway, Setup, Up, soon};

/// A gateway before a backend that must be `app.test`, as this authority says.
async fn gateway_before(listener: &TcpListener, authority: &Authority) -> Gateway {
    let address = listener.local_addr().expect("bound");
    let pem = authority.certificate_pem().trim_end().replace('\n', "\n    ");
    Setup::of(&[address], Up::Http1)
        .backend("tls: {hostname: app.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: trust}]}")
        .backend("connectTimeout: 500ms")
        .document(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: trust}}\ndata:\n  ca.crt: |\n    {pem}"))
        .start()
        .await
}

async fn listener() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.expect("binds")
}

/// Accepts a connection with this certificate and reads the head of a request.
async fn accept(listener: &TcpListener, identity: &Identity) -> std::io::Result<Reader<TlsStream<TcpStream>>> {
    let config = server_tls(identity, None, &[]).expect("a configuration");
    let (tcp, _) = soon(listener.accept()).await.expect("accepted");
    let mut reader = Reader::new(soon(TlsAcceptor::from(config).accept(tcp)).await?);
    let head = soon(reader.read_head()).await?;
    assert!(head.is_some(), "a request");
    Ok(reader)
}

fn authority() -> Authority {
    Authority::new(KeyKind::Ecdsa).expect("an authority")
}

fn leaf(authority: &Authority, name: &str) -> Identity {
    authority.issue(Usage::Server, &[name]).expect("a certificate")
}

#[tokio::test]
async fn a_trusted_backend_is_served() {
    let (listener, authority) = (listener().await, authority());
    let gateway = gateway_before(&listener, &authority).await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut reader = accept(&listener, &leaf(&authority, "app.test")).await.expect("a request");
    reader.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood").await.expect("sent");
    assert_eq!(call.answer().await, (200, "good".to_owned()));
}

#[tokio::test]
async fn an_untrusted_backend_is_a_502_and_hears_nothing() {
    let (trusted, stranger) = (authority(), authority());
    let wrong = [
        leaf(&stranger, "app.test"),
        leaf(&trusted, "other.test"),
        Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["app.test"]).expect("a certificate"),
        trusted.issue(Usage::Client, &["app.test"]).expect("a certificate"),
    ];
    for (number, identity) in wrong.iter().enumerate() {
        let listener = listener().await;
        let gateway = gateway_before(&listener, &trusted).await;
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        assert!(accept(&listener, identity).await.is_err(), "{number}: it was trusted");
        call.head().await;
        assert_eq!(call.status, 502, "{number}");
        assert_eq!(call.field("proxy-status"), Some("transept; error=tls_certificate_error"), "{number}");
    }
}

/// No byte in clear text is believed once TLS was chosen.
#[tokio::test]
async fn a_backend_without_tls_is_a_502() {
    let (listener, authority) = (listener().await, authority());
    let gateway = gateway_before(&listener, &authority).await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let (mut tcp, _) = soon(listener.accept()).await.expect("accepted");
    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await.expect("sent");
    let (status, body) = call.answer().await;
    assert_eq!(status, 502);
    assert!(!body.contains("evil"), "{body}");
}

#[tokio::test]
async fn a_handshake_that_hangs_times_out() {
    let (listener, authority) = (listener().await, authority());
    let gateway = gateway_before(&listener, &authority).await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let _silent = soon(listener.accept()).await.expect("accepted");
    call.head().await;
    assert_eq!(call.status, 503);
    assert_eq!(call.field("proxy-status"), Some("transept; error=connection_timeout"));
}

/// Somebody on the way can end a TCP connection, but not say that TLS has ended.
#[tokio::test]
async fn an_end_without_close_notify_is_a_cut() {
    for down in [Down::Http10, Down::Http11, Down::H2c] {
        let (listener, authority) = (listener().await, authority());
        let gateway = gateway_before(&listener, &authority).await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut reader = accept(&listener, &leaf(&authority, "app.test")).await.expect("a request");
        reader.send(b"HTTP/1.1 200 OK\r\n\r\na part").await.expect("sent");
        call.head().await;
        assert_eq!(call.piece().await.expect("reads").expect("a piece"), b"a part");
        // The TCP connection ends in good order, below TLS.
        let (stream, _) = reader.into_parts();
        let (mut tcp, _) = stream.into_inner();
        tcp.shutdown().await.expect("ended");
        let rest = call.try_whole().await;
        assert!(rest.is_err(), "{down:?}: {rest:?}");
    }
}

/// With close_notify the end is an end.
#[tokio::test]
async fn an_end_with_close_notify_is_an_end() {
    let (listener, authority) = (listener().await, authority());
    let gateway = gateway_before(&listener, &authority).await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut reader = accept(&listener, &leaf(&authority, "app.test")).await.expect("a request");
    reader.send(b"HTTP/1.1 200 OK\r\n\r\nthe whole").await.expect("sent");
    reader.stream().shutdown().await.expect("ended");
    assert_eq!(call.answer().await, (200, "the whole".to_owned()));
}

/// A TLS listener with a short limit for handshakes.
async fn secured() -> (Gateway, Backend, Arc<Identity>) {
    let identity = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["site.test"]).expect("a certificate");
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).tls(&identity).policy("timeouts: {tlsHandshake: 400ms}").start().await;
    (gateway, backend, Arc::new(identity))
}

#[tokio::test]
async fn half_a_handshake_times_out() {
    let (gateway, ..) = secured().await;
    assert_eq!(to_the_end(gateway.address, "").await, "");
    // The first bytes of a ClientHello.
    let answer = to_the_end(gateway.address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    assert!(answer.len() < 20, "{answer:?}");
}

#[tokio::test]
async fn clear_text_to_a_tls_port_is_refused() {
    let (gateway, mut backend, _) = secured().await;
    let answer = to_the_end(gateway.address, "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n").await;
    assert!(!statuses(&answer).contains(&200), "{answer}");
    assert!(backend.unheard().is_none());
}

/// The backend learns that the client came over TLS.
#[tokio::test]
async fn the_scheme_is_that_of_the_connection() {
    let (gateway, mut backend, identity) = secured().await;
    for down in [Down::Http11Tls(Arc::clone(&identity)), Down::H2Tls(identity)] {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/").with("x-forwarded-proto", "http")).await;
        let served = backend.next().await;
        assert_eq!(served.field("x-forwarded-proto"), Some("https"));
        served.answer(200, "fine").await;
        assert_eq!(call.answer().await, (200, "fine".to_owned()));
    }
}

/// A client that sends a part of a record and no more holds nothing up.
#[tokio::test]
async fn garbage_after_the_handshake_ends_the_connection_only() {
    let (gateway, mut backend, identity) = secured().await;
    let mut tcp = soon(TcpStream::connect(gateway.address)).await.expect("connected");
    tcp.write_all(b"\x17\x03\x03\xff\xff garbage").await.expect("sent");
    let mut answer = Vec::new();
    let _reset = soon(tcp.read_to_end(&mut answer)).await;
    let mut caller = Caller::connect(&Down::H2Tls(identity), gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    backend.next().await.answer(200, "fine").await;
    assert_eq!(call.answer().await, (200, "fine".to_owned()));
}

/// A client that has said everything may end its half of TLS and still gets its answer.
#[tokio::test]
async fn a_client_that_only_listens_gets_its_answer() {
    let (gateway, mut backend, identity) = secured().await;
    let endpoint = Down::Http11Tls(identity).endpoint(gateway.address);
    let mut stream = soon(open(&endpoint)).await.unwrap_or_else(|failure| panic!("{failure}"));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n").await.expect("sent");
    stream.shutdown().await.expect("ended");
    let served = backend.next().await;
    served.answer(200, "late news").await;
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("late news"), "{answer}");
}
