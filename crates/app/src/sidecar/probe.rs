//! Whether the program is well: its port is asked once per interval, and every change of the verdict is told.
//!
//! Run by `sidecar`; what it finds goes up with the registration, so that nobody else has to ask. What a result means and when to
//! ask again is the engine's [`transept_engine::health`], the same as for the health checks of gateways.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use transept_engine::health::{Change, Check, Outcome, Probe, State, Verdict};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a program is asked that is not well, such as one that has just been started.
const IMPATIENCE: Duration = Duration::from_millis(100);
/// Questions without an answer, in a row, that make a program unwell.
const SILENCES: u32 = 2;
/// How soon a reason is told again that was told before another one.
const AGAIN: Duration = Duration::from_secs(60);

/// What is asked of the program, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    address: SocketAddr,
    check: Check,
}

impl Question {
    /// A GET of `path`, or without one a connection.
    pub(crate) fn new(address: SocketAddr, path: Option<&str>, interval: Duration) -> Question {
        let probe = match path {
            Some(path) => Probe::Http {
                path: path.into(),
                host: None,
                expected: Box::new([(200, 399)]),
                retriable: Box::default(),
            },
            None => Probe::Tcp,
        };
        let check = Check {
            probe,
            port: None,
            interval,
            unhealthy_interval: IMPATIENCE.min(interval),
            edge_interval: IMPATIENCE.min(interval),
            jitter: 10,
            timeout: PATIENCE,
            healthy_threshold: 1,
            unhealthy_threshold: SILENCES,
        };
        Question { address, check }
    }

    /// Asks for ever. `tell` hears every change, the first verdict included, and why it is not well; also when that is for another reason
    /// than before.
    pub(crate) async fn ask(&self, mut tell: impl FnMut(Verdict, Option<String>)) -> Infallible {
        let mut state = State::default();
        let random = RandomState::new();
        let (mut reasons, mut unwell) = (Reasons::default(), false);
        for number in 0_u64.. {
            let answer = tokio::time::timeout(self.check.timeout, self.ask_once()).await;
            let (outcome, why) = match answer {
                Ok(Ok(status)) if status.is_none_or(|status| self.check.read(status) == Outcome::Passed) => {
                    (Outcome::Passed, None)
                }
                Ok(Ok(status)) => (Outcome::Wrong, status.map(|status| format!("it answers {status}"))),
                Ok(Err(error)) => (Outcome::Silent, Some(format!("{error:#}"))),
                Err(_) => (Outcome::Silent, Some(format!("no answer within {:?}", self.check.timeout))),
            };
            let change = state.note(&self.check, outcome);
            if let Change::Flipped(verdict) = change {
                unwell = verdict == Verdict::Unhealthy;
                reasons = Reasons::default();
                if let Some(why) = &why {
                    reasons.is_news(why, Instant::now());
                }
                tell(verdict, why);
            } else if let Some(why) = why.filter(|why| unwell && reasons.is_news(why, Instant::now())) {
                tell(Verdict::Unhealthy, Some(why));
            }
            tokio::time::sleep(state.wait(&self.check, change, random.hash_one(number))).await;
        }
        std::future::pending().await
    }

    /// The status that it answers, if it is asked for one.
    async fn ask_once(&self) -> Result<Option<u16>> {
        let stream = connect(self.address).await?;
        let Probe::Http { path, .. } = &self.check.probe else {
            return Ok(None);
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(&**path).header(HOST, self.address.to_string()).body(Empty::<Bytes>::new())?;
        // The connection ends with this function, whatever of the answer is still to come.
        let mut driving = JoinSet::new();
        driving.spawn(connection);
        Ok(Some(sender.send_request(request).await?.status().as_u16()))
    }
}

/// Why a program is not well, as far as it was told since it was well last.
#[derive(Default)]
struct Reasons {
    told: BTreeSet<String>,
    /// The last of them, and when.
    last: Option<(String, Instant)>,
}

impl Reasons {
    /// Whether a reason is to be told: one that takes turns with others is told the first time, and from then on once in [`AGAIN`].
    fn is_news(&mut self, why: &str, now: Instant) -> bool {
        let is_news = match &self.last {
            Some((last, _)) if last == why => false,
            Some((_, at)) if self.told.contains(why) => now.duration_since(*at) >= AGAIN,
            _ => true,
        };
        if is_news {
            self.told.insert(why.to_owned());
            self.last = Some((why.to_owned(), now));
        }
        is_news
    }
}

/// Connects to a program, or says where it was looked for.
async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let error = match TcpStream::connect(address).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let beside = SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()));
    let is_refused = error.kind() == io::ErrorKind::ConnectionRefused;
    if is_refused && address.ip() == Ipv4Addr::LOCALHOST && TcpStream::connect(beside).await.is_ok() {
        bail!(
            "nobody listens on {address}, but somebody does on {beside}: let the program listen on 127.0.0.1, or on all addresses"
        );
    }
    Err(error).with_context(|| format!("{address} is asked"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    const OFTEN: Duration = Duration::from_millis(20);

    /// Asks in the background and gives what is told.
    fn listen(question: Question) -> mpsc::UnboundedReceiver<(Verdict, Option<String>)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            question
                .ask(|verdict, why| {
                    let _ = sender.send((verdict, why));
                })
                .await
        });
        receiver
    }

    #[tokio::test]
    async fn a_port_that_opens_and_closes_is_told_once_each() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let mut told = listen(Question::new(address, None, OFTEN));
        let (verdict, why) = told.recv().await.expect("a verdict");
        assert_eq!(verdict, Verdict::Unhealthy);
        assert!(why.is_some_and(|why| why.contains("refused")));
        let listener = TcpListener::bind(address).await.expect("the same port");
        assert_eq!(told.recv().await, Some((Verdict::Healthy, None)));
        drop(listener);
        assert_eq!(told.recv().await.map(|(verdict, _)| verdict), Some(Verdict::Unhealthy));
    }

    #[tokio::test]
    async fn who_listens_at_another_address_is_told_which_is_asked() {
        let beside = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("a port");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, beside.local_addr().expect("bound").port()));
        let mut told = listen(Question::new(address, None, OFTEN));
        let (_, why) = told.recv().await.expect("a verdict");
        assert!(why.is_some_and(|why| why.contains(&format!("nobody listens on {address}")) && why.contains("[::1]")));
        drop(beside);
        let (_, why) = listen(Question::new(address, None, OFTEN)).recv().await.expect("a verdict");
        assert!(why.is_some_and(|why| why.contains(&format!("{address} is asked"))));
    }

    #[tokio::test]
    async fn a_program_that_starts_and_then_answers_wrongly_is_told_of_with_both_reasons() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let mut told = listen(Question::new(address, Some("/nope"), OFTEN));
        let (_, why) = told.recv().await.expect("a verdict");
        assert!(why.is_some_and(|why| why.contains("refused")));
        let listener = TcpListener::bind(address).await.expect("the same port");
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a question");
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        });
        assert_eq!(told.recv().await, Some((Verdict::Unhealthy, Some("it answers 404".to_owned()))));
    }

    #[test]
    fn reasons_that_take_turns_are_told_seldom() {
        let (mut reasons, now) = (Reasons::default(), Instant::now());
        assert!(reasons.is_news("refused", now) && !reasons.is_news("refused", now));
        assert!(reasons.is_news("it answers 503", now));
        assert!(!reasons.is_news("refused", now) && !reasons.is_news("it answers 503", now));
        assert!(reasons.is_news("refused", now + AGAIN));
        assert!(!reasons.is_news("it answers 503", now + AGAIN));
    }

    #[tokio::test]
    async fn a_wrong_answer_is_believed_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            for status in ["200 OK", "503 Service Unavailable"].into_iter().cycle() {
                let (mut stream, _) = listener.accept().await.expect("a question");
                let _ = stream.read(&mut [0; 1024]).await;
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.expect("told");
                let _ = stream.shutdown().await;
            }
        });
        let mut told = listen(Question::new(address, Some("/healthz"), OFTEN));
        assert_eq!(told.recv().await, Some((Verdict::Healthy, None)));
        assert_eq!(told.recv().await, Some((Verdict::Unhealthy, Some("it answers 503".to_owned()))));
        assert_eq!(told.recv().await, Some((Verdict::Healthy, None)));
    }
}
