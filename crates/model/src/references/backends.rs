//! A backendRef to what it stands for: a Service's port or a `Backend`, with protocol, TLS and endpoints.
//!
//! Called by `attach` to judge references and by the engine's compile to use them. The order of questions is that of Gateway
//! API: known kind, permission, existence, port, protocol.

use std::sync::Arc;

use super::endpoints::{backend_endpoints, find_endpoints};
use super::resolved::{AppProtocol, BackendId, BackendKey, BackendTarget, BackendTls, Grant, ResolvedBackend};
use super::tls_policies::read_sans;
use super::{RefProblem, RefReason, References, Referrer, Target};
use crate::kinds::{BackendProtocol, BackendSpec, Object, ServicePort, ServiceSpec, TRANSEPT_GROUP};
use crate::policy::article;

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
        BackendKey { kind, namespace: &meta.namespace, name: &meta.name }
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
        let id = BackendId { kind: key.kind, namespace: key.namespace.into(), name: key.name.into(), port };
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
    pub(crate) fn policies_concerning(&self, found: &FoundBackend<'w>) -> impl Iterator<Item = usize> + use<'_, 'w> {
        self.tls_policies.concerning(&found.key(), found.port_name())
    }

    fn find_backend(&self, from: &Referrer<'_>, target: &BackendTarget<'_>) -> Result<FoundBackend<'w>, RefProblem> {
        let BackendTarget { group, kind, name, .. } = *target;
        let namespace = target.namespace.unwrap_or(from.namespace);
        let Some(key) = BackendKey::new(group, kind, namespace, name) else {
            let group = if group.is_empty() { "the core group" } else { group };
            return Err(RefProblem::new(
                RefReason::InvalidKind,
                format!("{} {kind} of {group} cannot be a backend", article(kind)),
                "refer to a Service (group \"\") or a Backend (group transept.dev)",
            ));
        };
        let wanted = Target { group, kind, namespace, name };
        if target.grant == Grant::Needed {
            self.check_grant(from, &wanted)?;
        }
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

    fn find_protocol(&self, from: &Referrer<'_>, found: &FoundBackend<'w>) -> Result<AppProtocol, RefProblem> {
        let spoken = match found {
            FoundBackend::Service(service, port) if from.kind == "TCPRoute" => stream_protocol(service, port)?,
            FoundBackend::Service(service, port) => {
                let tls = self.tls_policies.select(&found.key(), found.port_name());
                service_protocol(service, port, tls.is_some())?
            }
            FoundBackend::Backend(backend) => match backend.spec.protocol {
                BackendProtocol::Http => AppProtocol::Http,
                BackendProtocol::Http11 => AppProtocol::Http11,
                BackendProtocol::Http2 | BackendProtocol::H2c | BackendProtocol::Grpc => AppProtocol::Http2,
            },
        };
        match (from.kind, spoken) {
            ("GRPCRoute", AppProtocol::Http) => Ok(AppProtocol::Http2),
            ("GRPCRoute", AppProtocol::Http11 | AppProtocol::WebSocket) => {
                let key = found.key();
                Err(RefProblem::new(
                    RefReason::UnsupportedProtocol,
                    format!("the {} {}/{} speaks HTTP/1.1, but gRPC needs HTTP/2", key.kind, key.namespace, key.name),
                    "set appProtocol kubernetes.io/h2c (Service) or protocol GRPC (Backend)",
                ))
            }
            (_, spoken) => Ok(spoken),
        }
    }

    /// TLS as a `Backend` itself asks for it.
    pub(crate) fn own_tls(&self, backend: &Object<BackendSpec>) -> Option<Result<Arc<BackendTls>, RefProblem>> {
        let tls = backend.spec.tls.as_ref()?;
        let from = Referrer { group: TRANSEPT_GROUP, kind: "Backend", namespace: &backend.meta.namespace };
        let resolve = || {
            let found = self.find_roots(&from, &tls.ca_certificate_refs, tls.well_known_ca_certificates);
            let identity = tls
                .client_certificate_ref
                .as_ref()
                .map(|reference| self.key_pair(&from, reference, RefReason::InvalidClientCertificateRef));
            Ok(Arc::new(BackendTls {
                server_name: tls.hostname.as_ref().map(|name| name.shared()),
                roots: found.roots?,
                sans: read_sans(&tls.subject_alt_names),
                client_identity: identity.transpose()?.map(|found| found.pair),
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
    ports().find(|p| p.protocol == "TCP").or_else(|| ports().next())
}

fn no_port(service: &Object<ServiceSpec>, wanted: Option<u16>) -> RefProblem {
    let name = format!("{}/{}", service.meta.namespace, service.meta.name);
    let ports: Vec<_> = service.spec.ports.iter().map(|p| p.port.to_string()).collect();
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
    needs_tcp(service, port)?;
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

/// What a port speaks to those who do not look: only how its endpoints are reached when others do.
fn stream_protocol(service: &Object<ServiceSpec>, port: &ServicePort) -> Result<AppProtocol, RefProblem> {
    needs_tcp(service, port)?;
    Ok(match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c") => AppProtocol::Http2,
        Some("kubernetes.io/ws" | "kubernetes.io/wss") => AppProtocol::WebSocket,
        _ => AppProtocol::Http,
    })
}

fn needs_tcp(service: &Object<ServiceSpec>, port: &ServicePort) -> Result<(), RefProblem> {
    if port.protocol == "TCP" {
        return Ok(());
    }
    let name = format_args!("{}/{}", service.meta.namespace, service.meta.name);
    let why = format!("port {} of the Service {name} is {}", port.port, port.protocol);
    Err(RefProblem::new(RefReason::UnsupportedProtocol, why, "refer to a TCP port"))
}
