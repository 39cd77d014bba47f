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
use transept_model::kinds::{Object, WorkloadSpec};
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
/// How long a control plane that seems to be there may leave a question unanswered before it is taken for away: a connection to a machine
/// that cannot be reached any more looks alive for longer than callers wait.
const SILENCE: Duration = Duration::from_secs(4);

/// The services that are asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    services: BTreeSet<ServiceName>,
    /// Where what was called is kept; none when only what the command line names can be called.
    kept: Option<PathBuf>,
    /// The addresses that are asked about, in the order in which they were called, and since when.
    addresses: VecDeque<(IpAddr, Instant)>,
    /// Those of them that were called while there was nobody to ask: they are whose they were, as far as that is known here.
    unanswered: BTreeSet<IpAddr>,
    /// When the control plane is taken for away; none while it is there.
    alone_at: Option<Instant>,
    /// Whether somebody may still wait for an answer then.
    waiting: bool,
    /// When to look whether a question has been left unanswered for too long; none while there is none.
    patient_until: Option<Instant>,
    /// Whether one has, and nothing was answered since.
    silent: bool,
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
            patient_until: None,
            silent: false,
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
    pub(crate) fn locate(&mut self, address: IpAddr, now: Instant) -> Option<BTreeSet<IpAddr>> {
        if self.addresses.iter().any(|(known, _)| *known == address) {
            return None;
        }
        if self.addresses.len() == MOST_ADDRESSES
            && let Some((oldest, _)) = self.addresses.pop_front()
        {
            self.unanswered.remove(&oldest);
        }
        self.addresses.push_back((address, now));
        self.waiting = true;
        self.patient_until.get_or_insert(now + SILENCE);
        tracing::debug!(%address, "an address is called for the first time");
        Some(self.addresses.iter().map(|(address, _)| *address).collect())
    }

    /// Whether there is a control plane now.
    pub(crate) fn note_connection(&mut self, connected: bool, now: Instant) {
        match (connected, self.alone_at) {
            (true, None) => {}
            (true, Some(_)) => {
                self.alone_at = None;
                self.begin_anew(now);
            }
            (false, None) => {
                self.alone_at = Some(now + RESPITE);
                self.waiting = true;
            }
            (false, Some(_)) => {}
        }
    }

    /// Another connection has its time to answer what was asked before.
    fn begin_anew(&mut self, now: Instant) {
        self.silent = false;
        for (_, since) in &mut self.addresses {
            *since = now;
        }
        self.patient_until = (!self.addresses.is_empty()).then_some(now + SILENCE);
    }

    /// Takes note of answers: a control plane that gives one is there.
    pub(crate) fn hear(&mut self, received: &Received) {
        let before = self.unanswered.len();
        let known = known(received);
        self.unanswered.retain(|address| !known.contains(address));
        self.silent &= self.unanswered.len() == before;
    }

    /// When to [give up](Asked::give_up) next.
    pub(crate) fn alone_at(&self) -> Option<Instant> {
        let away = self.alone_at.filter(|_| self.waiting);
        away.into_iter().chain(self.patient_until.filter(|_| !self.silent)).min()
    }

    /// When there is nobody to ask, nobody is to wait for an answer about the addresses that were called until now. Tells whether anybody
    /// did.
    pub(crate) fn give_up(&mut self, received: &Received, now: Instant) -> bool {
        if self.alone_at.is_none_or(|at| at > now) && !self.is_silent(received, now) {
            return false;
        }
        self.waiting = false;
        let before = self.unanswered.len();
        let known = known(received);
        let waiting = self.addresses.iter().map(|(address, _)| *address);
        self.unanswered.extend(waiting.filter(|address| !known.contains(address)));
        self.unanswered.len() != before
    }

    /// Whether the control plane has left a question unanswered for too long.
    fn is_silent(&mut self, received: &Received, now: Instant) -> bool {
        if self.silent || self.patient_until.is_none_or(|at| at > now) {
            return self.silent;
        }
        let known = known(received);
        let open = |address: &IpAddr| !known.contains(address) && !self.unanswered.contains(address);
        let oldest = self.addresses.iter().filter(|(address, _)| open(address)).map(|(_, since)| *since).min();
        self.patient_until = oldest.map(|since| since + SILENCE);
        self.silent = self.patient_until.is_some_and(|at| at <= now);
        if self.silent {
            tracing::warn!(
                "the control plane does not say whose an address is; until it does, calls of new addresses go on without it"
            );
        }
        self.silent
    }

    /// The Services of the instances at the addresses that were called: what binds who calls such a one has to be here first.
    pub(crate) fn called_instances(&self, received: &Received) -> BTreeSet<ServiceName> {
        let addresses: BTreeSet<IpAddr> = self.addresses.iter().map(|(address, _)| *address).collect();
        let is_called = |address: IpAddr| addresses.contains(&address);
        let called = received.world.workloads().iter().filter(|workload| workload.spec.ip().is_some_and(is_called));
        called.flat_map(|workload| services_of(workload)).collect()
    }

    /// The addresses that need not be asked about any more.
    pub(crate) fn located(&self, received: &Received) -> BTreeSet<IpAddr> {
        known(received).union(&self.unanswered).copied().collect()
    }

    /// The services that need not be asked for any more; none are all.
    pub(crate) fn awake(&self, received: &Received) -> Option<BTreeSet<ServiceName>> {
        self.kept.as_ref().map(|_| received.answered.clone())
    }
}

/// The addresses of which is known whose they are, and of those of instances all about their Services.
fn known(received: &Received) -> BTreeSet<IpAddr> {
    let workloads = received.world.workloads().iter();
    let waiting = workloads.filter(|one| services_of(one).any(|service| !received.answered.contains(&service)));
    let waiting: BTreeSet<IpAddr> = waiting.filter_map(|workload| workload.spec.ip()).collect();
    received.located.difference(&waiting).copied().collect()
}

/// The Services that a workload is an instance of.
fn services_of(workload: &Object<WorkloadSpec>) -> impl Iterator<Item = ServiceName> {
    let namespace = &workload.meta.namespace;
    workload.spec.services.iter().map(move |service| (namespace.to_string(), service.to_string()))
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
            patient_until: None,
            silent: false,
        }
    }

    #[test]
    fn an_address_is_asked_about_once_and_the_oldest_is_forgotten() {
        let mut asked = nothing();
        let address =
            |number: usize| IpAddr::from(u32::to_be_bytes(0x0a00_0000 + u32::try_from(number).expect("small")));
        let now = Instant::now();
        assert_eq!(asked.locate(address(0), now), Some(BTreeSet::from([address(0)])));
        assert_eq!(asked.locate(address(0), now), None);
        for number in 1..=MOST_ADDRESSES {
            asked.locate(address(number), now);
        }
        assert_eq!(asked.addresses.len(), MOST_ADDRESSES);
        assert!(asked.locate(address(0), now).is_some(), "it was forgotten");
    }

    #[test]
    fn who_calls_an_instance_waits_for_what_binds_its_callers() {
        let text = "{apiVersion: transept.dev/v1alpha1, kind: Workload, metadata: {name: cart-1, namespace: shop}, spec: \
             {services: [cart, all], address: 10.0.0.1, ports: [{port: 80}]}}";
        let loaded = transept_model::Loader::new(transept_engine::policies::MODEL_KINDS)
            .load(&[transept_model::SourceText::new("world", text)]);
        let (instance, stranger) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut received = Received { world: loaded.world, ..received(&[instance, stranger]) };
        let mut asked = nothing();
        assert_eq!(asked.called_instances(&received), BTreeSet::new(), "nobody has called it");
        asked.locate(instance, Instant::now());
        let name = |service: &str| ("shop".to_owned(), service.to_owned());
        assert_eq!(asked.called_instances(&received), BTreeSet::from([name("cart"), name("all")]));
        received.answered.insert(name("cart"));
        assert_eq!(asked.located(&received), BTreeSet::from([stranger]));
        received.answered.insert(name("all"));
        assert_eq!(asked.located(&received), BTreeSet::from([instance, stranger]));
    }

    #[test]
    fn nobody_waits_for_an_answer_when_there_is_nobody_to_ask() {
        let (known, new) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut asked = nothing();
        let (received, now) = (received(&[known]), Instant::now());
        asked.locate(known, now);
        asked.locate(new, now);
        assert_eq!(asked.located(&received), BTreeSet::from([known]));
        assert!(!asked.give_up(&received, now), "there is one");
        asked.note_connection(false, now);
        assert!(!asked.give_up(&received, now), "it may be there again at once");
        let later = now + RESPITE;
        assert_eq!(asked.alone_at(), Some(later));
        assert!(asked.give_up(&received, later));
        assert!(!asked.give_up(&received, later));
        assert_eq!(asked.alone_at(), Some(now + SILENCE), "when it is there by then, and does not answer");
        assert_eq!(asked.located(&received), BTreeSet::from([known, new]));
    }

    #[test]
    fn nobody_waits_for_a_control_plane_that_seems_to_be_there_and_is_silent() {
        let [first, second, third] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let mut asked = nothing();
        let (nothing_located, now) = (received(&[]), Instant::now());
        asked.locate(first, now);
        assert_eq!(asked.alone_at(), Some(now + SILENCE));
        assert!(!asked.give_up(&nothing_located, now + RESPITE));
        let late = now + SILENCE;
        assert!(asked.give_up(&nothing_located, late), "the first has waited long enough");
        assert_eq!(asked.alone_at(), None);
        asked.locate(second, late);
        assert!(asked.give_up(&nothing_located, late), "the next need not find it out again");

        // With an answer it is there, and has its time for the next one.
        let answered = received(&[first]);
        asked.hear(&answered);
        asked.locate(third, late);
        assert!(!asked.give_up(&answered, late));
        assert_eq!(asked.located(&answered), BTreeSet::from([first, second]));
        assert!(asked.give_up(&answered, late + SILENCE));
    }
}
