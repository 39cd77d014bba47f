//! `transept sidecar`: a program in the mesh, without a change to it.
//!
//! The flags and their help; what they lead to is in `sidecar`.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::http::uri::PathAndQuery;
use transept_identity::Ticket;
use transept_proxy::capture::IpNet;

use super::Exit;
use super::control::default_state;
use crate::access_log::Target;
use crate::admin::Address;
use crate::gateway::ServeArgs;
use crate::sidecar::{
    self, AppPort, FreePorts, Listen, Place, Plan, Question, TOKEN, Transparent, Upstream, check_admin, check_locals,
    check_ports, is_label, parse_local,
};
use crate::{duration, logging};

const EXAMPLES: &str = "\
Examples:
  transept sidecar --service cart --port 8080 -- ./cart
  transept sidecar --service cart --port 8080            beside a program that is there already
  transept sidecar --service web --transparent -- ./web  calls http://catalog:9000 by its name
  transept sidecar --service jobs --http-proxy 127.0.0.1:0 -- python3 jobs.py
  transept sidecar --service cart --port 80:8080/http --upstream catalog=9001 -- ./cart
  transept sidecar --service cart --port 8080 --control 10.0.0.1:9909 --token-file token -- ./cart

The token is read from the file, or from TRANSEPT_TOKEN, and needed only for the first start: the certificate is \
renewed from then on.
What the control plane said last is kept in the directory of --state, so that a start without the control plane works.

The program starts when the sidecar is ready, and finds in its environment TRANSEPT_IDENTITY, for each --upstream \
TRANSEPT_UPSTREAM_NAME with the local address, and with --http-proxy HTTP_PROXY. SIGHUP, SIGUSR1 and SIGUSR2 are \
handed on to it.
SIGTERM and SIGINT stop in order: no new requests come in, those under way end, the program gets the signal, its own \
requests work until it has ended. A second signal goes to the program at once, a third one kills it. The exit code is \
the program's, or 128 and the number of the signal that ended it.";

/// Run a program in the mesh: identity, mutual TLS, access control, health
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Service that the program is an instance of; its identity is named after it
    #[arg(long, env = "TRANSEPT_SERVICE", value_name = "NAME", value_parser = parse_name)]
    service: String,

    /// Namespace of the service
    #[arg(long, env = "TRANSEPT_NAMESPACE", value_name = "NAME", default_value = "default", value_parser = parse_name)]
    namespace: String,

    /// Name of this instance [default: the service and the name of the machine]
    #[arg(long, env = "TRANSEPT_NAME", value_name = "NAME", value_parser = parse_name)]
    name: Option<String>,

    /// Port of the program on 127.0.0.1, with the port that others call the service on and the protocol (http, h2c, grpc, ws, tcp) if
    /// they are to be said; may be repeated. Without one, nobody can call the program
    #[arg(long, env = "TRANSEPT_PORT", value_name = "[SERVICE_PORT:]PORT[/PROTOCOL]", value_delimiter = ',')]
    port: Vec<AppPort>,

    /// Control plane
    #[arg(
        long,
        env = "TRANSEPT_CONTROL",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9909",
        value_parser = parse_control
    )]
    control: String,

    /// File with the join token, as `transept token create` prints it
    #[arg(long, env = "TRANSEPT_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Directory of what is kept: certificate, roots, the last good configuration [default: /var/lib/transept/sidecar for
    /// root, else ~/.local/state/transept/sidecar; in it a directory for the namespace and the name]
    #[arg(long, env = "TRANSEPT_STATE", value_name = "DIR")]
    state: Option<PathBuf>,

    /// Port or address that tunnels of the mesh come in on [default: port 15008 of the own address]
    #[arg(long, env = "TRANSEPT_LISTEN", value_name = "ADDR", value_parser = parse_listen)]
    listen: Option<Listen>,

    /// Own address, where others in the mesh reach this instance [default: the one on the way to the control plane; the one from last
    /// time, while its name leads nowhere]
    #[arg(long, env = "TRANSEPT_ADDRESS", value_name = "IP")]
    address: Option<IpAddr>,

    /// Service under a local address, such as catalog=127.0.0.1:9001 or db.shop:5432=5432 (port 0: any free port); may be repeated
    #[arg(long, env = "TRANSEPT_UPSTREAM", value_name = "NAME[.NAMESPACE][:PORT]=ADDR", value_delimiter = ',')]
    upstream: Vec<Upstream>,

    /// Local address of an HTTP proxy to all services, and on to names outside the mesh; the program is told of it in HTTP_PROXY
    /// (port 0: any free port)
    #[arg(long, env = "TRANSEPT_HTTP_PROXY", value_name = "ADDR", value_parser = parse_local)]
    http_proxy: Option<SocketAddr>,

    /// Capture the program's calls of services by name, such as http://catalog or catalog.shop:5432: the program needs no setting.
    /// Linux; needs CAP_NET_ADMIN
    #[arg(long, env = "TRANSEPT_TRANSPARENT")]
    transparent: bool,

    /// Addresses in which instances may be that the program calls by their own address: with --transparent, its TCP connections there are
    /// captured too, and those to anybody else there are passed on; `none` captures none but those that names are answered with
    /// [default: the private ranges of IPv4 and IPv6]
    #[arg(long, env = "TRANSEPT_INSTANCES_IN", value_name = "CIDR", value_delimiter = ',', requires = "transparent")]
    instances_in: Vec<Ranges>,

    /// Path that answers 2xx or 3xx when the program is well [default: an open port is enough]
    #[arg(long, env = "TRANSEPT_HEALTH_PATH", value_name = "PATH", value_parser = parse_path)]
    health_path: Option<String>,

    /// How often the program is asked whether it is well [default: 5s]
    #[arg(long, env = "TRANSEPT_HEALTH_INTERVAL", value_name = "DURATION", value_parser = duration::parse)]
    health_interval: Option<Duration>,

    #[command(flatten)]
    serve: ServeArgs,

    /// Program to run, and its arguments; without one, the sidecar stands beside a program that is there already
    #[arg(last = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// Addresses of instances, as the command line says them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ranges {
    None,
    These(IpNet),
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Ranges, String> {
        match text {
            "none" => Ok(Ranges::None),
            text => text.parse().map(Ranges::These).map_err(|_| {
                format!("{text:?} is neither `none` nor a range of addresses such as 10.0.0.0/8 or fd00::/8")
            }),
        }
    }
}

/// The addresses that nobody has on the Internet (RFC 1918, RFC 6598, RFC 4193): instances are hardly ever anywhere else.
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];

/// Where instances may be that are called by their own address.
fn instances_in(said: &[Ranges]) -> Vec<IpNet> {
    if said.is_empty() {
        return PRIVATE.iter().filter_map(|range| range.parse().ok()).collect();
    }
    let these = said.iter().filter_map(|range| match range {
        Ranges::These(net) => Some(*net),
        Ranges::None => None,
    });
    these.collect()
}

/// The port for tunnels, as everybody else's (HBONE).
const TUNNEL_PORT: u16 = 15008;

/// How often a program is asked whether it is well, unless it is said.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

impl Args {
    fn warn_of_idle_flags(&self) {
        let is_any = self.health_path.is_some() || self.health_interval.is_some() || self.listen.is_some();
        if self.port.is_empty() && is_any {
            tracing::warn!(
                "--listen, --health-path and --health-interval change nothing without --port: nobody can call the program"
            );
        }
    }
}

/// Runs until the program or a signal ends it.
pub(crate) fn run(mut args: Args) -> Result<Exit> {
    logging::start(&args.serve.log)?;
    args.warn_of_idle_flags();
    if !args.program.is_empty() {
        // Standard output is the program's.
        args.serve.access_log.access_log.get_or_insert(Target::Stderr);
    }
    check_ports(&args.port)?;
    check_locals(&args.upstream, args.http_proxy, &args.port)?;
    if let Address::At(admin) = args.serve.admin.admin {
        check_admin(admin, &args.port)?;
    }
    let mut free = FreePorts::default();
    let mut listen = args.listen.unwrap_or(Listen { ip: None, port: TUNNEL_PORT });
    if listen.port == 0 {
        let ip = listen.ip.or(args.address).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        listen.port = free.settle(SocketAddr::new(ip, 0)).context("--listen")?.port();
    }
    let inbound = (!args.port.is_empty()).then_some(listen);
    let name = match args.name {
        Some(name) => name,
        None => instance_name(&args.service, &machine_name(), inbound.map(|inbound| inbound.port)),
    };
    if args.transparent {
        Transparent::clear(&name)?;
    } else {
        Transparent::clear_for_others(&name);
    }
    let ticket = read_ticket(args.token_file.as_deref())?;
    if let Some(ticket) = &ticket {
        check_ticket(ticket, &args.namespace, &args.service)?;
    }
    for upstream in &mut args.upstream {
        upstream.local = free.settle(upstream.local).with_context(|| upstream.local.to_string())?;
    }
    let state = args.state.unwrap_or_else(|| default_state("sidecar").join(&args.namespace).join(&name));
    let question = args.port.first().map(|port| {
        Question::new(
            (Ipv4Addr::LOCALHOST, port.target).into(),
            args.health_path.as_deref(),
            args.health_interval.unwrap_or(HEALTH_INTERVAL),
        )
    });
    sidecar::serve(Plan {
        control: args.control,
        ticket,
        state,
        address: args.address.or(listen.ip.filter(|ip| !ip.is_unspecified())),
        inbound,
        place: Place {
            namespace: args.namespace,
            workload: name,
            service: args.service,
            announced: args.address,
            inbound: None,
            ports: args.port,
            upstreams: args.upstream,
            http_proxy: args.http_proxy.map(|at| free.settle(at)).transpose().context("--http-proxy")?,
            locale: args.serve.locale(),
        },
        free,
        transparent: args.transparent,
        instances_in: instances_in(&args.instances_in),
        question,
        program: args.program,
        serve: args.serve,
    })
}

/// A name of an object.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    if is_label(text) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not a name: lower-case letters, digits and `-`, at most 63"))
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse() {
        return Ok(Listen { ip: None, port });
    }
    let address: Result<SocketAddr, _> = text.parse();
    let wrong = |_| format!("`{text}` is not an address and a port, such as 10.0.0.7:15008");
    address.map(|address| Listen { ip: Some(address.ip()), port: address.port() }).map_err(wrong)
}

/// What can be asked for.
fn parse_path(text: &str) -> Result<String, String> {
    match text.parse::<PathAndQuery>() {
        Ok(path) if text.starts_with('/') => Ok(path.to_string()),
        _ => Err(format!("`{text}` is not a path, such as /healthz: it begins with `/` and has no spaces")),
    }
}

/// The address of a control plane, of which nobody looks at the name before it is needed.
pub(super) fn parse_control(text: &str) -> Result<String, String> {
    let wrong =
        |what: &str| Err(format!("`{text}` {what}, such as 10.0.0.1:9909, control.example:9909 or [fd00::1]:9909"));
    if let Some((_, rest)) = text.split_once("://") {
        return Err(format!(
            "`{text}` is a URL; say the control plane's host and port alone, as in {}",
            rest.trim_end_matches('/')
        ));
    }
    match text.rsplit_once(':') {
        _ if text.parse::<IpAddr>().is_ok() => wrong("has no port; say the control plane's address with its port"),
        None => wrong("has no port; say the control plane's host with its port"),
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok_and(|port| port != 0) => Ok(text.to_owned()),
        Some(_) => wrong("is not a host and a port"),
    }
}

/// Whether a text can be a host: a name, or an address, of IPv6 in brackets.
fn is_host(text: &str) -> bool {
    let inside = |one: char| one.is_alphanumeric() || matches!(one, '-' | '_' | '.' | ':' | '[' | ']' | '%');
    !text.is_empty() && text.chars().all(inside)
}

/// The join token: from the file, else from the environment; none when there is neither, because a member needs it only once.
pub(super) fn read_ticket(file: Option<&Path>) -> Result<Option<Ticket>> {
    let text = match file {
        Some(file) => std::fs::read_to_string(file).with_context(|| {
            let file = file.display();
            format!("cannot read --token-file {file}, which `transept token create --service NAME > {file}` makes")
        })?,
        None => std::env::var(TOKEN).unwrap_or_default(),
    };
    if text.trim().is_empty() {
        if let Some(file) = file {
            tracing::warn!(file = %file.display(), "the file of the join token is empty, as after a `transept token create` that has failed");
        }
        return Ok(None);
    }
    let place = || file.map_or_else(|| TOKEN.to_owned(), |file| format!("--token-file {}", file.display()));
    Ticket::read(&text).map(Some).with_context(place)
}

/// Refuses the token of another workload before it is used up: nobody could call the program as what it is not.
fn check_ticket(ticket: &Ticket, namespace: &str, service: &str) -> Result<()> {
    let id = &ticket.id;
    let for_whom = match id.workload() {
        Some(workload) if workload.namespace() == namespace && workload.service_account() == service => return Ok(()),
        Some(workload) => format!("{}/{}", workload.namespace(), workload.service_account()),
        None => id.to_string(),
    };
    bail!(
        "the join token is for {for_whom}, and this is the sidecar of {namespace}/{service}. It was not used and is as good as before; \
         `transept token create --namespace {namespace} --service {service}` at the control plane makes one for this service"
    )
}

/// What the machine calls itself.
pub(super) fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of an instance by its service and its machine; with a port of its own choice there may be several on one machine.
fn instance_name(service: &str, machine: &str, port: Option<u16>) -> String {
    let machine = machine.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let machine: String = machine.chars().filter(|one| one.is_ascii_alphanumeric() || *one == '-').collect();
    let mut name = format!("{service}-{machine}");
    if let Some(port) = port.filter(|port| *port != TUNNEL_PORT) {
        name = format!("{name}-{port}");
    }
    // What is left when the machine has no name that could be used.
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_come_in_on_a_port_or_an_address() {
        assert_eq!(parse_listen(":15008"), Ok(Listen { ip: None, port: 15008 }));
        assert_eq!(parse_listen("127.0.0.2:0"), Ok(Listen { ip: Some([127, 0, 0, 2].into()), port: 0 }));
        assert!(parse_listen("here").is_err_and(|why| why.contains("10.0.0.7:15008")));
    }

    #[test]
    fn what_is_asked_for_is_a_path() {
        assert_eq!(parse_path("/healthz?deep=1"), Ok("/healthz?deep=1".to_owned()));
        for bad in ["healthz", "", "http://cart/healthz", "/health z"] {
            assert!(parse_path(bad).is_err_and(|why| why.contains("/healthz")), "{bad}");
        }
    }

    #[test]
    fn a_control_plane_has_a_port() {
        for good in ["127.0.0.1:9909", "control:9909", "[::1]:9909"] {
            assert_eq!(parse_control(good), Ok(good.to_owned()));
        }
        for bad in ["127.0.0.1", "control", "::1", "[::1]"] {
            assert!(parse_control(bad).is_err_and(|why| why.contains("port")), "{bad}");
        }
        let url = parse_control("https://control.example:9909/");
        assert!(url.is_err_and(|why| why.ends_with("as in control.example:9909")));
        for bad in ["control:", "control:x", "control/path:9909", "a b:9909", ":9909", "control:0", "control:99999"] {
            assert!(parse_control(bad).is_err_and(|why| why.contains("10.0.0.1:9909")), "{bad}");
        }
    }

    #[test]
    fn a_token_of_another_workload_is_refused_with_a_way_out() {
        let root = transept_identity::Fingerprint::of(b"root");
        let text = format!("{}abc.{root}.transept.local/ns/shop/sa/web", transept_identity::token::PREFIX);
        let ticket = Ticket::read(&text).expect("a ticket");
        assert!(check_ticket(&ticket, "shop", "web").is_ok());
        let why = check_ticket(&ticket, "shop", "cart").expect_err("another service").to_string();
        assert!(why.contains("is for shop/web") && why.contains("--namespace shop --service cart"), "{why}");
        assert!(check_ticket(&ticket, "default", "web").is_err(), "another namespace");
    }

    #[test]
    fn instances_are_looked_for_where_nobody_is_on_the_internet_unless_told_otherwise() {
        let read = |all: &[&str]| all.iter().map(|one| one.parse::<Ranges>()).collect::<Result<Vec<_>, _>>();
        assert_eq!(instances_in(&[]).len(), PRIVATE.len());
        assert_eq!(instances_in(&read(&["none"]).expect("a word")), []);
        let one = read(&["203.0.113.0/24"]).expect("a range");
        assert_eq!(instances_in(&one), ["203.0.113.0/24".parse::<IpNet>().expect("a range")]);
        assert!(read(&["here"]).is_err_and(|why| why.contains("10.0.0.0/8")));
    }

    #[test]
    fn instances_are_named_after_service_and_machine() {
        assert_eq!(instance_name("cart", "Node_1.example", Some(15008)), "cart-node1");
        assert_eq!(instance_name("cart", "a", Some(4000)), "cart-a-4000");
        assert_eq!(instance_name("cart", "", None), "cart");
    }
}
