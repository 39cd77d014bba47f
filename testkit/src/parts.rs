//! Programs that a test needs beside the product, and that a machine may lack.
//!
//! Called by tests that play with real peers of other languages. What is there is theirs to find out.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Says that the machine lacks a part, so that the test is skipped. Written past the test runner, which would keep it to itself.
///
/// # Panics
/// Under `TRANSEPT_REQUIRE_ALL=1`, where nothing may be skipped.
pub fn lacks(part: &str) {
    assert!(std::env::var("TRANSEPT_REQUIRE_ALL").as_deref() != Ok("1"), "{part} is not installed");
    skips(&format!("{part} is not installed"));
}

/// Says why a test is skipped, for a reason that nothing to be installed would mend. Written past the test runner, as of [`lacks`].
pub fn skips(why: &str) {
    // Nobody listens when this fails.
    let _ = std::io::stderr().write_all(format!("skipped: {why}\n").as_bytes());
}

/// The Python with the packages that `.ci/run` installs, else that of the system, which may have them too.
pub fn python() -> PathBuf {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let own = Path::new(&home).join(".cache/transept-tools/venv/bin/python");
    if own.is_file() { own } else { "python3".into() }
}
