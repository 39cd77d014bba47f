//! The client on the stage.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;
use transept_testkit::certificates::Identity;
use transept_testkit::client::{Endpoint, Protocol, Tls, Trust, open};
use transept_testkit::h1::{self, Framing, Pieces, Reader, Stream};

use super::{Backend, Framed, Whole, fields_of, map_of, next_piece, owned, send_paced, soon, trailers_of};

/// What the client speaks.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Http10,
    Http11,
    /// HTTP/1.1 over TLS without ALPN, believing just this certificate.
    Http11Tls(Arc<Identity>),
    /// The same, showing this one.
    MutualTls {
        server: Arc<Identity>,
        client: Arc<Identity>,
    },
    /// HTTP/2 with prior knowledge.
    H2c,
    /// HTTP/2 by ALPN, believing just this certificate.
    H2Tls(Arc<Identity>),
}

impl Down {
    pub(crate) fn endpoint(&self, address: SocketAddr) -> Endpoint {
        match self {
            Down::Http10 | Down::Http11 => Endpoint::http1(address),
            Down::H2c => Endpoint::h2c(address),
            Down::Http11Tls(identity) => secured(address, Protocol::Http1, identity, None),
            Down::MutualTls { server, client } => secured(address, Protocol::Http1, server, Some(client)),
            Down::H2Tls(identity) => secured(address, Protocol::Http2, identity, None),
        }
    }
}

fn secured(address: SocketAddr, protocol: Protocol, server: &Identity, client: Option<&Arc<Identity>>) -> Endpoint {
    let trust = Trust::Leaf(server.certificate().expect("a certificate"));
    let tls = Tls { server_name: "site.test".to_owned(), trust, identity: client.cloned() };
    Endpoint { address, protocol, tls: Some(tls) }
}

/// The head of a request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    framed: Framed,
    protocol: Option<&'static str>,
}

impl Ask {
    pub(crate) fn new(method: &str, target: &str) -> Ask {
        Ask {
            method: method.to_owned(),
            target: target.to_owned(),
            fields: Vec::new(),
            framed: Framed::Not,
            protocol: None,
        }
    }

    pub(crate) fn get(target: &str) -> Ask {
        Ask::new("GET", target)
    }

    /// A POST with a body that is announced so.
    pub(crate) fn post(target: &str, framed: Framed) -> Ask {
        Ask::new("POST", target).framed(framed)
    }

    /// Whether a body is announced.
    pub(crate) fn is_framed(&self) -> bool {
        self.framed != Framed::Not
    }

    /// With a body that is announced so.
    pub(crate) fn framed(mut self, framed: Framed) -> Ask {
        self.framed = framed;
        self
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Ask {
        self.fields.extend(owned(&[(name, value)]));
        self
    }

    /// An extended CONNECT (RFC 8441).
    pub(crate) fn extended(mut self, protocol: &'static str) -> Ask {
        self.method = "CONNECT".to_owned();
        self.protocol = Some(protocol);
        self.framed = Framed::Open;
        self
    }
}

/// A connection to the gateway.
pub(crate) struct Caller {
    link: Link,
}

enum Link {
    H1(Reader<Box<dyn Stream>>, &'static str),
    H2(h2::client::SendRequest<Bytes>, &'static str, JoinHandle<()>),
}

impl Caller {
    pub(crate) async fn connect(down: &Down, address: SocketAddr) -> Caller {
        let stream = soon(open(&down.endpoint(address))).await.unwrap_or_else(|failure| panic!("{failure}"));
        let link = match down {
            Down::Http10 => Link::H1(Reader::new(stream), "HTTP/1.0"),
            Down::Http11 | Down::Http11Tls(_) | Down::MutualTls { .. } => Link::H1(Reader::new(stream), "HTTP/1.1"),
            Down::H2c | Down::H2Tls(_) => {
                let (requests, connection) = soon(h2::client::handshake(stream)).await.expect("a connection");
                let driver = tokio::spawn(async move {
                    // A broken connection also breaks the call on it, which reports it.
                    let _broken = connection.await;
                });
                let scheme = match down {
                    Down::H2Tls(_) => "https",
                    _ => "http",
                };
                Link::H2(requests, scheme, driver)
            }
        };
        Caller { link }
    }

    /// Over HTTP/1.1.
    pub(crate) async fn http11(address: SocketAddr) -> Caller {
        Caller::connect(&Down::Http11, address).await
    }

    /// Another user of the same connection. Only over HTTP/2.
    pub(crate) fn beside(&self) -> Caller {
        let Link::H2(requests, scheme, _) = &self.link else {
            panic!("only over HTTP/2");
        };
        // The connection is driven by the first one, who has to stay.
        Caller { link: Link::H2(requests.clone(), scheme, tokio::spawn(async {})) }
    }

    /// Sends a head.
    pub(crate) async fn ask(&mut self, ask: Ask) -> Call<'_> {
        let method = ask.method.clone();
        let side = match &mut self.link {
            Link::H1(reader, version) => {
                let mut fields = owned(&[("Host", "site.test")]);
                match ask.framed {
                    Framed::Not => {}
                    Framed::Length(length) => {
                        fields.extend(owned(&[("Content-Length", &length.to_string())]));
                    }
                    _ => fields.extend(owned(&[("Transfer-Encoding", "chunked")])),
                }
                fields.extend(ask.fields);
                let line = format!("{} {} {version}", ask.method, ask.target);
                reader.send(&h1::head_bytes(&line, &fields)).await.expect("the head is sent");
                let pieces = Pieces::new(Framing::Empty).expect("no body");
                let chunked = ask.framed == Framed::Open;
                Side::H1 { reader, pieces, chunked }
            }
            Link::H2(requests, scheme, _) => {
                let head = h2_head(&ask, scheme);
                *requests = soon(requests.clone().ready()).await.expect("room");
                let (response, stream) =
                    requests.send_request(head, ask.framed == Framed::Not).expect("the head is sent");
                Side::H2 { response, stream, body: None }
            }
        };
        Call { status: 0, fields: Vec::new(), interim: Vec::new(), method, side }
    }

    /// Has one request answered, so that the gateway holds a connection to the backend that was used before.
    pub(crate) async fn use_once(&mut self, backend: &mut Backend) {
        let mut call = self.ask(Ask::get("/first")).await;
        backend.next().await.answer(200, "").await;
        assert_eq!(call.answer().await.0, 200);
    }

    /// A whole exchange without a request body.
    pub(crate) async fn get(&mut self, target: &str) -> (u16, Vec<u8>) {
        let mut call = self.ask(Ask::get(target)).await;
        call.head().await;
        let whole = call.whole().await;
        (call.status, whole.content)
    }

    /// Whether the gateway has closed the connection; waits for it, and nothing else may come.
    pub(crate) async fn sees_the_end(&mut self) -> bool {
        match &mut self.link {
            Link::H1(reader, _) => {
                matches!(soon(reader.read_some(1)).await, Ok(rest) if rest.is_empty())
            }
            Link::H2(.., driver) => soon(driver).await.is_ok(),
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Link::H2(.., driver) = &self.link {
            driver.abort();
        }
    }
}

fn h2_head(ask: &Ask, scheme: &str) -> http::Request<()> {
    let mut head = http::Request::new(());
    *head.method_mut() = ask.method.parse().expect("a method");
    *head.uri_mut() = format!("{scheme}://site.test{}", ask.target).parse().expect("a target");
    *head.version_mut() = http::Version::HTTP_2;
    *head.headers_mut() = map_of(&ask.fields);
    if let Framed::Length(length) = ask.framed {
        head.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    if let Some(protocol) = ask.protocol {
        head.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
    }
    head
}

/// One request and what comes back.
pub(crate) struct Call<'c> {
    /// Of the final response, once its head was read; so are `fields`.
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    /// What came before the final response.
    pub(crate) interim: Vec<(u16, Vec<(String, String)>)>,
    method: String,
    side: Side<'c>,
}

enum Side<'c> {
    H1 { reader: &'c mut Reader<Box<dyn Stream>>, pieces: Pieces, chunked: bool },
    H2 { response: h2::client::ResponseFuture, stream: h2::SendStream<Bytes>, body: Option<h2::RecvStream> },
}

impl Call<'_> {
    /// Sends a piece of the body.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.side {
            Side::H1 { reader, chunked, .. } => {
                if *chunked {
                    let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
                    framed.extend_from_slice(bytes);
                    framed.extend_from_slice(b"\r\n");
                    reader.send(&framed).await
                } else {
                    reader.send(bytes).await
                }
            }
            Side::H2 { stream, .. } => send_paced(stream, bytes).await,
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        soon(self.try_send(bytes)).await.expect("the body is sent");
    }

    /// Ends the body.
    async fn try_end_with(&mut self, trailers: &[(&str, &str)]) -> io::Result<()> {
        match &mut self.side {
            Side::H1 { reader, chunked: true, .. } => reader.send(&h1::head_bytes("0", &owned(trailers))).await,
            Side::H1 { .. } => Ok(()),
            Side::H2 { stream, .. } if trailers.is_empty() => {
                stream.send_data(Bytes::new(), true).map_err(io::Error::other)
            }
            Side::H2 { stream, .. } => stream.send_trailers(map_of(&owned(trailers))).map_err(io::Error::other),
        }
    }

    pub(crate) async fn try_end(&mut self) -> io::Result<()> {
        soon(self.try_end_with(&[])).await
    }

    pub(crate) async fn end(&mut self, trailers: &[(&str, &str)]) {
        soon(self.try_end_with(trailers)).await.expect("the body ends");
    }

    /// Reads the head of the final response. Gives the error when the gateway cuts the call off instead.
    pub(crate) async fn try_head(&mut self) -> io::Result<()> {
        match &mut self.side {
            Side::H1 { reader, pieces, .. } => loop {
                let head = reader.read_head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                let status = head.status().ok_or(io::ErrorKind::InvalidData)?;
                if (100..200).contains(&status) && status != 101 {
                    self.interim.push((status, head.fields));
                    continue;
                }
                let framing = match status {
                    101 => Framing::UntilClose,
                    _ => Framing::of_response(&head, &self.method),
                };
                *pieces = Pieces::new(framing)?;
                (self.status, self.fields) = (status, head.fields);
                return Ok(());
            },
            Side::H2 { response, body, .. } => {
                let interim = &mut self.interim;
                let arrived = std::future::poll_fn(|cx| {
                    while let std::task::Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
                        interim.push((head.status().as_u16(), fields_of(head.headers())));
                    }
                    std::pin::Pin::new(&mut *response).poll(cx)
                })
                .await
                .map_err(io::Error::other)?;
                let (head, stream) = arrived.into_parts();
                (self.status, self.fields) = (head.status.as_u16(), fields_of(&head.headers));
                *body = Some(stream);
                Ok(())
            }
        }
    }

    pub(crate) async fn head(&mut self) {
        soon(self.try_head()).await.expect("a response");
    }

    /// Waits for one interim response.
    pub(crate) async fn interim(&mut self) -> u16 {
        let Side::H1 { reader, .. } = &mut self.side else {
            panic!("only over HTTP/1.1");
        };
        let head = soon(reader.read_head()).await.expect("reads");
        head.expect("a head").status().expect("a status")
    }

    /// The first value of a field of the response.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        h1::first(&self.fields, name)
    }

    /// The next piece of the response's body.
    pub(crate) async fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match &mut self.side {
            Side::H1 { reader, pieces, .. } => soon(pieces.next(reader)).await,
            Side::H2 { body, .. } => soon(next_piece(body.as_mut().expect("the head was read"))).await,
        }
    }

    /// The body up to its end, or why it was cut.
    pub(crate) async fn try_whole(&mut self) -> io::Result<Whole> {
        let mut whole = Whole::default();
        while let Some(piece) = self.piece().await? {
            whole.content.extend(piece);
        }
        whole.trailers = match &mut self.side {
            Side::H1 { pieces, .. } => pieces.trailers().to_vec(),
            Side::H2 { body, .. } => soon(trailers_of(body.as_mut().expect("the head was read"))).await?,
        };
        Ok(whole)
    }

    pub(crate) async fn whole(&mut self) -> Whole {
        self.try_whole().await.expect("a whole body")
    }

    /// Head and body of the response; the body as text.
    pub(crate) async fn answer(&mut self) -> (u16, String) {
        self.head().await;
        let whole = self.whole().await;
        (self.status, String::from_utf8_lossy(&whole.content).into_owned())
    }

    /// Cancels the call (RST_STREAM). Only over HTTP/2.
    pub(crate) fn cancel(mut self) {
        let Side::H2 { stream, .. } = &mut self.side else {
            panic!("only over HTTP/2");
        };
        stream.send_reset(h2::Reason::CANCEL);
    }
}
