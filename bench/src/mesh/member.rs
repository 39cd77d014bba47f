//! A simulated proxy: the discovery of a real sidecar on a real connection, with nothing behind it.
//!
//! Called by `propagate`, a thousand times on one thread. It asks for what a sidecar with one upstream asks for, holds it, confirms it
//! and gives signs of life; it compiles nothing, keeps nothing on a disk and serves nobody.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsConnector;
use transept_engine::policies::MODEL_KINDS;
use transept_model::catalogue::catalogue;
use transept_xds::client::{Batch, Change, Client, Settings};
use transept_xds::mesh::{Answer, Beat, REGISTER, Workload};
use transept_xds::messages::{DeltaDiscoveryResponse, Node};
use transept_xds::{Key, METHOD, TypeUrl};

use super::wire::{Line, Sender};

/// Kinds that hold for everyone, so that a sidecar asks for all of them.
const SHARED: [&str; 5] = ["Namespace", "ReferenceGrant", "GatewayClass", "MeshPolicy", "AuthorizationPolicy"];
/// How long to wait between signs of life.
const BEAT: Duration = Duration::from_secs(10);
/// Stands before the number of a change, in the object that is changed.
pub(super) const MARK: &str = "mark-";

/// What is changed and looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Route,
    Endpoint,
}

/// What a proxy tells.
#[derive(Debug)]
pub(super) enum News {
    /// It holds everything that it asked for.
    Synced,
    /// It holds a change, since then.
    Has(What, usize, Instant),
    /// It has ended, which it should not.
    Ended(anyhow::Error),
}

/// What all simulated proxies have in common.
pub(super) struct Fleet {
    pub(super) address: String,
    pub(super) tls: TlsConnector,
    pub(super) bundle_sequence: u64,
    /// `namespace/name` of the Service that everybody calls.
    pub(super) service: &'static str,
    pub(super) news: mpsc::UnboundedSender<News>,
    /// How many join at a time.
    pub(super) door: Semaphore,
    /// Contents by version: a thousand proxies in a thousand processes each have their own, here they are kept once.
    pub(super) contents: RefCell<HashMap<String, Bytes>>,
}

impl Fleet {
    /// One proxy until it ends, which it tells. It registers what comes through `workloads`.
    pub(super) async fn live(self: Rc<Self>, number: usize, workloads: mpsc::UnboundedReceiver<Workload>) {
        if let Err(error) = self.attend(number, workloads).await {
            // Nobody listens when the scenario is over.
            let _ = self.news.send(News::Ended(error));
        }
    }

    async fn attend(&self, number: usize, mut workloads: mpsc::UnboundedReceiver<Workload>) -> anyhow::Result<()> {
        let mut place = Some(self.door.acquire().await?);
        let line = Line::open(&self.address, &self.tls).await?;
        let (mut discovery, mut responses) = line.call(METHOD).await?;
        let (mut beats, mut answers) = line.call(REGISTER).await?;
        let beat = Beat {
            nonce: Bytes::from(format!("simulated-{number}")),
            bundle_sequence: self.bundle_sequence,
            proxy: format!("simulated-{number}"),
            ..Beat::default()
        };
        beats.send(&beat)?;
        let begin = Instant::now();
        let mut client = self.client(number)?;
        client.dial(Duration::ZERO);
        client.connected(Duration::ZERO);
        flush(&mut client, &mut discovery)?;
        let mut pulse = tokio::time::interval_at(tokio::time::Instant::now() + BEAT, BEAT);
        loop {
            tokio::select! {
                response = responses.next::<DeltaDiscoveryResponse>() => {
                    let synced = client.is_synced();
                    self.settle(&mut client, response?, begin.elapsed())?;
                    flush(&mut client, &mut discovery)?;
                    if !synced && client.is_synced() {
                        drop(place.take());
                        let _ = self.news.send(News::Synced);
                    }
                }
                answer = answers.next::<Answer>() => {
                    let refused = answer?.refused;
                    anyhow::ensure!(refused.is_empty(), "not registered: {refused}");
                }
                Some(workload) = workloads.recv() => beats.send(&Beat { workload: Some(workload), ..beat.clone() })?,
                _ = pulse.tick() => beats.send(&beat)?,
            }
        }
    }

    /// A client that asks for what a sidecar with one upstream asks for.
    fn client(&self, number: usize) -> anyhow::Result<Client> {
        let kinds = catalogue(MODEL_KINDS);
        let type_of =
            |group, versions: &[&str], kind| TypeUrl::of(group, versions.first().copied().unwrap_or("v1"), kind);
        let types: Vec<TypeUrl> = kinds.iter().map(|kind| type_of(kind.group, kind.versions, kind.kind)).collect();
        let node =
            Node { id: format!("simulated-{number}"), user_agent_name: "transept".to_owned(), ..Node::default() };
        let mut client = Client::new(Settings { node, types: types.clone(), ..Settings::default() });
        for (kind, type_url) in kinds.iter().zip(&types) {
            if SHARED.contains(&kind.kind) {
                client.subscribe_all(type_url)?;
            }
        }
        client.subscribe(&Key::new(&TypeUrl::of("", "v1", "Service"), self.service))?;
        Ok(client)
    }

    fn settle(&self, client: &mut Client, mut response: DeltaDiscoveryResponse, now: Duration) -> anyhow::Result<()> {
        let mut contents = self.contents.borrow_mut();
        for resource in &mut response.resources {
            if let Some(any) = &mut resource.resource {
                let kept =
                    contents.entry(resource.version.clone()).or_insert_with(|| Bytes::copy_from_slice(&any.value));
                any.value = kept.clone();
            }
        }
        drop(contents);
        let batch = client.receive(response).map_err(|breach| anyhow::anyhow!("{breach}"))?;
        let Some(batch) = batch else { return Ok(()) };
        let changes: Vec<(What, usize)> = marks(&batch).collect();
        client.settle(now, batch, Vec::new());
        for (what, mark) in changes {
            let _ = self.news.send(News::Has(what, mark, Instant::now()));
        }
        Ok(())
    }
}

fn flush(client: &mut Client, discovery: &mut Sender) -> anyhow::Result<()> {
    while let Some(request) = client.next_request() {
        discovery.send(&request)?;
    }
    Ok(())
}

/// The changes that a batch brings.
fn marks(batch: &Batch) -> impl Iterator<Item = (What, usize)> {
    let type_url = batch.type_url().as_str();
    let what = [("HTTPRoute", What::Route), ("Workload", What::Endpoint)];
    let what = what.into_iter().find(|(kind, _)| type_url.ends_with(kind)).map(|(_, what)| what);
    what.into_iter().flat_map(|what| {
        batch.changes().iter().filter_map(move |change| match change {
            Change::Put { payload, .. } => Some((what, mark(std::str::from_utf8(payload).ok()?)?)),
            Change::Remove { .. } => None,
        })
    })
}

/// The number of the change that an object is of.
fn mark(payload: &str) -> Option<usize> {
    let (_, after) = payload.split_once(MARK)?;
    let digits = after.find(|one: char| !one.is_ascii_digit()).unwrap_or(after.len());
    after[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_the_number_behind_the_word() {
        assert_eq!(mark(r#"{"zone":"mark-17","weight":1}"#), Some(17));
        assert_eq!(mark(r#"{"zone":"mark-","weight":1}"#), None);
        assert_eq!(mark("{}"), None);
    }
}
