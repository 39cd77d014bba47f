//! The stage of the road tests: a real gateway between a client and a backend that the test itself plays.
//!
//! A test reads like a dialogue: the client says something, the backend hears it and answers, the client hears that. Every
//! wait has a limit, and nothing is awaited but what the other side did.

mod backend;
mod caller;
pub(crate) mod frames;
mod gateway;
pub(crate) mod raw;

use std::future::Future;
use std::io;
use std::time::Duration;

pub(crate) use backend::{Answering, Backend, Nobody, Served, Up};
pub(crate) use caller::{Ask, Call, Caller, Down};
pub(crate) use gateway::{Gateway, Setup};

/// Long enough for a busy machine; only a failure waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What must happen, in time.
#[track_caller]
pub(crate) fn soon<T>(what: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        tokio::time::timeout(PATIENCE, what).await.unwrap_or_else(|_| panic!("it does not happen in time: {place}"))
    }
}

/// How a message announces its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framed {
    /// There is none.
    Not,
    /// By `Content-Length`.
    Length(usize),
    /// By chunks; over HTTP/2 by the end of the stream alone.
    Open,
    /// By the end of the connection; over HTTP/2 as `Open`.
    Close,
}

/// A body that has been read to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) content: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

/// Fields as the tests write them, as messages own them.
pub(crate) fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    fields.iter().map(own).collect()
}

/// Sends on an HTTP/2 stream as fast as the peer takes it, like a write to a socket.
async fn send_paced(stream: &mut h2::SendStream<bytes::Bytes>, bytes: &[u8]) -> io::Result<()> {
    let mut left = bytes::Bytes::copy_from_slice(bytes);
    while !left.is_empty() {
        stream.reserve_capacity(left.len());
        while stream.capacity() == 0 {
            match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(granted) => granted.map_err(io::Error::other)?,
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            };
        }
        let piece = left.split_to(stream.capacity().min(left.len()));
        stream.send_data(piece, false).map_err(io::Error::other)?;
    }
    Ok(())
}

/// The next piece of an HTTP/2 body; the peer may send as much again.
async fn next_piece(stream: &mut h2::RecvStream) -> io::Result<Option<Vec<u8>>> {
    let Some(piece) = stream.data().await else {
        return Ok(None);
    };
    let piece = piece.map_err(io::Error::other)?;
    stream.flow_control().release_capacity(piece.len()).map_err(io::Error::other)?;
    Ok(Some(piece.to_vec()))
}

/// The trailers behind an HTTP/2 body.
async fn trailers_of(stream: &mut h2::RecvStream) -> io::Result<Vec<(String, String)>> {
    let trailers = stream.trailers().await.map_err(io::Error::other)?;
    Ok(trailers.as_ref().map(fields_of).unwrap_or_default())
}

/// The fields of a header map, in its order.
fn fields_of(map: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// A header map of these fields.
fn map_of(fields: &[(String, String)]) -> http::HeaderMap {
    let mut map = http::HeaderMap::new();
    for (name, value) in fields {
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a field name");
        map.append(name, http::HeaderValue::from_str(value).expect("a value"));
    }
    map
}
