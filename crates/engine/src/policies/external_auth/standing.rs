//! Whether the service of a policy answers: what begins and what ends is told once, and not with each request.
//!
//! Kept for a policy by all workers, over reloads. Nothing is logged from here: who records an exchange finds in its notes what is to be told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long the service has to answer without fail until it is told that it answers again. One that fails now and then is told of once.
const QUIET: Duration = Duration::from_secs(5);

/// Whether a service answers, as all workers have found.
#[derive(Debug, Default)]
pub(super) struct Standing {
    is_away: AtomicBool,
    /// When it has failed last, in microseconds of the clock of the requests.
    failed: AtomicU64,
}

/// What has come of asking a service whether a request may pass, for the logs.
#[derive(Debug, Default)]
pub struct AuthorizerNotes {
    /// What is new of the service.
    pub news: Option<AuthorizerNews>,
    /// The policy, and why its service was not heard about a request that passes all the same.
    pub unasked: Option<Box<str>>,
}

/// What is new of a service that is asked whether requests may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizerNews {
    /// The policy that asks it: `ExternalAuthPolicy shop/ask`.
    pub policy: Box<str>,
    /// What it is.
    pub turn: AuthorizerTurn,
}

/// How a service stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorizerTurn {
    /// It does not answer, or in no way that can be used.
    Away {
        /// Why.
        why: Box<str>,
        /// What becomes of requests meanwhile.
        meanwhile: &'static str,
    },
    /// It answers again.
    Back,
}

impl Standing {
    /// Notes an answer; whether it is news.
    pub(super) fn answered(&self, now: Duration) -> bool {
        if !self.is_away.load(Ordering::Relaxed) {
            return false;
        }
        let since = micros(now).saturating_sub(self.failed.load(Ordering::Relaxed));
        // Of several workers one tells.
        since >= micros(QUIET) && self.is_away.swap(false, Ordering::Relaxed)
    }

    /// Notes that none came; whether it is news.
    pub(super) fn failed(&self, now: Duration) -> bool {
        self.failed.store(micros(now), Ordering::Relaxed);
        !self.is_away.swap(true, Ordering::Relaxed)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_and_what_ends_is_news_once() {
        let at = Duration::from_secs;
        let standing = Standing::default();
        assert!(!standing.answered(at(1)), "that it answers is no news");
        assert_eq!([standing.failed(at(2)), standing.failed(at(3))], [true, false]);
        assert!(!standing.answered(at(4)) && !standing.failed(at(5)), "it fails now and then");
        assert_eq!(
            [standing.answered(at(9)), standing.answered(at(10)), standing.answered(at(11))],
            [false, true, false]
        );
        assert!(standing.failed(at(12)));
    }
}
