//! Policies that this proxy cannot use and has nothing older for: kept all the same, so that their targets are closed, not open.
//!
//! Owned by `member`. Whether a control plane still wants such a policy is known to the discovery client, which asks about it like about
//! everything that is held. Other kinds of objects need none of this: without a route nothing is served, and without a grant
//! nothing is permitted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use transept_xds::client::{Batch, Change, Client};
use transept_xds::refusal::Refusal;
use transept_xds::{Key, TypeUrl};

use super::objects;

/// A resource: its type, its name, its contents.
pub(super) type Part<'p> = (&'p TypeUrl, &'p Arc<str>, &'p Bytes);

/// The policies that are kept because nothing better is there.
#[derive(Debug, Default)]
pub(super) struct BrokenPolicies(BTreeMap<Key, Bytes>);

impl BrokenPolicies {
    /// Takes in what was kept before a restart.
    pub(super) fn restore(&mut self, key: Key, payload: Bytes) {
        self.0.insert(key, payload);
    }

    /// What of a batch is refused and will have to be kept; to be told before the batch is settled, and taken in after it.
    pub(super) fn find(batch: &Batch, refusals: &[Refusal]) -> Vec<(Key, Bytes)> {
        let refused = batch.changes().iter().filter_map(|change| match change {
            Change::Put { name, payload, .. } if refusals.iter().any(|refusal| *refusal.name == **name) => {
                Some((name, payload))
            }
            _ => None,
        });
        let guards = refused.filter(|(name, payload)| objects::closes(batch.type_url(), name, payload));
        guards.map(|(name, payload)| (Key::new(batch.type_url(), name), payload.clone())).collect()
    }

    /// Keeps what was found, and forgets what is not refused any more. True when that changes something.
    pub(super) fn take(&mut self, found: Vec<(Key, Bytes)>, client: &Client) -> bool {
        let mut changed = false;
        for (key, payload) in found {
            if client.is_refused(&key) && self.0.get(&key) != Some(&payload) {
                self.0.insert(key, payload);
                changed = true;
            }
        }
        let before = self.0.len();
        self.0.retain(|key, _| client.is_refused(key));
        changed || self.0.len() != before
    }

    /// All of them among what is held, each where it would stand if it could be used: the order is the age of those that do not say how
    /// old they are, and the oldest wins a conflict.
    pub(super) fn among<'p>(&'p self, held: impl Iterator<Item = Part<'p>>) -> Vec<Part<'p>> {
        let mut parts: Vec<Part<'p>> = held.chain(self.parts()).collect();
        let mut ranks: HashMap<&TypeUrl, usize> = HashMap::new();
        for (type_url, _, _) in &parts {
            let next = ranks.len();
            ranks.entry(*type_url).or_insert(next);
        }
        parts.sort_by_key(|(type_url, name, _)| (ranks.get(type_url).copied(), *name));
        parts
    }

    /// All of them.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&TypeUrl, &Arc<str>, &Bytes)> {
        self.0.iter().map(|(key, payload)| (&key.type_url, &key.name, payload))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use transept_engine::Reason;
    use transept_engine::compile::mesh::{Outbound, Station, compile_station};
    use transept_engine::policies::Force;
    use transept_engine::snapshot::Role;
    use transept_model::attach::{Surroundings, attach};
    use transept_xds::client::Settings;
    use transept_xds::messages::{Any, DeltaDiscoveryResponse, Resource};

    use super::*;

    const POLICY: &str = "transept.dev/v1alpha1/AuthorizationPolicy";
    const NAME: &str = "default/guard";

    fn guard(spec: &str) -> String {
        format!(
            r#"{{"apiVersion": "transept.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {{"name": "guard"}},
                "spec": {{"targetRefs": [{{"group": "", "kind": "Service", "name": "cart"}}], {spec}}}}}"#
        )
    }

    /// A member as far as it receives.
    struct Receiver {
        client: Client,
        broken: BrokenPolicies,
        /// How many responses have come.
        heard: u32,
    }

    impl Receiver {
        fn new() -> Receiver {
            let policy = TypeUrl::from(POLICY);
            let mut client = Client::new(Settings { types: vec![policy.clone()], ..Settings::default() });
            client.subscribe_all(&policy).expect("a known type");
            client.dial(Duration::ZERO).expect("a server");
            client.connected(Duration::ZERO);
            Receiver { client, broken: BrokenPolicies::default(), heard: 0 }
        }

        /// Receives the policy with this spec, or that it is gone.
        fn take(&mut self, spec: Option<&str>) -> bool {
            self.heard += 1;
            let resources = spec.map(|spec| Resource {
                name: NAME.to_owned(),
                version: spec.to_owned(),
                resource: Some(Any { type_url: POLICY.to_owned(), value: guard(spec).into() }),
                ttl: None,
            });
            let response = DeltaDiscoveryResponse {
                removed_resources: if spec.is_none() { vec![NAME.to_owned()] } else { Vec::new() },
                resources: resources.into_iter().collect(),
                type_url: POLICY.to_owned(),
                nonce: self.heard.to_string(),
                ..DeltaDiscoveryResponse::default()
            };
            let batch = self.client.receive(response).expect("no breach").expect("a batch");
            let refusals = objects::judge(&batch);
            let found = BrokenPolicies::find(&batch, &refusals);
            self.client.settle(Duration::ZERO, batch, refusals);
            self.broken.take(found, &self.client)
        }

        /// Whether the policies before the program are broken; none when there are none.
        fn fails_closed(&self) -> Option<bool> {
            let held: Vec<_> = self.client.holdings().map(|(key, held)| (key, held.payload.clone())).collect();
            let parts = held.iter().map(|(key, payload)| (&key.type_url, &key.name, payload));
            let cart = (TypeUrl::of("", "v1", "Service"), Arc::<str>::from("default/cart"));
            let service = Bytes::from_static(
                br#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart"}, "spec": {"ports": [{"port": 80}]}}"#,
            );
            let parts = parts.chain(self.broken.parts()).chain([(&cart.0, &cart.1, &service)]);
            let world = objects::load(parts, None).expect("a world");
            let station = Station::beside(&world, "default", "cart").expect("a place");
            let attached = attach(&world, &Surroundings::default());
            let snapshot = compile_station(&world, &attached, &station, None, 1).install();
            let bind = snapshot.binds.iter().find(|bind| bind.role == Role::Inbound).expect("a way in");
            bind.listeners[0].chain.steps().first().map(|step| step.force == Force::FailsClosed)
        }
    }

    fn part(kind: &str, name: &str, text: &str) -> (TypeUrl, Arc<str>, Bytes) {
        (TypeUrl::from(kind), Arc::from(name), Bytes::from(text.to_owned()))
    }

    fn load(parts: &[(TypeUrl, Arc<str>, Bytes)], broken: &BrokenPolicies) -> transept_model::World {
        let held = parts.iter().map(|(type_url, name, payload)| (type_url, name, payload));
        objects::load(broken.among(held).into_iter(), None).expect("a world")
    }

    #[test]
    fn where_tls_is_not_understood_nothing_goes_out() {
        let kind = "gateway.networking.k8s.io/v1/BackendTLSPolicy";
        let policy = |more: &str| {
            let text = format!(
                r#"{{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": {{"name": "bank"}}, "spec": {{
                    "targetRefs": [{{"group": "", "kind": "Service", "name": "bank"}}],
                    "validation": {{"hostname": "bank.test", "wellKnownCACertificates": "System"{more}}}}}}}"#
            );
            part(kind, "default/bank", &text)
        };
        let service = part(
            "core/v1/Service",
            "default/bank",
            r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bank"}, "spec": {"ports": [{"port": 443}]}}"#,
        );
        let secure = |parts: &[(TypeUrl, Arc<str>, Bytes)], broken: &BrokenPolicies| {
            let world = load(parts, broken);
            let listen = ([127, 0, 0, 1], 9001).into();
            let bank = Outbound { listen, service: "bank".into(), namespace: "default".into(), port: 443 };
            let mut station = Station::beside(&world, "default", "bank").expect("a place");
            station.outbound = vec![bank];
            let attached = attach(&world, &Surroundings::default());
            let snapshot = compile_station(&world, &attached, &station, None, 1).install();
            let rule = snapshot.bind(&listen).expect("a way out").listeners[0].stream.clone().expect("a rule");
            rule.backends[0].target.as_ref().map(|backend| backend.tls.is_some()).map_err(|broken| broken.reason)
        };
        let mut broken = BrokenPolicies::default();
        assert_eq!(secure(std::slice::from_ref(&service), &broken), Ok(false));
        assert_eq!(secure(&[service.clone(), policy("")], &broken), Ok(true));
        let (type_url, name, payload) = policy(r#", "novelty": true"#);
        assert!(objects::closes(&type_url, &name, &payload), "it can be kept");
        broken.restore(Key::new(&type_url, &name), payload);
        assert_eq!(secure(&[service], &broken), Err(Reason::BackendTlsInvalid));
        let (type_url, name, payload) = part(kind, "default/bank", r#"{"kind": "BackendTLSPolicy"}"#);
        assert!(!objects::closes(&type_url, &name, &payload), "nobody can say what it is for");
    }

    #[test]
    fn a_policy_that_cannot_be_used_is_as_old_as_it_would_be() {
        let kind = "transept.dev/v1alpha1/MeshPolicy";
        let policy = |name: &str, more: &str| {
            let text = format!(
                r#"{{"apiVersion": "transept.dev/v1alpha1", "kind": "MeshPolicy", "metadata": {{"name": "{name}"{more}}}, "spec": {{
                    "targetRefs": [{{"group": "", "kind": "Service", "name": "cart"}}], "mode": "Permissive"}}}}"#
            );
            part(kind, &format!("default/{name}"), &text)
        };
        let first = |broken_name: &str, more: &str| {
            let mut broken = BrokenPolicies::default();
            let (type_url, name, payload) = policy(broken_name, more);
            let payload = String::from_utf8(payload.to_vec()).expect("text").replace("Permissive", "Novelty");
            broken.restore(Key::new(&type_url, &name), payload.into());
            let held =
                policy("b", if more.is_empty() { "" } else { r#", "creationTimestamp": "2026-02-01T00:00:00Z""# });
            load(&[held], &broken).policies()[0].meta.name.to_string()
        };
        assert_eq!(first("a", ""), "a");
        assert_eq!(first("c", ""), "b");
        assert_eq!(first("c", r#", "creationTimestamp": "2026-01-01T00:00:00Z""#), "c");
        assert_eq!(first("a", r#", "creationTimestamp": "2026-03-01T00:00:00Z""#), "b");
    }

    #[test]
    fn a_policy_that_cannot_be_used_closes_its_target_until_there_is_a_better_one() {
        let (good, newer) = (r#""allow": []"#, r#""allow": [], "since": "a later version""#);
        let mut receiver = Receiver::new();
        assert_eq!(receiver.fails_closed(), None);
        assert!(receiver.take(Some(newer)));
        assert_eq!(receiver.fails_closed(), Some(true));
        assert!(receiver.take(Some(good)));
        assert_eq!(receiver.fails_closed(), Some(false));
        // What was good before stays in force when the next one cannot be used.
        assert!(!receiver.take(Some(newer)));
        assert_eq!(receiver.fails_closed(), Some(false));
        receiver.take(None);
        assert_eq!(receiver.fails_closed(), None);
        assert!(receiver.take(Some(newer)));
        assert!(receiver.take(None), "its end is heard of");
        assert_eq!(receiver.fails_closed(), None);
    }
}
