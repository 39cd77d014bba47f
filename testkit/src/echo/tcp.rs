//! The echo pod for connections that are not HTTP: it greets, and answers lines. Called per connection; it decides nothing.

use std::io;
use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::Pod;

/// What it says first.
pub const GREETING: &str = "Gateway API Test TCP Server";

/// Nobody sends longer lines.
const LONGEST: usize = 1024;

pub(super) async fn serve(mut stream: TcpStream, pod: Arc<Pod>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    write.write_all(format!("{GREETING}\n").as_bytes()).await?;
    let mut lines = BufReader::new(read);
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line).await? == 0 || line.len() > LONGEST {
            return Ok(());
        }
        let answer = match line.trim() {
            "PING" => "PONG".to_owned(),
            "IS_TLS" => "false".to_owned(),
            "TEST" => json!({"namespace": pod.namespace, "pod": pod.name, "isTLS": false}).to_string(),
            _ => continue,
        };
        write.write_all(format!("{answer}\n").as_bytes()).await?;
    }
}
