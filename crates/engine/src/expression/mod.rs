//! Expressions of the Common Expression Language (CEL) about a request and who makes it.
//!
//! Called by policies whose spec has conditions, keys or costs: a field of the type [`Condition`], [`TextExpression`],
//! [`NumberExpression`] or [`ResponseExpression`] is read, checked and compiled where it is decoded, so that `check` refuses what cannot work with its position, and
//! a request only evaluates. A subset of CEL's specification with its meaning, plus `inNetwork`; `docs/access.md` lists it.
//! Own code and no library: CEL's libraries check no types and bound no costs, and both are the point here.
//!
//! **Cost.** The length, the nesting and the steps taken for lists of fifty items and texts of 256 bytes, of 96 in lists, are bounded when it is compiled; the steps of every
//! evaluation are counted, whatever a request holds; patterns are matched in linear time.
//! **No value.** A header that is not there, a claim of another kind, too many steps: that is a [`Fault`], and who asks decides in favour of
//! refusing. Nothing here knows what a policy makes of it.

mod arithmetic;
mod check;
mod cost;
mod evaluate;
mod facts;
mod kind;
mod parse;
mod remedy;
#[cfg(test)]
mod tests;
mod token;
mod value;

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::Value as Json;
use transept_model::schema::{Decoder, Schema, Shape};
use transept_model::value::Value as Yaml;
use transept_wire::head::Response;

use crate::exchange::Exchange;
use check::{Check, Node};
use evaluate::Run;
use facts::Facts;
use kind::Kind;
use value::Value;

/// The longest expression, in bytes.
const LONGEST: usize = 4096;
/// How deep parts may be nested in each other.
const MOST_DEPTH: usize = 48;
/// The most steps of one evaluation: a fraction of a millisecond.
const MOST_STEPS: u32 = 30_000;

/// What is there when an expression is evaluated, beside who makes the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scope {
    /// The request as it came.
    #[default]
    Request,
    /// The response. Filters have changed the request since.
    Response,
}

/// A compiled expression.
struct Expression {
    text: Box<str>,
    root: Node,
    asks_principal: bool,
}

/// What is wrong with an expression as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Where, in bytes from the begin of the expression.
    pub at: usize,
    /// What is wrong.
    pub why: String,
    /// What to write instead, when that can be said.
    pub remedy: Option<String>,
}

impl Flaw {
    fn new(at: usize, why: impl Into<String>) -> Flaw {
        Flaw { at, why: why.into(), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Flaw {
        self.remedy = Some(remedy.into());
        self
    }

    fn maybe(mut self, remedy: Option<String>) -> Flaw {
        self.remedy = remedy;
        self
    }
}

/// Why an expression has no value for a request. Holds names out of the expression and no values out of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    at: usize,
    why: Cow<'static, str>,
}

impl Fault {
    fn new(at: usize, why: impl Into<Cow<'static, str>>) -> Fault {
        Fault { at, why: why.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, at character {}", self.why, self.at + 1)
    }
}

impl Expression {
    fn compile(text: &str, wanted: Kind, scope: Scope) -> Result<Expression, Flaw> {
        if text.len() > LONGEST {
            let why = format!("it is {} bytes long, the most is {LONGEST}", text.len());
            return Err(Flaw::new(0, why).remedy("make several rules of it"));
        }
        let better = |flaw: Flaw| match remedy::dashed_header(text) {
            Some(remedy) => flaw.remedy(remedy),
            None => flaw,
        };
        let tree = parse::parse(text).map_err(better)?;
        let mut check = Check::new(scope);
        let root = check.node(&tree).map_err(better)?;
        if !root.kind.fits(wanted) {
            let why = format!("the expression is {}, not {}", root.kind.as_str(), wanted.as_str());
            return Err(Flaw::new(0, why).maybe(remedy::turned(root.kind, wanted).map(str::to_owned)));
        }
        Ok(Expression { text: text.into(), root, asks_principal: check.asks_principal })
    }

    /// Evaluates it and shows the value to `read`.
    fn with<T>(
        &self,
        x: &Exchange<'_>,
        response: Option<&Response>,
        read: impl FnOnce(Value<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let facts = Facts::new(x, response, self.asks_principal);
        let value = Run::new(&facts).value(&self.root)?;
        read(value)
    }
}

macro_rules! expressions {
    ($( $(#[$doc:meta])* $type:ident, $kind:expr, $scope:expr; )*) => {$(
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $type(Arc<Expression>);

        impl $type {
            /// Reads and checks an expression.
            ///
            /// # Errors
            /// [`Flaw`] says what is wrong, and where.
            pub fn compile(text: &str) -> Result<$type, Flaw> {
                Expression::compile(text, $kind, $scope).map(|compiled| $type(Arc::new(compiled)))
            }

            /// The expression as it was written.
            pub fn text(&self) -> &str {
                &self.0.text
            }

            /// Whether it asks who makes the request.
            pub fn asks_principal(&self) -> bool {
                self.0.asks_principal
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.text(), out)
            }
        }

        impl PartialEq for $type {
            fn eq(&self, other: &$type) -> bool {
                self.text() == other.text()
            }
        }

        impl Eq for $type {}

        impl Hash for $type {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.text().hash(state);
            }
        }

        impl Schema for $type {
            fn decode(value: &Yaml, cx: &mut Decoder) -> Option<Self> {
                let Some(text) = value.text() else {
                    cx.expected(value, "an expression");
                    return None;
                };
                let flaw = match $type::compile(text) {
                    Ok(compiled) => return Some(compiled),
                    Err(flaw) => flaw,
                };
                let character = text.get(..flaw.at).map_or(0, |before| before.chars().count()) + 1;
                let refused = cx.refuse(value.at, format!("{}, at character {character} of the expression", flaw.why));
                if let Some(remedy) = flaw.remedy {
                    refused.remedy(remedy);
                }
                None
            }

            fn shape() -> Shape {
                Shape::Text
            }

            fn encode(&self) -> Json {
                self.text().into()
            }
        }
    )*};
}

expressions! {
    /// An expression that is true or false: `request.method == "GET" && "admin" in principal.groups`.
    Condition, Kind::Bool, Scope::Request;
    /// An expression that is text: `principal.claims.team`.
    TextExpression, Kind::Text, Scope::Request;
    /// An expression that is a whole number: `request.path.startsWith("/export/") ? 10 : 1`.
    NumberExpression, Kind::Int, Scope::Request;
    /// An expression about a response that is a whole number: `int(response.headers["x-tokens"]) / 1000`.
    ResponseExpression, Kind::Int, Scope::Response;
}

impl Condition {
    /// Whether it holds for the request.
    ///
    /// # Errors
    /// It has no value. Whoever asks must then refuse.
    pub fn holds(&self, x: &Exchange<'_>) -> Result<bool, Fault> {
        self.0.with(x, None, |value| match value {
            Value::Bool(holds) => Ok(holds),
            other => Err(Fault::new(0, format!("the expression is {}, not true or false", other.describe()))),
        })
    }
}

impl TextExpression {
    /// Shows its value for the request to `read`.
    ///
    /// # Errors
    /// It has no value.
    pub fn value<T>(&self, x: &Exchange<'_>, read: impl FnOnce(&str) -> T) -> Result<T, Fault> {
        self.0.with(x, None, |value| match value {
            Value::Text(text) => Ok(read(&text)),
            other => Err(Fault::new(0, format!("the expression is {}, not text", other.describe()))),
        })
    }
}

impl NumberExpression {
    /// Its value for the request.
    ///
    /// # Errors
    /// It has no value.
    pub fn value(&self, x: &Exchange<'_>) -> Result<i64, Fault> {
        self.0.with(x, None, number)
    }
}

impl ResponseExpression {
    /// Its value for a response.
    ///
    /// # Errors
    /// It has no value.
    pub fn value(&self, x: &Exchange<'_>, response: &Response) -> Result<i64, Fault> {
        self.0.with(x, Some(response), number)
    }
}

fn number(value: Value<'_>) -> Result<i64, Fault> {
    match value {
        Value::Int(number) => Ok(number),
        other => Err(Fault::new(0, format!("the expression is {}, not a whole number", other.describe()))),
    }
}
