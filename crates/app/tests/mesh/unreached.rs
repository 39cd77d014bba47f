//! What nobody has seen is sent elsewhere, however large it is; what somebody has answered or refused is not, and is no failure of an instance.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use transept_testkit::client::{Endpoint, Request, exchange};
use transept_testkit::echo::{Port, RequestLog};

use crate::stage::{
    Mesh, answered, begin_events, events, get, logging_program, program, repeater, say, send, soon, told, until,
};

/// A program that says of every POST what the proxy beside a program says where there is none, and counts them.
async fn liar(posts: &Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, posts) = (listener.local_addr().expect("bound"), Arc::clone(posts));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let posts = Arc::clone(&posts);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while stream.read_buf(&mut seen).await.is_ok_and(|count| count > 0) {
                    if !seen.windows(4).any(|part| part == b"\r\n\r\n") {
                        continue;
                    }
                    let is_post = seen.windows(5).any(|part| part == b"POST ");
                    seen.clear();
                    posts.fetch_add(usize::from(is_post), Ordering::Relaxed);
                    let answer: &[u8] = match is_post {
                        true => {
                            b"HTTP/1.1 503 No\r\nproxy-status: transept; error=connection_refused\r\n\
                              x-transept-unreached: 1\r\ncontent-length: 0\r\n\r\n"
                        }
                        false => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                    };
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn post(target: &str, body: Vec<u8>) -> Request {
    Request { method: "POST".to_owned(), body, ..Request::get("cart", target) }
}

/// The value of a metric without labels.
fn value(metrics: &str, name: &str) -> u64 {
    let mut lines = metrics.lines();
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_program_can_say_that_nobody_was_there() {
    let mesh = Mesh::start("").await;
    let posts = Arc::new(AtomicUsize::new(0));
    let mut carts = Vec::new();
    for name in ["cart-1", "cart-2"] {
        carts.push(mesh.instance("cart", name).await.port(80, liar(&posts).await, "").start().await);
    }
    let web = mesh.sidecar("web").await.upstream("cart:80");
    let running = web.start().await;
    let both = |status: &serde_json::Value| status["workloads"].as_array().is_some_and(|all| all.len() == 2);
    until(|| mesh.status(), both).await;
    answered(web.local[0], 200).await;
    for times in 1..=5 {
        let answer = send(web.local[0], &post("/", b"once".to_vec())).await.expect("an answer");
        assert_eq!((answer.status, answer.field("x-transept-unreached")), (503, None));
        assert_eq!(posts.load(Ordering::Relaxed), times);
    }
    assert_eq!(value(&running.metrics().await.expect("metrics"), "transept_retries_total"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_that_nobody_has_seen_reaches_another_instance_whole() {
    let mesh = Mesh::start("").await;
    let logs = [RequestLog::new(), RequestLog::new()];
    let (mut carts, mut programs) = (Vec::new(), Vec::new());
    for (name, log) in ["cart-1", "cart-2"].iter().zip(&logs) {
        let program = logging_program(name, Port::H2c, log).await;
        carts.push(mesh.instance("cart", name).await.port(80, program.address, "/h2c").start().await);
        programs.push(program);
    }
    let web = mesh.sidecar("web").await.upstream("cart:80");
    let running = web.start().await;
    let endpoint = Endpoint::h2c(web.local[0]);
    let ask = |target: String, size: usize| {
        let endpoint = &endpoint;
        async move {
            let request = post(&target, vec![b'x'; size]);
            soon(exchange(endpoint, &request)).await.outcome.map(|answer| answer.status).map_err(|why| why.to_string())
        }
    };
    // Until both are asked, over tunnels that are open from then on.
    let number = AtomicUsize::new(0);
    let next = || ask(format!("/early/{}", number.fetch_add(1, Ordering::Relaxed)), 10);
    until(next, |_| logs.iter().all(|log| !log.is_empty())).await.expect("an answer");
    // Large ones pass without delay: that they have arrived is told.
    assert_eq!(ask("/before".to_owned(), 300_000).await, Ok(200));
    programs.remove(0);
    for number in 0..20 {
        let target = format!("/late/{number}");
        assert_eq!(ask(target.clone(), 300_000).await, Ok(200));
        assert_eq!(logs[1].count(&target), 1);
    }
    let metrics = running.metrics().await.expect("metrics");
    assert!(value(&metrics, "transept_retries_total") > 0, "the instance that is gone was not asked");
}

const WATCHED: &str = "\
apiVersion: transept.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], outlierDetection: {consecutiveErrors: 1}}
---
";

fn denying(rule: &str) -> String {
    format!(
        "\
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: guard}}
spec: {{targetRefs: [{{group: '', kind: Service, name: cart}}], deny: [{rule}]}}
"
    )
}

/// What a policy cuts is told apart from what an instance breaks: of requests and of connections that nobody looks at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_policy_cuts_is_no_failure_of_the_instance() {
    let mesh = Mesh::start(WATCHED).await;
    let (lasting, bytes) = (events().await, repeater("").await);
    let cart = mesh.sidecar("cart").await.port(80, lasting, "").port(90, bytes, "/tcp");
    let web = mesh.sidecar("web").await.upstream("cart:80").upstream("cart:90");
    let (_cart, running) = (cart.start().await, web.start().await);
    let known = || async { TcpStream::connect(web.local[1]).await.ok() };
    let mut stream = until(known, Option::is_some).await.expect("a connection");
    say(&mut stream, "before\n", "before\n").await;
    let mut response = TcpStream::connect(web.local[0]).await.expect("connected");
    begin_events(&mut response).await;

    mesh.configure(&(WATCHED.to_owned() + &denying("{from: [{identities: [default/web]}]}")));
    for cut in [&mut stream, &mut response] {
        let mut rest = Vec::new();
        let _ = soon(cut.read_to_end(&mut rest)).await;
    }
    until(|| async { running.log() }, |log| log.matches("mesh.denied").count() >= 2).await;
    let metrics = running.metrics().await.expect("metrics");
    assert!(!metrics.contains("transept_endpoint_ejections_total{"), "{metrics}");
    assert!(metrics.contains("transept_endpoints{backend=\"default/cart:80\",state=\"serving\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_is_refused_is_asked_for_once() {
    let mesh = Mesh::start(&denying("{to: [{ports: [80]}]}")).await;
    let mut carts = Vec::new();
    for name in ["cart-1", "cart-2"] {
        let program = program(name, Port::Http1).await;
        carts.push((mesh.instance("cart", name).await.port(80, program.address, "").start().await, program));
    }
    let web = mesh.sidecar("web").await.upstream("cart:80");
    let running = web.start().await;
    let both = |status: &serde_json::Value| status["workloads"].as_array().is_some_and(|all| all.len() == 2);
    until(|| mesh.status(), both).await;
    answered(web.local[0], 403).await;
    for _ in 0..10 {
        assert_eq!(get(web.local[0]).await.expect("an answer").status, 403);
    }
    told(&running, "mesh.denied").await;
    assert_eq!(value(&running.metrics().await.expect("metrics"), "transept_retries_total"), 0);
}
