//! `CORS` (GEP-1767, WHATWG Fetch "CORS protocol"): preflights are answered here, other responses are marked.
//!
//! Called by `screen` on the request side and by `relay` on the response side, for replies of the gateway too: a browser that cannot
//! read a 401 sees a network error instead. Whether an origin may do what it asks is decided by the browser; a gateway that leaves the
//! fields out says no.

use transept_wire::head::{FieldId, FieldName, Fields, Method, Response};

use crate::exchange::{self, CorsNote, Exchange};
use crate::reason::Reason;
use crate::verdict::Reply;

/// A compiled CORS filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Who may ask.
    pub origins: Box<[Origin]>,
    /// Methods besides the safelisted ones.
    pub methods: List,
    /// Request header fields besides the safelisted ones.
    pub headers: List,
    /// Response header fields that scripts may read.
    pub expose: List,
    /// Whether credentials may come along.
    pub credentials: Credentials,
    /// How long browsers may remember a preflight, in seconds.
    pub max_age: u32,
}

/// Whether credentials may come along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// `Access-Control-Allow-Credentials: true`.
    Allowed,
    /// The field is left out.
    #[default]
    Forbidden,
}

/// An origin that may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `*`.
    Any,
    /// Exactly this one, whatever its letters' case.
    Exact(Box<str>),
    /// `front*back`; the star stands for one or more characters of a host.
    Wildcard {
        /// Before the star, such as `https://`.
        front: Box<str>,
        /// After the star, such as `.example.com:8443`.
        back: Box<str>,
    },
}

/// Names in a CORS field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum List {
    /// No names: the field is left out.
    #[default]
    None,
    /// `*`.
    Any,
    /// These, as the field is sent.
    Names(Box<str>),
}

impl List {
    /// Joins names; `*` among them is any.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> List {
        let names: Vec<&str> = names.into_iter().collect();
        if names.contains(&"*") {
            List::Any
        } else if names.is_empty() {
            List::None
        } else {
            List::Names(names.join(", ").into())
        }
    }
}

impl Origin {
    /// Reads an origin as configured.
    pub fn new(written: &str) -> Origin {
        match written.split_once('*') {
            Some(("", "")) => Origin::Any,
            Some((front, back)) => Origin::Wildcard { front: front.into(), back: back.into() },
            None => Origin::Exact(written.into()),
        }
    }

    fn fits(&self, origin: &[u8]) -> bool {
        match self {
            Origin::Any => true,
            Origin::Exact(wanted) => origin.eq_ignore_ascii_case(wanted.as_bytes()),
            Origin::Wildcard { front, back } => {
                let Some(middle) = origin.len().checked_sub(front.len() + back.len()) else {
                    return false;
                };
                let (head, rest) = origin.split_at(front.len());
                let (star, tail) = rest.split_at(middle);
                !star.is_empty()
                    && head.eq_ignore_ascii_case(front.as_bytes())
                    && tail.eq_ignore_ascii_case(back.as_bytes())
                    && star.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
            }
        }
    }
}

static ALLOW_ORIGIN: FieldName = FieldName::known(FieldId::ACCESS_CONTROL_ALLOW_ORIGIN);
static ALLOW_CREDENTIALS: FieldName = FieldName::known(FieldId::ACCESS_CONTROL_ALLOW_CREDENTIALS);
static ALLOW_METHODS: FieldName = FieldName::known(FieldId::ACCESS_CONTROL_ALLOW_METHODS);
static ALLOW_HEADERS: FieldName = FieldName::known(FieldId::ACCESS_CONTROL_ALLOW_HEADERS);
static EXPOSE_HEADERS: FieldName = FieldName::known(FieldId::ACCESS_CONTROL_EXPOSE_HEADERS);
static MAX_AGE: FieldName = FieldName::known(FieldId::ACCESS_CONTROL_MAX_AGE);
static VARY: FieldName = FieldName::known(FieldId::VARY);

impl Cors {
    /// Looks at a request: notes what its response needs, and answers it when it is a preflight.
    pub(crate) fn meet(&self, x: &mut Exchange<'_>) -> Option<Reply> {
        x.notes.cors.origin_is = exchange::Origin::Refused;
        let origin = x.request.fields.first(FieldId::ORIGIN)?;
        let allowed = self.origins.iter().any(|candidate| candidate.fits(origin));
        let is_preflight =
            x.request.method == Method::Options && x.request.fields.contains(FieldId::ACCESS_CONTROL_REQUEST_METHOD);
        if allowed {
            let answer: &[u8] = if self.answers_any() { b"*" } else { origin };
            let note = &mut x.notes.cors;
            note.origin_is = exchange::Origin::Allowed;
            note.answer.clear();
            note.answer.extend_from_slice(answer);
        }
        match (is_preflight, allowed) {
            (false, _) => None,
            (true, true) => Some(self.preflight(&x.request.fields)),
            (true, false) => Some(Reply::new(Reason::CorsOriginDenied).with_detail(
                "The origin of this page may not use this resource. Add it to allowOrigins of the route's CORS filter.",
            )),
        }
    }

    /// Whether every origin gets the same answer, `*`; with credentials the origin must be named (Fetch 3.2.5).
    fn answers_any(&self) -> bool {
        self.credentials == Credentials::Forbidden && self.origins.contains(&Origin::Any)
    }

    /// The answer to a preflight; [`Cors::mark`] adds the fields that all responses carry.
    fn preflight(&self, asked: &Fields) -> Reply {
        let mut reply = Reply::new(Reason::CorsPreflight).without_body();
        let mut add = |name: &FieldName, list: &List, wanted: FieldId| {
            let value: Option<&[u8]> = match (list, self.credentials) {
                (List::None, _) => None,
                (List::Names(names), _) => Some(names.as_bytes()),
                (List::Any, Credentials::Forbidden) => Some(b"*"),
                // With credentials `*` is a name like any other, so what is asked for is echoed.
                (List::Any, Credentials::Allowed) => asked.first(wanted),
            };
            if let Some(value) = value {
                reply.fields.push((name.clone(), value.to_vec()));
            }
        };
        add(&ALLOW_METHODS, &self.methods, FieldId::ACCESS_CONTROL_REQUEST_METHOD);
        add(&ALLOW_HEADERS, &self.headers, FieldId::ACCESS_CONTROL_REQUEST_HEADERS);
        reply.fields.push((MAX_AGE.clone(), self.max_age.to_string().into_bytes()));
        reply
    }

    /// Marks a response, the backend's or our own, for the origin that asked. What the backend said itself is replaced.
    pub(crate) fn mark(&self, note: &CorsNote, response: &mut Response) {
        let fields = &mut response.fields;
        for id in [
            FieldId::ACCESS_CONTROL_ALLOW_ORIGIN,
            FieldId::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            FieldId::ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            fields.remove_id(id);
        }
        if !self.answers_any() && !varies_by_origin(fields) {
            let _ = fields.push(&VARY, b"Origin");
        }
        if note.origin_is == exchange::Origin::Refused {
            return;
        }
        // The origin came out of a request head, so it is a valid field value.
        let _ = fields.push(&ALLOW_ORIGIN, &note.answer);
        if self.credentials == Credentials::Allowed {
            let _ = fields.push(&ALLOW_CREDENTIALS, b"true");
        }
        match (&self.expose, self.credentials) {
            (List::None, _) => {}
            (List::Names(names), _) => {
                let _ = fields.push(&EXPOSE_HEADERS, names.as_bytes());
            }
            (List::Any, Credentials::Forbidden) => {
                let _ = fields.push(&EXPOSE_HEADERS, b"*");
            }
            (List::Any, Credentials::Allowed) => {
                let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
                let names = names.join(", ");
                let _ = fields.push(&EXPOSE_HEADERS, names.as_bytes());
            }
        }
    }
}

fn varies_by_origin(fields: &Fields) -> bool {
    fields
        .all(FieldId::VARY)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let wildcard = Origin::new("https://*.bar.com");
        assert!(wildcard.fits(b"https://www.bar.com"));
        assert!(wildcard.fits(b"https://xpto.www.bar.com"));
        assert!(!wildcard.fits(b"https://bar.com"));
        assert!(!wildcard.fits(b"https://.bar.com"));
        assert!(!wildcard.fits(b"http://www.bar.com"));
        assert!(!wildcard.fits(b"https://evil.com/.bar.com"));
        assert!(!wildcard.fits(b"https://www.bar.com:8443"));
        assert!(Origin::new("https://*.bar.com:8443").fits(b"https://www.bar.com:8443"));
        assert!(Origin::new("*").fits(b"null"));
        assert!(Origin::new("https://Foo.com").fits(b"https://foo.com"));
        assert!(!Origin::new("https://foo.com").fits(b"https://foo.com.evil.com"));
    }

    #[test]
    fn a_star_is_never_sent_with_credentials() {
        let cors = Cors {
            origins: [Origin::Any].into(),
            methods: List::Any,
            headers: List::Any,
            credentials: Credentials::Allowed,
            ..Cors::default()
        };
        assert!(!cors.answers_any());
        let mut asked = Fields::new();
        asked.push_bytes(b"access-control-request-method", b"PUT").expect("a field");
        let reply = cors.preflight(&asked);
        let values: Vec<_> = reply.fields.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        assert_eq!(values, [("access-control-allow-methods", &b"PUT"[..]), ("access-control-max-age", b"0")]);
    }

    #[test]
    fn what_the_backend_says_about_origins_is_replaced() {
        let cors = Cors { origins: [Origin::new("https://a.test")].into(), ..Cors::default() };
        let mut response = Response::new(200);
        response.fields.push(&ALLOW_ORIGIN, b"*").expect("a value");
        response.fields.push(&VARY, b"Accept, origin").expect("a value");
        cors.mark(&CorsNote::default(), &mut response);
        assert_eq!(response.fields.len(), 1);
        let note = CorsNote { origin_is: exchange::Origin::Allowed, answer: b"https://a.test".to_vec() };
        cors.mark(&note, &mut response);
        assert_eq!(response.fields.first(FieldId::ACCESS_CONTROL_ALLOW_ORIGIN), Some(&b"https://a.test"[..]));
    }
}
