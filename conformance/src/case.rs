//! The types of a case file: its head and its steps. Read by `suite`; the steps are run by `steps`.
//!
//! Strict on purpose: a step or a field that is not known here makes the case unreadable instead of being passed over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One restated test of the official suite.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// Short name of the official test.
    pub name: String,
    /// One sentence.
    #[serde(rename = "summary")]
    pub _summary: String,
    /// Where it is played.
    pub kind: CaseKind,
    /// The profiles that it counts for.
    pub profiles: BTreeMap<String, Level>,
    /// All of them must be served.
    pub features: Vec<String>,
    /// Run, but not counted by the official suite yet.
    pub provisional: bool,
    #[serde(rename = "parallel")]
    _parallel: bool,
    #[serde(rename = "official")]
    _official: String,
    /// Whether it can be replayed without an API server.
    pub runs: Runs,
    /// Why not.
    pub reason: Option<String>,
    #[serde(rename = "class")]
    _class: String,
    #[serde(rename = "needs")]
    _needs: Vec<String>,
    /// Passes without doing anything when this feature is served.
    pub skip_if_feature: Option<String>,
    /// Passes without doing anything unless this feature is served.
    pub skip_unless_feature: Option<String>,
    /// Files to apply, in this order.
    pub manifests: Vec<String>,
    #[serde(rename = "topology")]
    _topology: Option<Value>,
    #[serde(default, rename = "traps")]
    _traps: Vec<String>,
    #[serde(rename = "intended")]
    _intended: Option<Vec<String>>,
    steps: Vec<Value>,
}

/// Where a case is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CaseKind {
    /// Before a gateway.
    Gateway,
    /// Inside a mesh.
    Mesh,
}

/// What a profile makes of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Everybody must pass it.
    Core,
    /// Whoever serves the feature must pass it.
    Extended,
}

/// Where a case can be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Runs {
    /// From files.
    Standalone,
    /// Only against an API server.
    NeedsApiserver,
}

/// A step with what stands around it.
#[derive(Debug)]
pub(crate) struct NumberedStep {
    /// Place in the case, from 1.
    pub number: usize,
    /// Key of the step, such as `http`.
    pub kind: String,
    /// Only meaningful against an API server.
    pub only_apiserver: bool,
    /// What to do.
    pub step: Step,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Step {
    Ready(Ready),
    WaitAddress(WaitAddress),
    RoutesAccepted(RoutesAccepted),
    GatewayStatus(GatewayStatus),
    RouteStatus(RouteStatus),
    PolicyStatus(PolicyStatus),
    GatewayclassStatus(GatewayclassStatus),
    Generation(Generation),
    Apply(Apply),
    Patch(Patch),
    Delete(Delete),
    Endpoints(Endpoints),
    Sleep(Sleep),
    Http(Http),
    Grpc(Grpc),
    Websocket(Websocket),
    Tcp(Tcp),
    TcpSamples(TcpSamples),
    PodMatchesHeader(PodMatchesHeader),
    Distribution(Distribution),
    MirrorDistribution(MirrorDistribution),
    MeshHttp(MeshCalls),
    MeshGrpc(MeshCalls),
    MeshDistribution(MeshDistribution),
}

impl Case {
    /// The steps, read strictly.
    ///
    /// # Errors
    /// A sentence: a kind of step that this runner does not have, or a field of a step that it does not know.
    pub(crate) fn steps(&self) -> Result<Vec<NumberedStep>, String> {
        let read = |(at, value): (usize, &Value)| {
            let object = value.as_object().ok_or_else(|| format!("step {} is not a map", at + 1))?;
            read_step(at + 1, object.clone())
        };
        self.steps.iter().enumerate().map(read).collect()
    }
}

fn read_step(number: usize, mut object: Map<String, Value>) -> Result<NumberedStep, String> {
    object.remove("note");
    let only_apiserver = match object.remove("only") {
        None => false,
        Some(Value::String(only)) if only == "apiserver" => true,
        Some(other) => return Err(format!("step {number}: unknown `only: {other}`")),
    };
    let mut parts = object.into_iter();
    let (Some((kind, value)), None) = (parts.next(), parts.next()) else {
        return Err(format!("step {number} has not exactly one key"));
    };
    let step = match kind.as_str() {
        "ready" => serde_json::from_value(value).map(Step::Ready),
        "wait_address" => serde_json::from_value(value).map(Step::WaitAddress),
        "routes_accepted" => serde_json::from_value(value).map(Step::RoutesAccepted),
        "gateway_status" => serde_json::from_value(value).map(Step::GatewayStatus),
        "route_status" => serde_json::from_value(value).map(Step::RouteStatus),
        "policy_status" => serde_json::from_value(value).map(Step::PolicyStatus),
        "gatewayclass_status" => serde_json::from_value(value).map(Step::GatewayclassStatus),
        "generation" => serde_json::from_value(value).map(Step::Generation),
        "apply" => serde_json::from_value(value).map(Step::Apply),
        "patch" => serde_json::from_value(value).map(Step::Patch),
        "delete" => serde_json::from_value(value).map(Step::Delete),
        "endpoints" => serde_json::from_value(value).map(Step::Endpoints),
        "sleep" => serde_json::from_value(value).map(Step::Sleep),
        "http" => serde_json::from_value(value).map(Step::Http),
        "grpc" => serde_json::from_value(value).map(Step::Grpc),
        "websocket" => serde_json::from_value(value).map(Step::Websocket),
        "tcp" => serde_json::from_value(value).map(Step::Tcp),
        "tcp_samples" => serde_json::from_value(value).map(Step::TcpSamples),
        "pod_matches_header" => serde_json::from_value(value).map(Step::PodMatchesHeader),
        "distribution" => serde_json::from_value(value).map(Step::Distribution),
        "mirror_distribution" => serde_json::from_value(value).map(Step::MirrorDistribution),
        "mesh_http" => serde_json::from_value(value).map(Step::MeshHttp),
        "mesh_grpc" => serde_json::from_value(value).map(Step::MeshGrpc),
        "mesh_distribution" => serde_json::from_value(value).map(Step::MeshDistribution),
        other => return Err(format!("this runner has no step `{other}`")),
    };
    let step = step.map_err(|why| format!("step {number} ({kind}): {why}"))?;
    Ok(NumberedStep { number, kind, only_apiserver, step })
}

mod changes;
mod mesh;
mod status;
mod traffic;

pub(crate) use changes::*;
pub(crate) use mesh::*;
pub(crate) use status::*;
pub(crate) use traffic::*;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<NumberedStep, String> {
        read_step(1, value.as_object().expect("a map").clone())
    }

    #[test]
    fn what_is_not_known_is_said_and_never_passed_over() {
        let unknown_kind = read(json!({"udp": {}})).expect_err("no such step");
        assert_eq!(unknown_kind, "this runner has no step `udp`");
        let unknown_field = read(json!({"ready": {"namespaces": [], "also": 1}})).expect_err("no such field");
        assert!(unknown_field.contains("also"), "{unknown_field}");
        let known = read(json!({"ready": {"namespaces": ["a"]}, "only": "apiserver"})).expect("known");
        assert!(known.only_apiserver);
    }
}
