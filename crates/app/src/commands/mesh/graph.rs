//! `transept mesh graph`: who calls whom, how often, and how that goes; as text, JSON, or for Graphviz.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use transept_control::plane::Question;

use super::{coloured, latency, rate, share};
use crate::commands::Exit;
use crate::commands::asking::question;
use crate::commands::control::StateArgs;
use crate::console::{self, BOLD, FAINT, PLAIN};
use crate::table;

const EXAMPLES: &str = "\
Examples:
  transept mesh graph
  transept mesh graph --watch
  transept mesh graph --json
  transept mesh graph --dot | dot -Tsvg > mesh.svg

Figures are about the last six reports of the proxies, which is 30 s as a rule (`seconds` in JSON), and about less \
where a call is newer.
Where both ends of a call tell of it, those of the caller are shown: it knows what never arrived.

Exit codes: 0 fine, 3 no control plane answers.";

/// How often the picture is drawn again.
const PACE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Print as JSON
    #[arg(long, conflicts_with = "dot")]
    json: bool,

    /// Print as a graph in the DOT language of Graphviz
    #[arg(long)]
    dot: bool,

    /// Draw it again every two seconds
    #[arg(long, conflicts_with_all = ["json", "dot"])]
    watch: bool,

    #[command(flatten)]
    state: StateArgs,
}

/// Asks and prints.
pub(super) fn run(args: &Args) -> Result<Exit> {
    loop {
        let shown = question(&args.state, &Question::Graph)?;
        if args.json {
            console::print_json(&shown)?;
        } else if args.dot {
            console::print(&draw(&console::harmless(&shown)))?;
        } else {
            // To the upper left corner, and nothing below.
            let begin = if args.watch { "\x1b[H\x1b[2J" } else { "" };
            console::print(&format!("{begin}{}", render(&console::harmless(&shown))))?;
        }
        if !args.watch {
            return Ok(Exit::Fine);
        }
        std::thread::sleep(PACE);
    }
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or("-")
}

/// What is worth a word besides the figures that every edge has.
fn remarks(edge: &Value) -> String {
    let words = [
        ("recentRetries", "retry", "retries"),
        ("recentRefusals", "refused", "refused"),
        ("recentEjections", "ejection", "ejections"),
        ("open", "open", "open"),
    ];
    let counts = words.iter().filter_map(|(name, one, many)| match edge[*name].as_u64()? {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {many}")),
    });
    counts.collect::<Vec<_>>().join("  ")
}

fn errors(edge: &Value) -> String {
    match share(edge).as_str() {
        "-" => String::new(),
        share => format!("{share} errors"),
    }
}

fn render(shown: &Value) -> String {
    let edges: Vec<&Value> = shown["edges"].as_array().into_iter().flatten().collect();
    if edges.is_empty() {
        return format!("{FAINT}nobody has called anybody yet{PLAIN}\n");
    }
    let rows: Vec<Vec<String>> = edges
        .iter()
        .map(|edge| {
            vec![
                format!("  -> {}", text(edge, "destination")),
                text(edge, "verdict").to_owned(),
                rate(edge),
                errors(edge),
                format!("p50 {}", latency(&edge["p50Ms"])),
                format!("p99 {}", latency(&edge["p99Ms"])),
                remarks(edge),
            ]
        })
        .collect();
    let lines = table::align(&rows);
    let mut sources: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (edge, line) in edges.iter().zip(&lines) {
        sources.entry(text(edge, "source")).or_default().push(coloured(line, text(edge, "verdict")));
    }
    let mut out = String::new();
    for (source, lines) in sources {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "{BOLD}{source}{PLAIN}");
        for line in lines {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// The graph in the DOT language.
fn draw(shown: &Value) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let colour = |verdict: &str| match verdict {
        "healthy" => "forestgreen",
        "degraded" => "orange",
        "failing" => "red",
        _ => "gray40",
    };
    let mut out = "digraph mesh {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n".to_owned();
    for service in shown["services"].as_array().into_iter().flatten() {
        let colour = colour(text(service, "verdict"));
        let _ = writeln!(out, "  {} [color={colour}];", quoted(text(service, "service")));
    }
    for edge in shown["edges"].as_array().into_iter().flatten() {
        let parts = [rate(edge), errors(edge), format!("p99 {}", latency(&edge["p99Ms"])), remarks(edge)];
        let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        let failed = edge["errorRate"].as_f64().unwrap_or_default();
        let colour = if failed >= 0.5 {
            "red"
        } else if failed >= 0.01 {
            "orange"
        } else {
            "gray40"
        };
        let (from, to) = (quoted(text(edge, "source")), quoted(text(edge, "destination")));
        let _ = writeln!(out, "  {from} -> {to} [label=\"{}\", color={colour}];", parts.join("\\n"));
    }
    out.push_str("}\n");
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::console::{GREEN, RED};

    fn shown() -> Value {
        let edge = |source: &str, destination: &str, verdict: &str, rate: f64, errors: f64, retries: u64| {
            json!({
                "source": source, "destination": destination, "verdict": verdict, "requestsPerSecond": rate, "errorRate": errors,
                "p50Ms": 2.0, "p99Ms": 9.0, "recentRetries": retries, "recentRefusals": 0, "recentEjections": 0,
                "open": u64::from(destination == "shop/db") * 3,
            })
        };
        json!({
            "edges": [
                edge("shop/web", "shop/cart", "healthy", 12.0, 0.003, 2),
                edge("shop/web", "shop/payments", "failing", 3.0, 0.6, 0),
                edge("shop/cart", "shop/db", "unknown", 1.0, 0.0, 0),
            ],
            "services": [{"service": "shop/cart", "verdict": "healthy"}, {"service": "shop/\"odd", "verdict": "failing"}],
        })
    }

    #[test]
    fn edges_stand_under_their_caller() {
        let expected = format!(
            "\
{BOLD}shop/cart{PLAIN}
  -> shop/db        unknown  1.0/s   0.0 % errors   p50 2.0 ms  p99 9.0 ms  3 open
{BOLD}shop/web{PLAIN}
  -> shop/cart      {GREEN}healthy{PLAIN}  12.0/s  0.3 % errors   p50 2.0 ms  p99 9.0 ms  2 retries
  -> shop/payments  {RED}failing{PLAIN}  3.0/s   60.0 % errors  p50 2.0 ms  p99 9.0 ms
"
        );
        assert_eq!(render(&shown()), expected);
        assert!(render(&json!({"edges": []})).contains("nobody has called anybody yet"));
    }

    #[test]
    fn a_graph_for_graphviz_quotes_names() {
        let dot = draw(&shown());
        for line in [
            "  \"shop/cart\" [color=forestgreen];",
            "  \"shop/\\\"odd\" [color=red];",
            "  \"shop/web\" -> \"shop/cart\" [label=\"12.0/s\\n0.3 % errors\\np99 9.0 ms\\n2 retries\", color=gray40];",
            "  \"shop/web\" -> \"shop/payments\" [label=\"3.0/s\\n60.0 % errors\\np99 9.0 ms\", color=red];",
        ] {
            assert!(dot.lines().any(|one| one == line), "{line}\n{dot}");
        }
    }
}
