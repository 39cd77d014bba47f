//! What a scalar means: the YAML 1.2 core schema.
//!
//! Called by `read` for every scalar.

use granit_parser::ScalarStyle;

use crate::value::{Node, Words};

pub(super) fn scalar(text: &str, style: ScalarStyle, tag: Option<&str>, words: &mut Words) -> Option<Node> {
    match tag {
        None if style == ScalarStyle::Plain => Some(plain(text, words)),
        None | Some("str") => Some(Node::Text(words.share(text))),
        Some("null") => Some(Node::Null),
        Some("bool" | "int" | "float") => match (tag, plain(text, words)) {
            (Some("bool"), node @ Node::Bool(_)) => Some(node),
            (Some("int"), node @ Node::Integer(_)) => Some(node),
            (Some("float"), Node::Integer(number)) => Some(Node::Float(number as f64)),
            (Some("float"), node @ Node::Float(_)) => Some(node),
            _ => None,
        },
        Some(_) => None,
    }
}

/// A plain scalar by the YAML 1.2 core schema (section 10.3.2).
fn plain(text: &str, words: &mut Words) -> Node {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Node::Null,
        "true" | "True" | "TRUE" => return Node::Bool(true),
        "false" | "False" | "FALSE" => return Node::Bool(false),
        _ => {}
    }
    let first = text.as_bytes().first().copied().unwrap_or(b'x');
    if !(first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.')) {
        return Node::Text(words.share(text));
    }
    let number = if let Some(digits) = text.strip_prefix("0x") {
        all(digits, |b| b.is_ascii_hexdigit()).then(|| i64::from_str_radix(digits, 16).ok()).flatten()
    } else if let Some(digits) = text.strip_prefix("0o") {
        all(digits, |b| b.is_ascii_digit()).then(|| i64::from_str_radix(digits, 8).ok()).flatten()
    } else {
        text.parse::<i64>().ok()
    };
    if let Some(number) = number {
        return Node::Integer(number);
    }
    let numeric = all(text, |b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
    match text.parse::<f64>() {
        Ok(number) if numeric => Node::Float(number),
        _ => Node::Text(words.share(text)),
    }
}

fn all(text: &str, accept: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(accept)
}
