//! Services that policies ask about requests: whether they answer, what is news of that, and what has come of asking.
//!
//! Kept by all workers, over reloads. Asked by `policies/external_auth.rs`, `policies/rate_limit_service.rs` and the scheme `introspection`. Nothing is sent from here, and
//! nothing logged: who records an exchange finds in its notes what is to be told ([`ServiceTurn`]).

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::exchange::Exchange;
use crate::limit::service::Heard;

/// The name of the list of services in the memory of policies.
pub const SERVICES: &str = "services that are asked";

/// How long a service has to answer without fail until it is said that it answers again. One that fails now and then is told of once.
const QUIET: Duration = Duration::from_secs(5);

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const AWAY: u8 = 2;

/// What a service is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceRole {
    /// Whether a request may pass: external authorization.
    Authorizer,
    /// Whether there is room for it: a rate limit service.
    RateLimit,
    /// Whether a token is good: an introspection endpoint (RFC 7662).
    Introspection,
}

/// A service, and whether it answers, as all workers have found.
#[derive(Debug)]
pub struct AskedService {
    role: ServiceRole,
    /// The policy that asks it, and its scheme where it may have several: `RateLimitServicePolicy shop/limits`.
    policy: Box<str>,
    /// Held so that the list lives as long as what is in it.
    _services: Arc<Services>,
    state: AtomicU8,
    /// When it has failed last, in microseconds of the clock of the requests; and when it has answered last, since then.
    failed: AtomicU64,
    answered: AtomicU64,
}

/// All services of a process.
#[derive(Debug, Default)]
pub struct Services {
    list: Mutex<Vec<Weak<AskedService>>>,
}

/// What is new of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTurn {
    /// What it is asked for.
    pub role: ServiceRole,
    /// The policy that asks it.
    pub policy: Box<str>,
    /// How it stands now.
    pub now: ServiceState,
}

/// How a service stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceState {
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

/// How a service stood when it was asked last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceStanding {
    /// What it is asked for.
    pub role: ServiceRole,
    /// The policy that asks it.
    pub policy: String,
    /// Whether it answers.
    pub is_up: bool,
}

/// What has come of asking services about a request.
#[derive(Debug, Default)]
pub struct ServiceNotes {
    /// What is new of them, for the log.
    pub turns: Vec<ServiceTurn>,
    /// The policy, and why its service has not counted a request that passes all the same, for the access log.
    pub uncounted: Option<Box<str>>,
    /// The policy, and why its service has not decided on a request that passes all the same, for the access log.
    pub unasked: Option<Box<str>>,
    /// What rate limit services have said of their limits.
    pub(crate) heard: Vec<Heard>,
}

impl AskedService {
    /// The policy that asks it: `RateLimitServicePolicy shop/limits`.
    pub(crate) fn policy(&self) -> &str {
        &self.policy
    }

    /// Notes that it has answered a request, and in the notes of the request whether that is news.
    pub(crate) fn answered(&self, x: &mut Exchange<'_>) {
        if self.is_back(x.now.monotonic) {
            self.tell(ServiceState::Back, x);
        }
    }

    /// Notes that it has not answered a request, why, and what becomes of such requests; in the notes of the request whether that is news.
    /// One that is only explained is no news, and changes nothing.
    pub(crate) fn failed(&self, why: &str, meanwhile: &'static str, x: &mut Exchange<'_>) {
        if !x.is_told() && self.is_gone(x.now.monotonic) {
            self.tell(ServiceState::Away { why: why.into(), meanwhile }, x);
        }
    }

    fn tell(&self, now: ServiceState, x: &mut Exchange<'_>) {
        x.notes.services().turns.push(ServiceTurn { role: self.role, policy: self.policy.clone(), now });
    }

    /// Notes an answer; whether it is news.
    fn is_back(&self, now: Duration) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state == UP {
            return false;
        }
        self.answered.store(micros(now), Ordering::Relaxed);
        let since = micros(now).saturating_sub(self.failed.load(Ordering::Relaxed));
        if state == AWAY && since < micros(QUIET) {
            return false;
        }
        // Of several workers one tells.
        let turned = self.state.compare_exchange(state, UP, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        turned && state == AWAY
    }

    /// Notes that no answer came; whether it is news.
    fn is_gone(&self, now: Duration) -> bool {
        self.failed.store(micros(now), Ordering::Relaxed);
        self.state.swap(AWAY, Ordering::Relaxed) != AWAY
    }
}

impl Services {
    /// The service that this policy asks.
    pub(crate) fn open(self: &Arc<Self>, role: ServiceRole, policy: String) -> Arc<AskedService> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|service| service.strong_count() > 0);
        if let Some(known) = list.iter().filter_map(Weak::upgrade).find(|service| *service.policy == *policy) {
            return known;
        }
        let made = Arc::new(AskedService {
            role,
            policy: policy.into(),
            _services: Arc::clone(self),
            state: AtomicU8::new(UNKNOWN),
            failed: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        });
        list.push(Arc::downgrade(&made));
        made
    }

    /// The services that have been asked, and whether they answer.
    pub fn standing(&self) -> Vec<ServiceStanding> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let living = list.iter().filter_map(Weak::upgrade);
        let known = living.filter_map(|service| match service.state.load(Ordering::Relaxed) {
            UNKNOWN => None,
            state => {
                // The log waits until it has answered for a while.
                let has_answered = || service.answered.load(Ordering::Relaxed) > service.failed.load(Ordering::Relaxed);
                let is_up = state == UP || has_answered();
                Some(ServiceStanding { role: service.role, policy: service.policy.to_string(), is_up })
            }
        });
        known.collect()
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
        let services = Arc::new(Services::default());
        let open = || services.open(ServiceRole::RateLimit, "RateLimitServicePolicy shop/ask".to_owned());
        let standing = || services.standing().into_iter().map(|one| one.is_up).collect::<Vec<_>>();
        let service = open();
        assert!(Arc::ptr_eq(&service, &open()), "a reload forgets nothing");
        assert!(standing().is_empty(), "nobody has asked it");
        assert!(!service.is_back(at(1)), "that it answers is no news");
        assert_eq!([service.is_gone(at(2)), service.is_gone(at(3)), service.is_gone(at(4))], [true, false, false]);
        assert_eq!(standing(), [false]);
        assert!(!service.is_back(at(5)), "it may fail again");
        assert_eq!(standing(), [true], "but it has answered last");
        assert!(!service.is_gone(at(6)), "it fails now and then");
        assert_eq!(standing(), [false]);
        assert_eq!([service.is_back(at(10)), service.is_back(at(11)), service.is_back(at(12))], [false, true, false]);
        assert_eq!(standing(), [true]);
        drop(service);
        assert!(standing().is_empty());
    }
}
