//! The name servers of the system and its search list, as `resolv.conf` tells of them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hickory_resolver::proto::op::ResponseCode;

use super::table::{Meaning, Table};

/// Name servers that are asked in turn: what the system library asks at most.
const SERVERS: usize = 3;
const DNS: u16 = 53;

/// Who is asked for the names that are not the mesh's.
#[derive(Clone, Debug)]
pub enum Resolvers {
    /// Those that a file like `/etc/resolv.conf` names; read again when it changes.
    File(PathBuf),
    /// These, with this search list.
    These {
        /// Asked in this order.
        servers: Vec<SocketAddr>,
        /// The domains that programs try after a short name.
        search: Vec<String>,
    },
}

impl Resolvers {
    /// The name servers as they are now: those that programs ask, if nothing captures their questions.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn servers(&self) -> io::Result<Vec<SocketAddr>> {
        self.read(&[]).map(|system| system.servers)
    }

    pub(super) fn read(&self, own: &[SocketAddr]) -> io::Result<System> {
        Ok(match self {
            Resolvers::File(path) => System::parse(&std::fs::read_to_string(path)?, own),
            Resolvers::These { servers, search } => System::new(servers.clone(), search.clone(), own),
        })
    }
}

/// What the system says about name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct System {
    pub(super) servers: Vec<SocketAddr>,
    search: Vec<String>,
}

impl System {
    /// Without the addresses of our own server, which would ask itself.
    pub(super) fn new(servers: Vec<SocketAddr>, search: Vec<String>, own: &[SocketAddr]) -> System {
        let servers = servers.into_iter().filter(|server| !own.contains(server)).take(SERVERS).collect();
        let lower = |domain: String| domain.trim_matches('.').to_ascii_lowercase();
        System { servers, search: search.into_iter().map(lower).filter(|domain| !domain.is_empty()).collect() }
    }

    /// Reads a file like `resolv.conf`. What it does not understand, as the system library does, it passes over.
    pub(super) fn parse(text: &str, own: &[SocketAddr]) -> System {
        let (mut servers, mut search) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    servers.extend(address.map(|address| SocketAddr::new(address, DNS)));
                }
                // The last of them counts.
                Some("search" | "domain") => search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        if servers.is_empty() {
            servers.push(SocketAddr::from(([127, 0, 0, 1], DNS)));
        }
        System::new(servers, search, own)
    }

    /// Whether a cluster answers for its domain: then programs here search it, and it may know names that the mesh does not.
    pub(super) fn has_cluster(&self, domain: &str) -> bool {
        self.search.iter().any(|searched| before(searched, domain).is_some())
    }

    /// What is answered for a foreign name when no name server answers. A program that looks for `cart` asks for
    /// `cart.corp.example` first if that domain is in its search list; some give up when that fails, and would not come to
    /// ask for `cart`.
    pub(super) fn otherwise(&self, name: &str, table: &Table) -> ResponseCode {
        let lower = name.to_ascii_lowercase();
        let is_ours = |short: &str| matches!(table.resolve(short), Meaning::Service(_));
        let mut short = self.search.iter().filter_map(|domain| before(&lower, domain)?.strip_suffix('.'));
        if short.any(is_ours) { ResponseCode::NXDomain } else { ResponseCode::ServFail }
    }
}

/// What stands before a domain in a name, with the dot.
fn before<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(domain)?;
    (rest.is_empty() || rest.ends_with('.')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::shop;
    use super::*;

    #[test]
    fn a_file_is_read_as_the_system_library_reads_it() {
        let text = "# a comment\nnameserver 10.0.0.2\nnameserver fd00::2\n; x\nnameserver nonsense\nnameserver\n\
                    nameserver 10.0.0.3\nnameserver 10.0.0.4\ndomain old.example\nsearch Corp.Example. shop.svc.cluster.local\noptions ndots:5\n";
        let system = System::parse(text, &[]);
        let servers = ["10.0.0.2:53", "[fd00::2]:53", "10.0.0.3:53"].map(|text| text.parse().unwrap());
        assert_eq!(system.servers, servers);
        assert_eq!(system.search, ["corp.example", "shop.svc.cluster.local"]);
        assert_eq!(System::parse("", &[]).servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn our_own_server_is_not_asked() {
        let own = "127.0.0.1:53".parse().unwrap();
        assert_eq!(System::parse("nameserver 127.0.0.1\nnameserver 10.0.0.2", &[own]).servers.len(), 1);
        assert_eq!(System::parse("", &[own]).servers, []);
    }

    #[test]
    fn a_searched_form_of_our_name_does_not_end_the_search() {
        let system = System::parse("search corp.example", &[]);
        let table = shop();
        assert_eq!(system.otherwise("Cart.Corp.Example", &table), ResponseCode::NXDomain);
        assert_eq!(system.otherwise("cart.shop.corp.example", &table), ResponseCode::NXDomain);
        for name in ["www.corp.example", "corp.example", "cart.other.example", "cartcorp.example"] {
            assert_eq!(system.otherwise(name, &table), ResponseCode::ServFail, "{name}");
        }
    }

    #[test]
    fn a_cluster_is_seen_by_what_is_searched() {
        assert!(System::parse("search shop.svc.cluster.local svc.cluster.local", &[]).has_cluster("cluster.local"));
        assert!(!System::parse("search corp.example notcluster.local", &[]).has_cluster("cluster.local"));
    }
}
