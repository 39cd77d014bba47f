//! ApiKeys and Consumers that are kept in the state of the control plane instead of in files: made and changed through `admin`.
//!
//! They are published like registrations, beside what the files say. A change is on the disk before it is confirmed, and on its way to
//! the gateways right after.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use transept_engine::policies::MODEL_KINDS;
use transept_model::kinds::TRANSEPT_GROUP;
use transept_model::{SourceText, load};
use transept_xds::Key;

use super::super::admin::KeyChange;
use super::super::store::Write;
use super::{Inner, NotDone, Plane};

impl Plane {
    /// All ApiKeys and Consumers that are kept, and how they are named.
    pub(in crate::plane) fn list_keys(&self) -> Value {
        self.lock().kept.values().cloned().collect()
    }

    /// The names of the ApiKeys of a namespace, wherever they are: none of them is free for another key.
    pub(in crate::plane) fn key_names(&self, namespace: &str) -> Value {
        let kind = self.kinds.type_of(TRANSEPT_GROUP, "ApiKey");
        let inner = self.lock();
        let kept: Vec<Key> = inner.kept.values().filter_map(|object| self.kinds.key(object)).collect();
        let keys = inner.files.keys().iter().chain(&kept).filter(|key| Some(&key.type_url) == kind.as_ref());
        let names = keys.filter_map(|key| key.name.split_once('/')).filter(|(its, _)| *its == namespace);
        names.map(|(_, name)| name).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Keeps ApiKeys and Consumers. Where somebody else was faster, and one of them is no longer what the change was made of or its name no
    /// longer free, nothing is kept, and the answer says which one it is.
    pub(in crate::plane) fn put_keys(&self, changes: &[KeyChange]) -> Result<Value, NotDone> {
        let keys: Vec<Key> = changes.iter().map(|change| self.check_key(&change.object)).collect::<Result<_, _>>()?;
        let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let mut inner = self.lock();
        for ((key, name), change) in keys.iter().zip(&names).zip(changes) {
            // One that files hide can be revoked all the same: it would count again without them.
            let is_taken = change.before.is_none() && inner.files.hold(key);
            if is_taken || inner.kept.get(name) != change.before.as_ref() {
                return Ok(json!({"overtaken": name}));
            }
        }
        let writes: Vec<_> =
            names.iter().zip(changes).map(|(name, change)| Write::Object(name, &change.object)).collect();
        self.store(&writes)?;
        inner.kept.extend(names.iter().cloned().zip(changes.iter().map(|change| change.object.clone())));
        self.note_registrations(&mut inner);
        Ok(json!({"kept": names}))
    }

    /// The key of an object that can be kept.
    fn check_key(&self, object: &Value) -> Result<Key, NotDone> {
        let kind = object["kind"].as_str().unwrap_or_default();
        let key = self.kinds.key(object).filter(|_| matches!(kind, "ApiKey" | "Consumer"));
        let Some(key) = key else {
            return Err(NotDone::Wrong("only an ApiKey or a Consumer can be kept".to_owned()));
        };
        let loaded = load(&[SourceText::new("the object", object.to_string())], MODEL_KINDS);
        match loaded.invalid.first() {
            Some(problem) => Err(NotDone::Wrong(format!("{}: {}", problem.field, problem.why))),
            None => Ok(key),
        }
    }
}

impl Inner {
    /// What is published beside the files: registrations, and what is kept.
    pub(super) fn beside_files(&self, files: &super::Files) -> Vec<Value> {
        let mut objects = self.registry.objects(&files.services, &files.members);
        objects.extend(self.kept.values().cloned());
        objects
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use transept_identity::TrustDomain;

    use super::super::Setup;
    use super::*;

    fn plane(directory: &Path) -> std::sync::Arc<Plane> {
        let trust_domain = TrustDomain::new("shop.test").expect("a name");
        Plane::open(directory, Setup { trust_domain, leaf_life: Duration::from_secs(3600) }).expect("a plane")
    }

    fn key(name: &str) -> Value {
        json!({"apiVersion": "transept.dev/v1alpha1", "kind": "ApiKey", "metadata": {"name": name, "namespace": "default"},
            "spec": {"consumer": "mobile", "hash": format!("sha256:{}", "0".repeat(64))}})
    }

    fn put(plane: &Plane, before: Option<&Value>, object: &Value) -> Result<Value, NotDone> {
        plane.put_keys(&[KeyChange { before: before.cloned(), object: object.clone() }])
    }

    #[test]
    fn what_was_confirmed_is_there_after_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = plane(directory.path());
        put(&first, None, &key("one")).expect("kept");
        let mut revoked = key("one");
        revoked["spec"]["disabled"] = true.into();
        put(&first, Some(&key("one")), &revoked).expect("kept");
        put(&first, None, &key("two")).expect("kept");
        // As after a kill: nothing is said to the store.
        drop(first);
        let again = plane(directory.path());
        assert_eq!(again.list_keys(), json!([revoked, key("two")]));
        let shelves = again.shelves.read().expect("a lock");
        let keys = again.kinds.type_of("transept.dev", "ApiKey").expect("a type");
        assert!(shelves.resources.resource(&keys, "default/two").is_some());
    }

    #[test]
    fn only_good_keys_and_consumers_are_kept_and_files_come_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let plane = plane(directory.path());
        for wrong in [
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}),
            json!({"apiVersion": "transept.dev/v1alpha1", "kind": "ApiKey", "metadata": {"name": "x"}, "spec": {"consumer": "c"}}),
            json!(null),
        ] {
            assert!(put(&plane, None, &wrong).is_err(), "{wrong}");
        }
        plane.set_files(&[SourceText::new("keys.yaml", key("one").to_string())]);
        let taken = put(&plane, None, &key("one")).expect("an answer");
        assert_eq!(taken, json!({"overtaken": "transept.dev/v1alpha1/ApiKey default/one"}));
        assert!(put(&plane, None, &key("two")).is_ok());
        assert_eq!(plane.key_names("default"), json!(["one", "two"]), "no name is given twice");
        plane.set_files(&[SourceText::new("keys.yaml", key("two").to_string())]);
        let mut revoked = key("two");
        revoked["spec"]["disabled"] = true.into();
        let told = put(&plane, Some(&key("two")), &revoked).expect("an answer");
        assert_eq!(told, json!({"kept": ["transept.dev/v1alpha1/ApiKey default/two"]}), "though files hide it");
        assert_eq!(plane.list_keys(), json!([revoked]));
        assert_eq!(plane.key_names("shop"), json!([]));
    }

    #[test]
    fn of_two_changes_of_one_key_the_later_is_told_and_nothing_of_it_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let plane = plane(directory.path());
        put(&plane, None, &key("one")).expect("kept");
        let (mut revoked, mut ending) = (key("one"), key("one"));
        revoked["spec"]["disabled"] = true.into();
        ending["spec"]["expires"] = "2030-01-01T00:00:00Z".into();
        put(&plane, Some(&key("one")), &revoked).expect("kept");
        // A rotation that read the key before that.
        let rotation =
            [KeyChange { before: None, object: key("two") }, KeyChange { before: Some(key("one")), object: ending }];
        let overtaken = json!({"overtaken": "transept.dev/v1alpha1/ApiKey default/one"});
        assert_eq!(plane.put_keys(&rotation).expect("an answer"), overtaken);
        assert_eq!(put(&plane, None, &key("one")).expect("an answer"), overtaken, "its name is taken");
        assert_eq!(plane.list_keys(), json!([revoked]));
    }
}
