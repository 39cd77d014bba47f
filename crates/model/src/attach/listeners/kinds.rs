//! The kinds of routes that a listener lets attach.
//!
//! Read from `allowedRoutes.kinds`; asked when routes attach, and shown as `supportedKinds`.

use crate::kinds::{GATEWAY_GROUP, RouteGroupKind};
use crate::place::Spot;

/// Which of the kinds of routes that HTTP and HTTPS listeners can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::attach) struct RouteKinds {
    http: bool,
    grpc: bool,
}

impl RouteKinds {
    pub(in crate::attach) fn none() -> Self {
        Self { http: false, grpc: false }
    }

    /// The kinds that a listener names (all of them when it names none), and those that cannot attach, with their positions.
    pub(super) fn read(named: &[RouteGroupKind]) -> (Self, Vec<(usize, Spot, String)>) {
        if named.is_empty() {
            let all = Self { http: true, grpc: true };
            return (all, Vec::new());
        }
        let mut kinds = Self::none();
        let mut unknown = Vec::new();
        for (position, one) in named.iter().enumerate() {
            match (one.group.as_str(), one.kind.as_str()) {
                (GATEWAY_GROUP, "HTTPRoute") => kinds.http = true,
                (GATEWAY_GROUP, "GRPCRoute") => kinds.grpc = true,
                (GATEWAY_GROUP, kind) => unknown.push((position, one.at, kind.to_owned())),
                (group, kind) => unknown.push((position, one.at, format!("{kind} ({group})"))),
            }
        }
        (kinds, unknown)
    }

    pub(in crate::attach) fn allow(self, kind: &str) -> bool {
        match kind {
            "HTTPRoute" => self.http,
            "GRPCRoute" => self.grpc,
            _ => false,
        }
    }

    /// Their names, for the status.
    pub(super) fn names(self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.http {
            names.push("HTTPRoute");
        }
        if self.grpc {
            names.push("GRPCRoute");
        }
        names
    }
}
