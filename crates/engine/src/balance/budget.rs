//! The retry budget: retries may add a fifth to the requests of a rule, and ten a second in any case.
//!
//! Called by `Turns`. Without it a failing backend gets the more requests the worse it does. A retry is counted when it is decided,
//! before its backoff, so that a herd of waiting retries is seen.

use std::time::Duration;

/// The span over which requests and retries are compared.
const WINDOW: Duration = Duration::from_secs(10);

/// Retries per window that are always allowed to one worker.
const FLOOR: u32 = 100;

/// One retry for so many requests.
const REQUESTS_PER_RETRY: u32 = 5;

/// Requests and retries of one rule in the current and the last half window.
#[derive(Debug, Default)]
pub(super) struct Budget {
    half: u64,
    requests: [u32; 2],
    retries: [u32; 2],
}

impl Budget {
    fn turn(&mut self, now: Duration) -> usize {
        let half = (now.as_millis() / (WINDOW.as_millis() / 2)) as u64;
        if half != self.half {
            let slot = (half % 2) as usize;
            self.requests[slot] = 0;
            self.retries[slot] = 0;
            if half > self.half + 1 {
                self.requests[1 - slot] = 0;
                self.retries[1 - slot] = 0;
            }
            self.half = half;
        }
        (half % 2) as usize
    }

    pub(super) fn count_request(&mut self, now: Duration) {
        let slot = self.turn(now);
        self.requests[slot] = self.requests[slot].saturating_add(1);
    }

    pub(super) fn take_retry(&mut self, now: Duration) -> bool {
        let slot = self.turn(now);
        let requests = self.requests[0].saturating_add(self.requests[1]);
        let retries = self.retries[0].saturating_add(self.retries[1]);
        let allowed = retries < FLOOR.max(requests / REQUESTS_PER_RETRY);
        if allowed {
            self.retries[slot] += 1;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_then_a_fifth() {
        let mut budget = Budget::default();
        let now = Duration::from_secs(100);
        assert_eq!((0..200).filter(|_| budget.take_retry(now)).count(), 100);
        for _ in 0..1000 {
            budget.count_request(now);
        }
        assert_eq!((0..200).filter(|_| budget.take_retry(now)).count(), 100);
    }

    #[test]
    fn a_window_passes() {
        let mut budget = Budget::default();
        assert_eq!((0..200).filter(|_| budget.take_retry(Duration::from_secs(100))).count(), 100);
        assert!(!budget.take_retry(Duration::from_secs(105)));
        assert!(budget.take_retry(Duration::from_secs(110)));
        assert!(budget.take_retry(Duration::from_secs(500)));
    }
}
