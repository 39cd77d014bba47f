//! What policies write for many identities, paths or hosts at once: exact, or with one `*` at the end that is a whole segment.
//!
//! Called by the specs of policies. Anything else is refused when it is read, so that a pattern never means less than it seems to.

use serde_json::Value as Json;
use transept_model::place::Spot;
use transept_model::schema::{Decoder, Schema, Shape, Text};
use transept_model::secrecy::has_value;
use transept_model::value::{Value, quote, ticked};
use transept_wire::head::{FieldName, Method};
use transept_wire::normalize::{self, Normal, PathRules, Slashes};

use super::CompileCx;

/// Identities: a SPIFFE id or `namespace/account`, with `*` at the end perhaps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdentityPattern {
    text: Box<str>,
    /// Without the trust domain: `/ns/shop/sa/cart`; none for a pattern that names it.
    path: Option<Box<str>>,
}

/// Paths: exact, or `/cart/*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern(Box<str>);

/// Hosts: exact, or `*.shop.test`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern(Box<str>);

/// Names and values: exact, or with `*` at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NamePattern(Box<str>);

impl NamePattern {
    fn parse(text: &str) -> Result<NamePattern, &'static str> {
        match text.find('*') {
            Some(at) if at + 1 != text.len() => Err("a `*` stands at the end only"),
            _ if text.is_empty() => Err("write a name, or `*` for any"),
            _ => Ok(NamePattern(text.into())),
        }
    }

    /// Whether a name or a value fits.
    pub(super) fn matches(&self, text: &str) -> bool {
        fits(&self.0, text)
    }

    /// The pattern as it is written.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The only name that fits, if there is one.
    pub(super) fn exact(&self) -> Option<&str> {
        (!self.0.ends_with('*')).then_some(&*self.0)
    }

    /// Whether only members of the mesh have such names.
    pub(super) fn is_of_the_mesh(&self) -> bool {
        self.0.starts_with("spiffe:")
    }
}

/// Whether `text` is `pattern`, whose last character may stand for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => text == pattern,
    }
}

impl IdentityPattern {
    pub(crate) fn parse(text: &str) -> Result<IdentityPattern, &'static str> {
        let bare = text.strip_suffix('*').unwrap_or(text);
        if bare.contains('*') {
            return Err("a `*` stands at the end only");
        }
        if text == "*" || text.starts_with("spiffe://") {
            return Ok(IdentityPattern { text: text.into(), path: None });
        }
        match text.split_once('/') {
            Some((namespace, account))
                if !namespace.is_empty()
                    && !account.is_empty()
                    && !namespace.contains('*')
                    && !account.contains('/') =>
            {
                let path = format!("/ns/{namespace}/sa/{account}");
                Ok(IdentityPattern { text: text.into(), path: Some(path.into()) })
            }
            _ => Err(
                "write `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, `NAMESPACE/ACCOUNT`, or one of them with `*` at the end",
            ),
        }
    }

    /// Whether a verified identity fits.
    pub(crate) fn matches(&self, identity: &str) -> bool {
        match &self.path {
            None => fits(&self.text, identity),
            Some(wanted) => {
                let rest = identity.strip_prefix("spiffe://").unwrap_or_default();
                rest.find('/').and_then(|at| rest.get(at..)).is_some_and(|path| fits(wanted, path))
            }
        }
    }
}

impl PathPattern {
    fn parse(text: &str) -> Result<PathPattern, &'static str> {
        let bare = text.strip_suffix("/*").unwrap_or(text);
        if bare.contains('*') {
            return Err("a `*` stands at the end only, as a whole segment: `/cart/*`");
        }
        if !text.starts_with('/') {
            return Err("a path begins with `/`");
        }
        // Requests are compared in this form, so anything else would match nothing.
        let rules = PathRules { encoded_slash: Slashes::Keep, ..PathRules::default() };
        let whole = if bare.is_empty() { "/" } else { bare };
        match normalize::path(whole.as_bytes(), &rules, &mut Vec::new()) {
            Ok(Normal::Unchanged) => Ok(PathPattern(text.into())),
            Ok(Normal::Rewritten) | Err(_) => {
                Err("write the path as it is after normalisation: no `//`, no `..`, no needless `%`")
            }
        }
    }

    /// Whether a normalised path fits. `/cart/*` is `/cart` and everything below it.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        match self.0.strip_suffix("/*") {
            None => path == self.0.as_bytes(),
            Some(above) => {
                path.strip_prefix(above.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            }
        }
    }
}

impl HostPattern {
    fn parse(text: &str) -> Result<HostPattern, &'static str> {
        let bare = text.strip_prefix("*.").unwrap_or(text);
        if matches!(bare, "" | ".") || bare.contains(['*', '/', ':']) && bare.parse::<std::net::IpAddr>().is_err() {
            return Err("write a host without a port: `shop.test`, or `*.shop.test` for every name below it");
        }
        // Names of requests are compared without the dot of the root.
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.ends_with('.') {
            return Err("a name has one `.` at its end at most");
        }
        Ok(HostPattern(name.to_ascii_lowercase().into()))
    }

    /// Whether a host, lower-case and without port, fits.
    pub(super) fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            None => host == &*self.0,
            Some(below) => host.len() > below.len() && host.ends_with(below),
        }
    }
}

/// The name of a header field as it is written.
///
/// # Errors
/// Why it is none. It is not repeated where a value may stand behind it.
pub(crate) fn field_name(text: &str) -> Result<FieldName, String> {
    FieldName::new(text).map_err(|why| match has_value(text) {
        true => format!("what is written here is no name of a field: {why}"),
        false => format!("{}: {why}", ticked(text)),
    })
}

/// Methods as they are written. What is none, and what no request has, is refused.
pub(crate) fn methods(names: &[Text], at: Spot, cx: &mut CompileCx<'_>) -> Vec<Method> {
    let known = names.iter().filter_map(|name| {
        let known = Method::from_bytes(name.as_bytes());
        if known.is_none() {
            cx.refuse(at, format!("{} is not a method", ticked(name)));
        } else if name.bytes().any(|byte| byte.is_ascii_lowercase()) {
            // They are case-sensitive (RFC 9110 section 9.1), and no method that anybody uses has small letters.
            cx.refuse(at, format!("{} is no method that a request has", ticked(name)))
                .remedy(format!("write {}", ticked(&name.to_ascii_uppercase())));
        }
        known
    });
    known.collect()
}

/// Whether a program that does not know that methods are case-sensitive takes the one for the other.
pub(crate) fn is_method_alike(one: &Method, other: &Method) -> bool {
    one.as_bytes().eq_ignore_ascii_case(other.as_bytes())
}

macro_rules! text_schema {
    ($($type:ident, $what:literal, $field:tt;)*) => {$(
        impl Schema for $type {
            fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
                let Some(text) = value.text() else {
                    cx.expected(value, $what);
                    return None;
                };
                match $type::parse(text) {
                    Ok(pattern) => Some(pattern),
                    Err(remedy) => {
                        cx.refuse(value.at, format!("{} is not {}", quote(text), $what)).remedy(remedy);
                        None
                    }
                }
            }

            fn shape() -> Shape {
                Shape::Text
            }

            fn encode(&self) -> Json {
                self.$field.as_ref().into()
            }
        }
    )*};
}

text_schema! {
    IdentityPattern, "an identity", text;
    PathPattern, "a path", 0;
    HostPattern, "a host", 0;
    NamePattern, "a name", 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_in_full_and_in_short() {
        let cart = "spiffe://transept.local/ns/shop/sa/cart";
        let fits = |pattern: &str| IdentityPattern::parse(pattern).expect("a pattern").matches(cart);
        for good in [
            cart,
            "shop/cart",
            "shop/*",
            "shop/ca*",
            "*",
            "spiffe://transept.local/*",
            "spiffe://transept.local/ns/shop/sa/*",
        ] {
            assert!(fits(good), "{good}");
        }
        for wrong in [
            "shop/car",
            "shop/cart2",
            "sho/*",
            "desk/cart",
            "spiffe://other.local/*",
            "spiffe://transept.local/ns/shop/sa/car",
        ] {
            assert!(!fits(wrong), "{wrong}");
        }
        for odd in ["cart", "*/cart", "shop/", "/cart", "a/b/c", "sh*op/cart", ""] {
            assert!(IdentityPattern::parse(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_path_with_everything_below() {
        let fits = |pattern: &str, path: &str| PathPattern::parse(pattern).expect("a pattern").matches(path.as_bytes());
        assert!(fits("/admin", "/admin") && !fits("/admin", "/admin/") && !fits("/admin", "/admin/x"));
        assert!(fits("/admin/*", "/admin") && fits("/admin/*", "/admin/") && fits("/admin/*", "/admin/x/y"));
        assert!(!fits("/admin/*", "/administrator") && fits("/*", "/") && fits("/*", "/x"));
        for odd in ["admin", "/a*", "/a/*/b", "/a//b", "/a/../b", "/%61", "*"] {
            assert!(PathPattern::parse(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_name_or_every_one_that_begins_so() {
        let fits = |pattern: &str, name: &str| NamePattern::parse(pattern).expect("a pattern").matches(name);
        assert!(fits("ann", "ann") && !fits("ann", "anna") && fits("ann*", "anna") && fits("*", "x"));
        assert!(NamePattern::parse("a*b").is_err() && NamePattern::parse("").is_err());
    }

    #[test]
    fn a_host_or_every_name_below_it() {
        let fits = |pattern: &str, host: &str| HostPattern::parse(pattern).expect("a pattern").matches(host);
        assert!(fits("Shop.test", "shop.test") && !fits("shop.test", "a.shop.test"));
        assert!(
            fits("*.shop.test", "a.shop.test")
                && !fits("*.shop.test", "shop.test")
                && !fits("*.shop.test", ".shop.test")
        );
        assert!(fits("shop.test.", "shop.test") && fits("*.Shop.test.", "a.shop.test"));
        for odd in ["shop.test:80", "a*.test", "", "*.", "a/b", "shop.test..", ".", "*.."] {
            assert!(HostPattern::parse(odd).is_err(), "{odd}");
        }
    }
}
