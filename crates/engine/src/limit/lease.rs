//! Tokens that a proxy has taken from a shared limit in advance, by key, so that a request need not ask for its own.
//!
//! The store has counted them already. They are good for a moment ([`LIFE`]), after which they are lost; how many are taken at once follows
//! how quickly they are used: one by one for a key that is rarely seen, up to a tenth of the bucket for one that is busy. When half of them
//! are used the next are ordered, and a key that is seen again within that moment has its next token ordered with the last one, so that only who
//! finds none has to wait. Nothing is ordered ahead where a request costs more than a tenth of the bucket: too much of a small limit would be
//! lost whenever the next request does not come. Who finds none waits: for the order that is under way, or for the next one, which is for as
//! many as all those need that came meanwhile, and kept for them. A store that has not so many has said that the limit is reached: those that
//! nothing is left for are refused. **The bound:** within any time the proxies together let through at most what the limit says and the tokens
//! that were out at its beginning, which is at most a tenth of the burst, and at least one, for each proxy, and what requests have waited for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Standing;
use super::store::Grant;

const SHARDS: usize = 64;
/// Keys in one shard at most, and at least: of fewer, those that are in use together would not have room.
const MOST: usize = 1 << 14;
const FEWEST: usize = 64;

/// How long tokens are good.
pub(crate) const LIFE: Duration = Duration::from_millis(500);
/// Tokens that are used up sooner than this were too few.
const BUSY: Duration = Duration::from_millis(50);

/// The tokens of all keys of one limit.
pub(crate) struct Leases {
    shards: Box<[Mutex<HashMap<u64, Lease>>]>,
    /// The most tokens that are ordered ahead of the requests that need them. None is, where a request costs more.
    ahead: u32,
    /// The most that there ever are.
    burst: u32,
    /// Keys in one shard. What is beyond is forgotten; the store knows it.
    most: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    tokens: u32,
    /// When they were granted, and until when they are good.
    since: u64,
    until: u64,
    /// How many were wanted last beside those that somebody waited for, and how many of these were granted.
    wanted: u32,
    size: u32,
    /// Whether more are ordered.
    asked: bool,
    /// The number of the last order, and how many it was for.
    order: u64,
    expected: u32,
    /// What those need who wait for the next one, and for the last one.
    demand: u32,
    covered: u32,
    /// How many of the tokens are for those who waited for the last one.
    reserved: u32,
    /// The last order that got less than it was for, and what requests cost at least that got nothing of it.
    ran_out: u64,
    ran_out_cost: u32,
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

/// What a request waits for: tokens of one key of one limit, by the order that counts it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The address of the leases: limits may count by the same key.
    leases: usize,
    pub(super) hash: u64,
    order: u64,
    /// How many it waits for.
    cost: u32,
}

/// What became of a request for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drawn {
    /// They were there; so many should be ordered for the next requests, if any.
    Taken(Standing, Option<u32>),
    /// The store has none for so long, and for the time of so many tokens more.
    Refused(Standing, Duration, u32),
    /// There are none here: so many should be ordered, unless they are ordered already. With the ticket it is asked again.
    None(Option<u32>, Ticket),
    /// The store cannot say anything about this key.
    Silent,
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Leases").field("ahead", &self.ahead).finish_non_exhaustive()
    }
}

impl Leases {
    /// For a bucket of this size, and about so many keys.
    pub(crate) fn new(burst: u32, keys: usize) -> Leases {
        // They are not spread evenly.
        let most = (keys / SHARDS * 2).clamp(FEWEST, MOST);
        Leases { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), ahead: burst / 10, burst, most }
    }

    /// Takes tokens, for a request that has waited with its ticket. What is said to be ordered has to be ordered: it is noted here.
    pub(crate) fn draw(&self, hash: u64, cost: u32, now: u64, ticket: Option<Ticket>) -> Drawn {
        let mut shard = self.shard(hash);
        let full = shard.len() >= self.most;
        if full && !shard.contains_key(&hash) {
            // A quarter at least, so that a flood of keys does not make every request clean up.
            shard.retain(|_, lease| lease.asked || lease.until.max(lease.refused_until) > now);
            if shard.len() > self.most / 4 * 3 {
                // What is under way is somebody's who waits.
                shard.retain(|_, lease| lease.asked);
            }
            // What a flood has taken is given back once it is over.
            if shard.len() < self.most / 8 {
                shard.shrink_to(self.most / 4);
            }
        }
        let lease = shard.entry(hash).or_default();
        lease.expire(now);
        let leases = self.address();
        // Who waited at another limit was here before, and is not another request.
        let is_back = ticket.is_some_and(|ticket| (ticket.leases, ticket.hash) != (leases, hash));
        let ticket = ticket.filter(|ticket| (ticket.leases, ticket.hash) == (leases, hash)).map(|ticket| ticket.order);
        let next = lease.order.saturating_add(1);
        // Whoever waits for the next order is counted; until that is made he may be served or refused.
        if ticket == Some(next) {
            lease.demand = lease.demand.saturating_sub(cost);
        }
        let answered = lease.answered();
        let is_answered = ticket.is_some_and(|order| order <= answered);
        let free = lease.tokens - if is_answered { 0 } else { lease.reserved };
        if free >= cost {
            lease.tokens -= cost;
            lease.reserved = lease.reserved.saturating_sub(if is_answered { cost } else { 0 }).min(lease.tokens);
            let gap = match is_back {
                true => u64::MAX,
                false => lease.awaited.take().unwrap_or_else(|| lease.gap(now)),
            };
            let is_busy = gap < super::nanoseconds(LIFE);
            // Who was waited for says nothing of how quickly the others are used.
            let is_half_used = lease.tokens < cost || (!is_answered && lease.tokens * 2 <= lease.size);
            let more = (!lease.asked && is_busy && cost <= self.ahead && is_half_used)
                .then(|| lease.next_size(self.ahead, gap, now).max(cost));
            let more = more.map(|size| lease.ask(size, 0).min(self.burst));
            return Drawn::Taken(lease.standing(now), more);
        }
        let is_refused = lease.refused_until > now && cost >= lease.refused_cost;
        if is_refused || (ticket.is_some_and(|order| order <= lease.ran_out) && cost >= lease.ran_out_cost) {
            // What was ordered for it is there for others.
            lease.reserved = lease.reserved.saturating_sub(if is_answered { cost } else { 0 });
            let wait = Duration::from_nanos(lease.refused_until.saturating_sub(now));
            return Drawn::Refused(lease.standing(now), wait, cost.saturating_sub(lease.refused_cost));
        }
        if lease.asked {
            if !is_back {
                lease.awaited = Some(lease.gap(now));
                lease.short = true;
            }
            if ticket == Some(lease.order) {
                return Drawn::None(None, Ticket { leases, hash, order: lease.order, cost });
            }
            lease.demand = lease.demand.saturating_add(cost);
            return Drawn::None(None, Ticket { leases, hash, order: next, cost });
        }
        if lease.silent_until > now {
            return Drawn::Silent;
        }
        let gap = if is_back { 0 } else { lease.gap(now) };
        lease.awaited = Some(if is_back { u64::MAX } else { gap });
        let size = lease.next_size(self.ahead.max(1), gap, now).max(cost);
        let size = lease.ask(size, cost).min(self.burst);
        Drawn::None(Some(size), Ticket { leases, hash, order: lease.order, cost })
    }

    /// Whether a ticket is for these.
    pub(crate) fn are_of(&self, ticket: Ticket) -> bool {
        ticket.leases == self.address()
    }

    /// Who waited with this ticket waits no more, and does not come again.
    pub(crate) fn leave(&self, ticket: Ticket) {
        let mut shard = self.shard(ticket.hash);
        let Some(lease) = shard.get_mut(&ticket.hash) else { return };
        let part = match ticket.order {
            order if order == lease.answered() => &mut lease.reserved,
            order if order == lease.order => &mut lease.covered,
            order if order == lease.order.saturating_add(1) => &mut lease.demand,
            _ => return,
        };
        *part = part.saturating_sub(ticket.cost);
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
        lease.expire(now);
        let is_short = grant.tokens < lease.expected;
        if grant.tokens > 0 {
            lease.tokens = lease.tokens.saturating_add(grant.tokens);
            let size = grant.tokens.min(lease.wanted).max(1);
            (lease.size, lease.since, lease.until) = (size, now, now + super::nanoseconds(LIFE));
        }
        lease.reserved = lease.covered.min(lease.tokens);
        if is_short {
            // Of some that were granted none is left, else it would have been.
            lease.refused_cost = if grant.tokens > 0 { 1 } else { least };
            lease.refused_until = now.saturating_add(super::nanoseconds(grant.wait));
            (lease.ran_out, lease.ran_out_cost) = (lease.order, lease.refused_cost);
        } else if least >= lease.refused_cost {
            // That there are some for this does not mean that there are more.
            lease.refused_until = 0;
        }
    }

    /// Notes that an order came to nothing. Who waits for the next one comes again by himself.
    pub(crate) fn give_up(&self, hash: u64) {
        if let Some(lease) = self.shard(hash).get_mut(&hash) {
            lease.come_to_nothing();
        }
    }

    /// Notes that the store could not say anything about a key: it is not asked again for a moment.
    pub(crate) fn silence(&self, hash: u64, now: u64) {
        if let Some(lease) = self.shard(hash).get_mut(&hash) {
            lease.come_to_nothing();
            lease.silent_until = now.saturating_add(super::nanoseconds(LIFE));
        }
    }

    /// Whether the store has none for requests that cost so much, as far as is known.
    pub(crate) fn refuses(&self, hash: u64, cost: u32, now: u64) -> bool {
        let shard = self.shard(hash);
        shard
            .get(&hash)
            .is_some_and(|lease| lease.tokens < cost && lease.refused_until > now && cost >= lease.refused_cost)
    }

    /// Takes tokens that are there for anybody, for a request that waits no longer.
    pub(crate) fn draw_at_once(&self, hash: u64, cost: u32, now: u64) -> Option<Standing> {
        let mut shard = self.shard(hash);
        let lease = shard.get_mut(&hash)?;
        lease.expire(now);
        if lease.tokens - lease.reserved < cost {
            return None;
        }
        lease.tokens -= cost;
        Some(lease.standing(now))
    }

    /// Whether the store had not so many, when it said something last, as were ordered.
    pub(crate) fn has_run_out(&self, hash: u64) -> bool {
        self.shard(hash).get(&hash).is_some_and(|lease| lease.ran_out > 0 && lease.ran_out == lease.answered())
    }

    /// How a key stands, as far as is known.
    pub(crate) fn standing(&self, hash: u64, now: u64) -> Standing {
        self.shard(hash).get(&hash).copied().unwrap_or_default().standing(now)
    }

    /// Tokens of a key that are there and good.
    pub(crate) fn ahead(&self, hash: u64, now: u64) -> u32 {
        self.shard(hash).get(&hash).filter(|lease| lease.until > now).map_or(0, |lease| lease.tokens)
    }

    /// Whether what was ordered for a ticket is still to come. Not when the key was forgotten meanwhile.
    pub(crate) fn awaits(&self, ticket: Ticket) -> bool {
        let shard = self.shard(ticket.hash);
        shard
            .get(&ticket.hash)
            .is_some_and(|lease| lease.asked && lease.answered() < ticket.order && ticket.order <= lease.order + 1)
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashMap<u64, Lease>> {
        self.shards[(hash >> 58) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Notes an order for so many at least, which is for those, too, who wait for it, and for one that costs so much. The first has the number 1. Gives
    /// for how many it is.
    fn ask(&mut self, size: u32, cost: u32) -> u32 {
        self.covered = std::mem::take(&mut self.demand).saturating_add(cost);
        (self.asked, self.expected) = (true, size.max(self.covered));
        self.order = self.order.saturating_add(1);
        self.expected
    }

    /// The order is not answered. Whoever waits for it, or for the next one, comes anew: both count as given up, so that who leaves instead takes
    /// nothing from those of an order before.
    fn come_to_nothing(&mut self) {
        if self.asked {
            (self.asked, self.demand, self.order) = (false, 0, self.order + 2);
        }
    }

    /// The last order that is answered, or given up.
    fn answered(&self) -> u64 {
        self.order - u64::from(self.asked)
    }

    /// Forgets tokens that nobody has used in time: so many less are taken ahead the next time.
    fn expire(&mut self, now: u64) {
        if self.until < now && self.tokens > 0 {
            (self.size, self.short) = (self.size.saturating_sub(self.tokens).max(1), false);
            (self.tokens, self.reserved) = (0, 0);
        }
    }

    /// How long after the one before a request comes; the first, longer than anything lasts.
    fn gap(&mut self, now: u64) -> u64 {
        match std::mem::replace(&mut self.came, now) {
            0 => u64::MAX,
            came => now.saturating_sub(came),
        }
    }

    /// Twice as many as last time when those did not last or came too late, half when they lasted long. Those that have only just come last as long
    /// as requests are apart; after a pause in which all are lost it begins with one.
    fn next_size(&mut self, most: u32, gap: u64, now: u64) -> u32 {
        let lasted = now.saturating_sub(self.since).max(gap);
        let is_short = std::mem::take(&mut self.short);
        let size = if gap >= super::nanoseconds(LIFE) {
            1
        } else if is_short || lasted < super::nanoseconds(BUSY) {
            self.size.saturating_mul(2)
        } else if lasted > super::nanoseconds(BUSY) * 4 {
            self.size / 2
        } else {
            self.size
        };
        self.wanted = size.clamp(1, most);
        self.wanted
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

    impl Leases {
        fn is_asked(&self, hash: u64) -> bool {
            self.shard(hash).get(&hash).is_some_and(|lease| lease.asked)
        }
    }

    fn grant(tokens: u32, left: i64) -> Grant {
        Grant { tokens, wait: Duration::ZERO, left, full_in: Duration::from_secs(1) }
    }

    #[test]
    fn a_rare_key_takes_one_token_at_a_time_and_a_busy_one_more_and_more() {
        let leases = Leases::new(100, 1_000_000);
        let mut now = 1_000 * MS;
        let mut sizes = Vec::new();
        for _ in 0..200 {
            now += MS;
            let mut ordered = match leases.draw(7, 1, now, None) {
                Drawn::None(Some(size), ticket) => {
                    leases.deliver(7, Some(1), grant(size, 50), now);
                    sizes.push(size);
                    leases.draw(7, 1, now, Some(ticket))
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
        // Ten seconds of silence later they are lost, and it begins with as few as were used.
        assert_eq!(ordered(leases.draw(7, 1, now + 10_000 * MS, None)), Some(1));
    }

    /// What is to be ordered for a request that waits.
    fn ordered(drawn: Drawn) -> Option<u32> {
        match drawn {
            Drawn::None(more, _) => more,
            other => panic!("{other:?}"),
        }
    }

    /// Requests at these times, and a store that takes a while to answer: how many have to wait.
    fn waiting(burst: u32, cost: u32, requests: impl Iterator<Item = u64>, delay: u64) -> usize {
        let leases = Leases::new(burst, 1_000_000);
        let (mut due, mut waited, mut now) = (None::<(u64, u32)>, 0, 0);
        for at in requests.map(|at| at * MS) {
            // One after the other.
            now = now.max(at);
            let (mut waits, mut ticket) = (false, None);
            loop {
                if let Some((_, size)) = due.take_if(|(at, _)| *at <= now) {
                    leases.deliver(7, Some(cost), grant(size, 5), now);
                }
                let (more, goes_on) = match leases.draw(7, cost, now, ticket) {
                    Drawn::Taken(_, more) => (more, true),
                    Drawn::None(more, kept) => {
                        ticket = Some(kept);
                        (more, false)
                    }
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
        let leases = Leases::new(10, 1_000_000);
        assert_eq!(ordered(leases.draw(7, 1, MS, None)), Some(1));
        leases.silence(7, MS);
        assert!(!leases.is_asked(7));
        assert_eq!(leases.draw(7, 1, 400 * MS, None), Drawn::Silent);
        assert_eq!(ordered(leases.draw(8, 1, 400 * MS, None)), Some(1), "others are asked about");
        assert_eq!(ordered(leases.draw(7, 1, 600 * MS, None)), Some(1));
    }

    #[test]
    fn one_order_is_under_way_at_a_time_and_its_failure_makes_room_for_the_next() {
        let leases = Leases::new(10, 1_000_000);
        assert_eq!(ordered(leases.draw(7, 3, 1, None)), Some(3));
        assert_eq!(ordered(leases.draw(7, 1, 1, None)), None);
        assert!(leases.is_asked(7));
        leases.give_up(7);
        assert_eq!(ordered(leases.draw(7, 1, 1, None)), Some(1), "the other one comes anew");
    }

    #[test]
    fn a_ticket_is_for_one_limit_and_who_goes_takes_his_tokens_out() {
        let (hour, second) = (Leases::new(1000, 1_000_000), Leases::new(10, 1_000_000));
        let none = Grant { tokens: 0, wait: Duration::ZERO, left: 0, full_in: Duration::ZERO };
        for _ in 0..5 {
            second.draw(7, 1, MS, None);
            second.deliver(7, Some(1), none, MS);
        }
        let Drawn::None(Some(1), ticket) = hour.draw(7, 1, 2 * MS, None) else { panic!("there is none") };
        assert_eq!(ordered(second.draw(7, 1, 2 * MS, Some(ticket))), Some(1), "the other one says nothing of it");
        // Three more come, and two of them go.
        let others: Vec<Ticket> = (0..3)
            .map(|_| match hour.draw(7, 1, 2 * MS, None) {
                Drawn::None(None, ticket) => ticket,
                other => panic!("{other:?}"),
            })
            .collect();
        others.iter().take(2).for_each(|gone| hour.leave(*gone));
        hour.deliver(7, Some(1), grant(1, 9), 2 * MS);
        hour.leave(ticket);
        assert!(matches!(hour.draw(7, 1, 2 * MS, Some(others[2])), Drawn::Taken(..)), "nobody else waits for it");
    }

    #[test]
    fn who_goes_after_an_order_that_came_to_nothing_takes_from_nobody() {
        let leases = Leases::new(1000, 1_000_000);
        let wait = || match leases.draw(7, 1, MS, None) {
            Drawn::None(more, ticket) => (more, ticket),
            other => panic!("{other:?}"),
        };
        let (Some(1), first) = wait() else { panic!("there is none") };
        leases.deliver(7, Some(1), grant(1, 9), MS);
        // What is there is for the first one, so that another one orders for himself, and one more waits for the order after.
        let ((Some(_), second), (None, third)) = (wait(), wait()) else { panic!("one order at a time") };
        leases.give_up(7);
        for gone in [second, third] {
            assert!(!leases.awaits(gone));
            leases.leave(gone);
        }
        assert!(ordered(leases.draw(7, 1, MS, None)).is_some(), "it is not for whoever comes");
        assert!(matches!(leases.draw(7, 1, MS, Some(first)), Drawn::Taken(..)));
    }

    #[test]
    fn who_waited_at_another_limit_does_not_make_a_key_busy() {
        let (hour, day) = (Leases::new(100, 1_000_000), Leases::new(1000, 1_000_000));
        let mut granted = 0;
        for now in (1..=30).map(|n| n * 700 * MS) {
            let Drawn::None(Some(1), own) = hour.draw(7, 1, now, None) else { panic!("those before are too old") };
            granted += 1;
            hour.deliver(7, Some(1), grant(1, 9), now + MS);
            assert!(matches!(hour.draw(7, 1, now + MS, Some(own)), Drawn::Taken(_, None)));
            let Drawn::None(Some(1), other) = day.draw(7, 1, now + MS, None) else { panic!("{now}") };
            hour.put_back(7, 1, now + MS);
            day.deliver(7, Some(1), grant(1, 9), now + 2 * MS);
            let Drawn::Taken(_, more) = hour.draw(7, 1, now + 2 * MS, Some(other)) else { panic!("it was put back") };
            granted += more.unwrap_or(0);
            assert!(matches!(day.draw(7, 1, now + 2 * MS, Some(other)), Drawn::Taken(_, None)));
        }
        assert_eq!(granted, 30);
    }

    #[test]
    fn a_refusal_is_remembered_until_there_is_room_again() {
        let leases = Leases::new(10, 1_000_000);
        leases.draw(7, 1, MS, None);
        let none = Grant { tokens: 0, wait: Duration::from_millis(30), left: 0, full_in: Duration::from_secs(1) };
        leases.deliver(7, Some(1), none, MS);
        assert!(
            matches!(leases.draw(7, 1, 11 * MS, None), Drawn::Refused(_, wait, _) if wait == Duration::from_millis(20))
        );
        assert_eq!(ordered(leases.draw(7, 1, 31 * MS, None)), Some(1));
    }

    #[test]
    fn what_is_too_much_for_a_dear_request_is_not_too_much_for_a_cheap_one() {
        let leases = Leases::new(10, 1_000_000);
        assert_eq!(ordered(leases.draw(7, 8, MS, None)), Some(8));
        let none = Grant { tokens: 0, wait: Duration::from_secs(5), left: 3, full_in: Duration::from_secs(9) };
        leases.deliver(7, Some(8), none, MS);
        assert!(matches!(leases.draw(7, 8, 2 * MS, None), Drawn::Refused(..)));
        assert!(matches!(leases.draw(7, 9, 2 * MS, None), Drawn::Refused(..)));
        assert_eq!(ordered(leases.draw(7, 1, 2 * MS, None)), Some(1));
        leases.deliver(7, Some(1), grant(1, 2), 3 * MS);
        assert_eq!(ordered(leases.draw(7, 1, 3 * MS, None)), Some(1), "the other one is for whom it was ordered");
        leases.give_up(7);
        let second = Some(Ticket { leases: leases.address(), hash: 7, order: 2, cost: 1 });
        assert!(matches!(leases.draw(7, 1, 3 * MS, second), Drawn::Taken(_, Some(1))), "it is busy");
        leases.give_up(7);
        // What the store has said of the dear one is not forgotten over that.
        assert!(matches!(leases.draw(7, 8, 4 * MS, None), Drawn::Refused(..)));
        // Nor is a refusal of a cheap one taken for one of less.
        assert_eq!(ordered(leases.draw(7, 2, 4 * MS, None)), Some(2));
        leases.deliver(7, Some(2), Grant { wait: Duration::from_millis(20), ..none }, 4 * MS);
        assert!(matches!(leases.draw(7, 2, 5 * MS, None), Drawn::Refused(..)));
        assert_eq!(ordered(leases.draw(7, 1, 5 * MS, None)), Some(1));
    }

    /// Requests that come one every so many microseconds, whether those before are served or not: how many of a hundred have to wait for a store that
    /// answers after `delay` ms, once it is known how busy the key is.
    fn waiting_in_a_hundred(gap: u64, delay: u64, cost: u32) -> usize {
        const US: u64 = 1_000;
        let leases = Leases::new(1_000, 1_000_000);
        let (mut due, mut waiting) = (Vec::<(u64, u32)>::new(), Vec::<Ticket>::new());
        let (mut come, mut waited) = (0, 0);
        for now in (1..=4_000_000 / 100).map(|step| step * 100 * US) {
            for (_, size) in due.extract_if(.., |(at, _)| *at <= now) {
                leases.deliver(7, Some(cost), grant(size, 500), now);
            }
            let mut ready: Vec<Option<Ticket>> =
                waiting.extract_if(.., |ticket| !leases.awaits(*ticket)).map(Some).collect();
            while (come + 1) * gap * US <= now {
                come += 1;
                ready.push(None);
            }
            for ticket in ready {
                let more = match leases.draw(7, cost, now, ticket) {
                    Drawn::Taken(_, more) => more,
                    Drawn::None(more, kept) => {
                        waited += usize::from(ticket.is_none() && now > 2_000 * MS);
                        waiting.push(kept);
                        more
                    }
                    drawn => panic!("{drawn:?}"),
                };
                due.extend(more.map(|size| (now + delay * MS, size)));
            }
        }
        waited * 100 / (come as usize / 2)
    }

    #[test]
    fn who_asks_for_a_busy_key_waits_for_nobody() {
        for (gap, delay) in [(5_000, 30), (3_300, 20), (1_000, 5), (500, 5), (250_000, 5)] {
            // What is used on the way there and back must be less than half of what may be taken ahead.
            for cost in [1, 3, 7].into_iter().filter(|cost| u64::from(*cost) * delay * 1_000 / gap < 50) {
                let waited = waiting_in_a_hundred(gap, delay, cost);
                assert!(waited <= 5, "{cost} in {gap} us, {delay} ms to the store: {waited} of a hundred wait");
            }
        }
    }

    /// Bursts of requests that come at once, a pause after each: how many tokens are taken for them from a store that answers after a while.
    fn taken_for_bursts(bursts: u64, of: usize, pause: u64, delay: u64) -> u32 {
        let leases = Leases::new(1_000, 1_000_000);
        let (mut due, mut taken, mut waiting) = (Vec::<(u64, u32)>::new(), 0, Vec::<Option<Ticket>>::new());
        for now in (1..=bursts * pause + 1_000).map(|step| step * MS) {
            for (_, size) in due.extract_if(.., |(at, _)| *at <= now) {
                taken += size;
                leases.deliver(7, Some(1), grant(size, 500), now);
            }
            if now % (pause * MS) == 0 && now / (pause * MS) <= bursts {
                waiting.extend((0..of).map(|_| None));
            }
            for ticket in std::mem::take(&mut waiting) {
                if ticket.is_some_and(|ticket| leases.awaits(ticket)) {
                    waiting.push(ticket);
                    continue;
                }
                let more = match leases.draw(7, 1, now, ticket) {
                    Drawn::Taken(_, more) => more,
                    Drawn::None(more, ticket) => {
                        waiting.push(Some(ticket));
                        more
                    }
                    drawn => panic!("{drawn:?}"),
                };
                due.extend(more.map(|size| (now + delay * MS, size)));
            }
        }
        assert!(waiting.is_empty(), "everybody is served");
        taken
    }

    #[test]
    fn requests_that_come_together_now_and_then_take_hardly_more_than_they_use() {
        for (of, delay) in [(2, 1), (4, 1), (6, 1), (6, 20), (16, 5)] {
            let (used, taken) = (25 * of as u32, taken_for_bursts(25, of, 700, delay));
            assert!(taken <= used * 2, "bursts of {of}: {taken} for {used}");
        }
    }

    #[test]
    fn tokens_are_never_more_than_were_granted() {
        let leases = Leases::new(50, 1_000_000);
        let (mut granted, mut taken) = (0u32, 0u32);
        for step in 0..5_000u64 {
            let now = step * 3 * MS;
            match leases.draw(step % 3, 1, now, None) {
                Drawn::Taken(_, more) => {
                    taken += 1;
                    if let Some(size) = more {
                        granted += size;
                        leases.deliver(step % 3, Some(1), grant(size, 1), now);
                    }
                }
                Drawn::None(Some(size), _) => {
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

    /// Who waits, since when.
    struct Waiter {
        proxy: usize,
        ticket: Option<Ticket>,
        since: u64,
    }

    /// Proxies whose store answers after up to `delay` ms, and up to `crowd` requests a proxy and millisecond, of which those wait that find nothing. What
    /// passes in any span of time keeps the bound, nobody waits for more than two orders, and hardly anything is lost.
    fn keep_the_bound(seed: u64, delay: u64, crowd: u64) {
        let mut draws = (0..).map(|n| draw(seed, n));
        let mut number = |most: u64| below(draws.next().expect("endless"), most);
        let (rate, burst) = (20 + number(200) as u32, 5 + number(115) as u32);
        let bucket = Bucket::new(rate, Duration::from_secs(1), burst).expect("a bucket");
        let proxies: Vec<Leases> = (0..1 + number(4)).map(|_| Leases::new(burst, 1_000_000)).collect();
        let (mut cell, mut orders, mut passed) = (Cell::default(), Vec::<(u64, usize, u32)>::new(), Vec::new());
        let (mut waiters, mut longest, mut refused) = (Vec::<Waiter>::new(), 0, 0);
        for step in 1..3_000u64 {
            let now = step * MS;
            let (due, later): (Vec<_>, Vec<_>) = orders.into_iter().partition(|(at, ..)| *at <= now);
            orders = later;
            for (_, proxy, want) in due {
                let grant = serve(&bucket, &mut cell, now, want, 1);
                proxies[proxy].deliver(7, Some(1), grant, now);
            }
            let woken = std::mem::take(&mut waiters);
            let (woken, asleep): (Vec<_>, Vec<_>) =
                woken.into_iter().partition(|one| one.ticket.is_none_or(|ticket| !proxies[one.proxy].awaits(ticket)));
            waiters = asleep;
            let come = |proxy| Waiter { proxy, ticket: None, since: now };
            let mut ready: Vec<Waiter> = Vec::new();
            for proxy in 0..proxies.len() {
                ready.extend((0..number(crowd + 1) * number(2)).map(|_| come(proxy)));
            }
            // Who has waited is not always first.
            match number(3) {
                0 => ready.extend(woken),
                _ => ready = woken.into_iter().chain(ready).collect(),
            }
            for one in ready {
                let more = match proxies[one.proxy].draw(7, 1, now, one.ticket) {
                    Drawn::Taken(_, more) => {
                        passed.push(now);
                        longest = longest.max(now - one.since);
                        more
                    }
                    Drawn::None(more, ticket) => {
                        waiters.push(Waiter { ticket: Some(ticket), ..one });
                        more
                    }
                    Drawn::Refused(..) => {
                        longest = longest.max(now - one.since);
                        refused += 1;
                        None
                    }
                    Drawn::Silent => panic!("the store answers"),
                };
                orders.extend(more.map(|want| (now + (1 + number(delay)) * MS, one.proxy, want)));
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
        assert!(longest <= 2 * (delay + 1) * MS, "seed {seed}: somebody has waited for {} ms", longest / MS);
        if crowd > 10 {
            let all = u64::from(burst) + u64::from(rate) * 3;
            assert!(passed.len() as u64 * 10 > all * 8 && refused > 0, "seed {seed}: {} of {all}", passed.len());
        }
    }

    #[test]
    fn proxies_together_keep_the_bound() {
        for seed in 0..12 {
            keep_the_bound(seed, 20, 2);
            keep_the_bound(seed, 5, 40);
            keep_the_bound(seed, 60, 40);
        }
    }
}
