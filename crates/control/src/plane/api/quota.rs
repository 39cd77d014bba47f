//! How much one address may ask of the API: requests in a second, and connections at a time.
//!
//! Asked by `api` for every connection and by `routes` for every request. Time is an argument. The memory is bounded: addresses that have
//! their whole allowance again are forgotten first, since nothing is known of them that does not hold for anybody.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Addresses that are remembered.
const MOST_ADDRESSES: usize = 4096;
/// For how many seconds of its rate an address may be ahead.
const AHEAD: Duration = Duration::from_secs(2);
/// Connections of one address at a time: a quarter of all.
const CONNECTIONS: usize = 64;

/// What all addresses have asked lately.
#[derive(Debug)]
pub(super) struct Quotas {
    /// The time that one request uses up.
    cost: Duration,
    /// Until when the requests of an address would have taken at its rate. What is past has been paid.
    until: Mutex<HashMap<IpAddr, Duration>>,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Quotas {
    /// With so many requests per second for every address.
    pub(super) fn new(rate: NonZeroU32) -> Self {
        Self { cost: Duration::from_secs(1) / rate.get(), until: Mutex::default(), open: Mutex::default() }
    }

    /// Notes a request at this moment.
    ///
    /// # Errors
    /// It is one too many; how long to wait.
    pub(super) fn ask(&self, from: IpAddr, now: Duration) -> Result<(), Duration> {
        let whose = whose(from);
        let mut all = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = all.get(&whose).copied().unwrap_or_default().max(now);
        let end = begin.saturating_add(self.cost);
        if end > now.saturating_add(AHEAD.max(self.cost)) {
            return Err(end.saturating_sub(now.saturating_add(AHEAD.max(self.cost))));
        }
        if all.len() >= MOST_ADDRESSES && !all.contains_key(&whose) {
            all.retain(|_, until| *until > now);
        }
        if all.len() >= MOST_ADDRESSES && !all.contains_key(&whose) {
            // The one that has used least of its allowance loses least.
            if let Some(least) = all.iter().min_by_key(|(_, until)| **until).map(|(address, _)| *address) {
                all.remove(&least);
            }
        }
        all.insert(whose, end);
        Ok(())
    }

    /// A place for a connection of this address, given back when it is dropped; none when it has too many open.
    pub(super) fn connect(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let whose = whose(from);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(whose).or_default();
        if *count >= CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Place { quotas: self.clone(), whose })
    }
}

/// A place for one connection.
#[derive(Debug)]
pub(super) struct Place {
    quotas: Arc<Quotas>,
    whose: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.quotas.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.whose);
            }
        }
    }
}

/// Whose allowance an address uses: of IPv6 one network of 64 bits is one caller.
fn whose(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(rate: u32) -> Quotas {
        Quotas::new(NonZeroU32::new(rate).expect("a rate"))
    }

    fn address(number: usize) -> IpAddr {
        std::net::Ipv4Addr::from_bits(u32::try_from(number).expect("small")).into()
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn an_address_has_its_rate_and_two_seconds_of_it_ahead() {
        let quotas = quotas(10);
        for _ in 0..20 {
            assert_eq!(quotas.ask(address(1), at(0)), Ok(()));
        }
        assert_eq!(quotas.ask(address(1), at(0)), Err(at(100)));
        assert_eq!(quotas.ask(address(2), at(0)), Ok(()), "another one has its own");
        assert_eq!(quotas.ask(address(1), at(99)), Err(at(1)));
        assert_eq!(quotas.ask(address(1), at(100)), Ok(()));
        assert_eq!(quotas.ask(address(1), at(100)), Err(at(100)), "what was refused was not counted");
        for _ in 0..20 {
            assert_eq!(quotas.ask(address(1), at(60_000)), Ok(()));
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_caller_and_a_mapped_address_is_what_it_means() {
        let ip = |text: &str| whose(text.parse().expect("an address"));
        assert_eq!(ip("2001:db8:1:2::1"), ip("2001:db8:1:2:ffff::9"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
        assert_ne!(ip("10.0.0.1"), ip("10.0.0.2"));
    }

    #[test]
    fn memory_is_bounded_and_who_has_asked_most_is_kept() {
        let quotas = quotas(1);
        assert_eq!((quotas.ask(address(0), at(0)), quotas.ask(address(0), at(0))), (Ok(()), Ok(())));
        for number in 1..2 * MOST_ADDRESSES {
            assert_eq!(quotas.ask(address(number), at(1)), Ok(()));
            assert!(quotas.until.lock().expect("held").len() <= MOST_ADDRESSES);
        }
        assert!(quotas.ask(address(0), at(1)).is_err());
        assert_eq!(quotas.ask(address(9 * MOST_ADDRESSES), at(10_000)), Ok(()));
        assert_eq!(quotas.until.lock().expect("held").len(), 1, "nothing is kept of those who owe nothing");
    }

    #[test]
    fn connections_of_an_address_are_bounded_and_given_back() {
        let quotas = Arc::new(quotas(1));
        let mut places: Vec<_> = (0..CONNECTIONS).filter_map(|_| quotas.connect(address(1))).collect();
        assert_eq!(places.len(), CONNECTIONS);
        assert!(quotas.connect(address(1)).is_none());
        assert!(quotas.connect(address(2)).is_some());
        places.pop();
        assert!(quotas.connect(address(1)).is_some());
        drop(places);
        assert!(quotas.open.lock().expect("held").is_empty());
    }
}
