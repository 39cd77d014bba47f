//! `QuotaPolicy`: how much may be used in a day, a week or a month.
//!
//! What is used survives the end of the process, a sudden one too: `limit/book.rs` says how much such an end can give back. All policies of the
//! kind at one place hold together: a request is counted by all of their quotas or by none.

mod check;

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use transept_model::place::ObjectName;
use transept_model::policy::{Merge, Target};
use transept_model::schema::{HEADER_NAME, Rule, Text};
use transept_model::{choice, object};
use transept_wire::head::Response;
use twox_hash::XxHash3_128;

use self::check::{check_quota, check_spec};
use super::{Age, Caution, CompileCx, Identified, Known, Phase, Policy, PolicyName};
use crate::callout::{Callout, CalloutResult, Wait};
use crate::exchange::Exchange;
use crate::expression::{NumberExpression, ResponseExpression};
use crate::limit::Standing;
use crate::limit::body_cost::{BodyCostSpec, bill};
use crate::limit::book::{Allowance, BOOK, Book, Taken};
use crate::limit::cost::{CostFields, CostSpec, Costs};
use crate::limit::fields::{Label, LimitHeaders, Shown, refusal, show};
use crate::limit::inquiry::{Asked, Inquiry};
use crate::limit::key::{Found, Key, KeyBytes, KeyPartSpec, Missing, cautions};
use crate::limit::ledger::Account;
use crate::limit::period::{Period, PeriodLength, Periods, day, zone};
use crate::limit::plans::Plans;
use crate::limit::repeats::{Paid, Repeatable};
use crate::limit::touched::{Touch, address};
use crate::limit::unreached;
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

object! {
    /// How much may be used in a day, a week or a month. All quotas must have room for a request, else it is refused with 429 and costs
    /// nothing.
    pub struct QuotaPolicySpec {
        /// The quotas, all of which hold.
        quotas: Vec<QuotaSpec> => Rule::MinItems(1), Rule::MaxItems(16), Rule::UniqueBy("name");
        /// What becomes of a request while what is used cannot be written to the disk.
        on_unavailable: Unavailable = Unavailable::Deny;
    }
    check check_spec;
}

choice! {
    /// What becomes of a request that cannot be counted for good.
    pub enum Unavailable {
        /// It is refused with 503.
        Deny = "Deny",
        /// It is counted in memory only, which a crash forgets.
        Allow = "Allow",
    }
}

object! {
    /// One quota.
    pub struct QuotaSpec {
        /// Its name, which clients are told in `RateLimit` and in refusals.
        name: Text => Rule::Length(1, 64);
        /// How many requests, or how much cost, in each period.
        requests: u32 => Rule::Range(1, 4_000_000_000);
        /// How long a period is.
        per: PeriodLength;
        /// The time zone whose midnights count, by its IANA name.
        time_zone: Text = Text::from("UTC");
        /// A day on which a period begins, such as 2026-01-15: of a month its day, of a week its weekday. A month that is too short
        /// has its last day instead. Without it, periods are those of the calendar.
        start: Option<Text>;
        /// What is counted by, in parts that together are the key. An empty list is one quota that everybody shares.
        key: Option<Vec<KeyPartSpec>> => Rule::MaxItems(8);
        /// What becomes of a request that lacks a part of the key. Must be written when one may be lacking.
        missing: Option<Missing>;
        /// Only for principals on one of these plans (all requests).
        plans: Vec<Text> => Rule::MaxItems(64), Rule::Length(1, 253);
        /// What a request costs.
        cost: u32 = 1 => Rule::Range(1, 1_000_000);
        /// What some operations cost instead; the first that fits counts.
        costs: Vec<CostSpec> => Rule::MaxItems(256);
        /// What all other requests cost instead of `cost`, as an expression: `has(request.query.deep) ? 10 : 1`. A request for which it
        /// has no value, or one that is below zero or above what is ever there, is refused with 400.
        cost_expression: Option<NumberExpression>;
        /// A field of the backend's response that says what the request has cost besides; a number, taken after the response, and even
        /// when there is less left.
        response_cost: Option<Text> => Rule::Is(&HEADER_NAME);
        /// The same as an expression about the backend's response: `int(response.headers["x-tokens"]) / 1000`. No value, and one below
        /// zero, costs nothing.
        response_cost_expression: Option<ResponseExpression>;
        /// What the bodies say, instead: a number in the JSON of the response, or bytes. Taken when the response is over.
        response_cost_body: Option<BodyCostSpec>;
        /// What a request costs that a trusted proxy sends again, under the `x-request-id` that it had. Make it free only where the proxies
        /// name requests themselves, and take no name from their clients.
        repeats: Repeats = Repeats::Count;
        /// Lets requests pass that are beyond it, and counts them. Clients are told that nothing is left.
        soft: bool = false;
        /// Which fields of responses tell of it.
        headers: LimitHeaders = LimitHeaders::Ietf;
        /// How many keys are remembered, in memory and in the file. Beyond it those give way that have used least in their period, but none that has used
        /// more than half: where there is no other, new keys share one count.
        max_keys: u32 = 1_000_000 => Rule::Range(1_000, 100_000_000);
    }
    check check_quota;
}

choice! {
    /// What a request costs that comes again.
    pub enum Repeats {
        /// As much as any other.
        Count = "Count",
        /// Nothing, where a trusted proxy tries a request again: method, host, path and `x-request-id` are those of one that was counted for the
        /// same key a few minutes ago. Who connects to the listener himself has no say in it, whatever he calls his requests.
        Free = "Free",
    }
}

impl QuotaSpec {
    fn cost_fields(&self) -> CostFields<'_> {
        CostFields {
            cost: self.cost,
            costs: &self.costs,
            expression: self.cost_expression.as_ref(),
            response_field: self.response_cost.as_ref(),
            response_expression: self.response_cost_expression.as_ref(),
            response_body: self.response_cost_body.as_ref(),
        }
    }
}

#[derive(Debug)]
struct Quota {
    label: Label,
    most: u64,
    periods: Periods,
    key: Key,
    plans: Plans,
    costs: Costs,
    repeats: Repeats,
    soft: bool,
    unavailable: Unavailable,
    book: Arc<Book>,
    /// Where its keys are counted.
    account: Account,
    /// `QuotaPolicy shop/gold`.
    policy: Box<str>,
    /// What all of its keys begin with: a hash of its name, the same after a restart.
    prefix: [u8; 16],
}

/// What a request has taken of one quota.
#[derive(Clone, Copy, Debug)]
struct Charge {
    hash: u128,
    period: Period,
    cost: u32,
    /// What it is called if it may come again for nothing.
    request: Option<Repeatable>,
}

/// One or several compiled `QuotaPolicy` objects.
#[derive(Debug)]
pub(crate) struct QuotaPolicy {
    quotas: Vec<Arc<Quota>>,
    /// The policies that they belong to, once they are joined.
    owners: Vec<Arc<PolicyName>>,
    /// The quotas as they are written, before they are joined.
    written: Vec<QuotaSpec>,
}

/// Why a request goes no further.
enum Stop {
    Wait,
    /// With what the cause says beside the name of the quota.
    Refuse(Box<Reply>, String),
}

/// How sure a count must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Asked,
    NotAsked,
}

impl Quota {
    /// How far it is with this much used.
    fn standing(&self, used: u64, period: Period, now: Duration) -> Standing {
        let left = i64::try_from(self.most).unwrap_or(i64::MAX).saturating_sub_unsigned(used);
        Standing { left, full_in: period.rest(now) }
    }

    /// Counts a request. None when the quota does not hold for it.
    fn take(&self, written: Written, x: &mut Exchange<'_>) -> Result<Option<(Charge, Standing)>, Stop> {
        if !self.plans.include(x) {
            return Ok(None);
        }
        let mut key = KeyBytes::from_slice(&self.prefix);
        match self.key.write(x, &mut key) {
            Found::Whole => {}
            Found::Skipped => {
                if x.is_told() {
                    let lacking = self.key.lacking(x).unwrap_or_default();
                    let (name, policy) = (&self.label.name, &self.policy);
                    x.tell(|| format!("quota {name} of {policy} does not hold: no {lacking} (missing: Skip)"));
                }
                return Ok(None);
            }
            Found::Lacks(part) => {
                let detail = format!("Requests are counted by {part}, and this one has none.");
                let reply = Reply::new(Reason::LimitKeyMissing).with_detail(detail);
                return Err(Stop::Refuse(reply.into(), ", missing: Reject".to_owned()));
            }
        }
        let Some(period) = self.periods.at(x.now.unix) else {
            return Err(Stop::Refuse(Reply::new(Reason::LimitUnavailable).into(), String::new()));
        };
        let hash = self.book.hash(x.random, &key);
        let most = if self.soft { u64::MAX } else { self.most };
        let cost = match self.costs.of_request(most, x) {
            Ok(cost) => cost,
            Err(unpriced) => return Err(Stop::Refuse(unpriced.reply().into(), format!(", {unpriced}"))),
        };
        let allowance = Allowance {
            most: (!self.soft).then_some(self.most),
            slack: (written == Written::Asked).then_some((self.most / 100).max(1)),
        };
        let now = x.now.unix.as_secs();
        let request = match self.repeats {
            Repeats::Free => Repeatable::of(x, hash),
            Repeats::Count => None,
        };
        let take = |cost, allowance| self.book.take(&self.account, hash, period, now, u64::from(cost), allowance);
        let (cost, taken) = match request {
            None => (cost, take(cost, allowance)),
            Some(request) => {
                let repeats = &self.account.ledger.repeats;
                match repeats.begin(request, Paid { period, cost }, x.now.monotonic, || take(cost, allowance)) {
                    Some(taken) => (cost, taken),
                    None => (0, take(0, ANYWAY)),
                }
            }
        };
        match taken {
            // What is given back or costs more later is so where it was counted.
            Taken::Counted(used) => {
                let charge = Charge { hash, period, cost, request };
                Ok(Some((charge, self.standing(used, period, x.now.unix))))
            }
            // Of those who count together it is not remembered who may come again for nothing.
            Taken::Together(used, hash) => {
                let charge = Charge { hash, period, cost, request: None };
                Ok(Some((charge, self.standing(used, period, x.now.unix))))
            }
            Taken::Full(_) => {
                let wait = period.rest(x.now.unix);
                let detail = format!("There is room again in {} s.", crate::limit::seconds(wait).max(1));
                let reply = refusal(Reason::QuotaExceeded, &[&self.label.name], wait, detail.into());
                Err(Stop::Refuse(reply.into(), String::new()))
            }
            Taken::Wait => Err(Stop::Wait),
            Taken::Unavailable => match self.unavailable {
                Unavailable::Deny => Err(Stop::Refuse(Reply::new(Reason::LimitUnavailable).into(), String::new())),
                Unavailable::Allow => self.take(Written::NotAsked, x),
            },
        }
    }

    /// Settles a request whose response is known: how much is used then, if that has changed.
    fn settle(&self, charge: &mut QuotaCharge, x: &Exchange<'_>, response: &Response) -> Option<u64> {
        if x.notes.replied.is_some_and(|replied| replied.reason.is_limit() || replied.reason.is_before_backend()) {
            let back = self.undo(charge.charge);
            charge.charge.cost = 0;
            return back;
        }
        if let Some(request) = charge.charge.request {
            self.account.ledger.repeats.stand(request);
        }
        if x.notes.replied.is_some() {
            return None;
        }
        let Charge { hash, period, request, .. } = charge.charge;
        let debit = self.costs.of_response(x, response);
        if debit == 0 || request.is_some_and(|request| !self.account.ledger.repeats.bill(request)) {
            return None;
        }
        let now = x.now.unix.as_secs();
        match self.book.take(&self.account, hash, period, now, u64::from(debit), ANYWAY) {
            Taken::Counted(used) | Taken::Together(used, _) => Some(used),
            _ => None,
        }
    }

    /// Gives back what a request has taken that comes to nothing. How much is used then, if that has changed in its own period.
    fn undo(&self, charge: Charge) -> Option<u64> {
        let paid = match charge.request {
            None => Paid { period: charge.period, cost: charge.cost },
            Some(request) => self.account.ledger.repeats.fail(request)?,
        };
        let used = self.book.give_back(&self.account, charge.hash, paid.period, u64::from(paid.cost));
        (paid.period == charge.period).then_some(used)
    }

    /// Notes that the bodies of an exchange will cost something.
    fn bill_bodies(&self, charge: &QuotaCharge, x: &mut Exchange<'_>, response: &Response) {
        let Some(body) = self.costs.of_bodies().filter(|_| x.notes.replied.is_none()) else { return };
        let (book, account) = (Arc::clone(&self.book), self.account.clone());
        let Charge { hash, period, request, .. } = charge.charge;
        bill(body, x, response, move |cost, now| {
            if cost > 0 && request.is_none_or(|request| account.ledger.repeats.bill(request)) {
                book.take(&account, hash, period, now.unix.as_secs(), u64::from(cost), ANYWAY);
            }
        });
    }

    fn describe(&self, standing: Standing, verdict: &str, x: &Exchange<'_>) -> String {
        let (name, policy, most) = (&self.label.name, &self.policy, self.most);
        let (key, end) = (self.key.describe(x), crate::limit::seconds(standing.full_in));
        format!("quota {name} of {policy}, by {key}: {verdict}, {} of {most} left, anew in {end} s", standing.left)
    }
}

impl QuotaPolicy {
    fn count(&self, written: Written, x: &mut Exchange<'_>) -> Verdict {
        if x.notes.again {
            return Verdict::Continue;
        }
        let before = x.notes.touched.limits.len();
        let mut charges: SmallVec<[(usize, Charge); 2]> = SmallVec::new();
        for (index, quota) in self.quotas.iter().enumerate() {
            let stop = match quota.take(written, x) {
                Ok(None) => continue,
                Ok(Some((charge, standing))) => {
                    charges.push((index, charge));
                    self.note(index, Some(charge), standing, None, x);
                    continue;
                }
                Err(stop) => stop,
            };
            for (index, charge) in charges {
                if let Some(quota) = self.quotas.get(index) {
                    quota.undo(charge);
                }
            }
            x.notes.touched.limits.truncate(before);
            match stop {
                Stop::Wait => {
                    let Some(timeout) = x.may_wait(PATIENCE) else { return self.without_file(x) };
                    let what = "the quota to be written";
                    return Callout::Wait(Wait { what, until: quota.book.written(), timeout }).into();
                }
                Stop::Refuse(reply, why) => return self.refuse(index, quota, *reply, &why, x),
            }
        }
        for quota in charges.iter().filter_map(|(index, _)| self.quotas.get(*index)) {
            if let Some(body) = quota.costs.of_bodies() {
                body.prepare(x);
            }
        }
        let policy = address(self);
        let charges = charges.into_iter().map(|(quota, charge)| QuotaCharge { policy, quota, charge });
        x.notes.charges.extend(charges);
        Verdict::Continue
    }

    fn refuse(&self, index: usize, quota: &Quota, reply: Reply, why: &str, x: &mut Exchange<'_>) -> Verdict {
        if reply.reason == Reason::QuotaExceeded
            && let Some(period) = quota.periods.at(x.now.unix)
        {
            let standing = quota.standing(quota.most, period, x.now.unix);
            self.note(index, None, standing, Some(period.rest(x.now.unix)), x);
        }
        x.notes.answered_by = self.owners.get(index).map(Arc::clone);
        reply.because(format!("{}, quota {}{why}", quota.policy, quota.label.name)).into()
    }

    /// What becomes of a request while nothing is written.
    fn without_file(&self, x: &mut Exchange<'_>) -> Verdict {
        match self.quotas.iter().position(|quota| quota.unavailable == Unavailable::Deny) {
            Some(index) => match self.quotas.get(index) {
                Some(quota) => self.refuse(index, quota, Reply::new(Reason::LimitUnavailable), "", x),
                None => Verdict::Continue,
            },
            None => self.count(Written::NotAsked, x),
        }
    }

    fn note(
        &self,
        index: usize,
        charge: Option<Charge>,
        standing: Standing,
        wait: Option<Duration>,
        x: &mut Exchange<'_>,
    ) {
        let charged = charge.map_or(0, |charge| charge.cost);
        if let Some(quota) = self.quotas.get(index).filter(|_| x.is_told()) {
            let verdict = if wait.is_some() {
                "no room".to_owned()
            } else {
                let again = match charge.and_then(|charge| charge.request) {
                    Some(_) => ", and nothing when it comes again under this x-request-id",
                    None => "",
                };
                format!("takes {charged}{}{again}", quota.costs.describe())
            };
            let line = quota.describe(standing, &verdict, x);
            x.tell(|| line);
            let mut key = KeyBytes::from_slice(&quota.prefix);
            if let (Found::Whole, Some(period)) = (quota.key.write(x, &mut key), quota.periods.at(x.now.unix)) {
                x.inquire(|| Inquiry::new(BOOK.to_owned(), &key, Asked::Quota(quota.most, period)));
            }
        }
        let limit = u16::try_from(index).unwrap_or(u16::MAX);
        x.notes.touched.limits.push(Touch {
            policy: address(self),
            limit,
            charged,
            cost: charged,
            hash: 0,
            partition: None,
            is_shared: false,
            name: None,
            standing,
            wait,
        });
    }
}

/// For what is used already, whatever is left and written.
const ANYWAY: Allowance = Allowance { most: None, slack: None };
/// How long a request waits for what is used to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a request has taken of a quota, in the notes of its exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuotaCharge {
    policy: usize,
    quota: usize,
    charge: Charge,
}

/// What the keys of a quota begin with. Counts of other periods mean nothing in these.
fn prefix(policy: &str, quota: &QuotaSpec) -> [u8; 16] {
    let QuotaSpec { name, per, time_zone, start, .. } = quota;
    XxHash3_128::oneshot(format!("{policy}/{}/{per:?}/{time_zone:?}/{start:?}", &**name).as_bytes()).to_le_bytes()
}

impl Policy for QuotaPolicy {
    const KIND: &'static str = "QuotaPolicy";
    const ABOUT: &'static str = "Says how much may be used in a day, a week or a month, and remembers it for good.";
    const PHASE: Phase = Phase::Limit;
    const MERGE: Merge = Merge::Together;
    const TARGETS: &'static [Target] = &[Target::Gateway, Target::Listener, Target::Route, Target::Rule];
    type Spec = QuotaPolicySpec;

    fn compile(spec: &QuotaPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let book = cx.keep_for_all(BOOK, Book::default);
        let policy = format!("{} {}/{}", cx.name.kind, cx.name.namespace, cx.name.name);
        let compile = |quota: &QuotaSpec, cx: &mut CompileCx<'_>| {
            let key = Key::compile(quota.key.as_ref(), quota.missing, quota.at, Phase::Limit, cx)?;
            let (start, zone) = (quota.start.as_ref().and_then(|start| day(start)), zone(&quota.time_zone)?);
            let (length, nominal) = (quota.per, nominal(quota.per));
            let costs = Costs::compile(&quota.cost_fields(), cx);
            let prefix = prefix(&policy, quota);
            // One that lets everything pass has nothing that somebody might want back.
            let keeps = if quota.soft { u64::MAX } else { u64::from(quota.requests / 2) };
            let account = book.open(&prefix, &format!("{} of {policy}", &*quota.name), quota.max_keys, keeps);
            Some(Arc::new(Quota {
                label: Label::new(&quota.name, quota.requests, Some(nominal), costs.unit(), quota.headers),
                most: u64::from(quota.requests),
                periods: Periods::new(length, zone, start),
                key,
                plans: Plans::compile(&quota.plans, cx),
                costs,
                repeats: quota.repeats,
                soft: quota.soft,
                unavailable: spec.on_unavailable,
                book: Arc::clone(&book),
                account,
                policy: policy.as_str().into(),
                prefix,
            }))
        };
        let quotas: Vec<Option<Arc<Quota>>> = spec.quotas.iter().map(|quota| compile(quota, cx)).collect();
        let quotas = quotas.into_iter().collect::<Option<Vec<_>>>()?;
        Some(QuotaPolicy { quotas, owners: Vec::new(), written: spec.quotas.clone() })
    }

    fn join(all: &[(&Arc<PolicyName>, &Self)]) -> Option<Self> {
        let (mut quotas, mut owners) = (Vec::new(), Vec::new());
        for (name, policy) in all {
            quotas.extend(policy.quotas.iter().map(Arc::clone));
            owners.extend(policy.quotas.iter().map(|_| Arc::clone(name)));
        }
        Some(QuotaPolicy { quotas, owners, written: Vec::new() })
    }

    fn cautions(&self, known: Known) -> Vec<Caution> {
        let unspared = self.quotas.iter().filter(|one| one.repeats == Repeats::Free);
        let unspared = unspared.filter(|_| known.forwarded == Identified::Nowhere).map(|one| Caution {
            at: one.key.at,
            what: format!(
                "`repeats: Free` of quota `{}` spares nobody, because no proxy is trusted here to name requests; write the networks of those in \
                 front into `clientAddress.trustedProxies` of a ListenerPolicy, or leave it out",
                one.label.name
            ),
        });
        let keys = cautions(self.quotas.iter().map(|one| (&*one.label.name, &one.key, &one.plans)), known);
        keys.into_iter().chain(unspared).chain(unreached::tell(&self.written)).collect()
    }

    fn beside(&self, other: &Self, name: &ObjectName, age: Age) -> Vec<Caution> {
        unreached::tell_beside(&self.written, &other.written, name, age)
    }

    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        self.count(Written::Asked, x)
    }

    fn on_callout(&self, x: &mut Exchange<'_>, result: CalloutResult) -> Verdict {
        x.has_waited();
        if matches!(result, CalloutResult::Waited | CalloutResult::Assumed) {
            return self.count(Written::Asked, x);
        }
        self.without_file(x)
    }

    fn on_response(&self, x: &mut Exchange<'_>, response: &mut Response) {
        let own = address(self);
        let mut touched = std::mem::take(&mut x.notes.touched);
        let mut charges = std::mem::take(&mut x.notes.charges);
        for charge in charges.iter_mut().filter(|charge| charge.policy == own) {
            let Some(quota) = self.quotas.get(charge.quota) else { continue };
            quota.bill_bodies(charge, x, response);
            let Some(used) = quota.settle(charge, x, response) else { continue };
            let mut own_touches = touched.limits.iter_mut().filter(|touch| touch.policy == own);
            if let Some(touch) = own_touches.find(|touch| usize::from(touch.limit) == charge.quota) {
                touch.standing = quota.standing(used, charge.charge.period, x.now.unix);
            }
        }
        x.notes.charges = charges;
        let limits = touched.copied();
        let shown = limits.iter().filter(|touch| touch.policy == own).filter_map(|touch| {
            let label = &self.quotas.get(usize::from(touch.limit))?.label;
            Some(Shown { label, standing: touch.standing, wait: touch.wait, partition: None, timed: true })
        });
        show(shown, &mut touched, response);
        x.notes.touched = touched;
    }
}

/// How long clients are told that a period is. Its real end is in `t`.
fn nominal(length: PeriodLength) -> Duration {
    let days = match length {
        PeriodLength::Day => 1,
        PeriodLength::Week => 7,
        PeriodLength::Month => 30,
    };
    Duration::from_secs(days * 86_400)
}

#[cfg(test)]
mod tests;
