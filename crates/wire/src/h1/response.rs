//! Response heads: RFC 9112 4 and the framing of responses.
//!
//! Called by the proxy on the bytes of an upstream connection. Every fault becomes 502 there. Counting interim
//! responses is the caller's.

use super::{Body, Halt, Limits, Malformed, Underscore, framing, section, window};
use crate::grammar;
use crate::head::{Method, Response, Version};

/// What the head of a response says about the connection and about what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseMeta {
    /// Bytes of the head, with the empty line that ends it.
    pub head_len: usize,
    /// The framing of the body that follows.
    pub body: Body,
    /// The framing that the fields announce, which is `body` except for a response to HEAD and for 304: those have no
    /// body and say how long it would have been.
    pub announced: Body,
    /// The connection can carry another request once the body has been read.
    pub keep_alive: bool,
}

/// Parses a response head at the beginning of the bytes. `request_method` is that of the request it answers.
///
/// `Ok(None)` means that the head is not complete, as with [`super::parse_request`]. Interim responses (1xx) are given
/// back like others, with [`Body::None`]: another response follows, except after 101. A reason phrase may be missing
/// together with the space before it, which many servers leave out and nobody misreads.
///
/// # Errors
/// [`Malformed`]: answer 502 and drop the connection.
pub fn parse_response(
    bytes: &[u8],
    request_method: &Method,
    limits: &Limits,
    into: &mut Response,
) -> Result<Option<ResponseMeta>, Malformed> {
    into.clear();
    match parse(bytes, request_method, limits, into) {
        Ok(meta) => Ok(Some(meta)),
        Err(Halt::Incomplete) => {
            into.clear();
            Ok(None)
        }
        Err(Halt::Malformed(malformed)) => Err(malformed),
    }
}

fn parse(bytes: &[u8], method: &Method, limits: &Limits, into: &mut Response) -> Result<ResponseMeta, Halt> {
    let line_limit = limits.request_line.saturating_add(2);
    let head = window(bytes, limits.head_bytes.min(u32::MAX as usize));
    let line = window(head, line_limit);
    let too_long =
        if line_limit <= limits.head_bytes { Malformed::RequestLineTooLong } else { Malformed::HeadTooLarge };
    let fields_start =
        parse_line(line, into).map_err(|halt| halt.at_limit(line, line_limit.min(limits.head_bytes), too_long))?;
    let rules =
        section::Rules { fields: limits.fields, too_many: Malformed::TooManyFields, underscore: Underscore::Keep };
    let head_len = section::parse(head, fields_start, &rules, &mut into.fields)
        .map_err(|halt| halt.at_limit(head, limits.head_bytes, Malformed::HeadTooLarge))?;

    let options = framing::options(&into.fields)?;
    let announced = framing::announced(&into.fields, into.version)?;
    let persists = options.persists(into.version);
    let tunnel = *method == Method::Connect && (200..300).contains(&into.status);
    Ok(match into.status {
        // RFC 9112 6.3: these have no body. One that announces a body all the same may send it, so the connection
        // ends with it.
        100..=199 | 204 => no_body(head_len, Body::None, persists && announced == Body::None),
        _ if tunnel => no_body(head_len, Body::None, false),
        304 => no_body(head_len, announced, persists),
        _ if *method == Method::Head => no_body(head_len, announced, persists),
        _ if announced == Body::None => {
            ResponseMeta { head_len, body: Body::UntilClose, announced: Body::UntilClose, keep_alive: false }
        }
        _ => ResponseMeta { head_len, body: announced, announced, keep_alive: persists },
    })
}

fn no_body(head_len: usize, announced: Body, keep_alive: bool) -> ResponseMeta {
    ResponseMeta { head_len, body: Body::None, announced, keep_alive }
}

/// Parses the status line into the response; the offset after it.
fn parse_line(bytes: &[u8], into: &mut Response) -> Result<usize, Halt> {
    const SHAPE: &[u8; 13] = b"HTTP/1.d SddS";
    for (&shape, &byte) in SHAPE.iter().zip(bytes) {
        let fits = match shape {
            b'd' => byte.is_ascii_digit(),
            b'S' => true,
            exact => byte == exact,
        };
        if !fits {
            return Err(Malformed::StatusLine.into());
        }
    }
    let (line, rest) = bytes.split_first_chunk::<12>().ok_or(Halt::Incomplete)?;
    into.version = match line[7] {
        b'0' => Version::Http10,
        b'1' => Version::Http11,
        _ => return Err(Malformed::Version.into()),
    };
    // A first digit of 0 is no status, and neither is anything that is no digit.
    if !matches!(line[9], b'1'..=b'9') {
        return Err(Malformed::StatusLine.into());
    }
    into.status = line[9..].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let reason = match rest {
        [b' ', reason @ ..] => reason,
        [b'\r' | b'\n', ..] => rest,
        [] => return Err(Halt::Incomplete),
        _ => return Err(Malformed::StatusLine.into()),
    };
    let length = grammar::find_control(reason).ok_or(Halt::Incomplete)?;
    let reason_start = bytes.len() - reason.len();
    let end = section::after_crlf(bytes, reason_start + length)?;
    // Free of control bytes, so never refused.
    let _accepted = into.set_reason(&reason[..length]);
    Ok(end)
}
