//! The way back to the client: interim responses, one final head, and the sink for its body.
//!
//! Called by the verb *relay* and by replies of our own. Framing towards the client is decided here, from the framing
//! of the body and the version that the client speaks.

use std::cell::Cell;
use std::task::{Context, Poll};
use std::time::Duration;

use transept_wire::h1::{self, Body, Connection, Protocol};
use transept_wire::h2::Code;
use transept_wire::head::{Method, Response, Version};

use crate::body::{H1Sink, H2Sink, Sink};
use crate::buffer::{Inbound, Outbound};
use crate::deadline::Watch;
use crate::failure::{Failure, Side};
use crate::h2::Stream;
use crate::io::Io;

/// One exchange's way back to its client.
pub(crate) enum Replier<'c> {
    H1(H1Replier<'c>),
    H2(H2Replier<'c>),
}

/// Over HTTP/1.1 and 1.0.
pub(crate) struct H1Replier<'c> {
    pub io: &'c Io,
    pub watch: &'c Watch,
    pub version: Version,
    pub method: Method,
    /// Whether the connection may carry another request. Becomes false for good when anything speaks against it.
    pub keep_alive: bool,
    /// Whether the worker drains by now.
    pub draining: &'c Cell<bool>,
    pub begun: bool,
    /// The response was cut: the connection must not end as if it were complete.
    pub cut: bool,
}

/// Over an HTTP/2 stream.
pub(crate) struct H2Replier<'c> {
    pub stream: &'c Stream,
    pub watch: &'c Watch,
    pub method: Method,
    pub begun: bool,
}

impl<'c> Replier<'c> {
    /// Whether the final head is on its way; from then on an error can only cut the response.
    pub(crate) fn begun(&self) -> bool {
        match self {
            Replier::H1(replier) => replier.begun,
            Replier::H2(replier) => replier.begun,
        }
    }

    /// Whether the connection is to carry another request. Over HTTP/2 it does not depend on one exchange.
    pub(crate) fn keeps_alive(&self) -> bool {
        match self {
            Replier::H1(replier) => replier.keep_alive && replier.begun && !replier.cut,
            Replier::H2(_) => false,
        }
    }

    /// The connection closes after this response.
    pub(crate) fn forbid_keep_alive(&mut self) {
        if let Replier::H1(replier) = self {
            replier.keep_alive = false;
        }
    }

    /// The connection ends with this exchange, or with those that it carries meanwhile: what it was let in by is not good any more.
    pub(crate) fn dismiss(&mut self) {
        match self {
            Replier::H1(replier) => replier.keep_alive = false,
            Replier::H2(replier) => replier.stream.link().dismiss(),
        }
    }

    /// Ready when the client has cancelled the request before its response began. Over HTTP/1.1 that is to break the connection
    /// off; to close its half is not.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        match self {
            Replier::H1(replier) => replier.io.poll_broken(cx).map(|error| Failure::send(Side::Downstream, &error)),
            Replier::H2(replier) => replier.stream.poll_cut(cx).map(|cut| Failure::h2_send(Side::Downstream, &cut)),
        }
    }

    /// Sends an interim response (RFC 9110 section 15.2). HTTP/1.0 clients do not know them.
    pub(crate) async fn interim(&mut self, response: &Response) -> Result<(), Failure> {
        match self {
            Replier::H1(replier) if replier.version == Version::Http10 => Ok(()),
            Replier::H1(replier) => {
                let mut out = Outbound::take();
                h1::write_response(out.tail(), response, &Body::None, Connection::KeepAlive, Version::Http11);
                // Given up half-way, it must not be followed by another head.
                replier.begun = true;
                let sent = replier.io.send(&mut out, &[]).await;
                replier.begun = false;
                sent.map_err(|error| Failure::send(Side::Downstream, &error))
            }
            Replier::H2(replier) => {
                replier.stream.send_head(response, false).map_err(|cut| Failure::h2_send(Side::Downstream, &cut))
            }
        }
    }

    /// Starts the final response; its body, framed as `body` at its source, goes into the sink.
    pub(crate) fn begin(&mut self, response: &Response, body: Body) -> Result<Sink<'c>, Failure> {
        match self {
            Replier::H1(replier) => Ok(replier.begin(response, body)),
            Replier::H2(replier) => replier.begin(response, &body),
        }
    }

    /// Switches the connection to another protocol (101), or accepts an extended CONNECT with 200 (RFC 8441 section 5).
    pub(crate) async fn switch(
        &mut self,
        response: &Response,
        protocol: Protocol,
    ) -> Result<Option<Sink<'c>>, Failure> {
        match self {
            Replier::H1(replier) => {
                replier.begun = true;
                replier.keep_alive = false;
                let mut out = Outbound::take();
                h1::write_response(out.tail(), response, &Body::None, Connection::Upgrade(protocol), Version::Http11);
                replier.io.send(&mut out, &[]).await.map_err(|error| Failure::send(Side::Downstream, &error))?;
                Ok(None)
            }
            Replier::H2(replier) => replier.begin(response, &Body::UntilClose).map(Some),
        }
    }

    /// Cuts the response because a policy does not allow it any more, and says so; for members of the mesh.
    pub(crate) fn refuse(&mut self) {
        match self {
            Replier::H1(replier) => replier.io.refuse(),
            Replier::H2(replier) => replier.stream.abort(Code::NOT_ALLOWED),
        }
    }

    /// Cuts a response that has begun, so that nobody can take the part for the whole.
    pub(crate) fn abort(&mut self) {
        match self {
            Replier::H1(replier) => replier.cut = true,
            Replier::H2(replier) => replier.stream.abort(Code::INTERNAL_ERROR),
        }
    }
}

impl<'c> H1Replier<'c> {
    fn begin(&mut self, response: &Response, body: Body) -> Sink<'c> {
        self.keep_alive &= !self.draining.get();
        let framing = match body {
            Body::Chunked | Body::UntilClose if self.version == Version::Http10 => Body::UntilClose,
            Body::UntilClose => Body::Chunked,
            body => body,
        };
        let bodiless = has_no_body(self.method, response.status);
        if matches!(framing, Body::UntilClose) && !bodiless {
            self.keep_alive = false;
        }
        self.begun = true;
        let connection = if self.keep_alive { Connection::KeepAlive } else { Connection::Close };
        let mut out = Outbound::take();
        h1::write_response(out.tail(), response, &framing, connection, self.version);
        let framing = if bodiless { Body::None } else { framing };
        Sink::H1(H1Sink::new(self.io, self.watch, Side::Downstream, framing, out))
    }
}

impl<'c> H2Replier<'c> {
    fn begin(&mut self, response: &Response, body: &Body) -> Result<Sink<'c>, Failure> {
        self.begun = true;
        let at_end = matches!(body, Body::None | Body::Length(0)) || has_no_body(self.method, response.status);
        self.stream.send_head(response, at_end).map_err(|cut| Failure::h2_send(Side::Downstream, &cut))?;
        Ok(if at_end { Sink::Nowhere } else { Sink::H2(H2Sink::new(self.stream, self.watch, Side::Downstream)) })
    }
}

/// Whether a response ends with its head, whatever length its fields state (RFC 9110 section 6.4.1).
fn has_no_body(method: Method, status: u16) -> bool {
    method == Method::Head || matches!(status, 204 | 304)
}

/// How long a client may take to close a connection that we have closed.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// Reads and drops what the client still sends, so that closing does not destroy the response on its way (RFC 9112
/// section 9.6). Bounded in bytes here and in time by `watch`.
pub(crate) async fn linger(io: &Io, inbound: &mut Inbound, watch: &Watch) {
    const MOST: usize = 256 * 1024;
    io.shut_down_writing();
    let mut dropped = 0;
    while dropped < MOST {
        inbound.consume(inbound.data().len());
        match watch.wait(|cx| io.poll_fill(cx, inbound)).await {
            Ok(Ok(count)) if count > 0 => dropped += count,
            _ => return,
        }
    }
}
