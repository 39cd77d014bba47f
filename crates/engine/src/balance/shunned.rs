//! Endpoints that could not be reached, or have refused a stream: left alone for a while, also where no policy says so.
//!
//! Called by `Turns`. Who refuses streams politely is busy, and for a moment others are better asked: who refuses at once has the fewest requests under way, and
//! would be asked all the more. Who cannot be reached is left alone by this for backends without `outlierDetection` (with it `memory` decides, but about those that are silent): what a worker could not connect to a moment ago it is not
//! likely to connect to now, and each request that finds out pays for it, with the connect timeout where nobody refuses. So an endpoint is passed over for a
//! second, then one request is let through to it, and so on, for twice as long each time. Where there is no other endpoint it is used all the same.

use std::net::SocketAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// How long an endpoint that cannot be reached is left alone at first, and the longest that it is at a time.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// The same for one that refuses streams.
const BUSY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Beyond so many, those whose time is over are forgotten.
const MANY: usize = 1024;

/// The endpoints that one worker leaves alone for one of these reasons.
#[derive(Debug)]
pub(super) struct Shunned {
    times: (Duration, Duration),
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
    /// For those that could not be reached.
    pub(super) fn away() -> Shunned {
        Shunned { times: AWAY, endpoints: HashMap::default() }
    }

    /// For those that have refused a stream.
    pub(super) fn busy() -> Shunned {
        Shunned { times: BUSY, endpoints: HashMap::default() }
    }

    /// Whether there are none, so that nothing else need be asked.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// An endpoint was asked in vain. Gives the time that it is left alone for, unless it was already.
    pub(super) fn note_vain(&mut self, endpoint: SocketAddr, now: Duration) -> Option<Duration> {
        if self.endpoints.len() >= MANY {
            self.endpoints.retain(|_, alone| alone.until > now);
        }
        let Some(alone) = self.endpoints.get_mut(&endpoint) else {
            let time = self.times.0;
            self.endpoints.insert(endpoint, Alone { until: now.saturating_add(time), time, probed: false });
            return Some(time);
        };
        // Requests that were under way before have nothing new to tell.
        if alone.probed || alone.until <= now {
            let time = (alone.time * 2).min(self.times.1);
            *alone = Alone { until: now.saturating_add(time), time, probed: false };
        }
        None
    }

    /// An endpoint has answered. Tells whether it was left alone before.
    pub(super) fn note_reached(&mut self, endpoint: &SocketAddr) -> bool {
        self.endpoints.remove(endpoint).is_some()
    }

    /// Whether an endpoint is left alone now.
    pub(super) fn has(&self, endpoint: &SocketAddr, now: Duration) -> bool {
        self.endpoints.get(endpoint).is_some_and(|alone| alone.until > now)
    }

    /// Those that are left alone now.
    pub(super) fn all(&self, now: Duration) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.iter().filter(move |(_, alone)| alone.until > now).map(|(endpoint, _)| *endpoint)
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
        let mut shunned = Shunned::away();
        assert_eq!(shunned.note_vain(at(1), millis(0)), Some(AWAY.0));
        let mut now = AWAY.0;
        for seconds in [2, 4, 8, 10, 10] {
            assert!(!shunned.has(&at(1), now));
            shunned.begin_probe(&at(1), now);
            assert!(shunned.has(&at(1), now));
            assert_eq!(shunned.note_vain(at(1), now), None);
            now += Duration::from_secs(seconds);
            assert!(shunned.has(&at(1), now - millis(1)) && !shunned.has(&at(1), now), "{seconds}");
        }
        assert!(shunned.note_reached(&at(1)));
        assert!(shunned.is_empty());
    }

    #[test]
    fn requests_of_the_same_moment_count_once() {
        let mut shunned = Shunned::away();
        for _ in 0..100 {
            shunned.note_vain(at(1), millis(5));
        }
        assert!(!shunned.has(&at(1), millis(1005)));
    }

    #[test]
    fn a_probe_that_never_ends_is_followed_by_another() {
        let mut shunned = Shunned::away();
        shunned.note_vain(at(1), millis(0));
        shunned.begin_probe(&at(1), millis(1000));
        assert!(shunned.has(&at(1), millis(1999)));
        assert!(!shunned.has(&at(1), millis(2000)));
    }

    #[test]
    fn addresses_that_come_and_go_are_forgotten() {
        let mut shunned = Shunned::away();
        for number in 0..10_000u32 {
            let address = SocketAddr::from((number.to_be_bytes(), 80));
            shunned.note_vain(address, Duration::from_secs(u64::from(number)));
        }
        assert!(shunned.endpoints.len() <= MANY);
    }
}
