//! Smooth weighted round robin over the backendRefs of a rule: any run of requests keeps the weights as closely as whole requests can.
//!
//! Called by `Turns`. The algorithm is nginx's: everybody gains his weight, the richest is chosen and pays the sum of all weights.

use smallvec::SmallVec;

/// The purse of every backendRef of one rule.
#[derive(Debug, Default)]
pub(super) struct Split {
    weights: SmallVec<[u32; 4]>,
    purses: SmallVec<[i64; 4]>,
}

impl Split {
    /// Whether nobody has had a turn yet.
    pub(super) fn is_new(&self) -> bool {
        self.weights.is_empty()
    }

    /// The position of the next backend. Other weights than last time start afresh.
    pub(super) fn next(&mut self, weights: impl ExactSizeIterator<Item = u32> + Clone) -> Option<usize> {
        if self.weights.len() != weights.len() || weights.clone().ne(self.weights.iter().copied()) {
            self.weights = weights.collect();
            self.purses = SmallVec::from_elem(0, self.weights.len());
        }
        let mut total = 0i64;
        let mut best: Option<(usize, i64)> = None;
        for (index, (weight, purse)) in self.weights.iter().zip(&mut self.purses).enumerate() {
            if *weight == 0 {
                continue;
            }
            total += i64::from(*weight);
            *purse += i64::from(*weight);
            if best.is_none_or(|(_, richest)| *purse > richest) {
                best = Some((index, *purse));
            }
        }
        let (index, _) = best?;
        *self.purses.get_mut(index)? -= total;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(split: &mut Split, weights: &[u32], requests: usize) -> Vec<usize> {
        let mut counts = vec![0; weights.len()];
        for _ in 0..requests {
            if let Some(index) = split.next(weights.iter().copied()) {
                counts[index] += 1;
            }
        }
        counts
    }

    #[test]
    fn weights_are_kept_exactly_over_a_round() {
        assert_eq!(shares(&mut Split::default(), &[70, 30, 0], 500), [350, 150, 0]);
        assert_eq!(shares(&mut Split::default(), &[1, 1, 1], 9), [3, 3, 3]);
    }

    #[test]
    fn turns_are_spread() {
        let mut split = Split::default();
        let order: Vec<_> = (0..7).filter_map(|_| split.next([5, 1, 1].into_iter())).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn nothing_to_choose() {
        assert_eq!(Split::default().next([0, 0].into_iter()), None);
        assert_eq!(Split::default().next([].into_iter()), None);
    }

    #[test]
    fn new_weights_start_afresh() {
        let mut split = Split::default();
        shares(&mut split, &[9, 1], 5);
        assert_eq!(shares(&mut split, &[1, 3], 4), [1, 3]);
    }
}
