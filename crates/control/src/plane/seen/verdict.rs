//! The verdict on a service: what one window of time says, and what stands after several.
//!
//! Called by `seen` at the end of every window. Pure: what was seen is an argument, and windows are counted, not timed.

/// How a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nobody calls it, and no instance is registered.
    #[default]
    Unknown,
    /// All is well.
    Healthy,
    /// Some of it fails.
    Degraded,
    /// Most of it fails, or there is nothing left.
    Failing,
}

impl Verdict {
    /// The word for people and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Unknown => "unknown",
            Verdict::Healthy => "healthy",
            Verdict::Degraded => "degraded",
            Verdict::Failing => "failing",
        }
    }
}

/// So many of a thousand requests that fail make a service degraded.
const DEGRADED_PER_MILLE: u64 = 10;
/// So many of a thousand requests that fail make it failing.
const FAILING_PER_MILLE: u64 = 500;
/// With fewer requests in a window its errors say nothing.
const ENOUGH: u64 = 10;
/// A verdict becomes worse after so many windows in a row that say so.
const WORSE_AFTER: u32 = 2;
/// And better, or unknown, after so many.
const BETTER_AFTER: u32 = 3;

/// What one window shows of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// Requests of all callers.
    pub(super) requests: u64,
    /// Those that failed by its fault.
    pub(super) errors: u64,
    /// Instances that are registered and do not end.
    pub(super) instances: usize,
    /// Those of them that are well, as far as was heard.
    pub(super) well: usize,
    /// Those of the well ones that are silent, and called all the same.
    pub(super) kept: usize,
    /// Instances that are well by their own word, and that a caller leaves alone.
    pub(super) shunned: usize,
}

impl Window {
    /// What the window says by itself: the worse of what the traffic shows and what the registry knows.
    pub(super) fn verdict(&self) -> Verdict {
        let failed = u128::from(self.errors.min(self.requests)) * 1000;
        let share = |per_mille: u64| failed >= u128::from(self.requests) * u128::from(per_mille);
        let traffic = match self.requests {
            0..ENOUGH => Verdict::Unknown,
            _ if share(FAILING_PER_MILLE) => Verdict::Failing,
            _ if share(DEGRADED_PER_MILLE) => Verdict::Degraded,
            _ => Verdict::Healthy,
        };
        let registry = match (self.instances, self.well) {
            (0, _) => Verdict::Unknown,
            (_, 0) => Verdict::Failing,
            (all, well) if well < all || self.kept > 0 || self.shunned > 0 => Verdict::Degraded,
            _ => Verdict::Healthy,
        };
        traffic.max(registry)
    }
}

/// The verdict that stands, and what speaks against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    verdict: Verdict,
    /// Windows in a row that were worse, and the least bad of them.
    worse: (u32, Verdict),
    /// Windows in a row that were better, and the least good of them.
    better: (u32, Verdict),
}

impl Standing {
    /// The verdict.
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Takes in what a window says. True when the verdict changes.
    pub(super) fn note(&mut self, seen: Verdict) -> bool {
        let before = self.verdict;
        // Nothing has to be outweighed when nothing is known.
        if before == Verdict::Unknown && seen == Verdict::Healthy {
            *self = Standing { verdict: seen, ..Standing::default() };
            return true;
        }
        // That nothing is known any more is no bad news.
        let is_worse = seen > before;
        self.worse = match self.worse {
            _ if !is_worse => (0, seen),
            (0, _) => (1, seen),
            (windows, mildest) => (windows + 1, mildest.min(seen)),
        };
        self.better = match self.better {
            _ if seen >= before => (0, seen),
            (0, _) => (1, seen),
            (windows, worst) => (windows + 1, worst.max(seen)),
        };
        if self.worse.0 >= WORSE_AFTER {
            *self = Standing { verdict: self.worse.1, ..Standing::default() };
        } else if self.better.0 >= BETTER_AFTER {
            *self = Standing { verdict: self.better.1, ..Standing::default() };
        }
        self.verdict != before
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Degraded, Failing, Healthy, Unknown};
    use super::*;

    fn window(requests: u64, errors: u64, instances: usize, well: usize, shunned: usize) -> Window {
        Window { requests, errors, instances, well, shunned, kept: 0 }
    }

    #[test]
    fn who_is_silent_and_called_all_the_same_is_no_sign_of_health() {
        assert_eq!(Window { kept: 1, ..window(0, 0, 1, 1, 0) }.verdict(), Degraded);
        assert_eq!(Window { kept: 1, ..window(100, 60, 1, 1, 0) }.verdict(), Failing);
    }

    #[test]
    fn a_window_says_the_worse_of_traffic_and_registry() {
        for (seen, expected) in [
            // Nothing at all, and too little to say anything.
            (window(0, 0, 0, 0, 0), Unknown),
            (window(9, 9, 0, 0, 0), Unknown),
            // By traffic alone.
            (window(10, 0, 0, 0, 0), Healthy),
            (window(1000, 9, 0, 0, 0), Healthy),
            (window(1000, 10, 0, 0, 0), Degraded),
            (window(1000, 499, 0, 0, 0), Degraded),
            (window(1000, 500, 0, 0, 0), Failing),
            (window(10, 10, 0, 0, 0), Failing),
            // By the registry alone.
            (window(0, 0, 2, 2, 0), Healthy),
            (window(9, 9, 2, 2, 0), Healthy),
            (window(0, 0, 2, 1, 0), Degraded),
            (window(0, 0, 2, 2, 1), Degraded),
            (window(0, 0, 2, 0, 0), Failing),
            // By both.
            (window(100, 0, 2, 1, 0), Degraded),
            (window(100, 0, 2, 0, 0), Failing),
            (window(100, 60, 2, 2, 0), Failing),
            // Whatever a proxy claims.
            (window(u64::MAX, u64::MAX, 1, 1, 0), Failing),
            (window(10, u64::MAX, 1, 1, 0), Failing),
        ] {
            assert_eq!(seen.verdict(), expected, "{seen:?}");
        }
    }

    /// What stands after each of the windows.
    fn course(windows: &[Verdict]) -> Vec<Verdict> {
        let mut standing = Standing::default();
        windows
            .iter()
            .map(|seen| {
                standing.note(*seen);
                standing.verdict()
            })
            .collect()
    }

    #[test]
    fn a_verdict_is_slow_to_fall_and_slower_to_rise() {
        for (windows, expected) in [
            // Good news of something unknown is taken at once, bad news is not.
            (&[Healthy][..], &[Healthy][..]),
            (&[Failing, Failing], &[Unknown, Failing]),
            (&[Failing, Healthy, Failing], &[Unknown, Healthy, Healthy]),
            // Worse after two in a row.
            (&[Healthy, Failing, Failing], &[Healthy, Healthy, Failing]),
            (&[Healthy, Failing, Healthy, Failing], &[Healthy; 4]),
            // Two different ones: the milder, which both of them say.
            (&[Healthy, Failing, Degraded, Failing, Failing], &[Healthy, Healthy, Degraded, Degraded, Failing]),
            // Better after three in a row, to what all of them say.
            (&[Failing, Failing, Healthy, Healthy, Healthy], &[Unknown, Failing, Failing, Failing, Healthy]),
            (
                &[Failing, Failing, Healthy, Degraded, Healthy, Healthy, Healthy, Healthy],
                &[Unknown, Failing, Failing, Failing, Degraded, Degraded, Degraded, Healthy],
            ),
            (
                &[Failing, Failing, Healthy, Healthy, Failing, Healthy, Healthy, Healthy],
                &[Unknown, Failing, Failing, Failing, Failing, Failing, Failing, Healthy],
            ),
            // Silence takes as long as good news.
            (&[Healthy, Unknown, Unknown, Unknown], &[Healthy, Healthy, Healthy, Unknown]),
        ] {
            assert_eq!(course(windows), expected, "{windows:?}");
        }
    }
}
