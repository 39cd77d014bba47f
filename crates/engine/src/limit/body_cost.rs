//! What bodies cost: a number in the JSON of a response, or the bytes of requests and responses; and the bill that is paid when the body is
//! at its end.
//!
//! Limits put what they want to know into the bill of an exchange when the head of its response passes (`policies/rate_limit.rs`,
//! `policies/quota.rs`). The proxy shows the body to its [`Meter`] and settles the bill when the exchange is over. A bill that is dropped
//! because its exchange was is settled too, as of when it was made.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use transept_model::schema::{Decoder, Rule, Text};
use transept_model::value::{Value, ticked};
use transept_model::{choice, object};
use transept_wire::head::{FieldId, FieldName, Method, Response};

use super::cost::MOST_AFTERWARDS;
use super::scan::{Layout, Scan};
use crate::exchange::{Exchange, Now};

object! {
    /// What bodies say of the cost of a request. It is taken when the body of the response is at its end, and even when there is less left.
    pub struct BodyCostSpec {
        /// Where a number is in the JSON body of the response: the names of members, joined by dots, such as `usage.total_tokens`. Of several
        /// values one after another (JSON lines) and of server-sent events the last number counts. The backend is asked for a response that is
        /// not compressed.
        json: Option<Text> => Rule::Length(1, 256);
        /// Instead, the bytes of these bodies.
        bytes: Option<Bodies>;
        /// How much of that costs 1; what is begun counts as a whole.
        per: u32 = 1 => Rule::Range(1, 1_000_000_000);
        /// What a response of status 2xx costs that has no such number: because it is compressed, not JSON, or its client has left before
        /// it came.
        otherwise: u32 = 0 => Rule::Range(0, 999_999_999);
    }
    check check_body_cost;
}

choice! {
    /// Whose bodies are counted.
    pub enum Bodies {
        /// That of the request.
        Request = "Request",
        /// That of the response.
        Response = "Response",
        /// Both together.
        Both = "Both",
    }
}

fn check_body_cost(spec: &BodyCostSpec, _: &Value, cx: &mut Decoder) {
    match (&spec.json, spec.bytes) {
        (Some(path), None) if path.split('.').any(|name| name.is_empty() || name.contains(['"', '\\', '['])) => {
            cx.refuse(spec.at, format!("{} is not a path of names joined by dots", ticked(path)))
                .remedy("write it like `usage.total_tokens`; elements of lists cannot be reached");
        }
        (Some(_), Some(_)) => {
            cx.refuse(spec.at, "`json` and `bytes` both say what a body costs")
                .remedy("leave one out, or write a limit for each");
        }
        (None, None) => {
            cx.refuse(spec.at, "what a body costs is not said")
                .remedy("write `json: usage.total_tokens`, or `bytes: Response`");
        }
        (None, Some(_)) if spec.otherwise > 0 => {
            cx.refuse(spec.at, "`otherwise` means nothing with `bytes`, which can always be counted")
                .remedy("leave it out");
        }
        _ => {}
    }
}

/// What bodies cost, compiled.
#[derive(Debug)]
pub(crate) struct BodyCost {
    measure: Measure,
    per: u32,
    otherwise: u32,
    /// The path or the bodies, for explanations.
    what: Box<str>,
}

#[derive(Debug)]
enum Measure {
    Json(Vec<Box<str>>),
    Bytes(Bodies),
}

static ACCEPT_ENCODING: FieldName = FieldName::known(FieldId::ACCEPT_ENCODING);

impl BodyCost {
    pub(crate) fn new(spec: &BodyCostSpec) -> BodyCost {
        let (measure, what) = match (&spec.json, spec.bytes.unwrap_or(Bodies::Response)) {
            (Some(path), _) => {
                (Measure::Json(path.split('.').map(Into::into).collect()), format!("{} of the response", &**path))
            }
            (None, bodies) => (
                Measure::Bytes(bodies),
                match bodies {
                    Bodies::Request => "the bytes of the request".to_owned(),
                    Bodies::Response => "the bytes of the response".to_owned(),
                    Bodies::Both => "the bytes of request and response".to_owned(),
                },
            ),
        };
        let per = if spec.per == 1 { String::new() } else { format!(" / {}", spec.per) };
        let what = format!(", and when the response is over {what}{per}").into();
        BodyCost { measure, per: spec.per, otherwise: spec.otherwise, what }
    }

    /// Whether each byte of the bodies costs one.
    pub(crate) fn is_bytes(&self) -> bool {
        matches!(self.measure, Measure::Bytes(_)) && self.per == 1
    }

    /// What it takes and when, for explanations.
    pub(crate) fn describe(&self) -> &str {
        &self.what
    }

    /// Asks for a response that can be read: who asks for a compressed one must not have it for nothing.
    pub(crate) fn prepare(&self, x: &mut Exchange<'_>) {
        if matches!(self.measure, Measure::Json(_)) && x.request.fields.contains(FieldId::ACCEPT_ENCODING) {
            let _ = x.request.fields.set(&ACCEPT_ENCODING, b"identity");
        }
    }

    fn scan(&self, response: &Response) -> Option<Scan> {
        let Measure::Json(_) = self.measure else { return None };
        let encoding = response.fields.first(FieldId::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.trim_ascii().eq_ignore_ascii_case(b"identity")) {
            return None;
        }
        let written = response.fields.first(FieldId::CONTENT_TYPE)?.split(|byte| *byte == b';').next()?;
        let written = written.trim_ascii().to_ascii_lowercase();
        match written.as_slice() {
            b"text/event-stream" => Some(Scan::new(Layout::Events)),
            written if written.windows(4).any(|part| part == b"json") => Some(Scan::new(Layout::Values)),
            _ => None,
        }
    }

    fn price(&self, scan: Option<&Scan>, is_success: bool, bytes_in: u64, bytes_out: u64) -> u32 {
        let amount = match self.measure {
            Measure::Json(_) => scan.and_then(Scan::found),
            // Bodies of more than nine petabytes may cost a little less.
            Measure::Bytes(Bodies::Request) => Some(bytes_in as f64),
            Measure::Bytes(Bodies::Response) => Some(bytes_out as f64),
            Measure::Bytes(Bodies::Both) => Some(bytes_in.saturating_add(bytes_out) as f64),
        };
        match amount {
            // Conversions of floats stop at the ends of what they go into.
            Some(amount) => ((amount / f64::from(self.per)).ceil() as u32).min(MOST_AFTERWARDS),
            None if is_success => self.otherwise,
            None => 0,
        }
    }
}

type Charge = Box<dyn FnOnce(u32, Now) + Send>;

struct Item {
    cost: Arc<BodyCost>,
    charge: Charge,
}

/// What is read while the body passes. `scans` are in the order of the items.
#[derive(Default)]
struct Reading {
    items: Vec<(Arc<BodyCost>, Option<Scan>)>,
    bytes: u64,
}

/// What is to be paid when the exchange is over.
pub(crate) struct Bill {
    items: Vec<Item>,
    reading: Arc<Mutex<Reading>>,
    is_success: bool,
    made: Now,
}

impl fmt::Debug for Bill {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Bill").field("items", &self.items.len()).finish_non_exhaustive()
    }
}

/// Puts what a body will cost into the bill of an exchange whose response's head is known; nothing where there is no body to come.
pub(crate) fn bill(
    cost: &Arc<BodyCost>,
    x: &mut Exchange<'_>,
    response: &Response,
    charge: impl FnOnce(u32, Now) + Send + 'static,
) {
    let bodiless = x.request.method == Method::Head || matches!(response.status, 101 | 204 | 205 | 304);
    if bodiless && matches!(cost.measure, Measure::Json(_)) {
        return;
    }
    let made = x.now;
    let bill = x.notes.bill.get_or_insert_with(|| {
        let is_success = (200..300).contains(&response.status);
        Box::new(Bill { items: Vec::new(), reading: Arc::default(), is_success, made })
    });
    let mut reading = bill.reading.lock().unwrap_or_else(PoisonError::into_inner);
    reading.items.push((Arc::clone(cost), cost.scan(response)));
    bill.items.push(Item { cost: Arc::clone(cost), charge: Box::new(charge) });
}

impl Bill {
    /// Who reads the body.
    pub(crate) fn meter(&self) -> Meter {
        Meter(Arc::clone(&self.reading))
    }

    /// Takes what the bodies have cost. `bytes_in` are those of the request's, `bytes_out` those of the response's as far as the caller knows.
    pub(crate) fn settle(&mut self, now: Now, bytes_in: u64, bytes_out: u64) {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes_out = bytes_out.max(reading.bytes);
        for (item, (_, scan)) in self.items.drain(..).zip(&reading.items) {
            let cost = item.cost.price(scan.as_ref(), self.is_success, bytes_in, bytes_out);
            if cost > 0 {
                (item.charge)(cost, now);
            }
        }
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.settle(self.made, 0, 0);
    }
}

/// Reads the body of a response on its way, for those who want to know what is in it.
pub struct Meter(Arc<Mutex<Reading>>);

impl Meter {
    /// Reads on.
    pub fn read(&self, data: &[u8]) {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reading.bytes = reading.bytes.saturating_add(data.len() as u64);
        for (cost, scan) in &mut reading.items {
            if let (Measure::Json(path), Some(scan)) = (&cost.measure, scan) {
                scan.read(data, path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(measure: Measure, per: u32, otherwise: u32) -> BodyCost {
        BodyCost { measure, per, otherwise, what: "".into() }
    }

    fn number() -> Measure {
        Measure::Json(vec!["n".into()])
    }

    fn response(media_type: &str, encoding: Option<&str>) -> Response {
        let mut response = Response::new(200);
        let set = |response: &mut Response, name, value: &str| {
            response.fields.set(&FieldName::known(name), value.as_bytes()).expect("a value");
        };
        set(&mut response, FieldId::CONTENT_TYPE, media_type);
        if let Some(encoding) = encoding {
            set(&mut response, FieldId::CONTENT_ENCODING, encoding);
        }
        response
    }

    #[test]
    fn only_json_that_is_not_compressed_is_read() {
        let cost = cost(number(), 1, 0);
        for (media_type, encoding, is_read) in [
            ("application/json; charset=utf-8", None, true),
            ("application/vnd.api+JSON", Some("identity"), true),
            ("text/event-stream", None, true),
            ("application/x-ndjson", None, true),
            ("application/json", Some("gzip"), false),
            ("text/html", None, false),
        ] {
            assert_eq!(cost.scan(&response(media_type, encoding)).is_some(), is_read, "{media_type} {encoding:?}");
        }
    }

    #[test]
    fn what_is_begun_counts_whole_and_what_is_not_found_as_it_is_written() {
        let tokens = cost(number(), 1_000, 7);
        let found = |text: &[u8]| {
            let mut scan = Scan::new(Layout::Values);
            scan.read(text, &["n".into()]);
            tokens.price(Some(&scan), true, 0, 0)
        };
        assert_eq!((found(b"{\"n\":1000}"), found(b"{\"n\":1001}"), found(b"{\"n\":0}")), (1, 2, 0));
        assert_eq!((found(b"{\"n\":-5}"), found(b"{\"n\":1e99}"), found(b"{}")), (0, MOST_AFTERWARDS, 7));
        assert_eq!(tokens.price(None, false, 0, 0), 0, "an error of the backend costs nothing more");
        let bytes = cost(Measure::Bytes(Bodies::Both), 100, 0);
        assert_eq!(bytes.price(None, true, 150, 51), 3);
    }
}
