//! How much of a limit is left in a gateway that runs, for an explanation that is made beside it.
//!
//! An explanation counts in memories of its own, which are always new. It notes in which ones it has counted ([`Inquiry`]). The command line
//! sends that to the gateway, which says what is in its own memories of the same name and changes nothing in them ([`ask`]), and asks the store
//! of a limit that has one; what it means is read by the files that were explained. A memory is named after its policy and its limit; it says
//! how it counts where its numbers mean nothing to who counts otherwise.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::book::{BOOK, Book};
use super::bucket::Bucket;
use super::lease::Leases;
use super::period::Period;
use super::places::Places;
use super::shared::{Shared, Sharings, StoreUnavailable};
use super::table::Table;
use super::{Algorithm, Cell, nanoseconds, seconds};
use crate::callout::Wait;
use crate::keep::Keep;

/// What a store that was asked does.
const ANSWERS: &str = "answers";
const AWAY: &str = "away";
const SILENT: &str = "silent";

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
    /// A rate that is shared by a store, what the request costs, and what becomes of it where the store does not answer.
    Shared(Bucket, u32, StoreUnavailable),
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
            Asked::Shared(..) => "shared",
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
            Asked::Rate(algorithm, cost) => read_rate(&algorithm, cost, answer).unwrap_or_else(unknown),
            Asked::Shared(bucket, cost, unavailable) => {
                let Some(left) = read_rate(&Algorithm::Bucket(bucket), cost, answer) else { return unknown() };
                let silence = match answer.get("store").and_then(Value::as_str) {
                    Some(ANSWERS) => return format!("its store says: {left}"),
                    Some(AWAY) => "its store does not answer",
                    Some(SILENT) => "its store says nothing of this key",
                    _ => return unknown(),
                };
                match unavailable {
                    StoreUnavailable::Local => format!("{silence}, so that it counts by itself: {left}"),
                    StoreUnavailable::Allow => format!("{silence}, so that requests pass uncounted"),
                    StoreUnavailable::Deny => format!("{silence}, so that requests are refused with 503"),
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

/// What is left of a rate by an answer that has its numbers. None where it has not, or they mean something else.
fn read_rate(algorithm: &Algorithm, cost: u32, answer: &Value) -> Option<String> {
    let number = |name: &str| answer.get(name).and_then(Value::as_u64);
    let (cell, now) = (Cell { first: number("first")?, second: number("second")? }, number("now")?);
    if answer.get("counted").and_then(Value::as_str) != Some(&*counted(algorithm)) {
        return None;
    }
    let proxies = number("proxies").and_then(|proxies| u32::try_from(proxies).ok()).unwrap_or(1);
    let algorithm = algorithm.divided(proxies);
    let standing = algorithm.standing(cell, now);
    let share = match proxies {
        0 | 1 => String::new(),
        more => format!(" in the share of one of {more} proxies"),
    };
    let left = format!("{} of {} left{share}", standing.left, algorithm.capacity());
    Some(match algorithm.charge(cell, now, cost) {
        Ok(_) if standing.full_in.is_zero() => left,
        Ok(_) => format!("{left}, as at first in {} s", seconds(standing.full_in)),
        Err(wait) => format!("{left}, room for this request in {} s", seconds(wait).max(1)),
    })
}

/// What the numbers of a cell mean: the time at which a bucket is full means nothing in one that fills in another time, nor do counts of windows
/// of another length.
fn counted(algorithm: &Algorithm) -> String {
    match algorithm {
        Algorithm::Bucket(bucket) => format!("bucket of {}", bucket.fills_in_milliseconds()),
        Algorithm::Window(window) => format!("window of {} ns", window.length),
    }
}

/// The questions of a list, in its order. `now` is the time by which the memories of this process count.
pub fn ask(keep: &Keep, questions: &Value, now: Duration) -> Vec<Asking> {
    let one = |question: &Value| {
        let name = question.get("name").and_then(Value::as_str)?;
        let bytes = question.get("key").and_then(Value::as_array)?.iter();
        let key: Vec<u8> = bytes.map(|byte| u8::try_from(byte.as_u64()?).ok()).collect::<Option<_>>()?;
        match question.get("kind").and_then(Value::as_str)? {
            "rate" if keep.known::<Sharings>(name).is_none() => {
                rate(keep, name, &key, nanoseconds(now)).map(Asking::known)
            }
            "shared" => {
                let shared = keep.known::<Sharings>(name)?.newest()?;
                let alone = rate(keep, name, &key, nanoseconds(now))?;
                let hash = keep.known::<Table>(name).and_then(|table| table.hash_of(&key)).unwrap_or_default();
                let (said, wait) = shared.look(hash, &key, nanoseconds(now));
                Some(Asking { answer: alone, wait: Some(wait), store: Some(AtStore { shared, said, hash }) })
            }
            "quota" => {
                let (used, begin) = keep.known::<Book>(BOOK)?.look(&key);
                Some(Asking::known(json!({"used": used, "begin": begin})))
            }
            "places" => Some(Asking::known(json!({"taken": keep.known::<Places>(name)?.look(&key)}))),
            _ => None,
        }
    };
    let unknown = || Asking::known(Value::Null);
    questions.as_array().into_iter().flatten().map(|question| one(question).unwrap_or_else(unknown)).collect()
}

/// What a process has counted of a rate by itself.
fn rate(keep: &Keep, name: &str, key: &[u8], now: u64) -> Option<Value> {
    let (Cell { first, second }, algorithm) = keep.known::<Table>(name)?.look(key, now)?;
    let (proxies, counted) = (algorithm.proxies(), counted(&algorithm));
    Some(json!({"first": first, "second": second, "now": now, "proxies": proxies, "counted": counted}))
}

/// A question that may have to wait for its answer.
pub struct Asking {
    /// What is known without asking.
    answer: Value,
    wait: Option<Wait>,
    store: Option<AtStore>,
}

/// Where the answer of a store will be.
struct AtStore {
    shared: Arc<Shared>,
    said: Arc<Leases>,
    hash: u64,
}

impl Asking {
    fn known(answer: Value) -> Asking {
        Asking { answer, wait: None, store: None }
    }

    /// What has to be waited for before it is answered, if anything. It is given once.
    pub fn wait(&mut self) -> Option<Wait> {
        self.wait.take()
    }

    /// The answer; null where there is nothing of that name. `now` as for [`ask`].
    pub fn answer(self, now: Duration) -> Value {
        let Asking { mut answer, store, .. } = self;
        let Some(AtStore { shared, said, hash }) = store else { return answer };
        if !said.has_run_out(hash) {
            answer["store"] = if shared.store.is_down() { AWAY } else { SILENT }.into();
            return answer;
        }
        let now = nanoseconds(now);
        let whole = Algorithm::Bucket(shared.bucket);
        let cell = Bucket::full_in(said.standing(hash, now).full_in, now);
        // What was taken ahead is there for the next requests.
        let cell = whole.refund(cell, now, shared.leases.ahead(hash, now));
        json!({"store": ANSWERS, "first": cell.first, "second": cell.second, "now": now, "counted": counted(&whole)})
    }
}
