//! Clients that send bytes as they are.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

/// Sends `bytes` on a new connection and reads until the gateway closes it.
pub(crate) async fn to_the_end(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut tcp = soon(TcpStream::connect(address)).await.expect("connected");
    let mut answer = Vec::new();
    // A gateway that has seen enough may close before it has read everything.
    let _refused = soon(tcp.write_all(bytes.as_ref())).await;
    let _reset = soon(tcp.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status codes of the responses in what came back, one directly behind the other.
pub(crate) fn statuses(answer: &str) -> Vec<u16> {
    let behind = answer.split("HTTP/1.1 ").skip(1);
    behind.filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}
