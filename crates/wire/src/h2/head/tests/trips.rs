//! Properties: what is written is read back as what it was, and no bytes break the readers.

use super::*;
use crate::h1::Body;
use proptest::prelude::*;

const TOKEN: &str = "[a-zA-Z0-9!#$%&'*+.^`|~-]{1,12}";
const VALUE: &str = "([!-~\u{e9}]([ -~\t]{0,20}[!-~])?)?";

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop_oneof![
        6 => TOKEN.prop_map(|name: String| name),
        4 => prop::sample::select(vec![
            "Accept", "Cache-Control", "User-Agent", "Authorization", "Set-Cookie", "Accept-Encoding", "X-Request-Id",
            "Grpc-Status", "Connection", "Host", "Keep-Alive", "Transfer-Encoding", "TE", "Vary",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec((name, VALUE), 0..12)
}

fn filled(fields: &[(String, String)], into: &mut Fields) {
    for (name, value) in fields {
        into.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
    }
}

/// The fields that a writer copies.
fn copied(fields: &Fields) -> Fields {
    let mut copied = fields.clone();
    copied.retain(|name, _| {
        let never = ["connection", "host", "keep-alive", "transfer-encoding", "te", "content-length", "http2-settings"];
        !never.iter().any(|never| name.as_str().eq_ignore_ascii_case(never))
    });
    copied
}

proptest! {
    #[test]
    fn requests_are_read_as_written(
        method in "(GET|POST|OPTIONS|[A-Z]{1,10})",
        path in "(/[a-zA-Z0-9.%~_-]{0,60}){1,4}",
        query in prop::option::of("[!-\"$-~]{0,12}"),
        lines in fields(),
        length in prop::option::of(any::<u64>()),
    ) {
        prop_assume!(method != "CONNECT");
        let mut request = Request::build(&method, "https", "ex.com:8080", &path).expect("a request");
        request.set_query(query.as_deref().map(str::as_bytes)).expect("a query");
        filled(&lines, &mut request.fields);
        let body = length.map_or(Body::Chunked, Body::Length);
        let mut out = Vec::new();
        write_request(&mut Encoder::new(), &request, &body, &mut out);

        let mut read = Request::new();
        let head = read_request(&mut Decoder::new(4096), &out, &ROOMY, &mut read).expect("well-formed");
        prop_assert_eq!(head, RequestHead { length, expect_continue: false });
        prop_assert_eq!((read.method, read.scheme(), read.authority()), (request.method, &b"https"[..], request.authority()));
        prop_assert_eq!(read.target(), request.target());
        prop_assert_eq!(copied(&read.fields), copied(&request.fields));
        prop_assert!(read.fields.iter().all(|(name, _)| !name.as_str().bytes().any(|byte| byte.is_ascii_uppercase())));
        // And once more: what was read is written as it was.
        let mut again = Vec::new();
        write_request(&mut Encoder::new(), &read, &body, &mut again);
        prop_assert_eq!(again, out);
    }

    #[test]
    fn responses_are_read_as_written(status in 102u16..=999, lines in fields(), trailers in fields()) {
        let mut response = Response::new(status);
        filled(&lines, &mut response.fields);
        let mut out = Vec::new();
        write_response(&mut Encoder::new(), &response, &mut out);
        let mut read = Response::default();
        prop_assert_eq!(read_response(&mut Decoder::new(0), &out, &ROOMY, &mut read), Ok(None));
        prop_assert_eq!(read.status, status);
        prop_assert_eq!(copied(&read.fields), copied(&response.fields));

        let mut fields = Fields::new();
        filled(&trailers, &mut fields);
        fields.retain(|name, _| crate::h1::may_trail(name.id));
        out.clear();
        write_trailers(&mut Encoder::new(), &fields, &mut out);
        let mut read = Fields::new();
        prop_assert_eq!(read_trailers(&mut Decoder::new(0), &out, &ROOMY, &mut read), Ok(()));
        prop_assert_eq!(read, fields);
    }

    /// Whatever form of a field a peer chooses, the head is the same.
    #[test]
    fn forms_make_no_difference(
        lines in prop::collection::vec(("[a-z-]{1,9}", VALUE, 0usize..4), 0..12),
    ) {
        let mut decoder = Decoder::new(4096);
        let mut plain = block(&GET);
        let mut mixed = block(&GET);
        let mut kept: Vec<(&str, &str)> = Vec::new();
        for (name, value, form) in &lines {
            let line = [(name.as_bytes(), value.as_bytes())];
            plain.extend(literals(0x00, line));
            match kept.iter().rev().position(|known| *known == (name, value)) {
                Some(place) => mixed.push(0x80 | (62 + place) as u8),
                None if *form == 0 => mixed.extend(literals(0x10, line)),
                None => {
                    mixed.extend(literals(0x40, line));
                    kept.push((name, value));
                }
            }
        }
        let (mut first, mut second) = (Request::new(), Request::new());
        let read = read_request(&mut Decoder::new(0), &plain, &ROOMY, &mut first);
        prop_assert_eq!(read_request(&mut decoder, &mixed, &ROOMY, &mut second), read);
        if read.is_ok() {
            prop_assert_eq!(first, second);
        }
    }

    #[test]
    fn no_bytes_break_the_readers(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::new(4096);
        let _read = read_request(&mut decoder, &bytes, &ROOMY, &mut Request::new());
        let _read = read_response(&mut decoder, &bytes, &ROOMY, &mut Response::default());
        let _read = read_trailers(&mut decoder, &bytes, &ROOMY, &mut Fields::new());
    }
}
