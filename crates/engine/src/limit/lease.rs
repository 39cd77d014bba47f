//! Tokens that a proxy has taken from a shared limit in advance, by key, so that a request need not ask for its own.
//!
//! The store has counted them already. They are good for a moment ([`LIFE`]), after which they are lost; how many are taken at once follows
//! how quickly they are used: one by one for a key that is rarely seen, up to a tenth of the bucket for one that is busy. When half of them
//! are used the next are ordered, and a key that is seen again within that moment has its next token ordered with the last one, so that only who
//! finds none has to wait. Nothing is ordered ahead where a request costs more than a tenth of the bucket: too much of a small limit would be
//! lost whenever the next request does not come. **The bound:** within any time the proxies together let through at
//! most what the limit says and the tokens that were out at its beginning, which is at most a tenth of the burst, and at least one, for each
//! proxy.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Standing;
use super::store::Grant;

const SHARDS: usize = 64;
/// Keys in one shard. What is beyond is forgotten; the store knows it.
const MOST: usize = 1 << 14;

/// How long tokens are good.
pub(crate) const LIFE: Duration = Duration::from_millis(500);
/// Tokens that are used up sooner than this were too few.
const BUSY: Duration = Duration::from_millis(50);

/// The tokens of all keys of one limit.
pub(crate) struct Leases {
    shards: Box<[Mutex<HashMap<u64, Lease>>]>,
    /// The most tokens that are ordered ahead of the requests that need them. None is, where a request costs more.
    ahead: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    tokens: u32,
    /// When they were granted, and until when they are good.
    since: u64,
    until: u64,
    /// How many were granted last.
    size: u32,
    /// Whether more are ordered.
    asked: bool,
    /// When the last request came, and how long after the one before the one that waits did.
    came: u64,
    awaited: Option<u64>,
    /// Whether a request has waited for tokens that were under way already.
    short: bool,
    /// Until then the store is not asked, because it could not say anything.
    silent_until: u64,
    /// Until then the store has none for requests that cost `refused_cost` or more.
    refused_until: u64,
    refused_cost: u32,
    /// How the store stood.
    left: i64,
    full_at: u64,
}

/// What became of a request for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drawn {
    /// They were there; so many should be ordered for the next requests, if any.
    Taken(Standing, Option<u32>),
    /// The store has none for so long.
    Refused(Standing, Duration),
    /// There are none here: so many should be ordered, unless they are ordered already.
    None(Option<u32>),
    /// The store cannot say anything about this key.
    Silent,
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Leases").field("ahead", &self.ahead).finish_non_exhaustive()
    }
}

impl Leases {
    /// For a bucket of this size.
    pub(crate) fn new(burst: u32) -> Leases {
        Leases { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), ahead: burst / 10 }
    }

    /// Takes tokens. What is said to be ordered has to be ordered: it is noted here.
    pub(crate) fn draw(&self, hash: u64, cost: u32, now: u64) -> Drawn {
        let mut shard = self.shard(hash);
        let full = shard.len() >= MOST;
        if full && !shard.contains_key(&hash) {
            // A quarter at least, so that a flood of keys does not make every request clean up.
            shard.retain(|_, lease| lease.asked || lease.until.max(lease.refused_until) > now);
            if shard.len() > MOST / 4 * 3 {
                shard.clear();
            }
        }
        let lease = shard.entry(hash).or_default();
        if lease.until < now {
            lease.tokens = 0;
        }
        let held = lease.tokens;
        if held >= cost {
            lease.tokens -= cost;
            let gap = lease.awaited.take().unwrap_or_else(|| lease.gap(now));
            let is_busy = gap < super::nanoseconds(LIFE);
            let more = (!lease.asked && is_busy && cost <= self.ahead && lease.tokens * 2 <= lease.size)
                .then(|| lease.next_size(self.ahead, gap, now).max(cost));
            lease.asked |= more.is_some();
            return Drawn::Taken(lease.standing(now), more);
        }
        if lease.refused_until > now && cost >= lease.refused_cost {
            return Drawn::Refused(lease.standing(now), Duration::from_nanos(lease.refused_until - now));
        }
        if lease.asked {
            lease.awaited = Some(lease.gap(now));
            lease.short = true;
            return Drawn::None(None);
        }
        if lease.silent_until > now {
            return Drawn::Silent;
        }
        lease.asked = true;
        let gap = lease.gap(now);
        lease.awaited = Some(gap);
        Drawn::None(Some(lease.next_size(self.ahead.max(1), gap, now).max(cost)))
    }

    /// Puts tokens back that were not used after all.
    pub(crate) fn put_back(&self, hash: u64, cost: u32, now: u64) {
        if let Some(lease) = self.shard(hash).get_mut(&hash).filter(|lease| lease.until > now) {
            lease.tokens = lease.tokens.saturating_add(cost);
        }
    }

    /// Takes in what the store has granted to an order of `least` tokens at least; none was not ordered for requests.
    pub(crate) fn deliver(&self, hash: u64, least: Option<u32>, grant: Grant, now: u64) {
        let mut shard = self.shard(hash);
        let lease = shard.entry(hash).or_default();
        lease.left = grant.left;
        lease.full_at = now.saturating_add(super::nanoseconds(grant.full_in));
        let Some(least) = least else { return };
        lease.asked = false;
        if lease.until < now {
            lease.tokens = 0;
        }
        if grant.tokens > 0 {
            lease.tokens = lease.tokens.saturating_add(grant.tokens);
            (lease.size, lease.since, lease.until) = (grant.tokens, now, now + super::nanoseconds(LIFE));
            // That there are some for this does not mean that there are more.
            if least >= lease.refused_cost {
                lease.refused_until = 0;
            }
        } else {
            lease.refused_until = now.saturating_add(super::nanoseconds(grant.wait));
            lease.refused_cost = least;
        }
    }

    /// Notes that an order came to nothing.
    pub(crate) fn give_up(&self, hash: u64) {
        if let Some(lease) = self.shard(hash).get_mut(&hash) {
            lease.asked = false;
        }
    }

    /// Notes that the store could not say anything about a key: it is not asked again for a moment.
    pub(crate) fn silence(&self, hash: u64, now: u64) {
        if let Some(lease) = self.shard(hash).get_mut(&hash) {
            lease.asked = false;
            lease.silent_until = now.saturating_add(super::nanoseconds(LIFE));
        }
    }

    /// Whether tokens are ordered.
    pub(crate) fn is_asked(&self, hash: u64) -> bool {
        self.shard(hash).get(&hash).is_some_and(|lease| lease.asked)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashMap<u64, Lease>> {
        self.shards[(hash >> 58) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// How long after the one before a request comes; the first, longer than anything lasts.
    fn gap(&mut self, now: u64) -> u64 {
        match std::mem::replace(&mut self.came, now) {
            0 => u64::MAX,
            came => now.saturating_sub(came),
        }
    }

    /// Twice as many as last time when those did not last or came too late, half when they lasted long. Those that have only just come last as long
    /// as requests are apart.
    fn next_size(&mut self, most: u32, gap: u64, now: u64) -> u32 {
        let lasted = now.saturating_sub(self.since).max(gap);
        let size = if std::mem::take(&mut self.short) || lasted < super::nanoseconds(BUSY) {
            self.size.saturating_mul(2)
        } else if lasted > super::nanoseconds(BUSY) * 4 {
            self.size / 2
        } else {
            self.size
        };
        size.clamp(1, most)
    }

    fn standing(&self, now: u64) -> Standing {
        let full_in = Duration::from_nanos(self.full_at.saturating_sub(now));
        Standing { left: self.left.saturating_add(i64::from(self.tokens)), full_in }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cell;
    use super::super::bucket::Bucket;
    use super::*;
    use crate::exchange::{below, draw};

    const MS: u64 = 1_000_000;

    fn grant(tokens: u32, left: i64) -> Grant {
        Grant { tokens, wait: Duration::ZERO, left, full_in: Duration::from_secs(1) }
    }

    #[test]
    fn a_rare_key_takes_one_token_at_a_time_and_a_busy_one_more_and_more() {
        let leases = Leases::new(100);
        let mut now = 1_000 * MS;
        let mut sizes = Vec::new();
        for _ in 0..200 {
            now += MS;
            let mut ordered = match leases.draw(7, 1, now) {
                Drawn::None(Some(size)) => {
                    leases.deliver(7, Some(1), grant(size, 50), now);
                    sizes.push(size);
                    leases.draw(7, 1, now)
                }
                drawn => drawn,
            };
            if let Drawn::Taken(_, more) = &mut ordered
                && let Some(size) = more.take()
            {
                leases.deliver(7, Some(1), grant(size, 50), now);
                sizes.push(size);
            }
        }
        assert_eq!(sizes[..3], [1, 2, 4]);
        assert!(sizes.iter().all(|size| *size <= 10) && sizes.contains(&10), "{sizes:?}");
        // A second of silence later they are lost, and it begins with fewer.
        assert_eq!(leases.draw(7, 1, now + 10_000 * MS), Drawn::None(Some(5)));
    }

    /// Requests at these times, and a store that takes a while to answer: how many have to wait.
    fn waiting(burst: u32, cost: u32, requests: impl Iterator<Item = u64>, delay: u64) -> usize {
        let leases = Leases::new(burst);
        let (mut due, mut waited, mut now) = (None::<(u64, u32)>, 0, 0);
        for at in requests.map(|at| at * MS) {
            // One after the other.
            now = now.max(at);
            let mut waits = false;
            loop {
                if let Some((_, size)) = due.take_if(|(at, _)| *at <= now) {
                    leases.deliver(7, Some(cost), grant(size, 5), now);
                }
                let (more, goes_on) = match leases.draw(7, cost, now) {
                    Drawn::Taken(_, more) => (more, true),
                    Drawn::None(more) => (more, false),
                    drawn => panic!("{drawn:?}"),
                };
                due = due.or(more.map(|size| (now + delay * MS, size)));
                if goes_on {
                    break;
                }
                waits = true;
                now = due.expect("an order is under way").0;
            }
            waited += usize::from(waits);
        }
        waited
    }

    #[test]
    fn a_key_that_comes_again_soon_waits_no_more_however_small_its_limit() {
        for burst in [10, 19, 100, 1_000] {
            let every = |gap: u64| (1..=50).map(move |n| 1_000 + n * gap);
            assert_eq!(
                waiting(burst, 1, every(100), 40),
                2,
                "burst {burst}: the first, and the second, which shows that it is busy"
            );
            assert_eq!(waiting(burst, 1, every(450), 40), 2, "burst {burst}");
            assert_eq!(waiting(burst, 1, every(600), 40), 50, "burst {burst}: tokens would be lost in between");
        }
        let every = |gap: u64| (1..=50).map(move |n| 1_000 + n * gap);
        assert_eq!(waiting(9, 1, every(100), 40), 50, "one token is more than a tenth");
        assert_eq!(waiting(50, 6, every(100), 40), 50, "what a request costs is more than a tenth");
        assert_eq!(waiting(60, 6, every(100), 40), 2);
    }

    #[test]
    fn a_slow_store_is_asked_for_as_much_as_is_used_meanwhile() {
        let waited = waiting(1_000, 1, (1..=800).map(|n| 1_000 + n * 5), 80);
        assert!(waited < 24, "{waited}");
    }

    #[test]
    fn a_key_of_which_the_store_cannot_say_anything_is_left_for_a_moment() {
        let leases = Leases::new(10);
        assert_eq!(leases.draw(7, 1, MS), Drawn::None(Some(1)));
        leases.silence(7, MS);
        assert!(!leases.is_asked(7));
        assert_eq!(leases.draw(7, 1, 400 * MS), Drawn::Silent);
        assert_eq!(leases.draw(8, 1, 400 * MS), Drawn::None(Some(1)), "others are asked about");
        assert_eq!(leases.draw(7, 1, 600 * MS), Drawn::None(Some(1)));
    }

    #[test]
    fn one_order_is_under_way_at_a_time_and_its_failure_makes_room_for_the_next() {
        let leases = Leases::new(10);
        assert_eq!(leases.draw(7, 3, 1), Drawn::None(Some(3)));
        assert_eq!(leases.draw(7, 1, 1), Drawn::None(None));
        assert!(leases.is_asked(7));
        leases.give_up(7);
        assert_eq!(leases.draw(7, 1, 1), Drawn::None(Some(1)));
    }

    #[test]
    fn a_refusal_is_remembered_until_there_is_room_again() {
        let leases = Leases::new(10);
        leases.draw(7, 1, MS);
        let none = Grant { tokens: 0, wait: Duration::from_millis(30), left: 0, full_in: Duration::from_secs(1) };
        leases.deliver(7, Some(1), none, MS);
        assert!(matches!(leases.draw(7, 1, 11 * MS), Drawn::Refused(_, wait) if wait == Duration::from_millis(20)));
        assert_eq!(leases.draw(7, 1, 31 * MS), Drawn::None(Some(1)));
    }

    #[test]
    fn what_is_too_much_for_a_dear_request_is_not_too_much_for_a_cheap_one() {
        let leases = Leases::new(10);
        assert_eq!(leases.draw(7, 8, MS), Drawn::None(Some(8)));
        let none = Grant { tokens: 0, wait: Duration::from_secs(5), left: 3, full_in: Duration::from_secs(9) };
        leases.deliver(7, Some(8), none, MS);
        assert!(matches!(leases.draw(7, 8, 2 * MS), Drawn::Refused(..)));
        assert!(matches!(leases.draw(7, 9, 2 * MS), Drawn::Refused(..)));
        assert_eq!(leases.draw(7, 1, 2 * MS), Drawn::None(Some(1)));
        leases.deliver(7, Some(1), grant(1, 2), 3 * MS);
        assert!(matches!(leases.draw(7, 1, 3 * MS), Drawn::Taken(_, Some(1))), "it is busy");
        leases.give_up(7);
        // What the store has said of the dear one is not forgotten over that.
        assert!(matches!(leases.draw(7, 8, 4 * MS), Drawn::Refused(..)));
        // Nor is a refusal of a cheap one taken for one of less.
        assert_eq!(leases.draw(7, 2, 4 * MS), Drawn::None(Some(2)));
        leases.deliver(7, Some(2), Grant { wait: Duration::from_millis(20), ..none }, 4 * MS);
        assert!(matches!(leases.draw(7, 2, 5 * MS), Drawn::Refused(..)));
        assert_eq!(leases.draw(7, 1, 5 * MS), Drawn::None(Some(1)));
    }

    #[test]
    fn tokens_are_never_more_than_were_granted() {
        let leases = Leases::new(50);
        let (mut granted, mut taken) = (0u32, 0u32);
        for step in 0..5_000u64 {
            let now = step * 3 * MS;
            match leases.draw(step % 3, 1, now) {
                Drawn::Taken(_, more) => {
                    taken += 1;
                    if let Some(size) = more {
                        granted += size;
                        leases.deliver(step % 3, Some(1), grant(size, 1), now);
                    }
                }
                Drawn::None(Some(size)) => {
                    granted += size;
                    leases.deliver(step % 3, Some(1), grant(size, 1), now);
                }
                _ => {}
            }
            assert!(taken <= granted);
        }
    }

    /// The server, as its script counts.
    fn serve(bucket: &Bucket, cell: &mut Cell, now: u64, want: u32, least: u32) -> Grant {
        let room = u32::try_from(bucket.standing(*cell, now).left.max(0)).unwrap_or(0);
        if room < least {
            let wait = bucket.charge(*cell, now, least).err().unwrap_or_default();
            return Grant { tokens: 0, wait, left: i64::from(room), full_in: Duration::ZERO };
        }
        let tokens = want.min(room);
        *cell = bucket.charge(*cell, now, tokens).expect("there is room");
        Grant { tokens, wait: Duration::ZERO, left: i64::from(room - tokens), full_in: Duration::ZERO }
    }

    /// Proxies with answers that take their time, and requests in bursts: what passes in any span of time keeps the bound.
    #[test]
    fn proxies_together_keep_the_bound() {
        for seed in 0..12 {
            let mut draws = (0..).map(|n| draw(seed, n));
            let mut number = |most: u64| below(draws.next().expect("endless"), most);
            let (rate, burst) = (20 + number(200) as u32, 5 + number(115) as u32);
            let bucket = Bucket::new(rate, Duration::from_secs(1), burst).expect("a bucket");
            let proxies: Vec<Leases> = (0..1 + number(4)).map(|_| Leases::new(burst)).collect();
            let (mut cell, mut orders, mut passed) = (Cell::default(), Vec::<(u64, usize, u32)>::new(), Vec::new());
            for step in 1..3_000u64 {
                let now = step * MS;
                let (due, later): (Vec<_>, Vec<_>) = orders.into_iter().partition(|(at, ..)| *at <= now);
                orders = later;
                for (_, proxy, want) in due {
                    let grant = serve(&bucket, &mut cell, now, want, 1);
                    proxies[proxy].deliver(7, Some(1), grant, now);
                }
                for (proxy, leases) in proxies.iter().enumerate() {
                    for _ in 0..number(3) * number(2) {
                        let more = match leases.draw(7, 1, now) {
                            Drawn::Taken(_, more) => {
                                passed.push(now);
                                more
                            }
                            Drawn::None(more) => more,
                            Drawn::Refused(..) | Drawn::Silent => None,
                        };
                        orders.extend(more.map(|want| (now + number(20) * MS, proxy, want)));
                    }
                }
            }
            let out = proxies.len() as u64 * 2 * u64::from((burst / 10).max(1));
            for (first, begin) in passed.iter().enumerate() {
                for (last, end) in passed.iter().enumerate().skip(first).step_by(7) {
                    let bound = u64::from(burst) + u64::from(rate) * (end - begin) / 1_000_000_000 + 1 + out;
                    assert!((last - first) as u64 <= bound, "seed {seed}");
                }
            }
            assert!(passed.len() as u64 > u64::from(rate), "seed {seed}: {}", passed.len());
        }
    }
}
