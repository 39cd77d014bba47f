//! What is refused of a `QuotaPolicy` before it is compiled. Called by the decoder of its specs (`policies/quota.rs`).

use transept_model::schema::Decoder;
use transept_model::value::{Value, ticked};

use super::{PeriodLength, QuotaPolicySpec, QuotaSpec, day, zone};
use crate::limit::unreached::{self, Order, Outline, Written};

pub(super) fn check_spec(spec: &QuotaPolicySpec, _: &Value, cx: &mut Decoder) {
    unreached::refuse(&spec.quotas, cx);
}

impl Written for QuotaSpec {
    const WORD: &'static str = "quota";

    fn outline(&self) -> Outline<'_> {
        Outline::new(self.at, &self.name, self.key.as_ref(), self.missing, &self.plans)
    }

    fn is_tighter(&self, other: &QuotaSpec, _: Order) -> bool {
        let costs_like = (self.cost_fields(), self.repeats, &self.time_zone)
            == (other.cost_fields(), other.repeats, &other.time_zone);
        let most = most_within(self, other).filter(|_| !self.soft && !other.soft && costs_like);
        // It knows all keys still that the other one knows.
        most.is_some_and(|most| most <= u64::from(other.requests)) && self.max_keys >= other.max_keys
    }
}

/// How much a quota lets pass at most in one period of another one; none where that cannot be said.
fn most_within(quota: &QuotaSpec, other: &QuotaSpec) -> Option<u64> {
    // What responses have cost is taken even when it is not there, and may come to any sum in several periods.
    let is_exact =
        quota.response_cost.is_none() && quota.response_cost_expression.is_none() && quota.response_cost_body.is_none();
    let periods = match (quota.per, other.per) {
        // A day is in one week and in one month; a week may be in two months.
        (one, another) if one == another && quota.start == other.start => 1,
        (_, PeriodLength::Day) => 1,
        // The longest month has 31 days, and parts of six weeks.
        (PeriodLength::Day, PeriodLength::Week) if is_exact => 7,
        (PeriodLength::Day, PeriodLength::Month) if is_exact => 31,
        (PeriodLength::Week, PeriodLength::Month) if is_exact => 6,
        _ => return None,
    };
    Some(u64::from(quota.requests) * periods)
}

/// What contradicts itself in one quota.
pub(super) fn check_quota(quota: &QuotaSpec, _: &Value, cx: &mut Decoder) {
    if zone(&quota.time_zone).is_none() {
        cx.refuse(quota.at, format!("there is no time zone {}", ticked(&quota.time_zone)))
            .remedy("write an IANA name such as Europe/Berlin, or UTC");
    }
    if let Some(start) = &quota.start {
        if day(start).is_none() {
            cx.refuse(quota.at, format!("{} is not a day", ticked(start))).remedy("write it as 2026-01-15");
        }
        if quota.per == PeriodLength::Day {
            cx.refuse(quota.at, "a day begins at midnight, whatever `start` says").remedy("leave out `start`");
        }
    }
    quota.cost_fields().check(quota.at, if quota.soft { u32::MAX } else { quota.requests }, cx);
    if !quota.name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        cx.refuse(quota.at, "the name is told in a header field, which has room for printable ASCII only")
            .remedy("use letters, digits and dashes");
    }
}
