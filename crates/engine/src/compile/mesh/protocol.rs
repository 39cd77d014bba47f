//! The words by which Services, Workloads and sidecars declare what a port speaks.

use crate::snapshot::{Speaks, UpstreamProtocol};

/// What a port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppProtocol {
    /// Nobody said: the first bytes tell.
    #[default]
    Unknown,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge, gRPC among it.
    Http2,
    /// Something that is not looked at.
    Opaque,
}

impl AppProtocol {
    /// What an `appProtocol` says. A word that is not known says nothing.
    pub fn of(word: Option<&str>) -> AppProtocol {
        match word.unwrap_or_default() {
            "http" | "HTTP" | "kubernetes.io/ws" => AppProtocol::Http1,
            "http2" | "grpc" | "h2c" | "kubernetes.io/h2c" => AppProtocol::Http2,
            "tcp" | "TCP" | "tls" | "https" | "mysql" | "postgres" | "redis" | "mongo" | "amqp" => AppProtocol::Opaque,
            _ => AppProtocol::Unknown,
        }
    }

    pub(super) fn speaks(self) -> Speaks {
        match self {
            AppProtocol::Unknown => Speaks::Detect,
            AppProtocol::Http1 | AppProtocol::Http2 => Speaks::Http,
            AppProtocol::Opaque => Speaks::Opaque,
        }
    }

    pub(super) fn upstream(self) -> UpstreamProtocol {
        match self {
            AppProtocol::Http1 => UpstreamProtocol::Http1,
            AppProtocol::Http2 => UpstreamProtocol::Http2,
            AppProtocol::Unknown | AppProtocol::Opaque => UpstreamProtocol::Auto,
        }
    }
}
