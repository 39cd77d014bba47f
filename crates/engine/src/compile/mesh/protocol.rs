//! What the declarations of Services, Workloads and sidecars mean for the proxies on both sides. The words are read by the model.

pub use transept_model::kinds::AppProtocol;

use crate::snapshot::{Speaks, UpstreamProtocol};

/// What is done about the first bytes of a client.
pub(super) fn speaks(protocol: AppProtocol) -> Speaks {
    match protocol {
        AppProtocol::Unknown => Speaks::Detect,
        AppProtocol::Http1 | AppProtocol::Http2 => Speaks::Http,
        AppProtocol::Opaque => Speaks::Opaque,
    }
}

/// What is spoken to the program.
pub(super) fn upstream(protocol: AppProtocol) -> UpstreamProtocol {
    match protocol {
        AppProtocol::Http1 => UpstreamProtocol::Http1,
        AppProtocol::Http2 => UpstreamProtocol::Http2,
        AppProtocol::Unknown | AppProtocol::Opaque => UpstreamProtocol::Auto,
    }
}
