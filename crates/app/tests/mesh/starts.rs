//! What a sidecar starts without, and what it does not start with: nothing is used up or taken from others by a mistake.

use transept_testkit::echo::Port;
use transept_testkit::launch::unused_port;

use crate::stage::{Mesh, PATIENCE, answered, get, program, told, until};

/// Waits until a sidecar has the service cart on its disk.
async fn kept(mesh: &Mesh, name: &str) {
    let file = mesh.path(&format!("{name}.state")).join("configuration");
    until(|| async { std::fs::read_to_string(&file).unwrap_or_default() }, |text| text.contains("cart")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_start_from_their_disk_where_the_name_of_the_control_plane_leads_nowhere() {
    let mut mesh = Mesh::start("").await;
    let cart_program = program("cart-1", Port::Http1).await;
    // Its address is the one on the way to the control plane.
    let cart = mesh.sidecar("cart").await.argument(format!("--listen=:{}", unused_port()));
    let cart = cart.port(80, cart_program.address, "");
    let web = mesh.sidecar("web").await.upstream("cart");
    let running = [cart.start().await, web.start().await];
    answered(web.local[0], 200).await;
    kept(&mesh, "cart").await;
    kept(&mesh, "web").await;
    mesh.kill_control().await;
    for sidecar in running {
        assert!(sidecar.stop(PATIENCE).await.expect("it ends").success());
    }
    let gone = "control.invalid:9909";
    let _cart = cart.changed("control", gone).start().await;
    let _web = web.clone().changed("control", gone).start().await;
    answered(web.local[0], 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_started_when_the_service_is_known_that_its_command_line_names_for_the_first_time() {
    let mut mesh = Mesh::start("").await;
    let cart_program = program("cart-1", Port::Http1).await;
    let cart = mesh.sidecar("cart").await.port(80, cart_program.address, "");
    let _cart = cart.start().await;
    let web = mesh.sidecar("web").await;
    let synced = |status: &serde_json::Value| status["mesh"]["synced"] == true;
    let first = web.start().await;
    until(|| async { first.status().await.unwrap_or_default() }, synced).await;
    until(|| async { mesh.path("web.state").join("configuration").exists() }, |kept| *kept).await;
    assert!(first.stop(PATIENCE).await.expect("it ends").success());

    let web = web.upstream("cart");
    let second = web.start().await;
    assert!(!second.log().contains("there is no service"), "{}", second.log());
    assert_eq!(get(web.local[0]).await.expect("an answer").status, 200);
    assert!(second.stop(PATIENCE).await.expect("it ends").success());
    // Nobody can be asked: the program is not kept waiting.
    mesh.kill_control().await;
    let third = web.upstream("stock").start().await;
    assert!(third.log().contains("there is no service default/stock"), "{}", third.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_starts_from_its_disk_on_a_machine_with_another_address() {
    let mesh = Mesh::start("").await;
    let cart_program = program("cart-1", Port::Http1).await;
    let cart = mesh.sidecar("cart").await.argument(format!("--listen=:{}", unused_port()));
    let cart = cart.port(80, cart_program.address, "");
    let running = cart.start().await;
    kept(&mesh, "cart").await;
    assert!(running.stop(PATIENCE).await.expect("it ends").success());
    // With its only instance the service is gone, and so is all that the control plane has to say.
    let empty = |status: &serde_json::Value| status["workloads"].as_array().is_some_and(Vec::is_empty);
    until(|| mesh.status(), empty).await;
    // As where the machine has another address than last time.
    std::fs::write(mesh.path("cart.state").join("address"), "192.0.2.1").expect("written");
    let running = cart.changed("control", "control.invalid:9909").start().await;
    assert!(running.log().contains("the own address is not known yet"), "{}", running.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_service_is_refused_and_stays_good() {
    let mesh = Mesh::start("").await;
    let token = mesh.token("web").await.display().to_string();
    let wrong = mesh.sidecar("cart").await.changed("token-file", &token);
    let why = wrong.refusal().await;
    assert!(why.contains("is for default/web") && why.contains("--service cart"), "{why}");
    let web = mesh.sidecar("web").await.changed("token-file", &token);
    assert!(web.start().await.stop(PATIENCE).await.expect("it ends").success());

    // Nor does an identity from before become another one.
    let state = mesh.path("web.state").display().to_string();
    let why = mesh.sidecar("cart").await.without("token-file").changed("state", &state).refusal().await;
    assert!(why.contains("/sa/web") && why.contains("--state"), "{why}");
    // Not with a token of that one either, which stays good.
    let cart = mesh.sidecar("cart").await;
    let why = cart.clone().changed("state", &state).refusal().await;
    assert!(why.contains("/sa/web") && why.contains("/sa/cart") && why.contains("--state"), "{why}");
    let _web = mesh.sidecar("web").await.without("token-file").start().await;
    let _cart = cart.start().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_not_there_is_named_wherever_somebody_looks() {
    let mesh =
        Mesh::start("{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}").await;
    let setup = mesh.sidecar("web").await.upstream("carr");
    let web = setup.start().await;
    let answer = answered(setup.local[0], 500).await;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(body.contains("backend.invalid") && body.contains("There is no Service default/carr"), "{body}");
    let line = told(&web, "backend.invalid").await;
    assert!(line.contains("default/carr"), "{line}");
    let status = web.status().await.expect("a status");
    assert!(status["problems"].to_string().contains("there is no service default/carr"), "{status}");
    let shown =
        until(|| mesh.transept(&["mesh", "status"]), |shown| shown.contains("there is no service default/carr")).await;
    assert!(shown.contains("did you mean default/cart?") && !shown.contains("no service default/web"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sidecars_do_not_share_a_directory() {
    let mesh = Mesh::start("").await;
    let cart_program = program("cart-1", Port::Http1).await;
    let cart = mesh.sidecar("cart").await.port(80, cart_program.address, "");
    let first = cart.start().await;
    let why = cart.refusal().await;
    assert!(why.contains("uses this directory") && why.contains("--name"), "{why}");
    let registered = |status: &serde_json::Value| status["workloads"].as_array().is_some_and(|all| all.len() == 1);
    until(|| mesh.status(), registered).await;
    // The lock is gone with its holder, however that ends.
    first.signal(rustix::process::Signal::KILL).expect("sent");
    let mut first = first;
    first.ended().await.expect("it ends");
    let _second = cart.start().await;
    until(|| mesh.status(), registered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lead_to_the_wrong_place_is_refused_at_the_start() {
    let mesh = Mesh::start("").await;
    let cart = mesh.sidecar("cart").await;
    let own = cart.clone().argument("--listen=127.0.0.1:15010").argument("--port=15010").refusal().await;
    assert!(own.contains("tunnels come in at 127.0.0.1:15010") && own.contains("--listen"), "{own}");
    let twice = cart.clone().argument("--port=80:8081").argument("--port=80:8082").refusal().await;
    assert!(twice.contains("--port 80:8081 and --port 80:8082"), "{twice}");
    let one_address = cart.clone().argument("--upstream=web=22301").argument("--http-proxy=22301").refusal().await;
    assert!(one_address.contains("can lead to web or to the HTTP proxy"), "{one_address}");
    let tunnels =
        cart.clone().argument("--listen=127.0.0.1:15010").argument("--port=8080").argument("--upstream=web=15010");
    let tunnels = tunnels.refusal().await;
    assert!(tunnels.contains("--upstream web=127.0.0.1:15010 says that web is there"), "{tunnels}");
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = held.local_addr().expect("an address");
    let second =
        mesh.sidecar("bank").await.argument(format!("--listen={taken}")).argument("--port=8080").refusal().await;
    assert!(
        second.contains(&format!("another process has {taken}")) && second.contains("such as --listen "),
        "{second}"
    );
    let foreign = mesh.sidecar("bank").await.argument("--listen=:15021").argument("--address=192.0.2.1");
    let foreign = foreign.argument("--port=8080").refusal().await;
    assert!(foreign.contains("--listen 0.0.0.0:15021"), "{foreign}");
    let portless = cart.clone().changed("control", "127.0.0.1").refusal().await;
    assert!(portless.contains("has no port"), "{portless}");
    let fileless = cart.clone().changed("token-file", "nofile").refusal().await;
    assert!(fileless.contains("--token-file nofile"), "{fileless}");
    // None of this has used the token.
    let _cart = cart.start().await;
}
