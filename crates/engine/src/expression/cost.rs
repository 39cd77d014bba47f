//! How many steps an expression takes at most, before any request is there, and how large its values get.
//!
//! Called by `check` for every node. What each step costs is what `evaluate` takes for it, so that the two are changed together. What a request
//! brings is not known: its lists, maps and what a text is split into are taken to have [`ITEMS`] items, its texts [`BYTES`] bytes, and
//! those in lists and maps, which are names, [`BYTES_WITHIN`]; what is compared, to hold no lists in lists. Under that no expression takes more than
//! is said here.

use super::check::{Node, Op};
use super::evaluate::{BYTES_A_GLANCE, BYTES_A_PATTERN_STEP, BYTES_A_STEP, ITEMS_A_STEP};
use super::facts::Fact;
use super::kind::{Function, Kind, Walk};
use super::parse::Binary;
use super::value::Value;

/// How many items a list or a map of a request is taken to have.
pub(super) const ITEMS: u64 = 50;
/// How many bytes a text of a request is taken to have.
pub(super) const BYTES: u64 = 256;
/// How many bytes a text in a list or a map of a request is taken to have.
pub(super) const BYTES_WITHIN: u64 = 96;
/// How long the text of a number is at most.
const DIGITS: u64 = 400;

/// How large a value is at most; zero of what it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// The bytes of a text.
    bytes: u64,
    /// The items of a list or a map, and of what is in it.
    items: u64,
    /// The bytes of the texts in it.
    within: u64,
    /// The bytes that are looked through for a name, of headers or a query, or of what is in it.
    names: u64,
}

impl Size {
    fn text(bytes: u64) -> Size {
        Size { bytes, ..Size::default() }
    }

    /// What a request brings.
    fn brought(kind: Kind) -> Size {
        let holds = Size { items: ITEMS, within: BYTES_WITHIN, ..Size::default() };
        match kind {
            Kind::Text => Size::text(BYTES),
            Kind::List(_) | Kind::Map(_) => holds,
            Kind::Any => Size { bytes: BYTES, ..holds },
            _ => Size::default(),
        }
    }

    /// What is written out.
    fn written(value: &Value<'_>) -> Size {
        match value {
            Value::Text(text) => Size::text(text.len() as u64),
            value => Size::of(value.items().unwrap_or_default().iter().map(Size::written)),
        }
    }

    /// A list or a map of these.
    fn of(all: impl Iterator<Item = Size>) -> Size {
        let mut count = 0;
        let widest = all.inspect(|_| count += 1).fold(Size::default(), Size::or);
        Size { bytes: 0, items: widest.items.max(count), within: widest.within.max(widest.bytes), ..widest }
    }

    /// One or the other.
    fn or(self, other: Size) -> Size {
        Size {
            bytes: self.bytes.max(other.bytes),
            items: self.items.max(other.items),
            within: self.within.max(other.within),
            names: self.names.max(other.names),
        }
    }

    /// What is in it.
    pub(super) fn item(self) -> Size {
        Size { bytes: self.within, ..self }
    }
}

/// The most steps, and the size of the value.
pub(super) fn cost(op: &Op, kind: Kind) -> (u64, Size) {
    let nothing = Size::default();
    let (steps, size) = match op {
        Op::Constant(value) => (0, Size::written(value)),
        Op::Fact(Fact::Query | Fact::Headers | Fact::ResponseHeaders) => {
            (0, Size { within: BYTES, names: BYTES, ..Size::brought(kind) })
        }
        Op::Fact(_) | Op::Local(_) => (glance(BYTES), Size::brought(kind)),
        Op::HasFact(_) | Op::HasHeader(_) => (0, nothing),
        Op::Header(_) => (glance(BYTES), Size::text(BYTES)),
        Op::Select(on, name) => (on.steps + keyed(on, name.len() as u64), on.size.item()),
        Op::Index(on, index) => (on.steps + index.steps + keyed(on, index.size.bytes), on.size.item()),
        Op::Has(on, name) => (on.steps + contained(on, Size::text(name.len() as u64)), nothing),
        Op::Not(inner) | Op::Negate(inner) | Op::InNetwork(inner, _) => (inner.steps, nothing),
        Op::Matches(on, _) => (on.steps + on.size.bytes / BYTES_A_PATTERN_STEP as u64, nothing),
        Op::Binary(operator, left, right) => {
            let (steps, size) = binary(*operator, left, right);
            (left.steps + right.steps + steps, size)
        }
        Op::And(parts) | Op::Or(parts) => (parts.iter().map(|part| part.steps).sum(), nothing),
        Op::Choice(condition, yes, no) => (condition.steps + yes.steps.max(no.steps), yes.size.or(no.size)),
        Op::List(items) => (items.iter().map(|item| item.steps).sum(), Size::of(items.iter().map(|item| item.size))),
        Op::Map(entries) => {
            let sizes = entries.iter().map(|(key, value)| key.size.or(value.size));
            (entries.iter().map(|(key, value)| key.steps + value.steps).sum(), Size::of(sizes))
        }
        Op::Call(function, arguments) => {
            let sizes: Vec<Size> = arguments.iter().map(|argument| argument.size).collect();
            let (steps, size) = call(*function, &sizes);
            (arguments.iter().map(|argument| argument.steps).sum::<u64>().saturating_add(steps), size)
        }
        Op::Walk(walk, on, body) => {
            // Twice for each item: that it is there, and that it is looked at.
            let steps = on.size.items.saturating_mul(body.steps + 2).saturating_add(named(on));
            let size = match walk {
                Walk::Map => Size { items: on.size.items, ..nothing }.or(Size::of([body.size].into_iter())),
                Walk::Filter => Size { bytes: 0, ..on.size },
                Walk::All | Walk::Exists | Walk::ExistsOne => nothing,
            };
            (on.steps.saturating_add(steps), size)
        }
    };
    (steps.saturating_add(1), size)
}

fn read(bytes: u64) -> u64 {
    bytes / BYTES_A_STEP as u64
}

fn glance(bytes: u64) -> u64 {
    bytes / BYTES_A_GLANCE as u64
}

/// What it takes to find all names in headers or a query.
fn named(on: &Node) -> u64 {
    read(on.size.names)
}

/// The same to find a name of so many bytes.
fn keyed(on: &Node, wanted: u64) -> u64 {
    match on.size.names {
        0 => 0,
        names => read(names).saturating_add(read(wanted)),
    }
}

/// What it takes to find out whether something is in it: of a list all is looked at.
fn contained(on: &Node, wanted: Size) -> u64 {
    match on.kind {
        Kind::List(_) | Kind::Any => {
            let compared = glance(wanted.bytes.min(on.size.within));
            let items = wanted.items.min(on.size.items) / ITEMS_A_STEP as u64;
            on.size.items.saturating_mul(1 + compared + items).max(keyed(on, wanted.bytes))
        }
        _ => keyed(on, wanted.bytes),
    }
}

fn binary(operator: Binary, left: &Node, right: &Node) -> (u64, Size) {
    let nothing = Size::default();
    let (one, other) = (left.size, right.size);
    let are = |is: fn(Kind) -> bool| is(left.kind) && is(right.kind);
    match operator {
        Binary::Equal | Binary::Unequal => {
            let items = one.items.min(other.items);
            let within = items.saturating_mul(glance(one.within.min(other.within)));
            let compared = glance(one.bytes.min(other.bytes)).max(within);
            ((items / ITEMS_A_STEP as u64).saturating_add(compared), nothing)
        }
        Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => {
            (glance(one.bytes.min(other.bytes)), nothing)
        }
        Binary::In => (contained(right, one), nothing),
        Binary::Add => {
            let texts = are(|kind| matches!(kind, Kind::Text | Kind::Any));
            let lists = are(|kind| matches!(kind, Kind::List(_) | Kind::Any));
            let bytes = if texts { one.bytes.saturating_add(other.bytes) } else { 0 };
            let items = if lists { one.items.saturating_add(other.items) } else { 0 };
            (read(bytes).max(items), Size { bytes, items, ..one.or(other) })
        }
        _ => (0, nothing),
    }
}

fn call(function: Function, sizes: &[Size]) -> (u64, Size) {
    let first = sizes.first().copied().unwrap_or_default();
    let reading = sizes.iter().map(|size| read(size.bytes)).sum::<u64>();
    let (steps, size) = match function {
        Function::Split => (first.bytes, Size { items: ITEMS, within: first.bytes, ..Size::default() }),
        Function::Join => {
            let by = sizes.get(1).map_or(0, |by| by.bytes);
            let part = first.within.saturating_add(by);
            (first.items.saturating_mul(1 + read(part)), Size::text(first.items.saturating_mul(part)))
        }
        Function::Size => (read(first.bytes.max(first.items)).saturating_add(read(first.names)), Size::default()),
        Function::Lower | Function::Upper | Function::Trim => (0, Size::text(first.bytes)),
        Function::ToText => (0, Size::text(first.bytes.max(DIGITS))),
        _ => (0, Size::default()),
    };
    (steps.saturating_add(reading), size)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use transept_wire::head::Request;

    use super::super::Condition;
    use super::*;
    use crate::exchange::{Connection, Exchange, Notes, Now};
    use crate::principal::{Principal, PrincipalKind};

    /// A request that is as large as is assumed: every text, list, map and number of parts.
    fn with_the_largest<T>(work: impl FnOnce(&Exchange<'_>) -> T) -> T {
        let texts = || (0..ITEMS).map(|item| format!("{item:0>width$}", width = BYTES_WITHIN as usize));
        let parts: Vec<String> = (0..ITEMS).map(|item| format!("{item:04}")).collect();
        let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
        request.fields.push_bytes(b"X-List", parts.join(",").as_bytes()).expect("a field");
        let claims =
            json!({"texts": texts().collect::<Vec<_>>(), "lists": vec![vec![7; ITEMS as usize]; ITEMS as usize]});
        let serde_json::Value::Object(claims) = claims else { panic!("an object") };
        let principal = Principal {
            kind: PrincipalKind::User,
            id: "a".repeat(BYTES as usize).into(),
            groups: texts().map(Into::into).collect(),
            claims,
            ..Principal::default()
        };
        let address: std::net::SocketAddr = "192.0.2.1:9".parse().expect("an address");
        let mut notes = Notes { principal: Some(principal.into()), ..Notes::new() };
        let time = std::time::Duration::ZERO;
        work(&Exchange {
            now: Now { monotonic: time, unix: time },
            random: 0,
            connection: &Connection::new(address, address, None),
            client: address.ip(),
            listener_port: 80,
            request: &mut request,
            notes: &mut notes,
        })
    }

    /// What is accepted has a value for every request that is no larger than is assumed.
    #[test]
    fn nothing_that_is_accepted_takes_more_than_was_said() {
        let lists = [
            "principal.groups",
            "principal.claims.texts",
            "principal.claims.lists",
            r#"request.headers["x-list"].split(",")"#,
            "(principal.groups + principal.groups)",
            "principal.groups.map(x, x + x)",
            "principal.groups.filter(x, x != \"\")",
        ];
        let asks = [
            "a == b",
            "b == a + a",
            "a in principal.groups",
            "string(a) == b",
            r#"a.startsWith("z") && b.contains("y")"#,
            r#"b.matches("^z")"#,
            r#"[a, b].join("-") == "z""#,
            r#"a.split(",").exists(c, c == b)"#,
            "size(a) == size(b) + 1000",
            "a in principal.claims.lists",
            "request.headers.exists(h, h == string(a))",
            r#"[request.headers].exists(h, "x-none" in h) || request.path < string(b)"#,
        ];
        let (mut accepted, mut refused) = (0, 0);
        for outer in lists {
            for inner in lists {
                for ask in asks {
                    let nested = format!("{outer}.exists(a, {inner}.exists(b, {ask}))");
                    let flat = format!("{outer}.exists(a, [\"x\"].exists(b, {ask}))");
                    for text in [nested, flat] {
                        let Ok(condition) = Condition::compile(&text) else {
                            refused += 1;
                            continue;
                        };
                        accepted += 1;
                        let fault = with_the_largest(|x| condition.holds(x)).err().map(|fault| fault.to_string());
                        assert!(!fault.as_ref().is_some_and(|why| why.contains("steps")), "{text}: {fault:?}");
                    }
                }
            }
        }
        assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn two_lists_can_be_compared_and_split_once() {
        for good in [
            "principal.groups.all(a, principal.groups.exists(b, a == b))",
            "principal.claims.roles.exists(a, principal.claims.others.exists(b, a == b))",
            r#"principal.groups.exists(a, a in request.headers["x-list"].split(","))"#,
            r#"principal.claims.orgs.exists(o, o.roles.exists(r, r == "admin" && o.id == request.headers["x-org"]))"#,
            "principal.groups.all(a, principal.groups.exists(b, a.startsWith(b)))",
        ] {
            assert!(Condition::compile(good).is_ok(), "{good}: {:?}", Condition::compile(good));
        }
        let list = r#"request.headers["x-list"].split(",")"#;
        let twice = format!("{list}.exists(a, {list}.exists(b, a == b + \"z\"))");
        assert!(Condition::compile(&twice).is_err_and(|flaw| flaw.why.contains("steps for lists of 50 items")));
    }
}
