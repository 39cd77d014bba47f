//! What a request costs: a number, by operation, by an expression, and what its response says that it has cost besides.
//!
//! The specs of `RateLimitPolicy` and `QuotaPolicy` share these fields. A cost that nobody can tell is not taken for 1 or for nothing: who
//! could bring that about would choose the price.

use std::sync::Arc;

use transept_model::object;
use transept_model::place::Spot;
use transept_model::schema::{Decoder, Rule, Text};
use transept_wire::head::{FieldName, Method, Response};

use super::body_cost::{BodyCost, BodyCostSpec};
use crate::exchange::Exchange;
use crate::expression::{Fault, NumberExpression, ResponseExpression};
use crate::policies::{CompileCx, PathPattern, is_method_alike, methods};
use crate::reason::Reason;
use crate::verdict::Reply;

/// The most that a response may say.
pub(crate) const MOST_AFTERWARDS: u32 = 999_999_999;

object! {
    /// What some operations cost: everything that is written must hold, of each list one.
    pub struct CostSpec {
        /// Methods of HTTP, which are meant in any case.
        methods: Vec<Text> => Rule::NotEmpty, Rule::MaxItems(32), Rule::Length(1, 64);
        /// Paths: `/cart`, or `/cart/*` for `/cart` and everything below it.
        paths: Vec<PathPattern> => Rule::NotEmpty, Rule::MaxItems(64);
        /// What they cost. 0 is free.
        cost: u32 => Rule::Range(0, 1_000_000);
    }
}

/// The fields of a spec that say what a request costs.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct CostFields<'s> {
    pub(crate) cost: u32,
    pub(crate) costs: &'s [CostSpec],
    pub(crate) expression: Option<&'s NumberExpression>,
    pub(crate) response_field: Option<&'s Text>,
    pub(crate) response_expression: Option<&'s ResponseExpression>,
    pub(crate) response_body: Option<&'s BodyCostSpec>,
}

impl CostFields<'_> {
    /// Refuses what contradicts itself in the limit here. `most` is what is there at once.
    pub(crate) fn check(&self, at: Spot, most: u32, cx: &mut Decoder) {
        let dearest = self.costs.iter().map(|cost| cost.cost).fold(self.cost, u32::max);
        if dearest > most {
            let why = format!("a request that costs {dearest} can never pass, since at most {most} are there at once");
            cx.refuse(at, why).remedy("raise `burst` or `requests`, or lower the cost");
        }
        if self.expression.is_some() && self.cost != 1 {
            cx.refuse(at, "`cost` and `costExpression` both say what a request costs")
                .remedy("leave one out; of `costs` the first that fits goes before the expression");
        }
        if self.response_field.is_some() && self.response_expression.is_some() {
            cx.refuse(at, "`responseCost` and `responseCostExpression` both say what a response has cost")
                .remedy("leave one out; an expression can read the field: int(response.headers[\"x-cost\"])");
        }
        if self.response_body.is_some() && (self.response_field.is_some() || self.response_expression.is_some()) {
            cx.refuse(at, "`responseCostBody` says what a response has cost, and its head says it too")
                .remedy("leave one out, or write a limit for each");
        }
    }
}

/// What requests and responses cost.
#[derive(Clone, Debug)]
pub(crate) struct Costs {
    usual: u32,
    operations: Vec<Operation>,
    expression: Option<NumberExpression>,
    response: Afterwards,
    body: Option<Arc<BodyCost>>,
}

#[derive(Clone, Debug)]
struct Operation {
    methods: Vec<Method>,
    paths: Vec<PathPattern>,
    cost: u32,
}

/// What says what a response has cost.
#[derive(Clone, Debug)]
enum Afterwards {
    Nothing,
    Field(FieldName),
    Expression(ResponseExpression),
}

/// Why the cost of a request cannot be charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unpriced {
    /// The expression has no value for it.
    NoValue(Fault),
    /// It has one that is below zero.
    Negative,
    /// It costs this much, and there is never more than that at once.
    TooDear(i64, u64),
}

impl Unpriced {
    /// The refusal. It tells the client that coming again does not help.
    pub(crate) fn reply(&self) -> Reply {
        let reply = Reply::new(Reason::LimitCostUnknown);
        match self {
            Unpriced::TooDear(cost, most) => {
                reply.with_detail(format!("This request costs {cost}, and there are never more than {most} at once."))
            }
            Unpriced::NoValue(_) | Unpriced::Negative => reply,
        }
    }
}

impl std::fmt::Display for Unpriced {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unpriced::NoValue(fault) => write!(out, "costExpression has no value: {fault}"),
            Unpriced::Negative => out.write_str("costExpression is below zero"),
            Unpriced::TooDear(cost, most) => write!(out, "costExpression is {cost}, above the {most} that are there"),
        }
    }
}

impl Costs {
    /// Compiles the fields of a spec.
    pub(crate) fn compile(fields: &CostFields<'_>, cx: &mut CompileCx<'_>) -> Costs {
        let operations = fields.costs.iter().map(|cost| Operation {
            methods: methods(&cost.methods, cost.at, cx),
            paths: cost.paths.clone(),
            cost: cost.cost,
        });
        let response = match (fields.response_field, fields.response_expression) {
            (_, Some(expression)) => Afterwards::Expression(expression.clone()),
            (Some(name), None) => FieldName::new(&**name).map_or(Afterwards::Nothing, Afterwards::Field),
            (None, None) => Afterwards::Nothing,
        };
        Costs {
            usual: fields.cost,
            operations: operations.collect(),
            expression: fields.expression.cloned(),
            response,
            body: fields.response_body.map(|spec| Arc::new(BodyCost::new(spec))),
        }
    }

    /// What a request costs, where `most` are there at once.
    pub(crate) fn of_request(&self, most: u64, x: &Exchange<'_>) -> Result<u32, Unpriced> {
        // Who writes `post` for POST gets the same done by some backends, and pays the same.
        let is = |method: &Method| is_method_alike(method, &x.request.method);
        let fits = |one: &&Operation| {
            (one.methods.is_empty() || one.methods.iter().any(is))
                && (one.paths.is_empty() || one.paths.iter().any(|path| path.matches(x.request.path())))
        };
        if let Some(operation) = self.operations.iter().find(fits) {
            return Ok(operation.cost);
        }
        let Some(expression) = &self.expression else {
            return Ok(self.usual);
        };
        match expression.value(x) {
            Err(fault) => Err(Unpriced::NoValue(fault)),
            Ok(..0) => Err(Unpriced::Negative),
            Ok(cost) => {
                u32::try_from(cost).ok().filter(|cost| u64::from(*cost) <= most).ok_or(Unpriced::TooDear(cost, most))
            }
        }
    }

    /// Whether a request may cost something after its response.
    pub(crate) fn has_more(&self) -> bool {
        self.body.is_some() || !matches!(self.response, Afterwards::Nothing)
    }

    /// What the backend's response says that the request has cost besides; nothing when it says nothing that can be read.
    pub(crate) fn of_response(&self, x: &Exchange<'_>, response: &Response) -> u32 {
        match &self.response {
            Afterwards::Nothing => 0,
            Afterwards::Field(name) => response.fields.first_named(name).map_or(0, read),
            Afterwards::Expression(expression) => expression
                .value(x, response)
                .map_or(0, |cost| u32::try_from(cost.clamp(0, i64::from(MOST_AFTERWARDS))).unwrap_or(MOST_AFTERWARDS)),
        }
    }

    /// What the bodies cost besides.
    pub(crate) fn of_bodies(&self) -> Option<&Arc<BodyCost>> {
        self.body.as_ref()
    }

    /// What a limit counts, where that is no requests, as clients are told (`qu`).
    pub(crate) fn unit(&self) -> Option<&'static str> {
        self.body.as_ref().is_some_and(|body| body.is_bytes()).then_some("content-bytes")
    }

    /// What says the cost, for explanations.
    pub(crate) fn describe(&self) -> String {
        let request = if self.expression.is_some() { ", as costExpression or costs say" } else { "" };
        format!("{request}{}", self.body.as_ref().map_or("", |body| body.describe()))
    }
}

/// A cost in a field: a number, of which fractions are rounded up, and [`MOST_AFTERWARDS`] at most. Anything else costs nothing.
fn read(value: &[u8]) -> u32 {
    let text = std::str::from_utf8(value.trim_ascii()).unwrap_or_default();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return 0;
    }
    // Digits alone: what is no number of that kind is too large for one.
    let whole = whole.parse::<u32>().unwrap_or(MOST_AFTERWARDS);
    whole.saturating_add(u32::from(fraction.bytes().any(|digit| digit != b'0'))).min(MOST_AFTERWARDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_in_fields_are_numbers_and_nothing_else() {
        for (text, cost) in [("12", 12), (" 7 ", 7), ("1.5", 2), ("3.0", 3), ("0", 0), ("0000000000050", 50)] {
            assert_eq!(read(text.as_bytes()), cost, "{text}");
        }
        for text in ["999999999", "999999999.5", "1000000000", "4294967295.1", "4294967296", "99999999999999999999"] {
            assert_eq!(read(text.as_bytes()), MOST_AFTERWARDS, "{text}");
        }
        for text in ["", "-1", "1e3", "1.", ".5", "12 apples", "\u{fe}"] {
            assert_eq!(read(text.as_bytes()), 0, "{text}");
        }
    }
}
