//! Charging a request to several limits at once, and settling what it really cost when its response is known.
//!
//! Called by `policies/rate_limit.rs`. All keys that a request touches are locked together, in one order that all requests keep, so that
//! either every limit is charged or none: a request that the second limit refuses costs nothing at the first.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use smallvec::SmallVec;
use transept_model::choice;
use transept_wire::head::Response;

use super::cost::{Costs, Unpriced};
use super::fields::{Label, Shown};
use super::inquiry::{Asked, Inquiry};
use super::key::{Found, Key, KeyBytes, hash};
use super::plans::Plans;
use super::shared::{Draw, Shared, StoreName, Waited};
use super::table::{Held, Table, Terms};
use super::touched::Touch;
use super::{Algorithm, Stage, Standing, nanoseconds};
use crate::callout::Wait;
use crate::exchange::{Exchange, Now};
use crate::verdict::Replied;

choice! {
    /// Which requests count.
    pub enum Count {
        /// All that get here. What the gateway then fails to bring to the backend is given back.
        Attempts = "Attempts",
        /// Those that the backend has answered; what the gateway answers itself is given back.
        Forwarded = "Forwarded",
        /// Those whose response has one of `statuses`. They are counted when the response is there, so that as many more may be under
        /// way.
        Answers = "Answers",
    }
}

/// One limit.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) label: Label,
    pub(crate) terms: Terms,
    /// What a request may cost at most: all that there ever is, at all proxies together.
    pub(crate) most: u32,
    pub(crate) key: Key,
    /// Only for principals on one of these plans.
    pub(crate) plans: Plans,
    pub(crate) costs: Costs,
    pub(crate) count: Count,
    pub(crate) statuses: Vec<Statuses>,
    /// What tells clients of the key of a request without telling it, if they are told.
    pub(crate) partition: Option<Partition>,
    pub(crate) table: Arc<Table>,
    /// How it is shared with other proxies, if it is.
    pub(crate) shared: Option<Arc<Shared>>,
    /// The policy that it belongs to: `RateLimitPolicy shop/burst`.
    pub(crate) policy: Box<str>,
}

/// Names keys to clients: the same at all proxies with the same limit, and nothing from which the key could be guessed by who does not know how
/// the limit is written.
#[derive(Debug)]
pub(crate) struct Partition(hmac::Key);

impl Partition {
    /// Of a limit of this policy, as it is written.
    pub(crate) fn new(policy: &str, written: &str) -> Partition {
        Partition(hmac::Key::new(hmac::HMAC_SHA256, format!("{policy}\n{written}").as_bytes()))
    }

    fn name(&self, key: &[u8]) -> u64 {
        let tag = hmac::sign(&self.0, key);
        tag.as_ref().first_chunk().copied().map_or(0, u64::from_be_bytes)
    }
}

/// A status code, or all of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statuses {
    pub(crate) from: u16,
    pub(crate) to: u16,
}

impl Statuses {
    /// `401` or `5xx`.
    pub(crate) fn parse(text: &str) -> Option<Statuses> {
        if let Some(class) = text.strip_suffix("xx") {
            let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
            return Some(Statuses { from: class * 100, to: class * 100 + 99 });
        }
        let code = text.parse().ok().filter(|code| (100..600).contains(code))?;
        Some(Statuses { from: code, to: code })
    }
}

/// Why a request goes no further.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It lacks a part of the key of this limit.
    Lacks(usize, String),
    /// What it costs at this limit cannot be charged.
    Unpriced(usize, Unpriced),
    /// These limits have no room for it; the longest wait among them.
    Limits(SmallVec<[usize; 2]>, Duration),
    /// The store of this limit does not answer.
    Unavailable(usize),
    /// Tokens for it are on their way.
    Wait(Wait),
}

/// A limit that holds for the request.
struct Candidate<'l> {
    index: usize,
    limit: &'l Limit,
    hash: u64,
    partition: Option<u64>,
    cost: u32,
    held: Option<Held<'l>>,
    /// What its store has said, of a shared limit whose store answers.
    drawn: Option<(Standing, Option<Duration>)>,
    /// What its store calls the key, where the response may cost something.
    name: Option<StoreName>,
    /// Whether it is let pass uncounted, because its store does not answer.
    uncounted: bool,
    /// Whether nothing was drawn, because another one refuses.
    spared: bool,
}

/// Charges a request to all limits that hold for it, or to none. `order` has the positions of `limits` in the order of locking;
/// `policy` is the address under which the touched ones are noted.
pub(crate) fn admit(
    limits: &[Arc<Limit>],
    order: &[usize],
    policy: usize,
    x: &mut Exchange<'_>,
) -> Result<(), Refused> {
    let now = nanoseconds(x.now.monotonic);
    // What one of them refuses takes nothing from the others: tokens of a store could not be given back to it.
    let is_refused = limits.len() > 1 && !x.is_told() && limits.iter().any(|limit| limit.is_refused_by_store(now, x));
    let mut all = draw_all(limits, is_refused, now, x)?;
    if is_refused && !all.iter().any(|one| matches!(one.drawn, Some((_, Some(_))))) {
        // Tokens have come meanwhile.
        put_back(&all, now);
        all = draw_all(limits, false, now, x)?;
    }
    for position in order {
        if let Some(one) = all.iter_mut().find(|one| one.index == *position && one.is_local()) {
            one.held = Some(one.limit.table.hold(one.hash, &one.limit.terms, now));
        }
    }
    settle_all(all, policy, now, x)
}

/// Finds the limits that hold for a request, and draws its tokens at those that have a store; where one of them refuses, at none of the others.
fn draw_all<'l>(
    limits: &'l [Arc<Limit>],
    is_refused: bool,
    now: u64,
    x: &mut Exchange<'_>,
) -> Result<SmallVec<[Candidate<'l>; 3]>, Refused> {
    let mut all: SmallVec<[Candidate<'l>; 3]> = SmallVec::new();
    for (index, limit) in limits.iter().enumerate() {
        let mut key = KeyBytes::new();
        let Some(hash) = limit.find(x, &mut key).map_err(|lacks| Refused::Lacks(index, lacks)).inspect_err(|_| {
            put_back(&all, now);
        })?
        else {
            continue;
        };
        let most = u64::from(limit.most);
        let priced = limit.costs.of_request(most, x).map_err(|unpriced| Refused::Unpriced(index, unpriced));
        let cost = priced.inspect_err(|_| put_back(&all, now))?;
        let partition = limit.partition.as_ref().map(|partition| partition.name(&key));
        let (held, drawn, name) = (None, None, None);
        let mut one =
            Candidate { index, limit, hash, partition, cost, held, drawn, name, uncounted: false, spared: false };
        if let Some(shared) = &limit.shared
            && is_refused
            && !shared.leases.refuses(hash, one.cost, now)
        {
            // What was ordered for it is there for others.
            if waited_of(x).is_some_and(|waited| waited.leave(&shared.leases)) {
                x.notes.between = None;
            }
            (one.drawn, one.spared) = (Some((shared.standing(hash, now), None)), true);
        } else if let Some(shared) = &limit.shared {
            let waited = waited_of(x);
            match shared.draw(hash, &key, one.cost, now, waited.filter(|waited| waited.concerns(index))) {
                Draw::Taken(standing) => {
                    one.drawn = Some((standing, None));
                    one.name = limit.costs.has_more().then(|| StoreName::of(&key));
                }
                Draw::Refused(standing, wait) => one.drawn = Some((standing, Some(wait))),
                Draw::Uncounted => one.uncounted = true,
                Draw::Local => {}
                Draw::Unavailable => {
                    put_back(&all, now);
                    leave_beyond(limits, index, waited);
                    return Err(Refused::Unavailable(index));
                }
                Draw::Wait(wait, ticket) => {
                    put_back(&all, now);
                    // It comes again without the ticket for one that it has not come to this time.
                    leave_beyond(limits, index, waited);
                    x.notes.between = Some(Box::new(Waited::For(ticket, Waited::last(waited, index))));
                    return Err(Refused::Wait(wait));
                }
            }
        }
        all.push(one);
    }
    Ok(all)
}

/// Whoever ends at the limit at this position does not come to those behind it: what was ordered for it there is for others.
fn leave_beyond(limits: &[Arc<Limit>], index: usize, waited: Option<Waited>) {
    let Some(waited) = waited else { return };
    let others = limits.iter().skip(index + 1).filter_map(|limit| limit.shared.as_ref());
    others.for_each(|other| _ = waited.leave(&other.leases));
}

/// What a request has waited for.
fn waited_of(x: &Exchange<'_>) -> Option<Waited> {
    x.notes.between.as_ref().and_then(|between| between.downcast_ref::<Waited>().copied())
}

/// Looks at all limits, and charges those that are counted here if all of them have room.
fn settle_all(
    mut all: SmallVec<[Candidate<'_>; 3]>,
    policy: usize,
    now: u64,
    x: &mut Exchange<'_>,
) -> Result<(), Refused> {
    let mut refused = SmallVec::new();
    let mut longest = Duration::ZERO;
    let mut after: SmallVec<[_; 3]> = SmallVec::new();
    for one in &all {
        let cell = one.held.as_ref().map(Held::cell).unwrap_or_default();
        let charged = match (&one.drawn, one.uncounted) {
            (Some((_, Some(wait))), _) => Err(*wait),
            (Some((_, None)), _) | (None, true) => Ok(cell),
            // What is free passes even where there is a debt.
            (None, false) if one.cost == 0 => Ok(cell),
            (None, false) => one.algorithm().charge(cell, now, one.cost),
        };
        if let Err(wait) = charged {
            refused.push(one.index);
            longest = longest.max(wait);
        }
        after.push((cell, charged));
    }
    let passes = refused.is_empty();
    if !passes {
        put_back(&all, now);
    }
    for (one, (before, charged)) in all.iter_mut().zip(after) {
        let counts_now = one.limit.count != Count::Answers && !one.uncounted;
        let (cell, cost) = match charged {
            Ok(cell) if passes && counts_now => (cell, one.cost),
            _ => (before, 0),
        };
        if let (Some(held), true) = (&mut one.held, cost > 0) {
            held.put(cell);
        }
        let standing = one.drawn.map_or_else(|| one.algorithm().standing(cell, now), |(standing, _)| standing);
        x.notes.touched.limits.push(Touch {
            policy,
            limit: u16::try_from(one.index).unwrap_or(u16::MAX),
            charged: cost,
            cost: one.cost,
            hash: one.hash,
            partition: one.partition,
            is_shared: one.drawn.is_some(),
            name: one.name,
            standing,
            wait: charged.err(),
        });
    }
    drop(all);
    if passes { Ok(()) } else { Err(Refused::Limits(refused, longest)) }
}

/// Gives tokens of shared limits back that are not used after all.
fn put_back(all: &[Candidate<'_>], now: u64) {
    for one in all {
        if let (Some(shared), Some((_, None)), false) = (&one.limit.shared, &one.drawn, one.spared) {
            shared.leases.put_back(one.hash, one.cost, now);
        }
    }
}

impl Candidate<'_> {
    fn is_local(&self) -> bool {
        self.drawn.is_none() && !self.uncounted
    }

    fn algorithm(&self) -> &Algorithm {
        self.held.as_ref().map_or(&self.limit.terms.algorithm, |held| &held.algorithm)
    }
}

impl Limit {
    /// Whether its store has said that it has no room for the request. Of one that is without a store, nobody knows before it is charged.
    fn is_refused_by_store(&self, now: u64, x: &mut Exchange<'_>) -> bool {
        let Some(shared) = self.shared.as_ref().filter(|shared| !shared.store.is_down()) else { return false };
        let mut key = KeyBytes::new();
        let Ok(Some(hash)) = self.find(x, &mut key) else { return false };
        self.costs.of_request(u64::from(self.most), x).is_ok_and(|cost| shared.leases.refuses(hash, cost, now))
    }

    /// The hash of the request's key. None when the limit does not hold for it.
    fn find(&self, x: &mut Exchange<'_>, key: &mut KeyBytes) -> Result<Option<u64>, String> {
        if !self.plans.include(x) {
            return Ok(None);
        }
        match self.key.write(x, key) {
            Found::Whole => Ok(Some(hash(self.table.seed(x.random), key))),
            Found::Skipped => {
                if x.is_told() {
                    let lacking = self.key.lacking(x).unwrap_or_default();
                    let (name, policy) = (&self.label.name, &self.policy);
                    x.tell(|| format!("limit {name} of {policy} does not hold: no {lacking} (missing: Skip)"));
                }
                Ok(None)
            }
            Found::Lacks(part) => Err(part),
        }
    }

    /// Settles a request whose response is known. In front of authentication an attempt is one, also when a limit behind refuses it: who
    /// floods the gateway is to be refused there.
    pub(crate) fn settle(&self, touch: &mut Touch, stage: Stage, x: &Exchange<'_>, response: &Response) {
        let is_front = stage == Stage::BeforeAuthentication;
        let refund = match (self.count, x.notes.replied) {
            (Count::Answers, _) | (_, None) => false,
            (Count::Forwarded, Some(_)) => true,
            (Count::Attempts, Some(Replied { reason, .. })) => {
                reason.is_before_backend() || (reason.is_limit() && !is_front)
            }
        };
        let mut debit = 0;
        let refused_here = x.notes.replied.is_some_and(|replied| replied.reason.is_limit());
        if self.count == Count::Answers && !refused_here {
            let status = x.notes.replied.map_or(response.status, |replied| replied.status);
            if self.statuses.iter().any(|one| (one.from..=one.to).contains(&status)) {
                // Not asked again: filters may have changed the request since.
                debit = touch.cost;
            }
        }
        if x.notes.replied.is_none() {
            debit = debit.saturating_add(self.costs.of_response(x, response));
        }
        if debit == 0 && !(refund && touch.charged > 0) {
            return;
        }
        let now = nanoseconds(x.now.monotonic);
        if let (Some(shared), true) = (&self.shared, touch.is_shared) {
            if refund {
                shared.leases.put_back(touch.hash, touch.charged, now);
                touch.standing.left = touch.standing.left.saturating_add(i64::from(touch.charged));
                touch.charged = 0;
            }
            if let (Some(name), true) = (touch.name, debit > 0) {
                shared.debit(touch.hash, name, debit);
                touch.standing.left = touch.standing.left.saturating_sub(i64::from(debit));
            }
            return;
        }
        let mut held = self.table.hold(touch.hash, &self.terms, now);
        let mut cell = held.cell();
        if refund {
            cell = held.algorithm.refund(cell, now, touch.charged);
            touch.charged = 0;
        }
        if debit > 0 {
            cell = held.algorithm.debit(cell, now, debit);
            touch.charged = touch.charged.saturating_add(debit);
        }
        held.put(cell);
        touch.standing = held.algorithm.standing(cell, now);
    }

    /// Takes what the bodies of an exchange have cost, whether it is there or not.
    pub(crate) fn debit(&self, hash: u64, at_store: Option<StoreName>, cost: u32, now: Now) {
        if let (Some(shared), Some(name)) = (&self.shared, at_store) {
            shared.debit(hash, name, cost);
            return;
        }
        let now = nanoseconds(now.monotonic);
        let mut held = self.table.hold(hash, &self.terms, now);
        let cell = held.algorithm.debit(held.cell(), now, cost);
        held.put(cell);
    }

    /// What the client is told.
    pub(crate) fn show(&self, touch: &Touch) -> Shown<'_> {
        Shown {
            label: &self.label,
            standing: touch.standing,
            wait: touch.wait,
            partition: touch.partition,
            timed: true,
        }
    }

    /// Says to an explanation what became of the request.
    pub(crate) fn tell(&self, touch: &Touch, x: &mut Exchange<'_>) {
        if !x.is_told() {
            return;
        }
        let line = self.describe(touch, x);
        x.tell(|| line);
        let mut key = KeyBytes::new();
        if let Found::Whole = self.key.write(x, &mut key) {
            let name = format!("{} {}", self.policy, super::kept_as(&self.label.name));
            let asked = match &self.shared {
                Some(shared) => Asked::Shared(shared.bucket, touch.cost, shared.unavailable),
                None => Asked::Rate(self.terms.algorithm, touch.cost),
            };
            x.inquire(|| Inquiry::new(name, &key, asked));
        }
    }

    fn describe(&self, touch: &Touch, x: &Exchange<'_>) -> String {
        let algorithm = &self.terms.algorithm;
        let mut how = match algorithm {
            Algorithm::Bucket(_) if touch.is_shared => "shared token bucket",
            Algorithm::Bucket(_) => "token bucket",
            Algorithm::Window(_) => "sliding window",
        }
        .to_owned();
        if algorithm.proxies() > 1 {
            how.push_str(&format!(", the share of one of {} proxies", algorithm.proxies()));
        }
        let policy = &self.policy;
        let capacity = algorithm.capacity();
        let left = touch.standing.left;
        let key = self.key.describe(x);
        let full = super::seconds(touch.standing.full_in);
        let verdict = match touch.wait {
            Some(wait) => format!("no room for {} ms", wait.as_millis()),
            None => format!("takes {}{}", touch.charged, self.costs.describe()),
        };
        let name = &self.label.name;
        if self.shared.is_some() && !touch.is_shared {
            return format!(
                "limit {name} of {policy}, shared token bucket of {capacity}, by {key}: what is left only its store knows"
            );
        }
        format!(
            "limit {name} of {policy}, {how}, by {key}: {verdict}, {left} of {capacity} left, as at first in {full} s"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_codes_and_classes() {
        assert_eq!(Statuses::parse("401"), Some(Statuses { from: 401, to: 401 }));
        assert_eq!(Statuses::parse("5xx"), Some(Statuses { from: 500, to: 599 }));
        for text in ["xx", "6xx", "99", "600", "4x", "ok"] {
            assert_eq!(Statuses::parse(text), None, "{text}");
        }
    }
}
