//! GRPCRoute (gateway.networking.k8s.io/v1).
//!
//! Matching and precedence are `engine`'s, attachment is `attach`'s.

use crate::kinds::GATEWAY_GROUP;
use crate::kinds::filters::GrpcRouteFilter;
use crate::kinds::http_route::{HttpHeaderMatch, MatchType};
use crate::kinds::metadata::{Body, Kind, Scope};
use crate::kinds::refs::ParentReference;
use crate::kinds::route_rules as rules;
use crate::kinds::session::SessionPersistence;
use crate::schema::{GROUP, HOSTNAME, KIND, NAMESPACE, OBJECT_NAME, Rule, SECTION_NAME, Text};

crate::object! {
    /// A GRPCRoute: which gRPC calls go where.
    pub struct GrpcRouteSpec {
        /// The Gateways (or for the mesh the Services) the route attaches to. When it comes from a file and there is only one
        /// Gateway, it may be left out.
        parent_refs: Vec<ParentReference> => Rule::MaxItems(32);
        /// Attaches the route to the default Gateways of this scope (experimental).
        use_default_gateways: Option<crate::kinds::gateway::DefaultScope>;
        /// The hosts the route serves. Without it, every host of the listeners it attaches to.
        hostnames: Vec<Text> => Rule::MaxItems(16), Rule::Is(&HOSTNAME);
        /// What is done with the calls.
        rules: Vec<GrpcRouteRule> => Rule::MaxItems(16);
    }
    check rules::check_grpc_route;
}

impl Kind for GrpcRouteSpec {
    const KIND: &'static str = "GRPCRoute";
    const GROUP: &'static str = GATEWAY_GROUP;
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha2"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "Which gRPC calls go where, and what happens to them on the way.";
}

crate::object! {
    /// A rule: calls that one of the matches fits are filtered and sent to the backends.
    pub struct GrpcRouteRule {
        /// A name, unique within the route. Policies refer to it with `sectionName`.
        name: Option<Text> => Rule::Is(&SECTION_NAME);
        /// Which calls; one of the matches must fit. Without it, all.
        matches: Vec<GrpcRouteMatch> => Rule::MaxItems(64);
        /// What happens to the calls and their responses, in order.
        filters: Vec<GrpcRouteFilter> => Rule::MaxItems(16);
        /// Where the calls go, by weight.
        backend_refs: Vec<GrpcBackendRef> => Rule::MaxItems(16);
        /// Keeps the calls of a session at the same endpoint (experimental).
        session_persistence: Option<Box<SessionPersistence>>;
    }
    check rules::check_grpc_rule;
}

crate::object! {
    /// What a call must look like. Everything that is set must fit.
    pub struct GrpcRouteMatch {
        /// The service and method.
        method: Option<GrpcMethodMatch>;
        /// Headers (metadata) that must be there.
        headers: Vec<HttpHeaderMatch> => Rule::MaxItems(16), Rule::UniqueBy("name");
    }
}

crate::object! {
    /// A condition on the service and the method; at least one of them.
    pub struct GrpcMethodMatch {
        /// How they are compared.
        r#type: MatchType = MatchType::Exact;
        /// The full name of the service: `shop.v1.CartService`. Without it, every service.
        service: Option<Text> => Rule::Length(0, 1024);
        /// The method: `AddItem`. Without it, every method of the service.
        method: Option<Text> => Rule::Length(0, 1024);
    }
    check rules::check_grpc_method;
}

crate::object! {
    /// A backend with its share of the calls.
    pub struct GrpcBackendRef {
        /// The group of the backend; empty for Service.
        group: Text = "".into() => Rule::Is(&GROUP);
        /// The kind of the backend: Service, or Backend of group transept.dev.
        kind: Text = "Service".into() => Rule::Is(&KIND);
        /// The name of the backend.
        name: Text => Rule::Is(&OBJECT_NAME);
        /// The namespace of the backend; without it the route's own. In another one a ReferenceGrant must allow it.
        namespace: Option<Text> => Rule::Is(&NAMESPACE);
        /// The port of the Service. A Backend has its ports at its endpoints.
        port: Option<u16> => Rule::Range(1, 65535);
        /// The share of calls, in proportion to the other weights of the rule.
        weight: u32 = 1 => Rule::Range(0, 1_000_000);
        /// What happens to the calls that go to this backend.
        filters: Vec<GrpcRouteFilter> => Rule::MaxItems(16);
    }
    check rules::check_grpc_backend;
}
