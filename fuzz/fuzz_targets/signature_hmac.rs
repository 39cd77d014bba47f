//! What a client says about a signature in `Authorization`: what is read is read again, and what was signed has a line for each component.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_engine::signature::hmac::probe;
use transept_wire::head::Request;

fuzz_target!(|raw: &[u8]| {
    let mut request = Request::build("POST", "https", "example.com", "/foo?param=Value&Pet=dog").expect("a request");
    for (name, value) in [("date", "Tue, 20 Apr 2021 02:07:55 GMT"), ("x-two", "a"), ("x-two", "b=1, c")] {
        request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
    }
    assert!(probe(raw, &request));
});
