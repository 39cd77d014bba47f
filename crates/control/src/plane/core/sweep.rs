//! The look after everything that ends by itself, every second: registrations, leases, shares, roots.
//!
//! Called by `core`.

use std::time::Duration;

use super::{Name, Plane, Registry, now};

impl Plane {
    /// Looks who has been silent for too long at `moment`, counted from the start.
    pub(super) fn sweep(&self, moment: Duration) {
        let mut inner = self.lock();
        let was_frozen = inner.registry.is_frozen();
        let files = inner.files.clone();
        let changed = inner.registry.sweep(moment, &files.members);
        if inner.registry.is_frozen() && !was_frozen {
            tracing::warn!("most workloads fell silent at once: nobody is taken out until they return");
        }
        for name in changed {
            if inner.registry.entry(&name).is_none() {
                inner.leases.end(&name, now().as_secs());
            }
            tell_of(&inner.registry, &name, moment);
            inner.unsaved.insert(name);
        }
        let left = inner.registry.forget_left(moment, &files.members);
        inner.unsaved.extend(left);
        if !self.doubts_clock(&inner.rotation) {
            inner.leases.forget(now().as_secs());
        }
        if inner.sharing.sweep(moment) {
            self.stale.notify_one();
        }
        if !self.store.is_sound() && self.store.commit(&[]).is_ok() {
            tracing::info!("the state can be stored again");
        }
        // A failure is in the log, and the next sweep tries again.
        let _ = self.save(&mut inner).and_then(|()| self.turn(&mut inner, moment));
        if let Err(error) = self.tend_resident(&mut inner) {
            tracing::error!(%error, "the certificate of the gateway in this process cannot be looked after");
        }
    }
}

/// Says in the log what a sweep of the registry has changed about an instance.
fn tell_of(registry: &Registry, name: &Name, moment: Duration) {
    let workload = format!("{}/{}", name.0, name.1);
    let Some(entry) = registry.entry(name) else {
        tracing::warn!(workload, "silent for too long: removed");
        return;
    };
    if let Some((namespace, other)) = registry.replaced_by(name) {
        tracing::warn!(
            workload,
            "it has missed a sign of life since {namespace}/{other} registered from where it is: replaced"
        );
    } else if entry.lapsed {
        tracing::warn!(workload, "silent for too long: unhealthy");
    } else if registry.kept_silence(name, moment).is_some() {
        tracing::warn!(
            workload,
            "silent for too long: kept, because nobody who is heard serves what it serves, or a part of it"
        );
    } else if entry.guest {
        tracing::info!(
            workload,
            "whoever was there before is heard again at its address: the place is not its own any more"
        );
    } else if entry.turn == 0 {
        tracing::info!(workload, "whoever registered from where it is has gone: not replaced any more");
    } else {
        tracing::info!(workload, "whoever was there before is gone from its address: the place is its own");
    }
}
