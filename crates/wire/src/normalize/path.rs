//! Paths and queries: RFC 3986 6.2.2 with every ambiguity refused or removed.
//!
//! Called by the proxy once per request, before any decision; the result is matched and forwarded, so a policy and a
//! backend cannot read two different paths. Called by the engine on the paths of configuration too. Path parameters
//! (`;...`) are kept: what they mean is a matter of the application.

use crate::grammar;

/// What a path may hold and what is done about what is not in normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PathRules {
    /// What happens to a path that is not in normal form.
    pub form: Form,
    /// `%2F` and `%5C`.
    pub encoded_slash: Slashes,
    /// `//`.
    pub merge_slashes: MergeSlashes,
    /// `%01` to `%1F` and `%7F`.
    pub encoded_controls: Controls,
    /// Percent-encoded bytes that are not UTF-8.
    pub encoding: Encoding,
}

/// What happens to a path that is not in normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Form {
    /// It is rewritten, and the rewritten path is matched and forwarded.
    #[default]
    Normalize,
    /// It is refused.
    Refuse,
    /// It is matched and forwarded as it is. Forbidden characters are refused all the same.
    Raw,
}

/// What happens to an encoded slash or backslash. A plain backslash is refused always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Slashes {
    /// The path is refused.
    #[default]
    Refuse,
    /// It stays encoded: never a separator, never decoded.
    Keep,
}

/// What happens to several slashes in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MergeSlashes {
    /// They become one, before dot segments are looked at.
    #[default]
    Merge,
    /// They stay: there is an empty segment between them.
    Keep,
}

/// What happens to an encoded control character. `%00` is refused always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Controls {
    /// The path is refused.
    #[default]
    Refuse,
    /// It stays encoded.
    Keep,
}

/// What percent-encoded bytes outside ASCII have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encoding {
    /// Anything.
    #[default]
    Any,
    /// UTF-8, which has no overlong forms.
    Utf8,
}

/// Where the normal form is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normal {
    /// The input was in normal form.
    Unchanged,
    /// In the output buffer.
    Rewritten,
}

/// Why a path or query is refused. The text names the rule that allows it, where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NotRooted,
    /// A space, a control character, `#`, or a byte outside ASCII.
    #[error("the target holds a character that must be percent-encoded")]
    Character,
    /// A `%` without two hexadecimal digits.
    #[error("the path holds a % that is not followed by two hexadecimal digits")]
    Percent,
    /// A backslash.
    #[error("the path holds a backslash")]
    Backslash,
    /// `%2F`.
    #[error(
        "the path holds an encoded slash (%2F), which this listener does not allow (a ListenerPolicy may: path.encodedSlashes)"
    )]
    EncodedSlash,
    /// `%5C`.
    #[error(
        "the path holds an encoded backslash (%5C), which this listener does not allow (a ListenerPolicy may: path.encodedSlashes)"
    )]
    EncodedBackslash,
    /// A dot segment between encoded slashes, even where those are allowed: `..%2F`.
    #[error("the path holds a dot segment next to an encoded slash or backslash")]
    HiddenDots,
    /// `%00`.
    #[error("the path holds an encoded NUL (%00)")]
    Nul,
    /// `%01` to `%1F` or `%7F`.
    #[error(
        "the path holds an encoded control character, which this listener does not allow (a ListenerPolicy may: path.encodedControls)"
    )]
    EncodedControl,
    /// Percent-encoded bytes that are not UTF-8.
    #[error("the path holds percent-encoded bytes that are not UTF-8, which this listener does not allow")]
    NotUtf8,
    /// Not in normal form, where only that is allowed.
    #[error("the path is not in normal form, which this listener requires")]
    NotNormal,
}

/// Brings a path (without query) into normal form: dot segments removed, slashes merged, `%XX` in upper case, decoded
/// where the byte is unreserved, and bytes that a path cannot hold plainly encoded. Idempotent. `*` stays `*`.
///
/// The output buffer is cleared and used only when the path does not look normal; a normal path costs one pass.
///
/// # Errors
/// [`BadPath`] when the rules do not allow the path.
pub fn path(raw: &[u8], rules: &PathRules, out: &mut Vec<u8>) -> Result<Normal, BadPath> {
    if looks_normal(raw) || raw == b"*" {
        return Ok(Normal::Unchanged);
    }
    if raw.first() != Some(&b'/') {
        return Err(BadPath::NotRooted);
    }
    out.clear();
    out.reserve(raw.len());
    rewrite(raw, rules, out)?;
    if out == raw {
        return Ok(Normal::Unchanged);
    }
    match rules.form {
        Form::Normalize => Ok(Normal::Rewritten),
        Form::Refuse => Err(BadPath::NotNormal),
        Form::Raw => Ok(Normal::Unchanged),
    }
}

/// Checks a query, which is never rewritten: visible ASCII without `#`. A `%` may stand alone, as many clients write it.
///
/// # Errors
/// [`BadPath::Character`] when it holds something else.
pub fn query(raw: &[u8]) -> Result<(), BadPath> {
    if grammar::all(raw, grammar::TARGET) { Ok(()) } else { Err(BadPath::Character) }
}

/// Proves a path normal when nothing in it needs a second look.
fn looks_normal(raw: &[u8]) -> bool {
    let mut previous = 0u8;
    for &byte in raw {
        if grammar::class(byte) & grammar::PATH == 0 || (previous == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        previous = byte;
    }
    raw.first() == Some(&b'/')
}

fn rewrite(raw: &[u8], rules: &PathRules, out: &mut Vec<u8>) -> Result<(), BadPath> {
    let mut letters = Letters::default();
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            letters.end(rules)?;
        }
        match *byte {
            b'/' => separate(rules, out)?,
            b'\\' => return Err(BadPath::Backslash),
            b'%' => {
                let ([high, low], tail) = tail.split_first_chunk().ok_or(BadPath::Percent)?;
                let byte = hex(*high).ok_or(BadPath::Percent)? << 4 | hex(*low).ok_or(BadPath::Percent)?;
                rest = tail;
                letters.next(byte, rules)?;
                put_encoded(byte, rules, out)?;
            }
            byte if grammar::class(byte) & grammar::PATH != 0 => out.push(byte),
            byte if byte.is_ascii_graphic() && !matches!(byte, b'#' | b'?') => percent(byte, out),
            _ => return Err(BadPath::Character),
        }
    }
    letters.end(rules)?;
    end_segment(rules, out)?;
    Ok(())
}

/// Ends the segment that is being written and begins the next one.
fn separate(rules: &PathRules, out: &mut Vec<u8>) -> Result<(), BadPath> {
    let slash_is_there = match end_segment(rules, out)? {
        Segment::Dots => true,
        Segment::Name => rules.merge_slashes == MergeSlashes::Merge && out.last() == Some(&b'/'),
    };
    if !slash_is_there {
        out.push(b'/');
    }
    Ok(())
}

enum Segment {
    Name,
    /// It was `.` or `..` and is gone; the slash that the next segment follows is there.
    Dots,
}

/// Removes the last segment when it is `.`, and the one before it too when it is `..` (RFC 3986 5.2.4).
fn end_segment(rules: &PathRules, out: &mut Vec<u8>) -> Result<Segment, BadPath> {
    if out.ends_with(b"/..") {
        out.truncate(out.len() - 3);
        out.truncate(memchr::memrchr(b'/', out).unwrap_or(0));
        out.push(b'/');
        return Ok(Segment::Dots);
    }
    if out.ends_with(b"/.") {
        out.truncate(out.len() - 1);
        return Ok(Segment::Dots);
    }
    if rules.encoded_slash == Slashes::Keep {
        let segment = &out[memchr::memrchr(b'/', out).map_or(0, |slash| slash + 1)..];
        refuse_hidden_dots(segment)?;
    }
    Ok(Segment::Name)
}

/// A backend that decodes `..%2F` climbs; no honest client sends it.
fn refuse_hidden_dots(segment: &[u8]) -> Result<(), BadPath> {
    let mut from = 0;
    let mut cuts = 0;
    for at in memchr::memchr_iter(b'%', segment).chain([segment.len()]) {
        let cut = matches!(segment.get(at..at + 3), Some(b"%2F" | b"%5C"));
        if !cut && at != segment.len() {
            continue;
        }
        cuts += usize::from(cut);
        if cuts > 0 && matches!(&segment[from..at], b"." | b"..") {
            return Err(BadPath::HiddenDots);
        }
        from = at + 3;
    }
    Ok(())
}

fn put_encoded(byte: u8, rules: &PathRules, out: &mut Vec<u8>) -> Result<(), BadPath> {
    match byte {
        0 => return Err(BadPath::Nul),
        b'/' if rules.encoded_slash == Slashes::Refuse => return Err(BadPath::EncodedSlash),
        b'\\' if rules.encoded_slash == Slashes::Refuse => return Err(BadPath::EncodedBackslash),
        0x01..=0x1f | 0x7f if rules.encoded_controls == Controls::Refuse => {
            return Err(BadPath::EncodedControl);
        }
        byte if grammar::class(byte) & grammar::UNRESERVED != 0 => out.push(byte),
        byte => percent(byte, out),
    }
    Ok(())
}

fn percent(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// A percent-encoded character of several bytes that is being read, for [`Encoding::Utf8`].
#[derive(Default)]
struct Letters {
    bytes: [u8; 4],
    length: usize,
}

impl Letters {
    fn next(&mut self, byte: u8, rules: &PathRules) -> Result<(), BadPath> {
        if rules.encoding == Encoding::Any {
            return Ok(());
        }
        if byte.is_ascii() {
            return self.end(rules);
        }
        *self.bytes.get_mut(self.length).ok_or(BadPath::NotUtf8)? = byte;
        self.length += 1;
        if std::str::from_utf8(&self.bytes[..self.length]).is_ok() {
            self.length = 0;
        }
        Ok(())
    }

    fn end(&self, rules: &PathRules) -> Result<(), BadPath> {
        if rules.encoding == Encoding::Utf8 && self.length != 0 { Err(BadPath::NotUtf8) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
