//! A Service of which one instance is in the mesh and the other is not: what one has refused reaches the other as it was sent.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use transept_testkit::echo::Port;

use crate::stage::{Mesh, answered, program, soon};

const WORDS: &str = "every word of it";

/// A program that answers a POST with the body that it got, over one connection after the other, and a GET with nothing.
async fn copyist() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while stream.read_buf(&mut seen).await.is_ok_and(|count| count > 0) {
                    let text = String::from_utf8_lossy(&seen).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    // All bodies here are sent in chunks.
                    if head.starts_with("POST") && !body.ends_with("0\r\n\r\n") {
                        continue;
                    }
                    let words: String = body.split("\r\n").skip(1).step_by(2).collect();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{words}", words.len());
                    seen.clear();
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// What the answer to a POST in two chunks says, with its status.
async fn post(at: SocketAddr) -> (u16, String) {
    let mut stream = TcpStream::connect(at).await.expect("connected");
    let (first, second) = WORDS.split_at(5);
    let chunk = |words: &str| format!("{:x}\r\n{words}\r\n", words.len());
    let head = "POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let message = format!("{head}{}{}0\r\n\r\n", chunk(first), chunk(second));
    soon(stream.write_all(message.as_bytes())).await.expect("sent");
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.expect("text");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tunnel_refuses_reaches_an_instance_without_one_whole() {
    let outside = copyist().await;
    let files = format!(
        "\
{{apiVersion: v1, kind: Service, metadata: {{name: cart}}, spec: {{ports: [{{port: 80, targetPort: {}}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: outside, labels: {{kubernetes.io/service-name: cart}}}}
addressType: IPv4
ports: [{{port: {}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
---
apiVersion: transept.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: cart}}
spec: {{targetRefs: [{{group: '', kind: Service, name: cart}}], balancer: {{algorithm: RoundRobin}}}}
",
        outside.port(),
        outside.port()
    );
    let mesh = Mesh::start(&files).await;
    let inside = program("cart-1", Port::Http1).await;
    let _cart = mesh.instance("cart", "cart-1").await.port(80, inside.address, "").start().await;
    let web = mesh.sidecar("web").await.upstream("cart:80");
    let web_running = web.start().await;
    let (_, at) = (answered(web.local[0], 200).await, web.local[0]);
    // Until both have answered: one gives its name, the other what it got.
    let mut kinds = std::collections::BTreeSet::new();
    while kinds.len() < 2 {
        let (status, body) = post(at).await;
        assert_eq!(status, 200, "{body}");
        kinds.insert(body == WORDS);
    }
    drop(inside);
    for _ in 0..20 {
        assert_eq!(post(at).await, (200, WORDS.to_owned()));
    }
    let metrics = web_running.metrics().await.expect("metrics");
    let retries = metrics.lines().find_map(|line| line.strip_prefix("transept_retries_total "));
    assert!(retries.is_some_and(|count| count != "0"), "nothing was sent again: {retries:?}");
}
