//! The verb *normalize*: one spelling of path and host for everybody, and no word of the client about itself that only
//! a proxy may say.
//!
//! Called by `path.rs` first of all. After it, what is matched is what is forwarded. The rules are in
//! [`transept_wire::normalize`] and [`transept_engine::forwarded`].

use transept_engine::exchange::Connection;
use transept_engine::forwarded::{announce, derive, is_relayed, told_scheme};
use transept_engine::hops;
use transept_engine::reason::Reason;
use transept_engine::settings::Settings;
use transept_engine::snapshot::{Bind, Role};
use transept_engine::trace::{begin_span, correlate};
use transept_engine::verdict::Reply;
use transept_wire::h1::{self, Protocol, strip_hop_by_hop};
use transept_wire::head::{FieldId, FieldName, Method, Request, Version};
use transept_wire::normalize::{self as rules, Normal};

use crate::path::Stop;
use crate::trip::Trip;
use crate::worker::Worker;

static MAX_FORWARDS: FieldName = FieldName::known(FieldId::MAX_FORWARDS);

/// Supplies the host that a request of HTTP/1.0 need not name, where the connection says it (RFC 9112 section 3.3): the Service that it was made
/// to, or else the address. At the door of a Gateway it says nothing of the kind.
pub(crate) fn supply_host(bind: &Bind, connection: &Connection, request: &mut Request) {
    let named = request.version != Version::Http10 || !request.authority().is_empty();
    if named || bind.role == Role::Gateway || bind.is_found_by_authority() {
        return;
    }
    let host = match bind.callee(connection.destination) {
        Some(listener) => format!("{}.{}.svc.cluster.local", listener.name.gateway, listener.name.namespace),
        None => connection.destination.unwrap_or(connection.local).to_string(),
    };
    // A name of a Service, like an address, is a valid authority.
    let _ = request.set_authority(host.as_bytes());
}

/// Settles which host the request is for, which decides about its listener.
pub(crate) fn settle_host(trip: &mut Trip) -> Result<(), Stop> {
    let invalid = |why: String| Stop::from(Box::new(Reply::new(Reason::AuthorityInvalid).with_detail(why)));
    let authority = rules::authority(trip.request.authority()).map_err(|why| invalid(why.to_string()))?;
    trip.scratch.clear();
    trip.host.push_str(authority.host_lower(&mut trip.scratch));
    Ok(())
}

/// Settles who the client is and what the request is called, and takes away what ends at this hop. Where there
/// is a log, or a collector of spans, the target is kept for it as it arrived, without credentials.
pub(crate) fn introduce(worker: &Worker, connection: &Connection, settings: &Settings, trip: &mut Trip) {
    if worker.log.is_some() || worker.spans.is_some() {
        worker.snapshot().credentials.write_target(trip.request.target(), &mut trip.facts.target);
    }
    let client = derive(connection, &trip.request.fields, settings);
    trip.client = client.address;
    if let Some(scheme) = told_scheme(&trip.request.fields, &client) {
        // Either is a valid scheme.
        let _ = trip.request.set_scheme(scheme.as_bytes());
    }
    let now = trip.now();
    let correlation = correlate(&mut trip.request.fields, client.peer, settings.trace, now, trip.random);
    if worker.edges.is_some() || worker.spans.is_some() {
        trip.facts.span = begin_span(&mut trip.request.fields, correlation.trace, trip.random);
    }
    if let Some(id) = trip.request.fields.first(FieldId::X_REQUEST_ID) {
        trip.facts.request_id.extend_from_slice(id);
    }
    let stripped = strip_hop_by_hop(&mut trip.request.fields);
    // HTTP/1.0 has no upgrades (RFC 9110 section 7.8).
    trip.upgrade = stripped.upgrade.filter(|_| trip.request.version != Version::Http10);
    // Captured, it came to a port of ours that its client knows nothing of.
    let port = connection.destination.unwrap_or(connection.local).port();
    announce(&mut trip.request, connection, &client, settings, port);
    trip.relayed = is_relayed(connection, &client, settings.role);
    trip.notes.is_named_by_proxy = trip.relayed && correlation.is_named;
    trip.patience = hops::timeout(&trip.request);
}

/// Brings the rest of a request into the form that every later verb relies on.
pub(crate) fn normalize(settings: &Settings, trip: &mut Trip) -> Result<(), Stop> {
    settle_path(settings, trip)?;
    if let Some(protocol) = trip.request.protocol() {
        trip.upgrade = Some(Protocol::new(protocol).ok_or(Reason::NotImplemented)?);
        // It is routed and judged as what the backend gets: the GET of RFC 6455 section 4.1.
        trip.request.method = Method::Get;
    }
    if trip.request.method == Method::Connect && trip.upgrade.is_none() {
        let detail = "CONNECT is not offered: this is a gateway, not a forward proxy.";
        return Err(Box::new(Reply::new(Reason::NotImplemented).with_detail(detail)).into());
    }
    if matches!(trip.request.method, Method::Options | Method::Trace) {
        count_hop(trip)?;
    }
    Ok(())
}

/// Takes one from `Max-Forwards`; a request that has none left goes no further (RFC 9110 section 7.6.2).
fn count_hop(trip: &mut Trip) -> Result<(), Stop> {
    let fields = &mut trip.request.fields;
    let text = fields.first(FieldId::MAX_FORWARDS).and_then(|value| std::str::from_utf8(value).ok());
    // What is no number counts nothing.
    let Some(left) = text.and_then(|text| text.parse::<u32>().ok()) else {
        return Ok(());
    };
    let Some(left) = left.checked_sub(1) else {
        let detail = "Max-Forwards ends this request at the gateway, which has nothing to say about itself.";
        return Err(Box::new(Reply::new(Reason::NotImplemented).with_detail(detail)).into());
    };
    // A number is a valid value.
    let _ = fields.set(&MAX_FORWARDS, left.to_string().as_bytes());
    Ok(())
}

fn settle_path(settings: &Settings, trip: &mut Trip) -> Result<(), Stop> {
    let refused = |why: String| Stop::from(Box::new(Reply::new(Reason::PathRefused).with_detail(why)));
    if trip.request.path().is_empty() {
        return Ok(());
    }
    trip.scratch.clear();
    match rules::path(trip.request.path(), &settings.path, &mut trip.scratch) {
        Ok(Normal::Unchanged) => Ok(()),
        Ok(Normal::Rewritten) => trip.request.set_path(&trip.scratch).map_err(|why| refused(why.to_string())),
        Err(why) => Err(refused(why.to_string())),
    }
}

/// What the codec enforces, from the settings of a listener.
pub(crate) fn codec_limits(settings: &Settings) -> h1::Limits {
    let limits = &settings.limits;
    h1::Limits {
        request_line: limits.request_line,
        head_bytes: limits.head_bytes,
        fields: limits.header_count,
        chunk_line: limits.chunk_line,
        underscore: settings.underscore,
        ..h1::Limits::default()
    }
}
