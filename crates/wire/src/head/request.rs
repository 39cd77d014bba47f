//! The head of a request: method, where it goes, fields.
//!
//! Filled by the codecs, read and rewritten by policies and filters. Knows no codec: how a target is put on the wire
//! is the writer's business.

use super::fields::Span;
use super::{FieldId, Fields, Method, Version};
use crate::grammar;

/// The head of a request, whatever protocol carried it.
///
/// The target is kept apart in its parts. [`Request::path`] is empty for `CONNECT` and `*` for a server-wide `OPTIONS`;
/// in every other request it begins with `/`.
#[derive(Clone, Default)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The version the request arrived with.
    pub version: Version,
    /// The fields, without `Host` (see [`Request::authority`]).
    pub fields: Fields,
    text: Vec<u8>,
    scheme: Span,
    authority: Span,
    protocol: Span,
    /// Path, and query after a `?` when there is one.
    target: Span,
    path_length: u32,
}

/// A part of a target that could not be sent: a space, a control byte, a byte outside ASCII, or a delimiter where the
/// part ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// Not a scheme (RFC 3986 3.1).
    #[error("not a URI scheme")]
    Scheme,
    /// Not a host with an optional port.
    #[error("not a host with an optional port")]
    Authority,
    /// Not a path that begins with a slash.
    #[error("not a path that begins with a slash and holds only visible ASCII without ? and #")]
    Path,
    /// Not a query.
    #[error("not a query of visible ASCII without #")]
    Query,
    /// Not a token, for an extended CONNECT (RFC 8441).
    #[error("not a protocol name")]
    Protocol,
    /// Not a method.
    #[error("not a method")]
    Method,
    /// The head would pass 4 GiB.
    #[error("too long")]
    TooLong,
}

impl Request {
    /// `GET` of nothing.
    pub fn new() -> Request {
        Request::default()
    }

    /// A request from its parts: `Request::build("GET", "http", "example.com", "/path?x")`. The target is a path with
    /// an optional query, or `*`, or empty.
    ///
    /// # Errors
    /// [`BadTarget`] names the part that is wrong.
    pub fn build(method: &str, scheme: &str, authority: &str, target: &str) -> Result<Request, BadTarget> {
        let mut request = Request::new();
        request.method = Method::from_bytes(method.as_bytes()).ok_or(BadTarget::Method)?;
        request.set_scheme(scheme.as_bytes())?;
        request.set_authority(authority.as_bytes())?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        request.set_path(path.as_bytes())?;
        request.set_query(query.map(str::as_bytes))?;
        Ok(request)
    }

    /// Forgets everything and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.method = Method::Get;
        self.version = Version::Http11;
        self.fields.clear();
        self.text.clear();
        self.scheme = Span::default();
        self.authority = Span::default();
        self.protocol = Span::default();
        self.target = Span::default();
        self.path_length = 0;
    }

    /// Becomes a copy of the other, in memory that is already there when it suffices.
    pub fn copy_from(&mut self, other: &Request) {
        self.method = other.method;
        self.version = other.version;
        self.fields.copy_from(&other.fields);
        self.text.clone_from(&other.text);
        self.scheme = other.scheme;
        self.authority = other.authority;
        self.protocol = other.protocol;
        self.target = other.target;
        self.path_length = other.path_length;
    }

    /// `http` or `https`; empty until somebody who knows the connection has set it. An absolute-form target may name a
    /// scheme, which is a claim of the client and never taken over.
    #[inline]
    pub fn scheme(&self) -> &[u8] {
        self.scheme.of(&self.text)
    }

    /// Host and optional port, as the client wrote them; empty when an HTTP/1.0 request named none.
    #[inline]
    pub fn authority(&self) -> &[u8] {
        self.authority.of(&self.text)
    }

    /// The path, without the query.
    #[inline]
    pub fn path(&self) -> &[u8] {
        Span { length: self.path_length, ..self.target }.of(&self.text)
    }

    /// What follows the first `?`; `Some` of nothing for a lone `?`.
    #[inline]
    pub fn query(&self) -> Option<&[u8]> {
        self.target().get(self.path_length as usize + 1..)
    }

    /// Path and query as one string.
    #[inline]
    pub fn target(&self) -> &[u8] {
        self.target.of(&self.text)
    }

    /// The `:protocol` of an extended CONNECT (RFC 8441); `None` for every other request.
    #[inline]
    pub fn protocol(&self) -> Option<&[u8]> {
        let protocol = self.protocol.of(&self.text);
        (!protocol.is_empty()).then_some(protocol)
    }

    /// Sets the scheme.
    ///
    /// # Errors
    /// [`BadTarget::Scheme`] when it is no scheme.
    pub fn set_scheme(&mut self, scheme: &[u8]) -> Result<(), BadTarget> {
        let valid = scheme.first().is_some_and(u8::is_ascii_alphabetic)
            && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        if !valid {
            return Err(BadTarget::Scheme);
        }
        self.scheme = self.keep(scheme)?;
        Ok(())
    }

    /// Sets host and port. Empty is allowed: an HTTP/1.0 request may name none.
    ///
    /// # Errors
    /// [`BadTarget::Authority`] when it is not `uri-host [ ":" port ]` (RFC 9110 7.2).
    pub fn set_authority(&mut self, authority: &[u8]) -> Result<(), BadTarget> {
        if !authority.is_empty() && crate::normalize::authority(authority).is_err() {
            return Err(BadTarget::Authority);
        }
        self.authority = self.keep(authority)?;
        Ok(())
    }

    /// Sets the path and keeps the query.
    ///
    /// # Errors
    /// [`BadTarget::Path`] when it is neither empty nor `*` and does not begin with `/`, or holds a byte that cannot
    /// stand in a path.
    pub fn set_path(&mut self, path: &[u8]) -> Result<(), BadTarget> {
        let rooted = path.is_empty() || path == b"*" || path.starts_with(b"/");
        if !rooted || !grammar::all(path, grammar::TARGET) || path.contains(&b'?') {
            return Err(BadTarget::Path);
        }
        let mark = Span { start: self.target.start + self.path_length, length: self.target.length - self.path_length };
        let start = self.keep(path)?.start;
        let rest = mark.start as usize..(mark.start + mark.length) as usize;
        self.text.extend_from_within(rest);
        self.target = Span { start, length: path.len() as u32 + mark.length };
        self.path_length = path.len() as u32;
        Ok(())
    }

    /// Sets the query, or takes it away, and keeps the path.
    ///
    /// # Errors
    /// [`BadTarget::Query`] when it holds a byte that cannot stand in a query.
    pub fn set_query(&mut self, query: Option<&[u8]>) -> Result<(), BadTarget> {
        let Some(query) = query else {
            self.target.length = self.path_length;
            return Ok(());
        };
        if !grammar::all(query, grammar::TARGET) {
            return Err(BadTarget::Query);
        }
        let path = self.target.start as usize..(self.target.start + self.path_length) as usize;
        let start = u32::try_from(self.text.len()).map_err(|_| BadTarget::TooLong)?;
        self.text.extend_from_within(path);
        self.text.push(b'?');
        self.keep(query)?;
        self.target = Span { start, length: self.path_length + 1 + query.len() as u32 };
        Ok(())
    }

    /// Makes this an extended CONNECT for a protocol (RFC 8441), or an ordinary request.
    ///
    /// # Errors
    /// [`BadTarget::Protocol`] when it is not a token.
    pub fn set_protocol(&mut self, protocol: Option<&[u8]>) -> Result<(), BadTarget> {
        self.protocol = match protocol {
            None => Span::default(),
            Some(name) if grammar::is_token(name) => self.keep(name)?,
            Some(_) => return Err(BadTarget::Protocol),
        };
        Ok(())
    }

    /// Sets path and query in one go, for a codec that has checked both. The query follows the first `?`.
    #[inline]
    pub(crate) fn take_target(&mut self, target: &[u8], path_length: usize) -> Result<(), BadTarget> {
        self.target = self.keep(target)?;
        self.path_length = path_length as u32;
        Ok(())
    }

    /// Sets the authority for a codec that has checked it.
    #[inline]
    pub(crate) fn take_authority(&mut self, authority: &[u8]) -> Result<(), BadTarget> {
        self.authority = self.keep(authority)?;
        Ok(())
    }

    /// Makes the `Host` field, which a codec has checked, the authority.
    #[inline]
    pub(crate) fn take_host(&mut self) -> Result<(), BadTarget> {
        let host = self.fields.first(FieldId::HOST).unwrap_or_default();
        self.authority = Span::append(&mut self.text, host).ok_or(BadTarget::TooLong)?;
        Ok(())
    }

    #[inline]
    fn keep(&mut self, part: &[u8]) -> Result<Span, BadTarget> {
        Span::append(&mut self.text, part).ok_or(BadTarget::TooLong)
    }
}

/// Equal when everything a receiver could tell apart is equal; the version is not part of it.
impl PartialEq for Request {
    fn eq(&self, other: &Request) -> bool {
        self.method == other.method
            && self.scheme() == other.scheme()
            && self.authority() == other.authority()
            && self.target() == other.target()
            && self.protocol() == other.protocol()
            && self.fields == other.fields
    }
}

impl Eq for Request {}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("version", &self.version)
            .field("scheme", &format_args!("{}", self.scheme().escape_ascii()))
            .field("authority", &format_args!("{}", self.authority().escape_ascii()))
            .field("target", &format_args!("{}", self.target().escape_ascii()))
            .field("fields", &self.fields)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_change_one_by_one() {
        let mut request = Request::build("GET", "http", "example.com:8080", "/a/b?x=1").expect("a request");
        assert_eq!((request.path(), request.query()), (&b"/a/b"[..], Some(&b"x=1"[..])));
        request.set_path(b"/longer/path").expect("a path");
        assert_eq!(request.target(), b"/longer/path?x=1");
        request.set_query(Some(b"")).expect("a query");
        assert_eq!((request.target(), request.query()), (&b"/longer/path?"[..], Some(&b""[..])));
        request.set_query(None).expect("no query");
        assert_eq!((request.target(), request.query()), (&b"/longer/path"[..], None));
        request.set_authority(b"[::1]:443").expect("an authority");
        request.set_scheme(b"https").expect("a scheme");
        request.set_protocol(Some(b"websocket")).expect("a protocol");
        assert_eq!(request.authority(), b"[::1]:443");
        assert_eq!(request.scheme(), b"https");
        assert_eq!(request.protocol(), Some(&b"websocket"[..]));

        let mut copy = Request::new();
        copy.copy_from(&request);
        assert_eq!(copy, request);
        copy.clear();
        assert_eq!(copy, Request::new());
    }

    #[test]
    fn parts_that_could_not_be_sent_are_refused() {
        let mut request = Request::build("OPTIONS", "http", "example.com", "*").expect("a request");
        for bad in [&b"a"[..], b"/a b", b"/a?b", b"/a#b", b"/\r\n", b"/\xc3\xa9", b"**"] {
            assert_eq!(request.set_path(bad), Err(BadTarget::Path), "{}", bad.escape_ascii());
        }
        for bad in [&b"a b"[..], b"#", b"\n", b"\xff"] {
            assert_eq!(request.set_query(Some(bad)), Err(BadTarget::Query));
        }
        for bad in [&b"a b"[..], b"user@host", b"host:99999", b"a/b", b"a\r\nb", b":80"] {
            assert_eq!(request.set_authority(bad), Err(BadTarget::Authority), "{}", bad.escape_ascii());
        }
        assert_eq!(request.set_scheme(b"1x"), Err(BadTarget::Scheme));
        assert_eq!(request.set_protocol(Some(b"")), Err(BadTarget::Protocol));
        assert_eq!(request.target(), b"*");
    }
}
