//! Steps that send traffic from inside a pod of the mesh (section 2.5 of the suite's description).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Via;

/// The `mesh_http` and `mesh_grpc` steps: calls of one pod.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeshCalls {
    pub from: PodLabels,
    pub cases: Vec<MeshCase>,
}

/// The first pod of a namespace with these labels.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct PodLabels {
    pub namespace: String,
    pub app: String,
    pub version: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeshCase {
    pub name: String,
    pub request: MeshRequest,
    pub expect: MeshExpect,
    /// What the official comparison overlooks; compared here too.
    #[serde(default)]
    pub intended: MeshIntended,
}

/// Either `host`, a name to be resolved as in the pod, or `pod`, whose own address is meant.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeshRequest {
    pub host: Option<String>,
    pub pod: Option<PodLabels>,
    pub port: u16,
    #[serde(default)]
    pub path: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeshExpect {
    pub status: Vec<u16>,
    pub backend: Option<String>,
    #[serde(default)]
    pub seen: MeshSeen,
    #[serde(default)]
    pub response_headers: BTreeMap<String, String>,
    #[serde(default)]
    pub response_absent_headers: Vec<String>,
}

/// What the backend saw.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeshSeen {
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub absent_headers: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeshIntended {
    pub redirect: Option<MeshRedirect>,
    pub seen_path: Option<String>,
}

/// The parts of a Location that the standard fixes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeshRedirect {
    pub scheme: Option<String>,
    pub path: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeshDistribution {
    pub via: Via,
    pub from: PodLabels,
    pub request: MeshRequest,
    pub requests: usize,
    pub concurrency: usize,
    #[serde(rename = "connection")]
    _connection: Shared,
    pub weights: BTreeMap<String, f64>,
    pub tolerance: f64,
    pub max_tries: usize,
}

/// All requests over connections that are kept open.
#[derive(Clone, Copy, Debug, Deserialize)]
enum Shared {
    #[serde(rename = "shared")]
    Shared,
}
