//! What a registration may say: of whom, where, and in which words.
//!
//! Called by `registry` before it takes one in.

use std::net::IpAddr;

use transept_engine::policies::MODEL_KINDS;
use transept_identity::SpiffeId;
use transept_model::SourceText;
use transept_xds::mesh::{Port, Workload};

use super::{Entry, MOST, MOST_LEARNED, Refused, workload_object};

/// What `identity` may register: itself, as an instance of the service that its service account is named after.
pub(super) fn check(workload: &Workload, identity: &SpiffeId) -> Result<(), Refused> {
    let wrong = |why: String| Err(Refused::Wrong(why));
    let Some(own) = identity.workload() else {
        return Err(Refused::NotAllowed(format!("`{identity}` is not the identity of a workload")));
    };
    let (namespace, account) = (own.namespace(), own.service_account());
    if workload.namespace != namespace || workload.service_account != account {
        let asked = format!("{}/{}", workload.namespace, workload.service_account);
        return Err(Refused::NotAllowed(format!("`{identity}` may register {namespace}/{account} and not {asked}")));
    }
    if let Some(foreign) = workload.services.iter().find(|service| *service != account) {
        return Err(Refused::NotAllowed(format!(
            "`{identity}` may register instances of the service `{account}` and not of `{foreign}`"
        )));
    }
    if !is_label(&workload.name) || workload.name.len() > 253 {
        return wrong(format!("`{}` is no name of an instance: lower-case letters, digits and `-`", workload.name));
    }
    if workload.services.is_empty() || workload.services.len() > MOST || workload.ports.len() > MOST {
        return wrong(format!("a workload has at least one service and at most {MOST} services and ports"));
    }
    if !workload.address.parse::<IpAddr>().is_ok_and(is_reachable) {
        return wrong(format!("`{}` is no IP address to reach a workload at", workload.address));
    }
    let is_port = |port: u32| u16::try_from(port).is_ok();
    let bad = |port: &&Port| port.port == 0 || !is_port(port.port) || !is_port(port.target_port);
    if workload.ports.iter().find(bad).is_some() || !is_port(workload.tunnel_port) {
        return wrong("a port is between 1 and 65535".into());
    }
    if workload.ports.iter().any(|port| port.learned.len() > MOST_LEARNED) {
        return wrong(format!("what a port speaks is said in a word of {MOST_LEARNED} bytes at most"));
    }
    if let Some(port) = workload.ports.iter().find(|port| !port.name.is_empty() && !is_label(&port.name)) {
        return wrong(format!("`{}` is no name of a port: lower-case letters, digits and `-`", port.name));
    }
    Ok(())
}

/// Whether an address means the same machine to everybody: those of a link, where clouds keep credentials, do not.
fn is_reachable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local()),
    }
}

/// Whether the object that stands for it is one that every proxy accepts.
pub(super) fn check_object(entry: &Entry) -> Result<(), Refused> {
    let text = SourceText::new("registration", workload_object(entry).to_string());
    let loaded = transept_model::Loader::new(MODEL_KINDS).load(&[text]);
    match loaded.invalid.first() {
        Some(invalid) => Err(Refused::Wrong(format!("{}: {}", invalid.field, invalid.why))),
        None => Ok(()),
    }
}

/// A DNS label (RFC 1123, section 2.1), as names of objects are.
fn is_label(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !name.is_empty() && name.bytes().all(inside) && !name.starts_with(['-', '.']) && !name.ends_with(['-', '.'])
}
