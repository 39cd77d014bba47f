//! Our own policies and their targets: which exist, who comes first on each, and the envelope of their status.
//!
//! Called last, when it is known which Gateways use what (GEP-713). The specs are not opened here: merging along the
//! hierarchy, and the verdicts `Invalid` and `Overridden`, are the engine's, which adds them to the status.

use std::collections::HashMap;
use std::sync::Arc;

use super::Extent;
use super::backend_tls::{MOST_ANCESTORS, gateway_ref, target_ref};
use super::findings::{Findings, Objection};
use super::gateways::GatewayDraft;
use super::routes::Uses;
use crate::kinds::{Object, PolicyTargetReference};
use crate::policy::{Merge, Policy, Target};
use crate::references::BackendKey;
use crate::schema::Text;
use crate::status::{
    AncestorStatus, Condition, Conditions, ObjectStatus, PolicyStatus, Status, StatusBody, StatusRef, Truth,
};
use crate::suggest;
use crate::world::World;

/// A policy on one of its targets.
#[derive(Debug, Clone)]
pub struct PolicyAttachment {
    /// The policy.
    pub policy: Arc<Policy>,
    /// What it is attached to.
    pub target: PolicyTarget,
}

/// Something that policies can be attached to, and that exists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyTarget {
    /// A Gateway.
    Gateway {
        /// Its namespace.
        namespace: Text,
        /// Its name.
        name: Text,
    },
    /// A listener.
    Listener {
        /// The namespace of its Gateway.
        namespace: Text,
        /// The name of its Gateway.
        gateway: Text,
        /// Its own name.
        name: Text,
    },
    /// A route.
    Route {
        /// `HTTPRoute`, `GRPCRoute` or `TCPRoute`.
        kind: &'static str,
        /// Its namespace.
        namespace: Text,
        /// Its name.
        name: Text,
    },
    /// A rule of a route.
    Rule {
        /// `HTTPRoute`, `GRPCRoute` or `TCPRoute`.
        kind: &'static str,
        /// The namespace of the route.
        namespace: Text,
        /// The name of the route.
        route: Text,
        /// The name of the rule.
        name: Text,
    },
    /// A Service, or one of its ports.
    Service {
        /// Its namespace.
        namespace: Text,
        /// Its name.
        name: Text,
        /// The name of the port, for one of them.
        port: Option<Text>,
    },
    /// A `Backend`.
    Backend {
        /// Its namespace.
        namespace: Text,
        /// Its name.
        name: Text,
    },
    /// A Namespace: every Service in it.
    Namespace {
        /// Its name.
        name: Text,
    },
}

/// Attaches every policy to the targets that exist and writes its status.
pub(super) fn attach_all(
    (world, extent): (&World, Extent),
    drafts: &[GatewayDraft],
    uses: &Uses<'_>,
    status: &mut Status,
    findings: &mut Findings,
) -> Vec<PolicyAttachment> {
    let mut attachments: Vec<PolicyAttachment> = Vec::new();
    let mut taken: HashMap<(&'static str, PolicyTarget), &Policy> = HashMap::new();
    for policy in world.policies() {
        let mut refused = Vec::new();
        let mut ancestors = Vec::new();
        let mut elsewhere = 0;
        for (index, reference) in policy.target_refs.iter().enumerate() {
            let refusal = match find_target(world, policy, reference) {
                Err(_) if is_elsewhere(extent, reference) && !is_here(world, policy, reference) => {
                    elsewhere += 1;
                    None
                }
                Err(refusal) => Some(refusal),
                Ok(target) => {
                    let owner = *taken.entry((policy.kind, target.clone())).or_insert(policy);
                    let lost = policy.merge == Merge::None && !std::ptr::eq(owner, &**policy);
                    ancestors.extend(find_ancestors(drafts, uses, policy, reference));
                    if !lost {
                        attachments.push(PolicyAttachment { policy: policy.clone(), target });
                    }
                    lost.then(|| lost_to(owner, reference))
                }
            };
            if let Some(objection) = refusal {
                let field = format!("spec.targetRefs[{index}]");
                findings.object(&policy.meta, reference.at, field, &objection);
                refused.push(objection);
            }
        }
        if elsewhere > 0 && elsewhere == policy.target_refs.len() {
            continue;
        }
        if ancestors.is_empty() {
            ancestors = policy.target_refs.iter().map(target_ref).collect();
        }
        write_status(policy, ancestors, accept(policy, &refused), lacks(policy, &refused), status);
    }
    // Policies come oldest first, and a stable sort keeps that order on each target.
    attachments.sort_by(|a, b| (a.policy.kind, &a.target).cmp(&(b.policy.kind, &b.target)));
    attachments
}

fn accept(policy: &Policy, refused: &[Objection]) -> Condition {
    let messages: Vec<_> = refused.iter().map(Objection::to_string).collect();
    let messages = messages.join(" ");
    match refused.first() {
        None => Condition::new("Accepted", Truth::True, "Accepted", "The policy is attached."),
        Some(first) if refused.len() == policy.target_refs.len() => {
            Condition::new("Accepted", Truth::False, first.reason, messages)
        }
        Some(_) => {
            let message = format!("The policy is attached to some of its targets. {messages}");
            Condition::new("Accepted", Truth::True, "Accepted", message)
        }
    }
}

/// That a policy is in force on some of its targets only.
fn lacks(policy: &Policy, refused: &[Objection]) -> Option<Condition> {
    let first = refused.first().filter(|_| refused.len() < policy.target_refs.len())?;
    let messages: Vec<_> = refused.iter().map(Objection::to_string).collect();
    Some(Condition::new("ResolvedRefs", Truth::False, first.reason, messages.join(" ")))
}

fn write_status(
    policy: &Policy,
    mut ancestors: Vec<StatusRef>,
    accepted: Condition,
    lacks: Option<Condition>,
    status: &mut Status,
) {
    let mut seen: Vec<StatusRef> = Vec::new();
    ancestors.retain(|ancestor| {
        let new = !seen.contains(ancestor);
        if new {
            seen.push(ancestor.clone());
        }
        new
    });
    ancestors.truncate(MOST_ANCESTORS);
    let generation = policy.meta.generation;
    let entries = ancestors.into_iter().map(|ancestor_ref| {
        let mut conditions = Conditions::new(generation);
        conditions.set(accepted.clone());
        lacks.iter().for_each(|lacks| conditions.set(lacks.clone()));
        AncestorStatus { ancestor_ref, conditions }
    });
    status.insert(
        policy.meta.object_name(),
        ObjectStatus {
            api_version: "transept.dev/v1alpha1".into(),
            generation,
            body: StatusBody::Policy(PolicyStatus { ancestors: entries.collect() }),
        },
    );
}

fn lost_to(owner: &Policy, reference: &PolicyTargetReference) -> Objection {
    let why = format!(
        "the {} {} comes first and targets the same {} {}",
        owner.kind, owner.meta.name, reference.kind, reference.name
    );
    Objection::new("Conflicted", why, "remove one of them: the kind allows one policy a target")
}

/// The names of the objects of a kind in a namespace that a policy can be attached to.
fn names_of<'w>(world: &'w World, kind: &str, namespace: &str) -> Vec<&'w str> {
    fn of<'w, S>(objects: &'w [Arc<Object<S>>], namespace: &str) -> Vec<&'w str> {
        objects.iter().filter(|one| &*one.meta.namespace == namespace).map(|one| &*one.meta.name).collect()
    }
    match kind {
        "Gateway" => of(world.gateways(), namespace),
        "HTTPRoute" => of(world.http_routes(), namespace),
        "GRPCRoute" => of(world.grpc_routes(), namespace),
        "TCPRoute" => of(world.tcp_routes(), namespace),
        "Service" => of(world.services(), namespace),
        "Backend" => of(world.backends(), namespace),
        _ => Vec::new(),
    }
}

/// Whether the object that a reference names is in the world, whatever part of it is meant.
fn is_here(world: &World, policy: &Policy, reference: &PolicyTargetReference) -> bool {
    names_of(world, reference.kind.as_str(), &policy.meta.namespace).contains(&&*reference.name)
}

/// Whether what a policy names may be somewhere else.
fn is_elsewhere(extent: Extent, reference: &PolicyTargetReference) -> bool {
    match extent {
        Extent::Whole => false,
        Extent::OneGateway => matches!(&*reference.kind, "Gateway" | "HTTPRoute" | "GRPCRoute" | "TCPRoute"),
        Extent::Part => true,
    }
}

/// The names of the parts of an object that a policy may be attached to.
fn parts_of<'w>(world: &'w World, kind: &str, namespace: &str, name: &str) -> Vec<&'w str> {
    fn of<'w>(names: impl Iterator<Item = Option<&'w Text>>) -> Vec<&'w str> {
        names.flatten().map(|name| &**name).collect()
    }
    let parts = match kind {
        "Gateway" => {
            world.gateway(namespace, name).map(|one| of(one.spec.listeners.iter().map(|part| Some(&part.name))))
        }
        "HTTPRoute" => {
            world.http_route(namespace, name).map(|one| of(one.spec.rules.iter().map(|part| part.name.as_ref())))
        }
        "GRPCRoute" => {
            world.grpc_route(namespace, name).map(|one| of(one.spec.rules.iter().map(|part| part.name.as_ref())))
        }
        "TCPRoute" => {
            world.tcp_route(namespace, name).map(|one| of(one.spec.rules.iter().map(|part| part.name.as_ref())))
        }
        "Service" => world.service(namespace, name).map(|one| of(one.spec.ports.iter().map(|part| part.name.as_ref()))),
        _ => None,
    };
    parts.unwrap_or_default()
}

fn find_target(world: &World, policy: &Policy, reference: &PolicyTargetReference) -> Result<PolicyTarget, Objection> {
    let namespace = policy.meta.namespace.clone();
    let name = reference.name.clone();
    let (kind, section) = (reference.kind.as_str(), reference.section_name.clone());
    let missing = || {
        if Target::of(reference) == Some(Target::Namespace) {
            let why = format!("Namespace {name} is not the one that this {} is in, which is {namespace}", policy.kind);
            let remedy = "a policy reaches only its own namespace: correct the name, or move the policy";
            return Objection::new("TargetNotFound", why, remedy);
        }
        let mut why = match &reference.section_name {
            Some(section) => {
                format!("there is no {kind} {namespace}/{name} with a part named {section}")
            }
            None => format!("there is no {kind} {namespace}/{name}"),
        };
        if let Some(meant) = suggest::nearest(&name, names_of(world, kind, &namespace)).filter(|meant| *meant != &*name)
        {
            // What a policy should have guarded is open until somebody sees this.
            why.push_str(&format!("; {kind} {namespace}/{meant}, which may be meant, is without this {}", policy.kind));
        }
        if let Some(section) = &reference.section_name
            && is_here(world, policy, reference)
        {
            let parts = parts_of(world, kind, &namespace, &name);
            let left_out = match suggest::nearest(section, parts.iter().copied()) {
                Some(meant) => format!("; its part {meant}, which may be meant, is without this {}", policy.kind),
                None if parts.is_empty() => {
                    format!("; the whole of it is without this {} (none of its parts has a name)", policy.kind)
                }
                None => format!("; the whole of it is without this {} (its parts: {})", policy.kind, some(&parts)),
            };
            why.push_str(&left_out);
        }
        let remedy = "add it, or correct the name; a policy reaches only its own namespace";
        Objection::new("TargetNotFound", why, remedy)
    };
    let found = match Target::of(reference) {
        Some(Target::Gateway | Target::Listener) => {
            world.gateway(&namespace, &name).and_then(|gateway| match section {
                None => Some(PolicyTarget::Gateway { namespace: namespace.clone(), name: name.clone() }),
                Some(section) => {
                    let listeners = &gateway.spec.listeners;
                    let there = listeners.iter().any(|l| l.name == *section);
                    there.then(|| PolicyTarget::Listener {
                        namespace: namespace.clone(),
                        gateway: name.clone(),
                        name: section,
                    })
                }
            })
        }
        Some(Target::Route | Target::Rule | Target::TcpRoute) => find_route(world, &namespace, reference),
        Some(Target::Service) => world.service(&namespace, &name).and_then(|service| {
            let ports = &service.spec.ports;
            let there = section.as_ref().is_none_or(|s| ports.iter().any(|p| p.name.as_ref() == Some(s)));
            there.then(|| PolicyTarget::Service { namespace: namespace.clone(), name: name.clone(), port: section })
        }),
        Some(Target::Backend) => world
            .backend(&namespace, &name)
            .map(|_| PolicyTarget::Backend { namespace: namespace.clone(), name: name.clone() }),
        // It is there: the policy is in it.
        Some(Target::Namespace) => (name == namespace).then(|| PolicyTarget::Namespace { name: name.clone() }),
        Some(Target::Workload) | None => None,
    };
    found.ok_or_else(missing)
}

/// The first few of some names.
fn some(names: &[&str]) -> String {
    let more = if names.len() > 8 { ", ..." } else { "" };
    format!("{}{more}", names.iter().take(8).copied().collect::<Vec<_>>().join(", "))
}

fn find_route(world: &World, namespace: &Text, reference: &PolicyTargetReference) -> Option<PolicyTarget> {
    let name = &reference.name;
    let kind = route_kind(reference);
    let rules: Vec<Option<&Text>> = match kind {
        "GRPCRoute" => world.grpc_route(namespace, name)?.spec.rules.iter().map(|rule| rule.name.as_ref()).collect(),
        "TCPRoute" => world.tcp_route(namespace, name)?.spec.rules.iter().map(|rule| rule.name.as_ref()).collect(),
        _ => world.http_route(namespace, name)?.spec.rules.iter().map(|rule| rule.name.as_ref()).collect(),
    };
    match &reference.section_name {
        None => Some(PolicyTarget::Route { kind, namespace: namespace.clone(), name: name.clone() }),
        Some(section) => rules.contains(&Some(section)).then(|| PolicyTarget::Rule {
            kind,
            namespace: namespace.clone(),
            route: name.clone(),
            name: section.clone(),
        }),
    }
}

/// The kind of the route that a reference means, as a word that lives for ever.
fn route_kind(reference: &PolicyTargetReference) -> &'static str {
    match reference.kind.as_str() {
        "GRPCRoute" => "GRPCRoute",
        "TCPRoute" => "TCPRoute",
        _ => "HTTPRoute",
    }
}

/// The Gateways that a policy has an effect on through this target.
fn find_ancestors(
    drafts: &[GatewayDraft],
    uses: &Uses<'_>,
    policy: &Policy,
    reference: &PolicyTargetReference,
) -> Vec<StatusRef> {
    let namespace = &policy.meta.namespace;
    let users = match Target::of(reference) {
        Some(Target::Gateway | Target::Listener) => {
            let is_it = |draft: &&GatewayDraft| {
                let meta = &draft.gateway.meta;
                meta.namespace == *namespace && meta.name == reference.name
            };
            return drafts.iter().filter(is_it).map(gateway_ref).collect();
        }
        Some(Target::Route | Target::Rule) => {
            let key = (route_kind(reference), namespace.clone(), reference.name.clone());
            uses.routes.get(&key)
        }
        _ => BackendKey::new(&reference.group, &reference.kind, namespace, &reference.name)
            .and_then(|key| uses.backends.get(&key)),
    };
    let users = users.into_iter().flatten();
    users.map(|&user| gateway_ref(&drafts[user])).collect()
}
