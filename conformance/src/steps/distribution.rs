//! The `distribution` step: how traffic spreads over backends (section 3.5).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;
use transept_testkit::client::{self, Endpoint, Request};
use transept_testkit::echo::Echo;
use transept_testkit::grpc::Channel;

use super::{Stage, uuid};
use crate::case::{Distribution, PerRequest, Via};
use crate::compare::shares::{Shares, count};
use crate::converge::REQUEST_LIMIT;

impl Stage<'_> {
    pub(super) async fn distribution(&self, step: &Distribution) -> Result<(), String> {
        let address = self.dial(&step.gateway, step.port).await?;
        let shares = Shares { requests: step.requests, weights: &step.weights, tolerance: step.tolerance };
        let mut last = "no try at all".to_owned();
        for _ in 0..step.max_tries {
            match self.spread(address, step).await.and_then(|counts| shares.compare(&counts)) {
                Ok(()) => return Ok(()),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Sends all requests and counts the answers by backend.
    async fn spread(&self, address: SocketAddr, step: &Distribution) -> Result<BTreeMap<String, usize>, String> {
        let PerRequest::PerRequest = step.connection;
        let pods: Vec<String> = futures_util::stream::iter(0..step.requests)
            .map(|number| async move {
                let asked = timeout(REQUEST_LIMIT, ask(address, step, number)).await;
                asked.map_err(|_| format!("no answer within {REQUEST_LIMIT:?}"))?
            })
            .buffer_unordered(step.concurrency)
            .try_collect()
            .await?;
        Ok(count(pods.iter().map(|pod| (pod.as_str(), 1))))
    }
}

/// One request on a connection of its own; returns the name of the pod that answered.
async fn ask(address: SocketAddr, step: &Distribution, number: usize) -> Result<String, String> {
    // About half of the requests carry the jitter, so that nothing can be balanced by equal bytes.
    let name = step.jitter.as_deref().and_then(|jitter| jitter.split(' ').nth(1)).filter(|_| number.is_multiple_of(2));
    let jitter: Vec<(String, String)> = name.map(|name| (name.to_owned(), random_number())).into_iter().collect();
    let (pod, namespace) = match step.via {
        Via::Http => {
            let host = if address.port() == 80 { address.ip().to_string() } else { address.to_string() };
            let mut request = Request::get(&host, &step.request.path);
            request.method.clone_from(&step.request.method);
            request.fields = jitter;
            let answer = client::exchange(&Endpoint::http1(address), &request).await.outcome;
            let answer = answer.map_err(|why| why.to_string())?;
            if !step.expect.status.is_empty() && !step.expect.status.contains(&answer.status) {
                return Err(format!("status {}", answer.status));
            }
            let echo = Echo::parse(&answer.body).ok_or("no echo")?;
            (echo.pod, echo.namespace)
        }
        Via::Grpc => {
            let channel = Channel::connect(&Endpoint::h2c(address)).await.map_err(|why| why.to_string())?;
            let called = channel.echo(&step.request.method, &address.to_string(), &jitter).await;
            let reply = called.map_err(|why| why.to_string())?;
            let seen = reply.seen.ok_or_else(|| format!("code {} ({})", reply.code, reply.message))?;
            (seen.pod, seen.namespace)
        }
        Via::Tcp => super::tcp::ask(address).await?,
    };
    match step.expect.namespace.as_deref() {
        Some(wanted) if wanted != namespace => Err(format!("namespace {namespace:?} instead of {wanted}")),
        _ => Ok(pod),
    }
}

/// A number from 0 to 9999.
fn random_number() -> String {
    let digits = uuid();
    let number = u32::from_str_radix(&digits[..8], 16).unwrap_or_default();
    (number % 10_000).to_string()
}
