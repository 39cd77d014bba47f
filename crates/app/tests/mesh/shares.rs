//! A limit that proxies divide among themselves, without a store: the control plane tells them how many they are.

use std::net::SocketAddr;

use transept_testkit::echo::Port;

use crate::stage::{Mesh, answered, get, program, until};

/// Two hundred a day, by any callers together.
const LIMITED: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart}
spec:
  parentRefs: [{group: '', kind: Service, name: cart}]
  rules: [{backendRefs: [{name: cart, port: 80}]}]
---
apiVersion: transept.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: all}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}]
  perProxy: Share
  limits: [{name: all, requests: 200, per: 24h, key: []}]
";

/// What a response says of the share.
async fn share(at: SocketAddr) -> Option<String> {
    get(at).await.ok()?.field("ratelimit-policy").map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_share_a_limit_and_keep_their_shares_while_the_control_plane_restarts() {
    let mut mesh = Mesh::start(LIMITED).await;
    let echo = program("cart-1", Port::Http1).await;
    let cart = mesh.sidecar("cart").await.port(80, echo.address, "").start().await;
    let one = mesh.instance("web", "web-1").await.upstream("cart");
    let first = one.start().await;
    let two = mesh.instance("web", "web-2").await.upstream("cart");
    let local = [one.local[0], two.local[0]];
    answered(local[0], 200).await;
    // The sidecar of the cart may call it as well.
    until(|| share(local[0]), |share| share.as_deref().is_some_and(|share| share.contains(";q=100;"))).await;
    let _second = two.start().await;
    answered(local[1], 200).await;
    for at in local {
        until(|| share(at), |share| share.as_deref().is_some_and(|share| share.contains(";q=66;"))).await;
    }

    mesh.kill_control().await;
    mesh.start_control().await;
    let proxies = |status: &serde_json::Value| {
        status["members"].as_array().is_some_and(|all| all.iter().filter(|one| one["connected"] == true).count() == 3)
    };
    until(|| mesh.status(), proxies).await;
    let mut passed = [0, 0];
    for (at, passed) in local.iter().zip(&mut passed) {
        while get(*at).await.expect("an answer").status == 200 {
            *passed += 1;
        }
    }
    // Less what has been asked while they started.
    assert!(passed.iter().all(|passed| (30..=66).contains(passed)), "{passed:?}");

    // Who has left for good leaves his share to the others.
    drop(first);
    until(|| share(local[1]), |share| share.as_deref().is_some_and(|share| share.contains(";q=100;"))).await;
    drop(cart);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_of_one_name_are_counted_one_by_one() {
    let mesh = Mesh::start(LIMITED).await;
    let echo = program("cart-1", Port::Http1).await;
    let _cart = mesh.sidecar("cart").await.port(80, echo.address, "").start().await;
    // As on two copies of a machine: without a port nothing is registered, and no name is taken.
    let one = mesh.instance("web", "copy").await.upstream("cart");
    let _one = one.start().await;
    let other = mesh.path("other.state").display().to_string();
    let two = mesh.instance("web", "copy").await.changed("state", &other).upstream("cart");
    let _two = two.start().await;
    for at in [one.local[0], two.local[0]] {
        until(|| share(at), |share| share.as_deref().is_some_and(|share| share.contains(";q=66;"))).await;
    }
    let names = |status: &serde_json::Value| {
        let members = status["members"].as_array().into_iter().flatten();
        let names = members.filter_map(|member| member["proxy"].as_str()).filter(|name| name.contains("copy"));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let names = names(&mesh.status().await);
    let [first, second] = &names[..] else { panic!("{names:?}") };
    assert_eq!(first, "default/web/copy");
    assert!(second.starts_with("default/web/copy~"), "{second}");
}
