//! Why a proxy refused a resource: the machine-readable part of a refusal (`error_detail`), one reason for each resource.
//!
//! Written by `client`, read by `server`, which hands it on so that it shows in the status of the object that caused it. Another
//! program's refusal carries no such detail and then counts for the whole response.

use prost::Message;

use crate::messages::{Any, Status};

/// The type of the detail inside a [`Status`].
pub const DETAIL: &str = "transept.dev/discovery/v1/Refusals";

/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;
/// Bytes of a reason; longer ones are cut.
pub(crate) const REASON: usize = 1024;
/// Bytes of the sentence for people that sums up all reasons.
const SUMMARY: usize = 4096;

/// The detail: every resource of the response that was refused. Its other resources were accepted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refusals {
    /// One for each.
    #[prost(message, repeated, tag = "1")]
    pub refusals: Vec<Refusal>,
}

/// One resource that was refused, and why.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Refusal {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The version that was refused.
    #[prost(string, tag = "2")]
    pub version: String,
    /// What kind of reason.
    #[prost(enumeration = "Reason", tag = "3")]
    pub reason: i32,
    /// The field that is wrong, as a path (`spec.rules[0].matches`), when it is one.
    #[prost(string, tag = "4")]
    pub field: String,
    /// What is wrong, for people.
    #[prost(string, tag = "5")]
    pub message: String,
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Reason {
    /// None was given.
    Unspecified = 0,
    /// The contents are wrong.
    Invalid = 1,
    /// The response names the resource twice.
    Duplicate = 2,
    /// The proxy holds as much as it may.
    Limit = 3,
    /// The proxy does not know this type.
    UnknownType = 4,
    /// A heartbeat for a version that the proxy does not hold; it needs the contents.
    NotHeld = 5,
}

impl Refusal {
    /// A refusal of `name` in `version`.
    pub fn new(name: &str, version: &str, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            reason: reason.into(),
            field: String::new(),
            message: message.into(),
        }
    }
}

/// The error detail for `refusals`. `None` when there are none: an acceptance has no error.
pub fn to_status(mut refusals: Vec<Refusal>) -> Option<Status> {
    if refusals.is_empty() {
        return None;
    }
    let mut message = String::new();
    for refusal in &mut refusals {
        cut(&mut refusal.message, REASON);
        cut(&mut refusal.field, REASON);
        if message.len() < SUMMARY {
            let gap = if message.is_empty() { "" } else { "; " };
            message.push_str(gap);
            message.push_str(&refusal.name);
            message.push_str(": ");
            message.push_str(&refusal.message);
        }
    }
    cut(&mut message, SUMMARY);
    let value = Refusals { refusals }.encode_to_vec().into();
    let details = vec![Any { type_url: DETAIL.to_owned(), value }];
    Some(Status { code: INVALID_ARGUMENT, message, details })
}

/// The single refusals of an error detail. `None` when it has none that can be read, and so refuses the whole response.
pub fn from_status(status: &Status) -> Option<Vec<Refusal>> {
    let detail = status.details.iter().find(|detail| detail.type_url == DETAIL)?;
    let mut refusals = Refusals::decode(detail.value.clone()).ok()?.refusals;
    for refusal in &mut refusals {
        tame(&mut refusal.message, REASON);
        tame(&mut refusal.field, REASON);
    }
    (!refusals.is_empty()).then_some(refusals)
}

/// Cuts what a peer has said to at most `bytes` bytes, of one line and without anything that a terminal would take for orders.
pub(crate) fn tame(text: &mut String, bytes: usize) {
    cut(text, bytes);
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, " ");
    }
}

/// Cuts `text` to at most `bytes` bytes at a character's border.
pub(crate) fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_survive_the_wire_and_are_cut() {
        assert_eq!(to_status(Vec::new()), None);
        let long = Refusal::new("shop/b", "2", Reason::Invalid, "é".repeat(REASON));
        let status = to_status(vec![Refusal::new("shop/a", "1", Reason::Limit, "too many"), long]).expect("an error");
        assert!(status.message.starts_with("shop/a: too many; shop/b: éé"));
        let read = from_status(&status).expect("a detail");
        assert_eq!(read[0], Refusal::new("shop/a", "1", Reason::Limit, "too many"));
        assert_eq!(read[1].message.len(), REASON);
        assert_eq!(read[1].reason(), Reason::Invalid);
        let forged = to_status(vec![Refusal::new("shop/a", "1", Reason::Limit, "no\n\x1b]0;title\x07 \u{9b}8m")]);
        let read = from_status(&forged.expect("an error")).expect("a detail");
        assert_eq!(read[0].message, "no  ]0;title   8m");
    }

    #[test]
    fn an_error_without_our_detail_refuses_everything() {
        let plain = Status { code: 13, message: "no".into(), details: vec![] };
        assert_eq!(from_status(&plain), None);
        let broken = Any { type_url: DETAIL.into(), value: bytes::Bytes::from_static(b"\xff\xff") };
        assert_eq!(from_status(&Status { details: vec![broken], ..plain }), None);
    }
}
