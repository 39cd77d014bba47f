//! The road of a connection that is not HTTP: one decision, one connection to an endpoint, bytes both ways.
//!
//! Called by `edge/hbone.rs` for what comes out of tunnels and by `detect.rs` on the way out of a workload and on TCP listeners. The verbs are those of a
//! request, without heads: admit, pick, connect, splice, record. The bytes are not looked at.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use smallvec::SmallVec;
use transept_engine::admit::admit_stream;
use transept_engine::exchange::Connection;
use transept_engine::judge::{Attempt, Judgement, Outcome, Repeat as Repeatable, Resend, Terms, begin, judge};
use transept_engine::pick::{self, Call, Chosen, pick_endpoint};
use transept_engine::reason::Reason;
use transept_engine::rule::Rule;
use transept_engine::snapshot::{Backend, Listener, Role, Speaks, UpstreamProtocol};
use transept_engine::traffic::Permit;
use transept_wire::h1::{Body, Decoder, Limits};
use transept_wire::head::{Method, Version};

use crate::body::{H1Sink, H1Source, Sink, Source, carry};
use crate::buffer::{Inbound, Outbound};
use crate::deadline::Watch;
use crate::edges::{Carried, Ride};
use crate::failure::{Failure, Repeat, Side};
use crate::io::Io;
use crate::mesh::advise;
use crate::path::{Marks, Stop};
use crate::recheck::{REQUESTS_ONLY, Standing};
use crate::record::record;
use crate::resolve::await_names;
use crate::trial::Carriage;
use crate::trip::Trip;
use crate::tunnel::join;
use crate::upstream::{Destination, Pooled, connect_stream, open};
use crate::worker::Worker;

/// How long a connection to somebody outside the mesh may take to be established.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection of one client with what is known about it.
pub(crate) struct Passenger<'p> {
    pub connection: &'p Connection,
    pub listener: &'p Arc<Listener>,
    pub rule: &'p Arc<Rule>,
    pub generation: u64,
}

/// A connection to an endpoint, and which one it is.
pub(crate) struct Landing {
    pub io: Io,
    pub endpoint: SocketAddr,
    pub backend: Arc<Backend>,
    /// What the program has said already.
    pub said: Inbound,
    /// What it is counted by, where connections are limited.
    pub permit: Option<Permit>,
    carriage: Carriage,
    /// Of a connection that was made in case that it is needed: whom its endpoint's record is to hear of when it is.
    unproven: Option<Chosen>,
}

/// What a connection to an endpoint is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be used.
    Use,
    /// In case that the program speaks first. That it can be made is no success yet: a request may follow that goes elsewhere, or fails.
    Case,
}

/// Connects a client that has been let in to an endpoint.
///
/// # Errors
/// The reply of the configuration, or the failure of the last try.
pub(crate) async fn land(
    worker: &Rc<Worker>,
    passenger: &Passenger<'_>,
    purpose: Purpose,
    trip: &mut Trip,
) -> Result<Landing, Stop> {
    let backend_ref = pick::pick_backend(passenger.rule, &mut worker.turns.borrow_mut())?;
    let backend = pick::target(backend_ref)?;
    trip.facts.backend = Some(backend.clone());
    let hash = pick::hash_stream(backend, passenger.connection.peer.ip());
    let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
    await_names(&worker.shared, backend).await;
    begin(Terms::Unasked, &mut worker.turns.borrow_mut(), trip.now());
    loop {
        let chosen = {
            let now = worker.clock.now().into();
            let call = Call { now, random: trip.random, hash, tried: &tried, answered: false };
            pick_endpoint(backend, &mut worker.turns.borrow_mut(), &call)
                .map_err(|reply| advise(worker.shared.mesh.as_ref(), reply))?
        };
        trip.facts.tries += 1;
        let destination = Destination {
            backend,
            endpoint: &chosen,
            pooled: Pooled::Unwanted,
            protocol: UpstreamProtocol::Opaque,
            identity: passenger.listener.client_identity.as_ref(),
            client: Some(passenger.connection.peer.ip()),
            queued: None,
        };
        let carriage = Carriage::new(worker.clone(), chosen.address);
        let connected = connect_stream(worker, &destination).await;
        match (&connected, purpose) {
            (Ok(_), Purpose::Case) => carriage.leave_open(backend, &chosen),
            _ => carriage.note(backend, &chosen, connected.as_ref().err()),
        }
        match connected {
            Ok((io, permit)) => {
                let (backend, endpoint, said) = (backend.clone(), chosen.address, Inbound::default());
                let unproven = (purpose == Purpose::Case).then_some(chosen);
                return Ok(Landing { io, endpoint, backend, said, permit, carriage, unproven });
            }
            Err(failure) => {
                tried.push(chosen.address);
                let final_word = matches!(failure.reason, Reason::MeshDenied | Reason::BackendOverflow);
                if final_word || !may_try_again(worker, backend, &tried, trip.random).await {
                    return Err(failure.into());
                }
                if let Some(edges) = worker.edges.as_ref().filter(|_| passenger.listener.settings.role != Role::Inbound)
                {
                    edges.borrow_mut().retried(backend, chosen.address);
                }
            }
        }
    }
}

/// Whether another endpoint is tried after one that could not be reached, once the budget of retries has room for it.
async fn may_try_again(worker: &Worker, backend: &Backend, tried: &[SocketAddr], random: u64) -> bool {
    let mut waits = 0;
    loop {
        let judgement = {
            let (now, mut turns) = (worker.clock.now().into(), worker.turns.borrow_mut());
            let attempt = Attempt {
                tries: u32::try_from(tried.len()).unwrap_or(u32::MAX),
                outcome: Outcome::Unreachable,
                repeat: Repeatable::Harmless,
                resend: Resend::Possible,
                alternatives: pick::alternatives(backend, tried, false),
                hope: turns.has_hope(backend, tried, now),
                waits,
                left: None,
                usual: None,
                wished: None,
            };
            judge(Terms::Unasked, &attempt, &mut turns, now, random)
        };
        match judgement {
            Judgement::Retry { .. } => return true,
            Judgement::Deliver | Judgement::Late => return false,
            Judgement::Wait { after } => tokio::time::sleep(after).await,
        }
        waits += 1;
    }
}

/// Moves bytes both ways until both directions have ended or one breaks. An end is passed on, a break is not: it is the caller's to break off both.
pub(crate) async fn splice(
    down: (&Io, &mut Inbound),
    up: (&Io, &mut Inbound),
    watch: &Watch,
    trip: &mut Trip,
    ride: Option<&Ride>,
) -> Result<(), Failure> {
    let limits = Limits::default();
    let to = |io, side| Sink::H1(H1Sink::new(io, watch, side, Body::UntilClose, Outbound::take()));
    let (mut up_sink, mut down_sink) = (to(up.0, Side::Upstream), to(down.0, Side::Downstream));
    let decoder = || Decoder::new(Body::UntilClose, &limits);
    let (up_io, down_io) = (up.0, down.0);
    let mut from_client = Source::H1(H1Source::new(down.0, down.1, watch, decoder(), Side::Downstream));
    let mut from_server = Source::H1(H1Source::new(up.0, up.1, watch, decoder(), Side::Upstream));
    let facts = &mut trip.facts;
    let (sent, received) = (Cell::from_mut(&mut facts.bytes_in), Cell::from_mut(&mut facts.bytes_out));
    let upload = pin!(async {
        carry(&mut from_client, &mut up_sink, sent).await?;
        up_io.shut_down_writing();
        Ok(())
    });
    let download = pin!(async {
        carry(&mut from_server, &mut down_sink, received).await?;
        down_io.shut_down_writing();
        Ok(())
    });
    let mut carried = pin!(join(upload, download));
    std::future::poll_fn(|cx| {
        let polled = carried.as_mut().poll(cx);
        if let Some(ride) = ride {
            ride.note(sent.get(), received.get());
        }
        polled
    })
    .await
}

/// Carries a connection from its first byte to its last, and records it.
pub(crate) async fn travel(
    worker: &Rc<Worker>,
    passenger: &Passenger<'_>,
    io: &Io,
    inbound: &mut Inbound,
    landing: Option<Landing>,
    watch: &Watch,
    standing: Option<&Standing>,
) {
    let mut trip = worker.take_trip();
    board(worker, passenger.connection, &mut trip);
    let landed = match landing {
        Some(landing) => Ok(landing),
        None => match admit_stream(passenger.listener, passenger.connection) {
            Ok(()) => land(worker, passenger, Purpose::Use, &mut trip).await,
            Err(reply) => Err(Stop::Answer(reply)),
        },
    };
    let (mut endpoint, mut ride) = (None, None);
    let outcome = match landed {
        Ok(landing) => {
            endpoint = Some(landing.endpoint);
            if let Some(chosen) = &landing.unproven {
                landing.carriage.note(&landing.backend, chosen, None);
            }
            ride = worker.edges.as_ref().map(|edges| {
                let Passenger { connection, listener, .. } = passenger;
                edges.borrow_mut().begin(listener, connection, &landing.backend, landing.endpoint)
            });
            trip.facts.backend = Some(landing.backend.clone());
            watch.set_stall(passenger.listener.settings.timeouts.stream_idle);
            let mut rest = landing.said;
            let mut carried = pin!(splice((io, inbound), (&landing.io, &mut rest), watch, &mut trip, ride.as_deref()));
            if let (None, Some(standing)) = (landing.io.carrier(), standing) {
                standing.note_without_tunnel(&worker.snapshot(), &landing.backend);
            }
            let spliced = std::future::poll_fn(|cx| match standing {
                Some(standing) if standing.poll_ended(cx).is_ready() => Poll::Ready(Err(standing.failure())),
                _ => carried.as_mut().poll(cx),
            })
            .await;
            if spliced.is_err() {
                landing.io.abort_on_drop();
            }
            spliced.map_err(Stop::Failed)
        }
        Err(stop) => Err(stop),
    };
    if let Err(stop) = outcome {
        if is_refusal(&stop) {
            io.refuse();
        }
        // A client must not take the part that it got for the whole.
        io.abort_on_drop();
        note(&stop, &mut trip);
    }
    finish(worker, passenger, &trip, endpoint, ride.as_deref());
    worker.give_back(trip);
}

/// Whether a policy does not let a connection pass, rather than that nobody takes it.
fn is_refusal(stop: &Stop) -> bool {
    match stop {
        Stop::Answer(reply) => reply.status == 403 || reply.reason == Reason::PolicyInvalid,
        Stop::Failed(failure) => failure.reason == Reason::NotAuthorized,
    }
}

/// Closes a connection that no route is there for, or that came before its port was for requests alone, and records it.
pub(crate) fn turn_away(worker: &Worker, connection: &Connection, listener: &Arc<Listener>, generation: u64, io: &Io) {
    let mut trip = worker.take_trip();
    board(worker, connection, &mut trip);
    io.abort_on_drop();
    let stop = match listener.speaks {
        Speaks::Http => Failure::new(Side::Downstream, Reason::NotAuthorized, Repeat::Never, REQUESTS_ONLY).into(),
        Speaks::Detect | Speaks::Opaque => Reason::RouteNotFound.into(),
    };
    note(&stop, &mut trip);
    let marks = Marks { generation, listener: Some(listener), ..Marks::default() };
    record(worker, &trip, &marks, connection);
    worker.give_back(trip);
}

/// Carries a captured connection to where it was going: to somebody outside the mesh.
pub(crate) async fn pass_through(
    worker: &Rc<Worker>,
    connection: &Connection,
    destination: SocketAddr,
    io: &Io,
    watch: &Watch,
    standing: &Standing,
) {
    let mut trip = worker.take_trip();
    board(worker, connection, &mut trip);
    let dialled = tokio::time::timeout(CONNECT, open(destination)).await;
    let outcome = match dialled {
        Ok(Ok(tcp)) => {
            let up = Io::plain(tcp);
            let (down, mut rest) = ((io, &mut Inbound::default()), Inbound::default());
            let mut carried = pin!(splice(down, (&up, &mut rest), watch, &mut trip, None));
            let spliced = std::future::poll_fn(|cx| match standing.poll_ended(cx) {
                Poll::Ready(()) => Poll::Ready(Err(standing.failure())),
                Poll::Pending => carried.as_mut().poll(cx),
            })
            .await;
            if spliced.is_err() {
                up.abort_on_drop();
            }
            spliced
        }
        Ok(Err(error)) => Err(Failure::new(Side::Upstream, Reason::UpstreamRefused, Repeat::Never, error.to_string())),
        Err(_) => {
            let detail = "the connection was not established in time";
            Err(Failure::new(Side::Upstream, Reason::UpstreamConnectTimeout, Repeat::Never, detail))
        }
    };
    if let Err(failure) = outcome {
        io.abort_on_drop();
        note(&Stop::Failed(failure), &mut trip);
    }
    record(worker, &trip, &Marks { endpoint: Some(destination), ..Marks::default() }, connection);
    worker.give_back(trip);
}

/// Begins the record of a connection.
pub(crate) fn board(worker: &Worker, connection: &Connection, trip: &mut Trip) {
    trip.started = worker.clock.now();
    trip.random = worker.random();
    trip.client = connection.peer.ip();
    trip.request.clear();
    trip.request.version = Version::Http11;
    // There is no method; the log says that a connection was made.
    trip.request.method = Method::Connect;
    trip.facts.status = 200;
    if let Some(destination) = connection.destination {
        trip.host = destination.to_string();
    }
}

/// Notes why a connection did not come to its regular end.
pub(crate) fn note(stop: &Stop, trip: &mut Trip) {
    let (reason, status, detail) = match stop {
        Stop::Answer(reply) => {
            let cause = reply.cause.as_ref().map(|cause| cause.to_string().into());
            (reply.reason, reply.status, cause.unwrap_or_else(|| reply.detail.clone()))
        }
        Stop::Failed(failure) => (failure.reason, failure.reason.status(), failure.detail.clone()),
    };
    trip.facts.error = Some(reason);
    trip.facts.status = status;
    trip.facts.detail = detail;
}

/// Ends the record of a connection.
pub(crate) fn finish(
    worker: &Worker,
    passenger: &Passenger<'_>,
    trip: &Trip,
    endpoint: Option<SocketAddr>,
    ride: Option<&Ride>,
) {
    let marks = Marks {
        generation: passenger.generation,
        listener: Some(passenger.listener),
        rule: Some(passenger.rule),
        backend: trip.facts.backend.as_ref(),
        endpoint,
        carried: Carried::Connection,
        ride,
        ..Marks::default()
    };
    record(worker, trip, &marks, passenger.connection);
}
