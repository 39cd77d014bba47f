//! Heads at the HTTP/2 edge: the `http` crate's types, which the `h2` crate speaks, to and from [`Request`] and
//! [`Response`].
//!
//! Called by both HTTP/2 sides and by nothing else: behind this module no one sees the `http` crate. The rules are those
//! of RFC 9113 section 8.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use transept_wire::h1::{self, Body};
use transept_wire::head::{FieldId, FieldName, Fields, Method, NameRef, Request, Response, Version};

/// Why a head of HTTP/2 was not taken; the message is malformed (RFC 9113 section 8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// More fields than the limit, or larger ones.
    TooManyFields,
    /// A sentence about what is wrong.
    Malformed(&'static str),
}

/// Takes a request head, with the length that it announces for its body.
pub(crate) fn request_in(
    head: &http::request::Parts,
    fields: usize,
    into: &mut Request,
) -> Result<Option<u64>, Refused> {
    use Refused::Malformed;
    into.clear();
    into.version = Version::Http2;
    into.method = Method::from_bytes(head.method.as_str().as_bytes()).ok_or(Malformed("the method is not a token"))?;
    if head.headers.len() > fields {
        return Err(Refused::TooManyFields);
    }
    let extended = head.extensions.get::<h2::ext::Protocol>();
    if into.method == Method::Connect && extended.is_none() {
        return Err(Malformed("CONNECT is not offered"));
    }
    if let Some(scheme) = head.uri.scheme_str() {
        into.set_scheme(scheme.as_bytes()).map_err(|_| Malformed("the scheme is not valid"))?;
    }
    let authority = match (head.uri.authority(), only(&head.headers, &http::header::HOST)?) {
        (Some(authority), Some(host)) if !authority.as_str().as_bytes().eq_ignore_ascii_case(host) => {
            return Err(Malformed(":authority and Host differ"));
        }
        (Some(authority), _) => authority.as_str().as_bytes(),
        (None, Some(host)) => host,
        (None, None) => return Err(Malformed("there is neither :authority nor Host")),
    };
    into.set_authority(authority).map_err(|_| Malformed("the authority is not valid"))?;
    let path = head.uri.path();
    if !(path.starts_with('/') || (path == "*" && into.method == Method::Options)) {
        return Err(Malformed(":path does not begin with a slash"));
    }
    into.set_path(path.as_bytes()).map_err(|_| Malformed("the path is not valid"))?;
    into.set_query(head.uri.query().map(str::as_bytes)).map_err(|_| Malformed("the query is not valid"))?;
    if let Some(protocol) = extended {
        into.set_protocol(Some(protocol.as_str().as_bytes())).map_err(|_| Malformed("the protocol is not valid"))?;
    }
    let length = length_of(&head.headers)?;
    copy_in(&head.headers, &mut into.fields)?;
    Ok(length)
}

/// Takes a response head, with the length that it announces for its body.
pub(crate) fn response_in(
    head: &http::response::Parts,
    limits: &h1::Limits,
    into: &mut Response,
) -> Result<Option<u64>, Refused> {
    into.clear();
    into.version = Version::Http2;
    into.status = head.status.as_u16();
    if head.headers.len() > limits.fields || size_of(&head.headers) > limits.head_bytes {
        return Err(Refused::TooManyFields);
    }
    let length = length_of(&head.headers)?;
    copy_in(&head.headers, &mut into.fields)?;
    Ok(length)
}

/// The size of a field section as RFC 9113 section 6.5.2 counts it.
fn size_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// Takes trailers; those that a trailer section may not have (RFC 9110 section 6.5.1) are left out.
pub(crate) fn trailers_in(trailers: &HeaderMap) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in trailers {
        if h1::may_trail(FieldId::from_bytes(name.as_str().as_bytes())) {
            // A name or value that the head type refuses cannot be forwarded.
            let _ = fields.push_bytes(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    fields
}

/// Gives a request head, whose `Content-Length` comes from the framing of the body. The caller has removed hop-by-hop
/// fields.
pub(crate) fn request_out(request: &Request, body: &Body) -> Result<http::Request<()>, Refused> {
    use Refused::Malformed;
    let mut out = http::Request::new(());
    *out.method_mut() = http::Method::from_bytes(request.method.as_bytes()).map_err(|_| Malformed("method"))?;
    let mut uri = Uri::builder().authority(request.authority()).scheme(request.scheme());
    uri = uri.path_and_query(request.target());
    *out.uri_mut() = uri.build().map_err(|_| Malformed("the target cannot be sent over HTTP/2"))?;
    *out.version_mut() = http::Version::HTTP_2;
    *out.headers_mut() = fields_out(&request.fields);
    if !matches!(body, Body::Length(_)) {
        out.headers_mut().remove(http::header::CONTENT_LENGTH);
    }
    Ok(out)
}

/// Gives a response head.
pub(crate) fn response_out(response: &Response) -> http::Response<()> {
    let mut out = http::Response::new(());
    *out.status_mut() = http::StatusCode::from_u16(response.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
    *out.version_mut() = http::Version::HTTP_2;
    *out.headers_mut() = fields_out(&response.fields);
    if response.status < 200 || response.status == 204 {
        // RFC 9110 section 8.6.
        out.headers_mut().remove(http::header::CONTENT_LENGTH);
    }
    out
}

/// Gives fields, without those that HTTP/2 does not know (RFC 9113 section 8.2.2).
pub(crate) fn fields_out(fields: &Fields) -> HeaderMap {
    let kept = || fields.iter().filter(|(name, value)| !is_connection_specific(*name, value));
    // All values share one allocation.
    let mut values = BytesMut::with_capacity(kept().map(|(_, value)| value.len()).sum());
    kept().for_each(|(_, value)| values.extend_from_slice(value));
    let mut values = values.freeze();
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in kept() {
        let value = HeaderValue::from_maybe_shared(values.split_to(value.len()));
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.bytes), value) {
            map.append(name, value);
        }
    }
    map
}

fn is_connection_specific(name: NameRef<'_>, value: &[u8]) -> bool {
    match name.id {
        FieldId::CONNECTION
        | FieldId::HOST
        | FieldId::KEEP_ALIVE
        | FieldId::PROXY_CONNECTION
        | FieldId::TRANSFER_ENCODING
        | FieldId::UPGRADE => true,
        FieldId::TE => !value.eq_ignore_ascii_case(b"trailers"),
        _ => false,
    }
}

fn copy_in(headers: &HeaderMap, fields: &mut Fields) -> Result<(), Refused> {
    for (name, value) in headers {
        let name = name.as_str().as_bytes();
        // As over HTTP/1.1: a name with an underscore is one with a dash to many backends.
        if name == b"host" || name.contains(&b'_') {
            continue;
        }
        if FieldId::from_bytes(name) != FieldId::COOKIE {
            fields.push_bytes(name, value.as_bytes()).map_err(|_| Refused::Malformed("a field is not valid"))?;
        }
    }
    join_cookies(headers, fields)
}

/// HTTP/2 may split cookies over fields; everybody else expects one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &HeaderMap, fields: &mut Fields) -> Result<(), Refused> {
    let mut crumbs = headers.get_all(http::header::COOKIE).iter();
    let Some(first) = crumbs.next() else {
        return Ok(());
    };
    let refused = |_| Refused::Malformed("a cookie is not valid");
    let Some(second) = crumbs.next() else {
        return fields.push(&FieldName::known(FieldId::COOKIE), first.as_bytes()).map_err(refused);
    };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    fields.push(&FieldName::known(FieldId::COOKIE), &joined).map_err(refused)
}

fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h [u8]>, Refused> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(HeaderValue::as_bytes);
    if values.next().is_some() {
        return Err(Refused::Malformed("a field that may stand once stands twice"));
    }
    Ok(first)
}

fn length_of(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let Some(value) = only(headers, &http::header::CONTENT_LENGTH)? else {
        return Ok(None);
    };
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).map(Some).ok_or(Refused::Malformed("Content-Length is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> http::request::Parts {
        build(http::Request::builder()).body(()).unwrap().into_parts().0
    }

    #[test]
    fn cookies_become_one_field() {
        let head = parts(|b| b.uri("http://a/").header("cookie", "a=1").header("cookie", "b=2"));
        let mut request = Request::new();
        request_in(&head, 100, &mut request).unwrap();
        assert_eq!(request.fields.first(FieldId::COOKIE), Some(&b"a=1; b=2"[..]));
        assert_eq!(request.fields.len(), 1);
    }

    #[test]
    fn a_host_that_differs_is_malformed() {
        let head = parts(|b| b.uri("http://a/").header("host", "b"));
        assert!(matches!(request_in(&head, 100, &mut Request::new()), Err(Refused::Malformed(_))));
    }

    #[test]
    fn too_many_fields_are_refused() {
        let head = parts(|b| b.uri("http://a/").header("x", "1").header("x", "2"));
        assert_eq!(request_in(&head, 1, &mut Request::new()), Err(Refused::TooManyFields));
    }

    #[test]
    fn plain_connect_is_refused() {
        let head = parts(|b| b.method("CONNECT").uri("a:443"));
        assert!(request_in(&head, 10, &mut Request::new()).is_err());
    }

    #[test]
    fn connection_fields_do_not_leave() {
        let mut response = Response::new(200);
        for (name, value) in [("Connection", "close"), ("TE", "gzip"), ("X-A", "1")] {
            response.fields.push_bytes(name.as_bytes(), value.as_bytes()).unwrap();
        }
        let out = response_out(&response);
        assert_eq!(out.headers().len(), 1);
        assert_eq!(out.headers()["x-a"], "1");
    }
}
