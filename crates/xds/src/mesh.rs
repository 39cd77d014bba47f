//! The other methods of the control connection: joining, renewing, and being a member with or without a registered workload.
//!
//! Messages only, written by hand as protobuf. `Join` is for who has a token and no certificate yet; every other method needs a
//! certificate, and its identity is the only thing that counts: nothing in a message says who the caller is. What the messages
//! lead to is decided by `control`; when they are sent, by `proxy`.

use std::net::IpAddr;

use bytes::Bytes;

use crate::resource::{Key, TypeUrl};

/// The path of `Join`: [`JoinRequest`] to [`Issued`], one of each.
pub const JOIN: &str = "/transept.v1.Mesh/Join";
/// The path of `Renew`: [`RenewRequest`] to [`Issued`], one of each.
pub const RENEW: &str = "/transept.v1.Mesh/Renew";
/// The path of `Register`: a stream of [`Beat`] in one direction and of [`Answer`] in the other, an answer to each beat and some
/// more when the bundle changes.
pub const REGISTER: &str = "/transept.v1.Mesh/Register";

/// The path of the control plane's own identity in its trust domain.
pub const CONTROL_PATH: &str = "/transept/control";
/// The longest message of these methods in bytes.
pub const LONGEST: usize = 256 << 10;

/// The type under which proxies ask whose an address is. No resource has it: the answer is that there is none, and the Workloads that are
/// there come along.
pub fn address_type() -> TypeUrl {
    TypeUrl::of("transept.dev", "v1alpha1", "Address")
}

/// The key under which proxies ask whose an address is.
pub fn address_key(address: IpAddr) -> Key {
    Key::new(&address_type(), &address.to_canonical().to_string())
}

/// The type of what stands for policies that belong together. No resource has it: the answer to who asks is that there is none, and the
/// policies come along.
pub fn guard_type() -> TypeUrl {
    TypeUrl::of("transept.dev", "v1alpha1", "Guard")
}

/// The key of what guards the instances of a Service. Nobody asks for it: policies join it, and Workloads bring it, so that the policies on all
/// Services of an instance come along with it, whichever of them a proxy has asked for.
pub fn guard_key(namespace: &str, service: &str) -> Key {
    Key::new(&guard_type(), &format!("{namespace}/{service}"))
}

/// The key of what holds for every Service of a namespace: policies on the Namespace join it, Services and Workloads bring it. A proxy asks for
/// that of the Services that it asks for, which may not be there yet.
pub fn namespace_guard_key(namespace: &str) -> Key {
    Key::new(&guard_type(), namespace)
}

/// A token for a certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JoinRequest {
    /// The token, without what else is in the text that people copy.
    #[prost(string, tag = "1")]
    pub token: String,
    /// Chosen by the instance and kept: the same instance may ask again when the answer was lost.
    #[prost(bytes = "bytes", tag = "2")]
    pub nonce: Bytes,
    /// A certificate signing request (PKCS#10) in DER.
    #[prost(bytes = "bytes", tag = "3")]
    pub request: Bytes,
    /// What the proxy calls itself, for people.
    #[prost(string, tag = "4")]
    pub proxy: String,
}

/// Another certificate for the identity of the connection.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RenewRequest {
    /// A certificate signing request (PKCS#10) in DER.
    #[prost(bytes = "bytes", tag = "1")]
    pub request: Bytes,
    /// The nonce of the instance: of several with one identity, each is waited for while a root is replaced.
    #[prost(bytes = "bytes", tag = "2")]
    pub nonce: Bytes,
    /// What the proxy calls itself, for people.
    #[prost(string, tag = "3")]
    pub proxy: String,
}

/// A certificate, and whom to trust.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Issued {
    /// Leaf first, then intermediates, each in DER.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub chain: Vec<Bytes>,
    /// The bundle of the trust domain, as a SPIFFE bundle document.
    #[prost(string, tag = "2")]
    pub bundle: String,
}

/// A sign of life of a member.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Beat {
    /// The workload that stands behind it; in the first beat of a stream and whenever it changes. A member without one, such as a
    /// gateway, leaves it out.
    #[prost(message, optional, tag = "1")]
    pub workload: Option<Workload>,
    /// The nonce of the instance.
    #[prost(bytes = "bytes", tag = "2")]
    pub nonce: Bytes,
    /// The instance ends: its workload is taken out at once.
    #[prost(bool, tag = "3")]
    pub leaves: bool,
    /// The sequence of the bundle that the member has stored.
    #[prost(uint64, tag = "4")]
    pub bundle_sequence: u64,
    /// Which proxy this is, for people.
    #[prost(string, tag = "5")]
    pub proxy: String,
}

/// The answer to a beat. What it confirms is stored and survives the end of the control plane.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    /// How many milliseconds to leave between beats.
    #[prost(uint32, tag = "1")]
    pub interval_ms: u32,
    /// Why the workload is not registered; empty when it is.
    #[prost(string, tag = "2")]
    pub refused: String,
    /// The bundle, when the member has an older one.
    #[prost(string, tag = "3")]
    pub bundle: String,
    /// The certificate is of a root that is to go: it is to be renewed now.
    #[prost(bool, tag = "4")]
    pub renew: bool,
    /// It answers no beat; it says only that roots change.
    #[prost(bool, tag = "5")]
    pub unasked: bool,
}

/// A running instance of services: what becomes an object of the kind `Workload`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Workload {
    /// Its namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Its own name, such as `cart-7f3a`.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The services that it is an endpoint of, in its namespace.
    #[prost(string, repeated, tag = "3")]
    pub services: Vec<String>,
    /// The service account of its identity.
    #[prost(string, tag = "4")]
    pub service_account: String,
    /// Its IP address. Empty for the one that the control plane sees.
    #[prost(string, tag = "5")]
    pub address: String,
    /// Its ports.
    #[prost(message, repeated, tag = "6")]
    pub ports: Vec<Port>,
    /// The port that takes tunnels; zero for none.
    #[prost(uint32, tag = "7")]
    pub tunnel_port: u32,
    /// The zone that it is in; may be empty.
    #[prost(string, tag = "8")]
    pub zone: String,
    /// The region that it is in; may be empty.
    #[prost(string, tag = "9")]
    pub region: String,
    /// Its share of traffic beside its siblings; zero counts as one.
    #[prost(uint32, tag = "10")]
    pub weight: u32,
    /// What it says of its own health.
    #[prost(enumeration = "Condition", tag = "11")]
    pub condition: i32,
}

/// A port of a workload.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Port {
    /// Its name; may be empty.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The port of the service.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// The port of the workload; zero for the same.
    #[prost(uint32, tag = "3")]
    pub target_port: u32,
    /// The protocol, as Kubernetes names it in `appProtocol`; may be empty.
    #[prost(string, tag = "4")]
    pub app_protocol: String,
    /// What the proxy beside the workload has heard it speak, where no protocol is declared: `http`, `tcp`, `tcp-server-first` or `mixed`. Empty
    /// when nothing is known. A hint for callers that binds nobody.
    #[prost(string, tag = "5")]
    pub learned: String,
}

/// What a workload says of its own health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Condition {
    /// It takes traffic.
    Healthy = 0,
    /// It fails its checks.
    Unhealthy = 1,
    /// It ends: no new traffic.
    Draining = 2,
}

impl Condition {
    /// As the object says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Draining => "Draining",
        }
    }
}
