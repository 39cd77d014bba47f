//! What policies ask for before they can decide: a call to a server, the body of the request, slow computing.
//!
//! Called by `path.rs` for every [`Verdict::Call`](transept_engine::verdict::Verdict). The outcome goes into the notes of the exchange,
//! where the policy finds it when the request is screened again. What a policy makes of a failure is its business: nothing here answers a
//! client, unless the client itself is to blame or gone.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use transept_engine::callout::{Answer, Callout, CalloutResult, HttpCall, Receiver};
use transept_engine::pick::{self, Call, Probe, pick_endpoint};
use transept_engine::reason::Reason;
use transept_engine::reply::is_grpc;
use transept_engine::rule::Rule;
use transept_engine::snapshot::{EndpointSource, Listener, UpstreamProtocol};
use transept_engine::traffic::Resource;
use transept_model::certificate::KeyPair;
use transept_wire::h1::{Body, Connection, Limits};
use transept_wire::head::Response;

use crate::attempt::within;
use crate::body::{Source, carry};
use crate::documents;
use crate::failure::{Failure, Repeat};
use crate::judge::is_stale;
use crate::path::{Journey, Stop, out_of_time, time_left};
use crate::relay::unless_gone;
use crate::resolve::await_names;
use crate::upstream::{Destination, Received, Replacing, Upstream, Used, connect};
use crate::worker::Worker;

/// How long a server that has not heard a question is left alone before it is asked again.
const PAUSE: Duration = Duration::from_millis(250);
/// The same where a request waits, the first time; after that twice as long each time.
const SHORT_PAUSE: Duration = Duration::from_millis(5);
/// How often a request's question is asked anew that the server has not looked at.
const MOST_ANEW: u32 = 6;

/// Performs a callout within what is left of the exchange's time, and leaves its outcome for the policy.
pub(crate) async fn perform(
    callout: Callout,
    listener: &Listener,
    rule: Option<&Rule>,
    journey: &mut Journey<'_, '_, '_>,
) -> Result<(), Stop> {
    let left = time_left(rule, journey.trip);
    if left == Some(Duration::ZERO) {
        return Err(out_of_time(rule, journey.trip).into());
    }
    let begun = journey.worker.clock.now().monotonic;
    let outcome = {
        let performing = pin!(outcome_of(callout, listener, journey));
        within(left, performing).await
    };
    let outcome = outcome.unwrap_or_else(|| Err(out_of_time(rule, journey.trip).into()))?;
    journey.trip.asked += journey.worker.clock.now().monotonic.saturating_sub(begun);
    journey.trip.notes.resume(outcome);
    Ok(())
}

async fn outcome_of(
    callout: Callout,
    listener: &Listener,
    journey: &mut Journey<'_, '_, '_>,
) -> Result<CalloutResult, Stop> {
    Ok(match callout {
        Callout::Http(call) => {
            let asking = pin!(async { Ok(ask(journey.worker, &call, listener.client_identity.as_ref()).await) });
            unless_gone(asking, journey.replier).await?
        }
        Callout::Detached(call, Receiver(receive)) => {
            let (worker, identity) = (Rc::clone(journey.worker), listener.client_identity.clone());
            let asking = tokio::task::spawn_local(async move {
                receive(ask(&worker, &call, identity.as_ref()).await);
            });
            let asked = pin!(async { Ok(asking.await) });
            match unless_gone(asked, journey.replier).await? {
                Ok(()) => CalloutResult::Waited,
                Err(_) => CalloutResult::Failed("the call has come to nothing".into()),
            }
        }
        Callout::Body { most } => read_body(most, Part::Whole, journey).await?,
        Callout::BodyBegin { most } => read_body(most, Part::Begin, journey).await?,
        Callout::Wait(wait) => {
            let what = wait.what;
            let waiting = pin!(async { Ok(tokio::time::timeout(wait.timeout, wait.until).await) });
            match unless_gone(waiting, journey.replier).await? {
                Ok(()) => CalloutResult::Waited,
                Err(_) => CalloutResult::Failed(format!("waited in vain for {what}").into()),
            }
        }
        Callout::Random(count) => {
            let mut bytes = vec![0; count];
            // The same source that the keys of TLS come from.
            match rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut bytes) {
                Ok(()) => CalloutResult::Random(bytes),
                Err(_) => CalloutResult::Failed("the operating system gives no random bytes".into()),
            }
        }
        Callout::Compute(computation) => {
            let what = computation.what;
            let computing = pin!(async { Ok(tokio::task::spawn_blocking(computation.run).await) });
            match unless_gone(computing, journey.replier).await? {
                Ok(computed) => CalloutResult::Computed(computed),
                Err(_) => CalloutResult::Failed(format!("{what} could not be computed").into()),
            }
        }
        Callout::Refresh { document, occasion } => {
            let worker = journey.worker;
            let asking = pin!(async {
                documents::refresh(worker, &document, &occasion).await;
                Ok(CalloutResult::Refreshed)
            });
            unless_gone(asking, journey.replier).await?
        }
    })
}

/// Reads the body of the request, or its begin, and keeps it to be forwarded.
async fn read_body(most: usize, of: Part, journey: &mut Journey<'_, '_, '_>) -> Result<CalloutResult, Stop> {
    let arrival = &mut *journey.arrival;
    let longer = |bytes: &[u8]| match of {
        Part::Whole => CalloutResult::BodyTooLarge,
        Part::Begin => CalloutResult::BodyBegin(bytes.get(..most).unwrap_or(bytes).into()),
    };
    if let Source::Kept(bytes, 0) = &arrival.body {
        return Ok(if bytes.len() <= most { CalloutResult::Body((**bytes).into()) } else { longer(bytes) });
    }
    match arrival.framing {
        Body::None | Body::Length(0) => return Ok(CalloutResult::Body(Arc::from([]))),
        Body::Length(length) if length > most as u64 && of == Part::Whole => return Ok(CalloutResult::BodyTooLarge),
        _ => {}
    }
    if arrival.expects_continue {
        journey.replier.interim(&Response::new(100)).await?;
        arrival.expects_continue = false;
    }
    if matches!(arrival.framing, Body::Length(length) if length <= most as u64) {
        let bytes: Rc<[u8]> = arrival.body.read_all().await?.into();
        let copy = Arc::from(&*bytes);
        arrival.body = Source::Kept(bytes, 0);
        return Ok(CalloutResult::Body(copy));
    }
    // Nobody has said how long it is, or it is longer: what is read goes before the rest, trailers and all.
    let count = arrival.body.read_ahead(most).await?;
    let bytes = arrival.body.data();
    Ok(if count <= most { CalloutResult::Body(bytes.into()) } else { longer(bytes) })
}

/// How much of a body is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Begin,
}

/// Asks a server, within the time of the call. Also for those who ask on behalf of no request. A server of HTTP/2 that has more to do than it takes
/// refuses streams without looking at them, and is asked again (RFC 9113 section 8.7).
pub(crate) async fn ask(worker: &Rc<Worker>, call: &HttpCall, identity: Option<&Arc<KeyPair>>) -> CalloutResult {
    let asking = pin!(async {
        let mut pause = SHORT_PAUSE;
        for _ in 0..MOST_ANEW {
            match exchange(worker, call, identity).await {
                Err(trouble) if trouble.is_unprocessed() => tokio::time::sleep(pause).await,
                outcome => return outcome,
            }
            pause *= 2;
        }
        exchange(worker, call, identity).await
    });
    within_time(call, asking).await
}

/// The same for a question that can wait: within the time of the call, it is asked again for as long as nobody has heard it.
pub(crate) async fn ask_until_heard(
    worker: &Rc<Worker>,
    call: &HttpCall,
    identity: Option<&Arc<KeyPair>>,
) -> CalloutResult {
    let due = tokio::time::Instant::now() + call.timeout;
    let asking = pin!(async {
        loop {
            match exchange(worker, call, identity).await {
                Err(trouble) if trouble.is_unheard() && tokio::time::Instant::now() + PAUSE < due => {
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    });
    within_time(call, asking).await
}

async fn within_time(
    call: &HttpCall,
    asking: Pin<&mut impl Future<Output = Result<Option<Answer>, Trouble>>>,
) -> CalloutResult {
    let failed = |why: &str| CalloutResult::Failed(format!("{}: {why}", call.backend.label).into());
    let asking = pin!(async {
        await_name(call).await;
        asking.await
    });
    match tokio::time::timeout(call.timeout, asking).await {
        Ok(Ok(Some(answer))) => CalloutResult::Answered(Box::new(answer)),
        Ok(Ok(None)) => failed(&format!("its answer is larger than {} bytes", call.most)),
        Ok(Err(Trouble::Nobody)) => failed("it has no endpoint"),
        Ok(Err(Trouble::Busy)) => failed("its TrafficPolicy allows no further request"),
        Ok(Err(Trouble::Failed(failure))) => failed(&failure.detail),
        Err(_) => failed(&format!("no answer within {} ms", call.timeout.as_millis())),
    }
}

/// A name that has just come into the configuration is still being resolved.
async fn await_name(call: &HttpCall) {
    if call.backend.source == EndpointSource::Static {
        return;
    }
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while call.backend.endpoints.load().endpoints().is_empty() {
        tick.tick().await;
    }
}

enum Trouble {
    Nobody,
    Busy,
    Failed(Failure),
}

impl Trouble {
    /// Whether a server was there and has not looked at the question.
    fn is_unprocessed(&self) -> bool {
        matches!(self, Trouble::Failed(failure) if failure.repeat == Repeat::Safe && failure.reason == Reason::UpstreamReset)
    }

    /// Whether nobody has heard the question, so that somebody may next time.
    fn is_unheard(&self) -> bool {
        match self {
            Trouble::Nobody => true,
            Trouble::Busy => false,
            Trouble::Failed(failure) => failure.repeat == Repeat::Safe,
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Failed(failure)
    }
}

/// One request and its whole answer; none when that is too large. Asked once more where a pooled connection turns out to be dead.
async fn exchange(
    worker: &Rc<Worker>,
    call: &HttpCall,
    identity: Option<&Arc<KeyPair>>,
) -> Result<Option<Answer>, Trouble> {
    let backend = &call.backend;
    let limits = backend.traffic.as_ref().map(|traffic| traffic.limits).unwrap_or_default();
    let _permit = backend.ledger.take(&limits, Resource::Request).map_err(|_| Trouble::Busy)?;
    await_names(&worker.shared, backend).await;
    let own = std::net::Ipv4Addr::LOCALHOST.into();
    let when = Call {
        now: worker.clock.now().into(),
        random: worker.random(),
        hash: pick::hash(backend, &call.request, own),
        tried: &[],
        answered: false,
    };
    let chosen = pick_endpoint(backend, &mut worker.turns.borrow_mut(), &when).map_err(|_| Trouble::Nobody)?;
    // What becomes of a callout is no verdict on the endpoint for those who forward requests there.
    if chosen.probe == Probe::Yes {
        worker.turns.borrow_mut().give_up_probe(backend, chosen.address, Duration::ZERO);
    }
    let mut replacing = Replacing::default();
    let mut destination = Destination {
        backend,
        endpoint: &chosen,
        pooled: replacing.pooled,
        protocol: if is_grpc(&call.request) { UpstreamProtocol::Http2 } else { backend.protocol },
        identity,
        client: None,
        queued: None,
    };
    loop {
        destination.pooled = replacing.pooled;
        let upstream = connect(worker, &destination).await?;
        match exchange_over(worker, call, upstream).await {
            Err((failure, used)) if replacing.may_follow(used) && is_stale(used, &failure, call.repeat) => {
                replacing.follow(used, worker);
            }
            outcome => return Ok(outcome.map_err(|(failure, _)| failure)?),
        }
    }
}

/// The same over one connection. A failure comes with how that was then.
async fn exchange_over(
    worker: &Rc<Worker>,
    call: &HttpCall,
    mut upstream: Upstream,
) -> Result<Option<Answer>, (Failure, Used)> {
    match converse(worker, call, &mut upstream).await {
        Ok(outcome) => Ok(outcome.map(|(answer, is_reusable)| {
            if is_reusable {
                upstream.release(&worker.pool, worker.watches.last_sweep());
            }
            answer
        })),
        Err(failure) => {
            let used = upstream.used_after(&failure, call.repeat).await;
            Err((failure, used))
        }
    }
}

/// Asks and listens. With the answer comes whether the connection is good for another question; there is none where it is too large.
async fn converse(
    worker: &Rc<Worker>,
    call: &HttpCall,
    upstream: &mut Upstream,
) -> Result<Option<(Answer, bool)>, Failure> {
    let watch = worker.watches.add();
    let framing = if call.body.is_empty() { Body::None } else { Body::Length(call.body.len() as u64) };
    let codec = Limits::default();
    let mut response = Response::new(200);
    let mut answer = Answer::default();
    let is_reusable = {
        let (mut sink, mut inlet) = upstream.begin(&call.request, &framing, Connection::KeepAlive, &watch)?;
        carry(&mut Source::Held(&call.body), &mut sink, &Cell::new(0)).await?;
        let rest = loop {
            match inlet.receive(&call.request.method, &codec, &watch, &mut response).await? {
                Received::Interim => {}
                Received::Final { rest, .. } => break rest,
            }
        };
        let keep_alive = rest.keeps_alive();
        let mut source = inlet.into_source(rest, &codec, &watch);
        loop {
            let data = source.data();
            if answer.body.len() + data.len() > call.most {
                return Ok(None);
            }
            answer.body.extend_from_slice(data);
            let count = data.len();
            source.consume(count);
            if source.advance()? {
                continue;
            }
            if source.is_done() {
                break;
            }
            source.fill().await?;
        }
        if let Some(trailers) = source.trailers() {
            answer.trailers.copy_from(trailers);
        }
        keep_alive
    };
    answer.status = response.status;
    answer.fields.copy_from(&response.fields);
    Ok(Some((answer, is_reusable)))
}
