//! A connection to a control plane as a proxy makes it: mutual TLS, HTTP/2, gRPC calls with messages in both directions.
//!
//! Used by `member`. The proxy's own code for it is not reachable from outside, and waits for answers in tasks that a thousand
//! simulated proxies on one thread do without; the bytes are the same.

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use transept_xds::grpc::{CONTENT_TYPE, Frames, frame};

/// The longest message that is taken in, in bytes.
const LONGEST: usize = 64 << 20;

/// An open connection.
pub(super) struct Line(SendRequest<Bytes>);

impl Line {
    /// Dials; the connection is driven by a task of the local set.
    pub(super) async fn open(address: &str, tls: &TlsConnector) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // No name is sent or checked: the identity in the certificate counts.
        let name = ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into());
        let stream = tls.connect(name, stream).await.context("the handshake with the control plane")?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(4 << 20).initial_connection_window_size(16 << 20).enable_push(false);
        let (calls, connection) = builder.handshake::<_, Bytes>(stream).await?;
        // How it ended is told by the calls on it.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(Self(calls))
    }

    /// Begins a call.
    pub(super) async fn call(&self, path: &str) -> anyhow::Result<(Sender, Messages)> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://control{path}"))
            .header(http::header::CONTENT_TYPE, CONTENT_TYPE)
            .header(http::header::TE, "trailers")
            .body(())?;
        let mut calls = self.0.clone().ready().await?;
        let (response, send) = calls.send_request(request, false)?;
        Ok((Sender(send), Messages { state: State::Head(response), frames: Frames::new(LONGEST) }))
    }
}

/// The messages that we send in a call.
pub(super) struct Sender(SendStream<Bytes>);

impl Sender {
    pub(super) fn send(&mut self, message: &impl Message) -> anyhow::Result<()> {
        Ok(self.0.send_data(frame(message), false)?)
    }
}

/// The messages that we get in a call.
pub(super) struct Messages {
    state: State,
    frames: Frames,
}

enum State {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl Messages {
    /// The next message. Dropping the future loses none.
    pub(super) async fn next<M: Message + Default>(&mut self) -> anyhow::Result<M> {
        loop {
            if let Some(message) = self.frames.take().map_err(|bad| anyhow::anyhow!("{bad}"))? {
                return Ok(message);
            }
            match &mut self.state {
                State::Head(response) => {
                    let (head, body) = response.await?.into_parts();
                    let refused = head.headers.get("grpc-message").map(|text| String::from_utf8_lossy(text.as_bytes()));
                    ensure!(head.status == StatusCode::OK && refused.is_none(), "{}: {refused:?}", head.status);
                    self.state = State::Body(body);
                }
                State::Body(body) => match body.data().await {
                    Some(data) => {
                        let data = data?;
                        self.frames.push(&data);
                        body.flow_control().release_capacity(data.len())?;
                    }
                    None => bail!("the control plane has ended a call: {:?}", body.trailers().await?),
                },
            }
        }
    }
}
