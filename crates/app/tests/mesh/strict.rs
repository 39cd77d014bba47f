//! A strict MeshPolicy binds who calls: an address without a tunnel is never called, whoever names it.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use transept_testkit::client::{Answer, Endpoint};
use transept_testkit::echo::Port;
use transept_testkit::launch::unused_port;
use transept_testkit::websocket::{BINARY, Frame, WebSocket};

use crate::instances::lead_on;
use crate::machines::{Machine, with_machines};
use crate::stage::{
    Mesh, PATIENCE, answered, begin_events, events, get, passes, program, repeater, say, soon, told, until,
};

/// A Service whose only endpoint is known from a file, whether somebody has registered from there or not.
fn shop(port: u16, mode: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: cart}}
spec: {{ports: [{{port: 80, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: cart-1, labels: {{kubernetes.io/service-name: cart}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
---
apiVersion: transept.dev/v1alpha1
kind: MeshPolicy
metadata: {{name: cart}}
spec: {{targetRefs: [{{group: '', kind: Service, name: cart}}], mode: {mode}}}
"
    )
}

/// Whether this is the answer of a caller that has nobody to call.
fn nobody(answer: &Result<Answer, String>) -> bool {
    answer
        .as_ref()
        .is_ok_and(|answer| answer.status == 503 && String::from_utf8_lossy(&answer.body).contains("mesh.no_tunnel"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_without_a_tunnel_is_called_by_nobody_while_the_policy_is_strict() {
    let program = program("cart-1", Port::Http1).await;
    let mesh = Mesh::start(&shop(program.address.port(), "Permissive")).await;
    let setup = mesh.sidecar("web").await.upstream("cart:80");
    let web = setup.start().await;
    let call = || get(setup.local[0]);
    answered(setup.local[0], 200).await;

    mesh.configure(&shop(program.address.port(), "Strict"));
    let _ = until(call, nobody).await;
    let line = told(&web, "mesh.no_tunnel").await;
    assert!(line.contains("MeshPolicy default/cart: no tunnel leads to 127.0.0.1:"), "{line}");
    let status = mesh.status().await;
    assert_eq!(status["leftOut"][0]["service"], "default/cart", "{status}");
    assert_eq!(status["leftOut"][0]["policy"], "MeshPolicy default/cart", "{status}");

    // Who registers from there has a tunnel, and is called through it.
    let tunnels = SocketAddr::from(([127, 0, 0, 1], unused_port()));
    let cart = mesh.sidecar("cart").await.at(tunnels).port(80, program.address, "").start().await;
    answered(setup.local[0], 200).await;
    let status = mesh.status().await;
    assert_eq!(status["leftOut"].as_array().map(Vec::len), Some(0), "{status}");

    // When it has stopped in order, the slice still names the address, and the program lives on: nobody calls it in clear text, whatever the policy says.
    assert!(cart.stop(PATIENCE).await.expect("it ends").success());
    let never_in_clear_text = |answer: &Result<Answer, String>| {
        assert!(!answer.as_ref().is_ok_and(|answer| answer.status == 200), "{answer:?}");
        let body = answer.as_ref().map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
        body.is_ok_and(|body| body.contains("backend.no_endpoints"))
    };
    let _ = until(call, never_in_clear_text).await;
    assert_eq!(mesh.status().await["workloads"][0]["left"], true);
    mesh.configure(&shop(program.address.port(), "Permissive"));
    let _ = until(call, never_in_clear_text).await;
    // Once the slice has named it no more, whoever names it again means what is there now.
    mesh.configure(&shop(unused_port(), "Permissive"));
    until(|| mesh.status(), |status| status["workloads"].as_array().is_some_and(Vec::is_empty)).await;
    mesh.configure(&shop(program.address.port(), "Permissive"));
    answered(setup.local[0], 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_open_in_clear_text_are_cut_when_the_policy_becomes_strict() {
    let bytes = repeater("").await;
    let mesh = Mesh::start(&shop(bytes.port(), "Permissive")).await;
    let setup = mesh.sidecar("web").await.upstream("cart:80");
    let web = setup.start().await;
    passes(setup.local[0], "HELO me\r\n", "HELO me\r\n").await;
    let mut stream = TcpStream::connect(setup.local[0]).await.expect("connected");
    say(&mut stream, "HELO me\r\n", "HELO me\r\n").await;

    mesh.configure(&shop(bytes.port(), "Strict"));
    let ended = soon(stream.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let line = told(&web, "mesh.no_tunnel").await;
    assert!(line.contains("MeshPolicy default/cart: the connection was open without a tunnel"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_that_is_open_in_clear_text_is_cut_too() {
    let program = program("cart-1", Port::Http1).await;
    let mesh = Mesh::start(&shop(program.address.port(), "Permissive")).await;
    let setup = mesh.sidecar("web").await.upstream("cart:80");
    let web = setup.start().await;
    answered(setup.local[0], 200).await;
    let socket = WebSocket::connect(&Endpoint::http1(setup.local[0]), "cart", "/ws", "http://cart").await;
    let mut socket = socket.map_err(|failure| failure.to_string()).expect("a WebSocket");
    let hello = Frame { opcode: BINARY, payload: b"hello".to_vec() };
    socket.send(&hello).await.expect("sent");
    assert_eq!(soon(socket.receive()).await.expect("an answer"), Some(hello));

    mesh.configure(&shop(program.address.port(), "Strict"));
    let line = told(&web, "mesh.no_tunnel").await;
    assert!(line.contains("MeshPolicy default/cart: the connection was open without a tunnel"), "{line}");
    assert!(matches!(soon(socket.receive()).await, Ok(None) | Err(_)), "it is cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_is_under_way_in_clear_text_is_cut_too() {
    let mesh = Mesh::start(&shop(events().await.port(), "Permissive")).await;
    let setup = mesh.sidecar("web").await.upstream("cart:80");
    let web = setup.start().await;
    let mut stream = TcpStream::connect(setup.local[0]).await.expect("connected");
    begin_events(&mut stream).await;

    mesh.configure(&shop(1, "Strict"));
    let line = told(&web, "mesh.no_tunnel").await;
    assert!(line.contains("MeshPolicy default/cart: the connection was open without a tunnel"), "{line}");
    let mut received = Vec::new();
    let _ = soon(stream.read_to_end(&mut received)).await;
    assert!(!received.ends_with(b"0\r\n\r\n"), "the response has not come to its end");
}

#[test]
fn a_captured_connection_to_an_address_is_cut_when_the_address_may_only_be_called_in_tunnels() {
    let test = "strict::a_captured_connection_to_an_address_is_cut_when_the_address_may_only_be_called_in_tunnels";
    with_machines(test, None, || {
        let middle = Machine::middle();
        let control = SocketAddr::new(middle.address().into(), 9909);
        let mesh = middle.run(Mesh::start_at(control, &shop(1, "Permissive"), &[]));
        let far = Machine::linked(1);
        let here = SocketAddr::new(far.address().into(), 0);
        let at = far.run(async { lead_on(here, repeater("").await).await });
        let web = Machine::linked(9);
        let setup = middle.run(mesh.instance("web", "web")).argument("--transparent");
        let sidecar = web.run(setup.start());
        let mut stream = web.run(async {
            let mut stream = soon(TcpStream::connect(at)).await.expect("connected");
            say(&mut stream, "HELO me\r\n", "HELO me\r\n").await;
            stream
        });
        let instance = format!(
            "---\napiVersion: transept.dev/v1alpha1\nkind: Workload\nmetadata: {{name: cart-1}}\n\
             spec: {{services: [cart], address: {}, ports: [{{port: 80, targetPort: {}}}]}}\n",
            at.ip(),
            at.port()
        );
        mesh.configure(&format!("{}{instance}", shop(1, "Strict")));
        let ended = web.run(soon(stream.read(&mut [0])));
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        let line = web.run(told(&sidecar, "mesh.no_tunnel"));
        assert!(line.contains("MeshPolicy default/cart: the connection was open without a tunnel"), "{line}");
    });
}

const CHECKED: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}
---
apiVersion: transept.dev/v1alpha1
kind: MeshPolicy
metadata: {name: cart}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], mode: Strict}
---
apiVersion: transept.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart}
spec:
  targetRefs: [{group: '', kind: Service, name: cart}]
  healthCheck: {path: /health, interval: 100ms}
  balancer: {panicThreshold: 0}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_check_goes_past_no_tunnel() {
    let mesh = Mesh::start(CHECKED).await;
    let program = program("cart-1", Port::Http1).await;
    let cart = mesh.sidecar("cart").await.port(80, program.address, "");
    // Where somebody would come who calls the instance's address in clear text.
    let beside = SocketAddr::new(cart.tunnels.ip(), program.address.port());
    let listener = TcpListener::bind(beside).await.expect("a port of another address");
    let web = mesh.sidecar("web").await.upstream("cart");
    let (_cart, running) = (cart.start().await, web.start().await);
    answered(web.local[0], 200).await;
    for _ in 0..30 {
        assert_eq!(get(web.local[0]).await.expect("an answer").status, 200);
    }
    let checked = |status: &Result<serde_json::Value, _>| {
        status.as_ref().is_ok_and(|status| status["backends"].to_string().contains("serving"))
    };
    until(|| running.status(), checked).await.expect("a status");
    let listener = listener.into_std().expect("a socket");
    assert!(listener.accept().is_err(), "somebody came in clear text");
}
