//! What flows up: health and traffic as a proxy sees them, for the control plane to fold into verdicts.
//!
//! Messages only. They travel on their own method ([`METHOD`]) of the same connection, a stream in each direction, because discovery
//! has no place for what a client knows, and so that a flood of numbers never delays an acknowledgement. The proxy sends a
//! [`Report`] every interval; the control plane answers with [`ReportAck`].
//!
//! Counters are totals since the proxy started (`epoch`), and a report holds the edges whose totals moved since the last
//! acknowledged one. So a report that is lost, repeated or late changes nothing: the receiver keeps the greatest total of an epoch.
//! An edge's names are sent once per stream and referred to by a number.

/// The path of the gRPC method.
pub const METHOD: &str = "/transept.control.v1.Reports/Stream";

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
}

/// Totals of one edge since the epoch.
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

/// From the control plane.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReportAck {
    /// The latest report that was taken in.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// How many milliseconds to leave between reports; zero leaves it to the proxy.
    #[prost(uint32, tag = "2")]
    pub interval_ms: u32,
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
    fn buckets_are_in_order_and_begin_where_they_say() {
        for micros in (0..10_000).chain([u64::from(u32::MAX), u64::MAX / 2, u64::MAX]) {
            let index = bucket_of(micros);
            assert!(bucket_floor(index) <= micros, "{micros}");
            assert!(bucket_floor(index + 1) > micros || micros == u64::MAX, "{micros}");
            assert_eq!(bucket_of(bucket_floor(index)), index, "{micros}");
        }
    }
}
