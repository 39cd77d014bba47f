//! The settings of a listener: limits, timeouts, trusted proxies, path rules.
//!
//! Compiled from the defaults below and from `ListenerPolicy` (`policies/listener.rs`); read by the proxy before and while it reads a
//! request, and by `forwarded` and `trace`. Plain values only; no setting here is enforced here.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use transept_wire::h1::Underscore;
use transept_wire::normalize::{Controls, PathRules, Slashes};

use crate::policies::IdentityPattern;
use crate::role::Role;

/// Everything about a listener that is not routing.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the bind is for. In the mesh, what a request says about the client stays as it is: the gateway in front has settled it.
    pub role: Role,
    /// How large and how many.
    pub limits: Limits,
    /// How long.
    pub timeouts: ListenerTimeouts,
    /// Whose word is taken about the client's address.
    pub trusted_proxies: Box<[IpNet]>,
    /// Whether the RFC 7239 `Forwarded` field is sent upstream besides `X-Forwarded-*`.
    pub forwarded: Emit,
    /// What happens to a trace that a client brings.
    pub trace: TraceEdge,
    /// How paths are normalised.
    pub path: PathRules,
    /// What happens to request fields with `_` in their name.
    pub underscore: Underscore,
    /// On the way into a workload: whether connections without an identity are let in.
    pub plaintext: Plaintext,
    /// On the way into a workload: members whose word about the address of their own client is taken.
    pub forwarders: Box<[IdentityPattern]>,
}

/// Whether connections that did not come through the mesh are let into a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plaintext {
    /// They are closed.
    #[default]
    Refused,
    /// They are let in, as clients without an identity.
    Allowed,
}

/// Limits of a listener. A breach has its own [`crate::reason::Reason`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request line. 8 KiB.
    pub request_line: usize,
    /// Bytes of the whole request head, and of a response head. 64 KiB.
    pub head_bytes: usize,
    /// Number of fields in a head. 100.
    pub header_count: usize,
    /// Bytes of a chunk-size line with its extensions. 4 KiB.
    pub chunk_line: usize,
    /// Bytes of a request body; none is no limit.
    pub body_bytes: Option<u64>,
    /// Open downstream connections on the address, over all workers. 65,536.
    pub max_connections: usize,
    /// Open downstream connections of one source address (IPv6: of one /64); none is no limit.
    pub max_connections_per_address: Option<usize>,
    /// Concurrent streams of one HTTP/2 connection. 128.
    pub max_streams: u32,
    /// Requests on one connection before it is closed politely; none is no limit.
    pub max_requests_per_connection: Option<u64>,
}

/// Timeouts of a listener. None means never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// From the first byte of a request head (or from accept) to its last byte. 10 s.
    pub head: Option<Duration>,
    /// A downstream connection without a request. 60 s.
    pub idle: Option<Duration>,
    /// The TLS handshake. 10 s.
    pub tls_handshake: Option<Duration>,
    /// A stream, in either direction, on which no byte moves. 5 min.
    pub stream_idle: Option<Duration>,
    /// From the whole request sent to the response head, when the route sets no `timeouts.backendRequest`. 60 s.
    pub response: Option<Duration>,
}

/// Whether something optional is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// Send it.
    Yes,
    /// Leave it out.
    No,
}

/// What happens to a `traceparent` and an `x-request-id` that a client brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceEdge {
    /// Valid ones are kept.
    Continue,
    /// Those of untrusted peers are replaced by new ones.
    Restart,
}

/// How long a connection between members, or with a program, waits for its next request. Longer than pools keep one, so that the
/// client is the one who closes.
const MEMBER_IDLE: Duration = Duration::from_secs(3600);

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            role: Role::Gateway,
            limits: Limits::default(),
            timeouts: ListenerTimeouts::default(),
            trusted_proxies: Box::default(),
            forwarded: Emit::No,
            trace: TraceEdge::Continue,
            path: PathRules::default(),
            underscore: Underscore::default(),
            plaintext: Plaintext::Refused,
            forwarders: Box::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            request_line: 8 * 1024,
            head_bytes: 64 * 1024,
            header_count: 100,
            chunk_line: 4 * 1024,
            body_bytes: None,
            max_connections: 65_536,
            max_connections_per_address: None,
            max_streams: 128,
            max_requests_per_connection: None,
        }
    }
}

impl Default for ListenerTimeouts {
    fn default() -> ListenerTimeouts {
        ListenerTimeouts {
            head: Some(Duration::from_secs(10)),
            idle: Some(Duration::from_secs(60)),
            tls_handshake: Some(Duration::from_secs(10)),
            stream_idle: Some(Duration::from_secs(300)),
            response: Some(Duration::from_secs(60)),
        }
    }
}

impl Settings {
    /// The settings of a side of a workload in the mesh: limits like a Gateway's, and no time of its own, because programs and
    /// routes have theirs. What programs say to each other they say as before: encoded slashes in paths and `_` in names of fields come through.
    pub fn of_member(role: Role) -> Settings {
        let path = PathRules { encoded_slash: Slashes::Keep, encoded_controls: Controls::Keep, ..PathRules::default() };
        let limits = Limits { request_line: Limits::default().head_bytes, ..Limits::default() };
        let timeouts =
            ListenerTimeouts { idle: Some(MEMBER_IDLE), stream_idle: None, response: None, ..Default::default() };
        Settings { role, timeouts, path, limits, underscore: Underscore::KeepUnknown, ..Settings::default() }
    }

    /// Whether a member with this identity is believed about the address of its own client.
    pub fn believes_forwarder(&self, identity: Option<&str>) -> bool {
        identity.is_some_and(|identity| self.forwarders.iter().any(|pattern| pattern.matches(identity)))
    }

    /// Whether `address` is a proxy whose forwarding fields are believed.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}
