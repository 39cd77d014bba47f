//! `transept mesh ...`: a look at a running mesh. How services are, who calls whom, and live requests.
//!
//! All of it asks the running control plane through its socket. One file per question; here is what they have in common: how figures
//! are written for people.

mod graph;
mod status;
mod tap;

use anyhow::Result;
use serde_json::Value;

use super::Exit;
use crate::console::{GREEN, PLAIN, RED, YELLOW};

const EXAMPLES: &str = "\
Examples:
  transept mesh status          how every service is
  transept mesh graph --watch   who calls whom
  transept mesh tap shop/cart   the requests of a service, live";

/// Look at a mesh
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show services with their verdicts, proxies, registered workloads, and resources that proxies refuse
    Status(status::Args),
    /// Show who calls whom, how often, and how that goes
    Graph(graph::Args),
    /// Show live requests of a service
    Tap(tap::Args),
}

/// Asks and prints.
pub(crate) fn run(args: Args) -> Result<Exit> {
    match args.action {
        Action::Status(args) => status::run(&args),
        Action::Graph(args) => graph::run(&args),
        Action::Tap(args) => tap::run(args),
    }
}

/// Requests in a second.
fn rate(of: &Value) -> String {
    match of["requestsPerSecond"].as_f64() {
        Some(rate) if rate >= 100.0 => format!("{rate:.0}/s"),
        Some(rate) => format!("{rate:.1}/s"),
        None => "-".to_owned(),
    }
}

/// The share of requests that failed.
fn share(of: &Value) -> String {
    match of["errorRate"].as_f64() {
        None => "-".to_owned(),
        Some(share) if share > 0.0 && share < 0.001 => "< 0.1 %".to_owned(),
        Some(share) => format!("{:.1} %", share * 100.0),
    }
}

/// A latency in milliseconds.
fn latency(millis: &Value) -> String {
    match millis.as_f64() {
        None => "-".to_owned(),
        Some(millis) if millis < 10.0 => format!("{millis:.1} ms"),
        Some(millis) if millis < 10_000.0 => format!("{millis:.0} ms"),
        Some(millis) => format!("{:.1} s", millis / 1000.0),
    }
}

/// The word of a verdict where `line` has it, in its colour.
fn coloured(line: &str, verdict: &str) -> String {
    let colour = match verdict {
        "healthy" => GREEN,
        "degraded" => YELLOW,
        "failing" => RED,
        _ => return line.to_owned(),
    };
    // The last one: a service may be called like this.
    match line.rfind(verdict) {
        Some(at) => format!("{}{colour}{verdict}{PLAIN}{}", &line[..at], &line[at + verdict.len()..]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(rate(&json!({"requestsPerSecond": 12.04})), "12.0/s");
        assert_eq!(rate(&json!({"requestsPerSecond": 1234.5})), "1234/s");
        assert_eq!(share(&json!({"errorRate": 0.0034})), "0.3 %");
        assert_eq!(share(&json!({"errorRate": 0.0001})), "< 0.1 %");
        assert_eq!(share(&json!({"errorRate": null})), "-");
        assert_eq!(
            [0.44, 9.96, 25.4, 12_345.0].map(|ms| latency(&json!(ms))),
            ["0.4 ms", "10.0 ms", "25 ms", "12.3 s"]
        );
    }

    #[test]
    fn a_verdict_has_its_colour() {
        assert_eq!(coloured("a failing b", "failing"), format!("a {RED}failing{PLAIN} b"));
        assert_eq!(coloured("failing failing b", "failing"), format!("failing {RED}failing{PLAIN} b"));
        assert_eq!(coloured("a unknown", "unknown"), "a unknown");
    }
}
