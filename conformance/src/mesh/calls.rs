//! The client inside a pod: it resolves names as any program there does, calls, and tells what it saw. Called by `inside`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;
use transept_testkit::client::{Answer, Endpoint, KeptOpen, Request, exchange};
use transept_testkit::echo::Echo;
use transept_testkit::grpc::{self, Channel, Reply};

use super::orders::{Call, Counts, Saw, Spread};
use crate::case::Via;
use crate::converge::REQUEST_LIMIT;

/// The method of the echo service that is called.
const METHOD: &str = "Echo";
const NO_TCP: &str = "this runner has no calls by TCP in the mesh";

/// One request on a new connection.
pub(super) async fn call(call: &Call) -> Result<Saw> {
    let outcome = async {
        let address = resolve(call).await?;
        match call.via {
            Via::Http => Ok(saw(exchange(&Endpoint::http1(address), &request(call)).await.outcome?)),
            Via::Grpc => {
                let channel = Channel::connect(&Endpoint::h2c(address)).await?;
                saw_by_grpc(channel.echo(METHOD, &call.authority, &call.headers).await?)
            }
            Via::Tcp => bail!(NO_TCP),
        }
    };
    timeout(REQUEST_LIMIT, outcome).await.with_context(|| format!("no answer within {REQUEST_LIMIT:?}"))?
}

/// Many requests, over as many kept-open connections as there are requests at a time, or over one connection of HTTP/2.
pub(super) async fn spread(spread: &Spread) -> Result<Counts> {
    let Spread { call, requests, concurrency } = spread;
    let address = resolve(call).await?;
    let pods: Vec<String> = match call.via {
        Via::Http => {
            let left = AtomicUsize::new(*requests);
            let lines = (0..*concurrency).map(|_| one_after_the_other(address, call, &left));
            try_join_all(lines).await?.concat()
        }
        Via::Grpc => {
            let channel = Channel::connect(&Endpoint::h2c(address)).await?;
            let channel = &channel;
            let calls = (0..*requests).map(|_| async move {
                let asked = timeout(REQUEST_LIMIT, channel.echo(METHOD, &call.authority, &call.headers)).await;
                Ok::<_, anyhow::Error>(saw_by_grpc(asked.context("no answer in time")??)?.pod)
            });
            futures_util::stream::iter(calls).buffer_unordered(*concurrency).try_collect().await?
        }
        Via::Tcp => bail!(NO_TCP),
    };
    let mut counts = Counts::new();
    for pod in pods {
        *counts.entry(pod).or_default() += 1;
    }
    Ok(counts)
}

async fn one_after_the_other(address: SocketAddr, call: &Call, left: &AtomicUsize) -> Result<Vec<String>> {
    let mut connection = KeptOpen::open(&Endpoint::http1(address)).await?;
    let request = request(call);
    let mut pods = Vec::new();
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let answer = timeout(REQUEST_LIMIT, connection.exchange(&request)).await.context("no answer in time")??;
        let saw = saw(answer);
        if saw.status != 200 {
            bail!("status {}", saw.status);
        }
        pods.push(saw.pod);
    }
    Ok(pods)
}

/// The first IPv4 address of a name, as the C library finds it.
#[expect(clippy::disallowed_methods, reason = "what a program gets that knows nothing of the mesh is what is tested")]
async fn resolve(call: &Call) -> Result<SocketAddr> {
    let found = tokio::net::lookup_host((call.to.as_str(), call.port)).await;
    let mut addresses = found.with_context(|| format!("{} does not resolve", call.to))?;
    addresses.find(SocketAddr::is_ipv4).with_context(|| format!("{} has no address", call.to))
}

fn request(call: &Call) -> Request {
    Request { fields: call.headers.clone(), ..Request::get(&call.authority, &call.path) }
}

fn saw(answer: Answer) -> Saw {
    let echo = Echo::parse(&answer.body).unwrap_or_default();
    let seen = echo.headers.iter().flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())));
    Saw { status: answer.status, seen: seen.collect(), fields: answer.fields, pod: echo.pod, path: echo.path }
}

fn saw_by_grpc(reply: Reply) -> Result<Saw> {
    match reply.seen {
        Some(seen) if reply.code == grpc::OK => {
            Ok(Saw { status: 200, pod: seen.pod, path: seen.full_method, seen: seen.metadata, fields: Vec::new() })
        }
        _ => bail!("code {} ({})", reply.code, reply.message),
    }
}
