//! A program that may call every service holds only those that it calls.

use std::net::SocketAddr;

use transept_testkit::client::Request;
use transept_testkit::echo::Port;
use transept_testkit::launch::unused_address;

use crate::alone::alone;
use crate::stage::{Mesh, PATIENCE, answered, program, send, until};

/// The status of a request for a service, as a program that was told of an HTTP proxy asks.
async fn call(proxy: SocketAddr, service: &str) -> u16 {
    let request = Request::get(service, &format!("http://{service}/"));
    send(proxy, &request).await.map_or(0, |answer| answer.status)
}

/// What a sidecar keeps on its disk.
fn kept(mesh: &Mesh, name: &str) -> String {
    std::fs::read_to_string(mesh.path(&format!("{name}.state/configuration"))).unwrap_or_default()
}

/// Policies on a service, and on one that does not exist anywhere near.
fn guards(service: &str) -> String {
    let target = |service: &str| format!("{{group: '', kind: Service, name: {service}}}");
    let (own, other) = (target(service), target("till"));
    format!(
        "apiVersion: transept.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {service}}}\n\
         spec: {{targetRefs: [{own}, {other}], allow: [{{from: [{{identities: [default/web]}}]}}]}}\n---\n\
         apiVersion: transept.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: {service}}}\n\
         spec: {{targetRefs: [{own}], mode: Strict}}\n---\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_a_service_comes_with_the_first_call() {
    let mut mesh = Mesh::start(&["cart", "bank"].map(guards).concat()).await;
    let programs = [program("cart-1", Port::Http1).await, program("bank-1", Port::Http1).await];
    let mut sidecars = Vec::new();
    for (service, program) in ["cart", "bank"].into_iter().zip(&programs) {
        sidecars.push(mesh.sidecar(service).await.port(80, program.address, "").start().await);
    }
    let proxy = unused_address().expect("an address");
    let setup = mesh.sidecar("web").await.argument(format!("--http-proxy={proxy}"));
    let web = setup.start().await;
    until(|| async { kept(&mesh, "web") }, |text| text.contains("default/bank") && text.contains("default/cart")).await;
    for kind in ["Workload", "AuthorizationPolicy", "MeshPolicy"] {
        let held = kept(&mesh, "web").contains(&format!("/{kind}\""));
        assert!(!held, "{kind}: that services exist is all that is known of them");
    }

    // The first call waits, and fails for no want of knowledge.
    until(|| call(proxy, "cart"), |status| *status == 200).await;
    let text = until(|| async { kept(&mesh, "web") }, |text| text.contains("/Workload\"")).await;
    assert!(text.contains("default/cart-") || text.contains("\"default/cart\""), "{text}");
    let workloads = text.matches("/Workload\"").count();
    assert_eq!(workloads, 1, "{text}");
    for kind in ["AuthorizationPolicy", "MeshPolicy"] {
        assert_eq!(text.matches(&format!("/{kind}\"")).count(), 1, "{kind}: {text}");
    }
    assert_eq!(call(proxy, "nobody.mesh").await, 404);

    // What was called is known after a restart without a control plane too, and what was not, is not.
    assert!(web.stop(PATIENCE).await.expect("it ends").success());
    mesh.kill_control().await;
    let _web = setup.start().await;
    until(|| call(proxy, "cart"), |status| *status == 200).await;
    assert_eq!(call(proxy, "bank").await, 503);
    mesh.start_control().await;
    until(|| call(proxy, "bank"), |status| *status == 200).await;
}

const TEST: &str = "demand::a_captured_connection_waits_for_what_belongs_to_its_service";

#[test]
fn a_captured_connection_waits_for_what_belongs_to_its_service() {
    alone(TEST, async {
        let mesh = Mesh::start("").await;
        let (cart, bank) = (program("cart-1", Port::Http1).await, program("bank-1", Port::Http1).await);
        let cart = mesh.sidecar("cart").await.port(80, cart.address, "").start().await;
        let _bank = mesh.sidecar("bank").await.port(80, bank.address, "").start().await;
        let _web = mesh.sidecar("web").await.argument("--transparent").start().await;
        let address = || async { crate::transparent::resolve("cart.mesh").await };
        let address = until(address, Option::is_some).await.expect("an address");
        answered((address, 80).into(), 200).await;
        let text = until(|| async { kept(&mesh, "web") }, |text| text.contains("/Workload\"")).await;
        assert_eq!(text.matches("/Workload\"").count(), 1, "{text}");
        drop(cart);
    });
}
