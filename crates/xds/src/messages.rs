//! The messages of the delta discovery protocol: what is on the wire, field for field.
//!
//! Spoken by `server` and `client`, framed by whoever owns the stream. Field numbers are those of the public definitions
//! `envoy/service/discovery/v3/discovery.proto`, `envoy/config/core/v3/base.proto`, `google/rpc/status.proto` and
//! `google/protobuf/{any,duration}.proto`. Fields that Transept has no use for are left out; a decoder skips them.

use std::collections::BTreeMap;

use bytes::Bytes;

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`: a proxy changes what it wants, or answers a response, or both.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    /// Who asks. Only the first request of a stream needs it, and it proves nothing: the transport's certificate does.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// The type of resource that this is about.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names that the proxy wants from now on; `*` is all of them.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names that it wants no more.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// What the proxy holds already, name to version. Only in the first request of a type on a stream.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: BTreeMap<String, String>,
    /// The nonce of the response that this answers; empty when it answers none.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Present when that response was refused, whole or in part.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`: what changed, as a proxy reads it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// For people, by the public definition. Transept's control plane writes `revision@heard` into it, or `revision+sent_to@heard`:
    /// the revision of its store, the one up to which everything of every type was sent (left out when it is the same), and the
    /// number of requests taken into account. So a proxy knows when it was told everything that it asked for.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// What was added or changed.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    /// The type of everything in this response.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the answer to this response repeats.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names that exist no more, or never did.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// Which control plane this is.
    #[prost(message, optional, tag = "7")]
    pub control_plane: Option<ControlPlane>,
}

/// [`DeltaDiscoveryResponse`] as a control plane writes it: the same bytes, with resources that were encoded before.
///
/// An embedded message and a byte string are written alike in protobuf, so that one encoding of a resource serves every proxy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SharedResponse {
    /// As in [`DeltaDiscoveryResponse`].
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// Messages of the type [`Resource`], encoded.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// As in [`DeltaDiscoveryResponse`].
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// As in [`DeltaDiscoveryResponse`].
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// As in [`DeltaDiscoveryResponse`].
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// As in [`DeltaDiscoveryResponse`].
    #[prost(message, optional, tag = "7")]
    pub control_plane: Option<ControlPlane>,
}

/// `envoy.service.discovery.v3.Resource`: one resource in one version.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Its version, opaque to the proxy.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Its contents. Absent in a heartbeat, which only renews the time to live.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// How long it holds unless it is renewed.
    #[prost(message, optional, tag = "6")]
    pub ttl: Option<ProtoDuration>,
}

/// `envoy.config.core.v3.Node`: what a proxy says about itself.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// The name of this proxy.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The service that it stands for.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// What program it is.
    #[prost(string, tag = "6")]
    pub user_agent_name: String,
    /// And in which version.
    #[prost(string, tag = "7")]
    pub user_agent_version: String,
    /// What it can do; see [`ANNOUNCES`].
    #[prost(string, repeated, tag = "10")]
    pub client_features: Vec<String>,
}

/// Begins a client feature that names a type of which the first request will follow. A session that knows the features begins to
/// answer once all those requests are in: what comes along with a subscription of one type may be of another, and is neither sent
/// twice nor taken away while the proxy is still saying what it holds.
pub const ANNOUNCES: &str = "dev.transept.announces:";

/// Begins a client feature that tells proxies of one name apart: what follows is of this proxy alone, and the same after its restart.
pub const INSTANCE: &str = "dev.transept.instance:";

impl Node {
    /// What tells this proxy from others of its name; empty when it does not say.
    pub fn instance(&self) -> &str {
        self.client_features.iter().find_map(|feature| feature.strip_prefix(INSTANCE)).unwrap_or_default()
    }
}

/// `envoy.config.core.v3.ControlPlane`: which control plane answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControlPlane {
    /// Its name.
    #[prost(string, tag = "1")]
    pub identifier: String,
}

/// `google.rpc.Status`: why something was refused.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// A code of `google.rpc.Code`.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// For programs.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Any`: bytes and what they are.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    /// What they are.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ProtoDuration {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest in nanoseconds, of the same sign.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl From<std::time::Duration> for ProtoDuration {
    fn from(time: std::time::Duration) -> Self {
        Self {
            seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(time.subsec_nanos()).unwrap_or(0),
        }
    }
}

impl ProtoDuration {
    /// The same as a [`std::time::Duration`]; a negative or malformed one is none at all.
    pub fn to_std(self) -> Option<std::time::Duration> {
        let (seconds, nanos) = (u64::try_from(self.seconds).ok()?, u32::try_from(self.nanos).ok()?);
        (nanos < 1_000_000_000).then(|| std::time::Duration::new(seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_request_is_written_as_the_public_definition_says() {
        let request = DeltaDiscoveryRequest {
            node: Some(Node { id: "n".into(), client_features: vec!["f".into()], ..Node::default() }),
            type_url: "t".into(),
            resource_names_subscribe: vec!["a".into()],
            resource_names_unsubscribe: vec!["b".into()],
            initial_resource_versions: BTreeMap::from([("c".into(), "1".into())]),
            response_nonce: "x".into(),
            error_detail: Some(Status { code: 3, message: "m".into(), details: vec![] }),
        };
        let expected: &[u8] = &[
            0x0a, 6, 0x0a, 1, b'n', 0x52, 1, b'f', // 1: node {1: id, 10: client_features}
            0x12, 1, b't', // 2: type_url
            0x1a, 1, b'a', // 3: subscribe
            0x22, 1, b'b', // 4: unsubscribe
            0x2a, 6, 0x0a, 1, b'c', 0x12, 1, b'1', // 5: initial versions {1: key, 2: value}
            0x32, 1, b'x', // 6: nonce
            0x3a, 5, 0x08, 3, 0x12, 1, b'm', // 7: error {1: code, 2: message}
        ];
        assert_eq!(request.encode_to_vec(), expected);
        assert_eq!(DeltaDiscoveryRequest::decode(expected).expect("decodes"), request);
    }

    #[test]
    fn a_shared_response_has_the_bytes_of_a_response() {
        let resource = Resource {
            version: "1".into(),
            resource: Some(Any { type_url: "t".into(), value: Bytes::from_static(b"{}") }),
            name: "n".into(),
            ttl: Some(ProtoDuration { seconds: 1, nanos: 5 }),
        };
        let shared = SharedResponse {
            system_version_info: "7".into(),
            resources: vec![resource.encode_to_vec().into()],
            type_url: "t".into(),
            nonce: "x".into(),
            removed_resources: vec!["gone".into()],
            control_plane: Some(ControlPlane { identifier: "c".into() }),
        };
        let bytes = shared.encode_to_vec();
        let read = DeltaDiscoveryResponse::decode(bytes.as_slice()).expect("decodes");
        assert_eq!(read.resources, [resource]);
        assert_eq!(read.removed_resources, ["gone"]);
        assert_eq!(read.encode_to_vec(), bytes);
        let expected: &[u8] = &[
            0x0a, 1, b'7', // 1: system_version_info
            0x12, 21, 0x0a, 1, b'1', 0x12, 7, 0x0a, 1, b't', 0x12, 2, b'{', b'}', 0x1a, 1, b'n', 0x32, 4, 0x08, 1,
            0x10, 5, // 2: resource {1: version, 2: any, 3: name, 6: ttl}
            0x22, 1, b't', // 4: type_url
            0x2a, 1, b'x', // 5: nonce
            0x32, 4, b'g', b'o', b'n', b'e', // 6: removed
            0x3a, 3, 0x0a, 1, b'c', // 7: control plane {1: identifier}
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn durations_survive_and_nonsense_does_not() {
        let time = std::time::Duration::new(3, 250);
        assert_eq!(ProtoDuration::from(time).to_std(), Some(time));
        assert_eq!(ProtoDuration { seconds: -1, nanos: 0 }.to_std(), None);
        assert_eq!(ProtoDuration { seconds: 0, nanos: i32::MAX }.to_std(), None);
    }
}
