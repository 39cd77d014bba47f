//! An instance that others know by another address than its machine has: behind a translation of addresses, or a port of a container that
//! is published. Here somebody who passes bytes on stands for it.

use std::net::SocketAddr;

use transept_testkit::echo::Port;

use crate::instances::lead_on;
use crate::stage::{Mesh, answered, program};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_called_by_the_address_that_it_announces() {
    let mesh = Mesh::start("").await;
    let cart_program = program("cart-1", Port::Http1).await;
    let cart = mesh.sidecar("cart").await.port(80, cart_program.address, "");
    // Nobody else has the port on another loopback address either, as long as nobody asks for all of them.
    let published = SocketAddr::new([127, 0, 0, 2].into(), cart.tunnels.port());
    lead_on(published, cart.tunnels).await;
    let cart = cart.argument(format!("--address={}", published.ip()));
    let web = mesh.sidecar("web").await.upstream("cart");
    let (_cart, _web) = (cart.start().await, web.start().await);
    answered(web.local[0], 200).await;
    let status = mesh.status().await;
    assert_eq!(status["workloads"][0]["address"], "127.0.0.2", "{status}");
    // From its first connection on it comes from there where it can, which shows that it is there.
    let members = status["members"].as_array().into_iter().flatten();
    let from = members.filter(|one| one["proxy"].as_str().is_some_and(|proxy| proxy.contains("/cart/")));
    let from: Vec<&str> = from.filter_map(|one| one["address"].as_str()).collect();
    assert!(matches!(from[..], [one] if one.starts_with("127.0.0.2:")), "{status}");
}
