//! What an older version of a resource leads to, for as long as that version is kept because a newer one was refused.
//!
//! Owned by `member`. The control plane knows the newer version only, and takes away what nothing leads to any more; so this proxy asks
//! for it by name. Nothing of it is on the disk: after a restart the newer version comes again, is refused again, and until that answer
//! nothing is taken away.

use std::collections::{BTreeMap, BTreeSet};

use transept_xds::Key;
use transept_xds::client::{Batch, Client};
use transept_xds::refusal::Refusal;

use super::objects;

/// The older versions that are kept.
#[derive(Debug, Default)]
pub(super) struct KeptVersions {
    /// What each of them leads to.
    leads: BTreeMap<Key, BTreeSet<Key>>,
    /// What is asked for because of them, and because of nothing else that this proxy wants.
    asked: BTreeSet<Key>,
}

impl KeptVersions {
    /// Takes in what of a batch is refused, and asks for what the versions before it lead to. To be called before the batch is settled:
    /// that must be heard before the refusal. `own` is what this proxy asks for anyway.
    pub(super) fn hold(&mut self, batch: &Batch, refusals: &[Refusal], client: &mut Client, own: &BTreeSet<Key>) {
        for change in batch.changes() {
            self.leads.remove(&Key::new(batch.type_url(), change.name()));
        }
        for refusal in refusals.iter().chain(batch.refused()) {
            let key = Key::new(batch.type_url(), &refusal.name);
            if let Some(held) = client.held(&key) {
                self.leads.insert(key, objects::company_of(&held.payload).0);
            }
        }
        for key in self.leads.values().flatten().filter(|key| !own.contains(*key)) {
            // A kind that this version does not know is not led to either.
            if client.subscribe(key).is_ok() {
                self.asked.insert(key.clone());
            }
        }
    }

    /// Asks no more for what no older version leads to. To be called after a batch is settled.
    pub(super) fn release(&mut self, client: &mut Client, own: &BTreeSet<Key>) {
        self.leads.retain(|key, _| client.held(key).is_some());
        let needed: BTreeSet<&Key> = self.leads.values().flatten().collect();
        let mut idle: BTreeSet<Key> = self.asked.iter().filter(|key| !needed.contains(key)).cloned().collect();
        if idle.is_empty() {
            return;
        }
        // Given up by name, it would be dropped at once and come again with what leads to it now. What comes along with it says nothing.
        for (_, held) in client.holdings() {
            let (leads, joins) = objects::company_of(&held.payload);
            idle.retain(|key| !leads.contains(key) || joins.contains(key));
        }
        for key in idle {
            self.asked.remove(&key);
            if !own.contains(&key) {
                let _ = client.unsubscribe(&key);
            }
        }
    }

    /// Takes over what this proxy itself asks for no more. False when no older version leads to it.
    pub(super) fn adopt(&mut self, key: &Key) -> bool {
        let needed = self.leads.values().any(|leads| leads.contains(key));
        if needed {
            self.asked.insert(key.clone());
        }
        needed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use transept_xds::client::Settings;
    use transept_xds::messages::{Any, DeltaDiscoveryResponse, Resource as Sent};
    use transept_xds::server::{self, Session};
    use transept_xds::source::Everything;
    use transept_xds::{Resource, Store, TypeUrl};

    use super::*;

    const NOW: Duration = Duration::ZERO;
    const ROUTE: &str = "gateway.networking.k8s.io/v1/HTTPRoute";
    const WORKLOAD: &str = "transept.dev/v1alpha1/Workload";

    fn key(kind: &str, name: &str) -> Key {
        Key::new(&TypeUrl::from(kind), &format!("default/{name}"))
    }

    fn service(name: &str) -> Key {
        key("core/v1/Service", name)
    }

    /// A control plane with Services and one instance of each.
    struct Plane(Store);

    impl Plane {
        fn new(services: &[&str]) -> Plane {
            let mut plane = Plane(Store::new());
            for name in services {
                plane.put(service(name), serde_json::json!({"spec": {"ports": [{"port": 80}]}}));
                let spec = serde_json::json!({"services": [name], "address": "10.0.0.1", "ports": [{"port": 80}]});
                plane.put(key(WORKLOAD, name), serde_json::json!({"spec": spec}));
            }
            plane
        }

        /// As the control plane does it: whole objects, with their company.
        fn put(&mut self, key: Key, mut object: serde_json::Value) {
            let (api_version, kind) = key.type_url.as_str().rsplit_once('/').expect("a type");
            object["apiVersion"] = api_version.trim_start_matches("core/").into();
            object["kind"] = kind.into();
            object["metadata"] = serde_json::json!({"name": key.name.trim_start_matches("default/")});
            let (leads, joins) = objects::company_of(&Bytes::from(object.to_string()));
            let (leads, joins) = (leads.into_iter().collect(), joins.into_iter().collect());
            self.0.put(Resource::from_json(key, &object).joining(joins).bringing(leads));
        }

        /// The route of `cart`, which goes to another Service; a `fault` is a field that proxies do not know.
        fn route(&mut self, to: &str, fault: Option<&str>) {
            let mut spec = serde_json::json!({
                "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
                "rules": [{"backendRefs": [{"name": to, "port": 80}]}],
            });
            if let Some(fault) = fault {
                spec[fault] = true.into();
            }
            self.put(key(ROUTE, "shop"), serde_json::json!({"spec": spec}));
        }
    }

    /// A member as far as it receives, and the stream that it has.
    struct Receiver {
        client: Client,
        older: KeptVersions,
        session: Session<()>,
    }

    impl Receiver {
        /// Connects with what is held already.
        fn begin(held: &[(Key, String, Bytes)], plane: &Plane) -> Receiver {
            let types: Vec<TypeUrl> =
                [service("").type_url, key(WORKLOAD, "").type_url, key(ROUTE, "").type_url].into();
            let mut client = Client::new(Settings { types: types.clone(), ..Settings::default() });
            for (key, version, payload) in held {
                client.restore(key, version, payload.clone()).expect("a known type");
            }
            client.subscribe(&service("cart")).expect("a known type");
            client.dial(NOW).expect("a server");
            client.connected(NOW);
            let settings = server::Settings { order: types, ..server::Settings::default() };
            let session = Session::new((), Arc::new(settings));
            let mut receiver = Receiver { client, older: KeptVersions::default(), session };
            receiver.settle(plane);
            receiver
        }

        fn own() -> BTreeSet<Key> {
            [service("cart")].into()
        }

        /// Until nobody has anything to say.
        fn settle(&mut self, plane: &Plane) {
            loop {
                while let Some(request) = self.client.next_request() {
                    self.session.receive(NOW, request, &plane.0).expect("no breach");
                }
                let responses = self.session.poll(NOW, &plane.0, &Everything);
                if responses.is_empty() && !self.client.has_requests() {
                    return;
                }
                for response in responses {
                    self.take(response);
                }
            }
        }

        fn take(&mut self, response: transept_xds::messages::SharedResponse) {
            use prost::Message;
            let resources = response.resources.into_iter();
            let response = DeltaDiscoveryResponse {
                system_version_info: response.system_version_info,
                resources: resources.map(|bytes| Sent::decode(bytes).expect("decodes")).collect(),
                type_url: response.type_url,
                nonce: response.nonce,
                removed_resources: response.removed_resources,
                control_plane: response.control_plane,
            };
            assert!(response.resources.iter().all(|one| matches!(&one.resource, Some(Any { .. }))));
            let batch = self.client.receive(response).expect("no breach").expect("a batch");
            let refusals = objects::judge(&batch);
            self.older.hold(&batch, &refusals, &mut self.client, &Self::own());
            self.client.settle(NOW, batch, refusals);
            self.older.release(&mut self.client, &Self::own());
        }

        /// The names that are held, without their namespace.
        fn holds(&self) -> Vec<String> {
            let short = |key: &Key| {
                let kind = key.type_url.as_str().rsplit('/').next().unwrap_or_default().to_owned();
                format!("{kind} {}", key.name.trim_start_matches("default/"))
            };
            let mut names: Vec<String> = self.client.holdings().map(|(key, _)| short(&key)).collect();
            names.sort();
            names
        }

        fn disk(&self) -> Vec<(Key, String, Bytes)> {
            let parts = self.client.holdings();
            parts.map(|(key, held)| (key, held.version.to_string(), held.payload.clone())).collect()
        }
    }

    const WITH_BANK: [&str; 5] = ["HTTPRoute shop", "Service bank", "Service cart", "Workload bank", "Workload cart"];

    #[test]
    fn what_an_older_version_leads_to_stays_while_that_version_is_kept() {
        let mut plane = Plane::new(&["cart", "bank", "safe"]);
        plane.route("bank", None);
        let mut receiver = Receiver::begin(&[], &plane);
        assert_eq!(receiver.holds(), WITH_BANK);
        plane.route("safe", Some("novelty"));
        receiver.settle(&plane);
        let both = [&WITH_BANK[..], &["Service safe", "Workload safe"]].concat();
        let sorted = |mut names: Vec<&str>| {
            names.sort_unstable();
            names.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(receiver.holds(), sorted(both.clone()), "the newer version is what the control plane goes by");

        // A restart without a control plane finds it on the disk, and one with it does not lose it.
        let mut again = Receiver::begin(&receiver.disk(), &plane);
        assert_eq!(again.holds(), sorted(both));

        plane.route("safe", None);
        for receiver in [&mut receiver, &mut again] {
            receiver.settle(&plane);
            assert_eq!(
                receiver.holds(),
                ["HTTPRoute shop", "Service cart", "Service safe", "Workload cart", "Workload safe"]
            );
        }
    }

    #[test]
    fn what_the_next_good_version_leads_to_as_well_is_never_away() {
        let mut plane = Plane::new(&["cart", "bank", "safe"]);
        plane.route("bank", None);
        let mut receiver = Receiver::begin(&[], &plane);
        plane.route("safe", Some("novelty"));
        receiver.settle(&plane);
        plane.route("bank", None);
        receiver.settle(&plane);
        assert_eq!(receiver.holds(), WITH_BANK);
        plane.route("safe", None);
        receiver.settle(&plane);
        assert!(!receiver.holds().contains(&"Service bank".to_owned()), "{:?}", receiver.holds());
        plane.0.remove(&key(ROUTE, "shop"));
        receiver.settle(&plane);
        assert_eq!(receiver.holds(), ["Service cart", "Workload cart"]);
    }
}
