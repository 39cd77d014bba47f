//! Moments in configuration: when something begins or ends, as RFC 3339 writes it.
//!
//! Used by kinds whose objects have an end of their own. Whether the moment is past is decided by whoever has a clock.

use std::fmt;
use std::time::Duration;

use serde_json::Value as Json;

use crate::schema::{Decoder, Schema, Shape};
use crate::value::{Value, quote};

/// A moment, to the second: `2027-03-01T00:00:00Z`, or with an offset from UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(jiff::Timestamp);

impl Moment {
    /// The moment this long after the Unix epoch, without its fraction of a second. None beyond the year 9999.
    pub fn of_unix(time: Duration) -> Option<Moment> {
        let seconds = i64::try_from(time.as_secs()).ok()?;
        jiff::Timestamp::from_second(seconds).ok().map(Moment)
    }

    /// Reads RFC 3339.
    pub fn parse(text: &str) -> Option<Moment> {
        let moment: jiff::Timestamp = text.parse().ok()?;
        jiff::Timestamp::from_second(moment.as_second()).ok().map(Moment)
    }

    /// The time since the Unix epoch; zero for moments before it.
    pub fn unix(self) -> Duration {
        Duration::from_secs(u64::try_from(self.0.as_second()).unwrap_or(0))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl Schema for Moment {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        let Some(text) = value.text() else {
            cx.expected(value, "a moment");
            return None;
        };
        let moment = Moment::parse(text);
        if moment.is_none() {
            cx.refuse(value.at, format!("{} is not a moment", quote(text)))
                .remedy("write date, time and offset: 2027-03-01T00:00:00Z");
        }
        moment
    }

    fn shape() -> Shape {
        Shape::Text
    }

    fn encode(&self) -> Json {
        self.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_with_its_offset_and_written_in_utc() {
        let moment = Moment::parse("2027-03-01T01:00:00.9+01:00").expect("a moment");
        assert_eq!(moment.to_string(), "2027-03-01T00:00:00Z");
        assert_eq!(Moment::of_unix(moment.unix()), Some(moment));
        for wrong in ["2027-03-01", "tomorrow", "2027-03-01T00:00:00", ""] {
            assert_eq!(Moment::parse(wrong), None, "{wrong}");
        }
    }
}
