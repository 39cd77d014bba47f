//! How much of a limit is left in a gateway that runs, for an explanation that is made beside it.
//!
//! An explanation counts in memories of its own, which are always new. It notes in which ones it has counted ([`Inquiry`]). The command line
//! sends that to the gateway, which says what is in its own memories of the same name and changes nothing in them ([`answer`]); what it means
//! is read by the files that were explained. A memory is named after its policy and its limit; it says how it counts where its numbers mean nothing to
//! who counts otherwise.

use std::time::Duration;

use serde_json::{Value, json};

use super::book::{BOOK, Book};
use super::period::Period;
use super::places::Places;
use super::table::Table;
use super::{Algorithm, Cell, nanoseconds, seconds};
use crate::keep::Keep;

/// One question about one key of one limit.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// Which line of the explanation it is about.
    pub(crate) line: usize,
    name: String,
    key: Vec<u8>,
    limit: Asked,
}

/// What is asked about, and how the answer is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    /// A rate, and what the request costs.
    Rate(Algorithm, u32),
    /// A quota: how much there is in a period, and which period it is.
    Quota(u64, Period),
    /// Requests at a time: how many there may be.
    Places(u32),
}

impl Inquiry {
    pub(crate) fn new(name: String, key: &[u8], limit: Asked) -> Inquiry {
        Inquiry { line: 0, name, key: key.to_vec(), limit }
    }

    /// The question.
    pub fn to_json(&self) -> Value {
        let kind = match self.limit {
            Asked::Rate(..) => "rate",
            Asked::Quota(..) => "quota",
            Asked::Places(_) => "places",
        };
        json!({"kind": kind, "name": self.name, "key": self.key})
    }

    /// The answer as part of a sentence.
    pub(crate) fn read(&self, answer: &Value) -> String {
        let unknown = || "it has no such limit; is it running with these files?".to_owned();
        let number = |name: &str| answer.get(name).and_then(Value::as_u64);
        match self.limit {
            Asked::Rate(algorithm, cost) => {
                let (Some(first), Some(second), Some(now)) = (number("first"), number("second"), number("now")) else {
                    return unknown();
                };
                if answer.get("counted").and_then(Value::as_str) != Some(&*counted(&algorithm)) {
                    return unknown();
                }
                let cell = Cell { first, second };
                let proxies = number("proxies").and_then(|proxies| u32::try_from(proxies).ok()).unwrap_or(1);
                let algorithm = algorithm.divided(proxies);
                let standing = algorithm.standing(cell, now);
                let share = match proxies {
                    0 | 1 => String::new(),
                    more => format!(" in the share of one of {more} proxies"),
                };
                let left = format!("{} of {} left{share}", standing.left, algorithm.capacity());
                match algorithm.charge(cell, now, cost) {
                    Ok(_) if standing.full_in.is_zero() => left,
                    Ok(_) => format!("{left}, as at first in {} s", seconds(standing.full_in)),
                    Err(wait) => format!("{left}, room for this request in {} s", seconds(wait).max(1)),
                }
            }
            Asked::Quota(most, period) => {
                let (Some(used), Some(begin)) = (number("used"), number("begin")) else { return unknown() };
                let used = if begin >= period.begin { used } else { 0 };
                format!("{} of {most} left", i128::from(most) - i128::from(used))
            }
            Asked::Places(most) => match number("taken") {
                Some(taken) => format!("{} of {most} places left", u64::from(most).saturating_sub(taken)),
                None => unknown(),
            },
        }
    }
}

/// What the numbers of a cell mean: the time at which a bucket is full means nothing in one that fills in another time, nor do counts of windows
/// of another length.
fn counted(algorithm: &Algorithm) -> String {
    match algorithm {
        Algorithm::Bucket(bucket) => format!("bucket of {}", bucket.fills_in_milliseconds()),
        Algorithm::Window(window) => format!("window of {} ns", window.length),
    }
}

/// What the memories of this process say to the questions in a list, in its order; null where they have nothing of that name. `now` is the
/// time by which they count.
pub fn answer(keep: &Keep, questions: &Value, now: Duration) -> Value {
    let one = |question: &Value| {
        let name = question.get("name").and_then(Value::as_str)?;
        let bytes = question.get("key").and_then(Value::as_array)?.iter();
        let key: Vec<u8> = bytes.map(|byte| u8::try_from(byte.as_u64()?).ok()).collect::<Option<_>>()?;
        match question.get("kind").and_then(Value::as_str)? {
            "rate" => {
                let table = keep.known::<Table>(name)?;
                let now = nanoseconds(now);
                let (Cell { first, second }, algorithm) = table.look(&key, now)?;
                let (proxies, counted) = (algorithm.proxies(), counted(&algorithm));
                Some(json!({"first": first, "second": second, "now": now, "proxies": proxies, "counted": counted}))
            }
            "quota" => {
                let (used, begin) = keep.known::<Book>(BOOK)?.look(&key);
                Some(json!({"used": used, "begin": begin}))
            }
            "places" => Some(json!({"taken": keep.known::<Places>(name)?.look(&key)})),
            _ => None,
        }
    };
    questions.as_array().into_iter().flatten().map(|question| one(question).unwrap_or(Value::Null)).collect()
}
