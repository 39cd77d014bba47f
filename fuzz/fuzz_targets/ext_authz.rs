//! The answer of an external authorization service over gRPC: one message with its prefix, and nothing lets pass that does not say so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_engine::ext_authz::probe;

fuzz_target!(|raw: &[u8]| {
    // Whatever lets pass is framed as one message that is not compressed, and is not empty.
    if probe(raw) {
        assert!(raw.len() > 5 && raw[0] == 0);
        assert_eq!(u32::from_be_bytes([raw[1], raw[2], raw[3], raw[4]]) as usize, raw.len() - 5);
    }
});
