//! The encoding of HTML forms, which queries have as well (WHATWG URL, application/x-www-form-urlencoded).
//!
//! Called wherever a name or a value of a query is looked at: by routing, by expressions and by signatures.

use smallvec::SmallVec;

/// Hands the text on with `%XX` and `+` undone, without a copy when nothing is encoded. What is no `%XX` stays as it is.
pub(crate) fn decoded<R>(text: &[u8], look: impl FnOnce(&[u8]) -> R) -> R {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return look(text);
    }
    let mut plain: SmallVec<[u8; 256]> = SmallVec::new();
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'+', _) => plain.push(b' '),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    plain.push(high << 4 | low);
                    rest = after;
                }
                _ => plain.push(byte),
            },
            _ => plain.push(byte),
        }
    }
    look(&plain)
}

/// A text as the value of a parameter: also good in the query of a URL.
pub(crate) fn encoded(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let digit = |nibble: u8| char::from(HEX[usize::from(nibble & 15)]);
            out.extend(['%', digit(byte >> 4), digit(byte)]);
        }
    }
    out
}

/// Writes parameters as a form or a query.
pub(crate) fn written<'p>(parameters: impl IntoIterator<Item = (&'p str, &'p str)>) -> String {
    let mut out = String::new();
    for (name, value) in parameters {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(&encoded(name));
        out.push('=');
        out.push_str(&encoded(value));
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_holds_any_text() {
        assert_eq!(encoded("a b+c&d=ä%"), "a%20b%2Bc%26d%3D%C3%A4%25");
        assert_eq!(encoded("eyJ.a_b-c~"), "eyJ.a_b-c~");
        assert_eq!(written([("a", "1&"), ("b", "")]), "a=1%26&b=");
    }

    #[test]
    fn what_is_encoded_is_undone_and_the_rest_stays() {
        for (raw, plain) in [("a", "a"), ("a+b%20c", "a b c"), ("%4", "%4"), ("%zz%", "%zz%"), ("%2B%c3%A9", "+\u{e9}")]
        {
            assert_eq!(decoded(raw.as_bytes(), <[u8]>::to_vec), plain.as_bytes(), "{raw}");
        }
    }
}
