//! One endpoint as one worker has experienced it: whether it is left alone, and when it is tried again.
//!
//! Called by `memory`. Consecutive failures, or a low share of successes, shut the gate (an ejection). When its time is over a single
//! request is let through as a probe: a success opens the gate, a failure shuts it for twice as long. Where all others were tried in vain it may be let through
//! sooner, and then changes nothing when it fails, too. Whether so many endpoints may be ejected at all is not decided here.

use std::time::Duration;

use crate::judge::Outcome;
use crate::pick::Probe;
use crate::traffic::{Outliers, SuccessRate};

/// After this long without trouble an ejection less is remembered.
const CALM: Duration = Duration::from_secs(10);

/// A probe whose outcome is not known after this long is followed by another.
const PATIENCE: Duration = Duration::from_secs(10);

/// While a probe before its time is no older than this, others that have nobody else may go along; and when it has failed nobody is
/// sent before the time for as long.
const MOMENT: Duration = Duration::from_secs(1);

/// Whether requests may go to an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// They may.
    #[default]
    Open,
    /// Not before this time.
    Shut { until: Duration },
    /// One is on its way since this time; its outcome decides.
    Probing { since: Duration },
}

/// What one result means for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing changes.
    Steady,
    /// It should be ejected.
    Failing,
    /// It was ejected, was tried again, and is not better.
    StillFailing,
    /// The same, but before its time: nothing is held against it.
    TooEarly,
    /// It was ejected, was tried again, and is well.
    Recovered,
}

/// The memory of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) state: State,
    /// Until when it was to be left alone when somebody was sent to find out, who may be sent sooner.
    until: Duration,
    /// Before this time nobody is sent early again.
    early_from: Duration,
    errors: u32,
    gateway_errors: u32,
    /// A good response has begun since the first of these errors.
    answers: bool,
    /// Ejections that are remembered.
    times: u32,
    opened: Duration,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Success,
    Error,
    GatewayError,
}

fn grade(outcome: Outcome) -> Grade {
    match outcome {
        Outcome::Status(502..=504) | Outcome::Unreachable | Outcome::Reset | Outcome::TimedOut => Grade::GatewayError,
        Outcome::Status(500..) => Grade::Error,
        Outcome::Status(_) | Outcome::Connected => Grade::Success,
    }
}

/// Whether an outcome counts against an endpoint.
pub(super) fn is_failure(outcome: Outcome) -> bool {
    grade(outcome) != Grade::Success
}

impl Gate {
    /// When a request is let through to find out, unless somebody has nobody else; none while everybody is.
    pub(super) fn probe_at(&self) -> Option<Duration> {
        match self.state {
            State::Open => None,
            State::Shut { until } => Some(until),
            State::Probing { since } => Some(self.until.max(since.saturating_add(PATIENCE))),
        }
    }

    /// Whether a request is let through now to find out.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.probe_at().is_some_and(|at| at <= now)
    }

    /// Until when it is left alone, or was to be.
    pub(super) fn ends(&self) -> Duration {
        match self.state {
            State::Shut { until } => until,
            State::Open | State::Probing { .. } => self.until,
        }
    }

    /// As what a request that has nobody else may go to an endpoint that is left alone.
    pub(super) fn admit_early(&self, now: Duration) -> Option<Probe> {
        match self.state {
            State::Open => None,
            State::Shut { .. } => (self.early_from <= now).then_some(Probe::Yes),
            State::Probing { since } => match now.saturating_sub(since) {
                age if age < MOMENT => Some(Probe::No),
                age => (age >= PATIENCE).then_some(Probe::Yes),
            },
        }
    }

    /// A request is on its way to find out.
    pub(super) fn begin_probe(&mut self, now: Duration) {
        self.until = self.ends();
        self.state = State::Probing { since: now };
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// It has found out nothing: everything is as before, but that the next one goes no sooner than then. Whether there was one.
    pub(super) fn give_up_probe(&mut self, not_before: Duration) -> bool {
        let was_probed = matches!(self.state, State::Probing { .. });
        if was_probed {
            self.state = State::Shut { until: self.until.max(not_before) };
        }
        was_probed
    }

    /// Takes the result of a request in. `probe`: it was the one that was let through.
    pub(super) fn note(&mut self, rules: &Outliers, outcome: Outcome, probe: bool, now: Duration) -> Finding {
        let grade = grade(outcome);
        if self.state != State::Open {
            return self.note_shut(grade, probe, now);
        }
        if let Some(success) = &rules.success {
            self.window.count(now, grade == Grade::Success);
            if grade != Grade::Success && self.window.is_poor(success) {
                self.forget();
                return Finding::Failing;
            }
        }
        self.answers &= self.errors > 0;
        self.errors = if grade == Grade::Success { 0 } else { self.errors.saturating_add(1) };
        self.gateway_errors = if grade == Grade::GatewayError { self.gateway_errors.saturating_add(1) } else { 0 };
        let reached = |count: u32, most: u32| most > 0 && count >= most;
        if reached(self.errors, rules.consecutive_errors)
            || reached(self.gateway_errors, rules.consecutive_gateway_errors)
        {
            self.forget();
            return Finding::Failing;
        }
        Finding::Steady
    }

    /// Takes in that a good response has begun. It may break off yet, but for a probe it is enough.
    pub(super) fn note_head(&mut self, probe: bool, now: Duration) -> Finding {
        if self.state != State::Open {
            return self.note_shut(Grade::Success, probe, now);
        }
        self.answers = true;
        Finding::Steady
    }

    /// While it is not open, only who was sent to find out has something new to tell. The good word of one that took long holds, whatever
    /// another one has found out meanwhile.
    fn note_shut(&mut self, grade: Grade, probe: bool, now: Duration) -> Finding {
        match self.state {
            _ if !probe => Finding::Steady,
            _ if grade == Grade::Success => {
                *self = Gate { times: self.times, opened: now, ..Gate::default() };
                Finding::Recovered
            }
            State::Probing { since } if since < self.until => {
                self.early_from = now.saturating_add(MOMENT);
                self.state = State::Shut { until: self.until };
                Finding::TooEarly
            }
            State::Probing { .. } => Finding::StillFailing,
            State::Open | State::Shut { .. } => Finding::Steady,
        }
    }

    /// Whether every response that has begun since the last success was a failure.
    pub(super) fn only_fails(&self) -> bool {
        self.errors > 0 && !self.answers
    }

    /// Shuts the gate, for longer each time.
    pub(super) fn shut(&mut self, rules: &Outliers, now: Duration) -> Duration {
        if self.state == State::Open {
            let calm = now.saturating_sub(self.opened).as_secs() / CALM.as_secs();
            self.times = self.times.saturating_sub(u32::try_from(calm).unwrap_or(u32::MAX));
        }
        let time = rules.base.saturating_mul(1u32.checked_shl(self.times).unwrap_or(u32::MAX)).min(rules.most);
        // Nothing is gained by remembering more than reaches the longest ejection.
        if time < rules.most {
            self.times += 1;
        }
        self.state = State::Shut { until: now.saturating_add(time) };
        time
    }

    /// Whether nothing about this endpoint is worth remembering.
    pub(super) fn is_blank(&self) -> bool {
        self.state == State::Open && self.errors == 0 && self.times == 0 && self.window.is_empty()
    }

    /// Counts anew after a verdict.
    fn forget(&mut self) {
        self.errors = 0;
        self.gateway_errors = 0;
        self.window = Window::default();
    }
}

/// Successes and failures of the last ten seconds, second by second. Exact, independent of the rate of requests, and empty when
/// there are none.
#[derive(Debug, Default)]
struct Window {
    buckets: [(u32, u32); BUCKETS],
    second: u64,
}

const BUCKETS: usize = 10;

impl Window {
    fn count(&mut self, now: Duration, success: bool) {
        let second = now.as_secs();
        let passed = second.saturating_sub(self.second).min(BUCKETS as u64);
        for past in 0..passed {
            self.buckets[((second - past) % BUCKETS as u64) as usize] = (0, 0);
        }
        self.second = self.second.max(second);
        let bucket = &mut self.buckets[(self.second % BUCKETS as u64) as usize];
        let side = if success { &mut bucket.0 } else { &mut bucket.1 };
        *side = side.saturating_add(1);
    }

    fn sums(&self) -> (u64, u64) {
        self.buckets.iter().fold((0, 0), |sum, bucket| (sum.0 + u64::from(bucket.0), sum.1 + u64::from(bucket.1)))
    }

    fn is_poor(&self, rules: &SuccessRate) -> bool {
        let (good, bad) = self.sums();
        good + bad >= u64::from(rules.requests) && good * 100 < u64::from(rules.least) * (good + bad)
    }

    fn is_empty(&self) -> bool {
        self.sums() == (0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Outcome = Outcome::Status(500);
    const GOOD: Outcome = Outcome::Status(200);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn note(gate: &mut Gate, outcome: Outcome) -> Finding {
        gate.note(&Outliers::default(), outcome, false, secs(100))
    }

    #[test]
    fn five_in_a_row_and_a_success_begins_anew() {
        let mut gate = Gate::default();
        for outcome in [BAD, BAD, BAD, BAD, GOOD, BAD, Outcome::Reset, Outcome::TimedOut, Outcome::Unreachable] {
            assert_eq!(note(&mut gate, outcome), Finding::Steady);
        }
        assert_eq!(note(&mut gate, Outcome::Status(599)), Finding::Failing);
        assert_eq!(note(&mut gate, BAD), Finding::Steady);
    }

    #[test]
    fn gateway_errors_are_counted_apart() {
        let rules = Outliers { consecutive_errors: 0, consecutive_gateway_errors: 2, ..Outliers::default() };
        let mut gate = Gate::default();
        for outcome in [Outcome::Status(503), BAD, Outcome::Status(502)] {
            assert_eq!(gate.note(&rules, outcome, false, secs(1)), Finding::Steady);
        }
        assert_eq!(gate.note(&rules, Outcome::Unreachable, false, secs(1)), Finding::Failing);
    }

    #[test]
    fn what_the_client_did_wrong_is_a_success() {
        let mut gate = Gate::default();
        for _ in 0..20 {
            assert_eq!(note(&mut gate, Outcome::Status(429)), Finding::Steady);
        }
        assert!(gate.is_blank());
    }

    #[test]
    fn an_ejection_lasts_twice_as_long_each_time_up_to_a_bound() {
        let rules = Outliers::default();
        let (mut gate, mut now) = (Gate::default(), secs(100));
        let times: Vec<u64> = (0..6)
            .map(|_| {
                let time = gate.shut(&rules, now);
                now += time;
                gate.begin_probe(now);
                assert_eq!(gate.note(&rules, BAD, true, now), Finding::StillFailing);
                time.as_secs()
            })
            .collect();
        assert_eq!(times, [30, 60, 120, 240, 300, 300]);
    }

    #[test]
    fn a_probe_that_succeeds_opens_and_calm_is_forgiven() {
        let rules = Outliers::default();
        let mut gate = Gate::default();
        gate.shut(&rules, secs(0));
        assert_eq!(gate.note(&rules, GOOD, false, secs(1)), Finding::Steady);
        gate.begin_probe(secs(30));
        assert_eq!(gate.note(&rules, GOOD, true, secs(40)), Finding::Recovered);
        assert_eq!(gate.state, State::Open);
        assert_eq!(gate.shut(&rules, secs(41)), secs(60));
        gate.begin_probe(secs(99));
        gate.note(&rules, GOOD, true, secs(100));
        assert_eq!(gate.shut(&rules, secs(125)), secs(30));
    }

    #[test]
    fn a_low_share_of_successes_is_found_within_the_window() {
        let success = Some(SuccessRate { least: 80, requests: 10 });
        let rules = Outliers { consecutive_errors: 0, success, ..Outliers::default() };
        let mut gate = Gate::default();
        // Two failures among nine say nothing yet.
        for outcome in [GOOD, BAD, GOOD, BAD, GOOD, GOOD, GOOD, GOOD, GOOD] {
            assert_eq!(gate.note(&rules, outcome, false, secs(50)), Finding::Steady);
        }
        assert_eq!(gate.note(&rules, BAD, false, secs(55)), Finding::Failing);
        // Ten seconds later the old ones are gone.
        let mut gate = Gate::default();
        for _ in 0..9 {
            gate.note(&rules, BAD, false, secs(50));
        }
        assert_eq!(gate.note(&rules, BAD, false, secs(60)), Finding::Steady);
    }
}
