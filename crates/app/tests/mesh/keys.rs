//! API keys in the state of a control plane: what commands say of them while it runs, and when it does not.

use std::net::SocketAddr;

use rustix::process::Signal;
use transept_testkit::launch::unused_address;

use crate::stage::{Mesh, soon};

const NAMED: &str = "{apiVersion: transept.dev/v1alpha1, kind: ApiKey, metadata: {name: mobile-1}, spec: {consumer: mobile, \
                     hash: 'sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'}}";

/// A gateway that lets nobody in without a key; the files have one key already.
fn shop(at: SocketAddr) -> String {
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge}}
spec: {{gatewayClassName: transept, listeners: [{{name: http, protocol: HTTP, port: {}}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop}}
spec: {{rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: cart}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {{name: guard}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}]
  schemes: [{{name: key, apiKey: {{}}}}]
---
{{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {{name: mobile}}, spec: {{plan: gold}}}}
---
{NAMED}
",
        at.port()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_reads_the_keys_of_a_control_plane_that_runs_and_of_one_that_does_not() {
    let at = unused_address().expect("an address");
    let mesh = Mesh::prepare(unused_address().expect("an address"), &shop(at), &[]);
    let mut gateway = mesh.start_embedded().await;
    let key = mesh.transept(&["key", "create", "--consumer", "mobile"]).await;
    let field = format!("x-api-key: {}", key.trim());
    let url = format!("http://{at}/");
    let file = mesh.path("mesh.yaml");
    let explain = ["explain", "GET", &url, "-H", &field, "-f", file.to_str().expect("UTF-8")];
    let running = mesh.transept(&explain).await;
    assert!(running.contains("app default/mobile, credential mobile-2"), "the free name: {running}");
    gateway.signal(Signal::KILL).expect("sent");
    soon(gateway.ended()).await.expect("it ends");
    assert_eq!(mesh.transept(&explain).await, running, "the state itself is read");
    assert!(!running.contains(key.trim()), "a secret is nobody's: {running}");
}
