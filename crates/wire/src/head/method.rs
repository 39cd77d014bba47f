//! Methods and versions of messages.
//!
//! Called by every codec and by whoever decides on a method. Owns no memory: a method that is not in RFC 9110 or
//! RFC 5789 keeps its text inline.

use crate::grammar;

/// A request method (RFC 9110 9, RFC 5789). Methods are case-sensitive: `get` is [`Method::Other`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Method {
    /// `GET`
    #[default]
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
    /// `CONNECT`
    Connect,
    /// `OPTIONS`
    Options,
    /// `TRACE`
    Trace,
    /// `PATCH`
    Patch,
    /// Any other token of at most [`SmallText::CAPACITY`] bytes.
    Other(SmallText),
}

impl Method {
    /// The method of these bytes; `None` when they are no token, or longer than [`SmallText::CAPACITY`].
    #[inline]
    pub fn from_bytes(bytes: &[u8]) -> Option<Method> {
        Some(match bytes {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"CONNECT" => Method::Connect,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"PATCH" => Method::Patch,
            other if grammar::is_token(other) => Method::Other(SmallText::new(other)?),
            _ => return None,
        })
    }

    /// The method as sent.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Method::Get => b"GET",
            Method::Head => b"HEAD",
            Method::Post => b"POST",
            Method::Put => b"PUT",
            Method::Delete => b"DELETE",
            Method::Connect => b"CONNECT",
            Method::Options => b"OPTIONS",
            Method::Trace => b"TRACE",
            Method::Patch => b"PATCH",
            Method::Other(text) => text.as_bytes(),
        }
    }

    /// The method as text (a token is ASCII).
    #[inline]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// Essentially read-only (RFC 9110 9.2.1).
    #[inline]
    pub fn is_safe(&self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace)
    }

    /// Twice means the same as once (RFC 9110 9.2.2). False for methods we do not know.
    #[inline]
    pub fn is_idempotent(&self) -> bool {
        self.is_safe() || matches!(self, Method::Put | Method::Delete)
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A short byte string that lives inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SmallText {
    length: u8,
    bytes: [u8; SmallText::CAPACITY],
}

impl SmallText {
    /// The most bytes it can hold.
    pub const CAPACITY: usize = 31;

    /// A copy of the bytes; `None` when they are more than [`SmallText::CAPACITY`].
    pub fn new(text: &[u8]) -> Option<SmallText> {
        let mut bytes = [0; SmallText::CAPACITY];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        Some(SmallText { length: text.len() as u8, bytes })
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl std::fmt::Debug for SmallText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

/// The protocol version a message arrived with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2
    Http2,
}

impl Version {
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`, as an access log writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_case_sensitive_tokens() {
        for name in ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"] {
            let method = Method::from_bytes(name.as_bytes()).expect(name);
            assert_eq!(method.as_str(), name);
            assert!(!matches!(method, Method::Other(_)));
        }
        assert!(matches!(Method::from_bytes(b"get"), Some(Method::Other(_))));
        assert_eq!(Method::from_bytes(b"BASELINE-CONTROL").map(|m| m.to_string()).as_deref(), Some("BASELINE-CONTROL"));
        assert_eq!(Method::from_bytes(b""), None);
        assert_eq!(Method::from_bytes(b"G(T"), None);
        assert_eq!(Method::from_bytes(&[b'A'; 32]), None);
        assert!(Method::from_bytes(&[b'A'; 31]).is_some());
    }

    #[test]
    fn safety_follows_rfc_9110() {
        assert!(Method::Get.is_safe() && Method::Put.is_idempotent());
        assert!(!Method::Put.is_safe() && !Method::Post.is_idempotent() && !Method::Patch.is_idempotent());
    }
}
