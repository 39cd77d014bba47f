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
    // The request as it is forwarded has an id of its own each time.
    let before_forward = |text: &str| text.split("\nforward ").next().expect("a part").to_owned();
    assert_eq!(before_forward(&mesh.transept(&explain).await), before_forward(&running), "the state itself is read");
    assert!(!running.contains(key.trim()), "a secret is nobody's: {running}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_at_once_lose_no_key_and_no_revocation() {
    let at = unused_address().expect("an address");
    let mesh = Mesh::prepare(unused_address().expect("an address"), &shop(at), &[]);
    let _gateway = mesh.start_embedded().await;
    let create = ["key", "create", "--consumer", "par"];
    let made = tokio::join!(
        mesh.transept(&create),
        mesh.transept(&create),
        mesh.transept(&create),
        mesh.transept(&create),
        mesh.transept(&create),
    );
    assert!([&made.0, &made.1, &made.2, &made.3, &made.4].iter().all(|key| key.starts_with("tr_live_")), "{made:?}");
    let listed = async || {
        let text = mesh.transept(&["key", "list", "--json"]).await;
        serde_json::from_str::<Vec<serde_json::Value>>(&text).expect("JSON")
    };
    assert_eq!(listed().await.len(), 5, "each has a name of its own");
    for number in 1..=5 {
        let name = format!("par-{number}");
        let (revoke, rotate) = (["key", "revoke", &name], ["key", "rotate", &name]);
        let _both = tokio::join!(mesh.transept(&revoke), mesh.transept(&rotate));
        let all = listed().await;
        let one = all.iter().find(|key| key["name"] == *name).expect("it is kept");
        assert_eq!(one["state"], "revoked", "{name}");
    }
}
