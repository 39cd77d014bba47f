//! What a person sees: standard output for results, standard error for messages, colours only where they are wanted.
//!
//! Called by the subcommands. `anstream` decides about colours (a terminal, `NO_COLOR`, `CLICOLOR_FORCE`). Records of a running
//! process are the job of `logging`.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::Value;

/// Bold.
pub(crate) const BOLD: &str = "\x1b[1m";
/// Bold red: an error.
pub(crate) const RED: &str = "\x1b[1;31m";
/// Bold green: a success.
pub(crate) const GREEN: &str = "\x1b[1;32m";
/// Bold yellow: something to look at.
pub(crate) const YELLOW: &str = "\x1b[1;33m";
/// Faint: what one reads only when looking for it.
pub(crate) const FAINT: &str = "\x1b[2m";
/// Back to normal.
pub(crate) const PLAIN: &str = "\x1b[0m";

/// Writes a result to standard output.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes a JSON result to standard output, indented.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// Writes a YAML result to standard output.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print_yaml(value: &Value) -> Result<()> {
    print(&serde_saphyr::to_string(value)?)
}

/// Writes a message to standard error; a closed standard error is nobody's loss.
pub(crate) fn tell(text: &str) {
    let mut out = anstream::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"));
}

/// Writes an error message to standard error.
pub(crate) fn fail(text: &str) {
    tell(&format!("{RED}error{PLAIN}{BOLD}:{PLAIN} {text}"));
}

/// Tells whether a command ended because the reader of its output has gone, as in `transept schema | head`.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
