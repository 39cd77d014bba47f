//! The edges of the mesh as text.
//!
//! Called at a scrape with the sum over all workers. A proxy that is no member of a mesh has no edges, and then nothing is written.

use std::fmt::Write;

use transept_xds::report::bucket_of;

use super::{head, label};
use crate::edges::ledger::Ledger;
use crate::edges::{EdgeName, EdgeTotals, Graph};

/// Upper bounds in seconds with the same in microseconds: powers of two, where finer buckets end too, so that no request is counted on
/// the wrong side.
const BOUNDS: [(&str, u64); 8] = [
    ("0.000256", 1 << 8),
    ("0.001024", 1 << 10),
    ("0.004096", 1 << 12),
    ("0.016384", 1 << 14),
    ("0.065536", 1 << 16),
    ("0.262144", 1 << 18),
    ("1.048576", 1 << 20),
    ("8.388608", 1 << 23),
];

/// What a request is counted under, by the first digit of its status.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Writes every family of the edges.
pub(crate) fn write(graph: &Graph, ledger: &Ledger, out: &mut String) {
    if graph.is_empty() {
        return;
    }
    let labelled: Vec<(String, &EdgeTotals)> = graph.iter().map(|(name, totals)| (labels(name), totals)).collect();
    const REQUESTS: &str = "transept_edge_requests_total";
    head(out, REQUESTS, "counter", "Requests and connections that ended, by who called whom.");
    for (labels, totals) in &labelled {
        for (class, count) in CLASSES.iter().zip(totals.classes).filter(|(_, count)| *count > 0) {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(out, "{REQUESTS}{{{labels},code_class=\"{class}\"}} {count}");
        }
    }
    type Family = (&'static str, &'static str, fn(&EdgeTotals) -> u64);
    let families: [Family; 4] = [
        ("transept_edge_errors_total", "Requests and connections that failed by the destination's fault.", |t| {
            t.errors
        }),
        ("transept_edge_refusals_total", "Requests and connections that a policy or a limit refused.", |t| t.refusals),
        ("transept_edge_retries_total", "Tries that failed at a workload and were repeated.", |t| t.retries),
        ("transept_edge_ejections_total", "Times that a worker left a workload alone because it failed.", |t| {
            t.ejections
        }),
    ];
    for (name, help, value) in families {
        head(out, name, "counter", help);
        for (labels, totals) in &labelled {
            let _ = writeln!(out, "{name}{{{labels}}} {}", value(totals));
        }
    }
    const BYTES: &str = "transept_edge_bytes_total";
    head(out, BYTES, "counter", "Bytes of bodies and connections, sent to the destination and received from it.");
    for (labels, totals) in &labelled {
        for (direction, bytes) in [("sent", totals.bytes_sent), ("received", totals.bytes_received)] {
            let _ = writeln!(out, "{BYTES}{{{labels},direction=\"{direction}\"}} {bytes}");
        }
    }
    const OPEN: &str = "transept_edge_connections_open";
    head(out, OPEN, "gauge", "Connections that are not HTTP and are open.");
    for (labels, totals) in &labelled {
        let _ = writeln!(out, "{OPEN}{{{labels}}} {}", totals.open);
    }
    let room = [
        ("transept_edges_forgotten_total", "Edges that nobody used and that had to make room.", ledger.forgotten()),
        (
            "transept_edges_overflow_total",
            "Requests, tries and ejections counted as `other`: there was no room for their edge.",
            ledger.overflowed(),
        ),
    ];
    for (name, help, count) in room {
        head(out, name, "counter", help);
        let _ = writeln!(out, "{name} {count}");
    }
    const LATENCY: &str = "transept_edge_latency_seconds";
    head(out, LATENCY, "histogram", "From the complete request head to the last byte of the response.");
    for (labels, totals) in &labelled {
        write_latency(out, LATENCY, labels, totals);
    }
}

fn write_latency(out: &mut String, name: &str, labels: &str, totals: &EdgeTotals) {
    for (bound, micros) in BOUNDS {
        let below = usize::try_from(bucket_of(micros)).unwrap_or(usize::MAX);
        let count: u64 = totals.latency.iter().take(below).sum();
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
    }
    let count = totals.requests();
    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}.{:06}", totals.micros / 1_000_000, totals.micros % 1_000_000);
    let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
}

fn labels(name: &EdgeName) -> String {
    format!(
        "reporter=\"{}\",{},{},{}",
        name.reporter.as_str(),
        label("source", &name.source),
        label("destination", &name.destination),
        label("workload", &name.workload)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edges::Reporter;

    #[test]
    fn bounds_are_where_buckets_begin() {
        for (text, micros) in BOUNDS {
            assert_eq!(transept_xds::report::bucket_floor(bucket_of(micros)), micros, "{text}");
            let seconds = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
            assert_eq!(text, seconds);
        }
    }

    #[test]
    fn an_edge_is_written_with_its_ends_and_nothing_is_written_without_edges() {
        let mut out = String::new();
        write(&Graph::new(), &Ledger::default(), &mut out);
        assert!(out.is_empty());
        let mut totals = EdgeTotals::default();
        totals.classes[5] = 3;
        totals.errors = 3;
        totals.open = 2;
        totals.latency[usize::try_from(bucket_of(900)).expect("small")] = 2;
        totals.latency[usize::try_from(bucket_of(5000)).expect("small")] = 1;
        let name = EdgeName {
            reporter: Reporter::Source,
            source: "spiffe://a/ns/default/sa/web".into(),
            destination: "default/cart".into(),
            workload: "10.0.0.1:80".into(),
        };
        write(&[(name, totals)].into_iter().collect(), &Ledger::default(), &mut out);
        let labels = "reporter=\"source\",source=\"spiffe://a/ns/default/sa/web\",destination=\"default/cart\",workload=\"10.0.0.1:80\"";
        for line in [
            format!("transept_edge_requests_total{{{labels},code_class=\"5xx\"}} 3"),
            format!("transept_edge_errors_total{{{labels}}} 3"),
            format!("transept_edge_connections_open{{{labels}}} 2"),
            "transept_edges_overflow_total 0".to_owned(),
            format!("transept_edge_latency_seconds_bucket{{{labels},le=\"0.001024\"}} 2"),
            format!("transept_edge_latency_seconds_bucket{{{labels},le=\"0.016384\"}} 3"),
            format!("transept_edge_latency_seconds_count{{{labels}}} 3"),
        ] {
            assert!(out.contains(&line), "{line}\n{out}");
        }
    }
}
