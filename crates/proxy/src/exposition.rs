//! Counts as text: the Prometheus exposition format, with the OpenTelemetry names for what HTTP has names for.
//!
//! Called at a scrape with the sum over all workers.

pub(crate) mod edges;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use transept_engine::services::{ServiceRole, ServiceStanding};

use crate::condition::{BackendState, HeardBy, LearnedPort};
use crate::meter::{BUCKETS, Histogram, Labels, Report};

/// Writes every family that the data plane has.
pub(crate) fn write(report: &Report, dropped_log_batches: u64, out: &mut String) {
    write_requests(report, out);
    write_upstream(report, out);
    let plain: [(&str, &str, &str, u64); 8] = [
        ("transept_downstream_connections_total", "counter", "Connections accepted.", report.connections),
        (
            "transept_downstream_connections_refused_total",
            "counter",
            "Connections closed at once because of a connection limit.",
            report.connections_refused,
        ),
        ("transept_downstream_connections_active", "gauge", "Open downstream connections.", report.connections_open),
        ("transept_tls_handshakes_total", "counter", "Downstream TLS handshakes completed.", report.tls_handshakes),
        ("transept_tls_handshake_failures_total", "counter", "Downstream TLS handshakes failed.", report.tls_failures),
        ("http_server_active_requests", "gauge", "Requests on the road.", report.requests_active),
        ("transept_retries_total", "counter", "Requests sent again after a failed try.", report.retries),
        (
            "transept_access_log_dropped_batches_total",
            "counter",
            "Batches of access log lines lost because the target did not keep up.",
            dropped_log_batches,
        ),
    ];
    for (name, kind, help, value) in plain {
        head(out, name, kind, help);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name} {value}");
    }
}

/// Writes what is known about backends with a `TrafficPolicy`.
pub(crate) fn write_backends(backends: &[BackendState], ejections: &BTreeMap<Arc<str>, u64>, out: &mut String) {
    const EJECTIONS: &str = "transept_endpoint_ejections_total";
    head(out, EJECTIONS, "counter", "Endpoints left alone because they failed, counted by each worker.");
    for (backend, count) in ejections {
        let _ = writeln!(out, "{EJECTIONS}{{{}}} {count}", label("backend", backend));
    }
    const ENDPOINTS: &str = "transept_endpoints";
    head(out, ENDPOINTS, "gauge", "Endpoints of backends with a TrafficPolicy, by how they are.");
    for backend in backends.iter().filter(|backend| backend.policy.is_some()) {
        for state in ["serving", "probation", "unreachable", "ejected", "unwell"] {
            let count = backend.endpoints.values().filter(|endpoint| endpoint.as_str() == state).count();
            let _ = writeln!(out, "{ENDPOINTS}{{{},state=\"{state}\"}} {count}", label("backend", &backend.label));
        }
    }
    const REMAINING: &str = "transept_backend_limit_remaining";
    head(out, REMAINING, "gauge", "What is left of the limits of backends.");
    for backend in backends {
        for reading in &backend.limits {
            let left = reading.limit.saturating_sub(reading.taken);
            let labels = label("backend", &backend.label);
            let _ = writeln!(out, "{REMAINING}{{{labels},resource=\"{}\"}} {left}", reading.resource);
        }
    }
}

/// Writes whether services answer that have been asked about requests.
pub(crate) fn write_services(services: &[ServiceStanding], out: &mut String) {
    for (role, name, help) in [
        (
            ServiceRole::Authorizer,
            "transept_external_auth_service_up",
            "Whether the service that an ExternalAuthPolicy asks answers.",
        ),
        (
            ServiceRole::RateLimit,
            "transept_rate_limit_service_up",
            "Whether the service that a RateLimitServicePolicy asks answers.",
        ),
        (
            ServiceRole::Introspection,
            "transept_introspection_up",
            "Whether the endpoint that a scheme asks about tokens answers.",
        ),
    ] {
        let mut of_role = services.iter().filter(|service| service.role == role).peekable();
        if of_role.peek().is_some() {
            head(out, name, "gauge", help);
        }
        for service in of_role {
            let _ = writeln!(out, "{name}{{{}}} {}", label("policy", &service.policy), u8::from(service.is_up));
        }
    }
}

/// Writes what became of spans.
pub(crate) fn write_spans(exported: u64, dropped: u64, out: &mut String) {
    for (name, help, value) in [
        ("transept_spans_exported_total", "Spans that the collector has taken.", exported),
        (
            "transept_spans_dropped_total",
            "Spans that were lost, because the collector is away or does not keep up.",
            dropped,
        ),
    ] {
        head(out, name, "counter", help);
        let _ = writeln!(out, "{name} {value}");
    }
}

/// Writes what ports have spoken, as far as it was heard here.
pub(crate) fn write_learned(ports: &[LearnedPort], out: &mut String) {
    const LEARNED: &str = "transept_learned_protocol";
    head(out, LEARNED, "gauge", "1 for what a port of the mesh has spoken whose protocol nobody declared.");
    for port in ports.iter().filter(|port| port.by == HeardBy::Here) {
        let _ =
            writeln!(out, "{LEARNED}{{{},{}}} 1", label("listener", &port.listener), label("protocol", port.protocol));
    }
}

fn write_requests(report: &Report, out: &mut String) {
    const DURATION: &str = "http_server_request_duration_seconds";
    head(out, DURATION, "histogram", "From the complete request head to the last byte of the response.");
    for (labels, totals) in &report.requests {
        histogram(out, DURATION, &request_labels(labels), &totals.duration);
    }
    const BYTES_IN: &str = "transept_request_body_bytes_total";
    head(out, BYTES_IN, "counter", "Bytes of request bodies.");
    for (labels, totals) in &report.requests {
        let _ = writeln!(out, "{BYTES_IN}{{{}}} {}", request_labels(labels), totals.bytes_in);
    }
    const BYTES_OUT: &str = "transept_response_body_bytes_total";
    head(out, BYTES_OUT, "counter", "Bytes of response bodies.");
    for (labels, totals) in &report.requests {
        let _ = writeln!(out, "{BYTES_OUT}{{{}}} {}", request_labels(labels), totals.bytes_out);
    }
}

fn write_upstream(report: &Report, out: &mut String) {
    const CONNECT: &str = "transept_upstream_connect_duration_seconds";
    head(out, CONNECT, "histogram", "Time to establish a connection to an endpoint, TLS included.");
    for (backend, dials) in &report.dials {
        histogram(out, CONNECT, &label("backend", backend), &dials.duration);
    }
    const FAILURES: &str = "transept_upstream_connect_failures_total";
    head(out, FAILURES, "counter", "Connections to endpoints that could not be established.");
    for (backend, dials) in &report.dials {
        for (reason, count) in &dials.failures {
            let _ = writeln!(out, "{FAILURES}{{{},{}}} {count}", label("backend", backend), label("reason", reason));
        }
    }
    const OPEN: &str = "http_client_open_connections";
    head(out, OPEN, "gauge", "Upstream connections that wait for a request (HTTP/1.1) or that streams share (HTTP/2).");
    let _ = writeln!(
        out,
        "{OPEN}{{http_connection_state=\"idle\",network_protocol_version=\"1.1\"}} {}",
        report.upstream_idle
    );
    let _ = writeln!(
        out,
        "{OPEN}{{http_connection_state=\"shared\",network_protocol_version=\"2\"}} {}",
        report.upstream_shared
    );
}

fn request_labels(labels: &Labels) -> String {
    let mut text = format!(
        "{},{},{},http_request_method=\"{}\",http_response_status_code=\"{}\",network_protocol_version=\"{}\",url_scheme=\"{}\"",
        label("listener", &labels.listener),
        label("http_route", &labels.route),
        label("backend", &labels.backend),
        labels.method,
        labels.status,
        labels.version,
        labels.scheme,
    );
    if !labels.error.is_empty() {
        let _ = write!(text, ",error_type=\"{}\"", labels.error);
    }
    text
}

fn histogram(out: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let mut count = 0;
    for (bound, in_bucket) in BUCKETS.iter().zip(histogram.buckets) {
        count += in_bucket;
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
    }
    let count = histogram.count();
    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ =
        writeln!(out, "{name}_sum{{{labels}}} {}.{:06}", histogram.micros / 1_000_000, histogram.micros % 1_000_000);
    let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label with its value escaped as the format demands.
fn label(name: &str, value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn buckets_are_cumulative() {
        let mut durations = Histogram::default();
        durations.observe(Duration::from_millis(5));
        durations.observe(Duration::from_millis(6));
        durations.observe(Duration::from_secs(60));
        let mut text = String::new();
        histogram(&mut text, "x", "a=\"b\"", &durations);
        for line in [
            "x_bucket{a=\"b\",le=\"0.005\"} 1",
            "le=\"0.01\"} 2",
            "le=\"10\"} 2",
            "le=\"+Inf\"} 3",
            "x_sum{a=\"b\"} 60.011000",
            "x_count{a=\"b\"} 3",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(label("a", "q\"\\\n"), "a=\"q\\\"\\\\\\n\"");
    }
}
