//! The flags of every subcommand that serves, and what they mean when they are left out.
//!
//! Parsed by the subcommands, read by `gateway`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use transept_model::attach::Locale;
use transept_proxy::{Options, SpanTarget};

use crate::access_log::AccessLogArgs;
use crate::admin::AdminArgs;
use crate::commands::control::default_state;
use crate::duration;
use crate::logging::LogArgs;

/// The port of name servers.
const DNS_PORT: u16 = 53;
/// The delay in a Kubernetes pod. The word that a pod ends travels through EndpointSlices to every node and load balancer,
/// which takes a second or a few; who has not heard it yet still opens connections.
const DELAY_IN_POD: Duration = Duration::from_secs(5);
/// What every container in a pod has in its environment.
const POD_VARIABLE: &str = "KUBERNETES_SERVICE_HOST";

/// Flags of every subcommand that serves.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,

    /// Number of data threads [default: one per CPU that the process may use]
    #[arg(long, env = "TRANSEPT_WORKERS", value_name = "N", value_parser = parse_workers)]
    pub(crate) workers: Option<NonZeroUsize>,

    /// Name server for the names of backends, such as 10.0.0.2 or 10.0.0.2:5353; may be repeated [default: those of
    /// /etc/resolv.conf]. /etc/hosts comes first in any case
    #[arg(long, env = "TRANSEPT_RESOLVER", value_name = "ADDR", value_delimiter = ',', value_parser = parse_name_server)]
    resolver: Vec<SocketAddr>,

    /// Zone that this machine is in, as EndpointSlices and Backends name zones: for TrafficPolicies with `locality` and
    /// for the hints of EndpointSlices
    #[arg(long, env = "TRANSEPT_ZONE", value_name = "ZONE")]
    zone: Option<String>,

    /// Region of that zone [default: as Workloads in the zone say]
    #[arg(long, env = "TRANSEPT_REGION", value_name = "REGION")]
    region: Option<String>,

    /// File that outlives the process: what QuotaPolicies have counted, and which sessions providers have ended (`backChannelLogoutPath`); made
    /// when the configuration has one of these [default:
    /// /var/lib/transept/quotas.redb for root, else ~/.local/state/transept/quotas.redb]
    #[arg(long, env = "TRANSEPT_QUOTAS", value_name = "FILE")]
    quotas: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) log: LogArgs,

    #[command(flatten)]
    pub(crate) access_log: AccessLogArgs,

    /// Collector that spans are sent to, OTLP over HTTP as JSON, such as http://127.0.0.1:4318 [default: none]
    #[arg(long, env = "TRANSEPT_SPANS", value_name = "URL")]
    spans: Option<SpanTarget>,

    /// How long stopping may take after SIGTERM until open connections are cut, such as 30s or 1m
    #[arg(
        long,
        env = "TRANSEPT_DRAIN",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = duration::parse
    )]
    pub(crate) drain: Duration,

    /// How much of that time new connections are still taken, while /readyz answers 503 already, so that load balancers hear of
    /// it first; not after Ctrl-C [default: 5s in a Kubernetes pod, else 0s]
    #[arg(long, env = "TRANSEPT_DRAIN_DELAY", value_name = "DURATION", value_parser = duration::parse)]
    drain_delay: Option<Duration>,
}

impl ServeArgs {
    /// What the proxy is to be.
    pub(crate) fn options(&self) -> Options {
        Options {
            workers: self.workers,
            access_log: self.access_log.settle(),
            spans: self.spans.clone(),
            name_servers: self.resolver.clone(),
            quotas: Some(self.quotas.clone().unwrap_or_else(|| default_state("quotas.redb"))),
            mesh: None,
            demand: None,
        }
    }

    /// Where this machine is.
    pub(crate) fn locale(&self) -> Locale {
        let written = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(Into::into);
        Locale { zone: written(&self.zone), region: written(&self.region) }
    }

    /// How long connections are still accepted after SIGTERM.
    pub(crate) fn drain_delay(&self) -> Duration {
        let usual = || match std::env::var_os(POD_VARIABLE) {
            Some(_) => DELAY_IN_POD,
            None => Duration::ZERO,
        };
        self.drain_delay.unwrap_or_else(usual).min(self.drain)
    }
}

/// Accepts a number from 1 on.
fn parse_workers(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| format!("`{text}` is no number of threads; write 1 or more, or leave --workers away"))
}

/// Accepts `10.0.0.2`, `10.0.0.2:5353`, `::1` and `[::1]:5353`.
fn parse_name_server(text: &str) -> Result<SocketAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, DNS_PORT));
    }
    let wrong = || format!("`{text}` is not the address of a name server, such as 10.0.0.2 or 10.0.0.2:5353");
    text.parse().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn parse(line: &str) -> ServeArgs {
        Line::try_parse_from(line.split_whitespace()).expect("a command line").serve
    }

    #[test]
    fn name_servers_have_a_port_of_their_own_or_the_usual_one() {
        let args = parse("run --resolver 10.0.0.2 --resolver [::1]:5353,10.0.0.3:54");
        let servers: Vec<String> = args.resolver.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[::1]:5353", "10.0.0.3:54"]);
        assert!(parse_name_server("ns.shop.test").is_err_and(|why| why.contains("10.0.0.2")));
    }

    #[test]
    fn there_is_at_least_one_data_thread() {
        assert_eq!(parse("run --workers 2").workers.map(NonZeroUsize::get), Some(2));
        for wrong in ["0", "-1", "many"] {
            assert!(parse_workers(wrong).is_err_and(|why| why.contains("1 or more")), "{wrong}");
        }
    }

    #[test]
    fn the_delay_is_a_part_of_the_time_to_drain() {
        assert_eq!(parse("run --drain-delay 3s").drain_delay(), Duration::from_secs(3));
        assert_eq!(parse("run --drain 2s --drain-delay 10s").drain_delay(), Duration::from_secs(2));
    }
}
