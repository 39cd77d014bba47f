//! One request over HTTP/2 on a connection of its own, and its whole answer.
//!
//! Called by `ask`, for gRPC and for backends that speak nothing else. Answers are bounded: what is larger is no health check.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transept_wire::h1::Body;
use transept_wire::h2::head::{Connect, HeadLimits, Underscore};
use transept_wire::h2::{Config, Connection, Event, Growth, Key, LARGEST_FRAME};
use transept_wire::head::{Fields, Request};

use super::ask::Trouble;
use super::stream::Stream;

/// Bytes of a head, and of content.
const MOST: usize = 16 * 1024;

const CONFIG: Config = Config {
    stream_window: 65_535,
    growth: Growth::NONE,
    connection_window: 65_535,
    data_frame: LARGEST_FRAME,
    max_streams: 1,
    heads: HeadLimits { bytes: MOST, fields: 100, connect: Connect::Refused, underscore: Underscore::Drop },
};

/// A whole answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) fields: Fields,
    pub(super) content: Vec<u8>,
    pub(super) trailers: Fields,
}

/// Sends a request, whose body must fit into the window that every connection begins with, and waits for the answer.
pub(super) async fn exchange(mut stream: Stream, request: &Request, body: &[u8]) -> Result<Answer, Trouble> {
    let mut wire = Connection::client(CONFIG);
    let framing = if body.is_empty() { Body::None } else { Body::Length(body.len() as u64) };
    let full = |_| Trouble::Silent("it takes no request".to_owned());
    let key = wire.send_request(request, &framing, body.is_empty()).map_err(full)?;
    if !body.is_empty() {
        wire.send_data(key, body).map_err(full)?;
        wire.end(key).map_err(full)?;
    }
    let mut answer = Answer::default();
    let (mut input, mut output) = (Vec::with_capacity(4096), Vec::new());
    loop {
        wire.take_pending(&mut output);
        stream.write_all(&output).await.map_err(|error| Trouble::silent(&error))?;
        stream.flush().await.map_err(|error| Trouble::silent(&error))?;
        output.clear();
        let count = stream.read_buf(&mut input).await.map_err(|error| Trouble::silent(&error))?;
        if count == 0 {
            return Err(Trouble::Silent("the connection was closed before an answer".to_owned()));
        }
        if listen(&mut wire, key, &mut input, &mut answer)? == Progress::Whole {
            return Ok(answer);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Partial,
    Whole,
}

/// Takes in what has come.
fn listen(wire: &mut Connection, key: Key, input: &mut Vec<u8>, answer: &mut Answer) -> Result<Progress, Trouble> {
    loop {
        let step = wire.receive(input).map_err(|fault| Trouble::silent(&fault))?;
        let mut progress = Progress::Partial;
        let idle = step.consumed == 0 && step.event.is_none();
        match step.event {
            Some(Event::Response { stream, end, .. }) if stream == key && !wire.response.is_interim() => {
                answer.status = wire.response.status;
                answer.fields.copy_from(&wire.response.fields);
                progress = if end { Progress::Whole } else { Progress::Partial };
            }
            Some(Event::Data { stream, range, end }) if stream == key => {
                let piece = input.get(range).unwrap_or_default();
                answer.content.extend_from_slice(piece);
                wire.took(key, piece.len(), false);
                // The status is known; the rest would change nothing.
                let enough = end || answer.content.len() > MOST;
                progress = if enough { Progress::Whole } else { Progress::Partial };
            }
            Some(Event::Trailers { stream }) if stream == key => {
                answer.trailers.copy_from(&wire.trailers);
                progress = Progress::Whole;
            }
            Some(Event::Reset { code, .. }) => return Err(Trouble::Silent(format!("the stream was reset ({code})"))),
            Some(Event::Broken { why, .. }) => return Err(Trouble::silent(&why)),
            Some(Event::GoAway { last, .. }) if last < key.id() => {
                return Err(Trouble::Silent("it takes no request".to_owned()));
            }
            _ => {}
        }
        input.drain(..step.consumed.min(input.len()));
        if idle || progress == Progress::Whole {
            return Ok(progress);
        }
    }
}
