//! What proxies make of resources: who refuses which, in the status of the object that caused it too.
//!
//! Told by `serve`, asked by `admin` and by a gateway in the same process. A refusal is known for as long as the proxy is connected; it tells
//! again when it returns.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};
use transept_identity::SpiffeId;
use transept_model::ObjectName;
use transept_model::status::{RefusedBy, RefusedObjects, Status};
use transept_xds::server::Fact;
use transept_xds::{Key, Version};

use super::{Inner, Plane};
use crate::load::Loaded;

/// Who refuses what, and why.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<Key, BTreeMap<String, Objection>>);

/// What one proxy says against one resource.
#[derive(Debug)]
struct Objection {
    why: String,
    /// Which version it is about.
    version: Version,
}

impl Refused {
    /// Takes in what a proxy said.
    fn note(&mut self, proxy: &str, fact: Fact) {
        match fact {
            Fact::Refused { key, version, refusal } => {
                tracing::warn!(proxy, resource = %key, why = %refusal.message, "a proxy refuses a resource");
                let objection = Objection { why: refusal.message, version };
                self.0.entry(key).or_default().insert(proxy.to_owned(), objection);
            }
            Fact::Accepted { key, .. } | Fact::Removed { key } => {
                if let Some(proxies) = self.0.get_mut(&key) {
                    proxies.remove(proxy);
                    if proxies.is_empty() {
                        self.0.remove(&key);
                    }
                }
            }
        }
    }

    /// Forgets what a proxy said.
    pub(super) fn forget_proxy(&mut self, proxy: &str) {
        self.0.retain(|_, proxies| {
            proxies.remove(proxy);
            !proxies.is_empty()
        });
    }

    /// Forgets what was said of a resource that is gone.
    pub(super) fn forget_resource(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// All of it, for people.
    pub(super) fn show(&self) -> Vec<Value> {
        let show = |(key, proxies): (&Key, &BTreeMap<String, Objection>)| {
            let proxies: BTreeMap<&str, &str> = proxies.iter().map(|(proxy, one)| (&**proxy, &*one.why)).collect();
            json!({"type": key.type_url.as_str(), "name": &*key.name, "proxies": proxies})
        };
        self.0.iter().map(show).collect()
    }
}

impl Plane {
    /// Notes the configuration that was made of the files, whose status is shown with what proxies say of it.
    pub fn note_loaded(&self, loaded: Arc<Loaded>) {
        self.lock().loaded = Some(loaded);
    }

    /// Notes what a proxy made of resources.
    pub(in crate::plane) fn note_facts(&self, proxy: &str, facts: Vec<Fact>) {
        let mut inner = self.lock();
        for fact in facts {
            inner.refused.note(proxy, fact);
        }
    }

    /// A status with what the connected proxies say of its objects. Without one, nothing is added.
    pub fn with_refusals<'s>(&self, status: Cow<'s, Status>) -> Cow<'s, Status> {
        let inner = self.lock();
        if !inner.members.values().any(|member| member.streams > 0) {
            return status;
        }
        let refused = self.refused_objects(&inner);
        drop(inner);
        let mut status = status.into_owned();
        status.tell_refused(&refused);
        Cow::Owned(status)
    }

    /// The status of the objects of the files, in Kubernetes' own shape.
    pub(in crate::plane) fn objects(&self) -> Value {
        let loaded = self.lock().loaded.clone();
        let status = loaded.as_ref().map_or_else(Cow::default, |loaded| Cow::Borrowed(&loaded.settled.status));
        self.with_refusals(status).to_json()
    }

    /// The same for those that a proxy refuses.
    pub(super) fn show_refused_objects(&self, inner: &Inner) -> Vec<Value> {
        let refused = self.refused_objects(inner);
        let mut status = Status::default();
        for name in refused.keys() {
            let known = inner.loaded.as_ref().and_then(|loaded| loaded.settled.status.find(name));
            if let Some(known) = known {
                status.insert(name.clone(), known.clone());
            }
        }
        status.tell_refused(&refused);
        status.iter().map(|(name, object)| object.to_json(name)).collect()
    }

    fn refused_objects(&self, inner: &Inner) -> RefusedObjects {
        let shelves = self.shelves.read().unwrap_or_else(PoisonError::into_inner);
        let describe = |(key, proxies): (&Key, &BTreeMap<String, Objection>)| {
            let (name, api_version) = object_of(key)?;
            let current = shelves.resources.resource(&key.type_url, &key.name).map(|resource| resource.version());
            let by = proxies.iter().map(|(proxy, objection)| RefusedBy {
                proxy: proxy.clone(),
                gateway: inner.gateway_of(proxy),
                why: objection.why.clone(),
                current: current == Some(objection.version),
            });
            Some((name, (api_version, by.collect())))
        };
        inner.refused.0.iter().filter_map(describe).collect()
    }
}

impl Inner {
    /// The Gateway that a proxy is.
    fn gateway_of(&self, proxy: &str) -> Option<(String, String)> {
        let id = SpiffeId::parse(&self.members.get(proxy)?.identity).ok()?;
        let own = id.workload()?;
        let own = (own.namespace().to_owned(), own.service_account().to_owned());
        self.files.secrets.gateways.contains_key(&own).then_some(own)
    }
}

/// The name of the object behind a resource, and its `apiVersion`.
fn object_of(key: &Key) -> Option<(ObjectName, String)> {
    let (api_version, kind) = key.type_url.as_str().rsplit_once('/')?;
    let (namespace, name) = key.name.split_once('/').unwrap_or(("", &key.name));
    let name = ObjectName { kind: kind.into(), namespace: namespace.into(), name: name.into() };
    Some((name, api_version.strip_prefix("core/").unwrap_or(api_version).to_owned()))
}
