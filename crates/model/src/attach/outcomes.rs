//! What became of the sockets, told to the status.
//!
//! Called by whoever opens them, after each change. `attach` itself cannot know it, and decides without it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::{Attached, AttachedGateway};
use crate::schema::Text;
use crate::status::{Condition, Status, Truth};

/// What stays of an attached world when it has been compiled: enough to tell the status, without the objects.
#[derive(Debug, Default)]
pub struct Settled {
    /// The status of every object, as far as it does not depend on sockets.
    pub status: Status,
    gateways: Vec<Opened>,
}

/// The sockets of a Gateway.
#[derive(Debug)]
struct Opened {
    namespace: Text,
    name: Text,
    addresses: Vec<IpAddr>,
    /// The name and port of each listener that serves.
    listeners: Vec<(String, u16)>,
}

impl From<Attached> for Settled {
    fn from(attached: Attached) -> Self {
        Settled { status: attached.status, gateways: attached.gateways.into_iter().map(Opened::from).collect() }
    }
}

impl From<AttachedGateway> for Opened {
    fn from(gateway: AttachedGateway) -> Self {
        let meta = &gateway.gateway.meta;
        let serving = gateway.listeners.into_iter().filter(|listener| listener.serving);
        Opened {
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            addresses: gateway.addresses,
            listeners: serving.map(|listener| (listener.name, listener.port)).collect(),
        }
    }
}

impl Settled {
    /// The status when these sockets could not be opened, each with the reason as a clause.
    ///
    /// A listener that is open on none of its addresses is not programmed. An address on which nothing of a Gateway is open
    /// leaves its `status.addresses`, and the Gateway is not programmed (`AddressNotUsable`), though it serves on the
    /// others.
    pub fn status_after(&self, failed: &[(SocketAddr, String)]) -> Cow<'_, Status> {
        if failed.is_empty() {
            return Cow::Borrowed(&self.status);
        }
        let failed: HashMap<SocketAddr, &str> = failed.iter().map(|(at, why)| (*at, why.as_str())).collect();
        let mut status = self.status.clone();
        for gateway in &self.gateways {
            tell(gateway, &failed, &mut status);
        }
        Cow::Owned(status)
    }
}

fn tell(gateway: &Opened, failed: &HashMap<SocketAddr, &str>, status: &mut Status) {
    let (namespace, name) = (gateway.namespace.as_str(), gateway.name.as_str());
    for (listener, port) in &gateway.listeners {
        let reasons = gateway.addresses.iter().map(|ip| {
            let socket = SocketAddr::new(*ip, *port);
            Some(format!("{socket}: {}", failed.get(&socket)?))
        });
        let Some(reasons) = reasons.collect::<Option<Vec<_>>>() else {
            continue;
        };
        let message = format!("The listener could not be opened ({}).", reasons.join("; "));
        status.refuse_listener((namespace, name), listener, "AddressNotUsable", &message);
    }
    let unusable: Vec<(IpAddr, String)> =
        gateway.addresses.iter().filter_map(|ip| Some((*ip, why_unusable(gateway, *ip, failed)?))).collect();
    let Some(shown) = status.gateway_mut(namespace, name) else {
        return;
    };
    if unusable.is_empty() {
        return;
    }
    shown.addresses.retain(|address| !unusable.iter().any(|(ip, _)| ip.to_string() == address.value));
    let messages: Vec<_> = unusable.iter().map(|(_, why)| why.as_str()).collect();
    shown.conditions.set(Condition::new(
        "Programmed",
        Truth::False,
        "AddressNotUsable",
        format!("{} Use an address of this machine and ports that are free.", messages.join(" ")),
    ));
}

/// A sentence, when nothing of the Gateway is open on this address.
fn why_unusable(gateway: &Opened, ip: IpAddr, failed: &HashMap<SocketAddr, &str>) -> Option<String> {
    let mut ports = gateway.listeners.iter().map(|(_, port)| *port);
    let first = failed.get(&SocketAddr::new(ip, ports.next()?))?;
    ports
        .all(|port| failed.contains_key(&SocketAddr::new(ip, port)))
        .then(|| format!("The address {ip} cannot be used: {first}."))
}
