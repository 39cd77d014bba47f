//! Asks endpoints whether they are well, for backends whose policy wants it.
//!
//! Runs on the background runtime, one task per backend, started and stopped by [`crate::Proxy::apply`]; what it finds is published
//! in the backend's `ledger.health`, where `pick` reads it. No request ever waits for it. An endpoint at the end of a tunnel is asked by nobody but the
//! sidecar beside it, which reports to the registry: here it counts as well. What a result means and when the next
//! check is due is the engine's [`transept_engine::health`]; how an endpoint is asked is in `ask`.

mod ask;
mod h2;
mod stream;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transept_engine::health::{Change, Check, Outcome, State, Verdict};
use transept_engine::snapshot::{Backend, BackendId, Endpoint, EndpointSet, Snapshot};
use transept_engine::traffic::{Verdicts, Wellness};

use crate::worker::Shared;
use ask::{Trouble, ask};

/// Checks of one backend that are under way at a time; the others wait.
const AT_A_TIME: usize = 32;

/// How often the set of endpoints is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// The tasks that ask.
#[derive(Default)]
pub(crate) struct Watching {
    tasks: HashMap<usize, Following>,
}

struct Following {
    /// Held so that the key, its address, cannot come to mean another backend.
    backend: Arc<Backend>,
    task: JoinHandle<()>,
}

impl Watching {
    /// Starts tasks for the backends of `snapshot` that need one, and stops the others.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, shared: &Arc<Shared>, runtime: &tokio::runtime::Handle) {
        let wanted: HashMap<usize, &Arc<Backend>> = snapshot
            .backends
            .iter()
            .filter(|backend| check_of(backend).is_some())
            .map(|backend| (Arc::as_ptr(backend) as usize, backend))
            .collect();
        let asked = self.tasks.values().map(|following| &following.backend);
        let questions: HashMap<BackendId, Arc<Check>> =
            asked.filter_map(|backend| Some((backend.id.clone(), check_of(backend)?.clone()))).collect();
        self.tasks.retain(|key, following| {
            let keep = wanted.contains_key(key);
            if !keep {
                following.task.abort();
                // Nobody vouches for it any more; a successor that is checked begins with what is known.
                if !snapshot.backends.iter().any(|other| other.id == following.backend.id && check_of(other).is_some())
                {
                    following.backend.ledger.health.store(None);
                }
            }
            keep
        });
        for (key, backend) in wanted {
            self.tasks.entry(key).or_insert_with(|| {
                let same = questions.get(&backend.id).is_none_or(|before| Some(before) == check_of(backend));
                let question = if same { Question::Same } else { Question::Another };
                let keeper = Keeper::new(backend.clone(), shared.clone(), question);
                Following { backend: backend.clone(), task: runtime.spawn(keeper.keep()) }
            });
        }
    }
}

fn check_of(backend: &Backend) -> Option<&Arc<Check>> {
    backend.traffic.as_ref()?.check.as_ref()
}

/// Whether what is known of endpoints are answers to the question that is asked now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    Same,
    /// The first answer decides anew; until then what is known holds.
    Another,
}

/// What one task knows.
struct Keeper {
    backend: Arc<Backend>,
    shared: Arc<Shared>,
    question: Question,
    known: HashMap<SocketAddr, Known>,
    /// Endpoints whose sidecars are believed.
    vouched: HashSet<SocketAddr>,
    random: RandomState,
    drawn: u64,
}

/// What is known of one endpoint.
struct Known {
    state: State,
    /// What was known before the first answer.
    before: Option<Wellness>,
    why: Arc<str>,
    due: Instant,
    asking: bool,
}

impl Keeper {
    fn new(backend: Arc<Backend>, shared: Arc<Shared>, question: Question) -> Keeper {
        let (known, vouched) = (HashMap::new(), HashSet::new());
        Keeper { backend, shared, question, known, vouched, random: RandomState::new(), drawn: 0 }
    }

    /// Random bits, for what is spread in time.
    fn random(&mut self) -> u64 {
        self.drawn += 1;
        self.random.hash_one(self.drawn)
    }

    async fn keep(mut self) {
        let backend = self.backend.clone();
        let Some(check) = check_of(&backend).cloned() else {
            return;
        };
        let mut asking = FuturesUnordered::new();
        let mut set = Arc::default();
        loop {
            let newest = backend.endpoints.load_full();
            if !Arc::ptr_eq(&newest, &set) {
                set = newest;
                self.follow_endpoints(&check, &set);
            }
            let now = Instant::now();
            for endpoint in set.endpoints() {
                let Some(known) = self.known.get_mut(&endpoint.address) else { continue };
                if !known.asking && known.due <= now && asking.len() < AT_A_TIME {
                    known.asking = true;
                    asking.push(ask_one(self.shared.clone(), backend.clone(), check.clone(), endpoint.clone()));
                }
            }
            let soonest = self.known.values().filter(|known| !known.asking).map(|known| known.due).min();
            let wake = soonest.map_or(now + LOOK, |due| due.max(now + Duration::from_millis(1)).min(now + LOOK));
            tokio::select! {
                Some((address, result)) = asking.next() => self.take(&check, address, result),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Begins with endpoints that are new, and forgets those that are gone.
    fn follow_endpoints(&mut self, check: &Check, set: &EndpointSet) {
        let (behind, asked): (Vec<_>, Vec<_>) = set.endpoints().iter().partition(|endpoint| endpoint.tunnel.is_some());
        let addresses = |all: &[&Endpoint]| all.iter().map(|endpoint| endpoint.address).collect::<HashSet<_>>();
        let here = addresses(&asked);
        self.vouched = addresses(&behind);
        self.known.retain(|address, _| here.contains(address));
        let said = self.backend.ledger.health.load_full();
        for endpoint in asked {
            if self.known.contains_key(&endpoint.address) {
                continue;
            }
            let before = said.as_ref().and_then(|said| said.by_address.get(&endpoint.address)).cloned();
            let (state, why, wait) = match &before {
                None => (State::default(), Arc::from(""), Duration::ZERO),
                Some(_) if self.question == Question::Another => (State::default(), Arc::from(""), Duration::ZERO),
                Some(Wellness::Well) => {
                    let random = self.random();
                    (State::known(Verdict::Healthy), Arc::from(""), check.first_wait(random))
                }
                Some(Wellness::Unwell(why)) => {
                    let random = self.random();
                    (State::known(Verdict::Unhealthy), why.clone(), check.first_wait(random))
                }
            };
            let due = Instant::now() + wait;
            self.known.insert(endpoint.address, Known { state, before, why, due, asking: false });
        }
        // Who comes later is new, and nothing was known of him before.
        self.question = Question::Same;
        self.publish();
    }

    fn take(&mut self, check: &Check, address: SocketAddr, result: Result<(), Trouble>) {
        let random = self.random();
        let Some(known) = self.known.get_mut(&address) else {
            return;
        };
        known.asking = false;
        let (outcome, why) = match result {
            Ok(()) => (Outcome::Passed, String::new()),
            Err(Trouble::Ours(why)) => {
                tracing::warn!(%address, why, "an endpoint could not be checked");
                known.due = Instant::now() + known.state.wait(check, Change::Steady, random);
                return;
            }
            Err(Trouble::Silent(why)) => (Outcome::Silent, why),
            Err(Trouble::Wrong(why)) => (Outcome::Wrong, why),
        };
        let change = known.state.note(check, outcome);
        known.due = Instant::now() + known.state.wait(check, change, random);
        if let Change::Flipped(verdict) = change {
            let why: Arc<str> = why.into();
            known.why = why.clone();
            self.publish();
            let backend = &self.backend.label;
            match verdict {
                Verdict::Healthy => tracing::info!(%backend, endpoint = %address, "an endpoint is well"),
                Verdict::Unhealthy => tracing::warn!(%backend, endpoint = %address, %why, "an endpoint is unwell"),
            }
        }
    }

    /// Publishes the verdicts. Before every endpoint was asked once there is none to publish, unless there was one before.
    fn publish(&self) {
        let health = &self.backend.ledger.health;
        let complete = self.known.len() + self.vouched.len() > 0
            && self.known.values().all(|known| known.state.verdict().is_some());
        if !complete && health.load().is_none() {
            return;
        }
        let verdicts = self.known.iter().filter_map(|(address, known)| {
            let wellness = match known.state.verdict() {
                Some(Verdict::Healthy) => Wellness::Well,
                Some(Verdict::Unhealthy) => Wellness::Unwell(known.why.clone()),
                None => known.before.clone()?,
            };
            Some((*address, wellness))
        });
        let vouched = self.vouched.iter().map(|address| (*address, Wellness::Well));
        health.store(Some(Arc::new(Verdicts { by_address: verdicts.chain(vouched).collect() })));
    }
}

async fn ask_one(
    shared: Arc<Shared>,
    backend: Arc<Backend>,
    check: Arc<Check>,
    endpoint: Endpoint,
) -> (SocketAddr, Result<(), Trouble>) {
    let asking = ask(&shared, &backend, &check, &endpoint);
    let result = tokio::time::timeout(check.timeout, asking).await;
    (endpoint.address, result.unwrap_or_else(|_| Err(Trouble::Silent("no answer in time".to_owned()))))
}
