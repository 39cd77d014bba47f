//! Rules for the share of each backend (section 3.5).

use std::collections::BTreeMap;

/// What the shares must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares<'a> {
    /// How many requests were sent.
    pub requests: usize,
    /// The share of each backend, from 0 to 1.
    pub weights: &'a BTreeMap<String, f64>,
    /// How far a share may be off.
    pub tolerance: f64,
}

impl Shares<'_> {
    /// Compares how many requests each backend got.
    ///
    /// # Errors
    /// What it was instead.
    pub(crate) fn compare(&self, counts: &BTreeMap<String, usize>) -> Result<(), String> {
        let right = |(backend, weight): (&String, &f64)| {
            let count = counts.get(backend).copied().unwrap_or(0);
            let share = count as f64 / self.requests as f64;
            (*weight > 0.0) == (count > 0) && (share - weight).abs() <= self.tolerance
        };
        let only_known = counts.keys().all(|backend| self.weights.contains_key(backend));
        if only_known && self.weights.iter().all(right) {
            return Ok(());
        }
        Err(format!("{} requests went to {counts:?}, weights are {:?}", self.requests, self.weights))
    }
}

/// Counts by backend what was counted by pod.
pub(crate) fn count<'a>(pods: impl IntoIterator<Item = (&'a str, usize)>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (pod, number) in pods {
        *counts.entry(backend_of(pod).to_owned()).or_default() += number;
    }
    counts
}

/// The pod name without its last two parts.
fn backend_of(pod: &str) -> &str {
    pod.rsplitn(3, '-').nth(2).unwrap_or(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_within_the_tolerance_and_a_weight_of_zero_gets_nothing() {
        let weights = [("a-v1", 0.7), ("b", 0.3), ("c", 0.0)].map(|(name, weight)| (name.to_owned(), weight)).into();
        let shares = Shares { requests: 100, weights: &weights, tolerance: 0.05 };
        let check = |counts: &[(&str, usize)]| {
            let counts = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            shares.compare(&counts).is_ok()
        };
        assert!(check(&[("a-v1", 74), ("b", 26)]));
        assert!(!check(&[("a-v1", 76), ("b", 24)]));
        assert!(!check(&[("a-v1", 70), ("b", 29), ("c", 1)]));
        assert!(!check(&[("a-v1", 70), ("b", 29), ("d", 1)]));
    }

    #[test]
    fn a_backend_is_its_pod_without_hash_and_suffix() {
        let counts = count([("infra-backend-v1-6d5f7c9b8-p1", 2), ("infra-backend-v1-6d5f7c9b8-p2", 3)]);
        assert_eq!(counts, [("infra-backend-v1".to_owned(), 5)].into());
    }
}
