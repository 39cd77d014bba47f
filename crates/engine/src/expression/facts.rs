//! What an expression may ask about a request: read from the exchange when it is asked for, not before.
//!
//! Called by `evaluate`. Everything is the normalised form that routing has used.

use std::borrow::Cow;
use std::sync::Arc;

use transept_wire::head::{FieldName, Fields, Response, Version};
use transept_wire::normalize;

use super::value::{Text, Value};
use crate::exchange::Exchange;
use crate::form;
use crate::principal::{Principal, PrincipalKind};

/// A variable, or a field of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Method,
    Path,
    Host,
    Scheme,
    Protocol,
    Query,
    Headers,
    Status,
    ResponseHeaders,
    Address,
    Identity,
    Port,
    Kind,
    Id,
    Groups,
    Scopes,
    Claims,
    Plan,
    Tenant,
    By,
    Credential,
    Now,
}

/// A request or its response, and who makes it when the expression asks.
pub(super) struct Facts<'x> {
    exchange: &'x Exchange<'x>,
    response: Option<&'x Response>,
    principal: Option<Arc<Principal>>,
}

const NO_NAMES: &[Box<str>] = &[];

impl<'x> Facts<'x> {
    pub(super) fn new(exchange: &'x Exchange<'x>, response: Option<&'x Response>, asks_principal: bool) -> Facts<'x> {
        Facts { exchange, response, principal: if asks_principal { exchange.principal() } else { None } }
    }

    /// The only fields that an expression of this scope can ask for.
    pub(super) fn fields(&self) -> &Fields {
        self.response.map_or(&self.exchange.request.fields, |response| &response.fields)
    }

    /// The value of a fact; an error says why there is none.
    pub(super) fn value(&self, fact: Fact) -> Result<Value<'_>, Cow<'static, str>> {
        let x = self.exchange;
        let request = &*x.request;
        Ok(match fact {
            Fact::Method => borrowed(request.method.as_str()),
            Fact::Path => text(request.path(), "the path")?,
            Fact::Host => host(request.authority())?,
            Fact::Scheme => borrowed(x.scheme()),
            Fact::Protocol => borrowed(match request.version {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
                Version::Http2 => "HTTP/2",
            }),
            Fact::Query => Value::Query(request.query()),
            Fact::Headers | Fact::ResponseHeaders => Value::Headers(self.fields()),
            Fact::Status => Value::Int(self.response.map_or(0, |response| i64::from(response.status))),
            Fact::Address => Value::Text(x.client.to_canonical().to_string().into()),
            Fact::Identity => borrowed(x.identity().map_or("", |identity| identity)),
            Fact::Port => Value::Int(i64::from(x.listener_port)),
            Fact::Now => Value::Time(i64::try_from(x.now.unix.as_micros()).unwrap_or(i64::MAX)),
            Fact::Kind
            | Fact::Id
            | Fact::Groups
            | Fact::Scopes
            | Fact::Claims
            | Fact::Plan
            | Fact::Tenant
            | Fact::By
            | Fact::Credential => self.of_principal(fact),
        })
    }

    fn of_principal(&self, fact: Fact) -> Value<'_> {
        let Some(principal) = &self.principal else {
            return match fact {
                Fact::Groups | Fact::Scopes => Value::Texts(NO_NAMES),
                Fact::Claims => Value::Map(Arc::from([])),
                Fact::Kind => borrowed(PrincipalKind::Anonymous.as_str()),
                _ => borrowed(""),
            };
        };
        match fact {
            Fact::Kind => borrowed(principal.kind.as_str()),
            Fact::Groups => Value::Texts(&principal.groups),
            Fact::Scopes => Value::Texts(&principal.scopes),
            Fact::Claims => Value::Members(&principal.claims),
            Fact::Plan => borrowed(principal.plan.as_deref().unwrap_or_default()),
            Fact::Tenant => borrowed(principal.tenant.as_deref().unwrap_or_default()),
            Fact::By => borrowed(&principal.scheme),
            Fact::Credential => borrowed(principal.credential.as_deref().unwrap_or_default()),
            _ => borrowed(&principal.id),
        }
    }
}

fn borrowed(text: &str) -> Value<'_> {
    Value::Text(Text::Borrowed(text))
}

fn text<'v>(bytes: &'v [u8], what: &'static str) -> Result<Value<'v>, Cow<'static, str>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(borrowed(text)),
        Err(_) => Err(format!("{what} is not UTF-8 text").into()),
    }
}

fn host(authority: &[u8]) -> Result<Value<'_>, Cow<'static, str>> {
    let host = normalize::authority(authority).map(|parts| parts.host).unwrap_or_default();
    if host.iter().any(u8::is_ascii_uppercase) || host.ends_with(b".") {
        let mut lower = Vec::new();
        return Ok(Value::Text(normalize::host_lower(host, &mut lower).to_owned().into()));
    }
    text(host, "the host")
}

/// The value of a header: of several lines, all of them with `, ` between (RFC 9110 section 5.3). None without a line.
pub(super) fn header<'v>(fields: &'v Fields, name: &FieldName) -> Option<Result<Value<'v>, Cow<'static, str>>> {
    let first = fields.first_named(name)?;
    if fields.all_named(name).nth(1).is_none() {
        return Some(text(first, "the header"));
    }
    let mut joined = Vec::new();
    for line in fields.all_named(name) {
        if !joined.is_empty() {
            joined.extend_from_slice(b", ");
        }
        joined.extend_from_slice(line);
    }
    let joined = String::from_utf8(joined).map(|text| Value::Text(text.into()));
    Some(joined.map_err(|_| Cow::Borrowed("the header is not UTF-8 text")))
}

/// Whether a query has the name.
pub(super) fn query_has(query: Option<&[u8]>, name: &str) -> bool {
    pairs(query).any(|(key, _)| decoded(key).is_some_and(|key| key == name))
}

/// The value of a name in a query, decoded. None when nobody wrote it. Written twice it has no one value, and an application may take
/// either: that is an error.
pub(super) fn query_value<'v>(query: Option<&'v [u8]>, name: &str) -> Option<Result<Value<'v>, Cow<'static, str>>> {
    let mut found = pairs(query).filter(|(key, _)| decoded(key).is_some_and(|key| key == name));
    let (_, value) = found.next()?;
    if found.next().is_some() {
        return Some(Err("the query has the name more than once".into()));
    }
    let value = decoded(value).map(|text| Value::Text(text.into()));
    Some(value.ok_or(Cow::Borrowed("the value in the query is not UTF-8 text")))
}

/// The names in a query, each once for every time that it is written.
pub(super) fn query_names(query: Option<&[u8]>) -> Vec<Value<'_>> {
    pairs(query).filter_map(|(key, _)| decoded(key)).map(|text| Value::Text(text.into())).collect()
}

fn pairs(query: Option<&[u8]>) -> impl Iterator<Item = (&[u8], &[u8])> {
    let parts = query.unwrap_or_default().split(|byte| *byte == b'&').filter(|part| !part.is_empty());
    parts.map(|part| match part.iter().position(|byte| *byte == b'=') {
        Some(at) => (&part[..at], &part[at + 1..]),
        None => (part, &[] as &[u8]),
    })
}

/// `%XX` and `+` of a form undone (WHATWG URL, application/x-www-form-urlencoded). None when the result is not UTF-8.
fn decoded(raw: &[u8]) -> Option<Cow<'_, str>> {
    if !raw.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return std::str::from_utf8(raw).ok().map(Cow::Borrowed);
    }
    String::from_utf8(form::decoded(raw, <[u8]>::to_vec)).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(query: &str, name: &str) -> Option<Result<String, String>> {
        let found = query_value(Some(query.as_bytes()), name)?;
        Some(match found {
            Ok(Value::Text(text)) => Ok(text.to_string()),
            Ok(other) => panic!("{other:?}"),
            Err(why) => Err(why.into_owned()),
        })
    }

    #[test]
    fn a_query_is_decoded_as_a_form() {
        assert_eq!(value("a=1&b=x%20y+z&c", "b"), Some(Ok("x y z".into())));
        assert_eq!(value("a=1&b=2&c", "c"), Some(Ok(String::new())));
        assert_eq!(value("%61=1", "a"), Some(Ok("1".into())));
        assert_eq!(value("a=%4", "a"), Some(Ok("%4".into())));
        assert_eq!(value("a=1", "b"), None);
        assert!(value("a=%ff", "a").expect("a value").is_err());
    }

    #[test]
    fn a_name_that_is_written_twice_has_no_value() {
        assert!(value("a=1&%61=2", "a").expect("a value").is_err());
        assert!(query_has(Some(b"a=1&a=2"), "a"));
    }
}
