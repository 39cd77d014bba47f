//! When to try again to open listeners that could not be opened.
//!
//! Kept by `gateway` and `sidecar`, which open them. A port is taken mostly because the process before has not ended yet: the first
//! attempts follow quickly, later ones rarely.

use std::time::{Duration, Instant};

use transept_proxy::BindOutcome;

/// The first pause; it doubles with every attempt in vain.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);

/// The next attempt, if one is needed.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    pause: Duration,
    due: Option<Instant>,
}

impl Retry {
    /// Begins anew after a change of the configuration.
    pub(crate) fn begin(outcomes: &[BindOutcome], now: Instant) -> Self {
        let mut retry = Retry::default();
        retry.note(outcomes, now);
        retry
    }

    /// Takes into account what came of an attempt.
    pub(crate) fn note(&mut self, outcomes: &[BindOutcome], now: Instant) {
        if outcomes.iter().all(|outcome| outcome.bound.is_ok()) {
            *self = Retry::default();
            return;
        }
        self.pause = (self.pause * 2).clamp(FIRST, LONGEST);
        self.due = Some(now + self.pause);
    }

    /// How long until the next attempt; none is needed when everything is open.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.due.map(|_| self.pause)
    }

    /// Waits until it is time for the next attempt; for ever when none is needed.
    pub(crate) async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn outcome(bound: io::Result<()>) -> BindOutcome {
        BindOutcome { address: ([127, 0, 0, 1], 80).into(), bound }
    }

    #[test]
    fn attempts_become_rare_and_end_with_success() {
        let now = Instant::now();
        let taken = [outcome(Ok(())), outcome(Err(io::ErrorKind::AddrInUse.into()))];
        let mut retry = Retry::begin(&taken, now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            pauses.push(retry.pause().map(|pause| pause.as_secs()));
            retry.note(&taken, now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30].map(Some));
        retry.note(&[outcome(Ok(()))], now);
        assert_eq!(retry.pause(), None);
        assert_eq!(Retry::begin(&[], now).pause(), None);
    }
}
