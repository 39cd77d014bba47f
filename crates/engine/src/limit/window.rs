//! The sliding window, as two counters: that of the window before weighs as much as of it is still within reach.
//!
//! Windows of a key begin with its first request, so that not all keys begin anew at once. Where the requests of the window before came
//! unevenly, the estimate is off: within one length of the window at most twice the limit pass, and only after a window that began
//! idle and ended with everything at once. Of several proxies that divide a window each has its part of it, and one request at least.
//!
//! A window that was charged with more than fits is full, and its beginning lies in the future: as far as the rate takes to pay what is too
//! much. A debt is time, as with the token bucket, and is worth as much when the limit has changed.

use std::time::Duration;

use super::{Cell, Standing, WHOLE};

/// A number in a length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// In nanoseconds.
    pub(crate) length: u64,
    /// What fits.
    pub(crate) most: u32,
    /// Among how many proxies it is divided.
    pub(crate) proxies: u32,
}

/// A cell taken apart, brought up to a moment.
#[derive(Clone, Copy)]
struct Counts {
    begin: u64,
    before: u32,
    here: u32,
    /// Time in the current window.
    elapsed: u64,
    /// Time until it begins: what is left of a debt.
    ahead: u64,
}

impl Window {
    pub(crate) fn new(most: u32, length: Duration) -> Window {
        Window { length: super::nanoseconds(length).max(1), most, proxies: 1 }
    }

    /// The share of one of so many proxies.
    pub(crate) fn divided(self, proxies: u32) -> Window {
        let proxies = proxies.max(1);
        Window { most: (self.most / proxies).max(1), proxies, ..self }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of one number")]
    fn read(&self, cell: Cell, now: u64) -> Counts {
        let (before, here) = ((cell.second >> 32) as u32, cell.second as u32);
        let elapsed = now.saturating_sub(cell.first);
        if cell == Cell::default() || elapsed >= self.length.saturating_mul(2) {
            return Counts { begin: now, before: 0, here: 0, elapsed: 0, ahead: 0 };
        }
        if elapsed >= self.length {
            let begin = cell.first + self.length;
            return Counts { begin, before: here, here: 0, elapsed: elapsed - self.length, ahead: 0 };
        }
        // It is also ahead, a little, of a worker that has read the clock a moment before another one.
        Counts { begin: cell.first, before, here, elapsed, ahead: cell.first.saturating_sub(now) }
    }

    fn used(&self, counts: Counts) -> u64 {
        let reach = u128::from(self.length - counts.elapsed);
        let weighed = (u128::from(counts.before) * reach).div_ceil(u128::from(self.length));
        let debt = u128::from(counts.ahead) * u128::from(self.most) / u128::from(self.length);
        u64::try_from(weighed + debt).unwrap_or(u64::MAX).saturating_add(u64::from(counts.here))
    }

    /// Adds to what is counted in the current window. What does not fit into it becomes time.
    fn add(&self, counts: Counts, cost: u32) -> Cell {
        let here = counts.here.saturating_add(cost).min(self.most.max(counts.here));
        let debt = u64::from(cost) - u64::from(here - counts.here);
        let time = (u128::from(debt) * u128::from(self.length)).div_ceil(u128::from(self.most.max(1)));
        let begin = counts.begin.saturating_add(u64::try_from(time).unwrap_or(u64::MAX));
        write(Counts { begin, here, ..counts })
    }

    pub(crate) fn charge(&self, cell: Cell, now: u64, cost: u32) -> Result<Cell, Duration> {
        let counts = self.read(cell, now);
        let used = self.used(counts);
        if used.saturating_add(u64::from(cost)) > u64::from(self.most) {
            // What fits into the whole window and not into a share passes one that is empty.
            let passes = used == 0 && self.proxies > 1;
            if !passes {
                return Err(self.wait(counts, cost));
            }
        }
        Ok(self.add(counts, cost))
    }

    fn wait(&self, counts: Counts, cost: u32) -> Duration {
        let rest = (self.length - counts.elapsed).saturating_add(counts.ahead);
        if cost > self.most && self.proxies > 1 {
            let next = if counts.here == 0 { 0 } else { self.length };
            return Duration::from_nanos(rest.saturating_add(next));
        }
        let here = u64::from(counts.here) + u64::from(cost);
        let nanoseconds = match u64::from(self.most).checked_sub(here) {
            Some(room) => rest.saturating_sub(self.reach_for(counts.before, room)).max(counts.ahead),
            // Only the next window can have room.
            None => {
                let room = u64::from(self.most.saturating_sub(cost));
                rest.saturating_add(self.length.saturating_sub(self.reach_for(counts.here, room)))
            }
        };
        Duration::from_nanos(nanoseconds)
    }

    /// How long before the end of a window what was counted before it weighs `room` at most.
    fn reach_for(&self, before: u32, room: u64) -> u64 {
        let reach = u128::from(room) * u128::from(self.length) / u128::from(before.max(1));
        u64::try_from(reach).unwrap_or(u64::MAX)
    }

    pub(crate) fn debit(&self, cell: Cell, now: u64, cost: u32) -> Cell {
        self.add(self.read(cell, now), cost)
    }

    /// Out of a debt, and then out of the current window: what the one before weighs is on its way out.
    pub(crate) fn refund(&self, cell: Cell, now: u64, cost: u32) -> Cell {
        let counts = self.read(cell, now);
        let time = u128::from(cost) * u128::from(self.length) / u128::from(self.most.max(1));
        let time = u64::try_from(time).unwrap_or(u64::MAX).min(counts.ahead);
        let debt = (u128::from(time) * u128::from(self.most)).div_ceil(u128::from(self.length));
        let rest = u64::from(cost).saturating_sub(u64::try_from(debt).unwrap_or(u64::MAX));
        let here = counts.here.saturating_sub(u32::try_from(rest).unwrap_or(u32::MAX));
        write(Counts { begin: counts.begin - time, here, ..counts })
    }

    pub(crate) fn standing(&self, cell: Cell, now: u64) -> Standing {
        let counts = self.read(cell, now);
        let left = i64::from(self.most).saturating_sub_unsigned(self.used(counts));
        Standing { left, full_in: Duration::from_nanos(self.counted_for(counts)) }
    }

    /// The share that is used, in parts of [`WHOLE`], rounded up.
    pub(crate) fn share(&self, cell: Cell, now: u64) -> u64 {
        let counts = self.read(cell, now);
        let (length, most) = (u128::from(self.length), u128::from(self.most.max(1)));
        let weighed = u128::from(counts.before) * u128::from(self.length - counts.elapsed);
        let all = weighed + u128::from(counts.here) * length + u128::from(counts.ahead) * most;
        let share = all.saturating_mul(u128::from(WHOLE)).div_ceil(length * most);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// A cell of a window that begins now, with this share used.
    pub(crate) fn with_share(&self, share: u64, now: u64) -> Cell {
        let used = (u128::from(share) * u128::from(self.most)).div_ceil(u128::from(WHOLE));
        self.debit(Cell::default(), now, u32::try_from(used).unwrap_or(u32::MAX))
    }

    /// A cell of a window that is as long and has room for another number, with the same shares of it used; a debt is time, and is the same.
    pub(crate) fn rescale(&self, cell: Cell, from: &Window) -> Cell {
        let scaled = |count: u64| {
            let (whole, parts) = (count * u64::from(self.most), u64::from(from.most.max(1)));
            // Always up would make a key use more with each change there and back.
            let part = if self.most < from.most { whole.div_ceil(parts) } else { whole / parts };
            part.min(u64::from(u32::MAX))
        };
        let (before, here) = (cell.second >> 32, cell.second & u64::from(u32::MAX));
        Cell { second: scaled(before) << 32 | scaled(here), ..cell }
    }

    /// How long something of it counts: what is in the current window does until the next one has ended.
    fn counted_for(&self, counts: Counts) -> u64 {
        let rest = (self.length - counts.elapsed).saturating_add(counts.ahead);
        match (counts.before, counts.here) {
            (0, 0) => 0,
            (_, 0) => rest,
            _ => rest.saturating_add(self.length),
        }
    }
}

fn write(counts: Counts) -> Cell {
    Cell { first: counts.begin, second: u64::from(counts.before) << 32 | u64::from(counts.here) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{below, draw};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_was_counted_before_weighs_less_and_less() {
        let window = Window::new(10, Duration::from_secs(60));
        let mut cell = Cell::default();
        for _ in 0..10 {
            cell = window.charge(cell, 5 * SECOND, 1).expect("room");
        }
        assert!(window.charge(cell, 64 * SECOND, 1).is_err());
        // Half of the next window on, half of them still count.
        let left = window.standing(cell, (65 + 30) * SECOND).left;
        assert_eq!(left, 5);
        assert_eq!(window.standing(cell, (65 + 60) * SECOND).left, 10);
    }

    #[test]
    fn the_wait_is_long_enough_and_not_longer() {
        let window = Window::new(10, Duration::from_secs(60));
        for seed in 0..500 {
            let mut draws = (0..).map(|n| draw(seed, n));
            let mut number = |most: u64| below(draws.next().expect("endless"), most);
            let (mut cell, mut now) = (Cell::default(), 1 + number(SECOND));
            for _ in 0..60 {
                now += number(20 * SECOND);
                let cost = 1 + number(4) as u32;
                match window.charge(cell, now, cost) {
                    Ok(after) => cell = after,
                    Err(wait) => {
                        let then = now + u64::try_from(wait.as_nanos()).expect("small");
                        assert!(window.charge(cell, then, cost).is_ok(), "seed {seed}");
                        assert!(window.charge(cell, then - 2, cost).is_err(), "seed {seed}");
                    }
                }
            }
        }
    }

    /// The model remembers every request.
    #[test]
    fn never_more_than_twice_the_limit_in_one_length_and_never_more_than_it_in_a_window() {
        for seed in 0..300 {
            let mut draws = (0..).map(|n| draw(seed, n));
            let mut number = |most: u64| below(draws.next().expect("endless"), most);
            let most = 1 + number(20) as u32;
            let window = Window::new(most, Duration::from_secs(10));
            let (mut cell, mut now, mut log) = (Cell::default(), 1u64, Vec::<u64>::new());
            for _ in 0..400 {
                now += number(2) * number(2 * SECOND);
                if let Ok(after) = window.charge(cell, now, 1) {
                    cell = after;
                    log.push(now);
                }
                let reach = log.iter().filter(|at| **at + window.length > now).count();
                assert!(reach <= 2 * most as usize, "seed {seed}");
                let counts = window.read(cell, now);
                assert!(counts.here <= most, "seed {seed}");
                assert_eq!(counts.here as usize, log.iter().filter(|at| **at >= counts.begin).count(), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_share_is_a_part_and_one_request_at_least() {
        let share = Window::new(10, Duration::from_secs(60)).divided(3);
        let mut cell = Cell::default();
        for _ in 0..3 {
            cell = share.charge(cell, SECOND, 1).expect("room");
        }
        assert!(share.charge(cell, SECOND, 1).is_err());
        let wait = share.charge(cell, SECOND, 5).expect_err("it is not empty");
        assert_eq!(wait, Duration::from_secs(120));
        let later = SECOND + u64::try_from(wait.as_nanos()).expect("small");
        assert!(share.charge(cell, later - 2, 5).is_err());
        let cell = share.charge(cell, later, 5).expect("it is empty");
        assert_eq!(share.standing(cell, later).left, -2);
        let one = Window::new(2, Duration::from_secs(60)).divided(5);
        assert!(one.charge(Cell::default(), SECOND, 1).is_ok());
    }

    #[test]
    fn all_of_it_is_there_again_when_that_is_told() {
        let window = Window::new(2, Duration::from_secs(4));
        let first = window.charge(Cell::default(), SECOND, 1).expect("room");
        let cell = window.charge(first, 2 * SECOND, 1).expect("room");
        let told = window.standing(cell, 2 * SECOND);
        assert_eq!(told, Standing { left: 0, full_in: Duration::from_secs(7) });
        // At the end of the window all of it still counts.
        assert!(window.charge(cell, 5 * SECOND, 1).is_err());
        assert_eq!(window.standing(cell, 6 * SECOND), Standing { left: 0, full_in: Duration::from_secs(3) });
        assert_eq!(window.standing(cell, 9 * SECOND - 1).left, 1);
        assert_eq!(window.standing(cell, 9 * SECOND).left, 2);
        assert_eq!(window.standing(Cell::default(), SECOND), Standing { left: 2, full_in: Duration::ZERO });
    }

    #[test]
    fn a_debit_goes_below_zero_and_a_refund_takes_back() {
        let window = Window::new(10, Duration::from_secs(60));
        let cell = window.debit(Cell::default(), SECOND, 25);
        assert_eq!(window.standing(cell, SECOND).left, -15);
        assert_eq!(window.standing(window.refund(cell, SECOND, 10), SECOND).left, -5);
        assert_eq!(window.standing(window.refund(cell, SECOND, 20), SECOND).left, 5);
    }

    #[test]
    fn a_debt_is_paid_at_the_rate_of_the_limit() {
        let window = Window::new(4, Duration::from_secs(2));
        let first = window.charge(Cell::default(), SECOND, 1).expect("room");
        // 997 more than fits, in a window that has half gone by.
        let cell = window.debit(first, 2 * SECOND, 1_000);
        let wait = window.charge(cell, 2 * SECOND, 1).expect_err("it is full");
        // What is owed is paid by four in two seconds; then the window has its length, and the next one a quarter of it before there is room.
        let then = 2 * SECOND + u64::try_from(wait.as_nanos()).expect("small");
        assert_eq!(wait, Duration::from_secs(500));
        assert!(window.charge(cell, then, 1).is_ok() && window.charge(cell, then - 2, 1).is_err());
        assert!(window.standing(cell, 2 * SECOND).left < -990);
        let told = window.standing(cell, 100 * SECOND);
        assert!((-810..-790).contains(&told.left), "{told:?}");
        assert_eq!(window.standing(cell, 100 * SECOND + nanoseconds(told.full_in)), full(4));
    }

    #[test]
    fn a_limit_that_is_lowered_makes_no_debt() {
        let (many, few) = (Window::new(100, Duration::from_secs(60)), Window::new(10, Duration::from_secs(60)));
        let cell = many.debit(Cell::default(), SECOND, 90);
        assert!(few.charge(cell, 2 * SECOND, 1).is_err());
        assert_eq!(few.standing(cell, 121 * SECOND), full(10));
        // A debt stays one when the limit is raised.
        let cell = few.debit(Cell::default(), SECOND, 20);
        assert!(many.charge(cell, 2 * SECOND, 1).is_err(), "the rest of a minute is owed");
        let wait = many.charge(cell, 2 * SECOND, 1).expect_err("full");
        assert!(many.charge(cell, 2 * SECOND + nanoseconds(wait), 1).is_ok());
    }

    #[test]
    fn a_key_keeps_its_share_when_the_limit_is_another() {
        let window = |most| Window::new(most, Duration::from_secs(600));
        let left = |used: u32, from: u32, to: u32, at: u64| {
            let cell = window(from).debit(Cell::default(), SECOND, used);
            window(to).standing(window(to).rescale(cell, &window(from)), at).left
        };
        assert_eq!(left(5, 5, 50, SECOND), 0);
        assert_eq!(left(50, 100, 10, SECOND), 5);
        assert_eq!(left(1, 1_000, 10, SECOND), 9, "what is less than one is one");
        assert_eq!(left(0, 100, 10, SECOND), 10);
        // What came in the window before, too, and a debt is as long.
        assert_eq!(left(100, 100, 10, 901 * SECOND), 5);
        assert_eq!(left(200, 100, 10, SECOND), -10);
    }

    fn full(most: i64) -> Standing {
        Standing { left: most, full_in: Duration::ZERO }
    }

    fn nanoseconds(time: Duration) -> u64 {
        u64::try_from(time.as_nanos()).expect("small")
    }
}
