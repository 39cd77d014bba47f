//! What the next change needs to know of the configuration in force, without its objects.
//!
//! Made by `control` once a configuration is good, given to the next `Loader`. Objects are large and their contents are needed no more
//! once they are compiled: a hash tells whether they changed. Of the Secrets the contents stay, because one that breaks goes on
//! with the key pair it had.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::certificate::KeyPair;
use crate::kinds::{Metadata, Object, SecretBody};
use crate::policy::Policy;
use crate::schema::Text;
use crate::world::{Store, World};

/// The generations of all objects, and the Secrets.
#[derive(Debug, Default)]
pub struct Past {
    /// Sorted by kind, namespace and name.
    objects: Box<[Remembered]>,
    secrets: Store<SecretBody>,
    kept_pairs: HashMap<(Text, Text), Arc<KeyPair>>,
}

/// One object of the configuration in force.
#[derive(Debug)]
struct Remembered {
    kind: &'static str,
    namespace: Text,
    name: Text,
    generation: i64,
    contents: u64,
}

impl Remembered {
    fn new(meta: &Metadata, contents: u64) -> Self {
        Self {
            kind: meta.kind,
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            generation: meta.generation,
            contents,
        }
    }

    fn key(&self) -> (&str, &str, &str) {
        (self.kind, &self.namespace, &self.name)
    }
}

impl Past {
    pub(crate) fn of(world: &World) -> Past {
        let mut objects = Vec::new();
        macro_rules! remember {
            ($($store:ident)*) => {
                $( objects.extend(world.$store.all().iter().map(|one| Remembered::new(&one.meta, contents(one)))); )*
            };
        }
        remember! {
            namespaces services endpoint_slices secrets config_maps gateway_classes gateways http_routes grpc_routes
            tcp_routes grants backend_tls_policies backends workloads consumers api_keys
        }
        objects.extend(world.policies.iter().map(|one| Remembered::new(&one.meta, policy_contents(one))));
        objects.sort_by(|a, b| a.key().cmp(&b.key()));
        Past { objects: objects.into(), secrets: world.secrets.clone(), kept_pairs: world.kept_pairs.clone() }
    }

    /// The generation that an object gets after this: the one it had when its contents (as hashed) are the same, the next one when
    /// they are not, 1 when it is new.
    pub(super) fn generation_after(&self, meta: &Metadata, contents: u64) -> i64 {
        let key = (meta.kind, &*meta.namespace, &*meta.name);
        let found = self.objects.binary_search_by(|one| one.key().cmp(&key)).ok();
        match found.and_then(|index| self.objects.get(index)) {
            Some(before) if before.contents == contents => before.generation,
            Some(before) => before.generation.saturating_add(1),
            None => 1,
        }
    }

    /// A Secret as it was.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<&Arc<Object<SecretBody>>> {
        self.secrets.find(namespace, name)
    }

    /// The key pair that a Secret went on with already ([`World::kept_pair`]).
    pub(super) fn kept_pair(&self, namespace: &str, secret: &str) -> Option<&Arc<KeyPair>> {
        self.kept_pairs.get(&(namespace.into(), secret.into()))
    }
}

/// A hash of what an object says, without its labels and without where it stands.
pub(super) fn contents<S: Hash>(object: &Object<S>) -> u64 {
    digest(&object.spec)
}

/// The same for a policy.
pub(super) fn policy_contents(policy: &Policy) -> u64 {
    digest(&(&policy.spec, &policy.target_refs))
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
