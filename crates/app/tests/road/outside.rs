//! A gateway that is not in the mesh, before Services that are called in tunnels: it says what it lacks, and never goes on in clear text.

use std::net::SocketAddr;

use serde_json::Value;

use crate::stage::{Caller, Setup, Up, soon};
use crate::traffic::Actor;

/// A Service whose endpoint is this one, and a route to it. `more` says what is known of it besides.
fn guarded(at: SocketAddr, more: &str) -> String {
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: guarded}}
spec:
  parentRefs: [{{name: gate-0}}]
  rules: [{{matches: [{{path: {{value: /guarded}}}}], backendRefs: [{{name: cart, port: 80}}]}}]
---
{{apiVersion: v1, kind: Service, metadata: {{name: cart}}, spec: {{ports: [{{port: 80}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: cart-1, labels: {{kubernetes.io/service-name: cart}}}}
addressType: IPv4
ports: [{{port: {}}}]
endpoints: [{{addresses: [{}]}}]
---
{more}",
        at.port(),
        at.ip()
    )
}

#[tokio::test]
async fn a_gateway_outside_the_mesh_is_told_why_it_reaches_nobody() {
    let actor = Actor::start().await;
    let strict = "apiVersion: transept.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: cart}\n\
                  spec: {targetRefs: [{group: '', kind: Service, name: cart}], mode: Strict}";
    let member = format!(
        "apiVersion: transept.dev/v1alpha1\nkind: Workload\nmetadata: {{name: cart-1}}\n\
         spec: {{services: [cart], address: 127.0.0.1, ports: [{{port: 80, targetPort: {}}}], tunnel: {{}}}}",
        actor.address.port()
    );
    for (more, why) in [
        (strict, "MeshPolicy default/cart: no tunnel leads to 127.0.0.1:"),
        (&member, "spiffe://transept.local/ns/default/sa/cart is called in tunnels only"),
    ] {
        let setup =
            Setup::of(&[SocketAddr::from(([127, 0, 0, 1], 9))], Up::Http1).document(&guarded(actor.address, more));
        let gateway = setup.argument("--access-log=stdout").argument("--access-log-format=json").start().await;
        let mut caller = Caller::http11(gateway.address).await;
        let (status, body) = caller.get("/guarded").await;
        assert_eq!(status, 503, "{}", body.escape_ascii());
        let line = soon(gateway.running.log_line_with("\"path\":\"/guarded\"")).await;
        let record: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(record["error"], "mesh.no_tunnel", "{line}");
        let detail = record["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(why), "{line}");
        assert!(detail.contains("not a member of the mesh") && detail.contains("transept run --mesh"), "{line}");
    }
    assert_eq!(actor.heard(), 0, "nothing went on in clear text");
}
