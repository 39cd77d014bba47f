//! A network as policies write it: an address, or an address with a prefix length.
//!
//! Called by the specs of policies. IPv4-mapped IPv6 networks are refused rather than guessed at: addresses are compared in their
//! canonical form, so such a network would never match.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value as Json;
use transept_model::schema::{Decoder, Schema, Shape};
use transept_model::value::{Value, quote};

/// A network: `192.0.2.0/24`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(pub IpNet);

impl Network {
    /// Reads a network; an error says how to write one.
    pub(crate) fn parse(text: &str) -> Result<Network, &'static str> {
        parse(text).map(Network)
    }

    /// Whether the address lies in the network. The address is canonical (no IPv4-mapped IPv6).
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

/// Reads a network, or says what is wrong.
fn parse(text: &str) -> Result<IpNet, &'static str> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => {
                return Err("write an address or a network: 192.0.2.7, 192.0.2.0/24, 2001:db8::/32");
            }
        },
    };
    if network.addr() != network.addr().to_canonical() {
        return Err("write the IPv4 network itself, without ::ffff:");
    }
    if network.trunc() != network {
        return Err("there are bits set behind the prefix; write the first address of the network");
    }
    Ok(network)
}

impl Schema for Network {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        let Some(text) = value.text() else {
            cx.expected(value, "a network");
            return None;
        };
        match parse(text) {
            Ok(network) => Some(Network(network)),
            Err(remedy) => {
                cx.refuse(value.at, format!("{} is not a network", quote(text))).remedy(remedy);
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Text
    }

    fn encode(&self) -> Json {
        self.0.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks() {
        assert_eq!(parse("192.0.2.7").map(|network| network.to_string()), Ok("192.0.2.7/32".to_owned()));
        assert!(parse("2001:db8::/32").is_ok());
        for wrong in ["192.0.2.7/24", "::ffff:192.0.2.0/120", "192.0.2", "example.com", "10.0.0.0/33"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
