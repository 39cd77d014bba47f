//! Gateway and GatewayClass (gateway.networking.k8s.io/v1).
//!
//! What a Gateway listens on and whom it trusts. Conflicts between listeners, unknown protocols and unusable addresses are
//! status, decided by `attach`.

use std::fmt;

use serde_json::Value as Json;

use crate::kinds::metadata::{Body, Kind, Scope};
use crate::kinds::refs::{ObjectReference, SecretObjectReference};
use crate::kinds::selector::LabelSelector;
use crate::kinds::{GATEWAY_GROUP, gateway_rules as rules};
use crate::schema::{
    ADDRESS_TYPE, ANNOTATION_KEY, CONTROLLER, Decoder, GROUP, HOSTNAME, KIND, LABEL_VALUE, Labels, NAMESPACE,
    OBJECT_NAME, PROTOCOL, Rule, SECTION_NAME, Schema, Shape, Text,
};
use crate::value::Value;

crate::object! {
    /// A Gateway: addresses, ports and protocols where traffic comes in.
    pub struct GatewaySpec {
        /// The GatewayClass. May be left out when the configuration comes from files: then the Gateway is ours.
        gateway_class_name: Option<Text> => Rule::Is(&OBJECT_NAME);
        /// What the Gateway listens on.
        listeners: Vec<Listener> => Rule::MinItems(1), Rule::MaxItems(64), Rule::UniqueBy("name");
        /// The addresses to listen on. Without them, all IPv4 addresses of the machine; `::` stands for those of IPv6 and IPv4 together.
        addresses: Vec<GatewayAddress> => Rule::MaxItems(16);
        /// Labels and annotations for what is made for this Gateway, and its parameters.
        infrastructure: Option<GatewayInfrastructure>;
        /// Which ListenerSets may add listeners to this Gateway.
        allowed_listeners: Option<AllowedListeners>;
        /// TLS towards clients and towards backends that holds for the whole Gateway.
        tls: Option<GatewayTlsConfig>;
        /// Makes the Gateway the default one for routes that ask for a default (experimental).
        default_scope: Option<DefaultScope>;
    }
    check rules::check_gateway;
}

impl Kind for GatewaySpec {
    const KIND: &'static str = "Gateway";
    const GROUP: &'static str = GATEWAY_GROUP;
    const VERSIONS: &'static [&'static str] = &["v1", "v1beta1"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "Where traffic comes in: addresses, ports, protocols and certificates.";
}

crate::choice! {
    /// For which routes a Gateway is the default.
    pub enum DefaultScope {
        /// For all that ask for it.
        All = "All",
        /// For none.
        None = "None",
    }
}

crate::object! {
    /// One port of a Gateway, with its protocol and host name.
    pub struct Listener {
        /// The name, unique within the Gateway. Routes and policies refer to it with `sectionName`.
        name: Text => Rule::Is(&SECTION_NAME);
        /// The host name the listener serves; `*.` in front stands for any number of labels. Without it, every host.
        hostname: Option<Text> => Rule::Is(&HOSTNAME);
        /// The port.
        port: u16 => Rule::Range(1, 65535);
        /// The protocol: HTTP, HTTPS or TCP.
        protocol: Protocol;
        /// Certificates and TLS mode. Needed for HTTPS and TLS, forbidden otherwise.
        tls: Option<ListenerTlsConfig>;
        /// Which routes may attach.
        allowed_routes: AllowedRoutes = AllowedRoutes::default();
    }
}

/// The protocol of a listener. Written in any case; unknown ones load and are reported in the listener's status.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Cleartext HTTP/1.1 and HTTP/2 with prior knowledge.
    Http,
    /// HTTP/1.1 and HTTP/2 over TLS.
    Https,
    /// A TLS stream.
    Tls,
    /// A TCP stream.
    Tcp,
    /// UDP datagrams.
    Udp,
    /// Something this version does not know.
    Other(Text),
}

impl Protocol {
    /// The protocol as the API spells it.
    pub fn as_str(&self) -> &str {
        match self {
            Protocol::Http => "HTTP",
            Protocol::Https => "HTTPS",
            Protocol::Tls => "TLS",
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Other(text) => text,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Schema for Protocol {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        let text = Text::decode(value, cx)?;
        PROTOCOL.check(&text, value.at, cx);
        let known = [Protocol::Http, Protocol::Https, Protocol::Tls, Protocol::Tcp, Protocol::Udp];
        let found = known.into_iter().find(|one| one.as_str().eq_ignore_ascii_case(&text));
        Some(found.unwrap_or(Protocol::Other(text)))
    }

    fn shape() -> Shape {
        Shape::Open(vec![
            ("HTTP", "HTTP/1.1, and HTTP/2 with prior knowledge."),
            ("HTTPS", "HTTP/1.1 and HTTP/2 over TLS."),
        ])
    }

    fn encode(&self) -> Json {
        self.as_str().into()
    }
}

crate::choice! {
    /// What a listener does with TLS.
    pub enum TlsMode {
        /// The Gateway ends TLS with its certificates.
        Terminate = "Terminate",
        /// The stream is passed on unopened.
        Passthrough = "Passthrough",
    }
}

crate::object! {
    /// TLS of a listener.
    pub struct ListenerTlsConfig {
        /// Whether TLS ends here.
        mode: TlsMode = TlsMode::Terminate;
        /// Secrets with `tls.crt` and `tls.key`. Several may serve one listener: the best match for the name the client asks
        /// for is taken.
        certificate_refs: Vec<SecretObjectReference> => Rule::MaxItems(64);
        /// Further settings of the implementation.
        options: Labels => Rule::MaxEntries(16), Rule::Keys(&ANNOTATION_KEY), Rule::Length(0, 4096);
    }
    check rules::check_listener_tls;
}

crate::object! {
    /// Which routes may attach to a listener.
    pub struct AllowedRoutes {
        /// From which namespaces.
        namespaces: RouteNamespaces = RouteNamespaces::default();
        /// Of which kinds. Without it, every kind that fits the protocol.
        kinds: Vec<RouteGroupKind> => Rule::MaxItems(8);
    }
}

#[expect(clippy::derivable_impls, reason = "the macro that declares the struct takes no derives")]
impl Default for AllowedRoutes {
    fn default() -> Self {
        Self { at: Default::default(), namespaces: RouteNamespaces::default(), kinds: Vec::new() }
    }
}

crate::choice! {
    /// From which namespaces something may attach.
    pub enum NamespacesFrom {
        /// From all.
        All = "All",
        /// From those that the selector selects.
        Selector = "Selector",
        /// From the Gateway's own.
        Same = "Same",
        /// From none.
        None = "None",
    }
}

crate::object! {
    /// From which namespaces routes may attach.
    pub struct RouteNamespaces {
        /// All namespaces, the Gateway's own, or those selected.
        from: NamespacesFrom = NamespacesFrom::Same;
        /// Selects namespaces by their labels, when `from` is `Selector`.
        selector: Option<LabelSelector>;
    }
    check rules::check_route_namespaces;
}

impl Default for RouteNamespaces {
    fn default() -> Self {
        Self { at: Default::default(), from: NamespacesFrom::Same, selector: None }
    }
}

crate::object! {
    /// A kind of route.
    pub struct RouteGroupKind {
        /// Its group.
        group: Text = GATEWAY_GROUP.into() => Rule::Is(&GROUP);
        /// Its kind.
        kind: Text => Rule::Is(&KIND);
    }
}

/// The type of a Gateway's address. Types we do not know load and are reported in status.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AddressType {
    /// An IPv4 or IPv6 address.
    IpAddress,
    /// A DNS name.
    Hostname,
    /// The name of an address that somebody else knows (deprecated by Gateway API).
    NamedAddress,
    /// Something of another implementation.
    Other(Text),
}

impl AddressType {
    /// The type as the API spells it.
    pub fn as_str(&self) -> &str {
        match self {
            AddressType::IpAddress => "IPAddress",
            AddressType::Hostname => "Hostname",
            AddressType::NamedAddress => "NamedAddress",
            AddressType::Other(text) => text,
        }
    }
}

impl Schema for AddressType {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        let text = Text::decode(value, cx)?;
        ADDRESS_TYPE.check(&text, value.at, cx);
        Some(match text.as_str() {
            "IPAddress" => AddressType::IpAddress,
            "Hostname" => AddressType::Hostname,
            "NamedAddress" => AddressType::NamedAddress,
            _ => AddressType::Other(text),
        })
    }

    fn shape() -> Shape {
        Shape::Open(vec![("IPAddress", "An IPv4 or IPv6 address of this machine."), ("Hostname", "A DNS name.")])
    }

    fn encode(&self) -> Json {
        self.as_str().into()
    }
}

crate::object! {
    /// An address a Gateway asks for.
    pub struct GatewayAddress {
        /// What the value is.
        r#type: AddressType = AddressType::IpAddress;
        /// The address. Without it, one is chosen.
        value: Option<Text> => Rule::Length(0, 253);
    }
    check rules::check_address;
}

crate::object! {
    /// What is made for a Gateway.
    pub struct GatewayInfrastructure {
        /// Labels for everything that is made for this Gateway.
        labels: Labels => Rule::MaxEntries(8), Rule::Keys(&ANNOTATION_KEY), Rule::Is(&LABEL_VALUE);
        /// Annotations for everything that is made for this Gateway.
        annotations: Labels => Rule::MaxEntries(16), Rule::Keys(&ANNOTATION_KEY), Rule::Length(0, 4096);
        /// An object with parameters of the implementation, in the Gateway's namespace.
        parameters_ref: Option<crate::kinds::refs::LocalObjectReference>;
    }
}

crate::object! {
    /// Which ListenerSets may add listeners.
    pub struct AllowedListeners {
        /// From which namespaces.
        namespaces: ListenerNamespaces = ListenerNamespaces::default();
    }
}

crate::object! {
    /// From which namespaces ListenerSets may come.
    pub struct ListenerNamespaces {
        /// All, the Gateway's own, those selected, or none.
        from: NamespacesFrom = NamespacesFrom::None;
        /// Selects namespaces by their labels, when `from` is `Selector`.
        selector: Option<LabelSelector>;
    }
    check rules::check_listener_namespaces;
}

impl Default for ListenerNamespaces {
    fn default() -> Self {
        Self { at: Default::default(), from: NamespacesFrom::None, selector: None }
    }
}

crate::object! {
    /// TLS that holds for a whole Gateway.
    pub struct GatewayTlsConfig {
        /// TLS towards backends.
        backend: Option<GatewayBackendTls>;
        /// TLS towards clients.
        frontend: Option<FrontendTlsConfig>;
    }
}

crate::object! {
    /// How the Gateway shows itself to backends.
    pub struct GatewayBackendTls {
        /// A Secret with the certificate that the Gateway presents to backends that ask for one.
        client_certificate_ref: Option<SecretObjectReference>;
    }
}

crate::object! {
    /// How clients are known by their certificates.
    pub struct FrontendTlsConfig {
        /// For every HTTPS listener whose port has no settings of its own.
        default: TlsConfig;
        /// For the HTTPS listeners of one port.
        per_port: Vec<TlsPortConfig> => Rule::MaxItems(64);
    }
    check rules::check_frontend;
}

crate::object! {
    /// Client certificates of some listeners.
    pub struct TlsConfig {
        /// How client certificates are verified. Without it, none are asked for.
        validation: Option<FrontendValidation>;
    }
}

crate::object! {
    /// Client certificates of the listeners of one port.
    pub struct TlsPortConfig {
        /// The port.
        port: u16 => Rule::Range(1, 65535);
        /// The settings.
        tls: TlsConfig;
    }
}

crate::choice! {
    /// What happens without a valid client certificate.
    pub enum FrontendValidationMode {
        /// The connection is refused.
        AllowValidOnly = "AllowValidOnly",
        /// The connection is accepted all the same, and the backend must decide.
        AllowInsecureFallback = "AllowInsecureFallback",
    }
}

crate::object! {
    /// How client certificates are verified.
    pub struct FrontendValidation {
        /// ConfigMaps with the certificates of authorities under `ca.crt`.
        ca_certificate_refs: Vec<ObjectReference> => Rule::MinItems(1), Rule::MaxItems(8);
        /// What happens without a valid certificate.
        mode: FrontendValidationMode = FrontendValidationMode::AllowValidOnly;
    }
}

crate::object! {
    /// A GatewayClass: which controller looks after the Gateways of this class.
    pub struct GatewayClassSpec {
        /// The controller. Ours is `transept.dev/gateway`; Gateways of other controllers are left alone.
        controller_name: Text => Rule::Is(&CONTROLLER);
        /// An object with parameters of the implementation.
        parameters_ref: Option<ParametersReference>;
        /// What the class is for.
        description: Option<String> => Rule::Length(0, 64);
    }
}

impl Kind for GatewayClassSpec {
    const KIND: &'static str = "GatewayClass";
    const GROUP: &'static str = GATEWAY_GROUP;
    const VERSIONS: &'static [&'static str] = &["v1", "v1beta1"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Cluster;
    const ABOUT: &'static str = "Names the controller that looks after Gateways of a class.";
}

crate::object! {
    /// The parameters of a class.
    pub struct ParametersReference {
        /// The group of the object.
        group: Text => Rule::Is(&GROUP);
        /// The kind of the object.
        kind: Text => Rule::Is(&KIND);
        /// The name of the object.
        name: Text => Rule::Is(&OBJECT_NAME);
        /// The namespace of the object, if its kind has namespaces.
        namespace: Option<Text> => Rule::Is(&NAMESPACE);
    }
}
