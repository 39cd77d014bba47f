//! What breaks on the way, and what the client, the backend and the next request see of it.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Ask, Backend, Caller, Down, Framed, Gateway, Nobody, Setup, Up, soon};

const UPS: [Up; 2] = [Up::Http1, Up::H2c];
const MODERN: [Down; 2] = [Down::Http11, Down::H2c];

async fn stage(up: Up) -> (Gateway, Backend) {
    let backend = Backend::start(up).await;
    (Setup::before(&backend).start().await, backend)
}

#[tokio::test]
async fn a_refused_connection_is_told_at_once() {
    let nobody = Nobody::here();
    for up in UPS {
        let gateway = Setup::of(&[nobody.address], up).start().await;
        let began = Instant::now();
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        call.head().await;
        assert_eq!(call.status, 503);
        assert_eq!(call.field("proxy-status"), Some("transept; error=connection_refused"));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn the_next_endpoint_is_tried() {
    let nobody = Nobody::here();
    for up in UPS {
        let backend = Backend::start(up).await;
        let gateway = Setup::of(&[nobody.address, backend.address], up).start().await;
        let mut backend = backend;
        for number in 0..6 {
            let mut caller = Caller::http11(gateway.address).await;
            // No byte was sent to the endpoint that refused: any method may go to the next.
            let mut call = if number % 2 == 0 {
                caller.ask(Ask::get("/")).await
            } else {
                let mut call = caller.ask(Ask::post("/", Framed::Length(2))).await;
                call.send(b"me").await;
                call
            };
            let mut served = backend.next().await;
            served.whole().await;
            served.answer(200, "fine").await;
            assert_eq!(call.answer().await, (200, "fine".to_owned()), "{up:?} {number}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_never_accepts_times_out() {
    // A queue for accepted connections that is full: the kernel drops what comes.
    let Nobody { socket, address } = Nobody::here();
    socket.listen(0).expect("listens");
    let mut fillers = Vec::new();
    loop {
        let connecting = TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(200), connecting).await {
            Ok(filler) => fillers.push(filler.expect("connected")),
            Err(_) => break,
        }
        assert!(fillers.len() < 16, "the queue is never full");
    }
    let gateway = Setup::of(&[address], Up::Http1).backend("connectTimeout: 300ms").start().await;
    let began = Instant::now();
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    call.head().await;
    assert_eq!(call.status, 503);
    assert_eq!(call.field("proxy-status"), Some("transept; error=connection_timeout"));
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_connection_that_ends_before_the_response_is_a_503() {
    for up in UPS {
        for reset in [false, true] {
            let (gateway, mut backend) = stage(up).await;
            let mut caller = Caller::http11(gateway.address).await;
            let mut call = caller.ask(Ask::get("/")).await;
            let served = backend.next().await;
            if reset {
                served.reset();
            } else {
                drop(served);
            }
            call.head().await;
            assert_eq!(call.status, 503, "{up:?} {reset}");
            assert_eq!(call.field("proxy-status"), Some("transept; error=connection_terminated"));
            assert!(backend.unheard().is_none(), "{up:?} {reset}: without a retry stanza it is tried once");
        }
    }
}

#[tokio::test]
async fn a_head_that_breaks_off_is_a_502() {
    let (gateway, mut backend) = stage(Up::Http1).await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut served = backend.next().await;
    served.send_raw(b"HTTP/1.1 200 OK\r\ncontent-le").await;
    drop(served);
    call.head().await;
    assert_eq!(call.status, 502);
    assert_eq!(call.field("proxy-status"), Some("transept; error=http_response_incomplete"));
}

#[tokio::test]
async fn a_get_is_retried_and_a_post_is_not() {
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).rule("retry: {attempts: 2, backoff: 1ms}").start().await;
    let mut backend = backend;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    backend.next().await.reset();
    backend.next().await.answer(200, "after all").await;
    assert_eq!(call.answer().await, (200, "after all".to_owned()));
    drop(call);
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::post("/", Framed::Length(2))).await;
    call.send(b"me").await;
    let mut served = backend.next().await;
    served.whole().await;
    served.reset();
    call.head().await;
    assert_eq!(call.status, 503);
    assert!(backend.unheard().is_none());
}

#[tokio::test]
async fn a_silent_backend_is_a_504() {
    for rule in ["timeouts: {request: 400ms}", "timeouts: {backendRequest: 400ms}"] {
        for up in UPS {
            let mut backend = Backend::start(up).await;
            let gateway = Setup::before(&backend).rule(rule).start().await;
            for down in MODERN {
                let began = Instant::now();
                let mut caller = Caller::connect(&down, gateway.address).await;
                let mut call = caller.ask(Ask::get("/")).await;
                let mut served = backend.next().await;
                call.head().await;
                assert_eq!(call.status, 504, "{rule} {up:?}");
                assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
                assert_eq!(call.field("proxy-status"), Some("transept; error=http_response_timeout"));
                served.sees_the_end().await;
            }
        }
    }
}

#[tokio::test]
async fn a_silent_backend_is_a_504_by_default_too() {
    for up in UPS {
        let mut backend = Backend::start(up).await;
        let gateway = Setup::before(&backend).policy("timeouts: {response: 400ms}").start().await;
        let mut caller = Caller::http11(gateway.address).await;
        for framed in [Framed::Not, Framed::Length(2)] {
            let mut call = caller.ask(Ask::post("/", framed)).await;
            call.send(if framed == Framed::Not { b"" } else { b"me" }).await;
            let mut served = backend.next().await;
            call.head().await;
            assert_eq!(call.status, 504, "{up:?} {framed:?}");
            served.sees_the_end().await;
            drop(call);
            caller = Caller::http11(gateway.address).await;
        }
    }
}

/// A part is never taken for the whole, however the whole was announced and whoever listens.
#[tokio::test]
async fn a_response_that_breaks_off_is_cut_off() {
    for up in UPS {
        for framed in [Framed::Length(100), Framed::Open, Framed::Close] {
            let (gateway, mut backend) = stage(up).await;
            for down in [Down::Http10, Down::Http11, Down::H2c] {
                let mut caller = Caller::connect(&down, gateway.address).await;
                let mut call = caller.ask(Ask::get("/")).await;
                let mut served = backend.next().await;
                served.begin(200, framed, &[]).await;
                served.send(b"a part").await;
                call.head().await;
                assert_eq!(call.piece().await.expect("reads").expect("a piece"), b"a part");
                served.reset();
                let rest = call.try_whole().await;
                assert!(rest.is_err(), "{down:?} {up:?} {framed:?}: {rest:?}");
            }
        }
    }
}

/// As above, when the backend ends the connection in good order but too early.
#[tokio::test]
async fn a_response_that_is_too_short_is_cut_off() {
    for framed in [Framed::Length(100), Framed::Open] {
        let (gateway, mut backend) = stage(Up::Http1).await;
        for down in [Down::Http10, Down::Http11, Down::H2c] {
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(Ask::get("/")).await;
            let mut served = backend.next().await;
            served.begin(200, framed, &[]).await;
            served.send(b"a part").await;
            drop(served);
            // Over HTTP/2 the cut may overtake the head.
            if soon(call.try_head()).await.is_ok() {
                let whole = call.try_whole().await;
                assert!(whole.is_err(), "{down:?} {framed:?}: {whole:?}");
            }
        }
    }
}

/// A pooled connection that the backend closes just as the next request comes.
#[tokio::test]
async fn a_stale_connection_costs_no_repeatable_request() {
    for reset in [false, true] {
        let (gateway, mut backend) = stage(Up::Http1).await;
        let mut caller = Caller::http11(gateway.address).await;
        let asks = [Ask::get("/"), Ask::new("PUT", "/").framed(Framed::Length(2)), Ask::new("DELETE", "/")];
        for ask in asks {
            let has_body = ask.is_framed();
            // A connection into the pool.
            caller.use_once(&mut backend).await;
            let mut call = caller.ask(ask).await;
            if has_body {
                call.send(b"me").await;
            }
            let stale = backend.next().await;
            if reset {
                stale.reset();
            } else {
                drop(stale);
            }
            let mut served = backend.next().await;
            assert_eq!(served.whole().await.content, if has_body { &b"me"[..] } else { b"" });
            served.answer(200, "fine").await;
            assert_eq!(call.answer().await, (200, "fine".to_owned()));
        }
    }
}

#[tokio::test]
async fn a_stale_connection_never_sends_a_post_twice() {
    for framed in [Framed::Not, Framed::Length(2), Framed::Open] {
        let (gateway, mut backend) = stage(Up::Http1).await;
        let mut caller = Caller::http11(gateway.address).await;
        caller.use_once(&mut backend).await;
        let mut call = caller.ask(Ask::post("/", framed)).await;
        if framed != Framed::Not {
            call.send(b"me").await;
            call.end(&[]).await;
        }
        let mut served = backend.next().await;
        served.whole().await;
        drop(served);
        call.head().await;
        assert_eq!(call.status, 503, "{framed:?}");
        assert!(backend.unheard().is_none(), "{framed:?}");
    }
}

/// A pooled connection that was closed before is not even tried.
#[tokio::test]
async fn a_closed_connection_is_not_used() {
    for up in UPS {
        let (gateway, mut backend) = stage(up).await;
        let mut caller = Caller::http11(gateway.address).await;
        for number in 1..4 {
            let mut call = caller.ask(Ask::post("/", Framed::Length(2))).await;
            call.send(b"me").await;
            let mut served = backend.next().await;
            served.whole().await;
            served.begin(200, Framed::Length(0), &[]).await;
            call.head().await;
            assert_eq!(call.status, 200, "{up:?} {number}");
            // Ends the connection when it speaks HTTP/1.1, and only the stream when it speaks HTTP/2.
            match up {
                Up::Http1 => drop(served),
                Up::H2c => served.end(&[]).await,
            }
            assert_eq!(backend.connections(), if up == Up::Http1 { number } else { 1 });
        }
    }
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_backend() {
    for up in UPS {
        let (gateway, mut backend) = stage(up).await;
        let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
        // Before the response.
        let call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        call.cancel();
        served.sees_the_end().await;
        // In the middle of it.
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.begin(200, Framed::Open, &[]).await;
        served.send(b"a part").await;
        call.head().await;
        call.cancel();
        served.sees_the_end().await;
    }
}

#[tokio::test]
async fn a_client_that_left_is_noticed_when_something_is_sent() {
    for down in MODERN {
        for up in UPS {
            let (gateway, mut backend) = stage(up).await;
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(Ask::get("/")).await;
            let mut served = backend.next().await;
            served.begin(200, Framed::Open, &[]).await;
            served.send(b"a part").await;
            call.head().await;
            drop(call);
            drop(caller);
            let talking = async { while served.try_send(&[7; 4096]).await.is_ok() {} };
            soon(talking).await;
        }
    }
}

/// A client that breaks its connection off while the backend thinks does not leave the backend thinking.
#[tokio::test]
async fn a_client_that_breaks_off_cancels_its_request() {
    for up in UPS {
        let (gateway, mut backend) = stage(up).await;
        let mut tcp = TcpStream::connect(gateway.address).await.expect("connected");
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
        let mut served = backend.next().await;
        socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(tcp);
        served.sees_the_end().await;
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_cut_off_at_the_backend() {
    for up in UPS {
        for framed in [Framed::Length(100), Framed::Open] {
            let (gateway, mut backend) = stage(up).await;
            let mut caller = Caller::http11(gateway.address).await;
            let mut call = caller.ask(Ask::post("/", framed)).await;
            call.send(b"a part").await;
            let mut served = backend.next().await;
            assert_eq!(served.piece().await.expect("reads").expect("a piece"), b"a part");
            drop(call);
            drop(caller);
            assert!(served.try_whole().await.is_err(), "{up:?} {framed:?}");
        }
    }
}

/// A client that has said everything may close its sending half and still gets its answer.
#[tokio::test]
async fn a_client_that_only_listens_gets_its_answer() {
    for up in UPS {
        let (gateway, mut backend) = stage(up).await;
        let mut tcp = TcpStream::connect(gateway.address).await.expect("connected");
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
        tcp.shutdown().await.expect("ended");
        let mut served = backend.next().await;
        served.begin(200, Framed::Length(8), &[]).await;
        for piece in [b"late", b"news"] {
            tokio::task::yield_now().await;
            served.send(piece).await;
        }
        served.end(&[]).await;
        let mut answer = String::new();
        soon(tcp.read_to_string(&mut answer)).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("latenews"), "{answer}");
    }
}

/// Everybody else is served while one connection is stuck.
#[tokio::test]
async fn one_stuck_exchange_holds_up_nobody() {
    let (gateway, mut backend) = stage(Up::H2c).await;
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    let stuck = caller.ask(Ask::get("/stuck")).await;
    let _never_answered = backend.next().await;
    let mut other = Caller::connect(&Down::H2c, gateway.address).await;
    for _ in 0..10 {
        let mut call = other.ask(Ask::get("/")).await;
        backend.next().await.answer(200, "fine").await;
        assert_eq!(call.answer().await, (200, "fine".to_owned()));
    }
    drop(stuck);
}

/// The same over HTTP/2, where the announced length and the end of the stream disagree.
#[tokio::test]
async fn a_stream_that_is_too_short_is_cut_off() {
    let (gateway, mut backend) = stage(Up::H2c).await;
    for down in [Down::Http10, Down::Http11, Down::H2c] {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.begin(200, Framed::Length(100), &[]).await;
        served.send(b"a part").await;
        served.end(&[]).await;
        if soon(call.try_head()).await.is_ok() {
            let whole = call.try_whole().await;
            assert!(whole.is_err(), "{down:?}: {whole:?}");
        }
    }
}

/// The route's time is over while the body comes: what is missing is missed.
#[tokio::test]
async fn a_response_that_takes_too_long_is_cut_off() {
    for up in UPS {
        let mut backend = Backend::start(up).await;
        let gateway = Setup::before(&backend).rule("timeouts: {request: 500ms}").start().await;
        for down in [Down::Http10, Down::Http11, Down::H2c] {
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(Ask::get("/")).await;
            let mut served = backend.next().await;
            served.begin(200, Framed::Open, &[]).await;
            served.send(b"a part").await;
            call.head().await;
            let whole = call.try_whole().await;
            assert!(whole.is_err(), "{down:?} {up:?}: {whole:?}");
            served.sees_the_end().await;
        }
    }
}

/// The time of a try ends with the head of the response, and a long download is not cut by it.
#[tokio::test]
async fn the_time_of_a_try_does_not_cut_its_body() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).rule("timeouts: {backendRequest: 300ms}").start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut served = backend.next().await;
    served.begin(200, Framed::Open, &[]).await;
    call.head().await;
    let began = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    while began.elapsed() < Duration::from_millis(600) {
        pace.tick().await;
        served.send(b"more").await;
        assert_eq!(call.piece().await.expect("reads").expect("a piece"), b"more");
    }
    served.end(&[]).await;
    assert_eq!(call.whole().await.content, b"");
}

/// A backend that refuses a large upload and hangs up is still quoted to the client.
#[tokio::test]
async fn a_refusal_of_a_large_upload_arrives() {
    for up in UPS {
        let (gateway, mut backend) = stage(up).await;
        for down in MODERN {
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(Ask::post("/", Framed::Length(8 << 20))).await;
            let refusing = async {
                let mut served = backend.next().await;
                served.begin(413, Framed::Length(4), &[]).await;
                served.send(b"much").await;
                // What comes now is no request, so the backend hangs up.
                served.end(&[]).await;
            };
            let asking = async {
                let piece = vec![7; 64 << 10];
                for _ in 0..128 {
                    // Whoever refuses may also stop listening, but says so.
                    if soon(call.try_send(&piece)).await.is_err() {
                        break;
                    }
                }
            };
            tokio::join!(refusing, asking);
            assert_eq!(call.answer().await, (413, "much".to_owned()), "{down:?} {up:?}");
        }
    }
}

/// A backend that hangs up in the middle of an upload, without a word.
#[tokio::test]
async fn an_upload_to_nobody_is_a_503() {
    for up in UPS {
        let (gateway, mut backend) = stage(up).await;
        for down in MODERN {
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(Ask::post("/", Framed::Length(1 << 20))).await;
            call.send(b"a part").await;
            let mut served = backend.next().await;
            assert_eq!(served.piece().await.expect("reads").expect("a piece"), b"a part");
            served.reset();
            call.head().await;
            assert_eq!(call.status, 503, "{down:?} {up:?}");
        }
    }
}

/// A client that says the rest of its body though it has its answer can go on with the next request, as it was told.
#[tokio::test]
async fn an_early_answer_does_not_cost_the_connection() {
    for up in UPS {
        let (gateway, mut backend) = stage(up).await;
        let mut caller = Caller::http11(gateway.address).await;
        for framed in [Framed::Length(15), Framed::Open] {
            let mut call = caller.ask(Ask::post("/", framed)).await;
            call.send(b"a part").await;
            backend.next().await.answer(200, "enough").await;
            assert_eq!(call.answer().await, (200, "enough".to_owned()));
            assert_ne!(call.field("connection"), Some("close"));
            call.send(b" and more").await;
            call.end(&[]).await;
            drop(call);
            let mut call = caller.ask(Ask::get("/next")).await;
            let served = backend.next().await;
            assert_eq!(served.target, "/next");
            served.answer(200, "next").await;
            assert_eq!(call.answer().await, (200, "next".to_owned()), "{up:?} {framed:?}");
        }
    }
}
