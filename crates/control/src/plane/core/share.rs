//! The plane and limits that proxies divide: who holds a policy is noted, and how many do goes out with it.
//!
//! Told by `serve` what proxies hold, asked by `joined` for a gateway in the same process. The counting is `sharing`'s.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use transept_model::ObjectName;
use transept_model::policy::PROXIES;
use transept_xds::{Key, Resource, Version};

use super::{Inner, Plane};
use crate::plane::files::Files;
use crate::plane::sharing::dividable;
use crate::plane::store::Write;

impl Plane {
    /// Whether what a proxy holds of this type matters to [`Plane::note_sharer`].
    pub(in crate::plane) fn is_dividable(&self, type_url: &str) -> bool {
        dividable(&self.kinds).is_some_and(|own| own.as_str() == type_url)
    }

    /// Notes what a proxy holds.
    pub(in crate::plane) fn note_sharer(&self, proxy: &str, holdings: impl Iterator<Item = (Key, Option<Version>)>) {
        let policies = dividable(&self.kinds);
        let is_policy = |key: &Key| policies.as_ref() == Some(&key.type_url);
        let policies: BTreeSet<Key> = holdings.map(|(key, _)| key).filter(is_policy).collect();
        if self.lock().sharing.hold(proxy, policies) {
            self.stale.notify_one();
        }
    }

    /// Among how many proxies the limits of the policies in files are divided.
    pub(crate) fn sharers(&self, files: &Files) -> BTreeMap<ObjectName, u32> {
        let inner = self.lock();
        let number = |key: &Key| inner.sharing.told().get(&key.to_string()).copied();
        let named = |(key, object): (&Key, &serde_json::Value)| {
            let (namespace, name) = key.name.split_once('/')?;
            let kind = object["kind"].as_str()?.into();
            Some((ObjectName { kind, namespace: namespace.into(), name: name.into() }, number(key)?))
        };
        files.divided.iter().filter_map(named).collect()
    }

    /// The policies that are divided, each with the number of those who divide it. A number that is new is stored first: after a
    /// restart nobody's share is larger because the others have not returned yet.
    pub(super) fn divide(&self, inner: &mut Inner, files: &Files) -> Vec<Resource> {
        let residents = usize::from(inner.resident.is_some());
        let mut told = BTreeMap::new();
        let mut resources = Vec::new();
        for (key, object) in &files.divided {
            let number = inner.sharing.number(key, residents);
            told.insert(key.to_string(), number);
            let mut object = object.clone();
            if !object["metadata"]["annotations"].is_object() {
                object["metadata"]["annotations"] = json!({});
            }
            object["metadata"]["annotations"][PROXIES] = number.to_string().into();
            resources.extend(self.kinds.resource(&object));
        }
        if told != *inner.sharing.told() {
            // A failure is in the log; what is sent is right all the same.
            let _ = self.store(&[Write::Sharers(&told)]);
            inner.sharing.tell(told);
            inner.registrations += 1;
            if let Some(follower) = &inner.follower {
                follower.registrations_changed();
            }
        }
        resources
    }
}
