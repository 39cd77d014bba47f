//! Durations on the command line: `30s`, `1m30s`, `500ms`, `7d`.

use std::time::Duration;

/// Reads a duration from a flag.
///
/// # Errors
/// One sentence for the user when the text is not a duration, or a negative one.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write for example 30s, 1m30s, 500ms or 7d");
    if text.starts_with(|first: char| first.is_ascii_digit()) && text.ends_with(|last: char| last.is_ascii_digit()) {
        let meant = if text.bytes().all(|digit| digit == b'0') { "30" } else { text };
        return Err(format!("`{text}` has no unit; write for example {meant}s"));
    }
    if let Some(days) = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()) {
        return days.checked_mul(86_400).map(Duration::from_secs).ok_or_else(wrong);
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
        assert_eq!(parse("90d"), Ok(Duration::from_secs(90 * 86_400)));
    }

    #[test]
    fn refuses_with_a_hint() {
        assert!(parse("30").is_err_and(|why| why.contains("30s")));
        assert!(parse("0").is_err_and(|why| why.contains("30s")));
        assert!(parse("soon").is_err());
        assert!(parse("-5s").is_err() && parse("-5d").is_err() && parse("99999999999999999999d").is_err());
    }
}
