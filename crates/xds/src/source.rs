//! The set of resources on the side of the control plane, and what of it a proxy may see.
//!
//! Written by whoever knows the world, read by every session. The store counts revisions: each session remembers the one it has
//! seen and asks what changed since, so that a change costs nothing while nobody looks. It holds resources, not files or objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::bundle::Bundles;
use crate::resource::{Key, Resource, TypeUrl};

/// Who may see what. Implemented by the control plane, which knows what identities mean.
pub trait Scope {
    /// Who looks: what the transport proved of a proxy, not what the proxy says of itself.
    type Viewer;

    /// Whether `viewer` may hold `resource`. What it may not see does not exist for it.
    fn sees(&self, viewer: &Self::Viewer, resource: &Resource) -> bool;
}

/// Everybody sees everything: one tenant, or a test.
#[derive(Clone, Copy, Debug, Default)]
pub struct Everything;

impl Scope for Everything {
    type Viewer = ();

    fn sees(&self, (): &(), _: &Resource) -> bool {
        true
    }
}

/// A change of one name since some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which name.
    pub name: Arc<str>,
    /// Whether it may also have come into existence, gone, or into another company: who wants it must be asked anew.
    pub reshaped: bool,
}

/// All resources, by type and name, with the order in which they changed.
#[derive(Clone, Debug, Default)]
pub struct Store {
    revision: u64,
    shelves: BTreeMap<TypeUrl, Shelf>,
    bundles: Bundles,
}

/// The resources of one type.
#[derive(Clone, Debug, Default)]
struct Shelf {
    live: BTreeMap<Arc<str>, Arc<Resource>>,
    /// The latest change of each name, by revision: what was removed stays in it.
    log: BTreeSet<(u64, Arc<str>)>,
    /// The revisions of the latest change of each name.
    touched: HashMap<Arc<str>, Touch>,
    /// Changes up to this revision may have been forgotten.
    forgotten: u64,
}

#[derive(Clone, Copy, Debug)]
struct Touch {
    at: u64,
    reshaped: u64,
}

/// Removed names that a shelf remembers beyond the number of those that live. A session that looks away for longer compares all.
const REMEMBERED: usize = 1024;

impl Store {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of changes so far. Means nothing to another store.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What comes along with what.
    pub fn bundles(&self) -> &Bundles {
        &self.bundles
    }

    /// The resource of this name, when it exists.
    pub fn resource(&self, type_url: &TypeUrl, name: &str) -> Option<&Arc<Resource>> {
        self.shelves.get(type_url)?.live.get(name)
    }

    /// All resources of a type in the order of their names.
    pub fn resources<'s>(&'s self, type_url: &TypeUrl) -> impl Iterator<Item = &'s Arc<Resource>> + use<'s> {
        self.shelves.get(type_url).into_iter().flat_map(|shelf| shelf.live.values())
    }

    /// The number of resources.
    pub fn len(&self) -> usize {
        self.shelves.values().map(|shelf| shelf.live.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds or replaces a resource. False when it is what is there already, so that nothing changed.
    pub fn put(&mut self, resource: Resource) -> bool {
        let key = resource.key().clone();
        let old = self.resource(&key.type_url, &key.name).cloned();
        if old.as_deref() == Some(&resource) {
            return false;
        }
        self.revision += 1;
        let resource = Arc::new(resource);
        let moved = self.bundles.replace(old.as_deref(), Some(&resource));
        let shelf = self.shelves.entry(key.type_url.clone()).or_default();
        // The name inside the resource is the one that is shared from here on.
        let name = resource.key().name.clone();
        shelf.live.insert(name.clone(), resource);
        shelf.touch(&name, self.revision, old.is_none());
        self.reshape(moved);
        true
    }

    /// Removes a resource. False when it was not there.
    pub fn remove(&mut self, key: &Key) -> bool {
        let Some(old) = self.shelves.get_mut(&key.type_url).and_then(|shelf| shelf.live.remove(&key.name)) else {
            return false;
        };
        self.revision += 1;
        let moved = self.bundles.replace(Some(&old), None);
        if let Some(shelf) = self.shelves.get_mut(&key.type_url) {
            shelf.touch(&old.key().name, self.revision, true);
            shelf.forget();
        }
        self.reshape(moved);
        true
    }

    /// What changed in a type after `revision`, in the order of the changes; each name once. `None` when too much happened since
    /// then to be remembered: everything must be compared.
    pub fn changes_since<'s>(
        &'s self,
        type_url: &TypeUrl,
        revision: u64,
    ) -> Option<impl Iterator<Item = Change> + use<'s>> {
        let shelf = self.shelves.get(type_url);
        if shelf.is_some_and(|shelf| revision < shelf.forgotten) {
            return None;
        }
        Some(shelf.into_iter().flat_map(move |shelf| shelf.changes_since(revision)))
    }

    /// Marks what exists of `moved` as reshaped in the present revision.
    fn reshape(&mut self, moved: impl IntoIterator<Item = Key>) {
        for key in moved {
            if let Some(shelf) = self.shelves.get_mut(&key.type_url)
                && shelf.live.contains_key(&key.name)
            {
                shelf.touch(&key.name, self.revision, true);
            }
        }
    }
}

impl Shelf {
    fn changes_since(&self, revision: u64) -> impl Iterator<Item = Change> {
        self.log.range((revision + 1, Arc::from(""))..).map(move |(_, name)| Change {
            name: name.clone(),
            reshaped: self.touched.get(name).is_none_or(|touch| touch.reshaped > revision),
        })
    }

    /// Notes a change of `name` in `revision`.
    fn touch(&mut self, name: &Arc<str>, revision: u64, reshaped: bool) {
        let before = self.touched.get(name).copied();
        if let Some(before) = before {
            self.log.remove(&(before.at, name.clone()));
        }
        let reshaped = match before {
            Some(before) if !reshaped => before.reshaped,
            _ => revision,
        };
        self.log.insert((revision, name.clone()));
        self.touched.insert(name.clone(), Touch { at: revision, reshaped });
    }

    /// Forgets the older half of what was removed once it is much more than what lives.
    fn forget(&mut self) {
        let dead = self.touched.len() - self.live.len();
        if dead <= self.live.len() + REMEMBERED {
            return;
        }
        let old: Vec<_> =
            self.log.iter().filter(|(_, name)| !self.live.contains_key(name)).take(dead / 2).cloned().collect();
        for entry in old {
            self.forgotten = self.forgotten.max(entry.0);
            self.touched.remove(&entry.1);
            self.log.remove(&entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn kind(name: &str) -> TypeUrl {
        TypeUrl::from(name)
    }

    fn resource(kind: &str, name: &str, contents: &'static str) -> Resource {
        Resource::new(Key::new(&TypeUrl::from(kind), name), Bytes::from_static(contents.as_bytes()))
    }

    fn changes(store: &Store, revision: u64) -> Vec<(String, bool)> {
        let changes = store.changes_since(&kind("a"), revision).expect("remembered");
        changes.map(|change| (change.name.to_string(), change.reshaped)).collect()
    }

    fn change(name: &str, reshaped: bool) -> (String, bool) {
        (name.to_owned(), reshaped)
    }

    #[test]
    fn changes_come_once_in_order_and_only_what_is_new() {
        let mut store = Store::new();
        for name in ["x", "y"] {
            assert!(store.put(resource("a", name, "1")));
        }
        assert!(!store.put(resource("a", "x", "1")));
        assert!(store.put(resource("b", "x", "1")));
        assert!(store.put(resource("a", "x", "2")));
        assert_eq!(changes(&store, 0), [change("y", true), change("x", true)]);
        assert_eq!(changes(&store, 2), [change("x", false)]);
        assert!(store.remove(&Key::new(&kind("a"), "y")));
        assert!(!store.remove(&Key::new(&kind("a"), "y")));
        assert_eq!(changes(&store, 4), [change("y", true)]);
        assert_eq!(changes(&store, store.revision()), []);
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn a_new_company_reshapes_what_follows() {
        let mut store = Store::new();
        store.put(resource("a", "slice", "1").joining(vec![Key::new(&kind("b"), "service")]));
        let seen = store.revision();
        store.put(resource("b", "route", "1").bringing(vec![Key::new(&kind("b"), "service")]));
        assert_eq!(changes(&store, seen), [change("slice", true)]);
        let seen = store.revision();
        store.put(resource("b", "route", "2").bringing(vec![Key::new(&kind("b"), "service")]));
        assert_eq!(changes(&store, seen), []);
        store.remove(&Key::new(&kind("b"), "route"));
        assert_eq!(changes(&store, seen), [change("slice", true)]);
    }

    #[test]
    fn what_was_removed_is_not_remembered_for_ever() {
        let mut store = Store::new();
        for index in 0..3 * REMEMBERED {
            let name = format!("n{index}");
            store.put(resource("a", &name, "1"));
            store.remove(&Key::new(&kind("a"), &name));
        }
        let shelf = &store.shelves[&kind("a")];
        assert!(shelf.touched.len() <= REMEMBERED && shelf.log.len() == shelf.touched.len());
        assert!(store.changes_since(&kind("a"), 0).is_none());
        assert_eq!(changes(&store, store.revision() - 1).len(), 1);
    }
}
