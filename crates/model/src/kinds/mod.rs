//! Every kind of object this version serves, each as one Rust type declared once.
//!
//! Types carry the whole standard and experimental field set of Gateway API v1.6. Field names are the API's own in snake case. What
//! an object refers to, and whether it may, is decided by `attach`, not here. Policies of our own are not here: their specs
//! belong to `engine`, and this crate reads only their envelope.

pub mod api_key;
pub mod backend;
pub mod backend_tls_policy;
pub mod cluster;
pub mod consumer;
pub mod filters;
pub mod gateway;
mod gateway_rules;
pub mod grpc_route;
pub mod http_route;
pub mod metadata;
pub mod reference_grant;
pub mod refs;
mod route_rules;
pub mod selector;
pub mod session;
pub mod tcp_route;
pub mod workload;

pub use api_key::{ApiKeySpec, ClientNetwork, KeyHash, KeyHashing};
pub use backend::{BackendEndpoint, BackendProtocol, BackendSpec, BackendTls};
pub use backend_tls_policy::{
    BackendTlsPolicySpec, BackendTlsValidation, PolicyTargetReference, SubjectAltName, WellKnownCaCertificates,
};
pub use cluster::{
    AppProtocol, ConfigMapBody, Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSliceBody, ForZone,
    NamespaceBody, SecretBody, SecretBytes, ServicePort, ServiceSpec, TargetPort,
};
pub use consumer::ConsumerSpec;
pub use filters::{
    CorsFilter, ExternalAuthFilter, Fraction, GrpcRouteFilter, HttpHeader, HttpHeaderFilter, HttpRouteFilter,
    PathModifier, RedirectScheme, RequestMirrorFilter, RequestRedirectFilter, UrlRewriteFilter,
};
pub use gateway::{
    AddressType, AllowedListeners, AllowedRoutes, FrontendValidation, FrontendValidationMode, GatewayAddress,
    GatewayClassSpec, GatewaySpec, Listener, ListenerTlsConfig, NamespacesFrom, Protocol, RouteGroupKind, TlsMode,
};
pub use grpc_route::{GrpcBackendRef, GrpcMethodMatch, GrpcRouteMatch, GrpcRouteRule, GrpcRouteSpec};
pub use http_route::{
    HttpBackendRef, HttpHeaderMatch, HttpMethod, HttpPathMatch, HttpQueryParamMatch, HttpRetry, HttpRouteMatch,
    HttpRouteRule, HttpRouteSpec, HttpTimeouts, MatchType, PathMatchType,
};
pub use metadata::{Age, Body, Kind, Metadata, Object, Scope};
pub use reference_grant::{ReferenceGrantFrom, ReferenceGrantSpec, ReferenceGrantTo};
pub use refs::{BackendObjectReference, LocalObjectReference, ObjectReference, ParentReference, SecretObjectReference};
pub use selector::{LabelSelector, SelectorOperator, SelectorRequirement};
pub use session::{CookieConfig, CookieLifetime, SessionPersistence, SessionPersistenceType};
pub use tcp_route::{TcpBackendRef, TcpRouteRule, TcpRouteSpec};
pub use workload::{
    DEFAULT_TRUST_DOMAIN, HBONE_PORT, TunnelProtocol, WorkloadHealth, WorkloadPort, WorkloadSpec, WorkloadTunnel,
};

/// The API group of Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The API group of our own kinds.
pub const TRANSEPT_GROUP: &str = "transept.dev";
/// The controller name that a GatewayClass must have for its Gateways to be ours.
pub const CONTROLLER_NAME: &str = "transept.dev/gateway";
