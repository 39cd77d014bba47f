//! One gRPC call from the side of the server: messages in, messages out, and how it ended.
//!
//! Used by `serve`. The framing is that of `transept_xds::grpc`; here it meets HTTP/2.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use transept_xds::grpc::{CONTENT_TYPE, Code, Failed, Frames, encode_message, frame};

/// What a call brings.
pub(super) struct Call {
    body: RecvStream,
    frames: Frames,
}

impl Call {
    /// Messages are at most `longest` bytes.
    pub(super) fn new(body: RecvStream, longest: usize) -> Self {
        Self { body, frames: Frames::new(longest) }
    }

    /// The next message; `None` at the end. May be given up while it waits: nothing is lost.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Failed> {
        loop {
            let message = self.frames.take();
            if let Some(message) = message.map_err(|bad| Failed::new(Code::InvalidArgument, bad.to_string()))? {
                return Ok(Some(message));
            }
            let Some(data) = self.body.data().await else { return Ok(None) };
            let data = data.map_err(broken)?;
            self.frames.push(&data);
            self.body.flow_control().release_capacity(data.len()).map_err(broken)?;
        }
    }

    /// The only message of a call that has one.
    pub(super) async fn only<M: Message + Default>(&mut self) -> Result<M, Failed> {
        let missing = || Failed::new(Code::InvalidArgument, "the call has no message");
        self.next().await?.ok_or_else(missing)
    }
}

/// What a call is answered.
pub(super) struct Reply(SendStream<Bytes>);

impl Reply {
    /// Sends a message. It waits in memory when the other side does not read; who calls sends little before an answer.
    pub(super) fn send(&mut self, message: &impl Message) -> Result<(), Failed> {
        self.0.send_data(frame(message), false).map_err(broken)
    }

    /// Ends the call.
    pub(super) fn finish(mut self, outcome: Result<(), Failed>) {
        // The stream is gone: there is nobody to tell.
        let _ = self.0.send_trailers(status(outcome.as_ref().err()));
    }
}

/// Begins to answer; `None` when the stream is gone.
pub(super) fn accept(mut respond: SendResponse<Bytes>) -> Option<Reply> {
    let mut head = Response::new(());
    head.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    respond.send_response(head, false).ok().map(Reply)
}

/// Answers with nothing but a failure.
pub(super) fn refuse(respond: SendResponse<Bytes>, failed: &Failed) {
    if let Some(reply) = accept(respond) {
        reply.finish(Err(failed.clone()));
    }
}

fn status(failed: Option<&Failed>) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let code = failed.map_or(Code::Ok, |failed| failed.code) as u32;
    trailers.insert("grpc-status", HeaderValue::from(code));
    if let Some(message) = failed.and_then(|failed| HeaderValue::try_from(encode_message(&failed.message)).ok()) {
        trailers.insert("grpc-message", message);
    }
    trailers
}

fn broken(error: h2::Error) -> Failed {
    Failed::new(Code::Unavailable, error.to_string())
}
