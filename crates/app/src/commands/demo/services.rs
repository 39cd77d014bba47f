//! The three services of the demo: a page, a catalogue and a cart, each a few lines of HTTP on a loopback port of its own.
//!
//! Run by `part` as a program under a sidecar. They know nothing of gateway and mesh: what they answer shows what reached them, and
//! the cart asks the catalogue for a price at the address that its sidecar has put into the environment.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::commands::Exit;

/// Where the sidecar of the cart puts the address of the catalogue.
const CATALOG: &str = "TRANSEPT_UPSTREAM_CATALOG";
/// What says that a request came through the mesh: its caller cannot leave it out.
const CALLER: &str = "x-forwarded-client-cert";
/// What goes along with a request from service to service, so that it can be followed.
const FOLLOWED: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];
/// How long the catalogue may take, and how much it may say.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: usize = 1 << 20;

/// A program of the demo.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which
    service: Service,
    /// Name of the instance
    #[arg(long)]
    instance: String,
    /// Port on 127.0.0.1
    #[arg(long)]
    port: u16,
}

/// One of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// The page that a browser sees.
    Web,
    /// What the shop sells.
    Catalog,
    /// The cart, in one of two versions.
    Cart(u8),
}

impl Service {
    /// Its name in the demo's configuration.
    pub(super) fn name(self) -> String {
        match self {
            Service::Web => "web".to_owned(),
            Service::Catalog => "catalog".to_owned(),
            Service::Cart(version) => format!("cart-v{version}"),
        }
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Service::Web, Service::Catalog, Service::Cart(1), Service::Cart(2)];
        all.into_iter().find(|one| one.name() == text).ok_or_else(|| format!("there is no service `{text}`"))
    }
}

/// Serves until the process ends.
pub(super) fn run(args: &Args) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let catalog = std::env::var(CATALOG).ok().and_then(|address| address.parse().ok());
    let shared =
        Arc::new(Counter { service: args.service, instance: args.instance.clone(), catalog, ..Counter::default() });
    runtime.block_on(async {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
        let listener = TcpListener::bind(address).await.with_context(|| address.to_string())?;
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let counter = shared.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| {
                    let counter = counter.clone();
                    async move { Ok::<_, Infallible>(counter.answer(&request).await) }
                });
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    })
}

/// Where a service is served.
#[derive(Debug)]
struct Counter {
    service: Service,
    instance: String,
    catalog: Option<SocketAddr>,
    served: AtomicU64,
    broken: AtomicBool,
}

impl Default for Counter {
    fn default() -> Self {
        let (served, broken) = (AtomicU64::new(0), AtomicBool::new(false));
        Counter { service: Service::Web, instance: String::new(), catalog: None, served, broken }
    }
}

impl Counter {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if path == "/healthz" {
            // It believes that it is well, as programs do that have lost their database.
            return respond(StatusCode::OK, "text/plain", "well\n".to_owned());
        }
        // Only who stands beside it may break it: what comes through the mesh has a caller.
        let beside = !request.headers().contains_key(CALLER);
        if let ("/break" | "/mend", true, &Method::POST) = (path, beside, request.method()) {
            self.broken.store(path == "/break", Ordering::Relaxed);
            let state = if path == "/break" { "answers 503 from now on" } else { "is well again" };
            return respond(StatusCode::OK, "text/plain", format!("{} {state}\n", self.instance));
        }
        let number = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        if self.broken.load(Ordering::Relaxed) {
            let body = json!({"service": self.service.name(), "instance": self.instance, "error": "out of order"});
            return respond_json(StatusCode::SERVICE_UNAVAILABLE, &body);
        }
        let about = |more: Value| {
            let mut body = json!({"service": self.service.name(), "instance": self.instance});
            for (name, value) in more.as_object().into_iter().flatten() {
                body[name] = value.clone();
            }
            body["request"] = seen(request, number);
            body
        };
        match (self.service, request.method(), path) {
            (Service::Web, _, "/") => respond(StatusCode::OK, "text/html; charset=utf-8", PAGE.to_owned()),
            (Service::Catalog, &Method::GET, "/") => respond_json(StatusCode::OK, &about(json!({"items": items()}))),
            (Service::Cart(version), _, "/cart") => match self.price(request).await {
                Ok((price, by)) => {
                    let line = json!([{"item": 2, "quantity": 1, "price": price, "price from": by}]);
                    respond_json(StatusCode::OK, &about(json!({"version": version, "lines": line})))
                }
                Err(why) => {
                    let error = format!("the catalogue does not tell a price: {why:#}");
                    respond_json(StatusCode::BAD_GATEWAY, &about(json!({"version": version, "error": error})))
                }
            },
            _ => respond_json(StatusCode::NOT_FOUND, &about(json!({"error": "nothing here"}))),
        }
    }

    /// Asks the catalogue what the second item costs; tells which instance has answered.
    async fn price(&self, cause: &Request<Incoming>) -> Result<(Value, Value)> {
        let address = self.catalog.context("there is no address of it")?;
        let asked = async {
            let stream = TcpStream::connect(address).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let mut request = Request::get("/").header(HOST, "catalog");
            for name in FOLLOWED {
                if let Some(value) = cause.headers().get(name) {
                    request = request.header(name, value);
                }
            }
            let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
            let status = response.status();
            anyhow::ensure!(status == StatusCode::OK, "it answers {status}");
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            anyhow::Ok(serde_json::from_slice::<Value>(&body)?)
        };
        let mut answer = tokio::time::timeout(PATIENCE, asked).await.context("no answer in time")??;
        Ok((answer["items"][1]["price"].take(), answer["instance"].take()))
    }
}

fn items() -> Value {
    json!([
        {"id": 1, "name": "lantern", "price": "24.00"},
        {"id": 2, "name": "rope, 30 m", "price": "41.50"},
        {"id": 3, "name": "compass", "price": "18.90"},
    ])
}

/// What reached the service, so that one can see what was changed on the way.
fn seen(request: &Request<Incoming>, number: u64) -> Value {
    let field = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let caller = field(CALLER).and_then(|all| all.split(';').find_map(|part| part.strip_prefix("URI=")));
    json!({
        "number": number,
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "caller": caller,
        "x-request-id": field("x-request-id"),
        "x-forwarded-for": field("x-forwarded-for"),
        "x-shop": field("x-shop"),
        "traceparent": field("traceparent"),
    })
}

fn respond_json(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", format!("{body:#}\n"))
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

const PAGE: &str = "\
<!doctype html>
<html lang=\"en\"><meta charset=\"utf-8\"><title>Transept demo</title>
<style>body{font:16px/1.5 system-ui;max-width:40rem;margin:3rem auto;padding:0 1rem}code{background:#8882;padding:.1em .3em}</style>
<h1>A shop behind Transept</h1>
<p>This page comes from the service <code>web</code>, a process of its own that the gateway reaches by mutual TLS. Around it:</p>
<ul>
<li><a href=\"/catalog\">/catalog</a>: the service <code>catalog</code>, its path rewritten to <code>/</code>; it has two instances</li>
<li><a href=\"/cart\">/cart</a>: the service <code>cart</code>, which asks the catalogue for a price; one request in ten goes to its second version</li>
<li><a href=\"/old\">/old</a>: a redirect that never reaches a service</li>
<li><a href=\"/cart/nowhere\">/cart/nowhere</a>: a service that says 404</li>
</ul>
</html>
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_told_apart_by_the_names_of_the_configuration() {
        for service in [Service::Web, Service::Catalog, Service::Cart(2)] {
            assert_eq!(service.name().parse(), Ok(service));
        }
        assert!("cart".parse::<Service>().is_err_and(|why| why.contains("cart")));
    }
}
