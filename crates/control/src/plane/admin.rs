//! Speaks to people on the same machine: a socket in the directory of the state, one JSON line for a question and one for its answer. Only a
//! tap is answered with more lines, as long as who asked stays.
//!
//! Started beside `serve`; asked by the commands `token`, `key`, `certs` and `mesh`. Only the user who runs the control plane, and the
//! superuser, are answered: who may make tokens may become any workload.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::WriteHalf;
use tokio::net::{UnixListener, UnixStream};
use transept_identity::token::Uses;
use transept_xds::report::Tapped;

use super::core::{NotDone, Plane};
use super::seen::{Told, Watcher};

/// The socket in the directory of the state.
const SOCKET: &str = "admin.sock";
/// The longest question in bytes.
const LONGEST: u64 = 64 << 10;
/// How long a question or its answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long live requests are told: who has forgotten that he listens costs the proxies something.
const LONGEST_TAP: Duration = Duration::from_secs(3600);

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
    /// Keep ApiKeys and Consumers, all of them or, where one is no longer what it was, none.
    PutKeys {
        /// What is kept.
        changes: Vec<KeyChange>,
    },
    /// Show all ApiKeys and Consumers that are kept.
    ListKeys,
    /// Show the names of all ApiKeys of a namespace: those of the files, and those that are kept.
    KeyNames {
        /// The namespace.
        namespace: String,
    },
    /// Show all certificates.
    Certificates,
    /// Begin to replace the root.
    Rotate,
    /// Take a root out of the bundle at once.
    Distrust {
        /// Its fingerprint, or the first eight digits of it.
        root: String,
    },
    /// Show services, proxies, registrations and what was refused.
    Status,
    /// Show the status of the objects of the files.
    Objects,
    /// Show who calls whom.
    Graph,
    /// Show live requests of a service.
    Tap(TapFilter),
}

/// A change of an ApiKey or a Consumer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeyChange {
    /// What it was when it was read; none where it is new, and its name free.
    pub before: Option<Value>,
    /// The whole object.
    pub object: Value,
}

/// Which live requests are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TapFilter {
    /// The namespace of the service.
    pub namespace: String,
    /// The service whose instances are called.
    pub service: String,
    /// The method.
    pub method: Option<String>,
    /// What the path begins with.
    pub path: Option<String>,
    /// The least and the greatest status.
    pub status: Option<(u16, u16)>,
    /// Who calls: `web`, `shop/web` or a SPIFFE id.
    pub from: Option<String>,
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
            Question::PutKeys { changes } => self.put_keys(changes),
            Question::ListKeys => Ok(self.list_keys()),
            Question::KeyNames { namespace } => Ok(self.key_names(namespace)),
            Question::Certificates => Ok(self.certificates()),
            Question::Rotate => self.rotate(),
            Question::Distrust { root } => self.distrust(root),
            Question::Status => Ok(self.status()),
            Question::Objects => Ok(self.objects()),
            Question::Graph => Ok(self.graph()),
            Question::Tap(_) => Err(NotDone::Wrong("a tap is answered line by line".to_owned())),
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
                if let Err(error) = converse(stream, plane, allowed).await {
                    tracing::debug!(%error, "a question on the admin socket broke off");
                }
            });
        }
    }
}

async fn converse(mut stream: UnixStream, plane: Arc<Plane>, allowed: bool) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(LONGEST));
    tokio::time::timeout(PATIENCE, read.read_line(&mut line)).await??;
    let answer = match (allowed, serde_json::from_str::<Question>(&line)) {
        (false, _) => json!({"error": "only the user who runs the control plane may ask"}),
        (true, Err(error)) => json!({"error": format!(
            "the control plane does not understand the question ({error}); it may be of another version than this command"
        )}),
        (true, Ok(Question::Tap(filter))) => match plane.tap(&filter) {
            Ok((begun, watcher)) => return tell_tapped(begun, watcher, &mut read, &mut write).await,
            Err(error) => json!({"error": error.to_string()}),
        },
        (true, Ok(question)) => {
            let done = tokio::task::spawn_blocking(move || plane.answer(&question));
            match tokio::time::timeout(PATIENCE, done).await?.map_err(io::Error::other)? {
                Ok(answer) => json!({"answer": answer}),
                Err(error) => json!({"error": error.to_string()}),
            }
        }
    };
    say(&mut write, &answer).await
}

/// Says one line; who does not read it in time has gone.
async fn say(write: &mut WriteHalf<'_>, line: &Value) -> io::Result<()> {
    tokio::time::timeout(PATIENCE, write.write_all(format!("{line}\n").as_bytes())).await?
}

/// Tells of live requests until who asked has gone, or [`LONGEST_TAP`] is over.
async fn tell_tapped(
    begun: Value,
    mut watcher: Watcher,
    read: &mut (impl AsyncRead + Unpin),
    write: &mut WriteHalf<'_>,
) -> io::Result<()> {
    say(write, &json!({"answer": begun})).await?;
    let over = tokio::time::sleep(LONGEST_TAP);
    tokio::pin!(over);
    let mut byte = [0];
    loop {
        let told = tokio::select! {
            told = watcher.next() => told,
            // Nothing more is expected to be said; who says something, or leaves, has had enough.
            _ = read.read(&mut byte) => return Ok(()),
            () = &mut over => return say(write, &json!({"ended": "an hour is over"})).await,
        };
        let line = match told {
            Some(Told::Request(request)) => json!({"request": shown(&request)}),
            Some(Told::LeftOut(count)) => json!({"leftOut": count}),
            None => return Ok(()),
        };
        say(write, &line).await?;
    }
}

fn shown(request: &Tapped) -> Value {
    let some = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    json!({
        "timeMicros": request.time,
        "source": some(&request.source),
        "destination": request.service,
        "workload": some(&request.workload),
        "method": request.method,
        "path": request.path,
        "status": request.status,
        "durationMicros": request.micros,
        "bytesSent": request.bytes_sent,
        "bytesReceived": request.bytes_received,
        "error": some(&request.error),
        "detail": some(&request.detail),
        "traceId": some(&request.trace),
    })
}

/// The lines that answer a tap.
#[derive(Debug)]
pub struct Tapping {
    lines: Lines<BufReader<UnixStream>>,
    /// What was said first: the service, and how many proxies are listened to.
    pub begun: Value,
}

impl Tapping {
    /// Begins to listen.
    ///
    /// # Errors
    /// As [`ask`].
    pub async fn begin(directory: &Path, filter: TapFilter) -> io::Result<Tapping> {
        let mut stream = UnixStream::connect(directory.join(SOCKET)).await?;
        let question = serde_json::to_string(&Question::Tap(filter))?;
        stream.write_all(format!("{question}\n").as_bytes()).await.map_err(cut_short)?;
        let mut tapping = Tapping { lines: BufReader::new(stream).lines(), begun: Value::Null };
        let first = tokio::time::timeout(PATIENCE, tapping.next()).await??;
        tapping.begun = settle(first.ok_or_else(|| cut_short(io::ErrorKind::UnexpectedEof.into()))?)?;
        Ok(tapping)
    }

    /// The next line: an object with `request`, `leftOut` or `ended`. None when the control plane has gone.
    ///
    /// # Errors
    /// What comes is no JSON.
    pub async fn next(&mut self) -> io::Result<Option<Value>> {
        let line = match self.lines.next_line().await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            line => line?,
        };
        line.map(|line| serde_json::from_str(&line).map_err(io::Error::from)).transpose()
    }
}

/// The answer, or the error that there is instead.
fn settle(mut answer: Value) -> io::Result<Value> {
    match answer["error"].as_str() {
        Some(error) => Err(io::Error::other(error.to_owned())),
        None => Ok(answer["answer"].take()),
    }
}

/// How long a control plane that has its state open may take until it can be asked: it starts.
pub const STARTING: Duration = Duration::from_secs(10);

/// Asks the control plane that runs with the state in `directory`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when none runs; `UnexpectedEof` or `TimedOut` when it does not answer, and may have done what was asked;
/// `Other` with a sentence when it refuses.
pub async fn ask(directory: &Path, question: &Question) -> io::Result<Value> {
    let exchange = async {
        let mut stream = UnixStream::connect(directory.join(SOCKET)).await?;
        let asked = async {
            stream.write_all(format!("{}\n", serde_json::to_string(question)?).as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            serde_json::from_str::<Value>(&text).map_err(io::Error::from)
        };
        asked.await.map_err(cut_short)
    };
    settle(tokio::time::timeout(PATIENCE, exchange).await.map_err(io::Error::from)??)
}

/// An end without an answer, however the socket tells of it.
fn cut_short(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the control plane ended before it had answered")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_without_an_answer_is_told_as_one() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let listener = UnixListener::bind(directory.path().join(SOCKET)).expect("bound");
        let ends = async {
            // At once, after the question, and within the answer.
            drop(listener.accept().await.expect("asked"));
            for answer in ["", "{\"answer\": [1"] {
                let (mut stream, _) = listener.accept().await.expect("asked");
                BufReader::new(&mut stream).read_line(&mut String::new()).await.expect("a question");
                stream.write_all(answer.as_bytes()).await.expect("said");
            }
        };
        let asks = async {
            for _ in 0..3 {
                let error = ask(directory.path(), &Question::Status).await.expect_err("no answer");
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
            }
        };
        tokio::join!(ends, asks);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_waited_for_for_a_while() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let _listener = UnixListener::bind(directory.path().join(SOCKET)).expect("bound");
        let error = ask(directory.path(), &Question::Status).await.expect_err("no answer");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
