//! What a port speaks when nobody says it: told by the first bytes, and remembered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use transept_testkit::client::{Endpoint, Request, exchange};
use transept_testkit::echo::{Echo, Port};
use transept_testkit::launch::Running;

use crate::stage::{Mesh, Pair, answered, passes, program, repeater, say, soon, until};

/// What a sidecar remembers of a listener.
async fn remembered(sidecar: &Running, listener: &str) -> Option<String> {
    let status = sidecar.status().await.expect("a status");
    let ports = status["learned"].as_array().cloned().unwrap_or_default();
    let port = ports.iter().find(|port| port["listener"] == listener)?;
    port["protocol"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_that_are_no_request_line_pass_as_bytes() {
    let mesh = Mesh::start("").await;
    let cart = mesh.sidecar("cart").await.port(80, repeater("").await, "");
    let web = mesh.sidecar("web").await.upstream("cart:80");
    let (cart, caller) = (cart.start().await, web.start().await);
    passes(web.local[0], "HELO me\r\n", "HELO me\r\n").await;
    for words in ["HELO me\r\n", "PING\r\n", "GET key\r\n", "GET /key\r\n", "SET /key 1\r\n", "MAIL FROM:<a@b>\r\n"] {
        let mut stream = TcpStream::connect(web.local[0]).await.expect("connected");
        say(&mut stream, words, words).await;
    }
    assert_eq!(remembered(&caller, "default/cart/outbound-80").await.as_deref(), Some("tcp"));
    assert_eq!(remembered(&cart, "default/cart/inbound-80").await.as_deref(), Some("tcp"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_port_has_spoken_is_remembered_and_binds_nobody() {
    let mesh = Mesh::start("").await;
    let pair = Pair::start(&mesh).await;
    let polite = repeater("220 ready\r\n").await;
    let mail = mesh.sidecar("mail").await.port(25, polite, "");
    let client = mesh.sidecar("client").await.upstream("mail:25");
    let (mail, caller) = (mail.start().await, client.start().await);
    let connect = || async { TcpStream::connect(client.local[0]).await.expect("connected") };

    passes(client.local[0], "", "220 ready\r\n").await;
    for _ in 0..3 {
        let mut stream = connect().await;
        say(&mut stream, "", "220 ready\r\n").await;
        say(&mut stream, "HELO me\r\n", "HELO me\r\n").await;
    }
    let (out, way_in) = ("default/mail/outbound-25", "default/mail/inbound-25");
    assert_eq!(remembered(&caller, out).await.as_deref(), Some("tcp-server-first"));
    assert_eq!(remembered(&mail, way_in).await.as_deref(), Some("tcp-server-first"));
    let metrics = caller.metrics().await.expect("metrics");
    let line = "transept_learned_protocol{listener=\"default/mail/outbound-25\",protocol=\"tcp-server-first\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    // Who does not wait for the greeting gets it all the same, and takes nothing back.
    let mut stream = connect().await;
    say(&mut stream, "HELO me\r\n", "220 ready\r\nHELO me\r\n").await;
    assert_eq!(remembered(&caller, out).await.as_deref(), Some("tcp-server-first"));

    // Behind the other pair is HTTP, and a client that is silent first still gets its answer as such.
    assert_eq!(remembered(&pair.web, "default/cart/outbound-80").await.as_deref(), Some("http"));
    assert_eq!(remembered(&pair.cart, "default/cart/inbound-80").await.as_deref(), Some("http"));
    let mut late = TcpStream::connect(pair.local()).await.expect("connected");
    answered(pair.local(), 200).await;
    say(&mut late, "GET / HTTP/1.1\r\nhost: cart\r\n\r\n", "HTTP/1.1 200 ").await;
    // Something else is carried there at once, as far as the program likes it, and corrects what was known.
    let mut other = TcpStream::connect(pair.local()).await.expect("connected");
    other.write_all(b"\x01\x02\r\n\r\n").await.expect("sent");
    until(|| remembered(&pair.web, "default/cart/outbound-80"), |known| known.as_deref() == Some("tcp")).await;
    answered(pair.local(), 200).await;
    assert_eq!(remembered(&pair.web, "default/cart/outbound-80").await.as_deref(), Some("http"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_heard_beside_the_program_is_known_to_callers_who_never_called() {
    let mesh = Mesh::start("").await;
    let polite = repeater("220 ready\r\n").await;
    let mail = mesh.sidecar("mail").await.port(25, polite, "");
    let client = mesh.sidecar("client").await.upstream("mail:25");
    let (mail, caller) = (mail.start().await, client.start().await);
    passes(client.local[0], "", "220 ready\r\n").await;
    until(|| remembered(&mail, "default/mail/inbound-25"), |known| known.as_deref() == Some("tcp-server-first")).await;
    let heard = |status: &serde_json::Value| {
        let workloads = status["workloads"].as_array().cloned().unwrap_or_default();
        workloads.iter().any(|one| one["learned"]["25"] == "tcp-server-first")
    };
    until(|| mesh.status(), heard).await;
    drop(caller);

    // Another caller begins with what the first one had to find out.
    let other = mesh.sidecar("other").await.upstream("mail:25");
    let caller = other.start().await;
    let hint = || async {
        let status = caller.status().await.expect("a status");
        let ports = status["learned"].as_array().cloned().unwrap_or_default();
        ports.into_iter().find(|port| port["listener"] == "default/mail/outbound-25")
    };
    let known = until(hint, Option::is_some).await.expect("it is known");
    assert_eq!((&known["protocol"], &known["by"]), (&"tcp-server-first".into(), &"instances".into()));
    // Its client ends its side before it is greeted, and is greeted all the same.
    let mut stream = TcpStream::connect(other.local[0]).await.expect("connected");
    stream.shutdown().await.expect("one side is ended");
    say(&mut stream, "", "220 ready\r\n").await;
    let known =
        until(hint, |known| known.as_ref().is_some_and(|known| known["by"] == "here")).await.expect("it is known");
    assert_eq!(known["protocol"], "tcp-server-first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_found_out_without_a_declaration() {
    let mesh = Mesh::start("").await;
    let h2c = program("h2c", Port::H2c).await;
    let cart = mesh.sidecar("cart").await.port(80, h2c.address, "");
    let web = mesh.sidecar("web").await.upstream("cart:80");
    let (_cart, _web) = (cart.start().await, web.start().await);
    let request = Request::get("cart", "/two");
    let endpoint = Endpoint::h2c(web.local[0]);
    let ask = || async { soon(exchange(&endpoint, &request)).await.outcome.map_err(|failure| failure.to_string()) };
    let answer = until(ask, |answer| answer.as_ref().is_ok_and(|answer| answer.status == 200)).await;
    let seen = Echo::parse(&answer.expect("an answer").body).expect("an echo");
    let said = seen.header("x-forwarded-client-cert");
    assert!(said.as_ref().is_some_and(|said| said.contains("sa/web")), "it went the road of requests: {said:?}");
}

/// A server of HTTP that has only one answer, and counts its connections.
async fn always(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let count = Arc::new(AtomicUsize::new(0));
    let connections = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                while stream.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {
                    stream.write_all(answer.as_bytes()).await?;
                }
                Ok::<(), std::io::Error>(())
            });
        }
    });
    (address, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_made_in_case_proves_nothing() {
    let (bad, connections) = always("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
    let (good, _) = always("HTTP/1.1 200 Yes\r\ncontent-length: 0\r\n\r\n").await;
    let slice = |name: &str, at: SocketAddr| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: cart}}}}\n\
             ports: [{{port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n",
            at.port(),
            at.ip()
        )
    };
    let policy = "---\napiVersion: transept.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: cart}\nspec:\n  \
        targetRefs: [{group: '', kind: Service, name: cart}]\n  balancer: {algorithm: RoundRobin}\n  \
        outlierDetection: {consecutiveErrors: 1, baseEjectionTime: 100ms, maxEjectionTime: 100ms}\n";
    let service = "{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}\n";
    let mesh = Mesh::start(&format!("{service}{}{}{policy}", slice("bad", bad), slice("good", good))).await;
    let setup = mesh.sidecar("web").await.upstream("cart:80");
    let web = setup.start().await;
    // Both have been asked, and one is left alone for a moment.
    answered(setup.local[0], 500).await;
    let before = connections.load(Ordering::SeqCst);
    // Who says nothing is connected to somebody, in case that the program speaks first: sooner or later to the one that may be well again.
    let mut silent = Vec::new();
    let reached = || {
        silent.push(std::net::TcpStream::connect(setup.local[0]).expect("connected"));
        let now = connections.load(Ordering::SeqCst);
        async move { now }
    };
    until(reached, |now| *now > before).await;
    let status = web.status().await.expect("a status");
    let endpoints = status["backends"][0]["endpoints"].as_array().expect("endpoints").clone();
    let state = endpoints.iter().find(|one| one["address"] == bad.to_string()).map(|one| &one["state"]);
    assert!(state.is_some_and(|state| state != "serving"), "{endpoints:?}");
}
