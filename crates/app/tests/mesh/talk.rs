//! What programs say to each other through two sidecars, and what others can say to a sidecar.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transept_testkit::certificates::{Authority, KeyKind, Usage};
use transept_testkit::client::{Endpoint, Protocol, Request, Tls, Trust, exchange};
use transept_testkit::echo::{Echo, Port};
use transept_testkit::grpc::Channel;
use transept_testkit::launch::unused_address;
use transept_testkit::websocket::{Frame, TEXT, WebSocket};

use crate::stage::{Mesh, Pair, answered, program, repeater, say, send, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_passes_two_sidecars() {
    let mesh = Mesh::start("").await;
    let (web, h2c, grpc) =
        (program("http", Port::Http1).await, program("h2c", Port::H2c).await, program("grpc", Port::Grpc).await);
    let (bytes, polite) = (repeater("").await, repeater("220 ready\r\n").await);
    let cart = mesh
        .sidecar("cart")
        .await
        .port(80, web.address, "")
        .port(81, h2c.address, "/h2c")
        .port(82, grpc.address, "/grpc")
        .port(83, bytes, "")
        .port(84, polite, "")
        .port(85, bytes, "/tcp");
    let caller = (80..=85).fold(mesh.sidecar("web").await, |caller, port| caller.upstream(&format!("cart:{port}")));
    let proxy = unused_address().expect("an address");
    let caller = caller.argument(format!("--http-proxy={proxy}"));
    let (behind, before) = (cart.start().await, caller.start().await);
    let at = caller.local;

    // HTTP/1.1, with the identity of the caller and nothing that it claims of itself.
    answered(at[0], 200).await;
    let claim = Request::get("cart", "/x?y=1")
        .with("x-forwarded-client-cert", "URI=spiffe://transept.local/ns/default/sa/bank");
    let seen = Echo::parse(&send(at[0], &claim).await.expect("an answer").body).expect("an echo");
    assert_eq!((seen.path.as_str(), seen.pod.as_str()), ("/x?y=1", "http"));
    let said = seen.header("x-forwarded-client-cert").expect("an identity");
    assert!(said.contains("URI=spiffe://transept.local/ns/default/sa/web"), "{said}");
    assert!(said.contains("By=spiffe://transept.local/ns/default/sa/cart"), "{said}");
    assert!(!said.contains("sa/bank"), "{said}");

    // Encoded slashes and names with `_` stay, but for other spellings of what tells who the caller is.
    let odd = Request::get("cart", "/shop/a%2Fb/c%5Cd?y").with("user_id", "7").with("x_forwarded_client_cert", "me");
    for way in [Endpoint::http1(at[0]), Endpoint::h2c(at[1])] {
        let answer = soon(exchange(&way, &odd)).await.outcome.expect("an answer");
        let seen = Echo::parse(&answer.body).expect("an echo");
        assert_eq!(seen.path, "/shop/a%2Fb/c%5Cd?y");
        assert_eq!((seen.header("user_id"), seen.header("x_forwarded_client_cert")), (Some("7".to_owned()), None));
    }

    // HTTP/1.0 without a host: the destination is known.
    let mut old = TcpStream::connect(at[0]).await.expect("connected");
    old.write_all(b"GET /old HTTP/1.0\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    soon(old.read_to_end(&mut answer)).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("cart.default.svc.cluster.local"), "{answer}");

    // As a program that was told of an HTTP proxy asks.
    for (host, status) in [("cart", 200), ("cart.default.svc.cluster.local", 200), ("nobody.mesh", 404)] {
        let answer = send(proxy, &Request::get(host, &format!("http://{host}/there"))).await.expect("an answer");
        assert_eq!(answer.status, status, "{host}");
    }

    // HTTP/2 and gRPC.
    let answer = soon(exchange(&Endpoint::h2c(at[1]), &Request::get("cart", "/two"))).await.outcome.expect("an answer");
    let seen = Echo::parse(&answer.body).unwrap_or_else(|| panic!("{answer:?}\n{}\n{}", before.log(), behind.log()));
    assert_eq!(seen.proto, "HTTP/2.0");
    let channel = soon(Channel::connect(&Endpoint::h2c(at[2]))).await.expect("a channel");
    let reply = soon(channel.echo("Echo", "cart", &[])).await.expect("a reply");
    let seen =
        reply.seen.unwrap_or_else(|| panic!("{} {}\n{}\n{}", reply.code, reply.message, before.log(), behind.log()));
    assert_eq!((reply.code, seen.pod.as_str()), (0, "grpc"));

    // WebSocket.
    let mut socket =
        soon(WebSocket::connect(&Endpoint::http1(at[0]), "cart", "/ws", "http://cart")).await.expect("upgraded");
    let frame = Frame { opcode: TEXT, payload: b"hello".to_vec() };
    socket.send(&frame).await.expect("sent");
    assert_eq!(soon(socket.receive()).await.expect("a frame"), Some(frame));

    // Bytes: found out, with a server that speaks first, and declared.
    for (number, greeting) in [(3, ""), (4, "220 ready\r\n"), (5, "")] {
        let mut stream = TcpStream::connect(at[number]).await.expect("connected");
        say(&mut stream, "", greeting).await;
        say(&mut stream, "\u{1}HELO\r\n", "\u{1}HELO\r\n").await;
        stream.shutdown().await.expect("ended");
        let mut rest = Vec::new();
        soon(stream.read_to_end(&mut rest)).await.expect("the other side ends too");
        assert!(rest.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_without_a_certificate_of_the_mesh_is_heard() {
    let mesh = Mesh::start("").await;
    let pair = Pair::start(&mesh).await;
    let tunnels = pair.cart_setup.tunnels;

    // Clear text, whatever it says, gets no word of HTTP.
    let mut plain = TcpStream::connect(tunnels).await.expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let _ = soon(plain.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));

    // TLS without a certificate, and with one of another authority, for the same name.
    let root = transept_testkit::certificates::certificate_from_pem(
        &std::fs::read_to_string(mesh.path("control/ca.pem")).expect("the root"),
    )
    .expect("a certificate");
    let foreign = Authority::new(KeyKind::Ecdsa).expect("an authority");
    let forged = foreign.issue(Usage::Client, &["web"]).expect("a certificate");
    for identity in [None, Some(std::sync::Arc::new(forged))] {
        let tls = Tls { server_name: "cart".to_owned(), trust: Trust::Authority(root.clone()), identity };
        let endpoint = Endpoint { address: tunnels, protocol: Protocol::Http2, tls: Some(tls) };
        let outcome = soon(exchange(&endpoint, &Request::get("cart", "/"))).await.outcome;
        assert!(outcome.is_err(), "{outcome:?}");
    }
    answered(pair.local(), 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_who_is_expected_gets_no_request() {
    let mesh = Mesh::start("").await;
    // A workload in the files says that cart is where bank is.
    let bank_program = program("bank-1", Port::Http1).await;
    let bank = mesh.sidecar("bank").await.port(80, bank_program.address, "");
    let _bank = bank.start().await;
    mesh.configure(&format!(
        "\
{{apiVersion: v1, kind: Service, metadata: {{name: cart}}, spec: {{ports: [{{port: 80}}]}}}}
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {{name: cart-1}}
spec: {{services: [cart], address: {}, ports: [{{port: 80, targetPort: {}}}], tunnel: {{port: {}}}}}
",
        bank.tunnels.ip(),
        bank_program.address.port(),
        bank.tunnels.port()
    ));
    let web = mesh.sidecar("web").await.upstream("cart").upstream("bank");
    let _web = web.start().await;
    answered(web.local[1], 200).await;
    let refused = answered(web.local[0], 502).await;
    let why = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(why.contains("upstream.certificate_invalid"), "{why}");
}
