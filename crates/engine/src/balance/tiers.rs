//! How requests are spread over the zones by rank: who is near first, and as much further away as those nearby cannot carry.
//!
//! Called by `view`. The arithmetic is Envoy's, so that its documentation and experience hold: an endpoint group is trusted with all
//! of its share until more of it fails than the overprovisioning factor covers; below the panic threshold the health of its endpoints is
//! not believed.

/// The endpoints of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) healthy: usize,
    pub(super) all: usize,
}

/// What a rank gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// In percent of the requests.
    pub(super) percent: u32,
    /// Whether all its endpoints are used, healthy or not.
    pub(super) panics: bool,
}

/// The shares of the ranks, which add up to a hundred unless there is no endpoint at all. `overprovisioning` and `panic` in percent.
pub(super) fn shares(ranks: &[Count], overprovisioning: u32, panic: u32) -> Vec<Share> {
    let health: Vec<u32> = ranks.iter().map(|rank| health(*rank, overprovisioning)).collect();
    let total = health.iter().sum::<u32>().min(100);
    let panics = |rank: &Count| total < 100 && percent(rank.healthy, rank.all) < panic;
    let mut with_endpoints = ranks.iter().filter(|rank| rank.all > 0).peekable();
    if with_endpoints.peek().is_some() && (total == 0 || with_endpoints.all(panics)) {
        return in_total_panic(ranks, panic);
    }
    let mut left = 100;
    let mut shares: Vec<Share> = ranks
        .iter()
        .zip(&health)
        .map(|(rank, health)| {
            let percent = (health * 100).checked_div(total).unwrap_or(0).min(left);
            left -= percent;
            Share { percent, panics: panics(rank) }
        })
        .collect();
    // What rounding left over goes to the first that can carry anything.
    if let Some(first) = shares.iter_mut().zip(&health).find(|(_, health)| **health > 0).map(|(share, _)| share) {
        first.percent += left;
    }
    shares
}

/// Nobody is healthy, or so few everywhere that no health is believed: everybody is tried by number, or, without panic, the first rank and in
/// vain.
fn in_total_panic(ranks: &[Count], panic: u32) -> Vec<Share> {
    let all: usize = ranks.iter().map(|rank| rank.all).sum();
    let mut left = 100;
    let mut shares: Vec<Share> = ranks
        .iter()
        .enumerate()
        .map(|(index, rank)| {
            let percent = match (panic, index) {
                (0, 0) => 100,
                (0, _) => 0,
                _ => percent(rank.all, all),
            };
            left -= percent.min(left);
            Share { percent, panics: panic > 0 }
        })
        .collect();
    if let Some(first) = shares.iter_mut().find(|share| share.percent > 0) {
        first.percent += left;
    }
    shares
}

fn health(rank: Count, overprovisioning: u32) -> u32 {
    let scaled = (rank.healthy as u64 * u64::from(overprovisioning)).checked_div(rank.all as u64);
    scaled.map_or(0, |health| health.min(100) as u32)
}

fn percent(part: usize, all: usize) -> u32 {
    (part as u64 * 100).checked_div(all as u64).map_or(0, |percent| percent as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percents(ranks: &[(usize, usize)], panic: u32) -> Vec<u32> {
        of(ranks, panic).iter().map(|share| share.percent).collect()
    }

    fn of(ranks: &[(usize, usize)], panic: u32) -> Vec<Share> {
        let ranks: Vec<Count> = ranks.iter().map(|(healthy, all)| Count { healthy: *healthy, all: *all }).collect();
        shares(&ranks, 140, panic)
    }

    #[test]
    fn half_of_the_first_keeps_seventy_percent() {
        assert_eq!(percents(&[(50, 100), (100, 100)], 50), [70, 30]);
    }

    #[test]
    fn seventy_two_percent_keep_everything() {
        assert_eq!(percents(&[(72, 100), (100, 100)], 50), [100, 0]);
        assert_eq!(percents(&[(71, 100), (100, 100)], 50), [99, 1]);
    }

    #[test]
    fn what_all_together_cannot_carry_is_shared_as_they_can() {
        // Health 35 and 35: half each.
        assert_eq!(percents(&[(25, 100), (25, 100)], 0), [50, 50]);
        // Health 46, 46 and nothing: the remainder of the rounding goes to the first.
        assert_eq!(percents(&[(1, 3), (1, 3), (0, 3)], 0), [50, 50, 0]);
        assert_eq!(percents(&[(0, 3), (1, 3), (1, 6)], 0), [0, 67, 33]);
    }

    #[test]
    fn nobody_panics_while_the_others_can_carry_it() {
        assert!(of(&[(1, 100), (100, 100)], 50).iter().all(|share| !share.panics));
        // Health 28 and 70 are not enough: the one below the threshold panics, the other does not.
        let shares = of(&[(20, 100), (50, 100)], 50);
        assert_eq!(shares.iter().map(|share| share.panics).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn when_nobody_is_healthy_everybody_is_tried_by_number() {
        let shares = of(&[(0, 1), (0, 3)], 50);
        assert_eq!(shares, [Share { percent: 25, panics: true }, Share { percent: 75, panics: true }]);
        // Without panic all goes to the first, and fails there.
        assert_eq!(of(&[(0, 1), (0, 3)], 0)[0], Share { percent: 100, panics: false });
    }

    #[test]
    fn when_no_health_is_believed_anywhere_everybody_is_tried_by_number() {
        assert_eq!(percents(&[(1, 20), (2, 60)], 10), [25, 75]);
        assert_eq!(percents(&[(10, 100), (0, 0), (10, 300)], 50), [25, 0, 75]);
        assert!(of(&[(1, 20), (2, 60)], 10).iter().all(|share| share.panics));
        // One that is believed carries what it can, and the other one panics.
        assert_eq!(percents(&[(10, 100), (60, 100)], 50), [15, 85]);
        // Without panic they share as they can: health 7 and 4.
        assert_eq!(percents(&[(1, 20), (2, 60)], 0), [64, 36]);
    }

    #[test]
    fn a_rank_without_endpoints_gets_nothing() {
        assert_eq!(percents(&[(0, 0), (3, 3)], 50), [0, 100]);
        assert_eq!(percents(&[(0, 0)], 50), [0]);
    }
}
