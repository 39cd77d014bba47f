//! Which kind a document is: one that is served, one that is left alone, or a mistake.
//!
//! Called once a document by the loader.

use crate::kinds::{GATEWAY_GROUP, Kind, TRANSEPT_GROUP};
use crate::place::{Invalid, Place};
use crate::policy::PolicyKind;
use crate::suggest;

/// What a document is.
pub(super) enum Recognised<'k> {
    /// One of our kinds, by name.
    Served(&'static str),
    /// A policy.
    Policy(&'k PolicyKind),
    /// Something that is not for us; why, in words.
    Skipped(String),
    /// A mistake: in which field, why, and the remedy.
    Wrong(&'static str, String, Option<String>),
}

/// Kinds of Gateway API that this version does not serve.
const NOT_SERVED: &[&str] = &["TLSRoute", "UDPRoute", "ListenerSet"];

/// Kinds of the core group that files for Kubernetes hold and that mean nothing here.
const CORE: &[&str] = &[
    "Binding",
    "Endpoints",
    "Event",
    "LimitRange",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "ServiceAccount",
];

/// The kinds that are served, with their group and versions.
pub(super) const SERVED: &[(&str, &str, &[&str])] = &{
    use crate::kinds as k;
    const fn row<K: Kind>() -> (&'static str, &'static str, &'static [&'static str]) {
        (K::KIND, K::GROUP, K::VERSIONS)
    }
    [
        row::<k::NamespaceBody>(),
        row::<k::ServiceSpec>(),
        row::<k::EndpointSliceBody>(),
        row::<k::SecretBody>(),
        row::<k::ConfigMapBody>(),
        row::<k::GatewayClassSpec>(),
        row::<k::GatewaySpec>(),
        row::<k::HttpRouteSpec>(),
        row::<k::GrpcRouteSpec>(),
        row::<k::TcpRouteSpec>(),
        row::<k::ReferenceGrantSpec>(),
        row::<k::BackendTlsPolicySpec>(),
        row::<k::BackendSpec>(),
        row::<k::WorkloadSpec>(),
        row::<k::ConsumerSpec>(),
        row::<k::ApiKeySpec>(),
    ]
};

/// The version of every policy.
pub(super) const POLICY_VERSION: &str = "v1alpha1";

pub(super) fn recognise<'k>(api_version: &str, kind: &str, policies: &'k [PolicyKind]) -> Recognised<'k> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let ours = group == GATEWAY_GROUP || group == TRANSEPT_GROUP || group == "discovery.k8s.io";
    if let Some((name, home, versions)) = SERVED.iter().find(|(name, ..)| *name == kind) {
        if *home == group {
            return match versions.contains(&version) {
                true => Recognised::Served(name),
                false => wrong_version(kind, group, version, versions),
            };
        }
        // The same word may mean something else in a group of somebody else.
        if ours || group.is_empty() || suggest::nearest(group, [*home]).is_some() {
            let right = full(home, versions.first().copied().unwrap_or_default());
            return Recognised::Wrong(
                "apiVersion",
                format!("{kind} is not in `{api_version}`"),
                Some(format!("write `apiVersion: {right}`")),
            );
        }
    }
    if group == TRANSEPT_GROUP
        && let Some(policy) = policies.iter().find(|policy| policy.kind == kind)
    {
        return match version == POLICY_VERSION {
            true => Recognised::Policy(policy),
            false => wrong_version(kind, group, version, &[POLICY_VERSION]),
        };
    }
    if group == GATEWAY_GROUP && NOT_SERVED.contains(&kind) {
        return Recognised::Skipped(format!("{kind} is not served by this version"));
    }
    if ours || (group.is_empty() && !CORE.contains(&kind)) {
        return unknown(group, kind, policies);
    }
    if group == "gateway.networking.x-k8s.io" {
        return Recognised::Skipped(format!("{kind} is not served by this version"));
    }
    Recognised::Skipped(format!("{kind} of `{api_version}` means nothing here"))
}

fn unknown<'k>(group: &str, kind: &str, policies: &[PolicyKind]) -> Recognised<'k> {
    let mut known: Vec<&str> = SERVED.iter().filter(|(_, home, _)| *home == group).map(|(name, ..)| *name).collect();
    if group == TRANSEPT_GROUP {
        known.extend(policies.iter().map(|policy| policy.kind));
    }
    if group == GATEWAY_GROUP {
        known.extend(NOT_SERVED);
    }
    let shown: String = kind.chars().take(60).filter(|c| !c.is_control()).collect();
    Recognised::Wrong("kind", format!("there is no kind `{shown}` here"), suggest::remedy(kind, &known))
}

fn wrong_version<'k>(kind: &str, group: &str, version: &str, versions: &[&str]) -> Recognised<'k> {
    let shown: String = version.chars().take(60).collect();
    let right: Vec<String> = versions.iter().map(|one| full(group, one)).collect();
    Recognised::Wrong(
        "apiVersion",
        format!("there is no {kind} of version `{shown}`"),
        Some(format!("write `apiVersion: {}`", right.join("` or `"))),
    )
}

fn full(group: &str, version: &str) -> String {
    match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

/// The finding for a document that is a mistake.
pub(super) fn wrong(at: Place, field: &str, why: String, remedy: Option<String>) -> Invalid {
    let mut invalid = Invalid::new(at, why);
    invalid.field = field.to_owned();
    invalid.remedy = remedy;
    invalid
}
