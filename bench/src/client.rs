//! A blocking HTTP/1.1 client, just enough to hold connections open and to ask on time.
//!
//! Used by the scenarios that wrk cannot play: memory with many idle connections, time to the first answer, a change under
//! load. Throughput is wrk's and h2load's job.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// How long an answer may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// Whether the server said that it closes the connection.
    pub(crate) closes: bool,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When the address refuses.
    pub(crate) fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Self::connect_for(address, PATIENCE)
    }

    /// The same, for somebody who waits so long for an answer.
    ///
    /// # Errors
    /// When the address refuses.
    pub(crate) fn connect_for(address: SocketAddr, patience: Duration) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends one GET and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks or the answer has no length.
    pub(crate) fn ask(&mut self, host: &str, path: &str) -> anyhow::Result<Answer> {
        self.stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
        self.buffer.clear();
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill()?;
        };
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        let status = text.split(' ').nth(1).and_then(|field| field.parse().ok()).context("no status line")?;
        let length: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|value| value.trim().parse().ok())
            .context("no content-length")?;
        while self.buffer.len() < head + length {
            self.fill()?;
        }
        let closes = text.lines().any(|line| line.trim_end() == "connection: close");
        Ok(Answer { status, body: self.buffer[head..head + length].to_vec(), closes })
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk)? {
            0 => bail!("the server closed the connection"),
            length => self.buffer.extend_from_slice(&chunk[..length]),
        }
        Ok(())
    }
}
