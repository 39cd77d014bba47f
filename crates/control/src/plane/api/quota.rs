//! How much one address may ask of the API in a second.
//!
//! Asked by `api` for every request. Time is an argument. The memory is bounded: addresses that have
//! their whole allowance again are forgotten first, since nothing is known of them that does not hold for anybody.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::plane::places::whose;

/// Addresses that are remembered.
const MOST_ADDRESSES: usize = 4096;
/// For how many seconds of its rate an address may be ahead.
const AHEAD: Duration = Duration::from_secs(2);

/// What all addresses have asked lately.
#[derive(Debug)]
pub(super) struct Quotas {
    /// The time that one request uses up.
    cost: Duration,
    /// Until when the requests of an address would have taken at its rate. What is past has been paid.
    until: Mutex<HashMap<IpAddr, Duration>>,
}

impl Quotas {
    /// With so many requests per second for every address.
    pub(super) fn new(rate: NonZeroU32) -> Self {
        Self { cost: Duration::from_secs(1) / rate.get(), until: Mutex::default() }
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
}
