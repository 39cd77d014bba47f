//! Responses that a backend should not have given: 502 and the connection dropped, or a cut that nobody can take for an end.

use crate::stage::raw::{statuses, to_the_end};
use crate::stage::{Ask, Backend, Caller, Down, Framed, Gateway, Setup, Up};

async fn stage() -> (Gateway, Backend) {
    let backend = Backend::start(Up::Http1).await;
    (Setup::before(&backend).start().await, backend)
}

/// Each of these response heads gives 502, on a backend connection that is not used again.
async fn are_bad_gateways(heads: &[(&str, &[u8])]) {
    let (gateway, mut backend) = stage().await;
    let mut wrong = Vec::new();
    for (number, (what, head)) in heads.iter().enumerate() {
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.send_raw(head).await;
        call.head().await;
        let body = String::from_utf8_lossy(&call.whole().await.content).into_owned();
        if call.status != 502 || body.contains("evil") {
            wrong.push(format!("{what}: {} {body}", call.status));
        }
        served.sees_the_end().await;
        assert_eq!(backend.connections(), number + 1, "{what}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn invalid_heads_are_bad_gateways() {
    are_bad_gateways(&[
        ("no HTTP", b"evil\r\n\r\n"),
        ("no version", b"200 OK\r\n\r\n"),
        ("a version that is none", b"HTTP/1.x 200 OK\r\n\r\n"),
        ("HTTP/2.0", b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ("a status of two digits", b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n"),
        ("a status of four digits", b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n"),
        ("a status below 100", b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n"),
        ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nevil"),
        ("a list of lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 4, 5\r\n\r\nevil"),
        ("a signed length", b"HTTP/1.1 200 OK\r\ncontent-length: +4\r\n\r\nevil"),
        ("an empty length", b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nevil"),
        (
            "length and chunks",
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        ),
        ("an unknown coding", b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"),
        ("chunks in HTTP/1.0", b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"),
        ("a space before the colon", b"HTTP/1.1 200 OK\r\nx-a : evil\r\ncontent-length: 0\r\n\r\n"),
        ("no colon", b"HTTP/1.1 200 OK\r\nevil\r\ncontent-length: 0\r\n\r\n"),
        ("a bare CR", b"HTTP/1.1 200 OK\r\nx-a: 1\rx-b: evil\r\ncontent-length: 0\r\n\r\n"),
        ("a NUL", b"HTTP/1.1 200 OK\r\nx-a: \0\r\ncontent-length: 0\r\n\r\n"),
        ("a name that is no token", b"HTTP/1.1 200 OK\r\nx(a): 1\r\ncontent-length: 0\r\n\r\n"),
        (
            "101 that nobody asked for",
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: evil\r\nconnection: upgrade\r\n\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_bad_gateway() {
    let large = format!("HTTP/1.1 200 OK\r\nx-evil: {}\r\ncontent-length: 0\r\n\r\n", "e".repeat(70_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x-evil: e\r\n".repeat(200));
    are_bad_gateways(&[("large", large.as_bytes()), ("many fields", many.as_bytes())]).await;
}

#[tokio::test]
async fn broken_chunks_are_cut_off() {
    let (gateway, mut backend) = stage().await;
    for bad in ["zz\r\n", "5\r\nabcdeX\r\n0\r\n\r\n", "ffffffffffffffffff\r\n", "1;a\nb\r\nx\r\n0\r\n\r\n", "3\r\nab"] {
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.begin(200, Framed::Open, &[]).await;
        served.send(b"good").await;
        call.head().await;
        assert_eq!(call.piece().await.expect("reads"), Some(b"good".to_vec()));
        served.send_raw(bad.as_bytes()).await;
        if bad == "3\r\nab" {
            drop(served);
        }
        assert!(call.try_whole().await.is_err(), "{bad:?} must not end well");
    }
}

/// Bytes behind a response are for nobody: not for the next request, whoever sends it.
#[tokio::test]
async fn extra_bytes_do_not_answer_the_next_request() {
    let (gateway, mut backend) = stage().await;
    let evil = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let mut caller = Caller::http11(gateway.address).await;
    let good: [&[u8]; 6] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\ncontent-length: 40\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 40\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n",
    ];
    for (number, head) in good.iter().enumerate() {
        let mut call = caller.ask(Ask::get("/asked")).await;
        let mut served = backend.next().await;
        served.send_raw(&[head, &evil[..]].concat()).await;
        call.head().await;
        assert!(!String::from_utf8_lossy(&call.whole().await.content).contains("evil"));
        served.sees_the_end().await;
        assert_eq!(backend.connections(), number + 1);
    }
}

/// As above, when the bytes come while the connection waits in the pool.
#[tokio::test]
async fn bytes_on_an_idle_connection_answer_nobody() {
    let (gateway, mut backend) = stage().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/first")).await;
    let mut first = backend.next().await;
    first.send_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood").await;
    assert_eq!(call.answer().await, (200, "good".to_owned()));
    drop(call);
    first.send_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await;
    let mut call = caller.ask(Ask::get("/second")).await;
    backend.next().await.answer(200, "mine").await;
    assert_eq!(call.answer().await, (200, "mine".to_owned()));
    assert_eq!(backend.connections(), 2);
}

/// The answer to HEAD has no body, whatever comes behind it.
#[tokio::test]
async fn a_body_behind_head_is_not_passed_on() {
    let (gateway, mut backend) = stage().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::new("HEAD", "/")).await;
    let mut served = backend.next().await;
    served.send_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await;
    assert_eq!(call.answer().await, (200, String::new()));
    drop(call);
    let mut call = caller.ask(Ask::get("/next")).await;
    backend.next().await.answer(200, "mine").await;
    assert_eq!(call.answer().await, (200, "mine".to_owned()));
    assert_eq!(backend.connections(), 2);
}

/// Neither a target nor a field of the request can make a line of the response.
#[tokio::test]
async fn a_redirect_cannot_be_split() {
    let backend = Backend::start(Up::Http1).await;
    let redirect = "filters: [{type: RequestRedirect, requestRedirect: {hostname: other.test}}]";
    let setup = Setup::before(&backend).answers_itself().rule(redirect).policy("path: {encodedControls: Keep}");
    let gateway = setup.start().await;
    let request =
        "GET /a%0d%0aset-cookie:%20evil?b=%0d%0aset-cookie:%20evil HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = to_the_end(gateway.address, request).await;
    assert_eq!(statuses(&answer), [302]);
    let lines: Vec<_> = answer.split("\r\n").map(str::to_lowercase).collect();
    assert!(lines.iter().all(|line| !line.starts_with("set-cookie")), "{answer}");
    assert!(lines.iter().any(|line| line.starts_with("location:") && line.contains("%0d%0a")), "{answer}");
}

/// What the hop to the backend needed stays on that hop.
#[tokio::test]
async fn fields_of_the_hop_are_not_passed_on() {
    let (gateway, mut backend) = stage().await;
    for down in [Down::Http11, Down::H2c] {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        let head = "HTTP/1.1 200 OK\r\nconnection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\
            proxy-connection: close\r\nproxy-authenticate: Basic\r\nx-stays: 1\r\ncontent-length: 4\r\n\r\ngood";
        served.send_raw(head.as_bytes()).await;
        assert_eq!(call.answer().await, (200, "good".to_owned()));
        for name in ["x-hop", "keep-alive", "proxy-connection", "proxy-authenticate"] {
            assert_eq!(call.field(name), None, "{name}");
        }
        assert_eq!(call.field("x-stays"), Some("1"));
        assert_ne!(call.field("connection"), Some("close, x-hop"));
        served.sees_the_end().await;
    }
}

/// An interim response has no body, whatever it says (RFC 9112 section 6.3).
#[tokio::test]
async fn an_interim_response_has_no_body() {
    let (gateway, mut backend) = stage().await;
    for down in [Down::Http11, Down::H2c] {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        let hint =
            "HTTP/1.1 103 Early Hints\r\ncontent-length: 4\r\nconnection: x-hop\r\nx-hop: 1\r\nlink: </a>\r\n\r\n";
        served.send_raw(hint.as_bytes()).await;
        served.answer(200, "good").await;
        assert_eq!(call.answer().await, (200, "good".to_owned()), "{down:?}");
        assert_eq!(call.interim, [(103, crate::stage::owned(&[("link", "</a>")]))], "{down:?}");
    }
}

/// A response without content states no length (RFC 9110 section 8.6).
#[tokio::test]
async fn no_content_has_no_length() {
    let (gateway, mut backend) = stage().await;
    for down in [Down::Http11, Down::H2c] {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.begin(204, Framed::Not, &[("content-length", "5")]).await;
        served.end(&[]).await;
        assert_eq!(call.answer().await, (204, String::new()), "{down:?}");
        assert_eq!(call.field("content-length"), None, "{down:?}");
    }
}

/// The same limits hold for heads that come over HTTP/2.
#[tokio::test]
async fn a_large_head_over_http2_is_a_bad_gateway() {
    let mut backend = Backend::start(Up::H2c).await;
    let gateway = Setup::before(&backend).start().await;
    let large = "e".repeat(70_000);
    let many: Vec<_> = (0..150).map(|_| ("x-evil", "e")).collect();
    for fields in [&[("x-evil", large.as_str())][..], &many] {
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        served.begin(200, Framed::Open, fields).await;
        call.head().await;
        assert_eq!(call.status, 502, "{} fields", fields.len());
        served.sees_the_end().await;
    }
}

/// Trailers are no second head (RFC 9110 section 6.5.1).
#[tokio::test]
async fn trailers_do_not_change_a_response() {
    for up in [Up::Http1, Up::H2c] {
        let mut backend = Backend::start(up).await;
        let gateway = Setup::before(&backend).start().await;
        for down in [Down::Http11, Down::H2c] {
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(Ask::get("/").with("te", "trailers")).await;
            let mut served = backend.next().await;
            served.begin(200, Framed::Open, &[]).await;
            served.send(b"good").await;
            let trailers =
                [("content-length", "9"), ("set-cookie", "evil=1"), ("content-type", "text/evil"), ("x-sum", "1")];
            served.end(&trailers).await;
            call.head().await;
            let whole = call.whole().await;
            let names: Vec<_> = whole.trailers.iter().map(|(name, _)| name.as_str()).collect();
            assert!(names.contains(&"x-sum") && !names.contains(&"content-length"), "{down:?} {up:?}: {names:?}");
            assert!(!names.contains(&"content-type") && !names.contains(&"set-cookie"), "{down:?} {up:?}: {names:?}");
        }
    }
}
