//! What clients are told of limits: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers), the older
//! `X-RateLimit-*`, and the problem document of a refusal.
//!
//! Written by the policies that limit, on every response, the backend's or our own. A backend's own fields of these names are replaced:
//! two answers to one question would be none.

use std::borrow::Cow;
use std::io::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use smallvec::SmallVec;
use transept_model::choice;
use transept_wire::head::{FieldId, FieldName, Response};

use super::touched::Touched;
use super::{Standing, seconds};
use crate::reason::Reason;
use crate::verdict::{Problem, Reply};

choice! {
    /// Which fields tell of a limit.
    pub enum LimitHeaders {
        /// `RateLimit` and `RateLimit-Policy`.
        Ietf = "Ietf",
        /// `X-RateLimit-Limit`, `X-RateLimit-Remaining`, and `X-RateLimit-Reset` in seconds from now.
        Legacy = "Legacy",
        /// Both.
        Both = "Both",
        /// None.
        Off = "Off",
    }
}

impl LimitHeaders {
    fn has_ietf(self) -> bool {
        matches!(self, LimitHeaders::Ietf | LimitHeaders::Both)
    }

    fn has_legacy(self) -> bool {
        matches!(self, LimitHeaders::Legacy | LimitHeaders::Both)
    }
}

struct Names {
    limit: FieldName,
    policy: FieldName,
    legacy_limit: FieldName,
    legacy_remaining: FieldName,
    legacy_reset: FieldName,
}

static NAMES: LazyLock<Names> = LazyLock::new(|| Names {
    limit: named("RateLimit"),
    policy: named("RateLimit-Policy"),
    legacy_limit: named("X-RateLimit-Limit"),
    legacy_remaining: named("X-RateLimit-Remaining"),
    legacy_reset: named("X-RateLimit-Reset"),
});

fn named(name: &str) -> FieldName {
    FieldName::new(name).unwrap_or(FieldName::known(FieldId::RETRY_AFTER))
}

/// How one limit is told.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    /// The name as it is written in the configuration.
    pub(crate) name: Box<str>,
    /// The name as a string of a structured field (RFC 8941 section 3.3.3).
    quoted: Box<str>,
    /// What follows the name in `RateLimit-Policy`.
    policy: Box<str>,
    quota: u32,
    pub(crate) headers: LimitHeaders,
}

impl Label {
    /// `window` is none for what is not counted over time, `unit` for requests.
    pub(crate) fn new(
        name: &str,
        quota: u32,
        window: Option<Duration>,
        unit: Option<&str>,
        headers: LimitHeaders,
    ) -> Label {
        let mut policy = format!(";q={quota}");
        if let Some(window) = window {
            policy.push_str(&format!(";w={}", seconds(window).max(1)));
        }
        if let Some(unit) = unit {
            policy.push_str(&format!(";qu=\"{unit}\""));
        }
        Label { name: name.into(), quoted: quoted(name).into(), policy: policy.into(), quota, headers }
    }
}

/// A string of a structured field. Characters that have no place in one become `?`; the configuration refuses them.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => {
                out.push('\\');
                out.push(char);
            }
            ' '..='~' => out.push(char),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

/// One limit and how it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'l> {
    pub(crate) label: &'l Label,
    pub(crate) standing: Standing,
    /// When there is room again, of a limit that refused.
    pub(crate) wait: Option<Duration>,
    /// A hash of the key, when it is shown.
    pub(crate) partition: Option<u64>,
    /// Whether there is something to wait for at all.
    pub(crate) timed: bool,
}

impl Shown<'_> {
    fn left(&self) -> i64 {
        if self.wait.is_some() { 0 } else { self.standing.left.max(0) }
    }

    /// Of a limit that refused, what `Retry-After` says too.
    fn reset(&self) -> u64 {
        match self.wait {
            Some(wait) => seconds(wait).max(1),
            None => seconds(self.standing.full_in),
        }
    }
}

impl Names {
    fn all(&self) -> [&FieldName; 5] {
        [&self.limit, &self.policy, &self.legacy_limit, &self.legacy_remaining, &self.legacy_reset]
    }
}

/// Whether a field of this name tells of limits.
pub(crate) fn tells_of_limits(name: &FieldName) -> bool {
    NAMES.all().contains(&name)
}

/// Takes out of a response what its backend tells of limits. What was put there since stays.
pub(crate) fn clear(touched: &mut Touched, response: &mut Response) {
    if !touched.cleared {
        touched.cleared = true;
        for name in NAMES.all() {
            response.fields.remove(name);
        }
    }
}

/// Tells of limits in a response.
pub(crate) fn show<'l>(shown: impl Iterator<Item = Shown<'l>> + Clone, touched: &mut Touched, response: &mut Response) {
    let names = &*NAMES;
    let mut line: SmallVec<[u8; 128]> = SmallVec::new();
    let mut policy: SmallVec<[u8; 128]> = SmallVec::new();
    for one in shown.clone().filter(|one| one.label.headers.has_ietf()) {
        write_item(&one, &mut line, &mut policy);
    }
    let legacy = shown.filter(|one| one.label.headers.has_legacy()).min_by_key(Shown::left);
    if (line.is_empty() && legacy.is_none()) || response.status == 101 {
        return;
    }
    clear(touched, response);
    let fields = &mut response.fields;
    // Strings of printable characters and numbers are values of fields.
    if !line.is_empty() {
        let _ = fields.push(&names.policy, &policy);
        let _ = fields.push(&names.limit, &line);
    }
    if let Some(tightest) = legacy.filter(|one| touched.legacy.is_none_or(|known| one.left() < known)) {
        touched.legacy = Some(tightest.left());
        let mut set = |name, number: u64| {
            let mut text: SmallVec<[u8; 20]> = SmallVec::new();
            let _ = write!(text, "{number}");
            let _ = fields.set(name, &text);
        };
        set(&names.legacy_limit, u64::from(tightest.label.quota));
        set(&names.legacy_remaining, tightest.left().unsigned_abs());
        set(&names.legacy_reset, tightest.reset());
    }
}

fn write_item(one: &Shown<'_>, line: &mut SmallVec<[u8; 128]>, policy: &mut SmallVec<[u8; 128]>) {
    for out in [&mut *line, &mut *policy] {
        if !out.is_empty() {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(one.label.quoted.as_bytes());
    }
    policy.extend_from_slice(one.label.policy.as_bytes());
    // Memory takes every number.
    let _ = write!(line, ";r={}", one.left());
    if one.timed {
        let _ = write!(line, ";t={}", one.reset());
    }
    if let Some(partition) = one.partition {
        let encoded = base64(partition);
        for out in [line, policy] {
            let _ = write!(out, ";pk=:{}:", std::str::from_utf8(&encoded).unwrap_or_default());
        }
    }
}

/// Eight bytes in base64 (RFC 4648 section 4).
fn base64(value: u64) -> [u8; 12] {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u128::from(value) << 2;
    let mut out = [b'='; 12];
    for (index, letter) in out.iter_mut().take(11).enumerate() {
        *letter = LETTERS[(bits >> (60 - 6 * index)) as usize & 63];
    }
    out
}

/// A refusal: status, `Retry-After`, and a problem document that names the limits.
pub(crate) fn refusal(reason: Reason, violated: &[&str], wait: Duration, detail: Cow<'static, str>) -> Reply {
    let mut reply = Reply::new(reason).with_detail(detail);
    let wait = seconds(wait).max(1).to_string();
    reply = reply.with_field(FieldName::known(FieldId::RETRY_AFTER), wait.into_bytes());
    reply.problem = Some(Box::new(Problem {
        kind: "https://iana.org/assignments/http-problem-types#quota-exceeded",
        members: vec![("violated-policies", violated.into())],
    }));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(label: &Label, left: i64, full_in: u64) -> Shown<'_> {
        let standing = Standing { left, full_in: Duration::from_millis(full_in) };
        Shown { label, standing, wait: None, partition: None, timed: true }
    }

    fn text(response: &Response, name: &str) -> Vec<String> {
        let name = FieldName::new(name).expect("a name");
        response.fields.all_named(&name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    #[test]
    fn fields_are_those_of_the_draft() {
        let burst = Label::new("burst", 20, Some(Duration::from_secs(1)), None, LimitHeaders::Ietf);
        let month = Label::new(
            "gold-month",
            100_000,
            Some(Duration::from_secs(2_592_000)),
            Some("requests"),
            LimitHeaders::Ietf,
        );
        let mut response = Response::new(200);
        let items = [shown(&burst, 19, 50), shown(&month, 99_231, 81_233_001)];
        show(items.into_iter(), &mut Touched::default(), &mut response);
        assert_eq!(
            text(&response, "ratelimit-policy"),
            [r#""burst";q=20;w=1, "gold-month";q=100000;w=2592000;qu="requests""#]
        );
        assert_eq!(text(&response, "ratelimit"), [r#""burst";r=19;t=1, "gold-month";r=99231;t=81234"#]);
        assert!(text(&response, "x-ratelimit-limit").is_empty());
    }

    #[test]
    fn names_are_escaped_and_keys_are_hashed() {
        let label = Label::new("a\"b\\c", 1, None, None, LimitHeaders::Ietf);
        let mut response = Response::new(200);
        let item = Shown { partition: Some(0x0102_0304_0506_0708), ..shown(&label, 1, 0) };
        show([item].into_iter(), &mut Touched::default(), &mut response);
        assert_eq!(text(&response, "ratelimit"), [r#""a\"b\\c";r=1;t=0;pk=:AQIDBAUGBwg=:"#]);
    }

    #[test]
    fn the_older_fields_tell_of_the_tightest_limit_and_those_of_a_backend_go() {
        let label = |name, quota| Label::new(name, quota, Some(Duration::from_secs(60)), None, LimitHeaders::Legacy);
        let (wide, narrow) = (label("wide", 100), label("narrow", 10));
        let mut response = Response::new(200);
        response.fields.push_bytes(b"X-RateLimit-Remaining", b"77").expect("a field");
        let mut touched = Touched::default();
        show([shown(&wide, 90, 9_000), shown(&narrow, 3, 42_000)].into_iter(), &mut touched, &mut response);
        show([shown(&wide, 50, 9_000)].into_iter(), &mut touched, &mut response);
        assert_eq!(text(&response, "x-ratelimit-limit"), ["10"]);
        assert_eq!(text(&response, "x-ratelimit-remaining"), ["3"]);
        assert_eq!(text(&response, "x-ratelimit-reset"), ["42"]);
    }

    #[test]
    fn a_refusal_agrees_with_its_fields() {
        let label = Label::new("burst", 10, Some(Duration::from_secs(1)), None, LimitHeaders::Ietf);
        let wait = Duration::from_millis(10);
        let mut response = Response::new(429);
        let item = Shown { wait: Some(wait), ..shown(&label, 3, 900) };
        show([item].into_iter(), &mut Touched::default(), &mut response);
        assert_eq!(text(&response, "ratelimit"), [r#""burst";r=0;t=1"#]);
        let reply = refusal(Reason::RateLimited, &["burst"], wait, "".into());
        assert_eq!(reply.fields[0].1, b"1");
    }
}
