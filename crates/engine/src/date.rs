//! Dates of HTTP, as they are read. Called by `judge` for `Retry-After`, and by the HMAC scheme for the time of a signature; what a date means there is decided there.

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;

/// A date of HTTP (RFC 9110 section 5.6.7) in the form that is still in use, since the Unix epoch.
pub(crate) fn read(text: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix(" GMT")?;
    let stamp = DateTimeParser::new().parse_timestamp(format!("{text} +0000")).ok()?;
    u64::try_from(stamp.as_second()).ok().map(Duration::from_secs)
}
