//! Transept's discovery: how resources travel from a control plane to its proxies, as two state machines without IO.
//!
//! The wire is the delta variant of the public discovery protocol (`envoy.service.discovery.v3`, aggregated), the payload is the
//! resource itself: its canonical JSON, its content hash as version. The control plane drives one [`server::Session`] per stream
//! over one shared [`source::Store`], a proxy drives one [`client::Client`]; both are told the time and handed random bits. The
//! transport (gRPC over mutual TLS), who a proxy is, and what a resource means are left to others.

pub mod backoff;
pub mod bundle;
pub mod client;
pub mod grpc;
pub mod mesh;
pub mod messages;
pub mod refusal;
pub mod report;
pub mod resource;
pub mod server;
pub mod source;

pub use client::Client;
pub use resource::{Key, Resource, TypeUrl, Version};
pub use server::Session;
pub use source::Store;

/// The path of the one gRPC method that both state machines speak, a stream of messages in both directions.
pub const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
