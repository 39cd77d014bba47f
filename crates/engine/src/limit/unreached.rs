//! Limits that nobody can reach, because another one that counts the same, or more, is always reached first.
//!
//! The policies that limit (`policies/rate_limit.rs`, `policies/quota.rs`, `policies/concurrency.rs`) ask about theirs as they are written: one beside
//! another of its policy is refused when both count by the same key, which can only be a mistake, and told otherwise. When one limit is tighter
//! than another each of them says itself.

use transept_model::place::{ObjectName, Spot};
use transept_model::schema::{Decoder, Text};
use transept_model::value::ticked;

use super::key::{KeyPartSpec, Missing};
use crate::policies::{Age, Caution};

/// A limit as it is written.
pub(crate) trait Written {
    /// What it is called: `limit`, `quota`.
    const WORD: &'static str;

    /// What of it all kinds of limits have.
    fn outline(&self) -> Outline<'_>;

    /// Whether it is reached wherever the other one would be, if it counts all that the other one does.
    fn is_tighter(&self, other: &Self, order: Order) -> bool;

    /// Whether requests wait for it, with what they have of limits that were asked before.
    fn holds_up(&self) -> bool {
        false
    }
}

/// When a limit is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Before the one that it is compared with.
    Before,
    /// After it.
    Later,
    /// For another policy, which may count more: before or after it.
    Apart,
}

/// What every limit says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outline<'a> {
    /// Where it stands.
    at: Spot,
    name: &'a str,
    counted: Counted<'a>,
}

impl Outline<'_> {
    /// Whether both count the same requests by the same key.
    pub(crate) fn counts_like(&self, other: &Outline<'_>) -> bool {
        self.counted == other.counted
    }
}

impl<'a> Outline<'a> {
    pub(crate) fn new(
        at: Spot,
        name: &'a Text,
        key: Option<&'a Vec<KeyPartSpec>>,
        missing: Option<Missing>,
        plans: &'a [Text],
    ) -> Outline<'a> {
        Outline { at, name, counted: Counted { key: key.map(Vec::as_slice), missing, plans } }
    }
}

/// Whose requests a limit counts, and by what.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counted<'a> {
    key: Option<&'a [KeyPartSpec]>,
    missing: Option<Missing>,
    plans: &'a [Text],
}

impl Counted<'_> {
    /// Whether all that has one count there has one here, too: counted by the same key or by a part of it, for the same plans or for more.
    fn includes(self, other: Self) -> bool {
        let is_part = match (self.key, other.key) {
            (Some(own), Some(others)) => own.iter().all(|part| others.contains(part)),
            (own, others) => own == others,
        };
        // Where nothing can be missing, it does not matter what becomes of whoever lacks something.
        let is_for_all = self.key.is_some_and(<[_]>::is_empty) || self.missing == other.missing;
        let has_plans = self.plans.is_empty()
            || (!other.plans.is_empty() && other.plans.iter().all(|plan| self.plans.contains(plan)));
        is_part && is_for_all && has_plans
    }
}

/// Whether `limit` is never reached because of `other`.
fn forestalls<L: Written>(other: &L, limit: &L, order: Order) -> bool {
    other.outline().counted.includes(limit.outline().counted) && other.is_tighter(limit, order)
}

/// The limits of one policy that are never reached, each with the first one because of which: one that counts the same, or one that counts more. Of two
/// that say the same it is the later one.
fn within<L: Written>(limits: &[L], counts_same: bool) -> impl Iterator<Item = (&L, &L)> {
    limits.iter().enumerate().filter_map(move |(index, limit)| {
        let is_first = |at: usize, other: &L| match at < index {
            true => forestalls(other, limit, Order::Before),
            false => {
                let between = limits.get(index + 1..at).unwrap_or_default();
                !between.iter().any(L::holds_up)
                    && at > index
                    && forestalls(other, limit, Order::Later)
                    && !forestalls(limit, other, Order::Before)
            }
        };
        let mut others = limits.iter().enumerate();
        let first = others
            .find(|(at, other)| limit.outline().counts_like(&other.outline()) == counts_same && is_first(*at, other));
        Some((limit, first?.1))
    })
}

/// Refuses limits of a policy that another one of it, which counts the same, always reaches first.
pub(crate) fn refuse<L: Written>(limits: &[L], cx: &mut Decoder) {
    for (limit, other) in within(limits, true) {
        let (limit_name, other_name) = (ticked(limit.outline().name), ticked(other.outline().name));
        cx.refuse(
            limit.outline().at,
            format!("{} {limit_name} is never reached, because {other_name} allows no more", L::WORD),
        )
        .remedy("remove it, or mend its numbers or its key");
    }
}

/// Tells of limits of a policy that another one of it, which counts more, always reaches first.
pub(crate) fn tell<L: Written>(limits: &[L]) -> Vec<Caution> {
    let say = |(limit, other): (&L, &L)| Caution {
        at: limit.outline().at,
        what: format!(
            "{} `{}` is never reached, because `{}` holds for all that it holds for and allows no more; remove it, or mend its numbers or its key",
            L::WORD,
            limit.outline().name,
            other.outline().name
        ),
    };
    within(limits, false).map(say).collect()
}

/// Tells of limits of a policy that one of another policy, of this name, always reaches first: it stands on all targets of this one.
pub(crate) fn tell_beside<L: Written>(own: &[L], others: &[L], name: &ObjectName, age: Age) -> Vec<Caution> {
    if own.iter().chain(others).any(L::holds_up) {
        return Vec::new();
    }
    let say = |limit: &L| {
        // Which of them is asked first depends on the place.
        let is_first = |other: &&L| {
            forestalls(*other, limit, Order::Apart) && (age == Age::Younger || !forestalls(limit, *other, Order::Apart))
        };
        let other = others.iter().find(is_first)?;
        let what = format!(
            "{} `{}` is never reached, because `{}` of {name}, which stands wherever this policy does, allows no more; remove it, or mend its numbers \
             or its key",
            L::WORD,
            limit.outline().name,
            other.outline().name
        );
        Some(Caution { at: limit.outline().at, what })
    };
    own.iter().filter_map(say).collect()
}
