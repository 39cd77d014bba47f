//! Which name means which service, and which virtual address stands for it. Pure: the same input gives the same table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;

use super::stable_hash;

/// The domain that is the mesh's own: `cart.mesh`, `cart.shop.mesh`.
const MESH: &str = "mesh";
/// What stands between a service's namespace and the cluster domain.
const SERVICES: &str = "svc";
/// Services of which an address is remembered after they are gone. Beyond that those that are gone are forgotten.
const REMEMBERED: usize = 65_536;

/// The virtual addresses that were given out, by `namespace/name`. Kept by the caller across restarts, so that a program
/// that holds on to an address keeps reaching the same service.
pub type Assigned = BTreeMap<String, Ipv4Addr>;

/// What a table answers for.
#[derive(Clone, Debug)]
pub struct Realm {
    /// The namespace of short names: that of the program.
    pub home: String,
    /// Where virtual addresses are taken from.
    pub range: Ipv4Net,
    /// The domain of `cart.shop.svc.cluster.local`.
    pub cluster_domain: String,
}

impl Realm {
    /// `cluster.local`, and addresses from 240.0.0.0/4, which nobody has (RFC 1112, section 4).
    pub fn new(home: &str) -> Realm {
        let range = Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4);
        Realm { home: home.to_owned(), range, cluster_domain: "cluster.local".to_owned() }
    }
}

/// A service that has a name in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The ports that it serves.
    pub ports: Vec<u16>,
}

/// An instance of a service that has no address of its own (headless): its name is answered with theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// What it is called below the service, as in `cart-0.cart`; none when it has no name.
    pub name: Option<String>,
    /// Its own address.
    pub address: IpAddr,
    /// Whether the name of the service stands for it too.
    pub ready: bool,
}

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A service, which has this virtual address.
    Service(Ipv4Addr),
    /// No service itself, but part of the names of services.
    Parent,
    /// Nothing: a name of the mesh's own domain that no service has.
    NotInMesh,
    /// Nothing that this table knows: a name of the cluster domain, which a cluster may know.
    NotInCluster,
    /// A name that is not the mesh's.
    Foreign,
}

/// Where a connection to an address is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// To a port of a service.
    Service(&'a MeshService, u16),
    /// To a service, but to a port that it does not serve.
    NoSuchPort(&'a MeshService),
    /// To a virtual address that stands for no service.
    NoSuchService,
    /// To an address that is not virtual.
    Elsewhere,
}

/// Names and virtual addresses of services.
#[derive(Clone, Debug)]
pub struct Table {
    realm: Realm,
    services: Vec<MeshService>,
    by_name: HashMap<String, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, usize>,
    namespaces: BTreeSet<String>,
    assigned: Assigned,
    /// The instances of headless services, by `namespace/name`.
    headless: HashMap<String, Vec<Instance>>,
}

impl Table {
    /// The table of these services. Those in `known` keep their address; an address in `known` is given to nobody else. New
    /// ones get an address that follows from their name, or the next free one.
    pub fn build(realm: Realm, known: &Assigned, services: impl IntoIterator<Item = MeshService>) -> Table {
        let services: BTreeMap<String, MeshService> =
            services.into_iter().map(|service| (key(&service.namespace, &service.name), service)).collect();
        let mut used = BTreeSet::new();
        let mut assigned = Assigned::new();
        let is_current = |name: &str| services.contains_key(name);
        // Those that there are come first, should the map hold an address twice.
        let (current, gone): (Vec<_>, Vec<_>) = known.iter().partition(|(name, _)| is_current(name));
        for (name, &address) in current.into_iter().chain(gone.into_iter().take(REMEMBERED)) {
            if realm.range.contains(&address) && used.insert(address) {
                assigned.insert(name.clone(), address);
            }
        }
        let mut table = Table {
            realm,
            services: Vec::with_capacity(services.len()),
            by_name: HashMap::with_capacity(services.len()),
            by_address: HashMap::with_capacity(services.len()),
            namespaces: BTreeSet::new(),
            assigned,
            headless: HashMap::new(),
        };
        for (name, service) in services {
            table.add(name, service, &mut used);
        }
        table
    }

    fn add(&mut self, name: String, service: MeshService, used: &mut BTreeSet<Ipv4Addr>) {
        let address = match self.assigned.get(&name) {
            Some(&address) => address,
            None => {
                let Some(address) = choose(self.realm.range, &name, used) else {
                    tracing::warn!(service = name, range = %self.realm.range, "no virtual address is left for a service");
                    return;
                };
                used.insert(address);
                self.assigned.insert(name.clone(), address);
                address
            }
        };
        self.by_address.insert(address, self.services.len());
        self.by_name.insert(name, address);
        self.namespaces.insert(service.namespace.clone());
        self.services.push(service);
    }

    /// The same table with the instances of a headless service. Without any, its name means its virtual address.
    pub fn with_instances(mut self, namespace: &str, name: &str, instances: Vec<Instance>) -> Table {
        self.headless.insert(key(namespace, name), instances);
        self
    }

    /// The addresses that a name means: those of the instances of a headless service that are ready, or of one that is named below it.
    /// Empty for every other name.
    pub fn instances(&self, name: &str) -> Vec<IpAddr> {
        if self.headless.is_empty() {
            return Vec::new();
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let in_cluster = within(&name, &self.realm.cluster_domain).and_then(|rest| within(rest, SERVICES));
        let (rest, has_namespace) = match in_cluster.or_else(|| within(&name, SERVICES)) {
            Some(rest) => (rest, true),
            None => (within(&name, MESH).unwrap_or(&name), false),
        };
        let of =
            |namespace: &str, service: &str| self.headless.get(&key(namespace, service)).map_or(&[][..], Vec::as_slice);
        let all = |instances: &[Instance]| -> Vec<IpAddr> {
            instances.iter().filter(|one| one.ready).map(|one| one.address).collect()
        };
        let named = |wanted: &str, instances: &[Instance]| -> Vec<IpAddr> {
            let it = instances.iter().filter(|one| one.name.as_deref() == Some(wanted));
            it.map(|one| one.address).collect()
        };
        let home = &*self.realm.home;
        match *rest.split('.').collect::<Vec<_>>() {
            [service] if !has_namespace => all(of(home, service)),
            [service, namespace] => match all(of(namespace, service)) {
                // A service of the other namespace comes first, whatever it is.
                none if none.is_empty() && !has_namespace && self.service(namespace, service).is_none() => {
                    named(service, of(home, namespace))
                }
                found => found,
            },
            [instance, service, namespace] => named(instance, of(namespace, service)),
            _ => Vec::new(),
        }
    }

    /// What a name means, without regard to case. It is taken as complete: it ends at the root.
    pub fn resolve(&self, name: &str) -> Meaning {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(rest) = within(&name, MESH) {
            return self.resolve_within(rest, Meaning::NotInMesh);
        }
        let in_cluster = within(&name, &self.realm.cluster_domain).and_then(|rest| within(rest, SERVICES));
        if let Some(rest) = in_cluster.or_else(|| within(&name, SERVICES)) {
            // Here a namespace stands in every name.
            if let (false, Some(meaning)) = (rest.contains('.'), self.parent(rest)) {
                return meaning;
            }
            return match rest.split_once('.') {
                Some((service, namespace)) => self.service(namespace, service).unwrap_or(Meaning::NotInCluster),
                None => Meaning::NotInCluster,
            };
        }
        match self.resolve_within(&name, Meaning::Foreign) {
            // A namespace alone is no name of the mesh's.
            Meaning::Parent => Meaning::Foreign,
            meaning => meaning,
        }
    }

    fn resolve_within(&self, rest: &str, otherwise: Meaning) -> Meaning {
        let found = match rest.split_once('.') {
            Some((service, namespace)) => self.service(namespace, service),
            None => self.service(&self.realm.home, rest).or_else(|| self.parent(rest)),
        };
        found.unwrap_or(otherwise)
    }

    fn service(&self, namespace: &str, service: &str) -> Option<Meaning> {
        self.by_name.get(&key(namespace, service)).map(|&address| Meaning::Service(address))
    }

    fn parent(&self, rest: &str) -> Option<Meaning> {
        (rest.is_empty() || self.namespaces.contains(rest)).then_some(Meaning::Parent)
    }

    /// The service that an address stands for.
    pub fn service_at(&self, address: IpAddr) -> Option<&MeshService> {
        let IpAddr::V4(address) = address.to_canonical() else {
            return None;
        };
        self.by_address.get(&address).and_then(|&index| self.services.get(index))
    }

    /// Where a connection to `destination` is going.
    pub fn target(&self, destination: SocketAddr) -> Target<'_> {
        let port = destination.port();
        match self.service_at(destination.ip()) {
            Some(service) if service.ports.contains(&port) => Target::Service(service, port),
            Some(service) => Target::NoSuchPort(service),
            None if self.is_virtual(destination.ip()) => Target::NoSuchService,
            None => Target::Elsewhere,
        }
    }

    /// Whether an address is of the range that virtual addresses are taken from.
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        matches!(address.to_canonical(), IpAddr::V4(address) if self.realm.range.contains(&address))
    }

    /// The full name of a service.
    pub fn full_name(&self, service: &MeshService) -> String {
        format!("{}.{}.{SERVICES}.{}", service.name, service.namespace, self.realm.cluster_domain)
    }

    /// What this table answers for.
    pub fn realm(&self) -> &Realm {
        &self.realm
    }

    /// The services, sorted by namespace and name.
    pub fn services(&self) -> &[MeshService] {
        &self.services
    }

    /// Every address that is given out, to be kept for the next [`build`](Table::build).
    pub fn assigned(&self) -> &Assigned {
        &self.assigned
    }
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}").to_ascii_lowercase()
}

/// What stands before `domain` in `name`, without the dot; the domain itself has nothing before it.
fn within<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(domain)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
}

/// The address that follows from a name, or the next that nobody has.
fn choose(range: Ipv4Net, name: &str, used: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let size = 1_u64 << (32 - u32::from(range.prefix_len()));
    let first = u64::from(u32::from(range.network()));
    let start = stable_hash(name.as_bytes()) % size;
    // Among one more than are used, or are skipped, there is a free one if there is one at all: of 256 addresses 2 are.
    let tries = size.min(2 * (used.len() as u64 + 2));
    (0..tries)
        .filter_map(|step| u32::try_from(first + (start + step) % size).ok())
        .map(Ipv4Addr::from)
        // Some programs take these for a network's own address or its broadcast.
        .find(|address| !matches!(address.octets()[3], 0 | 255) && !used.contains(address))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::names) fn service(namespace: &str, name: &str) -> MeshService {
        MeshService { namespace: namespace.to_owned(), name: name.to_owned(), ports: vec![80, 9090] }
    }

    pub(in crate::names) fn shop() -> Table {
        let services = [service("shop", "cart"), service("shop", "mesh"), service("pay", "ledger")];
        Table::build(Realm::new("shop"), &Assigned::new(), services)
    }

    fn address(table: &Table, name: &str) -> Ipv4Addr {
        match table.resolve(name) {
            Meaning::Service(address) => address,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn every_form_of_a_name_means_the_same_service() {
        let table = shop();
        let cart = address(&table, "cart");
        for name in ["cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local", "cart.mesh", "cart.shop.mesh"] {
            assert_eq!(address(&table, name), cart, "{name}");
        }
        assert_eq!(address(&table, "CART.Shop.svc.Cluster.Local."), cart);
        assert_eq!(table.full_name(&service("shop", "cart")), "cart.shop.svc.cluster.local");
    }

    #[test]
    fn a_headless_service_is_its_instances() {
        let instance = |name: &str, last: u8, ready| Instance {
            name: Some(name.to_owned()),
            address: [10, 0, 0, last].into(),
            ready,
        };
        let instances = vec![instance("cart-0", 1, true), instance("cart-1", 2, false), instance("cart-2", 3, true)];
        let table = shop().with_instances("shop", "cart", instances);
        let lasts = |name: &str| -> Vec<u8> {
            let addresses = table.instances(name).into_iter();
            addresses
                .filter_map(|one| if let IpAddr::V4(one) = one { one.octets().last().copied() } else { None })
                .collect()
        };
        for name in ["cart", "cart.shop", "cart.mesh", "CART.shop.svc.cluster.local.", "cart.shop.svc"] {
            assert_eq!(lasts(name), [1, 3], "{name}");
        }
        for name in ["cart-1.cart", "cart-1.cart.shop", "cart-1.cart.shop.mesh", "cart-1.cart.shop.svc.cluster.local"] {
            assert_eq!(lasts(name), [2], "{name}: its own name stands for it, ready or not");
        }
        for name in
            ["mesh", "ledger.pay", "cart-9.cart", "cart-1.cart.pay", "cart.svc", "a.cart-1.cart.shop", "", "cart-1"]
        {
            assert_eq!(lasts(name), [0; 0], "{name}");
        }
    }

    #[test]
    fn only_names_of_our_own_domains_can_be_known_not_to_be() {
        let table = shop();
        let cases = [
            ("checkout", Meaning::Foreign),
            ("ledger", Meaning::Foreign),
            ("checkout.shop", Meaning::Foreign),
            ("shop", Meaning::Foreign),
            ("example.com", Meaning::Foreign),
            ("cart.example.com", Meaning::Foreign),
            ("notmesh", Meaning::Foreign),
            ("", Meaning::Foreign),
            ("checkout.mesh", Meaning::NotInMesh),
            ("a.cart.shop.mesh", Meaning::NotInMesh),
            ("checkout.shop.svc.cluster.local", Meaning::NotInCluster),
            ("cart.svc.cluster.local", Meaning::NotInCluster),
            ("cart.svc", Meaning::NotInCluster),
            ("a.cart.shop.svc.cluster.local", Meaning::NotInCluster),
            ("shop.mesh", Meaning::Parent),
            ("mesh", Meaning::Parent),
            ("svc.cluster.local", Meaning::Parent),
            ("pay.svc.cluster.local", Meaning::Parent),
            ("cluster.local", Meaning::Foreign),
        ];
        for (name, meaning) in cases {
            assert_eq!(table.resolve(name), meaning, "{name}");
        }
    }

    #[test]
    fn an_address_stays_and_is_not_used_again() {
        let range: Ipv4Net = "240.0.0.0/29".parse().unwrap();
        let realm = Realm { range, ..Realm::new("shop") };
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let table = Table::build(realm.clone(), &Assigned::new(), names.map(|name| service("shop", name)));
        let all: BTreeSet<_> = table.assigned().values().collect();
        assert_eq!(all.len(), 7, "of eight addresses all but the first are given out");
        assert!(table.assigned().values().all(|address| range.contains(address) && address.octets()[3] != 0));
        let smaller = Table::build(realm.clone(), table.assigned(), [service("shop", "c")]);
        assert_eq!(smaller.assigned(), table.assigned(), "those that are gone keep theirs");
        assert_eq!(smaller.resolve("a"), Meaning::Foreign);
        let full = Table::build(realm, smaller.assigned(), [service("shop", "c"), service("shop", "new")]);
        assert_eq!(address(&full, "c"), address(&table, "c"));
        assert_eq!(full.resolve("new"), Meaning::Foreign, "no address was left");
    }

    #[test]
    fn the_same_names_get_the_same_addresses_in_any_order() {
        let forth = Table::build(Realm::new("x"), &Assigned::new(), ["a", "b", "c"].map(|name| service("shop", name)));
        let back = Table::build(Realm::new("y"), &Assigned::new(), ["c", "b", "a"].map(|name| service("shop", name)));
        assert_eq!(forth.assigned(), back.assigned());
    }

    #[test]
    fn a_map_that_makes_no_sense_does_no_harm() {
        let one = Ipv4Addr::new(240, 1, 1, 1);
        let known = Assigned::from([
            ("gone/x".to_owned(), one),
            ("shop/a".to_owned(), one),
            ("shop/b".to_owned(), one),
            ("shop/c".to_owned(), Ipv4Addr::LOCALHOST),
        ]);
        let table = Table::build(Realm::new("shop"), &known, ["a", "b", "c"].map(|name| service("shop", name)));
        let addresses: BTreeSet<_> = ["a", "b", "c"].map(|name| address(&table, name)).into();
        assert_eq!(addresses.len(), 3);
        assert_eq!(address(&table, "a"), one);
        assert!(addresses.iter().all(|&address| table.is_virtual(address.into())));
    }

    #[test]
    fn a_connection_is_told_its_service_and_port() {
        let table = shop();
        let cart = address(&table, "cart");
        let at = |port| SocketAddr::new(cart.into(), port);
        assert_eq!(table.target(at(80)), Target::Service(&service("shop", "cart"), 80));
        assert_eq!(table.target(at(81)), Target::NoSuchPort(&service("shop", "cart")));
        let mapped = SocketAddr::new(cart.to_ipv6_mapped().into(), 80);
        assert_eq!(table.target(mapped), Target::Service(&service("shop", "cart"), 80));
        assert_eq!(table.target("255.1.2.3:80".parse().unwrap()), Target::NoSuchService);
        assert_eq!(table.target("10.0.0.1:80".parse().unwrap()), Target::Elsewhere);
        assert_eq!(table.target("[fd00::1]:80".parse().unwrap()), Target::Elsewhere);
    }
}
