//! The log of what echo pods were asked, so that mirrored copies can be found and counted. It outlives the pods that write it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Request targets in the order of their arrival. Clones share one log.
#[derive(Clone, Debug, Default)]
pub struct RequestLog {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    targets: Mutex<Vec<String>>,
    grown: Notify,
}

impl RequestLog {
    /// An empty log.
    pub fn new() -> RequestLog {
        RequestLog::default()
    }

    pub(crate) fn note(&self, target: &str) {
        let mut targets = self.shared.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.push(target.to_owned());
        drop(targets);
        self.shared.grown.notify_waiters();
    }

    /// How many requests had exactly this target so far.
    pub fn count(&self, target: &str) -> usize {
        let targets = self.shared.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.iter().filter(|logged| *logged == target).count()
    }

    /// How many requests there were so far.
    pub fn len(&self) -> usize {
        self.shared.targets.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there was none so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns once a request with this target has been logged, now or earlier. Without a limit: wrap it in a timeout.
    pub async fn wait_for(&self, target: &str) {
        loop {
            let grown = self.shared.grown.notified();
            tokio::pin!(grown);
            // Enabled before looking, so that an entry between looking and waiting is not missed.
            grown.as_mut().enable();
            if self.count(target) > 0 {
                return;
            }
            grown.await;
        }
    }
}
