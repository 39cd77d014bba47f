//! The addresses of a Gateway: which it asked for, which of them can be used.
//!
//! Called by the drafting of Gateways. Whether an address can be bound is known outside only: what is known to fail comes in
//! with [`Surroundings`], and what fails later is told to the status by whoever binds.

use std::net::IpAddr;

use super::Surroundings;
use super::findings::{Findings, sentence};
use crate::kinds::Object;
use crate::kinds::gateway::{AddressType, GatewaySpec};
use crate::status::StatusAddress;

/// What became of `spec.addresses`.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// What to listen on.
    pub(super) listen: Vec<IpAddr>,
    /// What to show in the status.
    pub(super) shown: Vec<StatusAddress>,
    /// Sentences about addresses of a type that is not known; the Gateway is not accepted.
    pub(super) unsupported: Vec<String>,
    /// Sentences about addresses that cannot be used; the Gateway is not programmed, but listens on the others.
    pub(super) unusable: Vec<String>,
}

impl Addresses {
    /// Judges the addresses of `gateway`.
    pub(super) fn choose(gateway: &Object<GatewaySpec>, surroundings: &Surroundings, findings: &mut Findings) -> Self {
        let mut chosen = Self::default();
        for (index, address) in gateway.spec.addresses.iter().enumerate() {
            let value = address.value.as_deref().unwrap_or_default();
            let field = format!("spec.addresses[{index}]");
            match &address.r#type {
                AddressType::IpAddress if value.is_empty() => {
                    chosen.listen_on(surroundings.default_address);
                }
                AddressType::IpAddress => {
                    if let Err((why, remedy)) = chosen.take_ip(value, surroundings) {
                        chosen.unusable.push(sentence(&why, remedy));
                        findings.add(&gateway.meta, address.at, field, why, remedy);
                    }
                }
                AddressType::Hostname if !value.is_empty() => {
                    chosen.shown.push(StatusAddress { kind: "Hostname", value: value.to_owned() })
                }
                other => {
                    let why = format!("an address of type {} cannot be provided", other.as_str());
                    let remedy = "use type IPAddress with an address of this machine";
                    chosen.unsupported.push(sentence(&why, remedy));
                    findings.add(&gateway.meta, address.at, field, why, remedy);
                }
            }
        }
        // A host name says where clients find the Gateway, not where it listens.
        if chosen.listen.is_empty() && chosen.unusable.is_empty() {
            chosen.listen_on(surroundings.default_address);
        }
        chosen
    }

    fn take_ip(&mut self, value: &str, surroundings: &Surroundings) -> Result<(), (String, &'static str)> {
        let Ok(ip) = value.parse::<IpAddr>() else {
            return Err((format!("{value} is not an IP address"), "write an IPv4 or IPv6 address"));
        };
        if let Some(why) = surroundings.unusable.get(&ip) {
            return Err((
                format!("the address {ip} cannot be used: {why}"),
                "use an address of this machine, or leave `addresses` out to listen on all IPv4 addresses",
            ));
        }
        self.listen_on(ip);
        Ok(())
    }

    fn listen_on(&mut self, ip: IpAddr) {
        if self.listen.contains(&ip) {
            return;
        }
        self.listen.push(ip);
        self.shown.push(StatusAddress { kind: "IPAddress", value: ip.to_string() });
    }
}
