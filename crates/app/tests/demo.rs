//! `transept demo` does what it says: its processes, what happens when one of its services breaks, and that nothing is left of it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use transept_testkit::client::{Answer, Endpoint, Request, exchange};
use transept_testkit::launch::{Launch, Running};

/// Long enough for a busy machine; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a state is asked for that comes by itself.
const PACE: Duration = Duration::from_millis(50);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

/// A running demo, with the addresses that it prints.
struct Demo {
    running: Running,
    gateway: SocketAddr,
    /// Its directory.
    directory: PathBuf,
    /// What only the command lines of its processes hold: the directory, and the end of that of each service.
    signs: Vec<String>,
}

impl Demo {
    async fn start(arguments: &[&str]) -> Demo {
        let all = ["demo", "--port", "0"].into_iter().chain(arguments.iter().copied());
        let launch = Launch::subcommand(Path::new(env!("CARGO_BIN_EXE_transept")), all);
        let running = launch.start(PATIENCE).await.unwrap_or_else(|failure| panic!("{failure}"));
        let line = soon(running.log_line_with("The shop is open at http://")).await;
        let gateway = line.rsplit("http://").next().and_then(|rest| rest.trim().parse().ok()).expect("an address");
        let line = soon(running.log_line_with("transept mesh status --state ")).await;
        let state = PathBuf::from(line.rsplit("--state ").next().expect("a directory").trim());
        let directory = state.parent().expect("a directory").to_owned();
        let mut demo = Demo { running, gateway, signs: vec![directory.display().to_string()], directory };
        let services = demo.processes();
        demo.signs.extend(services.iter().filter_map(|line| Some(line.split_once(" -- ")?.1.trim().to_owned())));
        demo
    }

    /// The address in the printed command that ends like this.
    async fn told(&self, path: &str) -> SocketAddr {
        let line = soon(self.running.log_line_with(path)).await;
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        address.and_then(|address| address.parse().ok()).expect("an address")
    }

    /// The processes that were started for it and still run.
    fn processes(&self) -> Vec<String> {
        let all = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
        let line = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("cmdline")).ok();
        let lines = all.filter_map(line).map(|line| line.replace('\0', " "));
        let is_ours = |line: &String| line.contains("demo-part") && self.signs.iter().any(|sign| line.contains(sign));
        lines.filter(is_ours).collect()
    }

    /// Retries between the gateway and the catalogue, as the graph has them.
    async fn retries(&self) -> u64 {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_transept"));
        let asked = command.args(["mesh", "graph", "--json", "--state"]).arg(self.directory.join("mesh")).output();
        let shown = soon(asked).await.expect("it starts").stdout;
        let graph: Value = serde_json::from_slice(&shown).expect("JSON");
        let edges = graph["edges"].as_array().cloned().unwrap_or_default();
        let ours = |edge: &&Value| edge["source"] == "default/shop" && edge["destination"] == "default/catalog";
        edges.iter().find(ours).and_then(|edge| edge["retries"].as_u64()).unwrap_or(0)
    }

    /// Waits until no process of it is left.
    async fn is_gone(&self) {
        let mut pace = tokio::time::interval(PACE);
        soon(async {
            while !self.processes().is_empty() {
                pace.tick().await;
            }
        })
        .await;
    }
}

async fn send(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut request = Request::get(&address.to_string(), path);
    request.method = method.to_owned();
    soon(exchange(&Endpoint::http1(address), &request)).await.outcome.expect("an answer")
}

/// The catalogue's endpoints as the gateway sees them.
fn states(status: &Value) -> Vec<String> {
    let backends = status["backends"].as_array().cloned().unwrap_or_default();
    let catalog = backends.iter().find(|one| one["name"].as_str().is_some_and(|name| name.contains("catalog")));
    let endpoints = catalog.and_then(|one| one["endpoints"].as_array()).cloned().unwrap_or_default();
    endpoints.iter().filter_map(|one| one["state"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_service_that_breaks_costs_no_request_and_comes_back() {
    let demo = Demo::start(&["--quiet"]).await;
    // Five sidecars, and a service under each.
    assert_eq!(demo.processes().len(), 10, "{:?}", demo.processes());
    let metrics = demo.running.metrics().await.expect("metrics");
    assert!(!metrics.contains("code_class=\"5xx\""), "nobody was asked who was not there yet: {metrics}");
    let cart = send(demo.gateway, "GET", "/cart").await;
    let body: Value = serde_json::from_slice(&cart.body).expect("JSON");
    assert_eq!(body["request"]["caller"], "spiffe://transept.local/ns/default/sa/shop");
    assert_eq!(body["lines"][0]["price"], "41.50");
    assert_eq!(send(demo.gateway, "DELETE", "/catalog").await.status, 403);
    // Through the mesh nobody can break anything.
    assert_ne!(send(demo.gateway, "POST", "/catalog/break").await.status, 200);

    let program = demo.told("/break ").await;
    let said = send(program, "POST", "/break").await;
    assert_eq!(String::from_utf8_lossy(&said.body), "catalog-2 answers 503 from now on\n");
    let settled = |wanted: &'static str| {
        let demo = &demo;
        async move {
            let mut pace = tokio::time::interval(PACE);
            loop {
                pace.tick().await;
                // Every caller gets an answer, before and after it is ejected.
                assert_eq!(send(demo.gateway, "GET", "/catalog").await.status, 200);
                assert_eq!(send(demo.gateway, "GET", "/cart").await.status, 200);
                let status = demo.running.status().await.expect("a status");
                let mut states = states(&status);
                states.sort();
                if states.join(" ") == wanted {
                    return;
                }
            }
        }
    };
    soon(settled("ejected serving")).await;
    let metrics = demo.running.metrics().await.expect("metrics");
    let retried = metrics.lines().filter(|line| line.starts_with("transept_retries_total"));
    assert!(retried.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() > 0.0, "{metrics}");
    // The graph knows whose calls these were.
    let mut pace = tokio::time::interval(PACE);
    soon(async {
        while demo.retries().await == 0 {
            pace.tick().await;
        }
    })
    .await;
    assert_eq!(send(program, "POST", "/mend").await.status, 200);
    soon(settled("serving serving")).await;

    let directory = demo.directory.clone();
    demo.running.signal(Signal::INT).expect("sent");
    let mut demo = demo;
    let ended = soon(demo.running.ended()).await.expect("it ends");
    assert_eq!(ended.code(), Some(0), "{}", demo.running.log());
    assert!(demo.processes().is_empty(), "{:?}", demo.processes());
    assert!(!directory.exists());
}

#[tokio::test]
async fn nothing_is_left_of_a_demo_that_was_killed() {
    let mut demo = Demo::start(&[]).await;
    assert_eq!(demo.processes().len(), 10, "{:?}", demo.processes());
    demo.running.signal(Signal::KILL).expect("sent");
    soon(demo.running.ended()).await.expect("it ends");
    demo.is_gone().await;
    // Nobody was left to do it.
    std::fs::remove_dir_all(&demo.directory).expect("removed");
}
