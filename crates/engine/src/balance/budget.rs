//! The retry budget: retries may add a fifth to the requests, and three a second in any case, unless a policy says otherwise.
//!
//! Called by `Turns`, for each rule with a retry stanza, each backend with a policy about retries, and once for everything else. Without it a failing backend gets the more requests the worse it does. A retry is counted when it is decided,
//! before its backoff, so that a herd of waiting retries is seen.

use std::time::Duration;

use crate::traffic::Allowance;

/// The span over which requests and retries are compared.
const WINDOW: Duration = Duration::from_secs(10);

/// Requests and retries of one rule in the current and the last half window.
#[derive(Debug, Default)]
pub(super) struct Budget {
    half: u64,
    requests: [u32; 2],
    retries: [u32; 2],
}

impl Budget {
    fn turn(&mut self, now: Duration) -> usize {
        let half = now.as_secs() / (WINDOW.as_secs() / 2);
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

    pub(super) fn take_retry(&mut self, allowance: Allowance, now: Duration) -> bool {
        let slot = self.turn(now);
        let requests = self.requests[0].saturating_add(self.requests[1]);
        let retries = self.retries[0].saturating_add(self.retries[1]);
        let floor = u64::from(allowance.per_second) * WINDOW.as_secs();
        let allowed = u64::from(retries) < floor.max(u64::from(requests) * u64::from(allowance.percent) / 100);
        if allowed {
            self.retries[slot] += 1;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(budget: &mut Budget, tries: usize, seconds: u64) -> usize {
        let now = Duration::from_secs(seconds);
        (0..tries).filter(|_| budget.take_retry(Allowance::default(), now)).count()
    }

    #[test]
    fn the_floor_then_a_fifth() {
        let mut budget = Budget::default();
        assert_eq!(takes(&mut budget, 200, 100), 30);
        for _ in 0..1000 {
            budget.count_request(Duration::from_secs(100));
        }
        assert_eq!(takes(&mut budget, 500, 100), 170);
    }

    #[test]
    fn a_window_passes() {
        let mut budget = Budget::default();
        assert_eq!(takes(&mut budget, 200, 100), 30);
        assert_eq!(takes(&mut budget, 1, 105), 0);
        assert_eq!(takes(&mut budget, 1, 110), 1);
        assert_eq!(takes(&mut budget, 1, 500), 1);
    }

    #[test]
    fn a_policy_may_allow_none() {
        assert!(!Budget::default().take_retry(Allowance::NONE, Duration::from_secs(1)));
    }
}
