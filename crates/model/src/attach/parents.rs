//! One route and one Gateway that it names as parent: which listeners it attaches to, or why to none.
//!
//! Called by `routes` for each parentRef, oldest route first. The questions are asked in the order of Gateway API's reasons: is there
//! such a listener, does it allow the route, do the host names meet, does an older route of the other kind have them.

use super::gateways::GatewayDraft;
use super::listeners::ListenerDraft;
use super::{AttachedRoute, RouteRef};
use crate::hostname::Hostname;
use crate::kinds::ParentReference;
use crate::world::World;

/// A route that looks for listeners.
pub(super) struct Candidate<'a> {
    pub(super) route: &'a RouteRef,
    pub(super) hostnames: &'a [Hostname],
    pub(super) order: u32,
}

/// Why a parent does not take a route: the reason of the condition, the clause, the remedy, and the field it is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: &'static str,
    pub(super) why: String,
    pub(super) remedy: String,
    pub(super) about: About,
}

/// What a refusal points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Parent,
    Hostnames,
}

impl Refusal {
    pub(super) fn new(reason: &'static str, about: About, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason, why: why.into(), remedy: remedy.into(), about }
    }
}

/// Attaches `candidate` to the listeners of `draft` that `parent` means; gives their names.
pub(super) fn attach_to(
    draft: &mut GatewayDraft,
    parent: &ParentReference,
    candidate: &Candidate<'_>,
    world: &World,
) -> Result<Vec<String>, Refusal> {
    let gateway = draft.gateway.meta.namespace.clone();
    let meant = find_listeners(draft, parent);
    if meant.is_empty() {
        return Err(no_listener(draft, parent));
    }
    let namespace = &candidate.route.meta().namespace;
    let kind = candidate.route.kind();
    let allowed: Vec<usize> = meant
        .iter()
        .copied()
        .filter(|&index| {
            let listener = &draft.listeners[index];
            listener.kinds.allow(kind) && listener.allows_namespace(&gateway, namespace, world)
        })
        .collect();
    if allowed.is_empty() {
        return Err(not_allowed(draft, &meant, candidate));
    }
    let meeting: Vec<(usize, Vec<Hostname>)> = allowed
        .iter()
        .filter_map(|&index| {
            let names = intersect(draft.listeners[index].hostname.as_ref(), candidate.hostnames)?;
            Some((index, names))
        })
        .collect();
    if meeting.is_empty() {
        return Err(no_hostname(draft, &allowed, candidate));
    }
    let mut attached = Vec::new();
    for (index, names) in meeting {
        let listener = &mut draft.listeners[index];
        if hang_on(listener, candidate, names) {
            attached.push(listener.name.clone());
        }
    }
    if attached.is_empty() {
        let other = if kind == "HTTPRoute" { "GRPCRoute" } else { "HTTPRoute" };
        return Err(Refusal::new(
            "HostnameConflict",
            About::Hostnames,
            format!("an older {other} has the same host names on the same listener"),
            format!("give the {kind} host names of its own: one name cannot be served by both kinds"),
        ));
    }
    Ok(attached)
}

fn find_listeners(draft: &GatewayDraft, parent: &ParentReference) -> Vec<usize> {
    let fits = |listener: &ListenerDraft| {
        let section = parent.section_name.as_deref();
        section.is_none_or(|section| section == listener.name) && parent.port.is_none_or(|port| port == listener.port)
    };
    (0..draft.listeners.len()).filter(|&index| fits(&draft.listeners[index])).collect()
}

/// The route on one listener, unless a route of the other kind was there before with the same names.
fn hang_on(listener: &mut ListenerDraft, candidate: &Candidate<'_>, names: Vec<Hostname>) -> bool {
    let already = |route: &AttachedRoute| route.order == candidate.order;
    if listener.routes.last().is_some_and(already) {
        return true;
    }
    let names_of_both = match candidate.route {
        RouteRef::Http(_) => Some((&mut listener.http_names, &listener.grpc_names)),
        RouteRef::Grpc(_) => Some((&mut listener.grpc_names, &listener.http_names)),
        RouteRef::Tcp(_) => None,
    };
    if let Some((own, other)) = names_of_both {
        if other.meet(&names) {
            return false;
        }
        own.add(&names);
    }
    listener.routes.push(AttachedRoute { route: candidate.route.clone(), hostnames: names, order: candidate.order });
    true
}

/// The names that a listener and a route have in common; nothing when there are none.
fn intersect(listener: Option<&Hostname>, route: &[Hostname]) -> Option<Vec<Hostname>> {
    let Some(listener) = listener else {
        return Some(route.to_vec());
    };
    if route.is_empty() {
        return Some(vec![listener.clone()]);
    }
    let mut names: Vec<Hostname> = Vec::new();
    for name in route {
        if let Some(common) = listener.intersection(name)
            && !names.contains(&common)
        {
            names.push(common);
        }
    }
    (!names.is_empty()).then_some(names)
}

fn label(draft: &GatewayDraft) -> String {
    let meta = &draft.gateway.meta;
    format!("{}/{}", meta.namespace, meta.name)
}

fn no_listener(draft: &GatewayDraft, parent: &ParentReference) -> Refusal {
    let wanted = match (&parent.section_name, parent.port) {
        (Some(name), Some(port)) => format!("named {name} on port {port}"),
        (Some(name), None) => format!("named {name}"),
        (None, Some(port)) => format!("on port {port}"),
        (None, None) => "at all".to_owned(),
    };
    let known: Vec<_> = draft.listeners.iter().take(8).map(|l| format!("{} ({})", l.name, l.port)).collect();
    Refusal::new(
        "NoMatchingParent",
        About::Parent,
        format!("the Gateway {} has no listener {wanted}", label(draft)),
        format!("it has: {}", known.join(", ")),
    )
}

fn not_allowed(draft: &GatewayDraft, meant: &[usize], candidate: &Candidate<'_>) -> Refusal {
    let kind = candidate.route.kind();
    let takes_kind = meant.iter().any(|&i| draft.listeners[i].kinds.allow(kind));
    let (why, remedy) = if takes_kind {
        let namespace = &candidate.route.meta().namespace;
        (
            format!("the Gateway {} takes no routes from namespace {namespace} there", label(draft)),
            "open its listener with `allowedRoutes.namespaces`, or move the route".to_owned(),
        )
    } else {
        let protocol = if kind == "TCPRoute" { "TCP" } else { "HTTP or HTTPS" };
        (
            format!("the Gateway {} takes no routes of kind {kind} there", label(draft)),
            format!("attach to a listener of protocol {protocol} that allows {kind}"),
        )
    };
    Refusal::new("NotAllowedByListeners", About::Parent, why, remedy)
}

fn no_hostname(draft: &GatewayDraft, allowed: &[usize], candidate: &Candidate<'_>) -> Refusal {
    let listeners: Vec<_> =
        allowed.iter().filter_map(|&i| draft.listeners[i].hostname.as_ref()).take(8).map(Hostname::as_str).collect();
    let route: Vec<_> = candidate.hostnames.iter().take(8).map(Hostname::as_str).collect();
    Refusal::new(
        "NoMatchingListenerHostname",
        About::Hostnames,
        format!("no listener of the Gateway {} serves {}", label(draft), route.join(", ")),
        format!("its listeners serve {}", listeners.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<Hostname> {
        texts.iter().map(|t| Hostname::parse(t).unwrap()).collect()
    }

    #[test]
    fn a_route_keeps_what_it_shares_with_the_listener() {
        let listener = &names(&["*.example.com"])[0];
        let route = names(&["a.example.com", "*.b.example.com", "example.com", "*.com", "x.org"]);
        assert_eq!(
            intersect(Some(listener), &route),
            Some(names(&["a.example.com", "*.b.example.com", "*.example.com"]))
        );
        assert_eq!(intersect(Some(listener), &names(&["x.org"])), None);
        assert_eq!(intersect(Some(listener), &[]), Some(names(&["*.example.com"])));
        assert_eq!(intersect(None, &[]), Some(Vec::new()));
        assert_eq!(intersect(None, &names(&["x.org"])), Some(names(&["x.org"])));
    }
}
