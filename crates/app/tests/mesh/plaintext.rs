//! Connections to a program of the mesh that do not come through it, from another machine.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use transept_testkit::client::{Request, exchange_http1};
use transept_testkit::echo::{Echo, Port};

use crate::alone::{Elsewhere, HERE, THERE, alone};
use crate::stage::{Mesh, answered, begin_events, events, program, repeater, say, soon, until};

const TEST: &str = "plaintext::only_a_permissive_workload_is_reached_without_the_mesh";

fn mesh_policy(mode: &str) -> String {
    format!(
        "apiVersion: transept.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: cart}}\nspec:\n  targetRefs: \
         [{{group: \"\", kind: Service, name: cart}}]\n  mode: {mode}\n"
    )
}

const ONLY_WEB: &str = "---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: guard}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], allow: [{from: [{identities: [default/web]}]}]}
";

#[test]
fn only_a_permissive_workload_is_reached_without_the_mesh() {
    alone(TEST, knock());
}

/// A connection that is made on the other machine.
fn connect(elsewhere: &Elsewhere, to: SocketAddr) -> TcpStream {
    let stream = elsewhere.run(|| std::net::TcpStream::connect(to)).expect("connected");
    stream.set_nonblocking(true).expect("set");
    TcpStream::from_std(stream).expect("registered")
}

/// The status of a request from the other machine, and what the program saw; none when the connection is closed without an answer.
async fn ask(elsewhere: &Elsewhere, to: SocketAddr) -> Option<(u16, Option<Echo>)> {
    let stream = connect(elsewhere, to);
    let request = Request::get("cart", "/x")
        .with("x-forwarded-for", "192.0.2.9")
        .with("x-forwarded-client-cert", "URI=spiffe://transept.local/ns/default/sa/web");
    let answer = soon(exchange_http1(Box::new(stream), &request)).await.ok()?;
    Some((answer.status, Echo::parse(&answer.body)))
}

async fn knock() {
    let elsewhere = Elsewhere::new();
    let mesh = Mesh::start("").await;
    let (http, bytes, lasting) = (program("cart-1", Port::Http1).await, repeater("").await, events().await);
    let cart = mesh.sidecar("cart").await.argument(format!("--listen={HERE}:15008"));
    let cart = cart.port(80, http.address, "").port(90, bytes, "/tcp").port(91, lasting, "").argument("--transparent");
    let web = mesh.sidecar("web").await.upstream("cart:80");
    let (cart, _web) = (cart.start().await, web.start().await);
    let outside = |program: SocketAddr| SocketAddr::from((HERE, program.port()));
    let (http, bytes, lasting) = (outside(http.address), outside(bytes), outside(lasting));
    answered(web.local[0], 200).await;

    // Strict is what nobody has to say.
    assert!(ask(&elsewhere, http).await.is_none());
    let line = soon(cart.log_line_with("mesh.plaintext")).await;
    assert!(line.contains(&THERE.to_string()) && line.contains("no MeshPolicy"), "{line}");

    mesh.configure(&mesh_policy("Permissive"));
    let (status, seen) = until(|| ask(&elsewhere, http), Option::is_some).await.expect("an answer");
    let seen = seen.expect("an echo");
    assert_eq!((status, seen.pod.as_str()), (200, "cart-1"));
    assert_eq!(
        seen.header("x-forwarded-for").as_deref(),
        Some(&*THERE.to_string()),
        "what a stranger says is not believed"
    );
    assert!(seen.header("x-forwarded-client-cert").is_none());
    assert_eq!(seen.header("x-forwarded-port"), Some(http.port().to_string()), "the port that was called, not ours");
    let mut stream = connect(&elsewhere, bytes);
    say(&mut stream, "before\n", "before\n").await;

    // Policies see a client without an identity.
    mesh.configure(&(mesh_policy("Permissive") + ONLY_WEB));
    until(|| ask(&elsewhere, http), Option::is_none).await;
    let line = soon(cart.log_line_with("AuthorizationPolicy default/guard")).await;
    assert!(line.contains(&THERE.to_string()), "{line}");
    answered(web.local[0], 200).await;
    let mut rest = Vec::new();
    // Cut off or ended: in no case does it go on.
    let _ = soon(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");

    mesh.configure(&mesh_policy("Permissive"));
    until(|| ask(&elsewhere, http), Option::is_some).await;
    let mut response = connect(&elsewhere, lasting);
    begin_events(&mut response).await;
    mesh.configure(&mesh_policy("Strict"));
    let refused = || async {
        // A request on a connection that was let in before is refused in words.
        let status = ask(&elsewhere, http).await.map(|(status, _)| status);
        assert!(matches!(status, None | Some(200 | 403)), "{status:?}");
        cart.log()
    };
    until(refused, |log| log.contains("MeshPolicy default/cart, mode Strict")).await;
    // A response that is under way is cut, and does not look complete.
    let mut rest = Vec::new();
    let _ = soon(tokio::io::AsyncReadExt::read_to_end(&mut response, &mut rest)).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    answered(web.local[0], 200).await;
}
