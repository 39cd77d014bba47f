//! What takes the place of a connection that had gone stale.
//!
//! Kept by `attempt.rs` for a request and by `callout.rs` for a question; whether a failure means that at all is said by `judge.rs`.

use super::{Pooled, Used};
use crate::worker::Worker;

/// How many connections have been replaced for one request, and which one may be next.
#[derive(Debug)]
pub(crate) struct Replacing {
    /// How many: their tries count for nothing.
    pub count: u32,
    /// What may be used.
    pub pooled: Pooled,
}

impl Default for Replacing {
    fn default() -> Self {
        Self { count: 0, pooled: Pooled::Welcome }
    }
}

impl Replacing {
    /// Whether another one may follow: first one that others share, so that all who were on a connection that has ended open one together. That
    /// one may be full, or over again, when it is this request's turn, and then it gets one of its own.
    pub(crate) fn may_follow(&self, used: Used) -> bool {
        self.count == 0 || self.count == 1 && used.is_over
    }

    /// Another one follows.
    pub(crate) fn follow(&mut self, used: Used, worker: &Worker) {
        self.count += 1;
        if used.is_over {
            self.pooled = if self.count == 1 { Pooled::Younger(worker.pool.youngest()) } else { Pooled::Unwanted };
        }
    }
}
