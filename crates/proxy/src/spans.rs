//! Spans for a collector: OTLP over HTTP in its JSON form (OpenTelemetry Protocol 1.0, `v1/traces`).
//!
//! Fed by `record.rs` once per exchange, when a collector is named at all; a worker appends to its own buffer and hands it over when it is
//! large or has waited. What does not fit into the queue, and what the collector does not take, is lost and counted: no request
//! waits for it, and nothing is sent twice. Which hop a span is, and whether its trace is sampled, was settled when the request came in.

use std::fmt;
use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use transept_engine::exchange::Connection;
use transept_engine::reason::Reason;
use transept_engine::snapshot::Role;
use transept_engine::trace::Span;

use crate::capture;
use crate::path::Marks;
use crate::record::escape;
use crate::trip::Trip;

/// Bytes after which a worker hands its spans over without waiting for the next sweep.
const BATCH: usize = 32 * 1024;
/// Batches that may wait for the collector.
const QUEUE: usize = 64;
/// How long spans are gathered for one message to the collector, and how large it becomes at most, one batch more or less.
const GATHER: Duration = Duration::from_secs(1);
const LARGEST: usize = 1024 * 1024;
/// How long the collector may take for one message.
const PATIENCE: Duration = Duration::from_secs(10);
/// The port and the path of collectors, unless they are named (OTLP/HTTP, "default URLs").
const PORT: u16 = 4318;
const PATH: &str = "/v1/traces";

/// Where spans go: `http://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanTarget {
    /// A name or an address, that of IPv6 in brackets.
    host: String,
    port: u16,
    path: String,
}

impl FromStr for SpanTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usual = "write it like http://127.0.0.1:4318";
        if text.starts_with("https://") {
            return Err("spans are sent in clear text only: name a collector on this machine, as http://".to_owned());
        }
        let rest = text.strip_prefix("http://").ok_or_else(|| format!("this is no http:// URL; {usual}"))?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let after_address = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[after_address..].rsplit_once(':') {
            Some((host, port)) => {
                let number = port.parse().ok().filter(|port| *port != 0);
                let number = number.ok_or_else(|| format!("`{port}` is no port; {usual}"))?;
                (&authority[..after_address + host.len()], number)
            }
            None => (authority, PORT),
        };
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b"@?#".contains(&byte));
        if host.is_empty() || !is_plain(host) || !is_plain(path) {
            return Err(format!("there is no host in it, or something that belongs to no such URL; {usual}"));
        }
        let path = if path.len() > 1 { path } else { PATH };
        Ok(SpanTarget { host: host.to_owned(), port, path: path.to_owned() })
    }
}

impl fmt::Display for SpanTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.path)
    }
}

/// Spans as JSON, with commas between them.
#[derive(Debug, Default)]
struct Batch {
    json: Vec<u8>,
    count: u64,
}

enum Message {
    Spans(Batch),
    Flush(oneshot::Sender<()>),
}

/// The end of the queue that workers share.
pub(crate) struct Sink {
    queue: mpsc::Sender<Message>,
    exported: AtomicU64,
    dropped: AtomicU64,
}

impl Sink {
    /// A sink, and who sends what comes into it: to be run until the sink is gone. `identity` is who we are in the mesh.
    pub(crate) fn new(target: SpanTarget, identity: Option<&str>) -> (Arc<Sink>, impl Future<Output = ()> + use<>) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let sink = Arc::new(Sink { queue, exported: AtomicU64::new(0), dropped: AtomicU64::new(0) });
        let exporting = export(target, resource(identity), inbox, Arc::downgrade(&sink));
        (sink, exporting)
    }

    /// Spans that the collector has taken.
    pub(crate) fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans that were lost.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Returns when everything that was handed over before is sent, or lost.
    pub(crate) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    fn hand_over(&self, batch: Batch) {
        let count = batch.count;
        if self.queue.try_send(Message::Spans(batch)).is_err() {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// The spans of one worker that are not handed over yet.
pub(crate) struct SpanBuffer {
    sink: Arc<Sink>,
    batch: Batch,
}

impl SpanBuffer {
    pub(crate) fn new(sink: Arc<Sink>) -> Self {
        Self { sink, batch: Batch::default() }
    }

    /// Adds the span of an exchange that has ended, if its trace is sampled.
    pub(crate) fn add(&mut self, trip: &Trip, marks: &Marks<'_>, connection: &Connection, took: Duration) {
        let Some(span) = trip.facts.span.as_ref().filter(|span| span.sampled) else { return };
        if self.batch.count > 0 {
            self.batch.json.push(b',');
        }
        write_span(&mut self.batch.json, span, (trip, marks, connection), took);
        self.batch.count += 1;
        if self.batch.json.len() >= BATCH {
            self.hand_over();
        }
    }

    /// Hands over what has gathered.
    pub(crate) fn hand_over(&mut self) {
        if self.batch.count > 0 {
            self.sink.hand_over(std::mem::take(&mut self.batch));
        }
    }
}

/// The `Span` of the protocol for one exchange. Writing to memory cannot fail, here and below.
fn write_span(out: &mut Vec<u8>, span: &Span, seen: (&Trip, &Marks<'_>, &Connection), took: Duration) {
    let (trip, marks, connection) = seen;
    let facts = &trip.facts;
    out.push(b'{');
    text(out, "traceId", &span.trace);
    out.push(b',');
    text(out, "spanId", &span.id);
    if let Some(parent) = &span.parent {
        out.push(b',');
        text(out, "parentSpanId", parent);
    }
    // The called side, and the edge, serve; the side of the caller is its client.
    let is_caller = marks.listener.is_some_and(|listener| listener.settings.role == Role::Outbound);
    let kind = if is_caller { 3 } else { 2 };
    let (from, until) = (trip.started.unix, trip.started.unix.saturating_add(took));
    let _ = write!(out, ",\"kind\":{kind},\"startTimeUnixNano\":\"{}\"", from.as_nanos());
    let _ = write!(out, ",\"endTimeUnixNano\":\"{}\",\"name\":\"", until.as_nanos());
    escape(out, trip.request.method.as_bytes());
    if let Some(rule) = marks.rule {
        out.push(b' ');
        escape(out, rule.metric_label.as_bytes());
    }
    out.extend_from_slice(b"\",\"attributes\":[");
    let query = facts.target.iter().position(|byte| *byte == b'?').unwrap_or(facts.target.len());
    attribute(out, "http.request.method", trip.request.method.as_bytes());
    let _ = write!(out, ",{{\"key\":\"http.response.status_code\",\"value\":{{\"intValue\":\"{}\"}}}},", facts.status);
    attribute(out, "url.scheme", connection.scheme().as_bytes());
    let client = trip.client.to_string();
    let endpoint = marks.endpoint.map(|endpoint| endpoint.to_string());
    // Who is called, where this side calls; elsewhere who has called.
    let peer = if is_caller { called(marks) } else { connection.identity.as_deref().map(str::to_owned) };
    let others = [
        ("url.path", Some(&facts.target[..query])),
        ("server.address", Some(trip.host.as_bytes())),
        ("client.address", Some(client.as_bytes())),
        ("http.route", marks.rule.map(|rule| rule.metric_label.as_bytes())),
        ("transept.listener", marks.listener.map(|listener| listener.metric_label.as_bytes())),
        ("transept.backend", marks.backend.map(|backend| backend.label.as_bytes())),
        ("transept.endpoint", endpoint.as_deref().map(str::as_bytes)),
        ("transept.peer", peer.as_deref().map(str::as_bytes)),
        ("error.type", facts.error.map(|error| error.slug().as_bytes())),
    ];
    for (name, value) in others {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            out.push(b',');
            attribute(out, name, value);
        }
    }
    // A client's mistake is no error of who serves it (semantic conventions for HTTP spans, "status").
    let is_mistake = !is_caller && (400..500).contains(&facts.status);
    let failed = !is_mistake && (facts.status >= 400 || facts.error.is_some_and(Reason::is_fault));
    let _ = write!(out, "],\"status\":{{{}}}}}", if failed { "\"code\":2" } else { "" });
}

/// The identity that must be at the other end of the tunnel that a request took; none where it took none.
fn called(marks: &Marks<'_>) -> Option<String> {
    let endpoint = marks.endpoint?;
    let endpoints = marks.backend?.endpoints.load();
    let found = endpoints.all().find(|one| one.address == endpoint)?;
    Some(found.tunnel.as_ref()?.identity.to_string())
}

fn text(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let _ = write!(out, "\"{name}\":\"");
    escape(out, value);
    out.push(b'"');
}

fn attribute(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let _ = write!(out, "{{\"key\":\"{name}\",\"value\":{{");
    text(out, "stringValue", value);
    out.extend_from_slice(b"}}");
}

/// What all spans of a process are of, up to where they follow.
fn resource(identity: Option<&str>) -> Vec<u8> {
    let mut out = b"{\"resourceSpans\":[{\"resource\":{\"attributes\":[".to_vec();
    let parts = identity.and_then(|id| id.split_once("/ns/")?.1.split_once("/sa/"));
    match parts {
        Some((namespace, service)) => {
            attribute(&mut out, "service.name", service.as_bytes());
            out.push(b',');
            attribute(&mut out, "service.namespace", namespace.as_bytes());
        }
        None => attribute(&mut out, "service.name", b"transept"),
    }
    out.extend_from_slice(b"]},\"scopeSpans\":[{\"scope\":{\"name\":\"transept\"},\"spans\":[");
    out
}

/// Sends what comes, until the sink is gone.
async fn export(
    target: SpanTarget,
    resource: Vec<u8>,
    mut inbox: mpsc::Receiver<Message>,
    sink: std::sync::Weak<Sink>,
) {
    let mut is_down = false;
    while let Some(first) = inbox.recv().await {
        let (mut gathered, mut waiting) = (Batch::default(), None);
        let until = Instant::now() + GATHER;
        let mut next = Some(first);
        while let Some(message) = next.take() {
            match message {
                Message::Spans(batch) => add(&mut gathered, batch),
                Message::Flush(done) => waiting = Some(done),
            }
            if waiting.is_none() && gathered.json.len() < LARGEST {
                next = timeout_at(until, inbox.recv()).await.ok().flatten();
            }
        }
        if gathered.count > 0 {
            let sent = timeout(PATIENCE, post(&target, &resource, &gathered.json)).await;
            let sent = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let Some(sink) = sink.upgrade() else { return };
            let counter = if sent.is_ok() { &sink.exported } else { &sink.dropped };
            counter.fetch_add(gathered.count, Ordering::Relaxed);
            let fails = sent.is_err();
            match sent {
                Ok(()) if is_down => tracing::info!(collector = %target, "the collector takes spans again"),
                Err(error) if !is_down => {
                    tracing::warn!(collector = %target, %error, "spans are lost; transept_spans_dropped_total counts them");
                }
                _ => {}
            }
            is_down = fails;
        }
        if let Some(done) = waiting {
            let _ = done.send(());
        }
    }
}

fn add(gathered: &mut Batch, batch: Batch) {
    if gathered.count == 0 {
        *gathered = batch;
        return;
    }
    gathered.json.push(b',');
    gathered.json.extend_from_slice(&batch.json);
    gathered.count += batch.count;
}

/// The longest answer of a collector that is read.
const MOST_ANSWER: u64 = 64 * 1024;

/// How long a collector may take to end its answer and the connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// One message to the collector, on a connection of its own.
async fn post(target: &SpanTarget, resource: &[u8], spans: &[u8]) -> io::Result<()> {
    const END: &[u8] = b"]}]}]}";
    let SpanTarget { host, port, path } = target;
    let mut tcp = connect(host, *port).await?;
    let length = resource.len() + spans.len() + END.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    );
    for part in [head.as_bytes(), resource, spans, END] {
        tcp.write_all(part).await?;
    }
    let mut line = [0; 12];
    tcp.read_exact(&mut line).await?;
    match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2', _, _] => {
            // Its answer is heard to the end, or it would see a connection that breaks. What it says does not matter.
            let mut rest = tcp.take(MOST_ANSWER);
            let _ = timeout(FAREWELL, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
            Ok(())
        }
        line => Err(io::Error::other(format!("the collector answers `{}`", line.escape_ascii()))),
    }
}

/// Connects to the first address of a host that takes it. Rules that capture leave it alone.
#[expect(clippy::disallowed_methods, reason = "asked anew for each message, so that nothing has to be kept")]
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for found in tokio::net::lookup_host(format!("{host}:{port}")).await? {
        outcome = capture::connect(found).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_by_a_url() {
        for (text, expected) in [
            ("http://127.0.0.1", Ok("http://127.0.0.1:4318/v1/traces")),
            ("http://collector.shop:9/", Ok("http://collector.shop:9/v1/traces")),
            ("http://[::1]/x/y", Ok("http://[::1]:4318/x/y")),
            ("http://[::1]:80", Ok("http://[::1]:80/v1/traces")),
            ("https://collector", Err("clear text")),
            ("collector:4318", Err("no http:// URL")),
            ("http://", Err("no host")),
            ("http://a:0", Err("no port")),
            ("http://a:b", Err("no port")),
            ("http://user@a", Err("belongs to no such URL")),
            ("http://a/\r\nx: y", Err("belongs to no such URL")),
        ] {
            match (text.parse::<SpanTarget>(), expected) {
                (Ok(target), Ok(expected)) => assert_eq!(target.to_string(), expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (outcome, _) => panic!("{text}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn what_all_spans_are_of_is_the_service_of_the_identity() {
        for (identity, expected) in
            [(Some("spiffe://transept.local/ns/shop/sa/cart"), "\"cart\""), (None, "\"transept\"")]
        {
            let whole = [&resource(identity)[..], b"]}]}]}"].concat();
            let json: serde_json::Value = serde_json::from_slice(&whole).expect("JSON");
            let attributes = &json["resourceSpans"][0]["resource"]["attributes"];
            assert_eq!(attributes[0]["value"]["stringValue"].to_string(), expected);
        }
    }

    fn spans(count: u64) -> Batch {
        Batch { json: vec![b"{}".to_vec(); usize::try_from(count).expect("few")].join(&b','), count }
    }

    #[tokio::test]
    async fn a_collector_may_say_what_it_likes_and_sees_a_regular_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let target: SpanTarget = format!("http://127.0.0.1:{port}").parse().expect("a URL");
        let collector = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut seen = Vec::new();
            while !seen.ends_with(b"]}]}]}") {
                stream.read_buf(&mut seen).await.expect("the message");
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.expect("sent");
            stream.write_all(b"{}").await.expect("sent");
            stream.shutdown().await.expect("sent");
            stream.read_to_end(&mut seen).await
        };
        let (sent, ended) = tokio::join!(post(&target, b"[", b"{}"), collector);
        sent.expect("taken");
        assert_eq!(ended.expect("a regular end"), 0);
    }

    #[tokio::test]
    async fn what_does_not_fit_and_what_is_not_taken_is_counted_as_lost() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let target: SpanTarget = format!("http://127.0.0.1:{port}").parse().expect("a URL");
        let (sink, exporting) = Sink::new(target, None);
        for _ in 0..=QUEUE {
            sink.hand_over(spans(3));
        }
        assert_eq!(sink.dropped(), 3, "the queue has so many places");
        // Nobody listens there any more.
        drop(listener);
        let exporting = tokio::spawn(exporting);
        sink.flush().await;
        assert_eq!((sink.exported(), sink.dropped()), (0, 3 * (QUEUE as u64 + 1)));
        drop(sink);
        exporting.await.expect("it ends with the sink");
    }
}
