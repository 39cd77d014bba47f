//! Counts of an edge or a service over some time, and what follows from them.
//!
//! Kept by `book`, summed for verdicts and for people. Pure.

use transept_xds::report::{EdgeTotals, bucket_floor};

/// Buckets of latency that there are; a report that names further ones is wrong.
const BUCKETS: u32 = 252;

/// Counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) refusals: u64,
    pub(super) retries: u64,
    pub(super) ejections: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    /// Connections that are open now: of two totals the later one counts, and it says nothing about a window.
    pub(super) open: u64,
    /// How many requests are in which bucket of `bucket_of`, in order, without empty ones.
    latency: Vec<(u32, u64)>,
}

impl Figures {
    /// What a report says.
    pub(super) fn of(totals: &EdgeTotals) -> Self {
        let buckets = totals.latency.iter().filter(|bucket| bucket.index < BUCKETS && bucket.count > 0);
        let mut latency: Vec<(u32, u64)> = buckets.map(|bucket| (bucket.index, bucket.count)).collect();
        latency.sort_unstable();
        latency.dedup_by_key(|(index, _)| *index);
        Self {
            requests: totals.requests,
            errors: totals.errors,
            refusals: totals.refusals,
            retries: totals.retries,
            ejections: totals.ejections,
            bytes_sent: totals.bytes_sent,
            bytes_received: totals.bytes_received,
            open: totals.open,
            latency,
        }
    }

    /// Adds others. What a proxy claims may be any number.
    pub(super) fn add(&mut self, other: &Figures) {
        self.each(other, u64::saturating_add);
        self.open = self.open.saturating_add(other.open);
        for (index, count) in &other.latency {
            match self.latency.binary_search_by_key(index, |(index, _)| *index) {
                Ok(at) => self.latency[at].1 = self.latency[at].1.saturating_add(*count),
                Err(at) => self.latency.insert(at, (*index, *count)),
            }
        }
    }

    /// What has come since.
    pub(super) fn since(&self, before: &Figures) -> Figures {
        let mut grown = self.clone();
        grown.each(before, u64::saturating_sub);
        grown.open = 0;
        for (index, count) in &mut grown.latency {
            if let Ok(at) = before.latency.binary_search_by_key(index, |(index, _)| *index) {
                *count = count.saturating_sub(before.latency[at].1);
            }
        }
        grown.latency.retain(|(_, count)| *count > 0);
        grown
    }

    fn each(&mut self, other: &Figures, with: impl Fn(u64, u64) -> u64) {
        let pairs = [
            (&mut self.requests, other.requests),
            (&mut self.errors, other.errors),
            (&mut self.refusals, other.refusals),
            (&mut self.retries, other.retries),
            (&mut self.ejections, other.ejections),
            (&mut self.bytes_sent, other.bytes_sent),
            (&mut self.bytes_received, other.bytes_received),
        ];
        for (mine, others) in pairs {
            *mine = with(*mine, others);
        }
    }

    /// Whether nothing was counted.
    pub(super) fn is_empty(&self) -> bool {
        *self == Figures::default()
    }

    /// The share of requests that failed, from 0 to 1; none when there were no requests.
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub(super) fn error_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.errors.min(self.requests) as f64 / self.requests as f64)
    }

    /// The latency in microseconds that so many of a hundred requests do not exceed: the middle of its bucket. None without requests.
    pub(super) fn percentile(&self, percent: u64) -> Option<u64> {
        let total = self.latency.iter().fold(0_u128, |sum, (_, count)| sum + u128::from(*count));
        let wanted = (total * u128::from(percent)).div_ceil(100).max(1);
        let mut sum = 0_u128;
        for (index, count) in &self.latency {
            sum += u128::from(*count);
            if sum >= wanted {
                let (floor, next) = (bucket_floor(*index), bucket_floor(index + 1));
                return Some(floor + next.saturating_sub(floor) / 2);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use transept_xds::report::{Bucket, bucket_of};

    use super::*;

    fn figures(latencies: &[u64]) -> Figures {
        let mut sum = Figures::default();
        for micros in latencies {
            let bucket = Bucket { index: bucket_of(*micros), count: 1 };
            sum.add(&Figures::of(&EdgeTotals { requests: 1, latency: vec![bucket], ..EdgeTotals::default() }));
        }
        sum
    }

    #[test]
    fn percentiles_are_within_a_fifth() {
        let all: Vec<u64> = (1..=100).map(|n| n * 1000).collect();
        let figures = figures(&all);
        for (percent, expected) in [(50, 50_000), (99, 99_000), (1, 1000)] {
            let got = figures.percentile(percent).expect("a latency");
            assert!(got.abs_diff(expected) * 5 <= expected, "{percent}: {got}");
        }
        assert_eq!(Figures::default().percentile(50), None);
    }

    #[test]
    fn what_came_since_is_the_difference_and_never_less_than_nothing() {
        let (before, after) = (figures(&[10, 20]), figures(&[10, 20, 20, 30]));
        assert_eq!(after.since(&before), figures(&[20, 30]));
        assert!(before.since(&after).is_empty());
    }

    #[test]
    fn wild_numbers_do_no_harm() {
        let wild = EdgeTotals {
            requests: u64::MAX,
            errors: u64::MAX,
            latency: vec![
                Bucket { index: u32::MAX, count: 1 },
                Bucket { index: 251, count: u64::MAX },
                Bucket { index: 251, count: 1 },
            ],
            ..EdgeTotals::default()
        };
        let mut sum = Figures::of(&wild);
        sum.add(&Figures::of(&wild));
        assert_eq!(sum.error_rate(), Some(1.0));
        assert!(sum.percentile(99).is_some());
    }
}
