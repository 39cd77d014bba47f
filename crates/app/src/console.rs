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

/// What others have said, for people to read: control characters, ends of lines and what turns the direction of text around become escapes, so that it
/// can neither write to the terminal nor look like something else.
pub(crate) fn harmless(value: &Value) -> Value {
    match value {
        Value::String(text) => plain(text).into(),
        Value::Array(all) => all.iter().map(harmless).collect(),
        Value::Object(all) => all.iter().map(|(name, value)| (plain(name), harmless(value))).collect(),
        other => other.clone(),
    }
}

fn plain(text: &str) -> String {
    let is_harmful = |one: char| {
        one.is_control()
            || matches!(one, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{e0000}'..='\u{e007f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut out = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            one if is_harmful(one) => out.extend(one.escape_unicode()),
            one => out.push(one),
        }
    }
    out
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_have_said_does_not_write_to_the_terminal() {
        let said = json!({"a\u{1b}[2Jb": ["c\nd", {"e": "\u{202e}f\u{9b}2J"}, 7, null], "name": "Müller, 1 – 2 …"});
        let shown =
            json!({"a\\u{1b}[2Jb": ["c\\u{a}d", {"e": "\\u{202e}f\\u{9b}2J"}, 7, null], "name": "Müller, 1 – 2 …"});
        assert_eq!(harmless(&said), shown);
    }
}
