//! What is refused of a `QuotaPolicy` before it is compiled. Called by the decoder of its specs (`policies/quota.rs`).

use transept_model::schema::Decoder;
use transept_model::value::{Value, ticked};

use super::{PeriodLength, QuotaPolicySpec, QuotaSpec, day, zone};

/// A quota that another one, which counts the same, always reaches first.
pub(super) fn check_spec(spec: &QuotaPolicySpec, _: &Value, cx: &mut Decoder) {
    let counts_alike = |a: &QuotaSpec, b: &QuotaSpec| {
        (&a.key, &a.missing, &a.plans, &a.time_zone, &a.costs, &a.cost)
            == (&b.key, &b.missing, &b.plans, &b.time_zone, &b.costs, &b.cost)
            && (&a.cost_expression, &a.response_cost, &a.repeats) == (&b.cost_expression, &b.response_cost, &b.repeats)
            && (&a.response_cost_expression, &a.response_cost_body)
                == (&b.response_cost_expression, &b.response_cost_body)
    };
    for (index, quota) in spec.quotas.iter().enumerate().filter(|(_, quota)| !quota.soft) {
        let first = spec.quotas.iter().enumerate().find(|(other_index, other)| {
            let most = most_within(other, quota);
            let same = other.per == quota.per && other.requests == quota.requests;
            *other_index != index
                && !other.soft
                && counts_alike(other, quota)
                && most.is_some_and(|most| most <= quota.requests.into())
                && (!same || *other_index < index)
        });
        if let Some((_, other)) = first {
            cx.refuse(
                quota.at,
                format!(
                    "quota {} is never reached, because {} allows no more",
                    ticked(&quota.name),
                    ticked(&other.name)
                ),
            )
            .remedy("remove it, or mend its numbers or its key");
        }
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
    quota.cost_fields().check(if quota.soft { u32::MAX } else { quota.requests }, cx);
    if !quota.name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        cx.refuse(quota.at, "the name is told in a header field, which has room for printable ASCII only")
            .remedy("use letters, digits and dashes");
    }
}
