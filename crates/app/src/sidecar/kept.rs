//! Small files in the state directory that help at the next start: replaced whole, their owner's alone.
//!
//! Called by `whereabouts` and `leftover`. What cannot be kept is told by them; nothing here is needed for what was promised to anybody.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Replaces a file. The directory is there only with the identity.
///
/// # Errors
/// The file system's.
pub(super) fn put(state: &Path, name: &str, text: &str) -> io::Result<()> {
    let (path, beside) = (state.join(name), state.join(name).with_extension("new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&beside, &path)
}

/// What a file holds; none, when it is not there or not text.
pub(super) fn read(state: &Path, name: &str) -> Option<String> {
    fs::read_to_string(state.join(name)).ok()
}
