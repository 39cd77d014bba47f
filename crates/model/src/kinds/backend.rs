//! Backend (transept.dev/v1alpha1): addresses and names for which Kubernetes has no word.
//!
//! A route refers to it with `group: transept.dev, kind: Backend`. Names are resolved by the proxy; certificates by `attach`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::kinds::TRANSEPT_GROUP;
use crate::kinds::backend_tls_policy::{SubjectAltName, WellKnownCaCertificates};
use crate::kinds::metadata::{Body, Kind, Scope};
use crate::kinds::refs::{LocalObjectReference, SecretObjectReference};
use crate::schema::{Decoder, PRECISE_HOSTNAME, Rule, Text};
use crate::value::{Value, quote};

crate::object! {
    /// A Backend: endpoints by address or DNS name, and how to talk to them.
    pub struct BackendSpec {
        /// The endpoints. Requests are spread over them by weight.
        endpoints: Vec<BackendEndpoint> => Rule::MinItems(1), Rule::MaxItems(1000);
        /// The protocol spoken with the endpoints.
        protocol: BackendProtocol = BackendProtocol::Http;
        /// Speaks TLS with the endpoints. A BackendTLSPolicy for this Backend wins over it.
        tls: Option<BackendTls>;
        /// How long connecting to an endpoint may take, TLS included.
        connect_timeout: Duration = Duration::from_secs(5);
    }
    check check_backend;
}

impl Kind for BackendSpec {
    const KIND: &'static str = "Backend";
    const GROUP: &'static str = TRANSEPT_GROUP;
    const VERSIONS: &'static [&'static str] = &["v1alpha1"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "Plain addresses and DNS names as a place where routes can send requests.";
}

crate::object! {
    /// One endpoint, or as many as a DNS name has addresses.
    pub struct BackendEndpoint {
        /// An IPv4 or IPv6 address, or a DNS name, which is resolved again when its time to live is over.
        address: Text => Rule::Length(1, 253);
        /// The port.
        port: u16 => Rule::Range(1, 65535);
        /// The share of requests, in proportion to the other weights. 0 takes no new requests.
        weight: u32 = 1 => Rule::Range(0, 1_000_000);
        /// The zone it is in, for TrafficPolicies with `locality`.
        zone: Option<Text> => Rule::Length(1, 63);
    }
    check check_endpoint;
}

impl BackendEndpoint {
    /// The address, when it is one; none when it is a DNS name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.parse().ok()
    }
}

crate::choice! {
    /// The protocol spoken with a backend.
    pub enum BackendProtocol {
        /// HTTP/1.1; over TLS also HTTP/2 when the backend offers it (ALPN).
        Http = "HTTP",
        /// HTTP/1.1 only.
        Http11 = "HTTP11",
        /// HTTP/2 only: by ALPN over TLS, with prior knowledge without TLS.
        Http2 = "HTTP2",
        /// HTTP/2 without TLS, with prior knowledge.
        H2c = "H2C",
        /// gRPC: the same as HTTP2.
        Grpc = "GRPC",
    }
}

crate::object! {
    /// TLS towards a backend. Without further settings the certificate must be valid for the endpoint's name and signed by an
    /// authority that the operating system trusts.
    pub struct BackendTls {
        /// The name sent as SNI, and the name the certificate must be for unless `subjectAltNames` are given. Without it, the
        /// DNS name of the endpoint.
        hostname: Option<Text> => Rule::Is(&PRECISE_HOSTNAME);
        /// ConfigMaps with the certificates of authorities under `ca.crt`.
        ca_certificate_refs: Vec<LocalObjectReference> => Rule::MaxItems(8);
        /// A well-known set of authorities. The default when there are no `caCertificateRefs`.
        well_known_ca_certificates as "wellKnownCACertificates": Option<WellKnownCaCertificates>;
        /// Names of which the certificate must have one.
        subject_alt_names: Vec<SubjectAltName> => Rule::MaxItems(5);
        /// A Secret with the certificate to present when the backend asks for one.
        client_certificate_ref: Option<SecretObjectReference>;
    }
    check check_tls;
}

fn check_backend(backend: &BackendSpec, value: &Value, cx: &mut Decoder) {
    if backend.protocol == BackendProtocol::H2c && backend.tls.is_some() {
        cx.refuse_field(value, "protocol", "H2C is HTTP/2 without TLS, but `tls` is set")
            .remedy("write `protocol: HTTP2`, or remove `tls`");
    }
    let named = backend.tls.as_ref().is_some_and(|tls| tls.hostname.is_none() && tls.subject_alt_names.is_empty());
    if named && let Some(endpoint) = backend.endpoints.iter().find(|one| one.ip().is_some()) {
        let why =
            format!("the endpoint on line {} is an address: for which name is its certificate?", endpoint.at.line);
        cx.refuse_field(value, "tls", why).remedy("add `tls.hostname:` with the name in the certificate");
    }
    cx.within("endpoints", |cx| {
        let mut seen: HashMap<(&str, u16), u32> = HashMap::new();
        for (index, endpoint) in backend.endpoints.iter().enumerate() {
            let key = (endpoint.address.as_str(), endpoint.port);
            if let Some(line) = seen.insert(key, endpoint.at.line) {
                let why = format!("the endpoint on line {line} has the same address and port");
                cx.within(index, |cx| {
                    cx.refuse(endpoint.at, why).remedy("give one of them a higher weight instead");
                });
            }
        }
    });
}

fn check_endpoint(endpoint: &BackendEndpoint, value: &Value, cx: &mut Decoder) {
    let text = endpoint.address.as_str();
    if endpoint.ip().is_some() {
        return;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    // Names in real DNS zones may hold underscores and upper case; only what cannot be a name at all is refused.
    let good = name.split('.').all(|label| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    if good && !numeric {
        return;
    }
    let why = format!("{} is neither an IP address nor a DNS name", quote(text));
    let invalid = cx.refuse_field(value, "address", why);
    if text.contains("://") {
        invalid.remedy("only the name: the scheme is `protocol` and `tls`, the port is `port`");
    } else if text.contains(']') || text.matches(':').count() == 1 {
        invalid.remedy("the port goes into `port`");
    }
}

fn check_tls(tls: &BackendTls, value: &Value, cx: &mut Decoder) {
    if !tls.ca_certificate_refs.is_empty() && tls.well_known_ca_certificates.is_some() {
        cx.refuse_field(
            value,
            "wellKnownCACertificates",
            "`caCertificateRefs` and `wellKnownCACertificates` cannot both be set",
        )
        .remedy("keep one of them");
    }
}
