//! The words of an expression, with where each begins.
//!
//! Called by `parse`. Follows the lexis of CEL's specification; what it leaves out (bytes, unsigned numbers, triple quotes) is refused by
//! name, so that nothing means something else than elsewhere.

use super::Flaw;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Name(String),
    Int(i64),
    /// The number that is one only with a minus before it: 9223372036854775808.
    Least,
    Double(f64),
    Text(String),
    Sign(&'static str),
    End,
}

/// Longer ones before those they begin with.
const SIGNS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(", ")", "[", "]",
    "{", "}",
];

/// How far below zero whole numbers go.
const LEAST: u64 = i64::MIN.unsigned_abs();

/// Words that mean something in CEL or will, and can be no names.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// All words of `text`; the last one is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Flaw> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if let Some(length) = quoted(rest) {
            let (value, length) = text_literal(rest, at, length)?;
            found.push((at, Token::Text(value)));
            at += length;
        } else if first.is_ascii_alphabetic() || first == '_' {
            let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push((at, name(&rest[..length], at)?));
            at += length;
        } else if first.is_ascii_digit() || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) {
            let (token, length) = number(rest, at)?;
            found.push((at, token));
            at += length;
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            found.push((at, Token::Sign(sign)));
            at += sign.len();
        } else {
            return Err(stray(rest, first, at));
        }
    }
    found.push((text.len(), Token::End));
    Ok(found)
}

fn stray(rest: &str, first: char, at: usize) -> Flaw {
    let flaw = Flaw::new(at, format!("`{first}` means nothing here"));
    match first {
        '=' => flaw.remedy("write `==` to compare"),
        '&' => flaw.remedy("write `&&` for and"),
        '|' => flaw.remedy("write `||` for or"),
        '“' | '”' | '’' | '‘' | '`' => flaw.remedy("write text in \"quotes\""),
        _ if rest.starts_with('$') => flaw.remedy("variables are written without a sign: request.method"),
        _ => flaw,
    }
}

fn name(word: &str, at: usize) -> Result<Token, Flaw> {
    let instead = match word {
        "and" | "AND" => "write `&&`",
        "or" | "OR" => "write `||`",
        "not" | "NOT" => "write `!`",
        word if RESERVED.contains(&word) => "it is a reserved word",
        word => return Ok(Token::Name(word.to_owned())),
    };
    Err(Flaw::new(at, format!("`{word}` cannot stand here")).remedy(instead))
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), Flaw> {
    let hex = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"));
    if let Some(digits) = hex {
        let length = digits.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(digits.len());
        let value = i64::from_str_radix(&digits[..length], 16);
        return match value {
            Ok(value) => Ok((Token::Int(value), length + 2)),
            Err(_) if u64::from_str_radix(&digits[..length], 16) == Ok(LEAST) => Ok((Token::Least, length + 2)),
            Err(_) => Err(Flaw::new(at, format!("`{}` is not a number", &rest[..length + 2]))),
        };
    }
    let mut length = 0;
    let mut whole = true;
    let bytes = rest.as_bytes();
    while let Some(byte) = bytes.get(length) {
        match byte {
            b'0'..=b'9' => {}
            b'.' if whole && bytes.get(length + 1).is_some_and(u8::is_ascii_digit) => whole = false,
            b'e' | b'E' if length > 0 => {
                whole = false;
                if matches!(bytes.get(length + 1), Some(b'+' | b'-')) {
                    length += 1;
                }
            }
            _ => break,
        }
        length += 1;
    }
    let word = &rest[..length];
    if rest[length..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        let flaw = Flaw::new(at, format!("`{word}` is followed by a letter"));
        return Err(if rest[length..].starts_with(['u', 'U']) {
            flaw.remedy("unsigned numbers are not known here: leave the `u` out")
        } else {
            flaw
        });
    }
    let is_least = || (word.parse() == Ok(LEAST)).then_some(Token::Least);
    let token =
        if whole { word.parse().ok().map(Token::Int).or_else(is_least) } else { word.parse().ok().map(Token::Double) };
    match token {
        Some(token) => Ok((token, length)),
        None => Err(Flaw::new(at, format!("`{word}` is not a number of 64 bits"))),
    }
}

/// How many bytes stand before what is quoted, when a text begins here: prefix and quote.
fn quoted(rest: &str) -> Option<usize> {
    let bytes = rest.as_bytes();
    let prefix = bytes.iter().take(2).take_while(|byte| matches!(byte, b'r' | b'R' | b'b' | b'B')).count();
    matches!(bytes.get(prefix), Some(b'"' | b'\'')).then_some(prefix + 1)
}

fn text_literal(rest: &str, at: usize, begin: usize) -> Result<(String, usize), Flaw> {
    let prefix = rest[..begin - 1].to_ascii_lowercase();
    if prefix.contains('b') {
        return Err(Flaw::new(at, "bytes are not known here").remedy("write text, without the `b`"));
    }
    let quote = &rest[begin - 1..begin];
    if rest[begin..].starts_with(&quote.repeat(2)) {
        return Err(Flaw::new(at, "three quotes are not known here").remedy("write one quote at each end"));
    }
    let raw = prefix.contains('r');
    let mut value = String::new();
    let mut characters = rest[begin..].char_indices();
    while let Some((offset, character)) = characters.next() {
        match character {
            '\n' => break,
            '\\' if !raw => value.push(escape(&mut characters).ok_or_else(|| {
                Flaw::new(at + begin + offset, "this is not an escape")
                    .remedy("known are \\\\ \\\" \\' \\n \\r \\t \\xHH \\uHHHH; r\"...\" has no escapes")
            })?),
            character if quote.starts_with(character) => return Ok((value, begin + offset + 1)),
            character => value.push(character),
        }
    }
    Err(Flaw::new(at, "the text does not end").remedy(format!("close it with {quote}")))
}

fn escape(characters: &mut std::str::CharIndices<'_>) -> Option<char> {
    let hex = |characters: &mut std::str::CharIndices<'_>, count: usize| {
        let mut value = 0u32;
        for _ in 0..count {
            value = value.checked_mul(16)? + characters.next()?.1.to_digit(16)?;
        }
        char::from_u32(value)
    };
    match characters.next()?.1 {
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        character @ ('\\' | '"' | '\'' | '`' | '?') => Some(character),
        'x' | 'X' => hex(characters, 2),
        'u' => hex(characters, 4),
        'U' => hex(characters, 8),
        _ => None,
    }
}
