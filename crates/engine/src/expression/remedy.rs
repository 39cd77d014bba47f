//! What to write instead, where kinds do not fit: for mistakes that people make.
//!
//! Called by `check` with what it refuses.

use super::check::{Node, Op};
use super::kind::Kind;

/// How one asks whether something is there.
pub(super) const THERE: &str = "ask whether it is there: has(principal.claims.email), or \"x-name\" in request.headers";

/// How a header with `-` in its name is asked for, where an expression asks for one as if the name had none. Whatever is found wrong then,
/// a reserved word or a name without a value, comes from that.
pub(super) fn dashed_header(text: &str) -> Option<String> {
    let is_part = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_');
    text.match_indices(".headers.").find_map(|(at, found)| {
        let rest = text.get(at + found.len()..)?;
        let name = rest.get(..rest.find(|char| !is_part(char)).unwrap_or(rest.len()))?;
        name.contains('-').then(|| format!("write a header with `-` in its name as `request.headers['{name}']`"))
    })
}

/// How a value becomes one of the kind that is wanted.
pub(super) const fn turned(found: Kind, wanted: Kind) -> Option<&'static str> {
    match (wanted, found) {
        (Kind::Bool, Kind::Text) => Some(
            "compare it, as in request.method == \"GET\"; whether a header is there says \"x-name\" in request.headers",
        ),
        (Kind::Bool, Kind::Int | Kind::Double) => Some("compare it, as in size(principal.groups) > 0"),
        (Kind::Bool, Kind::List(_) | Kind::Map(_)) => Some("ask for an item, as in \"admin\" in principal.groups"),
        (Kind::Int, Kind::Bool) => Some("say which number is meant: condition ? 10 : 1"),
        (Kind::Int, Kind::Text | Kind::Double) => Some("write int(...) around it"),
        (Kind::Double, Kind::Text) => Some("write double(...) around it"),
        (Kind::Text, Kind::Bool) => Some("say which text is meant: condition ? \"a\" : \"b\""),
        (Kind::Text, Kind::Int | Kind::Double) => Some("write string(...) around it"),
        (Kind::Text, Kind::List(_)) => Some("take one item, as in list[0], or ask for some: list.exists(item, ...)"),
        (Kind::Time, Kind::Text) => Some("write timestamp(...) around it, as in timestamp(\"2026-01-31T08:00:00Z\")"),
        (Kind::Span, Kind::Text) => Some("write duration(...) around it, as in duration(\"1h30m\")"),
        _ => None,
    }
}

/// How two values of kinds that do not meet are compared.
pub(super) fn compared(left: &Node, right: &Node) -> Option<String> {
    match (left.kind, right.kind) {
        (Kind::Null, _) | (_, Kind::Null) => Some(THERE.to_owned()),
        (Kind::Text, _) => text_with(left, right.kind),
        (_, Kind::Text) => text_with(right, left.kind),
        (Kind::List(_), _) => turned(left.kind, Kind::Bool).map(str::to_owned),
        (_, Kind::List(_)) => turned(right.kind, Kind::Bool).map(str::to_owned),
        _ => None,
    }
}

/// How text is compared with a value of another kind.
fn text_with(text: &Node, other: Kind) -> Option<String> {
    let written = text.text();
    let without_quotes = |text: &str| format!("write {text} without quotes");
    match (other, written) {
        (Kind::Int | Kind::Double, Some(text)) if text.parse::<f64>().is_ok_and(f64::is_finite) => {
            Some(without_quotes(text))
        }
        (Kind::Bool, Some(text @ ("true" | "false"))) => Some(without_quotes(text)),
        (Kind::Int | Kind::Double, Some(_)) => Some("write string(...) around the number".to_owned()),
        (Kind::Int | Kind::Double, None) => Some("write int(...) around the text, or the number in quotes".to_owned()),
        (Kind::Bool, None) => Some("write true and false in quotes".to_owned()),
        (Kind::List(_) | Kind::Map(_), _) => Some("ask with `in`, as in \"admin\" in principal.groups".to_owned()),
        (Kind::Time | Kind::Span, _) => turned(Kind::Text, other).map(str::to_owned),
        _ => None,
    }
}

/// Whether one of both is null, and the other can never be.
pub(super) fn is_never_null(left: &Node, right: &Node) -> bool {
    let is_null = |node: &Node| matches!(node.op, Op::Constant(_)) && node.kind == Kind::Null;
    let has_kind = |node: &Node| !matches!(node.kind, Kind::Any | Kind::Null);
    (is_null(left) && has_kind(right)) || (is_null(right) && has_kind(left))
}
