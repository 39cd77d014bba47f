//! Tests of the driver and of what it shares with its streams: over a socket whose other end the test plays frame by frame,
//! on a clock that the test moves.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use transept_wire::h1::Body;
use transept_wire::h2::head::{Connect, HeadLimits, Underscore};
use transept_wire::h2::{Code, Config, Connection, Growth, LARGEST_FRAME, Role};
use transept_wire::head::{Request, Response};

use super::{Arrival, Cut, Driver, Link, Patience, Stream};
use crate::buffer::{Inbound, Outbound};
use crate::deadline::Watches;
use crate::io::Io;

const CONFIG: Config = Config {
    stream_window: 65_535,
    growth: Growth::NONE,
    connection_window: 1 << 20,
    data_frame: LARGEST_FRAME,
    max_streams: 100,
    heads: HeadLimits { bytes: 16 * 1024, fields: 50, connect: Connect::Refused, underscore: Underscore::Drop },
};

const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, (payload.len() >> 8) as u8, payload.len() as u8, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A GET of `/` on this stream; the static table has all of it but the authority.
fn get(stream: u32) -> Vec<u8> {
    frame(1, 0x5, stream, &[0x82, 0x86, 0x84, 0x01, 1, b'a'])
}

/// The other end of the socket.
struct Peer {
    tcp: TcpStream,
    ahead: Vec<u8>,
}

impl Peer {
    async fn send(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.expect("written");
    }

    /// The next frame: type, flags, stream, payload. None at the end.
    async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let Some(head) = self.ahead.first_chunk::<9>() {
                let end = 9 + (usize::from(head[1]) << 8 | usize::from(head[2]));
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                if self.ahead.len() >= end {
                    let payload = self.ahead.drain(..end).skip(9).collect();
                    return Some((kind, flags, stream, payload));
                }
            }
            if self.tcp.read_buf(&mut self.ahead).await.ok().is_none_or(|count| count == 0) {
                return None;
            }
        }
    }

    /// The next frame of this type.
    async fn frame_of(&mut self, wanted: u8) -> (u8, u8, u32, Vec<u8>) {
        loop {
            let frame = self.frame().await.expect("not the end");
            if frame.0 == wanted {
                return frame;
            }
        }
    }

    /// Waits until everything that was sent so far has been dealt with.
    async fn is_heard(&mut self) {
        self.send(&frame(PING, 0, 0, b"heard?..")).await;
        while self.frame_of(PING).await.3 != b"heard?.." {}
    }
}

/// One end under test, and its surroundings.
struct Stage {
    link: Rc<Link>,
    watches: Rc<Watches>,
    peer: Peer,
}

async fn sockets() -> (Io, Peer) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let socket = TcpSocket::new_v4().expect("a socket");
    // Little room on the way, so that somebody who does not read is noticed soon.
    socket.set_recv_buffer_size(4096).expect("set");
    let tcp = socket.connect(listener.local_addr().expect("bound")).await.expect("connected");
    tcp.set_nodelay(true).expect("set");
    let (ours, _) = listener.accept().await.expect("accepted");
    socket2::SockRef::from(&ours).set_send_buffer_size(4096).expect("set");
    (Io::plain(ours), Peer { tcp, ahead: Vec::new() })
}

const PATIENCE: Patience = Patience {
    head: Some(Duration::from_secs(3)),
    stall: Some(Duration::from_secs(20)),
    idle: Some(Duration::from_secs(60)),
};

async fn stage(connection: Connection) -> (Stage, Driver) {
    let (io, peer) = sockets().await;
    let idle = PATIENCE.idle.filter(|_| connection.role() == Role::Server);
    let link = Link::new(connection);
    let watches = Rc::new(Watches::default());
    watches.sweep(1);
    let driver = Driver::new(link.clone(), io, Inbound::default(), watches.add(), Patience { idle, ..PATIENCE });
    (Stage { link, watches, peer }, driver)
}

/// Runs the driver to its end on a task of its own; what it ended with comes back.
fn run(mut driver: Driver, mut arrive: impl FnMut(Arrival) + 'static) -> tokio::task::JoinHandle<String> {
    tokio::task::spawn_local(async move {
        let over = std::future::poll_fn(|cx| driver.poll_turn(cx, &mut arrive)).await;
        let why = over.0.to_string();

        driver.close(over).await;
        why
    })
}

fn play(scene: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let scene = async { tokio::time::timeout(Duration::from_secs(30), scene).await.expect("in time") };
    tokio::task::LocalSet::new().block_on(&runtime, scene);
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn request() -> Request {
    Request::build("POST", "http", "a.test", "/").expect("a request")
}

/// Half of a frame has left when the connection ends: the other half leaves before the goodbye.
#[test]
fn last_words_go_behind_what_is_half_sent() {
    let link = Link::new(Connection::server(CONFIG));
    let mut out = Outbound::default();
    link.take_pending(&mut out);
    let whole = out.pending().to_vec();
    out.advance(whole.len() - 5);
    link.inner.borrow_mut().wire.give_up(Code::PROTOCOL_ERROR, "a test");
    link.take_pending(&mut out);
    assert_eq!(out.pending()[..5], whole[whole.len() - 5..]);
    assert_eq!(out.pending()[5..], frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 1]));
}

/// A backend that says nothing is asked whether it is there, and given up when it does not answer that either.
#[test]
fn a_silent_backend_is_asked_and_given_up() {
    play(async {
        let (mut stage, driver) = stage(Connection::client(CONFIG)).await;
        let over = run(driver, |_| ());
        stage.peer.send(SETTINGS).await;
        let stream = Stream::open(&stage.link, &request(), &Body::None).expect("room");
        stage.peer.tcp.read_exact(&mut [0; 24]).await.expect("the preface");
        stage.peer.frame_of(1).await;
        stage.watches.sweep(5_001);
        let asked = stage.peer.frame_of(PING).await;
        // It is there.
        stage.peer.send(&frame(PING, ACK, 0, &asked.3)).await;
        stage.peer.is_heard().await;
        stage.watches.sweep(10_002);
        stage.peer.frame_of(PING).await;
        // It says other things, which is a sign of life too.
        stage.watches.sweep(19_000);
        stage.peer.is_heard().await;
        stage.watches.sweep(28_999);
        stage.peer.is_heard().await;
        // And then nothing.
        stage.watches.sweep(39_000);
        let cut = std::future::poll_fn(|cx| stream.poll_cut(cx)).await;
        assert!(matches!(&cut, Cut::Lost(why) if why.contains("no sign of life")), "{cut}");
        drop(stage.peer);
        assert!(over.await.expect("no panic").contains("no sign of life"));
    });
}

/// So is a proxy with open tunnels; other clients may be silent.
#[test]
fn a_silent_proxy_is_asked_and_given_up() {
    play(async {
        for asks in [true, false] {
            let (mut stage, mut driver) = stage(Connection::server(CONFIG)).await;
            if asks {
                driver.ask_client();
            }
            let held = Rc::new(RefCell::new(Vec::new()));
            let taken = Rc::clone(&held);
            let over = run(driver, move |arrival| {
                let Arrival::Request { stream, .. } = arrival else { panic!("a request") };
                taken.borrow_mut().push(stream);
            });
            stage.peer.send(&[HELLO, &get(1)].concat()).await;
            stage.peer.is_heard().await;
            stage.watches.sweep(10_002);
            if !asks {
                stage.peer.is_heard().await;
                stage.watches.sweep(600_000);
                stage.peer.is_heard().await;
                continue;
            }
            let asked = stage.peer.frame_of(PING).await;
            stage.peer.send(&frame(PING, ACK, 0, &asked.3)).await;
            stage.peer.is_heard().await;
            stage.watches.sweep(20_003);
            stage.peer.frame_of(PING).await;
            // It has gone.
            stage.watches.sweep(30_004);
            let why = std::future::poll_fn(|cx| held.borrow()[0].poll_cut(cx)).await;
            assert!(matches!(&why, Cut::Lost(why) if why.contains("no sign of life")), "{why}");
            drop(stage.peer);
            assert!(over.await.expect("no panic").contains("no sign of life"));
        }
    });
}

/// Without streams nobody asks, and nothing ends.
#[test]
fn an_idle_backend_is_left_alone() {
    play(async {
        let (mut stage, driver) = stage(Connection::client(CONFIG)).await;
        let over = run(driver, |_| ());
        stage.peer.send(SETTINGS).await;
        let stream = Stream::open(&stage.link, &request(), &Body::None).expect("room");
        stage.peer.tcp.read_exact(&mut [0; 24]).await.expect("the preface");
        stage.peer.frame_of(1).await;
        drop(stream);
        assert_eq!(stage.peer.frame_of(3).await.2, 1);
        for minute in 1..60 {
            stage.watches.sweep(minute * 60_000);
            stage.peer.is_heard().await;
        }
        stage.link.retire();
        assert_eq!(stage.peer.frame().await.map(|frame| frame.0), Some(GOAWAY));
        drop(stage.peer);
        assert!(over.await.expect("no panic").contains("has come to its end"));
    });
}

/// A client that asks and does not read: what it is owed stays small, and its time runs out.
#[test]
fn a_client_that_does_not_read_is_not_listened_to() {
    play(async {
        let (stage, mut driver) = stage(Connection::server(CONFIG)).await;
        let asked = RefCell::new(Vec::new());
        let mut arrive = |arrival: Arrival| {
            let Arrival::Request { stream, .. } = arrival else { panic!("a request") };
            asked.borrow_mut().push(stream);
        };
        let mut response = Response::new(204);
        response.fields.push_bytes(b"x-large", &[b'l'; 1000]).expect("a field");
        let mut burst: Vec<u8> = HELLO.to_vec();
        let (mut next, mut heard, mut most, mut quiet) = (1, 0, 0, 0);
        while quiet < 200 {
            // Not more at once than it may.
            if heard == (next - 1) / 2 {
                burst.extend((0..50).flat_map(|_| {
                    next += 2;
                    get(next)
                }));
            }
            if let Ok(count) = stage.peer.tcp.try_write(&burst) {
                burst.drain(..count);
            }
            let before = stage.link.inner.borrow().wire.pending();
            if let Poll::Ready(over) = driver.poll_turn(&mut noop(), &mut arrive) {
                panic!("{}", over.0);
            }
            for stream in asked.take() {
                heard += 1;
                stream.send_head(&response, true).expect("sent");
            }
            let pending = stage.link.inner.borrow().wire.pending();
            most = most.max(pending);
            quiet = if pending > 0 && pending == before { quiet + 1 } else { 0 };
            tokio::task::yield_now().await;
        }
        // Not more than a round of answers beyond the bound.
        assert!((256 << 10..400 << 10).contains(&most), "{most} bytes wait after {} requests", next / 2);
        stage.watches.sweep(20_100);
        let Poll::Ready(over) = driver.poll_turn(&mut noop(), &mut arrive) else { panic!("it goes on") };
        assert!(over.0.contains("took nothing for too long"), "{}", over.0);
    });
}

/// Somebody who sends without pause gets answers all the same.
#[test]
fn a_peer_that_never_pauses_is_answered() {
    play(async {
        let (mut stage, mut driver) = stage(Connection::server(CONFIG)).await;
        stage.peer.send(HELLO).await;
        let mut answers = 0;
        for _ in 0..50 {
            stage.peer.send(&frame(PING, 0, 0, &[0; 8])).await;
            tokio::task::yield_now().await;
            assert!(driver.poll_turn(&mut noop(), &mut |_| ()).is_pending());
            tokio::task::yield_now().await;
            let mut bytes = [0; 4096];
            answers += usize::from(stage.peer.tcp.try_read(&mut bytes).is_ok());
        }
        assert!(answers > 10, "{answers} times something came");
    });
}

/// Frames without a stream keep no connection alive.
#[test]
fn pings_do_not_prolong_an_idle_connection() {
    play(async {
        let (mut stage, driver) = stage(Connection::server(CONFIG)).await;
        let over = run(driver, |_| ());
        stage.peer.send(HELLO).await;
        for second in 1..60 {
            stage.peer.is_heard().await;
            stage.watches.sweep(second * 1000);
        }
        stage.peer.is_heard().await;
        stage.watches.sweep(61_000);
        stage.peer.frame_of(GOAWAY).await;
        // Nothing is under way, so it is not waited for long.
        stage.peer.is_heard().await;
        stage.watches.sweep(66_100);
        while stage.peer.frame().await.is_some() {}
        drop(stage.peer);
        assert!(over.await.expect("no panic").contains("was to end"));
    });
}

/// Half a frame and no stream: somebody has begun something and does not finish it.
#[test]
fn half_a_frame_is_not_waited_for_long() {
    play(async {
        let (mut stage, driver) = stage(Connection::server(CONFIG)).await;
        let over = run(driver, |_| ());
        stage.peer.send(HELLO).await;
        stage.peer.is_heard().await;
        // The first half of a frame arrives with the answer to what was in front of it.
        let half = &frame(PING, 0, 0, &[0; 8])[..12];
        stage.peer.send(&[&frame(PING, 0, 0, b"in front")[..], half].concat()).await;
        while stage.peer.frame_of(PING).await.3 != b"in front" {}
        stage.watches.sweep(2_000);
        stage.watches.sweep(3_100);
        drop(stage.peer);
        assert!(over.await.expect("no panic").contains("did not finish"));
    });
}

#[test]
fn a_connection_inside_another_takes_nothing_new_when_that_one_leaves() {
    let carrier = Link::new(Connection::client(CONFIG));
    let link = Link::inside(Connection::client(CONFIG), Some(carrier.clone()));
    assert!(!link.is_closed());
    carrier.inner.borrow_mut().wire.shut_down();
    assert!(link.is_closed());
}

/// Streams in line for the window of the connection.
fn in_line(count: usize) -> (Rc<Link>, Vec<Stream>) {
    let link = Link::new(Connection::client(CONFIG));
    // Room on every stream, and then none on the connection.
    let settings = frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    link.inner.borrow_mut().step(&settings).expect("fine");
    let open = |_| Stream::open(&link, &request(), &Body::Chunked).expect("room");
    let streams: Vec<Stream> = (0..count).map(open).collect();
    let cx = noop();
    while streams[0].poll_send(&cx, &[0; 65_535]).is_ready() {}
    for stream in &streams {
        assert!(stream.poll_send(&cx, b"x").is_pending());
    }
    link.take_pending(&mut Outbound::default());
    link.meet_driver(&cx);
    (link, streams)
}

/// Whether those at the head of the line send something or not: everybody is told.
#[test]
fn the_line_does_not_stand_still() {
    let (link, streams) = in_line(40);
    let inner = || link.inner.borrow_mut();
    assert!(!inner().serve_line(), "there is no room");
    inner().step(&frame(8, 0, 0, &[0, 0, 0, 1])).expect("fine");
    let served: Vec<bool> = (0..3).map(|_| inner().serve_line()).collect();
    assert_eq!(served, [true, true, false]);
    assert!(!inner().has_line());
    drop(streams);
}

/// Who goes does not leave his place in the line behind.
#[test]
fn the_line_has_no_dead_in_it() {
    let (link, mut streams) = in_line(40);
    streams.truncate(1);
    assert!(link.inner.borrow().has_line());
    drop(streams);
    assert!(!link.inner.borrow().has_line());
}
