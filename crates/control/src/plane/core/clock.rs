//! Whether the clock of the machine has jumped: what is decided by it for good waits until it has gone on evenly for a while.
//!
//! Asked by `core::roots`, since a clock that runs ahead by years for a moment makes every certificate look ended, and a root that is retired
//! is retired for ever. A machine that has just started may have a wrong clock until somebody sets it: where every certificate that is known of
//! has ended by it, it counts as one that has jumped.

use std::time::Duration;

use rustls_pki_types::UnixTime;
use transept_identity::rotation::CLOCK_SLACK;

/// For how long it has to go on evenly.
pub(super) const SETTLING: Duration = Duration::from_secs(600);

/// The clock of the machine beside one that cannot be set.
#[derive(Debug)]
pub(super) struct Clock {
    /// What both said last.
    last: Option<(UnixTime, Duration)>,
    /// When it jumped last, by the one that cannot be set.
    jumped: Option<Duration>,
}

impl Clock {
    /// That of a process that has just started, as one that has jumped when `may_be_ahead`: by what was noted last, it is later than it should be.
    pub(super) fn new(may_be_ahead: bool) -> Clock {
        Clock { last: None, jumped: may_be_ahead.then_some(Duration::ZERO) }
    }

    /// Whether it has jumped lately. `moment` is counted from the start.
    pub(super) fn has_jumped(&mut self, now: UnixTime, moment: Duration) -> bool {
        if let Some((before, then)) = self.last.replace((now, moment)) {
            let expected = Duration::from_secs(before.as_secs()).saturating_add(moment.saturating_sub(then));
            if Duration::from_secs(now.as_secs()).abs_diff(expected) > CLOCK_SLACK {
                tracing::warn!(
                    before = before.as_secs(),
                    now = now.as_secs(),
                    "the clock of this machine has jumped: no root is changed for {SETTLING:?}"
                );
                self.jumped = Some(moment);
            }
        }
        self.jumped.is_some_and(|jumped| moment.saturating_sub(jumped) < SETTLING)
    }

    /// Whether it has gone on evenly for a while, since the start, too.
    pub(super) fn has_settled(&mut self, now: UnixTime, moment: Duration) -> bool {
        !self.has_jumped(now, moment) && moment >= SETTLING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_is_not_believed_for_a_while() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let after = Duration::from_secs;
        for by in [200_000_000, -200_000_000, 301] {
            let mut clock = Clock::new(false);
            assert!(!clock.has_jumped(at(1_000_000_000), after(0)) && !clock.has_settled(at(1_000_000_001), after(1)));
            assert!(clock.has_settled(at(1_000_000_700), after(700)));
            let there = 1_000_000_701_u64.saturating_add_signed(by);
            assert!(clock.has_jumped(at(there), after(701)), "{by}");
            assert!(clock.has_jumped(at(there + 598), after(1299)), "{by}");
            assert!(!clock.has_jumped(at(there + 600), after(1301)) && clock.has_settled(at(there + 600), after(1301)));
            // Back is a jump, too.
            assert!(clock.has_jumped(at(1_000_001_400), after(1400)), "{by}");
        }
        let mut clock = Clock::new(true);
        assert!(clock.has_jumped(at(1000), after(1)) && !clock.has_jumped(at(1600), after(601)));
        let mut clock = Clock::new(false);
        assert!(!clock.has_jumped(at(1000), after(0)));
        assert!(!clock.has_jumped(at(1300), after(1)), "a clock that is set right by a little");
    }
}
