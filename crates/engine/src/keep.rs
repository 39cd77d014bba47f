//! What policies remember from request to request, shared by all workers and by all generations of the configuration.
//!
//! Reached while policies are compiled (`CompileCx::keep`), so that a compiled policy holds its memory and no request has to look for
//! it. Kept by the name of the policy and of the part, for as long as some snapshot uses it: a reload forgets no counter.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

type Entry = Weak<dyn Any + Send + Sync>;

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
    fn a_memory_is_shared_by_name_and_type_while_it_is_used() {
        let keep = Keep::default();
        let one: Arc<u32> = keep.of("shop/limit", || 1);
        assert_eq!(*keep.of("shop/limit", || 2u32), 1);
        assert_eq!(*keep.of("shop/limit", || 2u64), 2);
        drop(one);
        assert_eq!(*keep.of("shop/limit", || 3u32), 3);
    }
}
