//! Filters of HTTPRoute and GRPCRoute rules and of their backends.
//!
//! Carried by route rules. What a filter does is decided by `engine`.

use std::fmt;

use serde_json::Value as Json;

use crate::kinds::refs::{BackendObjectReference, LocalObjectReference};
use crate::kinds::route_rules as rules;
use crate::schema::{
    CORS_ORIGIN, Decoder, HEADER_NAME, HEADER_VALUE, PATH_CHARACTERS, PRECISE_HOSTNAME, Rule, Schema, Shape, Text,
};
use crate::value::{Node, Value};

crate::union! {
    /// One step in the processing of an HTTP request or response.
    pub enum HttpRouteFilter by "type" {
        /// Changes the headers of the request.
        RequestHeaderModifier = "RequestHeaderModifier" / "requestHeaderModifier": HttpHeaderFilter;
        /// Changes the headers of the response.
        ResponseHeaderModifier = "ResponseHeaderModifier" / "responseHeaderModifier": HttpHeaderFilter;
        /// Sends a copy of the request to another backend; its answer is dropped.
        RequestMirror = "RequestMirror" / "requestMirror": RequestMirrorFilter;
        /// Answers with a redirect.
        RequestRedirect = "RequestRedirect" / "requestRedirect": RequestRedirectFilter;
        /// Changes the host and path of the request on its way to the backend.
        UrlRewrite = "URLRewrite" / "urlRewrite": UrlRewriteFilter;
        /// Answers cross-origin preflights and marks responses.
        Cors = "CORS" / "cors": CorsFilter;
        /// Asks a service of the user whether the request may pass (experimental).
        ExternalAuth = "ExternalAuth" / "externalAuth": ExternalAuthFilter;
        /// A filter that is an object of its own.
        ExtensionRef = "ExtensionRef" / "extensionRef": LocalObjectReference;
    }
}

crate::union! {
    /// One step in the processing of a gRPC call.
    pub enum GrpcRouteFilter by "type" {
        /// Changes the headers of the request.
        RequestHeaderModifier = "RequestHeaderModifier" / "requestHeaderModifier": HttpHeaderFilter;
        /// Changes the headers of the response.
        ResponseHeaderModifier = "ResponseHeaderModifier" / "responseHeaderModifier": HttpHeaderFilter;
        /// Sends a copy of the request to another backend; its answer is dropped.
        RequestMirror = "RequestMirror" / "requestMirror": RequestMirrorFilter;
        /// A filter that is an object of its own.
        ExtensionRef = "ExtensionRef" / "extensionRef": LocalObjectReference;
    }
}

crate::object! {
    /// A header with its value.
    pub struct HttpHeader {
        /// The name, in any case.
        name: Text => Rule::Is(&HEADER_NAME);
        /// The value.
        value: Text => Rule::Is(&HEADER_VALUE);
    }
}

crate::object! {
    /// Changes headers. Each header may be named once.
    pub struct HttpHeaderFilter {
        /// Headers to set, in place of what is there.
        set: Vec<HttpHeader> => Rule::MaxItems(16), Rule::UniqueBy("name");
        /// Headers to add to what is there.
        add: Vec<HttpHeader> => Rule::MaxItems(16), Rule::UniqueBy("name");
        /// Names of headers to remove.
        remove: Vec<Text> => Rule::MaxItems(16), Rule::Unique, Rule::Is(&HEADER_NAME);
    }
}

crate::union! {
    /// How a path is changed.
    pub enum PathModifier by "type" {
        /// The whole path is replaced.
        ReplaceFullPath = "ReplaceFullPath" / "replaceFullPath": Text => Rule::Length(0, 1024);
        /// The prefix that the rule matched is replaced.
        ReplacePrefixMatch = "ReplacePrefixMatch" / "replacePrefixMatch": Text => Rule::Length(0, 1024);
    }
}

crate::choice! {
    /// The scheme of a redirect.
    pub enum RedirectScheme {
        /// Plain HTTP.
        Http = "http",
        /// HTTP over TLS.
        Https = "https",
    }
}

/// The status code of a redirect: 301, 302, 303, 307 or 308.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RedirectCode(u16);

impl RedirectCode {
    const CODES: [i64; 5] = [301, 302, 303, 307, 308];
    /// 302 Found.
    pub const FOUND: Self = Self(302);

    /// The code as a number.
    pub fn code(self) -> u16 {
        self.0
    }
}

impl fmt::Display for RedirectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Schema for RedirectCode {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        let Node::Integer(number) = value.node else {
            cx.expected(value, "a whole number");
            return None;
        };
        if !Self::CODES.contains(&number) {
            cx.refuse(value.at, format!("{number} is not a redirect")).remedy("one of 301, 302, 303, 307, 308");
            return None;
        }
        u16::try_from(number).ok().map(Self)
    }

    fn shape() -> Shape {
        Shape::Numbers(Self::CODES.to_vec())
    }

    fn encode(&self) -> Json {
        self.0.into()
    }
}

crate::object! {
    /// Answers with a redirect. What is not set is taken from the request.
    pub struct RequestRedirectFilter {
        /// The scheme of the new address.
        scheme: Option<RedirectScheme>;
        /// The host of the new address.
        hostname: Option<Text> => Rule::Is(&PRECISE_HOSTNAME);
        /// How the path is changed.
        path: Option<PathModifier>;
        /// The port of the new address. Without it, the well-known port of `scheme`, or the port of the listener.
        port: Option<u16> => Rule::Range(1, 65535);
        /// The status code.
        status_code: RedirectCode = RedirectCode::FOUND;
    }
}

crate::object! {
    /// Changes the host and path of the request on its way to the backend.
    pub struct UrlRewriteFilter {
        /// The new host.
        hostname: Option<Text> => Rule::Is(&PRECISE_HOSTNAME);
        /// How the path is changed.
        path: Option<PathModifier>;
    }
}

crate::object! {
    /// A share of requests.
    pub struct Fraction {
        /// So many of `denominator`.
        numerator: u32 => Rule::Range(0, 2147483647);
        /// The whole.
        denominator: u32 = 100 => Rule::Range(1, 2147483647);
    }
    check rules::check_fraction;
}

crate::object! {
    /// Sends a copy of the request to another backend. Without `percent` and `fraction`, of every request.
    pub struct RequestMirrorFilter {
        /// Where the copies go.
        backend_ref: BackendObjectReference;
        /// How many of a hundred requests are copied.
        percent: Option<u32> => Rule::Range(0, 100);
        /// Which share of the requests is copied.
        fraction: Option<Fraction>;
    }
    check rules::check_mirror;
}

crate::choice! {
    /// A method that a cross-origin request may have.
    pub enum CorsMethod {
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// DELETE.
        Delete = "DELETE",
        /// CONNECT.
        Connect = "CONNECT",
        /// OPTIONS.
        Options = "OPTIONS",
        /// TRACE.
        Trace = "TRACE",
        /// PATCH.
        Patch = "PATCH",
        /// Every method.
        Any = "*",
    }
}

crate::object! {
    /// Cross-origin resource sharing (the Fetch standard's CORS protocol).
    pub struct CorsFilter {
        /// Origins that may read responses: `https://shop.example`, `https://*.shop.example`, or `*` alone.
        allow_origins: Vec<Text> => Rule::MaxItems(64), Rule::Unique, Rule::Is(&CORS_ORIGIN);
        /// Whether requests may carry credentials.
        allow_credentials: Option<bool>;
        /// Methods that requests may have, or `*` alone.
        allow_methods: Vec<CorsMethod> => Rule::MaxItems(9), Rule::Unique;
        /// Headers that requests may carry, or `*` alone.
        allow_headers: Vec<Text> => Rule::MaxItems(64), Rule::Unique, Rule::Is(&HEADER_NAME);
        /// Headers of responses that scripts may read.
        expose_headers: Vec<Text> => Rule::MaxItems(64), Rule::Unique, Rule::Is(&HEADER_NAME);
        /// For how many seconds a client may keep the answer to a preflight.
        max_age: u32 = 5 => Rule::Range(1, 2147483647);
    }
    check rules::check_cors;
}

crate::choice! {
    /// The protocol of an external authorization service.
    pub enum ExternalAuthProtocol {
        /// A request whose answer is 200 or a refusal.
        Http = "HTTP",
        /// Envoy's `ext_authz` v3 over gRPC.
        Grpc = "GRPC",
    }
}

crate::object! {
    /// Asks a service of the user whether the request may pass (GEP-1494). Without an answer it may not.
    pub struct ExternalAuthFilter {
        /// The protocol of the service.
        protocol: ExternalAuthProtocol;
        /// The service.
        backend_ref: BackendObjectReference;
        /// Settings for the gRPC protocol.
        grpc: Option<GrpcAuthConfig>;
        /// Settings for the HTTP protocol.
        http: Option<HttpAuthConfig>;
        /// Whether the service gets to see the request's body.
        forward_body: Option<ForwardBodyConfig>;
    }
    check rules::check_external_auth;
}

crate::object! {
    /// Settings for a gRPC authorization service.
    pub struct GrpcAuthConfig {
        /// Headers that the service gets to see. Without it, all.
        allowed_headers: Vec<Text> => Rule::MaxItems(64), Rule::Unique;
    }
}

crate::object! {
    /// Settings for an HTTP authorization service.
    pub struct HttpAuthConfig {
        /// What is put before the path of the request.
        path: Option<Text> => Rule::Is(&PATH_CHARACTERS);
        /// Headers that the service gets to see beside the usual ones.
        allowed_headers: Vec<Text> => Rule::MaxItems(64), Rule::Unique;
        /// Headers of the service's answer that go on to the backend. Without it, all but the host.
        allowed_response_headers: Vec<Text> => Rule::MaxItems(64), Rule::Unique;
    }
}

crate::object! {
    /// How much of the body an authorization service gets to see.
    pub struct ForwardBodyConfig {
        /// The largest body in bytes; 0 sends none.
        max_size: u32 = 0 => Rule::Range(0, 2147483647);
    }
}
