//! The endpoint of a backend: of two drawn by weight, the one with fewer requests outstanding.
//!
//! Called by `pick`. Two choices are nearly as good as knowing all (Mitzenmacher 2001), need no common state between workers, and
//! do not send every worker to the same idle endpoint. While nothing is outstanding the first draw wins, so weights are kept.

use std::net::SocketAddr;

use super::Turns;
use crate::exchange::draw;
use crate::snapshot::{Endpoint, EndpointSet};

/// Draws before the search for an untried endpoint becomes a walk over all.
const DRAWS: u64 = 4;

/// Keeps the draws of endpoints apart from those that other parts take from the same random number.
const FIRST_DRAW: u64 = 128;

/// Chooses an endpoint. Those in `tried` are only chosen when there is no other.
pub(crate) fn least_loaded<'a>(
    set: &'a EndpointSet,
    turns: &Turns,
    random: u64,
    tried: &[SocketAddr],
) -> Option<&'a Endpoint> {
    let all = set.endpoints();
    if let [only] = all {
        return Some(only);
    }
    let fresh = |endpoint: &&Endpoint| !tried.contains(&endpoint.address);
    let mut draws = (FIRST_DRAW..FIRST_DRAW + DRAWS)
        .filter_map(|n| set.by_weight(draw(random, n.wrapping_add(tried.len() as u64 * DRAWS))))
        .filter(fresh);
    let Some(first) = draws.next() else {
        return all.iter().find(fresh).or_else(|| set.by_weight(random));
    };
    let Some(second) = draws.find(|endpoint| endpoint.address != first.address) else {
        return Some(first);
    };
    let burden = |endpoint: &Endpoint, other: &Endpoint| {
        u64::from(turns.outstanding(&endpoint.address)) * u64::from(other.weight)
    };
    Some(if burden(second, first) < burden(first, second) { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(weights: &[u32]) -> EndpointSet {
        EndpointSet::new(
            weights
                .iter()
                .enumerate()
                .map(|(index, weight)| Endpoint { address: address(index), weight: *weight, host: None })
                .collect(),
        )
    }

    fn address(index: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, index as u8], 80))
    }

    #[test]
    fn weights_are_kept_while_idle() {
        let set = set(&[3, 1, 0]);
        let turns = Turns::new();
        let mut counts = [0usize; 3];
        for random in 0..4000 {
            let endpoint = least_loaded(&set, &turns, draw(random, 0), &[]).expect("an endpoint");
            counts[(0..3).find(|i| address(*i) == endpoint.address).expect("one of them")] += 1;
        }
        assert!((2850..3150).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[2], 0);
    }

    #[test]
    fn a_busy_endpoint_is_avoided() {
        let set = set(&[1, 1]);
        let mut turns = Turns::new();
        for _ in 0..10 {
            turns.begin(address(0));
        }
        let busy = (0..1000)
            .filter(|random| {
                least_loaded(&set, &turns, draw(*random, 0), &[]).expect("an endpoint").address == address(0)
            })
            .count();
        assert!(busy < 150, "{busy}");
    }

    #[test]
    fn a_tried_endpoint_is_the_last_resort() {
        let set = set(&[1000, 1]);
        let turns = Turns::new();
        for random in 0..100 {
            let chosen = least_loaded(&set, &turns, draw(random, 0), &[address(0)]).expect("an endpoint");
            assert_eq!(chosen.address, address(1));
        }
        assert!(least_loaded(&set, &turns, 7, &[address(0), address(1)]).is_some());
        assert!(least_loaded(&EndpointSet::default(), &turns, 7, &[]).is_none());
    }

    #[test]
    fn outstanding_requests_are_counted_down() {
        let mut turns = Turns::new();
        turns.begin(address(1));
        turns.begin(address(1));
        turns.end(address(1));
        assert_eq!(turns.outstanding(&address(1)), 1);
        turns.end(address(1));
        turns.end(address(1));
        assert_eq!(turns.outstanding(&address(1)), 0);
    }
}
