//! Connections to members of the mesh: CONNECT over mutual TLS to the proxy beside the endpoint (HBONE).
//!
//! Called by `dial.rs` for endpoints that have a tunnel. Many tunnels share one connection between two identities; what goes
//! through a tunnel is the caller's.

use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use transept_engine::reason::Reason;
use transept_engine::snapshot::Tunnel as Passage;
use transept_engine::trace::traceparent;
use transept_identity::Purpose;
use transept_wire::h1::Body;
use transept_wire::h2::head::{Connect, HeadLimits, Underscore};
use transept_wire::h2::{self, Config};
use transept_wire::head::{FieldId, FieldName, Method, Request, Response};

use super::connect::Destination;
use super::dial::{failed, handshake_failed, keep_alive, open, refused};
use super::pool::{Dialling, H2Lease, PoolKey};
use crate::buffer::Inbound;
use crate::deadline::SWEEP;
use crate::failure::{Failure, Repeat, Side};
use crate::h2::{Driver, Link, Patience, TUNNEL_GROWTH, TUNNEL_WINDOW};
use crate::io::{Io, TlsSession, Tunnel};
use crate::mesh::OUTSIDE;
use crate::recheck::Ending;
use crate::worker::Worker;

/// What the other end may send in all tunnels together before it has heard that it came.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// The largest frame of them.
const DATA_FRAME: u32 = 1024 * 1024;

/// Tunnels on one connection, also where its peer takes more: another one shares what the window and a lost packet hold up.
const MOST_TUNNELS: usize = 100;

/// Silence after which the kernel asks whether the other end is there, and the time between two of its nine questions. HTTP/2 asks by PING besides, and sooner.
const KEEPALIVE: Duration = Duration::from_secs(180);

/// The part of a pool's key that says "a tunnel of the mesh"; configurations of TLS are numbered from 1.
const MESH: u64 = u64::MAX;

/// What an answer to CONNECT may take.
const HEADS: HeadLimits =
    HeadLimits { bytes: 16 * 1024, fields: 64, connect: Connect::Refused, underscore: Underscore::Drop };

static FORWARDED: FieldName = FieldName::known(FieldId::FORWARDED);
static BAGGAGE: FieldName = FieldName::known(FieldId::BAGGAGE);
static TRACEPARENT: FieldName = FieldName::known(FieldId::TRACEPARENT);

/// What makes two tunnels to an endpoint interchangeable.
pub(super) fn key_of(worker: &Worker, passage: &Passage) -> (u64, u64) {
    (MESH, worker.hasher.hash_one((&passage.identity, passage.address)))
}

/// Opens a tunnel to an endpoint.
///
/// # Errors
/// A failure with `Repeat::Safe`: nothing has reached the endpoint.
pub(super) async fn open_tunnel(
    worker: &Rc<Worker>,
    passage: &Passage,
    destination: &Destination<'_>,
) -> Result<Io, Failure> {
    let mut lease = lease(worker, passage, destination.backend.connect_timeout).await?;
    let (target, backend) = (destination.endpoint.address, destination.backend);
    let membership = worker.shared.mesh.as_ref();
    let request = ask_for(&Errand {
        target,
        client: destination.client,
        service: (backend.service(), &backend.id.namespace),
        baggage: membership.and_then(|membership| membership.baggage()),
        random: worker.random(),
    });
    lease.open(&request, &Body::UntilClose).map_err(|cut| Failure::h2_response(&cut))?;
    let Some(stream) = lease.take_stream() else {
        return Err(failed(Reason::UpstreamReset, "the tunnel was not opened"));
    };
    let mut response = Response::new(0);
    std::future::poll_fn(|cx| stream.poll_head(cx, &mut response))
        .await
        .map_err(|cut| Failure { repeat: Repeat::Safe, ..Failure::h2_response(&cut) })?;
    match response.status {
        200 => Ok(Io::Tunnel(Box::new(Tunnel::opened(stream, lease)))),
        401 | 403 => {
            let detail = format!("the proxy of {target} ({}) denies us", passage.identity);
            Err(Failure::new(Side::Upstream, Reason::MeshDenied, Repeat::Never, detail))
        }
        status => {
            let detail = format!("the proxy of {target} answers {status} to CONNECT");
            Err(failed(Reason::UpstreamRefused, detail))
        }
    }
}

/// What a request for a tunnel says.
struct Errand<'e> {
    /// Where it leads.
    target: SocketAddr,
    /// For whom it is; none when it is for several, one after the other.
    client: Option<IpAddr>,
    /// The name and the namespace of the Service that is meant.
    service: (&'e str, &'e str),
    /// Who we are.
    baggage: Option<String>,
    random: u64,
}

/// The request for a tunnel, with what other proxies of such meshes look for in it: who is behind it (`for`) and which Service is meant (`by`,
/// after RFC 7239, as ztunnel writes it), who we are, and a trace for the connection.
fn ask_for(errand: &Errand<'_>) -> Request {
    let mut request = Request::new();
    request.method = Method::Connect;
    // An address and a port are a valid authority; names and identities hold nothing that a value may not.
    let _ = request.set_authority(errand.target.to_string().as_bytes());
    let client = match errand.client {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    };
    let (service, namespace) = errand.service;
    let forwarded = format!("for={client};by={service}.{namespace}.svc.cluster.local");
    let _ = request.fields.set(&FORWARDED, forwarded.as_bytes());
    if let Some(baggage) = &errand.baggage {
        let _ = request.fields.set(&BAGGAGE, baggage.as_bytes());
    }
    let _ = request.fields.set(&TRACEPARENT, &traceparent(errand.random));
    request
}

/// A place on the connection to the proxy of an endpoint. Only one of those who wait dials. `greeting`: how long its SETTINGS may take.
async fn lease(worker: &Rc<Worker>, passage: &Passage, greeting: Duration) -> Result<H2Lease, Failure> {
    let key = PoolKey { address: passage.address, tls: key_of(worker, passage), h2: true };
    loop {
        if let Some(lease) = worker.pool.share(&key, None, 0) {
            return Ok(lease);
        }
        match worker.pool.await_dialled(key) {
            None => break,
            Some(waiting) => waiting.outcome().await?,
        }
    }
    // Given up half-way, this tells those who wait to try for themselves.
    let attempt = Dialling::new(&worker.pool, key);
    let added = dial(worker, passage).await.and_then(|(io, chain)| add(worker, key, io, chain, greeting));
    added.inspect_err(|failure| attempt.failed(failure))
}

async fn dial(worker: &Rc<Worker>, passage: &Passage) -> Result<(Io, Vec<CertificateDer<'static>>), Failure> {
    let Some(membership) = worker.shared.mesh.as_ref() else {
        // Another endpoint may be outside the mesh as well.
        return Err(failed(Reason::MeshNoTunnel, format!("{} is called in tunnels only; {OUTSIDE}", passage.identity)));
    };
    let config = membership.client(&passage.identity).map_err(|why| failed(Reason::UpstreamTls, why))?;
    let tcp: TcpStream = open(passage.address).await.map_err(|error| refused(&error))?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(9);
    keep_alive(&tcp, &keepalive).map_err(|error| refused(&error))?;
    // The name is never sent: the identity is what counts.
    let name = ServerName::IpAddress(passage.address.ip().into());
    let connection =
        rustls::ClientConnection::new(config, name).map_err(|error| failed(Reason::UpstreamTls, error.to_string()))?;
    let session = TlsSession::new(connection.into(), Inbound::default());
    session.shake_hands(&tcp).await.map_err(|error| handshake_failed(&error))?;
    if session.with(|connection| connection.alpn_protocol() != Some(b"h2")) {
        return Err(failed(Reason::UpstreamTls, "the proxy of the endpoint does not offer tunnels"));
    }
    let chain = session.with(|connection| {
        let chain = connection.peer_certificates().unwrap_or_default();
        chain.iter().map(|certificate| certificate.clone().into_owned()).collect()
    });
    Ok((Io::secured(tcp, Box::new(session)), chain))
}

/// Puts a connection into the pool, drives it from then on, and takes its first place.
///
/// # Errors
/// When the roots have changed since the handshake, and do not vouch for the other end any more.
fn add(
    worker: &Rc<Worker>,
    key: PoolKey,
    io: Io,
    chain: Vec<CertificateDer<'static>>,
    greeting: Duration,
) -> Result<H2Lease, Failure> {
    let now = worker.clock.now().unix;
    let membership = worker.shared.mesh.as_ref();
    let standing = membership.and_then(|mesh| worker.standings.add_member(mesh, chain, Purpose::Server, now));
    let Some(standing) = standing else {
        return Err(failed(Reason::UpstreamTls, "no root vouches any more for the proxy of the endpoint"));
    };
    let config = Config {
        stream_window: TUNNEL_WINDOW,
        growth: TUNNEL_GROWTH,
        connection_window: CONNECTION_WINDOW,
        data_frame: DATA_FRAME,
        max_streams: 0,
        heads: HEADS,
    };
    let link = Link::new(h2::Connection::client(config));
    link.limit_streams(MOST_TUNNELS);
    let patience = Patience { head: Some(greeting + SWEEP), stall: Some(Duration::from_secs(60)), idle: None };
    let mut driver = Driver::new(link.clone(), io, Inbound::default(), worker.watches.add(), patience);
    // It is shared by Services; what is counted are the tunnels in it.
    let lease = worker.pool.add_carrier(key, link);
    let mut ending = Ending::default();
    tokio::task::spawn_local(async move {
        let over = std::future::poll_fn(|cx| {
            if let Poll::Ready(over) = ending.poll(&standing, &mut driver, cx) {
                return Poll::Ready(over);
            }
            driver.poll_turn(cx, &mut |_| {})
        })
        .await;
        tracing::debug!(why = %over.0, "a connection of the mesh ended");
        driver.close(over).await;
    });
    Ok(lease)
}

#[cfg(test)]
mod tests {
    use transept_engine::trace::is_traceparent;

    use super::*;

    #[test]
    fn a_request_for_a_tunnel_says_for_whom_it_is_and_by_whom() {
        let asked = |client: Option<IpAddr>, baggage: Option<&str>| {
            let target = SocketAddr::from(([10, 0, 0, 7], 8080));
            let baggage = baggage.map(str::to_owned);
            let request = ask_for(&Errand { target, client, service: ("cart", "shop"), baggage, random: 7 });
            assert_eq!((request.method, request.authority()), (Method::Connect, &b"10.0.0.7:8080"[..]));
            assert!(request.fields.first(FieldId::TRACEPARENT).is_some_and(is_traceparent));
            let said = |id| request.fields.first(id).map(|value| String::from_utf8_lossy(value).into_owned());
            (said(FieldId::FORWARDED).expect("always"), said(FieldId::BAGGAGE))
        };
        let by = "by=cart.shop.svc.cluster.local";
        let known = asked(Some([10, 0, 0, 1].into()), Some("service.name=web"));
        assert_eq!(known, (format!("for=10.0.0.1;{by}"), Some("service.name=web".to_owned())));
        assert_eq!(asked(None, None), (format!("for=unknown;{by}"), None));
        let six = "2001:db8::1".parse().ok();
        assert_eq!(asked(six, None).0, format!("for=\"[2001:db8::1]\";{by}"));
    }
}
