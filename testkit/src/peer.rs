//! Raw TCP peers that follow a script, for everything a well-behaved server or client would never do.
//!
//! Called by road tests, on either side of the proxy: [`ScriptedServer`] stands in for a backend, [`talk`] for a client. A
//! script is a list of [`Act`]s; nothing here waits for time to pass, only for bytes or for a [`Gate`].

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// A point in a script that waits until the test lets it go on.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Gate {
        Gate(Arc::new(Semaphore::new(0)))
    }

    /// Opens the gate for good.
    pub fn open(&self) {
        self.0.close();
    }

    /// Waits until the gate is open.
    pub async fn passed(&self) {
        // Nobody adds permits, so the only way out is the closing of the semaphore.
        let _closed = self.0.acquire().await;
    }
}

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Act {
    /// Read exactly these bytes; anything else fails the script.
    Expect(Vec<u8>),
    /// Read so many bytes, whatever they are.
    Read(usize),
    /// Read up to and including the first empty line.
    ReadHead,
    /// Read until the peer ends its side.
    ReadToEnd,
    /// Send these bytes at once.
    Send(Vec<u8>),
    /// Wait for the gate.
    Wait(Gate),
    /// End our side, keep reading.
    EndSending,
    /// Cut the connection off with a reset.
    Reset,
}

impl Act {
    /// Sends text.
    pub fn send(text: impl AsRef<[u8]>) -> Act {
        Act::Send(text.as_ref().to_vec())
    }

    /// Expects text.
    pub fn expect(text: impl AsRef<[u8]>) -> Act {
        Act::Expect(text.as_ref().to_vec())
    }
}

/// Connects, follows the script, closes, and returns everything that was read.
///
/// # Errors
/// The connection broke where the script did not, or something else came than expected.
pub async fn talk(address: SocketAddr, script: &[Act]) -> io::Result<Vec<u8>> {
    let tcp = TcpStream::connect(address).await?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    follow(tcp, script, &seen).await?;
    let read = seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(read.clone())
}

/// A server whose connections follow one script each, in the order in which they are accepted.
#[derive(Debug)]
pub struct ScriptedServer {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Transcript>>>,
    serving: Option<JoinHandle<io::Result<()>>>,
}

type Transcript = Arc<Mutex<Vec<u8>>>;

impl ScriptedServer {
    /// Listens on a free port of 127.0.0.1. The first connection follows the first script, and so on; once all scripts are
    /// taken, nothing is accepted any more.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(scripts: Vec<Vec<Act>>) -> io::Result<ScriptedServer> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let transcripts = Arc::clone(&received);
        let serving = tokio::spawn(async move {
            let mut conversations = Vec::new();
            for script in scripts {
                let (tcp, _) = listener.accept().await?;
                let seen = Transcript::default();
                transcripts.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&seen));
                conversations.push(tokio::spawn(async move { follow(tcp, &script, &seen).await }));
            }
            for conversation in conversations {
                conversation.await.map_err(io::Error::other)??;
            }
            Ok(())
        });
        Ok(ScriptedServer { address, received, serving: Some(serving) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What each connection has received so far.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let transcripts = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = |seen: &Transcript| seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        transcripts.iter().map(bytes).collect()
    }

    /// Waits until every script has been followed to its end.
    ///
    /// # Errors
    /// A script failed: the connection broke, or something else came than expected.
    pub async fn finish(mut self) -> io::Result<Vec<Vec<u8>>> {
        if let Some(serving) = self.serving.take() {
            serving.await.map_err(io::Error::other)??;
        }
        Ok(self.received())
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn follow(mut tcp: TcpStream, script: &[Act], seen: &Mutex<Vec<u8>>) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let note = |bytes: &[u8]| seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    for act in script {
        match act {
            Act::Expect(expected) => {
                let mut got = vec![0; expected.len()];
                tcp.read_exact(&mut got).await?;
                note(&got);
                if got != *expected {
                    let (expected, got) = (String::from_utf8_lossy(expected), String::from_utf8_lossy(&got));
                    return Err(io::Error::other(format!("expected {expected:?}, got {got:?}")));
                }
            }
            Act::Read(count) => {
                let mut got = vec![0; *count];
                tcp.read_exact(&mut got).await?;
                note(&got);
            }
            Act::ReadHead => {
                let mut tail = [0; 4];
                while tail != *b"\r\n\r\n" {
                    let byte = tcp.read_u8().await?;
                    note(&[byte]);
                    tail = [tail[1], tail[2], tail[3], byte];
                }
            }
            Act::ReadToEnd => {
                let mut rest = Vec::new();
                let ended = tcp.read_to_end(&mut rest).await;
                note(&rest);
                ended?;
            }
            Act::Send(bytes) => tcp.write_all(bytes).await?,
            Act::Wait(gate) => gate.passed().await,
            Act::EndSending => tcp.shutdown().await?,
            Act::Reset => {
                tcp.set_zero_linger()?;
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_scripts_meet_in_the_middle() {
        let gate = Gate::closed();
        let script = vec![Act::ReadHead, Act::Wait(gate.clone()), Act::send("late")];
        let server = ScriptedServer::start(vec![script]).await.expect("binds");
        let client = [Act::send("GET / HTTP/1.1\r\n\r\n"), Act::Wait(gate.clone()), Act::expect("late")];
        let talking = talk(server.address(), &client);
        let opening = async { gate.open() };
        let (read, ()) = tokio::join!(talking, opening);
        assert_eq!(read.expect("as scripted"), b"late");
        let received = server.finish().await.expect("as scripted");
        assert_eq!(received, [b"GET / HTTP/1.1\r\n\r\n"]);
    }

    #[tokio::test]
    async fn a_reset_is_no_end_of_file() {
        let server = ScriptedServer::start(vec![vec![Act::Read(1), Act::Reset]]).await.expect("binds");
        let failure = talk(server.address(), &[Act::send("x"), Act::ReadToEnd]).await;
        assert_eq!(failure.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn something_unexpected_fails_the_script() {
        let server = ScriptedServer::start(vec![vec![Act::expect("ping")]]).await.expect("binds");
        talk(server.address(), &[Act::send("pong")]).await.expect("sends");
        assert!(server.finish().await.is_err());
    }
}
