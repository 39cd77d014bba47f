//! Byte classes of RFC 9110 and RFC 3986 as constant tables, and the scans over them.
//!
//! Called by `head`, `h1` and `normalize`, so that each grammar is written down once. Knows nothing of messages.

/// The byte may stand in a token (RFC 9110 5.6.2).
pub(crate) const TOKEN: u8 = 1;
/// The byte is `_`: a token byte that CGI-style servers cannot tell from `-`.
pub(crate) const UNDERSCORE: u8 = 2;
/// The byte may stand in a request target that has passed no further check: visible ASCII except `#`.
pub(crate) const TARGET: u8 = 4;
/// The byte may stand in a path as it is: RFC 3986 `pchar` without `%`, and `/`.
pub(crate) const PATH: u8 = 32;
/// RFC 3986 `unreserved`.
pub(crate) const UNRESERVED: u8 = 8;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut byte = 0u8;
    while byte < 0x7f {
        if byte.is_ascii_alphanumeric() {
            table[byte as usize] = TOKEN | UNRESERVED | PATH;
        }
        if byte.is_ascii_graphic() && byte != b'#' {
            table[byte as usize] |= TARGET;
        }
        byte += 1;
    }
    mark(&mut table, b"!#$%&'*+-.^_`|~", TOKEN);
    mark(&mut table, b"_", UNDERSCORE);
    mark(&mut table, b"-._~", UNRESERVED | PATH);
    mark(&mut table, b"!$&'()*+,;=:@/", PATH);
    table
}

const fn mark(table: &mut [u8; 256], bytes: &[u8], class: u8) {
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] |= class;
        i += 1;
    }
}

/// The class bits of a byte.
#[inline]
pub(crate) const fn class(byte: u8) -> u8 {
    CLASS[byte as usize]
}

/// Whether every byte has one of the class bits; true for no bytes at all.
#[inline]
pub(crate) fn all(bytes: &[u8], bits: u8) -> bool {
    bytes.iter().all(|&byte| class(byte) & bits != 0)
}

/// Whether the bytes are a token: one or more `tchar`.
#[inline]
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TOKEN)
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Marks, by the high bit of each byte, the control bytes (below 0x20, and DEL) of a word. Marks above the lowest one
/// may be wrong, because subtraction borrows; the lowest is exact.
#[inline]
const fn controls(word: u64) -> u64 {
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let no_del = word ^ (ONES * 0x7f);
    let del = no_del.wrapping_sub(ONES) & !no_del;
    (below_space | del) & HIGHS
}

/// The index of the first byte that a field value cannot hold: a control byte other than HTAB (RFC 9110 5.5).
#[inline]
pub(crate) fn find_control(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..) {
        let Some(chunk) = rest.first_chunk::<8>() else {
            return rest.iter().position(|&byte| is_control(byte)).map(|found| at + found);
        };
        let marks = controls(u64::from_le_bytes(*chunk));
        if marks == 0 {
            at += 8;
            continue;
        }
        at += (marks.trailing_zeros() / 8) as usize;
        if bytes[at] != b'\t' {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Whether a field value cannot hold the byte.
#[inline]
pub(crate) const fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

/// The bytes without spaces and tabs at either end (RFC 9110 5.6.3 OWS).
#[inline]
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The members of a comma-separated list (RFC 9110 5.6.1), trimmed, without empty ones. Knows no quoted strings: it
/// is for lists of tokens.
pub(crate) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|member| !member.is_empty())
}

/// The number that the bytes write in decimal; `None` when they are anything but digits, or it is beyond 2^64-1.
#[inline]
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_control_byte_wherever_it_stands() {
        for length in 0..40 {
            let clean = vec![b'a'; length];
            assert_eq!(find_control(&clean), None);
            for at in 0..length {
                for byte in 0..=255u8 {
                    let mut bytes = clean.clone();
                    bytes[at] = byte;
                    // A high byte or a tab before it must not hide it.
                    if at > 0 {
                        bytes[at - 1] = if byte % 2 == 0 { b'\t' } else { 0xff };
                    }
                    assert_eq!(find_control(&bytes), is_control(byte).then_some(at), "{byte:#x} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn splits_lists() {
        let found: Vec<&[u8]> = members(b" a ,\t, b,c ").collect();
        assert_eq!(found, [b"a", b"b", b"c"]);
    }
}
