//! The head of a response: status and fields.
//!
//! Filled by the codecs or by whoever answers for the gateway, read and edited by policies.

use super::{BadValue, Fields, Version};
use crate::grammar;

/// The head of a response, whatever protocol carried it.
#[derive(Clone, Default)]
pub struct Response {
    /// 100 to 999; the codecs refuse others.
    pub status: u16,
    /// The version the response arrived with.
    pub version: Version,
    /// The fields.
    pub fields: Fields,
    reason: Vec<u8>,
}

impl Response {
    /// A response without fields.
    pub fn new(status: u16) -> Response {
        Response { status, ..Response::default() }
    }

    /// The reason phrase its sender chose; empty when there was none. [`standard_reason`] has the usual ones.
    pub fn reason(&self) -> &[u8] {
        &self.reason
    }

    /// Sets the reason phrase.
    ///
    /// # Errors
    /// [`BadValue`] when it holds a control byte.
    pub fn set_reason(&mut self, reason: &[u8]) -> Result<(), BadValue> {
        if grammar::find_control(reason).is_some() {
            return Err(BadValue);
        }
        self.reason.clear();
        self.reason.extend_from_slice(reason);
        Ok(())
    }

    /// Whether this is an interim response: another one will follow (RFC 9110 15.2). 101 is final: it ends HTTP.
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Forgets everything, the status being 0, and keeps the memory.
    pub fn clear(&mut self) {
        self.status = 0;
        self.version = Version::Http11;
        self.fields.clear();
        self.reason.clear();
    }

    /// Becomes a copy of the other, in memory that is already there when it suffices.
    pub fn copy_from(&mut self, other: &Response) {
        self.status = other.status;
        self.version = other.version;
        self.fields.copy_from(&other.fields);
        self.reason.clone_from(&other.reason);
    }
}

/// Equal when status and fields are; version and reason phrase carry no meaning.
impl PartialEq for Response {
    fn eq(&self, other: &Response) -> bool {
        self.status == other.status && self.fields == other.fields
    }
}

impl Eq for Response {}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("version", &self.version)
            .field("fields", &self.fields)
            .finish()
    }
}

/// The usual reason phrase of a status (RFC 9110 15 and the IANA registry); empty for statuses we do not know.
pub const fn standard_reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_cannot_split_the_response() {
        let mut response = Response::new(200);
        assert_eq!(response.set_reason(b"OK\r\nSet-Cookie: x"), Err(BadValue));
        assert_eq!(response.set_reason(b"Fine \xe9"), Ok(()));
        let mut copy = Response::new(500);
        copy.copy_from(&response);
        assert_eq!((copy.reason(), copy.status), (&b"Fine \xe9"[..], 200));
        copy.clear();
        assert_eq!(copy, Response::new(0));
    }

    #[test]
    fn switching_protocols_is_final() {
        assert!(Response::new(100).is_interim() && Response::new(103).is_interim());
        assert!(!Response::new(101).is_interim() && !Response::new(200).is_interim());
    }
}
