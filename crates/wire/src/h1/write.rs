//! Messages to bytes. What is written here reads one way only.
//!
//! Called by the proxy with a head that has passed the grammar and a framing. The framing fields, `Host` and the fields
//! of the connection come from the arguments; lines of the head with such names are never copied. Adds no fields of its
//! own otherwise: `Date`, `Via` and `Server` are the caller's.

use super::{Body, Protocol};
use crate::head::{FieldId, Fields, Method, Request, Response, Version, standard_reason};

/// What the message says about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// It carries other messages after this one.
    KeepAlive,
    /// It ends with this message.
    Close,
    /// It changes to another protocol: in a request the wish, in a 101 response the fact.
    Upgrade(Protocol),
}

/// Lines that are never copied from a head. `TE` is written in one form.
const NEVER_COPIED: u128 = FieldId::HOST.bit()
    | FieldId::CONTENT_LENGTH.bit()
    | FieldId::TRANSFER_ENCODING.bit()
    | FieldId::CONNECTION.bit()
    | FieldId::KEEP_ALIVE.bit()
    | FieldId::PROXY_CONNECTION.bit()
    | FieldId::UPGRADE.bit()
    | FieldId::HTTP2_SETTINGS.bit()
    | FieldId::TE.bit();

/// Appends a request head, always as HTTP/1.1. The target is in origin-form, or `*`, or for CONNECT the authority.
///
/// [`Body::None`] writes no framing, except that methods which usually have content say `Content-Length: 0` (RFC 9110
/// 8.6). A request cannot end with its connection: [`Body::UntilClose`] is written as chunked, and must be sent so.
pub fn write_request(out: &mut Vec<u8>, head: &Request, body: &Body, connection: Connection) {
    out.reserve(head.target().len() + head.authority().len() + head.fields.text_len() + 160);
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    match (head.method, head.target()) {
        (Method::Connect, _) => out.extend_from_slice(head.authority()),
        (Method::Options, b"*") => out.push(b'*'),
        (_, target) => {
            if !target.starts_with(b"/") {
                out.push(b'/');
            }
            out.extend_from_slice(target);
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(head.authority());
    out.extend_from_slice(b"\r\n");
    head.fields.write_lines(out, NEVER_COPIED);
    let usually_has_content = matches!(head.method, Method::Post | Method::Put | Method::Patch);
    match body {
        Body::None if usually_has_content && !matches!(connection, Connection::Upgrade(_)) => write_length(out, 0),
        Body::None => {}
        Body::Length(length) => write_length(out, *length),
        Body::Chunked | Body::UntilClose => write_chunked(out),
    }
    let te = head.fields.first(FieldId::TE) == Some(b"trailers");
    if te {
        out.extend_from_slice(b"te: trailers\r\n");
    }
    match (connection, te) {
        (Connection::KeepAlive, false) => {}
        (Connection::KeepAlive, true) => out.extend_from_slice(b"connection: te\r\n"),
        (Connection::Close, false) => out.extend_from_slice(b"connection: close\r\n"),
        (Connection::Close, true) => out.extend_from_slice(b"connection: close, te\r\n"),
        (Connection::Upgrade(protocol), te) => {
            write_upgrade(out, protocol, if te { b"upgrade, te" } else { b"upgrade" })
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a response head, always as HTTP/1.1 (RFC 9110 2.5), for a client of the version.
///
/// [`Body::None`] writes no framing: use it for responses that cannot have a body (to HEAD, to CONNECT, 1xx, 204, 304).
/// A response that merely has none is `Body::Length(0)`. To HEAD and in 304 a framing is written as a statement about
/// the body that is not sent. 1xx and 204 carry no framing whatever the argument says (RFC 9110 8.6). Towards HTTP/1.0
/// use [`Body::toward`]; chunks are then replaced here too. A body that ends with the connection says that it closes.
pub fn write_response(out: &mut Vec<u8>, head: &Response, body: &Body, connection: Connection, version: Version) {
    out.reserve(head.fields.text_len() + head.reason().len() + 160);
    out.extend_from_slice(b"HTTP/1.1 ");
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(digits.format(head.status.clamp(100, 999)).as_bytes());
    out.push(b' ');
    match head.reason() {
        [] => out.extend_from_slice(standard_reason(head.status).as_bytes()),
        reason => out.extend_from_slice(reason),
    }
    out.extend_from_slice(b"\r\n");
    head.fields.write_lines(out, NEVER_COPIED);
    let body = match head.status {
        ..200 | 204 => Body::None,
        _ => body.toward(version),
    };
    match body {
        Body::None | Body::UntilClose => {}
        Body::Length(length) => write_length(out, length),
        Body::Chunked => write_chunked(out),
    }
    match (connection, body, version) {
        (Connection::Upgrade(protocol), ..) => write_upgrade(out, protocol, b"upgrade"),
        _ if (100..200).contains(&head.status) => {}
        (Connection::Close, ..) | (_, Body::UntilClose, _) => out.extend_from_slice(b"connection: close\r\n"),
        (Connection::KeepAlive, _, Version::Http10) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (Connection::KeepAlive, ..) => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(digits.format(length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_chunked(out: &mut Vec<u8>) {
    out.extend_from_slice(b"transfer-encoding: chunked\r\n");
}

fn write_upgrade(out: &mut Vec<u8>, protocol: Protocol, options: &[u8]) {
    for part in [b"connection: ", options, b"\r\nupgrade: ", protocol.as_bytes(), b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Appends what goes before the content of a chunk. A length of zero appends nothing: that chunk would be the last one.
pub fn write_chunk_start(out: &mut Vec<u8>, length: usize) {
    if length == 0 {
        return;
    }
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let significant = usize::BITS - length.leading_zeros();
    for digit in (0..significant.div_ceil(4)).rev() {
        out.push(DIGITS[length >> (digit * 4) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends what goes after the content of a chunk that was not empty.
pub fn write_chunk_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk and the trailers.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: Option<&Fields>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        trailers.write_lines(out, NEVER_COPIED);
    }
    out.extend_from_slice(b"\r\n");
}
