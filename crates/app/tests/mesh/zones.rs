//! Zones in the mesh: every workload says where it is, and its callers prefer who is near.

use transept_testkit::client::Request;
use transept_testkit::echo::{Echo, Port};

use crate::stage::{Mesh, program, send, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_stay_in_the_zone_and_go_elsewhere_when_nobody_is_left_in_it() {
    let mesh = Mesh::start(
        "\
{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}
---
apiVersion: transept.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart}
spec: {targetRefs: [{group: \"\", kind: Service, name: cart}], locality: {}}
",
    )
    .await;
    let (near_program, far_program) = (program("near", Port::Http1).await, program("far", Port::Http1).await);
    let near = mesh.instance("cart", "cart-1").await.port(80, near_program.address, "").argument("--zone=a");
    // The next token has the same file.
    let near = near.start().await;
    let far = mesh.instance("cart", "cart-2").await.port(80, far_program.address, "").argument("--zone=b");
    let web = mesh.sidecar("web").await.upstream("cart").argument("--zone=a");
    let (_far, _web) = (far.start().await, web.start().await);
    let asked = || async {
        let answer = send(web.local[0], &Request::get("cart", "/")).await.ok()?;
        Echo::parse(&answer.body).map(|echo| echo.pod)
    };
    until(asked, |pod| pod.as_deref() == Some("near")).await;
    for _ in 0..20 {
        assert_eq!(asked().await.as_deref(), Some("near"));
    }
    near.stop(crate::stage::PATIENCE).await.expect("it stops");
    until(asked, |pod| pod.as_deref() == Some("far")).await;
}
