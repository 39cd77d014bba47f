//! Connections that are not HTTP: the steps `tcp` and `tcp_samples`, and what a distribution asks (section 2.4).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use transept_testkit::echo::GREETING;

use super::Stage;
use crate::case::{Tcp, TcpExpect, TcpSamples};
use crate::converge::REQUEST_LIMIT;

const BETWEEN_FAILURES: Duration = Duration::from_millis(100);

/// Why a conversation did not go as it should.
enum Wrong {
    /// The connection broke; it may work next time.
    Broken(String),
    /// Something else came than should.
    Answer(String),
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Wrong::Broken(error.to_string())
    }
}

/// A conversation with an echo pod.
struct Talk(BufReader<TcpStream>);

impl Talk {
    async fn begin(address: SocketAddr) -> Result<Talk, Wrong> {
        let mut talk = Talk(BufReader::new(TcpStream::connect(address).await?));
        match talk.line().await?.as_str() {
            GREETING => Ok(talk),
            other => Err(Wrong::Answer(format!("the greeting is {other:?}"))),
        }
    }

    async fn line(&mut self) -> Result<String, Wrong> {
        let mut line = String::new();
        match self.0.read_line(&mut line).await? {
            0 => Err(Wrong::Broken("the connection was closed".to_owned())),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    async fn ask(&mut self, words: &str) -> Result<String, Wrong> {
        self.0.get_mut().write_all(format!("{words}\n").as_bytes()).await?;
        self.line().await
    }

    /// Who answers.
    async fn pod(&mut self) -> Result<Pod, Wrong> {
        let answer = self.ask("TEST").await?;
        let seen: Value = serde_json::from_str(&answer).map_err(|why| Wrong::Answer(format!("{answer:?}: {why}")))?;
        let text = |field: &str| seen[field].as_str().unwrap_or_default().to_owned();
        Ok(Pod { name: text("pod"), namespace: text("namespace"), is_tls: seen["isTLS"] == true })
    }
}

struct Pod {
    name: String,
    namespace: String,
    is_tls: bool,
}

impl Stage<'_> {
    pub(super) async fn tcp(&self, step: &Tcp) -> Result<(), String> {
        let address = self.dial(&step.gateway, step.port).await?;
        self.retry(async || converse(address, &step.expect).await).await
    }

    pub(super) async fn tcp_samples(&self, step: &TcpSamples) -> Result<(), String> {
        let address = self.dial(&step.gateway, step.port).await?;
        if step.connect_only {
            return self.retry(async || Ok(TcpStream::connect(address).await.map(drop)?)).await;
        }
        if step.retry {
            return self.retry(async || sample(address).await.map(drop)).await;
        }
        for number in 1..=step.count {
            let pod = timeout(REQUEST_LIMIT, sample(address)).await.map_err(|_| "no answer in time".to_owned())?;
            let pod = match pod {
                Ok(pod) => pod,
                Err(Wrong::Broken(why) | Wrong::Answer(why)) => return Err(format!("connection {number}: {why}")),
            };
            let is_of = |workload: &Option<String>| workload.as_deref().is_some_and(|name| belongs(&pod, name));
            if (step.all_from.is_some() && !is_of(&step.all_from)) || is_of(&step.never_from) {
                return Err(format!("connection {number} went to {}", pod.name));
            }
        }
        Ok(())
    }

    /// Tries until it works. What is wrong and not broken stays wrong.
    async fn retry(&self, attempt: impl AsyncFn() -> Result<(), Wrong>) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let last = match timeout(REQUEST_LIMIT, attempt()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Wrong::Answer(why))) => return Err(why),
                Ok(Err(Wrong::Broken(why))) => why,
                Err(_) => format!("no answer within {REQUEST_LIMIT:?}"),
            };
            if start.elapsed() > self.patience {
                return Err(last);
            }
            sleep(BETWEEN_FAILURES).await;
        }
    }
}

/// The whole conversation of the step `tcp`.
async fn converse(address: SocketAddr, expect: &TcpExpect) -> Result<(), Wrong> {
    let mut talk = Talk::begin(address).await?;
    for (words, wanted) in [("PING", "PONG".to_owned()), ("IS_TLS", expect.backend_is_tls.to_string())] {
        let answer = talk.ask(words).await?;
        if answer != wanted {
            return Err(Wrong::Answer(format!("{words} is answered {answer:?} instead of {wanted}")));
        }
    }
    let pod = talk.pod().await?;
    if pod.is_tls != expect.backend_is_tls || pod.namespace != expect.namespace || !belongs(&pod, &expect.backend) {
        let told = format!("{}/{} (TLS: {})", pod.namespace, pod.name, pod.is_tls);
        return Err(Wrong::Answer(format!("{told} answers instead of {}/{}", expect.namespace, expect.backend)));
    }
    Ok(())
}

async fn sample(address: SocketAddr) -> Result<Pod, Wrong> {
    Talk::begin(address).await?.pod().await
}

fn belongs(pod: &Pod, workload: &str) -> bool {
    pod.name.strip_prefix(workload).is_some_and(|rest| rest.starts_with('-'))
}

/// The name and the namespace of the pod that answers a connection.
pub(super) async fn ask(address: SocketAddr) -> Result<(String, String), String> {
    match sample(address).await {
        Ok(pod) => Ok((pod.name, pod.namespace)),
        Err(Wrong::Broken(why) | Wrong::Answer(why)) => Err(why),
    }
}
