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

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_undone_and_the_rest_stays() {
        for (raw, plain) in [("a", "a"), ("a+b%20c", "a b c"), ("%4", "%4"), ("%zz%", "%zz%"), ("%2B%c3%A9", "+\u{e9}")]
        {
            assert_eq!(decoded(raw.as_bytes(), <[u8]>::to_vec), plain.as_bytes(), "{raw}");
        }
    }
}
