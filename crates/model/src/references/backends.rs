//! A backendRef to what it stands for: a Service's port or a `Backend`, with protocol, TLS and endpoints.
//!
//! Called by `attach` to judge references and by the engine's compile to use them. The order of questions is that of Gateway
//! API: known kind, permission, existence, port, protocol.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::endpoints::{EndpointSource, backend_endpoints, find_endpoints};
use super::tls_policies::read_sans;
use super::{RefProblem, RefReason, References, Referrer, Target};
use crate::certificate::KeyPair;
use crate::kinds::{
    BackendObjectReference, BackendProtocol, BackendSpec, GrpcBackendRef, HttpBackendRef, Object,
    ServicePort, ServiceSpec, TRANSEPT_GROUP,
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
                }
            }
        }
    )+};
}

target_from!(BackendObjectReference, HttpBackendRef, GrpcBackendRef);

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
    pub(crate) fn new(
        group: &str,
        kind: &str,
        namespace: &'a str,
        name: &'a str,
    ) -> Option<BackendKey<'a>> {
        let kind = match (group, kind) {
            ("", "Service") => "Service",
            (TRANSEPT_GROUP, "Backend") => "Backend",
            _ => return None,
        };
        Some(Self {
            kind,
            namespace,
            name,
        })
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

/// A reference that leads to an existing backend.
pub(crate) enum FoundBackend<'w> {
    Service(&'w Object<ServiceSpec>, &'w ServicePort),
    Backend(&'w Object<BackendSpec>),
}

impl<'w> FoundBackend<'w> {
    pub(crate) fn key(&self) -> BackendKey<'w> {
        let (kind, meta) = match self {
            Self::Service(service, _) => ("Service", &service.meta),
            Self::Backend(backend) => ("Backend", &backend.meta),
        };
        BackendKey {
            kind,
            namespace: &meta.namespace,
            name: &meta.name,
        }
    }

    pub(crate) fn port_name(&self) -> Option<&'w str> {
        match self {
            Self::Service(_, port) => port.name.as_deref(),
            Self::Backend(_) => None,
        }
    }
}

impl<'w> References<'w> {
    /// Resolves a backendRef (or a mirror's) of the route `from`.
    ///
    /// # Errors
    /// `InvalidKind`, `RefNotPermitted`, `BackendNotFound` or `UnsupportedProtocol`, in this order; requests for such a
    /// backend are answered with 500.
    pub fn resolve_backend(
        &self,
        from: &Referrer<'_>,
        target: &BackendTarget<'_>,
    ) -> Result<ResolvedBackend, RefProblem> {
        let found = self.find_backend(from, target)?;
        let protocol = self.find_protocol(from, &found)?;
        let key = found.key();
        let port = match &found {
            FoundBackend::Service(_, port) => Some(port.port),
            FoundBackend::Backend(_) => None,
        };
        let id = BackendId {
            kind: key.kind,
            namespace: key.namespace.into(),
            name: key.name.into(),
            port,
        };
        let policy = self.tls_policies.select(&key, found.port_name());
        let tls = policy.map(|policy| policy.tls.clone());
        Ok(match &found {
            FoundBackend::Service(service, port) => ResolvedBackend {
                id,
                protocol,
                endpoints: find_endpoints(self.world, service, port),
                tls,
                connect_timeout: None,
            },
            FoundBackend::Backend(backend) => ResolvedBackend {
                id,
                protocol,
                endpoints: backend_endpoints(&backend.spec),
                tls: tls.or_else(|| self.own_tls(backend)),
                connect_timeout: Some(backend.spec.connect_timeout),
            },
        })
    }

    /// Judges a backendRef without collecting its endpoints.
    pub(crate) fn check_backend(
        &self,
        from: &Referrer<'_>,
        target: &BackendTarget<'_>,
    ) -> Result<FoundBackend<'w>, RefProblem> {
        let found = self.find_backend(from, target)?;
        self.find_protocol(from, &found)?;
        Ok(found)
    }

    /// The BackendTLSPolicies that concern a backend that was found.
    pub(crate) fn policies_concerning(
        &self,
        found: &FoundBackend<'w>,
    ) -> impl Iterator<Item = usize> + use<'_, 'w> {
        self.tls_policies
            .concerning(&found.key(), found.port_name())
    }

    fn find_backend(
        &self,
        from: &Referrer<'_>,
        target: &BackendTarget<'_>,
    ) -> Result<FoundBackend<'w>, RefProblem> {
        let BackendTarget {
            group, kind, name, ..
        } = *target;
        let namespace = target.namespace.unwrap_or(from.namespace);
        let Some(key) = BackendKey::new(group, kind, namespace, name) else {
            let group = if group.is_empty() {
                "the core group"
            } else {
                group
            };
            return Err(RefProblem::new(
                RefReason::InvalidKind,
                format!("a {kind} of {group} cannot be a backend"),
                "refer to a Service (group \"\") or a Backend (group transept.dev)",
            ));
        };
        let wanted = Target {
            group,
            kind,
            namespace,
            name,
        };
        self.check_grant(from, &wanted)?;
        let missing = || {
            RefProblem::new(
                RefReason::BackendNotFound,
                format!("there is no {} {namespace}/{name}", key.kind),
                format!("add it, or correct the name{}", self.near(&key)),
            )
        };
        if key.kind == "Backend" {
            let backend = self.world.backend(namespace, name).ok_or_else(missing)?;
            return Ok(FoundBackend::Backend(backend));
        }
        let service = self.world.service(namespace, name).ok_or_else(missing)?;
        match find_port(service, target.port) {
            Some(port) => Ok(FoundBackend::Service(service, port)),
            None => Err(no_port(service, target.port)),
        }
    }

    /// A name that may have been meant, as the end of a remedy.
    fn near(&self, key: &BackendKey<'_>) -> String {
        let names: Vec<&str> = if key.kind == "Backend" {
            let backends = self.world.backends().iter();
            let near = backends.filter(|b| b.meta.namespace == *key.namespace);
            near.map(|b| b.meta.name.as_str()).collect()
        } else {
            let services = self.world.services().iter();
            let near = services.filter(|s| s.meta.namespace == *key.namespace);
            near.map(|s| s.meta.name.as_str()).collect()
        };
        // A guess is worth little among thousands, and comparing them all would cost.
        match crate::suggest::nearest(key.name, names.iter().copied().take(200)) {
            Some(name) => format!(" (did you mean {name}?)"),
            None => String::new(),
        }
    }

    fn find_protocol(
        &self,
        from: &Referrer<'_>,
        found: &FoundBackend<'w>,
    ) -> Result<AppProtocol, RefProblem> {
        let spoken = match found {
            FoundBackend::Service(service, port) => {
                let tls = self.tls_policies.select(&found.key(), found.port_name());
                service_protocol(service, port, tls.is_some())?
            }
            FoundBackend::Backend(backend) => match backend.spec.protocol {
                BackendProtocol::Http => AppProtocol::Http,
                BackendProtocol::Http11 => AppProtocol::Http11,
                BackendProtocol::Http2 | BackendProtocol::H2c | BackendProtocol::Grpc => {
                    AppProtocol::Http2
                }
            },
        };
        match (from.kind, spoken) {
            ("GRPCRoute", AppProtocol::Http) => Ok(AppProtocol::Http2),
            ("GRPCRoute", AppProtocol::Http11 | AppProtocol::WebSocket) => {
                let key = found.key();
                Err(RefProblem::new(
                    RefReason::UnsupportedProtocol,
                    format!(
                        "the {} {}/{} speaks HTTP/1.1, but gRPC needs HTTP/2",
                        key.kind, key.namespace, key.name
                    ),
                    "set appProtocol kubernetes.io/h2c (Service) or protocol GRPC (Backend)",
                ))
            }
            (_, spoken) => Ok(spoken),
        }
    }

    /// TLS as a `Backend` itself asks for it.
    pub(crate) fn own_tls(
        &self,
        backend: &Object<BackendSpec>,
    ) -> Option<Result<Arc<BackendTls>, RefProblem>> {
        let tls = backend.spec.tls.as_ref()?;
        let from = Referrer {
            group: TRANSEPT_GROUP,
            kind: "Backend",
            namespace: &backend.meta.namespace,
        };
        let resolve = || {
            let (roots, _) = self.find_roots(
                &from,
                &tls.ca_certificate_refs,
                tls.well_known_ca_certificates,
            );
            let identity = tls.client_certificate_ref.as_ref().map(|reference| {
                self.key_pair(&from, reference, RefReason::InvalidClientCertificateRef)
            });
            Ok(Arc::new(BackendTls {
                server_name: tls.hostname.as_ref().map(|name| name.shared()),
                roots: roots?,
                sans: read_sans(&tls.subject_alt_names),
                client_identity: identity.transpose()?,
                source: backend.meta.object_name(),
            }))
        };
        Some(resolve())
    }
}

fn find_port(service: &Object<ServiceSpec>, wanted: Option<u16>) -> Option<&ServicePort> {
    let wanted = wanted?;
    let ports = || service.spec.ports.iter().filter(|p| p.port == wanted);
    // The same number may be there for TCP and UDP.
    ports()
        .find(|p| p.protocol == "TCP")
        .or_else(|| ports().next())
}

fn no_port(service: &Object<ServiceSpec>, wanted: Option<u16>) -> RefProblem {
    let name = format!("{}/{}", service.meta.namespace, service.meta.name);
    let ports: Vec<_> = service
        .spec
        .ports
        .iter()
        .map(|p| p.port.to_string())
        .collect();
    let remedy = if ports.is_empty() {
        "add the port to the Service".to_owned()
    } else {
        format!("use one of its ports: {}", ports.join(", "))
    };
    let why = match wanted {
        Some(port) => format!("the Service {name} has no port {port}"),
        None => format!("the reference to the Service {name} names no port"),
    };
    RefProblem::new(RefReason::BackendNotFound, why, remedy)
}

/// The protocol by GEP-1911. An appProtocol that is not known does no harm.
fn service_protocol(
    service: &Object<ServiceSpec>,
    port: &ServicePort,
    has_tls: bool,
) -> Result<AppProtocol, RefProblem> {
    let name = format_args!("{}/{}", service.meta.namespace, service.meta.name);
    if port.protocol != "TCP" {
        return Err(RefProblem::new(
            RefReason::UnsupportedProtocol,
            format!(
                "port {} of the Service {name} is {}",
                port.port, port.protocol
            ),
            "refer to a TCP port",
        ));
    }
    match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c") => Ok(AppProtocol::Http2),
        Some("kubernetes.io/ws") => Ok(AppProtocol::WebSocket),
        Some("kubernetes.io/wss") if has_tls => Ok(AppProtocol::WebSocket),
        Some("kubernetes.io/wss") => Err(RefProblem::new(
            RefReason::UnsupportedProtocol,
            format!(
                "port {} of the Service {name} is kubernetes.io/wss, but nothing says how its certificate is verified",
                port.port
            ),
            "add a BackendTLSPolicy for the Service",
        )),
        _ => Ok(AppProtocol::Http),
    }
}
