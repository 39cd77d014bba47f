//! The three services of the demo: a page, a catalogue and a cart, each a few lines of HTTP on a loopback port of its own.
//!
//! Called by `demo`. They know nothing of the gateway in front of them; what they answer shows what reached them.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;

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

    /// Starts it on a free loopback port and tells which.
    pub(super) async fn start(self) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let served = Arc::new(AtomicU64::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = served.clone();
                tokio::spawn(async move {
                    let answer = service_fn(|request| {
                        let number = served.fetch_add(1, Ordering::Relaxed) + 1;
                        let answer = self.answer(&request, number);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Ok(address)
    }

    fn answer(self, request: &Request<Incoming>, number: u64) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        match (self, request.method(), path) {
            (Service::Web, _, "/") => respond(StatusCode::OK, "text/html; charset=utf-8", PAGE.to_owned()),
            (Service::Catalog, &Method::GET, "/") => respond_json(
                StatusCode::OK,
                &json!({
                    "service": self.name(),
                    "items": [
                        {"id": 1, "name": "lantern", "price": "24.00"},
                        {"id": 2, "name": "rope, 30 m", "price": "41.50"},
                        {"id": 3, "name": "compass", "price": "18.90"},
                    ],
                    "request": seen(request, number),
                }),
            ),
            (Service::Cart(version), _, "/cart") => respond_json(
                StatusCode::OK,
                &json!({
                    "service": self.name(),
                    "version": version,
                    "lines": [{"item": 2, "quantity": 1}],
                    "request": seen(request, number),
                }),
            ),
            _ => respond_json(
                StatusCode::NOT_FOUND,
                &json!({"service": self.name(), "error": "nothing here", "request": seen(request, number)}),
            ),
        }
    }
}

/// What reached the service, so that one can see what the gateway changed.
fn seen(request: &Request<Incoming>, number: u64) -> Value {
    let field = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    json!({
        "number": number,
        "method": request.method().as_str(),
        "path": request.uri().path(),
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
<p>This page comes from the service <code>web</code>. Around it:</p>
<ul>
<li><a href=\"/catalog\">/catalog</a>: the service <code>catalog</code>, its path rewritten to <code>/</code></li>
<li><a href=\"/cart\">/cart</a>: the service <code>cart</code>, one request in ten goes to its second version</li>
<li><a href=\"/old\">/old</a>: a redirect that never reaches a service</li>
<li><a href=\"/cart/nowhere\">/cart/nowhere</a>: a service that says 404</li>
</ul>
</html>
";
