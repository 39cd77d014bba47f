//! From *pick* (the endpoint) to *judge* and back: one or several tries, until one is delivered.
//!
//! Called by `path.rs` when the backend is known. Each verb is a module of its own: `upstream/connect.rs`, `forward.rs`,
//! `judge.rs`, `relay.rs`. A request whose body is here, or that has none, can be tried again; one whose body streams moves both ways at
//! once, and can be as long as all that was sent of it is remembered.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use smallvec::SmallVec;
use transept_engine::hops;
use transept_engine::judge::{self, Judgement, Outcome, Resend, Terms};
use transept_engine::pick::{self, Call, Chosen, pick_endpoint};
use transept_engine::reason::Reason;
use transept_engine::rule::Rule;
use transept_engine::snapshot::{Backend, Listener, Role, UpstreamProtocol};
use transept_wire::h1::Body;
use transept_wire::head::{Request, Response, Version};

use crate::body::Source;
use crate::failure::{Failure, Repeat, Side};
use crate::forward::{forward_held, forward_streaming};
use crate::judge::{judge_failure, may_be_stale};
use crate::mesh::advise;
use crate::path::{Journey, Stop, no_time_to_retry};
use crate::recheck::Entrance;
use crate::relay::unless_gone;
use crate::resolve::await_names;
use crate::trial::{self, Trial};
use crate::tunnel;
use crate::upstream::{Destination, Pooled, Replacing, Used, connect, no_room};

/// Bodies up to this size are read before the first try when the request may be tried again. Of one that streams as much is remembered where
/// a backend may refuse it late.
const HELD: usize = 64 * 1024;

/// What stays the same over all tries.
#[derive(Clone, Copy)]
pub(crate) struct Crossing<'s> {
    pub listener: &'s Listener,
    pub rule: &'s Rule,
    pub backend: &'s Backend,
    /// What is tried again.
    pub terms: Terms<'s>,
    /// When the time for the whole exchange is over, on the worker's clock.
    pub due: Option<Duration>,
    /// The try under way.
    pub trial: Option<&'s Trial<'s>>,
}

impl Crossing<'_> {
    /// How long one try may take.
    pub(crate) fn try_timeout(&self) -> Option<Duration> {
        judge::try_timeout(self.rule, self.backend)
    }

    /// Whether an answer may be a reason to send the request again.
    pub(crate) fn may_repeat(&self, request: &Request) -> bool {
        self.terms.asks() && self.terms.repeat(request) == judge::Repeat::Harmless
    }

    /// A response head has come.
    pub(crate) fn heard(&self, response: &Response) {
        if let Some(trial) = self.trial {
            trial.heard(judge::effective_status(response));
        }
    }
}

/// What a try can be repeated with.
#[derive(Clone, Copy)]
pub(crate) enum Content<'h> {
    /// All of it is here.
    Held(&'h [u8]),
    /// It streams.
    Streaming,
}

/// A try that did not fail.
pub(crate) enum Tried {
    /// The client has the response.
    Delivered,
    /// The response is dropped and the request tried again after this time.
    Again(Duration),
}

/// A try that failed.
struct Failed {
    failure: Failure,
    /// The connection; none when there was none, and so no byte of the request was sent.
    used: Option<Used>,
}

/// What has been tried, the try under way included.
pub(crate) struct Tries {
    pub endpoints: SmallVec<[SocketAddr; 4]>,
    pub replacing: Replacing,
    /// How often the request has waited for room in the budget since the last of them.
    pub waits: u32,
    /// Whether the last of them is silent, and whether one before it has answered that is not.
    pub silent: bool,
    pub answered: bool,
}

impl Tries {
    /// Whether somebody who is not silent has answered, when this became of the last try.
    pub(crate) fn is_answered(&self, outcome: Outcome) -> bool {
        self.answered || !self.silent && matches!(outcome, Outcome::Status(_))
    }
}

/// Runs `future`, for at most `limit`. None when the time is over. Takes a pinned reference, because an async function
/// stores what it takes by value twice, and these futures are most of a connection's memory.
pub(crate) async fn within<F: Future>(limit: Option<Duration>, future: Pin<&mut F>) -> Option<F::Output> {
    match limit {
        None => Some(future.await),
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
    }
}

/// As [`within`], for one try of a rule with a `backendRequest` timeout, or to a backend with one of its own.
pub(crate) async fn within_try<T>(
    crossing: Crossing<'_>,
    future: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Result<T, Failure> {
    let outcome = within(crossing.try_timeout(), future).await;
    outcome.unwrap_or_else(|| Err(try_timeout()))
}

/// Tries until a response is delivered, or until another try would be wrong.
pub(crate) async fn cross(crossing: Crossing<'_>, journey: &mut Journey<'_, '_, '_>) -> Result<(), Stop> {
    let settings = &crossing.listener.settings;
    let terms = crossing.terms;
    journey.arrival.watch.set_stall(settings.timeouts.stream_idle);
    let mut memory = Vec::new();
    let content = hold(terms, journey, &mut memory).await?;
    // Only now: who is slow to send a body takes up nothing of what the backend may have under way.
    let _permit = trial::admit(crossing.backend)?;
    judge::begin(terms, &mut journey.worker.turns.borrow_mut(), journey.trip.now());
    let hash = pick::hash(crossing.backend, &journey.trip.request, journey.trip.client);
    if crossing.backend.awaits_names() {
        let waiting = pin!(async {
            await_names(&journey.worker.shared, crossing.backend).await;
            Ok(())
        });
        unless_gone(waiting, journey.replier).await?;
    }
    let (endpoints, replacing) = (SmallVec::new(), Replacing::default());
    let mut tries = Tries { endpoints, replacing, waits: 0, silent: false, answered: false };
    loop {
        let now = journey.worker.clock.now().into();
        let call = Call { now, random: journey.trip.random, hash, tried: &tries.endpoints, answered: tries.answered };
        let chosen = choose(crossing, &call, journey)?;
        tries.endpoints.push(chosen.address);
        tries.silent = chosen.silent;
        let trial = Trial::new(journey.worker.clone(), crossing, &chosen, journey.trip, now);
        let crossing = Crossing { trial: Some(&trial), ..crossing };
        let pause = match try_once(crossing, &chosen, &tries, content, journey).await {
            Ok(Tried::Delivered) => return Ok(()),
            Ok(Tried::Again(after)) => {
                tries.answered |= !chosen.silent;
                after
            }
            Err(Failed { failure, .. }) if journey.replier.begun() => {
                trial.failed(&failure);
                return Err(failure.into());
            }
            Err(Failed { failure, used: Some(used) })
                if tries.replacing.may_follow(used) && may_be_stale(used, &failure, content, terms, journey) =>
            {
                tries.endpoints.pop();
                tries.replacing.follow(used, journey.worker);
                continue;
            }
            Err(Failed { failure, used }) => {
                trial.failed(&failure);
                let resend = match content {
                    Content::Streaming if used.is_some() && !journey.arrival.body.can_begin_again() => {
                        Resend::Impossible
                    }
                    _ => Resend::Possible,
                };
                match Box::pin(await_judgement(crossing, &mut tries, resend, &failure, journey)).await? {
                    Some(after) => after,
                    None => return Err(failure.into()),
                }
            }
        };
        count_retry(&crossing, chosen.address, journey);
        drop(trial);
        if !pause.is_zero() {
            Box::pin(rest(pause, journey)).await?;
        }
    }
}

/// Chooses the endpoint of the next try, and says on the request how long it may take.
fn choose(crossing: Crossing<'_>, call: &Call<'_>, journey: &mut Journey<'_, '_, '_>) -> Result<Chosen, Stop> {
    let picked = pick_endpoint(crossing.backend, &mut journey.worker.turns.borrow_mut(), call);
    let chosen = picked.map_err(|reply| advise(journey.worker.shared.mesh.as_ref(), reply))?;
    journey.marks.endpoint = Some(chosen.address);
    journey.trip.facts.tries += 1;
    if crossing.listener.settings.role == Role::Gateway {
        // Always, where it is for the proxies of the mesh: filters may have changed what else tells of him.
        let client = chosen.tunnel.is_some().then_some(journey.trip.client);
        hops::tell_client(&mut journey.trip.request, client);
    }
    if let Some(due) = crossing.due {
        hops::tell_timeout(&mut journey.trip.request, due.saturating_sub(call.now.monotonic));
    }
    Ok(chosen)
}

/// Decides whether the request is sent again after a failure, and after which time, once the budget has room for it.
async fn await_judgement(
    crossing: Crossing<'_>,
    tries: &mut Tries,
    resend: Resend,
    failure: &Failure,
    journey: &mut Journey<'_, '_, '_>,
) -> Result<Option<Duration>, Failure> {
    tries.waits = 0;
    loop {
        match judge_failure(crossing, tries, resend, failure, journey) {
            Judgement::Retry { after } => return Ok(Some(after)),
            Judgement::Deliver => return Ok(None),
            Judgement::Late => return Err(no_time_to_retry(crossing.rule, journey.trip)),
            Judgement::Wait { after } => rest(after, journey).await?,
        }
        tries.waits += 1;
    }
}

/// Does nothing for a while, unless the client goes away.
async fn rest(pause: Duration, journey: &mut Journey<'_, '_, '_>) -> Result<(), Failure> {
    let waiting = pin!(async {
        tokio::time::sleep(pause).await;
        Ok(())
    });
    unless_gone(waiting, journey.replier).await
}

/// Counts that a request is sent again after it failed at an endpoint, and tells those behind.
fn count_retry(crossing: &Crossing<'_>, endpoint: SocketAddr, journey: &mut Journey<'_, '_, '_>) {
    let (worker, trip) = (journey.worker, &mut *journey.trip);
    if crossing.terms.asks() {
        let attempt = hops::attempt(&trip.request).saturating_add(1);
        hops::tell_attempt(&mut trip.request.fields, attempt);
        trip.facts.attempt = Some(attempt);
    }
    worker.meter.borrow_mut().plain().retries += 1;
    if let Some(edges) = worker.edges.as_ref().filter(|_| crossing.listener.settings.role != Role::Inbound) {
        edges.borrow_mut().retried(crossing.backend, endpoint);
    }
}

/// Reads a small body before the first try, when there may be a second one.
async fn hold<'h>(
    terms: Terms<'_>,
    journey: &mut Journey<'_, '_, '_>,
    memory: &'h mut Vec<u8>,
) -> Result<Content<'h>, Stop> {
    let arrival = &mut *journey.arrival;
    if let Source::Kept(bytes, 0) = &arrival.body {
        *memory = bytes.to_vec();
        journey.trip.facts.bytes_in = bytes.len() as u64;
        arrival.body = Source::Empty;
        return Ok(Content::Held(memory));
    }
    let length = match arrival.framing {
        Body::None | Body::Length(0) => return Ok(Content::Held(&[])),
        Body::Length(length) if length <= HELD as u64 => length,
        _ => return Ok(Content::Streaming),
    };
    let repeatable = terms.asks() || journey.trip.request.method.is_idempotent();
    if !repeatable || arrival.expects_continue {
        return Ok(Content::Streaming);
    }
    let Journey { worker, arrival, trip, marks, .. } = journey;
    let watch = arrival.watch;
    let entrance = Entrance::new(worker, arrival.connection, arrival.bound, marks.generation);
    let reading = pin!(arrival.body.read_all());
    *memory = entrance.while_it_stands(watch, trip.let_in().0, reading).await?;
    trip.facts.bytes_in = length;
    Ok(Content::Held(memory))
}

/// One try: a connection, the request, the response.
async fn try_once(
    crossing: Crossing<'_>,
    endpoint: &Chosen,
    tries: &Tries,
    content: Content<'_>,
    journey: &mut Journey<'_, '_, '_>,
) -> Result<Tried, Failed> {
    let wants_tunnel = journey.trip.upgrade.is_some();
    let destination = Destination {
        backend: crossing.backend,
        endpoint,
        pooled: if wants_tunnel { Pooled::Unwanted } else { tries.replacing.pooled },
        // An upgrade needs a connection of its own.
        protocol: match crossing.backend.protocol {
            UpstreamProtocol::Auto if wants_tunnel => UpstreamProtocol::Http1,
            // Between workloads nobody says what a port speaks: what the client speaks to it.
            UpstreamProtocol::Auto
                if crossing.listener.settings.role != Role::Gateway
                    && journey.trip.request.version == Version::Http2 =>
            {
                UpstreamProtocol::Http2
            }
            protocol => protocol,
        },
        identity: crossing.listener.client_identity.as_ref(),
        client: None,
        queued: crossing.trial.map(Trial::queued),
    };
    // Whatever happened, no byte of the request was sent.
    let unconnected = |failure: Failure| {
        let repeat = if failure.side == Side::Upstream { Repeat::Safe } else { Repeat::Never };
        // A limit of ours, or the word of the other side that this caller is not let in: another endpoint changes nothing.
        let is_final = matches!(failure.reason, Reason::Overloaded | Reason::BackendOverflow | Reason::MeshDenied);
        let repeat = if is_final { Repeat::Never } else { repeat };
        Failed { failure: Failure { repeat, ..failure }, used: None }
    };
    let mut upstream = {
        let connecting = pin!(connect(journey.worker, &destination));
        let connecting = pin!(trial::within_pending(crossing.backend, connecting));
        let connecting = pin!(unless_gone(connecting, journey.replier));
        let connected = within(crossing.try_timeout(), connecting).await;
        connected.unwrap_or_else(|| Err(late(crossing))).map_err(unconnected)?
    };
    let in_clear_to = (!upstream.is_in_tunnel()).then_some(crossing.backend);
    let entrance = Entrance { in_clear_to, ..journey.arrival.entrance(journey.worker, journey.marks.generation) };
    entrance.recheck(journey.trip.let_in().0).map_err(|failure| Failed { failure, used: None })?;
    if matches!(content, Content::Streaming) && !wants_tunnel {
        let may_be_stale = upstream.is_reused() && judge::Repeat::of(&journey.trip.request) == judge::Repeat::Harmless;
        if upstream.may_refuse() || may_be_stale || crossing.may_repeat(&journey.trip.request) {
            journey.arrival.body.remember(HELD);
        }
        // Also where this connection cannot refuse: the one before may have, with a part of the body.
        journey.arrival.body.begin_again();
    }
    let outcome = match content {
        _ if wants_tunnel => Box::pin(tunnel::open(crossing, &mut upstream, journey)).await,
        Content::Held(bytes) => forward_held(crossing, tries, bytes, &mut upstream, journey).await,
        Content::Streaming => Box::pin(forward_streaming(crossing, tries, &mut upstream, journey)).await,
    };
    match outcome {
        Ok(Exchanged { tried, reusable }) => {
            if reusable {
                upstream.release(&journey.worker.pool, journey.worker.watches.last_sweep());
            }
            Ok(tried)
        }
        Err(failure) => {
            let repeat = judge::Repeat::of(&journey.trip.request);
            Err(Failed { used: Some(upstream.used_after(&failure, repeat).await), failure })
        }
    }
}

/// What a try left behind.
pub(crate) struct Exchanged {
    tried: Tried,
    reusable: bool,
}

impl Exchanged {
    /// The response was delivered; `reusable` tells whether the connection is good for another request.
    pub(crate) fn delivered(reusable: bool) -> Self {
        Self { tried: Tried::Delivered, reusable }
    }

    /// The response is not delivered, and the request sent again after this time.
    pub(crate) fn again(after: Duration) -> Self {
        Self { tried: Tried::Again(after), reusable: false }
    }

    /// The same, where the body of the request has moved beside it: the connection is good for another only if all of that was sent.
    pub(crate) fn with_upload(self, is_complete: bool) -> Self {
        Self { reusable: self.reusable && is_complete, ..self }
    }
}

/// Why a try that has no connection is over: a limit of ours is no fault of the endpoint's.
fn late(crossing: Crossing<'_>) -> Failure {
    let queued = crossing.trial.is_some_and(|trial| trial.queued().get());
    if queued { no_room("no connection became free in the time of a try") } else { try_timeout() }
}

fn try_timeout() -> Failure {
    Failure::new(
        Side::Upstream,
        Reason::UpstreamTimeout,
        Repeat::IfIdempotent,
        "the try exceeded the route's backendRequest timeout",
    )
}
