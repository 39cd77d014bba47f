//! The types of `topology.yaml`: what must be running around a gateway. Read by `suite`, used by `scene` and `certificates`.

use serde::Deserialize;
use serde_json::Value;

/// The parts of the file that a runner needs; the rest describes them in words.
#[derive(Debug, Deserialize)]
pub(crate) struct Topology {
    /// Certificates to make.
    pub certificates: Certificates,
    /// Deployments, each with its replicas.
    pub workloads: Vec<Workload>,
    /// Services, with the workloads behind them.
    pub services: Vec<Service>,
    /// Gateways of all manifests.
    pub gateways: Vec<Gateway>,
}

/// The list of certificate objects.
#[derive(Debug, Deserialize)]
pub(crate) struct Certificates {
    /// Secrets and ConfigMaps.
    pub objects: Vec<CertificateObject>,
}

/// One Secret or ConfigMap.
#[derive(Debug, Deserialize)]
pub(crate) struct CertificateObject {
    /// `namespace/name`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// `Secret` (a leaf with its key) or `ConfigMap` (an authority).
    pub object: String,
    /// The authority, or `itself`.
    pub signed_by: Option<String>,
    /// `server auth` or `client auth`.
    pub usage: Option<String>,
    /// DNS names of a leaf.
    #[serde(default)]
    pub dns_names: Vec<String>,
    /// URI names of a leaf.
    #[serde(default)]
    pub uri_names: Vec<String>,
}

/// One Deployment.
#[derive(Debug, Deserialize)]
pub(crate) struct Workload {
    /// Namespace of its pods.
    pub namespace: String,
    /// Name of the Deployment.
    pub name: String,
    /// The manifest that brings it.
    pub manifest: String,
    /// `http-echo`, `grpc-echo`, and others that no case in scope calls.
    pub role: String,
    /// Number of pods.
    pub replicas: u8,
    /// Ports to listen on.
    pub ports: Vec<u16>,
    /// Certificate of its TLS port.
    pub tls: Option<WorkloadTls>,
}

/// The TLS port of a workload.
#[derive(Debug, Deserialize)]
pub(crate) struct WorkloadTls {
    /// `secret:namespace/name`.
    pub certificate: String,
    /// `configmap:namespace/name`.
    pub client_ca: Option<String>,
}

/// One Service.
#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The manifest that brings it.
    pub manifest: String,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// A list of `namespace/workload`, or a sentence when its slices are in the manifest.
    pub endpoints: Value,
}

/// One port of a Service.
#[derive(Debug, Deserialize)]
pub(crate) struct ServicePort {
    /// Name; empty if it has none.
    #[serde(default)]
    pub name: String,
    /// Port of the Service.
    pub port: u16,
    /// Port of the pods.
    pub target_port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Protocol above it.
    pub app_protocol: Option<String>,
}

/// One Gateway.
#[derive(Debug, Deserialize)]
pub(crate) struct Gateway {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its `spec.addresses` are part of the test.
    #[serde(default)]
    pub keeps_own_addresses: bool,
}
