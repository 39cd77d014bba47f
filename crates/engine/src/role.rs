//! What a bind is for: the gateway's door, or one of the two sides of a workload in the mesh.
//!
//! The road is the same for all; a role changes only how a connection is secured, how its listener is found, and how endpoints are
//! reached. Made by `compile`, read by `admit` and by the proxy.

use std::net::{IpAddr, SocketAddr};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};

/// What a bind is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// A Gateway's: clients from anywhere, listeners by host name.
    #[default]
    Gateway,
    /// The way out of a workload: clients are the workload itself, listeners stand for Services.
    Outbound,
    /// The way into a workload: clients are members of the mesh, listeners stand for the ports of the program.
    Inbound,
}

impl Role {
    /// The role's name in explanations and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Outbound => "outbound",
            Role::Inbound => "inbound",
        }
    }
}

/// What the clients of a listener speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Speaks {
    /// HTTP; anything else is refused.
    #[default]
    Http,
    /// HTTP or something else: the first bytes tell.
    Detect,
    /// Something that is not looked at.
    Opaque,
}

/// The tunnel that leads to an endpoint: HTTP/2 CONNECT over mutual TLS (HBONE).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// Where the proxy of the endpoint listens for tunnels.
    pub address: SocketAddr,
    /// The SPIFFE id that its certificate must have.
    pub identity: Box<str>,
}

/// The port of an authority that names none, in `http` (RFC 9110 section 4.2.1).
const HTTP_PORT: u16 = 80;

/// The name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name in it.
    pub name: Box<str>,
}

/// Services that may be called and about which nothing is known yet but that they exist: somebody has to ask for the rest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asleep {
    /// The namespace of the callers, in which a bare name is looked for.
    pub(crate) from: Box<str>,
    pub(crate) names: HashSet<ServiceName, RandomState>,
    pub(crate) addresses: HashMap<IpAddr, ServiceName, RandomState>,
}

impl Asleep {
    /// By a host name, lower-case, in one of the forms in which Services are called.
    pub(crate) fn by_host(&self, host: &str) -> Option<&ServiceName> {
        let mut labels = host.split('.');
        let name = labels.next()?;
        let rest = host.get(name.len() + 1..).unwrap_or_default();
        let namespace = match rest {
            "" | "mesh" => &*self.from,
            rest => {
                let suffixes = [".svc.cluster.local", ".svc", ".mesh", ""];
                suffixes.iter().find_map(|suffix| rest.strip_suffix(suffix))?
            }
        };
        self.names.get(&ServiceName { namespace: namespace.into(), name: name.into() })
    }
}

/// Finds listeners by where a connection wants to go. Empty on the binds of Gateways.
#[derive(Clone, Debug, Default)]
pub(crate) struct Destinations {
    /// Numbers of listeners by port, sorted.
    ports: Vec<(u16, u32)>,
    /// Ports, each with the number of a listener, by host name.
    names: HashMap<Box<str>, Vec<(u16, u32)>, RandomState>,
    /// Numbers of listeners by where captured connections were going.
    addresses: HashMap<SocketAddr, u32, RandomState>,
    /// Whether the connections of the bind are captured, and may have been going anywhere.
    pub(crate) captured: bool,
    /// The address by which others know this bind, besides those that it has.
    pub(crate) announced: Option<IpAddr>,
    /// Whether the connections of the bind are of clients that were told of a proxy, and each request says where it goes.
    pub(crate) by_authority: bool,
    /// Services without a listener yet.
    pub(crate) asleep: Asleep,
    /// Addresses that are no Service's about which somebody has asked whose they are; none, when nobody is to be asked.
    pub(crate) located: Option<HashSet<IpAddr, RandomState>>,
}

impl Destinations {
    /// Gives a port to a listener, unless it has one.
    pub(crate) fn add_port(&mut self, port: u16, id: u32) {
        if let Err(at) = self.ports.binary_search_by_key(&port, |(port, _)| *port) {
            self.ports.insert(at, (port, id));
        }
    }

    /// Gives one port of a host name, lower-case, to a listener, unless it has one.
    pub(crate) fn add_name(&mut self, name: &str, port: u16, id: u32) {
        let ports = self.names.entry(name.into()).or_default();
        if ports.iter().all(|(known, _)| *known != port) {
            ports.push((port, id));
        }
    }

    /// Whether a host name, lower-case, has a port with a listener.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Gives a destination to a listener, unless it has one.
    pub(crate) fn add_address(&mut self, address: SocketAddr, id: u32) {
        self.addresses.entry(address).or_insert(id);
    }

    /// Whether it has to be asked first whose an address is.
    pub(crate) fn is_unlocated(&self, to: &SocketAddr) -> bool {
        let ask = self.located.as_ref().is_some_and(|located| !located.contains(&to.ip()));
        ask && self.by_address(to).is_none() && !self.asleep.addresses.contains_key(&to.ip())
    }

    pub(crate) fn by_address(&self, address: &SocketAddr) -> Option<u32> {
        self.addresses.get(address).copied()
    }

    pub(crate) fn by_port(&self, port: u16) -> Option<u32> {
        let at = self.ports.binary_search_by_key(&port, |(port, _)| *port).ok()?;
        self.ports.get(at).map(|(_, id)| *id)
    }

    /// Without a port, that of HTTP; a name with one port means that one.
    pub(crate) fn by_name(&self, name: &str, port: Option<u16>) -> Option<u32> {
        let ports = self.names.get(name)?;
        let wanted = port.unwrap_or(HTTP_PORT);
        let found = ports.iter().find(|(known, _)| *known == wanted);
        match (found, ports.as_slice()) {
            (Some((_, id)), _) => Some(*id),
            (None, [(_, id)]) if port.is_none() => Some(*id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_sleeps_is_found_by_all_its_names() {
        let service = |namespace: &str, name: &str| ServiceName { namespace: namespace.into(), name: name.into() };
        let mut asleep = Asleep { from: "shop".into(), ..Asleep::default() };
        asleep.names.extend([service("shop", "cart"), service("bank", "till")]);
        for host in ["cart", "cart.mesh", "cart.shop", "cart.shop.mesh", "cart.shop.svc", "cart.shop.svc.cluster.local"]
        {
            assert_eq!(asleep.by_host(host), Some(&service("shop", "cart")), "{host}");
        }
        assert_eq!(asleep.by_host("till.bank"), Some(&service("bank", "till")));
        for host in
            ["", ".", "till", "till.mesh", "cart.bank", "cart.shop.svc.local", "cart.shop.example", "a.cart.shop"]
        {
            assert_eq!(asleep.by_host(host), None, "{host}");
        }
    }

    #[test]
    fn a_port_or_a_name_leads_to_a_listener() {
        let mut places = Destinations::default();
        places.add_port(8080, 0);
        places.add_port(80, 1);
        places.add_port(80, 2);
        assert_eq!([80, 8080, 81].map(|port| places.by_port(port)), [Some(1), Some(0), None]);
        places.add_name("cart", 9000, 3);
        assert_eq!(places.by_name("cart", None), Some(3));
        assert_eq!(places.by_name("cart", Some(80)), None);
        places.add_name("cart", 80, 4);
        assert_eq!(places.by_name("cart", None), Some(4));
        assert_eq!(places.by_name("cart", Some(9000)), Some(3));
        assert_eq!(places.by_name("cake", None), None);
        assert!(places.has_name("cart") && !places.has_name("cake"));
        let captured = SocketAddr::from(([240, 0, 0, 1], 80));
        places.add_address(captured, 5);
        places.add_address(captured, 6);
        assert_eq!(places.by_address(&captured), Some(5));
        assert_eq!(places.by_address(&([240, 0, 0, 2], 80).into()), None);
        let other = SocketAddr::from(([10, 0, 0, 9], 8080));
        assert!(!places.is_unlocated(&other), "there is nobody to ask");
        places.located = Some(HashSet::default());
        assert!(places.is_unlocated(&other) && !places.is_unlocated(&captured));
        places.located.get_or_insert_default().insert(other.ip());
        assert!(!places.is_unlocated(&other));
    }
}
