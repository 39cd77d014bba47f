//! How many connections there is room for, and how many of them one caller may have open at a time.
//!
//! Asked by `serve` for connections that have not shown who they are, by their address, and for members, by their identity; and by `api` for
//! all of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Descriptors that connections leave alone: for commands, files and the log.
const KEPT: usize = 128;

/// How many connections are served at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Those of members.
    pub(super) members: usize,
    /// Those that have not shown who they are.
    pub(super) greetings: usize,
    /// Those of the registration API.
    pub(super) visits: usize,
}

impl Capacity {
    /// As many as are ever served.
    pub const WHOLE: Self = Self { members: 16_384, greetings: 1024, visits: 256 };

    /// What fits into so many descriptors, where there is a limit: some are always left for people who ask, and for who joins.
    pub fn within(descriptors: Option<u64>) -> Self {
        let Some(limit) = descriptors else { return Self::WHOLE };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let part = |most: usize| most.min(limit / 8).max(1);
        let (greetings, visits) = (part(Self::WHOLE.greetings), part(Self::WHOLE.visits));
        let left = limit.saturating_sub(greetings + visits + KEPT);
        Self { members: Self::WHOLE.members.min(left).max(1), greetings, visits }
    }
}

/// Who has how many connections open.
#[derive(Debug)]
pub(super) struct Places<K: Eq + Hash> {
    /// Connections of one caller at a time.
    most: usize,
    open: Mutex<HashMap<K, usize>>,
}

impl<K: Eq + Hash + Clone> Places<K> {
    /// So many for everyone.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// A place for a connection of this caller, given back when it is dropped; none when it has too many open.
    pub(super) fn take(self: &Arc<Self>, whose: K) -> Option<Place<K>> {
        self.take_where(whose, || false)
    }

    /// The same where a caller may go beyond its part, as long as `spare` says that there is enough for others.
    pub(super) fn take_where(self: &Arc<Self>, whose: K, spare: impl FnOnce() -> bool) -> Option<Place<K>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(whose.clone()).or_default();
        if *count >= self.most && !spare() {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), whose })
    }
}

/// A place for one connection.
#[derive(Debug)]
pub(super) struct Place<K: Eq + Hash> {
    places: Arc<Places<K>>,
    whose: K,
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut open = self.places.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.whose);
            }
        }
    }
}

/// Whose allowance an address uses: of IPv6 one network of 64 bits is one caller.
pub(super) fn whose(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_caller_and_a_mapped_address_is_what_it_means() {
        let ip = |text: &str| whose(text.parse().expect("an address"));
        assert_eq!(ip("2001:db8:1:2::1"), ip("2001:db8:1:2:ffff::9"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
        assert_ne!(ip("10.0.0.1"), ip("10.0.0.2"));
    }

    #[test]
    fn descriptors_are_left_for_people_and_for_who_joins() {
        assert_eq!(Capacity::within(None), Capacity::WHOLE);
        assert_eq!(Capacity::within(Some(1 << 20)), Capacity::WHOLE);
        let small = Capacity::within(Some(1024));
        assert_eq!(small, Capacity { members: 640, greetings: 128, visits: 128 });
        for limit in [0, 64, 256, 4096, 17_000] {
            let Capacity { members, greetings, visits } = Capacity::within(Some(limit));
            assert!(members > 0 && greetings > 0 && visits > 0, "{limit}");
            assert!(limit < 256 || members + greetings + visits + KEPT <= usize::try_from(limit).unwrap(), "{limit}");
        }
    }

    #[test]
    fn connections_of_an_address_are_bounded_and_given_back() {
        let all = Places::new(3);
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let mut taken: Vec<_> = std::iter::from_fn(|| all.take(one)).collect();
        assert_eq!(taken.len(), 3);
        assert!(all.take(other).is_some());
        taken.pop();
        assert!(all.take(one).is_some());
        drop(taken);
        assert!(all.open.lock().expect("held").is_empty());
    }
}
