//! Tables for choosing an endpoint by a hash, so that the same hash finds the same endpoint while endpoints come and go.
//!
//! Made once for each set of endpoints, by `EndpointSet::with_table`, never for a request. A table knows all endpoints; which of them
//! may be used at the moment is asked while looking, so that an ejected endpoint moves its own requests and nobody else's.

use std::fmt::Write as _;
use std::hash::Hasher as _;

use twox_hash::XxHash64;

use crate::exchange::draw;
use crate::snapshot::Endpoint;
use crate::traffic::Balancer;

/// Most points of a ring.
const MOST_POINTS: u64 = 8 * 1024 * 1024;

/// Slots of a Maglev table: a prime well above any number of endpoints of one backend.
const SLOTS: u64 = 65_537;

/// Steps after which looking on gives way to asking every endpoint: only few of many are usable then.
const MOST_STEPS: usize = 1024;

/// A table of endpoints by hash.
#[derive(Clone, Debug)]
pub(crate) enum Table {
    /// Points on a ring, sorted, each with the position of its endpoint.
    Ring(Box<[(u64, u32)]>),
    /// The position of an endpoint in each slot.
    Maglev(Box<[u32]>),
}

/// xxHash64 with seed 0.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

impl Table {
    /// The table that a balancer needs for these endpoints, if it needs one.
    pub(crate) fn build(balancer: &Balancer, endpoints: &[Endpoint]) -> Option<Table> {
        match balancer {
            Balancer::RingHash { points, .. } => Some(ring(endpoints, *points)),
            Balancer::Maglev { .. } => Some(maglev(endpoints)),
            Balancer::LeastRequest | Balancer::RoundRobin | Balancer::Random => None,
        }
    }

    /// The position of the first endpoint for this hash that may be used.
    pub(super) fn find(
        &self,
        hash: u64,
        endpoints: &[Endpoint],
        usable: impl Fn(usize, &Endpoint) -> bool,
    ) -> Option<usize> {
        let allowed = |position: &usize| endpoints.get(*position).is_some_and(|endpoint| usable(*position, endpoint));
        let found = match self {
            Table::Ring(points) => {
                let start = points.partition_point(|(point, _)| *point < hash);
                let around = points.iter().cycle().skip(start).take(points.len().min(MOST_STEPS));
                around.map(|(_, position)| *position as usize).find(allowed)
            }
            Table::Maglev(slots) => (0..MOST_STEPS as u64)
                .map(|step| if step == 0 { hash } else { draw(hash, step) })
                .filter_map(|hash| slots.get((hash % SLOTS) as usize))
                .map(|position| *position as usize)
                .find(allowed),
        };
        // The one with the highest score of hash and endpoint: as steady, and finds whatever is left.
        found.or_else(|| (0..endpoints.len()).filter(allowed).max_by_key(|position| draw(hash, *position as u64)))
    }
}

/// Ketama as Envoy has it: as many points for each endpoint as its weight asks for, at the hashes of `address_number`.
fn ring(endpoints: &[Endpoint], least: u32) -> Table {
    let total: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
    let lightest = endpoints.iter().map(|endpoint| endpoint.weight).min().unwrap_or(1).max(1);
    // So many points that the lightest endpoint has a whole number of them, and at least one.
    let share = f64::from(lightest) / total.max(1) as f64;
    let scale = ((share * f64::from(least)).ceil() / share).min(MOST_POINTS as f64);
    let mut points = Vec::with_capacity(scale.ceil() as usize);
    let mut text = String::new();
    let mut wanted = 0.0;
    for (position, endpoint) in endpoints.iter().enumerate() {
        wanted += scale * f64::from(endpoint.weight) / total.max(1) as f64;
        let mut number = 0u32;
        while (points.len() as f64) < wanted {
            text.clear();
            // Writing to a String cannot fail.
            let _ = write!(text, "{}_{number}", endpoint.address);
            points.push((hash(text.as_bytes()), position as u32));
            number += 1;
        }
    }
    points.sort_unstable();
    Table::Ring(points.into())
}

/// Maglev (Eisenbud et al. 2016, section 3.4), weighted as Envoy does: who weighs less skips rounds.
fn maglev(endpoints: &[Endpoint]) -> Table {
    struct Row {
        offset: u64,
        skip: u64,
        next: u64,
        weight: u64,
        target: u64,
    }
    let mut rows: Vec<Row> = endpoints
        .iter()
        .map(|endpoint| {
            let name = endpoint.address.to_string();
            let mut second = XxHash64::with_seed(1);
            second.write(name.as_bytes());
            let (offset, skip) = (hash(name.as_bytes()) % SLOTS, second.finish() % (SLOTS - 1) + 1);
            Row { offset, skip, next: 0, weight: u64::from(endpoint.weight), target: 0 }
        })
        .collect();
    let heaviest = rows.iter().map(|row| row.weight).max().unwrap_or(0);
    let mut slots = vec![u32::MAX; if rows.is_empty() { 0 } else { SLOTS as usize }];
    let mut filled = 0;
    let mut round = 1;
    while filled < slots.len() {
        for (position, row) in rows.iter_mut().enumerate() {
            if round * row.weight < row.target {
                continue;
            }
            row.target += heaviest;
            loop {
                let slot = ((row.offset + row.skip * row.next) % SLOTS) as usize;
                row.next += 1;
                if let Some(free) = slots.get_mut(slot).filter(|slot| **slot == u32::MAX) {
                    *free = position as u32;
                    filled += 1;
                    break;
                }
            }
            if filled == slots.len() {
                break;
            }
        }
        round += 1;
    }
    Table::Maglev(slots.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
        let address = |index: usize| SocketAddr::from(([10, 0, (index / 200) as u8, (index % 200) as u8], 80));
        let all = weights.iter().enumerate();
        all.map(|(index, weight)| Endpoint { weight: *weight, ..Endpoint::at(address(index)) }).collect()
    }

    fn kinds() -> [Balancer; 2] {
        [
            Balancer::RingHash { keys: Vec::new(), points: 1024, bound: 0 },
            Balancer::Maglev { keys: Vec::new(), bound: 0 },
        ]
    }

    /// Where ten thousand hashes go.
    fn places(balancer: &Balancer, endpoints: &[Endpoint], without: Option<usize>) -> Vec<SocketAddr> {
        let table = Table::build(balancer, endpoints).expect("a table");
        (0..10_000u64)
            .map(|n| {
                let found = table.find(hash(&n.to_le_bytes()), endpoints, |index, _| Some(index) != without);
                endpoints[found.expect("an endpoint")].address
            })
            .collect()
    }

    #[test]
    fn the_hash_is_xxhash64_with_seed_zero() {
        assert_eq!(hash(b""), 0xef46_db37_51d8_e999);
        assert_eq!(hash(b"a"), 0xd24e_c4f1_a98c_6e5b);
    }

    /// As Envoy and gRPC place them, so that one proxy of each kind agree (gRFC A42).
    #[test]
    fn the_points_of_a_ring_are_the_hashes_of_address_and_number() {
        let Table::Ring(points) = ring(&endpoints(&[1]), 4) else {
            panic!("a ring");
        };
        let mut expected = [0, 1, 2, 3].map(|number| hash(format!("10.0.0.0:80_{number}").as_bytes()));
        expected.sort_unstable();
        assert_eq!(points.iter().map(|(point, _)| *point).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_maglev_table_is_shared_out_slot_by_slot() {
        let slots = |weights: &[u32]| {
            let Table::Maglev(slots) = maglev(&endpoints(weights)) else {
                panic!("a table");
            };
            assert_eq!(slots.len(), 65_537);
            let of = |position: usize| slots.iter().filter(|slot| **slot as usize == position).count();
            (0..weights.len()).map(of).collect::<Vec<_>>()
        };
        assert_eq!(slots(&[1, 1, 1]), [21_846, 21_846, 21_845]);
        assert_eq!(slots(&[2, 1]), [43_691, 21_846]);
    }

    #[test]
    fn weights_are_kept() {
        for balancer in kinds() {
            let endpoints = endpoints(&[1, 1, 2]);
            let places = places(&balancer, &endpoints, None);
            let of = |index: usize| places.iter().filter(|place| **place == endpoints[index].address).count();
            assert!((4300..5700).contains(&of(2)), "{balancer:?}: {}", of(2));
            assert!((1900..3100).contains(&of(0)), "{balancer:?}: {}", of(0));
        }
    }

    #[test]
    fn an_endpoint_that_may_not_be_used_moves_only_its_own() {
        for balancer in kinds() {
            let endpoints = endpoints(&[1; 5]);
            let (before, after) = (places(&balancer, &endpoints, None), places(&balancer, &endpoints, Some(3)));
            for (before, after) in before.iter().zip(&after) {
                assert_ne!(*after, endpoints[3].address);
                assert!(before == after || *before == endpoints[3].address, "{balancer:?}");
            }
        }
    }

    #[test]
    fn an_endpoint_that_goes_moves_few() {
        for balancer in kinds() {
            let all = endpoints(&[1; 10]);
            let mut fewer = all.clone();
            let gone = fewer.remove(4);
            let (before, after) = (places(&balancer, &all, None), places(&balancer, &fewer, None));
            let moved = before.iter().zip(&after).filter(|(a, b)| **a != gone.address && a != b).count();
            assert!(moved < 900, "{balancer:?}: {moved}");
        }
    }

    #[test]
    fn the_last_usable_of_many_is_found() {
        for balancer in kinds() {
            let endpoints = endpoints(&[1; 3000]);
            let table = Table::build(&balancer, &endpoints).expect("a table");
            assert_eq!(table.find(7, &endpoints, |index, _| index == 2999), Some(2999));
            assert_eq!(table.find(7, &endpoints, |_, _| false), None);
            assert_eq!(Table::build(&balancer, &[]).expect("a table").find(7, &[], |_, _| true), None);
        }
    }

    #[test]
    fn the_lightest_has_a_point_and_the_ring_has_a_bound() {
        let Table::Ring(points) = ring(&endpoints(&[1, 1_000_000]), 1024) else {
            panic!("a ring");
        };
        assert!(points.iter().any(|(_, position)| *position == 0));
        assert!(points.len() as u64 <= MOST_POINTS + 1);
        let Table::Ring(points) = ring(&endpoints(&[1, 1, 1]), 1024) else {
            panic!("a ring");
        };
        assert_eq!(points.len(), 1026);
    }
}
