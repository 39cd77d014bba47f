//! Heads to field blocks.
//!
//! Called by the connection, which puts frames around them. Names are written in lower case; lines that HTTP/2 does not have
//! are left out (RFC 9113 section 8.2.2), whatever the head holds. Adds no fields of its own.

use crate::h1::Body;
use crate::h2::hpack::{CONNECTION_SPECIFIC, Encoder, number, write_field, write_indexed, write_named};
use crate::head::{FieldId, Fields, Indexing, Method, Request, Response};

/// Lines that are never copied from a head. `TE` is written in one form.
const NEVER_COPIED: u128 =
    CONNECTION_SPECIFIC | FieldId::HOST.bit() | FieldId::HTTP2_SETTINGS.bit() | FieldId::TE.bit();

/// Appends the block of a request. `Content-Length` comes from the framing of the body.
///
/// A CONNECT without [`Request::protocol`] has only a method and an authority (RFC 9113 section 8.5). A request without
/// scheme is written as `http`; one without authority has none, and the receiver will refuse it.
pub fn write_request(encoder: &mut Encoder, request: &Request, body: &Body, out: &mut Vec<u8>) {
    let target = request.target();
    out.reserve(request.fields.text_len() + target.len() + request.authority().len() + 128);
    encoder.begin(out);
    match request.method {
        Method::Get => write_indexed(out, number::GET),
        Method::Post => write_indexed(out, number::POST),
        method => write_named(out, number::METHOD, method.as_bytes(), Indexing::Allowed),
    }
    if request.method != Method::Connect || request.protocol().is_some() {
        match request.scheme() {
            b"https" => write_indexed(out, number::HTTPS),
            b"http" | b"" => write_indexed(out, number::HTTP),
            other => write_named(out, number::SCHEME, other, Indexing::Allowed),
        }
        match target {
            b"/" | b"" => write_indexed(out, number::ROOT),
            // Paths carry secrets often enough, and are rarely worth a place in a table.
            [b'/', ..] => write_named(out, number::PATH, target, Indexing::Never),
            b"*" if request.method == Method::Options => write_named(out, number::PATH, b"*", Indexing::Allowed),
            _ => write_named(out, number::PATH, &[b"/", target].concat(), Indexing::Never),
        }
    }
    if !request.authority().is_empty() {
        write_named(out, number::AUTHORITY, request.authority(), Indexing::Allowed);
    }
    if let (Method::Connect, Some(protocol)) = (request.method, request.protocol()) {
        write_field(out, FieldId::OTHER, b":protocol", protocol, Indexing::Allowed);
    }
    write_fields(&request.fields, NEVER_COPIED | FieldId::CONTENT_LENGTH.bit(), out);
    if let Body::Length(length) = body {
        let mut digits = itoa::Buffer::new();
        write_field(out, FieldId::CONTENT_LENGTH, b"", digits.format(*length).as_bytes(), Indexing::Allowed);
    }
    if request.fields.first(FieldId::TE) == Some(b"trailers") {
        write_field(out, FieldId::TE, b"", b"trailers", Indexing::Allowed);
    }
}

/// Appends the block of a response. 1xx and 204 have no `Content-Length` (RFC 9110 section 8.6). A status that HTTP/2 does
/// not have, such as 101, is written as 502.
pub fn write_response(encoder: &mut Encoder, response: &Response, out: &mut Vec<u8>) {
    out.reserve(response.fields.text_len() + 32);
    encoder.begin(out);
    match number::STATUSES.iter().position(|&status| status == response.status) {
        Some(at) => write_indexed(out, number::STATUS + at),
        None => {
            let status = if matches!(response.status, 100 | 102..=999) { response.status } else { 502 };
            let mut digits = itoa::Buffer::new();
            write_named(out, number::STATUS, digits.format(status).as_bytes(), Indexing::Allowed);
        }
    }
    let never = match response.status {
        100 | 102..200 | 204 => NEVER_COPIED | FieldId::CONTENT_LENGTH.bit(),
        _ => NEVER_COPIED,
    };
    write_fields(&response.fields, never, out);
}

/// Appends the block of a trailer section.
pub fn write_trailers(encoder: &mut Encoder, trailers: &Fields, out: &mut Vec<u8>) {
    out.reserve(trailers.text_len() + 8);
    encoder.begin(out);
    write_fields(trailers, NEVER_COPIED, out);
}

fn write_fields(fields: &Fields, except: u128, out: &mut Vec<u8>) {
    for (id, name, value, indexing) in fields.lines() {
        if except & id.bit() == 0 {
            write_field(out, id, name, value, indexing);
        }
    }
}
