//! Many clients at once, each with one request after the other in a steady pace, over HTTP/1.1 and HTTP/2; and the exact account of
//! what was lost.
//!
//! A client that finds nobody listening has sent nothing: it comes again. Everything else that is not answered with 200 is a loss.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use transept_testkit::echo::RequestLog;
use transept_testkit::h1::{Framing, Reader, head_bytes};

use crate::stage::{PATIENCE, until};

/// Clients of each protocol.
const CLIENTS: u32 = 6;
/// Answers that show that all is well: about half a second of them.
const ENOUGH: usize = 120;
/// The usual pause between two requests of a client: all of them together make about 240 requests per second.
pub(crate) const PACE: Duration = Duration::from_millis(50);
/// How long the program takes for an answer, so that there are always several under way.
const DELAY: &str = "40ms";

/// A request that failed.
pub(crate) struct Lost {
    client: u32,
    /// Its path, which no other request has.
    target: String,
    /// When its connection was made.
    connected: Instant,
    /// When it was sent.
    begun: Instant,
    why: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = self.begun - self.connected;
        write!(out, "client {} lost {}, sent {age:?} after it connected: {}", self.client, self.target, self.why)
    }
}

/// What became of all requests.
pub(crate) struct Account {
    answered: usize,
    lost: Vec<Lost>,
}

impl Account {
    /// Nothing at all was lost.
    pub(crate) fn is_clean(&self) {
        self.is_clean_but(|_| Err("nothing may be lost".to_owned()));
    }

    /// Nothing was lost but what an instance held that was dead at this moment: what was sent before, of each client one request at
    /// most, and none that had come to a program that lives, whose log this is.
    pub(crate) fn is_clean_but_for(&self, dead: Instant, living: &RequestLog) {
        self.is_clean_but(|lost| match living.count(&lost.target) {
            _ if lost.begun > dead => Err(format!("it was sent {:?} after the death", lost.begun - dead)),
            0 => Ok(()),
            _ => Err("a program that lives had it".to_owned()),
        });
    }

    /// The same when it is the proxy of the clients that was dead: only what went over connections to it.
    pub(crate) fn is_clean_but_for_connections_before(&self, dead: Instant) {
        self.is_clean_but(|lost| match lost.connected > dead {
            true => Err(format!("its connection was made {:?} after the death", lost.connected - dead)),
            false => Ok(()),
        });
    }

    fn is_clean_but(&self, judge: impl Fn(&Lost) -> Result<(), String>) {
        let mut clients = HashSet::new();
        let twice = |_| "this client has lost one already".to_owned();
        let wrong: Vec<String> = self
            .lost
            .iter()
            .filter_map(|lost| {
                let once = clients.insert(lost.client).then_some(()).ok_or(()).map_err(twice);
                let why = judge(lost).and(once).err()?;
                Some(format!("{lost}; {why}"))
            })
            .collect();
        let (wrongly, lost, answered) = (wrong.len(), self.lost.len(), self.answered);
        let first = wrong.iter().take(5).map(|one| format!("\n{one}")).collect::<String>();
        assert!(wrong.is_empty(), "{wrongly} of {lost} lost are not accounted for, {answered} were answered:{first}");
        assert!(answered > 0);
    }
}

/// The next request, of whatever crowd.
static NUMBER: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicUsize,
}

/// The clients.
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    clients: JoinSet<Vec<Lost>>,
}

impl Crowd {
    /// Begins, with clients that speak HTTP/1.1 to one address and clients that speak HTTP/2 to another, each of which pauses so long,
    /// and waits until many requests have been answered.
    pub(crate) async fn begin(http1: SocketAddr, http2: SocketAddr, pace: Duration) -> Crowd {
        let mut crowd = Crowd { shared: Arc::default(), clients: JoinSet::new() };
        for client in 0..CLIENTS {
            crowd.clients.spawn(attend(client, crowd.shared.clone(), http1, pace, Caller::Http1(None)));
            crowd.clients.spawn(attend(CLIENTS + client, crowd.shared.clone(), http2, pace, Caller::Http2(None)));
        }
        crowd.more().await;
        crowd
    }

    /// Returns when several requests more for each client have been answered.
    pub(crate) async fn more(&self) {
        let enough = self.shared.answered.load(Ordering::Relaxed) + ENOUGH;
        until(|| async { self.shared.answered.load(Ordering::Relaxed) }, |answered| *answered >= enough).await;
    }

    /// Ends, and gives the account.
    pub(crate) async fn end(mut self) -> Account {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut lost = Vec::new();
        while let Some(ended) = timeout(PATIENCE, self.clients.join_next()).await.expect("in time") {
            lost.extend(ended.expect("a client"));
        }
        Account { answered: self.shared.answered.load(Ordering::Relaxed), lost }
    }
}

async fn attend(client: u32, shared: Arc<Shared>, at: SocketAddr, pace: Duration, mut caller: Caller) -> Vec<Lost> {
    let mut lost = Vec::new();
    // They do not keep step with each other.
    let first = Instant::now() + pace * client / (2 * CLIENTS);
    let mut pace = interval_at(first, pace);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connected = Instant::now();
    // Nobody may send what one of two clients sends a second time on its behalf.
    let method = if client.is_multiple_of(2) { "GET" } else { "POST" };
    while !shared.stop.load(Ordering::Relaxed) {
        pace.tick().await;
        if caller.is_apart() {
            // Whoever is not there gets no request.
            let Ok(stream) = TcpStream::connect(at).await else { continue };
            connected = Instant::now();
            // Nor does whoever leaves before one can be sent.
            if caller.meet(stream).await.is_err() {
                continue;
            }
        }
        let target = format!("/{}?delay={DELAY}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let begun = Instant::now();
        match timeout(PATIENCE, caller.ask(method, &target)).await {
            Ok(Ok(200)) => {
                shared.answered.fetch_add(1, Ordering::Relaxed);
            }
            outcome => {
                let why = match outcome {
                    Ok(Ok(status)) => format!("status {status}"),
                    Ok(Err(why)) => why,
                    Err(_) => "no answer in time".to_owned(),
                };
                lost.push(Lost { client, target, connected, begun, why });
                caller.part();
            }
        }
    }
    lost
}

/// A client with the connection that it keeps.
enum Caller {
    Http1(Option<Reader<TcpStream>>),
    Http2(Option<SendRequest<Bytes>>),
}

impl Caller {
    fn is_apart(&self) -> bool {
        matches!(self, Caller::Http1(None) | Caller::Http2(None))
    }

    fn part(&mut self) {
        match self {
            Caller::Http1(connection) => *connection = None,
            Caller::Http2(connection) => *connection = None,
        }
    }

    async fn meet(&mut self, stream: TcpStream) -> Result<(), h2::Error> {
        match self {
            Caller::Http1(connection) => *connection = Some(Reader::new(stream)),
            Caller::Http2(requests) => {
                let (made, connection) = h2::client::handshake(stream).await?;
                tokio::spawn(connection);
                *requests = Some(made);
            }
        }
        Ok(())
    }

    /// One request, with a body when it is a POST; gives the status when the answer is complete.
    async fn ask(&mut self, method: &str, target: &str) -> Result<u16, String> {
        let content = if method == "POST" { "words" } else { "" };
        match self {
            Caller::Http1(Some(reader)) => {
                let fields = [("Host", "cart".to_owned()), ("Content-Length", content.len().to_string())];
                let fields = fields.map(|(name, value)| (name.to_owned(), value));
                let mut message = head_bytes(&format!("{method} {target} HTTP/1.1"), &fields);
                message.extend_from_slice(content.as_bytes());
                reader.send(&message).await.map_err(|error| error.to_string())?;
                let head = reader.read_head().await.map_err(|error| error.to_string())?.ok_or("no answer")?;
                let body = reader.read_body(Framing::of_response(&head, method)).await;
                let body = body.map_err(|error| error.to_string())?;
                match head.status().ok_or_else(|| "no status".to_owned())? {
                    200 => Ok(200),
                    status => Err(format!("status {status}: {}", String::from_utf8_lossy(&body.content))),
                }
            }
            Caller::Http2(Some(requests)) => {
                let mut requests = requests.clone().ready().await.map_err(|error| error.to_string())?;
                let request = http::Request::builder().method(method).uri(format!("http://cart{target}"));
                let request = request.body(()).expect("a request");
                let (response, mut body) =
                    requests.send_request(request, content.is_empty()).map_err(|error| error.to_string())?;
                if !content.is_empty() {
                    body.send_data(Bytes::from_static(content.as_bytes()), true).map_err(|error| error.to_string())?;
                }
                let response = response.await.map_err(|error| error.to_string())?;
                let (status, mut body) = (response.status().as_u16(), response.into_body());
                while let Some(piece) = body.data().await {
                    let piece = piece.map_err(|error| error.to_string())?;
                    body.flow_control().release_capacity(piece.len()).map_err(|error| error.to_string())?;
                }
                Ok(status)
            }
            _ => Err("not connected".to_owned()),
        }
    }
}
