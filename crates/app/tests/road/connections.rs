//! `limits.connections` on the road: who finds no room waits for a connection that becomes free, or is told so.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use transept_testkit::launch::unused_address;

use crate::stage::{Ask, Backend, Caller, Gateway, Setup, Up, soon};

/// A TrafficPolicy for the backend; one failure would be enough to leave an endpoint alone.
fn limited(limits: &str) -> String {
    format!(
        "\
apiVersion: transept.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: app}}
spec:
  targetRefs: [{{group: transept.dev, kind: Backend, name: app}}]
  balancer: {{algorithm: RoundRobin}}
  outlierDetection: {{consecutiveErrors: 1, baseEjectionTime: 1h, maxEjectionTime: 2h}}
  limits: {{{limits}}}"
    )
}

fn left(resource: &str, count: u32) -> String {
    format!("transept_backend_limit_remaining{{backend=\"default/app\",resource=\"{resource}\"}} {count}\n")
}

async fn nobody_is_to_blame(gateway: &Gateway) {
    let metrics = gateway.running.metrics().await.expect("metrics");
    assert!(!metrics.contains("transept_endpoint_ejections_total{"), "{metrics}");
}

#[tokio::test]
async fn a_request_waits_for_a_connection_and_one_too_many_is_refused() {
    for up in [Up::Http1, Up::H2c] {
        let mut backend = Backend::with_streams(up, 1).await;
        let setup = Setup::before(&backend).document(&limited("connections: 1, pending: 1"));
        let gateway = setup.start().await;
        let (mut first, mut second) = (Caller::http11(gateway.address).await, Caller::http11(gateway.address).await);
        let mut call = first.ask(Ask::get("/first")).await;
        let served = backend.next().await;
        gateway.tells(&left("connections", 0)).await;
        let mut waiting = second.ask(Ask::get("/second")).await;
        gateway.tells(&left("pending", 0)).await;
        let mut third = Caller::http11(gateway.address).await;
        let mut refused = third.ask(Ask::get("/third")).await;
        let (status, body) = refused.answer().await;
        assert_eq!((status, body.contains("backend.overflow")), (503, true), "{up:?} {body}");
        // What becomes free is used as it is.
        served.answer(200, "first").await;
        assert_eq!(call.answer().await, (200, "first".to_owned()));
        backend.next().await.answer(200, "second").await;
        assert_eq!(waiting.answer().await, (200, "second".to_owned()));
        assert_eq!(backend.connections(), 1, "{up:?}");
        nobody_is_to_blame(&gateway).await;
    }
}

/// A server that ends a connection before it has said a word of HTTP/2: all who stand in line for it learn it together.
#[tokio::test]
async fn who_waits_for_a_connection_that_ends_without_a_word_learns_it_with_the_first() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let setup = Setup::of(&[address], Up::H2c).backend("connectTimeout: 60s");
    let gateway = setup.document(&limited("pending: 10")).start().await;
    let mut callers = Vec::new();
    for _ in 0..4 {
        callers.push(Caller::http11(gateway.address).await);
    }
    let mut calls = Vec::new();
    for caller in &mut callers {
        calls.push(caller.ask(Ask::get("/")).await);
    }
    let (mut wordless, _) = soon(listener.accept()).await.expect("a connection");
    soon(wordless.read_exact(&mut [0; 24])).await.expect("the preface");
    gateway.tells(&left("pending", 7)).await;
    drop(wordless);
    let mut refused = 0;
    for mut call in calls {
        let (status, body) = soon(call.answer()).await;
        assert_eq!(status, 503, "{body}");
        refused += usize::from(body.contains("upstream.connection_refused"));
    }
    assert_eq!(refused, 3);
}

#[tokio::test]
async fn a_wait_is_over_when_connecting_would_be() {
    let mut backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).backend("connectTimeout: 200ms").document(&limited("connections: 1"));
    let gateway = setup.start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/first")).await;
    let served = backend.next().await;
    let mut other = Caller::http11(gateway.address).await;
    let mut refused = other.ask(Ask::get("/second")).await;
    let (status, body) = refused.answer().await;
    assert_eq!((status, body.contains("backend.overflow")), (503, true), "{body}");
    served.answer(200, "first").await;
    assert_eq!(call.answer().await.0, 200);
    nobody_is_to_blame(&gateway).await;
}

/// Neither an endpoint nor a worker keeps a connection to itself that another one needs.
#[tokio::test]
async fn what_idles_makes_room() {
    let (one, other) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
    let setup = Setup::of(&[one.address, other.address], Up::Http1).document(&limited("connections: 1"));
    let gateway = setup.workers(3).start().await;
    let answering = [one.answer_all(), other.answer_all()];
    let mut callers = Vec::new();
    for _ in 0..8 {
        callers.push(Caller::http11(gateway.address).await);
    }
    for _ in 0..2 {
        for caller in &mut callers {
            assert_eq!(caller.get("/").await.0, 200);
        }
    }
    for one in &answering {
        assert!(!one.heard().is_empty());
    }
}

#[tokio::test]
async fn a_connection_that_is_not_looked_at_counts_and_does_not_wait() {
    let program = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let to = program.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = program.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"a").await?;
                tokio::io::copy(&mut stream.split().0, &mut tokio::io::sink()).await
            });
        }
    });
    let at = unused_address().expect("an address");
    let streams = format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: data}}
spec:
  addresses: [{{value: {}}}]
  listeners: [{{name: db, protocol: TCP, port: {}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: db}}
spec:
  parentRefs: [{{name: data}}]
  rules: [{{backendRefs: [{{group: transept.dev, kind: Backend, name: app}}]}}]",
        at.ip(),
        at.port()
    );
    let setup = Setup::of(&[to], Up::Http1).document(&limited("connections: 2")).document(&streams);
    let gateway = setup.workers(2).argument("--access-log=stdout").start().await;
    let greeted = async || {
        // Who is one too many may be sent away before it knows that it was connected.
        let mut stream = TcpStream::connect(at).await.ok()?;
        let said = soon(stream.read_u8()).await;
        said.is_ok().then_some(stream)
    };
    let (first, second) = (greeted().await, greeted().await);
    assert!(first.is_some() && second.is_some());
    assert!(greeted().await.is_none());
    soon(gateway.running.log_line_with("backend.overflow")).await;
    drop(first);
    gateway.tells(&left("connections", 1)).await;
    assert!(greeted().await.is_some());
    nobody_is_to_blame(&gateway).await;
}
