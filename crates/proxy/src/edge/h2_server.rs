//! The verb *read* for HTTP/2: every stream of a connection is a request of its own.
//!
//! Called by `detect.rs` when the protocol is known. Framing, flow control and stream states are `wire::h2`'s, moving the
//! bytes is `h2/`'s; which clients are too expensive is decided here.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use transept_engine::exchange::Connection;
use transept_engine::reason::Reason;
use transept_engine::settings::Settings;
use transept_engine::snapshot::{Role, ServerTls};
use transept_engine::verdict::Reply;
use transept_wire::h1::Body;
use transept_wire::h2::head::{Connect, HeadLimits, Refused, RequestHead};
use transept_wire::h2::{self, Code, Config, Growth};
use transept_wire::head::Version;

use super::Replier;
use super::replier::H2Replier;
use super::stream_tasks;
use crate::accept::Guest;
use crate::answer;
use crate::body::{H2Source, Source};
use crate::buffer::Inbound;
use crate::clock::Clock;
use crate::failure::{Side, reason_of_refused};
use crate::h2::{self as link, Driver, Link, Patience, Stream};
use crate::io::Io;
use crate::path::{Arrival, Marks, travel};
use crate::record::record;
use crate::trip::Trip;
use crate::worker::Worker;

/// What one stream may send before we must have taken it. The window of the connection has room for all streams, so that
/// one that stalls does not hold up the others.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Streams that a client may cancel in haste before its connection is given up, beside one in ten of those that it lets finish
/// (rapid reset, CVE-2023-44487; made by us on the client's account, CVE-2025-8671).
const CANCELLED: u64 = 100;

/// Who has waited so long has not asked in order to cancel.
const HASTE: Duration = Duration::from_millis(100);

/// The same for who has said that he has no more time than that.
const LEAST_PATIENCE: Duration = Duration::from_millis(10);

/// What all streams of a connection share.
pub(crate) struct Facts {
    pub connection: Connection,
    pub handshake: Option<Arc<ServerTls>>,
    /// The address that the worker listens on.
    pub bound: SocketAddr,
    pub _guest: Guest,
}

/// A stream that has just begun, with the memory of its exchange.
pub(super) struct Job {
    facts: Rc<Facts>,
    trip: Box<Trip>,
    stream: Stream,
    opening: Opening,
    counted: Counted,
}

/// How a stream began.
enum Opening {
    /// With a request, whose head is in the trip.
    Request { head: RequestHead, end: bool },
    /// With what is no request.
    Refused(Refused),
}

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, io: Io, inbound: Inbound, facts: Facts) {
    let snapshot = worker.snapshot();
    let Some(settings) = snapshot.bind_for(&facts.bound, facts.connection.local).map(|bind| bind.settings.clone())
    else {
        return;
    };
    drop(snapshot);
    let link = Link::new(h2::Connection::server(config(&settings)));
    let timeouts = &settings.timeouts;
    let patience = Patience { head: timeouts.head, stall: timeouts.stream_idle, idle: timeouts.idle };
    let watch = worker.watches.add();
    let drains = if settings.role == Role::Inbound {
        watch.belong_to_the_way_in();
        &worker.way_in_drains
    } else {
        &worker.draining
    };
    let mut driver = Driver::new(link.clone(), io, inbound, watch, patience);
    let facts = Rc::new(facts);
    let streams = Rc::new(Streams::new(link.clone(), settings.role));
    let mut leaving = false;
    let over = std::future::poll_fn(|cx| {
        // With its certificate the client is to come again: looked at anew in every turn, because clocks are set.
        let left = facts.connection.tls.as_ref().and_then(|tls| tls.certificate_left(worker.clock.now().unix));
        let has_outlived = left.is_some_and(|left| left.is_zero());
        if !leaving && (drains.get() || link.is_dismissed() || has_outlived) {
            leaving = true;
            driver.shut_down();
        }
        if !leaving && let Some(left) = left {
            driver.nudge(left);
        }
        if streams.is_abusive() {
            tracing::debug!(client = %facts.connection.peer, "a client cancels too many requests");
            return Poll::Ready(driver.give_up(Code::ENHANCE_YOUR_CALM, "too many requests are cancelled"));
        }
        driver.poll_turn(cx, &mut |arrival| begin(&worker, &facts, &link, &streams, arrival))
    })
    .await;
    tracing::debug!(client = %facts.connection.peer, why = %over.0, "an HTTP/2 connection ended");
    driver.close(over).await;
}

fn config(settings: &Settings) -> Config {
    Config {
        stream_window: STREAM_WINDOW,
        growth: Growth::NONE,
        connection_window: settings
            .limits
            .max_streams
            .saturating_mul(STREAM_WINDOW)
            .clamp(STREAM_WINDOW, (1 << 31) - 1),
        data_frame: h2::LARGEST_FRAME,
        max_streams: settings.limits.max_streams,
        heads: HeadLimits {
            bytes: settings.limits.head_bytes,
            fields: settings.limits.header_count,
            connect: Connect::Refused,
            underscore: settings.underscore,
        },
    }
}

/// Gives a stream to a task.
fn begin(worker: &Rc<Worker>, facts: &Rc<Facts>, link: &Link, streams: &Rc<Streams>, arrival: link::Arrival) {
    let mut trip = worker.take_trip();
    let (stream, opening) = match arrival {
        link::Arrival::Request { stream, head, end } => {
            link.swap_request(&mut trip.request);
            (stream, Opening::Request { head, end })
        }
        link::Arrival::Refused { stream, why } => (stream, Opening::Refused(why)),
    };
    let counted = Counted::new(streams.clone());
    stream_tasks::run(worker, Job { facts: facts.clone(), trip, stream, opening, counted });
}

/// The streams of one connection.
struct Streams {
    link: Rc<Link>,
    role: Role,
    finished: Cell<u64>,
    cancelled: Cell<u64>,
}

impl Streams {
    fn new(link: Rc<Link>, role: Role) -> Self {
        Self { link, role, finished: Cell::new(0), cancelled: Cell::new(0) }
    }

    /// Whether the client cancels more than a client would, or makes us do it.
    fn is_abusive(&self) -> bool {
        self.cancelled.get() + self.link.broken() > CANCELLED + self.finished.get() / 10
    }
}

/// Whether a client that has cancelled a request after this time had hardly waited for it.
fn is_hasty(lived: Duration, patience: Option<Duration>) -> bool {
    // By its own clock the client has waited a little longer.
    lived < patience.map_or(HASTE, |patience| (patience / 2).clamp(LEAST_PATIENCE, HASTE))
}

/// One stream, counted when its work is over.
struct Counted(Rc<Streams>);

impl Counted {
    fn new(all: Rc<Streams>) -> Self {
        Self(all)
    }

    fn ended(&self, trip: &Trip, clock: &Clock) {
        let streams = &*self.0;
        let lived = || clock.now().monotonic.saturating_sub(trip.started.monotonic);
        // Another proxy cancels for its clients, and a sidecar's program at its own expense: others on the connection would pay for it.
        let is_on_its_own = !trip.relayed && streams.role != Role::Outbound;
        if trip.facts.error == Some(Reason::DownstreamClosed) && is_on_its_own && is_hasty(lived(), trip.patience) {
            streams.cancelled.set(streams.cancelled.get() + 1);
            if streams.is_abusive() {
                streams.link.kick();
            }
        } else {
            streams.finished.set(streams.finished.get() + 1);
        }
    }
}

/// One request and its response.
pub(super) async fn exchange(worker: &Rc<Worker>, job: Job) {
    let Job { facts, mut trip, stream, opening, counted } = job;
    let Facts { connection, handshake, bound, .. } = &*facts;
    trip.started = worker.clock.now();
    trip.random = worker.random();
    let (head, end) = match opening {
        Opening::Request { head, end } => (head, end),
        Opening::Refused(why) => {
            refuse(worker, &why, &stream, &mut trip, connection);
            counted.ended(&trip, &worker.clock);
            worker.give_back(trip);
            return;
        }
    };
    // Whatever the client calls it: the scheme is that of the connection.
    trip.request.set_scheme(connection.scheme().as_bytes()).ok();
    let watch = trip.watch.take().unwrap_or_else(|| worker.watches.add());
    let framing = match head.length {
        _ if end => Body::None,
        Some(length) => Body::Length(length),
        None => Body::Chunked,
    };
    let body = match framing {
        Body::None => Source::Empty,
        _ => Source::H2(H2Source::new(&stream, &watch, Side::Downstream)),
    };
    let mut replier =
        Replier::H2(H2Replier { stream: &stream, watch: &watch, method: trip.request.method, begun: false });
    let arrival = Arrival {
        connection,
        handshake: handshake.as_ref(),
        bound: *bound,
        watch: &watch,
        body,
        framing,
        expects_continue: head.expect_continue,
    };
    travel(worker, arrival, &mut trip, &mut replier).await;
    counted.ended(&trip, &worker.clock);
    trip.watch = Some(watch);
    worker.give_back(trip);
}

/// Answers a malformed request (RFC 9113 section 8.1.1) and records it.
fn refuse(worker: &Worker, refused: &Refused, stream: &Stream, trip: &mut Trip, connection: &Connection) {
    let reason = reason_of_refused(refused);
    trip.request.clear();
    trip.request.version = Version::Http2;
    trip.client = connection.peer.ip();
    trip.facts.status = reason.status();
    trip.facts.error = Some(reason);
    trip.facts.detail = refused.to_string().into();
    let mut body = Vec::new();
    answer::write_head(&Reply::new(reason).with_detail(refused.to_string()), trip, &mut body);
    // What does not fit into the window is left out: the head says enough. The stream may be gone already, and then there
    // is nobody to tell.
    let told = stream.send_head(&trip.response, false).and_then(|()| stream.send_now(&body));
    if told.is_ok() {
        let _ = stream.end(None);
    }
    record(worker, trip, &Marks::default(), connection);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_as_long_as_he_said_is_not_hasty() {
        let millis = Duration::from_millis;
        for (lived, patience, expected) in [
            (0, None, true),
            (99, None, true),
            (100, None, false),
            (19, Some(20), false),
            (9, Some(20), true),
            // Nobody can say that he has no time at all.
            (9, Some(0), true),
            (100, Some(60_000), false),
        ] {
            assert_eq!(is_hasty(millis(lived), patience.map(millis)), expected, "{lived} {patience:?}");
        }
    }
}
