//! API keys and names with passwords, wherever a request may hold them: nobody is let in by junk, what is read is what was written, and nothing that
//! was looked at is left in the request that goes on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_engine::policies::probe_credentials;

fuzz_target!(|raw: &[u8]| assert!(probe_credentials(raw)));
