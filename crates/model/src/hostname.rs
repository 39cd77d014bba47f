//! Host names as listeners and routes write them: exact (`shop.test`) or wildcard (`*.shop.test`).
//!
//! Called by `attach` (which names a route gets on a listener) and by the engine (which listener or route gets a
//! request). Names are kept in lower case. Taking a host out of a request (ports, trailing dots) is left to the caller.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::value::quote;

/// A host name pattern of Gateway API: an exact DNS name, or a wildcard `*.` followed by one.
///
/// A wildcard stands for one or more labels and never for the name behind it: `*.shop.test` matches `a.shop.test` and
/// `a.b.shop.test`, not `shop.test`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Hostname(Arc<str>);

/// Why a text is not a host name pattern. Displays as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadHostname(String);

impl fmt::Display for BadHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadHostname {}

impl Hostname {
    /// Reads an exact or wildcard name; upper case is accepted and lowered.
    ///
    /// # Errors
    /// An empty name, an IP address, a port, a `*` anywhere but as the whole first label, a label that is not RFC 1123
    /// (letters, digits and inner hyphens, 1 to 63 of them), or more than 253 characters.
    pub fn parse(text: &str) -> Result<Self, BadHostname> {
        let refuse = |why: &str| Err(BadHostname(format!("{} is not a host name: {why}", quote(text))));
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > 253 {
            return refuse("it is longer than 253 characters");
        }
        if text.parse::<IpAddr>().is_ok() {
            return refuse("it is an IP address");
        }
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        if name == "*" {
            return refuse("write `*.` and a domain, or leave the name out to match every host");
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > 63 {
                return refuse("each label needs 1 to 63 characters");
            }
            let bytes = label.as_bytes();
            if bytes.first() == Some(&b'-') || bytes.last() == Some(&b'-') {
                return refuse("a label must not start or end with a hyphen");
            }
            if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') {
                return refuse("only letters, digits, hyphens and dots may stand in it");
            }
        }
        Ok(Self(lower.into()))
    }

    /// The pattern in lower case, with its `*.` if it is a wildcard.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a wildcard.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// The domain behind the `*.` of a wildcard; nothing for an exact name.
    pub fn wildcard_domain(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }

    /// Whether `host` (lower case, without port) is covered.
    pub fn matches(&self, host: &str) -> bool {
        match self.wildcard_domain() {
            None => &*self.0 == host,
            Some(domain) => lies_below(host, domain),
        }
    }

    /// Whether every host that `other` covers is covered by `self` too.
    pub fn covers(&self, other: &Hostname) -> bool {
        match (self.wildcard_domain(), other.wildcard_domain()) {
            (None, None) => self == other,
            (None, Some(_)) => false,
            (Some(domain), None) => lies_below(&other.0, domain),
            (Some(domain), Some(inner)) => domain == inner || lies_below(inner, domain),
        }
    }

    /// What both patterns cover: always one of the two, the more specific one.
    pub fn intersection(&self, other: &Hostname) -> Option<Hostname> {
        if self.covers(other) {
            Some(other.clone())
        } else if other.covers(self) {
            Some(self.clone())
        } else {
            None
        }
    }

    /// Orders patterns for matching: exact names first, then wildcards with more labels, then by text, so that the order
    /// is total.
    pub fn cmp_specificity(&self, other: &Hostname) -> Ordering {
        let rank =
            |name: &Hostname| (name.is_wildcard(), std::cmp::Reverse(name.0.bytes().filter(|b| *b == b'.').count()));
        rank(self).cmp(&rank(other)).then_with(|| self.0.cmp(&other.0))
    }
}

fn lies_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).and_then(|front| front.strip_suffix('.')).is_some_and(|labels| !labels.is_empty())
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Hostname {
        Hostname::parse(text).unwrap()
    }

    #[test]
    fn a_wildcard_spans_labels_but_not_the_apex() {
        let wild = name("*.Example.com");
        assert!(wild.matches("a.example.com"));
        assert!(wild.matches("a.b.example.com"));
        assert!(!wild.matches("example.com"));
        assert!(!wild.matches(".example.com"));
        assert!(!wild.matches("aexample.com"));
        assert!(name("example.com").matches("example.com"));
        assert!(!name("example.com").matches("a.example.com"));
    }

    #[test]
    fn the_intersection_is_the_more_specific_name() {
        for (one, other, both) in [
            ("very.specific.com", "very.specific.com", Some("very.specific.com")),
            ("*.specific.com", "very.specific.com", Some("very.specific.com")),
            ("*.com", "*.a.com", Some("*.a.com")),
            ("*.a.com", "*.a.com", Some("*.a.com")),
            ("*.a.com", "a.com", None),
            ("*.a.com", "*.b.com", None),
            ("a.com", "b.com", None),
            ("*.a.com", "*.ba.com", None),
        ] {
            let expected = both.map(name);
            assert_eq!(name(one).intersection(&name(other)), expected, "{one} and {other}");
            assert_eq!(name(other).intersection(&name(one)), expected, "{other} and {one}");
        }
    }

    #[test]
    fn specific_names_come_first() {
        let mut names: Vec<_> =
            ["*.com", "*.foo.example.com", "b.com", "*.example.com", "a.b.c.com"].into_iter().map(name).collect();
        names.sort_by(Hostname::cmp_specificity);
        let names: Vec<_> = names.iter().map(Hostname::as_str).collect();
        assert_eq!(names, ["a.b.c.com", "b.com", "*.foo.example.com", "*.example.com", "*.com"]);
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for text in [
            "", "*", "*.", "a..b", ".a", "a.", "10.0.0.1", "::1", "a:80", "a_b.com", "-a.com", "a-.com", "a.*.com",
            "*a.com", "ä.com",
        ] {
            assert!(Hostname::parse(text).is_err(), "{text}");
        }
        assert!(Hostname::parse(&"a".repeat(64)).is_err());
        assert!(Hostname::parse(&"a.".repeat(130)).is_err());
    }
}
