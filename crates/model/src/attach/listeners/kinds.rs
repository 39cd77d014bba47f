//! The kinds of routes that a listener lets attach.
//!
//! Read from its protocol and `allowedRoutes.kinds`; asked when routes attach, and shown as `supportedKinds`.

use crate::kinds::{GATEWAY_GROUP, Protocol, RouteGroupKind};
use crate::place::Spot;

/// Which of the kinds of routes that we serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::attach) struct RouteKinds {
    http: bool,
    grpc: bool,
    tcp: bool,
}

impl RouteKinds {
    pub(in crate::attach) fn none() -> Self {
        Self { http: false, grpc: false, tcp: false }
    }

    /// What listeners of a protocol can serve.
    fn of(protocol: &Protocol) -> Self {
        match protocol {
            Protocol::Http | Protocol::Https => Self { http: true, grpc: true, tcp: false },
            Protocol::Tcp => Self { tcp: true, ..Self::none() },
            _ => Self::none(),
        }
    }

    /// The kinds that a listener names (all that its protocol can serve when it names none), and those that cannot attach, with
    /// their positions.
    pub(super) fn read(protocol: &Protocol, named: &[RouteGroupKind]) -> (Self, Vec<(usize, Spot, String)>) {
        let able = Self::of(protocol);
        if named.is_empty() {
            return (able, Vec::new());
        }
        let mut kinds = Self::none();
        let mut unknown = Vec::new();
        for (position, one) in named.iter().enumerate() {
            match (one.group.as_str(), one.kind.as_str()) {
                (GATEWAY_GROUP, "HTTPRoute") if able.http => kinds.http = true,
                (GATEWAY_GROUP, "GRPCRoute") if able.grpc => kinds.grpc = true,
                (GATEWAY_GROUP, "TCPRoute") if able.tcp => kinds.tcp = true,
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
            "TCPRoute" => self.tcp,
            _ => false,
        }
    }

    /// Their names, for the status.
    pub(super) fn names(self) -> Vec<&'static str> {
        let all = [("HTTPRoute", self.http), ("GRPCRoute", self.grpc), ("TCPRoute", self.tcp)];
        all.into_iter().filter(|(_, allowed)| *allowed).map(|(name, _)| name).collect()
    }
}
