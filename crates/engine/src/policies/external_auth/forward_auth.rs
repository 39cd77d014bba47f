//! The question over HTTP: the request itself, with some of its fields, and the answer by status.
//!
//! Called by `ExternalAuthPolicy`. What others call forward-auth: a status of 2xx lets the request pass, 5xx is no answer, everything else
//! is the refusal that the client gets.

use transept_model::kinds::filters::HttpAuthConfig;
use transept_model::value::ticked;
use transept_wire::head::{FieldId, FieldName, Method, Request};

use super::{Outcome, names};
use crate::callout::Answer;
use crate::exchange::Exchange;
use crate::ext_authz::{Change, Decision, How, may_change, rule_name};
use crate::redact::is_alike;

/// Compiled settings.
#[derive(Debug)]
pub(super) struct Settings {
    prefix: Box<str>,
    allowed: Vec<FieldName>,
    /// What of an answer goes on to the backend; all when there are none.
    answered: Vec<FieldName>,
    rule: FieldName,
}

/// What the service learns whatever the settings say (GEP-1494), beside method, path and host.
const ALWAYS: &[FieldId] = &[FieldId::AUTHORIZATION];

/// What of an answer is about the answer and not about the request.
const OF_THE_ANSWER: &[FieldId] = &[
    FieldId::DATE,
    FieldId::SERVER,
    FieldId::CONTENT_TYPE,
    FieldId::CONTENT_ENCODING,
    FieldId::SET_COOKIE,
    FieldId::CACHE_CONTROL,
];

impl Settings {
    pub(super) fn compile(config: Option<&HttpAuthConfig>) -> Result<Settings, String> {
        let prefix = config.and_then(|config| config.path.as_deref()).unwrap_or_default();
        if !prefix.is_empty() && !prefix.starts_with('/') {
            return Err(format!("{} is no path of the service: it does not begin with `/`", ticked(prefix)));
        }
        Ok(Settings {
            prefix: prefix.trim_end_matches('/').into(),
            allowed: names(config.map_or(&[], |config| &config.allowed_headers))?,
            answered: names(config.map_or(&[], |config| &config.allowed_response_headers))?,
            rule: FieldName::new("x-auth-rule").map_err(|why| why.to_string())?,
        })
    }

    /// The question. None when it cannot be put.
    pub(super) fn request(&self, x: &Exchange<'_>, body: Option<&[u8]>) -> Option<(Request, Vec<u8>)> {
        let from = &*x.request;
        let mut request = Request::new();
        // A tunnel is not opened to the service.
        request.method = if from.method.as_str() == "CONNECT" { Method::Get } else { from.method };
        request.set_scheme(b"http").ok()?;
        request.set_authority(from.authority()).ok()?;
        let path = if from.path().starts_with(b"/") { from.path() } else { b"/" };
        request.set_path(&[self.prefix.as_bytes(), path].concat()).ok()?;
        request.set_query(from.query()).ok()?;
        for (name, value) in from.fields.iter() {
            let Ok(name) = FieldName::new(name.as_str()) else { continue };
            if may_change(&name) && (ALWAYS.contains(&name.id()) || self.allowed.contains(&name)) {
                request.fields.push(&name, value).ok()?;
            }
        }
        let client = x.client.to_canonical().to_string();
        for (name, value) in [
            ("X-Forwarded-Method", from.method.as_bytes()),
            ("X-Forwarded-Proto", x.scheme().as_bytes()),
            ("X-Forwarded-Host", from.authority()),
            ("X-Forwarded-Uri", from.target()),
            ("X-Forwarded-For", client.as_bytes()),
        ] {
            request.fields.set(&FieldName::new(name).ok()?, value).ok()?;
        }
        if let (Some(_), Some(media_type)) = (body, from.fields.first(FieldId::CONTENT_TYPE)) {
            request.fields.set(&FieldName::known(FieldId::CONTENT_TYPE), media_type).ok()?;
        }
        Some((request, body.unwrap_or_default().to_vec()))
    }

    /// Whether nothing says which fields of an answer go on to the backend.
    pub(super) fn takes_any_answer(&self) -> bool {
        self.answered.is_empty()
    }

    /// What the answer means.
    pub(super) fn read(&self, answer: Answer) -> Outcome {
        let passes = (200..300).contains(&answer.status);
        if !passes && !(300..500).contains(&answer.status) {
            return Outcome::Failed(format!("its answer has the status {}", answer.status));
        }
        let mut decision = Decision {
            code: u64::from(!passes),
            status: answer.status,
            rule: answer
                .fields
                .first_named(&self.rule)
                .and_then(|value| std::str::from_utf8(value).ok())
                .and_then(rule_name),
            ..Decision::default()
        };
        for (name, value) in answer.fields.iter() {
            let Ok(name) = FieldName::new(name.as_str()) else { continue };
            if !may_change(&name) || name == self.rule {
                continue;
            }
            let is_wanted = match (passes, self.answered.is_empty()) {
                (false, _) => true,
                (true, true) => !OF_THE_ANSWER.contains(&name.id()),
                (true, false) => self.answered.contains(&name),
            };
            if is_wanted {
                // Of several lines of one field all are taken; what the client has written is replaced.
                let how = if decision.fields.iter().any(|change| change.name == name) { How::Add } else { How::Set };
                decision.fields.push(Change { name, value: value.to_vec(), how });
            }
        }
        if !passes {
            decision.body = String::from_utf8_lossy(&answer.body).into_owned();
        }
        Outcome::Decided(decision)
    }

    /// Removes what only the service may say, so that no client says it in its place.
    pub(super) fn clear(&self, request: &mut Request) {
        let is_answered =
            |field: &[u8]| self.answered.iter().find(|name| is_alike(name.as_bytes(), field)).is_some_and(may_change);
        if request.fields.iter().any(|(name, _)| is_answered(name.bytes)) {
            request.fields.retain(|name, _| !is_answered(name.bytes));
        }
    }
}
