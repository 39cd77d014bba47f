//! Field sections: the lines between the first line and the empty line, and trailer sections.
//!
//! Called by the request, response and body parsers. Strict in the grammar (RFC 9112 5): CRLF only, no folding, no
//! space before the colon. Gives no field a meaning.

use super::{Halt, Malformed, Underscore};
use crate::grammar::{self, TOKEN, UNDERSCORE};
use crate::head::{FieldId, Fields, Span};

/// What a section may hold.
pub(super) struct Rules {
    pub(super) fields: usize,
    pub(super) too_many: Malformed,
    pub(super) underscore: Underscore,
}

/// Parses the lines from `start` on, up to and with the empty line, into `fields`, which must be empty. Gives the
/// offset after the empty line. On an error the fields are in no useful state.
#[inline]
pub(super) fn parse(bytes: &[u8], start: usize, rules: &Rules, fields: &mut Fields) -> Result<usize, Halt> {
    let mut at = start;
    let mut lines = 0;
    loop {
        match bytes.get(at) {
            Some(b'\r') => break,
            Some(_) => {}
            None => return Err(Halt::Incomplete),
        }
        lines += 1;
        if lines > rules.fields {
            return Err(rules.too_many.into());
        }
        at = parse_line(bytes, start, at, rules.underscore, fields)?;
    }
    let end = after_crlf(bytes, at)?;
    let block = bytes.get(start..end).unwrap_or_default();
    fields.take_block(block).ok_or(Malformed::HeadTooLarge)?;
    Ok(end)
}

#[inline]
fn parse_line(
    bytes: &[u8],
    start: usize,
    at: usize,
    underscore: Underscore,
    fields: &mut Fields,
) -> Result<usize, Halt> {
    let rest = bytes.get(at..).unwrap_or_default();
    let mut classes = 0;
    let mut name_length = 0;
    for &byte in rest {
        let class = grammar::class(byte);
        if class & TOKEN == 0 {
            break;
        }
        classes |= class;
        name_length += 1;
    }
    let (name, rest) = rest.split_at(name_length);
    match rest.first() {
        Some(b':') if !name.is_empty() => {}
        Some(&byte) => return Err(bad_name(name, byte, rest)),
        None => return Err(Halt::Incomplete),
    }
    let after_colon = rest.get(1..).unwrap_or_default();
    let padding = after_colon.iter().take_while(|&&byte| byte == b' ' || byte == b'\t').count();
    let value_start = at + name_length + 1 + padding;
    let value_length = after_colon.get(padding..).and_then(grammar::find_control).ok_or(Halt::Incomplete)?;
    let next = after_crlf(bytes, value_start + value_length)?;
    if classes & UNDERSCORE != 0 && !underscore.keeps(name)? {
        return Ok(next);
    }
    let value = bytes.get(value_start..value_start + value_length).unwrap_or_default();
    let trimmed = value.len() - value.iter().rev().take_while(|&&byte| byte == b' ' || byte == b'\t').count();
    // The block is appended to an empty buffer, so offsets in it are offsets from the start of the section.
    let name_span = Span { start: (at - start) as u32, length: name_length as u32 };
    let value_span = Span { start: (value_start - start) as u32, length: trimmed as u32 };
    fields.mark(FieldId::from_bytes(name), name_span, value_span);
    Ok(next)
}

/// The offset after a CRLF, or what is wrong with the byte where one was expected.
#[inline]
pub(super) fn after_crlf(bytes: &[u8], at: usize) -> Result<usize, Halt> {
    match bytes.get(at..) {
        Some([b'\r', b'\n', ..]) => Ok(at + 2),
        Some([] | [b'\r']) | None => Err(Halt::Incomplete),
        Some([b'\r', ..]) => Err(Malformed::BareCr.into()),
        Some([byte, ..]) => Err(bad_byte(*byte).into()),
    }
}

fn bad_byte(byte: u8) -> Malformed {
    match byte {
        b'\n' => Malformed::BareLf,
        0 => Malformed::Nul,
        _ => Malformed::ControlByte,
    }
}

#[cold]
fn bad_name(name: &[u8], byte: u8, rest: &[u8]) -> Halt {
    match byte {
        b' ' | b'\t' if name.is_empty() => Malformed::FoldedLine.into(),
        b' ' | b'\t' => Malformed::SpaceBeforeColon.into(),
        b'\n' => Malformed::BareLf.into(),
        0 => Malformed::Nul.into(),
        b'\r' => match rest.get(1) {
            None => Halt::Incomplete,
            Some(b'\n') => Malformed::FieldName.into(),
            Some(_) => Malformed::BareCr.into(),
        },
        _ => Malformed::FieldName.into(),
    }
}
