//! A program that heeds `HTTP_PROXY`: it reaches services by their names, and everybody else as without a proxy.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transept_testkit::client::{Answer, Request, exchange_http1};
use transept_testkit::echo::{Echo, Port};
use transept_testkit::launch::unused_address;

use crate::stage::{Mesh, passes, program, repeater, say, soon, told, until};

/// The status and the rest of what a proxy answers to these words; the connection ends with it.
async fn ask(proxy: SocketAddr, words: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(proxy).await.expect("connected");
    stream.write_all(words.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.expect("an answer");
    let text = String::from_utf8_lossy(&answer).into_owned();
    (text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0), text)
}

/// A tunnel to somebody; none when the proxy makes none.
async fn tunnel(proxy: SocketAddr, to: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(proxy).await.expect("connected");
    stream.write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).await.expect("sent");
    let mut head = [0; 19];
    soon(stream.read_exact(&mut head)).await.ok()?;
    (head == *b"HTTP/1.1 200 OK\r\n\r\n").then_some(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_a_proxy_reaches_services_and_everybody_else() {
    let mesh = Mesh::start("").await;
    let (cart_program, stranger) = (program("cart-1", Port::Http1).await, program("stranger", Port::Http1).await);
    let (bytes, far) = (repeater("").await, repeater("220 ready\r\n").await);
    let cart = mesh.sidecar("cart").await.port(80, cart_program.address, "").port(90, bytes, "/tcp");
    let _cart = cart.start().await;
    let proxy = unused_address().expect("an address");
    let web = mesh.sidecar("web").await.argument(format!("--http-proxy={proxy}")).start().await;

    // Outside the mesh, in absolute form: as it is, and without an identity.
    let (host, length) = (stranger.address, 9);
    let get = format!("GET http://{host}/x?y HTTP/1.1\r\nHost: {host}\r\nProxy-Connection: keep-alive\r\n\r\n");
    let (status, text) = ask(proxy, &get).await;
    let seen = Echo::parse(text.split_once("\r\n\r\n").expect("a head").1.as_bytes()).expect("an echo");
    assert_eq!((status, seen.pod.as_str(), seen.path.as_str()), (200, "stranger", "/x?y"));
    for absent in ["proxy-connection", "x-forwarded-client-cert"] {
        assert!(seen.header(absent).is_none(), "{absent}");
    }
    let post = format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\nnine byte");
    assert_eq!(ask(proxy, &post).await.0, 200);
    let line = told(&web, "/x").await;
    assert!(line.contains(&host.to_string()), "{line}");

    // As a tunnel, whoever speaks first.
    let mut outside = tunnel(proxy, &far.to_string()).await.expect("a tunnel");
    say(&mut outside, "", "220 ready\r\n").await;
    say(&mut outside, "HELO\r\n", "HELO\r\n").await;

    // Tunnels to services take those of the mesh, for HTTP and for bytes.
    let by_mesh = || async {
        let stream = tunnel(proxy, "cart:80").await?;
        let answer: Answer = soon(exchange_http1(Box::new(stream), &Request::get("cart", "/"))).await.ok()?;
        Echo::parse(&answer.body)?.header("x-forwarded-client-cert")
    };
    let said = until(by_mesh, Option::is_some).await.expect("an identity");
    assert!(said.contains("URI=spiffe://transept.local/ns/default/sa/web"), "{said}");
    let mut inside = tunnel(proxy, "cart.default:90").await.expect("a tunnel");
    say(&mut inside, "\u{1}words\n", "\u{1}words\n").await;

    // Names that nobody has, and ports that a service does not have.
    let (status, text) = ask(proxy, "GET http://carr.invalid/ HTTP/1.1\r\nHost: carr.invalid\r\n\r\n").await;
    assert!(status == 503 && text.contains("There is no service carr.invalid in the mesh"), "{text}");
    assert!(tunnel(proxy, "carr.invalid:80").await.is_none());
    assert_eq!(ask(proxy, "CONNECT cart:81 HTTP/1.1\r\nHost: cart:81\r\n\r\n").await.0, 404);
    let to_itself = format!("GET http://{proxy}/ HTTP/1.1\r\nHost: {proxy}\r\n\r\n");
    let (status, text) = ask(proxy, &to_itself).await;
    assert!(status == 503 && text.contains("is this proxy"), "{text}");
}

/// A Service that declares nothing of its port, and with a rule for the requests of everybody who calls it, that nothing else may come.
fn undeclared(guarded: bool) -> String {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 90}]}}\n";
    let guard = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart}
spec:
  parentRefs: [{group: \"\", kind: Service, name: cart, port: 90}]
  rules: [{backendRefs: [{name: cart, port: 90}]}]
---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: cart}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}], deny: [{to: [{paths: [/admin]}]}]}
";
    format!("{service}{}", if guarded { guard } else { "" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_of_bytes_ends_where_only_requests_may_come() {
    let mesh = Mesh::start(&undeclared(false)).await;
    let bytes = repeater("").await;
    let _cart = mesh.sidecar("cart").await.port(90, bytes, "").start().await;
    let proxy = unused_address().expect("an address");
    let setup = mesh.sidecar("web").await.upstream("cart:90").argument(format!("--http-proxy={proxy}"));
    let web = setup.start().await;
    // By the port that stands for the Service, and by the proxy's.
    passes(setup.local[0], "\u{1}words\n", "\u{1}words\n").await;
    let mut by_port = TcpStream::connect(setup.local[0]).await.expect("connected");
    let mut by_proxy = tunnel(proxy, "cart.default:90").await.expect("a tunnel");
    for stream in [&mut by_port, &mut by_proxy] {
        say(stream, "\u{1}words\n", "\u{1}words\n").await;
    }

    mesh.configure(&undeclared(true));
    for stream in [&mut by_port, &mut by_proxy] {
        let ended = soon(stream.read(&mut [0])).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    let line = told(&web, "requests only").await;
    assert!(line.contains("the port carries requests only"), "{line}");
    let mut again = tunnel(proxy, "cart.default:90").await.expect("a tunnel");
    let mut answer = Vec::new();
    again.write_all(b"\x01words\n\r\n\r\n").await.expect("sent");
    soon(again.read_to_end(&mut answer)).await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
}
