//! A request head: the same answer however it is split, and written again it reads as what it was, in one framing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_wire::h1::{Body, Connection, Limits, RequestMeta, Underscore, parse_request, write_request};
use transept_wire::head::{FieldId, Method, Request};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else {
        return;
    };
    let limits = limits(choice);
    let mut request = Request::new();
    let whole = parse_request(bytes, &limits, &mut request);

    // Whatever a prefix says, the whole says too.
    let mut early = Request::new();
    let prefix = &bytes[..usize::from(choice) * bytes.len() / 255];
    match parse_request(prefix, &limits, &mut early) {
        Ok(None) => assert_eq!(early, Request::new()),
        answer => {
            assert_eq!(answer, whole);
            assert!(answer.is_err() || early == request);
        }
    }
    let Ok(Some(meta)) = whole else { return };
    check_head(&bytes[..meta.head_len], &request, &meta);
    check_rewritten(&request, &meta, &limits);
});

fn limits(choice: u8) -> Limits {
    let underscore =
        [Underscore::Drop, Underscore::Keep, Underscore::KeepUnknown, Underscore::Refuse][usize::from(choice % 4)];
    let small = Limits { request_line: 64, head_bytes: 256, fields: 4, ..Limits::default() };
    Limits { underscore, ..if choice % 7 == 0 { small } else { Limits::default() } }
}

/// What must hold of every head that is accepted.
fn check_head(bytes: &[u8], request: &Request, meta: &RequestMeta) {
    assert!(bytes.ends_with(b"\r\n\r\n"));
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(bytes[at + 1], b'\n'),
            b'\n' => assert_eq!(bytes[at - 1], b'\r'),
            0..=8 | 11..=31 | 127 => panic!("control byte {byte:#x}"),
            _ => {}
        }
    }
    assert!(!bytes.windows(3).any(|window| matches!(window, b"\n \n" | b"\n\t\n")));
    assert!(!request.fields.contains(FieldId::HOST));
    let framings =
        request.fields.all(FieldId::CONTENT_LENGTH).count() + request.fields.all(FieldId::TRANSFER_ENCODING).count();
    assert_eq!(framings, usize::from(meta.body != Body::None));
    assert!(!meta.upgrade || meta.body.is_empty());
    let target = request.target();
    let rooted = target.starts_with(b"/")
        || (request.method == Method::Options && target == b"*")
        || (request.method == Method::Connect && target.is_empty());
    assert!(rooted, "{}", target.escape_ascii());
}

fn check_rewritten(request: &Request, meta: &RequestMeta, limits: &Limits) {
    // HTTP/1.0 may name no host; the proxy supplies one before it writes.
    let mut sent = request.clone();
    if sent.authority().is_empty() {
        sent.set_authority(b"backend").expect("a host");
    }
    let mut out = Vec::new();
    write_request(&mut out, &sent, &meta.body, Connection::KeepAlive);
    let mut read = Request::new();
    let roomy = Limits { request_line: 1 << 20, head_bytes: 1 << 20, fields: 1000, ..*limits };
    let again = parse_request(&out, &roomy, &mut read).expect("well-formed").expect("complete");
    assert_eq!(again.head_len, out.len());
    assert_eq!(again.body.is_empty(), meta.body.is_empty());
    assert!(again.body.is_empty() || again.body == meta.body);
    assert!(again.keep_alive && !again.upgrade);
    assert_eq!((read.method, read.target(), read.authority()), (sent.method, sent.target(), sent.authority()));

    let mut second = Vec::new();
    write_request(&mut second, &read, &again.body, Connection::KeepAlive);
    assert_eq!(second, out);
}
