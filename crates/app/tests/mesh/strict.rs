//! A strict MeshPolicy binds who calls: an address without a tunnel is never called, whoever names it.

use std::net::SocketAddr;

use transept_testkit::client::Answer;
use transept_testkit::echo::Port;
use transept_testkit::launch::unused_port;

use crate::stage::{Mesh, PATIENCE, answered, get, program, told, until};

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

    // When the registration ends, the slice still names the address.
    assert!(cart.stop(PATIENCE).await.expect("it ends").success());
    let never_in_clear_text = |answer: &Result<Answer, String>| {
        assert!(!answer.as_ref().is_ok_and(|answer| answer.status == 200), "{answer:?}");
        nobody(answer)
    };
    let _ = until(call, never_in_clear_text).await;
    mesh.configure(&shop(program.address.port(), "Permissive"));
    answered(setup.local[0], 200).await;
}
