//! How often a client may fail to say who it is, by its address.
//!
//! Asked by `AuthenticationPolicy` before it looks at credentials, told when they were no good. Limits of other policies never see
//! these requests. Where it takes long to find out, a failure is counted ahead ([`Hold`]) and taken back when it was none: else a client could
//! have any number of passwords computed at the same time. What issuers are asked is not counted ahead: good tokens of many people behind one address,
//! which come together, must not be refused for it, and nobody guesses a token; how many questions an issuer is asked at a time is its own
//! backend's limit (`TrafficPolicy`).
//!
//! **Memory.** Addresses are not listed but hashed, with a seed that nobody outside knows, to one counter in each of four rows, as in a
//! count-min sketch. A client is refused while all four of its counters are used up. So the memory is the same for one client and for a million,
//! there is nothing to push out and no way to reset one's own counter, and a stranger shares the fate of an attacker only where
//! all four rows agree: with a thousand addresses that fail as often as they may, for about 2 strangers in ten thousand.
//!
//! **Networks.** Who has one network of IPv6 has 65,536 of those that are counted for, and so could use up all counters. So the wider ones around
//! them have counters, too, in the same table ([`NETWORKS`]), and where those are used up, the client is refused and nothing is counted: a /48 adds
//! at most as much as 64 clients that fail as often as they may, and a /32 as much as 512, which use up 6 of a hundred counters
//! of a row: all four agree for one stranger in 70,000.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use transept_model::object;
use transept_model::schema::{Decoder, Rule};
use transept_model::value::Value;

use crate::exchange::draw;

object! {
    /// How many requests of one client (an IPv4 address, or an IPv6 network of 64 bits) may fail to say who it is, before it has to
    /// wait. It is answered with 429 then, whatever it shows, unless that is a good session of a browser and nothing else. Failures are missing credentials,
    /// too, where they are required and browsers cannot log in: a page of somebody else can make a browser come without its session. An IPv6 network of
    /// 48 bits may fail 64 times as often, and one of 32 bits 512 times as often.
    pub struct FailureLimit {
        /// How many, in a row or over the time in `per`.
        requests: u32 = 60 => Rule::Range(1, 1_000_000);
        /// The time after which all of them may be made again.
        per: Duration = Duration::from_secs(60);
    }
    check check_limit;
}

impl Default for FailureLimit {
    fn default() -> Self {
        FailureLimit { at: Default::default(), requests: 60, per: Duration::from_secs(60) }
    }
}

fn check_limit(limit: &FailureLimit, value: &Value, cx: &mut Decoder) {
    if limit.per.is_zero() || limit.per > Duration::from_secs(86_400) {
        cx.refuse_field(value, "per", "the time must be above 0s and at most 24h");
    }
}

const ROWS: usize = 4;
const SLOTS: usize = 8192;

/// The networks of IPv6 that failures are counted for, by the bits of their prefix, each with how many times as often as one client it may
/// fail. The others that share one wait with it when it is used up: its allowance is well above what the clients of a company, or of a provider, fail by chance.
const NETWORKS: [(u32, u64); 3] = [(64, 1), (48, 64), (32, 512)];
/// Those of IPv4: each address is one client.
const ADDRESSES: [(u32, u64); 1] = [(32, 1)];

/// What is remembered; no memory is taken before the first failure.
#[derive(Debug, Default)]
pub(super) struct Failures {
    table: OnceLock<Table>,
}

/// One counter is the monotonic time, in microseconds, at which all failures counted in it are forgiven (GCRA).
#[derive(Debug)]
struct Table {
    seed: u64,
    forgiven_at: Box<[AtomicU64]>,
}

/// A failure that was counted before it was one.
#[derive(Debug)]
pub(super) struct Hold(Everywhere);

/// What was counted, by network and row.
type Everywhere = [[Counted; ROWS]; NETWORKS.len()];

/// What was counted in one counter, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    added: u64,
    /// When time has forgiven all of it: what is counted before is forgiven before.
    forgiven_at: u64,
}

impl Table {
    /// The counters of a client, and of the networks that it is in, each with how many failures of one client it takes.
    fn counters(&self, client: IpAddr) -> impl Iterator<Item = (u64, impl Iterator<Item = &AtomicU64>)> {
        let client = client.to_canonical();
        let networks: &[(u32, u64)] = if client.is_ipv4() { &ADDRESSES } else { &NETWORKS };
        networks.iter().map(move |(bits, times)| {
            let key = match client {
                IpAddr::V4(address) => u64::from(u32::from(address)) | 1 << 40,
                IpAddr::V6(address) => prefix(address, *bits) ^ self.seed.rotate_left(17 + bits),
            };
            let hash = draw(self.seed ^ key, key);
            let counters = (0..ROWS).filter_map(move |row| {
                let slot = draw(hash, row as u64) as usize % SLOTS;
                self.forgiven_at.get(row * SLOTS + slot)
            });
            (*times, counters)
        })
    }
}

impl Failures {
    /// How long the client has to wait; none when it need not.
    pub(super) fn wait(&self, limit: &FailureLimit, client: IpAddr, now: Duration) -> Option<Duration> {
        let table = self.table.get()?;
        let (now, per) = (micros(now), micros(limit.per));
        let over = table.counters(client).filter_map(|(times, counters)| {
            let at = counters.map(|counter| counter.load(Ordering::Relaxed)).min()?;
            Some(at.saturating_sub(now).saturating_sub(per.saturating_sub(one(limit, times))))
        });
        over.max().filter(|over| *over > 0).map(Duration::from_micros)
    }

    /// Counts a failure. `random` seeds the memory, the first time.
    pub(super) fn count(&self, limit: &FailureLimit, client: IpAddr, now: Duration, random: u64) {
        self.add(limit, client, now, random);
    }

    /// Counts a failure that may turn out to be none; the error is how long the client has to wait instead. Dropped, it stays counted: who goes
    /// away meanwhile has failed. Of several workers that do this at the same moment each may let one more through.
    pub(super) fn hold(
        &self,
        limit: &FailureLimit,
        client: IpAddr,
        now: Duration,
        random: u64,
    ) -> Result<Hold, Duration> {
        match self.wait(limit, client, now) {
            Some(wait) => Err(wait),
            None => Ok(Hold(self.add(limit, client, now, random))),
        }
    }

    /// It was no failure. What time has forgiven of it meanwhile is not forgiven again, as far as it is known: of several that were counted together,
    /// time forgives one after the other, so that all but the first are taken back whole. Where some were taken back before, what is left of them moves up,
    /// and time may forgive twice; never more than that, and only for who shows good credentials.
    pub(super) fn release(&self, hold: &Hold, client: IpAddr, now: Duration) {
        let Some(table) = self.table.get() else { return };
        let now = micros(now);
        for ((_, counters), counted) in table.counters(client).zip(hold.0) {
            for (counter, Counted { added, forgiven_at }) in counters.zip(counted) {
                let back = added.min(forgiven_at.saturating_sub(now));
                // The function always gives a value.
                let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(at.saturating_sub(back)));
            }
        }
    }

    /// Counts one, and gives what that was.
    fn add(&self, limit: &FailureLimit, client: IpAddr, now: Duration, random: u64) -> Everywhere {
        let table = self.table.get_or_init(|| Table {
            seed: draw(random, 7),
            forgiven_at: (0..ROWS * SLOTS).map(|_| AtomicU64::new(0)).collect(),
        });
        let (now, per) = (micros(now), micros(limit.per));
        let mut all = Everywhere::default();
        for ((times, counters), counted) in table.counters(client).zip(&mut all) {
            // Whose clock is behind gives nobody anything back.
            let next = |at: u64| (at.max(now) + one(limit, times)).min((now + per).max(at));
            for (counter, counted) in counters.zip(counted) {
                // The function always gives a value.
                let before = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(next(at)));
                *counted = before.map_or(Counted::default(), |at| Counted {
                    added: next(at).saturating_sub(at.max(now)),
                    forgiven_at: next(at),
                });
            }
        }
        all
    }
}

/// How much one failure counts where that many times the failures of one client are allowed, in microseconds.
fn one(limit: &FailureLimit, times: u64) -> u64 {
    (micros(limit.per) / (u64::from(limit.requests) * times)).max(1)
}

/// The first bits of an address, not more than 64, and zeros.
fn prefix(address: Ipv6Addr, bits: u32) -> u64 {
    let (all, rest) = ((u128::from(address) >> 64) as u64, 64u32.saturating_sub(bits));
    all.checked_shr(rest).and_then(|first| first.checked_shl(rest)).unwrap_or_default()
}

/// Whom failures are counted for: an IPv4 address, or a network of 64 bits.
pub(super) fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(prefix(address, 64)) << 64).into(),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(requests: u32, seconds: u64) -> FailureLimit {
        FailureLimit { requests, per: Duration::from_secs(seconds), ..FailureLimit::default() }
    }

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn as_many_as_are_allowed_may_fail_and_then_they_come_back_one_by_one() {
        let (failures, limit) = (Failures::default(), limit(3, 60));
        let client: IpAddr = "192.0.2.7".parse().expect("an address");
        for _ in 0..3 {
            assert_eq!(failures.wait(&limit, client, at(100.0)), None);
            failures.count(&limit, client, at(100.0), 1);
        }
        assert_eq!(failures.wait(&limit, client, at(100.0)), Some(at(20.0)));
        assert_eq!(failures.wait(&limit, client, at(119.5)), Some(at(0.5)));
        assert_eq!(failures.wait(&limit, client, at(120.0)), None);
        failures.count(&limit, client, at(120.0), 1);
        assert_eq!(failures.wait(&limit, client, at(120.0)), Some(at(20.0)));
        assert_eq!(failures.wait(&limit, client, at(180.0)), None);
    }

    #[test]
    fn a_failure_that_is_noted_late_gives_nothing_back() {
        let (failures, limit) = (Failures::default(), limit(60, 60));
        let client: IpAddr = "192.0.2.7".parse().expect("an address");
        for _ in 0..60 {
            failures.count(&limit, client, at(100.0), 1);
        }
        let wait = failures.wait(&limit, client, at(100.0));
        // Of a request whose head began to come some time before.
        failures.count(&limit, client, at(90.5), 1);
        assert_eq!(failures.wait(&limit, client, at(100.0)), wait);
    }

    #[test]
    fn what_was_counted_ahead_is_taken_back_when_it_was_no_failure() {
        let (failures, limit) = (Failures::default(), limit(3, 60));
        let client: IpAddr = "192.0.2.7".parse().expect("an address");
        let hold = |now| failures.hold(&limit, client, at(now), 1);
        let first = hold(100.0).expect("allowed");
        hold(100.0).expect("allowed");
        hold(100.0).expect("allowed");
        assert_eq!(hold(100.0).expect_err("not allowed"), at(20.0));
        failures.release(&first, client, at(100.0));
        let again = hold(100.0).expect("allowed");
        // Time has forgiven a quarter of one of the two that are left, and nothing of it.
        failures.release(&again, client, at(105.0));
        assert_eq!(failures.wait(&limit, client, at(105.0)), None);
        failures.count(&limit, client, at(105.0), 1);
        assert_eq!(failures.wait(&limit, client, at(105.0)), Some(at(15.0)));
    }

    #[test]
    fn many_that_are_found_out_together_and_succeed_use_nothing_up() {
        let (failures, limit) = (Failures::default(), limit(60, 60));
        let client: IpAddr = "2001:db8::7".parse().expect("an address");
        for round in 0..1000 {
            let begin = 100.0 + f64::from(round) / 2.0;
            let hold = || failures.hold(&limit, client, at(begin), 1).expect("allowed");
            let held: Vec<Hold> = std::iter::repeat_with(hold).take(8).collect();
            held.iter().for_each(|one| failures.release(one, client, at(begin + 0.5)));
        }
        // As many may fail as ever, but for the one or two of this moment.
        let end = at(600.0);
        let fails = std::iter::repeat_with(|| failures.hold(&limit, client, end, 1)).take_while(Result::is_ok).count();
        assert!((58..=60).contains(&fails), "{fails}");
    }

    #[test]
    fn who_succeeds_now_and_then_fails_no_more_than_twice_as_often() {
        let (failures, limit) = (Failures::default(), limit(60, 60));
        let client: IpAddr = "192.0.2.7".parse().expect("an address");
        let mut failed = 0;
        for round in 0..4000 {
            let begin = 100.0 + f64::from(round) / 4.0;
            let hold = |_| failures.hold(&limit, client, at(begin), 1).ok();
            let held: Vec<Hold> = (0..8).filter_map(hold).collect();
            held.iter().step_by(2).for_each(|one| failures.release(one, client, at(begin)));
            if failures.wait(&limit, client, at(begin + 0.25)).is_none() {
                failures.count(&limit, client, at(begin + 0.25), 1);
                failed += 1;
            }
            held.iter().skip(1).step_by(2).for_each(|one| failures.release(one, client, at(begin + 0.25)));
        }
        assert!(failed <= 60 + 2 * 1000, "{failed} in 1,000 seconds");
    }

    #[test]
    fn who_succeeds_slowly_is_not_forgiven_what_others_have_failed() {
        let (failures, limit) = (Failures::default(), limit(3, 60));
        let client: IpAddr = "192.0.2.7".parse().expect("an address");
        let slow = failures.hold(&limit, client, at(100.0), 1).expect("allowed");
        for _ in 0..3 {
            failures.count(&limit, client, at(130.0), 1);
        }
        failures.release(&slow, client, at(130.0));
        assert_eq!(failures.wait(&limit, client, at(130.0)), Some(at(20.0)));
    }

    #[test]
    fn failures_that_come_together_are_forgiven_after_the_time_at_most() {
        let (failures, limit) = (Failures::default(), limit(3, 60));
        let client: IpAddr = "192.0.2.7".parse().expect("an address");
        for _ in 0..1000 {
            failures.count(&limit, client, at(100.0), 1);
        }
        assert_eq!(failures.wait(&limit, client, at(100.0)), Some(at(20.0)));
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_64_bits_of_ipv6() {
        let (failures, limit) = (Failures::default(), limit(1, 60));
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        failures.count(&limit, ip("192.0.2.7"), at(1.0), 9);
        failures.count(&limit, ip("2001:db8:0:1::7"), at(1.0), 9);
        assert!(failures.wait(&limit, ip("::ffff:192.0.2.7"), at(1.0)).is_some());
        assert!(failures.wait(&limit, ip("2001:db8:0:1:ffff::1"), at(1.0)).is_some());
        assert!(failures.wait(&limit, ip("192.0.2.8"), at(1.0)).is_none());
        assert!(failures.wait(&limit, ip("2001:db8:0:2::7"), at(1.0)).is_none());
    }

    /// Lets each of these fail as often as it may, all at once.
    fn flood(failures: &Failures, limit: &FailureLimit, networks: impl Iterator<Item = u64>) -> u64 {
        let mut failed = 0;
        for network in networks {
            let client = IpAddr::from(Ipv6Addr::from(u128::from(network) << 64 | 1));
            while failures.hold(limit, client, at(1.0), 3).is_ok() {
                failed += 1;
            }
        }
        failed
    }

    #[test]
    fn who_has_a_network_of_ipv6_shuts_out_nobody_else() {
        for requests in [1, 5, 60] {
            let (failures, limit) = (Failures::default(), limit(requests, 60));
            let site = 0x2001_0db8_0007_0000;
            let failed = flood(&failures, &limit, (0..65_536).map(|number| site + number));
            assert!(failed < 65 * u64::from(requests), "{failed} of a /48 with {requests}");
            // As many of its sites as it takes until nothing of the provider is let fail any more.
            let provider = 0x2001_0db9_0000_0000;
            let sites = (0..1024_u64).flat_map(|number| (0..64).map(move |one| provider + (number << 16) + one));
            let failed = flood(&failures, &limit, sites);
            assert!(failed < 513 * u64::from(requests), "{failed} of a /32 with {requests}");
            let strangers = (0..10_000_u32).map(|number| IpAddr::from((0x0a00_0000 + number).to_be_bytes()));
            let shut_out = strangers.filter(|stranger| failures.wait(&limit, *stranger, at(1.0)).is_some()).count();
            assert!(shut_out < 5, "{shut_out} with {requests}");
        }
    }

    #[test]
    fn what_was_no_failure_counts_nothing_for_the_networks_around_it() {
        let (failures, limit) = (Failures::default(), limit(1, 60));
        for network in 0..100_u128 {
            let client = IpAddr::from(Ipv6Addr::from((0x2001_0db8_0007_0000_u128 + network) << 64));
            let hold = failures.hold(&limit, client, at(1.0), 3).expect("allowed");
            failures.release(&hold, client, at(1.0));
        }
    }

    #[test]
    fn a_flood_of_addresses_resets_nobody_and_shuts_out_few() {
        let (failures, limit) = (Failures::default(), limit(5, 60));
        let culprit: IpAddr = "198.51.100.1".parse().expect("an address");
        for _ in 0..5 {
            failures.count(&limit, culprit, at(1.0), 3);
        }
        let address = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
        for number in 0..1000 {
            for _ in 0..5 {
                failures.count(&limit, address(number), at(1.0), 3);
            }
        }
        assert!(failures.wait(&limit, culprit, at(1.0)).is_some());
        let strangers = (100_000..110_000).filter(|number| failures.wait(&limit, address(*number), at(1.0)).is_some());
        assert!(strangers.count() < 20);
    }
}
