//! The verbs *pick* (the endpoint), *connect*, *forward* and *judge*: one or several tries, until one is delivered.
//!
//! Called by `path.rs` when the backend is known; delivery itself is `relay.rs`. A request whose body is here, or that
//! has none, can be tried again; one whose body streams moves both ways at once and is tried once.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use smallvec::SmallVec;
use transept_engine::judge::{self, Attempt, Judgement, Outcome, Resend, judge};
use transept_engine::pick::{Chosen, alternatives, pick_endpoint};
use transept_engine::reason::Reason;
use transept_engine::rule::Rule;
use transept_engine::snapshot::{Backend, Listener, UpstreamProtocol};
use transept_wire::h1::{Body, Connection};

use crate::body::{Source, carry};
use crate::failure::{Failure, Repeat, Side};
use crate::normalize::codec_limits;
use crate::path::{Journey, Stop};
use crate::relay::{self, Gate};
use crate::tunnel;
use crate::upstream::{Age, Destination, Pooled, Upstream, connect};
use crate::worker::Worker;

/// Bodies up to this size are read before the first try when the request may be tried again.
const HELD: u64 = 64 * 1024;

/// What stays the same over all tries.
#[derive(Clone, Copy)]
pub(crate) struct Crossing<'s> {
    pub listener: &'s Listener,
    pub rule: &'s Rule,
    pub backend: &'s Backend,
}

/// What a try can be repeated with.
#[derive(Clone, Copy)]
enum Content<'h> {
    /// All of it is here.
    Held(&'h [u8]),
    /// It streams.
    Streaming,
}

/// A try that did not fail.
enum Tried {
    /// The client has the response.
    Delivered,
    /// The response is dropped and the request tried again after this time.
    Again(Duration),
}

/// A try that failed.
struct Failed {
    failure: Failure,
    /// That of the connection; none when there was no connection, and so no byte of the request was sent.
    age: Option<Age>,
}

/// What has been tried.
struct Tries {
    endpoints: SmallVec<[SocketAddr; 4]>,
    pooled: Pooled,
}

/// Runs `future`, for at most `limit`. None when the time is over. Takes a pinned reference, because an async function
/// stores what it takes by value twice, and these futures are most of a connection's memory.
pub(crate) async fn within<F: Future>(limit: Option<Duration>, future: Pin<&mut F>) -> Option<F::Output> {
    match limit {
        None => Some(future.await),
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
    }
}

/// As [`within`], for one try of a rule with a `backendRequest` timeout.
pub(crate) async fn within_try<T>(
    rule: &Rule,
    future: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Result<T, Failure> {
    let outcome = within(rule.timeouts.backend_request.or(None), future).await;
    outcome.unwrap_or_else(|| Err(try_timeout()))
}

/// Tries until a response is delivered, or until another try would be wrong.
pub(crate) async fn cross(crossing: Crossing<'_>, journey: &mut Journey<'_, '_, '_>) -> Result<(), Stop> {
    let settings = &crossing.listener.settings;
    journey.arrival.watch.set_stall(settings.timeouts.stream_idle);
    let mut memory = Vec::new();
    let content = hold(crossing.rule, journey, &mut memory).await?;
    judge::begin(crossing.rule, &mut journey.worker.turns.borrow_mut(), journey.trip.now());
    let mut tries = Tries { endpoints: SmallVec::new(), pooled: Pooled::Welcome };
    loop {
        let chosen =
            pick_endpoint(crossing.backend, &journey.worker.turns.borrow(), journey.trip.random, &tries.endpoints)?;
        journey.marks.endpoint = Some(chosen.address);
        journey.trip.facts.tries += 1;
        let outstanding = Outstanding::new(journey.worker.clone(), chosen.address);
        let pause = match try_once(crossing, &chosen, &tries, content, journey).await {
            Ok(Tried::Delivered) => return Ok(()),
            Ok(Tried::Again(after)) => {
                tries.endpoints.push(chosen.address);
                after
            }
            Err(Failed { failure, .. }) if journey.replier.begun() => return Err(failure.into()),
            Err(Failed { failure, age }) => {
                let had_stale = age == Some(Age::Reused) && tries.pooled == Pooled::Welcome;
                if had_stale && may_be_stale(&failure, content, journey) {
                    tries.pooled = Pooled::Unwanted;
                    // A retry stanza counts every try of its own; without one this is the only second try there is.
                    if crossing.rule.retry.is_none() {
                        continue;
                    }
                }
                tries.endpoints.push(chosen.address);
                let resend = match content {
                    Content::Streaming if age.is_some() => Resend::Impossible,
                    _ => Resend::Possible,
                };
                match judge_failure(crossing, &tries, resend, &failure, journey) {
                    Judgement::Retry { after } => after,
                    Judgement::Deliver => return Err(failure.into()),
                }
            }
        };
        drop(outstanding);
        journey.worker.meter.borrow_mut().plain().retries += 1;
        if !pause.is_zero() {
            let waiting = pin!(async {
                tokio::time::sleep(pause).await;
                Ok(())
            });
            relay::unless_gone(waiting, journey.replier).await?;
        }
    }
}

/// Reads a small body before the first try, when there may be a second one.
async fn hold<'h>(
    rule: &Rule,
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
        Body::Length(length) if length <= HELD => length,
        _ => return Ok(Content::Streaming),
    };
    let repeatable = rule.retry.is_some() || journey.trip.request.method.is_idempotent();
    if !repeatable || arrival.expects_continue {
        return Ok(Content::Streaming);
    }
    *memory = arrival.body.read_all().await?;
    journey.trip.facts.bytes_in = length;
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
        pooled: if wants_tunnel { Pooled::Unwanted } else { tries.pooled },
        // An upgrade needs a connection of its own.
        protocol: match crossing.backend.protocol {
            UpstreamProtocol::Auto if wants_tunnel => UpstreamProtocol::Http1,
            protocol => protocol,
        },
        identity: crossing.listener.client_identity.as_ref(),
    };
    // Whatever happened, no byte of the request was sent.
    let unconnected = |failure: Failure| {
        let repeat = if failure.side == Side::Upstream { Repeat::Safe } else { Repeat::Never };
        let repeat = if failure.reason == Reason::Overloaded { Repeat::Never } else { repeat };
        Failed { failure: Failure { repeat, ..failure }, age: None }
    };
    let mut upstream = {
        let connecting = pin!(connect(journey.worker, &destination));
        let connecting = pin!(relay::unless_gone(connecting, journey.replier));
        within_try(crossing.rule, connecting).await.map_err(unconnected)?
    };
    let age = upstream.age();
    let outcome = match content {
        _ if wants_tunnel => Box::pin(tunnel::open(crossing, &mut upstream, journey)).await,
        Content::Held(bytes) => forward_held(crossing, tries, bytes, &mut upstream, journey).await,
        Content::Streaming => Box::pin(forward_streaming(crossing, &mut upstream, journey)).await,
    };
    match outcome {
        Ok(Exchanged { tried, reusable }) => {
            if reusable {
                upstream.release(&journey.worker.pool, journey.worker.clock.now().monotonic);
            }
            Ok(tried)
        }
        Err(failure) => Err(Failed { failure, age: Some(age) }),
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
}

/// Sends a request whose body is here, waits for the response head, and delivers it unless it is to be tried again.
async fn forward_held(
    crossing: Crossing<'_>,
    tries: &Tries,
    bytes: &[u8],
    upstream: &mut Upstream,
    journey: &mut Journey<'_, '_, '_>,
) -> Result<Exchanged, Failure> {
    let watch = journey.arrival.watch;
    let limits = codec_limits(&crossing.listener.settings);
    let framing = if bytes.is_empty() { journey.arrival.framing } else { Body::Length(bytes.len() as u64) };
    let (mut sink, mut inlet) = upstream.begin(&journey.trip.request, &framing, Connection::KeepAlive, watch)?;
    let mut source = if bytes.is_empty() { Source::Empty } else { Source::Held(bytes) };
    let (stated, rest, taken) = {
        let heading = pin!(async {
            let sent = carry(&mut source, &mut sink, &mut 0).await;
            if let Err(failure) = &sent
                && failure.side == Side::Downstream
            {
                return Err(Failure::new(failure.side, failure.reason, failure.repeat, failure.detail.clone()));
            }
            relay::expect_response(crossing.rule, &crossing.listener.settings, watch);
            let received = relay::await_final(&mut inlet, &limits, watch, journey.trip, journey.replier, None).await;
            watch.set_stall(crossing.listener.settings.timeouts.stream_idle);
            match (sent, received) {
                (Ok(()), received) => received.map(|(stated, rest)| (stated, rest, true)),
                // A backend may answer before it has read everything, and close.
                (Err(_), Ok((stated, rest))) => Ok((stated, rest, false)),
                (Err(failure), Err(_)) => Err(failure),
            }
        });
        within_try(crossing.rule, heading).await?
    };
    if let Some(after) = judge_status(crossing, tries, journey) {
        return Ok(Exchanged { tried: Tried::Again(after), reusable: false });
    }
    let keep_alive = rest.keeps_alive() && taken;
    let mut source = inlet.into_source(rest, &limits, watch);
    relay::relay(
        crossing.listener,
        journey.arrival.connection,
        journey.marks,
        journey.trip,
        journey.replier,
        &mut source,
        stated,
    )
    .await?;
    Ok(Exchanged::delivered(keep_alive && source.is_done()))
}

/// Sends a request while its body arrives, and delivers the response as it comes, possibly before the body has ended.
async fn forward_streaming(
    crossing: Crossing<'_>,
    upstream: &mut Upstream,
    journey: &mut Journey<'_, '_, '_>,
) -> Result<Exchanged, Failure> {
    let Journey { arrival, trip, marks, replier, .. } = journey;
    let watch = arrival.watch;
    let limits = codec_limits(&crossing.listener.settings);
    let (mut sink, mut inlet) = upstream.begin(&trip.request, &arrival.framing, Connection::KeepAlive, watch)?;
    let gate = Gate::new(arrival.expects_continue);
    let most = crossing.listener.settings.limits.body_bytes;
    let mut sent = 0;
    let answered = Cell::new(false);
    let connection = arrival.connection;
    let outcome = {
        let upload = pin!(async {
            sink.flush().await?;
            gate.opened().await;
            relay::carry_limited(&mut arrival.body, &mut sink, &mut sent, most).await?;
            if !answered.get() {
                relay::expect_response(crossing.rule, &crossing.listener.settings, watch);
            }
            Ok(())
        });
        let download = pin!(async {
            let (stated, rest) = {
                let heading = pin!(relay::await_final(&mut inlet, &limits, watch, trip, replier, Some(&gate)));
                within_try(crossing.rule, heading).await?
            };
            answered.set(true);
            watch.set_stall(crossing.listener.settings.timeouts.stream_idle);
            let keep_alive = rest.keeps_alive();
            if !gate.is_open() {
                // The client was never told to go on: what it does with its body now is anybody's guess.
                replier.forbid_keep_alive();
            }
            let mut source = inlet.into_source(rest, &limits, watch);
            relay::relay(crossing.listener, connection, marks, trip, replier, &mut source, stated).await?;
            Ok(keep_alive && source.is_done())
        });
        both(upload, download).await
    };
    trip.facts.bytes_in = sent;
    let (uploaded, downloaded) = outcome?;
    // Asked first: a response that failed is a failure, whatever became of the request's body.
    let reusable = downloaded?;
    Ok(Exchanged::delivered(uploaded && reusable))
}

/// Runs both directions. The response ends the exchange; a request body that breaks on the client's side ends it too,
/// while one that the backend does not want leaves the backend its say.
async fn both(
    mut upload: Pin<&mut impl Future<Output = Result<(), Failure>>>,
    mut download: Pin<&mut impl Future<Output = Result<bool, Failure>>>,
) -> Result<(bool, Result<bool, Failure>), Failure> {
    let mut uploaded: Option<Result<(), Failure>> = None;
    std::future::poll_fn(|cx| {
        if uploaded.is_none()
            && let Poll::Ready(outcome) = upload.as_mut().poll(cx)
        {
            match outcome {
                Err(failure) if failure.side == Side::Downstream => {
                    return Poll::Ready(Err(failure));
                }
                outcome => uploaded = Some(outcome),
            }
        }
        match download.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Ok((matches!(uploaded, Some(Ok(()))), outcome))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A pooled connection that the server had closed, seen only when it was used (RFC 9112 section 9.3.1).
fn may_be_stale(failure: &Failure, content: Content<'_>, journey: &Journey<'_, '_, '_>) -> bool {
    let resend = matches!(content, Content::Held(_));
    let harmless = judge::Repeat::of(&journey.trip.request) == judge::Repeat::Harmless;
    let early = matches!(failure.reason, Reason::UpstreamReset | Reason::UpstreamIncomplete);
    match failure.repeat {
        Repeat::Safe => early && resend,
        Repeat::IfIdempotent => early && resend && harmless,
        Repeat::Never => false,
    }
}

/// Only a retry stanza makes a status a reason for another try.
fn judge_status(crossing: Crossing<'_>, tries: &Tries, journey: &Journey<'_, '_, '_>) -> Option<Duration> {
    crossing.rule.retry.as_ref()?;
    let attempt = Attempt {
        tries: journey.trip.facts.tries,
        outcome: Outcome::Status(journey.trip.response.status),
        repeat: judge::Repeat::of(&journey.trip.request),
        resend: Resend::Possible,
        alternatives: alternatives(crossing.backend, &tries.endpoints),
    };
    match ask(crossing.rule, &attempt, journey) {
        Judgement::Retry { after } => Some(after),
        Judgement::Deliver => None,
    }
}

fn judge_failure(
    crossing: Crossing<'_>,
    tries: &Tries,
    resend: Resend,
    failure: &Failure,
    journey: &Journey<'_, '_, '_>,
) -> Judgement {
    let outcome = match (failure.repeat, failure.reason) {
        (Repeat::Never, _) => return Judgement::Deliver,
        (Repeat::Safe, _) => Outcome::Unreachable,
        (Repeat::IfIdempotent, Reason::UpstreamTimeout) => Outcome::TimedOut,
        (Repeat::IfIdempotent, _) => Outcome::Reset,
    };
    let attempt = Attempt {
        tries: journey.trip.facts.tries,
        outcome,
        repeat: judge::Repeat::of(&journey.trip.request),
        resend,
        alternatives: alternatives(crossing.backend, &tries.endpoints),
    };
    ask(crossing.rule, &attempt, journey)
}

fn ask(rule: &Rule, attempt: &Attempt, journey: &Journey<'_, '_, '_>) -> Judgement {
    let now = journey.worker.clock.now().into();
    judge(rule, attempt, &mut journey.worker.turns.borrow_mut(), now, journey.trip.random)
}

fn try_timeout() -> Failure {
    Failure::new(
        Side::Upstream,
        Reason::UpstreamTimeout,
        Repeat::IfIdempotent,
        "the try exceeded the route's backendRequest timeout",
    )
}

/// Counts a request as outstanding at its endpoint while it is tried.
struct Outstanding {
    worker: Rc<Worker>,
    endpoint: SocketAddr,
}

impl Outstanding {
    fn new(worker: Rc<Worker>, endpoint: SocketAddr) -> Self {
        worker.turns.borrow_mut().begin(endpoint);
        Self { worker, endpoint }
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.worker.turns.borrow_mut().end(self.endpoint);
    }
}
