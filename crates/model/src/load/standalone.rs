//! What a file may leave out: the Gateway, and a route's parent.
//!
//! Each is a default, never a new syntax: the result is what the user could have written. Called once all files are read.

use std::sync::Arc;

use crate::kinds::gateway::{AllowedRoutes, GatewaySpec, Listener, NamespacesFrom, Protocol, RouteNamespaces};
use crate::kinds::{
    Age, CONTROLLER_NAME, GATEWAY_GROUP, GatewayClassSpec, GrpcRouteSpec, HttpRouteSpec, Kind, Metadata, Object,
    ParentReference, TcpRouteSpec,
};
use crate::load::Readers;
use crate::load::draft::{Draft, UNNUMBERED};
use crate::place::{Note, Place, Spot};
use crate::schema::Labels;

/// The namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The name of the Gateway that there is when nobody wrote one.
pub const DEFAULT_GATEWAY: &str = "default";
/// The port of its one listener.
pub const DEFAULT_PORT: u16 = 8080;
/// Where an object stands that nobody wrote.
const IMPLIED: &str = "(default)";

/// A route, of any kind, as far as its parents are concerned.
trait Attaches {
    fn parents(&self) -> &[ParentReference];
    fn attach_to(&mut self, parent: ParentReference);
    fn asks_for_defaults(&self) -> bool;
}

macro_rules! attaches {
    ($($type:ty)*) => {$(
        impl Attaches for $type {
            fn parents(&self) -> &[ParentReference] {
                &self.parent_refs
            }

            fn attach_to(&mut self, parent: ParentReference) {
                self.parent_refs = vec![parent];
            }

            fn asks_for_defaults(&self) -> bool {
                self.use_default_gateways.is_some()
            }
        }
    )*};
}

attaches!(HttpRouteSpec GrpcRouteSpec TcpRouteSpec);

/// Adds the Gateway and the parents that the files left out. Where they are all that one gateway has, there is a Gateway also when no
/// route counts on it, unless routes say that they belong to another one.
pub(super) fn complete(draft: &mut Draft<'_>, readers: Readers) {
    // A TCPRoute cannot count on it: nobody could guess its port.
    let counted_on = wants_gateway(&draft.http_routes) || wants_gateway(&draft.grpc_routes);
    let elsewhere = || {
        let parentless = |route: &Object<TcpRouteSpec>| route.spec.parent_refs.is_empty();
        name_gateways(&draft.http_routes)
            || name_gateways(&draft.grpc_routes)
            || name_gateways(&draft.tcp_routes)
            || draft.tcp_routes.iter().any(parentless)
    };
    if draft.gateways.is_empty() && (counted_on || (readers == Readers::OneGateway && !elsewhere())) {
        draft.gateways.push(default_gateway());
    }
    let classes = &draft.gateway_classes;
    let ours: Vec<&Metadata> =
        draft.gateways.iter().filter(|gateway| is_ours(gateway, classes)).map(|gateway| &gateway.meta).collect();
    let only = match ours.as_slice() {
        [only] => Ok((*only).clone()),
        many => Err(many.len()),
    };
    adopt(&mut draft.http_routes, &only, &mut draft.notes);
    adopt(&mut draft.grpc_routes, &only, &mut draft.notes);
    adopt(&mut draft.tcp_routes, &only, &mut draft.notes);
}

/// True when a route counts on a Gateway that nobody wrote: it names no parent, or the Gateway `default`.
fn wants_gateway<S: Attaches>(routes: &[Object<S>]) -> bool {
    routes.iter().any(|route| {
        let parents = route.spec.parents();
        let named = parents.iter().any(|parent| {
            let namespace = parent.namespace.as_ref().unwrap_or(&route.meta.namespace);
            parent.group == GATEWAY_GROUP
                && parent.kind == "Gateway"
                && parent.name == DEFAULT_GATEWAY
                && *namespace == DEFAULT_NAMESPACE
        });
        named || (parents.is_empty() && !route.spec.asks_for_defaults())
    })
}

/// True when a route says which Gateways it belongs to.
fn name_gateways<S: Attaches>(routes: &[Object<S>]) -> bool {
    routes.iter().any(|route| {
        let gateway = |parent: &ParentReference| parent.group == GATEWAY_GROUP && parent.kind == GatewaySpec::KIND;
        route.spec.asks_for_defaults() || route.spec.parents().iter().any(gateway)
    })
}

fn is_ours(gateway: &Object<GatewaySpec>, classes: &[Object<GatewayClassSpec>]) -> bool {
    let Some(name) = &gateway.spec.gateway_class_name else {
        return true;
    };
    let class = classes.iter().find(|class| class.meta.name == *name);
    class.is_none_or(|class| class.spec.controller_name == CONTROLLER_NAME)
}

fn adopt<S: Attaches>(routes: &mut [Object<S>], only: &Result<Metadata, usize>, notes: &mut Vec<Note>) {
    for route in routes {
        if !route.spec.parents().is_empty() || route.spec.asks_for_defaults() {
            continue;
        }
        match only {
            Ok(gateway) => route.spec.attach_to(ParentReference {
                at: route.meta.at.spot(),
                group: GATEWAY_GROUP.into(),
                kind: GatewaySpec::KIND.into(),
                namespace: Some(gateway.namespace.clone()).filter(|namespace| *namespace != route.meta.namespace),
                name: gateway.name.clone(),
                section_name: None,
                port: None,
            }),
            Err(gateways) => notes.push(Note {
                at: route.meta.at.clone(),
                object: Some(route.meta.object_name()),
                what: format!(
                    "attaches to nothing: it has no parentRefs, and there are {gateways} Gateways to choose from"
                ),
            }),
        }
    }
}

/// Whether an object is one that nobody wrote.
pub(crate) fn is_implied(meta: &Metadata) -> bool {
    &*meta.at.file == IMPLIED
}

fn default_gateway() -> Object<GatewaySpec> {
    let at = Spot::default();
    let listener = Listener {
        at,
        name: "http".into(),
        hostname: None,
        port: DEFAULT_PORT,
        protocol: Protocol::Http,
        tls: None,
        allowed_routes: AllowedRoutes {
            namespaces: RouteNamespaces { from: NamespacesFrom::All, ..RouteNamespaces::default() },
            ..AllowedRoutes::default()
        },
    };
    Object {
        meta: Metadata {
            kind: GatewaySpec::KIND,
            name: DEFAULT_GATEWAY.into(),
            namespace: DEFAULT_NAMESPACE.into(),
            labels: Labels::new(),
            annotations: Labels::new(),
            generation: UNNUMBERED,
            age: Age::Written { file: 0, document: 0 },
            at: Place { file: Arc::from(IMPLIED), line: 0, column: 0 },
        },
        spec: GatewaySpec {
            at,
            gateway_class_name: None,
            listeners: vec![listener],
            addresses: Vec::new(),
            infrastructure: None,
            allowed_listeners: None,
            tls: None,
            default_scope: None,
        },
    }
}
