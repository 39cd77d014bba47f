//! A client that makes one request on one new connection and reports exactly what came back.
//!
//! Called by road tests and by the conformance runner. Target, field names, their order and their case go out as given
//! (HTTP/2 wants lower case). It never retries or follows redirects; a caller that wants to keep a connection open does so
//! with [`KeptOpen`].

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpStream;

use crate::h1::{self, Framing, Reader, Stream};

pub(crate) mod http2;
mod tls;

pub use tls::{Tls, Trust, certificate_names_host};

/// The version of HTTP to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1; over TLS without ALPN.
    Http1,
    /// HTTP/2: by prior knowledge in clear text, by ALPN (only h2 is offered) over TLS.
    Http2,
}

/// Where to connect and how.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Address and port to dial.
    pub address: SocketAddr,
    /// Version of HTTP.
    pub protocol: Protocol,
    /// TLS, or clear text.
    pub tls: Option<Tls>,
}

impl Endpoint {
    /// HTTP/1.1 in clear text.
    pub fn http1(address: SocketAddr) -> Endpoint {
        Endpoint { address, protocol: Protocol::Http1, tls: None }
    }

    /// The scheme of its URLs.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }

    /// HTTP/2 by prior knowledge in clear text.
    pub fn h2c(address: SocketAddr) -> Endpoint {
        Endpoint { address, protocol: Protocol::Http2, tls: None }
    }
}

/// A request as it shall go out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Method, such as `GET`.
    pub method: String,
    /// Path and query, byte for byte.
    pub target: String,
    /// Host or `:authority`.
    pub host: String,
    /// The other fields.
    pub fields: Vec<(String, String)>,
    /// Body; framed by its length.
    pub body: Vec<u8>,
}

impl Request {
    /// A GET without further fields.
    pub fn get(host: &str, target: &str) -> Request {
        Request {
            method: "GET".to_owned(),
            target: target.to_owned(),
            host: host.to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
        }
    }

    /// The same with one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Request {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Status of the final response.
    pub status: u16,
    /// Status codes of the interim responses before it.
    pub interim: Vec<u16>,
    /// Fields in the order of the wire.
    pub fields: Vec<(String, String)>,
    /// Body without framing.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    /// The first value of a field, compared without case.
    pub fn field(&self, name: &str) -> Option<&str> {
        h1::first(&self.fields, name)
    }

    /// All values of a field joined with a bare comma.
    pub fn joined(&self, name: &str) -> Option<String> {
        h1::joined(&self.fields, name)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// TCP did not connect.
    Connect(io::Error),
    /// The TLS handshake failed.
    Secure(io::Error),
    /// The connection broke, or what came is not HTTP.
    Exchange(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect(why) => write!(out, "cannot connect: {why}"),
            Failure::Secure(why) => write!(out, "TLS handshake failed: {why}"),
            Failure::Exchange(why) => write!(out, "no answer: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

/// One exchange: the outcome, and what only the handshake tells.
#[derive(Debug)]
pub struct Exchange {
    /// The answer, or why there is none.
    pub outcome: Result<Answer, Failure>,
    /// The server asked for a client certificate.
    pub certificate_requested: bool,
}

/// Makes one request on a new connection. There is no time limit: wrap it in `tokio::time::timeout`.
pub async fn exchange(endpoint: &Endpoint, request: &Request) -> Exchange {
    let requested = Arc::new(AtomicBool::new(false));
    let outcome = match connect(endpoint, &requested).await {
        Err(failure) => Err(failure),
        Ok(stream) => match endpoint.protocol {
            Protocol::Http1 => exchange_http1(stream, request).await,
            Protocol::Http2 => exchange_http2(stream, endpoint.scheme(), request).await,
        }
        .map_err(Failure::Exchange),
    };
    Exchange { outcome, certificate_requested: requested.load(Ordering::SeqCst) }
}

/// Opens a connection to the endpoint, with TLS if it says so.
///
/// # Errors
/// [`Failure::Connect`] or [`Failure::Secure`].
pub async fn open(endpoint: &Endpoint) -> Result<Box<dyn Stream>, Failure> {
    connect(endpoint, &Arc::new(AtomicBool::new(false))).await
}

async fn connect(endpoint: &Endpoint, requested: &Arc<AtomicBool>) -> Result<Box<dyn Stream>, Failure> {
    let tcp = TcpStream::connect(endpoint.address).await.map_err(Failure::Connect)?;
    tcp.set_nodelay(true).map_err(Failure::Connect)?;
    match &endpoint.tls {
        None => Ok(Box::new(tcp)),
        Some(options) => {
            let secured = tls::secure(tcp, options, endpoint.protocol, requested).await;
            secured.map(|stream| Box::new(stream) as Box<dyn Stream>).map_err(Failure::Secure)
        }
    }
}

/// One request in HTTP/1.1 over a connection that is open.
///
/// # Errors
/// The connection breaks, or what comes is no answer.
pub async fn exchange_http1(stream: Box<dyn Stream>, request: &Request) -> io::Result<Answer> {
    exchange_on(&mut Reader::new(stream), &request.clone().with("Connection", "close")).await
}

async fn exchange_on(reader: &mut Reader<Box<dyn Stream>>, request: &Request) -> io::Result<Answer> {
    let mut fields = vec![("Host".to_owned(), request.host.clone())];
    fields.extend(request.fields.iter().cloned());
    if !request.body.is_empty() {
        fields.push(("Content-Length".to_owned(), request.body.len().to_string()));
    }
    let mut bytes = h1::head_bytes(&format!("{} {} HTTP/1.1", request.method, request.target), &fields);
    bytes.extend_from_slice(&request.body);
    // A server may answer and close before it has read everything: then the answer counts, not the broken pipe.
    let sent = reader.send(&bytes).await;
    let mut interim = Vec::new();
    loop {
        let head = match reader.read_head().await {
            Ok(Some(head)) => head,
            Ok(None) => {
                return Err(sent.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
            }
            Err(failure) => return Err(sent.err().unwrap_or(failure)),
        };
        let status =
            head.status().ok_or_else(|| io::Error::other(format!("not a status line: {:?}", head.start_line)))?;
        if (100..200).contains(&status) && status != 101 {
            interim.push(status);
            continue;
        }
        let body = reader.read_body(Framing::of_response(&head, &request.method)).await?;
        return Ok(Answer { status, interim, fields: head.fields, body: body.content, trailers: body.trailers });
    }
}

/// One HTTP/1.1 connection that stays open from request to request.
pub struct KeptOpen {
    reader: Reader<Box<dyn Stream>>,
}

impl KeptOpen {
    /// Connects.
    ///
    /// # Errors
    /// [`Failure::Connect`] or [`Failure::Secure`].
    pub async fn open(endpoint: &Endpoint) -> Result<KeptOpen, Failure> {
        Ok(KeptOpen { reader: Reader::new(open(endpoint).await?) })
    }

    /// One request, and its answer. There is no time limit: wrap it in `tokio::time::timeout`.
    ///
    /// # Errors
    /// [`Failure::Exchange`]: the connection is of no use any more.
    pub async fn exchange(&mut self, request: &Request) -> Result<Answer, Failure> {
        exchange_on(&mut self.reader, request).await.map_err(Failure::Exchange)
    }
}

async fn exchange_http2(stream: Box<dyn Stream>, scheme: &'static str, request: &Request) -> io::Result<Answer> {
    let connection = http2::Connection::start(stream, scheme).await?;
    connection.exchange(request).await
}
