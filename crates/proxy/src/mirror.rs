//! Copies of requests for other backends (Gateway API `RequestMirror`).
//!
//! Called by `path.rs` after the filters. A copy goes its own way on the same worker: the answer to the client never
//! waits for it, and its own answer is read and dropped. A body that streams is not mirrored beyond what can be held.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use transept_engine::filters::Filters;
use transept_engine::pick::{self, Call, Probe, pick_endpoint};
use transept_engine::snapshot::{Backend, Listener};
use transept_engine::traffic::Resource;
use transept_model::certificate::KeyPair;
use transept_wire::h1::{self, Body, Connection};
use transept_wire::head::{Request, Response};

use crate::body::{Source, carry};
use crate::failure::Failure;
use crate::normalize::codec_limits;
use crate::path::{Journey, Stop};
use crate::resolve::await_names;
use crate::upstream::{Destination, Pooled, Received, connect};
use crate::worker::Worker;

/// Bodies up to this size are held to be copied; larger ones and those of unknown length go to the backend only.
const COPIED: u64 = 64 * 1024;

/// How long a copy may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Copies that one worker sends at the same time; further ones are left out, so that a slow mirror costs nobody memory.
const MOST: usize = 1024;

/// One copy.
struct Copy {
    backend: Arc<Backend>,
    identity: Option<Arc<KeyPair>>,
    limits: h1::Limits,
    request: Request,
    body: Rc<[u8]>,
    client: IpAddr,
    random: u64,
}

/// Sends the copies that the filters of the rule, or of the backendRef, ask for.
pub(crate) async fn send_copies(
    filters: &Filters,
    listener: &Listener,
    journey: &mut Journey<'_, '_, '_>,
) -> Result<(), Stop> {
    if filters.mirrors.is_empty() || journey.trip.upgrade.is_some() {
        return Ok(());
    }
    Box::pin(copy_out(filters, listener, journey)).await
}

async fn copy_out(filters: &Filters, listener: &Listener, journey: &mut Journey<'_, '_, '_>) -> Result<(), Stop> {
    let chosen: Vec<Arc<Backend>> = filters.mirrors(journey.worker.random()).cloned().collect();
    if chosen.is_empty() {
        return Ok(());
    }
    let Some(body) = held_body(journey).await? else {
        return Ok(());
    };
    for backend in chosen {
        if journey.worker.copies.get() >= MOST {
            break;
        }
        let mut request = Request::new();
        request.copy_from(&journey.trip.request);
        let copy = Copy {
            backend,
            identity: listener.client_identity.clone(),
            limits: codec_limits(&listener.settings),
            request,
            body: body.clone(),
            client: journey.trip.client,
            random: journey.worker.random(),
        };
        tokio::task::spawn_local(send(UnderWay::new(journey.worker.clone()), copy));
    }
    Ok(())
}

/// The body, read as a whole so that it can be sent more than once; it replaces the one that was to be read.
async fn held_body(journey: &mut Journey<'_, '_, '_>) -> Result<Option<Rc<[u8]>>, Stop> {
    match journey.arrival.framing {
        Body::None | Body::Length(0) => Ok(Some(Rc::from([]))),
        Body::Length(length) if length <= COPIED && !journey.arrival.expects_continue => {
            let bytes: Rc<[u8]> = journey.arrival.body.read_all().await?.into();
            journey.arrival.body = Source::Kept(bytes.clone(), 0);
            Ok(Some(bytes))
        }
        _ => Ok(None),
    }
}

/// Counts a copy while it is under way.
struct UnderWay(Rc<Worker>);

impl UnderWay {
    fn new(worker: Rc<Worker>) -> Self {
        worker.copies.set(worker.copies.get() + 1);
        Self(worker)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.copies.set(self.0.copies.get() - 1);
    }
}

async fn send(under_way: UnderWay, copy: Copy) {
    let outcome = tokio::time::timeout(PATIENCE, exchange(&under_way.0, &copy)).await;
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => {
            tracing::debug!(backend = %copy.backend.label, reason = failure.reason.slug(), detail = %failure.detail, "a mirrored request failed");
        }
        Err(_) => {
            tracing::debug!(backend = %copy.backend.label, "a mirrored request took too long")
        }
    }
}

async fn exchange(worker: &Rc<Worker>, copy: &Copy) -> Result<(), Failure> {
    let limits = copy.backend.traffic.as_ref().map(|traffic| traffic.limits).unwrap_or_default();
    // A copy is the first to give way.
    let Ok(_permit) = copy.backend.ledger.take(&limits, Resource::Request) else { return Ok(()) };
    await_names(&worker.shared, &copy.backend).await;
    let call = Call {
        now: worker.clock.now().into(),
        random: copy.random,
        hash: pick::hash(&copy.backend, &copy.request, copy.client),
        tried: &[],
        answered: false,
    };
    let chosen = pick_endpoint(&copy.backend, &mut worker.turns.borrow_mut(), &call);
    let Ok(chosen) = chosen else { return Ok(()) };
    // What becomes of a copy is nobody's fault.
    if chosen.probe == Probe::Yes {
        worker.turns.borrow_mut().give_up_probe(&copy.backend, chosen.address, Duration::ZERO);
    }
    let destination = Destination {
        backend: &copy.backend,
        endpoint: &chosen,
        pooled: Pooled::Welcome,
        protocol: copy.backend.protocol,
        identity: copy.identity.as_ref(),
        client: None,
        queued: None,
    };
    let mut upstream = connect(worker, &destination).await?;
    let watch = worker.watches.add();
    let framing = if copy.body.is_empty() { Body::None } else { Body::Length(copy.body.len() as u64) };
    let mut response = Response::new(200);
    let reusable = {
        let (mut sink, mut inlet) = upstream.begin(&copy.request, &framing, Connection::KeepAlive, &watch)?;
        carry(&mut Source::Held(&copy.body), &mut sink, &Cell::new(0)).await?;
        let rest = loop {
            match inlet.receive(&copy.request.method, &copy.limits, &watch, &mut response).await? {
                Received::Interim => {}
                Received::Final { rest, .. } => break rest,
            }
        };
        let keep_alive = rest.keeps_alive();
        let mut source = inlet.into_source(rest, &copy.limits, &watch);
        carry(&mut source, &mut crate::body::Sink::Nowhere, &Cell::new(0)).await?;
        keep_alive && source.is_done()
    };
    if reusable {
        upstream.release(&worker.pool, worker.watches.last_sweep());
    }
    Ok(())
}
