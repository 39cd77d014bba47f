//! What flows up: health and traffic as a proxy sees them, for the control plane to fold into verdicts.
//!
//! Messages only. They travel on their own method ([`METHOD`]) of the same connection, a stream in each direction, because discovery
//! has no place for what a client knows, and so that a flood of numbers never delays an acknowledgement. The proxy sends a
//! [`Report`] every interval; the control plane answers with [`ReportAck`].
//!
//! Counters are totals since the proxy started (`epoch`), and a report holds the edges whose totals moved since the last
//! acknowledged one. So a report that is lost, repeated or late changes nothing: the receiver keeps the greatest total of an epoch.
//! An edge's names are sent once per stream and referred to by a number. A proxy may forget an edge that nobody uses; when it returns, it
//! counts from zero, and says so.
//!
//! The way back also asks for live requests ([`Tap`]). Every acknowledgement names all taps that are wanted, and a tap that is not named
//! again within [`TAP_LEASE`] ends, so that nobody goes on telling when nobody listens.

use std::time::Duration;

/// The path of the gRPC method.
pub const METHOD: &str = "/transept.control.v1.Reports/Stream";

/// The longest message in bytes, in both directions.
pub const LONGEST: usize = 4 << 20;

/// Edges in one report at most; further ones follow in the next.
pub const MOST_EDGES: usize = 1000;

/// How long to leave between reports unless the control plane says otherwise.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// How long a tap lasts from the last time that it was asked for.
pub const TAP_LEASE: Duration = Duration::from_secs(30);

/// From the proxy: what moved since the last acknowledged report.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    /// Counts reports of this stream, from 1.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// When this proxy began to count: milliseconds since 1970. Another epoch means that all totals begin at zero again.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// The generation of the configuration in force.
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    /// Names for edges that this stream did not name before.
    #[prost(message, repeated, tag = "4")]
    pub names: Vec<EdgeName>,
    /// Edges whose totals moved.
    #[prost(message, repeated, tag = "5")]
    pub edges: Vec<EdgeTotals>,
    /// Endpoints whose health changed, or all of them in the first report of a stream.
    #[prost(message, repeated, tag = "6")]
    pub health: Vec<EndpointHealth>,
    /// What this proxy calls itself, for people; in the first report of a stream.
    #[prost(string, tag = "7")]
    pub proxy: String,
    /// With this report everything that had moved was told. Until then, edges of the stream may be new to the receiver only.
    #[prost(bool, tag = "8")]
    pub complete: bool,
    /// Requests that a tap asked for.
    #[prost(message, repeated, tag = "9")]
    pub tapped: Vec<Tapped>,
    /// Such requests that were left out since the report before, because there were too many.
    #[prost(uint64, tag = "10")]
    pub left_out: u64,
    /// Numbers of edges that the proxy has forgotten: nothing follows under them, and their names mean nothing any more. They go first.
    #[prost(uint32, repeated, tag = "11")]
    pub forgotten: Vec<u32>,
}

/// Who talks to whom.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EdgeName {
    /// The number that stands for this edge on this stream.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// The identity of the caller (a SPIFFE id); empty when it has none.
    #[prost(string, tag = "2")]
    pub source: String,
    /// The destination, `namespace/name` of a Service or Backend.
    #[prost(string, tag = "3")]
    pub service: String,
    /// The workload that answered: its address or its uid; empty when none was reached.
    #[prost(string, tag = "4")]
    pub workload: String,
    /// Which end of the edge tells of it.
    #[prost(enumeration = "End", tag = "5")]
    pub end: i32,
}

/// An end of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum End {
    /// The side that calls.
    Source = 0,
    /// The side that is called.
    Destination = 1,
}

/// Totals of one edge since the epoch, or since it was forgotten last.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EdgeTotals {
    /// Which edge.
    #[prost(uint32, tag = "1")]
    pub edge: u32,
    /// Requests that ended, or connections, where nothing finer is known.
    #[prost(uint64, tag = "2")]
    pub requests: u64,
    /// Those that failed by the destination's fault.
    #[prost(uint64, tag = "3")]
    pub errors: u64,
    /// Attempts beyond the first.
    #[prost(uint64, tag = "4")]
    pub retries: u64,
    /// Times that the workload was ejected.
    #[prost(uint64, tag = "5")]
    pub ejections: u64,
    /// Bytes towards the destination.
    #[prost(uint64, tag = "6")]
    pub bytes_sent: u64,
    /// Bytes from it.
    #[prost(uint64, tag = "7")]
    pub bytes_received: u64,
    /// Latency: the number of requests in each bucket of [`bucket_of`]. Empty buckets are left out.
    #[prost(message, repeated, tag = "8")]
    pub latency: Vec<Bucket>,
    /// Requests that a policy or a limit refused.
    #[prost(uint64, tag = "9")]
    pub refusals: u64,
    /// Connections that are not HTTP and are open now. No total: it grows and shrinks.
    #[prost(uint64, tag = "10")]
    pub open: u64,
    /// Tells apart the edges that a proxy has counted under one name: totals with a greater number began at zero again.
    #[prost(uint64, tag = "11")]
    pub born: u64,
}

/// A bucket of a histogram.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Bucket {
    /// See [`bucket_of`].
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// How many.
    #[prost(uint64, tag = "2")]
    pub count: u64,
}

/// What a proxy thinks of an endpoint.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndpointHealth {
    /// The destination, `namespace/name`.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The workload: its address or its uid.
    #[prost(string, tag = "2")]
    pub workload: String,
    /// What it thinks.
    #[prost(enumeration = "Health", tag = "3")]
    pub health: i32,
    /// Why, for people.
    #[prost(string, tag = "4")]
    pub why: String,
}

/// Health of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Health {
    /// Nothing is known.
    Unknown = 0,
    /// It answers.
    Healthy = 1,
    /// It fails its health checks.
    Failing = 2,
    /// It is out for a while because requests to it failed.
    Ejected = 3,
    /// It ends: no new requests.
    Draining = 4,
}

/// From the control plane: the answer to a report, or a change of what is wanted.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReportAck {
    /// The latest report that was taken in.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// How many milliseconds to leave between reports; zero leaves it to the proxy.
    #[prost(uint32, tag = "2")]
    pub interval_ms: u32,
    /// All taps that are wanted now.
    #[prost(message, repeated, tag = "3")]
    pub taps: Vec<Tap>,
}

/// A wish to be told of requests, live. What is empty or zero counts for every request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Tap {
    /// Tells taps apart.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The method, in capital letters.
    #[prost(string, tag = "2")]
    pub method: String,
    /// What the path begins with.
    #[prost(string, tag = "3")]
    pub path: String,
    /// The least status.
    #[prost(uint32, tag = "4")]
    pub status_from: u32,
    /// The greatest status.
    #[prost(uint32, tag = "5")]
    pub status_to: u32,
    /// The identity of the caller (a SPIFFE id).
    #[prost(string, tag = "6")]
    pub source: String,
}

impl Tap {
    /// Whether a request is wanted.
    pub fn wants(&self, method: &[u8], path: &[u8], status: u16, source: &str) -> bool {
        let status = u32::from(status);
        (self.method.is_empty() || self.method.as_bytes() == method)
            && path.starts_with(self.path.as_bytes())
            && status >= self.status_from
            && (self.status_to == 0 || status <= self.status_to)
            && (self.source.is_empty() || self.source == source)
    }
}

/// A request as a tap is told of it: nothing of its fields, its query or its content.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Tapped {
    /// The taps that want it.
    #[prost(uint64, repeated, tag = "1")]
    pub taps: Vec<u64>,
    /// When it began: microseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub time: u64,
    /// The identity of the caller (a SPIFFE id); empty when it has none.
    #[prost(string, tag = "3")]
    pub source: String,
    /// The destination, `namespace/name`.
    #[prost(string, tag = "4")]
    pub service: String,
    /// The instance that was called.
    #[prost(string, tag = "5")]
    pub workload: String,
    /// The method; `CONNECT` for a connection that is not HTTP.
    #[prost(string, tag = "6")]
    pub method: String,
    /// The path, normalised, without query.
    #[prost(string, tag = "7")]
    pub path: String,
    /// The status that the caller got; zero when it got none.
    #[prost(uint32, tag = "8")]
    pub status: u32,
    /// How long it took in microseconds.
    #[prost(uint64, tag = "9")]
    pub micros: u64,
    /// Bytes of the request's content.
    #[prost(uint64, tag = "10")]
    pub bytes_sent: u64,
    /// Bytes of the response's content.
    #[prost(uint64, tag = "11")]
    pub bytes_received: u64,
    /// Why the proxy answered by itself, as in the access log; empty when it did not.
    #[prost(string, tag = "12")]
    pub error: String,
    /// More about that: the policy and the rule that refused it, for example.
    #[prost(string, tag = "13")]
    pub detail: String,
    /// The trace that it belongs to; empty when there is none.
    #[prost(string, tag = "14")]
    pub trace: String,
}

/// The bucket of a latency in microseconds: four to each doubling, so that no value is off by more than a fifth.
pub fn bucket_of(micros: u64) -> u32 {
    if micros < 4 {
        return u32::try_from(micros).unwrap_or(0);
    }
    let exponent = micros.ilog2();
    let quarter = u32::try_from((micros >> (exponent - 2)) & 3).unwrap_or(0);
    exponent * 4 + quarter - 4
}

/// The least latency in microseconds that falls into a bucket.
pub fn bucket_floor(index: u32) -> u64 {
    if index < 4 {
        return u64::from(index);
    }
    let (exponent, quarter) = ((index + 4) / 4, u64::from(index % 4));
    (4 + quarter).checked_shl(exponent - 2).filter(|_| exponent < 64).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_wants_what_fits_all_that_it_says() {
        let all = Tap::default();
        assert!(all.wants(b"GET", b"/", 200, "") && all.wants(b"CONNECT", b"", 0, "a"));
        let tap = Tap {
            method: "GET".into(),
            path: "/cart".into(),
            status_from: 500,
            status_to: 599,
            source: "spiffe://a/b".into(),
            ..Tap::default()
        };
        assert!(tap.wants(b"GET", b"/cart/1", 503, "spiffe://a/b"));
        assert!(!tap.wants(b"POST", b"/cart/1", 503, "spiffe://a/b"));
        assert!(!tap.wants(b"GET", b"/car", 503, "spiffe://a/b"));
        assert!(!tap.wants(b"GET", b"/cart", 499, "spiffe://a/b"));
        assert!(!tap.wants(b"GET", b"/cart", 600, "spiffe://a/b"));
        assert!(!tap.wants(b"GET", b"/cart", 503, "spiffe://a/c"));
    }

    #[test]
    fn buckets_are_in_order_and_begin_where_they_say() {
        for micros in (0..10_000).chain([u64::from(u32::MAX), u64::MAX / 2, u64::MAX]) {
            let index = bucket_of(micros);
            assert!(bucket_floor(index) <= micros, "{micros}");
            assert!(bucket_floor(index + 1) > micros || micros == u64::MAX, "{micros}");
            assert_eq!(bucket_of(bucket_floor(index)), index, "{micros}");
        }
    }
}
