//! How many connections one address may have open at a time, at a door that is open to everybody.
//!
//! Asked by `serve` for connections that have not shown who they are, and by `api` for all of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Who has how many connections open.
#[derive(Debug)]
pub(super) struct Places {
    /// Connections of one address at a time.
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Places {
    /// So many for every address.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// A place for a connection of this address, given back when it is dropped; none when it has too many open.
    pub(super) fn take(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let whose = whose(from);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(whose).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), whose })
    }
}

/// A place for one connection.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    whose: IpAddr,
}

impl Drop for Place {
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
