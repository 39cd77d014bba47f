//! Endpoints that could not be reached: left alone for a while, also where no policy says so.
//!
//! Called by `Turns`, for backends without `outlierDetection` (with it `memory` decides). What a worker could not connect to a moment ago it is not
//! likely to connect to now, and each request that finds out pays for it, with the connect timeout where nobody refuses. So an endpoint is passed over for a
//! second, then one request is let through to it, and so on, for twice as long each time. Where there is no other endpoint it is used all the same.

use std::net::SocketAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// How long an endpoint is left alone at first.
const FIRST: Duration = Duration::from_secs(1);

/// The longest that one is left alone at a time.
const LONGEST: Duration = Duration::from_secs(10);

/// Beyond so many, those whose time is over are forgotten.
const MANY: usize = 1024;

/// The endpoints that one worker could not reach.
#[derive(Debug, Default)]
pub(super) struct Shunned {
    endpoints: HashMap<SocketAddr, Alone, RandomState>,
}

#[derive(Clone, Copy, Debug)]
struct Alone {
    until: Duration,
    time: Duration,
    /// One request is on its way to find out.
    probed: bool,
}

impl Shunned {
    /// Whether there are none, so that nothing else need be asked.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// An endpoint could not be reached. Gives the time that it is left alone for, unless it was already.
    pub(super) fn note_unreachable(&mut self, endpoint: SocketAddr, now: Duration) -> Option<Duration> {
        if self.endpoints.len() >= MANY {
            self.endpoints.retain(|_, alone| alone.until > now);
        }
        let Some(alone) = self.endpoints.get_mut(&endpoint) else {
            self.endpoints.insert(endpoint, Alone { until: now.saturating_add(FIRST), time: FIRST, probed: false });
            return Some(FIRST);
        };
        // Requests that were under way before have nothing new to tell.
        if alone.probed || alone.until <= now {
            let time = (alone.time * 2).min(LONGEST);
            *alone = Alone { until: now.saturating_add(time), time, probed: false };
        }
        None
    }

    /// An endpoint has been reached. Tells whether it was left alone before.
    pub(super) fn note_reached(&mut self, endpoint: &SocketAddr) -> bool {
        self.endpoints.remove(endpoint).is_some()
    }

    /// Whether an endpoint is left alone now.
    pub(super) fn has(&self, endpoint: &SocketAddr, now: Duration) -> bool {
        self.endpoints.get(endpoint).is_some_and(|alone| alone.until > now)
    }

    /// Those that were tried, and those that are left alone now.
    pub(super) fn beside(&self, tried: &[SocketAddr], now: Duration) -> SmallVec<[SocketAddr; 8]> {
        let alone = self.endpoints.iter().filter(|(_, alone)| alone.until > now).map(|(endpoint, _)| *endpoint);
        tried.iter().copied().chain(alone).collect()
    }

    /// A request goes to an endpoint whose time may be over: until its outcome is known no other does.
    pub(super) fn begin_probe(&mut self, endpoint: &SocketAddr, now: Duration) {
        if let Some(alone) = self.endpoints.get_mut(endpoint).filter(|alone| alone.until <= now) {
            alone.until = now.saturating_add(alone.time);
            alone.probed = true;
        }
    }

    /// Forgets those that a function does not want to keep.
    pub(super) fn retain(&mut self, keep: impl Fn(&SocketAddr) -> bool) {
        self.endpoints.retain(|endpoint, _| keep(endpoint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        ([10, 0, 0, last], 80).into()
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_time_alone_doubles_with_each_request_that_finds_nobody() {
        let mut shunned = Shunned::default();
        assert_eq!(shunned.note_unreachable(at(1), millis(0)), Some(FIRST));
        let mut now = FIRST;
        for seconds in [2, 4, 8, 10, 10] {
            assert!(!shunned.has(&at(1), now));
            shunned.begin_probe(&at(1), now);
            assert!(shunned.has(&at(1), now));
            assert_eq!(shunned.note_unreachable(at(1), now), None);
            now += Duration::from_secs(seconds);
            assert!(shunned.has(&at(1), now - millis(1)) && !shunned.has(&at(1), now), "{seconds}");
        }
        assert!(shunned.note_reached(&at(1)));
        assert!(shunned.is_empty());
    }

    #[test]
    fn requests_of_the_same_moment_count_once() {
        let mut shunned = Shunned::default();
        for _ in 0..100 {
            shunned.note_unreachable(at(1), millis(5));
        }
        assert!(!shunned.has(&at(1), millis(1005)));
    }

    #[test]
    fn a_probe_that_never_ends_is_followed_by_another() {
        let mut shunned = Shunned::default();
        shunned.note_unreachable(at(1), millis(0));
        shunned.begin_probe(&at(1), millis(1000));
        assert!(shunned.has(&at(1), millis(1999)));
        assert!(!shunned.has(&at(1), millis(2000)));
    }

    #[test]
    fn addresses_that_come_and_go_are_forgotten() {
        let mut shunned = Shunned::default();
        for number in 0..10_000u32 {
            let address = SocketAddr::from((number.to_be_bytes(), 80));
            shunned.note_unreachable(address, Duration::from_secs(u64::from(number)));
        }
        assert!(shunned.endpoints.len() <= MANY);
    }
}
