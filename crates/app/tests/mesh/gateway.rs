//! A gateway that is a member of the mesh: who calls from outside reaches programs through their tunnels.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use transept_testkit::client::Request;
use transept_testkit::echo::{Echo, Port};
use transept_testkit::launch::{Launch, Running, unused_address};

use crate::stage::{Mesh, PATIENCE, answered, binary, program, send, soon, until};

/// A gateway with the identity of this name.
pub(crate) async fn start(mesh: &Mesh, name: &str) -> Running {
    let token = mesh.token(name).await;
    let arguments = [
        "proxy".to_owned(),
        format!("--control={}", mesh.address),
        format!("--token-file={}", token.display()),
        format!("--state={}", mesh.path(&format!("{name}.state")).display()),
        format!("--name={name}-1"),
    ];
    Launch::subcommand(binary(), arguments).start(PATIENCE).await.unwrap_or_else(|failure| panic!("{failure}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_calls_programs_by_its_own_identity() {
    let at = unused_address().expect("an address");
    let yaml = format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  gatewayClassName: transept
  addresses: [{{type: IPAddress, value: {}}}]
  listeners: [{{name: http, protocol: HTTP, port: {}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop}}
spec:
  parentRefs: [{{name: edge}}]
  rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]
---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: guard}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: cart}}]
  allow: [{{name: readers, from: [{{identities: [default/edge]}}], to: [{{methods: [GET]}}]}}]
",
        at.ip(),
        at.port()
    );
    let mesh = Mesh::start_with(&yaml, &["--report-interval=200ms"]).await;
    let echo = program("cart-1", Port::Http1).await;
    let cart = mesh.sidecar("cart").await.port(80, echo.address, "").start().await;
    let _gateway = start(&mesh, "edge").await;
    answered(at, 200).await;
    assert!(mesh.status().await.to_string().contains("\"default/edge/edge-1\""));
    let claim = Request::get("shop.test", "/")
        .with("x-forwarded-client-cert", "URI=spiffe://transept.local/ns/default/sa/bank");
    let seen = Echo::parse(&send(at, &claim).await.expect("an answer").body).expect("an echo");
    let said = seen.header("x-forwarded-client-cert").expect("an identity");
    assert!(said.contains("URI=spiffe://transept.local/ns/default/sa/edge"), "{said}");
    assert!(!said.contains("sa/bank"), "{said}");

    let mut delete = Request::get("shop.test", "/items/1");
    delete.method = "DELETE".to_owned();
    assert_eq!(send(at, &delete).await.expect("an answer").status, 403);
    let line = soon(cart.log_line_with("\"status\":403")).await;
    assert!(line.contains("AuthorizationPolicy default/guard"), "{line}");

    // It tells of its own edges too. What the policy refused is no error of the cart.
    let edge = || async {
        let graph = mesh.graph().await;
        let mut edges = graph["edges"].as_array().cloned().unwrap_or_default().into_iter();
        edges.find(|edge| edge["source"] == "default/edge").unwrap_or_default()
    };
    let edge = until(edge, |edge| edge["requests"].as_u64() > Some(2)).await;
    assert_eq!(edge["destination"], "default/cart", "{edge}");
    assert!(edge["errors"].as_u64() < edge["requests"].as_u64(), "{edge}");
}

/// Which Gateway a process is, its identity says: it opens no other one, and has no problem with what belongs to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_serves_the_gateway_of_its_identity_and_no_other_one() {
    let addresses = [(); 2].map(|()| unused_address().expect("an address"));
    let gateway = |(name, at): (&str, &SocketAddr)| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}}}, spec: {{gatewayClassName: transept, \
             addresses: [{{type: IPAddress, value: {}}}], listeners: [{{name: http, protocol: HTTP, port: {}}}]}}}}\n---\n",
            at.ip(),
            at.port()
        )
    };
    let yaml: String = ["edge", "inner"].into_iter().zip(&addresses).map(gateway).collect();
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: shop}, spec: {parentRefs: [{name: inner}]}}";
    let mesh = Mesh::start(&(yaml + route)).await;
    let problems = async |gateway: &Running| {
        let status = gateway.status().await.expect("a status");
        status["problems"].as_array().expect("a list").clone()
    };
    let edge = start(&mesh, "edge").await;
    answered(addresses[0], 404).await;
    assert!(problems(&edge).await.is_empty(), "{:?}", problems(&edge).await);
    drop(edge);
    // Those addresses are free again, and whoever is neither of the two leaves them so.
    let lost = start(&mesh, "lost").await;
    let told = problems(&lost).await;
    assert!(told.len() == 1 && told[0].to_string().contains("there is no Gateway default/lost"), "{told:?}");
    for at in addresses {
        assert!(TcpStream::connect(at).await.is_err(), "{at}");
    }
}
