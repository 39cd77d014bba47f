//! What can be seen of the mesh: edges on metrics and in the graph, verdicts, live requests, and spans that join the two sides.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use transept_testkit::client::Request;
use transept_testkit::echo::Port;
use transept_testkit::launch::Running;

use crate::stage::{Mesh, Pair, answered, binary, program, repeater, say, send, soon, until};

/// A control plane that hears often, so that the test need not wait long.
async fn mesh(yaml: &str) -> Mesh {
    Mesh::start_with(yaml, &["--report-interval=200ms"]).await
}

fn command(mesh: &Mesh, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .arg("mesh")
        .args(arguments)
        .arg("--state")
        .arg(mesh.path("control"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn ask(mesh: &Mesh, arguments: &[&str]) -> Output {
    soon(command(mesh, arguments).output()).await.expect("it starts")
}

async fn ask_text(mesh: &Mesh, arguments: &[&str]) -> String {
    String::from_utf8(ask(mesh, arguments).await.stdout).expect("text")
}

/// The edge from web to cart, or null.
async fn edge(mesh: &Mesh) -> Value {
    let graph = mesh.graph().await;
    let edges = graph["edges"].as_array().cloned().unwrap_or_default();
    let is_it = |edge: &Value| edge["source"] == "default/web" && edge["destination"] == "default/cart";
    edges.into_iter().find(is_it).unwrap_or_default()
}

/// Requests that went well, as the metrics of a proxy count them.
async fn counted(proxy: &Running, labels: &[&str]) -> u64 {
    let metrics = proxy.metrics().await.expect("metrics");
    let lines = metrics.lines().filter(|line| line.starts_with("transept_edge_requests_total{"));
    let lines = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_is_counted_on_both_sides_and_shown_in_the_graph() {
    let mesh = mesh("").await;
    let pair = Pair::start(&mesh).await;
    for _ in 0..5 {
        assert_eq!(send(pair.local(), &Request::get("cart", "/items")).await.expect("an answer").status, 200);
    }
    // One more request went well before the test began.
    let ends =
        ["source=\"spiffe://transept.local/ns/default/sa/web\"", "destination=\"default/cart\"", "code_class=\"2xx\""];
    for (proxy, side) in [(&pair.web, "reporter=\"source\""), (&pair.cart, "reporter=\"destination\"")] {
        let labels = [&ends[..], &[side]].concat();
        until(|| counted(proxy, &labels), |count| *count == 6).await;
    }
    let well = |edge: &Value| Some(edge["requests"].as_u64()? - edge["errors"].as_u64()?);
    let edge = until(|| edge(&mesh), |edge| well(edge) == Some(6)).await;
    assert_eq!(edge["sourceIdentity"], "spiffe://transept.local/ns/default/sa/web", "{edge}");
    let workloads = edge["workloads"].as_array().cloned().unwrap_or_default();
    let cart = workloads.iter().find(|one| one["workload"] == "cart").unwrap_or_else(|| panic!("{edge}"));
    assert_eq!(cart["requests"], 6, "{edge}");
    assert!(edge["bytesReceived"].as_u64() > Some(0), "{edge}");

    let text = ask_text(&mesh, &["graph"]).await;
    assert!(text.contains("default/web\n  -> default/cart"), "{text}");
    let dot = ask_text(&mesh, &["graph", "--dot"]).await;
    assert!(dot.contains("\"default/web\" -> \"default/cart\""), "{dot}");
    let status = ask_text(&mesh, &["status"]).await;
    assert!(status.contains("SERVICE") && status.contains("default/cart"), "{status}");
    assert_eq!(mesh.ask("/livez").await, (200, "ready\n".to_owned()));
    assert_eq!(mesh.ask("/status").await.0, 404, "whoever may not ask on the socket is told nothing more");
    let said = |line: &'static str| move |(_, metrics): &(u16, String)| metrics.lines().any(|one| one == line);
    for line in [
        "transept_control_proxies_connected 2",
        "transept_control_state_written 1",
        "transept_mesh_service_verdict{service=\"default/cart\",verdict=\"healthy\"} 1",
        "transept_mesh_service_verdict{service=\"default/cart\",verdict=\"failing\"} 0",
        "transept_mesh_service_instances{service=\"default/cart\",state=\"healthy\"} 1",
        "transept_config_last_reload_successful 1",
    ] {
        until(|| mesh.ask("/metrics"), said(line)).await;
    }
    let (_, metrics) = mesh.ask("/metrics").await;
    for name in ["transept_mesh_root_expiration_timestamp_seconds{root=", "process_resident_memory_bytes "] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name}: {metrics}");
    }
}

/// Somebody who asks for `/status/N` one time after the other.
struct Asker {
    status: Arc<AtomicU16>,
    task: tokio::task::JoinHandle<()>,
}

impl Asker {
    fn begin(at: std::net::SocketAddr) -> Asker {
        let status = Arc::new(AtomicU16::new(200));
        let asked = status.clone();
        let task = tokio::spawn(async move {
            loop {
                let path = format!("/status/{}?secret=42", asked.load(Ordering::Relaxed));
                // What it gets is for others to see.
                let _ = send(at, &Request::get("cart", &path)).await;
            }
        });
        Asker { status, task }
    }

    fn ask_for(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The verdict on cart, and how the command has ended.
async fn verdict(mesh: &Mesh) -> (String, Option<i32>) {
    let output = ask(mesh, &["status", "--json"]).await;
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let services = shown["services"].as_array().cloned().unwrap_or_default();
    let cart = services.into_iter().find(|service| service["service"] == "default/cart").unwrap_or_default();
    (cart["verdict"].as_str().unwrap_or_default().to_owned(), output.status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_fails_is_found_and_so_is_its_recovery() {
    let mesh = mesh("").await;
    let pair = Pair::start(&mesh).await;
    let asker = Asker::begin(pair.local());
    let is = |verdict: &'static str, code: i32| {
        move |seen: &(String, Option<i32>)| *seen == (verdict.to_owned(), Some(code))
    };
    until(|| verdict(&mesh), is("healthy", 0)).await;
    asker.ask_for(500);
    until(|| verdict(&mesh), is("failing", 1)).await;
    let failing = edge(&mesh).await;
    assert!(failing["errors"].as_u64() > Some(0) && failing["verdict"] == "failing", "{failing}");
    asker.ask_for(200);
    until(|| verdict(&mesh), is("healthy", 0)).await;
    // What the caller asks for wrongly is not the fault of the service.
    asker.ask_for(404);
    let before = edge(&mesh).await["requests"].as_u64();
    until(|| edge(&mesh), |edge| edge["requests"].as_u64() > before.map(|count| count + 50)).await;
    assert_eq!(verdict(&mesh).await, ("healthy".to_owned(), Some(0)));
}

/// A program that answers every connection with one 503.
async fn broken_program() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                // Who asks whether it is well only connects.
                if stream.read(&mut head).await? > 0 {
                    let answer = "HTTP/1.1 503 Broken\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    stream.write_all(answer.as_bytes()).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_callers_leave_alone_makes_its_service_degraded() {
    let mesh = mesh(
        "\
apiVersion: transept.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart}
spec:
  targetRefs: [{group: \"\", kind: Service, name: cart}]
  outlierDetection: {consecutiveErrors: 3, baseEjectionTime: 60s}
  retries: {attempts: 2}
",
    )
    .await;
    let (good, bad) = (program("cart-1", Port::Http1).await, broken_program().await);
    let web = mesh.sidecar("web").await.upstream("cart");
    let _good = mesh.instance("cart", "good").await.port(80, good.address, "/http").start().await;
    let _bad = mesh.instance("cart", "bad").await.port(80, bad, "/http").start().await;
    let web_runs = web.start().await;
    answered(web.local[0], 200).await;
    let _asker = Asker::begin(web.local[0]);
    until(|| verdict(&mesh), |seen| *seen == ("degraded".to_owned(), Some(0))).await;

    let metrics = web_runs.metrics().await.expect("metrics");
    let of_bad = |name: &str| {
        let mut lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        let line = lines.find(|line| line.contains(&format!(":{}\"", bad.port())));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("{name}: {metrics}"))
    };
    assert_eq!(of_bad("transept_edge_ejections_total"), 1);
    assert!(of_bad("transept_edge_retries_total") >= 3);
    let status = mesh.status().await;
    let services = status["services"].as_array().cloned().unwrap_or_default();
    let cart = services.into_iter().find(|service| service["service"] == "default/cart").unwrap_or_default();
    let states: Vec<_> =
        cart["instances"].as_array().into_iter().flatten().map(|one| (&one["name"], &one["state"])).collect();
    assert_eq!(states, [(&"bad".into(), &"shunned".into()), (&"good".into(), &"healthy".into())], "{cart}");
    let shunned = edge(&mesh).await;
    let workloads = shunned["workloads"].as_array().cloned().unwrap_or_default();
    let bad = workloads.iter().find(|one| one["workload"] == "bad").unwrap_or_else(|| panic!("{shunned}"));
    assert_eq!(bad["ejections"], 1, "{shunned}");
}

/// A tap that listens.
async fn tap(mesh: &Mesh, arguments: &[&str]) -> (Child, impl AsyncFnMut() -> Option<String> + use<>) {
    let mut command = command(mesh, &[&["tap", "cart"], arguments].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let first = soon(errors.next_line()).await.expect("text").unwrap_or_default();
    assert!(first.contains("listening to the requests of default/cart at its proxy"), "{first}");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    (child, async move || soon(lines.next_line()).await.expect("text"))
}

/// The proxies that report, so that a tap finds them.
async fn begun() -> (Mesh, Pair) {
    let deny = "\
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: guard}
spec:
  targetRefs: [{group: \"\", kind: Service, name: cart}]
  deny: [{name: no-deletes, to: [{methods: [DELETE]}]}]
";
    let mesh = mesh(deny).await;
    let pair = Pair::start(&mesh).await;
    until(|| edge(&mesh), |edge| edge["requests"].as_u64() > Some(0)).await;
    (mesh, pair)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_shows_the_requests_that_fit_and_no_others() {
    let (mesh, pair) = begun().await;
    let asker = Asker::begin(pair.local());
    let (mut child, mut next) =
        tap(&mesh, &["--json", "--status=5xx", "--path=/status", "--from=web", "--method=get", "--limit=3"]).await;
    // Requests of both kinds; those that do not fit are sent all the time, those that do until they were seen.
    let mut odd = false;
    let turns = async {
        loop {
            odd = !odd;
            asker.ask_for(if odd { 503 } else { 200 });
            tokio::task::yield_now().await;
            let _ = send(pair.local(), &Request::get("cart", "/other")).await;
        }
    };
    let seen = async {
        let mut seen = Vec::new();
        while let Some(line) = next().await {
            seen.push(serde_json::from_str::<Value>(&line).expect("JSON"));
        }
        seen
    };
    let seen = tokio::select! {
        seen = seen => seen,
        () = turns => unreachable!("it turns for ever"),
    };
    let requests: Vec<&Value> = seen.iter().filter(|line| line["leftOut"].is_null()).collect();
    assert_eq!(requests.len(), 3, "{seen:?}");
    for request in requests {
        assert_eq!((&request["status"], &request["path"]), (&503.into(), &"/status/503".into()), "{request}");
        assert_eq!((&request["workload"], &request["method"]), (&"cart".into(), &"GET".into()), "{request}");
        assert_eq!(request["source"], "spiffe://transept.local/ns/default/sa/web", "{request}");
        assert!(!request.to_string().contains("secret"), "{request}");
    }
    assert_eq!(soon(child.wait()).await.expect("it ends").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_names_the_policy_that_refused_and_ends_with_its_control_plane() {
    let (mut mesh, pair) = begun().await;
    let (mut child, mut next) = tap(&mesh, &["--method=DELETE"]).await;
    let mut delete = Request::get("cart", "/items/1");
    delete.method = "DELETE".to_owned();
    let asking = async {
        loop {
            assert_eq!(send(pair.local(), &delete).await.expect("an answer").status, 403);
        }
    };
    let line = tokio::select! {
        line = next() => line.expect("a line"),
        () = asking => unreachable!("it asks for ever"),
    };
    for part in ["default/web -> cart", "DELETE /items/1", "403", "AuthorizationPolicy default/guard, rule no-deletes"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    mesh.kill_control().await;
    assert_eq!(soon(child.wait()).await.expect("it ends").code(), Some(3));

    mesh.start_control().await;
    let unknown = ask(&mesh, &["tap", "nobody"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no service default/nobody"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lines_of_both_sides_belong_to_one_trace() {
    let mesh = mesh("").await;
    let pair = Pair::start(&mesh).await;
    let began = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::get("cart", "/traced").with("traceparent", began);
    let answer = send(pair.local(), &request).await.expect("an answer");
    let line = async |proxy: &Running| -> Value {
        let line = soon(proxy.log_line_with("\"path\":\"/traced\"")).await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    let (web, cart) = (line(&pair.web).await, line(&pair.cart).await);
    for (line, parent) in [(&web, &"b7ad6b7169203331".into()), (&cart, &web["span_id"])] {
        assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c", "{line}");
        assert_eq!(&line["parent_span_id"], parent, "{line}");
    }
    // The program is told of the span of its own sidecar.
    let seen = transept_testkit::echo::Echo::parse(&answer.body).expect("an echo");
    let expected = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", cart["span_id"].as_str().expect("a span"));
    assert_eq!(seen.header("traceparent"), Some(expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_seen_while_it_is_open() {
    let mesh = mesh("").await;
    let cart = mesh.sidecar("cart").await.port(90, repeater("").await, "/tcp");
    let web = mesh.sidecar("web").await.upstream("cart");
    let (cart, web) = (cart.start().await, (web.start().await, web.local[0]));
    let opened = || async {
        let mut stream = TcpStream::connect(web.1).await.ok()?;
        stream.write_all(b"x").await.ok()?;
        stream.read_u8().await.ok().map(|_| stream)
    };
    let mut stream = until(opened, Option::is_some).await.expect("a connection");
    say(&mut stream, "0123456789", "0123456789").await;
    let carried = |edge: &Value| edge["open"] == 1 && edge["bytesSent"].as_u64() >= Some(11);
    until(|| edge(&mesh), carried).await;
    assert!(ask_text(&mesh, &["graph"]).await.contains("1 open"));
    for proxy in [&cart, &web.0] {
        let metrics = || async { proxy.metrics().await.expect("metrics") };
        let open = |metrics: &String| {
            let mut lines = metrics.lines().filter(|line| line.starts_with("transept_edge_connections_open{"));
            lines.any(|line| line.contains("/sa/web") && line.ends_with(" 1"))
        };
        until(metrics, open).await;
    }
    drop(stream);
    let over = |edge: &Value| edge["open"] == 0 && edge["requests"].as_u64() >= Some(1);
    until(|| edge(&mesh), over).await;
}
