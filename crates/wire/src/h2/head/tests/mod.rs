//! Tests of heads as a whole: what is malformed, what a head becomes, round trips.

mod malformed;
mod meaning;
mod trips;

use super::*;
use crate::h2::hpack::{Decoder, Encoder};
use crate::head::{FieldId, Fields, Method, Request, Response, Version};

const ROOMY: HeadLimits =
    HeadLimits { bytes: 64 * 1024, fields: 100, connect: Connect::Refused, underscore: Underscore::Drop };

/// A block of literals that no table keeps.
fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    literals(0x00, lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

/// A block of literals of one kind.
fn literals<'a>(kind: u8, lines: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in lines {
        out.push(kind);
        for string in [name, value] {
            if string.len() < 127 {
                out.push(string.len() as u8);
            } else {
                let rest = string.len() - 127;
                out.extend([127, rest as u8 | 0x80, (rest >> 7) as u8]);
            }
            out.extend_from_slice(string);
        }
    }
    out
}

/// Reads a block of literals as the head of a request; then once more through entries of the table, which must make no
/// difference.
#[track_caller]
fn read_request_of(lines: &[(&str, &str)]) -> Result<(Request, RequestHead), Unreadable> {
    read_request_within(lines, &ROOMY)
}

#[track_caller]
fn read_request_within(lines: &[(&str, &str)], limits: &HeadLimits) -> Result<(Request, RequestHead), Unreadable> {
    let mut request = Request::new();
    let read = read_request(&mut Decoder::new(4096), &block(lines), limits, &mut request).map(|head| (request, head));

    let mut decoder = Decoder::new(1 << 16);
    let mut kept = vec![0x3f, 0xe1, 0xff, 0x03];
    kept.extend(literals(0x40, lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))));
    discard(&mut decoder, &kept).expect("a block");
    let indices: Vec<u8> = (0..lines.len()).rev().map(|place| 0x80 | (62 + place) as u8).collect();
    let mut request = Request::new();
    let again = read_request(&mut decoder, &indices, limits, &mut request).map(|head| (request, head));
    assert_eq!(read, again, "{lines:?}");
    read
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x?y=z")];

/// A request with further lines.
fn usual_with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut lines: Vec<(&str, &str)> = GET.to_vec();
    lines.extend_from_slice(more);
    lines
}

/// A request in which the value of one pseudo-field is another.
fn usual_but<'a>(name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    GET.iter().map(|&(known, usual)| (known, if known == name { value } else { usual })).collect()
}

fn read_response_of(lines: &[(&str, &str)]) -> Result<(Response, Option<u64>), Unreadable> {
    let mut response = Response::default();
    let length = read_response(&mut Decoder::new(4096), &block(lines), &ROOMY, &mut response)?;
    Ok((response, length))
}

fn read_trailers_of(lines: &[(&str, &str)]) -> Result<Fields, Unreadable> {
    let mut fields = Fields::new();
    read_trailers(&mut Decoder::new(4096), &block(lines), &ROOMY, &mut fields)?;
    Ok(fields)
}

fn shown(fields: &Fields) -> Vec<String> {
    fields.iter().map(|(name, value)| format!("{}: {}", name.as_str(), value.escape_ascii())).collect()
}
