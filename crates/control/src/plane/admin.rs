//! Speaks to people on the same machine: a socket in the directory of the state, one JSON line for a question and one for its answer.
//!
//! Started beside `serve`; asked by the commands `token`, `certs` and `mesh`. Only the user who runs the control plane, and the
//! superuser, are answered: who may make tokens may become any workload.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use transept_identity::token::Uses;

use super::core::{NotDone, Plane};

/// The socket in the directory of the state.
const SOCKET: &str = "admin.sock";
/// The longest question in bytes.
const LONGEST: u64 = 64 << 10;
/// How long a question or its answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A question to the control plane.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Question {
    /// Make a join token.
    CreateToken {
        /// The namespace of the workload.
        namespace: String,
        /// Its service, after which its service account is named.
        service: String,
        /// How often it is good.
        uses: Uses,
        /// How many seconds it lives.
        seconds: u64,
    },
    /// Show all tokens.
    ListTokens,
    /// Take a token back.
    RevokeToken {
        /// Its name.
        id: String,
    },
    /// Show all certificates.
    Certificates,
    /// Begin to replace the root.
    Rotate,
    /// Show proxies, registrations and what was refused.
    Status,
}

impl Plane {
    /// Answers a question of somebody who may ask.
    ///
    /// # Errors
    /// It cannot be done.
    pub fn answer(&self, question: &Question) -> Result<Value, NotDone> {
        match question {
            Question::CreateToken { namespace, service, uses, seconds } => {
                self.create_token(namespace, service, *uses, Duration::from_secs(*seconds))
            }
            Question::ListTokens => Ok(self.list_tokens()),
            Question::RevokeToken { id } => self.revoke_token(id),
            Question::Certificates => Ok(self.certificates()),
            Question::Rotate => self.rotate(),
            Question::Status => Ok(self.status()),
        }
    }
}

/// The bound socket. Its file is left behind: the next process replaces it, and nobody answers on it until then.
#[derive(Debug)]
pub struct Admin {
    listener: UnixListener,
    owner: u32,
}

impl Admin {
    /// Binds the socket in the directory of the state. What is left of an earlier process is replaced; that no other one is
    /// running is known from the store, which is opened before.
    ///
    /// # Errors
    /// It cannot be bound.
    pub fn bind(directory: &Path) -> io::Result<Self> {
        let path = directory.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        let owner = path.metadata()?.uid();
        Ok(Self { listener, owner })
    }

    /// Answers questions; never ends.
    pub async fn serve(self, plane: Arc<Plane>) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0);
            let plane = plane.clone();
            tokio::spawn(async move {
                let answered = tokio::time::timeout(PATIENCE, converse(stream, plane, allowed)).await;
                if let Ok(Err(error)) = answered {
                    tracing::debug!(%error, "a question on the admin socket broke off");
                }
            });
        }
    }
}

async fn converse(mut stream: UnixStream, plane: Arc<Plane>, allowed: bool) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read.take(LONGEST)).read_line(&mut line).await?;
    let answer = match (allowed, serde_json::from_str::<Question>(&line)) {
        (false, _) => json!({"error": "only the user who runs the control plane may ask"}),
        (true, Err(error)) => json!({"error": format!("this is no question: {error}")}),
        (true, Ok(question)) => {
            let done = tokio::task::spawn_blocking(move || plane.answer(&question)).await.map_err(io::Error::other)?;
            match done {
                Ok(answer) => json!({"answer": answer}),
                Err(error) => json!({"error": error.to_string()}),
            }
        }
    };
    write.write_all(format!("{answer}\n").as_bytes()).await
}

/// Asks the control plane that runs with the state in `directory`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when none runs; `Other` with a sentence when it refuses.
pub async fn ask(directory: &Path, question: &Question) -> io::Result<Value> {
    let exchange = async {
        let mut stream = UnixStream::connect(directory.join(SOCKET)).await?;
        stream.write_all(format!("{}\n", serde_json::to_string(question)?).as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        serde_json::from_str::<Value>(&text).map_err(io::Error::from)
    };
    let mut answer = tokio::time::timeout(PATIENCE, exchange).await.map_err(io::Error::from)??;
    match answer["error"].as_str() {
        Some(error) => Err(io::Error::other(error.to_owned())),
        None => Ok(answer["answer"].take()),
    }
}
