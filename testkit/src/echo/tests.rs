//! Echo servers against the test client, without a gateway between them: both sides of the comparison are checked here.

use std::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::certificates::{Authority, KeyKind, Usage};
use crate::client::{self, Answer, Endpoint, Failure, Protocol, Request, Tls, Trust};
use crate::grpc::{self, Channel};
use crate::websocket::{Frame, TEXT, WebSocket};

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn start(port: Port) -> (Serving, Arc<Pod>) {
    let pod = Pod::new("infra-backend-v1-abc-x1", "infra", RequestLog::new());
    let serving = serve(any_port(), port, &pod).await.expect("binds");
    (serving, pod)
}

async fn ask(endpoint: &Endpoint, request: Request) -> Answer {
    client::exchange(endpoint, &request).await.outcome.expect("answers")
}

fn echo_of(answer: &Answer) -> Echo {
    assert_eq!(answer.field("content-type"), Some("application/json"));
    Echo::parse(&answer.body).expect("an echo")
}

#[tokio::test]
async fn http1_echoes_the_request_byte_for_byte() {
    let (serving, pod) = start(Port::Http1).await;
    let request = Request::get("example.com:8080", "/a%2Fb//?x=1&x=%20")
        .with("x-one", "a, b")
        .with("X-One", "c")
        .with("X-Echo-Set-Header", "X-Back:1,x-back:2,X-Back:3");
    let answer = ask(&Endpoint::http1(serving.address), request).await;
    let echo = echo_of(&answer);
    assert_eq!(echo.path, "/a%2Fb//?x=1&x=%20");
    assert_eq!(echo.host, "example.com:8080");
    assert_eq!((echo.pod.as_str(), echo.namespace.as_str()), ("infra-backend-v1-abc-x1", "infra"));
    assert_eq!(echo.header("X-ONE").as_deref(), Some("a, b,c"));
    assert!(echo.header("host").is_none());
    assert_eq!(answer.fields.iter().find(|(n, _)| n == "X-Back").map(|(_, v)| v.as_str()), Some("1,3"));
    assert_eq!(pod.log.count("/a%2Fb//?x=1&x=%20"), 1);
}

#[tokio::test]
async fn the_special_paths_answer_as_they_are_named() {
    let (serving, _pod) = start(Port::Http1).await;
    let endpoint = Endpoint::http1(serving.address);
    let status = async |target: &str| ask(&endpoint, Request::get("h", target)).await.status;
    assert_eq!(status("/health").await, 200);
    assert_eq!(status("/status/418").await, 418);
    assert_eq!(status("/status/x").await, 400);
    assert_eq!(status("/?delay=1x").await, 500);
    assert_eq!(status("/?delay=1ms").await, 200);
    assert_eq!(status("/retry/a?uuid=1").await, 400);
}

#[tokio::test]
async fn retries_are_counted_per_uuid() {
    let (serving, pod) = start(Port::Http1).await;
    let endpoint = Endpoint::http1(serving.address);
    let failing = "/retry/x?responseCode=503&succeedAfter=1&uuid=u1";
    assert_eq!(ask(&endpoint, Request::get("h", failing)).await.status, 503);
    assert_eq!(pod.log.count(failing), 0);
    assert_eq!(ask(&endpoint, Request::get("h", failing)).await.status, 200);
    let other = Request::get("h", "/retry/x?responseCode=503&succeedAfter=1&uuid=u2");
    assert_eq!(ask(&endpoint, other).await.status, 503);
}

#[tokio::test]
async fn a_failing_attempt_without_a_code_resets_the_connection() {
    let (serving, _pod) = start(Port::Http1).await;
    let request = Request::get("h", "/retry/x?succeedAfter=1&uuid=u1");
    let outcome = client::exchange(&Endpoint::http1(serving.address), &request).await.outcome;
    let Err(Failure::Exchange(why)) = outcome else {
        panic!("expected a broken exchange, got {outcome:?}");
    };
    assert_eq!(why.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn the_h2c_port_speaks_http2_and_refuses_http1() {
    let (serving, _pod) = start(Port::H2c).await;
    let answer = ask(&Endpoint::h2c(serving.address), Request::get("a.b:81", "/x?y=1").with("X-A", "1")).await;
    let echo = echo_of(&answer);
    assert_eq!((echo.proto.as_str(), echo.host.as_str(), echo.path.as_str()), ("HTTP/2.0", "a.b:81", "/x?y=1"));
    assert_eq!(echo.header("X-A").as_deref(), Some("1"));
    let refused = ask(&Endpoint::http1(serving.address), Request::get("h", "/")).await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn tls_tells_the_name_and_the_client_certificate() {
    let authority = Authority::new(KeyKind::Ecdsa).expect("authority");
    let server = authority.issue(Usage::Server, &["abc.example.com"]).expect("leaf");
    let shown = Arc::new(authority.issue(Usage::Client, &[]).expect("leaf"));
    let config = server_tls(&server, Some(&authority.certificate()), &["h2", "http/1.1"]).expect("config");
    let (serving, _pod) = start(Port::Https(config)).await;
    for (protocol, proto) in [(Protocol::Http1, "HTTP/1.1"), (Protocol::Http2, "HTTP/2.0")] {
        let tls = Tls {
            server_name: "abc.example.com".to_owned(),
            trust: Trust::Authority(authority.certificate()),
            identity: Some(Arc::clone(&shown)),
        };
        let endpoint = Endpoint { address: serving.address, protocol, tls: Some(tls) };
        let exchange = client::exchange(&endpoint, &Request::get("other", "/")).await;
        assert!(exchange.certificate_requested);
        let echo = echo_of(&exchange.outcome.expect("answers"));
        assert_eq!(echo.proto, proto);
        let seen = echo.tls.expect("over TLS");
        assert_eq!(seen.server_name, "abc.example.com");
        assert_eq!(seen.peer_certificates.len(), 1);
        let pem = crate::certificates::certificate_from_pem(&seen.peer_certificates[0]).expect("PEM");
        assert_eq!(pem, shown.certificate().expect("PEM"));
    }
}

#[tokio::test]
async fn only_the_trusted_leaf_with_a_fitting_name_is_believed() {
    let leaf = Identity::self_signed(KeyKind::Rsa, Usage::Server, &["*.org", "*"]).expect("leaf");
    let stranger = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["*.org"]).expect("leaf");
    let config = server_tls(&leaf, None, &[]).expect("config");
    let (serving, _pod) = start(Port::Https(config)).await;
    let attempt = async |server_name: &str, trusted: &Identity| {
        let trust = Trust::Leaf(trusted.certificate().expect("PEM"));
        let tls = Tls { server_name: server_name.to_owned(), trust, identity: None };
        let endpoint = Endpoint { address: serving.address, protocol: Protocol::Http1, tls: Some(tls) };
        client::exchange(&endpoint, &Request::get("h", "/")).await
    };
    let right = attempt("example.org", &leaf).await;
    assert!(!right.certificate_requested);
    assert_eq!(right.outcome.expect("answers").status, 200);
    assert!(matches!(attempt("example.org", &stranger).await.outcome, Err(Failure::Secure(_))));
    assert!(matches!(attempt("example.com", &leaf).await.outcome, Err(Failure::Secure(_))));
}

#[tokio::test]
async fn grpc_answers_two_of_three_methods() {
    let (serving, _pod) = start(Port::Grpc).await;
    let channel = Channel::connect(&Endpoint::h2c(serving.address)).await.expect("connects");
    let metadata = [("X-Set".to_owned(), "1".to_owned())];
    let reply = channel.echo("EchoTwo", "a_b.C:80", &metadata).await.expect("answers");
    assert_eq!(reply.code, grpc::OK);
    let seen = reply.seen.expect("assertions");
    assert_eq!(seen.full_method, format!("/{}/EchoTwo", grpc::ECHO_SERVICE));
    assert_eq!(seen.authority, "a_b.C:80");
    assert!(seen.metadata.contains(&("x-set".to_owned(), "1".to_owned())));
    let reply = channel.echo("EchoThree", "a", &[]).await.expect("answers");
    assert_eq!(reply.code, grpc::UNIMPLEMENTED);
}

#[tokio::test]
async fn websocket_frames_come_back() {
    let (serving, _pod) = start(Port::Http1).await;
    let endpoint = Endpoint::http1(serving.address);
    let mut socket = WebSocket::connect(&endpoint, "gateway", "/ws", "ws://gateway/").await.expect("upgrades");
    let frame = Frame { opcode: TEXT, payload: b"Websocket Support!".to_vec() };
    socket.send(&frame).await.expect("sends");
    assert_eq!(socket.receive().await.expect("receives"), Some(frame));
}

#[tokio::test]
async fn a_log_entry_wakes_whoever_waits_for_it() {
    let (serving, pod) = start(Port::Http1).await;
    let endpoint = Endpoint::http1(serving.address);
    let waiting = pod.log.wait_for("/mirrored?id=1");
    let asking = ask(&endpoint, Request::get("h", "/mirrored?id=1"));
    let ((), answer) = tokio::join!(waiting, asking);
    assert_eq!(answer.status, 200);
}
