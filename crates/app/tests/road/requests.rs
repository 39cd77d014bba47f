//! Requests over HTTP/1.1 that one reader may take for another than the next reader: refused, the connection closed, and
//! never a second request at the backend (RFC 9112).

use crate::stage::raw::{statuses, to_the_end};
use crate::stage::{Backend, Setup, Up};

/// A request that hides in every message below where a body or a second message could be.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: site.test\r\n\r\n";

/// Sends every message on a connection of its own, and expects this status and the end of the connection.
async fn are_refused(status: u16, messages: &[(&str, Vec<u8>)]) {
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    let backend = backend.answer_all();
    let mut wrong = Vec::new();
    for (what, message) in messages {
        let answer = to_the_end(gateway.address, message).await;
        if statuses(&answer) != [status] {
            wrong.push(format!("{what}: {:?}", answer.get(..300.min(answer.len()))));
        } else if !answer.to_lowercase().contains("\r\nconnection: close\r\n") {
            wrong.push(format!("{what}: no Connection: close"));
        }
    }
    let good = to_the_end(gateway.address, "GET /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&good), [200]);
    let heard = backend.heard();
    let forwarded: Vec<_> = heard.iter().filter(|line| !line.ends_with("/good") && !line.ends_with("/begun")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(forwarded.is_empty(), "the backend has heard {forwarded:?}");
}

/// A POST with these field lines and the hidden request behind them.
fn post(fields: &str) -> Vec<u8> {
    format!("POST /x HTTP/1.1\r\nHost: site.test\r\n{fields}\r\n\r\n{HIDDEN}").into_bytes()
}

/// A GET with these field lines.
fn get(fields: &str) -> Vec<u8> {
    format!("GET /x HTTP/1.1\r\nHost: site.test\r\n{fields}\r\n\r\n{HIDDEN}").into_bytes()
}

/// A POST with chunks; it begins well.
fn chunks(body: &str) -> Vec<u8> {
    format!("POST /begun HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes()
}

/// A request that begins with this line.
fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: site.test\r\n\r\n{HIDDEN}").into_bytes()
}

#[tokio::test]
async fn two_framings_are_none() {
    are_refused(
        400,
        &[
            ("CL.TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked")),
            ("TE.CL", post("Transfer-Encoding: chunked\r\nContent-Length: 6")),
            ("two lengths", post("Content-Length: 0\r\nContent-Length: 42")),
            ("the same length twice", post("Content-Length: 0\r\nContent-Length: 0")),
            ("a list of lengths", post("Content-Length: 0, 42")),
            ("an empty length", post("Content-Length:")),
            ("a signed length", post("Content-Length: +0")),
            ("a negative length", post("Content-Length: -1")),
            ("a hexadecimal length", post("Content-Length: 0x0")),
            ("a length with an underscore", post("Content-Length: 1_0")),
            ("a length with a space", post("Content-Length: 0 1")),
            ("a length beyond 64 bits", post("Content-Length: 18446744073709551616")),
        ],
    )
    .await;
}

#[tokio::test]
async fn disguised_transfer_codings_are_refused() {
    let te = |value: &str| post(&format!("Transfer-Encoding: {value}"));
    are_refused(
        400,
        &[
            ("chunked twice", te("chunked, chunked")),
            ("an empty member", te("chunked,")),
            ("an empty member before", te(", chunked")),
            ("a parameter", te("chunked;q=1")),
            ("quotes", te("\"chunked\"")),
            ("vertical tab", te("\x0bchunked")),
            ("a NUL", te("chunked\0")),
            ("two lines", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")),
            ("an empty value", te("")),
            ("identity", te("identity")),
            ("in HTTP/1.0", b"POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()),
            ("a space before the colon", post("Transfer-Encoding : chunked")),
            ("folded", post("Transfer-Encoding:\r\n chunked")),
        ],
    )
    .await;
}

#[tokio::test]
async fn unknown_transfer_codings_are_not_implemented() {
    let te = |value: &str| post(&format!("Transfer-Encoding: {value}"));
    are_refused(501, &[("gzip", te("gzip")), ("gzip below chunks", te("gzip, chunked")), ("nearly", te("xchunked"))])
        .await;
}

#[tokio::test]
async fn broken_chunks_end_the_connection() {
    let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(5000));
    let many = "1;eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\r\nx\r\n".repeat(4000);
    are_refused(
        400,
        &[
            ("no size", chunks(&format!("\r\n\r\n{HIDDEN}"))),
            ("a signed size", chunks(&format!("+0\r\n\r\n{HIDDEN}"))),
            ("0x", chunks(&format!("0x0\r\n\r\n{HIDDEN}"))),
            ("a space before the size", chunks(&format!(" 0\r\n\r\n{HIDDEN}"))),
            ("a size beyond 64 bits", chunks("10000000000000000\r\nx")),
            ("not a number", chunks("g\r\n")),
            ("LF after the size", chunks(&format!("0\n\r\n{HIDDEN}"))),
            ("CR in an extension", chunks(&format!("0;a\rb\r\n\r\n{HIDDEN}"))),
            ("LF in an extension", chunks(&format!("0;a\nb\r\n\r\n{HIDDEN}"))),
            ("NUL in an extension", chunks(&format!("0;a\0b\r\n\r\n{HIDDEN}"))),
            ("a long extension", chunks(&long)),
            ("many extensions", chunks(&many)),
            ("no line end after a chunk", chunks("1\r\nxx\r\n0\r\n\r\n")),
            ("LF after a chunk", chunks("1\r\nx\n0\r\n\r\n")),
            ("CR after a chunk", chunks("1\r\nx\r0\r\n\r\n")),
            ("a trailer without a name", chunks("0\r\n: x\r\n\r\n")),
            ("a folded trailer", chunks("0\r\nx: y\r\n z\r\n\r\n")),
        ],
    )
    .await;
}

#[tokio::test]
async fn trailers_are_bounded() {
    are_refused(
        431,
        &[
            ("many", chunks(&format!("0\r\n{}\r\n", "x: y\r\n".repeat(500)))),
            ("large", chunks(&format!("0\r\nx: {}\r\n\r\n", "y".repeat(100_000)))),
        ],
    )
    .await;
}

#[tokio::test]
async fn trailers_that_are_no_trailers_are_dropped() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    let body = "1\r\nx\r\n0\r\nContent-Length: 9\r\nHost: evil.test\r\nAuthorization: x\r\nX-Sum: 1\r\n\r\n";
    let address = gateway.address;
    let asking = tokio::spawn(async move {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        to_the_end(address, format!("{head}{body}")).await
    });
    let mut served = backend.next().await;
    let trailers = served.whole().await.trailers;
    let names: Vec<_> = trailers.iter().map(|(name, _)| name.to_lowercase()).collect();
    assert_eq!(names, ["x-sum"]);
    served.answer(200, "").await;
    assert_eq!(statuses(&asking.await.expect("an answer")), [200]);
}

#[tokio::test]
async fn odd_request_lines_are_refused() {
    are_refused(
        400,
        &[
            ("two spaces", line("GET  /x HTTP/1.1")),
            ("a space at the end", line("GET /x HTTP/1.1 ")),
            ("a space in front", line(" GET /x HTTP/1.1")),
            ("a tab", line("GET\t/x HTTP/1.1")),
            ("no version", line("GET /x")),
            ("HTTP/0.9", b"GET /x\r\n\r\n".to_vec()),
            ("a fragment", line("GET /x#y HTTP/1.1")),
            ("no slash", line("GET x HTTP/1.1")),
            ("a control character", line("GET /\x01 HTTP/1.1")),
            ("a NUL", line("GET /\0 HTTP/1.1")),
            ("a byte beyond ASCII", line("GET /\u{e4} HTTP/1.1")),
            ("an asterisk", line("GET * HTTP/1.1")),
            ("lower-case http", line("GET /x http/1.1")),
            ("a method that is no token", line("G(T /x HTTP/1.1")),
            ("a bare LF", b"GET /x HTTP/1.1\nHost: a\n\n".to_vec()),
            ("a bare CR", b"GET /x HTTP/1.1\rHost: a\r\r".to_vec()),
            ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ],
    )
    .await;
    are_refused(505, &[("HTTP/2.0", line("GET /x HTTP/2.0")), ("HTTP/1.2", line("GET /x HTTP/1.2"))]).await;
}

/// The framing is clear, only the path is not: the connection may go on.
#[tokio::test]
async fn odd_paths_are_refused() {
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    let backend = backend.answer_all();
    for path in ["/a%00b", "/a/..%2fb", "/a%5cb", "/a\\b", "/a%2", "/a%zz", "/a%0d%0aX:b"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(statuses(&to_the_end(gateway.address, request).await), [400], "{path}");
    }
    assert!(backend.heard().is_empty(), "{:?}", backend.heard());
}

#[tokio::test]
async fn odd_field_lines_are_refused() {
    are_refused(
        400,
        &[
            ("a space before the colon", get("X-A : 1")),
            ("an empty name", get(": 1")),
            ("no colon", get("X-A")),
            ("a name that is no token", get("X(A): 1")),
            ("a NUL in a name", get("X\0A: 1")),
            ("a folded value", get("X-A: 1\r\n 2")),
            ("a space before the first field", b"GET /x HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n".to_vec()),
            ("a NUL in a value", get("X-A: 1\x002")),
            ("a bare CR in a value", get("X-A: 1\rX-B: 2")),
            ("a bare LF", get("X-A: 1\nX-B: 2")),
            ("a control character in a value", get("X-A: 1\x082")),
        ],
    )
    .await;
}

#[tokio::test]
async fn there_is_one_valid_host() {
    let host = |lines: &str| format!("GET /x HTTP/1.1\r\n{lines}\r\n{HIDDEN}").into_bytes();
    are_refused(
        400,
        &[
            ("none", host("X-A: 1\r\n")),
            ("two", host("Host: a\r\nHost: b\r\n")),
            ("the same twice", host("Host: a\r\nHost: a\r\n")),
            ("an empty one", host("Host:\r\n")),
            ("a list", host("Host: a, b\r\n")),
            ("a space", host("Host: a b\r\n")),
            ("userinfo", host("Host: user@a\r\n")),
            ("a path", host("Host: a/b\r\n")),
            ("a port that is none", host("Host: a:port\r\n")),
            ("a port that is too large", host("Host: a:65536\r\n")),
            ("an open bracket", host("Host: [::1\r\n")),
            ("another in the target", b"GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
            ("userinfo in the target", b"GET http://user@a/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ],
    )
    .await;
}

#[tokio::test]
async fn odd_expectations_fail() {
    are_refused(
        417,
        &[
            ("another", post("Expect: 200-ok\r\nContent-Length: 42")),
            ("disguised", post("Expect: y 100-continue\r\nContent-Length: 42")),
            ("twice", post("Expect: 100-continue, 100-continue\r\nContent-Length: 42")),
            ("folded away", post("Expect: 100-continue;q=1\r\nContent-Length: 42")),
        ],
    )
    .await;
}

#[tokio::test]
async fn connect_is_not_offered() {
    are_refused(501, &[("CONNECT", b"CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443\r\n\r\n".to_vec())]).await;
    are_refused(400, &[("CONNECT to a path", b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec())]).await;
}

#[tokio::test]
async fn an_upgrade_has_no_body() {
    are_refused(
        400,
        &[
            ("a length", get("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 42")),
            ("chunks", get("Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked")),
        ],
    )
    .await;
}

/// However the packets are cut, the same requests come out.
#[tokio::test]
async fn pauses_change_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    let backend = backend.answer_all();
    let bytes = "POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n\
        POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
        GET /three HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut tcp = tokio::net::TcpStream::connect(gateway.address).await.expect("connected");
    tcp.set_nodelay(true).expect("set");
    for byte in bytes.as_bytes() {
        tcp.write_all(&[*byte]).await.expect("sent");
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    crate::stage::soon(tcp.read_to_string(&mut answer)).await.expect("read");
    assert_eq!(statuses(&answer), [200, 200, 200]);
    assert_eq!(backend.heard(), ["POST /one", "POST /two", "GET /three"]);
    // And all at once.
    assert_eq!(statuses(&to_the_end(gateway.address, bytes).await), [200, 200, 200]);
    assert_eq!(backend.heard().len(), 6);
}

/// After an answer of our own, the body that follows is nobody's request.
#[tokio::test]
async fn the_body_behind_an_early_answer_is_no_request() {
    let backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).rule("matches: [{path: {value: /known}}]");
    let gateway = setup.start().await;
    let backend = backend.answer_all();
    let hidden = "GET /known/hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    // Only a part of the body follows, and then the hidden request would begin.
    let head = "POST /unknown HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n";
    let answer = to_the_end(gateway.address, format!("{head}{hidden}{hidden}")).await;
    assert_eq!(statuses(&answer), [404]);
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    // All of the body is here: the connection may go on behind it.
    let head = format!("POST /unknown HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", hidden.len());
    let next = "GET /known/next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = to_the_end(gateway.address, format!("{head}{hidden}{next}")).await;
    assert!(matches!(*statuses(&answer), [404] | [404, 200]), "{answer}");
    assert!(backend.heard().iter().all(|line| line == "GET /known/next"), "{:?}", backend.heard());
}

/// Host and path have one spelling, and it is the one that is matched and forwarded.
#[tokio::test]
async fn what_is_matched_is_what_is_forwarded() {
    let backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).rule("matches: [{path: {value: /a}}]");
    let gateway = setup.start().await;
    let backend = backend.answer_all();
    for target in ["/a/./b", "/x/../a/b", "//a//b", "/%61/b", "/x/%2e%2E/a/b", "http://Site.Test:80/a/b"] {
        let host = if target.starts_with("http") { "Site.Test:80" } else { "site.test." };
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(statuses(&to_the_end(gateway.address, request).await), [200], "{target}");
        assert_eq!(backend.heard().last().map(String::as_str), Some("GET /a/b"), "{target}");
    }
}
