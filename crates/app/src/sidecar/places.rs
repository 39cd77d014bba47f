//! Where the program is, where it finds others, and how it is told: ports, named local ports, and the environment.
//!
//! Parsed from the command line of `sidecar`, read when the station is made and when the program is started.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use anyhow::{Result as Checked, bail};

/// What may be left out of an address: loopback.
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A port of the program, from `[SERVICE_PORT:]PORT[/PROTOCOL]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AppPort {
    /// The port that others call the service on.
    pub(crate) service: u16,
    /// The port that the program listens on.
    pub(crate) target: u16,
    /// What it speaks, as `appProtocol` names it; none is found out.
    pub(crate) protocol: Option<String>,
}

impl FromStr for AppPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a port, such as 8080, 80:8080 or 80:8080/tcp");
        let (ports, protocol) = match text.split_once('/') {
            Some((ports, protocol)) if !protocol.is_empty() => (ports, Some(protocol)),
            Some(_) => return Err(wrong()),
            None => (text, None),
        };
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong);
        let (service, target) = match ports.split_once(':') {
            Some((service, target)) => (port(service)?, port(target)?),
            None => (port(ports)?, port(ports)?),
        };
        let protocol = match protocol {
            None => None,
            Some("tcp") => Some("tcp"),
            Some("http") => Some("http"),
            Some("h2c" | "grpc" | "kubernetes.io/h2c") => Some("kubernetes.io/h2c"),
            Some("ws" | "kubernetes.io/ws") => Some("kubernetes.io/ws"),
            Some(other) => {
                return Err(format!("`{other}` is not a protocol; there are http, h2c, grpc, ws and tcp"));
            }
        };
        Ok(AppPort { service, target, protocol: protocol.map(str::to_owned) })
    }
}

/// Where tunnels come in, from `15008`, `:15008` or an address with its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen {
    /// The address; none is the own one.
    pub(crate) ip: Option<IpAddr>,
    /// The port.
    pub(crate) port: u16,
}

/// Refuses a port that others call and that would lead to two places.
///
/// # Errors
/// A port is there twice.
pub(crate) fn check_ports(ports: &[AppPort]) -> Checked<()> {
    for (number, port) in ports.iter().enumerate() {
        if let Some(other) = ports.iter().take(number).find(|other| other.service == port.service) {
            let (service, first, second) = (port.service, other.target, port.target);
            bail!(
                "--port {service}:{first} and --port {service}:{second}: others call port {service}, and it can lead to one port of the \
                 program only; give each another one in front of the colon"
            );
        }
    }
    Ok(())
}

/// Refuses a place for tunnels that is the program's own: what came in would be led to the sidecar again.
///
/// # Errors
/// It is that of one of these ports.
pub(crate) fn check_tunnels(inbound: SocketAddr, ports: &[AppPort]) -> Checked<()> {
    let takes_home = inbound.ip() == HOME || inbound.ip().is_unspecified();
    if takes_home && ports.iter().any(|port| port.target == inbound.port()) {
        bail!(
            "tunnels come in at {inbound}, and --port says that the program listens there itself; choose another port for one of \
             them, such as --listen {}",
            inbound.port().checked_add(1).unwrap_or(15_008)
        );
    }
    Ok(())
}

/// Refuses a place for the admin server that is the program's own: who calls the program would be shown what only this machine is to see, and
/// the program would be found well for as long as the sidecar is.
///
/// # Errors
/// It is that of one of these ports.
pub(crate) fn check_admin(admin: SocketAddr, ports: &[AppPort]) -> Checked<()> {
    if let Some(port) = ports.iter().find(|port| overlap(SocketAddr::new(HOME, port.target), admin)) {
        bail!(
            "the admin server of the sidecar is to be at {admin}, and --port {} says that the program listens there itself; choose \
             another port with --admin, such as --admin 127.0.0.1:0, which is any free one",
            port.target
        );
    }
    Ok(())
}

/// Refuses local addresses at which one would answer for another: what the program asks of one would come to the other.
///
/// # Errors
/// Two things are to be at one address, or two services under one variable.
pub(crate) fn check_locals(upstreams: &[Upstream], http_proxy: Option<SocketAddr>, ports: &[AppPort]) -> Checked<()> {
    let program = ports.iter().map(|port| {
        let at = SocketAddr::new(HOME, port.target);
        (format!("--port {}", port.target), "the program itself".to_owned(), at)
    });
    let proxy = http_proxy.map(|at| (format!("--http-proxy {at}"), "the HTTP proxy".to_owned(), at));
    let mut taken: Vec<_> = program.collect();
    for (flag, whose, at) in upstreams.iter().map(Upstream::place).chain(proxy) {
        // Any free port is nobody's yet.
        let taken_already =
            taken.iter().find(|(_, other, place)| at.port() != 0 && *other != whose && overlap(*place, at));
        if let Some((other_flag, other, _)) = taken_already {
            bail!(
                "{other_flag} and {flag}: {at} can lead to {other} or to {whose}, and not to both; choose another port for one of \
                 them, or for upstreams and the HTTP proxy port 0, which is any free one"
            );
        }
        taken.push((flag, whose, at));
    }
    for (number, upstream) in upstreams.iter().enumerate() {
        let mut before = upstreams.iter().take(number);
        let variable = upstream.variable();
        if let Some(other) = before.find(|other| other.variable() == variable && other.target() != upstream.target()) {
            let (first, second) = (other.target(), upstream.target());
            bail!(
                "--upstream {first} and --upstream {second}: the program is told of both in {variable}, which can hold one of them only; \
                 say the namespace or the port of one of them too, which become part of its variable"
            );
        }
    }
    Ok(())
}

/// Refuses a place for tunnels that is one of the local addresses of the program.
///
/// # Errors
/// It is that of an upstream or of the HTTP proxy.
pub(crate) fn check_inbound(
    inbound: SocketAddr,
    upstreams: &[Upstream],
    http_proxy: Option<SocketAddr>,
) -> Checked<()> {
    let proxy = http_proxy.map(|at| (format!("--http-proxy {at}"), "the HTTP proxy".to_owned(), at));
    let taken = upstreams.iter().map(Upstream::place).chain(proxy).find(|(_, _, at)| overlap(*at, inbound));
    if let Some((flag, whose, _)) = taken {
        bail!(
            "tunnels come in at {inbound}, and {flag} says that {whose} is there; choose another port for one of them, such as \
             --listen {}",
            inbound.port().checked_add(1).unwrap_or(15_008)
        );
    }
    Ok(())
}

/// Whether what connects to one of them may come to the other.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    // The wildcard of IPv6 takes what comes over IPv4 too.
    let takes = |a: IpAddr, b: IpAddr| a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    one.port() == other.port() && (a == b || takes(a, b) || takes(b, a))
}

/// A local port that stands for a service, from `NAME[.NAMESPACE][:PORT]=ADDRESS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// The service.
    pub(crate) service: String,
    /// Its namespace; none is that of the sidecar.
    pub(crate) namespace: Option<String>,
    /// Its port; none is its only one, or 80.
    pub(crate) port: Option<u16>,
    /// Where the program reaches it.
    pub(crate) local: SocketAddr,
}

/// What names of services may end with.
const DOMAINS: [&str; 3] = [".svc.cluster.local", ".svc", ".mesh"];

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a service and a local address, such as catalog=127.0.0.1:9001 or db.shop:5432=5432"
            )
        };
        let (target, local) = text.split_once('=').ok_or_else(wrong)?;
        let (name, port) = match target.split_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?)),
            None => (target, None),
        };
        // The name may be one that mesh DNS answers, and means the same then.
        let name = DOMAINS.iter().find_map(|domain| name.strip_suffix(domain)).unwrap_or(name);
        let (service, namespace) = match name.split_once('.') {
            Some((service, namespace)) => (service, Some(namespace)),
            None => (name, None),
        };
        if !is_label(service) || namespace.is_some_and(|namespace| !is_label(namespace)) {
            return Err(wrong());
        }
        Ok(Upstream {
            service: service.to_owned(),
            namespace: namespace.map(str::to_owned),
            port,
            local: parse_local(local).map_err(|_| wrong())?,
        })
    }
}

impl Upstream {
    /// The service as the command line names it.
    fn target(&self) -> String {
        let namespace = self.namespace.iter().map(|namespace| format!(".{namespace}"));
        let port = self.port.iter().map(|port| format!(":{port}"));
        [self.service.clone()].into_iter().chain(namespace).chain(port).collect()
    }

    /// The flag that says so, what is there, and where.
    fn place(&self) -> (String, String, SocketAddr) {
        let target = self.target();
        (format!("--upstream {target}={}", self.local), target, self.local)
    }

    /// The variable that tells the program where the service is.
    fn variable(&self) -> String {
        let mut name = format!("TRANSEPT_UPSTREAM_{}", self.service);
        for part in [self.namespace.clone(), self.port.map(|port| port.to_string())].into_iter().flatten() {
            name.push('_');
            name.push_str(&part);
        }
        name.to_ascii_uppercase().replace(|byte: char| !byte.is_ascii_alphanumeric(), "_")
    }
}

/// A name of an object (DNS label, RFC 1123 section 2.1).
pub(crate) fn is_label(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inside) && !name.starts_with('-') && !name.ends_with('-')
}

/// Accepts `9001`, `:9001` and `127.0.0.1:9001`; a port alone is on loopback, and port 0 is any free one.
pub(crate) fn parse_local(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::new(HOME, port));
    }
    text.parse().map_err(|_| format!("`{text}` is not an address and a port, such as 127.0.0.1:9001"))
}

/// What the program's environment has besides ours.
pub(crate) fn environment(
    identity: &str,
    upstreams: &[Upstream],
    http_proxy: Option<SocketAddr>,
) -> Vec<(String, String)> {
    let mut all = vec![("TRANSEPT_IDENTITY".to_owned(), identity.to_owned())];
    all.extend(upstreams.iter().map(|upstream| (upstream.variable(), upstream.local.to_string())));
    if let Some(proxy) = http_proxy {
        for name in ["HTTP_PROXY", "http_proxy"] {
            all.push((name.to_owned(), format!("http://{proxy}")));
        }
        for name in ["NO_PROXY", "no_proxy"] {
            all.push((name.to_owned(), "localhost,127.0.0.1,::1".to_owned()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_the_program_may_have_another_one_for_others_and_a_protocol() {
        let port = |text: &str| text.parse::<AppPort>().expect(text);
        assert_eq!(port("8080"), AppPort { service: 8080, target: 8080, protocol: None });
        assert_eq!((port("80:8080").service, port("80:8080").target), (80, 8080));
        assert_eq!(port("50051/grpc").protocol.as_deref(), Some("kubernetes.io/h2c"));
        for wrong in ["", "0", "80:", "x", "80/", "80/smtp", "1:2:3", "70000"] {
            assert!(wrong.parse::<AppPort>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_admin_server_is_not_where_the_program_listens() {
        let ports = ["80:8080".parse::<AppPort>().expect("a port")];
        let check = |at: &str| check_admin(at.parse().expect("an address"), &ports);
        for taken in ["127.0.0.1:8080", "0.0.0.0:8080", "[::]:8080"] {
            assert!(check(taken).is_err_and(|why| why.to_string().contains("--port 8080")), "{taken}");
        }
        for free in ["127.0.0.1:80", "127.0.0.2:8080", "127.0.0.1:0"] {
            assert!(check(free).is_ok(), "{free}");
        }
    }

    #[test]
    fn an_upstream_is_a_name_and_a_local_address() {
        let one: Upstream = "catalog=9001".parse().expect("a port alone");
        assert_eq!((&*one.service, one.namespace.clone(), one.port), ("catalog", None, None));
        assert_eq!(one.local, SocketAddr::from(([127, 0, 0, 1], 9001)));
        assert_eq!(one.variable(), "TRANSEPT_UPSTREAM_CATALOG");
        for (name, namespace) in [
            ("cart.mesh", None),
            ("cart.shop.mesh", Some("shop")),
            ("cart.shop.svc", Some("shop")),
            ("cart.mesh.svc.cluster.local", Some("mesh")),
        ] {
            let named: Upstream = format!("{name}:80=9001").parse().expect(name);
            assert_eq!((&*named.service, named.namespace.as_deref()), ("cart", namespace), "{name}");
        }
        let far: Upstream = "my-db.shop:5432=127.0.0.2:15432".parse().expect("everything");
        assert_eq!((far.namespace.as_deref(), far.port), (Some("shop"), Some(5432)));
        assert_eq!(far.variable(), "TRANSEPT_UPSTREAM_MY_DB_SHOP_5432");
        for wrong in ["catalog", "=9001", "Catalog=9001", "catalog:0=9001", "catalog.=1", "catalog=here"] {
            assert!(wrong.parse::<Upstream>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_program_is_told_where_others_are_and_of_a_proxy_only_when_there_is_one() {
        let upstreams = ["catalog=9001".parse().expect("an upstream")];
        let names = |all: Vec<(String, String)>| all.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let plain = environment("spiffe://transept.local/ns/default/sa/cart", &upstreams, None);
        assert_eq!(names(plain), ["TRANSEPT_IDENTITY", "TRANSEPT_UPSTREAM_CATALOG"]);
        let all = environment("x", &[], Some(SocketAddr::from(([127, 0, 0, 1], 3128))));
        assert!(all.contains(&("http_proxy".to_owned(), "http://127.0.0.1:3128".to_owned())));
        assert!(names(all).contains(&"NO_PROXY".to_owned()));
    }

    #[test]
    fn a_port_that_others_call_leads_to_one_place() {
        let ports = |all: &[&str]| all.iter().map(|one| one.parse().expect("a port")).collect::<Vec<AppPort>>();
        assert!(check_ports(&ports(&["80:8081", "81:8081", "8082"])).is_ok());
        let why = check_ports(&ports(&["80:8081", "80:8082"])).expect_err("twice").to_string();
        assert!(why.contains("80:8081 and --port 80:8082"), "{why}");
    }

    #[test]
    fn a_local_address_leads_to_one_place() {
        let check = |upstreams: &[&str], proxy: Option<&str>, ports: &[&str]| {
            let upstreams: Vec<Upstream> = upstreams.iter().map(|one| one.parse().expect("an upstream")).collect();
            let ports: Vec<AppPort> = ports.iter().map(|one| one.parse().expect("a port")).collect();
            let proxy = proxy.map(|proxy| parse_local(proxy).expect("an address"));
            check_locals(&upstreams, proxy, &ports).map_err(|why| why.to_string())
        };
        assert_eq!(check(&["cart=1", "cart.shop=2", "db=127.0.0.2:1", "x=0", "y=0"], Some("3"), &["80:4"]), Ok(()));
        assert_eq!(check(&["cart=1", "cart=1"], None, &[]), Ok(()), "the same again leads nowhere else");
        let wrong: [(&[&str], _, &[&str], _); 5] = [
            (&["cart=1", "cart.shop=1"], None, &[], "--upstream cart=127.0.0.1:1 and --upstream cart.shop=127.0.0.1:1"),
            (
                &["cart=1", "cart:90=0.0.0.0:1"],
                None,
                &[],
                "--upstream cart:90=0.0.0.0:1: 0.0.0.0:1 can lead to cart or to cart:90",
            ),
            (&["cart=1"], Some("[::]:1"), &[], "to cart or to the HTTP proxy"),
            (&["cart=8080"], None, &["80:8080"], "--port 8080 and --upstream cart=127.0.0.1:8080"),
            (&[], Some("8080"), &["8080"], "--http-proxy 127.0.0.1:8080"),
        ];
        for (upstreams, proxy, ports, expected) in wrong {
            let why = check(upstreams, proxy, ports).expect_err(expected);
            assert!(why.contains(expected), "{why}");
        }
    }

    #[test]
    fn a_variable_tells_of_one_service() {
        let check = |all: &[&str]| {
            let upstreams: Vec<Upstream> = all.iter().map(|one| one.parse().expect("an upstream")).collect();
            check_locals(&upstreams, None, &[]).map_err(|why| why.to_string())
        };
        let why = check(&["cart-shop=0", "cart.shop=0"]).expect_err("one variable");
        assert!(why.contains("--upstream cart-shop and --upstream cart.shop"), "{why}");
        assert!(why.contains("TRANSEPT_UPSTREAM_CART_SHOP,"), "{why}");
        assert_eq!(check(&["cart-shop.default=0", "cart.shop=0"]), Ok(()));
    }

    #[test]
    fn tunnels_do_not_come_in_where_the_program_finds_others() {
        let upstreams = ["cart=15010".parse().expect("an upstream")];
        let at = |text: &str, proxy: Option<&str>| {
            let proxy = proxy.map(|proxy| parse_local(proxy).expect("an address"));
            check_inbound(text.parse().expect("an address"), &upstreams, proxy).map_err(|why| why.to_string())
        };
        assert_eq!(at("10.0.0.8:15010", Some("10.0.0.8:3128")), Ok(()));
        assert!(at("127.0.0.1:15010", None).is_err_and(|why| why.contains("--upstream cart=127.0.0.1:15010 says")));
        assert!(at("0.0.0.0:3128", Some("3128")).is_err_and(|why| why.contains("--listen 3129")));
    }

    #[test]
    fn tunnels_do_not_come_in_where_the_program_listens() {
        let ports = ["80:15010".parse().expect("a port")];
        let at = |text: &str| check_tunnels(text.parse().expect("an address"), &ports);
        assert!(at("10.0.0.8:15010").is_ok(), "the program is on another address");
        assert!(at("127.0.0.1:15008").is_ok());
        for taken in ["127.0.0.1:15010", "0.0.0.0:15010", "[::]:15010"] {
            assert!(at(taken).is_err_and(|why| why.to_string().contains("--listen")), "{taken}");
        }
    }
}
