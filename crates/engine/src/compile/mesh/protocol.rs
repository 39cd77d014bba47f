//! What the declarations of Services, Workloads and sidecars mean for the proxies on both sides, and where only requests may come without one. The
//! words are read by the model.

use transept_model::attach::{Attached, PolicyAttachment, PolicyTarget, RouteRef};
pub use transept_model::kinds::AppProtocol;
use transept_model::kinds::{HttpRouteFilter, ServicePort};
use transept_model::place::Note;
use transept_model::world::World;

use super::super::key_of;
use crate::policies::{Phase, kind};
use crate::route::RouteTable;
use crate::snapshot::{Speaks, UpstreamProtocol};

/// What is done about the first bytes of a client.
pub(super) fn speaks(protocol: AppProtocol) -> Speaks {
    match protocol {
        AppProtocol::Unknown => Speaks::Detect,
        AppProtocol::Http1 | AppProtocol::Http2 => Speaks::Http,
        AppProtocol::Opaque => Speaks::Opaque,
    }
}

/// What is spoken to the program.
pub(super) fn upstream(protocol: AppProtocol) -> UpstreamProtocol {
    match protocol {
        AppProtocol::Http1 => UpstreamProtocol::Http1,
        AppProtocol::Http2 => UpstreamProtocol::Http2,
        AppProtocol::Unknown | AppProtocol::Opaque => UpstreamProtocol::Auto,
    }
}

/// What the owners of routes should know that name no port of a Service: where policies decide about their requests, ports that declare nothing carry
/// nothing else any more.
pub(in crate::compile) fn ports_of_requests_only(world: &World, attached: &Attached) -> Vec<Note> {
    let decides = |one: &&PolicyAttachment| kind(one.policy.kind).is_some_and(|facts| facts.phase < Phase::Transform);
    let mut notes = Vec::new();
    for service in attached.services.iter().filter(|service| service.routes.iter().any(|route| route.port.is_none())) {
        let Some(written) = world.service(&service.namespace, &service.name) else { continue };
        let is_silent = |port: &&ServicePort| {
            let routed = service.stream_route_for(port.port, &service.namespace);
            port.protocol == "TCP" && port.speaks() == AppProtocol::Unknown && routed.is_none()
        };
        let silent = written.spec.ports.iter().filter(is_silent).map(|port| port.port.to_string());
        let silent: Vec<String> = silent.collect();
        if written.spec.ports.len() < 2 || silent.is_empty() {
            continue;
        }
        for route in service.routes.iter().filter(|route| route.port.is_none()) {
            let (kind, namespace, name) = key_of(&route.route);
            let is_on = |one: &&PolicyAttachment| match &one.target {
                PolicyTarget::Route { kind: its, namespace: space, name: own }
                | PolicyTarget::Rule { kind: its, namespace: space, route: own, .. } => {
                    (*its, &**space, &**own) == (kind, namespace, name)
                }
                _ => false,
            };
            let is_decided = asks(&route.route) || attached.policies.iter().filter(decides).any(|one| is_on(&one));
            if kind == "TCPRoute" || !is_decided {
                continue;
            }
            let what = format!(
                "it is for every port of the Service {}/{}, and policies decide about its requests: what declares nothing (port {}) carries requests \
                 only now; name the port in `parentRefs`, or declare the others (`appProtocol: tcp`)",
                service.namespace,
                service.name,
                silent.join(", ")
            );
            let meta = route.route.meta();
            notes.push(Note { at: meta.at.clone(), object: Some(meta.object_name()), what });
        }
    }
    notes
}

/// Whether a filter of the route itself asks somebody about its requests.
fn asks(route: &RouteRef) -> bool {
    let RouteRef::Http(route) = route else { return false };
    route.spec.rules.iter().flat_map(|rule| &rule.filters).any(|one| matches!(one, HttpRouteFilter::ExternalAuth(_)))
}

/// Whether policies on routes decide about requests.
pub(super) fn judges(table: &RouteTable) -> bool {
    table.rules().any(|rule| rule.chain.steps().iter().any(|step| step.phase < Phase::Transform))
}
