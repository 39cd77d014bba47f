//! The backend's side of an exchange: a connection that takes one request and gives one response.
//!
//! Called by `attempt.rs`. Whether a try is repeated is not decided here.

mod connect;
mod dial;
mod hbone;
mod pool;
mod replacing;
mod room;
mod secure;

pub(crate) use connect::{Destination, Pooled, connect, connect_stream};
pub(crate) use dial::open;
pub(crate) use pool::{H2Lease, Pool, PoolKey};
pub(crate) use replacing::Replacing;
pub(crate) use room::no_room;
pub(crate) use secure::TlsChoices;

use std::rc::Rc;
use std::time::Duration;

use transept_engine::judge;
use transept_engine::reason::Reason;
use transept_engine::snapshot::Backend;
use transept_engine::traffic::Permit;
use transept_wire::h1::{self, Body, Connection, Decoder};
use transept_wire::head::{Method, Request, Response};

use crate::body::{H1Sink, H1Source, H2Sink, H2Source, Sink, Source};
use crate::buffer::{Inbound, Outbound};
use crate::deadline::Watch;
use crate::failure::{Failure, Repeat, Side};
use crate::h2::{Link, Stream};
use crate::io::Io;

/// How long the end of a connection is waited for after a stream of it was reset.
const END: Duration = Duration::from_millis(5);

/// Whether a connection had carried a request before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    Fresh,
    Reused,
}

/// How a connection was when a try had failed on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub age: Age,
    /// Whether it is of no use any more. Of one that others share it may be the stream alone.
    pub is_over: bool,
}

/// A connection for one request.
pub(crate) enum Upstream {
    H1(H1Upstream),
    H2(H2Lease),
}

/// An HTTP/1.1 connection, ours alone for the time of the exchange.
pub(crate) struct H1Upstream {
    io: Io,
    inbound: Inbound,
    age: Age,
    key: PoolKey,
    /// Where connections are limited, what this one is counted by.
    permit: Option<Permit>,
}

/// Where the response will come from, once the request is on its way.
pub(crate) enum Inlet<'u> {
    H1 { io: &'u Io, inbound: &'u mut Inbound },
    H2(&'u Stream),
}

/// A head that came from the backend; its fields are in the response that was passed.
pub(crate) enum Received {
    /// 1xx, and another head follows.
    Interim,
    /// The response. `stated` is the framing that the fields state, which differs from that of the body for HEAD and 304.
    Final { stated: Body, rest: Rest },
}

/// What follows a response head.
pub(crate) enum Rest {
    H1 { body: Body, keep_alive: bool },
    H2 { end: bool },
}

impl Upstream {
    /// How it is, now that a try of such a request has failed on it. Servers reset streams before they end a connection: where that would mean that
    /// the request is sent again, the end is waited for, a moment.
    pub(crate) async fn used_after(&self, failure: &Failure, request: judge::Repeat) -> Used {
        let lease = match self {
            Upstream::H1(upstream) => return Used { age: upstream.age, is_over: true },
            Upstream::H2(lease) => lease,
        };
        let would_follow = match failure.repeat {
            Repeat::Safe => true,
            Repeat::IfIdempotent => {
                !failure.is_meant && lease.age() == Age::Reused && request == judge::Repeat::Harmless
            }
            Repeat::Never => false,
        };
        if would_follow && failure.reason == Reason::UpstreamReset {
            lease.await_close(END).await;
        }
        Used { age: lease.age(), is_over: lease.is_over() }
    }

    /// Whether a request that was sent may turn out to have been looked at by nobody: its stream was refused, or there is no program behind
    /// the tunnel.
    pub(crate) fn may_refuse(&self) -> bool {
        match self {
            Upstream::H1(_) => self.is_in_tunnel(),
            Upstream::H2(_) => true,
        }
    }

    /// Whether it is in a tunnel.
    pub(crate) fn is_in_tunnel(&self) -> bool {
        match self {
            Upstream::H1(upstream) => upstream.io.is_tunnel(),
            Upstream::H2(lease) => lease.is_in_tunnel(),
        }
    }

    /// Whether it has carried a request before, so that its server may have closed it.
    pub(crate) fn is_reused(&self) -> bool {
        match self {
            Upstream::H1(upstream) => upstream.age == Age::Reused,
            Upstream::H2(lease) => lease.age() == Age::Reused,
        }
    }

    /// Writes a request head, and splits the connection into where the request's body goes and where the response comes
    /// from. Over HTTP/1.1 the head leaves with the first bytes of the body.
    ///
    /// # Errors
    /// When the head cannot be sent over HTTP/2, or the connection is gone.
    pub(crate) fn begin<'u>(
        &'u mut self,
        request: &Request,
        body: &Body,
        connection: Connection,
        watch: &'u Watch,
    ) -> Result<(Sink<'u>, Inlet<'u>), Failure> {
        match self {
            Upstream::H1(H1Upstream { io, inbound, .. }) => {
                let mut out = Outbound::take();
                h1::write_request(out.tail(), request, body, connection);
                let sink = Sink::H1(H1Sink::new(io, watch, Side::Upstream, *body, out));
                Ok((sink, Inlet::H1 { io, inbound }))
            }
            Upstream::H2(lease) => {
                let stream = lease.open(request, body).map_err(|cut| Failure::h2_response(&cut))?;
                let at_end = body.is_empty();
                let sink = if at_end { Sink::Nowhere } else { Sink::H2(H2Sink::new(stream, watch, Side::Upstream)) };
                Ok((sink, Inlet::H2(stream)))
            }
        }
    }

    /// Gives the connection back after a complete exchange.
    pub(crate) fn release(self, pool: &Pool, now: Duration) {
        if let Upstream::H1(upstream) = self
            && upstream.inbound.is_empty()
        {
            pool.put_back(upstream.key, upstream.io, upstream.permit, now);
        }
    }
}

impl<'u> Inlet<'u> {
    /// The backend, unless the connection to it is in a tunnel.
    pub(crate) fn in_clear_to<'b>(&self, backend: &'b Backend) -> Option<&'b Backend> {
        (!self.is_in_tunnel()).then_some(backend)
    }

    /// The connection of HTTP/2 that is in a tunnel or carries one, if there is one on the way to the backend.
    pub(crate) fn in_tunnel(&self) -> Option<Rc<Link>> {
        match self {
            Inlet::H1 { io, .. } => io.carrier(),
            Inlet::H2(stream) => stream.is_in_tunnel().then(|| stream.link().clone()),
        }
    }

    /// Whether the connection to the backend is in a tunnel.
    pub(crate) fn is_in_tunnel(&self) -> bool {
        match self {
            Inlet::H1 { io, .. } => io.is_tunnel(),
            Inlet::H2(stream) => stream.is_in_tunnel(),
        }
    }

    /// Waits for the next head.
    pub(crate) async fn receive(
        &mut self,
        method: &Method,
        limits: &h1::Limits,
        watch: &Watch,
        into: &mut Response,
    ) -> Result<Received, Failure> {
        match self {
            Inlet::H1 { io, inbound } => receive_h1(io, inbound, method, limits, watch, into).await,
            Inlet::H2(stream) => receive_h2(stream, method, limits, watch, into).await,
        }
    }

    /// The body behind a final head.
    pub(crate) fn into_source(self, rest: Rest, limits: &h1::Limits, watch: &'u Watch) -> Source<'u> {
        match (self, rest) {
            (Inlet::H1 { io, inbound }, Rest::H1 { body, .. }) if body != Body::None => {
                Source::H1(H1Source::new(io, inbound, watch, Decoder::new(body, limits), Side::Upstream))
            }
            (Inlet::H2(stream), Rest::H2 { end: false }) => Source::H2(H2Source::new(stream, watch, Side::Upstream)),
            _ => Source::Empty,
        }
    }
}

impl Rest {
    /// Whether the connection can carry another request when this is read.
    pub(crate) fn keeps_alive(&self) -> bool {
        match self {
            Rest::H1 { keep_alive, .. } => *keep_alive,
            Rest::H2 { .. } => true,
        }
    }
}

async fn receive_h1(
    io: &Io,
    inbound: &mut Inbound,
    method: &Method,
    limits: &h1::Limits,
    watch: &Watch,
    into: &mut Response,
) -> Result<Received, Failure> {
    let mut scan = h1::Scan::new();
    loop {
        if !inbound.is_empty() && scan.is_worth_parsing(inbound.data(), limits) {
            let parsed = h1::parse_response(inbound.data(), method, limits, into)
                .map_err(|malformed| Failure::malformed(Side::Upstream, &malformed))?;
            if let Some(meta) = parsed {
                inbound.consume(meta.head_len);
                if into.is_interim() && into.status != 101 {
                    return Ok(Received::Interim);
                }
                if inbound.is_empty() && meta.body != Body::None {
                    io.acknowledge();
                }
                let rest = Rest::H1 { body: meta.body, keep_alive: meta.keep_alive };
                return Ok(Received::Final { stated: meta.announced, rest });
            }
        }
        let count = watch
            .wait(|cx| io.poll_fill(cx, inbound))
            .await
            .map_err(|_| response_timeout())?
            .map_err(|error| Failure::broken(&error))?;
        if count == 0 {
            return Err(ended_early(inbound.is_empty()));
        }
    }
}

async fn receive_h2(
    stream: &Stream,
    method: &Method,
    limits: &h1::Limits,
    watch: &Watch,
    into: &mut Response,
) -> Result<Received, Failure> {
    let head = watch
        .wait(|cx| stream.poll_head(cx, into))
        .await
        .map_err(|_| response_timeout())?
        .map_err(|cut| Failure::h2_response(&cut))?;
    // The connection is shared by listeners, so their limits come after its own.
    if into.fields.len() > limits.fields || size_of_fields(into) > limits.head_bytes {
        let detail = "the response head is larger than the listener's limits";
        return Err(Failure::new(Side::Upstream, Reason::UpstreamHeadTooLarge, Repeat::Never, detail));
    }
    if into.is_interim() {
        return Ok(Received::Interim);
    }
    let stated = match head.length {
        Some(length) => Body::Length(length),
        None if into.status == 304 => Body::None,
        None if head.end && *method != Method::Head => Body::Length(0),
        None => Body::Chunked,
    };
    Ok(Received::Final { stated, rest: Rest::H2 { end: head.end } })
}

/// The size of a field section as RFC 9113 section 6.5.2 counts it.
fn size_of_fields(response: &Response) -> usize {
    response.fields.iter().map(|(name, value)| name.bytes.len() + value.len() + 32).sum()
}

fn ended_early(before_any_byte: bool) -> Failure {
    if before_any_byte {
        return Failure::no_response("the connection was closed before a response");
    }
    let detail = "the connection was closed inside a response head";
    Failure::new(Side::Upstream, Reason::UpstreamIncomplete, Repeat::IfIdempotent, detail)
}

fn response_timeout() -> Failure {
    Failure::new(Side::Upstream, Reason::UpstreamTimeout, Repeat::IfIdempotent, "no response came in time")
}
