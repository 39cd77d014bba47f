//! Programs without a proxy that register over HTTP: a gateway reaches them, a killed control plane remembers them, and the script of
//! the example does it all with curl.

use std::io::{BufRead, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use transept_testkit::certificates::{Identity, KeyKind, Usage};
use transept_testkit::client::{Endpoint, Request, Tls, Trust, exchange};
use transept_testkit::launch::{Launch, unused_address};

const BINARY: &str = env!("CARGO_BIN_EXE_transept");
const PATIENCE: Duration = Duration::from_secs(60);
const CART: &str = "/v1/namespaces/default/workloads/cart-1";

/// A control plane with its API; killed with this, as by `kill -9`.
struct Control {
    child: Child,
    /// Where proxies come.
    proxies: SocketAddr,
    /// Where programs register.
    api: SocketAddr,
}

struct Mesh(TempDir);

impl Mesh {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, api: &str, more: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(["control", "--listen", "127.0.0.1:0", "--admin", "off", "--log", "text", "--api", api])
            .args(more);
        command.arg("--state").arg(self.path("control")).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn control(&self, api: &str, more: &[&str]) -> Control {
        let mut child = self.command(api, more).spawn().expect("started");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let ready = async {
            let (mut seen, mut api) = (Vec::new(), None);
            while let Some(line) = lines.next_line().await.expect("readable") {
                if let Some((_, url)) = line.split_once("registration API listening on ") {
                    api = url.rsplit('/').next().and_then(|address| address.parse().ok());
                }
                if let (Some(api), Some((_, proxies))) = (api, line.split_once("control plane listening on ")) {
                    return (proxies.parse().expect("an address"), api);
                }
                seen.push(line);
            }
            panic!("it ended before it was ready:\n{}", seen.join("\n"));
        };
        let (proxies, api) = timeout(PATIENCE, ready).await.expect("ready in time");
        // The pipe is read to its end, so that the process never waits for us.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Control { child, proxies, api }
    }

    async fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let command = Command::new(BINARY).args(arguments).arg("--state").arg(self.path("control")).output();
        timeout(PATIENCE, command).await.expect("in time").expect("started").stdout
    }

    async fn token(&self, service: &str) -> String {
        let text = String::from_utf8(self.run(&["token", "create", "--service", service]).await).expect("text");
        text.trim().to_owned()
    }

    /// The instances that `mesh status` shows.
    async fn workloads(&self) -> Vec<Value> {
        let shown = self.run(&["mesh", "status", "--json"]).await;
        let status: Value = serde_json::from_slice(&shown).expect("JSON");
        status["workloads"].as_array().cloned().unwrap_or_default()
    }

    /// A gateway on `listen` whose every request goes to the cart, as a member of the mesh.
    async fn gateway(&self, control: &Control, listen: SocketAddr) -> transept_testkit::launch::Running {
        let token = self.path("web.token");
        std::fs::write(&token, self.token("web").await).expect("written");
        let arguments = ["proxy", "--control", &control.proxies.to_string(), "--access-log", "off"];
        let launch = Launch::subcommand(Path::new(BINARY), arguments).argument("--token-file").argument(&token);
        let running = launch.argument("--state").argument(self.path("web")).start(PATIENCE).await;
        running.unwrap_or_else(|error| panic!("{listen}: {error}"))
    }
}

impl Control {
    async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }

    async fn ask(&self, method: &str, path: &str, bearer: &str, body: &Value) -> (u16, Value) {
        ask(&Endpoint::http1(self.api), method, path, bearer, body).await
    }
}

async fn ask(endpoint: &Endpoint, method: &str, path: &str, bearer: &str, body: &Value) -> (u16, Value) {
    let mut request = Request::get("registry", path).with("authorization", &format!("Bearer {bearer}"));
    request.method = method.to_owned();
    if !body.is_null() {
        request.body = body.to_string().into_bytes();
    }
    let answer = exchange(endpoint, &request).await.outcome.expect("an answer");
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
}

fn gateway_for_cart(listen: SocketAddr) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: web}}, spec: {{gatewayClassName: transept, \
         addresses: [{{type: IPAddress, value: {}}}], listeners: [{{name: http, protocol: HTTP, port: {}}}]}}}}\n---\n\
         {{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: web}}, spec: {{rules: \
         [{{backendRefs: [{{name: cart, port: 80}}]}}]}}}}\n---\n\
         {{apiVersion: v1, kind: Service, metadata: {{name: cart}}, spec: {{ports: [{{port: 80}}]}}}}\n",
        listen.ip(),
        listen.port(),
    )
}

/// Answers every request with "the cart", in a thread that ends with the process.
fn program() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let head = std::io::BufReader::new(&stream).lines().map_while(Result::ok);
            head.take_while(|line| !line.is_empty()).for_each(drop);
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\nthe cart");
        }
    });
    port
}

/// Asks the gateway until it answers with this status.
async fn until_answered(listen: SocketAddr, status: u16) -> String {
    let answered = async {
        loop {
            let outcome = exchange(&Endpoint::http1(listen), &Request::get("shop.test", "/")).await.outcome;
            if let Ok(answer) = outcome
                && answer.status == status
            {
                return String::from_utf8_lossy(&answer.body).into_owned();
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("never {status}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_reaches_a_program_that_registered_itself() {
    let mesh = Mesh::new();
    let listen = unused_address().expect("an address");
    let file = mesh.path("shop.yaml");
    std::fs::write(&file, gateway_for_cart(listen)).expect("written");
    let control = mesh.control("127.0.0.1:0", &[file.to_str().expect("UTF-8")]).await;
    let _gateway = mesh.gateway(&control, listen).await;

    let port = program();
    let ports = json!({"ports": [{"port": 80, "targetPort": port, "appProtocol": "http"}]});
    let (status, made) = control.ask("PUT", CART, &mesh.token("cart").await, &ports).await;
    assert_eq!(status, 201, "{made}");
    let lease = made["lease"].as_str().expect("a lease");
    assert_eq!(until_answered(listen, 200).await, "the cart");
    let shown = mesh.workloads().await;
    assert_eq!(
        (shown.len(), &shown[0]["name"], &shown[0]["lapsed"]),
        (1, &json!("cart-1"), &json!(false)),
        "{shown:?}"
    );

    assert_eq!(control.ask("DELETE", CART, lease, &Value::Null).await.0, 204);
    until_answered(listen, 503).await;
    assert!(mesh.workloads().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_control_plane_knows_leases_and_used_tokens() {
    let mesh = Mesh::new();
    let control = mesh.control("127.0.0.1:0", &[]).await;
    let token = mesh.token("cart").await;
    let ports = json!({"ports": [{"port": 80}]});
    let (status, made) = control.ask("PUT", CART, &token, &ports).await;
    assert_eq!(status, 201, "{made}");
    let lease = made["lease"].as_str().expect("a lease");
    control.kill().await;

    let control = mesh.control("127.0.0.1:0", &[]).await;
    let (status, alive) = control.ask("POST", &format!("{CART}/beat"), lease, &Value::Null).await;
    assert_eq!((status, &alive["registered"]), (200, &json!(true)), "{alive}");
    let (status, refused) = control.ask("PUT", &format!("{CART}0"), &token, &ports).await;
    assert_eq!((status, &refused["code"]), (401, &json!("token.used")), "{refused}");
    assert_eq!(control.ask("DELETE", CART, lease, &Value::Null).await.0, 204);
    control.kill().await;

    let control = mesh.control("127.0.0.1:0", &[]).await;
    let (status, ended) = control.ask("POST", &format!("{CART}/beat"), lease, &Value::Null).await;
    assert_eq!((status, &ended["code"]), (404, &json!("registration.ended")), "{ended}");
    let state = std::fs::read(mesh.path("control").join("state.redb")).expect("readable");
    let secret = lease.split('.').next().expect("a secret").as_bytes();
    assert!(!state.windows(secret.len()).any(|part| part == secret), "the lease is stored in clear");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_loopback_it_needs_a_certificate_which_may_change() {
    let mesh = Mesh::new();
    let refused = mesh.command("0.0.0.0:0", &[]).output();
    let refused = timeout(PATIENCE, refused).await.expect("in time").expect("started");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && told.contains("--api-tls-cert FILE"), "{told}");

    let (certificate, key) = (mesh.path("api.pem"), mesh.path("api.key"));
    let write = || {
        let identity = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["registry.test"]).expect("a certificate");
        std::fs::write(&certificate, &identity.certificate_pem).expect("written");
        std::fs::write(&key, &identity.key_pem).expect("written");
        Trust::Leaf(identity.certificate().expect("a certificate"))
    };
    let first = write();
    let files = ["--api-tls-cert", certificate.to_str().expect("UTF-8"), "--api-tls-key", key.to_str().expect("UTF-8")];
    let control = mesh.control("0.0.0.0:0", &files).await;
    let address = SocketAddr::from(([127, 0, 0, 1], control.api.port()));
    let endpoint = |trust: &Trust| Endpoint {
        tls: Some(Tls { server_name: "registry.test".into(), trust: trust.clone(), identity: None }),
        ..Endpoint::http1(address)
    };
    let ports = json!({"ports": [{"port": 80}]});
    let (status, made) = ask(&endpoint(&first), "PUT", CART, &mesh.token("cart").await, &ports).await;
    assert_eq!((status, &made["address"]), (201, &json!("127.0.0.1")), "{made}");

    let second = write();
    let lease = made["lease"].as_str().expect("a lease");
    let (status, alive) = ask(&endpoint(&second), "POST", &format!("{CART}/beat"), lease, &Value::Null).await;
    assert_eq!(status, 200, "{alive}");
    let clear = exchange(&Endpoint::http1(address), &Request::get("registry", "/healthz")).await.outcome;
    assert!(clear.is_err(), "clear text is not answered: {clear:?}");
}

/// Where curl is, or why the test is left out.
fn curl() -> bool {
    let found =
        std::process::Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        assert!(std::env::var("TRANSEPT_REQUIRE_ALL").as_deref() != Ok("1"), "there is no curl");
        // Not by `eprintln`, which the test runner keeps to itself.
        std::io::stderr().write_all(b"skipped: there is no curl\n").expect("written");
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_registers_a_program_while_it_runs() {
    if !curl() {
        return;
    }
    let mesh = Mesh::new();
    let control = Arc::new(mesh.control("127.0.0.1:0", &[]).await);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/registration/register.sh");
    let mut running = Command::new("sh");
    running.arg(script).args(["cart-1", "80", "8080", "cat"]);
    running.env("TRANSEPT_REGISTRY", format!("http://{}", control.api)).env("TRANSEPT_TOKEN", mesh.token("cart").await);
    running.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut running = running.spawn().expect("started");

    // The program runs once it is registered: it repeats what it is told.
    let mut input = running.stdin.take().expect("a pipe");
    let mut output = BufReader::new(running.stdout.take().expect("a pipe")).lines();
    tokio::io::AsyncWriteExt::write_all(&mut input, b"hello\n").await.expect("written");
    let line = timeout(PATIENCE, output.next_line()).await.expect("in time").expect("readable");
    assert_eq!(line.as_deref(), Some("hello"));
    let shown = mesh.workloads().await;
    assert_eq!((shown.len(), &shown[0]["services"]), (1, &json!(["cart"])), "{shown:?}");

    // It ends, and so does the registration.
    drop(input);
    let ended = timeout(PATIENCE, running.wait_with_output()).await.expect("in time").expect("an end");
    assert!(ended.status.success(), "{ended:?}");
    assert!(mesh.workloads().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_too_often_is_told_when_to_ask_again() {
    let mesh = Mesh::new();
    let control = mesh.control("127.0.0.1:0", &["--api-rate", "1"]).await;
    let endpoint = Endpoint::http1(control.api);
    let refused = async {
        loop {
            let answer = exchange(&endpoint, &Request::get("registry", "/healthz")).await.outcome.expect("an answer");
            if answer.status != 200 {
                return answer;
            }
        }
    };
    let answer = timeout(PATIENCE, refused).await.expect("in time");
    let field = |name: &str| answer.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!((answer.status, field("content-type")), (429, Some("application/problem+json")));
    assert!(field("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|seconds| seconds >= 1)));
    let problem: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(problem["code"], "registration.too_many_requests", "{problem}");
}
