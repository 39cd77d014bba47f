//! Steps that send traffic (sections 2.3, 2.4 and 3.5 of the suite's description).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    pub gateway: String,
    pub port: u16,
    pub scheme: Scheme,
    #[serde(default)]
    pub protocol: Protocol,
    pub tls: Option<Tls>,
    pub cases: Vec<HttpCase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub(crate) fn usual_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    #[default]
    H1,
    H2,
    H2c,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    pub server_name: String,
    /// `secret:ns/name`: this leaf. `configmap:ns/name`: this authority.
    pub trust: String,
    pub client_cert: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpCase {
    pub name: String,
    pub request: Request,
    pub expect: Expect,
    /// A query parameter that gets a new uuid.
    pub unique_query: Option<String>,
    /// `{uuid}` in the path is new for each attempt.
    #[serde(default)]
    pub fresh_uuid: bool,
    #[serde(default)]
    pub mirrored_to: Vec<MirroredTo>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    #[serde(default = "get")]
    pub method: String,
    pub host: Option<String>,
    pub path: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub echo_set_headers: BTreeMap<String, String>,
    /// Redirects are never followed here: no case expects what a followed redirect would give.
    #[serde(rename = "follow_redirects")]
    _follow_redirects: Option<bool>,
}

fn get() -> String {
    "GET".to_owned()
}

/// What must come back. Exactly one of `status`, `http_error` and `client_error` is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    #[serde(default)]
    pub status: Vec<u16>,
    #[serde(default)]
    pub http_error: bool,
    #[serde(default)]
    pub client_error: bool,
    #[serde(default)]
    pub client_cert_requested: bool,
    pub backend: Option<String>,
    pub namespace: Option<String>,
    pub seen: Option<Seen>,
    #[serde(default)]
    pub response_headers: BTreeMap<String, String>,
    #[serde(default)]
    pub response_headers_one_of: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub ignore_whitespace: bool,
    #[serde(default)]
    pub response_absent_headers: Vec<String>,
    pub answered_by: Option<AnsweredBy>,
    pub redirect: Option<Redirect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AnsweredBy {
    Gateway,
}

/// What the backend saw.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seen {
    pub method: String,
    pub path: String,
    pub host: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub absent_headers: Vec<String>,
    pub sni: Option<String>,
    pub client_cert: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redirect {
    pub scheme: String,
    pub path: String,
    pub host: Option<String>,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MirroredTo {
    pub backend: String,
    pub namespace: String,
    pub within_s: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grpc {
    pub gateway: String,
    pub port: u16,
    pub cases: Vec<GrpcCase>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrpcCase {
    pub name: String,
    pub request: GrpcRequest,
    pub expect: GrpcExpect,
    /// What the official comparison overlooks; compared here too.
    #[serde(default)]
    pub intended: Intended,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrpcRequest {
    pub method: String,
    pub authority: Option<String>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrpcExpect {
    pub code: Option<String>,
    pub backend: Option<String>,
    pub namespace: Option<String>,
    #[serde(default)]
    pub any_error: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Intended {
    #[serde(default)]
    pub metadata_seen: BTreeMap<String, String>,
    #[serde(default)]
    pub absent_metadata: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Websocket {
    pub gateway: String,
    pub port: u16,
    pub path: String,
    pub origin: String,
    pub exchange: Vec<Frames>,
}

/// One frame there and one back, as text or as bytes.
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum Frames {
    Text { send_text: String, expect_text: String },
    Bytes { send_bytes: Vec<u8>, expect_bytes: Vec<u8> },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tcp {
    pub gateway: String,
    pub port: u16,
    pub expect: TcpExpect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TcpExpect {
    pub backend: String,
    pub namespace: String,
    pub backend_is_tls: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TcpSamples {
    pub gateway: String,
    pub port: u16,
    pub count: usize,
    /// Only connect, until it works.
    #[serde(default)]
    pub connect_only: bool,
    /// Until it works.
    #[serde(default)]
    pub retry: bool,
    pub all_from: Option<String>,
    pub never_from: Option<String>,
    #[serde(rename = "timeout_s")]
    _timeout_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PodMatchesHeader {
    pub gateway: String,
    pub port: u16,
    pub request: Request,
    pub requests: usize,
    pub header: String,
    #[serde(default)]
    pub single_value: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Distribution {
    pub gateway: String,
    pub port: u16,
    pub via: Via,
    #[serde(default)]
    pub request: PlainRequest,
    pub requests: usize,
    pub concurrency: usize,
    pub weights: BTreeMap<String, f64>,
    pub tolerance: f64,
    pub max_tries: usize,
    /// `header NAME` or `metadata NAME`.
    pub jitter: Option<String>,
    pub connection: PerRequest,
    #[serde(default)]
    pub expect: Expect,
    /// For one connection; the limit of this runner is the same for all.
    #[serde(rename = "timeout_s")]
    _timeout_s: Option<u64>,
}

/// The protocol of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    Http,
    Grpc,
    Tcp,
}

/// The request of a distribution: a method of HTTP with a path, or a method of the echo service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlainRequest {
    #[serde(default = "get")]
    pub method: String,
    #[serde(default)]
    pub path: String,
}

/// Each request on a connection of its own.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) enum PerRequest {
    #[serde(rename = "per request")]
    PerRequest,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MirrorDistribution {
    #[serde(rename = "name")]
    _name: String,
    pub gateway: String,
    pub port: u16,
    pub request: Request,
    pub expect: Expect,
    pub requests: usize,
    pub concurrency: usize,
    pub unique_query: String,
    pub mirror: Mirror,
    #[serde(rename = "percent")]
    _percent: f64,
    #[serde(rename = "sigma")]
    _sigma: f64,
    pub min_count: usize,
    pub max_count: usize,
    pub max_tries: usize,
    pub pause_between_tries_s: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mirror {
    pub backend: String,
    pub namespace: String,
}
