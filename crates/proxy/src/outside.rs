//! Requests of a program that was told of an HTTP proxy and that name nobody in the mesh: they go on to whom they name, as with any
//! forward proxy (RFC 9110 sections 3.7 and 9.3.6).
//!
//! Called by `edge/h1_server.rs` on the bind for such programs. CONNECT becomes bytes both ways; another request goes on in clear text, on
//! a connection of its own, which ends with the response. No policy has a say, because none is about those outside; the access log
//! tells of them.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use transept_engine::exchange::Connection;
use transept_engine::reason::Reason;
use transept_engine::snapshot::Bind;
use transept_engine::verdict::Reply;
use transept_wire::h1::{self, Body, Decoder, Limits, TargetForm, strip_hop_by_hop};
use transept_wire::head::{Method, Request};
use transept_wire::normalize;

use crate::body::{H1Sink, H1Source, Sink, Source, carry, fill_unless_gone};
use crate::buffer::{Inbound, Outbound};
use crate::deadline::Watch;
use crate::failure::{Failure, Side};
use crate::io::Io;
use crate::path::{Marks, Stop};
use crate::record::record;
use crate::splice::{note, splice};
use crate::trip::Trip;
use crate::upstream::open;
use crate::worker::Worker;

/// How long it may take to find and to reach somebody.
const CONNECT: Duration = Duration::from_secs(10);
/// What accepts a CONNECT (RFC 9110 section 9.3.6).
pub(crate) const CONNECTED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
/// Before the three digits of a status: `HTTP/1.1 `.
const BEFORE_STATUS: usize = 9;

/// Somebody outside the mesh.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    host: String,
    port: u16,
}

/// A client and what it has sent already.
pub(crate) struct Client<'c> {
    pub io: &'c Io,
    pub inbound: &'c mut Inbound,
    pub watch: &'c Watch,
    pub connection: &'c Connection,
    /// How the body of its request is framed.
    pub body: Body,
}

/// Whom a request names that is for nobody in the mesh; none when it is for the mesh, or not for a proxy at all. Only programs of
/// this machine are served, who could go there themselves.
pub(crate) fn find(bind: &Bind, connection: &Connection, request: &Request, form: TargetForm) -> Option<Outside> {
    let is_proxied = matches!(form, TargetForm::Absolute | TargetForm::Authority) && bind.is_found_by_authority();
    if !is_proxied || !connection.peer.ip().to_canonical().is_loopback() {
        return None;
    }
    let authority = normalize::authority(request.authority()).ok()?;
    let mut lower = Vec::new();
    let host = normalize::host_lower(authority.host, &mut lower);
    if bind.is_name_in_mesh(host) {
        return None;
    }
    let port = authority.port.or((form == TargetForm::Absolute).then_some(80))?;
    Some(Outside { host: host.trim_matches(['[', ']']).to_owned(), port })
}

/// Carries a request to its end, and records it.
///
/// # Errors
/// What the client is to be told: nothing has been said to it yet, and nothing is recorded.
pub(crate) async fn pass(
    worker: &Rc<Worker>,
    to: Outside,
    mut client: Client<'_>,
    trip: &mut Trip,
) -> Result<(), Box<Reply>> {
    let generation = worker.snapshot().generation;
    if worker.log.is_some() {
        worker.snapshot().credentials.write_target(trip.request.target(), &mut trip.facts.target);
    }
    trip.client = client.connection.peer.ip();
    trip.host = format!("{}:{}", to.host, to.port);
    let (up, endpoint) = reach(worker, &to).await?;
    let outcome = match trip.request.method {
        Method::Connect => tunnel(&up, &mut client, trip).await,
        _ => forward(&up, &mut client, trip).await,
    };
    if let Err(failure) = outcome {
        client.io.abort_on_drop();
        up.abort_on_drop();
        note(&Stop::Failed(failure), trip);
    }
    record(worker, trip, &Marks { generation, endpoint: Some(endpoint), ..Marks::default() }, client.connection);
    Ok(())
}

/// Connects to the first address of somebody that takes it.
#[expect(clippy::disallowed_methods, reason = "the program asked for this name at this moment, as it would ask itself")]
async fn reach(worker: &Worker, to: &Outside) -> Result<(Io, SocketAddr), Box<Reply>> {
    let Outside { host, port } = to;
    let reached = async {
        let found = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(|error| {
            let detail =
                format!("There is no service {host} in the mesh, and no address of that name elsewhere: {error}.");
            Box::new(Reply::new(Reason::UpstreamDns).with_detail(detail))
        })?;
        let mut why = "the name has no address".to_owned();
        for address in found {
            // It would come back for ever.
            if worker.snapshot().bind(&address).is_some() {
                why = format!("{address} is this proxy");
                continue;
            }
            match open(address).await {
                Ok(tcp) => return Ok((Io::plain(tcp), address)),
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        let detail = format!("{host}:{port} is not in the mesh and not reached: {why}.");
        Err(Box::new(Reply::new(Reason::UpstreamRefused).with_detail(detail)))
    };
    tokio::time::timeout(CONNECT, reached).await.unwrap_or_else(|_| {
        let detail = format!("{host}:{port} is not in the mesh and not reached in time.");
        Err(Box::new(Reply::new(Reason::UpstreamConnectTimeout).with_detail(detail)))
    })
}

/// Bytes both ways.
async fn tunnel(up: &Io, client: &mut Client<'_>, trip: &mut Trip) -> Result<(), Failure> {
    trip.facts.status = 200;
    let mut out = Outbound::take();
    out.tail().extend_from_slice(CONNECTED);
    client.io.send(&mut out, &[]).await.map_err(|error| Failure::send(Side::Downstream, &error))?;
    splice((client.io, client.inbound), (up, &mut Inbound::default()), client.watch, trip, None).await
}

/// One request with its body, and whatever is answered until the other side closes.
async fn forward(up: &Io, client: &mut Client<'_>, trip: &mut Trip) -> Result<(), Failure> {
    let Client { io, inbound, watch, body, .. } = client;
    strip_hop_by_hop(&mut trip.request.fields);
    let mut out = Outbound::take();
    h1::write_request(out.tail(), &trip.request, body, h1::Connection::Close);
    up.send(&mut out, &[]).await.map_err(|error| Failure::send(Side::Upstream, &error))?;
    let limits = Limits::default();
    let sink = |io, side, framing| Sink::H1(H1Sink::new(io, watch, side, framing, Outbound::take()));
    let (mut up_sink, mut down_sink) = (sink(up, Side::Upstream, *body), sink(io, Side::Downstream, Body::UntilClose));
    let mut from_client = Source::H1(H1Source::new(io, inbound, watch, Decoder::new(*body, &limits), Side::Downstream));
    let mut said = Inbound::default();
    let decoder = Decoder::new(Body::UntilClose, &limits);
    let mut from_server = Source::H1(H1Source::new(up, &mut said, watch, decoder, Side::Upstream));
    let facts = &mut trip.facts;
    let (status, sent, received) =
        (Cell::from_mut(&mut facts.status), Cell::from_mut(&mut facts.bytes_in), Cell::from_mut(&mut facts.bytes_out));
    let mut upload = pin!(carry(&mut from_client, &mut up_sink, sent));
    let mut download = pin!(async {
        while from_server.data().is_empty() && !from_server.advance()? && !from_server.is_done() {
            fill_unless_gone(&mut from_server, &mut down_sink).await?;
        }
        let digits = from_server.data().get(BEFORE_STATUS..BEFORE_STATUS + 3).unwrap_or_default();
        status.set(std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or_default());
        carry(&mut from_server, &mut down_sink, received).await
    });
    // Who has answered may not want the rest of the request any more.
    let mut uploaded = false;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = download.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        if !uploaded && let Poll::Ready(outcome) = upload.as_mut().poll(cx) {
            uploaded = true;
            if let Err(failure) = outcome
                && failure.side == Side::Downstream
            {
                return Poll::Ready(Err(failure));
            }
        }
        Poll::Pending
    })
    .await
}
