//! The token bucket, as GCRA: one number per key, the moment at which its bucket is full again.
//!
//! A bucket holds `burst` tokens and gains one every `interval`. The generic cell rate algorithm (ITU-T I.371) keeps no tokens but
//! the moment of being full; a charge moves it, and is admitted when it is then not further away than a full bucket takes to fill.
//! A debit moves it beyond: that is a bucket with less than nothing in it. A bucket that several proxies divide takes as long to fill as the
//! whole one, and a token costs each of them as many times as much: what is kept of a key stays true when their number changes.

use std::time::Duration;

use super::{Cell, Standing, WHOLE};

/// Fractions of a nanosecond that are kept, so that a billion per second is as exact as one per hour.
const FRACTION: u32 = 16;

/// A rate and a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// The time of one token, in fractions of a nanosecond.
    interval: u64,
    /// Tokens in a full bucket, which is the one that all proxies have together.
    pub(crate) burst: u32,
    /// Among how many proxies it is divided.
    proxies: u32,
}

impl Bucket {
    /// The longest time that a bucket may take to fill.
    pub(crate) const LONGEST: Duration = Duration::from_secs(72 * 3600);

    /// `tokens` in each `per`, and at most `burst` at once. None when it takes longer than [`Bucket::LONGEST`] to fill.
    pub(crate) fn new(tokens: u32, per: Duration, burst: u32) -> Option<Bucket> {
        let per = per.as_nanos() << FRACTION;
        // Rounded up: never more than was said.
        let interval = u64::try_from(per.div_ceil(u128::from(tokens.max(1)))).ok()?;
        let bucket = Bucket { interval, burst, proxies: 1 };
        let whole = u128::from(interval) * u128::from(burst);
        (whole <= Bucket::LONGEST.as_nanos() << FRACTION).then_some(bucket)
    }

    /// The share of one of so many proxies.
    pub(crate) fn divided(self, proxies: u32) -> Bucket {
        Bucket { proxies: proxies.max(1), ..self }
    }

    /// Among how many proxies it is divided.
    pub(crate) fn proxies(&self) -> u32 {
        self.proxies
    }

    /// Tokens in a full share of it, rounded down, and one at least.
    pub(crate) fn capacity(&self) -> u32 {
        (self.burst / self.proxies).max(1)
    }

    /// The time of one token, rounded down.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval >> FRACTION)
    }

    /// The same in microseconds.
    #[expect(clippy::cast_precision_loss, reason = "fractions of microseconds do not matter")]
    pub(crate) fn interval_in_microseconds(&self) -> f64 {
        self.interval as f64 / f64::from(1u32 << FRACTION) / 1_000.0
    }

    /// The same in milliseconds, rounded: alike for buckets that differ by the rounding of their rate only.
    pub(crate) fn fills_in_milliseconds(&self) -> u128 {
        (self.fills_in() + Duration::from_micros(500)).as_millis()
    }

    /// The time that an empty bucket takes to fill.
    pub(crate) fn fills_in(&self) -> Duration {
        Duration::from_nanos(self.whole().div_ceil(1 << FRACTION))
    }

    /// Fits, because of [`Bucket::LONGEST`].
    fn whole(&self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst))
    }

    pub(crate) fn charge(&self, cell: Cell, now: u64, cost: u32) -> Result<Cell, Duration> {
        let (now, full_at) = (moment(now), read(cell));
        let after = full_at.max(now) + self.price(cost);
        let latest = now + u128::from(self.whole());
        if after <= latest {
            return Ok(write(after));
        }
        let wait = after - latest;
        if self.proxies == 1 {
            return Err(Duration::from_nanos(nanoseconds(wait)));
        }
        // What fits into the whole bucket and not into a share passes a share that is full, and leaves less than nothing.
        match full_at.saturating_sub(now) {
            0 => Ok(write(after)),
            full_in => Err(Duration::from_nanos(nanoseconds(wait.min(full_in)))),
        }
    }

    /// The time that so many tokens cost.
    fn price(&self, tokens: u32) -> u128 {
        u128::from(self.interval) * u128::from(u64::from(tokens) * u64::from(self.proxies))
    }

    pub(crate) fn debit(&self, cell: Cell, now: u64, cost: u32) -> Cell {
        write(read(cell).max(moment(now)) + self.price(cost))
    }

    pub(crate) fn refund(&self, cell: Cell, cost: u32) -> Cell {
        write(read(cell).saturating_sub(self.price(cost)))
    }

    pub(crate) fn standing(&self, cell: Cell, now: u64) -> Standing {
        let missing = read(cell).saturating_sub(moment(now));
        let full_in = Duration::from_nanos(nanoseconds(missing));
        let whole = u128::from(self.whole());
        let left = if missing <= whole {
            // Fits in 64 bits, which divide quickly.
            let token = self.interval.max(1).saturating_mul(u64::from(self.proxies));
            i64::try_from((self.whole() - missing as u64) / token).unwrap_or(i64::MAX)
        } else {
            -i64::try_from((missing - whole).div_ceil(self.price(1).max(1))).unwrap_or(i64::MAX)
        };
        Standing { left, full_in }
    }

    /// The share that is missing, in parts of [`WHOLE`], rounded up.
    pub(crate) fn share(&self, cell: Cell, now: u64) -> u64 {
        let missing = read(cell).saturating_sub(moment(now));
        let share = missing.saturating_mul(u128::from(WHOLE)).div_ceil(u128::from(self.whole().max(1)));
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// A cell that is full after this time.
    pub(crate) fn full_in(time: Duration, now: u64) -> Cell {
        write(moment(now.saturating_add(super::nanoseconds(time))))
    }

    /// A cell with this share missing.
    pub(crate) fn with_share(&self, share: u64, now: u64) -> Cell {
        write(moment(now) + (u128::from(share) * u128::from(self.whole())).div_ceil(u128::from(WHOLE)))
    }

    /// Whether it takes as long to fill, but for the rounding of the rate.
    pub(crate) fn fills_as(&self, other: &Bucket) -> bool {
        self.fills_in_milliseconds() == other.fills_in_milliseconds()
    }
}

fn moment(now: u64) -> u128 {
    u128::from(now) << FRACTION
}

/// Rounded up.
fn nanoseconds(span: u128) -> u64 {
    u64::try_from(span.div_ceil(1 << FRACTION)).unwrap_or(u64::MAX)
}

fn read(cell: Cell) -> u128 {
    u128::from(cell.first) << 64 | u128::from(cell.second)
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of one number")]
fn write(moment: u128) -> Cell {
    Cell { first: (moment >> 64) as u64, second: moment as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{below, draw};

    const SECOND: u64 = 1_000_000_000;

    fn bucket(tokens: u32, per: u64, burst: u32) -> Bucket {
        Bucket::new(tokens, Duration::from_secs(per), burst).expect("a bucket")
    }

    #[test]
    fn a_burst_passes_and_then_one_each_interval() {
        let bucket = bucket(10, 1, 20);
        let mut cell = Cell::default();
        for _ in 0..20 {
            cell = bucket.charge(cell, SECOND, 1).expect("room");
        }
        assert_eq!(bucket.charge(cell, SECOND, 1), Err(Duration::from_millis(100)));
        assert_eq!(bucket.standing(cell, SECOND), Standing { left: 0, full_in: Duration::from_secs(2) });
        let cell = bucket.charge(cell, SECOND + SECOND / 10, 1).expect("one is back");
        assert!(bucket.charge(cell, SECOND + SECOND / 10, 1).is_err());
    }

    #[test]
    fn a_debit_goes_below_zero_and_a_refund_takes_back() {
        let bucket = bucket(1, 1, 5);
        let cell = bucket.debit(Cell::default(), SECOND, 12);
        assert_eq!(bucket.standing(cell, SECOND).left, -7);
        assert_eq!(bucket.charge(cell, SECOND, 1), Err(Duration::from_secs(8)));
        let cell = bucket.refund(cell, 10);
        assert_eq!(bucket.standing(cell, SECOND).left, 3);
    }

    #[test]
    fn shares_together_are_the_whole_and_keys_stay_when_their_number_changes() {
        let whole = bucket(10, 1, 20);
        let share = whole.divided(4);
        let mut cells = [Cell::default(); 4];
        for cell in &mut cells {
            for _ in 0..5 {
                *cell = share.charge(*cell, SECOND, 1).expect("room");
            }
            assert_eq!(share.charge(*cell, SECOND, 1), Err(Duration::from_millis(400)));
            assert_eq!(share.standing(*cell, SECOND), Standing { left: 0, full_in: Duration::from_secs(2) });
        }
        assert_eq!(share.fills_in(), whole.fills_in());
        // Alone again, it has what it had, in larger pieces.
        let half = share.debit(Cell::default(), SECOND, 2);
        assert_eq!((share.standing(half, SECOND).left, whole.standing(half, SECOND).left), (3, 12));
    }

    #[test]
    fn what_is_larger_than_a_share_passes_a_full_one() {
        let share = bucket(1, 1, 3).divided(5);
        assert_eq!(share.capacity(), 1);
        for cost in [1, 3] {
            let cell = share.charge(Cell::default(), SECOND, cost).expect("it is full");
            let wait = share.charge(cell, SECOND, cost).expect_err("it is not");
            assert_eq!(wait, Duration::from_secs(u64::from(5 * cost)), "a fifth of the rate");
            assert!(share.standing(cell, SECOND).left <= 0);
            assert!(share.charge(cell, SECOND + 5 * u64::from(cost) * SECOND, cost).is_ok());
        }
    }

    #[test]
    fn rates_that_do_not_divide_a_second_never_give_more() {
        for rate in [3, 7, 333_333, 999_999_937] {
            let bucket = bucket(rate, 1, rate);
            let mut cell = bucket.debit(Cell::default(), SECOND, rate);
            // What a second brings back, taken one by one where that is few, else at once.
            let step = rate.div_ceil(7);
            let mut taken = 0;
            while let Ok(after) = bucket.charge(cell, 2 * SECOND, step) {
                cell = after;
                taken += step;
            }
            assert!(taken <= rate, "{rate}: {taken}");
        }
    }

    #[test]
    fn a_bucket_that_fills_for_days_is_not_one() {
        assert_eq!(Bucket::new(1, Duration::from_secs(86_400), 4), None);
        assert!(Bucket::new(1, Duration::from_secs(86_400), 3).is_some());
    }

    /// The model keeps tokens as fractions of the time that one takes, and adds what time brings.
    #[test]
    fn it_decides_like_a_bucket_that_counts_tokens() {
        for seed in 0..300 {
            let mut draws = (0..).map(|n| draw(seed, n));
            let mut number = |most: u64| below(draws.next().expect("endless"), most);
            let (rate, burst) = (1 + number(50) as u32, 1 + number(100) as u32);
            let bucket = bucket(rate, 1 + number(5), burst);
            let (interval, whole) = (u128::from(bucket.interval), u128::from(bucket.whole()));
            let (mut cell, mut held, mut now, mut last) = (Cell::default(), whole as i128, 0u64, 0u64);
            for _ in 0..200 {
                now += number(SECOND);
                held = (held + (i128::from(now - last) << FRACTION)).min(whole as i128);
                last = now;
                let cost = 1 + number(8) as u32;
                let price = (interval * u128::from(cost)) as i128;
                match number(5) {
                    0 => {
                        cell = bucket.debit(cell, now, cost);
                        held -= price;
                    }
                    _ => {
                        let decided = bucket.charge(cell, now, cost);
                        assert_eq!(decided.is_ok(), held >= price, "seed {seed}");
                        match decided {
                            Ok(after) => {
                                cell = after;
                                held -= price;
                            }
                            Err(wait) if cost <= burst => {
                                let then = now + u64::try_from(wait.as_nanos()).expect("small");
                                assert!(bucket.charge(cell, then, cost).is_ok(), "seed {seed}");
                                assert!(bucket.charge(cell, then - 1, cost).is_err(), "seed {seed}");
                            }
                            Err(_) => {}
                        }
                    }
                }
                assert_eq!(
                    i128::from(bucket.standing(cell, now).left),
                    held.div_euclid(interval as i128),
                    "seed {seed}"
                );
            }
        }
    }
}
