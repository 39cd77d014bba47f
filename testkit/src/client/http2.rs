//! The HTTP/2 side of the test client, on the `h2` crate. Called by the plain client and by the gRPC client.

use std::io;

use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderMap;
use tokio::task::JoinHandle;

use super::{Answer, Request};
use crate::h1::Stream;

/// One HTTP/2 connection; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    scheme: &'static str,
    driver: JoinHandle<()>,
}

impl Connection {
    pub(crate) async fn start(stream: Box<dyn Stream>, scheme: &'static str) -> io::Result<Connection> {
        let (requests, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(async move {
            // A broken connection also breaks the exchange on it, which reports it.
            let _broken = connection.await;
        });
        Ok(Connection { requests, scheme, driver })
    }

    pub(crate) async fn exchange(&self, request: &Request) -> io::Result<Answer> {
        let mut requests = self.requests.clone().ready().await.map_err(io::Error::other)?;
        let head = request_head(request, self.scheme)?;
        let (response, mut body) = requests.send_request(head, request.body.is_empty()).map_err(io::Error::other)?;
        if !request.body.is_empty() {
            let content = Bytes::copy_from_slice(&request.body);
            body.send_data(content, true).map_err(io::Error::other)?;
        }
        let response = response.await.map_err(io::Error::other)?;
        let (head, mut incoming) = response.into_parts();
        let mut answer = Answer { status: head.status.as_u16(), fields: fields_of(&head.headers), ..Answer::default() };
        while let Some(piece) = incoming.data().await {
            let piece = piece.map_err(io::Error::other)?;
            incoming.flow_control().release_capacity(piece.len()).map_err(io::Error::other)?;
            answer.body.extend_from_slice(&piece);
        }
        if let Some(trailers) = incoming.trailers().await.map_err(io::Error::other)? {
            answer.trailers = fields_of(&trailers);
        }
        Ok(answer)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The fields of a header map, in its order.
pub(crate) fn fields_of(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

fn request_head(request: &Request, scheme: &str) -> io::Result<http::Request<()>> {
    let uri = http::Uri::builder()
        .scheme(scheme)
        .authority(request.host.as_str())
        .path_and_query(request.target.as_str())
        .build()
        .map_err(io::Error::other)?;
    let mut head = http::Request::builder().version(http::Version::HTTP_2).method(request.method.as_str()).uri(uri);
    for (name, value) in &request.fields {
        head = head.header(name.to_ascii_lowercase(), value.as_str());
    }
    head.body(()).map_err(io::Error::other)
}
