//! What is known about one name: the addresses that were good last, and when to ask again.
//!
//! Called by the keeper of a backend with each answer. Pure: it asks nobody and looks at no clock.

use std::net::IpAddr;
use std::time::Duration;

/// The soonest to ask again after an answer, whatever its TTL says: one of zero must not become a loop.
pub(super) const SOONEST: Duration = Duration::from_secs(1);
/// The latest to ask again: a TTL of a week should not outlive the machine behind it.
pub(super) const LATEST: Duration = Duration::from_secs(300);
/// The longest pause after failures; it begins at [`SOONEST`] and doubles.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Addresses of one name and family that are used.
const MOST_ADDRESSES: usize = 256;

/// What came of asking for one family of a name.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// How long it holds.
    left: Duration,
    /// In words, unless addresses were found.
    why: String,
}

/// The kinds of answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// These addresses; never empty.
    Found(Vec<IpAddr>),
    /// The name servers say that there is none.
    Nothing,
    /// No answer, or none that says anything about the name.
    Failed,
}

impl Answer {
    pub(super) fn found(mut addresses: Vec<IpAddr>, left: Duration) -> Self {
        addresses.retain(|address| !address.is_unspecified() && !address.is_multicast());
        // Name servers rotate their answers: sorted first, so that the bound always leaves the same ones.
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST_ADDRESSES);
        if addresses.is_empty() {
            return Answer::nothing("the name has no address");
        }
        Answer { outcome: Outcome::Found(addresses), left, why: String::new() }
    }

    pub(super) fn nothing(why: &str) -> Self {
        Answer { outcome: Outcome::Nothing, left: LATEST, why: why.to_owned() }
    }

    pub(super) fn failed(why: String) -> Self {
        Answer { outcome: Outcome::Failed, left: SOONEST, why }
    }
}

/// One name.
#[derive(Debug, Default)]
pub(super) struct Known {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    /// Why it does not resolve now.
    pub(super) error: Option<String>,
    /// Whether it was asked for at least once.
    pub(super) asked: bool,
    pause: Duration,
}

impl Known {
    /// A name with the addresses from before, if there are any.
    pub(super) fn before(addresses: Vec<IpAddr>) -> Self {
        let (v4, v6) = addresses.into_iter().partition(IpAddr::is_ipv4);
        Known { v4, v6, ..Known::default() }
    }

    /// The addresses in use, sorted.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        [self.v4.as_slice(), &self.v6].concat()
    }

    /// Takes the answers for both families into account, and tells when to ask again.
    ///
    /// A family that the name servers say is absent is let go as long as the other is there. When nothing is left, or
    /// nobody says anything, what was good stays.
    pub(super) fn take(&mut self, v4: Answer, v6: Answer) -> Duration {
        self.asked = true;
        let left = v4.left.min(v6.left);
        let found = matches!(v4.outcome, Outcome::Found(_)) || matches!(v6.outcome, Outcome::Found(_));
        if !found {
            let unsaid = |answer: &Answer| answer.outcome == Outcome::Failed;
            let why = if unsaid(&v4) || !unsaid(&v6) { v4.why } else { v6.why };
            self.error = Some(why);
            self.pause = (self.pause * 2).clamp(SOONEST, LONGEST_PAUSE);
            return self.pause;
        }
        self.error = None;
        self.pause = Duration::ZERO;
        for (addresses, answer) in [(&mut self.v4, v4), (&mut self.v6, v6)] {
            match answer.outcome {
                Outcome::Found(now) => *addresses = now,
                Outcome::Nothing => addresses.clear(),
                Outcome::Failed => {}
            }
        }
        left.clamp(SOONEST, LATEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn found(addresses: &[&str], seconds: u64) -> Answer {
        Answer::found(addresses.iter().map(|text| ip(text)).collect(), Duration::from_secs(seconds))
    }

    #[test]
    fn both_families_are_used_until_the_first_of_them_expires() {
        let mut known = Known::default();
        let wait = known.take(found(&["10.0.0.2", "10.0.0.1"], 60), found(&["fd00::1"], 20));
        assert_eq!(wait, Duration::from_secs(20));
        assert_eq!(known.addresses(), [ip("10.0.0.1"), ip("10.0.0.2"), ip("fd00::1")]);
    }

    #[test]
    fn a_family_that_fails_is_not_one_that_is_absent() {
        let mut known = Known::default();
        known.take(found(&["10.0.0.1"], 60), found(&["fd00::1"], 60));
        let wait = known.take(Answer::failed("timeout".into()), found(&["fd00::2"], 60));
        assert_eq!(known.addresses(), [ip("10.0.0.1"), ip("fd00::2")]);
        assert_eq!(wait, SOONEST);
        known.take(Answer::nothing("none"), found(&["fd00::2"], 60));
        assert_eq!(known.addresses(), [ip("fd00::2")]);
    }

    #[test]
    fn what_was_good_stays_and_questions_become_rare() {
        let mut known = Known::before(vec![ip("10.0.0.1")]);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let wait = known.take(Answer::nothing("there is no such name"), Answer::nothing("there is no such name"));
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(known.addresses(), [ip("10.0.0.1")]);
        assert_eq!(known.error.as_deref(), Some("there is no such name"));
        assert_eq!(known.take(found(&["10.0.0.2"], 0), Answer::nothing("none")), SOONEST);
        assert_eq!((known.addresses(), &known.error), (vec![ip("10.0.0.2")], &None));
        assert_eq!(known.take(found(&["10.0.0.2"], 86_400), Answer::nothing("none")), LATEST);
    }

    #[test]
    fn too_many_addresses_are_cut_to_the_same_ones_each_time() {
        let all: Vec<IpAddr> = (0..300u32).map(|n| IpAddr::from((0x0a00_0001 + n).to_be_bytes())).collect();
        let rotated: Vec<IpAddr> = all.iter().rev().copied().collect();
        let taken = |addresses| Answer::found(addresses, SOONEST).outcome;
        assert_eq!(taken(all.clone()), taken(rotated));
        assert_eq!(taken(all.clone()), Outcome::Found(all[..256].to_vec()));
    }

    #[test]
    fn an_address_that_nobody_can_connect_to_is_none() {
        assert_eq!(found(&["0.0.0.0", "::", "224.0.0.1"], 5).outcome, Outcome::Nothing);
    }
}
