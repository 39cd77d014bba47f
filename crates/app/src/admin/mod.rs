//! The admin server: `/livez`, `/readyz`, `/metrics`, `/status` and `/limits` over HTTP/1.1, on a port of its own.
//!
//! Started by `gateway` and `sidecar` on a runtime of theirs, off the data threads, and by the control plane. Who may ask is decided in `guard`; what is answered comes from
//! the [`Subject`]. It has no way to change anything: what is sent to `/limits` is a question, of `transept explain`.

mod guard;
mod process;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::gateway::Readiness;
use crate::logging::{self, Format};

pub(crate) use process::{Process, write_metric};

/// How long a client may take to send its request head.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How many clients are served at a time; the others wait.
const CONNECTIONS: usize = 128;

/// The longest list of questions about limits, in bytes.
const QUESTIONS: usize = 256 * 1024;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Whom an admin server speaks for.
pub(crate) trait Subject: Send + Sync + 'static {
    /// What there is to ask for.
    const INDEX: &'static str;

    /// Whether traffic should come.
    fn readiness(&self) -> Readiness;

    /// Everything that is counted, in the Prometheus text format.
    fn metrics(&self) -> impl Future<Output = String> + Send;

    /// The whole state as one JSON object, where there is one.
    fn status(&self) -> impl Future<Output = Option<Value>> + Send;

    /// How much is left of limits that somebody asks about, where there are any.
    fn limits(&self, questions: &Value) -> impl Future<Output = Option<Value>> + Send;
}

/// Where the admin server is, if nobody says otherwise.
pub(crate) const ADMIN: &str = "127.0.0.1:9908";

/// Flags of the admin server.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AdminArgs {
    /// Address of the admin server (/livez, /readyz, /metrics, /status), or `off`; it has no authentication: keep it on loopback
    #[arg(long, env = "TRANSEPT_ADMIN", value_name = "ADDR", default_value = ADMIN)]
    pub(crate) admin: Address,

    /// Host name under which the admin server may be asked, besides localhost and addresses; may be repeated
    #[arg(long, env = "TRANSEPT_ADMIN_HOST", value_name = "NAME", value_delimiter = ',')]
    pub(crate) admin_host: Vec<String>,
}

impl AdminArgs {
    /// Gives a taken address up for any free port of it.
    pub(crate) fn give_way(&mut self) {
        let is_taken = |address| {
            std::net::TcpListener::bind(address).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
        };
        if let Address::At(address) = self.admin
            && is_taken(address)
        {
            self.admin = Address::At(SocketAddr::new(address.ip(), 0));
        }
    }
}

/// Where the admin server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Address {
    /// Nowhere.
    Off,
    /// On this address; port 0 is any free port.
    At(SocketAddr),
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Address::Off);
        }
        // As the commands that ask it take it, of which some read the same variable.
        let address = text.strip_prefix("http://").map_or(text, |rest| rest.trim_end_matches('/'));
        address
            .parse()
            .map(Address::At)
            .map_err(|_| format!("`{text}` is not an address and a port, such as 127.0.0.1:9908, nor `off`"))
    }
}

/// A bound admin server that does not answer yet.
pub(crate) struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    names: Arc<[String]>,
}

impl Admin {
    /// Binds the address, so that a conflict ends the start before any traffic is taken; `None` when it is off.
    ///
    /// # Errors
    /// The address is taken or not allowed.
    pub(crate) async fn bind(args: &AdminArgs, format: Format) -> Result<Option<Admin>> {
        let Address::At(address) = args.admin else {
            return Ok(None);
        };
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("the admin server cannot listen on {address} (choose another with --admin ADDR, or --admin off)")
        })?;
        let address = listener.local_addr()?;
        logging::say_place(format, &format!("admin listening on http://{address}"));
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the admin server has no authentication and is reachable from other machines");
        }
        Ok(Some(Admin { listener, address, names: args.admin_host.clone().into() }))
    }

    /// The same, on any free port when it is the `usual` one and taken: of sidecars there are many on one machine.
    ///
    /// # Errors
    /// The address is not allowed, or taken and not the usual one.
    pub(crate) async fn bind_beside_others(args: &AdminArgs, usual: &str, format: Format) -> Result<Option<Admin>> {
        let taken = |error: &anyhow::Error| {
            error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
        };
        match (Admin::bind(args, format).await, args.admin) {
            (Err(error), Address::At(address)) if taken(&error) && address.to_string() == usual => {
                let elsewhere = Address::At(SocketAddr::new(address.ip(), 0));
                Admin::bind(&AdminArgs { admin: elsewhere, ..args.clone() }, format).await
            }
            (bound, _) => bound,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the runtime ends.
    pub(crate) async fn serve<S: Subject>(self, subject: Arc<S>) {
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = free.clone().acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin server cannot accept");
                    // Out of file descriptors: the next attempt would fail at once and spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let subject = subject.clone();
            let names = self.names.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| {
                    let (subject, names) = (subject.clone(), names.clone());
                    async move {
                        let answer = respond(request, &*subject, &names).await;
                        Ok::<_, std::convert::Infallible>(answer)
                    }
                });
                // A client that breaks off is nothing to report.
                let _ = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIME)
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
                drop(place);
            });
        }
    }
}

/// Answers a probe.
fn probe(readiness: Readiness, good: bool) -> Response<Full<Bytes>> {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    page(status, TEXT, format!("{readiness}\n"))
}

/// Answers one request.
async fn respond<S: Subject>(request: Request<Incoming>, subject: &S, names: &[String]) -> Response<Full<Bytes>> {
    if let Err(refusal) = guard::admit(request.method(), request.uri().path(), request.headers(), names) {
        let mut answer = page(refusal.status(), TEXT, refusal.why().to_owned());
        if refusal == guard::Refusal::Method {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        return answer;
    }
    let index = || S::INDEX.to_owned();
    match request.uri().path() {
        guard::LIMITS if request.method() == Method::POST => limits(request.into_body(), subject).await,
        "/" => page(StatusCode::OK, TEXT, index()),
        "/livez" => {
            let readiness = subject.readiness();
            probe(readiness, readiness != Readiness::Broken)
        }
        "/readyz" => {
            let readiness = subject.readiness();
            probe(readiness, readiness == Readiness::Ready)
        }
        "/metrics" => page(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", subject.metrics().await),
        "/status" => match subject.status().await {
            Some(status) => page(StatusCode::OK, JSON, format!("{status}\n")),
            None => page(StatusCode::NOT_FOUND, TEXT, index()),
        },
        _ => page(StatusCode::NOT_FOUND, TEXT, index()),
    }
}

/// Answers questions about limits.
async fn limits<S: Subject>(body: Incoming, subject: &S) -> Response<Full<Bytes>> {
    let questions = Limited::new(body, QUESTIONS).collect().await.ok();
    match questions.and_then(|questions| serde_json::from_slice(&questions.to_bytes()).ok()) {
        Some(questions) => match subject.limits(&questions).await {
            Some(answers) => page(StatusCode::OK, JSON, format!("{answers}\n")),
            None => page(StatusCode::NOT_FOUND, TEXT, S::INDEX.to_owned()),
        },
        None => {
            page(StatusCode::BAD_REQUEST, TEXT, "this is no list of questions as JSON, or a very long one\n".to_owned())
        }
    }
}

fn page(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_sidecars_have_an_admin_server_on_one_machine() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = taken.local_addr().expect("bound");
        let args = AdminArgs { admin: Address::At(address), admin_host: Vec::new() };
        let refused = Admin::bind(&args, Format::Text).await.err().expect("it is taken");
        assert!(refused.to_string().contains("--admin off"), "{refused:#}");
        let mut elsewhere = args.clone();
        elsewhere.give_way();
        assert_eq!(elsewhere.admin, Address::At(SocketAddr::new(address.ip(), 0)));
        let usual = address.to_string();
        let beside = Admin::bind_beside_others(&args, &usual, Format::Text).await;
        let beside = beside.expect("another port").expect("a server");
        assert!(Admin::bind_beside_others(&args, ADMIN, Format::Text).await.is_err(), "somebody asked for this port");
        assert!(beside.address() != address && beside.address().ip() == address.ip());
    }

    #[test]
    fn reads_an_address_or_off() {
        assert_eq!("off".parse(), Ok(Address::Off));
        let at = "127.0.0.1:0".parse::<SocketAddr>().map(Address::At);
        assert_eq!("127.0.0.1:0".parse::<Address>().ok(), at.ok());
        assert!("9908".parse::<Address>().is_err_and(|why| why.contains("127.0.0.1:9908")));
    }
}
