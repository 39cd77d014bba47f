//! What a backend is once its reference is resolved: identity, protocol, TLS, endpoints.
//!
//! Made by `backends`, read by the engine's compile. Types only.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::RefProblem;
use super::endpoints::EndpointSource;
use crate::certificate::KeyPair;
use crate::kinds::{
    BackendObjectReference, GrpcBackendRef, HttpBackendRef, ParentReference, TRANSEPT_GROUP, TcpBackendRef,
};
use crate::place::ObjectName;

/// A backend as a reference names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendTarget<'a> {
    /// The group; empty for Service.
    pub group: &'a str,
    /// The kind.
    pub kind: &'a str,
    /// The namespace, if it is written.
    pub namespace: Option<&'a str>,
    /// The name.
    pub name: &'a str,
    /// The port, if it is written.
    pub port: Option<u16>,
    /// Who allows a reference into another namespace.
    pub grant: Grant,
}

/// Who allows a reference into another namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grant {
    /// A ReferenceGrant there.
    Needed,
    /// Nobody has to: the route does no more than pass on what its clients send to this very Service.
    Implied,
}

impl BackendTarget<'_> {
    /// The same target as a route in namespace `own` with these parents names it. A consumer's route in the mesh may lead to the
    /// Service that it is about (GEP-1426), unless it is on a Gateway too: that would let others in.
    pub fn of_route(mut self, parents: &[ParentReference], own: &str) -> Self {
        let namespace = self.namespace.unwrap_or(own);
        let is_service = |parent: &ParentReference| parent.group.is_empty() && &*parent.kind == "Service";
        let is_it = |parent: &ParentReference| {
            &*parent.name == self.name && parent.namespace.as_deref().unwrap_or(own) == namespace
        };
        if self.group.is_empty()
            && self.kind == "Service"
            && parents.iter().all(is_service)
            && parents.iter().any(is_it)
        {
            self.grant = Grant::Implied;
        }
        self
    }
}

macro_rules! target_from {
    ($($reference:ty),+) => {$(
        impl<'a> From<&'a $reference> for BackendTarget<'a> {
            fn from(reference: &'a $reference) -> Self {
                Self {
                    group: &reference.group,
                    kind: &reference.kind,
                    namespace: reference.namespace.as_deref(),
                    name: &reference.name,
                    port: reference.port,
                    grant: Grant::Needed,
                }
            }
        }
    )+};
}

target_from!(BackendObjectReference, HttpBackendRef, GrpcBackendRef, TcpBackendRef);

/// The identity of a backend: stable across reloads, the key of everything that outlives one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId {
    /// `Service` or `Backend`.
    pub kind: &'static str,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// The port of the Service; none for a `Backend`.
    pub port: Option<u16>,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// A backend without its port, for looking things up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BackendKey<'a> {
    pub(crate) kind: &'static str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> BackendKey<'a> {
    /// Nothing for a kind that cannot be a backend.
    pub(crate) fn new(group: &str, kind: &str, namespace: &'a str, name: &'a str) -> Option<BackendKey<'a>> {
        let kind = match (group, kind) {
            ("", "Service") => "Service",
            (TRANSEPT_GROUP, "Backend") => "Backend",
            _ => return None,
        };
        Some(Self { kind, namespace, name })
    }
}

/// What is spoken with a backend, beside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// HTTP/1.1; over TLS also HTTP/2 when the backend offers it.
    Http,
    /// HTTP/1.1 and nothing else.
    Http11,
    /// HTTP/2: by ALPN over TLS, with prior knowledge without.
    Http2,
    /// WebSocket: HTTP/1.1 with an upgrade.
    WebSocket,
}

/// The authorities that may vouch for a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Those of the operating system.
    System,
    /// These and no others.
    Bundle(Arc<[CertificateDer<'static>]>),
}

/// A name that a backend's certificate must have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum San {
    /// A DNS name, maybe with `*.` in front.
    Dns(Arc<str>),
    /// A URI, such as a SPIFFE id.
    Uri(Arc<str>),
}

/// TLS towards a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTls {
    /// The SNI, and the name that is verified unless there are `sans`. None: the DNS name of the endpoint.
    pub server_name: Option<Arc<str>>,
    /// Who may have signed the certificate.
    pub roots: Roots,
    /// Names of which the certificate must have one; then `server_name` is SNI only.
    pub sans: Vec<San>,
    /// What is presented to this backend instead of the Gateway's own client certificate.
    pub client_identity: Option<Arc<KeyPair>>,
    /// The object that says so.
    pub source: ObjectName,
}

/// Everything that is needed to talk to a backend.
#[derive(Debug, Clone)]
pub struct ResolvedBackend {
    /// Which backend it is.
    pub id: BackendId,
    /// What is spoken.
    pub protocol: AppProtocol,
    /// Who answers.
    pub endpoints: EndpointSource,
    /// TLS, if it is asked for. A problem here is not one of the route: its requests must be answered with an error.
    pub tls: Option<Result<Arc<BackendTls>, RefProblem>>,
    /// How long connecting may take, when the backend says so.
    pub connect_timeout: Option<Duration>,
}
