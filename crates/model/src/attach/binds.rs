//! Listeners of different Gateways that want the same address and port.
//!
//! Called once all Gateways are drafted. They may share a socket as long as they speak the same protocol and have different
//! host names; otherwise the older Gateway keeps the port and the other listener is refused with `PortUnavailable`.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::findings::Findings;
use super::gateways::GatewayDraft;
use crate::hostname::Hostname;
use crate::kinds::Protocol;

/// Who has a socket: the protocol, and the Gateway of each host name.
struct Taken {
    gateway: usize,
    protocol: Protocol,
    names: HashMap<Option<Hostname>, usize>,
}

/// Refuses listeners that are in the way of an older Gateway. `drafts` is sorted by age.
pub(super) fn keep_apart(drafts: &mut [GatewayDraft], findings: &mut Findings) {
    let labels: Vec<String> = drafts
        .iter()
        .map(|draft| {
            let meta = &draft.gateway.meta;
            format!("{}/{}", meta.namespace, meta.name)
        })
        .collect();
    let mut sockets: HashMap<SocketAddr, Taken> = HashMap::new();
    for (number, draft) in drafts.iter_mut().enumerate() {
        if draft.refused.is_some() {
            continue;
        }
        let meta = &draft.gateway.meta;
        for listener in &mut draft.listeners {
            for ip in &draft.addresses.listen {
                if listener.refused.is_some() {
                    break;
                }
                let socket = SocketAddr::new(*ip, listener.port);
                let taken = sockets.entry(socket).or_insert_with(|| Taken {
                    gateway: number,
                    protocol: listener.protocol.clone(),
                    names: HashMap::new(),
                });
                let owner = if taken.protocol != listener.protocol {
                    taken.gateway
                } else {
                    let name = listener.hostname.clone();
                    *taken.names.entry(name).or_insert(number)
                };
                if owner == number {
                    continue;
                }
                let why = format!("{socket} is used by the older Gateway {} already", labels[owner]);
                let remedy = "give this Gateway an address of its own, or the listener another port or hostname";
                listener.refuse(meta, "PortUnavailable", "port", &why, remedy, findings);
            }
        }
    }
}
