//! A response head: the same answer however it is split, and written again it reads as what it was, in one framing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_wire::h1::{Body, Connection, Limits, ResponseMeta, parse_response, write_response};
use transept_wire::head::{FieldId, Method, Response, Version};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else {
        return;
    };
    let method = [Method::Get, Method::Head, Method::Connect][usize::from(choice % 3)];
    let limits = Limits::default();
    let mut response = Response::default();
    let whole = parse_response(bytes, &method, &limits, &mut response);

    let mut early = Response::default();
    let prefix = &bytes[..usize::from(choice) * bytes.len() / 255];
    match parse_response(prefix, &method, &limits, &mut early) {
        Ok(None) => assert_eq!(early, Response::default()),
        answer => {
            assert_eq!(answer, whole);
            assert!(answer.is_err() || early == response);
        }
    }
    let Ok(Some(meta)) = whole else { return };
    assert!(bytes[..meta.head_len].ends_with(b"\r\n\r\n"));
    assert!((100..=999).contains(&response.status));
    assert!(!(meta.keep_alive && meta.body == Body::UntilClose));
    let framings =
        response.fields.all(FieldId::CONTENT_LENGTH).count() + response.fields.all(FieldId::TRANSFER_ENCODING).count();
    assert!(framings <= 1);
    check_rewritten(&response, &meta, &method);
});

fn check_rewritten(response: &Response, meta: &ResponseMeta, method: &Method) {
    let mut out = Vec::new();
    write_response(&mut out, response, &meta.announced, Connection::KeepAlive, Version::Http11);
    let roomy = Limits { request_line: 1 << 20, head_bytes: 1 << 20, fields: 1000, ..Limits::default() };
    let mut read = Response::default();
    let again = parse_response(&out, method, &roomy, &mut read).expect("well-formed").expect("complete");
    assert_eq!(again.head_len, out.len());
    assert_eq!(read.status, response.status);
    assert_eq!(again.body, meta.body);
    if response.status != 204 && response.status >= 200 && *method != Method::Connect {
        assert!(again.announced == meta.announced || meta.announced == Body::UntilClose);
    }
}
