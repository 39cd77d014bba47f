//! `ListenerPolicy`: limits, timeouts, trusted proxies and path rules of a listener or of all listeners of a Gateway.
//!
//! The only policy of the phase `Settle`: it says nothing about single requests but changes the [`Settings`] that the proxy reads them
//! under. What several listeners of one port share before the listener is known (the head limits in clear text, the TLS handshake) is
//! taken from the listener when they agree, else from the Gateway.

use std::time::Duration;

use transept_model::policy::Target;
use transept_model::schema::Rule;
use transept_model::{choice, object};
use transept_wire::h1::Underscore;
use transept_wire::normalize::{Controls, Encoding, Form, MergeSlashes, Slashes};

use super::{CompileCx, Network, Phase, Policy};
use crate::settings::{Emit, Settings, TraceEdge};

object! {
    /// Limits, timeouts and trust of listeners.
    pub struct ListenerPolicySpec {
        /// How large and how many.
        limits: Option<ListenerLimits>;
        /// How long. `0s` switches a timeout off.
        timeouts: Option<ListenerTimes>;
        /// Where the client's address comes from.
        client_address: Option<ClientAddress>;
        /// What is told upstream about the client.
        forwarding: Option<Forwarding>;
        /// What happens to traces that clients bring.
        tracing: Option<Tracing>;
        /// How paths are brought into the one form that is matched and forwarded.
        path: Option<PathSpec>;
        /// What happens to fields of requests.
        request_fields: Option<RequestFields>;
    }
}

object! {
    /// Limits of a listener.
    pub struct ListenerLimits {
        /// Bytes of the request line (8192). Longer ones get 414.
        request_line_bytes: Option<u32> => Rule::Range(256, 1_048_576);
        /// Bytes of a request head, and of a response head (65536). Larger requests get 431.
        header_bytes: Option<u32> => Rule::Range(512, 1_048_576);
        /// Number of header fields (100). More get 431.
        header_count: Option<u32> => Rule::Range(1, 10_000);
        /// Bytes of a request body (no limit). Longer ones get 413.
        body_bytes: Option<u64>;
        /// Open connections on the address (65536).
        max_connections: Option<u32> => Rule::Range(1, 10_000_000);
        /// Open connections of one source address; IPv6 by /64 (no limit).
        max_connections_per_address: Option<u32> => Rule::Range(1, 10_000_000);
        /// Concurrent streams of one HTTP/2 connection (128).
        max_concurrent_streams: Option<u32> => Rule::Range(1, 10_000);
        /// Requests on one connection before it is closed politely (no limit).
        max_requests_per_connection: Option<u64> => Rule::Range(1, i64::MAX);
    }
}

object! {
    /// Timeouts of a listener.
    pub struct ListenerTimes {
        /// For a request head to arrive (10s).
        head: Option<Duration>;
        /// For a connection without a request (60s).
        idle: Option<Duration>;
        /// For the TLS handshake (10s).
        tls_handshake: Option<Duration>;
        /// For a stream on which nothing moves (5m).
        stream_idle: Option<Duration>;
        /// For the head of a response, when the route says nothing (60s).
        response: Option<Duration>;
    }
}

object! {
    /// Where the client's address comes from.
    pub struct ClientAddress {
        /// Proxies whose `X-Forwarded-For` is believed, and `X-Forwarded-Proto`, which is the scheme of the request then: for `request.scheme`,
        /// redirects, proofs and signatures, and services that are asked. Without any, the client is whoever connected.
        trusted_proxies: Vec<Network> => Rule::MaxItems(1024);
    }
}

object! {
    /// What happens to fields of requests.
    pub struct RequestFields {
        /// What happens to a field with `_` in its name, as of metadata of gRPC (`user_id`). Programs that see no difference between `_` and `-` take it for
        /// another one.
        underscores: Underscores = Underscores::Drop;
    }
}

choice! {
    /// What happens to fields with `_` in their name.
    pub enum Underscores {
        /// They are left out.
        Drop = "Drop",
        /// The request is refused with 400.
        Refuse = "Refuse",
        /// They are kept, but for other spellings of fields that are known here or tell who the client is.
        Keep = "Keep",
    }
}

object! {
    /// What is told upstream about the client.
    pub struct Forwarding {
        /// Whether the RFC 7239 field `Forwarded` is sent besides `X-Forwarded-*`.
        forwarded: bool = false;
    }
}

object! {
    /// What happens to traces that clients bring.
    pub struct Tracing {
        /// What happens to `traceparent` and `x-request-id` of a peer that is not a trusted proxy.
        incoming: Incoming = Incoming::Continue;
    }
}

choice! {
    /// What happens to a trace that a client brings.
    pub enum Incoming {
        /// A valid one is kept.
        Continue = "Continue",
        /// It is replaced by a new one.
        Restart = "Restart",
    }
}

object! {
    /// How paths are brought into one form.
    pub struct PathSpec {
        /// What happens to a path that is not in normal form.
        form: PathForm = PathForm::Normalize;
        /// What happens to encoded slashes and backslashes (%2F, %5C).
        encoded_slashes: EncodedSlashes = EncodedSlashes::Refuse;
        /// What happens to several slashes in a row.
        repeated_slashes: RepeatedSlashes = RepeatedSlashes::Merge;
        /// What happens to encoded control characters.
        encoded_controls: EncodedControls = EncodedControls::Refuse;
        /// What percent-encoded bytes outside ASCII have to be.
        encoding: PathEncoding = PathEncoding::Any;
    }
}

choice! {
    /// What happens to a path that is not in normal form.
    pub enum PathForm {
        /// It is rewritten.
        Normalize = "Normalize",
        /// The request is refused.
        Refuse = "Refuse",
        /// It is matched and forwarded as it is. Rules of an AuthorizationPolicy are put to its normal form, too; which route it takes, and with it which
        /// policies are asked, goes by the path as it came.
        Raw = "Raw",
    }
}

choice! {
    /// What happens to encoded slashes.
    pub enum EncodedSlashes {
        /// The request is refused.
        Refuse = "Refuse",
        /// They stay encoded.
        Keep = "Keep",
    }
}

choice! {
    /// What happens to several slashes in a row.
    pub enum RepeatedSlashes {
        /// They become one.
        Merge = "Merge",
        /// They stay.
        Keep = "Keep",
    }
}

choice! {
    /// What happens to encoded control characters.
    pub enum EncodedControls {
        /// The request is refused.
        Refuse = "Refuse",
        /// They stay encoded.
        Keep = "Keep",
    }
}

choice! {
    /// What percent-encoded bytes outside ASCII have to be.
    pub enum PathEncoding {
        /// Anything.
        Any = "Any",
        /// UTF-8.
        Utf8 = "UTF-8",
    }
}

/// A compiled `ListenerPolicy`: the spec itself, since settings are plain.
#[derive(Debug)]
pub(crate) struct ListenerPolicy {
    spec: ListenerPolicySpec,
}

impl Policy for ListenerPolicy {
    const KIND: &'static str = "ListenerPolicy";
    const ABOUT: &'static str = "Limits, timeouts, trusted proxies and path rules of listeners.";
    const PHASE: Phase = Phase::Settle;
    const TARGETS: &'static [Target] = &[Target::Gateway, Target::Listener];
    type Spec = ListenerPolicySpec;

    fn compile(spec: &ListenerPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        if let Some(limits) = &spec.limits {
            let line = limits.request_line_bytes.unwrap_or(8192);
            if limits.header_bytes.is_some_and(|head| head < line) {
                cx.within("limits", |cx| {
                    cx.refuse(limits.at, "headerBytes is less than requestLineBytes")
                        .remedy("the request line is part of the head; raise headerBytes");
                });
                return None;
            }
        }
        Some(ListenerPolicy { spec: spec.clone() })
    }

    fn settle(&self, settings: &mut Settings) {
        if let Some(limits) = &self.spec.limits {
            settle_limits(limits, settings);
        }
        if let Some(times) = &self.spec.timeouts {
            let settings = &mut settings.timeouts;
            put_time(&mut settings.head, times.head);
            put_time(&mut settings.idle, times.idle);
            put_time(&mut settings.tls_handshake, times.tls_handshake);
            put_time(&mut settings.stream_idle, times.stream_idle);
            put_time(&mut settings.response, times.response);
        }
        if let Some(address) = &self.spec.client_address {
            settings.trusted_proxies = address.trusted_proxies.iter().map(|network| network.0).collect();
        }
        if let Some(forwarding) = &self.spec.forwarding {
            settings.forwarded = if forwarding.forwarded { Emit::Yes } else { Emit::No };
        }
        if let Some(tracing) = &self.spec.tracing {
            settings.trace = match tracing.incoming {
                Incoming::Continue => TraceEdge::Continue,
                Incoming::Restart => TraceEdge::Restart,
            };
        }
        if let Some(path) = &self.spec.path {
            settle_path(path, settings);
        }
        if let Some(fields) = &self.spec.request_fields {
            settings.underscore = match fields.underscores {
                Underscores::Drop => Underscore::Drop,
                Underscores::Refuse => Underscore::Refuse,
                Underscores::Keep => Underscore::KeepUnknown,
            };
        }
    }
}

fn settle_limits(limits: &ListenerLimits, settings: &mut Settings) {
    let into = &mut settings.limits;
    put(&mut into.request_line, limits.request_line_bytes.map(|bytes| bytes as usize));
    put(&mut into.head_bytes, limits.header_bytes.map(|bytes| bytes as usize));
    put(&mut into.header_count, limits.header_count.map(|count| count as usize));
    put(&mut into.body_bytes, limits.body_bytes.map(Some));
    put(&mut into.max_connections, limits.max_connections.map(|count| count as usize));
    put(&mut into.max_connections_per_address, limits.max_connections_per_address.map(|count| Some(count as usize)));
    put(&mut into.max_streams, limits.max_concurrent_streams);
    put(&mut into.max_requests_per_connection, limits.max_requests_per_connection.map(Some));
}

fn settle_path(path: &PathSpec, settings: &mut Settings) {
    settings.path.form = match path.form {
        PathForm::Normalize => Form::Normalize,
        PathForm::Refuse => Form::Refuse,
        PathForm::Raw => Form::Raw,
    };
    settings.path.encoded_slash = match path.encoded_slashes {
        EncodedSlashes::Refuse => Slashes::Refuse,
        EncodedSlashes::Keep => Slashes::Keep,
    };
    settings.path.merge_slashes = match path.repeated_slashes {
        RepeatedSlashes::Merge => MergeSlashes::Merge,
        RepeatedSlashes::Keep => MergeSlashes::Keep,
    };
    settings.path.encoded_controls = match path.encoded_controls {
        EncodedControls::Refuse => Controls::Refuse,
        EncodedControls::Keep => Controls::Keep,
    };
    settings.path.encoding = match path.encoding {
        PathEncoding::Any => Encoding::Any,
        PathEncoding::Utf8 => Encoding::Utf8,
    };
}

fn put<T>(into: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *into = value;
    }
}

fn put_time(into: &mut Option<Duration>, value: Option<Duration>) {
    if let Some(value) = value {
        *into = (!value.is_zero()).then_some(value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{compile, refusals};
    use super::*;

    #[test]
    fn what_is_not_written_keeps_its_default() {
        let mut settings = Settings::default();
        compile::<ListenerPolicy>("limits: {headerCount: 7}\ntimeouts: {idle: 0s, head: 3s}\n").settle(&mut settings);
        assert_eq!(settings.limits.header_count, 7);
        assert_eq!(settings.limits.head_bytes, 65_536);
        assert_eq!(settings.timeouts.idle, None);
        assert_eq!(settings.timeouts.head, Some(Duration::from_secs(3)));
        assert_eq!(settings.timeouts.tls_handshake, Some(Duration::from_secs(10)));
    }

    #[test]
    fn proxies_are_trusted_by_network() {
        let mut settings = Settings::default();
        let address = "10.1.2.3".parse().expect("an address");
        assert!(!settings.trusts(address));
        compile::<ListenerPolicy>("clientAddress: {trustedProxies: [10.0.0.0/8]}\n").settle(&mut settings);
        assert!(settings.trusts(address));
    }

    #[test]
    fn a_head_smaller_than_its_first_line_is_refused() {
        assert_eq!(refusals::<ListenerPolicy>("limits: {headerBytes: 600}\n").len(), 1);
    }
}
