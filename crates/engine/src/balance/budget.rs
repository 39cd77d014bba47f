//! The retry budget: retries may add a fifth to the requests, and three a second in any case, unless a policy says otherwise.
//!
//! Kept by `Turns`, for each rule with a retry stanza, each backend with a policy about retries, and once for everything else; asked by `judge`.
//! Without it a failing backend gets the more requests the worse it does. A retry is counted when it is decided, before its backoff, so that
//! a herd of waiting retries is seen.

use std::time::Duration;

use crate::traffic::Allowance;

/// The span over which requests and retries are compared.
const WINDOW: Duration = Duration::from_secs(10);

/// Requests and retries of one rule in the current and the last half window.
#[derive(Debug, Default)]
pub(crate) struct Budget {
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

    /// Counts a request that may be followed by retries.
    pub(crate) fn count_request(&mut self, now: Duration) {
        let slot = self.turn(now);
        self.requests[slot] = self.requests[slot].saturating_add(1);
    }

    /// Whether there may be another retry.
    pub(crate) fn has_room(&mut self, allowance: Allowance, now: Duration) -> bool {
        self.turn(now);
        let requests = self.requests[0].saturating_add(self.requests[1]);
        let retries = self.retries[0].saturating_add(self.retries[1]);
        let floor = u64::from(allowance.per_second) * WINDOW.as_secs();
        u64::from(retries) < floor.max(u64::from(requests) * u64::from(allowance.percent) / 100)
    }

    /// Counts a retry, when it is decided.
    pub(crate) fn count_retry(&mut self, now: Duration) {
        let slot = self.turn(now);
        self.retries[slot] = self.retries[slot].saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(budget: &mut Budget, tries: usize, seconds: u64) -> usize {
        let now = Duration::from_secs(seconds);
        let mut taken = 0;
        while taken < tries && budget.has_room(Allowance::default(), now) {
            budget.count_retry(now);
            taken += 1;
        }
        taken
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
        assert!(!Budget::default().has_room(Allowance::NONE, Duration::from_secs(1)));
    }
}
