//! Routes whose parent is a Service: what calls of that Service go through in the mesh (GEP-1426).
//!
//! Called by `routes` for each parentRef to a Service. A route in the namespace of the Service is a producer's and is for every
//! client; one in another namespace is a consumer's and is for the clients of its own namespace. Host names play no part: a call
//! belongs to a Service by where it goes. What the rules do is left to the engine's compile.

use std::collections::BTreeMap;

use super::RouteRef;
use super::parents::{About, Refusal};
use crate::kinds::{AppProtocol, Object, ParentReference, ServicePort, ServiceSpec};
use crate::schema::Text;
use crate::world::World;

/// The routes of a Service.
#[derive(Debug, Clone)]
pub struct AttachedService {
    /// The namespace of the Service.
    pub namespace: Text,
    /// The name of the Service.
    pub name: Text,
    /// Its routes, oldest first.
    pub routes: Vec<ServiceRoute>,
}

/// A route on a Service.
#[derive(Debug, Clone)]
pub struct ServiceRoute {
    /// The route.
    pub route: RouteRef,
    /// Its rank by age among all routes, the oldest first.
    pub order: u32,
    /// The port of the Service that it is for; none is for all.
    pub port: Option<u16>,
}

impl AttachedService {
    /// The routes for requests to one port by clients of a namespace. Those of the client's own namespace, if it has any, instead of
    /// those of the Service's; and of two kinds only the more specific (GEP-1426, "Route types").
    pub fn routes_for(&self, port: u16, client: &str) -> Vec<&ServiceRoute> {
        let of = |namespace: &str| -> Vec<&ServiceRoute> {
            let mine = |route: &&ServiceRoute| {
                route.port.is_none_or(|wanted| wanted == port) && *route.route.meta().namespace == *namespace
            };
            self.routes.iter().filter(|route| !route.is_for_streams()).filter(mine).collect()
        };
        let mut routes = of(client);
        if routes.is_empty() {
            routes = of(&self.namespace);
        }
        if routes.iter().any(|route| matches!(route.route, RouteRef::Grpc(_))) {
            routes.retain(|route| matches!(route.route, RouteRef::Grpc(_)));
        }
        routes
    }

    /// The TCPRoute for connections to one port by clients of a namespace: the oldest of the client's own namespace, if it has any,
    /// else the oldest of the Service's. One listener has room for one, as the standard says for those of Gateways.
    pub fn stream_route_for(&self, port: u16, client: &str) -> Option<&ServiceRoute> {
        let oldest = |namespace: &str| {
            let mut routes = self.routes.iter().filter(|route| route.is_for_streams());
            routes.find(|route| {
                route.port.is_none_or(|wanted| wanted == port) && *route.route.meta().namespace == *namespace
            })
        };
        oldest(client).or_else(|| oldest(&self.namespace))
    }
}

impl ServiceRoute {
    /// Whether it is for connections that are not looked at.
    fn is_for_streams(&self) -> bool {
        matches!(self.route, RouteRef::Tcp(_))
    }
}

/// Services with routes, on their way.
#[derive(Debug, Default)]
pub(super) struct ServiceDrafts(BTreeMap<(Text, Text), Vec<ServiceRoute>>);

impl ServiceDrafts {
    /// Attaches a route to the Service that `parent` means; says to what in words.
    pub(super) fn attach(
        &mut self,
        world: &World,
        parent: &ParentReference,
        route: &RouteRef,
        order: u32,
    ) -> Result<String, Refusal> {
        let own = &route.meta().namespace;
        let namespace = parent.namespace.as_ref().unwrap_or(own);
        let Some(service) = world.service(namespace, &parent.name) else {
            let why = format!("there is no Service {namespace}/{}", parent.name);
            let remedy = "add the Service, or correct the name or namespace of the parentRef";
            return Err(Refusal::new("NoMatchingParent", About::Parent, why, remedy));
        };
        if service.spec.ports.is_empty() {
            let why = format!("the Service {namespace}/{} has no ports, so that nobody can call it", parent.name);
            return Err(Refusal::new("NoMatchingParent", About::Parent, why, "add its `ports`"));
        }
        let port = find_port(service, parent)?;
        let is_for_streams = matches!(route, RouteRef::Tcp(_));
        let mut ports = service.spec.ports.iter().filter(|one| port.is_none_or(|wanted| wanted == one.port));
        if !ports.any(|port| carries(port, is_for_streams)) {
            return Err(declared_otherwise(service, port, is_for_streams));
        }
        let routes = self.0.entry((namespace.clone(), parent.name.clone())).or_default();
        let known = |one: &ServiceRoute| one.order == order && (one.port.is_none() || one.port == port);
        if !routes.iter().any(known) {
            routes.retain(|one| one.order != order || port.is_some());
            routes.push(ServiceRoute { route: route.clone(), order, port });
        }
        let ports = port.map(|port| format!(", port {port}")).unwrap_or_default();
        let clients = if namespace == own { String::new() } else { format!(", for clients in namespace {own}") };
        Ok(format!("calls of Service {namespace}/{}{ports} in the mesh{clients}", parent.name))
    }

    pub(super) fn finish(self) -> Vec<AttachedService> {
        self.0.into_iter().map(|((namespace, name), routes)| AttachedService { namespace, name, routes }).collect()
    }
}

/// Whether what is declared of a port leaves room for requests, or for connections that are not looked at.
fn carries(port: &ServicePort, streams: bool) -> bool {
    match port.speaks() {
        AppProtocol::Unknown => true,
        AppProtocol::Http1 | AppProtocol::Http2 => !streams,
        AppProtocol::Opaque => streams,
    }
}

fn declared_otherwise(service: &Object<ServiceSpec>, port: Option<u16>, streams: bool) -> Refusal {
    let declared = service.spec.ports.iter().find(|one| port.is_none_or(|wanted| wanted == one.port));
    let word = declared.and_then(|port| port.app_protocol.as_deref()).unwrap_or_default();
    let name = format!("{}/{}", service.meta.namespace, service.meta.name);
    let port = port.map_or_else(|| "every port".to_owned(), |port| format!("port {port}"));
    let (what, other) = match streams {
        true => ("requests are routed there and no connections", "`appProtocol: tcp`, or use an HTTPRoute"),
        false => (
            "what it carries is not looked at",
            "`appProtocol: http` if it speaks HTTP in clear text, or use a TCPRoute",
        ),
    };
    let why = format!("{port} of Service {name} is declared with `appProtocol: {word}`, so that {what}");
    Refusal::new("NotAllowedByListeners", About::Parent, why, format!("declare {other}"))
}

/// The port that a parentRef means by number, by name (`sectionName`), or by both; none is every port.
fn find_port(service: &Object<ServiceSpec>, parent: &ParentReference) -> Result<Option<u16>, Refusal> {
    if parent.port.is_none() && parent.section_name.is_none() {
        return Ok(None);
    }
    let ports = &service.spec.ports;
    let fits = ports.iter().find(|port| {
        parent.port.is_none_or(|wanted| wanted == port.port)
            && parent.section_name.as_ref().is_none_or(|wanted| port.name.as_ref() == Some(wanted))
    });
    if let Some(port) = fits {
        return Ok(Some(port.port));
    }
    let wanted = match (&parent.section_name, parent.port) {
        (Some(name), Some(port)) => format!("port {port} named {name}"),
        (Some(name), None) => format!("port named {name}"),
        (None, port) => format!("port {}", port.unwrap_or_default()),
    };
    let known: Vec<_> = ports.iter().take(8).map(|port| port.port.to_string()).collect();
    Err(Refusal::new(
        "NoMatchingParent",
        About::Parent,
        format!("the Service {}/{} has no {wanted}", service.meta.namespace, service.meta.name),
        format!("it has: {}", known.join(", ")),
    ))
}

#[cfg(test)]
mod tests {
    use crate::attach::{Attached, Surroundings, attach};
    use crate::{SourceText, load};

    const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: admin, port: 81}]}
";

    fn route(kind: &str, namespace: &str, name: &str, parent: &str) -> String {
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart, namespace: shop{parent}}}]
  rules: [{{backendRefs: [{{name: cart, namespace: shop, port: 80}}]}}]
"
        )
    }

    fn attached(routes: &[String]) -> Attached {
        let text = format!("{SERVICE}{}", routes.concat());
        let loaded = load(&[SourceText { name: "mesh.yaml".into(), text: text.into() }], &[]);
        assert!(loaded.invalid.is_empty(), "{:#?}", loaded.invalid);
        attach(&loaded.world, &Surroundings::default())
    }

    /// The names of the routes for calls of a port by a client.
    fn names(attached: &Attached, port: u16, client: &str) -> Vec<String> {
        let service = attached.services.first().expect("a Service");
        service.routes_for(port, client).iter().map(|one| one.route.meta().name.to_string()).collect()
    }

    #[test]
    fn a_route_of_another_protocol_than_a_port_declares_is_not_accepted() {
        let attached = |protocol: &str, kind: &str| {
            let yaml = format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: cart, namespace: shop}}, spec: {{ports: [{{port: 80{protocol}}}]}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: r, namespace: shop}}
spec: {{parentRefs: [{{group: '', kind: Service, name: cart, port: 80}}], rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]}}"
            );
            let loaded = load(&[SourceText::new("test.yaml", yaml)], &[]);
            assert!(loaded.invalid.is_empty(), "{:?}", loaded.invalid);
            attach(&loaded.world, &Surroundings::default()).services.len()
        };
        for kind in ["HTTPRoute", "GRPCRoute"] {
            assert_eq!((attached("", kind), attached(", appProtocol: http", kind)), (1, 1));
            for word in ["https", "tcp", "redis"] {
                assert_eq!(attached(&format!(", appProtocol: {word}"), kind), 0, "{word}");
            }
        }
        let portless = "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: None}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: cart}]}}";
        let loaded = load(&[SourceText::new("test.yaml", portless)], &[]);
        let attached_to_none = attach(&loaded.world, &Surroundings::default());
        assert_eq!(attached_to_none.services.len(), 0, "there is nothing to call");
        let why = attached_to_none.problems.first().map(ToString::to_string).unwrap_or_default();
        assert!(why.contains("the Service shop/cart has no ports"), "{why}");
        assert_eq!((attached("", "TCPRoute"), attached(", appProtocol: redis", "TCPRoute")), (1, 1));
        assert_eq!(attached(", appProtocol: grpc", "TCPRoute"), 0);
    }

    #[test]
    fn a_port_limits_a_route_to_itself() {
        let attached = attached(&[
            route("HTTPRoute", "shop", "all", ""),
            route("HTTPRoute", "shop", "one", ", port: 80"),
            route("HTTPRoute", "shop", "named", ", sectionName: admin"),
        ]);
        assert!(attached.problems.is_empty(), "{:#?}", attached.problems);
        assert_eq!(names(&attached, 80, "shop"), ["all", "one"]);
        assert_eq!(names(&attached, 81, "other"), ["all", "named"]);
    }

    #[test]
    fn a_consumers_route_is_for_its_own_namespace() {
        let attached =
            attached(&[route("HTTPRoute", "shop", "producer", ""), route("HTTPRoute", "desk", "consumer", "")]);
        assert!(attached.problems.is_empty(), "{:#?}", attached.problems);
        assert_eq!(names(&attached, 80, "desk"), ["consumer"]);
        assert_eq!(names(&attached, 80, "shop"), ["producer"]);
        assert_eq!(names(&attached, 80, "else"), ["producer"]);
        let status = attached.status.route("HTTPRoute", "desk", "consumer").expect("a status");
        assert!(status.parents[0].conditions.holds("Accepted") && status.parents[0].conditions.holds("ResolvedRefs"));
    }

    #[test]
    fn the_more_specific_kind_wins() {
        let attached = attached(&[route("HTTPRoute", "shop", "http", ""), route("GRPCRoute", "shop", "grpc", "")]);
        assert_eq!(names(&attached, 80, "shop"), ["grpc"]);
    }

    #[test]
    fn connections_go_by_the_oldest_tcp_route_of_the_nearest_namespace() {
        let attached = attached(&[
            route("TCPRoute", "shop", "old", ", port: 80"),
            route("TCPRoute", "shop", "young", ""),
            route("TCPRoute", "desk", "consumer", ""),
            route("HTTPRoute", "shop", "http", ""),
        ]);
        assert!(attached.problems.is_empty(), "{:#?}", attached.problems);
        let service = attached.services.first().expect("a Service");
        let stream = |port, client| service.stream_route_for(port, client).map(|one| one.route.meta().name.to_string());
        assert_eq!(stream(80, "shop").as_deref(), Some("old"));
        assert_eq!(stream(81, "else").as_deref(), Some("young"));
        assert_eq!(stream(80, "desk").as_deref(), Some("consumer"));
        assert_eq!(names(&attached, 80, "desk"), ["http"]);
        let status = attached.status.route("TCPRoute", "shop", "young").expect("a status");
        assert!(status.parents[0].conditions.holds("Accepted"));
    }

    #[test]
    fn a_service_or_port_that_is_not_there() {
        let lost = route("HTTPRoute", "shop", "lost", "").replace("Service, name: cart", "Service, name: card");
        let attached = attached(&[route("HTTPRoute", "shop", "port", ", port: 82"), lost]);
        let why: Vec<_> = attached.problems.iter().map(|problem| problem.why.as_str()).collect();
        assert_eq!(why, ["the Service shop/cart has no port 82", "there is no Service shop/card"]);
        let status = attached.status.route("HTTPRoute", "shop", "lost").expect("a status");
        assert_eq!(status.parents[0].conditions.find("Accepted").map(|one| &*one.reason), Some("NoMatchingParent"));
    }

    #[test]
    fn a_route_that_is_on_a_gateway_too_needs_a_grant() {
        let both = route("HTTPRoute", "desk", "both", "").replace("parentRefs: [", "parentRefs: [{name: web}, ");
        let attached = attached(&[both]);
        let status = attached.status.route("HTTPRoute", "desk", "both").expect("a status");
        assert!(status.parents.iter().all(|parent| !parent.conditions.holds("ResolvedRefs")));
    }
}
