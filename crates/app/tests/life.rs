//! The life of a running gateway, with the real binary: reload, refusal, drain, conflicts, the smallest gateway, the demo.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transept_testkit::certificates::{Identity, KeyKind, Usage};
use transept_testkit::client::{Answer, Endpoint, Protocol, Request, Tls, Trust, exchange};
use transept_testkit::echo::{Pod, Port, RequestLog, Serving, serve};
use transept_testkit::launch::{Launch, Running, unused_address};
use transept_testkit::peer::{Act, Gate, ScriptedServer};

/// Long enough for a busy machine; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_transept"))
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

/// A gateway on one address in front of one backend.
fn shop(listen: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: shop}}
spec:
  gatewayClassName: transept
  addresses: [{{type: IPAddress, value: {}}}]
  listeners: [{{name: http, protocol: HTTP, port: {}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop}}
spec:
  rules:
  - backendRefs: [{{group: transept.dev, kind: Backend, name: app}}]
---
apiVersion: transept.dev/v1alpha1
kind: Backend
metadata: {{name: app}}
spec: {{endpoints: [{{address: {}, port: {}}}]}}
",
        listen.ip(),
        listen.port(),
        backend.ip(),
        backend.port()
    )
}

/// A backend that says its name.
async fn backend(name: &str) -> Serving {
    let pod = Pod::new(name, "default", RequestLog::default());
    serve(([127, 0, 0, 1], 0).into(), Port::Http1, &pod).await.expect("a backend")
}

/// A file of configuration in a directory of its own.
fn file(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("shop.yaml");
    std::fs::write(&path, text).expect("written");
    (directory, path)
}

/// Puts a file into place at once, as careful programs do.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("written");
    std::fs::rename(&beside, path).expect("renamed");
}

async fn start(path: &Path) -> Running {
    Launch::run(binary(), [path]).start(PATIENCE).await.unwrap_or_else(|failure| panic!("{failure}"))
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    let request = Request::get(&address.to_string(), path);
    soon(exchange(&Endpoint::http1(address), &request)).await.outcome.expect("an answer")
}

/// The name that the backend behind the gateway gives.
async fn who_answers(address: SocketAddr) -> String {
    let answer = get(address, "/").await;
    assert_eq!(answer.status, 200);
    let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
    body["pod"].as_str().expect("a name").to_owned()
}

/// Waits until the log tells of this generation.
async fn generation(running: &Running, number: u64) {
    soon(running.log_line_with(&format!("\"message\":\"configuration loaded\",\"generation\":{number},"))).await;
}

#[tokio::test]
async fn a_changed_file_is_in_force_at_once() {
    let (one, two) = (backend("one").await, backend("two").await);
    let listen = unused_address().expect("an address");
    let (_keep, path) = file(&shop(listen, one.address));
    let running = start(&path).await;
    assert_eq!(who_answers(listen).await, "one");

    replace(&path, &shop(listen, two.address));
    generation(&running, 2).await;
    assert_eq!(who_answers(listen).await, "two");

    // Truncated and written in place, as many editors do.
    std::fs::write(&path, shop(listen, one.address)).expect("written");
    generation(&running, 3).await;
    assert_eq!(who_answers(listen).await, "one");
    let ended = running.stop(PATIENCE).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn a_broken_file_keeps_the_running_configuration_and_says_so_everywhere() {
    let one = backend("one").await;
    let listen = unused_address().expect("an address");
    let good = shop(listen, one.address);
    let (_keep, path) = file(&good);
    let running = start(&path).await;

    replace(&path, &good.replace("rules:", "rulez:"));
    soon(running.log_line_with("reload refused")).await;
    let log = running.log();
    assert!(log.contains("did you mean"), "{log}");
    assert_eq!(who_answers(listen).await, "one");

    let metrics = running.metrics().await.expect("metrics");
    assert!(metrics.contains("transept_config_last_reload_successful 0\n"), "{metrics}");
    assert!(metrics.contains("transept_config_reloads_total{result=\"failure\"} 1\n"));
    assert!(metrics.contains("transept_config_generation 1\n"));
    let status = running.status().await.expect("status");
    assert_eq!(status["lastReload"]["ok"], false);
    assert_eq!(status["generation"], 1);
    let error = status["lastReload"]["error"].as_str().expect("a text");
    assert!(error.contains("shop.yaml:13:3"), "{error}");
    let shown = transept_status(&running);
    assert_eq!(shown.0, Some(1));
    assert!(shown.1.contains("was refused"), "{}", shown.1);
    assert_eq!(running.ask("/readyz").await.expect("an answer").status, 200);

    replace(&path, &good);
    generation(&running, 2).await;
    let metrics = running.metrics().await.expect("metrics");
    assert!(metrics.contains("transept_config_last_reload_successful 1\n"));
    assert_eq!(transept_status(&running).0, Some(0));
}

/// Runs `transept status` against a running gateway.
fn transept_status(running: &Running) -> (Option<i32>, String) {
    let output = Command::new(binary())
        .args(["status", "--admin", &running.admin().to_string()])
        .output()
        .expect("the binary starts");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn a_config_map_changes_by_its_data_link() {
    use std::os::unix::fs::symlink;
    let (one, two) = (backend("one").await, backend("two").await);
    let listen = unused_address().expect("an address");
    let directory = tempfile::tempdir().expect("temporary directory");
    let root = directory.path();
    for (version, address) in [("..1", one.address), ("..2", two.address)] {
        std::fs::create_dir(root.join(version)).expect("created");
        let text = shop(listen, address);
        std::fs::write(root.join(version).join("shop.yaml"), text).expect("written");
    }
    symlink("..1", root.join("..data")).expect("linked");
    symlink("..data/shop.yaml", root.join("shop.yaml")).expect("linked");
    let running = start(root).await;
    assert_eq!(who_answers(listen).await, "one");

    symlink("..2", root.join("..data_tmp")).expect("linked");
    std::fs::rename(root.join("..data_tmp"), root.join("..data")).expect("renamed");
    generation(&running, 2).await;
    assert_eq!(who_answers(listen).await, "two");
}

#[tokio::test]
async fn sighup_loads_again_though_nothing_changed() {
    let one = backend("one").await;
    let listen = unused_address().expect("an address");
    let (_keep, path) = file(&shop(listen, one.address));
    let running = start(&path).await;
    running.signal(Signal::HUP).expect("sent");
    generation(&running, 2).await;
    assert_eq!(who_answers(listen).await, "one");
}

#[tokio::test]
async fn sigterm_lets_the_request_under_way_finish() {
    let gate = Gate::closed();
    let script = vec![
        Act::ReadHead,
        Act::send("HTTP/1.1 103 Early Hints\r\nlink: </late.css>; rel=preload\r\n\r\n"),
        Act::Wait(gate.clone()),
        Act::send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate"),
    ];
    let server = ScriptedServer::start(vec![script]).await.expect("binds");
    let listen = unused_address().expect("an address");
    let (_keep, path) = file(&shop(listen, server.address()));
    let running = start(&path).await;

    let mut client = TcpStream::connect(listen).await.expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await.expect("sent");
    // The interim response tells that the request is under way.
    let mut interim = Vec::new();
    while !interim.ends_with(b"\r\n\r\n") {
        interim.push(soon(client.read_u8()).await.expect("an interim response"));
    }
    running.signal(Signal::TERM).expect("sent");
    soon(running.log_line_with("draining")).await;
    let ready = running.ask("/readyz").await.expect("an answer");
    assert_eq!((ready.status, &*ready.body), (503, &b"draining\n"[..]));
    let alive = running.ask("/livez").await.expect("an answer");
    assert_eq!(alive.status, 200);

    gate.open();
    let mut answer = Vec::new();
    soon(client.read_to_end(&mut answer)).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("late"), "{answer}");
    soon(running.log_line_with("drained")).await;
}

#[tokio::test]
async fn a_taken_port_ends_the_start_when_it_is_the_only_one() {
    let one = backend("one").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let (_keep, path) = file(&shop(taken.local_addr().expect("bound"), one.address));
    let failure = Launch::run(binary(), [&path]).start(PATIENCE).await.expect_err("the port is taken");
    assert!(failure.log.contains("another process listens"), "{failure}");
    assert!(failure.log.contains("no listener could be opened"), "{failure}");
    assert!(!failure.log.contains("will try again"), "it has ended: {failure}");
}

#[tokio::test]
async fn every_line_of_a_log_in_json_is_json_also_when_little_is_logged() {
    let (one, listen) = (backend("one").await, unused_address().expect("an address"));
    let (_keep, path) = file(&shop(listen, one.address));
    for level in ["info", "error"] {
        let launch = Launch::run(binary(), [&path]).argument("--log=json").argument(format!("--log-level={level}"));
        let running = launch.start(PATIENCE).await.expect("it starts");
        let log = running.log();
        assert!(log.contains("\"message\":\"admin listening on http://"), "{log}");
        for line in log.lines() {
            assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
    }
}

#[tokio::test]
async fn a_gateway_that_listens_nowhere_says_so() {
    let (one, listen) = (backend("one").await, unused_address().expect("an address"));
    let theirs = shop(listen, one.address).replace("gatewayClassName: transept", "gatewayClassName: theirs");
    let class = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: theirs}, spec: {controllerName: a.test/x}}\n";
    let (_keep, path) = file(&format!("{theirs}{class}"));
    let running = start(&path).await;
    soon(running.log_line_with("nothing is listened on")).await;
    let admin = format!("http://{}", running.admin());
    let told = Command::new(binary()).args(["status", "--admin", &admin]).output().expect("the binary starts");
    assert!(String::from_utf8_lossy(&told.stdout).contains("nothing is listened on"), "{told:?}");
    replace(&path, &shop(listen, one.address));
    generation(&running, 2).await;
    assert_eq!(who_answers(listen).await, "one");
}

#[tokio::test]
async fn a_taken_port_beside_a_free_one_is_a_status() {
    let one = backend("one").await;
    let listen = unused_address().expect("an address");
    let taken = std::net::TcpListener::bind((listen.ip(), 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let text = shop(listen, one.address)
        .replace("listeners: [", &format!("listeners: [{{name: taken, protocol: HTTP, port: {port}}}, "));
    let (_keep, path) = file(&text);
    let running = start(&path).await;
    assert_eq!(who_answers(listen).await, "one");
    let status = running.status().await.expect("status");
    let gateway = status["objects"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|object| object["kind"] == "Gateway")
        .expect("the gateway");
    let programmed = |name: &str| {
        gateway["status"]["listeners"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|listener| listener["name"] == name)
            .expect("the listener")["conditions"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|condition| condition["type"] == "Programmed")
            .expect("the condition")
            .clone()
    };
    assert_eq!(programmed("taken")["status"], "False", "{gateway}");
    assert_eq!(programmed("taken")["reason"], "AddressNotUsable");
    assert_eq!(programmed("http")["status"], "True");
}

#[tokio::test]
async fn a_taken_admin_port_ends_the_start() {
    let one = backend("one").await;
    let listen = unused_address().expect("an address");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let (_keep, path) = file(&shop(listen, one.address));
    let output =
        Command::new(binary()).arg("run").arg(&path).args(["--admin", &address]).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("the admin server cannot listen"), "{log}");
}

#[tokio::test]
async fn a_broken_file_is_no_start() {
    let (_keep, path) = file("kind: Gatewey\n");
    let output = Command::new(binary())
        .arg("run")
        .arg(&path)
        .args(["--admin", "127.0.0.1:0", "--log", "text"])
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("shop.yaml:1"), "{log}");
    assert!(log.contains("nothing is started"), "{log}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let one = backend("one").await;
    let listen = unused_address().expect("an address");
    let secure = shop(listen, one.address).replace(
        "{name: http, protocol: HTTP,",
        "{name: https, protocol: HTTPS, tls: {certificateRefs: [{name: shop}]},",
    );
    let secret = "\
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: shop, annotations: {transept.dev/from-file: \"tls.crt=shop.pem, tls.key=shop.key\"}}
";
    let (directory, path) = file(&format!("{secure}{secret}"));
    let renew = || {
        let names = ["shop.test"];
        let identity = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &names);
        let identity = identity.expect("a certificate");
        // Key and certificate change together, as a link to a directory of both would.
        let key = directory.path().join("shop.key");
        std::fs::write(&key, &identity.key_pem).expect("written");
        let chain = directory.path().join("shop.pem");
        std::fs::write(&chain, &identity.certificate_pem).expect("written");
        identity.certificate().expect("DER")
    };
    let ask = async |certificate| {
        let endpoint = Endpoint {
            address: listen,
            protocol: Protocol::Http1,
            tls: Some(Tls { server_name: "shop.test".to_owned(), trust: Trust::Leaf(certificate), identity: None }),
        };
        let request = Request::get("shop.test", "/");
        soon(exchange(&endpoint, &request)).await.outcome
    };
    let first = renew();
    let running = start(&path).await;
    assert_eq!(ask(first.clone()).await.expect("an answer").status, 200);
    let metrics = running.metrics().await.expect("metrics");
    assert!(
        metrics.contains(
            "transept_certificate_expiration_timestamp_seconds{listener=\"default/shop/https\",name=\"shop.test\""
        ),
        "{metrics}"
    );

    let second = renew();
    soon(async {
        // Between the two files the pair does not fit; it counts when it does.
        let mut number = 2;
        loop {
            generation(&running, number).await;
            if ask(second.clone()).await.is_ok() {
                break;
            }
            number += 1;
        }
    })
    .await;
    assert!(ask(first).await.is_err());
}

#[tokio::test]
async fn the_access_log_follows_its_rotation() {
    let one = backend("one").await;
    let listen = unused_address().expect("an address");
    let (directory, path) = file(&shop(listen, one.address));
    let (log, rotated) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let running = Launch::run(binary(), [&path])
        .argument("--access-log")
        .argument(&log)
        // The lines of one worker keep their order.
        .argument("--workers=1")
        .start(PATIENCE)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(get(listen, "/before").await.status, 200);
    std::fs::rename(&log, &rotated).expect("renamed");
    running.signal(Signal::USR1).expect("sent");
    soon(running.log_line_with("log files are opened again")).await;
    assert_eq!(get(listen, "/after").await.status, 200);
    let ended = running.stop(PATIENCE).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
    let lines = |path: &Path| -> Vec<Value> {
        let text = std::fs::read_to_string(path).expect("readable");
        let line = |line| serde_json::from_str(line).expect("JSON");
        text.lines().map(line).collect()
    };
    let all: Vec<Value> = [lines(&rotated), lines(&log)].concat();
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[1].to_string().contains("/after"), "{all:?}");
    assert!(lines(&log).iter().any(|line| line.to_string().contains("/after")));
}

#[tokio::test]
async fn other_sites_do_not_reach_the_admin_server() {
    let one = backend("one").await;
    let listen = unused_address().expect("an address");
    let (_keep, path) = file(&shop(listen, one.address));
    let running = start(&path).await;
    let endpoint = Endpoint::http1(running.admin());
    let rebound = Request::get("evil.example", "/status");
    let answer = soon(exchange(&endpoint, &rebound)).await.outcome;
    assert_eq!(answer.expect("an answer").status, 421);
    let host = running.admin().to_string();
    let crossing = Request::get(&host, "/status").with("origin", "https://evil.example");
    let answer = soon(exchange(&endpoint, &crossing)).await.outcome;
    assert_eq!(answer.expect("an answer").status, 403);
}

#[tokio::test]
async fn the_smallest_gateway_needs_no_file() {
    let one = backend("one").await;
    let listen = unused_address().expect("an address");
    let (to, at) = (format!("http://{}", one.address), listen.to_string());
    let running = Launch::subcommand(binary(), ["proxy", "--to", &to, "--listen", &at])
        .start(PATIENCE)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(who_answers(listen).await, "one");
    let ended = running.stop(PATIENCE).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn the_demo_answers_what_it_says() {
    let running = Launch::subcommand(binary(), ["demo", "--port", "0", "--quiet"])
        .start(PATIENCE)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    let line = soon(running.log_line_with("The shop is open at http://")).await;
    let address: SocketAddr = line.rsplit("http://").next().expect("an address").trim().parse().expect("an address");
    assert_eq!(get(address, "/").await.status, 200);
    assert_eq!(get(address, "/old").await.status, 301);
    assert_eq!(get(address, "/cart/nowhere").await.status, 404);
    let catalog = get(address, "/catalog").await;
    assert_eq!(catalog.field("x-served-by"), Some("transept"));
    let body: Value = serde_json::from_slice(&catalog.body).expect("JSON");
    assert_eq!(body["service"], "catalog");
    assert_eq!(body["request"]["path"], "/");
    assert_eq!(body["request"]["x-shop"], "demo");
    let preview = Request::get(&address.to_string(), "/cart").with("x-preview", "yes");
    let preview = soon(exchange(&Endpoint::http1(address), &preview)).await;
    let body: Value = serde_json::from_slice(&preview.outcome.expect("an answer").body).expect("JSON");
    assert_eq!(body["version"], 2);
    let ended = running.stop(PATIENCE).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
}
