//! `transept sidecar`: a program in the mesh, without a change to it.
//!
//! The flags and their help; what they lead to is in `sidecar`.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use transept_identity::Ticket;
use transept_proxy::capture::IpNet;

use super::Exit;
use super::control::default_state;
use crate::access_log::Target;
use crate::gateway::ServeArgs;
use crate::sidecar::{
    self, AppPort, Place, Plan, Question, TOKEN, Transparent, Upstream, is_label, own_address, parse_local, settle,
};
use crate::{duration, logging};

const EXAMPLES: &str = "\
Examples:
  transept sidecar --service cart --port 8080 --control 10.0.0.1:9909 --token-file cart.token -- ./cart
  transept sidecar --service cart --port 80:8080/http --upstream catalog=9001 --control 10.0.0.1:9909 -- ./cart
  transept sidecar --service web --transparent --control 10.0.0.1:9909 -- ./web        calls http://catalog:9000 by its name
  transept sidecar --service jobs --http-proxy 127.0.0.1:0 --control 10.0.0.1:9909 -- python3 jobs.py
  transept sidecar --service cart --port 8080 --control 10.0.0.1:9909        beside a program that is there already

The token is read from the file, or from TRANSEPT_TOKEN, and needed only for the first start: the certificate is renewed from then on.
What the control plane said last is kept in the directory of --state, so that a start without the control plane works.

The program starts when the sidecar is ready, and finds in its environment TRANSEPT_IDENTITY, for each --upstream
TRANSEPT_UPSTREAM_NAME with the local address, and with --http-proxy HTTP_PROXY. SIGHUP, SIGUSR1 and SIGUSR2 are handed on to it.
SIGTERM and SIGINT stop in order: no new requests come in, those under way end, the program gets the signal, its own requests work
until it has ended. The exit code is the program's, or 128 and the number of the signal that ended it.";

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
    #[arg(long, env = "TRANSEPT_CONTROL", value_name = "HOST:PORT", default_value = "127.0.0.1:9909")]
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

    /// Own address, where others in the mesh reach this instance [default: the one on the way to the control plane]
    #[arg(long, env = "TRANSEPT_ADDRESS", value_name = "IP")]
    address: Option<IpAddr>,

    /// Service under a local address, such as catalog=127.0.0.1:9001 or db.shop:5432=5432 (port 0: any free port); may be repeated
    #[arg(long, env = "TRANSEPT_UPSTREAM", value_name = "NAME[.NAMESPACE][:PORT]=ADDR", value_delimiter = ',')]
    upstream: Vec<Upstream>,

    /// Local address of an HTTP proxy to all services; the program is told of it in HTTP_PROXY (port 0: any free port)
    #[arg(long, env = "TRANSEPT_HTTP_PROXY", value_name = "ADDR", value_parser = parse_local)]
    http_proxy: Option<SocketAddr>,

    /// Capture the program's calls of services by name, such as http://catalog or catalog.shop:5432: the program needs no setting.
    /// Linux; needs CAP_NET_ADMIN
    #[arg(long, env = "TRANSEPT_TRANSPARENT")]
    transparent: bool,

    /// Addresses in which instances may be that the program calls by their own address: with --transparent, its TCP connections there are
    /// captured too, and those to anybody else there are passed on; `none` captures none [default: the private ranges of IPv4 and IPv6]
    #[arg(long, env = "TRANSEPT_INSTANCES_IN", value_name = "CIDR", value_delimiter = ',', requires = "transparent")]
    instances_in: Vec<Ranges>,

    /// Path that answers 2xx or 3xx when the program is well [default: an open port is enough]
    #[arg(long, env = "TRANSEPT_HEALTH_PATH", value_name = "PATH")]
    health_path: Option<String>,

    /// How often the program is asked whether it is well
    #[arg(long, env = "TRANSEPT_HEALTH_INTERVAL", value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    health_interval: Duration,

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

/// Runs until the program or a signal ends it.
pub(crate) fn run(mut args: Args) -> Result<Exit> {
    logging::start(&args.serve.log)?;
    if !args.program.is_empty() {
        // Standard output is the program's.
        args.serve.access_log.access_log.get_or_insert(Target::Stderr);
    }
    if args.transparent {
        let port = args.listen.map_or(TUNNEL_PORT, |listen| listen.port);
        let named = || instance_name(&args.service, &machine_name(), (!args.port.is_empty()).then_some(port));
        Transparent::clear(&args.name.clone().unwrap_or_else(named))?;
    }
    let ticket = read_ticket(args.token_file.as_deref())?;
    let address = match (args.address, args.listen.and_then(|listen| listen.ip)) {
        (Some(address), _) => address,
        (None, Some(ip)) if !ip.is_unspecified() => ip,
        _ => own_address(&args.control).with_context(|| {
            format!(
                "no way to the control plane at {}, so the own address is not known; say it with --address",
                args.control
            )
        })?,
    };
    let listen = args.listen.unwrap_or(Listen { ip: None, port: TUNNEL_PORT });
    let inbound = match args.port.is_empty() {
        true => None,
        false => Some(settle(SocketAddr::new(listen.ip.unwrap_or(address), listen.port))?),
    };
    for upstream in &mut args.upstream {
        upstream.local = settle(upstream.local).with_context(|| upstream.local.to_string())?;
    }
    let name = match args.name {
        Some(name) => name,
        None => instance_name(&args.service, &machine_name(), inbound.map(|inbound| inbound.port())),
    };
    let state = args.state.unwrap_or_else(|| default_state("sidecar").join(&args.namespace).join(&name));
    let question = args.port.first().map(|port| {
        Question::new((Ipv4Addr::LOCALHOST, port.target).into(), args.health_path.as_deref(), args.health_interval)
    });
    sidecar::serve(Plan {
        control: args.control,
        ticket,
        state,
        address,
        place: Place {
            namespace: args.namespace,
            workload: name,
            service: args.service,
            inbound,
            ports: args.port,
            upstreams: args.upstream,
            http_proxy: args.http_proxy.map(settle).transpose().context("--http-proxy")?,
            zone: args.serve.zone().map(Into::into),
        },
        transparent: args.transparent,
        instances_in: instances_in(&args.instances_in),
        question,
        program: args.program,
        serve: args.serve,
    })
}

fn parse_name(text: &str) -> Result<String, String> {
    if is_label(text) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not a name: lower-case letters, digits and `-`, at most 63"))
}

/// Where tunnels come in, from `15008`, `:15008` or an address with its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listen {
    ip: Option<IpAddr>,
    port: u16,
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

/// The join token: from the file, else from the environment; none when there is neither, because a member needs it only once.
pub(super) fn read_ticket(file: Option<&Path>) -> Result<Option<Ticket>> {
    let text = match file {
        Some(file) => std::fs::read_to_string(file).with_context(|| file.display().to_string())?,
        None => std::env::var(TOKEN).unwrap_or_default(),
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let place = || file.map_or_else(|| TOKEN.to_owned(), |file| file.display().to_string());
    Ticket::read(&text).map(Some).with_context(place)
}

fn machine_name() -> String {
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
