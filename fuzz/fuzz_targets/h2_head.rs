//! Heads of HTTP/2: what is accepted holds nothing that HTTP/1.1 could misread, and written again it reads as what it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_wire::h1::{self, Body};
use transept_wire::h2::head::{
    Connect, HeadLimits, RequestHead, Underscore, Unreadable, discard, read_request, read_response, read_trailers,
    write_request, write_response, write_trailers,
};
use transept_wire::h2::hpack::{Decoder, Encoder};
use transept_wire::head::{FieldId, Fields, Method, Request, Response};

const ROOMY: HeadLimits =
    HeadLimits { bytes: 1 << 24, fields: 1 << 16, connect: Connect::Refused, underscore: Underscore::Drop };

// The input is a choice of limits, and blocks behind a byte with what they are and one with their length.
fuzz_target!(|input: &[u8]| {
    let Some((&choice, mut rest)) = input.split_first() else {
        return;
    };
    let small = HeadLimits { bytes: 512, fields: 4, connect: Connect::Refused, underscore: Underscore::Drop };
    let limits = if choice % 4 == 0 {
        small
    } else {
        HeadLimits { bytes: 64 * 1024, fields: 100, connect: Connect::Refused, underscore: Underscore::Drop }
    };
    let mut decoder = Decoder::new(4096);
    // Reads the same blocks without looking at them: what is refused must not matter to the table.
    let mut blind = Decoder::new(4096);
    let mut request = Request::new();
    let mut response = Response::default();
    let mut fields = Fields::new();
    while let [kind, length, after @ ..] = rest {
        let (block, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        let fault = match kind % 3 {
            0 => {
                let read = read_request(&mut decoder, block, &limits, &mut request);
                if let Ok(head) = read {
                    check_request(&request, head, &limits);
                }
                read.err()
            }
            1 => {
                let read = read_response(&mut decoder, block, &limits, &mut response);
                if let Ok(length) = read {
                    check_response(&response, length, &limits);
                }
                read.err()
            }
            _ => {
                let read = read_trailers(&mut decoder, block, &limits, &mut fields);
                if read.is_ok() {
                    check_trailers(&fields, &limits);
                }
                read.err()
            }
        };
        let compression = fault == Some(Unreadable::Compression);
        assert_eq!(discard(&mut blind, block).is_err(), compression);
        if compression {
            return;
        }
    }
});

fn check_fields(fields: &Fields, limits: &HeadLimits) {
    assert!(fields.len() <= limits.fields);
    for (name, value) in fields {
        let name = name.as_str().as_bytes();
        assert!(!name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b':'));
        assert!(!name.iter().any(u8::is_ascii_uppercase));
        assert!(!value.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)));
        assert_eq!(value, value.trim_ascii());
    }
    for id in [FieldId::HOST, FieldId::CONNECTION, FieldId::TRANSFER_ENCODING, FieldId::UPGRADE, FieldId::KEEP_ALIVE] {
        assert!(!fields.contains(id));
    }
    assert!(fields.all(FieldId::TE).all(|value| value.eq_ignore_ascii_case(b"trailers")));
    assert!(fields.all(FieldId::CONTENT_LENGTH).count() <= 1);
}

/// Lines that the writer has its own idea of.
fn without_rewritten(fields: &Fields) -> Fields {
    let mut kept = fields.clone();
    for id in [FieldId::CONTENT_LENGTH, FieldId::TE, FieldId::HTTP2_SETTINGS] {
        kept.remove_id(id);
    }
    kept
}

fn check_request(request: &Request, head: RequestHead, limits: &HeadLimits) {
    check_fields(&request.fields, limits);
    assert!(request.fields.all(FieldId::COOKIE).count() <= 1);
    assert!(request.fields.iter().all(|(name, _)| !name.as_str().contains('_')));
    assert!(request.target().iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#'));
    assert!(request.path().starts_with(b"/") || (request.path() == b"*" && request.method == Method::Options));
    assert!(!request.authority().is_empty() && !request.authority().contains(&b'@'));
    assert_eq!(request.protocol().is_some(), request.method == Method::Connect);

    let body = head.length.map_or(Body::None, Body::Length);
    let mut out = Vec::new();
    write_request(&mut Encoder::new(), request, &body, &mut out);
    let mut read = Request::new();
    let again = read_request(&mut Decoder::new(0), &out, &ROOMY, &mut read).expect("well-formed");
    assert_eq!(again, head);
    assert_eq!((read.method, read.protocol()), (request.method, request.protocol()));
    assert_eq!((read.target(), read.authority()), (request.target(), request.authority()));
    assert_eq!(without_rewritten(&read.fields), without_rewritten(&request.fields));
    // What HTTP/1.1 makes of it is what HTTP/2 made of it.
    if request.method != Method::Connect && request.target().len() < 4096 {
        let mut out = Vec::new();
        h1::write_request(&mut out, request, &body, h1::Connection::KeepAlive);
        let limits = h1::Limits { head_bytes: 1 << 24, fields: 1 << 16, ..h1::Limits::default() };
        let mut read = Request::new();
        let meta = h1::parse_request(&out, &limits, &mut read).expect("well-formed").expect("complete");
        assert_eq!(meta.head_len, out.len());
        assert_eq!(
            (read.method, read.target(), read.authority()),
            (request.method, request.target(), request.authority())
        );
    }
}

fn check_response(response: &Response, length: Option<u64>, limits: &HeadLimits) {
    check_fields(&response.fields, limits);
    assert!(matches!(response.status, 100 | 102..=999));
    let mut out = Vec::new();
    write_response(&mut Encoder::new(), response, &mut out);
    let mut read = Response::default();
    let again = read_response(&mut Decoder::new(0), &out, &ROOMY, &mut read).expect("well-formed");
    assert_eq!(again, length.filter(|_| response.status >= 200 && response.status != 204));
    assert_eq!(read.status, response.status);
    assert_eq!(without_rewritten(&read.fields), without_rewritten(&response.fields));
}

fn check_trailers(fields: &Fields, limits: &HeadLimits) {
    check_fields(fields, limits);
    assert!(fields.iter().all(|(name, _)| h1::may_trail(name.id)));
    let mut out = Vec::new();
    write_trailers(&mut Encoder::new(), fields, &mut out);
    let mut read = Fields::new();
    read_trailers(&mut Decoder::new(0), &out, &ROOMY, &mut read).expect("well-formed");
    assert_eq!(&read, fields);
}
