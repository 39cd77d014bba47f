//! Rate limit services that are asked over the network: whether they answer, and what they have said that responses tell.
//!
//! Written by `policies/rate_limit_service.rs`. Nothing is sent from here, and nothing logged: who records an exchange finds in its notes what is
//! news of a service ([`Turn`]).

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use transept_wire::head::{FieldName, Response};

use super::fields::{Label, Shown, clear, show, tells_of_limits};
use super::nanoseconds;
use super::touched::Touched;

/// The name of the list of services in the memory of policies.
pub const SERVICES: &str = "rate limit services";

/// How long a service has to answer without fail until it is said that it answers again. One that fails now and then is told of once.
const QUIET: Duration = Duration::from_secs(5);

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const AWAY: u8 = 2;

/// Whether a service answers, as all workers have found.
#[derive(Debug)]
pub struct Health {
    /// The policy that asks it: `RateLimitServicePolicy shop/limits`.
    policy: Box<str>,
    /// Held so that the list lives as long as what is in it.
    _services: Arc<Services>,
    state: AtomicU8,
    /// When it has failed last, in nanoseconds of the clock of the requests.
    failed: AtomicU64,
}

/// All services of a process.
#[derive(Debug, Default)]
pub struct Services {
    list: Mutex<Vec<Weak<Health>>>,
}

/// News of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It does not answer, or in no way that can be used.
    Away {
        /// The policy that asks it.
        policy: Box<str>,
        /// Why.
        why: Box<str>,
        /// What becomes of requests meanwhile.
        meanwhile: &'static str,
    },
    /// It answers again.
    Back {
        /// The policy that asks it.
        policy: Box<str>,
    },
}

impl Health {
    /// Notes an answer; whether it is news.
    pub(crate) fn answered(&self, now: Duration) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        let failed = self.failed.load(Ordering::Relaxed);
        if state == UP || (state == AWAY && nanoseconds(now).saturating_sub(failed) < nanoseconds(QUIET)) {
            return false;
        }
        // Of several workers one tells.
        let turned = self.state.compare_exchange(state, UP, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        turned && state == AWAY
    }

    /// Notes that none came; whether it is news.
    pub(crate) fn failed(&self, now: Duration) -> bool {
        self.failed.store(nanoseconds(now), Ordering::Relaxed);
        self.state.swap(AWAY, Ordering::Relaxed) != AWAY
    }
}

impl Services {
    /// The service that this policy asks.
    pub(crate) fn open(self: &Arc<Self>, policy: &str) -> Arc<Health> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|service| service.strong_count() > 0);
        if let Some(known) = list.iter().filter_map(Weak::upgrade).find(|service| *service.policy == *policy) {
            return known;
        }
        let made = Arc::new(Health {
            policy: policy.into(),
            _services: Arc::clone(self),
            state: AtomicU8::new(UNKNOWN),
            failed: AtomicU64::new(0),
        });
        list.push(Arc::downgrade(&made));
        made
    }

    /// The policies that ask services which have been asked, and whether these answer.
    pub fn standing(&self) -> Vec<(String, bool)> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let living = list.iter().filter_map(Weak::upgrade);
        let known = living.filter_map(|health| match health.state.load(Ordering::Relaxed) {
            UNKNOWN => None,
            state => Some((health.policy.to_string(), state == UP)),
        });
        known.collect()
    }
}

/// What has come of asking services about a request.
#[derive(Debug, Default)]
pub struct ServiceNotes {
    pub(crate) heard: Vec<Heard>,
    /// What is new of whether they answer, for the log.
    pub turns: Vec<Turn>,
    /// Why a service has not counted a request that passes all the same, for the access log.
    pub uncounted: Option<Box<str>>,
}

/// A limit as a service has told it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) label: Label,
    pub(crate) standing: super::Standing,
    /// When there is room again, of one that refused and says so.
    pub(crate) wait: Option<Duration>,
    /// Whether the service says when there is as much as at first.
    pub(crate) timed: bool,
}

/// What a service has said that the response tells.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) limits: Vec<Served>,
    pub(crate) fields: Vec<(FieldName, Vec<u8>)>,
    /// The fields that are to be there once.
    pub(crate) only: Vec<(FieldName, Vec<u8>)>,
}

impl Heard {
    /// Tells it. Where the service has fields of its own about limits, they are its word, and its numbers are not told beside them.
    pub(crate) fn tell(&self, touched: &mut Touched, response: &mut Response) {
        if self.fields.iter().any(|(name, _)| tells_of_limits(name)) {
            clear(touched, response);
        } else {
            show(self.limits.iter().map(Served::shown), touched, response);
        }
        // A value that no field can have is left out.
        for (name, value) in &self.fields {
            let _ = response.fields.push(name, value);
        }
        for (name, value) in &self.only {
            let _ = response.fields.set(name, value);
        }
    }
}

impl Served {
    fn shown(&self) -> Shown<'_> {
        Shown { label: &self.label, standing: self.standing, wait: self.wait, partition: None, timed: self.timed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_and_what_ends_is_news_once() {
        let at = Duration::from_secs;
        let services = Arc::new(Services::default());
        let health = services.open("RateLimitServicePolicy shop/ask");
        assert!(Arc::ptr_eq(&health, &services.open("RateLimitServicePolicy shop/ask")), "a reload forgets nothing");
        assert!(services.standing().is_empty(), "nobody has asked it");
        assert!(!health.answered(at(1)), "that it answers is no news");
        assert_eq!([health.failed(at(2)), health.failed(at(3)), health.failed(at(4))], [true, false, false]);
        assert_eq!(services.standing(), [("RateLimitServicePolicy shop/ask".to_owned(), false)]);
        assert!(!health.answered(at(5)) && !health.failed(at(6)), "it fails now and then");
        assert_eq!([health.answered(at(10)), health.answered(at(11)), health.answered(at(12))], [false, true, false]);
        assert_eq!(services.standing(), [("RateLimitServicePolicy shop/ask".to_owned(), true)]);
        drop(health);
        assert!(services.standing().is_empty());
    }
}
