//! Where a message ends and whether the connection lives on: `Content-Length`, `Transfer-Encoding`, `Connection`.
//!
//! Called by the request and response parsers once the fields are known. The rules are those of RFC 9112 6 and 9 with
//! every "may be repaired" read as "is refused".

use super::{Body, Malformed, Protocol};
use crate::grammar;
use crate::head::{FieldId, Fields, Version};

/// The body that the fields announce; [`Body::None`] when they announce none.
#[inline]
pub(super) fn announced(fields: &Fields, version: Version) -> Result<Body, Malformed> {
    const FRAMING: u128 = FieldId::TRANSFER_ENCODING.bit() | FieldId::CONTENT_LENGTH.bit();
    if !fields.may_contain(FRAMING) {
        return Ok(Body::None);
    }
    if fields.contains(FieldId::TRANSFER_ENCODING) {
        if version == Version::Http10 {
            return Err(Malformed::TransferEncodingInHttp10);
        }
        if fields.contains(FieldId::CONTENT_LENGTH) {
            return Err(Malformed::LengthAndTransferEncoding);
        }
        return transfer_encoding(fields);
    }
    content_length(fields)
}

fn transfer_encoding(fields: &Fields) -> Result<Body, Malformed> {
    let mut lines = fields.all(FieldId::TRANSFER_ENCODING);
    let (Some(value), None) = (lines.next(), lines.next()) else {
        return Err(Malformed::TransferEncoding);
    };
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(Body::Chunked);
    }
    // Well-formed and unknown is 501 (RFC 9112 6.1); anything that only resembles `chunked` is an attack.
    let mut members = value.split(|&byte| byte == b',').map(grammar::trim);
    let honest = members.next_back().is_some_and(grammar::is_token)
        && members.all(|member| grammar::is_token(member) && !member.eq_ignore_ascii_case(b"chunked"))
        && !value.eq_ignore_ascii_case(b"identity");
    Err(if honest { Malformed::UnknownTransferCoding } else { Malformed::TransferEncoding })
}

fn content_length(fields: &Fields) -> Result<Body, Malformed> {
    let mut lines = fields.all(FieldId::CONTENT_LENGTH);
    let (Some(value), None) = (lines.next(), lines.next()) else {
        return Err(Malformed::ContentLengthRepeated);
    };
    grammar::decimal(value).map(Body::Length).ok_or(Malformed::ContentLength)
}

/// What the `Connection` field asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

/// Nobody names so many fields; somebody who does wants us to compare.
const MOST_OPTIONS: usize = 64;

/// Reads the `Connection` lines. Members that are no tokens mean nothing.
#[inline]
pub(super) fn options(fields: &Fields) -> Result<Options, Malformed> {
    let mut options = Options::default();
    let mut count = 0;
    for member in fields.all(FieldId::CONNECTION).flat_map(grammar::members) {
        count += 1;
        if count > MOST_OPTIONS {
            return Err(Malformed::ConnectionOptions);
        }
        options.close |= member.eq_ignore_ascii_case(b"close");
        options.keep_alive |= member.eq_ignore_ascii_case(b"keep-alive");
        options.upgrade |= member.eq_ignore_ascii_case(b"upgrade");
    }
    Ok(options)
}

impl Options {
    /// Whether the connection can carry another message (RFC 9112 9.3).
    pub(super) fn persists(self, version: Version) -> bool {
        !self.close && (version != Version::Http10 || self.keep_alive)
    }
}

/// The protocol that the message wants to switch to (RFC 9110 7.8): the first one that we would pass on.
pub(super) fn upgrade(fields: &Fields, options: Options, version: Version) -> Option<Protocol> {
    if !options.upgrade || version == Version::Http10 {
        return None;
    }
    Protocol::wanted(fields)
}
