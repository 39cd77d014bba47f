//! How long tries take: the median of the last ones, for requests whose time is limited.
//!
//! Called by `Turns`, for each backend that such requests go to. A try that has less time left than half of all take is not worth beginning, once there
//! has been one. Numbers are exact, of one worker, and are forgotten with the time: a backend that was slow is tried again.

use std::time::Duration;

/// So many tries are remembered.
const MOST: usize = 64;

/// With fewer nothing is concluded.
const LEAST: usize = 8;

/// What is older says nothing.
const WINDOW: Duration = Duration::from_secs(10);

/// The last tries at one backend: when each ended, and how long it had taken.
#[derive(Debug, Default)]
pub(super) struct Pace {
    tries: Vec<(Duration, Duration)>,
    next: usize,
}

impl Pace {
    /// A try has ended with a response head, or with the time for one.
    pub(super) fn note(&mut self, took: Duration, now: Duration) {
        match self.tries.get_mut(self.next) {
            Some(oldest) => *oldest = (now, took),
            None => self.tries.push((now, took)),
        }
        self.next = (self.next + 1) % MOST;
    }

    /// The time within which half of the tries have ended; none while too few are known.
    pub(super) fn median(&self, now: Duration) -> Option<Duration> {
        let recent = self.tries.iter().filter(|(at, _)| at.saturating_add(WINDOW) >= now);
        let mut times: Vec<Duration> = recent.map(|(_, took)| *took).collect();
        if times.len() < LEAST {
            return None;
        }
        let middle = times.len() / 2;
        Some(*times.select_nth_unstable(middle).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn half_of_the_last_ones_are_quicker() {
        let mut pace = Pace::default();
        for took in 1..LEAST as u64 {
            pace.note(millis(took), millis(0));
        }
        assert_eq!(pace.median(millis(0)), None);
        pace.note(millis(100), millis(0));
        assert_eq!(pace.median(millis(0)), Some(millis(5)));
        for took in 0..1000 {
            pace.note(millis(took), millis(0));
        }
        assert_eq!(pace.median(millis(0)), Some(millis(968)));
    }

    #[test]
    fn what_was_long_ago_says_nothing() {
        let mut pace = Pace::default();
        for _ in 0..20 {
            pace.note(millis(500), millis(0));
        }
        assert_eq!(pace.median(millis(10_000)), Some(millis(500)));
        assert_eq!(pace.median(millis(10_001)), None);
    }
}
