//! What the API answers: JSON, and problem documents (RFC 9457) with codes that stay.
//!
//! Used by `routes` alone. Every refusal has one line in the table below.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::plane::core::lease::Denied;
use crate::plane::registry::Refused;

/// Where the codes are described.
const REASONS: &str = "https://transept.dev/reasons/";
/// In how many seconds to ask again when nothing can be stored.
const AGAIN: u64 = 5;

pub(super) type Answer = Response<Full<Bytes>>;

/// Why something is not done.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    /// Everything that is wrong with what was to be registered.
    errors: Vec<Value>,
    /// The methods of the path.
    allow: Option<&'static str>,
    /// In how many seconds to ask again.
    again: Option<u64>,
}

impl Problem {
    fn new(status: u16, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code, title, detail: detail.into(), errors: Vec::new(), allow: None, again: None }
    }

    pub(super) fn no_path() -> Self {
        let paths = "/healthz, /v1/namespaces/NAMESPACE/workloads[/NAME[/beat]]";
        Self::new(404, "registration.path_unknown", "There is nothing at this path", format!("the paths are: {paths}"))
    }

    pub(super) fn method(allow: &'static str) -> Self {
        let detail = format!("this path has: {allow}");
        let problem = Self::new(405, "registration.method_refused", "This path has no such method", detail);
        Self { allow: Some(allow), ..problem }
    }

    pub(super) fn too_large(most: usize) -> Self {
        let detail = format!("a registration has at most {most} bytes");
        Self::new(413, "registration.body_too_large", "Content too large", detail)
    }

    pub(super) fn too_many(wait: Duration) -> Self {
        let again = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let detail = "this address asks more often than `transept control --api-rate` allows; nothing has changed";
        let problem = Self::new(429, "registration.too_many_requests", "Too many requests", detail);
        Self { again: Some(again.max(1)), ..problem }
    }

    pub(super) fn too_slow() -> Self {
        Self::new(408, "registration.body_timeout", "The request content took too long", "")
    }

    pub(super) fn no_json(why: impl Into<String>) -> Self {
        Self::new(400, "registration.body_malformed", "The content is no JSON object", why)
    }

    pub(super) fn bad_key(most: usize) -> Self {
        let detail = format!("`Idempotency-Key` has between 1 and {most} characters");
        Self::new(400, "registration.key_invalid", "Invalid `Idempotency-Key`", detail)
    }

    pub(super) fn invalid(errors: Vec<Value>) -> Self {
        let first = |field: &str| errors.first().and_then(|one| one[field].as_str()).unwrap_or_default();
        let detail = match (first("field"), first("remedy")) {
            ("", _) => first("why").to_owned(),
            (field, "") => format!("{field}: {}", first("why")),
            (field, remedy) => format!("{field}: {}; {remedy}", first("why")),
        };
        Self { errors, ..Self::new(422, "registration.invalid", "This workload is not valid", detail) }
    }

    pub(super) fn unauthenticated(why: &'static str) -> Self {
        Self::new(401, "registration.unauthenticated", "A join token or a lease is needed", why)
    }

    pub(super) fn denied(why: impl Into<String>) -> Self {
        Self::new(403, "registration.denied", "This is not yours to register", why)
    }

    pub(super) fn not_found(namespace: &str, name: &str) -> Self {
        let detail = format!("there is no {namespace}/{name}");
        Self::new(404, "registration.not_found", "No such workload is registered", detail)
    }

    pub(super) fn failed() -> Self {
        Self::new(500, "registration.failed", "The control plane failed", "the log of the control plane says why")
    }

    pub(super) fn answer(self) -> Answer {
        let mut problem = json!({
            "type": format!("{REASONS}{}", self.code),
            "title": self.title,
            "status": self.status.as_u16(),
            "code": self.code,
        });
        if !self.detail.is_empty() {
            problem["detail"] = self.detail.into();
        }
        if !self.errors.is_empty() {
            problem["errors"] = self.errors.into();
        }
        let mut answer = page(self.status, "application/problem+json", format!("{problem}\n"));
        let fields = answer.headers_mut();
        if let Some(allow) = self.allow {
            fields.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"transept\""));
        }
        if let Some(again) = self.again {
            fields.insert(RETRY_AFTER, HeaderValue::from(again));
        }
        answer
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Token(why) => Self::new(401, why.slug(), "This join token is not good", why.to_string()),
            Denied::Lease => {
                let why = "it is wrong, belongs to another instance, or ended more than a day ago; register with a join token";
                Self::new(401, "lease.unknown", "This lease is not known", why)
            }
            Denied::Refused(Refused::NotAllowed(why)) => Self::denied(why),
            Denied::Refused(Refused::Wrong(why)) => Self::invalid(vec![json!({"field": "", "why": why})]),
            Denied::Refused(taken @ (Refused::Taken | Refused::Kept | Refused::Left)) => {
                Self::new(409, "registration.name_taken", "This name is taken", taken.to_string())
            }
            Denied::Ended => {
                let why = "it was silent for too long, or has taken itself out; register again with the same lease";
                Self::new(404, "registration.ended", "This registration has ended", why)
            }
            Denied::Store => {
                let why = "nothing has changed; ask again";
                let problem =
                    Self::new(503, "registration.not_stored", "The control plane cannot store anything now", why);
                Self { again: Some(AGAIN), ..problem }
            }
            Denied::Random => Self::failed(),
        }
    }
}

/// An answer in JSON.
pub(super) fn show(status: StatusCode, value: &Value) -> Answer {
    page(status, "application/json", format!("{value}\n"))
}

/// An answer without content.
pub(super) fn done() -> Answer {
    let mut answer = page(StatusCode::NO_CONTENT, "application/json", String::new());
    answer.headers_mut().remove(CONTENT_TYPE);
    answer
}

/// Any answer; none may be kept, because some hold secrets.
pub(super) fn page(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_should_ask_again_is_told_when() {
        let many = |millis| Problem::too_many(Duration::from_millis(millis));
        for (problem, status, again) in
            [(Denied::Store.into(), 503, "5"), (many(1), 429, "1"), (many(1001), 429, "2"), (many(0), 429, "1")]
        {
            let answer = problem.answer();
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()), Some(again));
        }
        assert!(Problem::from(Denied::Ended).answer().headers().get(RETRY_AFTER).is_none());
    }
}
