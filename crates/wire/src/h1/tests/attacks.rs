//! One row per known way to make two receivers of one message disagree. Each row is read at every split.

use super::*;
use Malformed::*;

/// A request with the lines put after its request line and a valid `Host`.
fn with(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")
}

#[track_caller]
fn refused(row: &str, bytes: impl AsRef<[u8]>, why: Malformed) {
    let bytes = bytes.as_ref();
    match read_request(bytes) {
        Err(found) if found == why => {}
        other => panic!("{row}: {other:?} instead of {why:?}: {}", bytes.escape_ascii()),
    }
}

#[test]
fn framing_fields() {
    for (row, lines, why) in [
        ("CL.TE", "Content-Length: 5\r\nTransfer-Encoding: chunked", LengthAndTransferEncoding),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 5", LengthAndTransferEncoding),
        ("CL.TE, CL invalid", "Content-Length: x\r\nTransfer-Encoding: chunked", LengthAndTransferEncoding),
        ("TE.TE two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", TransferEncoding),
        ("TE.TE identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", TransferEncoding),
        ("TE.TE trailing comma", "Transfer-Encoding: chunked,", TransferEncoding),
        ("TE.TE leading comma", "Transfer-Encoding: ,chunked", TransferEncoding),
        ("TE.TE twice", "Transfer-Encoding: chunked, chunked", TransferEncoding),
        ("TE.TE not last", "Transfer-Encoding: chunked, gzip", TransferEncoding),
        ("TE.TE quoted", "Transfer-Encoding: \"chunked\"", TransferEncoding),
        ("TE.TE parameter", "Transfer-Encoding: chunked;q=1", TransferEncoding),
        ("TE.TE empty", "Transfer-Encoding:", TransferEncoding),
        ("TE.TE identity alone", "Transfer-Encoding: identity", TransferEncoding),
        ("TE.TE space inside", "Transfer-Encoding: chunk ed", TransferEncoding),
        ("TE.TE tab inside", "Transfer-Encoding: chunked\tx", TransferEncoding),
        ("TE.TE vertical tab", "Transfer-Encoding: \x0bchunked", ControlByte),
        ("TE.TE unknown", "Transfer-Encoding: xchunked", UnknownTransferCoding),
        ("TE.TE gzip", "Transfer-Encoding: gzip, deflate", UnknownTransferCoding),
        ("TE.TE gzip before chunked", "Transfer-Encoding: gzip, chunked", UnknownTransferCoding),
        ("CL syntax: sign", "Content-Length: +5", ContentLength),
        ("CL syntax: minus", "Content-Length: -5", ContentLength),
        ("CL syntax: hex", "Content-Length: 0x5", ContentLength),
        ("CL syntax: underscore", "Content-Length: 1_0", ContentLength),
        ("CL syntax: empty", "Content-Length:", ContentLength),
        ("CL syntax: spaces", "Content-Length: 1 0", ContentLength),
        ("CL syntax: list", "Content-Length: 5, 5", ContentLength),
        ("CL syntax: overflow", "Content-Length: 18446744073709551616", ContentLength),
        ("CL syntax: digits of another script", "Content-Length: \u{0665}", ContentLength),
        ("CL syntax: differing lines", "Content-Length: 5\r\nContent-Length: 6", ContentLengthRepeated),
        ("CL syntax: identical lines", "Content-Length: 5\r\ncontent-length: 5", ContentLengthRepeated),
    ] {
        refused(row, with(lines), why);
    }
    refused(
        "TE in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        TransferEncodingInHttp10,
    );
    for (lines, body) in [
        ("Transfer-Encoding: chunked", Body::Chunked),
        ("TRANSFER-ENCODING:\tChunked \t", Body::Chunked),
        ("Content-Length: 0", Body::Length(0)),
        ("Content-Length: 0042", Body::Length(42)),
        ("Content-Length:18446744073709551615", Body::Length(u64::MAX)),
        ("X: y", Body::None),
    ] {
        assert_eq!(accepted(with(lines)).1.body, body, "{lines}");
    }
}

#[test]
fn request_line() {
    for (row, line, why) in [
        ("request-line space: two before the target", "GET  / HTTP/1.1", RequestLine),
        ("request-line space: two before the version", "GET /  HTTP/1.1", RequestLine),
        ("request-line space: leading", " GET / HTTP/1.1", RequestLine),
        ("request-line space: trailing", "GET / HTTP/1.1 ", RequestLine),
        ("request-line space: tab", "GET\t/ HTTP/1.1", RequestLine),
        ("request-line space: tab before the version", "GET /\tHTTP/1.1", Target),
        ("request-line space: in the target", "GET /a b HTTP/1.1", RequestLine),
        ("request line: two empty lines before it", "\r\n\r\nGET / HTTP/1.1", RequestLine),
        ("request line: nothing but a method", "GET", RequestLine),
        ("request line: method is no token", "G(T / HTTP/1.1", RequestLine),
        ("request line: no method", "/ HTTP/1.1", RequestLine),
        ("HTTP/0.9", "GET /", Http09),
        ("HTTP/0.9 with space", "GET / ", RequestLine),
        ("version 2.0", "GET / HTTP/2.0", Version),
        ("version 1.2", "GET / HTTP/1.2", Version),
        ("version 0.9", "GET / HTTP/0.9", Version),
        ("version: lower case", "GET / http/1.1", RequestLine),
        ("version: too long", "GET / HTTP/1.10", RequestLine),
        ("version: short", "GET / HTTP/1", RequestLine),
        ("version: leading zero", "GET / HTTP/01.1", RequestLine),
        ("# in target", "GET /a#b HTTP/1.1", Fragment),
        ("# in target of a host", "GET http://a#b/ HTTP/1.1", Fragment),
        ("target: no slash", "GET a/b HTTP/1.1", Target),
        ("target: other scheme", "GET ftp://a/ HTTP/1.1", Target),
        ("target: scheme without authority", "GET http:/a HTTP/1.1", Target),
        ("target: asterisk", "GET * HTTP/1.1", AsteriskTarget),
        ("target: outside ASCII", "GET /\u{e9} HTTP/1.1", Target),
        ("target: DEL", "GET /\x7f HTTP/1.1", Target),
        ("target: NUL", "GET /\0 HTTP/1.1", Nul),
        ("target: bare CR", "GET /\rx HTTP/1.1", BareCr),
        ("target: bare LF", "GET /\nHTTP/1.1", BareLf),
        ("CONNECT: path", "CONNECT / HTTP/1.1", ConnectTarget),
        ("CONNECT: no port", "CONNECT a HTTP/1.1", ConnectTarget),
        ("CONNECT: absolute", "CONNECT http://a/ HTTP/1.1", ConnectTarget),
        ("huge method", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1", MethodTooLong),
        ("userinfo in target", "GET http://u@a/ HTTP/1.1", HostInvalid),
        ("empty authority in target", "GET http:///x HTTP/1.1", HostInvalid),
        ("invalid port in target", "GET http://a:x/ HTTP/1.1", HostInvalid),
    ] {
        refused(row, format!("{line}\r\nHost: a\r\n\r\n"), why);
    }
    refused("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", TlsOnPlainPort);
    refused("HTTP/2 where HTTP/1.1 is expected", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", AsteriskTarget);
    // One empty line is tolerated, as RFC 9112 2.2 asks.
    assert_eq!(accepted("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").1.head_len, 29);
}

#[test]
fn line_ends_and_control_bytes() {
    for (row, bytes, why) in [
        ("bare LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", BareLf),
        ("bare LF after a field", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", BareLf),
        ("bare LF as the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", BareLf),
        ("bare LF in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\nY: z\r\n\r\n", BareLf),
        ("bare LF before all", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BareLf),
        ("bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", BareCr),
        ("bare CR, CR LF", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n", BareCr),
        ("bare CR in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\rY: a\r\n\r\n", BareCr),
        ("bare CR as the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\rX", BareCr),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Nul),
        ("NUL in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n", Nul),
        ("control byte in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", ControlByte),
        ("DEL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", ControlByte),
    ] {
        refused(row, bytes, why);
    }
}

#[test]
fn field_lines() {
    for (row, lines, why) in [
        ("header name: space before the colon", "X : y", SpaceBeforeColon),
        ("header name: tab before the colon", "X\t: y", SpaceBeforeColon),
        ("header name: empty", ": y", FieldName),
        ("header name: no colon", "XY", FieldName),
        ("header name: not a token", "X(Y): z", FieldName),
        ("header name: outside ASCII", "X\u{e9}: z", FieldName),
        ("header name: space inside", "X Y: z", SpaceBeforeColon),
        ("obs-fold", "X: y\r\n z", FoldedLine),
        ("obs-fold with tab", "X: y\r\n\tz", FoldedLine),
        ("obs-fold of framing", "X: y\r\n Transfer-Encoding: chunked", FoldedLine),
        ("Expect: other", "Expect: 200-ok", Expectation),
        ("Expect: list", "Expect: 100-continue, x", Expectation),
        ("Expect: twice", "Expect: 100-continue\r\nExpect: 100-continue", Expectation),
        ("Expect: empty", "Expect:", Expectation),
        ("Upgrade with CL", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5", UpgradeWithBody),
        ("Upgrade with TE", "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked", UpgradeWithBody),
    ] {
        refused(row, with(lines), why);
    }
    refused("leading space on the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", FoldedLine);
}

#[test]
fn hosts() {
    for (row, head, why) in [
        ("Host: missing", "GET / HTTP/1.1\r\n", HostMissing),
        ("Host: missing with an absolute target", "GET http://a/ HTTP/1.1\r\n", HostMissing),
        ("Host: two", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n", HostRepeated),
        ("Host: two alike", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n", HostRepeated),
        ("Host: two in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n", HostRepeated),
        ("Host: empty", "GET / HTTP/1.1\r\nHost:\r\n", HostInvalid),
        ("Host: userinfo", "GET / HTTP/1.1\r\nHost: u@a\r\n", HostInvalid),
        ("Host: list", "GET / HTTP/1.1\r\nHost: a, b\r\n", HostInvalid),
        ("Host: path", "GET / HTTP/1.1\r\nHost: a/b\r\n", HostInvalid),
        ("Host: port", "GET / HTTP/1.1\r\nHost: a:b\r\n", HostInvalid),
        ("Host: percent", "GET / HTTP/1.1\r\nHost: a%2eb\r\n", HostInvalid),
        ("Host: differs from the target", "GET http://a/ HTTP/1.1\r\nHost: b\r\n", HostMismatch),
        ("Host: other port than the target", "GET http://a/ HTTP/1.1\r\nHost: a:8080\r\n", HostMismatch),
        ("Host: default port of another scheme", "GET https://a/ HTTP/1.1\r\nHost: a:80\r\n", HostMismatch),
        ("Host: differs from CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: b:443\r\n", HostMismatch),
    ] {
        refused(row, format!("{head}\r\n"), why);
    }
}

#[test]
fn a_connect_with_content_is_refused() {
    refused("CONNECT with CL", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 1\r\n\r\n", ConnectWithBody);
}

#[test]
fn underscore_aliases() {
    let head = with("X_User: evil\r\nX-User: me\r\nTransfer_Encoding: chunked");
    let (request, meta) = accepted(&head);
    assert_eq!((request.fields.len(), meta.body), (1, Body::None));
    let refuse = Limits { underscore: Underscore::Refuse, ..Limits::default() };
    assert_eq!(read_request_within(head.as_bytes(), &refuse).map(|_| ()), Err(UnderscoreInName));
    let keep = Limits { underscore: Underscore::Keep, ..Limits::default() };
    let (request, meta) = read_request_within(head.as_bytes(), &keep).expect("well-formed").expect("complete");
    assert_eq!((request.fields.len(), meta.body), (3, Body::None));
    assert_eq!(request.fields.first_named(&named("x_user")), Some(&b"evil"[..]));
    let unknown = Limits { underscore: Underscore::KeepUnknown, ..Limits::default() };
    let head = with("user_id: 7\r\nTransfer_Encoding: chunked\r\nX-FORWARDED_FOR: 1.2.3.4\r\ncontent_Length: 9");
    let (request, meta) = read_request_within(head.as_bytes(), &unknown).expect("well-formed").expect("complete");
    assert_eq!((request.fields.len(), meta.body), (1, Body::None));
    assert_eq!(request.fields.first_named(&named("user_id")), Some(&b"7"[..]));
}

#[test]
fn limits_hold_whatever_follows() {
    let limits = Limits { request_line: 64, head_bytes: 256, fields: 4, ..Limits::default() };
    let line = |length: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(length - 14));
    let read = |text: &str| read_request_within(text.as_bytes(), &limits).map(|answer| answer.is_some());

    assert_eq!(read(&format!("{}Host: a\r\n\r\n", line(64))), Ok(true));
    assert_eq!(read(&format!("{}Host: a\r\n\r\n", line(65))), Err(RequestLineTooLong));
    assert_eq!(read(&format!("GET /{}", "a".repeat(90))), Err(RequestLineTooLong));
    assert_eq!(read(&format!("GET /{}\0", "a".repeat(90))), Err(RequestLineTooLong));
    assert_eq!(read(&format!("\r\n{}Host: a\r\n\r\n", line(64))), Ok(true));

    let head = |length: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(length - 32));
    assert_eq!(read(&head(256)), Ok(true));
    assert_eq!(read(&head(257)), Err(HeadTooLarge));
    assert_eq!(read(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(300))), Err(HeadTooLarge));

    assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n"), Ok(true));
    assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\n"), Err(TooManyFields));
    assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\nA_: 1\r\nB_: 2\r\nC_: 3\r\nD_: 4\r\n\r\n"), Err(TooManyFields));

    let options = "a,".repeat(65);
    assert_eq!(read(&format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {options}\r\n\r\n")), Err(ConnectionOptions));
}

#[test]
fn hop_by_hop_abuse() {
    let (mut request, _) = accepted(with(
        "Connection: close, X-Own, Transfer-Encoding, Host, Authorization, X-Forwarded-For, Forwarded, TE\r\n\
         Connection: x-other, Content-Length, Cookie, X-Request-Id, traceparent\r\n\
         X-Own: 1\r\nX-Other: 2\r\nx-own: 3\r\nX-Kept: 4\r\nAuthorization: Basic x\r\nX-Forwarded-For: 1.2.3.4\r\n\
         Forwarded: for=a\r\nCookie: a=b\r\nX-Request-Id: 7\r\ntraceparent: 00\r\nContent-Length: 3\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nTE: gzip, trailers\r\nProxy-Authorization: x\r\n\
         HTTP2-Settings: AAA\r\nUpgrade: h2c",
    ));
    let stripped = strip_hop_by_hop(&mut request.fields);
    assert_eq!(stripped, Stripped { upgrade: None, te_trailers: true, close: true });
    let left: Vec<String> =
        request.fields.iter().map(|(name, value)| format!("{}={}", name.as_str(), value.escape_ascii())).collect();
    assert_eq!(
        left,
        [
            "X-Kept=4",
            "Authorization=Basic x",
            "X-Forwarded-For=1.2.3.4",
            "Forwarded=for=a",
            "Cookie=a=b",
            "X-Request-Id=7",
            "traceparent=00",
            "Content-Length=3",
            "TE=trailers",
        ]
    );
    assert_eq!(request.authority(), b"a");
}

#[test]
fn h2c_upgrade_is_no_upgrade() {
    let lines = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nContent-Length: 4";
    let (mut request, meta) = accepted(with(lines));
    assert_eq!((meta.upgrade, meta.body), (false, Body::Length(4)));
    assert_eq!(strip_hop_by_hop(&mut request.fields), Stripped::default());
    assert_eq!(request.fields.len(), 1);

    let (mut request, meta) = accepted(with("Connection: Upgrade\r\nUpgrade: h2c, WebSocket"));
    assert!(meta.upgrade);
    let stripped = strip_hop_by_hop(&mut request.fields);
    assert_eq!(stripped.upgrade, Protocol::new(b"WebSocket"));
    assert!(stripped.upgrade.is_some_and(|protocol| Protocol::new(b"websocket").is_some_and(|p| p.matches(&protocol))));

    assert!(!accepted(with("Upgrade: websocket")).1.upgrade, "no Connection: upgrade");
    let old = "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(!accepted(old).1.upgrade, "HTTP/1.0 has no Upgrade");
}

#[test]
fn invalid_responses() {
    let response = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n");
    for (row, bytes, why) in [
        ("status line: two digits", "HTTP/1.1 20 OK\r\n\r\n".to_owned(), StatusLine),
        ("status line: four digits", "HTTP/1.1 2000 OK\r\n\r\n".to_owned(), StatusLine),
        ("status line: letters", "HTTP/1.1 abc OK\r\n\r\n".to_owned(), StatusLine),
        ("status line: below 100", "HTTP/1.1 099 OK\r\n\r\n".to_owned(), StatusLine),
        ("status line: two spaces", "HTTP/1.1  200 OK\r\n\r\n".to_owned(), StatusLine),
        ("status line: leading space", " HTTP/1.1 200 OK\r\n\r\n".to_owned(), StatusLine),
        ("status line: leading empty line", "\r\nHTTP/1.1 200 OK\r\n\r\n".to_owned(), StatusLine),
        ("status line: garbage", "<html>hello</html>\r\n\r\n".to_owned(), StatusLine),
        ("status line: version 2", "HTTP/2.0 200 OK\r\n\r\n".to_owned(), StatusLine),
        ("status line: version 1.7", "HTTP/1.7 200 OK\r\n\r\n".to_owned(), Version),
        ("status line: tab", "HTTP/1.1\t200 OK\r\n\r\n".to_owned(), StatusLine),
        ("status line: bare LF", "HTTP/1.1 200 OK\nX: y\r\n\r\n".to_owned(), BareLf),
        ("status line: NUL in the reason", "HTTP/1.1 200 O\0K\r\n\r\n".to_owned(), Nul),
        ("status line: bare CR in the reason", "HTTP/1.1 200 O\rK\r\n\r\n".to_owned(), BareCr),
        ("duplicate CL", response("Content-Length: 5\r\nContent-Length: 5"), ContentLengthRepeated),
        ("CL + TE", response("Content-Length: 5\r\nTransfer-Encoding: chunked"), LengthAndTransferEncoding),
        ("CL invalid", response("Content-Length: -5"), ContentLength),
        ("TE unknown", response("Transfer-Encoding: gzip, chunked"), UnknownTransferCoding),
        ("TE not last", response("Transfer-Encoding: chunked, gzip"), TransferEncoding),
        ("obs-fold", response("X: y\r\n z"), FoldedLine),
        ("bare LF", response("X: y\nZ: a"), BareLf),
        ("space before the colon", response("X : y"), SpaceBeforeColon),
        (
            "TE in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            TransferEncodingInHttp10,
        ),
    ] {
        match read_response(&bytes, Method::Get) {
            Err(found) if found == why => {}
            other => panic!("{row}: {other:?} instead of {why:?}"),
        }
    }
}
