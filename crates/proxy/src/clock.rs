//! The worker's time: monotonic for durations and timers, wall time for logs and certificates.
//!
//! Called once or twice per request. The engine is given these values and never asks for them itself.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A worker's clock. All workers count from one origin, so that their times compare.
pub(crate) struct Clock {
    origin: Instant,
    origin_unix: Cell<Duration>,
}

/// One moment on both scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Since the clock's origin; never goes back.
    pub monotonic: Duration,
    /// Since 1970 by the wall clock at the origin plus the monotonic distance; a step of the system clock shows at the
    /// next [`Clock::resync`].
    pub unix: Duration,
}

impl Clock {
    pub(crate) fn since(origin: Instant) -> Self {
        let clock = Self { origin, origin_unix: Cell::default() };
        clock.resync();
        clock
    }

    pub(crate) fn now(&self) -> Moment {
        let monotonic = self.origin.elapsed();
        Moment { monotonic, unix: self.origin_unix.get() + monotonic }
    }

    /// Follows steps of the system clock; called by the worker's sweep.
    pub(crate) fn resync(&self) {
        self.origin_unix.set(wall().saturating_sub(self.origin.elapsed()));
    }
}

impl From<Moment> for transept_engine::exchange::Now {
    fn from(moment: Moment) -> Self {
        Self { monotonic: moment.monotonic, unix: moment.unix }
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
