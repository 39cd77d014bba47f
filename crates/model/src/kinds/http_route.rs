//! HTTPRoute (gateway.networking.k8s.io/v1).
//!
//! Matching and precedence are `engine`'s, attachment is `attach`'s.

use std::time::Duration;

use crate::kinds::GATEWAY_GROUP;
use crate::kinds::filters::HttpRouteFilter;
use crate::kinds::metadata::{Body, Kind, Scope};
use crate::kinds::refs::ParentReference;
use crate::kinds::route_rules as rules;
use crate::kinds::session::SessionPersistence;
use crate::schema::{
    GROUP, HEADER_NAME, HEADER_VALUE, HOSTNAME, KIND, NAMESPACE, OBJECT_NAME, Rule, SECTION_NAME, Text,
};

crate::object! {
    /// An HTTPRoute: which HTTP requests go where.
    pub struct HttpRouteSpec {
        /// The Gateways (or for the mesh the Services) the route attaches to. When it comes from a file and there is only one
        /// Gateway, it may be left out.
        parent_refs: Vec<ParentReference> => Rule::MaxItems(32);
        /// Attaches the route to the default Gateways of this scope (experimental).
        use_default_gateways: Option<crate::kinds::gateway::DefaultScope>;
        /// The hosts the route serves. Without it, every host of the listeners it attaches to.
        hostnames: Vec<Text> => Rule::MaxItems(16), Rule::Is(&HOSTNAME);
        /// What is done with the requests.
        rules: Vec<HttpRouteRule> = vec![HttpRouteRule::default()] => Rule::MinItems(1), Rule::MaxItems(16);
    }
    check rules::check_http_route;
}

impl Kind for HttpRouteSpec {
    const KIND: &'static str = "HTTPRoute";
    const GROUP: &'static str = GATEWAY_GROUP;
    const VERSIONS: &'static [&'static str] = &["v1", "v1beta1"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "Which HTTP requests go where, and what happens to them on the way.";
}

crate::object! {
    /// A rule: requests that one of the matches fits are filtered and sent to the backends.
    pub struct HttpRouteRule {
        /// A name, unique within the route. Policies refer to it with `sectionName`.
        name: Option<Text> => Rule::Is(&SECTION_NAME);
        /// Which requests; one of the matches must fit. Without it, all.
        matches: Vec<HttpRouteMatch> = vec![HttpRouteMatch::default()] => Rule::MaxItems(64);
        /// What happens to the requests and their responses, in order.
        filters: Vec<HttpRouteFilter> => Rule::MaxItems(16);
        /// Where the requests go, by weight.
        backend_refs: Vec<HttpBackendRef> => Rule::MaxItems(16);
        /// How long a request may take.
        timeouts: Option<Box<HttpTimeouts>>;
        /// When a request is tried again (experimental).
        retry: Option<Box<HttpRetry>>;
        /// Keeps the requests of a session at the same endpoint (experimental).
        session_persistence: Option<Box<SessionPersistence>>;
    }
    check rules::check_http_rule;
}

impl Default for HttpRouteRule {
    /// The rule that Gateway API fills in: everything matches, nothing happens.
    fn default() -> Self {
        Self {
            at: Default::default(),
            name: None,
            matches: vec![HttpRouteMatch::default()],
            filters: Vec::new(),
            backend_refs: Vec::new(),
            timeouts: None,
            retry: None,
            session_persistence: None,
        }
    }
}

crate::object! {
    /// What a request must look like. Everything that is set must fit.
    pub struct HttpRouteMatch {
        /// The path.
        path: HttpPathMatch = HttpPathMatch::default();
        /// Headers that must be there.
        headers: Vec<HttpHeaderMatch> => Rule::MaxItems(16), Rule::UniqueBy("name");
        /// Query parameters that must be there.
        query_params: Vec<HttpQueryParamMatch> => Rule::MaxItems(16), Rule::UniqueBy("name");
        /// The method.
        method: Option<HttpMethod>;
    }
}

impl Default for HttpRouteMatch {
    /// Every request.
    fn default() -> Self {
        Self {
            at: Default::default(),
            path: HttpPathMatch::default(),
            headers: Vec::new(),
            query_params: Vec::new(),
            method: None,
        }
    }
}

crate::choice! {
    /// How a path is compared.
    pub enum PathMatchType {
        /// The whole path, byte for byte.
        Exact = "Exact",
        /// The first path elements; a `/` at the end of the value makes no difference.
        PathPrefix = "PathPrefix",
        /// By a regular expression for the whole path.
        RegularExpression = "RegularExpression",
    }
}

crate::object! {
    /// A condition on the path.
    pub struct HttpPathMatch {
        /// How the path is compared.
        r#type: PathMatchType = PathMatchType::PathPrefix;
        /// What it is compared with.
        value: Text = "/".into() => Rule::Length(0, 1024);
    }
    check rules::check_path;
}

impl Default for HttpPathMatch {
    /// The prefix `/`.
    fn default() -> Self {
        Self { at: Default::default(), r#type: PathMatchType::PathPrefix, value: "/".into() }
    }
}

crate::choice! {
    /// How a header, a query parameter or a gRPC method is compared.
    pub enum MatchType {
        /// Byte for byte.
        Exact = "Exact",
        /// By a regular expression for the whole value.
        RegularExpression = "RegularExpression",
    }
}

crate::object! {
    /// A condition on a header. Used by HTTPRoute and GRPCRoute.
    pub struct HttpHeaderMatch {
        /// How the value is compared.
        r#type: MatchType = MatchType::Exact;
        /// The name of the header, in any case.
        name: Text => Rule::Is(&HEADER_NAME);
        /// What the value is compared with.
        value: Text => Rule::Is(&HEADER_VALUE);
    }
}

crate::object! {
    /// A condition on a query parameter.
    pub struct HttpQueryParamMatch {
        /// How the value is compared.
        r#type: MatchType = MatchType::Exact;
        /// The name of the parameter; case matters.
        name: Text => Rule::Is(&HEADER_NAME);
        /// What the value is compared with; case matters.
        value: Text => Rule::Length(1, 1024);
    }
}

crate::choice! {
    /// A method of HTTP (RFC 9110 section 9, RFC 5789).
    pub enum HttpMethod {
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
    }
}

crate::object! {
    /// A backend with its share of the requests.
    pub struct HttpBackendRef {
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
        /// The share of requests, in proportion to the other weights of the rule.
        weight: u32 = 1 => Rule::Range(0, 1_000_000);
        /// What happens to the requests that go to this backend.
        filters: Vec<HttpRouteFilter> => Rule::MaxItems(16);
    }
    check rules::check_http_backend;
}

crate::object! {
    /// How long a request may take. `0s` is no limit.
    pub struct HttpTimeouts {
        /// From the request to the end of the response, with all retries.
        request: Option<Duration>;
        /// One try at one backend. Not longer than `request`.
        backend_request: Option<Duration>;
    }
    check rules::check_timeouts;
}

crate::object! {
    /// When a request is tried again. Connections that fail are retried as well.
    pub struct HttpRetry {
        /// Status codes of the backend after which the request is tried again.
        codes: Vec<u16> => Rule::Range(400, 599);
        /// How often, after the first try. With 0 all is as without `retry`, whatever the policy of the backend says.
        attempts: Option<u32> => Rule::Range(0, 2147483647);
        /// How long to wait at least before a try.
        backoff: Option<Duration>;
    }
}
