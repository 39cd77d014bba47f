//! Every rule of RFC 9113 section 8 that makes a message malformed.

use super::*;
use Malformed as M;

#[track_caller]
fn refused<T: std::fmt::Debug>(read: Result<T, Unreadable>, fault: Malformed, case: &str) {
    match read {
        Err(Unreadable::Refused(Refused::Malformed(why))) => assert_eq!(why, fault, "{case}"),
        other => panic!("{case}: {other:?}"),
    }
}

#[test]
fn lines_that_no_message_may_have() {
    let cases: &[(&str, &str, Malformed)] = &[
        ("X-A", "1", M::UpperCaseName),
        ("x-A", "1", M::UpperCaseName),
        ("Cookie", "a=b", M::UpperCaseName),
        ("Content-length", "1", M::UpperCaseName),
        ("", "1", M::FieldName),
        ("x a", "1", M::FieldName),
        ("x-a ", "1", M::FieldName),
        (" x-a", "1", M::FieldName),
        ("x:a", "1", M::FieldName),
        ("x-a:", "1", M::FieldName),
        ("x\0", "1", M::FieldName),
        ("x\r\ny: 1\r\nx", "1", M::FieldName),
        ("x\x7f", "1", M::FieldName),
        ("x-é", "1", M::FieldName),
        ("x(a)", "1", M::FieldName),
        ("x-a", "1\r\nevil: 1", M::ControlByte),
        ("x-a", "1\n", M::ControlByte),
        ("x-a", "1\r", M::ControlByte),
        ("x-a", "\0", M::ControlByte),
        ("x-a", "a\0b", M::ControlByte),
        ("x-a", "a\x08b", M::ControlByte),
        ("x-a", "a\x7f", M::ControlByte),
        ("x_a", "a\nb", M::ControlByte),
        ("x-a", " 1", M::SpaceAtEdge),
        ("x-a", "1 ", M::SpaceAtEdge),
        ("x-a", "\t1", M::SpaceAtEdge),
        ("x-a", "1\t", M::SpaceAtEdge),
        ("x-a", " ", M::SpaceAtEdge),
        ("cookie", "a=b ", M::SpaceAtEdge),
        ("connection", "close", M::ConnectionField),
        ("connection", "", M::ConnectionField),
        ("keep-alive", "timeout=5", M::ConnectionField),
        ("proxy-connection", "keep-alive", M::ConnectionField),
        ("transfer-encoding", "chunked", M::ConnectionField),
        ("transfer-encoding", "identity", M::ConnectionField),
        ("upgrade", "websocket", M::ConnectionField),
        ("te", "gzip", M::Te),
        ("te", "trailers, gzip", M::Te),
        ("te", "", M::Te),
        ("content-length", "", M::ContentLength),
        ("content-length", "+1", M::ContentLength),
        ("content-length", "-1", M::ContentLength),
        ("content-length", "0x1", M::ContentLength),
        ("content-length", "1_0", M::ContentLength),
        ("content-length", "1, 1", M::ContentLength),
        ("content-length", "18446744073709551616", M::ContentLength),
        (":x", "1", M::PseudoUnknown),
        (":", "1", M::PseudoUnknown),
        (":Method", "GET", M::PseudoUnknown),
        (":host", "a.test", M::PseudoUnknown),
    ];
    for &(name, value, fault) in cases {
        let case = format!("{name:?}: {value:?}");
        refused(read_request_of(&usual_with(&[(name, value)])), fault, &case);
        refused(read_response_of(&[(":status", "200"), (name, value)]), fault, &case);
        refused(read_trailers_of(&[(name, value)]), fault, &case);
    }
}

#[test]
fn requests_that_are_none() {
    let path = |value| (usual_but(":path", value), M::Path);
    let authority = |value| (usual_but(":authority", value), M::HostInvalid);
    let without = |name: &str| GET.into_iter().filter(|(known, _)| *known != name).collect::<Vec<_>>();
    let twice = |line| [&GET[..], &[line]].concat();
    let cases: Vec<(Vec<(&str, &str)>, Malformed)> = vec![
        (Vec::new(), M::MethodMissing),
        (without(":method"), M::MethodMissing),
        (without(":scheme"), M::SchemeMissing),
        (without(":path"), M::PathMissing),
        (without(":authority"), M::HostMissing),
        (twice((":method", "GET")), M::PseudoRepeated),
        (twice((":scheme", "https")), M::PseudoRepeated),
        (twice((":path", "/x?y=z")), M::PseudoRepeated),
        (twice((":authority", "a.test")), M::PseudoRepeated),
        (twice((":status", "200")), M::PseudoMisplaced),
        (vec![("x-a", "1"), (":method", "GET")], M::PseudoLate),
        (vec![GET[0], GET[1], GET[2], ("x_a", "1"), GET[3]], M::PseudoLate),
        (vec![GET[0], GET[1], GET[3], ("host", "a.test"), GET[2]], M::PseudoLate),
        (usual_but(":method", ""), M::Method),
        (usual_but(":method", "G T"), M::Method),
        (usual_but(":method", "GET / HTTP/1.1\r\nx: y"), M::Method),
        (usual_but(":method", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF"), M::Method),
        (usual_but(":scheme", ""), M::Scheme),
        (usual_but(":scheme", "ftp"), M::Scheme),
        (usual_but(":scheme", "https://a.test/?"), M::Scheme),
        (usual_but(":scheme", "http "), M::Scheme),
        (usual_but(":path", "/x#y"), M::Fragment),
        (usual_but(":path", "#"), M::Fragment),
        path(""),
        path("x"),
        path("?x"),
        path("x/y"),
        path("http://b.test/"),
        path("/x y"),
        path("/ HTTP/1.1\r\nhost: b.test"),
        path("/\0"),
        path("/\x7f"),
        path("/\t"),
        path("/é"),
        path("/x?é"),
        path("*?x"),
        path("*x"),
        (usual_but(":path", "*"), M::AsteriskPath),
        authority(""),
        authority("user@a.test"),
        authority("user:secret@a.test:80"),
        authority("a.test/"),
        authority("a.test:x"),
        authority("a test"),
        authority("a.test, b.test"),
        authority("a\r\nb"),
        (usual_with(&[("host", "b.test")]), M::HostMismatch),
        (usual_with(&[("host", "a.test:443")]), M::HostMismatch),
        (usual_with(&[("host", "")]), M::HostMismatch),
        (usual_with(&[("host", "a.test"), ("host", "a.test")]), M::HostRepeated),
        ([&without(":authority")[..], &[("host", "a.test"), ("host", "a.test")]].concat(), M::HostRepeated),
        ([&without(":authority")[..], &[("host", "")]].concat(), M::HostInvalid),
        ([&without(":authority")[..], &[("host", "x@a.test")]].concat(), M::HostInvalid),
        (usual_with(&[("content-length", "1"), ("content-length", "1")]), M::ContentLengthRepeated),
        (usual_with(&[("expect", "something")]), M::Expectation),
        (usual_with(&[("expect", "")]), M::Expectation),
        (usual_with(&[("expect", "100-continue"), ("expect", "100-continue")]), M::Expectation),
    ];
    for (lines, fault) in cases {
        refused(read_request_of(&lines), fault, &format!("{lines:?}"));
    }
}

#[test]
fn connects_that_are_none() {
    let extended = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/chat"),
        (":authority", "a.test"),
    ];
    assert!(read_request_of(&extended).is_ok());
    let without = |name: &str| extended.into_iter().filter(|(known, _)| *known != name).collect::<Vec<_>>();
    let with = |name: &str, value| {
        extended.into_iter().map(|(known, usual)| (known, if known == name { value } else { usual })).collect()
    };
    let cases: Vec<(Vec<(&str, &str)>, Malformed)> = vec![
        (vec![(":method", "CONNECT"), (":authority", "a.test:443")], M::ConnectNotOffered),
        (without(":protocol"), M::ConnectNotOffered),
        (without(":scheme"), M::SchemeMissing),
        (without(":path"), M::PathMissing),
        (without(":authority"), M::HostMissing),
        (with(":protocol", ""), M::Protocol),
        (with(":protocol", "web socket"), M::Protocol),
        (with(":path", "*"), M::AsteriskPath),
        (with(":path", ""), M::Path),
        (with(":method", "GET"), M::ProtocolWithoutConnect),
        (extended.into_iter().chain([extended[1]]).collect(), M::PseudoRepeated),
    ];
    for (lines, fault) in cases {
        refused(read_request_of(&lines), fault, &format!("{lines:?}"));
    }
}

#[test]
fn responses_that_are_none() {
    let status = |value| (vec![(":status", value)], M::Status);
    let cases: Vec<(Vec<(&str, &str)>, Malformed)> = vec![
        (Vec::new(), M::StatusMissing),
        (vec![("x-a", "1")], M::StatusMissing),
        status(""),
        status("20"),
        status("2000"),
        status("099"),
        status("000"),
        status("20x"),
        status("+20"),
        status("200 OK"),
        status("200 "),
        status("101"),
        (vec![(":status", "200"), (":status", "200")], M::PseudoRepeated),
        (vec![("x-a", "1"), (":status", "200")], M::PseudoLate),
        (vec![(":status", "200"), (":path", "/")], M::PseudoMisplaced),
        (vec![(":status", "200"), (":method", "GET")], M::PseudoMisplaced),
        (vec![(":status", "200"), (":protocol", "x")], M::PseudoMisplaced),
        (vec![(":status", "200"), ("content-length", "1"), ("content-length", "2")], M::ContentLengthRepeated),
        (vec![(":status", "200"), ("content-length", "1"), ("content-length", "1")], M::ContentLengthRepeated),
    ];
    for (lines, fault) in cases {
        refused(read_response_of(&lines), fault, &format!("{lines:?}"));
    }
}

#[test]
fn names_with_underscores_may_be_refused() {
    let limits = HeadLimits { underscore: Underscore::Refuse, ..ROOMY };
    let lines = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("user_id", "7")];
    refused(read_request_within(&lines, &limits), M::UnderscoreInName, "user_id");
}

#[test]
fn trailers_have_no_pseudo_fields() {
    for line in [(":status", "200"), (":path", "/"), (":method", "GET"), (":protocol", "x")] {
        refused(read_trailers_of(&[("grpc-status", "0"), line]), M::PseudoInTrailers, line.0);
    }
}

#[test]
fn every_fault_is_one_that_something_has() {
    // What the tables of this file name, and nothing is left.
    let source = include_str!("malformed.rs");
    // Whether there is a body is for the connection to say.
    for fault in Malformed::ALL.iter().filter(|fault| **fault != Malformed::BodyMissing) {
        assert!(source.contains(&format!("M::{fault:?}")), "{fault:?} has no case");
    }
}

#[test]
fn limits_count_every_line() {
    let limits = |bytes, fields| HeadLimits { bytes, fields, connect: Connect::Refused, underscore: Underscore::Drop };
    let read = |lines: &[(&str, &str)], limits| {
        read_request(&mut Decoder::new(4096), &block(lines), &limits, &mut Request::new()).map(|_| ())
    };
    let too_many = Err(Unreadable::Refused(Refused::TooManyFields));
    let too_large = Err(Unreadable::Refused(Refused::TooLarge));
    let crumbs = usual_with(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
    assert_eq!(read(&crumbs, limits(4096, 3)), Ok(()));
    assert_eq!(read(&crumbs, limits(4096, 2)), too_many);
    // What is left out counts too.
    let dropped = usual_with(&[("x_a", "1"), ("host", "a.test")]);
    assert_eq!(read(&dropped, limits(4096, 2)), Ok(()));
    assert_eq!(read(&dropped, limits(4096, 1)), too_many);
    let size: usize = GET.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    assert_eq!(read(&GET, limits(size, 0)), Ok(()));
    assert_eq!(read(&GET, limits(size - 1, 0)), too_large);

    let mut fields = Fields::new();
    let trailers = block(&[("x-a", "1"), ("x-b", "2")]);
    assert_eq!(read_trailers(&mut Decoder::new(0), &trailers, &limits(72, 2), &mut fields), Ok(()));
    assert_eq!(read_trailers(&mut Decoder::new(0), &trailers, &limits(71, 2), &mut fields), too_large);
    assert_eq!(read_trailers(&mut Decoder::new(0), &trailers, &limits(72, 1), &mut fields), too_many);
    let mut response = Response::default();
    let head = block(&[(":status", "200"), ("x-b", "2")]);
    assert_eq!(read_response(&mut Decoder::new(0), &head, &limits(78, 1), &mut response), Ok(None));
    assert_eq!(read_response(&mut Decoder::new(0), &head, &limits(77, 1), &mut response).map(|_| ()), too_large);
    assert_eq!(read_response(&mut Decoder::new(0), &head, &limits(78, 0), &mut response).map(|_| ()), too_many);
}

#[test]
fn a_bomb_is_refused_and_takes_no_memory() {
    // One entry of the table, then a byte for each of thousands of copies.
    let mut decoder = Decoder::new(4096);
    let value = "v".repeat(3000);
    let mut bomb = literals(0x40, [(&b"x-a"[..], value.as_bytes())]);
    bomb.extend(std::iter::repeat_n(0xbe, 16_000));
    let mut request = Request::new();
    let limits = HeadLimits { bytes: 16 * 1024, fields: 100, connect: Connect::Refused, underscore: Underscore::Drop };
    let read = read_request(&mut decoder, &bomb, &limits, &mut request);
    assert_eq!(read, Err(Unreadable::Refused(Refused::TooLarge)));
    assert!(request.fields.text_len() <= limits.bytes, "{}", request.fields.text_len());
}

#[test]
fn a_refused_message_leaves_the_table_in_step() {
    let mut decoder = Decoder::new(4096);
    let mut request = Request::new();
    // The fault comes first, the entries after it.
    let mut first = block(&[("x bad", "1")]);
    first.extend(literals(0x40, [(&b"x-a"[..], &b"1"[..]), (b"x-b", b"2")]));
    assert!(matches!(read_request(&mut decoder, &first, &ROOMY, &mut request), Err(Unreadable::Refused(_))));
    let mut second = block(&GET);
    second.extend([0xbf, 0xbe]);
    read_request(&mut decoder, &second, &ROOMY, &mut request).expect("a request");
    assert_eq!(shown(&request.fields), ["x-a: 1", "x-b: 2"]);
    // And what cannot be decoded is worse than what was refused before it.
    let mut third = block(&[("x bad", "1")]);
    third.push(0x80);
    assert_eq!(read_request(&mut decoder, &third, &ROOMY, &mut request), Err(Unreadable::Compression));
    assert_eq!(discard(&mut Decoder::new(0), &[0x80]), Err(Unreadable::Compression));
}

/// CONNECT to a host has an authority and nothing else (RFC 9113 section 8.5).
#[test]
fn a_tunnel_is_taken_where_it_is_offered() {
    let limits = HeadLimits { connect: Connect::Taken, ..ROOMY };
    let read = |lines: &[(&str, &str)]| {
        let mut request = Request::new();
        read_request(&mut Decoder::new(4096), &block(lines), &limits, &mut request).map(|_| request)
    };
    let request = read(&[(":method", "CONNECT"), (":authority", "10.0.0.1:80")]).expect("a request");
    assert_eq!((request.method, request.authority()), (Method::Connect, &b"10.0.0.1:80"[..]));
    let bare: &[(&str, &str)] = &[(":method", "CONNECT")];
    refused(read(bare), M::HostMissing, "no authority");
    for extra in [(":scheme", "http"), (":path", "/")] {
        refused(read(&[(":method", "CONNECT"), (":authority", "a:1"), extra]), M::ConnectTarget, extra.0);
    }
}
