//! TCP listeners and TCPRoutes on the road: connections that nobody looks at.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use transept_testkit::certificates::{Authority, KeyKind, Usage};
use transept_testkit::echo::server_tls;
use transept_testkit::launch::unused_address;

use crate::stage::{Gateway, Nobody, Setup, Up, soon};

/// A program that says its name, hears everything, and repeats it when there is no more to come.
async fn program(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await?;
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).await?;
                stream.write_all(&heard).await?;
                stream.shutdown().await
            });
        }
    });
    address
}

fn backend(name: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|at| format!("{{address: {}, port: {}}}", at.ip(), at.port())).collect();
    format!(
        "{{apiVersion: transept.dev/v1alpha1, kind: Backend, metadata: {{name: {name}}}, spec: {{endpoints: [{}]}}}}",
        endpoints.join(", ")
    )
}

/// The backend of the HTTP side, which nobody asks.
const UNUSED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

/// The same over TLS, for clients that offer no protocol that it does not know.
async fn secured(name: &'static str, authority: &Authority) -> SocketAddr {
    let identity = authority.issue(Usage::Server, &["app.test"]).expect("a certificate");
    let acceptor = TlsAcceptor::from(server_tls(&identity, None, &["postgresql"]).expect("a configuration"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(tcp).await {
                let _gone = stream.write_all(name.as_bytes()).await;
                let _gone = stream.shutdown().await;
            }
        }
    });
    address
}

/// A gateway whose TCP listener goes to Backends with these weights.
struct Streams {
    at: SocketAddr,
    setup: Setup,
}

impl Streams {
    fn to(weights: &[(&str, u32)]) -> Streams {
        let at = unused_address().expect("an address");
        let reference = |(name, weight): &(&str, u32)| {
            format!("{{group: transept.dev, kind: Backend, name: {name}, weight: {weight}}}")
        };
        let references: Vec<String> = weights.iter().map(reference).collect();
        let setup = Setup::of(&[UNUSED], Up::Http1)
            .argument("--access-log=stdout")
            .argument("--access-log-format=json")
            .document(&format!(
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
  rules: [{{backendRefs: [{}]}}]",
                at.ip(),
                at.port(),
                references.join(", ")
            ));
        Streams { at, setup }
    }

    fn document(mut self, yaml: &str) -> Streams {
        self.setup = self.setup.document(yaml);
        self
    }

    async fn start(&self) -> Gateway {
        self.setup.start().await
    }
}

/// The name that a program says; empty when the connection is closed instead.
async fn name(at: SocketAddr) -> String {
    let mut said = [0; 1];
    // A reset is as good as an end, and may come while connecting.
    match soon(async { TcpStream::connect(at).await?.read(&mut said).await }).await {
        Ok(count) => String::from_utf8_lossy(&said[..count]).into_owned(),
        Err(_) => String::new(),
    }
}

async fn names(at: SocketAddr, count: usize) -> String {
    let mut said = String::new();
    for _ in 0..count {
        let name = name(at).await;
        said.push_str(if name.is_empty() { "-" } else { &name });
    }
    said
}

#[tokio::test]
async fn connections_go_by_weight_and_a_reload_forgets_no_turn() {
    let streams = Streams::to(&[("a", 3), ("b", 1)])
        .document(&backend("a", &[program("a").await]))
        .document(&backend("b", &[program("b").await]));
    let mut gateway = streams.start().await;
    let mut said = names(streams.at, 42).await;
    gateway.reload(&streams.setup.clone().rule("timeouts: {request: 9s}")).await;
    said.push_str(&names(streams.at, 38).await);
    assert_eq!((said.matches('a').count(), said.matches('b').count()), (60, 20), "{said}");
    // Smoothly: never more than three of one kind, also over the reload.
    assert!(!said.contains("aaaa") && !said.contains("bb"), "{said}");
}

#[tokio::test]
async fn each_side_may_end_before_the_other() {
    let streams = Streams::to(&[("a", 1)]).document(&backend("a", &[program("a").await]));
    let gateway = streams.start().await;
    let mut stream = TcpStream::connect(streams.at).await.expect("connected");
    // Bytes that look like HTTP are bytes.
    let said = b"GET / HTTP/1.1\r\n\r\n".repeat(50_000);
    stream.write_all(&said).await.expect("sent");
    stream.shutdown().await.expect("ended");
    let mut heard = Vec::new();
    soon(stream.read_to_end(&mut heard)).await.expect("an end");
    assert!(heard.len() == said.len() + 1 && heard[1..] == said[..], "{} bytes", heard.len());
    let line = soon(gateway.running.log_line_with("default/db/0")).await;
    assert!(line.contains("\"method\":\"CONNECT\"") && line.contains("\"status\":200"), "{line}");
    assert!(line.contains(&format!("\"bytes_in\":{}", said.len())), "{line}");
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over_and_a_dead_backend_closes_its_share() {
    let (nobody, living) = (Nobody::here(), program("b").await);
    let streams = Streams::to(&[("dead", 1), ("half", 1), ("gone", 1)])
        .document(&backend("dead", &[nobody.address]))
        .document(&backend("half", &[nobody.address, living]));
    let gateway = streams.start().await;
    let said = names(streams.at, 30).await;
    assert_eq!((said.matches('b').count(), said.matches('-').count()), (10, 20), "{said}");
    for (reason, flags) in [("upstream.connection_refused", "UF"), ("backend.invalid", "NC")] {
        let line = soon(gateway.running.log_line_with(reason)).await;
        assert!(line.contains(&format!("\"flags\":\"{flags}\"")), "{line}");
    }
}

#[tokio::test]
async fn a_backend_with_tls_is_offered_no_protocol() {
    let authority = Authority::new(KeyKind::Ecdsa).expect("an authority");
    let at = secured("s", &authority).await;
    let pem = authority.certificate_pem().trim_end().replace('\n', "\n    ");
    let tls = "tls: {hostname: app.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: trust}]}";
    let streams = Streams::to(&[("s", 1)])
        .document(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: trust}}\ndata:\n  ca.crt: |\n    {pem}"))
        .document(&backend("s", &[at]).replace("spec: {", &format!("spec: {{{tls}, ")));
    let _gateway = streams.start().await;
    assert_eq!(name(streams.at).await, "s");
}

#[tokio::test]
async fn without_a_backend_or_a_route_the_connection_is_closed() {
    let streams = Streams::to(&[("a", 0)]).document(&backend("a", &[program("a").await]));
    let mut gateway = streams.start().await;
    assert_eq!(name(streams.at).await, "");
    soon(gateway.running.log_line_with("backend.missing")).await;
    let text = format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: data}}
spec:
  addresses: [{{value: {}}}]
  listeners: [{{name: db, protocol: TCP, port: {}}}]",
        streams.at.ip(),
        streams.at.port()
    );
    gateway.reload(&Setup::of(&[UNUSED], Up::Http1).document(&text)).await;
    assert_eq!(name(streams.at).await, "");
    soon(gateway.running.log_line_with("route.not_found")).await;
}

#[tokio::test]
async fn a_policy_lets_in_and_cuts_off() {
    let streams = Streams::to(&[("a", 1)]).document(&backend("a", &[program("a").await]));
    let mut gateway = streams.start().await;
    let mut open = TcpStream::connect(streams.at).await.expect("connected");
    assert_eq!(soon(open.read_u8()).await.expect("a name"), b'a');
    let policy = |target: &str, spec: &str| {
        format!(
            "apiVersion: transept.dev/v1alpha1
kind: {spec}
metadata: {{name: door}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, {target}}}]
"
        )
    };
    // One that concerns others leaves it alone.
    let others = policy("kind: TCPRoute, name: db", "IpAccessPolicy") + "  deny: [192.0.2.0/24]";
    gateway.reload(&streams.setup.clone().document(&others)).await;
    assert_eq!(name(streams.at).await, "a");
    let mine = policy("kind: Gateway, name: data, sectionName: db", "AuthorizationPolicy")
        + "  deny: [{name: nobody, from: [{addresses: [127.0.0.0/8]}]}]";
    gateway.reload(&streams.setup.clone().document(&mine)).await;
    let mut rest = Vec::new();
    // Cut off or ended: in no case does it go on.
    let _ = soon(open.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(name(streams.at).await, "");
    let line = soon(gateway.running.log_line_with("AuthorizationPolicy default/door, rule nobody")).await;
    assert!(line.contains("access.not_authorized"), "{line}");
}
