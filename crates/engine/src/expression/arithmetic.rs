//! What operators and conversions make of values. Called by `evaluate`, for values whose kinds `check` has let pass.

use super::Fault;
use super::evaluate::Found;
use super::parse::Binary;
use super::value::Value;

/// A result that no number holds.
pub(super) fn overflow(at: usize) -> Fault {
    Fault::new(at, "the number does not fit into 64 bits")
}

/// What an operator makes of two values.
pub(super) fn calculate<'v>(at: usize, operator: Binary, left: &Value<'v>, right: &Value<'v>) -> Found<'v> {
    let real = |left: f64, right: f64| {
        Ok(Value::Double(match operator {
            Binary::Add => left + right,
            Binary::Subtract => left - right,
            Binary::Multiply => left * right,
            Binary::Divide => left / right,
            _ => left % right,
        }))
    };
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => {
            let value = match operator {
                Binary::Add => left.checked_add(*right),
                Binary::Subtract => left.checked_sub(*right),
                Binary::Multiply => left.checked_mul(*right),
                Binary::Divide | Binary::Remainder if *right == 0 => return Err(Fault::new(at, "it divides by zero")),
                Binary::Divide => left.checked_div(*right),
                _ => left.checked_rem(*right),
            };
            value.map(Value::Int).ok_or_else(|| overflow(at))
        }
        (Value::Int(left), Value::Double(right)) => real(*left as f64, *right),
        (Value::Double(left), Value::Int(right)) => real(*left, *right as f64),
        (Value::Double(left), Value::Double(right)) => real(*left, *right),
        (Value::Time(left), Value::Span(right)) | (Value::Span(right), Value::Time(left)) => {
            let sum = match operator {
                Binary::Add => left.checked_add(*right),
                _ => left.checked_sub(*right),
            };
            sum.map(Value::Time).ok_or_else(|| overflow(at))
        }
        (Value::Time(left), Value::Time(right)) if operator == Binary::Subtract => {
            left.checked_sub(*right).map(Value::Span).ok_or_else(|| overflow(at))
        }
        (Value::Span(left), Value::Span(right)) if matches!(operator, Binary::Add | Binary::Subtract) => {
            let sum = if operator == Binary::Add { left.checked_add(*right) } else { left.checked_sub(*right) };
            sum.map(Value::Span).ok_or_else(|| overflow(at))
        }
        (left, right) => {
            let why = format!("`{}` does not take {} and {}", operator.as_str(), left.describe(), right.describe());
            Err(Fault::new(at, why))
        }
    }
}

/// `string(value)`.
pub(super) fn to_text<'v>(at: usize, value: &Value<'v>) -> Found<'v> {
    Ok(Value::Text(match value {
        Value::Text(text) => text.clone(),
        Value::Int(value) => value.to_string().into(),
        Value::Double(value) => value.to_string().into(),
        Value::Bool(value) => value.to_string().into(),
        other => return Err(Fault::new(at, format!("{} is not made into text", other.describe()))),
    }))
}

/// `int(value)`: of a real number its whole part, of a time the seconds since 1970.
pub(super) fn to_int<'v>(at: usize, value: &Value<'v>) -> Found<'v> {
    let whole = match value {
        Value::Int(value) => Some(*value),
        // What is beyond is no whole number of 64 bits.
        Value::Double(value) => (value.abs() < 9.2e18).then_some(*value as i64),
        Value::Text(text) => text.parse().ok(),
        Value::Time(micros) => Some(micros.div_euclid(1_000_000)),
        _ => None,
    };
    whole.map(Value::Int).ok_or_else(|| Fault::new(at, format!("this {} is no whole number", value.describe())))
}

/// `double(value)`.
pub(super) fn to_double<'v>(at: usize, value: &Value<'v>) -> Found<'v> {
    let real = match value {
        Value::Int(value) => Some(*value as f64),
        Value::Double(value) => Some(*value),
        Value::Text(text) => text.parse().ok(),
        _ => None,
    };
    real.map(Value::Double).ok_or_else(|| Fault::new(at, format!("this {} is no number", value.describe())))
}
