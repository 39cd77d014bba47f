//! Cookies that a browser shows: ours are found and removed, those of the site stay as they are, and nothing is opened that was not sealed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_engine::login::probe;

fuzz_target!(|field: &[u8]| assert!(probe(field)));
