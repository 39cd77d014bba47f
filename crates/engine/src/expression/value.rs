//! Values while an expression is evaluated: most are borrowed from the request, the principal or the expression itself.
//!
//! Called by `evaluate` and `facts`. Times are microseconds since the Unix epoch in UTC, lengths of time microseconds.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use transept_wire::head::Fields;

#[derive(Clone, Debug)]
pub(super) enum Value<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Text<'v>),
    Time(i64),
    Span(i64),
    List(Arc<[Value<'v>]>),
    Map(Arc<[(Value<'v>, Value<'v>)]>),
    /// A list of texts that somebody else has.
    Texts(&'v [Box<str>]),
    /// A list in a claim.
    Items(&'v [Json]),
    /// An object in a claim.
    Members(&'v Map<String, Json>),
    Headers(&'v Fields),
    Query(Option<&'v [u8]>),
}

/// Text that is there once, however often it is asked for: borrowed, or shared where it was made.
#[derive(Clone, Debug)]
pub(super) enum Text<'v> {
    Borrowed(&'v str),
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl<'v> From<&'v str> for Text<'v> {
    fn from(text: &'v str) -> Text<'v> {
        Text::Borrowed(text)
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Text<'static> {
        Text::Shared(text.into())
    }
}

impl<'v> From<Cow<'v, str>> for Text<'v> {
    fn from(text: Cow<'v, str>) -> Text<'v> {
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}

impl<'v> Value<'v> {
    pub(super) fn of_json(json: &'v Json) -> Value<'v> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Value::Int(value),
                None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Text(Text::Borrowed(text)),
            Json::Array(items) => Value::Items(items),
            Json::Object(members) => Value::Members(members),
        }
    }

    pub(super) fn borrowed(constant: &'v Value<'static>) -> Value<'v> {
        match constant {
            Value::Text(text) => Value::Text(Text::Borrowed(text)),
            other => other.clone(),
        }
    }

    pub(super) fn describe(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a whole number",
            Value::Double(_) => "a number",
            Value::Text(_) => "text",
            Value::Time(_) => "a time",
            Value::Span(_) => "a length of time",
            Value::List(_) | Value::Texts(_) | Value::Items(_) => "a list",
            Value::Map(_) | Value::Members(_) | Value::Headers(_) | Value::Query(_) => "a map",
        }
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self, Value::Map(_) | Value::Members(_))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Value::List(_) | Value::Texts(_) | Value::Items(_))
    }

    /// The length of a list or a map of which it is cheap to know.
    pub(super) fn length(&self) -> Option<usize> {
        match self {
            Value::List(items) => Some(items.len()),
            Value::Texts(items) => Some(items.len()),
            Value::Items(items) => Some(items.len()),
            Value::Map(entries) => Some(entries.len()),
            Value::Members(members) => Some(members.len()),
            _ => None,
        }
    }

    /// An item of a list.
    pub(super) fn item(&self, index: usize) -> Option<Value<'v>> {
        match self {
            Value::List(items) => items.get(index).cloned(),
            Value::Texts(items) => items.get(index).map(|text| Value::Text(Text::Borrowed(text))),
            Value::Items(items) => items.get(index).map(Value::of_json),
            _ => None,
        }
    }

    /// What lists hold one by one, or the keys of a map.
    pub(super) fn items(&self) -> Option<Vec<Value<'v>>> {
        match self {
            Value::List(items) => Some(items.to_vec()),
            Value::Texts(items) => Some(items.iter().map(|text| Value::Text(Text::Borrowed(text))).collect()),
            Value::Items(items) => Some(items.iter().map(Value::of_json).collect()),
            Value::Map(entries) => Some(entries.iter().map(|(key, _)| key.clone()).collect()),
            Value::Members(members) => Some(members.keys().map(|key| Value::Text(Text::Borrowed(key))).collect()),
            _ => None,
        }
    }

    /// Equality of two values that hold no others: different kinds are never equal, numbers are compared as numbers.
    pub(super) fn equals(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => **a == **b,
            (Value::Time(a), Value::Time(b)) | (Value::Span(a), Value::Span(b)) => a == b,
            (Value::Int(_) | Value::Double(_), Value::Int(_) | Value::Double(_)) => {
                self.order(other) == Some(Ordering::Equal)
            }
            _ => false,
        }
    }

    /// The order of two values that have one.
    pub(super) fn order(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Value::Int(a), Value::Double(b)) => whole_to_real(*a, *b),
            (Value::Double(a), Value::Int(b)) => whole_to_real(*b, *a).map(Ordering::reverse),
            (Value::Text(a), Value::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Value::Time(a), Value::Time(b)) | (Value::Span(a), Value::Span(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

/// The order of a whole number and another one, without rounding the first.
fn whole_to_real(whole: i64, real: f64) -> Option<Ordering> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if real.is_nan() {
        return None;
    }
    if real >= LIMIT {
        return Some(Ordering::Less);
    }
    if real < -LIMIT {
        return Some(Ordering::Greater);
    }
    let part = real.fract();
    Some(whole.cmp(&(real.trunc() as i64)).then(0.0f64.partial_cmp(&part)?))
}

/// The value of a key in a map of the expression's own or in a claim.
pub(super) fn entry<'v>(map: &Value<'v>, key: &Value<'_>) -> Option<Value<'v>> {
    match (map, key) {
        (Value::Map(entries), key) => {
            entries.iter().find(|(known, _)| known.equals(key)).map(|(_, value)| value.clone())
        }
        (Value::Members(members), Value::Text(key)) => members.get(&**key).map(Value::of_json),
        _ => None,
    }
}

/// Times of RFC 3339 and what of them can be asked.
pub(super) mod time {
    const DAY: i64 = 86_400;

    /// Microseconds since the epoch of `2026-01-31T08:00:00Z`, also with a fraction or an offset.
    pub(in super::super) fn parse(text: &str) -> Option<i64> {
        let number = |from: usize, length: usize| -> Option<i64> {
            let digits = text.get(from..from + length)?;
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        let sign = |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|byte| wanted.contains(byte));
        let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
        let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
        if !(sign(4, b"-") && sign(7, b"-") && sign(10, b"Tt") && sign(13, b":") && sign(16, b":")) {
            return None;
        }
        if !(1..=12).contains(&month) || day < 1 || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let days = days(year, month, day);
        if civil(days) != (year, month, day) {
            return None;
        }
        let mut at = 19;
        let mut micros = 0;
        if sign(at, b".") {
            let digits = text[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
            let kept = number(at + 1, digits.min(6)).filter(|_| digits > 0)?;
            micros = kept * 10i64.pow(6u32.saturating_sub(digits as u32));
            at += 1 + digits;
        }
        let offset = match text.as_bytes().get(at)? {
            b'Z' | b'z' if text.len() == at + 1 => 0,
            way @ (b'+' | b'-') if text.len() == at + 6 && sign(at + 3, b":") => {
                let (hours, minutes) = (number(at + 1, 2)?, number(at + 4, 2)?);
                let seconds = hours.checked_mul(3600)? + minutes * 60;
                if *way == b'+' { seconds } else { -seconds }
            }
            _ => return None,
        };
        let seconds = days * DAY + hour * 3600 + minute * 60 + second - offset;
        seconds.checked_mul(1_000_000)?.checked_add(micros)
    }

    /// Days since the epoch of a date of the Gregorian calendar, counted from a March so that leap days come last.
    fn days(year: i64, month: i64, day: i64) -> i64 {
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let of_era = year.rem_euclid(400);
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
    }

    /// Year, month and day of a day since the epoch.
    fn civil(days: i64) -> (i64, i64, i64) {
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        (year + era * 400 + i64::from(month <= 2), month, day)
    }

    /// What of a time is asked.
    pub(in super::super) struct Parts {
        pub year: i64,
        /// From 0, as CEL counts.
        pub month: i64,
        pub day: i64,
        /// From 0, Sunday.
        pub weekday: i64,
        pub hour: i64,
        pub minute: i64,
    }

    pub(in super::super) fn parts(micros: i64) -> Parts {
        let seconds = micros.div_euclid(1_000_000);
        let (days, of_day) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        let (year, month, day) = civil(days);
        Parts {
            year,
            month: month - 1,
            day,
            weekday: (days + 4).rem_euclid(7),
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
        }
    }
}

/// Lengths of time as CEL writes them: `1h30m`, `1.5s`, `-10ms`.
pub(super) mod span {
    pub(in super::super) fn parse(text: &str) -> Option<i64> {
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if rest.is_empty() {
            return None;
        }
        let mut micros = 0f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let amount: f64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let (unit, scale) = [("h", 3.6e9), ("ms", 1e3), ("m", 6e7), ("us", 1.0), ("s", 1e6)]
                .into_iter()
                .find(|(unit, _)| rest.starts_with(unit))?;
            micros += amount * scale;
            rest = &rest[unit.len()..];
        }
        let most = 1e18;
        (micros <= most).then_some(if negative { -(micros as i64) } else { micros as i64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_taken_apart() {
        assert_eq!(time::parse("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(time::parse("2000-03-01T01:00:00.5+01:00"), Some(951_868_800_500_000));
        let parts = time::parts(time::parse("2026-02-28T23:59:00Z").expect("a time"));
        assert_eq!((parts.year, parts.month, parts.day, parts.hour, parts.minute), (2026, 1, 28, 23, 59));
        assert_eq!(parts.weekday, 6);
        for wrong in ["2026-02-29T00:00:00Z", "2026-01-01", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00", ""] {
            assert_eq!(time::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lengths_of_time() {
        assert_eq!(span::parse("1h30m"), Some(5_400_000_000));
        assert_eq!(span::parse("-1.5s"), Some(-1_500_000));
        assert_eq!(span::parse("10ms"), Some(10_000));
        for wrong in ["", "-", "5", "5d", "s"] {
            assert_eq!(span::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_text_that_was_made_is_there_once() {
        let list = Value::List([Value::Text("made".to_owned().into())].into());
        let again = list.items().and_then(|items| items.into_iter().next());
        let (Some(Value::Text(one)), Some(Value::Text(other))) = (list.item(0), again) else { panic!("a list") };
        assert!(std::ptr::eq(&*one, &*other));
    }

    #[test]
    fn whole_numbers_are_not_rounded_when_they_are_compared() {
        let whole = Value::Int(9_007_199_254_740_993);
        assert!(!whole.equals(&Value::Double(9_007_199_254_740_992.0)));
        assert_eq!(Value::Int(1).order(&Value::Double(1.5)), Some(Ordering::Less));
        assert_eq!(Value::Int(-1).order(&Value::Double(-1.5)), Some(Ordering::Greater));
        assert_eq!(Value::Int(i64::MAX).order(&Value::Double(1e30)), Some(Ordering::Less));
        assert_eq!(Value::Int(1).order(&Value::Double(f64::NAN)), None);
    }
}
