//! What proxies make of resources: who refuses which, in the status of the object that caused it too.
//!
//! Told by `serve`, asked by `admin` and by a gateway in the same process. A refusal is known for as long as the proxy is connected; it tells
//! again when it returns.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};
use transept_identity::SpiffeId;
use transept_model::ObjectName;
use transept_model::status::{RefusedBy, RefusedObjects, Status};
use transept_xds::mesh::{address_type, guard_type};
use transept_xds::server::Fact;
use transept_xds::{Key, Resource, TypeUrl, Version};

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
}

/// Why a proxy does nothing with an object of a kind that it does not know.
const UNKNOWN: &str = "this proxy does not know the kind, and nothing of it is in force there; run a newer version";

impl Plane {
    /// Notes the configuration that was made of the files, whose status is shown with what proxies say of it.
    pub fn note_loaded(&self, loaded: Arc<Loaded>) {
        self.lock().loaded = Some(loaded);
    }

    /// Notes what an attempt to load files came to: why it was refused, and when, or nothing.
    pub(crate) fn note_reload(&self, refused: Option<(Arc<crate::load::Refused>, SystemTime)>) {
        self.lock().reload = refused;
    }

    /// The latest attempt to load files, for people.
    pub(super) fn show_reload(inner: &Inner) -> Value {
        let Some((refused, at)) = &inner.reload else { return json!({"ok": true}) };
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let errors: Vec<String> = refused.invalid.iter().map(ToString::to_string).collect();
        json!({"ok": false, "at": seconds, "errors": errors})
    }

    /// Notes what a proxy made of resources.
    pub(in crate::plane) fn note_facts(&self, proxy: &str, facts: Vec<Fact>) {
        let mut inner = self.lock();
        for fact in facts {
            inner.refused.note(proxy, fact);
        }
    }

    /// Notes which types a proxy understands; none is a proxy that did not say.
    pub(in crate::plane) fn note_kinds(&self, proxy: &str, announced: &BTreeSet<TypeUrl>) {
        // Whose an address is, and what holds together, are no objects that somebody wrote.
        let ours = self.kinds.order().into_iter().filter(|kind| ![address_type(), guard_type()].contains(kind));
        let lacks: BTreeSet<TypeUrl> = ours.filter(|kind| !announced.is_empty() && !announced.contains(kind)).collect();
        if !lacks.is_empty() {
            let kinds: Vec<&str> = lacks.iter().map(TypeUrl::as_str).collect();
            tracing::warn!(proxy, kinds = kinds.join(", "), "a proxy does not know kinds, and ignores objects of them");
        }
        if let Some(member) = self.lock().members.get_mut(proxy) {
            member.lacks = lacks;
        }
    }

    /// Notes which Services a proxy asked for that are not there.
    pub(in crate::plane) fn note_missing(&self, proxy: &str, missing: BTreeSet<String>) {
        if let Some(member) = self.lock().members.get_mut(proxy) {
            member.missing = missing;
        }
    }

    /// Who refuses what, for people.
    pub(super) fn show_refused(&self, inner: &Inner) -> Vec<Value> {
        let show = |(key, proxies): (Key, BTreeMap<String, (String, bool)>)| {
            let proxies: BTreeMap<String, String> = proxies.into_iter().map(|(proxy, (why, _))| (proxy, why)).collect();
            json!({"type": key.type_url.as_str(), "name": &*key.name, "proxies": proxies})
        };
        self.objections(inner).into_iter().map(show).collect()
    }

    /// What every proxy says against every resource, and whether that is about its present version. Proxies that do not know a kind
    /// cannot say anything of its objects; it is said for them.
    fn objections(&self, inner: &Inner) -> BTreeMap<Key, BTreeMap<String, (String, bool)>> {
        let shelves = self.shelves.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: BTreeMap<Key, BTreeMap<String, (String, bool)>> = BTreeMap::new();
        for (key, proxies) in &inner.refused.0 {
            let version = shelves.resources.resource(&key.type_url, &key.name).map(|resource| resource.version());
            let said =
                proxies.iter().map(|(proxy, one)| (proxy.clone(), (one.why.clone(), version == Some(one.version))));
            found.entry(key.clone()).or_default().extend(said);
        }
        for (proxy, member) in inner.members.iter().filter(|(_, member)| member.streams > 0) {
            let gateway = inner.gateway_of(proxy);
            for resource in member.lacks.iter().flat_map(|kind| shelves.resources.resources(kind)) {
                if concerns(resource, gateway.as_ref()) {
                    let said = (proxy.clone(), (UNKNOWN.to_owned(), true));
                    found.entry(resource.key().clone()).or_default().extend([said]);
                }
            }
        }
        found
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
        let describe = |(key, proxies): (Key, BTreeMap<String, (String, bool)>)| {
            let (name, api_version) = object_of(&key)?;
            let by = proxies.into_iter().map(|(proxy, (why, current))| {
                let gateway = inner.gateway_of(&proxy);
                RefusedBy { proxy, gateway, why, current }
            });
            Some((name, (api_version, by.collect())))
        };
        self.objections(inner).into_iter().filter_map(describe).collect()
    }
}

/// Whether an object may matter to a proxy: what is on Gateways alone, to these; everything else to all.
fn concerns(resource: &Resource, gateway: Option<&(String, String)>) -> bool {
    let gateways = |key: &&Key| key.type_url.as_str().ends_with("/Gateway");
    let on_gateways = !resource.joins().is_empty() && resource.joins().iter().all(|key| gateways(&key));
    let own = gateway.map(|(namespace, name)| format!("{namespace}/{name}"));
    !on_gateways || own.is_some_and(|own| resource.joins().iter().any(|key| *key.name == *own))
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
