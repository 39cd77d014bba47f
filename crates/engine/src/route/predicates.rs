//! What a match asks of a request besides its path: method, header fields, query parameters, and patterns of any kind.
//!
//! Compiled by `compile/routes.rs`, evaluated by `route::table` on the candidates that the path index found. Says which condition
//! failed, because `explain` wants to know; the answer borrows and costs nothing.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use regex::bytes::{Regex, RegexBuilder};
use smallvec::SmallVec;
use transept_wire::head::{FieldId, FieldName, Fields, Method, Request};

use crate::form;

/// The compiled size that one pattern may have, in bytes. Patterns are matched in linear time, whatever they are.
const PATTERN_SIZE: usize = 256 * 1024;

/// A pattern that must cover the whole text.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// Compiles a regular expression (RE2 syntax without look-around and back-references). It is anchored at both ends.
    ///
    /// # Errors
    /// What is wrong with it, in words that fit behind what it is called. It is not repeated: a header that it is about may be a credential.
    pub fn new(source: &str) -> Result<Pattern, String> {
        let compile = |expression: &str| {
            RegexBuilder::new(expression).size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE).build().map_err(
                |error| match error {
                    regex::Error::CompiledTooBig(limit) => {
                        format!("compiles to more than {limit} bytes as a regular expression")
                    }
                    _ => "is not a regular expression".to_owned(),
                },
            )
        };
        // First by itself: `a)|(b` is no expression, but it is one between our parentheses.
        compile(source)?;
        Ok(Pattern { source: source.into(), regex: compile(&format!(r"\A(?:{source})\z"))? })
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole text fits.
    pub fn fits(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }
}

/// How a text is compared.
#[derive(Clone, Debug)]
pub enum TextTest {
    /// Equal, byte by byte.
    Exact(Box<[u8]>),
    /// Fits a pattern as a whole.
    Pattern(Pattern),
}

impl TextTest {
    fn fits(&self, text: &[u8]) -> bool {
        match self {
            TextTest::Exact(wanted) => **wanted == *text,
            TextTest::Pattern(pattern) => pattern.fits(text),
        }
    }

    /// The text or pattern as written.
    pub fn source(&self) -> Cow<'_, str> {
        match self {
            TextTest::Exact(wanted) => String::from_utf8_lossy(wanted),
            TextTest::Pattern(pattern) => Cow::Borrowed(pattern.as_str()),
        }
    }
}

/// A condition on one header field. Several lines of the field are one value, joined by commas (RFC 9110 section 5.3).
#[derive(Clone, Debug)]
pub struct HeaderTest {
    /// The field.
    pub name: FieldName,
    /// What its value must be.
    pub value: TextTest,
}

/// A condition on one query parameter: its first value, percent-decoded.
#[derive(Clone, Debug)]
pub struct QueryTest {
    /// The parameter's name, case-sensitive.
    pub name: Box<[u8]>,
    /// What its value must be.
    pub value: TextTest,
}

/// A condition on the path that the index cannot hold.
#[derive(Clone, Debug)]
pub enum PathTest {
    /// The whole path fits a pattern.
    Pattern(Pattern),
    /// The path is `/service/method` and both parts fit; a missing test fits anything.
    Grpc {
        /// The service.
        service: Option<TextTest>,
        /// The method.
        method: Option<TextTest>,
    },
}

impl PathTest {
    fn fits(&self, path: &[u8]) -> bool {
        match self {
            PathTest::Pattern(pattern) => pattern.fits(path),
            PathTest::Grpc { service, method } => {
                let Some((asked_service, asked_method)) = split_grpc(path) else {
                    return false;
                };
                service.as_ref().is_none_or(|test| test.fits(asked_service))
                    && method.as_ref().is_none_or(|test| test.fits(asked_method))
            }
        }
    }
}

/// Splits the path of a gRPC call into service and method.
fn split_grpc(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = path.strip_prefix(b"/")?;
    let slash = rest.iter().position(|byte| *byte == b'/')?;
    let (service, method) = (rest.get(..slash)?, rest.get(slash + 1..)?);
    (!method.is_empty() && !method.contains(&b'/')).then_some((service, method))
}

/// Everything that a match asks besides what the path index holds. All conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct Predicates {
    /// The method.
    pub method: Option<Method>,
    /// Header fields.
    pub headers: Box<[HeaderTest]>,
    /// Query parameters.
    pub query: Box<[QueryTest]>,
    /// The path.
    pub path: Option<PathTest>,
}

/// The condition that a request did not meet.
#[derive(Clone, Copy, Debug)]
pub enum Lost<'a> {
    /// The method.
    Method(&'a Method),
    /// This header field.
    Header(&'a HeaderTest),
    /// This query parameter.
    Query(&'a QueryTest),
    /// The path.
    Path(&'a PathTest),
}

/// Whether a rule answers CORS preflights, and so must be found by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preflights {
    /// Compare the method that a preflight asks for.
    Answered,
    /// A preflight is a request like any other.
    Ordinary,
}

/// What most matches ask besides the path.
static NONE: LazyLock<Arc<Predicates>> = LazyLock::new(Arc::default);

impl Predicates {
    /// The same in shared memory, which is the same memory for all that ask nothing.
    pub(crate) fn shared(self) -> Arc<Predicates> {
        if self.is_empty() { Arc::clone(&NONE) } else { Arc::new(self) }
    }

    /// Whether there is no condition.
    pub fn is_empty(&self) -> bool {
        self.method.is_none() && self.headers.is_empty() && self.query.is_empty() && self.path.is_none()
    }

    /// The first condition that the request does not meet.
    pub(crate) fn lost(&self, request: &Request, preflights: Preflights) -> Option<Lost<'_>> {
        if let Some(method) = &self.method
            && *method != request.method
            && !(preflights == Preflights::Answered && is_preflight_for(request, method))
        {
            return Some(Lost::Method(method));
        }
        if let Some(path) = &self.path
            && !path.fits(request.path())
        {
            return Some(Lost::Path(path));
        }
        if let Some(test) = self.headers.iter().find(|test| !header_fits(&request.fields, test)) {
            return Some(Lost::Header(test));
        }
        let query = request.query().unwrap_or_default();
        self.query.iter().find(|test| !query_fits(query, test)).map(Lost::Query)
    }
}

/// Whether the request is a CORS preflight (Fetch, "CORS-preflight request") that asks for `method`.
fn is_preflight_for(request: &Request, method: &Method) -> bool {
    request.method == Method::Options
        && request.fields.contains(FieldId::ORIGIN)
        && request.fields.first(FieldId::ACCESS_CONTROL_REQUEST_METHOD) == Some(method.as_bytes())
}

fn header_fits(fields: &Fields, test: &HeaderTest) -> bool {
    let mut values = fields.all_named(&test.name);
    let Some(first) = values.next() else {
        return false;
    };
    let Some(second) = values.next() else {
        return test.value.fits(first);
    };
    let mut joined: SmallVec<[u8; 256]> = SmallVec::from_slice(first);
    for value in std::iter::once(second).chain(values) {
        joined.push(b',');
        joined.extend_from_slice(value);
    }
    test.value.fits(&joined)
}

fn query_fits(query: &[u8], test: &QueryTest) -> bool {
    let first = query.split(|byte| *byte == b'&').find_map(|pair| {
        let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (pair.get(..at)?, pair.get(at + 1..)?),
            None => (pair, &b""[..]),
        };
        form::decoded(name, |name| *name == *test.name).then_some(value)
    });
    first.is_some_and(|value| form::decoded(value, |value| test.value.fits(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(text: &str) -> TextTest {
        TextTest::Exact(text.as_bytes().into())
    }

    fn query(name: &str, value: TextTest) -> QueryTest {
        QueryTest { name: name.as_bytes().into(), value }
    }

    #[test]
    fn the_first_value_of_a_parameter_counts_and_is_decoded() {
        assert!(query_fits(b"animal=whale&animal=dog", &query("animal", exact("whale"))));
        assert!(!query_fits(b"animal=whale&animal=dog", &query("animal", exact("dog"))));
        assert!(query_fits(b"a%6eimal=blue%20whale", &query("animal", exact("blue whale"))));
        assert!(query_fits(b"animal=blue+whale", &query("animal", exact("blue whale"))));
        assert!(query_fits(b"x=%zz", &query("x", exact("%zz"))));
        assert!(!query_fits(b"Animal=whale", &query("animal", exact("whale"))));
        assert!(query_fits(b"flag", &query("flag", exact(""))));
    }

    #[test]
    fn all_lines_of_a_field_are_one_value() {
        let mut fields = Fields::new();
        let name = FieldName::new("X-Tags").expect("a token");
        fields.push(&name, b"a").expect("a value");
        let test = |value| HeaderTest { name: FieldName::new("x-tags").expect("a token"), value };
        assert!(header_fits(&fields, &test(exact("a"))));
        fields.push(&name, b"b").expect("a value");
        assert!(!header_fits(&fields, &test(exact("a"))));
        assert!(header_fits(&fields, &test(exact("a,b"))));
        assert!(header_fits(&fields, &test(TextTest::Pattern(Pattern::new("a,.").expect("a pattern")))));
    }

    #[test]
    fn patterns_are_anchored_and_bounded() {
        let pattern = Pattern::new("/v[12]|/beta").expect("a pattern");
        assert!(pattern.fits(b"/v1") && pattern.fits(b"/beta"));
        assert!(!pattern.fits(b"/v1/x") && !pattern.fits(b"x/beta"));
        assert!(Pattern::new("(").is_err());
        assert!(Pattern::new("((a{100}){100}){100}").is_err());
    }

    #[test]
    fn a_pattern_cannot_escape_its_anchors() {
        assert!(Pattern::new("a)|(b").is_err());
    }

    #[test]
    fn grpc_paths_have_two_parts() {
        assert_eq!(split_grpc(b"/a.B/C"), Some((&b"a.B"[..], &b"C"[..])));
        assert_eq!(split_grpc(b"/a.B/C/D"), None);
        assert_eq!(split_grpc(b"/a.B"), None);
        assert_eq!(split_grpc(b"/a.B/"), None);
    }
}
