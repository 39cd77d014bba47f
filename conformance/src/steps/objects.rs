//! What the binary says of all objects, and waiting on it. Called by the steps that look at status.

use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};

use super::Stage;
use crate::certificates::split;
use crate::compare::status::{Check, Complaint};
use crate::world::text;

const POLL: Duration = Duration::from_millis(20);

/// The answer of `/status`.
#[derive(Debug)]
pub(crate) struct Objects(Value);

impl Objects {
    /// One object by kind, namespace and name.
    pub(crate) fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        let objects = self.0.get("objects")?.as_array()?;
        objects.iter().find(|object| {
            text(object, "/kind") == kind
                && text(object, "/metadata/name") == name
                && text(object, "/metadata/namespace") == namespace
        })
    }

    /// One object by kind and `namespace/name`.
    ///
    /// # Errors
    /// It has no status (yet).
    pub(crate) fn named(&self, kind: &str, reference: &str) -> Result<&Value, Complaint> {
        let (namespace, name) = split(reference).map_err(|why| Complaint::Never(why.to_string()))?;
        let found = self.find(kind, namespace, name);
        found.ok_or_else(|| Complaint::NotYet(format!("{kind} {reference} has no status")))
    }

    /// The generation of the configuration that this status belongs to.
    pub(crate) fn configuration(&self) -> Option<u64> {
        self.0.get("generation")?.as_u64()
    }
}

impl Stage<'_> {
    /// The status of all objects now.
    pub(super) async fn objects(&self) -> Result<Objects, String> {
        self.gateway.status().await.map(Objects).map_err(|why| format!("the admin endpoint fails: {why}"))
    }

    /// Looks until the check holds.
    pub(super) async fn wait_for(&self, mut check: impl AsyncFnMut(&Objects) -> Check) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        loop {
            match check(&self.objects().await?).await {
                Ok(()) => return Ok(()),
                Err(Complaint::Never(why)) => return Err(why),
                Err(Complaint::NotYet(why)) if Instant::now() > deadline => return Err(why),
                Err(Complaint::NotYet(_)) => sleep(POLL).await,
            }
        }
    }

    /// Looks until a change of the files shows in the generation of the configuration. A change that the binary takes in without
    /// a new generation is no fault: the following steps decide.
    pub(super) async fn settle(&self, before: Option<u64>) -> Result<(), String> {
        let deadline = Instant::now() + self.patience.min(Duration::from_secs(2));
        while Instant::now() < deadline && self.objects().await?.configuration() == before {
            sleep(POLL).await;
        }
        Ok(())
    }
}
