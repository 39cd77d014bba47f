//! When to try again: exponential, with full jitter, forgetting only after a time of peace.
//!
//! Used by `client` between two connections. It draws nothing and reads no clock: random bits and times are arguments.

use std::time::Duration;

/// How long to wait between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The most that the first wait may be.
    pub first: Duration,
    /// The most that any wait may be.
    pub longest: Duration,
    /// How long a connection must have held before the next wait is a first one again.
    pub stable: Duration,
}

impl Default for Pace {
    /// Half a second, half a minute, ten seconds.
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(30), stable: Duration::from_secs(10) }
    }
}

/// The failures so far.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A connection held for `held` and is gone, or never was (`None`). How long to wait, anywhere between nothing and the bound
    /// that doubles with every round over all `servers`: a proxy that has somewhere else to go goes there first.
    pub fn failed(&mut self, pace: &Pace, servers: usize, held: Option<Duration>, random: u64) -> Duration {
        if held.is_some_and(|held| held >= pace.stable) {
            self.failures = 0;
        }
        let round = usize::try_from(self.failures).unwrap_or(usize::MAX) / servers.max(1);
        self.failures = self.failures.saturating_add(1);
        let factor = 2u32.saturating_pow(u32::try_from(round).unwrap_or(u32::MAX));
        let bound = pace.first.saturating_mul(factor).min(pace.longest);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        // Maps 64 random bits to `0..=nanos` by their product's upper half.
        let wait = (u128::from(random) * (u128::from(nanos) + 1)) >> 64;
        Duration::from_nanos(u64::try_from(wait).unwrap_or(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_longest() {
        let (mut backoff, pace) = (Backoff::default(), Pace::default());
        let waits: Vec<u128> = (0..9).map(|_| backoff.failed(&pace, 1, None, u64::MAX).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        for _ in 0..100 {
            assert_eq!(backoff.failed(&pace, 1, None, 0), Duration::ZERO);
        }
    }

    #[test]
    fn every_server_is_tried_before_the_bound_doubles() {
        let (mut backoff, pace) = (Backoff::default(), Pace::default());
        let waits: Vec<u128> = (0..5).map(|_| backoff.failed(&pace, 2, None, u64::MAX).as_millis()).collect();
        assert_eq!(waits, [500, 500, 1000, 1000, 2000]);
    }

    #[test]
    fn only_a_connection_that_held_resets_it() {
        let (mut backoff, pace) = (Backoff::default(), Pace::default());
        for _ in 0..4 {
            backoff.failed(&pace, 1, None, u64::MAX);
        }
        let short = backoff.failed(&pace, 1, Some(pace.stable - Duration::from_millis(1)), u64::MAX);
        assert_eq!(short, Duration::from_secs(8));
        assert_eq!(backoff.failed(&pace, 1, Some(pace.stable), u64::MAX), pace.first);
    }
}
