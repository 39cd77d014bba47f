//! Who keeps the door of the control plane busy: silent connections of one address keep nobody else out.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use transept_control::plane::{Capacity, Plane, Setup, serve};
use transept_identity::TrustDomain;

/// Long enough for a busy machine, and shorter than a silent connection is kept.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than all places.
const MANY: usize = 1100;

async fn connect(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from, 0)).expect("an address of this machine");
    socket.connect(to).await.expect("connected")
}

/// What somebody is told who speaks no TLS: an alert, when anybody listens.
async fn hears(from: IpAddr, to: SocketAddr) -> usize {
    let mut stream = connect(from, to).await;
    // Who is sent away may find out here already.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    let answer = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 16])).await.expect("somebody listens");
    answer.unwrap_or(0)
}

#[tokio::test]
async fn silent_connections_of_one_address_keep_nobody_else_out() {
    let state = tempfile::tempdir().expect("a directory");
    let trust_domain = TrustDomain::new("shop.test").expect("a name");
    let plane = Plane::open(state.path(), Setup { trust_domain, leaf_life: Duration::from_secs(3600) });
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(serve(plane.expect("a plane"), listener, Capacity::WHOLE));
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let [hostile, other] = [[127, 0, 0, 2], [127, 0, 0, 3]].map(IpAddr::from);

    let mut silent = Vec::new();
    for _ in 0..MANY {
        silent.push(connect(hostile, at).await);
    }
    assert_ne!(hears(other, at).await, 0);
    assert_eq!(hears(hostile, at).await, 0, "it has too many");
}
