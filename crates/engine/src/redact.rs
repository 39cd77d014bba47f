//! Where requests hold credentials, so that nothing that is written for people repeats them; and the parameters of queries.
//!
//! The policies of a snapshot say where they look for credentials. The access log and explanations leave out what stands there, on every
//! request of every listener: a key that was sent to the wrong host is a secret all the same.

use std::collections::BTreeSet;

use transept_wire::head::{FieldId, NameRef};

/// Where credentials stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialPlaces {
    /// Names of parameters of the query.
    pub parameters: BTreeSet<Box<str>>,
    /// Paths whose whole query is a credential, such as that to which an OpenID provider sends browsers back.
    pub paths: BTreeSet<Box<str>>,
    /// Names of header fields in lower case, besides `Authorization`, `Proxy-Authorization` and `Cookie`.
    pub fields: BTreeSet<Box<str>>,
}

/// What is written in place of a credential.
pub const HIDDEN: &[u8] = b"(hidden)";

impl CredentialPlaces {
    /// Writes a target (path and query) without the values of parameters that are credentials.
    pub fn write_target(&self, target: &[u8], out: &mut Vec<u8>) {
        let hides_some = !self.parameters.is_empty() || !self.paths.is_empty();
        let query = target.iter().position(|byte| *byte == b'?').filter(|_| hides_some);
        let Some(at) = query else {
            out.extend_from_slice(target);
            return;
        };
        let (path, query) = target.split_at(at);
        out.extend_from_slice(path);
        if self.paths.iter().any(|hidden| hidden.as_bytes() == path) {
            out.push(b'?');
            out.extend_from_slice(HIDDEN);
            return;
        }
        for (index, pair) in query.get(1..).unwrap_or_default().split(|byte| *byte == b'&').enumerate() {
            out.push(if index == 0 { b'?' } else { b'&' });
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
            if name.len() < pair.len() && self.parameters.iter().any(|hidden| is_named(name, hidden)) {
                out.extend_from_slice(name);
                out.push(b'=');
                out.extend_from_slice(HIDDEN);
            } else {
                out.extend_from_slice(pair);
            }
        }
    }

    /// Whether the value of a header field may be a credential.
    pub fn hides(&self, name: NameRef<'_>) -> bool {
        matches!(name.id, FieldId::AUTHORIZATION | FieldId::PROXY_AUTHORIZATION | FieldId::COOKIE)
            || self.fields.iter().any(|hidden| is_alike(hidden.as_bytes(), name.bytes))
            || (name.id == FieldId::OTHER && is_alike(b"proxy-authorization", name.bytes))
    }
}

/// Whether two names of fields are the same for programs that see no difference between `-` and `_`.
fn is_alike(one: &[u8], other: &[u8]) -> bool {
    let plain = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.iter().map(plain).eq(other.iter().map(plain))
}

/// The parameters of a query, as they were sent.
pub(crate) fn parameters(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.split(|byte| *byte == b'&').map(|pair| match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (pair.get(..at).unwrap_or_default(), pair.get(at + 1..).unwrap_or_default()),
        None => (pair, &b""[..]),
    })
}

/// Whether the name of a parameter, as it was sent, means `name`.
pub(crate) fn is_named(sent: &[u8], name: &str) -> bool {
    if !sent.contains(&b'%') && !sent.contains(&b'+') {
        return sent == name.as_bytes();
    }
    let mut decoded = Vec::with_capacity(sent.len());
    let mut rest = sent;
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let text = digits.filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        match text.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(if *first == b'+' { b' ' } else { *first });
                rest = behind;
            }
        }
    }
    decoded == name.as_bytes()
}

/// The query without the parameters of this name; none when there is none of them.
pub(crate) fn without_parameter(query: &[u8], name: &str) -> Option<Vec<u8>> {
    if !parameters(query).any(|(key, _)| is_named(key, name)) {
        return None;
    }
    let mut rest = Vec::with_capacity(query.len());
    for pair in query.split(|byte| *byte == b'&') {
        let key = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        if !is_named(key, name) {
            if !rest.is_empty() {
                rest.push(b'&');
            }
            rest.extend_from_slice(pair);
        }
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use transept_wire::head::{FieldName, Fields};

    use super::*;

    #[test]
    fn a_parameter_is_removed_however_its_name_is_spelled() {
        assert_eq!(without_parameter(b"a=1&k%65y=x&b=2&key=y", "key").as_deref(), Some(&b"a=1&b=2"[..]));
        assert_eq!(without_parameter(b"key=x", "key").as_deref(), Some(&b""[..]));
        assert_eq!(without_parameter(b"keys=x&%6&%+1", "key"), None);
    }

    #[test]
    fn a_field_is_hidden_however_its_name_is_spelled() {
        let places = CredentialPlaces { fields: ["x-api-key".into()].into(), ..CredentialPlaces::default() };
        let hides = |name: &str| {
            let name = FieldName::new(name).expect("a name");
            let mut fields = Fields::new();
            fields.push(&name, b"secret").expect("a field");
            fields.iter().all(|(name, _)| places.hides(name))
        };
        for name in ["X-API-Key", "x_api_key", "X-api_Key", "authorization", "Cookie", "Proxy_Authorization"] {
            assert!(hides(name), "{name}");
        }
        for name in ["x-api-keys", "xapikey", "x-api.key"] {
            assert!(!hides(name), "{name}");
        }
    }

    #[test]
    fn a_target_is_written_without_what_is_secret() {
        let places = CredentialPlaces { parameters: ["key".into()].into(), ..CredentialPlaces::default() };
        let written = |target: &str| {
            let mut out = Vec::new();
            places.write_target(target.as_bytes(), &mut out);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(written("/a?x=1&key=secret&%6bey=secret"), "/a?x=1&key=(hidden)&%6bey=(hidden)");
        assert_eq!(written("/key=1"), "/key=1");
        assert_eq!(written("/?"), "/?");
        assert_eq!(written("/?key&keys=1"), "/?key&keys=1");
        let places = CredentialPlaces { paths: ["/back".into()].into(), ..CredentialPlaces::default() };
        let mut out = Vec::new();
        places.write_target(b"/back?code=secret&state=secret", &mut out);
        places.write_target(b"/backs?code=404", &mut out);
        assert_eq!(String::from_utf8_lossy(&out), "/back?(hidden)/backs?code=404");
    }
}
