//! What comes along with what: the graph of resources that are sent together when one of them is asked for.
//!
//! Kept by `source::Store`, asked by sessions of proxies that subscribe on demand. Edges are declared by resources (`joins`,
//! `brings`) and counted, so that two resources may declare the same one. Who may see a resource is not asked here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::resource::{Key, Resource};

/// A directed graph over keys, also of resources that do not exist yet.
#[derive(Clone, Debug, Default)]
pub struct Bundles {
    /// From a key to what comes along with it, with the number of declarations.
    along: HashMap<Key, BTreeMap<Key, usize>>,
    /// The same backwards.
    because: HashMap<Key, BTreeSet<Key>>,
}

impl Bundles {
    /// Replaces the edges that `old` declared by those of `new`, and says which keys may be reached differently: the ends of edges
    /// that came or went, with all that follows them.
    pub(crate) fn replace(&mut self, old: Option<&Resource>, new: Option<&Resource>) -> BTreeSet<Key> {
        let (before, after) = (edges(old), edges(new));
        let mut moved: BTreeSet<Key> = BTreeSet::new();
        for (from, to) in before.difference(&after) {
            if self.drop_edge(from, to) {
                moved.insert(Key::clone(to));
            }
        }
        for (from, to) in after.difference(&before) {
            if self.add_edge(from, to) {
                moved.insert(Key::clone(to));
            }
        }
        self.follow(moved)
    }

    /// `keys` and everything that comes along with them.
    pub fn follow(&self, keys: impl IntoIterator<Item = Key>) -> BTreeSet<Key> {
        let mut waiting: Vec<Key> = keys.into_iter().collect();
        let mut found: BTreeSet<Key> = waiting.iter().cloned().collect();
        while let Some(key) = waiting.pop() {
            for next in self.along.get(&key).into_iter().flat_map(BTreeMap::keys) {
                if found.insert(next.clone()) {
                    waiting.push(next.clone());
                }
            }
        }
        found
    }

    /// Whether `key` comes along with a key for which `asked` is true, itself not counted.
    pub fn is_brought(&self, key: &Key, asked: impl Fn(&Key) -> bool) -> bool {
        let mut seen = HashSet::from([key]);
        let mut waiting = vec![key];
        while let Some(key) = waiting.pop() {
            for from in self.because.get(key).into_iter().flatten() {
                if seen.insert(from) {
                    if asked(from) {
                        return true;
                    }
                    waiting.push(from);
                }
            }
        }
        false
    }

    /// True when there was no such edge.
    fn add_edge(&mut self, from: &Key, to: &Key) -> bool {
        let count = self.along.entry(from.clone()).or_default().entry(to.clone()).or_default();
        *count += 1;
        self.because.entry(to.clone()).or_default().insert(from.clone());
        *count == 1
    }

    /// True when it was the last declaration of the edge.
    fn drop_edge(&mut self, from: &Key, to: &Key) -> bool {
        let Some(targets) = self.along.get_mut(from) else { return false };
        let Some(count) = targets.get_mut(to) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        targets.remove(to);
        if targets.is_empty() {
            self.along.remove(from);
        }
        if let Some(sources) = self.because.get_mut(to) {
            sources.remove(from);
            if sources.is_empty() {
                self.because.remove(to);
            }
        }
        true
    }
}

fn edges(resource: Option<&Resource>) -> BTreeSet<(&Key, &Key)> {
    let joins = resource.iter().flat_map(|resource| resource.joins().iter().map(|from| (from, resource.key())));
    let brings = resource.iter().flat_map(|resource| resource.brings().iter().map(|to| (resource.key(), to)));
    joins.chain(brings).filter(|(from, to)| from != to).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::resource::TypeUrl;

    fn key(name: &str) -> Key {
        Key::new(&TypeUrl::from("t"), name)
    }

    fn resource(name: &str, joins: &[&str], brings: &[&str]) -> Resource {
        Resource::new(key(name), Bytes::new())
            .joining(joins.iter().map(|name| key(name)).collect())
            .bringing(brings.iter().map(|name| key(name)).collect())
    }

    fn names(keys: &BTreeSet<Key>) -> Vec<&str> {
        keys.iter().map(|key| key.name.as_ref()).collect()
    }

    #[test]
    fn what_joins_and_what_is_brought_comes_along_in_circles_too() {
        let mut bundles = Bundles::default();
        let route = resource("route", &["service"], &["other", "service"]);
        assert_eq!(names(&bundles.replace(None, Some(&route))), ["other", "route", "service"]);
        bundles.replace(None, Some(&resource("slice", &["other"], &[])));
        assert_eq!(names(&bundles.follow([key("service")])), ["other", "route", "service", "slice"]);
        assert!(bundles.is_brought(&key("slice"), |asked| asked == &key("service")));
        assert!(!bundles.is_brought(&key("slice"), |asked| asked == &key("slice")));
        assert!(bundles.is_brought(&key("service"), |asked| asked == &key("route")));
    }

    #[test]
    fn an_edge_declared_twice_goes_with_the_second() {
        let mut bundles = Bundles::default();
        let (a, b) = (resource("a", &[], &["b"]), resource("b", &["a"], &[]));
        bundles.replace(None, Some(&a));
        assert!(bundles.replace(None, Some(&b)).is_empty());
        assert!(bundles.replace(Some(&a), None).is_empty());
        assert!(bundles.is_brought(&key("b"), |asked| asked == &key("a")));
        assert_eq!(names(&bundles.replace(Some(&b), None)), ["b"]);
        assert!(bundles.along.is_empty() && bundles.because.is_empty());
    }
}
