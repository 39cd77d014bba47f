//! Traffic while the configuration changes under it, and while the gateway is asked to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use tokio::net::TcpStream;
use transept_testkit::certificates::{Identity, KeyKind, Usage};
use transept_testkit::client::{Endpoint, Protocol, Tls, Trust, open};

use crate::stage::{Ask, Backend, Caller, Down, Framed, Setup, Up, soon};

fn websocket() -> Ask {
    Ask::get("/ws").with("connection", "Upgrade").with("upgrade", "websocket")
}

#[tokio::test]
async fn long_streams_survive_reloads() {
    for up in [Up::Http1, Up::H2c] {
        let mut old = Backend::start(up).await;
        let setup = Setup::before(&old);
        let mut gateway = setup.start().await;
        let mut tunnel_caller = Caller::http11(gateway.address).await;
        let mut tunnel = None;
        if up == Up::Http1 {
            let mut call = tunnel_caller.ask(websocket()).await;
            let mut served = old.next().await;
            served.send_raw(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
            call.head().await;
            assert_eq!(call.status, 101);
            tunnel = Some((call, served));
        }
        let mut callers = [Caller::http11(gateway.address).await, Caller::connect(&Down::H2c, gateway.address).await];
        let mut streams = Vec::new();
        for caller in &mut callers {
            let mut call = caller.ask(Ask::get("/events")).await;
            let mut served = old.next().await;
            served.begin(200, Framed::Open, &[("content-type", "text/event-stream")]).await;
            call.head().await;
            streams.push((call, served));
        }
        for _ in 0..3 {
            // A reload that moves everything to another backend.
            let mut new = Backend::start(up).await;
            gateway.reload(&setup.clone().to(&new)).await;
            for (call, served) in &mut streams {
                served.send(b"data: still here\n\n").await;
                assert_eq!(call.piece().await.expect("reads").expect("an event"), b"data: still here\n\n");
            }
            if let Some((call, served)) = &mut tunnel {
                call.send(b"ping").await;
                assert_eq!(served.read_raw(4).await.expect("heard"), b"ping");
                served.send_raw(b"pong").await;
                assert_eq!(call.piece().await.expect("reads").expect("heard"), b"pong");
            }
            let mut caller = Caller::http11(gateway.address).await;
            let mut call = caller.ask(Ask::get("/new")).await;
            new.next().await.answer(200, "new").await;
            assert_eq!(call.answer().await, (200, "new".to_owned()));
        }
        for (mut call, served) in streams {
            served.end(&[]).await;
            assert_eq!(call.whole().await.content, b"");
        }
    }
}

fn forbid(path: &str) -> String {
    format!(
        "apiVersion: transept.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: guard}}\nspec:\n  targetRefs: \
         [{{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}}]\n  deny: [{{to: [{{paths: [{path}]}}]}}]\n"
    )
}

/// Whether its body has come or is on its way.
#[tokio::test]
async fn a_request_that_waits_for_its_answer_ends_when_it_is_forbidden() {
    for ask in [Ask::get("/poll"), Ask::post("/poll", Framed::Length(4))] {
        for down in [Down::Http11, Down::H2c] {
            let mut backend = Backend::start(Up::Http1).await;
            let setup = Setup::before(&backend);
            let mut gateway = setup.start().await;
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(ask.clone()).await;
            let mut served = backend.next().await;
            gateway.reload(&setup.clone().document(&forbid("/poll"))).await;
            assert!(served.read_raw(1).await.is_err(), "the backend hears of it");
            let (status, body) = call.answer().await;
            assert_eq!(status, 403, "{down:?}: {body}");
            let log = soon(gateway.running.log_line_with("access.not_authorized")).await;
            assert!(log.contains("AuthorizationPolicy default/guard"), "{log}");
        }
    }
}

/// The body is small, and read before the backend is asked: nobody is asked after all, whether the rest of it comes or not.
#[tokio::test]
async fn a_request_of_which_the_body_is_read_ends_when_it_is_forbidden() {
    for (down, comes) in [(Down::Http11, true), (Down::Http11, false), (Down::H2c, true), (Down::H2c, false)] {
        let mut backend = Backend::start(Up::Http1).await;
        let setup = Setup::before(&backend);
        let mut gateway = setup.start().await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::new("PUT", "/poll").framed(Framed::Length(4))).await;
        call.send(b"ha").await;
        gateway.reload(&setup.clone().document(&forbid("/poll"))).await;
        if comes {
            call.send(b"lf").await;
            call.end(&[]).await;
        }
        let (status, body) = call.answer().await;
        assert_eq!(status, 403, "{down:?} {comes}: {body}");
        assert!(backend.unheard().is_none(), "{down:?} {comes}");
    }
}

#[tokio::test]
async fn what_was_opened_in_clear_text_does_not_reach_a_listener_with_tls() {
    let mut backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend);
    let mut gateway = setup.start().await;
    let mut callers = [Caller::http11(gateway.address).await, Caller::connect(&Down::H2c, gateway.address).await];
    for caller in &mut callers {
        let mut call = caller.ask(Ask::get("/")).await;
        backend.next().await.answer(200, "open").await;
        assert_eq!(call.answer().await, (200, "open".to_owned()));
    }
    let identity = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["site.test"]).expect("a certificate");
    gateway.reload(&setup.tls(&Arc::new(identity))).await;
    for caller in &mut callers {
        assert_eq!(caller.ask(Ask::get("/")).await.answer().await.0, 421);
    }
}

#[tokio::test]
async fn a_tunnel_ends_when_its_request_is_forbidden_and_for_no_other_change() {
    let mut backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend);
    let mut gateway = setup.start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(websocket()).await;
    let mut served = backend.next().await;
    served.send_raw(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    call.head().await;
    assert_eq!(call.status, 101);
    gateway.reload(&setup.clone().document(&forbid("/other"))).await;
    call.send(b"ping").await;
    assert_eq!(served.read_raw(4).await.expect("heard"), b"ping");
    gateway.reload(&setup.clone().document(&forbid("/ws"))).await;
    assert!(served.read_raw(1).await.is_err(), "the backend hears of it");
    // Cut off or ended: in no case does it go on.
    assert!(!matches!(call.piece().await, Ok(Some(_))));
}

#[tokio::test]
async fn open_connections_see_the_new_configuration() {
    let (mut old, mut new) = (Backend::start(Up::Http1).await, Backend::start(Up::H2c).await);
    let setup = Setup::before(&old);
    let mut gateway = setup.start().await;
    let mut callers = [Caller::http11(gateway.address).await, Caller::connect(&Down::H2c, gateway.address).await];
    for caller in &mut callers {
        let mut call = caller.ask(Ask::get("/")).await;
        old.next().await.answer(200, "old").await;
        assert_eq!(call.answer().await, (200, "old".to_owned()));
    }
    gateway.reload(&setup.clone().to(&new)).await;
    for caller in &mut callers {
        let mut call = caller.ask(Ask::get("/")).await;
        new.next().await.answer(200, "new").await;
        assert_eq!(call.answer().await, (200, "new".to_owned()));
    }
}

/// The exchange that began under the old configuration ends under it.
#[tokio::test]
async fn a_request_under_way_is_not_disturbed() {
    let (mut old, new) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
    let setup = Setup::before(&old);
    let mut gateway = setup.start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::post("/", Framed::Length(4))).await;
    call.send(b"up").await;
    let mut served = old.next().await;
    gateway.reload(&setup.clone().to(&new)).await;
    call.send(b"on").await;
    assert_eq!(served.whole().await.content, b"upon");
    served.answer(200, "done").await;
    assert_eq!(call.answer().await, (200, "done".to_owned()));
}

#[tokio::test]
async fn no_request_fails_while_the_configuration_changes() {
    let backends = [Backend::start(Up::Http1).await, Backend::start(Up::Http1).await];
    let first = Setup::before(&backends[0]).workers(3);
    let setups = [first.clone(), first.to(&backends[1])];
    let mut gateway = setups[0].start().await;
    let _answering = backends.map(Backend::answer_all);
    let ended = Arc::new(AtomicBool::new(false));
    let mut traffic = Vec::new();
    for down in [Down::Http11, Down::H2c, Down::Http10] {
        let (ended, address) = (Arc::clone(&ended), gateway.address);
        traffic.push(tokio::spawn(async move {
            let mut caller = Caller::connect(&down, address).await;
            let mut served = 0;
            while !ended.load(Ordering::SeqCst) {
                assert_eq!(caller.get("/").await.0, 200, "{down:?}");
                served += 1;
                if matches!(down, Down::Http10) || served % 10 == 0 {
                    caller = Caller::connect(&down, address).await;
                }
            }
            served
        }));
    }
    for round in 0..10 {
        gateway.reload(&setups[(round + 1) % 2]).await;
    }
    ended.store(true, Ordering::SeqCst);
    for client in traffic {
        assert!(soon(client).await.expect("no request fails") > 0);
    }
}

#[tokio::test]
async fn listeners_come_and_go() {
    let mut backend = Backend::start(Up::Http1).await;
    let one = Setup::before(&backend).workers(3);
    let two = one.clone().listener();
    let mut gateway = two.start().await;
    let second = gateway.others[0];
    let mut caller = Caller::http11(second).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut served = backend.next().await;
    served.begin(200, Framed::Length(4), &[]).await;
    call.head().await;
    gateway.reload(&two.clone().without_last_listener()).await;
    // What is under way goes on; nobody new is accepted.
    served.send(b"rest").await;
    served.end(&[]).await;
    assert_eq!(call.whole().await.content, b"rest");
    soon(nobody_listens(second)).await;
    gateway.reload(&two).await;
    let mut caller = Caller::http11(second).await;
    let mut call = caller.ask(Ask::get("/")).await;
    backend.next().await.answer(200, "back").await;
    assert_eq!(call.answer().await, (200, "back".to_owned()));
}

/// Waits until no worker listens there any more.
async fn nobody_listens(address: SocketAddr) {
    while TcpStream::connect(address).await.is_ok() {}
}

#[tokio::test]
async fn a_certificate_changes_without_a_restart() {
    let identity = || Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["site.test"]).expect("a certificate");
    let (first, second) = (Arc::new(identity()), Arc::new(identity()));
    let mut backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).tls(&first);
    let mut gateway = setup.start().await;
    let address = gateway.address;
    let mut early = Caller::connect(&Down::H2Tls(Arc::clone(&first)), address).await;
    gateway.reload(&setup.tls(&second)).await;
    // Connections that are open stay; new ones see the new certificate, and only that.
    let mut call = early.ask(Ask::get("/")).await;
    backend.next().await.answer(200, "").await;
    assert_eq!(call.answer().await.0, 200);
    let mut late = Caller::connect(&Down::H2Tls(Arc::clone(&second)), address).await;
    let mut call = late.ask(Ask::get("/")).await;
    backend.next().await.answer(200, "").await;
    assert_eq!(call.answer().await.0, 200);
    let trusting_the_first = Endpoint {
        address,
        protocol: Protocol::Http2,
        tls: Some(Tls {
            server_name: "site.test".to_owned(),
            trust: Trust::Leaf(first.certificate().expect("a certificate")),
            identity: None,
        }),
    };
    assert!(soon(open(&trusting_the_first)).await.is_err());
}

#[tokio::test]
async fn sigterm_ends_idle_connections_and_finishes_the_others() {
    let mut backend = Backend::start(Up::Http1).await;
    let mut gateway = Setup::before(&backend).start().await;
    let mut idle = [Caller::http11(gateway.address).await, Caller::connect(&Down::H2c, gateway.address).await];
    for caller in &mut idle {
        let mut call = caller.ask(Ask::get("/")).await;
        backend.next().await.answer(200, "").await;
        assert_eq!(call.answer().await.0, 200);
    }
    let mut busy = [Caller::http11(gateway.address).await, Caller::connect(&Down::H2c, gateway.address).await];
    let mut under_way = Vec::new();
    for caller in &mut busy {
        let call = caller.ask(Ask::get("/late")).await;
        under_way.push((call, backend.next().await));
    }
    gateway.running.signal(Signal::TERM).expect("sent");
    soon(gateway.running.log_line_with("draining")).await;
    for caller in &mut idle {
        assert!(caller.sees_the_end().await);
    }
    soon(nobody_listens(gateway.address)).await;
    for (number, (mut call, served)) in under_way.into_iter().enumerate() {
        served.answer(200, "finished").await;
        assert_eq!(call.answer().await, (200, "finished".to_owned()));
        // HTTP/1.1 is told in the response, HTTP/2 by GOAWAY.
        assert_eq!(call.field("connection"), [Some("close"), None][number]);
    }
    for caller in &mut busy {
        assert!(caller.sees_the_end().await);
    }
    let ended = soon(gateway.running.ended()).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
}

/// What does not end by itself is ended when the time for it is over.
#[tokio::test]
async fn a_drain_has_an_end() {
    let mut backend = Backend::start(Up::Http1).await;
    let mut gateway = Setup::before(&backend).argument("--drain=1s").start().await;
    let mut callers = [Caller::http11(gateway.address).await, Caller::connect(&Down::H2c, gateway.address).await];
    let mut streams = Vec::new();
    for caller in &mut callers {
        let mut call = caller.ask(Ask::get("/events")).await;
        let mut served = backend.next().await;
        served.begin(200, Framed::Open, &[]).await;
        call.head().await;
        streams.push((call, served));
    }
    let mut tunnel_caller = Caller::http11(gateway.address).await;
    let mut tunnel = tunnel_caller.ask(websocket()).await;
    let mut served = backend.next().await;
    served.send_raw(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    tunnel.head().await;
    gateway.running.signal(Signal::TERM).expect("sent");
    soon(gateway.running.log_line_with("draining")).await;
    // Until then they go on.
    for (call, served) in &mut streams {
        served.send(b"more").await;
        assert_eq!(call.piece().await.expect("reads").expect("a piece"), b"more");
    }
    let ended = soon(gateway.running.ended()).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
    for (mut call, _) in streams {
        assert!(call.try_whole().await.is_err());
    }
}
