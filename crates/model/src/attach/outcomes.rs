//! What became of the sockets, told to the status.
//!
//! Called by whoever opens them, after each change. `attach` itself cannot know it, and decides without it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::{Attached, AttachedGateway};
use crate::status::{Condition, Status, Truth};

impl Attached {
    /// The status when these sockets could not be opened, each with the reason as a clause.
    ///
    /// A listener that is open on none of its addresses is not programmed. An address on which nothing of a Gateway is open
    /// leaves its `status.addresses`, and the Gateway is not programmed (`AddressNotUsable`), though it serves on the
    /// others.
    pub fn status_after(&self, failed: &[(SocketAddr, String)]) -> Status {
        let failed: HashMap<SocketAddr, &str> = failed.iter().map(|(at, why)| (*at, why.as_str())).collect();
        let mut status = self.status.clone();
        if !failed.is_empty() {
            for gateway in &self.gateways {
                tell(gateway, &failed, &mut status);
            }
        }
        status
    }
}

fn tell(gateway: &AttachedGateway, failed: &HashMap<SocketAddr, &str>, status: &mut Status) {
    let meta = &gateway.gateway.meta;
    let (namespace, name) = (meta.namespace.as_str(), meta.name.as_str());
    for listener in gateway.listeners.iter().filter(|l| l.serving) {
        let reasons = gateway.addresses.iter().map(|ip| {
            let socket = SocketAddr::new(*ip, listener.port);
            Some(format!("{socket}: {}", failed.get(&socket)?))
        });
        let Some(reasons) = reasons.collect::<Option<Vec<_>>>() else {
            continue;
        };
        let message = format!("The listener could not be opened ({}).", reasons.join("; "));
        status.refuse_listener((namespace, name), &listener.name, "AddressNotUsable", &message);
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
fn why_unusable(gateway: &AttachedGateway, ip: IpAddr, failed: &HashMap<SocketAddr, &str>) -> Option<String> {
    let mut ports = gateway.listeners.iter().filter(|l| l.serving);
    let first = failed.get(&SocketAddr::new(ip, ports.next()?.port))?;
    ports
        .all(|listener| failed.contains_key(&SocketAddr::new(ip, listener.port)))
        .then(|| format!("The address {ip} cannot be used: {first}."))
}
