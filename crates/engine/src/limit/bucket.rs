//! The token bucket, as GCRA: one number per key, the moment at which its bucket is full again.
//!
//! A bucket holds `burst` tokens and gains one every `interval`. The generic cell rate algorithm (ITU-T I.371) keeps no tokens but
//! the moment of being full; a charge moves it, and is admitted when it is then not further away than a full bucket takes to fill.
//! A debit moves it beyond: that is a bucket with less than nothing in it.

use std::time::Duration;

use super::{Cell, Standing};

/// Fractions of a nanosecond that are kept, so that a billion per second is as exact as one per hour.
const FRACTION: u32 = 16;

/// A rate and a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// The time of one token, in fractions of a nanosecond.
    interval: u64,
    /// Tokens in a full bucket.
    pub(crate) burst: u32,
}

impl Bucket {
    /// The longest time that a bucket may take to fill.
    pub(crate) const LONGEST: Duration = Duration::from_secs(72 * 3600);

    /// `tokens` in each `per`, and at most `burst` at once. None when it takes longer than [`Bucket::LONGEST`] to fill.
    pub(crate) fn new(tokens: u32, per: Duration, burst: u32) -> Option<Bucket> {
        let per = per.as_nanos() << FRACTION;
        // Rounded up: never more than was said.
        let interval = u64::try_from(per.div_ceil(u128::from(tokens.max(1)))).ok()?;
        let bucket = Bucket { interval, burst };
        let whole = u128::from(interval) * u128::from(burst);
        (whole <= Bucket::LONGEST.as_nanos() << FRACTION).then_some(bucket)
    }

    /// The time of one token.
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
        let after = full_at.max(now) + u128::from(self.interval) * u128::from(cost);
        let latest = now + u128::from(self.whole());
        if after > latest {
            return Err(Duration::from_nanos(nanoseconds(after - latest)));
        }
        Ok(write(after))
    }

    pub(crate) fn debit(&self, cell: Cell, now: u64, cost: u32) -> Cell {
        write(read(cell).max(moment(now)) + u128::from(self.interval) * u128::from(cost))
    }

    pub(crate) fn refund(&self, cell: Cell, cost: u32) -> Cell {
        write(read(cell).saturating_sub(u128::from(self.interval) * u128::from(cost)))
    }

    pub(crate) fn standing(&self, cell: Cell, now: u64) -> Standing {
        let missing = read(cell).saturating_sub(moment(now));
        let full_in = Duration::from_nanos(nanoseconds(missing));
        let whole = u128::from(self.whole());
        let left = if missing <= whole {
            // Fits in 64 bits, which divide quickly.
            i64::try_from((self.whole() - missing as u64) / self.interval.max(1)).unwrap_or(i64::MAX)
        } else {
            -i64::try_from((missing - whole).div_ceil(u128::from(self.interval.max(1)))).unwrap_or(i64::MAX)
        };
        Standing { left, full_in }
    }

    pub(crate) fn memory(&self, cell: Cell, now: u64) -> u64 {
        nanoseconds(read(cell).saturating_sub(moment(now)))
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
