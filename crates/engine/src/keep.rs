//! What policies remember from request to request, shared by all workers and by all generations of the configuration.
//!
//! Reached while policies are compiled (`CompileCx::keep`), so that a compiled policy holds its memory and no request has to look for
//! it. Kept by the name of the policy and of the part, for as long as some snapshot uses it: a reload forgets no counter.

use std::any::{Any, TypeId};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

type Entry = Weak<dyn Any + Send + Sync>;

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
        let key = (TypeId::of::<T>(), Box::from(name));
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = entries.get(&key).and_then(Weak::upgrade).and_then(|known| known.downcast::<T>().ok()) {
            return known;
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let made = Arc::new(make());
        let shared: Arc<dyn Any + Send + Sync> = made.clone();
        entries.insert(key, Arc::downgrade(&shared));
        made
    }
}

impl Keep {
    /// The memories of these policies (`RateLimitPolicy shop/a`), to be held while the policies cannot be used: what was counted is counted still when
    /// they can again.
    pub(crate) fn of_policies(&self, owners: &BTreeSet<String>) -> Idle {
        let is_theirs = |name: &str| {
            let end = name.match_indices(' ').nth(1).map_or(name.len(), |(at, _)| at);
            name.get(..end).is_some_and(|owner| owners.contains(owner))
        };
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = entries.iter().filter(|((_, name), _)| is_theirs(name));
        Idle(theirs.filter_map(|(_, entry)| entry.upgrade()).collect())
    }

    /// The memory with this name, if some snapshot uses it.
    pub fn known<T: Send + Sync + 'static>(&self, name: &str) -> Option<Arc<T>> {
        let key = (TypeId::of::<T>(), Box::from(name));
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(&key).and_then(Weak::upgrade).and_then(|known| known.downcast::<T>().ok())
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
        let (one, _other): (Arc<u32>, Arc<u32>) =
            (keep.of("RateLimitPolicy shop/a limit", || 1), keep.of("RateLimitPolicy shop/ab limit", || 2));
        let held = keep.of_policies(&BTreeSet::from(["RateLimitPolicy shop/a".to_owned()]));
        drop(one);
        assert_eq!((held.0.len(), *keep.of("RateLimitPolicy shop/a limit", || 3u32)), (1, 1));
        drop(held);
        assert_eq!(*keep.of("RateLimitPolicy shop/a limit", || 3u32), 3);
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
