//! Which endpoints of a backend may be used at the moment, and with what weight: made anew when something changes, not per request.
//!
//! Called by `memory`. Brings together what is known from four sides: the set of endpoints, the health checks, the gates, and the zones
//! with their ranks. Who of those that remain is next is decided elsewhere.

use std::time::Duration;

use crate::exchange::below;
use crate::snapshot::{Endpoint, EndpointSet};
use crate::traffic::Traffic;

use super::tiers::{Count, Share, shares};

/// Endpoints that may be used, by rank.
#[derive(Debug)]
pub(super) enum View {
    /// All of them, as the set says.
    Whole,
    /// Some of them.
    Ranked {
        ranks: Vec<Rank>,
        /// The rank of each endpoint of the set; [`NOWHERE`] for one that may not be used.
        rank_of: Vec<u8>,
    },
}

/// The rank of an endpoint that may not be used.
pub(super) const NOWHERE: u8 = u8::MAX;

/// The endpoints of one rank that may be used.
#[derive(Debug, Default)]
pub(super) struct Rank {
    /// In percent of the requests.
    pub(super) share: u32,
    pub(super) members: Vec<Member>,
    /// Running sums of the weights.
    sums: Vec<u64>,
    /// Whether all weigh the same.
    pub(super) even: bool,
}

/// One endpoint that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its position in the set.
    pub(super) position: u32,
    pub(super) weight: u64,
}

/// What is known of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) usable: bool,
    /// For how long it has been so, while it still starts slowly.
    pub(super) young: Option<Duration>,
}

impl View {
    /// A view of a set, given what is known of each endpoint.
    pub(super) fn build(set: &EndpointSet, traffic: &Traffic, standing: impl Fn(&Endpoint) -> Standing) -> View {
        let rank_of = |endpoint: &Endpoint| {
            let rank = traffic.locality.as_ref().map_or(0, |locality| locality.rank(endpoint.zone.as_ref()));
            rank.min(usize::from(NOWHERE) - 1)
        };
        let known: Vec<(usize, Standing)> =
            set.endpoints().iter().map(|endpoint| (rank_of(endpoint), standing(endpoint))).collect();
        let plain = |(rank, standing): &(usize, Standing)| *rank == 0 && standing.usable && standing.young.is_none();
        if known.iter().all(plain) {
            return View::Whole;
        }
        let mut counts = vec![Count { healthy: 0, all: 0 }; known.iter().map(|(rank, _)| rank + 1).max().unwrap_or(1)];
        for (rank, standing) in &known {
            if let Some(count) = counts.get_mut(*rank) {
                count.all += 1;
                count.healthy += usize::from(standing.usable);
            }
        }
        let overprovisioning = traffic.locality.as_ref().map_or(100, |locality| locality.overprovisioning);
        let shares = shares(&counts, overprovisioning, traffic.panic_threshold);
        View::of_shares(set, traffic, &known, &shares)
    }

    fn of_shares(set: &EndpointSet, traffic: &Traffic, known: &[(usize, Standing)], shares: &[Share]) -> View {
        let mut ranks: Vec<Rank> =
            shares.iter().map(|share| Rank { share: share.percent, ..Rank::default() }).collect();
        let mut rank_of = vec![NOWHERE; known.len()];
        for (position, ((rank, standing), endpoint)) in known.iter().zip(set.endpoints()).enumerate() {
            let (Some(share), Some(into)) = (shares.get(*rank), ranks.get_mut(*rank)) else {
                continue;
            };
            if !standing.usable && !share.panics {
                continue;
            }
            let weight = u64::from(endpoint.weight) * WHOLE * warmth(standing.young, traffic.slow_start) / 100;
            let sum = into.sums.last().copied().unwrap_or(0).saturating_add(weight.max(1));
            into.sums.push(sum);
            into.members.push(Member { position: position as u32, weight: weight.max(1) });
            if let Some(slot) = rank_of.get_mut(position) {
                *slot = *rank as u8;
            }
        }
        for rank in &mut ranks {
            rank.even = rank.members.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight));
        }
        View::Ranked { ranks, rank_of }
    }

    /// The rank that a request goes to, by a random number, or by a hash so that it stays.
    pub(super) fn draw_rank(&self, number: u64) -> usize {
        let View::Ranked { ranks, .. } = self else {
            return 0;
        };
        let point = below(number, 100) as u32;
        let mut sum = 0;
        ranks
            .iter()
            .position(|rank| {
                sum += rank.share;
                point < sum
            })
            .unwrap_or(0)
    }
}

/// What a full weight is multiplied by, so that a tenth of a small one is still a number.
const WHOLE: u64 = 10;

/// The share of its weight that an endpoint gets, in percent: in proportion to its age, and a tenth at least.
fn warmth(age: Option<Duration>, window: Duration) -> u64 {
    match age {
        Some(age) if age < window => {
            let percent = age.as_micros() * 100 / window.as_micros().max(1);
            (percent as u64).clamp(10, 100)
        }
        _ => 100,
    }
}

impl Rank {
    /// Draws a member by weight.
    pub(super) fn by_weight(&self, random: u64) -> Option<Member> {
        let total = *self.sums.last()?;
        let point = below(random, total);
        self.members.get(self.sums.partition_point(|sum| *sum <= point)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Locality;

    fn set(zones: &[&str]) -> EndpointSet {
        let endpoint = |(index, zone): (usize, &&str)| Endpoint {
            zone: (!zone.is_empty()).then(|| (*zone).into()),
            ..Endpoint::at(([10, 0, 0, index as u8], 80).into())
        };
        EndpointSet::new(zones.iter().enumerate().map(endpoint).collect())
    }

    fn here(zone: &str) -> Traffic {
        let locality =
            Locality { here: Some(zone.into()), failover: Vec::new(), near: Vec::new(), overprovisioning: 140 };
        Traffic { locality: Some(locality), panic_threshold: 10, ..Traffic::default() }
    }

    fn usable_but(sick: &[u8]) -> impl Fn(&Endpoint) -> Standing {
        move |endpoint| {
            let last = match endpoint.address.ip() {
                std::net::IpAddr::V4(address) => address.octets()[3],
                std::net::IpAddr::V6(_) => 0,
            };
            Standing { usable: !sick.contains(&last), young: None }
        }
    }

    fn ranked(view: &View) -> Vec<(u32, Vec<u32>)> {
        match view {
            View::Whole => Vec::new(),
            View::Ranked { ranks, .. } => ranks
                .iter()
                .map(|rank| (rank.share, rank.members.iter().map(|member| member.position).collect()))
                .collect(),
        }
    }

    #[test]
    fn nothing_to_say_is_the_whole_set() {
        let view = View::build(&set(&["", ""]), &Traffic::default(), usable_but(&[]));
        assert!(matches!(view, View::Whole));
    }

    #[test]
    fn who_is_near_comes_first_and_a_half_that_fails_spills() {
        let zones = set(&["a", "b", "a", ""]);
        let all = View::build(&zones, &here("a"), usable_but(&[]));
        assert_eq!(ranked(&all), [(100, vec![0, 2]), (0, vec![1, 3])]);
        let half = View::build(&zones, &here("a"), usable_but(&[2]));
        assert_eq!(ranked(&half), [(70, vec![0]), (30, vec![1, 3])]);
        assert_eq!((half.draw_rank(0), half.draw_rank(u64::MAX)), (0, 1));
        let none = View::build(&zones, &here("a"), usable_but(&[0, 2]));
        assert_eq!(ranked(&none), [(0, vec![]), (100, vec![1, 3])]);
    }

    #[test]
    fn when_nobody_is_usable_all_are_unless_panic_is_off() {
        let zones = set(&["", "", ""]);
        let panicking = Traffic { panic_threshold: 10, ..Traffic::default() };
        assert_eq!(ranked(&View::build(&zones, &panicking, usable_but(&[0, 1, 2]))), [(100, vec![0, 1, 2])]);
        assert_eq!(ranked(&View::build(&zones, &Traffic::default(), usable_but(&[0, 1, 2]))), [(100, vec![])]);
    }

    #[test]
    fn a_young_endpoint_gets_its_share_by_and_by() {
        let window = Duration::from_secs(10);
        assert_eq!(warmth(Some(Duration::ZERO), window), 10);
        assert_eq!(warmth(Some(Duration::from_secs(5)), window), 50);
        assert_eq!(warmth(Some(Duration::from_secs(10)), window), 100);
        assert_eq!(warmth(None, window), 100);
        let traffic = Traffic { slow_start: window, ..Traffic::default() };
        let young = |endpoint: &Endpoint| Standing {
            usable: true,
            young: (endpoint.address.port() == 80 && endpoint.address.ip().to_string().ends_with('1'))
                .then_some(Duration::from_secs(2)),
        };
        let View::Ranked { ranks, .. } = View::build(&set(&["", ""]), &traffic, young) else {
            panic!("a slow start is no whole set");
        };
        assert_eq!(ranks[0].members.iter().map(|member| member.weight).collect::<Vec<_>>(), [10, 2]);
    }
}
