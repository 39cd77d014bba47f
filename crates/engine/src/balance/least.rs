//! The endpoint of a backend: of two drawn by weight, the one with fewer requests outstanding.
//!
//! Called by `pick`, and by `memory` for backends with a policy. Two choices are nearly as good as knowing all (Mitzenmacher 2001),
//! need no common state between workers, and do not send every worker to the same idle endpoint. While nothing is outstanding the
//! first draw wins, so weights are kept.

use std::net::SocketAddr;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::view::Rank;
use crate::exchange::draw;
use crate::snapshot::{Endpoint, EndpointSet};

/// Draws before the search for an untried endpoint becomes a walk over all.
const DRAWS: u64 = 4;

/// Keeps the draws of endpoints apart from those that other parts take from the same random number.
const FIRST_DRAW: u64 = 128;

/// Requests of one worker that endpoints have not finished.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    counts: HashMap<SocketAddr, u32, RandomState>,
}

impl Outstanding {
    pub(super) fn begin(&mut self, endpoint: SocketAddr) {
        *self.counts.entry(endpoint).or_insert(0) += 1;
    }

    pub(super) fn end(&mut self, endpoint: SocketAddr) {
        if let Some(count) = self.counts.get_mut(&endpoint) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&endpoint);
            }
        }
    }

    pub(super) fn of(&self, endpoint: &SocketAddr) -> u32 {
        self.counts.get(endpoint).copied().unwrap_or(0)
    }
}

/// The endpoints to choose from.
#[derive(Debug)]
pub(super) enum Field<'a> {
    /// All of a set.
    Whole(&'a EndpointSet),
    /// Some of a set, with weights of their own.
    Rank(&'a EndpointSet, &'a Rank),
}

/// An endpoint that was drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) position: usize,
    pub(super) weight: u64,
}

impl<'a> Field<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Field::Whole(set) => set.endpoints().len(),
            Field::Rank(_, rank) => rank.members.len(),
        }
    }

    /// The endpoint with this number, and its position in the set.
    pub(super) fn at(&self, index: usize) -> Option<(&'a Endpoint, usize)> {
        match self {
            Field::Whole(set) => set.endpoints().get(index).map(|endpoint| (endpoint, index)),
            Field::Rank(set, rank) => {
                let position = rank.members.get(index)?.position as usize;
                set.endpoints().get(position).map(|endpoint| (endpoint, position))
            }
        }
    }

    /// Every endpoint with its position in the set.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'a Endpoint, usize)> {
        (0..self.len()).filter_map(|index| self.at(index))
    }

    /// Whether all weigh the same.
    pub(super) fn is_even(&self) -> bool {
        match self {
            Field::Whole(set) => set.is_even(),
            Field::Rank(_, rank) => rank.even,
        }
    }

    /// The weight of the endpoint with this number.
    pub(super) fn weight(&self, index: usize) -> u64 {
        match self {
            Field::Whole(set) => set.endpoints().get(index).map_or(0, |endpoint| u64::from(endpoint.weight)),
            Field::Rank(_, rank) => rank.members.get(index).map_or(0, |member| member.weight),
        }
    }

    /// Draws by weight.
    pub(super) fn by_weight(&self, random: u64) -> Option<Drawn<'a>> {
        match self {
            Field::Whole(set) => set.by_weight(random).map(|(position, endpoint)| Drawn {
                endpoint,
                position,
                weight: u64::from(endpoint.weight),
            }),
            Field::Rank(set, rank) => {
                let member = rank.by_weight(random)?;
                let position = member.position as usize;
                set.endpoints().get(position).map(|endpoint| Drawn { endpoint, position, weight: member.weight })
            }
        }
    }
}

/// Chooses an endpoint, by its position in the set. Those in `tried` are only chosen when there is no other.
pub(super) fn least_loaded(
    field: &Field<'_>,
    outstanding: &Outstanding,
    random: u64,
    tried: &[SocketAddr],
) -> Option<usize> {
    if field.len() == 1 {
        return field.at(0).map(|(_, position)| position);
    }
    let fresh = |endpoint: &Endpoint| !tried.contains(&endpoint.address);
    let mut draws = (FIRST_DRAW..FIRST_DRAW + DRAWS)
        .filter_map(|n| field.by_weight(draw(random, n.wrapping_add(tried.len() as u64 * DRAWS))))
        .filter(|drawn| fresh(drawn.endpoint));
    let Some(first) = draws.next() else {
        let mut rest = field.members().filter(|(endpoint, _)| fresh(endpoint));
        return rest
            .next()
            .map(|(_, position)| position)
            .or_else(|| field.by_weight(random).map(|drawn| drawn.position));
    };
    let Some(second) = draws.find(|drawn| drawn.position != first.position) else {
        return Some(first.position);
    };
    let burden = |one: &Drawn<'_>, other: &Drawn<'_>| {
        u128::from(outstanding.of(&one.endpoint.address)) * u128::from(other.weight)
    };
    Some(if burden(&second, &first) < burden(&first, &second) { second.position } else { first.position })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(weights: &[u32]) -> EndpointSet {
        EndpointSet::new(
            weights
                .iter()
                .enumerate()
                .map(|(index, weight)| Endpoint { weight: *weight, ..Endpoint::at(address(index)) })
                .collect(),
        )
    }

    fn least<'a>(
        set: &'a EndpointSet,
        outstanding: &Outstanding,
        random: u64,
        tried: &[SocketAddr],
    ) -> Option<&'a Endpoint> {
        set.endpoints().get(least_loaded(&Field::Whole(set), outstanding, random, tried)?)
    }

    fn address(index: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, index as u8], 80))
    }

    #[test]
    fn weights_are_kept_while_idle() {
        let set = set(&[3, 1, 0]);
        let turns = Outstanding::default();
        let mut counts = [0usize; 3];
        for random in 0..4000 {
            let endpoint = least(&set, &turns, draw(random, 0), &[]).expect("an endpoint");
            counts[(0..3).find(|i| address(*i) == endpoint.address).expect("one of them")] += 1;
        }
        assert!((2850..3150).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[2], 0);
    }

    #[test]
    fn a_busy_endpoint_is_avoided() {
        let set = set(&[1, 1]);
        let mut turns = Outstanding::default();
        for _ in 0..10 {
            turns.begin(address(0));
        }
        let busy = (0..1000)
            .filter(|random| least(&set, &turns, draw(*random, 0), &[]).expect("an endpoint").address == address(0))
            .count();
        assert!(busy < 150, "{busy}");
    }

    #[test]
    fn a_tried_endpoint_is_the_last_resort() {
        let set = set(&[1000, 1]);
        let turns = Outstanding::default();
        for random in 0..100 {
            let chosen = least(&set, &turns, draw(random, 0), &[address(0)]).expect("an endpoint");
            assert_eq!(chosen.address, address(1));
        }
        assert!(least(&set, &turns, 7, &[address(0), address(1)]).is_some());
        assert!(least(&EndpointSet::default(), &turns, 7, &[]).is_none());
    }

    #[test]
    fn outstanding_requests_are_counted_down() {
        let mut turns = Outstanding::default();
        turns.begin(address(1));
        turns.begin(address(1));
        turns.end(address(1));
        assert_eq!(turns.of(&address(1)), 1);
        turns.end(address(1));
        turns.end(address(1));
        assert_eq!(turns.of(&address(1)), 0);
    }
}
