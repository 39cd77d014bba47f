//! A gateway with the control plane in the same process: the mesh of one machine in one command.

use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::Value;
use transept_testkit::client::{Answer, Request};
use transept_testkit::echo::{Echo, Port};
use transept_testkit::launch::{Running, unused_address};

use crate::crowd::{Crowd, PACE};
use crate::stage::{Mesh, answered, get, program, send, soon, until};

/// A gateway in front of the cart, which only identities of this list may read.
fn shop(at: SocketAddr, allowed: &str) -> String {
    format!(
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
  allow: [{{name: readers, from: [{{identities: [{allowed}]}}], to: [{{methods: [GET]}}]}}]
",
        at.ip(),
        at.port()
    )
}

/// The same for whoever comes through the gateway, whatever they want.
fn open_shop(at: SocketAddr) -> String {
    let guarded = shop(at, "default/edge");
    let open = guarded.replace(", to: [{methods: [GET]}]", "");
    assert_ne!(open, guarded);
    open
}

/// Who a program says that called it.
fn seen(answer: &Answer) -> Echo {
    Echo::parse(&answer.body).expect("an echo")
}

/// Sends requests until one is answered by this program.
async fn answered_by(at: SocketAddr, program: &str) {
    let by = |answer: &Result<Answer, String>| {
        answer.as_ref().is_ok_and(|answer| answer.status == 200 && seen(answer).pod == program)
    };
    until(|| get(at), by).await.expect("an answer");
}

async fn until_status(running: &Running, good: impl Fn(&Value) -> bool) -> Value {
    until(|| running.status(), |status| status.as_ref().is_ok_and(&good)).await.expect("a status")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_the_control_plane_and_a_member_of_its_mesh() {
    let at = unused_address().expect("an address");
    let mesh = Mesh::prepare(unused_address().expect("an address"), &shop(at, "default/edge"), &[]);
    let gateway = mesh.start_embedded().await;
    // Nobody is there yet, and nobody has said that there is such a service.
    answered(at, 500).await;
    let echo = program("cart-1", Port::Http1).await;
    let cart = mesh.sidecar("cart").await.port(80, echo.address, "").start().await;
    let web_setup = mesh.sidecar("web").await.upstream("cart");
    let _web = web_setup.start().await;

    // A registration is enough: no file names an endpoint.
    answered(at, 200).await;
    let claim = Request::get("shop.test", "/")
        .with("x-forwarded-client-cert", "URI=spiffe://transept.local/ns/default/sa/bank");
    let answer = send(at, &claim).await.expect("an answer");
    let claims = seen(&answer).header("x-forwarded-client-cert").expect("an identity").to_owned();
    assert!(claims.contains("URI=spiffe://transept.local/ns/default/sa/edge"), "{claims}");
    assert!(!claims.contains("sa/bank"), "{claims}");
    // The policy is the cart's: it lets the gateway in, for reading, and nobody else.
    let mut post = Request::get("shop.test", "/");
    post.method = "POST".to_owned();
    assert_eq!(send(at, &post).await.expect("an answer").status, 403);
    answered(web_setup.local[0], 403).await;

    let status = gateway.status().await.expect("a status");
    let part = &status["mesh"];
    assert_eq!(part["identity"], "spiffe://transept.local/ns/default/sa/edge", "{part}");
    assert_eq!(part["control"]["address"], mesh.address.to_string(), "{part}");
    assert_eq!((&part["control"]["proxies"], &part["control"]["workloads"]), (&2.into(), &1.into()), "{part}");
    let shown = mesh.status().await;
    assert_eq!(shown["members"].as_array().map(Vec::len), Some(3), "{shown}");
    assert_eq!(shown["refused"], Value::Array(Vec::new()), "{shown}");
    let certificates = mesh.transept(&["certs", "--json"]).await;
    assert!(certificates.contains("spiffe://transept.local/ns/default/sa/edge"), "{certificates}");

    // A change of the file reaches both: the gateway its listener, the sidecar its policy.
    let elsewhere = unused_address().expect("an address");
    mesh.configure(&shop(elsewhere, "default/web"));
    answered(elsewhere, 403).await;
    answered(web_setup.local[0], 200).await;
    assert!(get(at).await.is_err(), "the listener has moved");
    // A mistake in the file changes nothing, and holds no registration up.
    mesh.configure("kind: Nothing\n");
    until_status(&gateway, |status| status["lastReload"]["ok"] == false).await;
    soon(cart.stop(std::time::Duration::from_secs(30))).await.expect("it ends");
    let empty = |status: &Value| status["mesh"]["control"]["workloads"] == 0;
    assert_eq!(until_status(&gateway, empty).await["lastReload"]["ok"], false);
    answered(elsewhere, 500).await;
    assert_eq!(gateway.status().await.expect("a status")["lastReload"]["ok"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_come_and_go_without_a_failed_request() {
    let at = unused_address().expect("an address");
    let mesh = Mesh::prepare(unused_address().expect("an address"), &open_shop(at), &[]);
    let _gateway = mesh.start_embedded().await;
    let programs = [program("cart-1", Port::Http1).await, program("cart-2", Port::Http1).await];
    let first = mesh.instance("cart", "cart-1").await.port(80, programs[0].address, "").start().await;
    answered(at, 200).await;
    let crowd = Crowd::begin(at, at, PACE).await;
    let second = mesh.instance("cart", "cart-2").await.port(80, programs[1].address, "").start().await;
    answered_by(at, "cart-2").await;
    let ended = first.stop(std::time::Duration::from_secs(30)).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
    crowd.more().await;
    crowd.end().await.is_clean();
    answered_by(at, "cart-2").await;
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_outlives_the_process_and_no_new_tokens_are_needed() {
    let at = unused_address().expect("an address");
    let mesh = Mesh::prepare(unused_address().expect("an address"), &open_shop(at), &[]);
    let mut gateway = mesh.start_embedded().await;
    let echo = program("cart-1", Port::Http1).await;
    let _cart = mesh.sidecar("cart").await.port(80, echo.address, "").start().await;
    answered(at, 200).await;
    // Killed, not stopped: nothing is tidied up.
    gateway.signal(Signal::KILL).expect("sent");
    soon(gateway.ended()).await.expect("it ends");
    let gateway = mesh.start_embedded().await;
    answered(at, 200).await;
    until_status(&gateway, |status| status["mesh"]["control"]["proxies"] == 1).await;
    assert_eq!(mesh.status().await["workloads"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_without_a_proxy_register_at_a_gateway_with_its_mesh() {
    let (at, api) = (unused_address().expect("an address"), unused_address().expect("an address"));
    // Nobody could keep others from a program that has no proxy.
    let unguarded = shop(at, "default/edge");
    let (unguarded, _) = unguarded.rsplit_once("---").expect("a policy at the end");
    let address = unused_address().expect("an address");
    let mesh = Mesh::prepare(address, unguarded, &[&format!("--api={api}")]);
    let _gateway = mesh.start_embedded().await;
    let echo = program("cart-1", Port::Http1).await;
    let token = std::fs::read_to_string(mesh.token("cart").await).expect("a token");
    let spec = serde_json::json!({"ports": [{"port": 80, "targetPort": echo.address.port()}]});
    let mut put = Request::get("registry", "/v1/namespaces/default/workloads/cart-1")
        .with("authorization", &format!("Bearer {}", token.trim()));
    (put.method, put.body) = ("PUT".to_owned(), spec.to_string().into_bytes());
    let made = send(api, &put).await.expect("an answer");
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    answered(at, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_cost_the_gateway_no_request() {
    let at = unused_address().expect("an address");
    let mesh = Mesh::prepare(unused_address().expect("an address"), &open_shop(at), &["--leaf-life=4s"]);
    let gateway = mesh.start_embedded().await;
    let echo = program("cart-1", Port::Http1).await;
    let _cart = mesh.sidecar("cart").await.port(80, echo.address, "").start().await;
    answered(at, 200).await;
    let crowd = Crowd::begin(at, at, PACE).await;
    for _ in 0..2 {
        let before = gateway.status().await.expect("a status")["mesh"]["certificateEnds"].clone();
        until_status(&gateway, |status| status["mesh"]["certificateEnds"] != before).await;
    }
    crowd.more().await;
    crowd.end().await.is_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_root_waits_for_the_gateway_and_not_for_one_that_has_ended() {
    let at = unused_address().expect("an address");
    let mesh = Mesh::prepare(unused_address().expect("an address"), &open_shop(at), &[]);
    let mut gateway = mesh.start_embedded().await;
    let echo = program("cart-1", Port::Http1).await;
    let _cart = mesh.sidecar("cart").await.port(80, echo.address, "").start().await;
    answered(at, 200).await;
    // The certificate of this process lives for a day, and nobody can show it any more.
    gateway.signal(Signal::KILL).expect("sent");
    soon(gateway.ended()).await.expect("it ends");
    let gateway = mesh.start_embedded().await;
    let before = gateway.status().await.expect("a status")["mesh"].clone();
    let metrics = gateway.metrics().await.expect("metrics");
    assert!(metrics.contains("transept_mesh_root_expiration_timestamp_seconds{root=\""), "{metrics}");
    assert!(metrics.contains("\ntransept_mesh_service_verdict{service=\"default/cart\","), "{metrics}");
    mesh.transept(&["certs", "--rotate"]).await;
    let stage = || async { mesh.transept(&["certs", "--json"]).await };
    let over = |shown: &String| {
        let shown: Value = serde_json::from_str(shown).unwrap_or_default();
        let roots = shown["certificates"].as_array().into_iter().flatten().filter(|one| one["kind"] == "root").count();
        shown["stage"] == "steady" && roots == 1
    };
    until(stage, over).await;
    let after = gateway.status().await.expect("a status")["mesh"].clone();
    assert_ne!(after["control"]["root"], before["control"]["root"]);
    assert_ne!(after["certificateEnds"], before["certificateEnds"]);
    answered(at, 200).await;
}
