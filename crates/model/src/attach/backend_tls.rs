//! The status of BackendTLSPolicies: one entry per Gateway whose requests they concern.
//!
//! Called after the routes, which tell who uses which backend. Which policy rules and whether its certificates can be used was found
//! out by `references`; here it becomes conditions. A policy that no Gateway uses answers for its targets instead.

use super::Extent;
use super::findings::{Findings, Objection};
use super::gateways::GatewayDraft;
use super::routes::Uses;
use crate::kinds::{GATEWAY_GROUP, PolicyTargetReference};
use crate::references::{References, TlsPolicy, is_target};
use crate::status::{
    AncestorStatus, Condition, Conditions, ObjectStatus, PolicyStatus, Status, StatusBody, StatusRef, Truth,
};
use crate::world::World;

/// The most entries that `status.ancestors` may have (the CRD's limit).
pub(super) const MOST_ANCESTORS: usize = 16;

/// The reason when a target does not exist.
const NOT_FOUND: &str = "TargetNotFound";

/// Writes the status of every BackendTLSPolicy, and reports what is wrong with the TLS of `Backend`s.
pub(super) fn judge(
    (world, extent): (&World, Extent),
    references: &References<'_>,
    drafts: &[GatewayDraft],
    uses: &Uses<'_>,
    status: &mut Status,
    findings: &mut Findings,
) {
    let mut gateways: Vec<Vec<usize>> = vec![Vec::new(); references.tls_policies().len()];
    for &(gateway, policy) in &uses.tls_policies {
        if let Some(users) = gateways.get_mut(policy) {
            users.push(gateway);
        }
    }
    for (policy, users) in references.tls_policies().iter().zip(gateways) {
        let verdict = judge_one((world, extent), references, policy, findings);
        let meta = &policy.policy.meta;
        let mut ancestors: Vec<StatusRef> = users.iter().map(|&user| gateway_ref(&drafts[user])).collect();
        if ancestors.is_empty() {
            let targets = policy.policy.spec.target_refs.iter();
            ancestors = targets.map(target_ref).collect();
        }
        ancestors.truncate(MOST_ANCESTORS);
        let entries = ancestors.into_iter().map(|ancestor_ref| {
            let mut conditions = Conditions::new(meta.generation);
            for condition in &verdict {
                conditions.set(condition.clone());
            }
            AncestorStatus { ancestor_ref, conditions }
        });
        status.insert(
            meta.object_name(),
            ObjectStatus {
                api_version: "gateway.networking.k8s.io/v1".into(),
                generation: meta.generation,
                body: StatusBody::Policy(PolicyStatus { ancestors: entries.collect() }),
            },
        );
    }
    for backend in world.backends() {
        if let Some(Err(problem)) = references.own_tls(backend) {
            let spot = backend.spec.tls.as_ref().map(|tls| tls.at);
            findings.add(&backend.meta, spot.unwrap_or_default(), "spec.tls", problem.why, problem.remedy);
        }
    }
}

/// A Gateway as the ancestor of a policy.
pub(super) fn gateway_ref(draft: &GatewayDraft) -> StatusRef {
    let meta = &draft.gateway.meta;
    StatusRef {
        group: GATEWAY_GROUP.into(),
        kind: "Gateway".into(),
        namespace: Some(meta.namespace.clone()),
        name: meta.name.clone(),
        section_name: None,
        port: None,
    }
}

/// A target as the ancestor of a policy that reaches no Gateway.
pub(super) fn target_ref(target: &PolicyTargetReference) -> StatusRef {
    StatusRef {
        group: target.group.clone(),
        kind: target.kind.clone(),
        namespace: None,
        name: target.name.clone(),
        section_name: target.section_name.clone(),
        port: None,
    }
}

/// The conditions of a policy, the same for every ancestor.
fn judge_one(
    (world, extent): (&World, Extent),
    references: &References<'_>,
    policy: &TlsPolicy<'_>,
    findings: &mut Findings,
) -> [Condition; 2] {
    let meta = &policy.policy.meta;
    for broken in &policy.broken {
        findings.add(
            meta,
            broken.at,
            format!("spec.validation.caCertificateRefs[{}]", broken.index),
            broken.problem.why.as_str(),
            broken.problem.remedy.as_str(),
        );
    }
    let resolved = match policy.broken.first() {
        None => Condition::new("ResolvedRefs", Truth::True, "ResolvedRefs", "Everything it refers to is there."),
        Some(broken) => {
            Condition::new("ResolvedRefs", Truth::False, broken.problem.reason.as_str(), broken.problem.to_string())
        }
    };
    let mut refused = Vec::new();
    let targets = &policy.policy.spec.target_refs;
    for (index, target) in targets.iter().enumerate() {
        let lost_to = policy.lost_to.get(index).copied().flatten();
        let winner = lost_to.and_then(|winner| references.tls_policies().get(winner));
        let Some(objection) = refuse_target(world, policy, target, winner) else {
            continue;
        };
        if extent == Extent::Part && objection.reason == NOT_FOUND && !is_there(world, policy, target) {
            continue;
        }
        let field = format!("spec.targetRefs[{index}]");
        findings.object(meta, target.at, field, &objection);
        refused.push(objection);
    }
    let accepted = match (&policy.tls, refused.first()) {
        // One target that is there keeps the policy alive; the others are told in the message.
        (_, Some(first)) if refused.len() == targets.len() => {
            let messages: Vec<_> = refused.iter().map(Objection::to_string).collect();
            Condition::new("Accepted", Truth::False, first.reason, messages.join(" "))
        }
        (Err(problem), _) => Condition::new("Accepted", Truth::False, problem.reason.as_str(), problem.to_string()),
        (Ok(_), Some(first)) => {
            let message = format!("The policy holds for some of its targets. {first}");
            Condition::new("Accepted", Truth::True, "Accepted", message)
        }
        (Ok(_), None) => {
            let message = "The policy is in force.";
            Condition::new("Accepted", Truth::True, "Accepted", message)
        }
    };
    [accepted, resolved]
}

/// Whether the object that a policy targets is in the world, with or without the port that is meant.
fn is_there(world: &World, policy: &TlsPolicy<'_>, target: &PolicyTargetReference) -> bool {
    let (namespace, name) = (&policy.policy.meta.namespace, &target.name);
    world.backend(namespace, name).is_some() || world.service(namespace, name).is_some()
}

fn refuse_target(
    world: &World,
    policy: &TlsPolicy<'_>,
    target: &PolicyTargetReference,
    winner: Option<&TlsPolicy<'_>>,
) -> Option<Objection> {
    let namespace = &policy.policy.meta.namespace;
    let (kind, name) = (&target.kind, &target.name);
    if !is_target(&target.group, kind) {
        let why = format!("a BackendTLSPolicy cannot target a {kind}");
        return Some(Objection::new("Invalid", why, "target a Service or a Backend"));
    }
    if let Some(winner) = winner {
        let older = &winner.policy.meta.name;
        let why = format!("the policy {older} comes first and targets the same {kind} {name}");
        let remedy = "remove one of them, or name different ports";
        return Some(Objection::new("Conflicted", why, remedy));
    }
    let found = match kind.as_str() {
        "Backend" => world.backend(namespace, name).is_some(),
        _ => world.service(namespace, name).is_some_and(|service| {
            let section = target.section_name.as_deref();
            let ports = &service.spec.ports;
            section.is_none_or(|s| ports.iter().any(|p| p.name.as_deref() == Some(s)))
        }),
    };
    if found {
        return None;
    }
    let section = target.section_name.as_deref();
    let why = match section {
        Some(section) => {
            format!("there is no {kind} {namespace}/{name} with a port named {section}")
        }
        None => format!("there is no {kind} {namespace}/{name}"),
    };
    Some(Objection::new(NOT_FOUND, why, "add it, or correct the name"))
}
