//! What well-formed heads mean: targets, persistence, framing of responses; and what the writers make of heads.

use super::*;

fn wire(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("ASCII").replace("\r\n", "|")
}

#[test]
fn targets_have_four_forms() {
    for (line, host, authority, target, form) in [
        ("GET /a?b", "Ex.com:80", "Ex.com:80", "/a?b", TargetForm::Origin),
        ("GET http://ex.com/a?b", "EX.com.:80", "ex.com", "/a?b", TargetForm::Absolute),
        ("GET HTTPS://ex.com:443", "ex.com", "ex.com:443", "/", TargetForm::Absolute),
        ("GET http://ex.com?x", "ex.com", "ex.com", "/?x", TargetForm::Absolute),
        ("OPTIONS http://ex.com", "ex.com", "ex.com", "*", TargetForm::Absolute),
        ("OPTIONS *", "ex.com", "ex.com", "*", TargetForm::Asterisk),
        ("CONNECT ex.com:443", "ex.com", "ex.com:443", "", TargetForm::Authority),
        ("GET //double", "ex.com", "ex.com", "//double", TargetForm::Origin),
        ("GET /?", "[::1]:8080", "[::1]:8080", "/?", TargetForm::Origin),
    ] {
        let (request, meta) = accepted(format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(request.authority(), authority.as_bytes(), "{line}");
        assert_eq!(request.target(), target.as_bytes(), "{line}");
        assert_eq!(meta.form, form, "{line}");
        assert!(!request.fields.contains(FieldId::HOST) && request.scheme().is_empty());
    }
}

#[test]
fn http_10_may_name_no_host() {
    let (request, meta) = accepted("GET /a HTTP/1.0\r\n\r\n");
    assert_eq!((request.authority(), meta.keep_alive), (&b""[..], false));
    assert_eq!(request.version, Version::Http10);
}

#[test]
fn persistence_follows_version_and_connection() {
    for (version, connection, keep_alive) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: x, CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
        assert_eq!(accepted(&head).1.keep_alive, keep_alive, "{head}");
        let head = format!("HTTP/{version} 200 OK\r\nContent-Length: 0\r\n{connection}\r\n");
        let (_, meta) = read_response(&head, Method::Get).expect("well-formed").expect("complete");
        assert_eq!(meta.keep_alive, keep_alive, "{head}");
    }
}

#[test]
fn expectations_wait_for_a_body_that_exists() {
    for (head, expected) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n", true),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", false),
        ("POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", false),
    ] {
        assert_eq!(accepted(head).1.expect_continue, expected, "{head}");
    }
}

#[test]
fn framing_of_responses_follows_rfc_9112_6_3() {
    use Body::{Chunked, Length, None, UntilClose};
    let length = "Content-Length: 5\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (status, lines, method, body, announced, keep_alive) in [
        (200, length, Method::Get, Length(5), Length(5), true),
        (200, chunked, Method::Get, Chunked, Chunked, true),
        (200, "", Method::Get, UntilClose, UntilClose, false),
        (200, length, Method::Head, None, Length(5), true),
        (200, chunked, Method::Head, None, Chunked, true),
        (200, "", Method::Head, None, None, true),
        (304, length, Method::Get, None, Length(5), true),
        (304, "", Method::Get, None, None, true),
        (204, "", Method::Get, None, None, true),
        (204, length, Method::Get, None, None, false),
        (100, "", Method::Post, None, None, true),
        (103, chunked, Method::Get, None, None, false),
        (101, "", Method::Get, None, None, true),
        (200, length, Method::Connect, None, None, false),
        (404, length, Method::Connect, Length(5), Length(5), true),
        (999, length, Method::Get, Length(5), Length(5), true),
    ] {
        let head = format!("HTTP/1.1 {status} X\r\n{lines}\r\n");
        let (response, meta) = read_response(&head, method).expect("well-formed").expect("complete");
        assert_eq!(response.status, status);
        assert_eq!(meta, ResponseMeta { head_len: head.len(), body, announced, keep_alive }, "{method} {head}");
    }
}

#[test]
fn reasons_are_optional_and_kept() {
    for (line, reason) in
        [(&b"HTTP/1.1 200"[..], &b""[..]), (b"HTTP/1.1 200 ", b""), (b"HTTP/1.0 200 All \xe9 fine", b"All \xe9 fine")]
    {
        let head = [line, b"\r\n\r\n"].concat();
        let (response, _) = read_response(&head, Method::Get).expect("well-formed").expect("complete");
        assert_eq!(response.reason(), reason);
    }
}

#[test]
fn requests_are_written_from_their_parts() {
    let (mut request, _) = accepted(
        "POST http://ex.com/a?b HTTP/1.1\r\nAccept:  x  \r\nHost: ex.com\r\nX-A: 1\r\nContent-Length: 5\r\n\
         Connection: keep-alive\r\nUpgrade: websocket\r\nX-B: 2\r\n\r\n",
    );
    let mut out = Vec::new();
    write_request(&mut out, &request, &Body::Length(7), Connection::KeepAlive);
    assert_eq!(wire(&out), "POST /a?b HTTP/1.1|host: ex.com|Accept: x|X-A: 1|X-B: 2|content-length: 7||");

    request.fields.set(&named("x-a"), b"longer value").expect("a value");
    request.fields.set(&named("x-b"), b"").expect("a value");
    request.fields.push(&named("X-C"), b"3").expect("a value");
    out.clear();
    write_request(&mut out, &request, &Body::Chunked, Connection::Close);
    assert_eq!(
        wire(&out),
        "POST /a?b HTTP/1.1|host: ex.com|Accept: x|X-A: longer value|X-B: |X-C: 3|transfer-encoding: chunked|\
         connection: close||"
    );

    out.clear();
    write_request(&mut out, &request, &Body::None, Connection::KeepAlive);
    assert!(wire(&out).ends_with("|content-length: 0||"), "a POST says that it has no content");
}

#[test]
fn targets_are_written_in_the_right_form() {
    let websocket = Protocol::new(b"websocket").expect("a protocol");
    for (method, target, connection, expected) in [
        ("GET", "", Connection::KeepAlive, "GET / HTTP/1.1|host: a:1||"),
        ("GET", "?x", Connection::KeepAlive, "GET /?x HTTP/1.1|host: a:1||"),
        ("OPTIONS", "*", Connection::KeepAlive, "OPTIONS * HTTP/1.1|host: a:1||"),
        ("CONNECT", "", Connection::KeepAlive, "CONNECT a:1 HTTP/1.1|host: a:1||"),
        ("GET", "/", Connection::Close, "GET / HTTP/1.1|host: a:1|connection: close||"),
        (
            "GET",
            "/",
            Connection::Upgrade(websocket),
            "GET / HTTP/1.1|host: a:1|connection: upgrade|upgrade: websocket||",
        ),
    ] {
        let request = Request::build(method, "http", "a:1", target).expect("a request");
        let mut out = Vec::new();
        write_request(&mut out, &request, &Body::None, connection);
        assert_eq!(wire(&out), expected);
    }
    let mut request = Request::build("GET", "http", "a", "/").expect("a request");
    request.fields.push(&named("te"), b"trailers").expect("a value");
    let mut out = Vec::new();
    write_request(&mut out, &request, &Body::None, Connection::KeepAlive);
    assert_eq!(wire(&out), "GET / HTTP/1.1|host: a|te: trailers|connection: te||");
}

#[test]
fn responses_are_written_from_their_parts() {
    let websocket = Connection::Upgrade(Protocol::new(b"websocket").expect("a protocol"));
    let (keep, close) = (Connection::KeepAlive, Connection::Close);
    for (status, body, connection, version, expected) in [
        (200, Body::Length(5), keep, Version::Http11, "HTTP/1.1 200 OK|X: y|content-length: 5||"),
        (200, Body::Chunked, keep, Version::Http11, "HTTP/1.1 200 OK|X: y|transfer-encoding: chunked||"),
        (200, Body::Chunked, keep, Version::Http10, "HTTP/1.1 200 OK|X: y|connection: close||"),
        (
            200,
            Body::Length(5),
            keep,
            Version::Http10,
            "HTTP/1.1 200 OK|X: y|content-length: 5|connection: keep-alive||",
        ),
        (200, Body::UntilClose, keep, Version::Http11, "HTTP/1.1 200 OK|X: y|connection: close||"),
        (
            503,
            Body::Length(0),
            close,
            Version::Http11,
            "HTTP/1.1 503 Service Unavailable|X: y|content-length: 0|connection: close||",
        ),
        (204, Body::Length(0), keep, Version::Http11, "HTTP/1.1 204 No Content|X: y||"),
        (304, Body::Length(5), keep, Version::Http11, "HTTP/1.1 304 Not Modified|X: y|content-length: 5||"),
        (100, Body::Chunked, close, Version::Http11, "HTTP/1.1 100 Continue|X: y||"),
        (
            101,
            Body::None,
            websocket,
            Version::Http11,
            "HTTP/1.1 101 Switching Protocols|X: y|connection: upgrade|upgrade: websocket||",
        ),
        (299, Body::Length(1), keep, Version::Http11, "HTTP/1.1 299 |X: y|content-length: 1||"),
    ] {
        let mut response = Response::new(status);
        for (name, value) in [("X", "y"), ("Content-Length", "99"), ("Transfer-Encoding", "gzip"), ("Connection", "x")]
        {
            response.fields.push(&named(name), value.as_bytes()).expect("a value");
        }
        let mut out = Vec::new();
        write_response(&mut out, &response, &body, connection, version);
        assert_eq!(wire(&out), expected);
    }
}
