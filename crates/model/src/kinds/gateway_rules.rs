//! The rules between the fields of a Gateway: what the CRD's CEL rules forbid.
//!
//! Called while a Gateway is read. What Gateway API answers with a condition instead (unsupported protocols, certificates that do not
//! resolve, addresses that cannot be used) is not refused here.

use std::collections::HashMap;

use crate::kinds::gateway::{
    AddressType, FrontendTlsConfig, GatewayAddress, GatewaySpec, ListenerNamespaces, ListenerTlsConfig, NamespacesFrom,
    Protocol, RouteNamespaces, TlsMode,
};
use crate::kinds::selector::LabelSelector;
use crate::schema::{Decoder, HOSTNAME};
use crate::value::Value;

pub(super) fn check_gateway(gateway: &GatewaySpec, value: &Value, cx: &mut Decoder) {
    cx.within("listeners", |cx| check_listeners(gateway, value, cx));
    cx.within("addresses", |cx| {
        let mut seen: HashMap<(&str, &str), u32> = HashMap::new();
        for (index, address) in gateway.addresses.iter().enumerate() {
            let (kind, Some(text)) = (&address.r#type, &address.value) else {
                continue;
            };
            if !matches!(kind, AddressType::IpAddress | AddressType::Hostname) {
                continue;
            }
            if let Some(line) = seen.insert((kind.as_str(), text), address.at.line) {
                let why = format!("the address {text} stands on line {line} already");
                cx.within(index, |cx| {
                    cx.refuse(address.at, why);
                });
            }
        }
    });
}

fn check_listeners(gateway: &GatewaySpec, value: &Value, cx: &mut Decoder) {
    let written = value.field("listeners").map_or(&[][..], Value::items);
    let mut seen: HashMap<(u16, &str, Option<&str>), u32> = HashMap::new();
    for (index, listener) in gateway.listeners.iter().enumerate() {
        let Some(value) = written.get(index) else {
            continue;
        };
        let protocol = &listener.protocol;
        cx.within(index, |cx| {
            match (protocol, &listener.tls) {
                (Protocol::Http | Protocol::Tcp | Protocol::Udp, Some(_)) => {
                    cx.refuse_field(value, "tls", format!("a listener of protocol {protocol} has no TLS"))
                        .remedy("remove `tls`, or set `protocol: HTTPS`");
                }
                (Protocol::Https, Some(tls)) if tls.mode != TlsMode::Terminate => {
                    cx.refuse_field(value, "tls", "an HTTPS listener must end TLS itself")
                        .remedy("set `mode: Terminate`, or `protocol: TLS` to pass the stream on");
                }
                (Protocol::Tls, None) => {
                    cx.refuse(value.at, "a TLS listener needs `tls` with a mode")
                        .remedy("add `tls: {mode: Passthrough}`, or Terminate and certificates");
                }
                (Protocol::Tls, Some(_)) if value.field("tls").and_then(|tls| tls.field("mode")).is_none() => {
                    cx.refuse_field(value, "tls", "a TLS listener must say its mode")
                        .remedy("add `mode: Terminate` or `mode: Passthrough`");
                }
                _ => {}
            }
            if matches!(protocol, Protocol::Tcp | Protocol::Udp) && listener.hostname.is_some() {
                let why = format!("a listener of protocol {protocol} cannot tell host names apart");
                cx.refuse_field(value, "hostname", why).remedy("remove `hostname`");
            }
            let hostname = listener.hostname.as_deref();
            let key = (listener.port, protocol.as_str(), hostname);
            if let Some(line) = seen.insert(key, listener.at.line) {
                let why = format!("the listener on line {line} has the same port, protocol and hostname");
                cx.refuse(listener.at, why).remedy("give one of them another hostname or port");
            }
        });
    }
}

pub(super) fn check_listener_tls(tls: &ListenerTlsConfig, value: &Value, cx: &mut Decoder) {
    if tls.mode == TlsMode::Terminate && tls.certificate_refs.is_empty() && tls.options.is_empty() {
        cx.refuse_field(value, "certificateRefs", "ending TLS needs a certificate")
            .remedy("name a Secret: `certificateRefs: [{name: my-certificate}]`");
    }
}

pub(super) fn check_route_namespaces(spaces: &RouteNamespaces, value: &Value, cx: &mut Decoder) {
    if spaces.from == NamespacesFrom::None {
        cx.refuse_field(value, "from", "`None` is not allowed for routes").remedy("one of All, Selector, Same");
    }
    needs_selector(spaces.from, spaces.selector.as_ref(), value, cx);
}

pub(super) fn check_listener_namespaces(spaces: &ListenerNamespaces, value: &Value, cx: &mut Decoder) {
    needs_selector(spaces.from, spaces.selector.as_ref(), value, cx);
}

fn needs_selector(from: NamespacesFrom, selector: Option<&LabelSelector>, value: &Value, cx: &mut Decoder) {
    if from == NamespacesFrom::Selector && selector.is_none() {
        cx.refuse_field(value, "from", "`from: Selector` needs a selector")
            .remedy("add `selector: {matchLabels: {...}}`");
    }
}

pub(super) fn check_address(address: &GatewayAddress, value: &Value, cx: &mut Decoder) {
    // An IP address that is none is reported as a condition, as Gateway API asks for unusable addresses.
    if let (AddressType::Hostname, Some(name)) = (&address.r#type, &address.value)
        && !name.is_empty()
    {
        cx.within("value", |cx| {
            HOSTNAME.check(name, value.spot_of("value"), cx);
        });
    }
}

pub(super) fn check_frontend(frontend: &FrontendTlsConfig, value: &Value, cx: &mut Decoder) {
    let written = value.field("perPort").map_or(&[][..], Value::items);
    let mut seen: HashMap<u16, u32> = HashMap::new();
    for (index, (port, value)) in frontend.per_port.iter().zip(written).enumerate() {
        if let Some(line) = seen.insert(port.port, port.at.line) {
            cx.within("perPort", |cx| {
                cx.within(index, |cx| {
                    let why = format!("port {} has settings on line {line} already", port.port);
                    cx.refuse_field(value, "port", why);
                });
            });
        }
    }
}
