//! The value of an expression for one request.
//!
//! What a step costs is in `cost`, too, which says beforehand how many there may be.
//!
//! Called by `Expression`. Every step costs, long texts cost more, and who runs out has no value: whatever is in a request, an expression
//! takes no longer than [`MOST_STEPS`] steps.

use smallvec::SmallVec;
use transept_wire::head::FieldName;

use super::arithmetic::{calculate, overflow, to_double, to_int, to_text};
use super::check::{Node, Op};
use super::facts::{self, Fact, Facts};
use super::kind::{Function, Walk};
use super::parse::Binary;
use super::value::{Text, Value, entry, span, time};
use super::{Fault, MOST_STEPS};
use crate::policies::Network;

/// How many bytes of a text cost one step, where something is made of it or it is looked through.
pub(super) const BYTES_A_STEP: usize = 32;
/// The same where it is only read or compared with another one, of which a processor does much at once.
pub(super) const BYTES_A_GLANCE: usize = 512;
/// The same where it is looked through for a pattern.
pub(super) const BYTES_A_PATTERN_STEP: usize = 4;
/// How many items of two lists that are compared cost one step.
pub(super) const ITEMS_A_STEP: usize = 32;

pub(super) struct Run<'v> {
    facts: &'v Facts<'v>,
    steps: u32,
    locals: SmallVec<[Value<'v>; 2]>,
}

pub(super) type Found<'v> = Result<Value<'v>, Fault>;

/// Where the name of what is looked up stands.
#[derive(Clone, Copy)]
enum Key {
    /// In the expression.
    Written,
    /// It was computed.
    Computed,
}

impl<'v> Run<'v> {
    pub(super) fn new(facts: &'v Facts<'v>) -> Run<'v> {
        Run { facts, steps: MOST_STEPS, locals: SmallVec::new() }
    }

    fn pay(&mut self, at: usize, steps: usize) -> Result<(), Fault> {
        match u32::try_from(steps).ok().and_then(|steps| self.steps.checked_sub(steps)) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => Err(Fault::new(at, format!("it takes more than {MOST_STEPS} steps"))),
        }
    }

    /// Pays for looking through a text.
    fn read(&mut self, at: usize, text: &str) -> Result<(), Fault> {
        self.pay(at, text.len() / BYTES_A_STEP)
    }

    /// A value that a request has brought, where a text was found to be one.
    fn brought(&mut self, at: usize, value: Value<'v>) -> Found<'v> {
        if let Value::Text(text) = &value {
            self.pay(at, text.len() / BYTES_A_GLANCE)?;
        }
        Ok(value)
    }

    pub(super) fn value(&mut self, node: &'v Node) -> Found<'v> {
        self.pay(node.at, 1)?;
        match &node.op {
            Op::Constant(value) => Ok(Value::borrowed(value)),
            Op::Fact(fact) => {
                let value = self.facts.value(*fact).map_err(|why| Fault::new(node.at, why))?;
                self.brought(node.at, value)
            }
            Op::HasFact(fact) => self.has_fact(node.at, *fact).map(Value::Bool),
            Op::Local(slot) => {
                let value = self.locals.get(*slot).cloned();
                value.ok_or_else(|| Fault::new(node.at, "the item is gone"))
            }
            Op::Header(name) => self.header(node.at, name),
            Op::HasHeader(name) => Ok(Value::Bool(self.facts.fields().first_named(name).is_some())),
            Op::Select(on, name) => {
                let on = self.value(on)?;
                self.keyed(node.at, &on, name, Key::Written)
            }
            Op::Has(on, name) => {
                let on = self.value(on)?;
                self.contains(node.at, &on, &Value::Text(Text::Borrowed(name))).map(Value::Bool)
            }
            Op::Index(on, index) => self.index(node.at, on, index),
            Op::Not(inner) => Ok(Value::Bool(!self.bool(inner)?)),
            Op::Negate(inner) => self.negative(node.at, inner),
            Op::Binary(operator, left, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                self.binary(node.at, *operator, left, right)
            }
            Op::And(parts) => self.settled(parts, false),
            Op::Or(parts) => self.settled(parts, true),
            Op::Choice(condition, yes, no) => {
                if self.bool(condition)? {
                    self.value(yes)
                } else {
                    self.value(no)
                }
            }
            Op::List(items) => {
                let items = items.iter().map(|item| self.value(item)).collect::<Result<Vec<_>, _>>()?;
                Ok(Value::List(items.into()))
            }
            Op::Map(entries) => {
                let mut all = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    all.push((self.value(key)?, self.value(value)?));
                }
                Ok(Value::Map(all.into()))
            }
            Op::Call(function, arguments) => {
                let mut values = SmallVec::<[Value<'v>; 2]>::new();
                for argument in arguments {
                    values.push(self.value(argument)?);
                }
                self.call(node.at, *function, &values)
            }
            Op::Matches(on, pattern) => {
                let text = self.text(on)?;
                self.pay(node.at, text.len() / BYTES_A_PATTERN_STEP)?;
                Ok(Value::Bool(pattern.is_match(&text)))
            }
            Op::InNetwork(on, network) => self.is_in_network(node.at, on, network).map(Value::Bool),
            Op::Walk(walk, on, body) => self.walk(node.at, *walk, on, body),
        }
    }

    fn negative(&mut self, at: usize, inner: &'v Node) -> Found<'v> {
        match self.value(inner)? {
            Value::Int(value) => value.checked_neg().map(Value::Int).ok_or_else(|| overflow(at)),
            Value::Double(value) => Ok(Value::Double(-value)),
            other => Err(wrong(at, "a number", &other)),
        }
    }

    fn is_in_network(&mut self, at: usize, on: &'v Node, network: &Network) -> Result<bool, Fault> {
        let text = self.text(on)?;
        let address = text.parse::<std::net::IpAddr>();
        let address = address.map_err(|_| Fault::new(at, "the text is not an address"))?;
        Ok(network.contains(address.to_canonical()))
    }

    pub(super) fn bool(&mut self, node: &'v Node) -> Result<bool, Fault> {
        match self.value(node)? {
            Value::Bool(value) => Ok(value),
            other => Err(wrong(node.at, "true or false", &other)),
        }
    }

    fn text(&mut self, node: &'v Node) -> Result<Text<'v>, Fault> {
        match self.value(node)? {
            Value::Text(text) => Ok(text),
            other => Err(wrong(node.at, "text", &other)),
        }
    }

    /// `&&` (settled by false) or `||` (settled by true): one part that settles it does so even when another one has no value, as in CEL.
    fn settled(&mut self, parts: &'v [Node], by: bool) -> Found<'v> {
        let mut fault = None;
        for part in parts {
            match self.bool(part) {
                Ok(value) if value == by => return Ok(Value::Bool(by)),
                Ok(_) => {}
                Err(found) => fault = fault.or(Some(found)),
            }
        }
        match fault {
            Some(fault) => Err(fault),
            None => Ok(Value::Bool(!by)),
        }
    }

    fn has_fact(&mut self, at: usize, fact: Fact) -> Result<bool, Fault> {
        let value = self.facts.value(fact).map_err(|why| Fault::new(at, why))?;
        Ok(match &value {
            Value::Text(text) => !text.is_empty(),
            Value::Headers(fields) => !fields.is_empty(),
            Value::Query(query) => query.is_some_and(|query| !query.is_empty()),
            other => other.length() != Some(0),
        })
    }

    fn header(&mut self, at: usize, name: &FieldName) -> Found<'v> {
        let facts = self.facts;
        match facts::header(facts.fields(), name) {
            Some(Ok(value)) => self.brought(at, value),
            Some(Err(why)) => Err(Fault::new(at, why)),
            None => Err(Fault::new(at, format!("there is no header {}", name.as_str()))),
        }
    }

    fn index(&mut self, at: usize, on: &'v Node, index: &'v Node) -> Found<'v> {
        let (on, index) = (self.value(on)?, self.value(index)?);
        match &index {
            Value::Text(key) => self.keyed(at, &on, key, Key::Computed),
            Value::Int(place) => {
                let item = usize::try_from(*place).ok().and_then(|place| on.item(place));
                item.ok_or_else(|| Fault::new(at, format!("{} has no item {place}", on.describe())))
            }
            other => Err(wrong(at, "a place or a key", other)),
        }
    }

    /// The value of a key.
    fn keyed(&mut self, at: usize, on: &Value<'v>, key: &str, from: Key) -> Found<'v> {
        let missing = || match from {
            Key::Written => Fault::new(at, format!("nothing is called `{}`", key.escape_debug())),
            // It may have come with the request, and faults go to logs.
            Key::Computed => Fault::new(at, "nothing has the name that was asked for"),
        };
        match on {
            Value::Headers(_) => {
                self.read(at, key)?;
                let name = FieldName::new(key).map_err(|_| missing())?;
                self.header(at, &name)
            }
            Value::Query(query) => {
                self.pay(at, query.map_or(0, <[u8]>::len) / BYTES_A_STEP)?;
                match facts::query_value(*query, key) {
                    Some(found) => found.map_err(|why| Fault::new(at, why)),
                    None => Err(missing()),
                }
            }
            Value::Map(_) | Value::Members(_) => entry(on, &Value::Text(Text::Borrowed(key))).ok_or_else(missing),
            other => Err(wrong(at, "a map", other)),
        }
    }

    fn contains(&mut self, at: usize, on: &Value<'v>, wanted: &Value<'_>) -> Result<bool, Fault> {
        match (on, wanted) {
            (Value::Headers(fields), Value::Text(name)) => {
                self.read(at, name)?;
                Ok(FieldName::new(&**name).is_ok_and(|name| fields.first_named(&name).is_some()))
            }
            (Value::Query(query), Value::Text(name)) => {
                self.pay(at, query.map_or(0, <[u8]>::len) / BYTES_A_STEP)?;
                Ok(facts::query_has(*query, name))
            }
            (Value::Map(_) | Value::Members(_), key) => Ok(entry(on, key).is_some()),
            (Value::Headers(_) | Value::Query(_), _) => Ok(false),
            _ => {
                let length = on.length().ok_or_else(|| wrong(at, "a list or a map", on))?;
                self.pay(at, length)?;
                for index in 0..length {
                    if let Some(item) = on.item(index)
                        && self.equal(at, &item, wanted)?
                    {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Equality of any two values. What is in lists and maps is paid for as well: one that is written out may hold another one many times.
    fn equal(&mut self, at: usize, one: &Value<'_>, other: &Value<'_>) -> Result<bool, Fault> {
        if let (Value::Text(one), Value::Text(other)) = (one, other) {
            if one.len() != other.len() {
                return Ok(false);
            }
            self.pay(at, one.len() / BYTES_A_GLANCE)?;
            return Ok(**one == **other);
        }
        let is_list = one.is_list() && other.is_list();
        let Some(length) = one.length().filter(|_| is_list || one.is_map() && other.is_map()) else {
            return Ok(one.equals(other));
        };
        if other.length() != Some(length) {
            return Ok(false);
        }
        self.pay(at, length / ITEMS_A_STEP)?;
        let keys = if is_list { Vec::new() } else { one.items().unwrap_or_default() };
        for index in 0..length {
            let pair = match keys.get(index) {
                Some(key) => (entry(one, key), entry(other, key)),
                None => (one.item(index), other.item(index)),
            };
            let (Some(one), Some(other)) = pair else { return Ok(false) };
            // What holds others costs a step of its own, however little it holds.
            self.pay(at, usize::from(one.length().is_some()))?;
            if !self.equal(at, &one, &other)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The order of two values that have one.
    fn order(&mut self, at: usize, left: &Value<'_>, right: &Value<'_>) -> Result<std::cmp::Ordering, Fault> {
        if let (Value::Text(left), Value::Text(right)) = (left, right) {
            self.pay(at, left.len().min(right.len()) / BYTES_A_GLANCE)?;
        }
        let order = left.order(right);
        order.ok_or_else(|| Fault::new(at, format!("{} and {} have no order", left.describe(), right.describe())))
    }

    fn binary(&mut self, at: usize, operator: Binary, left: Value<'v>, right: Value<'v>) -> Found<'v> {
        match operator {
            Binary::Equal => self.equal(at, &left, &right).map(Value::Bool),
            Binary::Unequal => self.equal(at, &left, &right).map(|equal| Value::Bool(!equal)),
            Binary::Less => self.order(at, &left, &right).map(|order| Value::Bool(order.is_lt())),
            Binary::LessOrEqual => self.order(at, &left, &right).map(|order| Value::Bool(order.is_le())),
            Binary::Greater => self.order(at, &left, &right).map(|order| Value::Bool(order.is_gt())),
            Binary::GreaterOrEqual => self.order(at, &left, &right).map(|order| Value::Bool(order.is_ge())),
            Binary::In => self.contains(at, &right, &left).map(Value::Bool),
            Binary::Add => self.add(at, left, right),
            Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Remainder => {
                calculate(at, operator, &left, &right)
            }
        }
    }

    fn add(&mut self, at: usize, left: Value<'v>, right: Value<'v>) -> Found<'v> {
        match (left, right) {
            (Value::Text(left), Value::Text(right)) => {
                self.pay(at, (left.len() + right.len()) / BYTES_A_STEP)?;
                Ok(Value::Text([&*left, &*right].concat().into()))
            }
            (left, right) => match (left.items(), right.items()) {
                (Some(mut all), Some(more)) if left.is_list() && right.is_list() => {
                    self.pay(at, all.len() + more.len())?;
                    all.extend(more);
                    Ok(Value::List(all.into()))
                }
                _ => calculate(at, Binary::Add, &left, &right),
            },
        }
    }

    fn call(&mut self, at: usize, function: Function, values: &[Value<'v>]) -> Found<'v> {
        for value in values {
            if let Value::Text(text) = value {
                self.read(at, text)?;
            }
        }
        match (function, values) {
            (Function::StartsWith, [Value::Text(text), Value::Text(part)]) => {
                Ok(Value::Bool(text.starts_with(&**part)))
            }
            (Function::EndsWith, [Value::Text(text), Value::Text(part)]) => Ok(Value::Bool(text.ends_with(&**part))),
            (Function::Contains, [Value::Text(text), Value::Text(part)]) => Ok(Value::Bool(text.contains(&**part))),
            (Function::Lower, [Value::Text(text)]) => Ok(Value::Text(text.to_ascii_lowercase().into())),
            (Function::Upper, [Value::Text(text)]) => Ok(Value::Text(text.to_ascii_uppercase().into())),
            (Function::Trim, [Value::Text(text)]) => Ok(Value::Text(text.trim().to_owned().into())),
            (Function::Split, [Value::Text(text), Value::Text(by)]) => {
                self.pay(at, text.len())?;
                let parts: Vec<Value<'v>> = match &**by {
                    "" => text.chars().map(|part| Value::Text(part.to_string().into())).collect(),
                    by => text.split(by).map(|part| Value::Text(part.to_owned().into())).collect(),
                };
                Ok(Value::List(parts.into()))
            }
            (Function::Join, [list, Value::Text(by)]) => self.join(at, list, by),
            (Function::Size, [value]) => self.size(at, value),
            (Function::ToText, [value]) => to_text(at, value),
            (Function::ToInt, [value]) => to_int(at, value),
            (Function::ToDouble, [value]) => to_double(at, value),
            (Function::Time, [Value::Text(text)]) => {
                time::parse(text).map(Value::Time).ok_or_else(|| Fault::new(at, "the text is not a time"))
            }
            (Function::Span, [Value::Text(text)]) => {
                span::parse(text).map(Value::Span).ok_or_else(|| Fault::new(at, "the text is not a length of time"))
            }
            (function, [Value::Time(micros)]) => {
                let parts = time::parts(*micros);
                Ok(Value::Int(match function {
                    Function::Hours => parts.hour,
                    Function::Minutes => parts.minute,
                    Function::DayOfWeek => parts.weekday,
                    Function::DayOfMonth => parts.day,
                    Function::Month => parts.month,
                    _ => parts.year,
                }))
            }
            (_, values) => {
                let found: Vec<&str> = values.iter().map(Value::describe).collect();
                Err(Fault::new(at, format!("it cannot be asked of {}", found.join(" and "))))
            }
        }
    }

    fn join(&mut self, at: usize, list: &Value<'v>, by: &str) -> Found<'v> {
        let items = list.items().ok_or_else(|| wrong(at, "a list", list))?;
        let mut joined = String::new();
        for (index, item) in items.iter().enumerate() {
            let Value::Text(text) = item else { return Err(wrong(at, "text", item)) };
            self.pay(at, 1 + (text.len() + by.len()) / BYTES_A_STEP)?;
            if index > 0 {
                joined.push_str(by);
            }
            joined.push_str(text);
        }
        Ok(Value::Text(joined.into()))
    }

    fn size(&mut self, at: usize, value: &Value<'v>) -> Found<'v> {
        let size = match value {
            Value::Text(text) => text.chars().count(),
            Value::Headers(fields) => fields.len(),
            Value::Query(query) => {
                self.pay(at, query.map_or(0, <[u8]>::len) / BYTES_A_STEP)?;
                facts::query_names(*query).len()
            }
            other => other.length().ok_or_else(|| Fault::new(at, format!("{} has no size", other.describe())))?,
        };
        self.pay(at, size / BYTES_A_STEP)?;
        Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
    }

    fn walk(&mut self, at: usize, walk: Walk, on: &'v Node, body: &'v Node) -> Found<'v> {
        let on = self.value(on)?;
        let items = match &on {
            Value::Headers(fields) => {
                let names = fields.iter().map(|(name, _)| name.as_str());
                self.pay(at, names.clone().map(str::len).sum::<usize>() / BYTES_A_STEP)?;
                Some(names.map(|name| Value::Text(name.to_ascii_lowercase().into())).collect())
            }
            Value::Query(query) => {
                self.pay(at, query.map_or(0, <[u8]>::len) / BYTES_A_STEP)?;
                Some(facts::query_names(*query))
            }
            other => {
                self.pay(at, other.length().unwrap_or(0))?;
                other.items()
            }
        };
        let items = items.ok_or_else(|| wrong(at, "a list or a map", &on))?;
        self.pay(at, items.len())?;
        let mut kept = Vec::new();
        let (mut yes, mut fault) = (0usize, None);
        for item in items {
            self.locals.push(item.clone());
            let found = self.value(body);
            self.locals.pop();
            let holds = match (walk, found) {
                (Walk::Map, found) => {
                    kept.push(found?);
                    continue;
                }
                (_, Ok(Value::Bool(holds))) => holds,
                (_, Ok(other)) => return Err(wrong(body.at, "true or false", &other)),
                (Walk::All | Walk::Exists, Err(found)) => {
                    fault = fault.or(Some(found));
                    continue;
                }
                (_, Err(found)) => return Err(found),
            };
            yes += usize::from(holds);
            match walk {
                Walk::All if !holds => return Ok(Value::Bool(false)),
                Walk::Exists if holds => return Ok(Value::Bool(true)),
                Walk::Filter if holds => kept.push(item),
                _ => {}
            }
        }
        match (walk, fault) {
            (_, Some(fault)) => Err(fault),
            (Walk::Filter | Walk::Map, None) => Ok(Value::List(kept.into())),
            (Walk::ExistsOne, None) => Ok(Value::Bool(yes == 1)),
            (Walk::All, None) => Ok(Value::Bool(true)),
            (Walk::Exists, None) => Ok(Value::Bool(false)),
        }
    }
}

fn wrong(at: usize, wanted: &str, found: &Value<'_>) -> Fault {
    Fault::new(at, format!("expected {wanted}, found {}", found.describe()))
}
