//! The objects of Kubernetes itself that routes refer to: Namespace, Service, EndpointSlice, Secret, ConfigMap.
//!
//! Only what is used is modelled; the other fields of the real API are known by name and pass unread, so that a misspelt
//! field is still an error.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64;
use serde_json::Value as Json;

use crate::kinds::metadata::{Body, Kind, Scope};
use crate::schema::{Decoder, Labels, Rule, Schema, Shape, Text};
use crate::value::{Node, Value};

/// The label by which an EndpointSlice says which Service it belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label that every namespace has: its own name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

crate::object! {
    /// A Namespace. Namespaces exist without being written down; writing one gives it labels.
    pub struct NamespaceBody ignoring &["spec"]; {
    }
}

impl Kind for NamespaceBody {
    const KIND: &'static str = "Namespace";
    const GROUP: &'static str = "";
    const VERSIONS: &'static [&'static str] = &["v1"];
    const BODY: Body = Body::Inline;
    const SCOPE: Scope = Scope::Cluster;
    const ABOUT: &'static str = "Gives labels to a namespace. Namespaces exist without being written down.";
}

crate::object! {
    /// A Service: a name and ports; its endpoints are in EndpointSlices.
    pub struct ServiceSpec ignoring &[
        "allocateLoadBalancerNodePorts", "externalIPs", "externalTrafficPolicy", "healthCheckNodePort",
        "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy", "loadBalancerClass", "loadBalancerIP",
        "loadBalancerSourceRanges", "publishNotReadyAddresses", "sessionAffinity", "sessionAffinityConfig",
        "topologyKeys", "trafficDistribution",
    ]; {
        /// ClusterIP, NodePort, LoadBalancer or ExternalName.
        r#type: Text = "ClusterIP".into();
        /// The ports.
        ports: Vec<ServicePort>;
        /// The labels of its Pods.
        selector: Labels;
        /// Its address, or `None` for a Service without one.
        cluster_ip as "clusterIP": Option<Text>;
        /// All of its addresses.
        cluster_ips as "clusterIPs": Vec<Text>;
        /// The DNS name of a Service of type ExternalName.
        external_name: Option<Text>;
    }
    check check_service;
}

impl Kind for ServiceSpec {
    const KIND: &'static str = "Service";
    const GROUP: &'static str = "";
    const VERSIONS: &'static [&'static str] = &["v1"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "A name and ports to which routes send requests; the endpoints are in EndpointSlices.";
}

crate::object! {
    /// A port of a Service.
    pub struct ServicePort {
        /// The name; needed when there are several ports.
        name: Option<Text> => Rule::Length(0, 63);
        /// TCP, UDP or SCTP.
        protocol: Text = "TCP".into();
        /// The port.
        port: u16 => Rule::Range(1, 65535);
        /// The port of the endpoints, by number or by name. Without it, the same as `port`.
        target_port: Option<TargetPort>;
        /// The port on every node; not used.
        node_port: Option<u32>;
        /// The protocol spoken: `kubernetes.io/h2c`, `kubernetes.io/ws`, `kubernetes.io/wss`, or another.
        app_protocol: Option<Text>;
    }
}

/// What a port speaks in the mesh.
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
}

impl ServicePort {
    /// What it speaks in the mesh.
    pub fn speaks(&self) -> AppProtocol {
        AppProtocol::of(self.app_protocol.as_deref())
    }
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name that the Pod gives it.
    Name(Text),
}

impl Schema for TargetPort {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        match &value.node {
            Node::Integer(_) => u16::decode(value, cx).map(TargetPort::Number),
            Node::Text(_) => Text::decode(value, cx).map(TargetPort::Name),
            _ => {
                cx.expected(value, "a port by number or by name");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::IntegerOrText
    }

    fn encode(&self) -> Json {
        match self {
            TargetPort::Number(number) => (*number).into(),
            TargetPort::Name(name) => name.as_str().into(),
        }
    }
}

crate::object! {
    /// An EndpointSlice: addresses of a Service, named by the label `kubernetes.io/service-name`.
    pub struct EndpointSliceBody {
        /// IPv4, IPv6 or FQDN.
        address_type: AddressFamily;
        /// The endpoints.
        endpoints: Vec<Endpoint> => Rule::MaxItems(1000);
        /// The ports that every endpoint has. A port belongs to the Service's port of the same name.
        ports: Vec<EndpointPort> => Rule::MaxItems(20000);
    }
}

impl Kind for EndpointSliceBody {
    const KIND: &'static str = "EndpointSlice";
    const GROUP: &'static str = "discovery.k8s.io";
    const VERSIONS: &'static [&'static str] = &["v1"];
    const BODY: Body = Body::Inline;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "The addresses of a Service.";
}

crate::choice! {
    /// What the addresses of a slice are.
    pub enum AddressFamily {
        /// IPv4 addresses.
        Ipv4 = "IPv4",
        /// IPv6 addresses.
        Ipv6 = "IPv6",
        /// DNS names.
        Fqdn = "FQDN",
    }
}

crate::object! {
    /// One endpoint.
    pub struct Endpoint ignoring &["nodeName", "targetRef", "deprecatedTopology"]; {
        /// Its addresses. Only the first counts, as in Kubernetes.
        addresses: Vec<Text> => Rule::MinItems(1), Rule::MaxItems(100);
        /// Whether it takes requests.
        conditions: EndpointConditions = EndpointConditions::default();
        /// Its own DNS name.
        hostname: Option<Text>;
        /// The zone it is in.
        zone: Option<Text>;
        /// Whom it is for.
        hints: Option<EndpointHints>;
    }
}

crate::object! {
    /// Whom an endpoint is for. Where every ready endpoint of a Service names zones, and one of them that of the proxy, only those that
    /// name it are used, unless a TrafficPolicy has `locality`.
    pub struct EndpointHints ignoring &["forNodes"]; {
        /// The zones whose clients should use it.
        for_zones: Vec<ForZone> => Rule::MaxItems(8);
    }
}

crate::object! {
    /// A zone whose clients should use an endpoint.
    pub struct ForZone {
        /// Its name.
        name: Text;
    }
}

crate::object! {
    /// Whether an endpoint takes requests. What is not known counts as ready.
    pub struct EndpointConditions {
        /// It takes new requests.
        ready: Option<bool>;
        /// It answers, ready or ending.
        serving: Option<bool>;
        /// It is coming to its end.
        terminating: Option<bool>;
    }
}

#[expect(clippy::derivable_impls, reason = "the macro that declares the struct takes no derives")]
impl Default for EndpointConditions {
    fn default() -> Self {
        Self { at: Default::default(), ready: None, serving: None, terminating: None }
    }
}

impl EndpointConditions {
    /// True unless the endpoint is known not to be ready.
    pub fn is_ready(&self) -> bool {
        self.ready != Some(false)
    }
}

crate::object! {
    /// A port of endpoints.
    pub struct EndpointPort {
        /// The name of the Service's port it belongs to.
        name: Option<Text>;
        /// TCP, UDP or SCTP.
        protocol: Text = "TCP".into();
        /// The port. Without it, every port.
        port: Option<u16> => Rule::Range(1, 65535);
        /// The protocol spoken.
        app_protocol: Option<Text>;
    }
}

/// The bytes of one entry of a Secret. They never show in debug output.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} secret bytes)", self.0.len())
    }
}

impl Schema for SecretBytes {
    fn hides(name: &str) -> bool {
        !is_entry_name(name)
    }

    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        decode_base64(value, cx, Secrecy::Secret).map(Self)
    }

    fn shape() -> Shape {
        Shape::Base64
    }

    fn encode(&self) -> Json {
        // What is encoded ends up in dumps and status pages; a secret has no business there.
        Json::Null
    }
}

/// The bytes of one binary entry of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BinaryData(Vec<u8>);

impl BinaryData {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Schema for BinaryData {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        decode_base64(value, cx, Secrecy::Public).map(Self)
    }

    fn shape() -> Shape {
        Shape::Base64
    }

    fn encode(&self) -> Json {
        BASE64.encode(&self.0).into()
    }
}

#[derive(PartialEq)]
enum Secrecy {
    Secret,
    Public,
}

fn decode_base64(value: &Value, cx: &mut Decoder, secrecy: Secrecy) -> Option<Vec<u8>> {
    let Some(text) = value.text() else {
        cx.refuse(value.at, "expected base64 text");
        return None;
    };
    // Go's decoder, and so Kubernetes, skips line ends.
    let compact: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    let bytes = BASE64.decode(&compact).ok();
    if bytes.is_none() {
        let remedy = match secrecy {
            Secrecy::Secret => "put plain text under `stringData` instead of `data`",
            Secrecy::Public => "put plain text under `data` instead of `binaryData`",
        };
        cx.refuse(value.at, "not base64").remedy(remedy);
    }
    bytes
}

/// Whether entries of Secrets may be called so (Kubernetes: letters, digits, `-`, `_` and `.`).
fn is_entry_name(name: &str) -> bool {
    name.len() <= 253 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Text of a Secret as it is written under `stringData`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SecretText(String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} secret bytes)", self.0.len())
    }
}

impl Schema for SecretText {
    fn hides(name: &str) -> bool {
        !is_entry_name(name)
    }

    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        match value.text() {
            Some(text) => Some(Self(text.to_owned())),
            None => {
                cx.refuse(value.at, "expected text").remedy("put it in quotes");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Text
    }

    fn encode(&self) -> Json {
        Json::Null
    }
}

crate::object! {
    /// A Secret: certificates, keys, passwords.
    ///
    /// Values can also come from outside the file, so that the file can be shown around: the annotation
    /// `transept.dev/from-env: "password=SHOP_PASSWORD"` takes an entry from an environment variable,
    /// `transept.dev/from-file: "tls.crt=certs/shop.pem, tls.key=certs/shop.key"` takes entries from files, relative to the
    /// file that holds the Secret.
    pub struct SecretBody {
        /// What the Secret is: `kubernetes.io/tls`, `Opaque`, or another.
        r#type: Text = "Opaque".into();
        /// Entries in base64.
        data: BTreeMap<String, SecretBytes>;
        /// Entries as plain text. They win over `data`.
        string_data: BTreeMap<String, SecretText>;
        /// True when the Secret may not be changed; not used.
        immutable: Option<bool>;
    }
}

impl SecretBody {
    /// The bytes of the entry `key`.
    pub fn entry(&self, key: &str) -> Option<&[u8]> {
        let text = self.string_data.get(key).map(|text| text.0.as_bytes());
        text.or_else(|| self.data.get(key).map(SecretBytes::expose))
    }
}

impl Kind for SecretBody {
    const KIND: &'static str = "Secret";
    const GROUP: &'static str = "";
    const VERSIONS: &'static [&'static str] = &["v1"];
    const BODY: Body = Body::Inline;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "Certificates, keys and passwords.";
}

crate::object! {
    /// A ConfigMap: text and data that is not secret, such as the certificates of authorities.
    pub struct ConfigMapBody {
        /// Entries as text.
        data: BTreeMap<String, String>;
        /// Entries in base64.
        binary_data: BTreeMap<String, BinaryData>;
        /// True when the ConfigMap may not be changed; not used.
        immutable: Option<bool>;
    }
}

impl ConfigMapBody {
    /// The bytes of the entry `key`.
    pub fn entry(&self, key: &str) -> Option<&[u8]> {
        let text = self.data.get(key).map(String::as_bytes);
        text.or_else(|| self.binary_data.get(key).map(BinaryData::bytes))
    }
}

impl Kind for ConfigMapBody {
    const KIND: &'static str = "ConfigMap";
    const GROUP: &'static str = "";
    const VERSIONS: &'static [&'static str] = &["v1"];
    const BODY: Body = Body::Inline;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "Data that is not secret, such as the certificates of authorities.";
}

fn check_service(service: &ServiceSpec, value: &Value, cx: &mut Decoder) {
    let written = value.field("ports").map_or(&[][..], Value::items);
    if service.ports.len() < 2 {
        return;
    }
    for (index, (port, value)) in service.ports.iter().zip(written).enumerate() {
        if port.name.as_deref().is_none_or(str::is_empty) {
            cx.within("ports", |cx| {
                cx.within(index, |cx| {
                    cx.refuse(value.at, "needs a name, because the Service has several ports").remedy("add `name:`");
                });
            });
        }
    }
}
