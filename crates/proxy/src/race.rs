//! The race of the two ends of a connection whose protocol nobody declared: whoever speaks first decides what it carries.
//!
//! Called by `detect.rs` on the way out of a workload, and by `edge/entry.rs` on the way in. What is heard is remembered with the
//! listener (`transept_engine::learned`), and says how long the next connection hesitates and waits. It decides nothing: a port that
//! is known may speak something else at any time.

use std::task::Poll;
use std::time::Duration;

use transept_engine::learned::{Heard, Known};
use transept_engine::snapshot::{Listener, Role};
use transept_wire::h1::{Preface, begins_with_request_line, is_h2_preface, is_h2_settings};

use crate::buffer::Inbound;
use crate::deadline::{Expired, Watch};
use crate::io::Io;
use crate::worker::Worker;

/// How long both ends may be silent on the way out, or the client may leave a line unfinished that may become one of HTTP.
const UNDECIDED: Duration = Duration::from_secs(10);
/// The same on a port that is known to speak something else.
const UNDECIDED_BYTES: Duration = Duration::from_secs(1);

/// How long a client may be silent before the program is connected, in case it speaks first.
const MOMENT: Duration = Duration::from_millis(20);
/// The same on a port that is known to speak HTTP: clients open connections before they need them.
const MOMENT_HTTP: Duration = Duration::from_millis(300);

/// What the two ends of a connection speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
    /// Something else, or nothing that could be told in time.
    Bytes(First),
    /// The client has ended its side without a word, and nobody is connected whom that could be passed on to. It may still listen.
    Ended,
    /// The client has left, or has nobody to hear.
    Gone,
}

/// Who has shown that it is not HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    Client,
    Program,
    /// Nobody has, in the time that there was.
    Nobody,
    /// Nobody has, and the program has ended its side.
    End,
}

/// How long the ends of a connection are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// How long the client alone is waited for before there is a connection to the program.
    pub moment: Duration,
    /// How long both may be silent.
    silent: Silence,
    /// How long the client may take for a line that it has begun.
    partial: Duration,
}

/// How long both ends of a connection may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    For(Duration),
    /// As long as connections between two requests, or without end. A drain ends it as it ends those.
    LikeIdle(Option<Duration>),
    /// The same, and then the connection is over: nothing is carried before somebody has spoken.
    ToTheEnd(Option<Duration>),
}

impl Patience {
    /// On the way in, to a port of which this is known. `idle` is how long bytes may stand still. Silence decides nothing here: a client that
    /// bides its time must not get past what requests are asked.
    pub(crate) fn inside(known: Known, idle: Option<Duration>) -> Patience {
        Patience { silent: Silence::ToTheEnd(idle), ..Patience::with(known, idle) }
    }

    /// On the way out, to a port of which this is known. `idle` is how long connections that wait for a request may be silent.
    pub(crate) fn with(known: Known, idle: Option<Duration>) -> Patience {
        match known {
            Known::Nothing | Known::Mixed => {
                Patience { moment: MOMENT, silent: Silence::For(UNDECIDED), partial: UNDECIDED }
            }
            Known::Http => Patience { moment: MOMENT_HTTP, silent: Silence::LikeIdle(idle), partial: UNDECIDED },
            // The program is connected at once, while the client's first bytes are still on their way.
            Known::Bytes | Known::ServerFirst => {
                Patience { moment: Duration::ZERO, silent: Silence::For(UNDECIDED_BYTES), partial: UNDECIDED_BYTES }
            }
        }
    }

    /// Sets the deadline of a wait, by whether the client has begun a line.
    fn begin(&self, watch: &Watch, inbound: &Inbound) {
        match self.silent {
            _ if !inbound.is_empty() => watch.set(Some(self.partial)),
            Silence::For(time) => watch.set(Some(time)),
            Silence::LikeIdle(time) | Silence::ToTheEnd(time) => watch.set_idle(time),
        }
    }
}

/// What is known about the port of a listener, here or at least where its instances are.
pub(crate) fn recall(worker: &Worker, listener: &Listener) -> Known {
    let here = listener.learned.as_ref().map(|learned| learned.read(worker.clock.now().monotonic));
    here.unwrap_or_default().or(listener.hint)
}

/// Remembers what a connection to the port of a listener turned out to carry.
pub(crate) fn remember(worker: &Worker, listener: &Listener, spoken: Spoken) {
    let heard = match spoken {
        Spoken::Http1 | Spoken::Http2 => Heard::Http,
        Spoken::Bytes(First::Client) => Heard::Bytes,
        Spoken::Bytes(First::Program) => Heard::ServerFirst,
        Spoken::Bytes(First::Nobody | First::End) | Spoken::Ended | Spoken::Gone => return,
    };
    let news = listener.learned.as_ref().and_then(|learned| learned.note(heard, worker.clock.now().monotonic));
    if let Some(known) = news {
        tracing::debug!(listener = %listener.name, protocol = known.as_str(), "learned what a port speaks");
        if listener.settings.role == Role::Inbound {
            worker.shared.heard.notify_one();
        }
    }
}

/// Listens to the client, and to the program where it is connected already; what they say is kept in the buffers. A program that
/// speaks first does not speak HTTP, unless it opens HTTP/2. A client that ends its side without a word may be waiting for just that: the end is
/// passed on to the program, which has the last word then.
pub(crate) async fn listen(
    io: &Io,
    inbound: &mut Inbound,
    mut program: Option<(&Io, &mut Inbound)>,
    watch: &Watch,
    patience: &Patience,
) -> Spoken {
    enum Said {
        Client(std::io::Result<usize>),
        Program(std::io::Result<usize>),
    }
    patience.begin(watch, inbound);
    let mut ended = false;
    loop {
        let said = watch
            .wait(|cx| {
                if !ended && let Poll::Ready(read) = io.poll_fill(cx, inbound) {
                    return Poll::Ready(Said::Client(read));
                }
                match &mut program {
                    Some((program, rest)) => program.poll_fill(cx, rest).map(Said::Program),
                    None => Poll::Pending,
                }
            })
            .await;
        match said {
            Ok(Said::Client(Err(_))) if inbound.is_empty() => return Spoken::Gone,
            Ok(Said::Client(Ok(0))) if inbound.is_empty() => match &program {
                None => return Spoken::Ended,
                Some((program, _)) => {
                    program.shut_down_writing();
                    ended = true;
                }
            },
            // It ends with a word that is not a line.
            Ok(Said::Client(Ok(0) | Err(_))) => return Spoken::Bytes(First::Client),
            Ok(Said::Client(Ok(count))) => {
                if let Some(spoken) = tell(inbound.data()) {
                    return spoken;
                }
                // The first of them ends the time of silence.
                if count == inbound.data().len() {
                    patience.begin(watch, inbound);
                }
            }
            Err(Expired::Draining) => return Spoken::Gone,
            Err(Expired::TimedOut) if inbound.is_empty() && matches!(patience.silent, Silence::ToTheEnd(_)) => {
                return Spoken::Gone;
            }
            Err(Expired::TimedOut) => return Spoken::Bytes(First::Nobody),
            Ok(Said::Program(Ok(0) | Err(_))) if ended => return Spoken::Gone,
            Ok(Said::Program(Ok(0) | Err(_))) => return Spoken::Bytes(First::End),
            Ok(Said::Program(Ok(_))) => match program.take() {
                // The client's preface is on its way, unless it has ended.
                Some((_, rest)) if !ended && is_h2_settings(rest.data()) => {}
                _ => return Spoken::Bytes(First::Program),
            },
        }
    }
}

/// What a client speaks whose first bytes these are; none when there are too few.
fn tell(bytes: &[u8]) -> Option<Spoken> {
    match (is_h2_preface(bytes), begins_with_request_line(bytes)) {
        (Preface::Yes, _) => Some(Spoken::Http2),
        (Preface::No, Preface::Yes) => Some(Spoken::Http1),
        (Preface::No, Preface::No) => Some(Spoken::Bytes(First::Client)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::deadline::Watches;

    async fn pair() -> (TcpStream, Io) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let far = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        (far, Io::plain(listener.accept().await.expect("accepted").0))
    }

    /// What is made of what a client and a program say, the program first, and what of it is kept.
    async fn heard(client: &[u8], program: &[u8]) -> (Spoken, Vec<u8>, Vec<u8>) {
        let watch = Rc::new(Watches::default()).add();
        let (mut client_end, io) = pair().await;
        let (mut program_end, program_io) = pair().await;
        let (mut inbound, mut rest) = (Inbound::default(), Inbound::default());
        program_end.write_all(program).await.expect("sent");
        if !program.is_empty() {
            std::future::poll_fn(|cx| program_io.poll_readable(cx)).await.expect("readable");
        }
        client_end.write_all(client).await.expect("sent");
        let patience = Patience::with(Known::Nothing, None);
        let spoken = listen(&io, &mut inbound, Some((&program_io, &mut rest)), &watch, &patience).await;
        (spoken, inbound.data().to_vec(), rest.data().to_vec())
    }

    #[tokio::test]
    async fn whoever_speaks_first_decides() {
        let (spoken, client, _) = heard(b"GET / HTTP/1.1\r\n", b"").await;
        assert_eq!((spoken, &*client), (Spoken::Http1, &b"GET / HTTP/1.1\r\n"[..]));
        assert_eq!(heard(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"").await.0, Spoken::Http2);
        let (spoken, client, _) = heard(b"HELO me\r\n", b"").await;
        assert_eq!((spoken, &*client), (Spoken::Bytes(First::Client), &b"HELO me\r\n"[..]));
        let (spoken, _, program) = heard(b"", b"220 ready\r\n").await;
        assert_eq!((spoken, &*program), (Spoken::Bytes(First::Program), &b"220 ready\r\n"[..]));
        // A word that may become a request line decides nothing; the program does.
        assert_eq!(heard(b"EHLO", b"220 ready\r\n").await.0, Spoken::Bytes(First::Program));
    }

    #[tokio::test]
    async fn the_end_of_a_client_that_says_nothing_is_passed_on_to_the_program() {
        let patience = Patience::inside(Known::Nothing, None);
        for (answer, expected) in [(&b"220 ready\r\n"[..], Spoken::Bytes(First::Program)), (b"", Spoken::Gone)] {
            let watch = Rc::new(Watches::default()).add();
            let (mut client_end, io) = pair().await;
            let (mut program_end, program_io) = pair().await;
            client_end.shutdown().await.expect("the client ends its side");
            let (mut inbound, mut rest) = (Inbound::default(), Inbound::default());
            let program = async {
                let mut nothing = Vec::new();
                program_end.read_to_end(&mut nothing).await.expect("the end arrives");
                program_end.write_all(answer).await.expect("sent");
                program_end.shutdown().await.expect("ended");
                nothing
            };
            let listening = listen(&io, &mut inbound, Some((&program_io, &mut rest)), &watch, &patience);
            let (spoken, heard) = tokio::join!(listening, program);
            assert_eq!((spoken, rest.data(), &*heard), (expected, answer, &b""[..]));
        }
        // Where no program is connected, there is nobody to pass it on to.
        let watch = Rc::new(Watches::default()).add();
        let (mut client_end, io) = pair().await;
        client_end.shutdown().await.expect("the client ends its side");
        assert_eq!(listen(&io, &mut Inbound::default(), None, &watch, &patience).await, Spoken::Ended);
    }

    #[tokio::test]
    async fn a_server_of_http2_that_speaks_first_speaks_http2() {
        let settings = b"\0\0\0\x04\0\0\0\0\0";
        let (spoken, _, program) = heard(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings).await;
        assert_eq!((spoken, &*program), (Spoken::Http2, &settings[..]));
    }

    /// What is made of a client that says only this, and after how many milliseconds.
    async fn waited(words: &[u8], patience: Patience) -> (Spoken, u128) {
        let watches = Rc::new(Watches::default());
        let watch = watches.add();
        let (mut client, io) = pair().await;
        client.write_all(words).await.expect("sent");
        if !words.is_empty() {
            std::future::poll_fn(|cx| io.poll_readable(cx)).await.expect("readable");
        }
        let mut inbound = Inbound::default();
        let mut listening = std::pin::pin!(listen(&io, &mut inbound, None, &watch, &patience));
        let spoken = std::future::poll_fn(|cx| {
            let polled = listening.as_mut().poll(cx);
            // Whenever it waits, more time passes, until it is over.
            if polled.is_pending() {
                let now = watches.last_sweep() + Duration::from_millis(100);
                watches.sweep(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
                cx.waker().wake_by_ref();
            }
            polled
        })
        .await;
        (spoken, watches.last_sweep().as_millis())
    }

    #[tokio::test]
    async fn the_time_of_silence_and_of_an_unfinished_line_is_bounded() {
        let minute = Some(Duration::from_secs(60));
        let cases = [
            (&b"GET /"[..], Patience::with(Known::Http, None), Spoken::Bytes(First::Nobody), 10_000),
            (b"GET /", Patience::with(Known::Bytes, minute), Spoken::Bytes(First::Nobody), 1_000),
            (b"GET /", Patience::inside(Known::Nothing, minute), Spoken::Bytes(First::Nobody), 10_000),
            (b"", Patience::with(Known::Nothing, minute), Spoken::Bytes(First::Nobody), 10_000),
            (b"", Patience::with(Known::Http, minute), Spoken::Bytes(First::Nobody), 60_000),
            (b"", Patience::inside(Known::Bytes, minute), Spoken::Gone, 60_000),
        ];
        for (words, patience, expected, after) in cases {
            let (spoken, time) = waited(words, patience).await;
            assert_eq!(spoken, expected, "{patience:?}");
            assert!((after..=after + 300).contains(&time), "{time} {patience:?}");
        }
    }

    #[test]
    fn a_port_that_is_known_is_waited_for_accordingly() {
        let idle = Some(Duration::from_secs(60));
        let of = |known| Patience::with(known, idle);
        assert_eq!(of(Known::Mixed), of(Known::Nothing));
        for known in [Known::Nothing, Known::Http, Known::Bytes] {
            assert_eq!(Patience::inside(known, idle).silent, Silence::ToTheEnd(idle), "{known:?}");
        }
        assert_eq!(of(Known::ServerFirst).moment, Duration::ZERO);
        assert_eq!((of(Known::Http).silent, of(Known::Http).partial), (Silence::LikeIdle(idle), UNDECIDED));
    }
}
