//! The verb *record*: once per exchange, on every exit.
//!
//! Called by `path.rs` with what the road settled. Counts in the worker's meter and writes one line of the access log;
//! what a client sent is escaped, credentials are not in it, and no line depends on what a policy did.

use std::io::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use transept_engine::exchange::Connection;
use transept_engine::principal::PrincipalKind;
use transept_engine::reason::Reason;
use transept_engine::role::Role;
use transept_engine::services::{ServiceRole, ServiceState, ServiceTurn};
use transept_wire::head::FieldId;

use crate::access_log::LogFormat;
use crate::meter::{Finished, version_label};
use crate::path::Marks;
use crate::trip::Trip;
use crate::worker::Worker;

/// Longest part of a client's text in a line.
const LONGEST: usize = 1024;

/// Counts and logs an exchange.
pub(crate) fn record(worker: &Worker, trip: &Trip, marks: &Marks<'_>, connection: &Connection) {
    let ended = worker.clock.now().monotonic;
    let took = ended.saturating_sub(trip.started.monotonic);
    let facts = &trip.facts;
    trip.notes.services.iter().flat_map(|services| &services.turns).for_each(tell);
    worker.meter.borrow_mut().finished(&Finished {
        listener: marks.listener.map(|listener| &listener.metric_label),
        route: marks.rule.map(|rule| &rule.metric_label),
        backend: marks.backend.map(|backend| &backend.label),
        method: &trip.request.method,
        status: facts.status,
        version: trip.request.version,
        scheme: connection.scheme(),
        error: facts.error,
        took,
        bytes_in: facts.bytes_in,
        bytes_out: facts.bytes_out,
    });
    if let Some(edges) = &worker.edges {
        edges.borrow_mut().ended(trip, marks, connection, took);
    }
    if worker.ear.listens() {
        worker.ear.hear(trip, marks, connection, took, ended);
    }
    if let Some(spans) = &worker.spans {
        spans.borrow_mut().add(trip, marks, connection, took);
    }
    let Some(log) = &worker.log else { return };
    let mut log = log.borrow_mut();
    let format = log.format();
    let line = Line { trip, marks, connection, took };
    match format {
        LogFormat::Json => line.write_json(log.line()),
        LogFormat::Text => line.write_text(log.line()),
    }
    log.end_line();
}

/// Tells the log of what is new of a service that is asked about requests.
fn tell(ServiceTurn { role, policy, now }: &ServiceTurn) {
    let service = match role {
        ServiceRole::Authorizer => "the service that decides on requests",
        ServiceRole::RateLimit => "the rate limit service",
        ServiceRole::Introspection => "the introspection endpoint",
    };
    match now {
        ServiceState::Away { why, meanwhile } => {
            tracing::warn!(%policy, %why, meanwhile, "{service} does not answer");
        }
        ServiceState::Back => tracing::info!(%policy, "{service} answers again"),
    }
}

/// Why the service was not heard that should have decided on a request which passed all the same.
fn unasked(trip: &Trip) -> Option<&str> {
    trip.notes.services.as_ref()?.unasked.as_deref()
}

/// Everything that a line tells.
struct Line<'l> {
    trip: &'l Trip,
    marks: &'l Marks<'l>,
    connection: &'l Connection,
    took: Duration,
}

impl Line<'_> {
    /// Who made the request, and by which credential: whom a policy has recognised, or else the workload that has called. Out of a workload only itself
    /// calls.
    fn principal(&self) -> Option<(PrincipalKind, &str, Option<&str>)> {
        if let Some(principal) = &self.trip.notes.principal {
            return Some((principal.kind, &principal.id, principal.credential.as_deref()));
        }
        let is_own = self.marks.listener.is_some_and(|listener| listener.settings.role == Role::Outbound);
        let identity = self.connection.identity_at(self.trip.started.unix).filter(|_| !is_own)?;
        Some((PrincipalKind::Workload, identity, None))
    }

    fn write_json(&self, out: &mut Vec<u8>) {
        let Line { trip, marks, connection, took } = self;
        let facts = &trip.facts;
        out.extend_from_slice(b"{\"time\":\"");
        write_time(out, trip.started.unix);
        out.push(b'"');
        text(out, "request_id", &facts.request_id);
        // Numbers cannot fail to be written to memory, here and below.
        let _ = write!(out, ",\"client\":\"{}\"", trip.client);
        text(out, "method", trip.request.method.as_bytes());
        text(out, "scheme", connection.scheme().as_bytes());
        text(out, "host", trip.host.as_bytes());
        text(out, "path", &facts.target);
        text(out, "protocol", version_label(trip.request.version).as_bytes());
        let _ = write!(out, ",\"status\":{},\"duration_us\":{}", facts.status, took.as_micros());
        let _ = write!(out, ",\"bytes_in\":{},\"bytes_out\":{}", facts.bytes_in, facts.bytes_out);
        text(out, "flags", facts.error.map_or("-", Reason::flag).as_bytes());
        if let Some(error) = facts.error {
            text(out, "error", error.slug().as_bytes());
        }
        if !facts.detail.is_empty() {
            text(out, "detail", facts.detail.as_bytes());
        }
        if let Some(why) = trip.uncounted() {
            text(out, "uncounted", why.as_bytes());
        }
        if let Some(why) = unasked(trip) {
            text(out, "unasked", why.as_bytes());
        }
        if let Some((kind, id, credential)) = self.principal() {
            text(out, "principal", kind.as_str().as_bytes());
            text(out, "principal_id", id.as_bytes());
            if let Some(credential) = credential {
                text(out, "credential", credential.as_bytes());
            }
        }
        if let Some(listener) = marks.listener {
            text(out, "listener", listener.metric_label.as_bytes());
        }
        if let Some(rule) = marks.rule {
            text(out, "route", rule.metric_label.as_bytes());
        }
        if let Some(backend) = marks.backend {
            text(out, "backend", backend.label.as_bytes());
        }
        if let Some(endpoint) = marks.endpoint {
            let _ = write!(out, ",\"endpoint\":\"{endpoint}\"");
        }
        if facts.tries > 1 {
            let _ = write!(out, ",\"tries\":{}", facts.tries);
        }
        if let Some(span) = &facts.span {
            text(out, "trace_id", &span.trace);
            text(out, "span_id", &span.id);
            if let Some(parent) = &span.parent {
                text(out, "parent_span_id", parent);
            }
        }
        if let Some(agent) = trip.request.fields.first(FieldId::USER_AGENT) {
            text(out, "user_agent", agent);
        }
        let _ = write!(out, ",\"generation\":{}}}", marks.generation);
    }

    fn write_text(&self, out: &mut Vec<u8>) {
        let Line { trip, marks, took, .. } = self;
        let facts = &trip.facts;
        write_time(out, trip.started.unix);
        let _ = write!(out, " {} {} ", trip.client, facts.status);
        out.extend_from_slice(trip.request.method.as_bytes());
        out.push(b' ');
        escape(out, trip.host.as_bytes());
        escape(out, &facts.target);
        let _ = write!(out, " {}us", took.as_micros());
        let route = marks.rule.map_or("-", |rule| &rule.metric_label);
        let backend = marks.backend.map_or("-", |backend| &backend.label);
        let _ = write!(out, " {route} {backend}");
        match marks.endpoint {
            Some(endpoint) => {
                let _ = write!(out, " {endpoint}");
            }
            None => out.extend_from_slice(b" -"),
        }
        if let Some(error) = facts.error {
            let _ = write!(out, " {} {}", error.flag(), error.slug());
            if !facts.detail.is_empty() {
                out.extend_from_slice(b" \"");
                escape(out, facts.detail.as_bytes());
                out.push(b'"');
            }
        }
        if let Some(why) = trip.uncounted() {
            out.extend_from_slice(b" uncounted=\"");
            escape(out, why.as_bytes());
            out.push(b'"');
        }
        if let Some(why) = unasked(trip) {
            out.extend_from_slice(b" unasked=\"");
            escape(out, why.as_bytes());
            out.push(b'"');
        }
        if let Some((kind, id, _)) = self.principal() {
            out.extend_from_slice(b" principal=");
            escape(out, kind.as_str().as_bytes());
            out.push(b'/');
            escape(out, id.as_bytes());
        }
        out.push(b' ');
        escape(out, &facts.request_id);
        if let Some(span) = &facts.span {
            let parent = span.parent.as_ref().map_or(&b"-"[..], |parent| parent);
            for (word, value) in [("trace", &span.trace[..]), ("span", &span.id), ("parent", parent)] {
                let _ = write!(out, " {word}=");
                escape(out, value);
            }
        }
    }
}

fn write_time(out: &mut Vec<u8>, unix: Duration) {
    let micros = i64::try_from(unix.as_micros()).unwrap_or_default();
    if let Ok(time) = Timestamp::from_microsecond(micros) {
        let time = time.to_zoned(TimeZone::UTC);
        let _ = write!(
            out,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            time.year(),
            time.month(),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.subsec_nanosecond() / 1_000,
        );
    }
}

fn text(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let _ = write!(out, ",\"{name}\":\"");
    escape(out, value);
    out.push(b'"');
}

/// Text that cannot break a line, a JSON string or a terminal: control characters, quotes and everything beyond ASCII
/// are written as escapes.
pub(crate) fn escape(out: &mut Vec<u8>, value: &[u8]) {
    for &byte in &value[..value.len().min(LONGEST)] {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x20..=0x7e => out.push(byte),
            _ => {
                let _ = write!(out, "\\u{byte:04x}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        let mut out = Vec::new();
        text(&mut out, "path", b"/a\"\r\n\x1b[31m\xff\\");
        assert_eq!(out, br#","path":"/a\"\u000d\u000a\u001b[31m\u00ff\\""#);
    }

    #[test]
    fn long_text_is_cut() {
        let mut out = Vec::new();
        escape(&mut out, &[b'a'; 5000]);
        assert_eq!(out.len(), LONGEST);
    }

    #[test]
    fn times_are_rfc_3339() {
        let mut out = Vec::new();
        write_time(&mut out, Duration::from_micros(1_763_700_000_123_456));
        assert_eq!(out, b"2025-11-21T04:40:00.123456Z");
    }
}
