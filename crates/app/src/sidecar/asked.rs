//! The services that a sidecar asks for: those that its command line names, and those that its program has called.
//!
//! Called by `sidecar`. A program that calls by HTTP proxy or by name may call any service; of each the sidecar holds what belongs to
//! it from the first call on. What was called is kept in the state directory, because the next start may be without a control plane.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use transept_engine::snapshot;
use transept_proxy::feed::{Interest, Received, ServiceName};

use super::Plan;

/// The file, in the state directory.
const KEPT: &str = "services.json";
/// More than this are not kept: a program that calls so many will soon have called them again.
const MOST_KEPT: usize = 10_000;

/// The services that are asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    services: BTreeSet<ServiceName>,
    /// Where what was called is kept; none when only what the command line names can be called.
    kept: Option<PathBuf>,
}

impl Asked {
    /// What the command line says, with what was called before.
    pub(crate) fn begin(plan: &Plan) -> Asked {
        let mut services = plan.services();
        let may_call_anything = plan.place.http_proxy.is_some() || plan.transparent;
        let kept = may_call_anything.then(|| plan.state.join(KEPT));
        services.extend(kept.as_deref().map(read).unwrap_or_default());
        Asked { services, kept }
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
