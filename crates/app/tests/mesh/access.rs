//! Who may do what: policies of the mesh at the sidecar of the program that is called.

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use transept_testkit::client::{Endpoint, Request};
use transept_testkit::echo::{Echo, Port};
use transept_testkit::websocket::{Frame, TEXT, WebSocket};

use crate::stage::{Mesh, Pair, answered, program, repeater, say, send, soon, until};

fn policy(spec: &str) -> String {
    format!(
        "\
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: guard}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: cart}}]
{spec}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_names_policy_and_rule_in_the_access_log() {
    let mesh = Mesh::start(&policy("  deny: [{name: no-deletes, to: [{methods: [DELETE]}]}]")).await;
    let pair = Pair::start(&mesh).await;
    let mut delete = Request::get("cart", "/items/1");
    delete.method = "DELETE".to_owned();
    until(|| send(pair.local(), &delete), |answer| answer.as_ref().is_ok_and(|answer| answer.status == 403))
        .await
        .expect("an answer");
    let line = soon(pair.cart.log_line_with("\"status\":403")).await;
    assert!(line.contains("AuthorizationPolicy default/guard, rule no-deletes"), "{line}");
    let who = "\"principal\":\"workload\",\"principal_id\":\"spiffe://transept.local/ns/default/sa/web\"";
    assert!(line.contains(who), "{line}");
    answered(pair.local(), 200).await;

    // Who is allowed is named by identity; everybody else is not.
    mesh.configure(&policy("  allow: [{name: office, from: [{identities: [default/office]}]}]"));
    answered(pair.local(), 403).await;
    mesh.configure(&policy("  allow: [{name: web, from: [{identities: [default/web]}]}]"));
    answered(pair.local(), 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_changes_ends_connections_that_it_does_not_allow() {
    let mesh = Mesh::start("").await;
    let (http, bytes) = (program("cart-1", Port::Http1).await, repeater("").await);
    let cart = mesh.sidecar("cart").await.port(80, http.address, "").port(90, bytes, "");
    let web = mesh.sidecar("web").await.upstream("cart:80").upstream("cart:90");
    let (_cart, _web) = (cart.start().await, web.start().await);
    answered(web.local[0], 200).await;
    let mut stream = TcpStream::connect(web.local[1]).await.expect("connected");
    say(&mut stream, "\u{2}before\n", "\u{2}before\n").await;

    // Another change leaves it alone.
    mesh.configure(&policy("  deny: [{name: bank, from: [{identities: [default/bank]}]}]"));
    say(&mut stream, "\u{2}between\n", "\u{2}between\n").await;
    mesh.configure(&policy("  deny: [{name: web, from: [{identities: [default/web]}]}]"));
    let mut rest = Vec::new();
    // Cut off or ended: in no case does it go on.
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
    answered(web.local[0], 403).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_changes_ends_upgraded_connections_that_it_does_not_allow() {
    let mesh = Mesh::start("").await;
    let pair = Pair::start(&mesh).await;
    answered(pair.local(), 200).await;
    let local = Endpoint::http1(pair.local());
    let connect = |host: &'static str| WebSocket::connect(&local, host, "/ws", "http://cart");
    let frame = Frame { opcode: TEXT, payload: b"hello".to_vec() };
    let (mut denied, mut kept) =
        (soon(connect("private.test")).await.expect("upgraded"), soon(connect("cart")).await.expect("upgraded"));
    for socket in [&mut denied, &mut kept] {
        socket.send(&frame).await.expect("sent");
        assert_eq!(soon(socket.receive()).await.expect("a frame"), Some(frame.clone()));
    }
    mesh.configure(&policy("  deny: [{name: private, to: [{hosts: [private.test]}]}]"));
    // Cut off or ended: in no case does it go on.
    assert!(!matches!(soon(denied.receive()).await, Ok(Some(_))));
    kept.send(&frame).await.expect("sent");
    assert_eq!(soon(kept.receive()).await.expect("a frame"), Some(frame));
    let line = soon(pair.cart.log_line_with("not allowed any more")).await;
    assert!(
        line.contains("private.test") && line.contains("AuthorizationPolicy default/guard, rule private:"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_guarded_by_every_service_whose_slice_names_it() {
    let cart_program = program("cart-1", Port::Http1).await;
    let port = cart_program.address.port();
    let both = format!(
        "\
---
{{apiVersion: v1, kind: Service, metadata: {{name: all}}, spec: {{ports: [{{name: http, port: 8000, targetPort: {port}}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: all-1, labels: {{kubernetes.io/service-name: all}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
---
"
    );
    let policy = |rules: &str| format!("{both}{}", policy(rules).replace("name: cart}", "name: all}"));
    let mesh = Mesh::start(&policy("  allow: [{name: office, from: [{identities: [default/office]}]}]")).await;
    // Only who is at the address that a slice names is meant by it.
    let cart = mesh.sidecar("cart").await.argument("--listen=127.0.0.1:0").port(80, cart_program.address, "");
    let web = mesh.sidecar("web").await.upstream("all");
    let (_cart, _web) = (cart.start().await, web.start().await);
    answered(web.local[0], 403).await;
    mesh.configure(&policy("  allow: [{name: web, from: [{identities: [default/web]}]}]"));
    let answer = answered(web.local[0], 200).await;
    let said = Echo::parse(&answer.body).expect("an echo").header("x-forwarded-client-cert").expect("an identity");
    assert!(said.contains("URI=spiffe://transept.local/ns/default/sa/web"), "{said}");
}
