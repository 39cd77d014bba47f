//! An authority: what is accepted is made of a host and a port that can be put together again, and nothing else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_wire::head::Request;
use transept_wire::normalize::{Authority, authority, host_lower};

fuzz_target!(|raw: &[u8]| {
    let parsed = authority(raw);
    let mut request = Request::new();
    assert_eq!(request.set_authority(raw).is_ok(), raw.is_empty() || parsed.is_ok());
    let Ok(Authority { host, port }) = parsed else {
        return;
    };
    assert_eq!(request.authority(), raw);
    assert!(raw.starts_with(host) && !host.is_empty() && raw.is_ascii());
    assert!(raw.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte)));

    let again = match port {
        Some(port) => [host, b":", port.to_string().as_bytes()].concat(),
        None => host.to_vec(),
    };
    assert_eq!(authority(&again), Ok(Authority { host, port }));

    let (mut first, mut second) = (Vec::new(), Vec::new());
    let lower = host_lower(host, &mut first);
    assert!(!lower.is_empty() && !lower.bytes().any(|byte| byte.is_ascii_uppercase()));
    assert_eq!(host_lower(lower.as_bytes(), &mut second), lower);
    assert!(!lower.ends_with('.'));
    // The url of such a host names the same host.
    assert_eq!(authority(lower.as_bytes()).map(|parts| parts.port), Ok(None));
});
