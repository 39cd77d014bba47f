//! Days, weeks and months in a time zone, from their own beginning or from that of a plan.
//!
//! Pure: the time zones are those in the binary, and the time is told. A period that is known is found with one load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp};
use transept_model::choice;

choice! {
    /// How long a period of a quota is.
    pub enum PeriodLength {
        /// From midnight to midnight.
        Day = "Day",
        /// Seven days, from Monday unless `start` says otherwise.
        Week = "Week",
        /// From the first of a month to the first of the next, or from the day of `start` to the same day of the next month.
        Month = "Month",
    }
}

/// The periods of a quota.
#[derive(Debug)]
pub(crate) struct Periods {
    length: PeriodLength,
    zone: TimeZone,
    /// The first day of some period.
    start: Date,
    /// The last one found: its beginning and its end in minutes since 1970, 32 bits each.
    known: AtomicU64,
}

/// One period, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// When it began.
    pub begin: u64,
    /// When it ends.
    pub end: u64,
}

impl Period {
    /// How long it still lasts.
    pub(crate) fn rest(&self, now: Duration) -> Duration {
        Duration::from_secs(self.end).saturating_sub(now)
    }
}

/// The time zone of this name (IANA), `UTC` among them.
pub(crate) fn zone(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok()
}

/// A day as it is written: `2026-01-31`.
pub(crate) fn day(text: &str) -> Option<Date> {
    (text.len() == 10).then(|| text.parse().ok()).flatten()
}

impl Periods {
    pub(crate) fn new(length: PeriodLength, zone: TimeZone, start: Option<Date>) -> Periods {
        // A Monday, and the first of a month.
        let start = start.unwrap_or(jiff::civil::date(2001, 1, 1));
        Periods { length, zone, start, known: AtomicU64::new(0) }
    }

    /// The period that a moment lies in. None where the calendar ends.
    pub(crate) fn at(&self, unix: Duration) -> Option<Period> {
        let now = unix.as_secs();
        let known = self.known.load(Ordering::Relaxed);
        let period = Period { begin: (known >> 32) * 60, end: (known & 0xffff_ffff) * 60 };
        if (period.begin..period.end).contains(&now) {
            return Some(period);
        }
        let period = self.find(now)?;
        if period.begin % 60 == 0 && period.end % 60 == 0 && period.end / 60 <= 0xffff_ffff {
            self.known.store(((period.begin / 60) << 32) | (period.end / 60), Ordering::Relaxed);
        }
        Some(period)
    }

    fn find(&self, now: u64) -> Option<Period> {
        let moment = Timestamp::from_second(i64::try_from(now).ok()?).ok()?;
        let today = moment.to_zoned(self.zone.clone()).date();
        let (begin, end) = match self.length {
            PeriodLength::Day => (today, today.tomorrow().ok()?),
            PeriodLength::Week => {
                let since = i64::from(today.since(self.start).ok()?.get_days()).rem_euclid(7);
                let begin = today.checked_sub(Span::new().days(since)).ok()?;
                (begin, begin.checked_add(Span::new().days(7)).ok()?)
            }
            PeriodLength::Month => {
                let this = self.in_month(today)?;
                if this <= today {
                    let next = today.first_of_month().checked_add(Span::new().months(1)).ok()?;
                    (this, self.in_month(next)?)
                } else {
                    let last = today.first_of_month().checked_sub(Span::new().months(1)).ok()?;
                    (self.in_month(last)?, this)
                }
            }
        };
        Some(Period { begin: self.seconds(begin)?, end: self.seconds(end)? })
    }

    /// The day of a month on which a period begins: that of `start`, or the last when the month is shorter.
    fn in_month(&self, any: Date) -> Option<Date> {
        let day = self.start.day().min(any.days_in_month());
        Date::new(any.year(), any.month(), day).ok()
    }

    fn seconds(&self, day: Date) -> Option<u64> {
        let moment = day.to_zoned(self.zone.clone()).ok()?.timestamp().as_second();
        Some(u64::try_from(moment).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(length: PeriodLength, zone_name: &str, start: Option<&str>, moment: &str) -> (String, String) {
        let zone = zone(zone_name).expect("a time zone");
        let periods = Periods::new(length, zone.clone(), start.map(|text| day(text).expect("a day")));
        let moment: Timestamp = moment.parse().expect("a moment");
        let now = Duration::from_secs(u64::try_from(moment.as_second()).expect("after 1970"));
        let found = periods.at(now).expect("a period");
        assert_eq!(periods.at(now), Some(found), "the second time it is known");
        let text = |seconds: u64| Timestamp::from_second(seconds as i64).expect("a moment").to_string();
        (text(found.begin), text(found.end))
    }

    fn is(found: (String, String), begin: &str, end: &str) {
        assert_eq!(found, (begin.to_owned(), end.to_owned()));
    }

    #[test]
    fn days_are_as_long_as_their_time_zone_makes_them() {
        let berlin = "Europe/Berlin";
        // 23 hours in spring, 25 in autumn.
        is(
            period(PeriodLength::Day, berlin, None, "2026-03-29T12:00:00Z"),
            "2026-03-28T23:00:00Z",
            "2026-03-29T22:00:00Z",
        );
        is(
            period(PeriodLength::Day, berlin, None, "2026-10-25T12:00:00Z"),
            "2026-10-24T22:00:00Z",
            "2026-10-25T23:00:00Z",
        );
        is(
            period(PeriodLength::Day, "UTC", None, "2026-10-25T00:00:00Z"),
            "2026-10-25T00:00:00Z",
            "2026-10-26T00:00:00Z",
        );
    }

    #[test]
    fn weeks_begin_on_monday_or_on_the_day_of_the_plan() {
        is(
            period(PeriodLength::Week, "UTC", None, "2026-11-28T12:00:00Z"),
            "2026-11-23T00:00:00Z",
            "2026-11-30T00:00:00Z",
        );
        let start = Some("2026-11-27");
        is(
            period(PeriodLength::Week, "UTC", start, "2026-11-28T12:00:00Z"),
            "2026-11-27T00:00:00Z",
            "2026-12-04T00:00:00Z",
        );
        is(
            period(PeriodLength::Week, "UTC", start, "2026-11-26T12:00:00Z"),
            "2026-11-20T00:00:00Z",
            "2026-11-27T00:00:00Z",
        );
    }

    #[test]
    fn months_begin_on_the_first_or_on_the_day_of_the_plan() {
        is(
            period(PeriodLength::Month, "UTC", None, "2026-02-28T23:59:59Z"),
            "2026-02-01T00:00:00Z",
            "2026-03-01T00:00:00Z",
        );
        let start = Some("2026-01-31");
        is(
            period(PeriodLength::Month, "UTC", start, "2026-02-10T00:00:00Z"),
            "2026-01-31T00:00:00Z",
            "2026-02-28T00:00:00Z",
        );
        is(
            period(PeriodLength::Month, "UTC", start, "2026-02-28T00:00:00Z"),
            "2026-02-28T00:00:00Z",
            "2026-03-31T00:00:00Z",
        );
        is(
            period(PeriodLength::Month, "UTC", start, "2026-12-31T00:00:00Z"),
            "2026-12-31T00:00:00Z",
            "2027-01-31T00:00:00Z",
        );
    }

    #[test]
    fn every_moment_lies_in_the_period_that_is_found_for_it() {
        for (length, zone_name, start) in [
            (PeriodLength::Day, "America/St_Johns", None),
            (PeriodLength::Week, "Pacific/Apia", Some("2011-12-29")),
            (PeriodLength::Month, "Asia/Kathmandu", Some("2024-02-29")),
        ] {
            let periods = Periods::new(length, zone(zone_name).expect("a time zone"), start.and_then(day));
            let mut last: Option<Period> = None;
            for hour in 0..24 * 800 {
                let now = 1_300_000_000 + hour * 3_600;
                let found = periods.at(Duration::from_secs(now)).expect("a period");
                assert!((found.begin..found.end).contains(&now), "{zone_name} {now} {found:?}");
                if let Some(last) = last.filter(|last| *last != found) {
                    assert_eq!(last.end, found.begin, "{zone_name}");
                }
                last = Some(found);
            }
        }
    }
}
