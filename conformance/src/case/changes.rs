//! Steps that change objects while the binary runs (section 2.2 of the suite's description).

use serde::Deserialize;
use serde_json::Value;

/// Creates objects.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Apply {
    pub objects: Vec<Value>,
}

/// Which object to change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObjectRef {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    pub kind: String,
    /// Absent for kinds without namespaces.
    #[serde(default)]
    pub namespace: String,
    pub name: String,
}

/// Applies a JSON Patch (RFC 6902).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Patch {
    pub object: ObjectRef,
    pub ops: Vec<Operation>,
}

/// One operation of a patch, of the kinds that the suite uses.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Operation {
    Add { path: String, value: Value },
    Replace { path: String, value: Value },
    Remove { path: String },
    Test { path: String, value: Value },
}

/// Deletes an object.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delete {
    pub object: ObjectRef,
}

/// Fills hand-written EndpointSlices with the pods of a Deployment.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endpoints {
    pub slices: Vec<String>,
    pub from_pods_of: String,
    pub address_type: String,
    #[serde(default)]
    pub skip_if_empty: bool,
}

/// Waits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sleep {
    pub seconds: f64,
    #[serde(rename = "why")]
    _why: Option<String>,
}
