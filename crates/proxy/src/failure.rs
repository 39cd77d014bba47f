//! What went wrong on the road: on whose side, for which reason of the closed table, and whether another try may help.
//!
//! Made where bytes are moved; read by `judge.rs`, which decides about a retry, and by `record.rs`. The reasons and
//! their status codes are [`transept_engine::reason`].

use std::borrow::Cow;
use std::io;

use transept_engine::reason::Reason;
use transept_engine::verdict::Reply;
use transept_wire::h1::Malformed;
use transept_wire::h2::head::Refused;
use transept_wire::h2::{Breach, Code};

use crate::deadline::Expired;
use crate::h2::Cut;
use crate::io::Farewell;

/// Whose fault it was, or whose connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client's.
    Downstream,
    /// The backend's.
    Upstream,
}

/// Whether another try of the same request is allowed, seen from the failure alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// No byte of the request can have been processed.
    Safe,
    /// The request may have been processed: only a repeatable request may be sent again (RFC 9110 section 9.2.2).
    IfIdempotent,
    /// Another try would fail alike, or the client already has a part of the response.
    Never,
}

/// A failure of one try or of the whole exchange.
#[derive(Debug)]
pub(crate) struct Failure {
    pub side: Side,
    pub reason: Reason,
    pub repeat: Repeat,
    /// For the log only; never sent to a client.
    pub detail: Cow<'static, str>,
    /// What a client is told to whom nothing has been said yet, where that is more than the reason: a policy's own words.
    pub reply: Option<Box<Reply>>,
    /// Whether the other side has said that it means this request, not the connection.
    pub is_meant: bool,
}

impl Failure {
    pub(crate) fn new(side: Side, reason: Reason, repeat: Repeat, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { side, reason, repeat, detail: detail.into(), reply: None, is_meant: false }
    }

    /// A message that breaks the grammar or the framing.
    pub(crate) fn malformed(side: Side, malformed: &Malformed) -> Self {
        let reason = match (side, malformed) {
            (Side::Downstream, Malformed::Truncated) => Reason::DownstreamClosed,
            (Side::Downstream, _) => reason_of(malformed),
            (Side::Upstream, Malformed::Truncated) => Reason::UpstreamIncomplete,
            (Side::Upstream, _) if malformed.status() == 431 => Reason::UpstreamHeadTooLarge,
            (Side::Upstream, _) => Reason::UpstreamMalformed,
        };
        Self::new(side, reason, Repeat::Never, malformed.to_string())
    }

    /// A deadline of the connection passed while a body moved.
    pub(crate) fn stalled(side: Side, expired: Expired) -> Self {
        let reason = match (side, expired) {
            (Side::Downstream, Expired::TimedOut) => Reason::BodyTimeout,
            (Side::Upstream, Expired::TimedOut) => Reason::StreamIdle,
            (_, Expired::Draining) => Reason::Overloaded,
        };
        Self::new(side, reason, Repeat::Never, "nothing moved before the deadline")
    }

    /// A connection ended inside a body that was being read.
    pub(crate) fn body_cut(side: Side, error: &io::Error) -> Self {
        let reason = match side {
            Side::Downstream => Reason::DownstreamClosed,
            Side::Upstream if Farewell::of(error) == Some(Farewell::Denied) => Reason::MeshDenied,
            Side::Upstream => Reason::UpstreamIncomplete,
        };
        Self::new(side, reason, Repeat::Never, error.to_string())
    }

    /// A connection refused bytes that were being sent.
    pub(crate) fn send(side: Side, error: &io::Error) -> Self {
        let (reason, repeat) = match side {
            Side::Downstream => (Reason::DownstreamClosed, Repeat::Never),
            Side::Upstream => said_by(error),
        };
        Self::new(side, reason, repeat, error.to_string())
    }

    /// A body is longer or shorter than its `Content-Length`.
    pub(crate) fn body_length(sink: Side) -> Self {
        // The sender of the body sits on the other side of the sink.
        match sink {
            Side::Downstream => Self::new(
                Side::Upstream,
                Reason::UpstreamIncomplete,
                Repeat::Never,
                "the body does not have the length that was announced",
            ),
            Side::Upstream => Self::new(
                Side::Downstream,
                Reason::RequestMalformed,
                Repeat::Never,
                "the body does not have the length that was announced",
            ),
        }
    }

    /// The HTTP/2 stream that a body is read from broke.
    pub(crate) fn h2_body(side: Side, cut: &Cut) -> Self {
        let reason = match (side, cut) {
            (Side::Downstream, Cut::Breach(Breach::Head(why))) => reason_of_refused(why),
            (Side::Downstream, Cut::Breach(Breach::Rule(_))) => Reason::RequestMalformed,
            (Side::Downstream, _) => Reason::DownstreamClosed,
            (Side::Upstream, Cut::Breach(why)) => refused_response(why),
            (Side::Upstream, cut) if cut.is_refusal() => Reason::MeshDenied,
            (Side::Upstream, _) => Reason::UpstreamIncomplete,
        };
        Self::new(side, reason, Repeat::Never, cut.to_string())
    }

    /// The HTTP/2 stream that a message is sent on broke.
    pub(crate) fn h2_send(side: Side, cut: &Cut) -> Self {
        match side {
            Side::Downstream => Self::h2_body(side, cut),
            Side::Upstream => Self::h2_response(cut),
        }
    }

    /// The HTTP/2 stream ended before its response began.
    pub(crate) fn h2_response(cut: &Cut) -> Self {
        let (reason, repeat) = match cut {
            Cut::Breach(why) => (refused_response(why), Repeat::Never),
            // Refused streams, and those above the last one that GOAWAY names (RFC 9113 section 8.7).
            Cut::Unprocessed => (Reason::UpstreamReset, Repeat::Safe),
            cut if cut.is_refusal() => (Reason::MeshDenied, Repeat::Never),
            Cut::Reset(_) | Cut::Lost(_) => (Reason::UpstreamReset, Repeat::IfIdempotent),
        };
        // Servers that end a connection reset its streams with these two.
        let is_meant = matches!(cut, Cut::Reset(code) if ![Code::NO_ERROR, Code::CANCEL].contains(code));
        Self { is_meant, ..Self::new(Side::Upstream, reason, repeat, cut.to_string()) }
    }

    /// The connection broke before a response began.
    pub(crate) fn broken(error: &io::Error) -> Self {
        let (reason, repeat) = said_by(error);
        Self::new(Side::Upstream, reason, repeat, error.to_string())
    }

    /// The connection ended before a response began.
    pub(crate) fn no_response(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Side::Upstream, Reason::UpstreamReset, Repeat::IfIdempotent, detail)
    }
}

/// What a backend's connection that breaks before a response says of the request.
fn said_by(error: &io::Error) -> (Reason, Repeat) {
    match Farewell::of(error) {
        Some(Farewell::Denied) => (Reason::MeshDenied, Repeat::Never),
        Some(Farewell::Unread) => (Reason::UpstreamReset, Repeat::Safe),
        None => (Reason::UpstreamReset, Repeat::IfIdempotent),
    }
}

fn refused_response(why: &Breach) -> Reason {
    match why {
        Breach::Head(Refused::TooLarge | Refused::TooManyFields) => Reason::UpstreamHeadTooLarge,
        _ => Reason::UpstreamMalformed,
    }
}

/// The reason behind a request head that the HTTP/2 codec refused.
pub(crate) fn reason_of_refused(why: &Refused) -> Reason {
    match why {
        Refused::TooLarge | Refused::TooManyFields => Reason::HeadersTooLarge,
        Refused::Malformed(malformed) if malformed.status() == 417 => Reason::ExpectationFailed,
        Refused::Malformed(_) => Reason::RequestMalformed,
    }
}

/// The reason behind what the codec refused in a request.
pub(crate) fn reason_of(malformed: &Malformed) -> Reason {
    match malformed.status() {
        414 => Reason::RequestLineTooLong,
        431 => Reason::HeadersTooLarge,
        501 => Reason::NotImplemented,
        505 => Reason::VersionUnsupported,
        417 => Reason::ExpectationFailed,
        _ => Reason::RequestMalformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_crosses_the_end_of_an_idle_tunnel_may_be_sent_again_and_what_breaks_off_may_not() {
        let of = |error: io::Error| {
            let (read, sent) = (Failure::broken(&error), Failure::send(Side::Upstream, &error));
            assert_eq!((read.reason, read.repeat), (sent.reason, sent.repeat));
            (read.reason, read.repeat)
        };
        let said = |farewell: Farewell| io::Error::new(io::ErrorKind::ConnectionReset, farewell);
        assert_eq!(of(said(Farewell::Unread)), (Reason::UpstreamReset, Repeat::Safe));
        assert_eq!(of(said(Farewell::Denied)), (Reason::MeshDenied, Repeat::Never));
        // The kernel says this of sockets that somebody destroys, and of packets that may not leave.
        for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionAborted, io::ErrorKind::PermissionDenied]
        {
            assert_eq!(of(io::Error::from(kind)), (Reason::UpstreamReset, Repeat::IfIdempotent), "{kind}");
        }
    }
}
