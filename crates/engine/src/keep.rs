//! What policies remember from request to request, shared by all workers and by all generations of the configuration.
//!
//! Reached while policies are compiled (`CompileCx::keep`), so that a compiled policy holds its memory and no request has to look for
//! it. Kept by its name, for as long as some snapshot uses it: a reload forgets no counter. Of each it is known which policies use it, so that it is
//! held too while none of them can be used.

use std::any::{Any, TypeId};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

struct Entry {
    memory: Weak<dyn Any + Send + Sync>,
    /// The policies that use it, or did: `RateLimitPolicy shop/a`.
    policies: BTreeSet<Box<str>>,
}

impl Entry {
    fn get(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.memory.upgrade()
    }
}

/// Memories that are held and not used.
#[derive(Default)]
pub(crate) struct Idle(Vec<Arc<dyn Any + Send + Sync>>);

impl fmt::Debug for Idle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Idle({})", self.0.len())
    }
}

/// The memories of all policies of one process.
#[derive(Default)]
pub struct Keep {
    entries: Mutex<HashMap<(TypeId, Box<str>), Entry>>,
}

impl Keep {
    /// The memory with this name, made when there is none.
    pub fn of<T: Send + Sync + 'static>(&self, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
        self.find(name, None, make)
    }

    /// The same, used by this policy (`RateLimitPolicy shop/a`).
    pub(crate) fn of_policy<T: Send + Sync + 'static>(
        &self,
        policy: &str,
        name: &str,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        self.find(name, Some(policy), make)
    }

    fn find<T: Send + Sync + 'static>(&self, name: &str, policy: Option<&str>, make: impl FnOnce() -> T) -> Arc<T> {
        let key = (TypeId::of::<T>(), Box::from(name));
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&key)
            && let Some(known) = entry.get().and_then(|known| known.downcast::<T>().ok())
        {
            entry.policies.extend(policy.map(Box::from));
            return known;
        }
        entries.retain(|_, entry| entry.get().is_some());
        let made = Arc::new(make());
        let shared: Arc<dyn Any + Send + Sync> = made.clone();
        let policies = policy.map(Box::from).into_iter().collect();
        entries.insert(key, Entry { memory: Arc::downgrade(&shared), policies });
        made
    }

    /// The memories of these policies, to be held while the policies cannot be used: what was counted, used up or given up is known still when they can
    /// again.
    pub(crate) fn of_policies(&self, policies: &BTreeSet<Box<str>>) -> Idle {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = entries.values().filter(|entry| !entry.policies.is_disjoint(policies));
        Idle(theirs.filter_map(Entry::get).collect())
    }

    /// Only these policies are there, and may be asked about: what many share does not remember all that ever used it.
    pub(crate) fn forget_policies_besides(&self, there: &BTreeSet<Box<str>>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.values_mut().for_each(|entry| entry.policies.retain(|policy| there.contains(policy)));
    }

    /// The memory with this name, if some snapshot uses it.
    pub fn known<T: Send + Sync + 'static>(&self, name: &str) -> Option<Arc<T>> {
        let key = (TypeId::of::<T>(), Box::from(name));
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(&key).and_then(Entry::get).and_then(|known| known.downcast::<T>().ok())
    }
}

impl fmt::Debug for Keep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Keep").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_of_a_policy_are_found_by_its_name() {
        let keep = Keep::default();
        let (a, ab) = ("RateLimitPolicy shop/a", "RateLimitPolicy shop/ab");
        let one: Arc<u32> = keep.of_policy(a, "one", || 1);
        let _other: Arc<u32> = keep.of_policy(ab, "other", || 2);
        let both: Arc<u32> = keep.of_policy(ab, "both", || 3);
        keep.of_policy(a, "both", || 4u32);
        let held = keep.of_policies(&BTreeSet::from([Box::from(a)]));
        drop((one, both));
        assert_eq!((held.0.len(), *keep.of("one", || 5u32), *keep.of("both", || 5u32)), (2, 1, 3));
        drop(held);
        assert_eq!(*keep.of("one", || 5u32), 5);
        keep.forget_policies_besides(&BTreeSet::from([Box::from(a)]));
        assert_eq!(keep.of_policies(&BTreeSet::from([Box::from(ab)])).0.len(), 0);
    }

    #[test]
    fn a_memory_is_shared_by_name_and_type_while_it_is_used() {
        let keep = Keep::default();
        let one: Arc<u32> = keep.of("shop/limit", || 1);
        assert_eq!(*keep.of("shop/limit", || 2u32), 1);
        assert_eq!(*keep.of("shop/limit", || 2u64), 2);
        drop(one);
        assert_eq!(*keep.of("shop/limit", || 3u32), 3);
    }
}
