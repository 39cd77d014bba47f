//! Properties: what is written is read back as what it was, and in one way only.

use super::*;
use proptest::prelude::*;

const TOKEN: &str = "[a-zA-Z0-9!#$%&'*+.^`|~-]{1,12}";
const VALUE: &str = "([!-~\u{e9}]([ -~\t]{0,20}[!-~])?)?";

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop_oneof![
        8 => TOKEN.prop_map(|name: String| name),
        1 => Just("Content-Length".to_owned()),
        1 => Just("transfer-encoding".to_owned()),
        1 => Just("Connection".to_owned()),
        1 => Just("Host".to_owned()),
        1 => Just("Keep-Alive".to_owned()),
    ];
    prop::collection::vec((name, VALUE), 0..12)
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![Just(Body::None), any::<u64>().prop_map(Body::Length), Just(Body::Chunked)]
}

fn filled(fields: &[(String, String)], into: &mut Fields) {
    for (name, value) in fields {
        into.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
    }
}

/// The fields that a writer copies.
fn copied(fields: &Fields) -> Fields {
    let mut copied = fields.clone();
    for name in ["content-length", "transfer-encoding", "connection", "host", "keep-alive", "proxy-connection"] {
        copied.remove(&named(name));
    }
    for name in ["upgrade", "http2-settings", "te"] {
        copied.remove(&named(name));
    }
    copied
}

proptest! {
    #[test]
    fn requests_are_read_as_written(
        method in "(GET|POST|OPTIONS|[A-Z]{1,10})",
        path in "(/[a-zA-Z0-9.%~_-]{0,8}){1,4}",
        query in prop::option::of("[!-\"$-~]{0,12}"),
        lines in fields(),
        body in body(),
        close in any::<bool>(),
    ) {
        prop_assume!(method != "CONNECT");
        let mut request = Request::build(&method, "http", "ex.com:8080", &path).expect("a request");
        request.set_query(query.as_deref().map(str::as_bytes)).expect("a query");
        filled(&lines, &mut request.fields);
        request.fields.remove(&named("expect"));
        let connection = if close { Connection::Close } else { Connection::KeepAlive };
        let mut out = Vec::new();
        write_request(&mut out, &request, &body, connection);

        let mut read = Request::new();
        let limits = Limits { underscore: Underscore::Keep, ..Limits::default() };
        let meta = parse_request(&out, &limits, &mut read).expect("well-formed").expect("complete");
        prop_assert_eq!(meta.head_len, out.len());
        prop_assert_eq!(meta.keep_alive, !close);
        if body == Body::None {
            prop_assert!(meta.body.is_empty());
        } else {
            prop_assert_eq!(meta.body, body);
        }
        prop_assert_eq!(read.method, request.method);
        prop_assert_eq!(read.target(), request.target());
        prop_assert_eq!(read.authority(), request.authority());
        prop_assert_eq!(copied(&read.fields), copied(&request.fields));
        // Never two framings, whatever the head said.
        let framings = read.fields.all(FieldId::CONTENT_LENGTH).chain(read.fields.all(FieldId::TRANSFER_ENCODING));
        prop_assert!(framings.count() <= 1);

        // And once more: what was read is written as it was.
        let mut again = Vec::new();
        write_request(&mut again, &read, &meta.body, connection);
        prop_assert_eq!(again, out);
    }

    #[test]
    fn responses_are_read_as_written(status in 200u16..=999, lines in fields(), body in body(), close in any::<bool>()) {
        let mut response = Response::new(status);
        filled(&lines, &mut response.fields);
        let connection = if close { Connection::Close } else { Connection::KeepAlive };
        let mut out = Vec::new();
        write_response(&mut out, &response, &body, connection, Version::Http11);
        let mut read = Response::default();
        let meta = parse_response(&out, &Method::Get, &Limits::default(), &mut read).expect("well-formed");
        let meta = meta.expect("complete");
        prop_assert_eq!(meta.head_len, out.len());
        let expected = match (status, body) {
            (204 | 304, _) => Body::None,
            (_, Body::None) => Body::UntilClose,
            (_, body) => body,
        };
        prop_assert_eq!(meta.body, expected);
        prop_assert_eq!(meta.keep_alive, !close && expected != Body::UntilClose);
        prop_assert_eq!(read.status, status);
        prop_assert_eq!(copied(&read.fields), copied(&response.fields));
    }

    #[test]
    fn chunks_are_read_as_written(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
        trailers in prop::collection::vec(("x-[a-z]{1,6}", VALUE), 0..4),
        sizes in prop::collection::vec(1usize..40, 1..30),
    ) {
        let mut fields = Fields::new();
        filled(&trailers, &mut fields);
        let mut out = Vec::new();
        for piece in &pieces {
            write_chunk_start(&mut out, piece.len());
            if !piece.is_empty() {
                out.extend_from_slice(piece);
                write_chunk_end(&mut out);
            }
        }
        write_last_chunk(&mut out, Some(&fields));
        let length = out.len();
        out.extend_from_slice(b"GET / HTTP/1.1\r\n");
        let content = read_body_in(Body::Chunked, &out, &sizes, &Limits::default()).expect("a body");
        prop_assert!(content.done);
        prop_assert_eq!(content.consumed, length);
        prop_assert_eq!(content.data, pieces.concat());
        prop_assert_eq!(content.trailers, fields);
    }

    #[test]
    fn no_bytes_break_the_parsers(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
        let mut framed = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        framed.extend_from_slice(&bytes);
        for bytes in [&bytes, &framed] {
            let _read = read_request(bytes);
            let _read = read_response(bytes, Method::Get);
            let size = cut.index(bytes.len() + 1);
            let whole = read_body_in(Body::Chunked, bytes, &[usize::MAX], &Limits::default());
            prop_assert_eq!(read_body_in(Body::Chunked, bytes, &[size, 1], &Limits::default()), whole);
        }
    }
}
