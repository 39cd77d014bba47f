//! TCPRoutes in the mesh: connections to a Service go where the route says, at the caller's side.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Mesh, repeater, soon, until};

/// Two databases, and a route for the calls of the first.
fn databases(weights: (u32, u32)) -> String {
    format!(
        "\
{{apiVersion: v1, kind: Service, metadata: {{name: db}}, spec: {{ports: [{{port: 5432}}]}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: db-next}}, spec: {{ports: [{{port: 5432, appProtocol: tcp}}]}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: db}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: db, port: 5432}}]
  rules: [{{backendRefs: [{{name: db, port: 5432, weight: {}}}, {{name: db-next, port: 5432, weight: {}}}]}}]
",
        weights.0, weights.1
    )
}

/// What the program says first. It repeats what looks like HTTP, if nobody took it for that.
async fn greeting(at: SocketAddr) -> std::io::Result<char> {
    const WORDS: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(WORDS).await?;
    let mut heard = [0; 1 + WORDS.len()];
    soon(stream.read_exact(&mut heard)).await?;
    match heard[1..] == *WORDS {
        true => Ok(heard[0].into()),
        false => Err(std::io::Error::other(String::from_utf8_lossy(&heard))),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_a_service_go_by_its_route() {
    let mesh = Mesh::start(&databases((3, 1))).await;
    let (old, new) = (repeater("a").await, repeater("b").await);
    let first = mesh.sidecar("db").await.port(5432, old, "/tcp");
    let second = mesh.sidecar("db-next").await.port(5432, new, "/tcp");
    let web = mesh.sidecar("web").await.upstream("db:5432").upstream("db-next:5432");
    let (_first, _second, _web) = (first.start().await, second.start().await, web.start().await);

    // Both are there, each by what leads to it.
    for (at, name) in [(web.local[0], 'a'), (web.local[1], 'b'), (web.local[0], 'b')] {
        until(|| greeting(at), |heard| heard.as_ref().is_ok_and(|heard| *heard == name)).await.expect("a greeting");
    }
    let mut heard = String::new();
    for _ in 0..20 {
        heard.push(greeting(web.local[0]).await.expect("a greeting"));
    }
    assert_eq!((heard.matches('a').count(), heard.matches('b').count()), (15, 5), "{heard}");
    assert_eq!(greeting(web.local[1]).await.expect("a greeting"), 'b');

    mesh.configure(&databases((1, 0)));
    let four = || async {
        let mut heard = String::new();
        for _ in 0..4 {
            heard.extend(greeting(web.local[0]).await.ok());
        }
        heard
    };
    until(four, |heard| heard == "aaaa").await;
}
