//! Names to addresses: keeps the endpoints of backends that come from DNS.
//!
//! Runs on the background runtime, one task per backend with names, started and stopped by [`crate::Proxy::apply`]. No
//! request ever waits for it: it swaps the backend's set of endpoints. What was good stays in use while a name does not
//! resolve.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use tokio::task::JoinHandle;
use transept_engine::snapshot::{Backend, DnsName, Endpoint, EndpointSource, Snapshot};

/// Bounds on how long an answer is used, whatever its TTL says.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(300);

/// When to ask again after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Addresses of one name that are used.
const MOST_ADDRESSES: usize = 256;

/// The tasks that keep backends resolved.
#[derive(Default)]
pub(crate) struct Resolving {
    resolver: Option<Arc<TokioResolver>>,
    tasks: HashMap<usize, (Arc<Backend>, JoinHandle<()>)>,
}

impl Resolving {
    /// Starts tasks for the backends of `snapshot` that need one, and stops the others.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, runtime: &tokio::runtime::Handle) {
        let wanted: HashMap<usize, &Arc<Backend>> = snapshot
            .backends
            .iter()
            .filter(|backend| matches!(backend.source, EndpointSource::Dns { .. }))
            .map(|backend| (Arc::as_ptr(backend) as usize, backend))
            .collect();
        self.tasks.retain(|key, (_, task)| {
            let keep = wanted.contains_key(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for (key, backend) in wanted {
            if self.tasks.contains_key(&key) {
                continue;
            }
            let Some(resolver) = self.resolver() else {
                return;
            };
            let task = runtime.spawn(keep_resolved(resolver, backend.clone()));
            self.tasks.insert(key, (backend.clone(), task));
        }
    }

    /// Made when it is first needed: a configuration without names reads no `resolv.conf`.
    fn resolver(&mut self) -> Option<Arc<TokioResolver>> {
        if self.resolver.is_none() {
            match TokioResolver::builder_tokio().and_then(|builder| builder.build()) {
                Ok(resolver) => self.resolver = Some(Arc::new(resolver)),
                Err(error) => tracing::error!(%error, "names of backends cannot be resolved"),
            }
        }
        self.resolver.clone()
    }
}

async fn keep_resolved(resolver: Arc<TokioResolver>, backend: Arc<Backend>) {
    let EndpointSource::Dns { names, .. } = &backend.source else {
        return;
    };
    let mut last: Vec<Vec<IpAddr>> = names.iter().map(|name| known_before(&backend, name)).collect();
    loop {
        let mut next = LATEST;
        for (name, known) in names.iter().zip(&mut last) {
            let (addresses, until) = resolve(&resolver, &backend, name).await;
            if !addresses.is_empty() {
                *known = addresses;
            }
            next = next.min(until);
        }
        let set = backend.source.assemble(&last);
        let has_gaps = last.iter().any(Vec::is_empty);
        // A name that has never resolved says nothing about the endpoints that were carried over from before a reload.
        if **backend.endpoints.load() != set && !(has_gaps && set.endpoints().is_empty()) {
            backend.endpoints.store(Arc::new(set));
        }
        tokio::time::sleep(next.clamp(SOONEST, LATEST)).await;
    }
}

/// What a name resolved to under the configuration before, which the compile carried over.
fn known_before(backend: &Backend, name: &DnsName) -> Vec<IpAddr> {
    let set = backend.endpoints.load();
    let of_name =
        |endpoint: &&Endpoint| endpoint.host.as_ref() == Some(&name.name) && endpoint.address.port() == name.port;
    set.endpoints().iter().filter(of_name).map(|endpoint| endpoint.address.ip()).collect()
}

/// The addresses of a name, sorted, and for how long they hold; none when the name does not resolve now.
async fn resolve(resolver: &TokioResolver, backend: &Backend, name: &DnsName) -> (Vec<IpAddr>, Duration) {
    match resolver.lookup_ip(name.name.as_ref()).await {
        Ok(found) => {
            let mut addresses: Vec<IpAddr> = found.iter().take(MOST_ADDRESSES).collect();
            addresses.sort_unstable();
            (addresses, found.valid_until().saturating_duration_since(Instant::now()))
        }
        Err(error) => {
            tracing::warn!(%error, name = %name.name, backend = %backend.label, "the name of a backend did not resolve; what was known stays in use");
            (Vec::new(), AFTER_FAILURE)
        }
    }
}
