//! Durations on the command line: `30s`, `1m30s`, `500ms`.

use std::time::Duration;

/// Reads a duration from a flag.
///
/// # Errors
/// One sentence for the user when the text is not a duration, or a negative one.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write for example 30s, 1m30s or 500ms");
    if text.starts_with(|first: char| first.is_ascii_digit()) && text.ends_with(|last: char| last.is_ascii_digit()) {
        let meant = if text.bytes().all(|digit| digit == b'0') { "30" } else { text };
        return Err(format!("`{text}` has no unit; write for example {meant}s"));
    }
    let duration: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(duration).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn refuses_with_a_hint() {
        assert!(parse("30").is_err_and(|why| why.contains("30s")));
        assert!(parse("0").is_err_and(|why| why.contains("30s")));
        assert!(parse("soon").is_err());
        assert!(parse("-5s").is_err());
    }
}
