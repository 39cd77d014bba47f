//! The one closed table of reasons why the gateway answers by itself or gives up on a request.
//!
//! Every reply made by the gateway names a [`Reason`]; the table gives its status code, its stable slug, its title, the letters of
//! the access log, the error type of `Proxy-Status` (RFC 9209 section 2.3) and the gRPC status code. Called by every verb of the
//! road, by `reply` and by the proxy's log. It decides nothing: which reason applies is the business of the verb that stopped.

/// Defines [`Reason`] and all its columns from one row per reason.
macro_rules! reasons {
    ($( $(#[$doc:meta])* $name:ident: $status:literal, $slug:literal, $flag:literal, $proxy:expr, $grpc:expr, $title:literal; )*) => {
        /// Why the gateway itself answered, or gave up on, a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $( $(#[$doc])* $name, )* }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Reason] = &[ $( Reason::$name, )* ];

            /// The HTTP status code of a reply with this reason, unless the reply states another.
            pub const fn status(self) -> u16 { match self { $( Reason::$name => $status, )* } }

            /// The stable machine-readable code, `area.fault`: member `code` of the problem document, label in metrics and logs.
            pub const fn slug(self) -> &'static str { match self { $( Reason::$name => $slug, )* } }

            /// The letters in the access log. Envoy's where Envoy has them, `-` when nothing went wrong.
            pub const fn flag(self) -> &'static str { match self { $( Reason::$name => $flag, )* } }

            /// The `error` parameter of `Proxy-Status` (RFC 9209 section 2.3), or none when nothing went wrong.
            pub const fn proxy_status(self) -> Option<&'static str> { match self { $( Reason::$name => $proxy, )* } }

            /// The gRPC status code sent to gRPC callers.
            pub const fn grpc(self) -> GrpcCode { match self { $( Reason::$name => $grpc, )* } }

            /// The short human-readable title of the problem document (RFC 9457 section 3.1.3).
            pub const fn title(self) -> &'static str { match self { $( Reason::$name => $title, )* } }
        }
    };
}

/// The gRPC status codes that replies of the gateway use (gRPC "Status codes and their use in gRPC").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GrpcCode {
    /// The caller went away.
    Cancelled = 1,
    /// The request itself is wrong.
    InvalidArgument = 3,
    /// A deadline passed.
    DeadlineExceeded = 4,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A limit was reached.
    ResourceExhausted = 8,
    /// No such service or method.
    Unimplemented = 12,
    /// The gateway or its configuration is broken.
    Internal = 13,
    /// The backend cannot be reached; a retry may help.
    Unavailable = 14,
    /// The caller has not said who it is.
    Unauthenticated = 16,
}

use GrpcCode::{
    Cancelled, DeadlineExceeded, Internal, InvalidArgument, PermissionDenied, ResourceExhausted, Unauthenticated,
    Unavailable, Unimplemented,
};

reasons! {
    /// A `RequestRedirect` filter answered.
    Redirected: 302, "redirect", "-", None, Unimplemented, "Redirect";
    /// A CORS preflight was answered.
    CorsPreflight: 204, "cors.preflight", "-", None, Unimplemented, "CORS preflight";
    /// The metadata of a protected resource were asked for (RFC 9728).
    ResourceMetadata: 200, "auth.resource_metadata", "-", None, Unimplemented, "Metadata of the API";
    /// A `RateLimitServerPolicy` has answered whether somebody else's request may pass.
    LimitAnswered: 200, "limit.answered", "-", None, Unimplemented, "Answer of a rate limit service";
    /// No listener of this address serves the host.
    ListenerNotFound: 404, "listener.not_found", "NR", Some("destination_not_found"), Unimplemented, "No listener serves this host";
    /// No rule of the listener matches; also for a wrong method.
    RouteNotFound: 404, "route.not_found", "NR", Some("destination_not_found"), Unimplemented, "No route matches this request";
    /// The TLS server name and the authority belong to different listeners (RFC 9110 section 15.5.20).
    Misdirected: 421, "tls.misdirected", "NR", Some("http_request_error"), InvalidArgument, "This connection does not serve this host";

    /// The message breaks the grammar or the framing rules of RFC 9110, 9112 or 9113.
    RequestMalformed: 400, "request.malformed", "DPE", Some("http_request_error"), InvalidArgument, "Malformed request";
    /// The path has a spelling that the listener refuses.
    PathRefused: 400, "request.path_refused", "DPE", Some("http_request_error"), InvalidArgument, "The path is refused";
    /// The authority is missing or not a valid host.
    AuthorityInvalid: 400, "request.authority_invalid", "DPE", Some("http_request_error"), InvalidArgument, "Invalid host";
    /// The request line is longer than the limit.
    RequestLineTooLong: 414, "request.target_too_long", "DPE", Some("http_request_error"), ResourceExhausted, "Request target too long";
    /// The header section is larger than the limit, or has too many fields.
    HeadersTooLarge: 431, "request.headers_too_large", "DPE", Some("http_request_error"), ResourceExhausted, "Request header fields too large";
    /// The content is larger than the limit.
    BodyTooLarge: 413, "request.body_too_large", "DPE", Some("http_request_error"), ResourceExhausted, "Content too large";
    /// An expectation other than `100-continue` (RFC 9110 section 10.1.1).
    ExpectationFailed: 417, "request.expectation_failed", "DPE", Some("http_request_error"), InvalidArgument, "Expectation failed";
    /// A method or transfer coding that the gateway does not implement.
    NotImplemented: 501, "request.not_implemented", "DPE", Some("http_request_error"), Unimplemented, "Not implemented";
    /// A protocol version that the gateway does not speak.
    VersionUnsupported: 505, "request.version_unsupported", "DPE", Some("http_request_error"), Unimplemented, "HTTP version not supported";
    /// The request head did not arrive in time.
    HeadTimeout: 408, "request.head_timeout", "DT", Some("http_request_error"), DeadlineExceeded, "The request head took too long";
    /// The request content stopped coming.
    BodyTimeout: 408, "request.body_timeout", "SI", Some("http_request_error"), DeadlineExceeded, "The request content took too long";
    /// The whole exchange exceeded the route's `timeouts.request`.
    RequestTimeout: 504, "request.timeout", "UT", Some("http_response_timeout"), DeadlineExceeded, "The request took too long";
    /// The time is over that the caller gives the request (`grpc-timeout`, or `x-transept-timeout` of a proxy in front). Nobody behind is to blame.
    RequestDeadline: 504, "request.deadline", "UT", Some("http_response_timeout"), DeadlineExceeded, "The caller's time for the request is over";

    /// The request shows no credentials, and an `AuthenticationPolicy` asks for some.
    CredentialsMissing: 401, "auth.credentials_missing", "UA", Some("http_request_denied"), Unauthenticated, "Credentials are required";
    /// The credentials are unknown, wrong, expired or revoked; the access log says which.
    CredentialsInvalid: 401, "auth.credentials_invalid", "UA", Some("http_request_denied"), Unauthenticated, "The credentials are not valid";
    /// The credentials are valid, but not good for this (RFC 6750 section 3.1).
    ScopeInsufficient: 403, "auth.scope_insufficient", "UA", Some("http_request_denied"), PermissionDenied, "The credentials are not good for this";
    /// A browser without a session is sent to the provider to log in.
    LoginRequired: 302, "auth.login_required", "-", None, Unauthenticated, "Log in first";
    /// A browser comes back from the provider, and has a session now.
    LoggedIn: 302, "auth.logged_in", "-", None, Unauthenticated, "Logged in";
    /// A browser has given up its session.
    LoggedOut: 302, "auth.logged_out", "-", None, Unauthenticated, "Logged out";
    /// A browser comes back from the provider, and its login cannot be completed; the access log says why.
    LoginFailed: 400, "auth.login_failed", "UA", Some("http_request_denied"), Unauthenticated, "The login did not succeed";
    /// This client has failed too often to say who it is.
    AuthenticationLimited: 429, "auth.too_many_failures", "RL", Some("http_request_denied"), ResourceExhausted, "Too many failed attempts";
    /// Whoever could tell whether the credentials are valid does not answer.
    AuthenticationUnavailable: 503, "auth.unavailable", "UA", Some("proxy_internal_error"), Unavailable, "Credentials cannot be checked at present";
    /// The client's address is not allowed.
    AddressDenied: 403, "access.address_denied", "AD", Some("http_request_denied"), PermissionDenied, "This address is not allowed";
    /// The proxy beside the endpoint does not let this workload in.
    MeshDenied: 403, "mesh.denied", "AD", Some("http_request_denied"), PermissionDenied, "This workload is not let in";
    /// The Service is called for the first time, and what is to be known about it has not arrived in time.
    MeshNotReady: 503, "mesh.not_ready", "NC", Some("destination_unavailable"), Unavailable, "This service is not known well enough yet";
    /// A strict `MeshPolicy` lets nobody call the Service without a tunnel, and no endpoint has one; or the gateway is not in the mesh and can
    /// make none.
    MeshNoTunnel: 503, "mesh.no_tunnel", "UH", Some("destination_unavailable"), Unavailable, "No tunnel leads to this service";
    /// The connection did not come through the mesh, and no `MeshPolicy` lets such ones in.
    MeshPlaintext: 403, "mesh.plaintext", "AD", Some("http_request_denied"), PermissionDenied, "Only members of the mesh are let in";
    /// An `AuthorizationPolicy` does not allow it.
    NotAuthorized: 403, "access.not_authorized", "AD", Some("http_request_denied"), PermissionDenied, "This is not allowed";
    /// The service that says whether a request may pass does not answer, or not in a way that can be used.
    AuthorizerUnavailable: 503, "access.unavailable", "AD", Some("http_request_denied"), Unavailable, "Nobody can say at present whether this is allowed";
    /// A preflight from an origin that the route does not allow.
    CorsOriginDenied: 403, "cors.origin_denied", "AD", Some("http_request_denied"), PermissionDenied, "This origin is not allowed";
    /// A `RateLimitPolicy` has counted too many requests.
    RateLimited: 429, "limit.rate_exceeded", "RL", Some("http_request_denied"), ResourceExhausted, "Too many requests";
    /// A `QuotaPolicy` has nothing left in this period.
    QuotaExceeded: 429, "limit.quota_exceeded", "RL", Some("http_request_denied"), ResourceExhausted, "The quota is used up";
    /// A `ConcurrencyPolicy` lets no more requests be under way at a time.
    ConcurrencyExceeded: 503, "limit.concurrency_exceeded", "RL", Some("http_request_denied"), ResourceExhausted, "Too many requests at a time";
    /// What a limit counts cannot be kept or asked for now, and its policy does not let requests pass then.
    LimitUnavailable: 503, "limit.unavailable", "RL", Some("proxy_internal_error"), Unavailable, "Requests cannot be counted now";
    /// The request lacks what a limit counts by, and the limit does not let such requests pass.
    LimitKeyMissing: 400, "limit.key_missing", "RL", Some("http_request_denied"), InvalidArgument, "The request lacks what it is counted by";
    /// The `costExpression` of a limit or a quota has no value for the request, or one that is below zero or more than there ever is.
    LimitCostUnknown: 400, "limit.cost_unknown", "RL", Some("http_request_denied"), InvalidArgument, "What the request costs cannot be charged";
    /// The connection limit of the listener or of the source address.
    ConnectionLimit: 503, "gateway.connection_limit", "OM", Some("connection_limit_reached"), ResourceExhausted, "Too many connections";
    /// The gateway sheds load.
    Overloaded: 503, "gateway.overloaded", "OM", Some("proxy_internal_error"), Unavailable, "The gateway is overloaded";

    /// The chosen backendRef is invalid: unknown, forbidden or of an unknown kind.
    BackendInvalid: 500, "backend.invalid", "NC", Some("proxy_configuration_error"), Internal, "The route names an invalid backend";
    /// The matching rule has no backendRefs and no filter that answers, or all weights are zero.
    BackendMissing: 500, "backend.missing", "NC", Some("proxy_configuration_error"), Internal, "The route has no backend";
    /// The TLS settings for the backend are invalid.
    BackendTlsInvalid: 500, "backend.tls_invalid", "NC", Some("proxy_configuration_error"), Internal, "The backend's TLS settings are invalid";
    /// A filter of the rule is invalid or not supported.
    FilterInvalid: 500, "filter.invalid", "NC", Some("proxy_configuration_error"), Internal, "The route has an invalid filter";
    /// A policy on this target is invalid, so its target fails closed.
    PolicyInvalid: 500, "policy.invalid", "NC", Some("proxy_configuration_error"), Internal, "A policy on this route is invalid";
    /// The backend has no ready endpoint.
    NoEndpoints: 503, "backend.no_endpoints", "UH", Some("destination_unavailable"), Unavailable, "No endpoint is ready";

    /// A limit of the backend's `TrafficPolicy` is reached: connections, requests under way, or those that wait for a connection.
    BackendOverflow: 503, "backend.overflow", "UO", Some("connection_limit_reached"), Unavailable, "The backend has no room for more";

    /// The name of the backend does not resolve.
    UpstreamDns: 503, "upstream.dns_failed", "DF", Some("dns_error"), Unavailable, "The backend's name does not resolve";
    /// The endpoint refused the connection.
    UpstreamRefused: 503, "upstream.connection_refused", "UF", Some("connection_refused"), Unavailable, "The backend refused the connection";
    /// The connection was not established in time.
    UpstreamConnectTimeout: 503, "upstream.connect_timeout", "UF", Some("connection_timeout"), Unavailable, "Connecting to the backend took too long";
    /// The connection ended before a response began.
    UpstreamReset: 503, "upstream.reset", "UC", Some("connection_terminated"), Unavailable, "The backend closed the connection";
    /// The TLS handshake with the backend failed.
    UpstreamTls: 502, "upstream.tls_failed", "UF", Some("tls_protocol_error"), Unavailable, "TLS with the backend failed";
    /// The backend's certificate was not accepted.
    UpstreamCertificate: 502, "upstream.certificate_invalid", "UF", Some("tls_certificate_error"), Unavailable, "The backend's certificate is not trusted";
    /// The response breaks HTTP.
    UpstreamMalformed: 502, "upstream.malformed", "UPE", Some("http_protocol_error"), Internal, "The backend sent an invalid response";
    /// The response head is larger than the limit.
    UpstreamHeadTooLarge: 502, "upstream.head_too_large", "UPE", Some("http_response_header_section_size"), Internal, "The backend's response head is too large";
    /// The response ended before its end. Only a log entry once the head was sent.
    UpstreamIncomplete: 502, "upstream.incomplete", "UC", Some("http_response_incomplete"), Unavailable, "The backend's response is incomplete";
    /// The backend agreed to another protocol than the one that was asked for.
    UpstreamUpgrade: 502, "upstream.upgrade_failed", "UPE", Some("http_upgrade_failed"), Internal, "The protocol upgrade failed";
    /// One try exceeded `timeouts.backendRequest`, or the listener's response timeout.
    UpstreamTimeout: 504, "upstream.timeout", "UT", Some("http_response_timeout"), DeadlineExceeded, "The backend took too long";
    /// Nothing moved on the stream for too long.
    StreamIdle: 504, "stream.idle_timeout", "SI", Some("connection_read_timeout"), DeadlineExceeded, "The stream was idle for too long";

    /// The client went away. Only in logs.
    DownstreamClosed: 499, "downstream.closed", "DC", Some("connection_terminated"), Cancelled, "The client closed the request";
}

impl Reason {
    /// Whether the gateway itself failed before the backend had anything to do with the request: a limit gives back what it took.
    pub const fn is_before_backend(self) -> bool {
        matches!(
            self,
            Reason::MeshNotReady
                | Reason::ConnectionLimit
                | Reason::Overloaded
                | Reason::BackendInvalid
                | Reason::BackendMissing
                | Reason::BackendTlsInvalid
                | Reason::FilterInvalid
                | Reason::PolicyInvalid
                | Reason::NoEndpoints
                | Reason::BackendOverflow
                | Reason::UpstreamDns
                | Reason::UpstreamRefused
                | Reason::UpstreamConnectTimeout
                | Reason::UpstreamTls
                | Reason::UpstreamCertificate
        )
    }

    /// Whether a limit refused.
    pub const fn is_limit(self) -> bool {
        matches!(
            self,
            Reason::RateLimited
                | Reason::QuotaExceeded
                | Reason::ConcurrencyExceeded
                | Reason::LimitUnavailable
                | Reason::LimitKeyMissing
                | Reason::LimitCostUnknown
        )
    }

    /// The value of `Proxy-Status` that tells of it.
    pub fn as_proxy_status(self) -> String {
        match self.proxy_status() {
            Some(error) => format!("transept; error={error}"),
            None => "transept".to_owned(),
        }
    }

    /// Whether this reason tells of a fault, unlike a redirect or a preflight that went as configured.
    pub const fn is_fault(self) -> bool {
        self.proxy_status().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn slugs_are_unique_and_of_one_form() {
        let mut seen = HashSet::new();
        for reason in Reason::ALL {
            let slug = reason.slug();
            assert!(seen.insert(slug), "{slug} twice");
            assert!(slug.bytes().all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'_'), "{slug}");
            assert!(slug.contains('.') || *reason == Reason::Redirected, "{slug}");
        }
    }

    #[test]
    fn faults_have_error_statuses() {
        for reason in Reason::ALL {
            assert_eq!(reason.is_fault(), reason.status() >= 400, "{reason:?}");
        }
    }

    #[test]
    fn refused_and_reset_are_503_because_the_standard_refuses_502_after_the_last_retry() {
        assert_eq!(Reason::UpstreamRefused.status(), 503);
        assert_eq!(Reason::UpstreamReset.status(), 503);
    }
}
