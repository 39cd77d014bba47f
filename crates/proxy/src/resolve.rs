//! Names to addresses: keeps the endpoints of backends that come from DNS.
//!
//! Runs on the background runtime, one task per backend with names, started and stopped by [`crate::Proxy::apply`]. It swaps the
//! backend's set of endpoints, and no request waits for it but those that come before the first answer. What was good stays in use
//! while a name does not resolve. What one name is known to be is in `name`.

mod name;

use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RecordType;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use transept_engine::snapshot::{Backend, DnsName, Endpoint, EndpointSource, Snapshot};

use crate::worker::Shared;
use name::{Answer, Known, LATEST, Outcome, SOONEST};

/// What a name of a backend resolves to now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedName {
    /// `namespace/name` of the backend.
    pub backend: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// The addresses in use, sorted.
    pub addresses: Vec<IpAddr>,
    /// Why the name does not resolve now; the addresses are those from before then.
    pub error: Option<String>,
}

/// How often the name servers gave which answer, since the start. A lookup is one name and one address family.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    pub(crate) found: AtomicU64,
    pub(crate) nothing: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// The tasks that keep backends resolved.
pub(crate) struct Resolving {
    name_servers: Vec<SocketAddr>,
    resolver: Option<Arc<TokioResolver>>,
    tasks: HashMap<usize, Following>,
    pub(crate) lookups: Arc<Lookups>,
    /// Raised after each answer.
    answered: Arc<Notify>,
}

struct Following {
    /// Held so that the key, its address, cannot come to mean another backend.
    _backend: Arc<Backend>,
    names: Arc<Mutex<Vec<ResolvedName>>>,
    task: JoinHandle<()>,
}

impl Resolving {
    /// Asks these name servers, or those of the system when there are none, and raises `answered` after each answer.
    pub(crate) fn new(name_servers: Vec<SocketAddr>, answered: Arc<Notify>) -> Self {
        Resolving { name_servers, resolver: None, tasks: HashMap::new(), lookups: Arc::default(), answered }
    }

    /// Starts tasks for the backends of `snapshot` that need one, and stops the others.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, runtime: &tokio::runtime::Handle) {
        let wanted: HashMap<usize, &Arc<Backend>> = snapshot
            .backends
            .iter()
            .filter(|backend| matches!(backend.source, EndpointSource::Dns { .. }))
            .map(|backend| (Arc::as_ptr(backend) as usize, backend))
            .collect();
        self.tasks.retain(|key, following| {
            let keep = wanted.contains_key(key);
            if !keep {
                following.task.abort();
            }
            keep
        });
        for (key, backend) in wanted {
            if self.tasks.contains_key(&key) {
                continue;
            }
            let Some(resolver) = self.resolver() else {
                // Nobody is to wait for an answer that cannot come.
                if backend.awaits_names() {
                    backend.endpoints.store(Arc::new(backend.equip(backend.source.assemble(&[]))));
                }
                continue;
            };
            let names = Arc::<Mutex<Vec<ResolvedName>>>::default();
            let keeper = Keeper {
                resolver,
                backend: backend.clone(),
                told: names.clone(),
                lookups: self.lookups.clone(),
                known: Vec::new(),
                answered: self.answered.clone(),
            };
            let task = runtime.spawn(keeper.keep());
            self.tasks.insert(key, Following { _backend: backend.clone(), names, task });
        }
    }

    /// Every name that is followed, sorted by backend and name.
    pub(crate) fn names(&self) -> Vec<ResolvedName> {
        let mut all: Vec<ResolvedName> =
            self.tasks.values().flat_map(|following| lock(&following.names).clone()).collect();
        all.sort_by(|a, b| (&a.backend, &a.name).cmp(&(&b.backend, &b.name)));
        all
    }

    /// Made when it is first needed: a configuration without names reads no `resolv.conf`.
    fn resolver(&mut self) -> Option<Arc<TokioResolver>> {
        if self.resolver.is_none() {
            match build(&self.name_servers) {
                Ok(resolver) => self.resolver = Some(Arc::new(resolver)),
                Err(error) => tracing::error!(error, "names of backends cannot be resolved"),
            }
        }
        self.resolver.clone()
    }
}

/// A resolver that asks these name servers, or those that the system names.
fn build(name_servers: &[SocketAddr]) -> Result<TokioResolver, String> {
    let mut builder = if name_servers.is_empty() {
        TokioResolver::builder_tokio().map_err(|error| error.to_string())?
    } else {
        let servers = name_servers.iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            server
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Always;
    options.positive_max_ttl = Some(LATEST);
    // A zone may allow hours for "there is no such name"; a backend that has just got its name should not wait so long.
    options.negative_max_ttl = Some(SOONEST);
    builder.build().map_err(|error| error.to_string())
}

/// What one task knows.
struct Keeper {
    resolver: Arc<TokioResolver>,
    backend: Arc<Backend>,
    told: Arc<Mutex<Vec<ResolvedName>>>,
    lookups: Arc<Lookups>,
    known: Vec<Known>,
    answered: Arc<Notify>,
}

impl Keeper {
    /// Asks for every name when its time has come, each on its own: a slow name holds up no other.
    async fn keep(mut self) {
        let backend = self.backend.clone();
        let EndpointSource::Dns { names, .. } = &backend.source else {
            return;
        };
        self.known = names.iter().map(|name| Known::before(known_before(&backend, name))).collect();
        self.tell(names);
        let mut asking = FuturesUnordered::new();
        for (index, name) in names.iter().enumerate() {
            asking.push(ask(self.resolver.clone(), index, name.name.clone(), Duration::ZERO));
        }
        while let Some((index, v4, v6)) = asking.next().await {
            let (Some(name), Some(known)) = (names.get(index), self.known.get_mut(index)) else {
                return;
            };
            for answer in [&v4, &v6] {
                self.lookups.count(answer);
            }
            let was_failing = known.error.is_some();
            let wait = known.take(v4, v6);
            match (&known.error, was_failing) {
                (Some(error), false) => {
                    tracing::warn!(error, name = %name.name, backend = %backend.label, "the name of a backend does not resolve; what was known stays in use");
                }
                (None, true) => tracing::info!(name = %name.name, backend = %backend.label, "the name resolves again"),
                _ => {}
            }
            self.install();
            self.tell(names);
            self.answered.notify_waiters();
            asking.push(ask(self.resolver.clone(), index, name.name.clone(), wait));
        }
    }

    /// Swaps the backend's endpoints if they have changed.
    fn install(&self) {
        let addresses: Vec<Vec<IpAddr>> = self.known.iter().map(Known::addresses).collect();
        let set = self.backend.source.assemble(&addresses);
        // Endpoints that the configuration before had left are better than none until every new name was asked for once.
        let complete = self.known.iter().all(|known| known.asked);
        if (complete || !set.endpoints().is_empty()) && **self.backend.endpoints.load() != set {
            self.backend.endpoints.store(Arc::new(self.backend.equip(set)));
        }
    }

    fn tell(&self, names: &[DnsName]) {
        let tell_one = |(name, known): (&DnsName, &Known)| ResolvedName {
            backend: self.backend.label.clone(),
            name: name.name.clone(),
            addresses: known.addresses(),
            error: known.error.clone(),
        };
        *lock(&self.told) = names.iter().zip(&self.known).map(tell_one).collect();
    }
}

/// Waits for the first answer about the names of a backend that has no endpoint before it, for as long as connecting may take.
pub(crate) async fn await_names(shared: &Shared, backend: &Backend) {
    if !backend.awaits_names() {
        return;
    }
    let answered = async {
        loop {
            let answered = shared.named.notified();
            if !backend.awaits_names() {
                return;
            }
            answered.await;
        }
    };
    // Boxed, because every request has room for this, and hardly one needs it. Who has waited in vain finds no endpoint.
    let _ = Box::pin(tokio::time::timeout(backend.connect_timeout, answered)).await;
}

impl Lookups {
    fn count(&self, answer: &Answer) {
        let counter = match answer.outcome {
            Outcome::Found(_) => &self.found,
            Outcome::Nothing => &self.nothing,
            Outcome::Failed => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts as they stand: found, nothing, failed.
    pub(crate) fn read(&self) -> [u64; 3] {
        [&self.found, &self.nothing, &self.failed].map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// What a name resolved to under the configuration before, which the compile carried over.
fn known_before(backend: &Backend, name: &DnsName) -> Vec<IpAddr> {
    let set = backend.endpoints.load();
    let of_name =
        |endpoint: &&Endpoint| endpoint.host.as_ref() == Some(&name.name) && endpoint.address.port() == name.port;
    set.endpoints().iter().filter(of_name).map(|endpoint| endpoint.address.ip()).collect()
}

/// Asks for both families of a name after a while.
async fn ask(resolver: Arc<TokioResolver>, index: usize, name: Arc<str>, wait: Duration) -> (usize, Answer, Answer) {
    tokio::time::sleep(wait).await;
    let (v4, v6) =
        futures_util::join!(look_up(&resolver, &name, RecordType::A), look_up(&resolver, &name, RecordType::AAAA));
    (index, v4, v6)
}

/// One family on its own, so that a failure of one does not pass for the absence of its addresses.
async fn look_up(resolver: &TokioResolver, name: &str, family: RecordType) -> Answer {
    match resolver.lookup(name, family).await {
        Ok(found) => {
            let left = found.valid_until().saturating_duration_since(Instant::now());
            let addresses: Vec<IpAddr> = found.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
            Answer::found(addresses, left)
        }
        Err(error) if error.is_no_records_found() => {
            Answer::nothing(if error.is_nx_domain() { "there is no such name" } else { "the name has no address" })
        }
        Err(error) => Answer::failed(error.to_string()),
    }
}

/// Appends what is counted about names, in the Prometheus text format.
pub(crate) fn write_metrics(names: &[ResolvedName], [found, nothing, failed]: [u64; 3], out: &mut String) {
    let unresolved = names.iter().filter(|name| name.error.is_some()).count();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "\
# HELP transept_dns_lookups_total Questions to name servers about the names of backends, by what came of them.
# TYPE transept_dns_lookups_total counter
transept_dns_lookups_total{{result=\"found\"}} {found}
transept_dns_lookups_total{{result=\"nothing\"}} {nothing}
transept_dns_lookups_total{{result=\"failed\"}} {failed}
# HELP transept_dns_names Names of backends that are followed.
# TYPE transept_dns_names gauge
transept_dns_names {}
# HELP transept_dns_names_unresolved Names of backends that do not resolve now.
# TYPE transept_dns_names_unresolved gauge
transept_dns_names_unresolved {unresolved}
",
        names.len()
    );
}

/// The values stay whole even if a thread panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
