//! Structured fields (RFC 9651) as far as signatures need them: dictionaries of items and inner lists, read strictly and written again.
//!
//! Called by `signature` and the scheme. Two members with one name are refused, although the RFC lets the last one win: of two statements
//! about who signed what, none is believed. Decimals, dates and display strings are refused: nothing here has any.

use data_encoding::BASE64;

use crate::base64;

/// A value without parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bare {
    Integer(i64),
    Text(String),
    Token(String),
    Bytes(Vec<u8>),
    Bool(bool),
}

pub(crate) type Parameters = Vec<(String, Bare)>;

/// A value with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) bare: Bare,
    pub(crate) parameters: Parameters,
}

/// A member of a dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    Item(Item),
    List(Vec<Item>, Parameters),
}

impl Member {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Member::Item(item) => write_item(item, out),
            Member::List(items, parameters) => write_inner_list(items, parameters, out),
        }
    }
}

/// The longest value that is read, in bytes.
const LONGEST: usize = 16 * 1024;
/// The most members, items of a list, or parameters.
const MOST: usize = 128;

struct Reader<'b> {
    rest: &'b [u8],
}

/// A dictionary (section 4.2.2). None when it is none, or has a name twice.
pub(crate) fn dictionary(text: &[u8]) -> Option<Vec<(String, Member)>> {
    if text.len() > LONGEST {
        return None;
    }
    let mut reader = Reader { rest: text.trim_ascii() };
    let mut members: Vec<(String, Member)> = Vec::new();
    while !reader.rest.is_empty() {
        let name = reader.key()?;
        if members.len() == MOST || members.iter().any(|(known, _)| *known == name) {
            return None;
        }
        let member = if reader.take(b'=') {
            reader.member()?
        } else {
            Member::Item(Item { bare: Bare::Bool(true), parameters: reader.parameters()? })
        };
        members.push((name, member));
        reader.spaces();
        if reader.rest.is_empty() {
            break;
        }
        if !reader.take(b',') {
            return None;
        }
        reader.spaces();
        if reader.rest.is_empty() {
            return None;
        }
    }
    Some(members)
}

impl Reader<'_> {
    fn spaces(&mut self) {
        let count = self.rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        self.rest = &self.rest[count..];
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.rest.first() == Some(&wanted);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn while_is(&mut self, is: impl Fn(u8) -> bool) -> &[u8] {
        let count = self.rest.iter().take_while(|byte| is(**byte)).count();
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        taken
    }

    fn key(&mut self) -> Option<String> {
        if !matches!(self.rest.first(), Some(b'a'..=b'z' | b'*')) {
            return None;
        }
        let key = self.while_is(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'));
        String::from_utf8(key.to_vec()).ok()
    }

    fn member(&mut self) -> Option<Member> {
        if !self.take(b'(') {
            return Some(Member::Item(self.item()?));
        }
        let mut items = Vec::new();
        loop {
            while self.take(b' ') {}
            if self.take(b')') {
                return Some(Member::List(items, self.parameters()?));
            }
            if items.len() == MOST {
                return None;
            }
            items.push(self.item()?);
            if !matches!(self.rest.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn item(&mut self) -> Option<Item> {
        Some(Item { bare: self.bare()?, parameters: self.parameters()? })
    }

    fn parameters(&mut self) -> Option<Parameters> {
        let mut parameters = Parameters::new();
        while self.take(b';') {
            while self.take(b' ') {}
            let key = self.key()?;
            if parameters.len() == MOST || parameters.iter().any(|(known, _)| *known == key) {
                return None;
            }
            let value = if self.take(b'=') { self.bare()? } else { Bare::Bool(true) };
            parameters.push((key, value));
        }
        Some(parameters)
    }

    fn bare(&mut self) -> Option<Bare> {
        match self.rest.first()? {
            b'"' => self.text().map(Bare::Text),
            b':' => {
                self.rest = &self.rest[1..];
                let text = self.while_is(|byte| byte != b':');
                let bytes = base64::padded(text)?;
                self.take(b':').then_some(Bare::Bytes(bytes))
            }
            b'?' => {
                self.rest = &self.rest[1..];
                match (self.take(b'1'), self.take(b'0')) {
                    (true, false) => Some(Bare::Bool(true)),
                    (false, true) => Some(Bare::Bool(false)),
                    _ => None,
                }
            }
            b'-' | b'0'..=b'9' => {
                let negative = self.take(b'-');
                let digits = self.while_is(|byte| byte.is_ascii_digit());
                if digits.is_empty() || digits.len() > 15 {
                    return None;
                }
                let number: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
                // What goes on is a decimal.
                (self.rest.first() != Some(&b'.')).then_some(Bare::Integer(if negative { -number } else { number }))
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'*' => {
                let is = |byte: u8| byte.is_ascii_alphanumeric() || b":/!#$%&'*+-.^_`|~".contains(&byte);
                let token = self.while_is(is);
                String::from_utf8(token.to_vec()).ok().map(Bare::Token)
            }
            _ => None,
        }
    }

    fn text(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut bytes = self.rest.iter().enumerate().skip(1);
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                b'\\' => match bytes.next()?.1 {
                    escaped @ (b'"' | b'\\') => text.push(char::from(*escaped)),
                    _ => return None,
                },
                b' '..=b'~' => text.push(char::from(*byte)),
                _ => return None,
            }
        }
        None
    }
}

/// Writes an item (section 4.1.3).
pub(crate) fn write_item(item: &Item, out: &mut Vec<u8>) {
    write_bare(&item.bare, out);
    write_parameters(&item.parameters, out);
}

/// Writes an inner list (section 4.1.1.1).
pub(crate) fn write_inner_list(items: &[Item], parameters: &Parameters, out: &mut Vec<u8>) {
    out.push(b'(');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        write_item(item, out);
    }
    out.push(b')');
    write_parameters(parameters, out);
}

fn write_parameters(parameters: &Parameters, out: &mut Vec<u8>) {
    for (key, value) in parameters {
        out.push(b';');
        out.extend_from_slice(key.as_bytes());
        if *value != Bare::Bool(true) {
            out.push(b'=');
            write_bare(value, out);
        }
    }
}

fn write_bare(bare: &Bare, out: &mut Vec<u8>) {
    match bare {
        Bare::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Bare::Token(token) => out.extend_from_slice(token.as_bytes()),
        Bare::Bool(flag) => out.extend_from_slice(if *flag { b"?1" } else { b"?0" }),
        Bare::Bytes(bytes) => out.extend_from_slice(format!(":{}:", BASE64.encode(bytes)).as_bytes()),
        Bare::Text(text) => {
            out.push(b'"');
            for byte in text.bytes() {
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same() {
        for text in [
            r#"sig1=("@method" "@query-param";name="a b" "x";bs);created=1618884473;keyid="k\"1";alg=hmac;x=?0"#,
            "sig1=:AAEC:",
            "a=1;b=-2",
            "a;x",
        ] {
            let members = dictionary(text.as_bytes()).expect("a dictionary");
            let mut out = Vec::new();
            for (name, member) in &members {
                out.extend_from_slice(name.as_bytes());
                if *member
                    != Member::Item(Item { bare: Bare::Bool(true), parameters: vec![("x".into(), Bare::Bool(true))] })
                {
                    out.push(b'=');
                    member.write(&mut out);
                } else {
                    out.extend_from_slice(b";x");
                }
            }
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }

    #[test]
    fn what_is_ambiguous_or_odd_is_refused() {
        for wrong in [
            "a=1, a=2",
            "a=1,",
            "a=(1",
            "a=(1\"x\")",
            "A=1",
            "a=:A:",
            "a=\"x",
            "a=\"\\x\"",
            "a=1.5",
            "a=1;b=1;b=2",
            "a=1 b=2",
            "a=?2",
            "a=9999999999999999",
            "=1",
            "a=\"\u{e9}\"",
        ] {
            assert_eq!(dictionary(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(dictionary(b""), Some(Vec::new()));
    }
}
