//! What heads become, and what is written of them.

use super::*;
use crate::h1::Body;

#[test]
fn a_request_becomes_its_parts() {
    let lines = usual_with(&[
        ("accept", "*/*"),
        ("content-length", "12"),
        ("te", "trailers"),
        ("expect", "100-Continue"),
        ("x-odd", "caf\u{e9}\ta b"),
        ("x-empty", ""),
    ]);
    let (request, head) = read_request_of(&lines).expect("a request");
    assert_eq!(request.method, Method::Get);
    assert_eq!(request.version, Version::Http2);
    assert_eq!((request.scheme(), request.authority()), (&b"https"[..], &b"a.test"[..]));
    assert_eq!((request.path(), request.query()), (&b"/x"[..], Some(&b"y=z"[..])));
    assert_eq!(request.protocol(), None);
    assert_eq!(head, RequestHead { length: Some(12), expect_continue: true });
    let expected = [
        "accept: */*",
        "content-length: 12",
        "te: trailers",
        "expect: 100-Continue",
        "x-odd: caf\\xc3\\xa9\\ta b",
        "x-empty: ",
    ];
    assert_eq!(shown(&request.fields), expected);
}

#[test]
fn targets_that_are_fine() {
    for (method, path) in [
        ("GET", "/"),
        ("GET", "//x/../%2e?a?b/:@!$&'()*+,;=\"<>[]^`{|}~\\"),
        ("OPTIONS", "*"),
        ("OPTIONS", "/"),
        ("GET", "/?"),
    ] {
        let mut lines = usual_but(":path", path);
        lines[0].1 = method;
        let (request, _) = read_request_of(&lines).expect(path);
        assert_eq!(request.target(), path.as_bytes());
    }
}

#[test]
fn host_stands_in_for_the_authority() {
    let (request, _) = read_request_of(&usual_with(&[("host", "A.test")])).expect("the same host");
    assert_eq!(request.authority(), b"a.test");
    assert!(request.fields.is_empty());
    let lines = [GET[0], GET[1], GET[3], ("host", "b.test:8080")];
    let (request, _) = read_request_of(&lines).expect("only a Host");
    assert_eq!(request.authority(), b"b.test:8080");
    assert!(request.fields.is_empty());
}

#[test]
fn an_extended_connect_names_its_protocol() {
    let lines = [
        (":method", "CONNECT"),
        (":scheme", "https"),
        (":path", "/chat?x"),
        (":authority", "a.test"),
        (":protocol", "websocket"),
        ("sec-websocket-version", "13"),
    ];
    let (request, _) = read_request_of(&lines).expect("a request");
    assert_eq!((request.method, request.protocol()), (Method::Connect, Some(&b"websocket"[..])));
    assert_eq!(request.target(), b"/chat?x");
    let mut out = Vec::new();
    write_request(&mut Encoder::new(), &request, &Body::Chunked, &mut out);
    let mut again = Request::new();
    read_request(&mut Decoder::new(0), &out, &ROOMY, &mut again).expect("a request");
    assert_eq!(again, request);
}

#[test]
fn cookies_become_one_field_where_the_first_stood() {
    for (crumbs, joined) in [
        (&["a=1"][..], "a=1"),
        (&["a=1", "b=2"], "a=1; b=2"),
        (&["a=1", "", "b=2", "c=3"], "a=1; b=2; c=3"),
        (&["", "b=2"], "b=2"),
        (&["", ""], ""),
        (&[""], ""),
    ] {
        let mut lines = usual_with(&[("x-a", "1")]);
        for crumb in crumbs {
            lines.extend([("cookie", *crumb), ("x-between", "1")]);
        }
        let (request, _) = read_request_of(&lines).expect("a request");
        let cookies: Vec<&[u8]> = request.fields.all(FieldId::COOKIE).collect();
        assert_eq!(cookies, [joined.as_bytes()]);
        assert_eq!(request.fields.iter().nth(1).map(|(name, _)| name.as_str().to_owned()), Some("cookie".to_owned()));
        assert_eq!(request.fields.len(), crumbs.len() + 2);
    }
}

#[test]
fn names_with_underscores_are_left_out_of_requests_only() {
    let (request, _) = read_request_of(&usual_with(&[("x_user", "root"), ("x-user", "1")])).expect("a request");
    assert_eq!(shown(&request.fields), ["x-user: 1"]);
    let lines = usual_with(&[("user_id", "7"), ("content_length", "9"), ("x_forwarded_for", "1.2.3.4")]);
    let keep = HeadLimits { underscore: Underscore::KeepUnknown, ..ROOMY };
    let (request, _) = read_request_within(&lines, &keep).expect("a request");
    assert_eq!(shown(&request.fields), ["user_id: 7"]);
    let refuse = HeadLimits { underscore: Underscore::Refuse, ..ROOMY };
    assert!(read_request_within(&lines, &refuse).is_err());
    let (response, _) = read_response_of(&[(":status", "200"), ("x_user", "1")]).expect("a response");
    assert_eq!(shown(&response.fields), ["x_user: 1"]);
    let trailers = read_trailers_of(&[("x_user", "1")]).expect("trailers");
    assert_eq!(shown(&trailers), ["x_user: 1"]);
}

#[test]
fn a_response_becomes_its_parts() {
    let lines =
        [(":status", "404"), ("host", "x@y"), ("content-length", "0"), ("set-cookie", "a"), ("set-cookie", "b")];
    let (response, length) = read_response_of(&lines).expect("a response");
    assert_eq!((response.status, response.version, length), (404, Version::Http2, Some(0)));
    assert_eq!(shown(&response.fields), ["content-length: 0", "set-cookie: a", "set-cookie: b"]);
    for status in ["100", "102", "103", "200", "599", "999"] {
        let (response, length) = read_response_of(&[(":status", status)]).expect(status);
        assert_eq!((response.status.to_string().as_str(), length), (status, None));
    }
}

#[test]
fn trailers_that_may_not_trail_are_left_out() {
    let lines = [
        ("grpc-status", "0"),
        ("content-length", "5"),
        ("host", "x"),
        ("cookie", "a"),
        ("x-a", "1"),
        ("te", "trailers"),
    ];
    assert_eq!(shown(&read_trailers_of(&lines).expect("trailers")), ["grpc-status: 0", "x-a: 1"]);
}

/// The lines of a block: `!` marks those that no table may hold.
fn lines_of(block: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    Decoder::new(4096)
        .decode(block, |line| {
            let mark = if line.is_never_indexed() { "!" } else { "" };
            lines.push(format!("{mark}{}: {}", text(line.name()), text(line.value())));
        })
        .expect("a block");
    lines
}

fn push(fields: &mut Fields, lines: &[(&str, &str)]) {
    for (name, value) in lines {
        fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
    }
}

#[test]
fn what_http_2_does_not_have_does_not_leave() {
    let odd = [
        ("Connection", "close, X-A"),
        ("Keep-Alive", "5"),
        ("Proxy-Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "websocket"),
        ("HTTP2-Settings", "AAAA"),
        ("Host", "b.test"),
        ("TE", "gzip"),
        ("X-A", "1"),
        ("Authorization", "Basic x"),
        ("Cookie", "a=1"),
        ("Content-Length", "7"),
        ("Accept-Encoding", "gzip, deflate"),
    ];
    let mut request = Request::build("PUT", "https", "a.test", "/secret?token=1").expect("a request");
    push(&mut request.fields, &odd);
    let mut out = Vec::new();
    write_request(&mut Encoder::new(), &request, &Body::Length(12), &mut out);
    let pseudo = [":method: PUT", ":scheme: https", "!:path: /secret?token=1", ":authority: a.test"];
    let fields = ["x-a: 1", "!authorization: Basic x", "!cookie: a=1", "accept-encoding: gzip, deflate"];
    let expected = |last: &[&'static str]| [&pseudo[..], &fields, last].concat();
    assert_eq!(lines_of(&out), expected(&["content-length: 12"]));
    for body in [Body::None, Body::Chunked, Body::UntilClose] {
        out.clear();
        write_request(&mut Encoder::new(), &request, &body, &mut out);
        assert_eq!(lines_of(&out), expected(&[]));
    }

    let mut trailers = Fields::new();
    push(&mut trailers, &odd[..9]);
    out.clear();
    write_trailers(&mut Encoder::new(), &trailers, &mut out);
    assert_eq!(lines_of(&out), ["x-a: 1"]);
}

#[test]
fn a_request_to_read_trailers_leaves_in_one_form() {
    let mut request = Request::build("POST", "http", "a.test", "/").expect("a request");
    push(&mut request.fields, &[("te", "trailers")]);
    let mut out = Vec::new();
    write_request(&mut Encoder::new(), &request, &Body::Chunked, &mut out);
    assert_eq!(lines_of(&out), [":method: POST", ":scheme: http", ":path: /", ":authority: a.test", "te: trailers"]);
}

#[test]
fn pseudo_fields_fit_the_method() {
    let written = |method: &[u8], scheme: &str, authority: &[u8], target: &[u8]| {
        let mut request = Request::new();
        request.method = Method::from_bytes(method).expect("a method");
        if !scheme.is_empty() {
            request.set_scheme(scheme.as_bytes()).expect("a scheme");
        }
        request.set_authority(authority).expect("an authority");
        let (path, query) = match memchr::memchr(b'?', target) {
            Some(at) => (&target[..at], Some(&target[at + 1..])),
            None => (target, None),
        };
        request.set_path(path).expect("a path");
        request.set_query(query).expect("a query");
        let mut out = Vec::new();
        write_request(&mut Encoder::new(), &request, &Body::None, &mut out);
        lines_of(&out)
    };
    assert_eq!(written(b"CONNECT", "", b"a.test:443", b""), [":method: CONNECT", ":authority: a.test:443"]);
    let options = [":method: OPTIONS", ":scheme: https", ":path: *", ":authority: a.test"];
    assert_eq!(written(b"OPTIONS", "https", b"a.test", b"*"), options);
    assert_eq!(written(b"GET", "", b"", b""), [":method: GET", ":scheme: http", ":path: /"]);
    let query = [":method: GET", ":scheme: https", "!:path: /?x", ":authority: a.test"];
    assert_eq!(written(b"GET", "https", b"a.test", b"?x"), query);
}

#[test]
fn responses_leave_with_the_length_that_their_status_allows() {
    for (status, expected) in [
        (200, &[":status: 200", "content-length: 7", "!set-cookie: a=1"][..]),
        (304, &[":status: 304", "content-length: 7", "!set-cookie: a=1"]),
        (418, &[":status: 418", "content-length: 7", "!set-cookie: a=1"]),
        (204, &[":status: 204", "!set-cookie: a=1"]),
        (103, &[":status: 103", "!set-cookie: a=1"]),
        (101, &[":status: 502", "content-length: 7", "!set-cookie: a=1"]),
        (99, &[":status: 502", "content-length: 7", "!set-cookie: a=1"]),
    ] {
        let mut response = Response::new(status);
        push(&mut response.fields, &[("Connection", "close"), ("Content-Length", "7"), ("Set-Cookie", "a=1")]);
        let mut out = Vec::new();
        write_response(&mut Encoder::new(), &response, &mut out);
        assert_eq!(lines_of(&out), expected);
    }
}

#[test]
fn what_no_table_may_hold_is_passed_on_as_such() {
    let mut block = block(&GET);
    block.extend(literals(0x10, [(&b"x-secret"[..], &b"1"[..]), (b"accept-language", b"en")]));
    let mut request = Request::new();
    read_request(&mut Decoder::new(0), &block, &ROOMY, &mut request).expect("a request");
    let mut copy = Request::new();
    copy.copy_from(&request);
    let mut out = Vec::new();
    write_request(&mut Encoder::new(), &copy, &Body::None, &mut out);
    assert_eq!(lines_of(&out)[4..], ["!x-secret: 1", "!accept-language: en"]);
}
