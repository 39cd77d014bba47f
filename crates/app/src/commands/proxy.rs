//! `transept proxy`: a gateway without files, in front of one service (`--to`) or with what a control plane says (`--control`).
//!
//! For one service it writes the same YAML that a user would write and gives it to the same loader as `run`; there is no second
//! way in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, anyhow};
use clap::ArgGroup;
use hyper::Uri;
use transept_control::Sources;
use transept_model::SourceText;
use transept_proxy::feed::{FeedOptions, Interest};

use super::Exit;
use super::control::default_state;
use super::sidecar::{machine_name, parse_control, parse_name, read_ticket};
use crate::console;
use crate::gateway::{self, ServeArgs};
use crate::logging;

const EXAMPLES: &str = "\
Examples:
  transept proxy --to http://127.0.0.1:3000
  transept proxy --to https://www.example.com --listen 0.0.0.0:8080 --access-log off
  transept proxy --to http://127.0.0.1:3000 --print > shop.yaml      for `transept run`
  transept proxy --control 10.0.0.1:9909 --token-file gateway.token  a gateway of the mesh

A path in the URL is put in front of every request path. When the URL names a host that is neither an address nor \
localhost, requests carry that host name; otherwise they keep the one the client sent.";

/// Run a gateway without any file: in front of one service, or as a member of a mesh
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("what to serve").args(["to", "control"]).required(true))]
pub(crate) struct Args {
    /// URL of the service: http:// or https://, a host or an address, a port, a path
    #[arg(long, env = "TRANSEPT_TO", value_name = "URL")]
    to: Option<Target>,

    /// Control plane that the configuration comes from; the gateway is then a member of its mesh
    #[arg(long, env = "TRANSEPT_CONTROL", value_name = "HOST:PORT", value_parser = parse_control)]
    control: Option<String>,

    /// File with the join token for `--control`, as `transept token create --service NAME-OF-GATEWAY` prints it; needed for the
    /// first start only
    #[arg(long, env = "TRANSEPT_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Directory of what is kept with `--control`: certificate, roots, the last good configuration [default:
    /// /var/lib/transept/gateway for root, else ~/.local/state/transept/gateway]
    #[arg(long, env = "TRANSEPT_STATE", value_name = "DIR")]
    state: Option<PathBuf>,

    /// Name of this gateway among those of its identity, for people who ask the control plane [default: the name of the machine]
    #[arg(long, env = "TRANSEPT_NAME", value_name = "NAME", value_parser = parse_name)]
    name: Option<String>,

    /// Address and port to listen on with `--to`; port 0 is any free port. With `--control` the Gateway says where
    #[arg(
        long,
        env = "TRANSEPT_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:8080",
        conflicts_with = "control",
        value_parser = parse_listen
    )]
    listen: SocketAddr,

    /// Print the configuration for `--to` and exit
    #[arg(long, conflicts_with = "control")]
    print: bool,

    #[command(flatten)]
    serve: ServeArgs,
}

/// Serves until a signal ends it.
pub(crate) fn run(args: Args) -> Result<Exit> {
    match (args.to.clone(), args.control.clone()) {
        (Some(to), _) => {
            let given = [
                ("--token-file (or TRANSEPT_TOKEN_FILE)", args.token_file.is_some()),
                ("--state (or TRANSEPT_STATE)", args.state.is_some()),
                ("--name (or TRANSEPT_NAME)", args.name.is_some()),
            ];
            if let Some((flag, _)) = given.iter().find(|(_, is_given)| *is_given) {
                console::fail(&format!(
                    "{flag} is for a gateway of a mesh (--control), and this one is in front of one service (--to)"
                ));
                return Ok(Exit::Usage);
            }
            run_to(&to, args)
        }
        (None, Some(control)) => run_member(control, args),
        (None, None) => Ok(Exit::Usage),
    }
}

/// A gateway with the configuration of a control plane.
fn run_member(control: String, args: Args) -> Result<Exit> {
    logging::start(&args.serve.log)?;
    let node = args.name.unwrap_or_else(machine_name);
    let options = FeedOptions {
        control: vec![control],
        state: args.state.unwrap_or_else(|| default_state("gateway")),
        ticket: read_ticket(args.token_file.as_deref())?,
        node,
        interest: Interest::Everything,
        address: None,
        workload: None,
    };
    gateway::serve_member(options, &args.serve)
}

/// A gateway in front of one service.
fn run_to(to: &Target, args: Args) -> Result<Exit> {
    let mut listen = args.listen;
    if !args.print || listen.port() == 0 {
        // A listener of Gateway API has a port of its own choice; the system's choice is made here. And nobody has written the Gateway
        // that would be blamed for an address.
        let wrong = |error| {
            format!(
                "cannot listen on {listen}: {}; choose another address with --listen ADDR",
                gateway::explain_bind(&error)
            )
        };
        let probe = TcpListener::bind(listen).map_err(|error| anyhow!(wrong(error)))?;
        listen = probe.local_addr()?;
    }
    let yaml = to.configure(listen);
    if args.print {
        console::print(&yaml)?;
        return Ok(Exit::Fine);
    }
    logging::start(&args.serve.log)?;
    let mut sources = Sources::new();
    sources.add_text(SourceText::new("<proxy --to>", yaml));
    gateway::serve(sources, &args.serve, |_| {})
}

/// Accepts `8080`, `:8080` and `127.0.0.1:8080`; a port alone means every address.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    }
    text.parse().map_err(|_| format!("`{text}` is not an address and a port, such as 127.0.0.1:8080"))
}

/// The service behind the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    secure: bool,
    host: String,
    port: u16,
    path: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`{text}` {why}; write for example http://127.0.0.1:3000");
        let uri: Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("is neither an http:// nor an https:// URL")),
        };
        if uri.query().is_some() {
            return Err(wrong("has a query, which a service cannot have"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong("holds a user name"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("names no host"))?;
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        if port == 0 {
            return Err(wrong("has port 0"));
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if secure && host.parse::<IpAddr>().is_ok() {
            return Err(format!(
                "`{text}` names an address, but a certificate is checked against a name; write the name"
            ));
        }
        Ok(Target { secure, host: host.to_owned(), port, path: uri.path().trim_end_matches('/').to_owned() })
    }
}

impl Target {
    /// The configuration of a gateway at `listen` in front of this service.
    fn configure(&self, listen: SocketAddr) -> String {
        let address = match listen.ip() {
            ip if ip.is_unspecified() && ip.is_ipv4() => String::new(),
            ip => format!("  addresses: [{{type: IPAddress, value: \"{ip}\"}}]\n"),
        };
        let port = listen.port();
        let filters = self.filters();
        let tls = if self.secure { "  tls: {}\n" } else { "" };
        format!(
            "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: proxy}}
spec:
  gatewayClassName: transept
{address}  listeners: [{{name: http, protocol: HTTP, port: {port}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: proxy}}
spec:
  rules:
  - backendRefs: [{{group: transept.dev, kind: Backend, name: service}}]
{filters}---
apiVersion: transept.dev/v1alpha1
kind: Backend
metadata: {{name: service}}
spec:
  endpoints: [{{address: {host}, port: {service_port}}}]
{tls}",
            host = quote(&self.host),
            service_port = self.port,
        )
    }

    /// The rewrite that makes a request fit the service, as an entry of the rule; nothing when it fits as it is.
    fn filters(&self) -> String {
        let keeps_host = self.host.parse::<IpAddr>().is_ok() || self.host.eq_ignore_ascii_case("localhost");
        let mut rewrite = Vec::new();
        if !keeps_host {
            rewrite.push(format!("hostname: {}", quote(&self.host)));
        }
        if !self.path.is_empty() {
            rewrite.push(format!(
                "path: {{type: ReplacePrefixMatch, replacePrefixMatch: {}}}",
                quote(&format!("{}/", self.path))
            ));
        }
        if rewrite.is_empty() {
            return String::new();
        }
        format!("    filters: [{{type: URLRewrite, urlRewrite: {{{}}}}}]\n", rewrite.join(", "))
    }
}

/// A string as YAML reads it without surprises: JSON's quoting is YAML's.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn what_would_do_nothing_with_a_control_plane_is_refused() {
        let parsed = |more: &[&str]| {
            let line = ["proxy", "--control", "10.0.0.1:9909"].iter().chain(more);
            <Line as clap::Parser>::try_parse_from(line).map(|line| line.args.listen)
        };
        assert!(parsed(&[]).is_ok());
        for more in [&["--listen", "127.0.0.1:9700"][..], &["--print"]] {
            assert!(parsed(more).is_err(), "{more:?}");
        }
    }

    fn target(text: &str) -> Target {
        text.parse().expect(text)
    }

    #[test]
    fn reads_urls() {
        let plain = target("http://127.0.0.1:3000");
        assert_eq!((plain.secure, plain.port, plain.path.as_str()), (false, 3000, ""));
        let secure = target("https://www.example.com/api/");
        assert_eq!((secure.secure, secure.port, secure.path.as_str()), (true, 443, "/api"));
        assert_eq!(target("http://[::1]:8080").host, "::1");
        for wrong in ["127.0.0.1:3000", "ftp://a", "http://a/?q", "http://u@a", "/x", "", "https://10.0.0.1"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rewrites_only_what_does_not_fit() {
        assert_eq!(target("http://localhost:3000").filters(), "");
        let filters = target("https://www.example.com/api").filters();
        assert!(filters.contains("hostname: \"www.example.com\""), "{filters}");
        assert!(filters.contains("replacePrefixMatch: \"/api/\""), "{filters}");
    }

    #[test]
    fn a_port_alone_means_every_address() {
        assert_eq!(parse_listen(":80"), Ok(SocketAddr::from(([0, 0, 0, 0], 80))));
        assert_eq!(parse_listen("8080"), Ok(SocketAddr::from(([0, 0, 0, 0], 8080))));
        assert_eq!(parse_listen("[::1]:80"), Ok(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 80))));
        assert!(parse_listen("here").is_err());
    }
}
