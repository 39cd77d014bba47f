//! A proxy: a client, the responses that it has not settled, and what it has put into force.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use serde_json::Value as Json;
use transept_xds::client::{Batch, Change, Settings, Settled};
use transept_xds::messages::{DeltaDiscoveryResponse, Node};
use transept_xds::refusal::{Reason, Refusal};
use transept_xds::{Client, Key, TypeUrl};

use crate::truth::{Truth, fault, route, service, types};

pub(crate) struct Proxy {
    pub(crate) client: Client,
    pub(crate) index: usize,
    /// What it has asked for by name, and of what it asked for all.
    pub(crate) names: BTreeSet<Key>,
    pub(crate) all: BTreeSet<TypeUrl>,
    /// Responses that wait to be settled, with the control plane that sent them and how far that had followed the log then.
    pub(crate) batches: VecDeque<(Batch, usize, usize)>,
    /// What is in force, as the owner of a client sees it.
    pub(crate) force: BTreeMap<Key, InForce>,
    /// For what each control plane said: the earliest position in the log at which it can have been true.
    low: BTreeMap<(usize, Key), usize>,
    pub(crate) link: Option<u64>,
    /// The latest response, with the link by which it came.
    pub(crate) latest: Option<(u64, Vec<u8>)>,
    pub(crate) clock: Duration,
    /// Bodies that were received; a heartbeat has none.
    pub(crate) bodies: usize,
}

/// A resource in force.
pub(crate) struct InForce {
    pub(crate) version: Arc<str>,
    payload: Bytes,
    /// The services that a route leads to.
    leads_to: Vec<Key>,
}

impl Proxy {
    pub(crate) fn new(index: usize, all: BTreeSet<TypeUrl>) -> Self {
        let mut proxy = Self {
            client: Self::client(index),
            index,
            names: BTreeSet::new(),
            all,
            batches: VecDeque::new(),
            force: BTreeMap::new(),
            low: BTreeMap::new(),
            link: None,
            latest: None,
            clock: Duration::from_secs(1000),
            bodies: 0,
        };
        proxy.ask_again();
        proxy
    }

    fn client(index: usize) -> Client {
        let node = Node { id: format!("proxy-{index}"), ..Node::default() };
        Client::new(Settings { node, types: types(), servers: 2, ..Settings::default() })
    }

    fn ask_again(&mut self) {
        for type_url in &self.all {
            self.client.subscribe_all(type_url).expect("a known type");
        }
        for key in &self.names {
            self.client.subscribe(key).expect("a known type");
        }
    }

    /// A new process that finds the last good configuration on its disk.
    pub(crate) fn restart(&mut self) {
        self.client = Self::client(self.index);
        self.batches.clear();
        self.link = None;
        self.force.retain(|key, _| key.type_url != fault());
        for (key, InForce { version, payload, .. }) in &self.force {
            self.client.restore(key, version, payload.clone()).expect("a known type");
        }
        self.ask_again();
    }

    pub(crate) fn subscribe(&mut self, key: &Key) {
        self.names.insert(key.clone());
        self.client.subscribe(key).expect("a known type");
    }

    pub(crate) fn unsubscribe(&mut self, key: &Key) {
        self.names.remove(key);
        if self.client.unsubscribe(key).expect("a known type") {
            self.force.remove(key);
        }
    }

    pub(crate) fn toggle_all(&mut self, type_url: &TypeUrl) {
        if self.all.remove(type_url) {
            for name in self.client.unsubscribe_all(type_url).expect("a known type") {
                self.force.remove(&Key { type_url: type_url.clone(), name });
            }
        } else {
            self.all.insert(type_url.clone());
            self.client.subscribe_all(type_url).expect("a known type");
        }
    }

    pub(crate) fn receive(&mut self, bytes: &[u8], plane: usize, applied: usize) -> Result<(), String> {
        let response = DeltaDiscoveryResponse::decode(bytes).map_err(|error| error.to_string())?;
        self.bodies += response.resources.iter().filter(|resource| resource.resource.is_some()).count();
        let batch = self.client.receive(response).map_err(|breach| breach.to_string())?;
        self.batches.extend(batch.map(|batch| (batch, plane, applied)));
        Ok(())
    }

    /// Settles the batch at `at`, refusing what is bad, and puts the rest into force.
    pub(crate) fn settle(&mut self, at: usize, truth: &Truth) -> Result<(), String> {
        let Some((batch, plane, applied)) = self.batches.remove(at) else { return Ok(()) };
        let type_url = batch.type_url().clone();
        let mut refusals = Vec::new();
        let mut accepted = Vec::new();
        for change in batch.changes() {
            match change {
                Change::Put { name, version, payload, .. } if is_bad(payload) => {
                    refusals.push(Refusal::new(name, version, Reason::Invalid, "it says that it is bad"));
                }
                change => accepted.push(change.clone()),
            }
        }
        if self.client.settle(self.clock, batch, refusals) == Settled::Stale {
            return Ok(());
        }
        for change in accepted {
            let key = Key { type_url: type_url.clone(), name: change.name().clone() };
            match change {
                Change::Put { version, payload, .. } => {
                    self.check_age(&key, Some(&version), plane, applied, truth)?;
                    let leads_to = leads_to(&payload);
                    self.force.insert(key, InForce { version, payload, leads_to });
                }
                Change::Remove { .. } => {
                    self.force.remove(&key);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn expire(&mut self) {
        for key in self.client.expire(self.clock) {
            self.force.remove(&key);
        }
    }

    /// What one control plane says never goes back in the log, and was true at some time.
    fn check_age(
        &mut self,
        key: &Key,
        version: Option<&str>,
        plane: usize,
        applied: usize,
        truth: &Truth,
    ) -> Result<(), String> {
        let low = self.low.entry((plane, key.clone())).or_default();
        let history = truth.history.get(key).map(Vec::as_slice).unwrap_or_default();
        for (index, (begin, then)) in history.iter().enumerate() {
            let end = history.get(index + 1).map_or(usize::MAX, |(next, _)| *next);
            if then.as_deref() == version && end > *low && *begin <= applied {
                *low = (*low).max(*begin);
                return Ok(());
            }
        }
        Err(format!("proxy {} got {key} in {version:?}, older than what control plane {plane} said before", self.index))
    }

    /// What holds at every moment.
    pub(crate) fn check(&self, gentle: bool) -> Result<(), String> {
        let mut held = 0;
        for (key, holding) in self.client.holdings() {
            held += 1;
            if self.force.get(&key).is_none_or(|force| force.version != holding.version) {
                return Err(format!("proxy {} holds {key}, which is not what is in force", self.index));
            }
        }
        if held != self.force.len() {
            return Err(format!("proxy {} holds less than is in force", self.index));
        }
        for (key, force) in self.force.iter().filter(|(key, _)| gentle && key.type_url == route()) {
            if let Some(missing) = force.leads_to.iter().find(|key| !self.force.contains_key(*key)) {
                return Err(format!("proxy {} has {key} in force without {missing}", self.index));
            }
        }
        Ok(())
    }
}

fn leads_to(payload: &[u8]) -> Vec<Key> {
    let contents: Json = serde_json::from_slice(payload).unwrap_or_default();
    let names = contents["to"].as_array().into_iter().flatten().filter_map(Json::as_str);
    names.map(|name| Key::new(&service(), name)).collect()
}

fn is_bad(payload: &[u8]) -> bool {
    serde_json::from_slice::<Json>(payload).is_ok_and(|contents| contents["bad"] == true)
}
