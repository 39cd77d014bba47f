//! The road of a request, as one list of verbs. This is the place to start reading.
//!
//! Before it, `accept.rs` has settled *accept*, *origin*, *secure* and *detect*, and an edge has settled *read*. Called
//! by the edges once per request, of HTTP/1.1 and HTTP/2 alike. What each verb decides is in the engine; how bytes move is
//! in the modules that the verbs call.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use transept_engine::admit::{admit, admit_to};
use transept_engine::exchange::{Connection, Now};
use transept_engine::judge::Terms;
use transept_engine::pick;
use transept_engine::reason::Reason;
use transept_engine::route::{Routed, route};
use transept_engine::rule::{Rule, WeightedBackend};
use transept_engine::screen::screen;
use transept_engine::snapshot::{Backend, Bind, Listener, Role, ServerTls, Snapshot};
use transept_engine::verdict::{Reply, Verdict};
use transept_wire::h1::Body;
use transept_wire::head::Request;
use transept_wire::normalize::authority;

use crate::attempt::{self, Crossing};
use crate::body::Source;
use crate::deadline::Watch;
use crate::edge::Replier;
use crate::edges::{Carried, Ride};
use crate::failure::{Failure, Repeat, Side};
use crate::recheck::Entrance;
use crate::trip::Trip;
use crate::worker::Worker;
use crate::{answer, callout, demand, mirror, normalize, record};

/// How much longer the time that a proxy in front gives is waited for than it says, and whoever is behind is told: so of proxies in a row the first gives up first, and everything
/// behind it with it. An answer that came just before would look like a failure of who gives it.
const GRACE: Duration = Duration::from_millis(5);

/// A request whose head has been read.
pub(crate) struct Arrival<'c> {
    pub connection: &'c Connection,
    /// The TLS settings under which the connection was made.
    pub handshake: Option<&'c Arc<ServerTls>>,
    /// The address that the worker listens on.
    pub bound: SocketAddr,
    pub watch: &'c Watch,
    /// The body, unread.
    pub body: Source<'c>,
    /// How the body was announced.
    pub framing: Body,
    /// The client waits for 100 before it sends the body (RFC 9110 section 10.1.1).
    pub expects_continue: bool,
}

impl<'c> Arrival<'c> {
    /// Where it came in.
    pub(crate) fn entrance<'e>(&'e self, worker: &'e Rc<Worker>, generation: u64) -> Entrance<'e> {
        Entrance::new(worker, self.connection, self.bound, generation)
    }
}

/// What the road settled, for the verbs after and for the record.
#[derive(Default)]
pub(crate) struct Marks<'s> {
    pub generation: u64,
    pub listener: Option<&'s Arc<Listener>>,
    pub rule: Option<&'s Arc<Rule>>,
    pub backend_ref: Option<&'s WeightedBackend>,
    pub backend: Option<&'s Arc<Backend>>,
    pub endpoint: Option<SocketAddr>,
    pub carried: Carried,
    /// What has counted it while it was open.
    pub ride: Option<&'s Ride>,
}

/// Why the road ended before the backend's response was delivered.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The configuration answers.
    Answer(Box<Reply>),
    /// Something broke.
    Failed(Failure),
}

impl From<Box<Reply>> for Stop {
    fn from(reply: Box<Reply>) -> Self {
        Stop::Answer(reply)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Stop::Answer(Box::new(Reply::new(reason)))
    }
}

/// One request on the road: what the verbs read and change.
pub(crate) struct Journey<'j, 'c, 's> {
    pub worker: &'j Rc<Worker>,
    pub arrival: &'j mut Arrival<'c>,
    pub trip: &'j mut Trip,
    pub marks: &'j mut Marks<'s>,
    pub replier: &'j mut Replier<'c>,
}

/// Carries one request from its head to the end of its response, whatever happens, and records it.
pub(crate) async fn travel<'c>(
    worker: &Rc<Worker>,
    mut arrival: Arrival<'c>,
    trip: &mut Trip,
    replier: &mut Replier<'c>,
) {
    let mut snapshot = worker.snapshot();
    let mut prepared = Ok(());
    if snapshot.bind_for(&arrival.bound, arrival.connection.local).is_some_and(|bind| bind.is_found_by_authority()) {
        prepared = Box::pin(demand::await_authority(worker, arrival.bound, &trip.request)).await;
        snapshot = worker.snapshot();
    }
    let mut marks = Marks { generation: snapshot.generation, ..Marks::default() };
    let _in_flight = InFlight::new(worker.clone());
    let mut journey = Journey { worker, arrival: &mut arrival, trip, marks: &mut marks, replier };
    let outcome = match snapshot.bind_for(&journey.arrival.bound, journey.arrival.connection.local) {
        Some(_) if let Err(reason) = prepared => Err(reason.into()),
        Some(bind) => road(&snapshot, bind, &mut journey).await,
        // A reload took the address away while the connection was open.
        None => Err(Reason::ListenerNotFound.into()),
    };
    match outcome {
        Ok(()) => {}
        Err(Stop::Answer(reply)) => Box::pin(answer::answer(&reply, &mut journey)).await,
        Err(Stop::Failed(failure)) => Box::pin(answer::fail(failure, &mut journey)).await,
    }
    trip.notes.settle_bodies(|| worker.clock.now().into(), trip.facts.bytes_in, trip.facts.bytes_out);
    record::record(worker, trip, &marks, arrival.connection);
    if !arrival.body.is_done() {
        Box::pin(drop_rest(&mut arrival, replier)).await;
    }
}

/// Reads what is left of a request body behind a response that came early, so that the connection can carry the next
/// request as the response has promised. A client that has much left to say, or is slow to say it, is left instead.
async fn drop_rest(arrival: &mut Arrival<'_>, replier: &mut Replier<'_>) {
    const MOST: usize = 256 * 1024;
    const PATIENCE: Duration = Duration::from_secs(5);
    arrival.watch.set(Some(PATIENCE));
    let mut dropped = 0;
    while replier.keeps_alive() && dropped <= MOST {
        let count = arrival.body.data().len();
        arrival.body.consume(count);
        dropped += count;
        match arrival.body.advance() {
            Ok(true) => continue,
            Ok(false) if arrival.body.is_done() => return,
            Ok(false) => {}
            Err(_) => break,
        }
        if arrival.body.fill().await.is_err() {
            break;
        }
    }
    replier.forbid_keep_alive();
}

/// The verbs from *normalize* on.
async fn road<'s>(snapshot: &'s Snapshot, bind: &'s Bind, journey: &mut Journey<'_, '_, 's>) -> Result<(), Stop> {
    let connection = journey.arrival.connection;
    normalize::supply_host(bind, connection, &mut journey.trip.request);
    let admitted = normalize::settle_host(journey.trip)
        .and_then(|()| Ok(admit_here(bind, connection, &journey.trip.request, &journey.trip.host)?));
    // A request that no listener takes has an id all the same.
    let settings = admitted.as_ref().map_or(&bind.settings, |listener| &listener.settings);
    normalize::introduce(journey.worker, connection, settings, journey.trip);
    let listener = admitted?;
    journey.marks.listener = Some(listener);
    if let Err(stop) = verify_handshake(listener, journey.arrival, journey.trip.now()) {
        journey.replier.dismiss();
        return Err(stop);
    }
    normalize::normalize(&listener.settings, journey.trip)?;
    let routed = route(listener, &journey.trip.request, &journey.trip.host);
    journey.marks.rule = routed.as_ref().map(|routed| routed.rule);
    if journey.trip.upgrade.is_some() || journey.marks.rule.is_some_and(|rule| rule.touches_request()) {
        journey.trip.keep_original();
    }
    screen_rule(listener, routed.as_ref(), journey).await?;
    snapshot.credentials.remove_sessions(&mut journey.trip.request);
    let Some(rule) = journey.marks.rule else {
        return Err(Reason::RouteNotFound.into());
    };
    refuse_large_body(&journey.arrival.framing, listener)?;
    mirror::send_copies(&rule.filters, listener, journey).await?;
    let backend_ref = pick::pick_backend(rule, &mut journey.worker.turns.borrow_mut())?;
    journey.marks.backend_ref = Some(backend_ref);
    if backend_ref.filters.touches_request() {
        journey.trip.keep_original();
    }
    screen_backend(backend_ref, listener, connection, journey.trip)?;
    mirror::send_copies(&backend_ref.filters, listener, journey).await?;
    let backend = pick::target(backend_ref).map_err(|reply| name_missing(bind.role, reply))?;
    journey.marks.backend = Some(backend);
    // A tunnel may stay open for as long as it likes; `tunnel.rs` times the way to it.
    let limit = if journey.trip.upgrade.is_some() { None } else { time_left(Some(rule), journey.trip) };
    if limit == Some(Duration::ZERO) {
        return Err(Stop::Failed(out_of_time(Some(rule), journey.trip)));
    }
    let due = limit.map(|limit| journey.trip.now().monotonic.saturating_add(limit));
    let terms = Terms::of(rule, backend).behind_others(&journey.trip.request);
    let crossing = Crossing { listener, rule, backend, terms, due, trial: None };
    let crossed = {
        let crossed = pin!(attempt::cross(crossing, journey));
        attempt::within(limit, crossed).await
    };
    crossed.unwrap_or_else(|| Err(Stop::Failed(out_of_time(Some(rule), journey.trip))))
}

/// The verb *admit*. Where one bind stands for all Services, the port of the authority counts too.
pub(crate) fn admit_here<'s>(
    bind: &'s Bind,
    connection: &Connection,
    request: &Request,
    host: &str,
) -> Result<&'s Arc<Listener>, Box<Reply>> {
    if !bind.is_found_by_authority() {
        return admit(bind, connection, host);
    }
    let port = authority(request.authority()).ok().and_then(|authority| authority.port);
    admit_to(bind, connection, host, port)
}

/// A program is told which of the services that it calls is not there. What is behind a gateway its clients need not know.
fn name_missing(role: Role, reply: Box<Reply>) -> Box<Reply> {
    match &reply.cause {
        Some(cause) if role == Role::Outbound => {
            let detail = cause.to_string();
            Box::new(reply.with_detail(detail))
        }
        _ => reply,
    }
}

/// A body that announces itself as too large is refused before it is read; one of unknown length is counted on its way.
fn refuse_large_body(framing: &Body, listener: &Listener) -> Result<(), Stop> {
    match (framing, listener.settings.limits.body_bytes) {
        (Body::Length(length), Some(most)) if *length > most => Err(Reason::BodyTooLarge.into()),
        _ => Ok(()),
    }
}

/// A connection whose client was verified, or not, by settings that a reload has replaced is not good for a listener
/// that asks for certificates, nor one in clear text for a listener with TLS, nor one whose client was verified by a certificate that has ended: the
/// client is told to come again (RFC 9110 section 15.5.20).
fn verify_handshake(listener: &Listener, arrival: &Arrival<'_>, now: Now) -> Result<(), Stop> {
    let again = |detail: &'static str| Box::new(Reply::new(Reason::Misdirected).with_detail(detail));
    if arrival.connection.tls.as_ref().is_some_and(|tls| tls.has_outlived_certificate(now.unix)) {
        return Err(again("The client's certificate has ended. Open a new connection.").into());
    }
    let is_good = match (listener.tls.as_ref(), arrival.handshake) {
        (Some(now), Some(then)) => {
            Arc::ptr_eq(now, then) || now.client_validation.is_none() || now.client_validation == then.client_validation
        }
        (Some(_), None) => false,
        (None, _) => true,
    };
    if is_good {
        return Ok(());
    }
    Err(again("The TLS settings have changed. Open a new connection.").into())
}

/// The verb *screen*: the policies in force and the rule's filters.
async fn screen_rule(
    listener: &Listener,
    routed: Option<&Routed<'_>>,
    journey: &mut Journey<'_, '_, '_>,
) -> Result<(), Stop> {
    loop {
        let (mut exchange, _) = journey.trip.exchange(journey.arrival.connection, listener.port);
        match screen(listener, routed, &mut exchange) {
            Verdict::Continue => return Ok(()),
            Verdict::Respond(reply) => return Err(Stop::Answer(reply)),
            Verdict::Call(callout) => {
                let rule = routed.map(|routed| &**routed.rule);
                Box::pin(callout::perform(*callout, listener, rule, journey)).await?;
            }
        }
    }
}

/// What is left of the time for the whole exchange, the rule's or the caller's: policies that ask somebody use it up too.
pub(crate) fn time_left(rule: Option<&Rule>, trip: &Trip) -> Option<Duration> {
    let limits = [request_time(rule), caller_time(trip)];
    limits.into_iter().flatten().min().map(|limit| limit.saturating_sub(trip.asked))
}

fn request_time(rule: Option<&Rule>) -> Option<Duration> {
    rule.and_then(|rule| rule.timeouts.request.or(None))
}

/// How long it is of use to the caller that the exchange goes on. The caller is the first to know when that is over, and to say so: what is
/// cut here in the same moment would look like a failure to him.
fn caller_time(trip: &Trip) -> Option<Duration> {
    let patience = trip.patience?;
    Some(if patience <= trip.asked { patience } else { patience.saturating_add(GRACE) })
}

/// The verb *screen* again, with the filters of the chosen backendRef.
fn screen_backend(
    backend: &WeightedBackend,
    listener: &Listener,
    connection: &Connection,
    trip: &mut Trip,
) -> Result<(), Stop> {
    let (mut exchange, _) = trip.exchange(connection, listener.port);
    match pick::apply_backend_filters(backend, &mut exchange) {
        Verdict::Continue => Ok(()),
        Verdict::Respond(reply) => Err(Stop::Answer(reply)),
        // Filters ask nobody.
        Verdict::Call(_) => Err(Reason::PolicyInvalid.into()),
    }
}

/// The route's time for the whole exchange is over.
pub(crate) fn timed_out() -> Failure {
    let detail = "the exchange exceeded the route's request timeout";
    Failure::new(Side::Upstream, Reason::RequestTimeout, Repeat::Never, detail)
}

/// The time for the whole exchange is over, whoever's it is.
pub(crate) fn out_of_time(rule: Option<&Rule>, trip: &Trip) -> Failure {
    match whose_time(rule, trip) {
        Whose::Route => timed_out(),
        Whose::Caller => {
            let detail = "the time is over that the caller gives the exchange";
            Failure::new(Side::Upstream, Reason::RequestDeadline, Repeat::Never, detail)
        }
    }
}

/// The time for the whole exchange has no room for another try, which would have followed.
pub(crate) fn no_time_to_retry(rule: &Rule, trip: &Trip) -> Failure {
    let (reason, detail) = match whose_time(Some(rule), trip) {
        Whose::Caller => (Reason::RequestDeadline, "the caller gives the exchange no time for another try"),
        Whose::Route => (Reason::RequestTimeout, "the route's request timeout leaves no time for another try"),
    };
    Failure::new(Side::Upstream, reason, Repeat::Never, detail)
}

/// Who gives an exchange the least time.
enum Whose {
    Caller,
    Route,
}

fn whose_time(rule: Option<&Rule>, trip: &Trip) -> Whose {
    match (caller_time(trip), request_time(rule)) {
        (Some(patience), limit) if limit.is_none_or(|limit| patience < limit) => Whose::Caller,
        _ => Whose::Route,
    }
}

/// Counts an exchange as active while it is on the road.
struct InFlight(Rc<Worker>);

impl InFlight {
    fn new(worker: Rc<Worker>) -> Self {
        worker.exchanges.set(worker.exchanges.get() + 1);
        Self(worker)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.exchanges.set(self.0.exchanges.get() - 1);
    }
}
