//! Active health checks as a pure state machine: what a check asks, when the next one is due, and what its result means.
//!
//! Called by the proxy's prober, which does the asking; time and randomness are arguments. The first result decides at once; after
//! that so many results in a row change the verdict. A wrong answer, unlike no answer, decides at once too: who answers that he is
//! not well is believed. What becomes of endpoints that are not well is the business of `balance`.

use std::time::Duration;

use crate::exchange::{below, draw};

/// How endpoints are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// The port to ask on, when it is not the endpoint's own.
    pub port: Option<u16>,
    /// The time from one check to the next, while nothing changes.
    pub interval: Duration,
    /// The same while the endpoint is not well.
    pub unhealthy_interval: Duration,
    /// The time to the first check after a change.
    pub edge_interval: Duration,
    /// Up to this share of an interval is added by chance, in percent.
    pub jitter: u32,
    /// How long one check may take.
    pub timeout: Duration,
    /// Successes in a row that make an endpoint well again.
    pub healthy_threshold: u32,
    /// Failures in a row that make it unwell.
    pub unhealthy_threshold: u32,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A GET.
    Http {
        /// The path, with its query.
        path: Box<str>,
        /// The host; the endpoint's own when none.
        host: Option<Box<str>>,
        /// Status codes of a healthy endpoint: each pair is a first and a last one.
        expected: Box<[(u16, u16)]>,
        /// Status codes that say no more than no answer does.
        retriable: Box<[u16]>,
    },
    /// A connection, nothing more.
    Tcp,
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The name of the service; empty is the server as a whole.
        service: Box<str>,
    },
}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// No answer: refused, broken off, too late; or one that is to count like none.
    Silent,
    /// An answer, and the wrong one.
    Wrong,
}

/// What is known about one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    verdict: Option<Verdict>,
    streak: u32,
}

/// The verdict on an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is well.
    Healthy,
    /// It is not.
    Unhealthy,
}

/// What a result changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Steady,
    /// The verdict is another one now, or the first.
    Flipped(Verdict),
}

impl State {
    /// What is known before the first check of an endpoint that was known to be so before.
    pub fn known(verdict: Verdict) -> State {
        State { verdict: Some(verdict), streak: 0 }
    }

    /// The verdict; none before the first result.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Takes a result in.
    pub fn note(&mut self, check: &Check, outcome: Outcome) -> Change {
        let says = if outcome == Outcome::Passed { Verdict::Healthy } else { Verdict::Unhealthy };
        if self.verdict == Some(says) {
            self.streak = 0;
            return Change::Steady;
        }
        self.streak += 1;
        let needed = match (self.verdict, outcome) {
            (None, _) | (_, Outcome::Wrong) => 1,
            (_, Outcome::Passed) => check.healthy_threshold,
            (_, Outcome::Silent) => check.unhealthy_threshold,
        };
        if self.streak < needed {
            return Change::Steady;
        }
        *self = State::known(says);
        Change::Flipped(says)
    }

    /// The time to the next check after a result.
    pub fn wait(&self, check: &Check, change: Change, random: u64) -> Duration {
        let base = match (change, self.verdict) {
            (Change::Flipped(_), _) => check.edge_interval,
            (Change::Steady, Some(Verdict::Unhealthy)) => check.unhealthy_interval,
            (Change::Steady, _) => check.interval,
        };
        let most = base.saturating_mul(check.jitter) / 100;
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        base + Duration::from_micros(below(draw(random, 0), most))
    }
}

impl Check {
    /// The time to the very first check of an endpoint: spread, so that a fleet does not ask in step.
    pub fn first_wait(&self, random: u64) -> Duration {
        let most = self.interval.saturating_mul(self.jitter) / 100;
        Duration::from_micros(below(draw(random, 1), u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
    }

    /// What a status code says.
    pub fn read(&self, status: u16) -> Outcome {
        let Probe::Http { expected, retriable, .. } = &self.probe else { return Outcome::Wrong };
        match status {
            status if expected.iter().any(|(first, last)| (*first..=*last).contains(&status)) => Outcome::Passed,
            status if retriable.contains(&status) => Outcome::Silent,
            _ => Outcome::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> Check {
        Check {
            probe: Probe::Http {
                path: "/".into(),
                host: None,
                expected: [(200, 200), (204, 299)].into(),
                retriable: [503].into(),
            },
            port: None,
            interval: Duration::from_secs(10),
            unhealthy_interval: Duration::from_secs(20),
            edge_interval: Duration::from_secs(2),
            jitter: 10,
            timeout: Duration::from_secs(1),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        }
    }

    #[test]
    fn the_first_result_decides() {
        for (outcome, verdict) in [
            (Outcome::Passed, Verdict::Healthy),
            (Outcome::Silent, Verdict::Unhealthy),
            (Outcome::Wrong, Verdict::Unhealthy),
        ] {
            let mut state = State::default();
            assert_eq!(state.note(&check(), outcome), Change::Flipped(verdict));
            assert_eq!(state.verdict(), Some(verdict));
        }
    }

    #[test]
    fn later_it_takes_so_many_in_a_row() {
        let check = check();
        let mut state = State::known(Verdict::Healthy);
        for outcome in [Outcome::Silent, Outcome::Silent, Outcome::Passed, Outcome::Silent, Outcome::Silent] {
            assert_eq!(state.note(&check, outcome), Change::Steady);
        }
        assert_eq!(state.note(&check, Outcome::Silent), Change::Flipped(Verdict::Unhealthy));
        assert_eq!(state.note(&check, Outcome::Passed), Change::Steady);
        assert_eq!(state.note(&check, Outcome::Silent), Change::Steady);
        assert_eq!(state.note(&check, Outcome::Passed), Change::Steady);
        assert_eq!(state.note(&check, Outcome::Passed), Change::Flipped(Verdict::Healthy));
    }

    #[test]
    fn a_wrong_answer_is_believed_at_once() {
        let mut state = State::known(Verdict::Healthy);
        assert_eq!(state.note(&check(), Outcome::Wrong), Change::Flipped(Verdict::Unhealthy));
    }

    #[test]
    fn the_wait_follows_the_verdict_and_a_change_is_looked_after_soon() {
        let check = check();
        let within = |wait: Duration, base: u64| {
            let base = Duration::from_secs(base);
            assert!(wait >= base && wait <= base.mul_f64(1.1), "{wait:?}");
        };
        for random in 0..50 {
            let healthy = State::known(Verdict::Healthy);
            within(healthy.wait(&check, Change::Steady, random), 10);
            let unhealthy = State::known(Verdict::Unhealthy);
            within(unhealthy.wait(&check, Change::Steady, random), 20);
            within(unhealthy.wait(&check, Change::Flipped(Verdict::Unhealthy), random), 2);
            assert!(check.first_wait(random) <= Duration::from_secs(1));
        }
    }

    #[test]
    fn expected_codes_are_ranges() {
        for (status, outcome) in [
            (200, Outcome::Passed),
            (250, Outcome::Passed),
            (203, Outcome::Wrong),
            (500, Outcome::Wrong),
            (503, Outcome::Silent),
        ] {
            assert_eq!(check().read(status), outcome, "{status}");
        }
    }
}
