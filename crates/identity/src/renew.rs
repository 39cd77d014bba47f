//! When to renew a leaf: at half its life, with jitter, and with growing pauses after failures.
//!
//! Called by whoever holds a leaf. A pure function of the moment and of random bits; waiting, asking and keeping the old
//! certificate in use until it ends are left to the caller.

use std::time::Duration;

use rustls_pki_types::UnixTime;

use crate::authority::BACKDATING;
use crate::rotation::CLOCK_SLACK;

/// The first pause after a failure is at most this long.
pub const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// No pause after a failure is longer.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(150);
/// How far from half its life a leaf is renewed at most, in parts of its life: one per cent.
const JITTER: u64 = 100;
/// A holder that finds itself late, as after a restart, waits at most this long, so that not all of them ask at once.
const LATE_SPREAD: Duration = Duration::from_secs(5);

/// How much of a certificate's life is left; people are warned long before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remaining {
    /// More than half.
    Plenty,
    /// At most half.
    Half,
    /// At most a quarter.
    Quarter,
    /// At most a tenth.
    Tenth,
    /// Nothing: it has ended.
    Ended,
    /// All of it, and nobody takes the certificate before it begins: whoever made it had a clock that ran ahead.
    NotYet,
}

impl Remaining {
    /// How much is left at `now` of a life from `not_before` to `not_after`.
    pub fn at(now: UnixTime, not_before: UnixTime, not_after: UnixTime) -> Self {
        let left = not_after.as_secs().saturating_sub(now.as_secs());
        let life = not_after.as_secs().saturating_sub(not_before.as_secs());
        let at_most = |part: u64| left.saturating_mul(part) <= life;
        match () {
            () if now.as_secs() < not_before.as_secs() => Self::NotYet,
            () if now.as_secs() > not_after.as_secs() => Self::Ended,
            () if at_most(10) => Self::Tenth,
            () if at_most(4) => Self::Quarter,
            () if at_most(2) => Self::Half,
            () => Self::Plenty,
        }
    }

    /// A stable short name for logs and metrics.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Plenty => "plenty",
            Self::Half => "half",
            Self::Quarter => "quarter",
            Self::Tenth => "tenth",
            Self::Ended => "ended",
            Self::NotYet => "not_yet",
        }
    }
}

/// How another leaf has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It was asked for with the one that is held. With one that has ended by the clock of the maker there is no asking any more: soon before that
    /// the last chance is taken.
    ByRenewal,
    /// With a token, because the one that is held was refused; there may be another. Where that is good by the clock of the maker, it was refused for its root, and is of no
    /// use to anybody.
    ByToken,
}

/// The renewal of one leaf. Made anew for every leaf, out of the one before if there was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    not_before: UnixTime,
    not_after: UnixTime,
    failures: u32,
}

impl Renewal {
    /// For a leaf that is valid between these moments.
    pub fn new(not_before: UnixTime, not_after: UnixTime) -> Self {
        Self { not_before, not_after, failures: 0 }
    }

    /// That of the leaf that comes in the place of this one. A leaf that is not valid for long, or not any more, is another failure: its holder asks again, and not
    /// at every turn.
    #[must_use]
    pub fn followed_by(&self, not_before: UnixTime, not_after: UnixTime, now: UnixTime) -> Self {
        let next = Self::new(not_before, not_after);
        let failures = if next.is_of_no_use(now) { self.failures.saturating_add(1) } else { 0 };
        Self { failures, ..next }
    }

    /// Whether the leaf is not valid yet by more than a clock may be wrong: that of its maker is, or ours. A leaf that begins sooner is a good one.
    fn is_early(&self, now: UnixTime) -> bool {
        now.as_secs().saturating_add(CLOCK_SLACK.as_secs()) < self.not_before.as_secs()
    }

    /// Whether the clock of its maker is wrong, or ours: nobody takes it.
    fn is_of_no_use(&self, now: UnixTime) -> bool {
        self.is_early(now) || self.remaining(now) == Remaining::Ended
    }

    /// Whether this leaf stays in use for another that has come: it is good, and that one is not valid yet by more than a clock may be wrong, or not any more. So the
    /// clock of the maker of that one is wrong, or ours, and by the one that is right nobody takes it. It does not stay where it would be of no more use by the
    /// maker's clock, should that be the right one, or is of no use by both.
    pub fn stays_for(&self, other: &Self, came: Came, now: UnixTime) -> bool {
        if !other.is_of_no_use(now) || self.is_of_no_use(now) {
            return false;
        }
        let made = other.not_before.as_secs().saturating_add(BACKDATING.as_secs());
        let is_good_for_maker = (self.not_before.as_secs()..self.not_after.as_secs()).contains(&made);
        let ends_for_maker = made.saturating_add(CLOCK_SLACK.as_secs()) >= self.not_after.as_secs();
        let is_last_chance = match came {
            Came::ByRenewal => is_good_for_maker && ends_for_maker,
            Came::ByToken => is_good_for_maker,
        };
        !is_last_chance
    }

    /// How long to wait before asking for the first time: until half the life is over, give or take one per cent of it; of a leaf that nobody
    /// takes as long as after a failure. `random` is any 64 random bits.
    pub fn first_wait(&self, now: UnixTime, random: u64) -> Duration {
        if self.is_of_no_use(now) {
            return Duration::from_millis(scale(random, self.pause()));
        }
        let life = self.life_in_millis();
        let spread = life / JITTER;
        let due = (self.not_before.as_secs() * 1000)
            .saturating_add(life / 2)
            .saturating_sub(spread)
            .saturating_add(scale(random, spread * 2));
        match due.checked_sub(now.as_secs() * 1000) {
            Some(wait) if wait > 0 => Duration::from_millis(wait),
            _ => Duration::from_millis(scale(random, millis(LATE_SPREAD).min(self.left_in_millis(now) / 4))),
        }
    }

    /// How long to wait after another failure: anything up to a bound that doubles from [`FIRST_PAUSE`] to
    /// [`LONGEST_PAUSE`], and never more than a quarter of what is left of the leaf. `random` is any 64 random bits.
    pub fn wait_after_failure(&mut self, now: UnixTime, random: u64) -> Duration {
        let bound = self.pause();
        self.failures = self.failures.saturating_add(1);
        // A leaf that has ended has nothing left to save, and its holder keeps asking at the usual pace.
        let bound = match self.may_show(now) {
            true => bound.min((self.left_in_millis(now) / 4).max(millis(FIRST_PAUSE))),
            false => bound,
        };
        Duration::from_millis(scale(random, bound))
    }

    /// The longest pause after the failures so far, in milliseconds.
    fn pause(&self) -> u64 {
        (millis(FIRST_PAUSE) << self.failures.min(20)).min(millis(LONGEST_PAUSE))
    }

    /// Failures since the leaf was issued, or since there was one that is valid.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the leaf may still be shown. It is, until its end, however often renewal failed; never after.
    pub fn may_show(&self, now: UnixTime) -> bool {
        now.as_secs() <= self.not_after.as_secs()
    }

    /// How much of its life is left.
    pub fn remaining(&self, now: UnixTime) -> Remaining {
        Remaining::at(now, self.not_before, self.not_after)
    }

    fn life_in_millis(&self) -> u64 {
        self.not_after.as_secs().saturating_sub(self.not_before.as_secs()).saturating_mul(1000)
    }

    fn left_in_millis(&self, now: UnixTime) -> u64 {
        self.not_after.as_secs().saturating_sub(now.as_secs()).saturating_mul(1000)
    }
}

/// A number between 0 and `bound`, both included, as `random` falls.
fn scale(random: u64, bound: u64) -> u64 {
    let scaled = (u128::from(random) * (u128::from(bound) + 1)) >> 64;
    // The product is below 2^64 times the bound plus one, so what is left is at most the bound.
    u64::try_from(scaled).unwrap_or(bound)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::svid::moment;

    const DAY: u64 = 86_400;

    #[test]
    fn renews_at_half_life_give_or_take_one_per_cent() {
        let renewal = Renewal::new(moment(1000), moment(1000 + DAY));
        let (early, late) = (renewal.first_wait(moment(1000), 0), renewal.first_wait(moment(1000), u64::MAX));
        assert_eq!(early, Duration::from_secs(DAY / 2 - DAY / 100));
        assert_eq!(late, Duration::from_secs(DAY / 2 + DAY / 100));
    }

    #[test]
    fn a_late_holder_asks_soon_but_not_in_step_with_all_others() {
        let renewal = Renewal::new(moment(0), moment(DAY));
        assert_eq!(renewal.first_wait(moment(DAY - 3600), 0), Duration::ZERO);
        assert_eq!(renewal.first_wait(moment(DAY - 3600), u64::MAX), LATE_SPREAD);
        assert_eq!(renewal.first_wait(moment(DAY - 4), u64::MAX), Duration::from_secs(1));
        assert_eq!(renewal.first_wait(moment(DAY + 4), u64::MAX), FIRST_PAUSE);
    }

    #[test]
    fn pauses_double_from_half_a_second_to_two_and_a_half_minutes() {
        let mut renewal = Renewal::new(moment(0), moment(DAY));
        let bounds: Vec<_> =
            (0..11).map(|_| renewal.wait_after_failure(moment(DAY / 2), u64::MAX).as_millis()).collect();
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 150_000, 150_000]);
        assert_eq!(renewal.failures(), 11);
        assert_eq!(renewal.wait_after_failure(moment(DAY / 2), 0), Duration::ZERO);
    }

    #[test]
    fn the_end_of_a_leaf_is_noticed_when_it_comes() {
        let mut renewal = Renewal { failures: 9, ..Renewal::new(moment(0), moment(DAY)) };
        assert_eq!(renewal.wait_after_failure(moment(DAY), u64::MAX), FIRST_PAUSE);
        assert_eq!(renewal.wait_after_failure(moment(DAY + 1), u64::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn the_old_leaf_is_kept_to_its_end_and_no_longer() {
        let renewal = Renewal::new(moment(0), moment(100));
        assert!(renewal.may_show(moment(100)) && !renewal.may_show(moment(101)));
    }

    #[test]
    fn warns_at_half_a_quarter_and_a_tenth() {
        for (now, remaining) in [
            (0, Remaining::Plenty),
            (499, Remaining::Plenty),
            (500, Remaining::Half),
            (749, Remaining::Half),
            (750, Remaining::Quarter),
            (899, Remaining::Quarter),
            (900, Remaining::Tenth),
            (1000, Remaining::Tenth),
            (1001, Remaining::Ended),
        ] {
            assert_eq!(Remaining::at(moment(now), moment(0), moment(1000)), remaining, "{now}");
        }
    }

    #[test]
    fn a_leaf_that_is_not_valid_yet_is_asked_for_again() {
        assert_eq!(Remaining::at(moment(9), moment(10), moment(1000)), Remaining::NotYet);
        assert!(Remaining::NotYet > Remaining::Half, "it is due");
        let (now, begin) = (moment(DAY), moment(4 * DAY));
        let mut renewal = Renewal::new(begin, moment(5 * DAY));
        assert_eq!(renewal.first_wait(now, u64::MAX), FIRST_PAUSE);
        // Others that are no better follow at the pace of failures.
        for bound in [1000, 2000, 4000] {
            renewal = renewal.followed_by(begin, moment(5 * DAY), now);
            assert_eq!(renewal.first_wait(now, u64::MAX).as_millis(), bound);
        }
        // Nor are those that have ended already, by a clock that is behind.
        let ended = renewal.followed_by(moment(0), moment(DAY / 2), now);
        assert_eq!((ended.failures(), ended.first_wait(now, u64::MAX).as_secs()), (4, 8));
        let good = renewal.followed_by(now, moment(2 * DAY), now);
        assert_eq!((good.failures(), good.first_wait(now, 0)), (0, Duration::from_secs(DAY / 2 - DAY / 100)));
    }

    #[test]
    fn a_leaf_that_begins_in_a_minute_is_renewed_like_others() {
        let (now, begin) = (moment(DAY), moment(DAY + 61));
        let before = Renewal::new(moment(0), moment(DAY + 10));
        let renewal = before.followed_by(begin, moment(2 * DAY), now);
        assert_eq!(renewal.failures(), 0);
        assert!(renewal.first_wait(now, 0) > Duration::from_secs(DAY / 3));
    }

    #[test]
    fn a_good_leaf_stays_for_one_that_is_not_valid_yet() {
        let own = Renewal::new(moment(0), moment(DAY));
        // What is made by a clock that is ahead.
        let made = |now: u64, ahead: u64| Renewal::new(moment(now + ahead - 60), moment(now + ahead + DAY));
        let stays = |came, now: u64, ahead| own.stays_for(&made(now, ahead), came, moment(now));
        let hour = DAY / 24;
        for now in [DAY / 2, DAY * 3 / 4, 18 * hour + hour / 2, 22 * hour] {
            assert!(stays(Came::ByRenewal, now, hour), "{now}: it is good by both clocks");
            assert!(!stays(Came::ByToken, now, hour), "{now}: it was refused for its root");
            assert!(
                !stays(Came::ByRenewal, now, 300) && !stays(Came::ByToken, now, 300),
                "within what clocks are wrong"
            );
        }
        // Whoever has no token could not ask again; the longest pause is shorter.
        assert!(stays(Came::ByRenewal, DAY - hour - 301, hour) && !stays(Came::ByRenewal, DAY - hour - 299, hour));
        assert!(LONGEST_PAUSE * 3 / 2 < CLOCK_SLACK);
        // By the maker's clock it has ended, or not begun.
        assert!(stays(Came::ByToken, 11 * hour + hour / 2, 13 * hour) && stays(Came::ByToken, DAY - 1, 13 * hour));
        assert!(stays(Came::ByRenewal, DAY / 2, 4 * DAY), "a clock that jumped while it was asked");
        let late = Renewal::new(moment(10 * DAY), moment(11 * DAY));
        let ended = Renewal::new(moment(8 * DAY), moment(9 * DAY));
        assert!(late.stays_for(&ended, Came::ByToken, moment(10 * DAY + hour)));
        // What has ended, or has not begun, stays for nobody.
        assert!(!stays(Came::ByToken, DAY + 1, 13 * hour) && !stays(Came::ByRenewal, DAY + 1, hour));
        assert!(!late.stays_for(&made(9 * DAY, DAY / 2), Came::ByToken, moment(9 * DAY)));
    }

    proptest! {
        #[test]
        fn there_is_always_another_try_before_the_end(
            life in 8..100 * DAY, failures in 0..40_u32, random: u64, part in 0..1000_u64,
        ) {
            let mut renewal = Renewal { failures, ..Renewal::new(moment(0), moment(life)) };
            let now = moment(life * part / 1000);
            let left = life - now.as_secs();
            let first = renewal.first_wait(now, random);
            prop_assert!(first <= Duration::from_secs(left.max(1)), "{first:?} of {left}");
            let wait = renewal.wait_after_failure(now, random);
            prop_assert!(wait <= LONGEST_PAUSE);
            prop_assert!(left < 2 || wait <= Duration::from_secs(left) / 4 + FIRST_PAUSE, "{wait:?} of {left}");
        }
    }
}
