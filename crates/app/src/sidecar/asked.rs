//! What a sidecar asks for: the services that its command line names and those that its program has called, and whose the addresses are
//! that it has called.
//!
//! Called by `sidecar`. A program that calls by HTTP proxy or by name may call any service; of each the sidecar holds what belongs to
//! it from the first call on. What was called is kept in the state directory, because the next start may be without a control plane.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use transept_engine::snapshot;
use transept_proxy::feed::{Interest, Received, ServiceName};

use super::Plan;

/// The file, in the state directory.
const KEPT: &str = "services.json";
/// More than this are not kept: a program that calls so many will soon have called them again.
const MOST_KEPT: usize = 10_000;
/// Addresses that are asked about at a time; those that were called first are forgotten first.
const MOST_ADDRESSES: usize = 4096;
/// How long a control plane may be away before it is taken for away: connections break, and are there again at once.
const RESPITE: Duration = Duration::from_secs(2);

/// The services that are asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    services: BTreeSet<ServiceName>,
    /// Where what was called is kept; none when only what the command line names can be called.
    kept: Option<PathBuf>,
    /// The addresses that are asked about, in the order in which they were called.
    addresses: VecDeque<IpAddr>,
    /// Those of them that were called while there was nobody to ask: they are whose they were, as far as that is known here.
    unanswered: BTreeSet<IpAddr>,
    /// When the control plane is taken for away; none while it is there.
    alone_at: Option<Instant>,
    /// Whether somebody may still wait for an answer then.
    waiting: bool,
}

impl Asked {
    /// What the command line says, with what was called before.
    pub(crate) fn begin(plan: &Plan) -> Asked {
        let mut services = plan.services();
        let may_call_anything = plan.place.http_proxy.is_some() || plan.transparent;
        let kept = may_call_anything.then(|| plan.state.join(KEPT));
        services.extend(kept.as_deref().map(read).unwrap_or_default());
        Asked {
            services,
            kept,
            addresses: VecDeque::new(),
            unanswered: BTreeSet::new(),
            alone_at: Some(Instant::now() + RESPITE),
            waiting: false,
        }
    }

    /// What the feed is to ask for.
    pub(crate) fn interest(&self) -> Interest {
        match self.kept {
            None => Interest::Services(self.services.clone()),
            Some(_) => Interest::OnDemand(self.services.clone()),
        }
    }

    /// Adds services; all of them, when there is a new one.
    pub(crate) fn add(&mut self, services: impl IntoIterator<Item = ServiceName>) -> Option<BTreeSet<ServiceName>> {
        let before = self.services.len();
        self.services.extend(services);
        (self.services.len() != before).then(|| self.services.clone())
    }

    /// Adds a service that is called, and keeps that it was; all of them, when it is new.
    pub(crate) fn call(&mut self, service: snapshot::ServiceName) -> Option<BTreeSet<ServiceName>> {
        let service = (service.namespace.into_string(), service.name.into_string());
        let asked = self.add([service.clone()])?;
        tracing::debug!(namespace = service.0, service = service.1, "called for the first time");
        if let Some(path) = &self.kept
            && let Err(error) = keep(path, &asked)
        {
            tracing::warn!(%error, path = %path.display(), "the services that are called cannot be kept for the next start");
        }
        Some(asked)
    }

    /// Adds an address that is called; all of them, when it is new.
    pub(crate) fn locate(&mut self, address: IpAddr) -> Option<BTreeSet<IpAddr>> {
        if self.addresses.contains(&address) {
            return None;
        }
        if self.addresses.len() == MOST_ADDRESSES
            && let Some(oldest) = self.addresses.pop_front()
        {
            self.unanswered.remove(&oldest);
        }
        self.addresses.push_back(address);
        self.waiting = true;
        tracing::debug!(%address, "an address is called for the first time");
        Some(self.addresses.iter().copied().collect())
    }

    /// Whether there is a control plane now.
    pub(crate) fn note_connection(&mut self, connected: bool, now: Instant) {
        match (connected, self.alone_at) {
            (true, _) => self.alone_at = None,
            (false, None) => {
                self.alone_at = Some(now + RESPITE);
                self.waiting = true;
            }
            (false, Some(_)) => {}
        }
    }

    /// When to [give up](Asked::give_up) next.
    pub(crate) fn alone_at(&self) -> Option<Instant> {
        self.alone_at.filter(|_| self.waiting)
    }

    /// When there is nobody to ask, nobody is to wait for an answer about the addresses that were called until now. Tells whether anybody
    /// did.
    pub(crate) fn give_up(&mut self, received: &Received, now: Instant) -> bool {
        if self.alone_at.is_none_or(|at| at > now) {
            return false;
        }
        self.waiting = false;
        let before = self.unanswered.len();
        let waiting = self.addresses.iter().filter(|address| !received.located.contains(*address));
        self.unanswered.extend(waiting);
        self.unanswered.len() != before
    }

    /// The addresses that need not be asked about any more.
    pub(crate) fn located(&self, received: &Received) -> BTreeSet<IpAddr> {
        received.located.union(&self.unanswered).copied().collect()
    }

    /// The services that need not be asked for any more; none are all.
    pub(crate) fn awake(&self, received: &Received) -> Option<BTreeSet<ServiceName>> {
        self.kept.as_ref().map(|_| received.answered.clone())
    }
}

/// What was kept; nothing, when it is not there or no longer what it was.
fn read(path: &Path) -> BTreeSet<ServiceName> {
    let Ok(text) = fs::read(path) else { return BTreeSet::new() };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "the services that were called before are not readable");
        BTreeSet::new()
    })
}

/// Whole or not at all.
fn keep(path: &Path, services: &BTreeSet<ServiceName>) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let kept: Vec<_> = services.iter().take(MOST_KEPT).collect();
    fs::write(&beside, serde_json::to_vec(&kept)?)?;
    fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(located: &[IpAddr]) -> Received {
        Received {
            world: transept_model::World::default(),
            number: 1,
            kept: false,
            answered: BTreeSet::new(),
            located: located.iter().copied().collect(),
        }
    }

    fn nothing() -> Asked {
        Asked {
            services: BTreeSet::new(),
            kept: None,
            addresses: VecDeque::new(),
            unanswered: BTreeSet::new(),
            alone_at: None,
            waiting: false,
        }
    }

    #[test]
    fn an_address_is_asked_about_once_and_the_oldest_is_forgotten() {
        let mut asked = nothing();
        let address =
            |number: usize| IpAddr::from(u32::to_be_bytes(0x0a00_0000 + u32::try_from(number).expect("small")));
        assert_eq!(asked.locate(address(0)), Some(BTreeSet::from([address(0)])));
        assert_eq!(asked.locate(address(0)), None);
        for number in 1..=MOST_ADDRESSES {
            asked.locate(address(number));
        }
        assert_eq!(asked.addresses.len(), MOST_ADDRESSES);
        assert!(asked.locate(address(0)).is_some(), "it was forgotten");
    }

    #[test]
    fn nobody_waits_for_an_answer_when_there_is_nobody_to_ask() {
        let (known, new) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut asked = nothing();
        asked.locate(known);
        asked.locate(new);
        let (received, now) = (received(&[known]), Instant::now());
        assert_eq!(asked.located(&received), BTreeSet::from([known]));
        assert!(!asked.give_up(&received, now), "there is one");
        asked.note_connection(false, now);
        assert!(!asked.give_up(&received, now), "it may be there again at once");
        let later = now + RESPITE;
        assert_eq!(asked.alone_at(), Some(later));
        assert!(asked.give_up(&received, later));
        assert!(!asked.give_up(&received, later));
        assert_eq!(asked.alone_at(), None, "until somebody calls again");
        assert_eq!(asked.located(&received), BTreeSet::from([known, new]));
    }
}
