//! Policies that this proxy cannot use and has nothing older for: kept all the same, so that their targets are closed, not open.
//!
//! Owned by `member`. Whether a control plane still wants such a policy is known to the discovery client, which asks about it like about
//! everything that is held. Other kinds of objects need none of this: without a route nothing is served, and without a grant
//! nothing is permitted.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use transept_xds::client::{Batch, Change, Client};
use transept_xds::refusal::Refusal;
use transept_xds::{Key, TypeUrl};

use super::objects;

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

    /// All of them.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&TypeUrl, &Arc<str>, &Bytes)> {
        self.0.iter().map(|(key, payload)| (&key.type_url, &key.name, payload))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use transept_engine::compile::mesh::{Station, compile_station};
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
    }

    impl Receiver {
        fn new() -> Receiver {
            let policy = TypeUrl::from(POLICY);
            let mut client = Client::new(Settings { types: vec![policy.clone()], ..Settings::default() });
            client.subscribe_all(&policy).expect("a known type");
            client.dial(Duration::ZERO).expect("a server");
            client.connected(Duration::ZERO);
            Receiver { client, broken: BrokenPolicies::default() }
        }

        /// Receives the policy with this spec, or that it is gone.
        fn take(&mut self, spec: Option<&str>) -> bool {
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
                nonce: "1".to_owned(),
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
